"""Bitbrain Open Access Sleep: polysomnography and a two-channel headband, 128 nights."""

import json
from functools import partial
from pathlib import Path

import numpy as np

from skleepkd.datasets import checks, loading
from skleepkd.edf import errors_naming, open_edf, read_header
from skleepkd.stages import EPOCH_SECONDS, UNSCORED
from skleepkd.warn import warn

SFREQ = 256.0
_N_TIMES = round(EPOCH_SECONDS * SFREQ)

#: The experts' consensus has AASM codes; 8 marks a disconnected polysomnograph.
_STAGES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 8: UNSCORED}

_CHANNELS = {"source": ["F3", "F4", "C3", "C4", "O1", "O2"], "target": ["HB_1", "HB_2"]}

#: How the files spell the two devices.
_DEVICES = {"source": "psg", "target": "headband"}

_DESCR = """\
Bitbrain Open Access Sleep (BOAS), OpenNeuro ds005555, CC0.

Nights of simultaneous polysomnography (Micromed) and a headband with two frontal EEG
channels (Bitbrain), both 256 Hz and referenced to the left mastoid, unfiltered here.
Stages: consensus of three experts, from the polysomnography (AASM, 30 s).

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
    classes="aasm",
    unscored=False,
    cache=None,
    on_error="raise",
):
    """Load BOAS: polysomnography and headband epochs of up to 128 nights.

    The set is OpenNeuro's ds005555, version 1.1.0 or later. openneuro-py downloads it:
    ``openneuro.download(dataset="ds005555", target_dir=root)``.

    Parameters
    ----------
    root : path-like
        The data set's folder, which holds ``participants.tsv`` and ``sub-1``, ...
    subjects : list of str, optional
        Folders, one a night, such as ``["sub-1", "sub-2"]``; all of them by default.
    source : sequence of str, default=("F3", "F4", "C3", "C4", "O1", "O2")
        Channels of the polysomnography, with or without the files' prefix ``PSG_``.
    target : sequence of str, default=("HB_1", "HB_2")
        Channels of the headband.
    classes, unscored, cache, on_error : optional
        As for :func:`load_eesm`. Unscored is what was recorded while the polysomnograph
        was disconnected. The cache takes about 245 MB a night.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Source of shape (n_epochs, 6, 7680) and target of shape (n_epochs, 2, 7680)
            in microvolts, float32, at 256 Hz and unfiltered; onsets in seconds from
            the start of the polysomnography.
        y, groups, left_out, DESCR : ndarrays of shape (n_epochs,), dict, str
            As of :func:`load_eesm`: the experts' ``stage_hum``, never a machine's, and
            the subject (``pid``), such as "boas-pid-89".

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_eesm`; a ValueError also if the two devices' tables do not list the
        same epochs.

    Warns
    -----
    UserWarning
        As :func:`load_eesm`; also if an epoch is listed for one device alone, or the headers
        of the two signals say that they began a second or more apart.

    Notes
    -----
    Epochs are cut where each device's own table has them, and paired by their onsets. The
    set's README has 108 individuals; ``participants.tsv``, which counts here, 100.
    """
    ch_names = checks.check_channels({"source": source, "target": target}, _CHANNELS)
    ch_names["source"] = ["PSG_" + n.removeprefix("PSG_") for n in ch_names["source"]]
    root = Path(root).expanduser()

    def read_tables(folder):
        for modality, device in _DEVICES.items():
            path = _path(root, folder, device, "channels.tsv")
            present = checks.read_table(path, name=str)["name"]
            checks.require_channels(f"boas-{folder}", list(present), ch_names[modality])
        return read_boas_night(root, folder)

    folders = checks.bids_folders(root, subjects)
    read = partial(_open_devices, ch_names=ch_names)
    options = {"classes": classes, "unscored": unscored, "cache": cache, "sfreq": SFREQ}
    options |= {"name": "boas", "descr": _DESCR, "on_error": on_error}
    return loading.load_nights(folders, read_tables, read, ch_names, **options)


def read_boas_night(root, folder):
    """Read the tables of one night, such as "sub-1"."""
    path = Path(root) / "participants.tsv"
    subjects = checks.read_table(path, participant_id=str, pid=str)
    subjects = subjects.set_index("participant_id")["pid"]
    if folder not in subjects.index:
        raise ValueError(f"{path} has no row {folder}.")
    epochs, durations = {}, {}
    for modality, device in _DEVICES.items():
        path = _path(root, folder, device, "events.tsv")
        columns = {"onset": float, "begsample": int, "endsample": int}
        if modality == "source":
            columns["stage_hum"] = float
        epochs[modality] = table = checks.read_table(path, **columns)
        lengths = table["endsample"] - table["begsample"] + 1
        if any(lengths != _N_TIMES) or any(table["begsample"].diff() < _N_TIMES):
            raise ValueError(
                f"{path}: epochs of {_N_TIMES} samples, one after the other, are expected."
            )
        sidecar = _path(root, folder, device, "eeg.json")
        with errors_naming(sidecar):
            about = json.loads(sidecar.read_text("utf-8"))
            durations[modality] = float(about["RecordingDuration"])
    source = epochs["source"]
    source["y"] = checks.to_stages(source.pop("stage_hum"), _STAGES, f"boas-{folder}")
    names = ("_source", "_target")
    both = source.merge(epochs["target"], "outer", on="onset", suffixes=names)
    n_both = both.notna().all(axis=1).sum()
    if max(map(len, epochs.values())) - n_both > 1:
        raise ValueError(
            f"boas-{folder}: the polysomnography lists {len(source)} epochs and "
            f"the headband {len(epochs['target'])}, {n_both} of them at the same times: "
            "the two do not belong together."
        )
    # What one device alone lists lies before the other's begin: it is not covered.
    first = {name: both[f"begsample_{name}"].fillna(-_N_TIMES) - 1 for name in epochs}
    return loading.Night(
        onset=both["onset"].to_numpy(),
        y=both["y"].fillna(UNSCORED).to_numpy(np.int64),
        files=[_path(root, folder, device, "eeg.edf") for device in _DEVICES.values()],
        subject=f"pid-{subjects[folder]}",
        begin={name: samples / SFREQ for name, samples in first.items()},
        notes={"seconds": durations},
    )


def _path(root, folder, device, what):
    return Path(root) / folder / "eeg" / f"{folder}_task-Sleep_acq-{device}_{what}"


def _open_devices(night, *, ch_names):
    """Open the two recordings of a night."""
    raws = {}
    for path, modality in zip(night.files, _DEVICES, strict=True):
        raws[modality] = raw = open_edf(path, ch_names[modality])
        checks.check_recording(
            raw, path, sfreq=SFREQ, duration=night.notes["seconds"][modality]
        )
    apart = checks.seconds_apart(*map(read_header, night.files))
    if abs(apart) >= 1:
        warn(
            f"{night.files[1]} began {apart:+g} s after {night.files[0].name} by their headers. "
            "Epochs are paired by the tables of the two devices, which put them at one time."
        )
    return raws
