"""Layers of a student that follow layers of its teacher, and what brings them to one shape."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.distillation.feature_losses import (
    FEATURE_LOSSES,
    FeatureLoss,
    PlainFeatureLoss,
)
from skleepkd.distillation.features import check_layers, feature_shapes
from skleepkd.distillation.output_losses import call_loss
from skleepkd.networks.build import feature_layers


class Projection(nn.Module):
    """Project a student's features to the shape of its teacher's.

    The channels are mixed by one learned linear map, the same at every moment. An axis of
    another length is resampled without anything learned: where the teacher has fewer
    moments each is the mean of those that the student has in its span; where it has more,
    they are interpolated linearly. Axes that the teacher lacks are averaged away.

    It stands on the student's side, as the regressor of [1]_, is trained together with
    the student, and is no part of it: predictions, files and exports are without it.

    Parameters
    ----------
    student_shape, teacher_shape : tuple of int
        Shapes of the features of one epoch or one window, without the axis of the batch:
        (channels, times), or (channels,) where there is no time axis.
    channel_axis : int, default=0
        The axis of both shapes that holds the channels; -1 for the output of recurrent
        layers, whose shape is (sequence, channels).

    Raises
    ------
    ValueError
        If the teacher's features have more axes than the student's.

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
        own, other = list(student_shape), list(teacher_shape)
        if len(own) < len(other):
            raise ValueError(
                f"The student's features of shape {tuple(own)} have fewer axes than the "
                f"teacher's of shape {tuple(other)}: name a layer that keeps time with layers=."
            )
        self.channel_axis = channel_axis
        self.channels = nn.Conv1d(own.pop(channel_axis), other.pop(channel_axis), 1)
        self.lengths = tuple(other)

    def forward(self, features):
        """Project features of ``student_shape`` to ``teacher_shape``, both (batch, ...)."""
        axis = self.channel_axis % (features.ndim - 1) + 1
        x = features.movedim(axis, 1)  # (batch, channels, times, ...)
        for _ in range(x.ndim - 2 - len(self.lengths)):
            x = x.mean(dim=-1)
        # Means and lines have weights that add up to one at each moment, so they and the
        # linear map may change places; the map is applied where there are fewer moments.
        moments = tuple(map(min, x.shape[2:], self.lengths))
        if moments != x.shape[2:]:
            x = F.interpolate(x, moments, mode="area")
        # Without a time axis there is one moment.
        x = self.channels(x.reshape(*x.shape[:2], -1))
        x = x.reshape(*x.shape[:2], *moments)
        if moments != self.lengths:
            mode = ("linear", "bilinear", "trilinear")[len(moments) - 1]
            x = F.interpolate(x, self.lengths, mode=mode)
        return x.movedim(1, self.channel_axis % (x.ndim - 1) + 1)


#: In place of a layer's name, of a teacher that is no network but has features.
EXTRACTED = "extract_features"

#: Adapters by name.
ADAPTERS = {"linear": Projection}


def check_adapter(adapter):
    """Refuse what makes no adapters: neither None nor a known name, nor a class or function."""
    known = adapter in ADAPTERS if isinstance(adapter, str) else callable(adapter)
    if not (adapter is None or known) or isinstance(adapter, nn.Module):
        raise ValueError(
            f"adapter is None, {', '.join(map(repr, ADAPTERS))} or a callable that makes a "
            f"module of the student's and the teacher's shape; given {adapter!r}."
        )


class MatchedLayer(nn.Module):
    """A layer of the student, and the layer of the teacher that it follows by a loss."""

    def __init__(self, student_layer, teacher_layer, loss, adapter):
        super().__init__()
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.loss = loss
        self.adapter = adapter

    def forward(self, adapted, summary, y):
        """Return the loss of the student's adapted features and the teacher's summary."""
        return call_loss(self.loss.compare, self.loss.summarise(adapted), summary, y)


def match_layers(layers, loss, adapter, student, teacher, shapes, sequence_length):
    """Pair layers of two networks; ``shapes``: of an epoch (or window) of either.

    Without a teacher's network the second shape is that of the features themselves.
    """
    if not isinstance(loss, FeatureLoss):
        loss = PlainFeatureLoss(loss)
    pairs = _pair_names(layers, student, teacher)
    own, other = zip(*pairs, strict=True)
    # Drawn apart, so that the batches are those of a student without adapters.
    with torch.random.fork_rng(devices=[]):
        student_shapes = feature_shapes(student, own, shapes[0])
        teacher_shapes = [shapes[1]]
        if teacher is not None:
            teacher_shapes = feature_shapes(teacher, other, shapes[1])
        matched = nn.ModuleList()
        for names, *both in zip(pairs, student_shapes, teacher_shapes, strict=True):
            module = _make_adapter(adapter, *both, sequence_length)
            # A loss for each layer, since each may learn statistics of its own.
            matched.append(MatchedLayer(*names, copy.deepcopy(loss), module))
        # A loss of the user's own may keep what it sees, or not be made for two epochs.
        if type(loss) in FEATURE_LOSSES.values():
            for tried in zip(matched, student_shapes, teacher_shapes, strict=True):
                _try_loss(*tried)
    return matched


def _try_loss(layer, student_shape, teacher_shape):
    """Compare features of two epochs: a loss that cannot says so before a teacher is fitted."""
    own, other = (torch.randn(2, *shape) for shape in (student_shape, teacher_shape))
    layer.eval()  # an adapter learns no statistics of these
    with torch.no_grad():
        summary = layer.loss.summarise(other)
        layer(layer.adapter(own), summary, torch.zeros(2, dtype=torch.long))
    layer.train()


def _make_adapter(adapter, student_shape, teacher_shape, sequence_length):
    if adapter is None:
        return nn.Identity()
    if not isinstance(adapter, str):
        return adapter(student_shape, teacher_shape)
    # (sequence, channels) on both sides: what recurrent layers put out
    two_axes = len(student_shape) == len(teacher_shape) == 2
    recurrent = two_axes and student_shape[0] == teacher_shape[0] == sequence_length > 1
    return ADAPTERS[adapter](student_shape, teacher_shape, -1 if recurrent else 0)


def name_pairs(layers):
    """Pairs of names, the student's and the teacher's, that ``layers=`` gives."""
    names = [layers] if isinstance(layers, str) else layers
    return [(name, name) if isinstance(name, str) else tuple(name) for name in names]


def _pair_names(layers, student, teacher):
    if teacher is None:
        own = layers or feature_layers(student)
        own = [own] if isinstance(own, str) else list(own)
        if len(own) != 1 or not isinstance(own[0], str):
            raise ValueError(
                f"The teacher's extract_features gives one array, which one layer of the student "
                f"follows; given {own}. Name it: layers=['...']."
            )
        check_layers(student, own)
        return [(own[0], EXTRACTED)]
    if layers is None:
        own, other = feature_layers(student), feature_layers(teacher)
        if len(own) != len(other):
            raise ValueError(
                f"The student declares the feature layers {own} and the teacher {other}; "
                "pair them with layers=[(student's, teacher's), ...]."
            )
        pairs = list(zip(own, other, strict=True))
    else:
        pairs = name_pairs(layers)
    if not pairs:
        raise ValueError("layers is empty; name a layer, or give feature_loss=None.")
    check_layers(student, [own for own, _ in pairs])
    check_layers(teacher, [other for _, other in pairs])
    return pairs
