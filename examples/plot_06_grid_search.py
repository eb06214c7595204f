"""
Searching for a student's parameters
====================================

How much weight on the teacher's probabilities, how much softened, and how large a teacher?
A distilled stager's parameters, and its teacher's (``teacher__...``), are searched like
those of any scikit-learn estimator. Two things need care: subjects must not be on both
sides of a split, and the winner of a search is partly lucky, so that it must be tested on
subjects who had no part in the choice.

All nights are **simulated**.
"""

# %%
# Six subjects to search with, and six to test the winner. The second six are held out.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import Memory
from sklearn.model_selection import GridSearchCV, GroupKFold
from skorch.callbacks import LRScheduler
from small_network import SmallNetwork

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import bootstrap_interval, sleep_scorers, staging_report

cohort = make_cohort(n_subjects=12, n_epochs=180, random_state=6)
X, y, groups = cohort.X, cohort.y, cohort.groups
searched = np.isin(groups, np.unique(groups)[:6])

# %%
# The search
# ----------
# The student follows the teacher's probabilities:
# ``alpha`` is the share of that term of the loss, ``temperature`` softens them. Twelve
# students are tried in each of three folds, but a teacher depends only on its own
# parameters and its training subjects. ``memory`` keeps it, so that the students of a fold
# share it.

training = {"classes": "aasm", "max_epochs": 6, "lr": 3e-3}
schedule = [LRScheduler("CosineAnnealingLR", T_max=6)]
memory = Memory(tempfile.mkdtemp(prefix="teachers-"), verbose=0)
student = DistilledSleepStager(
    teacher=SleepStager(SmallNetwork, callbacks=schedule, **training),
    module=SmallNetwork,
    feature_loss=None,
    alpha=0.5,
    memory=memory,
    callbacks=schedule,
    random_state=0,
    **training,
)
grid = {
    "alpha": [0.3, 0.6, 0.9],
    "temperature": [1.0, 4.0],
    "teacher__module__n_filters": [8, 24],
}
search = GridSearchCV(
    student, grid, scoring=sleep_scorers()["kappa"], cv=GroupKFold(3), error_score="raise"
)
search.fit(X[searched], y[searched], groups=groups[searched])

n_students = 3 * len(search.cv_results_["params"]) + 1
n_teachers = len(list(Path(memory.location).rglob("output.pkl")))
print(f"{n_students} students were fitted, and {n_teachers} teachers for all of them.")
print("The winner:", search.best_params_)

# %%
# The scores of the search
# ------------------------
# The spread of the three folds is larger than most differences between the students: the
# winner is one of several that this search cannot tell apart.

results = search.cv_results_
print("Simulated nights; kappa in the folds of the search: mean (standard deviation)")
for params, mean, std in zip(
    results["params"], results["mean_test_score"], results["std_test_score"], strict=True
):
    alpha, n_filters, temperature = (params[name] for name in sorted(params))
    print(
        f"  alpha {alpha}, temperature {temperature:g}, teacher with {n_filters:2} filters:"
        f"  {mean:.3f} ({std:.3f})"
    )

# the grid's order is that of the sorted names: alpha, n_filters, temperature
kappa = results["mean_test_score"].reshape(3, 2, 2)
figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
for k, ax in enumerate(axes):
    image = ax.imshow(kappa[:, k], vmin=kappa.min(), vmax=kappa.max(), aspect="auto")
    ax.set_xticks([0, 1], grid["temperature"])
    ax.set_yticks(range(3), grid["alpha"])
    title = f"Teacher with {grid['teacher__module__n_filters'][k]} filters"
    ax.set(xlabel="Temperature", title=title)
axes[0].set_ylabel("Alpha")
figure.colorbar(image, ax=axes, label="Kappa in the search (simulated)")
plt.show()

# %%
# The winner on new subjects
# --------------------------
# ``search`` has fitted the winner on all six subjects of the search; now it stages the six
# who were held out. Both numbers are printed: the score that chose it does not estimate how
# well it does.

predicted = search.predict(X[~searched])
report = staging_report(y[~searched], predicted, groups=groups[~searched])
new = np.array([scores["kappa"] for scores in report.per_subject.values()])
low, high = bootstrap_interval(new)
print("Simulated nights; kappa of the winner")
print(f"  in the search, which chose it:  {search.best_score_:.3f}")
print(f"  on six subjects held out:       {new.mean():.3f} [{low:.3f}, {high:.3f}]")

# %%
# Whether a teacher helps at all is another question. It needs a rival without a teacher
# that was tuned as carefully: as many candidates, the same folds, and as many passes as
# student and teacher have together.

memory.clear(warn=False)
