"""Stagers as files: what comes back, what is refused, and that loading runs no code."""

import builtins
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
from braindecode import models, preprocessing
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
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
from skleepkd.preprocessing import (
    EpochScaler,
    EpochwiseTransformer,
    LogSpectrogram,
    PairedTransformer,
    RecordingScaler,
    SourceSelector,
    derive,
)
from tests.tiny import (
    FAST,
    NAMES,
    SMALL_SEQSLEEPNET,
    SMALL_UTIME,
    TinyNetwork,
    make_pair,
    noise,
    raises,
    recording,
    same,
    weights,
)

TINY = SleepStager(TinyNetwork, **{**FAST, "max_epochs": 2})
SMALL = SleepStager("UTime", **SMALL_UTIME, **FAST)
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs no CUDA device")
with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.safetensors"


@pytest.fixture
def tiny(pair):
    """A fitted stager with a tiny network."""
    return clone(TINY).fit(*pair)


def saved_and_loaded(stager, path, module=None):
    save(stager, path)
    state = torch.random.get_rng_state()
    loaded = load(path, module)
    assert torch.equal(torch.random.get_rng_state(), state)
    return loaded


def predict_alike(again, stager, X):
    np.testing.assert_array_equal(again.predict_proba(X), stager.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), stager.predict(X))
    assert again.predict(X).dtype == stager.predict(X).dtype
    if isinstance(stager, SleepStager):
        found, expected = again.extract_features(X), stager.extract_features(X)
        np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------- forging


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


def refused(path, *module):
    with raises(path.name):
        load(path, *module)


# ---------------------------------------------------------------- networks

SEQUENCES = {**SMALL_SEQSLEEPNET, "sequence_length": 3, "fusion": "mean"}


@pytest.mark.parametrize(
    ("module", "options", "signal", "sfreq"),
    [
        ("UTime", SMALL_UTIME, (2, 60), 2.0),
        (UTime, SMALL_UTIME, (1, 60), 2.0),
        ("EpochCrossModalTransformer", {}, (2, 300), 100.0),
        # The kernel that its name stands for depends on the sampling rate.
        ("USleep", {"module__depth": 3}, (1, 600), 200.0),
        (models.USleep, {"module__depth": 3}, (1, 600), 100.0),
        ("SeqSleepNet", SEQUENCES, (1, 29, 129), 100.0),
    ],
)
def test_known_networks_come_back_by_name(path, module, options, signal, sfreq):
    X, y = noise(*signal, sfreq=sfreq)
    stager = SleepStager(module, **options, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path)
    assert type(again) is SleepStager
    assert again.module == stager.module
    assert type(again.module_) is type(stager.module_)
    assert not again.module_.training
    predict_alike(again, stager, X)
    assert again.score(X, y) == stager.score(X, y)
    if module in ("UTime", UTime):
        np.testing.assert_array_equal(again.hypnodensity(X, 10), stager.hypnodensity(X, 10))
    for name, value in options.items():
        assert again.get_params()[name] == value


@pytest.mark.parametrize("names", [False, True])
def test_an_own_network_is_given(path, pair, names):
    X, y = pair
    y = NAMES[y] if names else y
    stager = SleepStager(TinyNetwork, module__n_filters=6, **FAST).fit(X, y)
    again = saved_and_loaded(stager, path, TinyNetwork)
    predict_alike(again, stager, X)
    np.testing.assert_array_equal(again.classes_, stager.classes_)
    assert same(again, stager)
    assert "norm.num_batches_tracked" in weights(again)


def test_an_own_network_is_not_guessed(path, tiny):
    save(tiny, path)
    with raises(r"tests.tiny.TinyNetwork.*module="):
        load(path)
    with raises("loading state_dict for UTime"):
        load(path, "UTime")
    # What the library holds besides networks is not found either.
    for name in ("Unheard", "build"):
        for module in (name, {"named": name}):
            rewrite(path, {"module": module}, left_out={"dict": []})
            with raises(f"No network is called '{name}'"):
                load(path)


