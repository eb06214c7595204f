"""Cross-entropy over the epochs that somebody scored."""

import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.stages import UNSCORED


class StageCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, averaged over the scored epochs of a batch.

    As ``torch.nn.CrossEntropyLoss``, but a batch without a scored epoch costs 0
    instead of NaN, and the device is never waited for.

    Parameters
    ----------
    weight : torch.Tensor of shape (n_classes,), optional
        Weight of each class; the average is weighted.
    label_smoothing : float, default=0.0
        As in ``torch.nn.CrossEntropyLoss``.
    """

    def __init__(self, weight=None, label_smoothing=0.0):
        super().__init__(weight, ignore_index=UNSCORED, label_smoothing=label_smoothing)

    def forward(self, logits, y):
        """Return the loss of logits (batch, n_classes, ...) and codes (batch, ...)."""
        total = F.cross_entropy(
            logits,
            y,
            self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        scored = y != self.ignore_index
        if self.weight is None:
            return total / scored.sum().clamp(min=1)
        count = torch.where(scored, self.weight[y.clamp(min=0)], 0.0).sum()
        return total / torch.where(count > 0, count, torch.ones_like(count))
