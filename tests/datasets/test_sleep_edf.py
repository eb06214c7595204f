import hashlib
import pickle
import re
import shutil
from collections import Counter
from functools import partial

import numpy as np
import pytest

from skleepkd import PairedEpochs, SleepStager
from skleepkd.datasets import SleepEdfFolds, fetch_sleep_edf, load_sleep_edf
from skleepkd.datasets.sleep_edf import read_sleep_edf_night
from tests.files import (
    CODES,
    SLEEP_EDF_STAGES,
    codes_of,
    dead_url,
    in_a_fork,
    lights_off,
    real_sleep_edf,
    serve,
    sleep_edf_record,
    sleep_edf_signals,
    write_sleep_edf,
    write_sleep_edf_files,
    write_sleep_edf_tree,
)
from tests.tiny import TinyNetwork

#: In-bed part of the paper's 39 nights: first epoch, length, epochs removed from it.
IN_BED_2019 = """
4001:1010+757; 4002:854+1053(-1); 4011:710+1021; 4012:630+1109; 4021:724+940;
4022:750+927(-1); 4031:864+869; 4032:910+832; 4041:764+1194(-1); 4042:1022+1166(-4);
4051:1074+797; 4052:1066+1173(-2); 4061:922+766; 4062:818+955; 4071:902+917;
4072:912+911; 4081:836+1013; 4082:828+981; 4091:796+1062(-11); 4092:896+1028(-12);
4101:738+1039(-1); 4102:862+1021(-1); 4111:782+992(-1); 4112:1188+719; 4121:1056+868;
4122:1082+919; 4131:950+950; 4141:820+932; 4142:938+877; 4151:872+888(-4);
4152:1050+972(-5); 4161:690+1112(-5); 4162:1004+961(-2); 4171:938+942(-1);
4172:1080+949(-4); 4181:890+880; 4182:1012+831; 4191:1146+1473; 4192:1084+1415(-5)
"""


@pytest.fixture
def tree(tmp_path):
    return write_sleep_edf_tree(tmp_path)


# ------------------------------------------------------------ the real annotations


@pytest.fixture(scope="module")
def real(shared_data):
    return real_sleep_edf(shared_data)


