"""At home in scikit-learn: its own checks, and its meta-estimators, by subject."""

from contextlib import nullcontext

import numpy as np
import pytest
from scipy.special import expit
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GroupKFold,
    HalvingGridSearchCV,
    learning_curve,
)
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.metaestimators import available_if
from skorch.callbacks import (
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
)
from torch import nn

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.epochs.checks import as_pair
from tests.tiny import FAST, NAMES, TinyNetwork, make_pair

#: What scikit-learn's checks require and a stager does otherwise. At most ten.
EXPECTED_FAILURES = {
    "check_no_attributes_set_in_init": (
        "skorch, whose classifiers stagers are, sets its books (history_, initialized_, "
        "virtual_params_) in __init__."
    ),
    "check_n_features_in": (
        "n_features_in_ counts the columns of a table; epochs have channels and samples "
        "(signal_)."
    ),
    "check_n_features_in_after_fitting": (
        "As check_n_features_in; a wrong number of channels or samples is an error of its own."
    ),
}


class Perceptron(nn.Sequential):
    """Learns the tables of the checks, whose columns are no samples of a signal."""

    feature_layers = ("1",)

    def __init__(self, n_chans, n_times, n_outputs):
        # (batch, n_chans, n_times) -> (batch, n_chans * n_times)
        hidden = nn.Linear(n_chans * n_times, 16)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(16, n_outputs))


class SelfDistilled(DistilledSleepStager):
    """Teacher and student see one signal, since the checks have no pairs."""

    def fit(self, X, y, groups=None):
        return super().fit(X, y, X_source=X, groups=groups)

    @available_if(lambda self: self.strategy != "online")
    def partial_fit(self, X, y, classes=None, groups=None):
        return super().partial_fit(as_pair(X, X), y, classes, groups)


class SelfTuned(FineTunedSleepStager):
    """Pretrained on the signal that it is tuned on, since the checks have no pairs."""

    def fit(self, X, y, groups=None):
        return super().fit(X, y, X_source=X, groups=groups)

    def partial_fit(self, X, y, classes=None, groups=None):
        return super().partial_fit(as_pair(X, X), y, classes, groups)


def stagers():
    """One stager of each kind and strategy, which learns the checks' tables."""
    given = {"max_epochs": 4, "lr": 0.05, "batch_size": 96, "random_state": 0}
    teacher = SleepStager(Perceptron, **given)
    two_steps = {"strategy": "two-step", "alpha": 0.2, "feature_max_epochs": 1}
    return [
        teacher,
        SelfDistilled(teacher, alpha=0.2, **given),
        SelfDistilled(teacher, strategy="online", alpha=0.2, **given),
        SelfDistilled(teacher, **two_steps, **given),
        SelfTuned(teacher, **given),
    ]


@parametrize_with_checks(stagers())
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    assert len(EXPECTED_FAILURES) <= 10
    fails = check.func.__name__ in EXPECTED_FAILURES
    with pytest.raises((AssertionError, ValueError)) if fails else nullcontext():
        check(estimator)


# ---------------------------------------------------------------- meta-estimators


GIVEN = {**FAST, "classes": "aasm", "lr": 0.01}
PLAIN = SleepStager(TinyNetwork, **GIVEN)
DISTILLED = DistilledSleepStager(PLAIN, alpha=0.5, **GIVEN)


@pytest.fixture
def seen(monkeypatch):
    """The subjects of every fit."""
    seen, fit = [], SleepStager.begin_fit

    def noting(self, pair, *args, **options):
        seen.append(set(pair.subject.tolist()))
        return fit(self, pair, *args, **options)

    monkeypatch.setattr(SleepStager, "begin_fit", noting)
    return seen


@pytest.mark.parametrize("stager", [PLAIN, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("routing", [True, False])
def test_calibrated_by_groups(pair, stager, routing, seen):
    X, y = pair
    folds = GroupKFold(3)
    with config_context(enable_metadata_routing=routing):
        splits = folds if routing else list(folds.split(X, y, X.subject))
        groups = {"groups": X.subject} if routing else {}
        calibrated = CalibratedClassifierCV(stager, cv=splits).fit(X, y, **groups)
    # Each fold's stager (and its teacher) saw four of six subjects, whole.
    assert len(seen) == 3 * (2 if stager is DISTILLED else 1)
    assert all(len(subjects) == 4 for subjects in seen)
    assert len(set.intersection(*seen)) == 0
    expected = []
    for member in calibrated.calibrated_classifiers_:
        slopes = [calibrator.a_ for calibrator in member.calibrators]
        offsets = [calibrator.b_ for calibrator in member.calibrators]
        each = expit(-(member.estimator.predict_proba(X) * slopes + offsets))
        expected.append(each / each.sum(axis=1, keepdims=True))
    found = calibrated.predict_proba(X.target_epochs)
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)


def test_voting(pair):
    X, y = pair
    members = [("plain", PLAIN), ("distilled", DISTILLED)]
    members = [(name, clone(net).set_params(classes=None)) for name, net in members]
    vote = VotingClassifier(members, voting="soft").fit(X, NAMES[y])
    mean = np.mean([member.predict_proba(X) for member in vote.estimators_], axis=0)
    np.testing.assert_allclose(vote.predict_proba(X), mean, rtol=1e-6)
    np.testing.assert_array_equal(vote.predict(X), vote.classes_[mean.argmax(axis=1)])


def test_learning_curve_over_subjects(seen):
    X, y = make_pair(n_epochs=20)
    # Nights of 20 epochs, in the order of the subjects: 40 and 80 rows are two and four.
    given = {"groups": X.subject, "cv": GroupKFold(3), "train_sizes": [40, 80]}
    sizes, _, scores = learning_curve(PLAIN, X, y, **given)
    assert sizes.tolist() == [40, 80]
    assert scores.shape == (2, 3)
    assert sorted(len(subjects) for subjects in seen) == [2, 2, 2, 4, 4, 4]


def test_halving_over_passes(pair):
    X, y = pair
    passes = {"resource": "max_epochs", "min_resources": 2, "max_resources": 6}
    grid = {"lr": [0.01, 0.001, 1e-8]}
    search = HalvingGridSearchCV(PLAIN, grid, cv=GroupKFold(2), random_state=0, **passes)
    search.fit(X, y, groups=X.subject)
    assert search.n_resources_ == [2, 6]
    assert len(search.best_estimator_.history_) == 6
    assert search.cv_results_["n_resources"].tolist() == [2, 2, 2, 6]


# ---------------------------------------------------------------- skorch


def test_callbacks_and_terms(pair):
    X, y = pair
    callbacks = [
        ("kappa", EpochScoring("accuracy", on_train=True, name="seen")),
        ("clip", GradientNormClipping(1.0)),
        ("schedule", LRScheduler("StepLR", step_size=1, gamma=0.5)),
        ("freeze", Freezer("filters*")),
        ("stop", EarlyStopping("train_loss", patience=1, threshold=10.0)),
    ]
    given = {**GIVEN, "max_epochs": 9, "callbacks": callbacks}
    student = DistilledSleepStager(PLAIN, feature_loss="mse", **given).fit(X, y)
    # A threshold that nothing passes: two passes, then it stops.
    assert len(student.history_) == 2
    hits = student.history_[-1, "seen"] * len(X)
    assert hits > 0
    assert hits == pytest.approx(round(hits))
    assert not student.module_.filters.weight.requires_grad
    assert student.history_[:, "event_lr"] == [0.01, 0.005]
