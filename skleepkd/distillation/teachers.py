"""Teachers: fitted in the fold or frozen, asked once, and kept from what they must not see."""

import tempfile
import warnings

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_memory, has_fit_parameter
from skorch import NeuralNet

from skleepkd.distillation.features import OUTPUT
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import preallocate
from skleepkd.memory import key_of
from skleepkd.pipelines import final_estimator, split_pipeline, transform
from skleepkd.stages import left_unscored

#: Bytes of a frozen teacher's answers that are kept in memory, for each array of them;
#: what is larger goes to a temporary memory map.
ANSWERS_IN_MEMORY = 2**30

#: Half precision holds three digits of values up to ``HALF_MAX``, and differences of
#: 6e-8 below 6e-5; features whose largest is below ``HALF_MIN`` are kept in single.
HALF_MAX = 65504.0
HALF_MIN = 1e-2


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
        other classifier. What is frozen may be anything that :func:`split_pipeline` looks
        through; of what is not, no part is that must stay as it is.

    Returns
    -------
    SleepStager or None
    """
    if is_frozen(teacher):
        teacher = final_estimator(teacher)
    teacher = _end_of(teacher)
    return teacher if hasattr(type(teacher), "extract_features") else None


def _end_of(estimator):
    """Return the last step of a ``Pipeline``, of nested ones that of the innermost."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def refuse_half_frozen(estimator, name):
    """Refuse a ``Pipeline`` with a frozen stager at its end that is not frozen itself.

    Parameters
    ----------
    estimator : estimator
        A teacher, or a pretrained stager.
    name : str
        What the user calls it, for the error.

    Raises
    ------
    ValueError
        If it is one: of its people nothing would warn, and the steps before would be
        fitted anew, not as the stager has seen them.
    """
    last = _end_of(estimator)
    if last is not estimator and is_frozen(last) and final_stager(last) is not None:
        raise ValueError(
            f"{name} is a Pipeline whose last step alone is a FrozenEstimator. Freeze all "
            "of it, once fitted, FrozenEstimator(pipeline), or nothing."
        )


def network_spec(stager):
    """Network of a stager and the options it was given, as ``SleepStager`` takes them.

    Parameters
    ----------
    stager : SleepStager
        A fine-tuned or distilled one may have its network from another stager.

    Returns
    -------
    module : str, type or callable
    options : dict
    """
    options = stager.get_params_for("module")
    if stager.module is not None:
        return stager.module, options
    inner = getattr(stager, "pretrained", None) or stager.teacher
    module, inherited = network_spec(final_stager(inner))
    return module, {**inherited, **options}


def clone_for_student(teacher, held_out, seed, checkpoint=None):
    """Clone a teacher, and hand it the student's choices.

    Parameters
    ----------
    teacher : estimator
        Not frozen.
    held_out : HeldOut
        The subjects that the student holds out.
    seed : int
        Taken by whatever in the teacher has a ``random_state`` and was given none.
    checkpoint : path-like, optional
        The student's folder, for a stager that has none of its own.

    Returns
    -------
    estimator
        Unfitted.
    """
    teacher = clone(teacher)
    stager = final_stager(teacher)
    if stager is not None:
        stager.set_params(validation=held_out)
        if stager.checkpoint is None:
            stager.set_params(checkpoint=checkpoint)
    unset = [
        name
        for name, value in teacher.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    ]
    return teacher.set_params(**dict.fromkeys(unset, seed))


def teacher_input(teacher, source):
    """Source as a teacher takes it: skorch's own classifiers know arrays, not pairs."""
    last = final_estimator(teacher)
    plain = isinstance(last, NeuralNet) and final_stager(last) is None
    return source["target"] if plain else source


def fit_teacher(teacher, source, y, held_out, memory=None):
    """Fit a teacher on the source of the training rows.

    Parameters
    ----------
    teacher : estimator
        As :func:`clone_for_student` returns it.
    source : PairedEpochs
        The source as a pair of its own.
    y : ndarray of shape (n_epochs,)
        Labels. A classifier that is no stager is fitted to the scored rows alone.
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
    if memory is None:
        return _fit(None, teacher, source, y, held_out)
    fit = check_memory(memory).cache(_fit, ignore=["teacher", "source", "y", "held_out"])
    return fit(key_of(teacher, source, y, held_out), teacher, source, y, held_out)


def _fit(key, teacher, source, y, held_out):
    """Fit; ``key`` stands for all else in the cache's key."""
    if final_stager(teacher) is None:
        scored = ~left_unscored(y)
        source, y = _without(held_out, source[scored], y[scored])
        options = {}
        if source.subject is not None and has_fit_parameter(teacher, "groups"):
            options = {"groups": source.subject}
        return teacher.fit(teacher_input(teacher, source), y, **options)
    fit_transformers(teacher, source, y, held_out)
    final_stager(teacher).fit(transformed(teacher, source), y)
    return teacher


