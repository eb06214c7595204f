import pickle

import mne
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, minmax_scale, scale

from skleepkd import PairedEpochs, SleepStager
from skleepkd.epochs.checks import check_signal
from skleepkd.preprocessing import EpochScaler, PairedTransformer
from tests.tiny import TinyNetwork, make_pair


def ecg(n_epochs=6, sfreq=50, seed=0):
    """Epochs with a sharp R wave a second, its height and offset another in each epoch."""
    rng = np.random.default_rng(seed)
    t = np.arange(30 * sfreq) / sfreq
    wave = np.exp(-0.5 * (((t + 0.5) % 1 - 0.5) / 0.02) ** 2)
    height = rng.uniform(300, 2000, size=(n_epochs, 1, 1))
    noise = rng.normal(scale=20, size=(n_epochs, 1, len(t)))
    return height * wave + noise + rng.normal(scale=500, size=(n_epochs, 1, 1))


def test_min_max_by_hand():
    X = np.array([[[0, 50, 200, 100], [5, 5, 5, 5]], [[-3, -1, -2, -3], [0, 0, 1, 0]]])
    expected = [[[0, 0.25, 1, 0.5], [0, 0, 0, 0]], [[0, 1, 0.5, 0], [0, 0, 1, 0]]]
    scaled = EpochScaler().fit_transform(X)
    np.testing.assert_array_equal(scaled, expected)
    assert scaled.dtype == np.float32
    assert X[0, 0, 1] == 50  # what was given is left as it is


@pytest.mark.parametrize(
    ("method", "of_sklearn"), [("min-max", minmax_scale), ("standard", scale)]
)
def test_each_window_as_scikit_learn_scales_it(method, of_sklearn):
    X = np.random.default_rng(0).normal(1e4, 30, size=(5, 3, 200)).astype(np.float32)
    scaled = EpochScaler(method).fit_transform(X)
    for epoch, given in zip(scaled, X.astype(np.float64), strict=True):
        np.testing.assert_allclose(epoch, of_sklearn(given, axis=1), atol=1e-6)


@pytest.mark.parametrize("method", ["min-max", "standard"])
@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567, 1e-9])
def test_flat_channels_become_zeros(method, value):
    X = np.full((2, 1, 777), value)
    np.testing.assert_array_equal(EpochScaler(method).fit_transform(X), np.zeros_like(X))


def test_pairs_stay_pairs():
    X, _ = make_pair(n_subjects=2, n_epochs=5)
    part = X[[7, 2, 3]]
    scaled = EpochScaler("standard").fit(part).transform(part)
    assert isinstance(scaled, PairedEpochs)
    for modality in ("target", "source"):
        values = part[modality].astype(np.float64)
        mean, sd = values.mean(axis=2, keepdims=True), values.std(axis=2, keepdims=True)
        np.testing.assert_allclose(scaled[modality], (values - mean) / sd, atol=1e-5)
        assert scaled[modality].dtype == np.float32
    for name in ("subject", "recording", "onset"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(part, name))
    assert scaled.sfreq == part.sfreq
    assert not EpochScaler().transform(part.target_epochs).has_source


def test_one_modality_of_a_pair():
    X, _ = make_pair(n_subjects=1, n_epochs=4)
    scaled = PairedTransformer(target=EpochScaler()).fit_transform(X)
    assert scaled["target"].min() == 0
    assert scaled["target"].max() == 1
    np.testing.assert_array_equal(scaled["source"], X["source"])


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    X, _ = make_pair(n_subjects=1, n_epochs=11)
    expected = EpochScaler().fit_transform(X)
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", 1000)  # two epochs
    mapped = EpochScaler().fit_transform(X.to_memmap(tmp_path / "night"))
    for modality in ("target", "source"):
        np.testing.assert_array_equal(mapped[modality], expected[modality])


def test_other_shapes_and_mne_epochs():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(3, 100))
    np.testing.assert_array_equal(
        EpochScaler().fit_transform(flat), EpochScaler().fit_transform(flat[:, None])
    )
    spectrogram = rng.normal(size=(3, 2, 10, 4))
    scaled = EpochScaler().fit_transform(spectrogram)
    np.testing.assert_array_equal(scaled.min(axis=(2, 3)), 0)
    np.testing.assert_array_equal(scaled.max(axis=(2, 3)), 1)
    signal = 5e-5 * rng.normal(size=(3, 1, 100))
    epochs = mne.EpochsArray(signal, mne.create_info(1, 100.0, "eeg"), verbose="error")
    np.testing.assert_allclose(
        EpochScaler().fit_transform(epochs), EpochScaler().fit_transform(signal), atol=1e-6
    )


@pytest.mark.parametrize("method", ["min-max", "standard"])
def test_scaled_epochs_do_not_look_like_volts(method):
    X = PairedEpochs(EpochScaler(method).fit_transform(ecg()))
    check_signal(X, "target")
    with pytest.raises(ValueError, match="looks like volts"):
        check_signal(PairedEpochs(1e-6 * ecg()), "target")


def test_nan_is_left_to_be_found():
    X = ecg()
    X[2, 0, 5] = np.nan
    scaled = EpochScaler().fit_transform(X)
    assert np.isnan(scaled).any(axis=(1, 2)).tolist() == [False, False, True] + 3 * [False]


def test_in_a_pipeline_with_a_search_over_methods():
    X, y = make_pair(n_subjects=4, n_epochs=10)
    stager = SleepStager(TinyNetwork, max_epochs=1, classes="aasm", device="cpu")
    pipeline = make_pipeline(EpochScaler(), stager)
    grid = {"epochscaler__method": ["min-max", "standard"]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(2)).fit(X, y, groups=X.subject)
    best = search.best_estimator_
    assert best.predict(X).shape == y.shape
    # An epoch's amplitude is lost, so a louder night is staged the same.
    louder = X.replace(target=8 * X["target"])
    np.testing.assert_allclose(best.predict_proba(louder), best.predict_proba(X), atol=1e-5)


def test_parameters_clone_and_pickle():
    scaler = EpochScaler("standard")
    assert clone(scaler).get_params() == {"method": "standard"}
    X = ecg(2)
    again = pickle.loads(pickle.dumps(scaler))
    np.testing.assert_array_equal(again.transform(X), scaler.transform(X))
    make_pipeline(EpochScaler(), StandardScaler())[:1].transform(X)  # needs no fit


def test_unknown_method():
    with pytest.raises(ValueError, match="'min-max' or 'standard'; given 'robust'"):
        EpochScaler("robust").fit_transform(ecg())
