import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skleepkd import SleepStager
from skleepkd.preprocessing import BandPowers

SFREQ = 100.0
TIMES = np.arange(3000) / SFREQ
NAMES = ["delta", "theta", "alpha", "beta", "gamma", "log variance", "mobility"]


def sine(frequency, size=40.0):
    return size * np.sin(2 * np.pi * frequency * TIMES)[None, None]


def features(X, **options):
    """The seven features of the only channel, (n_epochs, 7)."""
    return BandPowers(**options).fit_transform(X)[:, 0, 0]


@pytest.mark.parametrize(
    ("frequency", "place", "n_frequencies"),
    [(2.0, 0, 9), (6.0, 1, 10), (10.0, 2, 13), (20.0, 3, 43), (40.0, 4, 52)],
)
def test_a_sine_is_in_its_band_alone(frequency, place, n_frequencies):
    """Its power, half its squared size, lies on the band's frequencies, 1 / 2.56 Hz apart."""
    (found,) = features(sine(frequency))
    expected = np.log10(40.0**2 / 2 / (n_frequencies / 2.56))
    assert found[place] == pytest.approx(expected, abs=2e-3)
    assert (np.delete(found[:5], place) < expected - 3).all()
    assert found[5] == pytest.approx(np.log10(40.0**2 / 2), abs=1e-3)
    # The differences of a sine are a sine, 2 sin(pi f / sfreq) times as large.
    mobility = 2 * np.sin(np.pi * frequency / SFREQ)
    assert found[6] == pytest.approx(mobility, rel=1e-3)


def test_white_noise_has_the_same_density_in_all_bands():
    X = np.random.default_rng(0).normal(0, 20, size=(200, 1, 3000)).astype(np.float32)
    mean = features(X).mean(axis=0)
    # One-sided: 400 square microvolts over 50 Hz. A band's logarithm lies a little below,
    # the more the fewer frequencies it averages.
    np.testing.assert_allclose(mean[:5], np.log10(8.0), atol=0.02)
    assert mean[5] == pytest.approx(np.log10(400), abs=5e-3)
    assert mean[6] == pytest.approx(np.sqrt(2), abs=5e-3)


def test_density_by_an_independent_sum_over_windows():
    X = np.random.default_rng(1).normal(5, 20, size=(1, 1, 3000))
    hann = np.sin(np.pi * np.arange(256) / 256) ** 2
    starts = range(0, 3000 - 256 + 1, 128)
    windows = np.array([X[0, 0, k : k + 256] for k in starts])
    windows -= windows.mean(axis=1, keepdims=True)
    density = 2 * abs(np.fft.rfft(windows * hann)) ** 2 / (SFREQ * (hann**2).sum())
    alpha = density.mean(axis=0)[21:34]  # 8.2 to 12.9 Hz
    (found,) = features(X)
    assert found[2] == pytest.approx(np.log10(alpha.mean()), abs=1e-5)


def test_the_sampling_rate_changes_no_density():
    fine = 40 * np.sin(2 * np.pi * 10 * np.arange(6000) / 200)[None, None]
    np.testing.assert_allclose(
        features(fine)[:, :6], features(sine(10.0))[:, :6], atol=2e-3
    )


def test_a_flat_signal_gives_the_floor():
    X = np.concatenate([sine(10.0), np.full((1, 1, 3000), 7.0)])
    np.testing.assert_allclose(features(X, floor=1e-4)[1], [-4] * 6 + [0], atol=1e-6)


def test_bands_of_ones_own_and_their_names():
    assert BandPowers().names == NAMES
    sigma = BandPowers(bands=[("sigma", 11, 16)])
    assert sigma.names == ["sigma", "log variance", "mobility"]
    found = clone(sigma).fit_transform(sine(13.0))[0, 0, 0]
    assert found[0] == pytest.approx(np.log10(800 / (12 / 2.56)), abs=2e-3)


class OneLayer(torch.nn.Sequential):
    def __init__(self, n_chans, n_times, n_outputs, n_bins):
        n_inputs = n_chans * n_times * n_bins
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(n_inputs, n_outputs))


def test_before_a_stager_in_a_pipeline():
    y = np.repeat(["W", "N3"], 20)
    X = np.concatenate([sine(2.0 if stage == "N3" else 10.0) for stage in y])
    X += np.random.default_rng(0).normal(0, 5, X.shape)
    stager = SleepStager(OneLayer, max_epochs=20, lr=0.05, random_state=0)
    assert make_pipeline(BandPowers(), stager).fit(X, y).score(X, y) == 1.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="gamma, 30 to 50 Hz.*0.39 Hz, up to 16"):
        BandPowers().transform(sine(10.0)[:, :, :960])
    with pytest.raises(ValueError, match="transformed already"):
        BandPowers().transform(BandPowers().transform(sine(10.0)))
    with pytest.raises(ValueError, match="looks like volts"):
        BandPowers().transform(1e-6 * sine(10.0))
