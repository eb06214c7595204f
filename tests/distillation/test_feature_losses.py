import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax
from scipy.stats import ortho_group

from skleepkd.distillation import (
    AttentionTransfer,
    ContrastiveDistillation,
    FeatureMSE,
    RelationalDistillation,
)
from tests.tiny import random_tensors, value_and_gradient


def test_feature_mse_mean_and_the_papers_sum():
    student, teacher = random_tensors(4, 3, 5)
    squares = (student.numpy() - teacher.numpy()) ** 2
    assert FeatureMSE()(student, teacher).item() == pytest.approx(squares.mean())
    # Equation 2: the squared norm of an epoch's features, averaged over epochs.
    norms = squares.reshape(4, -1).sum(axis=1)
    summed = FeatureMSE(reduction="sum")
    assert summed(student, teacher).item() == pytest.approx(norms.mean())
    # SPEC A3: U-Sleep has 36,000 features.
    student, teacher = random_tensors(2, 6, 6000)
    ratio = summed(student, teacher) / FeatureMSE()(student, teacher)
    assert ratio.item() == pytest.approx(36_000)


def test_feature_mse_pooled():
    student, teacher = random_tensors(4, 3, 5)
    expected = ((student.numpy().mean(2) - teacher.numpy().mean(2)) ** 2).mean()
    assert FeatureMSE(pool=True)(student, teacher).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="no time axis"):
        FeatureMSE(pool=True)(student[:, :, 0], teacher[:, :, 0])


def test_feature_mse_standardised_by_the_teachers_training_statistics():
    student, teacher = random_tensors(4, 3, 5)
    training = 7 + 3 * np.random.default_rng(1).standard_normal((50, 3, 5))
    training[:, 2] = 4.0 + 1e-5 * training[:, 2]  # a dead unit
    loss = FeatureMSE(standardize=True)
    loss.learn_statistics(torch.from_numpy(training))
    std = training.std(axis=(0, 2))
    std[2] = np.sqrt((std**2).mean())
    expected = (((student - teacher).numpy() / std[:, None]) ** 2).mean()
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_feature_mse_does_not_broadcast_and_knows_two_reductions():
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 5\)"):
        FeatureMSE()(torch.zeros(4, 3), torch.zeros(4, 3, 5))
    with pytest.raises(ValueError, match="reduction"):
        FeatureMSE(reduction="max")


def bursts(*moments, n_times=6, size=1.0):
    """One epoch of one channel that is zero except at the given moments."""
    x = torch.zeros(1, 1, n_times, dtype=torch.float64)
    x[..., list(moments)] = size
    return x


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (bursts(1), bursts(1, size=-70.0), 0.0),  # neither size nor sign matters
        (bursts(1), bursts(4), np.sqrt(2)),
        (bursts(1), bursts(1, 4), np.sqrt(2 - np.sqrt(2))),  # 45 degrees apart
        (bursts(0, 1, 2, 3), bursts(2, 3, 4, 5), 1.0),  # a cosine of one half
        (bursts(), bursts(2), 1.0),  # a silent student
    ],
)
def test_attention_transfer_closed_forms(student, teacher, expected):
    loss = AttentionTransfer()(student, teacher)
    assert loss.item() == pytest.approx(expected, abs=1e-7)


def test_attention_transfer_against_numpy():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((5, 3, 11)), rng.standard_normal((5, 8, 11))
    distances = []
    for own, other in zip(student, teacher, strict=True):
        own, other = np.einsum("ct,ct->t", own, own), np.einsum("ct,ct->t", other, other)
        cosine = own @ other / np.sqrt((own @ own) * (other @ other))
        distances.append(np.sqrt(2 - 2 * cosine))
    student, teacher = torch.from_numpy(student), torch.from_numpy(teacher)
    loss = AttentionTransfer()(student, teacher)
    assert loss.item() == pytest.approx(np.mean(distances))


def test_attention_map_is_what_is_kept():
    features = torch.randn(4, 7, 10)
    maps = AttentionTransfer().summarise(features)
    assert maps.shape == (4, 10)
    np.testing.assert_allclose(np.linalg.norm(maps, axis=1), 1, rtol=1e-6)
    torch.testing.assert_close(AttentionTransfer().compare(maps, maps), torch.tensor(0.0))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0])
def test_attention_transfer_of_silent_and_equal_maps_has_a_finite_gradient(size):
    for teacher in (torch.zeros(2, 3, 5), torch.ones(2, 3, 5)):
        value_and_gradient(AttentionTransfer(), size * torch.ones(2, 3, 5), teacher)


def test_attention_transfer_needs_time_and_equally_much_of_it():
    with pytest.raises(ValueError, match=r"\(4, 3\), without a time axis"):
        AttentionTransfer()(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="5 moments and the teacher's 6"):
        AttentionTransfer()(torch.zeros(4, 3, 5), torch.zeros(4, 3, 6))


# ---------------------------------------------------------------- relations


