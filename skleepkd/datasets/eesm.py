"""Ear-EEG Sleep Monitoring 2017: nine nights of ear-EEG and partial polysomnography."""

from functools import partial
from pathlib import Path

import numpy as np

from skleepkd.datasets import checks, loading
from skleepkd.edf import errors_naming
from skleepkd.preprocessing import (
    EAR_ELECTRODES,
    SCALP_DERIVATIONS,
    ear_derivations,
    reject_ear_electrodes,
    scalp_derivations,
)
from skleepkd.stages import EPOCH_SECONDS, UNSCORED

SFREQ = 200.0

#: AASM code of each code of the scorings; 6 "A", 7 Artefact and 8 Unscored are no stages.
_STAGES = {1: 0, 2: 4, 3: 1, 4: 2, 5: 3, 6: UNSCORED, 7: UNSCORED, 8: UNSCORED}

_CH_NAMES = {"source": list(SCALP_DERIVATIONS), "target": ["LR", "LE", "RE"]}

_DESCR = """\
Ear-EEG Sleep Monitoring 2017 (EESM17), OpenNeuro ds004348, CC0.

Nine healthy people slept one night at home with 14 ear electrodes and a partial
polysomnography, 200 Hz; AASM stages of 30 s from Lights Off to Lights On.
The source is scalp EEG, the target ear-EEG.

Mikkelsen, Villadsen, Otto, Kidmose: Automatic sleep staging using ear-EEG.
BioMedical Engineering OnLine 16:111, 2017. doi:10.1186/s12938-017-0400-5

"""


def load_eesm(
    root,
    *,
    subjects=None,
    l_freq=0.2,
    h_freq=42.0,
    rejection=True,
    classes="aasm",
    unscored=False,
    cache=None,
    on_error="raise",
):
    """Load EESM17: scalp and ear epochs of nine nights.

    The derivations are those of Anandakumar et al. (2022, section 3.2): ear LR, LE, RE
    as the target, scalp A1-A2, C3-O1, C4-O2 as the source, at 200 Hz. openneuro-py
    downloads the set: ``openneuro.download(dataset="ds004348", target_dir=root)``.

    Parameters
    ----------
    root : path-like
        The data set's folder, which holds ``sub-001`` to ``sub-009``.
    subjects : list of str, optional
        Folders to read, such as ``["sub-001", "sub-009"]``; all of them by default.
    l_freq, h_freq : float or None, default=0.2 and 42.0
        Edges of the band-pass filter in hertz; None leaves a side open, both None
        leave the signals as they are.
    rejection : bool or dict of str to list of str, default=True
        Ear electrodes that the derivations leave out: True judges them by
        :func:`~skleepkd.preprocessing.reject_ear_electrodes`, over the scored part of
        the night; False keeps all twelve; a dict names them by folder
        (:data:`~skleepkd.preprocessing.PAPER_REJECTIONS` holds the published), and a
        folder that it does not name keeps all. ELB1 and ERB1, which were never
        connected, are not used.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The scheme of ``y``, of five, four or three stages, as
        :func:`skleepkd.stages.to_scheme` makes it.
    unscored : bool, default=False
        Whether epochs without a stage stay, with y = -1.
    cache : path-like, optional
        Folder where the epochs are kept as memory maps (about 1.1 GB for the set). A
        later call with the same options maps them without reading the signals again.
        By default they are in memory.
    on_error : {"raise", "warn"}, default="raise"
        What becomes of a night that cannot be read: an error, or it is left out with a
        warning.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Source and target of shape (n_epochs, 3, 6000) in microvolts, float32;
            onsets in seconds from the start of the recording, not from Lights Off.
        y : ndarray of int64, shape (n_epochs,)
            AASM codes 0 W, 1 N1, 2 N2, 3 N3, 4 REM; -1 only with ``unscored``.
        groups : ndarray of str, shape (n_epochs,)
            The subject, such as "eesm17-sub-001".
        rejected : dict of str to list of str
            The ear electrodes that were left out, by folder.
        left_out : dict of str to str
            Why a night was left out, by its name.
        DESCR : str
            What was loaded.

    Raises
    ------
    FileNotFoundError
        If a folder, a table or a signal is missing.
    ValueError
        If a stage code is unknown, the scoring, the signal and the study's events differ
        by more than 30 s, or a signal is damaged or lacks a channel.

    Warns
    -----
    UserWarning
        If the signal does not cover an epoch of the scoring, which is then left out, or a
        night is left out.

    Notes
    -----
    The scorings count from Lights Off, up to 7,924.9 s into the recording. Rejection and
    derivations come before the filter, which is linear and passes 10 to 35 Hz: the
    signals are those of the paper's order. sub-002 and sub-003 keep the signal inside the
    ``.set`` file, which takes 1.8 to 3.0 GB of memory to read.

    Examples
    --------
    >>> from skleepkd.datasets import load_eesm
    >>> cohort = load_eesm("ds004348", cache="cache")       # doctest: +SKIP
    >>> cohort.X                                            # doctest: +SKIP
    <PairedEpochs: 7410 epochs of 9 subjects, target (3, 6000), source (3, 6000)>
    """
    root = Path(root).expanduser()
    if not isinstance(rejection, bool):
        rejection = {folder: sorted(names) for folder, names in rejection.items()}
        electrodes = {name for names in rejection.values() for name in names}
        known = {f"sub-00{number}" for number in range(1, 10)}
        if not (set(rejection) <= known and electrodes <= set(EAR_ELECTRODES)):
            raise ValueError(
                f"rejection names {rejection}; the subjects are sub-001 to sub-009, the ear "
                f"electrodes are {', '.join(EAR_ELECTRODES)}."
            )
    folders = checks.bids_folders(root, subjects)
    read = partial(_open_derivations, rejection=rejection)
    options = {"sfreq": SFREQ, "l_freq": l_freq, "h_freq": h_freq, "key": rejection}
    options |= {"classes": classes, "unscored": unscored, "cache": cache, "descr": _DESCR}
    cohort = loading.load_nights(
        folders,
        partial(read_eesm_night, root),
        read,
        _CH_NAMES,
        name="eesm17",
        on_error=on_error,
        **options,
    )
    cohort.rejected = {folder: notes["rejected"] for folder, notes in cohort.notes.items()}
    listed = (f"{k} {' '.join(v) or 'none'}" for k, v in cohort.rejected.items())
    cohort.DESCR += f"Rejected ear electrodes: {'; '.join(listed)}.\n"
    return cohort


