"""How real do the simulated nights look to stagers that were trained on real ones?

They have seen thousands of real nights and none of ours. YASA (Vallat and Walker 2021,
eLife 10:e70092) and GSSC (Hanna and Flöel 2023, Frontiers in Neuroinformatics 17:1086634)
stage the EEG at 100 Hz, SleepECG (its documentation, https://sleepecg.readthedocs.io) the
beats of the heart. Cohen's kappa and each stage's F1 are with the simulated scorer's stages,
pooled over the nights. This judges the constants of the simulator, not a method.

Beside them a random forest is cross-validated over the simulated subjects, on heart rate
variability (of the epoch, of 2.5 min on either side too, and of both on each subject's own
scale) and on band powers of EOG and EEG.

    python benchmarks/simulation_realism.py --fast
    python benchmarks/simulation_realism.py

The rows of the heart need ``pip install sleepecg keras``; without it they are left out.
"""

import contextlib
import datetime
import io
import warnings
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import tables
from scipy.signal import find_peaks, medfilt, resample_poly, welch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from study import Setting, Study, parse, parser_of

from skleepkd import PairedEpochs
from skleepkd.datasets import simulate_night
from skleepkd.stages import EPOCH_SECONDS, scheme_names, to_scheme
from skleepkd.teachers import GsscStager, YasaStager

#: What a stager of the EEG is given: an EEG derivation and, in some rows, one of the eyes.
MONTAGES = {
    "scalp C4-A1": ("C4-A1", None),
    "scalp C4-A1 with eyes": ("C4-A1", "E1-A2"),
    "ear L-R": ("L-R", None),
    "ear LE": ("LE", None),
}

#: SleepECG's stagers: our codes (W N R, or wake and sleep) for its stages 1, 2 and 3, and
#: kappa and accuracy on a thousand real nights (SHHS) by its documentation.
HEART_STAGERS = {
    "wrn-gru-mesa": ([1, 2, 0], 0.54, 0.75),
    "ws-gru-mesa": ([1, 0], 0.60, 0.83),
}
#: It also wants to know whom it stages, and was trained on people of 54 to 95 years. A
#: simulated subject has neither age nor sex; all are given these.
_AGE, _SEX, _BEDTIME = 60, 0, datetime.time(22, 30)
#: Seeds on which the heart's numbers were chosen.
LOOKED_AT = (1, 2, 3)

SETTINGS = {
    "nights": Setting("nights for the EEG's stagers and the forest", 8, 2),
    "hours": Setting("their length in hours", 2.5, 0.5),
    "seed": Setting("their seed", 2026),
    "heart-nights": Setting("nights for SleepECG, of each seed", 4, 1),
    "heart-hours": Setting("their length in hours", 7.0, 0.5),
    "heart-seeds": Setting("their seeds", [1, 2, 3, 2026, 2027, 2028], [1, 2026]),
    "noise": Setting("noise of the wearable, a factor", 1.0),
}


def stage_eeg(stager, night, eeg, eog=None):
    """Stage a night from one or two derivations with a ready-made stager."""
    # (n_derivations, n_samples) -> (n_epochs, n_derivations, n_times)
    epochs = night.signals.reshape(len(night.ch_names), len(night.y), -1).swapaxes(0, 1)
    X = PairedEpochs(epochs, sfreq=night.sfreq, ch_names=night.ch_names)
    return stager.set_params(eeg=eeg, eog=eog or False).predict(X)


#: A function of a night, its EEG derivation and one of the eyes or None.
EEG_STAGERS = {
    "YASA": partial(stage_eeg, YasaStager(emg=False)),
    "GSSC": partial(stage_eeg, GsscStager()),
}


def has_sleepecg():
    """Return whether SleepECG and what it computes with are installed."""
    return all(find_spec(name) for name in ("sleepecg", "keras"))


