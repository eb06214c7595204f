"""The hypnogram of a night, and the probabilities of its stages at any resolution."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils import check_consistent_length

from skleepkd.metrics import staging_report
from skleepkd.pipelines import final_estimator, scheme_of, transform
from skleepkd.stages import (
    EPOCH_SECONDS,
    UNSCORED,
    column_labels,
    is_unscored,
    stage_codes,
    stage_labels,
)

#: From the top of a hypnogram to its bottom: amber for wake, red for REM, blues that darken
#: with the depth of sleep.
STAGE_COLORS = {
    "W": "#f0b23e",
    "REM": "#c8364a",
    "R": "#c8364a",
    "N1": "#a9cfe8",
    "L": "#7fb2dc",
    "N": "#4a90c8",
    "N2": "#4a90c8",
    "N3": "#14406f",
    "D": "#14406f",
}
LEGEND = {"frameon": False, "fontsize": "small"}


@dataclass(kw_only=True, repr=False, eq=False)
class HypnogramDisplay:
    """Hypnogram of one night: scored stages, predicted stages and their probabilities.

    What is given has a panel each, from the top. Known stages are drawn in the order of
    sleep, REM as a red bar. Where an epoch is unscored or missing, the line is broken and
    the areas are blank.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_epochs,), optional
        The scored and the predicted stages.
    onset : array-like of shape (n_epochs,), optional
        When each epoch begins, in seconds from the recording's start; by default epochs
        follow one another. Of windows that overlap evenly (30 s around each epoch of
        20 s) the middle is drawn.
    epoch : float, default=30.0
        Length of an epoch in seconds.
    probabilities : array-like of shape (n_steps, n_classes), optional
        The predicted probability of each stage, a row for each epoch, or a hypnodensity
        [1]_ as :meth:`skleepkd.SleepStager.hypnodensity` gives it: columns in the order of
        ``stager.classes_`` (in alphabetical order where ``y_true`` and ``y_pred`` are names).
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

    y_true: np.ndarray | None = None
    y_pred: np.ndarray | None = None
    onset: np.ndarray | None = None
    epoch: float = EPOCH_SECONDS
    probabilities: np.ndarray | None = None
    resolution: float = EPOCH_SECONDS
    proba_onset: np.ndarray | None = None
    classes: str | list = "aasm"

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, resolution=EPOCH_SECONDS, classes=None, ax=None
    ):
        """Predict a night and draw it, as :meth:`plot` does.

        Parameters
        ----------
        estimator : fitted classifier
            A stager, or a ``Pipeline`` that ends in one.
        X : PairedEpochs or array-like of shape (n_epochs, ...)
            One recording, whose ``onset`` is used where it has one.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        resolution : float, default=30.0
            Seconds for each probability: other than 30 s, the stager's ``hypnodensity``.
        classes, ax
            As for the class, by default the stager's own scheme, and :meth:`plot`.

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
        if resolution == EPOCH_SECONDS:
            predicted, proba_onset = estimator.predict_proba(X), None
        else:
            predicted, proba_onset = stager.hypnodensity(
                transform(estimator, X), resolution, return_onset=True
            )
        # Stages that the estimator lacks have the probability 0.
        columns = column_labels(classes, estimator.classes_)
        probabilities = np.zeros((len(predicted), len(columns)))
        probabilities[:, stage_codes(estimator.classes_, columns, "classes_")] = predicted
        return cls(
            y_true=y,
            y_pred=estimator.predict(X),
            onset=getattr(X, "onset", None),
            probabilities=probabilities,
            resolution=resolution,
            proba_onset=proba_onset,
            classes=classes,
        ).plot(ax=ax)

    @classmethod
    def from_predictions(cls, y_true=None, y_pred=None, *, ax=None, **parameters):
        """Draw what the class describes, as :meth:`plot` does."""
        return cls(y_true=y_true, y_pred=y_pred, **parameters).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the display and return it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

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
        y_true, y_pred, onset = self.y_true, self.y_pred, self.onset
        check_consistent_length(y_true, y_pred, onset)
        prediction = "Prediction"
        if y_true is not None and y_pred is not None:
            scored = ~(is_unscored(y_true) | is_unscored(y_pred))
            if scored.any():
                pair = np.asarray(y_true)[scored], np.asarray(y_pred)[scored]
                report = staging_report(*pair, classes=self.classes)
                prediction += f" (kappa {report.pooled['kappa']:.2f})"
        panels = []
        for title, name, y in (("Truth", "y_true", y_true), (prediction, "y_pred", y_pred)):
            if y is None:
                continue
            if onset is None:
                onset = self.epoch * np.arange(len(y))
            # UNSCORED is -1: the last entry, which is nan.
            levels = np.append(np.argsort(from_top), np.nan)[stage_or_gap(y, labels, name)]
            panels.append((title, _draw_stages, *_in_time(levels, onset, self.epoch)))
        if self.probabilities is not None:
            probabilities = np.asarray(self.probabilities, dtype=float)
            if probabilities.shape[1:] != (len(labels),):
                given = f"probabilities has shape {probabilities.shape}"
                raise ValueError(f"{given}; a column for each of {labels} is expected.")
            starts = self.proba_onset
            if starts is None and self.resolution == EPOCH_SECONDS:
                starts = onset
            if starts is None:
                first = 0.0 if onset is None else np.min(onset)
                starts = first + self.resolution * np.arange(len(probabilities))
            check_consistent_length(probabilities, starts)
            title = f"Predicted probability every {self.resolution:g} s"
            y = y_pred if y_true is None else y_true
            columns = labels if y is None else column_labels(self.classes, y)
            places = [columns.index(labels[code]) for code in from_top]
            steps = _in_time(probabilities[:, places], starts, self.resolution)
            panels.append((title, _draw_probabilities, *steps))

        figsize = (10, 0.4 + 1.7 * len(panels))
        self.ax_ = make_panels(ax, len(panels), 1, figsize=figsize, sharex=True)[:, 0]
        self.figure_ = self.ax_[0].figure
        for panel, (title, draw, values, edges) in zip(self.ax_, panels, strict=True):
            draw(panel, values, edges, [labels[code] for code in from_top])
            panel.set_title(title, loc="left", fontsize="medium")
        edges = np.concatenate([edges for *_, edges in panels])
        self.ax_[0].set_xlim(edges.min(), edges.max())
        self.ax_[-1].set_xlabel("Time (h)")
        return self


def make_panels(ax, n_rows, n_columns, *, figsize, **share):
    """Make a grid of axes in a new figure, or in the place of the given axes."""
    import matplotlib.pyplot as plt

    if ax is None:
        figure = plt.figure(figsize=figsize, layout="constrained")
        grid = figure.add_gridspec(n_rows, n_columns)
    else:
        grid = ax.get_subplotspec().subgridspec(n_rows, n_columns)
        ax.set_axis_off()
    axes = grid.subplots(squeeze=False, **share)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return axes


def stage_or_gap(y, labels, argument):
    """Codes of stages, -1 where unscored."""
    y = np.asarray(y)
    scored = ~is_unscored(y)
    codes = np.full(len(y), UNSCORED)
    codes[scored] = stage_codes(y[scored], labels, argument)
    return codes


def stage_colors(labels):
    """Colour of each label: the stage's own, or one of a cycle for other names."""
    return [STAGE_COLORS.get(label, f"C{k}") for k, label in enumerate(labels)]


