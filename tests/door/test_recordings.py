"""Recordings as MNE's users hand them in: joined, paused, with other channels, late."""

import datetime
import re
import warnings

import mne
import numpy as np
import pytest

from skleepkd import PairedEpochs, RecordingStager, SleepStager
from skleepkd.datasets import load_mass
from skleepkd.datasets.mass import read_mass_night
from skleepkd.edf import open_edf
from tests.files import write_edf
from tests.tiny import TinyNetwork, pair_of, raises, recording, windows_of

SFREQ = 10.0
NIGHT = mne.Annotations(30.0 * np.arange(8), 30.0, ["W", "N1", "N2", "N3"] * 2)


def stager_of(*names, n_chans=1):
    values = 20 * np.random.default_rng(1).standard_normal((8, len(names) or n_chans, 300))
    X = PairedEpochs(values, sfreq=SFREQ, ch_names=list(names) or None)
    return SleepStager(TinyNetwork, max_epochs=1, random_state=0).fit(X, [0, 2] * 4)


def joined(*raws):
    return mne.concatenate_raws([raw.copy() for raw in raws], verbose=False)


def refused(raw, match):
    """Refuse a recording on every path, and return what was said."""
    with raises(match) as error:
        RecordingStager(stager_of("C3")).stage(raw)
    whole = recording(seconds=400)
    for target, source in ((raw, whole), (whole, raw)):
        with raises(match):
            PairedEpochs.from_raws(target_raw=target, source_raw=source, annotations=NIGHT)
    return str(error.value)


def test_joined_recordings_are_refused_and_their_parts_taken():
    raw = joined(recording(), recording(seed=1))
    message = refused(raw, "joined, or paused, after 240 s")
    parts = re.findall(r"raw\.copy\(\)\.crop\([^)]*\)", message)
    whole = re.search(r"mne\.io\.RawArray\([^:]*\)", message)[0]
    stager = RecordingStager(stager_of("C3"))
    for line, expected in [(parts[0], 8), (parts[1], 8), (whole, 16)]:
        part = eval(line, {"mne": mne, "raw": raw})
        assert len(stager.stage(part)) == expected
    # A scoring that is set later takes MNE's own notes away.
    raw.set_annotations(NIGHT)
    refused(raw, "joined, or paused, after 240 s")
    refused(raw.resample(5.0), "joined, or paused, after 240 s")
    refused(joined(recording().crop(10), recording()), "joined, or paused, after 230 s")


def test_joined_recordings_that_went_through_a_file(tmp_path):
    joined(recording(), recording(seed=1)).save(tmp_path / "night_raw.fif", verbose=False)
    refused(mne.io.read_raw(tmp_path / "night_raw.fif", verbose=False), "after 240 s")
    edf = [write(tmp_path / f"{k}.edf") for k in range(2)]
    refused(joined(*(mne.io.read_raw(path, verbose=False) for path in edf)), "after 120 s")


def test_pieces_that_follow_each_other_are_one_recording():
    raw = recording()
    whole = RecordingStager(stager_of("C3")).stage(raw)
    pieces = joined(raw.copy().crop(tmax=100, include_tmax=False), raw.copy().crop(100))
    pieces.set_annotations(None)
    again = RecordingStager(stager_of("C3")).stage(pieces)
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)


@pytest.mark.parametrize("text", ["New Segment/", "boundary", "BAD boundary"])
def test_notes_of_other_programs(text):
    raw = recording().set_annotations(mne.Annotations([0, 50], 0.1, text))
    refused(raw, "after 50 s")
    assert len(RecordingStager(stager_of("C3")).stage(raw.copy().crop(50))) == 6


# ---------------------------------------------------------------- channels


def epochs_of(raw):
    return mne.make_fixed_length_epochs(raw, 30.0, preload=True, verbose=False)


