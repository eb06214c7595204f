"""The cohorts and the folds of ``phan2019.py``."""

import numpy as np

from skleepkd.datasets import (
    SleepEdfFolds,
    load_cinc2018,
    load_mass,
    load_sleep_edf,
    make_cohort,
)

#: The target's channel in each scenario, simulated and as Sleep-EDF names it. In the third
#: there is no mismatch: the channel of the pretraining, of the subjects of the target.
CHANNELS = {
    "eeg": ("Fpz-Cz", "EEG Fpz-Cz"),
    "eog": ("EOG", "EOG horizontal"),
    "same": ("C4-A1", None),
}

#: How the channel of the pretraining is loaded, by set.
SOURCES = {"mass": (load_mass, "C4-A1"), "cinc2018": (load_cinc2018, "C4-M1")}


def load_source(options):
    """Load or simulate the cohort that is pretrained on: one channel, 100 Hz."""
    if options.source is None:
        cohort = make_cohort(
            options.source_people,
            source=None,
            target=["C4-A1"],
            n_epochs=options.epochs,
            sfreq=100.0,
            random_state=options.seed + 1000,  # other subjects
        )
    else:
        read, channel = SOURCES[options.source_set]
        cohort = read(
            options.source,
            channels=[channel],
            sfreq=100.0,
            l_freq=0.3,
            h_freq=40.0,
            cache=options.cache / f"{options.source_set}-100",
        )
    return cohort.X, cohort.y


def load_target(options, scenario):
    """Load or simulate the cohort of a scenario: one channel, 100 Hz, not filtered."""
    simulated, channel = CHANNELS[scenario]
    if options.data is None:
        cohort = make_cohort(
            options.people,
            source=None,
            target=[simulated],
            n_epochs=options.epochs,
            sfreq=100.0,
            random_state=options.seed,
        )
    else:
        cohort = load_sleep_edf(
            options.data,
            channels=[channel],
            crop="phan2019",
            cache=options.cache / f"sleep-edf-{scenario}",
        )
    return cohort.X, cohort.y


def make_folds(options, subjects):
    """Divide subjects into folds, each with test and validation subjects.

    Sleep-EDF has the paper's twenty folds, or, where not all twenty subjects are there, one
    for each; simulated subjects are divided into ``options.folds``.

    Returns
    -------
    list of tuple of (list of str, list of str)
    """
    subjects = np.unique(subjects)
    n_folds = len(subjects) if options.data else options.folds
    split = SleepEdfFolds()
    folds = []
    for test in np.array_split(subjects, n_folds):
        rest = np.setdiff1d(subjects, test)
        if options.data and len(subjects) == 20:
            held_out = split(rest)
        else:
            drawn = np.random.RandomState(options.seed).permutation(rest)
            held_out = sorted(drawn[: options.validation].tolist())
        folds.append((test.tolist(), held_out))
    return folds[: options.folds]
