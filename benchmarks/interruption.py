"""A cross-validation that is killed fifty times.

Folds of simulated nights are fitted and scored by ``skleepkd.model_selection``, each run
in a process of its own that gets SIGKILL at a random moment, until it has been killed as
often as asked; then it may finish. Reported are folds that were kept and lost, folds that
were kept and fitted again, and whether scores and weights equal those of a run that was
never stopped, bit by bit.

Run it with ``python benchmarks/interruption.py``; it writes ``results/interruption.md``.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn import model_selection
from sklearn.model_selection import GroupShuffleSplit
from skorch.callbacks import Callback

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.metrics import sleep_scorers
from skleepkd.model_selection import cross_validate

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

RESULTS = Path(__file__).parent / "results"


class Told(Callback):
    """Write down which people a fit trains on."""

    def __init__(self, log):
        self.log = log

    def on_train_begin(self, net, X=None, **kwargs):
        """Add a line to the log."""
        with Path(self.log).open("a") as file:
            file.write(people(X.subject) + "\n")


def people(subject):
    """Name a fold by those it is trained on."""
    return "+".join(map(str, np.unique(subject)))


def cross_validation(folder, n_folds):
    """Make what is run: the student, the nights and the folds."""
    X = PairedEpochs.from_memmap(folder / "nights")
    teacher = SleepStager(SmallNetwork, max_epochs=1, lr=3e-3, classes="aasm")
    student = DistilledSleepStager(
        teacher,
        strategy="online",
        max_epochs=2,
        lr=3e-3,
        classes="aasm",
        random_state=0,
        device="cpu",
        callbacks=[Told(str(folder / "log"))],
    )
    folds = GroupShuffleSplit(n_folds, test_size=2, random_state=0)
    given = {"groups": X.subject, "cv": folds, "scoring": sleep_scorers()}
    return student, X, np.load(folder / "y.npy"), {**given, "return_estimator": True}


def digest(scores):
    """Digest scores and weights, but not the clock's."""
    digest = hashlib.sha256()
    for name in sorted(scores):
        if name.startswith("test_"):
            digest.update(np.asarray(scores[name]).tobytes())
    for net in scores["estimator"]:
        for value in net.module_.state_dict().values():
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def child(folder, n_folds):
    """Run, in a process that is going to be killed."""
    student, X, y, given = cross_validation(folder, n_folds)
    print("ready", flush=True)
    scores = cross_validate(student, X, y, memory=folder / "kept", **given)
    (folder / "answer").write_text(digest(scores))


def kept_folds(folder):
    """Name the folds that are on the disk, whole."""
    files = (folder / "kept").rglob("output.pkl")
    fits = (joblib.load(file)["estimator"][0] for file in files)
    return {people(net.fitted_on_["subject"]) for net in fits}


def live(folder, n_folds, seconds):
    """Start a run, kill it after some seconds, and tell whether it was killed."""
    command = [sys.executable, __file__, "--child", str(folder), "--folds", str(n_folds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # imports and opening of the nights are over
    try:
        return process.wait(timeout=seconds) != 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def measure(n_kills, n_folds, seed):
    """Kill and resume; return the lines of a table."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cohort = make_cohort(n_subjects=12, n_epochs=30, random_state=0)
        cohort.X.to_memmap(folder / "nights")
        np.save(folder / "y.npy", cohort.y)
        student, X, y, given = cross_validation(folder, n_folds)
        began = time.perf_counter()
        expected = digest(model_selection.cross_validate(student, X, y, **given))
        per_fold = (time.perf_counter() - began) / n_folds
        log = folder / "log"
        log.unlink()
        kills = begun = lost = again = 0
        kept = set()
        while kills < n_kills:
            if not live(folder, n_folds, rng.uniform(0, 1 + 4 * per_fold)):
                raise RuntimeError(f"Finished after {kills} kills; give more --folds.")
            kills += 1
            now = kept_folds(folder)
            fitted = log.read_text().splitlines() if log.exists() else []
            log.unlink(missing_ok=True)
            begun += len(fitted)
            lost += len(kept - now)
            again += len(kept & set(fitted))
            kept = now
        began = time.perf_counter()
        if live(folder, n_folds, None):
            raise RuntimeError("The last run, which nobody killed, has failed.")
        fitted = log.read_text().splitlines()
        again += len(kept & set(fitted))
        parts = len(list((folder / "kept").rglob("output.pkl.*")))
        equal = (folder / "answer").read_text() == expected
    return [
        ("folds", n_folds),
        ("a fold, uninterrupted", f"{per_fold:.2f} s"),
        ("SIGKILLs", kills),
        ("folds kept when the last one came", len(kept)),
        ("folds begun until then, and not finished", begun - len(kept)),
        ("files that a kill left half written (never read)", parts),
        ("folds that were kept and lost", lost),
        ("folds that were kept and fitted again", again),
        ("scores and weights equal an uninterrupted run's, bit by bit", equal),
    ]


def main():
    """Measure, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs (50)")
    parser.add_argument("--folds", type=int, default=120, help="folds (120)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        child(options.child, options.folds)
        return
    began = time.perf_counter()
    rows = measure(options.kills, options.folds, options.seed)
    minutes = (time.perf_counter() - began) / 60
    command = " ".join(["python benchmarks/interruption.py", *sys.argv[1:]])
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    text = f"""# Killed and resumed, simulated nights

`{command}`, {minutes:.1f} minutes on one core.

A cross-validation by `skleepkd.model_selection.cross_validate` (online distillation of the
`SmallNetwork` of `examples/small_network.py` on simulated nights of twelve people, folds
drawn by person), killed by SIGKILL after a time drawn evenly between nothing and one
second more than four folds take, each run a new process.

| | |
| --- | --- |
{table}
"""
    print(text)
    (options.out / "interruption.md").write_text(text)


if __name__ == "__main__":
    main()
