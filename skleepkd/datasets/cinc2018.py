"""PhysioNet/CinC Challenge 2018: polysomnography with ECG, 994 scored nights, open."""

import re
import struct
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skleepkd.datasets._nights import (
    Night,
    blaming,
    check_channels,
    choose_recordings,
    gather,
    read_filtered,
    warn_of_unknown,
)
from skleepkd.datasets._physionet import download, fetch_sums
from skleepkd.stages import (
    EPOCH_SECONDS,
    UNSCORED,
    scheme_names,
    stage_of_text,
    stages_at,
    to_scheme,
)

_URL = "https://physionet.org/files/challenge-2018/1.0.0/"
_RECORD = re.compile(r"tr\d\d-\d{4}")
_SUFFIXES = (".hea", ".mat", ".arousal")

#: One EEG derivation teaches, the ECG is taught, as in Joshi et al. (2021).
_CHANNELS = {"source": ["C3-M2"], "target": ["ECG"]}

_LABELS = ("F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "Chin1-Chin2")
_LABELS += ("ABD", "CHEST", "AIRFLOW", "SaO2", "ECG")

#: Microvolts in a header's unit. Saturation has no volts: it stays in percent.
_MICROVOLTS = {"nV": 1e-3, "uV": 1.0, "mV": 1e3, "V": 1e6, "%": 1.0}

_DESCR = """\
PhysioNet/Computing in Cardiology Challenge 2018 ("You Snooze You Win"), training set.

Whole nights of polysomnography with ECG, scored by the AASM's rules in epochs of 30 s.
{sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz.
{channels}
{n_epochs} epochs of {n_subjects} persons, one night each.
{left_out}

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
):
    """Load the training set of the PhysioNet/CinC Challenge 2018.

    994 people slept one night each with six EEG derivations and an ECG, and their
    stages are published: the open counterpart of MASS for teaching an ECG stager. The
    989 nights of the challenge's ``test`` folder have no stages and are not read.

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
    sfreq : float, default=200.0
        Sampling rate in hertz to which the nights are resampled. They have 200 Hz.
    l_freq, h_freq : float or None, default=None
        Edges of the band-pass filter in hertz, applied before resampling; None leaves
        a side open.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The scheme of ``y``, of five, four or three stages, as
        :func:`skleepkd.stages.to_scheme` makes it.
    unscored : bool, default=False
        Whether epochs without a stage stay, with y = -1.
    cache : path-like, optional
        Folder where the epochs are kept as memory maps. A later call with the same
        options maps them without reading the signals again. By default they are in
        memory: two channels of seven hours at 200 Hz take 40 MB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Epochs of shape (n_epochs, n_channels, 30 * sfreq), float32, in microvolts
            (SaO2 in percent). ``onset`` is in seconds from the recording's start.
        y : ndarray of int64, shape (n_epochs,)
            AASM codes 0 W, 1 N1, 2 N2, 3 N3, 4 REM; -1 only with ``unscored``.
        groups : ndarray of str, shape (n_epochs,)
            The person, such as "cinc2018-tr03-0005". Each has one recording, whose
            name is the same.
        left_out : dict of str to str
            Why a recording could not be read, by its name.
        DESCR : str
            What was loaded.

    Raises
    ------
    FileNotFoundError
        If there is no recording, or one of ``subjects`` is missing.
    ValueError
        If an option is wrong, no recording can be read, or one has no valid sample of
        a channel.

    Warns
    -----
    UserWarning
        If a recording cannot be read (it lacks a file, a channel or, without
        ``unscored``, any stage, or a file is damaged): it is left out. If a stage is
        unknown: it counts as unscored. If samples are marked as invalid: they are
        interpolated linearly.

    Notes
    -----
    A stage is written where it changes and holds until the next one, the last to the
    recording's end; before the first the stage is unknown. Arousals and breathing
    events, which stand between them in brackets, are passed over.

    Epochs follow each other every 30 s from the recording's start. Where most stage
    changes of a night lie beside that grid by one and the same time, the scorer's
    epochs began that much later, and so do these. An epoch in which the stage changes
    counts as unscored (:func:`skleepkd.stages.stages_at`).

    The ECG is taken as it stands; :func:`load_mass` alone reverses its sign.

    Examples
    --------
    >>> from skleepkd.datasets import load_cinc2018
    >>> cohort = load_cinc2018("challenge-2018", cache="cache")   # doctest: +SKIP
    >>> cohort.left_out                                           # doctest: +SKIP
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    root = Path(root).expanduser()
    ch_names = check_channels(channels, _CHANNELS)
    unknown = {name for names in ch_names.values() for name in names} - set(_LABELS)
    if unknown:
        raise ValueError(
            f"There is no channel {', '.join(sorted(unknown))}; the channels are "
            f"{', '.join(_LABELS)}."
        )
    if not sfreq > 0:
        raise ValueError(f"sfreq is a sampling rate in hertz; given {sfreq!r}.")
    folder = root / "training" if (root / "training").is_dir() else root
    present = sorted(path.name for path in folder.glob("tr*") if _is_recording(path))
    if not present:
        raise FileNotFoundError(
            f"{folder} holds no folder trNN-NNNN. root is the folder that holds training; "
            "fetch_cinc2018 downloads recordings."
        )
    nights, left_out = [], {}
    for number in choose_recordings(subjects, present, name="cinc2018", where=folder):
        try:
            nights.append(_read_night(folder / number, ch_names, sfreq, unscored))
        except (OSError, ValueError) as error:
            left_out[f"cinc2018-{number}"] = str(error)
            warnings.warn(f"cinc2018-{number} is left out: {error}", stacklevel=2)
    if not nights:
        raise ValueError(
            f"None of {len(left_out)} recordings can be read; the first is "
            f"{next(iter(left_out))}: {next(iter(left_out.values()))}"
        )
    options = {"sfreq": float(sfreq), "l_freq": l_freq, "h_freq": h_freq}
    X, y, _ = gather(
        nights,
        partial(_read_signals, ch_names=ch_names, **options),
        name="cinc2018",
        sfreq=sfreq,
        ch_names=ch_names,
        unscored=unscored,
        cache=cache,
        options={"channels": ch_names, **options},
    )
    reasons = [f"{name} ({reason})" for name, reason in left_out.items()]
    descr = _DESCR.format(
        **options,
        channels="\n".join(
            f"{modality.capitalize()}: {', '.join(names)}."
            for modality, names in ch_names.items()
        ),
        n_epochs=len(X),
        n_subjects=len(nights),
        left_out=f"Left out: {'; '.join(reasons) or 'none'}.",
    )
    return Bunch(
        X=X, y=to_scheme(y, classes), groups=X.subject, left_out=left_out, DESCR=descr
    )


def fetch_cinc2018(root, subjects, *, base_url=_URL, **options):
    """Download recordings of the PhysioNet/CinC Challenge 2018, then load them.

    A night is about 130 MB, the whole training set about 135 GB. Files that are there
    and whole are not downloaded again, so that a call that was interrupted is simply
    repeated.

    Parameters
    ----------
    root : path-like
        Folder to download into; it is made where it is missing. Files get the places
        that they have on PhysioNet: ``training/tr03-0005/tr03-0005.mat``.
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
    FileNotFoundError
        If the data set has no such recording.
    OSError
        If a file cannot be downloaded, or what arrived is not what PhysioNet's sums
        (``SHA256SUMS.txt``) say. No part of it is left under its name.
    ValueError
        As :func:`load_cinc2018`.

    Warns
    -----
    UserWarning
        If the sums cannot be downloaded: files are then not checked.

    Examples
    --------
    >>> from skleepkd.datasets import fetch_cinc2018
    >>> cohort = fetch_cinc2018("challenge-2018", ["tr03-0005"])   # doctest: +SKIP
    """
    root = Path(root).expanduser()
    base_url = base_url.rstrip("/") + "/"
    sums = fetch_sums(base_url, root)
    listed = [
        path.split("/")[1]
        for path in sums
        if path.startswith("training/") and path.endswith(".hea")
    ]
    if isinstance(subjects, str) and subjects == "all":
        if not listed:
            raise OSError(
                f"{base_url}SHA256SUMS.txt, which lists the recordings, cannot be had. Try "
                "again later, or name the recordings (subjects=)."
            )
        subjects = None
    # Without a list of the recordings whatever is asked for may be there.
    wanted = choose_recordings(
        subjects,
        listed or [str(name).removeprefix("cinc2018-") for name in subjects],
        name="cinc2018",
        where=base_url,
    )
    for number in wanted:
        for suffix in _SUFFIXES:
            path = f"training/{number}/{number}{suffix}"
            download(base_url, root, path, sums.get(path))
    return load_cinc2018(root, subjects=wanted, **options)


# ---------------------------------------------------------------- reading


def _is_recording(path):
    return path.is_dir() and _RECORD.fullmatch(path.name)


def _read_night(folder, ch_names, sfreq, unscored):
    """Read the stages of one night, and see whether its signals are whole."""
    import wfdb

    number = folder.name
    files = [folder / f"{number}{suffix}" for suffix in _SUFFIXES]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} missing")
    with blaming(files[0]):
        # WFDB's own limit; the time to parse a line grows with the square of its length.
        if max(map(len, files[0].read_bytes().split(b"\n"))) > 255:
            raise ValueError("a line has more than 255 characters")
        header = wfdb.rdheader(str(folder / number))
    if header.n_sig != len(header.sig_name or ()):
        raise ValueError(f"its header promises {header.n_sig} signals and names others")
    units = dict(zip(header.sig_name or (), header.units or (), strict=True))
    for name in (name for names in ch_names.values() for name in names):
        if name not in units:
            raise ValueError(
                f"it has no channel {name}; it has {', '.join(map(str, units))}"
            )
        if units[name] not in _MICROVOLTS:
            raise ValueError(f"{name} is in {units[name]!r}, which is no unit of voltage")
    if not 1 <= header.fs < 1e6:
        raise ValueError(f"its header gives a sampling rate of {header.fs} Hz")
    strangers = set(header.file_name) - {files[1].name}
    if strangers:
        raise ValueError(f"its header names the signals {strangers}, not {files[1].name}")
    duration = (header.sig_len or 0) / header.fs
    if duration < EPOCH_SECONDS:
        raise ValueError(f"its header promises {duration:g} s, less than an epoch")
    with blaming(files[1]):  # if it ends before its last sample
        wfdb.rdrecord(str(folder / number), sampfrom=header.sig_len - 1)
    with blaming(files[2]):
        notes = _read_notes(files[2])
    onset, y = _read_stages(number, notes, header.fs, duration)
    if not unscored and np.all(y == UNSCORED):
        raise ValueError("no epoch has a stage")
    return Night(
        folder=number,
        recording=f"cinc2018-{number}",
        person=f"cinc2018-{number}",
        onset=onset,
        y=y,
        first=dict.fromkeys(ch_names, np.round(onset * sfreq).astype(np.int64)),
        duration=dict.fromkeys(ch_names, duration),
        files=files,
    )


