"""Fitted stagers as files: weights as safetensors, all else as JSON, no code."""

import json
import warnings
from importlib.metadata import version

import torch
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from torch import nn

from skleepkd._files import fits_json, read_checked, refusing, to_json, write_checked
from skleepkd._restored import (
    APART,
    FITTED,
    check_answer,
    check_sizes,
    names_no_code,
    no_larger_than,
    plain,
    read_around,
    read_fitted,
    read_history,
    read_network,
    read_parameters,
    read_people,
)
from skleepkd._steps import preprocessor_to_json, step_to_json
from skleepkd.card import keep_origin, origin_of, read_origin
from skleepkd.distillation.leakage import seen_by
from skleepkd.distillation.teacher import is_frozen, network_spec
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.estimators.passes import RandomStream
from skleepkd.estimators.supervised import softmax
from skleepkd.networks.build import find_network, network_name, uncompiled
from skleepkd.pipelines import final_estimator, scheme_of
from skleepkd.recording import RecordingStager, check_preprocessors

#: Files of a later format are refused. Format 2 also holds pipelines and recording stagers,
#: of which a reader of format 1 would load the bare stager, and stage unprepared epochs.
FORMAT = 2

_STAGERS = (SleepStager, DistilledSleepStager, FineTunedSleepStager)


def save(stager, path):
    """Save a fitted stager, or a pipeline that ends in one, to a file without code.

    The file is a safetensors file of the network's weights. Its metadata has one entry,
    ``"skleepkd"``: JSON with the network's name, the parameters, the classes, what the
    stager was fitted on, the history (its passes, not their batches), and the steps and
    preprocessors before the network. What was there before under this path is replaced at
    once, or stays.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager, Pipeline or RecordingStager
        Fitted. Of a distilled or fine-tuned one the student alone is kept, not its teacher.
        A ``Pipeline`` ends in a stager; before it stand transformers of
        :mod:`skleepkd.preprocessing` (its ``memory`` is not kept). What is frozen comes
        back frozen; of a fitted search the best estimator is kept. A
        :class:`RecordingStager` holds one of these; its preprocessors are methods of
        ``mne.io.Raw`` that change the signal, its channels or their names, or functions of
        skleepkd's or braindecode's preprocessing.
    path : str or pathlib.Path
        The file, by custom ``*.safetensors``; its folder exists.

    Raises
    ------
    TypeError
        If it is no such stager, or a step or preprocessor is one that no file can hold.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If the answers depend on something that no file can hold, or :func:`load` would
        refuse the file; it is read once before it is written.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If parameters are left out since JSON cannot hold them (callbacks, an optimiser).

    See Also
    --------
    load : Read the file.
    skleepkd.model_card : Describe a stager in words.
    skleepkd.export_onnx : Write the network for programs without Python.

    Notes
    -----
    **The file names people and nights**: ``fitted_on_`` and ``held_out_``, the subjects and
    recordings of the training, are in it, so that a leak is noticed where the stager is a
    frozen teacher later. If they are more than codes, take them out before the file is
    given away: ``stager.fitted_on_ = {"subject": None, "recording": None}`` and
    ``stager.held_out_ = stager.held_out_[:0]``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from skleepkd import SleepStager, load, save
    >>> from skleepkd.preprocessing import EpochScaler
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((16, 1, 400)), np.tile([0, 2], 8)
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> stager = make_pipeline(EpochScaler(), SleepStager("UTime", max_epochs=1, **small))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(stager.fit(X, y), f"{folder}/ear.safetensors")
    ...     again = load(f"{folder}/ear.safetensors")
    >>> np.array_equal(again.predict_proba(X), stager.predict_proba(X))
    True
    """
    last, around = _parts(stager)
    last.check_is_fitted()
    _check_answers(last)
    parameters, left_out = _parameters(last)
    # A recipe's own way to choose the weights is no news to its user.
    news = [name for name in left_out if name != "callbacks__best_weights"]
    if news:
        warnings.warn(
            f"Not kept in the file, as JSON cannot hold them: {', '.join(news)}. The "
            "answers do not depend on them; where training is to go on after load, set "
            "them again.",
            stacklevel=2,
        )
    fitted = {name: getattr(last, name) for name in FITTED if hasattr(last, name)}
    fitted["ch_names_"] = _channels(last.ch_names_)
    about = {
        "format": FORMAT,
        "version": version("skleepkd"),
        **origin_of(last),
        "network": _network(last),
        "parameters": parameters,
        "left_out": left_out,
        "fitted": {name: to_json(value) for name, value in fitted.items()},
        "fitted_on": {
            name: to_json(seen_by(last, name)) for name in ("subject", "recording")
        },
        "history": [_pass(row) for row in last.history_],
        **around,
    }
    tensors = uncompiled(last.module_).state_dict()
    _check_loads(about, tensors)
    write_checked(path, about, tensors)


