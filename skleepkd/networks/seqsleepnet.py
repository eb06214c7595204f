"""SeqSleepNet: recurrent networks over the spectrogram of an epoch, then over epochs."""

import torch
from torch import nn

#: Hertz: no filter looks above it, whatever the sampling rate.
HIGHEST_FREQUENCY = 50.0


class _FilterBank(nn.Module):
    """Triangular filters of learned shape, a set for each channel."""

    def __init__(self, n_chans, n_bins, n_filters, sfreq):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_chans, n_bins, n_filters))
        # Fixed, so it is rebuilt with the network and not stored with its weights.
        triangles = triangular_filters(n_bins, n_filters, sfreq)
        self.register_buffer("triangles", triangles, persistent=False)

    def forward(self, x):
        # A filter's weights lie between 0 and its triangle.
        filters = self.weight.sigmoid() * self.triangles
        x = torch.einsum("nctb,cbf->ntcf", x, filters)
        return x.flatten(2)  # (epochs, frames, channels * filters)


class _Attention(nn.Module):
    """Mean of the frames of an epoch, weighted by what is learned from each."""

    def __init__(self, width, attention_size):
        super().__init__()
        self.hidden = nn.Linear(width, attention_size)
        self.context = nn.Parameter(torch.empty(attention_size))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, frames):
        scores = self.hidden(frames).tanh() @ self.context  # (epochs, frames)
        weights = scores.softmax(dim=1).unsqueeze(1)  # (epochs, 1, frames)
        return (weights @ frames).squeeze(1)  # (epochs, width)


class SeqSleepNet(nn.Module):
    """SeqSleepNet: from spectrograms of consecutive epochs to a stage for each.

    Learned filters sum up the frequencies of each frame, a bidirectional recurrent
    network reads the frames of an epoch, and attention makes one vector of them. A second
    bidirectional recurrent network reads the vectors of consecutive epochs, and a linear
    layer turns each of its outputs into logits [1]_ [2]_.

    Its input is what :class:`skleepkd.preprocessing.LogSpectrogram` makes, standardised.

    Parameters
    ----------
    n_chans : int
        Number of channels, each with filters of its own, as in [2]_.
    n_times : int
        Frames of an epoch's spectrogram: 29 for 30 s.
    n_outputs : int, default=5
        Number of classes.
    sfreq : float, default=100.0
        Sampling rate in hertz of the signal behind the spectrogram.
    n_bins : int, default=129
        Frequency bins of the spectrogram, from 0 to ``sfreq / 2``.
    n_filters : int, default=32
        Filters a channel, of equal width between 0 and 50 Hz (or ``sfreq / 2``).
    hidden_size : int, default=64
        Width of the recurrent networks, in each direction.
    attention_size : int, default=64
        Width of the layer that scores the frames.
    drop_prob : float, default=0.25
        Dropout of what goes into and comes out of both recurrent networks.
    projections : bool, default=False
        Whether a linear layer follows each recurrent network, as in the equations of [1]_.

    Attributes
    ----------
    sequence_features : nn.Identity
        What distillation compares by default, the outputs of the sequence encoder, shape
        ``(batch, 2 * hidden_size, sequence)``.
    feature_layers, parameter_groups
        As of :class:`UTime`. The group "epoch_encoder" (filters, the first recurrent network
        and attention) is what [1]_ calls ARNN, "sequence_encoder" its SeqRNN, "head" its
        softmax layer.

    Raises
    ------
    ValueError
        If there are too few bins for so many filters, or the input has another shape.

    Notes
    -----
    The recurrent networks are gated recurrent units as in the text of [1]_. With one
    channel and five classes there are 125,221 parameters, with projections 158,245. The
    published code has a cell with batch normalisation for each time step instead, which
    ties it to 20 epochs; this network reads any number of epochs. Filters begin standard
    normal before their sigmoid, attention normal with a deviation of 0.1, the head uniform
    as Glorot and Bengio describe, with biases of zero.

    [1]_ adds half the squared length of all parameters but the filters to the loss, times
    0.001, beside a cross-entropy summed over 32 sequences; beside a mean it is a 32nd::

        SleepStager("SeqSleepNet", sequence_length=20, batch_size=32, lr=1e-4,
                    optimizer__weight_decay=1e-3 / 32,
                    optimizer__param_groups=[("filterbank*", {"weight_decay": 0.0})])

    References
    ----------
    .. [1] Phan, H., Chén, O. Y., Koch, P., Mertins, A. and De Vos, M. (2019). Deep
       transfer learning for single-channel automatic sleep staging with channel mismatch.
    .. [2] Phan, H., Andreotti, F., Cooray, N., Chén, O. Y. and De Vos, M. (2019).
       SeqSleepNet: end-to-end hierarchical recurrent neural network for
       sequence-to-sequence automatic sleep staging.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.networks import SeqSleepNet
    >>> network = SeqSleepNet(n_chans=1, n_times=29).eval()
    >>> network(torch.zeros(2, 20, 1, 29, 129)).shape  # 20 consecutive epochs
    torch.Size([2, 5, 20])
    >>> network(torch.zeros(2, 1, 29, 129)).shape  # single epochs
    torch.Size([2, 5])
    """

    feature_layers = ("sequence_features",)
    parameter_groups = {  # noqa: RUF012
        "epoch_encoder": ("filterbank", "epoch_rnn", "epoch_projection", "attention"),
        "sequence_encoder": ("sequence_rnn", "sequence_projection"),
        "head": ("head",),
    }

    def __init__(
        self,
        n_chans,
        n_times,
        n_outputs=5,
        sfreq=100.0,
        *,
        n_bins=129,
        n_filters=32,
        hidden_size=64,
        attention_size=64,
        drop_prob=0.25,
        projections=False,
    ):
        super().__init__()
        self.epoch_shape = (n_chans, n_times, n_bins)
        width = 2 * hidden_size  # both directions

        self.filterbank = _FilterBank(n_chans, n_bins, n_filters, sfreq)
        self.epoch_rnn = nn.GRU(
            n_chans * n_filters, hidden_size, batch_first=True, bidirectional=True
        )
        self.epoch_projection = nn.Linear(width, width) if projections else nn.Identity()
        self.attention = _Attention(width, attention_size)
        self.sequence_rnn = nn.GRU(width, hidden_size, batch_first=True, bidirectional=True)
        self.sequence_features = nn.Identity()
        self.sequence_projection = nn.Linear(width, width) if projections else nn.Identity()
        self.head = nn.Linear(width, n_outputs)
        self.dropout = nn.Dropout(drop_prob)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        """Compute the logits of epochs from standardised log spectrograms.

        From a tensor (batch, n_chans, n_times, n_bins) to (batch, n_outputs) or, of
        consecutive epochs, from (batch, sequence, n_chans, n_times, n_bins) to (batch,
        n_outputs, sequence).
        """
        if x.ndim == 4:  # each epoch is a sequence of one
            return self.classify_sequence(self.encode_epochs(x).unsqueeze(1)).squeeze(2)
        if x.ndim != 5:
            raise self._unexpected(x)
        # (batch, sequence, ...) -> (batch * sequence, ...), and back
        features = self.encode_epochs(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.classify_sequence(features)

    def encode_epochs(self, x):
        """Sum up each epoch by itself, in any order.

        From a tensor (n_epochs, n_chans, n_times, n_bins) to (n_epochs, 2 * hidden_size).
        """
        if x.ndim != 4 or x.shape[1:] != self.epoch_shape:
            raise self._unexpected(x)
        frames, _ = self.epoch_rnn(self.dropout(self.filterbank(x)))
        # (n_epochs, n_times, 2 * hidden_size)
        return self.attention(self.epoch_projection(self.dropout(frames)))

    def classify_sequence(self, features):
        """Compute the logits of consecutive epochs from their :meth:`encode_epochs`.

        From (batch, sequence, 2 * hidden_size) to (batch, n_outputs, sequence).
        """
        epochs, _ = self.sequence_rnn(self.dropout(features))
        # (batch, sequence, units) -> (batch, units, sequence), as losses expect features
        self.sequence_features(epochs.transpose(1, 2))
        logits = self.head(self.sequence_projection(self.dropout(epochs)))
        return logits.transpose(1, 2)

    def _unexpected(self, x):
        shape = ", ".join(map(str, self.epoch_shape))
        return ValueError(
            f"The input has shape {tuple(x.shape)}; this network was built for spectrograms of "
            f"shape (batch, {shape}) or (batch, sequence, {shape}), (channels, frames, frequency "
            "bins) an epoch: LogSpectrogram makes them, n_bins= tells another number of bins."
        )


def triangular_filters(n_bins, n_filters, sfreq):
    """Triangles of equal width in hertz, each from the peak of one neighbour to the next."""
    n_fft = 2 * (n_bins - 1)
    highest = min(HIGHEST_FREQUENCY, sfreq / 2)
    corners = torch.linspace(0, highest, n_filters + 2, dtype=torch.float64)
    corners = ((n_fft + 1) * corners / sfreq).floor()  # in bins
    if (corners.diff() < 1).any():
        raise ValueError(
            f"{n_filters} filters do not fit into the {int(corners[-1]) + 1} frequency bins up to "
            f"{highest:g} Hz; give a smaller n_filters (module__n_filters= of a stager)."
        )
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(n_bins, dtype=torch.float64).unsqueeze(1)
    rising, falling = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()
