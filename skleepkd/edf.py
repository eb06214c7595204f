"""EDF and BDF files: how many records their headers promise, and when each one began.

MNE reads the records that are there and puts them one behind the other, in a file that was
cut short and in one that the recorder interrupted (EDF+D). Both are told here.
"""

import math
import re
import warnings
from collections import namedtuple
from functools import partial
from itertools import pairwise
from pathlib import Path

#: The files that have such headers.
SUFFIXES = (".edf", ".bdf", ".rec")

#: Seconds that a record may begin off the end of the one before: devices round.
_ROUNDED = 0.01

#: What a header says. ``names``, ``units`` and ``samples`` (in a record) are by signal;
#: ``width`` is bytes a sample; ``interrupted``: records need not follow one another.
Header = namedtuple(
    "Header", "n_bytes n_records record_seconds names units samples width interrupted"
)


def read_header(path):
    """Read what the header of an EDF or BDF file promises.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        If it is no such file.
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        try:
            n_bytes, n_records = int(fixed[184:192]), int(fixed[236:244])
            record_seconds, n_signals = float(fixed[244:252]), int(fixed[252:256])
            if n_bytes != 256 * (n_signals + 1) or n_signals < 1:
                raise ValueError(f"a header of {n_bytes} bytes, {n_signals} channels")
            text = file.read(256 * n_signals).decode("latin-1")
            column = partial(_column, text, n_signals)
            samples = [int(value) for value in column(216, 8)]
            if not (math.isfinite(record_seconds) and record_seconds >= 0):
                raise ValueError(f"records of {record_seconds} s")
            if min(samples) < 0 or not sum(samples):
                raise ValueError(f"{samples} samples in a record")
        except ValueError as error:
            raise ValueError(f"{path} is no EDF file, or is damaged: {error}.") from error
    return Header(
        n_bytes=n_bytes,
        n_records=n_records,
        record_seconds=record_seconds,
        names=column(0, 16),
        units=column(96, 8),
        samples=samples,
        width=3 if fixed[:1] == b"\xff" else 2,  # BDF has samples of 24 bits
        interrupted=fixed[192:197] in (b"EDF+D", b"BDF+D"),
    )


def record_bytes(header):
    """Length of a record."""
    return header.width * sum(header.samples)


def is_whole(path):
    """Whether a file holds the records that its header promises; others than EDF are.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    bool
    """
    if path.suffix.casefold() not in SUFFIXES:
        return True
    try:
        header = read_header(path)
    except ValueError:
        return True  # a file of another kind by that name
    held = (path.stat().st_size - header.n_bytes) // record_bytes(header)
    return held == header.n_records


def interruptions(path):
    """Find where a file's records do not follow one another.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    list of (float, float)
        Seconds of signal before each interruption, and how long it was in seconds; none
        for another file than EDF or BDF.

    Warns
    -----
    UserWarning
        If the file may be interrupted and does not tell when its records began.
    """
    if path.suffix.casefold() not in SUFFIXES or not path.is_file():
        return []
    try:
        header = read_header(path)
    except ValueError:
        return []
    if not header.interrupted or not header.record_seconds:
        return []
    notes = [k for k, name in enumerate(header.names) if name.endswith(" Annotations")]
    onset = _onsets(path, header, notes[0]) if notes else [None]
    if None in onset:
        warnings.warn(
            f"{path} may be interrupted (its header says EDF+D or BDF+D), and does not tell "
            "when each of its records began: MNE reads them as if they followed one another.",
            stacklevel=5,
        )
        return []
    steps = (after - before for before, after in pairwise(onset))
    return [
        (round(number * header.record_seconds, 6), round(step - header.record_seconds, 6))
        for number, step in enumerate(steps, start=1)
        if abs(step - header.record_seconds) > _ROUNDED
    ]


def seconds_left_out(raw):
    """Seconds of interruption before a recording's first sample, which MNE's times leave out.

    Parameters
    ----------
    raw : mne.io.Raw
        A recording, whatever its file. It may be cropped.

    Returns
    -------
    float
        0 where its file is not interrupted, is of another kind or is gone.

    Raises
    ------
    ValueError
        If the recording goes on over an interruption.
    """
    margin = 1 / raw.info["sfreq"]  # a crop falls on a sample
    first, last = raw.first_time, raw.first_time + raw.n_times / raw.info["sfreq"]
    files = [Path(file) for file in raw.filenames if file]
    if len(files) > 1:  # which of them a time is of is not told
        first, last = -math.inf, math.inf
    left_out = 0.0
    for path in files:
        gaps = interruptions(path)
        within = [(at, for_) for at, for_ in gaps if first + margin < at < last - margin]
        if within:
            at, seconds = within[0]
            raise ValueError(
                f"{path} was interrupted {len(within)} time(s), first after {at:g} s of "
                f"signal, for {seconds:g} s (its header says EDF+D or BDF+D). MNE reads it "
                "as if nothing were missing: all that follows would be at a wrong time. "
                "Take the parts between interruptions one by one, each as a recording of "
                f"its own: raw.copy().crop(tmax={at - first:g}, include_tmax=False), then "
                f"raw.copy().crop(tmin={at - first:g}) and so on."
            )
        left_out += sum(seconds for at, seconds in gaps if at <= first + margin)
    return left_out


def _onsets(path, header, signal):
    """Seconds at which each record of a file began, as its first annotation tells."""
    before = header.width * sum(header.samples[:signal])
    n_bytes = header.width * header.samples[signal]
    step = record_bytes(header)
    onset = []
    with path.open("rb") as file:
        for start in range(header.n_bytes, path.stat().st_size - step + 1, step):
            file.seek(start + before)
            # An annotation without a text keeps the time (Kemp and Olivan 2003).
            told = re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", file.read(n_bytes))
            onset.append(float(told[1]) if told else None)
    return onset


def _column(text, n_signals, before, width):
    """Cut a field of each signal out of a header; ``before`` is the width of those before."""
    start = before * n_signals
    ends = range(start + width, start + width * n_signals + 1, width)
    return [text[end - width : end].strip() for end in ends]
