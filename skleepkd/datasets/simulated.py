"""Simulated nights: the signals of one sleeping body, with stages."""

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import Bunch, check_random_state

from skleepkd.datasets._devices import EAR, add_devices, draw_motions
from skleepkd.datasets._heart import Heart, draw_beats, draw_ecg
from skleepkd.datasets._hypnograms import draw_hypnogram, score_hypnogram
from skleepkd.datasets._physiology import Course, Person, draw_sources
from skleepkd.datasets._rendering import Clock
from skleepkd.epochs import PairedEpochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, to_scheme

SCALP = ("A1-A2", "C3-O1", "C4-O2")
#: Every derivation that a night is simulated with. A new one belongs at the end, so that
#: the others keep their noise.
DERIVATIONS = (
    *(*SCALP, *EAR, "C4-A1", "C3-A2", "E1-A2", "E2-A1", "chin"),
    *("ECG", "EOG", "Fpz-Cz", "Pz-Oz"),
)

_DESCR = """\
Simulated cohort
----------------
{n_subjects} simulated people with stages and {unscored} without, one night of
{n_epochs} epochs of 30 s each at {sfreq:g} Hz, in microvolts.
Source (the teacher's signal): {source}.
Target (the wearable's signal): {target}.
All derivations record one simulated physiology: scalp, ears (L-R, LE, RE: attenuated),
eyes (EOG) and heart (ECG). The ears and the ECG are wearables, with noise (times
{noise:g}). Stages: {stages}.

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
        Factor of all that the wearable (ears and ECG) adds: electrode noise, drift,
        motion and the noise of bad contact.
    derivations : sequence of str, default=DERIVATIONS
        Which of these are wanted: A1-A2, C3-O1, C4-O2, C4-A1, C3-A2, Fpz-Cz, Pz-Oz
        (scalp), L-R, LE, RE (between the ears and within each), E1-A2, E2-A1, EOG (eyes;
        EOG is horizontal, E1-E2), chin (muscle), ECG (lead II; below about 90 Hz the
        sampling rate flattens its R waves, at 32 Hz to 0.6 of their size).
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
        If a number is out of range or a derivation is unknown.
    """
    _check_size(n_epochs, sfreq, noise)
    _check_derivations(derivations, "derivations")
    root = np.random.SeedSequence(
        _entropy(random_state), spawn_key=(0 if scored else 1, subject)
    )
    # A new seed belongs at the end, so that the others stay what they are.
    seeds = root.spawn(6)
    person_seed, stage_seed, course_seed, source_seed, device_seed, heart_seed = seeds
    person = Person(np.random.default_rng(person_seed))
    stage_rng = np.random.default_rng(stage_seed)
    stages = draw_hypnogram(n_epochs, stage_rng)
    scores = score_hypnogram(stages, stage_rng)
    course = Course(stages, person, np.random.default_rng(course_seed))
    clock = Clock(n_epochs, sfreq)
    contact_seed, motion_seed, *noise_seeds = device_seed.spawn(2 + len(DERIVATIONS))
    motions = draw_motions(course.stage, np.random.default_rng(motion_seed))
    heart_rng, beat_rng, ecg_rng = map(np.random.default_rng, heart_seed.spawn(3))
    heart = Heart(heart_rng)
    beats = draw_beats(course, heart, motions.onsets, beat_rng)
    leads = [person.lead(name) for name in derivations]
    signals = np.array(leads, np.float32) @ draw_sources(course, person, clock, source_seed)
    if "ECG" in derivations:
        ecg = draw_ecg(course, heart, beats, clock, ecg_rng)
        signals[[name == "ECG" for name in derivations]] += ecg
    contact_rng = np.random.default_rng(contact_seed)
    noise_seeds = dict(zip(DERIVATIONS, noise_seeds, strict=True))
    add_devices(signals, derivations, clock, noise, motions, contact_rng, noise_seeds)
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
    """Simulate nights of a number of people, recorded by polysomnography and a wearable.

    Equal seeds give the same people in the same nights whatever is recorded of them:
    scalp, eyes, ears and heart are one body. People of another ``random_state`` are
    others; so a second cohort, with another montage and perhaps without a source, serves
    transfer between montages.

    Parameters
    ----------
    n_subjects : int, default=8
        Number of people, one scored night each. A person's night does not depend on
        how many others there are.
    source : sequence of str or None, default=("A1-A2", "C3-O1", "C4-O2")
        Derivations of the teacher's signal, of those that `simulate_night` lists; None
        for a target alone.
    target : sequence of str, default=("L-R", "LE", "RE")
        Derivations of the wearable's signal, such as ``["ECG"]`` or ``["EOG"]``.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        Scheme of ``y``: five, four or three stages (`skleepkd.stages`).
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
        ``X``, a `PairedEpochs` of float32 microvolts (target and, unless it is None,
        source, of shape (n_epochs, n_derivations, 30 * sfreq)), ``y`` (int64 codes of the
        scheme's stages in their order, 0 W, 1 N1, 2 N2, 3 N3, 4 REM in "aasm"; -1
        unscored), ``groups`` (the person of each epoch) and ``DESCR``.

    Raises
    ------
    ValueError
        If a number is out of range, or a derivation or the scheme is unknown.

    Examples
    --------
    >>> from skleepkd.datasets import make_cohort
    >>> cohort = make_cohort(n_subjects=2, n_epochs=40, random_state=0)
    >>> cohort.X["source"].shape, cohort.X["target"].shape
    ((80, 3, 1920), (80, 3, 1920))

    The same people's ECG beside one EEG derivation, with four stages:

    >>> cohort = make_cohort(
    ...     2, source=["C4-A1"], target=["ECG"], classes="wldr", n_epochs=40, random_state=0
    ... )
    >>> cohort.X
    <PairedEpochs: 80 epochs of 2 subjects, target (1, 1920), source (1, 1920)>
    """
    _check_size(n_epochs, sfreq, noise)
    if n_subjects < 0 or unscored < 0 or n_subjects + unscored < 1:
        raise ValueError(
            f"A cohort needs at least one person; given n_subjects={n_subjects} and "
            f"unscored={unscored}."
        )
    montage = {"target": target} if source is None else {"source": source, "target": target}
    for modality, names in montage.items():
        _check_derivations(names, modality)
    stages = scheme_names(classes)
    derivations = [name for names in montage.values() for name in names]
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
            derivations=derivations,
            random_state=entropy,
        )
        for scored, k in people
    )
    n_times = round(EPOCH_SECONDS * sfreq)
    signals = {
        modality: np.empty((len(people) * n_epochs, len(names), n_times), np.float32)
        for modality, names in montage.items()
    }
    y = np.empty(len(people) * n_epochs, dtype=np.int64)
    for k, night in enumerate(nights):
        rows = slice(k * n_epochs, (k + 1) * n_epochs)
        # (n_derivations, n_epochs * n_times) -> (n_epochs, n_derivations, n_times)
        epochs = night.signals.reshape(len(derivations), n_epochs, n_times)
        epochs = epochs.transpose(1, 0, 2)
        if source is not None:
            signals["source"][rows] = epochs[:, : len(source)]
        signals["target"][rows] = epochs[:, -len(target) :]
        y[rows] = to_scheme(night.y, classes)
    # The seed is part of the names: subject 0 of two cohorts is two people.
    names = [f"simulated-{entropy}-{'s' if scored else 'u'}{k:03d}" for scored, k in people]
    groups = np.repeat(names, n_epochs)
    X = PairedEpochs(
        **signals,
        subject=groups,
        recording=np.repeat([f"{name}-night1" for name in names], n_epochs),
        onset=np.tile(EPOCH_SECONDS * np.arange(n_epochs), len(people)),
        sfreq=float(sfreq),
        ch_names={modality: list(names) for modality, names in montage.items()},
    )
    description = _DESCR.format(
        n_subjects=n_subjects,
        unscored=unscored,
        n_epochs=n_epochs,
        sfreq=sfreq,
        source="none" if source is None else ", ".join(source),
        target=", ".join(target),
        stages=", ".join(stages),
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


def _check_derivations(names, argument):
    if isinstance(names, str):
        raise ValueError(f"{argument} is a sequence of derivations, such as [{names!r}].")
    unknown = [name for name in names if name not in DERIVATIONS]
    if unknown or len(names) == 0:
        raise ValueError(
            f"{argument} is {list(names)}: {unknown or 'no derivation'} cannot be "
            f"simulated; there are {', '.join(DERIVATIONS)}."
        )
