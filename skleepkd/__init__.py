"""Knowledge distillation for sleep staging, in scikit-learn's words."""

from skleepkd.alignment import check_alignment
from skleepkd.clock import estimate_clock
from skleepkd.describe import describe
from skleepkd.epochs import PairedEpochs
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.export import export_onnx
from skleepkd.hypnogram import read_hypnogram
from skleepkd.persistence import load, save
from skleepkd.recording import RecordingStager

__version__ = "0.1.0.dev0"

__all__ = [
    "DistilledSleepStager",
    "FineTunedSleepStager",
    "PairedEpochs",
    "RecordingStager",
    "SleepStager",
    "check_alignment",
    "describe",
    "estimate_clock",
    "export_onnx",
    "load",
    "read_hypnogram",
    "save",
]
