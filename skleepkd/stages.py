"""Sleep stages: their codes, their schemes and the texts that annotations use."""

import re
from collections import Counter
from datetime import UTC

import numpy as np
import pandas as pd

from skleepkd.warn import warn

UNSCORED = -1  # an epoch that nobody has scored
UNSCORED_NAME = "?"
_UNSCORED_TEXTS = (UNSCORED_NAME, "-1")
EPOCH_SECONDS = 30.0
#: Seconds by which devices misplace the borders of stages: a sample, or a rounded decimal.
BORDER = 0.101

#: The names of each scheme, in the order of their codes.
SCHEMES = {
    "aasm": ("W", "N1", "N2", "N3", "REM"),
    "wldr": ("W", "L", "D", "R"),
    "wnr": ("W", "N", "R"),
}

#: Where each AASM stage goes in a coarser scheme (light is N1 and N2, deep is N3).
_FROM_AASM = {
    "aasm": (0, 1, 2, 3, 4),
    "wldr": (0, 1, 1, 2, 3),
    "wnr": (0, 1, 1, 1, 2),
}

#: Texts of each code in lower case, without the words of _FRAME.
#: Rechtschaffen and Kales' stages 3 and 4 are both N3 (Iber et al. 2007).
_TEXTS = {
    0: ("w", "wake", "wach", "awake", "s0", "wk"),
    1: ("1", "n1", "nrem1", "s1"),
    2: ("2", "n2", "nrem2", "s2"),
    3: ("3", "4", "n3", "n4", "nrem3", "nrem4", "s3", "s4"),
    4: ("r", "rem"),
    UNSCORED: ("?", "unscored", "movement time"),
}
#: "Sleep stage 2", "SLEEP-S2", "Stage 2 sleep|2" and "Stadium 2" are stage 2.
_FRAME = re.compile(
    r"(sleep stage|sleep-|stage |stadium )?\s*(?P<stage>.*?)( sleep)?(\|\d+)?", re.DOTALL
)
_CODES = {text: code for code, texts in _TEXTS.items() for text in texts}

#: What missing values look like as text, n/a in BIDS.
MISSING = ["nan", "NaN", "None", "NaT", "<NA>", "n/a"]


def scheme_names(scheme):
    """Names of a scheme's stages in the order of their codes.

    Parameters
    ----------
    scheme : {"aasm", "wldr", "wnr"}
        Five stages (W, N1, N2, N3, REM), four (W, light, deep, R) or three (W, N, R).

    Returns
    -------
    tuple of str
    """
    if scheme not in list(SCHEMES):
        raise ValueError(f"Unknown stage scheme {scheme!r}; known: {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]


def is_unscored(y):
    """Mark the labels of epochs that nobody has scored.

    Parameters
    ----------
    y : array-like of shape (n_epochs,)
        Codes or names.

    Returns
    -------
    ndarray of bool, shape (n_epochs,)
    """
    y = np.asarray(y)
    if y.dtype.kind == "S":
        y = y.astype(str)
    return np.asarray(np.isin(y, _UNSCORED_TEXTS) | (y == UNSCORED), dtype=bool)


def check_present(values, name):
    """Take a column, such as one of people, as an array; refuse what misses values."""
    column = np.asarray(values)
    missing = np.ma.is_masked(values) or pd.isna(column).any()
    if column.dtype.kind not in "iubf":
        missing |= np.isin(np.asarray(column, dtype=str), MISSING).any()
    if missing:
        raise ValueError(f"{name} has missing values: leave such rows out, or name them.")
    return column


def as_seconds(onset):
    """Take onsets as numbers, also of durations of NumPy or pandas, and refuse dates."""
    column = np.asarray(onset)
    if column.dtype.kind == "m":
        return column / np.timedelta64(1, "s")
    if column.dtype == object:
        given = [
            v.total_seconds() if hasattr(v, "total_seconds") else v for v in column.flat
        ]
        column = np.array(given).reshape(column.shape)
    try:
        if column.dtype.kind != "M":
            return column.astype(float)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"onset counts seconds from the recording's start; given {column.flat[0]!r}. Of dates: "
        "(pandas.to_datetime(dates) - start).total_seconds()."
    )


def as_utc(date):
    """Take a recording's date as MNE has it: the clock on the wall, called UTC."""
    if date is None or date.tzinfo is None:
        return date and date.replace(tzinfo=UTC)
    if date.utcoffset():
        raise ValueError(
            f"meas_date={date} is of another time zone than MNE's, which is always UTC. Give the "
            "clock on the wall: meas_date.replace(tzinfo=datetime.UTC)."
        )
    return date


def left_unscored(y, classes=None):
    """Mark the unscored labels of a training set, where -1 may be one of two classes."""
    # Where -1 and 1 are all the labels, these are two classes in scikit-learn's old codes,
    # unless ``classes`` (a scheme or a list) has no -1: then stage 1 alone was scored.
    y = np.asarray(y)
    only_two = y.dtype.kind in "if" and np.array_equal(np.unique(y), [UNSCORED, 1])
    if only_two and (classes is None or UNSCORED in list(classes)):
        return np.zeros(len(y), dtype=bool)
    return is_unscored(y)


