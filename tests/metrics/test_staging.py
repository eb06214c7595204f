import pickle
import warnings

import numpy as np
import pytest
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
    sleep_scorers,
    staging_report,
)
from skleepkd.metrics.staging import kappa_of
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
    with warnings.catch_warnings(action="error"):
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
    with warnings.catch_warnings(action="error"):
        scores, other = (staging_report([2] * 3, [y] * 3).pooled for y in (2, 3))
    assert scores["kappa"] == 0
    assert scores["accuracy"] == scores["f1_macro"] == scores["f1_weighted"] == 1
    assert np.isnan(scores["specificity_N2"])
    assert other["kappa"] == other["f1_macro"] == 0


def test_names_codes_and_unscored_epochs():
    rng = np.random.default_rng(1)
    y_true, y_pred = rng.integers(-1, 5, 80), rng.integers(0, 5, 80)
    scored = y_true >= 0
    expected = staging_report(y_true[scored], y_pred[scored]).pooled
    names, predicted = np.array([*AASM, "?"])[y_true], np.array(AASM)[y_pred]
    for true, found in (
        (y_true, y_pred),
        (names, predicted),
        (names, predicted.astype(object)),
        (names, y_pred),
    ):
        assert staging_report(true, found).pooled == expected
    for true, found, classes in (
        (["wake", "sleep", "?"], ["wake", "wake", "sleep"], ["wake", "sleep"]),
        ([2, 3, -1], [2, 2, 3], [2, 3]),
    ):
        scores = staging_report(true, found, classes=classes).pooled
        assert scores[f"sensitivity_{classes[0]}"] == 1
        assert scores[f"specificity_{classes[0]}"] == 0


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
    scoring = pickle.loads(pickle.dumps(sleep_scorers()))
    given = {"groups": groups, "cv": LeaveOneGroupOut(), "scoring": scoring}
    results = cross_validate(Parrot(), X, y, return_estimator=True, **given)
    report = staging_report(y, X[:, 0], groups=groups)
    for fold, subject in enumerate([1, 2, 3]):
        scores = {name: results[f"test_{name}"][fold] for name in sleep_scorers()}
        assert scores == pytest.approx(report.per_subject[subject], nan_ok=True)
        assert results["estimator"][fold].n_predictions_ == 1


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([-1, -1], [0, 1], "None of the 2 epochs is scored"),
        ([0, 1], [0, 7], r"y_pred holds \[7\].*'REM'"),
        (["W", "S2"], ["W", "N2"], r"y_true holds \['S2'\]"),
        ([0, 1], [0], "inconsistent numbers of samples"),
    ],
)
def test_bad_labels_are_named(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        staging_report(y_true, y_pred)
    with pytest.raises(ValueError, match="Unknown stage scheme"):
        sleep_scorers("sleepy")


# ---------------------------------------------------------------- calibration


def sure(confidence, stage, n_classes=5):
    """Probabilities with this one for the stage, the rest shared by the others."""
    confidence = np.broadcast_to(confidence, len(stage))
    proba = np.repeat((1 - confidence)[:, None] / (n_classes - 1), n_classes, axis=1)
    proba[np.arange(len(stage)), stage] = confidence
    return proba


def test_kappa_by_hand():
    # 21 of 30 agree; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    assert kappa_of(np.array([[12, 3], [6, 9]])) == pytest.approx(0.4)
    assert kappa_of(np.array([[4, 0], [0, 0]])) == 0


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
    proba = np.array([[0.25, 0.25, 0.5], [0.2, 0.2, 0.6]])  # N, R, W
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
    order = np.argsort(AASM)
    names, proba = np.array(AASM)[y_true], proba[:, order].astype(np.float32)
    error = expected_calibration_error(names, proba, classes=sorted(AASM))
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
    options = {"response_method": "predict_proba", "greater_is_better": False}
    scorer = make_scorer(expected_calibration_error, classes=[0, 2, 3, 4], **options)
    # The prior predicts N2 with 0.5, and half are N2.
    for strategy, expected in (("prior", 0), ("most_frequent", -0.5)):
        scores = cross_validate(
            DummyClassifier(strategy=strategy), X, y, cv=2, scoring=scorer
        )
        np.testing.assert_allclose(scores["test_score"], expected, atol=1e-12)


FIFTH = np.full((2, 5), 0.2)


@pytest.mark.parametrize(
    ("y_true", "proba", "classes", "message"),
    [
        (
            *([0, 1], np.full((2, 4), 0.25), "aasm"),
            r"shape \(2, 4\); a column for each .*'REM'.*classes='aasm', 'wldr'",
        ),
        ([0, 1], FIFTH, "wldr", r"shape \(2, 5\); .*'D', 'R'.*classes='aasm'"),
        ([0], np.full((1, 6), 1 / 6), "aasm", r"for each of \[.*\] is expected"),
        ([0], FIFTH, "aasm", "inconsistent numbers"),
        ([-1, -1], FIFTH, "aasm", "None of the 2 epochs is scored"),
        ([0, 7], FIFTH, "aasm", r"y_true holds \[7\]"),
    ],
)
def test_bad_probabilities_are_refused(y_true, proba, classes, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(y_true, proba, classes=classes)


@pytest.mark.parametrize("value", [np.nan, 2.0, -0.5])
def test_numbers_that_are_no_probabilities(value):
    proba = FIFTH.copy()
    proba[1, 0] = value
    with pytest.raises(ValueError, match="must be probabilities"):
        expected_calibration_error([0, 1], proba)
    assert expected_calibration_error([0, -1], proba) == pytest.approx(0.8)
