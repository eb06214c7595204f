"""The rows of the speed benchmark: each times our code beside a reference."""

import copy
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _speed_setup import (
    BATCH_SIZE,
    COMMON,
    N_CLASSES,
    measure,
    noise,
    stager_of,
    stages,
    training_pass,
)
from _speed_signals import memmap, recording, spectrogram
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, cross_validate
from torch import nn

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.networks import EpochCrossModalTransformer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

#: Consecutive epochs in a window, as in Phan et al. (2019).
LENGTH = 20


def nights(n_nights, n_epochs):
    """Make spectrograms (noise) of nights, as SeqSleepNet reads them."""
    n = n_nights * n_epochs
    night = np.repeat(np.arange(n_nights), n_epochs)
    epochs = noise(n, 1, 29, 129) / 30
    return PairedEpochs(epochs, subject=night, recording=night, sfreq=100.0)


def sequence_stager(**parameters):
    """Make a stager of sequences."""
    return SleepStager("SeqSleepNet", sequence_length=LENGTH, **COMMON, **parameters)


def night(fast, seconds):
    """Stage a night by SeqSleepNet, each epoch being encoded once."""
    X = nights(1, 60 if fast else 960)
    stager = sequence_stager().fit(X[:40], stages(40))
    epochs = torch.from_numpy(X["target"])
    windows = torch.arange(len(X)).unfold(0, LENGTH, 1)

    @torch.inference_mode()
    def stage_plainly():
        module, log_sums = stager.module_.eval(), torch.zeros(len(X), N_CLASSES)
        for rows in windows.split(BATCH_SIZE):
            log_probs = module(epochs[rows]).log_softmax(dim=1).transpose(1, 2)
            log_sums.index_add_(0, rows.flatten(), log_probs.flatten(0, 1))
        return log_sums.argmax(dim=1).numpy()

    np.testing.assert_array_equal(stager.predict(X), stage_plainly())
    yield measure(
        fast,
        seconds,
        f"SeqSleepNet: a night of {len(X)} epochs staged",
        "each window encoded anew",
        lambda: stager.predict(X),
        stage_plainly,
        at_least=10,
    )


def neighbours(fast, seconds):
    """Train SeqSleepNet on windows that share epochs."""
    X = nights(2, 40) if fast else nights(4, 83)  # 64 windows a night
    y = stages(len(X))
    yield measure(
        fast,
        seconds,
        "SeqSleepNet: a training step, neighbouring_windows=8",
        "shuffled windows, each encoded anew",
        training_pass(sequence_stager(neighbouring_windows=8), X, y),
        training_pass(sequence_stager(), X, y),
        at_least=2.5,
    )


def bare_pass(module, X, y):
    """Return a function that trains a network for a pass by a plain PyTorch loop."""
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def train():
        module.train()
        total = torch.zeros(())
        for rows in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item()

    return train


def signals(fast, n_batches):
    """Make simultaneous epochs of three channels, at 64 Hz unless small."""
    n = BATCH_SIZE * (1 if fast else n_batches)
    target, source = (noise(n, 3, 640 if fast else 1920, seed=k) for k in (2, 3))
    return PairedEpochs(target, source=source), stages(n)


class Built(Exception):
    """Raised where a network would be built."""


def stop(n_chans, n_times, n_outputs):
    """Stand for a network, and stop the fit where it would be built."""
    raise Built


def until_built(stager, X, y):
    """Return a function that fits until the networks are built."""

    def fit():
        with suppress(Built):
            stager.fit(X, y)

    return fit


