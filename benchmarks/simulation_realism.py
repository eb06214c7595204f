"""How real do the simulated nights look to a stager that was trained on real ones?

YASA's sleep stager (Vallat and Walker 2021, eLife 10:e70092), which has seen thousands
of real nights and none of ours, stages continuous simulated nights at 100 Hz. Printed:
Cohen's kappa and each stage's F1 with the simulated scorer's stages, pooled over the
nights. It is the constants of the simulator that are judged, not a method.

Run it with ``python benchmarks/simulation_realism.py [--hours 2.5] [--nights 8]``.
"""

import argparse
import logging
import time
import warnings

import mne
import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score

from skleepkd.datasets.simulated import simulate_night
from skleepkd.stages import scheme_names

#: What the judge is shown: an EEG derivation and, in some rows, an eye derivation.
MONTAGES = {
    "scalp C4-A1": ("C4-A1", None),
    "scalp C4-A1 with eyes": ("C4-A1", "E1-A2"),
    "ear L-R": ("L-R", None),
    "ear LE": ("LE", None),
}
_CODES = {"WAKE": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4}


def stage_with_yasa(night, eeg, eog=None):
    """Let YASA stage a night.

    Parameters
    ----------
    night : Bunch
        Of `simulate_night`, at 100 Hz.
    eeg, eog : str
        The derivations that YASA is shown.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
        AASM codes.
    """
    import yasa

    names = [eeg] if eog is None else [eeg, eog]
    rows = [night.ch_names.index(name) for name in names]
    info = mne.create_info(names, night.sfreq, ["eeg", "eog"][: len(names)])
    raw = mne.io.RawArray(1e-6 * night.signals[rows], info, verbose="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = yasa.SleepStaging(raw, eeg_name=eeg, eog_name=eog).predict()
    return np.array([_CODES[stage] for stage in answer.hypno])


def judge(seed, n_nights, n_epochs, montages=MONTAGES, noise=1.0):
    """Stage the first nights of a cohort with YASA.

    Returns
    -------
    y : ndarray of int64, shape (n_nights * n_epochs,)
        What the simulated scorer says.
    answers : dict of ndarray of int64
        What YASA says, by montage.
    """
    y, answers = [], {name: [] for name in montages}
    for subject in range(n_nights):
        night = simulate_night(
            n_epochs, sfreq=100.0, subject=subject, noise=noise, random_state=seed
        )
        y.append(night.y)
        for name, (eeg, eog) in montages.items():
            answers[name].append(stage_with_yasa(night, eeg, eog))
    return np.concatenate(y), {name: np.concatenate(a) for name, a in answers.items()}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=8)
    parser.add_argument("--hours", type=float, default=2.5)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    logging.getLogger("yasa").setLevel(logging.ERROR)

    started = time.perf_counter()
    n_epochs = round(120 * options.hours)
    y, answers = judge(options.seed, options.nights, n_epochs, noise=options.noise)
    print(
        f"YASA on {options.nights} simulated nights of {options.hours:g} h (seed "
        f"{options.seed}, wearable noise x{options.noise:g})"
    )
    shares = np.bincount(y, minlength=5) / len(y)
    stages = scheme_names("aasm")
    print("share of epochs".ljust(32) + "".join(f"{share:7.3f}" for share in shares))
    print("F1 by stage".ljust(24) + "  kappa " + "".join(f"{stage:>7}" for stage in stages))
    for name, answer in answers.items():
        kappa = cohen_kappa_score(y, answer)
        scores = f1_score(y, answer, labels=range(5), average=None, zero_division=0.0)
        print(f"{name:24s}{kappa:8.3f}" + "".join(f"{score:7.3f}" for score in scores))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
