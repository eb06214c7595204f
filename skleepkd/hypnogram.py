"""A night's hypnogram, and what other programs read of it."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path

import numpy as np

from skleepkd.memory import replace_file
from skleepkd.stages import EPOCH_SECONDS, SCHEMES, scheme_names, stage_of_text

#: The ends of EDF+'s texts "Sleep stage ..." for the codes of each scheme. Light, deep
#: and non-REM sleep are no stages of EDF+: they keep the scheme's own names.
_EDF_TEXTS = {
    "aasm": ("W", "1", "2", "3", "R"),
    "wldr": ("W", "L", "D", "R"),
    "wnr": ("W", "N", "R"),
}

#: YASA's names for the codes of each scheme.
_YASA_NAMES = {
    "aasm": ("WAKE", "N1", "N2", "N3", "REM"),
    "wldr": ("WAKE", "LIGHT", "DEEP", "REM"),
    "wnr": ("WAKE", "NREM", "REM"),
}

#: What the names mean, for the description of an events file.
_MEANINGS = {
    "aasm": ("wakefulness", "stage N1", "stage N2", "stage N3", "REM sleep"),
    "wldr": ("wakefulness", "light sleep (N1, N2)", "deep sleep (N3)", "REM sleep"),
    "wnr": ("wakefulness", "non-REM sleep (N1, N2, N3)", "REM sleep"),
}


class Hypnogram:
    """The stages of one night, epoch by epoch, with their probabilities.

    :meth:`RecordingStager.stage <skleepkd.RecordingStager.stage>` answers with one.

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

    Attributes
    ----------
    probabilities : ndarray of shape (n_epochs, n_classes)
    classes : ndarray of shape (n_classes,)
    onset : ndarray of float, shape (n_epochs,)
    epoch_length : float
        Seconds; 30.
    meas_date : datetime.datetime or None
    ch_names : list of str or None

    Examples
    --------
    >>> from skleepkd.hypnogram import Hypnogram
    >>> night = Hypnogram([[0.8, 0.2], [0.3, 0.7]], classes=["W", "N2"])
    >>> night
    <Hypnogram: 2 epochs of 30 s from 0 s, W 1, N2 1>
    >>> night.to_annotations().description.tolist()
    ['Sleep stage W', 'Sleep stage 2']
    """

    epoch_length = EPOCH_SECONDS

    def __init__(
        self, probabilities, classes, *, onset=None, meas_date=None, ch_names=None
    ):
        self.probabilities = np.asarray(probabilities)
        self.classes = np.asarray(classes)
        if self.probabilities.ndim != 2 or self.probabilities.shape[1] != len(self.classes):
            raise ValueError(
                f"Probabilities of the shape {self.probabilities.shape} for the "
                f"{len(self.classes)} classes {self.classes.tolist()}; (n_epochs, "
                f"{len(self.classes)}) is expected."
            )
        if onset is None:
            onset = EPOCH_SECONDS * np.arange(len(self.probabilities))
        self.onset = np.asarray(onset, dtype=float)
        if self.onset.shape != (len(self.probabilities),):
            raise ValueError(
                f"{len(self.probabilities)} epochs and onsets of the shape "
                f"{self.onset.shape}: one for each epoch is expected."
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

    # ------------------------------------------------------------ for other programs

    def to_annotations(self):
        """Return annotations for the recording that was staged.

        The texts are EDF+'s: "Sleep stage W", "Sleep stage 1", "Sleep stage 2", "Sleep
        stage 3" and "Sleep stage R". Of four or three classes, which EDF+ has no words
        for, they are "Sleep stage L" (light), "Sleep stage D" (deep) and "Sleep stage N"
        (non-REM); other names follow "Sleep stage" as they are.

        Returns
        -------
        mne.Annotations
            One of 30 s for each epoch. Onsets count from ``orig_time``, the time of the
            recording's first sample, so that ``raw.set_annotations`` puts them right, also
            in a recording that was cropped since; where the recording has no date they
            count from the first sample of the recording that they are given to.

        Raises
        ------
        ValueError
            If the stages have no names.
        """
        import mne

        names = self._names()
        scheme, codes = _codes(names)
        if scheme is not None:
            names = [_EDF_TEXTS[scheme][code] for code in codes]
        texts = [f"Sleep stage {names[k]}" for k in self.probabilities.argmax(axis=1)]
        return mne.Annotations(self.onset, EPOCH_SECONDS, texts, orig_time=self.meas_date)

    def to_events(self, path):
        """Write a BIDS events file, and beside it the description of its columns.

        Parameters
        ----------
        path : path-like
            The table, ``..._events.tsv``; its folder exists. The description gets the same
            name with ``.json``. What lies there is replaced.

        Raises
        ------
        ValueError
            If the path does not end in ``.tsv``, or the stages have no names.
        OSError
            If a file cannot be written.

        Notes
        -----
        The columns are ``onset`` (seconds from the recording's first sample), ``duration``
        (30 s), ``trial_type`` (the stage's name) and, for each stage, ``probability_``
        and its name in lower case.
        """
        path = Path(path)
        if path.suffix != ".tsv":
            raise ValueError(
                f"BIDS keeps events in a file ..._events.tsv; given {path}. Give it that "
                "ending; the description of the columns is written beside it as .json."
            )
        names = self._names()
        columns = [f"probability_{name.lower()}" for name in names]
        scheme, codes = _codes(names)
        meanings = names if scheme is None else [_MEANINGS[scheme][code] for code in codes]
        about = {
            "onset": {"Description": "Start of the epoch", "Units": "s"},
            "duration": {"Description": "Length of the epoch", "Units": "s"},
            "trial_type": {
                "LongName": "Sleep stage",
                "Description": "The likeliest sleep stage of the epoch, predicted by skleepkd",
                "Levels": dict(zip(names, meanings, strict=True)),
            },
        }
        for column, meaning in zip(columns, meanings, strict=True):
            about[column] = {"Description": f"Predicted probability of {meaning}"}
        table = io.StringIO()
        writer = csv.writer(table, delimiter="\t", lineterminator="\n")
        writer.writerow(["onset", "duration", "trial_type", *columns])
        for onset, stage, row in zip(
            self.onset, self.stages, self.probabilities, strict=True
        ):
            writer.writerow(
                [_decimal(onset), _decimal(EPOCH_SECONDS), stage, *map(_decimal, row)]
            )
        # The description first: a table is never without it.
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        try:
            replace_file(path.with_suffix(".json"), text.encode())
            replace_file(path, table.getvalue().encode())
        except OSError as error:  # of the table, not of a file that became part of it
            raise OSError(error.errno, error.strerror, str(path)) from error

    def to_yasa(self):
        """Return YASA's hypnogram, for its sleep statistics and pictures.

        Returns
        -------
        yasa.Hypnogram
            Of 5, 4 or 3 stages, with the probabilities. It starts at the first epoch, by
            the clock of the recording's date where it has one (without a time zone: MNE
            calls every recorder's clock UTC).

        Raises
        ------
        ImportError
            If yasa is not installed.
        ValueError
            If the classes belong to none of the schemes, or there are gaps.
        """
        try:
            import pandas as pd
            import yasa
        except ImportError as error:
            raise ImportError(
                "to_yasa needs the package yasa (0.7 or later): pip install yasa."
            ) from error

        names = self._names()
        scheme, codes = _codes(names)
        if scheme is None:
            raise ValueError(
                f"YASA knows {', '.join(map(str, SCHEMES.values()))}; these classes are "
                f"{names}."
            )
        if np.any(np.abs(np.diff(self.onset) - EPOCH_SECONDS) > 0.1):
            raise ValueError(
                "A yasa.Hypnogram has no gaps; these epochs do not follow one another every "
                f"{EPOCH_SECONDS:g} s."
            )
        names = [_YASA_NAMES[scheme][code] for code in codes]
        start = None
        if self.meas_date is not None and len(self):
            start = self.meas_date.replace(tzinfo=None) + timedelta(seconds=self.onset[0])
        return yasa.Hypnogram(
            [names[k] for k in self.probabilities.argmax(axis=1)],
            n_stages=len(scheme_names(scheme)),
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
            Its place in the figure is divided between the panels.

        Returns
        -------
        skleepkd.plotting.HypnogramDisplay
        """
        from skleepkd.plotting import HypnogramDisplay

        known = [scheme for scheme, names in SCHEMES.items() if [*names] == [*self.classes]]
        return HypnogramDisplay.from_predictions(
            None,
            self.stages,
            onset=self.onset,
            probabilities=self.probabilities,
            classes=known[0] if known else self.classes.tolist(),
            ax=ax,
        )

    def _names(self):
        """Names of the classes, or an error where they are codes that no scheme explains."""
        if self.classes.dtype.kind != "U":
            raise ValueError(
                f"What the classes {self.classes.tolist()} mean is not known: five stages, "
                "or four? Name the scheme, as in stager.set_params(classes='wldr'), or fit "
                "the stager to names."
            )
        return self.classes.tolist()


def _codes(names):
    """Scheme that names belong to, and the code of each; None and None for others."""
    codes = [stage_of_text(name) for name in names]
    if None not in codes and min(codes) >= 0 and len(set(codes)) == len(codes):
        return "aasm", codes
    for scheme in ("wldr", "wnr"):
        if set(names) <= set(SCHEMES[scheme]):
            return scheme, [SCHEMES[scheme].index(name) for name in names]
    return None, None


def _decimal(value):
    return np.format_float_positional(value, precision=6, trim="-")