def test_relational_distillation_by_hand():
    # Distances 3, 4, 5, whose mean is 4; cosines 0, 3/5, 4/5 at the three corners.
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    # Distances 1, 2, 1, whose mean is 4/3; cosines 1, -1, 1.
    student = torch.tensor([[0.0], [1.0], [2.0]])
    # 0.75, 1.5, 0.75 beside 0.75, 1, 1.25, each twice among the nine.
    distances = RelationalDistillation(angle_weight=0.0)(student, teacher)
    assert distances.item() == pytest.approx(2 * (0.125 + 0.125) / 9)
    # Apart by 1, 1.6 and 0.2, each twice among the 27.
    angles = RelationalDistillation(distance_weight=0.0)(student, teacher)
    assert angles.item() == pytest.approx(2 * (0.5 + 1.1 + 0.02) / 27)
    both = RelationalDistillation(2.0, 3.0)(student, teacher)
    assert both.item() == pytest.approx((2 * distances + 3 * angles).item())


def relations(rows):
    """Distances in units of their mean, and cosines, from all differences."""
    rows = rows.reshape(len(rows), -1)
    apart = rows[:, None] - rows
    length = np.linalg.norm(apart, axis=2)
    unit = apart / np.where(length > 0, length, 1)[:, :, None]
    return length / length[length > 0].mean(), np.einsum("ijd,ikd->ijk", unit, unit)


def smooth_l1(first, second):
    apart = abs(first - second)
    return np.where(apart < 1, apart**2 / 2, apart - 0.5).mean()


def test_relational_distillation_of_any_two_shapes_against_numpy():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((6, 3, 4)), rng.standard_normal((6, 7)) + 5
    student[4] = student[1]  # two equal rows
    (own, own_cosines), (other, cosines) = relations(student), relations(teacher)
    expected = 2 * smooth_l1(own, other) + 3 * smooth_l1(own_cosines, cosines)
    loss = RelationalDistillation(2.0, 3.0)
    measured = loss(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert measured == pytest.approx(expected)


def test_relational_distillation_sees_no_rotation_no_scale_and_no_shift():
    student, teacher = random_tensors(8, 12)
    turned = 30 * teacher @ torch.from_numpy(ortho_group.rvs(12, random_state=0)) - 7
    loss = RelationalDistillation()
    assert loss(turned, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, teacher).item() > 0.01


@pytest.mark.parametrize("n_features", [2, 36_000])
@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 0, 1, 2], [0, 1, 2, 3]])
def test_relations_of_equal_rows_have_a_finite_gradient(rows, n_features):
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4, n_features, generator=generator) + 3
    for student, teacher in ((one[rows], other[rows]), (one[rows], other[: len(rows)])):
        _, gradient = value_and_gradient(RelationalDistillation(), student, teacher)
        if len(set(rows)) == 1:  # nothing lies apart
            assert not gradient.any()


def test_relations_in_single_precision_far_from_zero():
    """Equal rows stay equal, and what lies close together far away loses little."""
    student, teacher = (x + 300 for x in random_tensors(6, 2000))
    student[5] = student[0]
    loss = RelationalDistillation()
    expected = loss(student, teacher).item()
    found = loss(student.float(), teacher.float()).item()
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_teachers_relations_in_half_precision():
    """Their squares would be above the largest number of half precision, 65,504."""
    student, teacher = (100 * x.float() for x in random_tensors(6, 50))
    loss = RelationalDistillation()
    expected = loss(student, teacher).item()
    assert loss(student, teacher.half()).item() == pytest.approx(expected, rel=1e-2)


# ---------------------------------------------------------------- contrast


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_contrastive_distillation_closed_forms(temperature):
    loss = ContrastiveDistillation(temperature)
    features = torch.eye(7, dtype=torch.float64).reshape(7, 7, 1)
    # One cosine of 1 beside six of 0.
    expected = np.log(1 + 6 * np.exp(-1 / temperature))
    assert loss(features, features).item() == pytest.approx(expected)
    # Epochs that cannot be told apart; and the neighbour's features in place of one's own.
    assert loss(torch.ones_like(features), features).item() == pytest.approx(np.log(7))
    wrong = loss(features.roll(1, 0), features).item()
    assert wrong == pytest.approx(expected + 1 / temperature)


def test_contrastive_distillation_against_scipy():
    student, teacher = random_tensors(6, 3, 5)
    angles = cdist(*(x.reshape(6, -1).numpy() for x in (student, teacher)), "cosine")
    expected = -np.diag(log_softmax((1 - angles) / 0.3, axis=1)).mean()
    loss = ContrastiveDistillation(0.3)
    assert loss(student, teacher).item() == pytest.approx(expected)
    # The length of the features does not matter.
    assert loss(9 * student, teacher / 7).item() == pytest.approx(expected)


def test_contrast_of_silent_features_and_of_one_epoch_has_a_finite_gradient():
    for n in (1, 4):
        loss = ContrastiveDistillation()
        value, _ = value_and_gradient(loss, torch.zeros(n, 5), torch.ones(n, 5))
        assert value == pytest.approx(np.log(n))


def test_contrast_names_the_adapter():
    with pytest.raises(ValueError, match=r"\(3,\).*\(5,\).*adapter=\"linear\""):
        ContrastiveDistillation()(torch.zeros(4, 3), torch.zeros(4, 5))
