"""A network small enough to be trained dozens of times on a laptop.

It filters, squares, averages over a second and takes logarithms, in the spirit of
ShallowFBCSPNet (Schirrmeister et al. 2017): the power of learned bands, second by second.
"""

import torch
from torch import nn


class SmallNetwork(nn.Module):
    """Band powers by learned filters, then two convolutions over the seconds of an epoch.

    Parameters
    ----------
    n_chans, n_times, n_outputs : int
        Channels, samples of an epoch and stages; the stager sets them.
    sfreq : float
        Sampling rate in hertz; likewise.
    n_filters : int, default=24
        Filters of the first convolution, half a second long.
    """

    #: Layers that are compared with the teacher's unless ``layers=`` names others.
    feature_layers = ("features",)
    #: Parts that ``trainable=`` can fine-tune by themselves.
    parameter_groups = {  # noqa: RUF012
        "filters": ("filters", "norm"),
        "seconds": ("seconds",),
        "head": ("head",),
    }

    def __init__(self, n_chans, n_times, n_outputs, sfreq, n_filters=24):
        super().__init__()
        stride = max(1, round(sfreq / 16))
        per_second = max(1, round(sfreq / stride))
        kernel = round(sfreq / 2) + 1
        self.filters = nn.Conv1d(
            n_chans, n_filters, kernel, stride=stride, padding=kernel // 2
        )
        self.average = nn.AvgPool1d(per_second)
        self.norm = nn.BatchNorm1d(n_filters)
        self.seconds = nn.Sequential(
            nn.Conv1d(n_filters, 48, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(48, 48, 3, padding=1),
            nn.ReLU(),
        )
        self.features = nn.Identity()
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(96, n_outputs)

    def forward(self, x):
        """Return the logits of epochs of shape (batch, n_chans, n_times)."""
        power = self.average(self.filters(x).square())  # (batch, n_filters, seconds)
        x = self.seconds(self.norm(torch.log(power + 1e-2)))  # (batch, 48, seconds)
        x = torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)  # (batch, 96)
        return self.head(self.dropout(self.features(x)))
