"""Transformers of epochs that know of pairs."""

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.checks import as_pair, check_signal


class StatelessTransformer(TransformerMixin, BaseEstimator):
    """A transformer of each epoch by itself, that need not be fitted."""

    def fit(self, X, y=None):
        """Return the transformer as it is: there is nothing to learn."""
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
        ValueError
            If there is no epoch, or what is made of epochs differs in shape.
        """
        pair = epochs_of(X)
        source = self._transformed(pair, "source") if pair.has_source else None
        return of_kind(X, self._transformed(pair, "target"), source)

    def _transformed(self, pair, modality, **given):
        """Transform a modality block by block, which ``_transform_block`` does."""
        transformed = None
        for rows, block in pair.blocks(modality):
            values = self._transform_block(block, **given)
            shape = (len(pair), *values.shape[1:])
            if transformed is None:
                transformed = np.empty(shape, dtype=np.float32)
            if transformed.shape != shape:
                raise ValueError(
                    f"All epochs must have the same shape once transformed; of the {modality} "
                    f"some have {transformed.shape[1:]}, others {shape[1:]}."
                )
            transformed[rows] = values
        return transformed

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class PairedTransformer(TransformerMixin, BaseEstimator):
    """Preprocess the two modalities of a pair, each in its own way.

    In a ``Pipeline`` it prepares both modalities in ``fit``; in ``predict``, where the
    wearable signal comes alone, that one alike.

    Parameters
    ----------
    source, target : transformer, optional
        What prepares the teacher's signal, and the wearable signal: a transformer of
        arrays of shape (n_epochs, n_channels, n_times), in microvolts, whose output may
        have another trailing shape. None leaves the signal unchanged. A
        :class:`RecordingScaler`, or a ``Pipeline`` with one, is given the recordings too.

    Attributes
    ----------
    source_, target_ : transformer
        The fitted clones; ``source_`` is None if there was no source in ``fit``.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import PairedEpochs
    >>> from skleepkd.preprocessing import EpochScaler, PairedTransformer
    >>> X = PairedEpochs(np.ones((8, 1, 50)), source=np.ones((8, 2, 50)))
    >>> PairedTransformer(source=EpochScaler()).fit_transform(X)
    <PairedEpochs: 8 epochs, target (1, 50), source (2, 50)>
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

        Raises
        ------
        ValueError
            If there is a transformer for the source and X has no source.
        """
        pair = as_pair(X)
        if self.source is not None and not pair.has_source:
            raise ValueError(
                "There is a transformer for the source and X has no source. Give a "
                "PairedEpochs: in a pipeline X_source= goes past this step."
            )
        self.target_ = _clone(self.target)
        self.target_.fit(_given(self.target_, X, pair, "target"), y)
        self.source_ = None
        if pair.has_source:
            self.source_ = _clone(self.source)
            self.source_.fit(_given(self.source_, X, pair, "source"), y)
        return self

    def transform(self, X):
        """Apply each transformer to its modality of ``X``, which is as for :meth:`fit`.

        Returns
        -------
        PairedEpochs or ndarray of shape (n_epochs, n_channels, ...)
            Of the kind of ``X``, float32. A pair keeps all that it carries; its source is
            left out if ``fit`` saw none.
        """
        check_is_fitted(self)
        pair = as_pair(X)
        target, source = _transformed(self.target_, X, pair, "target"), None
        if pair.has_source and self.source_ is not None:
            source = _transformed(self.source_, X, pair, "source")
        return of_kind(X, target, source)


class EpochwiseTransformer(StatelessTransformer):
    """Apply a function of one epoch to each epoch.

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
    >>> from skleepkd.preprocessing import EpochwiseTransformer
    >>> standardize = EpochwiseTransformer(exponential_moving_standardize)
    >>> standardize.fit_transform(np.ones((4, 2, 3000))).shape
    (4, 2, 3000)
    """

    def __init__(self, function, kw_args=None):
        self.function = function
        self.kw_args = kw_args

    def _transform_block(self, block):
        kw_args = self.kw_args or {}
        return np.stack([self.function(epoch.copy(), **kw_args) for epoch in block])


class SourceSelector(StatelessTransformer):
    """Pick the source of a pair, for a stager of the polysomnography itself.

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
        """Return the source of a PairedEpochs as one of its own; ValueError if it has none."""
        return as_pair(X).source_epochs


def epochs_of(X):
    """Take what is to be transformed as a pair, which holds epochs."""
    pair = as_pair(X)
    if not len(pair):
        raise ValueError("There are no epochs to transform.")
    return pair


def check_samples(pair, modality, what):
    """Refuse a modality that is no signal, such as a spectrogram, or no good one."""
    shape = pair.read(modality, slice(0, 1)).shape
    if len(shape) != 3:
        raise ValueError(
            f"{what} are made of signals, (n_epochs, n_channels, n_times); given epochs of shape "
            f"{shape[1:]}. Were they transformed already?"
        )
    check_signal(pair, modality)


def of_kind(X, target, source):
    """Give transformed epochs as what X was: an array, or a pair with all it carries."""
    if not isinstance(X, PairedEpochs):
        return target
    if source is None:
        return X.target_epochs.replace(target=target)
    return X.replace(target=target, source=source)


def _given(transformer, X, pair, modality):
    """Give a modality as an array or, to what reads recordings, as a pair of its own."""
    steps = getattr(transformer, "steps", [("", transformer)])
    by_recording = any(getattr(step, "reads_recordings", False) for _, step in steps)
    if by_recording and isinstance(X, PairedEpochs):
        return pair.source_epochs if modality == "source" else pair.target_epochs
    return pair[modality]


def _transformed(transformer, X, pair, modality):
    values = transformer.transform(_given(transformer, X, pair, modality))
    is_pair = isinstance(values, PairedEpochs)
    return values if is_pair else np.asarray(values, dtype=np.float32)


def _clone(transformer):
    # A FunctionTransformer without a function returns its input.
    return FunctionTransformer() if transformer is None else clone(transformer)
