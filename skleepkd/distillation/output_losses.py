"""Losses between logits: ``forward(student, teacher)`` or ``forward(student, teacher, y)``.

Logits have the shape (batch, n_classes, ...); windows have their epochs in the last axis.
The teacher's may as well be logarithms of probabilities, since a softmax does not see the
constant between them; a class that the teacher lacks is minus infinity.
"""

import inspect

import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.distillation.schedules import number_of

#: Values that spread by less than this share of their root mean square are equal in float32.
EQUAL_BELOW = 1e-6


def check_temperature(temperature):
    """Refuse a temperature that is not positive."""
    if not number_of(temperature) > 0:
        raise ValueError(
            f"The temperature must be a positive number; given {temperature!r}."
        )


def check_weights(**weights):
    """Refuse weights of a loss's parts that are no numbers, or below 0."""
    for name, weight in weights.items():
        if not number_of(weight) >= 0:
            raise ValueError(f"{name} is a finite number, not below 0; given {weight!r}.")


def call_loss(loss, student, teacher, y):
    """Call a loss, with the stages' codes where it has a ``y`` or needs a third argument."""
    parameters = inspect.signature(getattr(loss, "forward", loss)).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters.values() if p.kind in kinds and p.default is p.empty]
    takes_labels = "y" in parameters or len(needed) > 2
    return loss(student, teacher, y) if takes_labels else loss(student, teacher)


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
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student, teacher):
        """Return the loss of logits of shape (batch, n_classes, ...), a scalar."""
        log_student = F.log_softmax(student / self.temperature, dim=1)
        teacher = F.softmax(teacher / self.temperature, dim=1)
        divergence = F.kl_div(log_student, teacher, reduction="none").sum(dim=1)
        return self.temperature**2 * divergence.mean()


class DecoupledDistillation(nn.Module):
    """The divergence from the teacher's output in two parts that are weighted apart.

    The first part compares how probable the target stage is (against all others
    together), the second how the others share the rest among themselves::

        T^2 (target_weight * KL(b_teacher || b_student)
             + other_weight * KL(q_teacher || q_student))

    averaged over epochs, where b is (p_target, 1 - p_target) and q the softmax over the
    stages other than the target. The divergence of Hinton et al. is the sum whose
    ``other_weight`` is 1 - p_target of the teacher: the surer the teacher, the less it
    tells of the other stages. The target is the scored stage or, on unscored epochs, the
    teacher's most probable one.

    Parameters
    ----------
    target_weight : float, default=1.0
        Weight of the target's part (TCKD), alpha in the paper.
    other_weight : float, default=1.0
        Weight of the others' part (NCKD), beta in the paper.
    temperature : float, default=1.0
        Both sides' logits are divided by it before the softmax.

    Notes
    -----
    Where the teacher gives all probability to the target, the others' part is 0.

    References
    ----------
    Zhao et al. (2022), Decoupled knowledge distillation, section 3.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import DecoupledDistillation
    >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 2.0]])
    >>> loss = DecoupledDistillation(target_weight=0.0)
    >>> loss(student, teacher, torch.tensor([2]))  # the others are equal on both sides
    tensor(0.)
    """

    def __init__(self, target_weight=1.0, other_weight=1.0, temperature=1.0):
        super().__init__()
        check_temperature(temperature)
        check_weights(target_weight=target_weight, other_weight=other_weight)
        self.target_weight = target_weight
        self.other_weight = other_weight
        self.temperature = temperature

    def forward(self, student, teacher, y=None):
        """Return the loss of logits, (batch, n_classes, ...), and codes, (batch, ...).

        ``y`` is -1 where nobody scored; None: nowhere.
        """
        target = teacher.argmax(dim=1)
        if y is not None:
            target = torch.where(y >= 0, y, target)
        index = target.unsqueeze(1)  # (batch, 1, ...)
        is_target = torch.zeros_like(student, dtype=torch.bool).scatter(1, index, True)

        log_student = F.log_softmax(student / self.temperature, dim=1)
        rest = log_student.masked_fill(is_target, -torch.inf).logsumexp(1, keepdim=True)
        # (batch, 2, ...): the target, all others together
        log_pair = torch.cat([log_student.gather(1, index), rest], dim=1)

        teacher = F.softmax(teacher / self.temperature, dim=1)
        others = teacher.masked_fill(is_target, 0)
        total = others.sum(dim=1, keepdim=True)
        pair = torch.cat([teacher.gather(1, index), total], dim=1)
        # Not one minus the target, which would be rounded; and without others, no others.
        others = others / torch.where(total > 0, total, 1)

        targets = F.kl_div(log_pair, pair, reduction="none").sum(dim=1)
        among = F.kl_div(log_student - rest, others, reduction="none").sum(dim=1)
        loss = self.target_weight * targets + self.other_weight * among
        return self.temperature**2 * loss.mean()


