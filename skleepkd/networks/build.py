"""From a name, a class or a factory to a network that fits the signal."""

import copy
import inspect
import warnings

import torch
from torch import nn

from skleepkd import networks
from skleepkd.stages import EPOCH_SECONDS


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


def input_spec(pair, n_outputs):
    """Tell what a network of a pair's target is built for: channels, samples, classes, rate.

    Of a spectrogram, whose frames do not tell, ``sfreq`` is there only where it is known.
    """
    spec = {"n_chans": pair.shape[1], "n_times": pair.shape[2], "n_outputs": n_outputs}
    sfreq = pair.sfreq["target"]
    if len(pair.shape) > 3:
        spec["n_bins"] = pair.shape[3]
    elif sfreq is None:
        sfreq = pair.shape[2] / EPOCH_SECONDS
    if sfreq is not None:
        spec["sfreq"] = sfreq
    return spec


def check_output(network, epoch_shape, n_outputs, sequence_length=1):
    """Refuse a network whose output for zeros has another shape than logits of its input."""
    device = next((p.device for p in network.parameters()), "cpu")
    name = type(network).__name__
    network.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        if sequence_length == 1:
            output, wanted = (
                network(torch.zeros(2, *epoch_shape, device=device)),
                (2, n_outputs),
            )
            found = (
                tuple(output.shape) if torch.is_tensor(output) else type(output).__name__
            )
            if found != wanted:
                raise ValueError(
                    f"{name} puts out {found} for 2 epochs; {wanted}, (batch, n_classes), is "
                    "expected: a tensor with a logit for each epoch and each of n_outputs "
                    "classes."
                )
            return
        shape, wanted = (1, sequence_length, *epoch_shape), (1, n_outputs, sequence_length)
        hint = (
            f"{name} does not take windows of consecutive epochs, which "
            f"sequence_length={sequence_length} needs: for an array of shape {shape} it "
            f"should put out logits of shape {wanted}, (batch, n_classes, sequence)"
        )
        other = "SeqSleepNet, UTime and USleep take them; others need sequence_length=1."
        try:
            output = network(torch.zeros(shape, device=device))
        except Exception as error:  # what a network raises is its own affair
            raise ValueError(f"{hint}. It raised: {error} {other}") from error
        if output.shape != wanted:
            raise ValueError(f"{hint}; it put out {tuple(output.shape)}. {other}")


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