def stage_with_sleepecg(ecg, sfreq, stager="wrn-gru-mesa"):
    """Stage a night's ECG, of whole epochs, with SleepECG."""
    import sleepecg

    n_epochs = round(len(ecg) / sfreq / EPOCH_SECONDS)
    # Beats told to 10 ms would add to the variability that its stagers were trained on.
    finer = int(np.ceil(250 / sfreq))
    ecg, sfreq = resample_poly(ecg, finer, 1), finer * sfreq
    record = sleepecg.SleepRecord(
        sleep_stages=np.zeros(n_epochs, int),  # for their number alone
        sleep_stage_duration=round(EPOCH_SECONDS),
        recording_start_time=_BEDTIME,
        heartbeat_times=sleepecg.detect_heartbeats(ecg, sfreq) / sfreq,
        subject_data=sleepecg.SubjectData(gender=_SEX, age=_AGE),
    )
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odds = sleepecg.stage(_sleepecg_classifier(stager), record, return_mode="prob")
    # The first column is that of unscored epochs.
    return np.array(HEART_STAGERS[stager][0])[odds[:, 1:].argmax(axis=1)]


@cache
def _sleepecg_classifier(name):
    import sleepecg

    return sleepecg.load_classifier(name, "SleepECG")


def judge_eeg(seed, n_nights, n_epochs, noise):
    """Stage the first nights of a cohort; return the scorer's stages and the stagers'."""
    how = {"sfreq": 100.0, "noise": noise, "random_state": seed}
    nights = [simulate_night(n_epochs, subject=k, **how) for k in range(n_nights)]
    predicted = {
        f"{stager}, {name}": np.concatenate([stage(night, *of) for night in nights])
        for stager, stage in EEG_STAGERS.items()
        for name, of in MONTAGES.items()
    }
    return {"y": np.concatenate([night.y for night in nights]), "predicted": predicted}


def judge_heart(seed, n_nights, n_epochs, noise):
    """Stage the ECG of the first nights of a cohort with each of SleepECG's stagers."""
    how = {"sfreq": 100.0, "noise": noise, "random_state": seed, "derivations": ["ECG"]}
    nights = [simulate_night(n_epochs, subject=k, **how) for k in range(n_nights)]
    predicted = {
        stager: np.concatenate(
            [stage_with_sleepecg(night.signals[0], 100.0, stager) for night in nights]
        )
        for stager in HEART_STAGERS
    }
    return {"y": np.concatenate([night.y for night in nights]), "predicted": predicted}


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


def judge_features(seed, n_nights, n_epochs, noise):
    """Stage the first nights by a random forest on features, one subject left out.

    The stages are in four classes; the forest's are by signal.
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
    predicted = {
        name: cross_val_predict(forest, np.concatenate(X), y, **folds)
        for name, X in features.items()
    }
    return {"y": y, "predicted": predicted}


def scores_of(y, codes, stages):
    """Kappa, accuracy and weighted F1, and F1 of each stage."""
    f1 = f1_score(y, codes, labels=range(len(stages)), average=None, zero_division=0.0)
    return {
        "kappa": cohen_kappa_score(y, codes),
        "accuracy": accuracy_score(y, codes),
        "wF1": f1_score(y, codes, average="weighted", zero_division=0.0),
        **{f"F1 {stage}": value for stage, value in zip(stages, f1, strict=True)},
    }


def score_eeg(result):
    """Score the stagers of the EEG."""
    stages = scheme_names("aasm")
    return {
        name: scores_of(result["y"], codes, stages)
        for name, codes in result["predicted"].items()
    }


def score_heart(results, stager):
    """Score one of SleepECG's stagers: results by seed, and pooled over untouched seeds."""
    stages = scheme_names("wnr") if stager.startswith("wrn") else ("W", "sleep")

    def score(seeds):
        y = np.concatenate([to_scheme(results[seed]["y"], "wnr") for seed in seeds])
        codes = np.concatenate([results[seed]["predicted"][stager] for seed in seeds])
        return scores_of(np.minimum(y, len(stages) - 1), codes, stages)

    rows = {
        f"seed {seed}{', looked at' * (seed in LOOKED_AT)}": score([seed])
        for seed in results
    }
    untouched = [seed for seed in results if seed not in LOOKED_AT]
    return rows | {"all seeds not looked at": score(untouched)} if untouched else rows


