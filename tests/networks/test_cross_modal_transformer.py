import numpy as np
import pytest
import torch
from torch import nn

from skleepkd.distillation import capture_features
from skleepkd.networks import EpochCrossModalTransformer
from skleepkd.networks.cross_modal_transformer import sinusoidal_position
from tests.tiny import n_parameters


def attend_all_tokens(block, tokens):
    """Ordinary self-attention of every token, residual and normalisation."""
    attended, _ = nn.MultiheadAttention.forward(block.attention, tokens, tokens, tokens)
    return block.norm(tokens + attended)


def forward_all_tokens(network, x):
    """The network as published: every token of every stream, to the very end."""
    channels = zip(x.split(1, dim=1), network.embedding, network.intra_modal, strict=True)
    streams = [
        attend_all_tokens(attend, embed(channel)) for channel, embed, attend in channels
    ]
    class_tokens = [stream[:, :1] for stream in streams]
    cross_token = network.cross_token.expand(len(x), 1, -1)
    fused = attend_all_tokens(
        network.cross_modal, torch.cat([cross_token, *class_tokens], dim=1)
    )[:, :1]
    streams = [torch.cat([fused, stream[:, 1:]], dim=1) for stream in streams]
    streams = [
        block.norm(stream + block.layers(stream))
        for block, stream in zip(network.feed_forward, streams, strict=True)
    ]
    features = torch.cat([stream[:, :1] for stream in streams], dim=2)  # (batch, 1, 768)
    return network.head(features.flatten(1))


def test_published_parameter_counts():
    network = EpochCrossModalTransformer(n_chans=3, n_times=6000)
    assert n_parameters(network) == 2_958_853
    for embedding in network.embedding:
        assert n_parameters(embedding) - embedding.class_token.numel() == 107_008


@pytest.mark.parametrize("training", [True, False])
def test_first_token_alone_gives_what_all_tokens_give(training):
    torch.manual_seed(0)
    network = EpochCrossModalTransformer(3, 6000, drop_prob=0.0).double().train(training)
    # nn.MultiheadAttention starts its biases at zero, where a mistake in them hides.
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    x = torch.randn(4, 3, 6000, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 4])

    outputs, gradients = [], []
    for forward in (network, lambda x: forward_all_tokens(network, x)):
        network.zero_grad()
        outputs.append(forward(x))
        nn.functional.cross_entropy(outputs[-1], y).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})

    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 0 for gradient in (gradients[0].values()))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("n_chans", [1, 2, 3, 5])
def test_every_channel_is_used(n_chans):
    torch.manual_seed(0)
    network = EpochCrossModalTransformer(n_chans, 1000).eval()
    x = torch.randn(2, n_chans, 1000)
    output = network(x)
    assert output.shape == (2, 5)
    for channel in range(n_chans):
        changed = x.clone()
        changed[:, channel] = torch.randn(2, 1000)
        assert (network(changed) - output).abs().max() > 1e-4


@pytest.mark.parametrize("sfreq", [64, 100, 128, 200, 256])
def test_any_sampling_rate_reads_all_whole_windows(sfreq):
    torch.manual_seed(0)
    n_times = 30 * sfreq
    network = EpochCrossModalTransformer(1, n_times, sfreq=sfreq).eval()
    x = torch.randn(2, 1, n_times, requires_grad=True)
    assert network.embedding[0](x).shape == (2, 1 + n_times // 50, 256)
    network(x).square().sum().backward()
    read = (x.grad != 0).any(0)[0]
    n_read = n_times // 50 * 50
    assert read[:n_read].all()
    assert not read[n_read:].any()


def test_windows_and_their_order_matter():
    torch.manual_seed(0)
    network = EpochCrossModalTransformer(1, 500).eval()
    x = torch.randn(1, 1, 500)
    reordered = x.reshape(1, 1, 10, 50).flip(2).reshape(1, 1, 500)
    assert (network(x) - network(reordered)).abs().max() > 1e-5


def test_positions_are_sines_and_cosines():
    table = sinusoidal_position(7, 6).numpy()
    position = np.arange(7)
    for i in range(3):
        angle = position / 10000 ** (2 * i / 6)
        np.testing.assert_allclose(table[:, 2 * i], np.sin(angle), atol=1e-6)
        np.testing.assert_allclose(table[:, 2 * i + 1], np.cos(angle), atol=1e-6)


def test_features_are_what_the_head_reads():
    network = EpochCrossModalTransformer(2, 200, n_outputs=4).eval()
    with capture_features(network, network.feature_layers) as seen:
        logits = network(torch.randn(3, 2, 200))
    (features,) = seen.values()
    assert features.shape == (3, 512)
    torch.testing.assert_close(network.head(features), logits)


def test_a_single_epoch_trains_and_predicts():
    network = EpochCrossModalTransformer(3, 200)
    network(torch.randn(1, 3, 200)).sum().backward()
    assert network.eval()(torch.randn(1, 3, 200)).shape == (1, 5)


def test_attention_dropout_matches_torch():
    """With the same weights dropped, both forms of attention agree in training too."""
    torch.manual_seed(0)
    attention = EpochCrossModalTransformer(1, 200).intra_modal[0].attention
    nn.init.normal_(attention.in_proj_bias)
    tokens = torch.randn(2, 5, 256)
    torch.manual_seed(1)
    output = attention(tokens)
    torch.manual_seed(1)
    expected, _ = nn.MultiheadAttention.forward(attention, tokens[:, :1], tokens, tokens)
    torch.testing.assert_close(output, expected[:, 0], rtol=1e-4, atol=1e-5)
