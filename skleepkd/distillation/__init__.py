"""What a student learns from its teacher, and how the teacher is kept honest."""

from skleepkd.distillation.features import capture_features
from skleepkd.distillation.losses import FeatureLoss, FeatureMSE, SoftmaxDistillation
from skleepkd.distillation.teachers import LeakageWarning

__all__ = [
    "FeatureLoss",
    "FeatureMSE",
    "LeakageWarning",
    "SoftmaxDistillation",
    "capture_features",
]
