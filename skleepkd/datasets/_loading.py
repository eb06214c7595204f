"""The way of every data set from its files to a cohort.

A loader lists its nights, as the tables of stages tell them, and says how a night's
recording is opened; :func:`load_nights` does the rest.
"""

import csv
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
from sklearn.utils import Bunch

from skleepkd.edf import errors_naming
from skleepkd.epochs import PairedEpochs
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, stage_of_text, to_scheme

#: Changes with the way signals are read, so that older cache entries are left alone.
_CACHE_FORMAT = 2


@dataclass
class Night:
    """What the tables say of one night, before any signal is read."""

    recording: str
    subject: str
    onset: np.ndarray  # of each epoch, in seconds from the recording's start
    y: np.ndarray  # AASM codes, -1 where unscored
    files: list  # a cache is outdated when one of them changes
    duration: object = None  # of the recording in seconds, where its reader checks it
    first: dict | None = None  # first samples by modality, where not sfreq * onset
    notes: dict = field(default_factory=dict)  # for JSON: what reading finds out


def load_nights(
    nights,
    read,
    *,
    name,
    descr,
    ch_names,
    sfreq,
    l_freq=None,
    h_freq=None,
    classes="aasm",
    unscored=False,
    cache=None,
    key=None,
):
    """Load nights as a cohort (X, y, groups, DESCR).

    ``read(night)`` opens a Raw, or one by modality, which is filtered, resampled and cut.
    ``key`` is what else it depends on, apart from the night and its files.
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    if not sfreq > 0:
        raise ValueError(f"sfreq is a sampling rate in hertz; given {sfreq!r}.")
    for night in nights:
        if night.first is None:
            first = np.round(night.onset * sfreq).astype(np.int64)
            night.first = dict.fromkeys(ch_names, first)
        if min(first.min(initial=0) for first in night.first.values()) < 0:
            raise ValueError(
                f"{night.recording}: an epoch begins before the recording does. Do its "
                "files belong together?"
            )
    sizes = [len(night.onset) for night in nights]
    columns = {
        "subject": np.repeat([night.subject for night in nights], sizes),
        "recording": np.repeat([night.recording for night in nights], sizes),
        "onset": np.concatenate([night.onset for night in nights]),
        "sfreq": sfreq,
        "ch_names": ch_names,
    }
    shapes = {
        modality: (sum(sizes), len(names), round(EPOCH_SECONDS * sfreq))
        for modality, names in ch_names.items()
    }

    def fill(arrays):
        """Read the nights into their rows; list how many epochs each recording covers."""
        n_covered, stop = [], 0
        for night in nights:
            start, stop = stop, stop + len(night.onset)
            raws = read(night)
            if not isinstance(raws, dict):
                raws = dict.fromkeys(ch_names, raws)
            for raw in {id(raw): raw for raw in raws.values()}.values():
                if l_freq is not None or h_freq is not None:
                    raw.load_data(verbose="ERROR").filter(l_freq, h_freq, verbose="ERROR")
                if raw.info["sfreq"] != sfreq:
                    raw.resample(sfreq, verbose="ERROR")
            cut = [
                _cut(
                    raws[modality],
                    names,
                    night.first[modality],
                    arrays[modality][start:stop],
                )
                for modality, names in ch_names.items()
            ]
            n_covered.append(min(cut))
        return n_covered

    if cache is None:
        # Zeros cost nothing before they are written.
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        n_covered = fill(arrays)
        X = PairedEpochs(**arrays, **columns)
    else:
        tables = [(n.recording, n.subject, n.onset, n.first) for n in nights]
        digest = joblib.hash(
            (_CACHE_FORMAT, ch_names, float(sfreq), l_freq, h_freq, key, tables)
        )
        entry = Path(cache).expanduser() / f"{name}-{digest[:16]}"
        if _open_entry(entry, nights) is None:
            _write_entry(entry, nights, shapes, columns, fill)
        X, n_covered = _open_entry(entry, nights)

    y = np.concatenate([night.y for night in nights])
    kept = np.concatenate([np.arange(n) < m for n, m in zip(sizes, n_covered, strict=True)])
    if not unscored:
        kept &= y != UNSCORED
    if not kept.all():
        X, y = X[kept], y[kept]
    n_subjects = len({night.subject for night in nights})
    for modality, names in ch_names.items():
        descr += f"{modality.capitalize()}: {', '.join(names)}.\n"
    descr += f"{sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz.\n"
    descr += f"{len(X)} epochs of {n_subjects} subjects, {len(nights)} nights.\n"
    return Bunch(X=X, y=to_scheme(y, classes), groups=X.subject, DESCR=descr)


def _cut(raw, channels, first, out):
    """Cut a recording's epochs, in microvolts; count those that it covers whole."""
    n_times = out.shape[2]
    n_covered = int(np.searchsorted(first + n_times, raw.n_times, side="right"))
    for row, start in enumerate(first[:n_covered]):
        out[row] = 1e6 * raw.get_data(picks=channels, start=start, stop=start + n_times)
    return n_covered


# ---------------------------------------------------------------- the cache


