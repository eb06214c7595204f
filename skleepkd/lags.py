"""The lag between two signals: whitened, searched in a whole night, then window by window."""

from collections import namedtuple
from itertools import product

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal.windows import hann
from scipy.stats import theilslopes

#: Samples a second of what is compared, by hertz of the upper limit of the band.
_OVERSAMPLED = 2.5
#: Independent samples (two a second and hertz) of a spectrum that is made white, and of a
#: window: so many that a correlation of about 0.1 stands out.
_FRAME, WINDOW = 400, 6000
#: Searches of the whole night, windows among them at least and at most, places that each names.
_SEARCHES, _FEWEST, _MOST, _PLACES = 480, 24, 80, 3
#: So many windows are found on a line by chance.
_CHANCE = 3
#: Greater drifts are not looked for.
_MOST_DRIFT = 3e-4
#: In periods of the band's upper limit: what counts as one lag, as one peak, and how far from
#: the line a window looks.
_SAME, _PEAK, _REACH = 0.6, 12.0, 720.0

#: A night is at least so many windows, which may be this share of their length.
_N_WINDOWS, _SHORTEST = 12, 0.1
#: Elsewhere the mean correlation is at most this share of that at the line, ...
_MOST_ELSEWHERE = 0.4
#: ... and at least so many windows find it by themselves, and this share of them.
_LEAST_AGREE, _LEAST_SHARE = 5, 0.1


#: ``elsewhere`` is the largest mean correlation off the line, as a share of that on it.
class Lags(namedtuple("Lags", "middles lags correlations agree elsewhere")):
    """Lags of windows by their middles (the target's clock), and whether they are on a line."""

    @property
    def is_one_lag(self):
        """Whether they tell one lag, by enough windows and more than any other."""
        n_agree = max(_LEAST_AGREE, _LEAST_SHARE * len(self.agree))
        return self.agree.sum() >= n_agree and self.elsewhere <= _MOST_ELSEWHERE

    @property
    def line(self):
        """Start and slope of the line of Theil and Sen through those that agree."""
        slope, start = theilslopes(self.lags[self.agree], self.middles[self.agree])[:2]
        return start, slope


def choose_band(l_freq, h_freq, sfreq):
    """Limits in hertz of what signals of this rate are compared by."""
    high = min(12.0, 0.4 * sfreq) if h_freq is None else h_freq
    low = min(1.0, high / 10) if l_freq is None else l_freq
    if not 0 <= low < high <= 0.45 * sfreq:
        raise ValueError(
            f"The band from {low:g} to {high:g} Hz is empty, or above 0.45 times the lower "
            f"sampling rate, {sfreq:g} Hz."
        )
    return low, high


def rate_of(band):
    """Tell the samples a second of a whitened signal."""
    return _OVERSAMPLED * band[1]


def window_seconds(band, night=np.inf):
    """Seconds of a window that holds enough independent samples, of a short night fewer."""
    return min(WINDOW / 2 / (band[1] - band[0]), night / _N_WINDOWS)


def shortest_night(band):
    """Seconds of a night below which two cannot be told apart."""
    return _N_WINDOWS * _SHORTEST * window_seconds(band)


def whiten(read, n_times, sfreq, band):
    """Filter, whiten and resample what ``read(start, stop)`` gives, (n_channels, n_samples).

    In frames that overlap by half each frequency of the band gets the same amplitude.
    """
    low, high = band
    half = round(_FRAME / 4 / (high - low) * rate_of(band))
    seconds = 2 * half / rate_of(band)
    n_frame = round(seconds * sfreq)
    fade = hann(n_frame, sym=False), np.sqrt(hann(2 * half, sym=False))
    frequencies = rfftfreq(2 * half, 1 / rate_of(band))
    within = (frequencies >= low) & (frequencies <= high)
    size = 2 * half / np.sqrt(2 * within.sum())  # that of a signal of variance 1
    middles = seconds / 2 * np.arange(1, int(2 * n_times / sfreq / seconds))
    starts = np.clip(np.round(middles * sfreq - n_frame / 2), 0, n_times - n_frame).astype(
        int
    )
    late = (starts + n_frame / 2) / sfreq - middles
    white = np.zeros((0, 0), np.float32)
    for frame, (start, delay) in enumerate(zip(starts, late, strict=True)):
        if frame % 64 == 0:
            first = start
            block = read(start, starts[min(frame + 63, len(starts) - 1)] + n_frame)
            block = np.nan_to_num(block, posinf=0, neginf=0)
        if not white.size:
            white = np.zeros((len(block), (len(starts) + 1) * half), np.float32)
        piece = block[:, start - first : start - first + n_frame]
        piece = piece - piece.mean(axis=1, keepdims=True)
        spectrum = rfft(piece * fade[0])[:, : half + 1]
        amplitude = np.abs(spectrum)
        # What rounding leaves of a flat or slow signal is nothing that was seen.
        seen = within & (amplitude > 1e-6 * np.abs(piece).max(axis=1, keepdims=True))
        phase = spectrum / np.where(seen, amplitude, np.inf)
        phase *= np.exp(-2j * np.pi * frequencies * delay)
        white[:, frame * half : (frame + 2) * half] += (
            irfft(size * phase, 2 * half) * fade[1]
        )
    return white


