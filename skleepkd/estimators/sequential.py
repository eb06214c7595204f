"""What a stager of sequences does: one answer an epoch from all windows that hold it."""

import numpy as np
import torch

from skleepkd.estimators.batches import WindowDataset
from skleepkd.sequences import FUSIONS, Fusion, find_runs, make_windows


def check_sequences(length, fusion, neighbours):
    """Refuse parameters of sequences that mean nothing.

    Parameters
    ----------
    length, neighbours : int
        Epochs in a window, and neighbouring windows that a batch holds together.
    fusion : str
        How the answers of windows become one.
    """
    for name, value in (("sequence_length", length), ("neighbouring_windows", neighbours)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is a whole number, 1 at least; given {value!r}.")
    if fusion not in FUSIONS:
        raise ValueError(
            f"fusion is one of {', '.join(map(repr, FUSIONS))}; given {fusion!r}."
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
    """Windows of a pair that a network can be trained on.

    Parameters
    ----------
    pair : PairedEpochs
        With recordings.
    length : int
        Epochs in a window; runs that are shorter are left out.

    Returns
    -------
    ndarray of int, shape (n_windows, length)

    Raises
    ------
    ValueError
        If recordings are not known, or no run is long enough.
    """
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
    """Windows that hold every epoch of a pair, shorter ones for short runs.

    Parameters
    ----------
    pair : PairedEpochs
        One recording where they are not known.
    length : int
        Epochs in a window.

    Returns
    -------
    ndarray of int, shape (n_windows, length)
    """
    people = pair.subject
    if pair.recording is None and people is not None and len(np.unique(people)) > 1:
        raise ValueError(
            "X holds several people and no recordings, so it is not known which epochs "
            "follow one another. Give a PairedEpochs with recording=, or one night at a time."
        )
    return make_windows(_runs(pair), length, short=True)


def predict_windows(stager, pair, windows, share):
    """Ask a fitted stager about windows.

    Parameters
    ----------
    stager : SleepStager
        Fitted.
    pair : PairedEpochs
        Checked.
    windows : ndarray of int, shape (n_windows, length)
        Of :func:`predicted_windows`.
    share : bool
        Whether each epoch is encoded once.

    Yields
    ------
    numbers : ndarray of int, shape (batch,)
        Which windows.
    windows : ndarray of int, shape (batch, length)
        Their rows, without filling.
    logits : torch.Tensor of shape (batch, n_classes, length)
    """
    dataset = WindowDataset(pair.target_epochs, windows, share=share)
    loader = stager.get_iterator(dataset, training=False)
    # The loader's own batches tell which windows they hold.
    for numbers, batch in zip(loader.batch_sampler, loader, strict=True):
        rows = windows[numbers]
        yield numbers, rows[:, rows[0] >= 0], stager.evaluation_step(batch)


def fused_probabilities(stager, pair, share):
    """Probabilities of each epoch, fused from all windows that hold it.

    Parameters
    ----------
    stager, pair, share
        As for :func:`predict_windows`.

    Returns
    -------
    ndarray of float32, shape (n_epochs, n_classes)
    """
    windows = predicted_windows(pair, stager.sequence_length_)
    nonlinearity = stager._get_predict_nonlinearity()
    fused = Fusion(len(pair), len(stager.classes_), stager.fusion)
    for _, rows, logits in predict_windows(stager, pair, windows, share):
        fused.add(rows, nonlinearity(logits).cpu().numpy())
    return fused.answer().astype(np.float32)


def centred_features(stager, pair, layer):
    """Features of each epoch, from the window in which it is nearest to the middle.

    Parameters
    ----------
    stager, pair
        As for :func:`predict_windows`.
    layer : str
        Name of the layer.

    Returns
    -------
    ndarray of shape (n_epochs, ...)
    """
    windows = predicted_windows(pair, stager.sequence_length_)
    axis = sequence_axis(stager, pair, layer)
    nearest = np.full(len(pair), np.inf)
    answer = None
    with stager.capture([layer]) as seen:
        for _, rows, _ in predict_windows(stager, pair, windows, share=False):
            found = _by_epoch(seen[layer], axis, rows.shape).cpu().numpy()
            if answer is None:
                answer = np.empty((len(pair), *found.shape[2:]), dtype=found.dtype)
            distance = np.abs(np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2)
            for row, window in zip(rows, found, strict=True):
                nearer = distance < nearest[row]
                nearest[row[nearer]] = distance[nearer]
                answer[row[nearer]] = window[nearer]
    return answer


def sequence_axis(stager, pair, layer):
    """Axis of a layer's answer along which the epochs of a window lie.

    It is found by asking about one window of two epochs and one of three: 0 where epochs
    are strung together with the batch, 1 for (batch, sequence, ...), else the time axis.
    """
    shapes = []
    for length in (2, 3):
        epochs = torch.zeros((1, length, *pair.shape[1:]))
        with stager.capture([layer]) as seen:
            stager.evaluation_step(({"target": epochs}, torch.zeros(1, length)))
        shapes.append(seen[layer].shape)
    differ = [
        axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1
    ]
    if len(differ) != 1:
        raise ValueError(
            f"The layer {layer!r} answers a window of two epochs with the shape "
            f"{tuple(shapes[0])} and one of three with {tuple(shapes[1])}: it has no features "
            "of single epochs. Name another layer."
        )
    return differ[0]


def _by_epoch(features, axis, shape):
    """Part a layer's answer by epochs: (batch, length, ...)."""
    batch, length = shape
    if axis == 0:
        return features.unflatten(0, (batch, length))
    # (batch, ..., length * steps, ...) -> (batch, ..., length, steps, ...)
    features = features.unflatten(axis, (length, -1)).movedim(axis, 1)
    return features.squeeze(axis + 1) if features.shape[axis + 1] == 1 else features
