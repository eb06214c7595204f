"""What a network says of itself: the layers to distil from, the groups to fine-tune."""

#: For braindecode's networks, which do not say it themselves.
_BRAINDECODE = {
    "USleep": {
        # The decoder's last map, (batch, 6, n_times): what Anandakumar et al. match.
        "feature_layers": lambda net: (f"decoder_blocks.{len(net.decoder_blocks) - 1}",),
        "parameter_groups": lambda net: {
            "encoder": ("encoder_blocks",),
            "bottom": ("bottom",),
            "decoder": ("decoder_blocks",),
            "head": ("clf", "final_layer"),
        },
    },
}


def feature_layers(module):
    """Names of the layers whose features are compared by default.

    Parameters
    ----------
    module : torch.nn.Module
        A network that declares ``feature_layers``, or braindecode's U-Sleep.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If the network does not say.
    """
    return tuple(_declared(module, "feature_layers", "layers= ('output' for the logits)"))


def parameter_groups(module):
    """Named groups of parameters, for fine-tuning by parts.

    Parameters
    ----------
    module : torch.nn.Module
        A network that declares ``parameter_groups``, or braindecode's U-Sleep.

    Returns
    -------
    dict
        The group's name and the beginnings of its parameters' names.

    Raises
    ------
    ValueError
        If the network does not say.
    """
    return dict(_declared(module, "parameter_groups", "trainable="))


def uncompiled(module):
    """Return the network that ``torch.compile`` wraps, or the network itself.

    Parameters
    ----------
    module : torch.nn.Module
        It may be compiled.

    Returns
    -------
    torch.nn.Module
        With the same parameters, and names without a prefix.
    """
    return getattr(module, "_orig_mod", module)


def _declared(module, attribute, parameter):
    module = uncompiled(module)
    declared = getattr(module, attribute, None)
    if declared is not None:
        return declared
    known = _BRAINDECODE.get(type(module).__name__)
    if known is not None and type(module).__module__.startswith("braindecode."):
        return known[attribute](module)
    names = ", ".join(name for name, _ in module.named_modules() if name)
    raise ValueError(
        f"{type(module).__name__} does not declare {attribute}; name what you want with "
        f"{parameter}. Its layers are: {names}."
    )
