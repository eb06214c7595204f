"""The pair: simultaneous epochs of a wearable signal and of polysomnography."""

import copy
import sys
from pathlib import Path

import numpy as np

from skleepkd.edf import errors_naming
from skleepkd.epochs import builders as _builders
from skleepkd.epochs.rows import (
    Signal,
    as_signal,
    join,
    open_folder,
    row_digests,
    row_key,
    write_folder,
)
from skleepkd.stages import EPOCH_SECONDS, as_seconds, check_present
from skleepkd.warn import warn

_MODALITIES = ("target", "source")


class PairedEpochs:
    """Simultaneous 30 s epochs of two modalities, row by row.

    Indexed by row like an array, so that scikit-learn slices it. A slice is a view
    over the base arrays, which may be memory maps: cross-validation never copies a
    night. ``X["target"]`` and ``X["source"]`` give arrays.

    Parameters
    ----------
    target : array of shape (n_epochs, n_channels, n_times)
        The wearable signal in microvolts, neither scaled nor copied. A trailing axis
        (spectrograms) is kept. A pair gives its own target, unread.
    source : array of shape (n_epochs, n_channels, n_times), optional
        The teacher's signal (polysomnography) of the same epochs, in microvolts.
    subject, recording : str, int or array-like of shape (n_epochs,), optional
        The subject and the night. One value serves all rows.
    onset : array-like of shape (n_epochs,), optional
        Seconds from the recording's start, as numbers or durations (timedelta64).
    sfreq : float or dict, optional
        Sampling rate in hertz, one for both or ``{"target": ..., "source": ...}``.
    ch_names : list of str or dict, optional
        Names of the target's channels, or ``{"target": [...], "source": [...]}``.

    Raises
    ------
    ValueError
        If the lengths differ, an array has fewer than three axes, more channels than
        samples (above 32), masked values or no numbers, a column has missing values (also
        as text, "nan"), or onsets are dates. Epochs that do not last 30 s are a warning.
    TypeError
        If the source is not given by name.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import PairedEpochs
    >>> X = PairedEpochs(np.zeros((4, 1, 6)), source=np.ones((4, 2, 6)), subject="s1")
    >>> X[1:3]
    <PairedEpochs: 2 epochs of 1 subject, target (1, 6), source (2, 6)>
    >>> X[1:3]["source"].shape
    (2, 2, 6)
    """

    @_builders.by_name(2, "PairedEpochs(target, source=source)")
    def __init__(
        self,
        target,
        *,
        source=None,
        subject=None,
        recording=None,
        onset=None,
        sfreq=None,
        ch_names=None,
    ):
        self._signals = {"target": _as_signal(target, "target")}
        if source is not None:
            self._signals["source"] = _as_signal(source, "source")
        lengths = [len(signal) for signal in self._signals.values()]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"The pair is unequal: {lengths[0]} target epochs and {lengths[1]} source "
                "epochs. Row i of both must be the same 30 s."
            )
        columns = {"subject": subject, "recording": recording, "onset": onset}
        self._columns = {
            name: _as_column(values, name, lengths[0])
            for name, values in columns.items()
            if values is not None
        }
        self._sfreq = _by_modality(sfreq, "sfreq", float)
        if not isinstance(ch_names, dict):
            ch_names = {"target": ch_names}
        self._ch_names = _by_modality(ch_names, "ch_names", list)
        given = {"target": target, "source": source}
        for modality, signal in self._signals.items():
            names = self._ch_names[modality]
            if names is not None and len(names) != signal.shape[1]:
                raise ValueError(
                    f"{len(names)} channel names for {signal.shape[1]} {modality} channels."
                )
            if not isinstance(given[modality], (Signal, PairedEpochs)):  # known already
                _check_length(signal.shape, self._sfreq[modality], modality)

    def __len__(self):
        return len(self._signals["target"])

    @property
    def shape(self):
        """Shape of the target: (n_epochs, n_channels, n_times)."""
        return self._signals["target"].shape

    @property
    def ndim(self):
        """Number of axes of the target."""
        return len(self.shape)

    @property
    def dtype(self):
        """Data type of the target."""
        return self._signals["target"].dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self["target"], dtype=dtype, copy=copy)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.read(key)
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn's X[rows, ...]
        # A single number gives a pair of one row: a row alone would not be a pair.
        numbers = np.atleast_1d(np.arange(len(self))[key])
        if numbers.ndim != 1:
            raise IndexError("Rows are picked by a slice, a mask or a list of numbers.")
        rows = row_key(numbers)
        return self._with(
            _signals={name: signal[rows] for name, signal in self._signals.items()},
            _columns={name: column[rows] for name, column in self._columns.items()},
        )

    def __sizeof__(self):
        held = [*self._columns.values(), *self._signals.values()]
        return object.__sizeof__(self) + sum(map(sys.getsizeof, held))

    def __repr__(self):
        parts = [f"{len(self)} epochs"]
        if self.subject is not None:
            n_subjects = len(np.unique(self.subject))
            parts[0] += f" of {n_subjects} subject{'s' if n_subjects != 1 else ''}"
        parts += [f"{name} {signal.shape[1:]}" for name, signal in self._signals.items()]
        return f"<PairedEpochs: {', '.join(parts)}>"

    def _with(self, **changes):
        """Return a pair that differs from this one in some attributes."""
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    @property
    def subject(self):
        """Subjects, shape (n_epochs,), or None."""
        return self._columns.get("subject")

    @property
    def recording(self):
        """Nights, shape (n_epochs,), or None."""
        return self._columns.get("recording")

    @property
    def onset(self):
        """Seconds from the recording's start, shape (n_epochs,), or None."""
        return self._columns.get("onset")

    @property
    def has_source(self):
        """Whether the teacher's signal is there."""
        return "source" in self._signals

    @property
    def sfreq(self):
        """Sampling rates in hertz by modality; None where not known."""
        return dict(self._sfreq)

    @property
    def ch_names(self):
        """Channel names by modality; None where not known."""
        return dict(self._ch_names)

    @property
    def source_epochs(self):
        """The source alone, as the target of a pair without a source."""
        return self._one_modality("source")

    @property
    def target_epochs(self):
        """The target alone, as a pair without a source."""
        return self._one_modality("target")

    def _one_modality(self, modality):
        return self._with(
            _signals={"target": self._signal(modality)},
            _sfreq={"target": self._sfreq[modality], "source": None},
            _ch_names={"target": self._ch_names[modality], "source": None},
        )

    def replace(self, *, target=None, source=None):
        """Return a pair with other signals and what these rows carry.

        Parameters
        ----------
        target, source : array of shape (n_epochs, n_channels, n_times), optional
            The new signal; None keeps the present one, unread. Channel names are dropped
            where the number of channels changes, the sampling rate where the number of
            samples does (a spectrogram keeps its signal's). Of a pair it is the target,
            which brings its own.

        Returns
        -------
        PairedEpochs
        """
        signals, sfreq, ch_names = dict(self._signals), self.sfreq, self.ch_names
        for modality, values in (("target", target), ("source", source)):
            if values is None:
                continue
            signals[modality] = signal = _as_signal(values, modality)
            if isinstance(values, PairedEpochs):
                sfreq[modality] = values.sfreq["target"]
                ch_names[modality] = values.ch_names["target"]
                continue
            if len(ch_names[modality] or ()) != signal.shape[1]:
                ch_names[modality] = None
            before = self._signals.get(modality, signal)
            both = len(before.shape) == len(signal.shape) == 3
            if both and before.shape[2] != signal.shape[2]:
                sfreq[modality] = None
        return PairedEpochs(**signals, **self._columns, sfreq=sfreq, ch_names=ch_names)

    def with_subject(self, subject):
        """Return the same rows with subjects named: one for all, or one for each row."""
        column = _as_column(subject, "subject", len(self))
        return self._with(_columns={**self._columns, "subject": column})

    def _signal(self, modality):
        if modality in self._signals:
            return self._signals[modality]
        if modality != "source":
            raise KeyError(f"A pair has 'target' and 'source', not {modality!r}.")
        raise ValueError(
            "This pair has no source (the teacher's signal); give it as "
            "PairedEpochs(target, source=...) or as X_source=."
        )

    def read(self, modality, rows=slice(None)):
        """Read one modality by one indexed read of its base array.

        Parameters
        ----------
        modality : {"target", "source"}
        rows : slice or array of int or bool, optional
            Rows of this pair; all of them by default.

        Returns
        -------
        ndarray of shape (n_rows, n_channels, n_times)
            A view where the rows are contiguous (of a memory map, a memory map).
        """
        return self._signal(modality).read(rows)

    def blocks(self, modality):
        """Read one modality, as :meth:`read`, in blocks of at most 16 MiB.

        Yields pairs of a slice, the rows, and an array (n_rows, n_channels, n_times).
        """
        return self._signal(modality).blocks()

    def fingerprint(self, modality):
        """Digest (str) of one modality's values in the order of these rows."""
        return self._signal(modality).fingerprint()

    def row_digests(self):
        """Tell epochs apart by numbers, (n_epochs, 1 or 2), of which equal ones share one."""
        return row_digests(self._signals["target"], self.recording, self.onset)

    @classmethod
    def concatenate(cls, pairs, *, folder=None):
        """Join nights.

        Parameters
        ----------
        pairs : list of PairedEpochs
            Of the same modalities, channels, lengths and rates, else a ValueError.
        folder : path-like, optional
            Where to write the result as memory maps, block by block; in memory by default.
            It is made where it does not exist; a pair that lies there is replaced.

        Returns
        -------
        PairedEpochs
        """
        pairs = list(pairs)
        if not pairs:
            raise ValueError("There is nothing to join: the list of pairs is empty.")
        first = pairs[0]
        for pair in pairs[1:]:
            _check_alike(first, pair)
        columns = {}
        for name in dict.fromkeys(name for pair in pairs for name in pair._columns):
            parts = [pair._columns[name] for pair in pairs if name in pair._columns]
            if len(parts) < len(pairs):
                raise ValueError(f"Some of the pairs have {name}, others have not.")
            columns[name] = np.concatenate(parts)
        signals = {
            modality: [pair._signals[modality] for pair in pairs]
            for modality in first._signals
        }
        about = {"sfreq": first.sfreq, "ch_names": first.ch_names}
        if folder is not None:
            write_folder(folder, signals, columns, about)
            return cls.from_memmap(folder)
        joined = {
            modality: Signal(join(parts, np.empty)) for modality, parts in signals.items()
        }
        return cls(**joined, **columns, **about)

    def to_memmap(self, folder):
        """Write the pair into a folder, as :meth:`concatenate`, and return the memory maps."""
        return self.concatenate([self], folder=folder)

    @classmethod
    def from_memmap(cls, folder):
        """Open the pair that :meth:`to_memmap` wrote into a folder, its signals unread.

        A folder without a complete pair is a FileNotFoundError; files that are damaged or
        do not fit each other are a ValueError.
        """
        folder = Path(folder)
        if not (folder / "pair.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no complete pair (pair.json is missing). Write it with "
                "PairedEpochs.to_memmap."
            )
        with errors_naming(f"The pair in {folder}", "Write it anew."):
            return cls(**open_folder(folder))

    from_mne = classmethod(_builders.from_mne)
    from_windows = classmethod(_builders.from_windows)
    from_raws = classmethod(_builders.from_raws)


