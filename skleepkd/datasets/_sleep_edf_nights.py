"""Nights of Sleep-EDF: their files, their stages and the part that is kept."""

import csv
import math
import numbers
from datetime import datetime
from importlib import resources
from pathlib import Path

import numpy as np

from skleepkd.datasets._edf import read_annotations, read_header
from skleepkd.datasets._nights import Night, warn_of_unknown
from skleepkd.stages import EPOCH_SECONDS, stage_of_text, stages_at

#: The subjects of Phan et al. (2019), by their numbers in the file names.
SUBJECTS = range(20)

#: Numbers that no subject has.
_ABSENT = {39, 68, 69, 78, 79}

#: Epochs of a night in bed after the last one of sleep; in three nights it was another
#: number in the paper.
_AFTER_SLEEP = 30
_AFTER_SLEEP_2019 = {"SC4001": 25, "SC4081": 32, "SC4092": 31}


def read_sleep_edf_night(
    root, number, *, crop="in-bed", sfreq=100.0, modalities=("source", "target")
):
    """Read the stages of one Sleep-EDF night, without its signals.

    Parameters
    ----------
    root : path-like
        The data set's folder.
    number : str
        The recording, such as ``"SC4001"``.
    crop : {"in-bed", "phan2019"}, float or None, default="in-bed"
        Part of the recording, as in :func:`load_sleep_edf`.
    sfreq : float, default=100.0
        Sampling rate in hertz, for the epochs' first samples.
    modalities : tuple of str, default=("source", "target")
        What the night is wanted for.

    Returns
    -------
    Night
        With ``onset`` (seconds from the recording's start) and ``y`` (AASM codes, -1
        where unscored), each of shape (n_epochs,), unscored epochs among them.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_sleep_edf`.
    """
    signals, stages = (
        _find_file(Path(root), number, kind) for kind in ("PSG", "Hypnogram")
    )
    duration = read_header(signals).duration
    read_header(stages)
    start = _start(signals)
    if _start(stages) != start:
        raise ValueError(
            f"{signals} begins at {start}, {stages.name} at {_start(stages)}. The two "
            "files of a night begin together: do these belong to each other?"
        )
    y = _read_stages(stages, duration)
    first, stop = _part(y, number, start, crop)
    rows = np.arange(len(y))[first:stop]
    if not len(rows):
        raise ValueError(
            f"{signals}: nothing is left of the recording with crop={crop!r} (from epoch "
            f"{first} to {stop}). Choose another crop, or leave the subject out."
        )
    sample = np.round(rows * EPOCH_SECONDS * sfreq).astype(np.int64)
    return Night(
        folder=number,
        recording=f"sleep-edf-{number}",
        person=f"sleep-edf-{number[:5]}",
        onset=rows * EPOCH_SECONDS,
        y=y[rows],
        first=dict.fromkeys(modalities, sample),
        duration=dict.fromkeys(modalities, duration),
        files=[signals, stages],
    )


def check_subjects(subjects):
    """Answer with a list of subjects whom the study has."""
    given = list(subjects)
    known = set(range(83)) - _ABSENT
    if not given or len(set(given)) < len(given) or not set(given) <= known:
        raise ValueError(
            "subjects are numbers from 0 to 82, each once, but for "
            f"{sorted(_ABSENT)}, whom the study lacks; given {subjects!r}."
        )
    return given


def find_nights(root, subjects):
    """List the recordings to read, such as "SC4001": those of which a file is there."""
    wanted = SUBJECTS if subjects is None else check_subjects(subjects)
    present = {path.name[:6] for path in _glob(root, "SC4[0-9][0-9][0-9]*-*.edf")}
    nights = []
    for subject in wanted:
        found = sorted(name for name in present if name[:5] == f"SC4{subject:02d}")
        if not found and subjects is not None:
            raise FileNotFoundError(f"{root} has no recording of subject {subject}.")
        nights += found
    if not nights:
        raise FileNotFoundError(
            f"{root} holds no 'SC4001E0-PSG.edf' or the like, nor does its folder "
            "'sleep-cassette'. fetch_sleep_edf downloads the files."
        )
    return nights


def _glob(root, pattern):
    return [*root.glob(pattern), *root.glob(f"sleep-cassette/{pattern}")]


