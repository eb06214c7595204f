"""Two functions that do the same thing, timed side by side."""

import time
from dataclasses import dataclass

import numpy as np


def interleave(ours, reference, *, seconds, least=6, clock=time.process_time):
    """Time two functions in short blocks, in turn.

    Each is called once to warm up, then both of a pair follow one another directly, and
    every second pair begins with the reference. What slows the machine down for longer
    than a pair does so to both.

    Parameters
    ----------
    ours, reference : callable
        Without arguments; a call is a block.
    seconds : float
        Pairs are added until so much time has passed.
    least : int, default=6
        Pairs at least.
    clock : callable, default=time.process_time
        ``time.process_time``, the processor's time for this process, is hardly affected by
        what else runs on the machine. Where other processes do a part of the work it must
        be ``time.perf_counter``, which counts everything.

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        Seconds of ``ours`` and of ``reference``; an even number of pairs.
    """
    functions = (ours, reference)
    for function in functions:
        function()
    times, began = [], time.perf_counter()
    while len(times) < least or len(times) % 2 or time.perf_counter() - began < seconds:
        pair = [0.0, 0.0]
        for which in (0, 1) if len(times) % 2 == 0 else (1, 0):
            started = clock()
            functions[which]()
            pair[which] = clock() - started
        times.append(pair)
    return np.array(times)


def median_interval(values, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Percentile bootstrap interval of a median.

    Parameters
    ----------
    values : array-like of shape (n_values,)
        One a pair; pairs are drawn with replacement.
    confidence : float, default=0.95
        Coverage of the interval.
    n_resamples : int, default=10000
        How many times they are drawn.
    random_state : int, default=0
        Seed of the draws.

    Returns
    -------
    tuple of float
        Lower and upper end.
    """
    values = np.asarray(values)
    rng = np.random.default_rng(random_state)
    draws = values[rng.integers(len(values), size=(n_resamples, len(values)))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.median(draws, axis=1), [tail, 1 - tail])
    return float(low), float(high)


@dataclass
class Line:
    """One line of the table: a ratio, its interval, its bound and whether it holds.

    Parameters
    ----------
    row, title, reference : str
        The row of the benchmark, what was timed, and beside what.
    times : ndarray of shape (n_pairs, 2)
        Of :func:`interleave`.
    at_most : float, optional
        Bound of the time in units of the reference's; the interval's upper end counts.
    at_least : float, optional
        Bound of how many times faster it is than the reference, the ratio being the
        other way round; the interval's lower end counts.
    median_at_most : float, optional
        A second bound beside ``at_most``, of the median itself.
    note : str, default=""
        Further remarks.
    """

    row: str
    title: str
    reference: str
    times: np.ndarray
    at_most: float | None = None
    at_least: float | None = None
    median_at_most: float | None = None
    note: str = ""

    @property
    def ratios(self):
        """Ratio of each pair."""
        ours, reference = np.asarray(self.times).T
        return ours / reference if self.at_least is None else reference / ours

    @property
    def median(self):
        """Median of the ratios of the pairs."""
        return float(np.median(self.ratios))

    @property
    def interval(self):
        """95 % interval of the median."""
        return median_interval(self.ratios)

    @property
    def bound(self):
        """The bound in words."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        if self.at_most is None:
            return "reported"
        second = f", median <= {self.median_at_most:.2f}" if self.median_at_most else ""
        return f"<= {self.at_most:.2f}{second}"

    @property
    def verdict(self):
        """Whether the worse end of the interval keeps the bound."""
        low, high = self.interval
        if self.bound == "reported":
            return ""
        if self.at_least is not None:
            holds = low >= self.at_least
        else:
            holds = high <= self.at_most
            holds &= self.median_at_most is None or self.median <= self.median_at_most
        return "holds" if holds else "does not hold"

    def cells(self):
        """Return the line as texts, in the order of ``HEADER``."""
        low, high = self.interval
        ours, reference = np.median(self.times, axis=0)
        return [
            self.title,
            self.reference,
            f"{self.median:#.3g}",
            f"[{low:#.3g}, {high:#.3g}]",
            self.bound,
            self.verdict,
            str(len(self.times)),
            f"{ours:.3g}, {reference:.3g}",
            self.note,
        ]

    def __str__(self):
        low, high = self.interval
        unit = " times faster" if self.at_least is not None else ""
        verdict = f": {self.verdict}" if self.verdict else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"{self.title} | {self.reference} | {self.median:#.3g} [{low:#.3g}, {high:#.3g}]"
            f"{unit} | {self.bound}{verdict}{note}"
        )


HEADER = [
    "What",
    "Beside",
    "Ratio (median)",
    "95 % interval",
    "Bound",
    "Verdict",
    "Pairs",
    "Seconds a block",
    "",
]
