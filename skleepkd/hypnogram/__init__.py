"""Hypnograms: of a stager, or of a scorer."""

from skleepkd.hypnogram.hypnogram import Hypnogram

__all__ = ["Hypnogram"]
