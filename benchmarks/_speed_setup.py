"""What the rows of the speed benchmark share: signals, stagers, a training pass."""

import time

import numpy as np
from _timing import Line, interleave

from skleepkd import DistilledSleepStager, SleepStager
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


def measure(
    fast,
    seconds,
    title,
    reference,
    ours,
    theirs,
    least=6,
    clock=time.process_time,
    **bounds,
):
    """Time two functions, and make a line of them."""
    how = {"least": least, "seconds": seconds, "clock": clock}
    how |= {"least": 2, "seconds": 0.0} if fast else {}
    return Line("", title, reference, interleave(ours, theirs, **how), **bounds)


def noise(*shape, seed=0):
    """Make noise of 30 microvolts."""
    return 30 * np.random.default_rng(seed).standard_normal(shape, np.float32)


def stages(n_epochs):
    """Make random stages."""
    return np.random.default_rng(1).integers(0, N_CLASSES, n_epochs)


def stager_of(module, **parameters):
    """Make a stager of single epochs."""
    return SleepStager(module, **COMMON, **parameters)


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
