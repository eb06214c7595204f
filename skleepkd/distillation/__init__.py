"""What a student learns from its teacher, and how the teacher is kept honest."""

from skleepkd.distillation.ensemble import TeacherEnsemble
from skleepkd.distillation.feature_losses import (
    AttentionTransfer,
    ContrastiveDistillation,
    FeatureLoss,
    FeatureMSE,
    RelationalDistillation,
)
from skleepkd.distillation.features import capture_features
from skleepkd.distillation.layers import Projection
from skleepkd.distillation.leakage import LeakageWarning
from skleepkd.distillation.mean_teacher import MeanTeacher
from skleepkd.distillation.online import Online
from skleepkd.distillation.output_losses import (
    CorrelationDistillation,
    DecoupledDistillation,
    SoftmaxDistillation,
)
from skleepkd.distillation.schedules import Fade, WarmUp
from skleepkd.distillation.strategy import TEACHER_OUTPUT, Step, Strategy

__all__ = [
    "TEACHER_OUTPUT",
    "AttentionTransfer",
    "ContrastiveDistillation",
    "CorrelationDistillation",
    "DecoupledDistillation",
    "Fade",
    "FeatureLoss",
    "FeatureMSE",
    "LeakageWarning",
    "MeanTeacher",
    "Online",
    "Projection",
    "RelationalDistillation",
    "SoftmaxDistillation",
    "Step",
    "Strategy",
    "TeacherEnsemble",
    "WarmUp",
    "capture_features",
]
