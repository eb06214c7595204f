"""How real do the simulated nights look to stagers that were trained on real ones?

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
from scipy.signal import resample_poly
from study import Setting, Study, parse, texts

from skleepkd import PairedEpochs
from skleepkd.datasets import simulate_night
from skleepkd.metrics import staging_report
from skleepkd.stages import EPOCH_SECONDS, scheme_names, to_scheme
from skleepkd.teachers import GsscStager, YasaStager

text = texts(__file__)
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
    "nights": Setting("nights for the EEG's stagers", 8, 2),
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


def simulate(seed, n_nights, n_epochs, noise, **how):
    """Simulate the first nights of a cohort at 100 Hz."""
    how |= {"sfreq": 100.0, "noise": noise, "random_state": seed}
    return [simulate_night(n_epochs, subject=k, **how) for k in range(n_nights)]


def judge_eeg(**cohort):
    """Stage nights by their EEG; return the scorer's stages and the stagers'."""
    nights = simulate(**cohort)
    predicted = {
        f"{stager}, {name}": np.concatenate([stage(night, *of) for night in nights])
        for stager, stage in EEG_STAGERS.items()
        for name, of in MONTAGES.items()
    }
    return {"y": np.concatenate([night.y for night in nights]), "predicted": predicted}


def judge_heart(**cohort):
    """Stage nights by their ECG with each of SleepECG's stagers."""
    nights = simulate(**cohort, derivations=["ECG"])
    predicted = {
        stager: np.concatenate(
            [stage_with_sleepecg(night.signals[0], 100.0, stager) for night in nights]
        )
        for stager in HEART_STAGERS
    }
    return {"y": np.concatenate([night.y for night in nights]), "predicted": predicted}


def scores_of(y, codes, stages):
    """Kappa, accuracy and weighted F1, and F1 of each stage."""
    scores = staging_report(y, codes, classes=list(stages)).pooled
    names = {"kappa": "kappa", "accuracy": "accuracy", "wF1": "f1_weighted"}
    names |= {f"F1 {stage}": f"f1_{stage}" for stage in stages}
    return {name: scores[of] for name, of in names.items()}


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


def table_of(rows):
    """Write named rows of scores as a table."""
    return tables.markdown_table(
        [
            {"": name, **{of: tables.number(value, 3) for of, value in scores.items()}}
            for name, scores in rows.items()
        ]
    )


def heart_part(scores):
    """Write what SleepECG says of the heart; no scores where it is not installed."""
    bedtime, seeds = f"{_BEDTIME:%H:%M}", ", ".join(map(str, LOOKED_AT))
    about = text("heart", scores, age=_AGE, bedtime=bedtime, seeds=seeds)
    parts = [
        text("stager", name=name, table=table_of(rows), kappa=kappa, accuracy=accuracy)
        for name, rows in scores.items()
        for _, kappa, accuracy in [HEART_STAGERS[name]]
    ]
    return "\n\n".join([about or text("no heart"), *parts])


def main(argv=None):
    """Judge the simulated nights, print the tables and write them."""
    options = parse(__doc__, SETTINGS, argv)
    study, noise = Study("simulation_realism", options), options.noise
    cohort = {"n_nights": options.nights, "n_epochs": round(120 * options.hours)}
    cohort |= {"seed": options.seed, "noise": noise}
    eeg = study.run(judge_eeg, {"stagers of the EEG": cohort})["stagers of the EEG"]
    n_epochs = round(120 * options.heart_hours)
    nights = {"n_nights": options.heart_nights, "n_epochs": n_epochs, "noise": noise}
    seeds = {seed: {"seed": seed} for seed in options.heart_seeds if has_sleepecg()}
    heart = study.run(judge_heart, seeds, **nights)

    names, found = scheme_names("aasm"), score_eeg(eeg)
    hearts = {stager: score_heart(heart, stager) for stager in HEART_STAGERS if heart}
    share = np.bincount(eeg["y"], minlength=5) / len(eeg["y"])
    columns = ["kappa", *(f"F1 {name}" for name in names)]
    page = text(
        "page",
        shares=", ".join(f"{s} {of:.0%}" for s, of in zip(names, share, strict=True)),
        eeg=table_of({row: {c: of[c] for c in columns} for row, of in found.items()}),
        heart=heart_part(hearts),
    )
    lines = [
        {"part": part, "row": row, "measure": measure, "value": round(value, 4)}
        for part, rows in ({"EEG": found} | hearts).items()
        for row, of in rows.items()
        for measure, value in of.items()
    ]
    head = study.head("Realism of the simulated nights")
    study.write("simulation_realism", [*head, page], lines)


if __name__ == "__main__":
    main()
