"""Scores of people whom a stager knows already, and teachers that are fitted once more."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from skorch.callbacks import EpochScoring
from skorch.dataset import ValidSplit

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    SleepStager,
    load,
    save,
)
from skleepkd.distillation import LeakageWarning
from skleepkd.model_selection import cross_validate
from skleepkd.preprocessing import EpochScaler
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, make_pair

PLAIN = SleepStager(TinyNetwork, **FAST)
STAGERS = {
    "plain": PLAIN,
    "sequences": SleepStager(TinySequenceNetwork, sequence_length=3, **FAST),
    "pipeline": make_pipeline(EpochScaler(), PLAIN),
    "distilled": DistilledSleepStager(PLAIN, **FAST),
    "fine-tuned": FineTunedSleepStager(PLAIN, **FAST),
}


def trained_on(*names):
    return pytest.warns(LeakageWarning, match=f"fitted on other epochs of the .*{names[0]}")


@pytest.fixture(params=[False, True], ids=["onsets", "samples"])
def nights(request, pair):
    """Two nights of each of six people; without onsets, samples tell their epochs apart."""
    X, y = pair
    first = np.tile(np.arange(24) < 12, 6)
    if request.param:
        X = PairedEpochs(X["target"], source=X["source"], subject=X.subject)
    return X, y, first


@pytest.mark.parametrize("stager", STAGERS.values(), ids=STAGERS)
def test_a_later_night_of_the_same_people(pair, stager):
    X, y = pair
    first = np.tile(np.arange(24) < 12, 6)
    stager = clone(stager).fit(X[first], y[first])
    with warnings.catch_warnings(action="error"):
        stager.score(X[first], y[first])
        stager.predict(X[first][5:9])
    with trained_on("subject s0, s1"):
        stager.predict(X[~first])


def test_once_a_fit(nights):
    X, y, first = nights
    stager = clone(PLAIN).fit(X[first], y[first])
    with trained_on("s0"):
        stager.predict_proba(X)
    with warnings.catch_warnings(action="error"):
        stager.score(X, y)
        stager.predict(X[~first])
    stager.fit(X[first], y[first])
    with trained_on("s5"):
        stager.score(X[-3:], y[-3:])


def test_the_very_same_epochs_are_told_by_samples_or_onsets(nights):
    X, y, first = nights
    order = np.random.default_rng(0).permutation(np.flatnonzero(first))
    stager = clone(PLAIN).fit(X[order], y[order])
    stager.predict(X[first])
    again = X.replace(target=X["target"].astype(float))
    stager.predict(again[first])
    with trained_on("s3"):
        stager.predict(again[[3 * 24, 3 * 24 + 20]])


def test_unscored_epochs_were_given_too(nights):
    X, y, _ = nights
    y = np.where(np.arange(len(y)) % 3, y, -1)
    clone(PLAIN).fit(X, y).predict(X)


def test_going_on_adds_people(nights):
    X, y, _ = nights
    one, two = (X.subject < "s3"), (X.subject >= "s3")
    stager = SleepStager(TinyNetwork, classes="aasm", **FAST).fit(X[one], y[one])
    stager.predict(X[two])
    stager.partial_fit(X[two], y[two]).predict(X)


@pytest.mark.parametrize("stager", STAGERS.values(), ids=STAGERS)
def test_splits_by_subject_are_silent_and_by_epoch_are_not(pair, stager):
    X, y = pair
    by_person = {"groups": X.subject, "cv": GroupKFold(2), "error_score": "raise"}
    cross_val_score(stager, X, y, **by_person)
    with trained_on("s0"):
        cross_val_score(stager, X, y, cv=KFold(2, shuffle=True, random_state=0))


def test_training_scores_and_validation_are_silent(pair, tmp_path):
    X, y = pair
    cv = {"groups": X.subject, "cv": GroupKFold(2), "memory": tmp_path}
    cross_validate(PLAIN, X, y, return_train_score=True, **cv)
    accuracy = EpochScoring("accuracy", name="valid_accuracy")
    for split in ({"validation": 2}, {"train_split": ValidSplit(3)}):
        stager = SleepStager(TinyNetwork, callbacks=[accuracy], **split, **FAST).fit(X, y)
        stager.predict(X)  # those who are held out are seen, by the same epochs


def test_those_who_chose_the_weights_are_seen(nights):
    X, y, first = nights
    stager = SleepStager(TinyNetwork, validation=("s5",), **FAST).fit(X[first], y[first])
    with trained_on("s5"):
        stager.predict(X[~first & (X.subject == "s5")])


def test_silenced_where_it_is_meant(pair):
    X, y = pair
    stager = clone(PLAIN).fit(X[::2], y[::2])
    with pytest.raises(LeakageWarning, match=r"filterwarnings\(\"ignore\", category=skl"):
        stager.predict(X)
    with warnings.catch_warnings():
        import skleepkd

        warnings.filterwarnings("ignore", category=skleepkd.distillation.LeakageWarning)
        stager.predict(X)


def test_people_who_are_not_known(pair):
    X, y = pair
    clone(PLAIN).fit(X["target"][::2], y[::2]).predict(X)
    clone(PLAIN).fit(X["target"][::2], y[::2], groups=X.subject[::2]).predict(X["target"])
    assert clone(PLAIN).fit(X["target"], y).seen_epochs_ is None
    # Where nights alone are known, they tell people.
    named = PairedEpochs(X["target"], recording=X.recording, onset=X.onset)
    stager = clone(PLAIN).fit(named[::2], y[::2])
    with trained_on("recording night-s0"):
        stager.predict(X)
    # A night of somebody else may have the same name.
    nameless = PairedEpochs(X["target"], subject=X.subject, recording="1", onset=X.onset)
    stager = clone(PLAIN).fit(nameless[X.subject < "s3"], y[X.subject < "s3"])
    stager.predict(nameless[X.subject > "s3"])


def test_pickled_and_saved(nights, tmp_path):
    X, y, first = nights
    stager = clone(PLAIN).fit(X[first], y[first])
    save(stager, tmp_path / "kept.safetensors")
    kept = load(tmp_path / "kept.safetensors", module=TinyNetwork)
    for again in (pickle.loads(pickle.dumps(stager)), kept):
        assert again.seen_epochs_.dtype == np.uint32
        again.predict(X[first])
        with trained_on("s0"):
            again.predict(X)


def test_a_frozen_part_and_own_people(nights):
    X, y, first = nights
    teacher = FrozenEstimator(clone(PLAIN).fit(X[first].source_epochs, y[first]))
    rest = ~first & (X.subject < "s3")
    for student, name in (
        (DistilledSleepStager(teacher, **FAST), "teacher"),
        (FineTunedSleepStager(teacher, **FAST), "pretrained stager"),
    ):
        student.fit(X[rest], y[rest]).predict(X[rest])
        with trained_on("s0"):
            student.predict(X[first & (X.subject < "s3")])
        student.fit(X[rest], y[rest])
        with pytest.warns(
            LeakageWarning, match=f"The frozen {name} was fitted on the subject s5"
        ):
            student.predict(X[X.subject == "s5"])
    with trained_on("s0"):
        teacher.predict(X[~first].source_epochs)


def test_two_digests_differ():
    X, _ = make_pair(n_subjects=40, n_epochs=500, n_times=8)
    bare = PairedEpochs(X["target"], subject=X.subject)
    for pair in (X, bare):
        # 20,000 of 2 ** 32 numbers: 0.05 equal pairs are expected.
        assert len(np.unique(pair.row_digests())) >= len(X) - 1
        rows = np.random.default_rng(0).permutation(len(X))[:99]
        np.testing.assert_array_equal(pair[rows].row_digests(), pair.row_digests()[rows])
    spectra = PairedEpochs(np.random.default_rng(0).normal(size=(50, 1, 6, 17)))
    assert len(np.unique(spectra.row_digests())) == 50
    # However the array lies in memory.
    turned = PairedEpochs(np.asfortranarray(X["target"][:99]), subject=X.subject[:99])
    np.testing.assert_array_equal(turned.row_digests(), bare[:99].row_digests())


# ---------------------------------------------------------------- fitted once more


@pytest.mark.parametrize(
    ("kind", "name"),
    [(DistilledSleepStager, "teacher"), (FineTunedSleepStager, "pretrained")],
)
def test_a_fitted_teacher_that_is_not_frozen(pair, kind, name):
    X, y = pair
    fitted = clone(PLAIN).fit(X.source_epochs, y)
    for given in (
        fitted,
        make_pipeline(EpochScaler(), clone(PLAIN)).fit(X.source_epochs, y),
    ):
        student = kind(given, **FAST)
        with pytest.warns(UserWarning, match=f"{name}=FrozenEstimator") as caught:
            student.fit(X, y)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"):
        cross_val_score(student, X, y, groups=X.subject, cv=GroupKFold(2))
        kind(FrozenEstimator(fitted), **FAST).fit(X, y)
        kind(PLAIN, **FAST).fit(X, y).fit(X, y)


def test_a_student_as_teacher(pair):
    X, y = pair
    student = DistilledSleepStager(PLAIN, **FAST)
    tuned = FineTunedSleepStager(PLAIN, **FAST)
    for kind, last in (
        (DistilledSleepStager, tuned),
        (FineTunedSleepStager, tuned),
        (FineTunedSleepStager, student),
    ):
        for given in (last, make_pipeline(EpochScaler(), last)):
            with pytest.raises(ValueError, match=r"source of its own.*FrozenEstimator"):
                kind(given, **FAST).fit(X, y)
    frozen = FrozenEstimator(clone(student).fit(X, y))
    assert DistilledSleepStager(frozen, TinyNetwork, **FAST).fit(X, y).predict(X).shape
    # It begins at frozen weights, and needs no source.
    start = FrozenEstimator(clone(PLAIN).fit(X.source_epochs, y))
    second = DistilledSleepStager(FineTunedSleepStager(start, **FAST), **FAST)
    assert second.fit(X, y).predict(X).shape
