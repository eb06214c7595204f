"""Losses between features: ``forward(student, teacher)``."""

import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.distillation.output_losses import (
    EQUAL_BELOW,
    call_loss,
    check_temperature,
    check_weights,
)

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

    def compare(self, student, teacher, y):
        """Return what the loss says."""
        return call_loss(self.loss, student, teacher, y)


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
        _need_equal_shapes(self, student, teacher)
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


def _need_equal_shapes(loss, student, teacher):
    if student.shape != teacher.shape:
        raise ValueError(
            f"The student's features have shape {tuple(student.shape[1:])} and the teacher's "
            f"{tuple(teacher.shape[1:])}; {type(loss).__name__} compares equal shapes. Name "
            'other layers, or project them: DistilledSleepStager(..., adapter="linear").'
        )


def _channel_statistics(features):
    over = [axis for axis in range(features.ndim) if axis != 1]
    mean = features.mean(dim=over, keepdim=True)
    std = features.std(dim=over, keepdim=True, unbiased=False)
    # A unit that is dead in the teacher (a rectifier that never fires) hardly moves: divided
    # by its own spread, the student's difference there would outweigh everything else.
    typical = std.square().mean().sqrt()
    typical = torch.where(typical > 0, typical, torch.ones_like(typical))
    return mean, torch.where(std > DEAD_BELOW * typical, std, typical)


class RelationalDistillation(FeatureLoss):
    """Difference between how the student's and the teacher's features lie to each other.

    For each pair of rows of the batch their Euclidean distance, divided by the mean of
    all distances that are not zero; for each three of them the cosine of the angle at the
    first. Both sides' are compared by the smooth L1 distance (half the square below 1, the
    absolute value minus one half above), averaged over all n^2 pairs and n^3 triples::

        distance_weight * mean over (i, j) + angle_weight * mean over (i, j, k)

    Rotations, reflections, shifts and scales of either side change nothing, and the two
    sides may have any shapes, without an adapter. A row is an epoch or, of stagers of
    sequences, a window, its features strung together.

    Parameters
    ----------
    distance_weight : float, default=1.0
        Weight of the distances.
    angle_weight : float, default=1.0
        Weight of the angles; the paper gives them twice the weight of the distances. At 0
        they are not computed.

    Notes
    -----
    Angles take memory with the third power of the batch, about 0.4 GB for 256 rows. Where
    two of three rows are equal to 1 part in 1,000, the cosine at either is 0.

    References
    ----------
    Park et al. (2019), Relational knowledge distillation, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import RelationalDistillation
    >>> teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> student = torch.tensor([[8.0, 0.0, 1.0], [8.0, 0.0, 7.0], [0.0, 0.0, 1.0]])
    >>> RelationalDistillation()(student, teacher).abs().round(decimals=4)  # twice, turned
    tensor(0.)
    """

    def __init__(self, distance_weight=1.0, angle_weight=1.0):
        super().__init__()
        check_weights(distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def summarise(self, features):
        """Return a row for each epoch or window, (batch, features), of (batch, ...)."""
        return features.flatten(1)

    def compare(self, student, teacher):
        """Return the mean difference of distances and of angles, weighted."""
        # A teacher's summaries are kept in half precision, whose products may overflow.
        own = _squared_distances(student)
        other = _squared_distances(teacher.to(student.dtype))
        loss = self.distance_weight * F.smooth_l1_loss(_distances(own), _distances(other))
        if self.angle_weight:
            loss = loss + self.angle_weight * _angle_loss(own, other)
        return loss


def _squared_distances(rows):
    """Squared distances of rows, (n, n), exactly 0 between rows that are equal."""
    # Through products of rows, since all differences would be n^2 copies of a row. Around
    # their mean, where less is lost to rounding.
    rows = rows - rows.mean(dim=0)
    products = rows @ rows.T
    squares = products.diagonal()
    sums = squares[:, None] + squares
    apart = sums - 2 * products
    return apart.masked_fill(apart <= EQUAL_BELOW * sums, 0)


def _inverse(squared):
    """One over each distance; 0, without a gradient, between rows that are equal."""
    return squared.masked_fill(squared == 0, torch.inf).rsqrt()


def _distances(squared):
    """Distances, (n, n), in units of the mean of those that are not zero."""
    distances = squared * _inverse(squared)
    total = distances.sum()
    return distances * (squared > 0).sum() / (total + (total == 0))


def _angle_loss(*squared):
    """Smooth L1 distance of the cosines, over all triples of two sets of rows."""
    n, total = len(squared[0]), 0.0
    inverse = [_inverse(one) for one in squared]
    # Some corners at a time, so that numbers stay in the processor's cache.
    step = max(1, 2**18 // n**2)
    for start in range(0, n, step):
        corners = slice(start, start + step)
        own, other = map(_cosines, squared, inverse, (corners, corners))
        total = total + F.smooth_l1_loss(own, other, reduction="sum")
    return total / n**3


def _cosines(squared, inverse, corners):
    """Cosines of the angles at some of the rows, between all others, (some, n, n)."""
    sides, inverse = squared[corners], inverse[corners]
    # The law of cosines.
    products = sides[:, :, None] + sides[:, None, :] - squared
    return products * (inverse / 2)[:, :, None] * inverse[:, None, :]


class ContrastiveDistillation(FeatureLoss):
    """Cross-entropy of telling an epoch by its teacher's features from the batch's others.

    With c(i, j) the cosine of the student's features of epoch i and the teacher's of j::

        mean over i of -log(exp(c(i, i) / T) / sum over j of exp(c(i, j) / T))

    The two views of an epoch are the pair that belongs together; all other epochs of the
    batch are the contrast, so the loss is at most the logarithm of the batch's size where
    the student tells nothing. Features are compared as they are, moment by moment,
    without an average over time; those of a stager of sequences are a window's.

    Parameters
    ----------
    temperature : float, default=0.1
        Cosines are divided by it before the softmax.

    References
    ----------
    van den Oord et al. (2018), Representation learning with contrastive predictive
    coding, equation 4 (InfoNCE); Tian et al. (2020), Contrastive representation
    distillation.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import ContrastiveDistillation
    >>> features = torch.eye(4)  # each epoch by itself
    >>> ContrastiveDistillation(temperature=1.0)(features, features)
    tensor(0.7437)
    """

    def __init__(self, temperature=0.1):
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def compare(self, student, teacher):
        """Return the cross-entropy of the epochs of a batch, a scalar."""
        _need_equal_shapes(self, student, teacher)
        # (batch, ...) -> (batch, features), each of length one
        own, other = (
            F.normalize(x.to(student.dtype).flatten(1), dim=1) for x in (student, teacher)
        )
        cosines = own @ other.T  # (batch, batch)
        pairs = torch.arange(len(own), device=own.device)
        return F.cross_entropy(cosines / self.temperature, pairs)


#: Feature losses by name.
FEATURE_LOSSES = {
    "mse": FeatureMSE,
    "attention": AttentionTransfer,
    "relational": RelationalDistillation,
    "contrastive": ContrastiveDistillation,
}
