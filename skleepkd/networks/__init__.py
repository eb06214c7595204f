"""Sleep-staging networks: plain ``nn.Module`` classes with braindecode's argument names."""

from .cross_modal_transformer import EpochCrossModalTransformer
from .logpower import LogPowerNet
from .seqsleepnet import SeqSleepNet
from .utime import UTime

__all__ = ["EpochCrossModalTransformer", "LogPowerNet", "SeqSleepNet", "USleep", "UTime"]


def __getattr__(name):
    # braindecode takes seconds to import, and few need it.
    if name == "USleep":
        from .usleep import USleep

        return USleep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
