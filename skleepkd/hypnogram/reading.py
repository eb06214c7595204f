"""From a file of a scoring to a hypnogram."""

from datetime import datetime, timedelta
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

#: AASM stages that stand for those of a coarser scheme while epochs are cut.
_IN_PLACE = {
    "aasm": SCHEMES["aasm"],
    "wldr": ("W", "N1", "N3", "REM"),
    "wnr": ("W", "N2", "REM"),
}


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
    try:
        scoring = read_scoring(path, scorer)
    except OSError:
        raise
    except Exception as error:  # parsers of damaged files raise anything
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = f"{kind}{error}".rstrip(".")
        raise ValueError(f"{path} cannot be read as a scoring: {reason}.") from error
    if not len(scoring.texts):
        raise ValueError(f"{path} holds no stages.")
    if scorer is not None and not scoring.is_table:
        raise ValueError(f"{path} is no table with a column for scorer={scorer!r}.")
    begin, length = _times(scoring, path, epoch, start)
    texts = np.array(scoring.texts)
    found = stages_of_texts(
        scoring.texts, [scoring.codes, codes or {}], path, events=scoring.events
    )
    known = np.array([found[text] is not None for text in scoring.texts])
    # What marks a moment, and is no stage, scores nothing.
    known &= (length > 0) | np.array(
        [found[text] != UNSCORED_NAME for text in scoring.texts]
    )
    if scoring.events:
        unknown = _unread(texts, begin, length, known, epoch or EPOCH_SECONDS)
    else:
        unknown = [text for text in found if found[text] is None]
    if unknown:
        listed = ", ".join(f"{text!r}: ..." for text in unknown[:12])
        raise ValueError(
            f"{path}: unknown stages {unknown[:12]}. Say which they are (W, N1, N2, N3, REM, or "
            f"? where unscored): codes={{{listed}}}."
        )
    if not known.any():
        raise ValueError(f"{path} holds no stages, but {sorted(found)[:12]}.")
    begin, length, texts = begin[known], length[known], texts[known]
    if not (length > 0).all():
        raise ValueError(
            f"{path}: {(~(length > 0)).sum()} of {len(length)} stages last 0 s, or it is not told "
            "how long. If each lasts 30 s: epoch=30."
        )
    try:
        scheme, names = read_names(np.array([found[text] for text in texts.tolist()]))
    except ValueError as error:  # of two schemes
        raise ValueError(f"{path}: {error}") from error
    onset, y, epoch = _epochs(names, scheme, begin, length, epoch, path)
    ahead, meas_date = _ahead(scoring.began, start, meas_date, epoch, path)
    night = Hypnogram.from_stages(y, onset=onset + ahead, epoch=epoch, meas_date=meas_date)
    if scheme != "aasm":
        back = dict(zip(_IN_PLACE[scheme], SCHEMES[scheme], strict=True))
        night.stages = np.array(
            [back.get(name, name) for name in night.stages.tolist()], str
        )
        night.classes = np.array(SCHEMES[scheme])
    return night


def _times(scoring, path, epoch, start):
    """Seconds from the file's beginning to each text, and how long it lasts."""
    n = len(scoring.texts)
    lasting = np.full(n, epoch or EPOCH_SECONDS)
    if scoring.start is None:
        if not epoch and lasting.sum() > _DAY:
            raise ValueError(
                f"{path}: {n} epochs of 30 s last {lasting.sum() / 3600:.0f} h. Of stages every "
                "second: epoch=1, every 5 s: epoch=5."
            )
        return lasting[0] * np.arange(n), lasting
    length = lasting if scoring.durations is None else scoring.durations
    if epoch:
        length = np.where(length > 0, length, epoch)
    if not np.isfinite(scoring.start).all():
        raise ValueError(f"{path}: some stages have no onset.")
    span = np.ptp([scoring.start, scoring.start + np.nan_to_num(length)])
    if not span <= 7 * _DAY:
        raise ValueError(
            f"{path}: its stages span {span / _DAY:g} days, which is no night."
        )
    if start is None and scoring.lights_off:
        raise ValueError(
            f"{path} counts from 0, and a file beside it has Lights Off at "
            f"{scoring.lights_off:g} s. If it counts from there: start={scoring.lights_off:g}; if "
            "from the recording's first sample: start=0."
        )
    return scoring.start, length


