"""Files of scorings: what each says, line by line. :mod:`.reading` makes epochs of it."""

import csv
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from skleepkd import edf
from skleepkd.hypnogram.names import is_number
from skleepkd.stages import BORDER, MISSING, stage_of_text
from skleepkd.warn import warn

#: Codes of Rechtschaffen and Kales.
_DEEP_IS_4 = {0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "N3", 5: "REM"}

#: Columns of tables that hold stages, the likelier first; of these, others than stages too.
_STAGES = ["trial_type", "stage", "staging", "stages", "sleep_stage", "description"]
_STAGES += ["hypnogram", "hypno"]
_EVENTS = ("trial_type", "description")
#: A line of a header with a date; a time of the day, perhaps after a date.
_DATE = re.compile(r"[^\t]*\t+\s*\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\s*")
_BIRTH = re.compile(r"birth|born|dob|geb|nai|nac", re.IGNORECASE)
_TIME = re.compile(
    r"(?:(?P<date>.*\d)[T ,]+)?(?P<h>\d{1,2})[:.](?P<m>\d\d)[:.](?P<s>\d\d(?:[.,]\d+)?)"
    r"\s*(?P<half>[AaPp])?\.?[Mm]?\.?"
)


class Scoring:
    """What a file says: texts, when they begin and how long they last, in seconds.

    ``start`` counts from the file's own beginning, when its clock shows ``began``: a list of the
    datetimes that may be meant, or seconds since midnight where no date is told, or None. ``durations`` are
    None where there is one text for each epoch. ``events``: whether others than stages may
    be among the texts. ``codes``: what this format's codes mean.
    """

    def __init__(
        self, texts, start=None, durations=None, *, began=None, codes=None, events=False
    ):
        self.texts = [str(text).strip() for text in texts]
        self.start = None if start is None else np.asarray(start, dtype=float)
        self.durations = None if durations is None else np.asarray(durations, dtype=float)
        self.began = began
        self.codes = codes or {}
        self.events = events
        self.is_table, self.lights_off = False, None


def read_scoring(path, scorer):
    """Read a file of any kind, by what is in it."""
    content = path.read_bytes()
    if content[:8] in (b"0       ", b"\xffBIOSEMI"):
        return _read_edf(path)
    text = _decoded(content)
    lines = [line.rstrip() for line in text.splitlines()]
    filled = [line for line in lines if line.strip()]
    if not filled:
        raise ValueError("the file is empty")
    first = filled[0].lstrip()
    if first.startswith("<"):
        return _read_xml(text)
    if first.startswith("Signal ID"):
        return _read_domino(filled)
    if first.startswith("RemLogic") or any("[hh:mm:ss" in line for line in filled[:200]):
        return _read_remlogic(filled)
    if first.startswith("time_base"):
        return _read_elan(filled)
    marked = [line for line in filled if line.lstrip()[0] not in "*#%"]
    delimiter = next((mark for mark in "\t;," if marked and mark in marked[0]), None)
    if delimiter and not _is_ends(marked):
        scoring = _read_table(path, marked, delimiter, scorer)
        scoring.is_table = True
        return scoring
    return _read_ends(filled) if _is_ends(marked) else _read_lines(path, lines)


