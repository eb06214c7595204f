"""A fitted stager in a few lines: where it comes from, what it saw, what it needs."""

import math
from importlib.metadata import version

from skleepkd.distillation.teachers import seen_by
from skleepkd.estimators import DistilledSleepStager, SleepStager
from skleepkd.networks.declared import uncompiled
from skleepkd.pipelines import class_names, split_pipeline
from skleepkd.recording import RecordingStager


def describe(stager):
    """Describe a fitted stager in a few lines of text, which name no subject.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager, Pipeline or RecordingStager
        Fitted, or loaded by :func:`skleepkd.load`. A ``Pipeline`` ends in a stager.

    Returns
    -------
    str
        Where it comes from (network, class, strategy, version of skleepkd), what it saw
        (subjects and recordings, those held out), what it predicts, and what it needs:
        channels in order, sampling rate in hertz, unit, steps before it.

    Raises
    ------
    TypeError
        If it is no such stager.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import SleepStager, describe
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((16, 1, 400)), np.tile(["W", "N2"], 8)
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> print(describe(SleepStager("UTime", max_epochs=1, **small).fit(X, y)))
    Network: UTime, ... parameters, trained as SleepStager by skleepkd ...
    Fitted on: subjects not known, recordings not known; nobody held out, no score
    Predicts: N2, W
    Needs: 1 channel (names not known), 13.3333 Hz, microvolts
    """
    recorded = isinstance(stager, RecordingStager)
    steps, last = split_pipeline(stager.stager if recorded else stager)
    if not isinstance(last, SleepStager):
        raise TypeError(f"describe takes a stager; given {type(last).__name__}.")
    last.check_is_fitted()
    subjects, nights = seen_by(last, "subject"), seen_by(last, "recording")
    network = uncompiled(last.module_)
    size = sum(parameter.numel() for parameter in network.parameters())
    names = ", ".join(map(str, last.ch_names_ or ["names not known"]))
    sfreq = last.signal_.get("sfreq")
    rate = "sampling rate not known" if sfreq is None else f"{sfreq:g} Hz"
    lines = [
        f"Network: {type(network).__name__}, {size:,} parameters, trained as {origin_of(last)}",
        f"Fitted on: {_count(subjects, 'subject')}, {_count(nights, 'recording')}; "
        f"{_held_out(last)}",
        f"Predicts: {_classes(last)}",
        f"Needs: {_count(range(last.epoch_shape_[0]), 'channel')} ({names}), {rate}, microvolts",
    ]
    if last.sequence_length_ > 1:
        lines.append(f"Sequences: {last.sequence_length_} consecutive epochs at a time")
    if recorded:
        lines += [f"Preprocessor: {step!r}" for step in stager.preprocessors]
    lines += [f"Step: {name}, {' '.join(repr(step).split())}" for name, step in steps]
    return "\n".join(lines)


def origin_of(stager):
    """Tell what a stager was trained as, also of one that was loaded."""
    strategy = f" ({stager.strategy})" if isinstance(stager, DistilledSleepStager) else ""
    now = f"{type(stager).__name__}{strategy} by skleepkd {version('skleepkd')}"
    return stager.history_[0].get("origin", now) if stager.history_ else now


def _held_out(stager):
    if not len(stager.held_out_) or not len(stager.history_):
        return "nobody held out, no score"
    best = getattr(stager, "best_epoch_", None) or len(stager.history_)
    kappa = stager.history_[best - 1].get("valid_kappa", math.nan)
    who = _count(stager.held_out_, "subject")
    return f"kappa {kappa:.2f} on {who} held out to choose the weights"


def _count(names, what):
    if names is None:
        return f"{what}s not known"
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _classes(stager):
    pairs = zip(map(str, stager.classes_), map(str, class_names(stager)), strict=True)
    return ", ".join(code if code == name else f"{code} ({name})" for code, name in pairs)
