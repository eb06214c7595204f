"""The hypnogram of a night."""

import numpy as np
from sklearn.utils import check_consistent_length

from skleepkd.metrics import staging_report
from skleepkd.plotting.common import (
    STAGE_COLORS,
    codes_with_gaps,
    make_panels,
    stage_colors,
)
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, stage_codes, stage_labels

#: From the top of a hypnogram to its bottom.
_FROM_THE_TOP = {
    "aasm": ("W", "REM", "N1", "N2", "N3"),
    "wldr": ("W", "R", "L", "D"),
    "wnr": ("W", "R", "N"),
}
_REM = ("REM", "R")
_REM = ("REM", "R")


class HypnogramDisplay:
    """Hypnogram of one night: the truth above, the prediction below it.

    REM is drawn as a red bar. Where an epoch is unscored or missing, the line is
    broken.

    Parameters
    ----------
    y_true : array-like of shape (n_epochs,) or None
        The scored stages; None where nobody scored the night.
    y_pred : array-like of shape (n_epochs,)
        The predicted stages.
    onset : array-like of shape (n_epochs,), optional
        Seconds from the recording's start; by default epochs follow one another.
    probabilities : array-like of shape (n_epochs, n_classes), optional
        The predicted probability of each stage, drawn as areas under the prediction.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (n_panels,)
        The panels from the top.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from skleepkd.plotting import HypnogramDisplay
    >>> display = HypnogramDisplay.from_predictions(
    ...     y_true=[0, 1, 2, 2, 3, 4], y_pred=[0, 2, 2, 2, 3, 4]
    ... )
    >>> [label.get_text() for label in display.ax_[0].get_yticklabels()]
    ['W', 'REM', 'N1', 'N2', 'N3']
    """

    def __init__(self, *, y_true, y_pred, onset=None, probabilities=None, classes="aasm"):
        self.y_true = y_true
        self.y_pred = y_pred
        self.onset = onset
        self.probabilities = probabilities
        self.classes = classes

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, probabilities=True, classes="aasm", ax=None
    ):
        """Predict a night and draw it.

        Parameters
        ----------
        estimator : fitted classifier
            Asked for ``predict(X)`` and, for the areas, ``predict_proba(X)``.
        X : PairedEpochs or array-like of shape (n_epochs, ...)
            One recording. Its ``onset`` is used where it has one.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        probabilities : bool, default=True
            Draw the predicted probabilities.
        classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
            The stages.
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Returns
        -------
        HypnogramDisplay

        Raises
        ------
        ValueError
            If ``X`` holds more than one recording.
        """
        recording = getattr(X, "recording", None)
        if recording is not None and len(np.unique(recording)) > 1:
            raise ValueError(
                f"A hypnogram shows one recording; X holds {np.unique(recording).tolist()}. "
                "Select one, as in X[X.recording == name]."
            )
        areas = None
        if probabilities:
            # Columns follow the estimator's classes, which may lack a stage.
            labels = stage_labels(classes)
            columns = stage_codes(estimator.classes_, labels, "estimator.classes_")
            answers = np.asarray(estimator.predict_proba(X))
            areas = np.zeros((len(answers), len(labels)))
            areas[:, columns] = answers
        return cls.from_predictions(
            y,
            estimator.predict(X),
            onset=getattr(X, "onset", None),
            probabilities=areas,
            classes=classes,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls, y_true, y_pred, *, onset=None, probabilities=None, classes="aasm", ax=None
    ):
        """Draw predictions of a night that are already at hand.

        Parameters
        ----------
        y_true, y_pred, onset, probabilities, classes
            As for the class.
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Returns
        -------
        HypnogramDisplay
        """
        display = cls(
            y_true=y_true,
            y_pred=y_pred,
            onset=onset,
            probabilities=probabilities,
            classes=classes,
        )
        return display.plot(ax=ax)

    def plot(self, ax=None):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Returns
        -------
        HypnogramDisplay

        Raises
        ------
        ValueError
            If lengths differ, epochs overlap or a stage is not among the classes.
        """
        labels = stage_labels(self.classes)
        y_pred = codes_with_gaps(self.y_pred, labels, "y_pred")
        onset = self.onset
        if onset is None:
            onset = EPOCH_SECONDS * np.arange(len(y_pred))
        onset = np.asarray(onset, dtype=float)
        check_consistent_length(y_pred, onset, self.y_true, self.probabilities)
        order = np.argsort(onset)
        if np.any(np.diff(onset[order]) < EPOCH_SECONDS - 0.1):
            raise ValueError(
                f"Epochs of {EPOCH_SECONDS:g} s overlap at these onsets; a hypnogram shows "
                "one recording, and onset is in seconds."
            )

        title = "Prediction"
        stages = {}
        if self.y_true is not None:
            stages["Truth"] = codes_with_gaps(self.y_true, labels, "y_true")
            if np.any(stages["Truth"] != UNSCORED):
                report = staging_report(self.y_true, self.y_pred, classes=self.classes)
                title += f" (kappa {report.pooled['kappa']:.2f})"
        stages[title] = y_pred
        n_panels = len(stages) + (self.probabilities is not None)
        self.figure_, axes = make_panels(
            ax, n_panels, 1, figsize=(10, 0.4 + 1.7 * n_panels), sharex=True
        )
        self.ax_ = axes[:, 0]

        from_the_top = _FROM_THE_TOP.get(str(self.classes), labels)
        level = np.array([from_the_top.index(label) for label in labels] + [np.nan])
        rem = np.array([label in _REM for label in labels] + [False])
        for panel, (title, codes) in zip(self.ax_, stages.items(), strict=False):
            codes = codes[order]  # UNSCORED is -1: the last entry, which is nan
            edges, line = _steps(onset[order], level[codes])
            panel.stairs(line, edges, baseline=None, color="#333333", linewidth=1)
            edges, bars = _steps(onset[order], np.where(rem[codes], level[codes], np.nan))
            panel.stairs(bars, edges, baseline=None, color=STAGE_COLORS["REM"], linewidth=4)
            panel.set_yticks(range(len(labels)), from_the_top)
            panel.set_ylim(len(labels) - 0.6, -0.4)
            panel.set_title(title, loc="left", fontsize="medium")
        if self.probabilities is not None:
            self._plot_probabilities(onset[order], order, labels, from_the_top)
        self.ax_[0].set_xlim(edges[0], edges[-1])
        self.ax_[-1].set_xlabel("Time (h)")
        return self

    def _plot_probabilities(self, onset, order, labels, from_the_top):
        panel = self.ax_[-1]
        edges, areas = _steps(onset, np.asarray(self.probabilities, dtype=float)[order])
        columns = [labels.index(label) for label in reversed(from_the_top)]
        panel.stackplot(
            edges,
            np.vstack([areas, areas[-1:]])[:, columns].T,
            step="post",
            labels=from_the_top[::-1],
            colors=stage_colors(labels, from_the_top[::-1]),
            linewidth=0,
        )
        panel.set_ylim(0, 1)
        panel.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        panel.set_title("Predicted probability", loc="left", fontsize="medium")
        panel.legend(
            *(handles[::-1] for handles in panel.get_legend_handles_labels()),
            loc="center left",
            bbox_to_anchor=(1.005, 0.5),
            frameon=False,
            fontsize="small",
            handlelength=1,
        )


def _steps(onset, values):
    """Edges in hours and values between them, with a nan step where epochs are missing."""
    gaps = 1 + np.flatnonzero(np.diff(onset) > EPOCH_SECONDS + 0.1)
    edges = np.append(onset, onset[-1] + EPOCH_SECONDS)
    edges = np.insert(edges, gaps, onset[gaps - 1] + EPOCH_SECONDS)
    return edges / 3600, np.insert(values, gaps, np.nan, axis=0)
