"""How the weights are chosen: after each pass, or every few training steps."""

import copy
from functools import partial

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, PrintLog
from skorch.callbacks.scoring import ScoringBase

from skleepkd.estimators.labels import unscored_like
from skleepkd.metrics.staging import kappa_of


class _ChosenWeights(Callback):
    """The weights with the best score so far, put back at the end of the training."""

    def on_train_begin(self, net, **kwargs):
        self.best_, self.weights_ = -float("inf"), None
        for each in net.trained_nets():
            each.best_epoch_ = None

    def _keep(self, net, score):
        self.best_ = score
        self.weights_ = [copy.deepcopy(m.state_dict()) for m in net.trained_modules()]
        for each in net.trained_nets():
            each.best_epoch_ = len(net.history)

    def on_train_end(self, net, **kwargs):
        if self.weights_ is not None:
            for module, own in zip(net.trained_modules(), self.weights_, strict=True):
                module.load_state_dict(own)
        self.weights_ = None


class BestWeights(_ChosenWeights):
    """Keep the weights of the pass with the highest validation kappa.

    The held-out subjects' kappa is recorded as ``valid_kappa``; at the end of training
    the best weights are put back and ``net.best_epoch_`` says of which pass they are.
    Without validation the last weights stay. While a student learns features alone, the
    lowest ``valid_feature_loss`` decides.
    """

    def on_epoch_begin(self, net, **kwargs):
        """Begin to count agreements."""
        self.confusion_ = 0

    def on_batch_end(self, net, batch, training, y_pred=None, **kwargs):
        """Count the predictions of a validation batch."""
        if not training and net.step_.stages:
            self.confusion_ += count_predictions(y_pred, batch[1], len(net.classes_))

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        """Record the kappa, and keep the weights if it is the best so far."""
        if dataset_valid is None:
            return
        if net.step_.stages:
            _need_scored(self.confusion_)
            name, score = "valid_kappa", kappa_of(self.confusion_)
            net.history.record(name, score)
        else:
            name, score = "valid_feature_loss", -net.history[-1, "valid_feature_loss"]
        best = score > self.best_
        net.history.record(f"{name}_best", bool(best))
        if best:
            self._keep(net, score)


def check_monitors(net):
    """Refuse callbacks that watch a score which nobody computes, or choose other weights."""
    given = dict(net.callbacks_)
    validates = len(net.held_out_) or net.train_split is not None
    chooses = any(isinstance(callback, BestWeights) for callback in given.values())
    for callback in given.values():
        name, watched = type(callback).__name__, getattr(callback, "monitor", None)
        if validates and chooses and getattr(callback, "load_best", False):
            raise ValueError(
                f"{name}(load_best=True) would put its weights in the place of those that the "
                "stager chooses, of the pass with the highest valid_kappa. Leave load_best out, "
                "or let the callback choose alone: callbacks__best_weights=None."
            )
        if not isinstance(watched, str) or not watched.startswith("valid_"):
            continue
        if not validates:
            raise ValueError(
                f"{name} watches {watched!r}, and nobody is held out: give validation=2, so many "
                'subjects (from groups=, or subject= of a PairedEpochs), or monitor="train_loss".'
            )
        if watched.startswith("valid_acc") and "valid_acc" not in given:
            raise ValueError(
                f"{name} watches {watched!r}, which is not computed. Of the subjects who are held "
                'out the kappa is: monitor="valid_kappa", lower_is_better=False.'
            )
        strategy = getattr(net, "strategy_", None)
        two_steps = getattr(strategy, "ends_without_features", False)
        if watched.startswith("valid_kappa") and (two_steps or not chooses):
            raise ValueError(
                f"{name} watches {watched!r}, which is computed neither in the first of two "
                "steps, where no stages are learned, nor of an online teacher, nor without "
                'callbacks__best_weights: give monitor="valid_loss".'
            )


class ShownLog(PrintLog):
    """A line a pass, made only where somebody sees it."""

    def on_epoch_end(self, net, **kwargs):
        """Print the line if the net is verbose; a sink of one's own gets it always."""
        if net.verbose or self.sink is not print:
            super().on_epoch_end(net, **kwargs)


def default_callbacks(of_skorch):
    """List skorch's own callbacks and ours, which take the place of two of them."""
    own = {"best_weights": BestWeights(), "print_log": ShownLog()}
    others = [c for c in of_skorch if c[0] not in ("valid_acc", "print_log")]
    return [*others, *own.items()]


class TrainingStopped(Exception):
    """Raised by a callback to end the training within a pass, with the data sets of the pass."""


