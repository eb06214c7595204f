"""What users give for epochs, taken as a pair and checked."""

import numpy as np

from skleepkd.epochs import PairedEpochs

#: EEG, EOG, EMG and ECG epochs spread over microvolts; a spread below this is volts.
_VOLTS_BELOW = 5e-3


def as_pair(X, X_source=None, groups=None):
    """Take whatever a user may give for epochs as a pair.

    Parameters
    ----------
    X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
        The target (or the whole pair). A 2-D array is one channel.
    X_source : the same, optional
        The source of the same epochs.
    groups : array-like of shape (n_epochs,), optional
        The person of each epoch.

    Returns
    -------
    PairedEpochs

    Raises
    ------
    ValueError
        If the two are unequal, the source is given twice, or ``groups`` contradict
        the pair's own subjects.
    """
    pair = X if isinstance(X, PairedEpochs) else PairedEpochs(**_one_array(X))
    if X_source is not None:
        if pair.has_source:
            raise ValueError(
                "The source is given twice: X is a pair that has one, and X_source= is "
                "given too. Leave one of them out."
            )
        if isinstance(X_source, PairedEpochs):
            given = {"target": X_source["target"], "sfreq": X_source.sfreq["target"]}
        else:
            given = _one_array(X_source)
        if len(given["target"]) != len(pair):
            raise ValueError(
                f"The pair is unequal: X has {len(pair)} epochs and X_source has "
                f"{len(given['target'])}. Row i of both must be the same 30 s."
            )
        joined = pair.replace(source=given["target"])
        joined._sfreq["source"] = given.get("sfreq")
        pair = joined
    if groups is None:
        return pair
    groups = np.asarray(groups)
    if groups.shape != (len(pair),):
        raise ValueError(
            f"groups names the person of each epoch: expected shape ({len(pair)},), given "
            f"{groups.shape}."
        )
    if pair.subject is None:
        return pair.with_subject(groups)
    both = {(own, given) for own, given in zip(pair.subject, groups, strict=True)}
    if not len(both) == len({own for own, _ in both}) == len({given for _, given in both}):
        raise ValueError(
            "groups and the pair's own subjects disagree on which epochs belong to one "
            "person. Leave groups out, or correct one of them."
        )
    return pair


def check_signal(pair, modality, name=None):
    """Refuse epochs that no network could learn from.

    Parameters
    ----------
    pair : PairedEpochs
        The epochs.
    modality : {"target", "source"}
        What to check, in blocks.
    name : str, optional
        What the user calls it, for the message.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or the signal looks like volts.
    """
    name = name or modality
    spread = []
    for rows, block in pair.blocks(modality):
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            row = rows.start + int(np.argmin(finite))
            raise ValueError(
                f"The {name} holds NaN or infinite values, first in epoch {row}. Drop "
                "or repair such epochs before fitting."
            )
        spread.append(block.std(axis=2).ravel())
    if spread and _in_volts(np.concatenate(spread)):
        raise ValueError(
            f"The {name} looks like volts (median spread of an epoch "
            f"{np.median(np.concatenate(spread)):.2g}); microvolts are expected. Multiply by "
            "1e6, or build the pair with PairedEpochs.from_mne, which converts."
        )


def to_microvolts(array, unit):
    """Scale float32 epochs in place to microvolts.

    Parameters
    ----------
    array : ndarray of shape (n_epochs, n_channels, n_times)
        In volts or microvolts.
    unit : {"auto", "V", "uV"}
        What it is in; "auto" takes for volts what looks like volts.

    Returns
    -------
    ndarray
        The same array, in microvolts.
    """
    if unit not in ("auto", "V", "uV"):
        raise ValueError(f"unit is 'auto', 'V' or 'uV'; given {unit!r}.")
    if unit == "V" or (unit == "auto" and _in_volts(array.std(axis=2).ravel())):
        array *= 1e6
    return array


def _in_volts(spread):
    """Judge by the median spread of the epochs and channels that are not flat."""
    spread = spread[spread > 0]
    return len(spread) > 0 and np.median(spread) < _VOLTS_BELOW


def _one_array(X):
    """Arguments of PairedEpochs for an array or an ``mne.Epochs``."""
    if hasattr(X, "get_data") and hasattr(X, "info"):
        data = X.get_data(copy=False).astype(np.float32)
        return {
            "target": to_microvolts(data, "V"),
            "sfreq": X.info["sfreq"],
            "ch_names": {"target": X.ch_names},
        }
    X = np.asarray(X)
    if X.dtype.kind not in "fiu":
        raise ValueError(f"Epochs are numbers; given an array of {X.dtype}.")
    if X.ndim == 2:
        X = X[:, None]  # (n_epochs, n_times) -> (n_epochs, 1, n_times)
    return {"target": X}
