"""
From your own EDF files to an exported student
==============================================

A laboratory's files go in: for each subject an EDF of the polysomnography, an EDF of the
wearable that was worn beside it, and the scoring. A student comes out that stages a new EDF
of the wearable alone, writes what other programs read, and is exported for programs without
Python.

The files are written here, of **simulated** nights, so that the page runs. Put your own
paths in their place; the rest stays.
"""

# %%
# The files
# ---------
# Seven subjects. The two devices have clocks of their own: the wearable was started some
# seconds after the polysomnography, and its clock gains on the other one. Both numbers come
# from a common event at the beginning and at the end of the night (a button, a blink), or
# from the correlation of two channels.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import onnxruntime
from braindecode.preprocessing import Preprocessor
from simulated_files import write_night
from small_network import SmallNetwork

from skleepkd import (
    DistilledSleepStager,
    PairedEpochs,
    RecordingStager,
    SleepStager,
    export_onnx,
    load,
    save,
)
from skleepkd.metrics import staging_report
from skleepkd.stages import stages_at

mne.set_log_level("warning")
folder = Path(tempfile.mkdtemp(prefix="my-nights-"))
OFFSET, DRIFT = 12.4, 3e-5
files = [write_night(folder, subject, OFFSET, DRIFT) for subject in range(7)]
print("Simulated files:", *sorted(path.name for path in folder.iterdir())[:3], "...")

# %%
# Reading, filtering, resampling
# ------------------------------
# MNE reads the recordings, in volts. What is done to them before epochs are cut is a list
# of braindecode's ``Preprocessor``. The list is kept: new recordings need the same.

preprocessors = [
    Preprocessor("filter", apply_on_array=False, l_freq=0.4, h_freq=30.0),
    Preprocessor("resample", apply_on_array=False, sfreq=64.0),
]


def read(path):
    """Read a recording and prepare it."""
    raw = mne.io.read_raw(path, preload=True)
    for step in preprocessors:
        step.apply(raw)
    return raw


print("Simulated, as it is on disk:", mne.io.read_raw(files[0][1]))

# %%
# The pair
# --------
# ``from_raws`` cuts the same 30 s out of both recordings, wherever the scoring has a stage
# and both devices were running; volts become microvolts. ``stages_at`` gives the rows their
# labels. Each row carries its subject, by which nights are split and scored.

pairs, labels = [], []
for number, (psg, ear, scoring) in enumerate(files):
    annotations = mne.read_annotations(scoring)
    pair = PairedEpochs.from_raws(
        read(psg),
        read(ear),
        annotations,
        offset=OFFSET,
        drift=DRIFT,
        subject=f"subject{number}",
        recording=f"subject{number}-night1",
    )
    pairs.append(pair)
    labels.append(stages_at(annotations, pair.onset))
X, y = PairedEpochs.concatenate(pairs), np.concatenate(labels)
print(X)
print("Channels:", X.ch_names)

# %%
# Do the clocks agree? The left ear sees some of what C3 sees, so with the right offset and
# drift the two are most alike at a lag of zero, at the end of the night too. A lag that
# grows over the night is a drift: on the right it is ignored.

psg, ear, scoring = files[0]
recordings = (read(psg), read(ear), mne.read_annotations(scoring))
ignored = PairedEpochs.from_raws(*recordings, offset=OFFSET)
lags = np.arange(-32, 33)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
for ax, pair, title in zip(
    axes, (pairs[0], ignored), ("Drift known", "Drift ignored"), strict=True
):
    for name, part in {"first 40 epochs": pair[:40], "last 40 epochs": pair[-40:]}.items():
        c3 = part["source"][:, 0, 32:-32].ravel()
        left = [np.roll(part["target"][:, 1], -lag, axis=1)[:, 32:-32] for lag in lags]
        alike = [np.corrcoef(c3, shifted.ravel())[0, 1] for shifted in left]
        ax.plot(lags / 64, alike, label=name)
        print(f"{title}, {name}: a lag of {lags[np.argmax(alike)] / 64:+.3f} s (simulated)")
    ax.set(title=f"{title} (simulated)", xlabel="Lag of the ear (s)")
axes[0].set_ylabel("Correlation of C3-O1 and LE")
axes[1].legend(frameon=False)
plt.show()

# %%
# The student
# -----------
# The last subject is held out, to play the new recording. (Cross-validation by subjects
# tells how good the student is, see the first lesson.)

new = X.subject == "subject6"
training = {"classes": "aasm", "max_epochs": 25, "lr": 2e-3}
student = DistilledSleepStager(
    teacher=SleepStager(SmallNetwork, **training),
    module=SmallNetwork,
    feature_loss=None,
    alpha=0.7,
    random_state=0,
    **training,
)
student.fit(X[~new], y[~new])

# %%
# A new recording
# ---------------
# A :class:`~skleepkd.RecordingStager` is the student together with the preprocessing. It
# takes the EDF as it is, finds the channels by their names, and refuses what the student
# was not fitted to. ``start`` is where the first epoch begins, here on the grid of the
# scoring.

stager = RecordingStager(student, preprocessors)
new_file = files[-1][1]
night = stager.stage(new_file, start=(30.0 - OFFSET) * (1 + DRIFT))
print(night)

display = night.plot()
display.figure_.suptitle("A simulated night, from its EDF file")
plt.show()

# %%
# This night has a scoring after all. (Over so short a night the drift moves the grid by
# an eighth of a second at most.)

scored = mne.read_annotations(files[-1][2])
truth = stages_at(scored, np.round((night.onset + OFFSET) / 30.0) * 30.0)
kappa = staging_report(truth, night.stages).pooled["kappa"]
print(f"Agreement with the scorer: kappa {kappa:.2f}, of one simulated night")

# %%
# For other programs
# ------------------
# Annotations go back to the recording in MNE, the events file is that of BIDS, and
# YASA's hypnogram brings its sleep statistics.

raw = mne.io.read_raw(new_file).set_annotations(night.to_annotations())
print("Annotations:", *raw.annotations.description[:3], "...")

night.to_events(folder / "sub-06_task-sleep_events.tsv")
print(*(folder / "sub-06_task-sleep_events.tsv").read_text().splitlines()[:3], sep="\n")

statistics = night.to_yasa().sleep_statistics()
print(f"Simulated sleep: {statistics['TST']:.0f} min, efficiency {statistics['SE']:.0f} %")

# %%
# To keep
# -------
# One file holds weights, parameters and preprocessing, and no code. So a network of your
# own is given again when it is loaded; those of the library and of braindecode are found
# by their names.

save(stager, folder / "ear.safetensors")
again = load(folder / "ear.safetensors", module=SmallNetwork)
same = again.stage(new_file, start=(30.0 - OFFSET) * (1 + DRIFT))
print("The same predictions:", np.array_equal(same.stages, night.stages))

# %%
# To export
# ---------
# The network as an ONNX file, for programs without Python. It is given epochs in microvolts
# that were filtered and resampled as above, and it is checked against the original before
# it is put in place.

print(export_onnx(student, folder / "ear.onnx"))
session = onnxruntime.InferenceSession(folder / "ear.onnx")
epochs = X[new]["target"][:4]
(probabilities,) = session.run(["probabilities"], {"epochs": epochs})
print(
    "Largest difference:",
    f"{np.abs(probabilities - student.predict_proba(epochs)).max():.0e}",
)
