import os
import shutil

import mne
import numpy as np
import pytest

from skleepkd.datasets.eesm import load_eesm, read_eesm_night
from skleepkd.preprocessing import EAR_ELECTRODES, PAPER_REJECTIONS
from tests.files import (
    EESM_CHANNELS,
    EESM_CODES,
    EESM_LEFT,
    EESM_RIGHT,
    eesm_path,
    eesm_truth,
    mark_eesm,
    read_table,
    write_eesm_set,
    write_eesm_tables,
    write_eesm_tree,
)

PLAIN = {"l_freq": None, "h_freq": None, "rejection": False}


def check_marks(cohort, stages):
    """Each row begins with the mark of its own epoch and stage, to the sample."""
    number = np.arange(len(stages)) % 100 + 1
    expected = {
        ("source", 0): number,
        ("source", 1): stages + 2,
        ("source", 2): np.zeros(len(stages)),
        ("target", 0): (stages + 2) / 3 - number / 3,
        ("target", 1): stages + 2,
        ("target", 2): number,
    }
    scored = stages >= 0
    for (modality, channel), value in expected.items():
        epochs = cohort.X[modality][:, channel]
        assert epochs.dtype == np.float32
        expected_start = np.repeat(value[scored][:, None], 200, axis=1)
        np.testing.assert_allclose(epochs[:, :200], expected_start, atol=1e-4)
        np.testing.assert_allclose(epochs[:, 200:], 0, atol=1e-4)
    np.testing.assert_array_equal(cohort.y, stages[scored])


@pytest.fixture
def tree(tmp_path):
    return write_eesm_tree(tmp_path / "eesm17")


# ------------------------------------------------------------ the real tables


@pytest.fixture
def real(shared_data):
    folder = shared_data / "eesm17"
    if not folder.is_dir():
        pytest.skip("the real tables of EESM17 are not here")
    return folder


def test_real_tables_have_the_published_counts(real):
    # Epochs a subject; the paper's figures are its authors' files of the same nights.
    expected = dict(
        zip(
            [f"sub-00{i}" for i in (5, 7, 2, 4, 6, 1, 8, 9, 3)],
            [1040, 964, 932, 1150, 491, 926, 758, 293, 857],
            strict=True,
        )
    )
    nights = {folder: read_eesm_night(real, folder) for folder in expected}
    assert {folder: len(night.y) for folder, night in nights.items()} == expected
    unscored = {folder: int(np.sum(night.y == -1)) for folder, night in nights.items()}
    assert unscored == {folder: int(folder == "sub-005") for folder in expected}
    fractions = {
        "sub-009": [0.273, 0.123, 0.150, 0.222, 0.232],
        "sub-003": [0.363, 0.102, 0.286, 0.067, 0.183],
    }
    for folder, values in fractions.items():
        counts = np.bincount(nights[folder].y, minlength=5)
        np.testing.assert_allclose(counts / counts.sum(), values, atol=6e-4)


def test_real_onsets_count_from_the_recordings_start(real):
    lights_off = {"sub-001": 1.71, "sub-006": 7924.855, "sub-009": 3182.58}
    for folder, seconds in lights_off.items():
        night = read_eesm_night(real, folder)
        np.testing.assert_allclose(night.onset, seconds + 30 * np.arange(len(night.y)))


@pytest.mark.parametrize("form", ["fdt", "fields"])
def test_real_night_with_marks_at_known_clock_times(real, tmp_path, form):
    root, folder = tmp_path / "eesm17", "sub-009"  # the shortest
    shutil.copytree(real / folder, root / folder, copy_function=shutil.copyfile)
    for path in [root / folder, *(root / folder).rglob("*")]:
        path.chmod(0o755)
    channels = [row["name"] for row in read_table(eesm_path(root, folder, "channels.tsv"))]
    assert len(channels) == 34
    clock, stages, end = eesm_truth(root, folder)
    n_times = round((end + 2) * 200)
    if form == "fdt":  # a sparse file: only the marks take room
        path = eesm_path(root, folder, "eeg.fdt")
        signals = np.memmap(path, "<f4", mode="w+", shape=(34, n_times), order="F")
    else:
        signals = np.zeros((34, n_times), np.int8)
    mark_eesm(signals, channels, clock, stages)
    write_eesm_set(root, folder, signals, form, channels)
    cohort = load_eesm(root, **PLAIN)
    check_marks(cohort, stages)
    np.testing.assert_allclose(cohort.X.onset, clock)
    assert set(cohort.groups) == {f"eesm17-{folder}"}
    assert set(cohort.X.recording) == {f"eesm17-{folder}-ses-001-sleep"}


# ------------------------------------------------------------ small nights


@pytest.mark.parametrize("forms", [("fdt", "struct"), ("fields", "fdt")])
def test_both_storage_forms_and_all_codes(tmp_path, monkeypatch, forms):
    root = write_eesm_tree(tmp_path / "eesm17", forms)
    monkeypatch.chdir(tmp_path)  # a relative root must not lead to the stray .fdt
    for folder in EESM_CODES:
        _, stages, _ = eesm_truth(root, folder)
        check_marks(load_eesm("eesm17", subjects=[folder], **PLAIN), stages)


