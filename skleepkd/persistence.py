"""Fitted stagers as files: weights as safetensors, all else as JSON, no code."""

import hashlib
import json
import math
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skleepkd import networks, preprocessing
from skleepkd.distillation.leakage import seen_by
from skleepkd.distillation.teacher import network_spec
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.memory import replace_file
from skleepkd.networks.build import find_network, network_name, uncompiled
from skleepkd.pipelines import final_estimator, origin_of, scheme_of
from skleepkd.recording import RecordingStager
from skleepkd.warn import warn

#: Classes and functions that a file may name, beside networks.
_CLASSES = (FrozenEstimator, FunctionTransformer, Pipeline, RecordingStager, SleepStager)
_NAMED = {name: getattr(preprocessing, name) for name in preprocessing.__all__}
_NAMED |= {named.__name__: named for named in _CLASSES}
_MOVING = ("exponential_moving_demean", "exponential_moving_standardize")
_OF_BRAINDECODE = ("Preprocessor", "filterbank", *_MOVING)

#: Methods of ``mne.io.Raw`` that a file may name: they change the signal in memory, its
#: channels or their names, and neither read nor write a file, nor call what they are given.
_RAW_METHODS = (
    *("add_reference_channels", "crop", "drop_channels", "filter", "interpolate_bads"),
    *("load_data", "notch_filter", "pick", "pick_channels", "pick_types"),
    *("rename_channels", "reorder_channels", "resample", "rescale", "savgol_filter"),
    *("set_channel_types", "set_eeg_reference"),
)

#: What ``fit`` learned besides the weights, ``fitted_on_`` and the history.
_FITTED = (
    *("classes_inferred_", "class_weight_", "signal_", "epoch_shape_", "ch_names_"),
    *("spread_", "held_out_", "best_epoch_", "seen_epochs_", "n_scored_"),
    *("calibration_", "drops_channels_"),
)

#: Where the digest of a file stands: first in our entry of the safetensors metadata.
_DIGEST = re.compile(rb'"skleepkd":"\{\\"sha256\\":\\"([0-9a-f]{64})\\"')