class Activated(TinyNetwork):
    """A network with an option that is a class, and one that is a large number."""

    def __init__(self, n_chans, n_times, n_outputs, activation=nn.Identity, seed=0):
        super().__init__(n_chans, n_times, n_outputs)
        self.features = activation()


def test_options_of_a_network(path, pair):
    X, y = pair
    seeded = SleepStager(Activated, module__seed=123456789, **FAST).fit(X, y)
    predict_alike(saved_and_loaded(seeded, path, Activated), seeded, X)
    stager = SleepStager(Activated, module__activation=nn.Tanh, **FAST).fit(X, y)
    save(stager, path)
    # The class alone would load, and predict otherwise.
    for module in (None, Activated):
        with raises(r"activation=.*Tanh.*functools.partial"):
            load(path, module)
    predict_alike(load(path, functools.partial(Activated, activation=nn.Tanh)), stager, X)


def test_an_instance_and_a_factory_are_networks_too(path, pair):
    for module in (TinyNetwork(2, 60, 5), functools.partial(TinyNetwork, n_filters=3)):
        stager = SleepStager(module, **FAST).fit(*pair)
        save(stager, path)
        with raises("no file holds module=.*TinyNetwork"):
            load(path)
        predict_alike(load(path, module), stager, pair[0])


class Double(TinyNetwork):
    """Weights that share memory, and of three precisions."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.same_head = self.head.double()
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))

    def forward(self, x):
        features = self.features(self.norm(self.filters(x).square().mean(dim=2)))
        return self.head(features.double()).float()


def test_shared_weights_keep_their_precision_and_are_compiled(path, pair):
    options = {"compile": True, "compile__backend": "eager"}
    stager = SleepStager(Double, **options, **FAST).fit(*pair)
    again = saved_and_loaded(stager, path, Double)
    assert again.get_params()["compile"] is True
    predict_alike(again, stager, pair[0])
    kept = {name: value.dtype for name, value in safetensors.torch.load_file(path).items()}
    assert not any("_orig_mod" in name for name in kept)
    assert kept["scale"] == torch.bfloat16
    assert torch.float64 in kept.values()


# ---------------------------------------------------------------- students


@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_of_a_distilled_stager_the_student_is_kept(path, pair, strategy):
    X, y = pair
    student = DistilledSleepStager(SMALL, strategy=strategy, **FAST).fit(X, y)
    again = saved_and_loaded(student, path)
    assert type(again) is SleepStager
    assert again.module == "UTime"
    assert again.module__pools == (3, 2)
    predict_alike(again, student, X)
    assert f"trained as DistilledSleepStager ({strategy}) by skleepkd" in describe(again)
    # Nothing of the teacher is in the file.
    held = sum(value.numel() for value in safetensors.torch.load_file(path).values())
    assert held == sum(value.numel() for value in weights(student).values())
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


def test_a_fine_tuned_stagers_windows_are_the_sources(path):
    X, y = noise(1, 29, 129, sfreq=100.0)
    source = SleepStager("SeqSleepNet", sequence_length=3, **SMALL_SEQSLEEPNET, **FAST)
    frozen = FrozenEstimator(source.fit(X, y))
    stager = FineTunedSleepStager(frozen, trainable=("head",), **FAST).fit(X, y)
    again = saved_and_loaded(stager, path)
    assert again.sequence_length == 3
    # torch rounds a layer that is not to be trained differently, whatever the mode.
    stager.module_.requires_grad_(True)
    predict_alike(again, stager, X)


def test_a_loaded_stager_distils_and_warns_of_its_subjects(path, pair):
    X, y = pair
    first, last = X.subject < "s3", X.subject == "s5"
    teacher = FrozenEstimator(clone(TINY).fit(X.source_epochs[last], y[last]))
    student = DistilledSleepStager(teacher, classes="aasm", **FAST).fit(X[first], y[first])
    loaded = saved_and_loaded(student, path, TinyNetwork)
    # The weights know the subjects of the frozen teacher too.
    assert loaded.fitted_on_["subject"].tolist() == ["s0", "s1", "s2", "s5"]
    assert loaded.fitted_on_["recording"][-1] == "night-s5"
    transfer, expected = (
        FineTunedSleepStager(FrozenEstimator(given), **FAST).fit(X[first], y[first])
        for given in (loaded, student)
    )
    predict_alike(transfer, expected, X[X.subject == "s4"])
    with pytest.warns(LeakageWarning, match="the subject s5"):
        transfer.predict(X[last])


# ---------------------------------------------------------------- parameters, attributes


def test_what_fit_learned_comes_back(path):
    X, y = make_pair(n_subjects=12, n_epochs=10)
    columns = {"subject": X.subject, "recording": X.recording, "ch_names": ["L", "R"]}
    X = PairedEpochs(X["target"], sfreq=2.0, **columns)
    options = {"classes": ["a", "c", "b"], "class_weight": "balanced"}
    stager = clone(TINY).set_params(**options).fit(X, np.array(["a", "b", "c"])[y % 3])
    again = saved_and_loaded(stager, path, TinyNetwork)
    assert again.classes_.tolist() == ["a", "b", "c"]
    assert again.signal_ == stager.signal_
    assert again.epoch_shape_ == (2, 60)
    assert list(again.ch_names_) == ["L", "R"]
    assert len(again.held_out_) == 1
    np.testing.assert_array_equal(again.held_out_, stager.held_out_)
    assert again.fitted_on_["subject"].tolist() == np.unique(X.subject).tolist()
    assert again.best_epoch_ == stager.best_epoch_ in (1, 2)
    np.testing.assert_array_equal(again.class_weight_, stager.class_weight_)
    torch.testing.assert_close(again.criterion_.weight, stager.criterion_.weight)
    names = ("valid_kappa", "train_loss")
    assert again.history_[:, names] == stager.history_[:, names]
    assert again.history_[-1].keys() == stager.history_[-1].keys()
    pytest.importorskip("matplotlib")
    assert TrainingCurveDisplay.from_estimators({"again": again}).ax_.shape == (2,)


def test_subjects_may_be_unknown_and_numbers_may_be_missing(path, pair):
    stager = clone(TINY).fit(pair[0]["target"], pair[1])
    stager.history_[0]["train_loss"] = math.nan
    stager.history_[1]["train_loss"] = -math.inf
    again = saved_and_loaded(stager, path, TinyNetwork)
    assert again.fitted_on_ == {"subject": None, "recording": None}
    first, second = again.history_[:, "train_loss"]
    assert math.isnan(first)
    assert second == -math.inf


def test_names_of_subjects_may_be_taken_out(path, pair):
    X, y = pair
    stager = clone(SMALL).set_params(validation=1).fit(X, y)
    save(stager, path)
    assert b"night-s3" in path.read_bytes()
    # As save's docstring says.
    stager.fitted_on_ = {"subject": None, "recording": None}
    stager.held_out_ = stager.held_out_[:0]
    predict_alike(saved_and_loaded(stager, path), stager, X)
    for name in (*np.unique(X.subject), "night-"):
        assert f'\\"{name}'.encode() not in path.read_bytes()


def test_parameters_come_back_as_they_were(path, pair):
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
        "verbose": None,
        "warm_start": 0,
        "compile": 0,
    }
    stager = SleepStager(TinyNetwork, **given).fit(*pair)
    with warnings.catch_warnings(action="error"):
        again = saved_and_loaded(stager, path, TinyNetwork)
    params = again.get_params(deep=False)
    for name, value in given.items():
        assert params[name] == (str(value) if name == "device" else value)
    assert params["optimizer"] is torch.optim.Adam
    assert type(params["classes"]) is tuple
    assert again.optimizer_.param_groups[0]["betas"] == (0.8, 0.9)
    assert again.criterion_.label_smoothing == 0.25
    assert about(path)["left_out"]["dict"] == [["module", repr(TinyNetwork)]]


def test_channels_may_be_numbers_or_an_array(path):
    X, y = noise(1, 60, sfreq=2.0)
    stager = clone(SMALL).fit(PairedEpochs(X["target"], ch_names=[7]), y)
    assert list(saved_and_loaded(stager, path).ch_names_) == [7]
    whole = RecordingStager(stager, ch_names=np.array(["ear"]))
    assert saved_and_loaded(whole, path).ch_names == ["ear"]


def test_labels_of_two_codes_are_warned_of_once(path):
    X, y = noise(1, 60, sfreq=2.0)
    with pytest.warns(UserWarning, match="-1 and 1 are taken for two classes"):
        stager = clone(SMALL).fit(X, np.where(y > 1, 1, -1))
    with warnings.catch_warnings(action="error"):
        again = saved_and_loaded(stager, path)
    assert again.classes_.tolist() == [-1, 1]
    predict_alike(again, stager, X)


def test_parameters_that_json_cannot_hold_are_named(path, pair):
    odd = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.5,
        "random_state": np.random.RandomState(0),
        "validation": lambda subjects: subjects[:1],
    }
    stager = SleepStager(TinyNetwork, **{**FAST, **odd}).fit(*pair)
    message = f"JSON cannot hold them: {', '.join(odd)}"
    with pytest.warns(UserWarning, match=message) as record:
        save(stager, path)
    assert record[0].filename == __file__
    left_out = [name for name, _ in about(path)["left_out"]["dict"]]
    assert left_out == sorted([*odd, "module"])
    again = load(path, TinyNetwork)
    assert again.get_params()["optimizer"] is torch.optim.Adam
    predict_alike(again, stager, pair[0])


def test_predictions_that_would_change_are_refused(path, pair):
    def cold(logits):
        return (5 * logits).softmax(dim=1)

    stager = SleepStager(TinyNetwork, predict_nonlinearity=cold, **FAST).fit(*pair)
    with raises("Predictions depend on predict_nonlinearity=.*cold"):
        save(stager, path)
    assert not path.exists()
    for fine in ("auto", None):
        stager = SleepStager(TinyNetwork, predict_nonlinearity=fine, **FAST).fit(*pair)
        predict_alike(saved_and_loaded(stager, path, TinyNetwork), stager, pair[0])


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
    parameters = dict(tiny.module_.named_parameters())
    for name, value in again.module_.named_parameters():  # it began at the saved weights
        assert torch.equal(value, parameters[name])
    again.set_params(lr=0.01).partial_fit(X, y)
    assert not np.array_equal(again.predict_proba(X), before)
    with raises("A training goes on with the classes"):
        again.partial_fit(X[y < 3], y[y < 3])


# ---------------------------------------------------------------- steps


class Flat(TinyNetwork):
    """Takes spectrograms, and what is not one, as a signal."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)

    def forward(self, x):
        return super().forward(x if x.ndim == 3 else x.mean(dim=3))


