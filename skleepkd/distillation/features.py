"""Features of named layers, caught while a network answers."""

from contextlib import contextmanager

import torch

from skleepkd.networks.build import uncompiled

_HALF = (torch.bfloat16, torch.float16)

#: The name under which a network's own answer (its logits) can be asked for.
OUTPUT = "output"


@contextmanager
def capture_features(module, layers):
    """Catch what named layers answer.

    Hooks live inside the ``with`` block alone, so nothing of them is pickled.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    layers : sequence of str
        Dotted names, as ``module.named_modules()`` gives them; "output" is the
        network's own answer.

    Yields
    ------
    dict
        Filled by each forward call: the layer's name and its tensor. Of a layer that
        answers with a tuple (a GRU) it is the first tensor.

    Raises
    ------
    ValueError
        If a name is unknown, or a layer was not reached by the end of the block.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import capture_features
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    >>> with capture_features(net, ["0"]) as seen:
    ...     _ = net(torch.zeros(5, 3))
    >>> seen["0"].shape
    torch.Size([5, 2])
    """
    modules = check_layers(module, layers)
    seen = {}

    def remember(name):
        def hook(_, __, answer):
            answer = answer[0] if isinstance(answer, tuple) else answer
            # Under autocast layers answer in 16 bit; features are compared in 32.
            seen[name] = answer.float() if answer.dtype in _HALF else answer

        return hook

    handles = [modules[name].register_forward_hook(remember(name)) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
    missed = [name for name in layers if name not in seen]
    if missed:
        raise ValueError(
            f"The layer {', '.join(map(repr, missed))} of {type(module).__name__} was not "
            "reached when the network answered. Name a layer that its forward calls."
        )


def check_layers(module, layers):
    """Find the layers of a network by name.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    layers : sequence of str
        Dotted names of layers; "output" for the network itself.

    Returns
    -------
    dict
        Every layer of the network by its name.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    modules = dict(uncompiled(module).named_modules())
    unknown = [name for name in layers if name not in modules and name != OUTPUT]
    if unknown:
        known = ", ".join(name for name in modules if name)
        raise ValueError(
            f"{type(module).__name__} has no layer {', '.join(map(repr, unknown))}. Its layers "
            f"are: {known}; {OUTPUT!r} is its answer."
        )
    return {OUTPUT: module, **modules}
