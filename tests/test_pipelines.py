"""Stagers inside pipelines, frozen estimators and searches."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    RecordingStager,
    SleepStager,
    describe,
    export_onnx,
    load,
    save,
)
from skleepkd.pipelines import class_names, scheme_of, split_pipeline, transform
from skleepkd.preprocessing import EpochScaler
from skleepkd.stages import SCHEMES
from tests.tiny import TinyNetwork, make_pair

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


def searched(estimator, X, y, **grid):
    """Search with one fold."""
    fold = PredefinedSplit(np.where(np.arange(len(y)) < 100, -1, 0))
    return GridSearchCV(estimator, grid, cv=fold).fit(X, y)


@pytest.fixture(scope="module")
def wrapped():
    """Fitted stagers in all that may be around them, and epochs."""
    X, y = make_pair()
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST)
    fitted = clone(stager).fit(X, y)
    scaler = EpochScaler("standard")
    scaled = clone(stager).fit(scaler.fit(X).transform(X), y)
    nested = Pipeline([("scale", scaler), ("rest", make_pipeline(EpochScaler(), stager))])
    return X, {
        "frozen": FrozenEstimator(fitted),
        "frozen at the end": make_pipeline(scaler, FrozenEstimator(scaled)),
        "nested": clone(nested).fit(X, y),
        "all of it": FrozenEstimator(clone(nested).fit(X, y)),
        "a search": searched(stager, X, y, lr=[0.1, 0.2]),
        "a search over a pipeline": searched(nested, X, y, rest__sleepstager__lr=[0.1]),
        "a search at the end": make_pipeline(scaler, searched(stager, X, y, lr=[0.1])),
        "a frozen search": FrozenEstimator(searched(stager, X, y, lr=[0.1])),
    }


NAMES = [
    *("frozen", "frozen at the end", "nested", "all of it", "a search"),
    *("a search over a pipeline", "a search at the end", "a frozen search"),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrapped_is_found(wrapped, name):
    X, estimators = wrapped
    steps, stager = split_pipeline(estimators[name])
    assert type(stager) is SleepStager
    np.testing.assert_array_equal(
        stager.predict_proba(transform(estimators[name], X)),
        estimators[name].predict_proba(X),
    )
    if name in ("nested", "all of it"):
        assert [key for key, _ in steps] == ["scale", "rest__epochscaler"]
    if name.startswith("a search over"):
        assert stager.lr == 0.1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrapped_is_saved_and_described(wrapped, tmp_path, name):
    X, estimators = wrapped
    given, path = estimators[name], tmp_path / "stager.safetensors"
    save(given, path)
    again = load(path)
    np.testing.assert_array_equal(again.predict_proba(X), given.predict_proba(X))
    if "search" not in name:
        assert type(again) is type(given)
        if isinstance(again, Pipeline):
            assert [key for key, _ in again.steps] == [key for key, _ in given.steps]
            assert type(again[-1]) is type(given[-1])
    assert describe(again) == describe(given)
    assert describe(given).count("Step: ") == len(split_pipeline(given)[0])
    whole = RecordingStager(given)
    save(whole, path)
    assert type(load(path).stager) is type(again)
    assert describe(load(path)) == describe(whole)


def test_what_is_wrapped_is_exported(wrapped, tmp_path):
    pytest.importorskip("onnxruntime")
    _, estimators = wrapped
    report = export_onnx(estimators["a search"], tmp_path / "search.onnx")
    assert report.steps_before == []
    with pytest.warns(UserWarning, match="what scale, rest__epochscaler make"):
        report = export_onnx(estimators["all of it"], tmp_path / "nested.onnx")
    assert report.steps_before == ["scale", "rest__epochscaler"]


def test_a_search_over_stagers_checks_recordings(wrapped):
    mne = pytest.importorskip("mne")
    _, estimators = wrapped
    info = mne.create_info(["E1", "E2"], 4.0, "eeg")
    noise = 3e-5 * np.random.default_rng(0).standard_normal((2, 400))
    raw = mne.io.RawArray(noise, info, verbose=False)
    for name in NAMES:
        whole = RecordingStager(estimators[name], ch_names=["E1", "E2"])
        with pytest.raises(ValueError, match="fitted to .* at 2 Hz; given .* at 4 Hz"):
            whole.stage(raw)
        whole.set_params(ch_names=["E1"])
        with pytest.raises(ValueError, match=r"fitted to 2 channel\(s\).*; given 1"):
            whole.stage(raw)


# ---------------------------------------------------------------- teachers


def divide_by_ten(X):
    return X["target"] / 10


def test_frozen_teachers_of_all_kinds(wrapped):
    X, estimators = wrapped
    y = make_pair()[1]
    for name in ("all of it", "a frozen search"):
        given = estimators[name]
        before = given.predict_proba(X.source_epochs)
        student = DistilledSleepStager(given, **FAST, classes="aasm").fit(X, y)
        assert student.teacher_ is given
        assert type(student.module_).__name__ == "UTime"
        tuned = FineTunedSleepStager(given, **FAST).fit(X, y)
        assert tuned.pretrained_ is given
        np.testing.assert_array_equal(given.predict_proba(X.source_epochs), before)


def test_a_nested_teacher_is_fitted_in_the_fold(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, **FAST)
    steps = [FunctionTransformer(divide_by_ten), EpochScaler("standard")]
    flat = make_pipeline(*steps, stager)
    nested = make_pipeline(steps[0], make_pipeline(steps[1], stager))
    first, second = (
        DistilledSleepStager(teacher, alpha=0.5, **FAST).fit(X, y).predict_proba(X)
        for teacher in (flat, nested)
    )
    np.testing.assert_array_equal(first, second)


def test_a_teacher_is_frozen_whole_or_not(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y)
    before = {name: value.clone() for name, value in stager.module_.state_dict().items()}
    for half in (
        make_pipeline(EpochScaler(), FrozenEstimator(stager)),
        make_pipeline(EpochScaler(), make_pipeline(EpochScaler(), FrozenEstimator(stager))),
    ):
        for student in (
            DistilledSleepStager(half, **FAST),
            DistilledSleepStager(half, TinyNetwork, feature_loss=None, alpha=1.0, **FAST),
            FineTunedSleepStager(half, **FAST),
        ):
            with pytest.raises(ValueError, match=r"Freeze all of it.*FrozenEstimator\("):
                student.fit(X, y)
    for name, value in stager.module_.state_dict().items():
        assert value.equal(before[name])


# ---------------------------------------------------------------- schemes


def test_schemes_are_those_of_the_teacher(tmp_path):
    X, y = make_pair(classes=4)
    path = tmp_path / "student.safetensors"
    teacher = SleepStager(TinyNetwork, classes="wldr", **FAST).fit(X.source_epochs, y)
    piped = make_pipeline(FunctionTransformer(), teacher)
    for student in (
        DistilledSleepStager(FrozenEstimator(teacher), **FAST),
        DistilledSleepStager(FrozenEstimator(piped), **FAST),
        DistilledSleepStager(SleepStager(TinyNetwork, classes="wldr", **FAST), **FAST),
        FineTunedSleepStager(FrozenEstimator(piped), **FAST),
    ):
        student.fit(X, y)
        assert student.classes_.tolist() == [0, 1, 2, 3]
        save(student, path)
        again = load(path, TinyNetwork)
        assert again.classes == "wldr"
        for stager in (student, again):
            assert scheme_of(stager) == "wldr"
            assert class_names(stager).tolist() == ["W", "L", "D", "R"]
            assert "0 (W), 1 (L), 2 (D), 3 (R)" in describe(stager)


def test_schemes_that_are_not_known():
    X, y = make_pair(classes=4)
    stager = SleepStager(TinyNetwork, **FAST).fit(X, y)
    assert scheme_of(stager) is None
    assert class_names(stager).tolist() == [0, 1, 2, 3]
    # Three codes may be those of another scheme than the teacher's.
    teacher = SleepStager(TinyNetwork, classes="wldr", **FAST).fit(X.source_epochs, y)
    student = DistilledSleepStager(FrozenEstimator(teacher), **FAST)
    student.fit(X[y < 3], y[y < 3])
    assert scheme_of(student) is None
    five = LogisticRegression().fit(np.arange(10)[:, None], np.arange(10) % 5)
    assert scheme_of(five) == "aasm"
    named = LogisticRegression().fit(np.arange(10)[:, None], ["W", "R"] * 5)
    assert class_names(named).tolist() == ["R", "W"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_tell_their_scheme_in_any_order(scheme):
    y = np.repeat(SCHEMES[scheme], 2)
    alphabetical = LogisticRegression().fit(np.arange(len(y))[:, None], y)
    assert alphabetical.classes_.tolist() == sorted(SCHEMES[scheme])
    assert scheme_of(alphabetical) == scheme
    assert class_names(alphabetical).tolist() == sorted(SCHEMES[scheme])
