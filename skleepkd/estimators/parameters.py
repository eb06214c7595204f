"""Parameters of a stager as they were given, and the device that they mean."""

import inspect

import torch


class DeviceParameter:
    """A device that may be "auto": CUDA where there is a device, else the CPU.

    The attribute is the device in use; what was set lies under its name in ``vars``.
    """

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        device = vars(instance)[self.name]
        if isinstance(device, str) and device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return device

    def __set__(self, instance, device):
        vars(instance)[self.name] = device


def repr_as_given(net):
    """Show the parameters that were given: skorch lists the whole network, or all defaults."""
    own = inspect.signature(type(net).__init__).parameters
    given = [
        f"{name}={value!r}"
        for name, value in net.get_params(deep=False).items()
        if name in net._params_to_validate
        or (name in own and repr(value) != repr(own[name].default))
    ]
    return f"{type(net).__name__}({', '.join(given)})"


def restore_state(net, state, restore):
    """Restore a pickled net; one from a GPU by skorch's ``restore``, on a device that is here."""
    wanted = net.__dict__["device"] = state["device"]
    if "__cuda_dependent_attributes__" in state:
        restore({**state, "device": net.device})
        # A device that is not here has become the CPU, with a warning.
        wanted = "auto" if wanted == "auto" else net.__dict__["device"]
    else:
        net.__dict__.update(state)
    net.__dict__["device"] = wanted
    for name in net._modules + net._criteria:
        getattr(net, f"{name}_").to(net.device)
