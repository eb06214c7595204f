"""How fast the stagers are: each row is a ratio of two timings from the same run.

How they are timed, all rows and their bounds stand in ``pages/speed.md``. Run it with
``python benchmarks/speed.py``, which writes ``speed.md`` and, with the seconds of every
block, ``speed.csv`` (some rows: ``--rows``; small sizes, to see that it runs: ``--fast``).
"""

import copy
import os
import re
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import tables
import torch
import torch.nn.functional as F
from measure import (
    BATCH_SIZE,
    COMMON,
    FEATURES,
    N_CLASSES,
    Line,
    Peak,
    noise,
    stages,
    training_pass,
)
from scipy import signal
from scipy.signal.windows import hamming
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, cross_validate
from study import Study, in_new_process, load_of_machine, parse, texts
from torch import nn

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import MeanTeacher
from skleepkd.networks import EpochCrossModalTransformer
from skleepkd.preprocessing import LogSpectrogram

#: Consecutive epochs in a window, as in Phan et al. (2019).
LENGTH = 20
text = texts(__file__)
#: What each line of the table times, beside what, its bounds and a note, by its name.
LINES = tables.rows_in(text("lines"))


def line(name, ours, theirs, **how):
    """Make a line of the table; ``how`` fills its slots, and says how it is timed."""
    title, reference, *bounds, note = (cell.format(**how) for cell in LINES[name])
    names = "at_most", "median_at_most", "at_least"
    bounds = {of: float(bound) for of, bound in zip(names, bounds, strict=True) if bound}
    timed = {of: how[of] for of in ("least", "clock") if of in how}
    return Line(title, reference, ours, theirs, note=note, **bounds, **timed)


# ---------------------------------------------------------------- SeqSleepNet


def nights(n_nights, n_epochs):
    """Make spectrograms (noise) of nights, as SeqSleepNet reads them."""
    n = n_nights * n_epochs
    night = np.repeat(np.arange(n_nights), n_epochs)
    epochs = noise(n, 1, 29, 129) / 30
    return PairedEpochs(epochs, subject=night, recording=night, sfreq=100.0)


def sequence_stager(**parameters):
    """Make a stager of sequences."""
    return SleepStager("SeqSleepNet", sequence_length=LENGTH, **COMMON, **parameters)


def night(fast):
    """Stage a night by SeqSleepNet, each epoch being encoded once."""
    X = nights(1, 60 if fast else 960)
    stager = sequence_stager().fit(X[:40].with_subject("another"), stages(40))
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
    yield line("night", lambda: stager.predict(X), stage_plainly, n=len(X))


def neighbours(fast):
    """Train SeqSleepNet on windows that share epochs."""
    X = nights(2, 40) if fast else nights(4, 83)  # 64 windows a night
    y = stages(len(X))
    together = training_pass(sequence_stager(neighbouring_windows=8), X, y)
    yield line("neighbours", together, training_pass(sequence_stager(), X, y))


# ---------------------------------------------------------------- what fit does first


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


