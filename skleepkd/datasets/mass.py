"""Montreal Archive of Sleep Studies: EEG and ECG of 200 nights in five subsets."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skleepkd.datasets._edf import open_edf, read_annotations, read_header
from skleepkd.datasets._nights import (
    Night,
    check_channels,
    choose_recordings,
    gather,
    read_filtered,
    warn_of_unknown,
)
from skleepkd.datasets.mass_split import SUBSET_SIZES
from skleepkd.preprocessing import derive
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, scheme_names, stage_of_text, to_scheme

#: What Joshi et al. (2021) teach and what they teach from.
_CHANNELS = {"source": ["C3-A2"], "target": ["ECG"]}

#: Electrodes of a nominal derivation, in the order of preference. They are recorded
#: against one computed reference (CLE), which their difference takes out. Where a night
#: has neither pair, C3 against the linked ears (LER) takes their place.
_PAIRS = {
    "C3-A2": (("C3", "A2"), ("C4", "A1")),
    "C4-A1": (("C4", "A1"), ("C3", "A2")),
}
_LINKED_EARS = "EEG C3-LER"

#: Lengths of an epoch that the scorers used, in seconds: AASM 30, R&K 20.
_EPOCH_LENGTHS = (20.0, 30.0)

#: Durations and onsets are written as rounded decimals, in seconds.
_TOLERANCE = 0.1

_DESCR = """\
Montreal Archive of Sleep Studies (MASS), cohort 1, on request.

Whole nights of polysomnography, scored by the AASM's rules (30 s) or R&K's (20 s).
Epochs of 20 s are widened to windows of 30 s, 5 s on each side: they overlap by 10 s.
{sfreq:g} Hz, band-pass: {l_freq} to {h_freq} Hz.
{channels}
{n_epochs} epochs of {n_subjects} persons, one night each.

