"""A night's hypnogram, and what other programs read of it."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from skleepkd.memory import replace_file
from skleepkd.stages import (
    EPOCH_SECONDS,
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    as_seconds,
    is_unscored,
    stage_of_text,
)

#: Of each stage the end of EDF+'s text "Sleep stage ...", YASA's name and the meaning.
_WORDS = {
    "W": ("W", "WAKE", "wakefulness"),
    "N1": ("1", "N1", "stage N1"),
    "N2": ("2", "N2", "stage N2"),
    "N3": ("3", "N3", "stage N3"),
    "REM": ("R", "REM", "REM sleep"),
    "L": ("L", "LIGHT", "light sleep (N1, N2)"),
    "D": ("D", "DEEP", "deep sleep (N3)"),
    "N": ("N", "NREM", "non-REM sleep (N1, N2, N3)"),
    "R": ("R", "REM", "REM sleep"),
    UNSCORED_NAME: ("?", "UNS", "unscored"),
}
#: YASA's names of the stages of coarser schemes.
_COARSE = {"WAKE": "W", "LIGHT": "L", "DEEP": "D", "NREM": "N", "REM": "R"}


class Hypnogram:
    """The stages of one night, epoch by epoch: predicted, with probabilities, or scored.

    :meth:`skleepkd.RecordingStager.stage` returns one. Of a scoring use :meth:`from_stages`.
    What is given is kept as attributes.

    Parameters
    ----------
    probabilities : array-like of shape (n_epochs, n_classes)
        Probability of each stage; the likeliest is an epoch's stage. An epoch whose
        probabilities are NaN is unscored.
    classes : array-like of shape (n_classes,)
        Names of the columns, such as ("W", "N1", "N2", "N3", "REM").
    onset : array-like of float, shape (n_epochs,), optional
        Seconds from the recording's first sample; by default epochs of 30 s from there.
    meas_date : datetime.datetime, optional
        When that first sample was taken, as MNE gives it (with a time zone).
    ch_names : list of str, optional
        The channels that were staged.
    artefact : array-like of str, shape (n_epochs,), optional
        What is wrong with the signals of each epoch, "" where nothing is.

    Attributes
    ----------
    stages : ndarray of shape (n_epochs,)
        Name of each epoch's stage, "?" where unscored (-1 where the classes are numbers).
    epoch : float
        Length of an epoch in seconds.
    probabilities : ndarray of shape (n_epochs, n_classes), or None
        None of a scoring.

    Examples
    --------
    >>> from skleepkd.hypnogram import Hypnogram
    >>> Hypnogram([[0.8, 0.2], [0.3, 0.7]], classes=["W", "N2"]).stages.tolist()
    ['W', 'N2']
    >>> Hypnogram.from_stages(["W", "S4", "?"]).stages.tolist()
    ['W', 'N3', '?']
    """

    def __init__(
        self,
        probabilities,
        classes,
        *,
        onset=None,
        meas_date=None,
        ch_names=None,
        artefact=None,
    ):
        self.probabilities = np.asarray(probabilities)
        self.classes = np.asarray(classes)
        self.epoch = EPOCH_SECONDS
        if onset is None:
            onset = EPOCH_SECONDS * np.arange(len(self.probabilities))
        self.onset = as_seconds(onset)
        if self.probabilities.shape != (len(self.onset), len(self.classes)):
            raise ValueError(
                f"Probabilities of shape {self.probabilities.shape} for {len(self.onset)} "
                f"onsets and the {len(self.classes)} classes {self.classes.tolist()}."
            )
        unscored = UNSCORED_NAME if self.classes.dtype.kind == "U" else UNSCORED
        known = ~np.isnan(self.probabilities).any(axis=1)
        likeliest = self.classes[self.probabilities.argmax(axis=1)]
        self.stages = np.where(known, likeliest, unscored)
        self.meas_date = meas_date
        self.ch_names = None if ch_names is None else list(ch_names)
        self.artefact = None if artefact is None else np.asarray(artefact, dtype=str)
        if artefact is not None and self.artefact.shape != self.onset.shape:
            raise ValueError(
                f"artefact has the shape {self.artefact.shape}; there are {len(self)} epochs."
            )

    @classmethod
    def from_stages(cls, stages, *, onset=None, epoch=EPOCH_SECONDS, meas_date=None):
        """Make the hypnogram of a scoring, which has no probabilities.

        Parameters
        ----------
        stages : array-like of shape (n_epochs,)
            Names (W, N1, N2, N3, REM and what :func:`skleepkd.stages.stage_of_text` reads,
            or those of the schemes "wldr" and "wnr"), "?" where unscored; or AASM codes
            0 to 4, -1 where unscored.
        onset : array-like of float, shape (n_epochs,), optional
            Seconds from the recording's first sample; by default epochs follow one another
            from there.
        epoch : float, default=30.0
            Length of an epoch in seconds.
        meas_date : datetime.datetime, optional
            When that first sample was taken, with a time zone.

        Returns
        -------
        Hypnogram
            Its ``classes`` are all stages of the scheme.

        Raises
        ------
        ValueError
            If a stage is unknown, or the lengths differ.
        """
        scheme, names = _read_names(np.asarray(stages))
        classes = SCHEMES[scheme]
        if not (np.ndim(epoch) == 0 and 0 < epoch < np.inf):
            raise ValueError(
                f"epoch is the length of an epoch in seconds; given {epoch!r}."
            )
        if onset is None:
            onset = epoch * np.arange(len(names))
        night = cls(np.zeros((len(names), len(classes))), classes, onset=onset)
        night.probabilities, night.stages = None, names
        night.epoch, night.meas_date = float(epoch), meas_date
        return night

    @property
    def confidence(self):
        """Probability of each epoch's stage, shape (n_epochs,); None of a scoring."""
        return None if self.probabilities is None else self.probabilities.max(axis=1)

    def __len__(self):
        return len(self.onset)

    def __repr__(self):
        names = [*self.classes, *np.unique(self.stages[is_unscored(self.stages)])]
        counts = ", ".join(f"{name} {(self.stages == name).sum()}" for name in names)
        start = f" from {self.onset[0]:g} s" if len(self) else ""
        return f"<Hypnogram: {len(self)} epochs of {self.epoch:g} s{start}, {counts}>"

    def to_annotations(self):
        """Return annotations for the recording that was staged.

        The texts are EDF+'s, "Sleep stage W", "... 1", "... 2", "... 3" and "... R", besides
        "... L" (light), "... D" (deep) and "... N" (non-REM), and "... ?" where unscored; other
        names follow as they are.

        Returns
        -------
        mne.Annotations
            One for each epoch. Onsets count from the recording's date,
            ``orig_time``, or from the first sample of the Raw that they are given to.

        Raises
        ------
        ValueError
            If the stages have no names.
        """
        import mne

        _, words = self._words()
        texts = [f"Sleep stage {words[name][0]}" for name in self.stages.tolist()]
        return mne.Annotations(self.onset, self.epoch, texts, orig_time=self.meas_date)

    def to_dataframe(self):
        """Return a table with a row for each epoch.

        Returns
        -------
        pandas.DataFrame
            Columns ``onset`` and ``duration`` (seconds), ``stage``; of a prediction a
            ``probability_`` for each class, with its name in lower case, and ``confidence``,
            the likeliest stage's; ``artefact`` where the hypnogram has one.
        """
        table = {"onset": self.onset, "duration": self.epoch, "stage": self.stages}
        if self.probabilities is not None:
            for name, column in zip(self.classes, self.probabilities.T, strict=True):
                table[f"probability_{str(name).lower()}"] = column
            table["confidence"] = self.confidence
        if self.artefact is not None:
            table["artefact"] = self.artefact
        return pd.DataFrame(table)

    def to_events(self, path):
        """Write a BIDS events file, and beside it the description of its columns.

        The columns are those of :meth:`to_dataframe`, with ``trial_type`` for ``stage``;
        "n/a" stands where there is no value, or no artefact.

        Parameters
        ----------
        path : path-like
            The table, ``..._events.tsv``; the description gets the same name with
            ``.json``. What lies there is replaced.

        Raises
        ------
        ValueError
            If the path does not end in ``.tsv``, or the stages have no names.
        OSError
            If a file cannot be written.
        """
        path = Path(path)
        if path.suffix != ".tsv":
            raise ValueError(f"BIDS keeps events in a file ..._events.tsv; given {path}.")
        _, words = self._words()
        meanings = {name: words[name][2] for name in self.classes.tolist()}
        levels = {name: words[name][2] for name in [*meanings, *self.stages.tolist()]}
        about = {
            "onset": {"Description": "Start of the epoch", "Units": "s"},
            "duration": {"Description": "Length of the epoch", "Units": "s"},
            "trial_type": {"Description": "Sleep stage of the epoch", "Levels": levels},
        }
        table = self.to_dataframe().rename(columns={"stage": "trial_type"})
        if self.probabilities is not None:
            about["trial_type"]["Description"] = (
                "The likeliest sleep stage of the epoch, predicted by skleepkd"
            )
            for name, meaning in meanings.items():
                text = f"Predicted probability of {meaning}"
                about[f"probability_{name.lower()}"] = {"Description": text}
            about["confidence"] = {"Description": "Probability of the likeliest stage"}
        if self.artefact is not None:
            about["artefact"] = {"Description": "What is wrong with the epoch's signals"}
            table["artefact"] = table["artefact"].replace("", np.nan)
        # The description first: a table is never without it.
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        replace_file(path.with_suffix(".json"), text.encode())
        text = table.round(6).to_csv(
            sep="\t", index=False, lineterminator="\n", na_rep="n/a"
        )
        replace_file(path, text.encode())

    def to_yasa(self):
        """Return YASA's hypnogram, for its sleep statistics and pictures.

        Returns
        -------
        yasa.Hypnogram
            Of 5, 4 or 3 stages, with the probabilities if there are any. It starts at the
            first epoch by the recorder's clock, without a time zone (MNE calls every one
            UTC).

        Raises
        ------
        ImportError
            If yasa (0.7 or later) is not installed.
        ValueError
            If the classes belong to none of the schemes, or there are gaps.
        """
        import yasa

        scheme, words = self._words()
        if scheme is None:
            raise ValueError(f"YASA has no scheme of the classes {self.classes.tolist()}.")
        if np.any(np.abs(np.diff(self.onset) - self.epoch) > 0.1):
            raise ValueError("A yasa.Hypnogram has no gaps; these epochs have.")
        start = proba = None
        if self.meas_date is not None and len(self):
            start = self.meas_date.replace(tzinfo=None) + timedelta(seconds=self.onset[0])
        if self.probabilities is not None:
            columns = [words[name][1] for name in self.classes.tolist()]
            proba = pd.DataFrame(self.probabilities, columns=columns)
        return yasa.Hypnogram(
            [words[name][1] for name in self.stages.tolist()],
            n_stages=len(SCHEMES[scheme]),
            freq=f"{self.epoch:g}s",
            start=start,
            scorer=None if proba is None else "skleepkd",
            proba=proba,
        )

    def plot(self, ax=None):
        """Draw the stages and, below them, their probabilities if there are any.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where; it is divided between the panels.

        Returns
        -------
        skleepkd.plotting.HypnogramDisplay
        """
        from skleepkd.plotting import HypnogramDisplay

        order = np.argsort(self.classes)  # as the columns of predict_proba
        probabilities = self.probabilities
        if probabilities is not None:
            probabilities = probabilities[:, order]
        return HypnogramDisplay.from_predictions(
            None,
            self.stages,
            onset=self.onset,
            probabilities=probabilities,
            classes=self.classes[order].tolist(),
            ax=ax,
        )

    def _words(self):
        """Return the scheme of the classes, or None, and of each class what others call it."""
        names = self.classes.tolist()
        if self.classes.dtype.kind != "U":
            raise ValueError(
                f"Which stages the classes {names} are is not known. Name the scheme, as in "
                "stager.set_params(classes='wldr'), or fit the stager to names."
            )
        codes, called = [stage_of_text(name) for name in names], names
        if set(codes) <= set(range(5)) and len(set(codes)) == len(codes):
            scheme, called = "aasm", [SCHEMES["aasm"][code] for code in codes]
        else:
            coarse = [name for name in ("wldr", "wnr") if set(names) <= set(SCHEMES[name])]
            scheme = coarse[0] if coarse else None
        words = {UNSCORED_NAME: _WORDS[UNSCORED_NAME]}
        for name, known in zip(names, called, strict=True):
            words[name] = _WORDS[known] if scheme else (name, name, name)
        return scheme, words


