"""Labels of the user and codes of the network."""

import warnings

import numpy as np
from sklearn.utils import column_or_1d

from skleepkd.stages import (
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    is_unscored,
    left_unscored,
    scheme_names,
    stage_of_text,
)


def check_labels(y, n_epochs):
    """Take labels as a one-dimensional array of codes or names.

    Parameters
    ----------
    y : array-like of shape (n_epochs,)
        Stages; -1 or "?" where unscored.
    n_epochs : int
        How many are expected.

    Returns
    -------
    ndarray of shape (n_epochs,)

    Raises
    ------
    ValueError
        If the number or the kind is wrong, or nothing is scored.
    """
    if y is None:
        raise ValueError(
            "A stager requires y to be passed, but the target y is None; give the stage of "
            "each epoch, -1 or '?' where unscored."
        )
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.dtype == object:
        y = _of_one_kind(y)
    if y.dtype.kind == "S":
        y = y.astype(str)
    if y.dtype.kind == "U" and np.isin(y, ["nan", "None"]).any():
        raise ValueError(
            'y holds missing values as text ("nan"); an unscored epoch is "?", or -1 among '
            "codes."
        )
    if y.shape != (n_epochs,):
        raise ValueError(f"y has shape {y.shape}; X has {n_epochs} epochs, one label each.")
    if y.dtype.kind == "f":
        if not np.array_equal(y, np.floor(y)):
            raise ValueError(
                "Unknown label type: continuous. y holds stages (whole codes or names); "
                "given fractions or NaN."
            )
        y = y.astype(np.int64)
    if y.dtype.kind in "iu" and np.any(y < UNSCORED):
        raise ValueError(
            f"Unknown stage {y.min()} in y: negative codes mean nothing but -1 (unscored)."
        )
    if is_unscored(y).all():
        raise ValueError(
            f"None of the {n_epochs} epochs is scored, so there is nothing to learn or judge."
        )
    return y


def find_classes(classes, y):
    """Labels of the network's outputs, in order.

    Parameters
    ----------
    classes : None, str or array-like
        None: the labels that ``y`` holds; a scheme's name: its codes or, where ``y``
        holds names, its names; else the labels themselves.
    y : ndarray of shape (n_epochs,)
        As :func:`check_labels` returns them.

    Returns
    -------
    ndarray of shape (n_classes,)

    Raises
    ------
    ValueError
        If ``y`` holds a label that is no class, or there are fewer than two classes; where
        ``classes`` is None, also if a name differs from a stage's in case or blanks alone,
        or means "unscored".

    Warns
    -----
    UserWarning
        If ``classes`` is None and names of a scheme's stages stand beside others, which
        may be slips.
    """
    seen = np.unique(y[~left_unscored(y, classes)])
    if classes is None:
        found = seen
        if UNSCORED in found.tolist():
            warnings.warn(
                "The labels -1 and 1 are taken for two classes. Where -1 means unscored, "
                "only stage 1 is in y: name the stages, classes='aasm'.",
                stacklevel=2,
            )
        if y.dtype.kind == "U":
            _check_spelling(y, found)
    elif isinstance(classes, str):
        names = scheme_names(classes)
        found = np.array(names) if y.dtype.kind in "US" else np.arange(len(names))
    else:
        found = np.asarray(classes)
    unknown = [str(label) for label in seen if label not in found]
    if unknown:
        raise ValueError(
            f"Unknown stage {', '.join(unknown)} in y; the classes are "
            f"{', '.join(map(str, found))}. {_advice(unknown)}"
        )
    if len(np.unique(found)) < len(found) or left_unscored(found).any():
        raise ValueError(f"classes names each stage once; given {found.tolist()}.")
    if len(found) < 2:
        raise ValueError(
            f"Only the stage {', '.join(map(str, found))} is in y, one class; a stager needs "
            "at least two. Is this fold empty of the others? classes='aasm' fixes five columns."
        )
    return found


