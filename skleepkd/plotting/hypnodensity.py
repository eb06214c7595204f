"""The probabilities of the stages over a night, at any resolution."""

import numpy as np
from sklearn.utils import check_consistent_length

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
from skleepkd.stages import EPOCH_SECONDS, stage_labels


class HypnodensityDisplay:
    """Hypnodensity of one night: the scored stages above, their probabilities below.

    Where time has no answer, the areas are blank.

    Parameters
    ----------
    probabilities : array-like of shape (n_answers, n_classes)
        The probability of each stage, as :meth:`skleepkd.SleepStager.hypnodensity` gives
        it, columns in the order of ``classes``.
    resolution : float
        Seconds for each answer.
    onset : array-like of shape (n_answers,), optional
        When each answer's time begins, in seconds from the recording's start; by default
        answers follow one another.
    y_true : array-like of shape (n_epochs,), optional
        The scored stages, one for each epoch of 30 s.
    y_onset : array-like of shape (n_epochs,), optional
        Seconds from the recording's start of the scored epochs; by default they follow
        one another from the first answer.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (n_panels,)
        The panels from the top.
    figure_ : matplotlib Figure

    References
    ----------
    .. [1] Stephansen, J. B. et al. (2018). Neural network analysis of sleep stages enables
       efficient diagnosis of narcolepsy. (The word and the picture.)

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.plotting import HypnodensityDisplay
    >>> wake, light = [0.9, 0.1, 0, 0, 0], [0.1, 0.6, 0.3, 0, 0]
    >>> display = HypnodensityDisplay.from_predictions(
    ...     [wake] * 6 + [light] * 6, resolution=10, y_true=["W", "W", "N1", "N1"]
    ... )
    >>> [panel.get_title(loc="left") for panel in display.ax_]
    ['Truth', 'Hypnodensity, an answer every 10 s']
    """

    def __init__(
        self,
        *,
        probabilities,
        resolution,
        onset=None,
        y_true=None,
        y_onset=None,
        classes="aasm",
    ):
        self.probabilities = probabilities
        self.resolution = resolution
        self.onset = onset
        self.y_true = y_true
        self.y_onset = y_onset
        self.classes = classes

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, resolution=1.0, classes=None, ax=None):
        """Ask for a night's hypnodensity and draw it.

        Parameters
        ----------
        estimator : fitted stager
            Asked for ``hypnodensity(X, resolution)``.
        X : PairedEpochs or array-like of shape (n_epochs, ...)
            One recording. Its ``onset`` is used where it has one.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        resolution : float, default=1.0
            Seconds for each answer.
        classes : {"aasm", "wldr", "wnr"} or list, optional
            The stages; by default the scheme that the stager was given.
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Returns
        -------
        HypnodensityDisplay

        Raises
        ------
        ValueError
            If ``X`` holds more than one recording, or the stager cannot answer at this
            resolution.
        """
        check_one_recording(X)
        classes = classes_of(estimator, classes)
        probabilities, onset = estimator.hypnodensity(X, resolution, return_onset=True)
        labels = stage_labels(classes)
        return cls.from_predictions(
            columns_of_labels(probabilities, estimator.classes_, labels),
            resolution=resolution,
            onset=onset,
            y_true=y,
            y_onset=getattr(X, "onset", None),
            classes=classes,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        probabilities,
        *,
        resolution,
        onset=None,
        y_true=None,
        y_onset=None,
        classes="aasm",
        ax=None,
    ):
        """Draw a hypnodensity that is already at hand.

        Parameters
        ----------
        probabilities, resolution, onset, y_true, y_onset, classes
            As for the class.
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Returns
        -------
        HypnodensityDisplay
        """
        display = cls(
            probabilities=probabilities,
            resolution=resolution,
            onset=onset,
            y_true=y_true,
            y_onset=y_onset,
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
        HypnodensityDisplay

        Raises
        ------
        ValueError
            If lengths differ, answers or epochs overlap, there is no answer or a stage is
            not among the classes.
        """
        labels = stage_labels(self.classes)
        probabilities = np.asarray(self.probabilities, dtype=float)
        if probabilities.shape != (len(probabilities), len(labels)) or not len(
            probabilities
        ):
            raise ValueError(
                f"probabilities has shape {probabilities.shape}; one row an answer, and one "
                f"column for each of {labels}, is expected."
            )
        onset = self.onset
        if onset is None:
            onset = self.resolution * np.arange(len(probabilities))
        check_consistent_length(probabilities, onset)
        answers = Steps(onset, self.resolution)

        n_panels = 1 + (self.y_true is not None)
        self.figure_, axes = make_panels(
            ax, n_panels, 1, figsize=(10, 0.4 + 1.7 * n_panels), sharex=True
        )
        self.ax_ = axes[:, 0]
        start, stop = answers.edges[[0, -1]]
        if self.y_true is not None:
            codes = codes_with_gaps(self.y_true, labels, "y_true")
            y_onset = self.y_onset
            if y_onset is None:
                y_onset = np.min(onset) + EPOCH_SECONDS * np.arange(len(codes))
            check_consistent_length(codes, y_onset)
            epochs = Steps(y_onset)
            draw_stages(self.ax_[0], epochs, codes, self.classes, "Truth")
            start, stop = min(start, epochs.edges[0]), max(stop, epochs.edges[-1])
        title = f"Hypnodensity, an answer every {self.resolution:g} s"
        draw_probabilities(self.ax_[-1], answers, probabilities, self.classes, title)
        self.ax_[0].set_xlim(start, stop)
        self.ax_[-1].set_xlabel("Time (h)")
        return self