def _stamps(nights):
    """Size and time of the files that are there, by name."""
    files = [path for night in nights for path in night.files if path.is_file()]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _open_entry(entry, nights):
    """Open an entry, or return None where it is absent, damaged or outdated."""
    try:
        about = json.loads((entry / "entry.json").read_text())
        X = PairedEpochs.from_memmap(entry)
        # Signals that have been deleted since do not matter, other ones do.
        stamps = _stamps(nights)
        if stamps != {file: about["files"].get(file) for file in stamps}:
            return None
        for night, notes in zip(nights, about["notes"], strict=True):
            night.notes.update(notes)
        return X, about["n_covered"]
    except (OSError, ValueError, KeyError):
        return None


def _write_entry(entry, nights, shapes, columns, fill):
    """Write an entry under another name, and give it its own when it is complete."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, suffix=".part") as place:
        partial, stamps = Path(place) / entry.name, _stamps(nights)
        # Zeros take the room on the disk, or are refused, before hours of reading.
        zeros = {
            name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()
        }
        X = PairedEpochs(**zeros, **columns).to_memmap(partial)
        arrays = {name: np.load(X[name].filename, mmap_mode="r+") for name in shapes}
        about = {"files": stamps, "n_covered": fill(arrays)}
        for array in arrays.values():
            array.flush()
        about["notes"] = [night.notes for night in nights]
        (partial / "entry.json").write_text(json.dumps(about))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(partial, entry)


# ---------------------------------------------------------------- options


def check_channels(channels, default):
    """Sort channels by modality; a list is a target without a source."""
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


def choose_recordings(subjects, present, *, prefix, where):
    """List the recordings to read, which the user names with or without a prefix."""
    if subjects is None:
        return present
    if isinstance(subjects, str):
        raise ValueError(f"subjects is a list of recordings, such as [{subjects!r}].")
    by_name = {name.removeprefix(prefix): name for name in present}
    wanted = {str(subject).removeprefix(prefix): str(subject) for subject in subjects}
    if not wanted or len(wanted) < len(subjects):
        raise ValueError(f"subjects must name at least one and each once: {subjects}.")
    absent = [given for name, given in wanted.items() if name not in by_name]
    if absent:
        some = [*present[:3], "..."] if len(present) > 3 else present
        raise FileNotFoundError(
            f"There is no recording {', '.join(absent)} in {where}; it has {', '.join(some)}."
        )
    return [by_name[name] for name in wanted]


def bids_folders(root, subjects):
    """List the ``sub-`` folders to read, in the order of their numbers."""
    present = [path.name for path in root.glob("sub-*") if path.is_dir()]
    if not present:
        raise FileNotFoundError(
            f"{root} holds no sub- folders; give the folder that the data set was "
            "downloaded into."
        )
    present.sort(key=lambda name: (len(name), name))
    return choose_recordings(subjects, present, prefix="sub-", where=root)


# ---------------------------------------------------------------- tables


def read_table(path, *, numbers=(), texts=()):
    """Read columns of a tab-separated table: finite numbers, and texts."""
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    # pandas passes over the empty lines of "\r\r\n"; no index, so that no row is shifted.
    as_text = {"dtype": str, "keep_default_na": False, "quoting": csv.QUOTE_NONE}
    with errors_naming(path):
        table = pd.read_csv(path, sep="\t", index_col=False, **as_text)
    columns = {}
    for name in (*numbers, *texts):
        values = table[name].tolist() if name in table else []
        if not values or "" in values:
            raise ValueError(
                f"{path} lacks the column {name!r} or ends too early: it has "
                f"{len(table)} rows of {list(table)}."
            )
        try:
            columns[name] = np.array(values, dtype=float if name in numbers else str)
            if name in numbers and not np.isfinite(columns[name]).all():
                raise ValueError("finite numbers are expected")
        except ValueError as error:
            raise ValueError(f"{path}, column {name!r}: {error}.") from None
    return columns


def to_stages(codes, table, path):
    """Translate a data set's codes of stages by a table."""
    unknown = sorted(set(codes.tolist()) - set(table))
    if unknown:
        row = int(np.flatnonzero(np.isin(codes, unknown))[0]) + 1
        raise ValueError(
            f"{path} has unknown stage codes {unknown} (first in row {row}); known are "
            f"{sorted(table)}."
        )
    return np.array([table[code] for code in codes], dtype=np.int64)


def warn_of_unknown(texts, where):
    """Warn of texts that are no known stage; a night's reader of stages calls it."""
    unknown = sorted({str(text) for text in texts if stage_of_text(text) is None})
    if unknown:
        warnings.warn(
            f"{where}: {', '.join(map(repr, unknown))} is no known stage; such epochs count "
            "as unscored.",
            stacklevel=5,
        )


def check_end(end, duration, path):
    """Refuse stages that go on for more than an epoch after the recording's end."""
    if end - duration > EPOCH_SECONDS:
        raise ValueError(
            f"{path}: the scoring ends {end - duration:.1f} s after the recording, which "
            f"lasts {duration:.1f} s. At most 30 s are allowed: do the two files belong "
            "together?"
        )


def check_recording(raw, recording, channels, *, sfreq, duration):
    """Refuse a Raw that lacks channels, or has another rate or length than the tables say."""
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
