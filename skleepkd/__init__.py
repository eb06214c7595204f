"""Knowledge distillation for sleep staging, in scikit-learn's words."""

from skleepkd.epochs import PairedEpochs
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.persistence import load, save

__version__ = "0.1.0.dev0"

__all__ = [
    "DistilledSleepStager",
    "FineTunedSleepStager",
    "PairedEpochs",
    "SleepStager",
    "load",
    "save",
]