def load(path, module=None):
    """Load what :func:`save` wrote, without running any code of the file.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    module : str, type or callable, optional
        The network, as for :class:`SleepStager`. Needed where it is neither skleepkd's nor
        braindecode's: those are found by their names.

    Returns
    -------
    SleepStager, Pipeline or RecordingStager
        Fitted, answering as the saved one did. A distilled or fine-tuned stager comes back
        as the student that it was, a :class:`SleepStager`, and all of its layers can be
        trained (of layers that were not, torch rounds the last digit of some answers
        differently then). ``fitted_on_`` includes what its frozen teacher or pretrained
        stager was fitted on. The optimiser begins anew. A device that is not here becomes
        ``"auto"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is damaged, is none of ours or is of a later format, if it names a
        network, transformer, function or method that is not known, or if the weights do
        not fit ``module``.

    Notes
    -----
    Every byte counts: the file holds the SHA-256 digest of itself (with zeros for the 64
    digits of the digest), checked before anything else is read. It tells damage, not
    forgery. A forged file can hold a stager that answers what its author likes; it cannot
    make Python import or call anything but the networks, transformers and functions
    that :func:`save` describes, nor read or write another file.
    """
    about, tensors = read_checked(path, FORMAT)
    with refusing(path):
        said = _read(about, tensors)
    stager = said.stager
    stager.module = _find_module(said.network, module, path)
    _fill(stager, tensors, path, stager.module)
    for row in said.history:
        stager.history_.append(row)
    keep_origin(stager, said.origin)
    return said.put_around(stager)


def _read(about, tensors):
    """Read all that a file says; of its stager the network is not built yet."""
    parameters, network = read_parameters(about), read_network(about, tensors)
    options = {f"module__{name}": value for name, value in network["options"].items()}
    stager = SleepStager(None, **parameters, **options)
    vars(stager).update(read_fitted(about), fitted_on_=read_people(about))
    check_sizes(stager)
    return Bunch(
        stager=stager,
        network=network,
        history=read_history(about),
        origin=read_origin(about),
        put_around=read_around(about),
    )


def _fill(stager, tensors, path, module):
    """Build the network and give it its weights."""
    try:
        with RandomStream(0, stager.device), no_larger_than(tensors):
            stager.initialize()
        network = uncompiled(stager.module_)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name in tensors:
                tensor.data = tensor.data.to(_precision(tensors[name], tensor, name))
        network.load_state_dict(tensors)
        stager.module_.eval()
        if not stager.compile:
            check_answer(stager)
    except Exception as error:  # networks raise anything, given options that do not suit
        raise ValueError(
            f"The weights in {path} do not fit the network {module!r}. {error}"
        ) from error


def _precision(kept, built, name):
    """Return the number format of kept weights, which are not of another kind."""
    if kept.dtype != built.dtype and not {kept.dtype, built.dtype} <= _PRECISIONS:
        raise TypeError(f"{name} is of {kept.dtype}, and of {built.dtype} in the network.")
    return kept.dtype


#: Number formats that a network may choose for its weights after it was built.
_PRECISIONS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

#: Networks of braindecode that ask the internet for what they need when they are built.
_ASKING = ("REVE", "STEEGFormer")


def _find_module(network, module, path):
    """Find the network of a file, or say what ``load`` must be given."""
    name = network["name"]
    if network["left_out"] and (module is None or isinstance(module, (str, type))):
        options = ", ".join(f"{key}={value}" for key, value in network["left_out"].items())
        raise ValueError(
            f"{path} holds the weights of {name} with {options}, which load takes from no file: "
            f"give load(path, module=...) a factory, functools.partial({name}, {options})."
        )
    if module is not None:
        return module
    if network["given"] == "own" or name in _ASKING:
        why = "skleepkd does not know" if network["given"] == "own" else "asks the internet"
        raise ValueError(
            f"{path} holds the weights of {name}, which {why}: give the class or factory "
            "that it was trained with, load(path, module=...)."
        )
    with refusing(path):
        found = find_network(name)
    return name if network["given"] == "name" else found


# ---------------------------------------------------------------- what is kept


