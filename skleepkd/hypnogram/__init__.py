"""Hypnograms: of a stager, or of a scorer."""

from skleepkd.hypnogram.hypnogram import Hypnogram
from skleepkd.hypnogram.reading import read_hypnogram

__all__ = ["Hypnogram", "read_hypnogram"]
