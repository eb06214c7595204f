"""What a fitted stager puts out: fused probabilities, features and the hypnodensity."""

import math
import numbers

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from skleepkd.distillation.features import capture_of
from skleepkd.epochs.checks import as_pair
from skleepkd.estimators.batches import EpochDataset, predicted_windows
from skleepkd.networks.build import check_output, feature_layers, segment, uncompiled
from skleepkd.sequences import ONSET_TOLERANCE, Fusion, find_runs
from skleepkd.stages import EPOCH_SECONDS

#: Joined epochs that the network reads at a time: the window of the original U-Time.
JOINED_EPOCHS = 35


def check_network(stager):
    """Refuse a network that puts out no logits of stages, where the criterion takes them."""
    criterion = uncompiled(stager.criterion_)
    own = stager.predict_nonlinearity in (None, "auto")
    of_logits = isinstance(criterion, nn.CrossEntropyLoss)
    of_stages = of_logits or isinstance(criterion, nn.NLLLoss)
    # With a loss of the user's own, what a network of single epochs puts out is theirs too.
    if stager.sequence_length_ > 1 or of_stages:
        as_in_skorch = "criterion=torch.nn.NLLLoss, predict_nonlinearity=None"
        line = as_in_skorch if of_logits or (of_stages and not own) else None
        shape, length = stager.epoch_shape_, stager.sequence_length_
        check_output(uncompiled(stager.module_), shape, len(stager.classes_), length, line)


def predict_pair(stager, pair):
    """Predict the probabilities of a checked pair."""
    if stager.sequence_length_ == 1:
        dataset = stager.make_dataset(pair)
        probabilities = NeuralNetClassifier.predict_proba(stager, dataset)
    else:
        probabilities = _fused_probabilities(stager, pair)
    if np.isnan(probabilities).any():
        raise FloatingPointError(
            "The network's output is NaN, as its training diverged. Fit it anew with a "
            f"lower learning rate (lr is {stager.lr!r}), or look for extreme values in X."
        )
    return probabilities


def _fused_probabilities(stager, pair):
    """Probabilities of each epoch, fused from all windows that hold it."""
    nonlinearity = stager._get_predict_nonlinearity()
    fused = Fusion(len(pair), len(stager.classes_), stager.fusion)
    for rows, logits in _predict_windows(stager, stager.make_dataset(pair)):
        fused.add(rows, nonlinearity(logits).cpu().numpy())
    return fused.answer().astype(np.float32)


def logits_of(stager, pair):
    """Yield rows (n_windows, length) and logits (n_windows, n_classes, length), on the CPU."""
    dataset = stager.make_dataset(pair)
    if stager.sequence_length_ == 1:
        yield np.arange(len(pair))[:, None], stager.forward(dataset).double()[..., None]
        return
    for rows, logits in _predict_windows(stager, dataset):
        yield rows, logits.cpu().double()


def _predict_windows(stager, dataset):
    """Yield the rows of batches of windows, without filling, and their logits."""
    loader = stager.get_iterator(dataset, training=False)
    # The loader's own batches tell which windows they hold.
    for which, batch in zip(loader.batch_sampler, loader, strict=True):
        rows = dataset.rows[which]
        yield rows[:, rows[0] >= 0], stager.evaluation_step(batch)


