"""U-Time: a fully convolutional network that looks at every sample of an epoch."""

import math

import torch
import torch.nn.functional as F
from torch import nn


def _convolution(n_in, n_out, kernel_size, dilation=1):
    """Convolution that keeps the number of samples, ReLU, batch normalisation."""
    span = dilation * (kernel_size - 1)
    convolution = nn.Conv1d(n_in, n_out, kernel_size, dilation=dilation, padding=span // 2)
    layers = [convolution, nn.ReLU(), nn.BatchNorm1d(n_out)]
    if span % 2:  # an even kernel: one sample more behind the epoch than before it
        layers.insert(0, nn.ConstantPad1d((0, 1), 0.0))
    return nn.Sequential(*layers)


def _level(n_in, n_out, kernel_size, dilation=1):
    """Two convolutions, the content of every level."""
    return nn.Sequential(
        _convolution(n_in, n_out, kernel_size, dilation),
        _convolution(n_out, n_out, kernel_size, dilation),
    )


class _DecoderLevel(nn.Module):
    """Repeat each sample, convolve, join what the encoder saw at this level, convolve."""

    def __init__(self, n_in, n_out, pool, kernel_size, up_kernel_size):
        super().__init__()
        self.pool = pool
        self.up = _convolution(n_in, n_out, up_kernel_size)
        self.convolutions = _level(2 * n_out, n_out, kernel_size)

    def forward(self, x, skip):
        # Where the last pooling window was incomplete, its repetition is cut to length.
        x = F.interpolate(x, scale_factor=self.pool)[..., : skip.shape[-1]]
        return self.convolutions(torch.cat([skip, self.up(x)], dim=1))


class UTime(nn.Module):
    """U-Time, by default the variant for single-lead ECG.

    An encoder of convolutions and max-pooling sums the signal up in ever longer steps, a
    decoder goes back to single samples with the encoder's maps of each level beside its
    own, and every sample gets a score a class. Their mean over an epoch, through one
    linear layer, gives the epoch's logits; :meth:`segment` gives logits at any resolution
    with the same weights.

    The defaults are those of [1]_, for teacher and student alike. The original U-Time
    [2]_, with the widths of its published code, has one level less, pools more, and
    kernels as long as what was pooled behind each upsampling::

        UTime(n_chans, n_times, filters=(22, 45, 90, 181, 362), pools=(10, 8, 6, 4),
              up_kernel_sizes=(10, 8, 6, 4))

    It reads 35 consecutive epochs at 100 Hz at a time, of recordings scaled by their
    median and interquartile range.

    Parameters
    ----------
    n_chans : int
        Number of channels.
    n_times : int
        Samples in an epoch, at least the product of ``pools`` (48).
    n_outputs : int, default=5
        Number of classes.
    sfreq : float, optional
        Sampling rate in hertz. It changes nothing: kernels and pools count samples. A step
        of the bottom level sees 1168 samples, 5.8 s at the 200 Hz of [1]_.
    filters : sequence of int, default=(16, 32, 64, 128, 256, 512)
        Filters of each level of the encoder, and of the bottom level.
    pools : sequence of int, default=(3, 2, 2, 2, 2)
        Samples that each level of the encoder pools into one; one fewer than ``filters``.
    kernel_size : int, default=5
        Samples of the convolutions' kernels.
    dilation : int, default=2
        Step between the samples of a kernel in the encoder; it is 1 elsewhere.
    up_kernel_sizes : sequence of int, optional
        Kernels of the convolutions behind each upsampling, in the order of ``pools``;
        ``kernel_size`` unless given.

    Attributes
    ----------
    bottom : nn.Sequential
        The bottleneck, shape ``(batch, filters[-1], n_times / 48)``.
    dense : nn.Sequential
        Scores of every sample, between -1 and 1, shape ``(batch, n_outputs, n_times)``.
    classifier : nn.Conv1d
        From the mean of the scores to logits.
    feature_layers : tuple of str
        Layers whose maps attention transfer compares [1]_: the bottleneck (first, so that
        ``extract_features`` gives it by default), the pooled maps of the encoder, those of
        the decoder, and the scores of every sample.
    parameter_groups : dict of str to tuple of str
        Names for parts of the network, each given by prefixes of parameter names.

    Raises
    ------
    ValueError
        If filters, pools and kernels do not match, or an epoch is too short.

    Notes
    -----
    ReLU comes before batch normalisation. Weights begin uniform as Glorot and Bengio
    describe, biases at zero. There is no dropout.

    The declared layers hold about 600,000 numbers an epoch of 6000 samples; as attention
    maps (``feature_loss="attention"``) they are 19,750.

    References
    ----------
    .. [1] Joshi, V., Vijayarangan, S., Preejith, S. P. and Sivaprakasam, M. (2021). A
       deep knowledge distillation framework for EEG assisted enhancement of single-lead
       ECG based sleep staging.
    .. [2] Perslev, M., Jensen, M. H., Darkner, S., Jennum, P. J. and Igel, C. (2019).
       U-Time: a fully convolutional network for time series segmentation applied to
       sleep staging.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.networks import UTime
    >>> network = UTime(n_chans=1, n_times=6000, n_outputs=4).eval()
    >>> network(torch.zeros(2, 1, 6000)).shape  # epochs
    torch.Size([2, 4])
    >>> network(torch.zeros(2, 3, 1, 6000)).shape  # three consecutive epochs
    torch.Size([2, 4, 3])
    >>> network.segment(torch.zeros(2, 1, 6000), 200).shape  # every second
    torch.Size([2, 4, 30])
    """

    parameter_groups = {  # noqa: RUF012
        "encoder": ("encoder",),
        "bottom": ("bottom",),
        "decoder": ("decoder",),
        "head": ("dense", "classifier"),
    }

    def __init__(
        self,
        n_chans,
        n_times,
        n_outputs=5,
        sfreq=None,
        *,
        filters=(16, 32, 64, 128, 256, 512),
        pools=(3, 2, 2, 2, 2),
        kernel_size=5,
        dilation=2,
        up_kernel_sizes=None,
    ):
        super().__init__()
        depth = len(pools)
        up_kernel_sizes = up_kernel_sizes or (kernel_size,) * depth
        if not (depth > 0 and len(filters) == depth + 1 and len(up_kernel_sizes) == depth):
            raise ValueError(
                "pools and up_kernel_sizes have one entry a level, filters one more for the "
                f"bottom; given {len(filters)} filters, {depth} pools and "
                f"{len(up_kernel_sizes)} up_kernel_sizes."
            )
        if n_times < math.prod(pools):
            raise ValueError(
                f"n_times is {n_times}, shorter than the {math.prod(pools)} samples that "
                f"pools={tuple(pools)} make into one; give whole epochs, or fewer levels: "
                "filters=(8, 16, 32), pools=(3, 2)."
            )
        self.n_chans = n_chans
        self.n_times = n_times
        self.feature_layers = (
            "bottom",
            *(f"pools.{level}" for level in range(depth)),
            *(f"decoder.{level}" for level in range(depth)),
            "dense",
        )

        widths = [n_chans, *filters]
        self.encoder = nn.ModuleList(
            _level(widths[k], widths[k + 1], kernel_size, dilation) for k in range(depth)
        )
        # An incomplete last window is pooled too, so that every sample is read.
        self.pools = nn.ModuleList(nn.MaxPool1d(pool, ceil_mode=True) for pool in pools)
        self.bottom = _level(filters[-2], filters[-1], kernel_size)
        self.decoder = nn.ModuleList(
            _DecoderLevel(
                filters[k + 1], filters[k], pools[k], kernel_size, up_kernel_sizes[k]
            )
            for k in reversed(range(depth))
        )
        self.dense = nn.Sequential(nn.Conv1d(filters[0], n_outputs, 1), nn.Tanh())
        self.classifier = nn.Conv1d(n_outputs, n_outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        """Compute the logits of epochs.

        From a tensor (batch, n_chans, n_times) to (batch, n_outputs) or, of consecutive
        epochs, which are read as one long signal, from (batch, epochs, n_chans, n_times) to
        (batch, n_outputs, epochs).
        """
        if x.ndim not in (3, 4) or x.shape[-2:] != (self.n_chans, self.n_times):
            shape = f"{self.n_chans}, {self.n_times})"
            raise ValueError(
                f"The input has shape {tuple(x.shape)}; this network was built for "
                f"(batch, {shape} or (batch, epochs, {shape}."
            )
        if x.ndim == 3:
            return self.segment(x, self.n_times)[..., 0]  # (batch, n_outputs)
        # (batch, epochs, n_chans, n_times) -> (batch, n_chans, epochs * n_times)
        return self.segment(x.transpose(1, 2).flatten(2), self.n_times)

    def segment(self, x, step):
        """Compute logits for every ``step`` samples.

        The mean over consecutive steps of these logits is the logits of the longer step.

        Parameters
        ----------
        x : Tensor of shape (batch, n_chans, times)
            A signal of any length; samples beyond its last whole step get no logits.
        step : int
            Samples in a step; ``sfreq`` makes it a second.

        Returns
        -------
        Tensor of shape (batch, n_outputs, times // step)
        """
        skips = []
        for level, pool in zip(self.encoder, self.pools, strict=True):
            skips.append(level(x))  # (batch, filters of the level, times of the level)
            x = pool(skips[-1])
        x = self.bottom(x)
        for level in self.decoder:
            x = level(x, skips.pop())
        scores = self.dense(x)  # (batch, n_outputs, times)
        return self.classifier(F.avg_pool1d(scores, step))
