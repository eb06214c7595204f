"""A night's hypnogram, and what other programs read of it."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from skleepkd.memory import replace_file
from skleepkd.stages import EPOCH_SECONDS, SCHEMES, as_seconds, stage_of_text

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
}


class Hypnogram:
    """The stages of one night, epoch by epoch, with their probabilities.

    :meth:`skleepkd.RecordingStager.stage` returns one. What is given is kept as attributes.

    Parameters
    ----------
    probabilities : array-like of shape (n_epochs, n_classes)
        Probability of each stage; the likeliest is an epoch's stage.
    classes : array-like of shape (n_classes,)
        Names of the columns, such as ("W", "N1", "N2", "N3", "REM").
    onset : array-like of float, shape (n_epochs,), optional
        Seconds from the recording's first sample; by default epochs of 30 s from there.
    meas_date : datetime.datetime, optional
        When that first sample was taken, as MNE gives it (with a time zone).
    ch_names : list of str, optional
        The channels that were staged.

    Examples
    --------
    >>> from skleepkd.hypnogram import Hypnogram
    >>> Hypnogram([[0.8, 0.2], [0.3, 0.7]], classes=["W", "N2"]).stages.tolist()
    ['W', 'N2']
    """

    def __init__(
        self, probabilities, classes, *, onset=None, meas_date=None, ch_names=None
    ):
        self.probabilities = np.asarray(probabilities)
        self.classes = np.asarray(classes)
        if onset is None:
            onset = EPOCH_SECONDS * np.arange(len(self.probabilities))
        self.onset = as_seconds(onset)
        if self.probabilities.shape != (len(self.onset), len(self.classes)):
            raise ValueError(
                f"Probabilities of shape {self.probabilities.shape} for {len(self.onset)} "
                f"onsets and the {len(self.classes)} classes {self.classes.tolist()}."
            )
        self.meas_date = meas_date
        self.ch_names = None if ch_names is None else list(ch_names)

    @property
    def stages(self):
        """Name of each epoch's stage, the likeliest; shape (n_epochs,)."""
        return self.classes[self.probabilities.argmax(axis=1)]

    def __len__(self):
        return len(self.onset)

    def __repr__(self):
        stages = self.stages
        counts = ", ".join(f"{name} {(stages == name).sum()}" for name in self.classes)
        start = f" from {self.onset[0]:g} s" if len(self) else ""
        return f"<Hypnogram: {len(self)} epochs of {EPOCH_SECONDS:g} s{start}, {counts}>"

    def to_annotations(self):
        """Return annotations for the recording that was staged.

        The texts are EDF+'s, "Sleep stage W", "... 1", "... 2", "... 3" and "... R", besides
        "... L" (light), "... D" (deep) and "... N" (non-REM); other names follow as they are.

        Returns
        -------
        mne.Annotations
            One of 30 s for each epoch. Onsets count from the recording's date,
            ``orig_time``, or from the first sample of the Raw that they are given to.

        Raises
        ------
        ValueError
            If the stages have no names.
        """
        import mne

        _, words = self._words()
        texts = [f"Sleep stage {words[k][0]}" for k in self.probabilities.argmax(axis=1)]
        return mne.Annotations(self.onset, EPOCH_SECONDS, texts, orig_time=self.meas_date)

    def to_events(self, path):
        """Write a BIDS events file, and beside it the description of its columns.

        The columns are ``onset`` (seconds from the recording's first sample), ``duration``
        (30 s), ``trial_type`` (the stage's name) and, for each stage, ``probability_``
        and its name in lower case.

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
        meanings = {name: word[2] for name, word in zip(self.classes, words, strict=True)}
        about = {
            "onset": {"Description": "Start of the epoch", "Units": "s"},
            "duration": {"Description": "Length of the epoch", "Units": "s"},
            "trial_type": {
                "Description": "The likeliest sleep stage of the epoch, predicted by skleepkd",
                "Levels": meanings,
            },
        }
        table = {"onset": self.onset, "duration": EPOCH_SECONDS, "trial_type": self.stages}
        for column, (name, meaning) in enumerate(meanings.items()):
            name = f"probability_{name.lower()}"
            about[name] = {"Description": f"Predicted probability of {meaning}"}
            table[name] = self.probabilities[:, column]
        # The description first: a table is never without it.
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        replace_file(path.with_suffix(".json"), text.encode())
        table = pd.DataFrame(table).round(6)
        text = table.to_csv(sep="\t", index=False, lineterminator="\n")
        replace_file(path, text.encode())

    def to_yasa(self):
        """Return YASA's hypnogram, for its sleep statistics and pictures.

        Returns
        -------
        yasa.Hypnogram
            Of 5, 4 or 3 stages, with the probabilities. It starts at the first epoch by the
            recorder's clock, without a time zone (MNE calls every one UTC).

        Raises
        ------
        ImportError
            If yasa (0.7 or later) is not installed.
        ValueError
            If the classes belong to none of the schemes, or there are gaps.
        """
        import yasa

        scheme, words = self._words()
        names = [name for _, name, _ in words]
        if scheme is None:
            raise ValueError(f"YASA has no scheme of the classes {self.classes.tolist()}.")
        if np.any(np.abs(np.diff(self.onset) - EPOCH_SECONDS) > 0.1):
            raise ValueError("A yasa.Hypnogram has no gaps; these epochs have.")
        start = None
        if self.meas_date is not None and len(self):
            start = self.meas_date.replace(tzinfo=None) + timedelta(seconds=self.onset[0])
        return yasa.Hypnogram(
            [names[k] for k in self.probabilities.argmax(axis=1)],
            n_stages=len(SCHEMES[scheme]),
            freq=f"{EPOCH_SECONDS:g}s",
            start=start,
            scorer="skleepkd",
            proba=pd.DataFrame(self.probabilities, columns=names),
        )

    def plot(self, ax=None):
        """Draw the stages and, below them, their probabilities.

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
        return HypnogramDisplay.from_predictions(
            None,
            self.stages,
            onset=self.onset,
            probabilities=self.probabilities[:, order],
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
        codes = [stage_of_text(name) for name in names]
        if set(codes) <= set(range(5)) and len(set(codes)) == len(codes):
            return "aasm", [_WORDS[SCHEMES["aasm"][code]] for code in codes]
        for scheme in ("wldr", "wnr"):
            if set(names) <= set(SCHEMES[scheme]):
                return scheme, [_WORDS[name] for name in names]
        return None, [(name, name, name) for name in names]
