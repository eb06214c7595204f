"""Teachers: fitted in the fold or frozen, asked once, and kept from what they must not see."""

import tempfile
import warnings

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_memory, has_fit_parameter
from skorch import NeuralNet

from skleepkd.distillation.features import capture_features
from skleepkd.epochs import PairedEpochs
from skleepkd.stages import is_unscored

#: Bytes of a frozen teacher's answers that are kept in memory, for each array of them;
#: what is larger goes to a temporary memory map.
ANSWERS_IN_MEMORY = 2**30

#: Half precision holds three digits of values up to this.
HALF_MAX = 65504.0


class LeakageWarning(UserWarning):
    """A stager is judged on people or nights that its frozen teacher was fitted on."""


def is_frozen(teacher):
    """Whether a teacher is marked as fitted already, by ``FrozenEstimator``."""
    return isinstance(teacher, FrozenEstimator)


def final_stager(teacher):
    """Return the stager of a teacher, or None where it is another classifier.

    Parameters
    ----------
    teacher : estimator
        A ``SleepStager``, a ``Pipeline`` that ends in one, either of them frozen, or any
        other classifier.

    Returns
    -------
    SleepStager or None
    """
    if is_frozen(teacher):
        teacher = teacher.estimator
    if isinstance(teacher, Pipeline):
        teacher = teacher.steps[-1][1]
    return teacher if isinstance(teacher, NeuralNet) else None


def prepared(teacher, held_out, seed):
    """Clone a teacher, and hand it the student's choices.

    Parameters
    ----------
    teacher : estimator
        Not frozen.
    held_out : HeldOut
        The subjects that the student holds out.
    seed : int
        Taken by a stager that has no ``random_state`` of its own.

    Returns
    -------
    estimator
        Unfitted.
    """
    teacher = clone(teacher)
    stager = final_stager(teacher)
    if stager is not None:
        stager.set_params(validation=held_out)
        if stager.random_state is None:
            stager.set_params(random_state=seed)
    return teacher


def fit_teacher(teacher, source, y, held_out, memory=None):
    """Fit a teacher on the source of the training rows.

    Parameters
    ----------
    teacher : estimator
        As :func:`prepared` returns it.
    source : PairedEpochs
        The source as a pair of its own; unscored rows are left out.
    y : ndarray of shape (n_epochs,)
        Labels.
    held_out : ndarray
        Subjects that the student holds out. A stager validates on them; another
        classifier is fitted without them.
    memory : None, str or joblib.Memory
        Where a teacher fitted to the same rows with the same parameters is kept.

    Returns
    -------
    estimator
        Fitted.
    """
    scored = ~is_unscored(y)
    source, y = source[scored], y[scored]
    fit = check_memory(memory).cache(_fit, ignore=["source", "y"])
    rows = (source.subject, source.recording, source.onset, source.sfreq)
    about = joblib.hash((source.fingerprint("target"), y, rows))
    return fit(teacher, about, source=source, y=y, held_out=held_out)


def _fit(teacher, about, source, y, held_out):
    """Fit; ``about`` stands for source and labels in the cache's key."""
    if final_stager(teacher) is None:
        if len(held_out):
            rows = ~np.isin(source.subject, held_out)
            source, y = source[rows], y[rows]
        options = {}
        if source.subject is not None and has_fit_parameter(teacher, "groups"):
            options = {"groups": source.subject}
        return teacher.fit(source, y, **options)
    fit_transformers(teacher, source, y)
    final_stager(teacher).fit(transformed(teacher, source), y)
    return teacher


def fit_transformers(teacher, source, y):
    """Fit what stands before the stager in a ``Pipeline``.

    Parameters
    ----------
    teacher : estimator
        A ``Pipeline`` that ends in a stager, or a stager (nothing happens).
    source : PairedEpochs
        The source as a pair of its own.
    y : ndarray of shape (n_epochs,)
        Labels; unscored rows are left out.
    """
    if isinstance(teacher, Pipeline) and len(teacher) > 1:
        scored = ~is_unscored(y)
        teacher[:-1].fit(source[scored], y[scored])


def transformed(teacher, source):
    """Source as the stager at a teacher's end sees it.

    Parameters
    ----------
    teacher : estimator
        A fitted ``Pipeline`` or a stager, frozen or not.
    source : PairedEpochs
        The source as a pair of its own.

    Returns
    -------
    PairedEpochs
    """
    if is_frozen(teacher):
        teacher = teacher.estimator
    if not isinstance(teacher, Pipeline) or len(teacher) == 1:
        return source
    answer = teacher[:-1].transform(source)
    return answer if isinstance(answer, PairedEpochs) else source.replace(target=answer)


