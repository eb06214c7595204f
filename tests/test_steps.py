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
from skleepkd._steps import preprocessor_from_json, step_from_json, step_to_json
from skleepkd.preprocessing import (
    EpochScaler,
    EpochwiseTransformer,
    LogSpectrogram,
    PairedTransformer,
    SourceSelector,
    band_pass,
)
from tests.test_persistence import about, forge, rewrite
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
    """Pairs of two people, at 10 Hz."""
    rng = np.random.default_rng(0)
    X = PairedEpochs(
        30 * rng.standard_normal((18, 1, 300), dtype=np.float32),
        50 * rng.standard_normal((18, 2, 300), dtype=np.float32),
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
        (StandardScaler(), "StandardScaler is not one of"),
        (FunctionTransformer(lambda x: x), "holds code of its own"),
        (EpochwiseTransformer(lambda x: x), "<lambda>.*is code"),
        (EpochwiseTransformer(np.abs), "'absolute'.*is code"),
        (EpochwiseTransformer(eval), "eval.*is code"),
        (PairedTransformer(target=StandardScaler()), "PairedTransformer: StandardScaler"),
        (EpochScaler("unheard"), None),  # a mistake that its own fit finds
    ],
)
def test_what_no_file_holds_is_refused(path, nights, step, reason):
    X, y = nights
    stager = SleepStager(TinyNetwork, **FAST).fit(X, y)
    pipeline = Pipeline([("odd", step), ("net", stager)])
    if reason is None:
        with pytest.raises(ValueError, match="load would refuse.*'unheard'"):
            save(pipeline, path)
        assert not path.exists()
        return
    with pytest.raises(
        TypeError, match=f"step 'odd' cannot be saved: .*{reason}"
    ) as caught:
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
            band_pass, apply_on_array=False, l_freq=0.4, h_freq=None
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
    assert [step.fn for step in again.preprocessors] == ["filter", "resample", band_pass]
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
        "Raw.apply_function is not": Preprocessor("apply_function", fun=np.abs),
        "Raw.save is not": Preprocessor("save", fname="x.fif"),
        "Raw.export is not": Preprocessor("export", fname="x.edf"),
        "Raw.__class__ is not": Preprocessor("__class__"),
        "is code": Preprocessor(np.abs),
        "memmap": Preprocessor("load_data", memmap="x"),
        "Preprocessor: JSON cannot hold": Preprocessor(
            "rename_channels", mapping=str.upper
        ),
        "Applied is not braindecode's": Applied(),
    }
    for reason, step in odd.items():
        with pytest.raises(TypeError, match=f"step 'preprocessor 1' cannot.*{reason}"):
            save(RecordingStager(stager, [Preprocessor("crop", tmax=60), step]), path)
        assert not path.exists()
    for none in (None, "filter", ["filter"]):  # as stage says
        with pytest.raises(TypeError, match="preprocessors is a list of braindecode's"):
            save(RecordingStager(stager, none), path)


# ---------------------------------------------------------------- forgeries


@pytest.fixture
def pipeline_file(path, nights):
    """A file of a pipeline in a recording stager, and what it says."""
    preprocessing = pytest.importorskip("braindecode.preprocessing")
    X, y = nights
    pipeline = make_pipeline(LogSpectrogram(), SleepStager(Flat, **FAST))
    pipeline.fit(X.target_epochs, y)
    save(
        RecordingStager(pipeline, [preprocessing.Preprocessor("resample", sfreq=10)]), path
    )
    load(path, Flat)
    return path, about(path)


CANARIES = (
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.run", "pickle.loads"),
    *("numpy.load", "skleepkd.load", "braindecode.preprocessing.preprocess"),
    *("skleepkd.preprocessing.raw.band_pass", "skleepkd.preprocessing.np", "", "."),
    *("band_pass", "skleepkd.preprocessing.__builtins__", "antigravity.fly"),
)


def test_functions_are_found_among_a_few(pipeline_file, monkeypatch):
    path, said = pipeline_file
    import skleepkd._steps as steps

    imported = []
    original = steps.import_module
    monkeypatch.setattr(steps, "import_module", lambda n: imported.append(n) or original(n))
    for name in (*CANARIES, 3, None, ["os", "system"], {"dict": []}):
        odd = {"class": "EpochwiseTransformer", "fitted": {}}
        odd["parameters"] = {"function": {"function": name}, "kw_args": None}
        rewrite(path, steps=[["odd", odd], ["net", None]])
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
        step = {"function": name, "apply_on_array": False, "kwargs": {}}
        rewrite(
            path,
            steps=said["steps"],
            recording={**said["recording"], "preprocessors": [step]},
        )
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
    assert imported == []


