import mne
import numpy as np
import pytest

from skleepkd.preprocessing import band_pass

SFREQ = 200.0


def tones(*frequencies):
    times = np.arange(int(60 * SFREQ)) / SFREQ
    data = np.array([1e-5 * np.sin(2 * np.pi * f * times) + 1e-3 for f in frequencies])
    names = [f"{f:g} Hz" for f in frequencies]
    return mne.io.RawArray(data, mne.create_info(names, SFREQ, "eeg"), verbose=False)


def test_default_band_keeps_the_sleep_bands_and_removes_offset_drift_and_mains():
    raw = tones(0.03, 1.0, 10.0, 40.0, 60.0)
    before = raw.get_data()
    after = band_pass(raw).get_data()
    middle = slice(int(15 * SFREQ), int(45 * SFREQ))
    tone = before[:, middle] - 1e-3  # zero phase: what passes comes out as it went in
    np.testing.assert_allclose(after[1:4, middle], tone[1:4], atol=2e-7)
    assert np.abs(after[4, middle]).max() < 1e-7
    assert np.abs(after[0, middle] - after[0, middle].mean()).max() < 5e-6
    assert abs(after[1:, middle].mean()) < 1e-7


def test_changes_the_recording_in_place_and_notes_the_band():
    raw = tones(1.0, 10.0)
    assert band_pass(raw, l_freq=0.5, h_freq=30.0) is raw
    assert (raw.info["highpass"], raw.info["lowpass"]) == (0.5, 30.0)


def test_loads_a_file_and_hands_arguments_on(tmp_path):
    tones(1.0, 10.0).save(tmp_path / "night_raw.fif", verbose=False)
    raw = mne.io.read_raw_fif(tmp_path / "night_raw.fif", verbose=False)
    untouched = raw.get_data("1 Hz")
    band_pass(raw, picks=["10 Hz"], method="iir")
    np.testing.assert_array_equal(raw.get_data("1 Hz"), untouched)
    assert abs(raw.get_data("10 Hz").mean()) < 1e-5


def test_band_above_half_the_sampling_rate_is_an_error():
    with pytest.raises(ValueError, match="Nyquist"):
        band_pass(tones(1.0), h_freq=100.0)
