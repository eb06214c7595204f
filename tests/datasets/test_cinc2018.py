import functools
import hashlib
import warnings

import numpy as np
import pytest
import wfdb

from skleepkd.datasets import fetch_cinc2018, load_cinc2018
from tests.files import (
    CINC_NIGHTS,
    CincNight,
    dead_url,
    serve,
    write_cinc2018,
    write_cinc2018_tree,
)

LABELS = ["F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "Chin1-Chin2"]
LABELS += ["ABD", "CHEST", "AIRFLOW", "SaO2", "ECG"]
MIXED, WHOLE, SHIFTED = CINC_NIGHTS


@pytest.fixture
def tree(tmp_path):
    return write_cinc2018_tree(tmp_path / "challenge")


def check_night(cohort, night, *, unscored=False, atol=0.06, margin=0.0):
    """Each row's stage and both of its signals are what the clock says."""
    mine = np.flatnonzero(cohort.X.recording == f"cinc2018-{night.number}")
    numbers = np.flatnonzero(unscored | (night.codes >= 0))
    np.testing.assert_array_equal(cohort.y[mine], night.codes[numbers])
    np.testing.assert_allclose(cohort.X.onset[mine], night.lead + 30 * numbers, atol=1e-9)
    source, target = cohort.X["source"][mine, 0], cohort.X["target"][mine, 0]
    assert source.dtype == target.dtype == np.float32
    n_times = source.shape[1]
    t = 30 * np.arange(n_times) / n_times
    inner = (t >= margin) & (t < 30 - margin)
    for row, k in enumerate(numbers):
        np.testing.assert_allclose(source[row, inner], 10 * (k + 2), atol=atol)
        tone = (200 + 20 * k) * np.sin(2 * np.pi * (60 + 3 * k) / 30 * t)
        np.testing.assert_allclose(target[row, inner], tone[inner], atol=10 * atol)


# ------------------------------------------------------------ labels and windows


@pytest.mark.parametrize(("folder", "unscored"), [("", False), ("training", True)])
def test_every_label_lands_on_its_window(tree, folder, unscored):
    cohort = load_cinc2018(tree / folder, unscored=unscored)
    n_epochs = 18 + 3 * unscored
    assert cohort.X["source"].shape == cohort.X["target"].shape == (n_epochs, 1, 6000)
    assert cohort.X.ch_names == {"target": ["ECG"], "source": ["C3-M2"]}
    assert cohort.X.sfreq == {"target": 200.0, "source": 200.0}
    check_night(cohort, MIXED, unscored=unscored)
    check_night(cohort, SHIFTED)
    check_night(cohort, WHOLE, atol=1, margin=0.5)  # resampled from 256 Hz
    np.testing.assert_array_equal(cohort.groups, cohort.X.recording)
    assert list(dict.fromkeys(cohort.groups)) == [
        f"cinc2018-{night.number}" for night in CINC_NIGHTS
    ]
    assert cohort.left_out == {}
    assert f"{n_epochs} epochs of 3 subjects" in cohort.DESCR
    assert "Left out: none." in cohort.DESCR


@pytest.mark.parametrize("sfreq", [100, 256])
def test_every_label_lands_on_its_window_after_resampling(tree, sfreq):
    cohort = load_cinc2018(tree, sfreq=sfreq)
    assert cohort.X.shape == (18, 1, 30 * sfreq)
    for night in CINC_NIGHTS:
        check_night(cohort, night, atol=1, margin=0.5)
    for row in range(8):
        # The tone's frequency and amplitude, of the epochs' own number.
        k = round(cohort.X.onset[row] / 30)
        spectrum = np.abs(np.fft.rfft(cohort.X["target"][row, 0])) / (15 * sfreq)
        assert spectrum.argmax() == 60 + 3 * k
        assert spectrum.max() == pytest.approx(200 + 20 * k, rel=0.01)


def test_the_first_sample_carries_a_stage(tree):
    # wfdb alone would not see it: a note there is taken for a setting of the file.
    folder = tree / "training" / WHOLE.number
    assert "W" not in wfdb.rdann(str(folder / WHOLE.number), "arousal").aux_note
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nor is a setting taken for a stage
        cohort = load_cinc2018(tree, subjects=[WHOLE.number])
    assert cohort.y.tolist() == [0, 0, 3, 3, 4]


def test_unknown_stages_count_as_unscored(tree):
    notes = [(0, "N2"), (30, "lights"), (90, "R")]
    night = CincNight("tr05-0001", 121, notes, [2, -1, -1, 4])
    night.write(tree)
    with pytest.warns(UserWarning, match="cinc2018-tr05-0001: 'lights' is no known stage"):
        cohort = load_cinc2018(tree, subjects=["tr05-0001"])
    check_night(cohort, night)


def test_a_stage_that_begins_in_an_epoch_that_is_cut_short(tree):
    night = CincNight("tr05-0001", 100, [(0, "N2"), (90, "R")], [2, 2, 2])
    night.write(tree)
    with pytest.warns(UserWarning, match=r"are left out: cinc2018-tr05-0001 \(1\)\."):
        check_night(load_cinc2018(tree, subjects=["tr05-0001"]), night)


# ------------------------------------------------------------ channels and samples


def test_each_channel_by_its_label(tmp_path):
    # Channel i holds 8 i + 1 microvolts, whatever its unit and gain; SaO2 97 %.
    values = {label: 8.0 * i + 1 for i, label in enumerate(LABELS)} | {"SaO2": 97}
    units = {"SaO2": "%", "ABD": "mV", "ECG": "mV"}
    signals = {
        label: (
            np.full(70 * 200, value),
            1000 if label in ("ABD", "ECG") else 5,
            units.get(label, "uV"),
        )
        for label, value in values.items()
    }
    write_cinc2018(tmp_path / "training" / "tr03-0001", signals, [(0, "N2")])
    source = ["O2-M1", "SaO2", "C4-M1", "ABD"]
    target = [label for label in LABELS if label not in source][::-1]
    cohort = load_cinc2018(tmp_path, channels={"source": source, "target": target})
    assert cohort.X.ch_names == {"source": source, "target": target}
    for modality, labels in (("source", source), ("target", target)):
        expected = np.array([values[label] for label in labels])
        np.testing.assert_allclose(
            cohort.X[modality], np.tile(expected[:, None], (2, 1, 6000)), rtol=1e-6
        )
    alone = load_cinc2018(tmp_path, channels=["ECG"])
    assert not alone.X.has_source
    np.testing.assert_allclose(alone.X["target"], values["ECG"], rtol=1e-6)


def test_invalid_samples_are_interpolated(tmp_path):
    ramp = np.arange(60 * 200) / 10.0
    holes = ramp.copy()
    holes[3000:3100] = holes[-1] = -32768 / 20  # the least number means "no sample"
    signals = {"C3-M2": (holes, 20, "uV"), "ECG": (ramp, 10000, "mV")}
    write_cinc2018(tmp_path / "tr03-0001", signals, [(0, "N2")])
    with pytest.warns(UserWarning, match="cinc2018-tr03-0001: 101 samples are marked"):
        X = load_cinc2018(tmp_path).X
    np.testing.assert_allclose(X["target"].ravel(), ramp, atol=0.06)
    np.testing.assert_allclose(X["source"].ravel()[:-1], ramp[:-1], atol=0.06)
    dead = {"C3-M2": (0 * ramp - 32768, 1, "uV"), "ECG": (ramp, 10000, "mV")}
    write_cinc2018(tmp_path / "tr03-0002", dead, [(0, "N2")])
    with pytest.raises(ValueError, match="tr03-0002 has a channel without a valid sample"):
        load_cinc2018(tmp_path, subjects=["tr03-0002"])


# ------------------------------------------------------------ nights that cannot be read


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:-n_bytes])


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((".mat", n_bytes) for n_bytes in (4, 60001)),
        *((suffix, b"") for suffix in (".mat", ".hea", ".arousal")),
        *((suffix, None) for suffix in (".mat", ".hea", ".arousal")),
        *((".hea", text) for text in (b"<html>\n</html>\n", b"x" * 70_000)),
        (".arousal", 5),
    ],
)
def test_a_damaged_night_is_left_out(tree, suffix, damage):
    """Cut by some bytes, replaced by others, or missing."""
    path = tree / "training" / WHOLE.number / f"{WHOLE.number}{suffix}"
    if damage is None:
        path.unlink()
    elif isinstance(damage, int):
        cut(path, damage)
    else:
        path.write_bytes(damage)
    reason = f"tr12-0685{suffix}" + (" is damaged or" if damage is not None else "")
    with pytest.warns(UserWarning, match=f"cinc2018-tr12-0685 is left out: .*{reason}"):
        cohort = load_cinc2018(tree)
    assert list(cohort.left_out) == ["cinc2018-tr12-0685"]
    assert reason in cohort.left_out["cinc2018-tr12-0685"]
    assert f"Left out: cinc2018-tr12-0685 ({cohort.left_out['cinc2018-tr12-0685']})" in (
        cohort.DESCR
    )
    assert "13 epochs of 2 subjects" in cohort.DESCR
    check_night(cohort, MIXED)
    check_night(cohort, SHIFTED)


