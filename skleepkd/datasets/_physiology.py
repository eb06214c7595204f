"""The signals of a simulated night: sources of the sleeping body, and electrodes.

Sources are drawn once and every electrode sees a weighted sum of them, so that scalp,
eyes, chin and ears record one physiology. Every number without a source beside it is
chosen, and the choice is judged as a whole by ``benchmarks/simulation_realism.py``.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from skleepkd.datasets._rendering import draw_onsets, draw_spells, place
from skleepkd.stages import EPOCH_SECONDS

_W, _N1, _N2, _N3, _REM = range(5)

# The bands of the background in hertz: slow, delta, theta, alpha, sigma, beta. Between
# the bands' centres its amplitude is interpolated, so that the spectrum has no steps.
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

#: The sources. Brain: one in the midline (frontocentral), one in each hemisphere, the
#: occiput. Eyes: horizontal and vertical movement. Muscles: both temples, the chin.
_SOURCES = (
    *("midline", "left", "right", "occiput"),
    *("horizontal", "vertical", "left temple", "right temple", "chin"),
)

#: What each electrode sees of each source. Chosen: nearness decides. Both ears lie
#: beside the mastoids (A1, A2) and see little of the midline.
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
    "chin": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    "Fpz": (0.25, 0.30, 0.30, 0.02, 0.00, 0.50, 0.15, 0.15, 0.0),
    "Cz": (1.00, 0.25, 0.25, 0.30, 0.00, 0.10, 0.02, 0.02, 0.0),
    "Pz": (0.55, 0.25, 0.25, 0.60, 0.00, 0.03, 0.02, 0.02, 0.0),
    "Oz": (0.20, 0.20, 0.20, 1.00, 0.00, 0.01, 0.05, 0.05, 0.0),
}


class Person:
    """What differs between people; log-normal factors, except frequencies in hertz."""

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
            if name != "chin"
        }
        self.leads["chin"] = np.array(_ELECTRODES["chin"])
        self.leads["EOG"] = self.leads["E1"] - self.leads["E2"]
        # The heart has its own module; the chest sees nothing of the head.
        self.leads["ECG"] = np.zeros(len(_SOURCES))

    def lead(self, derivation):
        """Give what a derivation ("C4-A1") or an electrode sees of each source."""
        if derivation in self.leads:
            return self.leads[derivation]
        plus, minus = derivation.split("-")
        return self.leads[plus] - self.leads[minus]


class Course:
    """What happens in a night, known for each second.

    Attributes
    ----------
    stage : ndarray of int, shape (n_seconds,)
        The stage of each second; an arousal is a few seconds awake.
    eyes_open : ndarray of bool, shape (n_seconds,)
    level : ndarray, shape (n_seconds, n_bands)
        Amplitude of the background in each band, in microvolts at C4-A1.
    """

    def __init__(self, hypnogram, person, rng):
        seconds = round(EPOCH_SECONDS)
        n_seconds = len(hypnogram) * seconds
        # A change of stage lies up to 14 s from the edge of the epoch where it is
        # scored, so that each epoch has its stage in more than half of its seconds.
        edges = seconds * (1 + np.flatnonzero(np.diff(hypnogram)))
        edges = edges + rng.integers(-14, 15, len(edges))
        starts = np.r_[0, edges, n_seconds]
        bouts = hypnogram[np.r_[0, 1 + np.flatnonzero(np.diff(hypnogram))]]
        self.stage = np.repeat(bouts, np.diff(starts))
        for onset in draw_onsets(rng, _AROUSALS[self.stage]):
            self.stage[int(onset) : int(onset + rng.uniform(3, 15))] = _W
        self.eyes_open = draw_spells(rng, n_seconds, 40.0, 80.0) & (self.stage == _W)

        n_epochs, n_bands = len(hypnogram), len(_CENTRES)
        depth = np.zeros(n_epochs)
        depth[0] = rng.normal(0, _DEPTH_SD)
        fresh = rng.normal(0, _DEPTH_SD * np.sqrt(1 - _DEPTH_MEMORY**2), n_epochs)
        for epoch in range(1, n_epochs):
            depth[epoch] = _DEPTH_MEMORY * depth[epoch - 1] + fresh[epoch]
        moment = np.outer(depth, _DEPTH) + rng.normal(0, _BAND_SD, (n_epochs, n_bands))
        log_level = np.log(_BACKGROUND[self.stage] * person.bands) + np.repeat(
            moment, seconds, axis=0
        )
        # Nothing in the body jumps.
        self.level = np.exp(gaussian_filter1d(log_level, 3.0, axis=0))
        alpha = np.where(self.eyes_open, _ALPHA_OPEN[self.stage], _ALPHA_CLOSED[self.stage])
        self.alpha = gaussian_filter1d(alpha * person.alpha_gain, 1.0)
        self.tone = gaussian_filter1d(_TONE[self.stage] * person.tone, 1.0)


def draw_sources(course, person, clock, seeds):
    """Draw the signals of all sources.

    Parameters
    ----------
    course : Course
    person : Person
    clock : Clock
    seeds : numpy.random.SeedSequence

    Returns
    -------
    ndarray of float32, shape (n_sources, n_times)
        Microvolts, in the order of ``_SOURCES``.
    """
    noise_rng, event_rng = (np.random.default_rng(seed) for seed in seeds.spawn(2))
    sources = np.zeros((len(_SOURCES), clock.n_times), np.float32)
    levels = [clock.at_samples(level) for level in course.level.T]
    alpha = clock.at_samples(course.alpha)
    for source, share in enumerate(_ALPHA_SHARE):
        bands = clock.noise(noise_rng, lambda f: _background_density(f, person.slope))
        for band, level in zip(bands, levels, strict=True):
            sources[source] += level * band
        rhythm = clock.noise(noise_rng, lambda f: _peak(f, person.alpha, 0.5), 5.0, 15.0)[0]
        sources[source] += share * alpha * rhythm
    tone = clock.at_samples(course.tone)
    for source, share in ((6, 0.8), (7, 0.8), (8, 1.0)):  # temples and chin
        muscle = clock.noise(noise_rng, lambda f: np.full((1, len(f)), 35**-0.5), 10.0)[0]
        sources[source] = share * tone * muscle
    _add_brain_events(sources, course, person, clock.sfreq, event_rng)
    _add_eye_movements(sources, course, clock.sfreq, event_rng)
    return sources * np.float32(person.gain)


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
    """Give the amplitude density of a rhythm of unit power."""
    return np.exp(-0.25 * ((frequencies - centre) / sd) ** 2)[None] / np.sqrt(
        sd * np.sqrt(2 * np.pi)
    )


def _add_brain_events(sources, course, person, sfreq, rng):
    def shares():
        # A wave is never equally strong everywhere.
        return _WAVE_SHARE * np.exp(rng.normal(0, 0.3, 4))

    for onset in draw_onsets(rng, _SPINDLES[course.stage] * person.spindles):
        _add_spindle(sources, shares(), onset, person, sfreq, rng)
    for onset in draw_onsets(rng, _K_COMPLEXES[course.stage]):
        size = 95.0 * np.exp(rng.normal(0, 0.25))
        place(sources[:4], size * shares(), _k_complex, onset, 1.4, sfreq)
        if rng.random() < 0.4:
            _add_spindle(sources, shares(), onset + 0.9, person, sfreq, rng)
    for onset in draw_onsets(rng, _VERTEX_WAVES[course.stage]):
        size = 60.0 * np.exp(rng.normal(0, 0.25))
        place(sources[:4], size * shares(), _k_complex, onset, 0.5, sfreq)


def _add_spindle(sources, shares, onset, person, sfreq, rng):
    duration = rng.uniform(0.6, 1.6)
    cycles = (person.spindle + rng.normal(0, 0.3)) * duration
    phase = rng.uniform(0, 2 * np.pi)
    size = 22.0 * np.exp(rng.normal(0, 0.25))

    def wave(t):
        return np.sin(np.pi * t) ** 2 * np.sin(2 * np.pi * cycles * t + phase)

    place(sources[:4], size * shares, wave, onset, duration, sfreq)


def _k_complex(t):
    """Draw a sharp negative wave and a slower positive one, over a unit of time."""
    return 0.55 * np.exp(-0.5 * ((t - 0.58) / 0.14) ** 2) - np.exp(
        -0.5 * ((t - 0.25) / 0.07) ** 2
    )


def _add_eye_movements(sources, course, sfreq, rng):
    eyes = sources[4:6]
    rates = np.where(
        course.eyes_open, _SACCADES_OPEN[course.stage], _SACCADES_CLOSED[course.stage]
    )
    # Rapid eye movements come in bursts.
    burst = draw_spells(rng, len(rates), 10.0, 20.0)
    rates = np.where(course.stage == _REM, 3 * rates * burst, rates)
    for onset in draw_onsets(rng, rates):
        angle, size = rng.uniform(0, 2 * np.pi), 90.0 * np.exp(rng.normal(0, 0.4))
        weights = size * np.array([np.cos(angle), 0.5 * np.sin(angle)])
        place(eyes, weights, _saccade, onset, rng.uniform(0.8, 2.0), sfreq)
    for onset in draw_onsets(
        rng, np.where(course.eyes_open, _BLINKS_OPEN[course.stage], 0)
    ):
        size = 160.0 * np.exp(rng.normal(0, 0.3))
        place(
            eyes, np.array([0, size]), lambda t: np.sin(np.pi * t) ** 2, onset, 0.3, sfreq
        )
    for onset in draw_onsets(rng, _ROLLS[course.stage]):
        size, duration = 70.0 * np.exp(rng.normal(0, 0.3)), rng.uniform(3, 6)
        roll = rng.choice([-1, 1]) * np.array([size, 0.1 * size])
        place(
            eyes,
            roll,
            lambda t: np.sin(np.pi * t) * np.sin(2 * np.pi * t),
            onset,
            duration,
            sfreq,
        )


def _saccade(t):
    """Draw a step of the eyes that the amplifier's high-pass filter lets fade."""
    return (1 - np.exp(-t / 0.04)) * np.exp(-3.0 * t) * (1 - t)
