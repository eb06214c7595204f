import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold
from skorch.callbacks import Callback

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.distillation import MeanTeacher, WarmUp
from skleepkd.networks.build import uncompiled
from tests.tiny import FAST, Stop, TinyNetwork, TinySequenceNetwork, same, weights


@pytest.fixture
def few(X, y):
    """The stages of two people alone."""
    return np.where(np.isin(X.subject, ["s0", "s1"]), y, -1)


def student(teacher=None, module=TinyNetwork, strategy=None, **params):
    strategy = MeanTeacher(decay=0.8) if strategy is None else strategy
    params = {**FAST, "max_epochs": 2, "strategy": strategy, **params}
    return DistilledSleepStager(teacher, module, **params)


class Weights(Callback):
    """Keeps the student's weights after each step."""

    seen = []  # noqa: RUF012

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            state = uncompiled(net.module_).state_dict()
            Weights.seen.append({name: value.clone() for name, value in state.items()})


def test_the_average_is_exponential(X, few):
    Weights.seen.clear()
    net = student(callbacks=[Weights()]).fit(X, few)
    expected, *later = Weights.seen
    for new in later:
        expected = {name: 0.8 * old + 0.2 * new[name] for name, old in expected.items()}
    assert len(later) > 4
    for name, value in net.strategy_.average_.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def test_the_term_is_the_squared_distance_on_unscored_epochs(X, few):
    """One full batch, no learning: the two differ by the statistics of the batch alone."""
    options = {"batch_size": len(X), "lr": 0.0, "max_epochs": 1}
    net = student(strategy=MeanTeacher(weight=3.0), **options).fit(X, few)
    fresh = student(strategy=MeanTeacher(weight=3.0), **options).fit(X, few).module_
    begun = {name: v.clone() for name, v in fresh.state_dict().items()}
    begun["norm.running_mean"].zero_()
    begun["norm.running_var"].fill_(1.0)
    fresh.load_state_dict(begun)
    x = torch.from_numpy(X["target"])
    with torch.no_grad():
        average = fresh.eval()(x).softmax(dim=1)
        own = fresh.train()(x).softmax(dim=1)
    expected = ((own - average) ** 2).sum(dim=1)[torch.from_numpy(few) < 0].mean()
    row = net.history_[-1]
    assert row["train_consistency_loss"] == pytest.approx(expected.item(), rel=1e-4)
    total = row["train_cross_entropy"] + 3.0 * row["train_consistency_loss"]
    assert row["train_loss"] == pytest.approx(total, rel=1e-5)


def test_where_all_is_scored_it_is_a_plain_stager(X, y):
    plain = SleepStager(TinyNetwork, **{**FAST, "max_epochs": 2}).fit(X, y)
    net = student().fit(X, y)
    assert same(net, plain)
    assert "train_consistency_loss" not in net.history_[-1]


def test_the_average_may_predict(X, few):
    ways = ("student", "average")
    own, averaged = (
        student(strategy=MeanTeacher(0.8, predicts=w)).fit(X, few) for w in ways
    )
    average = weights(averaged.strategy_.average_.module)
    assert same(weights(averaged.module_), average)
    assert same(weights(own.strategy_.average_.module), average)
    assert not same(own, averaged)


def test_the_average_of_the_best_pass_is_kept(X, few):
    strategy = MeanTeacher(0.5, predicts="average")
    # A learning rate that ruins the network, so that an early pass is the best.
    net = student(strategy=strategy, validation=("s1",), max_epochs=6, lr=0.3).fit(X, few)
    best = net.best_epoch_
    assert best < 6
    again = student(strategy=strategy, validation=("s1",), max_epochs=best, lr=0.3)
    assert same(net, again.fit(X, few))


def test_the_weights_that_predict_are_calibrated(X, y):
    strategy = MeanTeacher(0.98, predicts="average")
    how = {"validation": ("s0", "s1"), "calibrate": True, "max_epochs": 20, "lr": 0.05}
    net = student(strategy=strategy, **how).fit(X, y)
    held_out = np.isin(X.subject, ("s0", "s1"))
    x, codes = torch.from_numpy(X["target"][held_out]), torch.from_numpy(y[held_out])
    with torch.no_grad():
        logits = net.module_.eval()(x)
    surprise = [
        torch.nn.functional.cross_entropy(logits / (net.calibration_ * factor), codes)
        for factor in (0.9, 1.0, 1.1)
    ]
    assert surprise[1] < min(surprise[0], surprise[2])


def test_another_teacher_teaches_by_alpha_too(X, few):
    teacher = FrozenEstimator(SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, few))
    net = student(teacher, alpha=0.5, feature_loss="mse", batch_size=len(X)).fit(X, few)
    row = net.history_[-1]
    total = 0.5 * row["train_cross_entropy"] + 0.5 * row["train_softmax_loss"]
    total += row["train_feature_loss"] + row["train_consistency_loss"]
    assert row["train_loss"] == pytest.approx(total, rel=1e-5)
    student(teacher, alpha=1.0).fit(X)  # without any label


def test_windows(X, few):
    net = student(module=TinySequenceNetwork, sequence_length=4).fit(X, few)
    assert net.history_[-1]["train_consistency_loss"] > 0
    assert net.predict_proba(X).shape == (len(X), 5)


def test_a_stopped_training_ends_as_one_that_was_not(X, few, tmp_path, monkeypatch):
    whole = student(max_epochs=4).fit(X, few)
    kept = {"max_epochs": 4, "checkpoint": tmp_path, "callbacks": [Stop()]}
    monkeypatch.setattr(Stop, "after", 2)
    with pytest.raises(KeyboardInterrupt):
        student(**kept).fit(X, few)
    monkeypatch.setattr(Stop, "after", None)
    resumed = student(**kept).fit(X, few)
    assert same(whole, resumed)
    assert same(whole.strategy_.average_.module, resumed.strategy_.average_.module)


def test_a_fitted_one_is_pickled(X, few):
    net = student().fit(X, few)
    again = pickle.loads(pickle.dumps(net))
    average = (each.strategy_.average_.module for each in (net, again))
    assert same(*(one.state_dict() for one in average))
    assert same(net.partial_fit(X, few), again.partial_fit(X, few))


def test_parameters_are_searched(X, few):
    net = clone(student(strategy=MeanTeacher(weight=WarmUp(2.0))))
    assert net.get_params()["strategy__weight"] == WarmUp(2.0)
    search = GridSearchCV(net, {"strategy__decay": [0.5, 0.9]}, cv=GroupKFold(2))
    scored = few >= 0
    search.fit(X[scored], few[scored], groups=X.subject[scored])
    assert search.best_estimator_.strategy_.decay in (0.5, 0.9)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"decay": 1.0}, "decay is a share from 0 to below 1"),
        ({"predicts": "both"}, "'student' or 'average'"),
        ({"weight": -1.0}, "weight is a finite number"),
    ],
)
def test_what_means_nothing_is_refused(X, few, params, message):
    with pytest.raises(ValueError, match=message):
        student(strategy=MeanTeacher(**params)).fit(X, few)
