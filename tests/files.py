"""Every kind of file that a test reads; a server of files; a disk that is full."""

import csv
import functools
import json
import os
import resource
import threading
import traceback
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import numpy as np

#: AASM codes of the stages that the writers below take, "M" for movement time.
CODES = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 3, "R": 4, "?": -1, "M": -1}


def stage_texts(stages):
    """Name stages as EDF+ annotations do."""
    return ["Movement time" if s == "M" else f"Sleep stage {s}" for s in stages]


# ---------------------------------------------------------------- EDF


def write_edf(
    path,
    signals,
    n_records=1,
    record=1,
    *,
    unit="uV",
    notes=(),
    starts=None,
    time="{:+g}\x14\x14\0",
    reserved="",
    clock=("01.01.00", "22.00.00"),
    bdf=False,
):
    """Write an EDF or EDF+ file, in steps of 0.1 microvolts.

    ``signals``: by label the microvolts, or the number of samples of a silence, for which
    the disk needs no room. ``unit`` is one for all or by label. ``notes`` are annotations
    (onset, duration or None, text) in the first record; ``starts`` are when the records
    begin, each written as ``time``.
    """
    signals, width = dict(signals), 3 if bdf else 2
    units = unit if isinstance(unit, dict) else dict.fromkeys(signals, unit)
    annotations = "BDF Annotations" if bdf else "EDF Annotations"
    if notes or starts is not None:
        starts = record * np.arange(n_records) if starts is None else starts
        texts = [time.format(start).encode() for start in starts]
        for onset, duration, text in notes:
            length = "" if duration is None else f"\x15{duration:.10g}"
            texts[0] += f"{onset:+.10g}{length}\x14{text}\x14\0".encode("latin-1")
        n_bytes = -(-max(map(len, texts)) // width) * width
        signals[annotations] = n_records * n_bytes // width
    n = len(signals)
    sizes = [v if np.isscalar(v) else len(v) for v in signals.values()]
    samples = [size // n_records for size in sizes]

    def field(values, width):
        return b"".join(str(value).ljust(width).encode("latin-1") for value in values)

    header = (
        (b"\xffBIOSEMI" if bdf else field(["0"], 8))
        + field(["X", "X"], 80)
        + field([*clock, 256 * (n + 1)], 8)
        + field([reserved], 44)
        + field([n_records, record], 8)
        + field([n], 4)
        + field(signals, 16)
        + field([""] * n, 80)
        + field([units.get(label, "") for label in signals], 8)
        + field([-3276.8] * n + [3276.7] * n + [-32768] * n + [32767] * n, 8)
        + field([""] * n, 80)
        + field(samples, 8)
        + field([""] * n, 32)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = n_records, width * sum(samples)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + shape[0] * shape[1])
    records = np.memmap(path, np.uint8, "r+", len(header), shape)
    ends = width * np.cumsum(samples)
    for (label, values), size, end in zip(signals.items(), samples, ends, strict=True):
        if label == annotations:
            digital = np.frombuffer(b"".join(t.ljust(n_bytes, b"\0") for t in texts), "u1")
        elif np.isscalar(values):
            continue
        else:
            digital = np.round(10 * np.asarray(values)).astype("<i4").view("u1")
            digital = digital.reshape(-1, 4)[:, :width]
        records[:, end - width * size : end] = digital.reshape(n_records, -1)
    records.flush()
    return path


# ---------------------------------------------------------------- tables


def write_table(path, rows, end="\r\n"):
    """Write rows of values with tabs between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join("\t".join(map(str, row)) + end for row in rows).encode())


def read_table(path):
    """Read a table's rows as dicts of texts, independently of the package."""
    lines = path.read_bytes().decode().replace("\r", "").splitlines()
    return list(csv.DictReader(lines, delimiter="\t"))


# ---------------------------------------------------------------- Sleep-EDF

#: Samples in 30 s and unit of the channels of a recording.
SLEEP_EDF_CHANNELS = {
    "EEG Fpz-Cz": (3000, "uV"),
    "EEG Pz-Oz": (3000, "uV"),
    "EOG horizontal": (3000, "uV"),
    "Resp oro-nasal": (30, ""),
    "EMG submental": (30, "uV"),
    "Temp rectal": (30, "DegC"),
    "Event marker": (30, ""),
}
#: Lights off at epoch 4; sleep ends with epoch 13; 40 epochs of waking follow.
SLEEP_EDF_STAGES = "WWW1" + "WW12M?34RR" + "W" * 40


@functools.cache
def _sleep_edf_list():
    folder = resources.files("mne.datasets.sleep_physionet")
    with folder.joinpath("age_records.csv").open() as file:
        return list(csv.DictReader(file))


def sleep_edf_record(number, kind):
    """Row of MNE's list for a recording such as "SC4001", kind "PSG" or "Hypnogram"."""
    return next(
        row
        for row in _sleep_edf_list()
        if row["fname"].startswith(number) and row["record type"] == kind
    )


def lights_off(number):
    """Lights off in seconds after midnight."""
    clock = sleep_edf_record(number, "PSG")["lights off"]
    hours, minutes, seconds = map(int, clock.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def write_sleep_edf_files(root, number, rows, n_epochs, start, signals=(), unit=()):
    """Write the two files of a recording, begun ``start`` seconds after midnight.

    ``rows`` are the annotations (onset, duration, text); ``signals`` of 100 Hz replace
    silence; ``unit`` replaces that of a label.
    """
    minutes, seconds = divmod(start % 86400, 60)
    clock = "24.04.89", "{:02d}.{:02d}.{:02d}".format(*divmod(minutes, 60), seconds)
    psg, hypnogram = (
        root / sleep_edf_record(number, kind)["fname"] for kind in ("PSG", "Hypnogram")
    )
    units = {name: unit for name, (_, unit) in SLEEP_EDF_CHANNELS.items()} | dict(unit)
    channels = {name: n_epochs * size for name, (size, _) in SLEEP_EDF_CHANNELS.items()}
    channels |= dict(signals)
    write_edf(psg, channels, n_epochs, 30, unit=units, clock=clock)
    write_edf(hypnogram, {}, 1, 0, notes=rows, reserved="EDF+C", clock=clock)
    return psg, hypnogram


def sleep_edf_signals(codes):
    """Fpz-Cz tells twice the epoch, the EOG its stage and the sample, in microvolts."""
    epoch = 2 * (np.arange(len(codes)) - len(codes) // 2)
    eeg = np.repeat(epoch, 3000).astype(float)
    eog = (np.arange(3000) / 10 + 400 * np.asarray(codes)[:, None]).ravel()
    return {"EEG Fpz-Cz": eeg, "EOG horizontal": eog}


def write_sleep_edf(root, number, stages=SLEEP_EDF_STAGES, before=4, rows=None, **options):
    """Write a short recording, begun so many epochs before its real lights off."""
    if rows is None:
        rows = [(30 * k, 30, text) for k, text in enumerate(stage_texts(stages))]
    signals = sleep_edf_signals([CODES[stage] for stage in stages])
    start = lights_off(number) - 30 * before
    return write_sleep_edf_files(root, number, rows, len(stages), start, signals, **options)


def write_sleep_edf_tree(root):
    """Write two nights of one person and one of another, in the folder of the study."""
    for number in ("SC4001", "SC4002", "SC4131"):
        write_sleep_edf(root / "sleep-cassette", number)
    return root


def real_sleep_edf(shared_data):
    """Real annotations by recording, such as "SC4001": rows, start, duration, lights off.

    Rows are (onset, duration, text); times are in seconds, the start's after midnight.
    """
    nights = {}
    with (shared_data / "sleep_edf_sc20_recordings.csv").open() as file:
        for row in csv.DictReader(file):
            columns = ("start_clock_s", "duration_s", "lights_off_s")
            nights[row["recording"][:6]] = [], *(int(row[name]) for name in columns)
    with (shared_data / "sleep_edf_sc20_annotations.csv").open() as file:
        for row in csv.DictReader(file):
            one = int(row["onset_s"]), int(row["duration_s"]), row["description"]
            nights[row["recording"][:6]][0].append(one)
    return nights


def codes_of(rows, duration):
    """AASM code of each epoch of 30 s, worked out without the package."""
    codes = np.full(duration // 30, -1)
    for onset, length, text in rows:
        code = CODES["M" if text == "Movement time" else text.removeprefix("Sleep stage ")]
        codes[onset // 30 : (onset + length) // 30] = code
    return codes


# ---------------------------------------------------------------- MASS


def mass_path(root, number, kind):
    return root / f"SS{number[4]}_EDF" / f"{number} {kind}.edf"


def write_mass_base(root, number, notes):
    """Write a night's annotations (onset, duration or None, text)."""
    path = mass_path(root, number, "Base")
    write_edf(path, {}, 1, 0, notes=notes, reserved="EDF+C")


def write_mass(root, number, signals, notes):
    """Write a night: signals of 256 Hz, beside them a faster and a slower one."""
    n = len(next(iter(signals.values()))) // 256
    others = {"EMG Chin": np.full(512 * n, 0.5), "SaO2 SaO2": np.full(16 * n, 9.7)}
    units = dict.fromkeys(signals, "uV") | {"EMG Chin": "uV", "SaO2 SaO2": "%"}
    write_edf(mass_path(root, number, "PSG"), signals | others, n, unit=units)
    write_mass_base(root, number, notes)


class MassNight:
    """A night in which epoch k holds 10 (k + 1) in the EEG, its stage in the ECG.

    Between the epochs, which is where the scorer left a gap, both are zero.
    """

    def __init__(self, number, stages, epoch, lead, gap, seconds):
        self.number, self.stages, self.epoch, self.seconds = number, stages, epoch, seconds
        after, length = gap
        k = np.arange(len(stages))
        self.onsets = lead + epoch * k + np.where(k > after, length, 0)
        self.codes = np.array([CODES[stage] for stage in stages])

    def level(self, t, values):
        """Value that holds at each clock time t, in seconds."""
        k = np.searchsorted(self.onsets, t, side="right") - 1
        inside = (k >= 0) & (t < self.onsets[k] + self.epoch)
        return np.where(inside, np.asarray(values)[k], 0.0)

    def eeg(self, t):
        return self.level(t, 10.0 * (1 + np.arange(len(self.stages))))

    def ecg(self, t):
        return self.level(t, 50.0 * (self.codes + 2))

    def write(self, root, **channels):
        """Write the night; ``channels`` are functions of time, or constants, by label."""
        t = np.arange(256 * self.seconds) / 256
        signals = {
            label: value(t) if callable(value) else np.full(len(t), float(value))
            for label, value in channels.items()
        }
        texts = stage_texts(self.stages)
        notes = zip(self.onsets, [self.epoch] * len(texts), texts, strict=True)
        write_mass(root, self.number, signals, list(notes))


#: The last epoch of the first, an AASM night, is scored beyond the end of the recording.
MASS_NIGHTS = (
    MassNight("01-01-0003", "W12??3RR12W2", 30, 3.7, (5, 47.25), 400),
    MassNight("01-04-0002", "WW1122344?3RRRW1", 20, 10.3, (7, 33.5), 372),
    MassNight("01-04-0010", "W12W", 20, 2.6, (9, 0), 90),
)


def write_mass_tree(root):
    """Write a night of subset 1, and two of subset 4: one with A2 and one with A1."""
    first, second, third = MASS_NIGHTS
    scalp = {"EEG C4-CLE": 300, "EEG C3-CLE": first.eeg, "EEG A2-CLE": -5}
    ecg = {"ECG ECGI": lambda t: -first.ecg(t)}
    first.write(root, **scalp, **{"EOG Left Horiz": 77}, **ecg)
    for night, electrode, other, ear in ((second, 3, 4, 2), (third, 4, 3, 1)):
        scalp = {f"EEG C{electrode}-CLE": night.eeg, f"EEG C{other}-CLE": 300}
        ecg = {"ECG ECGII": lambda t, night=night: -night.ecg(t), "ECG ECGIII": -400}
        night.write(root, **{"ECG ECGI": 400, f"EEG A{ear}-CLE": -5}, **scalp, **ecg)
    return root


# ---------------------------------------------------------------- BOAS

BOAS_PSG = ["PSG_F3", "PSG_F4", "PSG_C3", "PSG_C4", "PSG_O1", "PSG_O2"]
BOAS_HEADBAND = ["HB_1", "HB_2"]
#: Stages of each night; 8 is a disconnected epoch.
BOAS_STAGES = {
    "sub-1": [0, 1, 2, 3, 8, 4],
    "sub-2": [0, 0, 2, 3, 3],
    "sub-10": [2, 2, 8, 4],
}


def boas_path(root, folder, device, what):
    return root / folder / "eeg" / f"{folder}_task-Sleep_acq-{device}_{what}"


def write_boas_tables(root, folder, stages, channels=BOAS_PSG, lead=(0, 0)):
    """Write a night's tables; ``lead`` is the first sample of each device's epochs."""
    for device, first in zip(("psg", "headband"), lead, strict=True):
        header = ["onset", "duration", "begsample", "endsample", "offset"]
        header += ["stage_hum", "stage_ai"] if device == "psg" else ["stage_ai"]
        rows = []
        for k, stage in enumerate(stages):
            begin = first + 7680 * k
            human = [stage] if device == "psg" else []
            rows.append([30 * k, 30, begin + 1, begin + 7680, 0, *human, 3])
        write_table(boas_path(root, folder, device, "events.tsv"), [header, *rows])
        names = channels if device == "psg" else BOAS_HEADBAND
        rows = [("name", "type", "units", "sampling_frequency")]
        rows += [(name, "EEG", "uV", 256) for name in names]
        write_table(boas_path(root, folder, device, "channels.tsv"), rows)
        about = {"RecordingDuration": 30 * len(stages) + 27}
        boas_path(root, folder, device, "eeg.json").write_text(json.dumps(about))


def write_boas_signals(root, folder):
    """Mark each epoch's first second, at the sample that its own device's table names.

    F3 and HB_1 hold the epoch's number from 1, C4 and HB_2 its stage + 2.
    """
    rows = read_table(boas_path(root, folder, "psg", "events.tsv"))
    stages = [int(row["stage_hum"]) for row in rows]
    for device, number, stage in (
        ("psg", "PSG_F3", "PSG_C4"),
        ("headband", "HB_1", "HB_2"),
    ):
        sidecar = boas_path(root, folder, device, "eeg.json").read_text("utf-8")
        seconds = int(json.loads(sidecar)["RecordingDuration"])
        marks = {name: np.zeros(256 * seconds) for name in (number, stage)}
        rows = read_table(boas_path(root, folder, device, "events.tsv"))
        for k, row in enumerate(rows):
            one_second = slice(int(row["begsample"]) - 1, int(row["begsample"]) + 255)
            marks[number][one_second], marks[stage][one_second] = k + 1, stages[k] + 2
        names = read_table(boas_path(root, folder, device, "channels.tsv"))
        signals = {row["name"]: 256 * seconds for row in names}
        path = boas_path(root, folder, device, "eeg.edf")
        write_edf(path, signals | marks, seconds)


def write_boas_tree(root):
    """Write three nights of two persons."""
    for folder, stages in BOAS_STAGES.items():
        write_boas_tables(root, folder, stages)
        write_boas_signals(root, folder)
    rows = [("participant_id", "age", "pid"), ("sub-1", 27, 89), ("sub-2", 27, 89)]
    rows += [("sub-10", "n/a", 1), ("sub-11", 30, 2)]
    write_table(root / "participants.tsv", rows)
    return root


# ---------------------------------------------------------------- CinC 2018


def write_cinc2018(folder, signals, notes, *, sfreq=200, symbol='"', **options):
    """Write a night as the challenge does: a Matlab file that a WFDB header describes.

    ``signals``: label to samples in microvolts, gain (steps a unit) and unit.
    ``notes``: times in seconds and texts; None writes no annotations.
    """
    import scipy.io
    import wfdb

    folder.mkdir(parents=True)
    name, per_unit = folder.name, {"uV": 1, "mV": 1e-3, "%": 1, "mmHg": 1}
    samples = np.array(
        [
            np.round(values * per_unit[unit] * gain)
            for values, gain, unit in signals.values()
        ]
    ).astype("<i2")
    scipy.io.savemat(folder / f"{name}.mat", {"val": samples}, format="4")
    lines = [f"{name} {len(samples)} {sfreq} {samples.shape[1]}"]
    for label, (_, gain, unit) in signals.items():
        lines.append(f"{name}.mat 16+24 {gain:g}(0)/{unit} 16 0 0 0 0 {label}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, "#Age: 54 Sex: M", ""]))
    if notes is not None:
        times, texts = zip(*notes, strict=True)
        places = np.round(np.array(times) * sfreq).astype(int)
        options |= {"symbol": [symbol] * len(texts), "aux_note": list(texts)}
        wfdb.wrann(name, "arousal", places, write_dir=str(folder), **options)


class CincNight:
    """A night of which the piece [lead + 30 k, lead + 30 (k + 1)) tells its number k.

    C3-M2 holds 10 (k + 2) microvolts, the ECG a tone of (60 + 3 k) / 30 Hz whose
    amplitude is 200 + 20 k microvolts.
    """

    def __init__(self, number, seconds, notes, codes, *, lead=0.0, sfreq=200, **options):
        self.number, self.seconds, self.notes = number, seconds, notes
        self.codes, self.lead, self.sfreq = np.array(codes), lead, sfreq
        self.options = options

    def signals(self):
        t = np.arange(round(self.seconds * self.sfreq)) / self.sfreq
        k = np.floor((t - self.lead) / 30)
        tone = (200 + 20 * k) * np.sin(2 * np.pi * (60 + 3 * k) / 30 * (t - self.lead))
        return {"C3-M2": (10 * (k + 2), 20, "uV"), "ECG": (tone, 10000, "mV")}

    def write(self, root):
        folder, options = root / "training" / self.number, self.options
        write_cinc2018(folder, self.signals(), self.notes, sfreq=self.sfreq, **options)


# Stages between arousals and breathing events; the first is late, one begins in the
# middle of an epoch, one is written twice, and twelve seconds are left at the end.
_MIXED = [(20, "(resp_hypopnea"), (60, "W\x00"), (70, "(arousal_rera")]
_MIXED += [(85, "resp_hypopnea)"), (90, "(resp_obstructiveapnea"), (90, "N1 ")]
_MIXED += [(120, "n2"), (128, "arousal_rera)"), (165, "N3")]
_MIXED += [(166, "resp_obstructiveapnea)"), (210, "R"), (240, "N2")]
_MIXED += [(255, "(arousal_rera"), (256, "arousal_rera)"), (275, "N2")]
# Scored from the first sample on, at another rate.
_WHOLE = [(0, "W"), (0, "(arousal_bruxism"), (60, "N3"), (63, "arousal_bruxism)")]
_WHOLE += [(120, "R")]
# The scorer's epochs begin 7.5 s after the recording.
_SHIFTED = [(7.5, "W"), (67.5, "N2"), (127.5, "R")]
CINC_NIGHTS = (
    CincNight("tr03-0005", 342, _MIXED, [-1, -1, 0, 1, 2, -1, 3, 4, 2, 2, 2]),
    CincNight("tr12-0685", 150, _WHOLE, [0, 0, 3, 3, 4], sfreq=256, fs=256),
    CincNight("tr14-0001", 160, _SHIFTED, [0, 0, 2, 2, 4], lead=7.5, symbol="+"),
)


def write_cinc2018_tree(root):
    """Write the three nights, and one of the test set, which has no stages."""
    for night in CINC_NIGHTS:
        night.write(root)
    write_cinc2018(root / "test" / "te03-0094", CINC_NIGHTS[2].signals(), None)
    return root


# ---------------------------------------------------------------- EESM17

EESM_LEFT = ["ELA", "ELB", "ELE", "ELI", "ELG", "ELK"]
EESM_RIGHT = ["ERA", "ERB", "ERE", "ERI", "ERG", "ERK"]
EESM_CHANNELS = ["Event", "C3", "O1", "A1", "LOC", *EESM_LEFT, "ELB1"]
EESM_CHANNELS += ["C4", "O2", "A2", *EESM_RIGHT, "ERB1"]
EESM_CODES = {
    "sub-001": [1, 3, 4, 5, 5, 2, 8, 1],
    "sub-002": [1, 4, 4, 5, 6, 2, 7, 3, 1],
}


def eesm_path(root, folder, what):
    return root / folder / "ses-001" / "eeg" / f"{folder}_ses-001_task-sleep_{what}"


def write_eesm_tables(root, folder, codes, off=61.71, end=340.0):
    """Write a night's tables, with lights off and the study's end, in seconds."""
    levels = {"1": "Wake", "2": "REM", "3": "N1", "4": "N2", "5": "N3"}
    levels |= {"6": "A", "7": "Artefact", "8": "Unscored"}
    scoring = eesm_path(root, folder, "acq-scoring_events.tsv")
    rows = [(30 * k, 0, code) for k, code in enumerate(codes)]
    # The published tables end their lines like this.
    write_table(scoring, [("onset", "duration", "staging"), *rows], end="\r\r\n")
    scoring.with_suffix(".json").write_text(json.dumps({"staging": {"Levels": levels}}))
    times = {"Beginning of Recording": 0.0, "Lights Off": off, "Arousal": off + 12.5}
    times |= {"Lights On": off + 30 * len(codes) + 4.3, "End of Study": end}
    rows = [("onset", "duration", "trial_type")]
    rows += [(seconds, 0, text) for text, seconds in times.items()]
    write_table(eesm_path(root, folder, "events.tsv"), rows, end="\r\r\n")


def eesm_truth(root, folder):
    """Clock times (s), stages and the end of the study, straight from the tables."""
    rows = read_table(eesm_path(root, folder, "events.tsv"))
    events = {row["trial_type"]: float(row["onset"]) for row in rows}
    scoring = eesm_path(root, folder, "acq-scoring_events.tsv")
    names = json.loads(scoring.with_suffix(".json").read_text())["staging"]["Levels"]
    aasm = {"Wake": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4}
    rows = read_table(scoring)
    stages = np.array([aasm.get(names[row["staging"]], -1) for row in rows])
    clock = events["Lights Off"] + np.array([float(row["onset"]) for row in rows])
    return clock, stages, events["End of Study"]


def write_eesm_set(root, folder, signals, form="fdt", channels=EESM_CHANNELS, sfreq=200.0):
    """Write an EEGLAB recording: signals (n_channels, n_times) in microvolts.

    ``form`` is "fdt", or "struct" and "fields" for the two layouts that keep the
    signals inside, with another recording's .fdt beside them.
    """
    from scipy.io import savemat

    path, fdt = (eesm_path(root, folder, f"eeg.{end}") for end in ("set", "fdt"))
    labels = np.array([(name,) for name in channels], dtype=[("labels", object)])
    eeg = {"setname": "EESM17", "nbchan": len(channels), "pnts": signals.shape[1]}
    eeg |= {"trials": 1, "srate": sfreq, "xmin": 0.0, "datfile": fdt.name}
    eeg |= {"chanlocs": labels, "event": [], "data": fdt.name if form == "fdt" else signals}
    savemat(path, eeg if form == "fields" else {"EEG": eeg})
    if form != "fdt":
        np.full((3600 * 2, len(channels)), 1e4, "<f4").tofile(fdt)
    elif isinstance(signals, np.memmap):  # of the very file
        signals.flush()
    else:
        signals.T.astype("<f4").tofile(fdt)


def mark_eesm(signals, channels, clock, stages):
    """One second at each epoch's beginning says which epoch and stage it is.

    C3-O1 and LE become stage + 2, A1-A2 and RE the epoch's number modulo 100 plus 1.
    """
    for k, (seconds, stage) in enumerate(zip(clock, stages, strict=True)):
        start, number = round(seconds * 200), k % 100 + 1
        values = {"A1": number, "C3": 1, "O1": -1 - stage}
        values |= {"ELA": stage + 2, "ELB": stage + 2, "ERA": number, "ERB": number}
        for name, value in values.items():
            signals[channels.index(name), start : start + 200] = value


def write_eesm_tree(root, forms=("fdt", "struct")):
    """Write two nights, each in a form."""
    for (folder, codes), form in zip(EESM_CODES.items(), forms, strict=True):
        write_eesm_tables(root, folder, codes)
        clock, stages, end = eesm_truth(root, folder)
        signals = np.zeros((len(EESM_CHANNELS), round((end + 1.5) * 200)), np.float32)
        mark_eesm(signals, EESM_CHANNELS, clock, stages)
        write_eesm_set(root, folder, signals, form)
    return root


# ---------------------------------------------------------------- a server


class _Handler(SimpleHTTPRequestHandler):
    """Serves files, and breaks the connection in the middle of some."""

    def do_GET(self):
        self.server.requested.append(self.path.lstrip("/"))
        if not self.path.endswith(self.server.breaks):
            return super().do_GET()
        body = Path(self.directory, self.path.lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])

    def log_message(self, *args):
        pass


@contextmanager
def serve(folder):
    """Serve a folder at ``server.url``, and note what is requested.

    A file whose name ends with ``server.breaks`` breaks off in the middle.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requested, server.breaks = [], "nothing"
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def dead_url():
    """Address at which nobody listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        return f"http://127.0.0.1:{server.server_port}"


# ---------------------------------------------------------------- a full disk


def in_a_fork(do, most=None):
    """Run in a process whose files cannot grow beyond so many bytes; the result is JSON."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            if most:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            result = do()
        except BaseException:
            result = traceback.format_exc()
        os.write(writes, json.dumps(result).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    result = json.loads(result)
    assert not isinstance(result, str), result
    return result
