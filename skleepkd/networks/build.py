"""From a name, a class or a factory to a network, and what a network declares of itself."""

import copy
import difflib
import inspect
import math
from contextlib import suppress

import torch
from torch import nn

from skleepkd import networks
from skleepkd.stages import EPOCH_SECONDS


def build_network(module, signal, options):
    """Build a network of ``signal`` and, before it, ``options``; an instance is copied."""
    if isinstance(module, nn.Module):
        if not options:
            return copy.deepcopy(module)
        module = type(module)
    if isinstance(module, str):
        module = find_network(module)
    if not callable(module):
        raise ValueError(
            f"module is a network's name, a class or a factory; given {module!r}."
        )
    names = inspect.signature(module).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in names.values())
    fixed = getattr(module, "keywords", {})  # of a functools.partial
    handed = {
        key: value
        for key, value in signal.items()
        if (takes_all or key in names) and key not in fixed
    }
    options = {**handed, **options}
    _check_arguments(module, names, options, takes_all, signal)
    return module(**options)


#: What a stager gives to a network, under names that others have for it.
_OTHER_NAMES = {
    "n_chans": ("n_channels", "in_channels", "in_chans", "channels", "num_channels"),
    "n_times": ("n_samples", "input_size", "input_window_samples", "num_samples"),
    "n_outputs": ("n_classes", "num_classes", "out_channels", "classes", "nb_classes"),
    "sfreq": ("fs", "sampling_rate", "sample_rate", "sf", "srate"),
}


def _check_arguments(module, names, options, takes_all, signal):
    """Refuse options that a network does not take, and name those that it waits for."""
    title = getattr(module, "__name__", type(module).__name__)
    for given in () if takes_all else options:
        if given not in names:
            close = close_name(given, names)
            hint = (
                f"did you mean module__{close}=?"
                if close
                else f"it takes {', '.join(names)}."
            )
            raise ValueError(f"{title} has no argument {given} (module__{given}=); {hint}")
    missing = [
        name
        for name, p in names.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in options
    ]
    if missing:
        ours = {n: signal.get(our) for our, ns in _OTHER_NAMES.items() for n in ns}
        line = ", ".join(f"module__{n}={ours.get(n, '...')}" for n in missing)
        raise ValueError(
            f"{title} waits for {', '.join(missing)}. A stager gives {', '.join(signal)}, by these "
            f"names: rename the arguments, or give {line}."
        )


def close_name(name, names):
    """Return the one of several names that is most like a given one, or None."""
    folded = {known.casefold(): known for known in names}
    found = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def input_spec(pair, n_outputs):
    """Give what a network of a pair is built for: channels, samples, classes and rate."""
    spec = {"n_chans": pair.shape[1], "n_times": pair.shape[2], "n_outputs": n_outputs}
    sfreq = pair.sfreq["target"]
    if len(pair.shape) > 3:
        spec["n_bins"] = pair.shape[3]
    elif sfreq is None:  # the frames of a spectrogram would not say
        sfreq = pair.shape[2] / EPOCH_SECONDS
    if sfreq is not None:
        spec["sfreq"] = sfreq
    return spec


