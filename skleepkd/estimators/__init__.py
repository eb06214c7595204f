"""Training protocols as scikit-learn estimators."""

from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.estimators.distilled import DistilledSleepStager
from skleepkd.estimators.finetuned import FineTunedSleepStager
from skleepkd.estimators.supervised import SleepStager

__all__ = [
    "DistilledSleepStager",
    "FineTunedSleepStager",
    "SleepStager",
    "StepwiseValidation",
]
