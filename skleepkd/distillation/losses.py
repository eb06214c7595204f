"""Losses by which a student follows its teacher: ``forward(student, teacher)``."""

import torch
import torch.nn.functional as F
from torch import nn

#: A channel whose spread is below this share of the typical spread counts as dead.
DEAD_BELOW = 0.05


class FeatureLoss(nn.Module):
    """A loss between features, in two halves.

    ``summarise`` turns the features of one network into what is compared, and
    ``compare`` measures the distance. A frozen teacher's summaries are computed once
    and kept. A loss of your own may as well be any ``nn.Module`` with
    ``forward(student, teacher)``; the teacher's raw features are kept for it.
    """

    def summarise(self, features):
        """Return what is compared, shape (batch, ...); the features themselves here."""
        return features

    def learn_statistics(self, summaries):
        """Take what is needed from the teacher's summaries of the training rows."""

    def compare(self, student, teacher):
        """Return the distance of two summaries, a scalar."""
        raise NotImplementedError

    def forward(self, student, teacher):
        """Return the loss of two feature tensors, a scalar."""
        return self.compare(self.summarise(student), self.summarise(teacher))


class PlainFeatureLoss(FeatureLoss):
    """A loss of the user's own, called with the features as they are."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def compare(self, student, teacher):
        """Return what the loss says."""
        return self.loss(student, teacher)


class FeatureMSE(FeatureLoss):
    """Squared distance between the student's and the teacher's features.

    Parameters
    ----------
    reduction : {"mean", "sum"}, default="mean"
        "mean" averages over every element, as the published code does; "sum" adds up
        the features of an epoch and averages over epochs, as equation 2 of the paper
        reads. They differ by the number of features (36,000 for U-Sleep).
    pool : bool, default=False
        Average the features over time (the last axis) before they are compared.
    standardize : bool, default=False
        Compare standardised features, so that a term's weight does not depend on the
        teacher's scale: the mean and standard deviation of each channel of the teacher's
        features over the training rows are taken from both sides (in online distillation,
        those of the batch). Channels that hardly move in the teacher (below 5 % of the root
        mean square of all standard deviations) are divided by that root mean square.

    References
    ----------
    Anandakumar et al. (2022), A knowledge distillation framework for enhancing ear-EEG
    based sleep staging with scalp-EEG data, equations 1 and 2.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import FeatureMSE
    >>> student, teacher = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 2.0)
    >>> FeatureMSE()(student, teacher), FeatureMSE(reduction="sum")(student, teacher)
    (tensor(4.), tensor(48.))
    """

    def __init__(self, reduction="mean", pool=False, standardize=False):
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is 'mean' or 'sum'; given {reduction!r}.")
        self.reduction = reduction
        self.pool = pool
        self.standardize = standardize
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def summarise(self, features):
        """Average over time where ``pool`` asks for it: (batch, channels, ...)."""
        if not self.pool:
            return features
        if features.ndim < 3:
            raise ValueError(
                "pool=True averages over time, but these features have no time axis: "
                f"their shape is {tuple(features.shape)}. Leave pool out."
            )
        return features.mean(dim=-1)

    def learn_statistics(self, summaries):
        """Learn mean and standard deviation of each channel, shape (1, channels, 1...)."""
        if self.standardize:
            self.mean, self.std = _channel_statistics(summaries)

    def compare(self, student, teacher):
        """Return the squared distance, reduced as ``reduction`` says."""
        if student.shape != teacher.shape:
            raise ValueError(
                f"The student's features have shape {tuple(student.shape[1:])} and the "
                f"teacher's {tuple(teacher.shape[1:])}; FeatureMSE compares equal shapes. Name "
                'other layers, or project them: DistilledSleepStager(..., adapter="linear").'
            )
        if self.standardize:
            mean, std = self.mean, self.std
            if mean is None:
                mean, std = _channel_statistics(teacher)
            student, teacher = (student - mean) / std, (teacher - mean) / std
        loss = F.mse_loss(student, teacher)
        return loss if self.reduction == "mean" else loss * student[0].numel()


class AttentionTransfer(FeatureLoss):
    """Distance between where in time the student's and the teacher's features are large.

    The attention map of an epoch is the sum over channels of its squared features, a
    positive number for each moment, divided by the map's Euclidean norm over time. The
    loss is the Euclidean distance of the two maps, averaged over epochs: 0 where they are
    proportional, the square root of 2 where they never overlap.

    Student and teacher need not have the same number of channels, and the scale of
    neither matters; they need the same number of moments.

    Notes
    -----
    Equation 3 of the paper adds the distances of several layers;
    :class:`~skleepkd.DistilledSleepStager` takes their mean, which is the paper's
    sum where ``feature_weight`` is the number of layers. The paper's published code
    differs: it divides by the norm over the batch, takes the mean absolute difference,
    and counts one layer twice.

    References
    ----------
    Joshi et al. (2021), A deep knowledge distillation framework for EEG assisted
    enhancement of single-lead ECG based sleep staging, equation 3; Zagoruyko and
    Komodakis (2017), Paying more attention to attention.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import AttentionTransfer
    >>> student = torch.tensor([[[1.0, 0.0, 0.0]]])
    >>> teacher = torch.tensor([[[0.0, 5.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> AttentionTransfer()(student, teacher)
    tensor(1.4142)
    """

    def summarise(self, features):
        """Return the normalised maps, (batch, times), of (batch, channels, times)."""
        if features.ndim < 3:
            raise ValueError(
                "Attention maps need features of shape (batch, channels, times); these have "
                f"the shape {tuple(features.shape)}, without a time axis. Name layers that "
                "keep time with layers=."
            )
        # (batch, channels, times) -> (batch, times); further axes are strung together
        maps = features.square().sum(dim=1).flatten(1)
        return F.normalize(maps, dim=1)

    def compare(self, student, teacher):
        """Return the Euclidean distance of two maps, averaged over epochs."""
        if student.shape != teacher.shape:
            raise ValueError(
                f"The student's features have {student.shape[1]} moments and the teacher's "
                f"{teacher.shape[1]}; attention maps need equally many. Name layers that match, "
                'or resample: DistilledSleepStager(..., adapter="linear").'
            )
        return torch.linalg.vector_norm(student - teacher, dim=1).mean()


def _channel_statistics(features):
    over = [axis for axis in range(features.ndim) if axis != 1]
    mean = features.mean(dim=over, keepdim=True)
    std = features.std(dim=over, keepdim=True, unbiased=False)
    # A unit that is dead in the teacher (a rectifier that never fires) hardly moves: divided
    # by its own spread, the student's difference there would outweigh everything else.
    typical = std.square().mean().sqrt()
    typical = torch.where(typical > 0, typical, torch.ones_like(typical))
    return mean, torch.where(std > DEAD_BELOW * typical, std, typical)


class SoftmaxDistillation(nn.Module):
    """Kullback-Leibler divergence from the teacher's softened output.

    T^2 KL(teacher || student), summed over classes and averaged over epochs; the
    factor keeps the gradient's size when T changes.

    Parameters
    ----------
    temperature : float, default=1.0
        Both sides' logits are divided by it before the softmax.

    References
    ----------
    Hinton et al. (2015), Distilling the knowledge in a neural network.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import SoftmaxDistillation
    >>> logits = torch.tensor([[0.0, 1.0]])
    >>> SoftmaxDistillation(temperature=2.0)(logits, -logits).round(decimals=3)
    tensor(0.4900)
    """

    def __init__(self, temperature=1.0):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"The temperature must be positive; given {temperature!r}.")
        self.temperature = temperature

    def forward(self, student, teacher):
        """Return the loss of logits of shape (batch, n_classes, ...), a scalar.

        ``teacher`` may as well hold logarithms of probabilities: a softmax does not see
        the constant between them. A class that the teacher lacks is minus infinity.
        """
        log_student = F.log_softmax(student / self.temperature, dim=1)
        teacher = F.softmax(teacher / self.temperature, dim=1)
        divergence = F.kl_div(log_student, teacher, reduction="none").sum(dim=1)
        return self.temperature**2 * divergence.mean()
