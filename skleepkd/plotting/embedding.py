"""Maps of the features that networks have learned."""

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state

from skleepkd.plotting.hypnogram import LEGEND, make_panels, stage_colors, stage_or_gap
from skleepkd.stages import sleep_order, stage_labels


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
        Their scored stages.
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
    def from_features(
        cls, features, y=None, *, classes="aasm", max_epochs=500, random_state=0, **options
    ):
        """Map features and draw them, as :meth:`plot` does.

        Parameters
        ----------
        features : dict of str to array-like of shape (n_epochs, ...)
            Features of the same held-out epochs from each network, of one shape, as
            ``stager.extract_features`` gives them.
        y, classes
            As for the class.
        max_epochs : int or None, default=500
            If there are more epochs, so many are drawn at random.
        random_state : int, RandomState instance or None, default=0
            Seed of the drawn epochs and of the map.
        **options
            As for :meth:`plot`.

        Raises
        ------
        ValueError
            If the features of two networks differ in shape.

        Examples
        --------
        >>> import numpy as np
        >>> from skleepkd.plotting import EmbeddingDisplay
        >>> rng = np.random.default_rng(0)
        >>> scalp, ear = rng.normal(size=(20, 8)), rng.normal(3, size=(20, 8))
        >>> display = EmbeddingDisplay.from_features({"Scalp": scalp, "Ear": ear})
        >>> display.embedding["Ear"].shape
        (20, 2)
        """
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        shapes = {name: np.shape(values) for name, values in features.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(
                f"One map needs features of one shape from every network; given {shapes}."
            )
        check_consistent_length(*features.values(), y)
        random_state = check_random_state(random_state)
        stacked = np.stack([np.asarray(values) for values in features.values()])
        rows = np.arange(stacked.shape[1])
        if max_epochs is not None and len(rows) > max_epochs:
            rows = np.sort(random_state.choice(len(rows), max_epochs, replace=False))
        # (networks, epochs, ...) -> (networks * epochs, features), network after network
        stacked = stacked[:, rows].reshape(len(features) * len(rows), -1).astype(np.float32)
        if stacked.shape[1] > 50:
            pca = PCA(min(50, len(stacked)), random_state=random_state)
            stacked = pca.fit_transform(stacked)
        perplexity = min(30, (len(stacked) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, random_state=random_state)
        places = np.split(tsne.fit_transform(stacked), len(features))
        embedding = dict(zip(features, places, strict=True))
        y = None if y is None else np.asarray(y)[rows]
        return cls(embedding=embedding, y=y, classes=classes).plot(**options)

    def plot(self, ax=None, *, color_by="network"):
        """Draw the display and return it.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place in the figure is divided between the panels.
        color_by : {"network", "stage"}, default="network"
            By default all networks share one panel; "stage" gives each its own, the epochs in
            the colours of ``y``.

        Raises
        ------
        ValueError
            If ``color_by`` is unknown, or there is no ``y`` for stages.
        """
        by_stage = color_by == "stage"
        if color_by not in ("network", "stage") or (by_stage and self.y is None):
            raise ValueError(
                f"color_by is 'network' or, with y, 'stage'; given {color_by!r}."
            )
        n_panels = len(self.embedding) if by_stage else 1
        figsize = (3.4 * n_panels + (n_panels == 1), 4.0)
        share = {"sharex": True, "sharey": True}
        self.ax_ = make_panels(ax, 1, n_panels, figsize=figsize, **share)[0]
        self.figure_ = self.ax_[0].figure
        dots = {"s": 9, "alpha": 0.6, "linewidths": 0}
        legend = LEGEND | {"loc": "upper center", "bbox_to_anchor": (0.5, 0)}
        legend |= {"markerscale": 2, "handletextpad": 0.2}
        if by_stage:
            labels = stage_labels(self.classes)
            labels = [labels[k] for k in sleep_order(labels)]
            codes, colors = stage_or_gap(self.y, labels, "y"), stage_colors(labels)
            for panel, (name, places) in zip(self.ax_, self.embedding.items(), strict=True):
                panel.set_title(name, fontsize="medium")
                for code, (label, color) in enumerate(zip(labels, colors, strict=True)):
                    panel.scatter(
                        *places[codes == code].T, color=color, label=label, **dots
                    )
            legend |= {"ncols": len(labels), "columnspacing": 0.8}
        else:
            for name, places in self.embedding.items():
                self.ax_[0].scatter(*places.T, label=name, **dots)
        self.ax_[-1].legend(**legend)
        for panel in self.ax_:
            panel.set(xticks=[], yticks=[], aspect="equal")
            panel.spines[["top", "right"]].set_visible(True)
        return self
