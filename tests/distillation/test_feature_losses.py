import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from skleepkd.distillation import AttentionTransfer, FeatureMSE, SoftmaxDistillation


def random_features(shape=(4, 3, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def test_feature_mse_mean_and_the_papers_sum():
    student, teacher = random_features()
    squares = (student.numpy() - teacher.numpy()) ** 2
    assert FeatureMSE()(student, teacher).item() == pytest.approx(squares.mean())
    # Equation 2: the squared norm of an epoch's features, averaged over epochs.
    norms = squares.reshape(4, -1).sum(axis=1)
    summed = FeatureMSE(reduction="sum")
    assert summed(student, teacher).item() == pytest.approx(norms.mean())
    # SPEC A3: U-Sleep has 36,000 features.
    student, teacher = random_features((2, 6, 6000))
    ratio = summed(student, teacher) / FeatureMSE()(student, teacher)
    assert ratio.item() == pytest.approx(36_000)


def test_feature_mse_pooled():
    student, teacher = random_features()
    expected = ((student.numpy().mean(2) - teacher.numpy().mean(2)) ** 2).mean()
    assert FeatureMSE(pool=True)(student, teacher).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="no time axis"):
        FeatureMSE(pool=True)(student[:, :, 0], teacher[:, :, 0])


def test_feature_mse_standardised_by_the_teachers_training_statistics():
    student, teacher = random_features()
    training = 7 + 3 * np.random.default_rng(1).standard_normal((50, 3, 5))
    training[:, 2] = 4.0 + 1e-5 * training[:, 2]  # a dead unit
    loss = FeatureMSE(standardize=True)
    loss.learn_statistics(torch.from_numpy(training))
    std = training.std(axis=(0, 2))
    std[2] = np.sqrt((std**2).mean())
    expected = (((student - teacher).numpy() / std[:, None]) ** 2).mean()
    assert loss(student, teacher).item() == pytest.approx(expected)


def test_feature_mse_does_not_broadcast():
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 5\)"):
        FeatureMSE()(torch.zeros(4, 3), torch.zeros(4, 3, 5))


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
    student = (size * torch.ones(2, 3, 5)).requires_grad_()
    for teacher in (torch.zeros(2, 3, 5), torch.ones(2, 3, 5)):
        loss = AttentionTransfer()(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_attention_transfer_gradient():
    student, teacher = random_features()
    student.requires_grad_()
    assert torch.autograd.gradcheck(AttentionTransfer(), (student, teacher))


def test_attention_transfer_needs_time_and_equally_much_of_it():
    with pytest.raises(ValueError, match=r"\(4, 3\), without a time axis"):
        AttentionTransfer()(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="5 moments and the teacher's 6"):
        AttentionTransfer()(torch.zeros(4, 3, 5), torch.zeros(4, 3, 6))


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
    student = torch.tensor([[1.0, 0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    loss = SoftmaxDistillation(2.0)(student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 2] > 0  # it is pushed down


def test_arguments():
    with pytest.raises(ValueError, match="reduction"):
        FeatureMSE(reduction="max")
    with pytest.raises(ValueError, match="temperature"):
        SoftmaxDistillation(0)


# ---------------------------------------------------------------- batches and sequences


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize(
    "loss",
    [
        FeatureMSE(),
        FeatureMSE(reduction="sum"),
        AttentionTransfer(),
        SoftmaxDistillation(3.0),
    ],
    ids=["mse", "sum", "attention", "softmax"],
)
def test_a_samples_loss_does_not_depend_on_the_others(loss, batch):
    """The loss of a batch is the mean of those of its samples."""
    student, teacher = random_features((batch, 4, 5))
    alone = [loss(s[None], t[None]).item() for s, t in zip(student, teacher, strict=True)]
    assert loss(student, teacher).item() == pytest.approx(np.mean(alone))


def test_outputs_of_sequences_are_averaged_over_batch_and_epochs():
    """Logits (batch, classes, epochs) cost what they cost epoch by epoch."""
    student, teacher = random_features((3, 5, 4))
    flat = [x.movedim(1, 2).reshape(12, 5) for x in (student, teacher)]
    loss = SoftmaxDistillation(2.0)
    assert loss(student, teacher).item() == pytest.approx(loss(*flat).item())
