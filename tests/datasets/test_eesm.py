import json
import os
import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
from scipy.io import savemat

from skleepkd.datasets.eesm import load_eesm, read_eesm_night
from skleepkd.preprocessing import EAR_ELECTRODES, PAPER_REJECTIONS

SHARED = Path(
    os.environ.get("SKLEEPKD_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data"
)
REAL = SHARED / "eesm17"
needs_real_tables = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real EESM17 tables are not beside the project"
)

LEFT = ["ELA", "ELB", "ELE", "ELI", "ELG", "ELK"]
RIGHT = ["ERA", "ERB", "ERE", "ERI", "ERG", "ERK"]
CHANNELS = [
    "Event",
    "C3",
    "O1",
    "A1",
    "LOC",
    *LEFT,
    "ELB1",
    "C4",
    "O2",
    "A2",
    *RIGHT,
    "ERB1",
]
AASM = {"Wake": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4}


def eeg_folder(root, folder):
    return root / folder / "ses-001" / "eeg"


def stem(root, folder, task="sleep"):
    return str(eeg_folder(root, folder) / f"{folder}_ses-001_task-{task}_")


def rows_of(path):
    """A table's rows, read independently of the package."""
    lines = path.read_bytes().replace(b"\r", b"").decode().strip().split("\n")
    return [line.split("\t") for line in lines][1:]


def truth(root, folder):
    """Clock times (s), stages and the end of the study, straight from the tables."""
    events = {
        row[2]: float(row[0]) for row in rows_of(Path(stem(root, folder) + "events.tsv"))
    }
    levels = json.loads(Path(stem(root, folder) + "acq-scoring_events.json").read_text())
    names = levels["staging"]["Levels"]
    scoring = rows_of(Path(stem(root, folder) + "acq-scoring_events.tsv"))
    stages = np.array([AASM.get(names[row[2]], -1) for row in scoring])
    clock = [events["Lights Off"] + float(row[0]) for row in scoring]
    return np.array(clock), stages, events["End of Study"]


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join("\t".join(map(str, row)) + "\r\r\n" for row in rows).encode())


def write_tables(root, folder, codes, lights_off=61.71, end_of_study=340.0):
    levels = {"1": "Wake", "2": "REM", "3": "N1", "4": "N2", "5": "N3"}
    levels |= {"6": "A", "7": "Artefact", "8": "Unscored"}
    lights_on = lights_off + 30 * len(codes) + 4.3
    write_table(
        Path(stem(root, folder) + "acq-scoring_events.tsv"),
        [("onset", "duration", "staging")] + [(30 * k, 0, c) for k, c in enumerate(codes)],
    )
    Path(stem(root, folder) + "acq-scoring_events.json").write_text(
        json.dumps({"staging": {"Levels": levels}})
    )
    write_table(
        Path(stem(root, folder) + "events.tsv"),
        [
            ("onset", "duration", "trial_type"),
            (0.0, 0, "Beginning of Recording"),
            (lights_off, 0, "Lights Off"),
            (lights_off + 12.5, 0, "Arousal"),
            (lights_on, 0, "Lights On"),
            (end_of_study, 0, "End of Study"),
        ],
    )


def write_set(root, folder, signals, channels, form, sfreq=200.0):
    """Write an EEGLAB recording: signals (n_channels, n_times) in microvolts.

    ``form`` is "fdt", or "struct" and "fields" for the two layouts that keep the
    signals inside, with another recording's .fdt beside them.
    """
    path = Path(stem(root, folder) + "eeg.set")
    fdt = path.with_suffix(".fdt")
    labels = np.array([(name,) for name in channels], dtype=[("labels", object)])
    eeg = {
        "setname": "EESM17",
        "nbchan": len(channels),
        "pnts": signals.shape[1],
        "trials": 1,
        "srate": sfreq,
        "xmin": 0.0,
        "datfile": fdt.name,
        "chanlocs": labels,
        "event": [],
        "data": fdt.name if form == "fdt" else signals,
    }
    savemat(path, eeg if form == "fields" else {"EEG": eeg})
    if form == "fdt" and isinstance(signals, np.memmap):
        signals.flush()
    elif form == "fdt":
        signals.T.astype("<f4").tofile(fdt)
    else:
        np.full((3600 * 2, len(channels)), 1e4, "<f4").tofile(fdt)