def _parts(stager):
    """Part a stager's network from what stands around it, as JSON."""
    whole, recording = stager, None
    if type(stager) is RecordingStager:
        whole = stager.stager
        check_preprocessors(stager.preprocessors)
        recording = {
            "preprocessors": [
                _named(preprocessor_to_json, f"preprocessor {number}", step)
                for number, step in enumerate(stager.preprocessors)
            ],
            "ch_names": _channels(stager.ch_names),
        }
    if type(final_estimator(whole)) not in _STAGERS:
        raise TypeError(
            "save takes a SleepStager, a DistilledSleepStager, a FineTunedSleepStager, a "
            "Pipeline that ends in one or a RecordingStager of one; given "
            f"{type(whole).__name__}. Of another Pipeline that holds a stager, that can be "
            "saved, pipeline[-1]."
        )
    last, around = _wrapping(whole)
    return last, {"frozen": False, "steps": None, **(around or {}), "recording": recording}


def _wrapping(stager):
    """Part a stager from the pipelines around it, as JSON; of a search its best is kept."""
    frozen, steps = False, None
    while is_frozen(stager) or hasattr(stager, "best_estimator_"):
        frozen = frozen or is_frozen(stager)
        stager = stager.estimator if is_frozen(stager) else stager.best_estimator_
    if isinstance(stager, Pipeline):
        *before, (name, stager) = stager.steps
        steps = [
            [
                key,
                None if step in (None, "passthrough") else _named(step_to_json, key, step),
            ]
            for key, step in before
        ]
        stager, inside = _wrapping(stager)
        steps.append([name, inside])
    return stager, {"frozen": frozen, "steps": steps} if frozen or steps else None


def _channels(names):
    """Names of channels as a file holds them: one, a list, or None."""
    return names if names is None or isinstance(names, str) else list(map(str, names))


def _named(write, name, step):
    """Write a step as JSON, or say which one it is that cannot be."""
    try:
        return write(step)
    except TypeError as error:
        raise TypeError(
            f"The step {name!r} cannot be saved: {error}. Save the stager alone, "
            "pipeline[-1], and prepare the epochs or the recording in code of your own."
        ) from error


def _check_loads(about, tensors):
    """Refuse, before a file is written, what :func:`load` would refuse."""
    try:
        with refusing("The file"):
            _read(json.loads(json.dumps(about)), tensors)
    except ValueError as error:
        raise ValueError(
            f"The stager is not saved, as load would refuse the file. {error.__cause__}"
        ) from error


def _check_answers(stager):
    """Refuse a stager whose answers would be others after loading."""
    criterion = uncompiled(stager.criterion_)
    own = stager.predict_nonlinearity
    infers = isinstance(own, str) and isinstance(criterion, nn.CrossEntropyLoss)
    if not (own is None or own is softmax or infers):
        raise ValueError(
            f"Answers depend on predict_nonlinearity={own!r} and the criterion "
            f"{type(criterion).__name__}, which no file can hold. Set "
            "predict_nonlinearity=None (the network's answers as they are) or leave out both."
        )


def _network(stager):
    """Name the network and the options that it was built with."""
    module, options = network_spec(stager)
    if isinstance(module, str):
        given, name = "name", module
    elif network_name(module):
        given, name = "class", network_name(module)
    else:
        # Of an instance the class, of a functools.partial what it calls.
        named = module if hasattr(module, "__qualname__") else type(module)
        named = getattr(module, "func", named)
        given, name = "own", f"{named.__module__}.{named.__qualname__}"
    kept = {key: to_json(value) for key, value in options.items() if fits_json(value)}
    left_out = {key: repr(value) for key, value in options.items() if key not in kept}
    return {"name": name, "given": given, "options": kept, "left_out": left_out}


def _parameters(stager):
    """Part the parameters of a plain stager into those that JSON holds and the others."""
    defaults = SleepStager(None).get_params(deep=False)
    kept, left_out = {}, []
    for name, value in sorted(_given(stager).items()):
        component = name.partition("__")[0]
        if component not in defaults or component in APART:
            continue
        if component in left_out:  # options of what is not kept
            left_out.append(name)
        elif fits_json(value) and names_no_code(name, value):
            kept[name] = plain(name, to_json(value))
        elif value is not defaults.get(name):
            left_out.append(name)
    return kept, left_out


def _given(stager):
    """Return the parameters, and for a fine-tuned stager those that its source sets."""
    given = stager.get_params(deep=False)
    if isinstance(stager, FineTunedSleepStager):
        given["classes"] = stager.classes_.tolist()
        given["sequence_length"] = stager.sequence_length_
    if type(stager) is not SleepStager and stager.classes is None:
        # The scheme of the stager that taught it, which is not kept.
        given["classes"] = scheme_of(stager) or given["classes"]
    return given


def _pass(row):
    """Return a pass of a history without its batches, as JSON."""
    return {
        name: to_json(value)
        for name, value in row.items()
        if name != "batches" and fits_json(value)
    }
