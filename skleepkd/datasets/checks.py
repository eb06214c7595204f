"""What loaders ask of tables and files: their names, channels, stages and clocks."""

import csv

import numpy as np

from skleepkd.edf import errors_naming, read_annotations, read_header
from skleepkd.stages import EPOCH_SECONDS, stage_of_text
from skleepkd.warn import warn


def check_channels(channels, default):
    """Sort channels by modality; a list is a target without a source."""
    if channels is None:
        channels = default
    given = channels if isinstance(channels, dict) else {"target": channels}
    if (
        "target" not in given
        or not set(given) <= {"source", "target"}
        or any(isinstance(names, str) or not len(names) for names in given.values())
    ):
        raise ValueError(
            f"channels is a list, such as {default['target']}, or lists by modality, such "
            f"as {default}; given {channels!r}."
        )
    return {modality: list(names) for modality, names in given.items()}


def choose_recordings(subjects, present, *, prefix, where):
    """List the recordings to read, which the user names with or without a prefix."""
    if subjects is None:
        return present
    if isinstance(subjects, str) or not len(subjects):
        raise ValueError(f"subjects is a list of recordings, such as {present[:1]}.")
    by_name = {name.removeprefix(prefix): name for name in present}
    wanted = {str(subject).removeprefix(prefix): str(subject) for subject in subjects}
    absent = [given for name, given in wanted.items() if name not in by_name]
    if absent:
        raise FileNotFoundError(
            f"There is no recording {', '.join(absent)} in {where}; it has "
            f"{', '.join(present[:3])}{', ...' if len(present) > 3 else ''}."
        )
    return [by_name[name] for name in wanted]


def bids_folders(root, subjects):
    """List the ``sub-`` folders to read, in the order of their numbers."""
    present = [path.name for path in root.glob("sub-*") if path.is_dir()]
    if not present:
        raise FileNotFoundError(f"{root} holds no sub- folders: is it the data set's own?")
    present.sort(key=lambda name: (len(name), name))
    return choose_recordings(subjects, present, prefix="sub-", where=root)


def read_table(path, **types):
    """Read columns of a tab-separated table, each of a type and without gaps."""
    import pandas as pd

    # pandas passes over the empty lines of "\r\r\n"; no index, so that no row is shifted.
    as_text = {"dtype": str, "na_filter": False, "quoting": csv.QUOTE_NONE}
    with errors_naming(path):
        table = pd.read_csv(path, sep="\t", index_col=False, **as_text)
        return table[list(types)].astype(types)


def to_stages(codes, table, path):
    """Translate a data set's codes of stages by a table."""
    y = codes.map(table)
    if y.isna().any():
        raise ValueError(
            f"{path} has unknown stage codes {codes[y.isna()].unique().tolist()}; known "
            f"are {sorted(table)}."
        )
    return y.to_numpy(np.int64)


def read_stages(path):
    """Read the annotations of stages in an EDF+ file; what is no known one becomes "?"."""
    annotations = read_annotations(path)
    prefixes = ("sleep stage", "movement time")
    texts = [text.strip().casefold() for text in annotations.description]
    annotations = annotations[np.array([text.startswith(prefixes) for text in texts], bool)]
    if not len(annotations):
        raise ValueError(f"{path} holds no annotations 'Sleep stage ...'.")
    warn_of_unknown(annotations.description, path)
    known = [stage_of_text(text) is not None for text in annotations.description]
    annotations.description = np.where(known, annotations.description, "?")
    return annotations


def warn_of_unknown(texts, where):
    """Warn of texts that are no known stage."""
    unknown = sorted({str(text) for text in texts if stage_of_text(text) is None})
    if unknown:
        listed = ", ".join(map(repr, unknown))
        warn(f"{where}: {listed} is no known stage; such epochs count as unscored.")


def require_channels(recording, labels, wanted):
    """Refuse a recording that lacks channels, before hours of reading others."""
    missing = [label for label in wanted if label not in labels]
    if missing:
        raise ValueError(
            f"{recording} has no channel {', '.join(missing)}; it has {', '.join(labels)}. "
            "Choose other channels, or recordings by subjects=."
        )


def check_start(signals, stages):
    """Refuse two EDF files of a night, read whole, that begin a second or more apart.

    Parameters
    ----------
    signals, stages : Path
        The recording and its scoring.

    Returns
    -------
    float
        Seconds from the first sample of ``signals`` to the begin of ``stages``, less than
        1, to be added to the onsets that :func:`mne.read_annotations` reads from the
        latter. EDF+ files may begin at a fraction of a second.

    Raises
    ------
    ValueError
        If they begin apart, or a file is cut short or damaged.
    """
    headers = [read_header(path, whole=True) for path in (signals, stages)]
    apart = seconds_apart(*headers)
    if not abs(apart) < 1:
        one, other = (
            header.start + (f" + {header.late:g} s" if header.late else "")
            for header in headers
        )
        raise ValueError(
            f"{signals} begins at {one}, {stages.name} at {other}: do these two files "
            "belong to each other?"
        )
    return apart


def seconds_apart(one, other):
    """Seconds from the first record of an EDF file to another's, by their headers, or NaN."""
    if one.start == other.start:  # though it may be no date
        return other.late - one.late
    if None in (one.began, other.began):
        return np.nan
    return (other.began - one.began).total_seconds()


def check_end(end, duration, path):
    """Refuse stages that go on for more than an epoch after the recording's end."""
    if end - duration > EPOCH_SECONDS:
        raise ValueError(
            f"{path}: the scoring ends {end - duration:.1f} s after the recording, which "
            f"lasts {duration:.1f} s. Do the two files belong together?"
        )


def check_recording(raw, recording, *, sfreq, duration):
    """Refuse a Raw of another rate or length than the tables say."""
    length = raw.n_times / raw.info["sfreq"]
    if raw.info["sfreq"] != sfreq or abs(length - duration) > EPOCH_SECONDS:
        raise ValueError(
            f"{recording}: the signal lasts {length:.1f} s at {raw.info['sfreq']:g} Hz, the "
            f"tables say {duration:.1f} s at {sfreq:g} Hz. It is cut short or belongs to "
            "another recording; download it again."
        )
