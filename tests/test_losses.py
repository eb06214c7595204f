import numpy as np
import pytest
import torch

from skleepkd.distillation import FeatureMSE, SoftmaxDistillation


def random_features(shape=(4, 3, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def test_feature_mse_mean_and_the_papers_sum():
    student, teacher = random_features()
    squares = (student.numpy() - teacher.numpy()) ** 2
    assert FeatureMSE()(student, teacher).item() == pytest.approx(squares.mean())
    # Equation 2: the squared norm of an epoch's features, averaged over epochs.
    norms = squares.reshape(4, -1).sum(axis=1)
    summed = FeatureMSE(reduction="sum")(student, teacher)
    assert summed.item() == pytest.approx(norms.mean())


def test_ratio_of_the_two_is_the_number_of_features():
    student, teacher = random_features((2, 6, 6000))
    ratio = FeatureMSE(reduction="sum")(student, teacher) / FeatureMSE()(student, teacher)
    assert ratio.item() == pytest.approx(36_000)  # SPEC A3, U-Sleep


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


def test_softmax_distillation_closed_form():
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, np.log(3.0)], [0.0, 0.0]])
    # KL((1/4, 3/4) || (1/2, 1/2)), averaged with an epoch without difference.
    divergence = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    assert SoftmaxDistillation()(student, teacher).item() == pytest.approx(divergence / 2)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softmax_distillation_against_scipy(temperature):
    from scipy.special import softmax
    from scipy.stats import entropy

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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureMSE(reduction="max"), "reduction"),
        (lambda: SoftmaxDistillation(0), "temperature"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
