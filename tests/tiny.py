"""Tiny networks, pairs and recordings; a module, so that worker processes can import them."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from skleepkd import PairedEpochs

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
#: Of students that follow features alone, and begin anew.
FEATURES = {"feature_loss": "mse", "alpha": 0.0, "start_from_teacher": False}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}
SMALL_SEQSLEEPNET = {
    f"module__{name}": 4 for name in ("hidden_size", "n_filters", "attention_size")
}
NAMES = np.array(["W", "N1", "N2", "N3", "REM"])


class TinyNetwork(nn.Module):
    """Log power of a few filters: learns stages that differ in power within a second."""

    feature_layers = ("features",)
    parameter_groups = {"filters": ("filters", "norm"), "head": ("head",)}  # noqa: RUF012

    def __init__(self, n_chans, n_times, n_outputs, sfreq=None, n_filters=4, dropout=0.0):
        super().__init__()
        self.filters = nn.Conv1d(n_chans, n_filters, 5, padding=2)
        self.norm = nn.BatchNorm1d(n_filters)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_filters, n_outputs)

    def forward(self, x):
        power = self.norm(self.filters(x).square().mean(dim=2).add(1e-3).log())
        return self.head(self.dropout(self.features(power)))


class NeverTrained(nn.Module):
    """Stands for a network whose training takes hours."""

    def forward(self, x):
        if self.training:
            raise AssertionError("A network was trained before the mistake was found.")
        return super().forward(x)


class NeverTiny(NeverTrained, TinyNetwork):
    """A teacher that must not be fitted."""


def nights_of(target, source, n_subjects, name, **columns):
    """A pair of equally long nights, one of each subject."""
    n_epochs = len(target) // n_subjects
    subject = np.repeat([name.format(k) for k in range(n_subjects)], n_epochs)
    columns = {"subject": subject, "recording": np.char.add("night-", subject), **columns}
    onset = np.tile(30.0 * np.arange(n_epochs), n_subjects)
    target, source = (x if x is None else x.astype(np.float32) for x in (target, source))
    return PairedEpochs(target, source=source, onset=onset, **columns)


def make_pair(
    n_subjects=6,
    n_epochs=24,
    n_times=60,
    n_chans=2,
    seed=0,
    classes=5,
    every=False,
    name="s{}",
):
    """Epochs whose power shows the stage, clearly in the source, dimly in the target."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_epochs
    y = rng.integers(0, classes, n)
    if every:  # stage is there, however short the nights
        y[:classes] = range(classes)
    scale = 5.0 * 1.8 ** y[:, None, None]
    source = scale * rng.standard_normal((n, n_chans, n_times))
    target = 0.5 * source + 10 * rng.standard_normal((n, n_chans, n_times))
    return nights_of(target, source, n_subjects, name, sfreq=2.0), y


def make_spectra(n_subjects=4, n_epochs=16, name="target-{}", seed=0):
    """Standardised spectra of nights, brighter in one bin for each stage, with a source."""
    rng = np.random.default_rng(seed)
    n = n_subjects * n_epochs
    y = rng.integers(0, 5, n)
    y[:5] = range(5)
    target, source = rng.standard_normal((2, n, 1, 6, 17))
    target[np.arange(n), :, :, 2 + 2 * y] += 1
    source[np.arange(n), :, :, 2 + 2 * y] += 2
    return nights_of(target, source, n_subjects, name, sfreq=100.0), y


def noise(*shape, sfreq, source=None, **columns):
    """Nine epochs of noise of each of two subjects, and their stages."""
    rng = np.random.default_rng(0)
    target = 30 * rng.standard_normal((18, *shape), dtype=np.float32)
    source = source and 50 * rng.standard_normal((18, *source), dtype=np.float32)
    X = nights_of(target, source, 2, "s{}", sfreq=sfreq, **columns)
    return X, np.tile([0, 1, 2, 3, 4, 4, 1, 0, 2], 2)