def door(fast, seconds):
    """Check and convert the input of fit."""
    n = 200 if fast else 20_000
    target, source = (noise(n, 3, 1920, seed=k) for k in (2, 3))
    subject, y = np.repeat([f"s{k}" for k in range(20)], n // 20), stages(n)
    onset = 30.0 * np.tile(np.arange(n // 20), 20)
    about = {"subject": subject, "recording": subject, "onset": onset, "sfreq": 64.0}
    teacher = SleepStager(stop, **COMMON)
    X = PairedEpochs(target, source=source, **about)
    yield measure(
        fast,
        seconds,
        f"What fit does to {n:,} epochs of 3 x 1,920 before the network is built",
        "numpy.sum over the same array",
        until_built(teacher, X.target_epochs, y),
        target.sum,
        at_most=1.5,
    )
    yield measure(
        fast,
        seconds,
        "The same of a distilled student: target and source",
        "numpy.sum over the same arrays",
        until_built(DistilledSleepStager(teacher, **COMMON), X, y),
        lambda: target.sum() + source.sum(),
        at_most=1.5,
    )


def u_sleep(fast, seconds):
    """Train U-Sleep through the stager."""
    X, y = signals(fast, 8)
    stager = stager_of("USleep")
    ours = training_pass(stager, X, y)
    theirs = bare_pass(copy.deepcopy(stager.module_), X["target"], y)
    yield measure(
        fast,
        seconds,
        "U-Sleep: a training pass through SleepStager",
        "a bare PyTorch loop",
        ours,
        theirs,
        at_most=1.10,
        median_at_most=1.03,
    )


def offline(fast, seconds):
    """Distil from a frozen teacher with precomputed outputs, and time computing these."""
    X, y = signals(fast, 8)
    teacher = FrozenEstimator(stager_of("USleep").fit(X.source_epochs, y))
    supervised = training_pass(stager_of("USleep"), X, y)
    strategies = {
        "features": ({}, 1.10),
        "softmax": ({"feature_loss": None, "alpha": 0.5}, 1.10),
        "attention": ({"feature_loss": "attention"}, 1.20),
    }
    for name, (parameters, bound) in strategies.items():
        student = DistilledSleepStager(teacher, **parameters, **COMMON)
        yield measure(
            fast,
            seconds,
            f"U-Sleep: a pass of offline distillation by {name}",
            "a supervised pass",
            training_pass(student, X, y),
            supervised,
            at_most=bound,
        )
    student = DistilledSleepStager(teacher, **COMMON).fit(X, y)
    yield measure(
        fast,
        seconds,
        "U-Sleep: the teacher asked once for its features",
        "a supervised pass",
        lambda: student.strategy_.prepare(student, X, y),
        supervised,
        note="once a fit; asked anew in each pass it would add this to each",
    )


#: A U-Time of fewer than 50,000 parameters at any rate, and the layers that it compares
#: with U-Sleep's.
SMALL = {"module": "UTime", "module__filters": (6, 8, 12, 16, 24, 32)}
LAST_MAPS = [("decoder.4", "decoder_blocks.11")]


def adapters(fast, seconds):
    """Distil through adapters, and stage epochs by a small student."""
    X, y = signals(fast, 8)
    teacher = FrozenEstimator(stager_of("USleep").fit(X.source_epochs, y))
    through = {"adapter": "linear", **COMMON}
    yield measure(
        fast,
        seconds,
        "U-Sleep: a pass of offline distillation by features through an adapter",
        "without the adapter",
        training_pass(DistilledSleepStager(teacher, **through), X, y),
        training_pass(DistilledSleepStager(teacher, **COMMON), X, y),
        at_most=1.10,
    )
    student = DistilledSleepStager(teacher, **SMALL, layers=LAST_MAPS, **through)
    yield measure(
        fast,
        seconds,
        "A small U-Time taught by U-Sleep through an adapter: a pass",
        "a supervised pass of the small U-Time",
        training_pass(student, X, y),
        training_pass(SleepStager(**SMALL, **COMMON), X, y),
        at_most=1.20,
    )
    n, n_times = (4, 640) if fast else (2 * BATCH_SIZE, 6000)
    X, y = noise(n, 3, n_times), stages(n)
    small, large = SleepStager(**SMALL, **COMMON).fit(X, y), stager_of("USleep").fit(X, y)
    count = [
        sum(weights.numel() for weights in stager.module_.parameters())
        for stager in (small, large)
    ]
    yield measure(
        fast,
        seconds,
        "The small U-Time: prediction",
        "U-Sleep's",
        lambda: small.predict(X),
        lambda: large.predict(X),
        at_most=0.5,
        note=f"three channels of {n_times} samples; {count[0]:,} parameters, {count[1]:,}",
    )


def online(fast, seconds):
    """Distil online."""
    X, y = signals(fast, 4)
    student = DistilledSleepStager(stager_of("USleep"), strategy="online", **COMMON)
    target_pass = training_pass(stager_of("USleep"), X, y)
    source_pass = training_pass(stager_of("USleep"), X.source_epochs, y)

    def apart():
        source_pass()
        target_pass()

    yield measure(
        fast,
        seconds,
        "U-Sleep: a pass of online distillation",
        "a pass of each network by itself",
        training_pass(student, X, y),
        apart,
        at_most=1.10,
    )


def prediction(fast, seconds):
    """Stage epochs by U-Sleep."""
    X, y = signals(fast, 8)
    stager = stager_of("USleep").fit(X, y)
    epochs = torch.from_numpy(X["target"])

    @torch.inference_mode()
    def forward():
        module = stager.module_.eval()
        probabilities = [module(batch).softmax(dim=1) for batch in epochs.split(BATCH_SIZE)]
        return torch.cat(probabilities).argmax(dim=1).numpy()

    np.testing.assert_array_equal(stager.predict(X), forward())
    yield measure(
        fast,
        seconds,
        "U-Sleep: prediction through SleepStager",
        "a bare forward",
        lambda: stager.predict(X),
        forward,
        at_most=1.10,
    )


class AllTokens(EpochCrossModalTransformer):
    """The same network, computed for all tokens as torch's own layers do it."""

    def forward(self, x):
        """Return the logits of epochs of shape (batch, n_chans, n_times)."""
        streams = zip(x.split(1, dim=1), self.embedding, self.intra_modal, strict=True)
        class_tokens = [
            attend_all(attend, embed(channel))[:, 0] for channel, embed, attend in streams
        ]
        cross_token = self.cross_token[:, 0].expand(x.shape[0], -1)  # (batch, 256)
        tokens = torch.stack([cross_token, *class_tokens], dim=1)
        tokens = attend_all(self.cross_modal, tokens)  # (batch, 1 + n_chans, 256)
        features = [feed_forward(tokens)[:, 0] for feed_forward in self.feed_forward]
        return self.head(self.features(torch.cat(features, dim=1)))


def attend_all(block, tokens):
    """Attention, residual and layer normalisation of all tokens."""
    output, _ = nn.MultiheadAttention.forward(
        block.attention, tokens, tokens, tokens, need_weights=False
    )
    return block.norm(tokens + block.dropout(output))


def transformer(fast, seconds):
    """Train the epoch cross-modal transformer."""
    n_times = 500 if fast else 6000
    X, y = noise(BATCH_SIZE, 3, n_times) / 30, stages(BATCH_SIZE)
    first = EpochCrossModalTransformer(3, n_times)
    every = AllTokens(3, n_times)
    every.load_state_dict(first.state_dict())
    with torch.no_grad():
        logits = [net.eval()(torch.from_numpy(X)) for net in (first, every)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    yield measure(
        fast,
        seconds,
        "EpochCrossModalTransformer: a training step",
        "all tokens computed",
        bare_pass(first, X, y),
        bare_pass(every, X, y),
        at_least=2.5,
    )


class Perceptron(nn.Sequential):
    """One hidden layer: a training step of 0.7 ms on the core that the bound was set on."""

    def __init__(self, n_chans, n_times, n_outputs):
        hidden = nn.Linear(n_chans * n_times, 64)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, n_outputs))


def small(fast, seconds):
    """Train a network whose step takes less than a millisecond."""
    n = BATCH_SIZE * (1 if fast else 200)
    X, y = PairedEpochs(noise(n, 1, 1920)), stages(n)
    stager = stager_of(Perceptron)
    ours = training_pass(stager, X, y)
    theirs = bare_pass(copy.deepcopy(stager.module_), X["target"], y)
    yield measure(
        fast,
        seconds,
        "A network of 0.7 ms a step: a training pass through SleepStager",
        "a bare PyTorch loop",
        ours,
        theirs,
        at_most=1.40,
    )


def folds(fast, seconds):
    """Cross-validate in two processes."""
    n = 8 * (4 if fast else 128)
    X, y = noise(n, 3, 640 if fast else 1920), stages(n)
    groups = np.arange(n) % 8
    parameters = COMMON | {"max_epochs": 1 if fast else 3}

    def validate(n_jobs):
        stager = SleepStager(SmallNetwork, **parameters)
        cross_validate(stager, X, y, groups=groups, cv=GroupKFold(8), n_jobs=n_jobs)

    yield measure(
        fast,
        seconds,
        "Eight folds of a small network, n_jobs=2",
        "one after another",
        lambda: validate(2),
        lambda: validate(1),
        at_most=0.95,
        least=4,
        clock=time.perf_counter,
        note="by the clock on the wall; the processes run before",
    )


#: By name, in the order of the table: a generator of lines, given whether sizes are
#: small and the seconds for each line.
ROWS = {
    "night": night,
    "neighbours": neighbours,
    "door": door,
    "u-sleep": u_sleep,
    "offline": offline,
    "adapters": adapters,
    "online": online,
    "prediction": prediction,
    "transformer": transformer,
    "small": small,
    "folds": folds,
    "recording": recording,
    "spectrogram": spectrogram,
    "memmap": memmap,
}