def score_features(result):
    """Score the forest in four stages and, with light and deep sleep as one, in three."""
    nrem = np.array([0, 1, 1, 2])
    rows = {}
    for name, codes in result["predicted"].items():
        four = scores_of(result["y"], codes, scheme_names("wldr"))
        three = scores_of(nrem[result["y"]], nrem[codes], scheme_names("wnr"))
        rows[name] = four | {f"{measure}, W N R": of for measure, of in three.items()}
    return rows


def table_of(rows, measures):
    """Format named rows of scores."""
    lines = [
        [name, *(tables.number(scores[measure], 3) for measure in measures)]
        for name, scores in rows.items()
    ]
    return tables.markdown_table(["", *measures], lines)


def heart_parts(results):
    """Write what SleepECG says of the heart; no results where it is not installed."""
    if not results:
        yield "SleepECG is not installed: `pip install sleepecg keras`, and run it again."
        return
    yield (
        "SleepECG's stagers see the simulated ECG's beats as its own detector finds them, "
        f"and are told that everybody is a woman of {_AGE} years who goes to bed at "
        f"{_BEDTIME:%H:%M}, since simulated subjects have neither age nor sex. The heart's "
        f"numbers were chosen on the seeds {', '.join(map(str, LOOKED_AT))}; the others were "
        "looked at once, after that."
    )
    for stager, (_, kappa, accuracy) in HEART_STAGERS.items():
        rows = score_heart(results, stager)
        yield f"### `{stager}`"
        yield table_of(rows, list(next(iter(rows.values()))))
        yield (
            f"On a thousand real nights (SHHS) its documentation gives kappa {kappa:.2f} and "
            f"accuracy {accuracy:.2f}."
        )


def main(argv=None):
    """Judge the simulated nights, print the tables and write them."""
    options = parse(parser_of(__doc__), SETTINGS, argv)
    study = Study("simulation_realism", options)
    cohort = {"n_nights": options.nights, "n_epochs": round(120 * options.hours)}
    cohort |= {"seed": options.seed, "noise": options.noise}
    nights = {
        "n_nights": options.heart_nights,
        "n_epochs": round(120 * options.heart_hours),
    }
    eeg = study.run(judge_eeg, {"stagers of the EEG": cohort})["stagers of the EEG"]
    forest = study.run(judge_features, {"forest": cohort})["forest"]
    seeds = {seed: nights | {"seed": seed} for seed in options.heart_seeds}
    seeds = seeds if has_sleepecg() else {}
    heart = study.run(judge_heart, seeds, noise=options.noise)

    scores = {"EEG": score_eeg(eeg), "forest": score_features(forest)}
    scores |= {stager: score_heart(heart, stager) for stager in HEART_STAGERS if heart}
    share = np.bincount(eeg["y"], minlength=5) / len(eeg["y"])
    names = scheme_names("aasm")
    share = ", ".join(f"{s} {of:.0%}" for s, of in zip(names, share, strict=True))
    of_eeg = ["kappa", *(f"F1 {name}" for name in names)]
    of_forest = ["kappa", "accuracy", "wF1"]
    parts = [
        *study.head("Realism of the simulated nights"),
        "Stagers that were trained on real nights, and on none of these, stage them. "
        "Everything is pooled over the nights. This judges the simulator, not a method.",
        f"## EEG, simulated\n\nShares of the scorer's stages: {share}.",
        table_of(scores["EEG"], of_eeg),
        "## Heart, simulated",
        *heart_parts(heart),
        "## What the signals hold, simulated\n\nA random forest on hand-made features of the "
        "nights of the first table, one subject left out, with four stages (W L D R) and "
        "with three (W N R).",
        table_of(scores["forest"], [*of_forest, *(f"{name}, W N R" for name in of_forest)]),
    ]
    lines = [
        {"part": part, "row": row, "measure": measure, "value": round(value, 4)}
        for part, rows in scores.items()
        for row, found in rows.items()
        for measure, value in found.items()
    ]
    study.write("simulation_realism", parts, lines)


if __name__ == "__main__":
    main()
