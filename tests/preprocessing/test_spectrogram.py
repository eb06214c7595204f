import numpy as np
import pytest
from scipy.signal import ShortTimeFFT
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

from skleepkd import FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.preprocessing import LogSpectrogram, PairedTransformer, spectrogram

HAMMING = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(200) / 199)
FLOOR = -60.0  # 20 log10 of 1e-3 microvolts


def noise(n_epochs=6, n_chans=2, n_times=3000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 20, size=(n_epochs, n_chans, n_times)).astype(np.float32)


def pair(n_epochs=12, **about):
    night = np.arange(n_epochs) // 4
    columns = {
        "subject": np.array(["a", "b", "c"])[night],
        "recording": np.array(["a1", "b1", "c1"])[night],
        "onset": 30.0 * (np.arange(n_epochs) % 4),
        "sfreq": {"target": 100.0, "source": 200.0},
        "ch_names": {"target": ["LE"], "source": ["C3", "C4"]},
    }
    target, source = noise(n_epochs, 1), 3 * noise(n_epochs, 2, 6000, seed=1)
    return PairedEpochs(target, source=source, **(columns | about))


def decibels(X, **options):
    return LogSpectrogram(standardize=False, **options).fit_transform(X)


# ---------------------------------------------------------------- the frames


def test_frames_by_an_independent_transform():
    """SciPy's frames lie around their middle, sample 100 of the first."""
    X = noise()
    transform = ShortTimeFFT(HAMMING, hop=100, fs=100, mfft=256, phase_shift=None)
    amplitude = abs(transform.stft(X.astype(float), p0=1, p1=30, axis=-1))
    spectrum = decibels(X)
    assert spectrum.shape == (6, 2, 29, 129)
    assert spectrum.dtype == np.float32
    # (epochs, channels, bins, frames) -> (epochs, channels, frames, bins)
    expected = amplitude.swapaxes(2, 3)
    np.testing.assert_allclose(10 ** (spectrum / 20), expected, rtol=1e-4, atol=1e-3)


