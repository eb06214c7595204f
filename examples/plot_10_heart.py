"""
Stages from the heart, second by second
=======================================

Joshi et al. (2021) distil a U-Time that sees an EEG into one that sees one ECG lead. In two
steps: first the student learns *when* in an epoch the EEG network pays attention, without
any label, then the stages, together with the EEG network's softened outputs. U-Time scores
each sample, so that afterwards the night can be read at any resolution.

All nights are **simulated**.
"""

# %%
# Four stages (wake, light, deep, REM), the paper's scheme, of twenty subjects with an EEG
# derivation and an ECG; sixteen are for training, four for testing. The paper records at
# 200 Hz; 50 Hz flattens the R waves but leaves their times.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from skleepkd.datasets import make_cohort
from skleepkd.metrics import staging_report
from skleepkd.plotting import HypnogramDisplay, TrainingCurveDisplay
from skleepkd.preprocessing import EpochScaler
from skleepkd.recipes import joshi2021

cohort = make_cohort(
    20,
    source=["C4-A1"],
    target=["ECG"],
    classes="wldr",
    sfreq=50.0,
    n_epochs=90,
    random_state=10,
)
X, y, groups = cohort.X, cohort.y, cohort.groups
new = np.isin(groups, np.unique(groups)[:4])
print(f"Simulated: {X}")

# %%
# The recipe, made small
# ----------------------
# ``joshi2021`` states the paper's training, 150 passes in each of two steps. Parameters
# that are given replace it: few filters, few passes, small batches. The student has two
# steps of four passes and its teacher four of its own; the ECG stager beside it has twelve.

small = {
    "module__filters": (4, 8, 16, 16, 32, 32),
    "batch_size": 32,
    "lr": 5e-3,
    "random_state": 0,
}
stagers = {
    "ecg": joshi2021("ecg", max_epochs=12, **small),
    "at+sd+cl": joshi2021("at+sd+cl", max_epochs=4, **small),
}
for name, stager in stagers.items():
    stagers[name] = make_pipeline(EpochScaler(), stager).fit(X[~new], y[~new])

# %%
# What was learned when
# ---------------------
# In ``history_`` the passes of the first step come first; they have a feature loss and no
# cross-entropy.

student = stagers["at+sd+cl"][-1]
print("Simulated nights; the student's training, pass by pass")
for row in student.history_:
    attention = row.get("train_feature_loss", np.nan)
    entropy = row.get("train_cross_entropy", np.nan)
    print(f"  pass {row['epoch']}: attention {attention:.3f}, cross-entropy {entropy:.3f}")

TrainingCurveDisplay.from_estimators({name: s[-1] for name, s in stagers.items()})
plt.show()

# %%
# Four subjects
# -------------
# The teacher's own predictions, from the EEG, stand beside the two ECG stagers: there is a
# wide gap to close. The heart tells little of the stage in 30 s, here as in the paper, and
# training is short. Four subjects are printed one by one; they show how to compare, not
# which stager is better. ``benchmarks/joshi2021.py`` compares the paper's rows on more.

scaled = stagers["at+sd+cl"][:-1].transform(X[new])
predicted = {
    "EEG, the teacher": student.teacher_.predict(scaled.source_epochs),
    "ECG alone": stagers["ecg"].predict(X[new]["target"]),
    "ECG, distilled": stagers["at+sd+cl"].predict(X[new]["target"]),
}
print("Simulated nights; kappa of four stages, subject by subject")
for name, stages in predicted.items():
    report = staging_report(y[new], stages, groups=groups[new], classes="wldr")
    kappa = [scores["kappa"] for scores in report.per_subject.values()]
    print(f"  {name:18}", "  ".join(f"{value:6.3f}" for value in kappa))

# %%
# Every second
# ------------
# The last step of the pipeline predicts from the output of the steps before it. The mean of
# an epoch's thirty predictions need not be the epoch's own prediction: a softmax of a mean
# is not a mean of softmaxes.

night = groups == np.unique(groups)[0]
scaled = stagers["at+sd+cl"][:-1].transform(X[night])
views = {
    "the EEG, by the teacher": (student.teacher_, scaled.source_epochs),
    "the ECG, by the student": (student, scaled.target_epochs),
}
for name, (stager, epochs) in views.items():
    display = HypnogramDisplay.from_estimator(stager, epochs, y[night], resolution=1.0)
    display.figure_.suptitle(f"A simulated night from {name}")
plt.show()

by_second = student.hypnodensity(scaled, resolution=1.0)
by_epoch = student.predict_proba(scaled)
print("predictions:", by_second.shape, "every second,", by_epoch.shape, "every 30 s")
switches = np.count_nonzero(np.diff(by_second.argmax(axis=1)))
print(f"The most probable stage changes {switches} times when predicted every second,")
print(f"{np.count_nonzero(np.diff(by_epoch.argmax(axis=1)))} times every 30 s (simulated).")
