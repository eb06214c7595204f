import json
import shutil
from collections import Counter

import numpy as np
import pytest

from skleepkd.datasets.boas import load_boas, read_boas_night
from tests.files import (
    BOAS_HEADBAND,
    BOAS_PSG,
    BOAS_STAGES,
    boas_path,
    read_table,
    write_boas_signals,
    write_boas_tables,
    write_boas_tree,
    write_edf,
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


@pytest.fixture
def tree(tmp_path):
    return write_boas_tree(tmp_path / "boas")


# ------------------------------------------------------------ the real tables


@pytest.fixture
def real(shared_data):
    folder = shared_data / "boas"
    if not folder.is_dir():
        pytest.skip("the real tables of BOAS are not here")
    return folder


def test_real_tables_have_their_own_counts(real):
    folders = sorted(path.name for path in real.glob("sub-*"))
    assert len(folders) == 24
    rows = read_table(real / "participants.tsv")
    people = {row["participant_id"]: row["pid"] for row in rows}
    # The README speaks of 108 individuals; the table's pids reach 108, but name 100.
    assert (len(people), len(set(people.values()))) == (128, 100)
    assert max(map(int, people.values())) == 108
    subjects = {}
    for folder in folders:
        night = read_boas_night(real, folder)
        subjects[folder] = night.subject
        assert night.subject == f"pid-{people[folder]}"
        sidecar = boas_path(real, folder, "headband", "eeg.json").read_text("utf-8")
        # Scored are all whole epochs of the recording.
        assert len(night.y) == json.loads(sidecar)["RecordingDuration"] // 30
        rows = read_table(boas_path(real, folder, "psg", "events.tsv"))
        hum = Counter(row["stage_hum"] for row in rows)
        expected = {int(code): n for code, n in hum.items() if code != "8"}
        if hum["8"]:
            expected[-1] = hum["8"]
        assert Counter(night.y.tolist()) == expected
        np.testing.assert_allclose(night.onset, 30 * np.arange(len(night.y)))
    assert len(set(subjects.values())) < len(folders)
    assert subjects["sub-1"] == subjects["sub-2"] != subjects["sub-3"]
    assert subjects["sub-32"] == subjects["sub-35"]


def test_real_stages_are_the_experts(real):
    # Night 1 has 200 wake, 57 N1, 398 N2, 172 N3, 87 REM and one disconnected epoch.
    night = read_boas_night(real, "sub-1")
    assert np.bincount(night.y + 1).tolist() == [1, 200, 57, 398, 172, 87]
    rows = read_table(boas_path(real, "sub-1", "psg", "events.tsv"))
    assert [int(row["stage_ai"]) for row in rows] != night.y.tolist()


def test_real_night_with_marks_at_known_clock_times(real, tmp_path):
    root = tmp_path / "boas"
    shutil.copytree(real / "sub-8", root / "sub-8", copy_function=shutil.copyfile)
    shutil.copyfile(real / "participants.tsv", root / "participants.tsv")
    for path in [root / "sub-8", *(root / "sub-8").rglob("*")]:
        path.chmod(0o755)
    write_boas_signals(root, "sub-8")
    rows = read_table(boas_path(root, "sub-8", "psg", "events.tsv"))
    cohort = load_boas(root)
    assert len(cohort.X) == 409
    check_marks(cohort, np.array([int(row["stage_hum"]) for row in rows]))


# ------------------------------------------------------------ small nights


def test_cohort_of_three_nights_and_two_persons(tree):
    cohort = load_boas(tree)
    assert cohort.X.sfreq == {"source": 256.0, "target": 256.0}
    assert cohort.X.ch_names == {"source": BOAS_PSG, "target": BOAS_HEADBAND}
    nights = ["boas-sub-1"] * 5 + ["boas-sub-2"] * 5 + ["boas-sub-10"] * 3
    assert cohort.X.recording.tolist() == nights
    assert cohort.groups.tolist() == ["boas-pid-89"] * 10 + ["boas-pid-1"] * 3
    np.testing.assert_array_equal(cohort.X.subject, cohort.groups)
    np.testing.assert_allclose(cohort.X.onset[:5], [0, 30, 60, 90, 150])
    assert "13 epochs of 2 subjects, 3 nights." in cohort.DESCR
    for folder, stages in BOAS_STAGES.items():
        check_marks(load_boas(tree, subjects=[folder]), np.array(stages))

    everything = load_boas(tree, unscored=True)
    assert np.flatnonzero(everything.y == -1).tolist() == [4, 13]
    np.testing.assert_array_equal(everything.X["target"][4, 0, :256], np.float32(5))


def test_each_devices_own_table_says_where_its_epochs_are(tree):
    write_boas_tables(tree, "sub-1", BOAS_STAGES["sub-1"], lead=(100, 2560))
    write_boas_signals(tree, "sub-1")
    check_marks(load_boas(tree, subjects=["sub-1"]), np.array(BOAS_STAGES["sub-1"]))


def test_headband_that_lacks_an_epoch(tree):
    path = boas_path(tree, "sub-1", "headband", "events.tsv")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.warns(UserWarning, match=r"not cover are left out: boas-sub-1 \(1\)"):
        cohort = load_boas(tree, subjects=["sub-1"], unscored=True)
    np.testing.assert_allclose(cohort.X.onset, [0, 60, 90, 120, 150])
    np.testing.assert_array_equal(cohort.y, [0, 2, 3, -1, 4])
    for modality in ("source", "target"):
        np.testing.assert_allclose(cohort.X[modality][:, 0, 0], [1, 3, 4, 5, 6], atol=0.051)


def test_channels_can_be_chosen(tree):
    cohort = load_boas(tree, subjects=["sub-2"], source=["C4", "PSG_F3"], target=["HB_2"])
    assert cohort.X.ch_names == {"source": ["PSG_C4", "PSG_F3"], "target": ["HB_2"]}
    np.testing.assert_allclose(cohort.X["source"][2, :, 0], [4, 3], atol=0.051)
    np.testing.assert_allclose(cohort.X["target"][2, :, 0], [4], atol=0.051)


def test_night_without_a_channel(tree):
    write_boas_tables(
        tree, "sub-2", BOAS_STAGES["sub-2"], channels=BOAS_PSG[:4] + ["PSG_EOG"]
    )
    with pytest.raises(ValueError, match=r"boas-sub-2 has no channel PSG_O1, PSG_O2; it"):
        load_boas(tree)
    with pytest.warns(UserWarning, match="boas-sub-2 is left out: .* PSG_O1, PSG_O2"):
        cohort = load_boas(tree, on_error="warn")
    assert set(cohort.X.recording) == {"boas-sub-1", "boas-sub-10"}
    with pytest.raises(ValueError, match=r"no channel HB_3; it has HB_1, HB_2\. Choose"):
        load_boas(tree, target=["HB_3"])
    # The table promises a channel that the file has not.
    write_boas_tables(tree, "sub-2", BOAS_STAGES["sub-2"])
    path = boas_path(tree, "sub-2", "psg", "eeg.edf")
    write_edf(path, dict.fromkeys(BOAS_PSG[:5], 256 * 177), 177)
    with pytest.raises(ValueError, match=r"sub-2.*psg_eeg\.edf .*PSG_O2.* not in list"):
        load_boas(tree)


# ------------------------------------------------------------ bad input


def test_missing_files(tree):
    boas_path(tree, "sub-1", "psg", "events.tsv").unlink()
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


def test_devices_whose_headers_tell_other_times(tree):
    path = boas_path(tree, "sub-1", "headband", "eeg.edf")
    content = path.read_bytes()
    path.write_bytes(content[:176] + b"22.01.05" + content[184:])
    with pytest.warns(UserWarning, match=r"headband_eeg\.edf began \+65 s after sub-1_"):
        check_marks(load_boas(tree, subjects=["sub-1"]), np.array(BOAS_STAGES["sub-1"]))


def test_devices_that_do_not_belong_together(tree):
    shutil.copyfile(
        boas_path(tree, "sub-10", "headband", "events.tsv"),
        boas_path(tree, "sub-1", "headband", "events.tsv"),
    )
    with pytest.raises(ValueError, match=r"lists 6 epochs and the headband 4, 4 of them"):
        load_boas(tree)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (b"\t2\t3\r", b"\t-2\t3\r", r"unknown stage codes \[-2\.0\]; known are \[0,"),
        # A version without the consensus, and epochs of another length.
        (b"stage_hum", b"majority", r"psg_events\.tsv .*stage_hum"),
        (b"\t7680\t", b"\t5120\t", "epochs of 7680 samples"),
    ],
)
def test_tables_that_cannot_be(tree, good, bad, message):
    path = boas_path(tree, "sub-1", "psg", "events.tsv")
    path.write_bytes(path.read_bytes().replace(good, bad))
    with pytest.raises(ValueError, match=message):
        load_boas(tree)