class TinySequenceNetwork(nn.Module):
    """Encodes epochs one by one, then looks along the sequence, as SeqSleepNet does."""

    feature_layers = ("sequence_encoder",)
    parameter_groups = {  # noqa: RUF012
        "epoch_encoder": ("filters", "norm"),
        "sequence_encoder": ("sequence_encoder",),
        "head": ("head",),
    }
    encoded = 0  # epochs that passed the encoder in evaluation

    def __init__(self, n_chans, n_times, n_outputs, n_filters=4):
        super().__init__()
        self.filters = nn.Conv1d(n_chans, n_filters, 5, padding=2)
        self.norm = nn.LayerNorm(n_filters)
        self.sequence_encoder = nn.GRU(n_filters, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, n_outputs)

    def encode_epochs(self, x):
        if not self.training:
            type(self).encoded += len(x)
        return self.norm(self.filters(x).square().mean(dim=2).add(1e-3).log())

    def classify_sequence(self, features):
        seen, _ = self.sequence_encoder(features)
        return self.head(seen).transpose(1, 2)  # (batch, n_outputs, sequence)

    def forward(self, x):
        if x.ndim == 3:
            return self.forward(x[:, None])[..., 0]
        features = self.encode_epochs(x.flatten(0, 1))  # (batch * sequence, n_filters)
        return self.classify_sequence(features.unflatten(0, x.shape[:2]))


def weights(net):
    """Copies of a stager's or a network's weights, by name."""
    state = getattr(net, "module_", net).state_dict()
    return {name: value.clone() for name, value in state.items()}


def same(first, second):
    """Whether two stagers, networks or sets of weights are equal, bit for bit."""
    first, second = (x if isinstance(x, dict) else weights(x) for x in (first, second))
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


class Stop(Callback):
    """Counts passes, and stops the program in the batch after so many of them."""

    after = None
    passes = 0

    def on_batch_end(self, net, training=False, **kwargs):
        if training and self.after is not None and len(net.history) > self.after:
            raise KeyboardInterrupt

    def on_epoch_end(self, net, **kwargs):
        Stop.passes += 1


def random_tensors(*shape, seed=0):
    """Two tensors of normal numbers, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64).unbind()


def value_and_gradient(loss, student, *others):
    """A loss and its gradient for the student, which are seen to be finite."""
    value = loss(student.requires_grad_(), *others)
    (gradient,) = torch.autograd.grad(value, student)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    return value.item(), gradient


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def numbered(n_epochs=12, **changes):
    """Build a pair whose every value and column tells its row."""
    row = np.arange(n_epochs)
    given = {
        "target": np.tile(row[:, None, None], (1, 2, 5)).astype(np.float32),
        "source": 1000 + np.tile(row[:, None, None], (1, 3, 7)).astype(np.float32),
        "subject": [f"s{k // 4}" for k in row],
        "recording": [f"night{k // 3}" for k in row],
        "onset": 30.0 * row,
        "sfreq": {"target": 5, "source": 7},
        "ch_names": {"target": ["L", "R"], "source": ["C3", "C4", "O1"]},
    }
    return PairedEpochs(**{**given, **changes})


# ---------------------------------------------------------------- recordings


def raw_of(values, names, sfreq=10.0, kinds="eeg", **options):
    """A recording of these values in volts, (n_channels, n_times)."""
    import mne

    info = mne.create_info(list(names), sfreq, kinds)
    return mne.io.RawArray(values, info, verbose=False, **options)


def recording(
    names=("C3",), kinds="eeg", *, seconds=240.0, sfreq=10.0, spread=2e-5, seed=0
):
    """A recording of noise."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((len(names), round(seconds * sfreq)))
    values *= np.broadcast_to(spread, len(names))[:, None]
    return raw_of(values, names, sfreq, kinds)


def windows_of(*raws, descriptions=None, **options):
    """Cut recordings into braindecode's windows of 30 s."""
    from braindecode.datasets import BaseConcatDataset, RawDataset
    from braindecode.preprocessing import create_fixed_length_windows

    descriptions = descriptions or [{"subject": k} for k in range(len(raws))]
    size = round(30 * raws[0].info["sfreq"])
    return create_fixed_length_windows(
        BaseConcatDataset(list(map(RawDataset, raws, descriptions))),
        window_size_samples=size,
        window_stride_samples=size,
        on_last_window="drop",
        drop_last_window=None,
        **options,
    )


def pair_of(raw, annotations=None, **options):
    """Cut a pair of which both signals are one recording."""
    return PairedEpochs.from_raws(
        target_raw=raw, source_raw=raw, annotations=annotations, **options
    )


def annotated(*rows, **options):
    """Annotations of rows (onset, duration, text)."""
    import mne

    onset, duration, text = zip(*rows, strict=True)
    return mne.Annotations(onset, duration, text, **options)


def raises(match, error=ValueError):
    return pytest.raises(error, match=match)
