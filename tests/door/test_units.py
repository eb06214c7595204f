"""The unit of each channel by itself: its type, what its file states, its spread."""

import warnings

import mne
import numpy as np
import pytest
from torch import nn

from skleepkd import PairedEpochs, RecordingStager, SleepStager, load, save
from tests.files import write_edf
from tests.tiny import TinyNetwork, pair_of, raises, recording, windows_of

SFREQ = 10.0
NIGHT = mne.Annotations(30.0 * np.arange(8), 30.0, ["W", "N2"] * 4)


def recording_of(**channels):
    """Build a recording of channels as (type, spread)."""
    kinds, spread = zip(*channels.values(), strict=True)
    return recording(list(channels), list(kinds), spread=spread)


def pairs_of(raw, **options):
    """Read one recording by every way that there is."""
    epochs = mne.make_fixed_length_epochs(raw, 30.0, preload=True, verbose=False)
    yield pair_of(raw, NIGHT, **options)
    yield PairedEpochs.from_mne(epochs, **options)
    yield PairedEpochs.from_windows(windows_of(raw), **options)


def check(raw, factors, **options):
    for X in pairs_of(raw, **options):
        expected = raw.get_data()[:, :2400] * np.array(factors)[:, None]
        np.testing.assert_allclose(
            np.concatenate(list(X["target"]), axis=1), expected, rtol=1e-4
        )


EEG, FLAT = ("eeg", 2e-5), ("eeg", 0.0)


@pytest.mark.parametrize(
    ("channels", "factors"),
    [
        ({"C3": EEG, "SpO2": ("misc", 1.2)}, [1e6, 1]),
        ({"C3": EEG, "C4": EEG, "SpO2": ("misc", 1.2)}, [1e6, 1e6, 1]),
        ({"C3": EEG, "ACC": ("misc", 2e-3)}, [1e6, 1]),
        ({"C3": EEG, "C4": EEG, "ACC": ("misc", 2e-4)}, [1e6, 1e6, 1]),
        ({"C3": EEG, "T": ("temperature", 1e-3), "G": ("gsr", 1e-6)}, [1e6, 1, 1]),
        ({"C3": EEG, "R": ("resp", 3e-4), "B": ("bio", 0.01)}, [1e6, 1, 1]),
        ({"B": ("bio", 3e-4), "E": ("eog", 1e-4), "M": ("emg", 1e-6)}, [1e6] * 3),
        ({"H": ("ecg", 3e-4), "D": ("seeg", 1e-4), "O": ("ecog", 1e-4)}, [1e6] * 3),
        ({"uV": EEG, "UV": ("eeg", 20.0)}, [1e6, 1]),
        ({"C3": ("eeg", 20.0), "SpO2": ("misc", 1.2)}, [1, 1]),
        ({"C3": FLAT, "C4": EEG, "SpO2": ("eeg", 1.2)}, [1e6, 1e6, 1]),
    ],
)
def test_each_channel_has_its_own_unit(channels, factors):
    check(recording_of(**channels), factors)


def test_units_that_are_said_by_channel():
    raw = recording_of(C3=EEG, SpO2=("eeg", 1e-3), E1=("misc", 2e-5), odd=("eeg", 0.1))
    check(raw, [1e6, 1, 1e6, 1], unit={"SpO2": None, "E1": "V", "odd": "uV"})
    check(raw, [1e6] * 4, unit="V")
    check(raw, [1] * 4, unit="uV")
    for unit in ("mV", None, {"C3": "mV"}, {"C3": 1}):
        with raises(r"unit is 'auto', 'V' or 'uV'.*'SpO2': None"):
            next(pairs_of(raw, unit=unit))
    with raises("unit names Fpz; the channels are C3, SpO2"):
        next(pairs_of(raw, unit={"Fpz": "V"}))


@pytest.mark.parametrize(("spread", "told"), [(0.02, r"0\.02"), (2e4, r"2e\+04")])
def test_what_is_neither_volts_nor_microvolts_is_refused(spread, told):
    """Millivolts, a drift that nobody filtered, an amplifier's steps."""
    raw = recording_of(C3=EEG, C4=("eeg", spread))
    message = rf"C4 spreads over {told} .*unit=\{{'C4': 'V'\}}"
    for use in (
        lambda: list(pairs_of(raw)),
        lambda: RecordingStager(stager_of("C3", "C4")).stage(raw),
    ):
        with raises(message):
            use()


def write(path, **channels):
    """Write channels as (unit, spread in it)."""
    rng = np.random.default_rng(0)
    signals = {n: spread * rng.standard_normal(2400) for n, (_, spread) in channels.items()}
    write_edf(path, signals, 24, 10, unit={n: unit for n, (unit, _) in channels.items()})
    return mne.io.read_raw(path, verbose=False)