FLAT = SleepStager(Flat, **FAST)


@pytest.fixture
def nights():
    """Pairs of two subjects, at 10 Hz."""
    return noise(1, 300, source=(2, 300), sfreq=10.0)


def standardize():
    options = {"factor_new": 0.01, "init_block_size": None}
    function = preprocessing.exponential_moving_standardize
    return EpochwiseTransformer(function, kw_args=options)


STEPS = {
    "scaler": lambda: EpochScaler("standard"),
    "of recordings": lambda: PairedTransformer(target=RecordingScaler()),
    "function": standardize,
    "spectrogram": lambda: LogSpectrogram(window=1.0, n_fft=32, floor=1e-2),
    "plain spectrogram": lambda: LogSpectrogram(standardize=False),
    "paired": lambda: PairedTransformer(source=EpochScaler(), target=LogSpectrogram()),
    "the target alone": lambda: PairedTransformer(target=standardize()),
    "the source": lambda: SourceSelector(),
}


@pytest.mark.parametrize("name", STEPS)
def test_transformers_come_back(path, nights, name):
    X, y = nights
    steps = [("first", STEPS[name]()), ("none", "passthrough"), ("net", clone(FLAT))]
    pipeline = Pipeline(steps).fit(X, y)
    again = saved_and_loaded(pipeline, path, Flat)
    assert type(again) is Pipeline
    assert [name for name, _ in again.steps] == ["first", "none", "net"]
    assert again[0].get_params().keys() == pipeline[0].get_params().keys()
    predict_alike(again, pipeline, X)
    if name != "the source":  # a wearable's signal comes alone
        predict_alike(again, pipeline, X["target"])
    if name == "spectrogram":  # statistics keep their precision
        for key, value in vars(pipeline[0]).items():
            restored = getattr(again[0], key)
            assert type(restored) is type(value)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(restored, value)
                assert restored.dtype == value.dtype
        mean = pipeline[0].source_.mean_
        np.testing.assert_array_equal(again[0].source_.mean_, mean)
    # The whole can be fitted anew, and saved again.
    first = path.read_bytes()
    save(again, path)
    assert path.read_bytes() == first
    again.fit(X, y)


