"""The strategies by their names."""

from skleepkd.distillation.offline import Offline
from skleepkd.distillation.online import Online
from skleepkd.distillation.strategy import Strategy
from skleepkd.distillation.two_step import TwoStep

STRATEGIES = {"offline": Offline, "online": Online, "two-step": TwoStep}


def kind_of(strategy):
    """Return a strategy, or the class of one that is named."""
    if isinstance(strategy, Strategy):
        return strategy
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise ValueError(
            f"Unknown strategy {strategy!r}; the strategies are "
            f"{', '.join(map(repr, STRATEGIES))}, or an instance of your own Strategy."
        )
    return STRATEGIES[strategy]
