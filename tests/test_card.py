import pickle
import re

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
    load,
    model_card,
    save,
)
from skleepkd.preprocessing import EpochScaler
from tests.test_persistence import about, forge
from tests.tiny import TinyNetwork, TinySequenceNetwork, make_pair

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.safetensors"


def test_what_a_reader_looks_for(path):
    X, y = make_pair(n_subjects=12, n_epochs=10)
    people = np.char.add("Jane Doe ", X.subject)
    X = PairedEpochs(
        X["target"], subject=people, recording=X.recording, sfreq=2.0, ch_names=["L", "R"]
    )
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST).fit(X, y)
    card = model_card(stager)
    # U-Time by hand: 3 levels of two convolutions and norms, two of the decoder, two heads.
    n_parameters = sum(weights.size for weights in map(np.asarray, _weights(stager)))
    for part in (
        "# Sleep stager: UTime\n",
        "Not a medical device",
        "filters=(4, 4, 8), pools=(3, 2)",
        f"{n_parameters:,} parameters",
        "0 (W), 1 (N1), 2 (N2), 3 (N3), 4 (REM)",
        "Channels: 2 (L, R)",
        "Signal: 2 Hz; epochs of 30 s, 2 x 60 values, in microvolts",
        "Fitted on: 12 subjects, 12 recordings",
        "Passes: 2",
        "## What it was not tested on",
        "skleepkd 0.",
        "torch ",
    ):
        assert part in card
    kappa = max(stager.history_[:, "valid_kappa"])
    assert f"kappa on 1 held-out subject: {kappa:.2f}" in card
    assert "held-out subjects is no such score: they chose the weights." in card
    # People and nights are counted, not named.
    assert "Jane" not in card
    assert "night-" not in card
    # A loaded one tells the same.
    save(stager, path)
    assert model_card(load(path)) == card


def _weights(stager):
    return [parameter.detach().numpy() for parameter in stager.module_.parameters()]


def test_by_whom_a_student_was_taught(path, pair):
    X, y = pair
    teacher = make_pipeline(EpochScaler(), SleepStager("UTime", **SMALL_UTIME, **FAST))
    student = DistilledSleepStager(
        teacher, TinyNetwork, feature_loss=None, alpha=0.5, temperature=2.0, **FAST
    ).fit(X, y)
    card = model_card(student)
    for part in (
        "# Sleep stager: TinyNetwork\n",
        "Trained as: DistilledSleepStager",
        "teacher: EpochScaler, then SleepStager of UTime",
        "strategy: offline",
        "alpha: 0.5",
        "temperature: 2.0",
        "Nobody was held out",
    ):
        assert part in card
    save(student, path)
    loaded = load(path, TinyNetwork)
    assert type(loaded) is SleepStager
    assert model_card(loaded) == card
    # Saved again it still says so, and what is trained on was taught before.
    save(loaded, path)
    again = pickle.loads(pickle.dumps(load(path, TinyNetwork)))
    assert model_card(again) == card
    assert "alpha: 0.5" in model_card(again.partial_fit(X, y))
    # What is fitted anew was not.
    fresh = model_card(again.fit(X, y))
    assert "Trained as: SleepStager" in fresh
    assert "teacher" not in re.sub("frozen teacher", "", fresh)
    transfer = FineTunedSleepStager(FrozenEstimator(student), trainable=("head",), **FAST)
    card = model_card(transfer.fit(X, y))
    assert "pretrained: DistilledSleepStager of TinyNetwork, frozen" in card
    assert "trainable: ('head',)" in card


def test_steps_and_preprocessors(path, pair):
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    X, y = pair
    stager = SleepStager(TinySequenceNetwork, sequence_length=3, fusion="mean", **FAST)
    pipeline = make_pipeline(EpochScaler("standard"), stager).fit(X, y)
    steps = [preprocessing.Resample(sfreq=2.0)]
    whole = RecordingStager(FrozenEstimator(pipeline), steps)
    card = model_card(whole)
    for part in (
        "3 consecutive epochs at a time, votes fused by mean",
        "Preprocessor: Resample(sfreq=2.0)",
        "Step: epochscaler, EpochScaler(method='standard')",
        "as the steps below make it",
    ):
        assert part in card
    assert "in microvolts" not in card


def test_what_is_not_known(path, pair):
    X, y = pair
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST)
    stager.fit(X["target"], np.array(["W", "N2"])[y % 2])
    card = model_card(stager)
    assert "subjects not known, recordings not known" in card
    assert "names not known" in card
    assert "probability for each of N2, W" in card
    # A file of format 1 tells less.
    save(stager, path)
    later = ("taught", "versions", "steps", "frozen", "recording")
    said = {name: value for name, value in about(path).items() if name not in later}
    forge(path, {**said, "format": 1})
    older = model_card(load(path))
    assert "torch" not in older
    assert older.splitlines()[:20] == card.splitlines()[:20]


def test_what_has_no_card():
    with pytest.raises(NotFittedError, match="not fitted yet: call fit first"):
        model_card(SleepStager("UTime"))
    with pytest.raises(TypeError, match="given LogisticRegression"):
        model_card(LogisticRegression())
