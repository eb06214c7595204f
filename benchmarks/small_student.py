"""What does a student of at most 50,000 parameters lose, and does its teacher help it?

A large U-Time is trained on simulated scalp-EEG, and U-Times of simulated ear-EEG beside
it: one as large, and small ones, trained by themselves and distilled from the large scalp
stager: from its outputs (softmax), from the features of its bottom level, to whose shape an
adapter projects the student's, and from both.

Every training has the same optimiser, schedule, passes and batches, and keeps its last
weights. Subjects are staged by networks that have not seen them (folds of subjects), the
teacher being fitted in the fold too. Weights of the terms are those of the label budget and
were not tuned here. The time of a prediction is the processor's on one thread, of the
quickest of five predictions of the test subjects, the median over folds.

All nights are **simulated**: nothing here says how well a small network stages people.

Run it with ``python benchmarks/small_student.py``. It writes ``small_student.csv`` (a row
for each subject and method) and ``.md``. Interrupted, it goes on with the folds that are
not in the folder ``benchmarks/cache`` yet.
"""

import argparse
import shlex
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _runs import (
    add_run_options,
    key_of,
    markdown_table,
    progress,
    resume,
    source_digest,
    write,
    write_csv,
)
from joblib import Memory
from sklearn.model_selection import GroupKFold
from skorch.callbacks import LRScheduler

from skleepkd import DistilledSleepStager, SleepStager, save
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.metrics import bootstrap_interval, staging_report

#: Filters of the two networks; both pool as the original U-Time does.
LARGE, SMALL = (16, 32, 64, 128, 256), (8, 12, 16, 24, 32)
POOLS = (10, 8, 6, 4)
SCALP, EAR, ALONE = "scalp, large (the teacher)", "ear, large", "ear, small"
SOFTMAX, FEATURES = "ear, small, softmax", "ear, small, features by an adapter"
BOTH = "ear, small, both"
METHODS = (SCALP, EAR, ALONE, SOFTMAX, FEATURES, BOTH)


def make_stagers(settings, memory):
    """Make an unfitted stager for each method but the scalp's, which is their teacher."""
    training = {
        "classes": "aasm",
        "batch_size": 32,
        "max_epochs": settings["passes"],
        "lr": settings["lr"],
        "callbacks": [LRScheduler("CosineAnnealingLR", T_max=settings["passes"])],
        "validation": None,
        "device": "cpu",
    }

    def supervised(filters, **parameters):
        network = {"module__filters": filters, "module__pools": POOLS}
        return SleepStager("UTime", **network, **training, **parameters)

    # Without a random_state of its own the teacher takes the student's: one serves all.
    seed = settings["seed"]
    teacher = supervised(LARGE)
    softmax = {"alpha": settings["alpha"], "temperature": settings["temperature"]}
    features = {
        "feature_loss": FeatureMSE(standardize=True),
        "feature_weight": settings["feature_weight"],
        "layers": "bottom",
        "adapter": "linear",
    }
    without = {"feature_loss": None}
    distilled = {SOFTMAX: softmax | without, FEATURES: features, BOTH: softmax | features}
    stagers = {
        EAR: supervised(LARGE, random_state=seed),
        ALONE: supervised(SMALL, random_state=seed),
    }
    for name, terms in distilled.items():
        stagers[name] = DistilledSleepStager(
            teacher,
            module__filters=SMALL,
            memory=memory,
            random_state=seed,
            **terms,
            **training,
        )
    return stagers


def run_fold(settings, fold):
    """Train every method on a fold's training subjects, and test it on the others.

    Returns
    -------
    dict
        "kappa", by method and test subject, "costs" by method, "adapter", the number of its
        parameters, and "cpu_seconds" of processor time.
    """
    began = time.process_time()
    cohort = make_cohort(
        settings["people"], n_epochs=settings["epochs"], random_state=settings["seed"]
    )
    X, y, groups = cohort.X, cohort.y, cohort.groups
    splits = GroupKFold(settings["folds"]).split(X, y, groups)
    train, test = list(splits)[fold]
    with tempfile.TemporaryDirectory() as folder:
        stagers = make_stagers(settings, Memory(folder, verbose=0))
        for stager in stagers.values():
            stager.fit(X[train], y[train])
        stagers[SCALP] = stagers[FEATURES].teacher_
        inputs = {name: X[test].target_epochs for name in stagers}
        inputs[SCALP] = X[test].source_epochs
        costs = {
            name: cost_of(stager, inputs[name], folder) for name, stager in stagers.items()
        }
    kappa = {}
    for name, stager in stagers.items():
        report = staging_report(y[test], stager.predict(inputs[name]), groups=groups[test])
        kappa[name] = {who: score["kappa"] for who, score in report.per_subject.items()}
    return {
        "kappa": kappa,
        "costs": costs,
        "adapter": n_parameters(stagers[FEATURES].adapters_),
        "cpu_seconds": time.process_time() - began,
    }


def n_parameters(module):
    """Count the weights of a network."""
    return sum(parameter.numel() for parameter in module.parameters())


