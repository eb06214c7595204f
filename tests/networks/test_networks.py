"""What every network of the library does alike."""

import pickle

import pytest
import torch
from braindecode import models

from skleepkd import networks
from skleepkd.networks import EpochCrossModalTransformer, LogPowerNet, SeqSleepNet, UTime
from skleepkd.networks.build import feature_layers, parameter_groups

UTIME = {"filters": (2, 4, 8), "pools": (3, 2)}
SEQSLEEPNET = {"n_bins": 17, "n_filters": 5, "hidden_size": 3, "attention_size": 4}
USLEEP = {"n_outputs": 5, "sfreq": 100, "depth": 2, "n_time_filters": 2}
NETWORKS = {
    "UTime": (lambda: UTime(2, 100, **UTIME), (2, 100)),
    "SeqSleepNet": (lambda: SeqSleepNet(2, 6, **SEQSLEEPNET), (2, 6, 17)),
    "projections": (lambda: SeqSleepNet(2, 6, projections=True, **SEQSLEEPNET), (2, 6, 17)),
    "transformer": (lambda: EpochCrossModalTransformer(2, 200), (2, 200)),
    "LogPowerNet": (lambda: LogPowerNet(2, 960, 5, 32.0, n_filters=4), (2, 960)),
    "USleep": (lambda: networks.USleep(n_chans=2, n_times=200, **USLEEP), (2, 200)),
    "braindecode's": (lambda: models.USleep(n_chans=2, n_times=200, **USLEEP), (2, 200)),
}


@pytest.fixture(params=NETWORKS)
def network_and_epochs(request):
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    return make(), torch.randn(6, *shape)


def test_every_parameter_learns_and_belongs_to_one_group(network_and_epochs):
    network, x = network_and_epochs
    network, x, y = network.double(), x.double(), torch.arange(6) % 5
    if isinstance(network, SeqSleepNet):  # two sequences of three epochs
        x, y = x.unflatten(0, (2, 3)), y.view(2, 3)
    torch.nn.functional.cross_entropy(network(x), y).backward()
    for name, parameter in network.named_parameters():
        reached = parameter.grad != 0
        if name == "filterbank.weight":  # but for what lies outside the triangles
            inside = (network.filterbank.triangles > 0).expand_as(reached)
            assert torch.equal(reached, inside)
        else:
            assert reached.any(), name
        owners = [
            group
            for group, prefixes in parameter_groups(network).items()
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
        ]
        assert len(owners) == 1, name


def test_pickle_keeps_the_outputs(network_and_epochs):
    network, x = network_and_epochs
    copy = pickle.loads(pickle.dumps(network.eval()))
    torch.testing.assert_close(copy(x), network(x), rtol=0, atol=0)
    assert feature_layers(copy) == feature_layers(network)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("UTime", [(2, 3, 100), (2, 2, 120), (2, 100), (1, 2, 3, 2, 100)]),
        ("transformer", [(2, 3, 200), (2, 2, 250), (2, 200)]),
        ("SeqSleepNet", [(2, 2, 3000), (2, 1, 6, 17), (2, 2, 6, 18), (2, 3, 2, 7, 17)]),
        ("SeqSleepNet", [(1, 2, 3, 2, 6, 17)]),
    ],
)
def test_unexpected_input(name, shapes):
    make, epoch = NETWORKS[name]
    message = rf"built for .*\(batch, {', '.join(map(str, epoch))}\)"
    for shape in shapes:
        with pytest.raises(ValueError, match=message):
            make()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (UTime, {"n_times": 47}, "shorter than the 48 samples"),
        (UTime, {"n_times": 6000, "pools": (2, 2)}, "6 filters, 2 pools"),
        (UTime, {"n_times": 6000, "up_kernel_sizes": (3,)}, "1 up_kernel_sizes"),
        (UTime, {"n_times": 6000, "pools": (), "filters": (4,)}, "0 pools"),
        (EpochCrossModalTransformer, {"n_times": 49}, "shorter than one window"),
        (SeqSleepNet, {"n_times": 29, "n_bins": 33}, "32 filters do not fit into the 33"),
        (SeqSleepNet, {"n_times": 29, "sfreq": 1000.0}, "into the 13 .* up to 50 Hz"),
    ],
)
def test_unusable_arguments(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        network(1, **arguments)


@pytest.mark.parametrize("name", ["UTime", "transformer", "LogPowerNet"])
def test_exports_with_a_free_batch_size(name):
    make, shape = NETWORKS[name]
    network, x = make().eval(), torch.randn(5, *shape)
    batch = ({0: torch.export.Dim("batch", max=1024)},)
    program = torch.export.export(network, (x[:2],), dynamic_shapes=batch)
    torch.testing.assert_close(program.module()(x), network(x))
