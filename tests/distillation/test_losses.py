"""What losses of outputs and of features have in common."""

import numpy as np
import pytest
import torch

from skleepkd.distillation import (
    AttentionTransfer,
    ContrastiveDistillation,
    CorrelationDistillation,
    DecoupledDistillation,
    FeatureMSE,
    RelationalDistillation,
    SoftmaxDistillation,
)
from skleepkd.distillation.output_losses import call_loss
from tests.tiny import random_tensors

OF_OUTPUTS = [SoftmaxDistillation, DecoupledDistillation, CorrelationDistillation]


def names(loss):
    return getattr(loss, "__name__", type(loss).__name__)


@pytest.mark.parametrize(
    "loss",
    [
        *(kind(temperature=2.0) for kind in OF_OUTPUTS),
        AttentionTransfer(),
        RelationalDistillation(),
        ContrastiveDistillation(0.3),
    ],
    ids=names,
)
def test_gradient(loss):
    student, teacher = random_tensors(5, 3, 4)
    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher))


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxDistillation(3.0),
        DecoupledDistillation(1, 4, 3),
        FeatureMSE(),
        FeatureMSE(reduction="sum"),
        AttentionTransfer(),
    ],
    ids=names,
)
def test_a_samples_loss_does_not_depend_on_the_others(loss, batch):
    """The loss of a batch is the mean of those of its samples."""
    student, teacher = random_tensors(batch, 4, 5)
    alone = [loss(s[None], t[None]).item() for s, t in zip(student, teacher, strict=True)]
    assert loss(student, teacher).item() == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("kind", [*OF_OUTPUTS, ContrastiveDistillation])
def test_temperature_as_it_is_set_during_a_training(kind):
    student, teacher = random_tensors(6, 5)
    loss = kind()
    loss.temperature = 3.0
    expected = kind(temperature=3.0)(student, teacher).item()
    assert loss(student, teacher).item() == pytest.approx(expected)
    if kind in OF_OUTPUTS:
        expected = 9 * kind()(student / 3, teacher / 3).item()
        assert loss(student, teacher).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="temperature must be a positive number; given 0"):
        kind(temperature=0)


class Margin(torch.nn.Module):
    def forward(self, student, teacher, margin=2.0):
        return margin


class OfStages(torch.nn.Module):
    def forward(self, student, teacher, stages):
        return stages


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda student, teacher: "two", "two"),
        (lambda student, teacher, y=None: y, "y"),
        (Margin(), 2.0),  # an option is not taken for the stages
        (OfStages(), "y"),
    ],
)
def test_a_loss_is_given_the_stages_where_it_takes_them(loss, expected):
    assert call_loss(loss, "student", "teacher", "y") == expected
