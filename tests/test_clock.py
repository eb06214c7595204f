"""The clocks of two devices, found in signals whose offset and drift are known."""

import warnings
from datetime import UTC, datetime, timedelta

import mne
import numpy as np
import pytest
from scipy.signal import square

from skleepkd import PairedEpochs, estimate_clock

HOUR = 3600.0
SFREQ = 64.0


def brain(hours, seed=0, n_channels=1):
    """Make a signal whose power falls with frequency, as an EEG's does."""
    rng = np.random.default_rng(seed)
    white = np.fft.rfft(rng.standard_normal((n_channels, int(hours * HOUR * SFREQ))))
    frequencies = np.arange(white.shape[1]) / (hours * HOUR)
    signal = np.fft.irfft(white / np.maximum(frequencies, 0.5))
    return 20 * signal / signal.std()


def device(signal, sfreq, hours, offset=0.0, drift=0.0, gain=1.0, noise=2.0, seed=1):
    """Record a signal (n_channels, n_times) by a clock of its own, with noise."""
    seconds = np.arange(int(hours * HOUR * sfreq)) / sfreq
    source = offset + seconds / (1 + drift)
    times = np.arange(signal.shape[1]) / SFREQ
    seen = np.array([np.interp(source, times, one, left=0, right=0) for one in signal])
    rng = np.random.default_rng(seed)
    seen += np.sqrt(noise) * signal.std() * rng.standard_normal(seen.shape)
    info = mne.create_info(len(signal), sfreq, "eeg")
    return mne.io.RawArray(1e-6 * gain * seen, info, verbose=False)


NIGHT = brain(6)


@pytest.mark.parametrize(
    ("offset", "drift", "sfreq", "gain", "hours"),
    [
        (HOUR + 0.137, 1e-4, 50.0, -5.0, 3),  # reversed polarity
        (-HOUR - 0.25, -1e-4, 250.3, 0.1, 4),
        (1234.5, 2.5e-4, 32.0, 1.0, 3),
    ],
)
def test_known_clocks(offset, drift, sfreq, gain, hours):
    """Noise of twice the signal's power is added to each; three hours are shared."""
    late = max(0.0, -offset)  # the source's start within the night
    at = round(late * SFREQ)
    source = device(NIGHT[:, at:], 64.0, 4, seed=2)
    target = device(NIGHT, sfreq, hours, offset + late, drift, gain)
    clock = estimate_clock(source_raw=source, target_raw=target)
    shared = np.linspace(max(0, offset), min(4 * HOUR, offset + hours * HOUR), 9)
    found = (shared - clock.offset) * (1 + clock.drift)
    np.testing.assert_allclose(found, (shared - offset) * (1 + drift), atol=0.05)
    np.testing.assert_allclose(
        clock.lag_at(shared), shared - (shared - offset) * (1 + drift), atol=0.05
    )
    assert clock.confidence == clock.agree.mean() > 0.8
    true = clock.times - (clock.times - offset) * (1 + drift)
    np.testing.assert_allclose(clock.lags[clock.agree], true[clock.agree], atol=0.06)
    assert f"{clock.agree.sum()} of {len(clock.agree)} windows agree" in repr(clock)


def test_any_of_the_channels_may_see_the_same():
    """One of three, reversed; another is flat and a third has gaps."""
    source = device(np.vstack([brain(1, 5), NIGHT[:, : int(HOUR * SFREQ)]]), 64.0, 1)
    worn = np.vstack([np.zeros_like(NIGHT), -NIGHT, brain(6, 6)])
    target = device(worn, 100.0, 0.9, 120.0, noise=1.0)
    target._data[0] = 3e-5
    target._data[1, 50_000:60_000] = np.nan
    clock = estimate_clock(source_raw=source, target_raw=target)
    assert clock.offset == pytest.approx(120, abs=0.02)
    named = estimate_clock(source_raw=source, target_raw=target, source=["1"], target=["1"])
    assert named.offset == pytest.approx(120, abs=0.02)
    with pytest.raises(ValueError, match="No channel named C3"):
        estimate_clock(source_raw=source, target_raw=target, source=["C3"])
    with pytest.raises(ValueError, match="Nothing from 1 to 12 Hz in the target"):
        estimate_clock(source_raw=source, target_raw=target, target=["0"])


def test_movement_at_a_low_rate():
    """Twenty bursts an hour in the noise of two accelerometers; the band follows the rate."""
    rng = np.random.default_rng(0)
    still = np.zeros((3, int(4 * HOUR * SFREQ)))
    for at in rng.integers(0, still.shape[1] - 640, 80):
        still[:, at : at + 640] += 300 * rng.standard_normal((3, 10)).repeat(64, axis=1)
    raws = {
        "source_raw": device(still, 16.0, 4, noise=0.02),
        "target_raw": device(still[::-1], 8.0, 3, 1500.0, 1e-4, noise=0.02, seed=3),
    }
    clock = estimate_clock(**raws)
    assert clock.offset == pytest.approx(1500, abs=0.1)
    assert clock.drift == pytest.approx(1e-4, abs=2e-5)


