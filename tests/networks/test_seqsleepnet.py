import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skleepkd import PairedEpochs, SleepStager
from skleepkd.distillation import capture_features
from skleepkd.networks import SeqSleepNet
from skleepkd.networks.build import parameter_groups
from skleepkd.networks.seqsleepnet import triangular_filters
from tests.tiny import n_parameters

#: Bins of the triangles' corners at 100 Hz and 129 bins, from the published code.
CORNERS = [0, 3, 7, 11, 15, 19, 23, 27, 31, 35, 38, 42, 46, 50, 54, 58, 62, 66, 70, 73, 77]
CORNERS += [81, 85, 89, 93, 97, 101, 105, 109, 112, 116, 120, 124, 128]


def small(n_chans=1, **options):
    """A network of few weights, in double precision."""
    torch.manual_seed(0)
    sizes = {"n_bins": 17, "n_filters": 5, "hidden_size": 3, "attention_size": 4}
    return SeqSleepNet(n_chans, 6, 4, **{**sizes, **options}).double()


def spectrograms(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


# ---------------------------------------------------------------- published numbers


def test_published_parameter_counts():
    assert n_parameters(SeqSleepNet(1, 29)) == 125_221
    assert n_parameters(SeqSleepNet(1, 29, projections=True)) == 158_245


@pytest.mark.parametrize("projections", [False, True])
def test_groups_share_out_all_parameters(projections):
    network = SeqSleepNet(1, 29, projections=projections)
    sizes = dict.fromkeys(parameter_groups(network), 0)
    for name, parameter in network.named_parameters():
        (owner,) = (
            group
            for group, prefixes in network.parameter_groups.items()
            if name.startswith(tuple(f"{prefix}." for prefix in prefixes))
        )
        sizes[owner] += parameter.numel()
    # Input, recurrent weights and both biases of three gates, in two directions.
    epoch_rnn, sequence_rnn = (2 * 3 * 64 * (n + 64 + 2) for n in (32, 128))
    projection = projections * (128 * 128 + 128)
    assert sizes == {
        "epoch_encoder": 129 * 32 + epoch_rnn + projection + (128 * 64 + 64 + 64),
        "sequence_encoder": sequence_rnn + projection,
        "head": 128 * 5 + 5,
    }


def test_published_filters():
    expected = np.zeros((129, 32))
    for j in range(32):
        left, peak, right = CORNERS[j : j + 3]
        for i in range(left, peak):
            expected[i, j] = (i - left) / (peak - left)
        for i in range(peak, right):
            expected[i, j] = (right - i) / (right - peak)
    triangles = triangular_filters(129, 32, 100.0)
    np.testing.assert_allclose(triangles, expected, atol=1e-7)
    assert (triangles > 0).sum() == 217
    assert not triangles[[0, 128]].any()
    assert (triangles.amax(dim=0) == 1).all()


@pytest.mark.parametrize(("sfreq", "n_bins"), [(50, 65), (64, 65), (200, 257), (256, 257)])
def test_filters_at_other_rates(sfreq, n_bins):
    """Peaks lie evenly in hertz, within the width of a bin, and neighbours add up to 1."""
    highest = min(50, sfreq / 2)
    triangles = triangular_filters(n_bins, 16, sfreq)
    peaks = triangles.argmax(dim=0) * sfreq / (2 * (n_bins - 1))
    bin_width = sfreq / (2 * (n_bins - 1))
    np.testing.assert_allclose(peaks, np.linspace(0, highest, 18)[1:-1], atol=bin_width)
    frequencies = np.arange(n_bins) * bin_width
    assert not triangles[frequencies > highest].any()
    first, last = triangles.argmax(dim=0)[[0, -1]]
    sums = triangles[first : last + 1].sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


# ---------------------------------------------------------------- what it computes


def by_hand(network, sequence):
    """Logits (sequence, classes) of one sequence of epochs, by numpy and torch's own GRU."""
    values = {name: p.detach().numpy() for name, p in network.named_parameters()}
    triangles = network.filterbank.triangles.numpy()

    def linear(name, x):
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    def both_ways(name, x):
        own = {n: p for n, p in network.state_dict().items() if n.startswith(name)}
        rnn = nn.GRU(x.shape[1], 3, batch_first=True, bidirectional=True).double()
        rnn.load_state_dict({n.removeprefix(f"{name}."): p for n, p in own.items()})
        return rnn(torch.from_numpy(x))[0].detach().numpy()

    features = []
    for epoch in sequence.numpy():
        filtered = [
            channel @ (triangles / (1 + np.exp(-weight)))
            for channel, weight in zip(epoch, values["filterbank.weight"], strict=True)
        ]
        frames = both_ways("epoch_rnn", np.hstack(filtered))
        if "epoch_projection.weight" in values:
            frames = linear("epoch_projection", frames)
        hidden = np.tanh(linear("attention.hidden", frames))
        scores = np.exp(hidden @ values["attention.context"])
        features.append((scores / scores.sum()) @ frames)
    epochs = both_ways("sequence_rnn", np.array(features))
    if "sequence_projection.weight" in values:
        epochs = linear("sequence_projection", epochs)
    return linear("head", epochs)


@pytest.mark.parametrize("projections", [False, True])
@pytest.mark.parametrize("n_chans", [1, 2])
def test_forward_by_its_equations(n_chans, projections):
    network = small(n_chans, projections=projections).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7)  # initial values are small, and hide mistakes
    x = spectrograms(3, 4, n_chans, 6, 17)
    expected = np.stack([by_hand(network, sequence).T for sequence in x])
    np.testing.assert_allclose(network(x).detach(), expected, rtol=1e-6, atol=1e-8)


