"""EDF and BDF files: what their headers promise, and where the recorder was interrupted.

MNE puts the records that are there one behind the other, whether or not a file was cut
short or interrupted (EDF+D).
"""

import math
import re
import warnings
from collections import namedtuple
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

#: ``n_held`` records are there, of ``seconds`` each; ``widths`` are a record's bytes by signal.
Header = namedtuple(
    "Header", "n_records n_held seconds first_byte interrupted start names units widths"
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
    with errors_naming(path), path.open("rb") as file:
        fixed = file.read(256).decode("latin-1")
        first_byte, n_records = int(fixed[184:192]), int(fixed[236:244])
        seconds, n_signals = float(fixed[244:252]), int(fixed[252:])
        by_signal = file.read(256 * n_signals).decode("latin-1")

        def column(start, width):  # the signals' texts are kept field by field
            cells = range(start * n_signals, (start + width) * n_signals, width)
            return [by_signal[cell : cell + width].strip() for cell in cells]

        samples = [int(value) for value in column(216, 8)]
        if first_byte != 256 * (n_signals + 1) or max(samples) < max(seconds, 1):
            raise ValueError(f"{n_signals} signals, {samples} samples in {seconds} s")
        names, units = column(0, 16), column(96, 8)
        widths = [n * (3 if fixed[0] == "\xff" else 2) for n in samples]  # BDF has 24 bits
        n_held = (path.stat().st_size - first_byte) // sum(widths)
    if whole and not 1 <= n_records <= n_held:
        raise ValueError(
            f"{path} holds {n_held} records and its header promises {n_records}: it is cut "
            "short. Download it again."
        )
    start = f"{fixed[168:176]} {fixed[176:184]}"
    interrupted = fixed[192:197] in ("EDF+D", "BDF+D")
    return Header(
        n_records, n_held, seconds, first_byte, interrupted, start, names, units, widths
    )


def _header_if_any(path):
    with suppress(FileNotFoundError, ValueError):  # gone, or a file of another kind
        return read_header(path)


def is_whole(path):
    """Whether a file holds the records that its header promises; others than EDF are."""
    header = _header_if_any(path)
    return header is None or header.n_held == header.n_records


def interruptions(path):
    """Seconds of signal before each interruption of a file, and seconds that it lasted."""
    header = _header_if_any(path)
    if header is None or not header.interrupted or not header.seconds:
        return []
    notes = [k for k, name in enumerate(header.names) if name.endswith(" Annotations")]
    onsets = [] if notes else [None]
    with path.open("rb") as file:
        for number in range(header.n_held if notes else 0):
            before = number * sum(header.widths) + sum(header.widths[: notes[0]])
            file.seek(header.first_byte + before)
            note = file.read(header.widths[notes[0]])
            # An annotation without a text keeps the time (Kemp and Olivan 2003).
            time = re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", note)
            onsets.append(float(time[1]) if time else None)
    if None in onsets:
        warnings.warn(
            f"{path} may be interrupted (EDF+D), and does not tell when its records began: "
            "MNE reads them as if they followed one another.",
            stacklevel=5,
        )
        return []
    gaps = (after - before - header.seconds for before, after in pairwise(onsets))
    return [
        (round(number * header.seconds, 6), round(gap, 6))
        for number, gap in enumerate(gaps, start=1)
        if abs(gap) > 0.01  # devices round
    ]


def seconds_left_out(raw):
    """Seconds of interruption before a Raw's first sample; an error where one is inside it."""
    margin = 1 / raw.info["sfreq"]  # a crop falls on a sample
    first, last = raw.first_time, raw.first_time + raw.n_times / raw.info["sfreq"]
    files = [Path(file) for file in raw.filenames if file]
    if len(files) > 1:  # which of them a time is of is not known
        first, last = -math.inf, math.inf
    left_out = 0.0
    for path in files:
        gaps = interruptions(path)
        within = [gap for gap in gaps if first + margin < gap[0] < last - margin]
        if within:
            at, seconds = within[0]
            raise ValueError(
                f"{path} was interrupted {len(within)} time(s), first after {at:g} s of "
                f"signal, for {seconds:g} s, which MNE passes over. Take the parts: "
                f"raw.copy().crop(tmax={at - first:g}, include_tmax=False), then "
                f"raw.copy().crop(tmin={at - first:g}) and so on; of a data set leave the "
                "subject out with subjects=."
            )
        left_out += sum(seconds for at, seconds in gaps if at <= first + margin)
    return left_out


def open_edf(path, labels):
    """Open some channels of an uninterrupted file; one without a unit is in microvolts."""
    import mne

    header = read_header(path)
    named = zip(header.names, header.units, strict=True)
    units = {name: "uV" for name, unit in named if name in labels and not unit}
    with errors_naming(path):
        raw = mne.io.read_raw_edf(path, include=labels, units=units, verbose="ERROR")
        raw.pick(labels)
    seconds_left_out(raw)
    return raw


def read_annotations(path):
    """Read the annotations of a whole EDF+ file."""
    import mne

    read_header(path, whole=True)
    with errors_naming(path):
        return mne.read_annotations(path, encoding="latin1")