def _in_time(values, onset, seconds):
    """Sort steps by time, with nan in the holes between them; their edges in hours."""
    if not len(values):
        raise ValueError("There are no epochs to draw.")
    order = np.argsort(onset, kind="stable")
    onset = np.asarray(onset, dtype=float)[order]
    apart = np.diff(onset)
    tolerance = min(0.1, seconds / 10)  # onsets are written as rounded decimals
    # Of windows that lie closer (30 s around epochs of 20 s) the middle is drawn, as long
    # as they usually lie apart.
    usual = np.quantile(apart, 0.5, method="lower") if len(apart) else seconds
    drawn = min(seconds, usual) if usual >= seconds / 2 else seconds
    if np.any(apart < drawn - tolerance):
        raise ValueError(
            f"Steps of {seconds:g} s overlap at these onsets, which are in seconds. Draw one "
            "recording; of 30 s windows around 20 s epochs a resolution of 30 s."
        )
    onset += (seconds - drawn) / 2
    holes = 1 + np.flatnonzero(apart > drawn + tolerance)
    edges = np.insert(np.append(onset, onset[-1] + drawn), holes, onset[holes - 1] + drawn)
    return np.insert(values[order], holes, np.nan, axis=0), edges / 3600


def _draw_stages(panel, levels, edges, labels):
    """Draw a line that is broken where unscored, and REM as bars."""
    panel.stairs(levels, edges, baseline=None, color="#333333", linewidth=1)
    rem = [level for level, label in enumerate(labels) if label in ("REM", "R")]
    bars = np.where(np.isin(levels, rem), levels, np.nan)
    panel.stairs(bars, edges, baseline=None, color=STAGE_COLORS["REM"], linewidth=4)
    panel.set_yticks(range(len(labels)), labels)
    panel.set_ylim(len(labels) - 0.6, -0.4)


def _draw_probabilities(panel, probabilities, edges, labels):
    """Draw areas one above the other."""
    # Each area reaches down to 0 and the next is painted over it: areas that only touch
    # would let the ground shine through where steps are narrower than a pixel.
    heights = probabilities[:, ::-1].cumsum(axis=1)[:, ::-1]
    for height, label, color in zip(heights.T, labels, stage_colors(labels), strict=True):
        panel.stairs(height, edges, fill=True, color=color, label=label, linewidth=0)
    panel.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
    panel.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), handlelength=1, **LEGEND)
