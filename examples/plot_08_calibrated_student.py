"""
A student that knows when it is unsure
======================================

A stager that predicts N2 with 95 % should be right in 95 of 100 such epochs. Networks
trained for long are usually too sure of themselves. Here a student's probabilities are
compared with how often it is right, on subjects it has never seen, and corrected in two
ways: by one temperature, fitted on a few held-out subjects, and by scikit-learn's
``CalibratedClassifierCV``.

All nights are **simulated**.
"""

# %%
# Ten subjects for training, six for testing.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from small_network import SmallNetwork

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import expected_calibration_error, paired_test, staging_report

cohort = make_cohort(n_subjects=16, n_epochs=180, random_state=8)
X, y, groups = cohort.X, cohort.y, cohort.groups
subjects = np.unique(groups)
test = np.isin(groups, subjects[:6])

# %%
# A student that is too sure
# --------------------------
# It learns from six of the ten, for twenty passes and without a schedule: long enough to
# make it too sure. Its teacher has been trained likewise.

training = {"classes": "aasm", "max_epochs": 20, "lr": 3e-3}
student = DistilledSleepStager(
    teacher=SleepStager(SmallNetwork, **training),
    feature_weight=0.1,
    random_state=0,
    **training,
)
held_out = np.isin(groups, subjects[6:10])
learns = ~test & ~held_out
student.fit(X[learns], y[learns])

# %%
# One temperature
# ---------------
# Of all ways to correct a network, dividing its logits by one number is the most frugal.
# (Logarithms of the probabilities are the logits, but for a constant that the softmax does
# not see.) The number is the one with the least log loss on the four held-out subjects. The
# order of the stages stays, and so does the hypnogram.


def loss_at(temperature):
    """Return the log loss on the held-out subjects."""
    proba = softmax(held_out_logits / temperature, axis=1)
    return log_loss(y[held_out], proba, labels=range(5))


held_out_logits = np.log(student.predict_proba(X[held_out]).clip(min=1e-12))
temperature = minimize_scalar(loss_at, bounds=(0.2, 10), method="bounded").x
print(f"The temperature, of four simulated subjects: {temperature:.2f}")

as_trained = student.predict_proba(X[test])
tempered = softmax(np.log(as_trained.clip(min=1e-12)) / temperature, axis=1)
assert np.array_equal(as_trained.argmax(axis=1), tempered.argmax(axis=1))

# %%
# Calibration by cross-validation
# -------------------------------
# ``CalibratedClassifierCV`` needs no held-out subjects: each subject is staged by a student
# that was fitted without them, a logistic curve for each stage is fitted to these
# predictions, and a last student is fitted on all. The folds must be drawn by subject;
# without metadata routing they are given as a list. The student inside learns from all ten
# subjects here, so its row below differs from the others by more than the calibration.

by_subject = list(GroupKFold(2).split(X[~test], y[~test], groups[~test]))
calibrated = CalibratedClassifierCV(student, cv=by_subject, ensemble=False)
calibrated.fit(X[~test], y[~test])

# %%
# Before and after
# ----------------
# The expected calibration error is the mean distance between how sure the student is and
# how often it is right, and the log loss also rewards being informative. Kappa tells
# whether the stages themselves have changed.

probabilities = {
    "as trained": as_trained,
    f"temperature {temperature:.2f}": tempered,
    "CalibratedClassifierCV": calibrated.predict_proba(X[test]),
}
losses = {}
print("Simulated nights of six new subjects; means over subjects, 95 % intervals")
print(f"{'':24}{'calibration error':>24}{'log loss':>10}{'kappa':>8}")
for name, proba in probabilities.items():
    error = expected_calibration_error(y[test], proba, groups=groups[test])
    report = staging_report(y[test], proba.argmax(axis=1), groups=groups[test])
    losses[name] = np.array(
        [
            log_loss(y[groups == who], proba[groups[test] == who], labels=range(5))
            for who in subjects[:6]
        ]
    )
    low, high = error.interval
    print(
        f"{name:24}{error.mean:9.3f} [{low:.3f}, {high:.3f}]"
        f"{losses[name].mean():10.3f}{report.mean['kappa']:8.3f}"
    )

# %%
# The temperature was chosen by the log loss of other subjects. Whether it lowers that of
# these six is a question about six differences.

before, after, _ = losses.values()
change = paired_test(after, before)
low, high = change.interval
print("Log loss with the temperature minus without it, six simulated subjects:")
print(f"  {change.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {change.pvalue:.3f}")

# %%
# The reliability curve
# ---------------------
# Epochs are sorted by how sure the student is of its most probable stage, into eight equal
# parts. On the diagonal it is right as often as predicted; below, it is too sure.

figure, ax = plt.subplots(figsize=(5.5, 5), layout="constrained")
ax.plot([0.2, 1], [0.2, 1], color="0.7", linestyle="--")
for name, proba in probabilities.items():
    right = proba.argmax(axis=1) == y[test]
    accuracy, confidence = calibration_curve(
        right, proba.max(axis=1), n_bins=8, strategy="quantile"
    )
    ax.plot(confidence, accuracy, "o-", label=name)
ax.set(
    xlabel="How sure the student is",
    ylabel="How often it is right",
    title="Six new subjects, simulated nights",
)
ax.legend(frameon=False)
plt.show()

# %%
# All epochs of six subjects are in these curves. Subjects differ: a student that is
# calibrated on average may be too sure for one subject and too unsure for another, and only
# more held-out subjects can tell.
