"""Sleep-staging networks: plain ``nn.Module`` classes with braindecode's argument names."""

from .cross_modal_transformer import EpochCrossModalTransformer
from .seqsleepnet import SeqSleepNet
from .utime import UTime

__all__ = ["EpochCrossModalTransformer", "SeqSleepNet", "UTime"]
