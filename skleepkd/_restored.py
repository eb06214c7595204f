"""What a file says of a stager, read strictly: no name, number or shape goes unchecked.

Whatever is wrong raises one of the errors that :func:`skleepkd._files.refusing` turns into
a ValueError that names the file.
"""

import math
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from torch.nn.modules import module as torch_module

from skleepkd._files import from_json
from skleepkd._steps import preprocessor_from_json, step_from_json
from skleepkd.estimators import SleepStager
from skleepkd.estimators.labels import find_classes
from skleepkd.estimators.sequential import check_sequences
from skleepkd.recording import RecordingStager

#: Parameters that a file holds otherwise, or that are of one machine alone.
APART = ("module", "checkpoint")

#: Options of ``torch.compile``; the others, and other backends, name code that runs.
_COMPILE = ("compile__backend", "compile__mode", "compile__dynamic", "compile__fullgraph")
_BACKENDS = ("inductor", "eager", "aot_eager")

#: Parameters whose values are classes or functions, or lead to them, if they are not None.
_CODE = (
    "criterion",
    "dataset",
    "iterator_train",
    "iterator_valid",
    "optimizer",
    "torch_load_kwargs",
    "train_split",
)

#: Kinds of the parameters that are looked at no earlier than in use.
_KINDS = {
    "autocast": (bool,),
    "batch_size": (int,),
    "compile": (bool,),
    "lr": (int, float),
    "max_epochs": (int,),
    "random_state": (int, type(None)),
    "verbose": (bool, int),
    "warm_start": (bool,),
}

#: More worker processes than this load no batches.
_MOST_WORKERS = 256

#: What ``fit`` learned besides the weights, ``fitted_on_`` and the history; the first five
#: are in every file.
FITTED = (
    "classes_inferred_",
    "class_weight_",
    "signal_",
    "epoch_shape_",
    "ch_names_",
    "held_out_",
    "best_epoch_",
)

#: Epochs, or windows of them, of more values than this are none.
_LARGEST_EPOCH = 10**8

#: Of longer windows a network is not asked: that would take a while.
_LARGEST_ASKED = 4 * 10**6

#: Options of networks are not larger than this, or than the number of weights.
_LARGEST_OPTION = 10**5

#: Weights and buffers that a network may build beyond those that a file holds (positions,
#: filters): 200 MB.
_BUILT_BESIDES = 5 * 10**7


def names_no_code(name, value):
    """Whether a parameter is none that makes torch look for other code, or call it.

    Parameters
    ----------
    name : str
        As in ``get_params``.
    value : object
        A value that JSON can hold.

    Returns
    -------
    bool
    """
    if name == "compile__backend":
        return value in _BACKENDS
    if name == "predict_nonlinearity":
        return value in (None, "auto")
    if name in _CODE:
        return value is None
    return not name.startswith("compile__") or name in _COMPILE


def plain(name, value):
    """Return a parameter as files hold it: what is taken for true or false is a bool.

    Parameters
    ----------
    name : str
        As in ``get_params``.
    value : object
        What :func:`skleepkd._files.to_json` made of its value.

    Returns
    -------
    object
    """
    kinds = _KINDS.get(name, ())
    if bool in kinds and type(value) not in kinds:
        return bool(value)
    if name == "device" and type(value) is int:
        return str(torch.device(value))
    return value


def read_parameters(about):
    """Return the stager's parameters; a device that is not here becomes "auto"."""
    known = SleepStager(None).get_params(deep=False)
    parameters = {name: from_json(value) for name, value in about["parameters"].items()}
    if about["format"] == 1:  # which held all options of torch.compile
        parameters = {
            name: value
            for name, value in parameters.items()
            if not name.startswith("compile__") or names_no_code(name, value)
        }
    for name, value in parameters.items():
        component = name.partition("__")[0]
        if name.startswith("_") or component in APART or component not in known:
            raise ValueError(f"A stager has no parameter {name!r} that a file may hold.")
        if not names_no_code(name, value):
            raise ValueError(f"A file may not hold {name}={value!r}."[:300])
        _need(type(value) in _KINDS.get(name, (type(value),)), name, value)
        if name.endswith("__num_workers"):
            _need(type(value) is int and value <= _MOST_WORKERS, name, value)
    if not _is_here(parameters["device"]):
        parameters["device"] = "auto"
    return parameters


