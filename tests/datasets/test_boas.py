import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import mne
import numpy as np
import pytest

from skleepkd.datasets.boas import load_boas, read_boas_night
from tests.test_edf_records import STARTS
from tests.test_edf_records import write as write_interrupted

SHARED = Path(
    os.environ.get("SKLEEPKD_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data"
)
REAL = SHARED / "boas"
needs_real_tables = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real BOAS tables are not beside the project"
)

PSG = ["PSG_F3", "PSG_F4", "PSG_C3", "PSG_C4", "PSG_O1", "PSG_O2"]
HEADBAND = ["HB_1", "HB_2"]


def path_of(root, folder, device, what):
    return root / folder / "eeg" / f"{folder}_task-Sleep_acq-{device}_{what}"


def rows_of(path):
    """A table's rows as dicts, read independently of the package."""
    lines = path.read_bytes().replace(b"\r", b"").decode().strip().split("\n")
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join("\t".join(map(str, row)) + "\r\n" for row in rows).encode())


def write_tables(root, folder, stages, channels=PSG, lead=(0, 0)):
    """Tables of one night; ``lead`` is the first sample of the two devices' epochs."""
    for device, begin in zip(("psg", "headband"), lead, strict=True):
        header = ["onset", "duration", "begsample", "endsample", "offset", "stage_ai"]
        rows = [
            [30 * k, 30, begin + 7680 * k + 1, begin + 7680 * (k + 1), 0, 3]
            for k in range(len(stages))
        ]
        if device == "psg":
            header.insert(5, "stage_hum")
            for row, stage in zip(rows, stages, strict=True):
                row.insert(5, stage)
        write_table(path_of(root, folder, device, "events.tsv"), [header, *rows])
        names = channels if device == "psg" else HEADBAND
        write_table(
            path_of(root, folder, device, "channels.tsv"),
            [("name", "type", "units", "sampling_frequency")]
            + [(name, "EEG", "uV", 256) for name in names],
        )
        path_of(root, folder, device, "eeg.json").write_text(
            json.dumps({"RecordingDuration": 30 * len(stages) + 27})
        )


