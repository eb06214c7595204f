"""How real do the simulated nights look to a stager that was trained on real ones?

YASA's sleep stager (Vallat and Walker 2021, eLife 10:e70092), which has seen thousands of
real nights and none of ours, stages continuous simulated nights at 100 Hz. Printed: Cohen's
kappa and each stage's F1 with the simulated scorer's stages, pooled over the nights. This
judges the constants of the simulator, not a method.

YASA does not use the ECG. So a random forest is cross-validated over the simulated
subjects, on heart rate variability (of the epoch, of 2.5 min on either side too, and of
both on each subject's own scale) and on band powers of EOG and EEG.

Run it with ``python benchmarks/simulation_realism.py [--hours 2.5] [--nights 8]``.
"""

import argparse
import logging
import time
import warnings

import mne
import numpy as np
from scipy.signal import find_peaks, medfilt, welch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from skleepkd.datasets import simulate_night
from skleepkd.stages import scheme_names, to_scheme

#: What YASA is given: an EEG derivation and, in some rows, an eye derivation.
MONTAGES = {
    "scalp C4-A1": ("C4-A1", None),
    "scalp C4-A1 with eyes": ("C4-A1", "E1-A2"),
    "ear L-R": ("L-R", None),
    "ear LE": ("LE", None),
}
_CODES = {"WAKE": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4}