def door(fast):
    """Check and convert the input of fit."""
    n = 200 if fast else 20_000
    target, source = (noise(n, 3, 1920, seed=k) for k in (2, 3))
    subject, y = np.repeat([f"s{k}" for k in range(20)], n // 20), stages(n)
    onset = 30.0 * np.tile(np.arange(n // 20), 20)
    about = {"subject": subject, "recording": subject, "onset": onset, "sfreq": 64.0}
    teacher = SleepStager(stop, **COMMON)
    X = PairedEpochs(target, source=source, **about)
    yield line("door", until_built(teacher, X.target_epochs, y), target.sum, n=n)
    student = DistilledSleepStager(teacher, **FEATURES)
    yield line("both", until_built(student, X, y), lambda: target.sum() + source.sum())


# ---------------------------------------------------------------- U-Sleep


def stager_of(module, **parameters):
    """Make a stager of single epochs."""
    return SleepStager(module, **COMMON, **parameters)


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


def beside_a_bare_loop(stager, X, y):
    """Return a pass through the stager, and one of a plain loop."""
    ours = training_pass(stager, X, y)
    return ours, bare_pass(copy.deepcopy(stager.module_), X["target"], y)


def signals(fast, n_batches):
    """Make simultaneous epochs of three channels, at 64 Hz unless small."""
    n = 8 if fast else BATCH_SIZE * n_batches
    target, source = (noise(n, 3, 640 if fast else 1920, seed=k) for k in (2, 3))
    return PairedEpochs(target, source=source), stages(n)


def u_sleep(fast):
    """Train U-Sleep through the stager."""
    X, y = signals(fast, 8)
    yield line("u-sleep", *beside_a_bare_loop(stager_of("USleep"), X, y))


def offline(fast):
    """Distil from a frozen teacher with precomputed outputs, and time computing these."""
    X, y = signals(fast, 8)
    teacher = FrozenEstimator(stager_of("USleep").fit(X.source_epochs, y))
    supervised = training_pass(stager_of("USleep"), X, y)
    ways = {"features": {}, "attention": {"feature_loss": "attention"}}
    ways |= {name: {"feature_loss": name} for name in ("relational", "contrastive")}
    for name in ("softmax", "dkd", "dist"):
        ways[name] = {"output_loss": name, "feature_loss": None, "alpha": 0.5}
    for name, parameters in ways.items():
        student = DistilledSleepStager(teacher, **FEATURES | parameters)
        yield line(name, training_pass(student, X, y), supervised)
    student = DistilledSleepStager(teacher, **FEATURES).fit(X, y)
    yield line("asked", lambda: student.strategy_.prepare(student, X, y), supervised)


def mean_teacher(fast):
    """Train beside a moving average, which teaches on the half that is unscored."""
    X, y = signals(fast, 8)
    X, few = X.target_epochs, np.where(np.arange(len(y)) % 2, y, -1)
    student = DistilledSleepStager(
        None, "USleep", **FEATURES | {"strategy": MeanTeacher(), "feature_loss": None}
    )
    averaged = training_pass(student, X, few)
    yield line("mean-teacher", averaged, training_pass(stager_of("USleep"), X, y))


#: A U-Time of fewer than 50,000 parameters at any rate, and the layers that it compares
#: with U-Sleep's.
SMALL = {"module": "UTime", "module__filters": (6, 8, 12, 16, 24, 32)}
LAST_MAPS = [("decoder.4", "decoder_blocks.11")]


def adapters(fast):
    """Distil through adapters, and stage epochs by a small student."""
    X, y = signals(fast, 8)
    teacher = FrozenEstimator(stager_of("USleep").fit(X.source_epochs, y))
    through = {"adapter": "linear", **FEATURES}
    adapted, direct = (
        training_pass(DistilledSleepStager(teacher, **how), X, y)
        for how in (through, FEATURES)
    )
    yield line("adapter", adapted, direct)
    student = DistilledSleepStager(teacher, **SMALL, layers=LAST_MAPS, **through)
    alone = training_pass(SleepStager(**SMALL, **COMMON), X, y)
    yield line("small-student", training_pass(student, X, y), alone)
    n, n_times = (4, 640) if fast else (2 * BATCH_SIZE, 6000)
    X, y = noise(n, 3, n_times), stages(n)
    small, large = SleepStager(**SMALL, **COMMON).fit(X, y), stager_of("USleep").fit(X, y)
    counts = [
        sum(weights.numel() for weights in stager.module_.parameters())
        for stager in (small, large)
    ]
    both = (lambda: small.predict(X)), (lambda: large.predict(X))
    yield line("small-prediction", *both, n=n_times, counts=counts)


def online(fast):
    """Distil online."""
    X, y = signals(fast, 4)
    student = DistilledSleepStager(stager_of("USleep"), **FEATURES | {"strategy": "online"})
    passes = [
        training_pass(stager_of("USleep"), epochs, y) for epochs in (X, X.source_epochs)
    ]
    together = training_pass(student, X, y)
    yield line("online", together, lambda: [one() for one in passes])


def prediction(fast):
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
    yield line("prediction", lambda: stager.predict(X), forward)


# ---------------------------------------------------------------- other networks


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


def transformer(fast):
    """Train the epoch cross-modal transformer."""
    n, n_times = (4, 500) if fast else (BATCH_SIZE, 6000)
    X, y = noise(n, 3, n_times) / 30, stages(n)
    first, every = EpochCrossModalTransformer(3, n_times), AllTokens(3, n_times)
    every.load_state_dict(first.state_dict())
    with torch.no_grad():
        logits = [net.eval()(torch.from_numpy(X)) for net in (first, every)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)
    yield line("transformer", bare_pass(first, X, y), bare_pass(every, X, y))


class Perceptron(nn.Sequential):
    """One hidden layer: a training step of 0.7 ms on the core that the bound was set on."""

    def __init__(self, n_chans, n_times, n_outputs):
        hidden = nn.Linear(n_chans * n_times, 64)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, n_outputs))


def small(fast):
    """Train a network whose step takes less than a millisecond."""
    n = BATCH_SIZE * (1 if fast else 200)
    X, y = PairedEpochs(noise(n, 1, 1920)), stages(n)
    yield line("small", *beside_a_bare_loop(stager_of(Perceptron), X, y))


def folds(fast):
    """Cross-validate in two processes."""
    n = 8 * (4 if fast else 128)
    X, y = noise(n, 3, 640 if fast else 1920), stages(n)
    groups = np.arange(n) % 8
    parameters = COMMON | {"max_epochs": 1 if fast else 3}

    def validate(n_jobs):
        stager = SleepStager("LogPowerNet", **parameters)
        cross_validate(stager, X, y, groups=groups, cv=GroupKFold(8), n_jobs=n_jobs)

    both = (lambda: validate(2)), (lambda: validate(1))
    yield line("folds", *both, least=4, clock=time.perf_counter)


# ---------------------------------------------------------------- signals


def recording(fast):
    """Filter, resample and cut a recording, as Phan et al. (2019) did with MASS."""
    import mne

    hours, sfreq, band = 0.05 if fast else 8, 256, (0.3, 40)
    # As an EEG has it, less power the higher the frequency: a first-order low-pass.
    signals = signal.lfilter([1], [1, -0.98], noise(6, round(hours * 3600 * sfreq)))
    signals *= 3e-5 / signals.std()
    raw = mne.io.RawArray(signals, mne.create_info(6, sfreq, "eeg"), verbose="error")

    def cut(raw):
        return mne.make_fixed_length_epochs(raw, 30, preload=True, proj=False)

    def by_default():
        return cut(raw.copy().filter(*band).resample(100))

    def faster():
        return cut(raw.copy().resample(100, method="polyphase").filter(*band))

    with mne.use_log_level("error"):
        ours, theirs = (make().get_data(copy=False) for make in (faster, by_default))
        apart = (ours - theirs) / theirs.std()
        off, most = np.sqrt(np.mean(apart**2)), abs(apart[1:-1]).max()
        kept = "holds" if off <= 0.01 else "does not hold"
        found = {"off": off, "most": most, "kept": kept}
        yield line("recording", faster, by_default, hours=hours, **found)


def spectrogram(fast):
    """Make the log spectrograms of a night."""
    X = noise(64 if fast else 960, 1, 3000)
    ours = LogSpectrogram().fit(X)
    window = hamming(200).astype(np.float32)
    mean, scale = (
        values[:, :, None].astype(np.float32) for values in (ours.mean_, ours.scale_)
    )
    how = {"noverlap": 100, "nfft": 256, "detrend": False}
    how |= {"scaling": "spectrum", "mode": "magnitude"}

    def by_scipy():
        spectra = []
        for start in range(0, len(X), BATCH_SIZE):
            batch = X[start : start + BATCH_SIZE]
            _, _, amplitude = signal.spectrogram(batch, 100.0, window, **how)
            # scipy divides by the window's sum, and has frequencies before frames.
            decibels = 20 * np.log10(np.maximum(amplitude * window.sum(), 1e-3))
            spectra.append(((decibels - mean) / scale).swapaxes(2, 3))
        return np.concatenate(spectra)

    np.testing.assert_allclose(ours.transform(X), by_scipy(), atol=1e-2)
    yield line("spectrogram", lambda: ours.transform(X), by_scipy, n=len(X))


def memmap(fast):
    """Train from a memory map, none of whose pages is in memory. Linux alone."""
    n = BATCH_SIZE * (2 if fast else 128)
    X, y = PairedEpochs(noise(n, 3, 1920), sfreq=64.0), stages(n)
    stager = stager_of("LogPowerNet")
    in_memory = training_pass(stager, X, y)
    with tempfile.TemporaryDirectory() as folder:
        X.to_memmap(folder)

        def from_the_disk():
            drop_from_cache(folder)
            # A new map: pages that a process still maps would not be dropped.
            mapped = PairedEpochs.from_memmap(folder)
            stager.fit_loop(stager.get_dataset(mapped, y), epochs=1)

        before = bytes_read()
        from_the_disk()
        read = bytes_read() - before
        above, copied = (
            in_new_process(private_memory, folder=folder, copy=copy) / 1e6
            for copy in (False, True)
        )
        sizes = {"read": read / 1e6, "map": X["target"].nbytes / 1e6}
        sizes |= {"above": above, "copied": copied, "clock": time.perf_counter}
        yield line("memmap", from_the_disk, in_memory, **sizes)


def drop_from_cache(folder):
    """Drop the files of a folder from the system's page cache."""
    for path in Path(folder).iterdir():
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def bytes_read():
    """Bytes that this process has read from the disk."""
    return int(re.search(r"read_bytes: (\d+)", Path("/proc/self/io").read_text())[1])


def private_memory(folder, copy):
    """Fit for a pass, from the map or a copy, and return the private memory it took."""
    with Peak() as peak:
        X = PairedEpochs.from_memmap(folder)
        if copy:
            X = PairedEpochs(np.array(X), sfreq=64.0)
        stager_of("LogPowerNet").fit(X, stages(len(X)))
    return peak.above


#: In the order of the table: generators of lines, given whether sizes are small.
ROWS = [night, neighbours, door, u_sleep, offline, adapters, online, mean_teacher]
ROWS += [prediction, transformer, small, folds, recording, spectrogram, memmap]
ROWS = {row.__name__.replace("_", "-"): row for row in ROWS}

# ---------------------------------------------------------------- the command


def main(argv=None):
    """Measure the rows, print a line for each, and write the page."""
    rows = {"nargs": "+", "choices": list(ROWS), "default": list(ROWS)}
    options = parse(__doc__, {}, argv, rows=rows)
    study, lines, blocks = Study("speed", options), [], []
    torch.set_num_threads(1)
    about = load_of_machine()
    for row in options.rows:
        for timed in ROWS[row](options.fast):
            times, cells = timed.measure(options.fast), timed.cells()
            lines.append(cells)
            print(" | ".join(cells.values()), flush=True)
            blocks += [
                {
                    "row": row,
                    "what": timed.title,
                    "beside": timed.reference,
                    "pair": pair,
                    "seconds": f"{ours:.6f}",
                    "reference_seconds": f"{reference:.6f}",
                }
                for pair, (ours, reference) in enumerate(times)
            ]
    page = text("page", table=tables.markdown_table(lines))
    study.write("speed", [*study.head("Speed", about), page], blocks)


if __name__ == "__main__":
    # A short last batch or a class without labels does not matter here.
    warnings.filterwarnings("ignore")
    main()