def log_probabilities(teacher, source, classes):
    """Logarithms of a teacher's probabilities, in the columns of the student.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    source : PairedEpochs
        The source as a pair of its own.
    classes : ndarray of shape (n_classes,)
        The student's labels. Teacher and student meet by label: a class that the
        teacher lacks has the probability 0, one that the student lacks is left out.

    Returns
    -------
    ndarray of float32, shape (n_epochs, n_classes)

    Raises
    ------
    ValueError
        If the two have no label in common.
    """
    given = np.asarray(teacher.classes_).tolist()
    common = [label for label in np.asarray(classes).tolist() if label in given]
    if not common:
        raise ValueError(
            f"Teacher and student have no class in common: the teacher knows {given}, the "
            f"student {np.asarray(classes).tolist()}."
        )
    probabilities = teacher.predict_proba(source)
    answers = np.zeros((len(source), len(classes)), dtype=np.float32)
    columns = [list(np.asarray(classes).tolist()).index(label) for label in common]
    answers[:, columns] = probabilities[:, [given.index(label) for label in common]]
    # Where a network is sure, float32 rounds the others to 0; a class that the teacher
    # knows is never impossible.
    tiny = np.finfo(np.float32).tiny
    answers[:, columns] = np.log(np.maximum(answers[:, columns], tiny))
    unknown = np.ones(len(classes), dtype=bool)
    unknown[columns] = False
    answers[:, unknown] = -np.inf
    return answers


def teacher_features(stager, source, layers, summarise):
    """Compute what layers of a fitted stager answer, once for each row.

    Parameters
    ----------
    stager : SleepStager
        The teacher's network.
    source : PairedEpochs
        What it sees.
    layers : sequence of str
        Names of its layers.
    summarise : callable
        Applied to each batch of features before they are kept.

    Returns
    -------
    list of ndarray of shape (n_epochs, ...)
        One array a layer, in 16 bit where its values fit (else 32), in memory up to
        ``ANSWERS_IN_MEMORY`` bytes, else in a temporary memory map.
    """
    arrays, start = [], 0
    for batch in stager.get_iterator(stager.get_dataset(source), training=False):
        with capture_features(stager.module_, layers) as seen, torch.no_grad():
            stager.evaluation_step(batch)
            parts = [summarise(seen[name]).cpu().numpy() for name in layers]
        if not arrays:
            arrays = [_room(len(source), part) for part in parts]
        for number, part in enumerate(parts):
            if not np.isfinite(part).all():
                raise ValueError("The teacher answers with NaN or infinite features.")
            if arrays[number].dtype == np.float16 and np.abs(part).max() > HALF_MAX:
                wide = _room(len(source), part, np.float32)
                wide[:start] = arrays[number][:start]
                arrays[number] = wide
            arrays[number][start : start + len(part)] = part
        start += len(parts[0])
    return arrays


def _room(n_rows, part, dtype=np.float16):
    shape = (n_rows,) + part.shape[1:]
    if np.prod(shape) * np.dtype(dtype).itemsize <= ANSWERS_IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def split_params(params, prefix, teacher):
    """Part the parameters of a teacher from the student's own.

    Parameters
    ----------
    params : dict
        As ``set_params`` is given them; a new teacher may be among them.
    prefix : str
        Name of the parameter that holds the teacher.
    teacher : estimator
        The present teacher.

    Returns
    -------
    inner, own : dict
        The teacher's parameters without their prefix, and the others.

    Raises
    ------
    ValueError
        If parameters of a frozen teacher are among them.
    """
    start = f"{prefix}__"
    inner = {name: value for name, value in params.items() if name.startswith(start)}
    own = {name: value for name, value in params.items() if name not in inner}
    if inner and is_frozen(params.get(prefix, teacher)):
        raise ValueError(
            f"{', '.join(inner)} cannot be set: {prefix} is a FrozenEstimator, which was "
            "fitted before and stays as it is. Give it unfrozen to search over its "
            "parameters."
        )
    return {name.removeprefix(start): value for name, value in inner.items()}, own


def warn_of_leakage(X, teacher, student, role):
    """Warn where X holds people or nights that only a frozen stager was fitted on.

    Parameters
    ----------
    X : object
        What the student is asked about.
    teacher, student : SleepStager
        Both fitted.
    role : str
        What the frozen one is to the other, for the message: "teacher" or "pretrained".
    """
    if not isinstance(X, PairedEpochs):
        return
    for name in ("subject", "recording"):
        seen, own = teacher.fitted_on_[name], student.fitted_on_[name]
        here = getattr(X, name)
        if seen is None or here is None:
            continue
        leaked = np.intersect1d(here, seen)
        if own is not None:
            leaked = np.setdiff1d(leaked, own)
        if len(leaked):
            warnings.warn(
                f"The frozen {role} was fitted on the {name} "
                f"{', '.join(map(str, leaked[:5]))}, on which this stager is judged now: the "
                f"score is optimistic. Give the {role} unfitted (it is then fitted in each "
                "fold), or one that was fitted on other people.",
                LeakageWarning,
                stacklevel=4,
            )
            return