def _without(held_out, source, y):
    """Leave out the subjects who are held out."""
    if not len(held_out):
        return source, y
    rows = ~np.isin(source.subject, held_out)
    return source[rows], y[rows]


def fit_transformers(teacher, source, y, held_out):
    """Fit what stands before the stager in a ``Pipeline``.

    Parameters
    ----------
    teacher : estimator
        A ``Pipeline`` that ends in a stager, or a stager (nothing happens).
    source : PairedEpochs
        The source as a pair of its own.
    y : ndarray of shape (n_epochs,)
        Labels; unscored rows are left out.
    held_out : ndarray
        Subjects who are left out too.
    """
    steps, stager = split_pipeline(teacher)
    if steps:
        scored = ~left_unscored(y, stager.classes)
        steps = [(str(number), step) for number, (_, step) in enumerate(steps)]
        Pipeline(steps).fit(*_without(held_out, source[scored], y[scored]))


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
    answer = transform(teacher, source)
    return answer if isinstance(answer, PairedEpochs) else source.replace(target=answer)


def log_probabilities(probabilities, given, wanted):
    """Logarithms of a teacher's probabilities, in the columns of the student.

    Parameters
    ----------
    probabilities : ndarray of shape (n_epochs, n_given)
        What the teacher answers.
    given, wanted : ndarray
        The teacher's and the student's labels. The two meet by label: a class that the
        teacher lacks has the probability 0, one that the student lacks is left out.

    Returns
    -------
    ndarray of float32, shape (n_epochs, n_wanted)

    Raises
    ------
    ValueError
        If the two have no label in common.
    """
    given, wanted = np.asarray(given).tolist(), np.asarray(wanted).tolist()
    if not set(given) & set(wanted):
        raise ValueError(
            f"Teacher and student have no class in common: the teacher knows {given}, the "
            f"student {wanted}."
        )
    answers = np.full((len(probabilities), len(wanted)), -np.inf, dtype=np.float32)
    # Where a network is sure, float32 rounds the others to 0; a class that the teacher
    # knows is never impossible.
    tiny = np.finfo(np.float32).tiny
    for column, label in enumerate(wanted):
        if label in given:
            answers[:, column] = np.log(probabilities[:, given.index(label)].clip(min=tiny))
    return answers


def teacher_features(stager, source, layers, summaries):
    """Compute what layers of a fitted stager answer, once for each row.

    Parameters
    ----------
    stager : SleepStager
        The teacher's network.
    source : PairedEpochs or torch.utils.data.Dataset
        What it sees.
    layers : sequence of str
        Names of its layers; "output" for its logits.
    summaries : sequence of callable
        One a layer, applied to each batch of its features before they are kept.

    Returns
    -------
    list of ndarray of shape (n_epochs, ...)
        One array a layer, in 16 bit where its values fit (else 32, as the logits always
        are), in memory up to ``ANSWERS_IN_MEMORY`` bytes, else in a temporary memory map.
    """
    arrays, start = [], 0
    for batch in stager.get_iterator(stager.get_dataset(source), training=False):
        n_rows = len(batch[1])
        with stager.capture(layers) as seen, torch.no_grad():
            stager.evaluation_step(batch)
            parts = [
                summarise(seen[name]).cpu().numpy()
                for name, summarise in zip(layers, summaries, strict=True)
            ]
        for name, part in zip(layers, parts, strict=True):
            if len(part) != n_rows:
                raise ValueError(
                    f"The teacher's layer {name!r} answers {len(part)} times for {n_rows} "
                    "windows: it sees their epochs apart. Name a layer that answers once for "
                    "each window with layers=."
                )
        if not arrays:
            arrays = [
                _room(len(source), part, _precision(name, part))
                for name, part in zip(layers, parts, strict=True)
            ]
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


def _precision(name, part):
    exact = name == OUTPUT or np.abs(part).max() < HALF_MIN
    return np.float32 if exact else np.float16


def _room(n_rows, part, dtype):
    shape = (n_rows,) + part.shape[1:]
    if np.prod(shape) * np.dtype(dtype).itemsize <= ANSWERS_IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        preallocate(file, int(np.prod(shape)) * np.dtype(dtype).itemsize)
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
        seen, own = seen_by(teacher, name), student.fitted_on_[name]
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


def seen_by(stager, name):
    """People or nights that went into a stager's weights, through frozen ones too."""
    seen = stager.fitted_on_[name]
    inner = getattr(stager, "pretrained_", None) or getattr(stager, "teacher_", None)
    if inner is not None and is_frozen(inner) and final_stager(inner) is not None:
        before = seen_by(final_stager(inner), name)
        if before is not None:
            seen = before if seen is None else np.union1d(seen, before)
    return seen
