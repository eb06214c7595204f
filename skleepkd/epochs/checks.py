"""The door: what users give for epochs and stages is checked here, and nowhere behind."""

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from skorch.utils import is_dataset

from skleepkd.epochs.channels import FLAT_VOLTS, VOLTS_BELOW
from skleepkd.epochs.paired import PairedEpochs
from skleepkd.epochs.rows import numbers_of
from skleepkd.stages import MISSING, UNSCORED, check_present, is_unscored
from skleepkd.warn import warn

#: The spread of a signal is measured on about so many epochs, evenly spaced.
SAMPLED_EPOCHS = 256
#: How many times more or less a channel may spread than where a stager was fitted.
_SPREAD_AGREES = 5


def training_input(X, y, X_source=None, groups=None, *, source_for=None, why_labels=""):
    """Take what ``fit`` is given as a checked pair and its labels (see :func:`check_labels`)."""
    if getattr(y, "ndim", 1) > 2 or hasattr(y, "get_data"):
        raise ValueError(
            f"y is one stage for each epoch; given {type(y).__name__}, signals. Of two signals: "
            "fit(X, y, X_source=source), or fit(PairedEpochs(target, source=source), y)."
        )
    if getattr(X_source, "ndim", 3) == 1:
        raise ValueError(
            "X_source is the source's signal; given one value for each epoch. Subjects go by "
            "name: fit(X, y, groups=subjects)."
        )
    pair = as_pair(X, X_source, groups)
    if source_for is not None and not pair.has_source:
        raise ValueError(
            f"{source_for} needs the teacher's signal: a PairedEpochs with a source, or X_source=."
        )
    y = check_labels(y, len(pair), why_labels)
    check_signal(pair, "target")
    if source_for is not None:
        check_signal(pair, "source")
    return pair, y


def predicted_input(X, stager):
    """Take what a stager predicts as a checked pair, alike to what it was fitted to."""
    pair = as_pair(X)
    epoch_shape, ch_names = stager.epoch_shape_, stager.ch_names_
    sfreq = stager.signal_.get("sfreq")
    fitted, given = (
        f"{shape[0]} channel(s) and {', '.join(map(str, shape[1:]))} samples"
        for shape in (epoch_shape, pair.shape[1:])
    )
    if fitted != given:
        raise ValueError(
            f"This stager was fitted to epochs of {fitted}; given {given}. (A 2-D array is "
            "taken for epochs of one channel; a single epoch is X[None].)"
        )
    names, rate = pair.ch_names["target"], pair.sfreq["target"]
    if names and ch_names and list(names) != list(ch_names):
        warn(
            f"This stager was fitted to the channels {', '.join(ch_names)}; given "
            f"{', '.join(names)}. Of a pair it takes the target: a teacher predicts "
            "X.source_epochs."
        )
    if rate and sfreq and not np.isclose(rate, sfreq):
        raise ValueError(
            f"This stager was fitted to {sfreq:g} Hz; given epochs at {rate:g} Hz. "
            "Resample them."
        )
    if not len(pair):
        raise ValueError("X holds no epochs.")
    check_signal(pair, "target")
    spreads = zip(stager.spread_ or (), typical_spread(pair) or (), strict=True)
    for number, (fitted, given) in enumerate(spreads):
        if fitted and given and spreads_unlike(given, fitted):
            warn(
                f"Channel {names[number] if names else number} spreads over {given:.2g} in an "
                f"epoch; over {fitted:.2g} where this stager was fitted. Is it in the same unit "
                "(microvolts, of a voltage), of the same derivation, filtered and scaled alike?"
            )
    return pair


def spreads_unlike(given, fitted):
    """Whether spreads are far from those that a stager was fitted to."""
    return (given > _SPREAD_AGREES * fitted) | (_SPREAD_AGREES * given < fitted)


