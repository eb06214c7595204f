"""Epochs whose stages mean little: NaN, flat, saturated, or unlike those of the training."""

import numpy as np

from skleepkd.epochs import checks
from skleepkd.stages import EPOCH_SECONDS

#: What an epoch is flagged as, what outweighs the others last.
KINDS = ("spread", "saturated", "flat", "nan")
#: The share of an epoch at the limits of the amplifier from which it is saturated (1.5 s).
_SATURATED_SHARE = 0.05
#: How many parts of the middle hold values at least: what has fewer is no signal.
_LEAST_BINS = 5


def first_of(masks, n_epochs):
    """Name the artefact of each epoch, "" where there is none; ``masks`` are by kind."""
    found = np.full(n_epochs, "", dtype="<U9")
    for kind in KINDS:
        if kind in masks:
            found[masks[kind]] = kind
    return found


def is_saturated(signal):
    """Whether one epoch of a channel, (n_times,), sits at the limits of its amplifier.

    A limit is the highest or lowest value, where it is met at least three times as often as
    those beside it and those of any part of the middle. The parts are hundredths of the
    range (3 % of the interquartile range, if that is less), a step of the converter at
    least. Noise thins out towards its extremes; a wave piles up there, at most 2.42-fold,
    as the time that a sine spends within a step of its peak grows as the square root of the
    step.
    """
    low, high = signal.min(), signal.max()
    n_at = np.array([np.count_nonzero(signal == limit) for limit in (low, high)])
    least = _SATURATED_SHARE * len(signal)
    if low == high or n_at.sum() < least:
        return False
    step = np.diff(np.unique(signal).astype(float)).min()
    half = np.diff(np.quantile(signal, [0.25, 0.75]))[0]
    part = min(0.01 * (high - low), 0.03 * half or np.inf)  # a spike widens the range
    width = step * np.ceil(part / step)
    between = signal[(signal > low) & (signal < high)].astype(float)
    from_low = np.floor((between - low - step / 2) / width).astype(int)
    from_high = np.floor((high - between - step / 2) / width).astype(int)
    middle = from_low[(from_low > 0) & (from_high > 0)]
    _, counts = np.unique(middle, return_counts=True)
    if len(counts) < _LEAST_BINS:
        return False
    beside = [np.count_nonzero(away == 0) for away in (from_low, from_high)]
    is_limit = n_at >= 3 * np.maximum(beside, counts.max())
    return bool(n_at[is_limit].sum() >= least)


def saturated(raw, prepared, names, onset, epochs):
    """Mark the epochs that are saturated in one of some channels, names by number.

    They are looked at as they were recorded, where the recording has their names: filters hide
    it from ``epochs``.
    """
    as_given = [n for n in names.values() if prepared is not raw and n in raw.ch_names]
    others = [k for k, name in names.items() if name not in as_given]
    found = np.array([[is_saturated(epoch[k]) for k in others] for epoch in epochs])
    found = found.reshape(len(epochs), len(others)).any(axis=1)
    if as_given:
        picks = [raw.ch_names.index(name) for name in as_given]
        n_times = round(EPOCH_SECONDS * raw.info["sfreq"])
        for row, first in enumerate(np.round(onset * raw.info["sfreq"]).astype(int)):
            signals = raw.get_data(picks, first, first + n_times)
            found[row] |= any(map(is_saturated, signals))
    return found


def unlike_training(pair, fitted):
    """Mark the epochs of which a channel spreads far more or less than in the training."""
    pair = checks.as_pair(pair)
    far = np.zeros(len(pair), dtype=bool)
    if pair.ndim != 3 or fitted is None:
        return far
    fitted = np.array(fitted, dtype=float)  # NaN of channels that were flat
    for rows, block in pair.blocks("target"):
        spread = block.std(axis=2)
        # What is flat is told by its unit: an accelerometer may lie still.
        far[rows] = (checks.spreads_unlike(spread, fitted) & (spread > 0)).any(axis=1)
    return far
