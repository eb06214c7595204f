"""Simulated sleep: against real annotations and independent spectra."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import coherence, welch

from skleepkd.datasets import simulate_night
from skleepkd.datasets.simulated import body
from tests.datasets.simulated.test_simulated import in_epochs
from tests.files import codes_of, real_sleep_edf

SFREQ = 64.0
W, N1, N2, N3, REM = range(5)

# Stage sequences


@pytest.fixture(scope="module")
def real_nights(shared_data):
    """Stages of the 39 nights of Sleep-EDF, lights off to last sleep plus 30 epochs."""
    nights = []
    for rows, _, duration, lights_off in real_sleep_edf(shared_data).values():
        night = codes_of(rows, duration)
        last_sleep = np.flatnonzero(night > 0)[-1]
        nights.append(night[round(lights_off / 30) : last_sleep + 31])
    return nights


def test_figures_are_those_of_the_real_annotations(real_nights):
    assert len(real_nights) == 39
    jumps = np.zeros((6, 5, 5), dtype=int)
    log_bouts, latencies = [[] for _ in range(5)], []
    for night in real_nights:
        starts = np.r_[0, 1 + np.flatnonzero(np.diff(night)), len(night)]
        for start, stop in pairwise(starts[:-1]):  # but not the night's last bout
            stage, following = night[start], night[stop]
            if stage >= 0:
                log_bouts[stage].append(np.log(stop - start))
                if following >= 0:
                    jumps[6 * stop // len(night), stage, following] += 1
        if (latency := np.argmax(night > 0)) > 0:
            latencies.append(np.log(latency))
    np.testing.assert_array_equal(body.JUMPS, jumps)
    measured = [(np.mean(lengths), np.std(lengths)) for lengths in log_bouts]
    np.testing.assert_allclose(body.LOG_BOUT, measured, atol=0.006)
    measured = np.mean(latencies), np.std(latencies)
    np.testing.assert_allclose(body.LOG_LATENCY, measured, atol=0.006)


def test_stage_sequences_resemble_real_nights():
    rng = np.random.default_rng(0)
    drawn = np.array([body.draw_hypnogram(960, rng) for _ in range(60)])
    shares = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    # Counts of the in-bed part of the 39 nights: W 4509, N1 2762, N2 17577, N3 5591,
    # REM 7711.
    real = np.array([4509, 2762, 17577, 5591, 7711]) / 38150
    np.testing.assert_allclose(shares, real, atol=0.06)
    first, last = drawn[:, :320], drawn[:, 640:]
    assert np.mean(first == N3) > 2 * np.mean(last == N3)
    assert np.mean(last == REM) > 1.5 * np.mean(first == REM)
    changes = np.mean(drawn[:, 1:] != drawn[:, :-1])
    assert 0.08 < changes < 0.16  # 0.11 in the 39 nights


def test_the_scorer_errs_as_people_do():
    rng = np.random.default_rng(0)
    stages = np.concatenate([body.draw_hypnogram(300, rng) for _ in range(30)])
    scores = body.score_hypnogram(stages, rng)
    # People reach 0.81 to 0.91 with the majority of ten scorers.
    assert 0.90 < np.mean(scores == stages) < 0.97
    assert np.mean((scores == stages)[stages == N1]) < 0.9


# Physiology


@pytest.fixture(scope="module")
def nights():
    return [simulate_night(300, subject=k, random_state=5) for k in range(4)]


def power(nights, name, stage, low, high):
    """Band power by Welch's method in microvolts squared, the median of the epochs."""
    epochs = np.concatenate([in_epochs(n, name)[n.stages == stage] for n in nights])
    frequencies, density = welch(epochs, fs=SFREQ, nperseg=int(4 * SFREQ))
    band = (frequencies >= low) & (frequencies < high)
    return np.median(density[:, band].sum(axis=1) * frequencies[1])


def test_amplitudes_are_plausible_microvolts(nights):
    for name in ("C4-A1", "C3-O1", "A1-A2"):
        for night in nights:
            assert 5 < np.std(in_epochs(night, name)) < 60
            assert np.abs(in_epochs(night, name)).max() < 500
    # Slow waves of N3 reach 75 uV from peak to peak (AASM) in most epochs.
    n3 = np.concatenate([in_epochs(n, "C4-A1")[n.stages == N3] for n in nights])
    assert np.median(np.ptp(n3, axis=1)) > 75


