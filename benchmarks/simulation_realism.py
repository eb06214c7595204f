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
    """Stage a night at 100 Hz, from one or two derivations, with YASA."""
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

    Returns the simulated scorer's stages, and YASA's by montage.
    """
    how = {"sfreq": 100.0, "noise": noise, "random_state": seed}
    nights = [simulate_night(n_epochs, subject=k, **how) for k in range(n_nights)]
    predicted = {
        name: np.concatenate([stage_with_yasa(night, *of) for night in nights])
        for name, of in montages.items()
    }
    return np.concatenate([night.y for night in nights]), predicted


def heart_features(ecg, sfreq, context=0):
    """Heart rate variability around each epoch of a night, shape (n_epochs, 5).

    Mean interval, SDNN and RMSSD in seconds, logarithms of the power at 0.15 to 0.4 Hz and
    of its ratio to that at 0.04 to 0.15 Hz. ``ecg`` is whole epochs, R waves upward;
    ``context`` is how many epochs before and after are looked at too.
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
    """Stage the first nights by a random forest on features, one subject left out.

    Returns the stages, in four classes, and the forest's by signal.
    """
    derivations = ("ECG", "EOG", "C4-A1", "Fpz-Cz")
    how = {"sfreq": 100.0, "noise": noise, "random_state": seed}
    y, features = [], {}
    for subject in range(n_nights):
        night = simulate_night(n_epochs, subject=subject, derivations=derivations, **how)
        y.append(to_scheme(night.y, "wldr"))
        ecg, *others = night.signals
        epoch = heart_features(ecg, 100.0)
        around = np.hstack([epoch, heart_features(ecg, 100.0, context=5)])
        by_signal = {
            "ECG, one epoch": epoch,
            "ECG, 2.5 min around": around,
            "ECG, around, own scale": (around - around.mean(axis=0)) / around.std(axis=0),
        }
        for name, signal in zip(derivations[1:], others, strict=True):
            by_signal[f"{name}, one epoch"] = band_powers(signal, 100.0)
        for name, values in by_signal.items():
            features.setdefault(name, []).append(values)
    y, groups = np.concatenate(y), np.repeat(np.arange(n_nights), n_epochs)
    forest = RandomForestClassifier(60, min_samples_leaf=5, random_state=0)
    folds = {"groups": groups, "cv": LeaveOneGroupOut()}
    return y, {
        name: cross_val_predict(forest, np.concatenate(X), y, **folds)
        for name, X in features.items()
    }


def print_table(title, header, rows):
    """Print numbers with three digits below a title."""
    print(f"\n{title}\n" + "".ljust(24) + "".join(f"{name:>9}" for name in header))
    for name, values in rows.items():
        print(name.ljust(24) + "".join(f"{value:9.3f}" for value in values))


def main(argv=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int)
    parser.add_argument("--hours", type=float)
    parser.add_argument(
        "--noise", type=float, default=1.0, help="of the wearable, a factor"
    )
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--fast", action="store_true", help="two nights of half an hour")
    options = parser.parse_args(argv)
    options.nights = options.nights or (2 if options.fast else 8)
    options.hours = options.hours or (0.5 if options.fast else 2.5)
    logging.getLogger("yasa").setLevel(logging.ERROR)

    cohort = options.seed, options.nights, round(120 * options.hours)

    y, predicted = judge(*cohort, noise=options.noise)
    rows = {"share of epochs": [np.nan, *np.bincount(y, minlength=5) / len(y)]}
    for name, codes in predicted.items():
        f1 = f1_score(y, codes, labels=range(5), average=None, zero_division=0.0)
        rows[name] = [cohen_kappa_score(y, codes), *f1]
    print_table(
        f"YASA on {options.nights} simulated nights of {options.hours:g} h (seed "
        f"{options.seed}, wearable noise x{options.noise:g}): kappa, and F1 by stage",
        ["kappa", *scheme_names("aasm")],
        rows,
    )
    y, predicted = judge_features(*cohort, noise=options.noise)
    rows = {}
    nrem = np.array([0, 1, 1, 2])  # light and deep sleep become one
    for name, codes in predicted.items():
        rows[name] = []
        for truth, guess in ((y, codes), (nrem[y], nrem[codes])):
            weighted = f1_score(truth, guess, average="weighted", zero_division=0.0)
            accuracy = accuracy_score(truth, guess)
            rows[name] += [cohen_kappa_score(truth, guess), accuracy, weighted]
    print_table(
        "A random forest on hand-made features of the same simulated subjects, one left out: "
        "four stages (W L D R), then three (W N R)",
        ["kappa", "accuracy", "wF1"] * 2,
        rows,
    )


if __name__ == "__main__":
    main()
