"""Montreal Archive of Sleep Studies: EEG and ECG of 200 nights in five subsets."""

import re
from collections import Counter
from glob import escape, iglob
from itertools import chain
from pathlib import Path

import numpy as np

from skleepkd.datasets import checks, loading
from skleepkd.edf import open_edf, read_header
from skleepkd.preprocessing import derive
from skleepkd.stages import EPOCH_SECONDS, scored_onsets, scored_pieces, stages_at

#: The channels of Joshi et al. (2021).
_CHANNELS = {"source": ["C3-A2"], "target": ["ECG"]}

#: Weights of the electrodes in a nominal derivation, in the order of preference. They are
#: recorded against one computed reference (CLE), which their difference takes out, or
#: against the linked ears (LER).
_C3_A2 = {"EEG C3-CLE": 1.0, "EEG A2-CLE": -1.0}
_C4_A1 = {"EEG C4-CLE": 1.0, "EEG A1-CLE": -1.0}
_LINKED_EARS = {"EEG C3-LER": 1.0}
_DERIVATIONS = {
    "C3-A2": (_C3_A2, _C4_A1, _LINKED_EARS),
    "C4-A1": (_C4_A1, _C3_A2, _LINKED_EARS),
}

#: Durations and onsets are written as rounded decimals, in seconds.
_TOLERANCE = 0.1

#: Of each subset the number of recordings in the complete cohort, and the places in their
#: sorted list, counted from 0, that Joshi et al.'s code holds out to validate and to test.
_SUBSETS = {
    1: (53, (6, 8, 14, 34, 43), (1, 7, 15, 17, 40, 47)),
    2: (19, (7, 8), (0, 3)),
    3: (62, (4, 12, 23, 36, 39, 45), (5, 18, 24, 35, 40, 53, 59)),
    4: (40, (0, 14, 17, 28), (12, 26, 34, 35)),
    5: (26, (7, 9, 21), (1, 2, 22)),
}

