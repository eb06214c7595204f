"""What the benchmarks share: fits that resume, each in a fresh process, and tables."""

import csv
import hashlib
import json
import multiprocessing
import os
import time
from multiprocessing.connection import wait
from pathlib import Path

import joblib
import torch
from skorch.callbacks import Callback

import skleepkd
from skleepkd import PairedEpochs
from skleepkd.metrics import staging_report


def source_digest():
    """Digest of the package's source, so that kept results are those of this code."""
    digest = hashlib.sha256()
    for file in sorted(Path(skleepkd.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def digest_of(X, y):
    """Digest of a cohort."""
    names = ("source", "target") if X.has_source else ("target",)
    return joblib.hash((*map(X.fingerprint, names), y, X.subject))


def key_of(settings):
    """Name for a folder that belongs to settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def mapped(X, folder):
    """Write a cohort to files, once, which all processes map."""
    try:  # the very files that kept teachers were fitted with
        return PairedEpochs.from_memmap(folder)
    except FileNotFoundError:
        return X.to_memmap(folder)


def add_run_options(parser, fast):
    """Add the options of every command whose fits resume; ``fast`` is what it sets."""
    here, add = Path(__file__).parent, parser.add_argument
    add("--n-jobs", type=int, default=1, help="fits at a time, default 1")
    add("--fast", action="store_true", help=f"a run of seconds: {fast}")
    add("--output", type=Path, default=here / "results", help="folder of the tables")
    add("--cache", type=Path, default=here / "cache", help="folder of finished fits")


class WatchTestSubject(Callback):
    """Score the test subject after each pass, without effect on the training.

    Papers that choose their weights on the test subject report these scores. The training
    does not change: the network predicts in evaluation mode, the state of the random
    numbers is restored, and no weights are kept.

    Parameters
    ----------
    X : PairedEpochs
        The test subject's epochs, as the stager takes them.
    y : ndarray of shape (n_epochs,)
        Their stages.

    Attributes
    ----------
    kappas_ : list of float
        Kappa after each pass.
    best_answer_ : list of int
        What was predicted after the (first) pass with the highest kappa.
    seconds : float
        Time of all predictions in this process; no part of a fit.
    """

    seconds = 0.0

    def __init__(self, X, y):
        self.X = X
        self.y = y

    def on_train_begin(self, net, **kwargs):
        """Reset what an earlier training left."""
        self.kappas_, self.best_answer_ = [], []

    def on_epoch_end(self, net, **kwargs):
        """Predict and score the test subject's epochs."""
        started = time.perf_counter()
        with torch.random.fork_rng():
            predicted = net.predict(self.X)
        kappa = staging_report(self.y, predicted).pooled["kappa"]
        if not self.kappas_ or kappa > max(self.kappas_):
            self.best_answer_ = predicted.tolist()
        self.kappas_.append(kappa)
        WatchTestSubject.seconds += time.perf_counter() - started


class WatchSteps(Callback):
    """Score the test subjects after every few training steps, without effect on them.

    As :class:`WatchTestSubject`, within passes.

    Parameters
    ----------
    X : PairedEpochs
        The test subjects' epochs, as the stager takes them.
    y : ndarray of shape (n_epochs,)
        Their stages.
    every : int, default=10
        Steps between evaluations; the first is before any step.

    Attributes
    ----------
    looks_ : list of dict
        ``step``, ``test_accuracy`` and, but for the first, ``train_loss``, the mean over
        the steps since the previous evaluation.
    steps_ : int
        Steps of the training.
    seconds, cpu_seconds : float
        Time of the evaluations; no part of a fit.
    """

    def __init__(self, X, y, every=10):
        self.X = X
        self.y = y
        self.every = every

    def on_train_begin(self, net, **kwargs):
        """Reset what an earlier training left, and evaluate the start of this one."""
        self.looks_, self.losses_, self.steps_ = [], [], 0
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self._look(net)

    def on_batch_end(self, net, training=False, loss=None, **kwargs):
        """Record the loss, and evaluate after every few steps."""
        if not training:
            return
        self.steps_ += 1
        self.losses_.append(loss.item())
        if self.steps_ % self.every == 0:
            self._look(net, train_loss=sum(self.losses_) / len(self.losses_))
            self.losses_ = []

    def _look(self, net, **seen):
        started, cpu_started = time.perf_counter(), time.process_time()
        with torch.random.fork_rng():
            predicted = net.predict(self.X)
        accuracy = staging_report(self.y, predicted).pooled["accuracy"]
        self.looks_.append({"step": self.steps_, "test_accuracy": accuracy, **seen})
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu_started


def resume(function, tasks, folder, *, n_jobs=1, preload=()):
    """Run tasks, each in a process of its own, unless their results are there.

    A result is a small JSON file, written when it is complete and not before. Processes
    begin with the imports done and nothing else, so what one has allocated does not count
    for the next.

    Parameters
    ----------
    function : callable
        Called with a task's arguments; returns a dict. It can be imported.
    tasks : dict of str to dict
        Arguments by name; a name becomes the name of a file.
    folder : Path
        Where the results are kept.
    n_jobs : int, default=1
        Processes at a time.
    preload : sequence of str
        Modules to import before a process begins.

    Yields
    ------
    name : str
        Of a task that is done.
    result : dict
        With ``peak_mb`` and ``import_mb``, resident memory at most and to begin with.
    is_new : bool
        Whether it was computed now.

    Raises
    ------
    RuntimeError
        If a task failed; its traceback is printed by its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in methods else "spawn"
    )
    if "forkserver" in methods:
        # The first optimiser imports torch._dynamo: a second and 250 MB, paid once here.
        context.set_forkserver_preload(["torch._dynamo", *preload])
    waiting, running = list(tasks.items()), {}
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                name, arguments = waiting.pop(0)
                file = folder / f"{name}.json"
                if file.exists():
                    yield name, json.loads(file.read_text()), False
                    continue
                process = context.Process(target=_work, args=(function, arguments, file))
                process.start()
                running[process.sentinel] = process, name, file
            for sentinel in wait(running) if running else ():
                process, name, file = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    raise RuntimeError(f"{name} failed (exit code {process.exitcode}).")
                yield name, json.loads(file.read_text()), True
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.join()


def _work(function, arguments, file):
    """Run one task and write its result."""
    torch.set_num_threads(1)
    import_mb = resident_mb("VmRSS")
    result = function(**arguments)
    result |= {"import_mb": import_mb, "peak_mb": resident_mb("VmHWM")}
    write(file, json.dumps(result))


def resident_mb(field):
    """Resident memory of this process in megabytes: VmRSS now, VmHWM at most.

    Linux's own count: ``getrusage`` would give a new process its parent's peak. nan
    where there is none.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) for line in lines if line.startswith(field)]
    return found[0] * 1024 / 1e6 if found else float("nan")


def write(file, text):
    """Write a file atomically."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, file)


def write_csv(file, rows):
    """Write dicts with the same keys as lines of a table."""
    part = file.with_name(f"{file.name}.part")
    with part.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, file)


def markdown_table(header, rows):
    """Format rows of texts as a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def progress(steps, total, description):
    """Show a bar where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return steps
    return tqdm(steps, total=total, desc=description)
