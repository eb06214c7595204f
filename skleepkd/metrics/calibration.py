"""Whether a stager is right as often as it is sure."""

import numpy as np
from sklearn.utils import Bunch, check_consistent_length

from skleepkd.metrics.subjects import over_subjects
from skleepkd.stages import SCHEMES, is_unscored, stage_codes, stage_labels

#: How far the probabilities of an epoch may be from 1 in sum; half precision rounds.
TOLERANCE = 1e-2


def expected_calibration_error(y_true, proba, *, classes="aasm", n_bins=15, groups=None):
    """Mean distance between how sure a stager is and how often it is right.

    Epochs are binned by the probability of their most probable stage, the confidence:
    ``sum over bins of n_bin / n * |accuracy in the bin - mean confidence in the bin|``,
    the bins being of equal width, each without its lower and with its upper end. 0 is
    perfect; a stager that is sure and always wrong has 1.

    Parameters
    ----------
    y_true : array-like of shape (n_epochs,)
        The scored stages, codes or names; unscored epochs are skipped.
    proba : array-like of shape (n_epochs, n_classes)
        What ``predict_proba`` answers. Skipped epochs may have NaN.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages of the columns: a scheme's name, or the labels (``stager.classes_``).
    n_bins : int, default=15
        Number of bins.
    groups : array-like of shape (n_epochs,), optional
        The subject of each epoch.

    Returns
    -------
    float or Bunch
        The error over all epochs. With ``groups`` a Bunch as that of
        :func:`staging_report`: ``mean`` and ``interval`` over subjects, ``per_subject``
        and, over all epochs, ``pooled``.

    Raises
    ------
    ValueError
        If the shapes do not fit, no epoch is scored, a label is not among ``classes``, or
        a scored epoch has no probabilities (NaN, below 0, a sum other than 1).

    Notes
    -----
    The fewer the epochs, the larger the error, even of a perfect stager: chance moves
    the accuracy of each bin. So the mean over subjects is as a rule above the pooled
    error, and errors compare where the numbers of epochs and of bins are alike. Who is
    too sure for one person and too unsure for another may look calibrated when pooled.

    As a score of ``cross_validate``, negated since the smaller is the better:
    ``make_scorer(expected_calibration_error, response_method="predict_proba",
    greater_is_better=False, classes="aasm")`` of a stager with the same ``classes``.

    References
    ----------
    Guo, C. et al. (2017). On calibration of modern neural networks, equation 3.

    Examples
    --------
    >>> from skleepkd.metrics import expected_calibration_error
    >>> proba = [[0.8, 0.1, 0.1]] * 5
    >>> f"{expected_calibration_error(['W', 'W', 'W', 'W', 'R'], proba, classes='wnr'):.2f}"
    '0.00'
    >>> f"{expected_calibration_error(['W', 'W', 'R', 'N', '?'], proba, classes='wnr'):.2f}"
    '0.30'
    """
    if isinstance(n_bins, bool) or not isinstance(n_bins, (int, np.integer)) or n_bins < 1:
        raise ValueError(f"n_bins is a whole number of bins, at least 1; given {n_bins!r}.")
    y_true, proba = np.asarray(y_true), np.asarray(proba, dtype=float)
    labels = stage_labels(classes)
    if proba.shape != (len(y_true), len(labels)):
        others = {(len(SCHEMES[name]),): name for name in SCHEMES}
        others.pop((len(labels),), None)
        other = others.get(proba.shape[1:])
        raise ValueError(
            f"proba has the shape {proba.shape}; ({len(y_true)}, {len(labels)}) is expected, "
            f"a row for each epoch and a column for each of the classes {labels}."
            + (f" Of other stages name the scheme, classes={other!r}." if other else "")
        )
    scored = ~is_unscored(y_true)
    if not scored.any():
        raise ValueError(
            f"None of the {len(scored)} epochs is scored, so there is nothing to compare."
        )
    proba = proba[scored]
    if not ((proba >= 0).all() and np.allclose(proba.sum(axis=1), 1, atol=TOLERANCE)):
        raise ValueError(
            "The rows of proba must be probabilities: none below 0 or NaN, with a sum of 1. "
            "Give what predict_proba answers."
        )
    confidence = proba.max(axis=1)
    hits = proba.argmax(axis=1) == stage_codes(y_true[scored], labels, "y_true")
    # An inner edge belongs to the bin below it.
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.searchsorted(edges, confidence, side="left")
    excess = hits - confidence
    pooled = _error(bins, excess)
    if groups is None:
        return pooled
    groups = np.asarray(groups)
    check_consistent_length(y_true, groups)
    groups = groups[scored]
    per_subject = {
        subject: _error(bins[groups == subject], excess[groups == subject])
        for subject in np.unique(groups).tolist()
    }
    mean, interval = over_subjects(list(per_subject.values()))
    return Bunch(mean=mean, interval=interval, per_subject=per_subject, pooled=pooled)


def _error(bins, excess):
    # n_bin * (accuracy - mean confidence) is the sum of hit - confidence in the bin.
    return float(np.abs(np.bincount(bins, weights=excess)).sum() / len(bins))
