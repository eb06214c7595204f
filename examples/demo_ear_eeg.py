"""
Does a teacher help? Ear-EEG distilled from scalp-EEG
=====================================================

Sleep stagers for three ear-EEG derivations are trained on sixteen simulated subjects, twelve
in a fold, and tested on the other four. Compared are the methods of Anandakumar et al. (2022);
distillation that begins at the teacher's weights; a student that sees no label; and the
controls that belong to them: twice the passes (a pass is once through the training nights),
and the labels of the teacher's people in place of the teacher.

All nights are **simulated**. What helps here need not help on real nights, and the
other way round; where a folder of real ones is given (``--data``), a table of them follows.
"""

# %%
# The cohort
# ----------
# Simultaneous scalp and ear nights. ``cohort.X`` is a ``PairedEpochs``: it is sliced like
# an array, and each row carries its subject and its night.

import argparse
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold
from skorch.callbacks import LRScheduler
from tqdm import tqdm

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.metrics import gap_closed, paired_test, staging_report
from skleepkd.plotting import EmbeddingDisplay, HypnogramDisplay, TrainingCurveDisplay

SEED = 0
# As many as take three minutes on two cores. The weights of the losses below were chosen on
# the seeds 101 to 103.
PASSES = 8
N_SUBJECTS, N_EPOCHS, N_FOLDS, N_JOBS = 16, 150, 4, 2

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--data", type=Path, help="folder of real nights (real_nights.py)")
data = parser.parse_args().data
if data is None:
    data = Path(os.environ.get("SKLEEPKD_SHARED_DATA", "../shared/data"))

cohort = make_cohort(n_subjects=N_SUBJECTS, n_epochs=N_EPOCHS, random_state=SEED)
X, y = cohort.X, cohort.y
print(f"Simulated cohort: {X}")


# %%
# The stagers
# -----------
# Every method has the same small network, optimiser, schedule and budget, and keeps its
# last weights. The students of a fold share one teacher.


def budget(passes=PASSES):
    """Return the parameters that all methods share."""
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    params = {"classes": "aasm", "max_epochs": passes, "lr": 3e-3, "callbacks": [schedule]}
    return params | {"random_state": SEED, "verbose": 0}


stager = SleepStager("LogPowerNet", **budget())


def make_student(teacher, **params):
    """Make a student that follows features, unless ``params`` say otherwise."""
    # Standardised features have a scale of 1, whatever the teacher makes of them.
    features = {"feature_loss": FeatureMSE(standardize=True), "feature_weight": 10.0}
    return DistilledSleepStager(teacher, "LogPowerNet", **(features | params), **budget())


def fit_fold(train):
    """Fit every method on a fold's training rows; return the stagers by name."""
    scalp = clone(stager).fit(X[train].source_epochs, y[train])
    teacher = FrozenEstimator(scalp)
    stagers = {
        "ear": clone(stager),
        "ear, twice the passes": clone(stager).set_params(**budget(2 * PASSES)),
        "transfer": FineTunedSleepStager(teacher, **budget()),
        "offline": make_student(teacher),
        "offline, teacher's weights": make_student(teacher, start_from_teacher=True),
        # The features of an online teacher keep changing: they are compared as they are.
        "online": make_student(
            clone(stager), strategy="online", feature_loss="mse", feature_weight=1.0
        ),
    }
    for each in stagers.values():
        each.fit(X[train], y[train])
    # One half of the people has a teacher, the other half wore both devices and no one
    # scored them. Whoever has the ears of the teacher's people has their labels too.
    scored = np.isin(X.subject[train], np.unique(X.subject[train])[::2])
    half, rest = train[scored], train[~scored]
    teacher = FrozenEstimator(clone(stager).fit(X[half].source_epochs, y[half]))
    alone = clone(stager).fit(X[half], y[half])
    no_label = make_student(teacher, feature_loss=None, alpha=1.0, temperature=2.0)
    stagers |= {
        "ear, labels of one half": alone,
        "no label, other half": no_label.fit(X[rest]),
    }
    return {"scalp (the teacher)": scalp, **stagers}


# %%
# Four folds of subjects
# ----------------------
# Neither a student nor its teacher sees the subjects whom it is tested on.

folds = list(GroupKFold(N_FOLDS).split(X, y, cohort.groups))
work = Parallel(n_jobs=N_JOBS, return_as="generator")(
    delayed(fit_fold)(train) for train, _ in folds
)
fitted = list(tqdm(work, total=N_FOLDS, desc="Folds, ten trainings each"))


