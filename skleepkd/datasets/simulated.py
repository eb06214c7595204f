"""Simulated nights: scalp and ear signals of one sleeping body, with stages."""

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import Bunch, check_random_state

from skleepkd.datasets._hypnograms import draw_hypnogram, score_hypnogram
from skleepkd.datasets._physiology import Course, Person, draw_sources
from skleepkd.datasets._rendering import Clock, draw_onsets, draw_spells, place
from skleepkd.epochs import PairedEpochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED

SCALP = ("A1-A2", "C3-O1", "C4-O2")
EAR = ("L-R", "LE", "RE")
#: Every derivation that a night is simulated with.
DERIVATIONS = (*SCALP, *EAR, "C4-A1", "C3-A2", "E1-A2", "E2-A1", "chin")

#: White noise and drift of the wearable's derivations, and of all others, in microvolts.
#: Chosen so that the ear is clearly harder to stage than the scalp.
_NOISE = {"L-R": (2.8, 5.0), "LE": (2.0, 3.5), "RE": (2.0, 3.5)}
_POLYSOMNOGRAPH = (0.5, 0.5)
#: Chosen, as these: mean length in seconds of good and of bad contact of an ear's electrodes, and what
#: bad contact does to noise and to signal.
_GOOD_CONTACT, _BAD_CONTACT = 140 * EPOCH_SECONDS, 15 * EPOCH_SECONDS
_BAD_NOISE, _BAD_SIGNAL = 3.0, 0.35
#: Movements of the body a minute by stage, and their size in microvolts in the ear.
_MOTIONS = np.array([1.2, 0.3, 0.1, 0.1, 0.1])
_MOTION_SIZE = 80.0

_DESCR = """\
Simulated cohort
----------------
{n_subjects} simulated people with stages and {unscored} without, one night of
{n_epochs} epochs of 30 s each at {sfreq:g} Hz, in microvolts. Source: the scalp
derivations {scalp}; target: the ear derivations {ear}.
Both record one simulated physiology, the ear attenuated and with noise (times
{noise:g}).

Nobody slept for this: stage sequences follow figures measured on the Sleep-EDF
annotations, everything else is a model. No score on it says how a method does on
people.
"""


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
    """Simulate one night of one person, as continuous signals.

    The same ``random_state`` and ``subject`` give the same person and the same night
    at every sampling rate, up to 45 Hz; above that nothing is simulated.

    Parameters
    ----------
    n_epochs : int, default=300
        Length of the night in epochs of 30 s. Whatever it is, the night has the course
        of a whole one: deep sleep early, REM sleep late.
    sfreq : float, default=64.0
        Sampling rate in hertz; an epoch must be a whole number of samples.
    subject : int, default=0
        Number of the person in the cohort of this ``random_state``.
    scored : bool, default=True
        Whether the person is one of the cohort's scored people or of its unscored ones.
    noise : float, default=1.0
        Factor of all that the wearable adds: electrode noise, drift, motion and the
        noise of bad contact.
    derivations : sequence of str, default=DERIVATIONS
        Which of these are wanted: A1-A2, C3-O1, C4-O2, C4-A1, C3-A2 (scalp), L-R, LE,
        RE (between the ears and within each), E1-A2, E2-A1 (eyes), chin (muscle).
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    night : Bunch
        ``signals`` (float32, shape (n_derivations, n_times), microvolts), ``ch_names``,
        ``sfreq``, ``y`` (int64 AASM codes of shape (n_epochs,), as a scorer who errs in
        a few epochs of a hundred gives them; -1 if not ``scored``) and ``stages`` (the
        codes that were simulated).

    Raises
    ------
    ValueError
        If a number is out of range or a derivation is unknown.
    """
    _check_size(n_epochs, sfreq, noise)
    unknown = [name for name in derivations if name not in DERIVATIONS]
    if unknown:
        raise ValueError(
            f"Unknown derivations {unknown}; a night is simulated with {DERIVATIONS}."
        )
    root = np.random.SeedSequence(
        _entropy(random_state), spawn_key=(0 if scored else 1, subject)
    )
    person_seed, stage_seed, course_seed, source_seed, device_seed = root.spawn(5)
    person = Person(np.random.default_rng(person_seed))
    stage_rng = np.random.default_rng(stage_seed)
    stages = draw_hypnogram(n_epochs, stage_rng)
    scores = score_hypnogram(stages, stage_rng)
    course = Course(stages, person, np.random.default_rng(course_seed))
    clock = Clock(n_epochs, sfreq)
    leads = [person.lead(name) for name in derivations]
    signals = np.array(leads, np.float32) @ draw_sources(course, person, clock, source_seed)
    _add_devices(signals, derivations, course, clock, noise, device_seed)
    return Bunch(
        signals=signals,
        ch_names=list(derivations),
        sfreq=float(sfreq),
        y=scores if scored else np.full(n_epochs, UNSCORED, dtype=np.int64),
        stages=stages,
    )