def test_a_voltage_of_any_type_is_in_volts_where_its_file_states_it(tmp_path):
    raw = write(tmp_path / "night.edf", C3=("uV", 20.0), B=("mV", 1.0))
    with warnings.catch_warnings(action="ignore"):
        raw.set_channel_types({"B": "bio"})
    X = pair_of(raw, NIGHT)
    np.testing.assert_allclose(X["target"].std(axis=2).mean(axis=0), [20, 1000], rtol=0.1)


def test_units_that_files_state(tmp_path):
    """MNE types all of them as EEG and takes what it does not know for volts."""
    channels = {"C3": ("uV", 20.0), "C4": ("UV", 20.0), "M": ("mV", 0.4)}
    channels |= {"SpO2": ("%", 1.5), "Flow": ("L/s", 0.4), "E": ("", 20.0)}
    raw = write(tmp_path / "night.edf", **channels)
    with warnings.catch_warnings(action="error"):
        X = pair_of(raw, NIGHT)
        stager = stager_of(*raw.ch_names, spread=[20, 20, 400, 1.5, 0.4, 20])
        assert RecordingStager(stager).stage(raw).ch_names == raw.ch_names
    spread = X["target"].std(axis=2).mean(axis=0)
    np.testing.assert_allclose(spread, [20, 20, 400, 1.5, 0.4, 20], rtol=0.1)
    # The type that a user sets leaves the unit that the file states.
    with warnings.catch_warnings(action="ignore"):
        raw.set_channel_types({"C3": "misc", "M": "resp"})
    Y = pair_of(raw, NIGHT)
    np.testing.assert_array_equal(Y["target"], X["target"])


# ---------------------------------------------------------------- staging


def stager_of(*names, spread=20.0):
    values = np.random.default_rng(1).standard_normal((8, len(names), 300))
    values *= np.broadcast_to(spread, len(names))[:, None]
    X = PairedEpochs(values.astype(np.float32), sfreq=SFREQ, ch_names=list(names))
    return SleepStager(TinyNetwork, max_epochs=1, random_state=0).fit(X, [0, 1] * 4)


@pytest.mark.parametrize(
    ("channels", "unit"),
    [
        ({"C3": EEG, "SpO2": ("misc", 1.2)}, "auto"),
        ({"C3": ("eeg", 20.0), "SpO2": ("misc", 1.2)}, "auto"),
        ({"C3": ("eeg", 20.0), "SpO2": ("eeg", 1.2)}, "auto"),
        ({"C3": EEG, "SpO2": ("eeg", 1e-3)}, {"SpO2": None}),
        ({"C3": EEG, "SpO2": ("misc", 2e-5)}, {"SpO2": "V"}),
    ],
)
def test_what_pairs_are_cut_of_is_staged(channels, unit):
    raw = recording_of(**channels)
    X = next(pairs_of(raw, unit=unit))
    stager = stager_of(*channels, spread=X["target"].std(axis=2).mean(axis=0))
    with warnings.catch_warnings(action="error"):
        night = RecordingStager(stager, unit=unit).stage(raw)
    np.testing.assert_array_equal(night.probabilities, stager.predict_proba(X))


def test_channels_in_no_voltage_may_stand_still():
    raw = recording_of(C3=EEG, SpO2=("misc", 0.0))
    with pytest.warns(UserWarning, match="SpO2: it is flat in all of 8"):
        RecordingStager(stager_of("C3", "SpO2")).stage(raw)


@pytest.mark.parametrize(("factor", "told"), [(4, 0), (6, 1), (0.25, 0), (0.15, 1)])
def test_a_channel_that_spreads_otherwise_than_in_training(factor, told, tmp_path):
    stager = stager_of("C3", "C4", spread=[20.0, 50.0])
    assert np.allclose(stager.spread_, [20, 50], rtol=0.1)
    save(stager, tmp_path / "stager.safetensors")
    loaded = load(tmp_path / "stager.safetensors", module=TinyNetwork)
    assert loaded.spread_ == stager.spread_
    raw = recording_of(C3=EEG, C4=("eeg", 5e-5 * factor))
    X = pair_of(raw, NIGHT)
    uses = (lambda: stager.predict(X), lambda: RecordingStager(loaded).stage(raw))
    for use in uses:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            use()
        assert len(seen) == told
        assert all("Channel C4 spreads over" in str(one.message) for one in seen)


def test_what_a_stager_remembers_of_spectrograms_and_flat_channels():
    assert stager_of("C3", "C4", spread=[20.0, 0.0]).spread_[1] is None
    rng = np.random.default_rng(0)

    class Flat(nn.Sequential):
        def __init__(self, n_chans, n_times, n_bins, n_outputs):
            super().__init__(nn.Flatten(), nn.Linear(n_chans * n_times * n_bins, n_outputs))

    X = rng.standard_normal((8, 1, 4, 5)).astype(np.float32)
    assert SleepStager(Flat, max_epochs=1).fit(X, [0, 1] * 4).spread_ is None
