import pytest
import torch
from torch import nn

from skleepkd import networks
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


def test_names_of_networks():
    models = pytest.importorskip("braindecode.models")
    assert find_network("USleep") is networks.USleep
    assert find_network("braindecode.USleep") is models.USleep
    for kind in (networks.USleep, models.USleep, networks.UTime, models.EEGNet):
        assert find_network(network_name(kind)) is kind
    assert network_name(TinyNetwork) is None
    with pytest.raises(ValueError, match="No network"):
        find_network("braindecode.EEGNet")


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
