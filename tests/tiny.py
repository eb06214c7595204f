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
    """Epochs whose power shows the stage, clearly in the source, dimly in the target."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_epochs
    y = rng.integers(0, classes, n)
    scale = 5.0 * 1.8 ** y[:, None, None]
    source = scale * rng.standard_normal((n, n_chans, n_times))
    target = 0.5 * source + 10 * rng.standard_normal((n, n_chans, n_times))
    subject = np.repeat([f"s{k}" for k in range(n_subjects)], n_epochs)
    X = PairedEpochs(
        target.astype(np.float32),
        source=source.astype(np.float32),
        subject=subject,
        recording=np.char.add("night-", subject),
        onset=np.tile(30.0 * np.arange(n_epochs), n_subjects),
        sfreq=2.0,
    )
    return X, y


class TinySequenceNetwork(nn.Module):
    """Encodes epochs one by one, then looks along the sequence, as SeqSleepNet does."""

    feature_layers = ("sequence_encoder",)
    parameter_groups = {  # noqa: RUF012
        "epoch_encoder": ("filters", "norm"),
        "sequence_encoder": ("sequence_encoder",),
        "head": ("head",),
    }
    encoded = 0  # epochs that passed the encoder in evaluation

    def __init__(self, n_chans, n_times, n_outputs, n_filters=4):
        super().__init__()
        self.filters = nn.Conv1d(n_chans, n_filters, 5, padding=2)
        self.norm = nn.LayerNorm(n_filters)
        self.sequence_encoder = nn.GRU(n_filters, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, n_outputs)

    def encode_epochs(self, x):
        if not self.training:
            type(self).encoded += len(x)
        return self.norm(self.filters(x).square().mean(dim=2).add(1e-3).log())

    def classify_sequence(self, features):
        seen, _ = self.sequence_encoder(features)
        return self.head(seen).transpose(1, 2)  # (batch, n_outputs, sequence)

    def forward(self, x):
        if x.ndim == 3:
            return self.forward(x[:, None])[..., 0]
        features = self.encode_epochs(x.flatten(0, 1))  # (batch * sequence, n_filters)
        return self.classify_sequence(features.unflatten(0, x.shape[:2]))


def make_spectra(n_subjects=4, n_epochs=16, cohort="target", seed=0):
    """Standardised spectra of nights, brighter in one bin for each stage, with a source."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_epochs
    y = rng.integers(0, 5, n)
    y[:5] = range(5)
    target, source = rng.standard_normal((2, n, 1, 6, 17)).astype(np.float32)
    for epochs, gain in ((target, 1.0), (source, 2.0)):
        epochs[np.arange(n), :, :, 2 + 2 * y] += gain
    subject = np.repeat([f"{cohort}-{k}" for k in range(n_subjects)], n_epochs)
    X = PairedEpochs(
        target,
        source=source,
        subject=subject,
        recording=np.char.add("night-", subject),
        onset=np.tile(30.0 * np.arange(n_epochs), n_subjects),
        sfreq=100.0,
    )
    return X, y


def numbered(n_epochs=12, **changes):
    """Build a pair whose every value and column tells its row."""
    row = np.arange(n_epochs)
    given = {
        "target": np.tile(row[:, None, None], (1, 2, 5)).astype(np.float32),
        "source": 1000 + np.tile(row[:, None, None], (1, 3, 7)).astype(np.float32),
        "subject": [f"s{k // 4}" for k in row],
        "recording": [f"night{k // 3}" for k in row],
        "onset": 30.0 * row,
        "sfreq": {"target": 5, "source": 7},
        "ch_names": {"target": ["L", "R"], "source": ["C3", "C4", "O1"]},
    }
    return PairedEpochs(**{**given, **changes})
