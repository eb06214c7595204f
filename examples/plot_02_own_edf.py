"""
From your own EDF files to an exported student
==============================================

A laboratory's files go in: for each subject an EDF file of the polysomnography, with the
stages, and one of the wearable that was worn beside it. A student comes out that stages a
new EDF file of the wearable alone, writes what other programs read, and is kept as a file,
and as another one for programs without Python (``pip install "skleepkd[onnx,plot]"``).

The files are written here, of **simulated** nights, so that the page runs. Put your own
paths in their place; the rest stays.
"""

# %%
# The files
# ---------
# Six nights of two devices, and a seventh that plays the new recording. The polysomnography
# has 100 Hz and its stages as EDF+ annotations, the wearable 128 Hz, and a clock of its
# own: it was switched on 12.4 s later (the headers, in whole seconds, say 12 s), and its
# clock gains 30 microseconds a second. Below, both are found in the signals.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import onnxruntime
from braindecode.preprocessing import Preprocessor

from skleepkd import (
    DistilledSleepStager,
    PairedEpochs,
    RecordingStager,
    SleepStager,
    check_alignment,
    describe,
    estimate_clock,
    export_onnx,
    load,
    save,
)
from skleepkd.datasets import simulate_night
from skleepkd.metrics import staging_report
from skleepkd.stages import stages_at

mne.set_log_level("warning")
OFFSET, DRIFT = 12.4, 3e-5
SCALP, EAR = ["C3-O1", "C4-O2"], ["L-R", "LE", "RE"]
SUBJECTS = ["ann", "ben", "cleo", "dora", "emil", "fay", "new"]


def fixed(width, *values):
    """Write values as an EDF header has them."""
    return "".join(str(value).ljust(width) for value in values)


def write_edf(path, names, signals, sfreq, start, stages=()):
    """Write microvolts in steps of 0.1 as an EDF file of records of 30 s."""
    n_records, n_times = signals.shape[1] // (30 * sfreq), 30 * sfreq
    digital = np.clip(np.round(10 * signals), -32768, 32767).astype("<i2")
    # (channels, times) -> (records, channels, times of a record)
    records = digital[:, : n_records * n_times].reshape(len(names), n_records, n_times)
    data = [record.tobytes() for record in records.swapaxes(0, 1)]
    sizes, units = [n_times] * len(names), ["uV"] * len(names)
    if len(stages):
        names, sizes, units = [*names, "EDF Annotations"], [*sizes, 40], [*units, ""]
        for k, stage in enumerate(stages):
            text = f"+{30 * k}\x1530\x14Sleep stage {'W123R'[stage]}\x14"
            data[k] += f"+{30 * k}\x14\x14\0{text}\0".encode().ljust(80, b"\0")
    n = len(names)
    header = fixed(8, "0") + fixed(80, "X X X X", "Startdate X X X X")
    header += fixed(8, "01.03.26", start, 256 * (n + 1))
    header += fixed(44, "EDF+C" if len(stages) else "") + fixed(8, n_records, 30)
    header += fixed(4, n) + fixed(16, *names) + fixed(80, *[""] * n) + fixed(8, *units)
    header += fixed(8, *[-3276.8] * n, *[3276.7] * n, *[-32768] * n, *[32767] * n)
    header += fixed(80, *[""] * n) + fixed(8, *sizes) + fixed(32, *[""] * n)
    path.write_bytes(header.encode() + b"".join(data))


def write_night(folder, number):
    """Write one subject's polysomnography and what the wearable recorded beside it."""
    simulation = {"n_epochs": 140, "subject": number, "random_state": 2}
    psg = simulate_night(sfreq=100, derivations=SCALP, **simulation)
    name = SUBJECTS[number]
    write_edf(folder / f"{name}-psg.edf", SCALP, psg.signals, 100, "22.30.00", psg.y)
    ear = simulate_night(sfreq=128, derivations=EAR, **simulation)
    times = np.arange(ear.signals.shape[1]) / 128
    taken = OFFSET + times / (1 + DRIFT)  # by the other clock
    taken = taken[taken <= times[-1]]
    worn = np.array([np.interp(taken, times, signal) for signal in ear.signals])
    write_edf(folder / f"{name}-ear.edf", EAR, worn, 128, "22.30.12")


folder = Path(tempfile.mkdtemp(prefix="my-nights-"))
for number in range(len(SUBJECTS)):
    write_night(folder, number)
print("Simulated:", *sorted(path.name for path in folder.iterdir())[:4], "...")

# %%
# Reading, filtering, resampling
# ------------------------------
# MNE reads the recordings, in volts. What is done to them before epochs are cut is a list of
# braindecode's ``Preprocessor`` (``apply_on_array=False`` calls a method of MNE). It may be
# another one for each device; keep the wearable's, since new recordings need the same.

preprocessors = [
    Preprocessor("filter", apply_on_array=False, l_freq=0.4, h_freq=30.0),
    Preprocessor("resample", apply_on_array=False, sfreq=64.0),
]


def read(path):
    """Read a recording and prepare it."""
    raw = mne.io.read_raw(path, preload=True)
    for step in preprocessors:
        raw = step.apply(raw)
    return raw


print("Simulated, as it is on disk:", mne.io.read_raw(folder / "ann-ear.edf"))

# %%
# Two clocks
# ----------
# The ears see some of what the scalp sees, so the lag at which the two are most alike tells
# when each second of one was taken by the clock of the other; a lag that grows is a drift.
# :func:`~skleepkd.estimate_clock` finds both; a button that both devices saw would do too.

clocks = {}
for subject in SUBJECTS:
    psg, ear = (read(folder / f"{subject}-{device}.edf") for device in ("psg", "ear"))
    clocks[subject] = estimate_clock(
        source_raw=psg, target_raw=ear, source=SCALP, target=EAR
    )
