"""Bitbrain Open Access Sleep: polysomnography and a two-channel headband, 128 nights."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skleepkd.datasets._bids import (
    check_recording,
    read_table,
    subject_folders,
    to_stages,
)
from skleepkd.datasets._edf import refuse_interrupted
from skleepkd.datasets._nights import Night, blaming, gather, read_epochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, to_scheme

SFREQ = 256.0
_N_TIMES = round(EPOCH_SECONDS * SFREQ)

#: The experts' consensus has AASM codes; 8 marks a disconnected polysomnograph.
_STAGES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 8: UNSCORED}

#: How the files spell the two devices.
_DEVICES = {"source": "psg", "target": "headband"}

_DESCR = """\
Bitbrain Open Access Sleep (BOAS), OpenNeuro ds005555, CC0.

Nights of simultaneous polysomnography (Micromed) and a headband with two frontal EEG
channels (Bitbrain), both 256 Hz and referenced to the left mastoid, unfiltered here.
Stages: consensus of three experts, from the polysomnography (AASM, 30 s).
Source: {source}. Target: {target}.
{n_epochs} epochs of {n_nights} nights of {n_persons} persons.
Nights left out because channels are missing: {skipped}.

López-Larraz, Sierra-Torralba, Clemente et al.: Bitbrain Open Access Sleep Dataset.
OpenNeuro, 2025.
doi:10.18112/openneuro.ds005555.v1.1.0
"""


def load_boas(
    root,
    *,
    subjects=None,
    source=("F3", "F4", "C3", "C4", "O1", "O2"),
    target=("HB_1", "HB_2"),
    on_missing="raise",
    classes="aasm",
    unscored=False,
    cache=None,
):
    """Load BOAS: polysomnography and headband epochs of up to 128 nights.

    The set is OpenNeuro's ds005555, version 1.1.0 or later. openneuro-py downloads it:
    ``openneuro.download(dataset="ds005555", target_dir=root)``.

    Parameters
    ----------
    root : path-like
        The data set's folder, which holds ``participants.tsv`` and ``sub-1``, ...
    subjects : list of str, optional
        Folders to read, such as ``["sub-1", "sub-2"]``; all of them by default. A
        folder is one night; a person may have several.
    source : sequence of str, default=("F3", "F4", "C3", "C4", "O1", "O2")
        Channels of the polysomnography, with or without the files' prefix ``PSG_``.
    target : sequence of str, default=("HB_1", "HB_2")
        Channels of the headband.
    on_missing : {"raise", "skip"}, default="raise"
        What to do with a night whose table of channels lacks one of these.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The scheme of ``y``, of five, four or three stages, as
        :func:`skleepkd.stages.to_scheme` makes it.
    unscored : bool, default=False
        Whether epochs without a stage (disconnected polysomnograph) stay, with y = -1.
    cache : path-like, optional
        Folder where the epochs are kept as memory maps (about 245 MB a night). A later
        call with the same options maps them without reading the signals again. By
        default they are in memory.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Source of shape (n_epochs, 6, 7680) and target of shape (n_epochs, 2, 7680)
            in microvolts, float32, at 256 Hz and unfiltered; onsets in seconds from
            the start of the polysomnography.
        y : ndarray of int64, shape (n_epochs,)
            AASM codes 0 W, 1 N1, 2 N2, 3 N3, 4 REM; -1 only with ``unscored``. They are
            ``stage_hum``, never a machine's.
        groups : ndarray of str, shape (n_epochs,)
            The person (``pid``), such as "boas-pid-89"; there are fewer than nights.
        skipped : dict of str to list of str
            The channels that nights left out by ``on_missing="skip"`` lack.
        DESCR : str
            What was loaded.

    Raises
    ------
    FileNotFoundError
        If a folder, a table or a signal is missing.
    ValueError
        If a channel is missing, a stage code unknown, a signal's length differs from
        what the tables say by more than 30 s, or the two devices' tables do not list
        the same epochs.

    Notes
    -----
    Each device has a table of epochs with sample numbers in its own file. Epochs are
    paired by their onsets, which is how the set aligns the two devices.

    The set's README speaks of 108 individuals; ``participants.tsv``, which counts here,
    names 100 for the 128 nights.

    Examples
    --------
    >>> from skleepkd.datasets import load_boas
    >>> cohort = load_boas("ds005555", cache="cache")               # doctest: +SKIP
    >>> len(set(cohort.X.recording)), len(set(cohort.groups))       # doctest: +SKIP
    (128, 100)
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    if on_missing not in ("raise", "skip"):
        raise ValueError(f"on_missing is 'raise' or 'skip'; given {on_missing!r}.")
    if isinstance(source, str) or isinstance(target, str):
        raise ValueError(
            f"source and target are lists of channels: {source!r}, {target!r}."
        )
    root = Path(root).expanduser()
    ch_names = {
        "source": ["PSG_" + name.removeprefix("PSG_") for name in source],
        "target": list(target),
    }
    nights, skipped = [], {}
    for folder in subject_folders(root, subjects):
        missing = _missing_channels(root, folder, ch_names)
        if not missing:
            nights.append(read_boas_night(root, folder))
        elif on_missing == "skip":
            skipped[folder] = missing
        else:
            raise ValueError(
                f"boas-{folder} has no channels {', '.join(missing)}. Choose others "
                "(source=, target=), or leave such nights out with on_missing='skip'."
            )
    if not nights:
        raise ValueError(f"Every night lacks a channel: {skipped}.")
    X, y, _ = gather(
        nights,
        partial(_read_signals, ch_names=ch_names),
        name="boas",
        sfreq=SFREQ,
        ch_names=ch_names,
        unscored=unscored,
        cache=cache,
        options=ch_names,
    )
    descr = _DESCR.format(
        source=", ".join(ch_names["source"]),
        target=", ".join(ch_names["target"]),
        n_epochs=len(X),
        n_nights=len(nights),
        n_persons=len({night.person for night in nights}),
        skipped=", ".join(skipped) or "none",
    )
    return Bunch(
        X=X, y=to_scheme(y, classes), groups=X.subject, skipped=skipped, DESCR=descr
    )


