import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.distillation import Fade, MeanTeacher, WarmUp
from skleepkd.memory import key_of
from tests.tiny import FAST, FEATURES, NeverTiny, TinyNetwork, same


def rising(share):
    return 0.2 + 0.6 * share


class Recorded:
    """A schedule that keeps what it was asked."""

    asked = []  # noqa: RUF012

    def __call__(self, share):
        Recorded.asked.append(share)
        return 0.5


@pytest.fixture
def frozen(X, y):
    return FrozenEstimator(SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y))


def student(teacher, **params):
    params = {**FEATURES, **params}
    return DistilledSleepStager(teacher, **{**FAST, "max_epochs": 4, **params})


def test_lines():
    shares = np.linspace(0, 1, 5)
    np.testing.assert_allclose([WarmUp(2.0, 0.5)(s) for s in shares], [0, 1, 2, 2, 2])
    np.testing.assert_allclose([Fade(2.0)(s) for s in shares], [2, 1.5, 1, 0.5, 0])


def test_a_function_is_asked_for_the_share_done_before_each_pass(X, y, frozen):
    Recorded.asked.clear()
    student(frozen, alpha=Recorded()).fit(X, y)
    assert Recorded.asked[-4:] == [0.0, 0.25, 0.5, 0.75]


def test_a_constant_function_is_the_number(X, y, frozen):
    numbers = {"alpha": 0.4, "feature_weight": 0.6, "temperature": 2.0}
    functions = {"alpha": lambda _: 0.4, "feature_weight": lambda _: 0.6}
    functions["temperature"] = lambda _: 2.0
    first, second = (student(frozen, **p).fit(X, y) for p in (numbers, functions))
    assert same(first, second)


def test_the_loss_of_each_pass_has_its_own_weights(X, y, frozen):
    weights = {"alpha": rising, "feature_weight": Fade(0.8, until=0.5)}
    net = student(frozen, **weights).fit(X, y)
    for row, alpha, weight in zip(
        net.history_, (0.2, 0.35, 0.5, 0.65), (0.8, 0.4, 0.0, 0.0), strict=True
    ):
        total = (1 - alpha) * row["train_cross_entropy"] + alpha * row["train_softmax_loss"]
        total += weight * row["train_feature_loss"]
        assert row["train_loss"] == pytest.approx(total, rel=1e-5)


def test_two_steps_ask_for_the_share_of_each(X, y, frozen):
    Recorded.asked.clear()
    steps = {"strategy": "two-step", "feature_max_epochs": 2}
    student(frozen, alpha=Recorded(), **steps).fit(X, y)
    assert Recorded.asked[-6:] == [0.0, 0.5, 0.0, 0.25, 0.5, 0.75]


class Killed(Exception):
    pass


class Killing:
    """A schedule that ends the program once, in the middle of a training."""

    asked = 0

    def __call__(self, share):
        Killing.asked += share > 0.5
        if Killing.asked == 2:  # all shares are asked for once before the training
            Killing.asked += 1
            raise Killed
        return rising(share)


def test_a_resumed_training_goes_on_with_its_share(X, y, frozen, tmp_path):
    Killing.asked = 0
    killed = student(frozen, alpha=Killing(), checkpoint=tmp_path)
    with pytest.raises(Killed):
        killed.fit(X, y)
    assert same(killed.fit(X, y), student(frozen, alpha=rising).fit(X, y))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", lambda share: 1.0 - 2 * share, "is a share.*75% of the training"),
        ("alpha", "0.5", "is a share from 0 to 1"),
        ("alpha", WarmUp(1.5, until=0.5), "is a share"),
        ("alpha", lambda share: None, "is a share.*given None"),
        ("alpha", lambda share: np.ones(2), "is a share.*array"),
        ("alpha", WarmUp, "is a share.*given WarmUp"),
        ("feature_weight", -1.0, "is a finite number, not below 0"),
        ("feature_weight", float("nan"), "is a finite number"),
        ("feature_weight", float("inf"), "is a finite number"),
        ("temperature", 0.0, "must be a positive number"),
        ("temperature", lambda share: 1.0 - share / 0.75, "must be a positive number"),
        ("temperature", "4", "must be a positive number.*given '4'"),
        ("temperature", lambda share: None, "must be a positive number.*given None"),
        ("temperature", float("inf"), "must be a positive number.*given inf"),
        ("output_loss__temperature", "4", "must be a positive number.*given '4'"),
    ],
)
def test_values_out_of_range_are_refused(X, y, frozen, name, value, message):
    with pytest.raises(ValueError, match=f"{name.split('__')[-1]} {message}"):
        student(frozen, **{name: value}).fit(X, y)


def test_a_value_that_is_wrong_late_is_found_before_the_teacher_is_fitted(pair):
    never = SleepStager(NeverTiny, **FAST)
    with pytest.raises(ValueError, match=r"given 1\.125 when 75% of the training"):
        student(never, alpha=lambda share: 1.5 * share).fit(*pair)
    average = MeanTeacher(weight=lambda share: 0.5 - share)
    with pytest.raises(ValueError, match="weight is a finite number.* 75% of the training"):
        student(None, module=NeverTiny, strategy=average).fit(*pair)


@pytest.mark.parametrize("line", [WarmUp, Fade])
@pytest.mark.parametrize("until", [0, -1.0, 5, "half", float("nan")])
def test_a_line_that_ends_nowhere_is_refused(line, until):
    with pytest.raises(ValueError, match="until is a share of the training"):
        line(until=until)


def test_numbers_of_numpy_and_torch_are_numbers(X, y, frozen):
    kinds = (float, np.float32, torch.tensor)
    fits = [student(frozen, alpha=lambda _, k=k: k(0.5)).fit(X, y) for k in kinds]
    assert same(fits[0], fits[1])
    assert same(fits[0], fits[2])


def test_a_schedule_clones_and_has_a_key_of_its_value(frozen):
    net = clone(student(frozen, alpha=Fade(0.5)))
    assert net.alpha == Fade(0.5)
    assert key_of(Fade(0.5)) == key_of(Fade(0.5)) != key_of(Fade(0.5, until=0.5))


def test_labels_are_needed_where_alpha_is_not_1_throughout(X, frozen):
    with pytest.raises(ValueError, match="alpha=1"):
        student(frozen, alpha=Fade(1.0), feature_loss=None).fit(X)
