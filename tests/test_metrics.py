import pickle
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import (
    cohen_kappa_score,
    f1_score,
    multilabel_confusion_matrix,
    recall_score,
)
from sklearn.model_selection import LeaveOneGroupOut, cross_validate

from skleepkd.metrics import (
    bootstrap_interval,
    gap_closed,
    sleep_scorers,
    staging_report,
)
from skleepkd.stages import SCHEMES

AASM = SCHEMES["aasm"]


def labels_of(confusion):
    """True and predicted codes with this confusion matrix (rows are the truth)."""
    true, predicted = np.indices(np.shape(confusion)).reshape(2, -1)
    counts = np.ravel(confusion)
    return np.repeat(true, counts), np.repeat(predicted, counts)


class Parrot(ClassifierMixin, BaseEstimator):
    """Predicts its only feature and counts how often it was asked."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.n_predictions_ = 0
        return self

    def predict(self, X):
        self.n_predictions_ += 1
        return X[:, 0]


def test_scores_of_a_hand_computed_confusion():
    y_true, y_pred = labels_of([[50, 10, 0], [5, 20, 5], [0, 2, 8]])
    scores = staging_report(y_true, y_pred, classes="wnr").pooled
    # Row sums 60, 30, 10; column sums 55, 32, 13; 78 of 100 agree; chance agreement is
    # (60 * 55 + 30 * 32 + 10 * 13) / 100**2 = 0.439.
    f1 = {"W": 100 / 115, "N": 40 / 62, "R": 16 / 23}
    expected = {
        "accuracy": 0.78,
        "kappa": (0.78 - 0.439) / (1 - 0.439),
        "f1_macro": sum(f1.values()) / 3,
        "f1_weighted": 0.6 * f1["W"] + 0.3 * f1["N"] + 0.1 * f1["R"],
        "sensitivity_macro": (50 / 60 + 20 / 30 + 8 / 10) / 3,
        "specificity_macro": (35 / 40 + 58 / 70 + 85 / 90) / 3,
        "sensitivity_W": 50 / 60,
        "sensitivity_N": 20 / 30,
        "sensitivity_R": 8 / 10,
        "specificity_W": 35 / 40,
        "specificity_N": 58 / 70,
        "specificity_R": 85 / 90,
    }
    expected |= {f"f1_{stage}": value for stage, value in f1.items()}
    assert scores == pytest.approx(expected)


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 5, 300)
    y_pred = np.where(rng.random(300) < 0.6, y_true, rng.integers(0, 5, 300))
    scores = staging_report(y_true, y_pred).pooled
    assert scores["accuracy"] == pytest.approx(np.mean(y_true == y_pred))
    assert scores["kappa"] == pytest.approx(cohen_kappa_score(y_true, y_pred))
    for average in ("macro", "weighted"):
        expected = f1_score(y_true, y_pred, average=average)
        assert scores[f"f1_{average}"] == pytest.approx(expected)
    f1 = f1_score(y_true, y_pred, average=None)
    sensitivity = recall_score(y_true, y_pred, average=None)
    (tn, fp), _ = multilabel_confusion_matrix(y_true, y_pred).transpose(1, 2, 0)
    for code, stage in enumerate(AASM):
        assert scores[f"f1_{stage}"] == pytest.approx(f1[code])
        assert scores[f"sensitivity_{stage}"] == pytest.approx(sensitivity[code])
        assert scores[f"specificity_{stage}"] == pytest.approx((tn / (tn + fp))[code])


def test_an_absent_stage_leaves_the_other_scores_defined():
    # No N1 at all; N3 is predicted though it never occurs; REM occurs, never predicted.
    y_true, y_pred = [0, 0, 2, 2, 4, 4], [0, 0, 2, 3, 2, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = staging_report(y_true, y_pred).pooled
    undefined = {name for name, value in scores.items() if np.isnan(value)}
    assert undefined == {"f1_N1", "sensitivity_N1", "sensitivity_N3"}
    assert scores["specificity_N1"] == 1
    assert scores["f1_N3"] == scores["f1_REM"] == scores["sensitivity_REM"] == 0
    # W 1, N2 2 / (2 + 3), N3 and REM 0: four stages occur.
    assert scores["f1_macro"] == pytest.approx((1 + 2 * 1 / 5) / 4)
    # W 1, N2 1 / 2, REM 0 are there to be found; two REM are taken for N2, one N2 for N3.
    assert scores["sensitivity_macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert scores["specificity_macro"] == pytest.approx((1 + 1 + 2 / 4 + 5 / 6 + 1) / 5)


def test_one_stage_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = staging_report([2, 2, 2], [2, 2, 2]).pooled
        other = staging_report([2, 2, 2], [3, 3, 3]).pooled
    assert scores["kappa"] == 0
    assert scores["accuracy"] == scores["f1_macro"] == scores["f1_weighted"] == 1
    assert np.isnan(scores["specificity_N2"])
    assert other["kappa"] == other["f1_macro"] == 0


def test_unscored_epochs_are_skipped():
    y_true, y_pred = np.array([0, -1, 2, -1, 4]), np.array([0, 1, 2, 3, 3])
    scores = staging_report(y_true, y_pred).pooled
    expected = staging_report([0, 2, 4], [0, 2, 3]).pooled
    assert scores == pytest.approx(expected, nan_ok=True)
    assert scores["accuracy"] == pytest.approx(2 / 3)


def test_names_and_codes_score_alike():
    rng = np.random.default_rng(1)
    y_true, y_pred = rng.integers(-1, 5, 80), rng.integers(0, 5, 80)
    true_names = np.array([*AASM, "?"])[y_true]
    expected = staging_report(y_true, y_pred).pooled
    for names in (np.array(AASM)[y_pred], np.array(AASM, dtype=object)[y_pred]):
        assert staging_report(true_names, names).pooled == expected
    assert staging_report(true_names, y_pred).pooled == expected


def test_classes_as_a_list():
    scores = staging_report(
        ["wake", "sleep", "?"], ["wake", "wake", "sleep"], classes=["wake", "sleep"]
    ).pooled
    assert scores["sensitivity_wake"] == 1
    assert scores["specificity_wake"] == 0
    scores = staging_report([2, 3, -1], [2, 2, 3], classes=[2, 3]).pooled
    assert scores["sensitivity_2"] == 1
    assert scores["specificity_2"] == 0


def test_report_by_subject():
    y_true = np.array([0, 0, 2, 2, -1, 4, -1])
    y_pred = np.array([0, 2, 2, 2, 0, 0, 0])
    groups = np.array(["a", "a", "a", "a", "b", "b", "nobody scored"])
    report = staging_report(y_true, y_pred, groups=groups)
    assert list(report.per_subject) == ["a", "b"]
    assert report.per_subject["a"]["accuracy"] == 0.75
    assert report.per_subject["b"]["accuracy"] == 0
    assert report.pooled["accuracy"] == pytest.approx(3 / 5)
    assert staging_report(y_true, y_pred).per_subject == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scorers_name_what_the_report_names(scheme):
    report = staging_report([0, 1, 2], [0, 1, 2], classes=scheme).pooled
    assert list(sleep_scorers(scheme)) == list(report)
    assert len(report) == 6 + 3 * len(SCHEMES[scheme])


def test_scorers_in_cross_validate_predict_once():
    rng = np.random.default_rng(2)
    y, groups = rng.integers(-1, 5, 90), np.repeat([1, 2, 3], 30)
    X = np.where(rng.random(90) < 0.7, y.clip(0), 2)[:, None]
    results = cross_validate(
        Parrot(),
        X,
        y,
        groups=groups,
        cv=LeaveOneGroupOut(),
        scoring=pickle.loads(pickle.dumps(sleep_scorers())),
        return_estimator=True,
    )
    report = staging_report(y, X[:, 0], groups=groups)
    for fold, subject in enumerate([1, 2, 3]):
        scores = {name: results[f"test_{name}"][fold] for name in sleep_scorers()}
        assert scores == pytest.approx(report.per_subject[subject], nan_ok=True)
        assert results["estimator"][fold].n_predictions_ == 1


def test_bad_labels_are_named():
    with pytest.raises(ValueError, match="None of the 2 epochs is scored"):
        staging_report([-1, -1], [0, 1])
    with pytest.raises(ValueError, match=r"y_pred holds \[7\].*'REM'"):
        staging_report([0, 1], [0, 7])
    with pytest.raises(ValueError, match=r"y_true holds \['S2'\]"):
        staging_report(["W", "S2"], ["W", "N2"])
    with pytest.raises(ValueError, match="Unknown stage scheme"):
        sleep_scorers("sleepy")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        staging_report([0, 1], [0])


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(3).normal(0.6, 0.1, 12)
    low, high = bootstrap_interval(values)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, random_state=0
    ).confidence_interval
    assert (low, high) == pytest.approx(expected, abs=0.003)
    assert bootstrap_interval(values) == (low, high)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_bootstrap_of_two_subjects_in_closed_form():
    # Means of two draws from {0, 1}: 0, 0.5 and 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_interval([0, 1], confidence=0.6) == (0, 1)
    assert bootstrap_interval([0, 1], confidence=0.4) == (0.5, 0.5)


def test_gap_closed():
    rng = np.random.default_rng(4)
    ear = rng.uniform(0.3, 0.6, 10)
    # Whatever the subjects drawn, a quarter of each one's own gap is a quarter of all.
    gap = rng.uniform(0.1, 0.3, 10)
    closed = gap_closed(scalp=ear + gap, ear=ear, method=ear + gap / 4)
    assert closed.has_gap is True
    assert closed.gap == pytest.approx(gap.mean())
    assert closed.gap_interval == pytest.approx(bootstrap_interval(gap))
    assert closed.share == pytest.approx(0.25)
    assert closed.share_interval == pytest.approx((0.25, 0.25))

    # Equal gains on unequal gaps: a ratio of means, no mean of ratios.
    closed = gap_closed(scalp=[0.6, 0.8], ear=[0.5, 0.5], method=[0.6, 0.6])
    assert closed.share == pytest.approx(0.1 / 0.2)
    # Two subjects: both gaps 0.1, both 0.3, or one of each.
    assert closed.share_interval == pytest.approx((1 / 3, 1))


def test_no_gap_to_close():
    for scalp in ([0.6, 0.4, 0.5], [0.3, 0.2, 0.1]):
        closed = gap_closed(scalp=scalp, ear=[0.5, 0.5, 0.5], method=[0.6, 0.6, 0.6])
        assert closed.has_gap is False
        assert np.isnan(closed.share)
        assert np.isnan(closed.share_interval).all()
    assert closed.gap == pytest.approx(-0.3)


def test_draws_without_a_gap_leave_the_interval_finite():
    # One subject has no gap: a draw of that subject alone would divide 0.01 by 0.
    scalp = np.array([0.5, 0.5, 0.5, 0.8])
    ear = np.array([0.4, 0.4, 0.5, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed = gap_closed(scalp, ear, ear + 0.01)
    assert closed.has_gap
    assert np.isfinite(closed.share_interval).all()


def test_subjects_must_match():
    with pytest.raises(ValueError, match="same two or more subjects"):
        gap_closed([0.5, 0.6], [0.4, 0.5], [0.5])
    with pytest.raises(ValueError, match="same two or more subjects"):
        bootstrap_interval([0.5])
    with pytest.raises(ValueError, match="nan or infinite"):
        bootstrap_interval([0.5, np.nan])
