"""Sleep-EDF, Sleep Cassette: EEG and EOG of whole days and nights at home."""

import math
from datetime import datetime
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut

from skleepkd.datasets import checks, loading
from skleepkd.edf import open_edf, read_header
from skleepkd.stages import BORDER, EPOCH_SECONDS, scored_pieces, stage_of_text, stages_at
from skleepkd.warn import warn

#: What Phan et al. (2019) read.
_CHANNELS = {"source": ["EEG Fpz-Cz"], "target": ["EOG horizontal"]}

#: An EEG or EOG of a whole day that stays within so many microvolts is written in millivolts.
_SMALLEST_PEAK = 10.0

#: The subjects of Phan et al. (2019), of 0 to 82; these of them do not exist.
_SUBJECTS = range(20)
_ABSENT = {39, 68, 69, 78, 79}

#: Epochs in bed after the last one of sleep where they are not 30 in the published code.
_AFTER_SLEEP_2019 = {"SC4001": 25, "SC4081": 32, "SC4092": 31}

#: Subjects that validate in each fold of Phan et al.'s code, counted from 1. Fold k tests
#: subject k.
_VALIDATION = """
3 10 11 14, 4 17 18 19, 1 13 15 17, 9 11 15 20, 9 11 13 18, 9 14 17 20, 1 3 10 17,
6 15 18 20, 3 11 12 17, 5 13 14 19, 1 3 4 10, 8 9 11 19, 1 8 14 18, 1 3 16 20, 1 8 9 14,
3 5 6 14, 3 10 14 16, 2 6 9 15, 6 13 15 20, 1 4 7 18
"""
_NAMES = [f"sleep-edf-SC4{number:02d}" for number in _SUBJECTS]

_DESCR = """\
Sleep-EDF Database Expanded, Sleep Cassette study (PhysioNet).

Epochs of 30 s, each recording's mean taken off. Stages by Rechtschaffen and Kales' rules,
3 and 4 taken as N3.

Kemp, Zwinderman, Tuk, Kamphuisen, Oberye: Analysis of a sleep-dependent neuronal feedback
loop: the slow-wave microcontinuity of the EEG. IEEE Transactions on Biomedical Engineering
47(9):1185-1194, 2000. doi:10.1109/10.867928

"""


def load_sleep_edf(
    root,
    *,
    subjects=None,
    channels=None,
    sfreq=100.0,
    l_freq=None,
    h_freq=None,
    crop="in-bed",
    classes="aasm",
    unscored=False,
    cache=None,
    on_error="raise",
):
    """Load Sleep-EDF (Sleep Cassette): EEG and EOG epochs of nights at home.

    The defaults are those of Phan et al. (2019) and their published code but for the crop,
    of which the code's own is ``crop="phan2019"``: 20 subjects, 39 nights, Fpz-Cz as the
    source and the horizontal EOG as the target, 100 Hz, no filter.
    :func:`fetch_sleep_edf` downloads the files.

    This loader has been tested with the experts' real annotations and with signals
    written for the test, **not with the real signals**.

    Parameters
    ----------
    root : path-like
        The folder of the files ``SC4001E0-PSG.edf``, ``SC4001EC-Hypnogram.edf``, ..., or
        the one that holds them in ``sleep-cassette``.
    subjects : list of int, optional
        Subjects to read, 0 to 82 as in the file names (SC4, two digits of the subject,
        the night). By default those of 0 to 19 that are there.
    channels : dict or list of str, optional
        Channels by modality, as the files name them; a list is a target without a
        source. By default ``{"source": ["EEG Fpz-Cz"], "target": ["EOG horizontal"]}``.
    sfreq, l_freq, h_freq : optional
        As for :func:`load_mass`; the nights' own rate is 100 Hz.
    crop : {"in-bed", "phan2019"}, float or None, default="in-bed"
        Part of each recording of about 22 hours that is kept:

        - "in-bed": from lights off to 30 epochs after the last epoch of sleep;
        - "phan2019": the same, but for three nights in which the code has 25, 31 and
          32 epochs after sleep;
        - a number: from so many minutes before the first epoch of sleep to as many
          after the last;
        - None: all of it.
    classes, unscored, cache, on_error : optional
        As for :func:`load_eesm`. Unscored are "?" and movement time. In memory two
        channels of the 39 nights take 0.9 GB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Epochs of shape (n_epochs, n_channels, 30 * sfreq) in microvolts, float32.
            ``onset`` is in seconds from the recording's start: what is left out is a gap.
        y, groups, left_out, DESCR : ndarrays of shape (n_epochs,), dict, str
            As of :func:`load_eesm`; R&K's stages 3 and 4 are N3. A subject, such as
            "sleep-edf-SC400", may have two nights, "sleep-edf-SC4001" and "...2".

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_mass`, but for what it asks of the length of epochs; a ValueError also
        if the part to keep is empty.

    Warns
    -----
    UserWarning
        As :func:`load_mass`; also if an EEG or EOG stays within 10 microvolts: it is then
        taken to be in millivolts, as in the published code.

    Notes
    -----
    **The end of every crop but None comes from the labels**, also in test nights: where
    stages are not known it cannot be found. Scores depend on the crop, as it decides how
    much waking there is; only those of the same crop compare. With "in-bed" the 39 nights
    have 38,152 scored epochs, with "phan2019" 38,150, as in the code.

    Lights off is a clock time in the study's list, which MNE brings along. The mean that
    is taken off is that of the whole recording, day and night, as in the code.
    """
    root = Path(root).expanduser()
    folder = root / "sleep-cassette" if (root / "sleep-cassette").is_dir() else root
    ch_names = checks.check_channels(channels, _CHANNELS)
    wanted = sorted(set().union(*ch_names.values()))
    if isinstance(crop, str) and crop not in ("in-bed", "phan2019"):
        raise ValueError(f"crop is 'in-bed', 'phan2019', minutes or None; given {crop!r}.")
    numbers = []
    for subject in _SUBJECTS if subjects is None else dict.fromkeys(subjects):
        files = folder.glob(f"SC4{subject:02d}[0-9]*-*.edf")
        found = sorted({path.name[:6] for path in files})
        if not found and subjects is not None:
            raise FileNotFoundError(f"{folder} has no recording of subject {subject}.")
        numbers += found
    if not numbers:
        raise FileNotFoundError(
            f"{folder} holds no 'SC4001E0-PSG.edf' or the like; fetch_sleep_edf downloads them."
        )

    def read_scoring(number):
        night = read_sleep_edf_night(folder, number, crop=crop)
        labels = read_header(night.files[0]).names
        checks.require_channels(f"sleep-edf-{number}", labels, wanted)
        return night

    read = partial(_open_centred, labels=wanted)
    options = {"sfreq": sfreq, "l_freq": l_freq, "h_freq": h_freq, "on_error": on_error}
    options |= {"classes": classes, "unscored": unscored, "cache": cache, "descr": _DESCR}
    cohort = loading.load_nights(
        numbers, read_scoring, read, ch_names, name="sleep-edf", **options
    )
    cohort.DESCR += f"Part of each recording: crop={crop!r}.\n"
    return cohort


