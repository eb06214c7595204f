"""Two steps: features first, without labels, then everything but the features."""

import numpy as np
import pytest
import torch
from joblib import Memory
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback, LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.preprocessing import PairedTransformer
from tests.tiny import FAST, FEATURES, TinyNetwork, make_pair, same

TEACHER = SleepStager(TinyNetwork, max_epochs=1, device="cpu", classes="aasm")


def student(teacher=TEACHER, **params):
    params = {"strategy": "two-step", "classes": "aasm", **FAST, **FEATURES, **params}
    return DistilledSleepStager(teacher, **params)


def first_steps_kept(folder):
    return len(list(folder.rglob("distilled/_learn/*/output.pkl")))


def test_the_steps_have_their_own_part_of_the_history(X, y):
    options = {"feature_max_epochs": 4, "max_epochs": 3, "validation": 1, "alpha": 0.5}
    net = student(**options).fit(X, y)
    assert [row["epoch"] for row in net.history] == [1, 2, 3, 4, 5, 6, 7]
    features, stages = {"feature_loss"}, {"cross_entropy", "softmax_loss"}
    for number, row in enumerate(net.history):
        terms = {name.removeprefix("train_") for name in row} & (features | stages)
        assert terms == (features if number < 4 else stages)
        assert ("valid_kappa" in row) == (number >= 4)
        if number < 4:
            assert row["train_loss"] == pytest.approx(row["train_feature_loss"])
    kappas = [row["valid_kappa"] for row in net.history[4:]]
    assert net.best_epoch_ == 5 + int(np.argmax(kappas))


def test_no_label_takes_part_in_the_first_step(X, y):
    """Other stages, the same first step; only the teacher may depend on stages."""
    given = FrozenEstimator(clone(TEACHER).set_params(random_state=0).fit(X, y))
    net, other = (
        student(given, feature_max_epochs=3, max_epochs=0).fit(X, labels)
        for labels in (y, np.roll(y, 1))
    )
    losses = net.history[:, "train_loss"]
    assert losses == other.history[:, "train_loss"]
    assert losses[-1] < losses[0]
    assert same(net, other)


def test_what_the_features_do_not_need_is_not_moved(X, y):
    """The head gets no gradient in the first step."""
    net, start = (
        student(feature_max_epochs=n, max_epochs=0).fit(X, y).module_.state_dict()
        for n in (2, 0)
    )
    for name, value in net.items():
        assert torch.equal(value, start[name]) == name.startswith("head."), name


def test_the_lowest_validation_feature_loss_is_kept(X, y):
    """A second step without passes shows what the first one handed over."""
    # So large a rate that the loss goes up and down.
    options = {"max_epochs": 0, "validation": 2, "lr": 1.0}
    net = student(feature_max_epochs=6, **options).fit(X, y)
    best = int(np.argmin([row["valid_feature_loss"] for row in net.history]))
    assert 0 < best < 5, "the test needs a best pass in the middle"
    assert same(student(feature_max_epochs=best + 1, **options).fit(X, y), net)


def test_the_second_step_has_a_fresh_optimiser(X, y):
    net = student(feature_max_epochs=5, max_epochs=2).fit(X, y)
    steps = {int(state["step"]) for state in net.optimizer_.state.values()}
    assert steps == {2 * -(-len(X) // 32)}


def test_schedules_begin_anew_with_the_second_step(pair):
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, net, **kwargs):
            seen.append(net.optimizer_.param_groups[0]["lr"])

    schedule = LRScheduler("CosineAnnealingLR", T_max=3)
    options = {"feature_max_epochs": 2, "max_epochs": 3, "callbacks": [schedule, Watch()]}
    student(**options).fit(*pair)
    expected = [0.5e-3 * (1 + np.cos(np.pi * k / 3)) for k in range(3)]
    np.testing.assert_allclose(seen, expected[:2] + expected)


class CountingNetwork(TinyNetwork):
    rows = 0

    def forward(self, x):
        if not self.training:
            type(self).rows += len(x)
        return super().forward(x)


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
def test_a_frozen_teacher_predicts_once(X, y, strategy):
    given = SleepStager(CountingNetwork, classes="aasm", **FAST).fit(X.source_epochs, y)
    CountingNetwork.rows = 0
    options = {"strategy": strategy, "alpha": 0.5, "max_epochs": 3}
    student(FrozenEstimator(given), module=TinyNetwork, **options).fit(X, y)
    # Two more show beforehand that the features can be compared.
    assert CountingNetwork.rows == len(X) + 2


def test_students_share_the_first_step_through_memory(X, y, tmp_path):
    memory = Memory(tmp_path, verbose=0)
    kept = [student(alpha=alpha, memory=memory).fit(X, y) for alpha in (0.0, 0.5)]
    assert first_steps_kept(tmp_path) == 1
    for net in kept:
        assert len(net.history) == 2
        assert same(net, clone(net).set_params(memory=None).fit(X, y))
    assert not same(*kept)
    # Another loss, other rows or another teacher are another first step.
    student(feature_loss=torch.nn.L1Loss(), memory=memory).fit(X, y)
    student(memory=memory).fit(X[:-24], y[:-24])
    student(memory=memory).set_params(teacher__max_epochs=2).fit(X, y)
    assert first_steps_kept(tmp_path) == 4


@pytest.mark.parametrize("inside", ["a pipeline", "a grid"])
def test_the_first_step_is_shared_inside(X, y, inside, tmp_path):
    net = student(memory=str(tmp_path))
    if inside == "a grid":
        grid = {"alpha": [0.0, 0.5, 0.9]}
        GridSearchCV(net, grid, cv=GroupKFold(2), refit=False).fit(X, y, groups=X.subject)
    else:
        make_pipeline(PairedTransformer(), net).fit(X, y).fit(X, y)
    assert first_steps_kept(tmp_path) == (2 if inside == "a grid" else 1)


def test_a_second_fit_begins_anew_and_going_on_is_the_second_step_alone(X, y):
    net = student(alpha=0.5).fit(X, y)
    first = net.predict_proba(X)
    np.testing.assert_array_equal(net.fit(X, y).predict_proba(X), first)
    net.partial_fit(X, y)
    assert ["train_cross_entropy" in row for row in net.history] == [False, True, True]
    net.set_params(strategy="offline").fit(X, y).partial_fit(X, y)
    assert ["train_feature_loss" in row for row in net.history] == [True, True]


def test_features_are_learned_from_unscored_nights():
    X, y = make_pair(n_subjects=4)
    y[48:] = -1
    net = student().fit(X, y)
    assert net.history[0, "batches", :, "train_batch_size"].count(32) == 3