@pytest.fixture(scope="module")
def study(real, tmp_path_factory):
    """All hypnograms; recordings as long as the real ones, which are silent."""
    root = tmp_path_factory.mktemp("study")
    for number, (rows, start, duration, _) in real.items():
        write_sleep_edf_files(root, number, rows, duration // 30, start)
    return root


def test_in_bed_as_in_the_paper_night_by_night(study):
    counts, removed = Counter(), 0
    table = re.findall(r"(\d{4}):(\d+)\+(\d+)(?:\(-(\d+)\))?", IN_BED_2019)
    assert len(table) == 39
    for digits, first, length, unscored in table:
        night = read_sleep_edf_night(study, f"SC{digits}", crop="phan2019")
        n_unscored = int((night.y == -1).sum())
        found = int(night.onset[0]) // 30, len(night.y), n_unscored
        assert found == (int(first), int(length), int(unscored or 0)), digits
        counts.update(night.y[night.y >= 0].tolist())
        removed += n_unscored
    assert removed == 61
    assert counts.total() == 38150
    assert [counts[code] for code in range(5)] == [4509, 2762, 17577, 5591, 7711]


def test_in_bed_by_the_plain_rule(study, real):
    counts = Counter()
    for number, (rows, _, duration, _) in real.items():
        night = read_sleep_edf_night(study, number)
        counts.update(night.y[night.y >= 0].tolist())
        asleep = np.flatnonzero(codes_of(rows, duration) > 0)
        assert night.onset[-1] == min(30 * (asleep[-1] + 30), duration - 30)
    assert counts.total() == 38152
    assert counts[0] == 4511


@pytest.mark.parametrize("minutes", [0, 30, 12.25])
def test_minutes_around_sleep_and_the_whole_day(study, real, minutes):
    for number in ("SC4001", "SC4192"):
        rows, _, duration, _ = real[number]
        codes = codes_of(rows, duration)
        asleep = np.flatnonzero(codes > 0)
        margin = int(2 * minutes)
        night = read_sleep_edf_night(study, number, crop=minutes)
        assert night.onset[0] == 30 * (asleep[0] - margin)
        stop = min(asleep[-1] + margin + 1, len(codes))
        np.testing.assert_array_equal(night.y, codes[asleep[0] - margin : stop])
        whole = read_sleep_edf_night(study, number, crop=None)
        np.testing.assert_array_equal(whole.y, codes)
        np.testing.assert_array_equal(whole.onset, 30 * np.arange(len(codes)))


@pytest.fixture(scope="module")
def whole_nights(real, tmp_path_factory):
    """Whole recordings with the real annotations; the folder goes when the tests end."""
    root = tmp_path_factory.mktemp("whole")
    nights = {}
    for number in ("SC4001", "SC4092"):
        rows, start, duration, _ = real[number]
        codes = codes_of(rows, duration)
        signals = sleep_edf_signals(codes)
        write_sleep_edf_files(root, number, rows, len(codes), start, signals)
        means = [signal.mean() for signal in signals.values()]
        nights[number] = len(codes) // 2, codes, *means
    yield root, nights
    shutil.rmtree(root)


def test_every_label_lands_on_its_epoch(whole_nights):
    root, nights = whole_nights
    cohort = load_sleep_edf(root, crop="phan2019")
    source, target = cohort.X["source"], cohort.X["target"]
    assert source.dtype == target.dtype == np.float32
    assert source.shape == target.shape == (len(cohort.y), 1, 3000)
    in_bed = {"SC4001": (1010, 757, 0), "SC4092": (896, 1028, 12)}
    for number, (first, length, removed) in in_bed.items():
        middle, codes, eeg_mean, eog_mean = nights[number]
        mine = cohort.X.recording == f"sleep-edf-{number}"
        epochs = np.arange(first, first + length)
        epochs = epochs[codes[epochs] >= 0]
        assert len(epochs) == mine.sum() == length - removed
        np.testing.assert_array_equal(cohort.X.onset[mine], 30 * epochs)
        np.testing.assert_array_equal(cohort.y[mine], codes[epochs])
        # The source holds twice the epoch's number, the target its stage and a ramp.
        expected = (2 * (epochs - middle) - eeg_mean)[:, None]
        np.testing.assert_allclose(
            source[mine][:, 0], np.broadcast_to(expected, (len(epochs), 3000)), atol=1e-3
        )
        expected = 400 * codes[epochs][:, None] + np.arange(3000) / 10 - eog_mean
        np.testing.assert_allclose(target[mine][:, 0], expected, atol=1e-3)
    jumps = np.diff(cohort.X.onset[cohort.X.recording == "sleep-edf-SC4092"])
    assert set(jumps) == {30, 60}
    assert (jumps / 30 - 1).sum() == 12
    persons = ["sleep-edf-SC400"] * 757 + ["sleep-edf-SC409"] * (1028 - 12)
    assert cohort.groups.tolist() == cohort.X.subject.tolist() == persons
    assert "1773 epochs of 2 subjects, 2 nights" in cohort.DESCR


# ------------------------------------------------------------ options


def test_defaults_on_short_nights(tree):
    cohort = load_sleep_edf(tree)
    assert cohort.X.sfreq == {"target": 100.0, "source": 100.0}
    assert cohort.X.ch_names == {"source": ["EEG Fpz-Cz"], "target": ["EOG horizontal"]}
    # Epochs 4 to 13 but for movement and "?", then 30 of waking.
    one_night = [4, 5, 6, 7, 10, 11, 12, 13, *range(14, 44)]
    assert cohort.X.onset.tolist() == [30.0 * k for k in one_night] * 3
    assert cohort.y.tolist() == [CODES[SLEEP_EDF_STAGES[k]] for k in one_night] * 3
    recordings = ["sleep-edf-SC4001", "sleep-edf-SC4002", "sleep-edf-SC4131"]
    assert list(dict.fromkeys(cohort.X.recording)) == recordings
    assert Counter(cohort.groups) == {"sleep-edf-SC400": 76, "sleep-edf-SC413": 38}
    unscored = load_sleep_edf(tree / "sleep-cassette", subjects=[13], unscored=True)
    assert unscored.y.tolist() == [CODES[stage] for stage in SLEEP_EDF_STAGES[4:44]]
    whole = load_sleep_edf(tree, subjects=[13], crop=None)
    assert len(whole.X) == len(SLEEP_EDF_STAGES) - 2
    paper = load_sleep_edf(tree, crop="phan2019", subjects=[0])
    last = [paper.X.onset[paper.X.recording == name][-1] for name in recordings[:2]]
    assert last == [30 * (13 + 25), 30 * (13 + 30)]


def test_channels(tree):
    eog = load_sleep_edf(tree, channels=["EOG horizontal"])
    assert not eog.X.has_source
    np.testing.assert_array_equal(eog.X["target"], load_sleep_edf(tree).X["target"])
    channels = {"target": ["EOG horizontal", "EEG Fpz-Cz"], "source": ["EEG Pz-Oz"]}
    both = load_sleep_edf(tree, channels=channels)
    np.testing.assert_allclose(both.X["source"], 0, atol=1e-3)  # a constant
    np.testing.assert_array_equal(both.X["target"][:, :1], eog.X["target"])
    # The person's own number of the epoch is in the second channel.
    assert set(np.diff(both.X["target"][38:60, 1, 0]).round(3)) == {2, 6}
    with pytest.raises(ValueError, match="no channel EEG C4-A1; it has EEG Fpz-"):
        load_sleep_edf(tree, channels=["EEG C4-A1"])


def test_the_mean_of_the_whole_recording_is_taken_off(tmp_path):
    # Lights off after four minutes, where another mean begins.
    signals = {"EEG Fpz-Cz": np.where(np.arange(60 * 3000) < 24_000, 500.0, 200.0)}
    rows = [(0, 240, "Sleep stage W"), (240, 52 * 30, "Sleep stage 2")]
    start = lights_off("SC4011") - 240
    write_sleep_edf_files(tmp_path, "SC4011", rows, 60, start, signals)
    X = load_sleep_edf(tmp_path).X
    np.testing.assert_allclose(X["source"], 200 - (8 * 500 + 52 * 200) / 60, atol=0.1)


@pytest.mark.parametrize("unit", ["uV", ""])
def test_a_day_within_ten_microvolts_is_in_millivolts(tmp_path, unit):
    """So the paper takes it; the envelope of the EMG is as small in truth."""
    signals = sleep_edf_signals([CODES[stage] for stage in SLEEP_EDF_STAGES])
    signals["EEG Fpz-Cz"] /= 10
    n_epochs = len(SLEEP_EDF_STAGES)
    signals["EMG submental"] = np.tile(np.arange(30) / 10, n_epochs)
    rows = [(0, 120, "Sleep stage W"), (120, 300, "Sleep stage 2")]
    start, unit = lights_off("SC4011") - 120, {"EEG Fpz-Cz": unit}
    write_sleep_edf_files(tmp_path, "SC4011", rows, n_epochs, start, signals, unit)
    channels = {"source": ["EEG Fpz-Cz"], "target": ["EMG submental"]}
    with pytest.warns(UserWarning, match=r"\.edf: EEG Fpz-Cz stays within 10 micro"):
        X = load_sleep_edf(tmp_path, channels=channels).X
    np.testing.assert_allclose(np.diff(X["source"][:2, 0, 0]), 200, rtol=1e-5)
    assert 1 < np.ptp(X["target"]) < 10


def test_wrong_options(tree):
    for wrong in (39, 83):
        with pytest.raises(FileNotFoundError, match=f"no recording of subject {wrong}"):
            load_sleep_edf(tree, subjects=[wrong])
    with pytest.raises(ValueError, match="crop is 'in-bed', 'phan2019', minutes"):
        load_sleep_edf(tree, crop="in bed")
    # A subject that is named twice is read once.
    assert len(load_sleep_edf(tree, subjects=[13, 13]).X) == 38


# ------------------------------------------------------------ damaged files


@pytest.mark.parametrize("kind", ["PSG", "Hypnogram"])
def test_a_file_that_is_there_twice(tree, kind):
    path = tree / "sleep-cassette" / sleep_edf_record("SC4002", kind)["fname"]
    path.with_name(f"SC4002EX-{kind}.edf").write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match=rf"One SC4002.*-{kind}\.edf .* are 2"):
        load_sleep_edf(tree)
    assert len(load_sleep_edf(tree, subjects=[13]).X) == 38


