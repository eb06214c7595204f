"""Scores of stages and their probabilities: for ``cross_validate``, by subject, pooled."""

import numpy as np
from sklearn.metrics import make_scorer
from sklearn.utils import Bunch, check_consistent_length

from skleepkd.metrics.subjects import over_subjects
from skleepkd.stages import (
    check_present,
    column_labels,
    is_unscored,
    stage_codes,
    stage_labels,
    warn_of_shift,
)

_BY_STAGE = ("f1", "sensitivity", "specificity")


def sleep_scorers(classes="aasm"):
    """Scorers of sleep staging for ``cross_validate(scoring=...)``, which predicts once.

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
        are ``f1_macro``, ``sensitivity_macro`` and ``specificity_macro``. They raise
        ValueError as :func:`staging_report` does.

    Notes
    -----
    A stage's score is nan where it has no epochs to count: F1 if neither truth nor
    prediction has the stage, sensitivity if the truth lacks it, specificity if the truth
    has no other; means over the stages leave it out. Kappa is 0 where truth and prediction
    are the same constant.

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
    """Score predictions over subjects, for each of them, and over all epochs.

    Parameters
    ----------
    y_true : array-like of shape (n_epochs,)
        The scored stages, codes or names; unscored epochs are skipped.
    y_pred : array-like of shape (n_epochs,)
        The predicted stages, codes or names.
    groups : array-like of shape (n_epochs,), optional
        The subject of each epoch.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        As for :func:`sleep_scorers`.

    Returns
    -------
    Bunch
        ``mean``, a dict with the scores of :func:`sleep_scorers`, each the mean over the
        subjects for whom it is defined; ``interval``, such a dict of the means' 95 %
        bootstrap intervals (nan where fewer than two subjects have the score);
        ``per_subject``, such a dict for each subject who has scored epochs; all three
        empty without ``groups``. And ``pooled``, such a dict over all epochs.

    Raises
    ------
    ValueError
        If the lengths differ, no epoch is scored or a label is not among ``classes``.

    Notes
    -----
    Report the mean over subjects with its interval: a pooled score weighs subjects by the
    length of their nights, and is there to compare with papers that pool.

    Examples
    --------
    >>> from skleepkd.metrics import staging_report
    >>> y_true, y_pred = [0, 2, 2, 4, -1, 0], [0, 2, 3, 4, 2, 2]
    >>> report = staging_report(y_true, y_pred, groups=["a"] * 4 + ["b"] * 2)
    >>> report.mean["accuracy"], report.interval["accuracy"]
    (0.375, (0.0, 0.75))
    >>> report.pooled["accuracy"]
    0.6
    """
    y_true, y_pred, groups = _scored(y_true, y_pred, groups)
    if isinstance(classes, str):
        warn_of_shift(np.unique(y_true), len(stage_labels(classes)), "y_true")
    pooled = _scores(y_true, y_pred, classes)
    per_subject, mean, interval = {}, {}, {}
    if groups is not None:
        for subject in np.unique(groups).tolist():
            rows = groups == subject
            per_subject[subject] = _scores(y_true[rows], y_pred[rows], classes)
        for name in pooled:
            values = [scores[name] for scores in per_subject.values()]
            mean[name], interval[name] = over_subjects(values)
    return Bunch(mean=mean, interval=interval, per_subject=per_subject, pooled=pooled)


def expected_calibration_error(y_true, proba, *, classes="aasm", n_bins=15, groups=None):
    """Mean distance between how sure a stager is and how often it is right.

    Epochs are binned by the probability of their most probable stage, the confidence:
    ``sum over bins of n_bin / n * |accuracy in the bin - mean confidence in the bin|``,
    the bins being of equal width, each without its lower and with its upper end. 0 is
    perfect; a stager that is sure and always wrong has 1.

    Parameters
    ----------
    y_true, groups
        As for :func:`staging_report`.
    proba : array-like of shape (n_epochs, n_classes)
        What ``predict_proba`` returns. Unscored epochs may have NaN.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages of the columns, which are in the order of ``stager.classes_``: a scheme's
        name (of names in ``y_true``, the alphabetical order), or the sorted labels.
    n_bins : int, default=15

    Returns
    -------
    float or Bunch
        The error over all epochs. With ``groups`` a Bunch as that of
        :func:`staging_report`, of floats instead of dicts.

    Raises
    ------
    ValueError
        As for :func:`staging_report`, if ``proba`` has other columns, or a scored epoch has
        no probabilities (NaN, below 0, a sum other than 1).

    Notes
    -----
    The fewer the epochs, the larger the error, even of a perfect stager: errors compare
    where the numbers of epochs and of bins are alike. Pooled, a stager that is too sure for
    one subject and too unsure for another may look calibrated.

    As a score of ``cross_validate``: ``make_scorer(expected_calibration_error,
    response_method="predict_proba", greater_is_better=False, classes="aasm")``.

    References
    ----------
    Guo, C. et al. (2017). On calibration of modern neural networks, equation 3.

    Examples
    --------
    >>> from skleepkd.metrics import expected_calibration_error
    >>> proba = [[0.1, 0.1, 0.8]] * 5  # of N, R and W
    >>> f"{expected_calibration_error(['W', 'W', 'R', 'N', '?'], proba, classes='wnr'):.2f}"
    '0.30'
    """
    y_true, proba, groups = _scored(y_true, np.asarray(proba, dtype=float), groups)
    labels = column_labels(classes, y_true)
    if proba.shape[1:] != (len(labels),):
        raise ValueError(
            f"proba has the shape {proba.shape}; a column for each of {labels} is expected. "
            "Of other stages name the scheme: classes='aasm', 'wldr' or 'wnr'."
        )
    # Half precision rounds sums.
    if not ((proba >= 0).all() and np.allclose(proba.sum(axis=1), 1, atol=1e-2)):
        raise ValueError("proba must be probabilities that sum to 1, as of predict_proba.")
    confidence = proba.max(axis=1)
    excess = (proba.argmax(axis=1) == stage_codes(y_true, labels, "y_true")) - confidence
    # An inner edge belongs to the bin below it.
    bins = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence, side="left")
    pooled = _binned_error(bins, excess)
    if groups is None:
        return pooled
    per_subject = {
        subject: _binned_error(bins[groups == subject], excess[groups == subject])
        for subject in np.unique(groups).tolist()
    }
    mean, interval = over_subjects(list(per_subject.values()))
    return Bunch(mean=mean, interval=interval, per_subject=per_subject, pooled=pooled)


def _scored(y_true, predicted, groups=None):
    """Keep the scored epochs, of which there must be one."""
    y_true, predicted = np.asarray(y_true), np.asarray(predicted)
    check_consistent_length(y_true, predicted, groups)
    scored = ~is_unscored(y_true)
    if not scored.any():
        raise ValueError(f"None of the {len(scored)} epochs is scored: leave this set out.")
    groups = None if groups is None else check_present(groups, "groups")[scored]
    return y_true[scored], predicted[scored], groups


def _scores(y_true, y_pred, classes):
    """Compute every score from one confusion matrix of scored epochs."""
    labels = stage_labels(classes)
    codes = stage_codes(y_true, labels, "y_true"), stage_codes(y_pred, labels, "y_pred")
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(counts, codes, 1)  # scikit-learn's would check what is checked
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    n_epochs = counts.sum()
    with np.errstate(invalid="ignore"):  # 0 / 0, a stage without epochs, is nan
        by_stage = {
            "f1": 2 * hits / (true + predicted),
            "sensitivity": hits / true,
            "specificity": (n_epochs - true - predicted + hits) / (n_epochs - true),
        }
    scores = {
        "accuracy": hits.sum() / n_epochs,
        "kappa": kappa_of(counts),
        "f1_weighted": np.nansum(true * by_stage["f1"]) / n_epochs,
    }
    scores |= {f"{score}_macro": np.nanmean(by_stage[score]) for score in _BY_STAGE}
    for score, values in by_stage.items():
        names = [f"{score}_{label}" for label in labels]
        scores |= dict(zip(names, values, strict=True))
    return {name: float(value) for name, value in scores.items()}


def kappa_of(counts):
    """Cohen's kappa of a confusion matrix, truth by row; 0 where chance alone agrees."""
    n_epochs = counts.sum()
    agreement = counts.trace() / n_epochs
    chance = counts.sum(axis=1) @ counts.sum(axis=0) / n_epochs**2
    return float((agreement - chance) / (1 - chance)) if chance < 1 else 0.0


def _score(y_true, y_pred, *, name, classes):
    return staging_report(y_true, y_pred, classes=classes).pooled[name]


def _binned_error(bins, excess):
    # n_bin * (accuracy - mean confidence) is the sum of hit - confidence in the bin.
    return float(np.abs(np.bincount(bins, weights=excess)).sum() / len(bins))
