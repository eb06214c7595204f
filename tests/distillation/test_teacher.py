import os

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.distillation import LeakageWarning
from skleepkd.distillation import teacher as teachers
from skleepkd.distillation.teacher import log_probabilities, teacher_features
from tests.tiny import TinyNetwork

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}


def test_teacher_and_student_meet_by_label():
    given = np.array(["REM", "W"])
    log_proba = log_probabilities(
        np.array([[0.25, 0.75]]), given, np.array(["N1", "REM", "W"])
    )
    np.testing.assert_allclose(np.exp(log_proba[0]), [0, 0.25, 0.75], rtol=1e-6)
    with pytest.raises(ValueError, match="no class in common"):
        log_probabilities(np.array([[0.25, 0.75]]), given, np.array([0, 1]))


def test_sure_teachers_stay_finite():
    classes = np.array([0, 1])
    assert np.isfinite(log_probabilities(np.array([[1.0, 0.0]]), classes, classes)).all()


def as_they_are(features):
    return features


def reference_features(stager, signal):
    stager.module_.eval()
    with torch.no_grad():
        power = stager.module_.filters(torch.from_numpy(signal)).square().mean(dim=2)
        return stager.module_.norm(power.add(1e-3).log()).numpy()


def test_features_are_computed_once_in_order(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    (kept,) = teacher_features(
        stager, stager.get_dataset(X.source_epochs), ["features"], [as_they_are]
    )
    assert kept.dtype == np.float16
    np.testing.assert_allclose(kept, reference_features(stager, X["source"]), atol=2e-3)


def test_large_features_go_to_a_temporary_map(pair, monkeypatch):
    X, y = pair
    stager = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    plain = teacher_features(
        stager, stager.get_dataset(X.source_epochs), ["features"], [as_they_are]
    )[0]
    monkeypatch.setattr(teachers, "OUTPUT_IN_MEMORY", plain.nbytes - 1)
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    mapped = teacher_features(
        stager, stager.get_dataset(X.source_epochs), ["features"], [as_they_are]
    )[0]
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, plain)
    del mapped
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= len(before)
    student = DistilledSleepStager(stager, **FAST)
    by_map = student.fit(X, y).predict_proba(X)
    monkeypatch.setattr(teachers, "OUTPUT_IN_MEMORY", 2**30)
    np.testing.assert_array_equal(by_map, student.fit(X, y).predict_proba(X))


def test_features_beyond_half_precision_are_kept_in_single(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    grown = []

    def grow(features):  # the third batch does not fit into 16 bit
        grown.append(None)
        return features * (1e6 if len(grown) == 3 else 1)

    (kept,) = teacher_features(
        stager, stager.get_dataset(X.source_epochs), ["features"], [grow]
    )
    expected = reference_features(stager, X["source"])
    expected[64:96] *= 1e6
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, expected, rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        teacher_features(
            stager, stager.get_dataset(X.source_epochs), ["features"], [lambda f: f / 0]
        )


# ---------------------------------------------------------------- leakage


def split(X, y, *subjects):
    rows = np.isin(X.subject, subjects)
    return X[rows], y[rows]


def test_leakage_warning_on_the_frozen_teachers_subjects(pair):
    X, y = pair
    teacher = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    train, labels = split(X, y, "s0", "s1", "s2")
    student = DistilledSleepStager(FrozenEstimator(teacher), **FAST).fit(train, labels)
    test, test_labels = split(X, y, "s5")
    with pytest.warns(LeakageWarning, match="teacher was fitted on the subject s5"):
        student.predict(test)
    with pytest.warns(LeakageWarning):
        student.score(test, test_labels)


def test_no_warning_where_nothing_leaks(pair, recwarn):
    X, y = pair
    train, labels = split(X, y, "s0", "s1", "s2")
    test, _ = split(X, y, "s5")
    teacher = SleepStager(TinyNetwork, **FAST).fit(train.source_epochs, labels)
    frozen = DistilledSleepStager(FrozenEstimator(teacher), **FAST).fit(train, labels)
    in_fold = DistilledSleepStager(SleepStager(TinyNetwork, **FAST), **FAST).fit(
        train, labels
    )
    for student in (frozen, in_fold):
        student.predict(test)
        student.predict(train)
    assert not [w for w in recwarn if w.category is LeakageWarning]


def test_leakage_through_a_chain_of_frozen_stagers(pair):
    X, y = pair
    first = SleepStager(TinyNetwork, **FAST).fit(*split(X.source_epochs, y, "s0"))
    second = FineTunedSleepStager(FrozenEstimator(first), **FAST).fit(*split(X, y, "s1"))
    third = DistilledSleepStager(FrozenEstimator(second), **FAST).fit(*split(X, y, "s2"))
    for seen in ("s0", "s1"):
        with pytest.warns(LeakageWarning, match=seen):
            third.predict(split(X, y, seen)[0])


def test_memory_tells_networks_of_one_name_apart(pair, tmp_path, monkeypatch):
    import tests.tiny

    X, y = pair
    (tmp_path / "mine.py").write_text(
        "from tests.tiny import TinyNetwork\n\n" + WIDTH.format(3)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import importlib
    import linecache

    import mine

    def fit():
        teacher = SleepStager(mine.Mine, **FAST)
        student = DistilledSleepStager(teacher, memory=str(tmp_path / "kept"), **FAST)
        return student.fit(X, y).teacher_.module_.filters.out_channels

    assert fit() == 3
    (tmp_path / "mine.py").write_text(
        "from tests.tiny import TinyNetwork\n\n\n" + WIDTH.format(7)
    )
    importlib.invalidate_caches()
    linecache.clearcache()
    importlib.reload(mine)
    assert fit() == 7
    assert tests.tiny.TinyNetwork(2, 60, 5).filters.out_channels == 4


WIDTH = """
class Mine(TinyNetwork):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs, n_filters={})
"""


def test_memory_refuses_what_cannot_be_pickled(pair, tmp_path):
    X, y = pair
    teacher = SleepStager(lambda n_chans, n_times, n_outputs: TinyNetwork(2, 60, 5), **FAST)
    student = DistilledSleepStager(teacher, TinyNetwork, memory=str(tmp_path), **FAST)
    with pytest.raises(ValueError, match="cannot be pickled"):
        student.fit(X, y)


def test_memory_takes_a_teacher_that_begins_at_frozen_weights(pair, tmp_path):
    """It counts by its weights: the optimiser and the clock's notes are left aside."""
    X, y = pair
    seen = X.subject == "s0"
    for seed, n_kept in ((0, 1), (0, 1), (1, 2)):
        stager = SleepStager(TinyNetwork, **{**FAST, "random_state": seed}, classes="aasm")
        frozen = FrozenEstimator(stager.fit(X.source_epochs[seen], y[seen]))
        teacher = FineTunedSleepStager(frozen, **FAST)
        student = DistilledSleepStager(teacher, memory=str(tmp_path), **FAST)
        student.fit(X[~seen], y[~seen])
        kept = list(tmp_path.rglob("output.pkl"))
        assert len(kept) == n_kept
