import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    RecordingStager,
    SleepStager,
    describe,
    load,
    save,
)
from skleepkd.preprocessing import EpochScaler
from tests.tiny import TinyNetwork, TinySequenceNetwork, make_pair

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.safetensors"


def test_what_a_reader_looks_for(path):
    X, y = make_pair(n_subjects=12, n_epochs=10)
    subjects = np.char.add("Jane Doe ", X.subject)
    X = PairedEpochs(
        X["target"], subject=subjects, recording=X.recording, sfreq=2.0, ch_names=["L", "R"]
    )
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST).fit(X, y)
    text = describe(stager)
    n_parameters = sum(weights.numel() for weights in stager.module_.parameters())
    kappa = max(stager.history_[:, "valid_kappa"])
    for part in (
        f"Network: UTime, {n_parameters:,} parameters, trained as SleepStager by skleepkd 0.",
        "Fitted on: 12 subjects, 12 recordings; ",
        f"kappa {kappa:.2f} on 1 held-out subject",
        "Predicts: 0 (W), 1 (N1), 2 (N2), 3 (N3), 4 (REM)",
        "Needs: 2 channels (L, R), 2 Hz, microvolts",
    ):
        assert part in text
    # Subjects and nights are counted, not named.
    assert "Jane" not in text
    assert "night-" not in text
    # A loaded one is described alike.
    save(stager, path)
    assert describe(load(path)) == text


def test_where_a_student_comes_from(path, pair):
    X, y = pair
    teacher = make_pipeline(EpochScaler(), SleepStager("UTime", **SMALL_UTIME, **FAST))
    student = DistilledSleepStager(
        teacher, TinyNetwork, feature_loss=None, alpha=0.5, **FAST
    ).fit(X, y)
    text = describe(student)
    assert "TinyNetwork" in text
    assert "trained as DistilledSleepStager (offline) by skleepkd" in text
    assert "nobody held out" in text
    save(student, path)
    loaded = load(path, TinyNetwork)
    assert type(loaded) is SleepStager
    assert describe(loaded) == text
    # Saved again it still says so, also where it is trained on.
    save(loaded, path)
    again = pickle.loads(pickle.dumps(load(path, TinyNetwork)))
    assert describe(again) == text
    assert "DistilledSleepStager (offline)" in describe(again.partial_fit(X, y))
    # What is fitted anew was not distilled.
    assert "trained as SleepStager by" in describe(again.fit(X, y))
    transfer = FineTunedSleepStager(FrozenEstimator(student), trainable=("head",), **FAST)
    assert "trained as FineTunedSleepStager by" in describe(transfer.fit(X, y))


def test_steps_and_preprocessors(pair):
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    X, y = pair
    stager = SleepStager(TinySequenceNetwork, sequence_length=3, fusion="mean", **FAST)
    pipeline = make_pipeline(EpochScaler("standard"), stager).fit(X, y)
    steps = [preprocessing.Resample(sfreq=2.0)]
    text = describe(RecordingStager(FrozenEstimator(pipeline), steps))
    for part in (
        "Sequences: 3 consecutive epochs at a time",
        "Preprocessor: Resample(sfreq=2.0)",
        "Step: epochscaler, EpochScaler(method='standard')",
    ):
        assert part in text


def test_what_is_not_known(pair):
    X, y = pair
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST)
    stager.fit(X["target"], np.array(["W", "N2"])[y % 2])
    text = describe(stager)
    assert "subjects not known, recordings not known" in text
    assert "names not known" in text
    assert "Predicts: N2, W" in text


def test_what_is_not_described():
    with pytest.raises(NotFittedError, match="not fitted yet: call fit first"):
        describe(SleepStager("UTime"))
    with pytest.raises(TypeError, match="given LogisticRegression"):
        describe(LogisticRegression())