def test_cohort_of_two_nights(tree):
    cohort = load_eesm(tree, **PLAIN)
    assert cohort.X["source"].shape == cohort.X["target"].shape == (14, 3, 6000)
    assert cohort.X.sfreq == {"source": 200.0, "target": 200.0}
    assert cohort.X.ch_names["source"] == ["A1-A2", "C3-O1", "C4-O2"]
    assert cohort.X.ch_names["target"] == ["LR", "LE", "RE"]
    np.testing.assert_array_equal(cohort.y, [0, 1, 2, 3, 3, 4, 0] + [0, 2, 2, 3, 4, 1, 0])
    assert list(cohort.groups) == ["eesm17-sub-001"] * 7 + ["eesm17-sub-002"] * 7
    expected = 61.71 + 30 * np.array([0, 1, 2, 3, 4, 5, 7] + [0, 1, 2, 3, 5, 7, 8])
    np.testing.assert_allclose(cohort.X.onset, expected)
    assert "14 epochs of 2 subjects" in cohort.DESCR

    everything = load_eesm(tree, unscored=True, **PLAIN)
    assert list(np.flatnonzero(everything.y == -1)) == [6, 12, 14]
    assert len(everything.X) == 17
    scored = everything.y >= 0
    np.testing.assert_array_equal(everything.X["target"][scored], cohort.X["target"])


@pytest.fixture
def noisy_tree(tmp_path):
    """One night of noise, in which ERK has no good contact."""
    root = tmp_path / "eesm17"
    write_eesm_tables(root, "sub-001", EESM_CODES["sub-001"])
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 5, (len(EESM_CHANNELS), 336 * 200)).astype(np.float32)
    signals += 300 * np.sin(2 * np.pi * 50 * np.arange(336 * 200) / 200)  # mains
    signals[EESM_CHANNELS.index("ERK")] += rng.normal(0, 60, 336 * 200)
    write_eesm_set(root, "sub-001", signals)
    return root, dict(zip(EESM_CHANNELS, signals.astype(float), strict=True))


def test_filtered_derivations_over_kept_electrodes(noisy_tree):
    root, signals = noisy_tree
    cohort = load_eesm(root, unscored=True)
    assert cohort.rejected == {"sub-001": ["ERK"]}
    # The paper's order: filter the electrodes, then derive.
    filtered = {
        name: mne.filter.filter_data(signal, 200, 0.2, 42.0, verbose="ERROR")
        for name, signal in signals.items()
    }

    def mean(*names):
        return np.mean([filtered[name] for name in names if name != "ERK"], axis=0)

    expected = {
        ("source", 0): filtered["A1"] - filtered["A2"],
        ("source", 1): filtered["C3"] - filtered["O1"],
        ("source", 2): filtered["C4"] - filtered["O2"],
        ("target", 0): mean(*EESM_LEFT) - mean(*EESM_RIGHT),
        ("target", 1): mean("ELA", "ELB") - mean("ELE", "ELI", "ELG", "ELK"),
        ("target", 2): mean("ERA", "ERB") - mean("ERE", "ERI", "ERG", "ERK"),
    }
    starts = [round((61.71 + 30 * k) * 200) for k in range(8)]
    for (modality, channel), signal in expected.items():
        epochs = np.stack([signal[start : start + 6000] for start in starts])
        np.testing.assert_allclose(cohort.X[modality][:, channel], epochs, atol=1e-3)


def test_rejection_can_be_named_or_left_out(noisy_tree):
    root, signals = noisy_tree
    assert load_eesm(root, rejection=False).rejected == {"sub-001": []}
    named = load_eesm(
        root, rejection={"sub-001": ["ELA"]}, l_freq=None, h_freq=None, unscored=True
    )
    assert named.rejected == {"sub-001": ["ELA"]}
    start = round(61.71 * 200)
    concha = np.mean([signals[name] for name in ("ELE", "ELI", "ELG", "ELK")], axis=0)
    left = (signals["ELB"] - concha)[start : start + 6000]
    np.testing.assert_allclose(named.X["target"][0, 1], left, atol=1e-3)
    assert load_eesm(root, rejection=PAPER_REJECTIONS).rejected == {"sub-001": []}


def test_side_without_electrodes_is_a_zero_channel(noisy_tree):
    root, _ = noisy_tree
    canal = {"sub-001": ["ERA", "ERB"]}
    with pytest.warns(UserWarning, match="RE"):
        cohort = load_eesm(root, rejection=canal)
    np.testing.assert_array_equal(cohort.X["target"][:, 2], 0)
    assert np.all(cohort.X["target"][:, :2].std(axis=2) > 0)


# ------------------------------------------------------------ bad input


