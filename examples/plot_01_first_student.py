"""
A first student
===============

Six subjects wore ear electrodes during a night of polysomnography. A stager of the
scalp-EEG becomes the teacher, a stager of the ear-EEG its student, and afterwards the ears
are enough. This page trains both, looks at one night of an unseen subject, and then tests
whether the teacher was of any use.

All nights are **simulated**: no number here says how a method does on people. The
pictures need ``skleepkd[plot]``.
"""

# %%
# A cohort
# --------
# ``make_cohort`` simulates simultaneous nights. ``cohort.X`` is a
# :class:`~skleepkd.PairedEpochs`: row i of its ``target`` (the ears) and of its ``source``
# (the scalp) are the same 30 s, in microvolts. It is sliced like an array, and each row
# carries its subject and its night.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from skorch.callbacks import LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.model_selection import compare
from skleepkd.plotting import HypnogramDisplay

cohort = make_cohort(n_subjects=6, n_epochs=160, random_state=0)
X, y, groups = cohort.X, cohort.y, cohort.groups
print(f"Simulated: {X}")
print("Stages by code (W, N1, N2, N3, REM):", np.bincount(y, minlength=5))

# %%
# A stager and a student
# ----------------------
# A :class:`~skleepkd.SleepStager` is a scikit-learn classifier around a network, here a
# small one. (``SleepStager("USleep")`` is a large one, which needs hours on a CPU.) Its
# learning rate falls to zero over the passes; a pass is a training epoch of the network.


def budget(passes):
    """Return the parameters that all stagers of this page share."""
    schedule = LRScheduler("CosineAnnealingLR", T_max=passes)
    return {"classes": "aasm", "max_epochs": passes, "lr": 3e-3, "callbacks": [schedule]}


ear = SleepStager("LogPowerNet", random_state=0, **budget(8))

# %%
# A student is given a teacher that is *not fitted*. ``fit`` clones it, fits the clone on the
# scalp of the very same rows, and lets the student follow its features. The student
# begins at the teacher's weights here. The teacher has trained for as many passes as the
# student, so a fair rival is an ear stager with twice the passes.

student = DistilledSleepStager(
    teacher=SleepStager("LogPowerNet", **budget(8)),
    alpha=0.0,
    feature_loss=FeatureMSE(standardize=True),
    feature_weight=10.0,
    start_from_teacher=True,
    random_state=0,
    **budget(8),
)
twice = clone(ear).set_params(**budget(16))
stagers = {"ear": ear, "ear, twice the passes": twice, "distilled": student}

# %%
# One subject's night
# -------------------
# One subject is left out, the student is fitted on the others, and stages the night from
# the ears alone: of a pair, ``predict`` reads nothing but the target.

left_out = groups == groups[-1]
student.fit(X[~left_out], y[~left_out])
display = HypnogramDisplay.from_estimator(student, X["target"][left_out], y[left_out])
display.figure_.suptitle("A simulated night, staged from the ears by the student")
plt.show()

# %%
# Every subject once
# ------------------
# One night is an anecdote. Here each subject is left out in turn, also for the teacher,
# which is fitted anew in each fold, on the subjects of that fold.

result = compare(stagers, X, y, baseline="ear, twice the passes", seeds=1)
print("Simulated nights, 95 % bootstrap intervals over subjects")
print(result)

# %%
# Subjects differ far more than methods do, so methods are compared within subjects. Where
# the interval of the difference holds 0, nothing has been shown, for or against the
# teacher.

result.plot().set_title("Six simulated subjects")
plt.show()
