"""Functions on recordings, and transformers of epochs."""

from skleepkd.preprocessing.band_powers import BandPowers
from skleepkd.preprocessing.ear import (
    EAR_ELECTRODES,
    PAPER_REJECTIONS,
    SCALP_DERIVATIONS,
    derive,
    ear_derivations,
    reject_ear_electrodes,
    scalp_derivations,
)
from skleepkd.preprocessing.paired import (
    EpochwiseTransformer,
    PairedTransformer,
    SourceSelector,
)
from skleepkd.preprocessing.scaling import EpochScaler, RecordingScaler
from skleepkd.preprocessing.spectrogram import LogSpectrogram

__all__ = [
    "EAR_ELECTRODES",
    "PAPER_REJECTIONS",
    "SCALP_DERIVATIONS",
    "BandPowers",
    "EpochScaler",
    "EpochwiseTransformer",
    "LogSpectrogram",
    "PairedTransformer",
    "RecordingScaler",
    "SourceSelector",
    "derive",
    "ear_derivations",
    "reject_ear_electrodes",
    "scalp_derivations",
]
