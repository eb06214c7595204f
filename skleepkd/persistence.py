"""Fitted stagers as files: weights as safetensors, all else as JSON, no code."""

import hashlib
import json
import math
import os
import re
import uuid
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from skleepkd import networks
from skleepkd.distillation.teachers import architecture, seen_by
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.estimators.net import seeded
from skleepkd.estimators.supervised import softmax
from skleepkd.networks.build import find_network
from skleepkd.networks.declared import uncompiled

#: Files of a later format are refused.
FORMAT = 1

#: What ``fit`` learned besides the weights, ``fitted_on_`` and the history.
_FITTED = (
    "classes_inferred_",
    "class_weight_",
    "signal_",
    "epoch_shape_",
    "ch_names_",
    "held_out_",
    "best_epoch_",
)

#: Where the digest of a file stands: first in our entry of the safetensors metadata.
_DIGEST = re.compile(rb'"skleepkd":"\{\\"sha256\\":\\"([0-9a-f]{64})\\"')

#: What stands there while the file is digested.
_NO_DIGEST = "0" * 64


def save(stager, path):
    """Save a fitted stager to a file that holds no code.

    The file is a safetensors file of the network's weights. Its metadata has one entry,
    ``"skleepkd"``: JSON with the network's name, the parameters, the classes, what the
    stager was fitted on and the history (its passes, not their batches). What was there
    before under this path is replaced at once, or stays.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager or FineTunedSleepStager
        Fitted. Of a distilled or fine-tuned one the student alone is kept, not its teacher.
        A ``Pipeline`` is not saved as a whole; its last step can be, ``pipeline[-1]``.
    path : str or pathlib.Path
        The file, by custom ``*.safetensors``; its folder exists.

    Raises
    ------
    TypeError
        If it is no such stager.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If the answers depend on something that no file can hold.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If parameters are left out since JSON cannot hold them (callbacks, an optimiser).

    See Also
    --------
    load : Read the file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skleepkd import SleepStager, load, save
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((16, 1, 400)), np.tile([0, 2], 8)
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> stager = SleepStager("UTime", max_epochs=1, **small).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(stager, f"{folder}/ear.safetensors")
    ...     again = load(f"{folder}/ear.safetensors")
    >>> np.array_equal(again.predict_proba(X), stager.predict_proba(X))
    True
    """
    if type(stager) not in (SleepStager, DistilledSleepStager, FineTunedSleepStager):
        raise TypeError(
            "save takes a SleepStager, a DistilledSleepStager or a FineTunedSleepStager; "
            f"given {type(stager).__name__}. Of a Pipeline the last step can be saved, "
            "pipeline[-1], of a FrozenEstimator its estimator."
        )
    stager.check_is_fitted()
    _check_answers(stager)
    parameters, left_out = _parameters(stager)
    # A recipe's own way to choose the weights is no news to its user.
    news = [name for name in left_out if name != "callbacks__best_weights"]
    if news:
        warnings.warn(
            f"Not kept in the file, as JSON cannot hold them: {', '.join(news)}. The "
            "answers do not depend on them; where training is to go on after load, set "
            "them again.",
            stacklevel=2,
        )
    about = {
        "sha256": _NO_DIGEST,
        "format": FORMAT,
        "version": version("skleepkd"),
        "stager": type(stager).__name__,
        "network": _network(stager),
        "parameters": parameters,
        "left_out": left_out,
        "fitted": {
            name: _to_json(getattr(stager, name))
            for name in _FITTED
            if hasattr(stager, name)
        },
        "fitted_on": {
            name: _to_json(seen_by(stager, name)) for name in ("subject", "recording")
        },
        "history": [_pass(row) for row in stager.history_],
    }
    tensors = {
        # A copy, since safetensors refuses tensors that share their memory.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in uncompiled(stager.module_).state_dict().items()
    }
    about = json.dumps(about, separators=(",", ":"), allow_nan=False)
    data = safetensors.torch.save(tensors, {"skleepkd": about})
    start, stop = _DIGEST.search(data).span(1)
    digest = hashlib.sha256(data).hexdigest().encode()
    _replace(Path(path), data[:start] + digest + data[stop:])


def load(path, module=None):
    """Load a stager that :func:`save` wrote, without running any code of the file.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    module : str, type or callable, optional
        The network, as for :class:`SleepStager`. Needed where it is neither skleepkd's nor
        braindecode's: those are found by their names.

    Returns
    -------
    SleepStager
        Fitted, answering as the saved one did. A distilled or fine-tuned stager comes back
        as the student that it was, and all of its layers can be trained (of layers that
        were not, torch rounds the last digit of some answers differently then).
        ``fitted_on_`` includes what its frozen teacher or pretrained stager was fitted on.
        The optimiser begins anew. A device that is not here becomes ``"auto"``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is damaged, is none of ours or is of a later format, if its network is
        not known, or if the weights do not fit ``module``.

    Notes
    -----
    Every byte counts: the file holds the SHA-256 digest of itself (with zeros for the 64
    digits of the digest), checked before anything else is read. It tells damage, not
    forgery.
    """
    about, tensors = _read(path)
    module = _find_module(about["network"], module, path)
    parameters = {name: _from_json(value) for name, value in about["parameters"].items()}
    options = about["network"]["options"]
    parameters.update(
        (f"module__{name}", _from_json(value)) for name, value in options.items()
    )
    if not _is_here(parameters["device"]):
        parameters["device"] = "auto"
    stager = SleepStager(module, **parameters)
    for name in _FITTED:
        if name in about["fitted"]:
            setattr(stager, name, _from_json(about["fitted"][name]))
    stager.fitted_on_ = {
        name: _from_json(value) for name, value in about["fitted_on"].items()
    }
    try:
        with seeded(0, stager.device):
            stager.initialize()
        network = uncompiled(stager.module_)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name in tensors:
                tensor.data = tensor.data.to(tensors[name].dtype)
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The weights in {path} do not fit the network {module!r}. {error}"
        ) from error
    stager.module_.eval()
    for row in about["history"]:
        row = {name: _from_json(value) for name, value in row.items()}
        stager.history_.append({**row, "batches": []})
    return stager


