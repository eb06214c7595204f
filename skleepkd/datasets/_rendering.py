"""Noises, spells and events of a simulated night, at any sampling rate."""

import numpy as np
from scipy.fft import irfft

from skleepkd.stages import EPOCH_SECONDS

#: Nothing above is simulated, in hertz: a night is the same at every sampling rate.
HIGHEST = 45.0


class Clock:
    """A night's sampling grid."""

    def __init__(self, n_epochs, sfreq):
        self.sfreq = sfreq
        self.n_seconds = round(n_epochs * EPOCH_SECONDS)
        self.n_times = round(n_epochs * EPOCH_SECONDS * sfreq)
        self.times = np.arange(self.n_times) / sfreq

    def at_samples(self, by_second):
        """Interpolate a course known at the middle of each second."""
        middles = np.arange(self.n_seconds) + 0.5
        return np.interp(self.times, middles, by_second).astype(np.float32)

    def noise(self, rng, density, low=0.0, high=HIGHEST):
        """Gaussian noises from one draw, one for each spectral density.

        Parameters
        ----------
        rng : numpy.random.Generator
        density : callable
            Frequencies in hertz to amplitude densities in microvolts per square root
            of hertz, one row for each noise that is wanted.
        low, high : float
            Frequencies in hertz between which there is noise.

        Returns
        -------
        ndarray of float32, shape (n_noises, n_times)
        """
        # The frequencies are multiples of 1 / n_seconds at every sampling rate, and
        # are drawn from the lowest, so that another rate gives the same noise.
        first, last = max(1, round(low * self.n_seconds)), round(high * self.n_seconds)
        drawn = rng.standard_normal((last - first, 2), np.float32).view(np.complex64)[:, 0]
        last = max(first, min(last, self.n_times // 2))
        drawn = drawn[: last - first]
        frequencies = np.arange(first, last) / self.n_seconds
        amplitude = 0.5 * self.n_times * np.sqrt(1 / self.n_seconds) * density(frequencies)
        spectrum = np.zeros((len(amplitude), self.n_times // 2 + 1), np.complex64)
        spectrum[:, first:last] = amplitude * drawn
        return irfft(spectrum, self.n_times, axis=1, overwrite_x=True)


def draw_spells(rng, n_seconds, on, off):
    """Alternate between two states; True where the first one holds."""
    n_spells = 2 + int(4 * n_seconds / (on + off))
    lengths = rng.exponential(1.0, (n_spells, 2)) * (on, off)
    ends = np.cumsum(lengths)
    start = rng.uniform(0, on + off)
    at = np.searchsorted(ends, start + np.arange(n_seconds))
    return at % 2 == 0


def draw_onsets(rng, per_minute):
    """Draw times in seconds of events whose rate is known for each second."""
    seconds = np.flatnonzero(rng.random(len(per_minute)) < per_minute / 60)
    return seconds + rng.random(len(seconds))


def place(signals, weights, waveform, onset, duration, sfreq):
    """Add an event to the sources that take part in it."""
    start = int(np.ceil(onset * sfreq))
    stop = min(int((onset + duration) * sfreq), signals.shape[1])
    if start < stop:
        wave = waveform((np.arange(start, stop) / sfreq - onset) / duration)
        signals[:, start:stop] += np.outer(weights, wave).astype(np.float32)
