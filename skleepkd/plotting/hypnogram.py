"""The hypnogram of a night, and the probabilities of its stages at any resolution."""

import numpy as np
from sklearn.utils import check_consistent_length

from skleepkd.metrics import staging_report
from skleepkd.pipelines import final_estimator, scheme_of, transform
from skleepkd.plotting.common import (
    SMALL_LEGEND,
    STAGE_COLORS,
    codes_with_gaps,
    make_panels,
    stage_colors,
)
from skleepkd.stages import EPOCH_SECONDS, UNSCORED, stage_codes, stage_labels


class HypnogramDisplay:
    """Hypnogram of one night: scored stages, predicted stages and their probabilities.

    What is given has a panel each, from the top. Known stages are drawn in the order of
    sleep, REM as a red bar. Where an epoch is unscored or missing, the line is broken and
    the areas are blank.

    Parameters
    ----------
    y_true : array-like of shape (n_epochs,), optional
        The scored stages.
    y_pred : array-like of shape (n_epochs,), optional
        The predicted stages.
    onset : array-like of shape (n_epochs,), optional
        When each epoch begins, in seconds from the recording's start; by default epochs
        follow one another. Of windows that overlap evenly (30 s around each epoch of
        20 s) the middle is drawn.
    probabilities : array-like of shape (n_steps, n_classes), optional
        The predicted probability of each stage, a row for each epoch, or a hypnodensity
        [1]_ as :meth:`skleepkd.SleepStager.hypnodensity` gives it.
    resolution : float, default=30.0
        Seconds for each row of ``probabilities``.
    proba_onset : array-like of shape (n_steps,), optional
        When each row of ``probabilities`` begins, in seconds; by default ``onset`` at
        30 s, while shorter or longer steps follow one another from the first epoch on.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (n_panels,)
    figure_ : matplotlib Figure

    References
    ----------
    .. [1] Stephansen, J. B. et al. (2018). Neural network analysis of sleep stages enables
       efficient diagnosis of narcolepsy.

    Examples
    --------
    >>> from skleepkd.plotting import HypnogramDisplay
    >>> wake, light = [0.9, 0.1, 0, 0, 0], [0.1, 0.6, 0.3, 0, 0]
    >>> display = HypnogramDisplay.from_predictions(
    ...     ["W", "W", "N1", "N1"], probabilities=[wake] * 6 + [light] * 6, resolution=10
    ... )
    >>> [panel.get_title(loc="left") for panel in display.ax_]
    ['Truth', 'Predicted probability every 10 s']
    """

    def __init__(
        self,
        *,
        y_true=None,
        y_pred=None,
        onset=None,
        probabilities=None,
        resolution=EPOCH_SECONDS,
        proba_onset=None,
        classes="aasm",
    ):
        self.y_true = y_true
        self.y_pred = y_pred
        self.onset = onset
        self.probabilities = probabilities
        self.resolution = resolution
        self.proba_onset = proba_onset
        self.classes = classes

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        probabilities=True,
        resolution=EPOCH_SECONDS,
        classes=None,
        ax=None,
    ):
        """Predict a night and draw it.

        Parameters
        ----------
        estimator : fitted classifier
            A stager, or a ``Pipeline`` that ends in one.
        X : PairedEpochs or array-like of shape (n_epochs, ...)
            One recording, whose ``onset`` is used where it has one.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        probabilities : bool, default=True
            Whether to draw the predicted probabilities.
        resolution : float, default=30.0
            Seconds for each of them: other than 30 s, the stager's ``hypnodensity``.
        classes, ax
            As for the class, by default the stager's own scheme, and :meth:`plot`.

        Returns
        -------
        HypnogramDisplay

        Raises
        ------
        ValueError
            If ``X`` holds more than one recording, or the stager has no hypnodensity of
            this resolution.
        """
        recording = getattr(X, "recording", None)
        if recording is not None and len(np.unique(recording)) > 1:
            raise ValueError(
                f"A hypnogram shows one recording; X holds {np.unique(recording).tolist()}. "
                "Select one, as in X[X.recording == name]."
            )
        stager = final_estimator(estimator)
        if classes is None:
            classes = scheme_of(stager) or "aasm"
        areas = proba_onset = None
        if probabilities:
            if resolution == EPOCH_SECONDS:
                predicted = estimator.predict_proba(X)
            else:
                predicted, proba_onset = stager.hypnodensity(
                    transform(estimator, X), resolution, return_onset=True
                )
            # Stages that the estimator lacks have the probability 0.
            labels = stage_labels(classes)
            columns = stage_codes(estimator.classes_, labels, "estimator.classes_")
            areas = np.zeros((len(predicted), len(labels)))
            areas[:, columns] = predicted
        return cls.from_predictions(
            y,
            estimator.predict(X),
            onset=getattr(X, "onset", None),
            probabilities=areas,
            resolution=resolution,
            proba_onset=proba_onset,
            classes=classes,
            ax=ax,
        )

    @classmethod
    def from_predictions(cls, y_true=None, y_pred=None, *, ax=None, **parameters):
        """Draw a night whose predictions are at hand.

        Parameters
        ----------
        y_true, y_pred, ax, **parameters
            As for the class and :meth:`plot`.

        Returns
        -------
        HypnogramDisplay
        """
        return cls(y_true=y_true, y_pred=y_pred, **parameters).plot(ax=ax)

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
            If lengths differ, epochs or steps overlap, a stage is not among the classes or
            the probabilities have other columns.
        """
        labels = stage_labels(self.classes)
        from_top = np.arange(len(labels))
        if set(labels) <= set(STAGE_COLORS):
            from_top = np.argsort([[*STAGE_COLORS].index(label) for label in labels])
        given = {"y_true": self.y_true, "y_pred": self.y_pred}
        stages = {
            name: codes_with_gaps(y, labels, name)
            for name, y in given.items()
            if y is not None
        }
        onset = self.onset
        if onset is None and stages:
            n_epochs = max(map(len, stages.values()))
            onset = EPOCH_SECONDS * np.arange(n_epochs)
        check_consistent_length(*stages.values(), onset)
        titles = {"y_true": "Truth", "y_pred": "Prediction"}
        if len(stages) == 2 and np.any(stages["y_true"] != UNSCORED):
            report = staging_report(self.y_true, self.y_pred, classes=self.classes)
            titles["y_pred"] += f" (kappa {report.pooled['kappa']:.2f})"
        panels = [
            (titles[name], _Steps(onset, EPOCH_SECONDS), codes, _draw_stages)
            for name, codes in stages.items()
        ]
        if self.probabilities is not None:
            probabilities = np.asarray(self.probabilities, dtype=float)
            if probabilities.shape[1:] != (len(labels),):
                raise ValueError(
                    f"probabilities has shape {probabilities.shape}; a column for each of "
                    f"{labels} is expected."
                )
            proba_onset = self.proba_onset
            if proba_onset is None and self.resolution == EPOCH_SECONDS:
                proba_onset = onset
            if proba_onset is None:
                first = 0.0 if onset is None else np.min(onset)
                proba_onset = first + self.resolution * np.arange(len(probabilities))
            check_consistent_length(probabilities, proba_onset)
            title = f"Predicted probability every {self.resolution:g} s"
            steps = _Steps(proba_onset, self.resolution)
            panels.append((title, steps, probabilities, _draw_probabilities))

        self.figure_, axes = make_panels(
            ax, len(panels), 1, figsize=(10, 0.4 + 1.7 * len(panels)), sharex=True
        )
        self.ax_ = axes[:, 0]
        for panel, (title, steps, values, draw) in zip(self.ax_, panels, strict=True):
            draw(panel, steps, values, labels, from_top)
            panel.set_title(title, loc="left", fontsize="medium")
        edges = np.concatenate([steps.edges for _, steps, _, _ in panels])
        self.ax_[0].set_xlim(edges.min(), edges.max())
        self.ax_[-1].set_xlabel("Time (h)")
        return self


class _Steps:
    """Steps of equal length in time, ``edges`` in hours, with holes where some are missing."""

    def __init__(self, onset, seconds):
        onset = np.asarray(onset, dtype=float)
        if not len(onset):
            raise ValueError("There are no epochs to draw.")
        self._order = np.argsort(onset, kind="stable")
        onset = onset[self._order]
        apart = np.diff(onset)
        tolerance = min(0.1, seconds / 10)  # onsets are written as rounded decimals
        # Of windows that lie closer (30 s around epochs of 20 s) the middle is drawn, as
        # long as they usually lie apart.
        usual = np.quantile(apart, 0.5, method="lower") if len(apart) else seconds
        drawn = min(seconds, usual) if usual >= seconds / 2 else seconds
        if np.any(apart < drawn - tolerance):
            raise ValueError(
                f"Steps of {seconds:g} s overlap at these onsets, the closest of which are "
                f"{apart.min():g} s apart. A hypnogram shows one recording, and onset is in "
                "seconds. Of 30 s windows around 20 s epochs, draw what has a resolution of "
                "30 s."
            )
        onset = onset + (seconds - drawn) / 2
        self._holes = 1 + np.flatnonzero(apart > drawn + tolerance)
        edges = np.append(onset, onset[-1] + drawn)
        self.edges = np.insert(edges, self._holes, onset[self._holes - 1] + drawn) / 3600

    def fill(self, values):
        """One value for each step between the edges, nan in the holes."""
        values = np.asarray(values, dtype=float)[self._order]
        return np.insert(values, self._holes, np.nan, axis=0)


def _draw_stages(panel, steps, codes, labels, from_top):
    """Draw a line that is broken where unscored, and REM as bars."""
    # UNSCORED is -1: the last entry, which is nan
    level = np.append(np.argsort(from_top), np.nan)[codes]
    rem = np.array([label in ("REM", "R") for label in labels] + [False])[codes]
    line, bars = steps.fill(level), steps.fill(np.where(rem, level, np.nan))
    panel.stairs(line, steps.edges, baseline=None, color="#333333", linewidth=1)
    red = STAGE_COLORS["REM"]
    panel.stairs(bars, steps.edges, baseline=None, color=red, linewidth=4)
    panel.set_yticks(range(len(labels)), [labels[code] for code in from_top])
    panel.set_ylim(len(labels) - 0.6, -0.4)


def _draw_probabilities(panel, steps, probabilities, labels, from_top):
    """Draw areas one above the other."""
    # Each area reaches down to 0 and the next is painted over it: areas that only touch
    # would let the ground shine through where steps are narrower than a pixel.
    heights = steps.fill(probabilities)[:, from_top[::-1]].cumsum(axis=1)[:, ::-1]
    colors = stage_colors(labels)
    for height, code in zip(heights.T, from_top, strict=True):
        style = {"color": colors[code], "label": labels[code], "linewidth": 0}
        panel.stairs(height, steps.edges, fill=True, **style)
    panel.set_ylim(0, 1)
    panel.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    place = {"loc": "center left", "bbox_to_anchor": (1.005, 0.5)}
    panel.legend(**place, handlelength=1, **SMALL_LEGEND)