def mark(signals, channels, clock, stages):
    """One second at each epoch's beginning says which epoch and stage it is.

    C3-O1 and LE become stage + 2, A1-A2 and RE the epoch's number modulo 100 plus 1.
    """
    for k, (seconds, stage) in enumerate(zip(clock, stages, strict=True)):
        start = round(seconds * 200)
        values = {"A1": k % 100 + 1, "C3": 1, "O1": -1 - stage}
        values |= {"ELA": stage + 2, "ELB": stage + 2}
        values |= {"ERA": k % 100 + 1, "ERB": k % 100 + 1}
        for name, value in values.items():
            signals[channels.index(name), start : start + 200] = value


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


CODES = {"sub-001": [1, 3, 4, 5, 5, 2, 8, 1], "sub-002": [1, 4, 4, 5, 6, 2, 7, 3, 1]}


def write_tree(root, forms=("fdt", "struct")):
    for (folder, codes), form in zip(CODES.items(), forms, strict=True):
        write_tables(root, folder, codes)
        clock, stages, end = truth(root, folder)
        signals = np.zeros((len(CHANNELS), round((end + 1.5) * 200)), np.float32)
        mark(signals, CHANNELS, clock, stages)
        write_set(root, folder, signals, CHANNELS, form)
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "eesm17")


PLAIN = {"l_freq": None, "h_freq": None, "rejection": False}


# ------------------------------------------------------------ the real tables


@needs_real_tables
def test_real_tables_have_the_published_counts():
    # Epochs a subject; the paper's figures are its authors' files of the same nights.
    expected = dict(
        zip(
            [f"sub-00{i}" for i in (5, 7, 2, 4, 6, 1, 8, 9, 3)],
            [1040, 964, 932, 1150, 491, 926, 758, 293, 857],
            strict=True,
        )
    )
    nights = {folder: read_eesm_night(REAL, folder) for folder in expected}
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


@needs_real_tables
def test_real_onsets_count_from_the_recordings_start():
    lights_off = {"sub-001": 1.71, "sub-006": 7924.855, "sub-009": 3182.58}
    for folder, seconds in lights_off.items():
        night = read_eesm_night(REAL, folder)
        np.testing.assert_allclose(night.onset, seconds + 30 * np.arange(len(night.y)))


@needs_real_tables
@pytest.mark.parametrize(("folder", "form"), [("sub-009", "fdt"), ("sub-002", "fields")])
def test_real_night_with_marks_at_known_clock_times(tmp_path, folder, form):
    root = tmp_path / "eesm17"
    shutil.copytree(REAL / folder, root / folder, copy_function=shutil.copyfile)
    for path in [root / folder, *(root / folder).rglob("*")]:
        path.chmod(0o755)
    channels = [row[0] for row in rows_of(Path(stem(root, folder) + "channels.tsv"))]
    assert len(channels) == 34
    clock, stages, end = truth(root, folder)
    n_times = round((end + 2) * 200)
    if form == "fdt":  # a sparse file: only the marks take room
        path = Path(stem(root, folder) + "eeg.fdt")
        signals = np.memmap(path, "<f4", mode="w+", shape=(34, n_times), order="F")
    else:
        signals = np.zeros((34, n_times), np.int8)
    mark(signals, channels, clock, stages)
    write_set(root, folder, signals, channels, form)
    cohort = load_eesm(root, **PLAIN)
    check_marks(cohort, stages)
    np.testing.assert_allclose(cohort.X.onset, clock)
    assert set(cohort.groups) == {f"eesm17-{folder}"}
    assert set(cohort.X.recording) == {f"eesm17-{folder}-ses-001-sleep"}


# ------------------------------------------------------------ small nights


@pytest.mark.parametrize("forms", [("fdt", "struct"), ("fields", "fdt")])
def test_both_storage_forms_and_all_codes(tmp_path, monkeypatch, forms):
    root = write_tree(tmp_path / "eesm17", forms)
    monkeypatch.chdir(tmp_path)  # a relative root must not lead to the stray .fdt
    for folder in CODES:
        _, stages, _ = truth(root, folder)
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
    write_tables(root, "sub-001", CODES["sub-001"])
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 5, (len(CHANNELS), 336 * 200)).astype(np.float32)
    signals += 300 * np.sin(2 * np.pi * 50 * np.arange(336 * 200) / 200)  # mains
    signals[CHANNELS.index("ERK")] += rng.normal(0, 60, 336 * 200)
    write_set(root, "sub-001", signals, CHANNELS, "fdt")
    return root, dict(zip(CHANNELS, signals.astype(float), strict=True))


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
        ("target", 0): mean(*LEFT) - mean(*RIGHT),
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


# ------------------------------------------------------------ the cache


class ReadAgainError(BaseException):
    pass


def no_reading(*args, **kwargs):
    raise ReadAgainError