def test_nights_without_what_is_needed(tree):
    signals = SHIFTED.signals()
    training = tree / "training"
    events = [(3, "(arousal_rera"), (9, "arousal_rera)")]
    write_cinc2018(training / "tr07-0001", signals, events)
    write_cinc2018(training / "tr07-0002", {"C3-M2": signals["C3-M2"]}, [(0, "W")])
    pressure = {"C3-M2": signals["C3-M2"], "ECG": (signals["ECG"][0], 1, "mmHg")}
    write_cinc2018(training / "tr07-0003", pressure, [(0, "W")])
    short = {label: (signal[0][:5000], *signal[1:]) for label, signal in signals.items()}
    write_cinc2018(training / "tr07-0004", short, [(0, "W")])
    write_cinc2018(training / "tr07-0005", signals, [(0, "W"), (200, "N1")])
    with pytest.warns(UserWarning, match="is left out"):
        cohort = load_cinc2018(tree)
    expected = {
        "cinc2018-tr07-0001": "no epoch has a stage",
        "cinc2018-tr07-0002": "no channel ECG; it has C3-M2",
        "cinc2018-tr07-0003": "ECG is in 'mmHg'",
        "cinc2018-tr07-0004": "signals cover none of 1 epochs",
        "cinc2018-tr07-0005": "ends 40.0 s after the recording, which lasts 160.0 s",
    }
    assert list(cohort.left_out) == list(expected)
    for name, reason in expected.items():
        assert reason in cohort.left_out[name]
    # A night that nobody scored is still a pair.
    silent = load_cinc2018(tree, subjects=["cinc2018-tr07-0001"], unscored=True)
    assert silent.y.tolist() == [-1] * 5
    assert silent.left_out == {}
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(
            ValueError, match="None of 2 recordings can be read; .*tr07-0001: no"
        ),
    ):
        load_cinc2018(tree, subjects=["tr07-0001", "tr07-0003"])