def test_bad_channels_are_named_on_every_path():
    raw = recording(["C3", "C4"])
    raw.info["bads"] = ["C4"]
    epochs = epochs_of(raw)
    raws = {"target_raw": raw, "source_raw": raw, "annotations": NIGHT}
    for use in (
        lambda: SleepStager(TinyNetwork, max_epochs=1).fit(epochs, [0, 2] * 4),
        lambda: PairedEpochs.from_mne(epochs, target=["C4"]),
        lambda: PairedEpochs.from_mne(epochs, target=["C3"], source=["C4"]),
        lambda: PairedEpochs.from_raws(**raws),
        lambda: PairedEpochs.from_raws(**raws, target=["C3"], source="C4"),
        lambda: RecordingStager(stager_of("C4")).stage(raw),
    ):
        with pytest.warns(UserWarning, match="channels C4 are marked as bad, and"):
            use()
    with warnings.catch_warnings(action="error"):
        PairedEpochs.from_raws(**raws, target=["C3"], source=["C3"])
    with pytest.warns(UserWarning, match="marked as bad") as seen:
        PairedEpochs.from_raws(**raws, target=["C3"])
    with pytest.warns(UserWarning, match="marked as bad") as again:
        PairedEpochs.from_mne(epochs, target=["C4"])
    assert {one.filename for one in (*seen, *again)} == {__file__}


OTHERS = {
    "TRIG": "stim",
    **dict.fromkeys(["hypnogram", "Sleep stage", "STATUS", "Event marker"], "eeg"),
    **dict.fromkeys(["EDF Annotations", "Markers", "trigger", "events"], "misc"),
}


def test_stages_and_triggers_are_no_signals():
    """By type and by name; who names them gets them."""
    names, kinds = ["C3", *OTHERS, "EOG"], ["eeg", *OTHERS.values(), "eog"]
    raw = recording(names, kinds)
    epochs = epochs_of(raw)
    raws = {"target_raw": raw, "source_raw": raw, "annotations": NIGHT}
    listed = "channels " + ", ".join(OTHERS) + " are left out"
    with pytest.warns(UserWarning, match=listed):
        stager = SleepStager(TinyNetwork, max_epochs=1, random_state=0).fit(
            epochs, [0, 2] * 4
        )
    assert stager.ch_names_ == ["C3", "EOG"]
    with pytest.warns(UserWarning, match=listed):
        assert PairedEpochs.from_raws(**raws).ch_names["source"] == ["C3", "EOG"]
    with pytest.warns(UserWarning, match=listed):
        night = RecordingStager(stager_of(n_chans=2)).stage(raw)
    assert night.ch_names == ["C3", "EOG"]
    with warnings.catch_warnings(action="error"):
        X = PairedEpochs.from_raws(**raws, target=["hypnogram"], source=["C3", "TRIG"])
        RecordingStager(stager).stage(raw)
    assert X.ch_names == {"target": ["hypnogram"], "source": ["C3", "TRIG"]}
    np.testing.assert_allclose(X["target"][0, 0], 1e6 * raw.get_data()[2, :300], rtol=1e-5)


def test_channels_that_are_called_as_types_are():
    """To MNE "ecg" is all channels of that type."""
    names, kinds = ["ecg", "eeg", "C3", "eog"], ["eeg", "ecg", "eeg", "misc"]
    raw = recording(names, kinds)
    microvolts = 1e6 * raw.get_data()
    X = pair_of(raw, NIGHT, target=["ecg"], source=["eeg", "ecg"])
    np.testing.assert_allclose(X["target"][1, 0], microvolts[0, 300:600], rtol=1e-5)
    np.testing.assert_allclose(X["source"][1], microvolts[[1, 0], 300:600], rtol=1e-5)
    Y = PairedEpochs.from_mne(epochs_of(raw), target=["ecg"], source=["eeg", "ecg"])
    for modality in ("target", "source"):
        np.testing.assert_allclose(Y[modality], X[modality], rtol=1e-5)
    same = recording(["eeg", "C3"], "eeg")
    from braindecode.preprocessing import Preprocessor

    band = {"l_freq": 1, "h_freq": 4, "verbose": False}
    steps = [Preprocessor("filter", apply_on_array=False, **band)]
    night = RecordingStager(stager_of("eeg"), steps).stage(same)
    alone = RecordingStager(stager_of("eeg"), steps).stage(same.copy().drop_channels("C3"))
    np.testing.assert_allclose(night.probabilities, alone.probabilities, rtol=1e-5)