def read_eesm_night(root, folder):
    """Read the tables of one night, such as "sub-001"."""
    stem = Path(root) / folder / "ses-001" / "eeg" / f"{folder}_ses-001_task-sleep_"
    path = Path(f"{stem}acq-scoring_events.tsv")
    scoring = checks.read_table(path, onset=float, staging=float)
    y = checks.to_stages(scoring["staging"], _STAGES, path)
    steps = EPOCH_SECONDS * np.arange(len(y))
    if not np.allclose(scoring["onset"], steps, atol=1e-3):
        raise ValueError(f"{path}: {len(y)} epochs of 30 s without gaps are expected.")

    path = Path(f"{stem}events.tsv")
    events = checks.read_table(path, onset=float, trial_type=str)
    with errors_naming(path):
        times = events.set_index("trial_type")["onset"]
        off, on, end = times[["Lights Off", "Lights On", "End of Study"]]
    late = off + EPOCH_SECONDS * len(y) - on
    if abs(late) > EPOCH_SECONDS:
        raise ValueError(
            f"{path}: {len(y)} epochs of 30 s from Lights Off ({off:.1f} s) end "
            f"{abs(late):.1f} s {'after' if late > 0 else 'before'} Lights On ({on:.1f} s). "
            "Is the scoring cut short, or another recording's?"
        )
    return loading.Night(
        onset=off + steps,
        y=y,
        files=[Path(f"{stem}eeg.set"), Path(f"{stem}eeg.fdt")],
        subject=folder,
        recording=f"{folder}-ses-001-sleep",
        notes={"seconds": end},
    )


def _open_derivations(night, *, rejection):
    """Scalp and ear derivations of a night; its notes say which electrodes were left out."""
    raw = _open_set(night.files[0].resolve())
    checks.check_recording(
        raw, night.recording, sfreq=SFREQ, duration=night.notes["seconds"]
    )
    if rejection is True:
        stop = min(night.onset[-1] + EPOCH_SECONDS, (raw.n_times - 1) / SFREQ)
        scored = reject_ear_electrodes(raw.copy().crop(night.onset[0], stop))
        raw.info["bads"] = scored.info["bads"]
        del scored  # it may hold the whole night
    elif rejection:
        raw.info["bads"] = rejection.get(night.subject.removeprefix("eesm17-"), [])
    night.notes["rejected"] = list(raw.info["bads"])
    return {"source": scalp_derivations(raw), "target": ear_derivations(raw)}


def _open_set(path):
    """Open the electrodes of an EEGLAB recording, with samples inside or in an .fdt file."""
    import mne

    scalp = sorted({name for pair in SCALP_DERIVATIONS for name in pair.split("-")})
    with errors_naming(path):
        raw = mne.io.read_raw_eeglab(path, verbose="ERROR")
        signals = Path(raw.filenames[0])
        expected = 4 * len(raw.ch_names) * raw.n_times
        if signals.suffix != ".fdt":
            # Signals inside are read, and checked, when they are first asked for.
            raw[:, raw.n_times - 1 :]
        # Of two nights the signal is inside the .set, and the .fdt beside it another recording's.
        elif signals.stat().st_size != expected:
            raise ValueError(
                f"{signals} has {signals.stat().st_size} bytes; {len(raw.ch_names)} channels "
                f"of {raw.n_times} samples need {expected}"
            )
        return raw.pick([*scalp, *EAR_ELECTRODES])
