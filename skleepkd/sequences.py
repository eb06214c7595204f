"""Sequences: windows of consecutive epochs, and one prediction from all that hold an epoch."""

import numpy as np
import pandas as pd

from skleepkd.stages import EPOCH_SECONDS

#: How the predictions of all windows that hold an epoch become one.
FUSIONS = ("product", "mean", "centre")
#: Seconds by which a step between onsets may differ from the recording's usual one.
ONSET_TOLERANCE = 0.1


def find_runs(recording, onset, n_epochs):
    """Find runs of consecutive epochs.

    A run ends with its recording and at a gap, a step of ``onset`` other than the
    recording's usual one: the median, 30 s at most.

    Parameters
    ----------
    recording : ndarray of shape (n_epochs,), or None if all are of one
    onset : ndarray of shape (n_epochs,) or None
        Seconds from the recording's start; None if rows are in order and have no gap.
    n_epochs : int

    Returns
    -------
    list of ndarray of int
        The rows of each run, in time order.

    Raises
    ------
    ValueError
        If two epochs of a recording have the same onset.
    """
    nights = [np.arange(n_epochs)]
    if recording is not None:
        nights = pd.Series(recording).groupby(recording).indices.values()
    runs = []
    for rows in nights:
        if onset is None or len(rows) < 2:
            runs.append(rows)
            continue
        rows = rows[np.argsort(onset[rows], kind="stable")]
        steps = np.diff(onset[rows])
        if np.any(steps <= 0):
            night = "X" if recording is None else f"recording {recording[rows[0]]!s}"
            raise ValueError(
                f"Two epochs of {night} begin at {onset[rows[np.argmin(steps)]]:g} s. Drop one "
                "of them, or give each recording a name of its own."
            )
        gaps = np.abs(steps - min(np.median(steps), EPOCH_SECONDS)) > ONSET_TOLERANCE
        runs.extend(np.split(rows, np.flatnonzero(gaps) + 1))
    return [run for run in runs if len(run)]


def make_windows(runs, length, *, short=False):
    """Cut runs into windows of consecutive epochs, one epoch apart.

    Parameters
    ----------
    runs : list of ndarray of int
    length : int
        Epochs in a window.
    short : bool, default=False
        Whether a shorter run becomes a window of its own, filled up with -1.

    Returns
    -------
    ndarray of int, shape (n_windows, length)
    """
    windows = [np.empty((0, length), dtype=np.int64)]
    for run in runs:
        if len(run) >= length:
            windows.append(np.lib.stride_tricks.sliding_window_view(run, length))
        elif short:
            windows.append(np.pad(run, (0, length - len(run)), constant_values=-1)[None])
    return np.concatenate(windows)


class Fusion:
    """Make one prediction for each epoch from those of all windows that hold it.

    Parameters
    ----------
    n_epochs, n_classes : int
    fusion : {"product", "mean", "centre"}, default="product"
        "product" is the geometric mean of the probabilities of all windows that hold the
        epoch [1]_, "mean" the arithmetic one; "centre" takes the window in which the epoch
        is nearest to the middle (the earlier one of two).

    References
    ----------
    .. [1] Phan, H. et al. (2019). Deep transfer learning for single-channel automatic sleep
       staging with channel mismatch.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.sequences import Fusion
    >>> fused = Fusion(n_epochs=3, n_classes=2, fusion="mean")
    >>> votes = np.array([[[0.2, 0.4], [0.8, 0.6]], [[0.8, 0.9], [0.2, 0.1]]])
    >>> fused.add(np.array([[0, 1], [1, 2]]), votes)
    >>> fused.answer()
    array([[0.2, 0.8],
           [0.6, 0.4],
           [0.9, 0.1]])
    """

    def __init__(self, n_epochs, n_classes, fusion="product"):
        if fusion not in FUSIONS:
            names = ", ".join(map(repr, FUSIONS))
            raise ValueError(f"fusion is one of {names}; given {fusion!r}.")
        self.fusion = fusion
        self._total = np.zeros((n_epochs, n_classes))
        self._votes = np.zeros(n_epochs)
        self._distance = np.full(n_epochs, np.inf)

    def add(self, windows, probabilities):
        """Take the predictions of some windows of equal length.

        Parameters
        ----------
        windows : ndarray of int, shape (n_windows, length)
        probabilities : ndarray of shape (n_windows, n_classes, length)
        """
        if self.fusion == "centre":
            offsets = np.arange(windows.shape[1]) - (windows.shape[1] - 1) / 2
            # At the same distance the earlier window holds the epoch behind its middle.
            distances = np.abs(offsets) - 0.25 * (offsets > 0)
            for position, distance in enumerate(distances):
                nearer = distance < self._distance[windows[:, position]]
                rows = windows[nearer, position]
                self._distance[rows] = distance
                self._total[rows] = probabilities[nearer, :, position]
                self._votes[rows] = 1
            return
        # (n_windows, n_classes, length) -> (n_windows * length, n_classes)
        votes = np.moveaxis(probabilities, 1, 2).reshape(-1, probabilities.shape[1])
        if self.fusion == "product":
            votes = np.log(np.maximum(votes, np.finfo(np.float32).tiny))
        rows = windows.ravel()
        for column, values in enumerate(votes.T):
            self._total[:, column] += np.bincount(rows, values, len(self._total))
        self._votes += np.bincount(rows, minlength=len(self._total))

    def answer(self):
        """Return the probabilities of each epoch.

        Returns
        -------
        ndarray of float64, shape (n_epochs, n_classes)
            Rows that no window held are NaN.
        """
        with np.errstate(invalid="ignore"):
            fused = self._total / self._votes[:, None]
        if self.fusion == "product":
            fused = np.exp(fused - fused.max(axis=1, keepdims=True))
        return fused / fused.sum(axis=1, keepdims=True)
