"""Log spectrograms of epochs, standardised for each frequency."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft
from scipy.signal.windows import hamming
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skleepkd.epochs import PairedEpochs
from skleepkd.preprocessing.paired import check_samples, epochs_of, of_kind
from skleepkd.stages import EPOCH_SECONDS

#: Epochs whose frames stay in the processor's cache between the steps.
N_AT_A_TIME = 32


class LogSpectrogram(TransformerMixin, BaseEstimator):
    """Short-time Fourier amplitudes of epochs in decibels, standardised.

    With the defaults an epoch of 30 s at 100 Hz becomes 29 frames of 129 frequency bins, as
    in [1]_: symmetric Hamming windows of 2 s, one a second, the first at the epoch's first
    sample and none beyond its last, each filled with zeros to 256 samples and Fourier
    transformed, then ``20 log10`` of the amplitude.

    The mean and the deviation of each channel and frequency are learned in ``fit`` from
    all frames of the epochs given: inside a pipeline from the training recordings.

    Parameters
    ----------
    window : float, default=2.0
        Length of the Hamming windows in seconds.
    hop : float, default=1.0
        From one window's beginning to the next, in seconds.
    n_fft : int, optional
        Length of the Fourier transform in samples; by default the least power of two
        that holds a window.
    floor : float, default=1e-3
        Amplitude in microvolts below which everything counts as this much, so that a
        flat signal gives -60 dB and not minus infinity.
    standardize : bool, default=True
        Whether to subtract the mean and to divide by the deviation, which is 1 where the
        training epochs do not vary.

    Attributes
    ----------
    sfreq_ : float
        Sampling rate in hertz: the pair's, or else what makes an epoch last 30 s.
    window_ : ndarray of shape (n_window_samples,)
        The Hamming window.
    hop_, n_fft_ : int
        Step between windows, and length of the Fourier transform, in samples.
    mean_, scale_ : ndarray of shape (n_channels, n_bins) or None
        Mean and deviation in decibels; None without ``standardize``.
    source_ : LogSpectrogram or None
        What was fitted to the source of a pair; None if there was no source in ``fit``.

    References
    ----------
    .. [1] Phan, H., Chén, O. Y., Koch, P., Mertins, A. and De Vos, M. (2019). Deep
       transfer learning for single-channel automatic sleep staging with channel mismatch.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.preprocessing import LogSpectrogram
    >>> X = np.random.default_rng(0).normal(0, 20, size=(40, 1, 3000))
    >>> LogSpectrogram().fit_transform(X).shape
    (40, 1, 29, 129)
    """

    def __init__(self, window=2.0, hop=1.0, n_fft=None, floor=1e-3, standardize=True):
        self.window = window
        self.hop = hop
        self.n_fft = n_fft
        self.floor = floor
        self.standardize = standardize

    def fit(self, X, y=None):
        """Learn the mean and deviation of each channel and frequency.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts, unscored ones too. A 2-D array is one channel. Of a pair,
            target and source have statistics of their own.
        y
            Not used.

        Raises
        ------
        ValueError
            If a parameter does not fit the epochs, X has other axes, no epochs, NaN or
            infinite values, or looks like volts.
        """
        pair = epochs_of(X)
        check_samples(pair, "target", "Spectrograms")
        self.epoch_shape_ = pair.shape[1:]
        self.sfreq_ = pair.sfreq["target"] or pair.shape[2] / EPOCH_SECONDS
        window, self.hop_ = round(self.window * self.sfreq_), round(self.hop * self.sfreq_)
        self.n_fft_ = self.n_fft or 1 << (window - 1).bit_length()
        if self.hop_ < 1 or not 1 <= window <= min(pair.shape[2], self.n_fft_):
            raise ValueError(
                f"Windows of {self.window:g} s every {self.hop:g} s are {window} samples "
                f"every {self.hop_} at {self.sfreq_:g} Hz; epochs have {pair.shape[2]}, and "
                f"n_fft is {self.n_fft_}."
            )
        self.window_ = hamming(window).astype(np.float32)
        self.mean_ = self.scale_ = None
        if self.standardize:
            scaler = StandardScaler()
            for _, decibels in self._decibels(pair):
                frames = decibels.swapaxes(1, 2)
                # (epochs, frames, channels, bins) -> (epochs * frames, channels * bins)
                scaler.partial_fit(frames.reshape(-1, np.prod(frames.shape[2:])))
            # (channels * bins,) -> (channels, bins)
            self.mean_ = scaler.mean_.reshape(pair.shape[1], -1)
            self.scale_ = scaler.scale_.reshape(pair.shape[1], -1)
        self.source_ = clone(self).fit(pair.source_epochs) if pair.has_source else None
        return self

    def transform(self, X):
        """Compute the spectrograms of ``X``, which is as for :meth:`fit`.

        Returns
        -------
        PairedEpochs or ndarray of shape (n_epochs, n_channels, n_frames, n_bins)
            Of the kind of ``X``, float32. A pair keeps all that it carries; its source is
            left out if ``fit`` saw none.

        Raises
        ------
        ValueError
            As in ``fit``, or if channels, samples or sampling rate are others.
        """
        check_is_fitted(self)
        pair = epochs_of(X)
        check_samples(pair, "target", "Spectrograms")
        sfreq = pair.sfreq["target"] or self.sfreq_
        if pair.shape[1:] != self.epoch_shape_ or not np.isclose(sfreq, self.sfreq_):
            raise ValueError(
                f"Fitted to (channels, samples) {self.epoch_shape_} at {self.sfreq_:g} Hz; "
                f"given {pair.shape[1:]} at {sfreq:g} Hz."
            )
        n_frames = 1 + (pair.shape[2] - len(self.window_)) // self.hop_
        shape = (*pair.shape[:2], n_frames, self.n_fft_ // 2 + 1)
        spectrograms = np.empty(shape, dtype=np.float32)
        for rows, decibels in self._decibels(pair):
            if self.standardize:
                # (channels, bins) -> (channels, 1, bins): alike in all frames
                decibels -= self.mean_[:, None].astype(np.float32)
                decibels /= self.scale_[:, None].astype(np.float32)
            spectrograms[rows] = decibels
        if not isinstance(X, PairedEpochs):
            return spectrograms
        # As pairs, so that the rate of the signal travels with its spectrogram.
        names = pair.ch_names["target"]
        target, source = PairedEpochs(spectrograms, sfreq=self.sfreq_, ch_names=names), None
        if pair.has_source and self.source_ is not None:
            source = self.source_.transform(pair.source_epochs)
        return of_kind(X, target, source)

    def _decibels(self, pair):
        """Log spectrograms, not standardised, of some rows of the target at a time."""
        for start in range(0, len(pair), N_AT_A_TIME):
            rows = slice(start, start + N_AT_A_TIME)
            epochs = pair.read("target", rows).astype(np.float32, copy=False)
            windows = sliding_window_view(epochs, len(self.window_), axis=2)
            frames = windows[:, :, :: self.hop_] * self.window_
            # (epochs, channels, frames, window) -> (epochs, channels, frames, bins)
            amplitude = np.abs(fft.rfft(frames, self.n_fft_))
            np.maximum(amplitude, np.float32(self.floor), out=amplitude)
            yield rows, 20 * np.log10(amplitude, out=amplitude)
