"""Two steps: features first, without labels, then everything but the features."""

import numpy as np
import pytest
import torch
from joblib import Memory
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback, LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.preprocessing import PairedTransformer
from tests.tiny import TinyNetwork, make_pair

TEACHER = SleepStager(TinyNetwork, max_epochs=2, device="cpu", classes="aasm")


def student(**params):
    params = {"strategy": "two-step", "random_state": 0, "device": "cpu", **params}
    return DistilledSleepStager(TEACHER, classes="aasm", **{"max_epochs": 3, **params})


def test_the_phases_have_their_own_part_of_the_history(pair):
    X, y = pair
    net = student(feature_max_epochs=4, validation=1, alpha=0.5).fit(X, y)
    assert len(net.history) == 4 + 3
    first, second = net.history[:4], net.history[4:]
    assert all("train_feature_loss" in row for row in first)
    assert not any("train_cross_entropy" in row or "valid_kappa" in row for row in first)
    assert all("train_cross_entropy" in row and "valid_kappa" in row for row in second)
    assert all("train_softmax_loss" in row for row in second)
    assert not any("train_feature_loss" in row for row in second)
    np.testing.assert_allclose(
        [row["train_loss"] for row in first], [row["train_feature_loss"] for row in first]
    )
    assert net.history[-1, "epoch"] == 7
    kappas = [row["valid_kappa"] for row in second]
    assert net.best_epoch_ == 5 + int(np.argmax(kappas))


def test_no_label_takes_part_in_the_first_step(pair):
    """Other stages, the same first step; only the teacher may depend on stages."""
    X, y = pair
    teacher = clone(TEACHER).set_params(random_state=0).fit(X.source_epochs, y)
    other = np.roll(y, 1)

    def features_learned(labels):
        net = DistilledSleepStager(
            FrozenEstimator(teacher), strategy="two-step", feature_max_epochs=3,
            max_epochs=0, classes="aasm", random_state=0, device="cpu",
        ).fit(X, labels)  # fmt: skip
        return net.module_.state_dict(), [row["train_loss"] for row in net.history]

    weights, losses = features_learned(y)
    others, other_losses = features_learned(other)
    assert losses == other_losses
    assert losses[-1] < losses[0]
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0)


def test_what_the_features_do_not_need_is_not_moved(pair):
    """The head gets no gradient in the first step."""
    X, y = pair
    net = student(feature_max_epochs=2, max_epochs=0).fit(X, y)
    start = student(feature_max_epochs=0, max_epochs=0).fit(X, y)
    for name, value in net.module_.state_dict().items():
        equal = torch.equal(value, start.module_.state_dict()[name])
        assert equal == name.startswith("head."), name


def test_the_lowest_validation_feature_loss_is_kept(pair):
    """A second phase without passes shows what the first one handed over."""
    X, y = pair
    # So large a rate that the loss goes up and down.
    net = student(feature_max_epochs=6, max_epochs=0, validation=2, lr=1.0).fit(X, y)
    losses = [row["valid_feature_loss"] for row in net.history]
    best = int(np.argmin(losses))
    assert 0 < best < 5, "the test needs a best pass in the middle"
    again = student(feature_max_epochs=best + 1, max_epochs=0, validation=2, lr=1.0)
    again.fit(X, y)
    for name, value in net.module_.state_dict().items():
        torch.testing.assert_close(value, again.module_.state_dict()[name])


