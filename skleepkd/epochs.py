"""The pair: simultaneous epochs of a wearable signal and of polysomnography."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from skleepkd.stages import EPOCH_SECONDS, from_text

#: Bytes that checks and copies read at a time.
BLOCK_BYTES = 16 * 2**20

_MODALITIES = ("target", "source")
_COLUMNS = ("subject", "recording", "onset")


class PairedEpochs:
    """Simultaneous 30 s epochs of two modalities, row by row.

    Indexes by row like an array, so that scikit-learn slices it. A slice is a view
    of row numbers over the base arrays, which may be memory maps: cross-validation
    never copies a night. ``X["target"]`` and ``X["source"]`` give arrays.

    Parameters
    ----------
    target : array of shape (n_epochs, n_channels, n_times)
        The wearable signal in microvolts, float32 for preference. It is neither
        scaled nor copied. A trailing axis (spectrograms) is kept.
    source : array of shape (n_epochs, n_channels, n_times), optional
        The teacher's signal (polysomnography) of the same epochs, in microvolts.
    subject : str, int or array-like of shape (n_epochs,), optional
        The person. One value serves all rows.
    recording : str, int or array-like of shape (n_epochs,), optional
        The night.
    onset : array-like of shape (n_epochs,), optional
        Seconds from the recording's start.
    sfreq : float or dict, optional
        Sampling rate in hertz, one for both or ``{"target": ..., "source": ...}``.
    ch_names : list of str or dict, optional
        Names of the target's channels, or ``{"target": [...], "source": [...]}``.

    Raises
    ------
    ValueError
        If the lengths differ or an array has fewer than two axes.

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

    def __init__(
        self,
        target,
        source=None,
        *,
        subject=None,
        recording=None,
        onset=None,
        sfreq=None,
        ch_names=None,
    ):
        self._arrays = {"target": _as_epochs(target, "target")}
        if source is not None:
            self._arrays["source"] = _as_epochs(source, "source")
        n_epochs = len(self._arrays["target"])
        if len(self._arrays.get("source", self._arrays["target"])) != n_epochs:
            raise ValueError(
                f"The pair is unequal: {n_epochs} target epochs and "
                f"{len(self._arrays['source'])} source epochs. Row i of both must be the "
                "same 30 s."
            )
        self._columns = {
            "subject": _as_column(subject, "subject", n_epochs),
            "recording": _as_column(recording, "recording", n_epochs),
            "onset": _as_column(onset, "onset", n_epochs),
        }
        self._sfreq = _by_modality(sfreq, spread=True)
        self._ch_names = _by_modality(ch_names, spread=False)
        for modality, names in self._ch_names.items():
            if modality in self._arrays and names is not None:
                n_channels = self._arrays[modality].shape[1]
                if len(names) != n_channels:
                    raise ValueError(
                        f"{len(names)} channel names for {n_channels} {modality} channels."
                    )
        self._rows = slice(0, n_epochs)

    # ------------------------------------------------------------ like an array

    def __len__(self):
        rows = self._rows
        return rows.stop - rows.start if isinstance(rows, slice) else len(rows)

    @property
    def shape(self):
        """Shape of the target: (n_epochs, n_channels, n_times)."""
        return (len(self),) + self._arrays["target"].shape[1:]

    @property
    def ndim(self):
        """Number of axes of the target."""
        return self._arrays["target"].ndim

    @property
    def dtype(self):
        """Data type of the target."""
        return self._arrays["target"].dtype

    def __array__(self, dtype=None, copy=None):
        target = self["target"]
        if dtype is not None and target.dtype != dtype:
            return target.astype(dtype)
        return target.copy() if copy else np.asarray(target)

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.read(key)
        if isinstance(key, tuple):  # scikit-learn asks for X[rows, ...]
            if len(key) != 2 or key[1] is not Ellipsis:
                raise IndexError("PairedEpochs is indexed by row: X[rows] or X[rows, ...].")
            key = key[0]
        if isinstance(key, (int, np.integer)):
            key = [key]
        return self._view(self.row_numbers()[key])

    def __repr__(self):
        parts = [f"{len(self)} epochs"]
        if self.subject is not None:
            n_subjects = len(np.unique(self.subject))
            parts[0] += f" of {n_subjects} subject{'s' if n_subjects != 1 else ''}"
        parts += [f"{name} {array.shape[1:]}" for name, array in self._arrays.items()]
        return f"<PairedEpochs: {', '.join(parts)}>"

    def _view(self, numbers, arrays=None):
        """Return the same base with other rows (and perhaps only some arrays)."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        if arrays is not None:
            view._arrays = arrays
        if isinstance(numbers, slice):
            view._rows = numbers
        elif len(numbers) and (np.diff(numbers) == 1).all():
            view._rows = slice(int(numbers[0]), int(numbers[-1]) + 1)
        else:
            view._rows = np.asarray(numbers, dtype=np.int64)
        return view

    # ------------------------------------------------------------ what rows carry

    @property
    def subject(self):
        """Persons, shape (n_epochs,), or None."""
        return self._column("subject")

    @property
    def recording(self):
        """Nights, shape (n_epochs,), or None."""
        return self._column("recording")

    @property
    def onset(self):
        """Seconds from the recording's start, shape (n_epochs,), or None."""
        return self._column("onset")

    def _column(self, name):
        column = self._columns[name]
        return None if column is None else column[self._rows]

    @property
    def has_source(self):
        """Whether the teacher's signal is there."""
        return "source" in self._arrays

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
        view = self._view(self._rows, {"target": self._base(modality)})
        view._sfreq = {"target": self._sfreq[modality], "source": None}
        view._ch_names = {"target": self._ch_names[modality], "source": None}
        return view

    def replace(self, *, target=None, source=None):
        """Return a pair with other arrays and what these rows carry.

        Parameters
        ----------
        target, source : array of shape (n_epochs, n_channels, n_times), optional
            What takes the place of the present array; None keeps it. Channel names
            are dropped where the number of channels changes.

        Returns
        -------
        PairedEpochs
        """
        arrays = {"target": target, "source": source}
        ch_names = self.ch_names
        for modality, array in arrays.items():
            present = self._arrays.get(modality)
            if array is None:
                arrays[modality] = None if present is None else self[modality]
            elif present is None or array.shape[1] != present.shape[1]:
                ch_names[modality] = None
        columns = {name: self._column(name) for name in _COLUMNS}
        return PairedEpochs(**arrays, **columns, sfreq=self.sfreq, ch_names=ch_names)

    def with_subject(self, subject):
        """Return the same rows with persons named (a scalar or one a row)."""
        view = self._view(self._rows)
        column = _as_column(subject, "subject", len(self))
        if not (isinstance(self._rows, slice) and len(self) == len(self._arrays["target"])):
            base = np.empty(len(self._arrays["target"]), dtype=column.dtype)
            base[self._rows] = column
            column = base
        view._columns = {**self._columns, "subject": column}
        return view

    # ------------------------------------------------------------ reading

    def _base(self, modality):
        if modality not in _MODALITIES:
            raise KeyError(f"A pair has 'target' and 'source', not {modality!r}.")
        if modality not in self._arrays:
            raise ValueError(
                "This pair has no source (the teacher's signal); give it as "
                "PairedEpochs(target, source=...) or as X_source=."
            )
        return self._arrays[modality]

    def row_numbers(self):
        """Numbers of these rows in the base arrays, shape (n_epochs,)."""
        rows = self._rows
        return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows

    def read(self, modality, rows=None):
        """Read one modality by one indexed read of its base array.

        Parameters
        ----------
        modality : {"target", "source"}
            What to read.
        rows : slice or array of int, optional
            Rows of this pair; all of them by default.

        Returns
        -------
        ndarray of shape (n_rows, n_channels, n_times)
            A view where the rows are contiguous (of a memory map, a memory map).
        """
        base = self._base(modality)
        if rows is None:
            return base[self._rows]
        if isinstance(self._rows, slice):
            if isinstance(rows, slice):
                start, stop, step = rows.indices(len(self))
                first = self._rows.start
                return base[first + start : first + stop : step]
            return base[np.asarray(rows) + self._rows.start]
        return base[self._rows[rows]]

    def blocks(self, modality):
        """Read one modality in blocks of at most 16 MiB.

        Parameters
        ----------
        modality : {"target", "source"}
            What to read.

        Yields
        ------
        rows : slice
            Rows of this pair.
        block : ndarray of shape (n_rows, n_channels, n_times)
            Their epochs.
        """
        base = self._base(modality)
        row_bytes = max(1, int(np.prod(base.shape[1:])) * base.dtype.itemsize)
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.read(modality, rows)

    def fingerprint(self, modality):
        """Digest of one modality's values in the order of these rows.

        Two pairs with the same rows have the same digest, whatever base they view.

        Parameters
        ----------
        modality : {"target", "source"}
            What to digest.

        Returns
        -------
        str
        """
        base = self._base(modality)
        digest = hashlib.blake2b(f"{base.dtype} {base.shape[1:]}".encode(), digest_size=16)
        for _, block in self.blocks(modality):
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    # ------------------------------------------------------------ pickling

    def __getstate__(self):
        state = dict(self.__dict__)
        in_files = all(_file_of(array) for array in self._arrays.values())
        if not in_files and len(self) < len(self._arrays["target"]):
            # A view of a few rows must not carry its whole base along.
            state["_arrays"] = {name: np.asarray(self[name]) for name in self._arrays}
            state["_columns"] = {name: self._column(name) for name in _COLUMNS}
            state["_rows"] = slice(0, len(self))
        # A memory map travels as the name of its file.
        state["_arrays"] = {
            name: _file_of(array) or array for name, array in state["_arrays"].items()
        }
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._arrays = {
            name: np.memmap(**array) if isinstance(array, dict) else array
            for name, array in self._arrays.items()
        }

    # ------------------------------------------------------------ joining, keeping

    @classmethod
    def concatenate(cls, pairs, *, folder=None):
        """Join nights.

        Parameters
        ----------
        pairs : list of PairedEpochs
            With the same modalities, channels, lengths and sampling rates.
        folder : path-like, optional
            Where to write the result as memory maps, night by night; in memory by
            default.

        Returns
        -------
        PairedEpochs

        Raises
        ------
        ValueError
            If the pairs cannot be joined.
        """
        pairs = list(pairs)
        if not pairs:
            raise ValueError("There is nothing to join: the list of pairs is empty.")
        first = pairs[0]
        for pair in pairs[1:]:
            _check_alike(first, pair)
        columns = {}
        for name in _COLUMNS:
            parts = [pair._column(name) for pair in pairs]
            missing = [part is None for part in parts]
            if any(missing) and not all(missing):
                raise ValueError(f"Some of the pairs have {name}, others have not.")
            columns[name] = None if any(missing) else np.concatenate(parts)
        total = sum(len(pair) for pair in pairs)
        about = {"sfreq": first.sfreq, "ch_names": first.ch_names}
        if folder is None:
            create = np.empty
        else:
            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
        arrays = {}
        for modality in first._arrays:
            base = first._arrays[modality]
            shape = (total,) + base.shape[1:]
            if folder is None:
                out = create(shape, dtype=base.dtype)
            else:
                out = np.lib.format.open_memmap(
                    folder / f"{modality}.npy.part",
                    mode="w+",
                    dtype=base.dtype,
                    shape=shape,
                )
            start = 0
            for pair in pairs:
                for rows, block in pair.blocks(modality):
                    out[start + rows.start : start + rows.stop] = block
                start += len(pair)
            arrays[modality] = out
        if folder is None:
            return cls(**arrays, **columns, **about)
        for out in arrays.values():
            out.flush()
        modalities = list(arrays)
        arrays.clear()
        _write_about(folder, columns, about, modalities)
        return cls.from_memmap(folder)

    def to_memmap(self, folder):
        """Write the pair into a folder and return it as memory maps.

        Parameters
        ----------
        folder : path-like
            Made where it does not exist; a pair that lies there is replaced.

        Returns
        -------
        PairedEpochs
        """
        return self.concatenate([self], folder=folder)

    @classmethod
    def from_memmap(cls, folder):
        """Open what :meth:`to_memmap` wrote, without reading the signals.

        Parameters
        ----------
        folder : path-like
            The folder.

        Returns
        -------
        PairedEpochs

        Raises
        ------
        FileNotFoundError
            If the folder holds no complete pair.
        ValueError
            If its files do not fit each other.
        """
        folder = Path(folder)
        about = json.loads((folder / "pair.json").read_text())
        with np.load(folder / "rows.npz", allow_pickle=False) as rows:
            columns = {name: rows[name] for name in rows.files}
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in about.pop("modalities")
        }
        return cls(**arrays, **columns, **about)

    # ------------------------------------------------------------ builders

    @classmethod
    def from_mne(
        cls, epochs, *, target, source=None, subject=None, recording=None, unit="auto"
    ):
        """Build a pair from one ``mne.Epochs`` that holds both modalities.

        Parameters
        ----------
        epochs : mne.Epochs
            Simultaneous channels, in volts unless ``unit`` says otherwise. ``subject``
            and ``recording`` columns of its metadata are used where they exist.
        target, source : list of str
            The channels of each modality.
        subject, recording : str or array-like of shape (n_epochs,), optional
            As in the constructor.
        unit : {"auto", "V", "uV"}, default="auto"
            What the epochs are in; "auto" takes for volts what looks like volts.

        Returns
        -------
        PairedEpochs
            The events' sample numbers, in seconds, are the onsets.
        """
        from skleepkd._builders import from_mne

        return cls(**from_mne(epochs, target, source, subject, recording, unit))

    @classmethod
    def from_windows(cls, dataset, *, target, source=None, unit="auto"):
        """Build a pair from a braindecode ``BaseConcatDataset`` of windows.

        Parameters
        ----------
        dataset : braindecode.datasets.BaseConcatDataset
            What ``create_windows_from_events`` or ``create_fixed_length_windows``
            returned; each data set's description names the ``subject``, and the
            ``session`` and ``run`` where a subject has several recordings.
        target, source : list of str
            The channels of each modality.
        unit : {"auto", "V", "uV"}, default="auto"
            What the windows are in; "auto" takes for volts what looks like volts
            (braindecode's tutorials have scaled to microvolts by then).

        Returns
        -------
        PairedEpochs
            The labels of its rows are ``dataset.get_metadata()["target"]``.
        """
        from skleepkd._builders import from_windows

        return cls(**from_windows(dataset, target, source, unit))

    @classmethod
    def from_raws(
        cls,
        source_raw,
        target_raw,
        annotations,
        *,
        offset=0.0,
        drift=0.0,
        source=None,
        target=None,
        subject=None,
        recording=None,
        unit="auto",
        epoch=EPOCH_SECONDS,
    ):
        """Cut a pair out of two recordings of one night by two devices.

        Parameters
        ----------
        source_raw, target_raw : mne.io.Raw
            The polysomnography and the wearable.
        annotations : mne.Annotations
            Scored stages, in seconds from the start of ``source_raw``. Each makes as
            many rows as whole epochs fit into it. ``skleepkd.stages.stages_at`` gives
            the rows their labels.
        offset : float, default=0.0
            Seconds after the start of the source at which the target started.
        drift : float, default=0.0
            Seconds that the target's clock gains in a second of the source's clock.
        source, target : list of str, optional
            Channels; all of them by default.
        subject, recording : str, optional
            As in the constructor.
        unit : {"auto", "V", "uV"}, default="auto"
            What the recordings are in; "auto" takes for volts what looks like volts.
        epoch : float, default=30.0
            Length of an epoch in seconds.

        Returns
        -------
        PairedEpochs
            The epochs that both recordings cover whole, in order; ``onset`` counts
            from the start of ``source_raw``. Each target epoch begins at the sample
            nearest to its source epoch's beginning.

        Raises
        ------
        ValueError
            If the annotations hold no stage or no epoch is covered by both.
        """
        from skleepkd._builders import from_raws

        onset = [
            start + k * epoch
            for start, duration, text in zip(
                annotations.onset,
                annotations.duration,
                annotations.description,
                strict=True,
            )
            if from_text(text) is not None
            for k in range(int((duration + 1e-3) // epoch))
        ]
        built = from_raws(
            source_raw,
            target_raw,
            np.sort(onset),
            offset,
            drift,
            source,
            target,
            unit,
            epoch,
        )
        return cls(**built, subject=subject, recording=recording)


# ---------------------------------------------------------------- checks of a base


def _as_epochs(array, name):
    if not isinstance(array, np.ndarray):
        array = np.asarray(array)
    if array.ndim < 3:
        raise ValueError(
            f"The {name} must have the shape (n_epochs, n_channels, n_times); given "
            f"{array.shape}."
        )
    return array


def _as_column(values, name, n_epochs):
    if values is None:
        return None
    column = np.asarray(values)
    if column.dtype == object:
        column = column.astype(str)
    if column.ndim == 0:
        column = np.full(n_epochs, column)
    if column.shape != (n_epochs,):
        raise ValueError(
            f"{name} has shape {column.shape}; one value, or one for each of the "
            f"{n_epochs} epochs, is expected."
        )
    return column


def _by_modality(value, *, spread):
    if isinstance(value, dict):
        return {name: value.get(name) for name in _MODALITIES}
    return {"target": value, "source": value if spread else None}


def _file_of(array):
    """Arguments that open a memory map again, or None for an array in memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return None
    # A view of a memory map keeps the file's name but begins elsewhere in it.
    if not array.flags.c_contiguous or array.base is None:
        return None
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    skipped = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return {
        "filename": os.fspath(array.filename),
        "dtype": array.dtype,
        "mode": "r",
        "offset": root.offset + skipped,
        "shape": array.shape,
    }


def _check_alike(first, other):
    for modality in set(first._arrays) | set(other._arrays):
        for pair in (first, other):
            pair._base(modality)
        one, two = first._arrays[modality], other._arrays[modality]
        if one.shape[1:] != two.shape[1:]:
            raise ValueError(
                f"Cannot join {modality} epochs of shape {one.shape[1:]} and {two.shape[1:]}."
            )
        if first.sfreq[modality] != other.sfreq[modality]:
            raise ValueError(
                f"Cannot join {modality} epochs at {first.sfreq[modality]} and "
                f"{other.sfreq[modality]} Hz."
            )
        if first.ch_names[modality] != other.ch_names[modality]:
            raise ValueError(
                f"Cannot join {modality} channels {first.ch_names[modality]} and "
                f"{other.ch_names[modality]}."
            )


def _write_about(folder, columns, about, modalities):
    """Finish a folder of memory maps; the file that vouches for it comes last."""
    columns = {name: column for name, column in columns.items() if column is not None}
    np.savez(folder / "rows.part.npz", **columns)
    (folder / "pair.json").unlink(missing_ok=True)
    for modality in modalities:
        os.replace(folder / f"{modality}.npy.part", folder / f"{modality}.npy")
    os.replace(folder / "rows.part.npz", folder / "rows.npz")
    (folder / "pair.json.part").write_text(json.dumps({**about, "modalities": modalities}))
    os.replace(folder / "pair.json.part", folder / "pair.json")