def read_rows(root, rows, n_epochs=20, **options):
    """Load a recording of 20 epochs, begun 4 before lights off, with these annotations."""
    write_sleep_edf(root, "SC4011", "W" * n_epochs, rows=rows)
    cohort = load_sleep_edf(root, **options)
    return cohort.X.onset.tolist(), cohort.y.tolist()


def test_files_that_do_not_belong_together(tmp_path):
    psg, _ = write_sleep_edf(tmp_path, "SC4011")
    content = psg.read_bytes()
    write_sleep_edf(tmp_path, "SC4011", before=3)
    psg.write_bytes(content)
    with pytest.raises(ValueError, match=r"begins at 24\.04\.89 22\.42\.00, .* 22\.42\.30"):
        load_sleep_edf(tmp_path)


def test_annotations_beyond_the_end(tmp_path):
    # The last stage and "?" go on; there are 20 epochs and no more.
    rows = [(0, 570, "Sleep stage W"), (570, 60, "Sleep stage 2")]
    rows += [(630, 85770, "Sleep stage ?")]
    with pytest.warns(UserWarning, match=r"not cover are left out: sleep-edf-SC4011 \(1\)"):
        onset, y = read_rows(tmp_path, rows)
    assert onset == [30.0 * k for k in range(4, 20)]
    assert y == [0] * 15 + [2]
    assert len(load_sleep_edf(tmp_path, crop=None, unscored=True).X) == 20
    rows[1:] = [(570, 120, "Sleep stage 2")]
    with pytest.raises(ValueError, match=r"ends 90\.0 s after .* which lasts 600\.0 s"):
        read_rows(tmp_path, rows)


