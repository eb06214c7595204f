import itertools
import pickle
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.metrics import (
    cohen_kappa_score,
    f1_score,
    make_scorer,
    multilabel_confusion_matrix,
    recall_score,
)
from sklearn.model_selection import LeaveOneGroupOut, cross_validate

from skleepkd.metrics import (
    bootstrap_interval,
    expected_calibration_error,
    gap_closed,
    paired_test,
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
    """Predicts its only feature and counts the calls."""

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
    alone = staging_report(y_true, y_pred)
    assert alone.per_subject == alone.mean == alone.interval == {}


def test_report_over_subjects_comes_first():
    rng = np.random.default_rng(5)
    y_true, groups = rng.integers(0, 3, 120), np.repeat(list("abcd"), [60, 30, 20, 10])
    y_true[groups == "b"] %= 2  # no third stage
    y_true[groups != "a"] += 1
    y_pred = np.where(rng.random(120) < 0.7, y_true, 2)
    report = staging_report(y_true, y_pred, groups)
    assert list(report) == ["mean", "interval", "per_subject", "pooled"]
    kappas = [
        cohen_kappa_score(y_true[groups == who], y_pred[groups == who]) for who in "abcd"
    ]
    assert report.mean["kappa"] == pytest.approx(np.mean(kappas))
    assert report.mean["kappa"] != pytest.approx(report.pooled["kappa"], abs=1e-3)
    assert report.interval["kappa"] == pytest.approx(bootstrap_interval(kappas))
    # N3 is scored in c and d alone, wake in a alone, REM in none.
    n3 = [report.per_subject[who]["sensitivity_N3"] for who in "cd"]
    assert report.mean["sensitivity_N3"] == pytest.approx(np.mean(n3))
    assert report.interval["sensitivity_N3"] == pytest.approx(bootstrap_interval(n3))
    w = report.per_subject["a"]["sensitivity_W"]
    assert report.mean["sensitivity_W"] == pytest.approx(w)
    assert np.isnan(report.interval["sensitivity_W"]).all()
    assert np.isnan(report.mean["sensitivity_REM"])


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


# ---------------------------------------------------------------- a test between methods


def p_value_by_all_flips(difference):
    """Share of all sign flips whose sum is as far from 0."""
    flips = np.array(list(itertools.product([-1, 1], repeat=len(difference))))
    sums = np.abs(flips @ difference)
    return np.mean(sums >= abs(np.sum(difference)) - 1e-12)


def test_paired_test_counts_all_flips():
    difference = np.random.default_rng(6).normal(0.03, 0.05, 8)
    baseline = np.linspace(0.4, 0.7, 8)
    test = paired_test(baseline + difference, baseline)
    assert test.difference == pytest.approx(difference.mean())
    assert test.interval == pytest.approx(bootstrap_interval(difference))
    assert test.n_subjects == 8
    assert 0.01 < test.pvalue < 1
    assert test.pvalue == pytest.approx(p_value_by_all_flips(difference))
    other = paired_test(baseline, baseline + difference)
    assert other.difference == pytest.approx(-test.difference)
    assert other.pvalue == pytest.approx(test.pvalue)


def test_paired_test_in_closed_form():
    # All of n subjects gain: of 2**n flips two are as far from 0.
    for n in (2, 5, 6):
        gain = np.linspace(0.1, 0.2, n)
        assert paired_test(gain, np.zeros(n)).pvalue == pytest.approx(2 / 2**n)
    # Equal gains and one loss: sums of +-1 over four are as large as 2 in 10 of 16 ways.
    assert paired_test([1, 1, 1, 0], [0, 0, 0, 1]).pvalue == pytest.approx(10 / 16)
    assert paired_test([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]).pvalue == 1


def test_paired_test_of_many_subjects_draws():
    difference = np.random.default_rng(7).normal(0.02, 0.05, 30)
    test = paired_test(difference, np.zeros(30), random_state=1)
    assert test == paired_test(difference, np.zeros(30), random_state=1)
    # So many subjects: close to Student's test.
    assert test.pvalue == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.02)
    certain = paired_test(np.ones(30), np.zeros(30), n_resamples=99)
    assert certain.pvalue == pytest.approx(2 / 100)  # drawn ones are never 0


def test_paired_test_needs_the_same_subjects():
    with pytest.raises(ValueError, match="same two or more subjects"):
        paired_test([0.5, 0.6], [0.4, 0.5, 0.6])
    with pytest.raises(ValueError, match="nan or infinite"):
        paired_test([0.5, np.nan], [0.4, 0.5])


# ---------------------------------------------------------------- calibration


def sure(confidence, stage, n_classes=5):
    """Probabilities with this one for the stage, the rest shared by the others."""
    confidence = np.broadcast_to(confidence, len(stage))
    proba = np.repeat((1 - confidence)[:, None] / (n_classes - 1), n_classes, axis=1)
    proba[np.arange(len(stage)), stage] = confidence
    return proba


