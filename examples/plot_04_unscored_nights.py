"""
Unscored nights, and a ready-made teacher
=========================================

Scoring a night costs an expert hours; recording one more costs little. Paired nights
without stages still help: a teacher predicts each of their epochs, and the student follows
it. The teacher is fitted on the nights that were scored, or it need not be trained here at
all: YASA (Vallat and Walker 2021) comes with a stager that has seen thousands of real
polysomnographies (``pip install "skleepkd[plot,yasa]"``). Any classifier with
``predict_proba`` can be a teacher.

The nights on this page are **simulated**; YASA's training nights were real. How well it
stages simulated ones is printed first.
"""

# %%
# YASA as a teacher
# -----------------
# A teacher is given the source as a :class:`~skleepkd.PairedEpochs`, and predicts for each
# row the probabilities of its ``classes_``. :class:`~skleepkd.teachers.YasaStager` puts the
# rows of each recording in order, since YASA looks at whole nights, finds the EEG by the
# channel's name and needs no fitting. :class:`~skleepkd.teachers.GsscStager` could stand in
# its place.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import paired_test, staging_report
from skleepkd.teachers import YasaStager

# %%
# Scored, unscored, to test on
# ----------------------------
# The polysomnography has C4-A1 at 100 Hz, as YASA wants, the wearable has the ears. Two
# subjects are scored, eight are for testing, and ten more are recorded and not scored: their
# labels are -1, which means unscored everywhere.

N_EPOCHS = 160
cohort = make_cohort(
    10, source=["C4-A1"], sfreq=100.0, unscored=10, n_epochs=N_EPOCHS, random_state=4
)
X, y, groups = cohort.X, cohort.y, cohort.groups
scored_subjects = np.unique(groups[y >= 0])
scored = np.isin(groups, scored_subjects[:2])
test = np.isin(groups, scored_subjects[2:])
print(f"Simulated: {X}, of which {scored.sum()} scored and {test.sum()} to test on")

yasa_stager = YasaStager()
predicted = yasa_stager.predict(X[test].source_epochs)
report = staging_report(y[test], predicted, groups=groups[test])
print(f"YASA on the C4-A1 of eight simulated subjects: kappa {report.mean['kappa']:.3f}")

# %%
# On real nights, its paper says, it agrees with scorers about as well as scorers do with
# one another. It has seen none of the subjects of this page. With real nights you must know
# that yourself: a ready-made teacher may have been trained on the very data set it is tested
# on, and no program can tell.
#
# A fair budget
# -------------
# More nights mean more batches in a pass. So that a method does not win by training
# longer, every training is 320 batches of 32 epochs, with a learning rate that falls to
# zero. A student's teacher has had 320 batches too, so the ear stager without a teacher is
# given 640.


def training(n_subjects, n_batches=320):
    """Return the parameters of a training on so many subjects."""
    passes = n_batches // (n_subjects * N_EPOCHS // 32)
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    return {"max_epochs": passes, "lr": 3e-3, "classes": "aasm", "callbacks": [schedule]}


def make_student(teacher, n_subjects, **parameters):
    """Make a student that follows the teacher's probabilities."""
    return DistilledSleepStager(
        teacher,
        module="LogPowerNet",
        feature_loss=None,
        start_from_teacher=False,
        random_state=0,
        **training(n_subjects),
        **parameters,
    )


# %%
# Unscored epochs have no cross-entropy, only the teacher's term. ``FrozenEstimator`` marks
# YASA as fitted: it is used as it is. It has no layers that could be compared, so
# ``feature_loss=None``.

own = SleepStager("LogPowerNet", **training(2))
follow = {"alpha": 0.9, "temperature": 2.0}
ready_made = FrozenEstimator(yasa_stager)
ways = {
    "ear alone": (SleepStager("LogPowerNet", random_state=0, **training(2, 640)), scored),
    "student": (make_student(own, 2, **follow), scored),
    "student, unscored too": (make_student(own, 12, **follow), ~test),
    "YASA's student, unscored too": (make_student(ready_made, 12, alpha=0.5), ~test),
}
kappa = {}
print(
    "Simulated nights; kappa from the ears of eight new subjects, 95 % intervals over them"
)
for name, (stager, rows) in ways.items():
    predicted = stager.fit(X[rows], y[rows]).predict(X[test])
    report = staging_report(y[test], predicted, groups=groups[test])
    kappa[name] = np.array([scores["kappa"] for scores in report.per_subject.values()])
    low, high = report.interval["kappa"]
    print(f"  {name:30} {report.mean['kappa']:.3f} [{low:.3f}, {high:.3f}]")

# %%
# The same subjects are tested each time, so the gains are compared within subjects. The
# intervals do not cover the choice of the two scored subjects; ``benchmarks/label_budget.py``
# draws kappa over their number, for four cohorts.

print("Minus the ear alone, simulated:")
for name in list(ways)[1:]:
    change = paired_test(kappa[name], kappa["ear alone"])
    low, high = change.interval
    print(f"  {name:30} {change.difference:+.3f} [{low:+.3f}, {high:+.3f}]", end="")
    print(f", p = {change.pvalue:.3f}")

columns = np.array(list(kappa.values()))
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(columns, "o-", color="0.75")
ax.plot(columns.mean(axis=1), "ko-", linewidth=2)
ax.set_xticks(range(4), [name.replace(", ", ",\n") for name in kappa])
ax.set(ylabel="Kappa", title="Eight simulated subjects (grey) and their mean")
plt.show()

# %%
# In cross-validation unscored rows cannot be tested on; :doc:`/guide/pair` shows how they are
# kept in the training folds.
