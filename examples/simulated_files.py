"""Simulated nights as files, in place of a user's own recordings."""

import mne
import numpy as np

from skleepkd import datasets

SCALP, EAR = ("C3-O1", "C4-O2"), ("L-R", "LE", "RE")
PSG_SFREQ, EAR_SFREQ = 100, 128
STAGES = np.array(["Sleep stage W", *(f"Sleep stage {k}" for k in "123"), "Sleep stage R"])


def write_night(folder, subject, offset, drift):
    """Write one subject's night: two EDF files by two devices, and the scoring.

    Parameters
    ----------
    folder : pathlib.Path
    subject : int
        Number of the subject; files are named after it.
    offset : float
        Seconds after the polysomnography at which the ear device began.
    drift : float
        Seconds that its clock gains in a second.

    Returns
    -------
    tuple of pathlib.Path
        Polysomnography, ear recording, scoring.
    """
    paths = [
        folder / f"subject{subject}-{what}"
        for what in ("psg.edf", "ear.edf", "scoring.txt")
    ]
    simulation = {"subject": subject, "random_state": 2}
    night = datasets.simulate_night(140, sfreq=PSG_SFREQ, derivations=SCALP, **simulation)
    _write_edf(paths[0], SCALP, night.signals, PSG_SFREQ, "22.30.00")
    onset = 30.0 * np.arange(len(night.y))
    mne.Annotations(onset, 30.0, STAGES[night.y]).save(paths[2], overwrite=True)

    worn = datasets.simulate_night(140, sfreq=EAR_SFREQ, derivations=EAR, **simulation)
    times = np.arange(worn.signals.shape[1]) / EAR_SFREQ
    # When, by the first clock, the second device takes its samples.
    taken = offset + times / (1 + drift)
    taken = taken[taken <= times[-1]]
    signals = np.array([np.interp(taken, times, signal) for signal in worn.signals])
    _write_edf(paths[1], EAR, signals, EAR_SFREQ, "22.30.12")
    return tuple(paths)


def _write_edf(path, names, signals, sfreq, start):
    """Write microvolts as an EDF of records of a second, in steps of 0.1 microvolts."""
    n, n_records = len(names), signals.shape[1] // sfreq
    fields = [
        (8, ["0"]),
        (80, ["X X X X", "Startdate X X X X"]),
        (8, ["01.03.26", start, 256 * (n + 1)]),
        (44, [""]),
        (8, [n_records, 1]),
        (4, [n]),
        (16, names),
        (80, [""] * n),
        (8, ["uV"] * n + [-3276.8] * n + [3276.7] * n + [-32768] * n + [32767] * n),
        (80, [""] * n),
        (8, [sfreq] * n),
        (32, [""] * n),
    ]
    header = "".join(
        str(value).ljust(width) for width, values in fields for value in values
    )
    digital = np.clip(np.round(10 * signals[:, : n_records * sfreq]), -32768, 32767)
    # (channels, records, samples) -> (records, channels, samples)
    records = digital.astype("<i2").reshape(n, n_records, sfreq).swapaxes(0, 1)
    path.write_bytes(header.encode("ascii") + records.tobytes())
