"""Sleep-staging networks: plain ``nn.Module`` classes with braindecode's argument names."""

from .cross_modal_transformer import EpochCrossModalTransformer

__all__ = ["EpochCrossModalTransformer"]
