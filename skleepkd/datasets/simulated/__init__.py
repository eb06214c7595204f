"""Simulated nights: what a polysomnograph and wearables record of one sleeping body."""

from collections import namedtuple
from copy import deepcopy

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import Bunch, check_random_state

from skleepkd.datasets.simulated.body import (
    SECONDS,
    Body,
    Clock,
    Course,
    draw_hypnogram,
    draw_onsets,
    draw_sources,
    draw_spells,
    place,
    score_hypnogram,
)
from skleepkd.datasets.simulated.heart import Heart, draw_beats, draw_ecg
from skleepkd.epochs import PairedEpochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, to_scheme

__all__ = ["make_cohort", "simulate_night", "wear_electrode"]

SCALP = ("A1-A2", "C3-O1", "C4-O2")
EAR = ("L-R", "LE", "RE")
#: What a wearable records; all else is the polysomnograph's.
WEARABLE = (*EAR, "ECG")
#: Every derivation that a night is simulated with. A new one belongs at the end, so that
#: the others keep their noise.
DERIVATIONS = (
    *(*SCALP, *EAR, "C4-A1", "C3-A2", "E1-A2", "E2-A1", "chin"),
    *("ECG", "EOG", "Fpz-Cz", "Pz-Oz"),
)

#: White noise and drift of the wearable's derivations, and of all others, in microvolts,
#: chosen so that the ear is clearly harder to stage than the scalp.
_NOISE = {"L-R": (2.8, 5.0), "LE": (2.0, 3.5), "RE": (2.0, 3.5), "ECG": (10.0, 40.0)}
_POLYSOMNOGRAPH = (0.5, 0.5)
#: Mean length in seconds of a worn electrode's good and bad contact, and what bad contact
#: does to noise and to signal (in the ears, and on the chest); chosen.
_GOOD_CONTACT, _BAD_CONTACT = 140 * SECONDS, 15 * SECONDS
_BAD_NOISE, _BAD_SIGNAL, _BAD_ECG = 3.0, 0.35, 0.8
#: Movements of the body a minute by stage; their size in microvolts by wearable; chosen.
_MOTIONS = np.array([1.2, 0.3, 0.1, 0.1, 0.1])
_MOTION_SIZE = np.array([80.0, 80.0, 80.0, 400.0])

#: Onsets and durations in seconds, sways, and what each wearable records (n_motions, 4).
Motions = namedtuple("Motions", "onsets durations sways sizes")