_DESCR = """\
Montreal Archive of Sleep Studies (MASS), cohort 1, on request.

Whole nights of polysomnography, scored by the AASM's rules (30 s) or R&K's (20 s).
Epochs of 20 s are widened to windows of 30 s, 5 s on each side: they overlap by 10 s.

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
    on_error="raise",
):
    """Load MASS: EEG and ECG windows of up to 200 nights.

    The defaults are those of Joshi et al. (2021): one EEG derivation as the source, one
    ECG lead as the target, 200 Hz, and no filter as in their code. For the source cohort of
    Phan et al. (2019), filtered as in theirs, give
    ``channels=["C4-A1"], sfreq=100, l_freq=0.3, h_freq=40``.

    MASS is given out on request (http://ceams-carsm.ca/en/mass). This loader follows
    descriptions of the files and has been run on files written after them, **not on the
    real ones**.

    Parameters
    ----------
    root : path-like
        The folder that holds the files, in folders of whatever names (``SS1_EDF``,
        ``SS1/bio`` and ``SS1/annotations``) or in none: the signals are ``01-0S-NNNN
        PSG.edf``, the stages ``01-0S-NNNN Base.edf``, or ``Annotations.edf`` as some
        older copies have it. Capitals do not matter.
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
    classes, unscored, cache, on_error : optional
        As for :func:`load_eesm`. In memory two channels of eight hours in epochs of 20 s
        at 200 Hz take 69 MB.

    Returns
    -------
    cohort : sklearn.utils.Bunch
        X : PairedEpochs
            Windows of shape (n_epochs, n_channels, 30 * sfreq) in microvolts, float32.
            ``onset`` is the window's own, in seconds from the start of the recording:
            5 s before a 20 s epoch begins.
        y, groups, left_out, DESCR : ndarrays of shape (n_epochs,), dict, str
            As of :func:`load_eesm`; R&K's stages 3 and 4 are N3. Each subject, such as
            "mass-01-01-0001", has one recording of that name.
        derivations : dict of str to dict of str to str
            What each channel is made of, by recording.

    Raises
    ------
    FileNotFoundError
        If a subset, a recording, or one of its two files is missing.
    ValueError
        If a file is cut short or damaged or lies in two places, a channel is missing, the
        two files of a night do not begin at the same time, epochs are not of 20 or 30 s,
        different stages overlap, or the scoring ends more than 30 s after the recording.

    Warns
    -----
    UserWarning
        If a stage is unknown (its epochs count as unscored), the recording does not cover
        an epoch, or a night is left out.

    Notes
    -----
    A window is cut at its epoch's own onset, to the nearest sample. (The code of Joshi et
    al. counts on from the first onset's whole seconds.) A stage that lasts for several
    epochs makes as many rows; one shorter than an epoch makes none. As in the code, the
    first and the last window of a night in epochs of 20 s are left out.

    That code scales each window to 0 to 1 before it resamples it. Here
    :class:`~skleepkd.preprocessing.EpochScaler` does it afterwards, as a step of a pipeline.

    Examples
    --------
    >>> from skleepkd.datasets import MassSplit, load_mass
    >>> cohort = load_mass("mass", cache="cache")                 # doctest: +SKIP
    >>> split = MassSplit(cohort.groups)                          # doctest: +SKIP
    >>> test = np.isin(cohort.groups, split.test)                 # doctest: +SKIP
    >>> stager = SleepStager("UTime", validation=split)           # doctest: +SKIP
    >>> stager.fit(cohort.X[~test], cohort.y[~test])              # doctest: +SKIP
    """
    ch_names = checks.check_channels(channels, _CHANNELS)
    files = _find_files(root, subsets)
    where = f"the subsets {subsets} of {root}"
    numbers = checks.choose_recordings(subjects, [*files], prefix="mass-", where=where)

    def read_scoring(number):
        signals = _one_of(files, number, "PSG")
        night = read_mass_night(signals, _one_of(files, number, "Base", "Annotations"))
        labels = read_header(signals).names
        names = chain(*ch_names.values())
        named = {name: _weights(name, labels, int(number[4])) for name in names}
        wanted = sorted(set().union(*named.values()))
        checks.require_channels(f"mass-{number}", labels, wanted)
        night.notes["weights"] = named
        return night

    options = {"sfreq": sfreq, "l_freq": l_freq, "h_freq": h_freq, "on_error": on_error}
    options |= {"classes": classes, "unscored": unscored, "cache": cache}
    cohort = loading.load_nights(
        numbers,
        read_scoring,
        _open_derivations,
        ch_names,
        name="mass",
        descr=_DESCR,
        **options,
    )
    cohort.derivations = {
        f"mass-{number}": {name: _formula(each) for name, each in notes["weights"].items()}
        for number, notes in cohort.notes.items()
    }
    for modality, names in ch_names.items():
        for name in names:
            counts = Counter(named[name] for named in cohort.derivations.values())
            made_of = [f"{f} ({n} of {counts.total()} nights)" for f, n in counts.items()]
            cohort.DESCR += f"{modality.capitalize()} {name}: {', '.join(made_of)}.\n"
    return cohort


def read_mass_night(signals, stages):
    """Read the stages of one night from its two files; onsets are those of its windows."""
    apart = checks.check_start(signals, stages)
    header = read_header(signals)
    onset, y, epoch = _read_stages(stages)
    onset = onset + apart
    checks.check_end(onset[-1] + epoch, header.n_records * header.seconds, stages)
    side = (EPOCH_SECONDS - epoch) / 2
    if side:
        onset, y = onset[1:-1] - side, y[1:-1]
    return loading.Night(onset=onset, y=y, files=[signals, stages])


def _find_files(root, subsets):
    """Paths by night and kind, found by their names in whatever folders."""
    files = {}
    for path in map(
        Path, iglob(f"{escape(str(Path(root).expanduser()))}/**", recursive=True)
    ):
        name = re.fullmatch(r"(01-0\d-\d{4}) (PSG|Base|Annotations)\.edf", path.name, re.I)
        if name and int(name[1][4]) in subsets:
            kinds = files.setdefault(name[1], {})
            kinds.setdefault(name[2].casefold(), {})[path.resolve()] = path
    for subset in sorted(set(subsets)):
        if not any(int(number[4]) == subset for number in files):
            raise FileNotFoundError(
                f"{root} and the folders in it hold no '01-0{subset}-NNNN PSG.edf', 'Base.edf' "
                "or 'Annotations.edf'; subsets= reads others."
            )
    return dict(sorted(files.items()))


def _one_of(files, number, *kinds):
    """Path of a night's file of the first kind that is there."""
    found = (files[number].get(kind.casefold()) for kind in kinds)
    paths = sorted(next(filter(None, found), {}).values())
    if not paths:
        raise FileNotFoundError(f"There is no '{number} {kinds[0]}.edf' in any folder.")
    if len(paths) > 1:
        raise ValueError(
            f"{paths[0]} and {paths[1]} are both of mass-{number}: move one of them away."
        )
    return paths[0]


def _read_stages(path):
    """Onsets (seconds), AASM codes and length (seconds) of a night's whole epochs."""
    annotations = checks.read_stages(path)
    durations = annotations.duration
    lengths = durations[durations > 0] if durations.any() else np.diff(annotations.onset)
    typical = np.median(lengths) if len(lengths) else np.nan
    epoch = 30.0 if abs(typical - 30) <= _TOLERANCE else 20.0  # AASM, R&K
    if not abs(typical - epoch) <= _TOLERANCE:
        raise ValueError(
            f"{path}: epochs of 20 or 30 s are expected; the median of {len(lengths)} is "
            f"{typical:g} s."
        )
    # A duration that is not written is one epoch's.
    annotations.duration = np.where(durations > 0, durations, epoch)
    onset = scored_onsets(scored_pieces(annotations, path), epoch)
    return onset, stages_at(annotations, onset, epoch=epoch), epoch


def _weights(name, labels, subset):
    """Weights of a file's channels in a channel that is wanted."""
    if name == "ECG":
        return {"ECG ECGII" if subset == 4 else "ECG ECGI": -1.0}
    choices = _DERIVATIONS.get(name, [{name: 1.0}])
    return next((each for each in choices if set(each) <= set(labels)), choices[-1])


def _formula(weights):
    text = " ".join(f"{'+-'[weight < 0]} {label}" for label, weight in weights.items())
    return text.removeprefix("+ ")


def _open_derivations(night):
    named = night.notes["weights"]
    labels = sorted(set().union(*named.values()))
    return derive(open_edf(night.files[0], labels), named)


class MassSplit:
    """Joshi et al.'s (2021) division of MASS: 158 for training, 20, and 22 for the test.

    The paper says 80, 10 and 10 %; these are the recordings that its code draws in each
    subset. As ``validation=`` of an estimator it is called with the training subjects
    and returns those that validate.

    Parameters
    ----------
    subjects : array-like of str
        Subjects as :func:`load_mass` names them, each once or more. Of each subset that
        occurs all must be there, as a subject's place in the sorted list counts.

    Attributes
    ----------
    train, validation, test : tuple of str
        The subjects, sorted.

    Raises
    ------
    ValueError
        If a name is no subject of MASS or a subset is incomplete.

    Examples
    --------
    >>> from skleepkd.datasets import MassSplit
    >>> split = MassSplit([f"mass-01-02-{number:04d}" for number in range(1, 20)])
    >>> split.validation, split.test
    (('mass-01-02-0008', 'mass-01-02-0009'), ('mass-01-02-0001', 'mass-01-02-0004'))
    """

    def __init__(self, subjects):
        by_subset = {}
        for name in sorted(set(np.asarray(subjects).tolist())):
            if not re.fullmatch(r"mass-01-0[1-5]-\d{4}", name):
                raise ValueError(
                    f"{name!r} is no subject of MASS, as 'mass-01-01-0001' is."
                )
            by_subset.setdefault(int(name[9]), []).append(name)
        train, validation, test = [], [], []
        for subset, members in by_subset.items():
            size, validates, tests = _SUBSETS[subset]
            if len(members) != size:
                raise ValueError(
                    f"The split counts places in the complete subset {subset}, which has "
                    f"{size} recordings; given {len(members)}."
                )
            for place, name in enumerate(members):
                if place in validates:
                    validation.append(name)
                else:
                    (test if place in tests else train).append(name)
        self.train, self.validation, self.test = map(tuple, (train, validation, test))

    def __call__(self, subjects):
        """Return the subjects to hold out of the training subjects.

        Raises
        ------
        ValueError
            If test subjects are among the training subjects.
        """
        given = set(np.asarray(subjects).tolist())
        leaked = sorted(given & set(self.test))
        if leaked:
            raise ValueError(
                f"The training rows hold {len(leaked)} test subjects, such as {leaked[0]}; "
                "leave them out: test = np.isin(groups, split.test); X[~test]."
            )
        return [name for name in self.validation if name in given]
