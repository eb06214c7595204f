"""
Unscored nights
===============

Scoring a night costs an expert hours; recording one more costs little. Paired nights
without stages still help: the teacher, fitted on the scored ones, predicts each of their
epochs. Here kappa is drawn over the number of scored subjects.

All nights are **simulated**: nothing here says how many real nights are needed. A larger
version, with intervals over four cohorts, is ``benchmarks/label_budget.py``.
"""

# %%
# Eight subjects for training, eight for testing. Of the first, two, four or all eight are
# scored, and the labels of the others are -1, which means unscored everywhere.

import matplotlib.pyplot as plt
import numpy as np
from skorch.callbacks import LRScheduler
from small_network import SmallNetwork

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import bootstrap_interval, staging_report

N_EPOCHS = 160
cohort = make_cohort(n_subjects=16, n_epochs=N_EPOCHS, random_state=7)
X, y, groups = cohort.X, cohort.y, cohort.groups
subjects = np.unique(groups)
test = np.isin(groups, subjects[8:])

# %%
# A fair budget
# -------------
# More nights mean more batches in a pass. So that a method does not win by training
# longer, the number of passes falls with the number of nights: every training is 320
# batches of 32 epochs, with a learning rate that falls to zero. A student begins at the
# weights of its teacher, which has had 320 batches of its own; so the ear stager without a
# teacher is given 640.


def training(n_subjects, n_batches=320):
    """Return the parameters of a training on so many subjects."""
    passes = n_batches // (n_subjects * N_EPOCHS // 32)
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    return {"max_epochs": passes, "lr": 3e-3, "classes": "aasm", "callbacks": [schedule]}


def make_student(n_scored, n_subjects):
    """Make a student of ``n_subjects``, whose teacher is fitted on the scored ones."""
    return DistilledSleepStager(
        SleepStager(SmallNetwork, **training(n_scored)),
        feature_loss=None,
        alpha=0.9,
        temperature=2.0,
        start_from_teacher=True,
        random_state=0,
        **training(n_subjects),
    )


# %%
# Three ways to use the same nights
# ---------------------------------
# The last one sees all eight subjects, whoever is scored. Their unscored epochs have no
# cross-entropy, only the teacher's term.

kappa = {"ear alone": {}, "student": {}, "student, with unscored nights": {}}
for n_scored in (2, 4, 8):
    scored = np.isin(groups, subjects[:n_scored])
    known = np.where(scored, y, -1)
    double = training(n_scored, n_batches=640)
    ways = {
        "ear alone": (SleepStager(SmallNetwork, random_state=0, **double), scored),
        "student": (make_student(n_scored, n_scored), scored),
        "student, with unscored nights": (make_student(n_scored, 8), ~test),
    }
    for name, (stager, rows) in ways.items():
        if n_scored == 8 and rows is not scored:  # nobody is left unscored
            kappa[name][8] = kappa["student"][8]
            continue
        predicted = stager.fit(X[rows], known[rows]).predict(X[test])
        report = staging_report(y[test], predicted, groups=groups[test])
        kappa[name][n_scored] = np.array([s["kappa"] for s in report.per_subject.values()])

# %%
# The curve
# ---------
# Intervals are over the eight test subjects. They do not cover the choice of scored
# subjects, another draw of which would give another curve.

print("Simulated nights; kappa on eight new subjects, 95 % bootstrap intervals over them")
figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for k, (name, by_number) in enumerate(kappa.items()):
    mean = np.array([values.mean() for values in by_number.values()])
    ends = np.array([bootstrap_interval(values) for values in by_number.values()])
    numbers = np.array(list(by_number))
    ax.errorbar(numbers * 1.02 ** (k - 1), mean, abs(ends.T - mean), fmt="o-", label=name)
    for n_scored, m, (low, high) in zip(numbers, mean, ends, strict=True):
        print(f"  {n_scored} scored, {name:30} {m:.3f} [{low:.3f}, {high:.3f}]")
ax.set(xscale="log", xlabel="Subjects whose night was scored", ylabel="Kappa (simulated)")
ax.set_xticks([2, 4, 8], ["2", "4", "8"])
ax.set_xticks([], minor=True)
ax.legend(frameon=False, loc="lower right")
plt.show()

# %%
# The same subjects are tested each time, so the gains are compared within subjects.

for n_scored in (2, 4):
    gain = kappa["student, with unscored nights"][n_scored] - kappa["ear alone"][n_scored]
    low, high = bootstrap_interval(gain)
    print(f"{n_scored} scored: unscored nights and a teacher gain {gain.mean():+.3f}")
    print(f"  over the ear alone, [{low:+.3f}, {high:+.3f}], simulated")

# %%
# In cross-validation unscored rows cannot be tested on; keep them in the training folds::
#
#     scored, unscored = np.flatnonzero(y >= 0), np.flatnonzero(y < 0)
#     folds = GroupKFold(5).split(scored, groups=groups[scored])
#     cv = [(np.r_[scored[train], unscored], scored[test]) for train, test in folds]
