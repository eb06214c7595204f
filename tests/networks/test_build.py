import pytest
import torch
from torch import nn

from skleepkd import networks
from skleepkd.distillation import capture_features
from skleepkd.networks.build import (
    feature_layers,
    find_network,
    network_name,
    parameter_groups,
    segment,
)
from tests.tiny import TinyNetwork


def test_declared_layers_and_groups():
    net = TinyNetwork(1, 20, 2)
    assert feature_layers(net) == ("features",)
    assert parameter_groups(net)["head"] == ("head",)
    with pytest.raises(ValueError, match="layers=.*Its layers are: 0"):
        feature_layers(nn.Sequential(nn.Linear(2, 2)))


def test_braindecodes_own_u_sleep_is_known():
    models = pytest.importorskip("braindecode.models")
    assert find_network("USleep") is networks.USleep
    assert find_network("braindecode.USleep") is models.USleep
    for kind in (networks.USleep, models.USleep, networks.UTime, models.EEGNet):
        assert find_network(network_name(kind)) is kind
    assert network_name(TinyNetwork) is None
    with pytest.raises(ValueError, match="No network"):
        find_network("braindecode.EEGNet")
    net = models.USleep(n_chans=3, n_times=6000, sfreq=200, time_conv_size_s=9 / 200)
    assert type(net) is models.USleep
    (layer,) = feature_layers(net)
    with capture_features(net, [layer]) as seen:
        net(torch.zeros(1, 3, 6000))
    assert seen[layer].shape == (1, 6, 6000)  # SPEC A3: the map before the head
    groups = [prefix for prefixes in parameter_groups(net).values() for prefix in prefixes]
    assert all(name.startswith(tuple(groups)) for name, _ in net.named_parameters())


def test_segments_of_a_network_of_ones_own_and_of_a_compiled_one():
    class Segmenting(nn.Module):
        def segment(self, x, step):
            return x[..., ::step]

    own, compiled = Segmenting(), nn.Module()
    compiled._orig_mod = own
    for module in (own, compiled):
        assert segment(module, torch.zeros(2, 3, 60), 20).shape == (2, 3, 3)

    class USleep(nn.Module):  # of that name, and not braindecode's
        pass

    with pytest.raises(ValueError, match="USleep predicts whole epochs alone"):
        segment(USleep(), torch.zeros(1, 1, 60), 2)