def make_cohort(
    n_subjects=8,
    *,
    n_epochs=300,
    sfreq=64.0,
    unscored=0,
    noise=1.0,
    random_state=None,
    n_jobs=None,
):
    """Simulate simultaneous scalp and ear nights of a number of people.

    Parameters
    ----------
    n_subjects : int, default=8
        Number of people, one scored night each. A person's night does not depend on
        how many others there are.
    n_epochs : int, default=300
        Epochs of 30 s in each night. Whatever it is, a night has the course of a whole
        one: deep sleep early, REM sleep late.
    sfreq : float, default=64.0
        Sampling rate in hertz; an epoch must be a whole number of samples.
    unscored : int, default=0
        Number of further people, whose nights are recorded by both sides and have no
        stages: their labels are -1.
    noise : float, default=1.0
        Factor of all that the wearable adds: electrode noise, drift, motion and the
        noise of bad contact.
    random_state : int, RandomState instance or None, default=None
        Equal integers give bit-identical cohorts.
    n_jobs : int or None, default=None
        Nights that are simulated at the same time (joblib).

    Returns
    -------
    cohort : Bunch
        ``X``, a `PairedEpochs` of float32 microvolts (target: the ear derivations
        L-R, LE and RE; source: the scalp derivations A1-A2, C3-O1 and C4-O2; each of
        shape (n_epochs, 3, 30 * sfreq)), ``y`` (int64 AASM codes, 0 W, 1 N1, 2 N2,
        3 N3, 4 REM, -1 unscored), ``groups`` (the person of each epoch) and ``DESCR``.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from skleepkd.datasets import make_cohort
    >>> cohort = make_cohort(n_subjects=2, n_epochs=40, random_state=0)
    >>> cohort.X["source"].shape, cohort.X["target"].shape
    ((80, 3, 1920), (80, 3, 1920))
    """
    _check_size(n_epochs, sfreq, noise)
    if n_subjects < 0 or unscored < 0 or n_subjects + unscored < 1:
        raise ValueError(
            f"A cohort needs at least one person; given n_subjects={n_subjects} and "
            f"unscored={unscored}."
        )
    entropy = _entropy(random_state)
    people = [(True, k) for k in range(n_subjects)] + [(False, k) for k in range(unscored)]
    # Threads: most of the time goes by in numpy and scipy, and nights are large.
    nights = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
        delayed(simulate_night)(
            n_epochs,
            sfreq=sfreq,
            subject=k,
            scored=scored,
            noise=noise,
            derivations=SCALP + EAR,
            random_state=entropy,
        )
        for scored, k in people
    )
    n_times = round(EPOCH_SECONDS * sfreq)
    shape = (len(people) * n_epochs, 3, n_times)
    source, target = np.empty(shape, np.float32), np.empty(shape, np.float32)
    y = np.empty(shape[0], dtype=np.int64)
    for k, night in enumerate(nights):
        rows = slice(k * n_epochs, (k + 1) * n_epochs)
        # (6, n_epochs * n_times) -> (n_epochs, 6, n_times)
        epochs = night.signals.reshape(6, n_epochs, n_times).transpose(1, 0, 2)
        source[rows], target[rows] = epochs[:, :3], epochs[:, 3:]
        y[rows] = night.y
    # The seed is part of the names: subject 0 of two cohorts is two people.
    names = [f"simulated-{entropy}-{'s' if scored else 'u'}{k:03d}" for scored, k in people]
    groups = np.repeat(names, n_epochs)
    X = PairedEpochs(
        target,
        source,
        subject=groups,
        recording=np.repeat([f"{name}-night1" for name in names], n_epochs),
        onset=np.tile(EPOCH_SECONDS * np.arange(n_epochs), len(people)),
        sfreq=float(sfreq),
        ch_names={"source": list(SCALP), "target": list(EAR)},
    )
    description = _DESCR.format(
        n_subjects=n_subjects,
        unscored=unscored,
        n_epochs=n_epochs,
        sfreq=sfreq,
        scalp=", ".join(SCALP),
        ear=", ".join(EAR),
        noise=noise,
    )
    return Bunch(X=X, y=y, groups=groups, DESCR=description)