def test_cache_is_written_once_and_mapped(tree, tmp_path, monkeypatch):
    plain = load_eesm(tree, **PLAIN)
    cache = tmp_path / "cache"
    load_eesm(tree, cache=cache, **PLAIN)
    (entry,) = cache.iterdir()
    assert [path.name for path in sorted(entry.iterdir())] == [
        "entry.json",
        "source.npy",
        "target.npy",
    ]
    monkeypatch.setattr(mne.io, "read_raw_eeglab", no_reading)
    again = load_eesm(tree, cache=cache, **PLAIN)
    night = again.X[:6]
    assert isinstance(night["source"], np.memmap)
    assert isinstance(night["target"], np.memmap)
    for modality in ("source", "target"):
        np.testing.assert_array_equal(again.X[modality], plain.X[modality])
    np.testing.assert_array_equal(again.y, plain.y)
    np.testing.assert_array_equal(again.X.onset, plain.X.onset)
    assert again.rejected == plain.rejected
    # Unscored rows are kept in the same entry, and the signals are needed no more.
    for folder in CODES:
        Path(stem(tree, folder) + "eeg.set").unlink()
    assert len(load_eesm(tree, cache=cache, unscored=True, **PLAIN).X) == 17
    # Other options are another entry.
    with pytest.raises(ReadAgainError):
        load_eesm(
            write_tree(tree), cache=cache, **{**PLAIN, "rejection": {"sub-001": ["ELA"]}}
        )