def extract_features(stager, X, layer=None):
    """Return the output of a layer of the network.

    Parameters
    ----------
    X
        As for :meth:`fit`.
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
    layer = layer or feature_layers(stager.module_)[0]
    pair = stager.check_predicted(X)
    if stager.sequence_length_ > 1:
        return _centred_features(stager, pair, layer)
    parts = []
    for batch in stager.get_iterator(stager.make_dataset(pair), training=False):
        with capture_of(stager, [layer]) as seen:
            stager.evaluation_step(batch)
        parts.append(seen[layer].cpu().numpy())
    return np.concatenate(parts)


def _centred_features(stager, pair, layer):
    windows = predicted_windows(pair, stager.sequence_length_)
    dataset = stager.make_dataset(pair, windows=windows)
    axis = _sequence_axis(stager, pair, layer)
    nearest, features = np.full(len(pair), np.inf), None
    with capture_of(stager, [layer]) as seen:
        for rows, _ in _predict_windows(stager, dataset):
            found = seen[layer]
            if axis == 0:
                # (batch * length, ...) -> (batch, length, ...)
                found = found.unflatten(0, rows.shape)
            else:
                # (batch, ..., length * steps, ...) -> (batch, length, ..., steps, ...)
                found = found.unflatten(axis, (rows.shape[1], -1)).movedim(axis, 1)
                if found.shape[axis + 1] == 1:
                    found = found.squeeze(axis + 1)
            found = found.cpu().numpy()
            if features is None:
                features = np.empty((len(pair), *found.shape[2:]), dtype=found.dtype)
            distance = np.abs(np.arange(rows.shape[1]) - (rows.shape[1] - 1) / 2)
            for row, window in zip(rows, found, strict=True):
                nearer = distance < nearest[row]
                nearest[row[nearer]] = distance[nearer]
                features[row[nearer]] = window[nearer]
    return features


def _sequence_axis(stager, pair, layer):
    """Find the axis of a layer's output that grows from windows of two epochs to three."""
    shapes = []
    for length in (2, 3):
        epochs = torch.zeros((1, length, *pair.shape[1:]))
        with capture_of(stager, [layer]) as seen:
            stager.evaluation_step(({"target": epochs}, torch.zeros(1, length)))
        shapes.append(tuple(seen[layer].shape))
    two, three = shapes
    differ = [axis for axis in range(len(two)) if two[axis] != three[axis]]
    if len(differ) != 1:
        raise ValueError(
            f"The output of the layer {layer!r} has the shape {two} for a window of two "
            f"epochs and {three} for three: no features of single epochs. Name another layer."
        )
    return differ[0]


def hypnodensity(stager, X, resolution=30.0, return_onset=False):
    """Probability of each stage every ``resolution`` seconds.

    Parameters
    ----------
    X
        As for :meth:`fit`.
    resolution : float, default=30.0
        Seconds for each output, a whole number of samples. Where it divides 30 s, each
        epoch is predicted by itself, in the order of X. Where it does not (20 s),
        consecutive epochs of a recording are joined: X is a ``PairedEpochs`` that
        knows ``recording`` and ``onset``, and outputs come recording by recording in
        the order of their names and of time.
    return_onset : bool, default=False
        Whether to return the onsets too.

    Returns
    -------
    probabilities : ndarray of shape (n_outputs, n_classes)
        Columns in the order of ``classes_``; at 30 s, those of ``predict_proba``.
    onset : ndarray of shape (n_outputs,)
        Only if ``return_onset``: when each output's time begins, in seconds from the
        recording's start. Where X has no onsets, from its first row, epochs following
        one another.

    Raises
    ------
    ValueError
        If the network predicts whole epochs alone ("UTime", braindecode's "USleep" and
        networks with a method ``segment`` do not), if the resolution is no whole
        number of samples, or if epochs are to be joined and X does not say which
        follow one another, or they overlap.

    Notes
    -----
    A gap in the onsets ends a joined signal; what remains there and is shorter than
    ``resolution`` has no output. Joined epochs are read in pieces of about 35, beyond
    whose ends convolutions see zeros. A stager of sequences joins epochs at every
    resolution but 30 s. In a pipeline the stager is given what the steps before it make
    of X: ``pipeline[-1].hypnodensity(pipeline[:-1].transform(X))``.
    """
    stager.check_is_fitted()
    pair, n_times = as_pair(X), stager.signal_["n_times"]
    spectrograms = len(stager.epoch_shape_) > 2
    sfreq = n_times / EPOCH_SECONDS if spectrograms else stager.signal_["sfreq"]
    number = isinstance(resolution, numbers.Real)
    samples = resolution * sfreq if number else math.nan
    step = round(samples) if math.isfinite(samples) else 0
    whole = step > 0 and math.isclose(samples, step, rel_tol=1e-9)
    if not whole or (spectrograms and step != n_times):
        raise ValueError(
            "resolution is a positive number of seconds that lasts a whole number of samples; "
            f"given {resolution!r} at {sfreq:g} Hz. (A stager of spectrograms predicts whole "
            f"epochs, every {EPOCH_SECONDS:g} s.)"
        )
    epochs = n_times / sfreq * np.arange(len(pair)) if pair.onset is None else pair.onset
    if step == n_times:
        parts = [(stager.predict_proba(X), epochs)]
    elif n_times % step == 0 and stager.sequence_length_ == 1:
        parts = _each_epoch(stager, stager.check_predicted(X), epochs, step, sfreq)
    else:
        parts = _joined_epochs(stager, stager.check_predicted(X), step, sfreq)
    none = np.empty((0, len(stager.classes_)), dtype=np.float32), np.empty(0)
    probabilities, onset = map(np.concatenate, zip(none, *parts, strict=True))
    return (probabilities, onset) if return_onset else probabilities