def test_the_second_step_has_a_fresh_optimiser(pair):
    X, y = pair
    net = student(feature_max_epochs=5, max_epochs=2).fit(X, y)
    steps = {int(state["step"]) for state in net.optimizer_.state.values()}
    assert steps == {2 * -(-len(X) // 32)}


class CountingNetwork(TinyNetwork):
    rows = 0

    def forward(self, x):
        if not self.training:
            type(self).rows += len(x)
        return super().forward(x)


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
def test_a_frozen_teacher_predicts_once_and_stays_as_it_is(pair, strategy):
    X, y = pair
    teacher = SleepStager(CountingNetwork, max_epochs=1, random_state=0, device="cpu")
    teacher.fit(X.source_epochs, y)
    before = {name: value.clone() for name, value in teacher.module_.state_dict().items()}
    CountingNetwork.rows = 0
    DistilledSleepStager(
        FrozenEstimator(teacher), TinyNetwork, strategy=strategy, alpha=0.5, max_epochs=3,
        feature_loss="mse", random_state=0, device="cpu",
    ).fit(X, y)  # fmt: skip
    assert CountingNetwork.rows == len(X)
    for name, value in teacher.module_.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_students_share_the_first_step_through_memory(pair, tmp_path):
    X, y = pair
    memory = Memory(tmp_path, verbose=0)
    plain = {a: student(alpha=a).fit(X, y) for a in (0.0, 0.5)}
    kept = {a: student(alpha=a, memory=memory).fit(X, y) for a in (0.0, 0.5)}
    learned = list(tmp_path.rglob("distilled/_learn/*/output.pkl"))
    assert len(learned) == 1
    for a, net in kept.items():
        assert len(net.history) == 6
        np.testing.assert_array_equal(net.predict_proba(X), plain[a].predict_proba(X))
    assert not np.array_equal(kept[0.0].predict_proba(X), kept[0.5].predict_proba(X))
    # Another loss, other rows or another teacher are another first step.
    student(feature_loss=torch.nn.L1Loss(), memory=memory).fit(X, y)
    student(memory=memory).fit(X[:-24], y[:-24])
    student(memory=memory).set_params(teacher__max_epochs=1).fit(X, y)
    assert len(list(tmp_path.rglob("distilled/_learn/*/output.pkl"))) == 4


def test_a_second_fit_begins_anew(pair):
    X, y = pair
    net = student(alpha=0.5).fit(X, y)
    first = net.predict_proba(X)
    np.testing.assert_array_equal(net.fit(X, y).predict_proba(X), first)
    net.set_params(strategy="offline").fit(X, y)
    assert all("train_feature_loss" in row for row in net.history)
    net.partial_fit(X, y)
    assert len(net.history) == 6


def test_two_steps_need_features(pair):
    X, y = pair
    with pytest.raises(ValueError, match="learns features first"):
        student(feature_loss=None, alpha=0.5).fit(X, y)
    with pytest.raises(ValueError, match="learns features first"):
        student(feature_weight=0, alpha=0.5).fit(X, y)
    plain = make_pipeline(
        FunctionTransformer(np.std, kw_args={"axis": 2}), LogisticRegression()
    )
    with pytest.raises(ValueError, match="needs a teacher that is a SleepStager"):
        DistilledSleepStager(plain, TinyNetwork, strategy="two-step").fit(X, y)


def test_going_on_is_the_second_step_alone(pair):
    X, y = pair
    net = student(feature_max_epochs=2, max_epochs=1).fit(X, y)
    net.partial_fit(X, y)
    assert ["train_cross_entropy" in row for row in net.history] == [
        False,
        False,
        True,
        True,
    ]


def test_features_are_learned_from_unscored_nights():
    X, y = make_pair(n_subjects=4)
    unscored = y.copy()
    unscored[48:] = -1
    net = student(feature_max_epochs=2, max_epochs=1).fit(X, unscored)
    assert net.history[0, "batches", :, "train_batch_size"].count(32) == 3


def test_what_cannot_be_pickled_cannot_be_remembered(pair, tmp_path):
    class Local(torch.nn.L1Loss):
        pass

    net = student(feature_loss=Local()).fit(*pair)
    with pytest.raises(ValueError, match="cannot be pickled"):
        net.set_params(memory=str(tmp_path)).fit(*pair)


def test_schedules_begin_anew_with_the_second_step(pair):
    X, y = pair
    seen = []

    class Watch(Callback):
        def on_epoch_begin(self, net, **kwargs):
            seen.append(net.optimizer_.param_groups[0]["lr"])

    schedule = LRScheduler("CosineAnnealingLR", T_max=3)
    net = student(feature_max_epochs=2, callbacks=[schedule, Watch()]).fit(X, y)
    expected = [0.5e-3 * (1 + np.cos(np.pi * k / 3)) for k in range(3)]
    np.testing.assert_allclose(seen, expected[:2] + expected)
    assert [row["epoch"] for row in net.history] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("inside", ["a pipeline", "a grid"])
def test_the_first_step_is_shared_inside(pair, inside, tmp_path):
    X, y = pair
    net = student(memory=str(tmp_path))
    if inside == "a grid":
        grid = {"alpha": [0.0, 0.5, 0.9]}
        GridSearchCV(net, grid, cv=GroupKFold(2), refit=False).fit(X, y, groups=X.subject)
        folds = 2
    else:
        steps = make_pipeline(PairedTransformer(), net)
        for _ in range(2):
            steps.fit(X, y)
        folds = 1
    assert len(list(tmp_path.rglob("distilled/_learn/*/output.pkl"))) == folds
