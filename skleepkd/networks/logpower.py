"""LogPowerNet: a network that trains in seconds on a CPU."""

import torch
from torch import nn


class LogPowerNet(nn.Module):
    """Power of learned frequency bands, second by second.

    Learned filters, whose outputs are squared, averaged over a second and turned into
    logarithms, in the spirit of ShallowFBCSPNet [1]_; then two convolutions over the
    seconds of an epoch. For three channels at 64 Hz it has 15,701 parameters.

    Parameters
    ----------
    n_chans : int
        Number of channels.
    n_times : int
        Samples in an epoch; it changes nothing.
    n_outputs : int
        Number of classes.
    sfreq : float
        Sampling rate in hertz, on which the length of filters and of seconds depends.
    n_filters : int, default=24
        Filters of the first convolution, half a second long.

    Attributes
    ----------
    feature_layers : tuple of str
        What distillation compares by default: mean and largest value over the seconds,
        shape ``(batch, 96)``.
    parameter_groups : dict of str to tuple of str
        As of :class:`UTime`.

    References
    ----------
    .. [1] Schirrmeister, R. T., Springenberg, J. T., Fiederer, L. D. J., Glasstetter, M.,
       Eggensperger, K., Tangermann, M., Hutter, F., Burgard, W. and Ball, T. (2017). Deep
       learning with convolutional neural networks for EEG decoding and visualization.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.networks import LogPowerNet
    >>> network = LogPowerNet(n_chans=3, n_times=1920, n_outputs=5, sfreq=64.0).eval()
    >>> network(torch.zeros(2, 3, 1920)).shape
    torch.Size([2, 5])
    """

    feature_layers = ("features",)
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
        """Compute logits, (batch, n_outputs), of epochs in microvolts, (batch, n_chans, n_times)."""
        power = self.average(self.filters(x).square())  # (batch, n_filters, seconds)
        x = self.seconds(self.norm(torch.log(power + 1e-2)))  # (batch, 48, seconds)
        x = torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)  # (batch, 96)
        return self.head(self.dropout(self.features(x)))
