import contextlib
import functools
import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.exceptions import DeviceWarning
from torch import nn

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
from skleepkd.distillation import LeakageWarning
from skleepkd.networks import UTime
from skleepkd.plotting import TrainingCurveDisplay
from skleepkd.preprocessing import EpochScaler
from tests.tiny import TinyNetwork, make_pair

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}
TINY = SleepStager(TinyNetwork, **FAST)
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.safetensors"


@pytest.fixture
def tiny(pair):
    """A fitted stager with a tiny network."""
    X, y = pair
    return clone(TINY).fit(X, y)


def saved_and_loaded(stager, path, module=None):
    save(stager, path)
    state = torch.random.get_rng_state()
    loaded = load(path, module)
    assert torch.equal(torch.random.get_rng_state(), state)
    return loaded


def about(path):
    """The metadata of a file, read by safetensors alone."""
    with safetensors.safe_open(path, "np") as file:
        return json.loads(file.metadata()["skleepkd"])


def parameters_of(metadata):
    """The stager's parameters in a file's metadata, as JSON."""
    return dict(metadata["estimator"]["estimator"][1]["dict"])


def rewrite(path, parameters=(), **changes):
    """Forge a file with other content or parameters, and a digest that fits."""
    metadata = {**about(path), **changes}
    forged = {**parameters_of(metadata), **dict(parameters)}
    metadata["estimator"]["estimator"][1]["dict"] = list(forged.items())
    forge(path, metadata)


def forge(path, metadata, tensors=None):
    """Write a file of this metadata, with a digest that fits."""
    if tensors is None:
        tensors = safetensors.torch.load_file(path)
    metadata = json.dumps({**metadata, "sha256": "0" * 64}, separators=(",", ":"))
    data = safetensors.torch.save(tensors, {"skleepkd": metadata})
    digest = hashlib.sha256(data).hexdigest()
    path.write_bytes(data.replace(b"0" * 64, digest.encode(), 1))


# ---------------------------------------------------------------- predictions


def nights(n_chans, n_times, sfreq):
    """Epochs of two subjects, some of them unscored."""
    rng = np.random.default_rng(0)
    X = PairedEpochs(
        30 * rng.standard_normal((18, n_chans, n_times), dtype=np.float32),
        subject=np.repeat(["a", "b"], 9),
        recording=np.repeat(["night-a", "night-b"], 9),
        onset=np.tile(30.0 * np.arange(9), 2),
        sfreq=sfreq,
    )
    return X, np.tile([0, 1, 2, 3, 4, 4, -1, 0, 2], 2)


def predict_alike(again, stager, X):
    np.testing.assert_array_equal(again.predict_proba(X), stager.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), stager.predict(X))
    np.testing.assert_array_equal(again.extract_features(X), stager.extract_features(X))
    assert again.predict(X).dtype == stager.predict(X).dtype


@pytest.mark.parametrize(
    ("module", "options", "signal"),
    [
        ("UTime", SMALL_UTIME, (2, 60, 2.0)),
        (UTime, SMALL_UTIME, (1, 60, 2.0)),
        ("EpochCrossModalTransformer", {}, (2, 300, 100.0)),
        # The kernel that its name stands for depends on the sampling rate.
        ("USleep", {"module__depth": 3}, (1, 600, 200.0)),
    ],
    ids=["UTime", "UTime as a class", "EpochCrossModalTransformer", "USleep"],
)
def test_known_networks_come_back_by_name(path, module, options, signal):
    if module == "USleep":
        pytest.importorskip("braindecode")
    X, y = nights(*signal)
    stager = SleepStager(module, **options, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path)
    assert type(again) is SleepStager
    assert again.module is stager.module or again.module == stager.module
    assert type(again.module_) is type(stager.module_)
    assert not again.module_.training
    predict_alike(again, stager, X)
    assert again.score(X, y) == stager.score(X, y)
    if module in ("UTime", UTime):
        np.testing.assert_array_equal(again.hypnodensity(X, 10), stager.hypnodensity(X, 10))