def stage_with_yasa(night, eeg, eog=None):
    """Stage a night with YASA.

    Parameters
    ----------
    night : Bunch
        Of `simulate_night`, at 100 Hz.
    eeg, eog : str
        The derivations that YASA is given.

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
        prediction = yasa.SleepStaging(raw, eeg_name=eeg, eog_name=eog).predict()
    return np.array([_CODES[stage] for stage in prediction.hypno])


def judge(seed, n_nights, n_epochs, montages=MONTAGES, noise=1.0):
    """Stage the first nights of a cohort with YASA.

    Returns
    -------
    y : ndarray of int64, shape (n_nights * n_epochs,)
        The simulated scorer's stages.
    predicted : dict of ndarray of int64
        YASA's stages, by montage.
    """
    y, predicted = [], {name: [] for name in montages}
    for subject in range(n_nights):
        night = simulate_night(
            n_epochs, sfreq=100.0, subject=subject, noise=noise, random_state=seed
        )
        y.append(night.y)
        for name, (eeg, eog) in montages.items():
            predicted[name].append(stage_with_yasa(night, eeg, eog))
    return np.concatenate(y), {name: np.concatenate(a) for name, a in predicted.items()}


def heart_features(ecg, sfreq, context=0):
    """Heart rate variability around each epoch of a night.

    Parameters
    ----------
    ecg : ndarray of shape (n_times,)
        Whole epochs, R waves upward.
    sfreq : float
        Sampling rate in hertz.
    context : int, default=0
        How many epochs before and after are looked at too.

    Returns
    -------
    ndarray of shape (n_epochs, 5)
        Mean interval, SDNN and RMSSD in seconds, logarithms of the power at 0.15 to 0.4
        Hz and of its ratio to that at 0.04 to 0.15 Hz.
    """
    height = 0.4 * np.percentile(ecg, 99.5)
    beats = find_peaks(ecg, height=height, distance=0.35 * sfreq)[0] / sfreq
    intervals = np.diff(beats)
    normal = np.abs(intervals / medfilt(intervals, 9) - 1) < 0.25
    # Both series go on a grid of 4 Hz, so that any stretch of the night is a slice.
    grid = np.arange(0, len(ecg) / sfreq, 0.25)
    tachogram = np.interp(grid, beats[1:][normal], intervals[normal])
    both = normal[1:] & normal[:-1]
    change = np.interp(grid, beats[2:][both], np.diff(intervals)[both] ** 2)
    features = []
    for start in range(0, len(grid), 120):
        part = slice(max(0, start - 120 * context), start + 120 * (1 + context))
        rr = tachogram[part]
        frequencies, density = welch(rr, 4.0, nperseg=120, detrend="linear")
        low = density[(frequencies >= 0.04) & (frequencies < 0.15)].sum()
        high = density[(frequencies >= 0.15) & (frequencies < 0.4)].sum()
        rmssd = np.sqrt(change[part].mean())
        features.append([rr.mean(), rr.std(), rmssd, np.log(high), np.log(low / high)])
    return np.array(features)


def band_powers(signal, sfreq):
    """Log band powers of each epoch of a night, shape (n_epochs, 6)."""
    epochs = signal.reshape(-1, round(30 * sfreq))
    frequencies, density = welch(epochs, sfreq, nperseg=round(4 * sfreq))
    edges = np.searchsorted(frequencies, [0.5, 1, 4, 8, 12, 16, 30])
    return np.log(np.add.reduceat(density, edges, axis=1)[:, :-1])


def judge_features(seed, n_nights, n_epochs, noise=1.0):
    """Stage the first nights of a cohort from hand-made features, one subject left out.

    Returns
    -------
    y : ndarray of int64, shape (n_nights * n_epochs,)
        The simulated scorer's stages, in four classes.
    predicted : dict of ndarray of int64
        A random forest's predictions, by signal.
    """
    derivations = ("ECG", "EOG", "C4-A1", "Fpz-Cz")
    y, features = [], {}
    for subject in range(n_nights):
        night = simulate_night(
            n_epochs,
            sfreq=100.0,
            subject=subject,
            noise=noise,
            derivations=derivations,
            random_state=seed,
        )
        y.append(to_scheme(night.y, "wldr"))
        ecg, *others = night.signals
        epoch = heart_features(ecg, 100.0)
        around = np.hstack([epoch, heart_features(ecg, 100.0, context=5)])
        scaled = (around - around.mean(axis=0)) / around.std(axis=0)
        by_signal = {
            "ECG, one epoch": epoch,
            "ECG, 2.5 min around": around,
            "ECG, around, own scale": scaled,
        }
        for name, signal in zip(derivations[1:], others, strict=True):
            by_signal[f"{name}, one epoch"] = band_powers(signal, 100.0)
        for name, values in by_signal.items():
            features.setdefault(name, []).append(values)
    y, groups = np.concatenate(y), np.repeat(np.arange(n_nights), n_epochs)
    forest = RandomForestClassifier(60, min_samples_leaf=5, random_state=0)
    predicted = {
        name: cross_val_predict(
            forest, np.concatenate(X), y, groups=groups, cv=LeaveOneGroupOut()
        )
        for name, X in features.items()
    }
    return y, predicted


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=8)
    parser.add_argument("--hours", type=float, default=2.5)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    logging.getLogger("yasa").setLevel(logging.ERROR)

    started = time.perf_counter()
    n_epochs = round(120 * options.hours)
    y, predicted = judge(options.seed, options.nights, n_epochs, noise=options.noise)
    print(
        f"YASA on {options.nights} simulated nights of {options.hours:g} h (seed "
        f"{options.seed}, wearable noise x{options.noise:g})"
    )
    shares = np.bincount(y, minlength=5) / len(y)
    stages = scheme_names("aasm")
    print("share of epochs".ljust(32) + "".join(f"{share:7.3f}" for share in shares))
    print("F1 by stage".ljust(24) + "  kappa " + "".join(f"{stage:>7}" for stage in stages))
    for name, codes in predicted.items():
        kappa = cohen_kappa_score(y, codes)
        scores = f1_score(y, codes, labels=range(5), average=None, zero_division=0.0)
        print(f"{name:24s}{kappa:8.3f}" + "".join(f"{score:7.3f}" for score in scores))
    print(
        "\nA random forest on hand-made features of the same simulated people, one left out"
    )
    y, predicted = judge_features(
        options.seed, options.nights, n_epochs, noise=options.noise
    )
    heads = "   kappa accuracy wF1"
    print(
        f"{'':24s}  four stages (W L D R)   three stages (W N R)\n{'':24s}{heads}  {heads}"
    )
    nrem = np.array([0, 1, 1, 2])  # light and deep sleep become one
    for name, codes in predicted.items():
        row = name.ljust(24)
        for truth, guess in ((y, codes), (nrem[y], nrem[codes])):
            row += f"{cohen_kappa_score(truth, guess):8.3f}"
            row += f"{accuracy_score(truth, guess):8.3f}"
            row += f"{f1_score(truth, guess, average='weighted', zero_division=0.0):8.3f}"
        print(row)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
