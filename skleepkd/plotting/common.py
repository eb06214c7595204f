"""What the displays share: panels, stage codes and stage colours."""

import numpy as np

from skleepkd.stages import UNSCORED, is_unscored, stage_codes

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
SMALL_LEGEND = {"frameon": False, "fontsize": "small"}


def make_panels(ax, n_rows, n_columns, *, figsize, **share):
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
    axes = grid.subplots(squeeze=False, **share)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def codes_with_gaps(y, labels, argument):
    """Codes of stages, -1 where unscored."""
    y = np.asarray(y)
    codes = np.full(len(y), UNSCORED)
    scored = ~is_unscored(y)
    if scored.any():
        codes[scored] = stage_codes(y[scored], labels, argument)
    return codes


def stage_colors(labels):
    """Colour of each label: the stage's own, or one of a cycle for other names."""
    return [STAGE_COLORS.get(label, f"C{k % 10}") for k, label in enumerate(labels)]