O'Reilly, Gosselin, Carrier, Nielsen: Montreal Archive of Sleep Studies: an open-access
resource for instrument benchmarking and exploratory research. Journal of Sleep
Research 23(6):628-635, 2014. doi:10.1111/jsr.12169
"""


def load_mass(
    root,
    *,
    subsets=(1, 2, 3, 4, 5),
    subjects=None,
    channels=None,
    sfreq=200.0,
    l_freq=None,
    h_freq=None,
    classes="aasm",
    unscored=False,
    cache=None,
):
    """Load MASS: EEG and ECG windows of up to 200 nights.

    The defaults are those of Joshi et al. (2021): one EEG derivation as the source, one
    ECG lead as the target, 200 Hz, no filter. For the source cohort of Phan et al.
    (2019) give ``channels=["C4-A1"], sfreq=100, l_freq=0.3, h_freq=40``.

    MASS is given out on request (http://ceams-carsm.ca/en/mass). This loader follows
    descriptions of the files and has been run on files written after them, **not on the
    real ones**.

    Parameters
    ----------
    root : path-like
        The folder that holds ``SS1_EDF`` to ``SS5_EDF``, in which the signals are
        ``01-0S-NNNN PSG.edf`` and the stages ``01-0S-NNNN Base.edf``.
    subsets : sequence of int, default=(1, 2, 3, 4, 5)
        Subsets to read.
    subjects : list of str, optional
        Recordings to read, such as ``["01-01-0001"]``; by default all of the subsets.
    channels : dict or list of str, optional
        Channels by modality; a list is a target without a source. By default
        ``{"source": ["C3-A2"], "target": ["ECG"]}``. A channel is named by its label in
        the files ("EOG Left Horiz"), which must then be in every night, or by a rule:

        - "C3-A2": C3 minus A2, else C4 minus A1, else C3 against linked ears;
        - "C4-A1": C4 minus A1, else C3 minus A2, else C3 against linked ears;
        - "ECG": lead I, in subset 4 lead II, its sign reversed.
    sfreq : float, default=200.0
        Sampling rate in hertz to which the nights (256 Hz) are resampled.
    l_freq, h_freq : float or None, default=None
        Edges of the band-pass filter in hertz, applied before resampling; None leaves
        a side open.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The scheme of ``y``, of five, four or three stages, as
        :func:`skleepkd.stages.to_scheme` makes it.
    unscored : bool, default=False
        Whether epochs scored "?" stay, with y = -1.
    cache : path-like, optional
        Folder where the epochs are kept as memory maps. A later call with the same
        options maps them without reading the signals' samples again. By default they
        are in memory: two channels of eight hours in epochs of 20 s at 200 Hz take
        69 MB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Windows of shape (n_epochs, n_channels, 30 * sfreq) in microvolts, float32.
            ``onset`` is the window's own, in seconds from the start of the recording:
            5 s before a 20 s epoch begins.
        y : ndarray of int64, shape (n_epochs,)
            AASM codes 0 W, 1 N1, 2 N2, 3 N3 (R&K 3 and 4), 4 REM; -1 only with
            ``unscored``.
        groups : ndarray of str, shape (n_epochs,)
            The person, such as "mass-01-01-0001". Each has one recording, whose name
            is the same.
        derivations : dict of str to dict of str to str
            What each channel is made of, by recording.
        DESCR : str
            What was loaded.

    Raises
    ------
    FileNotFoundError
        If a subset, a recording, or one of its two files is missing.
    ValueError
        If a file is cut short or damaged, a channel is missing, epochs are neither 20
        nor 30 s long or overlap, or the scoring goes on for more than 30 s after the
        recording's end.

    Warns
    -----
    UserWarning
        If a stage is unknown; its epochs count as unscored.

    Notes
    -----
    An epoch's window is cut at its own onset, so gaps in the scoring stay gaps and
    fractions of a second are kept, to the nearest sample. (The code of Joshi et al.
    counts on from the first onset's whole seconds.) A stage that lasts for several
    epochs makes as many rows; one shorter than an epoch makes none. Of a night in
    epochs of 20 s the first and the last are left out, as in both papers. Windows that
    the recording does not cover are left out.

    Joshi et al. scale each window to 0 to 1, before they resample it; here it is a step
    of a pipeline, after it. Both modalities::

        scale = EpochwiseTransformer(sklearn.preprocessing.minmax_scale, {"axis": 1})
        PairedTransformer(source=scale, target=scale)

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.datasets import MassSplit, load_mass
    >>> cohort = load_mass("mass", cache="cache")                 # doctest: +SKIP
    >>> split = MassSplit(cohort.groups)                          # doctest: +SKIP
    >>> test = np.isin(cohort.groups, split.test)                 # doctest: +SKIP
    >>> stager = SleepStager("UTime", validation=split)           # doctest: +SKIP
    >>> stager.fit(cohort.X[~test], cohort.y[~test])              # doctest: +SKIP
    """
    scheme_names(classes)  # a wrong name is found before hours of reading
    root = Path(root).expanduser()
    ch_names = check_channels(channels, _CHANNELS)
    if not sfreq > 0:
        raise ValueError(f"sfreq is a sampling rate in hertz; given {sfreq!r}.")
    nights, weights = [], {}
    for number in _find_recordings(root, subsets, subjects):
        night = read_mass_night(root, number, sfreq=sfreq, modalities=tuple(ch_names))
        labels = read_header(night.files[0]).units
        weights[number] = _find_derivations(number, labels, ch_names)
        nights.append(night)
    options = {"sfreq": float(sfreq), "l_freq": l_freq, "h_freq": h_freq}
    X, y, _ = gather(
        nights,
        partial(_read_signals, weights=weights, ch_names=ch_names, **options),
        name="mass",
        sfreq=sfreq,
        ch_names=ch_names,
        unscored=unscored,
        cache=cache,
        options={"channels": ch_names, **options},
    )
    derivations = {
        f"mass-{number}": {name: _formula(parts) for name, parts in named.items()}
        for number, named in weights.items()
    }
    lines = []
    for modality, names in ch_names.items():
        for name in names:
            counts = Counter(named[name] for named in derivations.values())
            parts = [
                f"{formula} ({n} of {len(nights)} nights)" for formula, n in counts.items()
            ]
            lines.append(f"{modality.capitalize()} {name}: {', '.join(parts)}.")
    descr = _DESCR.format(
        **options,
        channels="\n".join(lines),
        n_epochs=len(X),
        n_subjects=len(nights),
    )
    return Bunch(
        X=X, y=to_scheme(y, classes), groups=X.subject, derivations=derivations, DESCR=descr
    )


def read_mass_night(root, number, *, sfreq=200.0, modalities=("source", "target")):
    """Read the stages of one MASS night, without its signals.

    Parameters
    ----------
    root : path-like
        The folder that holds ``SS1_EDF`` to ``SS5_EDF``.
    number : str
        The recording, such as ``"01-01-0001"``.
    sfreq : float, default=200.0
        Sampling rate in hertz, for the windows' first samples.
    modalities : tuple of str, default=("source", "target")
        What the night is wanted for.

    Returns
    -------
    Night
        With ``onset`` (seconds from the recording's start, of the 30 s windows) and
        ``y`` (AASM codes, -1 where unscored), each of shape (n_epochs,), unscored
        epochs among them.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_mass`.
    """
    folder = Path(root) / f"SS{number[4]}_EDF"
    signals, stages = folder / f"{number} PSG.edf", folder / f"{number} Base.edf"
    duration = read_header(signals).duration
    onset, y, epoch = _read_stages(stages)
    late = onset[-1] + epoch - duration
    if late > EPOCH_SECONDS:
        raise ValueError(
            f"{stages}: the scoring ends {late:.1f} s after the recording, which lasts "
            f"{duration:.1f} s. At most 30 s are allowed: do the two files belong together?"
        )
    side = (EPOCH_SECONDS - epoch) / 2
    if side:
        onset, y = onset[1:-1] - side, y[1:-1]
    first = np.round(onset * sfreq).astype(np.int64)
    inside = first >= 0
    first = first[inside]
    return Night(
        folder=number,
        recording=f"mass-{number}",
        person=f"mass-{number}",
        onset=onset[inside],
        y=y[inside],
        first=dict.fromkeys(modalities, first),
        duration=dict.fromkeys(modalities, duration),
        files=[signals, stages],
    )


def _find_recordings(root, subsets, subjects):
    """Numbers of the recordings to read, of which at least one file is there."""
    subsets = list(subsets)
    if not subsets or not set(subsets) <= set(SUBSET_SIZES):
        raise ValueError(f"subsets are numbers from 1 to 5; given {subsets}.")
    present = []
    for subset in sorted(set(subsets)):
        folder = root / f"SS{subset}_EDF"
        names = {
            path.name.rpartition(" ")[0]
            for kind in ("PSG", "Base")
            for path in folder.glob(f"01-0{subset}-[0-9][0-9][0-9][0-9] {kind}.edf")
        }
        if not names:
            raise FileNotFoundError(
                f"{folder} holds no '01-0{subset}-NNNN PSG.edf'. root is the folder that "
                "holds SS1_EDF, ...; subsets= reads some of them."
            )
        present += sorted(names)
    return choose_recordings(
        subjects, present, name="mass", where=f"the subsets {subsets} of {root}"
    )


def _read_stages(path):
    """Onsets (seconds), AASM codes and length (seconds) of a night's whole epochs."""
    annotations = read_annotations(path)
    rows = [
        (onset, duration, text)
        for onset, duration, text in zip(
            annotations.onset, annotations.duration, annotations.description, strict=True
        )
        if text.strip().casefold().startswith(("sleep stage", "movement time"))
    ]
    if not rows:
        raise ValueError(f"{path} holds no annotations 'Sleep stage ...'.")
    starts, durations, texts = zip(*rows, strict=True)
    written = np.array(durations)[np.array(durations) > 0]
    lengths = written if len(written) else np.diff(starts)
    typical = np.median(lengths) if len(lengths) else np.nan
    epoch = next((s for s in _EPOCH_LENGTHS if abs(typical - s) <= _TOLERANCE), None)
    if epoch is None:
        raise ValueError(
            f"{path}: epochs of 20 or 30 s are expected; the median of {len(lengths)} is "
            f"{typical:g} s."
        )
    onset, y = [], []
    for start, duration, text in rows:
        # A duration that is not written is one epoch's.
        n_epochs = int((duration + _TOLERANCE) // epoch) if duration > 0 else 1
        onset += [start + epoch * number for number in range(n_epochs)]
        y += [stage_of_text(text)] * n_epochs
    warn_of_unknown(texts, path)
    onset = np.array(onset)
    overlap = np.flatnonzero(np.diff(onset) < epoch - _TOLERANCE)
    if len(overlap):
        raise ValueError(
            f"{path}: epochs of {epoch:g} s overlap at {onset[overlap[0]]:.3f} and "
            f"{onset[overlap[0] + 1]:.3f} s. Leave the recording out with subjects=."
        )
    y = [UNSCORED if code is None else code for code in y]
    return onset, np.array(y, dtype=np.int64), epoch


def _find_derivations(number, labels, ch_names):
    """Weights of the files' channels in each channel that is wanted."""
    weights = {}
    for name in [name for names in ch_names.values() for name in names]:
        weights[name] = parts = _weights(name, labels, subset=int(number[4]))
        if not set(parts) <= set(labels):
            raise ValueError(
                f"mass-{number} has no channel for {name!r}: {', '.join(parts)} missing. "
                f"It has {', '.join(labels)}. Choose others (channels=), or name the "
                "recordings to read (subjects=)."
            )
    return weights


def _weights(name, labels, *, subset):
    if name == "ECG":
        return {"ECG ECGII" if subset == 4 else "ECG ECGI": -1.0}
    if name not in _PAIRS:
        return {name: 1.0}
    for pair in _PAIRS[name]:
        plus, minus = (f"EEG {electrode}-CLE" for electrode in pair)
        if plus in labels and minus in labels:
            return {plus: 1.0, minus: -1.0}
    return {_LINKED_EARS: 1.0}


def _formula(parts):
    text = " ".join(f"{'+-'[weight < 0]} {label}" for label, weight in parts.items())
    return text.removeprefix("+ ")


def _read_signals(night, out, *, weights, **options):
    """Fill the windows of a night."""
    labels = sorted({label for parts in weights[night.folder].values() for label in parts})
    derived = derive(open_edf(night.files[0], labels), weights[night.folder])
    return read_filtered(derived, night, out, **options)
