"""What the loaders share: nights, their epochs in arrays, the cache."""

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import map_new
from skleepkd.preprocessing import band_pass
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, stage_of_text

#: What the tables say of one night, before any signal is read: its folder, its name,
#: its person, the epochs' onsets (seconds) and stages, their first samples and the
#: recording's length (seconds) by modality, and the files of its signals.
Night = namedtuple("Night", "folder recording person onset y first duration files")

#: Changes with the way signals are read, so that older cache entries are left alone.
_CACHE_FORMAT = 1


@contextmanager
def blaming(path):
    """Turn whatever a reader raises on a damaged file into a ValueError that names it.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Raises
    ------
    ValueError
        Instead of any error but a missing file, one that may not be read, and want of
        memory, which are not the content's fault.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {error}). Download "
            "it again."
        ) from error


def check_channels(channels, default):
    """Answer with lists of channels by modality.

    Parameters
    ----------
    channels : dict of list of str, list of str or None
        What the user gave; a list is a target without a source.
    default : dict of list of str
        What None stands for.

    Returns
    -------
    dict of list of str

    Raises
    ------
    ValueError
        If it is neither, or a modality is unknown or empty.
    """
    if channels is None:
        channels = default
    given = channels if isinstance(channels, dict) else {"target": channels}
    if (
        "target" not in given
        or not set(given) <= {"source", "target"}
        or any(isinstance(names, str) or not len(names) for names in given.values())
    ):
        raise ValueError(
            f"channels is a list, such as {default['target']}, or lists by modality, such "
            f"as {default}; given {channels!r}."
        )
    return {modality: list(names) for modality, names in given.items()}


def choose_recordings(subjects, present, *, name, where):
    """Names of the recordings to read.

    Parameters
    ----------
    subjects : iterable of str or None
        Names, with or without the data set's before them; None for all.
    present : list of str
        Names of the recordings that are there.
    name : str
        The data set's name.
    where : str
        Where they are, for the error.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        If a recording is not there.
    ValueError
        If ``subjects`` is a single text or empty, or names a recording twice.
    """
    if subjects is None:
        return present
    if isinstance(subjects, str):
        raise ValueError(f"subjects is a list of recordings, such as [{subjects!r}].")
    wanted = [str(subject).removeprefix(f"{name}-") for subject in subjects]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"subjects must name at least one and each once: {wanted}.")
    absent = sorted(set(wanted) - set(present))
    if absent:
        raise FileNotFoundError(f"There is no recording {', '.join(absent)} in {where}.")
    return wanted


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


def read_filtered(raw, night, out, *, ch_names, sfreq, l_freq, h_freq):
    """Filter and resample a recording in place, and cut its epochs out.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, in volts.
    night : Night
        It tells where the epochs begin.
    out : dict of ndarray of shape (n_epochs, n_channels, n_times)
        Where they go, by modality, in microvolts.
    ch_names : dict of list of str
        Channels by modality.
    sfreq : float
        Sampling rate in hertz.
    l_freq, h_freq : float or None
        Edges of the band-pass filter in hertz.

    Returns
    -------
    dict
        ``n_covered``, as :func:`gather` wants it.
    """
    if l_freq is not None or h_freq is not None:
        band_pass(raw, l_freq, h_freq, verbose="ERROR")
    if raw.info["sfreq"] != sfreq:
        raw.resample(sfreq, verbose="ERROR")
    n_covered = [
        read_epochs(raw, names, night.first[modality], out[modality])
        for modality, names in ch_names.items()
    ]
    return {"n_covered": min(n_covered)}


def warn_of_unknown(texts, where):
    """Warn of texts that are no known stage; a loader's own reader of stages calls it.

    Parameters
    ----------
    texts : iterable of str
        What stands for stages.
    where : str or pathlib.Path
        Where they were found.
    """
    unknown = sorted({str(text) for text in texts if stage_of_text(text) is None})
    if unknown:
        warnings.warn(
            f"{where}: {', '.join(map(repr, unknown))} is no known stage; such epochs count "
            "as unscored.",
            stacklevel=5,
        )


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
        What ``read_night`` returned, by the night's folder.
    """
    for night in nights:
        first = np.concatenate(list(night.first.values()))
        if len(first) and first.min() < 0:
            raise ValueError(
                f"{night.recording}: an epoch begins before the recording does, at sample "
                f"{first.min()}. Do its files belong together?"
            )
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
            modality: map_new(partial / f"{modality}.npy", shape, np.float32)
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