def stage_labels(classes):
    """List the labels of a scheme, or of a list, in the order of their codes."""
    return list(scheme_names(classes) if isinstance(classes, str) else classes)


def column_labels(classes, y):
    """Labels of the columns of ``predict_proba`` where ``y`` is what a stager was fitted to."""
    labels = stage_labels(classes)
    if isinstance(labels[0], str) and np.asarray(y).dtype.kind not in "SUO":
        return labels  # of codes, which are in order
    if isinstance(classes, str):
        return sorted(labels)
    if labels != sorted(labels):
        raise ValueError(
            f"Columns of predict_proba are in sorted order; given classes={labels}. Put both "
            "columns and labels in the order of stager.classes_."
        )
    return labels


def sleep_order(labels):
    """Places of the labels of a scheme in the order of its codes; of others, as they are."""
    labels = np.asarray(labels).tolist()
    for stages in SCHEMES.values():
        if set(labels) <= set(stages):
            return np.argsort([stages.index(label) for label in labels])
    return np.arange(len(labels))


def warn_of_shift(codes, n_stages, argument="y"):
    """Warn where the codes of a scheme begin at 1, as they do where wake is 1."""
    if np.array_equal(codes, range(1, n_stages)):
        warn(
            f"{argument} holds every code but 0, which is wake. If 1 is wake there, give "
            f"{argument} - 1, with -1 where unscored."
        )


def stage_codes(y, labels, argument):
    """Places of scored stages among the labels; of names in their scheme's order, codes too."""
    place = {label: code for code, label in enumerate(labels)}
    names = all(isinstance(label, str) for label in labels)
    if names and (sleep_order(labels) == np.arange(len(labels))).all():
        place |= {code: code for code in range(len(labels))}
    given, inverse = np.unique(y, return_inverse=True)
    unknown = [label for label in given.tolist() if label not in place]
    if unknown:
        raise ValueError(
            f"{argument} holds {unknown}, not among the classes {labels}: give classes=."
        )
    return np.array([place[label] for label in given.tolist()])[inverse]


def to_scheme(y, scheme):
    """Merge AASM codes into a coarser scheme.

    Parameters
    ----------
    y : array-like of int, shape (n_epochs,)
        AASM codes (0 W, 1 N1, 2 N2, 3 N3, 4 REM), -1 where unscored.
    scheme : {"aasm", "wldr", "wnr"}
        The scheme that is wanted.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)

    Raises
    ------
    ValueError
        If the scheme or a code is unknown.

    Examples
    --------
    >>> from skleepkd.stages import to_scheme
    >>> to_scheme([0, 1, 2, 3, 4, -1], "wldr")
    array([ 0,  1,  1,  2,  3, -1])
    """
    scheme_names(scheme)
    y = np.asarray(y)
    if y.dtype.kind not in "iu" or np.any((y < UNSCORED) | (y > 4)):
        raise ValueError(
            f"to_scheme takes AASM codes 0 to 4, and -1 where unscored; given {np.unique(y)}."
        )
    table = np.array(_FROM_AASM[scheme] + (UNSCORED,), dtype=np.int64)
    return table[y]  # -1 picks the last entry, which is UNSCORED


def stage_of_text(description):
    """AASM code of an annotation's text.

    Understands the texts of Sleep-EDF and MASS ("Sleep stage W", "Sleep stage 4",
    "Movement time"), of RemLogic ("SLEEP-S2") and the NSRR ("Stage 2 sleep|2"), plain names
    and German ones ("Wach"); Rechtschaffen and Kales' stages 3 and 4 become N3, movement
    time and "?" become unscored.

    Parameters
    ----------
    description : str

    Returns
    -------
    int or None
        The code, -1 where unscored, or None where the text names no stage.

    Examples
    --------
    >>> from skleepkd.stages import stage_of_text
    >>> stage_of_text("Sleep stage 4"), stage_of_text("Movement time"), stage_of_text("Lights off")
    (3, -1, None)
    """
    return _CODES.get(shortened(description))


def as_annotations(scoring):
    """Take a hypnogram as annotations."""
    return scoring.to_annotations() if hasattr(scoring, "to_annotations") else scoring


