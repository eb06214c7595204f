"""Write simulated nights as EDF files, into the folder that is given or ``nights``.

Four subjects sleep with two devices, ``<name>-psg.edf`` (scalp-EEG at 128 Hz, stages as
EDF+ annotations) and ``<name>-ear.edf`` (ear-EEG at 100 Hz, switched on 12 s later). A
fifth, ``new-ear.edf``, wears the ear device alone. Nights are 10 minutes long.
"""

import sys
from pathlib import Path

import numpy as np

from skleepkd.datasets import simulate_night

EPOCH = 30  # seconds; also the length of an EDF record here
TEXTS = ("W", "1", "2", "3", "R")


def fields(values, width):
    """Text of fixed width, as EDF headers have it."""
    return b"".join(str(value).ljust(width).encode("ascii") for value in values)


def write_edf(path, signals, names, sfreq, start, stages=()):
    """Write microvolts of shape (n_channels, n_times); a step of the integers is 0.1 uV."""
    per_record = round(EPOCH * sfreq)
    n_records = signals.shape[1] // per_record
    integers = np.clip(np.round(10 * signals), -32768, 32767).astype("<i2")
    # (n_channels, n_times) -> (n_records, n_channels, samples of a record)
    records = integers[:, : n_records * per_record].reshape(len(names), n_records, -1)
    records = records.transpose(1, 0, 2)
    labels, sizes, notes = list(names), [per_record] * len(names), [b""] * n_records
    if len(stages):
        labels, sizes = [*labels, "EDF Annotations"], [*sizes, 40]
        notes = [
            f"+{EPOCH * k}\x14\x14\0+{EPOCH * k}\x15{EPOCH}\x14Sleep stage {TEXTS[stage]}\x14\0"
            .encode().ljust(80, b"\0")
            for k, stage in enumerate(stages)
        ]  # fmt: skip
    n = len(labels)
    units = ["uV"] * len(names) + [""] * (n - len(names))
    header = (
        fields(["0"], 8)
        + fields(["X X X X", "Startdate X X X X"], 80)
        + fields(["01.01.26", start, 256 * (n + 1)], 8)
        + fields(["EDF+C" if len(stages) else ""], 44)
        + fields([n_records, EPOCH], 8)
        + fields([n], 4)
        + fields(labels, 16)
        + fields([""] * n, 80)
        + fields(units, 8)
        + fields([-3276.8] * n + [3276.7] * n + [-32768] * n + [32767] * n, 8)
        + fields([""] * n, 80)
        + fields(sizes, 8)
        + fields([""] * n, 32)
    )
    body = (record.tobytes() + note for record, note in zip(records, notes, strict=True))
    path.write_bytes(header + b"".join(body))


def main(folder="nights", n_epochs=20):
    """Write all files into a folder."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for k, name in enumerate(("ann", "ben", "cleo", "dora", "new")):
        night = {"n_epochs": n_epochs, "subject": k, "random_state": 0}
        ear = ("L-R", "LE", "RE")
        worn = simulate_night(sfreq=100.0, derivations=ear, **night)
        late = worn.signals[:, 12 * 100 :]
        write_edf(folder / f"{name}-ear.edf", late, ear, 100, "23.00.12")
        if name != "new":
            scalp = ("C3-O1", "C4-O2")
            psg = simulate_night(sfreq=128.0, derivations=scalp, **night)
            write_edf(
                folder / f"{name}-psg.edf", psg.signals, scalp, 128, "23.00.00", psg.y
            )
    print(f"Simulated nights: {len(list(folder.glob('*.edf')))} files in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
