"""The command line, in this process."""

import runpy
import sys

import numpy as np
import pandas as pd
import pytest

from skleepkd import PairedEpochs, SleepStager, save
from skleepkd.__main__ import main
from tests.recording.test_folder import write_nights
from tests.recording.test_stager import write
from tests.tiny import FAST


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved stager of C3 at 40 Hz."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    epochs = 20 * np.random.default_rng(0).standard_normal((20, 1, 1200))
    X = PairedEpochs(epochs, sfreq=40.0, ch_names=["C3"])
    stager = SleepStager("LogPowerNet", classes="aasm", **FAST)
    save(stager.fit(X, np.arange(20) % 5), path)
    return str(path)


def test_a_folder(model, tmp_path, capsys):
    nights = write_nights(tmp_path / "nights")
    arguments = ["stage", model, str(nights), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--no-picture"]) == 1
    shown = capsys.readouterr()
    assert "1 of 3 nights were not staged" in shown.err
    assert "b.edf" in shown.err
    assert "2 nights in" in shown.out
    assert not list((tmp_path / "out").glob("*.png"))
    (nights / "b.edf").unlink()
    assert main(arguments) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert len(pd.read_csv(tmp_path / "out" / "summary.csv")) == 2


def test_options(model, tmp_path):
    path = str(write(tmp_path / "night.edf"))
    out = ["--output", str(tmp_path / "out"), "--no-picture"]
    arguments = ["--start", "22:00:30", "--channel", "C4", "--on-missing", "raise"]
    assert main(["stage", model, path, *out, *arguments]) == 0
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert (summary["channels"][0], summary["n_epochs"][0]) == ("C4", 7)
    assert main(["stage", model, path, *out, "--start", "60"]) == 0
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["n_epochs"][0] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "no.safetensors", "{night}", "--output", "{out}"], "no.safetensors"),
        (
            ["stage", "{night}", "{night}", "--output", "{out}"],
            "no file that skleepkd.save",
        ),
        (["stage", "{model}", "no.edf", "--output", "{out}"], "There is no recording"),
        (["stage", "{model}", "{empty}", "--output", "{out}"], "There is no recording in"),
        (["stage", "{model}", "{night}", "--output", "{night}"], "{night}"),
        (["stage", "{model}", "{night}", "--output", "{out}", "--start", "x"], "23:15"),
        (["describe", "{night}"], "no file that skleepkd.save wrote"),
    ],
)
def test_mistakes_are_one_line(model, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    night = write(tmp_path / "night.edf")
    places = {"model": model, "night": night, "out": tmp_path / "out"}
    places["empty"] = tmp_path / "empty"
    assert main([part.format(**places) for part in arguments]) == 2
    shown = capsys.readouterr()
    assert message.format(**places) in shown.err
    assert shown.err.startswith("skleepkd: error: ")
    assert shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["stage"],
        ["stage", "model", "night"],
        ["fly"],
        ["stage", "model", "", "--output", "out"],
        ["stage", "model", "night", "--output", ""],
        ["stage", "--help"],
        ["--version"],
    ],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    asked = arguments[-1:] in (["--help"], ["--version"])
    assert stopped.value.code == (0 if asked else 2)
    shown = capsys.readouterr()
    if arguments == ["stage", "--help"]:
        for option in ("--output", "--start", "--channel", "--on-missing", "--no-picture"):
            assert option in shown.out
    assert "Traceback" not in shown.err


def test_a_model_is_described_by_python_m(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["skleepkd", "describe", model])
    monkeypatch.delitem(sys.modules, "skleepkd.__main__")
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("skleepkd", run_name="__main__", alter_sys=True)
    assert not stopped.value.code
    shown = capsys.readouterr().out
    for part in ("Network: LogPowerNet", "Needs: 1 channel (C3), 40 Hz, microvolts"):
        assert part in shown
