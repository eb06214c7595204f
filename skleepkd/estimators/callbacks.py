"""What happens between passes: terms of the loss are noted, the best weights kept."""

import copy

import torch
from skorch.callbacks import Callback


class LossTerms(Callback):
    """Write the mean of each term of the loss into the history, pass by pass.

    The net notes a term with ``net.note_term(name, value, training, weight)``; sums stay on the device
    until the pass ends.
    """

    def on_epoch_begin(self, net, **kwargs):
        """Forget the terms of the last pass."""
        net.terms_ = {}

    def on_epoch_end(self, net, **kwargs):
        """Record the means, as ``train_<term>`` and ``valid_<term>``."""
        for name, (total, count) in net.terms_.items():
            net.history.record(name, float(total) / max(count, 1))


class BestWeights(Callback):
    """Keep the weights of the pass with the highest validation kappa.

    The held-out subjects' kappa is recorded as ``valid_kappa``; at the end of training
    the best weights are put back and ``net.best_epoch_`` says of which pass they are.
    Without validation the last weights stay. While a student learns features alone, the
    lowest ``valid_feature_loss`` decides.
    """

    def on_train_begin(self, net, **kwargs):
        """Begin anew."""
        self.best_ = -float("inf")
        self.weights_ = None
        net.best_epoch_ = None

    def on_epoch_begin(self, net, **kwargs):
        """Begin to count agreements."""
        n_classes = len(net.classes_)
        self.confusion_ = torch.zeros(n_classes * n_classes, dtype=torch.int64)

    def on_batch_end(self, net, batch, training, y_pred=None, **kwargs):
        """Count the answers of a validation batch."""
        if training or getattr(net, "phase_", None) == "features":
            return
        logits = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        y = batch[1].cpu()
        scored = y >= 0
        pairs = y * logits.shape[1] + logits.argmax(dim=1).cpu()
        self.confusion_ += torch.bincount(pairs[scored], minlength=len(self.confusion_))

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        """Record the kappa, and keep the weights if it is the best so far."""
        if dataset_valid is None:
            return
        if getattr(net, "phase_", None) == "features":
            name, score = "valid_feature_loss", -net.history[-1, "valid_feature_loss"]
        else:
            name, score = "valid_kappa", kappa_of_confusion(self.confusion_)
            net.history.record(name, score)
        best = score > self.best_
        net.history.record(f"{name}_best", bool(best))
        if best:
            self.best_ = score
            net.best_epoch_ = len(net.history)
            self.weights_ = [
                copy.deepcopy(module.state_dict()) for module in net.trained_modules()
            ]

    def on_train_end(self, net, **kwargs):
        """Put the best weights back."""
        if self.weights_ is not None:
            for module, weights in zip(net.trained_modules(), self.weights_, strict=True):
                module.load_state_dict(weights)
        self.weights_ = None


def kappa_of_confusion(confusion):
    """Cohen's kappa of a flat confusion matrix; 0 where chance alone agrees.

    Parameters
    ----------
    confusion : torch.Tensor of int, shape (n_classes * n_classes,)
        Counts, the true class being the slower index.

    Returns
    -------
    float
    """
    n_classes = round(len(confusion) ** 0.5)
    table = confusion.double().view(n_classes, n_classes)  # (true, predicted)
    total = table.sum()
    chance = float(table.sum(0) @ table.sum(1)) / float(total) ** 2
    agreement = float(table.trace() / total)
    return (agreement - chance) / (1 - chance) if chance < 1 else 0.0