def test_a_class_of_braindecode_is_known(path):
    models = pytest.importorskip("braindecode.models")
    X, y = nights(1, 600, 100.0)
    stager = SleepStager(models.USleep, module__depth=3, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path)
    assert again.module is models.USleep
    predict_alike(again, stager, X)


@pytest.mark.parametrize("labels", [None, np.array(["W", "N1", "N2", "N3", "REM"])])
def test_an_own_network_is_given(path, pair, labels):
    X, y = pair
    y = y if labels is None else labels[y]
    stager = SleepStager(TinyNetwork, module__n_filters=6, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path, TinyNetwork)
    predict_alike(again, stager, X)
    np.testing.assert_array_equal(again.classes_, stager.classes_)
    before, after = stager.module_.state_dict(), again.module_.state_dict()
    assert list(before) == list(after)
    assert "norm.num_batches_tracked" in before
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor)
        assert after[name].dtype == tensor.dtype


def test_an_own_network_is_not_guessed(path, tiny):
    save(tiny, path)
    with pytest.raises(ValueError, match=r"tests.tiny.TinyNetwork.*module="):
        load(path)
    with pytest.raises(ValueError, match="loading state_dict for UTime"):
        load(path, "UTime")
    # What the library holds besides networks is not found either.
    for name in ("Unheard", "build"):
        for module in (name, {"named": name}):
            rewrite(path, {"module": module}, left_out={"dict": []})
            with pytest.raises(ValueError, match=f"No network is called '{name}'"):
                load(path)


class Activated(TinyNetwork):
    """A network with an option that is a class."""

    def __init__(self, n_chans, n_times, n_outputs, activation=nn.Identity, n_filters=4):
        super().__init__(n_chans, n_times, n_outputs, n_filters=n_filters)
        self.features = activation()


def test_options_that_no_file_holds_must_be_given(path, pair):
    X, y = pair
    options = {"module__activation": nn.Tanh, "module__n_filters": 3}
    stager = SleepStager(Activated, **options, **FAST).fit(X, y)
    save(stager, path)
    # The class alone would load, and predict otherwise.
    for module in (None, Activated):
        with pytest.raises(ValueError, match=r"activation=.*Tanh.*functools.partial"):
            load(path, module)
    predict_alike(load(path, functools.partial(Activated, activation=nn.Tanh)), stager, X)


def test_an_instance_and_a_factory_are_networks_too(path, pair):
    X, y = pair
    instance = TinyNetwork(2, 60, 5)
    for module in (instance, functools.partial(TinyNetwork, n_filters=3)):
        stager = SleepStager(module, **FAST).fit(X, y)
        save(stager, path)
        with pytest.raises(ValueError, match="no file holds module=.*TinyNetwork"):
            load(path)
        predict_alike(load(path, module), stager, X)


def test_weights_that_share_memory_and_are_compiled(path, pair):
    X, y = pair

    class Tied(TinyNetwork):
        def __init__(self, n_chans, n_times, n_outputs):
            super().__init__(n_chans, n_times, n_outputs)
            self.same_head = self.head

    stager = SleepStager(Tied, compile=True, compile__backend="eager", **FAST).fit(X, y)
    again = saved_and_loaded(stager, path, Tied)
    assert again.get_params()["compile"] is True
    np.testing.assert_array_equal(again.predict_proba(X), stager.predict_proba(X))
    assert not any("_orig_mod" in name for name in safetensors.torch.load_file(path))


def test_numbers_keep_their_precision(path, pair):
    X, y = pair

    class Double(TinyNetwork):
        def __init__(self, n_chans, n_times, n_outputs):
            super().__init__(n_chans, n_times, n_outputs)
            self.head.double()
            self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

        def forward(self, x):
            features = self.features(self.norm(self.filters(x).square().mean(dim=2)))
            return self.head(features.double()).float()

    stager = SleepStager(Double, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path, Double)
    predict_alike(again, stager, X)
    kept = {name: value.dtype for name, value in safetensors.torch.load_file(path).items()}
    assert kept["head.weight"] == torch.float64
    assert kept["scale"] == torch.bfloat16