def _decoded(content):
    """Decode what an editor or an export of Windows has written."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    if content[1:400:2].count(0) > 0.9 * len(content[1:400:2]) > 0:
        return content.decode("utf-16-le")
    if b"\0" in content or content[:2] == b"PK" or content[:4] == b"%PDF":
        raise ValueError(
            "it is no text, XML or EDF+. Export the scoring as text; of a workbook, save the "
            "sheet as csv"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


# ---------------------------------------------------------------- EDF+ and XML


def _read_edf(path):
    found = edf.read_annotations(path)
    began = edf.read_header(path).began  # from which MNE counts
    if began is not None:
        began = [began.replace(year=began.year + 100 * (began.year < 1985), tzinfo=UTC)]
    columns = found.description, found.onset, found.duration
    return Scoring(*columns, began=began, events=True)


def _read_xml(text):
    # The declaration names the encoding of bytes, which are decoded.
    root = ElementTree.fromstring(re.sub(r"^\s*<\?xml.*?\?>", "", text, flags=re.DOTALL))
    codes = _DEEP_IS_4 | {6: "?", 9: "?"}
    if None not in (root.find("SleepStages"), root.find("EpochLength")):  # Profusion
        texts = [stage.text for stage in root.find("SleepStages").iter("SleepStage")]
        epoch = float(root.findtext("EpochLength"))
        return Scoring(
            texts, epoch * np.arange(len(texts)), np.full(len(texts), epoch), codes=codes
        )
    if root.tag != "PSGAnnotation":
        raise ValueError(
            f"it is XML with the root {root.tag}, neither PSGAnnotation (NSRR) nor "
            "CMPStudyConfig with SleepStages and EpochLength (Compumedics Profusion)"
        )
    stages = [
        [event.findtext(name) for name in ("EventConcept", "Start", "Duration")]
        for event in root.iter("ScoredEvent")
        if "stages" in (event.findtext("EventType") or "").lower()
    ]
    texts, start, durations = zip(*stages, strict=True) if stages else ((), (), ())
    texts = [text.partition("|")[0] for text in texts]
    return Scoring(texts, start, durations, codes=codes)


# ---------------------------------------------------------------- programs of laboratories


def _read_remlogic(lines):
    header = next((n for n, line in enumerate(lines) if "[hh:mm:ss" in line), None)
    if header is None:
        raise ValueError("this RemLogic export has no line with the column Time [hh:mm:ss]")
    columns = lines[header].split("\t")
    at = next(n for n, name in enumerate(columns) if "[hh:mm:ss" in name)
    # In other languages the columns have other names, and the same events.
    rows = [line.split("\t") for line in lines[header + 1 :]]
    kinds = [[cell.strip().upper().startswith("SLEEP-") for cell in row] for row in rows]
    stages = [
        (row, kind.index(True)) for row, kind in zip(rows, kinds, strict=True) if any(kind)
    ]
    if not stages:
        raise ValueError("this RemLogic export has no events SLEEP-...: export them too")
    short = next((row for row, event in stages if len(row) < event + 2), None)
    if short:
        raise ValueError(f"the line {short} has no duration: is the file cut short?")
    # Not the date of birth, which a header may have too.
    dates = [line.rsplit("\t", 1) for line in lines[:header] if _DATE.fullmatch(line)]
    dates = [(name, date) for name, date in dates if not _BIRTH.search(name)]
    recorded = [date for name, date in dates if "rec" in name.lower() or len(dates) == 1]
    start, began = _on_clock([row[at] for row, _ in stages], next(iter(recorded), ""))
    texts = [row[event].strip()[len("SLEEP-") :] for row, event in stages]
    durations = [float(row[event + 1].replace(",", ".")) for row, event in stages]
    return Scoring(texts, start, durations, began=began)


def _read_domino(lines):
    n_head = next((n for n, line in enumerate(lines) if ";" in line), len(lines))
    about = dict(line.split(":", 1) for line in lines[:n_head] if ":" in line)
    signal, rate = about["Signal ID"].strip(), about.get("Rate", "").strip()
    if "profil" not in signal.lower():
        raise ValueError(f"it holds the signal {signal!r}, not the sleep profile")
    if not re.fullmatch(r"[\d.,]+ s", rate):
        raise ValueError(f"Rate: {rate!r} is no number of seconds")
    rows = [[cell.strip() for cell in line.split(";")] for line in lines[n_head:]]
    if not rows or len(rows[-1]) < 2:
        raise ValueError(f"its last line is {lines[-1]!r}: is the file cut short?")
    start, began = _on_clock([row[0] for row in rows], about.get("Start Time", ""))
    durations = np.full(len(rows), float(rate[:-2].replace(",", ".")))
    return Scoring([row[1] for row in rows], start, durations, began=began)


def _read_elan(lines):
    about = dict(line.split(maxsplit=1) for line in lines[:3])
    stages = lines[4:]
    if lines[3] != "epoch_list" or len(stages) != int(about["epoch_nb"]):
        raise ValueError(
            f"{about.get('epoch_nb')} epochs are promised and {len(stages)} there: is the file "
            "cut short?"
        )
    step = float(about["time_base"])
    return Scoring(
        stages, step * np.arange(len(stages)), np.full(len(stages), step), codes=_DEEP_IS_4
    )


def _on_clock(times, date):
    """Seconds from the first of clock times on, and what ``Scoring.began`` is."""
    clocks = [_TIME.fullmatch(text.strip()) for text in times]
    if not all(clocks) or not clocks:
        wrong = next(
            (text for text, clock in zip(times, clocks, strict=True) if not clock), ""
        )
        raise ValueError(
            f"{wrong!r} is no time of the day such as 22:30:00: is the file cut short?"
        )
    seconds = np.array([_seconds(clock) for clock in clocks])
    back = np.diff(seconds, prepend=seconds[0])
    if ((back < 0) & (back > -43200)).any():
        late = times[np.flatnonzero((back < 0) & (back > -43200))[0]]
        raise ValueError(f"the times are not in order, first at {late}")
    start = seconds + 86400 * np.cumsum(back < 0)
    told = _TIME.fullmatch(date.strip())
    first, dated = float(seconds[0]), clocks[0]["date"]
    if told and not dated:  # the recording's start, perhaps on the day before
        first = _seconds(told) + (first - _seconds(told) + 43200) % 86400 - 43200
    days = _days(dated or (told["date"] if told else date) or "")
    if first < 43200 and not (told or dated):  # the date may be that of the evening before
        days += [day + timedelta(days=1) for day in days]
    began = [day + timedelta(seconds=first) for day in days]
    return start - start[0], began or float(seconds[0])


def _seconds(clock):
    """Seconds since midnight, also of the twelve hours before or after noon."""
    hours, half = int(clock["h"]), (clock["half"] or "").lower()
    hours = hours % 12 + 12 * (half == "p") if half else hours
    return 3600.0 * hours + 60 * int(clock["m"]) + float(clock["s"].replace(",", "."))


def _days(text):
    """Midnight before a date; two of them where days and months may be meant either way."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if len(numbers) != 3:
        return []
    if numbers[0] > 31:
        year, month, day = numbers
    else:
        day, month, year = numbers
        year += 2000 * (year < 100)
        if "." not in text and month <= 12 and day <= 12 and day != month:
            both = (day, month), (month, day)
            return [datetime(year, m, d, tzinfo=UTC) for d, m in both]
        if month > 12:
            day, month = month, day
    return [datetime(year, month, day, tzinfo=UTC)]


