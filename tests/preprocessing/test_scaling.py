import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler, minmax_scale, scale

from skleepkd import PairedEpochs, SleepStager
from skleepkd.epochs.checks import check_signal
from skleepkd.preprocessing import (
    EpochScaler,
    PairedTransformer,
    RecordingScaler,
    SourceSelector,
)
from tests.tiny import FAST, TinyNetwork, make_pair, numbered

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


@every_method
def test_each_window_as_scikit_learn_scales_it(method):
    X = np.random.default_rng(0).normal(1e4, 30, size=(5, 3, 200)).astype(np.float32)
    scaled = EpochScaler(method).fit_transform(X)
    expected = {"min-max": minmax_scale, "standard": scale}[method]
    for epoch, given in zip(scaled, X.astype(np.float64), strict=True):
        np.testing.assert_allclose(epoch, expected(given, axis=1), atol=1e-6)
    for value in (0.0, 0.1, -1234.567, 1e-9):  # flat channels become zeros
        assert not EpochScaler(method).fit_transform(np.full((2, 1, 777), value)).any()


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


def test_a_method_that_is_none():
    with pytest.raises(ValueError, match="'min-max' or 'standard'; given 'robust'"):
        EpochScaler("robust").fit_transform(ecg(2))


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


# ---------------------------------------------------------------- recordings


def robust(night):
    """(n_epochs, n_channels, n_times), each channel as scikit-learn's RobustScaler scales it."""
    samples = night.swapaxes(1, 2).reshape(-1, night.shape[1])
    scaled = RobustScaler().fit_transform(samples.astype(np.float64))
    return scaled.reshape(len(night), night.shape[2], -1).swapaxes(1, 2)


def shuffled(**changes):
    """Two people whose nights are called alike, row by row in disorder, with gains."""
    X, _ = make_pair(n_subjects=2, n_epochs=8)
    gain = np.repeat([1, 30, 0.1, 5], 4)[:, None, None]
    X = PairedEpochs(
        gain * X["target"] + 7 * gain, source=X["source"], subject=X.subject,
        recording=np.tile(np.repeat(["one", "two"], 4), 2), sfreq=2.0, **changes,
    )  # fmt: skip
    return X[np.random.default_rng(1).permutation(16)]


def test_each_recording_as_scikit_learn_scales_it(tmp_path):
    X = shuffled()
    scaled = RecordingScaler().fit(X[:3]).transform(X)  # whatever was given to fit
    for modality in ("target", "source"):
        assert scaled[modality].dtype == np.float32
        for subject in ("s0", "s1"):
            for night in ("one", "two"):
                rows = (X.subject == subject) & (X.recording == night)
                expected = robust(X[modality][rows])
                np.testing.assert_allclose(scaled[modality][rows], expected, atol=1e-5)
                np.testing.assert_allclose(scaled[rows][modality], expected, atol=1e-5)
    assert scaled.sfreq == X.sfreq
    # An array is one recording; of spectrograms a channel's values are scaled together.
    found = RecordingScaler().fit_transform(X["target"])
    np.testing.assert_allclose(found, robust(X["target"]), atol=1e-5)
    folded = RecordingScaler().transform(X["target"].reshape(16, 2, 6, 10))
    np.testing.assert_array_equal(folded, found.reshape(16, 2, 6, 10))


@pytest.mark.parametrize("n_times", [1, 3, 6])
def test_short_epochs_are_told_apart_by_what_they_hold(n_times):
    values = np.random.default_rng(0).standard_normal((40, 3, n_times))
    digests = (
        RecordingScaler()
        .fit_transform(PairedEpochs(values, recording=["a"] * 20 + ["b"] * 20))
        .row_digests()
    )
    assert len(np.unique(digests)) == 40


