"""Stagers that are too sure by a known factor, and probabilities that tell how often they err."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import nn

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    SleepStager,
    export_onnx,
    load,
    save,
)
from skleepkd.distillation.offline import columns_of_teacher
from skleepkd.distillation.strategy import TEACHER_OUTPUT
from skleepkd.memory import key_of
from skleepkd.metrics import expected_calibration_error
from tests.tiny import FAST, SMALL_UTIME, TinyNetwork, make_pair

#: Tenths of ten epochs that look alike and are W, N1 or N2.
SHARES = np.array([[6, 3, 1], [1, 8, 1], [2, 3, 5]])


class Sure(nn.Module):
    """Puts out the signal, which is the true logits, times a factor; learns nothing."""

    def __init__(self, n_chans, n_times, n_outputs, factor=3.0):
        super().__init__()
        self.factor, self.shift = factor, nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x):  # (batch, 1, 3), or windows (batch, sequence, 1, 3)
        logits = self.factor * x.squeeze(-2) + self.shift
        return logits.movedim(-1, 1)


def known(n_subjects=4):
    """Epochs that hold the logarithms of how often each stage goes with them."""
    target = np.log(np.repeat(SHARES / 10, 10, axis=0))[:, None]
    y = np.concatenate([np.repeat([0, 1, 2], shares) for shares in SHARES])
    subject = np.repeat(np.arange(n_subjects), len(y))
    X = PairedEpochs(
        np.tile(target, (n_subjects, 1, 1)).astype(np.float32),
        subject=subject, recording=subject,
    )  # fmt: skip
    return X, np.tile(y, n_subjects)


def sure(**params):
    """What is too sure by a factor, of 3 by default."""
    options = {**FAST, "lr": 0.0, "classes": [0, 1, 2], "validation": 2, "calibrate": True}
    return SleepStager(Sure, **{**options, **params})


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_a_known_factor_is_found(factor):
    X, y = known()
    options = {"module__factor": factor}
    stager, plain = sure(**options).fit(X, y), sure(calibrate=False, **options).fit(X, y)
    # The stages are distributed exactly as the signal says, so nothing is likelier.
    assert stager.calibration_ == pytest.approx(factor, rel=1e-3)
    assert plain.calibration_ == 1.0
    truth = np.tile(np.repeat(SHARES / 10, 10, axis=0), (4, 1))
    np.testing.assert_allclose(stager.predict_proba(X), truth, atol=1e-3)
    np.testing.assert_array_equal(stager.predict(X), plain.predict(X))
    assert expected_calibration_error(y, stager.predict_proba(X), classes="wnr") < 2e-3
    if factor != 1:
        assert expected_calibration_error(y, plain.predict_proba(X), classes="wnr") > 0.1


@pytest.mark.parametrize("fusion", ["product", "mean", "centre"])
def test_fused_windows_are_what_is_calibrated(fusion):
    X, y = known()
    stager = sure(sequence_length=4, fusion=fusion).fit(X, y)
    assert stager.calibration_ == pytest.approx(3, rel=1e-3)
    truth = np.tile(np.repeat(SHARES / 10, 10, axis=0), (4, 1))
    np.testing.assert_allclose(stager.predict_proba(X), truth, atol=1e-3)


class Random(nn.Module):
    """Adds noise to each window's logits, another in each, that fusing averages out."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, x):
        place = torch.arange(x.shape[1]) % 2 * 8.0 - 4
        logits = (x.squeeze(-2) + self.shift).movedim(-1, 1)
        return logits + place * torch.tensor([1.0, -1.0, 0.0])[:, None]


def test_the_fused_answer_decides_and_not_single_windows():
    """Windows of four err by +-4 in turn, which their product takes out but at the ends."""
    X, y = known()
    y = np.where(np.arange(len(y)) % 30 % 27 < 3, -1, y)  # the first and the last three
    stager = sure(sequence_length=4).set_params(module=Random).fit(X, y)
    held_out = np.isin(X.subject, stager.held_out_) & (y >= 0)
    temperature = np.exp(np.linspace(-1, 1, 2001))
    rows = X["target"][held_out, 0]
    surprise = [
        -np.log(softmax(rows / t, axis=1)[np.arange(len(rows)), y[held_out]]).mean()
        for t in temperature
    ]
    assert stager.calibration_ == pytest.approx(temperature[np.argmin(surprise)], rel=2e-3)


def test_only_scored_epochs_of_who_is_held_out_count():
    X, y = known()
    wrong = y.copy()
    wrong[X.subject < 2] = 0  # trained on
    wrong[np.flatnonzero(X.subject == 3)[10:]] = -1
    stager = sure(validation=(2, 3)).fit(X, wrong)
    assert stager.calibration_ == pytest.approx(3, rel=1e-3)
    assert stager.partial_fit(X, wrong).calibration_ == pytest.approx(3, rel=1e-3)
    stager.set_params(calibrate=False).fit(X, wrong)
    assert stager.calibration_ == 1.0


def halved(proba):
    """Probabilities at twice the temperature."""
    root = np.sqrt(proba.astype(np.float64))
    return root / root.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def utime():
    X, y = make_pair(n_subjects=2, n_epochs=10)
    return SleepStager("UTime", classes="aasm", **SMALL_UTIME, **FAST).fit(X, y), X