def read_boas_night(root, folder):
    """Read the tables of one BOAS night, without its signals.

    Parameters
    ----------
    root : path-like
        The data set's folder.
    folder : str
        The night, such as ``"sub-1"``.

    Returns
    -------
    Night
        With ``onset`` (seconds from the start of the polysomnography) and ``y`` (AASM
        codes, -1 where unscored), each of shape (n_epochs,), unscored epochs among them.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_boas`.
    """
    root = Path(root)
    people = read_table(root / "participants.tsv", texts=("participant_id", "pid"))
    if folder not in people["participant_id"]:
        raise ValueError(f"{root / 'participants.tsv'} has no row {folder}.")
    person = people["pid"][people["participant_id"] == folder][0]

    samples = ("begsample", "endsample")
    tables, durations = {}, {}
    for modality, device in _DEVICES.items():
        path = _path(root, folder, device, "events.tsv")
        columns = ("onset", *samples) + (("stage_hum",) if device == "psg" else ())
        tables[modality] = table = read_table(path, numbers=columns)
        begin, end = table["begsample"], table["endsample"]
        one_by_one = np.all(np.diff(begin) >= _N_TIMES) and np.all(begin % 1 == 0)
        if not one_by_one or np.any(end - begin + 1 != _N_TIMES):
            raise ValueError(
                f"{path}: epochs of {_N_TIMES} samples, one after the other, are expected."
            )
        sidecar = _path(root, folder, device, "eeg.json")
        with blaming(sidecar):
            durations[modality] = float(
                json.loads(sidecar.read_text("utf-8"))["RecordingDuration"]
            )
    codes = tables["source"]["stage_hum"]
    y = to_stages(codes, _STAGES, _path(root, folder, "psg", "events.tsv"))

    counts = {modality: len(table["onset"]) for modality, table in tables.items()}
    onset, in_source, in_target = np.intersect1d(
        tables["source"]["onset"], tables["target"]["onset"], return_indices=True
    )
    if max(counts.values()) - len(onset) > 1:
        raise ValueError(
            f"boas-{folder}: the polysomnography lists {counts['source']} epochs and the "
            f"headband {counts['target']}, {len(onset)} of them at the same times. More "
            "than one epoch (30 s) apart, the two do not belong together."
        )
    first = {
        modality: tables[modality]["begsample"][rows].astype(np.int64) - 1
        for modality, rows in (("source", in_source), ("target", in_target))
    }
    return Night(
        folder=folder,
        recording=f"boas-{folder}",
        person=f"boas-pid-{person}",
        onset=onset,
        y=y[in_source],
        first=first,
        duration=durations,
        files=[_path(root, folder, device, "eeg.edf") for device in _DEVICES.values()],
    )


def _path(root, folder, device, what):
    return root / folder / "eeg" / f"{folder}_task-Sleep_acq-{device}_{what}"


def _missing_channels(root, folder, ch_names):
    missing = []
    for modality, device in _DEVICES.items():
        table = read_table(_path(root, folder, device, "channels.tsv"), texts=("name",))
        missing += [name for name in ch_names[modality] if name not in table["name"]]
    return missing


def _read_signals(night, out, *, ch_names):
    """Fill the epochs of a night from its two recordings."""
    n_covered = []
    for path, modality in zip(night.files, _DEVICES, strict=True):
        raw = _open_edf(path, ch_names[modality])
        check_recording(
            raw,
            f"{night.recording} ({_DEVICES[modality]})",
            ch_names[modality],
            sfreq=SFREQ,
            duration=night.duration[modality],
        )
        n_covered.append(
            read_epochs(raw, ch_names[modality], night.first[modality], out[modality])
        )
    return {"n_covered": min(n_covered)}


def _open_edf(path, channels):
    import mne

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    refuse_interrupted(path)
    with blaming(path):
        try:
            # The tables say microvolts: this counts where the header names no unit.
            return mne.io.read_raw_edf(
                path, units=dict.fromkeys(channels, "uV"), verbose="ERROR"
            )
        except ValueError as error:
            if "Unit for channel" not in str(error):
                raise
        return mne.io.read_raw_edf(path, verbose="ERROR")  # another, which MNE converts
