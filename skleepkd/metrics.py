"""Scores of sleep staging, for each subject and pooled, and the gap that a method closes.

Every function skips unscored epochs (-1, or "?" among names) and takes codes or names.
"""

import numpy as np
from sklearn.metrics import confusion_matrix, make_scorer
from sklearn.utils import Bunch, check_consistent_length, check_random_state

from skleepkd.stages import is_unscored, stage_codes, stage_labels

_BY_STAGE = ("f1", "sensitivity", "specificity")


def sleep_scorers(classes="aasm"):
    """Scorers of sleep staging for ``cross_validate(scoring=...)``.

    An estimator predicts once for all of them.

    Parameters
    ----------
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Returns
    -------
    dict of str to callable
        ``accuracy``, ``kappa`` (Cohen's), ``f1_weighted``, and for each stage, as in
        ``f1_N1``, its ``f1``, ``sensitivity`` (recall) and ``specificity`` (the share of
        the other stages' epochs that are not taken for it); their means over the stages
        are ``f1_macro``, ``sensitivity_macro`` and ``specificity_macro``.

    Notes
    -----
    Where a stage is absent, scores stay defined and silent. A mean over the stages is one
    over those that have the score: macro F1 over the stages that occur in the truth or in
    the prediction. Kappa is 0 where it is undefined, which is where truth and prediction
    are one and the same constant. A stage's own score is nan where it has no epochs to
    count: F1 if neither truth nor prediction has the stage, sensitivity if the truth lacks
    it, specificity if the truth has no other.

    Scorers raise ValueError if no epoch is scored or a label is not among ``classes``.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import cross_validate
    >>> from skleepkd.metrics import sleep_scorers
    >>> X, y = [[0]] * 12, [0, 2, 2, 2, 3, 4] * 2
    >>> scores = cross_validate(DummyClassifier(), X, y, cv=2, scoring=sleep_scorers())
    >>> scores["test_accuracy"], scores["test_sensitivity_N2"]
    (array([0.5, 0.5]), array([1., 1.]))
    """
    names = ["accuracy", "kappa", "f1_weighted"]
    names += [f"{score}_macro" for score in _BY_STAGE]
    names += [f"{score}_{stage}" for score in _BY_STAGE for stage in stage_labels(classes)]
    return {name: make_scorer(_score, name=name, classes=classes) for name in names}


def staging_report(y_true, y_pred, groups=None, classes="aasm"):
    """Score predictions over all epochs and for each subject.

    Parameters
    ----------
    y_true : array-like of shape (n_epochs,)
        The scored stages, codes or names; unscored epochs are skipped.
    y_pred : array-like of shape (n_epochs,)
        The predicted stages, codes or names.
    groups : array-like of shape (n_epochs,), optional
        The subject of each epoch.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Returns
    -------
    Bunch
        ``pooled``, a dict with the scores of :func:`sleep_scorers` over all epochs, and
        ``per_subject``, such a dict for each subject who has scored epochs (empty
        without ``groups``).

    Raises
    ------
    ValueError
        If the lengths differ, no epoch is scored or a label is not among ``classes``.

    Examples
    --------
    >>> from skleepkd.metrics import staging_report
    >>> y_true, y_pred = [0, 2, 2, 4, -1, 0], [0, 2, 3, 4, 2, 2]
    >>> report = staging_report(y_true, y_pred, groups=["a"] * 4 + ["b"] * 2)
    >>> report.pooled["accuracy"]
    0.6
    >>> {subject: scores["accuracy"] for subject, scores in report.per_subject.items()}
    {'a': 0.75, 'b': 0.0}
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    pooled = _scores(y_true, y_pred, classes)
    per_subject = {}
    if groups is not None:
        groups = np.asarray(groups)
        check_consistent_length(y_true, groups)
        for subject in np.unique(groups[~is_unscored(y_true)]).tolist():
            rows = groups == subject
            per_subject[subject] = _scores(y_true[rows], y_pred[rows], classes)
    return Bunch(pooled=pooled, per_subject=per_subject)


def bootstrap_interval(values, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Percentile bootstrap interval of a mean over subjects.

    Parameters
    ----------
    values : array-like of shape (n_subjects,)
        One score for each subject.
    confidence : float, default=0.95
        Coverage of the interval.
    n_resamples : int, default=10000
        How many times the subjects are drawn with replacement.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.

    Returns
    -------
    tuple of float
        Lower and upper end.

    Raises
    ------
    ValueError
        If there are fewer than two subjects, or a value is not finite.

    References
    ----------
    Efron, B. and Tibshirani, R. J. (1993). An introduction to the bootstrap, chapter 13.

    Examples
    --------
    >>> from skleepkd.metrics import bootstrap_interval
    >>> bootstrap_interval([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    values = _check_subjects(values=values)
    means = _resampled_means(values, n_resamples, random_state)[0]
    return _percentiles(means, confidence)


def gap_closed(scalp, ear, method, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Share of the gap between scalp and ear that a method closes.

    The share is ``mean(method - ear) / mean(scalp - ear)`` over subjects: 0 for the
    ear's own score, 1 for the scalp's, below 0 for a method that does harm. Its
    interval is a percentile bootstrap that draws subjects, each with all three scores.

    Parameters
    ----------
    scalp, ear, method : array-like of shape (n_subjects,)
        One score for each subject, the subjects in the same order.
    confidence : float, default=0.95
        Coverage of the intervals.
    n_resamples : int, default=10000
        How many times the subjects are drawn with replacement.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.

    Returns
    -------
    Bunch
        ``gap`` and ``gap_interval``, the mean of ``scalp - ear``; ``has_gap``, whether
        that interval lies above 0; ``share`` and ``share_interval``, nan where there is
        no gap to close. The few draws without a gap do not enter ``share_interval``.

    Raises
    ------
    ValueError
        If the lengths differ, there are fewer than two subjects, or a value is not
        finite.

    Examples
    --------
    >>> from skleepkd.metrics import gap_closed
    >>> closed = gap_closed(scalp=[0.7, 0.8], ear=[0.4, 0.5], method=[0.5, 0.6])
    >>> closed.has_gap, f"{closed.share:.0%} of {closed.gap:.2f}"
    (True, '33% of 0.30')
    >>> gap_closed(scalp=[0.7, 0.4], ear=[0.4, 0.5], method=[0.5, 0.6]).has_gap
    False
    """
    scores = _check_subjects(scalp=scalp, ear=ear, method=method)
    gap, gain = scores[0] - scores[1], scores[2] - scores[1]
    drawn_gap, drawn_gain = _resampled_means(
        np.stack([gap, gain]), n_resamples, random_state
    )
    gap_interval = _percentiles(drawn_gap, confidence)
    has_gap = gap_interval[0] > 0
    share, share_interval = np.nan, (np.nan, np.nan)
    if has_gap:
        share = gain.mean() / gap.mean()
        shares = drawn_gain[drawn_gap > 0] / drawn_gap[drawn_gap > 0]
        share_interval = _percentiles(shares, confidence)
    return Bunch(
        gap=float(gap.mean()),
        gap_interval=gap_interval,
        has_gap=has_gap,
        share=float(share),
        share_interval=share_interval,
    )


