import pickle

import numpy as np
import pytest
import sklearn
from braindecode.preprocessing import (
    exponential_moving_demean,
    exponential_moving_standardize,
)
from mne.decoding import Scaler
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import PairedEpochs
from skleepkd.preprocessing import EpochwiseTransformer, PairedTransformer


def pair(n_epochs=12, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return PairedEpochs(
        rng.normal(5, 20, size=(n_epochs, 2, 300)).astype(dtype),
        source=rng.normal(-9, 50, size=(n_epochs, 3, 400)).astype(dtype),
        subject=np.repeat(["a", "b", "c"], n_epochs // 3),
        recording=np.repeat(["a1", "b1", "c1"], n_epochs // 3),
        onset=np.tile(30.0 * np.arange(n_epochs // 3), 3),
        sfreq={"target": 10.0, "source": 40 / 3},
        ch_names={"target": ["LE", "RE"], "source": ["C3", "C4", "O1"]},
    )


def standardize(**kw_args):
    return EpochwiseTransformer(exponential_moving_standardize, kw_args=kw_args)


def spectrogram(epoch):
    """(n_channels, n_times) -> (n_channels, 10, n_times / 10)."""
    return epoch.reshape(len(epoch), 10, -1)


def zero_in_place(epoch):
    epoch[:] = 0
    return epoch


class SpreadClassifier(ClassifierMixin, BaseEstimator):
    """Takes pairs in fit, and either kind in predict, as the distilled stagers do."""

    def fit(self, X, y):
        self.source_spread_ = X["source"].std(axis=(0, 2))
        self.knn_ = KNeighborsClassifier(3).fit(self._features(X), y)
        self.classes_ = self.knn_.classes_
        return self

    def predict(self, X):
        return self.knn_.predict(self._features(X))

    def _features(self, X):
        return np.asarray(X).std(axis=2)


def test_each_modality_goes_through_its_own_transformer():
    X, options = pair(), {"source": {"factor_new": 0.1}, "target": {}}
    steps = {modality: standardize(**kwargs) for modality, kwargs in options.items()}
    Z = PairedTransformer(**steps).fit_transform(X)
    for modality, kwargs in options.items():
        expected = [exponential_moving_standardize(x, **kwargs) for x in X[modality]]
        np.testing.assert_allclose(Z[modality], expected, rtol=1e-5)


def test_fitted_statistics_are_those_of_the_own_modality():
    X = pair(dtype=np.float64)
    step = PairedTransformer(source=Scaler(scalings="mean"), target=Scaler(scalings="mean"))
    step.fit(X[:6])
    Z = step.transform(X)
    for modality in ("source", "target"):
        train = X[:6][modality]
        mean = train.mean(axis=(0, 2), keepdims=True)
        sd = train.std(axis=(0, 2), keepdims=True)
        np.testing.assert_allclose(Z[modality], (X[modality] - mean) / sd, atol=1e-5)
        assert Z[modality].dtype == np.float32


def test_rows_keep_what_they_carry():
    X = pair()[[1, 4, 7, 9]]
    Z = PairedTransformer(source=standardize()).fit(X, [0, -1, 2, -1]).transform(X)
    for name in ("subject", "recording", "onset"):
        np.testing.assert_array_equal(getattr(Z, name), getattr(X, name))
    assert (Z.sfreq, Z.ch_names) == (X.sfreq, X.ch_names)
    np.testing.assert_array_equal(Z["target"], X["target"])  # None: unchanged


def test_target_alone_is_prepared_as_in_the_pair():
    X = pair()
    step = PairedTransformer(source=standardize(), target=Scaler(scalings="median")).fit(X)
    both = step.transform(X)["target"]
    alone = step.transform(X["target"])
    assert isinstance(alone, np.ndarray)
    np.testing.assert_array_equal(alone, both)
    without_source = step.transform(X.target_epochs)
    assert not without_source.has_source
    np.testing.assert_array_equal(without_source["target"], both)
    np.testing.assert_array_equal(without_source.subject, X.subject)


def test_source_that_was_not_there_in_fit_is_left_out():
    X = pair()
    step = PairedTransformer(target=Scaler(scalings="mean")).fit(X["target"])
    assert step.source_ is None
    assert not step.transform(X).has_source
    with pytest.raises(ValueError, match="X has no source.*X_source="):
        PairedTransformer(source=Scaler(scalings="mean")).fit(X["target"])


def test_trailing_shape_is_free():
    X = pair()
    Z = PairedTransformer(target=EpochwiseTransformer(spectrogram)).fit_transform(X)
    assert Z["target"].shape == (12, 2, 10, 30)
    assert Z["source"].shape == (12, 3, 400)
    assert Z.sfreq == X.sfreq


def test_one_transformer_for_both_is_fitted_twice():
    X = pair()
    scaler = Scaler(scalings="mean")
    step = PairedTransformer(source=scaler, target=scaler).fit(X)
    assert step.source_ is not step.target_
    assert step.source is step.target is scaler
    with pytest.raises(sklearn.exceptions.NotFittedError):
        scaler.transform(X["target"])
    Z = step.transform(X)  # two and three channels: one fitted scaler cannot serve both
    for modality in ("source", "target"):
        np.testing.assert_allclose(Z[modality].mean(axis=(0, 2)), 0, atol=1e-5)


def test_parameters_clone_and_pickle():
    step = PairedTransformer(source=standardize(), target=standardize(factor_new=0.5))
    assert clone(step).get_params()["target__kw_args"] == {"factor_new": 0.5}
    assert clone(step).get_params()["target__function"] is exponential_moving_standardize
    step.set_params(target__kw_args={"factor_new": 0.2}, source=None)
    X = pair()
    with pytest.raises(sklearn.exceptions.NotFittedError):
        step.transform(X)
    step.fit(X)
    expected = exponential_moving_standardize(X["target"][3], factor_new=0.2)
    again = pickle.loads(pickle.dumps(step))
    np.testing.assert_allclose(again.transform(X)["target"][3], expected, rtol=1e-5)
    step.set_params(target__function=exponential_moving_demean)
    assert again.target.function is exponential_moving_standardize
    assert "PairedTransformer" in repr(step)
    assert step._repr_html_()


@pytest.mark.parametrize("routing", [False, True])
def test_cross_validation_of_a_pipeline(routing):
    X = pair(n_epochs=60)
    y = np.tile([0, 1, 2, -1, 1], 12)
    X["target"][y == 1] *= 3
    pipeline = make_pipeline(
        PairedTransformer(source=standardize(), target=FunctionTransformer(np.arcsinh)),
        SpreadClassifier(),
    )
    given = {"cv": GroupKFold(3), "error_score": "raise", "return_estimator": True}
    given |= {"params": {"groups": X.subject}} if routing else {"groups": X.subject}
    with sklearn.config_context(enable_metadata_routing=routing):
        scores = cross_validate(pipeline, X, y, **given)
    assert (scores["test_score"] > 0.4).all()
    for fitted in scores["estimator"]:
        # Standardised by its own transformer before the classifier saw it.
        np.testing.assert_allclose(fitted[-1].source_spread_, 1.0, atol=0.1)
        np.testing.assert_array_equal(fitted.predict(X), fitted.predict(X["target"]))


def test_grid_search_reaches_into_both_transformers():
    X = pair(n_epochs=24)
    y = np.tile([0, 1], 12)
    search = GridSearchCV(
        make_pipeline(PairedTransformer(target=standardize()), SpreadClassifier()),
        {"pairedtransformer__target__kw_args": [{"factor_new": 0.1}, {"factor_new": 0.9}]},
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 2


def test_epochwise_needs_no_fit_and_leaves_its_input_alone(tmp_path):
    X = pair()
    before = X["target"].copy()
    assert not EpochwiseTransformer(zero_in_place).transform(X["target"]).any()
    np.testing.assert_array_equal(X["target"], before)
    np.save(tmp_path / "target.npy", before)
    mapped = np.load(tmp_path / "target.npy", mmap_mode="r")
    assert not EpochwiseTransformer(zero_in_place).transform(mapped).any()


def test_epochwise_takes_one_channel_and_gives_features():
    one_channel = np.ones((4, 50))
    assert EpochwiseTransformer(np.abs).transform(one_channel).shape == (4, 1, 50)
    features = EpochwiseTransformer(np.std, kw_args={"axis": 1}).transform(pair()["target"])
    np.testing.assert_allclose(features, pair()["target"].std(axis=2), rtol=1e-6)


@pytest.mark.parametrize("n_bytes", [1, 2**24])  # an epoch at a time, or all
@pytest.mark.parametrize("n_times", [1, 8])
def test_epochs_of_unequal_shape_are_refused(monkeypatch, n_times, n_bytes):
    """Shapes that could be broadcast are unequal too."""
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", n_bytes)
    X = pair()["target"]
    X[3] += 1000
    cut = EpochwiseTransformer(lambda x: x[:, : n_times if x.max() > 500 else 9])
    listed = r".*\(2, 9\), others \(2, \d\)" if n_bytes == 1 else ""
    with pytest.raises(ValueError, match=f"must have the same shape{listed}"):
        cut.transform(X)
