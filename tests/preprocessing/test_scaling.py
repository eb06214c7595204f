import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import minmax_scale, scale

from skleepkd import PairedEpochs, SleepStager
from skleepkd.epochs.checks import check_signal
from skleepkd.preprocessing import EpochScaler, PairedTransformer, SourceSelector
from tests.tiny import FAST, TinyNetwork, make_pair

every_method = pytest.mark.parametrize("method", ["min-max", "standard"])


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


@every_method
def test_each_window_as_scikit_learn_scales_it(method):
    X = np.random.default_rng(0).normal(1e4, 30, size=(5, 3, 200)).astype(np.float32)
    scaled = EpochScaler(method).fit_transform(X)
    expected = {"min-max": minmax_scale, "standard": scale}[method]
    for epoch, given in zip(scaled, X.astype(np.float64), strict=True):
        np.testing.assert_allclose(epoch, expected(given, axis=1), atol=1e-6)
    for value in (0.0, 0.1, -1234.567, 1e-9):  # flat channels become zeros
        assert not EpochScaler(method).fit_transform(np.full((2, 1, 777), value)).any()


def test_pairs_stay_pairs(tmp_path, monkeypatch):
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
    one = PairedTransformer(target=EpochScaler()).fit_transform(X)
    assert (one["target"].min(), one["target"].max()) == (0, 1)
    np.testing.assert_array_equal(one["source"], X["source"])
    # Blocks of two epochs from a memory map change nothing.
    expected = EpochScaler().fit_transform(X)
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", 1000)
    mapped = EpochScaler().fit_transform(X.to_memmap(tmp_path / "night"))
    for modality in ("target", "source"):
        np.testing.assert_array_equal(mapped[modality], expected[modality])


def test_other_shapes_and_mne_epochs():
    mne = pytest.importorskip("mne")
    rng, scaled = np.random.default_rng(0), EpochScaler().fit_transform
    flat = rng.normal(size=(3, 100))
    np.testing.assert_array_equal(scaled(flat), scaled(flat[:, None]))
    spectrogram = scaled(rng.normal(size=(3, 2, 10, 4)))
    np.testing.assert_array_equal(spectrogram.min(axis=(2, 3)), 0)
    np.testing.assert_array_equal(spectrogram.max(axis=(2, 3)), 1)
    signal = 5e-5 * rng.normal(size=(3, 1, 100))
    epochs = mne.EpochsArray(signal, mne.create_info(1, 100.0, "eeg"), verbose="error")
    np.testing.assert_allclose(scaled(epochs), scaled(signal), atol=1e-6)


@every_method
def test_scaled_epochs_do_not_look_like_volts(method):
    check_signal(PairedEpochs(EpochScaler(method).fit_transform(ecg())), "target")
    with pytest.raises(ValueError, match="looks like volts"):
        check_signal(PairedEpochs(1e-6 * ecg()), "target")


def test_nan_is_left_to_be_found():
    X = ecg()
    X[2, 0, 5] = np.nan
    scaled = EpochScaler().fit_transform(X)
    assert np.isnan(scaled).any(axis=(1, 2)).nonzero()[0].tolist() == [2]


def test_in_a_pipeline_with_a_search_over_methods():
    X, y = make_pair(n_subjects=4, n_epochs=10)
    pipeline = make_pipeline(
        EpochScaler(), SleepStager(TinyNetwork, classes="aasm", **FAST)
    )
    grid = {"epochscaler__method": ["min-max", "standard"]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(2)).fit(X, y, groups=X.subject)
    # An epoch's amplitude is lost, so a louder night is staged the same.
    proba, louder = (search.predict_proba(k * X["target"]) for k in (1, 8))
    np.testing.assert_allclose(louder, proba, atol=1e-5)


def test_parameters_clone_and_pickle():
    scaler, X = EpochScaler("standard"), ecg(2)
    assert clone(scaler).get_params() == {"method": "standard"}
    again = pickle.loads(pickle.dumps(scaler))
    np.testing.assert_array_equal(again.transform(X), scaler.transform(X))
    with pytest.raises(ValueError, match="'min-max' or 'standard'; given 'robust'"):
        EpochScaler("robust").fit_transform(X)


def test_the_source_alone():
    X, _ = make_pair(n_subjects=2, n_epochs=12)
    rows = np.array([3, 5, 20])
    picked = clone(SourceSelector()).fit_transform(X[rows])
    np.testing.assert_array_equal(picked["target"], X["source"][rows])
    np.testing.assert_array_equal(picked.subject, X.subject[rows])
    np.testing.assert_array_equal(picked.onset, X.onset[rows])
    assert np.shares_memory(SourceSelector().transform(X)["target"], X["source"])
    for alone in (X.target_epochs, X["target"]):
        with pytest.raises(ValueError, match="no source"):
            SourceSelector().transform(alone)
