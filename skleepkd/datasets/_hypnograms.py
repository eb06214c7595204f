"""Stage sequences of simulated nights, from figures measured on real ones."""

import numpy as np

#: How often stage i (row) was followed by stage j (column; W, N1, N2, N3, REM) in each
#: sixth of the night. Counted over the 39 nights of Sleep-EDF's Sleep Cassette (Kemp et
#: al. 2000, IEEE TBME 47(9):1185-1194), the expert's R&K stages 3 and 4 taken as N3.
#: A night runs from lights off to 30 epochs after the last epoch of sleep; a change is
#: counted where its second epoch lies, changes from or to an unscored epoch are not.
JUMPS = np.array(
    [
        [[0, 96, 6, 2, 1], [35, 0, 122, 0, 1], [24, 54, 0, 150, 16]]
        + [[7, 6, 129, 0, 1], [4, 2, 4, 1, 0]],
        [[0, 53, 7, 2, 2], [17, 0, 87, 2, 8], [25, 31, 0, 218, 44]]
        + [[11, 10, 194, 0, 1], [7, 17, 26, 0, 0]],
        [[0, 49, 10, 0, 4], [17, 0, 95, 0, 15], [38, 45, 0, 154, 48]]
        + [[4, 4, 152, 0, 0], [7, 29, 31, 0, 0]],
        [[0, 62, 12, 0, 4], [18, 0, 111, 0, 28], [35, 57, 0, 133, 43]]
        + [[6, 2, 123, 0, 1], [17, 32, 23, 0, 0]],
        [[0, 82, 7, 0, 12], [41, 0, 109, 0, 35], [23, 59, 0, 96, 61]]
        + [[6, 2, 90, 0, 0], [28, 43, 38, 0, 0]],
        [[0, 91, 5, 0, 9], [42, 0, 158, 0, 29], [69, 89, 0, 48, 32]]
        + [[2, 2, 43, 0, 1], [29, 41, 9, 0, 0]],
    ]
)

#: Mean and standard deviation of the logarithm of a bout's length in epochs, over the
#: same nights (a night's last bout, which the cut ends, is left out).
LOG_BOUT = np.array([[0.95, 1.10], [0.70, 0.75], [1.62, 1.27], [0.91, 1.21], [2.36, 1.17]])

#: The same of the waking before sleep, over the 38 nights that began awake.
LOG_LATENCY = (2.90, 1.18)

#: Chosen: part of the night that the waking before sleep can take at most.
_LONGEST_LATENCY = 0.15

#: Chosen: how often the scorer errs in each stage. About one epoch in sixteen, most
#: often in N1, as human scorers do (Lee et al. 2022, J Clin Sleep Med 18(1):193-202:
#: two scorers agree with kappa 0.70, 0.24, 0.57, 0.57 and 0.69 on W, N1, N2, N3, REM).
_ERROR = np.array([0.05, 0.20, 0.05, 0.07, 0.05])

#: Chosen: what an epoch of each stage (row) is taken for where the scorer errs.
_TAKEN_FOR = np.array(
    [
        [0.0, 0.7, 0.2, 0.0, 0.1],
        [0.3, 0.0, 0.5, 0.0, 0.2],
        [0.1, 0.3, 0.0, 0.4, 0.2],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.2, 0.4, 0.4, 0.0, 0.0],
    ]
)


def draw_hypnogram(n_epochs, rng):
    """Draw a night's stages, a semi-Markov chain that begins awake.

    The course of a night (deep sleep early, REM sleep late) is that of a whole one
    whatever its length: a night of 300 epochs goes through it in 2.5 hours.

    Parameters
    ----------
    n_epochs : int
        Length of the night in epochs of 30 s.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
        AASM codes, 0 to 4.
    """
    stages = np.zeros(n_epochs, dtype=np.int64)
    latency = np.exp(rng.normal(*LOG_LATENCY))
    start = round(min(latency, _LONGEST_LATENCY * n_epochs))
    stage = 0
    while start < n_epochs:
        odds = JUMPS[6 * start // n_epochs, stage]
        stage = rng.choice(5, p=odds / odds.sum())
        length = max(1, round(np.exp(rng.normal(*LOG_BOUT[stage]))))
        stages[start : start + length] = stage
        start += length
    return stages


def score_hypnogram(stages, rng):
    """Score a night as a person does, who errs in a few epochs of a hundred.

    Parameters
    ----------
    stages : ndarray of int, shape (n_epochs,)
        The stages that were simulated.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
        The scorer's stages.
    """
    errs = rng.random(len(stages)) < _ERROR[stages]
    taken_for = np.array([rng.choice(5, p=_TAKEN_FOR[stage]) for stage in stages])
    return np.where(errs, taken_for, stages)
