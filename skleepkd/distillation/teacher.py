"""Teachers: fitted in the fold or frozen, and what they compute for a student, once."""

import tempfile

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from skorch import NeuralNet

from skleepkd.distillation.ensemble import (
    TeacherEnsemble,
    all_labels,
    check_ensemble,
    combine,
    members,
)
from skleepkd.distillation.features import OUTPUT, capture_of
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.rows import preallocate
from skleepkd.pipelines import final_estimator, transform
from skleepkd.warn import warn

#: Bytes of each array of a teacher's output; a larger one is a temporary memory map.
OUTPUT_IN_MEMORY = 2**30

#: Half precision holds three digits of values up to ``HALF_MAX``, and differences of
#: 6e-8 below 6e-5; features whose largest is below ``HALF_MIN`` are kept in single.
HALF_MAX = 65504.0
HALF_MIN = 1e-2


def as_ensemble(teacher):
    """Return several teachers, a list or an ensemble, as an ensemble; of a single one None."""
    if isinstance(teacher, list | tuple):
        return TeacherEnsemble(teacher)
    inner = teacher.estimator if isinstance(teacher, FrozenEstimator) else None
    if isinstance(inner, TeacherEnsemble):
        frozen = [one if is_frozen(one) else FrozenEstimator(one) for one in members(inner)]
        return TeacherEnsemble(frozen, weighting=inner.weighting)
    return teacher if isinstance(teacher, TeacherEnsemble) else None


def each_of(teacher):
    """Return the single teachers that several are, fitted where they are; else the one."""
    ensemble = as_ensemble(teacher)
    if ensemble is None:
        return [teacher]
    return [single for one in members(ensemble) for single in each_of(one)]


def is_frozen(teacher):
    """Whether a teacher, or each of several, is marked as fitted by ``FrozenEstimator``."""
    return all(isinstance(single, FrozenEstimator) for single in each_of(teacher))


def is_assistant(teacher):
    """Whether a teacher is to be fitted as a student of the pair, and so sees the target."""
    stager = None if is_frozen(teacher) else final_stager(teacher)
    return getattr(stager, "teacher", None) is not None


def needs_labels(teacher):
    """Whether a teacher, or one of several, is to be fitted to scored epochs."""
    return any(
        not (is_assistant(single) and final_stager(single).why_labels is None)
        for single in each_of(teacher)
        if not is_frozen(single)
    )


def known_classes(teacher):
    """Labels of teachers that are fitted, or learn from fitted teachers alone; sorted."""
    found = [
        known_classes(final_stager(single).teacher)
        if is_assistant(single)
        else single.classes_
        for single in each_of(teacher)
    ]
    return all_labels(found)


def final_stager(teacher):
    """Return the stager at a teacher's end, or None where it is another classifier."""
    # Of what is fitted here no part may be frozen, so only what is frozen is seen through.
    last = final_estimator(teacher) if is_frozen(teacher) else _end_of(teacher)
    return last if hasattr(type(last), "predict_pair") else None


def final_stagers(teacher):
    """Return the stagers at the ends of a teacher, or of several."""
    return [last for last in map(final_stager, each_of(teacher)) if last is not None]


