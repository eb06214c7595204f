"""What the displays share: panels, time, stage codes and stage colours."""

import numpy as np

from skleepkd.pipelines import final_estimator, scheme_of
from skleepkd.stages import (
    EPOCH_SECONDS,
    UNSCORED,
    is_unscored,
    stage_codes,
    stage_labels,
)

#: Amber for wake, red for REM, blues that darken with the depth of sleep.
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
#: From the top of a hypnogram to its bottom.
_FROM_THE_TOP = {
    "aasm": ("W", "REM", "N1", "N2", "N3"),
    "wldr": ("W", "R", "L", "D"),
    "wnr": ("W", "R", "N"),
}
_REM = ("REM", "R")


def classes_of(estimator, classes):
    """Stages to draw: what was given, else the scheme of a stager, else the five."""
    if classes is not None:
        return classes
    return scheme_of(final_estimator(estimator)) or "aasm"


def make_panels(ax, n_rows, n_columns, *, figsize, sharex=False, sharey=False):
    """Make a figure with a grid of axes, or a grid in the place of the given axes."""
    import matplotlib.pyplot as plt

    if ax is None:
        figure = plt.figure(figsize=figsize)
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # inches
        grid = figure.add_gridspec(n_rows, n_columns)
    else:
        figure, place = ax.figure, ax.get_subplotspec()
        if place is None:
            raise ValueError("ax has no place in a grid; make it with plt.subplots.")
        grid = place.subgridspec(n_rows, n_columns)
        ax.set_axis_off()
    axes = grid.subplots(sharex=sharex, sharey=sharey, squeeze=False)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def codes_with_gaps(y, labels, argument):
    """Places of stages among the labels, -1 where unscored."""
    y = np.asarray(y)
    codes = np.full(len(y), UNSCORED)
    scored = ~is_unscored(y)
    if scored.any():
        codes[scored] = stage_codes(y[scored], labels, argument)
    return codes


def stage_colors(labels, shown):
    """Colours of the shown labels: the stages' own, or a cycle for other names."""
    return [STAGE_COLORS.get(label, f"C{labels.index(label) % 10}") for label in shown]


def check_one_recording(X):
    """Refuse epochs of several recordings, which have no common time."""
    recording = getattr(X, "recording", None)
    if recording is not None and len(np.unique(recording)) > 1:
        raise ValueError(
            f"A hypnogram shows one recording; X holds {np.unique(recording).tolist()}. "
            "Select one, as in X[X.recording == name]."
        )


def columns_of_labels(probabilities, classes, labels):
    """Columns in the order of the labels, 0 for those that an estimator lacks."""
    columns = stage_codes(classes, labels, "estimator.classes_")
    ordered = np.zeros((len(probabilities), len(labels)))
    ordered[:, columns] = probabilities
    return ordered


class Steps:
    """Steps of equal length in time, with holes where some are missing.

    Windows of 30 s that lie closer (around epochs of 20 s) have their middle drawn, as
    long as they usually lie apart.

    Parameters
    ----------
    onset : array-like of shape (n_steps,)
        Seconds from the recording's start, in any order.
    seconds : float
        How long each lasts.

    Attributes
    ----------
    edges : ndarray of shape (n_steps + n_holes + 1,)
        Where the steps begin and end, in hours.

    Raises
    ------
    ValueError
        If steps overlap otherwise.
    """

    def __init__(self, onset, seconds=EPOCH_SECONDS):
        onset = np.asarray(onset, dtype=float)
        self._order = np.argsort(onset, kind="stable")
        onset = onset[self._order]
        apart = np.diff(onset)
        tolerance = min(0.1, seconds / 10)  # onsets are written as rounded decimals
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
        """Return one value for each step between the edges, nan in the holes."""
        values = np.asarray(values, dtype=float)[self._order]
        return np.insert(values, self._holes, np.nan, axis=0)


def _order_of(classes):
    """Labels in the order of their codes, and from the top of a hypnogram."""
    labels = stage_labels(classes)
    return labels, _FROM_THE_TOP.get(str(classes), labels)


def draw_stages(panel, steps, codes, classes, title):
    """Draw a hypnogram: a line that is broken where unscored, and REM as bars."""
    labels, from_the_top = _order_of(classes)
    # UNSCORED is -1: the last entry, which is nan
    level = np.array([from_the_top.index(label) for label in labels] + [np.nan])[codes]
    rem = np.array([label in _REM for label in labels] + [False])[codes]
    panel.stairs(
        steps.fill(level), steps.edges, baseline=None, color="#333333", linewidth=1
    )
    panel.stairs(
        steps.fill(np.where(rem, level, np.nan)),
        steps.edges,
        baseline=None,
        color=STAGE_COLORS["REM"],
        linewidth=4,
    )
    panel.set_yticks(range(len(labels)), from_the_top)
    panel.set_ylim(len(labels) - 0.6, -0.4)
    panel.set_title(title, loc="left", fontsize="medium")


def draw_probabilities(panel, steps, probabilities, classes, title):
    """Draw probabilities as areas one above the other, in the order of a hypnogram."""
    labels, from_the_top = _order_of(classes)
    areas = steps.fill(probabilities)[:, [labels.index(label) for label in from_the_top]]
    # Each area reaches down to 0 and the next is painted over it: areas that only touch
    # would let the ground shine through where steps are narrower than a pixel.
    heights = areas[:, ::-1].cumsum(axis=1)[:, ::-1]
    colors = stage_colors(labels, from_the_top)
    for height, label, color in zip(heights.T, from_the_top, colors, strict=True):
        panel.stairs(height, steps.edges, fill=True, color=color, label=label, linewidth=0)
    panel.set_ylim(0, 1)
    panel.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    panel.set_title(title, loc="left", fontsize="medium")
    panel.legend(
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        fontsize="small",
        handlelength=1,
    )