def test_a_student_of_spectrograms_by_name(path, nights):
    X, y = nights
    options = {**SMALL_SEQSLEEPNET, "sequence_length": 2, **FAST}
    teacher = SleepStager("SeqSleepNet", **options)
    terms = {"feature_loss": None, "alpha": 0.5}
    student = DistilledSleepStager(teacher, "SeqSleepNet", **terms, **options)
    spectrogram = LogSpectrogram(window=3.2, n_fft=32)
    step = PairedTransformer(source=spectrogram, target=spectrogram)
    pipeline = make_pipeline(step, student).fit(X, y)
    again = saved_and_loaded(pipeline, path)
    assert again[-1].module == "SeqSleepNet"
    predict_alike(again, pipeline, X)


def test_a_transformer_that_is_not_fitted_stays_so(path, nights):
    stager = clone(FLAT).fit(*nights)
    pipeline = Pipeline([("first", LogSpectrogram(hop=2.0)), ("net", stager)])
    again = saved_and_loaded(pipeline, path, Flat)[0]
    assert again.hop == 2.0
    assert not hasattr(again, "mean_")


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (StandardScaler(), "StandardScaler.*is code"),
        (FunctionTransformer(lambda x: x), "<lambda>.*is code"),
        (FunctionTransformer(np.abs), "absolute.*is code"),
        (EpochwiseTransformer(lambda x: x), "<lambda>.*is code"),
        (EpochwiseTransformer(np.abs), "'absolute'.*is code"),
        (EpochwiseTransformer(eval), "eval.*is code"),
        (PairedTransformer(target=StandardScaler()), "StandardScaler.*is code"),
    ],
)
def test_steps_that_no_file_holds_are_refused(path, tiny, step, reason):
    message = rf"cannot be saved: .*{reason}.*pipeline\[-1\]"
    with pytest.raises(TypeError, match=message):
        save(Pipeline([("odd", step), ("net", tiny)]), path)
    assert not path.exists()


