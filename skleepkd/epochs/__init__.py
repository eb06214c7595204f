"""Simultaneous epochs of two modalities, and the checks of what users give."""

from skleepkd.epochs.paired import PairedEpochs

__all__ = ["PairedEpochs"]
