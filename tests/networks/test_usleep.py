import numpy as np
import pytest
import torch

from skleepkd import PairedEpochs, SleepStager
from skleepkd.networks.build import segment
from tests.tiny import FAST, noise

pytest.importorskip("braindecode")


def stager(**params):
    return SleepStager("USleep", **{**FAST, "max_epochs": 0, **params})


def test_u_sleep_of_the_paper():
    rng = np.random.default_rng(0)
    X = PairedEpochs(30 * rng.standard_normal((2, 3, 6000), np.float32))
    net = stager(classes="aasm").fit(X, [0, 1])
    # SPEC: three channels at 200 Hz, 9 samples a kernel.
    assert sum(p.numel() for p in net.module_.parameters()) == 3_114_391
    assert net.module_.encoder_blocks[0].block_prepool[0].kernel_size == (9,)
    assert net.extract_features(X).shape == (2, 6, 6000)  # the map before the head
    epochs = torch.from_numpy(X["target"])
    with torch.no_grad():
        joined = epochs.movedim(0, 1).reshape(1, 3, 12000)
        assert segment(net.module_, joined, 4000).shape == (1, 5, 3)
        by_epoch = net.module_(epochs[None])
        torch.testing.assert_close(segment(net.module_, joined, 6000), by_epoch)


@pytest.mark.parametrize("sfreq", [64, 128, 256])
def test_u_sleep_works_at_every_rate(sfreq):
    X, y = noise(1, 30 * sfreq, sfreq=sfreq)
    net = stager(module__depth=2).fit(X["target"][:2], y[:2])
    assert net.module_.encoder_blocks[0].block_prepool[0].kernel_size == (9,)
    assert net.predict(X["target"][:2]).shape == (2,)


def test_predictions_of_a_step_are_its_layers_with_another_mean():
    X, y = noise(2, 60, sfreq=2.0)
    network = stager(module__depth=2, module__n_time_filters=2).fit(X, y).module_.eval()
    x = torch.randn(3, 2, 150)  # two epochs and a half
    with torch.no_grad():
        residuals, z = [], x
        for block in network.encoder_blocks:
            z, residual = block(z)
            residuals.append(residual)
        z = network.bottom(z)
        for block in network.decoder_blocks:
            z = block(z, residuals.pop())
        z = network.clf[1](network.clf[0](z))  # (3, filters, 150)
        for step in (1, 2, 40, 60, 100):
            n = 150 // step
            # (3, filters, times) -> (3, filters, n, step)
            means = z[..., : n * step].unflatten(2, (n, step)).mean(dim=3)
            output = segment(network, x, step)
            assert output.shape == (3, 5, n)
            torch.testing.assert_close(output, network.final_layer(means))
        # Nothing of it stays: an epoch is predicted as before.
        epoch = x[..., :60]
        assert network(epoch).shape == (3, 5)
        torch.testing.assert_close(segment(network, epoch, 60)[..., 0], network(epoch))