# ---------------------------------------------------------------- students


@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_of_a_distilled_stager_the_student_is_kept(path, pair, strategy):
    X, y = pair
    teacher = SleepStager("UTime", **SMALL_UTIME, **FAST)
    student = DistilledSleepStager(teacher, strategy=strategy, **FAST).fit(X, y)
    again = saved_and_loaded(student, path)
    assert type(again) is SleepStager
    assert again.module == "UTime"
    assert again.module__pools == (3, 2)
    predict_alike(again, student, X)
    assert f"trained as DistilledSleepStager ({strategy}) by skleepkd" in describe(again)
    # Nothing of the teacher is in the file.
    held = sum(value.numel() for value in safetensors.torch.load_file(path).values())
    assert held == sum(value.numel() for value in student.module_.state_dict().values())
    teacher = student.teacher_
    with warnings.catch_warnings():  # the choice of subjects is a callable
        warnings.simplefilter("ignore", UserWarning)
        predict_alike(saved_and_loaded(teacher, path), teacher, X.source_epochs)


def test_of_a_fine_tuned_stager_the_network_is_kept(path, pair):
    X, y = pair
    stager = FineTunedSleepStager(make_pipeline(TINY), trainable=("head",), **FAST)
    stager.fit(X, y)
    again = saved_and_loaded(stager, path, TinyNetwork)
    predict_alike(again, stager, X)
    assert all(parameter.requires_grad for parameter in again.module_.parameters())
    # Its classes are the source's, whatever it is trained on afterwards.
    again.partial_fit(X[y < 3], y[y < 3])
    assert again.classes_.tolist() == [0, 1, 2, 3, 4]


def test_sequences_come_back(path):
    rng = np.random.default_rng(0)
    X = PairedEpochs(
        rng.standard_normal((12, 1, 29, 129), dtype=np.float32),
        recording=np.repeat(["night-a", "night-b"], 6),
        onset=np.tile(30.0 * np.arange(6), 2),
        sfreq=100.0,
    )
    y = np.tile([0, 1, 2, 3, 4, -1], 2)
    small = {"hidden_size": 4, "n_filters": 4, "attention_size": 4}
    small = {f"module__{name}": value for name, value in small.items()}
    stager = SleepStager("SeqSleepNet", sequence_length=3, fusion="mean", **small, **FAST)
    again = saved_and_loaded(stager.fit(X, y), path)
    assert (again.sequence_length, again.fusion) == (3, "mean")
    predict_alike(again, stager, X)
    # Its windows are as long as the source's.
    transfer = FineTunedSleepStager(FrozenEstimator(again), trainable=("head",), **FAST)
    again = saved_and_loaded(transfer.fit(X, y), path)
    assert again.sequence_length == 3
    # torch rounds a layer that is not to be trained differently, whatever the mode.
    np.testing.assert_allclose(
        again.predict_proba(X), transfer.predict_proba(X), rtol=0, atol=1e-6
    )
    for parameter in transfer.module_.parameters():
        parameter.requires_grad_(True)
    predict_alike(again, transfer, X)


def test_a_loaded_stager_distils_and_warns_of_its_subjects(path, pair):
    X, y = pair
    first, last = X.subject < "s3", X.subject == "s5"
    teacher = FrozenEstimator(clone(TINY).fit(X.source_epochs[last], y[last]))
    student = DistilledSleepStager(teacher, classes="aasm", **FAST).fit(X[first], y[first])
    loaded = saved_and_loaded(student, path, TinyNetwork)
    # The weights know the subjects of the frozen teacher too.
    assert loaded.fitted_on_["subject"].tolist() == ["s0", "s1", "s2", "s5"]
    assert loaded.fitted_on_["recording"][-1] == "night-s5"
    transfer = FineTunedSleepStager(FrozenEstimator(loaded), **FAST).fit(X[first], y[first])
    again = FineTunedSleepStager(FrozenEstimator(student), **FAST).fit(X[first], y[first])
    unseen = X[X.subject == "s4"]
    np.testing.assert_array_equal(
        transfer.predict_proba(unseen), again.predict_proba(unseen)
    )
    with pytest.warns(LeakageWarning, match="the subject s5"):
        transfer.predict(X[last])