def write_edf(path, channels, seconds, bursts, unit="uV", sfreq=256):
    """Write a sparse EDF of 1 s records that holds zeros and bursts.

    ``bursts``: (channel, first sample, microvolts) of one second each.
    """

    def field(values, width):
        return b"".join(str(value).ljust(width).encode("latin-1") for value in values)

    n = len(channels)
    header = (
        field(["0"], 8)
        + field(["X", "X"], 80)
        + field(["01.01.20", "22.00.00", 256 * (n + 1)], 8)
        + field([""], 44)
        + field([seconds, 1], 8)
        + field([n], 4)
        + field(channels, 16)
        + field([""] * n, 80)
        + field([unit] * n, 8)
        + field([-3276.8] * n + [3276.7] * n + [-32768] * n + [32767] * n, 8)
        + field([""] * n, 80)
        + field([sfreq] * n, 8)
        + field([""] * n, 32)
    )
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + 2 * n * seconds * sfreq)
    records = np.memmap(path, "<i2", "r+", len(header), (seconds, n, sfreq))
    for name, first, value in bursts:
        samples = np.arange(first, first + sfreq)
        records[samples // sfreq, channels.index(name), samples % sfreq] = round(10 * value)
    records.flush()


def write_signals(root, folder, unit="uV"):
    """Mark each epoch at the sample that its own device's table names.

    F3 and HB_1 hold the epoch's number, C4 and HB_2 its stage + 2.
    """
    stages = [
        int(row["stage_hum"]) for row in rows_of(path_of(root, folder, "psg", "events.tsv"))
    ]
    for device, number, stage in (("psg", "PSG_F3", "PSG_C4"), ("headband", *HEADBAND)):
        bursts = []
        for k, row in enumerate(rows_of(path_of(root, folder, device, "events.tsv"))):
            first = int(row["begsample"]) - 1
            bursts += [(number, first, k + 1), (stage, first, stages[k] + 2)]
        channels = [
            row["name"] for row in rows_of(path_of(root, folder, device, "channels.tsv"))
        ]
        sidecar = json.loads(path_of(root, folder, device, "eeg.json").read_text("utf-8"))
        write_edf(
            path_of(root, folder, device, "eeg.edf"),
            channels,
            sidecar["RecordingDuration"],
            bursts,
            unit,
        )


def check_marks(cohort, stages):
    scored = np.flatnonzero(stages != 8)
    np.testing.assert_array_equal(cohort.y, stages[scored])
    expected = {
        ("source", 0): scored + 1,
        ("source", 3): stages[scored] + 2,
        ("target", 0): scored + 1,
        ("target", 1): stages[scored] + 2,
    }
    for modality, n_channels in (("source", 6), ("target", 2)):
        epochs = cohort.X[modality]
        assert epochs.shape == (len(scored), n_channels, 7680)
        assert epochs.dtype == np.float32
        for channel in range(n_channels):
            value = expected.get((modality, channel), np.zeros(len(scored)))
            start = np.repeat(value[:, None], 256, axis=1)
            # Half a unit of the 16-bit scale: 0.1 microvolts a step.
            np.testing.assert_allclose(epochs[:, channel, :256], start, atol=0.051)
            np.testing.assert_allclose(epochs[:, channel, 256:], 0, atol=0.051)


STAGES = {
    "sub-1": [0, 1, 2, 3, 8, 4],
    "sub-2": [0, 0, 2, 3, 3],
    "sub-10": [2, 2, 8, 4],
}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "boas"
    for folder, stages in STAGES.items():
        write_tables(root, folder, stages)
        write_signals(root, folder)
    write_table(
        root / "participants.tsv",
        [("participant_id", "age", "pid"), ("sub-1", 27, 89), ("sub-2", 27, 89)]
        + [("sub-10", "n/a", 1), ("sub-11", 30, 2)],
    )
    return root


# ------------------------------------------------------------ the real tables


def real_folders():
    return sorted(path.name for path in REAL.glob("sub-*"))


@needs_real_tables
def test_real_tables_have_their_own_counts():
    folders = real_folders()
    assert len(folders) == 24
    people = {
        row["participant_id"]: row["pid"] for row in rows_of(REAL / "participants.tsv")
    }
    # The README speaks of 108 individuals; the table's pids reach 108, but name 100.
    assert (len(people), len(set(people.values()))) == (128, 100)
    assert max(map(int, people.values())) == 108
    subjects = {}
    for folder in folders:
        night = read_boas_night(REAL, folder)
        subjects[folder] = night.subject
        assert night.subject == f"boas-pid-{people[folder]}"
        sidecar = path_of(REAL, folder, "headband", "eeg.json").read_text("utf-8")
        # Scored are all whole epochs of the recording.
        assert len(night.y) == json.loads(sidecar)["RecordingDuration"] // 30
        hum = Counter(
            row["stage_hum"] for row in rows_of(path_of(REAL, folder, "psg", "events.tsv"))
        )
        expected = {int(code): n for code, n in hum.items() if code != "8"}
        if hum["8"]:
            expected[-1] = hum["8"]
        assert Counter(night.y.tolist()) == expected
        np.testing.assert_allclose(night.onset, 30 * np.arange(len(night.y)))
    assert len(set(subjects.values())) < len(folders)
    assert subjects["sub-1"] == subjects["sub-2"] != subjects["sub-3"]
    assert subjects["sub-32"] == subjects["sub-35"]


@needs_real_tables
def test_real_stages_are_the_experts():
    # Night 1 has 200 wake, 57 N1, 398 N2, 172 N3, 87 REM and one disconnected epoch.
    night = read_boas_night(REAL, "sub-1")
    assert np.bincount(night.y + 1).tolist() == [1, 200, 57, 398, 172, 87]
    rows = rows_of(path_of(REAL, "sub-1", "psg", "events.tsv"))
    assert [int(row["stage_ai"]) for row in rows] != night.y.tolist()


@needs_real_tables
def test_real_night_with_marks_at_known_clock_times(tmp_path):
    root = tmp_path / "boas"
    shutil.copytree(REAL / "sub-8", root / "sub-8", copy_function=shutil.copyfile)
    shutil.copyfile(REAL / "participants.tsv", root / "participants.tsv")
    for path in [root / "sub-8", *(root / "sub-8").rglob("*")]:
        path.chmod(0o755)
    write_signals(root, "sub-8")
    stages = [
        row["stage_hum"] for row in rows_of(path_of(root, "sub-8", "psg", "events.tsv"))
    ]
    cohort = load_boas(root)
    assert len(cohort.X) == 409
    check_marks(cohort, np.array(stages, dtype=int))


# ------------------------------------------------------------ small nights


def test_cohort_of_three_nights_and_two_persons(tree):
    cohort = load_boas(tree)
    assert cohort.X.sfreq == {"source": 256.0, "target": 256.0}
    assert cohort.X.ch_names == {"source": PSG, "target": HEADBAND}
    nights = ["boas-sub-1"] * 5 + ["boas-sub-2"] * 5 + ["boas-sub-10"] * 3
    assert cohort.X.recording.tolist() == nights
    assert cohort.groups.tolist() == ["boas-pid-89"] * 10 + ["boas-pid-1"] * 3
    np.testing.assert_array_equal(cohort.X.subject, cohort.groups)
    np.testing.assert_allclose(cohort.X.onset[:5], [0, 30, 60, 90, 150])
    assert "13 epochs of 2 subjects, 3 nights." in cohort.DESCR
    for folder, stages in STAGES.items():
        check_marks(load_boas(tree, subjects=[folder]), np.array(stages))

    everything = load_boas(tree, unscored=True)
    assert np.flatnonzero(everything.y == -1).tolist() == [4, 13]
    np.testing.assert_array_equal(everything.X["target"][4, 0, :256], np.float32(5))


def test_each_devices_own_table_says_where_its_epochs_are(tree):
    write_tables(tree, "sub-1", STAGES["sub-1"], lead=(100, 2560))
    write_signals(tree, "sub-1")
    check_marks(load_boas(tree, subjects=["sub-1"]), np.array(STAGES["sub-1"]))


def test_headband_that_lacks_an_epoch(tree):
    path = path_of(tree, "sub-1", "headband", "events.tsv")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    cohort = load_boas(tree, subjects=["sub-1"], unscored=True)
    np.testing.assert_allclose(cohort.X.onset, [0, 60, 90, 120, 150])
    np.testing.assert_array_equal(cohort.y, [0, 2, 3, -1, 4])
    for modality in ("source", "target"):
        np.testing.assert_allclose(cohort.X[modality][:, 0, 0], [1, 3, 4, 5, 6], atol=0.051)


@pytest.mark.parametrize("unit", ["uV", "", "\u00b5V"])
def test_microvolts_whatever_the_header_says(tree, unit):
    write_signals(tree, "sub-2", unit)
    check_marks(load_boas(tree, subjects=["sub-2"]), np.array(STAGES["sub-2"]))


def test_channels_can_be_chosen(tree):
    cohort = load_boas(tree, subjects=["sub-2"], source=["C4", "PSG_F3"], target=["HB_2"])
    assert cohort.X.ch_names == {"source": ["PSG_C4", "PSG_F3"], "target": ["HB_2"]}
    np.testing.assert_allclose(cohort.X["source"][2, :, 0], [4, 3], atol=0.051)
    np.testing.assert_allclose(cohort.X["target"][2, :, 0], [4], atol=0.051)


def test_night_without_a_channel(tree):
    write_tables(tree, "sub-2", STAGES["sub-2"], channels=PSG[:4] + ["PSG_EOG"])
    with pytest.raises(ValueError, match=r"boas-sub-2 has no channels PSG_O1, PSG_O2"):
        load_boas(tree)
    cohort = load_boas(tree, on_missing="skip")
    assert cohort.skipped == {"sub-2": ["PSG_O1", "PSG_O2"]}
    assert set(cohort.X.recording) == {"boas-sub-1", "boas-sub-10"}
    assert "left out because channels are missing: sub-2" in cohort.DESCR
    with pytest.raises(ValueError, match="Every night lacks a channel"):
        load_boas(tree, subjects=["sub-2"], on_missing="skip")
    with pytest.raises(ValueError, match=r"no channels HB_3"):
        load_boas(tree, target=["HB_3"])
    # The table promises a channel that the file has not.
    write_tables(tree, "sub-2", STAGES["sub-2"])
    write_edf(path_of(tree, "sub-2", "psg", "eeg.edf"), PSG[:5], 177, [])
    with pytest.raises(ValueError, match=r"sub-2.*psg_eeg\.edf .*PSG_O2.* not present"):
        load_boas(tree, on_missing="skip")


def test_cache_is_written_once_and_mapped(tree, tmp_path, monkeypatch):
    plain = load_boas(tree)
    load_boas(tree, cache=tmp_path / "cache")
    monkeypatch.setattr(mne.io, "read_raw_edf", None)
    again = load_boas(tree, cache=tmp_path / "cache")
    assert isinstance(again.X[:4]["source"], np.memmap)
    for modality in ("source", "target"):
        np.testing.assert_array_equal(again.X[modality], plain.X[modality])
    np.testing.assert_array_equal(again.y, plain.y)
    with pytest.raises(
        ValueError, match="not callable"
    ):  # other channels are another entry
        load_boas(tree, target=["HB_1"], cache=tmp_path / "cache")


# ------------------------------------------------------------ bad input


def test_missing_files(tree):
    path_of(tree, "sub-2", "headband", "eeg.edf").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-2_task-Sleep_acq-headband_eeg\.edf"):
        load_boas(tree)
    path_of(tree, "sub-1", "psg", "events.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"acq-psg_events\.tsv"):
        load_boas(tree)
    (tree / "sub-12").mkdir()
    with pytest.raises(FileNotFoundError, match=r"sub-12_task-Sleep_acq-psg_channels\.tsv"):
        load_boas(tree, subjects=["sub-12"])


def test_person_who_is_not_listed(tree):
    shutil.copytree(tree / "sub-1", tree / "sub-12")
    for path in (tree / "sub-12" / "eeg").iterdir():
        path.rename(path.with_name(path.name.replace("sub-1_", "sub-12_")))
    with pytest.raises(ValueError, match=r"participants\.tsv has no row sub-12"):
        load_boas(tree)


@pytest.mark.parametrize("device", ["psg", "headband"])
def test_truncated_signal(tree, device):
    path = path_of(tree, "sub-1", device, "eeg.edf")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(
        ValueError,
        match=rf"sub-1.*{device}_eeg\.edf: the signal lasts \d+\.0 s .* say 207\.0",
    ):
        load_boas(tree)
    os.truncate(path, 300)
    with pytest.raises(ValueError, match=re.escape(path.name)):
        load_boas(tree)


def test_interrupted_signal(tree):
    path = path_of(tree, "sub-1", "headband", "eeg.edf")
    write_interrupted(path, STARTS, names=HEADBAND)
    with pytest.raises(ValueError, match=r"headband_eeg\.edf .*150 s .*, for 65 s"):
        load_boas(tree)


def test_devices_that_do_not_belong_together(tree):
    shutil.copyfile(
        path_of(tree, "sub-10", "headband", "events.tsv"),
        path_of(tree, "sub-1", "headband", "events.tsv"),
    )
    with pytest.raises(ValueError, match=r"lists 6 epochs and the headband 4, 4 of them"):
        load_boas(tree)


def test_unknown_stage_code(tree):
    write_tables(tree, "sub-1", [0, 1, -2, 3, 8, 4])
    with pytest.raises(ValueError, match=r"unknown stage codes \[-2\.0\]; known are \[0,"):
        load_boas(tree)


def test_version_without_the_consensus(tree):
    path = path_of(tree, "sub-1", "psg", "events.tsv")
    path.write_bytes(path.read_bytes().replace(b"stage_hum", b"majority"))
    with pytest.raises(ValueError, match=r"psg_events\.tsv .*stage_hum"):
        load_boas(tree)


def test_epochs_of_another_length(tree):
    path = path_of(tree, "sub-1", "psg", "events.tsv")
    path.write_bytes(path.read_bytes().replace(b"\t7680\t", b"\t5120\t"))
    with pytest.raises(ValueError, match="epochs of 7680 samples"):
        load_boas(tree)


def test_options(tree):
    with pytest.raises(ValueError, match="channels is a list"):
        load_boas(tree, source="C3")


def test_other_stage_schemes(tree):
    """Four stages: N1 and N2 are light sleep; three: sleep is REM or not."""
    five = load_boas(tree, unscored=True).y
    four = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    three = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 1, 4: 2}
    for classes, codes in (("wldr", four), ("wnr", three)):
        y = load_boas(tree, unscored=True, classes=classes).y
        assert y.tolist() == [codes[code] for code in five]
    with pytest.raises(ValueError, match="wldr"):
        load_boas(tree, classes="four")