def _read_names(stages):
    """Return the scheme of scored stages and their names in it, "?" where unscored."""
    if stages.ndim != 1:
        raise ValueError(
            f"stages has the shape {stages.shape}; one for each epoch is expected."
        )
    aasm = (*SCHEMES["aasm"], UNSCORED_NAME)  # the last is that of -1
    if stages.dtype.kind in "iu":
        given, place = np.unique(stages, return_inverse=True)
        schemes = {"aasm": {code: aasm[code] for code in range(UNSCORED, 5)}}
    else:
        given, place = np.unique(stages.astype(str), return_inverse=True)
        codes = {
            text: stage_of_text(text) for text in given.tolist() if not text.isdecimal()
        }
        codes["-1"] = UNSCORED
        known = {text: aasm[code] for text, code in codes.items() if code is not None}
        schemes = {"aasm": known}
        for scheme in ("wldr", "wnr"):
            names = {text: text for text in SCHEMES[scheme]}
            names |= {text: name for text, name in _COARSE.items() if name in names}
            names |= {text: name for text, name in known.items() if name == UNSCORED_NAME}
            schemes[scheme] = names
    for scheme, names in schemes.items():
        if set(given.tolist()) <= set(names):
            return scheme, np.array([names[name] for name in given.tolist()], str)[place]
    unknown = [name for name in given.tolist() if name not in schemes["aasm"]]
    raise ValueError(
        f"Unknown stages {unknown}. Known are W, N1, N2, N3, REM and ?, the whole schemes "
        f"{SCHEMES['wldr']} and {SCHEMES['wnr']}, and whole numbers 0 to 4, -1 where unscored."
    )
