"""The course of a training."""

from skleepkd.pipelines import final_estimator
from skleepkd.plotting.hypnogram import LEGEND, make_panels


class TrainingCurveDisplay:
    """Loss and, where there is one, a score over the course of a training.

    Parameters
    ----------
    histories : dict of str to skorch History
        Of each training, by the name to be shown: for each pass a dict with ``train_loss``
        and, as far as they were recorded, ``valid_loss`` and the score. Where all have
        ``step``, the curves go over the steps of the training instead of its passes.
    score : str, default="valid_kappa"
        The score to draw. The best of a ``valid_`` score is marked; of another, such as
        that of a test subject, no best is to be chosen.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (1,) or (2,)
        Loss, and the score where any training has it.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from skleepkd.plotting import TrainingCurveDisplay
    >>> history = [{"train_loss": 1.2}, {"train_loss": 0.8}]
    >>> TrainingCurveDisplay(histories={"ear": history}).plot().ax_.shape
    (1,)
    """

    def __init__(self, *, histories, score="valid_kappa"):
        self.histories = histories
        self.score = score

    @classmethod
    def from_estimators(cls, estimators, *, ax=None):
        """Draw the trainings of fitted stagers, as :meth:`plot` does.

        Parameters
        ----------
        estimators : dict of str to estimator
            Fitted stagers, or pipelines that end in one, by the name to be shown.
        ax
            As for :meth:`plot`.
        """
        stagers = {name: final_estimator(one) for name, one in estimators.items()}
        return cls(histories={n: s.history for n, s in stagers.items()}).plot(ax=ax)

    def plot(self, ax=None):
        """Draw the display and return it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.

        Raises
        ------
        ValueError
            If a history is empty.
        """
        import pandas as pd
        from matplotlib.ticker import MaxNLocator

        empty = [name for name, history in self.histories.items() if not len(history)]
        if empty:
            raise ValueError(f"Nothing was trained yet, or no pass was run: {empty}.")
        columns = ["step", "train_loss", "valid_loss", self.score]
        curves = {
            name: pd.DataFrame(list(history)).reindex(columns=columns)
            for name, history in self.histories.items()
        }
        n_panels = 1 + any(curve[self.score].notna().any() for curve in curves.values())
        has_steps = all(curve["step"].notna().all() for curve in curves.values())
        self.ax_ = make_panels(ax, 1, n_panels, figsize=(5.2 * n_panels, 3.6))[0]
        self.figure_ = self.ax_[0].figure
        for k, (name, curve) in enumerate(curves.items()):
            curve = curve.set_index(curve["step"] if has_steps else curve.index + 1)
            score = curve[self.score]
            # A single point would not show as a line.
            style = {"color": f"C{k}", "marker": "." if len(curve) == 1 else None}
            self.ax_[0].plot(curve["train_loss"], label=f"{name}, training", **style)
            if curve["valid_loss"].notna().any():
                label = f"{name}, validation"
                self.ax_[0].plot(curve["valid_loss"], "--", label=label, **style)
            if score.notna().any():
                if self.score.startswith("valid_"):
                    name += f", best {score.max():.2f}"
                    style |= {"marker": "o", "markevery": [score.argmax()]}
                self.ax_[1].plot(score, label=name, **style)
        title = self.score.replace("valid_", "validation_").replace("_", " ").capitalize()
        for panel, what in zip(self.ax_, ("Loss", title), strict=False):
            panel.set_title(what, loc="left", fontsize="medium")
            panel.set_xlabel(
                "Training step" if has_steps else "Pass over the training epochs"
            )
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            panel.grid(alpha=0.25)
            panel.legend(**LEGEND)
        return self
