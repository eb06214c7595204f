"""From a name, a class or a factory to a network, and what a network declares of itself."""

import copy
import inspect

import torch
from torch import nn

from skleepkd import networks


def build_network(module, signal, options):
    """Build a network, of whose constructor ``options`` win over ``signal``.

    An instance is copied, so that what the user gave is never trained.
    """
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
    return module(**{**handed, **options})


def find_network(name):
    """Find a network's class by its name, among ours first, then among braindecode's."""
    if name in networks.__all__:
        return getattr(networks, name)
    from skleepkd.networks.usleep import models

    # Of a name that is ours too, "braindecode.USleep" is braindecode's.
    theirs = name.removeprefix("braindecode.")
    found = getattr(models, theirs if theirs in networks.__all__ else name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"No network is called {name!r}. skleepkd has {', '.join(networks.__all__)}; "
            "braindecode's are listed by braindecode.models.__all__. A class or a factory "
            "of your own can be given as well."
        )
    return found


def network_name(module):
    """Return the name by which `find_network` finds a class; None of any other module."""
    if isinstance(module, type) and module.__module__.startswith(
        ("skleepkd.", "braindecode.")
    ):
        for name in (module.__name__, f"braindecode.{module.__name__}"):
            try:
                if find_network(name) is module:
                    return name
            except ValueError:
                pass
    return None


def check_takes_sequences(network, shape, n_outputs):
    """Refuse a network that does not stage windows of consecutive epochs of this shape."""
    window, wanted = (1, *shape), (1, n_outputs, shape[0])
    cause = None
    try:
        with torch.no_grad():
            output = tuple(network.eval()(torch.zeros(window)).shape)
        if output == wanted:
            return
        found = f"they have {output}"
    except Exception as error:  # what a network raises is its own affair
        found, cause = f"it raised: {error}", error
    raise ValueError(
        f"{type(network).__name__} does not take windows of consecutive epochs, which "
        f"sequence_length={shape[0]} needs: given an array of shape {window}, its logits "
        f"should have the shape {wanted}, (batch, n_classes, sequence), but {found}. "
        "SeqSleepNet, UTime and USleep take them; others need sequence_length=1."
    ) from cause


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
            f"{type(module).__name__} predicts whole epochs alone. UTime and USleep predict "
            "at any resolution, and so does a network with a method segment(x, step) that "
            "returns logits of shape (batch, n_outputs, times // step)."
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
