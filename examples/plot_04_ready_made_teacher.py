"""
A ready-made teacher
====================

A teacher need not be trained here. YASA (Vallat and Walker 2021) comes with a stager that
has seen thousands of real polysomnographies and stages a night from one central EEG
channel. Any classifier with ``predict_proba`` can be a teacher; so a small class around
YASA makes it one, which also predicts unscored nights.

The nights on this page are **simulated**; YASA's training nights were real. How well it
stages simulated ones is printed first.
"""

# %%
# YASA as a classifier
# --------------------
# A teacher is given the source as a :class:`~skleepkd.PairedEpochs`, and predicts for each
# row the probabilities of its ``classes_``. YASA looks at whole nights, since it smooths
# over minutes and compares with the night's median; so the epochs of each recording are put
# in order and joined again. ``__sklearn_is_fitted__`` says that it needs no fitting.

import logging
import warnings

import matplotlib.pyplot as plt
import mne
import numpy as np
import yasa
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import LRScheduler
from small_network import SmallNetwork

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import paired_test, staging_report

# YASA's classifier was stored by an older scikit-learn, which says so at each loading.
warnings.filterwarnings("ignore", category=InconsistentVersionWarning)
logging.getLogger("yasa").setLevel(logging.ERROR)


class YasaStager(ClassifierMixin, BaseEstimator):
    """YASA's stager of one central EEG channel, as it comes."""

    classes_ = np.arange(5)  # W, N1, N2, N3, REM

    def fit(self, X, y=None):
        """Do nothing: YASA is trained."""
        return self

    def predict_proba(self, X):
        """Stage whole nights of one channel; shape (n_epochs, 5)."""
        proba = np.empty((len(X), 5))
        info = mne.create_info(["EEG"], X.sfreq["target"], "eeg")
        for recording in np.unique(X.recording):
            rows = np.flatnonzero(X.recording == recording)
            rows = rows[np.argsort(X.onset[rows])]
            if np.any(np.diff(X.onset[rows]) != 30):
                raise ValueError(f"Epochs of {recording} are missing: YASA needs them all.")
            volts = 1e-6 * X["target"][rows, 0].reshape(1, -1)
            raw = mne.io.RawArray(volts, info, verbose="error")
            night = yasa.SleepStaging(raw, eeg_name="EEG").predict().proba
            proba[rows] = night[["WAKE", "N1", "N2", "N3", "REM"]]
        return proba

    def predict(self, X):
        """Return the most probable stage of each epoch."""
        return self.predict_proba(X).argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


# %%
# Nights with a central channel
# -----------------------------
# The polysomnography has C4-A1 at 100 Hz, as YASA wants, the wearable has the ears. Two
# subjects are scored, ten more are recorded and not scored, and eight are for testing.

N_EPOCHS = 160
cohort = make_cohort(
    10,
    source=["C4-A1"],
    sfreq=100.0,
    unscored=10,
    n_epochs=N_EPOCHS,
    random_state=4,
)
X, y, groups = cohort.X, cohort.y, cohort.groups
scored_subjects = np.unique(groups[y >= 0])
test = np.isin(groups, scored_subjects[2:])
scored = np.isin(groups, scored_subjects[:2])
print(f"Simulated: {X}, of which {scored.sum()} scored and {test.sum()} to test on")

# %%
# How well does YASA stage simulated nights?
# ------------------------------------------
# On real nights, its paper says, it agrees with scorers about as well as scorers do with
# one another. What follows shows how real our simulation looks to it, and how good a
# teacher it can be here. (``benchmarks/simulation_realism.py`` has it stage more nights and
# other channels.)

yasa_stager = YasaStager()
predicted = yasa_stager.predict(X[test].source_epochs)
report = staging_report(y[test], predicted, groups=groups[test])
yasa_kappa = [scores["kappa"] for scores in report.per_subject.values()]
low, high = report.interval["kappa"]
print("YASA on the C4-A1 of eight simulated subjects")
print(
    f"  kappa {report.mean['kappa']:.3f}, 95 % interval over subjects [{low:.3f}, {high:.3f}]"
)
by_stage = {stage: report.mean[f"f1_{stage}"] for stage in ("W", "N1", "N2", "N3", "REM")}
print("  F1:", ", ".join(f"{stage} {f1:.2f}" for stage, f1 in by_stage.items()))

# %%
# Students of YASA
# ----------------
# ``FrozenEstimator`` marks the teacher as fitted: it is used as it is, in every fold. It
# has no layers that could be compared, so ``feature_loss=None``, and the student follows
# its probabilities alone. All three trainings are 480 batches of 32 epochs; the ear stager
# without a teacher has the two scored nights, and so has the first student. The second
# one has the unscored nights too.


def training(n_subjects):
    """Return the parameters of 480 batches from so many subjects."""
    passes = 480 // (n_subjects * N_EPOCHS // 32)
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    return {"max_epochs": passes, "lr": 3e-3, "classes": "aasm", "callbacks": [schedule]}


def make_student(n_subjects):
    """Make a student of YASA that learns from so many subjects."""
    return DistilledSleepStager(
        FrozenEstimator(yasa_stager),
        module=SmallNetwork,
        feature_loss=None,
        alpha=0.5,
        random_state=0,
        **training(n_subjects),
    )


stagers = {
    "ear, two scored nights": SleepStager(SmallNetwork, random_state=0, **training(2)),
    "YASA's student, the same": make_student(2),
    "YASA's student, 10 unscored too": make_student(12),
}
reports = {}
for name, stager in stagers.items():
    rows = ~test if "unscored" in name else scored
    predicted = stager.fit(X[rows], y[rows]).predict(X[test])
    reports[name] = staging_report(y[test], predicted, groups=groups[test])

# %%
# YASA has seen none of the subjects of this page, so no subject is on both sides here. With
# real nights you must know that yourself: a ready-made teacher may have been trained on the
# very data set it is tested on, and no program can tell.

kappa = {
    name: np.array([scores["kappa"] for scores in report.per_subject.values()])
    for name, report in reports.items()
}
print("Simulated nights; kappa from the ears of eight new subjects")
for name, report in reports.items():
    low, high = report.interval["kappa"]
    print(f"  {name:32} {report.mean['kappa']:.3f} [{low:.3f}, {high:.3f}]")
print("The two students minus the ear stager:")
alone, *distilled = kappa.values()
for values in distilled:
    change = paired_test(values, alone)
    low, high = change.interval
    print(f"  {change.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {change.pvalue:.3f}")

# %%
# Each subject is a line.

names = ["YASA itself,\non the scalp", "ear", "student", "student,\nunscored too"]
columns = np.array([yasa_kappa, *kappa.values()])
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(columns, "o-", color="0.75")
ax.plot(columns.mean(axis=1), "ko-", linewidth=2)
ax.set_xticks(range(4), names)
ax.set(ylabel="Kappa", title="Eight simulated subjects (grey) and their mean")
plt.show()
