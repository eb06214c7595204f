"""A fitted stager in a few lines of text."""

from skleepkd.distillation.leakage import seen_by
from skleepkd.estimators import SleepStager
from skleepkd.networks.build import uncompiled
from skleepkd.pipelines import class_names, origin_of, split_pipeline
from skleepkd.recording import RecordingStager
from skleepkd.stages import sleep_order


def describe(stager):
    """Describe a fitted stager in a few lines of text, which name no subject.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager, Pipeline or RecordingStager
        Fitted, or loaded by :func:`skleepkd.load`. A ``Pipeline`` ends in a stager.

    Returns
    -------
    str
        Where it comes from (network, class, strategy, version), what it saw and predicts, and
        what it needs: channels in order, rate in hertz, unit, steps before it.

    Raises
    ------
    TypeError or sklearn.exceptions.NotFittedError
        If it is no such stager, or not fitted.

    Examples
    --------
    >>> from skleepkd import SleepStager, describe
    >>> X, y = [[[0, 30] * 200]] * 16, ["W", "N2"] * 8
    >>> stager = SleepStager("UTime", module__filters=(4, 4), module__pools=(4,), max_epochs=1)
    >>> print(describe(stager.fit(X, y)))
    Network: UTime, 680 parameters, trained as SleepStager by skleepkd ...
    Fitted on: subjects not known, recordings not known, 16 scored epochs; nobody held out, no score
    Predicts: W, N2
    Needs: 1 channel (names not known), 13.3333 Hz, microvolts
    """
    recorded = isinstance(stager, RecordingStager)
    steps, last = split_pipeline(stager.stager if recorded else stager)
    if not isinstance(last, SleepStager):
        raise TypeError(f"describe takes a stager; given {type(last).__name__}.")
    last.check_is_fitted()
    network, rate = uncompiled(last.module_), last.signal_.get("sfreq")
    size = sum(parameter.numel() for parameter in network.parameters())
    classes, order = class_names(last), sleep_order(class_names(last))
    columns = zip(last.classes_[order], classes[order], strict=True)
    predicts = [str(n) if str(n) == str(c) else f"{c} ({n})" for c, n in columns]
    names = ", ".join(map(str, last.ch_names_ or ["names not known"]))
    if last.drops_channels_:
        names += "; some may be missing"
    how, judge, scored = f"as {origin_of(last)}", "", last.n_scored_
    if scored is None and not last.history_:
        how = "elsewhere"
    labels = (
        ", scored epochs not known" if scored is None else f", {scored:,} scored epochs"
    )
    if scored == 0:
        labels = ", no label: from its teacher's predictions alone"
        judge = " with the teacher"
    score = "nobody held out, no score"
    if len(last.held_out_):
        best = last.best_epoch_ or len(last.history_)
        kappa = last.history_[best - 1].get("valid_kappa") if best else None
        kappa = "not known" if kappa is None else f"{kappa:.2f}"
        score = f"kappa {kappa}{judge} on {_count(last.held_out_, 'held-out subject')}"
    lines = [
        f"Network: {type(network).__name__}, {size:,} parameters, trained {how}",
        f"Fitted on: {_count(seen_by(last, 'subject'), 'subject')}, "
        f"{_count(seen_by(last, 'recording'), 'recording')}{labels}; {score}",
        f"Predicts: {', '.join(predicts)}",
        f"Needs: {_count(range(last.epoch_shape_[0]), 'channel')} ({names}), "
        f"{'unknown rate' if rate is None else f'{rate:g} Hz'}, microvolts",
        *(f"Preprocessor: {step!r}" for step in (stager.preprocessors if recorded else ())),
        *(f"Step: {name}, {' '.join(repr(step).split())}" for name, step in steps),
    ]
    if last.sequence_length_ > 1:
        lines.append(f"Sequences: {last.sequence_length_} consecutive epochs at a time")
    return "\n".join(lines)


def _count(names, what):
    if names is None:
        return f"{what}s not known"
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"