def _find_file(root, number, kind):
    """Find a file of a recording; what stands between number and kind varies."""
    found = _glob(root, f"{number}*-{kind}.edf")
    if not found:
        raise FileNotFoundError(
            f"{root} has no {number}..-{kind}.edf: is the data set complete?"
        )
    if len(found) > 1:
        raise ValueError(
            f"One {kind} of {number} is expected; there are {', '.join(map(str, found))}."
        )
    return found[0]


def _start(path):
    """Date and time at which a recording begins, as the header of its EDF file says."""
    with path.open("rb") as file:
        file.seek(168)
        text = file.read(16).decode("latin-1")
    return f"{text[:8]} {text[8:]}"


def _read_stages(path, duration):
    """AASM codes of a recording's whole epochs, from its first second on."""
    annotations = read_annotations(path)
    texts = annotations.description
    warn_of_unknown([t for t in texts if t.casefold().startswith("sleep stage")], path)
    annotations = annotations[np.array([stage_of_text(t) is not None for t in texts], bool)]
    if not len(annotations):
        raise ValueError(f"{path} holds no annotations 'Sleep stage ...'.")
    ends = annotations.onset + annotations.duration
    overlap = np.flatnonzero(annotations.onset[1:] < ends[:-1] - 1e-3)
    if len(overlap):
        raise ValueError(
            f"{path}: stages overlap at {annotations.onset[overlap[0] + 1]:g} s. Leave the "
            "subject out with subjects=."
        )
    # "?" up to 24 hours after the start is how many of these files end.
    scored = [stage_of_text(text) >= 0 for text in annotations.description]
    late = max(ends[scored], default=0) - duration
    if late > EPOCH_SECONDS:
        raise ValueError(
            f"{path}: the scoring ends {late:.1f} s after the recording, which lasts "
            f"{duration:.1f} s. At most 30 s are allowed: do the two files belong together?"
        )
    return stages_at(annotations, EPOCH_SECONDS * np.arange(duration // EPOCH_SECONDS))


def _part(y, number, start, crop):
    """First epoch that is kept, and the one after the last."""
    minutes = isinstance(crop, numbers.Real) and not isinstance(crop, bool) and crop >= 0
    if not (minutes or crop is None or crop in ("in-bed", "phan2019")):
        raise ValueError(
            "crop is 'in-bed', 'phan2019', minutes before and after sleep, or None; given "
            f"{crop!r}."
        )
    if crop is None:
        return 0, len(y)
    asleep = np.flatnonzero(y > 0)  # 0 is awake, -1 unscored
    if not len(asleep):
        raise ValueError(
            f"sleep-edf-{number} has no epoch of sleep, by which crop={crop!r} finds the "
            "night. Leave the subject out with subjects=, or take crop=None."
        )
    if minutes:
        margin = int(crop * 60 // EPOCH_SECONDS)
        return max(asleep[0] - margin, 0), asleep[-1] + 1 + margin
    after = _AFTER_SLEEP
    if crop == "phan2019":
        after = _AFTER_SLEEP_2019.get(number, after)
    return math.ceil(_lights_off(number, start) / EPOCH_SECONDS), asleep[-1] + 1 + after


def _lights_off(number, start):
    """Seconds from a recording's start to lights off, at most a day."""
    table = resources.files("mne.datasets.sleep_physionet") / "age_records.csv"
    try:
        text = table.read_text("utf-8")
    except OSError:
        raise FileNotFoundError(
            f"MNE's list of the study ({table}), which knows lights off, is missing. "
            "Install mne again, or choose another crop: minutes around sleep, or None."
        ) from None
    for row in csv.DictReader(text.splitlines()):
        if row["fname"].startswith(number):
            break
    else:
        raise ValueError(
            f"MNE's list of the study does not know {number}, so lights off is unknown. "
            "Choose another crop: minutes around sleep, or None."
        )
    try:
        begin = datetime.strptime(start[9:], "%H.%M.%S")
    except ValueError:
        raise ValueError(
            f"sleep-edf-{number}: its header gives no time of day at which it begins, only "
            f"{start!r}. Download it again."
        ) from None
    # The seconds of a difference in time leave whole days out: lights off may be next day.
    return (datetime.strptime(row["lights off"], "%H:%M:%S") - begin).seconds
