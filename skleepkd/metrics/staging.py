"""Scores of stages: for ``cross_validate``, for each subject, over subjects, pooled."""

import warnings

import numpy as np
from sklearn.metrics import confusion_matrix, make_scorer
from sklearn.utils import Bunch, check_consistent_length

from skleepkd.metrics.subjects import over_subjects
from skleepkd.stages import SCHEMES, is_unscored, stage_codes, stage_labels

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

    Scorers raise ValueError if no epoch is scored or a label is not among ``classes``. They
    warn where the estimator's classes are the codes 0, 1, ... of fewer or more stages: the
    names would be wrong. :func:`staging_report` cannot tell: name the scheme there.

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
    return {
        name: _StageScorer(_score, 1, {"name": name, "classes": classes}, "predict")
        for name in names
    }


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
        The stages: a scheme's name, or the labels in the order of their codes.

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
    Epochs of one night are alike, so an interval over epochs is far too narrow, and a
    pooled score weighs people by the length of their nights. Report the mean over
    subjects with its interval; ``pooled`` is there to compare with papers that pool.

    Examples
    --------
    >>> from skleepkd.metrics import staging_report
    >>> y_true, y_pred = [0, 2, 2, 4, -1, 0], [0, 2, 3, 4, 2, 2]
    >>> report = staging_report(y_true, y_pred, groups=["a"] * 4 + ["b"] * 2)
    >>> report.mean["accuracy"], report.interval["accuracy"]
    (0.375, (0.0, 0.75))
    >>> {subject: scores["accuracy"] for subject, scores in report.per_subject.items()}
    {'a': 0.75, 'b': 0.0}
    >>> report.pooled["accuracy"]
    0.6
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
    mean, interval = {}, {}
    for name in pooled if per_subject else ():
        values = [scores[name] for scores in per_subject.values()]
        mean[name], interval[name] = over_subjects(values)
    return Bunch(mean=mean, interval=interval, per_subject=per_subject, pooled=pooled)


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


class _StageScorer(type(make_scorer(_score))):
    """scikit-learn's scorer, that also looks at whose predictions it names."""

    def _score(self, method_caller, estimator, *args, **kwargs):
        labels = stage_labels(self._kwargs["classes"])
        codes = getattr(estimator, "classes_", labels)
        n_codes = len(codes)
        if n_codes != len(labels) and np.array_equal(codes, range(n_codes)):
            named = [name for name in SCHEMES if len(SCHEMES[name]) == n_codes]
            scheme = repr(named[0]) if named else "[...]"
            warnings.warn(
                f"The estimator's classes are the codes 0 to {n_codes - 1}; its scores are "
                f"named after {len(labels)} stages, {', '.join(map(str, labels))}. If the "
                f"codes mean others, name those: sleep_scorers({scheme}).",
                stacklevel=2,
            )
        return super()._score(method_caller, estimator, *args, **kwargs)
