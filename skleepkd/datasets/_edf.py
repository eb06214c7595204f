"""EDF files: what their headers say, and their signals."""

import math
from collections import namedtuple
from functools import partial

from skleepkd.datasets._nights import blaming

#: Seconds from a recording's start up to which annotations are believed, a month.
_LONGEST = 31 * 86400.0

#: What a header says: duration in seconds, and the unit of each channel by label.
Header = namedtuple("Header", "duration units")


def read_header(path):
    """Read what an EDF header promises, and check that the file is as long.

    MNE reads the records that are there; it takes a file cut short for a short night.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    Header

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no EDF file, or shorter than its header says, or no signal in it has a
        sample a second.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    with path.open("rb") as file:
        fixed = file.read(256)
        try:
            n_header, n_records = int(fixed[184:192]), int(fixed[236:244])
            record_seconds, n_channels = float(fixed[244:252]), int(fixed[252:256])
            if n_header != 256 * (n_channels + 1) or n_channels < 1:
                raise ValueError(f"a header of {n_header} bytes, {n_channels} channels")
            text = file.read(256 * n_channels).decode("latin-1")
            column = partial(_column, text, n_channels)
            samples = [int(value) for value in column(216, 8)]
            if not (math.isfinite(record_seconds) and record_seconds >= 0):
                raise ValueError(f"records of {record_seconds} s")
            if min(samples) < 0 or not sum(samples):
                raise ValueError(f"{samples} samples in a record")
        except ValueError as error:
            raise ValueError(f"{path} is no EDF file, or is damaged: {error}.") from error
    expected, size = n_header + 2 * n_records * sum(samples), path.stat().st_size
    if n_records < 1 or size < expected:
        raise ValueError(
            f"{path} has {size} bytes; its header promises {n_records} records, {expected} "
            "bytes. The file is cut short; download it again."
        )
    names = column(0, 16)
    most = max(
        (n for name, n in zip(names, samples, strict=True) if name != "EDF Annotations"),
        default=math.inf,
    )
    if most < record_seconds:
        raise ValueError(
            f"{path} has records of {record_seconds:g} s with at most {most} samples of a "
            "signal, less than one a second: its header is damaged. Download it again."
        )
    units = dict(zip(names, column(96, 8), strict=True))
    return Header(n_records * record_seconds, units)


def open_edf(path, labels):
    """Open some channels of an EDF file, which are microvolts where it names no unit.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    labels : list of str
        The channels.

    Returns
    -------
    mne.io.Raw
        Unread.
    """
    import mne

    units = read_header(path).units
    unnamed = [label for label in labels if not units[label]]
    with blaming(path):
        return mne.io.read_raw_edf(
            path, include=labels, units=dict.fromkeys(unnamed, "uV"), verbose="ERROR"
        )


def read_annotations(path):
    """Read the annotations of an EDF+ file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    mne.Annotations

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_header`, or if they are damaged.
    """
    import mne

    read_header(path)
    with blaming(path):
        annotations = mne.read_annotations(path, encoding="latin1")
        ends = annotations.onset + annotations.duration
        if len(ends) and not ends.max() <= _LONGEST:
            raise ValueError(f"an annotation ends at {ends.max():g} s")
        return annotations


def _column(text, n_channels, before, width):
    """Cut a field of each channel out of a header; ``before`` is the width of those before."""
    start = before * n_channels
    ends = range(start + width, start + width * n_channels + 1, width)
    return [text[end - width : end].strip() for end in ends]
