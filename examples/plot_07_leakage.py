"""
A leaky study and a clean one
=============================

Two mistakes spoil a published score without anybody cheating. Epochs are shuffled before
they are split, so that each test subject is known from the training; or a teacher that was
fitted on everybody, long ago, is used in every fold. This page makes both, beside the study
as it should be, and runs :func:`~skleepkd.model_selection.check_leakage` on all three
*before* looking at any score.

All nights are **simulated**. How much a leak raises a score depends on the data and the
network; here it is measured, as all three are run. The pictures need ``skleepkd[plot]``.
"""

# %%
# One cohort, one student
# -----------------------

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import LeakageWarning
from skleepkd.metrics import paired_test, staging_report
from skleepkd.model_selection import check_leakage

cohort = make_cohort(n_subjects=8, n_epochs=150, random_state=11)
X, y, groups = cohort.X, cohort.y, cohort.groups

training = {"classes": "aasm", "max_epochs": 8, "lr": 3e-3}
teacher = SleepStager("LogPowerNet", random_state=0, **training)
outputs = {"feature_loss": None, "alpha": 0.9, "start_from_teacher": False}
student = DistilledSleepStager(
    teacher, "LogPowerNet", random_state=0, **outputs, **training
)

# %%
# Three studies
# -------------
# They have the same network, passes and number of folds. In the second the split is by
# epoch and not by subject. In the third the split is right, but the teacher has seen the
# scalp of all eight subjects, with their stages, before the first fold began.

fitted = clone(teacher).fit(X.source_epochs, y)
frozen = clone(student).set_params(teacher=FrozenEstimator(fitted))
by_subject = list(GroupKFold(4).split(X, y, groups))
by_epoch = list(KFold(4, shuffle=True, random_state=0).split(X))
studies = {
    "clean": (student, by_subject),
    "epochs shuffled": (student, by_epoch),
    "teacher of everybody": (frozen, by_subject),
}

# %%
# What the check finds
# --------------------
# It takes what ``cross_validate`` takes, and fits nothing.

for name, (stager, cv) in studies.items():
    report = check_leakage(stager, X, y, cv=cv)
    print(f"{name}: {'nothing found' if report.ok else 'LEAKAGE'}")
    for found in {(found.kind, found.where): found for found in report.findings}.values():
        what = f"{found.kind} {found.where}".strip()
        print(f"    {what}, such as {', '.join(found.what[:2])}")

# %%
# The whole report also lists what no check can see, which remains for you to verify:

print(report)

# %%
# A warning, too
# --------------
# A stager remembers the subjects that it was fitted on. Those of a frozen teacher are
# noticed when its student predicts them.

train, test = by_subject[0]
one_fold = clone(frozen).set_params(max_epochs=1).fit(X[train], y[train])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", LeakageWarning)
    one_fold.predict(X[test])
print(caught[0].category.__name__, "-", caught[0].message)

# %%
# What the mistakes change
# ------------------------
# Each epoch is predicted once in each study, by a student that was not trained on it. Kappa
# is computed for each subject, and compared with that subject's in the clean study.

scores = {}
print("Simulated nights; kappa of eight subjects, and its difference to the clean study")
for name, (stager, cv) in studies.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)  # intended here
        predicted = cross_val_predict(stager, X, y, cv=cv)
    report = staging_report(y, predicted, groups=groups)
    scores[name] = np.array([subject["kappa"] for subject in report.per_subject.values()])
    change = paired_test(scores[name], scores["clean"])
    (low, high), (least, most) = report.interval["kappa"], change.interval
    print(f"  {name:22} {report.mean['kappa']:.3f} [{low:.3f}, {high:.3f}]", end="")
    print(f"   {change.difference:+.3f} [{least:+.3f}, {most:+.3f}]")

# %%
# A leak need not raise the score of every run, which makes it hard to find by its score:
# what it does raise, it raises with an interval as narrow as an honest one. A study with a
# leak does not have a small error, but asks another question: how well are subjects
# staged who were in the training?

columns = np.array(list(scores.values()))
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(columns, "o-", color="0.75")
ax.plot(columns.mean(axis=1), "ko-", linewidth=2)
ax.set_xticks(range(3), list(scores))
ax.set(ylabel="Kappa", title="Eight simulated subjects (grey) and their mean")
plt.show()
