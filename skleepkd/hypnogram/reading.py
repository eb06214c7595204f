"""From a file of a scoring to a hypnogram."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from skleepkd.hypnogram.formats import read_scoring
from skleepkd.hypnogram.hypnogram import Hypnogram
from skleepkd.hypnogram.names import read_names, stages_of_texts
from skleepkd.stages import (
    BORDER,
    EPOCH_SECONDS,
    SCHEMES,
    UNSCORED_NAME,
    as_utc,
    is_finer,
    scored_onsets,
    scored_pieces,
    stages_at,
)
from skleepkd.warn import warn

_DAY = 86400


def read_hypnogram(
    path, *, scorer=None, codes=None, epoch=None, start=None, meas_date=None
):
    r"""Read the scoring of a night as programs of laboratories write it.

    What a file is, is seen by its content: EDF+ annotations; tables with a line of columns
    (BIDS events, YASA's); one stage a line, as names or codes; Visbrain's text, whose numbers
    are ends of stages, and its samples beside a description; Elan's ``.hyp``; XML of
    Compumedics Profusion and the NSRR; the event export of RemLogic and the sleep profile of
    Domino as text.

    Parameters
    ----------
    path : path-like
    scorer : str, optional
        Of a table the column of stages, or the end of its name: ``"hum"`` for
        ``stage_hum``. Required where the columns are one for each scorer.
    codes : dict, optional
        What the file's words or codes mean, such as ``{"Dösen": "N1", 8: "?"}``; it wins over
        what is known of them. Digits are otherwise AASM codes 0 to 4, or Rechtschaffen and
        Kales' if a 5 is among them (4 is deep sleep, 5 is REM).
    epoch : float, optional
        Length of an epoch in seconds. By default what the file says: 30 s, or 20 s if
        its stages last multiples of that. Of one stage a line, 30 s. Stages of other
        lengths become epochs of 30 s as :func:`skleepkd.stages.stages_at` has it.
    start : float, optional
        Seconds from the recording's first sample to where the file counts from, or its
        first line, such as "lights off". By default the clock says, or 0.
    meas_date : datetime.datetime, optional
        When the recording began, ``raw.info["meas_date"]``: onsets count from there, where
        the file has clock times; of those without a date, from 6 h before to 18 h after.
        By default they count from the file's own beginning.

    Returns
    -------
    Hypnogram
        Without probabilities. "?" where unscored: movement, artefact, lights on and the
        like. Where nothing is scored there is no epoch. ``meas_date`` is the one given, or
        the file's own where it tells one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of these, damaged, cut short or empty; a word or code is unknown; stages
        overlap or are out of order; it does not tell how long its stages last or whose they
        are; or its clock is more than a day from ``meas_date``, in each reading of a date.

    Warns
    -----
    UserWarning
        If codes may be meant in two ways, a clock has no date, the scoring begins before the
        recording, or lines are passed over.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from skleepkd import read_hypnogram
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "night.txt"
    ...     n_bytes = path.write_text("0\n1\n2\n3\n4\n5\n0\n")
    ...     night = read_hypnogram(path)
    >>> night.stages.tolist()
    ['W', 'N1', 'N2', 'N3', 'N3', 'REM', 'W']
    """
    path = Path(path)
    if epoch is not None and not 0 < epoch < np.inf:
        raise ValueError(f"epoch is the length of an epoch in seconds; given {epoch!r}.")
    meas_date = as_utc(meas_date)
    try:
        scoring = read_scoring(path, scorer)
        return _night(scoring, path, codes or {}, epoch, start, meas_date)
    except (OSError, Warning):  # warnings may be errors
        raise
    except Exception as error:  # parsers of damaged files raise anything
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = f"{kind}{error}".rstrip(".")
        raise ValueError(f"{path} cannot be read as a scoring: {reason}.") from error


def _night(scoring, path, codes, epoch, start, meas_date):
    """Make a hypnogram of what a file says."""
    texts = [str(text).strip() for text in scoring.texts]
    if not texts:
        raise ValueError("it holds no stages")
    begin, length = _times(scoring, epoch)
    if start is None and scoring.lights_off:
        raise ValueError(
            f"it counts from 0, and a file beside it has Lights Off at {scoring.lights_off:g} s. "
            f"If it counts from there: start={scoring.lights_off:g}; if from the recording's "
            "first sample: start=0"
        )
    found = stages_of_texts(texts, [scoring.codes, codes], path, events=scoring.events)
    known = np.array(
        [
            # What marks a moment, and is no stage, scores nothing.
            found[text] is not None and (seconds > 0 or found[text] != UNSCORED_NAME)
            for text, seconds in zip(texts, length, strict=True)
        ]
    )
    unknown = [text for text in found if found[text] is None]
    if scoring.events:
        unknown = _unread(texts, begin, length, known, epoch or EPOCH_SECONDS)
    if unknown:
        listed = ", ".join(f"{text!r}: ..." for text in unknown[:12])
        raise ValueError(
            f"unknown stages {unknown[:12]}. Say which they are (W, N1, N2, N3, REM, or ? where "
            f"unscored): codes={{{listed}}}"
        )
    if not known.any():
        raise ValueError(f"it holds no stages, but {sorted(found)[:12]}")
    begin, length = begin[known], length[known]
    if not (length > 0).all():
        raise ValueError(
            f"{(~(length > 0)).sum()} of {len(length)} stages last 0 s, or it is not told how "
            "long. If each lasts 30 s: epoch=30"
        )
    scheme, names = read_names(np.array([found[text] for text in texts])[known])
    onset, stages, epoch = _epochs(names, scheme, begin, length, epoch)
    ahead, meas_date = _ahead(scoring.began, start, meas_date, epoch, path)
    night = Hypnogram.from_stages(
        stages, onset=onset + ahead, epoch=epoch, meas_date=meas_date
    )
    # W and R alone do not tell the scheme.
    night.stages, night.classes = stages, np.array(SCHEMES[scheme])
    return night


def _times(scoring, epoch):
    """Seconds from the file's beginning to each text, and how long it lasts."""
    n, length = len(scoring.texts), scoring.durations
    if length is None:
        length = epoch or EPOCH_SECONDS
        if not epoch and n * length > _DAY:
            raise ValueError(
                f"{n} epochs of 30 s last {n * length / 3600:.0f} h. Of stages every second: "
                "epoch=1, every 5 s: epoch=5"
            )
    length = np.broadcast_to(np.asarray(length, float), n)
    begin = (
        np.arange(n) * length if scoring.start is None else np.asarray(scoring.start, float)
    )
    if epoch:
        length = np.where(length > 0, length, epoch)
    if not np.isfinite(begin).all():
        raise ValueError("some stages have no onset")
    span = np.ptp([begin, begin + np.nan_to_num(length)])
    if not span <= 7 * _DAY:
        raise ValueError(f"its stages span {span / _DAY:g} days, which is no night")
    return begin, length


def _unread(texts, begin, length, known, epoch):
    """List texts as long as stages that stand where no stage is; others are events."""
    unknown = {}
    for k in np.flatnonzero(~known & (length >= epoch - BORDER)):
        stop = np.minimum(begin[k] + length[k], (begin + length)[known])
        shared = stop - np.maximum(begin[k], begin[known])
        if shared.clip(min=0).sum() < length[k] / 2:
            unknown[texts[k]] = None
    return list(unknown)


def _epochs(names, scheme, begin, length, epoch):
    """Onsets and stages of the whole epochs, and the length of an epoch."""
    import mne

    # As many AASM stages stand for those of a coarser scheme while epochs are cut.
    words = dict(zip(SCHEMES[scheme], SCHEMES["aasm"], strict=False))
    stages = [words.get(name, name) for name in names.tolist()]
    annotations = mne.Annotations(begin, length, stages)
    own = {word: name for name, word in words.items()}
    pieces = scored_pieces(annotations, "in it", own)
    if epoch and np.median(length) > epoch and is_finer(pieces, epoch):
        raise ValueError(
            f"its stages last {np.median(length):g} s, no whole epochs of {epoch:g} s"
        )
    if epoch is None:
        epoch = 20.0 if is_finer(pieces) and not is_finer(pieces, 20.0) else EPOCH_SECONDS
    onset = scored_onsets(pieces, epoch)
    if not len(onset):
        raise ValueError(f"no stage lasts an epoch of {epoch:g} s. Give epoch=")
    codes = stages_at(annotations, onset, epoch=epoch)
    return onset, np.array([*SCHEMES[scheme], UNSCORED_NAME])[codes], epoch


def _ahead(began, start, meas_date, epoch, path):
    """Seconds to add to onsets that count from the file's beginning, and the date they get."""
    dates = began if isinstance(began, list) else []
    if meas_date is None and len(dates) == 1:
        return start or 0.0, dates[0] - timedelta(seconds=start or 0)
    if start is not None or began is None:
        return start or 0.0, meas_date
    if meas_date is None:
        warn(
            f"{path} begins at {dates[0] if dates else began:%H:%M:%S}, and tells no date that "
            "can be read in one way only. Onsets count from there; from the recording's start: "
            'read_hypnogram(path, meas_date=raw.info["meas_date"]).'
        )
        return 0.0, None
    if not dates:
        same_day = datetime.combine(meas_date, began, tzinfo=UTC)
        dates = [same_day + timedelta(days=day) for day in (-1, 0, 1)]
    found = [(date - meas_date).total_seconds() for date in dates]
    found = [ahead for ahead in found if abs(ahead) <= _DAY]
    if not found:
        raise ValueError(
            f"it begins at {' or '.join(map(str, dates))}, and the recording at {meas_date}: more "
            "than a day apart. Of the same night with a wrong date, give start= in seconds"
        )
    # A recorder may run since the morning, and hardly ever begins long after the scoring.
    ahead = min(found, key=lambda ahead: not -_DAY / 4 <= ahead < 0.75 * _DAY)
    if ahead < -epoch:
        warn(
            f"{path} begins {-ahead:.0f} s before the recording ({meas_date}), as a scoring of it "
            "hardly does. Where one of the two clocks is wrong, give start=, the seconds from the "
            "recording's first sample to the scoring's beginning."
        )
    return ahead, meas_date