def cost_of(stager, X, folder):
    """Count a stager's parameters and the bytes of its file, and time its predictions."""
    file, seconds = Path(folder) / "stager.safetensors", []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Not kept in the file")
        save(stager, file)
    for _ in range(5):
        started = time.process_time()
        stager.predict(X)
        seconds.append(time.process_time() - started)
    return {
        "parameters": n_parameters(stager.module_),
        "bytes": file.stat().st_size,
        "ms": 1000 * min(seconds) / len(X),
    }


def as_rows(kappa, costs):
    """Write each method as a row: its costs, its kappa and its gain over the small ear."""
    rows = []
    for name in METHODS:
        cost = [costs[name][key] for key in ("parameters", "bytes")]
        low, high = bootstrap_interval(kappa[name])
        score = f"{kappa[name].mean():.3f} [{low:.3f}, {high:.3f}]"
        row = [name, *(f"{n:,}" for n in cost), f"{costs[name]['ms']:.2f}", score, "", ""]
        if name != ALONE:
            gain = kappa[name] - kappa[ALONE]
            low, high = bootstrap_interval(gain)
            row[5] = f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            if name not in (SCALP, EAR):
                row[6] = verdict(low, high)
        rows.append(row)
    return rows


def verdict(low, high):
    """Return what the interval of a gain shows."""
    if low <= 0 <= high:
        return "not shown to help"
    return "helps here" if low > 0 else "harms here"


def parse(arguments):
    """Read the command line: how it runs, and what the scores depend on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_run_options(parser, "4 people of 40 epochs, 2 folds, 1 pass")
    settings = {}
    for name, default, fast, text in (
        ("people", 12, 4, "people, one night each"),
        ("epochs", 200, 40, "30 s epochs of each night"),
        ("folds", 3, 2, "folds of people"),
        ("passes", 8, 1, "passes, over which the learning rate falls as a cosine"),
        ("lr", 3e-3, 3e-3, "learning rate of the first pass"),
        ("feature-weight", 10.0, 10.0, "weight of the feature term"),
        ("alpha", 0.9, 0.9, "share of the softmax term"),
        ("temperature", 2.0, 2.0, "temperature of the softmax term"),
        ("seed", 0, 0, "seed of people and networks"),
    ):
        help = f"{text} (default {default})"
        parser.add_argument(f"--{name}", type=type(default), help=help)
        settings[name.replace("-", "_")] = (default, fast)
    options = parser.parse_args(arguments)
    for name, values in settings.items():
        given = getattr(options, name)
        settings[name] = values[options.fast] if given is None else given
    return options, settings


def main(arguments=None):
    """Compute what is missing, and write the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, settings = parse(arguments)
    began = time.perf_counter()
    tasks = {
        f"fold_{fold}": dict(settings=settings, fold=fold)
        for fold in range(settings["folds"])
    }
    # The folds of other settings, and of other code, lie in another folder.
    cache = options.cache / f"small_student_{key_of([settings, source_digest()])}"
    done = resume(run_fold, tasks, cache, n_jobs=options.n_jobs, preload=["skleepkd"])
    results, n_new = {}, 0
    for name, result, is_new in progress(done, len(tasks), "Folds, simulated nights"):
        results[name], n_new = result, n_new + is_new
    minutes = (time.perf_counter() - began) / 60
    processor = sum(result["cpu_seconds"] for result in results.values()) / 60

    folds = [results[name] for name in tasks]
    kappa = {
        name: {who: k for fold in folds for who, k in fold["kappa"][name].items()}
        for name in METHODS
    }
    costs = {name: dict(folds[0]["costs"][name]) for name in METHODS}
    for name, cost in costs.items():
        cost["ms"] = float(np.median([fold["costs"][name]["ms"] for fold in folds]))
    subjects = list(kappa[ALONE])
    rows = as_rows({name: np.array(list(of.values())) for name, of in kappa.items()}, costs)
    header = ["method", "parameters", "file, bytes", "ms an epoch", "simulated kappa"]
    header += ["gain over the small one by itself", ""]
    smaller = costs[SCALP]["parameters"] / costs[ALONE]["parameters"]
    quicker = costs[SCALP]["ms"] / costs[ALONE]["ms"]
    values = [f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]
    text = f"""\
# A small student, simulated nights

`{shlex.join(["python", "benchmarks/small_student.py", *arguments])}`

{n_new} of {len(tasks)} folds were computed in this run, which took {minutes:.1f} minutes
with {options.n_jobs} process(es); all of them took {processor:.1f} minutes of processor time.

Settings: {", ".join(values)}. U-Time with the filters {LARGE} and
{SMALL}, Adam, batches of 32, epochs at 64 Hz. The small student has
{smaller:.0f} times fewer parameters than its teacher and predicts in {quicker:.1f} times less
processor time. The adapter has {folds[0]["adapter"]:,} parameters while the student is trained;
they are no part of what is kept.

In brackets: 95 % bootstrap intervals over the {len(subjects)} people, gains paired by person.
People of one fold are judged by the same trained networks, one training each, which the
intervals do not know. "Not shown to help": the interval of the gain holds 0.

{markdown_table(header, rows)}
"""
    lines = [
        {"method": name, "person": who, "kappa": k, **costs[name]}
        for name in METHODS
        for who, k in kappa[name].items()
    ]
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(options.output / "small_student.csv", lines)
    write(options.output / "small_student.md", text)
    print(text)


if __name__ == "__main__":
    main()
