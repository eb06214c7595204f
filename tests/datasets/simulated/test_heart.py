"""The simulated heart: beats found by others, and what sleep does to the heart."""

import mne
import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.signal import (
    butter,
    find_peaks,
    medfilt,
    periodogram,
    sosfiltfilt,
    welch,
)
from sklearn.utils import Bunch

from skleepkd.datasets import simulate_night
from skleepkd.datasets.simulated import draw_motions
from skleepkd.datasets.simulated import heart as heart_module
from skleepkd.datasets.simulated.body import Body, Clock, Course
from tests.tiny import raw_of

SFREQ = 100.0
W, N1, N2, N3, REM = range(5)


@pytest.fixture(scope="module")
def nights():
    about = {"sfreq": SFREQ, "derivations": ["ECG"], "random_state": 3}
    return [simulate_night(150, subject=k, **about) for k in range(8)]


@pytest.fixture(scope="module")
def hearts():
    """The beats of many subjects, each of whom has every stage for as long."""
    stages = np.repeat([W, N2, N1, N2, N3, REM, N1, N3, REM, W], 40)
    drawn = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        course = Course(stages, Body(rng), rng)
        moved = draw_motions(course.stage, rng).onsets
        drawn.append(
            heart_module.draw_beats(course, heart_module.Heart(rng), moved, rng).times
        )
    return stages, drawn


