"""Time and memory over thirty times the epochs, and what they say of 10,000 nights.

Two things are measured, each size in a process of its own, on one thread.

With signals: noise of three channels at 64 Hz on either side, written as a memory map
(``PairedEpochs.to_memmap``), and the network of ``examples/small_network.py``. Timed by
the processor's clock are what a fit checks first, a training pass, asking the teacher for
its features, a pass of offline distillation, and prediction. Just written, the map lies in
the system's page cache; what it costs to read one from the disk is a row of ``speed.py``.

Rows alone: one epoch of 16 samples that stands for all of them, and a network of two
linear layers, so that the rows of 10,000 nights can be had. What a fold of
``cross_validate`` holds is then what belongs to rows: names of persons and nights, onsets,
stages, row numbers, the teacher's features, answers.

Memory is the highest resident private memory (RssAnon) above that of the imports; pages
of a memory map are the system's cache and do not count.

Run it with ``python benchmarks/growth.py`` (on Linux). It writes ``growth.md``, ``.csv``
and ``.png``; interrupted, it goes on with the sizes that are not in the folder
``benchmarks/cache`` yet. ``--sizes`` and ``--nights`` make it smaller.
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
import torch
from _growth_page import NIGHT, draw, page_of
from _runs import progress, resume, source_digest, write, write_csv
from _speed_setup import BATCH_SIZE, COMMON, noise, stages, training_pass
from memory import Peak, private_bytes
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.history import History
from torch import nn

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

NETWORKS = {"small": SmallNetwork, "U-Sleep": "USleep"}
#: Nobody is held out, whatever the number of subjects.
SETTINGS = COMMON | {"validation": None}


class TwoLayers(nn.Module):
    """Features, as many as those of the small network, and stages."""

    feature_layers = ("features",)

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.features = nn.Linear(n_chans * n_times, 96)
        self.head = nn.Linear(96, n_outputs)

    def forward(self, x):
        """Return the logits of epochs of shape (batch, n_chans, n_times)."""
        return self.head(self.features(x.flatten(1)))


def about(n_epochs):
    """Return the subject, the night and the onset of each epoch."""
    night = np.arange(n_epochs) // NIGHT
    names = np.array([f"person-{k:05}" for k in range(night[-1] + 1)])[night]
    return {
        "subject": names,
        "recording": names.copy(),
        "onset": 30.0 * (np.arange(n_epochs) % NIGHT),
    }


def with_signals(folder, n_epochs, network):
    """Train, distil and predict with the first epochs of a memory map.

    Returns
    -------
    dict
        "seconds" (median of three) by what was done, the "map_mb" and the "features_mb"
        of these epochs, and the private "memory_mb" at most.
    """
    seconds, module, imports = {}, NETWORKS[network], private_bytes()

    def clock(name, function):
        times = []
        for _ in range(3):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        seconds[name] = float(np.median(times))

    with Peak() as peak:
        X, y = PairedEpochs.from_memmap(folder)[:n_epochs], stages(n_epochs)
        teacher = SleepStager(module, **SETTINGS)
        clock("training pass", training_pass(teacher, X.source_epochs, y))
        unused = SleepStager(module, **SETTINGS | {"max_epochs": 0})
        clock("checks", lambda: unused.fit(X.source_epochs, y))
        student = DistilledSleepStager(FrozenEstimator(teacher), **SETTINGS)
        clock("distillation pass", training_pass(student, X, y))
        clock("teacher asked", lambda: student.strategy_.prepare(student, X, y))
        clock("prediction", lambda: student.predict(X.target_epochs))
    features = student.strategy_.prepare(student, X, y).values()
    return {
        "seconds": seconds,
        "map_mb": (X["target"].nbytes + X["source"].nbytes) / 1e6,
        "features_mb": sum(array.nbytes for array in features) / 1e6,
        "memory_mb": (peak.bytes - imports) / 1e6,
    }


def rows_alone(n_epochs):
    """Cross-validate, one fold of eight, over epochs that are all the same one.

    Returns
    -------
    dict
        Private memory of the pair and its stages, of the fold at most, and of what skorch
        records of the batches of 32 of a pass; "seconds" of the fold.
    """
    imports = private_bytes()
    with Peak() as peak:
        epochs = np.broadcast_to(noise(1, 1, 16), (n_epochs, 1, 16))
        X, y = PairedEpochs(epochs, source=epochs, **about(n_epochs)), stages(n_epochs)
        pair = private_bytes() - imports
        started = time.process_time()
        settings = SETTINGS | {"batch_size": 4096}
        student = DistilledSleepStager(SleepStager(TwoLayers, **settings), **settings)
        fold = next(GroupKFold(8).split(X, y, groups=X.subject))
        cross_validate(student, X, y, cv=[fold])
        seconds = time.process_time() - started
    tracemalloc.start()
    history = History()
    history.new_epoch()
    for batch in range(n_epochs // BATCH_SIZE):
        history.new_batch()
        history.record_batch("train_loss", float(batch))
        history.record_batch("train_batch_size", BATCH_SIZE)
    return {
        "seconds": seconds,
        "pair_mb": pair / 1e6,
        "memory_mb": (peak.bytes - imports) / 1e6,
        "history_mb": tracemalloc.get_traced_memory()[0] / 1e6,
        "name_bytes": X.subject.itemsize,
    }


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[300, 1000, 3000, 9000],
        help="epochs with signals (300 1000 3000 9000)",
    )
    parser.add_argument(
        "--nights",
        type=int,
        nargs="+",
        default=[100, 1000, 10_000],
        help="nights of rows alone; the estimate is for the last (100 1000 10000)",
    )
    parser.add_argument("--output", type=Path, default=here / "results", help="folder")
    parser.add_argument("--cache", type=Path, default=here / "cache", help="folder")
    options = parser.parse_args(arguments)
    if len(options.sizes) < 2 or min(options.nights) < 8:
        parser.error("A line needs two sizes, and eight folds eight nights.")
    return options


def main(arguments=None):
    """Measure what is missing, and write the page, the table and the picture."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    began, load = time.perf_counter(), os.getloadavg()[0]
    key = joblib.hash((source_digest(), torch.__version__))[:8]
    cache = options.cache / f"growth_{key}"
    signals, rows, n_new = {}, {}, 0
    with tempfile.TemporaryDirectory() as folder:
        n = max(options.sizes)
        X = PairedEpochs(
            noise(n, 3, 1920), source=noise(n, 3, 1920, seed=1), **about(n), sfreq=64.0
        )
        X.to_memmap(folder)
        del X
        tasks = {
            ("small", n): {"folder": folder, "n_epochs": n, "network": "small"}
            for n in options.sizes
        }
        n = min(options.sizes)
        tasks["U-Sleep", n] = {"folder": folder, "n_epochs": n, "network": "U-Sleep"}
        named = {f"{network}_{n}": task for (network, n), task in tasks.items()}
        done = resume(with_signals, named, cache, preload=["growth"])
        for name, found, is_new in progress(done, len(named), "Sizes, noise"):
            network, n = name.split("_")
            signals[network, int(n)], n_new = found, n_new + is_new
    named = {f"rows_{n * NIGHT}": {"n_epochs": n * NIGHT} for n in options.nights}
    done = resume(rows_alone, named, cache, preload=["growth"])
    for name, found, is_new in progress(done, len(named), "Rows alone"):
        rows[int(name.removeprefix("rows_"))], n_new = found, n_new + is_new

    head = f"""\
# Growth

`{shlex.join(["python", "benchmarks/growth.py", *arguments])}`

{time.strftime("%Y-%m-%d")}: {n_new} of {len(signals) + len(rows)} sizes were measured in this run, which took
{(time.perf_counter() - began) / 60:.1f} minutes, one process at a time, on {os.cpu_count()} processor(s) of a
{platform.machine()} machine with a load of {load:.1f} before the run; torch {torch.__version__}.

**All signals are noise and all stages random**, neither of which changes time or memory.

{__doc__[__doc__.index("Two things") : __doc__.index("Run it")].replace("``", "`").strip()}
"""
    text = head + page_of(signals, rows)
    options.output.mkdir(parents=True, exist_ok=True)
    write(options.output / "growth.md", text)
    write_csv(options.output / "growth.csv", list(lines_of(signals, rows)))
    draw(signals, rows).savefig(options.output / "growth.png", dpi=100)
    print(text)


def lines_of(signals, rows):
    """Everything that was measured, as lines of a table."""
    measured = {**signals, **{("rows alone", n): found for n, found in rows.items()}}
    for (data, n_epochs), found in measured.items():
        seconds = found["seconds"]
        if not isinstance(seconds, dict):
            seconds = {"fold": seconds}
        values = {f"seconds: {name}": value for name, value in seconds.items()}
        values |= {name: value for name, value in found.items() if name != "seconds"}
        for what, value in values.items():
            yield {"data": data, "epochs": n_epochs, "what": what, "value": f"{value:.6g}"}


if __name__ == "__main__":
    main()