@pytest.mark.parametrize("frozen", [False, True])
def test_recording_stagers_come_back(path, nights, frozen):
    X, y = nights
    stager = clone(SMALL) if frozen else make_pipeline(EpochScaler(), clone(SMALL))
    stager.fit(X.target_epochs, y)
    montage = {"E2": {"E2": 1.0}, "E1": {"E1": -1.0}}
    standardize = preprocessing.exponential_moving_standardize
    steps = [
        preprocessing.Filter(l_freq=0.3, h_freq=4.0, n_jobs=1),
        preprocessing.Preprocessor("resample", sfreq=10),
        preprocessing.Preprocessor(derive, apply_on_array=False, weights=montage),
        preprocessing.Preprocessor(standardize, factor_new=0.01),
    ]
    inner = FrozenEstimator(stager) if frozen else stager
    whole = RecordingStager(inner, steps[:3], ch_names=["E2"])
    again = saved_and_loaded(whole, path)
    assert type(again) is RecordingStager
    assert again.ch_names == ["E2"]
    assert type(again.stager) is type(inner)
    assert [step.fn for step in again.preprocessors] == ["filter", "resample", derive]
    raw = recording(["E1", "E2"], seconds=100, sfreq=20.0)
    found, expected = (one.stage(raw.copy()).probabilities for one in (again, whole))
    np.testing.assert_array_equal(found, expected)
    last = saved_and_loaded(RecordingStager(stager, steps), path).preprocessors[-1]
    assert last.fn is standardize
    assert (last.apply_on_array, last.kwargs) == (True, {"factor_new": 0.01})


