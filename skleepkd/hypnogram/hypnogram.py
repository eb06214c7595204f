"""A night's hypnogram, and what other programs read of it."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from skleepkd.hypnogram.names import WORDS, common_scheme, read_names, words_of_classes
from skleepkd.hypnogram.statistics import fill_gaps, sleep_statistics
from skleepkd.memory import replace_file
from skleepkd.metrics import staging_report
from skleepkd.stages import (
    BORDER,
    EPOCH_SECONDS,
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    as_seconds,
    as_utc,
    is_unscored,
)


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
        When that first sample was taken, as MNE gives it: in UTC.
    ch_names, missing : list of str, optional
        The channels that were staged, and those for which the stager was given zeros.
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
        missing=(),
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
        self.meas_date = as_utc(meas_date)
        self.ch_names, self.missing = ch_names and list(ch_names), list(missing)
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
        epoch : float, default=30.0
            Length of an epoch in seconds.
        onset, meas_date
            As for the class; by default epochs follow one another.

        Returns
        -------
        Hypnogram
            Its ``classes`` are all stages of the scheme.

        Raises
        ------
        ValueError
            If a stage is unknown, or the lengths differ.
        """
        scheme, names = read_names(np.asarray(stages))
        classes = SCHEMES[scheme]
        if not (np.ndim(epoch) == 0 and 0 < epoch < np.inf):
            raise ValueError(
                f"epoch is the length of an epoch in seconds; given {epoch!r}."
            )
        if onset is None:
            onset = epoch * np.arange(len(names))
        night = cls(np.zeros((len(names), len(classes))), classes, onset=onset)
        night.probabilities, night.stages = None, names
        night.epoch, night.meas_date = float(epoch), as_utc(meas_date)
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

        _, words = words_of_classes(self.classes)
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
        _, words = words_of_classes(self.classes)
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
            Of 5, 4 or 3 stages, with the probabilities if every epoch has them. It starts
            at the first epoch by the recorder's clock, without a time zone (MNE calls every
            one UTC).

        Raises
        ------
        ImportError
            If yasa (0.7 or later) is not installed.
        ValueError
            If the classes belong to none of the schemes, or there are gaps.
        """
        import yasa

        scheme, words = words_of_classes(self.classes)
        if scheme is None:
            raise ValueError(f"YASA has no scheme of the classes {self.classes.tolist()}.")
        if np.any(np.abs(np.diff(self.onset) - self.epoch) > 0.1):
            raise ValueError("A yasa.Hypnogram has no gaps; these epochs have.")
        start = proba = None
        if self.meas_date is not None and len(self):
            start = self.meas_date.replace(tzinfo=None) + timedelta(seconds=self.onset[0])
        if self.probabilities is not None and not np.isnan(self.probabilities).any():
            columns = [words[name][1] for name in self.classes.tolist()]
            proba = pd.DataFrame(self.probabilities, columns=columns)
        return yasa.Hypnogram(
            [words[name][1] for name in self.stages.tolist()],
            n_stages=len(SCHEMES[scheme]),
            freq=f"{self.epoch:g}s",
            start=start,
            scorer=None if self.probabilities is None else "skleepkd",
            proba=proba,
        )

    def statistics(self):
        """Return YASA's statistics of the night, without YASA.

        Returns
        -------
        dict of str to float
            Names and definitions are those of ``yasa.Hypnogram.sleep_statistics`` (0.8)
            [1]_. In minutes: ``TIB`` (from the first epoch to the last), ``SPT`` (from the
            first epoch of sleep to the last), ``WASO`` (wake in it), ``TST`` (sleep),
            ``SOL`` and ``Lat_REM`` (from the first epoch to the first one of sleep and of
            REM), ``SOL_5min`` (to the first five minutes of unbroken sleep), and each
            stage: ``WAKE``, ``N1``, ``N2``, ``N3`` (``LIGHT``, ``DEEP`` or ``NREM`` of
            coarser schemes), ``REM``, and ``UNS`` where there is any. In percent: ``SE``
            (TST of TIB), ``SME`` (TST of SPT), ``%N1`` and so on (of TST). ``SFI``:
            awakenings for each hour of TST. nan where undefined, as without sleep.

        Raises
        ------
        ValueError
            If there are no epochs, they overlap, or the classes belong to no scheme.

        Notes
        -----
        Efficiency and latencies are those of the epochs that are there: crop them to the
        time between lights off and lights on. Gaps between epochs count as unscored, and
        unscored epochs to TIB and SPT, neither to sleep nor to wake.

        References
        ----------
        .. [1] Vallat, R. and Walker, M. P. (2021). An open-source, high-performance tool for
           automated sleep staging. The definitions are those of Iber et al. (2007), but for
           the REM latency, there from the first epoch of sleep: ``Lat_REM - SOL``.

        Examples
        --------
        >>> from skleepkd.hypnogram import Hypnogram
        >>> night = Hypnogram.from_stages(["W", "N1", "N2", "W", "REM", "W"])
        >>> statistics = night.statistics()
        >>> statistics["TST"], statistics["SE"], statistics["Lat_REM"]
        (1.5, 50.0, 2.0)
        """
        scheme, words = words_of_classes(self.classes)
        if scheme is None or not len(self):
            raise ValueError(
                f"There are statistics of the schemes {', '.join(SCHEMES)} and at least one "
                f"epoch; given {len(self)} epochs of the classes {self.classes.tolist()}."
            )
        stages = [words[name][1] for name in self.stages.tolist()]
        stages = fill_gaps(stages, self.onset, self.epoch)
        names = [WORDS[name][1] for name in SCHEMES[scheme]]
        return sleep_statistics(stages, names, self.epoch / 60)

    def compare(self, other):
        """Score the agreement with another hypnogram of the night.

        Parameters
        ----------
        other : Hypnogram
            The scorer's, if this one is a prediction. Epochs are matched by their onsets
            (by the clock where both have a ``meas_date``), which may differ by 0.1 s. Where
            the schemes differ, the finer one's stages are merged.

        Returns
        -------
        Bunch
            What :func:`skleepkd.metrics.staging_report` returns, ``other`` being the truth:
            ``pooled`` has the scores. Besides ``n_epochs``, how many epochs both have and
            scored, ``n_unscored``, how many one of them left unscored, ``n_only_self`` and
            ``n_only_other``.

        Raises
        ------
        ValueError
            If they share no scored epoch, or differ in the length of epochs or, without a
            scheme, in their classes.

        Examples
        --------
        >>> from skleepkd.hypnogram import Hypnogram
        >>> scored = Hypnogram.from_stages(["W", "N1", "N2", "REM"])
        >>> report = Hypnogram.from_stages(["W", "N2", "N2"]).compare(scored)
        >>> f"{report.pooled['accuracy']:.2f}", report.n_epochs, report.n_only_other
        ('0.67', 3, 1)
        """
        y_true, y_pred, classes, _, n_common = self._beside(other)
        scored = ~(is_unscored(y_pred) | is_unscored(y_true))
        n_scored = int(scored.sum())
        if not n_scored:
            raise ValueError(f"In none of the {n_common} common epochs both have a stage.")
        report = staging_report(y_true[scored], y_pred[scored], classes=list(classes))
        report.n_epochs, report.n_unscored = n_scored, n_common - n_scored
        report.n_only_self = len(self) - n_common
        report.n_only_other = len(other) - n_common
        return report

    def plot(self, *, truth=None, ax=None):
        """Draw the stages, the scored ones above them and their probabilities below.

        Parameters
        ----------
        truth : Hypnogram, optional
            The scorer's, matched as by :meth:`compare`.
        ax : matplotlib Axes, optional
            Where; it is divided between the panels.

        Returns
        -------
        skleepkd.plotting.HypnogramDisplay
        """
        from skleepkd.plotting import HypnogramDisplay

        y_true, y_pred, classes, probabilities = None, self.stages, self.classes, None
        merged = {name: name for name in classes.tolist()}
        if truth is not None:
            y_true, y_pred, classes, merged, _ = self._beside(truth)
        elif self.probabilities is None:
            y_true, y_pred = self.stages, None
        classes = sorted(classes)  # as the columns of predict_proba
        if self.probabilities is not None:
            goes_to = np.array([[merged[a] == b for b in classes] for a in merged])
            probabilities = self.probabilities @ goes_to
        return HypnogramDisplay.from_predictions(
            y_true,
            y_pred,
            onset=self.onset,
            epoch=self.epoch,
            probabilities=probabilities,
            classes=classes,
            ax=ax,
        )

    def _beside(self, other):
        """Stages of each epoch by another hypnogram and by this one, in one scheme.

        Then its classes, where this one's go in it, and how many epochs both have.
        """
        if not isinstance(other, Hypnogram):
            raise TypeError(f"Give a Hypnogram (Hypnogram.from_stages), no {type(other)}.")
        if abs(self.epoch - other.epoch) > 1e-3:
            raise ValueError(
                f"Epochs of {self.epoch:g} s and of {other.epoch:g} s do not compare."
            )
        ahead = 0.0
        if None not in (self.meas_date, other.meas_date):
            ahead = (other.meas_date - self.meas_date).total_seconds()
        apart, nearest = KDTree((other.onset + ahead)[:, None]).query(self.onset[:, None])
        mine = np.flatnonzero(apart <= BORDER)
        if not len(mine):
            raise ValueError(
                f"No epoch of {self} begins where one of {other} does, counted from "
                f"{self.meas_date} and {other.meas_date}. The nearest are "
                f"{apart.min(initial=np.inf):g} s apart. Epochs can be staged from where a scorer "
                "began: stage(raw, start=...)."
            )
        classes, (merged, names) = common_scheme(self.classes, other.classes)
        y_true = np.full(len(self), UNSCORED_NAME, dtype="U99")
        y_true[mine] = _renamed(other.stages[nearest[mine]], names)
        return y_true, _renamed(self.stages, merged), classes, merged, len(mine)


def _renamed(stages, names):
    """Put stages into other words, which leaves "?" as it is."""
    return np.array([names.get(name, name) for name in stages.tolist()], dtype=str)
