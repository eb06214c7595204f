"""Sleep stages: their codes, their schemes and the texts that annotations use."""

import warnings
from collections import Counter

import numpy as np

UNSCORED = -1  # an epoch that nobody has scored
UNSCORED_NAME = "?"
_UNSCORED_TEXTS = (UNSCORED_NAME, "-1")
EPOCH_SECONDS = 30.0

#: The names of each scheme, in the order of their codes.
SCHEMES = {
    "aasm": ("W", "N1", "N2", "N3", "REM"),
    "wldr": ("W", "L", "D", "R"),
    "wnr": ("W", "N", "R"),
}

#: Where each AASM stage goes in a coarser scheme (light is N1 and N2, deep is N3).
_FROM_AASM = {
    "aasm": (0, 1, 2, 3, 4),
    "wldr": (0, 1, 1, 2, 3),
    "wnr": (0, 1, 1, 1, 2),
}

#: Annotation texts of each code, after "sleep stage" has been taken off and case folded.
#: Rechtschaffen and Kales' stages 3 and 4 are both N3 (Iber et al. 2007).
_TEXTS = {
    0: ("w", "wake"),
    1: ("1", "n1", "nrem1", "s1"),
    2: ("2", "n2", "nrem2", "s2"),
    3: ("3", "4", "n3", "n4", "nrem3", "nrem4", "s3", "s4"),
    4: ("r", "rem"),
    UNSCORED: ("?", "unscored", "movement time"),
}
_CODES = {text: code for code, texts in _TEXTS.items() for text in texts}


def scheme_names(scheme):
    """Names of a scheme's stages in the order of their codes.

    Parameters
    ----------
    scheme : {"aasm", "wldr", "wnr"}
        Five stages (W, N1, N2, N3, REM), four (W, light, deep, R) or three (W, N, R).

    Returns
    -------
    tuple of str
    """
    if scheme not in list(SCHEMES):
        raise ValueError(f"Unknown stage scheme {scheme!r}; known: {', '.join(SCHEMES)}.")
    return SCHEMES[scheme]


def is_unscored(y):
    """Mark the labels of epochs that nobody has scored.

    Parameters
    ----------
    y : array-like of shape (n_epochs,)
        Codes or names.

    Returns
    -------
    ndarray of bool, shape (n_epochs,)
    """
    y = np.asarray(y)
    if y.dtype.kind == "S":
        y = y.astype(str)
    return np.asarray(np.isin(y, _UNSCORED_TEXTS) | (y == UNSCORED), dtype=bool)


def left_unscored(y, classes=None):
    """Mark the unscored labels of a training set, where -1 may be one of two classes."""
    # Where -1 and 1 are all the labels, these are two classes in scikit-learn's old codes,
    # unless ``classes`` (a scheme or a list) has no -1: then stage 1 alone was scored.
    y = np.asarray(y)
    only_two = y.dtype.kind in "if" and np.array_equal(np.unique(y), [UNSCORED, 1])
    if only_two and (classes is None or UNSCORED in list(classes)):
        return np.zeros(len(y), dtype=bool)
    return is_unscored(y)


def stage_labels(classes):
    """List the labels of a scheme, or of a list, in the order of their codes."""
    return list(scheme_names(classes) if isinstance(classes, str) else classes)


def column_labels(classes, y):
    """Labels of the columns of ``predict_proba`` where ``y`` is what a stager was fitted to."""
    labels = stage_labels(classes)
    if isinstance(labels[0], str) and np.asarray(y).dtype.kind not in "SUO":
        return labels  # of codes, which are in order
    if isinstance(classes, str):
        return sorted(labels)
    if labels != sorted(labels):
        raise ValueError(
            f"Columns of predict_proba are in sorted order; given classes={labels}. Put both "
            "columns and labels in the order of stager.classes_."
        )
    return labels


def sleep_order(labels):
    """Places of the labels of a scheme in the order of its codes; of others, as they are."""
    labels = np.asarray(labels).tolist()
    for stages in SCHEMES.values():
        if set(labels) <= set(stages):
            return np.argsort([stages.index(label) for label in labels])
    return np.arange(len(labels))


def warn_of_shift(codes, n_stages, argument="y"):
    """Warn where the codes of a scheme begin at 1, as they do where wake is 1."""
    if np.array_equal(codes, range(1, n_stages)):
        warnings.warn(
            f"{argument} holds every code but 0, which is wake. If 1 is wake there, give "
            f"{argument} - 1, with -1 where unscored.",
            stacklevel=3,
        )