def fetch_sleep_edf(path=None, *, subjects=None, **options):
    """Download Sleep-EDF (Sleep Cassette) where it is not there yet, and load it.

    :func:`mne.datasets.sleep_physionet.age.fetch_data` downloads, about 50 MB a night.

    Parameters
    ----------
    path : path-like, optional
        Folder that gets the folder ``physionet-sleep-data``; by default MNE's own, which
        its setting ``PHYSIONET_SLEEP_PATH`` names.
    subjects : list of int, optional
        Subjects, 0 to 82, but for 39, 68, 69, 78 and 79, whom the study lacks; 0 to 19
        by default. Both nights are read; 13, 36 and 52 have one.
    **options
        The other parameters of :func:`load_sleep_edf`.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        As of :func:`load_sleep_edf`.

    Raises
    ------
    OSError
        If a file cannot be downloaded.
    ValueError
        If there is no such subject, or what arrived is not what MNE's list of sums says.
        Nothing is left of it; files that are complete stay: simply repeat the call.
    """
    from mne.datasets.sleep_physionet import age

    subjects = list(_SUBJECTS if subjects is None else subjects)
    if not set(subjects) <= set(range(83)) - _ABSENT:
        raise ValueError(
            f"subjects are 0 to 82, but for {sorted(_ABSENT)}, whom the study lacks; given "
            f"{subjects}."
        )
    path = None if path is None else str(Path(path).expanduser())
    # Nights that the study lacks are no error.
    files = age.fetch_data(subjects, recording=(1, 2), path=path, on_missing="ignore")
    return load_sleep_edf(Path(files[0][0]).parent, subjects=subjects, **options)


def read_sleep_edf_night(folder, number, *, crop="in-bed"):
    """Read the stages of one night, such as "SC4001", of the part that is kept."""
    signals, stages = (_find_file(folder, number, kind) for kind in ("PSG", "Hypnogram"))
    apart = checks.check_start(signals, stages)
    header = read_header(signals)
    y = _read_stages(stages, header.n_records * header.seconds - apart)
    first, stop = _part(y, number, header.start, header.late + apart, crop)
    rows = np.arange(len(y))[first:stop]
    if not len(rows):
        raise ValueError(
            f"{signals}: nothing is left of the recording with crop={crop!r} (from epoch "
            f"{first} to {stop})."
        )
    onset, files = rows * EPOCH_SECONDS + apart, [signals, stages]
    return loading.Night(onset=onset, y=y[rows], files=files, subject=number[:5])


