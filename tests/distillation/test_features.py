import pytest
import torch
from torch import nn

from skleepkd.distillation import capture_features
from tests.tiny import TinyNetwork


def test_features_are_what_the_layer_returns():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with capture_features(net, ["1", "output"]) as seen:
        output = net(x)
    assert torch.equal(seen["1"], net[1](net[0](x)))
    assert torch.equal(seen["output"], output)


def test_no_hook_stays():
    net = TinyNetwork(2, 60, 5)
    with capture_features(net, ["filters"]):
        net(torch.zeros(2, 2, 60))
    with pytest.raises(RuntimeError), capture_features(net, ["filters"]):
        raise RuntimeError
    assert not any(module._forward_hooks for module in net.modules())


def test_first_tensor_of_a_tuple():
    net = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    with capture_features(net, ["0"]) as seen:
        output, _ = net(torch.randn(2, 6, 3))
    assert torch.equal(seen["0"], output)


def test_gradient_flows_through_features():
    net = TinyNetwork(1, 20, 2)
    with capture_features(net, ["features"]) as seen:
        net(torch.randn(3, 1, 20))
    seen["features"].sum().backward()
    assert net.norm.bias.grad.abs().sum() > 0
    assert net.head.weight.grad is None


def test_unknown_and_unreached_layers():
    net = TinyNetwork(1, 20, 2)
    net.spare = nn.Linear(2, 2)
    with (
        pytest.raises(ValueError, match="no layer 'nope'.*filters, norm"),
        capture_features(net, ["nope"]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="'spare'.*not reached"),
        capture_features(net, ["spare"]),
    ):
        net(torch.randn(3, 1, 20))