def _is_here(device):
    """Whether this machine has a device."""
    _need(type(device) is str, "device", device)
    if device == "auto":
        return True
    try:
        # Tensors on "meta" have no values.
        return torch.empty(0, device=device).device.type != "meta"
    except (RuntimeError, AssertionError):  # the latter where torch came without CUDA
        return False


def read_network(about, tensors):
    """Return the network's name, how it was given, and its options.

    Options that hold larger numbers than the weights explain (a seed does; so may a forged
    size) build no network: they are among those that were left out of the file.

    Parameters
    ----------
    about : dict
    tensors : dict of str to torch.Tensor
        The weights.

    Returns
    -------
    dict
    """
    network = about["network"]
    _need(network["given"] in ("name", "class", "own"), "network", network["given"])
    _need(type(network["name"]) is str, "network", network["name"])
    options, left_out = network["options"], network["left_out"]
    _need(all(type(value) is str for value in left_out.values()), "network", left_out)
    options = {name: from_json(value) for name, value in options.items()}
    limit = max(_LARGEST_OPTION, sum(tensor.numel() for tensor in tensors.values()))
    large = {key: repr(value) for key, value in options.items() if _largest(value) > limit}
    options = {key: value for key, value in options.items() if key not in large}
    return {**network, "options": options, "left_out": {**left_out, **large}}


def read_fitted(about):
    """Return what ``fit`` learned, except weights, people and history."""
    kept = about["fitted"]
    fitted = {name: from_json(kept[name]) for name in FITTED if name in kept}
    classes, weights, signal, shape, names = (fitted[name] for name in FITTED[:5])
    _need(_is_list_of(classes, "biufUO") and len(classes), "classes", classes)
    _need(len(set(classes.tolist())) == len(classes), "classes", classes)
    good = weights is None or (_is_list_of(weights, "f") and len(weights) == len(classes))
    _need(good, "class weights", weights)
    _need(type(shape) is tuple and len(shape) in (2, 3), "the shape of epochs", shape)
    _need(all(map(_is_number, shape)), "the shape of epochs", shape)
    _need(math.prod(shape) <= _LARGEST_EPOCH, "the shape of epochs", shape)
    sizes = dict(zip(("n_chans", "n_times", "n_bins"), shape, strict=False))
    sizes["n_outputs"] = len(classes)
    _need({"n_chans", "n_times", "n_outputs"} <= set(signal), "the signal", signal)
    for name, value in signal.items():
        if name == "sfreq":
            good = type(value) in (int, float) and 0 < value <= 1e6
        else:
            good = _is_number(value) and value == sizes[name]
        _need(good, "the signal", signal)
    good = type(names) in (list, tuple) and len(names) == shape[0]
    good = good and all(type(name) is str for name in names)
    _need(names is None or good, "channels", names)
    held_out = fitted.get("held_out_", np.array([]))
    _need(_is_list_of(held_out, "biufUO"), "held-out subjects", held_out)
    best = fitted.get("best_epoch_")
    _need(best is None or _is_number(best), "the best pass", best)
    return fitted


def read_people(about):
    """Return what a stager was fitted on."""
    people = {
        name: from_json(about["fitted_on"][name]) for name in ("subject", "recording")
    }
    for name, value in people.items():
        _need(value is None or _is_list_of(value, "biufUO"), name, value)
    return people


def read_history(about):
    """Return the passes of the history."""
    history = about["history"]
    _need(type(history) is list, "the history", history)
    rows = [
        {name: from_json(value) for name, value in row.items() if name != "batches"}
        for row in history
    ]
    return [{**row, "batches": []} for row in rows]