class Applied:
    """Has ``apply``, and is no preprocessor."""

    def apply(self, raw):
        return raw


@pytest.mark.parametrize(
    ("reason", "arguments", "options"),
    [
        ("absolute.* is code", ["apply_function"], {"fun": np.abs}),
        ("fn='save'", ["save"], {"fname": "x.fif"}),
        ("fn='export'", ["export"], {"fname": "x.edf"}),
        ("fn='__class__'", ["__class__"], {}),
        ("'absolute'.* is code", [np.abs], {}),
        ("upper.* is code", ["rename_channels"], {"mapping": str.upper}),
        ("Applied.* is code", None, {}),
    ],
)
def test_preprocessors_that_run_code_are_refused(path, tiny, reason, arguments, options):
    make = preprocessing.Preprocessor
    step = Applied() if arguments is None else make(*arguments, **options)
    with pytest.raises(TypeError, match=f"cannot be saved: .*{reason}"):
        save(RecordingStager(tiny, [make("crop", tmax=60), step]), path)
    assert not path.exists()


# ---------------------------------------------------------------- devices


@without_cuda
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "cuda:3", "xla"])
def test_a_device_that_is_not_here(path, pair, tiny, device):
    save(tiny, path)
    rewrite(path, {"device": device})
    again = load(path, TinyNetwork)
    assert again.get_params()["device"] == "auto"
    predict_alike(again, tiny, pair[0])


@without_cuda
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


