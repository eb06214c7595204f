"""Files of scorings: what each says, line by line. :mod:`.reading` makes epochs of it."""

import csv
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from skleepkd import edf
from skleepkd.hypnogram.names import DEEP_IS_4, is_number
from skleepkd.stages import BORDER, MISSING, stage_of_text
from skleepkd.warn import warn

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


@dataclass
class Scoring:
    """What a file says: texts, when they begin and how long they last, in seconds."""

    texts: list
    #: From the file's own beginning; None where one text follows another.
    start: np.ndarray = None
    #: One for all, or of each; None where a text is an epoch, of a length that is not told.
    durations: np.ndarray = None
    #: What the clock shows at the file's beginning: datetimes that may be meant, or a time.
    began: list | time = None
    #: What the codes of this format mean.
    codes: dict = field(default_factory=dict)
    #: Whether others than stages may be among the texts.
    events: bool = False
    is_table: bool = False
    lights_off: float = None


def read_scoring(path, scorer):
    """Read a file of any kind, by what is in it."""
    scoring = _read(path, scorer)
    if scorer is not None and not scoring.is_table:
        raise ValueError(f"it is no table with a column for scorer={scorer!r}")
    return scoring


def _read(path, scorer):
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
    if _is_ends(marked):
        return _read_ends(filled, marked)
    delimiter = next((mark for mark in "\t;," if marked and mark in marked[0]), None)
    if delimiter:
        return _read_table(path, marked, delimiter, scorer)
    return _read_lines(path, lines)


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
    codes = DEEP_IS_4 | {6: "?", 9: "?"}
    if None not in (root.find("SleepStages"), root.find("EpochLength")):  # Profusion
        texts = [stage.text for stage in root.find("SleepStages").iter("SleepStage")]
        return Scoring(texts, durations=float(root.findtext("EpochLength")), codes=codes)
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
    at = next(n for n, c in enumerate(lines[header].split("\t")) if "[hh:mm:ss" in c)
    times, texts, durations = [], [], []
    for cells in (line.split("\t") for line in lines[header + 1 :]):
        # In other languages the columns have other names, and the same events.
        found = [n for n, c in enumerate(cells) if c.strip().upper().startswith("SLEEP-")]
        if not found:
            continue
        if len(cells) < found[0] + 2:
            raise ValueError(f"the line {cells} has no duration: is the file cut short?")
        times.append(cells[at])
        texts.append(cells[found[0]].strip()[len("SLEEP-") :])
        durations.append(_decimal(cells[found[0] + 1]))
    if not texts:
        raise ValueError("this RemLogic export has no events SLEEP-...: export them too")
    # Not the date of birth, which a header may have too.
    dates = [line.rsplit("\t", 1) for line in lines[:header] if _DATE.fullmatch(line)]
    dates = [(name, date) for name, date in dates if not _BIRTH.search(name)]
    recorded = [date for name, date in dates if "rec" in name.lower() or len(dates) == 1]
    start, began = _on_clock(times, next(iter(recorded), ""))
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
    return Scoring([row[1] for row in rows], start, _decimal(rate[:-2]), began=began)


def _read_elan(lines):
    about = dict(line.split(maxsplit=1) for line in lines[:3])
    stages = lines[4:]
    if lines[3] != "epoch_list" or len(stages) != int(about["epoch_nb"]):
        raise ValueError(
            f"{about.get('epoch_nb')} epochs are promised and {len(stages)} there: is the file "
            "cut short?"
        )
    return Scoring(stages, durations=float(about["time_base"]), codes=DEEP_IS_4)


def _decimal(text):
    return float(text.replace(",", "."))


