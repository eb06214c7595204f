"""What a stager of sequences does: one output an epoch from all windows that hold it."""

import warnings

import numpy as np
import torch

from skleepkd.distillation.features import capture_of
from skleepkd.networks.build import feature_layers
from skleepkd.sequences import FUSIONS, Fusion, find_runs, make_windows


def check_sequences(stager):
    """Refuse parameters of sequences that mean nothing."""
    sizes = {
        "sequence_length": stager.sequence_length_,
        "neighbouring_windows": stager.neighbouring_windows,
    }
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is a whole number, 1 at least; given {value!r}.")
    if stager.fusion not in FUSIONS:
        raise ValueError(
            f"fusion is one of {', '.join(map(repr, FUSIONS))}; given {stager.fusion!r}."
        )
    if stager.sequence_length_ > 1 and stager.train_split is not None:
        raise ValueError(
            "train_split parts rows, and the windows of sequences overlap: give "
            "validation= (subjects) with a sequence_length above 1."
        )


def check_windows(stager, pair, scored):
    """Refuse sequences where nothing is left to train on, or to validate with."""
    length = stager.sequence_length_
    windows = training_windows(pair, length)
    known = len(np.unique(pair.recording))
    left = known - len(np.unique(pair.recording[windows]))
    if left:
        warnings.warn(
            f"{left} of {known} recordings have no {length} consecutive epochs "
            "(sequence_length), and are not learned from.",
            stacklevel=4,
        )
    windows = windows[scored[windows].any(axis=1)]
    validates = stager.validates(pair)[windows[:, 0]]
    sides = {"to train on": ~validates}
    if len(stager.held_out_):
        sides[f"of those held out ({', '.join(map(str, stager.held_out_))})"] = validates
    for who, rows in sides.items():
        if not rows.any():
            raise ValueError(
                f"No {length} consecutive epochs (sequence_length), one of them scored, are "
                f"there in the subjects {who}. Give whole nights, a smaller sequence_length "
                "or another validation=."
            )


def _runs(pair):
    """Find the runs of consecutive epochs of a pair, each of one person."""
    if pair.recording is not None and pair.subject is not None:
        nights, first, codes = np.unique(
            pair.recording, return_index=True, return_inverse=True
        )
        others = pair.subject != pair.subject[first[codes]]
        if others.any():
            raise ValueError(
                f"The recording {nights[codes[others].min()]!s} is of several people. Give "
                "each recording a name of its own, or sequences would run from one to another."
            )
    return find_runs(pair.recording, pair.onset, len(pair))


def training_windows(pair, length):
    """Windows of a pair, (n_windows, length), that a network can be trained on."""
    if pair.recording is None:
        raise ValueError(
            f"sequence_length={length} needs to know which epochs follow one another: give "
            "a PairedEpochs with recording= (and onset=, which tells of gaps)."
        )
    runs = _runs(pair)
    windows = make_windows(runs, length)
    if not len(windows):
        longest = max(map(len, runs))
        raise ValueError(
            f"No recording has {length} consecutive epochs (sequence_length); the longest "
            f"run has {longest}. Give whole nights with their unscored epochs (y is -1 "
            "there), or a smaller sequence_length."
        )
    return windows


def predicted_windows(pair, length):
    """Windows that hold every epoch of a pair, filled up with -1 for short runs."""
    people = pair.subject
    if pair.recording is None and people is not None and len(np.unique(people)) > 1:
        raise ValueError(
            "X holds several people and no recordings, so it is not known which epochs "
            "follow one another. Give a PairedEpochs with recording=, or one night at a time."
        )
    return make_windows(_runs(pair), length, short=True)


def fused_probabilities(stager, pair):
    """Probabilities of each epoch, fused from all windows that hold it."""
    nonlinearity = stager._get_predict_nonlinearity()
    fused = Fusion(len(pair), len(stager.classes_), stager.fusion)
    for rows, logits in _predict_windows(stager, stager.make_dataset(pair)):
        fused.add(rows, nonlinearity(logits).cpu().numpy())
    return fused.answer().astype(np.float32)


def centred_features(stager, pair, layer):
    """Features of each epoch, from the window in which it is nearest to the middle."""
    windows = predicted_windows(pair, stager.sequence_length_)
    dataset = stager.make_dataset(pair, windows=windows)
    axis = _sequence_axis(stager, pair, layer)
    nearest = np.full(len(pair), np.inf)
    features = None
    with capture_of(stager, [layer]) as seen:
        for rows, _ in _predict_windows(stager, dataset):
            found = _by_epoch(seen[layer], axis, rows.shape).cpu().numpy()
            if features is None:
                features = np.empty((len(pair), *found.shape[2:]), dtype=found.dtype)
            distance = np.abs(np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2)
            for row, window in zip(rows, found, strict=True):
                nearer = distance < nearest[row]
                nearest[row[nearer]] = distance[nearer]
                features[row[nearer]] = window[nearer]
    return features


def extract_features(stager, X, layer=None):
    """Return the output of a layer of the network.

    Parameters
    ----------
    X
        As for :meth:`predict_proba`.
    layer : str, optional
        Dotted name of the layer; by default the (first) layer that the network
        declares in ``feature_layers``.

    Returns
    -------
    ndarray of shape (n_epochs, ...)
        With a ``sequence_length`` above 1, of each epoch from the window in which it is
        nearest to the middle.
    """
    stager.check_is_fitted()
    if layer is None:
        layer = feature_layers(stager.module_)[0]
    pair = stager.check_predicted(X)
    if stager.sequence_length_ > 1:
        return centred_features(stager, pair, layer)
    parts = []
    for batch in stager.get_iterator(stager.make_dataset(pair), training=False):
        with capture_of(stager, [layer]) as seen:
            stager.evaluation_step(batch)
        parts.append(seen[layer].cpu().numpy())
    return np.concatenate(parts)


def _predict_windows(stager, dataset):
    """Yield the rows of batches of windows, without filling, and their logits."""
    loader = stager.get_iterator(dataset, training=False)
    # The loader's own batches tell which windows they hold.
    for numbers, batch in zip(loader.batch_sampler, loader, strict=True):
        rows = dataset.windows[numbers]
        yield rows[:, rows[0] >= 0], stager.evaluation_step(batch)


def _sequence_axis(stager, pair, layer):
    """Axis of a layer's output along which the epochs of a window lie.

    Windows of two epochs and of three tell: 0 where epochs are strung together with the
    batch, 1 for (batch, sequence, ...), else the time axis.
    """
    shapes = []
    for length in (2, 3):
        epochs = torch.zeros((1, length, *pair.shape[1:]))
        with capture_of(stager, [layer]) as seen:
            stager.evaluation_step(({"target": epochs}, torch.zeros(1, length)))
        shapes.append(seen[layer].shape)
    differ = [
        axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1
    ]
    if len(differ) != 1:
        raise ValueError(
            f"The output of the layer {layer!r} has the shape {tuple(shapes[0])} for a window "
            f"of two epochs and {tuple(shapes[1])} for one of three: it has no features of "
            "single epochs. Name another layer."
        )
    return differ[0]


def _by_epoch(features, axis, shape):
    """Part a layer's output by epochs: (batch, length, ...)."""
    batch, length = shape
    if axis == 0:
        # (batch * length, ...) -> (batch, length, ...)
        return features.unflatten(0, (batch, length))
    # (batch, ..., length * steps, ...) -> (batch, length, ..., steps, ...)
    features = features.unflatten(axis, (length, -1)).movedim(axis, 1)
    return features.squeeze(axis + 1) if features.shape[axis + 1] == 1 else features
