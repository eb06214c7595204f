"""What holds for the loader of every data set: its cache, its names, its stages."""

import json
import os
import re
import shutil
from collections import namedtuple
from functools import partial

import mne
import numpy as np
import pytest
from sklearn.utils import Bunch

from skleepkd.datasets import (
    Night,
    check_start,
    load_boas,
    load_cinc2018,
    load_eesm,
    load_mass,
    load_nights,
    load_sleep_edf,
)
from skleepkd.datasets.checks import check_channels
from tests import files
from tests.tiny import raw_of

PLAIN = {"l_freq": None, "h_freq": None, "rejection": False}
EESM = partial(load_eesm, **PLAIN)
DataSet = namedtuple("DataSet", "write load others absent wrong empty")
#: By name what writes a tree, what loads it, options that each make another cache entry,
#: and messages: of a recording that is not there, of wrong options, of an empty folder.
DATA_SETS = {
    "boas": DataSet(
        files.write_boas_tree,
        load_boas,
        [{"target": ["HB_1"]}],
        (["sub-7"], "no recording sub-7 in .*; it has sub-1, sub-2"),
        {
            "subjects": ("sub-1", r"such as \['sub-1'\]"),
            "source": ("C3", "channels is a list"),
        },
        "holds no sub- folders",
    ),
    "cinc2018": DataSet(
        files.write_cinc2018_tree,
        load_cinc2018,
        [{"h_freq": 40}, {"sfreq": 100}, {"channels": ["ECG"]}],
        (["tr03-0005", "tr03-0006"], "no recording tr03-0006 in"),
        {
            "subjects": ("tr03-0005", r"such as \['tr03-0005'\]"),
            "channels": ("ECG", r"channels is a list, such as \['ECG'\]"),
        },
        "holds no folder trNN-NNNN",
    ),
    "eesm": DataSet(
        files.write_eesm_tree,
        EESM,
        [{"rejection": {"sub-001": ["ELA"]}}],
        (["sub-007"], "no recording sub-007 in .*; it has sub-001, sub-002"),
        {"subjects": ("sub-001", r"such as \['sub-001'\]")},
        "holds no sub- folders",
    ),
    "mass": DataSet(
        files.write_mass_tree,
        partial(load_mass, subsets=(1, 4)),
        [{"h_freq": 40}, {"sfreq": 100}, {"channels": ["C4-A1"]}],
        (["01-01-0009"], "no recording 01-01-0009 in the subsets"),
        {
            "subjects": ("01-01-0003", r"such as \['01-01-0003'\]"),
            "channels": ({"target": "ECG"}, "channels is a list"),
        },
        "folders in it hold no '01-01-NNNN PSG.edf'",
    ),
    "sleep_edf": DataSet(
        files.write_sleep_edf_tree,
        load_sleep_edf,
        [{"h_freq": 40}, {"crop": None}, {"channels": ["EEG Pz-Oz"]}],
        ([0, 2], "no recording of subject 2"),
        {"channels": ("EOG horizontal", r"such as \['EOG horizontal'\]")},
        r"holds no 'SC4001E0-PSG\.edf' or",
    ),
}


@pytest.fixture(scope="module", params=DATA_SETS)
def data_set(request, tmp_path_factory):
    """A data set whose ``load`` reads its tree."""
    it = DATA_SETS[request.param]
    return it._replace(load=partial(it.load, it.write(tmp_path_factory.mktemp("tree"))))


class ReadAgainError(BaseException):
    pass


@pytest.fixture
def no_reading(monkeypatch):
    """Let signals be read no more, once it is called."""

    def refuse(*args, **kwargs):
        raise ReadAgainError

    def forbid():
        for name in ("read_raw_edf", "read_raw_eeglab", "RawArray"):
            monkeypatch.setattr(mne.io, name, refuse)

    return forbid


def check_equal(one, other):
    for modality in ("source", "target"):
        np.testing.assert_array_equal(one.X[modality], other.X[modality])
    np.testing.assert_array_equal(one.y, other.y)
    np.testing.assert_array_equal(one.X.onset, other.X.onset)


