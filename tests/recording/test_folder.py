"""Many nights in a folder: what is written, what is staged again, what is passed over."""

import json
import os
import shutil
import sys
import warnings

import mne
import numpy as np
import pandas as pd
import pytest

from skleepkd import RecordingStager
from skleepkd.hypnogram import Hypnogram
from tests.files import write_edf
from tests.recording.test_stager import ALL, CODES, raw_of, signals, stager_of, write


def write_nights(folder):
    """Write two nights, a damaged one between them, and what is no recording."""
    write(folder / "a.edf")
    (folder / "b.edf").write_bytes((folder / "a.edf").read_bytes()[: -80 * 3 * 65])
    shutil.copy(folder / "a.edf", folder / "c.edf")
    shutil.copy(folder / "a.edf", folder / ".hidden.edf")
    shutil.copy(folder / "a.edf", folder / "._c.edf")
    (folder / "a.json").write_text("{}")
    (folder / "notes.txt").write_text("slept well")
    notes = [(30 * k, 30, "Sleep stage W") for k in range(8)]
    write_edf(folder / "a-scoring.edf", {}, 1, 0, notes=notes, reserved="EDF+C")
    return folder


@pytest.fixture
def nights(tmp_path):
    """The folder of these."""
    return write_nights(tmp_path / "nights")


class Counting(RecordingStager):
    """Counts the nights that it stages."""

    staged = []  # noqa: RUF012

    def stage(self, raw, **options):
        self.staged.append(os.path.basename(raw))
        return super().stage(raw, **options)


@pytest.fixture
def stager(of_c3):
    Counting.staged.clear()
    return Counting(of_c3.stager)


@pytest.mark.filterwarnings("ignore:.*nights were not staged")
def test_what_is_written(nights, tmp_path, stager):
    output = tmp_path / "deep" / "output"
    with pytest.warns(UserWarning, match=r"1 of 3 nights .*b\.edf does not .*cut short"):
        summary = stager.stage_folder(nights, output)
    kinds = ("events.tsv", "events.json", "hypnogram.png")
    expected = {f"{name}_{kind}" for name in "ac" for kind in kinds} | {"summary.csv"}
    assert {p.name for p in output.iterdir() if p.name[0] != "."} == expected
    events = pd.read_csv(output / "a_events.tsv", sep="\t")
    assert events["trial_type"].tolist() == ALL
    assert (output / "c_hypnogram.png").read_bytes()[:4] == b"\x89PNG"
    assert "Levels" in json.loads((output / "a_events.json").read_text())["trial_type"]
    assert summary.index.tolist() == ["a", "b", "c"]
    night, statistics = summary.loc["a"], Hypnogram.from_stages(CODES).statistics()
    for name, value in statistics.items():
        assert night[name] == pytest.approx(value, abs=1e-4, nan_ok=True)
    assert night["TIB"] == 4.0  # minutes
    assert night["channels"] == "C3"
    assert (night["n_epochs"], night["n_artefacts"]) == (8, 0)
    assert night["confidence"] == pytest.approx(events["confidence"].mean(), abs=1e-4)
    assert "cut short" in summary.loc["b", "error"]
    assert summary["error"].isna().tolist() == [True, False, True]
    table = pd.read_csv(output / "summary.csv", index_col="name")
    counts = {"n_epochs": "Int64", "n_artefacts": "Int64"}  # whole, where a night has none
    pd.testing.assert_frame_equal(
        table.astype(counts), summary, check_dtype=False, atol=1e-9
    )
    assert table.loc["a", "n_epochs"] == 8
    assert ",8.0," not in (output / "summary.csv").read_text()


