"""Scaling of each epoch by what it holds itself."""

import numpy as np

from skleepkd.preprocessing.paired import StatelessTransformer


class EpochScaler(StatelessTransformer):
    """Scale each channel of each epoch by its own range, or by its own mean and spread.

    A step of a ``Pipeline`` before a stager. Nothing is learned in ``fit``, so an epoch is
    scaled alike wherever it comes from; how large a signal was is lost. Of a pair both
    modalities are scaled; ``PairedTransformer(target=EpochScaler())`` scales one.

    Parameters
    ----------
    method : {"min-max", "standard"}, default="min-max"
        "min-max" takes the smallest value to 0 and the largest to 1, as [1]_ do with
        windows of 30 s. "standard" takes the mean to 0 and the standard deviation to 1.

    Notes
    -----
    A channel that is flat during an epoch becomes 0. Epochs may have any unit; of
    spectrograms all values of a channel are scaled together. In [1]_ windows are scaled at
    the rate of the recording and resampled afterwards, by which values may overshoot 0 and
    1; of epochs that are resampled already, all values lie between the two.

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

    def _check_parameters(self):
        if self.method not in ("min-max", "standard"):
            raise ValueError(
                f"method is one of 'min-max', 'standard'; given {self.method!r}."
            )

    def _transform_block(self, block):
        block = np.asarray(block, dtype=np.float64)
        # The values of a channel, whatever axes they have.
        values = {"axis": tuple(range(2, block.ndim)), "keepdims": True}
        span = np.ptp(block, **values)
        if self.method == "min-max":
            offset, scale = block.min(**values), span
        else:
            offset, scale = block.mean(**values), block.std(**values)
        # The mean of a flat channel may miss its value by a rounding error, which would be
        # scaled up: x / inf is 0.
        return (block - offset) / np.where(span == 0, np.inf, scale)