def noise_of(seconds):
    return np.random.default_rng(3).standard_normal(int(seconds * SFREQ))


SECONDS = np.arange(int(HOUR * SFREQ)) / SFREQ
COMMON = {
    "nothing": 0 * SECONDS,
    "mains at 13 Hz": 60 * np.sin(2 * np.pi * 13 * SECONDS),
    "strict alpha": 60 * np.sin(2 * np.pi * 10 * SECONDS),
    "heart at one rate": 400.0 * (SECONDS % 1.0 < 1 / SFREQ),
    "square wave": 60 * square(np.pi * SECONDS),
    "two minutes again and again": 200 * np.tile(noise_of(120), 30),
    "calibration": np.where(SECONDS < 150, 100 * square(np.pi * SECONDS), 0),
}


@pytest.mark.parametrize("name", COMMON)
def test_different_nights(name):
    source, target = (
        device(brain(1, seed) + COMMON[name], SFREQ, 1, noise=0.1, seed=seed)
        for seed in (11, 12)
    )
    with pytest.raises(ValueError, match="do not show the same night"):
        estimate_clock(source_raw=source, target_raw=target)


def test_too_short_or_no_band():
    short = device(NIGHT, 64.0, 0.08)
    with pytest.raises(ValueError, match="lasts 2[0-9][0-9] s: too little"):
        estimate_clock(source_raw=short, target_raw=device(NIGHT, 64.0, 1))
    with pytest.raises(ValueError, match="The band from 30 to 20 Hz is empty"):
        estimate_clock(source_raw=short, target_raw=short, l_freq=30, h_freq=20)
    with pytest.raises(TypeError, match="target_raw is an mne.io.Raw; given str"):
        estimate_clock(source_raw=short, target_raw="night.edf")
    with pytest.raises(ValueError, match="above 0.45 times the lower"):
        estimate_clock(source_raw=short, target_raw=short, h_freq=40)


def test_clock_in_from_raws_and_the_dates():
    start = datetime(2020, 1, 1, 22, tzinfo=UTC)
    source = device(NIGHT, 64.0, 0.5, noise=0.1, seed=2).set_meas_date(start)
    target = device(NIGHT, 32.0, 0.4, 100.0, noise=0.1)
    target.set_meas_date(start + timedelta(seconds=99))
    raws = {"source_raw": source, "target_raw": target}
    clock = estimate_clock(**raws)  # within the two seconds of dates: nothing to say
    assert clock.by_dates == 99
    X = PairedEpochs.from_raws(**raws, clock=clock)
    by_numbers = PairedEpochs.from_raws(**raws, offset=clock.offset, drift=clock.drift)
    np.testing.assert_array_equal(X["target"], by_numbers["target"])
    assert X.onset[0] == 120  # the first epoch that both cover, from 100 s on
    with pytest.raises(ValueError, match="not both"):
        PairedEpochs.from_raws(**raws, clock=clock, offset=1.0)
    with pytest.raises(
        TypeError, match="clock is what .*estimate_clock returns; given tuple"
    ):
        PairedEpochs.from_raws(**raws, clock=(100.0, 0.0))
    target.set_meas_date(start)
    with pytest.raises(ValueError, match="of other recordings"):
        PairedEpochs.from_raws(**raws, clock=clock)
    with pytest.warns(
        UserWarning, match=r"dates the target began \+0 s .* signals \+100\."
    ):
        clock = estimate_clock(**raws)
    with warnings.catch_warnings(action="error"):  # it was said once
        PairedEpochs.from_raws(**raws, clock=clock)


def test_picture():
    clock = estimate_clock(
        source_raw=device(NIGHT, 64.0, 0.5, seed=2),
        target_raw=device(NIGHT, 64.0, 0.4, 30.0),
    )
    clock.agree[0], clock.lags[0] = False, 90.0
    ax = clock.plot()
    points, others, line = ax.get_lines()
    np.testing.assert_array_equal(points.get_ydata(), clock.lags[1:])
    np.testing.assert_array_equal(others.get_ydata(), [90.0])
    np.testing.assert_allclose(line.get_ydata(), 30, atol=0.05)
    assert ax.get_xlabel() == "Hours from the source's start"


def test_a_real_night(shared_data):
    """A whole night of a sleep clinic, and a noisy copy of it by another clock."""
    path = shared_data / "ucddb" / "ucddb018.npz"
    if not path.is_file():
        pytest.skip("the real nights are not here")
    night = np.load(path)
    signal = 100.0 * night["step"] * night["signal"].reshape(1, -1)
    info = mne.create_info(1, 128.0, "eeg")
    psg = mne.io.RawArray(1e-6 * signal, info, verbose=False)
    worn = device(signal[:, ::2], 100.0, 4, 3000.0, 1e-4, gain=-0.3)
    clock = estimate_clock(source_raw=psg, target_raw=worn)
    times = np.linspace(3000, 3000 + 4 * HOUR, 9)
    found = (times - clock.offset) * (1 + clock.drift)
    np.testing.assert_allclose(found, (times - 3000) * (1 + 1e-4), atol=0.05)
    assert clock.confidence > 0.9