@pytest.mark.parametrize(
    "damage", ["cut", "header", "shape", "no entry.json", "empty", "other signals"]
)
def test_damaged_or_outdated_cache_is_rebuilt(tree, tmp_path, damage):
    cache = tmp_path / "cache"
    before = np.array(load_eesm(tree, cache=cache, **PLAIN).X["source"])
    (entry,) = cache.iterdir()
    source = entry / "source.npy"
    if damage == "cut":
        os.truncate(source, source.stat().st_size // 2)
    elif damage == "header":
        source.write_bytes(b"\0" * 128 + source.read_bytes()[128:])
    elif damage == "shape":
        np.save(source, np.zeros((3, 3, 6000), np.float32))
    elif damage == "no entry.json":
        (entry / "entry.json").unlink()
    elif damage == "empty":
        shutil.rmtree(entry)
        entry.mkdir()
    else:
        signals = np.zeros((len(CHANNELS), round(341.5 * 200)), np.float32)
        signals[CHANNELS.index("A1")] = 7
        write_set(tree, "sub-001", signals, CHANNELS, "fdt")
        before[:7] = 0
        before[:7, 0] = 7
    after = load_eesm(tree, cache=cache, **PLAIN).X["source"]
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_interrupted_loading_leaves_no_entry(tree, tmp_path, monkeypatch):
    read = mne.io.read_raw_eeglab

    def interrupted(path, **kwargs):
        if "sub-002" in str(path):
            raise KeyboardInterrupt
        return read(path, **kwargs)

    monkeypatch.setattr(mne.io, "read_raw_eeglab", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_eesm(tree, cache=tmp_path / "cache", **PLAIN)
    assert list((tmp_path / "cache").iterdir()) == []


# ------------------------------------------------------------ bad input


def test_missing_files(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="sub- folders"):
        load_eesm(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"recording sub-007 in .*; it has sub-001, sub-002"
    ):
        load_eesm(tree, subjects=["sub-007"])
    with pytest.raises(ValueError, match=r"such as \['sub-001'\]"):
        load_eesm(tree, subjects="sub-001")
    Path(stem(tree, "sub-002") + "eeg.set").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub-002_ses-001_task-sleep_eeg\.set"):
        load_eesm(tree, **PLAIN)
    Path(stem(tree, "sub-001") + "eeg.fdt").unlink()
    with pytest.raises(FileNotFoundError, match=r"\.fdt"):
        load_eesm(tree, subjects=["001"])
    Path(stem(tree, "sub-001") + "events.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"task-sleep_events\.tsv"):
        load_eesm(tree)


def test_truncated_signals(tree):
    fdt = Path(stem(tree, "sub-001") + "eeg.fdt")
    os.truncate(fdt, fdt.stat().st_size - 4 * len(CHANNELS))
    with pytest.raises(ValueError, match=r"eeg\.fdt has \d+ bytes; 22 channels of 68300"):
        load_eesm(tree, subjects=["sub-001"])


@pytest.mark.parametrize("form", ["struct", "fields"])
def test_truncated_signals_inside_the_set(tmp_path, form):
    tree = write_tree(tmp_path / "eesm17", ("fdt", form))
    inside = Path(stem(tree, "sub-002") + "eeg.set")
    os.truncate(inside, inside.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"sub-002.*eeg\.set is damaged"):
        load_eesm(tree, subjects=["sub-002"])


def test_signal_of_another_length(tree):
    signals = np.zeros((len(CHANNELS), 200 * 300), np.float32)
    write_set(tree, "sub-001", signals, CHANNELS, "fdt")
    with pytest.raises(ValueError, match=r"sub-001.*lasts 300\.0 s .* say 340\.0 s"):
        load_eesm(tree)


def test_last_epoch_that_is_not_covered_is_left_out(tree):
    # Less than 30 s short: accepted, but the last epoch (271.71 to 301.71 s) is not whole.
    write_tables(tree, "sub-001", CODES["sub-001"], end_of_study=302.0)
    signals = np.zeros((len(CHANNELS), 200 * 300), np.float32)
    write_set(tree, "sub-001", signals, CHANNELS, "fdt")
    cohort = load_eesm(tree, subjects=["sub-001"], unscored=True, **PLAIN)
    np.testing.assert_array_equal(cohort.y, [0, 1, 2, 3, 3, 4, -1])


def test_misaligned_scoring(tree):
    path = Path(stem(tree, "sub-001") + "acq-scoring_events.tsv")
    rows = rows_of(path)
    header = [("onset", "duration", "staging")]
    write_table(path, header + rows[:-2])
    with pytest.raises(
        ValueError, match=r"6 epochs .* \(61\.7 s\) end 64\.3 s before Lights On"
    ):
        load_eesm(tree)
    write_table(path, header + rows[:3] + rows[4:])
    with pytest.raises(ValueError, match="7 epochs of 30 s without gaps"):
        load_eesm(tree)
    write_tables(tree, "sub-001", CODES["sub-001"])
    events = Path(stem(tree, "sub-001") + "events.tsv")
    events.write_bytes(events.read_bytes().replace(b"Lights Off", b"Lights off"))
    with pytest.raises(ValueError, match=r"events\.tsv .*'Lights Off'"):
        load_eesm(tree)


def test_unknown_stage_code(tree):
    write_tables(tree, "sub-001", [1, 3, 9, 4, 4, 2, 8, 1])
    with pytest.raises(ValueError, match=r"unknown stage codes \[9\.0\]; known are \[1, 2"):
        load_eesm(tree)


def test_damaged_table(tree):
    path = Path(stem(tree, "sub-001") + "acq-scoring_events.tsv")
    path.write_bytes(path.read_bytes()[:-6])  # the last row loses its stage
    with pytest.raises(ValueError, match=r"scoring_events\.tsv .*column 'staging'"):
        load_eesm(tree)
    path.write_bytes(b"onset\tduration\tstaging\r\r\n0\t0\tWake\r\r\n")
    with pytest.raises(ValueError, match=r"Wake.*column 'staging'"):
        load_eesm(tree)


def test_missing_channel_and_other_rate(tree):
    channels = ["X3" if name == "C3" else name for name in CHANNELS]
    signals = np.zeros((len(CHANNELS), round(341.5 * 200)), np.float32)
    write_set(tree, "sub-002", signals, channels, "fdt")
    with pytest.raises(ValueError, match=r"sub-002_.*eeg\.set .*C3.* could not be picked"):
        load_eesm(tree, **PLAIN)
    write_set(tree, "sub-002", signals, CHANNELS, "fdt", sfreq=250.0)
    with pytest.raises(ValueError, match=r"sub-002.* 250 Hz, .* at 200 Hz"):
        load_eesm(tree, **PLAIN)


def test_unknown_rejection(tree):
    with pytest.raises(ValueError, match=r"\['Cz'\].* the ear electrodes are ELA"):
        load_eesm(tree, rejection={"sub-001": ["Cz"]})
    with pytest.raises(ValueError, match="'sub-1'.* the subjects are sub-001"):
        load_eesm(tree, rejection={"sub-1": ["ELA"]})
    assert set(EAR_ELECTRODES) == set(LEFT + RIGHT)


def test_other_stage_schemes(tree):
    """Four stages: N1 and N2 are light sleep; three: sleep is REM or not."""
    five = load_eesm(tree, **PLAIN, unscored=True).y
    four = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    three = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 1, 4: 2}
    for classes, codes in (("wldr", four), ("wnr", three)):
        y = load_eesm(tree, **PLAIN, unscored=True, classes=classes).y
        assert y.tolist() == [codes[code] for code in five]
    with pytest.raises(ValueError, match="wldr"):
        load_eesm(tree, **PLAIN, classes="four")
