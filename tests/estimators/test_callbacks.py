"""The choice of weights, step by step."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score
from skorch.dataset import ValidSplit

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.estimators.callbacks import BestWeights, StepwiseValidation
from tests.tiny import FAST, TinyNetwork, make_pair, same


class Scripted(StepwiseValidation):
    """Evaluations that are known beforehand."""

    def __init__(self, script, **kwargs):
        super().__init__(**kwargs)
        self.script = script

    def _evaluate(self, net):
        weights = net.module_.head.weight.detach().clone()
        self.seen_ = [*getattr(self, "seen_", []), weights] if self.scores_ else [weights]
        return "valid_kappa", self.script[len(self.scores_)]


def train(callback, passes=100, **params):
    X, y = make_pair(n_subjects=4)  # 3 subjects train: 72 epochs, 9 steps a pass
    options = {**FAST, "max_epochs": passes, "batch_size": 8, "validation": 1, **params}
    options["callbacks__best_weights"] = callback
    stager = SleepStager(TinyNetwork, **options).fit(X, y)
    return stager, dict(stager.callbacks_)["best_weights"]


def test_spec_c4_stops_after_fifty_evaluations_below_the_best():
    """Every 10 steps; best at the tie that comes later; 50 below it, not before 1000."""
    script = [0.5, 0.7, 0.6, 0.7] + [0.69] * 400
    stager, chosen = train(Scripted(script), passes=200)
    assert chosen.best_step_ == 40
    # The 50th evaluation below is at step 540, before 1000.
    assert chosen.steps_ == 1000
    assert len(chosen.scores_) == 100
    torch.testing.assert_close(stager.module_.head.weight.data, chosen.seen_[3])
    assert len(stager.history) == -(-1000 // 9)


def test_patience_counts_evaluations_in_a_row():
    script = [0.5, 0.4, 0.4, 0.6] + [0.1] * 50
    _, chosen = train(Scripted(script, every=2, patience=3, min_steps=0))
    assert chosen.steps_ == 2 * 7
    assert chosen.best_step_ == 8


def test_training_may_end_before():
    script = [-0.5, 0.6, 0.4]  # at first less agreement than by chance
    stager, chosen = train(Scripted(script, every=9, patience=9), passes=3)
    assert [row["batches"][8]["valid_kappa"] for row in stager.history] == script
    assert chosen.best_step_ == 18
    assert stager.best_epoch_ == 2
    torch.testing.assert_close(stager.module_.head.weight.data, chosen.seen_[1])


@pytest.mark.parametrize("score", ["accuracy", "kappa"])
def test_the_score_is_that_of_the_held_out_subjects(score):
    """With the whole pass as step, it is what the last weights score there."""
    stager, chosen = train(StepwiseValidation(every=9, score=score), passes=2, lr=0.01)
    X, y = make_pair(n_subjects=4)
    rows = np.isin(X.subject, stager.held_out_)
    function = {"accuracy": accuracy_score, "kappa": cohen_kappa_score}[score]
    expected = function(y[rows], stager.predict(X[rows]))
    np.testing.assert_allclose(max(chosen.scores_), expected, rtol=1e-6)
    assert stager.history[-1, "batches", 8, f"valid_{score}"] == chosen.scores_[-1]
    # The same steps are taken, whatever is looked at between them.
    often, _ = train(StepwiseValidation(every=3), passes=2, lr=0.01)
    assert often.history[:, "train_loss"] == stager.history[:, "train_loss"]


def test_without_held_out_subjects_it_does_nothing(pair):
    callback = StepwiseValidation(every=1, patience=1, min_steps=1)
    stager = SleepStager(TinyNetwork, callbacks__best_weights=callback, **FAST)
    assert len(stager.set_params(max_epochs=2).fit(*pair).history) == 2


def test_unknown_score():
    with pytest.raises(ValueError, match="score is 'accuracy' or 'kappa'; given 'f1'"):
        train(StepwiseValidation(score="f1"))


@pytest.mark.parametrize("callback", [BestWeights(), StepwiseValidation(every=1)])
def test_a_split_that_holds_out_no_scored_epoch(callback):
    X, y = make_pair(n_subjects=3)
    y = np.where(np.arange(len(y)) < len(y) / 2, -1, y)
    split = ValidSplit(3, stratified=False)  # the first third
    options = {**FAST, "train_split": split, "callbacks__best_weights": callback}
    student = DistilledSleepStager(SleepStager(TinyNetwork, **FAST), TinyNetwork, **options)
    with pytest.raises(ValueError, match="train_split holds out is scored"):
        student.fit(X, y)


def test_features_alone_are_learned_to_the_last_step():
    """In the first of two steps no label, and no untrained head, decides."""
    teacher = SleepStager(TinyNetwork, max_epochs=1, device="cpu")
    options = {**FAST, "strategy": "two-step", "feature_max_epochs": 2, "max_epochs": 0}
    net, plain = (
        DistilledSleepStager(
            teacher, validation=1, callbacks__best_weights=chooses, **options
        ).fit(*make_pair(n_subjects=4))
        for chooses in (StepwiseValidation(every=1), None)
    )
    assert same(net, plain)
