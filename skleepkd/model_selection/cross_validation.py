"""Cross-validation that keeps finished folds, and the folds as scikit-learn makes them."""

import os

import numpy as np
from sklearn import get_config, model_selection
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_memory

from skleepkd.memory import key_of


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
    estimator, scoring, cv, n_jobs, verbose, params, pre_dispatch : object
        As for :func:`sklearn.model_selection.cross_validate`.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts.
    y : array-like of shape (n_epochs,), optional
        Stages.
    memory : str, path-like or joblib.Memory
        The folder where folds are kept, as in scikit-learn's ``Pipeline``. Several
        cross-validations may share it.
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
        If ``memory`` is None, or a parameter cannot be pickled (a lambda).

    Notes
    -----
    A fold is found again by the parameters of the estimator and their classes' and
    functions' own code (not what these call), the contents of X, y, ``params`` and
    ``groups``, its rows, ``scoring`` and the versions of the libraries. X is read once for
    this, and compared by value: a memory map and an array with its values are the same.
    With ``random_state=None`` too a fold that was kept is returned.

    A fold is whole in the folder or not there. An error in a fold is raised at once; the
    finished folds stay. Warnings are given when a fold is fitted, not when it is read back.
    Two programs at work on one folder may fit a fold twice, but harm nothing. The folder
    holds pickles: open only your own.

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
    options = {"groups": groups, "scoring": scoring, "params": params}
    options["return_train_score"] = return_train_score
    options["return_estimator"] = return_estimator
    study = key_of(clone(estimator), X, y, options)
    ignored = ["estimator", "X", "y", "fold", "options"]
    validate = memory.cache(_validate_fold, ignore=ignored)
    run = Parallel(n_jobs=n_jobs, verbose=verbose, pre_dispatch=pre_dispatch)
    results = run(
        delayed(validate)(key_of(study, *fold), estimator, X, y, _Fold(cv, *fold), options)
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


def _validate_fold(key, estimator, X, y, fold, options):
    """Fit and score a fold; ``key`` stands for all else in the cache's key."""
    return model_selection.cross_validate(
        estimator, X, y, cv=fold, error_score="raise", **options
    )


class _Fold:
    """One fold of a splitter, as a splitter that takes the same metadata."""

    def __init__(self, cv, train, test):
        self.train, self.test = train, test
        self.get_metadata_routing = cv.get_metadata_routing

    def split(self, X, y=None, **metadata):
        yield self.train, self.test

    def get_n_splits(self, *args, **metadata):
        return 1


def make_folds(estimator, X, y, groups, cv, params):
    """Split as ``cross_validate`` does, with metadata routing or without."""
    routing = get_config()["enable_metadata_routing"]
    if groups is not None and routing:
        raise ValueError(
            "With metadata routing enabled, groups go into params={'groups': ...}."
        )
    cv, given = check_cv(cv, y, classifier=is_classifier(estimator)), {"groups": groups}
    if routing:
        params = params or {}
        wanted = get_routing_for_object(cv).consumes("split", params)
        given = {name: params[name] for name in wanted}
    try:
        folds = list(cv.split(X, y, **given))
    except ValueError as error:
        if given.get("groups") is not None or "groups" not in str(error):
            raise
        known = getattr(X, "subject", None) is not None
        subjects = "X.subject" if known else "the subject of each epoch"
        how = f"params={{'groups': {subjects}}}" if routing else f"groups={subjects}"
        raise ValueError(
            f"{type(cv).__name__} splits by groups, and none are given: {how}."
        ) from error
    return cv, [(np.asarray(train), np.asarray(test)) for train, test in folds]