def test_a_file_whose_channel_is_called_as_a_type_is(tmp_path):
    path = write(tmp_path / "night.edf", names=("ecg", "C3", "eeg"))
    for labels in (["ecg"], ["eeg", "ecg"]):
        assert open_edf(path, labels).ch_names == labels


# ---------------------------------------------------------------- times


def write(path, n_records=12, names=("C3",), late=0.0, start="22.00.00"):
    """Write noise in records of 10 s, the first of which begins ``late`` seconds."""
    noise = np.random.default_rng(0).normal(0, 20, (len(names), 100 * n_records))
    starts, clock = late + 10 * np.arange(n_records), ("01.01.20", start)
    signals = dict(zip(names, noise, strict=True))
    write_edf(path, signals, n_records, 10, starts=starts, reserved="EDF+C", clock=clock)
    return path


def test_a_first_record_that_begins_later_than_the_header_says(tmp_path):
    stager = RecordingStager(stager_of("C3"))
    late = write(tmp_path / "late.edf", late=5.0)
    with pytest.warns(
        UserWarning, match=r"late.edf: its first record begins 5 s after"
    ) as seen:
        night = stager.stage(late)
    assert seen[0].filename == __file__
    assert f"{night.meas_date:%H:%M:%S}" == "22:00:05"
    # By its true date the target begins 5 s after the source.
    psg = mne.io.read_raw(write(tmp_path / "psg.edf"), verbose=False)
    ear = mne.io.read_raw(late, verbose=False)
    raws = {"target_raw": ear, "source_raw": psg, "annotations": NIGHT[:4]}
    with pytest.warns(UserWarning, match="5 s after the time in its header") as seen:
        PairedEpochs.from_raws(**raws, offset=5.0)
    assert [one.filename for one in seen] == [__file__]
    with pytest.warns(UserWarning, match="began \\+5 s after the source; given offset=0"):
        PairedEpochs.from_raws(**raws)
    cure = re.search(r"raw\.set_meas_.*\)", str(seen[0].message))[0]
    eval(cure, {"raw": ear, "datetime": datetime})
    with warnings.catch_warnings(action="error"):
        PairedEpochs.from_raws(**raws, offset=5.0)
        assert stager.stage(ear).meas_date == night.meas_date
    # A fraction of a second is as EDF+ has it.
    part = write(tmp_path / "part.edf", late=0.25)
    with warnings.catch_warnings(action="error"):
        assert stager.stage(part).meas_date.microsecond == 250_000


def write_mass(root, psg=0.0, base=0.0, start="22.00.00"):
    folder = root / "SS1_EDF"
    write(folder / "01-01-0001 PSG.edf", names=("ECG ECGI", "EEG C3-LER"), late=psg)
    notes, clock = (
        [(30 * k, 30, f"Sleep stage {k}") for k in (1, 2, 3)],
        ("01.01.20", start),
    )
    path = folder / "01-01-0001 Base.edf"
    write_edf(path, {}, 1, 0, notes=notes, starts=[base], reserved="EDF+C", clock=clock)


@pytest.mark.parametrize(
    ("psg", "base", "start", "message"),
    [
        (0, 0, "22.00.30", r"PSG\.edf begins at 01\.01\.20 22\.00\.00, .* 22\.00\.30: do"),
        (5, 0, "22.00.00", r"begins at 01\.01\.20 22\.00\.00 \+ 5 s, 01-01-0001 Base"),
    ],
)
def test_two_files_of_mass_that_begin_at_different_times(
    tmp_path, psg, base, start, message
):
    write_mass(tmp_path, psg, base, start)
    with raises(message):
        load_mass(tmp_path, subsets=[1])
    write_mass(tmp_path, psg, psg, "22.00.00")
    folder = tmp_path / "SS1_EDF"
    night = read_mass_night(folder / "01-01-0001 PSG.edf", folder / "01-01-0001 Base.edf")
    assert (night.y.tolist(), night.onset.tolist()) == (
        [1, 2, 3],
        [30 - psg, 60 - psg, 90 - psg],
    )


def test_windows_of_a_joined_recording():
    raw = joined(recording(seconds=100), recording(seconds=140))
    with raises("joined, or paused, after 100 s"):
        PairedEpochs.from_windows(windows_of(raw), target=["C3"])