def test_other_stage_schemes(data_set):
    """Four stages: N1 and N2 are light sleep; three: sleep is REM or not."""
    load = data_set.load
    five = load(unscored=True).y
    four = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    three = {-1: -1, 0: 0, 1: 1, 2: 1, 3: 1, 4: 2}
    for classes, codes in (("wldr", four), ("wnr", three)):
        y = load(unscored=True, classes=classes).y
        assert y.tolist() == [codes[code] for code in five]
    with pytest.raises(ValueError, match="wldr"):
        load(classes="four")


def test_cache_is_written_once_and_mapped(data_set, tmp_path, no_reading):
    load = data_set.load
    plain, everything = load(), load(unscored=True)
    load(cache=tmp_path)
    no_reading()
    again = load(cache=tmp_path)
    assert isinstance(again.X[:3]["source"], np.memmap)
    assert isinstance(again.X[:3]["target"], np.memmap)
    check_equal(again, plain)
    check_equal(load(cache=tmp_path, unscored=True), everything)  # the same entry
    for options in data_set.others:
        with pytest.raises(ReadAgainError):  # another entry
            load(cache=tmp_path, **options)


def test_cache_outlives_the_signals(tmp_path, no_reading):
    tree = files.write_eesm_tree(tmp_path / "eesm17")
    plain = EESM(tree, cache=tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    names = sorted(path.name for path in entry.iterdir())
    assert names == ["entry.json", "source.npy", "target.npy"]
    for folder in files.EESM_CODES:
        files.eesm_path(tree, folder, "eeg.set").unlink()
    no_reading()
    again = EESM(tree, cache=tmp_path / "cache")
    check_equal(again, plain)
    assert again.rejected == plain.rejected


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "header",
        "shape",
        "no entry.json",
        "a night too few",
        "empty",
        "other signals",
    ],
)
def test_damaged_or_outdated_cache_is_rebuilt(tmp_path, damage):
    tree, cache = files.write_eesm_tree(tmp_path / "eesm17"), tmp_path / "cache"
    before = np.array(EESM(tree, cache=cache).X["source"])
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
    elif damage == "a night too few":
        about = json.loads((entry / "entry.json").read_text())
        about["nights"].pop()
        (entry / "entry.json").write_text(json.dumps(about))
    elif damage == "empty":
        shutil.rmtree(entry)
        entry.mkdir()
    else:
        channels = files.EESM_CHANNELS
        signals = np.zeros((len(channels), round(341.5 * 200)), np.float32)
        signals[channels.index("A1")] = 7
        files.write_eesm_set(tree, "sub-001", signals)
        before[:7] = 0
        before[:7, 0] = 7
    after = EESM(tree, cache=cache).X["source"]
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_interrupted_loading_leaves_no_entry(tmp_path, monkeypatch):
    tree, read = files.write_eesm_tree(tmp_path / "eesm17"), mne.io.read_raw_eeglab

    def interrupted(path, **kwargs):
        if "sub-002" in str(path):
            raise KeyboardInterrupt
        return read(path, **kwargs)

    monkeypatch.setattr(mne.io, "read_raw_eeglab", interrupted)
    with pytest.raises(KeyboardInterrupt):
        EESM(tree, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_names_that_are_refused(data_set, tmp_path):
    subjects, message = data_set.absent
    with pytest.raises(FileNotFoundError, match=message):
        data_set.load(subjects=subjects)
    for option, (given, message) in data_set.wrong.items():
        with pytest.raises(ValueError, match=message):
            data_set.load(**{option: given})
    with pytest.raises(ValueError, match="on_error is 'raise' or 'warn'; given 'skip'"):
        data_set.load(on_error="skip")
    with pytest.raises(FileNotFoundError, match=data_set.empty):
        data_set.load.func(tmp_path / "nowhere", **data_set.load.keywords)


@pytest.mark.parametrize("wrong", ["C4-A1", [], {"source": ["C3-A2"]}, {"target": "ECG"}])
def test_channels_are_a_list_or_lists_by_modality(wrong):
    with pytest.raises(ValueError, match="channels is a list, such as .*'ECG'"):
        check_channels(wrong, {"target": ["ECG"]})


@pytest.mark.parametrize("name", ["cinc2018", "mass", "sleep_edf"])
def test_filter_and_rate_are_passed_on(name, tmp_path):
    write, load, *_ = DATA_SETS[name]
    root, given = write(tmp_path), {"sfreq": 50, "l_freq": 0.3, "h_freq": 20}
    cohort, plain = load(root, **given), load(root, sfreq=50)
    assert cohort.X.shape[2] == plain.X.shape[2] == 1500
    assert "50 Hz, band-pass: 0.3 to 20 Hz." in cohort.DESCR
    # Constant levels are above the noise of the filter's edges in the plain nights alone.
    levels = [np.abs(X["source"][1:-1].mean(axis=2)).mean() for X in (cohort.X, plain.X)]
    assert levels[0] < 0.2 * levels[1]


@pytest.mark.parametrize(
    ("options", "frequencies", "expected"),
    [
        ({}, [0, 10, 60], [200, 100, 50]),
        ({"sfreq": 100.0}, [0, 10, 40], [200, 100, 0]),  # 60 Hz would come back as 40 Hz
        ({"l_freq": 0.3, "h_freq": 40}, [0, 10, 60], [0, 100, 0]),
        ({"h_freq": 40}, [0, 10, 60], [200, 100, 0]),
    ],
)
def test_filter_and_resampling(options, frequencies, expected):
    t = np.arange(300 * 200) / 200
    signal = 200 + 100 * np.sin(2 * np.pi * 10 * t) + 50 * np.sin(2 * np.pi * 60 * t)

    def read(night):
        return raw_of(1e-6 * signal[None], ["A"], 200.0)

    night = Night(30.0 * np.arange(10), np.arange(10) % 5, files=[])
    options = {"name": "mine", "sfreq": 200.0, **options}
    X = load_nights(["n"], lambda number: night, read, {"target": ["A"]}, **options).X
    spectrum = 2 * np.abs(np.fft.rfft(X["target"][5, 0])) / X.shape[2]
    found = [spectrum[30 * f] / (1 if f else 2) for f in frequencies]
    np.testing.assert_allclose(found, expected, atol=1)


# ------------------------------------------------------------ nights that are left out

#: By data set a file that is cut, and the night that it is of.
CUT = {
    "boas": ("sub-2_*headband_eeg.edf", "boas-sub-2"),
    "cinc2018": ("tr12-0685.mat", "cinc2018-tr12-0685"),
    "eesm": ("sub-002_*eeg.set", "eesm17-sub-002"),
    "mass": ("01-04-0002 PSG.edf", "mass-01-04-0002"),
    "sleep_edf": ("SC4002*-PSG.edf", "sleep-edf-SC4002"),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", CUT)
def test_one_bad_night_is_left_out_until_it_is_repaired(name, cached, tmp_path):
    write, load, *_ = DATA_SETS[name]
    root, (pattern, night) = write(tmp_path / "tree"), CUT[name]
    load = partial(load, root, cache=tmp_path / "cache" if cached else None)
    plain = load(unscored=True)
    (path,) = root.rglob(pattern)
    content = path.read_bytes()
    os.truncate(path, int(0.7 * len(content)))
    with pytest.raises(ValueError, match=path.name):
        load(on_error="raise")
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"{night} is left out: .*{path.name}") as seen:
            cohort = load(on_error="warn", unscored=True)
        assert {one.filename for one in seen} == {__file__}  # where the user called
        assert list(cohort.left_out) == [night]
        assert f"Left out: {night} ({cohort.left_out[night]})." in cohort.DESCR
        others = ~np.char.startswith(plain.X.recording, night)
        check_equal(cohort, Bunch(X=plain.X[others], y=plain.y[others]))
    path.write_bytes(content)
    again = load(on_error="warn", unscored=True)
    assert again.left_out == {}
    check_equal(again, plain)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        *(("boas", f"sub-2_*{device}_eeg.edf") for device in ("psg", "headband")),
        *(("mass", f"01-04-0002 {kind}.edf") for kind in ("PSG", "Base")),
        *(("sleep_edf", f"SC4002*-{kind}.edf") for kind in ("PSG", "Hypnogram")),
    ],
)
def test_a_file_that_is_cut_or_missing(name, pattern, tmp_path):
    write, load, *_ = DATA_SETS[name]
    root = write(tmp_path)
    (path,) = root.rglob(pattern)
    for size in (int(0.6 * path.stat().st_size), 300, 100):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=rf"{path.name}.* (cut short|damaged)"):
            load(root)
    path.unlink()
    listed = f"{re.escape(path.name)}|{re.escape(pattern)}"
    with pytest.raises(FileNotFoundError, match=listed):
        load(root)


