"""What ``speed.py`` and ``growth.py`` share: signals, time and memory."""

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch._dynamo  # noqa: F401 (the first optimiser imports it: 250 MB, here for all)

from skleepkd import DistilledSleepStager
from skleepkd.epochs.checks import as_pair

N_CLASSES = 5
BATCH_SIZE = 32
#: Parameters of all stagers here.
COMMON = {
    "batch_size": BATCH_SIZE,
    "classes": "aasm",
    "max_epochs": 1,
    "random_state": 0,
    "device": "cpu",
}
#: How a student is taught unless it is said otherwise.
FEATURES = {"feature_loss": "mse", "feature_weight": 1.0, "alpha": 0.0}
FEATURES |= {"start_from_teacher": False, **COMMON}


def noise(*shape, seed=0):
    """Make noise of 30 microvolts."""
    return 30 * np.random.default_rng(seed).standard_normal(shape, np.float32)


def stages(n_epochs):
    """Make random stages."""
    return np.random.default_rng(1).integers(0, N_CLASSES, n_epochs)


def training_pass(stager, X, y):
    """Fit a stager for one pass; return a function that trains it for another.

    What a fit does once (checks, the teacher's output) is done before.
    """
    y, columns = np.asarray(y), {}
    stager.fit(X, y)
    if isinstance(stager, DistilledSleepStager):
        columns = stager.strategy_.prepare(stager, X, y)
    dataset = stager.make_dataset(as_pair(X), y, columns)
    return lambda: stager.fit_loop(dataset, epochs=1)


def private_bytes():
    """Resident private memory (RssAnon) of this process; Linux alone."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


class Peak:
    """Highest private memory inside a ``with`` block, sampled every 20 ms."""

    def __enter__(self):
        self.start = self.bytes = private_bytes()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    @property
    def above(self):
        """How much more it is than at the beginning."""
        return self.bytes - self.start

    def watch(self):
        """Sample until the block ends."""
        while not self.stop.wait(0.02):
            self.bytes = max(self.bytes, private_bytes())

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def interleave(ours, reference, *, seconds, least=6, clock=time.process_time):
    """Time two functions in short blocks, in turn; return their seconds, (n_pairs, 2).

    Each is called once to warm up, then both of a pair follow one another directly, and
    every second pair begins with the reference. What slows the machine down for longer
    than a pair does so to both. ``time.process_time`` is hardly affected by what else runs
    on the machine; where other processes do a part of the work the clock must be
    ``time.perf_counter``. The number of pairs is even, ``least`` at least, and as many as
    begin within ``seconds``.
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


def median_interval(values):
    """95 % percentile bootstrap interval of a median; pairs are drawn with replacement."""
    values, rng = np.asarray(values), np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(10_000, len(values)))]
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


@dataclass
class Line:
    """One line of the table: a ratio, its interval, its bound and whether it holds.

    ``at_most`` bounds the time in units of the reference's, and ``median_at_most`` its
    median beside; the interval's upper end counts. ``at_least`` bounds how many times
    faster it is, the ratio being the other way round; the lower end counts.
    """

    title: str
    reference: str
    ours: callable = None
    theirs: callable = None
    at_most: float | None = None
    at_least: float | None = None
    median_at_most: float | None = None
    note: str = ""
    least: int = 6
    clock: callable = time.process_time
    times: np.ndarray = None

    def measure(self, fast):
        """Time both functions, for ten seconds or more; return the seconds of each pair."""
        how = {"least": 2, "seconds": 0.0} if fast else {"least": self.least, "seconds": 10}
        self.times = interleave(self.ours, self.theirs, clock=self.clock, **how)
        return self.times

    @property
    def ratios(self):
        """Ratio of each pair."""
        ours, reference = np.asarray(self.times).T
        return ours / reference if self.at_least is None else reference / ours

    def judge(self):
        """Return the bound in words, and whether the worse end of the interval keeps it."""
        low, high = median_interval(self.ratios)
        if self.at_least is not None:
            bound, holds = f">= {self.at_least:g}", low >= self.at_least
        elif self.at_most is not None:
            bound, holds = f"<= {self.at_most:.2f}", high <= self.at_most
        else:
            return "reported", ""
        if self.median_at_most is not None:
            bound += f", median <= {self.median_at_most:.2f}"
            holds &= np.median(self.ratios) <= self.median_at_most
        return bound, "holds" if holds else "does not hold"

    def cells(self):
        """Return the line of the table."""
        (low, high), (bound, verdict) = median_interval(self.ratios), self.judge()
        ours, reference = np.median(self.times, axis=0)
        return {
            "What": self.title,
            "Beside": self.reference,
            "Ratio (median)": f"{np.median(self.ratios):#.3g}",
            "95 % interval": f"[{low:#.3g}, {high:#.3g}]",
            "Bound": bound,
            "Verdict": verdict,
            "Pairs": f"{len(self.times)}",
            "Seconds a block": f"{ours:.3g}, {reference:.3g}",
            "": self.note,
        }