def test_memory_maps_stay_maps(tmp_path):
    X = shuffled()
    mapped = RecordingScaler().fit_transform(X.to_memmap(tmp_path / "nights"))
    expected = RecordingScaler().fit_transform(X)
    sent = pickle.dumps(mapped)
    assert len(sent) < X["target"].nbytes / 2  # its file's name
    for again in (mapped, pickle.loads(sent), mapped.to_memmap(tmp_path / "scaled")):
        for modality in ("target", "source"):
            np.testing.assert_array_equal(again[modality], expected[modality])
            some = again[[5, 2, 9]][1:].read(modality, [1, 0])
            np.testing.assert_array_equal(some, expected[modality][[9, 2]])
            assert again.fingerprint(modality) == expected.fingerprint(modality)
        np.testing.assert_array_equal(again.row_digests(), expected.row_digests())


def test_flat_channels_and_holes():
    rng = np.random.default_rng(0)
    X = rng.normal(3, 20, size=(6, 3, 100)).astype(np.float32)
    X[:, 1] = 0.1
    expected = RecordingScaler().fit_transform(X)
    assert not expected[:, 1].any()
    X[:4, 2] = 0  # for most of the night
    with pytest.warns(UserWarning, match="1 channels of recordings become 0.*log1p"):
        assert not RecordingScaler().fit_transform(X)[:, 2].any()
    X[2, 0, :50], X[4, 0, 7] = np.nan, np.inf
    with np.errstate(all="raise"):
        holes = RecordingScaler().fit_transform(X)
    finite = X[:, 0][np.isfinite(X[:, 0])].astype(float)
    low, median, high = np.percentile(finite, [25, 50, 75])
    np.testing.assert_allclose(holes[:, 0], (X[:, 0] - median) / (high - low), atol=1e-5)
    assert np.isnan(RecordingScaler().transform(np.full((2, 1, 9), np.nan))).all()


def test_recordings_have_to_be_known():
    X, _ = make_pair(n_subjects=2, n_epochs=4)
    unknown = PairedEpochs(X["target"], source=X["source"], subject=X.subject)
    for scaler in (RecordingScaler(), PairedTransformer(target=RecordingScaler())):
        with pytest.raises(ValueError, match="of one night, recording='night'"):
            scaler.fit(unknown).transform(unknown)


def test_one_modality_keeps_its_recordings():
    X = numbered()
    whole = RecordingScaler().fit_transform(X)
    tripled = make_pipeline(FunctionTransformer(lambda x: 3 * x), RecordingScaler())
    for scaler in (RecordingScaler(), make_pipeline(RecordingScaler(), EpochScaler())):
        one = PairedTransformer(target=scaler).fit(X).transform(X)
        np.testing.assert_array_equal(one["source"], X["source"])
        assert (one.sfreq, one.ch_names) == (X.sfreq, X.ch_names)
    one = PairedTransformer(source=RecordingScaler()).fit(X).transform(X)
    np.testing.assert_array_equal(one["source"], whole["source"])
    np.testing.assert_array_equal(one["target"], X["target"])
    with pytest.raises(TypeError):  # a pair is no array: loudly, not one recording
        PairedTransformer(target=tripled).fit(X).transform(X)
    alone = PairedTransformer(target=RecordingScaler()).fit(X).transform(X["target"])
    np.testing.assert_array_equal(alone, RecordingScaler().transform(X["target"]))


def test_nights_of_another_gain_are_staged_alike():
    X, y = make_pair(n_subjects=3, n_epochs=10)
    pipeline = make_pipeline(clone(RecordingScaler()), SleepStager(TinyNetwork, **FAST))
    pipeline.fit(X, y)
    gain = np.repeat([1, 40, 0.2], 10)[:, None, None]
    louder = X.replace(target=gain * X["target"])
    expected = pipeline.predict_proba(X)
    np.testing.assert_allclose(pipeline.predict_proba(louder), expected, atol=1e-5)
    night = pipeline.predict_proba(40 * X["target"][:10])  # an array is one night
    np.testing.assert_allclose(night, expected[:10], atol=1e-5)