@pytest.mark.parametrize(
    "method",
    ["save", "export", "apply_function", "__class__", "plot", "set_montage", 3, None],
)
def test_methods_are_found_among_a_few(pipeline_file, method):
    path, said = pipeline_file
    step = {"method": method, "apply_on_array": False, "kwargs": {}}
    rewrite(path, recording={**said["recording"], "preprocessors": [step]})
    with pytest.raises(ValueError, match="no method"):
        load(path, Flat)


def test_arguments_that_name_files_or_other_functions_are_refused(pipeline_file):
    path, said = pipeline_file
    for kwargs in ({"memmap": "x"}, {"n_jobs": 4}, {"fn": "save"}, {"self": 1}, [1], "x"):
        step = {"method": "load_data", "apply_on_array": False, "kwargs": kwargs}
        rewrite(path, recording={**said["recording"], "preprocessors": [step]})
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
    step = {"method": "filter", "apply_on_array": True, "kwargs": {}}
    rewrite(path, recording={**said["recording"], "preprocessors": [step]})
    with pytest.raises(ValueError, match=path.name):
        load(path, Flat)


def test_transformers_are_found_among_a_few(pipeline_file):
    path, said = pipeline_file
    (name, good), last = said["steps"]
    for odd in (
        *({**good, "class": kind} for kind in ("StandardScaler", "Pipeline", "object", 3)),
        {**good, "class": "EpochScaler"},
        {**good, "parameters": {**good["parameters"], "other": 1}},
        {**good, "parameters": {}, "fitted": {"mean_": None}},
        {"class": "FunctionTransformer", "parameters": {"func": None}, "fitted": {}},
        {"class": "EpochScaler", "parameters": {"method": "x"}, "fitted": {}},
        {"class": "EpochwiseTransformer", "parameters": {"function": "eval"}, "fitted": {}},
        {"class": "EpochScaler", "parameters": {}},
        *({}, [], 3, "EpochScaler"),
    ):
        rewrite(path, steps=[[name, odd], last])
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("epoch_shape_", {"tuple": [1]}),
        ("epoch_shape_", {"tuple": [1, 10**12]}),
        ("epoch_shape_", [1, 300]),
        ("sfreq_", 0.0),
        ("sfreq_", {"float": "nan"}),
        ("sfreq_", "10"),
        ("window_", {"array": ["<f4", [1.0, 1.0]]}),
        ("window_", {"array": ["<f8", [1.0] * 20]}),
        ("hop_", 0),
        ("n_fft_", 10**9),
        ("n_fft_", 64),
        ("mean_", None),
        ("mean_", {"array": ["<f8", [[0.0] * 16]]}),
        ("mean_", {"array": ["<f8", [[{"float": "inf"}] * 17]]}),
        ("scale_", {"array": ["<f8", [[0.0] * 17]]}),
        ("scale_", {"array": ["<f8", [[1.0] * 17, [1.0] * 17]]}),
        ("source_", 3),
    ],
)
def test_statistics_of_other_shapes_are_refused(pipeline_file, attribute, value):
    path, said = pipeline_file
    (name, good), last = said["steps"]
    assert good["fitted"]["n_fft_"] == 32
    odd = {**good, "fitted": {**good["fitted"], attribute: value}}
    rewrite(path, steps=[[name, odd], last])
    with pytest.raises(ValueError, match=path.name):
        load(path, Flat)


def test_pipelines_without_sense_are_refused(pipeline_file):
    path, said = pipeline_file
    first, last = said["steps"]
    for steps in (
        *([], [first], [["net", None], first], [first, [first[0], None]], 3, "x", {}),
        *([["a__b", None], last], [["", None], last], [[3, None], last], [["a"], last]),
    ):
        rewrite(path, steps=steps)
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
    good = said["recording"]
    for odd in (
        *({**good, "preprocessors": 3}, {**good, "ch_names": [3]}),
        *({**good, "ch_names": 3}, {**good, "preprocessors": ["filter"]}, {}, [], "x"),
    ):
        rewrite(path, steps=said["steps"], recording=odd)
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
    for odd in (1, None, "x", []):
        rewrite(path, steps=said["steps"], recording=good, frozen=odd)
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
        rewrite(path, steps=[first, [last[0], {"frozen": odd, "steps": None}]], frozen=True)
        with pytest.raises(ValueError, match=path.name):
            load(path, Flat)
    # The first files of format 2 held it here.
    older = {name: value for name, value in said.items() if name != "frozen"}
    forge(path, {**older, "recording": {**good, "frozen": True}})
    assert type(load(path, Flat).stager) is FrozenEstimator


def test_a_transformer_that_is_not_fitted_stays_so():
    again = step_from_json(step_to_json(LogSpectrogram(hop=2.0)))
    assert again.hop == 2.0
    assert not hasattr(again, "mean_")
    with pytest.raises((ValueError, LookupError)):
        preprocessor_from_json({"apply_on_array": False, "kwargs": {}})
