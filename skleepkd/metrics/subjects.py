"""Statistics over subjects: intervals, the gap that a method closes, a paired test."""

import numpy as np
from scipy import stats
from sklearn.utils import Bunch, check_random_state

from skleepkd.stages import check_present


def bootstrap_interval(values, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Percentile bootstrap interval of a mean over subjects.

    Parameters
    ----------
    values : array-like of shape (n_subjects,)
        One score for each subject, as ``cross_validate`` gives them by LeaveOneGroupOut.
    confidence : float, default=0.95
        Coverage of the interval.
    n_resamples : int, default=10000
        How many times the subjects are drawn with replacement.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.

    Returns
    -------
    tuple of float
        Lower and upper end.

    Raises
    ------
    ValueError
        If there are fewer than two subjects, or a value is not finite.

    References
    ----------
    Efron, B. and Tibshirani, R. J. (1993). An introduction to the bootstrap, chapter 13.

    Examples
    --------
    >>> from skleepkd.metrics import bootstrap_interval
    >>> low, high = bootstrap_interval([0.61, 0.70, 0.48, 0.66, 0.57])
    >>> f"{low:.2f} to {high:.2f}"
    '0.53 to 0.67'
    """
    values = _check_subjects(values=values)
    return _percentiles(_resampled_means(values, n_resamples, random_state)[0], confidence)


def gap_closed(scalp, ear, method, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Share of the gap between scalp and ear that a method closes.

    The share is ``mean(method - ear) / mean(scalp - ear)`` over subjects: 0 for the
    ear's own score, 1 for the scalp's, below 0 for a method that does harm. Its
    interval is a percentile bootstrap that draws subjects, each with all three scores.

    Parameters
    ----------
    scalp, ear, method : array-like of shape (n_subjects,)
        One score for each subject, the subjects in the same order.
    confidence, n_resamples, random_state
        As for :func:`bootstrap_interval`.

    Returns
    -------
    Bunch
        ``gap`` and ``gap_interval``, the mean of ``scalp - ear``; ``has_gap``, whether
        that interval lies above 0; ``share`` and ``share_interval``, nan where there is
        no gap to close. The few draws without a gap do not enter ``share_interval``.

    Raises
    ------
    ValueError
        If the lengths differ, or as for :func:`bootstrap_interval`.

    Examples
    --------
    >>> from skleepkd.metrics import gap_closed
    >>> closed = gap_closed(scalp=[0.7, 0.8], ear=[0.4, 0.5], method=[0.5, 0.6])
    >>> closed.has_gap, f"{closed.share:.0%} of {closed.gap:.2f}"
    (True, '33% of 0.30')
    """
    scores = _check_subjects(scalp=scalp, ear=ear, method=method)
    gap, gain = scores[0] - scores[1], scores[2] - scores[1]
    means = _resampled_means(np.stack([gap, gain]), n_resamples, random_state)
    drawn_gap, drawn_gain = means
    gap_interval = _percentiles(drawn_gap, confidence)
    has_gap = gap_interval[0] > 0
    share, share_interval = np.nan, (np.nan, np.nan)
    if has_gap:
        share = gain.mean() / gap.mean()
        shares = drawn_gain[drawn_gap > 0] / drawn_gap[drawn_gap > 0]
        share_interval = _percentiles(shares, confidence)
    return Bunch(
        gap=float(gap.mean()),
        gap_interval=gap_interval,
        has_gap=has_gap,
        share=float(share),
        share_interval=share_interval,
    )


def paired_test(a, b, *, confidence=0.95, n_resamples=10_000, random_state=0):
    """Test whether two methods differ over the same subjects.

    A sign-flip permutation test of the mean difference ``mean(a - b)``. If the methods
    were alike, each subject's two scores could as well be exchanged, which flips the
    sign of the difference. The p-value is the share of all ways to do so in which the
    mean is as far from 0 as the one that was found, or farther (two-sided).

    Parameters
    ----------
    a, b : array-like of shape (n_subjects,)
        One score for each subject and method, the subjects in the same order, as in
        ``[scores["kappa"] for scores in staging_report(...).per_subject.values()]``.
    confidence, random_state
        As for :func:`bootstrap_interval`.
    n_resamples : int, default=10000
        Draws, also of the interval; where there are no more ways (up to 13 subjects), all
        of them are counted and the p-value is exact.

    Returns
    -------
    Bunch
        ``difference``, the mean of ``a - b``; ``interval``, its bootstrap interval over
        subjects (:func:`bootstrap_interval`); ``pvalue``; ``n_subjects``.

    Raises
    ------
    ValueError
        If the lengths differ, or as for :func:`bootstrap_interval`.

    Notes
    -----
    The subjects must be independent of each other: one value for a subject, not for a
    night or an epoch. It is assumed that, were the methods alike, the differences would
    lie symmetrically around 0. The chance in a training (its seed) is not part of the test,
    and neither is that the folds share training subjects. Of many p-values some are small
    by chance (``scipy.stats.false_discovery_control``). With ``n`` subjects it is never
    below ``2 / 2**n``: five of them cannot reach 0.05. A large one does not show that two
    methods are equal; the interval says how large a difference may be.

    References
    ----------
    Fisher, R. A. (1935). The design of experiments, section 21. For the p-value of drawn
    permutations: Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never
    be zero. Computed by :func:`scipy.stats.permutation_test`.

    Examples
    --------
    >>> from skleepkd.metrics import paired_test
    >>> student = [0.61, 0.70, 0.48, 0.66, 0.57, 0.72]
    >>> baseline = [0.55, 0.66, 0.45, 0.67, 0.50, 0.69]
    >>> test = paired_test(student, baseline)
    >>> f"{test.difference:.3f}, p = {test.pvalue:.4f} with {test.n_subjects} subjects"
    '0.037, p = 0.0625 with 6 subjects'
    """
    a, b = _check_subjects(a=a, b=b)
    draws = {"n_resamples": n_resamples, "random_state": random_state}
    result = stats.permutation_test((a - b,), np.mean, permutation_type="samples", **draws)
    return Bunch(
        difference=float(np.mean(a - b)),
        interval=bootstrap_interval(a - b, confidence=confidence, **draws),
        pvalue=float(result.pvalue),
        n_subjects=len(a),
    )


def over_subjects(values):
    """Mean and 95 % bootstrap interval over the subjects whose score is not nan."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else np.nan
    return mean, bootstrap_interval(values) if len(values) > 1 else (np.nan, np.nan)


def _check_subjects(**scores):
    """Stack scores of the same subjects, shape (n_scores, n_subjects)."""
    shapes = {name: np.shape(values) for name, values in scores.items()}
    first = next(iter(shapes.values()))
    if set(shapes.values()) != {first} or len(first) != 1 or first[0] < 2:
        raise ValueError(
            f"One score is needed for each of the same two or more subjects; given {shapes}."
        )
    stacked = [check_present(values, name) for name, values in scores.items()]
    stacked = np.array(stacked, dtype=float)
    if not np.isfinite(stacked).all():
        raise ValueError("A score is infinite; leave out subjects without a score.")
    return stacked


def _resampled_means(scores, n_resamples, random_state):
    """Means over drawn subjects, shape (n_scores, n_resamples)."""
    n_subjects = scores.shape[1]
    random_state = check_random_state(random_state)
    drawn = random_state.randint(n_subjects, size=(n_resamples, n_subjects))
    return scores[:, drawn].mean(axis=2)


def _percentiles(draws, confidence):
    ends = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return tuple(ends.tolist())