def check_sizes(stager):
    """Refuse windows that are too long, and classes that are not those of the parameters.

    Parameters
    ----------
    stager : SleepStager
        With its parameters and :data:`FITTED`.
    """
    check_sequences(stager)
    values = math.prod(stager.epoch_shape_) * stager.sequence_length
    _need(values <= _LARGEST_EPOCH, "sequence_length", stager.sequence_length)
    # None takes what there is, and fit has warned of what may be slips.
    classes = stager.classes_ if stager.classes is None else stager.classes
    find_classes(classes, stager.classes_)


def check_answer(stager):
    """Refuse a network that does not answer a flat epoch, or a window of them."""
    sequence = (stager.sequence_length,) if stager.sequence_length > 1 else ()
    if math.prod((*sequence, *stager.epoch_shape_)) > _LARGEST_ASKED:
        return
    epochs = torch.zeros(1, *sequence, *stager.epoch_shape_)
    with torch.no_grad():
        answer = stager.infer({"target": epochs})
    expected = (1, len(stager.classes_), *sequence)
    _need(tuple(answer.shape) == expected, "the network's answer", tuple(answer.shape))


def _largest(value):
    """Find the largest whole number in a value."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


@contextmanager
def no_larger_than(tensors):
    """Refuse, in the block, to build a network with far more weights than a file holds.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        The weights of the file.

    Yields
    ------
    None

    Raises
    ------
    ValueError
        As soon as a part of the network would be beyond that.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    built = 0

    def count(module, name, tensor):
        nonlocal built
        built += 0 if tensor is None else tensor.numel()
        # Parts may be built and replaced, or be registered twice.
        if built > 10 * held + _BUILT_BESIDES:
            raise ValueError(
                f"The network has more than {built:,} weights; there are {held:,}."
            )

    hooks = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read_around(about):
    """Return how to put a stager into its pipeline and its recording stager.

    Returns
    -------
    callable
        Takes the stager and returns what was saved.
    """
    recording = about.get("recording")
    if recording is not None:
        preprocessors = [
            preprocessor_from_json(step) for step in recording["preprocessors"]
        ]
        channels = from_json(recording["ch_names"])
        wanted = [channels] if type(channels) in (str, type(None)) else list(channels)
        _need(all(type(name) in (str, type(None)) for name in wanted), "channels", channels)
    # The first files of format 2 say of recording stagers alone what is frozen.
    frozen = about.get("frozen", (recording or {}).get("frozen", False))
    wrap = _read_wrapping({"frozen": frozen, "steps": about.get("steps")})

    def put(stager):
        stager = wrap(stager)
        if recording is None:
            return stager
        return RecordingStager(stager, preprocessors, ch_names=channels)

    return put


def _read_wrapping(kept):
    """Return how to put a stager into its pipeline, and to freeze it."""
    if kept is None:
        return lambda stager: stager
    frozen, steps = kept["frozen"], kept["steps"]
    _need(type(frozen) is bool, "frozen", frozen)
    if steps is not None:
        names = [name for name, _ in steps]
        good = names and len(set(names)) == len(names)
        good = good and all(
            type(name) is str and name and "__" not in name for name in names
        )
        _need(good, "steps", names)
        before = [
            (name, "passthrough" if step is None else step_from_json(step))
            for name, step in steps[:-1]
        ]
        wrap_last = _read_wrapping(steps[-1][1])

    def wrap(stager):
        if steps is not None:
            stager = Pipeline([*before, (names[-1], wrap_last(stager))])
        return FrozenEstimator(stager) if frozen else stager

    return wrap


def _is_list_of(array, kinds):
    return isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in kinds


def _is_number(value):
    return type(value) is int and value > 0


def _need(holds, what, given):
    if not holds:
        raise ValueError(f"It holds {given!r} for {what}."[:300])
