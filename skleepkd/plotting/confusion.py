"""Which stages are taken for which."""

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils import check_consistent_length

from skleepkd.plotting.common import codes_with_gaps
from skleepkd.stages import UNSCORED, stage_labels


def plot_confusion_matrix(y_true, y_pred, *, classes="aasm", ax=None):
    r"""Draw a confusion matrix with the stages' names and the share of each true stage.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_epochs,)
        Scored and predicted stages; unscored epochs are skipped.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    sklearn.metrics.ConfusionMatrixDisplay
        Its ``confusion_matrix`` holds the share of each row, 0 where the true stage is
        absent.

    Raises
    ------
    ValueError
        If lengths differ, no epoch is scored or a label is not among ``classes``.

    Examples
    --------
    >>> from skleepkd.plotting import plot_confusion_matrix
    >>> display = plot_confusion_matrix([0, 0, 1, -1], [0, 1, 1, 1], classes="wnr")
    >>> display.confusion_matrix[0].tolist(), display.text_[0, 0].get_text()
    ([0.5, 0.5, 0.0], '50 %\n1')
    """
    import matplotlib.pyplot as plt

    labels = stage_labels(classes)
    check_consistent_length(y_true, y_pred)
    true = codes_with_gaps(y_true, labels, "y_true")
    predicted = codes_with_gaps(y_pred, labels, "y_pred")
    if np.all(true == UNSCORED):
        raise ValueError(f"None of the {len(true)} epochs is scored.")
    counts = confusion_matrix(true, predicted, labels=range(len(labels)))
    totals = counts.sum(axis=1)
    display = ConfusionMatrixDisplay(
        counts / np.maximum(totals, 1)[:, None], display_labels=labels
    )
    if ax is None:
        side = 1.6 + 0.8 * len(labels)
        _, ax = plt.subplots(figsize=(side, side), layout="constrained")
    display.plot(ax=ax, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})
    for row, column in np.ndindex(counts.shape):
        share, count = display.confusion_matrix[row, column], counts[row, column]
        display.text_[row, column].set_text(f"{100 * share:.0f} %\n{count}")
    totals = [f"{name}\n({n})" for name, n in zip(labels, totals, strict=True)]
    ax.set_yticks(range(len(labels)), totals)
    ax.set(xlabel="Predicted stage", ylabel="True stage (epochs)")
    return display
