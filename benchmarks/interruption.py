"""A cross-validation that is killed fifty times, and one training that is killed ten times.

Folds of simulated nights are fitted and scored by ``skleepkd.model_selection``, each run in
a process of its own that gets SIGKILL at a random moment, until it has been killed
``--kills`` times; then it may finish. Reported are folds that were kept and lost, folds
that were kept and fitted again, and whether scores and weights equal those of a run that
was never stopped, bit by bit. Then a single training with ``checkpoint=`` is killed
likewise.

Run it with ``python benchmarks/interruption.py``; it writes ``results/interruption.md``.
Linux only.
"""

import argparse
import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn import model_selection
from sklearn.base import clone
from sklearn.model_selection import GroupShuffleSplit
from skorch.callbacks import Callback

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import sleep_scorers
from skleepkd.model_selection import cross_validate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

RESULTS = Path(__file__).parent / "results"


class Log(Callback):
    """Log each training and each pass."""

    def __init__(self, log):
        self.log = log

    def on_train_begin(self, net, X=None, **kwargs):
        """Log the training subjects."""
        self.write(name_of(X.subject))

    def on_epoch_end(self, net, **kwargs):
        """Log the number of the pass."""
        self.write(f"pass {len(net.history)}")

    def write(self, line):
        """Add a line to the log."""
        with Path(self.log).open("a") as file:
            file.write(f"{line}\n")


class Study:
    """Nights in a folder, and the runs on them."""

    def __init__(self, folder, n_folds):
        self.folder, self.n_folds = folder, n_folds
        self.log, self.kept, self.digest = (folder / n for n in ("log", "kept", "digest"))
        cohort = make_cohort(n_subjects=12, n_epochs=30, random_state=0)
        cohort.X.to_memmap(folder / "nights")
        self.X, self.y = PairedEpochs.from_memmap(folder / "nights"), cohort.y
        common = {"lr": 3e-3, "classes": "aasm", "device": "cpu"}
        self.student = DistilledSleepStager(
            SleepStager(SmallNetwork, **common),
            strategy="online",
            max_epochs=2,
            random_state=0,
            callbacks=[Log(str(self.log))],
            **common,
        )

    def validate(self, function, **kept):
        """Cross-validate, and write a digest of scores and weights."""
        scores = function(
            self.student,
            self.X,
            self.y,
            groups=self.X.subject,
            cv=GroupShuffleSplit(self.n_folds, test_size=2, random_state=0),
            scoring=sleep_scorers(),
            return_estimator=True,
            **kept,
        )
        tests = [scores[name] for name in sorted(scores) if name.startswith("test_")]
        self.digest.write_text(digest(tests, scores["estimator"]))

    def train(self, n_passes, checkpoint):
        """Train once, and write a digest of the weights."""
        student = clone(self.student).set_params(max_epochs=n_passes, checkpoint=checkpoint)
        self.digest.write_text(digest([], [student.fit(self.X, self.y)]))

    def lines(self):
        """Return what was logged since the last time."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def kept_folds(self):
        """Name the complete folds on the disk."""
        fits = (joblib.load(file)["estimator"][0] for file in self.kept.rglob("output.pkl"))
        return {name_of(net.fitted_on_["subject"]) for net in fits}


def name_of(subject):
    """Name a fold by its training subjects."""
    return "+".join(map(str, np.unique(subject)))


def digest(arrays, nets):
    """Digest arrays and weights, bit by bit."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.asarray(array).tobytes())
    for net in nets:
        for value in net.module_.state_dict().values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def live(run, seconds=float("inf")):
    """Run in a process, kill it after some seconds of its own processor time.

    Returns whether it was killed. Other programs on the machine change nothing.
    """
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    while process.is_alive() and used(process.pid) < seconds:
        process.join(0.002)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        raise RuntimeError("A run has failed by itself.")
    return killed


