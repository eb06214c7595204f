"""Features of named layers, caught while a network computes its output."""

from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from skleepkd.networks.build import uncompiled

#: The name of a network's own output (its logits) among its layers.
OUTPUT = "output"


@contextmanager
def capture_features(module, layers):
    """Catch the outputs of named layers.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    layers : sequence of str
        Dotted names, as ``module.named_modules()`` gives them; "output" is the
        network's own output.

    Yields
    ------
    dict
        Filled by each forward call: the layer's name and its tensor. Of a layer whose
        output is a tuple (a GRU) it is the first tensor.

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

    def remember(name, _, __, output):
        output = output[0] if isinstance(output, tuple) else output
        # Under autocast layers compute in 16 bit; features are compared in 32.
        half = output.dtype in (torch.bfloat16, torch.float16)
        seen[name] = output.float() if half else output

    with ExitStack() as hooks:  # until the end of the block
        for name in layers:
            hook = partial(remember, name)
            hooks.enter_context(modules[name].register_forward_hook(hook))
        yield seen
    missed = [name for name in layers if name not in seen]
    if missed:
        raise ValueError(
            f"The layer {', '.join(map(repr, missed))} of {type(module).__name__} was not "
            "reached by its forward. Name another."
        )


@contextmanager
def capture_of(stager, layers):
    """Catch features of a stager's network, which is run uncompiled in the block."""
    module = stager.module_
    object.__setattr__(stager, "module_", uncompiled(module))
    try:
        with capture_features(stager.module_, layers) as seen:
            yield seen
    finally:
        object.__setattr__(stager, "module_", module)


def check_layers(module, layers):
    """Return every layer of a network by its name, if those that are named are among them."""
    modules = dict(uncompiled(module).named_modules())
    unknown = [name for name in layers if name not in modules and name != OUTPUT]
    if unknown:
        known = ", ".join(name for name in modules if name)
        raise ValueError(
            f"{type(module).__name__} has no layer {', '.join(map(repr, unknown))}. Its layers "
            f"are: {known}; {OUTPUT!r} is its output."
        )
    return {OUTPUT: module, **modules}


def feature_shapes(module, layers, shape):
    """Shapes of the features of layers for one epoch or window of such a shape."""
    device, mode = next(module.parameters()).device, module.training
    with capture_features(module.eval(), layers) as seen, torch.no_grad():
        module(torch.zeros(2, *shape, device=device))
    module.train(mode)
    return [tuple(seen[name].shape[1:]) for name in layers]
