"""Tiny networks and tiny pairs; a module, so that worker processes can import them."""

import numpy as np
from torch import nn

from skleepkd import PairedEpochs


class TinyNetwork(nn.Module):
    """Log power of a few filters: learns stages that differ in power within a second."""

    feature_layers = ("features",)
    parameter_groups = {"filters": ("filters", "norm"), "head": ("head",)}  # noqa: RUF012

    def __init__(self, n_chans, n_times, n_outputs, sfreq=None, n_filters=4, dropout=0.0):
        super().__init__()
        self.filters = nn.Conv1d(n_chans, n_filters, 5, padding=2)
        self.norm = nn.BatchNorm1d(n_filters)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_filters, n_outputs)

    def forward(self, x):
        power = self.norm(self.filters(x).square().mean(dim=2).add(1e-3).log())
        return self.head(self.dropout(self.features(power)))


def make_pair(n_subjects=6, n_epochs=24, n_times=60, n_chans=2, seed=0, classes=5):
    """Epochs whose power tells the stage, clearly in the source, dimly in the target."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_epochs
    y = rng.integers(0, classes, n)
    scale = 5.0 * 1.8 ** y[:, None, None]
    source = scale * rng.standard_normal((n, n_chans, n_times))
    target = 0.5 * source + 10 * rng.standard_normal((n, n_chans, n_times))
    subject = np.repeat([f"s{k}" for k in range(n_subjects)], n_epochs)
    X = PairedEpochs(
        target.astype(np.float32),
        source.astype(np.float32),
        subject=subject,
        recording=np.char.add("night-", subject),
        onset=np.tile(30.0 * np.arange(n_epochs), n_subjects),
        sfreq=2.0,
    )
    return X, y
