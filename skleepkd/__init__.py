"""Knowledge distillation for sleep staging, in scikit-learn's words."""

from skleepkd.epochs import PairedEpochs

__version__ = "0.1.0.dev0"

__all__ = ["PairedEpochs"]