def test_annotations_off_the_grid_gaps_and_unknown_stages(tmp_path):
    # Only epochs wholly inside a stage are scored; nothing is said of 180 to 240 s.
    rows = [(0, 140, "Sleep stage W"), (140, 40, "Sleep stage 1"), (150, 5, "Snoring")]
    rows += [(start, 30, "Sleep stage R") for start in (240, 270, 300)]
    rows += [(330, 30, "Sleep stage X"), (360, 90, "Lights on")]
    with pytest.warns(
        UserWarning, match=r"Hypnogram\.edf: 'Sleep stage X' is no known"
    ) as seen:
        onset, y = read_rows(tmp_path, rows, unscored=True, crop=None)
    assert onset == [30.0 * k for k in range(20)]
    assert y == [0, 0, 0, 0, -1, 1, -1, -1, 4, 4, 4] + [-1] * 9
    assert seen[0].filename == __file__  # where the user called


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 90, "Sleep stage W"), (60, 90, "Sleep stage 2")], "stages overlap at 60 s"),
        ([(0, 90, "Lights off")], "holds no annotations 'Sleep stage"),
        ([(0, 600, "Sleep stage W")], "SC4011 has no epoch of sleep"),
    ],
)
def test_scoring_that_cannot_be(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path, rows)


def test_night_that_ends_before_lights_off(tmp_path):
    write_sleep_edf(tmp_path, "SC4011", "W2" * 10, before=60)
    with pytest.raises(ValueError, match=r"nothing is left .* crop='in-bed' \(from.* 60"):
        load_sleep_edf(tmp_path)
    assert len(load_sleep_edf(tmp_path, crop=0).X) == 19


# ------------------------------------------------------------ download


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server of five recordings, to which MNE's own downloader goes.

    What MNE asks for is noted with its sums, and downloaded with those of our files.
    """
    import pooch
    from mne.datasets.sleep_physionet import age

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for number in ("SC4001", "SC4002", "SC4131", "SC4362", "SC4522"):
        write_sleep_edf(tmp_path / "served", number)
    retrieve, sums = pooch.retrieve, []

    def with_our_sums(url, known_hash, fname, **kwargs):
        sums.append((fname, known_hash))
        digest = hashlib.sha1((tmp_path / "served" / fname).read_bytes()).hexdigest()
        return retrieve(url=url, known_hash=f"sha1:{digest}", fname=fname, **kwargs)

    monkeypatch.setattr(pooch, "retrieve", with_our_sums)
    with serve(tmp_path / "served") as server:
        fetch = partial(age.fetch_data, base_url=server.url)
        monkeypatch.setattr(age, "fetch_data", fetch)
        server.folder, server.sums = tmp_path / "served", sums
        yield server


@pytest.fixture
def home(tmp_path):
    """MNE's folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_fetch_downloads_through_mne(server, home):
    # Subject 13 has no second night, 36 and 52 no first.
    cohort = fetch_sleep_edf(home, subjects=[0, 13, 36, 52], channels=["EEG Fpz-Cz"])
    numbers = ["SC4001", "SC4002", "SC4131", "SC4362", "SC4522"]
    assert list(dict.fromkeys(cohort.X.recording)) == [f"sleep-edf-{n}" for n in numbers]
    assert len(set(cohort.groups)) == 4
    assert cohort.X.ch_names["target"] == ["EEG Fpz-Cz"]
    records = [sleep_edf_record(n, kind) for n in numbers for kind in ("PSG", "Hypnogram")]
    assert server.sums == [(row["fname"], f"sha1:{row['sha']}") for row in records]
    # What is there stays; other subjects in the folder are not read.
    again = fetch_sleep_edf(home, subjects=[13])
    assert len(server.requested) == 10
    assert set(again.groups) == {"sleep-edf-SC413"}