def test_missing_files(tree):
    eesm_path(tree, "sub-002", "eeg.set").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-002_ses-001_task-sleep_eeg\.set"):
        load_eesm(tree, **PLAIN)
    eesm_path(tree, "sub-001", "eeg.fdt").unlink()
    with pytest.raises(FileNotFoundError, match=r"\.fdt"):
        load_eesm(tree, subjects=["001"])
    eesm_path(tree, "sub-001", "events.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"task-sleep_events\.tsv"):
        load_eesm(tree)


@pytest.mark.parametrize("form", ["fdt", "struct", "fields"])
def test_truncated_signals(tmp_path, form):
    tree = write_eesm_tree(tmp_path / "eesm17", ("fdt", form))
    inside = form != "fdt"
    path = eesm_path(tree, "sub-002", "eeg.set" if inside else "eeg.fdt")
    os.truncate(path, path.stat().st_size // 2 if inside else 4 * 22 * 68299)
    message = (
        r"eeg\.set is damaged" if inside else r"fdt has \d+ bytes; 22 channels of 68300"
    )
    with pytest.raises(ValueError, match=f"sub-002.*{message}"):
        load_eesm(tree, subjects=["sub-002"])


def test_signal_of_another_length(tree):
    signals = np.zeros((len(EESM_CHANNELS), 200 * 300), np.float32)
    write_eesm_set(tree, "sub-001", signals)
    with pytest.raises(ValueError, match=r"sub-001.*lasts 300\.0 s .* say 340\.0 s"):
        load_eesm(tree)


def test_last_epoch_that_is_not_covered_is_left_out(tree):
    # Less than 30 s short: accepted, but the last epoch (271.71 to 301.71 s) is not whole.
    write_eesm_tables(tree, "sub-001", EESM_CODES["sub-001"], end=302.0)
    signals = np.zeros((len(EESM_CHANNELS), 200 * 300), np.float32)
    write_eesm_set(tree, "sub-001", signals)
    cohort = load_eesm(tree, subjects=["sub-001"], unscored=True, **PLAIN)
    np.testing.assert_array_equal(cohort.y, [0, 1, 2, 3, 3, 4, -1])


def test_misaligned_scoring(tree):
    path = eesm_path(tree, "sub-001", "acq-scoring_events.tsv")
    lines = path.read_bytes().split(b"\r\r\n")  # the last one is empty
    path.write_bytes(b"\r\r\n".join(lines[:-3]))
    with pytest.raises(
        ValueError, match=r"6 epochs .* \(61\.7 s\) end 64\.3 s before Lights On"
    ):
        load_eesm(tree)
    path.write_bytes(b"\r\r\n".join(lines[:4] + lines[5:]))
    with pytest.raises(ValueError, match="7 epochs of 30 s without gaps"):
        load_eesm(tree)
    write_eesm_tables(tree, "sub-001", EESM_CODES["sub-001"])
    events = eesm_path(tree, "sub-001", "events.tsv")
    events.write_bytes(events.read_bytes().replace(b"Lights Off", b"Lights off"))
    with pytest.raises(ValueError, match=r"events\.tsv .*'Lights Off'"):
        load_eesm(tree)


def test_unknown_stage_code(tree):
    write_eesm_tables(tree, "sub-001", [1, 3, 9, 4, 4, 2, 8, 1])
    with pytest.raises(ValueError, match=r"unknown stage codes \[9\.0\]; known are \[1, 2"):
        load_eesm(tree)


def test_damaged_table(tree):
    path = eesm_path(tree, "sub-001", "acq-scoring_events.tsv")
    path.write_bytes(path.read_bytes()[:-6])  # the last row loses its stage
    with pytest.raises(ValueError, match=r"scoring_events\.tsv .*column 'staging'"):
        load_eesm(tree)
    path.write_bytes(b"onset\tduration\tstaging\r\r\n0\t0\tWake\r\r\n")
    with pytest.raises(ValueError, match=r"Wake.*column 'staging'"):
        load_eesm(tree)


def test_missing_channel_and_other_rate(tree):
    channels = ["X3" if name == "C3" else name for name in EESM_CHANNELS]
    signals = np.zeros((len(EESM_CHANNELS), round(341.5 * 200)), np.float32)
    write_eesm_set(tree, "sub-002", signals, channels=channels)
    with pytest.raises(ValueError, match=r"sub-002_.*eeg\.set .*C3.* could not be picked"):
        load_eesm(tree, **PLAIN)
    write_eesm_set(tree, "sub-002", signals, sfreq=250.0)
    with pytest.raises(ValueError, match=r"sub-002.* 250 Hz, .* at 200 Hz"):
        load_eesm(tree, **PLAIN)


def test_unknown_rejection(tree):
    with pytest.raises(ValueError, match=r"\['Cz'\].* the ear electrodes are ELA"):
        load_eesm(tree, rejection={"sub-001": ["Cz"]})
    with pytest.raises(ValueError, match="'sub-1'.* the subjects are sub-001"):
        load_eesm(tree, rejection={"sub-1": ["ELA"]})
    assert set(EAR_ELECTRODES) == set(EESM_LEFT + EESM_RIGHT)
