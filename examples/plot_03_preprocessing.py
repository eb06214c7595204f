"""
Preprocessing before and inside a pipeline
==========================================

Two kinds of preprocessing, in two places. What needs the continuous recording (filters,
resampling) is done once, before epochs are cut, by braindecode's ``Preprocessor``. What
works on epochs (scaling, standardising) belongs in a scikit-learn ``Pipeline``: it stays
with the stager, and is fitted on the training folds alone.

All nights are **simulated**.
"""

# %%
# Recordings
# ----------
# Six subjects' nights as MNE has them: one ``Raw`` with scalp and ear channels in volts at
# 100 Hz, and the scorer's stages as annotations. Your own come from ``mne.io.read_raw_edf``
# or a similar function.

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
from sklearn.model_selection import LeaveOneGroupOut, cross_validate
from sklearn.pipeline import Pipeline
from skorch.callbacks import LRScheduler
from small_network import SmallNetwork

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import simulate_night
from skleepkd.metrics import bootstrap_interval, paired_test, sleep_scorers
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


nights = BaseConcatDataset(
    [RawDataset(record(k), {"subject": f"subject-{k}"}) for k in range(6)]
)
before = nights.datasets[0].raw.copy()
print(f"Simulated: {len(nights.datasets)} nights, {before}")

# %%
# Before epochs are cut
# ---------------------
# ``preprocess`` applies each step to each recording, in place. A filter learns nothing from
# the data, so it may see all subjects; what *does* learn (a mean over subjects, a selection
# of channels by their scores) may not.

preprocess(
    nights,
    [
        Preprocessor("filter", apply_on_array=False, l_freq=0.4, h_freq=30.0),
        Preprocessor("resample", apply_on_array=False, sfreq=64.0),
    ],
)
after = nights.datasets[0].raw

figure, axes = plt.subplots(2, 1, figsize=(9, 4), sharex=True, layout="constrained")
for ax, raw, title in zip(axes, (before, after), ("As recorded", "Filtered"), strict=True):
    seconds, channel = raw.times, raw.get_data(picks="LE")[0]
    shown = (seconds >= 600) & (seconds < 630)
    ax.plot(seconds[shown], 1e6 * channel[shown], "k", linewidth=0.7)
    ax.set(ylabel="Left ear (µV)", title=f"{title}, {raw.info['sfreq']:g} Hz (simulated)")
axes[-1].set_xlabel("Time (s)")
plt.show()

# %%
# Windows become a pair
# ---------------------
# braindecode cuts windows by the annotations, and ``from_windows`` makes the pair: which
# channels the teacher sees, which are worn. Volts become microvolts here.

windows = create_windows_from_events(
    nights,
    window_size_samples=30 * 64,
    window_stride_samples=30 * 64,
    mapping={name: code for code, name in enumerate(STAGES)},
)
X = PairedEpochs.from_windows(windows, source=SCALP, target=EAR)
y = windows.get_metadata()["target"].to_numpy()
print(X)

# %%
# Steps of a pipeline
# -------------------
# ``PairedTransformer`` prepares each modality in its own way. Any function of one epoch
# becomes a transformer by ``EpochwiseTransformer``, such as braindecode's
# ``exponential_moving_standardize``, here for the scalp; the ears are scaled to
# mean 0 and deviation 1 in each epoch. In ``predict`` the ears come alone, and are treated
# alike.

training = {"classes": "aasm", "max_epochs": 8, "lr": 3e-3}
schedule = [LRScheduler("CosineAnnealingLR", T_max=8)]
student = DistilledSleepStager(
    teacher=SleepStager(SmallNetwork, callbacks=schedule, **training),
    feature_loss=None,
    alpha=0.5,
    callbacks=schedule,
    random_state=0,
    **training,
)
moving = EpochwiseTransformer(exponential_moving_standardize, {"factor_new": 0.01})
scaling = PairedTransformer(source=moving, target=EpochScaler("standard"))
pipelines = {
    "microvolts": Pipeline([("student", student)]),
    "each epoch scaled": Pipeline([("scaling", scaling), ("student", student)]),
}

# %%
# The whole pipeline is cross-validated, one subject left out at a time. Scaling removes
# information (how large the signal was) and differences (of skulls and electrodes); which
# of the two matters more depends on the data, and six subjects may be too few to show it.

groups = X.subject
scores = {
    name: cross_validate(
        pipeline,
        X,
        y,
        groups=groups,
        cv=LeaveOneGroupOut(),
        scoring=sleep_scorers()["kappa"],
        return_estimator=True,
    )
    for name, pipeline in pipelines.items()
}
print("Simulated nights; kappa over six subjects, 95 % intervals over subjects")
for name, result in scores.items():
    kappa = result["test_score"]
    low, high = bootstrap_interval(kappa)
    print(f"  {name:18} {kappa.mean():.3f} [{low:.3f}, {high:.3f}]")
change = paired_test(*(result["test_score"] for result in reversed(scores.values())))
low, high = change.interval
print(f"  difference {change.difference:+.3f} [{low:+.3f}, {high:+.3f}], ", end="")
print(f"p = {change.pvalue:.3f}")

# %%
# The fitted pipeline stages new nights that have been filtered and resampled likewise. To
# keep those steps with it too, so that a file goes in and a hypnogram comes out, see
# :class:`~skleepkd.RecordingStager`.

fitted = scores["each epoch scaled"]["estimator"][0]
night = groups == groups[0]
print(
    "Stages of the subject left out first:", fitted.predict(X["target"][night])[:20], "..."
)
