import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skleepkd import SleepStager
from skleepkd.distillation import capture_features
from skleepkd.networks import UTime
from tests.tiny import FAST, SMALL_UTIME, make_pair, n_parameters

ORIGINAL = {
    "filters": (22, 45, 90, 181, 362),
    "pools": (10, 8, 6, 4),
    "up_kernel_sizes": (10, 8, 6, 4),
}
SMALL = {"filters": (2, 4, 8), "pools": (3, 2)}


def random_statistics(network):
    """Give every parameter and running statistic a value that cannot hide a mistake."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.1)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.Conv1d):
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def forward_written_out(weights, x, depth, dilation, pools):
    """The network of the paper for epochs that every pool divides, in plain functions."""

    def unit(x, name, dilation=1):
        weight = weights[f"{name}.0.weight"]
        padding = dilation * (weight.shape[2] - 1) // 2
        x = F.conv1d(x, weight, weights[f"{name}.0.bias"], 1, padding, dilation).relu()
        mean, var = weights[f"{name}.2.running_mean"], weights[f"{name}.2.running_var"]
        x = (x - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
        return x * weights[f"{name}.2.weight"][:, None] + weights[f"{name}.2.bias"][:, None]

    skips = []
    for k in range(depth):
        x = unit(unit(x, f"encoder.{k}.0", dilation), f"encoder.{k}.1", dilation)
        skips.append(x)
        # (batch, filters, times) -> (batch, filters, windows, pool)
        x = x.unflatten(2, (-1, pools[k])).amax(dim=3)
    x = unit(unit(x, "bottom.0"), "bottom.1")
    for k in range(depth):
        level = depth - 1 - k
        x = unit(x.repeat_interleave(pools[level], dim=2), f"decoder.{k}.up")
        x = torch.cat([skips[level], x], dim=1)
        for half in range(2):
            x = unit(x, f"decoder.{k}.convolutions.{half}")
    scores = F.conv1d(x, weights["dense.0.weight"], weights["dense.0.bias"]).tanh()
    classifier = weights["classifier.weight"][..., 0]
    return scores.mean(dim=2) @ classifier.T + weights["classifier.bias"]


@pytest.mark.parametrize(("n_outputs", "published"), [(4, 4_813_240), (3, 4_813_215)])
def test_published_parameter_counts(n_outputs, published):
    network = UTime(1, 6000, n_outputs)
    assert n_parameters(network) == published
    assert n_parameters(network.encoder) + n_parameters(network.bottom) == 2_626_288
    assert n_parameters(network.decoder) == 2_186_864
    assert n_parameters(network.dense) == 17 * n_outputs
    assert n_parameters(network.classifier) == n_outputs * (n_outputs + 1)


def test_published_shapes_of_the_layers_of_attention_transfer():
    network = UTime(1, 6000, 4).eval()
    assert len(set(network.feature_layers)) == 12  # every layer once
    with torch.no_grad(), capture_features(network, network.feature_layers) as seen:
        network(torch.randn(1, 1, 6000))
    encoder = [(16, 2000), (32, 1000), (64, 500), (128, 250), (256, 125)]
    decoder = [(256, 250), (128, 500), (64, 1000), (32, 2000), (16, 6000)]
    expected = {
        **{f"pools.{k}": shape for k, shape in enumerate(encoder)},
        **{f"decoder.{k}": shape for k, shape in enumerate(decoder)},
        "bottom": (512, 125),
        "dense": (4, 6000),
    }
    assert {name: tuple(value.shape[1:]) for name, value in seen.items()} == expected
    assert seen["dense"].abs().max() <= 1
    # 19,750 moments, all maps together
    assert sum(value.shape[2] for value in seen.values()) == 19_750


def test_outputs_are_those_of_the_paper_written_out():
    torch.manual_seed(0)
    network = random_statistics(UTime(2, 240, 4).double())
    x = torch.randn(3, 2, 240, dtype=torch.float64)
    expected = forward_written_out(network.state_dict(), x, 5, 2, (3, 2, 2, 2, 2))
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


def test_a_step_of_the_bottom_sees_1168_samples():
    network = UTime(1, 6000, filters=(1,) * 6).double().eval()
    # Positive weights let nothing be cut off by a rectifier; the mean, unlike the
    # maximum, has a gradient everywhere in its window.
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.5)
    network.pools = nn.ModuleList(nn.AvgPool1d(pool.kernel_size) for pool in network.pools)
    x = torch.ones(1, 1, 6000, dtype=torch.float64, requires_grad=True)
    with capture_features(network, ["bottom"]) as seen:
        network(x)
    seen["bottom"][0, 0, 60].backward()
    seen_samples = x.grad[0, 0].nonzero()
    assert seen_samples.max() - seen_samples.min() + 1 == 1168


@pytest.mark.parametrize("sfreq", [50, 64, 100, 128, 200, 256])
def test_any_sampling_rate_reads_every_sample(sfreq):
    torch.manual_seed(0)
    n_times = 30 * sfreq  # 48 samples to a step divide them at 64, 128, 200 and 256 Hz
    network = UTime(1, n_times, 3, sfreq=sfreq, filters=(2, 2, 2, 2, 2, 2)).double().eval()
    x = torch.randn(2, 1, n_times, dtype=torch.float64, requires_grad=True)
    output = network(x)
    assert output.shape == (2, 3)
    output.square().sum().backward()
    assert (x.grad != 0).any(0).all()


def test_original_u_time():
    torch.manual_seed(0)
    network = UTime(1, 3000, **ORIGINAL).eval()
    for level, pool in zip(network.decoder, (4, 6, 8, 10), strict=True):
        convolution = next(m for m in level.up if isinstance(m, nn.Conv1d))
        assert convolution.kernel_size == (pool,)
    with torch.no_grad():
        assert network(torch.randn(1, 35, 1, 3000)).shape == (1, 5, 35)
        assert network(torch.randn(2, 1, 3000)).shape == (2, 5)


def test_consecutive_epochs_are_one_long_signal():
    torch.manual_seed(0)
    network = random_statistics(UTime(2, 100, 3, **SMALL).double())
    x = torch.randn(4, 5, 2, 100, dtype=torch.float64)
    output = network(x)
    assert output.shape == (4, 3, 5)
    joined = torch.cat(list(x.unbind(1)), dim=2)  # (batch, channels, epochs * times)
    with capture_features(network, ["dense"]) as seen:
        network.segment(joined, 100)
    for epoch in range(5):
        scores = seen["dense"][:, :, 100 * epoch : 100 * (epoch + 1)].mean(dim=2)
        expected = network.classifier(scores[:, :, None])[..., 0]
        torch.testing.assert_close(output[:, :, epoch], expected)
    # A neighbour is seen, a distant epoch is not.
    changed = x.clone()
    changed[:, 1] += 1
    difference = (network(changed) - output).abs().amax(dim=(0, 1))
    assert (difference[:3] > 0).all()
    assert (difference[3:] == 0).all()
    assert network(x[:, :1]).shape == (4, 3, 1)
    torch.testing.assert_close(network(x[:, :1])[..., 0], network(x[:, 0]))


def test_finer_outputs_average_to_the_epochs():
    torch.manual_seed(0)
    network = random_statistics(UTime(1, 1500, 4, **SMALL).double())
    x = torch.randn(2, 1, 1500, dtype=torch.float64)
    every_second = network.segment(x, 50)
    assert every_second.shape == (2, 4, 30)
    assert every_second.std(dim=2).min() > 0
    torch.testing.assert_close(every_second.mean(dim=2), network(x))


def test_initial_weights():
    network = UTime(1, 6000)
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            fan = sum(module.weight.shape[:2]) * module.weight.shape[2]
            largest = module.weight.abs().max().item()
            assert largest <= (6 / fan) ** 0.5
            assert not module.bias.any()


def test_as_a_stager_by_name():
    X, y = make_pair(n_subjects=2, n_epochs=8)
    net = SleepStager("UTime", **SMALL_UTIME, **FAST).fit(X, y)
    assert net.predict_proba(X).shape == (16, 5)
    assert net.extract_features(X).shape == (16, 8, 10)  # the bottleneck
