"""Cross-validation that resumes, and a check that nothing leaks through its folds."""

import os

import numpy as np
from sklearn import model_selection
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from skleepkd._splits import Fold, make_folds
from skleepkd.leakage import LeakageReport, check_leakage
from skleepkd.memory import key_of

__all__ = ["LeakageReport", "check_leakage", "cross_validate"]


def cross_validate(
    estimator,
    X,
    y=None,
    *,
    memory,
    groups=None,
    scoring=None,
    cv=None,
    n_jobs=None,
    verbose=0,
    params=None,
    pre_dispatch="2*n_jobs",
    return_train_score=False,
    return_estimator=False,
    return_indices=False,
):
    """Cross-validate as scikit-learn does, and keep each finished fold on disk.

    Called again after the program was stopped, killed or has met an error, it fits and
    scores the folds that are missing alone.

    Parameters
    ----------
    estimator : estimator
        What is fitted and scored; in each fold a clone of it.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts.
    y : array-like of shape (n_epochs,), optional
        Stages.
    memory : str, path-like or joblib.Memory
        The folder where folds are kept, as in scikit-learn's ``Pipeline``. Several
        cross-validations may share it.
    groups : array-like of shape (n_epochs,), optional
        Persons, for ``cv`` alone (not with metadata routing).
    scoring, cv, n_jobs, verbose, params, pre_dispatch : object
        As for :func:`sklearn.model_selection.cross_validate`.
    return_train_score, return_estimator, return_indices : bool, default=False
        As there. Estimators are kept together with their folds.

    Returns
    -------
    dict of str to ndarray of shape (n_folds,)
        As scikit-learn's: ``test_<score>``, ``fit_time`` and ``score_time`` (in seconds,
        of the run in which the fold was fitted) and what else was asked for.

    Raises
    ------
    ValueError
        If ``memory`` is None, or a parameter cannot be pickled (a lambda).

    Notes
    -----
    A fold is found again by the parameters of the estimator and their classes' and
    functions' own code (not what these call), the contents of X, y, ``params`` and
    ``groups``, its rows, ``scoring`` and the versions of the libraries. Where any of it
    differs, the fold is fitted. X is read once for this, and compared by value: a memory
    map and an array with its values are the same.

    With a fixed ``random_state`` the answer is that of a run that was never stopped, bit
    for bit. With None a fold that was kept is returned all the same: fit anew by an empty
    folder.

    A fold appears in the folder by renaming a complete file, so that it is whole or not
    there. An error in a fold is raised at once, as ``error_score="raise"`` does it; the
    finished folds stay. Warnings are given when a fold is fitted, not when it is read back.
    Two programs at work on one folder may fit a fold twice, but harm
    nothing. The folder holds pickles: open only your own.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.dummy import DummyClassifier
    >>> from skleepkd.model_selection import cross_validate
    >>> X, y = [[0]] * 12, [0, 2, 2, 2, 3, 4] * 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cross_validate(DummyClassifier(), X, y, cv=2, memory=folder)["test_score"]
    array([0.5, 0.5])
    """
    if memory is None:
        raise ValueError(
            "memory names the folder in which finished folds are kept; given None. To keep "
            "nothing, use sklearn.model_selection.cross_validate."
        )
    memory = check_memory(os.fspath(memory) if isinstance(memory, os.PathLike) else memory)
    cv, folds = make_folds(estimator, X, y, groups, cv, params)
    options = {
        "scoring": scoring,
        "params": params,
        "return_train_score": return_train_score,
        "return_estimator": return_estimator,
    }
    everything = key_of(clone(estimator), X, y, groups, options)
    validate = memory.cache(
        _validate_fold, ignore=["estimator", "X", "y", "fold", "options"]
    )
    run = Parallel(n_jobs=n_jobs, verbose=verbose, pre_dispatch=pre_dispatch)
    results = run(
        delayed(validate)(
            key_of(everything, train, test),
            estimator=estimator,
            X=X,
            y=y,
            fold=Fold(cv, train, test),
            options={**options, "groups": groups},
        )
        for train, test in folds
    )
    scores = {}
    for name in results[0]:
        parts = [result[name] for result in results]
        if name == "estimator":
            scores[name] = [fitted for part in parts for fitted in part]
        else:
            scores[name] = np.concatenate(parts)
    if return_indices:
        train, test = zip(*folds, strict=True)
        scores["indices"] = {"train": train, "test": test}
    return scores


def _validate_fold(key, estimator, X, y, fold, options):
    """Fit and score a fold; ``key`` stands for all else in the cache's key."""
    return model_selection.cross_validate(
        estimator, X, y, cv=fold, error_score="raise", **options
    )