def _find_file(folder, number, kind):
    """Find a file of a recording; what stands between number and kind varies."""
    found = sorted(folder.glob(f"{number}*-{kind}.edf"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"One {number}*-{kind}.edf is expected in {folder}; there are {len(found)}."
        )
    return found[0]


def _read_stages(path, duration):
    """AASM codes of the whole epochs that are recorded or scored, from the scoring's begin."""
    annotations = checks.read_stages(path)
    ends = annotations.onset + annotations.duration
    scored_pieces(annotations, path)
    # "?" up to 24 hours after the start is how many of these files end.
    scored = [stage_of_text(text) >= 0 for text in annotations.description]
    end = max(ends[scored], default=0.0)
    checks.check_end(end, duration, path)
    n_epochs = max(duration // EPOCH_SECONDS, math.ceil((end - BORDER) / EPOCH_SECONDS))
    return stages_at(annotations, EPOCH_SECONDS * np.arange(n_epochs))


def _part(y, number, start, late, crop):
    """First epoch that is kept, and the one after the last."""
    if crop is None:
        return 0, len(y)
    asleep = np.flatnonzero(y > 0)  # 0 is awake, -1 unscored
    if not len(asleep):
        raise ValueError(
            f"sleep-edf-{number} has no epoch of sleep, by which crop={crop!r} finds the "
            "night; take crop=None."
        )
    if not isinstance(crop, str):
        margin = int(crop * 60 // EPOCH_SECONDS)
        return max(asleep[0] - margin, 0), asleep[-1] + 1 + margin
    after = _AFTER_SLEEP_2019.get(number, 30) if crop == "phan2019" else 30
    first = math.ceil((_lights_off(number, start) - late) / EPOCH_SECONDS)
    return first, asleep[-1] + 1 + after


def _lights_off(number, start):
    """Seconds from a recording's start to lights off, at most a day."""
    import pandas as pd

    table = resources.files("mne.datasets.sleep_physionet") / "age_records.csv"
    records = pd.read_csv(table, index_col="fname")["lights off"]
    clock = records[records.index.str.startswith(number)].iloc[0]
    begin = datetime.strptime(start[9:], "%H.%M.%S")
    # The seconds of a difference in time leave whole days out: lights off may be next day.
    return (datetime.strptime(clock, "%H:%M:%S") - begin).seconds


def _open_centred(night, *, labels):
    """Open a recording in microvolts and take each channel's mean off."""
    raw = open_edf(night.files[0], labels).load_data(verbose="ERROR")
    peaks = 1e6 * np.abs(raw.get_data()).max(axis=1)
    small = [
        label
        for label, peak in zip(raw.ch_names, peaks, strict=True)
        # The muscles' signal is an envelope of few microvolts.
        if label.startswith(("EEG", "EOG")) and 0 < peak <= _SMALLEST_PEAK
    ]
    if small:
        warn(
            f"{night.files[0]}: {', '.join(small)} stays within {_SMALLEST_PEAK:g} "
            "microvolts by the header's unit; it is taken to be in millivolts."
        )
        raw.apply_function(lambda signal: 1000 * signal, picks=small)
    return raw.apply_function(lambda signal: signal - signal.mean(), picks=labels)


class SleepEdfFolds(LeaveOneGroupOut):
    """Phan et al.'s (2019) twenty folds of Sleep-EDF: one tests, four validate, 15 train.

    The numbers are the paper's; who validates is in the published code alone.

    One object serves twice. As ``cv=`` it leaves out one subject after the other. As
    ``validation=`` of an estimator it is called with the training subjects and returns
    the four that validate in the fold of the one that is not there. All twenty of "sleep-edf-SC400" to "sleep-edf-SC419" must be there: it raises a
    ValueError otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.datasets import SleepEdfFolds
    >>> folds = SleepEdfFolds()
    >>> subjects = np.array([f"sleep-edf-SC4{number:02d}" for number in range(20)])
    >>> train, test = next(folds.split(subjects, groups=subjects))
    >>> subjects[test].tolist()
    ['sleep-edf-SC400']
    >>> folds(subjects[train])
    ['sleep-edf-SC402', 'sleep-edf-SC409', 'sleep-edf-SC410', 'sleep-edf-SC413']

    """

    def __call__(self, subjects):
        """Return the four of the nineteen training subjects that validate."""
        given = set(np.asarray(subjects).tolist())
        left_out = [place for place, name in enumerate(_NAMES) if name not in given]
        if len(left_out) != 1 or not given <= set(_NAMES):
            raise ValueError(
                f"A fold has 19 of the 20 subjects {_NAMES[0]} to {_NAMES[-1]} in its "
                f"training rows; missing are {[_NAMES[place] for place in left_out]}, "
                f"strangers are {sorted(given - set(_NAMES))}."
            )
        four = _VALIDATION.split(",")[left_out[0]]
        return [_NAMES[int(number) - 1] for number in four.split()]
