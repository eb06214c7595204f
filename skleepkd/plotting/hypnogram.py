"""The hypnogram of a night."""

import numpy as np
from sklearn.utils import check_consistent_length

from skleepkd.metrics import staging_report
from skleepkd.plotting.common import (
    Steps,
    check_one_recording,
    classes_of,
    codes_with_gaps,
    columns_of_labels,
    draw_probabilities,
    draw_stages,
    make_panels,
)
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, stage_labels


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
        Seconds from the recording's start; by default epochs follow one another. Of
        windows that overlap evenly (30 s around each epoch of 20 s) the middle is drawn.
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
        cls, estimator, X, y=None, *, probabilities=True, classes=None, ax=None
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
        classes : {"aasm", "wldr", "wnr"} or list, optional
            The stages; by default the scheme that the stager was given.
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
        check_one_recording(X)
        classes = classes_of(estimator, classes)
        areas = None
        if probabilities:
            areas = columns_of_labels(
                estimator.predict_proba(X), estimator.classes_, stage_labels(classes)
            )
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
        check_consistent_length(y_pred, onset, self.y_true, self.probabilities)
        steps = Steps(onset)

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

        for panel, (title, codes) in zip(self.ax_, stages.items(), strict=False):
            draw_stages(panel, steps, codes, self.classes, title)
        if self.probabilities is not None:
            title = "Predicted probability"
            draw_probabilities(self.ax_[-1], steps, self.probabilities, self.classes, title)
        self.ax_[0].set_xlim(steps.edges[0], steps.edges[-1])
        self.ax_[-1].set_xlabel("Time (h)")
        return self
