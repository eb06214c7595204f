"""Maps of the features that networks have learned."""

import math

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state

from skleepkd.pipelines import final_estimator, transform
from skleepkd.plotting.common import codes_with_gaps, make_panels, stage_colors
from skleepkd.stages import stage_labels


class EmbeddingDisplay:
    """Features of several networks on one map, by t-SNE.

    All networks' features are mapped together, so that places can be compared between
    panels. Above 50 dimensions they are first reduced to their 50 leading principal
    components, as is usual for t-SNE.

    Parameters
    ----------
    embedding : dict of str to ndarray of shape (n_epochs, 2)
        The place of each epoch on the map, for each network.
    y : array-like of shape (n_epochs,), optional
        The scored stages of these epochs.
    classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
        The stages: a scheme's name, or the labels in the order of their codes.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes, shape (n_panels,)
    figure_ : matplotlib Figure

    References
    ----------
    van der Maaten, L. and Hinton, G. (2008). Visualizing data using t-SNE. The picture
    is Fig. 3 of Anandakumar et al. (2022), A knowledge distillation framework for
    enhancing ear-EEG based sleep staging with scalp-EEG data.
    """

    def __init__(self, *, embedding, y=None, classes="aasm"):
        self.embedding = embedding
        self.y = y
        self.classes = classes

    @classmethod
    def from_estimators(
        cls,
        estimators,
        X,
        y=None,
        *,
        layer=None,
        classes="aasm",
        max_epochs=500,
        perplexity=30.0,
        random_state=0,
        reference=None,
        color_by="network",
        ax=None,
    ):
        """Extract features with fitted stagers, map and draw them.

        Parameters
        ----------
        estimators : dict of str to estimator
            Fitted stagers, or pipelines that end in one, by the name to be shown.
        X : PairedEpochs, array-like or dict
            Held-out epochs for all of them, or the epochs of each by its name (a scalp
            teacher reads ``X.source_epochs``, an ear stager ``X``); rows are the same.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        layer : str, optional
            The layer whose answers are the features; by default the declared one.
        classes, max_epochs, perplexity, random_state, reference, color_by, ax
            As for :meth:`from_features`.

        Returns
        -------
        EmbeddingDisplay
        """
        features, n_epochs = {}, None
        for name, estimator in estimators.items():
            epochs = X[name] if isinstance(X, dict) else X
            stager = final_estimator(estimator)
            answers = stager.extract_features(transform(estimator, epochs), layer=layer)
            answers = np.asarray(answers)
            if n_epochs is None:
                rows = _draw_rows(len(answers), max_epochs, random_state)
            elif len(answers) != n_epochs:
                raise ValueError(
                    f"{name!r} has features of {len(answers)} epochs, the networks before "
                    f"it of {n_epochs}; give the same epochs to all."
                )
            n_epochs = len(answers)
            features[name] = answers[rows]
        return cls.from_features(
            features,
            None if y is None else np.asarray(y)[rows],
            classes=classes,
            max_epochs=None,
            perplexity=perplexity,
            random_state=random_state,
            reference=reference,
            color_by=color_by,
            ax=ax,
        )

    @classmethod
    def from_features(
        cls,
        features,
        y=None,
        *,
        classes="aasm",
        max_epochs=500,
        perplexity=30.0,
        random_state=0,
        reference=None,
        color_by="network",
        ax=None,
    ):
        """Map features and draw them.

        Parameters
        ----------
        features : dict of str to array-like of shape (n_epochs, ...)
            Features of the same epochs from each network, of one shape.
        y : array-like of shape (n_epochs,), optional
            The scored stages.
        classes : {"aasm", "wldr", "wnr"} or list, default="aasm"
            The stages.
        max_epochs : int or None, default=500
            If there are more epochs, so many are drawn at random.
        perplexity : float, default=30.0
            As in scikit-learn's ``TSNE``; lowered where there are too few epochs.
        random_state : int, RandomState instance or None, default=0
            Seed of the drawn epochs and of the map.
        reference, color_by, ax
            As for :meth:`plot`.

        Returns
        -------
        EmbeddingDisplay

        Raises
        ------
        ValueError
            If the features of two networks differ in shape.

        Examples
        --------
        >>> import numpy as np
        >>> from skleepkd.plotting import EmbeddingDisplay
        >>> rng = np.random.default_rng(0)
        >>> display = EmbeddingDisplay.from_features(
        ...     {"Scalp": rng.normal(size=(20, 8)), "Ear": rng.normal(3, size=(20, 8))}
        ... )
        >>> display.embedding["Ear"].shape
        (20, 2)
        """
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        features = {name: np.asarray(answers) for name, answers in features.items()}
        shapes = {name: answers.shape for name, answers in features.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(
                f"One map needs features of one shape from every network; given {shapes}."
            )
        random_state = check_random_state(random_state)
        n_epochs = len(next(iter(features.values())))
        if y is not None:
            check_consistent_length(next(iter(features.values())), y)
        rows = _draw_rows(n_epochs, max_epochs, random_state)
        # (n_networks * n_rows, n_features): network after network
        stacked = np.concatenate(
            [answers[rows].reshape(len(rows), -1) for answers in features.values()]
        ).astype(np.float32, copy=False)
        if stacked.shape[1] > 50:
            n_components = min(50, len(stacked))
            stacked = PCA(n_components, random_state=random_state).fit_transform(stacked)
        places = TSNE(
            perplexity=min(perplexity, (len(stacked) - 1) / 3), random_state=random_state
        ).fit_transform(stacked)
        display = cls(
            embedding=dict(zip(features, np.split(places, len(features)), strict=True)),
            y=None if y is None else np.asarray(y)[rows],
            classes=classes,
        )
        return display.plot(ax=ax, reference=reference, color_by=color_by)

    def plot(self, ax=None, *, reference=None, color_by="network"):
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.
        reference : str, optional
            A network to be shown with each of the others, one panel for each pair, as
            the paper shows the scalp network. By default all share one panel.
        color_by : {"network", "stage"}, default="network"
            "stage" gives each network a panel, its epochs in the colours of ``y``.

        Returns
        -------
        EmbeddingDisplay

        Raises
        ------
        ValueError
            If ``reference`` or ``color_by`` is unknown, or stages are wanted without
            ``y``.
        """
        names = list(self.embedding)
        if reference is not None and reference not in names:
            raise ValueError(f"reference is {reference!r}; the networks are {names}.")
        if color_by not in ("network", "stage"):
            raise ValueError(f"color_by is 'network' or 'stage'; given {color_by!r}.")
        if color_by == "stage" and self.y is None:
            raise ValueError("color_by='stage' needs y, the stages of the epochs.")

        if color_by == "stage":
            panels = [[name] for name in names]
        elif reference is not None:
            panels = [[reference, name] for name in names if name != reference]
        else:
            panels = [names]
        n_rows = math.ceil(len(panels) / 5)
        n_columns = math.ceil(len(panels) / n_rows)
        self.figure_, axes = make_panels(
            ax,
            n_rows,
            n_columns,
            figsize=(3.4 * n_columns + (len(panels) == 1), 4.0 * n_rows),
            sharex=True,
            sharey=True,
        )
        for unused in axes.flat[len(panels) :]:
            unused.remove()
        self.ax_ = axes.flat[: len(panels)]
        for panel, shown in zip(self.ax_, panels, strict=True):
            if color_by == "stage":
                self._scatter_stages(panel, *shown)
            else:
                for name in shown:
                    color = f"C{names.index(name) % 10}"
                    self._scatter(panel, self.embedding[name], color, name)
            panel.set(xticks=[], yticks=[], aspect="equal")
            panel.spines[["top", "right"]].set_visible(True)
            if color_by == "stage":
                panel.set_title(shown[0], fontsize="medium")
            if color_by == "network" or panel is self.ax_[-1]:
                panel.legend(
                    loc="upper center",
                    bbox_to_anchor=(0.5, 0),
                    frameon=False,
                    fontsize="small",
                    markerscale=2,
                    handletextpad=0.2,
                    ncols=len(stage_labels(self.classes)) if color_by == "stage" else 1,
                    columnspacing=0.8,
                )
        return self

    def _scatter_stages(self, panel, name):
        labels = stage_labels(self.classes)
        codes = codes_with_gaps(self.y, labels, "y")
        for code, color in enumerate(stage_colors(labels, labels)):
            self._scatter(panel, self.embedding[name][codes == code], color, labels[code])

    @staticmethod
    def _scatter(panel, places, color, label):
        panel.scatter(*places.T, s=9, alpha=0.6, linewidths=0, color=color, label=label)


def _draw_rows(n_epochs, max_epochs, random_state):
    if max_epochs is None or n_epochs <= max_epochs:
        return np.arange(n_epochs)
    random_state = check_random_state(random_state)
    return np.sort(random_state.choice(n_epochs, max_epochs, replace=False))
