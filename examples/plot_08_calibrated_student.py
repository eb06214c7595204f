"""
A student that knows when it is unsure
======================================

A stager that says "N2, 95 %" should be right in 95 of 100 such epochs. Networks trained
for long are usually too sure of themselves. Here a student's probabilities are
held against how often it is right, on people it has never seen, and corrected in two
ways: by one temperature, fitted on a few people who were kept apart, and by
scikit-learn's ``CalibratedClassifierCV``.

All nights are **simulated**.
"""

# %%
# Ten people to train with, six to judge on.

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
people = np.unique(groups)
test = np.isin(groups, people[:6])

# %%
# A student that is too sure
# --------------------------
# It learns from six of the ten, for twenty passes and without a schedule: longer than is
# good for its modesty. Its teacher has been trained likewise.

training = {"classes": "aasm", "max_epochs": 20, "lr": 3e-3}
student = DistilledSleepStager(
    teacher=SleepStager(SmallNetwork, **training),
    feature_weight=0.1,
    random_state=0,
    **training,
)
spared = np.isin(groups, people[6:10])
learns = ~test & ~spared
student.fit(X[learns], y[learns])

# %%
# One temperature
# ---------------
# Of all ways to correct a network, dividing its logits by one number is the most frugal.
# (Logarithms of the probabilities are the logits, but for a constant that the softmax does
# not see.) The number is the one with the least log loss on the four people spared. The
# order of the stages stays, so the hypnogram stays as it was.


def loss_at(temperature):
    """Return the log loss on the spared people."""
    proba = softmax(spared_logits / temperature, axis=1)
    return log_loss(y[spared], proba, labels=range(5))


spared_logits = np.log(student.predict_proba(X[spared]).clip(min=1e-12))
temperature = minimize_scalar(loss_at, bounds=(0.2, 10), method="bounded").x
print(f"The temperature, of four simulated people: {temperature:.2f}")

as_trained = student.predict_proba(X[test])
tempered = softmax(np.log(as_trained.clip(min=1e-12)) / temperature, axis=1)
assert np.array_equal(as_trained.argmax(axis=1), tempered.argmax(axis=1))

# %%
# Calibration by cross-validation
# -------------------------------
# ``CalibratedClassifierCV`` spares nobody: each person is answered by a student that was
# fitted without them, those answers fit a logistic curve for each stage, and a last
# student is fitted on all. The folds must be drawn by person; without metadata routing
# they are given as a list. The student inside learns from all ten people here, so its row
# below differs from the others by more than the calibration.

by_person = list(GroupKFold(2).split(X[~test], y[~test], groups[~test]))
calibrated = CalibratedClassifierCV(student, cv=by_person, ensemble=False)
calibrated.fit(X[~test], y[~test])

# %%
# Before and after
# ----------------
# The expected calibration error is the mean distance between how sure the student is and
# how often it is right, and the log loss also pays for being informative. Kappa tells
# whether the stages themselves have changed.

answers = {
    "as trained": as_trained,
    f"temperature {temperature:.2f}": tempered,
    "CalibratedClassifierCV": calibrated.predict_proba(X[test]),
}
losses = {}
print("Simulated nights of six new people; means over people, 95 % intervals")
print(f"{'':24}{'calibration error':>24}{'log loss':>10}{'kappa':>8}")
for name, proba in answers.items():
    error = expected_calibration_error(y[test], proba, groups=groups[test])
    report = staging_report(y[test], proba.argmax(axis=1), groups=groups[test])
    losses[name] = np.array(
        [
            log_loss(y[groups == who], proba[groups[test] == who], labels=range(5))
            for who in people[:6]
        ]
    )
    low, high = error.interval
    print(
        f"{name:24}{error.mean:9.3f} [{low:.3f}, {high:.3f}]"
        f"{losses[name].mean():10.3f}{report.mean['kappa']:8.3f}"
    )

# %%
# The temperature was chosen by the log loss of other people. Whether it lowers that of
# these six is a question about six differences.

before, after, _ = losses.values()
change = paired_test(after, before)
low, high = change.interval
print("Log loss with the temperature minus without it, six simulated people:")
print(f"  {change.difference:+.3f} [{low:+.3f}, {high:+.3f}], p = {change.pvalue:.3f}")

# %%
# The reliability curve
# ---------------------
# Epochs are sorted by how sure the student is of its most probable stage, into eight equal
# parts. On the diagonal it is right as often as it says; below, it is too sure.

figure, ax = plt.subplots(figsize=(5.5, 5), layout="constrained")
ax.plot([0.2, 1], [0.2, 1], color="0.7", linestyle="--")
for name, proba in answers.items():
    right = proba.argmax(axis=1) == y[test]
    accuracy, confidence = calibration_curve(
        right, proba.max(axis=1), n_bins=8, strategy="quantile"
    )
    ax.plot(confidence, accuracy, "o-", label=name)
ax.set(
    xlabel="How sure the student is",
    ylabel="How often it is right",
    title="Six new people, simulated nights",
)
ax.legend(frameon=False)
plt.show()

# %%
# All epochs of six people are in these curves. People differ: who is calibrated on average
# may be too sure for one person and too timid for another, and only more people in the
# set that is spared can tell.