def test_slow_waves_grow_with_depth(nights):
    slow = [power(nights, "C4-A1", stage, 0.5, 4) for stage in range(5)]
    assert slow[N3] > 3 * slow[N2] > 3 * max(slow[W], slow[N1], slow[REM])
    assert slow[N3] > 5 * power(nights, "C4-A1", N3, 4, 30)


def test_spindles_make_a_peak_in_n2(nights):
    def peak(stage):
        centre = power(nights, "C4-A1", stage, 12.5, 14.0)
        around = power(nights, "C4-A1", stage, 10.5, 11.5)
        around += power(nights, "C4-A1", stage, 15.5, 16.5)
        return centre / 1.5 / (around / 2)

    assert peak(N2) > 1.15
    assert peak(N2) > 1.2 * peak(REM)


def test_alpha_is_occipital_and_awake(nights):
    alpha = [power(nights, "C3-O1", stage, 8, 12) for stage in range(5)]
    assert alpha[W] > 5 * max(alpha[1:])
    assert alpha[W] > 2 * power(nights, "C4-A1", W, 8, 12)


def test_muscle_tone_is_lowest_in_rem(nights):
    tone = [power(nights, "chin", stage, 12, 30) for stage in range(5)]
    assert np.argmax(tone) == W
    assert np.argmin(tone) == REM


def test_eyes_move_against_each_other_in_rem(nights):
    def movement(stage):
        rolls = [
            (in_epochs(n, "E1-A2"), in_epochs(n, "E2-A1"), n.stages == stage)
            for n in nights
        ]
        left = np.concatenate([e1[rows] for e1, _, rows in rolls])
        right = np.concatenate([e2[rows] for _, e2, rows in rolls])
        return np.corrcoef(left.ravel(), right.ravel())[0, 1]

    assert movement(REM) < -0.3
    assert movement(REM) < movement(N2) - 0.2


def test_people_differ(nights):
    def alpha_peak(night):
        awake = in_epochs(night, "C3-O1")[night.stages == W]
        frequencies, density = welch(awake, fs=SFREQ, nperseg=int(8 * SFREQ))
        band = (frequencies > 7) & (frequencies < 13)
        return frequencies[band][np.argmax(density.mean(axis=0)[band])]

    assert len({alpha_peak(night) for night in nights}) > 1


def test_midline_derivations_see_what_is_near(nights):
    night = simulate_night(300, derivations=("Fpz-Cz", "Pz-Oz"), random_state=5)
    alpha = [power([night], name, W, 8, 12) for name in ("Fpz-Cz", "Pz-Oz")]
    spindles = [power([night], name, N2, 12, 15) for name in ("Fpz-Cz", "Pz-Oz")]
    slow = [power([night], "Fpz-Cz", stage, 0.5, 4) for stage in (N2, REM)]
    assert alpha[1] > alpha[0]
    assert spindles[0] > spindles[1]
    assert slow[0] > 1.5 * slow[1]


def test_the_eog_is_the_horizontal_movement_of_the_eyes():
    night = simulate_night(
        20, derivations=("EOG", "E1-A2", "E2-A1", "A1-A2"), noise=0, random_state=2
    )
    eog, left, right, ears = night.signals
    # E1 - E2 = (E1 - A2) - (E2 - A1) - (A1 - A2), but for the noise of each amplifier.
    assert np.corrcoef(eog, left - right - ears)[0, 1] > 0.99


# Scalp and ear


def test_the_ear_is_attenuated(nights):
    for ear in ("L-R", "LE", "RE"):
        assert power(nights, ear, N3, 0.5, 4) < 0.5 * power(nights, "C4-A1", N3, 0.5, 4)
    assert power(nights, "LE", N3, 0.5, 4) < power(nights, "L-R", N3, 0.5, 4)


def test_scalp_and_ear_see_one_body(nights):
    def shared(one, other):
        scalp, ear = (in_epochs(*pair)[:100].ravel() for pair in (one, other))
        frequencies, c = coherence(scalp, ear, fs=SFREQ, nperseg=int(4 * SFREQ))
        return c[(frequencies >= 1) & (frequencies < 8)].mean()

    for k, night in enumerate(nights[:2]):
        same = shared((night, "A1-A2"), (night, "L-R"))
        other = shared((nights[k - 1], "A1-A2"), (night, "L-R"))
        assert same > 0.2
        assert same > 10 * other