def check_texts(annotations, *, epoch=EPOCH_SECONDS):
    """Refuse digits that are codes, and warn of long annotations that are no known stage."""
    texts = [str(text) for text in annotations.description]
    stages = [stage_of_text(text) is not None for text in texts]
    scored = annotations.duration[np.array(stages, bool) & (annotations.duration > 0)]
    shortest = min(epoch, np.median(scored)) if len(scored) else epoch
    covered = Counter()
    for duration, text in zip(annotations.duration, texts, strict=True):
        if duration >= shortest - BORDER:
            covered[text] += max(1, int((duration + BORDER) // epoch))
    digits = {shortened(text): text for text in covered if shortened(text).isdecimal()}
    if "0" in digits and len(digits) > 1:
        raise ValueError(
            f"Annotations {sorted(digits.values())}: of digits, 4 is deep sleep (Rechtschaffen "
            'and Kales) and 0 nothing. Name codes by np.array(["W", "N1", "N2", "N3", '
            '"REM"])[codes].'
        )
    unread = [(text, n) for text, n in covered.most_common() if stage_of_text(text) is None]
    if unread:
        listed = ", ".join(f"{text!r} (epochs: {n})" for text, n in unread)
        warn(
            f"Annotations not read as stages, though they last an epoch or longer: {listed}. "
            "If they are, rename them to W, N1, N2, N3, REM or ? by annotations.rename."
        )


def scored_pieces(annotations, where="The annotations", names=None):
    """List starts, stops and codes of stages in order; none overlaps a different one.

    ``names``: what errors call texts that stand for others.
    """
    columns = (annotations.onset, annotations.duration, annotations.description)
    stages = [
        (float(start), float(start + duration), stage_of_text(text), str(text))
        for start, duration, text in zip(*columns, strict=True)
        if stage_of_text(text) is not None
    ]
    pieces = sorted(piece for piece in stages if piece[1] > piece[0])
    if stages and not pieces:
        raise ValueError(
            f"{where}: stages last 0 s, so that none covers an epoch. If each lasts 30 s: "
            "mne.Annotations(a.onset, 30.0, a.description), a being the annotations."
        )
    reach, code, text = -np.inf, None, None
    for start, stop, other, name in pieces:
        if start < reach - BORDER and other != code:
            text, name = ((names or {}).get(each, each) for each in (text, name))
            raise ValueError(
                f"{where}: stages overlap at {start:g} s, {text!r} and {name!r}. Leave one of "
                "two scorers out: annotations[keep], keep marking the others."
            )
        if stop > reach or other != code:
            reach, code, text = stop, other, name
    return [piece[:3] for piece in pieces]


def is_finer(pieces, epoch=EPOCH_SECONDS):
    """Whether most stages do not last whole epochs, as where each 5 or 20 s is scored."""
    rest = [(stop - start + epoch / 2) % epoch - epoch / 2 for start, stop, _ in pieces]
    return 2 * sum(abs(seconds) > BORDER for seconds in rest) > len(rest)


def scored_onsets(pieces, epoch=EPOCH_SECONDS):
    """Onsets of the whole epochs in annotated stages; an annotation's own where one begins."""
    finer, onset = is_finer(pieces, epoch), []
    cursor = reach = -np.inf
    code = None
    for start, stop, other in pieces:
        goes_on = start <= reach + BORDER and (finer or other == code)
        if not goes_on or abs(start - cursor) <= BORDER:
            cursor = start
        while cursor + epoch <= stop + BORDER:
            onset.append(cursor)
            cursor += epoch
        reach, code = max(reach, stop) if goes_on else stop, other
    return np.array(onset)


def stages_at(annotations, onset, *, epoch=EPOCH_SECONDS):
    """Look up the stage that annotations give to epochs.

    Parameters
    ----------
    annotations : mne.Annotations or Hypnogram
        Scored stages; other annotations are ignored. A stage counts for the epochs
        that lie wholly inside it, or inside annotations of it that touch; borders may be
        0.1 s off. Where most annotations do not last whole epochs (every 5 or 20 s was
        scored), an epoch that is scored throughout has the stage of more than half of it.
    onset : array-like of shape (n_epochs,)
        Onsets of the epochs in seconds, on the annotations' clock.
    epoch : float, default=30.0
        Length of an epoch in seconds.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
        AASM codes, -1 where no annotation covers the epoch.

    Raises
    ------
    ValueError
        If different stages overlap, all last 0 s, or 0 is among stages that are digits:
        they are codes, not texts.

    Warns
    -----
    UserWarning
        If annotations as long as stages name no known stage.
    """
    annotations = as_annotations(annotations)
    check_texts(annotations, epoch=epoch)
    pieces = scored_pieces(annotations)
    onset = as_seconds(onset)
    y = np.full(len(onset), UNSCORED, dtype=np.int64)
    seconds = np.zeros((6, len(onset)))  # of each code in each epoch; the last is UNSCORED
    start = reach = -np.inf
    for k, (begin, stop, code) in enumerate(pieces):
        goes_on = k and code == pieces[k - 1][2] and begin <= reach + BORDER
        start, before = (start, reach) if goes_on else (begin, begin)
        reach = max(before, stop)
        y[(onset >= start - BORDER) & (onset + epoch <= reach + BORDER)] = code
        shared = np.minimum(onset + epoch, reach) - np.maximum(onset, before)
        seconds[code] += shared.clip(min=0)
    if is_finer(pieces, epoch):
        most = seconds.argmax(axis=0)
        clear = seconds.max(axis=0, initial=0) > epoch / 2 + 1e-3
        clear &= seconds.sum(axis=0) >= epoch - BORDER
        y = np.where(clear, np.where(most == 5, UNSCORED, most), UNSCORED)
    return y


def shortened(text):
    """Take the stage out of a text such as "Sleep stage 2", in lower case."""
    return _FRAME.fullmatch(str(text).strip().casefold())["stage"].strip()