def simulate_night(
    n_epochs=300,
    *,
    sfreq=64.0,
    subject=0,
    scored=True,
    noise=1.0,
    derivations=DERIVATIONS,
    random_state=None,
):
    """Simulate one night of one subject, as continuous signals.

    The same ``random_state`` and ``subject`` give the same subject and the same night
    at every sampling rate, up to 45 Hz; above that nothing is simulated.

    Parameters
    ----------
    n_epochs : int, default=300
        Length of the night in epochs of 30 s; it has the course of a whole night.
    sfreq : float, default=64.0
        Sampling rate in hertz; an epoch must be a whole number of samples.
    subject : int, default=0
        Number of the subject in the cohort of this ``random_state``.
    scored : bool, default=True
        Whether it is one of the cohort's scored subjects or of its unscored ones.
    noise : float, default=1.0
        Factor of all that the wearable (ears and ECG) adds: electrode noise, drift,
        motion and the noise of bad contact.
    derivations : sequence of str, default=DERIVATIONS
        Of A1-A2, C3-O1, C4-O2, C4-A1, C3-A2, Fpz-Cz, Pz-Oz (scalp), L-R, LE, RE (between
        the ears and within each), E1-A2, E2-A1, EOG (eyes; EOG is horizontal, E1-E2), chin
        (muscle), ECG (lead II; below about 90 Hz the sampling rate flattens its R waves, at
        32 Hz to 0.6 of their size).
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    night : Bunch
        ``signals`` (float32, shape (n_derivations, n_times), microvolts), ``ch_names``,
        ``sfreq``, ``y`` (int64 AASM codes of shape (n_epochs,), as a scorer who errs in
        a few epochs of a hundred gives them; -1 if not ``scored``), ``stages`` (the
        codes that were simulated) and ``beats`` (float64, the R waves in seconds).

    Raises
    ------
    ValueError
        If 30 s are no whole number of samples or a derivation is unknown.
    """
    _check(sfreq, derivations)
    root = np.random.SeedSequence(
        _entropy(random_state), spawn_key=(0 if scored else 1, subject)
    )
    # A new generator belongs at the end, so that the others stay what they are.
    rngs = np.random.default_rng(root).spawn(6)
    body_rng, stage_rng, course_rng, source_rng, device_rng, heart_rng = rngs
    contact_rng, motion_rng, *noise_rngs = device_rng.spawn(2 + len(DERIVATIONS))
    heart_rng, beat_rng, ecg_rng = heart_rng.spawn(3)

    clock = Clock(n_epochs, sfreq)
    body, heart = Body(body_rng), Heart(heart_rng)
    stages = draw_hypnogram(n_epochs, stage_rng)
    scores = score_hypnogram(stages, stage_rng)
    course = Course(stages, body, course_rng)
    motions = draw_motions(course.stage, motion_rng)
    beats = draw_beats(course, heart, motions.onsets, beat_rng)

    leads = np.array([body.lead(name) for name in derivations], np.float32)
    if leads.any():
        signals = leads @ draw_sources(course, body, clock, source_rng)
    else:  # the heart is none of the sources
        signals = np.zeros((len(leads), clock.n_times), np.float32)
    if "ECG" in derivations:
        ecg = draw_ecg(course, heart, beats, clock, ecg_rng)
        signals[[name == "ECG" for name in derivations]] += ecg
    bad_contact = _draw_contacts(clock.n_seconds, contact_rng)
    for signal, name in zip(signals, derivations, strict=True):
        # A copy: what is recorded on both sides has the same noise.
        rng = deepcopy(noise_rngs[DERIVATIONS.index(name)])
        factor = noise if name in WEARABLE else 1.0
        _add_noise(signal, name, clock, factor, bad_contact[name], rng)
    _add_motions(signals, derivations, clock, noise, motions)
    return Bunch(
        signals=signals,
        ch_names=list(derivations),
        sfreq=float(sfreq),
        y=scores if scored else np.full(n_epochs, UNSCORED, dtype=np.int64),
        stages=stages,
        beats=beats.times,
    )


