"""The folds of a cross-validation, as scikit-learn makes them."""

import numpy as np
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import get_routing_for_object


def make_folds(estimator, X, y, groups, cv, params):
    """Split as ``cross_validate`` does, with metadata routing or without.

    Parameters
    ----------
    estimator, X, y, groups, cv, params
        As for :func:`sklearn.model_selection.cross_validate`.

    Returns
    -------
    cv : splitter
    folds : list of (train, test)
        Arrays of row numbers.

    Raises
    ------
    ValueError
        If ``groups`` is given although metadata routing is enabled, or is missing although
        ``cv`` splits by it.
    """
    routing = get_config()["enable_metadata_routing"]
    if groups is not None and routing:
        raise ValueError(
            "With metadata routing enabled, groups go into params={'groups': ...}."
        )
    cv = check_cv(cv, y, classifier=is_classifier(estimator))
    given = {"groups": groups}
    if routing:
        params = params or {}
        wanted = get_routing_for_object(cv).consumes("split", params)
        given = {name: params[name] for name in wanted}
    try:
        folds = [
            (np.asarray(train), np.asarray(test)) for train, test in cv.split(X, y, **given)
        ]
    except ValueError as error:
        if given.get("groups") is not None or "groups" not in str(error):
            raise
        known = getattr(X, "subject", None) is not None
        people = "X.subject" if known else "the person of each epoch"
        raise ValueError(
            f"{type(cv).__name__} splits by groups, and none are given: "
            + (f"params={{'groups': {people}}}." if routing else f"groups={people}.")
        ) from error
    return cv, folds


class Fold:
    """One fold of a splitter, as a splitter that asks for the same metadata."""

    def __init__(self, cv, train, test):
        self.cv, self.train, self.test = cv, train, test

    def split(self, X, y=None, **metadata):
        yield self.train, self.test

    def get_n_splits(self, *args, **metadata):
        return 1

    def get_metadata_routing(self):
        return self.cv.get_metadata_routing()
