"""From a name, a class or a factory to a network that fits the signal."""

import copy
import inspect
import warnings

import torch
from torch import nn

from skleepkd import networks


def build_network(module, signal, options):
    """Build a network for a signal.

    Parameters
    ----------
    module : str, type, callable or torch.nn.Module
        A network's name (ours or any of braindecode's), its class or a factory. An
        instance is copied, so that what was given is never trained.
    signal : dict
        ``n_chans``, ``n_times``, ``n_outputs`` and ``sfreq`` (hertz). Those that the
        network's constructor names are handed to it.
    options : dict
        Further arguments of the constructor; they win over ``signal``.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If no network has that name.
    """
    if isinstance(module, nn.Module):
        if not options:
            return copy.deepcopy(module)
        module = type(module)
    name = module if isinstance(module, str) else None
    if name is not None:
        module = find_network(name)
    if not callable(module):
        raise ValueError(
            f"module is a network's name, a class or a factory; given {module!r}."
        )
    if name == "USleep" and "time_conv_size_s" not in options:
        # The paper's kernel has 9 samples whatever the rate (Perslev et al. 2021);
        # braindecode's default lasts 9/128 s, an even number of samples at 200 Hz.
        options = {"time_conv_size_s": 9 / signal["sfreq"], **options}
    names = inspect.signature(module).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in names.values())
    fixed = getattr(module, "keywords", {})  # of a functools.partial
    handed = {
        key: value
        for key, value in signal.items()
        if (takes_all or key in names) and key not in fixed
    }
    return module(**{**handed, **options})


def check_takes_sequences(network, shape, n_outputs):
    """Refuse a network that does not stage windows of consecutive epochs.

    Parameters
    ----------
    network : torch.nn.Module
        It is asked about one window of zeros, in evaluation.
    shape : tuple of int
        Of a window: (sequence, n_channels, n_times) or, of spectrograms, one axis more.
    n_outputs : int
        Number of classes.

    Raises
    ------
    ValueError
        If it raises an error, or its answer has another shape than (batch, n_outputs,
        sequence).
    """
    wanted = (1, n_outputs, shape[0])
    hint = (
        f"{type(network).__name__} does not take windows of consecutive epochs, which "
        f"sequence_length={shape[0]} asks for: given an array of shape {(1, *shape)}, "
        f"it should answer logits of shape {wanted}, (batch, n_classes, sequence)"
    )
    other = "SeqSleepNet, UTime and USleep take them; others need sequence_length=1."
    try:
        with torch.no_grad():
            answer = network.eval()(torch.zeros(1, *shape))
    except Exception as error:  # what a network raises is its own affair
        raise ValueError(f"{hint}. It raised: {error} {other}") from error
    if answer.shape != wanted:
        raise ValueError(f"{hint}; it answered {tuple(answer.shape)}. {other}")


def find_network(name):
    """Find a network by its name, among ours first, then among braindecode's."""
    if name in networks.__all__:
        return getattr(networks, name)
    with warnings.catch_warnings():
        # braindecode asks MNE for a montage under its old name.
        warnings.filterwarnings("ignore", message=".*standard_1020.*")
        import braindecode.models

    found = getattr(braindecode.models, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"No network is called {name!r}. skleepkd has {', '.join(networks.__all__)}; "
            "braindecode's are listed by braindecode.models.__all__, USleep among them. A "
            "class or a factory of your own can be given as well."
        )
    return found