def _read_stages(number, notes, sfreq, duration):
    """Onsets (seconds) and AASM codes of a night's epochs."""
    import mne

    samples, texts = [], []
    for sample, text in notes:
        text = text.strip("\x00 \t\r\n")
        is_event = text.startswith("(") or text.endswith(")")
        # A stage that is written again goes on.
        if text and not is_event and (not texts or text != texts[-1]):
            samples.append(sample)
            texts.append(text)
    onset = np.array(samples) / sfreq
    if len(onset) and onset[-1] > duration + EPOCH_SECONDS:
        raise ValueError(
            f"a stage begins at {onset[-1]:.1f} s, but the recording lasts {duration:.1f} s: "
            "do its files belong together?"
        )
    warn_of_unknown(texts, f"cinc2018-{number}")
    # Each holds until the next, the last to the recording's end.
    holds = np.diff([*onset, max([duration, *onset])])
    known = [k for k, text in enumerate(texts) if stage_of_text(text) is not None]
    stages = mne.Annotations(onset[known], holds[known], [texts[k] for k in known])
    # Where most changes fall between the steps of 30 s; the earliest of equals.
    shifts = Counter(sorted(sample % round(EPOCH_SECONDS * sfreq) for sample in samples))
    lead = shifts.most_common(1)[0][0] / sfreq if shifts else 0.0
    n_epochs = int((duration - lead + 1e-3) // EPOCH_SECONDS)
    onset = lead + EPOCH_SECONDS * np.arange(n_epochs)
    return onset, stages_at(stages, onset)


def _read_notes(path):
    """Read the samples and texts of a night's annotations, in WFDB's MIT format."""
    data = path.read_bytes()
    notes, sample, place = [], 0, 0
    while True:
        # Six bits of a code above ten bits of a number, in words of two bytes.
        (word,) = struct.unpack_from("<H", data, place)
        code, number = word >> 10, word & 1023
        place += 2
        if word == 0:
            return [note for note in notes if not note[1].startswith("## ")]
        if code == 59:  # a long step; its upper half comes first
            upper, lower = struct.unpack_from("<hH", data, place)
            sample += 65536 * upper + lower
            place += 4
        elif code == 63:  # the text of the note before
            if place + number > len(data) or not notes:
                raise ValueError("it ends within a text")
            notes[-1] = (notes[-1][0], data[place : place + number].decode("latin-1"))
            place += number + number % 2
        elif code < 50:  # a note; others tell of its channel and the like
            sample += number
            notes.append((sample, ""))


def _read_signals(night, out, *, ch_names, **options):
    """Fill the epochs of a night."""
    import mne
    import wfdb

    names = sorted({name for names in ch_names.values() for name in names})
    with blaming(night.files[1]):
        record = wfdb.rdrecord(str(night.files[0].with_suffix("")), channel_names=names)
    scale = [1e-6 * _MICROVOLTS[unit] for unit in record.units]
    data = _fill_invalid(record.p_signal.T * np.array(scale)[:, np.newaxis], night)
    info = mne.create_info(record.sig_name, record.fs, "eeg")
    raw = mne.io.RawArray(data, info, verbose="ERROR")
    return read_filtered(raw, night, out, ch_names=ch_names, **options)


def _fill_invalid(data, night):
    """Interpolate samples that are NaN, which filters would spread over the night."""
    valid = np.isfinite(data)
    if valid.all():
        return data
    if not valid.any(axis=1).all():
        raise ValueError(
            f"{night.recording} has a channel without a valid sample; choose others "
            "(channels=) or name the recordings to read (subjects=)."
        )
    warnings.warn(
        f"{night.recording}: {np.sum(~valid)} samples are marked as invalid; they are "
        "interpolated.",
        stacklevel=6,
    )
    places = np.arange(data.shape[1])
    for row, good in zip(data, valid, strict=True):
        row[~good] = np.interp(places[~good], places[good], row[good])
    return data
