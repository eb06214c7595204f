"""Powers of frequency bands, variance and mobility of epochs."""

import numpy as np
from scipy.signal import welch

from skleepkd.preprocessing.paired import StatelessTransformer, check_samples
from skleepkd.stages import EPOCH_SECONDS

#: Names and limits in hertz of the bands by default.
BANDS = (
    ("delta", 0.5, 4.0),
    ("theta", 4.0, 8.0),
    ("alpha", 8.0, 13.0),
    ("beta", 13.0, 30.0),
    ("gamma", 30.0, 50.0),
)


class BandPowers(StatelessTransformer):
    """A few numbers for each epoch and channel: powers of bands, variance, mobility.

    For each band ``log10`` of the mean power density (Welch's method [1]_: Hann windows that
    overlap by half, each without its mean) at the frequencies within it, its limits
    included; then ``log10`` of the variance and the mobility [2]_, the deviation of the
    differences between neighbouring samples divided by that of the samples. With the
    defaults an epoch becomes seven numbers, those of [3]_ without its ratios.

    The result has the axes of a spectrogram of one frame, (n_epochs, n_channels, 1,
    n_features), so that networks of spectrograms take it. It is not standardised. Epochs of
    signals, in microvolts, are taken; without a sampling rate of their own they last 30 s.

    Parameters
    ----------
    bands : sequence of (str, float, float), optional
        Name, lower and upper limit in hertz of each band. By default delta 0.5 to 4, theta
        4 to 8, alpha 8 to 13, beta 13 to 30, gamma 30 to 50.
    window : float, default=2.56
        Length of Welch's windows in seconds.
    floor : float, default=1e-6
        Density (microvolts squared per hertz) and variance (microvolts squared) below which
        everything counts as this much, so that a flat signal gives -6 and not minus infinity.

    Attributes
    ----------
    names : list of str
        Names of the features in their order.

    Raises
    ------
    ValueError
        By ``transform``, if X has other axes, no epochs, NaN or infinite values or looks like
        volts, or a band holds no frequency of the windows.

    References
    ----------
    .. [1] Welch, P. D. (1967). The use of fast Fourier transform for the estimation of power
       spectra. IEEE Transactions on Audio and Electroacoustics 15(2):70-73. Computed by
       :func:`scipy.signal.welch`.
    .. [2] Hjorth, B. (1970). EEG analysis based on time domain properties.
       Electroencephalography and Clinical Neurophysiology 29(3):306-310.
    .. [3] https://github.com/matteo-omizzolo/sleep-EDF

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.preprocessing import BandPowers
    >>> X = np.random.default_rng(0).normal(0, 20, size=(40, 1, 3000))
    >>> BandPowers().transform(X).shape
    (40, 1, 1, 7)
    """

    def __init__(self, bands=None, window=2.56, floor=1e-6):
        self.bands = bands
        self.window = window
        self.floor = floor

    @property
    def names(self):
        """Names of the features in their order."""
        return [name for name, _, _ in self._bands()] + ["log variance", "mobility"]

    def _bands(self):
        return BANDS if self.bands is None else self.bands

    def _transformed(self, pair, modality):
        check_samples(pair, modality, "Band powers")
        return super()._transformed(pair, modality, sfreq=pair.sfreq[modality])

    def _transform_block(self, block, sfreq):
        sfreq = sfreq or block.shape[2] / EPOCH_SECONDS
        n_window = min(round(self.window * sfreq), block.shape[2])
        frequencies, density = welch(block, sfreq, nperseg=n_window)
        variance = block.var(axis=2, dtype=np.float64)  # (n_epochs, n_channels)
        steps = np.diff(block, axis=2).var(axis=2, dtype=np.float64)
        powers = []
        for name, low, high in self._bands():
            within = (frequencies >= low) & (frequencies <= high)
            if not within.any():
                raise ValueError(
                    f"No frequency of {name}, {low:g} to {high:g} Hz, is seen in windows of "
                    f"{self.window:g} s at {sfreq:g} Hz: they show one every "
                    f"{sfreq / n_window:.2g} Hz, up to {sfreq / 2:g}. Give other bands=."
                )
            powers.append(density[..., within].mean(axis=2))
        logs = np.log10(np.maximum([*powers, variance], self.floor))
        mobility = np.sqrt(steps / np.maximum(variance, self.floor))
        # (n_features, n_epochs, n_channels) -> (n_epochs, n_channels, 1, n_features)
        return np.stack([*logs, mobility], axis=-1)[:, :, None]
