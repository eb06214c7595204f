"""Weights and temperatures that change during a training."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class _Line:
    """A weight that moves in a line between 0 and its value."""

    value: float = 1.0
    until: float = 1.0

    def __post_init__(self):
        value_at("value", self.value, 0.0)
        if not 0 < number_of(self.until) <= 1:
            raise ValueError(
                "until is a share of the training, above 0 and up to 1; given "
                f"{self.until!r}."
            )


@dataclass(frozen=True)
class WarmUp(_Line):
    """A weight that grows in a line from 0 to its value, and stays there.

    Parameters
    ----------
    value : float, default=1.0
        What it grows to.
    until : float, default=0.5
        Share of the training done, above 0 and up to 1, from which it is reached.

    Examples
    --------
    >>> from skleepkd.distillation import WarmUp
    >>> [WarmUp(0.8, until=0.5)(share) for share in (0.0, 0.25, 0.5, 0.9)]
    [0.0, 0.4, 0.8, 0.8]
    """

    until: float = 0.5

    def __call__(self, share):
        """Return the weight when a share of the training is done, from 0 to 1."""
        return self.value * min(1.0, share / self.until)


@dataclass(frozen=True)
class Fade(_Line):
    """A weight that falls in a line from its value to 0, so that labels have the last word.

    Parameters
    ----------
    value : float, default=1.0
        What it falls from.
    until : float, default=1.0
        Share of the training done, above 0 and up to 1, from which it is 0.

    Examples
    --------
    >>> from skleepkd.distillation import Fade
    >>> [Fade(0.8, until=0.5)(share) for share in (0.0, 0.25, 0.5, 0.9)]
    [0.8, 0.4, 0.0, 0.0]
    """

    def __call__(self, share):
        """Return the weight when a share of the training is done, from 0 to 1."""
        return self.value * max(0.0, 1.0 - share / self.until)


def number_of(value):
    """Return a finite number as a float, of NumPy and torch too; nan of anything else."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def shares(n_passes):
    """Return the shares of a training that are done before each of its passes."""
    return [number / n_passes for number in range(n_passes)] or [0.0]


def value_at(name, setting, share, highest=float("inf")):
    """Return a number, or what a function of the share of training done gives, if it is valid."""
    value = setting(share) if callable(setting) else setting
    if 0 <= number_of(value) <= highest:
        return number_of(value)
    when = f" when {share:.0%} of the training is done" if callable(setting) else ""
    kind = "a share from 0 to 1" if highest == 1 else "a finite number, not below 0"
    raise ValueError(
        f"{name} is {kind}, or a function of the share of training done that returns one; "
        f"given {value!r}{when}."
    )
