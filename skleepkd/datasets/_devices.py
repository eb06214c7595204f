"""What electrodes and amplifiers add to a simulated night. Every number is chosen."""

from collections import namedtuple

import numpy as np

from skleepkd.datasets._rendering import draw_onsets, draw_spells, place
from skleepkd.stages import EPOCH_SECONDS

EAR = ("L-R", "LE", "RE")
#: What a wearable records; all else is the polysomnograph's.
WEARABLE = (*EAR, "ECG")

#: White noise and drift of the wearable's derivations, and of all others, in microvolts.
#: Chosen so that the ear is clearly harder to stage than the scalp.
_NOISE = {"L-R": (2.8, 5.0), "LE": (2.0, 3.5), "RE": (2.0, 3.5), "ECG": (10.0, 40.0)}
_POLYSOMNOGRAPH = (0.5, 0.5)
#: Mean length in seconds of good and of bad contact of an electrode that is worn, and
#: what bad contact does to noise and to signal (in the ears, and on the chest).
_GOOD_CONTACT, _BAD_CONTACT = 140 * EPOCH_SECONDS, 15 * EPOCH_SECONDS
_BAD_NOISE, _BAD_SIGNAL, _BAD_ECG = 3.0, 0.35, 0.8
#: Movements of the body a minute by stage, and their size in microvolts by wearable.
_MOTIONS = np.array([1.2, 0.3, 0.1, 0.1, 0.1])
_MOTION_SIZE = np.array([80.0, 80.0, 80.0, 400.0])

#: Movements: their onsets and durations in seconds, how often they sway, and how much of
#: them each wearable records (shape (n_motions, 4)).
Motions = namedtuple("Motions", "onsets durations sways sizes")


def draw_motions(stage, rng):
    """Draw a night's movements.

    Parameters
    ----------
    stage : ndarray of int, shape (n_seconds,)
    rng : numpy.random.Generator

    Returns
    -------
    Motions
    """
    onsets = draw_onsets(rng, _MOTIONS[stage])
    durations, sways = np.empty((2, len(onsets)))
    sizes = np.empty((len(onsets), len(WEARABLE)))
    for motion in range(len(onsets)):
        sizes[motion, : len(EAR)] = rng.standard_normal(len(EAR))
        sways[motion], durations[motion] = rng.uniform(1, 4), rng.uniform(1, 5)
    # Drawn after all of the ears', which so stay what they were before there was an ECG.
    sizes[:, len(EAR) :] = rng.standard_normal((len(onsets), len(WEARABLE) - len(EAR)))
    return Motions(onsets, durations, sways, sizes)


def add_devices(signals, derivations, clock, noise, motions, contact_rng, noise_seeds):
    """Add noise, bad contact and movements, in place.

    Parameters
    ----------
    signals : ndarray of float32, shape (n_derivations, n_times)
        What the body gives, in microvolts.
    derivations : sequence of str
    clock : Clock
    noise : float
        Factor of what a wearable adds.
    motions : Motions
    contact_rng : numpy.random.Generator
    noise_seeds : dict
        A seed for each derivation.
    """
    bad_left, bad_right, bad_chest = (
        ~draw_spells(contact_rng, clock.n_seconds, _GOOD_CONTACT, _BAD_CONTACT)
        for _ in range(3)
    )
    bad = {"LE": bad_left, "RE": bad_right, "L-R": bad_left | bad_right, "ECG": bad_chest}
    for signal, name in zip(signals, derivations, strict=True):
        white, drift = _NOISE.get(name, _POLYSOMNOGRAPH)
        spoilt = bad.get(name, np.zeros(clock.n_seconds, bool))
        rng = np.random.default_rng(noise_seeds[name])
        added = clock.noise(rng, lambda f: _density(f, white, drift))[0]  # noqa: B023
        left = _BAD_ECG if name == "ECG" else _BAD_SIGNAL
        signal *= clock.at_samples(np.where(spoilt, left, 1.0))
        factor = noise if name in WEARABLE else 1.0
        signal += factor * clock.at_samples(np.where(spoilt, _BAD_NOISE, 1.0)) * added

    rows = [row for row, name in enumerate(derivations) if name in WEARABLE]
    columns = [WEARABLE.index(derivations[row]) for row in rows]
    for onset, duration, sway, sizes in zip(*motions, strict=True):
        size_by_row = np.zeros(len(derivations))
        size_by_row[rows] = (noise * _MOTION_SIZE * sizes)[columns]

        def wave(t, sway=sway):
            return np.sin(np.pi * t) * np.sin(2 * np.pi * sway * t)

        place(signals, size_by_row, wave, onset, duration, clock.sfreq)


def _density(frequencies, white, drift):
    """White noise up to 32 Hz of this rms, and drift that falls with frequency."""
    slow = drift * 0.3 / frequencies / (1 + (0.1 / frequencies) ** 4)
    return (white / np.sqrt(32.0) + slow)[None]
