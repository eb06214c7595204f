"""Parameters of stagers: names that nobody takes, the device "auto", text and pickles."""

import inspect

import torch
from skorch import NeuralNet

from skleepkd.networks.build import close_name

#: What others call ours, where the names are not alike.
_ELSEWHERE = {
    **{"learning_rate": "lr", "loss": "criterion", "seed": "random_state"},
    **{"model": "module", "network": "module", "weight_decay": "optimizer__weight_decay"},
    **{"source": "X_source", "subject": "groups", "subjects": "groups"},
}

#: So begin names that lack an underscore: "module_filters".
_COMPONENTS = ("module_", "criterion_", "optimizer_", "iterator_train_", "iterator_valid_")

#: What skorch's nets take.
_OF_SKORCH = {"classes", *inspect.signature(NeuralNet.__init__).parameters}


def refuse_unknown(given, known, what, otherwise="", error=TypeError):
    """Refuse names that are not known, and suggest one that is."""
    for name in given:
        if name not in known:
            component = next((c for c in _COMPONENTS if name.startswith(c)), None)
            other = f"{component}_{name.removeprefix(component)}" if component else name
            other = _ELSEWHERE.get(name, other)
            close = other if other in known or "__" in other else close_name(name, known)
            hint = f"Did you mean {close}=?" if close else otherwise.format(name)
            raise error(f"{what} takes no {name}=. {hint}")


def refuse_unknown_parameters(stager, given, error=TypeError):
    """Refuse names of no parameter; those of components (``module__*``) are skorch's."""
    known = {*_OF_SKORCH, *vars(stager)}
    given = [n for n in given if "__" not in n and n[-1] != "_"]
    hint = "An argument of the network is module__{0}=, of the optimiser optimizer__{0}=."
    refuse_unknown(given, known, type(stager).__name__, hint, error)


def check_kinds(stager):
    """Refuse names where skorch takes classes, and a callback that is in no list."""
    lines = {"optimizer": "torch.optim.AdamW", "criterion": "torch.nn.CrossEntropyLoss"}
    lines["callbacks"] = "[EarlyStopping(...)]"
    for name, line in lines.items():
        value = getattr(stager, name)
        is_name = isinstance(value, str) and value != "disable"
        if is_name or hasattr(value, "initialize"):  # a callback, or its class
            raise ValueError(
                f"{name} is given as {name}={line}, or the like; given {value!r}."
            )


def _get_device(stager):
    """Return the device in use; where "auto" was given, CUDA if there is one, else the CPU."""
    device = vars(stager)["device"]
    if not isinstance(device, str) or device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _set_device(stager, device):
    vars(stager)["device"] = device


device = property(_get_device, _set_device)


def text_of(stager):
    """Show what was given; skorch shows the whole network, or all defaults."""
    own = inspect.signature(type(stager).__init__).parameters
    given = [
        f"{name}={value!r}"
        for name, value in stager.get_params(deep=False).items()
        if name in stager._params_to_validate
        or (name in own and repr(value) != repr(own[name].default))
    ]
    return f"{type(stager).__name__}({', '.join(given)})"


def restore(stager, state, unpickle):
    """Give an unpickled stager its state, by skorch's ``unpickle`` where that pickled it."""
    wanted = vars(stager)["device"] = state["device"]
    if "__cuda_dependent_attributes__" in state:
        unpickle({**state, "device": stager.device})
        if wanted == "auto":  # else a device that is not here has become the CPU
            vars(stager)["device"] = wanted
    else:
        vars(stager).update(state)
    for name in stager._modules + stager._criteria:
        getattr(stager, f"{name}_").to(stager.device)