class Study:
    """Nights "a", "b" and "c" of two epochs of 100 Hz, each of which holds one level."""

    def __init__(self, cache=None):
        self.cache, self.faults, self.was_read = cache, {}, []
        self.scoring = {number: Night([0, 30], [0, 2], files=[]) for number in "abc"}

    def read_scoring(self, number):
        if isinstance(self.scoring[number], Exception):
            raise self.scoring[number]
        return self.scoring[number]

    def read_signals(self, night):
        number = night.recording.removeprefix("mine-")
        self.was_read.append(number)
        if number in self.faults:
            raise self.faults[number]
        signal = np.full((1, 6000), 1e-6 * (1 + "abc".index(number)))
        return raw_of(signal, ["A"], 100.0)

    def load(self, on_error="warn"):
        self.was_read.clear()
        options = {"sfreq": 100, "cache": self.cache, "on_error": on_error}
        readers = self.read_scoring, self.read_signals
        return load_nights([*"abc"], *readers, {"target": ["A"]}, name="mine", **options)


def test_a_night_that_an_entry_lacks_is_tried_again(tmp_path):
    """Nothing of its file need change: a disk may have been away."""
    study = Study(tmp_path)
    study.faults["b"] = RuntimeError("gone")
    for reads in ("abc", "b"):
        with pytest.warns(UserWarning, match="mine-b is left out: RuntimeError"):
            cohort = study.load()
        assert "".join(study.was_read) == reads
        assert cohort.left_out == {"mine-b": "RuntimeError('gone')"}
        assert cohort.X["target"][:, 0, 0].tolist() == [1, 1, 3, 3]
        assert cohort.groups.tolist() == ["mine-a"] * 2 + ["mine-c"] * 2
        assert "4 epochs of 2 subjects, 2 nights." in cohort.DESCR
    with pytest.raises(RuntimeError, match="gone"):
        study.load(on_error="raise")
    # It is back, and the others, which the entry has, are not.
    study.faults = dict.fromkeys("ac", OSError("gone"))
    for reads in ("b", ""):
        cohort = study.load(on_error="raise")
        assert "".join(study.was_read) == reads
        assert cohort.X["target"][:, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
        assert cohort.left_out == {}


def test_nights_that_a_loader_cannot_have_meant():
    study = Study()
    study.scoring |= {"a": Night([0], [0, 2], files=[]), "b": Night([0], [7], files=[])}
    with pytest.warns(UserWarning, match="is left out"):
        cohort = study.load()
    assert "1 onsets and 2 stages" in cohort.left_out["mine-a"]
    assert "takes AASM codes" in cohort.left_out["mine-b"]
    assert study.was_read == ["c"]
    study.scoring["c"] = Night([60, 90], [0, 2], files=[])
    with (
        pytest.warns(UserWarning, match="mine-c: its signals cover none of 2 epochs"),
        pytest.raises(
            ValueError, match="None of 3 recordings .*; the first is mine-a: 1 on"
        ),
    ):
        study.load()
    study.scoring = dict.fromkeys("abc")  # none is wanted
    with pytest.raises(ValueError, match="None of 3 recordings can be read$"):
        study.load()


@pytest.mark.parametrize("cached", [False, True])
def test_epochs_that_the_signals_do_not_cover_are_told(tmp_path, cached):
    study = Study(tmp_path if cached else None)
    study.scoring["a"] = Night([-0.02, 0, 30, 30.02], [1, 0, 2, 3], files=[])
    begin = {"target": [30, 60]}  # on the device's own clock
    study.scoring["b"] = Night([0, 30], [1, 3], files=[], begin=begin)
    told = r"mine-a (2), mine-b (1)"
    for _ in range(2):
        with pytest.warns(UserWarning, match="do not cover are left out: mine-a .2., mine"):
            cohort = study.load()
        assert f"Epochs that the signals do not cover: {told}." in cohort.DESCR
        assert cohort.y.tolist() == [0, 2, 1, 0, 2]
        assert cohort.X.onset.tolist() == [0, 30, 0, 0, 30]


def test_signals_that_were_paused_are_refused():
    study, raw = Study(), raw_of(np.zeros((1, 6000)), ["A"], 100.0)
    raw.set_annotations(mne.Annotations(20, 0, "boundary"))
    options = {"ch_names": {"target": ["A"]}, "name": "mine", "sfreq": 100}
    with pytest.raises(ValueError, match="joined, or paused, after 20 s"):
        load_nights(["a"], study.read_scoring, lambda _: raw, **options)


# ------------------------------------------------------------ clocks


@pytest.mark.parametrize(
    ("one", "late", "other", "later", "expected"),
    [
        ("01.01.00 22.00.00", 0, "01.01.00 22.00.00", 0, 0),
        ("01.01.00 22.00.00", 0.37, "01.01.00 22.00.00", 0, -0.37),
        ("01.01.00 22.00.00", 0, "01.01.00 22.00.00", 0.75, 0.75),
        ("01.01.00 22.00.00", 0.9, "01.01.00 22.00.01", 0.1, 0.2),
        ("31.12.99 23.59.58", 2.5, "01.01.00 00.00.00", 0.25, -0.25),
        ("X        22.00.00", 0, "X        22.00.00", 0.25, 0.25),
        ("X        22.00.00", 0, "01.01.00 22.00.00", 0, None),
        ("01.01.00 22.00.00", 0, "02.01.00 22.00.00", 0, None),
        ("01.01.00 22.00.00", 0, "01.01.00 22.00.01", 0, None),
        ("01.01.00 22.00.00", 5, "01.01.00 22.00.00", 0, None),
    ],
)
def test_when_two_files_begin(tmp_path, one, late, other, later, expected):
    paths = [tmp_path / "psg.edf", tmp_path / "stages.edf"]
    for path, begun, start in zip(paths, (one, other), (late, later), strict=True):
        clock = begun[:8].strip(), begun[9:]
        signals, starts = {"ECG": 100}, [start]
        files.write_edf(path, signals, starts=starts, reserved="EDF+C", clock=clock)
    if expected is None:
        with pytest.raises(
            ValueError, match=r"psg\.edf begins at .*, stages\.edf at .*: do"
        ):
            check_start(*paths)
    else:
        assert check_start(*paths) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("late", "clock", "later"),
    [(0, 0, 0), (0.37, 0, 0), (0, 0, 0.63), (0.37, 0, 0.37), (0.9, 1, 0.1), (0.1, -1, 0.9)],
)
@pytest.mark.parametrize("kind", ["mass", "sleep_edf"])
def test_labels_land_on_their_samples_where_files_begin_within_a_second(
    tmp_path, kind, late, clock, later
):
    """Sample k holds k / 10 microvolts: a window that is a sample off would show it.

    ``late``, ``later``: begins of the recording and of the scoring after their headers'
    times, of which the latter's is ``clock`` seconds later.
    """
    sfreq, n_records = (256, 240) if kind == "mass" else (100, 600)
    ramp = np.arange(sfreq * n_records) / 10 - 3000
    texts = files.stage_texts("W123R")
    notes = [(30 * (k + 1) + later, 30, text) for k, text in enumerate(texts)]
    starts = late + np.arange(n_records)
    options = {"reserved": "EDF+C", "clock": ("01.01.00", "22.00.10")}
    at = {"reserved": "EDF+C", "clock": ("01.01.00", f"22.00.{10 + clock:02d}")}
    if kind == "mass":
        psg, stages = (files.mass_path(tmp_path, "01-01-0001", k) for k in ("PSG", "Base"))
        label, load = "ECG ECGI", partial(load_mass, subsets=[1], channels=["ECG"])
    else:
        psg, stages = (
            tmp_path / files.sleep_edf_record("SC4011", k)["fname"]
            for k in ("PSG", "Hypnogram")
        )
        label, load = "EOG horizontal", partial(load_sleep_edf, channels=["EOG horizontal"])
        load = partial(load, crop=None)
    files.write_edf(psg, {label: ramp}, n_records, starts=starts, **options)
    files.write_edf(stages, {}, 1, 0, notes=notes, starts=[later], **at)
    cohort = load(tmp_path, sfreq=sfreq)
    first = cohort.X["target"][:, 0, 0]
    first = -first if kind == "mass" else first + ramp.mean()
    expected = [round((onset + clock - late) * sfreq) for onset, *_ in notes]
    assert np.round(10 * (first + 3000)).tolist() == expected
    assert cohort.y.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(cohort.X.onset * sfreq, expected, atol=0.5)
