"""Transformers of epochs that know of pairs."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.checks import as_pair


class EpochTransformer(TransformerMixin, BaseEstimator):
    """A transformer of epochs."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class StatelessTransformer(EpochTransformer):
    """A transformer of each epoch by itself, that need not be fitted."""

    def fit(self, X, y=None):
        """Check the parameters: there is nothing to learn.

        Parameters
        ----------
        X, y
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError or ValueError
            If a parameter is none that the class describes.
        """
        self._check_parameters()
        return self

    def transform(self, X):
        """Transform each epoch.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs. A 2-D array is one channel. Of a pair, target and source are treated
            alike; :class:`PairedTransformer` treats them apart.

        Returns
        -------
        PairedEpochs or ndarray of shape (n_epochs, n_channels, ...)
            Of the kind of ``X``, float32.

        Raises
        ------
        TypeError or ValueError
            As in ``fit``, if there is no epoch, or if what is made of epochs differs in shape.
        """
        self._check_parameters()
        pair = as_pair(X)
        if not len(pair):
            raise ValueError("There are no epochs to transform.")
        source = self._transformed(pair, "source") if pair.has_source else None
        return of_kind(X, self._transformed(pair, "target"), source)

    def _check_parameters(self):
        pass

    def _transformed(self, pair, modality):
        """Transform a modality block by block, which ``_transform_block`` does."""
        transformed = None
        for rows, block in pair.blocks(modality):
            values = self._transform_block(block)
            if transformed is None:
                shape = (len(pair), *values.shape[1:])
                transformed = np.empty(shape, dtype=np.float32)
            elif values.shape[1:] != transformed.shape[1:]:
                raise ValueError(
                    f"All epochs must have the same shape once transformed; of the {modality} "
                    f"some have {transformed.shape[1:]}, others {values.shape[1:]}."
                )
            transformed[rows] = values
        return transformed

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class PairedTransformer(EpochTransformer):
    """Preprocess the two modalities of a pair, each in its own way.

    A step of a ``Pipeline`` before a distilled or fine-tuned stager: in ``fit`` it prepares
    both modalities; in ``predict``, where the wearable signal comes alone, that one alike.

    Parameters
    ----------
    source : transformer, optional
        What prepares the teacher's signal: a transformer of arrays of shape (n_epochs,
        n_channels, n_times), in microvolts, whose output may have another trailing shape.
        None leaves the signal unchanged.
    target : transformer, optional
        The same for the wearable signal.

    Attributes
    ----------
    source_, target_ : transformer
        The fitted clones; ``source_`` is None if there was no source in ``fit``.

    Examples
    --------
    >>> import numpy as np
    >>> from mne.decoding import Scaler
    >>> from skleepkd import PairedEpochs
    >>> from skleepkd.preprocessing import PairedTransformer
    >>> rng = np.random.default_rng(0)
    >>> X = PairedEpochs(rng.normal(size=(8, 1, 50)), source=rng.normal(size=(8, 2, 50)))
    >>> step = PairedTransformer(source=Scaler(scalings="median"))
    >>> step.fit_transform(X)
    <PairedEpochs: 8 epochs, target (1, 50), source (2, 50)>
    >>> step.transform(X["target"]).shape
    (8, 1, 50)
    """

    def __init__(self, source=None, target=None):
        self.source = source
        self.target = target

    def fit(self, X, y=None):
        """Fit a clone of each transformer on its modality.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            The pair, or the target alone.
        y : array-like of shape (n_epochs,), optional
            Stages, handed on to both; unscored rows are not left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is a transformer for the source and X has no source.
        """
        pair = as_pair(X)
        if self.source is not None and not pair.has_source:
            raise ValueError(
                "There is a transformer for the source and X has no source. In a pipeline "
                "give a PairedEpochs: X_source= goes to the last step alone, past this one."
            )
        self.target_ = _clone(self.target).fit(pair["target"], y)
        self.source_ = None
        if pair.has_source:
            self.source_ = _clone(self.source).fit(pair["source"], y)
        return self

    def transform(self, X):
        """Apply each transformer to its modality.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            The pair, or the target alone.

        Returns
        -------
        PairedEpochs or ndarray of shape (n_epochs, n_channels, ...)
            Of the kind of ``X``, float32. A pair keeps all that it carries; its source is
            left out if ``fit`` saw none.
        """
        check_is_fitted(self)
        pair = as_pair(X)
        target, source = self.target_.transform(pair["target"]), None
        if pair.has_source and self.source_ is not None:
            source = np.asarray(self.source_.transform(pair["source"]), dtype=np.float32)
        return of_kind(X, np.asarray(target, dtype=np.float32), source)


class EpochwiseTransformer(StatelessTransformer):
    """Apply a function of one epoch to each epoch.

    Many array functions take one epoch at a time, such as braindecode's
    ``exponential_moving_standardize``.

    Parameters
    ----------
    function : callable
        Takes a copy of one epoch, (n_channels, n_times), in microvolts, and returns an
        array of one shape for all. If it can be imported it can also be pickled.
    kw_args : dict, optional
        Further keyword arguments for the function.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode.preprocessing import exponential_moving_standardize
    >>> from skleepkd.preprocessing import EpochwiseTransformer, PairedTransformer
    >>> standardize = EpochwiseTransformer(
    ...     exponential_moving_standardize, kw_args={"factor_new": 0.01}
    ... )
    >>> standardize.fit_transform(np.ones((4, 2, 3000))).shape
    (4, 2, 3000)
    >>> step = PairedTransformer(target=standardize)  # for the wearable signal alone
    """

    def __init__(self, function, kw_args=None):
        self.function = function
        self.kw_args = kw_args

    def _check_parameters(self):
        if not callable(self.function):
            raise TypeError(
                f"function takes one epoch, (n_channels, n_times); given {self.function!r}."
            )

    def _transform_block(self, block):
        kw_args = self.kw_args or {}
        return np.stack([self.function(epoch.copy(), **kw_args) for epoch in block])


class SourceSelector(StatelessTransformer):
    """Pick the source of a pair, for a stager of the polysomnography itself.

    The first step of a ``Pipeline`` that predicts from the teacher's signal, and yet takes
    the same pair as the stagers of the wearable.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import PairedEpochs
    >>> from skleepkd.preprocessing import SourceSelector
    >>> X = PairedEpochs(np.zeros((8, 1, 50)), source=np.ones((8, 2, 50)))
    >>> SourceSelector().fit_transform(X)
    <PairedEpochs: 8 epochs, target (2, 50)>
    """

    def transform(self, X):
        """Return the source as the target of a pair of its own.

        Parameters
        ----------
        X : PairedEpochs
            With a source.

        Returns
        -------
        PairedEpochs
            With all that X carries; nothing is copied.

        Raises
        ------
        ValueError
            If X has no source.
        """
        return as_pair(X).source_epochs


def of_kind(X, target, source=None):
    """Give transformed epochs as what X was: an array, or a pair with all it carries."""
    if not isinstance(X, PairedEpochs):
        return target
    if source is None:
        return X.target_epochs.replace(target=target)
    return X.replace(target=target, source=source)


def _clone(transformer):
    # A FunctionTransformer without a function returns its input.
    return FunctionTransformer() if transformer is None else clone(transformer)