def make_cohort(
    n_subjects=8,
    *,
    source=SCALP,
    target=EAR,
    classes="aasm",
    n_epochs=300,
    sfreq=64.0,
    unscored=0,
    noise=1.0,
    random_state=None,
    n_jobs=None,
):
    """Simulate nights of subjects who are recorded by polysomnography and a wearable.

    Equal seeds give the same subjects in the same nights whatever is recorded of them:
    scalp, eyes, ears and heart are one body. Subjects of another ``random_state`` are
    others.

    Parameters
    ----------
    n_subjects : int, default=8
        Number of subjects, one scored night each, whatever the number of others.
    source : sequence of str or None, default=("A1-A2", "C3-O1", "C4-O2")
        Derivations of the teacher's signal, as of `simulate_night`, or None.
    target : sequence of str, default=("L-R", "LE", "RE")
        Derivations of the wearable's signal, such as ``["ECG"]`` or ``["EOG"]``.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        Scheme of ``y``: five, four or three stages (`skleepkd.stages`).
    n_epochs, sfreq, noise
        As of `simulate_night`.
    unscored : int, default=0
        Number of further subjects, recorded by both sides without stages: their labels
        are -1.
    random_state : int, RandomState instance or None, default=None
        Equal integers give bit-identical cohorts.
    n_jobs : int or None, default=None
        Nights that are simulated at the same time (joblib).

    Returns
    -------
    cohort : Bunch
        ``X``, a `PairedEpochs` of float32 microvolts (target and, unless it is None,
        source, of shape (n_epochs, n_derivations, 30 * sfreq)), ``y`` (int64 codes of the
        scheme's stages in their order, 0 W, 1 N1, 2 N2, 3 N3, 4 REM in "aasm"; -1
        unscored), ``groups`` (the subject of each epoch) and ``DESCR``.

    Raises
    ------
    ValueError
        If 30 s are no whole number of samples, or a derivation or the scheme is unknown.

    Examples
    --------
    >>> from skleepkd.datasets import make_cohort
    >>> cohort = make_cohort(n_subjects=2, n_epochs=40, random_state=0)
    >>> cohort.X["source"].shape, cohort.X["target"].shape
    ((80, 3, 1920), (80, 3, 1920))
    """
    montage = {"target": target} if source is None else {"source": source, "target": target}
    stages = scheme_names(classes)
    derivations = [name for names in montage.values() for name in names]
    _check(sfreq, derivations)
    entropy = _entropy(random_state)
    subjects = [(True, k) for k in range(n_subjects)]
    subjects += [(False, k) for k in range(unscored)]
    # Threads: most of the time goes by in numpy and scipy, and nights are large.
    nights = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(simulate_night)(
            n_epochs,
            sfreq=sfreq,
            subject=k,
            scored=scored,
            noise=noise,
            derivations=derivations,
            random_state=entropy,
        )
        for scored, k in subjects
    )
    n_times = round(EPOCH_SECONDS * sfreq)
    signals = {
        modality: np.empty((len(subjects) * n_epochs, len(names), n_times), np.float32)
        for modality, names in montage.items()
    }
    y = np.empty(len(subjects) * n_epochs, dtype=np.int64)
    for k, night in enumerate(nights):
        rows = slice(k * n_epochs, (k + 1) * n_epochs)
        # (n_derivations, n_epochs * n_times) -> (n_epochs, n_derivations, n_times)
        epochs = night.signals.reshape(-1, n_epochs, n_times).swapaxes(0, 1)
        if source is not None:
            signals["source"][rows] = epochs[:, : len(source)]
        signals["target"][rows] = epochs[:, -len(target) :]
        y[rows] = to_scheme(night.y, classes)
    # The seed is part of the names: subject 0 of two cohorts is two subjects.
    names = [
        f"simulated-{entropy}-{'s' if scored else 'u'}{k:03d}" for scored, k in subjects
    ]
    groups = np.repeat(names, n_epochs)
    X = PairedEpochs(
        **signals,
        subject=groups,
        recording=np.repeat([f"{name}-night1" for name in names], n_epochs),
        onset=np.tile(EPOCH_SECONDS * np.arange(n_epochs), len(subjects)),
        sfreq=float(sfreq),
        ch_names=montage,
    )
    description = f"""Simulated cohort: {n_subjects} subjects with stages and {unscored} without,
one night of {n_epochs} epochs of 30 s each at {sfreq:g} Hz, in microvolts.
Source (the teacher's signal): {"none" if source is None else ", ".join(source)}.
Target (the wearable's signal): {", ".join(target)}.
Stages: {", ".join(stages)}.

All derivations record one simulated body: scalp, ears (L-R, LE, RE: attenuated), eyes
(EOG) and heart (ECG). The ears and the ECG are wearables, with noise (times {noise:g}).

Nobody slept for this: stage sequences follow figures measured on the Sleep-EDF
annotations, everything else is a model. No score on it says how a method does on people.
"""
    return Bunch(X=X, y=y, groups=groups, DESCR=description)