def _on_clock(times, date):
    """Seconds from the first of clock times on, and what ``Scoring.began`` is."""
    clocks = [_TIME.fullmatch(text.strip()) for text in times]
    if None in clocks:
        wrong = times[clocks.index(None)]
        raise ValueError(
            f"{wrong!r} is no time of the day such as 22:30:00: is the file cut short?"
        )
    seconds = np.array([_seconds(clock) for clock in clocks])
    back = np.diff(seconds, prepend=seconds[0])
    late = np.flatnonzero((back < 0) & (back > -43200))
    if len(late):
        raise ValueError(f"the times are not in order, first at {times[late[0]]}")
    start = seconds + 86400 * np.cumsum(back < 0)
    told = _TIME.fullmatch(date.strip())
    first, dated = float(seconds[0]), clocks[0]["date"]
    if told and not dated:  # the recording's start, perhaps on the day before
        first = _seconds(told) + (first - _seconds(told) + 43200) % 86400 - 43200
    days = _days(dated or (told["date"] if told else date) or "")
    if first < 43200 and not (told or dated):  # the date may be that of the evening before
        days += [day + timedelta(days=1) for day in days]
    began = [day + timedelta(seconds=first) for day in days]
    return start - start[0], began or (datetime.min + timedelta(seconds=seconds[0])).time()


def _seconds(clock):
    """Seconds since midnight, also of the twelve hours before or after noon."""
    hours, half = int(clock["h"]), (clock["half"] or "").lower()
    hours = hours % 12 + 12 * (half == "p") if half else hours
    return 3600.0 * hours + 60 * int(clock["m"]) + _decimal(clock["s"])


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
    scoring = Scoring(texts, codes=_sidecar(path, column), is_table=True)
    if "onset" in columns:
        scoring.start = _numbers(table["onset"])
        scoring.durations = _numbers(table["duration"]) if "duration" in columns else 0.0
        scoring.events = column in _EVENTS
        if texts and scoring.start[0] == 0:
            scoring.lights_off = _lights_off(path)
        return scoring
    _refuse_times(table.drop(columns=["time", column], errors="ignore"))
    if "time" in columns and texts:
        scoring.start, scoring.began = _on_clock(table["time"], "")
        steps = np.diff(scoring.start)
        scoring.durations = np.median(steps) if len(steps) else 30.0
        if (np.abs(steps - scoring.durations) > BORDER).any():
            raise ValueError(
                f"its times are not each {scoring.durations:g} s apart. How long stages last, say "
                "by columns onset and duration, in seconds"
            )
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


def _numbers(cells):
    return pd.to_numeric(cells.replace(["", *MISSING], np.nan)).to_numpy(float)


def _stage_column(columns, scorer):
    """Find the column of stages; that of one of several scorers must be named."""
    wanted = _STAGES
    if scorer is not None:
        wanted = scorer.lower(), f"stage_{scorer}".lower()
    found = [name for name in wanted if name in columns]
    if not found:
        by = [name.removeprefix("stage_") for name in columns if name.startswith("stage_")]
        cure = f"one of the scorers: scorer={by[0]!r}" if by else "it: scorer="
        raise ValueError(
            f"which of the columns {columns} holds the stages is not known. Name {cure}"
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
    return Scoring(stages, durations=step, codes=codes)


def _is_ends(lines):
    """Whether lines are a word and a number that grows, as Visbrain writes them."""
    cells = [line.split() for line in lines]
    if not all(len(row) == 2 and re.fullmatch(r"\d+(\.\d+)?", row[1]) for row in cells):
        return False
    grows = all(float(a[1]) < float(b[1]) for a, b in pairwise(cells))
    return bool(cells) and grows and not any(is_number(row[0]) for row in cells)


def _read_ends(lines, stages):
    marks = [line[1:].split(maxsplit=1) for line in lines if line[0] == "*"]
    head = dict(mark for mark in marks if len(mark) == 2)
    texts, ends = zip(*(line.split() for line in stages), strict=True)
    ends = np.array(ends, dtype=float)
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
    return Scoring(texts, np.append(0, ends[:-1]), np.diff(ends, prepend=0.0))
