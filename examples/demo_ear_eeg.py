"""
Ear-EEG distilled from scalp-EEG
================================

A sleep stager for three ear-EEG derivations is trained on eight simulated subjects, one of
them left out at a time. Five methods of Anandakumar et al. (2022) are compared, and two
more: distillation that begins at the teacher's weights, and the fair control, an ear stager
that is given twice the passes.

All nights are **simulated**. What helps here need not help on real nights, and the
other way round; the script that runs the paper's experiment on the real data set is
``benchmarks/anandakumar2022.py``.
"""

# %%
# The cohort
# ----------
# Simultaneous scalp and ear nights. ``cohort.X`` is a ``PairedEpochs``: it is sliced like
# an array, and each row carries its subject and its night.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import Memory
from sklearn.base import clone
from sklearn.model_selection import LeaveOneGroupOut, cross_validate
from skorch.callbacks import LRScheduler
from tqdm import tqdm

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.metrics import gap_closed, sleep_scorers
from skleepkd.plotting import EmbeddingDisplay, HypnogramDisplay, TrainingCurveDisplay

# Chosen on the seeds 101 to 103, like the weights of the losses below.
PASSES = 10

SEED = 0
N_JOBS = 2

cohort = make_cohort(n_subjects=8, n_epochs=300, random_state=SEED)
print(f"Simulated cohort: {cohort.X}")

# %%
# The stagers
# -----------
# Every method has the same small network, optimiser, schedule and budget, and keeps its
# last weights. ``memory`` lets one teacher a fold serve the scalp row, transfer and offline
# distillation.

memory = Memory(tempfile.mkdtemp(prefix="skleepkd-teachers-"), verbose=0)


def budget(passes=PASSES):
    """Return the parameters that all methods share."""
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    return {"classes": "aasm", "max_epochs": passes, "lr": 3e-3, "callbacks": [schedule]}


scalp = SleepStager("LogPowerNet", **budget())
ear = SleepStager("LogPowerNet", **budget())
student = DistilledSleepStager(
    scalp,
    # Standardised features have a scale of 1, whatever the teacher makes of them.
    feature_loss=FeatureMSE(standardize=True),
    feature_weight=10.0,
    memory=memory,
    **budget(),
)
stagers = {
    "ear": ear,
    "ear, twice the passes": clone(ear).set_params(**budget(2 * PASSES)),
    "transfer": FineTunedSleepStager(scalp, memory=memory, **budget()),
    "offline": student,
    "offline, teacher's weights": clone(student).set_params(start_from_teacher=True),
    # The features of an online teacher keep changing: they are compared as they are.
    "online": clone(student).set_params(
        strategy="online", feature_loss="mse", feature_weight=1.0
    ),
}
for stager in stagers.values():
    stager.set_params(random_state=SEED)

# %%
# Leave one subject out
# ---------------------
# Neither the student nor its teacher, which is fitted anew in each fold, sees the left-out
# subject.

folds = {"groups": cohort.groups, "cv": LeaveOneGroupOut(), "scoring": sleep_scorers()}
kept = {"return_estimator": True, "return_indices": True, "n_jobs": N_JOBS}
results = {
    name: cross_validate(stager, cohort.X, cohort.y, **folds, **kept)
    for name, stager in tqdm(stagers.items(), desc="Methods, eight folds each")
}

# %%
# The scalp row is the teacher's own prediction for the subject who was left out.

offline = results["offline"]
measures = ("kappa", "accuracy", "f1_macro")
scalp_scores = [
    sleep_scorers()[measure](student.teacher_, cohort.X[test].source_epochs, cohort.y[test])
    for student, test in zip(offline["estimator"], offline["indices"]["test"], strict=True)
    for measure in measures
]
table = {"scalp (the teacher)": np.reshape(scalp_scores, (-1, 3))}
for name, result in results.items():
    table[name] = np.column_stack([result[f"test_{measure}"] for measure in measures])

# %%
# Scores
# ------
# Mean and spread over the eight subjects, and the share of the gap between scalp and ear
# that a method closes: a ratio of means, with a 95 % bootstrap interval over subjects.

print(
    f"\nSimulated nights, seed {SEED}, {PASSES} passes; mean (standard deviation) over subjects"
)
print(f"{'':28}{'kappa':>16}{'accuracy':>16}{'macro F1':>16}   gap closed (kappa)")
kappa = {name: scores[:, 0] for name, scores in table.items()}
for name, scores in table.items():
    row = "".join(
        f"{m:9.3f} ({s:.3f})" for m, s in zip(scores.mean(0), scores.std(0), strict=True)
    )
    verdict = ""
    if name not in ("scalp (the teacher)", "ear"):
        closed = gap_closed(kappa["scalp (the teacher)"], kappa["ear"], kappa[name])
        low, high = closed.share_interval
        helps = "helps" if low > 0 else "does harm" if high < 0 else "not shown to help"
        closes = f"{closed.share:4.0%} [{low:.0%}, {high:.0%}], {helps}"
        verdict = closes if closed.has_gap else "no gap"
    print(f"{name:28}{row}   {verdict}")

# %%
# Pictures
# --------
# The first subject's night, staged by networks that never saw it.

folder = Path("demo_output")
folder.mkdir(exist_ok=True)
test = offline["indices"]["test"][0]
night, truth = cohort.X[test], cohort.y[test]
fold = {name: result["estimator"][0] for name, result in results.items()}

hypnogram = HypnogramDisplay.from_estimator(fold["offline"], night, truth)
hypnogram.figure_.savefig(folder / "hypnogram.png", dpi=150)

shown = ("ear", "offline", "offline, teacher's weights", "online")
curves = TrainingCurveDisplay.from_estimators({name: fold[name] for name in shown})
curves.figure_.savefig(folder / "training_curves.png", dpi=150)

# %%
# Figure 3 of the paper, on the held-out night: do the features of the ear networks lie
# where those of the scalp networks lie?
scalp_night, ear_night = night.source_epochs, night.target_epochs
teacher, online = fold["offline"].teacher_, fold["online"]
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
memory.clear(warn=False)
