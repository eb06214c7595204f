"""EDF and BDF files: what their headers promise, and where the recorder was interrupted.

MNE puts the records that are there one behind the other, whether or not a file was cut
short or interrupted (EDF+D).
"""

import math
import re
import warnings
from collections import namedtuple
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

#: The files that have such headers.
SUFFIXES = (".edf", ".bdf", ".rec")

#: Seconds that a record may begin off the end of the one before: devices round.
_ROUNDED = 0.01


#: What a header says, times in seconds; names, units and widths (bytes in a record) are by
#: signal, and ``n_bytes`` is the header's own length.
Header = namedtuple(
    "Header",
    "n_bytes n_records record_seconds duration start names units widths interrupted",
)


@contextmanager
def errors_naming(path):
    """Turn whatever a reader raises on a damaged file into a ValueError that names it."""
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise  # not the content's fault
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {error}). Download "
            "it again."
        ) from error


def read_header(path, *, whole=False):
    """Read the header of an EDF or BDF file, ``whole``: of one that must not be cut short."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: is the data set complete?")
    with path.open("rb") as file:
        fixed = file.read(256)
        try:
            n_bytes, n_records = int(fixed[184:192]), int(fixed[236:244])
            record_seconds, n_signals = float(fixed[244:252]), int(fixed[252:256])
            if n_bytes != 256 * (n_signals + 1) or n_signals < 1:
                raise ValueError(f"a header of {n_bytes} bytes, {n_signals} channels")
            text = file.read(256 * n_signals).decode("latin-1")

            def column(start, width):  # of a signal's 256 characters, kept field by field
                cells = range(start * n_signals, (start + width) * n_signals, width)
                return [text[cell : cell + width].strip() for cell in cells]

            sample_bytes = 3 if fixed[:1] == b"\xff" else 2  # BDF has samples of 24 bits
            samples = [int(value) for value in column(216, 8)]
            if max(samples) < max(record_seconds, 1):
                raise ValueError(f"{samples} samples in a record of {record_seconds} s")
            widths = [sample_bytes * n for n in samples]
        except ValueError as error:
            raise ValueError(f"{path} is no EDF file, or is damaged: {error}.") from error
    size, expected = path.stat().st_size, n_bytes + n_records * sum(widths)
    if whole and (n_records < 1 or size < expected):
        raise ValueError(
            f"{path} has {size} bytes; its header promises {n_records} records, {expected} "
            "bytes. The file is cut short; download it again."
        )
    return Header(
        n_bytes=n_bytes,
        n_records=n_records,
        record_seconds=record_seconds,
        duration=n_records * record_seconds,
        start=f"{fixed[168:176].decode('latin-1')} {fixed[176:184].decode('latin-1')}",
        names=column(0, 16),
        units=column(96, 8),
        widths=widths,
        interrupted=fixed[192:197] in (b"EDF+D", b"BDF+D"),
    )


def _header_if_any(path):
    """Header of an EDF or BDF file, None of anything else."""
    if path.suffix.casefold() not in SUFFIXES:
        return None
    try:
        return read_header(path)
    except (FileNotFoundError, ValueError):
        return None  # gone, or a file of another kind by that name


def is_whole(path):
    """Whether a file holds the records that its header promises; others than EDF are."""
    header = _header_if_any(path)
    if header is None:
        return True
    held = (path.stat().st_size - header.n_bytes) // sum(header.widths)
    return held == header.n_records


def interruptions(path):
    """Seconds of signal before each interruption of a file, and seconds that it lasted."""
    header = _header_if_any(path)
    if header is None or not header.interrupted or not header.record_seconds:
        return []
    onset = _record_onsets(path, header)
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


def _record_onsets(path, header):
    """Seconds at which each record began, None where its first annotation does not tell."""
    notes = [k for k, name in enumerate(header.names) if name.endswith(" Annotations")]
    if not notes:
        return [None]
    before, width = sum(header.widths[: notes[0]]), header.widths[notes[0]]
    onset = []
    with path.open("rb") as file:
        ends = range(header.n_bytes, path.stat().st_size + 1, sum(header.widths))
        for start, _ in pairwise(ends):
            file.seek(start + before)
            # An annotation without a text keeps the time (Kemp and Olivan 2003).
            time = re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", file.read(width))
            onset.append(float(time[1]) if time else None)
    return onset


def seconds_left_out(raw):
    """Seconds of interruption before a Raw's first sample, which its times leave out.

    A ValueError says where the recording goes on over an interruption.
    """
    margin = 1 / raw.info["sfreq"]  # a crop falls on a sample
    first, last = raw.first_time, raw.first_time + raw.n_times / raw.info["sfreq"]
    files = [Path(file) for file in raw.filenames if file]
    if len(files) > 1:  # which of them a time is of is not known
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
                "as if nothing were missing. Take the parts between interruptions one by one: "
                f"raw.copy().crop(tmax={at - first:g}, include_tmax=False), then "
                f"raw.copy().crop(tmin={at - first:g}) and so on."
            )
        left_out += sum(seconds for at, seconds in gaps if at <= first + margin)
    return left_out


def open_edf(path, labels):
    """Open some channels of an uninterrupted file; one without a unit is in microvolts."""
    import mne

    header = read_header(path)
    for at, seconds in interruptions(path):
        raise ValueError(
            f"{path} was interrupted after {at:g} s of signal, for {seconds:g} s (its header "
            "says EDF+D). Leave the subject out with subjects=."
        )
    units = dict(zip(header.names, header.units, strict=True))
    unnamed = [label for label in labels if units.get(label) == ""]
    with errors_naming(path):
        return mne.io.read_raw_edf(
            path, include=labels, units=dict.fromkeys(unnamed, "uV"), verbose="ERROR"
        )


def read_annotations(path):
    """Read the annotations of a whole EDF+ file."""
    import mne

    read_header(path, whole=True)
    with errors_naming(path):
        return mne.read_annotations(path, encoding="latin1")