# ---------------------------------------------------------------- what is kept


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
    module, options = architecture(stager)
    if isinstance(module, str):
        given, name = "name", module
    elif _is_known(module):
        given, name = "class", module.__name__
    else:
        # Of an instance the class, of a functools.partial what it calls.
        named = module if hasattr(module, "__qualname__") else type(module)
        named = getattr(module, "func", named)
        given, name = "own", f"{named.__module__}.{named.__qualname__}"
    kept = {key: _to_json(value) for key, value in options.items() if _fits_json(value)}
    left_out = {key: repr(value) for key, value in options.items() if key not in kept}
    return {"name": name, "given": given, "options": kept, "left_out": left_out}


def _is_known(module):
    """Whether a network is one of ours or of braindecode's, which names alone restore."""
    if not isinstance(module, type):
        return False
    if module.__module__.startswith("braindecode."):
        try:
            return find_network(module.__name__) is module
        except ValueError:
            return False
    return module in [getattr(networks, name) for name in networks.__all__]


def _find_module(network, module, path):
    """Find the network of a file, or say what ``load`` must be given."""
    name = network["name"]
    if network["left_out"] and (module is None or isinstance(module, (str, type))):
        options = ", ".join(f"{key}={value}" for key, value in network["left_out"].items())
        raise ValueError(
            f"{path} holds the weights of {name} with {options}, which no file can hold: "
            f"give load(path, module=...) a factory, functools.partial({name}, {options})."
        )
    if module is not None:
        return module
    if network["given"] == "own":
        raise ValueError(
            f"{path} holds the weights of {name}, which skleepkd does not know: give the "
            "class or factory that it was trained with, load(path, module=...)."
        )
    found = find_network(name)
    return name if network["given"] == "name" else found


#: Parameters that a file holds otherwise, or that are of this machine alone.
_APART = ("module", "checkpoint")


def _parameters(stager):
    """Part the parameters of a plain stager into those that JSON holds and the others."""
    defaults = SleepStager(None).get_params(deep=False)
    kept, left_out = {}, []
    for name, value in sorted(_given(stager).items()):
        component = name.partition("__")[0]
        if name.startswith("_") or component not in defaults or component in _APART:
            continue
        if component in left_out:  # options of what is not kept
            left_out.append(name)
        elif _fits_json(value):
            kept[name] = _to_json(value)
        elif value is not defaults.get(name):
            left_out.append(name)
    return kept, left_out


def _given(stager):
    """Return the parameters, and for a fine-tuned stager those that its source sets."""
    given = stager.get_params(deep=False)
    if isinstance(stager, FineTunedSleepStager):
        given["classes"] = stager.classes_.tolist()
        given["sequence_length"] = stager.sequence_length_
    return given


def _is_here(device):
    """Whether this machine has a device."""
    if device == "auto":
        return True
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # the latter where torch came without CUDA
        return False
    return True


def _pass(row):
    """Return a pass of a history without its batches, as JSON."""
    return {
        name: _to_json(value)
        for name, value in row.items()
        if name != "batches" and _fits_json(value)
    }


# ---------------------------------------------------------------- values as JSON


def _to_json(value):
    """Write a value as JSON; what JSON has no word for becomes an object of one entry."""
    if isinstance(value, np.ndarray):
        return {"array": [value.dtype.str, _to_json(value.tolist())]}
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
        return {"tuple": [_to_json(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
    raise TypeError(f"JSON cannot hold {value!r}.")


def _from_json(value):
    """Read what :func:`_to_json` wrote."""
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        dtype, items = content
        return np.array(_from_json(items), dtype=dtype)
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_from_json(item) for item in content)
    return {_from_json(key): _from_json(item) for key, item in content}


def _fits_json(value):
    try:
        _to_json(value)
    except TypeError:
        return False
    return True


# ---------------------------------------------------------------- files


def _read(path):
    """Read a file, check its digest and return what it says and its tensors."""
    data = Path(path).read_bytes()
    found = _DIGEST.search(data)
    if not found:
        raise ValueError(f"{path} is no file that skleepkd.save wrote, or is damaged.")
    start, stop = found.span(1)
    digest = hashlib.sha256(data[:start])
    digest.update(_NO_DIGEST.encode())
    digest.update(data[stop:])
    if digest.hexdigest().encode() != found[1]:
        raise ValueError(f"{path} is damaged: its digest is not the one that it holds.")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["skleepkd"])
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as safetensors. {error}") from error
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} is of format {about['format']}, written by skleepkd "
            f"{about['version']}; this version reads formats up to {FORMAT}. Install a newer "
            "one."
        )
    return about, tensors


def _replace(path, data):
    """Write a file so that what has its name is always whole."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
