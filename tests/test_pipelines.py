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
from tests.tiny import FAST, SMALL_UTIME, TinyNetwork, make_pair, recording


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
    in_nested = clone(nested).fit(X, y)
    search = searched(stager, X, y, lr=[0.1, 0.2])
    return X, {
        "frozen": FrozenEstimator(fitted),
        "frozen at the end": make_pipeline(scaler, FrozenEstimator(scaled)),
        "nested": in_nested,
        "all of it": FrozenEstimator(in_nested),
        "a search": search,
        "a search over a pipeline": searched(nested, X, y, rest__sleepstager__lr=[0.1]),
        "a search at the end": make_pipeline(scaler, search),
        "a frozen search": FrozenEstimator(search),
    }


NAMES = [
    *("frozen", "frozen at the end", "nested", "all of it", "a search"),
    *("a search over a pipeline", "a search at the end", "a frozen search"),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrapped_is_found_saved_and_described(wrapped, tmp_path, name):
    X, estimators = wrapped
    given, path = estimators[name], tmp_path / "stager.safetensors"
    steps, stager = split_pipeline(given)
    assert type(stager) is SleepStager
    expected = given.predict_proba(X)
    found = stager.predict_proba(transform(given, X))
    np.testing.assert_array_equal(found, expected)
    if name in ("nested", "all of it"):
        assert [key for key, _ in steps] == ["scale", "rest__epochscaler"]
    if name.startswith("a search over"):
        assert stager.lr == 0.1
    save(given, path)
    again = load(path)
    np.testing.assert_array_equal(again.predict_proba(X), expected)
    if "search" not in name:
        assert type(again) is type(given)
        if isinstance(again, Pipeline):
            assert [key for key, _ in again.steps] == [key for key, _ in given.steps]
            assert type(again[-1]) is type(given[-1])
    assert describe(again) == describe(given)
    assert describe(given).count("Step: ") == len(steps)
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


@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_checked_through_what_is_around(wrapped, name):
    raw = recording(["E1", "E2"], seconds=100, sfreq=4.0)
    for ch_names, message in (
        (["E1", "E2"], "fitted to .* at 2 Hz; given .* at 4 Hz"),
        (["E1"], r"fitted to 2 channel\(s\).*; given 1"),
    ):
        with pytest.raises(ValueError, match=message):
            RecordingStager(wrapped[1][name], ch_names=ch_names).stage(raw)


@pytest.mark.parametrize("name", ["all of it", "a frozen search"])
def test_frozen_teachers_of_all_kinds(wrapped, name):
    X, y = make_pair()
    given = wrapped[1][name]
    before = given.predict_proba(X.source_epochs)
    student = DistilledSleepStager(given, **FAST, classes="aasm").fit(X, y)
    assert student.teacher_ is given
    assert type(student.module_).__name__ == "UTime"
    assert FineTunedSleepStager(given, **FAST).fit(X, y).pretrained_ is given
    np.testing.assert_array_equal(given.predict_proba(X.source_epochs), before)


# ---------------------------------------------------------------- schemes


def test_schemes_are_those_of_the_teacher(tmp_path):
    X, y = make_pair(classes=4)
    path = tmp_path / "student.safetensors"
    stager = SleepStager(TinyNetwork, classes="wldr", **FAST)
    frozen = FrozenEstimator(clone(stager).fit(X.source_epochs, y))
    piped = FrozenEstimator(make_pipeline(FunctionTransformer(), frozen.estimator))
    for student in (
        *(DistilledSleepStager(given, **FAST) for given in (frozen, piped, stager)),
        FineTunedSleepStager(piped, **FAST),
    ):
        student.fit(X, y)
        assert student.classes_.tolist() == [0, 1, 2, 3]
        save(student, path)
        again = load(path, TinyNetwork)
        assert again.classes == "wldr"
        for one in (student, again):
            assert scheme_of(one) == "wldr"
            assert class_names(one).tolist() == ["W", "L", "D", "R"]
            assert "0 (W), 1 (L), 2 (D), 3 (R)" in describe(one)
    # Three codes may be those of another scheme than the teacher's.
    features = {"feature_loss": "mse", "alpha": 0.0, **FAST}
    student = DistilledSleepStager(frozen, **features).fit(X[y < 3], y[y < 3])
    assert scheme_of(student) is None
    stager = SleepStager(TinyNetwork, **FAST).fit(X, y)
    assert scheme_of(stager) is None
    assert class_names(stager).tolist() == [0, 1, 2, 3]


def test_five_codes_are_of_one_scheme():
    five = LogisticRegression().fit(np.arange(10)[:, None], np.arange(10) % 5)
    assert scheme_of(five) == "aasm"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_names_tell_their_scheme_in_any_order(scheme):
    y = np.repeat(SCHEMES[scheme], 2)
    alphabetical = LogisticRegression().fit(np.arange(len(y))[:, None], y)
    assert alphabetical.classes_.tolist() == sorted(SCHEMES[scheme])
    assert scheme_of(alphabetical) == scheme
    assert class_names(alphabetical).tolist() == sorted(SCHEMES[scheme])
