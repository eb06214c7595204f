"""
Preprocessing in a pipeline, and a search
=========================================

Two kinds of preprocessing, in two places. What needs the continuous recording (filters,
resampling) is done once, before epochs are cut. What works on epochs (scaling,
standardising) belongs in a scikit-learn ``Pipeline``, where it is fitted on the training
folds alone and stays with the stager. And how much weight on the teacher's probabilities,
how large a teacher, to scale or not: the parameters of all of them, the teacher's too, are
searched like those of any estimator.

All nights are **simulated**. The pictures need ``skleepkd[plot]``.
"""

# %%
# Recordings
# ----------
# Ten subjects' nights as MNE has them: one ``Raw`` with scalp and ear channels in volts at
# 100 Hz, and the scorer's stages as annotations.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import (
    Preprocessor,
    create_windows_from_events,
    exponential_moving_standardize,
    preprocess,
)
from joblib import Memory
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from skorch.callbacks import LRScheduler

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import simulate_night
from skleepkd.metrics import sleep_scorers, staging_report
from skleepkd.preprocessing import EpochScaler, EpochwiseTransformer, PairedTransformer

mne.set_log_level("warning")
SCALP, EAR = ["C3-O1", "C4-O2"], ["L-R", "LE", "RE"]
STAGES = ["W", "N1", "N2", "N3", "REM"]


def record(subject):
    """Simulate the recording of a night."""
    night = simulate_night(
        150, sfreq=100.0, subject=subject, derivations=SCALP + EAR, random_state=3
    )
    info = mne.create_info(night.ch_names, night.sfreq, "eeg")
    raw = mne.io.RawArray(1e-6 * night.signals, info)
    onset, names = 30.0 * np.arange(len(night.y)), [STAGES[code] for code in night.y]
    return raw.set_annotations(mne.Annotations(onset, 30.0, names))


subjects = [RawDataset(record(k), {"subject": f"subject-{k}"}) for k in range(10)]
nights = BaseConcatDataset(subjects)

# %%
# Before epochs are cut
# ---------------------
# braindecode's ``preprocess`` applies each step to each recording, in place. A filter learns
# nothing from the data, so it may see all subjects; what *does* learn (a mean over
# subjects, a selection of channels by their scores) may not.

steps = [
    Preprocessor("filter", apply_on_array=False, l_freq=0.4, h_freq=30.0),
    Preprocessor("resample", apply_on_array=False, sfreq=64.0),
]
preprocess(nights, steps)

# %%
# braindecode cuts windows by the annotations, and ``from_windows`` makes the pair: which
# channels the teacher sees, which are worn. Volts become microvolts here.

windows = create_windows_from_events(
    nights,
    window_size_samples=30 * 64,
    window_stride_samples=30 * 64,
    mapping={name: code for code, name in enumerate(STAGES)},
)
X = PairedEpochs.from_windows(windows, source=SCALP, target=EAR)
y, groups = windows.get_metadata()["target"].to_numpy(), X.subject
print(f"Simulated: {X}")

# %%
# Steps of a pipeline
# -------------------
# ``PairedTransformer`` prepares each modality in its own way. Any function of one epoch
# becomes a transformer by ``EpochwiseTransformer``, such as braindecode's
# ``exponential_moving_standardize``, here for the scalp; the ears are scaled to mean 0 and
# deviation 1 in each epoch. In ``predict`` the ears come alone, and are treated alike.

moving = EpochwiseTransformer(exponential_moving_standardize, {"factor_new": 0.01})
scaling = PairedTransformer(source=moving, target=EpochScaler("standard"))
memory = Memory(tempfile.mkdtemp(prefix="teachers-"), verbose=0)
schedule = [LRScheduler("CosineAnnealingLR", T_max=6)]
training = {"classes": "aasm", "max_epochs": 6, "lr": 3e-3, "callbacks": schedule}
student = DistilledSleepStager(
    teacher=SleepStager("LogPowerNet", **training),
    module="LogPowerNet",
    feature_loss=None,
    alpha=0.5,
    temperature=2.0,
    start_from_teacher=False,
    memory=memory,
    random_state=0,
    **training,
)
pipeline = Pipeline([("scaling", scaling), ("student", student)])

# %%
# The search
# ----------
# Scaling removes information (how large the signal was) and differences (of skulls and
# electrodes). ``alpha`` is the share of the teacher's probabilities in the loss. Eight
# pipelines are tried in each of three folds of six subjects, but a teacher depends only on
# its own parameters and its training epochs: ``memory`` keeps it, so that students share it.

searched = np.isin(groups, np.unique(groups)[:6])
grid = {
    "scaling": [scaling, "passthrough"],
    "student__alpha": [0.3, 0.9],
    "student__teacher__module__n_filters": [8, 24],
}
search = GridSearchCV(
    pipeline, grid, scoring=sleep_scorers()["kappa"], cv=GroupKFold(3), error_score="raise"
)
search.fit(X[searched], y[searched], groups=groups[searched])

n_students = 3 * len(search.cv_results_["params"]) + 1
n_teachers = len(list(Path(memory.location).rglob("output.pkl")))
memory.clear(warn=False)
print(f"{n_students} students were fitted, and {n_teachers} teachers for all of them.")
print("The winner:", {name: str(value)[:20] for name, value in search.best_params_.items()})

# %%
# The spread of the three folds is larger than most differences: the winner is one of several
# that this search cannot tell apart.

# the grid's order is that of its sorted names
mean = search.cv_results_["mean_test_score"].reshape(2, 2, 2)
spread = search.cv_results_["std_test_score"].mean()
print(f"Simulated nights; mean kappa {mean.min():.3f} to {mean.max():.3f}", end="")
print(f", standard deviation over the folds {spread:.3f}")
figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
for ax, kappa, title in zip(axes, mean, ("Scaled epochs", "Microvolts"), strict=True):
    image = ax.imshow(kappa, vmin=mean.min(), vmax=mean.max(), aspect="auto")
    ax.set_xticks([0, 1], grid["student__teacher__module__n_filters"])
    ax.set_yticks([0, 1], grid["student__alpha"])
    ax.set(xlabel="The teacher's filters", title=title)
axes[0].set_ylabel("Alpha")
figure.colorbar(image, ax=axes, label="Kappa in the search (simulated)")
plt.show()

# %%
# The winner on new subjects
# --------------------------
# ``search`` has fitted the winner on all six subjects; now it stages the four who were held
# out. The score that chose it does not estimate how well it does.

predicted = search.predict(X[~searched])
report = staging_report(y[~searched], predicted, groups=groups[~searched])
low, high = report.interval["kappa"]
print("Simulated nights; kappa of the winner")
print(f"  in the search, which chose it: {search.best_score_:.3f}")
print(f"  on four others: {report.mean['kappa']:.3f} [{low:.3f}, {high:.3f}]")

# %%
# Whether a teacher helps at all is another question. It needs a rival without a teacher
# that was tuned as carefully: as many candidates, the same folds, and as many passes as
# student and teacher have together.
#
# The fitted pipeline stages new nights that have been filtered and resampled likewise. To
# keep those steps with it, so that a file goes in and a hypnogram comes out, see
# :class:`~skleepkd.RecordingStager`.
