"""From a name, a class or a factory to a network that fits the signal."""

import copy
import inspect
import warnings

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