def save(stager, path):
    """Save a fitted stager, or a pipeline that ends in one, to a file without code.

    The file is a safetensors file of the network's weights. Its metadata has one entry,
    ``"skleepkd"``: JSON with the classes, the parameters and what was learned (of the
    history the passes, not their batches). What was there before is replaced at once, or
    stays.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager, Pipeline or RecordingStager
        Fitted. Of a distilled or fine-tuned one the student alone is kept, of a fitted
        search the best estimator; what is frozen comes back frozen. The steps of a
        ``Pipeline`` (its ``memory`` is not kept) are transformers of
        :mod:`skleepkd.preprocessing`, the preprocessors of a :class:`RecordingStager`
        methods of ``mne.io.Raw`` that change the signal, its channels or their names, or
        functions of skleepkd's or braindecode's preprocessing.
    path : str or pathlib.Path
        The file, by custom ``*.safetensors``; its folder exists.

    Raises
    ------
    TypeError or sklearn.exceptions.NotFittedError
        If it is no such stager, not fitted, or holds a step that no file can hold.
    ValueError
        If the predictions depend on something that no file can hold.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If parameters are left out that JSON cannot hold (callbacks, an optimiser).

    Notes
    -----
    **The file names subjects and nights**: ``fitted_on_`` and ``held_out_`` are in it, so
    that a leak is noticed where the stager is a frozen teacher later. If they are more than
    codes, take them out before the file is given away: ``stager.fitted_on_ = {"subject":
    None, "recording": None}`` and ``stager.held_out_ = stager.held_out_[:0]``.

    Examples
    --------
    >>> from skleepkd import load, save
    >>> save(stager, "ear.safetensors")  # doctest: +SKIP
    >>> stager = load("ear.safetensors")  # doctest: +SKIP
    """
    last = final_estimator(stager.stager if type(stager) is RecordingStager else stager)
    if type(last) not in (SleepStager, DistilledSleepStager, FineTunedSleepStager):
        raise TypeError(
            "save takes a stager, a Pipeline that ends in one or a RecordingStager of one; "
            f"given {type(stager).__name__}. Of another Pipeline that holds a stager, that can "
            "be saved, pipeline[-1]."
        )
    last.check_is_fitted()
    left_out = _parameters(last)[1]
    own = last.predict_nonlinearity
    if "predict_nonlinearity" in left_out or (own == "auto" and "criterion" in left_out):
        raise ValueError(
            f"Predictions depend on predict_nonlinearity={own!r} and the criterion, which no "
            "file can hold. Set predict_nonlinearity=None (the network's outputs as they are)."
        )
    try:
        estimator = _to_json(stager)
        # What load would refuse is not written.
        json.loads(json.dumps(estimator), object_hook=_from_json)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"It cannot be saved: {error}. Save the stager alone, pipeline[-1], and prepare "
            "the epochs or the recording in code of your own."
        ) from error
    # Load asks for a network, and what chose the weights is done with.
    done = ("module", "callbacks__best_weights")
    missed = ", ".join(name for name in left_out if not name.startswith(done))
    if missed:
        warn(
            f"Not kept in the file, as JSON cannot hold them: {missed}. The "
            "predictions do not depend on them; set them again to train on after load."
        )
    about = {"sha256": "0" * 64, "format": 1, "version": version("skleepkd")}
    about |= {"estimator": estimator, "left_out": _to_json(left_out)}
    about = json.dumps(about, separators=(",", ":"), allow_nan=False)
    # Copies, since safetensors refuses tensors that share their memory.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in uncompiled(last.module_).state_dict().items()
    }
    data = safetensors.torch.save(copies, {"skleepkd": about})
    start, stop = _DIGEST.search(data).span(1)
    replace_file(path, data[:start], _digest(data, start, stop), data[stop:])


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
        Fitted, predicting as the saved one did. A distilled or fine-tuned stager comes back
        as the student that it was, a :class:`SleepStager` of which all layers can be trained
        (of those that were not, torch rounds the last digit of some probabilities
        differently). ``fitted_on_`` includes what its frozen teacher or pretrained stager was
        fitted on. The optimiser begins anew; a device that is not here becomes ``"auto"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is damaged, is none of ours or is of another format, if it names a
        network, class, function or method that is not known, or if the weights do not fit
        ``module``.

    Notes
    -----
    The file holds the SHA-256 digest of itself (with zeros in its place), which tells damage,
    not forgery. A forged file can hold a stager that predicts what its author likes; it
    cannot make Python import or call anything but the networks, transformers and functions
    that :func:`save` describes, nor read or write another file.
    """
    data = Path(path).absolute().read_bytes()
    found = _DIGEST.search(data)
    if not found or _digest(data, *found.span(1)) != found[1]:
        raise ValueError(f"{path} is damaged, or no file that skleepkd.save wrote.")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header["__metadata__"]["skleepkd"]
        about = json.loads(text)
        if about["format"] != 1:
            raise ValueError(
                f"It is of format {about['format']}, written by skleepkd {about['version']}; "
                "this version reads format 1. Install a newer one."
            )
        about = json.loads(text, object_hook=_from_json)
        estimator = about["estimator"]
        recorded = type(estimator) is RecordingStager
        stager = final_estimator(estimator.stager if recorded else estimator)
        stager.module = _find_module(stager.module, module, about["left_out"])
        _build(stager, safetensors.torch.load(data))
    except Exception as error:  # networks raise anything, given options that do not suit
        raise ValueError(
            f"{path} cannot be loaded. {type(error).__name__}: {error}"
        ) from error
    return estimator


def _digest(data, start, stop):
    """Digest a file, with zeros for the digest that stands from start to stop."""
    return hashlib.sha256(data[:start] + b"0" * 64 + data[stop:]).hexdigest().encode()


def _to_json(value):
    """Write a value as JSON; what JSON has no word for becomes an object of one entry."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": _to_json(list(value))}
    if isinstance(value, dict):
        return {"dict": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str, _to_json(value.tolist())]}
    if callable(value):
        return {"named": _name_of(value)}
    if type(value) is not FrozenEstimator and hasattr(value, "best_estimator_"):
        return _to_json(value.best_estimator_)
    return {"estimator": [_to_json(part) for part in _parts(value)]}


def _from_json(entry):
    """Read an object of the JSON: the file's own, or an entry that :func:`_to_json` wrote."""
    if len(entry) > 1:
        return entry
    ((kind, content),) = entry.items()
    readers = {
        "float": float,
        "tuple": tuple,
        "dict": dict,
        "array": lambda parts: np.array(parts[1], dtype=parts[0]),
        "named": _find,
        "estimator": lambda parts: _assemble(*parts),
    }
    return readers[kind](content)


def _fits_json(value):
    try:
        _to_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _name_of(thing):
    name = network_name(thing) or getattr(thing, "__name__", None)
    module = str(getattr(thing, "__module__", None))
    known = name in _NAMED or name in networks.__all__ or module.startswith("braindecode.")
    if known and _find(name) is thing:
        return name
    raise TypeError(f"{thing!r} is code, which no file holds")


