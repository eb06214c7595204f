"""Pairs out of MNE's and braindecode's objects."""

import os
import warnings
from datetime import UTC, datetime, timedelta

import mne
import numpy as np
import pandas as pd
import pytest
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import create_windows_from_events

from skleepkd import PairedEpochs
from skleepkd.stages import stages_at
from tests.files import write_edf
from tests.tiny import annotated, pair_of, raises, raw_of, windows_of


def signal(*shape, seed=0):
    """Make noise of 20 microvolts, in volts."""
    return 20e-6 * np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------- mne.Epochs


NAMES = ["C3", "L", "C4", "R"]


def mne_epochs(values=None, **options):
    values = signal(5, 4, 60) if values is None else values
    info = mne.create_info(NAMES[: values.shape[1]], 2.0, "eeg")
    return mne.EpochsArray(values, info, verbose=False, **options)


def test_from_mne():
    values = signal(300, 4, 60)
    events = np.column_stack([60 * np.arange(300) + 7, np.zeros((300, 2))]).astype(int)
    table = pd.DataFrame({"subject": ["a"] * 100 + ["b"] * 200, "recording": range(300)})
    epochs = mne_epochs(values, events=events, metadata=table)
    X = PairedEpochs.from_mne(epochs, source=["C4", "C3"], target=["R", "L"])
    assert (X.dtype, X["source"].dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(X["source"], 1e6 * values[:, [2, 0]], rtol=1e-5)
    np.testing.assert_allclose(X["target"], 1e6 * values[:, [3, 1]], rtol=1e-5)
    assert X.ch_names == {"target": ["R", "L"], "source": ["C4", "C3"]}
    assert X.sfreq == {"target": 2.0, "source": 2.0}
    np.testing.assert_allclose(X.onset, 3.5 + 30 * np.arange(300))
    assert X.subject.tolist() == table["subject"].tolist()
    assert X.recording.tolist() == list(range(300))
    named = PairedEpochs.from_mne(epochs, target="L", subject="c", recording="n")
    assert set(named.subject) == {"c"}
    assert set(named.recording) == {"n"}
    assert named.shape == (300, 1, 60)
    assert not named.has_source


def test_from_mne_counts_to_the_epochs_beginning():
    X = PairedEpochs.from_mne(mne_epochs(tmin=-15), target=["L"])
    assert X.onset.tolist() == [-15.0, -14.5, -14.0, -13.5, -13.0]
    assert X.subject is X.recording is None


def test_from_mne_of_epochs_that_are_still_in_their_file(tmp_path):
    """Bad ones are left out, whether or not they have been dropped."""
    values = signal(2, 1500)
    raw = raw_of(values, ["L", "C3"])
    raw.set_annotations(mne.Annotations([65.0], [1.0], ["bad contact"]))
    raw.save(tmp_path / "night_raw.fif", verbose=False)
    raw = mne.io.read_raw_fif(tmp_path / "night_raw.fif", verbose=False)
    events = np.array([[300 * k, 0, 1] for k in range(5)])
    epochs = mne.Epochs(raw, events, tmin=0, tmax=29.9, baseline=None, verbose=False)
    for each in (epochs, epochs.copy().drop_bad(verbose=False)):
        X = PairedEpochs.from_mne(each, target=["L"], source=["C3"])
        assert not each.preload
        assert X.onset.tolist() == [0, 30, 90, 120]
        parts = 1e6 * values.reshape(2, 5, 300)[:, [0, 1, 3, 4]]
        np.testing.assert_allclose(X["target"][:, 0], parts[0], rtol=1e-4)
        np.testing.assert_allclose(X["source"][:, 0], parts[1], rtol=1e-4)


def test_from_mne_refuses():
    with raises("No channel named O1, X9; the recording has C3, L, C4, R"):
        PairedEpochs.from_mne(mne_epochs(), target=["X9", "L"], source=["O1"])


# ---------------------------------------------------------------- braindecode


SFREQ = 10.0


def night(seed, minutes=4, first=0):
    """Make a recording whose stages change every minute; it is cut off at the front."""
    values = signal(3, int(60 * minutes * SFREQ), seed=seed)
    raw = raw_of(values.copy(), ["C3", "L", "R"], first_samp=first)
    texts = ["Sleep stage W", "Sleep stage 2", "Sleep stage ?", "Sleep stage R"]
    raw.set_annotations(mne.Annotations(60 * np.arange(minutes), 60, texts[:minutes]))
    return raw, values


def cut_nights(descriptions, by_event=False, **options):
    """Cut recordings into windows with braindecode; return them and the values in volts."""
    raws, values = zip(
        *(night(k, first=30 * k) for k in range(len(descriptions))), strict=True
    )
    if not by_event:
        return windows_of(*raws, descriptions=descriptions, **options), values
    dataset = BaseConcatDataset(list(map(RawDataset, raws, descriptions)))
    mapping = {"Sleep stage W": 0, "Sleep stage 2": 2, "Sleep stage R": 4}
    size = {"window_size_samples": 300, "window_stride_samples": 300}
    return create_windows_from_events(dataset, mapping=mapping, **size), values


PEOPLE = [{"subject": s, "session": n} for s, n in (("s7", "a"), ("s7", "b"), ("s8", "a"))]


def test_recordings_whose_channels_are_in_another_order():
    windows, values = cut_nights(PEOPLE[:2])
    second = windows.datasets[1]
    second.raw = second.raw.copy().reorder_channels(["R", "C3", "L"])
    X = PairedEpochs.from_windows(windows)
    assert X.ch_names["target"] == ["C3", "L", "R"]
    np.testing.assert_allclose(X["target"][8], 1e6 * values[1][:, :300], rtol=1e-5)
    second.raw = second.raw.copy().drop_channels(["R"])
    with raises("No channel named R; the recording has C3, L"):
        PairedEpochs.from_windows(windows)


@pytest.mark.parametrize("by_event", [False, True])
def test_from_windows(by_event):
    windows, values = cut_nights(PEOPLE, by_event)
    X = PairedEpochs.from_windows(windows, target=["R", "L"], source=["C3"])
    onset = [0, 30, 60, 90, 180, 210] if by_event else list(range(0, 240, 30))
    assert X.onset.tolist() == 3 * onset
    assert X.subject.tolist() == np.repeat(["s7", "s7", "s8"], len(onset)).tolist()
    names = np.repeat(["s7-a", "s7-b", "s8-a"], len(onset))
    assert X.recording.tolist() == names.tolist()
    assert X.sfreq == {"target": SFREQ, "source": SFREQ}
    assert X.ch_names == {"target": ["R", "L"], "source": ["C3"]}
    assert X.dtype == X["source"].dtype == np.float32
    for row in range(len(X)):
        first = int(SFREQ * X.onset[row])
        part = 1e6 * values[row // len(onset)][:, first : first + 300]
        np.testing.assert_allclose(X["target"][row], part[[2, 1]], rtol=1e-5)
        np.testing.assert_allclose(X["source"][row], part[[0]], rtol=1e-5)
    y = windows.get_metadata()["target"].to_numpy()
    assert len(y) == len(X)
    if by_event:
        assert y.tolist() == 3 * [0, 0, 2, 2, 4, 4]


def test_windows_that_are_mne_epochs():
    windows, values = cut_nights(PEOPLE[:1], use_mne_epochs=True, preload=True)
    assert hasattr(windows.datasets[0], "windows")
    X = PairedEpochs.from_windows(windows, target=["L"])
    assert X.onset.tolist() == list(range(0, 240, 30))
    expected = 1e6 * values[0][1].reshape(8, 1, 300)
    np.testing.assert_allclose(X["target"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("descriptions", "subject", "recording"),
    [
        ([{"subject": 0, "recording": k} for k in (1, 2)], "0 0", "0-1 0-2"),
        ([{"subject": 3}, {"subject": 3}], "3 3", "3 3-1"),
        ([{"run": "x"}, {"run": "y"}], None, "x y"),
        ([None, None], None, "0 1"),
        ([{"subject": "p"}, {"session": "q"}], None, "p q"),
    ],
)
def test_names_of_recordings(descriptions, subject, recording):
    windows, _ = cut_nights(descriptions)
    X = PairedEpochs.from_windows(windows, target=["L"])
    assert X.recording[::8].tolist() == recording.split()
    assert (X.subject is None) == (subject is None)
    if subject is not None:
        assert X.subject[::8].tolist() == subject.split()


def test_windows_whose_targets_are_channels():
    values = signal(3, 600)
    raw = raw_of(values, ["hypnogram", "C3", "L"], kinds=["misc", "eeg", "eeg"])
    windows = windows_of(raw, targets_from="channels")
    X = PairedEpochs.from_windows(windows, target=["L"], source=["C3"])
    np.testing.assert_allclose(X["target"][1, 0], 1e6 * values[2, 300:], rtol=1e-5)
    np.testing.assert_allclose(X["source"][1, 0], 1e6 * values[1, 300:], rtol=1e-5)


def test_from_windows_refuses():
    recordings = BaseConcatDataset([RawDataset(night(0)[0], {"subject": 0})])
    with raises("recordings, not windows"):
        PairedEpochs.from_windows(recordings, target=["L"])
    windows, _ = cut_nights(PEOPLE[:2])
    with raises("No channel named Fpz; the recording has C3, L, R"):
        PairedEpochs.from_windows(windows, target=["Fpz"])
    windows.datasets[1].raw = windows.datasets[1].raw.copy().resample(5.0, verbose=False)
    with raises("rates differ: 10.0 and 5.0 Hz"):
        PairedEpochs.from_windows(windows, target=["L"])


# ---------------------------------------------------------------- two devices


def device(sfreq, clock_of, seconds, events=(), ch_name="C3"):
    """Record clicks on a device's clock.

    ``clock_of`` turns seconds of the polysomnograph into seconds of the device; each
    click is one sample of as many microvolts as its number counts.
    """
    values = np.zeros((2, int(seconds * sfreq)))
    for number, at in enumerate(events, start=1):
        sample = round(clock_of(at) * sfreq)
        if 0 <= sample < values.shape[1]:
            values[0, sample] = 1e-6 * number
    return raw_of(values, [ch_name, "other"], sfreq)


NIGHT = annotated(
    (0, 60, "Sleep stage W"),
    (40, 3, "arousal"),
    (60, 95, "Sleep stage 2"),  # three whole epochs and five seconds
    (180, 30, "Movement time"),
    (240, 60, "Sleep stage R"),
)
ONSET = [0, 30, 60, 90, 120, 180, 240, 270]
STAGES = [0, 0, 2, 2, 2, -1, 4, 4]


def clicks_in(X, modality, sfreq):
    """Seconds into its epoch, by number, at which each click is found."""
    found = {}
    for row, epoch in enumerate(X[modality][:, 0]):
        for sample in np.flatnonzero(epoch):
            found[round(float(epoch[sample]))] = (X.onset[row], sample / sfreq)
    return found


@pytest.mark.parametrize(
    ("offset", "drift", "kept"),
    [
        (0.0, 0.0, ONSET),
        (-12.34, 0.0, ONSET),
        (45.5, 0.0, ONSET[2:]),
        (-3.0, 1e-3, ONSET),
        (31.0, -5e-4, ONSET[2:]),
    ],
)
def test_from_raws_two_clocks(offset, drift, kept):
    events = [2.5, 47.0, 72.25, 131.0, 195.0, 288.0]
    clock = {"source": lambda t: t, "target": lambda t: (t - offset) * (1 + drift)}
    source = device(100.0, clock["source"], 320, events)
    target = device(64.0, clock["target"], 340, events, "ear")
    about = {"source": ["C3"], "target": ["ear"], "subject": "s1", "recording": "night1"}
    clocks = {"offset": offset, "drift": drift, "unit": "V"}
    X = PairedEpochs.from_raws(
        source_raw=source, target_raw=target, annotations=NIGHT, **clocks, **about
    )
    assert X.onset.tolist() == kept
    assert stages_at(NIGHT, X.onset).tolist() == STAGES[-len(kept) :]
    assert X.shape == (len(kept), 1, 1920)
    assert X["source"].shape == (len(kept), 1, 3000)
    assert X.sfreq == {"target": 64.0, "source": 100.0}
    assert X.ch_names == {"target": ["ear"], "source": ["C3"]}
    assert set(X.subject) == {"s1"}
    assert set(X.recording) == {"night1"}
    for modality, sfreq in (("source", 100.0), ("target", 64.0)):
        found = clicks_in(X, modality, sfreq)
        for number, at in enumerate(events, start=1):
            onsets = [onset for onset in kept if onset <= at < onset + 30]
            assert (number in found) == bool(onsets)
            if onsets:
                onset, seconds = found[number]
                assert onset == onsets[0]
                # Two roundings to a sample, and 1e-3 of drift within an epoch.
                assert abs(onset + seconds - at) <= 1 / sfreq + 30 * abs(drift)


def test_epochs_at_the_edges_are_dropped():
    def cut(source, target, **options):
        both = {"source_raw": device(10, float, source), "annotations": NIGHT}
        return PairedEpochs.from_raws(
            target_raw=device(10, float, target), **both, **options
        )

    assert cut(285, 1000).onset.tolist() == ONSET[:-1]
    X = cut(1000, 209.9)
    assert X.onset.tolist() == ONSET[:5]
    assert X.ch_names == {"target": ["C3", "other"], "source": ["C3", "other"]}
    assert cut(1000, 210).onset.tolist() == ONSET[:6]
    assert cut(1000, 1000, offset=0.1).onset.tolist() == ONSET[1:]


def test_without_annotations_every_whole_epoch_is_a_row():
    source, target = device(10, float, 400), device(8, lambda t: t + 12.0, 300)
    both = {"source_raw": source, "target_raw": target, "unit": "V"}
    X = PairedEpochs.from_raws(**both, offset=-12.0)
    # The target lasts from -12 to 288 s of the source's clock.
    assert X.onset.tolist() == [0, 30, 60, 90, 120, 150, 180, 210, 240]
    scored = annotated((0, 390, "Sleep stage W"))
    again = PairedEpochs.from_raws(**both, annotations=scored, offset=-12.0)
    for modality in ("target", "source"):
        np.testing.assert_array_equal(X[modality], again[modality])
    late = PairedEpochs.from_raws(**both, offset=45.0, epoch=15)
    assert late.onset.tolist() == [*range(45, 331, 15)]
    with raises("None of the 14 epochs .from 0 to 420 s. is covered by both"):
        PairedEpochs.from_raws(**both, offset=900.0)


def test_rows_come_in_order_and_once():
    backwards = annotated((60, 30, "N2"), (0, 60, "W"), (30, 30, "W"))
    raw = device(10, float, 200)
    X = pair_of(raw, backwards, unit="V")
    assert X.onset.tolist() == [0, 30, 60]
    with warnings.catch_warnings(action="error"):
        halves = pair_of(raw, backwards, unit="V", epoch=15)
    assert halves.onset.tolist() == [0, 15, 30, 45, 60, 75]
    assert halves.shape == (6, 2, 150)


TOO_SHORT = annotated(
    (0, 0, "Sleep stage W"), (30, 20, "Sleep stage 1"), (40, 3, "arousal")
)


@pytest.mark.parametrize(
    ("annotations", "found"),
    [
        (mne.Annotations([], [], []), "0 of 0 are stages"),
        (annotated((0, 20, "Lights off"), (40, 3, "arousal")), "0 of 2 are stages"),
        (TOO_SHORT, r"2 of 3 are stages, which last 0, 20 s\."),
    ],
    ids=["none", "no stage", "too short"],
)
def test_no_scored_epoch(annotations, found):
    raw = device(10, float, 300)
    with raises(rf"no sleep stage of at least one epoch \(30 s\): .*{found}"):
        pair_of(raw, annotations)


START = datetime(2020, 1, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "told"),
    [(0.0, True), (95.0, True), (-92.9, True), (-93.1, False), (-95.4, False)],
)
def test_an_offset_that_the_dates_deny(given, told):
    """The target began 95 s before the source."""
    source = device(10, float, 400).set_meas_date(START)
    target = device(10, float, 400).set_meas_date(START - timedelta(seconds=95))
    both = {"source_raw": source, "target_raw": target, "annotations": NIGHT}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        PairedEpochs.from_raws(**both, offset=given)
        denied = [str(one.message) for one in said]
        # Dates that are not known, and those of a cropped recording.
        target.crop(20.0)
        PairedEpochs.from_raws(**both, offset=-75.0)
        target.set_meas_date(None)
        PairedEpochs.from_raws(**both, offset=1.0)
    assert len(said) == len(denied) == told
    if told:
        assert "-95 s after the source; given" in denied[0]
        assert "Give offset=-95," in denied[0]


@pytest.mark.parametrize(
    ("seconds", "first", "told"),
    [
        (300, 0, None),
        (275, 0, None),
        (210, 0, "60 s"),
        (300, -50, "50 s"),
        (100, 0, "115 s"),
    ],
)
def test_stages_outside_the_recording_are_told(seconds, first, told):
    """What is unscored there, as at the end of Sleep-EDF's files, is no loss."""
    raw = device(10, float, seconds)
    moved = mne.Annotations(NIGHT.onset + first, NIGHT.duration, NIGHT.description)
    moved.append(1000, 600, "Sleep stage ?")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pair_of(raw, moved)
    said = [str(one.message) for one in said if "outside source_raw" in str(one.message)]
    assert len(said) == bool(told)
    assert not told or f"Stages of {told} lie outside" in said[0]


def test_dates_years_apart_are_no_offset_to_give():
    source = device(10, float, 400).set_meas_date(START)
    target = device(10, float, 400).set_meas_date(START - timedelta(days=15000))
    with pytest.warns(UserWarning, match="given offset=0. Give what both recordings saw"):
        PairedEpochs.from_raws(source_raw=source, target_raw=target, annotations=NIGHT)


def test_a_file_that_was_cut_short_is_told(tmp_path):
    path = write_edf(tmp_path / "cut.edf", {"C3": 20 * signal(12000) / 20e-6}, 120, 1)
    os.truncate(path, path.stat().st_size // 2)
    raw = mne.io.read_raw(path, preload=True, verbose="error").filter(
        0.5, 30, verbose="error"
    )
    told = {"expected_warning": UserWarning, "match": "cut.edf holds fewer records"}
    with pytest.warns(**told):
        pair = pair_of(raw)
    assert len(pair) == 1
    windows = windows_of(raw)
    with pytest.warns(**told):
        assert len(PairedEpochs.from_windows(windows)) == 1


def test_what_is_no_recording_and_no_annotations():
    raw = device(10, float, 400)
    with raises(r"target_raw is an mne.io.Raw; given str.*mne\.io\.read_raw", TypeError):
        PairedEpochs.from_raws(source_raw=raw, target_raw="ear.edf", annotations=NIGHT)
    with raises("annotations are mne.Annotations; given ndarray", TypeError):
        pair_of(raw, np.arange(5))
    assert len(pair_of(raw, NIGHT, offset=np.float32(0.0))) == 8


def test_no_epoch_that_both_cover():
    raw = device(10, float, 300)
    with raises("None of the 8 epochs .from 0 to 300 s.*offset -400 s"):
        pair_of(raw, NIGHT, offset=-400)
    with raises("No channel named Fpz"):
        pair_of(raw, NIGHT, source=["Fpz"])


def test_annotations_on_another_clock():
    raw = device(10, float, 400).set_meas_date(START)
    stages = [(30.0 * k, 30.0, "Sleep stage 2") for k in range(10)]
    assert len(pair_of(raw, annotated(*stages, orig_time=START))) == 10
    with raises("count from 2020-01-01 21:59:00.* -60 s after the first sample"):
        pair_of(raw, annotated(*stages, orig_time=START - timedelta(minutes=1)))
