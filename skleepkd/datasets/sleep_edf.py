"""Sleep-EDF, Sleep Cassette: EEG and EOG of whole days and nights at home."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skleepkd.datasets._edf import open_edf, read_header
from skleepkd.datasets._nights import check_channels, gather, read_filtered
from skleepkd.datasets._sleep_edf_nights import (
    SUBJECTS,
    check_subjects,
    find_nights,
    read_sleep_edf_night,
)
from skleepkd.stages import scheme_names, to_scheme

#: What Phan et al. (2019) read.
_CHANNELS = {"source": ["EEG Fpz-Cz"], "target": ["EOG horizontal"]}

#: An EEG or EOG of a whole day that stays within so many microvolts is written in millivolts.
_SMALLEST_PEAK = 10.0

_DESCR = """\
Sleep-EDF Database Expanded, Sleep Cassette study (PhysioNet).

Epochs of 30 s at {sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz, each recording's mean
taken off. Stages by Rechtschaffen and Kales' rules, 3 and 4 taken as N3.
{channels}
Part of each recording: {part}.
{n_epochs} epochs of {n_persons} persons, {n_nights} nights.

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
):
    """Load Sleep-EDF (Sleep Cassette): EEG and EOG epochs of nights at home.

    The defaults are those of Phan et al. (2019) but for the crop, of which the paper's
    own is ``crop="phan2019"``: 20 subjects, 39 nights, Fpz-Cz as the source and the
    horizontal EOG as the target, 100 Hz, no filter. :func:`fetch_sleep_edf` downloads
    the files.

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
    sfreq : float, default=100.0
        Sampling rate in hertz; the nights (100 Hz) are resampled to another one.
    l_freq, h_freq : float or None, default=None
        Edges of the band-pass filter in hertz, applied before resampling; None leaves
        a side open.
    crop : {"in-bed", "phan2019"}, float or None, default="in-bed"
        Part of each recording of about 22 hours that is kept:

        - "in-bed": from lights off to 30 epochs after the last epoch of sleep;
        - "phan2019": the same, but for three nights in which the paper has 25, 31 and
          32 epochs after sleep;
        - a number: from so many minutes before the first epoch of sleep to as many
          after the last;
        - None: all of it.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The scheme of ``y``, of five, four or three stages, as
        :func:`skleepkd.stages.to_scheme` makes it.
    unscored : bool, default=False
        Whether movement time and epochs scored "?" stay, with y = -1.
    cache : path-like, optional
        Folder where the epochs are kept as memory maps. A later call with the same
        options maps them without reading the signals again. By default they are in
        memory: two channels of the 39 nights take 0.9 GB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Epochs of shape (n_epochs, n_channels, 30 * sfreq) in microvolts, float32.
            ``onset`` is in seconds from the recording's start, so that an epoch left
            out stays a gap.
        y : ndarray of int64, shape (n_epochs,)
            AASM codes 0 W, 1 N1, 2 N2, 3 N3 (R&K 3 and 4), 4 REM; -1 only with
            ``unscored``.
        groups : ndarray of str, shape (n_epochs,)
            The person, such as "sleep-edf-SC400". The nights "sleep-edf-SC4001" and
            "sleep-edf-SC4002" are the same person's.
        DESCR : str
            What was loaded.

    Raises
    ------
    FileNotFoundError
        If no night is there, a subject is not, or one of a night's two files is missing.
    ValueError
        If a file is cut short or damaged, a channel is missing, the two files of a
        night do not begin at the same time, stages overlap or go on for more than 30 s
        after the recording's end, or the part to keep is empty.

    Warns
    -----
    UserWarning
        If a stage is unknown (its epochs count as unscored), or an EEG or EOG stays
        within 10 microvolts: it is then taken to be in millivolts, as in the paper.

    Notes
    -----
    **The end of every crop but None comes from the labels**, also in test nights: of a
    person whose stages are not known it cannot be told. Scores depend on the crop, as it
    decides how much waking there is; only those of the same crop compare. With "in-bed"
    the 39 nights have 38,152 scored epochs, with "phan2019" 38,150, as in the paper.

    Lights off is a clock time in the study's list, which MNE brings along. The mean that
    is taken off is that of the whole recording, day and night, as in the paper.

    Examples
    --------
    >>> from skleepkd.datasets import SleepEdfFolds, load_sleep_edf
    >>> cohort = load_sleep_edf("sleep-edfx", crop="phan2019")           # doctest: +SKIP
    >>> eog = load_sleep_edf("sleep-edfx", channels=["EOG horizontal"])  # doctest: +SKIP
    >>> folds = SleepEdfFolds()                                          # doctest: +SKIP
    >>> stager = SleepStager("UTime", validation=folds)                  # doctest: +SKIP
    >>> cross_validate(stager, cohort.X, cohort.y, groups=cohort.groups,
    ...                cv=folds)                                         # doctest: +SKIP
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    root = Path(root).expanduser()
    ch_names = check_channels(channels, _CHANNELS)
    if not sfreq > 0:
        raise ValueError(f"sfreq is a sampling rate in hertz; given {sfreq!r}.")
    nights = []
    for number in find_nights(root, subjects):
        night = read_sleep_edf_night(
            root, number, crop=crop, sfreq=sfreq, modalities=tuple(ch_names)
        )
        nights.append(night)
    wanted = [name for names in ch_names.values() for name in names]
    for night in nights:
        labels = read_header(night.files[0]).units
        missing = [name for name in wanted if name not in labels]
        if missing:
            raise ValueError(
                f"{night.recording} has no channel {', '.join(missing)}. It has "
                f"{', '.join(labels)}."
            )
    options = {"sfreq": float(sfreq), "l_freq": l_freq, "h_freq": h_freq}
    X, y, _ = gather(
        nights,
        partial(_read_signals, ch_names=ch_names, **options),
        name="sleep-edf",
        sfreq=sfreq,
        ch_names=ch_names,
        unscored=unscored,
        cache=cache,
        options={"channels": ch_names, **options},
    )
    parts = {
        "in-bed": "in bed, lights off to 30 epochs after sleep",
        "phan2019": "in bed, as in Phan et al. (2019)",
        None: "all of it",
    }
    descr = _DESCR.format(
        **options,
        channels="\n".join(
            f"{modality.capitalize()}: {', '.join(names)}."
            for modality, names in ch_names.items()
        ),
        part=parts.get(crop, f"{crop} minutes before sleep to as many after it"),
        n_epochs=len(X),
        n_persons=len({night.person for night in nights}),
        n_nights=len(nights),
    )
    return Bunch(X=X, y=to_scheme(y, classes), groups=X.subject, DESCR=descr)


def fetch_sleep_edf(path=None, *, subjects=None, **options):
    """Download Sleep-EDF (Sleep Cassette) where it is not there yet, and load it.

    MNE downloads (:func:`mne.datasets.sleep_physionet.age.fetch_data`) and checks what
    it downloads. A night takes about 50 MB.

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
        If a file cannot be downloaded, or is not what MNE's list of sums says. Nothing is
        left of it; files that are complete stay, so that the call is simply repeated.
    ValueError
        If there is no such subject.

    Examples
    --------
    >>> from skleepkd.datasets import fetch_sleep_edf
    >>> cohort = fetch_sleep_edf(subjects=[0, 1])                # doctest: +SKIP
    """
    from mne.datasets.sleep_physionet import age

    subjects = list(SUBJECTS) if subjects is None else check_subjects(subjects)
    try:
        # Nights that the study lacks are no error, subjects have been checked.
        files = age.fetch_data(
            subjects,
            recording=(1, 2),
            path=None if path is None else str(Path(path).expanduser()),
            on_missing="ignore",
        )
    except (OSError, ValueError) as error:  # those of requests; pooch's, of another sum
        raise OSError(
            f"Sleep-EDF could not be downloaded: {error} Files that are complete stay; call "
            "again to go on. load_sleep_edf reads a folder of files that were had otherwise."
        ) from error
    return load_sleep_edf(Path(files[0][0]).parent, subjects=subjects, **options)


def _read_signals(night, out, *, ch_names, **options):
    """Fill the epochs of a night."""
    labels = sorted({name for names in ch_names.values() for name in names})
    raw = open_edf(night.files[0], labels).load_data(verbose="ERROR")
    peaks = dict(zip(raw.ch_names, 1e6 * np.abs(raw.get_data()).max(axis=1), strict=True))
    small = [
        label
        for label in labels
        # The muscles' signal is an envelope of few microvolts.
        if label.startswith(("EEG", "EOG")) and 0 < peaks[label] <= _SMALLEST_PEAK
    ]
    if small:
        warnings.warn(
            f"{night.files[0]}: {', '.join(small)} stays within {_SMALLEST_PEAK:g} "
            "microvolts by the header's unit; it is taken to be in millivolts.",
            stacklevel=5,
        )
        raw.apply_function(lambda signal: 1000 * signal, picks=small)
    raw.apply_function(lambda signal: signal - signal.mean(), picks=labels)
    return read_filtered(raw, night, out, ch_names=ch_names, **options)