def stage_codes(y, labels, argument):
    """Places of scored stages among the labels; of names in their scheme's order, codes too."""
    place = {label: code for code, label in enumerate(labels)}
    names = all(isinstance(label, str) for label in labels)
    if names and (sleep_order(labels) == np.arange(len(labels))).all():
        place |= {code: code for code in range(len(labels))}
    given, inverse = np.unique(y, return_inverse=True)
    unknown = [label for label in given.tolist() if label not in place]
    if unknown:
        raise ValueError(
            f"{argument} holds {unknown}, not among the classes {labels}: give classes=."
        )
    return np.array([place[label] for label in given.tolist()])[inverse]


def to_scheme(y, scheme):
    """Merge AASM codes into a coarser scheme.

    Parameters
    ----------
    y : array-like of int, shape (n_epochs,)
        AASM codes (0 W, 1 N1, 2 N2, 3 N3, 4 REM), -1 where unscored.
    scheme : {"aasm", "wldr", "wnr"}
        The scheme that is wanted.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)

    Raises
    ------
    ValueError
        If the scheme or a code is unknown.

    Examples
    --------
    >>> from skleepkd.stages import to_scheme
    >>> to_scheme([0, 1, 2, 3, 4, -1], "wldr")
    array([ 0,  1,  1,  2,  3, -1])
    """
    scheme_names(scheme)
    y = np.asarray(y)
    if y.dtype.kind not in "iu" or np.any((y < UNSCORED) | (y > 4)):
        raise ValueError(
            f"to_scheme takes AASM codes 0 to 4, and -1 where unscored; given {np.unique(y)}."
        )
    table = np.array(_FROM_AASM[scheme] + (UNSCORED,), dtype=np.int64)
    return table[y]  # -1 picks the last entry, which is UNSCORED


def stage_of_text(description):
    """AASM code of an annotation's text.

    Understands the texts of Sleep-EDF and MASS ("Sleep stage W", "Sleep stage 4",
    "Movement time") and plain names; Rechtschaffen and Kales' stages 3 and 4
    become N3, movement time and "?" become unscored.

    Parameters
    ----------
    description : str

    Returns
    -------
    int or None
        The code, -1 where unscored, or None where the text names no stage.

    Examples
    --------
    >>> from skleepkd.stages import stage_of_text
    >>> stage_of_text("Sleep stage 4"), stage_of_text("Movement time"), stage_of_text("Lights off")
    (3, -1, None)
    """
    return _CODES.get(_shortened(description))


def check_texts(annotations, *, epoch=EPOCH_SECONDS):
    """Refuse digits that are codes, and warn of long annotations that are no known stage."""
    covered = Counter()
    for duration, text in zip(annotations.duration, annotations.description, strict=True):
        if duration >= epoch - 1e-3:
            covered[str(text)] += int((duration + 1e-3) // epoch)
    digits = {_shortened(text): text for text in covered if _shortened(text).isdecimal()}
    if "0" in digits and len(digits) > 1:
        raise ValueError(
            f"Annotations {sorted(digits.values())}: of digits, 4 is deep sleep (Rechtschaffen "
            'and Kales) and 0 nothing. Name codes by np.array(["W", "N1", "N2", "N3", '
            '"REM"])[codes].'
        )
    unread = [(text, n) for text, n in covered.most_common() if stage_of_text(text) is None]
    if unread:
        listed = ", ".join(f"{text!r} (epochs: {n})" for text, n in unread)
        warnings.warn(
            f"Annotations not read as stages, though they last an epoch or longer: {listed}. "
            "If they are, rename them to W, N1, N2, N3, REM or ? by annotations.rename.",
            stacklevel=3,
        )


def stages_at(annotations, onset, *, epoch=EPOCH_SECONDS):
    """Look up the stage that annotations give to epochs.

    Parameters
    ----------
    annotations : mne.Annotations
        Scored stages; other annotations are ignored. A stage counts for the epochs
        that lie wholly inside it.
    onset : array-like of shape (n_epochs,)
        Onsets of the epochs in seconds, on the annotations' clock.
    epoch : float, default=30.0
        Length of an epoch in seconds.

    Returns
    -------
    ndarray of int64, shape (n_epochs,)
        AASM codes, -1 where no annotation covers the epoch.

    Raises
    ------
    ValueError
        If 0 is among stages that are digits: they are codes, not texts.

    Warns
    -----
    UserWarning
        If annotations of an epoch or longer name no known stage.
    """
    check_texts(annotations, epoch=epoch)
    onset = np.asarray(onset, dtype=float)
    y = np.full(len(onset), UNSCORED, dtype=np.int64)
    tolerance = 1e-3  # onsets written by devices were rounded somewhere
    for start, duration, description in zip(
        annotations.onset, annotations.duration, annotations.description, strict=True
    ):
        code = stage_of_text(description)
        if code is not None:
            stop = start + duration + tolerance
            y[(onset >= start - tolerance) & (onset + epoch <= stop)] = code
    return y


def _shortened(text):
    return str(text).strip().casefold().removeprefix("sleep stage").strip()