@pytest.mark.filterwarnings("ignore:.*nights were not staged")
def test_what_is_staged_again(nights, tmp_path, stager, of_c3):
    def staged(who=stager, **options):
        Counting.staged.clear()
        who.stage_folder(nights, tmp_path / "output", picture=False, **options)
        return sorted(Counting.staged)

    assert staged() == ["a.edf", "b.edf", "c.edf"]
    before = (tmp_path / "output" / "summary.csv").read_text()
    assert staged() == ["b.edf"]
    assert (tmp_path / "output" / "summary.csv").read_text() == before
    (tmp_path / "output" / "c_events.json").unlink()
    assert staged() == ["b.edf", "c.edf"]
    events = tmp_path / "output" / "a_events.tsv"
    whole = events.read_bytes()
    events.write_bytes(whole[:100])  # cut, or mended by hand
    with pytest.warns(
        UserWarning, match=r"a_events.tsv was changed .* kept as a_events.tsv.old"
    ):
        assert staged() == ["a.edf", "b.edf"]
    assert events.read_bytes() == whole
    assert (tmp_path / "output" / "a_events.tsv.old").read_bytes() == whole[:100]
    shutil.copy(nights / "a.edf", nights / "b.edf")  # mended
    assert staged() == ["b.edf"]
    write_edf(nights / "c.edf", {"C3": 1e6 * signals(codes=CODES[:4])[0]}, 120)
    assert staged() == ["c.edf"]
    assert len(pd.read_csv(tmp_path / "output" / "c_events.tsv", sep="\t")) == 4
    os.utime(nights / "c.edf", ns=(0, 0))
    assert staged() == ["c.edf"]
    assert staged(start=30) == ["a.edf", "b.edf", "c.edf"]
    other = stager_of(ch_names=["C3"], random_state=1)
    other.module_.gain.data += 1e-3
    assert staged(Counting(other)) == ["a.edf", "b.edf", "c.edf"]
    assert staged(Counting(other)) == []
    assert staged(Counting(other, unit="V")) == ["a.edf", "b.edf", "c.edf"]
    shutil.move(nights, tmp_path / "elsewhere")
    nights = tmp_path / "elsewhere"
    assert staged(Counting(other, unit="V")) == []
    table = pd.read_csv(tmp_path / "output" / "summary.csv")
    assert table["file"].tolist() == [str(nights / f"{name}.edf") for name in "abc"]


def test_a_night_that_was_interrupted(nights, tmp_path, stager, monkeypatch):
    """Outputs of an older stager do not stand for it, and it is staged anew."""
    (nights / "b.edf").unlink()
    output = tmp_path / "output"
    stager.stage_folder(nights, output, picture=False)
    events = Hypnogram.to_events

    def stopped(night, path):
        if path.name[0] == "c":
            raise KeyboardInterrupt
        events(night, path)

    monkeypatch.setattr(Hypnogram, "to_events", stopped)
    with pytest.raises(KeyboardInterrupt):
        stager.stage_folder(nights, output, start=30, picture=False)
    assert [p.name for p in output.glob("c*")] == []
    assert pd.read_csv(output / "summary.csv")["name"].tolist() == ["a"]
    monkeypatch.undo()
    Counting.staged.clear()
    summary = stager.stage_folder(nights, output, start=30, picture=False)
    assert Counting.staged == ["c.edf"]
    assert summary["n_epochs"].tolist() == [7, 7]


def test_files_that_are_called_alike(tmp_path, stager):
    """In one call or in several, whichever comes first."""
    short = {"C3": 1e6 * signals(codes=CODES[:4])[0]}
    first = write(tmp_path / "one" / "night.edf")
    second = write_edf(tmp_path / "two" / "night.edf", short, 120)
    third = write_edf(tmp_path / "two" / "night.bdf", short, 120, bdf=True)
    output = tmp_path / "output"
    summary = stager.stage_folder([first, second, first], output, picture=False)
    assert Counting.staged == ["night.edf"] * 2
    assert summary["n_epochs"].to_dict() == {"night": 8, "two_night": 4}
    summary = stager.stage_folder([third, str(second)], output, picture=False)
    assert len(Counting.staged) == 3
    assert len(summary) == 3
    assert sorted(summary["file"]) == sorted(map(str, (first, second, third)))
    assert stager.stage_folder(tmp_path, output, picture=False).equals(summary)
    assert len(Counting.staged) == 3
    assert {len(pd.read_csv(p, sep="\t")) for p in output.glob("*.tsv")} == {8, 4}