class StepwiseValidation(_ChosenWeights):
    """Choose the weights, and stop, by evaluations every few training steps.

    It takes the place of :class:`BestWeights`, which looks once a pass::

        SleepStager(..., callbacks__best_weights=StepwiseValidation())

    The defaults are those of [1]_'s published code: an evaluation every 10 steps, stop
    after 50 of them without improvement (500 steps; the paper's text says 50 steps), but
    not before step 1000. It does nothing where nobody is held out, and while a student
    learns features alone.

    Parameters
    ----------
    every : int, default=10
        Training steps between evaluations on the subjects who are held out.
    patience : int, default=50
        Evaluations in a row below the best after which the training stops.
    min_steps : int, default=1000
        Steps before which it does not stop.
    score : {"accuracy", "kappa"}, default="accuracy"
        Of single windows, not fused. Of equal scores the later is the best.

    Attributes
    ----------
    scores_ : list of float
        One an evaluation; also in the history, at the batch that it followed.
    best_step_ : int or None
        The step whose weights were kept.

    References
    ----------
    .. [1] Phan, H. et al. (2019). Deep transfer learning for single-channel
       automatic sleep staging with channel mismatch.
    """

    def __init__(self, every=10, patience=50, min_steps=1000, score="accuracy"):
        self.every = every
        self.patience = patience
        self.min_steps = min_steps
        self.score = score

    def on_train_begin(self, net, **kwargs):
        """Begin anew."""
        if self.score not in ("accuracy", "kappa"):
            raise ValueError(f"score is 'accuracy' or 'kappa'; given {self.score!r}.")
        self.steps_, self.waited_, self.scores_, self.best_step_ = 0, 0, [], None
        super().on_train_begin(net)

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Take the subjects who are held out."""
        self.datasets_ = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}

    def on_batch_end(self, net, training=False, **kwargs):
        """Evaluate after every few steps."""
        judged = net.step_.stages and self.datasets_["dataset_valid"] is not None
        if not (training and judged):
            return
        self.steps_ += 1
        if self.steps_ % self.every:
            return
        name, score = self._evaluate(net)
        self.scores_.append(score)
        net.history.record_batch(name, score)
        if score >= self.best_:
            self.best_step_, self.waited_ = self.steps_, 0
            self._keep(net, score)
        else:
            self.waited_ += 1
        if self.waited_ >= self.patience and self.steps_ >= self.min_steps:
            raise TrainingStopped(self.datasets_)

    def _evaluate(self, net):
        """Return the score's name and the score."""
        confusion = 0
        # A loader draws a number when it begins; the training must not notice.
        with torch.random.fork_rng(devices=[]):
            for batch in net.get_iterator(self.datasets_["dataset_valid"], training=False):
                predicted = net.evaluation_step(batch)
                confusion += count_predictions(predicted, batch[1], len(net.classes_))
        _need_scored(confusion)
        if self.score == "kappa":
            return "valid_kappa", kappa_of(confusion)
        return "valid_accuracy", float(confusion.trace() / confusion.sum())

    def on_train_end(self, net, **kwargs):
        """Put the best weights back."""
        super().on_train_end(net)
        self.datasets_ = None


def _need_scored(confusion):
    """Refuse to choose weights by epochs of which nobody scored one."""
    if not confusion.sum():
        raise ValueError(
            "No epoch that train_split holds out is scored, so that no pass is the best: hold "
            "subjects out, validation=2, or keep the last weights, callbacks__best_weights=None."
        )


def count_predictions(y_pred, y, n_classes):
    """Count predictions of scored epochs, an array (n_classes, n_classes), true class first."""
    # logits (batch, n_classes, ...), codes (batch, ...)
    logits = y_pred[0] if isinstance(y_pred, tuple) else y_pred
    y = y.cpu()
    pairs = y * n_classes + logits.argmax(dim=1).cpu()
    counts = torch.bincount(pairs[y >= 0], minlength=n_classes * n_classes)
    return counts.view(n_classes, n_classes).numpy()


def score_by_labels(callbacks):
    """Let skorch's scoring callbacks, which hold codes against labels, judge scored epochs."""
    for _, callback in callbacks:
        if isinstance(callback, ScoringBase):
            callback.scoring_ = partial(_score_labels, scoring=callback.scoring_)


def _score_labels(net, X, y, scoring):
    if y is None:  # skorch's cache is off
        y = np.concatenate([batch[1] for batch in net.get_iterator(X)])
    codes = np.ravel(y)  # of windows, (windows, length) -> (windows * length,)
    scored = codes >= 0
    if callable(scoring) and not hasattr(scoring, "_score_func"):  # the user's own
        unscored = unscored_like(net.classes_, len(codes))
        return scoring(net, X, np.where(scored, net.classes_[codes], unscored))
    scorer = get_scorer("accuracy" if scoring is None else scoring)
    return scorer(_ScoredEpochs(net, scored), X, net.classes_[codes[scored]])


class _ScoredEpochs(ClassifierMixin, BaseEstimator):
    """A stager as scorers see it, which predicts the scored epochs alone."""

    def __init__(self, net, scored):
        self.net = net
        self.scored = scored
        self.classes_ = net.classes_

    def predict_proba(self, X):
        probabilities = NeuralNetClassifier.predict_proba(self.net, X)  # past the door
        # (windows, n_classes, length) -> (windows * length, n_classes)
        probabilities = np.moveaxis(probabilities, 1, -1)
        return probabilities.reshape(-1, len(self.classes_))[self.scored]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