def test_all_outputs_are_calibrated(utime, tmp_path):
    plain, X = utime
    stager = pickle.loads(pickle.dumps(plain))
    stager.calibration_ = 2.0
    expected = halved(plain.predict_proba(X))
    assert not np.allclose(expected, plain.predict_proba(X), atol=0.01)
    save(stager, tmp_path / "stager.safetensors")
    again = load(tmp_path / "stager.safetensors")
    for each in (stager, again, pickle.loads(pickle.dumps(again))):
        assert each.calibration_ == 2.0
        np.testing.assert_allclose(each.predict_proba(X), expected, atol=1e-6)
        np.testing.assert_allclose(
            each.hypnodensity(X, 15.0), halved(plain.hypnodensity(X, 15.0)), atol=1e-6
        )
    assert not hasattr(clone(stager), "held_out_")
    assert clone(stager).calibration_ == 1.0
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export_onnx(stager, tmp_path / "stager.onnx").max_difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "stager.onnx")
    (found,) = session.run(None, {"epochs": X["target"]})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("feature_loss", [None, "mse"])
def test_a_teacher_teaches_what_it_predicts(utime, feature_loss):
    stager, X = pickle.loads(pickle.dumps(utime[0])), utime[1]
    stager.calibration_ = 2.0
    options = {"alpha": 0.5, "feature_loss": feature_loss, "classes": "aasm", **FAST}
    student = DistilledSleepStager(FrozenEstimator(stager), **options)
    y = np.resize([0, 2, 4], len(X))
    student.fit(X, y)
    features = feature_loss is not None
    columns = columns_of_teacher(student, X, y, features=features)
    expected = np.log(stager.predict_proba(X.source_epochs))
    np.testing.assert_allclose(columns[TEACHER_OUTPUT], expected, atol=1e-5)


def test_students_and_those_that_are_fine_tuned():
    X, y = make_pair(n_subjects=4, n_epochs=48)
    common = {**FAST, "classes": "aasm"}
    teacher = SleepStager(TinyNetwork, **common)
    options = {**common, "lr": 0.05, "max_epochs": 9, "validation": 2, "calibrate": True}
    two_step = {"strategy": "two-step", "feature_max_epochs": 1}
    for stager in (
        DistilledSleepStager(teacher, **options),
        DistilledSleepStager(teacher, **two_step, **options),
        FineTunedSleepStager(teacher, **options),
        DistilledSleepStager(teacher.set_params(calibrate=True), **options),
    ):
        stager.fit(X, y)
        rows = np.isin(X.subject, stager.held_out_)

        def surprise(temperature, stager=stager, rows=rows):
            proba = stager.predict_proba(X[rows]) ** (1 / temperature)
            proba /= proba.sum(axis=1, keepdims=True)
            return -np.log(proba[np.arange(rows.sum()), y[rows]]).mean()

        # No other temperature is better, on top of the one that was found.
        assert surprise(1.0) <= min(surprise(0.98), surprise(1.02))
        assert stager.calibration_ not in (1.0, pytest.approx(100, rel=0.1))
    assert stager.teacher_.calibration_ != 1


def test_where_nothing_is_trained_the_pretrained_temperature_stays():
    X, y = make_pair()
    pretrained = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    pretrained.calibration_ = 2.0
    for trainable, temperature in ((None, 2.0), ("all", 1.0)):
        tuned = FineTunedSleepStager(
            FrozenEstimator(pretrained), trainable=trainable, **FAST
        )
        assert tuned.fit(X.target_epochs, y).calibration_ == temperature
        if trainable is None:
            expected = pretrained.predict_proba(X.target_epochs)
            np.testing.assert_allclose(tuned.predict_proba(X.target_epochs), expected)


def test_a_key_tells_temperatures_apart(utime):
    stager, _ = utime
    other = copy.deepcopy(stager)
    assert key_of(other) == key_of(stager)
    other.calibration_ *= 2
    assert key_of(other) != key_of(stager)


def test_what_is_refused():
    X, y = known()
    for validation in (None, "auto"):
        with pytest.raises(ValueError, match="nobody is held out: give validation=2"):
            sure(validation=validation).fit(X, y)
    unscored = np.where(X.subject == 3, -1, y)
    with pytest.raises(ValueError, match="have no scored epoch"):
        sure(validation=(3,)).fit(X, unscored)
    with pytest.raises(ValueError, match="leave predict_nonlinearity out"):
        sure(predict_nonlinearity=None).fit(X, y)
    X, y = make_pair(n_subjects=3)
    teacher = SleepStager(TinyNetwork, **FAST, classes="aasm").fit(X.source_epochs, y)
    options = {"alpha": 1.0, "calibrate": True, "validation": 1, **FAST}
    with pytest.raises(ValueError, match=r"no epoch of s\d is scored: give validation=2"):
        DistilledSleepStager(FrozenEstimator(teacher), **options).fit(X)
    online = DistilledSleepStager(
        clone(teacher).set_params(calibrate=True), strategy="online"
    )
    with pytest.raises(ValueError, match="online teacher's logits"):
        online.fit(X, y)


def test_a_temperature_at_the_end_of_the_range_is_told():
    X, _ = known()
    y = np.argmin(X["target"][:, 0], axis=1)  # never what is likeliest
    with pytest.warns(
        UserWarning, match="held-out people is 100, the end of what is looked"
    ):
        sure().fit(X, y)
