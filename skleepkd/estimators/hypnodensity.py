"""Hypnodensity: the probability of each stage at other resolutions than 30 s."""

import math
import numbers

import numpy as np
import torch

from skleepkd.epochs.checks import as_pair
from skleepkd.estimators.batches import EpochDataset
from skleepkd.networks.build import segment
from skleepkd.sequences import ONSET_TOLERANCE, find_runs
from skleepkd.stages import EPOCH_SECONDS

#: Joined epochs that the network reads at a time: the window of the original U-Time.
JOINED_EPOCHS = 35


def hypnodensity(stager, X, resolution=30.0, return_onset=False):
    """Probability of each stage every ``resolution`` seconds.

    Parameters
    ----------
    X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
        Epochs in microvolts (of a pair, the target).
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
    probabilities, onset = _hypnodensity(stager, X, resolution)
    return (probabilities, onset) if return_onset else probabilities


def _hypnodensity(stager, X, resolution):
    stager.check_is_fitted()
    if len(stager.epoch_shape_) > 2:  # spectrograms
        if resolution != EPOCH_SECONDS:
            raise ValueError(
                f"A stager of spectrograms answers whole epochs, every {EPOCH_SECONDS:g} s; "
                f"given resolution={resolution!r}."
            )
        return stager.predict_proba(X), _epoch_onsets(as_pair(X), EPOCH_SECONDS)
    sfreq, n_times = stager.signal_["sfreq"], stager.signal_["n_times"]
    step = _samples(resolution, sfreq)
    if step == n_times:
        return stager.predict_proba(X), _epoch_onsets(as_pair(X), n_times / sfreq)
    pair = stager.check_predicted(X)
    alone = n_times % step == 0 and stager.sequence_length_ == 1
    answers = (_each_epoch if alone else _joined_epochs)(stager, pair, step)
    none = np.empty((0, len(stager.classes_)), dtype=np.float32), np.empty(0)
    probabilities, onsets = zip(none, *answers, strict=True)
    return np.concatenate(probabilities), np.concatenate(onsets)


def _samples(resolution, sfreq):
    """Whole number of samples that a resolution in seconds lasts."""
    if isinstance(resolution, numbers.Real) and 0 < resolution < math.inf:
        samples = resolution * sfreq
        if round(samples) > 0 and math.isclose(samples, round(samples), rel_tol=1e-9):
            return round(samples)
    raise ValueError(
        "resolution is a positive number of seconds that lasts a whole number of samples; "
        f"given {resolution!r} at {sfreq:g} Hz."
    )


def _epoch_onsets(pair, seconds):
    return seconds * np.arange(len(pair)) if pair.onset is None else pair.onset


def _each_epoch(stager, pair, step):
    """Answer each epoch by itself, in the order of the rows."""
    sfreq, n_times = stager.signal_["sfreq"], stager.signal_["n_times"]
    onset = _epoch_onsets(pair, n_times / sfreq)
    within = np.arange(0, n_times, step) / sfreq
    start = 0
    for x, _ in stager.get_iterator(EpochDataset(pair.target_epochs)):
        rows = slice(start, start + len(x["target"]))
        # (epochs, 1) + (answers in an epoch,) -> (answers,)
        yield _ask(stager, x["target"], step), (onset[rows, None] + within).ravel()
        start = rows.stop


def _joined_epochs(stager, pair, step):
    """Answer runs of consecutive epochs as long signals, in pieces of bounded length."""
    sfreq, n_times = stager.signal_["sfreq"], stager.signal_["n_times"]
    for run in _runs(pair, n_times / sfreq):
        n_answers = len(run) * n_times // step
        if not n_answers:
            continue
        n_pieces = math.ceil(n_answers * step / (JOINED_EPOCHS * n_times))
        n_pieces = min(n_pieces, n_answers)  # no piece is shorter than one answer
        for piece in np.array_split(np.arange(n_answers), n_pieces):
            epoch, sample = np.divmod(step * piece, n_times)
            stop = math.ceil(step * (piece[-1] + 1) / n_times)
            if piece[-1] == n_answers - 1:
                stop = len(run)  # the rest has no answer, but the answers see it
            signal = pair.read("target", run[epoch[0] : stop])
            # (epochs, channels, times) -> (1, channels, epochs * times)
            signal = signal.swapaxes(0, 1).reshape(1, signal.shape[1], -1)
            signal = np.ascontiguousarray(signal[..., sample[0] :], dtype=np.float32)
            # The last epoch is read to its end, which may make an answer too many.
            answers = _ask(stager, torch.from_numpy(signal), step)[: len(piece)]
            yield answers, pair.onset[run[epoch]] + sample / sfreq


def _ask(stager, x, step):
    """Probabilities of a batch of signals, one after the other."""
    stager.module_.eval()
    with torch.no_grad():
        logits = segment(stager.module_, x.to(stager.device), step)
        # (signals, classes, answers) -> (signals * answers, classes)
        logits = logits.transpose(1, 2).flatten(0, 1)
        return stager._get_predict_nonlinearity()(logits).cpu().numpy()


def _runs(pair, seconds):
    """Rows of epochs that follow one another, recording by recording in time order."""
    if pair.recording is None or pair.onset is None:
        raise ValueError(
            f"At this resolution consecutive epochs of {seconds:g} s are joined, and X does "
            "not say which they are. Give a PairedEpochs with recording= and onset= (of one "
            "whole night: recording='night', onset=30.0 * np.arange(len(X))), or, for a "
            "network that was trained on single epochs, a resolution that divides "
            f"{EPOCH_SECONDS:g} s."
        )
    for run in find_runs(pair.recording, pair.onset, len(pair)):
        steps = np.diff(pair.onset[run])
        if (steps < seconds - ONSET_TOLERANCE).any():
            raise ValueError(
                f"Epochs of {seconds:g} s overlap in the recording {pair.recording[run[0]]} "
                f"(the smallest step of their onsets is {steps.min():g} s, as of the windows "
                "around 20 s epochs), so they cannot be joined to one signal. Give a "
                f"resolution that divides {EPOCH_SECONDS:g} s, or epochs that do not overlap."
            )
        # Epochs that are as far apart as usual need not touch.
        yield from np.split(run, np.flatnonzero(steps > seconds + ONSET_TOLERANCE) + 1)
