"""Adapters: learned maps from a student's features to the shape of its teacher's."""

import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.distillation.features import capture_features

__all__ = ["Projection"]


class Projection(nn.Module):
    """Project a student's features to the shape of its teacher's.

    The channels are mixed by one learned linear map, the same at every moment (a
    convolution with a kernel of one sample; of features without a time axis it is a
    linear layer). An axis of another length is resampled without anything learned:
    where the teacher has fewer moments each is the mean of those that the student has in
    its span, so that every one of them is taught; where it has more, they are
    interpolated linearly. Axes that the teacher lacks are averaged away.

    It stands on the student's side, as the regressor of [1]_, is trained together with
    the student, and is no part of it: predictions, files and exports are without it.

    Parameters
    ----------
    student_shape, teacher_shape : tuple of int
        Shapes of the features of one epoch or one window, without the axis of the batch:
        (channels, times), or (channels,) where there is no time axis.
    channel_axis : int, default=0
        The axis of both shapes that holds the channels; -1 for the answers of recurrent
        layers, whose shape is (sequence, channels).

    Raises
    ------
    ValueError
        If the teacher's features have more axes than the student's.

    Notes
    -----
    The means and the interpolation have weights that add up to one at each moment, so
    they and the linear map may change places; the map is applied where there are fewer
    moments.

    References
    ----------
    .. [1] Romero, A., Ballas, N., Kahou, S. E., Chassang, A., Gatta, C. and Bengio, Y.
       (2015). FitNets: hints for thin deep nets, equation 3.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.distillation import Projection
    >>> adapter = Projection(student_shape=(8, 125), teacher_shape=(302, 2))
    >>> adapter(torch.zeros(16, 8, 125)).shape
    torch.Size([16, 302, 2])
    """

    def __init__(self, student_shape, teacher_shape, channel_axis=0):
        super().__init__()
        own, taught = list(student_shape), list(teacher_shape)
        if len(own) < len(taught):
            raise ValueError(
                f"The student's features of shape {tuple(own)} have fewer axes than the "
                f"teacher's of shape {tuple(taught)}: they have no moments that could follow "
                "the teacher's. Name a layer that keeps time with layers=."
            )
        self.channel_axis = channel_axis
        self.channels = nn.Conv1d(own.pop(channel_axis), taught.pop(channel_axis), 1)
        self.lengths = tuple(taught)

    def forward(self, features):
        """Project features.

        Parameters
        ----------
        features : Tensor of shape (batch, ...)
            Of ``student_shape``.

        Returns
        -------
        Tensor of shape (batch, ...)
            Of ``teacher_shape``.
        """
        axis = self.channel_axis % (features.ndim - 1) + 1
        x = features.movedim(axis, 1)  # (batch, channels, times, ...)
        for _ in range(x.ndim - 2 - len(self.lengths)):
            x = x.mean(dim=-1)
        for k, length in enumerate(self.lengths, start=2):
            if length < x.shape[k]:
                x = _resampled(x, k, length)
        moments = x.shape[2:]
        # (batch, channels, times, ...) -> (batch, channels, all moments) and back; without
        # a time axis there is one moment
        x = self.channels(x.reshape(*x.shape[:2], -1))
        x = x.reshape(*x.shape[:2], *moments)
        for k, length in enumerate(self.lengths, start=2):
            if length > x.shape[k]:
                x = _resampled(x, k, length)
        return x.movedim(1, self.channel_axis % (x.ndim - 1) + 1)


def _resampled(x, axis, length):
    """Give an axis another length: means where it gets shorter, else lines between."""
    rows = x.movedim(axis, -1)
    flat = rows.reshape(1, -1, rows.shape[-1])  # (1, all else, times)
    if length < flat.shape[-1]:
        flat = F.adaptive_avg_pool1d(flat, length)
    else:
        flat = F.interpolate(flat, size=length, mode="linear", align_corners=False)
    return flat.reshape(*rows.shape[:-1], length).movedim(-1, axis)


ADAPTERS = {"linear": Projection}


def check_adapter(adapter):
    """Refuse what makes no adapters.

    Parameters
    ----------
    adapter : object
        As a stager was given it.

    Raises
    ------
    ValueError
        If it is neither None nor a known name, nor a class or function.
    """
    known = adapter in ADAPTERS if isinstance(adapter, str) else callable(adapter)
    if not (adapter is None or known) or isinstance(adapter, nn.Module):
        raise ValueError(
            f"adapter is None, {', '.join(map(repr, ADAPTERS))} or a callable that is given "
            "the student's and the teacher's shape and returns a module; given "
            f"{adapter!r}."
        )


def make_adapters(adapter, student_shapes, teacher_shapes, sequence_length=1):
    """Make the adapter of each layer.

    Parameters
    ----------
    adapter : {"linear"} or callable
        A known name, or what is given two shapes and returns a module.
    student_shapes, teacher_shapes : sequence of tuple of int
        Shapes of the features of a layer, without the axis of the batch.
    sequence_length : int, default=1
        Epochs in a window. Features of a known name's adapter whose first axis has this
        length on both sides, and that have one more, are (sequence, channels).

    Returns
    -------
    torch.nn.ModuleList
    """
    shapes = zip(student_shapes, teacher_shapes, strict=True)
    if not isinstance(adapter, str):
        return nn.ModuleList(adapter(own, taught) for own, taught in shapes)
    adapters = nn.ModuleList()
    for own, taught in shapes:
        two_axes = len(own) == len(taught) == 2
        recurrent = sequence_length > 1 and two_axes and own[0] == taught[0]
        axis = -1 if recurrent and own[0] == sequence_length else 0
        adapters.append(ADAPTERS[adapter](own, taught, channel_axis=axis))
    return adapters


def feature_shapes(module, layers, shape):
    """Find what shapes the features of layers have.

    Parameters
    ----------
    module : torch.nn.Module
        A network; it answers once, in evaluation mode.
    layers : sequence of str
        Dotted names of its layers.
    shape : tuple of int
        Shape of an epoch, or of a window of epochs.

    Returns
    -------
    list of tuple of int
        One a layer, without the axis of the batch.
    """
    device, mode = next(module.parameters()).device, module.training
    with capture_features(module.eval(), layers) as seen, torch.no_grad():
        module(torch.zeros(2, *shape, device=device))
    module.train(mode)
    return [tuple(seen[name].shape[1:]) for name in layers]
