"""Layers of a student that follow layers of its teacher."""

import copy

import torch
from torch import nn

from skleepkd.distillation.adapters import make_adapter
from skleepkd.distillation.features import check_layers, feature_shapes
from skleepkd.distillation.losses import (
    AttentionTransfer,
    FeatureLoss,
    FeatureMSE,
    PlainFeatureLoss,
)
from skleepkd.networks.build import feature_layers

#: Feature losses by name.
FEATURE_LOSSES = {"mse": FeatureMSE, "attention": AttentionTransfer}


class MatchedLayer(nn.Module):
    """A layer of the student, and the layer of the teacher that it follows by a loss."""

    def __init__(self, student_layer, teacher_layer, loss, adapter):
        super().__init__()
        self.student_layer = student_layer
        self.teacher_layer = teacher_layer
        self.loss = loss
        self.adapter = adapter

    def forward(self, adapted, summary):
        """Return the loss of the student's adapted features and the teacher's summary."""
        return self.loss.compare(self.loss.summarise(adapted), summary)


def match_layers(layers, loss, adapter, student, teacher, shapes, sequence_length):
    """Pair the layers of two networks.

    ``layers``, ``loss`` and ``adapter`` are as ``DistilledSleepStager`` is given them,
    ``shapes`` those of an epoch (or window) of the student and of the teacher.
    """
    if isinstance(loss, str):
        loss = FEATURE_LOSSES[loss]()
    elif not isinstance(loss, FeatureLoss):
        loss = PlainFeatureLoss(loss)
    pairs = _pair_names(layers, student, teacher)
    adapters = [nn.Identity() for _ in pairs]
    if adapter is not None:
        own, other = zip(*pairs, strict=True)
        # Drawn apart, so that the batches are those of a student without adapters.
        with torch.random.fork_rng(devices=[]):
            student_shapes = feature_shapes(student, own, shapes[0])
            teacher_shapes = feature_shapes(teacher, other, shapes[1])
            adapters = [
                make_adapter(adapter, *both, sequence_length)
                for both in zip(student_shapes, teacher_shapes, strict=True)
            ]
    # A loss for each layer, since each may learn statistics of its own.
    return nn.ModuleList(
        MatchedLayer(*names, copy.deepcopy(loss), module)
        for names, module in zip(pairs, adapters, strict=True)
    )


def _pair_names(layers, student, teacher):
    if layers is None:
        own, other = feature_layers(student), feature_layers(teacher)
        if len(own) != len(other):
            raise ValueError(
                f"The student declares the feature layers {own} and the teacher {other}; "
                "pair them with layers=[(student's, teacher's), ...]."
            )
        pairs = list(zip(own, other, strict=True))
    else:
        names = [layers] if isinstance(layers, str) else layers
        pairs = [(name, name) if isinstance(name, str) else tuple(name) for name in names]
    if not pairs:
        raise ValueError("layers is empty; name a layer, or give feature_loss=None.")
    check_layers(student, [own for own, _ in pairs])
    check_layers(teacher, [other for _, other in pairs])
    return pairs
