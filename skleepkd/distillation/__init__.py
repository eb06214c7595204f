"""What a student learns from its teacher, and how the teacher is kept honest."""

from skleepkd.distillation.ensemble import TeacherEnsemble
from skleepkd.distillation.features import capture_features
from skleepkd.distillation.layers import Projection
from skleepkd.distillation.leakage import LeakageWarning
from skleepkd.distillation.losses import (
    AttentionTransfer,
    FeatureLoss,
    FeatureMSE,
    SoftmaxDistillation,
)
from skleepkd.distillation.strategy import TEACHER_OUTPUT, Step, Strategy

__all__ = [
    "TEACHER_OUTPUT",
    "AttentionTransfer",
    "FeatureLoss",
    "FeatureMSE",
    "LeakageWarning",
    "Projection",
    "SoftmaxDistillation",
    "Step",
    "Strategy",
    "TeacherEnsemble",
    "capture_features",
]