def used(pid):
    """Return a process's processor time in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def uninterrupted(study, run):
    """Run once in this process, and return the processor time and the digest."""
    began = time.process_time()
    run()
    study.lines()
    return time.process_time() - began, study.digest.read_text()


def kill_folds(study, n_kills, rng):
    """Kill a cross-validation; return the lines of a table."""
    plain = partial(study.validate, model_selection.cross_validate)
    seconds, expected = uninterrupted(study, plain)
    run = partial(study.validate, cross_validate, memory=study.kept)
    per_fold = seconds / study.n_folds
    kept, begun, lost, again = set(), 0, 0, 0
    for kill in range(n_kills):
        if not live(run, rng.uniform(0, 0.5 + 4 * per_fold)):
            raise RuntimeError(f"Finished after {kill} kills; give more --folds.")
        fitted = [line for line in study.lines() if not line.startswith("pass")]
        now = study.kept_folds()
        begun += len(fitted)
        lost += len(kept - now)
        again += len(kept & set(fitted))
        kept = now
    study.digest.unlink()
    live(run)
    again += len(kept & set(study.lines()))
    return [
        ("folds", study.n_folds),
        ("a fold, uninterrupted", f"{per_fold:.2f} s"),
        ("SIGKILLs", n_kills),
        ("folds kept when the last one came", len(kept)),
        ("folds begun until then, and not finished", begun - len(kept)),
        ("files half written by a kill (never read)", parts(study.kept, "output.pkl.*")),
        ("**folds that were kept and lost**", lost),
        ("**folds that were kept and fitted again**", again),
        ("scores and weights equal, bit by bit", verdict(study, expected)),
    ]


def kill_fit(study, n_kills, n_passes, rng):
    """Kill a single training; return the lines of a table."""
    seconds, expected = uninterrupted(study, partial(study.train, n_passes, None))
    folder = study.folder / "checkpoint"
    run = partial(study.train, n_passes, folder)
    done = []
    for kill in range(n_kills):
        if not live(run, rng.uniform(0, 0.5 + 1.5 * seconds / n_kills)):
            raise RuntimeError(f"Finished after {kill} kills; give more --passes.")
        done += [line for line in study.lines() if line.startswith("pass")]
    before = len(done)
    study.digest.unlink()
    live(run)
    done += [line for line in study.lines() if line.startswith("pass")]
    return [
        ("passes", n_passes),
        ("a pass, uninterrupted", f"{1000 * seconds / n_passes:.0f} ms"),
        ("SIGKILLs", n_kills),
        ("passes finished when the last one came", before),
        ("passes finished twice (killed before they were kept)", len(done) - n_passes),
        ("files half written by a kill (never read)", len(list(folder.iterdir())) - 1),
        ("weights equal, bit by bit", verdict(study, expected)),
    ]


def parts(folder, pattern):
    """Count files."""
    return len(list(folder.rglob(pattern)))


def verdict(study, expected):
    """Return whether the digest is that of the uninterrupted run."""
    return "yes" if study.digest.read_text() == expected else "**no**"


def table(rows):
    """Write rows as a table."""
    lines = [f"| {what} | {value} |" for what, value in rows]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def main():
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of the folds (50)")
    parser.add_argument("--folds", type=int, default=120, help="folds (120)")
    parser.add_argument("--fit-kills", type=int, default=10, help="of one training (10)")
    parser.add_argument("--passes", type=int, default=60, help="of one training (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), options.folds)
        of_folds = table(kill_folds(study, options.kills, rng))
        of_fit = table(kill_fit(study, options.fit_kills, options.passes, rng))
    minutes = (time.perf_counter() - began) / 60
    command = " ".join(["python benchmarks/interruption.py", *sys.argv[1:]])
    text = f"""# Killed and resumed, simulated nights

`{command}`, {minutes:.1f} minutes on one core.

Online distillation with the `SmallNetwork` of `examples/small_network.py` on simulated
nights of twelve people. Each run is a process that gets SIGKILL after a processor time
drawn evenly; the last one is let be. "Equal" compares with a run that was never stopped.

## A cross-validation

By `skleepkd.model_selection.cross_validate(..., memory=folder)`, folds drawn by person.

{of_folds}

## One training

With `checkpoint=folder`.

{of_fit}
"""
    print(text)
    (options.out / "interruption.md").write_text(text)


if __name__ == "__main__":
    main()