def predict(name, model, rows):
    """Stage some rows; the scalp's stager sees the source."""
    return model.predict(X[rows].source_epochs if name.startswith("scalp") else X[rows])


table = {}
for name in fitted[0]:
    predicted = np.empty_like(y)
    for stagers, (_, test) in zip(fitted, folds, strict=True):
        predicted[test] = predict(name, stagers[name], test)
    table[name] = staging_report(y, predicted, groups=cohort.groups).per_subject

# %%
# Scores
# ------
# Mean and spread over the subjects, and the share of the gap between scalp and ear that a
# method closes: a ratio of means, with a 95 % bootstrap interval over subjects.

print(f"\nSimulated nights, seed {SEED}, {PASSES} passes; mean (standard deviation) over")
print(f"{N_SUBJECTS} subjects, {N_EPOCHS} epochs each")
print(f"{'':28}{'kappa':>16}{'accuracy':>16}{'macro F1':>16}   gap closed (kappa)")
kappa = {}
for name, scores in table.items():
    row = ""
    for measure in ("kappa", "accuracy", "f1_macro"):
        values = np.array([of[measure] for of in scores.values()])
        row += f"{values.mean():9.3f} ({values.std():.3f})"
        kappa.setdefault(name, values)
    verdict = ""
    if name not in ("scalp (the teacher)", "ear"):
        closed = gap_closed(kappa["scalp (the teacher)"], kappa["ear"], kappa[name])
        low, high = closed.share_interval
        helps = "helps" if low > 0 else "does harm" if high < 0 else "not shown to help"
        closes = f"{closed.share:4.0%} [{low:.0%}, {high:.0%}], {helps}"
        verdict = closes if closed.has_gap else "no gap"
    print(f"{name:28}{row}   {verdict}")

test = paired_test(kappa["no label, other half"], kappa["ear, labels of one half"])
low, high = test.interval
print(
    f"\nNo label, against the labels of the teacher's people: {test.difference:+.3f} "
    f"[{low:+.3f}, {high:+.3f}] kappa"
)

# %%
# Pictures
# --------
# The first subject's night, staged by networks that never saw it.

folder = Path("demo_output")
folder.mkdir(exist_ok=True)
first = next(k for k, (_, test) in enumerate(folds) if 0 in test)
fold, rows = fitted[first], np.flatnonzero(X.subject == X.subject[0])
night, truth = X[rows], y[rows]

best = fold["offline, teacher's weights"]
hypnogram = HypnogramDisplay.from_estimator(best, night, truth)
hypnogram.figure_.savefig(folder / "hypnogram.png", dpi=150)

shown = ("ear", "offline", "offline, teacher's weights", "online")
curves = TrainingCurveDisplay.from_estimators({name: fold[name] for name in shown})
curves.figure_.savefig(folder / "training_curves.png", dpi=150)

# %%
# Figure 3 of the paper, on the held-out night: do the features of the ear networks lie
# where those of the scalp networks lie?
scalp_night, ear_night = night.source_epochs, night.target_epochs
teacher, online = fold["scalp (the teacher)"], fold["online"]
panels = {
    "Supervised": {},
    "Transfer": {"Ear, transfer": fold["transfer"].extract_features(ear_night)},
    "Offline distillation": {"Ear, offline": fold["offline"].extract_features(ear_night)},
    "Online distillation": {
        "Scalp, online": online.teacher_.extract_features(scalp_night),
        "Ear, online": online.extract_features(ear_night),
    },
}
supervised = {
    "Scalp, supervised": teacher.extract_features(scalp_night),
    "Ear, supervised": fold["ear"].extract_features(ear_night),
}
figure, axes = plt.subplots(2, 2, figsize=(10, 9), layout="constrained")
for ax, (title, features) in zip(axes.flat, panels.items(), strict=True):
    if title != "Online distillation":
        features = supervised | features
    display = EmbeddingDisplay.from_features(features, ax=ax)
    display.ax_[0].set(title=f"{title} (simulated)", aspect="auto")
figure.savefig(folder / "figure_3.png", dpi=150)
print(f"\nPictures are in {folder.resolve()}")

# %%
# Real nights
# -----------
# The same question on real people, few of whom are scored, where their data are there.

script = Path(__file__).resolve().parents[1] / "benchmarks" / "real_nights.py"
if (data / "sleep_edf_features").is_dir() and script.exists():
    print("\nReal nights: one draw of people (the page has three, and what each row means)")
    how = ["--quick", "--n-jobs", str(N_JOBS), "--cache", str(folder / "cache")]
    command = [sys.executable, str(script), "--data", str(data), *how]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
else:
    print(f"\nNo real nights in {data}: give their folder, --data")