def _scores(y_true, y_pred, classes):
    """Compute every score of the scored epochs from one confusion matrix."""
    check_consistent_length(y_true, y_pred)
    scored = ~is_unscored(y_true)
    if not scored.any():
        raise ValueError(
            f"None of the {len(scored)} epochs is scored, so there is nothing to compare; "
            "leave this set out or give its stages."
        )
    labels = stage_labels(classes)
    counts = confusion_matrix(
        stage_codes(np.asarray(y_true)[scored], labels, "y_true"),
        stage_codes(np.asarray(y_pred)[scored], labels, "y_pred"),
        labels=range(len(labels)),
    )
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    n_epochs = counts.sum()
    with np.errstate(invalid="ignore"):  # 0 / 0, a stage without epochs, is nan
        by_stage = {
            "f1": 2 * hits / (true + predicted),
            "sensitivity": hits / true,
            "specificity": (n_epochs - true - predicted + hits) / (n_epochs - true),
        }
    agreement, chance = hits.sum() / n_epochs, true @ predicted / n_epochs**2
    scores = {
        "accuracy": agreement,
        "kappa": (agreement - chance) / (1 - chance) if chance < 1 else 0.0,
        "f1_weighted": np.nansum(true * by_stage["f1"]) / n_epochs,
    }
    scores |= {f"{score}_macro": np.nanmean(by_stage[score]) for score in _BY_STAGE}
    for score, values in by_stage.items():
        scores |= {
            f"{score}_{name}": value for name, value in zip(labels, values, strict=True)
        }
    return {name: float(value) for name, value in scores.items()}


def _score(y_true, y_pred, *, name, classes):
    return _scores(y_true, y_pred, classes)[name]


def _check_subjects(**scores):
    """Stack scores of the same subjects, shape (n_scores, n_subjects)."""
    scores = {name: np.asarray(values, dtype=float) for name, values in scores.items()}
    shapes = {values.shape for values in scores.values()}
    shape = shapes.pop()
    if shapes or len(shape) != 1 or shape[0] < 2:
        given = ", ".join(f"{name} {values.shape}" for name, values in scores.items())
        raise ValueError(
            f"One score is needed for each of the same two or more subjects; given {given}."
        )
    stacked = np.stack(list(scores.values()))
    if not np.isfinite(stacked).all():
        raise ValueError(
            "A score is nan or infinite; leave out the subjects for whom it is undefined."
        )
    return stacked


def _resampled_means(scores, n_resamples, random_state):
    """Means over drawn subjects, shape (n_scores, n_resamples)."""
    n_subjects = scores.shape[1]
    drawn = check_random_state(random_state).randint(
        n_subjects, size=(n_resamples, n_subjects)
    )
    return scores[:, drawn].mean(axis=2)


def _percentiles(draws, confidence):
    ends = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return tuple(ends.tolist())