def _end_of(estimator):
    """Return the last step of (nested) pipelines."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def check_given(estimator, name):
    """Refuse what is no estimator, or half frozen; warn of one that is fitted and not frozen."""
    ensemble = as_ensemble(estimator)
    if ensemble is not None:
        check_ensemble(ensemble)
        for number, one in enumerate(ensemble.teachers):
            check_given(one, f"{name}[{number}]")
        return
    _refuse_others(estimator.estimator if is_frozen(estimator) else estimator, name)
    last = _end_of(estimator)
    # Nothing would warn of its subjects, and the steps before it would be fitted anew.
    if last is not estimator and is_frozen(last) and final_stager(last) is not None:
        raise ValueError(
            f"{name} is a Pipeline whose last step alone is a FrozenEstimator. Freeze all of "
            "it, once fitted, FrozenEstimator(pipeline), or nothing."
        )
    fitted = hasattr(estimator, "classes_") and getattr(last, "initialized_", True)
    if fitted and not is_frozen(estimator) and get_tags(estimator).requires_fit:
        warn(
            f"{name} is fitted already, and a clone of it is fitted anew to the rows of this fit. "
            f"To use it as it is, give {name}=FrozenEstimator(...) (sklearn.frozen)."
        )


def _refuse_others(thing, name):
    """Refuse what is no classifier, with the line to write instead."""
    given, line = type(thing).__name__, 'SleepStager("USleep")'
    wrong = not hasattr(thing, "fit") or isinstance(thing, type)
    if isinstance(thing, str):
        given = repr(thing)
    elif isinstance(thing, type):
        given, network = thing.__name__, issubclass(thing, torch.nn.Module)
        line = f"SleepStager({given})" if network else f"{given}(...)"
    elif isinstance(thing, torch.nn.Module):
        line = "FrozenEstimator(SleepStager.from_module(network, classes=..., sfreq=..., ch_names=...))"
    elif isinstance(thing, np.ndarray) and thing.dtype.kind == "O":
        line = "[...]: several teachers are a list"
    elif hasattr(thing, "shape"):
        line = (
            "FrozenEstimator(what computed it): each fold asks for the rows that it needs"
        )
    elif not wrong and name.startswith("teacher") and not hasattr(thing, "predict_proba"):
        wrong, line = True, f"CalibratedClassifierCV({given}(...)), which has predict_proba"
    if wrong:
        what = "an estimator of the source (a stager or another classifier)"
        raise ValueError(f"{name} is {what}; given {given}. Write {name}={line}.")


def network_spec(stager):
    """Return a stager's network, which may be another stager's, and the options given for it."""
    options = stager.get_params_for("module")
    inner = getattr(stager, "pretrained", None) or getattr(stager, "teacher", None)
    if stager.module is not None or inner is None:
        return stager.module, options
    module, inherited = network_spec(final_stager(inner))
    return module, {**inherited, **options}


def teacher_input(teacher, source):
    """Source as a teacher takes it: skorch's own classifiers know arrays, not pairs."""
    if isinstance(final_estimator(teacher), NeuralNet) and final_stager(teacher) is None:
        return source["target"]
    return source


def transformed(teacher, source):
    """Source as the stager at a teacher's end sees it, as a pair."""
    seen = transform(teacher, source)
    return seen if isinstance(seen, PairedEpochs) else source.replace(target=seen)


def seen_of(teacher, pair):
    """Return what a fitted teacher, or its stager, sees of a pair; several get all of it."""
    if as_ensemble(teacher) is not None:
        return pair
    seen = pair.target_epochs if is_assistant(teacher) else pair.source_epochs
    return seen if final_stager(teacher) is None else transformed(teacher, seen)


def teacher_output(teacher, seen, classes):
    """Logarithms of a fitted teacher's probabilities for what :func:`seen_of` returns."""
    return log_probabilities(_probabilities(teacher, seen), teacher.classes_, classes)


def _probabilities(teacher, seen):
    stager = final_stager(teacher)
    if stager is not None:
        return stager.predict_pair(seen)
    if as_ensemble(teacher) is not None:
        parts = [_probabilities(one, seen_of(one, seen)) for one in members(teacher)]
        return combine(teacher, parts)
    probabilities = teacher.predict_proba(teacher_input(teacher, seen))
    return _check_probabilities(probabilities, teacher, len(seen))


def _check_probabilities(probabilities, teacher, n_epochs):
    """Take what a classifier of somebody else's predicts as an array of probabilities."""
    probabilities = np.asarray(probabilities)
    expected = (n_epochs, len(teacher.classes_))
    wrong = "" if probabilities.shape == expected else f"shape {probabilities.shape}"
    if not wrong and not np.isfinite(probabilities).all():
        wrong = "NaN or infinite values"
    if not wrong and ((probabilities < 0).any() or (probabilities.sum(axis=1) <= 0).any()):
        wrong = "negative values, or rows of zeros"
    if wrong:
        raise ValueError(
            f"{type(final_estimator(teacher)).__name__}.predict_proba gave {wrong}; expected "
            f"are probabilities of shape {expected}, one row an epoch."
        )
    return probabilities


def most_probable(student, pair):
    """Codes of the stages that a student's fitted teacher holds for the most probable."""
    seen = seen_of(student.teacher_, pair)
    return teacher_output(student.teacher_, seen, student.classes_).argmax(axis=1)


def refuse_other_classes(given, wanted):
    """Refuse a teacher of stages that the student lacks: its output would be of others."""
    given, wanted = np.asarray(given).tolist(), np.asarray(wanted).tolist()
    strangers = [label for label in given if label not in wanted]
    if strangers:
        raise ValueError(
            f"The teacher's classes are {given}; {strangers} are not among the student's, "
            f"{wanted}. Give both the same classes=, or fit one to converted labels (codes are "
            "never matched with names)."
        )


def check_classes(teacher, wanted):
    """Refuse a frozen teacher, or one of several, of stages that the student lacks."""
    for single in each_of(teacher):
        if is_frozen(single):
            refuse_other_classes(single.classes_, wanted)