def test_a_scoring_that_lies_there_is_kept(tmp_path, stager):
    write(tmp_path / "night.edf")
    scoring = tmp_path / "night_events.tsv"
    scoring.write_text("onset\tduration\ttrial_type\n")
    with pytest.warns(UserWarning, match="night_events.tsv is there already"):
        stager.stage_folder(tmp_path, tmp_path)
    assert scoring.read_text() == "onset\tduration\ttrial_type\n"
    scoring.unlink()
    assert stager.stage_folder(tmp_path, tmp_path)["error"].isna().all()


@pytest.mark.filterwarnings("ignore:.*nights were not staged")
def test_a_scoring_of_a_night_that_failed_is_kept(tmp_path, stager):
    night = write(tmp_path / "night.edf")
    whole = night.read_bytes()
    night.write_bytes(whole[:-300])
    stager.stage_folder(tmp_path, tmp_path)
    scoring = tmp_path / "night_events.tsv"
    scoring.write_text("by hand")
    night.write_bytes(whole)
    summary = stager.stage_folder(tmp_path, tmp_path)
    assert "is there already" in summary.loc["night", "error"]
    assert scoring.read_text() == "by hand"


@pytest.mark.filterwarnings("ignore:.*nights were not staged")
def test_a_night_keeps_its_name(tmp_path, stager):
    """Though that of another, which cannot be staged, is free again."""
    first, second = (
        write(tmp_path / "one" / "night.edf"),
        write(tmp_path / "two" / "night.edf"),
    )
    first.write_bytes(first.read_bytes()[:-300])
    output = tmp_path / "output"
    stager.stage_folder([first, second], output, picture=False)
    Counting.staged.clear()
    assert stager.stage_folder(second, output, picture=False).index.tolist() == [
        "two_night"
    ]
    assert Counting.staged == []


class Meeting(Counting):
    """Another run stages other nights into the same folder meanwhile."""

    def stage(self, raw, **options):
        other, output = Counting(self.stager), raw.parent.parent / "output"
        other.stage_folder(raw.parent.parent / "two", output, picture=False)
        return super().stage(raw, **options)


def test_two_runs_at_once(tmp_path, of_c3):
    for path in ("one/a.edf", "one/b.edf", "two/b.edf", "two/c.edf"):
        write(tmp_path / path)
    stager, output = Meeting(of_c3.stager), tmp_path / "output"
    with pytest.warns(UserWarning, match=r"one/b.edf: Another run has just taken its name"):
        summary = stager.stage_folder(tmp_path / "one", output, picture=False)
    files = {
        name: str(tmp_path / path)
        for name, path in {"a": "one/a.edf", "b": "one/b.edf", "c": "two/c.edf"}.items()
    }
    assert summary["file"].to_dict() == files
    summary = stager.stage_folder(tmp_path / "one", output, picture=False)
    assert summary.index.tolist() == ["a", "b", "c", "one_b"]
    assert summary["error"].isna().all()


@pytest.mark.filterwarnings("ignore:.*nights were not staged")
def test_a_link_to_nothing_is_passed_over(tmp_path, stager):
    write(tmp_path / "b.edf")
    (tmp_path / "a.edf").symlink_to(tmp_path / "gone.edf")
    summary = stager.stage_folder(tmp_path, tmp_path / "output", picture=False)
    assert "no recording" in summary.loc["a", "error"]
    assert summary["n_epochs"].to_dict()["b"] == 8


def test_stages_of_no_scheme_have_no_statistics(tmp_path):
    y = np.tile(["W", "NREM", "REM"], 4)[:10]
    stager = stager_of(ch_names=["C3"], y=y, classes=["W", "NREM", "REM"])
    write(tmp_path / "night.edf")
    summary = RecordingStager(stager).stage_folder(tmp_path, tmp_path / "output")
    assert summary["n_epochs"].tolist() == [8]
    assert "TST" not in summary


