"""The way of every data set from its files to a cohort.

A loader names its nights, and says how a night's scoring and its signals are read;
:func:`load_nights` does the rest.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import joblib
import numpy as np
from sklearn.utils import Bunch

from skleepkd.datasets.checks import require_channels
from skleepkd.edf import is_whole, read_header, seconds_left_out
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import map_new
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, to_scheme
from skleepkd.warn import warn

#: Changes with the way signals are read, so that older cache entries are left alone.
_CACHE_FORMAT = 3


@dataclass
class Night:
    """What is known of a night before its signals are read, for :func:`load_nights`.

    Parameters
    ----------
    onset : array-like of float, shape (n_epochs,)
        When each epoch of 30 s begins, in seconds from the recording's first sample.
    y : array-like of int, shape (n_epochs,)
        AASM codes, -1 where unscored.
    files : sequence of path-like
        What is read: an entry of the cache is outdated when one of them changes.
    subject, recording : str, optional
        Names, before which the data set's own is put; by default the night's.
    begin : dict of str to array-like of float, optional
        By modality, when each epoch begins in seconds from the first sample of *its*
        recording, where that is not ``onset``: of two devices, each with a clock.
    notes : dict, optional
        Anything that JSON can hold. What the reader of signals adds is kept in the cache.
    """

    onset: np.ndarray
    y: np.ndarray
    files: list
    subject: str | None = None
    recording: str | None = None
    begin: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    # Rows that the signals do not cover; None while they have not been read.
    uncovered: list | None = field(default=None, init=False, repr=False)
    # Where its epochs lie in the cohort.
    rows: slice | None = field(default=None, init=False, repr=False)


def load_nights(
    numbers,
    read_scoring,
    read_signals,
    ch_names,
    *,
    name,
    sfreq,
    descr="",
    l_freq=None,
    h_freq=None,
    classes="aasm",
    unscored=False,
    cache=None,
    key=None,
    on_error="raise",
):
    """Load nights as a cohort: the skeleton of a loader.

    Parameters
    ----------
    numbers : sequence of str
        What the data set calls its nights.
    read_scoring : callable
        Called with a number, it returns the :class:`Night`, or None where the night is
        not wanted. It should compare what can be compared before hours of reading:
        :func:`~skleepkd.datasets.check_start` compares the clocks of two EDF files.
    read_signals : callable
        Called with the Night, it returns an :class:`mne.io.Raw` that holds the channels,
        or one by modality. Not called where the cache has them. EDF files that are cut
        short or interrupted (EDF+D) are refused.
    ch_names : dict of str to list of str
        Channels by modality, "target" and perhaps "source", as the Raw names them.
    name : str
        The data set's, with which the names of its nights and subjects begin.
    sfreq : float
        Sampling rate in hertz to which the signals are resampled.
    descr : str, optional
        Begin of ``DESCR``.
    l_freq, h_freq : float or None, default=None
        Edges of the band-pass filter in hertz, applied before resampling.
    classes, unscored, cache : optional
        As for :func:`load_eesm`.
    key : optional
        What else the signals depend on, such as an option of ``read_signals``: each has
        an entry of its own in the cache.
    on_error : {"raise", "warn"}, default="raise"
        Whether a night that cannot be read is an error, or left out with a warning.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X, y, groups, DESCR : PairedEpochs, ndarrays of shape (n_epochs,), str
            As of :func:`load_eesm`, each epoch in microvolts.
        left_out : dict of str to str
            Why a night was left out, by its name.
        notes : dict of str to dict
            The notes of the nights that were read, by their numbers.

    Raises
    ------
    ValueError
        If an option is wrong, or no night can be read.
    ValueError, OSError
        With ``on_error="raise"``, what the readers raise.

    Warns
    -----
    UserWarning
        If a night is left out, or the signals do not cover an epoch that was listed:
        it is left out, and ``DESCR`` counts them by night.

    Notes
    -----
    An epoch is cut at the sample nearest to its onset. An entry of the cache in which a
    night had to be left out tries that night again at each call.

    Examples
    --------
    >>> import mne
    >>> import numpy as np
    >>> from skleepkd.datasets import Night, load_nights
    >>> def read_scoring(number):
    ...     return Night(onset=[0.0, 30.0], y=[0, 2], files=[])
    >>> def read_signals(night):
    ...     info = mne.create_info(["ECG"], 100.0, "ecg")
    ...     return mne.io.RawArray(np.zeros((1, 6000)), info, verbose="error")
    >>> channels = {"target": ["ECG"]}
    >>> cohort = load_nights(
    ...     ["n1", "n2"], read_scoring, read_signals, channels, name="mine", sfreq=100
    ... )
    >>> cohort.X, cohort.groups
    (<PairedEpochs: 4 epochs of 2 subjects, target (1, 3000)>, array(['mine-n1', 'mine-n1', 'mine-n2', 'mine-n2'], dtype='<U7'))
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    if on_error not in ("raise", "warn"):
        raise ValueError(f"on_error is 'raise' or 'warn'; given {on_error!r}.")
    left_out = {}

    def attempt(read, number):
        try:
            return read(number)
        except Exception as error:  # whatever a reader raises on a damaged file
            if on_error == "raise" or isinstance(error, MemoryError):
                raise
            told = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
            left_out[number] = told
            warn(f"{name}-{number} is left out: {told}")

    def require(some):
        if not some:
            first = next(
                (f"; the first is {name}-{k}: {v}" for k, v in left_out.items()), ""
            )
            raise ValueError(f"None of {len(numbers)} recordings can be read{first}")

    def read_tables(number):
        night = read_scoring(number)
        return night and _checked(night, name, number, ch_names)

    def read_epochs(number):
        night = found[number]
        return _read_epochs(read_signals(night), night, ch_names, **band)

    numbers = list(dict.fromkeys(numbers))
    found = {number: attempt(read_tables, number) for number in numbers}
    found = {number: night for number, night in found.items() if night is not None}
    require(found)
    nights = list(found.values())
    sizes = [len(night.onset) for night in nights]
    for night, stop in zip(nights, np.cumsum(sizes), strict=True):
        night.rows = slice(stop - len(night.onset), stop)
    shapes = {
        modality: (sum(sizes), len(names), round(EPOCH_SECONDS * sfreq))
        for modality, names in ch_names.items()
    }
    band = {"sfreq": float(sfreq), "l_freq": l_freq, "h_freq": h_freq}
    entry = None
    if cache is not None:
        tables = [(n.recording, n.subject, n.onset, n.begin) for n in nights]
        options = (_CACHE_FORMAT, ch_names, band, key, tables)
        entry = Path(cache).expanduser() / f"{name}-{joblib.hash(options)[:16]}"
    arrays = _collect(found, partial(attempt, read_epochs), shapes, entry)
    read = {number: night for number, night in found.items() if night.uncovered is not None}
    require(read)
    X = PairedEpochs(
        **arrays,
        subject=np.repeat([night.subject for night in nights], sizes),
        recording=np.repeat([night.recording for night in nights], sizes),
        onset=np.concatenate([night.onset for night in nights]),
        sfreq=sfreq,
        ch_names=ch_names,
    )
    y = np.concatenate([night.y for night in nights])
    kept = np.zeros(len(y), dtype=bool)
    for night in read.values():
        kept[night.rows] = ~np.isin(np.arange(len(night.y)), night.uncovered)
    if not unscored:
        kept &= y != UNSCORED
    X, y = X[kept], y[kept]
    short = [f"{n.recording} ({len(n.uncovered)})" for n in read.values() if n.uncovered]
    if short:
        warn(f"Epochs that the signals do not cover are left out: {', '.join(short)}.")
    left_out = {f"{name}-{k}": left_out[k] for k in numbers if k in left_out}
    for modality, names in ch_names.items():
        descr += f"{modality.capitalize()}: {', '.join(names)}.\n"
    n_subjects = len({night.subject for night in read.values()})
    reasons = [f"{night} ({reason})" for night, reason in left_out.items()]
    descr += f"""\
{sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz.
{len(X)} epochs of {n_subjects} subjects, {len(read)} nights.
Left out: {"; ".join(reasons) or "none"}.
Epochs that the signals do not cover: {", ".join(short) or "none"}.
"""
    return Bunch(
        X=X,
        y=to_scheme(y, classes),
        groups=X.subject,
        DESCR=descr,
        left_out=left_out,
        notes={number: night.notes for number, night in read.items()},
    )