def _entropy(random_state):
    """Turn scikit-learn's random_state into what seeds a SeedSequence."""
    if isinstance(random_state, int | np.integer) and random_state >= 0:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check_size(n_epochs, sfreq, noise):
    if n_epochs < 1:
        raise ValueError(f"n_epochs must be at least 1; given {n_epochs}.")
    n_times = EPOCH_SECONDS * sfreq
    if sfreq <= 0 or abs(n_times - round(n_times)) > 1e-6:
        raise ValueError(
            f"sfreq must give a whole number of samples in 30 s; given {sfreq} Hz, "
            f"which gives {n_times:g}."
        )
    if not noise >= 0:
        raise ValueError(f"noise must not be negative; given {noise}.")


def _add_devices(signals, derivations, course, clock, noise, seeds):
    """Add what electrodes and amplifiers add, in place."""
    contact_seed, motion_seed, *noise_seeds = seeds.spawn(2 + len(DERIVATIONS))
    contact_rng, motion_rng = map(np.random.default_rng, (contact_seed, motion_seed))
    bad_left, bad_right = (
        ~draw_spells(contact_rng, clock.n_seconds, _GOOD_CONTACT, _BAD_CONTACT)
        for _ in range(2)
    )
    bad = {"LE": bad_left, "RE": bad_right, "L-R": bad_left | bad_right}
    noise_seeds = dict(zip(DERIVATIONS, noise_seeds, strict=True))
    for signal, name in zip(signals, derivations, strict=True):
        white, drift = _NOISE.get(name, _POLYSOMNOGRAPH)
        spoilt = bad.get(name, np.zeros(clock.n_seconds, bool))
        rng = np.random.default_rng(noise_seeds[name])
        added = clock.noise(rng, lambda f: _device_density(f, white, drift))[0]  # noqa: B023
        signal *= clock.at_samples(np.where(spoilt, _BAD_SIGNAL, 1.0))
        factor = noise if name in EAR else 1.0
        signal += factor * clock.at_samples(np.where(spoilt, _BAD_NOISE, 1.0)) * added
    worn = [(row, EAR.index(name)) for row, name in enumerate(derivations) if name in EAR]
    rows, electrodes = np.array(worn, dtype=int).reshape(-1, 2).T
    for onset in draw_onsets(motion_rng, _MOTIONS[course.stage]):
        size = noise * _MOTION_SIZE * motion_rng.standard_normal(len(EAR))
        size_by_row = np.zeros(len(derivations))
        size_by_row[rows] = size[electrodes]
        sway = motion_rng.uniform(1, 4)

        def wave(t, sway=sway):
            return np.sin(np.pi * t) * np.sin(2 * np.pi * sway * t)

        place(signals, size_by_row, wave, onset, motion_rng.uniform(1, 5), clock.sfreq)


def _device_density(frequencies, white, drift):
    """White noise up to 32 Hz of this rms, and drift that falls with frequency."""
    slow = drift * 0.3 / frequencies / (1 + (0.1 / frequencies) ** 4)
    return (white / np.sqrt(32.0) + slow)[None]
