"""The heart of a simulated night: breathing, beats and the electrocardiogram.

Beats come from integral pulse frequency modulation (Mateo and Laguna 2000, IEEE TBME
47(8):985-996): a beat falls whenever the integral of the heart rate reaches the next
whole number. The rate has a person's mean, follows the stages, falls over the night, and
is modulated slowly, at about 0.1 Hz and by breathing. P, Q, R, S and T are Gaussians
around each beat, an idea of McSharry et al. (2003, IEEE TBME 50(3):289-294).

Sources stand beside the numbers. Every number without one is chosen; the whole is judged by
``benchmarks/simulation_realism.py``. Bands are the Task Force's (1996, Circulation
93:1043-1065).
"""

from collections import namedtuple

import numpy as np
from scipy.fft import irfft, rfft
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve, lfilter

from skleepkd.datasets.simulated.body import HIGHEST, SECONDS, Clock, W

#: All by stage (W, N1, N2, N3, REM), as multiples of REM sleep. Breathing rate and strength
#: of respiratory sinus arrhythmia: Penzel et al. (2016, Front Physiol 7:460, Table 1).
_BREATHS = np.array([1.02, 0.95, 0.95, 0.92, 1.0])
_RSA = np.array([0.90, 1.33, 1.33, 1.37, 1.0])
#: Heart rate. Penzel et al. have 1.06 awake, 0.98 in N1 and N2, 0.99 in N3; Somers et al.
#: (1993, N Engl J Med 328:303-307) 64 beats a minute awake, 59 in stage 4 and about as many
#: in REM sleep as awake. Both agree on deep sleep and waking; REM sleep is put half way
#: between them. N1 is chosen.
_RATE = np.array([1.03, 0.97, 0.955, 0.955, 1.0])
#: Modulation by breathing in REM sleep, relative amplitude: it gives about the power between
#: 0.15 and 0.4 Hz of people of 47 years awake, 148 ms2 (Choi et al. 2020, Front Aging
#: Neurosci 12:610626: its logarithm is 6.833 - 0.039 years).
_RSA_SIZE = 0.022
#: Modulation between 0.04 and 0.15 Hz, relative root mean square. With what arousals and
#: movements add, its power is to breathing's as in Vanoli et al. (1995, Circulation
#: 91:1918-1922, at 47 years): 4.0 awake, 1.2 in NREM, 3.0 in REM sleep; within NREM sleep
#: the ratio falls as sleep deepens (Bonnet and Arand 1997, Electroencephalogr Clin
#: Neurophysiol 102:390-396).
_LOW = np.array([0.014, 0.017, 0.014, 0.014, 0.0155])
#: Modulation below 0.04 Hz, the same: strong in waking and in REM sleep, weak in NREM sleep
#: (Busek et al. 2005, spectral analysis of the heart rate variability in sleep; Bunde et al.
#: 2000, Phys Rev Lett 85:3736-3739; at sleep onset Shinar et al. 2006, Auton Neurosci
#: 130:17-27). Its sizes are estimates: all variability awake is 1.15 times that in REM
#: sleep, as in Penzel et al.; theirs in NREM sleep (0.93 to 0.97) is nearer to REM's.
_VERY_LOW = np.array([0.064, 0.036, 0.018, 0.012, 0.048])
#: The heart follows a change of stage within a minute or so, and is ahead as often as behind
#: (Bonnet and Arand 1997): standard deviation in seconds.
_TRANSITION = 20.0
#: An arousal makes the heart fast, then slow (Sforza et al. 2000, Clin Neurophysiol
#: 111:1611-1619): 8 beats a minute, one of middle intensity in Azarbarzin et al. (2014,
#: Sleep 37:645-653: 0.7 to 2.4 beats for each of nine steps). A movement: half of it, chosen.
_AROUSAL, _MOVEMENT, _SLOWING = 0.13, 0.065, 0.35
#: How much subjects differ in all variability, in breathing's share, and in each of the two
#: slower ones (log amplitude); LF/HF then spreads by 0.8, as in Vanoli et al.
_SHARED_SD, _RSA_SD, _SLOW_SD = 0.35, 0.35, 0.15
#: Breathing is most regular in deep sleep (Cabiddu et al. 2012, Front Physiol 3:45).
#: Relative irregularity of the breathing rate and of the depth of breath, by stage.
_UNEVEN_RATE = np.array([0.15, 0.10, 0.07, 0.04, 0.14])
_UNEVEN_DEPTH = np.array([0.35, 0.25, 0.18, 0.10, 0.32])
#: Within a stage each modulation is now stronger, now weaker (log amplitude).
_MOMENT_SD = 0.25
_MOMENT_MEMORY = 0.85  # from one epoch to the next