print("Simulated:", clocks["ann"])
ax = clocks["ann"].plot()
ax.set_title("Where the ears are most like the scalp (simulated)")
plt.show()

# %%
# The pair
# --------
# ``from_raws`` cuts the same 30 s out of both recordings, wherever the scoring has a stage
# and both devices were running; volts become microvolts. ``stages_at`` gives each row its
# label: 0 W, 1 N1, 2 N2, 3 N3, 4 REM, and -1 where nobody scored. Each row carries its
# subject, by which nights are split and scored. All channels are taken unless
# ``source=["C3-O1"]`` and ``target=["L-R"]`` name some.
#
# Where your files differ (other words for the stages, a table of them, both devices in one
# file), see :doc:`/guide/stages` and :doc:`/guide/pair`, which also lists what may be
# refused and what to do then.

pairs, labels = {}, []
for subject in SUBJECTS:
    psg = read(folder / f"{subject}-psg.edf")
    pairs[subject] = PairedEpochs.from_raws(
        target_raw=read(folder / f"{subject}-ear.edf"),
        source_raw=psg,
        annotations=psg.annotations,
        clock=clocks[subject],
        subject=subject,
        recording=f"{subject}-night1",
    )
    labels.append(stages_at(psg.annotations, pairs[subject].onset))
X, y = PairedEpochs.concatenate(list(pairs.values())), np.concatenate(labels)
print(X)
print("Channels:", X.ch_names)

# %%
# More nights than memory are joined on disk, by ``concatenate(..., folder="cohort")``.
# :func:`~skleepkd.check_alignment` says what lag is left between the two signals of a pair, in
# seconds. If the drift is ignored, it grows over the night:

ignored = PairedEpochs.from_raws(
    target_raw=read(folder / "ann-ear.edf"),
    source_raw=read(folder / "ann-psg.edf"),
    offset=clocks["ann"].offset,
)
for title, pair in {"Drift known": pairs["ann"], "Drift ignored": ignored}.items():
    (left,) = check_alignment(pair)[["lag", "lag_end"]].to_numpy()
    print(f"{title}: a lag of {left[0]:+.3f} s, at the end {left[1]:+.3f} s (simulated)")

# %%
# The student
# -----------
# This network is small, so that the page runs in a minute; for real nights write
# ``SleepStager("USleep")`` and leave out ``max_epochs`` (a hundred passes; hours on a CPU).
# How good such a student is, cross-validation by subjects tells, as in the first lesson.

new = X.subject == "new"
training = {"classes": "aasm", "max_epochs": 25, "lr": 2e-3}
teacher = SleepStager("LogPowerNet", **training)
outputs = {"feature_loss": None, "alpha": 0.7, "start_from_teacher": False}
student = DistilledSleepStager(teacher, random_state=0, **outputs, **training)
student.fit(X[~new], y[~new])

# %%
# A new recording
# ---------------
# A :class:`~skleepkd.RecordingStager` is the student together with the preprocessing. It
# takes the EDF file as it is, finds the channels by their names, and refuses what the
# student was not fitted to. ``start`` is where the first epoch begins, here on the grid of
# the scoring; without it, epochs begin at the first sample.

stager = RecordingStager(student, preprocessors)
clock = clocks["new"]
start = (30.0 - clock.offset) * (1 + clock.drift)
night = stager.stage(folder / "new-ear.edf", start=start)
print(night)

display = night.plot()
display.figure_.suptitle("A simulated night, from its EDF file")
plt.show()

# %%
# This night was scored after all. (Over so short a night the drift moves the grid by an
# eighth of a second at most.)

scoring = mne.read_annotations(folder / "new-psg.edf")
truth = stages_at(scoring, np.round((night.onset + clock.offset) / 30.0) * 30.0)
kappa = staging_report(truth, night.stages).pooled["kappa"]
print(f"Agreement with the scorer: kappa {kappa:.2f}, of one simulated night")

# %%
# Another device is an error that says so:

try:
    stager.stage(folder / "new-psg.edf")
except ValueError as error:
    print(error)

# %%
# For other programs
# ------------------
# Annotations go back to the recording in MNE, the events file is that of BIDS, and the
# statistics are those of YASA.

raw = mne.io.read_raw(folder / "new-ear.edf").set_annotations(night.to_annotations())
print("Annotations:", *raw.annotations.description[:3], "...")

events = folder / "sub-06_task-sleep_events.tsv"
night.to_events(events)
print(*events.read_text().splitlines()[:3], sep="\n")

statistics = night.statistics()
print(f"Simulated sleep: {statistics['TST']:.0f} min, efficiency {statistics['SE']:.0f} %")

# %%
# To keep
# -------
# One file holds weights, parameters and preprocessing, and no code: loading somebody else's
# runs nothing. The teacher is not in it. The names of the training's subjects are, so that
# a leak can be noticed later; :func:`~skleepkd.save` says how to take them out.

save(stager, folder / "ear.safetensors")
again = load(folder / "ear.safetensors")
same = again.stage(folder / "new-ear.edf", start=start)
print("The same predictions:", np.array_equal(same.stages, night.stages))
print(describe(again))

# %%
# To export
# ---------
# The network as an ONNX file, for programs without Python. It is given epochs in microvolts
# that were filtered and resampled as above, of the shape (batch, 3, 1920), and is compared
# with the original before it is put in place.

print(export_onnx(student, folder / "ear.onnx"))
session = onnxruntime.InferenceSession(folder / "ear.onnx")
epochs = X[new]["target"][:4]
(probabilities,) = session.run(["probabilities"], {"epochs": epochs})
difference = np.abs(probabilities - student.predict_proba(epochs)).max()
print(f"Largest difference: {difference:.0e}")
