"""What a student learns from its teacher, and how the teacher is kept honest."""

from skleepkd.distillation.adapters import Projection
from skleepkd.distillation.features import capture_features
from skleepkd.distillation.losses import (
    AttentionTransfer,
    FeatureLoss,
    FeatureMSE,
    SoftmaxDistillation,
)
from skleepkd.distillation.teachers import LeakageWarning

__all__ = [
    "AttentionTransfer",
    "FeatureLoss",
    "FeatureMSE",
    "LeakageWarning",
    "Projection",
    "SoftmaxDistillation",
    "capture_features",
]