# ---------------------------------------------------------------- parameters, attributes


def test_what_fit_learned_comes_back(path):
    X, y = make_pair(n_subjects=12, n_epochs=10)
    X = PairedEpochs(
        X["target"],
        subject=X.subject,
        recording=X.recording,
        sfreq=2.0,
        ch_names=["L", "R"],
    )
    stager = SleepStager(
        TinyNetwork, classes=["a", "c", "b"], class_weight="balanced", **FAST
    ).fit(X, np.array(["a", "b", "c"])[y % 3])
    again = saved_and_loaded(stager, path, TinyNetwork)
    assert again.classes_.tolist() == ["a", "c", "b"]
    assert again.signal_ == stager.signal_
    assert again.epoch_shape_ == (2, 60)
    assert list(again.ch_names_) == ["L", "R"]
    assert len(again.held_out_) == 1
    np.testing.assert_array_equal(again.held_out_, stager.held_out_)
    assert again.fitted_on_["subject"].tolist() == np.unique(X.subject).tolist()
    assert again.best_epoch_ == stager.best_epoch_ in (1, 2)
    np.testing.assert_array_equal(again.class_weight_, stager.class_weight_)
    torch.testing.assert_close(again.criterion_.weight, stager.criterion_.weight)
    assert again.history_[:, "valid_kappa"] == stager.history_[:, "valid_kappa"]
    assert again.history_[:, "train_loss"] == stager.history_[:, "train_loss"]
    assert again.history_[-1].keys() == stager.history_[-1].keys()
    pytest.importorskip("matplotlib")
    assert TrainingCurveDisplay.from_estimators({"again": again}).ax_.shape == (2,)


def test_subjects_may_be_unknown_and_numbers_may_be_missing(path, pair):
    X, y = pair
    stager = clone(TINY).fit(X["target"], y)
    stager.history_[0]["train_loss"] = math.nan
    stager.history_[1]["train_loss"] = -math.inf
    again = saved_and_loaded(stager, path, TinyNetwork)
    assert again.fitted_on_ == {"subject": None, "recording": None}
    first, second = again.history_[:, "train_loss"]
    assert math.isnan(first)
    assert second == -math.inf


def test_parameters_come_back_as_they_were(path, pair):
    X, y = pair
    given = {
        "classes": (0, 1, 2, 3, 4),
        "class_weight": {0: np.float64(0.5), 3: 2},
        "validation": np.int64(2),
        "random_state": 7,
        "device": torch.device("cpu"),
        "max_epochs": np.int64(2),
        "lr": np.float32(0.1),
        "optimizer__betas": (0.8, 0.9),
        "optimizer__weight_decay": 1e-300,
        "criterion__label_smoothing": 0.25,
        "callbacks__print_log": None,
        "iterator_valid__batch_size": 5,
        "module__n_filters": 3,
    }
    stager = SleepStager(TinyNetwork, **given).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = saved_and_loaded(stager, path, TinyNetwork)
    params = again.get_params(deep=False)
    for name, value in given.items():
        assert params[name] == (str(value) if name == "device" else value)
    assert params["optimizer"] is torch.optim.Adam
    assert type(params["classes"]) is tuple
    assert again.optimizer_.param_groups[0]["betas"] == (0.8, 0.9)
    assert again.criterion_.label_smoothing == 0.25
    assert about(path)["left_out"]["dict"] == [["module", repr(TinyNetwork)]]