def search_line(source, target, band, length):
    """Start and slope of the line on which most windows find their place in the source.

    And how many windows another line has, as a share of its: many, where the night repeats.
    """
    rate = rate_of(band)
    n_window, n_block = round(length * rate), round(_PEAK / band[1] * rate)
    n_windows = np.clip(_SEARCHES // (len(source) * len(target)), _FEWEST, _MOST)
    n_windows = min(n_windows, 2 * target.shape[1] // n_window - 1)
    starts = np.linspace(0, target.shape[1] - n_window, n_windows).astype(int)
    n_fft = next_fast_len(source.shape[1] + n_window, real=True)
    n_places = (source.shape[1] - n_window) // n_block * n_block
    spectra = rfft(source, n_fft)
    found = []
    for number, start in enumerate(starts):
        best = np.zeros(n_places, np.float32)
        for channel in target:
            window = np.conj(rfft(channel[start : start + n_window], n_fft))
            for spectrum in spectra:
                values = irfft(spectrum * window, n_fft)[:n_places]
                np.maximum(best, np.abs(values), out=best)
        blocks = best.reshape(-1, n_block)
        for block in np.argsort(blocks.max(axis=1))[-_PLACES:]:
            place = block * n_block + blocks[block].argmax()
            found.append((number, start / rate + length / 2, (place - start) / rate))
    number, times, lags = np.array(found).T
    start, slope, most = _commonest_line(number, times, lags, tolerance=2 / band[1])
    away = np.abs(lags - start - slope * times) > _PEAK / band[1]
    others = _commonest_line(number[away], times[away], lags[away], tolerance=2 / band[1])
    return (start, slope), others[2] / most if others[2] > _CHANCE else 0.0


def _commonest_line(number, times, lags, tolerance):
    """Find the line through two points that passes by points of most windows; count them."""
    one, two = np.nonzero(times[:, None] < times)
    slopes = (lags[two] - lags[one]) / (times[two] - times[one])
    slow = np.abs(slopes) <= _MOST_DRIFT + tolerance / (times[two] - times[one])
    best, most = np.zeros(len(times), dtype=bool), 0
    for point, slope in zip(one[slow], slopes[slow], strict=True):
        near = np.abs(lags - lags[point] - slope * (times - times[point])) < tolerance
        if near.sum() > most and len(np.unique(number[near])) > most:
            best, most = near, len(np.unique(number[near]))
    if most < 2:
        return 0.0, 0.0, most
    slope, start = np.polyfit(times[best], lags[best], 1)
    return start, slope, most


def local_lags(source, target, line, band, length, *, anywhere=False):
    """Find each window's lag near a line (start, slope); they agree on it, or ``anywhere``."""
    rate, (start, slope) = rate_of(band), line
    n_window, reach = round(length * rate), round(_REACH / band[1] * rate)
    firsts = np.arange(0, target.shape[1] - n_window + 1, n_window)
    middles = (firsts + n_window / 2) / rate
    places = np.round(firsts + (start + slope * middles) * rate).astype(int)
    covered = (places >= 0) & (places + n_window <= source.shape[1])
    firsts, places, middles = firsts[covered], places[covered], middles[covered]
    if not len(firsts):
        return Lags(middles, middles, middles, np.zeros(0, dtype=bool), np.inf)
    n_fft = next_fast_len(2 * (reach + n_window), real=True)
    steps = np.arange(-reach, reach + 1)
    near, total, weights = np.abs(steps) <= _PEAK / band[1] * rate, 0.0, 0.0
    near |= anywhere
    padded = np.pad(source, ((0, 0), (reach, reach)))
    for seen, worn in product(padded, target):
        values = np.empty((len(firsts), len(steps)), np.float32)
        for row, first, place in zip(values, firsts, places, strict=True):
            wide = rfft(seen[place : place + n_window + 2 * reach], n_fft)
            window = rfft(worn[first : first + n_window], n_fft)
            row[:] = irfft(wide * np.conj(window), n_fft)[: len(steps)] / n_window
        mean = values.mean(axis=0)[near]
        weight = mean[np.abs(mean).argmax()]  # negative where the polarity is reversed
        total, weights = total + weight * values, weights + abs(weight)
    total /= max(weights, 1e-12)
    mean = total.mean(axis=0)
    centre = steps[np.where(near, mean, -np.inf).argmax()]
    far = np.abs(steps - centre) > _PEAK / band[1] * rate
    at_centre = mean[centre + reach]  # nothing where a signal is flat, which tells no lag
    elsewhere = np.abs(mean[far]).max() / at_centre if at_centre > 1e-6 else np.inf
    peaks, heights = _peaks(total)
    # Steps of whole samples from places that were rounded to samples.
    lags = (places - firsts + peaks - reach) / rate
    agree = np.abs(lags - start - slope * middles - centre / rate) < _SAME / band[1]
    return Lags(middles, lags, heights, agree, elsewhere)


def _peaks(values):
    """Where each row has its maximum, to a part of a sample by a parabola, and its height."""
    at = np.clip(values.argmax(axis=1), 1, values.shape[1] - 2)
    before, top, after = (values[np.arange(len(at)), at + step] for step in (-1, 0, 1))
    bend = before - 2 * top + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1), 0.0)
    return at + np.clip(shift, -0.5, 0.5), top