def test_a_channel_that_no_night_has(tree):
    with pytest.raises(ValueError, match="no channel C3-A2; it has F3-M2, "):
        load_cinc2018(tree, channels=["C3-A2"])


# ------------------------------------------------------------ downloading


def write_sums(root):
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root).as_posix()}"
        for path in sorted(root.rglob("tr*.*"))
    ]
    (root / "SHA256SUMS.txt").write_text("\n".join(["0" * 64 + " LICENSE.txt", *lines]))


@pytest.fixture
def server(tree, monkeypatch):
    """A local server of the tree."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_sums(tree)
    with serve(tree) as server:
        yield server


def files_of(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_fetch_downloads_checks_and_loads(server, tree, tmp_path):
    home = tmp_path / "home"
    fetch = functools.partial(fetch_cinc2018, home, base_url=server.url)
    cohort = fetch(["tr03-0005"], sfreq=100)
    names = [f"training/tr03-0005/tr03-0005{end}" for end in (".hea", ".mat", ".arousal")]
    assert server.requested == ["SHA256SUMS.txt", *names]
    plain = load_cinc2018(tree, subjects=["tr03-0005"], sfreq=100)
    np.testing.assert_array_equal(cohort.X["target"], plain.X["target"])
    np.testing.assert_array_equal(cohort.y, plain.y)
    # What is there is not fetched again.
    server.requested.clear()
    fetch(["cinc2018-tr03-0005"])
    assert server.requested == []
    # What is not whole is, and what is new.
    cut(home / names[1], 100)
    cohort = fetch("all")
    assert server.requested[0] == names[1]
    assert len(server.requested) == 1 + 2 * 3
    assert list(dict.fromkeys(cohort.groups)) == [
        f"cinc2018-{night.number}" for night in CINC_NIGHTS
    ]
    assert (home / names[1]).read_bytes() == (tree / names[1]).read_bytes()


@pytest.mark.parametrize("accident", ["broken off", "another sum"])
def test_fetch_leaves_no_part_of_a_file(server, tree, tmp_path, accident):
    path = tree / "training" / "tr12-0685" / "tr12-0685.mat"
    whole = path.read_bytes()
    if accident == "broken off":
        server.breaks = ".mat"
    else:
        path.write_bytes(whole[:-1] + b"x")
    home = tmp_path / "home"
    with pytest.raises((OSError, ValueError), match="0685.mat|Connection broken"):
        fetch_cinc2018(home, ["tr12-0685"], base_url=server.url)
    assert files_of(home) == ["SHA256SUMS.txt", "tr12-0685.hea"]
    # It goes on from there.
    server.breaks = "nothing"
    path.write_bytes(whole)
    server.requested.clear()
    cohort = fetch_cinc2018(home, ["tr12-0685"], base_url=server.url)
    assert [name.rpartition(".")[2] for name in server.requested] == ["mat", "arousal"]
    check_night(cohort, WHOLE, atol=1, margin=0.5)


def test_fetch_of_what_is_not_there(server, tmp_path):
    fetch = functools.partial(fetch_cinc2018, tmp_path / "home", base_url=server.url)
    with pytest.raises(FileNotFoundError, match="no recording tr03-9999 in http"):
        fetch(["tr03-0005", "tr03-9999"])
    with pytest.raises(ValueError, match=r"such as \['tr03-0005'\]"):
        fetch("tr03-0005")
    assert files_of(tmp_path / "home") == ["SHA256SUMS.txt"]


def test_fetch_without_sums(server, tree, tmp_path):
    fetch = functools.partial(fetch_cinc2018, tmp_path / "home", ["tr14-0001"])
    (tree / "SHA256SUMS.txt").write_text("<html>please sign in</html>")
    with pytest.raises(OSError, match=r"lists no recordings in SHA256SUMS\.txt"):
        fetch(base_url=server.url)
    (tree / "SHA256SUMS.txt").unlink()
    with pytest.raises(OSError, match="404"):
        fetch(base_url=server.url)
    assert files_of(tmp_path / "home") == []
    # It goes on from there.
    write_sums(tree)
    check_night(fetch(base_url=server.url), SHIFTED)


def test_fetch_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OSError, match=r"SHA256SUMS\.txt"):
        fetch_cinc2018(tmp_path, ["tr03-0005"], base_url=dead_url())
    assert files_of(tmp_path) == []