def _checked(night, name, number, modalities):
    """Complete a night that a loader made: its names, and where each modality is cut."""
    onset, y = np.asarray(night.onset, dtype=float), np.asarray(night.y)
    if len(onset) != len(y) or not len(y):
        raise ValueError(f"{len(onset)} onsets and {len(y)} stages: one each is expected")
    begin = {k: np.asarray(night.begin.get(k, onset), dtype=float) for k in modalities}
    return replace(
        night,
        onset=onset,
        y=to_scheme(y, "aasm"),  # a code that is none is refused before hours of reading
        recording=f"{name}-{night.recording or number}",
        subject=f"{name}-{night.subject or number}",
        begin=begin,
    )


def _read_epochs(raws, night, ch_names, *, sfreq, l_freq, h_freq):
    """Filter a night's signals and cut them by modality; its ``uncovered`` are noted."""
    if not isinstance(raws, dict):
        raws = dict.fromkeys(ch_names, raws)
    for modality, channels in ch_names.items():
        require_channels(night.recording, raws[modality].ch_names, channels)
    for raw in {id(raw): raw for raw in raws.values()}.values():
        for path in map(Path, filter(None, raw.filenames)):
            if not is_whole(path):
                read_header(path, whole=True)  # says what is missing
        seconds_left_out(raw)  # refuses what was interrupted
        if l_freq is not None or h_freq is not None:
            raw.load_data(verbose="ERROR").filter(l_freq, h_freq, verbose="ERROR")
        if raw.info["sfreq"] != sfreq:
            raw.resample(sfreq, verbose="ERROR")
    n_epochs, n_times = len(night.onset), round(EPOCH_SECONDS * sfreq)
    epochs, covered = {}, np.ones(n_epochs, dtype=bool)
    for modality, channels in ch_names.items():
        raw = raws[modality]
        picks = [raw.ch_names.index(name) for name in channels]  # to MNE "ecg" is a type
        first = np.round(night.begin[modality] * sfreq).astype(np.int64)
        inside = (first >= 0) & (first + n_times <= raw.n_times)
        epochs[modality] = np.zeros((n_epochs, len(picks), n_times), np.float32)
        for row in np.flatnonzero(inside):
            signal = raw.get_data(picks, first[row], first[row] + n_times)
            epochs[modality][row] = 1e6 * signal
        covered &= inside
    if not covered.any():
        raise ValueError(
            f"{night.recording}: its signals cover none of {n_epochs} epochs, the first of "
            f"which begins at {night.onset[0]:g} s"
        )
    night.uncovered = np.flatnonzero(~covered).tolist()
    return epochs