def _unread(texts, begin, length, known, epoch):
    """List texts as long as stages that stand where no stage is; others are events."""
    unknown = []
    for k in np.flatnonzero(~known & (length >= epoch - BORDER)):
        stop = begin[k] + length[k]
        shared = np.minimum(stop, (begin + length)[known]) - np.maximum(
            begin[k], begin[known]
        )
        if shared.clip(min=0).sum() < length[k] / 2:
            unknown.append(str(texts[k]))
    return list(dict.fromkeys(unknown))


def _epochs(names, scheme, begin, length, epoch, path):
    """Onsets and AASM codes of the whole epochs in stages, and the length of an epoch."""
    import mne

    words = dict(zip(SCHEMES[scheme], _IN_PLACE[scheme], strict=True))
    stages = [words.get(name, name) for name in names.tolist()]
    annotations = mne.Annotations(begin, length, stages)
    pieces = scored_pieces(annotations, path)
    if epoch and np.median(length) > epoch and is_finer(pieces, epoch):
        raise ValueError(
            f"{path}: its stages last {np.median(length):g} s, no whole epochs of {epoch:g} s."
        )
    if epoch is None:
        epoch = 20.0 if is_finer(pieces) and not is_finer(pieces, 20.0) else EPOCH_SECONDS
    onset = scored_onsets(pieces, epoch)
    if not len(onset):
        raise ValueError(f"{path}: no stage lasts an epoch of {epoch:g} s. Give epoch=.")
    return onset, stages_at(annotations, onset, epoch=epoch), epoch


def _ahead(began, start, meas_date, epoch, path):
    """Seconds to add to onsets that count from the file's beginning, and the date they get."""
    meas_date = as_utc(meas_date)
    dates = began if isinstance(began, list) else []
    if start is not None:
        if meas_date is None and len(dates) == 1:
            meas_date = dates[0] - timedelta(seconds=start)
        return start, meas_date
    if began is None:
        return 0.0, meas_date
    if meas_date is None and len(dates) == 1:
        return 0.0, dates[0]
    if meas_date is None:
        clock = dates[0] if dates else datetime(1, 1, 1) + timedelta(seconds=began)
        warn(
            f"{path} begins at {clock:%H:%M:%S}, and tells no "
            "date that can be read in one way only. Onsets count from there; from the "
            'recording\'s start: read_hypnogram(path, meas_date=raw.info["meas_date"]).'
        )
        return 0.0, None
    if dates:
        found = [(date - meas_date).total_seconds() for date in dates]
        found = [ahead for ahead in found if abs(ahead) <= _DAY]
        if not found:
            raise ValueError(
                f"{path} begins at {' or '.join(map(str, dates))}, and the recording at "
                f"{meas_date}: more than a day apart. Of the same night with a wrong date, give "
                "start= in seconds."
            )
    else:
        midnight = meas_date.replace(hour=0, minute=0, second=0, microsecond=0)
        clock = (meas_date - midnight).total_seconds()
        found = [began - clock + day for day in (-_DAY, 0, _DAY)]
    # A recorder may run since the morning, and hardly ever begins long after the scoring.
    ahead = min(found, key=lambda ahead: not -_DAY / 4 <= ahead < 0.75 * _DAY)
    if ahead < -epoch:
        warn(
            f"{path} begins {-ahead:.0f} s before the recording ({meas_date}), as a scoring of it "
            "hardly does. Where one of the two clocks is wrong, give start=, the seconds from the "
            "recording's first sample to the scoring's beginning."
        )
    return ahead, meas_date