def test_one_network_reads_any_number_of_epochs():
    network = small().eval()
    x = spectrograms(2, 23, 1, 6, 17)
    for length in (1, 2, 20, 23):
        assert network(x[:, :length]).shape == (2, 4, length)
    # Single epochs are sequences of one.
    torch.testing.assert_close(network(x[:, 5]), network(x[:, 5:6])[..., 0])
    torch.testing.assert_close(network(x[:1]), network(x)[:1])


def test_epochs_encoded_once_predict_as_if_encoded_in_each_sequence():
    network = SeqSleepNet(1, 29).eval()
    night = torch.randn(12, 1, 29, 129, generator=torch.Generator().manual_seed(0))
    windows = torch.arange(12).unfold(0, 5, 1)  # (8, 5)
    with torch.no_grad():
        once = network.classify_sequence(network.encode_epochs(night)[windows])
        again = network(night[windows])
    torch.testing.assert_close(once, again, rtol=0, atol=1e-6)


def test_neighbours_matter_on_both_sides():
    network = small().eval()
    x = spectrograms(1, 3, 1, 6, 17)
    output = network(x)
    for neighbour in (0, 2):
        changed = x.clone()
        changed[:, neighbour] += 1
        assert (network(changed) - output)[0, :, 1].abs().max() > 1e-6


def test_dropout_before_and_after_both_recurrent_networks():
    network = SeqSleepNet(1, 29)
    assert network.dropout.p == 0.25
    seen = []
    network.dropout.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    network(torch.zeros(2, 3, 1, 29, 129))
    assert seen == [(6, 29, 32), (6, 29, 128), (2, 3, 128), (2, 3, 128)]
    # Nothing else differs between training and use.
    network = small(drop_prob=0.0)
    x = spectrograms(2, 3, 1, 6, 17)
    torch.testing.assert_close(network(x), network.eval()(x), rtol=0, atol=0)


def test_initial_weights():
    torch.manual_seed(0)
    network = SeqSleepNet(1, 29)
    with torch.no_grad():
        for weights, spread in (
            (network.filterbank.weight, 1.0),
            (network.attention.hidden.weight, 0.1),
        ):
            assert weights.mean() == pytest.approx(0, abs=0.05 * spread)
            assert weights.std() == pytest.approx(spread, rel=0.05)


def test_features_are_the_sequence_encoders_output():
    network = small().eval()
    x = spectrograms(2, 3, 1, 6, 17)
    with capture_features(network, network.feature_layers) as seen:
        output = network(x)
    (features,) = seen.values()
    assert features.shape == (2, 6, 3)  # time last, as losses expect it
    logits = network.head(features.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(logits, output)


# ---------------------------------------------------------------- its place


def test_only_parameters_are_state():
    network = small()
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_published_weight_decay():
    """One step of Adam on a mean with L2 of lambda / batch, against the published sum."""
    rng = np.random.default_rng(0)
    batch, weight = 8, 0.5  # a weight that one step shows
    X = PairedEpochs(rng.normal(size=(batch, 1, 6, 17)).astype("float32"), sfreq=100.0)
    y = np.arange(batch) % 4
    options = {"n_bins": 17, "n_filters": 5, "drop_prob": 0.0}
    options = {f"module__{name}": value for name, value in options.items()}
    options |= {
        "optimizer__eps": 1.0,  # a step as smooth as the gradient
        "optimizer__weight_decay": weight / batch,
        "optimizer__param_groups": [("filterbank*", {"weight_decay": 0.0})],
    }
    options |= {"batch_size": batch, "max_epochs": 0, "random_state": 0, "lr": 0.1}
    stager = SleepStager(SeqSleepNet, **options)
    network = stager.fit(X, y).module_
    logits = network(torch.from_numpy(X["target"]))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="sum")
    for name, parameter in network.named_parameters():
        if name != "filterbank.weight":
            loss = loss + weight * 0.5 * parameter.square().sum()
    (loss / batch).backward()

    stepped = clone(stager).set_params(max_epochs=1).fit(X, y).module_
    for name, before in network.named_parameters():
        after = stepped.get_parameter(name)
        # Adam's first step: the mean of gradients over the root of their squares' mean.
        step = 0.1 * before.grad / (before.grad.abs() + 1.0)
        torch.testing.assert_close(after, before - step, rtol=1e-5, atol=1e-6, msg=name)
