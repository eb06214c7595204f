import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.distillation import FeatureMSE, capture_features
from tests.tiny import FAST, TinyNetwork, make_pair, same, weights


def teacher(**params):
    return SleepStager(TinyNetwork, **{"max_epochs": 1, "device": "cpu", **params})


def student(given=None, **params):
    given = teacher() if given is None else given
    return DistilledSleepStager(given, strategy="online", **{**FAST, **params})


def test_the_teacher_learns_from_its_own_cross_entropy_alone(pair):
    X, y = pair
    options = {"max_epochs": 3, "iterator_train__shuffle": False}
    alone = teacher(random_state=11, **options)
    together = student(clone(alone), feature_weight=100.0, alpha=0.5, **options).fit(X, y)
    assert same(alone.fit(X.source_epochs, y), together.teacher_)


class Recorder(torch.nn.Module):
    """A loss that keeps the teacher's features."""

    seen = []  # noqa: RUF012

    def forward(self, student, teacher):
        Recorder.seen.append(teacher.detach().clone())
        return (student - teacher).square().mean()


def test_the_student_follows_the_teacher_of_the_same_step(pair):
    X, y = pair
    net = student(feature_loss=Recorder(), batch_size=999)
    net.set_params(teacher__lr=0.5).fit(X, y)
    # One step was taken; the features compared are those from before it.
    untouched = student(max_epochs=0).fit(X, y).teacher_.module_.train()
    with torch.no_grad(), capture_features(untouched, ["features"]) as seen:
        untouched(torch.from_numpy(X["source"]))
    taught, expected = (np.sort(x, axis=0) for x in (Recorder.seen[0], seen["features"]))
    np.testing.assert_allclose(taught, expected, atol=1e-4)


def test_history_and_the_teachers_schedule(pair):
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.1)
    net = student(teacher(lr=0.1, callbacks=[schedule]), max_epochs=2).fit(*pair)
    assert net.teacher_.optimizer_.param_groups[0]["lr"] == pytest.approx(0.001)
    assert len(net.teacher_.history_) == 2
    expected = net.teacher_.history_[-1]["train_loss"]
    assert net.history_[-1]["train_teacher_loss"] == pytest.approx(expected, rel=0.05)
    assert net.optimizer_.param_groups[0]["lr"] == 1e-3


def test_both_return_to_the_students_best_pass():
    X, y = make_pair(n_subjects=5)
    kept = {}

    class Copy(Callback):
        def on_epoch_end(self, net, **kwargs):
            kept[len(net.history)] = [weights(m) for m in net.trained_modules()]

    net = student(validation=1, max_epochs=6, lr=0.3, callbacks=[Copy()])
    net.set_params(teacher__lr=0.3).fit(X, y)
    own, taught = kept[net.best_epoch_][:2]
    assert same(own, net)
    assert same(taught, net.teacher_)
    assert net.best_epoch_ < 6, "the last pass is the best: this test shows nothing"


def test_standardised_features(pair):
    net = student(feature_loss=FeatureMSE(standardize=True)).fit(*pair)
    assert np.isfinite(net.history_[:, "train_feature_loss"]).all()
