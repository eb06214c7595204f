"""Passes: what a stager does otherwise than skorch, and what it keeps of each pass."""

import hashlib
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.estimators.callbacks import TrainingStopped
from tests.files import in_a_fork
from tests.interrupted import killed_fits
from tests.tiny import FAST, Stop, TinyNetwork, same

OPTIONS = {**FAST, "validation": 2, "max_epochs": 3, "module__dropout": 0.2}


def stager(checkpoint=None, **params):
    params = {**OPTIONS, "callbacks": [Stop()], **params}
    return SleepStager(TinyNetwork, checkpoint=checkpoint, **params)


STAGERS = {
    "supervised": stager(),
    "offline": DistilledSleepStager(stager(), alpha=0.5, **OPTIONS),
    "online": DistilledSleepStager(stager(), strategy="online", **OPTIONS),
    "fine-tuned": FineTunedSleepStager(
        stager(), trainable=("head",), validation=2, max_epochs=3, random_state=0
    ),
}


@pytest.mark.parametrize("name", STAGERS)
def test_a_pass_is_that_of_skorch(pair, monkeypatch, name):
    ours = clone(STAGERS[name]).fit(*pair)
    # Without its own loop and mode, a net has skorch's.
    monkeypatch.delattr(SleepStager, "run_single_epoch")
    monkeypatch.delattr(SleepStager, "_set_training")
    theirs = clone(STAGERS[name]).fit(*pair)
    assert same(ours, theirs)
    for own, other in zip(ours.history_, theirs.history_, strict=True):
        assert {**own, "dur": 0} == {**other, "dur": 0}
        for batch in own["batches"]:
            assert type(batch.get("train_loss", 0.0)) is float
            assert type(batch.get("valid_loss", 0.0)) is float


