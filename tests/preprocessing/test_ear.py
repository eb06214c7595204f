"""Electrodes of the ear: which are noisy, and what is derived of the others."""

import datetime
import warnings

import mne
import numpy as np
import pytest
from scipy.signal import welch

from skleepkd import PairedEpochs
from skleepkd.preprocessing import (
    EAR_ELECTRODES,
    PAPER_REJECTIONS,
    SCALP_DERIVATIONS,
    derive,
    ear,
    ear_derivations,
    reject_ear_electrodes,
    scalp_derivations,
)
from skleepkd.preprocessing.ear import derivation_power
from tests.tiny import raw_of

SFREQ = 100.0


def recording(data, names=EAR_ELECTRODES, sfreq=SFREQ):
    return raw_of(data, names[: len(data)], sfreq)


def ear_night(noisy=(), seed=0, gain=4.0, seconds=60):
    """Brain common to all electrodes, and noise of each that differs by some 20 %."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SFREQ)
    common = 20e-6 * np.cumsum(rng.normal(size=n)) / 10
    noise = 2e-6 * np.exp(rng.normal(0, 0.1, size=(12, 1))) * rng.normal(size=(12, n))
    noise[[EAR_ELECTRODES.index(name) for name in noisy]] *= gain
    return recording(common + noise)


def test_paper_rejections_are_table_1():
    counts = [len(names) for names in PAPER_REJECTIONS.values()]
    assert counts == [2, 2, 1, 2, 5, 0, 0, 1, 2]
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


def test_recordings_that_cannot_be_judged():
    raw = ear_night()
    with pytest.raises(ValueError, match="at least three ear electrodes"):
        reject_ear_electrodes(raw, ["ELA", "ELB"])
    with pytest.raises(ValueError, match="ELX.*could not be picked"):
        reject_ear_electrodes(raw, ["ELA", "ELB", "ELX"])
    with pytest.raises(ValueError, match="given 3 s"):
        reject_ear_electrodes(raw.crop(0, 2.99))
    with pytest.raises(ValueError, match=r"more than 70 Hz.* at 64 Hz"):
        reject_ear_electrodes(recording(np.ones((12, 1000)), sfreq=64.0))


# ---------------------------------------------------------------- derivations

SCALP = ("C3", "O1", "A1", "C4", "O2", "A2")
EAR = ["LR", "LE", "RE"]


def night(names=SCALP + EAR_ELECTRODES, seconds=40, seed=0):
    shape = len(names), int(seconds * SFREQ)
    return recording(1e-5 * np.random.default_rng(seed).normal(size=shape), names)


def expected_ear(raw, rejected=()):
    """Written out as the paper writes its equations; zero where a mean has no electrode."""
    signal = dict(zip(raw.ch_names, raw.get_data(), strict=True))

    def difference(*sides):
        kept = [[signal[n] for n in side.split() if n not in rejected] for side in sides]
        return np.mean(kept[0], axis=0) - np.mean(kept[1], axis=0) if all(kept) else zero

    zero = np.zeros(raw.n_times)
    return [
        difference("ELA ELB ELE ELI ELG ELK", "ERA ERB ERE ERI ERG ERK"),
        difference("ELA ELB", "ELE ELI ELG ELK"),
        difference("ERA ERB", "ERE ERI ERG ERK"),
    ]


LEFT = [name for name in EAR_ELECTRODES if name.startswith("EL")]


@pytest.mark.parametrize(
    ("rejected", "zero"),
    [
        # Of subject 5 ERI alone is left at the right ear.
        *((names, ["RE"] * (who == "sub-006")) for who, names in PAPER_REJECTIONS.items()),
        (["ELA", "ELB"], ["LE"]),
        (["ELE", "ELI", "ELG", "ELK"], ["LE"]),
        (LEFT, ["LR", "LE"]),
        (EAR_ELECTRODES, ["LR", "LE", "RE"]),
    ],
)
def test_ear_derivations_are_the_equations_over_kept_electrodes(rejected, zero):
    raw = night()
    raw.info["bads"] = list(rejected)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        derived = ear_derivations(raw)
    assert derived.ch_names == EAR
    assert derived.info["bads"] == zero
    expected = expected_ear(raw, rejected)
    np.testing.assert_allclose(derived.get_data(), expected, atol=1e-18)
    for name, signal in zip(EAR, derived.get_data(), strict=True):
        assert (signal == 0).all() == (name in zero)
    assert len(told) == bool(zero)
    assert all(f"{', '.join(zero)}: no electrode is" in str(one.message) for one in told)


def test_electrodes_that_were_never_connected_have_no_part():
    raw = night(EAR_ELECTRODES + ("ELB1", "ERB1"))
    np.testing.assert_allclose(ear_derivations(raw).get_data(), expected_ear(raw))
    few = ear_derivations(night(["ELA", "ELE", "ERA", "ERE"]))
    assert few.info["bads"] == []
    with pytest.raises(ValueError, match=r"No ear electrode .* \['ELB1'\]"):
        ear_derivations(night(["ELB1"]))


def test_scalp_derivations_in_the_pairing_order():
    raw = night()
    derived = scalp_derivations(raw)
    signal = dict(zip(raw.ch_names, raw.get_data(), strict=True))
    assert derived.ch_names == ["A1-A2", "C3-O1", "C4-O2"]
    for name, values in zip(derived.ch_names, derived.get_data(), strict=True):
        anode, cathode = name.split("-")
        np.testing.assert_array_equal(values, signal[anode] - signal[cathode])
    raw.info["bads"] = ["O1"]
    assert scalp_derivations(raw).info["bads"] == ["C3-O1"]


def test_derivations_can_join_the_channels():
    raw = night()
    alone = [scalp_derivations(raw).get_data(), ear_derivations(raw).get_data()]
    n_channels = len(raw.ch_names)
    assert scalp_derivations(raw, keep_channels=True) is raw
    assert ear_derivations(raw, keep_channels=True) is raw
    assert len(raw.ch_names) == n_channels + 6
    np.testing.assert_array_equal(raw.get_data()[n_channels:], np.concatenate(alone))
    with pytest.raises(ValueError, match="more than one input .*'LE'"):
        ear_derivations(raw, keep_channels=True)


def test_weighted_sums_of_any_channels():
    raw = night(["F3", "F4", "M1", "M2"])
    linked = {"F3-M1M2": {"F3": 1, "M1": -0.5, "M2": -0.5}, "F3-F4": {"F3": 1, "F4": -1}}
    f3, f4, m1, m2 = raw.get_data()
    expected = [f3 - (m1 + m2) / 2, f3 - f4]
    np.testing.assert_allclose(derive(raw, linked).get_data(), expected, atol=1e-18)


@pytest.mark.parametrize("dated", [False, True])
def test_clock_and_annotations_stay(dated):
    raw = night()
    if dated:
        raw.set_meas_date(datetime.datetime(2017, 5, 1, 22, tzinfo=datetime.UTC))
    texts = ["Sleep stage 2", "arousal", "loose"]
    about = [[], [], ["C3"]]  # the last is about an electrode, which will be gone
    raw.set_annotations(mne.Annotations([12.5, 20, 25], [10, 5, 1], texts, ch_names=about))
    raw.crop(10, 30)
    derived = scalp_derivations(raw)
    assert derived.first_samp == raw.first_samp
    assert derived.info["meas_date"] == raw.info["meas_date"]
    np.testing.assert_allclose(derived.annotations.onset, raw.annotations.onset[:2])
    np.testing.assert_allclose(derived.annotations.duration, [10, 5])
    events, ids = mne.events_from_annotations(derived, verbose=False)
    assert {name: events[events[:, 2] == code, 0][0] for name, code in ids.items()} == {
        "Sleep stage 2": 1250,
        "arousal": 2000,
    }


def test_a_file_is_read_in_blocks(tmp_path, monkeypatch):
    night().save(tmp_path / "night_raw.fif", fmt="double", verbose=False)
    raw = mne.io.read_raw_fif(tmp_path / "night_raw.fif", verbose=False)
    monkeypatch.setattr(ear, "_BLOCK_SECONDS", 7)
    np.testing.assert_array_equal(
        ear_derivations(raw).get_data(), ear_derivations(night()).get_data()
    )
    assert not raw.preload


def test_derivations_of_absent_electrodes_and_of_odd_names():
    raw = night()
    with pytest.raises(ValueError, match="M1.*could not be picked"):
        scalp_derivations(raw, ["C3-M1"])
    for pair in ("C3", "C3-", "-O1", "C3-C3"):
        with pytest.raises(ValueError, match="anode-cathode"):
            scalp_derivations(raw, [pair])


@pytest.mark.parametrize("in_files", [False, True])
def test_steps_of_braindecode(tmp_path, in_files):
    from braindecode.datasets import BaseConcatDataset, RawDataset
    from braindecode.preprocessing import (
        Preprocessor,
        create_fixed_length_windows,
        preprocess,
    )

    raws = [night(seconds=61, seed=seed) for seed in range(2)]
    noisy = ["ELG", "ERB"]
    for raw, electrode in zip(raws, noisy, strict=True):
        raw._data[raw.ch_names.index(electrode)] *= 5
    expected = []
    for raw, electrode in zip(raws, noisy, strict=True):
        filtered = raw.copy().filter(0.5, 40.0, verbose=False)
        anodes = filtered.get_data(["A1", "C3", "C4"])
        cathodes = filtered.get_data(["A2", "O1", "O2"])
        expected.append((anodes - cathodes, expected_ear(filtered, [electrode])))

    dataset = BaseConcatDataset(
        [RawDataset(raw, {"subject": f"s{k}"}) for k, raw in enumerate(raws)]
    )
    steps = [
        Preprocessor("filter", apply_on_array=False, l_freq=0.5, h_freq=40.0),
        Preprocessor(reject_ear_electrodes, apply_on_array=False, threshold=4.0),
        Preprocessor(ear_derivations, apply_on_array=False, keep_channels=True),
        Preprocessor(scalp_derivations, apply_on_array=False, keep_channels=True),
        Preprocessor("pick", apply_on_array=False, picks=EAR + list(SCALP_DERIVATIONS)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        preprocess(dataset, steps, save_dir=str(tmp_path) if in_files else None)
    # Without keep_channels the derivations take the place of the electrodes.
    alone = BaseConcatDataset([RawDataset(night(), {"subject": "s0"})])
    preprocess(alone, [Preprocessor(ear_derivations, apply_on_array=False)])
    assert alone.datasets[0].raw.ch_names == EAR
    windows = create_fixed_length_windows(
        dataset, window_size_samples=3000, window_stride_samples=3000, drop_last_window=True
    )
    X = PairedEpochs.from_windows(windows, source=SCALP_DERIVATIONS, target=EAR, unit="V")
    assert X.subject.tolist() == ["s0", "s0", "s1", "s1"]
    for row in range(4):
        scalp, ear = expected[row // 2]
        part = slice(3000 * (row % 2), 3000 * (row % 2) + 3000)
        np.testing.assert_allclose(X["source"][row], 1e6 * scalp[:, part], atol=1e-4)
        np.testing.assert_allclose(
            X["target"][row], 1e6 * np.array(ear)[:, part], atol=1e-4
        )
