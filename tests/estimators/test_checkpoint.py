import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.callbacks import Callback

from skleepkd import DistilledSleepStager, SleepStager
from tests.tiny import TinyNetwork

FAST = {"max_epochs": 3, "random_state": 0, "validation": 2, "module__dropout": 0.2}
passes = []


class Stop(Callback):
    """Counts passes, and stops the program in the batch after so many of them."""

    after = None

    def on_batch_end(self, net, training=False, **kwargs):
        if training and self.after is not None and len(net.history) > self.after:
            raise KeyboardInterrupt

    def on_epoch_end(self, net, **kwargs):
        passes.append(net)


def stager(checkpoint=None, device="cpu", **params):
    params = {**FAST, "device": device, "callbacks": [Stop()], **params}
    return SleepStager(TinyNetwork, checkpoint=checkpoint, **params)


def count(estimator, *data, **kwargs):
    """Fit, and return the fitted stager and the passes that it took."""
    passes.clear()
    return clone(estimator).fit(*data, **kwargs), len(passes)


def stopped(monkeypatch, after, estimator, *data):
    monkeypatch.setattr(Stop, "after", after)
    with pytest.raises(KeyboardInterrupt):
        clone(estimator).fit(*data)
    monkeypatch.setattr(Stop, "after", None)


def same(net, other):
    own, others = net.module_.state_dict(), other.module_.state_dict()
    return all(torch.equal(own[name], others[name]) for name in others)


# ---------------------------------------------------------------- SIGKILL


def test_killed_trainings_end_at_the_weights_of_those_that_were_not(tmp_path):
    """In the middle of every pass, and while a checkpoint is written."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", "fits", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout.splitlines()[-1])
    assert len(found) == 6
    for name, kind in found.items():
        whole, (writing, *runs) = kind["whole"], kind["runs"]
        assert writing["killed"], name
        assert [run["killed"] for run in runs[-2:]] == [False, False], name
        assert len(runs) > 3, name
        # The first run dies before its file is in place: it has left nothing. Of the
        # others, each begins where the last one had finished a pass.
        assert [one for run in runs for one in run["passes"]] == whole["passes"], name
        assert runs[-2]["result"] == whole["result"], name
        assert runs[-1]["result"] == whole["result"], name
        assert not runs[-1]["passes"], name


# ---------------------------------------------------------------- files


def test_a_finished_training_is_read_back(pair, tmp_path):
    X, y = pair
    expected, n_plain = count(stager(), X, y)
    first, n_first = count(stager(tmp_path), X, y)
    again, n_again = count(stager(str(tmp_path)), X, y)
    assert (n_plain, n_first, n_again) == (3, 3, 0)
    assert same(first, expected)
    assert same(again, expected)
    assert again.history[:, "valid_kappa"] == expected.history[:, "valid_kappa"]
    assert len(pickle.dumps(again)) < 300_000
    assert again.checkpoint_ is None


def test_another_training_has_another_file(pair, tmp_path):
    X, y = pair
    data = [(X, y), (X[:-1], y[:-1]), (X, np.roll(y, 1))]
    for number, (rows, labels) in enumerate(data):
        assert count(stager(tmp_path), rows, labels)[1] == 3
        assert len(list(tmp_path.iterdir())) == number + 1
    for changed in ({"lr": 0.1}, {"random_state": 1}, {"max_epochs": 4}):
        assert count(stager(tmp_path, **changed), X, y)[1] >= 3
    assert count(stager(tmp_path, verbose=0), X, y)[1] == 0


def test_partial_fit_goes_on_from_what_is_there(pair, tmp_path):
    X, y = pair
    expected = stager().fit(X, y).partial_fit(X, y)
    for _ in range(2):
        assert same(stager(tmp_path).fit(X, y).partial_fit(X, y), expected)


def test_a_damaged_file_warns_and_is_written_anew(pair, tmp_path, monkeypatch):
    X, y = pair
    stopped(monkeypatch, 2, stager(tmp_path), X, y)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for damaged in (data, data[:-9], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            net, n_passes = count(stager(tmp_path), X, y)
        assert n_passes == 3
        assert same(net, count(stager(), X, y)[0])
    assert count(stager(tmp_path), X, y)[1] == 0


class Harmful:
    def __reduce__(self):
        return passes.append, ("code was run",)


def test_reading_runs_no_code(pair, tmp_path):
    X, y = pair
    stager(tmp_path).fit(X, y)
    (file,) = tmp_path.iterdir()
    torch.save(Harmful(), tmp_path / "harmful")
    data = (tmp_path / "harmful").read_bytes()
    file.write_bytes(hashlib.sha256(data).digest() + data)
    passes.clear()
    with pytest.raises(pickle.UnpicklingError):
        stager(tmp_path).fit(X, y)
    assert not passes


def test_a_seed_is_needed(pair, tmp_path):
    with pytest.raises(ValueError, match="random_state"):
        stager(tmp_path, random_state=None).fit(*pair)


# ---------------------------------------------------------------- in company


def test_a_teacher_is_kept_in_its_students_folder(pair, tmp_path):
    X, y = pair
    student = DistilledSleepStager(
        stager(random_state=None),
        checkpoint=tmp_path,
        random_state=0,
        device="cpu",
        max_epochs=2,
    )
    expected = clone(student).set_params(checkpoint=None).fit(X, y)
    assert count(student, X, y)[1] == 3  # the student's own are not counted
    net, n_passes = count(student.set_params(alpha=0.5), X, y)
    assert n_passes == 0, "another student's teacher was trained again"
    assert same(net.teacher_, expected.teacher_)
    assert student.teacher.checkpoint is None


def test_cross_validation_by_scikit_learn_resumes(pair, tmp_path):
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(3)}
    expected = cross_validate(stager(), X, y, **given)["test_score"]
    for n_passes in (9, 0):
        passes.clear()
        scores = cross_validate(stager(tmp_path), X, y, **given)["test_score"]
        np.testing.assert_array_equal(scores, expected)
        assert len(passes) == n_passes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(pair, tmp_path, monkeypatch):
    """Dropout draws from the device's own random numbers."""
    X, y = pair
    expected = stager(device="cuda").fit(X, y)
    stopped(monkeypatch, 2, stager(tmp_path, device="cuda"), X, y)
    net, n_passes = count(stager(tmp_path, device="cuda"), X, y)
    assert n_passes < 3
    torch.testing.assert_close(net.module_.state_dict(), expected.module_.state_dict())