def test_losses_are_numbers_where_a_pass_is_cut_short(pair):
    class Cut(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            # Within a pass a loss may still be on its way from the device.
            assert float(net.history[-1, "batches", -1, "train_loss"]) > 0
            raise TrainingStopped({"dataset_train": None, "dataset_valid": None})

    (batch,) = stager(callbacks=[Cut()]).fit(*pair).history_[-1, "batches"]
    assert type(batch["train_loss"]) is float


def test_mode_is_set_whatever_happened_in_between(pair):
    class Look(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            net.module_.train(not training)

        def on_grad_computed(self, net, **kwargs):
            self.training_ = [part.training for part in net.module_.modules()]

    look = Look()
    stager(callbacks=[("look", look)]).fit(*pair)
    assert all(look.training_)


def test_part_of_a_network_that_was_built_in_the_other_mode_is_trained(pair):
    module = TinyNetwork(2, 60, 5)
    module.norm.eval()
    net = SleepStager(module, **FAST).fit(*pair)
    assert net.module_.norm.num_batches_tracked > 0


def test_early_stopping_ends_the_training_and_nothing_else(pair):
    """skorch's EarlyStopping ends a training by an interrupt, which is no Ctrl-C."""
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
    net = stager(callbacks=[stop], max_epochs=9).fit(*pair)
    assert len(net.history) == 3
    assert net.predict(pair[0]).shape == pair[1].shape


class StopsInThePass(Callback):
    def on_train_begin(self, net, **kwargs):
        self.steps = 0

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.datasets = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}

    def on_batch_end(self, net, training=False, **kwargs):
        self.steps += training
        if training and self.steps == 4:
            raise TrainingStopped(self.datasets)


def test_a_pass_that_is_cut_short_is_validated_all_the_same(pair):
    """Callbacks that read the validation loss find it."""
    schedule = LRScheduler(ReduceLROnPlateau, monitor="valid_loss")
    callbacks = [StopsInThePass(), schedule, EarlyStopping()]
    net = stager(callbacks=callbacks, max_epochs=9, batch_size=32).fit(*pair)
    assert len(net.history) == 2  # 96 rows are 3 steps a pass
    assert np.isfinite(net.history[:, ("valid_loss", "valid_kappa")]).all()


# ---------------------------------------------------------------- checkpoints


def count(estimator, *data):
    """Fit, and return the fitted stager and the passes that it took."""
    Stop.passes = 0
    return clone(estimator).fit(*data), Stop.passes


def stopped(monkeypatch, after, estimator, *data):
    monkeypatch.setattr(Stop, "after", after)
    with pytest.raises(KeyboardInterrupt):
        clone(estimator).fit(*data)
    monkeypatch.setattr(Stop, "after", None)


def test_killed_trainings_end_at_the_weights_of_those_that_were_not(tmp_path):
    """In the middle of every pass, and while a checkpoint is written."""
    found = in_a_fork(partial(killed_fits, tmp_path))
    assert len(found) == 6
    for name, kind in found.items():
        whole, (writing, *runs) = kind["whole"], kind["runs"]
        assert writing["killed"], name
        assert [run["killed"] for run in runs[-2:]] == [False, False], name
        assert len(runs) > 3, name
        # The first run dies before its file is in place: it has left nothing. Of the
        # others, each begins where the last one had finished a pass.
        assert [one for run in runs for one in run["passes"]] == whole["passes"], name
        assert runs[-2]["result"] == runs[-1]["result"] == whole["result"], name
        assert not runs[-1]["passes"], name


def test_a_finished_training_is_read_back(pair, tmp_path):
    expected, n_plain = count(stager(), *pair)
    first, n_first = count(stager(tmp_path), *pair)
    again, n_again = count(stager(str(tmp_path)), *pair)
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
    expected = stager().fit(*pair).partial_fit(*pair)
    for _ in range(2):
        assert same(stager(tmp_path).fit(*pair).partial_fit(*pair), expected)


def test_a_damaged_file_warns_and_is_written_anew(pair, tmp_path, monkeypatch):
    expected = stager().fit(*pair)
    stopped(monkeypatch, 2, stager(tmp_path), *pair)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for damaged in (data, data[:-9], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged"):
            net, n_passes = count(stager(tmp_path), *pair)
        assert n_passes == 3
        assert same(net, expected)
    assert count(stager(tmp_path), *pair)[1] == 0


ran = []


class Harmful:
    def __reduce__(self):
        return ran.append, ("code was run",)


def test_reading_runs_no_code(pair, tmp_path):
    stager(tmp_path).fit(*pair)
    (file,) = tmp_path.iterdir()
    torch.save(Harmful(), tmp_path / "harmful")
    data = (tmp_path / "harmful").read_bytes()
    file.write_bytes(hashlib.sha256(data).digest() + data)
    with pytest.raises(pickle.UnpicklingError):
        stager(tmp_path).fit(*pair)
    assert not ran


def test_a_seed_is_needed(pair, tmp_path):
    with pytest.raises(ValueError, match="random_state"):
        stager(tmp_path, random_state=None).fit(*pair)


def test_a_teacher_is_kept_in_its_students_folder(pair, tmp_path):
    student = DistilledSleepStager(stager(random_state=None), **FAST)
    expected = clone(student).fit(*pair)
    student.set_params(checkpoint=tmp_path)
    assert count(student, *pair)[1] == 3  # the student's own are not counted
    net, n_passes = count(student.set_params(alpha=0.5), *pair)
    assert n_passes == 0, "another student's teacher was trained again"
    assert same(net.teacher_, expected.teacher_)
    assert student.teacher.checkpoint is None


def test_cross_validation_by_scikit_learn_resumes(pair, tmp_path):
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(3)}
    expected = cross_validate(stager(), X, y, **given)["test_score"]
    for n_passes in (9, 0):
        Stop.passes = 0
        scores = cross_validate(stager(tmp_path), X, y, **given)["test_score"]
        np.testing.assert_array_equal(scores, expected)
        assert Stop.passes == n_passes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(pair, tmp_path, monkeypatch):
    """Dropout draws from the device's own random numbers."""
    expected = stager(device="cuda").fit(*pair)
    stopped(monkeypatch, 2, stager(tmp_path, device="cuda"), *pair)
    net, n_passes = count(stager(tmp_path, device="cuda"), *pair)
    assert n_passes < 3
    torch.testing.assert_close(net.module_.state_dict(), expected.module_.state_dict())
