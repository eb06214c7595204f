import pytest
import torch
import torch.nn.functional as F

from skleepkd import FineTunedSleepStager, SleepStager
from skleepkd.distillation import capture_features
from skleepkd.networks import LogPowerNet
from tests.tiny import make_pair, n_parameters


def written_out(weights, x, step, seconds):
    """Features of the network in plain functions; its normalisation is at its start."""
    kernel = weights["filters.weight"]
    x = F.conv1d(x, kernel, weights["filters.bias"], step, kernel.shape[2] // 2)
    # (batch, filters, steps) -> (batch, filters, seconds, steps of a second)
    power = x.unfold(2, seconds, seconds).square().mean(dim=3)
    x = (power + 0.01).log() / (1 + 1e-5) ** 0.5
    x = F.conv1d(x, weights["seconds.0.weight"], weights["seconds.0.bias"], padding=2)
    x = F.conv1d(
        x.relu(), weights["seconds.2.weight"], weights["seconds.2.bias"], padding=1
    )
    return torch.cat([x.relu().mean(dim=2), x.relu().amax(dim=2)], dim=1)


@pytest.mark.parametrize(
    ("sfreq", "step", "seconds", "expected_size"),
    [(64.0, 4, 16, 15_701), (100.0, 6, 17, 16_997), (128.0, 8, 16, 18_005)],
)
def test_outputs_are_those_of_plain_functions(sfreq, step, seconds, expected_size):
    torch.manual_seed(0)
    network = LogPowerNet(3, round(30 * sfreq), 5, sfreq).double().eval()
    x = torch.randn(2, 3, round(30 * sfreq), dtype=torch.float64)
    with torch.no_grad(), capture_features(network, network.feature_layers) as seen:
        logits = network(x)
    expected = written_out(network.state_dict(), x, step, seconds)
    torch.testing.assert_close(seen["features"], expected)
    torch.testing.assert_close(logits, network.head(expected).detach())
    assert logits.shape == (2, 5)
    assert n_parameters(network) == expected_size


def test_a_stager_finds_it_by_name_and_trains_its_parts():
    X, y = make_pair(n_subjects=2, n_epochs=20)
    stager = SleepStager("LogPowerNet", module__n_filters=4, max_epochs=1, random_state=0)
    stager.fit(X.source_epochs, y)
    assert type(stager.module_) is LogPowerNet
    assert stager.extract_features(X.source_epochs).shape == (40, 96)
    tuned = FineTunedSleepStager(stager, trainable=("head",), max_epochs=1, random_state=0)
    tuned.fit(X, y)
    moved = {
        name.split(".")[0]
        for name, parameter in tuned.module_.named_parameters()
        if not torch.equal(parameter, tuned.pretrained_.module_.get_parameter(name))
    }
    assert moved == {"head"}
