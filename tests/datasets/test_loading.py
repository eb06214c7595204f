"""What holds for the loader of every data set: its cache, its names, its stages."""

import os
import shutil
from collections import namedtuple
from functools import partial

import mne
import numpy as np
import pytest

from skleepkd.datasets import load_boas, load_cinc2018, load_eesm, load_mass, load_sleep_edf
from skleepkd.datasets.checks import check_channels
from skleepkd.datasets.loading import Night, load_nights
from tests import files

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
    "damage", ["cut", "header", "shape", "no entry.json", "empty", "other signals"]
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
        info = mne.create_info(["A"], 200.0, "eeg")
        return mne.io.RawArray(1e-6 * signal[None], info, verbose="error")

    night = Night(30.0 * np.arange(10), np.arange(10) % 5, files=[])
    options = {"name": "mine", "sfreq": 200.0, **options}
    X = load_nights(["n"], lambda number: night, read, {"target": ["A"]}, **options).X
    spectrum = 2 * np.abs(np.fft.rfft(X["target"][5, 0])) / X.shape[2]
    found = [spectrum[30 * f] / (1 if f else 2) for f in frequencies]
    np.testing.assert_allclose(found, expected, atol=1)
