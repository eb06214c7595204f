"""The body of a simulated night: its stages, and the sources that each electrode sees.

Every number without a source beside it is chosen, and the choice is judged as a whole by
``benchmarks/simulation_realism.py``.
"""

import numpy as np
from scipy.fft import irfft
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from skleepkd.stages import EPOCH_SECONDS

W, N1, N2, N3, REM = range(5)
SECONDS = round(EPOCH_SECONDS)
#: Nothing above is simulated, in hertz: a night is the same at every sampling rate.
HIGHEST = 45.0


class Clock:
    """A night's sampling grid."""

    def __init__(self, n_epochs, sfreq):
        self.sfreq = sfreq
        self.n_seconds = SECONDS * n_epochs
        self.n_times = round(self.n_seconds * sfreq)
        self.times = np.arange(self.n_times) / sfreq

    def at_samples(self, by_second):
        """Interpolate what is known at the middle of each second."""
        middles = np.arange(self.n_seconds) + 0.5
        return np.interp(self.times, middles, by_second).astype(np.float32)

    def frequencies(self, low=0.0, high=HIGHEST):
        """Multiples of 1 / n_seconds between two frequencies, as far as the rate holds them."""
        first, last = self._multiples(low, high)
        return np.arange(first, max(first, min(last, self.n_times // 2))) / self.n_seconds

    def _multiples(self, low, high):
        return max(1, round(low * self.n_seconds)), round(high * self.n_seconds)

    def noise(self, rng, density, low=0.0, high=HIGHEST):
        """Gaussian noise between two frequencies, (..., n_times), of amplitude density(f)."""
        # Drawn from the lowest frequency, so that another rate gives the same noise.
        first, last = self._multiples(low, high)
        drawn = rng.standard_normal((last - first, 2), np.float32).view(np.complex64)[:, 0]
        frequencies = self.frequencies(low, high)
        last = first + len(frequencies)
        amplitude = 0.5 * self.n_times * np.sqrt(1 / self.n_seconds) * density(frequencies)
        shape = (*amplitude.shape[:-1], self.n_times // 2 + 1)
        spectrum = np.zeros(shape, np.complex64)
        spectrum[..., first:last] = amplitude * drawn[: last - first]
        return irfft(spectrum, self.n_times, overwrite_x=True)

    def muscle(self, rng):
        """Noise of a tense muscle, of unit power."""
        return self.noise(rng, lambda f: np.full(len(f), 35**-0.5), 10.0)


def draw_spells(rng, n_seconds, on, off):
    """Alternate between two states of these mean lengths; True where the first holds."""
    n_spells = 2 + int(4 * n_seconds / (on + off))
    ends = np.cumsum(rng.exponential(1.0, (n_spells, 2)) * (on, off))
    start = rng.uniform(0, on + off)
    return np.searchsorted(ends, start + np.arange(n_seconds)) % 2 == 0


def draw_onsets(rng, per_minute):
    """Draw times in seconds of events whose rate is known for each second."""
    seconds = np.flatnonzero(rng.random(len(per_minute)) < per_minute / 60)
    return seconds + rng.random(len(seconds))


def place(signals, weights, waveform, onset, duration, sfreq):
    """Add an event to the signals that take part in it."""
    start = int(np.ceil(onset * sfreq))
    stop = min(int((onset + duration) * sfreq), signals.shape[1])
    if start < stop:
        wave = waveform((np.arange(start, stop) / sfreq - onset) / duration)
        signals[:, start:stop] += np.outer(weights, wave).astype(np.float32)


#: How often stage i (row) was followed by stage j (column; W, N1, N2, N3, REM) in each
#: sixth of the night, from lights off to 30 epochs after the last epoch of sleep, by the
#: second epoch's place. Counted over the 39 nights of Sleep-EDF's Sleep Cassette (Kemp et
#: al. 2000, IEEE TBME 47(9):1185-1194), the expert's R&K stages 3 and 4 taken as N3.
_JUMPS = """
0 96  6 2  1    35 0 122 0  1    24 54 0 150 16     7  6 129 0 1     4  2  4 1 0
0 53  7 2  2    17 0  87 2  8    25 31 0 218 44    11 10 194 0 1     7 17 26 0 0
0 49 10 0  4    17 0  95 0 15    38 45 0 154 48     4  4 152 0 0     7 29 31 0 0
0 62 12 0  4    18 0 111 0 28    35 57 0 133 43     6  2 123 0 1    17 32 23 0 0
0 82  7 0 12    41 0 109 0 35    23 59 0  96 61     6  2  90 0 0    28 43 38 0 0
0 91  5 0  9    42 0 158 0 29    69 89 0  48 32     2  2  43 0 1    29 41  9 0 0
"""
JUMPS = np.array(_JUMPS.split(), int).reshape(6, 5, 5)
#: Mean and standard deviation of the logarithm of a bout's length in epochs, over the same
#: nights, and of the waking before sleep, over the 38 nights that began awake.
LOG_BOUT = np.array([[0.95, 1.10], [0.70, 0.75], [1.62, 1.27], [0.91, 1.21], [2.36, 1.17]])
LOG_LATENCY = (2.90, 1.18)
#: Part of the night that the waking before sleep can take at most.
_LONGEST_LATENCY = 0.15
#: How often the scorer errs in each stage: about one epoch in sixteen, most often in N1, as
#: human scorers do (Lee et al. 2022, J Clin Sleep Med 18(1):193-202).
_ERROR = np.array([0.05, 0.20, 0.05, 0.07, 0.05])
#: What an epoch of each stage (row) is taken for where the scorer errs, in tenths.
_TAKEN_FOR = np.array(
    [[0, 7, 2, 0, 1], [3, 0, 5, 0, 2], [1, 3, 0, 4, 2], [0, 0, 10, 0, 0], [2, 4, 4, 0, 0]]
)


def draw_hypnogram(n_epochs, rng):
    """Draw a night's stages, a semi-Markov chain with the course of a whole night."""
    stages = np.zeros(n_epochs, dtype=np.int64)
    latency = np.exp(rng.normal(*LOG_LATENCY))
    start = round(min(latency, _LONGEST_LATENCY * n_epochs))
    stage = W
    while start < n_epochs:
        odds = JUMPS[6 * start // n_epochs, stage]
        stage = rng.choice(5, p=odds / odds.sum())
        length = max(1, round(np.exp(rng.normal(*LOG_BOUT[stage]))))
        stages[start : start + length] = stage
        start += length
    return stages


def score_hypnogram(stages, rng):
    """Score a night as a human scorer does, who errs in a few epochs of a hundred."""
    errs = rng.random(len(stages)) < _ERROR[stages]
    taken_for = np.array([rng.choice(5, p=_TAKEN_FOR[stage] / 10) for stage in stages])
    return np.where(errs, taken_for, stages)


# The bands of the background in hertz: slow, delta, theta, alpha, sigma, beta; between
# their centres its amplitude is interpolated.
_EDGES = np.array([0.3, 1.0, 4.0, 8.0, 12.0, 16.0, 32.0])
_CENTRES = np.sqrt(_EDGES[:-1] * _EDGES[1:])
#: Root mean square of the background by stage and band, in microvolts at C4-A1.
_BACKGROUND = np.array(
    [
        [7.0, 6.0, 4.0, 3.2, 2.2, 4.2],
        [6.5, 7.0, 5.6, 3.2, 1.9, 3.0],
        [8.8, 9.8, 6.0, 3.2, 2.6, 2.3],
        [30.0, 26.0, 7.5, 3.2, 2.2, 1.5],
        [5.6, 6.3, 5.0, 3.0, 1.5, 2.7],
    ]
)
#: Alpha rhythm over the occiput in microvolts, by stage, with eyes closed and open.
_ALPHA_CLOSED = np.array([20.0, 3.0, 0.5, 0.5, 1.5])
_ALPHA_OPEN = np.array([3.0, 3.0, 0.5, 0.5, 1.5])
#: Muscle tone by stage in microvolts at the chin: lowest in REM sleep, by definition.
_TONE = np.array([12.0, 7.0, 5.0, 4.5, 2.2])
#: How much of the alpha rhythm each brain source has, and of spindles and K-complexes.
_ALPHA_SHARE = np.array([0.25, 0.45, 0.45, 1.0])
_WAVE_SHARE = np.array([0.9, 0.45, 0.45, 0.35])
#: How far a deeper or lighter moment of a stage moves each band (log amplitude).
_DEPTH = np.array([1.0, 1.0, 0.4, 0.0, -0.2, -0.5])
_DEPTH_SD = 0.22
_DEPTH_MEMORY = 0.85  # from one epoch to the next
_BAND_SD = 0.18

#: Events a minute by stage. Spindles: scorers mark 3.1 a minute (Dimitrov et al. 2021,
#: Sleep 44(9):zsab099). Arousals: young adults have 14.7 an hour of sleep, of 15 s
#: (Boselli et al. 1998, Sleep 21(4):351-357); here 14 an hour outside N3, of 3 to 15 s.
_SPINDLES = np.array([0.0, 0.2, 3.2, 1.6, 0.0])
_K_COMPLEXES = np.array([0.0, 0.0, 1.3, 0.5, 0.0])
_VERTEX_WAVES = np.array([0.0, 1.2, 0.1, 0.0, 0.0])
_AROUSALS = np.array([0.0, 14.0, 14.0, 0.0, 14.0]) / 60
_SACCADES_OPEN = np.array([14.0, 2.0, 0.0, 0.0, 14.0])
_SACCADES_CLOSED = np.array([3.0, 1.0, 0.0, 0.0, 14.0])
_BLINKS_OPEN = np.array([16.0, 0.0, 0.0, 0.0, 0.0])
_ROLLS = np.array([0.5, 5.0, 0.1, 0.0, 0.1])

#: What each electrode sees of the sources: of the brain's midline (frontocentral), left
#: and right hemisphere and occiput, of horizontal and vertical movements of the eyes, and
#: of the muscles of the left and right temple and the chin. Nearness decides.
_ELECTRODES = {
    "C3": (0.75, 0.60, 0.15, 0.30, 0.03, 0.08, 0.15, 0.02, 0.0),
    "C4": (0.75, 0.15, 0.60, 0.30, -0.03, 0.08, 0.02, 0.15, 0.0),
    "O1": (0.20, 0.30, 0.10, 0.90, 0.01, 0.02, 0.10, 0.02, 0.0),
    "O2": (0.20, 0.10, 0.30, 0.90, -0.01, 0.02, 0.02, 0.10, 0.0),
    "A1": (0.10, 0.40, 0.00, 0.12, 0.06, 0.00, 0.25, 0.00, 0.0),
    "A2": (0.10, 0.00, 0.40, 0.12, -0.06, 0.00, 0.00, 0.25, 0.0),
    "E1": (0.35, 0.25, 0.10, 0.00, 0.90, -0.40, 0.20, 0.05, 0.0),
    "E2": (0.35, 0.10, 0.25, 0.00, -0.90, 0.40, 0.05, 0.20, 0.0),
    "L": (0.10, 0.38, 0.00, 0.12, 0.06, 0.00, 0.30, 0.00, 0.0),
    "R": (0.10, 0.00, 0.38, 0.12, -0.06, 0.00, 0.00, 0.30, 0.0),
    "LE": (0.04, 0.14, 0.00, 0.03, 0.02, 0.00, 0.15, 0.00, 0.0),
    "RE": (0.04, 0.00, 0.14, 0.03, -0.02, 0.00, 0.00, 0.15, 0.0),
    "Fpz": (0.25, 0.30, 0.30, 0.02, 0.00, 0.50, 0.15, 0.15, 0.0),
    "Cz": (1.00, 0.25, 0.25, 0.30, 0.00, 0.10, 0.02, 0.02, 0.0),
    "Pz": (0.55, 0.25, 0.25, 0.60, 0.00, 0.03, 0.02, 0.02, 0.0),
    "Oz": (0.20, 0.20, 0.20, 1.00, 0.00, 0.01, 0.05, 0.05, 0.0),
}
_BRAIN, _EYES, _MUSCLES = slice(0, 4), slice(4, 6), slice(6, 9)
_N_SOURCES = 9


class Body:
    """What differs between subjects; log-normal factors, except frequencies in hertz."""

    def __init__(self, rng):
        self.alpha = rng.normal(10.0, 0.7)
        self.spindle = rng.normal(13.2, 0.45)
        self.slope = rng.normal(1.1, 0.12)
        self.gain = np.exp(rng.normal(0, 0.2))
        self.bands = np.exp(rng.normal(0, 0.15, len(_CENTRES)))
        self.alpha_gain = np.exp(rng.normal(0, 0.3))
        self.spindles = np.exp(rng.normal(0, 0.3))
        self.tone = np.exp(rng.normal(0, 0.25))
        # No head is the average head: it changes what is seen of the brain.
        self.leads = {
            name: np.array(lead) + np.r_[rng.normal(0, 0.05, 4), np.zeros(5)]
            for name, lead in _ELECTRODES.items()
        }
        self.leads["chin"] = np.eye(_N_SOURCES)[-1]
        self.leads["EOG"] = self.leads["E1"] - self.leads["E2"]
        # The heart has its own module; the chest sees nothing of the head.
        self.leads["ECG"] = np.zeros(_N_SOURCES)

    def lead(self, derivation):
        """Return what a derivation ("C4-A1") or an electrode sees of each source."""
        if derivation in self.leads:
            return self.leads[derivation]
        plus, minus = derivation.split("-")
        return self.leads[plus] - self.leads[minus]


class Course:
    """What happens in a night by second: stages, arousals as wake, amplitudes in microvolts."""

    def __init__(self, hypnogram, body, rng):
        n_epochs, n_seconds = len(hypnogram), len(hypnogram) * SECONDS
        # A change of stage lies up to 14 s from the edge of the epoch where it is
        # scored, so that each epoch has its stage in more than half of its seconds.
        changes = 1 + np.flatnonzero(np.diff(hypnogram))
        edges = SECONDS * changes + rng.integers(-14, 15, len(changes))
        bouts = hypnogram[np.r_[0, changes]]
        self.stage = np.repeat(bouts, np.diff(np.r_[0, edges, n_seconds]))
        for onset in draw_onsets(rng, _AROUSALS[self.stage]):
            self.stage[int(onset) : int(onset + rng.uniform(3, 15))] = W
        self.eyes_open = draw_spells(rng, n_seconds, 40.0, 80.0) & (self.stage == W)

        first = rng.normal(0, _DEPTH_SD)
        fresh = rng.normal(0, _DEPTH_SD * np.sqrt(1 - _DEPTH_MEMORY**2), n_epochs)
        fresh[0] = first
        depth = lfilter([1], [1, -_DEPTH_MEMORY], fresh)
        moment = np.outer(depth, _DEPTH)
        moment = moment + rng.normal(0, _BAND_SD, (n_epochs, len(_CENTRES)))
        log_level = np.log(_BACKGROUND[self.stage] * body.bands)
        log_level = log_level + np.repeat(moment, SECONDS, axis=0)
        # Nothing in the body jumps.
        self.level = np.exp(gaussian_filter1d(log_level, 3.0, axis=0))
        alpha = np.where(self.eyes_open, _ALPHA_OPEN[self.stage], _ALPHA_CLOSED[self.stage])
        self.alpha = gaussian_filter1d(alpha * body.alpha_gain, 1.0)
        self.tone = gaussian_filter1d(_TONE[self.stage] * body.tone, 1.0)


def draw_sources(course, body, clock, rng):
    """Draw the signals of all sources in microvolts, float32 (n_sources, n_times)."""
    noise_rng, event_rng = rng.spawn(2)
    sources = np.zeros((_N_SOURCES, clock.n_times), np.float32)
    background = _background_density(clock.frequencies(), body.slope)  # of all sources
    levels = [clock.at_samples(level) for level in course.level.T]
    alpha = clock.at_samples(course.alpha)
    for source, share in zip(sources[_BRAIN], _ALPHA_SHARE, strict=True):
        bands = clock.noise(noise_rng, lambda _: background)
        for band, level in zip(bands, levels, strict=True):
            source += level * band
        rhythm = clock.noise(noise_rng, lambda f: _peak(f, body.alpha, 0.5), 5.0, 15.0)
        source += share * alpha * rhythm
    tone = clock.at_samples(course.tone)
    for source, share in zip(sources[_MUSCLES], (0.8, 0.8, 1.0), strict=True):
        source[:] = share * tone * clock.muscle(noise_rng)
    _add_brain_events(sources[_BRAIN], course, body, clock.sfreq, event_rng)
    _add_eye_movements(sources[_EYES], course, clock.sfreq, event_rng)
    return sources * np.float32(body.gain)


def _background_density(frequencies, slope):
    """One row a band, of unit power; between the centres the bands fade into another."""
    log_f, log_centres = np.log(frequencies), np.log(_CENTRES)
    rows = []
    for band, centre in enumerate(_CENTRES):
        hat = np.interp(log_f, log_centres, np.arange(len(_CENTRES)) == band)
        width = _EDGES[band + 1] - _EDGES[band]
        rows.append(hat * (frequencies / centre) ** (-slope / 2) / np.sqrt(width))
    # What an amplifier's high-pass filter leaves of the lowest frequencies.
    return np.array(rows) / (1 + (_EDGES[0] / frequencies) ** 4)


def _peak(frequencies, centre, sd):
    """Amplitude density of a rhythm of unit power."""
    bell = np.exp(-0.25 * ((frequencies - centre) / sd) ** 2)
    return bell / np.sqrt(sd * np.sqrt(2 * np.pi))


def _add_brain_events(brain, course, body, sfreq, rng):
    def shares():
        # A wave is never equally strong everywhere.
        return _WAVE_SHARE * np.exp(rng.normal(0, 0.3, 4))

    def add_spindle(shares, onset):
        duration = rng.uniform(0.6, 1.6)
        cycles = (body.spindle + rng.normal(0, 0.3)) * duration
        phase = rng.uniform(0, 2 * np.pi)
        size = 22.0 * np.exp(rng.normal(0, 0.25))

        def wave(t):
            return np.sin(np.pi * t) ** 2 * np.sin(2 * np.pi * cycles * t + phase)

        place(brain, size * shares, wave, onset, duration, sfreq)

    for onset in draw_onsets(rng, _SPINDLES[course.stage] * body.spindles):
        add_spindle(shares(), onset)
    for onset in draw_onsets(rng, _K_COMPLEXES[course.stage]):
        size = 95.0 * np.exp(rng.normal(0, 0.25))
        place(brain, size * shares(), _k_complex, onset, 1.4, sfreq)
        if rng.random() < 0.4:
            add_spindle(shares(), onset + 0.9)
    for onset in draw_onsets(rng, _VERTEX_WAVES[course.stage]):
        size = 60.0 * np.exp(rng.normal(0, 0.25))
        place(brain, size * shares(), _k_complex, onset, 0.5, sfreq)


def _k_complex(t):
    # A sharp negative wave and a slower positive one, over a unit of time.
    negative = np.exp(-0.5 * ((t - 0.25) / 0.07) ** 2)
    return 0.55 * np.exp(-0.5 * ((t - 0.58) / 0.14) ** 2) - negative


def _add_eye_movements(eyes, course, sfreq, rng):
    stage, eyes_open = course.stage, course.eyes_open
    rates = np.where(eyes_open, _SACCADES_OPEN[stage], _SACCADES_CLOSED[stage])
    # Rapid eye movements come in bursts.
    burst = draw_spells(rng, len(rates), 10.0, 20.0)
    rates = np.where(stage == REM, 3 * rates * burst, rates)
    for onset in draw_onsets(rng, rates):
        angle, size = rng.uniform(0, 2 * np.pi), 90.0 * np.exp(rng.normal(0, 0.4))
        weights = size * np.array([np.cos(angle), 0.5 * np.sin(angle)])
        place(eyes, weights, _saccade, onset, rng.uniform(0.8, 2.0), sfreq)
    for onset in draw_onsets(rng, np.where(eyes_open, _BLINKS_OPEN[stage], 0)):
        size = 160.0 * np.exp(rng.normal(0, 0.3))
        place(eyes, (0, size), lambda t: np.sin(np.pi * t) ** 2, onset, 0.3, sfreq)
    for onset in draw_onsets(rng, _ROLLS[stage]):
        size, duration = 70.0 * np.exp(rng.normal(0, 0.3)), rng.uniform(3, 6)
        weights = rng.choice([-1, 1]) * np.array([size, 0.1 * size])
        place(eyes, weights, _roll, onset, duration, sfreq)


def _saccade(t):
    # A step of the eyes that the amplifier's high-pass filter lets fade.
    return (1 - np.exp(-t / 0.04)) * np.exp(-3.0 * t) * (1 - t)


def _roll(t):
    return np.sin(np.pi * t) * np.sin(2 * np.pi * t)