# ---------------------------------------------------------------- tables and lists


def _read_table(path, lines, delimiter, scorer):
    rows = list(csv.reader(lines, delimiter=delimiter))
    columns = [name.strip().lower() for name in rows[0]]
    if any(map(is_number, columns)) or (scorer and stage_of_text(scorer) is not None):
        raise ValueError(
            "it has no line that names its columns. Put one above, such as onset, duration, "
            "stage (in seconds), or write one stage a line"
        )
    ragged = next((row for row in rows if len(row) != len(columns)), None)
    if ragged:
        raise ValueError(
            f"the row {str(ragged)[:80]} has not the {len(columns)} columns of "
            f"{str(columns)[:80]}: is the file cut short?"
        )
    table = pd.DataFrame(rows[1:], columns=columns)
    column = _stage_column(columns, scorer)
    texts = ["?" if text.strip() in ("", *MISSING) else text for text in table[column]]
    codes = _sidecar(path, column)
    if "onset" not in columns:
        _refuse_times(table.drop(columns=["time", column], errors="ignore"))
        if "time" in columns:
            start, began = _on_clock(table["time"], "")
            step = np.median(np.diff(start)) if len(start) > 1 else 30
            if (np.abs(np.diff(start) - step) > BORDER).any():
                raise ValueError(
                    f"its times are not each {step:g} s apart. How long stages last, say by "
                    "columns onset and duration, in seconds"
                )
            return Scoring(
                texts, start, np.full(len(start), step), began=began, codes=codes
            )
        return Scoring(texts, codes=codes)
    onset = _numbers(table, "onset")
    durations = (
        _numbers(table, "duration") if "duration" in columns else np.zeros(len(onset))
    )
    scoring = Scoring(texts, onset, durations, codes=codes, events=column in _EVENTS)
    scoring.lights_off = _lights_off(path) if len(onset) and onset[0] == 0 else None
    return scoring


def _refuse_times(others):
    """Refuse a table in which other columns than those read may tell when stages are."""
    for name, cells in others.items():
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(float)
        steps = np.diff(numbers)  # of numbers of epochs 1; probabilities may grow too
        grows = (steps > 0).all() and (steps != 1).any() and numbers[-1] > 1
        if name == "duration" or grows or cells.map(_TIME.fullmatch).notna().all():
            raise ValueError(
                f"its column {name!r} may tell when stages begin or how long they last, and none "
                "is called onset. Call them onset and duration, in seconds; if each line is an "
                f"epoch after the one before, leave out {name!r}"
            )