def test_fetch_refuses_subjects_before_it_downloads(server, home):
    for subjects in ([0, 39], [83]):
        with pytest.raises(ValueError, match=r"but for \[39, 68, 69, 78, 79\]"):
            fetch_sleep_edf(home, subjects=subjects)
    assert not server.requested


def test_a_download_that_breaks_off_goes_on(server, home):
    """And half a file, which some other program left, is not taken for whole."""
    server.breaks = "Hypnogram.edf"
    with pytest.raises(OSError, match="Connection broken"):
        fetch_sleep_edf(home, subjects=[13])
    assert names_in(home) == ["SC4131E0-PSG.edf"]
    server.breaks = "nothing"
    server.requested.clear()
    (psg,) = home.rglob("SC4131E0-PSG.edf")
    whole = psg.read_bytes()
    psg.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"SC4131E0-PSG.edf .*short. Download it again"):
        fetch_sleep_edf(home, subjects=[13])
    assert server.requested == ["SC4131EC-Hypnogram.edf"]
    psg.unlink()
    cohort = fetch_sleep_edf(home, subjects=[13])
    assert psg.read_bytes() == whole
    plain = load_sleep_edf(server.folder, subjects=[13])
    np.testing.assert_array_equal(cohort.X["target"], plain.X["target"])


def test_a_download_without_room_leaves_no_part(server, home):
    def fetch():
        with pytest.raises(OSError, match="File too large"):
            fetch_sleep_edf(home, subjects=[13])
        return []

    in_a_fork(fetch, most=5000)
    assert names_in(home) == []


def test_without_a_network(server, home, monkeypatch):
    from mne.datasets.sleep_physionet import age

    monkeypatch.setattr(age, "fetch_data", partial(age.fetch_data, base_url=dead_url()))
    with pytest.raises(OSError, match=r"SC4131E0-PSG\.edf"):
        fetch_sleep_edf(home, subjects=[13])
    assert names_in(home) == []


# ------------------------------------------------------------ the folds

FOLDS_2019 = """
1:[3 10 11 14] 2:[4 17 18 19] 3:[1 13 15 17] 4:[9 11 15 20] 5:[9 11 13 18] 6:[9 14 17 20]
7:[1 3 10 17] 8:[6 15 18 20] 9:[3 11 12 17] 10:[5 13 14 19] 11:[1 3 4 10] 12:[8 9 11 19]
13:[1 8 14 18] 14:[1 3 16 20] 15:[1 8 9 14] 16:[3 5 6 14] 17:[3 10 14 16] 18:[2 6 9 15]
19:[6 13 15 20] 20:[1 4 7 18]
"""
PERSONS = np.array([f"sleep-edf-SC4{number:02d}" for number in range(20)])


def test_folds_and_validation_subjects_of_the_paper():
    groups = np.repeat(PERSONS, 3)[::-1]
    X = np.random.default_rng(0).standard_normal((60, 1, 100)).astype(np.float32)
    X = PairedEpochs(X, subject=groups)
    folds = SleepEdfFolds()
    table = re.findall(r"(\d+):\[([\d ]+)\]", FOLDS_2019)
    assert len(table) == folds.get_n_splits(X, groups=groups)
    splits = folds.split(X, groups=groups)
    for (k, four), (train, test) in zip(table, splits, strict=True):
        assert set(groups[test]) == {PERSONS[int(k) - 1]}
        assert len(test) == 3
        held_out = {PERSONS[int(number) - 1] for number in four.split()}
        assert set(folds(groups[train])) == held_out
        assert len(set(groups[train]) - held_out) == 15
    stager = SleepStager(TinyNetwork, validation=folds, max_epochs=1, random_state=0)
    stager.fit(X[train], np.arange(57) % 2)
    assert set(stager.held_out_.tolist()) == held_out
    again = pickle.loads(pickle.dumps(folds))
    assert again(PERSONS[1:]) == folds(PERSONS[1:])


def test_folds_of_other_persons():
    folds = SleepEdfFolds()
    with pytest.raises(ValueError, match=r"missing are \[\], strangers are \[\]"):
        folds(PERSONS)
    with pytest.raises(ValueError, match=r"missing are \['sleep-edf-SC400', 'sleep-"):
        folds(PERSONS[2:])
    with pytest.raises(ValueError, match=r"strangers are \['mass-01-01-0001'\]"):
        folds([*PERSONS[1:], "mass-01-01-0001"])