def typical_spread(pair):
    """Median deviation of some epochs by channel, None where flat; None of spectrograms."""
    if pair.ndim != 3:
        return None
    sample = np.arange(0, len(pair), max(1, len(pair) // 64))
    spread = pair.read("target", sample).std(axis=2)  # (n_sampled, n_channels)
    found = [column[column >= 1e6 * FLAT_VOLTS] for column in spread.T]
    return [float(np.median(column)) if len(column) else None for column in found]


def as_pair(X, X_source=None, groups=None):
    """Take a pair, ``mne.Epochs`` or arrays (of two axes: one channel) as a pair, unchecked."""
    pair = _one(X, "target")
    if X_source is not None:
        source = _one(X_source, "source")
        if pair.has_source or source.has_source:
            raise ValueError(
                f"The source is given twice: {'X' if pair.has_source else 'X_source'} is a "
                "pair that has one. Give the whole pair as X, or X.target_epochs as X and "
                "X.source_epochs as X_source."
            )
        pair = pair.replace(source=source)
        pair = _with_subjects(pair, source.subject, "X_source")
    if groups is not None:
        groups = check_present(groups, "groups")
        if groups.shape != (len(pair),):
            raise ValueError(
                f"groups names the subject of each epoch: expected shape ({len(pair)},), "
                f"given {groups.shape}."
            )
    return _with_subjects(pair, groups, "groups")


def _one(X, name):
    if isinstance(X, PairedEpochs):
        return X
    # scikit-learn slices mne.Epochs into a list of them.
    first = X[0] if isinstance(X, list | tuple) and len(X) else X
    if hasattr(first, "get_data") and hasattr(first, "events"):
        return PairedEpochs.from_mne(X)
    if hasattr(X, "get_metadata") and hasattr(X, "datasets"):  # of braindecode
        return PairedEpochs.from_windows(X)
    X = numbers_of(X, name)
    # (n_epochs, n_times) -> (n_epochs, 1, n_times)
    return PairedEpochs(X[:, None] if X.ndim == 2 else X)


def is_ready(X):
    """Whether X is a data set of batches, which is not checked; braindecode's has a reading."""
    return is_dataset(X) and not hasattr(X, "get_metadata")


def _with_subjects(pair, subjects, name):
    """Name the subjects of a pair, or hold those it knows against others."""
    if subjects is None:
        return pair
    if pair.subject is None:
        return pair.with_subject(subjects)
    if not same_people(pair.subject, subjects):
        raise ValueError(
            f"{name} and the pair's own subjects disagree on which epochs belong together. "
            "Leave one of them out, or correct it."
        )
    return pair


def same_people(one, other):
    """Whether two columns put the same rows together, whatever their names for them."""
    # Numbered as they first appear, the two are one column.
    return np.array_equal(pd.factorize(one)[0], pd.factorize(other)[0])


def check_labels(y, n_epochs, why_labels=""):
    """Take labels as an array of codes or names; None if none is scored and ``why_labels`` is."""
    if y is None and why_labels is None:
        return None
    if y is None:
        raise ValueError(
            "A stager requires y to be passed, but the target y is None; give the stage of "
            f"each epoch, -1 or '?' where unscored. {why_labels}".rstrip()
        )
    if np.ma.is_masked(y):
        raise ValueError("y has masked values; unscored epochs are -1: y.filled(-1).")
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.dtype == object:
        y = _of_one_kind(y)
    if y.shape != (n_epochs,):
        raise ValueError(f"y has shape {y.shape}; X has {n_epochs} epochs, one label each.")
    if y.dtype.kind == "S":
        y = y.astype(str)
    if y.dtype.kind == "U" and np.isin(y, MISSING).any():
        raise ValueError(
            'y holds missing values as text ("nan"); an unscored epoch is "?".'
        )
    if y.dtype.kind == "f":
        if not np.array_equal(y, np.floor(y)):
            raise ValueError(
                "Unknown label type: continuous. y holds stages (whole codes or names); "
                "given fractions or NaN."
            )
        y = y.astype(np.int64)
    if y.dtype.kind in "iu" and np.any(y < UNSCORED):
        raise ValueError(
            f"Unknown stage {y.min()} in y; the code of an unscored epoch is -1."
        )
    if is_unscored(y).all():
        if why_labels is None:
            return None
        given = f"None of the {n_epochs} epochs is scored: nothing to learn or judge."
        raise ValueError(f"{given} {why_labels}".rstrip())
    return y


def scored_accuracy(predicted, y, classes, sample_weight=None):
    """Check labels, and return the accuracy of predictions over those that somebody scored."""
    y = check_labels(y, len(predicted))
    scored = ~is_unscored(y) | np.isin(y, classes)
    weight = None if sample_weight is None else np.asarray(sample_weight)[scored]
    return accuracy_score(y[scored], predicted[scored], sample_weight=weight)


def _of_one_kind(y):
    """Take an array of objects for what its values are: all integers, or all names."""
    for kind, dtype in (((int, np.integer), np.int64), (str, str)):
        if all(isinstance(label, kind) for label in y.flat):
            return y.astype(dtype)
    kinds = sorted({type(label).__name__ for label in y.flat})
    raise ValueError(
        f"y mixes {' and '.join(kinds)}: stages are all codes (-1 where unscored) or all "
        'names ("?" where unscored).'
    )


def check_signal(pair, modality, name=None):
    """Refuse NaN and volts; warn of channels that are flat in every epoch.

    Every value is read once, for NaN. The spread of signals of three axes, microvolts
    (spectrograms are not), is measured on a sample of epochs.
    """
    name = name or modality
    for rows, block in pair.blocks(modality):
        if not _is_finite(block):
            finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            raise ValueError(
                f"The {name} holds NaN or infinite values, first in epoch "
                f"{rows.start + int(np.argmin(finite))}. Drop or repair such epochs first."
            )
    n_epochs = len(pair)
    signal = pair.read(modality, slice(0, 1))
    if signal.ndim != 3 or not n_epochs:
        return
    sample = np.arange(0, n_epochs, max(1, n_epochs // SAMPLED_EPOCHS))
    spread = _spreads(pair.read(modality, sample))
    moving = spread[spread > 0]
    if len(moving) and np.median(moving) < VOLTS_BELOW:
        raise ValueError(
            f"The {name} looks like volts (median spread of an epoch {np.median(moving):.2g}); "
            "microvolts are expected. Multiply by 1e6, or use PairedEpochs.from_mne. Scale what "
            "is no voltage (acceleration in g) first: make_pipeline(RecordingScaler(), stager)."
        )
    flat = np.flatnonzero((spread < 1e6 * FLAT_VOLTS).all(axis=0)) if n_epochs > 1 else []
    if len(flat):
        for _, block in pair.blocks(modality):
            flat = flat[(_spreads(block[:, flat]) < 1e6 * FLAT_VOLTS).all(axis=0)]
    if len(flat):
        known = pair.ch_names[modality]
        which = ", ".join(str(known[k] if known else k) for k in flat)
        warn(
            f"The {name} has no signal in channel {which}: it is flat in all of "
            f"{n_epochs} epochs, or in volts. Was the electrode connected?"
        )


def _spreads(block):
    """Deviations by epoch and channel; over all epochs where they hold one value each."""
    return block.std(axis=0 if block.shape[2] == 1 else 2).reshape(-1, block.shape[1])


def _is_finite(block):
    """Whether all values are finite; a sum of squares, which is quicker, keeps every NaN."""
    if block.flags.c_contiguous and block.dtype in (np.float32, np.float64):
        values = block.reshape(-1)  # (all values,)
        if np.isfinite(np.dot(values, values)):
            return True
    return bool(np.isfinite(block).all())