def test_what_can_be_fitted_can_be_loaded(path):
    X, y = nights(1, 60, 2.0)
    for name, value in {"verbose": None, "warm_start": 0, "compile": 0}.items():
        stager = SleepStager("UTime", **SMALL_UTIME, **FAST, **{name: value}).fit(X, y)
        again = saved_and_loaded(stager, path)
        assert again.get_params()[name] == value
        predict_alike(again, stager, X)
    numbered = PairedEpochs(X["target"], ch_names=[7])
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST).fit(numbered, y)
    assert list(saved_and_loaded(stager, path).ch_names_) == [7]
    whole = RecordingStager(stager, ch_names=np.array(["ear"]))
    assert saved_and_loaded(whole, path).ch_names == ["ear"]


def test_labels_of_two_codes_are_warned_of_once(path):
    X, y = nights(1, 60, 2.0)
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST)
    with pytest.warns(UserWarning, match="-1 and 1 are taken for two classes"):
        stager.fit(X, np.where(y > 1, 1, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = saved_and_loaded(stager, path)
    assert again.classes_.tolist() == [-1, 1]
    predict_alike(again, stager, X)


class Seeded(TinyNetwork):
    """A network with an option that is a large number and no size."""

    def __init__(self, n_chans, n_times, n_outputs, seed):
        super().__init__(n_chans, n_times, n_outputs)


def test_a_seed_of_the_network_comes_back(path, pair):
    X, y = pair
    stager = SleepStager(Seeded, module__seed=123456789, **FAST).fit(X, y)
    predict_alike(saved_and_loaded(stager, path, Seeded), stager, X)


def test_parameters_that_json_cannot_hold_are_named(path, pair):
    X, y = pair
    stager = SleepStager(
        TinyNetwork,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.5,
        random_state=np.random.RandomState(0),
        validation=lambda subjects: subjects[:1],
        criterion=nn.CrossEntropyLoss,
        max_epochs=2,
        device="cpu",
    ).fit(X, y)
    left_out = [
        "criterion",
        "optimizer",
        "optimizer__momentum",
        "random_state",
        "validation",
    ]
    message = f"JSON cannot hold them: {', '.join(left_out)}"
    with pytest.warns(UserWarning, match=message) as record:
        save(stager, path)
    assert record[0].filename == __file__
    assert [name for name, _ in about(path)["left_out"]["dict"]] == [
        *left_out[:1],
        "module",
        *left_out[1:],
    ]
    again = load(path, TinyNetwork)
    assert again.get_params()["optimizer"] is torch.optim.Adam
    predict_alike(again, stager, X)


def test_predictions_that_would_change_are_refused(path, pair):
    X, y = pair

    def cold(logits):
        return (5 * logits).softmax(dim=1)

    stager = SleepStager(TinyNetwork, predict_nonlinearity=cold, **FAST).fit(X, y)
    with pytest.raises(
        ValueError, match="Predictions depend on predict_nonlinearity=.*cold"
    ):
        save(stager, path)
    assert not path.exists()
    for fine in ("auto", None):
        stager = SleepStager(TinyNetwork, predict_nonlinearity=fine, **FAST).fit(X, y)
        predict_alike(saved_and_loaded(stager, path, TinyNetwork), stager, X)


def test_a_loaded_stager_is_a_stager(path, pair, tiny):
    X, y = pair
    again = saved_and_loaded(tiny, path, TinyNetwork)
    predict_alike(pickle.loads(pickle.dumps(again)), tiny, X)
    fresh = clone(again)
    assert not hasattr(fresh, "classes_")
    assert fresh.get_params(deep=False).keys() == clone(tiny).get_params(deep=False).keys()
    predict_alike(fresh.fit(X, y), tiny, X)
    assert again.set_params(lr=0.5).lr == 0.5
    assert again.optimizer_.param_groups[0]["lr"] == 0.5


def test_training_goes_on(path, pair, tiny):
    X, y = pair
    again = saved_and_loaded(tiny.set_params(lr=0.0), path, TinyNetwork)
    before = again.predict_proba(X)
    again.partial_fit(X, y)
    assert len(again.history_) == 4
    for name, value in again.module_.named_parameters():  # it began at the saved weights
        assert torch.equal(value, dict(tiny.module_.named_parameters())[name])
    again.set_params(lr=0.01).partial_fit(X, y)
    assert not np.array_equal(again.predict_proba(X), before)
    with pytest.raises(ValueError, match="A training goes on with the classes"):
        again.partial_fit(X[y < 3], y[y < 3])


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "cuda:3", "xla"])
def test_a_device_that_is_not_here(path, pair, tiny, device):
    save(tiny, path)
    rewrite(path, {"device": device})
    again = load(path, TinyNetwork)
    assert again.get_params()["device"] == "auto"
    predict_alike(again, tiny, pair[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_a_pickle_from_the_gpu(pair, tiny, device, monkeypatch):
    # On CUDA skorch pickles networks apart, with torch's own way to find another device.
    tiny.set_params(device=device)
    with monkeypatch.context() as there:
        there.setattr(torch.cuda, "is_available", lambda: True)
        pickled = pickle.dumps(tiny)
    assert b"__cuda_dependent_attributes__" in pickled
    expected = contextlib.nullcontext() if device == "auto" else pytest.warns(DeviceWarning)
    with expected:
        again = pickle.loads(pickled)
    assert torch.device(again.device).type == "cpu"
    assert str(again.get_params()["device"]) == ("auto" if device == "auto" else "cpu")
    tiny.__dict__["device"] = "cpu"
    predict_alike(again, tiny, pair[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_file_from_the_gpu_where_there_is_none(path):
    X, y = nights(1, 60, 2.0)
    stager = SleepStager("UTime", **SMALL_UTIME, **{**FAST, "device": "cuda:0"}).fit(X, y)
    save(stager, path)
    np.save(path.with_suffix(".npy"), X["target"])
    code = """
import sys
import numpy as np
from skleepkd import load
stager = load(sys.argv[1])
assert not next(stager.module_.parameters()).is_cuda
np.save(sys.argv[3], stager.predict_proba(np.load(sys.argv[2])))
"""
    outputs = path.with_name("outputs.npy")
    files = [str(path), str(path.with_suffix(".npy")), str(outputs)]
    here = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code, *files], env=here, check=True, timeout=120)
    np.testing.assert_allclose(np.load(outputs), stager.predict_proba(X), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_from_the_gpu_and_back(path, pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, max_epochs=2, random_state=0).fit(X, y)
    again = saved_and_loaded(stager, path, TinyNetwork)
    assert next(again.module_.parameters()).is_cuda
    np.testing.assert_allclose(again.predict_proba(X), stager.predict_proba(X), atol=1e-6)
    rewrite(path, {"device": "cpu"})
    on_cpu = load(path, TinyNetwork)
    assert not next(on_cpu.module_.parameters()).is_cuda
    np.testing.assert_allclose(on_cpu.predict_proba(X), stager.predict_proba(X), atol=1e-4)


# ---------------------------------------------------------------- files


def test_what_can_be_saved(path, pair, tiny):
    X, y = pair
    pipeline = make_pipeline(FunctionTransformer(np.abs), clone(TINY)).fit(X["target"], y)
    with pytest.raises(
        TypeError, match=r"cannot be saved: .*absolute.* is code.*pipeline\[-1\]"
    ):
        save(pipeline, path)
    piped = make_pipeline(FunctionTransformer(), LogisticRegression())
    for other in (piped, LogisticRegression(), tiny.module_):
        with pytest.raises(
            TypeError, match=rf"given {type(other).__name__}.*pipeline\[-1\]"
        ):
            save(other, path)
    predict_alike(saved_and_loaded(pipeline[-1], path, TinyNetwork), pipeline[-1], X)
    for stager in (TINY, DistilledSleepStager(TINY), FineTunedSleepStager(TINY)):
        message = f"This {type(stager).__name__} is not fitted yet: call fit first"
        for call in (
            lambda stager: save(stager, path),
            lambda stager: stager.predict(X),
            lambda stager: stager.hypnodensity(X),
            lambda stager: stager.extract_features(X),
        ):
            with pytest.raises(NotFittedError, match=message):
                call(stager)


def test_other_tools_read_the_file(path, tiny):
    save(tiny, path)
    tensors = safetensors.torch.load_file(path)
    assert tensors.keys() == tiny.module_.state_dict().keys()
    metadata = about(path)
    assert metadata["format"] == 1
    assert parameters_of(metadata)["max_epochs"] == 2
    # The digest is that of the file with zeros in its place.
    data = path.read_bytes().replace(metadata["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(data).hexdigest() == metadata["sha256"]


def test_the_same_stager_makes_the_same_file(path, tiny):
    save(tiny, str(path))
    first = path.read_bytes()
    save(load(path, TinyNetwork), path)
    assert path.read_bytes() == first


def test_any_damage_is_found(path, tiny):
    save(tiny, path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)

    def refused(damaged):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load(path, TinyNetwork)

    # Each byte of the length, the digest and what is around it, and many of the others.
    for place in [*range(200), *rng.choice(len(data), 600, replace=False)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        refused(damaged)
    for length in [*range(64), *rng.integers(64, len(data), 60), len(data) - 1]:
        refused(data[:length])
    refused(data + b"\0")
    refused(data[:400] + data[401:])
    refused(np.random.default_rng(1).bytes(len(data)))
    path.write_bytes(data)
    load(path, TinyNetwork)


def test_a_safetensors_file_of_another_tool_is_refused(path):
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no file that skleepkd.save wrote"):
        load(path)


def test_a_later_format_is_refused(path, tiny):
    save(tiny, path)
    metadata = {**about(path), "format": 2, "version": "9.0", "estimator": {"new": []}}
    forge(path, metadata)
    with pytest.raises(ValueError, match=r"format 2, written by skleepkd 9.0.*newer"):
        load(path, TinyNetwork)


def test_a_fresh_interpreter_loads_it(path):
    X, y = nights(1, 60, 2.0)
    pipeline = make_pipeline(
        EpochScaler("standard"), SleepStager("UTime", **SMALL_UTIME, **FAST)
    ).fit(X, y)
    save(pipeline, path)
    np.save(path.with_suffix(".npy"), X["target"])
    code = """
import sys
import numpy as np
from skleepkd import load
stager = load(sys.argv[1])
np.save(sys.argv[3], stager.predict_proba(np.load(sys.argv[2])))
assert "braindecode" not in sys.modules and "tests" not in sys.modules
"""
    outputs = path.with_name("outputs.npy")
    files = [str(path), str(path.with_suffix(".npy")), str(outputs)]
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=120)
    np.testing.assert_allclose(np.load(outputs), pipeline.predict_proba(X), atol=1e-6)


def test_no_half_file(path, tiny, monkeypatch):
    save(tiny, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    tiny.set_params(lr=0.3)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tiny, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    monkeypatch.undo()
    save(tiny, path)
    assert load(path, TinyNetwork).lr == 0.3
    assert os.listdir(path.parent) == [path.name]


def test_folders_must_exist(path, tiny):
    with pytest.raises(FileNotFoundError, match=r"directory: .*missing'$"):
        save(tiny, path.parent / "missing" / "stager.safetensors")
    with pytest.raises(FileNotFoundError, match=rf"directory: '{path}'$"):
        load(path)
    with pytest.raises(FileNotFoundError, match=rf"'{os.getcwd()}/absent.safetensors'$"):
        load("absent.safetensors")
    with pytest.raises(OSError, match=rf"directory: '{path.parent}'$"):
        save(tiny, path.parent)
    with pytest.raises(IsADirectoryError):
        load(path.parent)
    assert not list(path.parent.parent.glob("*.part"))