def _collect(found, read_night, shapes, entry):
    """Arrays of all nights' epochs: in memory, or of an entry, written anew if it lacks one."""
    nights = found.values()
    known = None if entry is None else _open_entry(entry, nights, shapes)
    stamps = _stamps(nights)
    lacking = [number for number, night in found.items() if night.uncovered is None]
    tried = ((found[number].rows, read_night(number)) for number in lacking)
    read = ((rows, epochs) for rows, epochs in tried if epochs is not None)
    first = next(read, None)
    if first is None:
        return known
    read = chain([first], read)
    if entry is None:  # zeros cost nothing before they are written
        zeros = {
            modality: np.zeros(shape, np.float32) for modality, shape in shapes.items()
        }
        return _fill(zeros, read)
    entry.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name, it gets its own when it is complete.
    with tempfile.TemporaryDirectory(dir=entry.parent, suffix=".part") as place:
        part = Path(place) / entry.name
        part.mkdir()
        arrays = {
            modality: map_new(part / f"{modality}.npy", shape, np.float32)
            for modality, shape in shapes.items()
        }
        for modality in known or ():
            arrays[modality][:] = known[modality]
        for array in _fill(arrays, read).values():
            array.flush()
        kept = [{"notes": n.notes, "uncovered": n.uncovered} for n in nights]
        (part / "entry.json").write_text(json.dumps({"files": stamps, "nights": kept}))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(part, entry)
    return _map_arrays(entry, shapes)


def _fill(arrays, read):
    for rows, epochs in read:
        for modality, values in epochs.items():
            arrays[modality][rows] = values
    return arrays


def _stamps(nights):
    """Size and time of each night's files, None of those that are not there."""

    def stamp(path):
        return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None

    return [[stamp(Path(path)) for path in night.files] for night in nights]


def _open_entry(entry, nights, shapes):
    """Open an entry, or return None where it is absent or damaged."""
    try:
        about = json.loads((entry / "entry.json").read_text())
        arrays = _map_arrays(entry, shapes)
        if shapes != {name: array.shape for name, array in arrays.items()}:
            return None
        stamps = zip(_stamps(nights), about["files"], strict=True)
        for night, (now, then), one in zip(nights, stamps, about["nights"], strict=True):
            # Signals that have been deleted since do not matter, other ones do.
            pairs = zip(now, then, strict=True)
            same = all(stamp in (None, before) for stamp, before in pairs)
            night.uncovered = one["uncovered"] if same else None
            if same:
                night.notes.update(one["notes"])
        return arrays
    except (OSError, ValueError, KeyError):
        for night in nights:
            night.uncovered = None
        return None


def _map_arrays(entry, names):
    return {name: np.load(entry / f"{name}.npy", mmap_mode="r") for name in names}
