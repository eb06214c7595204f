"""Cross-validation that resumes, methods compared, and a check that nothing leaks."""

import numpy as np
from sklearn import model_selection
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from skleepkd.memory import key_of, open_memory
from skleepkd.model_selection.compare import Comparison, compare
from skleepkd.model_selection.leakage import LeakageReport, check_leakage, make_folds

__all__ = ["Comparison", "LeakageReport", "check_leakage", "compare", "cross_validate"]


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
    return_train_score=False,
    return_estimator=False,
    return_indices=False,
):
    """Cross-validate as scikit-learn does, and keep each finished fold on disk.

    Called again after the program was stopped, killed or has met an error, it fits and
    scores the folds that are missing alone.

    Parameters
    ----------
    estimator, scoring, cv, n_jobs, verbose, params : object
        As for :func:`sklearn.model_selection.cross_validate`.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts.
    y : array-like of shape (n_epochs,), optional
        Stages.
    memory : str, path-like or joblib.Memory
        The folder where folds are kept; several cross-validations may share it. It holds
        pickles: open only your own.
    groups : array-like of shape (n_epochs,), optional
        Subjects, for ``cv`` alone (not with metadata routing).
    return_train_score, return_estimator, return_indices : bool, default=False
        As there. Estimators are kept together with their folds.

    Returns
    -------
    dict of str to ndarray of shape (n_folds,)
        As scikit-learn's: ``test_<score>``, ``fit_time`` and ``score_time`` (in seconds,
        of the run in which the fold was fitted) and what else was wanted.

    Raises
    ------
    ValueError
        If a parameter cannot be pickled (a lambda).

    Notes
    -----
    A fold is found again by its rows, the parameters of the estimator and their classes'
    and functions' own code (not what these call), the values of X, y, ``params`` and
    ``groups``, ``scoring`` and the versions of the libraries; also where ``random_state``
    is None. An error in a fold is raised at once, and the finished folds stay. Warnings
    are given when a fold is fitted, not when it is read back.
    """
    cv, folds = make_folds(estimator, X, y, groups, cv, params)
    options = {"groups": groups, "scoring": scoring, "params": params}
    options |= {"return_train_score": return_train_score}
    options |= {"return_estimator": return_estimator}
    study = key_of(clone(estimator), X, y, options)
    ignored = ["estimator", "X", "y", "cv", "fold", "options"]
    validate = open_memory(memory).cache(_validate_fold, ignore=ignored)
    results = Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(validate)(key_of(study, *fold), estimator, X, y, cv, fold, options)
        for fold in folds
    )
    scores = {}
    for name in results[0]:
        parts = [result[name] for result in results]
        lists = name == "estimator"
        scores[name] = [fitted for [fitted] in parts] if lists else np.concatenate(parts)
    if return_indices:
        train, test = zip(*folds, strict=True)
        scores["indices"] = {"train": train, "test": test}
    return scores


def _validate_fold(key, estimator, X, y, cv, fold, options):
    """Fit and score a fold; ``key`` stands for all else in the cache's key."""
    one = model_selection.check_cv([fold])
    one.get_metadata_routing = cv.get_metadata_routing  # it is given what cv is given
    options = {**options, "cv": one, "error_score": "raise"}
    return model_selection.cross_validate(estimator, X, y, **options)
