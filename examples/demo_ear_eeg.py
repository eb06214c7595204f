"""
Does a teacher help? Ear-EEG distilled from scalp-EEG
=====================================================

Sleep stagers for three ear-EEG derivations are trained on sixteen simulated subjects, twelve
in a fold, and tested on the other four. Compared are the methods of Anandakumar et al. (2022);
distillation that begins at the teacher's weights; a student that sees no label; and the
controls that belong to them: twice the passes (a pass is once through the training nights),
and the labels of the teacher's people in place of the teacher.

All nights are **simulated**. What helps here need not help on real nights, and the
other way round; where a folder of real ones is given (``--data``) and the sources lie around
this file, a table of them follows. The pictures need ``skleepkd[plot]``.
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
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from skorch.callbacks import LRScheduler

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.model_selection import compare
from skleepkd.plotting import EmbeddingDisplay, HypnogramDisplay, TrainingCurveDisplay
from skleepkd.preprocessing import SourceSelector

SEED = 0
# As many as take three minutes on two cores. The weights of the losses below were chosen on
# the seeds 101 to 103.
PASSES = 8
N_SUBJECTS, N_EPOCHS, N_FOLDS, N_JOBS = 16, 120, 4, 2

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
# last weights. A teacher is fitted in the fold; the students of a fold find it in ``memory``.


def budget(passes=PASSES):
    """Return the parameters that all methods share."""
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    params = {"classes": "aasm", "max_epochs": passes, "lr": 3e-3, "callbacks": [schedule]}
    return params | {"validation": None, "verbose": 0}


memory = TemporaryDirectory()
stager = SleepStager("LogPowerNet", **budget())
twice = clone(stager).set_params(**budget(2 * PASSES))
# Standardised features have a scale of 1, whatever the teacher makes of them.
features = DistilledSleepStager(
    stager,
    "LogPowerNet",
    strategy="offline",
    alpha=0.0,
    feature_loss=FeatureMSE(standardize=True),
    feature_weight=10.0,
    start_from_teacher=False,
    memory=memory.name,
    **budget(),
)
softmax = clone(features).set_params(
    alpha=0.9, output_loss="softmax", temperature=2.0, feature_loss=None
)
begun = clone(features).set_params(start_from_teacher=True)
methods = {
    "scalp (the teacher)": make_pipeline(SourceSelector(), stager),
    "ear": stager,
    "ear, twice the passes": twice,
    "transfer": FineTunedSleepStager(stager, memory=memory.name, **budget()),
    "offline": features,
    "offline, teacher's weights": begun,
    "softmax, teacher's weights": clone(softmax).set_params(start_from_teacher=True),
    # The features of an online teacher keep changing: they are compared as they are.
    "online": clone(features).set_params(
        strategy="online", feature_loss="mse", feature_weight=1.0
    ),
}

# %%
# Four folds of subjects
# ----------------------
# Neither a student nor its teacher sees the subjects whom it is tested on. The table has
# kappa, its paired difference to the ear alone and the share of the gap between scalp and
# ear that a method closes, with 95 % bootstrap intervals over subjects.

how = {"cv": N_FOLDS, "seeds": [SEED], "memory": memory.name}
how |= {"n_jobs": N_JOBS, "verbose": 5}
result = compare(methods, X, y, baseline="ear", ceiling="scalp (the teacher)", **how)
print(f"\nSimulated nights, seed {SEED}, {PASSES} passes, {N_EPOCHS} epochs a subject")
print(result)

# %%
# One half of the people scored
# -----------------------------
# The other half wore both devices too, and no one scored them. The teacher is trained on the
# scored half. Its student sees no label: it follows the teacher on the nights of both halves,
# half as often, which makes as many steps. Whoever has the ears of the teacher's people has
# their labels too, so a stager of these is what the student is held against.

scored = np.isin(X.subject, np.unique(X.subject)[: N_SUBJECTS // 2])
of_half = {
    "ear, labels of one half": stager,
    "no label, teacher of one half": clone(softmax).set_params(
        alpha=1.0, **budget(PASSES // 2)
    ),
}
y_half = np.where(scored, y, -1)
print("\nSimulated nights, one half of the people scored")
print(compare(of_half, X, y, y_train=y_half, baseline="ear, labels of one half", **how))

# %%
# Pictures
# --------
# The differences above; then the first subject's night, staged by a student that never saw
# it, how this student was trained, and whether its features of the ear lie where those of
# its teacher, of the scalp, do (as in figure 3 of the paper).

folder = Path("demo_output")
folder.mkdir(exist_ok=True)
result.plot().figure.savefig(folder / "differences.png", dpi=150)

folds = GroupKFold(N_FOLDS).split(X, y, X.subject)
train = next(train for train, test in folds if 0 in test)
student = clone(begun).set_params(random_state=SEED).fit(X[train], y[train])
memory.cleanup()
own = X.subject == X.subject[0]
night = X[own]

hypnogram = HypnogramDisplay.from_estimator(student, night, y[own])
hypnogram.figure_.savefig(folder / "hypnogram.png", dpi=150)
curves = TrainingCurveDisplay.from_estimators({"offline, teacher's weights": student})
curves.figure_.savefig(folder / "training_curves.png", dpi=150)
maps = {
    "Scalp, teacher": student.teacher_.extract_features(night.source_epochs),
    "Ear, student": student.extract_features(night),
}
embedding = EmbeddingDisplay.from_features(maps)
embedding.figure_.savefig(folder / "features.png", dpi=150)
print(f"\nPictures are in {folder.resolve()}")

# %%
# Real nights
# -----------
# The same question on real people, few of whom are scored, where their data are there.

script = Path(__file__).resolve().parent / "../benchmarks/real_nights.py"
if (data / "sleep_edf_features").is_dir() and script.exists():
    print("\nReal nights: one draw of people (the page has three, and what each row means)")
    how = ["--quick", "--n-jobs", str(N_JOBS), "--cache", str(folder / "cache")]
    command = [sys.executable, str(script), "--data", str(data), *how]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
else:
    print(
        f"\nNo table of real nights: it needs their folder, --data ({data}), and {script}"
    )
