"""What stands inside pipelines, frozen estimators and searches: a stager, and its stages."""

from importlib.metadata import version

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skleepkd.stages import SCHEMES, scheme_names


def split_pipeline(estimator):
    """Part an estimator into the named steps that epochs go through, and what predicts."""
    # For those that only read: whoever fits what is found here may fit what is frozen.
    steps, prefix = [], ""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif isinstance(estimator, Pipeline):
            # Steps of an inner pipeline are named as scikit-learn does, "outer__inner".
            *before, (last, estimator) = estimator.steps
            steps += [
                (f"{prefix}{name}", step)
                for name, step in before
                if step is not None and step != "passthrough"
            ]
            prefix += f"{last}__"
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return steps, estimator


def final_estimator(estimator):
    """Return what predicts at the end of pipelines, frozen estimators and searches."""
    return split_pipeline(estimator)[1]


def transform(estimator, X):
    """Take epochs through all that stands before the final estimator."""
    for _, step in split_pipeline(estimator)[0]:
        X = step.transform(X)
    return X


def scheme_of(stager):
    """Name the scheme whose stages a fitted stager predicts; None where that is not sure."""
    classes = set(np.asarray(getattr(stager, "classes_", ())).tolist())
    for name, stages in SCHEMES.items():
        if classes == set(stages):
            return name
    scheme = getattr(stager, "classes", None)
    # Without classes of its own it has the scheme that it was pretrained or distilled in.
    before = getattr(stager, "pretrained_", None) or getattr(stager, "teacher_", None)
    if scheme is None and before is not None:
        scheme = scheme_of(final_estimator(before))
    if isinstance(scheme, str) and classes == set(range(len(scheme_names(scheme)))):
        return scheme
    return "aasm" if classes == set(range(5)) else None  # only one scheme has five


def class_names(stager):
    """Names of a fitted stager's classes, or their codes where several schemes have them."""
    classes = np.asarray(stager.classes_)
    if classes.dtype.kind not in "iu":
        return classes.astype(str)
    scheme = scheme_of(stager)
    return classes if scheme is None else np.array(scheme_names(scheme))


def origin_of(stager):
    """Tell what a stager was trained as, also of one that was loaded."""
    strategy = f" ({stager.strategy})" if hasattr(stager, "strategy") else ""
    now = f"{type(stager).__name__}{strategy} by skleepkd {version('skleepkd')}"
    return stager.origin_ or now