def _check_spelling(y, names):
    """Find slips where names alone tell the classes: each would be a class of its own."""
    scheme = max(SCHEMES, key=lambda scheme: np.isin(names, SCHEMES[scheme]).sum())
    known = np.isin(names, SCHEMES[scheme])
    stages = {name.casefold(): name for name in SCHEMES[scheme]} if known.any() else {}
    slips, others = [], []
    for name in names[~known].tolist():
        unscored = stage_of_text(name) == UNSCORED
        stage = UNSCORED_NAME if unscored else stages.get(name.strip().casefold())
        if stage is not None:
            slips.append(f"{name!r} instead of {stage!r}")
        others.append(f"{name!r} ({np.sum(y == name)} epochs)")
    if slips:
        raise ValueError(
            f"y holds {', '.join(slips)}. Mend the spelling; if these are classes of "
            "their own, list all labels: classes=[...]."
        )
    # One name alone may be shared by chance: "W" and "S" are wake and sleep.
    if others and known.sum() > 1:
        warnings.warn(
            f"y holds {', '.join(others)} beside stages of the scheme {scheme!r} "
            f"({', '.join(SCHEMES[scheme])}), to be learned as classes of their own. If "
            f"they are slips, mend them, and give classes={scheme!r}, which finds them; if "
            "not, list all labels: classes=[...].",
            stacklevel=3,
        )


def _advice(unknown):
    """Say what to do about labels that are no classes."""
    if all(label.lstrip("-").isdigit() for label in unknown):
        return (
            "Merge stages with skleepkd.stages.to_scheme, or name another scheme "
            f"({', '.join(SCHEMES)})."
        )
    if all(stage_of_text(label) is not None for label in unknown):
        return (
            "[skleepkd.stages.stage_of_text(text) for text in y] are the AASM codes of such "
            "texts; skleepkd.stages.to_scheme merges codes."
        )
    return (
        "Mend the spelling, write '?' where nobody scored, name another scheme "
        f"({', '.join(SCHEMES)}), or list all labels: classes=[...]."
    )


def encode(y, classes):
    """Codes of labels, -1 where unscored.

    Parameters
    ----------
    y : ndarray of shape (n_epochs,)
        Labels that are all among ``classes`` or unscored.
    classes : ndarray of shape (n_classes,)
        The labels in order.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
    """
    known = np.isin(y, classes)
    unknown = ~(known | is_unscored(y))
    if unknown.any():
        raise ValueError(
            f"Unknown stage {y[unknown][0]}; the classes are {classes.tolist()}."
        )
    order = np.argsort(classes)
    codes = order[np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)]
    codes[~known] = UNSCORED
    return codes


def _of_one_kind(y):
    """Take an array of objects for what its values are: all integers, or all names."""
    if all(isinstance(label, (int, np.integer)) for label in y.flat):
        return y.astype(np.int64)
    if all(isinstance(label, str) for label in y.flat):
        return y.astype(str)
    kinds = sorted({type(label).__name__ for label in y.flat})
    raise ValueError(
        f"y mixes {' and '.join(kinds)}: stages are all codes (-1 where unscored) or all "
        'names ("?" where unscored).'
    )


def class_weights(class_weight, codes, classes):
    """Weight of each class in the cross-entropy.

    Parameters
    ----------
    class_weight : None, "balanced" or dict
        "balanced" gives ``n_scored / (n_classes * count)`` as scikit-learn does (1 for a
        class that does not occur); a dict names classes, the others weigh 1.
    codes : ndarray of int
        Codes of the training epochs, -1 where unscored.
    classes : ndarray of shape (n_classes,)
        The labels in order.

    Returns
    -------
    ndarray of float32, shape (n_classes,), or None
    """
    if class_weight is None:
        return None
    weights = np.ones(len(classes), dtype=np.float32)
    if isinstance(class_weight, dict):
        labels = classes.tolist()
        for label, weight in class_weight.items():
            if label not in labels:
                raise ValueError(f"class_weight names {label!r}; the classes are {labels}.")
            weights[labels.index(label)] = weight
        return weights
    if not isinstance(class_weight, str) or class_weight != "balanced":
        raise ValueError(
            f"class_weight is None, 'balanced' or a dict; given {class_weight!r}."
        )
    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    seen = counts > 0
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights
