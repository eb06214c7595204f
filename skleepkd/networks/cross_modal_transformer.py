"""The epoch cross-modal transformer, for any number of channels."""

import math

import torch
from torch import nn
from torch.nn import functional as F

#: Samples in one window, whatever the sampling rate; a window becomes one token.
WINDOW = 50
#: Width of a token: the 64 + 96 + 96 filters of the three paths of the embedding.
EMBED_DIM = 256


def _path(*convolutions):
    """Convolutions (n_in, n_out, length) that step by their length, then normalisation."""
    layers = []
    for n_in, n_out, length in convolutions:
        layers += [nn.Conv1d(n_in, n_out, length, stride=length), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.BatchNorm1d(n_out))


class _WindowEmbedding(nn.Module):
    """One channel as a class token, then one token for each whole window of 50 samples."""

    def __init__(self, n_windows, drop_prob):
        super().__init__()
        # Three paths see each window at 50, 5 and 25 samples of resolution.
        self.coarse = _path((1, 64, 50))
        self.fine = _path((1, 32, 5), (32, 64, 5), (64, 96, 2))
        self.middle = _path((1, 64, 25), (64, 96, 2))
        self.mix = _path((EMBED_DIM, EMBED_DIM, 1))
        self.class_token = nn.Parameter(torch.randn(1, 1, EMBED_DIM))
        # Fixed, so it is rebuilt with the network and not stored with its weights.
        self.register_buffer(
            "position", sinusoidal_position(n_windows + 1, EMBED_DIM), persistent=False
        )
        self.dropout = nn.Dropout(drop_prob)

    def forward(self, x):
        paths = (self.coarse(x), self.fine(x), self.middle(x))
        windows = self.mix(torch.cat(paths, dim=1))  # (batch, 256, windows)
        windows = windows.transpose(1, 2)  # (batch, windows, 256)
        class_token = self.class_token.expand(x.shape[0], -1, -1)  # (batch, 1, 256)
        tokens = torch.cat([class_token, windows], dim=1)  # (batch, 1 + windows, 256)
        return self.dropout(tokens + self.position)


class _FirstTokenAttention(nn.MultiheadAttention):
    """What ``nn.MultiheadAttention`` computes for the first token, for it alone."""

    def forward(self, tokens):
        # With one query, keys and values need not be projected for every token:
        # q . (W x) = (W' q) . x and sum a (W x) = W (sum a x). A bias on the keys shifts
        # all scores alike, and so drops out of the softmax.
        n_heads, head_dim, width = self.num_heads, self.head_dim, self.embed_dim
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, _, value_bias = self.in_proj_bias.chunk(3)
        key_weight = key_weight.view(n_heads, head_dim, width)
        value_weight = value_weight.view(n_heads, head_dim, width)

        query = F.linear(tokens[:, 0], query_weight, query_bias)
        # (batch, width) -> (batch, heads, head_dim)
        query = query.view(-1, n_heads, head_dim) / math.sqrt(head_dim)
        query = torch.einsum("bhd,hdw->bhw", query, key_weight)
        weights = (query @ tokens.transpose(1, 2)).softmax(dim=-1)  # (batch, heads, tokens)
        weights = F.dropout(weights, self.dropout, self.training)

        mean = weights @ tokens  # (batch, heads, width)
        value = torch.einsum("bhw,hdw->bhd", mean, value_weight)
        # Dropout leaves weights that no longer add up to one, so the bias follows them.
        value = value + weights.sum(-1, keepdim=True) * value_bias.view(n_heads, head_dim)
        return self.out_proj(value.flatten(1))  # (batch, width)


class _AttentionBlock(nn.Module):
    """Attention, residual and layer normalisation of the first token."""

    def __init__(self, num_heads, drop_prob):
        super().__init__()
        self.attention = _FirstTokenAttention(
            EMBED_DIM, num_heads, dropout=drop_prob, batch_first=True
        )
        self.dropout = nn.Dropout(drop_prob)
        self.norm = nn.LayerNorm(EMBED_DIM)

    def forward(self, tokens):
        return self.norm(tokens[:, 0] + self.dropout(self.attention(tokens)))


class _FeedForwardBlock(nn.Module):
    """Two linear layers, residual and layer normalisation of one token."""

    def __init__(self, dim_feedforward, drop_prob):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(EMBED_DIM, dim_feedforward),
            nn.ReLU(),
            nn.Dropout(drop_prob),
            nn.Linear(dim_feedforward, EMBED_DIM),
            nn.Dropout(drop_prob),
        )
        self.norm = nn.LayerNorm(EMBED_DIM)

    def forward(self, token):
        return self.norm(token + self.layers(token))


class EpochCrossModalTransformer(nn.Module):
    """Epoch cross-modal transformer.

    Every channel is a stream of its own: windows of 50 samples become tokens behind a
    learned class token, and self-attention inside the stream sums them up in that
    class token. Cross-modal attention from a further learned token to the streams'
    class tokens gives one vector, which each stream passes through its own
    feed-forward block. Side by side they are the features that the linear head reads.

    The network with three channels follows [1]_, whose two-channel original is [2]_.
    Unlike the published code of [1]_, which feeds its first channel twice and never reads
    its third, this one uses every channel.

    Parameters
    ----------
    n_chans : int
        Number of channels.
    n_times : int
        Samples in an epoch, at least 50; those behind the last whole window are not read.
    n_outputs : int, default=5
        Number of classes.
    sfreq : float, optional
        Sampling rate in hertz. It changes nothing: a window is 50 samples.
    num_heads : int, default=8
        Attention heads; they must divide 256.
    dim_feedforward : int, default=1024
        Width of the hidden layer of the feed-forward blocks.
    drop_prob : float, default=0.1
        Dropout probability of tokens, attention weights and blocks.

    Attributes
    ----------
    features : nn.Identity
        Passes on the features, shape ``(batch, 256 * n_chans)``.
    feature_layers, parameter_groups
        As of :class:`UTime`.

    Raises
    ------
    ValueError
        If ``n_times`` is too short, or the input has another shape.

    References
    ----------
    .. [1] Anandakumar, M., Pradeepkumar, J., Kappel, S. L., Edussooriya, C. U. S. and
       De Silva, A. C. (2022). A knowledge distillation framework for enhancing
       ear-EEG based sleep staging with scalp-EEG data.
    .. [2] Pradeepkumar, J., Anandakumar, M., Kugathasan, V. et al. (2022). Towards
       interpretable sleep stage classification using cross-modal transformers.

    Examples
    --------
    >>> import torch
    >>> from skleepkd.networks import EpochCrossModalTransformer
    >>> network = EpochCrossModalTransformer(n_chans=3, n_times=6000)
    >>> network(torch.zeros(2, 3, 6000)).shape
    torch.Size([2, 5])
    """

    feature_layers = ("features",)
    parameter_groups = {  # noqa: RUF012
        "embedding": ("embedding",),
        "intra_modal": ("intra_modal",),
        "cross_modal": ("cross_token", "cross_modal", "feed_forward"),
        "head": ("head",),
    }

    def __init__(
        self,
        n_chans,
        n_times,
        n_outputs=5,
        sfreq=None,
        *,
        num_heads=8,
        dim_feedforward=1024,
        drop_prob=0.1,
    ):
        super().__init__()
        if n_times < WINDOW:
            raise ValueError(
                f"n_times is {n_times}, shorter than one window of {WINDOW} samples. At so "
                "low a rate LogPowerNet is a network."
            )
        self.n_chans = n_chans
        self.n_times = n_times
        self.embedding = nn.ModuleList(
            _WindowEmbedding(n_times // WINDOW, drop_prob) for _ in range(n_chans)
        )
        self.intra_modal = nn.ModuleList(
            _AttentionBlock(num_heads, drop_prob) for _ in range(n_chans)
        )
        self.cross_token = nn.Parameter(torch.randn(1, 1, EMBED_DIM))
        self.cross_modal = _AttentionBlock(num_heads, drop_prob)
        self.feed_forward = nn.ModuleList(
            _FeedForwardBlock(dim_feedforward, drop_prob) for _ in range(n_chans)
        )
        self.features = nn.Identity()
        self.head = nn.Linear(EMBED_DIM * n_chans, n_outputs)

    def forward(self, x):
        """Compute logits, (batch, n_outputs), of epochs in microvolts, (batch, n_chans, n_times)."""
        if x.ndim != 3 or x.shape[1:] != (self.n_chans, self.n_times):
            raise ValueError(
                f"The input has shape {tuple(x.shape)}; this network was built for "
                f"(batch, {self.n_chans}, {self.n_times})."
            )
        streams = zip(x.split(1, dim=1), self.embedding, self.intra_modal, strict=True)
        class_tokens = [attend(embed(channel)) for channel, embed, attend in streams]
        cross_token = self.cross_token[:, 0].expand(x.shape[0], -1)  # (batch, 256)
        # (batch, 1 + n_chans, 256)
        fused = self.cross_modal(torch.stack([cross_token, *class_tokens], dim=1))
        features = [feed_forward(fused) for feed_forward in self.feed_forward]
        return self.head(self.features(torch.cat(features, dim=1)))  # (batch, 256 n_chans)


def sinusoidal_position(n_positions, width):
    """Sines and cosines of geometrically spaced wavelengths (Vaswani et al. 2017)."""
    position = torch.arange(n_positions).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = position * rate  # (n_positions, width / 2)
    # (n_positions, width / 2, 2) -> (n_positions, width): sine and cosine alternate
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
