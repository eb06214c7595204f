"""EDF files: what their headers say, and their signals."""

import math
from collections import namedtuple

from skleepkd import edf
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
    header = edf.read_header(path)
    expected = header.n_bytes + header.n_records * edf.record_bytes(header)
    size = path.stat().st_size
    if header.n_records < 1 or size < expected:
        raise ValueError(
            f"{path} has {size} bytes; its header promises {header.n_records} records, "
            f"{expected} bytes. The file is cut short; download it again."
        )
    samples = zip(header.names, header.samples, strict=True)
    most = max((n for name, n in samples if name != "EDF Annotations"), default=math.inf)
    if most < header.record_seconds:
        raise ValueError(
            f"{path} has records of {header.record_seconds:g} s with at most {most} samples "
            "of a signal, less than one a second: its header is damaged. Download it again."
        )
    units = dict(zip(header.names, header.units, strict=True))
    return Header(header.n_records * header.record_seconds, units)


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

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_header`, or if the recorder was interrupted.
    """
    import mne

    refuse_interrupted(path)
    units = read_header(path).units
    unnamed = [label for label in labels if not units[label]]
    with blaming(path):
        return mne.io.read_raw_edf(
            path, include=labels, units=dict.fromkeys(unnamed, "uV"), verbose="ERROR"
        )


def refuse_interrupted(path):
    """Refuse a file whose records do not follow one another; MNE would close its gaps.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If the recorder was interrupted.
    """
    for at, seconds in edf.interruptions(path):
        raise ValueError(
            f"{path} was interrupted after {at:g} s of signal, for {seconds:g} s (its header "
            "says EDF+D). Leave the subject out with subjects=."
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
