"""Scalers: of each epoch by itself, and of each recording."""

import numpy as np
import pandas as pd

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import Signal, row_key
from skleepkd.preprocessing.paired import StatelessTransformer
from skleepkd.warn import warn


class EpochScaler(StatelessTransformer):
    """Scale each channel of each epoch by its own range, or by its own mean and spread.

    An epoch is scaled alike wherever it comes from; how large a signal was is lost. Of a
    pair both modalities are scaled; ``PairedTransformer(target=EpochScaler())`` scales one.

    Parameters
    ----------
    method : {"min-max", "standard"}, default="min-max"
        "min-max" takes the smallest value to 0 and the largest to 1, as [1]_ do with
        windows of 30 s. "standard" takes the mean to 0 and the standard deviation to 1.

    Notes
    -----
    A channel that is flat during an epoch becomes 0. Epochs may have any unit; of
    spectrograms all values of a channel are scaled together. In [1]_ windows are scaled at
    the rate of the recording and resampled afterwards, by which values may overshoot.

    References
    ----------
    .. [1] Joshi, V., Vijayarangan, S., Preejith, S. P. and Sivaprakasam, M. (2021). A
       deep knowledge distillation framework for EEG assisted enhancement of single-lead
       ECG based sleep staging.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.preprocessing import EpochScaler
    >>> EpochScaler().fit_transform(np.array([[[0.0, 50.0, 200.0, 100.0]]]))
    array([[[0.  , 0.25, 1.  , 0.5 ]]], dtype=float32)
    """

    def __init__(self, method="min-max"):
        self.method = method

    def _transform_block(self, block):
        block = np.asarray(block, dtype=np.float64)
        # The values of a channel, whatever axes they have.
        values = {"axis": tuple(range(2, block.ndim)), "keepdims": True}
        span = np.ptp(block, **values)
        if self.method == "min-max":
            offset, scale = block.min(**values), span
        elif self.method == "standard":
            offset, scale = block.mean(**values), block.std(**values)
        else:
            raise ValueError(f"method is 'min-max' or 'standard'; given {self.method!r}.")
        # The mean of a flat channel may miss its value by a rounding error, which would be
        # scaled up: x / inf is 0.
        return (block - offset) / np.where(span == 0, np.inf, scale)


class RecordingScaler(StatelessTransformer):
    """Scale each channel of each recording by its median and interquartile range.

    The median of a recording becomes 0 and the range between its quartiles 1, so that
    amplifiers and electrodes with other gains look alike and loud epochs stay louder than
    quiet ones. Each recording is scaled by itself, as [1]_ do: nothing is learned in ``fit``, and
    nothing of one person reaches another. Of a pair both modalities are scaled;
    ``PairedTransformer(target=RecordingScaler())`` scales one.

    Notes
    -----
    Median and quartiles are exact, of all samples of the epochs that ``X`` holds of a
    recording: give whole nights, unscored epochs too, in ``fit`` and in ``predict``. A channel
    half of whose samples or more share one value has no such range, and becomes 0, with a
    warning if it has others: counts of movement are 0 most of the night (``np.log1p`` makes
    them smaller and keeps all of them). NaN and
    infinite values are left out of the statistics and stay where they are. Epochs may
    have any unit; of spectrograms all values of a channel are scaled together.

    A pair comes back with the signals that it had, scaled whenever they are read: memory maps
    stay maps, and nothing is copied. A recording at a time is read into memory.

    References
    ----------
    .. [1] Perslev, M., Darkner, S., Kempfner, L., Nikolic, M., Jennum, P. J. and Igel, C.
       (2021). U-Sleep: resilient high-frequency sleep staging. npj Digital Medicine 4:72
       (without their clipping).

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import PairedEpochs
    >>> from skleepkd.preprocessing import RecordingScaler
    >>> night = np.array([[[0.0, 1.0, 2.0]], [[3.0, 4.0, 8.0]]])
    >>> X = PairedEpochs(np.r_[night, 10 * night], recording=["a", "a", "b", "b"])
    >>> RecordingScaler().fit_transform(X)["target"][:, 0].round(2)
    array([[-1. , -0.6, -0.2],
           [ 0.2,  0.6,  2.2],
           [-1. , -0.6, -0.2],
           [ 0.2,  0.6,  2.2]], dtype=float32)
    """

    #: That :class:`PairedTransformer` gives a pair, not an array, of one modality.
    reads_recordings = True

    def transform(self, X):
        """Scale each recording by its own statistics.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs; the recordings are those of ``X.recording`` (of several people, each
            person's own). Other than a pair they are one recording, unless they name several.

        Returns
        -------
        PairedEpochs or ndarray of shape (n_epochs, n_channels, n_times)
            Of the kind of ``X``, float32.

        Raises
        ------
        ValueError
            If there is no epoch, or a pair does not know its recordings.
        """
        if isinstance(X, PairedEpochs) and X.recording is None:
            raise ValueError(
                "Each recording is scaled by itself, and this pair knows none: give "
                "PairedEpochs(..., recording=names) or, of one night, recording='night'."
            )
        scaled = super().transform(X)
        return scaled.read() if isinstance(scaled, Signal) else scaled

    def _transformed(self, pair, modality):
        """Find the median and the range of each recording's channels."""
        signal = pair._signal(modality)
        offset, scale = np.empty((2, *signal.shape[:2]), dtype=np.float32)
        lost = 0
        for rows in _rows_of_recordings(pair):
            # (n_epochs, n_channels, n_times, ...) -> (n_channels, n_epochs, n_times, ...)
            for channel, values in enumerate(signal.read(rows).swapaxes(0, 1)):
                low, median, high = _quartiles(values)
                offset[rows, channel] = median
                scale[rows, channel] = high - low if high > low else np.inf  # x / inf is 0
                if high == low:
                    finite = values[np.isfinite(values)]
                    lost += bool((finite != finite[:1]).any())
        if lost:
            warn(
                f"{lost} channels of recordings become 0, since half of their samples or more "
                "share one value: flat for half the night, or counts of movement, which "
                "np.log1p scales (FunctionTransformer) and RecordingScaler does not."
            )
        return signal.scaled(offset, scale)


def _rows_of_recordings(pair):
    """Yield the rows of each recording; nights of one name are each person's own."""
    columns = [c for c in (pair.recording, pair.subject) if c is not None]
    rows = [np.arange(len(pair))]
    if columns:
        rows = pd.Series(range(len(pair))).groupby(columns).indices.values()
    yield from map(row_key, rows)


def _quartiles(values):
    """Lower quartile, median and upper quartile of the finite values; 0 where there are none."""
    finite = values[np.isfinite(values)]
    return np.quantile(finite, (0.25, 0.5, 0.75)) if len(finite) else np.zeros(3)
