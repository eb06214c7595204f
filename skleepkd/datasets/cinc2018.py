"""PhysioNet/CinC Challenge 2018: polysomnography with ECG, 994 scored nights, open."""

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from skleepkd.datasets import checks, loading
from skleepkd.edf import errors_naming
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, stage_of_text, stages_at
from skleepkd.warn import warn

_URL = "https://physionet.org/files/challenge-2018/1.0.0/"
_SUFFIXES = (".hea", ".mat", ".arousal")

#: One EEG derivation and the ECG, as in Joshi et al. (2021).
_CHANNELS = {"source": ["C3-M2"], "target": ["ECG"]}

_LABELS = ("F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "Chin1-Chin2")
_LABELS += ("ABD", "CHEST", "AIRFLOW", "SaO2", "ECG")

#: Microvolts in a header's unit. Saturation has no volts: it stays in percent.
_MICROVOLTS = {"nV": 1e-3, "uV": 1.0, "mV": 1e3, "V": 1e6, "%": 1.0}

_DESCR = """\
PhysioNet/Computing in Cardiology Challenge 2018 ("You Snooze You Win"), training set.

Whole nights of polysomnography with ECG, scored by the AASM's rules in epochs of 30 s.

Ghassemi, Moody, Lehman, Song, Li, Sun, Mark, Westover, Clifford: You snooze, you win:
the PhysioNet/Computing in Cardiology Challenge 2018. Computing in Cardiology 45, 2018.
doi:10.22489/CinC.2018.049

"""


def load_cinc2018(
    root,
    *,
    subjects=None,
    channels=None,
    sfreq=200.0,
    l_freq=None,
    h_freq=None,
    classes="aasm",
    unscored=False,
    cache=None,
    on_error="warn",
):
    """Load the training set of the PhysioNet/CinC Challenge 2018.

    994 subjects slept one night each with six EEG derivations and an ECG, and their
    stages are published. The nights of the folder ``test`` have no stages and are not read.

    This loader follows descriptions of the files and has been run on files written
    after them, **not on the real ones**.

    Parameters
    ----------
    root : path-like
        The folder that holds ``training``, or ``training`` itself. A night is
        ``training/trNN-NNNN/trNN-NNNN`` with ``.hea``, ``.mat`` and ``.arousal``.
    subjects : list of str, optional
        Recordings to read, such as ``["tr03-0005"]``; by default all that are there.
    channels : dict or list of str, optional
        Channels by modality; a list is a target without a source. By default
        ``{"source": ["C3-M2"], "target": ["ECG"]}``. There are F3-M2, F4-M1, C3-M2,
        C4-M1, O1-M2, O2-M1, E1-M2, Chin1-Chin2, ABD, CHEST, AIRFLOW, SaO2 and ECG.
    sfreq, l_freq, h_freq : optional
        As for :func:`load_mass`; the nights' own rate is 200 Hz.
    classes, unscored, cache, on_error : optional
        As for :func:`load_eesm`, but a bad night is a warning by default. In memory two
        channels of seven hours at 200 Hz take 40 MB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Epochs of shape (n_epochs, n_channels, 30 * sfreq), float32, in microvolts
            (SaO2 in percent). ``onset`` is in seconds from the recording's start.
        y, groups, left_out, DESCR : ndarrays of shape (n_epochs,), dict, str
            As of :func:`load_eesm`. Each subject, such as "cinc2018-tr03-0005", has one
            recording of that name.

    Raises
    ------
    FileNotFoundError
        If there is no recording, or one of ``subjects`` is missing.
    ValueError
        If an option is wrong, or no recording can be read.

    Warns
    -----
    UserWarning
        If a recording lacks a file, a channel, its every sample or, without ``unscored``,
        any stage, or a file is damaged: it is left out. If a stage is unknown: it counts
        as unscored. If samples are marked as invalid: they are interpolated linearly. If
        a stage begins in the last epoch, which the recording does not cover.

    Notes
    -----
    A stage is written where it changes and holds until the next one, the last to the
    recording's end. Epochs follow each other every 30 s from the recording's start; where
    most stage changes of a night lie beside that grid by one and the same time, epochs
    begin that much later. An epoch in which the stage changes counts as unscored.

    The ECG is taken as it stands; :func:`load_mass` alone reverses its sign.
    """
    root = Path(root).expanduser()
    ch_names = checks.check_channels(channels, _CHANNELS)
    wanted = sorted(set().union(*ch_names.values()))
    checks.require_channels("The data set", _LABELS, wanted)
    folder = root / "training" if (root / "training").is_dir() else root
    present = sorted(
        path.name for path in folder.glob("tr[0-9][0-9]-[0-9]*") if path.is_dir()
    )
    if not present:
        raise FileNotFoundError(
            f"{folder} holds no folder trNN-NNNN; fetch_cinc2018 downloads recordings."
        )
    numbers = checks.choose_recordings(subjects, present, prefix="cinc2018-", where=folder)

    def read_scoring(number):
        return _read_night(folder / number, wanted, unscored)

    read = partial(_open_record, labels=wanted)
    options = {"sfreq": sfreq, "l_freq": l_freq, "h_freq": h_freq, "on_error": on_error}
    options |= {"classes": classes, "unscored": unscored, "cache": cache, "descr": _DESCR}
    return loading.load_nights(
        numbers, read_scoring, read, ch_names, name="cinc2018", **options
    )


def fetch_cinc2018(root, subjects, *, base_url=_URL, **options):
    """Download recordings of the PhysioNet/CinC Challenge 2018, then load them.

    A night is about 130 MB, the whole training set about 135 GB. What is there and whole
    is not downloaded again: a call that was interrupted is simply repeated.

    Parameters
    ----------
    root : path-like
        Folder to download into, made where it is missing. Files get the places that
        they have on PhysioNet: ``training/tr03-0005/tr03-0005.mat``.
    subjects : list of str or "all"
        Recordings, such as ``["tr03-0005", "tr03-0029"]``.
    base_url : str, optional
        Address of the data set, for a mirror of it.
    **options
        The other options of :func:`load_cinc2018`.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        As :func:`load_cinc2018`.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_cinc2018`; a ValueError also if what arrived is not what the
        set's ``SHA256SUMS.txt`` says. No part of it is left under its name.
    OSError
        If a file cannot be downloaded.
    """
    import pooch

    registry, downloader = {"SHA256SUMS.txt": None}, pooch.HTTPDownloader(chunk_size=2**20)
    files = pooch.create(root, f"{base_url.rstrip('/')}/", registry=registry)
    listed = Path(files.fetch("SHA256SUMS.txt", downloader=downloader))
    rows = [line.split(maxsplit=1) for line in listed.read_text("utf-8").splitlines()]
    files.registry = {row[1]: row[0] for row in rows if len(row) == 2}
    headers = [path for path in files.registry if re.fullmatch(r"training/.*\.hea", path)]
    if not headers:
        listed.unlink()
        raise OSError(f"{base_url} lists no recordings in SHA256SUMS.txt: is it a mirror?")
    named = None if subjects == "all" else subjects
    present = [Path(path).stem for path in headers]
    numbers = checks.choose_recordings(named, present, prefix="cinc2018-", where=base_url)
    for number in numbers:
        for suffix in _SUFFIXES:  # what is there and whole is not downloaded again
            files.fetch(f"training/{number}/{number}{suffix}", downloader=downloader)
    return load_cinc2018(root, subjects=numbers, **options)


def _read_night(folder, labels, unscored):
    """Read the stages of one night, and see whether its signals are whole."""
    import wfdb

    number = folder.name
    header_file, signals, notes = (folder / f"{number}{suffix}" for suffix in _SUFFIXES)
    with errors_naming(header_file):
        header = wfdb.rdheader(str(folder / number))
        units = dict(zip(header.sig_name, header.units, strict=True))
        duration = header.sig_len / header.fs
    checks.require_channels(f"cinc2018-{number}", list(units), labels)
    for name in labels:
        if units[name] not in _MICROVOLTS:
            raise ValueError(f"{name} is in {units[name]!r}, which is no unit of voltage")
    with errors_naming(signals):  # if it ends before its last sample
        wfdb.rdrecord(str(folder / number), sampfrom=header.sig_len - 1)
    onset, y = _read_stages(notes, header.fs, duration)
    if not unscored and np.all(y == UNSCORED):
        raise ValueError("no epoch has a stage")
    return loading.Night(onset=onset, y=y, files=[header_file, signals, notes])


def _read_stages(path, sfreq, duration):
    """Onsets (seconds) and AASM codes of a night's epochs."""
    import mne
    from wfdb.io.annotation import proc_ann_bytes

    recording = f"cinc2018-{path.stem}"
    with errors_naming(path):
        # wfdb.rdann takes a text at the first sample for a setting of the file, not a stage.
        pairs = np.fromfile(path, np.uint8).reshape(-1, 2)
        if pairs[-1].any():
            raise ValueError("its end is missing")
        samples, *_, texts = proc_ann_bytes(pairs, None)
    changes = []
    for sample, text in zip(samples, texts, strict=True):
        text = text.strip("\x00 \t\r\n")
        # Events stand in brackets; what begins with ## is a setting of the file.
        is_stage = text and not text.startswith(("(", "## ")) and not text.endswith(")")
        if is_stage and (not changes or text != changes[-1][1]):  # written again it goes on
            changes.append((sample, text))
    samples, texts = [sample for sample, _ in changes], [text for _, text in changes]
    onset = np.array(samples) / sfreq
    checks.check_end(max(onset, default=0), duration, recording)
    checks.warn_of_unknown(texts, recording)
    # Each holds until the next, the last to the recording's end, or for an epoch.
    last = max(onset, default=0.0)
    holds = np.diff([*onset, max(duration, last + EPOCH_SECONDS)])
    known = [k for k, text in enumerate(texts) if stage_of_text(text) is not None]
    stages = mne.Annotations(onset[known], holds[known], [texts[k] for k in known])
    # Where most changes fall between the steps of 30 s; the earliest of equals.
    shifts = Counter(sorted(sample % round(EPOCH_SECONDS * sfreq) for sample in samples))
    lead = shifts.most_common(1)[0][0] / sfreq if shifts else 0.0
    whole, begun = duration - lead, last - lead + EPOCH_SECONDS
    n_epochs = int((max(whole, begun if len(onset) else 0) + 1e-3) // EPOCH_SECONDS)
    onset = lead + EPOCH_SECONDS * np.arange(n_epochs)
    return onset, stages_at(stages, onset)


def _open_record(night, *, labels):
    """Read a night's channels in volts; invalid samples are interpolated."""
    import mne
    import pandas as pd
    import wfdb

    with errors_naming(night.files[1]):
        record = wfdb.rdrecord(str(night.files[0].with_suffix("")), channel_names=labels)
    scale = [1e-6 * _MICROVOLTS[unit] for unit in record.units]
    data = pd.DataFrame(record.p_signal * scale)
    n_invalid = int(data.isna().to_numpy().sum())
    if n_invalid:
        warn(
            f"{night.recording}: {n_invalid} samples are marked as invalid; they are "
            "interpolated."
        )
        data = data.interpolate(limit_direction="both")  # a filter would spread them
    if data.isna().any(axis=None):
        raise ValueError(
            f"{night.recording} has a channel without a valid sample; choose others "
            "(channels=) or name the recordings to read (subjects=)."
        )
    info = mne.create_info(record.sig_name, record.fs, "eeg")
    return mne.io.RawArray(data.to_numpy(copy=True).T, info, verbose="ERROR")