def test_an_impulse_shows_window_frames_and_floor():
    """Its amplitude is the window's value in each frame that holds it, at all bins."""
    X = np.zeros((1, 1, 3000), np.float32)
    X[0, 0, [150, 2950]] = 10.0
    frames = np.full(29, FLOOR)
    frames[[0, 1, 28]] = 20 * np.log10(10 * HAMMING[[150, 50, 150]])
    expected = np.broadcast_to(frames[:, None], (29, 129))
    np.testing.assert_allclose(decibels(X)[0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("peak", [20, 64, 100])
def test_a_tone_is_found_at_its_bin_and_level(peak):
    """A sine of amplitude a at a bin: half of it, times the window's sum."""
    tone = 50 * np.sin(2 * np.pi * (peak * 100 / 256) * np.arange(3000) / 100)
    spectrum = decibels(tone[None, None])[0, 0]
    assert (spectrum.argmax(axis=1) == peak).all()
    level = 20 * np.log10(50 / 2 * HAMMING.sum())
    np.testing.assert_allclose(spectrum[:, peak], level, atol=0.02)


@pytest.mark.parametrize(("floor", "level"), [(1e-3, -60.0), (1.0, 0.0)])
def test_a_flat_signal_is_at_the_floor(floor, level):
    flat = decibels(np.zeros((2, 1, 3000)), floor=floor)
    np.testing.assert_allclose(flat, level, rtol=1e-6)
    assert decibels(noise(), floor=floor).min() >= level - 1e-4


@pytest.mark.parametrize(("sfreq", "n_bins"), [(64, 65), (128, 129), (200, 257)])
def test_other_rates(sfreq, n_bins):
    """Windows of 2 s, one a second, and 10 Hz where 10 Hz is."""
    tone = np.sin(2 * np.pi * 10 * np.arange(30 * sfreq) / sfreq)[None, None]
    spectrum = decibels(tone)[0, 0]
    assert spectrum.shape == (29, n_bins)
    bin_width = sfreq / 2 / (n_bins - 1)
    np.testing.assert_allclose(spectrum.argmax(axis=1) * bin_width, 10, atol=bin_width / 2)
    assert decibels(tone, window=1.0, hop=0.5, n_fft=1024).shape == (1, 1, 59, 513)
    # Epochs of another length, where the rate is known.
    short = PairedEpochs(noise(2, 1, 5 * sfreq), sfreq=sfreq)
    step = LogSpectrogram().fit(short)
    assert step.transform(short).shape == (2, 1, 4, n_bins)
    assert step.transform(short["target"]).shape == (2, 1, 4, n_bins)


# ---------------------------------------------------------------- standardisation


def test_standardised_by_the_epochs_of_fit(monkeypatch):
    X = noise(20) * np.array([1.0, 5.0], np.float32)[:, None]
    train, test = X[:12], X[12:]
    frames = decibels(train).astype(float)
    mean, scale = frames.mean(axis=(0, 2)), frames.std(axis=(0, 2))  # (2, 129)
    monkeypatch.setattr(spectrogram, "N_AT_A_TIME", 5)
    step = LogSpectrogram().fit(train)
    np.testing.assert_allclose(step.mean_, mean, rtol=1e-6)
    np.testing.assert_allclose(step.scale_, scale, rtol=1e-6)
    expected = (decibels(test) - mean[:, None]) / scale[:, None]
    np.testing.assert_allclose(step.transform(test), expected, atol=1e-4)
    assert step.transform(test).dtype == np.float32


def test_what_does_not_vary_is_not_divided():
    X = noise()
    X[:, 1] = 0
    step = LogSpectrogram().fit(X)
    np.testing.assert_array_equal(step.scale_[1], 1)
    Z = step.transform(X)
    np.testing.assert_allclose(Z[:, 1], 0, atol=1e-5)
    assert np.isfinite(Z).all()
    # A channel that comes back to life is as far from the floor as its decibels show.
    np.testing.assert_allclose(
        step.transform(noise())[:, 1], decibels(noise())[:, 1] - FLOOR, atol=1e-3
    )


# ---------------------------------------------------------------- pairs and pipelines


def test_each_modality_has_its_statistics():
    X = pair()[[1, 4, 7, 9, 2]]
    Z = LogSpectrogram().fit_transform(X)
    # Epochs of unknown rate last 30 s.
    rates = LogSpectrogram().fit_transform(pair(sfreq=None)).sfreq
    assert rates == {"target": 100.0, "source": 200.0}
    apart = PairedTransformer(LogSpectrogram(), LogSpectrogram()).fit_transform(X)
    for modality, shape in (("target", (5, 1, 29, 129)), ("source", (5, 2, 29, 257))):
        assert Z[modality].shape == shape
        np.testing.assert_allclose(Z[modality].mean(axis=(0, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(Z[modality].std(axis=(0, 2)), 1, atol=1e-4)
        assert apart.fingerprint(modality) == Z.fingerprint(modality)


def test_one_modality_of_a_pair():
    X = pair()
    both, one = LogSpectrogram().fit(X), LogSpectrogram().fit(X.target_epochs)
    assert one.source_ is None
    Z = one.transform(X)
    assert not Z.has_source
    np.testing.assert_array_equal(Z["target"], both.transform(X)["target"])
    np.testing.assert_array_equal(Z["target"], both.transform(X.target_epochs)["target"])
    np.testing.assert_array_equal(Z["target"], both.transform(X["target"]))


def stager():
    small = {"module__n_filters": 8, "module__hidden_size": 4, "module__attention_size": 4}
    return SleepStager("SeqSleepNet", max_epochs=1, random_state=0, **small)


def test_before_a_stager_in_a_grid_search():
    X, y = pair(), np.tile(["W", "N2"], 6)
    pipeline = make_pipeline(LogSpectrogram(), stager())
    grid = {"logspectrogram__standardize": [True, False]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(2), error_score="raise")
    search.fit(X, y, groups=X.subject)
    assert search.best_estimator_[-1].signal_["sfreq"] == 100.0
    np.testing.assert_array_equal(search.predict(X), search.predict(X["target"]))


def test_direct_transfer_standardises_by_the_target():
    """A network that nothing was trained in since does not see the target's gain."""
    X, y = pair(sfreq=100.0), np.tile(["W", "N2"], 6)
    X = X.replace(source=noise(12, 1, seed=1))
    tuned = FineTunedSleepStager(stager(), trainable=None)
    outputs = []
    for gain in (1, 10):
        louder = X.replace(target=gain * X["target"])
        pipeline = make_pipeline(LogSpectrogram(), clone(tuned)).fit(louder[:8], y[:8])
        outputs.append(pipeline.predict_proba(louder[8:]["target"]))
    np.testing.assert_allclose(*outputs, atol=1e-5)


# ---------------------------------------------------------------- what is refused


def raises(match):
    return pytest.raises(ValueError, match=match)


def test_bad_input():
    X = noise()
    step = LogSpectrogram().fit(X)
    for unfit in (step.fit, step.transform):
        with raises("looks like volts"):
            unfit(1e-6 * X)
        with raises("(?s)given epochs of shape .* transformed already"):
            unfit(np.zeros((2, 1, 29, 129)))
        with raises("NaN or infinite values, first in epoch 0"):
            unfit(np.full_like(X, np.nan))
    with raises("not fitted yet"):
        clone(step).transform(X)
    for other in (X[:, :1], X[:, :, :2400], PairedEpochs(X, sfreq=50.0)):
        with raises(r"Fitted to .* \(2, 3000\) at 100 Hz; given"):
            step.transform(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 31.0}, "3100 samples every 100 at 100 Hz; epochs have 3000"),
        ({"window": 0.0}, "Windows of 0 s"),
        ({"hop": 0.001}, "200 samples every 0 "),
        ({"n_fft": 128}, "are 200 samples every .* n_fft is 128"),
    ],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_bad_parameters(options, message, standardize):
    with raises(message):
        LogSpectrogram(**options, standardize=standardize).fit(noise())