def _numbers(table, column):
    return pd.to_numeric(table[column].replace(["", *MISSING], np.nan)).to_numpy(float)


def _stage_column(columns, scorer):
    """Find the column of stages; that of one of several scorers must be named."""
    if scorer is not None:
        found = [
            name for name in columns if name in (scorer.lower(), f"stage_{scorer}".lower())
        ]
    else:
        found = [name for name in _STAGES if name in columns]
    if not found:
        by = [name.removeprefix("stage_") for name in columns if name.startswith("stage_")]
        wanted = (
            f" Name one of the scorers: scorer={by[0]!r}." if by else " Name it: scorer=."
        )
        raise ValueError(
            f"which of the columns {columns} holds the stages is not known.{wanted}"
        )
    return found[0]


def _sidecar(path, column):
    """Read what a BIDS description beside the table says of the codes."""
    about = path.with_suffix(".json")
    if path.suffix != ".tsv" or not about.exists():
        return {}
    import json

    levels = json.loads(about.read_text("utf-8-sig")).get(column, {}).get("Levels", {})
    return {code: text for code, text in levels.items() if re.fullmatch(r"-?\d+", code)}


def _lights_off(path):
    """Seconds to "Lights Off" in another events file of the same recording."""
    for other in path.parent.glob(f"{path.name.split('_')[0]}_*events.tsv"):
        for line in other.read_text("utf-8-sig", errors="replace").splitlines():
            cells = line.split("\t")
            if other != path and "lights off" in [cell.strip().lower() for cell in cells]:
                return float(cells[0])
    return None


def _read_lines(path, lines):
    """Read one stage a line, and Visbrain's description of samples where one is beside."""
    stages = [
        line.strip() for line in lines if not line.lstrip().startswith(("#", "%", "*"))
    ]
    while stages and not stages[-1]:
        stages.pop()
    while stages and (not stages[0] or stages[0].strip('"[]').lower() in _STAGES):
        stages.pop(0)
    if "" in stages:
        warn(
            f"{path}: {stages.count('')} empty lines between the stages are passed over. If "
            "they are unscored epochs, write ? there."
        )
    stages = [text.strip('"') for text in stages if text]
    about = path.with_name(f"{path.stem}_description.txt")
    if not about.exists():
        return Scoring(stages)
    rows = [line.split() for line in about.read_text("utf-8").splitlines()]
    described = {row[0]: float(row[1]) for row in rows}
    step = described.pop("time")
    codes = {int(code): word for word, code in described.items()}
    n = len(stages)
    return Scoring(stages, step * np.arange(n), np.full(n, step), codes=codes)


def _is_ends(lines):
    """Whether lines are a word and a number that grows, as Visbrain writes them."""
    cells = [line.split() for line in lines]
    if not all(len(row) == 2 and re.fullmatch(r"\d+(\.\d+)?", row[1]) for row in cells):
        return False
    grows = all(float(a[1]) < float(b[1]) for a, b in pairwise(cells))
    return bool(cells) and grows and not any(is_number(row[0]) for row in cells)


def _read_ends(lines):
    head = dict(
        line[1:].split(maxsplit=1)
        for line in lines
        if line[0] == "*" and len(line.split()) > 1
    )
    rows = [line.split() for line in lines if line[0] not in "*#%"]
    ends = np.array([float(row[1]) for row in rows])
    if ends[0] == 0:
        raise ValueError(
            "its first number is 0, so that numbers are no ends of stages, as Visbrain's are. Put "
            "a line of columns above: onset, duration, trial_type"
        )
    if not head:
        warn(
            "Of each line's word and number, the number is read as the stage's end in seconds, "
            "as Visbrain writes it."
        )
    promised = float(head.get("Duration_sec", ends[-1]))
    if ends[-1] < promised - 30:
        raise ValueError(
            f"{promised:g} s are promised and {ends[-1]:g} s are there: is the file cut short?"
        )
    return Scoring(
        [row[0] for row in rows], np.append(0, ends[:-1]), np.diff(ends, prepend=0.0)
    )
