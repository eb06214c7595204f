import mne
import numpy as np
import pytest
from scipy.signal import welch

from skleepkd.preprocessing import (
    EAR_ELECTRODES,
    PAPER_REJECTIONS,
    ear,
    reject_ear_electrodes,
)
from skleepkd.preprocessing.ear import derivation_power

SFREQ = 100.0


def recording(data, names=EAR_ELECTRODES, sfreq=SFREQ):
    info = mne.create_info(list(names)[: len(data)], sfreq, "eeg")
    return mne.io.RawArray(data, info, verbose=False)


def ear_night(noisy=(), seed=0, gain=4.0, seconds=60):
    """Brain common to all electrodes, and noise of each that differs by some 20 %."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SFREQ)
    common = 20e-6 * np.cumsum(rng.normal(size=n)) / 10
    noise = 2e-6 * np.exp(rng.normal(0, 0.1, size=(12, 1))) * rng.normal(size=(12, n))
    noise[[EAR_ELECTRODES.index(name) for name in noisy]] *= gain
    return recording(common + noise)


def test_paper_rejections_are_table_1():
    assert [len(names) for names in PAPER_REJECTIONS.values()] == [
        2,
        2,
        1,
        2,
        5,
        0,
        0,
        1,
        2,
    ]
    rejected = [name for names in PAPER_REJECTIONS.values() for name in names]
    assert set(rejected) <= set(EAR_ELECTRODES)
    assert len(set(EAR_ELECTRODES)) == 12
    assert sorted(PAPER_REJECTIONS) == [f"sub-00{k}" for k in range(1, 10)]


def test_power_equals_welch_of_each_difference():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 4))
    data = 1e-5 * mixing @ rng.normal(size=(4, 3777)) + rng.normal(size=(4, 1))
    power = derivation_power(recording(data), EAR_ELECTRODES[:4])
    for i in range(4):
        for j in range(4):
            frequencies, density = welch(data[i] - data[j], SFREQ, nperseg=400)
            band = (frequencies >= 10) & (frequencies <= 35)
            np.testing.assert_allclose(power[i, j], density[band].mean(), rtol=1e-9)


def test_power_of_white_noise_is_its_variance_over_half_the_sampling_rate():
    rng = np.random.default_rng(0)
    sd = np.array([1e-6, 2e-6, 3e-6])
    data = sd[:, None] * rng.normal(size=(3, int(600 * SFREQ)))
    power = derivation_power(recording(data), EAR_ELECTRODES[:3])
    expected = (sd[:, None] ** 2 + sd**2) * 2 / SFREQ
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(power[off], expected[off], rtol=0.03)
    np.testing.assert_array_equal(np.diag(power), 0)


def test_power_does_not_depend_on_blocks_and_leaves_a_file_unloaded(tmp_path, monkeypatch):
    ear_night().save(tmp_path / "night_raw.fif", fmt="double", verbose=False)
    raw = mne.io.read_raw_fif(tmp_path / "night_raw.fif", verbose=False)
    whole = derivation_power(raw, EAR_ELECTRODES)
    monkeypatch.setattr(ear, "_SEGMENTS_PER_BLOCK", 7)
    longest = []
    read = raw.get_data

    def get_data(picks, start, stop):
        longest.append(stop - start)
        return read(picks, start, stop)

    monkeypatch.setattr(raw, "get_data", get_data)
    np.testing.assert_allclose(derivation_power(raw, EAR_ELECTRODES), whole, rtol=1e-9)
    assert max(longest) == (6 * 2 + 4) * SFREQ  # seven segments of 4 s, 2 s apart
    assert not raw.preload


@pytest.mark.parametrize("recorded", PAPER_REJECTIONS)
def test_rejects_what_is_noisy_whatever_the_pattern(recorded):
    noisy = PAPER_REJECTIONS[recorded]
    for seed in range(3):
        raw = ear_night(noisy, seed=seed)
        assert reject_ear_electrodes(raw) is raw
        assert set(raw.info["bads"]) == set(noisy)


def test_rule_as_it_is_stated():
    # Written out with Welch of each difference; 0.6745 is the normal quartile.
    rng = np.random.default_rng(3)
    sd = 1e-6 * np.exp(rng.normal(0, 0.35, size=12))
    data = sd[:, None] * rng.normal(size=(12, int(60 * SFREQ)))
    noise = []
    for i in range(12):
        powers = []
        for j in set(range(12)) - {i}:
            frequencies, density = welch(data[i] - data[j], SFREQ, nperseg=400)
            powers.append(density[(frequencies >= 10) & (frequencies <= 35)].mean())
        noise.append(np.median(powers))
    logs = np.log(noise)
    mad = np.median(np.abs(logs - np.median(logs))) / 0.6744897501960817
    for threshold, ratio in [(3.0, 2.0), (1.0, 1.0), (0.5, 1.3)]:
        outlier = (logs > np.median(logs) + threshold * mad) & (
            noise > ratio * np.exp(np.median(logs))
        )
        raw = reject_ear_electrodes(recording(data), threshold=threshold, min_ratio=ratio)
        assert raw.info["bads"] == [EAR_ELECTRODES[i] for i in np.flatnonzero(outlier)]
    assert 0 < outlier.sum() < 12


def test_only_noise_in_the_band_counts():
    raw = ear_night()
    times = raw.times
    raw._data[2] += 500e-6 * np.sin(2 * np.pi * 1.0 * times)
    raw._data[3] += 500e-6 * np.sin(2 * np.pi * 45.0 * times)
    assert reject_ear_electrodes(raw).info["bads"] == []
    raw._data[4] += 20e-6 * np.sin(2 * np.pi * 20.0 * times)
    assert reject_ear_electrodes(raw).info["bads"] == [EAR_ELECTRODES[4]]


def test_a_little_more_noise_than_very_equal_electrodes_is_no_outlier():
    rng = np.random.default_rng(0)
    data = 1e-6 * rng.normal(size=(12, int(300 * SFREQ)))
    data[5] *= 1.3  # far beyond three MAD
    assert reject_ear_electrodes(recording(data.copy())).info["bads"] == []
    raw = reject_ear_electrodes(recording(data), min_ratio=1.0)
    assert EAR_ELECTRODES[5] in raw.info["bads"]


def test_electrodes_without_a_signal_are_marked_and_do_not_disturb_the_others():
    raw = ear_night(noisy=["ERB"])
    raw._data[EAR_ELECTRODES.index("ELE"), 700] = np.nan
    raw._data[EAR_ELECTRODES.index("ELG")] = 1e-3
    raw._data[EAR_ELECTRODES.index("ERK"), 5] = np.inf
    assert set(reject_ear_electrodes(raw).info["bads"]) == {"ELE", "ELG", "ERK", "ERB"}
    silent = recording(np.zeros((12, 4000)))
    assert set(reject_ear_electrodes(silent).info["bads"]) == set(EAR_ELECTRODES)


def test_bad_electrodes_stay_bad_and_other_channels_are_left_alone():
    raw = ear_night(noisy=["ELK"])
    scalp = recording(1e-3 * np.random.default_rng(0).normal(size=(1, raw.n_times)), ["C3"])
    raw.add_channels([scalp], force_update_info=True)
    raw.info["bads"] = ["ELA"]
    assert reject_ear_electrodes(raw).info["bads"] == ["ELA", "ELK"]


def test_own_electrode_names():
    rng = np.random.default_rng(0)
    data = 1e-6 * rng.normal(size=(5, 3000)) * np.array([1, 1, 1, 9, 1])[:, None]
    raw = recording(data, ["a", "b", "c", "d", "e"])
    assert reject_ear_electrodes(raw, ["a", "b", "c", "d"]).info["bads"] == ["d"]


def test_errors_say_what_is_wrong():
    raw = ear_night()
    with pytest.raises(ValueError, match="at least three ear electrodes"):
        reject_ear_electrodes(raw, ["ELA", "ELB"])
    with pytest.raises(ValueError, match="ELX.*could not be picked"):
        reject_ear_electrodes(raw, ["ELA", "ELB", "ELX"])
    with pytest.raises(ValueError, match="given 3 s"):
        reject_ear_electrodes(raw.crop(0, 2.99))
    with pytest.raises(ValueError, match=r"more than 70 Hz.* at 64 Hz"):
        reject_ear_electrodes(recording(np.ones((12, 1000)), sfreq=64.0))
