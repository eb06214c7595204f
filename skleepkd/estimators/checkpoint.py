"""A training that resumes: after each pass, all that the next one depends on is on disk."""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch

from skleepkd.memory import replace_file


class Checkpoint:
    """The file of one training.

    Parameters
    ----------
    folder : path-like
        Where it lies; made where it does not exist.
    key : str
        What the training depends on; its name.
    net : Net
        Initialised, and told that its training begins.
    """

    def __init__(self, folder, key, net):
        self.path = Path(folder) / f"{key}.pt"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.net = net
        self.passes_before = len(net.history)
        self.kept = self._read()

    def passes_left(self, epochs):
        """Count the passes to go, of ``epochs``."""
        if self.kept is None:
            return epochs
        return 0 if self.kept["finished"] else epochs - self.kept["passes"]

    def between_passes(self):
        """Put back what was kept, the first time; else keep what there is now."""
        if not self.resume() and len(self.net.history) > self.passes_before:
            self.keep()

    def resume(self):
        """Put back what was kept, once, and tell whether there was anything."""
        if self.kept is None:
            return False
        for net, state in zip(self.net.trained_nets(), self.kept["nets"], strict=True):
            _put_back(net, state)
        _set_random_state(self.net.device, self.kept["random_state"])
        self.kept = None
        return True

    def keep(self, finished=False):
        """Write the state of now; the file is that of before until the new one is whole."""
        state = {
            "passes": len(self.net.history) - self.passes_before,
            "finished": finished,
            "nets": [_state_of(net) for net in self.net.trained_nets()],
            "random_state": _random_state(self.net.device),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getbuffer()
        replace_file(self.path, hashlib.sha256(data).digest(), data)

    def _read(self):
        """Read the file, if it is there and whole; no code is run by that."""
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        digest, data = data[:32], data[32:]
        if hashlib.sha256(data).digest() != digest:
            warnings.warn(
                f"The checkpoint {self.path} is damaged; the training begins anew.",
                stacklevel=2,
            )
            return None
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _state_of(net):
    """Collect what a net's next pass depends on, as tensors, numbers, text and lists of them."""
    parts = net._modules + net._criteria + net._optimizers
    return _plain(
        {
            "parts": {name: getattr(net, f"{name}_").state_dict() for name in parts},
            "trainable": [parameter.requires_grad for parameter in _parameters(net)],
            "callbacks": [_callback_state(callback) for _, callback in net.callbacks_],
            "history": list(net.history),
            "best_epoch": net.best_epoch_,
        }
    )


def _put_back(net, state):
    for name in net._modules + net._optimizers:
        getattr(net, f"{name}_").load_state_dict(state["parts"][name])
    for name in net._criteria:
        # Statistics of a teacher's features have no place before they are learned, which
        # a finished training has no need of.
        getattr(net, f"{name}_").load_state_dict(state["parts"][name], strict=False)
    for parameter, trainable in zip(_parameters(net), state["trainable"], strict=True):
        parameter.requires_grad_(trainable)
    for (_, callback), own in zip(net.callbacks_, state["callbacks"], strict=True):
        vars(callback).update(own["attributes"])
        for name, inner in own["objects"].items():
            (getattr(callback, name) if name else callback).load_state_dict(inner)
    net.history[:] = state["history"]
    net.best_epoch_ = state["best_epoch"]


def _parameters(net):
    modules = [getattr(net, f"{name}_") for name in net._modules]
    return [parameter for module in modules for parameter in module.parameters()]


def _callback_state(callback):
    """Part what a callback has learned into plain attributes and objects with a state.

    Attributes that end in an underscore count, as everywhere. What is neither plain nor
    has a ``state_dict`` (data sets, classes) is made anew when a training begins.
    """
    if hasattr(callback, "state_dict"):
        return {"attributes": {}, "objects": {"": callback.state_dict()}}
    attributes, objects = {}, {}
    for name, value in vars(callback).items():
        if not name.endswith("_"):
            continue
        if hasattr(value, "state_dict") and not isinstance(value, type):
            objects[name] = value.state_dict()
            continue
        try:
            attributes[name] = _plain(value)
        except TypeError:
            continue
    return {"attributes": attributes, "objects": objects}


def _plain(value):
    """Return a value as what torch reads back without running code."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        plain = {key: _plain(item) for key, item in value.items()}
        # A state dict of torch knows the versions of its layers.
        return plain if type(value) is dict else value
    raise TypeError(f"{type(value).__name__} is neither a tensor nor plain.")


def _random_state(device):
    cuda = torch.device(device).type == "cuda"
    return [torch.get_rng_state(), torch.cuda.get_rng_state(device) if cuda else None]


def _set_random_state(device, state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
