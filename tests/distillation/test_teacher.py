import os

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.distillation import teacher as teachers
from skleepkd.distillation.teacher import log_probabilities, teacher_features
from tests.tiny import FAST, TinyNetwork


def test_teacher_and_student_meet_by_label():
    proba, given = np.array([[0.25, 0.75]]), np.array(["REM", "W"])
    log_proba = log_probabilities(proba, given, np.array(["N1", "REM", "W"]))
    np.testing.assert_allclose(np.exp(log_proba[0]), [0, 0.25, 0.75], rtol=1e-6)
    sure = log_probabilities(np.array([[1.0, 0.0]]), given, given)
    assert np.isfinite(sure).all()
    message = r"\['REM', 'W'\] are not among the student's, \[0, 1\]"
    with pytest.raises(ValueError, match=message):
        log_probabilities(proba, given, np.array([0, 1]))


# ---------------------------------------------------------------- features


@pytest.fixture
def stager(X, y):
    return SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)


def features_of(stager, X, summary=lambda features: features):
    dataset = stager.get_dataset(X.source_epochs)
    return teacher_features(stager, dataset, ["features"], [summary])[0]


def reference_features(stager, signal):
    stager.module_.eval()
    with torch.no_grad():
        power = stager.module_.filters(torch.from_numpy(signal)).square().mean(dim=2)
        return stager.module_.norm(power.add(1e-3).log()).numpy()


def test_features_are_computed_once_in_order(X, stager):
    kept = features_of(stager, X)
    assert kept.dtype == np.float16
    np.testing.assert_allclose(kept, reference_features(stager, X["source"]), atol=2e-3)


def test_large_features_go_to_a_temporary_map(X, y, stager, monkeypatch):
    plain = features_of(stager, X)
    student = DistilledSleepStager(FrozenEstimator(stager), **FAST)
    expected = student.fit(X, y).predict_proba(X)
    monkeypatch.setattr(teachers, "OUTPUT_IN_MEMORY", plain.nbytes - 1)
    files = "/proc/self/fd"  # where the system has it
    before = os.listdir(files) if os.path.isdir(files) else ()
    mapped = features_of(stager, X)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, plain)
    del mapped
    if before:
        assert len(os.listdir(files)) <= len(before)
    np.testing.assert_array_equal(student.fit(X, y).predict_proba(X), expected)


def test_features_beyond_half_precision_are_kept_in_single(X, stager):
    grown = []

    def grow(features):  # the third batch does not fit into 16 bit
        grown.append(None)
        return features * (1e6 if len(grown) == 3 else 1)

    kept = features_of(stager, X, grow)
    expected = reference_features(stager, X["source"])
    expected[64:96] *= 1e6
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, expected, rtol=2e-2, atol=2e-2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        features_of(stager, X, lambda features: features / 0)


# ---------------------------------------------------------------- memory


WIDTH = """
from tests.tiny import TinyNetwork

class Mine(TinyNetwork):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs, n_filters={})
"""


def test_memory_tells_networks_of_one_name_apart(pair, tmp_path, monkeypatch):
    import importlib
    import linecache

    monkeypatch.syspath_prepend(tmp_path)
    for lines, width in enumerate((3, 7)):
        (tmp_path / "mine.py").write_text("\n" * lines + WIDTH.format(width))
        importlib.invalidate_caches()
        linecache.clearcache()
        mine = importlib.reload(importlib.import_module("mine"))
        given = SleepStager(mine.Mine, **FAST)
        student = DistilledSleepStager(given, memory=str(tmp_path / "kept"), **FAST)
        assert student.fit(*pair).teacher_.module_.filters.out_channels == width


def test_memory_refuses_what_cannot_be_pickled(pair, tmp_path):
    given = SleepStager(lambda n_chans, n_times, n_outputs: TinyNetwork(2, 60, 5), **FAST)
    student = DistilledSleepStager(given, TinyNetwork, memory=str(tmp_path), **FAST)
    with pytest.raises(ValueError, match="cannot be pickled"):
        student.fit(*pair)


def test_memory_takes_a_teacher_that_begins_at_frozen_weights(X, y, tmp_path):
    """It counts by its weights: the optimiser and the clock's notes are left aside."""
    seen = X.subject == "s0"
    for seed, n_kept in ((0, 1), (0, 1), (1, 2)):
        stager = SleepStager(TinyNetwork, **{**FAST, "random_state": seed}, classes="aasm")
        frozen = FrozenEstimator(stager.fit(X.source_epochs[seen], y[seen]))
        given = FineTunedSleepStager(frozen, **FAST)
        student = DistilledSleepStager(given, memory=str(tmp_path), **FAST)
        student.fit(X[~seen], y[~seen])
        assert len(list(tmp_path.rglob("output.pkl"))) == n_kept
