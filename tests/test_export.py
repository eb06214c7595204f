import builtins
import json
import os

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    RecordingStager,
    SleepStager,
    export_onnx,
)
from skleepkd.preprocessing import EpochScaler, LogSpectrogram
from skleepkd.sequences import Fusion
from tests.tiny import (
    FAST,
    NAMES,
    SMALL_SEQSLEEPNET,
    SMALL_UTIME,
    TinyNetwork,
    TinySequenceNetwork,
    noise,
    same,
    weights,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SMALL = SleepStager("UTime", **SMALL_UTIME, **FAST)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.onnx"


@pytest.fixture
def tiny(pair):
    return SleepStager(TinyNetwork, **FAST).fit(*pair)


def run(path, epochs):
    """Run ONNX Runtime with its own defaults."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"epochs": np.asarray(epochs, dtype=np.float32)})
    return output


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# ---------------------------------------------------------------- outputs


class Recurrent(TinyNetwork):
    """Reads ten steps of an epoch with an LSTM, whose state depends on the batch."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.rnn = nn.LSTM(n_times // 10 * n_chans, 4, num_layers=2, bidirectional=True)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x):
        # (batch, channels, times) -> (10, batch, channels * times / 10)
        steps = x.reshape(-1, x.shape[1], 10, x.shape[2] // 10).permute(2, 0, 1, 3)
        outputs, _ = self.rnn(steps.flatten(2))
        return self.head(outputs[-1])


@pytest.mark.parametrize(
    ("module", "options", "shape", "sfreq"),
    [
        ("UTime", SMALL_UTIME, (2, 61), 2.0),
        ("EpochCrossModalTransformer", {"module__num_heads": 2}, (2, 307), 100.0),
        ("USleep", {"module__depth": 3}, (1, 601), 200.0),
        ("SeqSleepNet", SMALL_SEQSLEEPNET, (2, 7, 129), 100.0),
        ("EEGNet", {}, (2, 300), 100.0),  # its weights are constrained
        (Recurrent, {}, (2, 300), 100.0),
    ],
)
def test_outputs_are_those_of_torch(path, module, options, shape, sfreq):
    X, y = noise(*shape, sfreq=sfreq)
    stager = SleepStager(module, **options, **FAST).fit(X, y)
    report = export_onnx(stager, path)
    onnx.checker.check_model(str(path))
    for epochs in (X["target"][:1], X["target"], X["target"][3:10]):
        found = run(path, epochs)
        expected = stager.predict_proba(epochs)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert report.max_difference <= 1e-4
    assert report.n_bytes == path.stat().st_size
    assert report.n_parameters == sum(p.numel() for p in stager.module_.parameters())


@pytest.mark.parametrize(
    ("module", "options", "shape", "sfreq"),
    [
        ("SeqSleepNet", SMALL_SEQSLEEPNET, (1, 7, 129), 100.0),
        ("UTime", SMALL_UTIME, (1, 61), 2.0),
        ("USleep", {"module__depth": 3}, (1, 600), 200.0),
        (TinySequenceNetwork, {}, (2, 60), 2.0),
    ],
)
def test_windows_of_consecutive_epochs(path, module, options, shape, sfreq):
    X, y = noise(*shape, sfreq=sfreq)
    stager = SleepStager(module, sequence_length=3, **options, **FAST).fit(X, y)
    export_onnx(stager, path)
    night = X[:9]
    rows = np.arange(7)[:, None] + np.arange(3)  # all windows of three of nine epochs
    found = run(path, night["target"][rows])
    assert found.shape == (7, 5, 3)
    assert run(path, night["target"][rows[:1]]).shape == (1, 5, 3)
    # The votes of windows are taken together outside of the file.
    fusion = Fusion(9, 5, "product")
    fusion.add(rows, found)
    np.testing.assert_allclose(fusion.answer(), stager.predict_proba(night), atol=1e-4)
    written = metadata(path)
    assert json.loads(written["sequence_length"]) == 3
    assert written["fusion"] == "product"


def test_extreme_epochs(path, pair):
    stager = clone(SMALL).fit(*pair)
    export_onnx(stager, path)
    stager.module_.eval()
    rng = np.random.default_rng(1)
    for scale in (0.0, 1e-3, 3000.0, 32767.0):
        epochs = (scale * rng.choice([-1, 1], (4, 2, 60))).astype(np.float32)
        # The stager itself refuses what looks like volts; its network does not.
        with torch.no_grad():
            expected = stager.module_(torch.from_numpy(epochs)).softmax(dim=1).numpy()
        np.testing.assert_allclose(run(path, epochs), expected, rtol=0, atol=1e-4)


def test_of_distilled_and_fine_tuned_stagers(path, pair):
    X, y = pair
    terms = {"feature_loss": None, "alpha": 0.5}
    student = DistilledSleepStager(SMALL, TinyNetwork, **terms, **FAST)
    transfer = FineTunedSleepStager(SMALL, trainable=("head",), **FAST)
    for stager in (student.fit(X, y), transfer.fit(X, y)):
        expected = stager.predict_proba(X)
        for given in (stager, FrozenEstimator(stager)):
            report = export_onnx(given, path)
            found = run(path, X["target"])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        # Nothing of the teacher is in the file.
        assert report.n_parameters == sum(p.numel() for p in stager.module_.parameters())


def test_outputs_of_an_own_nonlinearity(path, pair):
    stager = SleepStager(TinyNetwork, predict_nonlinearity=None, **FAST).fit(*pair)
    export_onnx(stager, path)
    found, expected = run(path, pair[0]["target"]), stager.predict_proba(pair[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.min() < 0  # logits, since the nonlinearity is None


# ---------------------------------------------------------------- what is in the file


def test_the_file_describes_its_input_and_output(path):
    X, y = noise(2, 60, sfreq=2.0, ch_names=["LE", "RE"])
    stager = SleepStager(TinyNetwork, classes="aasm", **FAST).fit(X, NAMES[y])
    report = export_onnx(stager, str(path))
    model = onnx.load(path)
    (given,), (returned,) = model.graph.input, model.graph.output
    assert (given.name, returned.name) == ("epochs", "probabilities")
    shape = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert shape == ["batch", 2, 60]
    written = metadata(path)
    assert (written["network"], written["unit"]) == ("TinyNetwork", "microvolts")
    for name, expected in {
        "classes": stager.classes_.tolist(),
        "ch_names": ["LE", "RE"],
        "sfreq": 2.0,
        "n_times": 60,
        "sequence_length": 1,
        "steps_before": {},
    }.items():
        assert json.loads(written[name]) == expected
    assert "night-s0" not in path.read_bytes().decode("latin1")
    # A line to print.
    line = str(report)
    assert line == repr(report)
    assert "\n" not in line
    for part in (str(path), "MB", f"{report.n_parameters:,} parameters", "of torch's"):
        assert part in line


def test_steps_before_the_network_are_named(path):
    X, y = noise(1, 3000, sfreq=100.0)
    stager = SleepStager("SeqSleepNet", **SMALL_SEQSLEEPNET, **FAST)
    steps = "passthrough", EpochScaler("standard"), LogSpectrogram()
    pipeline = make_pipeline(*steps, stager).fit(X, y)
    with pytest.warns(UserWarning, match="epochscaler, logspectrogram") as record:
        report = export_onnx(pipeline, path)
    assert record[0].filename == __file__
    assert report.steps_before == ["epochscaler", "logspectrogram"]
    assert "epochscaler, logspectrogram" in str(report)
    written = metadata(path)
    assert list(json.loads(written["steps_before"])) == report.steps_before
    assert written["unit"] != "microvolts"
    found = run(path, pipeline[:-1].transform(X)["target"])
    np.testing.assert_allclose(found, pipeline.predict_proba(X), rtol=0, atol=1e-4)


# ---------------------------------------------------------------- what is refused


class Branching(TinyNetwork):
    """Classifies loud epochs otherwise, which tracing does not see."""

    def forward(self, x):
        logits = super().forward(x)
        return logits.flip(1) if float(x.detach().abs().max()) > 1000 else logits


class Spectral(TinyNetwork):
    """Uses an operator that ONNX has no word for."""

    def forward(self, x):
        singular = torch.linalg.eigvals(x @ x.transpose(1, 2)).real  # (batch, n_chans)
        return super().forward(x) + singular.sum(dim=1, keepdim=True).log1p()


def full(descriptor):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (Branching, RuntimeError, r"cannot write Branching as ONNX.*differ"),
        (Spectral, RuntimeError, "cannot write Spectral as ONNX"),
        (TinyNetwork, OSError, "No space left"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_what_was_there(
    path, pair, monkeypatch, network, error, message
):
    stager = SleepStager(network, **FAST).fit(*pair)
    path.write_bytes(b"what was there before")
    if network is TinyNetwork:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(error, match=message) as caught:
        export_onnx(stager, path)
    if network is Spectral:
        assert "linalg_eigvals" in str(caught.value.__cause__)
    assert path.read_bytes() == b"what was there before"
    assert os.listdir(path.parent) == [path.name]


def test_what_cannot_be_exported(path):
    with pytest.raises(NotFittedError, match="not fitted yet: call fit first"):
        export_onnx(SleepStager(TinyNetwork), path)
    whole = RecordingStager(SleepStager(TinyNetwork))
    steps = make_pipeline(EpochScaler())
    for other in (LogisticRegression(), nn.Linear(2, 2), steps, whole):
        with pytest.raises(TypeError, match=f"given {type(other).__name__}"):
            export_onnx(other, path)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_is_not_installed_is_named(path, monkeypatch, missing):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == missing:
            raise ImportError(f"No module named {name!r}")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'skleepkd\[onnx\]'"):
        export_onnx(SleepStager(TinyNetwork), path)


def test_the_stager_stays_as_it_was(path, tiny):
    tiny.module_.train()
    before, state = weights(tiny), torch.random.get_rng_state()
    export_onnx(tiny, path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tiny.module_.training
    assert same(tiny, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_the_gpu(path, pair):
    stager = SleepStager(TinyNetwork, **{**FAST, "device": "cuda"}).fit(*pair)
    export_onnx(stager, path)
    assert next(stager.module_.parameters()).is_cuda
    found, expected = run(path, pair[0]["target"]), stager.predict_proba(pair[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
