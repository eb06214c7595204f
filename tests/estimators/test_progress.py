"""The bar of a long training: in a terminal, unless verbose says otherwise."""

import io
import multiprocessing
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.estimators import progress
from tests.tiny import FAST, TinyNetwork, make_pair


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, for trainings of any length."""
    screen = Terminal()
    # pytest sets sys.stderr anew for each test.
    seen = SimpleNamespace(stderr=screen, modules=sys.modules)
    monkeypatch.setattr(progress, "sys", seen)
    # Each batch is drawn, at once.
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, mininterval=0.0, file=screen))
    return screen


def fit(**params):
    X, y = make_pair(n_subjects=2, n_epochs=20, every=True)
    how = {**FAST, "max_epochs": 3, "batch_size": 10, **params}
    return SleepStager(TinyNetwork, **how).fit(X, y)


def test_a_bar_counts_the_batches_of_all_passes(terminal):
    fit()
    shown = terminal.getvalue()
    for number in (1, 2, 3):
        assert f"SleepStager, pass {number} of 3: " in shown
    assert " 12/12 [" in shown  # forty epochs in batches of ten, three times


def test_it_stays_silent(terminal, monkeypatch, capsys):
    fit(verbose=0)
    assert not terminal.getvalue()
    fit(verbose=1)
    assert not terminal.getvalue()
    assert "train_loss" in capsys.readouterr().out
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    fit()  # too short
    assert not terminal.getvalue().strip()
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "LokyProcess-1")
    fit()
    assert not terminal.getvalue().strip()


def test_nothing_where_nobody_looks(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    fit()
    assert capsys.readouterr() == ("", "")


def test_a_bar_ends_with_a_training_that_fails(terminal):
    with pytest.raises(FloatingPointError, match="diverged"):
        fit(lr=1e30)
    assert terminal.getvalue()
    assert not tqdm._instances


def test_an_online_teacher_has_no_bar_of_its_own(terminal):
    X, y = make_pair(n_subjects=2, n_epochs=20, every=True)
    teacher = SleepStager(TinyNetwork)
    DistilledSleepStager(teacher, strategy="online", **FAST).fit(X, y)
    assert " SleepStager, pass" not in terminal.getvalue().replace("\r", " ")
    DistilledSleepStager(teacher, **FAST).fit(X, y)
    assert " SleepStager, pass" in terminal.getvalue().replace("\r", " ")
