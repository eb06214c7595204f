"""At home in scikit-learn: its own checks, and its meta-estimators, by subject."""

import warnings

import numpy as np
import pytest
from scipy.special import expit
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GroupKFold,
    HalvingGridSearchCV,
    LeaveOneGroupOut,
    cross_validate,
    learning_curve,
)
from sklearn.utils import estimator_checks
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

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.epochs.checks import as_pair
from tests.tiny import TinyNetwork, make_pair

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
    given = {"max_epochs": 4, "lr": 0.02, "random_state": 0}
    teacher = SleepStager(Perceptron, **given)
    given["feature_max_epochs"] = 1
    tuned = {name: given[name] for name in ("max_epochs", "lr", "random_state")}
    return [
        teacher,
        SelfDistilled(teacher, alpha=0.2, **given),
        SelfDistilled(teacher, strategy="online", **given),
        SelfDistilled(teacher, strategy="two-step", alpha=0.2, **given),
        SelfTuned(teacher, **tuned),
    ]


@parametrize_with_checks(stagers(), expected_failed_checks=lambda _: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("stager", stagers(), ids=repr)
@pytest.mark.filterwarnings("ignore")
def test_what_is_declared_to_fail_fails(stager):
    assert len(EXPECTED_FAILURES) <= 10
    for name in EXPECTED_FAILURES:
        with pytest.raises((AssertionError, ValueError)):
            getattr(estimator_checks, name)(type(stager).__name__, stager)


@pytest.mark.filterwarnings("ignore::skleepkd.distillation.LeakageWarning")
def test_minus_one_means_unscored_unless_it_is_a_class():
    X, y = make_pair(classes=2)
    stager = SleepStager(TinyNetwork, max_epochs=3, random_state=0)
    with pytest.warns(UserWarning, match="-1 and 1 are taken for two classes"):
        both = stager.fit(X, 2 * y - 1)
    assert both.classes_.tolist() == [-1, 1]
    truth = 2 * y - 1
    assert both.score(X, truth) == np.mean(both.predict(X) == truth)
    with pytest.raises(ValueError, match="Only the stage 2 is in y"):
        stager.fit(X, 3 * y - 1)
    # Of stages that are named, -1 is none.
    named = SleepStager(TinyNetwork, classes="aasm", max_epochs=1, random_state=0)
    one = named.fit(X, 2 * y - 1)
    assert one.classes_.tolist() == [0, 1, 2, 3, 4]
    assert one.score(X, 2 * y - 1) == np.mean(one.predict(X[y == 1]) == 1)
    again = clone(named).fit(X[y == 1], y[y == 1])
    np.testing.assert_array_equal(again.predict_proba(X), one.predict_proba(X))
    # A subject of whom nothing but N1 was scored is what a pretrained stager is tuned to.
    tuned = FineTunedSleepStager(FrozenEstimator(named), max_epochs=1, random_state=0)
    probabilities = tuned.fit(X, 2 * y - 1).predict_proba(X)
    tuned.fit(X[y == 1], y[y == 1])
    np.testing.assert_array_equal(tuned.predict_proba(X), probabilities)
    three = np.where(np.arange(len(y)) % 3, y, -1)
    assert stager.fit(X, three).classes_.tolist() == [0, 1]


# ---------------------------------------------------------------- meta-estimators


GIVEN = {"max_epochs": 2, "random_state": 0, "classes": "aasm", "lr": 0.01}
PLAIN = SleepStager(TinyNetwork, **GIVEN)
DISTILLED = DistilledSleepStager(PLAIN, alpha=0.5, **GIVEN)


def subjects_of_fits(monkeypatch):
    """Note the subjects of every fit."""
    seen, fit = [], SleepStager.begin_fit

    def noting(self, pair, *args, **options):
        seen.append(set(pair.subject.tolist()))
        return fit(self, pair, *args, **options)

    monkeypatch.setattr(SleepStager, "begin_fit", noting)
    return seen


@pytest.mark.parametrize("stager", [PLAIN, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("routing", [True, False])
def test_calibrated_by_groups(stager, routing, monkeypatch):
    X, y = make_pair()
    seen = subjects_of_fits(monkeypatch)
    folds = GroupKFold(3)
    with config_context(enable_metadata_routing=routing):
        if routing:
            calibrated = CalibratedClassifierCV(stager, cv=folds)
            calibrated.fit(X, y, groups=X.subject)
        else:
            splits = list(folds.split(X, y, X.subject))
            calibrated = CalibratedClassifierCV(stager, cv=splits)
            calibrated.fit(X, y)
    # Each fold's stager (and its teacher) saw four of six subjects, whole.
    assert len(seen) == 3 * (2 if stager is DISTILLED else 1)
    assert all(len(subjects) == 4 for subjects in seen)
    assert len(set.intersection(*seen)) == 0
    found = calibrated.predict_proba(X.target_epochs)
    expected = []
    for member in calibrated.calibrated_classifiers_:
        proba = member.estimator.predict_proba(X)
        slopes = [calibrator.a_ for calibrator in member.calibrators]
        offsets = [calibrator.b_ for calibrator in member.calibrators]
        each = expit(-(proba * slopes + offsets))
        expected.append(each / each.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)


def test_voting(pair):
    X, y = pair
    names = np.array(["W", "N1", "N2", "N3", "REM"])[y]
    members = [("plain", PLAIN), ("distilled", DISTILLED)]
    members = [(name, stager.set_params(classes=None)) for name, stager in members]
    vote = VotingClassifier(members, voting="soft").fit(X, names)
    mean = np.mean([member.predict_proba(X) for member in vote.estimators_], axis=0)
    np.testing.assert_allclose(vote.predict_proba(X), mean, rtol=1e-6)
    np.testing.assert_array_equal(vote.predict(X), vote.classes_[mean.argmax(axis=1)])


def test_learning_curve_over_subjects(monkeypatch):
    X, y = make_pair(n_subjects=6, n_epochs=20)
    seen = subjects_of_fits(monkeypatch)
    # Nights of 20 epochs, in the order of the subjects: 40 and 80 rows are two and four.
    sizes, _, scores = learning_curve(
        PLAIN, X, y, groups=X.subject, cv=GroupKFold(3), train_sizes=[40, 80]
    )
    assert sizes.tolist() == [40, 80]
    assert scores.shape == (2, 3)
    assert sorted(len(subjects) for subjects in seen) == [2, 2, 2, 4, 4, 4]


def test_halving_over_passes(pair):
    X, y = pair
    search = HalvingGridSearchCV(
        DISTILLED,
        {"lr": [0.01, 0.001, 1e-8]},
        resource="max_epochs",
        min_resources=2,
        max_resources=6,
        cv=GroupKFold(2),
        random_state=0,
    )
    search.fit(X, y, groups=X.subject)
    assert search.n_resources_ == [2, 6]
    assert len(search.best_estimator_.history_) == 6
    assert search.cv_results_["n_resources"].tolist() == [2, 2, 2, 6]


@pytest.mark.parametrize("routing", [True, False])
def test_groups_with_routing_on_and_off(routing, monkeypatch):
    X, y = make_pair()
    seen = subjects_of_fits(monkeypatch)
    with config_context(enable_metadata_routing=routing):
        groups = {"params": {"groups": X.subject}} if routing else {"groups": X.subject}
        scores = cross_validate(DISTILLED, X, y, cv=LeaveOneGroupOut(), **groups)
    assert len(scores["test_score"]) == 6
    assert all(len(subjects) == 5 for subjects in seen)


# ---------------------------------------------------------------- skorch, MNE, braindecode


def test_callbacks_and_terms(pair):
    X, y = pair
    callbacks = [
        ("kappa", EpochScoring("accuracy", on_train=True, name="seen")),
        ("clip", GradientNormClipping(1.0)),
        ("schedule", LRScheduler("StepLR", step_size=1, gamma=0.5)),
        ("freeze", Freezer("filters*")),
        ("stop", EarlyStopping("train_loss", patience=1, threshold=10.0)),
    ]
    given = {**GIVEN, "max_epochs": 9}
    student = DistilledSleepStager(PLAIN, alpha=0.5, callbacks=callbacks, **given)
    student.fit(X, y)
    # A threshold that nothing passes: two passes, then it stops.
    assert len(student.history_) == 2
    names = ("train_cross_entropy", "train_softmax_loss", "train_feature_loss")
    terms = student.history_[:, names]
    losses = student.history_[:, "train_loss"]
    for (cross_entropy, softmax, feature), loss in zip(terms, losses, strict=True):
        assert loss == pytest.approx(
            0.5 * cross_entropy + 0.5 * softmax + feature, rel=1e-5
        )
    hits = student.history_[-1, "seen"] * len(X)
    assert hits > 0
    assert hits == pytest.approx(round(hits))
    assert not student.module_.filters.weight.requires_grad
    assert student.history_[:, "event_lr"] == [0.01, 0.005]


def test_online_teacher_has_its_term(pair):
    X, y = pair
    student = DistilledSleepStager(PLAIN, strategy="online", **GIVEN).fit(X, y)
    assert all(loss > 0 for loss in student.history_[:, "train_teacher_loss"])


def test_mne_epochs_in():
    mne = pytest.importorskip("mne")
    X, y = make_pair()
    info = mne.create_info(["E1", "E2"], sfreq=2.0, ch_types="eeg")
    with warnings.catch_warnings(action="ignore"):
        epochs = mne.EpochsArray(1e-6 * X["target"].astype(float), info, verbose="error")
    stager = SleepStager(TinyNetwork, **GIVEN).fit(epochs, y)
    alike = SleepStager(TinyNetwork, **GIVEN).fit(X.target_epochs, y)
    np.testing.assert_allclose(
        stager.predict_proba(epochs), alike.predict_proba(X), atol=1e-4
    )
    # scikit-learn cannot slice mne.Epochs as an array; a pair of them it can.
    pair = PairedEpochs.from_mne(epochs, target=epochs.ch_names)
    scores = cross_validate(stager, pair, y, groups=X.subject, cv=GroupKFold(2))
    assert np.isfinite(scores["test_score"]).all()


def test_a_braindecode_classifier_is_a_teacher(pair):
    braindecode = pytest.importorskip("braindecode")
    X, y = pair
    teacher = braindecode.EEGClassifier(
        TinyNetwork, max_epochs=1, train_split=None, classes=list(range(5)), verbose=0
    )
    student = DistilledSleepStager(
        teacher, TinyNetwork, feature_loss=None, alpha=0.5, **GIVEN
    )
    student.fit(X, y)
    assert student.predict_proba(X["target"]).shape == (len(X), 5)