def elsewhere(path, X, **environment):
    """Probabilities of a fresh interpreter that loads the file."""
    signal, proba = path.with_name("signal.npy"), path.with_name("proba.npy")
    np.save(signal, X)
    code = """
import sys
import numpy as np
from skleepkd import load
stager = load(sys.argv[1])
np.save(sys.argv[3], stager.predict_proba(np.load(sys.argv[2])))
assert "braindecode" not in sys.modules and "tests" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(path), str(signal), str(proba)]
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=120)
    return np.load(proba)


def test_a_fresh_interpreter_loads_it(path):
    X, y = noise(1, 60, sfreq=2.0)
    pipeline = make_pipeline(EpochScaler("standard"), clone(SMALL)).fit(X, y)
    save(pipeline, path)
    expected = pipeline.predict_proba(X)
    np.testing.assert_allclose(elsewhere(path, X["target"]), expected, atol=1e-6)


@pytest.mark.gpu
@with_cuda
def test_a_file_from_the_gpu_where_there_is_none(path):
    X, y = noise(1, 60, sfreq=2.0)
    stager = clone(SMALL).set_params(device="cuda:0").fit(X, y)
    save(stager, path)
    found = elsewhere(path, X["target"], CUDA_VISIBLE_DEVICES="")
    np.testing.assert_allclose(found, stager.predict_proba(X), atol=1e-4)


@pytest.mark.gpu
@with_cuda
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


def test_what_can_be_saved(path, tiny):
    piped = make_pipeline(FunctionTransformer(), LogisticRegression())
    for other in (piped, LogisticRegression(), tiny.module_):
        message = rf"given {type(other).__name__}.*pipeline\[-1\]"
        with pytest.raises(TypeError, match=message):
            save(other, path)


@pytest.mark.parametrize(
    "stager", [TINY, DistilledSleepStager(TINY), FineTunedSleepStager(TINY)]
)
def test_what_is_not_fitted_says_so(path, pair, stager):
    message = f"This {type(stager).__name__} is not fitted yet: call fit first"
    with pytest.raises(NotFittedError, match=message):
        save(stager, path)
    for call in (stager.predict, stager.hypnodensity, stager.extract_features):
        with pytest.raises(NotFittedError, match=message):
            call(pair[0])


def test_other_tools_read_the_file(path, tiny):
    save(tiny, str(path))
    assert safetensors.torch.load_file(path).keys() == weights(tiny).keys()
    metadata = about(path)
    assert metadata["format"] == 1
    assert parameters_of(metadata)["max_epochs"] == 2
    # The digest is that of the file with zeros in its place.
    first = path.read_bytes()
    data = first.replace(metadata["sha256"].encode(), b"0" * 64)
    assert hashlib.sha256(data).hexdigest() == metadata["sha256"]
    # The same stager makes the same file.
    save(load(path, TinyNetwork), path)
    assert path.read_bytes() == first


def test_any_damage_is_found(path, tiny):
    save(tiny, path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    # Each byte of the length, the digest and what is around it, and many of the others.
    for place in [*range(200), *rng.choice(len(data), 300, replace=False)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with raises("damaged"):
            load(path, TinyNetwork)
    lengths = [*range(64), *rng.integers(64, len(data), 60), len(data) - 1]
    others = [data + b"\0", data[:400] + data[401:], rng.bytes(len(data))]
    for damaged in [*(data[:length] for length in lengths), *others]:
        path.write_bytes(damaged)
        with raises("damaged"):
            load(path, TinyNetwork)
    path.write_bytes(data)
    load(path, TinyNetwork)


def test_files_of_other_tools_and_later_formats_are_refused(path, tiny):
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with raises("no file that skleepkd.save wrote"):
        load(path)
    save(tiny, path)
    metadata = {**about(path), "format": 2, "version": "9.0", "estimator": {"new": []}}
    forge(path, metadata)
    with raises(r"format 2, written by skleepkd 9.0.*newer"):
        load(path, TinyNetwork)


def test_folders_must_exist(path, tiny):
    with raises(r"directory: .*missing'$", FileNotFoundError):
        save(tiny, path.parent / "missing" / "stager.safetensors")
    with raises(rf"directory: '{path}'$", FileNotFoundError):
        load(path)
    with raises(rf"'{os.getcwd()}/absent.safetensors'$", FileNotFoundError):
        load("absent.safetensors")
    with pytest.raises(OSError, match=rf"directory: '{path.parent}'$"):
        save(tiny, path.parent)
    with pytest.raises(IsADirectoryError):
        load(path.parent)
    assert not list(path.parent.parent.glob("*.part"))


# ---------------------------------------------------------------- forgeries


@pytest.fixture(scope="module")
def utime_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "utime.safetensors"
    save(clone(SMALL).fit(*make_pair()), path)
    load(path)
    return path.read_bytes()


@pytest.fixture
def utime_file(path, utime_bytes):
    path.write_bytes(utime_bytes)
    return path


FOREIGN = ("os.system", "Module", "Sequential", "EEGModuleMixin", "__builtins__", "nn", "")
FOREIGN += ("tests.tiny.TinyNetwork", "skleepkd.networks.UTime", 3, None, ["UTime"], "REVE")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Networks are found among ours and braindecode's.
        *(("module", name) for name in FOREIGN),
        *(("module", {"named": name}) for name in FOREIGN),
        ("checkpoint", "/tmp/elsewhere"),
        ("unheard", 1),
        ("unheard__of", 1),
        ("optimizer", "SGD"),
        ("optimizer", {"named": "os.system"}),
        ("criterion", "os.system"),
        ("iterator_train", {"named": "os.system"}),
        ("train_split", {"named": "eval"}),
        ("torch_load_kwargs", {"dict": [["weights_only", False]]}),
        ("compile__backend", "os.system"),
        ("compile__options", {"dict": [["cpp.cxx", {"tuple": ["touch"]}]]}),
        ("callbacks", "x"),
        # Values of no known kind.
        ("lr", {"other": []}),
        ("lr", {"array": ["os.system", []]}),
        ("lr", {"estimator": []}),
    ],
)
def test_parameters_that_name_code_or_other_files(utime_file, name, value):
    rewrite(utime_file, {name: value})
    refused(utime_file)


def test_attributes_are_no_way_around_the_parameters(utime_file):
    metadata = about(utime_file)
    metadata["estimator"]["estimator"][2]["dict"].append(["checkpoint", "/tmp/elsewhere"])
    forge(utime_file, metadata)
    refused(utime_file)


@pytest.mark.parametrize("part", ["format", "estimator", "left_out"])
def test_parts_that_are_missing(utime_file, part):
    metadata = about(utime_file)
    del metadata[part]
    forge(utime_file, metadata)
    refused(utime_file)


def test_weights_of_other_names_and_shapes(utime_file, utime_bytes):
    metadata, tensors = about(utime_file), safetensors.torch.load(utime_bytes)
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    for odd in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "other.weight": torch.zeros(2)},
        {**tensors, name: torch.zeros(1)},
        {},
    ):
        forge(utime_file, metadata, odd)
        refused(utime_file)


@pytest.fixture(scope="module")
def recording_bytes(tmp_path_factory):
    """A file of a pipeline in a recording stager."""
    X, y = noise(1, 300, sfreq=10.0)
    path = tmp_path_factory.mktemp("kept") / "recording.safetensors"
    step = preprocessing.Preprocessor("resample", sfreq=10)
    pipeline = make_pipeline(EpochScaler(), clone(FLAT)).fit(X, y)
    save(RecordingStager(pipeline, [step]), path)
    load(path, Flat)
    return path.read_bytes()


@pytest.fixture
def put(path, recording_bytes):
    """A way to forge the first steps of that file."""
    path.write_bytes(recording_bytes)
    metadata = about(path)
    parameters = parameters_of(metadata)
    (name_and_step, _) = dict(parameters["stager"]["estimator"][1]["dict"])["steps"]

    def put(transformer=None, preprocessor=None):
        if transformer is not None:
            name_and_step["tuple"][1] = {"estimator": transformer}
        if preprocessor is not None:
            parameters["preprocessors"][0] = {"estimator": preprocessor}
        forge(path, metadata)

    return put


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "builtins.exec", "subprocess.run", "pickle.loads"),
        *("numpy.load", "skleepkd.load", "braindecode.preprocessing.preprocess", "eval"),
        *("skleepkd.preprocessing.derive", "skleepkd.preprocessing.np", "", ".", "np"),
        *("load", "preprocess", "__builtins__", "StandardScaler", "antigravity.fly"),
        *(3, None, ["os", "system"]),
    ],
)
def test_functions_and_classes_are_found_among_a_few(path, put, monkeypatch, name):
    imported, original = [], builtins.__import__

    def note(module, *args, **kwargs):
        imported.append(module.partition(".")[0])
        return original(module, *args, **kwargs)

    odd = {"dict": [["function", {"named": name}], ["kw_args", None]]}
    called = {"dict": [["fn", {"named": name}], ["apply_on_array", False]]}
    for forged in (
        {"transformer": ["EpochwiseTransformer", odd, {"dict": []}]},
        {"transformer": [name, {"dict": []}, {"dict": []}]},
        {"preprocessor": ["Preprocessor", called, {"dict": []}]},
    ):
        put(**forged)
        with monkeypatch.context() as there:
            there.setattr(builtins, "__import__", note)
            refused(path, Flat)
    assert not {"os", "subprocess", "pickle", "antigravity"} & set(imported)


@pytest.mark.parametrize(
    "method",
    ["save", "export", "apply_function", "__class__", "plot", "set_montage", 3, None],
)
def test_methods_are_found_among_a_few(path, put, method):
    good = ["apply_on_array", False], ["sfreq", 10]
    # What was learned is no way around the parameters.
    for fn, learned in ((method, []), ("resample", [["fn", method]])):
        parameters = {"dict": [["fn", fn], *good]}
        put(preprocessor=["Preprocessor", parameters, {"dict": learned}])
        with raises("no file may hold fn"):
            load(path, Flat)
