import pickle

import numpy as np
import pytest
from braindecode.preprocessing import Resample
from sklearn.base import clone
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
from skleepkd.estimators import StepwiseValidation
from skleepkd.preprocessing import EpochScaler
from tests.tiny import FAST, SMALL_UTIME, TinyNetwork, TinySequenceNetwork, make_pair

SMALL = SleepStager("UTime", **SMALL_UTIME, **FAST)


def test_what_a_reader_looks_for(tmp_path):
    X, y = make_pair(n_subjects=12, n_epochs=10)
    subjects = np.char.add("Jane Doe ", X.subject)
    columns = {"subject": subjects, "recording": X.recording, "ch_names": ["L", "R"]}
    stager = clone(SMALL).fit(PairedEpochs(X["target"], sfreq=2.0, **columns), y)
    text = describe(stager)
    n_parameters = sum(weights.numel() for weights in stager.module_.parameters())
    kappa = max(stager.history_[:, "valid_kappa"])
    for part in (
        f"Network: UTime, {n_parameters:,} parameters, trained as SleepStager by skleepkd 0.",
        "Fitted on: 12 subjects, 12 recordings, 120 scored epochs; ",
        f"kappa {kappa:.2f} on 1 held-out subject",
        "Predicts: 0 (W), 1 (N1), 2 (N2), 3 (N3), 4 (REM)",
        "Needs: 2 channels (L, R), 2 Hz, microvolts",
    ):
        assert part in text
    # Subjects and nights are counted, not named.
    assert "Jane" not in text
    assert "night-" not in text
    # A loaded one is described alike.
    save(stager, tmp_path / "stager.safetensors")
    assert describe(load(tmp_path / "stager.safetensors")) == text


def test_weights_that_another_score_chose():
    """Every few steps accuracy is looked at, and no kappa is in the history."""
    chosen = StepwiseValidation(every=1)
    options = {**FAST, "validation": 1, "callbacks__best_weights": chosen}
    X, y = make_pair(n_subjects=2, n_epochs=10)
    stager = SleepStager(TinyNetwork, **options).fit(X, y)
    assert "kappa not known on 1 held-out subject" in describe(stager)
    # Where nothing is trained no weights were chosen, but somebody is held out all the same.
    direct = FineTunedSleepStager(FrozenEstimator(stager), trainable=None, **FAST)
    text = describe(direct.set_params(validation=1).fit(X.source_epochs, y))
    assert "kappa not known on 1 held-out subject" in text


def test_a_network_from_elsewhere(tmp_path, pair):
    X, y = pair
    stager = SleepStager.from_module(
        TinyNetwork(2, X.shape[2], 5), classes="aasm", sfreq=2.0, n_chans=2, max_epochs=1
    )
    save(stager, tmp_path / "stager.safetensors")
    for one in (stager, load(tmp_path / "stager.safetensors", TinyNetwork)):
        text = describe(one)
        assert "parameters, trained elsewhere\n" in text
        assert "recordings not known, scored epochs not known; nobody held out" in text
    text = describe(stager.partial_fit(X.target_epochs, y))
    assert "trained as SleepStager by" in text
    assert "scored epochs not known" in text
    assert f"{len(y)} scored epochs" in describe(stager.fit(X.target_epochs, y))


def test_where_a_student_comes_from(tmp_path, pair):
    path, terms = tmp_path / "student.safetensors", {"feature_loss": None, "alpha": 0.5}
    student = DistilledSleepStager(SMALL, TinyNetwork, **terms, **FAST).fit(*pair)
    text = describe(student)
    assert "TinyNetwork" in text
    assert "trained as DistilledSleepStager (offline) by skleepkd" in text
    assert "nobody held out" in text
    # Saved again it still says so, also where it is trained on.
    again = student
    for _ in range(2):
        save(again, path)
        again = pickle.loads(pickle.dumps(load(path, TinyNetwork)))
        assert describe(again) == text
    assert "DistilledSleepStager (offline)" in describe(again.partial_fit(*pair))
    # What is fitted anew was not distilled.
    assert "trained as SleepStager by" in describe(again.fit(*pair))
    transfer = FineTunedSleepStager(FrozenEstimator(student), trainable=("head",), **FAST)
    assert "trained as FineTunedSleepStager by" in describe(transfer.fit(*pair))
    # Also where it was not trained at all, and has no pass that could tell.
    save(transfer.set_params(trainable=None).fit(*pair), path)
    assert "trained as FineTunedSleepStager by" in describe(load(path, TinyNetwork))


def test_steps_and_preprocessors(pair):
    stager = SleepStager(TinySequenceNetwork, sequence_length=3, fusion="mean", **FAST)
    pipeline = make_pipeline(EpochScaler("standard"), stager).fit(*pair)
    steps = [Resample(sfreq=2.0)]
    text = describe(RecordingStager(FrozenEstimator(pipeline), steps))
    for part in (
        "Sequences: 3 consecutive epochs at a time",
        "Preprocessor: Resample(sfreq=2.0)",
        "Step: epochscaler, EpochScaler(method='standard')",
    ):
        assert part in text


def test_what_is_not_known(pair):
    X, y = pair
    text = describe(clone(SMALL).fit(X["target"], np.array(["W", "N2"])[y % 2]))
    for part in ("subjects not known, recordings not known", "names not known", "W, N2"):
        assert part in text
    with pytest.raises(NotFittedError, match="not fitted yet: call fit first"):
        describe(SleepStager("UTime"))
    with pytest.raises(TypeError, match="given LogisticRegression"):
        describe(LogisticRegression())