def wear_electrode(signal, stages, sfreq, *, gain=0.4, noise=1.0, random_state=None):
    """Record a real EEG as the simulated electrodes between the ears would.

    Real brain, simulated electrode: the signal is made smaller, and gets the noise, drift,
    spells of bad contact and movements of the simulated L-R (:func:`simulate_night`).

    Parameters
    ----------
    signal : array of shape (n_epochs, 30 * sfreq)
        The epochs of one night in microvolts, in their order. They are taken to follow one
        another: what a night lacks is a gap in the noise too.
    stages : array-like of int, shape (n_epochs,)
        AASM codes, by which the body moves; where unscored (-1) it does as in REM.
    sfreq : float
        Sampling rate in hertz, at least about 20.
    gain : float, default=0.4
        What the electrodes see of the signal; chosen.
    noise : float, default=1.0
        Factor of all that is added.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    ndarray of shape (n_epochs, 30 * sfreq), float32, microvolts

    Raises
    ------
    ValueError
        If epochs do not last 30 s or there is not one stage for each.
    """
    signal, stages = np.asarray(signal), np.asarray(stages)
    clock = Clock(len(signal), sfreq)
    if signal.shape != (len(stages), round(EPOCH_SECONDS * sfreq)):
        raise ValueError(
            f"One night of {len(stages)} stages at {sfreq:g} Hz has the shape ({len(stages)}, "
            f"{round(EPOCH_SECONDS * sfreq)}), (n_epochs, 30 * sfreq); given {signal.shape}."
        )
    rngs = np.random.default_rng(_entropy(random_state)).spawn(3)
    contact_rng, motion_rng, noise_rng = rngs
    worn = gain * signal.astype(np.float32).reshape(1, -1)
    bad = _draw_contacts(clock.n_seconds, contact_rng)["L-R"]
    _add_noise(worn[0], "L-R", clock, noise, bad, noise_rng)
    motions = draw_motions(np.repeat(stages, round(EPOCH_SECONDS)), motion_rng)
    _add_motions(worn, ["L-R"], clock, noise, motions)
    return worn.reshape(signal.shape)


def draw_motions(stage, rng):
    """Draw a night's movements, given the stage of each second."""
    onsets = draw_onsets(rng, _MOTIONS[stage])
    durations, sways = np.empty((2, len(onsets)))
    sizes = np.empty((len(onsets), len(WEARABLE)))
    for motion in range(len(onsets)):
        sizes[motion, : len(EAR)] = rng.standard_normal(len(EAR))
        sways[motion], durations[motion] = rng.uniform(1, 4), rng.uniform(1, 5)
    # Drawn after the ears', so that these do not depend on there being an ECG.
    sizes[:, len(EAR) :] = rng.standard_normal((len(onsets), len(WEARABLE) - len(EAR)))
    return Motions(onsets, durations, sways, sizes)


def _draw_contacts(n_seconds, rng):
    """Seconds in which each derivation's contact is bad."""
    spells = (draw_spells(rng, n_seconds, _GOOD_CONTACT, _BAD_CONTACT) for _ in range(3))
    left, right, chest = (~good for good in spells)
    bad = dict.fromkeys(DERIVATIONS, np.zeros(n_seconds, bool))
    return bad | {"LE": left, "RE": right, "L-R": left | right, "ECG": chest}


def _add_noise(signal, name, clock, factor, bad, rng):
    """Add an amplifier's noise in place, and what bad contact does."""
    white, drift = _NOISE.get(name, _POLYSOMNOGRAPH)

    def density(frequencies):
        # White noise up to 32 Hz of this rms, and drift that falls with frequency.
        slow = drift * 0.3 / frequencies / (1 + (0.1 / frequencies) ** 4)
        return white / np.sqrt(32.0) + slow

    gain = factor
    if bad.any():
        left = _BAD_ECG if name == "ECG" else _BAD_SIGNAL
        signal *= clock.at_samples(np.where(bad, left, 1.0))
        gain = factor * clock.at_samples(np.where(bad, _BAD_NOISE, 1.0))
    signal += gain * clock.noise(rng, density)


def _add_motions(signals, derivations, clock, noise, motions):
    """Add movements to the wearables' signals in place."""
    worn = np.array([[name == other for other in WEARABLE] for name in derivations])
    for onset, duration, sway, sizes in zip(*motions, strict=True):
        weights = worn @ (noise * _MOTION_SIZE * sizes)  # (n_derivations,)

        def wave(t, sway=sway):
            return np.sin(np.pi * t) * np.sin(2 * np.pi * sway * t)

        place(signals, weights, wave, onset, duration, clock.sfreq)


def _entropy(random_state):
    """Turn scikit-learn's random_state into the seed of a SeedSequence."""
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check(sfreq, derivations):
    if abs(EPOCH_SECONDS * sfreq - round(EPOCH_SECONDS * sfreq)) > 1e-6:
        raise ValueError(f"30 s at sfreq={sfreq} Hz are not a whole number of samples.")
    unknown = [name for name in derivations if name not in DERIVATIONS]
    if unknown:
        raise ValueError(
            f"{unknown} cannot be simulated; there are {', '.join(DERIVATIONS)}."
        )