#: Ectopic beats a minute, and when they come: after this part of the interval.
_ECTOPIC, _PREMATURE = 0.03, 0.65

#: P, Q, R, S and T: time after the beat and width (standard deviation) in seconds, size
#: in microvolts, in lead II; and the sizes of an ectopic beat, which is also wider.
_DELAY = np.array([-0.16, -0.033, 0.0, 0.034, 0.27])
_WIDTH = np.array([0.022, 0.009, 0.011, 0.010, 0.045])
_SIZE = np.array([110.0, -90.0, 1050.0, -190.0, 270.0])
_ECTOPIC_SIZE = np.array([0.0, 0.0, 1300.0, -300.0, -350.0])
_ECTOPIC_WIDTH = 2.2

#: Breathing moves the baseline (microvolts) and changes the waves' size (a part of it); the
#: chest's muscles are as tense as the chin's, times this.
_BASELINE = 60.0
_BREATHING_GAIN = 0.08
_MUSCLE = 0.8

#: The grids of the waves and of rates and breathing, in hertz.
_DRAWN_AT, _STEPS = 100.0, 8.0

#: Seconds of the beats, which of them are ectopic, and breathing (about -1 to 1) on a clock.
Beats = namedtuple("Beats", "times ectopic breathing clock")


class Heart:
    """What differs between subjects; log-normal factors, except rates."""

    def __init__(self, rng):
        self.rate = np.clip(rng.normal(63.0, 8.0), 42.0, 90.0)  # beats a minute, REM
        self.breaths = np.clip(rng.normal(0.26, 0.03), 0.18, 0.34)  # hertz, REM
        self.trend = rng.normal(0.07, 0.04)  # how much the rate falls in a night
        # Breathing's modulation, those of low and of very low frequency.
        self.modulation = np.exp(rng.normal(0, (_RSA_SD, _SLOW_SD, _SLOW_SD)))
        self.arousal = np.exp(rng.normal(0, 0.3))
        self.ectopic = np.exp(rng.normal(0, 1.0))
        self.delay = _DELAY * np.exp(rng.normal(0, 0.06, 5))
        self.width = _WIDTH * np.exp(rng.normal(0, 0.06, 5))
        self.size = _SIZE * np.exp(rng.normal(0, 0.2, 5)) * np.exp(rng.normal(0, 0.2))
        self.modulation *= np.exp(rng.normal(0, _SHARED_SD))


def draw_beats(course, heart, moved, rng):
    """Draw a night's breathing and heart beats; ``moved``: seconds of body movements."""
    n_epochs = len(course.stage) // SECONDS
    clock = Clock(n_epochs, _STEPS)

    def by_stage(values):
        return clock.at_samples(gaussian_filter1d(values[course.stage], _TRANSITION))

    fresh = rng.normal(0, _MOMENT_SD * np.sqrt(1 - _MOMENT_MEMORY**2), (3, n_epochs))
    fresh[:, 0] = rng.normal(0, _MOMENT_SD, 3)
    moments = lfilter([1], [1, -_MOMENT_MEMORY], fresh)
    moments = gaussian_filter1d(np.repeat(moments, SECONDS, axis=1), 10.0)
    rsa, low, very_low = (
        factor * clock.at_samples(np.exp(moment))
        for factor, moment in zip(heart.modulation, moments, strict=True)
    )

    uneven_rate, uneven_depth = (_band(clock, rng, 0.01, 0.15, 0.0) for _ in range(2))
    breaths = heart.breaths * by_stage(_BREATHS)
    breaths = breaths * np.exp(by_stage(_UNEVEN_RATE) * uneven_rate)
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(breaths, dtype=float) / _STEPS
    uneven = by_stage(_UNEVEN_DEPTH)
    # Less the variance, so that uneven breaths have the power of even ones.
    breathing = np.sin(phase) * np.exp(uneven * uneven_depth - uneven**2)

    log_rate = np.log(heart.rate / 60 * by_stage(_RATE))
    log_rate -= heart.trend * (clock.times / clock.n_seconds - 0.5)
    log_rate += _RSA_SIZE * by_stage(_RSA) * rsa * breathing
    log_rate += by_stage(_LOW) * low * _band(clock, rng, 0.04, 0.15, 0.0)
    log_rate += by_stage(_VERY_LOW) * very_low * _band(clock, rng, 0.003, 0.04, -1.0)
    awake = course.stage == W
    aroused = np.flatnonzero(awake[1:] & ~awake[:-1]) + 1.0
    sizes = np.repeat([_AROUSAL, _MOVEMENT], [len(aroused), len(moved)])
    onsets = np.r_[aroused, moved]
    log_rate += heart.arousal * _accelerations(clock, onsets, sizes, rng)

    integral = rng.uniform() + np.cumsum(np.exp(log_rate)) / _STEPS
    beats = np.arange(np.ceil(integral[0]), integral[-1])
    times = np.interp(beats, integral, clock.times)
    usual = np.median(np.diff(times, append=clock.n_seconds))
    ectopic = rng.random(len(times)) < _ECTOPIC * heart.ectopic * usual / 60
    ectopic[[0, -1]] = False
    ectopic[1:] &= ~ectopic[:-1]
    # It comes early and the next beat comes when it would have come: a pause.
    early = np.flatnonzero(ectopic)
    times[early] = times[early - 1] + _PREMATURE * (times[early] - times[early - 1])
    return Beats(times, ectopic, breathing, clock)