def log_probabilities(probabilities, given, wanted):
    """Logarithms of a teacher's probabilities, 0 for a class it lacks, by the student's classes."""
    refuse_other_classes(given, wanted)
    output = np.full((len(probabilities), len(wanted)), -np.inf, dtype=np.float32)
    # Where a network is sure, float32 rounds the others to 0; a class that the teacher
    # knows is never impossible.
    tiny = np.finfo(np.float32).tiny
    output[:, np.searchsorted(wanted, given)] = np.log(probabilities.clip(min=tiny))
    return output


def extracted_features(teacher, source):
    """Features of a fitted teacher that is no stager, (n_epochs, ...) float32."""
    extractor = final_estimator(teacher)
    features = extractor.extract_features(transform(teacher, source))
    if torch.is_tensor(features):
        features = features.detach().cpu()
    features = np.asarray(features, np.float32)
    name = type(extractor).__name__
    if features.ndim < 2 or len(features) != len(source):
        raise ValueError(
            f"{name}.extract_features(X) gave shape {features.shape} for {len(source)} epochs; "
            "(n_epochs, ...) is expected."
        )
    if not np.isfinite(features).all():
        raise ValueError(f"The features of {name} are NaN or infinite.")
    return features


def teacher_features(stager, dataset, layers, summaries):
    """Compute the output of layers of a fitted stager, once for each row, as arrays.

    ``summaries`` are applied to each batch of a layer's features before they are kept: in
    16 bit where the values fit (the logits in 32).
    """
    arrays, start = [], 0
    for batch in stager.get_iterator(dataset, training=False):
        with capture_of(stager, layers) as seen, torch.no_grad():
            stager.evaluation_step(batch)
            parts = [
                summarise(seen[name]).cpu().numpy()
                for name, summarise in zip(layers, summaries, strict=True)
            ]
        if not arrays:
            exact = [
                name == OUTPUT or np.abs(part).max() < HALF_MIN
                for name, part in zip(layers, parts, strict=True)
            ]
            arrays = [
                _allocate(len(dataset), part, np.float32 if single else np.float16)
                for part, single in zip(parts, exact, strict=True)
            ]
        rows = slice(start, start + len(batch[1]))
        for number, part in enumerate(parts):
            if len(part) != len(batch[1]):
                raise ValueError(
                    f"The teacher's layer {layers[number]!r} has {len(part)} outputs for "
                    f"{len(batch[1])} windows: it sees their epochs apart. Name another layer "
                    "with layers=."
                )
            if not np.isfinite(part).all():
                raise ValueError("The teacher's features are NaN or infinite.")
            if arrays[number].dtype == np.float16 and np.abs(part).max() > HALF_MAX:
                wide = _allocate(len(dataset), part, np.float32)
                wide[:start] = arrays[number][:start]
                arrays[number] = wide
            arrays[number][rows] = part
        start = rows.stop
    return arrays


def _allocate(n_rows, part, dtype):
    shape = (n_rows,) + part.shape[1:]
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if n_bytes <= OUTPUT_IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        preallocate(file, n_bytes)
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def inner_params(stager, name):
    """Parameters ``name__*`` of several teachers in a list, which are those of their ensemble."""
    owner = getattr(stager, name)
    if not isinstance(owner, list | tuple):
        return {}
    inner = TeacherEnsemble(owner).get_params()
    return {f"{name}__{key}": value for key, value in inner.items()}


def set_inner_params(stager, name, params):
    """Set the parameters ``name__*`` of what a stager's parameter holds; return the others."""
    start = f"{name}__"
    inner = {key: value for key, value in params.items() if key.startswith(start)}
    if not inner:
        return params
    owner = params.get(name, getattr(stager, name))
    if isinstance(owner, FrozenEstimator):
        raise ValueError(
            f"{', '.join(inner)} cannot be set: {name} is a FrozenEstimator, which stays as "
            "it was fitted. Give it unfrozen to search over its parameters."
        )
    if not isinstance(owner, list | tuple) and not hasattr(owner, "set_params"):
        raise ValueError(
            f"{', '.join(inner)} cannot be set: {name} is {owner!r}, which has no parameters. "
            "Give an instance first (strategy=Online() in the place of 'online')."
        )
    others = {key: value for key, value in params.items() if key not in inner}
    inner = {key.removeprefix(start): value for key, value in inner.items()}
    if isinstance(owner, list | tuple):
        ensemble = TeacherEnsemble(owner).set_params(**inner)
        alike = ensemble.weighting == "mean"  # as in a list
        return {**others, name: ensemble.teachers if alike else ensemble}
    owner.set_params(**inner)
    return others