def _find(name):
    """Find what a file may name; nothing else is imported or called because of a file."""
    if name in _OF_BRAINDECODE:
        import braindecode.preprocessing

        return getattr(braindecode.preprocessing, name)
    return _NAMED[name] if name in _NAMED else find_network(name)


def _parts(estimator):
    """Part an estimator into the name of its class, its parameters and what it learned."""
    if isinstance(estimator, SleepStager):
        learned = {n: value for n, value in vars(estimator).items() if n in _FITTED}
        learned["fitted_on_"] = {n: seen_by(estimator, n) for n in ("subject", "recording")}
        rows = [{**row, "batches": []} for row in estimator.history_]
        rows = [{n: value for n, value in row.items() if _fits_json(value)} for row in rows]
        learned["origin_"] = origin_of(estimator)
        return "SleepStager", _parameters(estimator)[0], {**learned, "history_": rows}
    if type(estimator).__module__.startswith("braindecode.preprocessing."):
        # Its subclasses are methods of Raw under names of their own.
        parameters = {"fn": estimator.fn, "apply_on_array": estimator.apply_on_array}
        return "Preprocessor", {**parameters, **estimator.kwargs}, {}
    name, parameters = _name_of(type(estimator)), estimator.get_params(deep=False)
    if name == "Pipeline":
        parameters["memory"] = None
    return name, parameters, {n: v for n, v in vars(estimator).items() if n.endswith("_")}


def _assemble(name, parameters, attributes):
    """Make an estimator of its parts; a stager's network is not built yet."""
    code = [f"{key}={v!r}" for key, v in parameters.items() if not _names_no_code(key, v)]
    if code or not all(key.endswith("_") for key in attributes):
        raise ValueError(f"no file may hold {', '.join(code or attributes)}")
    estimator = _find(name)(**parameters)
    vars(estimator).update(attributes)
    return estimator


def _parameters(stager):
    """Part the parameters of a plain stager into those that JSON holds and the others."""
    module, options = network_spec(stager)
    given = {**stager.get_params(deep=False), "sequence_length": stager.sequence_length_}
    given |= {"module": module} | {f"module__{n}": value for n, value in options.items()}
    if type(stager) is not SleepStager and stager.classes is None:
        # Those of the stager that it learned from, which is not kept.
        given["classes"] = scheme_of(stager) or stager.classes_.tolist()
    defaults = SleepStager(None).get_params(deep=False)
    kept, left_out = {"module": None}, {}
    for name, value in sorted(given.items()):
        component = name.partition("__")[0]
        if component not in defaults or name == "checkpoint":
            continue
        is_set = component == "module" or component not in left_out
        if is_set and _names_no_code(name, value) and _fits_json(value):
            kept[name] = value
        elif value is not defaults.get(name):
            left_out[name] = repr(type(value) if isinstance(value, nn.Module) else value)
    return kept, left_out


def _names_no_code(name, value):
    """Whether a parameter is none by which torch, skorch or MNE find other code or files."""
    if name == "fn":  # of a preprocessor
        return callable(value) or value in _RAW_METHODS
    if name == "module":  # some networks of braindecode ask the internet
        return getattr(value, "__name__", value) not in ("REVE", "STEEGFormer")
    if name == "compile__backend":
        return value in ("inductor", "eager", "aot_eager")
    return name not in ("checkpoint", "compile__options", "torch_load_kwargs") or not value


def _find_module(named, given, left_out):
    """Return the network that a file names or, where it does not, the one given to load."""
    missing = {name: value for name, value in left_out.items() if name.startswith("module")}
    is_factory = given is not None and not isinstance(given, (str, type))
    if missing and not is_factory and (given is None or missing.keys() != {"module"}):
        raise ValueError(
            f"no file holds {', '.join(f'{n}={value}' for n, value in missing.items())}: give "
            "load(path, module=...) the network's class or, with options, a factory, "
            "functools.partial(Network, option=...)"
        )
    return named if given is None else given


def _build(stager, tensors):
    """Build a stager's network and give it its weights."""
    try:
        torch.empty(0, device=stager.device)
    except (RuntimeError, AssertionError):  # the latter where torch came without CUDA
        stager.device = "auto"
    rows, stager.history_ = stager.history_, None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        stager.initialize()
    stager.history_.extend(rows)
    network = uncompiled(stager.module_)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name in tensors:  # a network may choose the precision of its weights
            tensor.data = tensor.data.to(tensors[name].dtype)
    network.load_state_dict(tensors)
    stager.module_.eval()
