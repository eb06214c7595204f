"""EDF and BDF files: what their headers promise, and where the recorder was interrupted.

MNE puts the records that are there one behind the other, whether or not a file was cut
short or interrupted (EDF+D).
"""

import math
import re
import shutil
import tempfile
from collections import namedtuple
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np

from skleepkd.warn import warn

#: Seconds by which an offset may differ from the headers' dates, which are whole seconds.
DATES_AGREE = 2.0

#: What MNE, EEGLAB and BrainVision write where recordings were joined or paused.
_JOINT = re.compile(r"((BAD|EDGE) )?boundary|New Segment/.*", re.IGNORECASE)


@contextmanager
def errors_naming(path, advice="Download it again."):
    """Turn whatever a reader raises on a damaged file into a ValueError that names it."""
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise  # not the content's fault
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({type(error).__name__}: {error}). {advice}"
        ) from error


_FIELDS = "path n_records n_held seconds first_byte kind start names units widths"


class Header(namedtuple("Header", _FIELDS)):
    """What a file says of its records, of which ``n_held`` are there, and of its signals."""

    # ``widths`` are a record's bytes by signal.

    @property
    def late(self):
        """Seconds from the header's time to the first record; MNE passes over them."""
        return next(iter(self.onsets(1)), None) or 0.0

    @property
    def began(self):
        """Date and time of the first record, None where the header has none."""
        with suppress(ValueError, OverflowError):
            date = datetime.strptime(self.start, "%d.%m.%y %H.%M.%S")
            return date + timedelta(seconds=self.late)

    def onsets(self, n_records):
        """Seconds from the header's time to each record, None where it does not tell."""
        notes = [k for k, name in enumerate(self.names) if name.endswith(" Annotations")]
        if not notes:
            return [None]
        first = self.first_byte + sum(self.widths[: notes[0]])
        onsets = []
        with self.path.open("rb") as file:
            for number in range(min(n_records, self.n_held)):
                file.seek(first + number * sum(self.widths))
                note = file.read(self.widths[notes[0]])
                # An annotation without a text keeps the time (Kemp and Olivan 2003).
                time = re.match(rb"([+-]\d+(?:\.\d*)?)\x14\x14", note)
                onsets.append(float(time[1]) if time else None)
        return onsets


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
    counts = n_records, n_held, seconds, first_byte
    return Header(path, *counts, fixed[192:197], start, names, units, widths)


def _header_if_any(path):
    with suppress(FileNotFoundError, ValueError):  # gone, or a file of another kind
        return read_header(path)


def is_whole(path):
    """Whether a file holds the records that its header promises; others than EDF are."""
    header = _header_if_any(path)
    return header is None or header.n_held == header.n_records


def warn_of_cut(raw):
    """Warn where a Raw's file holds fewer records than its header promises."""
    cut = [path for path in filter(None, raw.filenames) if not is_whole(Path(path))]
    if cut:
        warn(
            f"{cut[0]} holds fewer records than its header says: it was cut short. What is missing "
            "makes no epochs."
        )


def holds_signals(path):
    """Whether a file holds more than annotations; others than EDF do."""
    header = _header_if_any(path)
    return header is None or not all(n.endswith(" Annotations") for n in header.names)


def first_onset(path):
    """Seconds from the time in a file's header to its first record; MNE passes over them."""
    header = _header_if_any(path)
    return header.late if header else 0.0


def seconds_late(raw):
    """Seconds that a Raw's file begins after its date; warns where these are whole ones."""
    path, date = next(iter(raw.filenames), None), raw.info["meas_date"]
    header = _header_if_any(Path(path)) if path and date is not None else None
    if header is None or f"{date:%H.%M.%S}" != header.start[9:]:
        return 0.0
    late = header.late
    if abs(late) >= 1:
        warn(
            f"{path}: its first record begins {late:g} s after the time in its header, which "
            "MNE passes over. Correct the date, by which other files are read: raw.set_meas_"
            f'date(raw.info["meas_date"] + datetime.timedelta(seconds={late:g})).'
        )
    return late


def began_at(raw):
    """When a Raw's first sample was recorded, by its date; None where it has none."""
    seconds = raw.first_time + seconds_left_out(raw) + seconds_late(raw)
    date = raw.info["meas_date"]
    return date and date + timedelta(seconds=seconds)


def seconds_by_dates(raws):
    """Seconds from the source's first sample to the target's by their dates, None without."""
    began = {name: began_at(raw) for name, raw in raws.items()}
    if None in began.values():
        return None
    return (began["target"] - began["source"]).total_seconds()


def interruptions(path):
    """Seconds of signal before each interruption of a file, and seconds that it lasted."""
    header = _header_if_any(path)
    may_be = header is not None and header.kind in ("EDF+D", "BDF+D")
    if not may_be or not header.seconds:
        return []
    onsets = header.onsets(header.n_held)
    if None in onsets:
        warn(
            f"{path} may be interrupted (EDF+D), and does not tell when its records began: "
            "MNE reads them as if they followed one another."
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
            cut = f"{at - max(first, 0):.10g}"  # of joined files: in this one
            raise ValueError(
                f"{path} was interrupted {len(within)} time(s), first after {at:.10g} s of "
                f"signal, for {seconds:g} s, which MNE passes over. Take the parts: "
                f"raw.copy().crop(tmax={cut}, include_tmax=False), then "
                f"raw.copy().crop(tmin={cut}) and so on; of a data set leave the "
                "subject out with subjects=."
            )
        left_out += sum(seconds for at, seconds in gaps if at <= first + margin)
    _refuse_joints(raw, margin)
    return left_out


def _refuse_joints(raw, margin):
    """Refuse a Raw that was joined of recordings, or paused, within its span."""
    n_times = raw._last_samps - raw._first_samps + 1
    apart = np.abs(raw._first_samps[1:] - raw._last_samps[:-1] - 1) > 1
    joints = list(np.cumsum(n_times)[:-1][apart] / raw.info["sfreq"])
    notes = zip(raw.annotations.onset, raw.annotations.description, strict=True)
    joints += [at - raw.first_time for at, text in notes if _JOINT.fullmatch(str(text))]
    end = raw.n_times / raw.info["sfreq"]
    joints = sorted(at for at in joints if margin < at < end - margin)
    if joints:
        at = joints[0]
        raise ValueError(
            f"The recording was joined, or paused, after {at:.10g} s. Take the parts: raw.copy()"
            f".crop(tmax={at:.10g}, include_tmax=False), raw.copy().crop(tmin={at:.10g}). If "
            "nothing is missing there: mne.io.RawArray(raw.get_data(), raw.info)."
        )


def open_edf(path, labels):
    """Open some channels of an uninterrupted file; one without a unit is in microvolts."""
    import mne

    header = read_header(path)
    named = zip(header.names, header.units, strict=True)
    units = {name: "uV" for name, unit in named if name in labels and not unit}
    with errors_naming(path):
        raw = mne.io.read_raw_edf(path, include=labels, units=units, verbose="ERROR")
        raw.reorder_channels(labels)  # "ecg" is a name to it, to pick a type
    seconds_left_out(raw)
    return raw


def read_annotations(path):
    """Read the annotations of a whole EDF+ file."""
    import mne

    read_header(path, whole=True)
    with errors_naming(path):
        if path.suffix in (".edf", ".bdf"):
            return mne.read_annotations(path, encoding="latin1")
        with tempfile.TemporaryDirectory() as folder:  # MNE goes by the ending: .EDF, .rec
            copy = shutil.copyfile(path, Path(folder) / "copy.edf")
            return mne.read_annotations(copy, encoding="latin1")