def _as_signal(values, name):
    if isinstance(values, PairedEpochs):
        return values._signals["target"]
    return as_signal(values, name)


def _as_column(values, name, n_epochs):
    column = check_present(values, name)
    if name == "onset":
        column = as_seconds(column)
    elif column.dtype.kind in "OT":  # text as pandas keeps it
        column = column.astype(str)
    if column.ndim == 0:
        column = np.full(n_epochs, column)
    if column.shape != (n_epochs,):
        raise ValueError(
            f"{name} has shape {column.shape}; one value, or one for each of the "
            f"{n_epochs} epochs, is expected."
        )
    return column


def _by_modality(value, name, kind):
    """Take one value for both modalities, or a dict, as JSON keeps it."""
    given = value if isinstance(value, dict) else dict.fromkeys(_MODALITIES, value)
    if not set(given) <= set(_MODALITIES):
        raise ValueError(
            f"{name} is given by modality, 'target' and 'source'; given {sorted(given)}."
        )
    known = {key: kind(one) for key, one in given.items() if one is not None}
    return {**dict.fromkeys(_MODALITIES), **known}


def _check_length(shape, sfreq, modality):
    """Warn where the epochs of a modality do not last 30 s at its sampling rate."""
    if sfreq is None or len(shape) != 3 or abs(shape[2] - EPOCH_SECONDS * sfreq) <= 1:
        return
    warn(
        f"The {modality} has epochs of {shape[2]} samples: {shape[2] / sfreq:.4g} s at "
        f"sfreq={sfreq:g} Hz, while an epoch is {EPOCH_SECONDS:g} s, which would be "
        f"{shape[2] / EPOCH_SECONDS:.4g} Hz. Give the sampling rate of these samples."
    )


def _check_alike(first, other):
    for modality in max(first._signals, other._signals, key=len):
        one, two = (
            f"of shape {pair._signal(modality).shape[1:]} at {pair.sfreq[modality]} Hz with "
            f"the channels {pair.ch_names[modality]}"
            for pair in (first, other)
        )
        if one != two:
            raise ValueError(f"Cannot join {modality} epochs {one} and {two}.")