def draw_ecg(course, heart, beats, clock, rng):
    """Draw the electrocardiogram (lead II) in microvolts, (n_times,), on a clock."""
    n_drawn = round(clock.n_seconds * _DRAWN_AT)
    drawn = np.zeros(n_drawn)
    times, ectopic = beats.times, beats.ectopic
    breathing = np.interp(times, beats.clock.times, beats.breathing)
    intervals = np.diff(times, prepend=times[0] - 60 / heart.rate)
    for wave in range(5):
        delay, width = heart.delay[wave], heart.width[wave]
        size = np.where(ectopic, _ECTOPIC_SIZE[wave], heart.size[wave])
        size *= 1 + _BREATHING_GAIN * breathing
        # After a long interval T comes later (Bazett: by the square root).
        centre = times + delay * (np.sqrt(intervals) if wave == 4 else 1.0)
        widths = width * np.where(ectopic, _ECTOPIC_WIDTH, 1.0)
        reach = int(np.ceil(4 * widths.max() * _DRAWN_AT))
        at = np.rint(centre * _DRAWN_AT).astype(int)[:, None] + np.arange(-reach, reach + 1)
        value = at / _DRAWN_AT - centre[:, None]
        value = size[:, None] * np.exp(-0.5 * (value / widths[:, None]) ** 2)
        inside = (at >= 0) & (at < n_drawn)
        drawn += np.bincount(at[inside], value[inside], minlength=n_drawn)
    ecg = _resample(drawn, clock)
    ecg += _BASELINE * np.interp(clock.times, beats.clock.times, beats.breathing)
    ecg += _MUSCLE * clock.at_samples(course.tone) * clock.muscle(rng)
    return ecg.astype(np.float32)


def _band(clock, rng, low, high, exponent):
    """Noise of unit power between two frequencies; its power falls as f**exponent."""
    grid = np.linspace(low, high, 200)
    power = np.trapezoid(grid**exponent, grid)
    return clock.noise(rng, lambda f: np.sqrt(f**exponent / power), low, high)


def _accelerations(clock, onsets, sizes, rng):
    """Log heart rate after arousals and movements: faster for seconds, then slower."""
    sizes = sizes * np.exp(rng.normal(0, 0.4, len(onsets)))
    impulses = np.zeros(clock.n_times)
    np.add.at(impulses, (onsets * _STEPS).astype(int), sizes)
    t = np.arange(0, 30, 1 / _STEPS)
    response = np.exp(-0.5 * ((t - 4) / 2) ** 2)
    response -= _SLOWING * np.exp(-0.5 * ((t - 13) / 4) ** 2)
    return fftconvolve(impulses, response)[: clock.n_times]


def _resample(drawn, clock):
    """Bring a signal to a clock's sampling rate, as a smooth anti-alias filter does."""
    spectrum = rfft(drawn)[: clock.n_times // 2 + 1]
    highest = min(HIGHEST, clock.sfreq / 2)
    frequencies = np.arange(len(spectrum)) / clock.n_seconds
    # The filter falls from one to zero over the last fifth of the band.
    fall = np.clip((frequencies / highest - 0.8) / 0.2, 0, 1)
    spectrum *= 0.5 + 0.5 * np.cos(np.pi * fall)
    return irfft(spectrum, clock.n_times) * (clock.n_times / len(drawn))
