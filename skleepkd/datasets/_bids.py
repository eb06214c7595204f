"""What the loaders of BIDS trees share: tables, epochs of a recording, the cache."""

import csv
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import namedtuple
from pathlib import Path

import numpy as np

from skleepkd.epochs import PairedEpochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED

#: What the tables say of one night, before any signal is read: its folder, its name,
#: its person, the epochs' onsets (seconds) and stages, their first samples and the
#: recording's length (seconds) by modality, and the files of its signals.
Night = namedtuple("Night", "folder recording person onset y first duration files")

#: Changes with the way signals are read, so that older cache entries are left alone.
_CACHE_FORMAT = 1


def read_table(path, *, numbers=(), texts=()):
    """Read columns of a tab-separated table, however its lines end.

    Parameters
    ----------
    path : pathlib.Path
        The table.
    numbers, texts : sequence of str
        Names of the columns that are wanted, as floats and as they stand.

    Returns
    -------
    dict of ndarray
        One array of shape (n_rows,) for each column.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column or a value is missing, or a number cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    # Universal newlines turn "\r\r\n" into two line ends; the csv module skips the
    # empty line between them.
    with path.open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    columns = {}
    for name in (*numbers, *texts):
        values = [row.get(name) for row in rows]
        if not values or None in values:
            where = (
                f"row {values.index(None) + 1} of {len(values)}" if values else "no rows"
            )
            raise ValueError(
                f"{path} lacks the column {name!r} or ends too early ({where}); its "
                f"columns are {list(rows[0]) if rows else 'unknown'}."
            )
        try:
            columns[name] = np.array(values, dtype=float if name in numbers else str)
        except ValueError as error:
            raise ValueError(f"{path}, column {name!r}: {error}") from None
    return columns


def to_stages(codes, table, path):
    """Translate a data set's stage codes.

    Parameters
    ----------
    codes : ndarray of float, shape (n_epochs,)
        As the data set writes them.
    table : dict
        AASM code (or -1) of each of them.
    path : pathlib.Path
        Where they stand, for the error.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)

    Raises
    ------
    ValueError
        If a code is not in the table.
    """
    unknown = sorted(set(codes.tolist()) - set(table))
    if unknown:
        row = int(np.flatnonzero(np.isin(codes, unknown))[0]) + 1
        raise ValueError(
            f"{path} has unknown stage codes {unknown} (first in row {row}); known are "
            f"{sorted(table)}."
        )
    return np.array([table[code] for code in codes], dtype=np.int64)


def subject_folders(root, subjects):
    """Names of the ``sub-`` folders to read, in the order of their numbers.

    Parameters
    ----------
    root : pathlib.Path
        The data set.
    subjects : iterable of str or None
        Folder names, with or without ``sub-``; None for all.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        If the folder holds no ``sub-`` folder, or lacks one that is asked for.
    ValueError
        If ``subjects`` is a single text or empty, or names a folder twice.
    """
    present = sorted(
        (path.name for path in root.glob("sub-*") if path.is_dir()),
        key=lambda name: [int(part) for part in re.findall(r"\d+", name)],
    )
    if not present:
        raise FileNotFoundError(
            f"{root} holds no sub- folders; give the folder that the data set was "
            "downloaded into."
        )
    if subjects is None:
        return present
    if isinstance(subjects, str):
        raise ValueError(f"subjects is a list of folders, such as [{subjects!r}].")
    wanted = ["sub-" + str(subject).removeprefix("sub-") for subject in subjects]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"subjects must name at least one folder and each once: {wanted}.")
    absent = [name for name in wanted if name not in present]
    if absent:
        raise FileNotFoundError(
            f"{root} has no folder {', '.join(absent)}; it has {', '.join(present)}."
        )
    return wanted


def check_recording(raw, recording, channels, *, sfreq, duration):
    """Refuse a recording that is not what the tables promise.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording.
    recording : str
        Its name, for the errors.
    channels : list of str
        The channels that are needed.
    sfreq : float
        The data set's sampling rate in hertz.
    duration : float
        Seconds that the tables say it lasts.

    Raises
    ------
    ValueError
        If a channel is missing, the rate is another, or the length differs by more
        than 30 s.
    """
    missing = [name for name in channels if name not in raw.ch_names]
    if missing:
        raise ValueError(
            f"{recording} lacks the channels {', '.join(missing)}; it has "
            f"{', '.join(raw.ch_names)}."
        )
    if raw.info["sfreq"] != sfreq:
        raise ValueError(
            f"{recording} is sampled at {raw.info['sfreq']:g} Hz, not {sfreq:g}."
        )
    length = raw.n_times / sfreq
    if abs(length - duration) > EPOCH_SECONDS:
        raise ValueError(
            f"{recording}: the signal lasts {length:.1f} s ({raw.n_times} samples), the "
            f"tables say {duration:.1f} s. The file is cut short or belongs to another "
            "recording; download it again."
        )


def read_epochs(raw, channels, first, out):
    """Cut epochs out of a recording.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, in volts; it need not be in memory.
    channels : list of str
        Channels in the order that is wanted.
    first : ndarray of int, shape (n_epochs,)
        First sample of each epoch.
    out : ndarray of shape (n_epochs, n_channels, n_times)
        Where the epochs go, in microvolts.

    Returns
    -------
    int
        How many epochs, from the first, the recording covers whole.
    """
    n_times = out.shape[2]
    n_covered = int(np.searchsorted(first + n_times, raw.n_times, side="right"))
    for row in range(n_covered):
        out[row] = 1e6 * raw.get_data(
            picks=channels, start=first[row], stop=first[row] + n_times
        )
    return n_covered


def gather(nights, read_night, *, name, sfreq, ch_names, unscored, cache, options):
    """Read the nights of a cohort into one array for each modality.

    Parameters
    ----------
    nights : list of Night
        What the tables say.
    read_night : callable
        ``read_night(night, {"source": out, "target": out})`` fills the epochs of a
        night and returns a dict that JSON can keep, among it ``n_covered``.
    name : str
        The data set's name.
    sfreq : float
        Sampling rate in hertz.
    ch_names : dict of list of str
        Channels by modality.
    unscored : bool
        Whether epochs without a stage stay.
    cache : path-like or None
        Folder for memory maps; None keeps the signals in memory.
    options : dict
        What, beside the tables, the signals depend on.

    Returns
    -------
    X : PairedEpochs
    y : ndarray of int64, shape (n_epochs,)
    notes : dict
        What ``read_night`` returned, by ``sub-`` folder.
    """
    sizes = [len(night.onset) for night in nights]
    n_times = round(EPOCH_SECONDS * sfreq)
    shapes = {
        modality: (sum(sizes), len(names), n_times) for modality, names in ch_names.items()
    }

    def fill(arrays):
        notes, start = {}, 0
        for night, size in zip(nights, sizes, strict=True):
            rows = slice(start, start + size)
            out = {modality: array[rows] for modality, array in arrays.items()}
            notes[night.folder] = read_night(night, out)
            start += size
        return notes

    if cache is None:
        # Zeros cost nothing before they are written.
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        notes = fill(arrays)
    else:
        key = {"format": _CACHE_FORMAT, "options": options, "nights": []}
        for night in nights:
            first = hashlib.sha256()
            for modality in sorted(night.first):
                first.update(night.first[modality].astype("<i8").tobytes())
            key["nights"].append([night.recording, first.hexdigest()])
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        entry = Path(cache).expanduser() / f"{name}-{digest[:16]}"
        files = [path for night in nights for path in night.files]
        opened = _open_entry(entry, shapes, files)
        if opened is None:
            _write_entry(entry, shapes, files, fill)
            opened = _open_entry(entry, shapes, files)
        arrays, notes = opened

    y = np.concatenate([night.y for night in nights])
    X = PairedEpochs(
        **arrays,
        subject=np.repeat([night.person for night in nights], sizes),
        recording=np.repeat([night.recording for night in nights], sizes),
        onset=np.concatenate([night.onset for night in nights]),
        sfreq=sfreq,
        ch_names=ch_names,
    )
    kept = np.concatenate(
        [
            np.arange(size) < notes[night.folder]["n_covered"]
            for night, size in zip(nights, sizes, strict=True)
        ]
    )
    if not unscored:
        kept &= y != UNSCORED
    return (X, y, notes) if kept.all() else (X[kept], y[kept], notes)


# ---------------------------------------------------------------- the cache


def _stamps(files):
    """Size and time of the files that are there, by name."""
    stats = {path.name: path.stat() for path in files if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _open_entry(entry, shapes, files):
    """Map an entry's arrays, or return None where it is absent, damaged or outdated.

    Signals that have been deleted since do not matter, other ones do. Lengths are
    checked, values are not: that would mean to read them.
    """
    try:
        about = json.loads((entry / "entry.json").read_text())
        arrays = {}
        for modality, shape in shapes.items():
            array = np.load(entry / f"{modality}.npy", mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != np.float32:
                return None
            arrays[modality] = array
        if any(about["files"].get(name) != stamp for name, stamp in _stamps(files).items()):
            return None
        return arrays, about["notes"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _write_entry(entry, shapes, files, fill):
    """Write an entry under another name, and give it its own when it is complete."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    free = shutil.disk_usage(entry.parent).free
    if free < needed:
        # Found out later, while a memory map is written, it would end the process.
        raise OSError(
            f"The cache needs {needed / 1e9:.1f} GB; {entry.parent} has {free / 1e9:.1f} GB."
        )
    partial = entry.with_name(f"{entry.name}-{uuid.uuid4().hex}.part")
    partial.mkdir()
    try:
        stamps = _stamps(files)
        arrays = {
            modality: np.lib.format.open_memmap(
                partial / f"{modality}.npy", mode="w+", dtype=np.float32, shape=shape
            )
            for modality, shape in shapes.items()
        }
        notes = fill(arrays)
        for array in arrays.values():
            array.flush()
        (partial / "entry.json").write_text(json.dumps({"files": stamps, "notes": notes}))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
