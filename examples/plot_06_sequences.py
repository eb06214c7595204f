"""
Whole nights instead of single epochs
=====================================

A scorer looks at what came before and what comes after. So does SeqSleepNet (Phan et al.
2019), which reads the spectrograms of twenty consecutive epochs and predicts all of them.
Here it is trained on one EEG channel of a larger cohort and carried over to the EOG of a
small one: without further training, fine-tuned, and, for comparison, from scratch.

All nights are **simulated**. The pictures need ``skleepkd[plot]``.
"""

# %%
# Two cohorts, two channels
# -------------------------
# Ten subjects with C4-A1, and six others with an EOG. Their seeds differ, so nobody is in
# both. A stager of sequences must know which epochs follow each other: a ``PairedEpochs``
# says so, and a bare array would be taken for one night.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import LeaveOneGroupOut, cross_validate
from sklearn.pipeline import make_pipeline

from skleepkd.datasets import make_cohort
from skleepkd.metrics import staging_report
from skleepkd.model_selection import compare
from skleepkd.plotting import HypnogramDisplay
from skleepkd.preprocessing import LogSpectrogram
from skleepkd.recipes import phan2019

shape = {"source": None, "sfreq": 100.0, "n_epochs": 160}
large = make_cohort(10, target=["C4-A1"], random_state=90, **shape)
small = make_cohort(6, target=["EOG"], random_state=9, **shape)

# %%
# Spectrograms, then sequences
# ----------------------------
# ``LogSpectrogram`` learns the mean and deviation of each frequency from the training
# subjects, so it is a step of the pipeline. The recipe is the paper's, made smaller and
# faster: narrow recurrent layers, a higher learning rate, few passes. Windows begin at
# every epoch and overlap; ``neighbouring_windows`` encodes epochs that neighbours share
# once, which makes a pass several times faster.

budget = {
    "max_epochs": 3,
    "lr": 3e-3,
    "neighbouring_windows": 8,
    "validation": None,
    "callbacks__best_weights": None,
    "random_state": 0,
}
network = {"module__hidden_size": 24, "module__attention_size": 24}
pretrained = make_pipeline(LogSpectrogram(), phan2019("scratch", **network, **budget))
pretrained.fit(large.X, large.y)

# %%
# Carried over
# ------------
# A fitted stager given to the recipe is copied and never trained in place. It has seen none
# of the small cohort's subjects, so it may serve all folds. "direct" trains nothing but the
# spectrogram's statistics; "all" fine-tunes every weight. The pretrained network has had
# three passes over ten other subjects, so the fair rival of the fine-tuned one is the stager
# from scratch with twice the passes.

scratch = phan2019("scratch", **network, **budget)
stagers = {
    "direct": phan2019("direct", pretrained[-1], **budget),
    "fine-tuned": phan2019("all", pretrained[-1], **budget),
    "scratch": scratch,
    "scratch, twice the passes": clone(scratch).set_params(max_epochs=6),
}
methods = {name: make_pipeline(LogSpectrogram(), each) for name, each in stagers.items()}
rival = "scratch, twice the passes"
print("Simulated nights; from the EOG, each subject left out in turn")
print(compare(methods, small.X, small.y, baseline=rival, seeds=1))

# %%
# They are compared within subjects; where the interval holds 0, this cohort does not tell
# them apart.
#
# Twenty predictions an epoch
# ---------------------------
# Inside a night an epoch lies in twenty windows, and each yields probabilities for it. They
# are multiplied ("product", as in the paper), averaged ("mean"), or taken from the window
# in which the epoch is in the middle ("centre"). Fusion happens in ``predict``, so the
# fitted networks of the folds serve all three; ``cross_validate`` returns them.

kept = {"return_estimator": True, "return_indices": True}
by_subject = {"groups": small.groups, "cv": LeaveOneGroupOut()}
fold = cross_validate(methods["fine-tuned"], small.X, small.y, **by_subject, **kept)
print("Simulated nights; the fine-tuned networks, their windows fused in three ways")
for fusion in ("mean", "centre", "product"):
    predicted = np.empty_like(small.y)
    for stager, test in zip(fold["estimator"], fold["indices"]["test"], strict=True):
        stager[-1].set_params(fusion=fusion)
        predicted[test] = stager.predict(small.X[test])
    report = staging_report(small.y, predicted, groups=small.groups)
    low, high = report.interval["kappa"]
    print(f"  {fusion:8} {report.mean['kappa']:.3f} [{low:.3f}, {high:.3f}]")

# %%
# One of the nights, staged by the fine-tuned network that has not seen this subject.

test = fold["indices"]["test"][0]
display = HypnogramDisplay.from_estimator(
    fold["estimator"][0], small.X[test], small.y[test], classes="aasm"
)
display.figure_.suptitle("A simulated night, staged from the EOG")
plt.show()