def by_stage(hearts, measure):
    """Apply a measure to the intervals of each stage, shape (n_subjects, 5)."""
    stages, drawn = hearts
    found = []
    for beats in drawn:
        intervals = np.diff(beats)
        stage = stages[(beats[1:] // 30).astype(int)]
        found.append([measure(intervals[stage == code]) for code in range(5)])
    return np.array(found)


def rmssd(intervals):
    """Of successive beats in milliseconds; jumps that only ectopic beats make left out."""
    changes = np.diff(intervals)
    return 1000 * np.sqrt(np.mean(changes[np.abs(changes) < 0.25] ** 2))


def share_within(times, others, tolerance):
    """How many of some times have one of the others near them."""
    right = np.searchsorted(others, times).clip(1, len(others) - 1)
    distance = np.minimum(np.abs(others[right] - times), np.abs(others[right - 1] - times))
    return np.mean(distance <= tolerance)


def heart_rate(beats, n_epochs, rate=4.0):
    """Heart rate in beats a minute at evenly spaced times."""
    return np.interp(np.arange(0, 30 * n_epochs, 1 / rate), beats[1:], 60 / np.diff(beats))


# Beats


def test_peaks_of_the_ecg_are_the_beats(nights):
    for night in nights:
        ecg = night.signals[0]
        height = 0.4 * np.percentile(ecg, 99.5)
        peaks = find_peaks(ecg, height=height, distance=0.35 * SFREQ)[0] / SFREQ
        assert share_within(night.beats, peaks, 0.02) > 0.98
        assert share_within(peaks, night.beats, 0.02) > 0.98


def test_mne_finds_the_beats(nights):
    signals, beats = nights[0].signals[:, :60_000], nights[0].beats
    raw = raw_of(1e-6 * signals, ["ECG"], SFREQ, "ecg")
    events, _, _ = mne.preprocessing.find_ecg_events(raw, verbose="error")
    peaks = events[:, 0] / SFREQ
    # Its filter and its search for extrema in either direction add some tolerance.
    assert share_within(beats[beats < 600], peaks, 0.03) > 0.95
    assert share_within(peaks, beats, 0.03) > 0.95


def test_waves_have_their_places_and_sizes(nights):
    heights = []
    for night in nights:
        first = np.rint(SFREQ * night.beats[5:-5]).astype(int)[:, None] - 30
        mean = np.median(night.signals[0][first + np.arange(80)], axis=0)
        mean -= np.median(mean)
        seconds = (np.arange(80) - 30) / SFREQ
        heights.append(mean.max())
        assert abs(seconds[mean.argmax()]) <= 0.01  # R
        p = mean[(seconds > -0.22) & (seconds < -0.1)].max()
        t = mean[(seconds > 0.15) & (seconds < 0.4)].max()
        assert 0 < p < t < mean.max() / 2
        # A QRS complex lasts 0.06 to 0.1 s, so R is narrower than that at half height.
        assert 0.01 < np.sum(mean > mean.max() / 2) / SFREQ < 0.06
    assert 700 < np.median(heights) < 1500  # about 1 mV


def test_ectopic_beats_are_rare_and_early(nights):
    shares = []
    for night in nights:
        before, after = np.diff(night.beats)[:-1], np.diff(night.beats)[1:]
        shares.append(np.mean((before < 0.8 * after) & (before < np.median(before))))
    assert 0 < np.mean(shares) < 0.005


def test_a_steady_heart_beats_evenly(monkeypatch):
    for name in ("_RSA_SIZE", "_ECTOPIC"):
        monkeypatch.setattr(heart_module, name, 0.0)
    for name in ("_LOW", "_VERY_LOW"):
        monkeypatch.setattr(heart_module, name, np.zeros(5))
    heart = heart_module.Heart(np.random.default_rng(0))
    heart.rate, heart.trend = 60.0, 0.0

    course = Bunch(stage=np.full(3000, REM))
    beats = heart_module.draw_beats(course, heart, np.empty(0), np.random.default_rng(0))
    np.testing.assert_allclose(np.diff(beats.times), 1.0, atol=1e-3)
    assert len(beats.times) in (2999, 3000)


# Sleep


def test_rate_and_variability_follow_the_stages(hearts):
    rate = by_stage(hearts, lambda intervals: 60 / intervals.mean()).mean(axis=0)
    # As multiples of REM sleep, between Penzel et al. (2016, Front Physiol 7:460, Table 1)
    # and Somers et al. (1993, N Engl J Med 328:303-307: 64 beats a minute awake, 59 in stage
    # 4, in REM sleep about as many as awake). The night's trend, arousals and movements come
    # on top.
    rate = rate / rate[REM]
    assert 1.0 < rate[W] < 1.06 + 0.01
    assert (rate[[N1, N2]] < 1).all()
    assert 59 / 64 < rate[N3] < 0.99
    # On waking and deep sleep both agree: 1.06 / 0.99 and 64 / 59.
    assert rate[W] / rate[N3] == pytest.approx(1.08, abs=0.025)
    variability = np.log(by_stage(hearts, rmssd))
    more = variability[:, [N2, N3]] - variability[:, [REM]]
    assert (more.mean(axis=0) > 0.08).all()
    assert np.mean(more[:, 1] > 0) > 0.7


def spectrum(hearts):
    """Powers of the intervals in 5 min of one stage, and their variance, by the Task Force.

    Very low, low and high frequencies and the variance in ms2, shape (n_subjects, 5, 4).
    """
    stages, drawn = hearts
    grid, edges = np.arange(0, 30 * len(stages), 0.25), (0.0033, 0.04, 0.15, 0.4)
    found = np.empty((len(drawn), 5, 4))
    for subject, beats in enumerate(drawn):
        intervals = np.diff(beats)
        normal = np.abs(intervals / medfilt(intervals, 9) - 1) < 0.25
        tachogram = CubicSpline(beats[1:][normal], 1000 * intervals[normal])(grid)
        parts = tachogram.reshape(-1, 1200)
        frequencies, density = periodogram(parts, 4.0, detrend="linear")
        bands = np.searchsorted(frequencies, edges)
        power = np.add.reduceat(density, bands, axis=1)[:, :3] * frequencies[1]
        power = np.column_stack([power, parts.var(axis=1)])
        # Ten epochs each, and no stage changes within them.
        for code in range(5):
            found[subject, code] = np.median(power[stages[::10] == code], axis=0)
    return found


def test_balance_of_slow_and_fast_variation_is_that_of_the_stages(hearts):
    """Vanoli et al. (1995, Circulation 91:1918-1922), mean and standard error of eight."""
    powers = spectrum(hearts)
    ratio = powers[:, :, 1] / powers[:, :, 2]
    nrem = ratio[:, [N2, N2, N3]].mean(axis=1)
    expected = {"awake": (4.0, 1.4), "NREM": (1.22, 0.33), "REM": (3.0, 0.74)}
    for found, (mean, error) in zip(
        (ratio[:, W], nrem, ratio[:, REM]), expected.values(), strict=True
    ):
        assert found.mean() == pytest.approx(mean, abs=error)
        # People differ: the standard deviation of eight is their standard error by 8**0.5.
        assert 0.4 < found.std() / (error * 8**0.5) < 2
    # It falls as sleep deepens (Bonnet and Arand 1997).
    assert (np.diff(np.median(ratio, axis=0)[[N1, N2, N3]]) < 0).all()


def test_variability_is_largest_awake_and_in_rem(hearts):
    very_low, low, high, variance = np.moveaxis(spectrum(hearts), 2, 0)
    # Busek et al. (2005) of very low, low and all power, and of high frequencies.
    for power in (very_low, low, variance):
        assert np.median(power[:, REM]) > np.median(power[:, N2]) > np.median(power[:, N3])
    assert np.median(high[:, REM]) < min(np.median(high[:, [N2, N3]], axis=0))
    # Penzel et al.: 1.15.
    ratio = np.exp(np.log(variance[:, W] / variance[:, REM]).mean() / 2)
    assert ratio == pytest.approx(1.15, abs=0.1)
    # Awake, high frequencies have the power of middle age: Choi et al. (2020, Front Aging
    # Neurosci 12:610626) have 95 ms2 at 58 and 311 at 28 years.
    assert 95 < np.median(high[:, W]) < 311


def test_slow_variation_is_that_of_wake_and_rem(hearts):
    stages, drawn = hearts
    slow = [[] for _ in range(5)]
    for beats in drawn:
        by_epoch = heart_rate(beats, len(stages)).reshape(len(stages), -1).mean(axis=1)
        for code in range(5):
            same = (stages[1:] == code) & (stages[:-1] == code)
            slow[code] += np.diff(by_epoch)[same].tolist()
    slow = [np.median(np.abs(changes)) for changes in slow]
    assert min(slow[W], slow[REM]) > 1.5 * slow[N2] > 1.5 * slow[N3]


def test_breathing_modulates_the_heart_in_n3():
    """The baseline of the ECG and the intervals know the same breathing."""
    compared = 0
    for subject in range(4):
        night = simulate_night(
            300, sfreq=50.0, subject=subject, noise=0, derivations=["ECG"], random_state=3
        )
        deep = night.stages == N3
        if deep.sum() < 10:
            continue
        compared += 1
        ecg = sosfiltfilt(butter(4, 0.6, fs=50.0, output="sos"), night.signals[0])
        peaks = []
        for series, rate in ((ecg, 50.0), (heart_rate(night.beats, len(deep)), 4.0)):
            epochs = series.reshape(len(deep), -1)[deep]
            frequencies, density = welch(epochs, rate, nperseg=epochs.shape[1])
            # Slower modulation of the heart rate reaches up to 0.15 Hz.
            high = (frequencies >= 0.17) & (frequencies <= 0.4)
            peaks.append(frequencies[high][density[:, high].mean(axis=0).argmax()])
        assert peaks[0] == pytest.approx(peaks[1], abs=0.04)
        assert 0.16 < peaks[0] < 0.33
    assert compared >= 3


def test_arousals_make_the_heart_fast_then_slow():
    """In N2 the chin's tone of one second tells the heart rate of the next ones."""
    responses, strangers, previous = [], [], None
    for subject in range(4):
        night = simulate_night(
            300, subject=subject, derivations=["ECG", "chin"], random_state=9
        )
        tone = np.std(night.signals[1].reshape(-1, 64), axis=1)
        asleep = np.repeat(night.stages == N2, 30)
        level = np.median(tone[asleep])
        onsets = np.flatnonzero((tone[1:] > 1.6 * level) & (tone[:-1] <= 1.6 * level)) + 1
        onsets = onsets[(onsets > 30) & (onsets < len(tone) - 40)]
        onsets = onsets[asleep[onsets - 15] & asleep[onsets + 30]]
        rate = heart_rate(night.beats, len(night.y), 1.0)
        responses.append(
            np.mean([rate[o - 5 : o + 30] - rate[o - 20] for o in onsets], axis=0)
        )
        if previous is not None:
            other = np.mean([previous[o - 5 : o + 30] for o in onsets], axis=0)
            strangers.append(np.ptp(other))
        previous = rate
    response = np.mean(responses, axis=0)
    before, fast, slow = response[:4].mean(), response[7:12].max(), response[15:24].min()
    assert fast > before + 4
    assert slow < before
    assert np.mean(strangers) < 4


def test_subjects_and_their_nights_differ(nights):
    rng = np.random.default_rng(0)
    hearts = [heart_module.Heart(rng) for _ in range(400)]
    assert np.std([heart.rate for heart in hearts]) == pytest.approx(8, abs=1)
    rsa = np.log([heart.modulation[0] for heart in hearts])
    assert np.std(rsa) == pytest.approx(0.5, abs=0.06)
    rates = [60 / np.diff(night.beats).mean() for night in nights]
    assert 3 < np.std(rates) < 14
    variability = [rmssd(np.diff(night.beats)) for night in nights]
    assert 0.2 < np.std(np.log(variability)) < 0.9


# Signals


def test_a_high_rate_adds_nothing_to_the_ecg():
    middle, fast = (
        simulate_night(30, sfreq=sfreq, derivations=["ECG"], random_state=1)
        for sfreq in (100.0, 200.0)
    )
    np.testing.assert_array_equal(middle.beats, fast.beats)
    np.testing.assert_allclose(middle.signals[0], fast.signals[0][::2], atol=2)


def test_a_low_rate_flattens_r_waves():
    high, low = (
        simulate_night(20, sfreq=sfreq, noise=0, derivations=["ECG"], random_state=1)
        for sfreq in (100.0, 32.0)
    )
    ratio = np.percentile(low.signals, 99.5) / np.percentile(high.signals, 99.5)
    assert 0.4 < ratio < 0.95
    # Of the highest half percent, not of the maximum: an ectopic beat is larger and wider.
    height = 0.4 * np.percentile(low.signals, 99.5)
    peaks = find_peaks(low.signals[0], height=height, distance=11)[0] / 32
    assert share_within(low.beats, peaks, 0.04) > 0.97


@pytest.mark.parametrize("sfreq", [32.0, 50.0, 64.0, 100.0, 256.0])
def test_resampling_keeps_what_a_rate_can_hold(sfreq):
    clock = Clock(3, sfreq)
    times = np.arange(round(90 * heart_module._DRAWN_AT)) / heart_module._DRAWN_AT
    found = heart_module._resample(np.cos(2 * np.pi * 10 * times) + 3, clock)
    np.testing.assert_allclose(found, np.cos(2 * np.pi * 10 * clock.times) + 3, atol=1e-9)
    gone = heart_module._resample(np.cos(2 * np.pi * 46 * times), clock)
    np.testing.assert_allclose(gone, 0, atol=1e-9)


def test_muscles_are_the_body_s():
    quiet = simulate_night(40, sfreq=SFREQ, noise=0, derivations=["ECG"], random_state=3)
    # Between the T wave and the next P wave: muscle alone.
    sos = butter(4, 30, "highpass", fs=SFREQ, output="sos")
    fast = sosfiltfilt(sos, quiet.signals[0])
    after = np.rint(SFREQ * (quiet.beats[1:] + 0.5)).astype(int)
    assert np.std(fast[after[after < len(fast)]]) > 1
