import builtins

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skleepkd import (
    DistilledSleepStager,
    PairedEpochs,
    RecordingStager,
    SleepStager,
    load,
    save,
)
from skleepkd.preprocessing import (
    EpochScaler,
    EpochwiseTransformer,
    LogSpectrogram,
    PairedTransformer,
    SourceSelector,
    derive,
)
from tests.test_persistence import about, forge
from tests.tiny import TinyNetwork

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
SMALL_SEQSLEEPNET = {
    "module__hidden_size": 4,
    "module__n_filters": 4,
    "module__attention_size": 4,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pipeline.safetensors"


@pytest.fixture
def nights():
    """Pairs of two subjects, at 10 Hz."""
    rng = np.random.default_rng(0)
    X = PairedEpochs(
        30 * rng.standard_normal((18, 1, 300), dtype=np.float32),
        source=50 * rng.standard_normal((18, 2, 300), dtype=np.float32),
        subject=np.repeat(["a", "b"], 9),
        recording=np.repeat(["night-a", "night-b"], 9),
        onset=np.tile(30.0 * np.arange(9), 2),
        sfreq=10.0,
    )
    return X, np.tile([0, 1, 2, 3, 4, 4, 1, 0, 2], 2)


def standardize():
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    return EpochwiseTransformer(
        preprocessing.exponential_moving_standardize,
        kw_args={"factor_new": 0.01, "init_block_size": None},
    )


STEPS = {
    "scaler": lambda: EpochScaler("standard"),
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
    pipeline = Pipeline([("first", STEPS[name]()), ("none", "passthrough"), ("net", Flat)])
    pipeline.set_params(net=SleepStager(Flat, **FAST)).fit(X, y)
    save(pipeline, path)
    again = load(path, Flat)
    assert type(again) is Pipeline
    assert [name for name, _ in again.steps] == ["first", "none", "net"]
    np.testing.assert_array_equal(again.predict_proba(X), pipeline.predict_proba(X))
    assert again[0].get_params().keys() == pipeline[0].get_params().keys()
    if name != "the source":  # a wearable's signal comes alone
        alone = X["target"]
        np.testing.assert_array_equal(
            again.predict_proba(alone), pipeline.predict_proba(alone)
        )
    # The whole can be fitted anew, and saved again.
    first = path.read_bytes()
    save(again, path)
    assert path.read_bytes() == first
    again.fit(X, y)


class Flat(TinyNetwork):
    """Takes spectrograms, and what is not one, as a signal."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)

    def forward(self, x):
        return super().forward(x if x.ndim == 3 else x.mean(dim=3))


def test_statistics_keep_their_precision(path, nights):
    X, y = nights
    pipeline = make_pipeline(LogSpectrogram(), SleepStager(Flat, **FAST)).fit(X, y)
    save(pipeline, path)
    again, before = load(path, Flat)[0], pipeline[0]
    for name, value in vars(before).items():
        restored = getattr(again, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(restored, value)
            assert restored.dtype == value.dtype
        elif name != "source_":
            assert restored == value
            assert type(restored) is type(value)
    np.testing.assert_array_equal(again.source_.mean_, before.source_.mean_)


def test_a_student_of_spectrograms_by_name(path, nights):
    X, y = nights
    student = DistilledSleepStager(
        SleepStager("SeqSleepNet", sequence_length=2, **SMALL_SEQSLEEPNET, **FAST),
        sequence_length=2,
        feature_loss=None,
        alpha=0.5,
        **FAST,
    )
    step = PairedTransformer(
        source=make_source(), target=LogSpectrogram(window=3.2, n_fft=32)
    )
    pipeline = make_pipeline(step, student).set_params(
        distilledsleepstager__module="SeqSleepNet",
        **{f"distilledsleepstager__{k}": v for k, v in SMALL_SEQSLEEPNET.items()},
    )
    pipeline.fit(X, y)
    save(pipeline, path)
    again = load(path)
    assert again[-1].module == "SeqSleepNet"
    np.testing.assert_array_equal(again.predict_proba(X), pipeline.predict_proba(X))


def make_source():
    return LogSpectrogram(window=3.2, n_fft=32)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (StandardScaler(), "StandardScaler.*is code"),
        (FunctionTransformer(lambda x: x), "<lambda>.*is code"),
        (EpochwiseTransformer(lambda x: x), "<lambda>.*is code"),
        (EpochwiseTransformer(np.abs), "'absolute'.*is code"),
        (EpochwiseTransformer(eval), "eval.*is code"),
        (PairedTransformer(target=StandardScaler()), "StandardScaler.*is code"),
    ],
)
def test_what_no_file_holds_is_refused(path, nights, step, reason):
    X, y = nights
    stager = SleepStager(TinyNetwork, **FAST).fit(X, y)
    pipeline = Pipeline([("odd", step), ("net", stager)])
    with pytest.raises(TypeError, match=f"cannot be saved: .*{reason}") as caught:
        save(pipeline, path)
    assert "pipeline[-1]" in str(caught.value)
    assert not path.exists()


# ---------------------------------------------------------------- recordings


def recording(seconds=100, seed=0):
    mne = pytest.importorskip("mne")
    rng = np.random.default_rng(seed)
    info = mne.create_info(["E1", "E2"], 20.0, "eeg")
    return mne.io.RawArray(
        3e-5 * rng.standard_normal((2, int(20 * seconds))), info, verbose=False
    )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_recording_stagers_come_back(path, nights, frozen, piped):
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    X, y = nights
    stager = SleepStager("UTime", module__filters=(4, 4), module__pools=(4,), **FAST)
    stager = make_pipeline(EpochScaler(), stager) if piped else stager
    stager.fit(X.target_epochs, y)
    steps = [
        preprocessing.Filter(l_freq=0.3, h_freq=4.0, n_jobs=1),
        preprocessing.Preprocessor("resample", sfreq=10),
        preprocessing.Preprocessor(
            derive, apply_on_array=False, weights={"E2": {"E2": 1.0}, "E1": {"E1": -1.0}}
        ),
        preprocessing.Preprocessor(
            preprocessing.exponential_moving_standardize, factor_new=0.01
        ),
    ]
    inner = FrozenEstimator(stager) if frozen else stager
    whole = RecordingStager(inner, steps[:3], ch_names=["E2"])
    save(whole, path)
    again = load(path)
    assert type(again) is RecordingStager
    assert again.ch_names == ["E2"]
    assert type(again.stager) is type(inner)
    assert [step.fn for step in again.preprocessors] == ["filter", "resample", derive]
    night = recording()
    np.testing.assert_array_equal(
        again.stage(night).probabilities, whole.stage(night).probabilities
    )
    save(RecordingStager(stager, steps), path)
    last = load(path).preprocessors[-1]
    assert last.fn is preprocessing.exponential_moving_standardize
    assert (last.apply_on_array, last.kwargs) == (True, {"factor_new": 0.01})


class Applied:
    """Has ``apply``, and is no preprocessor."""

    def apply(self, raw):
        return raw


def test_preprocessors_that_run_code_are_refused(path, nights):
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    Preprocessor = preprocessing.Preprocessor
    stager = SleepStager(TinyNetwork, **FAST).fit(*nights)
    odd = {
        "absolute.* is code": Preprocessor("apply_function", fun=np.abs),
        "fn='save'": Preprocessor("save", fname="x.fif"),
        "fn='export'": Preprocessor("export", fname="x.edf"),
        "fn='__class__'": Preprocessor("__class__"),
        "'absolute'.* is code": Preprocessor(np.abs),
        "upper.* is code": Preprocessor("rename_channels", mapping=str.upper),
        "Applied.* is code": Applied(),
    }
    for reason, step in odd.items():
        with pytest.raises(TypeError, match=f"cannot be saved: .*{reason}"):
            save(RecordingStager(stager, [Preprocessor("crop", tmax=60), step]), path)
        assert not path.exists()


# ---------------------------------------------------------------- forgeries


@pytest.fixture
def recording_file(path, nights):
    """A file of a pipeline in a recording stager, and a way to forge its first steps."""
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    X, y = nights
    pipeline = make_pipeline(EpochScaler(), SleepStager(Flat, **FAST))
    pipeline.fit(X.target_epochs, y)
    step = preprocessing.Preprocessor("resample", sfreq=10)
    save(RecordingStager(pipeline, [step]), path)
    load(path, Flat)
    metadata = about(path)
    parameters = dict(metadata["estimator"]["estimator"][1]["dict"])
    (name_and_step, _) = dict(parameters["stager"]["estimator"][1]["dict"])["steps"]

    def put(transformer=None, preprocessor=None):
        if transformer is not None:
            name_and_step["tuple"][1] = {"estimator": transformer}
        if preprocessor is not None:
            parameters["preprocessors"][0] = {"estimator": preprocessor}
        forge(path, metadata)

    return path, put


CANARIES = (
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.run", "pickle.loads"),
    *("numpy.load", "skleepkd.load", "braindecode.preprocessing.preprocess", "eval"),
    *("skleepkd.preprocessing.derive", "skleepkd.preprocessing.np", "", ".", "np"),
    *("load", "preprocess", "__builtins__", "StandardScaler", "antigravity.fly"),
)


@pytest.mark.parametrize("name", [*CANARIES, 3, None, ["os", "system"]])
def test_functions_and_classes_are_found_among_a_few(recording_file, monkeypatch, name):
    path, put = recording_file
    imported = []
    original = builtins.__import__

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
            with pytest.raises(ValueError, match=path.name):
                load(path, Flat)
    assert not {"os", "subprocess", "pickle", "antigravity"} & set(imported)


@pytest.mark.parametrize(
    "method",
    ["save", "export", "apply_function", "__class__", "plot", "set_montage", 3, None],
)
def test_methods_are_found_among_a_few(recording_file, method):
    path, put = recording_file
    good = ["apply_on_array", False], ["sfreq", 10]
    put(preprocessor=["Preprocessor", {"dict": [["fn", method], *good]}, {"dict": []}])
    with pytest.raises(ValueError, match="no file may hold fn="):
        load(path, Flat)
    # What was learned is no way around the parameters.
    named = {"dict": [["fn", "resample"], *good]}
    put(preprocessor=["Preprocessor", named, {"dict": [["fn", method]]}])
    with pytest.raises(ValueError, match="no file may hold fn"):
        load(path, Flat)


def test_a_transformer_that_is_not_fitted_stays_so(path, nights):
    X, y = nights
    stager = SleepStager(Flat, **FAST).fit(X, y)
    save(Pipeline([("first", LogSpectrogram(hop=2.0)), ("net", stager)]), path)
    again = load(path, Flat)[0]
    assert again.hop == 2.0
    assert not hasattr(again, "mean_")