def test_calibration_error_in_closed_form():
    # Two bins: 10 epochs at 0.9 of which 8 are right, 10 at 0.55 of which 8 are right.
    stages = np.full(20, 2)
    y_true = np.where(np.arange(20) % 10 < 8, 2, 0)
    proba = sure(np.repeat([0.9, 0.55], 10), stages)
    error = expected_calibration_error(y_true, proba)
    assert error == pytest.approx(0.5 * 0.1 + 0.5 * 0.25)
    # In one bin, over- and underconfidence cancel.
    assert expected_calibration_error(y_true, proba, n_bins=1) == pytest.approx(0.075)
    assert isinstance(error, float)


def test_calibration_error_at_its_ends():
    y_true = np.array([0, 1, 2, 3, 4])
    assert expected_calibration_error(y_true, np.eye(5)) == 0
    assert expected_calibration_error(y_true, np.eye(5)[(y_true + 1) % 5]) == 1
    # Always 0.2 of five equal stages, and right in one of five.
    assert expected_calibration_error(y_true, np.full((5, 5), 0.2)) == pytest.approx(0)


def test_the_upper_end_belongs_to_a_bin():
    # At 0.5 (wrong) and 0.6 (right): one bin of (0.4, 0.6] beside (0.5, 0.75].
    proba = np.array([[0.5, 0.25, 0.25], [0.6, 0.2, 0.2]])
    y_true = ["N", "W"]
    apart = (0.5 + 0.4) / 2
    together = abs(1 / 2 - 1.1 / 2)
    for n_bins, expected in ((5, together), (4, apart), (2, apart)):
        error = expected_calibration_error(y_true, proba, classes="wnr", n_bins=n_bins)
        assert error == pytest.approx(expected)


def test_calibration_error_agrees_with_a_loop():
    rng = np.random.default_rng(8)
    proba, y_true = rng.dirichlet(np.ones(5), 400), rng.integers(0, 5, 400)
    expected = 0.0
    for upper in np.arange(1, 16) / 15:
        inside = (proba.max(axis=1) > upper - 1 / 15) & (proba.max(axis=1) <= upper)
        if inside.any():
            accuracy = np.mean(proba.argmax(axis=1)[inside] == y_true[inside])
            expected += inside.mean() * abs(accuracy - proba.max(axis=1)[inside].mean())
    assert expected_calibration_error(y_true, proba) == pytest.approx(expected)
    # 32-bit outputs of a network, labels as names.
    names = np.array(AASM)[y_true]
    error = expected_calibration_error(names, proba.astype(np.float32), classes=AASM)
    assert error == pytest.approx(expected, abs=1e-6)


def test_calibration_over_subjects():
    y_true = np.array([2, 2, 0, 0, -1, 2, -1])
    proba = sure(1.0, [2, 2, 2, 2, 2, 2, 2])
    proba[[4, 6]] = np.nan  # nobody scored them
    groups = list("aabbbc") + ["nobody scored"]
    report = expected_calibration_error(y_true, proba, groups=groups)
    assert report.per_subject == {"a": 0, "b": 1, "c": 0}
    assert report.mean == pytest.approx(1 / 3)
    assert report.interval == bootstrap_interval([0, 1, 0])
    assert report.pooled == pytest.approx(2 / 5)


def test_calibration_error_as_a_scorer():
    X, y = np.zeros((12, 1)), np.array([0, 2, 2, 2, 3, 4] * 2)
    scorer = make_scorer(
        expected_calibration_error,
        response_method="predict_proba",
        greater_is_better=False,
        classes=[0, 2, 3, 4],
    )
    scores = cross_validate(DummyClassifier(), X, y, cv=2, scoring=scorer)
    # The prior predicts N2 with 0.5, and half are N2.
    np.testing.assert_allclose(scores["test_score"], 0, atol=1e-12)
    sure = DummyClassifier(strategy="most_frequent")
    scores = cross_validate(sure, X, y, cv=2, scoring=scorer)
    np.testing.assert_allclose(scores["test_score"], -0.5)


def test_bad_probabilities_are_refused():
    expected = r"shape \(2, 4\); a column for each .*'REM'.*classes='aasm', 'wldr'"
    with pytest.raises(ValueError, match=expected):
        expected_calibration_error([0, 1], np.full((2, 4), 0.25))
    with pytest.raises(ValueError, match=r"shape \(2, 5\); .*'D', 'R'.*classes='aasm'"):
        expected_calibration_error([0, 1], np.full((2, 5), 0.2), classes="wldr")
    with pytest.raises(ValueError, match=r"for each of \[.*\] is expected"):
        expected_calibration_error([0], np.full((1, 6), 1 / 6))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        expected_calibration_error([0], np.full((2, 5), 0.2))
    for value in (np.nan, 2.0, -0.5):
        proba = np.full((2, 5), 0.2)
        proba[1, 0] = value
        with pytest.raises(ValueError, match="must be probabilities"):
            expected_calibration_error([0, 1], proba)
        assert expected_calibration_error([0, -1], proba) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="None of the 2 epochs is scored"):
        expected_calibration_error([-1, -1], np.full((2, 5), 0.2))
    with pytest.raises(ValueError, match=r"y_true holds \[7\]"):
        expected_calibration_error([0, 7], np.full((2, 5), 0.2))