def _each_epoch(stager, pair, onset, step, sfreq):
    """Yield probabilities and onsets of each epoch by itself, in the order of the rows."""
    within = np.arange(0, pair.shape[2], step) / sfreq
    start = 0
    for x, _ in stager.get_iterator(EpochDataset(pair.target_epochs)):
        rows = slice(start, start + len(x["target"]))
        # (epochs, 1) + (outputs of an epoch,) -> (outputs,)
        yield _segment(stager, x["target"], step), (onset[rows, None] + within).ravel()
        start = rows.stop


def _joined_epochs(stager, pair, step, sfreq):
    """Yield those of runs of epochs, as long signals in pieces of bounded length."""
    n_times = pair.shape[2]
    for run in _joined_runs(pair, n_times / sfreq):
        n_outputs = len(run) * n_times // step
        if not n_outputs:
            continue
        n_pieces = min(math.ceil(n_outputs * step / (JOINED_EPOCHS * n_times)), n_outputs)
        for piece in np.array_split(np.arange(n_outputs), n_pieces):
            epoch, sample = np.divmod(step * piece, n_times)
            stop = math.ceil(step * (piece[-1] + 1) / n_times)
            if piece[-1] == n_outputs - 1:
                stop = len(run)  # the rest has no output, but the outputs see it
            signal = pair.read("target", run[epoch[0] : stop])
            # (epochs, channels, times) -> (1, channels, epochs * times)
            signal = signal.swapaxes(0, 1).reshape(1, signal.shape[1], -1)
            signal = np.ascontiguousarray(signal[..., sample[0] :], dtype=np.float32)
            # The last epoch is read to its end, which may make an output too many.
            outputs = _segment(stager, torch.from_numpy(signal), step)[: len(piece)]
            yield outputs, pair.onset[run[epoch]] + sample / sfreq


def _segment(stager, x, step):
    """Probabilities of a batch of signals, one after the other."""
    stager.module_.eval()
    with torch.no_grad():
        logits = segment(stager.module_, x.to(stager.device), step)
        # (signals, classes, outputs) -> (signals * outputs, classes)
        logits = logits.transpose(1, 2).flatten(0, 1)
        return stager._get_predict_nonlinearity()(logits).cpu().numpy()


def _joined_runs(pair, seconds):
    """Rows of epochs that follow one another, recording by recording in time order."""
    if pair.recording is None or pair.onset is None:
        raise ValueError(
            "At this resolution consecutive epochs are joined, and X does not say which they "
            "are: give a PairedEpochs with recording= and onset= (of one night: "
            "recording='night', onset=30.0 * np.arange(len(X)))."
        )
    for run in find_runs(pair.recording, pair.onset, len(pair)):
        steps = np.diff(pair.onset[run])
        if (steps < seconds - ONSET_TOLERANCE).any():
            raise ValueError(
                f"Epochs of {seconds:g} s overlap in the recording {pair.recording[run[0]]} (the "
                f"smallest step is {steps.min():g} s). Give a resolution that divides 30 s."
            )
        # Epochs that are as far apart as usual need not touch.
        yield from np.split(run, np.flatnonzero(steps > seconds + ONSET_TOLERANCE) + 1)