def find_network(name):
    """Find a network's class by its name, among ours first, then among braindecode's."""
    if name in networks.__all__:
        return getattr(networks, name)
    from skleepkd.networks.usleep import models

    # Of a name that is ours too, "braindecode.USleep" is braindecode's.
    theirs = name.removeprefix("braindecode.")
    found = getattr(models, theirs if theirs in networks.__all__ else name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        close = close_name(name, [*networks.__all__, *models.__all__])
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(
            f"No network is called {name!r}.{hint} skleepkd has {', '.join(networks.__all__)}; "
            "braindecode's are in braindecode.models.__all__; or give a class or a factory."
        )
    return found


def network_name(module):
    """Return the name by which `find_network` finds a class; None of any other module."""
    if isinstance(module, type) and module.__module__.startswith(
        ("skleepkd.", "braindecode.")
    ):
        for name in (module.__name__, f"braindecode.{module.__name__}"):
            with suppress(ValueError):
                if find_network(name) is module:
                    return name
    return None


def check_output(network, epoch_shape, n_outputs, sequence_length=1, of_softmax=None):
    """Refuse a network whose output for zeros has another shape than logits of its input.

    ``of_softmax`` is the line for one that puts out probabilities, None where they are right.
    """
    name = type(network).__name__
    device = next((p.device for p in network.parameters()), "cpu")
    shape, wanted = (2, *epoch_shape), (2, n_outputs)
    if sequence_length > 1:
        shape, wanted = (1, sequence_length, *epoch_shape), (1, n_outputs, sequence_length)
    network.eval()
    cause, sums_to_one = None, False
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            output = network(torch.zeros(shape, device=device))
            if of_softmax and _are_probabilities(output):
                ramp = torch.linspace(-50, 50, math.prod(shape), device=device)
                sums_to_one = _are_probabilities(network(ramp.reshape(shape)))
            is_tensor = torch.is_tensor(output)
            found = tuple(output.shape) if is_tensor else type(output).__name__
        except Exception as error:  # what a network raises is its own affair
            if sequence_length == 1:
                raise
            found, cause = f"an error: {error}", error
    if found == wanted:
        if not sums_to_one:
            return
        raise ValueError(
            f"{name} puts out probabilities, as it ends in softmax; logits are expected. Leave "
            f"the softmax out, or give {of_softmax}."
        )
    if sequence_length == 1:
        raise ValueError(
            f"The output of {name} for 2 epochs is {found}, and not {wanted}, "
            "(batch, n_classes): a tensor of logits, one for each of n_outputs classes."
        )
    raise ValueError(
        f"{name} does not take windows of consecutive epochs: for an array of shape {shape} its "
        f"output is {found}, and not {wanted}, (batch, n_classes, sequence). SeqSleepNet, UTime "
        "and USleep take them; others need sequence_length=1."
    ) from cause


def _are_probabilities(output):
    if not torch.is_tensor(output) or output.ndim < 2 or (output < 0).any():
        return False
    return torch.allclose(output.sum(dim=1), output.new_ones(()))


def uncompiled(module):
    """Return the network that ``torch.compile`` wraps, or the network itself."""
    return getattr(module, "_orig_mod", module)


def feature_layers(module):
    """Names of the layers whose features are compared by default."""
    return tuple(_declared(module, "feature_layers", "layers= ('output' for the logits)"))


def parameter_groups(module):
    """Parts of a network for fine-tuning: of each name, how its parameters' names begin."""
    return dict(_declared(module, "parameter_groups", "trainable="))


def segment(module, x, step):
    """Compute logits for every ``step`` samples of a signal (batch, n_chans, times)."""
    module = _as_ours(module)
    if not hasattr(module, "segment"):
        raise ValueError(
            f"{type(module).__name__} predicts whole epochs alone. UTime and USleep predict at any "
            "resolution, and a network with a method segment(x, step) that returns logits of "
            "shape (batch, n_outputs, times // step)."
        )
    return module.segment(x, step)


def _declared(module, attribute, parameter):
    module = _as_ours(module)
    if getattr(module, attribute, None) is None:
        names = ", ".join(name for name, _ in module.named_modules() if name)
        raise ValueError(
            f"{type(module).__name__} does not declare {attribute}; name what you want with "
            f"{parameter}. Its layers are: {names}."
        )
    return getattr(module, attribute)


def _as_ours(module):
    """Return a network that declares itself, where it is braindecode's U-Sleep."""
    module = uncompiled(module)
    if network_name(type(module)) == "braindecode.USleep":
        module = copy.copy(module)  # with the same layers and weights
        module.__class__ = networks.USleep
    return module


def copy_weights(teacher, student):
    """Give a student its teacher's weights, if the networks are equal."""
    try:
        student.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "The student cannot begin at the teacher's weights: the networks differ (give "
            f"both as many channels and samples and the same module). {error}"
        ) from error