def test_folders_are_searched(tmp_path, stager):
    """Also below; a long recording is one, and a second night is another."""
    raw = raw_of()
    (tmp_path / "sub-1" / "eeg").mkdir(parents=True)
    long = raw_of(signals(codes=np.tile(CODES, 24)))
    split = {"split_size": "3MB", "buffer_size_sec": 10, "verbose": False}
    long.save(tmp_path / "sub-1" / "eeg" / "long_raw.fif", **split)
    long.save(tmp_path / "long_eeg.fif", split_naming="bids", **split)
    raw.save(tmp_path / "sub-1" / "ann_raw.fif", verbose=False)
    raw.save(tmp_path / "sub-1" / "ann_raw-1.fif", verbose="error")
    raw.save(tmp_path / "sub-1" / "packed_raw.fif.gz", verbose=False)
    write(tmp_path / ".cache" / "night.edf")
    write(tmp_path / "NIGHT.EDF")
    summary = stager.stage_folder(tmp_path, tmp_path / "output", picture=False)
    names = ["NIGHT", "ann_raw", "ann_raw-1", "long_raw", "long_split-01_eeg", "packed_raw"]
    assert summary.index.tolist() == names
    assert (tmp_path / "long_split-02_eeg.fif").exists()
    assert summary["n_epochs"].tolist() == [8, 8, 8, 192, 192, 8]


def test_nothing_to_stage(tmp_path, stager):
    (tmp_path / "a.json").write_text("{}")
    for given in (tmp_path, []):
        with pytest.raises(FileNotFoundError, match=r"no recording in .*\.edf, \.bdf"):
            stager.stage_folder(given, tmp_path / "output")
    with pytest.raises(FileNotFoundError, match=r"no recording .*night\.edf"):
        stager.stage_folder([tmp_path / "night.edf"], tmp_path / "output")
    write(tmp_path / "night.edf")
    with pytest.raises(ValueError, match='a time of the clock as in "23:15"; given'):
        stager.stage_folder(tmp_path, tmp_path / "output", start="quarter past eleven")
    with pytest.raises(ValueError, match="start is a number of seconds; given nan"):
        stager.stage_folder(tmp_path, tmp_path / "output", start=float("nan"))
    with pytest.raises(ValueError, match="on_missing is"):
        stager.stage_folder(tmp_path, tmp_path / "output", on_missing="ignore")
    assert not (tmp_path / "output").exists()
    assert Counting.staged == []


def test_without_matplotlib(tmp_path, stager, monkeypatch):
    write(tmp_path / "night.edf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"'skleepkd\[plot\]', .* picture=False"):
        stager.stage_folder(tmp_path, tmp_path / "output")
    stager.stage_folder(tmp_path, tmp_path / "output", picture=False)
    assert not list(tmp_path.rglob("*.png"))


def test_warnings_of_a_night_name_it(tmp_path, stager):
    data = signals()
    data[0, -2400:] = 0
    channels = dict(zip(["C3", "EOG", "C4"], 1e6 * data, strict=True))
    write_edf(tmp_path / "one.edf", channels, 240)
    with pytest.warns(UserWarning, match="one: 2 of 8 epochs are flat") as caught:
        summary = stager.stage_folder(tmp_path, tmp_path / "output")
    assert caught[0].filename == __file__
    assert "2 of 8 epochs are flat" in summary.loc["one", "warnings"]
    assert summary.loc["one", "n_artefacts"] == 2
    events = pd.read_csv(tmp_path / "output" / "one_events.tsv", sep="\t")
    assert events["artefact"].fillna("").tolist() == [""] * 6 + ["flat"] * 2
    with warnings.catch_warnings(action="error"):  # nothing is staged again
        again = stager.stage_folder(tmp_path, tmp_path / "output")
    pd.testing.assert_frame_equal(again, summary)


def test_a_start_by_the_clock(of_c3):
    raw = raw_of()
    raw.set_meas_date(mne.utils._stamp_to_dt((1_000_000_000, 0)))  # 01:46:40
    for start, seconds in (("01:48", 80.0), ("01:47:10", 30.0), (60, 60.0)):
        assert of_c3.stage(raw, start=start).onset[0] == seconds
    with pytest.raises(ValueError, match="No epoch"):
        of_c3.stage(raw, start="01:40")  # of the next day
    with pytest.raises(ValueError, match="does not tell its date"):
        of_c3.stage(raw_of(), start="01:48")