class CorrelationDistillation(nn.Module):
    """One minus the correlation of the student's probabilities with the teacher's.

    Pearson's correlation between the two sides, over the stages of each epoch (which
    stages are likelier than others) and, for each stage, over the epochs of the batch
    (where it is likelier than elsewhere)::

        T^2 (between_weight * (1 - mean correlation of epochs)
             + within_weight * (1 - mean correlation of stages))

    A student need only follow the order and the relative distances of the probabilities,
    not their size, which a weaker signal may not allow. Epochs of windows count as epochs
    of the batch. What is constant on either side (a stage that the teacher lacks; a batch
    of one epoch) correlates with nothing: its correlation is 0 and has no gradient.

    Parameters
    ----------
    between_weight : float, default=1.0
        Weight of the part over the stages of an epoch, beta in the paper ("inter-class").
    within_weight : float, default=1.0
        Weight of the part over the epochs of a batch, gamma in the paper ("intra-class").
    temperature : float, default=1.0
        Both sides' logits are divided by it before the softmax.

    References
    ----------
    Huang et al. (2022), Knowledge distillation from a stronger teacher (DIST), section 4.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import CorrelationDistillation
    >>> teacher = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    >>> student = 0.5 * teacher + 0.5 / 3  # half as sure
    >>> CorrelationDistillation()(student.log(), teacher.log()).abs().round(decimals=4)
    tensor(0.)
    """

    def __init__(self, between_weight=1.0, within_weight=1.0, temperature=1.0):
        super().__init__()
        check_temperature(temperature)
        check_weights(between_weight=between_weight, within_weight=within_weight)
        self.between_weight = between_weight
        self.within_weight = within_weight
        self.temperature = temperature

    def forward(self, student, teacher):
        """Return the loss of logits of shape (batch, n_classes, ...), a scalar."""
        student, teacher = (
            # (batch, n_classes, ...) -> (all epochs, n_classes)
            F.softmax(logits / self.temperature, dim=1).movedim(1, -1).flatten(0, -2)
            for logits in (student, teacher)
        )
        between = 1 - _correlations(student, teacher).mean()
        within = 1 - _correlations(student.T, teacher.T).mean()
        loss = self.between_weight * between + self.within_weight * within
        return self.temperature**2 * loss


def _correlations(first, second):
    """Correlate rows with rows; 0, without a gradient, where a row is constant."""
    units, flat = [], False
    for rows in (first, second):
        apart = rows - rows.mean(dim=1, keepdim=True)
        length = apart.norm(dim=1, keepdim=True)
        # Probabilities far below one in a million are equal, too: their squares vanish.
        same = length <= EQUAL_BELOW * rows.norm(dim=1, keepdim=True) + EQUAL_BELOW**2
        units.append(apart / length.masked_fill(same, 1))
        flat = flat | same[:, 0]
    return (units[0] * units[1]).sum(dim=1).masked_fill(flat, 0)


#: Losses between logits by name.
OUTPUT_LOSSES = {
    "softmax": SoftmaxDistillation,
    "dkd": DecoupledDistillation,
    "dist": CorrelationDistillation,
}
