"""Whether a fit depends on rows that it was not given."""

import tempfile
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import cross_validate

from skleepkd._splits import Fold
from skleepkd.distillation.teacher import OUTPUT_IN_MEMORY
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import Signal

#: Answers that are relatively closer than this count as equal, and those below SMALLEST:
#: a network that is sure has probabilities that matter although they are tiny.
TOLERANCE = 1e-4
SMALLEST = 1e-30

#: Parameters that hand over results of earlier fits.
CACHES = ("memory", "checkpoint")


def changed_rows(estimator, X, y, cv, train, test, params):
    """Fit a fold thrice, the third time with other values in the rows beside it.

    Parameters
    ----------
    estimator : estimator
        Fitted are clones; a ``random_state`` that is None becomes 0.
    X : PairedEpochs or ndarray of shape (n_epochs, ...)
        The epochs.
    y : ndarray of shape (n_epochs,)
        Stages.
    cv : splitter
        Whose metadata the fold asks for.
    train, test : ndarray of int
        Rows of the fold.
    params : dict
        As for ``cross_validate``.

    Returns
    -------
    ndarray of int or None
        Training rows whose answers differ; None where two fits to the same values differ
        already.
    """
    copies = Copies(len(X))
    X, y, params = copies.of(X), copies.of(y), copies.of(params)
    estimator = clone(estimator)
    changes = {}
    for name, value in estimator.get_params(deep=True).items():
        last = name.split("__")[-1]
        if last == "random_state" and value is None:
            changes[name] = 0
        elif last in CACHES and value is not None:
            changes[name] = None
        elif (copied := copies.of(value)) is not value:
            changes[name] = copied
    estimator.set_params(**changes)

    def answers():
        fitted = cross_validate(
            estimator,
            X,
            y,
            cv=Fold(cv, train, test),
            params=params,
            scoring=_no_score,
            return_estimator=True,
            error_score="raise",
        )["estimator"][0]
        for method in ("predict_proba", "decision_function", "predict"):
            if hasattr(fitted, method):
                return np.asarray(getattr(fitted, method)(X[train]))
        return np.asarray(fitted.transform(X[train]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever cross-validates will hear them
        first, second = answers(), answers()
        if _differ(first, second).any():
            return None
        copies.overwrite(np.setdiff1d(np.arange(len(X)), train))
        return train[_differ(first, answers())]


class Copies:
    """Copies of what has an entry for each row, whose rows can be overwritten.

    Parameters
    ----------
    n_rows : int
        How many entries such a thing has.
    """

    def __init__(self, n_rows):
        self.n_rows = n_rows
        self.arrays = []
        self.known = {}

    def of(self, thing):
        """Copy a pair or an array; what has no entry for each row is returned itself."""
        if id(thing) not in self.known:  # the thing is kept too, so that its id stays its
            self.known[id(thing)] = thing, self._copy(thing)
        return self.known[id(thing)][1]

    def _copy(self, thing):
        if isinstance(thing, PairedEpochs) and len(thing) == self.n_rows:
            source = self._array(thing.source_epochs) if thing.has_source else None
            return thing.replace(target=self._array(thing), source=source)
        if isinstance(thing, np.ndarray) and thing.shape[:1] == (self.n_rows,):
            return self._array(thing)
        if isinstance(thing, dict):
            copied = {key: self.of(value) for key, value in thing.items()}
            changed = any(copied[key] is not value for key, value in thing.items())
            return copied if changed else thing
        if type(thing) in (list, tuple):
            copied = [self.of(value) for value in thing]
            changed = any(new is not old for new, old in zip(copied, thing, strict=True))
            return type(thing)(copied) if changed else thing
        return thing

    def _array(self, values):
        """Copy an array or the target of a pair, block by block."""
        pair = isinstance(values, PairedEpochs)
        if values.dtype.itemsize * np.prod(values.shape) <= OUTPUT_IN_MEMORY:
            array = np.empty(values.shape, values.dtype)
        else:
            with tempfile.TemporaryFile() as file:
                array = np.memmap(file, dtype=values.dtype, mode="w+", shape=values.shape)
        for rows, block in values.blocks("target") if pair else Signal(values).blocks():
            array[rows] = block
        self.arrays.append(array)
        return array

    def overwrite(self, rows):
        """Put noise of another mean and spread (or other labels) into rows of all copies."""
        rng = np.random.default_rng(0)
        for array in self.arrays:
            if array.dtype.kind != "f":
                array[rows] = rng.permutation(array)[: len(rows)]
                continue
            for row in rows:
                noise = rng.standard_normal(array.shape[1:])
                spread = np.std(array[row]) or 1.0
                array[row] = np.mean(array[row]) + spread * (1 + 3 * noise)


def _differ(one, other):
    """Mark the rows in which answers differ."""
    if one.shape != other.shape:
        return np.ones(len(one), dtype=bool)
    if one.dtype.kind == "f":
        differ = ~np.isclose(one, other, rtol=TOLERANCE, atol=SMALLEST, equal_nan=True)
    else:
        differ = one != other
    return differ.reshape(len(one), -1).any(axis=1)


def _no_score(estimator, X, y=None):
    return 0.0
