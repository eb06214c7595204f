"""What a student minimises: losses by name, class or module, and their weights in a pass."""

import copy
from contextlib import suppress
from inspect import signature

from torch import nn

from skleepkd.distillation.feature_losses import FEATURE_LOSSES
from skleepkd.distillation.output_losses import OUTPUT_LOSSES, check_temperature
from skleepkd.distillation.schedules import shares, value_at

#: By parameter, the losses that have a name.
_NAMED = {"output_loss": OUTPUT_LOSSES, "feature_loss": FEATURE_LOSSES}


def weights_at(student, share):
    """Return alpha, feature weight and temperature when a share of the training is done."""
    temperature = student.temperature
    if temperature is not None:
        temperature = temperature(share) if callable(temperature) else temperature
        check_temperature(temperature)
    alpha = value_at("alpha", student.alpha, share, highest=1.0)
    return alpha, value_at("feature_weight", student.feature_weight, share), temperature


def feature_loss_of(student):
    """Return what compares features; "auto" does where the strategy or a parameter is of them."""
    if not isinstance(student.feature_loss, str) or student.feature_loss != "auto":
        return student.feature_loss
    named = student.layers is not None or student.adapter is not None
    return "mse" if student.strategy_kind.uses_features or named else None


def check_objective(student):
    """Refuse losses that are none, and weights that are not valid in one of the passes."""
    for share in shares(student.max_epochs):
        weights_at(student, share)
    loss_kind("output_loss", student.output_loss)
    start = student.start_from_teacher
    if not isinstance(start, bool) and start != "auto":
        raise ValueError(f"start_from_teacher is True, False or 'auto'; given {start!r}.")
    feature_loss = feature_loss_of(student)
    if feature_loss is not None:
        loss_kind("feature_loss", feature_loss)
        return
    for name in ("adapter", "layers"):
        if getattr(student, name) is not None:
            raise ValueError(
                f"{name}= is of features for a feature_loss, which is None: give "
                'feature_loss="mse".'
            )


def loss_kind(name, loss):
    """Return the class of a loss by its name, class or an instance; refuse anything else."""
    known = _NAMED[name]
    if isinstance(loss, str) and loss in known:
        return known[loss]
    kind = loss if isinstance(loss, type) else type(loss)
    if not issubclass(kind, nn.Module):
        raise ValueError(
            f"Unknown {name} {loss!r}; it is {', '.join(map(repr, known))}, or a class or instance "
            "of nn.Module that is called with (student, teacher)."
        )
    return kind


def losses_in(params):
    """Return those of a student's parameters that are losses, or theirs."""
    return {name: v for name, v in params.items() if name.split("__")[0] in _NAMED}


def losses_of(student, before=None):
    """Return the losses of a student, which are those of before where a training goes on."""
    given = losses_in(student.get_params(deep=False))
    if before is not None and given != before:
        raise ValueError(
            f"A training goes on with the losses that it began with, {before}; given {given}. "
            "Set them back, or fit anew."
        )
    return given


def make_loss(student, name):
    """Make a student's loss of its name, class or an instance, with its own parameters."""
    loss = feature_loss_of(student) if name == "feature_loss" else student.output_loss
    kind, params = loss_kind(name, loss), student.get_params_for(name)
    if isinstance(loss, kind):
        return _changed(copy.deepcopy(loss), name, params)
    takes = signature(kind)
    try:
        takes.bind(**params)
    except TypeError as error:
        given = ", ".join(f"{name}__{key}" for key in params) or "no parameters"
        raise ValueError(
            f"{kind.__name__}{takes} is not made by {given}: {error}."
        ) from error
    return kind(**params)


def _changed(loss, name, params):
    """Set parameters of a loss that is made already; what else it holds stays as it is."""
    for key, value in params.items():
        if not hasattr(loss, key):
            raise ValueError(f"{type(loss).__name__} has no {key}, as {name}__{key} asks.")
        setattr(loss, key, value)
    with suppress(TypeError):  # it may need more than these
        type(loss)(**params)  # refuses values out of range
    if "temperature" in params:
        check_temperature(loss.temperature)
    return loss


def set_temperature(student, temperature):
    """Give a temperature, None their own, to losses that have one and were given no other."""
    losses = {"output_loss": student.output_loss_, "feature_loss": student.matched_layers_}
    for name, loss in losses.items():
        if hasattr(student, f"{name}__temperature"):
            continue
        for module in loss.modules():
            if hasattr(module, "temperature"):
                own = vars(module).setdefault("own_temperature", module.temperature)
                module.temperature = own if temperature is None else temperature
