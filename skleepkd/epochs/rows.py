"""One modality of a pair: rows of a base array, read when they are used, and their files."""

import errno
import hashlib
import json
import os
import uuid
import zlib
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.sparse import issparse

#: Bytes that checks and copies read at a time.
BLOCK_BYTES = 16 * 2**20

#: Names the other files of a folder. It is put in place last: a folder that was left
#: half-written has none, or still the one of the pair that lay there before.
_ABOUT = "pair.json"

#: With more channels than this, and than samples, two axes are exchanged.
_MOST_CHANNELS = 32


class Signal:
    """Epochs of one modality: a base array, never written to, and the numbers of some rows.

    ``scalings`` are applied one after the other when rows are read, so that a map stays a
    map: offset and scale of each row and channel, two arrays (n_epochs, n_channels).
    """

    def __init__(self, base, rows=None, scalings=()):
        self._base = base
        self.rows = slice(0, len(base)) if rows is None else rows
        self.scalings = scalings

    @property
    def base(self):
        """The base array; a signal that was sent opens its file when first used."""
        if self._base is None:
            self._base = _open(self._file)
        return self._base

    def __len__(self):
        rows = self.rows
        return rows.stop - rows.start if isinstance(rows, slice) else len(rows)

    @property
    def shape(self):
        """(n_epochs, n_channels, n_times, ...)."""
        return (len(self),) + self.base.shape[1:]

    @property
    def dtype(self):
        """Data type of what is read."""
        return np.dtype(np.float32) if self.scalings else self.base.dtype

    def __getitem__(self, rows):
        """Return some rows, unread."""
        numbers = self.rows
        if isinstance(numbers, slice):
            numbers = np.arange(numbers.start, numbers.stop)
        scalings = [(offset[rows], scale[rows]) for offset, scale in self.scalings]
        return Signal(self.base, row_key(numbers[rows]), scalings)

    def scaled(self, offset, scale):
        """Return the same rows, unread, to be scaled once more."""
        return Signal(self.base, self.rows, [*self.scalings, (offset, scale)])

    def read(self, rows=slice(None)):
        """Read rows: a view of the base where they are contiguous and as they are, else a copy."""
        if isinstance(self.rows, slice):
            values = self.base[self.rows][rows]
        else:
            values = self.base[self.rows[rows]]
        # (n_rows, n_channels) -> (n_rows, n_channels, 1, ...)
        by_row = values.shape[:2] + (1,) * (values.ndim - 2)
        for scaling in self.scalings:
            offset, scale = (part[rows].reshape(by_row) for part in scaling)
            values = np.subtract(values, offset, dtype=np.float32)
            np.divide(values, scale, out=values)
        return values

    def blocks(self):
        """Read all rows, at most ``BLOCK_BYTES`` of them at a time."""
        row_bytes = max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize)
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            yield rows, self.read(rows)

    def fingerprint(self):
        """Digest of the values in the order of the rows."""
        digest = hashlib.blake2b(f"{self.dtype} {self.shape}".encode(), digest_size=16)
        for _, block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def some_samples(self):
        """Read up to 4 samples of each row's first and last channel, (n_rows, 8) float32."""
        middle, between = self.shape[-1] // 2, (0,) * (len(self.shape) - 3)
        parts = [
            self.base[self.rows, channel, *between, middle : middle + 4]
            for channel in (0, -1)
        ]
        samples = np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")
        channels = np.repeat([0, -1], samples.shape[1] // 2)
        for offset, scale in self.scalings:
            samples = (samples - offset[:, channels]) / scale[:, channels]
        return samples

    def __sizeof__(self):
        """Bytes to send; Dask sends what is large to a worker once, not with each task."""
        held = [self.rows, *chain.from_iterable(self.scalings)]
        n_bytes = object.__sizeof__(self) + sum(getattr(part, "nbytes", 0) for part in held)
        if self._base is not None and _map_of(self._base) is None:
            n_bytes += len(self) * self._base[:1].nbytes
        return n_bytes

    def __getstate__(self):
        """Let a memory map travel as the name of its file, other arrays as they are."""
        state = {"rows": self.rows, "scalings": self.scalings}
        file = self._file if self._base is None else _file_of(self._base)
        if file is not None:
            return {**state, "file": file}
        if 2 * len(self) < len(self.base):
            # A view of a few rows must not carry its whole base along. One of most
            # rows does: joblib hands a base that it knows to all its workers once.
            few = self.base[self.rows]
            return {**state, "base": few, "rows": slice(0, len(self))}
        return {**state, "base": self.base}

    def __setstate__(self, state):
        # A file that is not here is an error of the task that reads it. Raised already
        # while a task is received, it would leave joblib's Dask backend waiting.
        self.rows, self.scalings = state["rows"], state.get("scalings", ())
        self._base, self._file = state.get("base"), state.get("file")


def _is_recording(given):
    return hasattr(given, "first_samp") or isinstance(given, str | os.PathLike)


def numbers_of(values, name):
    """Take what is given for epochs as an array of numbers, uncopied where it is one."""
    if issparse(values):
        raise TypeError(f"The {name} is a sparse matrix; epochs are dense: X.toarray().")
    wrong = (
        f"The {name} must be an array of numbers of shape (n_epochs, n_channels, n_times); "
        f"given {type(values).__name__}"
    )
    if isinstance(values, dict):
        raise ValueError(f"{wrong}. Of a target and a source make PairedEpochs(**X).")
    # Of lists, and of data sets of torch, NumPy would make arrays of one axis more.
    is_list = hasattr(values, "__getitem__") and not hasattr(values, "__array__")
    first = values[0] if is_list and not _is_recording(values) and len(values) else None
    if _is_recording(values) or _is_recording(first):
        raise ValueError(
            f"{wrong}, a recording: RecordingStager(stager).stage(raw) stages it, or a file; "
            "PairedEpochs.from_raws cuts the epochs of mne.io.read_raw(file)."
        )
    if isinstance(first, np.ma.MaskedArray):
        values = np.ma.stack(values)
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise ValueError(
                f"The {name} has masked values. Leave such epochs out: "
                "keep = ~np.ma.getmaskarray(X).any(axis=(1, 2)); X.data[keep], y[keep]."
            )
        values = values.data
    if isinstance(first, tuple) and first and hasattr(first[0], "shape"):
        raise ValueError(
            f"{wrong} of tuples. Make a pair of braindecode's windows before they are sliced, "
            "PairedEpochs.from_windows(dataset), or of arrays, PairedEpochs(target, source=...)."
        )
    if getattr(first, "ndim", 0) >= 3:
        raise ValueError(
            f"{wrong} of arrays of epochs. Two signals: PairedEpochs(target, source=source). "
            "Nights: np.concatenate(X), of pairs PairedEpochs.concatenate(X)."
        )
    try:
        array = np.asanyarray(values)
        if array.dtype == object and array.ndim > 1:
            if any(item is None or isinstance(item, str) for item in array.flat):
                raise ValueError("It holds text or None.")
            array = array.astype(np.float32)
    except (TypeError, ValueError) as error:  # a ragged list, or other things in it
        raise type(error)(f"{wrong}. {error}") from error
    if array.dtype.kind == "c":
        raise ValueError(f"{wrong}. Complex data not supported.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{wrong} of {array.dtype}.")
    if 0 in array.shape[1:]:
        raise ValueError(
            f"The epochs of the {name} hold nothing: 0 feature(s) (shape={array.shape}) "
            "while a minimum of 1 is required."
        )
    return array


def as_signal(values, name):
    """Take what is given for epochs as a signal, or say what is wrong with it."""
    if isinstance(values, Signal):
        return values
    array = numbers_of(values, name)
    if array.ndim < 3:
        raise ValueError(
            f"The {name} must have the shape (n_epochs, n_channels, n_times); given "
            f"{array.shape}. Reshape your data; a single epoch is X[None]."
        )
    if array.ndim == 3 and array.shape[1] > max(array.shape[2], _MOST_CHANNELS):
        raise ValueError(
            f"The axes of the {name} are (n_epochs, n_channels, n_times); given {array.shape}, "
            "which would be more channels than samples. Exchange them: X.swapaxes(1, 2)."
        )
    return Signal(array)


def row_digests(signal, recording=None, onset=None):
    """Tell rows apart by numbers, (n_rows, 1 or 2): of some samples, and of recording and onset."""
    samples = np.ascontiguousarray(signal.some_samples())
    told_by = [samples.view(np.uint64).T]  # (n_rows, 8) float32 -> (4, n_rows)
    if recording is not None and onset is not None:
        names, inverse = np.unique(recording, return_inverse=True)
        codes = np.array(
            [zlib.crc32(str(name).encode()) for name in names], dtype=np.uint64
        )
        told_by.append((codes[inverse], np.round(1000 * onset).astype(np.int64)))
    digests = np.zeros((len(told_by), len(signal)), dtype=np.uint64)
    for mixed, columns in zip(digests, told_by, strict=True):
        for column in columns:  # multiples of the golden ratio spread over all bits
            mixed += column.astype(np.uint64)
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(32)
    return digests.astype(np.uint32).T


def row_key(numbers):
    """Numbers of rows as a slice where they are contiguous."""
    if not len(numbers):
        return slice(0, 0)
    if (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def join(signals, create):
    """Copy signals one after the other into a new array, block by block."""
    joined = create(
        shape=(sum(map(len, signals)),) + signals[0].shape[1:],
        dtype=np.result_type(*(signal.dtype for signal in signals)),
    )
    start = 0
    for signal in signals:
        for rows, block in signal.blocks():
            joined[start + rows.start : start + rows.stop] = block
        start += len(signal)
    return joined


def write_folder(folder, signals, columns, about):
    """Write a pair into a folder; one that lies there, perhaps mapped now, is replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tag = uuid.uuid4().hex[:8]
    files = {modality: f"{modality}-{tag}.npy" for modality in signals}
    files["rows"] = f"rows-{tag}.npz"
    new = folder / f"{_ABOUT}-{tag}"
    try:
        for modality, parts in signals.items():
            join(parts, partial(map_new, folder / files[modality])).flush()
        np.savez(folder / files["rows"], **columns)
        new.write_text(json.dumps({"files": files, **about}))
        os.replace(new, folder / _ABOUT)
    except BaseException:
        for name in (*files.values(), new.name):
            (folder / name).unlink(missing_ok=True)
        raise
    # What lay there before, or was left half-written; open maps keep what they map.
    for kind in ("target", "source", "rows"):
        for path in folder.glob(f"{kind}-????????.np?"):
            if path.name not in files.values():
                with suppress(OSError):
                    path.unlink()


def open_folder(folder):
    """Return the arguments of PairedEpochs for the pair in a folder; signals are mapped."""
    about = json.loads((folder / _ABOUT).read_text())
    files = about.pop("files")
    with np.load(folder / files.pop("rows"), allow_pickle=False) as rows:
        columns = {name: rows[name] for name in rows.files}
    signals = {
        modality: as_signal(np.load(folder / file, mmap_mode="r"), modality)
        for modality, file in files.items()
    }
    return {**signals, **columns, **about}


def map_new(path, shape, dtype):
    """Map a new ``.npy`` file with room for all of it on the disk."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with open(path, "r+b") as file:
        preallocate(file, os.fstat(file.fileno()).st_size)
    return array


def preallocate(file, n_bytes):
    """Take room on the disk: one that fills up under a map would end the process."""
    if not n_bytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except OSError as error:
        # Some file systems cannot take room ahead; that is no error.
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            message = f"{error.strerror} ({n_bytes / 1e6:.1f} MB are needed)"
            raise OSError(error.errno, message, str(file.name)) from None


def _map_of(array):
    """Return the memory map whose file can stand for an array, or None."""
    mapped, above = None, array
    while isinstance(above, np.ndarray):
        if isinstance(above, np.memmap):
            mapped = above
        above = above.base
    if mapped is None or mapped.filename is None or not array.size:
        return None
    if mapped.mode == "c" or not array.flags.c_contiguous:
        return None  # changed in memory alone, or not one piece of the file
    if "joblib_memmapping_folder" in str(mapped.filename):
        return None  # joblib knows how long its temporary files live
    return mapped


def _file_of(array):
    """Where in which file an array lies, or None for an array in memory."""
    mapped = _map_of(array)
    if mapped is None:
        return None
    # A view begins elsewhere in the file than the map that it views.
    skipped = array.__array_interface__["data"][0] - mapped.__array_interface__["data"][0]
    place = {"dtype": array.dtype, "shape": array.shape, "offset": mapped.offset + skipped}
    file = {"filename": os.fspath(mapped.filename), "place": place}
    with suppress(FileNotFoundError):  # deleted while mapped: who opens it will say so
        state = os.stat(mapped.filename)
        # The time is for joblib.hash, which then sees that a file was written anew.
        file |= {"size": state.st_size, "modified": state.st_mtime_ns}
    return file


def _open(file):
    """Map what :func:`_file_of` found, or say why it is not what was sent."""
    filename = file["filename"]
    try:
        size = os.stat(filename).st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{filename} is not here. A pair over memory maps is sent as names of files, to be "
            "found under the same path on every machine (a shared file system). If it was "
            "written anew, open it with PairedEpochs.from_memmap and send that pair."
        ) from error
    if size != file.get("size"):
        raise ValueError(
            f"{filename} has {size} bytes, not {file.get('size')} as when this pair was "
            "sent or kept: it has been written anew since. Open it anew and send that pair."
        )
    return np.memmap(filename, mode="r", **file["place"])
