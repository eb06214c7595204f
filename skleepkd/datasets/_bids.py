"""What the loaders of BIDS trees share: tables, folders, checks of a recording."""

import csv
import re

import numpy as np

from skleepkd.datasets._nights import blaming
from skleepkd.stages import EPOCH_SECONDS


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
        If a column or a value is missing, a number cannot be read or is not finite, or
        the file is no text in UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    # Universal newlines turn "\r\r\n" into two line ends; the csv module skips the
    # empty line between them.
    with blaming(path), path.open(encoding="utf-8-sig") as file:
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
        if name in numbers and not np.isfinite(columns[name]).all():
            row = int(np.flatnonzero(~np.isfinite(columns[name]))[0]) + 1
            raise ValueError(
                f"{path}, column {name!r}: row {row} is {columns[name][row - 1]}; finite "
                "numbers are expected."
            )
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
    if not abs(length - duration) <= EPOCH_SECONDS:
        raise ValueError(
            f"{recording}: the signal lasts {length:.1f} s ({raw.n_times} samples), the "
            f"tables say {duration:.1f} s. The file is cut short or belongs to another "
            "recording; download it again."
        )
