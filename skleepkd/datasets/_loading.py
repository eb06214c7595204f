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

from skleepkd.edf import errors_naming, first_onset, read_header
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import map_new
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
    name,
    descr,
    ch_names,
    *,
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
    sizes = [len(night.onset) for night in nights]
    shapes = {
        modality: (sum(sizes), len(names), round(EPOCH_SECONDS * sfreq))
        for modality, names in ch_names.items()
    }
    for night in nights:
        first = np.round(night.onset * sfreq).astype(np.int64)
        night.first = night.first or dict.fromkeys(ch_names, first)

    def fill(arrays):
        """Read the nights into their rows; list how many epochs each recording covers."""
        n_covered, start = [], 0
        for night in nights:
            raws = read(night)
            if not isinstance(raws, dict):
                raws = dict.fromkeys(ch_names, raws)
            for raw in {id(raw): raw for raw in raws.values()}.values():
                if l_freq is not None or h_freq is not None:
                    raw.load_data(verbose="ERROR").filter(l_freq, h_freq, verbose="ERROR")
                if raw.info["sfreq"] != sfreq:
                    raw.resample(sfreq, verbose="ERROR")
            rows = slice(start, start := start + len(night.onset))
            covered = [
                _cut(raws[name], channels, night.first[name], arrays[name][rows])
                for name, channels in ch_names.items()
            ]
            n_covered.append(min(covered))
        return n_covered

    if cache is None:
        # Zeros cost nothing before they are written.
        arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        n_covered = fill(arrays)
    else:
        tables = [(n.recording, n.subject, n.onset, n.first) for n in nights]
        options = (_CACHE_FORMAT, ch_names, float(sfreq), l_freq, h_freq, key, tables)
        entry = Path(cache).expanduser() / f"{name}-{joblib.hash(options)[:16]}"
        found = _open_entry(entry, nights, shapes)
        if found is None:
            _write_entry(entry, nights, shapes, fill)
            found = _open_entry(entry, nights, shapes)
        arrays, n_covered = found
    X = PairedEpochs(
        **arrays,
        subject=np.repeat([night.subject for night in nights], sizes),
        recording=np.repeat([night.recording for night in nights], sizes),
        onset=np.concatenate([night.onset for night in nights]),
        sfreq=sfreq,
        ch_names=ch_names,
    )
    y = np.concatenate([night.y for night in nights])
    kept = np.concatenate([np.arange(n) < m for n, m in zip(sizes, n_covered, strict=True)])
    if not unscored:
        kept &= y != UNSCORED
    if not kept.all():
        X, y = X[kept], y[kept]
    for modality, names in ch_names.items():
        descr += f"{modality.capitalize()}: {', '.join(names)}.\n"
    descr += f"{sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz.\n"
    n_subjects = len({night.subject for night in nights})
    descr += f"{len(X)} epochs of {n_subjects} subjects, {len(nights)} nights.\n"
    return Bunch(X=X, y=to_scheme(y, classes), groups=X.subject, DESCR=descr)


def _cut(raw, channels, first, out):
    """Cut a recording's epochs, in microvolts; count those that it covers whole."""
    n_times = out.shape[2]
    n_covered = int(np.searchsorted(first + n_times, raw.n_times, side="right"))
    picks = [raw.ch_names.index(name) for name in channels]  # "ecg" may be a type to MNE
    for row, start in enumerate(first[:n_covered]):
        out[row] = 1e6 * raw.get_data(picks, start, start + n_times)
    return n_covered


def _stamps(nights):
    """Size and time of the files that are there, by name."""
    files = [path for night in nights for path in night.files if path.is_file()]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _open_entry(entry, nights, shapes):
    """Open an entry, or return None where it is absent, damaged or outdated."""
    try:
        about = json.loads((entry / "entry.json").read_text())
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in shapes}
        whole = shapes == {name: array.shape for name, array in arrays.items()}
        # Signals that have been deleted since do not matter, other ones do.
        if not whole or not _stamps(nights).items() <= about["files"].items():
            return None
        for night, notes in zip(nights, about["notes"], strict=True):
            night.notes.update(notes)
        return arrays, about["n_covered"]
    except (OSError, ValueError, KeyError):
        return None


