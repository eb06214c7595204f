import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, pearsonr

from skleepkd.distillation import (
    CorrelationDistillation,
    DecoupledDistillation,
    SoftmaxDistillation,
)
from tests.tiny import random_tensors, value_and_gradient

ALL = [SoftmaxDistillation, DecoupledDistillation, CorrelationDistillation]


def random_logits(*shape):
    return (2 * logits for logits in random_tensors(*shape or (6, 5)))


def log(*probabilities):
    """Logits of one epoch or more that have these probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


@pytest.mark.parametrize("kind", ALL)
def test_epochs_of_windows_cost_what_they_cost_one_by_one(kind):
    """Logits (batch, classes, epochs) of windows."""
    student, teacher = random_logits(3, 5, 4)
    flat = [x.movedim(1, 2).reshape(12, 5) for x in (student, teacher)]
    loss = kind(temperature=2.0)
    assert loss(student, teacher).item() == pytest.approx(loss(*flat).item())


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [1.0, 300.0])
@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 1, 2, 3, 4]])
def test_what_the_teacher_lacks_leaves_value_and_gradient_finite(kind, size, rows):
    inf = torch.inf
    teacher = torch.tensor(
        [
            [0.0, 1.0, -inf, 2.0],  # one stage is missing,
            [-inf, 1.0, -inf, -inf],  # all but one,
            [0.0, 0.0, -inf, 0.0],  # one, and the others are equal
            [0.0, -300.0, -inf, 300.0],
            [1.0, 2.0, -inf, 0.0],
        ]
    )[rows]
    rising = size * torch.arange(4.0).repeat(len(rows), 1)
    for student in (rising, torch.zeros(len(rows), 4)):
        for y in (None, [2, 1, -1, 0, 2], [-1] * 5, [0, 0, 2, 2, 1]):
            others = [teacher]
            if kind is DecoupledDistillation and y is not None:
                others.append(torch.tensor(y)[rows])
            value_and_gradient(kind(temperature=2.0), student, *others)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [5.0, 10.0, 40.0, 1000.0])
def test_probabilities_near_zero_leave_value_and_gradient_finite(kind, size):
    never = torch.tensor([0.0, 0.0, 6.0, 0.0, 0.0])  # one stage hardly ever
    student, teacher = (size * (x - never).float() for x in random_logits(7, 5))
    for other in (teacher, student.clone(), 0 * teacher):
        value_and_gradient(kind(), student, other)


# ---------------------------------------------------------------- softmax


def test_softmax_distillation_closed_form():
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, np.log(3.0)], [0.0, 0.0]])
    # KL((1/4, 3/4) || (1/2, 1/2)), averaged with an epoch without difference.
    divergence = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert SoftmaxDistillation()(student, teacher).item() == pytest.approx(divergence / 2)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softmax_distillation_against_scipy(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 6, 5))
    p, q = (softmax(x / temperature, axis=1) for x in (teacher, student))
    expected = temperature**2 * entropy(p, q, axis=1).mean()
    loss = SoftmaxDistillation(temperature)
    measured = loss(torch.from_numpy(student), torch.from_numpy(teacher))
    assert measured.item() == pytest.approx(expected)
    # Logarithms of probabilities serve as logits.
    log_p = torch.from_numpy(np.log(softmax(teacher, axis=1)))
    assert loss(torch.from_numpy(student), log_p).item() == pytest.approx(expected)


def test_softmax_distillation_of_a_class_that_the_teacher_lacks():
    student = torch.tensor([[1.0, 0.0, 2.0]])
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    _, gradient = value_and_gradient(SoftmaxDistillation(2.0), student, teacher)
    assert gradient[0, 2] > 0  # it is pushed down


# ---------------------------------------------------------------- target and others


def test_decoupled_distillation_by_hand():
    student, target = log([1 / 3, 1 / 3, 1 / 3]), torch.tensor([0])
    teacher = log([1 / 2, 3 / 8, 1 / 8])
    # (1/2, 1/2) beside (1/3, 2/3); and (3/4, 1/4) beside (1/2, 1/2).
    targets = 0.5 * np.log(1.5) + 0.5 * np.log(0.75)
    others = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    for weights in ((1, 0), (0, 1), (2, 5)):
        loss = DecoupledDistillation(*weights)(student, teacher, target)
        assert loss.item() == pytest.approx(weights[0] * targets + weights[1] * others)


def test_decoupled_distillation_against_scipy():
    student, teacher = random_logits()
    y = np.array([0, 4, 2, 2, 1, 3])
    p, q = (softmax(x.numpy() / 4, axis=1) for x in (teacher, student))
    expected = []
    for own, other, k in zip(q, p, y, strict=True):
        targets = entropy([other[k], 1 - other[k]], [own[k], 1 - own[k]])
        others = entropy(np.delete(other, k), np.delete(own, k))  # scipy normalises
        expected.append(16 * (0.7 * targets + 3 * others))
    loss = DecoupledDistillation(0.7, 3.0, temperature=4.0)
    measured = loss(student, teacher, torch.from_numpy(y)).item()
    assert measured == pytest.approx(np.mean(expected))


def test_the_divergence_is_the_targets_part_and_a_share_of_the_others():
    """KL = TCKD + (1 - p_target) NCKD, epoch by epoch, with T^2 on both sides."""
    student, teacher = random_logits()
    share = softmax(teacher.numpy() / 2, axis=1)
    for own, other, p in zip(student[:, None], teacher[:, None], share, strict=True):
        for k in range(5):
            parts = DecoupledDistillation(1.0, 1 - p[k], temperature=2.0)
            whole = SoftmaxDistillation(2.0)(own, other).item()
            assert parts(own, other, torch.tensor([k])).item() == pytest.approx(whole)


def test_unscored_epochs_take_the_teachers_most_probable_stage():
    student, teacher = random_logits(4, 5, 3)
    loss, best = DecoupledDistillation(1.0, 3.0), teacher.argmax(dim=1)
    expected = loss(student, teacher, best).item()
    unscored = torch.full((4, 3), -1)
    assert loss(student, teacher).item() == pytest.approx(expected)
    assert loss(student, teacher, unscored).item() == pytest.approx(expected)
    # One epoch of another stage alone makes a difference.
    scored = unscored.clone()
    scored[2, 1] = (best[2, 1] + 1) % 5
    mixed = torch.where(scored >= 0, scored, best)
    assert loss(student, teacher, scored).item() == loss(student, teacher, mixed).item()
    assert abs(loss(student, teacher, scored).item() - expected) > 1e-3


def test_a_teacher_sure_of_the_target_says_nothing_of_the_others():
    student = torch.tensor([[1.0, 2.0, 5.0]])
    teacher = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    loss = DecoupledDistillation(target_weight=0.0)
    value, gradient = value_and_gradient(loss, student, teacher, torch.tensor([0]))
    assert value == 0
    assert not gradient.any()


# ---------------------------------------------------------------- correlations


def test_correlation_distillation_against_scipy():
    student, teacher = random_logits()
    q, p = (softmax(x.numpy() / 2, axis=1) for x in (student, teacher))
    between = np.mean([pearsonr(*pair)[0] for pair in zip(q, p, strict=True)])
    within = np.mean([pearsonr(*pair)[0] for pair in zip(q.T, p.T, strict=True)])
    loss = CorrelationDistillation(3.0, 5.0, temperature=2.0)
    expected = 4 * (3 * (1 - between) + 5 * (1 - within))
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_correlation_distillation_sees_no_affine_map():
    teacher = log([0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3])
    between, within = CorrelationDistillation(1.0, 0.0), CorrelationDistillation(0.0, 1.0)
    share = torch.tensor([[0.9], [0.2], [0.5]])
    # Each epoch flattened by a share of its own: the order of its stages stays.
    flatter = (share * teacher.exp() + (1 - share) / 3).log()
    assert between(flatter, teacher).item() == pytest.approx(0, abs=1e-12)
    assert within(flatter, teacher).item() > 0.01
    # All flattened alike, towards other shares of the stages: those of the epochs stay.
    moved = (0.4 * teacher.exp() + 0.6 * torch.tensor([0.2, 0.5, 0.3])).log()
    assert within(moved, teacher).item() == pytest.approx(0, abs=1e-12)
    assert between(moved, teacher).item() > 0.01


def test_correlation_distillation_is_at_most_two():
    teacher = log([0.5, 0.3, 0.2], [0.2, 0.5, 0.3])
    opposite = (2 / 3 - teacher.exp()).log()
    assert CorrelationDistillation(1, 0)(opposite, teacher).item() == pytest.approx(2)
    assert CorrelationDistillation(0, 1)(opposite, teacher).item() == pytest.approx(2)


def test_what_is_constant_correlates_with_nothing():
    one = log([0.7, 0.2, 0.1])
    alike = log(*3 * [[0.7, 0.2, 0.1]]).float()
    for loss, student, teacher, expected in (
        (CorrelationDistillation(0.0, 1.0), one, one.clone(), 1),
        # A student that prefers no stage.
        (CorrelationDistillation(), torch.zeros(3, 3), alike, 2),
    ):
        value, gradient = value_and_gradient(loss, student, teacher)
        assert value == expected
        assert not gradient.any()
    # Two stages follow the teacher's; the third it lacks.
    teacher = log([0.7, 0.3, 0.0], [0.4, 0.6, 0.0], [0.5, 0.5, 0.0])
    student = log([0.7, 0.15, 0.15], [0.4, 0.3, 0.3], [0.5, 0.25, 0.25])
    within = CorrelationDistillation(0.0, 1.0)(student, teacher)
    assert within.item() == pytest.approx(1 / 3)
