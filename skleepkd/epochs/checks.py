"""What users give for epochs, taken as a pair and checked."""

import warnings

import numpy as np

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.builders import FLAT_VOLTS, in_volts
from skleepkd.epochs.rows import numbers_of


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
        If the two are unequal, the source is given twice, or ``groups`` (or the persons
        of ``X_source``) contradict the pair's own subjects.
    """
    pair = _one(X, "target")
    if X_source is not None:
        source = _one(X_source, "source")
        if pair.has_source or source.has_source:
            raise ValueError(
                f"The source is given twice: {'X' if pair.has_source else 'X_source'} is a "
                "pair that has one. Give the whole pair as X, or the target as X and the "
                "source alone as X_source (of a pair: X.target_epochs, X.source_epochs)."
            )
        if len(source) != len(pair):
            raise ValueError(
                f"The pair is unequal: X has {len(pair)} epochs and X_source has "
                f"{len(source)}. Row i of both must be the same 30 s."
            )
        pair = pair.replace(source=source)
        pair = _with_people(pair, source.subject, "X_source")
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != (len(pair),):
            raise ValueError(
                f"groups names the person of each epoch: expected shape ({len(pair)},), "
                f"given {groups.shape}."
            )
    return _with_people(pair, groups, "groups")


def _with_people(pair, people, name):
    """Name the persons of a pair, or hold those it knows against others."""
    if people is None:
        return pair
    if pair.subject is None:
        return pair.with_subject(people)
    if not same_people(pair.subject, people):
        raise ValueError(
            f"{name} and the pair's own subjects disagree on which epochs belong to one "
            "person. Leave one of them out, or correct it."
        )
    return pair


def same_people(one, other):
    """Whether two columns put the same rows together, whatever their names for them."""
    both = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(both) == len({name for name, _ in both}) == len({name for _, name in both})


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
        If a value is NaN or infinite, or a signal of three axes looks like volts (what
        was made of a signal, as a spectrogram, has other units).

    Warns
    -----
    UserWarning
        If a channel of a signal of three axes is flat in every epoch.
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
        if block.ndim == 3:
            spread.append(block.std(axis=2))
    if not spread:
        return
    spread = np.concatenate(spread)  # (n_epochs, n_channels)
    if in_volts(spread.ravel()):
        raise ValueError(
            f"The {name} looks like volts (median spread of an epoch "
            f"{np.median(spread):.2g}); microvolts are expected. Multiply by "
            "1e6, or build the pair with PairedEpochs.from_mne, which converts."
        )
    flat = (
        np.flatnonzero((spread < 1e6 * FLAT_VOLTS).all(axis=0)) if len(spread) > 1 else []
    )
    if len(flat):
        known = pair.ch_names[modality]
        which = ", ".join(str(known[k] if known else k) for k in flat)
        warnings.warn(
            f"The {name} has no signal in channel {which}: it is flat in all of "
            f"{len(spread)} epochs. Was the electrode connected?",
            stacklevel=5,
        )


def _one(X, name):
    """Take an array, an ``mne.Epochs`` or a pair as a pair."""
    if isinstance(X, PairedEpochs):
        return X
    if hasattr(X, "get_data") and hasattr(X, "events"):
        return PairedEpochs.from_mne(X, target=X.ch_names)
    X = numbers_of(X, name)
    # (n_epochs, n_times) -> (n_epochs, 1, n_times)
    return PairedEpochs(X[:, None] if X.ndim == 2 else X)