def _write_entry(entry, nights, shapes, fill):
    """Write an entry under another name, and give it its own when it is complete."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, suffix=".part") as place:
        partial = Path(place) / entry.name
        partial.mkdir()
        about = {"files": _stamps(nights)}
        # The room on the disk is taken, or refused, before hours of reading.
        arrays = {
            name: map_new(partial / f"{name}.npy", shape, np.float32)
            for name, shape in shapes.items()
        }
        about["n_covered"] = fill(arrays)
        for array in arrays.values():
            array.flush()
        about["notes"] = [night.notes for night in nights]
        (partial / "entry.json").write_text(json.dumps(about))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(partial, entry)


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
    if isinstance(subjects, str) or not len(subjects):
        raise ValueError(f"subjects is a list of recordings, such as {present[:1]}.")
    by_name = {name.removeprefix(prefix): name for name in present}
    wanted = {str(subject).removeprefix(prefix): str(subject) for subject in subjects}
    absent = [given for name, given in wanted.items() if name not in by_name]
    if absent:
        raise FileNotFoundError(
            f"There is no recording {', '.join(absent)} in {where}; it has "
            f"{', '.join(present[:3])}{', ...' if len(present) > 3 else ''}."
        )
    return [by_name[name] for name in wanted]


def bids_folders(root, subjects):
    """List the ``sub-`` folders to read, in the order of their numbers."""
    present = [path.name for path in root.glob("sub-*") if path.is_dir()]
    if not present:
        raise FileNotFoundError(f"{root} holds no sub- folders: is it the data set's own?")
    present.sort(key=lambda name: (len(name), name))
    return choose_recordings(subjects, present, prefix="sub-", where=root)


def read_table(path, **types):
    """Read columns of a tab-separated table, each of a type and without gaps."""
    import pandas as pd

    # pandas passes over the empty lines of "\r\r\n"; no index, so that no row is shifted.
    as_text = {"dtype": str, "na_filter": False, "quoting": csv.QUOTE_NONE}
    with errors_naming(path):
        table = pd.read_csv(path, sep="\t", index_col=False, **as_text)
        return table[list(types)].astype(types)


def to_stages(codes, table, path):
    """Translate a data set's codes of stages by a table."""
    y = codes.map(table)
    if y.isna().any():
        raise ValueError(
            f"{path} has unknown stage codes {codes[y.isna()].unique().tolist()}; known "
            f"are {sorted(table)}."
        )
    return y.to_numpy(np.int64)


def warn_of_unknown(texts, where):
    """Warn of texts that are no known stage; a night's reader of stages calls it."""
    unknown = sorted({str(text) for text in texts if stage_of_text(text) is None})
    if unknown:
        warnings.warn(
            f"{where}: {', '.join(map(repr, unknown))} is no known stage; such epochs count "
            "as unscored.",
            stacklevel=5,
        )


def require_channels(recording, labels, wanted):
    """Refuse a recording that lacks channels, before hours of reading others."""
    missing = [label for label in wanted if label not in labels]
    if missing:
        raise ValueError(
            f"{recording} has no channel {', '.join(missing)}; it has {', '.join(labels)}. "
            "Choose others by channels=, or recordings by subjects=."
        )


def check_start(signals, stages):
    """Refuse two files of a night, read whole, that do not begin at the same time."""
    begun = {}
    for path in (signals, stages):
        late = round(first_onset(path))
        begun[path] = read_header(path, whole=True).start + (f" + {late} s" if late else "")
    if begun[signals] != begun[stages]:
        raise ValueError(
            f"{signals} begins at {begun[signals]}, {stages.name} at {begun[stages]}: do these "
            "two files belong to each other?"
        )


def check_end(end, duration, path):
    """Refuse stages that go on for more than an epoch after the recording's end."""
    if end - duration > EPOCH_SECONDS:
        raise ValueError(
            f"{path}: the scoring ends {end - duration:.1f} s after the recording, which "
            f"lasts {duration:.1f} s. Do the two files belong together?"
        )


def check_recording(raw, recording, *, sfreq, duration):
    """Refuse a Raw of another rate or length than the tables say."""
    length = raw.n_times / raw.info["sfreq"]
    if raw.info["sfreq"] != sfreq or abs(length - duration) > EPOCH_SECONDS:
        raise ValueError(
            f"{recording}: the signal lasts {length:.1f} s at {raw.info['sfreq']:g} Hz, the "
            f"tables say {duration:.1f} s at {sfreq:g} Hz. It is cut short or belongs to "
            "another recording; download it again."
        )
