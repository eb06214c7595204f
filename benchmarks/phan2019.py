"""The experiment of Phan et al. (2019): SeqSleepNet, from one channel to another.

A network is pretrained on C4-A1 of a large cohort and transferred to a small one, to
another EEG channel (Fpz-Cz) and to the EOG: the six rows of Tables I and II beside the
paper's values, some of our own, and the test accuracy over training steps (Fig. 3). On
simulated nights, or with ``--data`` on Sleep-EDF (the paper's own data). Results of
finished fits are kept, so an interrupted run resumes where it was; so is the pretrained
network, which ``--pretrained`` reuses.

    python benchmarks/phan2019.py --fast
    python benchmarks/phan2019.py --n-jobs 2
    python benchmarks/phan2019.py --data ~/sleep-edfx --source ~/mass

The default settings were chosen on the seed 100.
"""

import argparse
import hashlib
import shlex
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
from _phan2019_cohorts import CHANNELS, SOURCES, load_source, load_target, make_folds
from _phan2019_page import (
    FILES,
    NEIGHBOURS,
    SCENARIOS,
    draw_curves,
    page_of,
    rows_of_csv,
)
from _runs import (
    WatchSteps,
    add_run_options,
    digest_of,
    key_of,
    mapped,
    progress,
    resume,
    source_digest,
    write,
    write_csv,
)
from sklearn.utils import Bunch

from skleepkd import load, save
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.metrics import staging_report
from skleepkd.preprocessing import LogSpectrogram
from skleepkd.recipes import phan2019

#: What each row of the tables is: a recipe, what is set on it, its budget in passes.
ROWS = {
    "all": ("all", {}, 1),
    "softmax+arnn": ("softmax+arnn", {}, 1),
    "softmax+seqrnn": ("softmax+seqrnn", {}, 1),
    "softmax": ("softmax", {}, 1),
    "direct": ("direct", {}, 1),
    "scratch": ("scratch", {}, 1),
    "scratch-twice": ("scratch", {}, 2),
    "all-neighbours": ("all", {"neighbouring_windows": NEIGHBOURS}, 1),
    "scratch-neighbours": ("scratch", {"neighbouring_windows": NEIGHBOURS}, 1),
}

SCRATCH = ("scratch", "scratch-twice", "scratch-neighbours")

#: Modules that a process of a fit imports first.
PRELOAD = ("skleepkd.datasets", "skleepkd.plotting", "skleepkd.recipes")

#: Settings of the simulation, and those of the paper.
SIMULATED = {
    "sequence_length": 20,
    "passes": 4,
    "source_passes": 3,
    "lr": 1e-3,
    "every": 10,
    "patience": 10,
    "min_steps": 100,
    "validation": 2,
}
PAPER = {
    "sequence_length": 20,
    "passes": 10,
    "source_passes": 10,
    "lr": 1e-4,
    "every": 10,
    "patience": 50,
    "min_steps": 1000,
    "validation": 4,
}

#: What ``--fast`` sets.
FAST = {
    "people": 6,
    "source_people": 2,
    "epochs": 24,
    "folds": 2,
    "hidden": 4,
    "sequence_length": 4,
    "passes": 1,
    "source_passes": 1,
    "every": 2,
    "patience": 2,
    "min_steps": 0,
    "validation": 1,
}

# ---------------------------------------------------------------- one fit


def run_task(function, arguments):
    """Call a function, as :func:`_runs.resume` needs it."""
    return function(**arguments)


def pretrain(settings, X, y, file):
    """Train a network on the source cohort, all of it, and save it.

    Returns
    -------
    dict
        Loss by pass, the number of steps, and the seconds of the fit.
    """
    spectra = LogSpectrogram().fit_transform(X)
    stager = phan2019(
        "scratch",
        validation=None,
        callbacks__best_weights=None,
        max_epochs=settings["source_passes"],
        random_state=settings["seed"],
        **network_options(settings),
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    stager.fit(spectra, y)
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    save(stager, file)
    return {
        "losses": stager.history_[:, "train_loss"],
        "steps": sum(len(row["batches"]) for row in stager.history_),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def fit_fold(settings, row, test, held_out, X, y, pretrained):
    """Fit one row without the test subjects of a fold, and stage them.

    Returns
    -------
    dict
        Predictions by test subject, evaluations of the test subjects over the steps, and
        the seconds of the fit without them.
    """
    method, params, factor = ROWS[row]
    tests = np.isin(X.subject, test)
    # As in the paper, validation subjects do not count for the statistics of frequencies.
    learns = ~tests & ~np.isin(X.subject, held_out)
    spectra = LogSpectrogram().fit(X[learns]).transform(X)
    watch = WatchSteps(spectra[tests], y[tests], every=settings["every"])
    options = network_options(settings)
    if method != "scratch":
        options = {"lr": options["lr"]}
    stager = phan2019(
        method,
        None if method == "scratch" else load(pretrained),
        max_epochs=factor * settings["passes"],
        validation=tuple(held_out),
        random_state=settings["seed"],
        callbacks=[("watch", watch)],
        callbacks__best_weights=StepwiseValidation(
            settings["every"], settings["patience"], settings["min_steps"]
        ),
        **options,
        **params,
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    stager.fit(spectra[~tests], y[~tests])
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    callbacks = dict(stager.callbacks_)
    watch = callbacks["watch"]
    return {
        "predicted": {
            subject: stager.predict(spectra[X.subject == subject]).tolist()
            for subject in test
        },
        "looks": watch.looks_,
        "steps": watch.steps_,
        "best_step": callbacks["best_weights"].best_step_,
        "held_out": list(held_out),
        "seconds": seconds - watch.seconds,
        "cpu_seconds": cpu_seconds - watch.cpu_seconds,
    }


def network_options(settings):
    """Return what the network from scratch and the pretrained one have in common."""
    return {
        "lr": settings["lr"],
        "sequence_length": settings["sequence_length"],
        "module__hidden_size": settings["hidden"],
    }


# ---------------------------------------------------------------- all fits


def describe(options, cohorts, pretraining):
    """Return everything that a result depends on."""
    names = ("sequence_length", "hidden", "passes", "source_passes", "lr", "every")
    names += ("patience", "min_steps", "validation", "seed")
    X, _ = cohorts["eeg"]
    return {
        "data": "Sleep-EDF" if options.data else "simulated",
        "digest": [digest_of(*cohort) for cohort in cohorts.values()],
        "pretraining": pretraining,
        "people": len(np.unique(X.subject)),
        "epochs": len(X),
        "folds": None if options.data else options.folds,  # of real subjects, a choice
        **{name: getattr(options, name) for name in names},
        "source": source_digest(),
    }


def make_tasks(settings, cohorts, folds, file, cache):
    """Name the fits of all scenarios, rows and folds; a name is a path in the cache."""
    place = f"phan2019-{key_of(settings)}"
    tasks = {}
    for scenario, (X, y) in cohorts.items():
        X = mapped(X, cache / place / f"cohort-{scenario}")
        shared = {"settings": settings, "X": X, "y": y, "pretrained": file}
        for row in ROWS if scenario in SCENARIOS else ("direct",):
            for number, (test, held_out) in enumerate(folds, 1):
                own = {"row": row, "test": test, "held_out": held_out}
                tasks[f"{place}/{scenario}-{row}-{number}"] = {
                    "function": fit_fold,
                    "arguments": {**shared, **own},
                }
    return tasks


def gather(results, tasks, cohorts):
    """Collect the folds of each scenario and row.

    Returns
    -------
    dict of str to dict of str to Bunch
        By scenario and row: "folds", their results, and "report", the scores of all test
        subjects.
    """
    found = {}
    for name, task in tasks.items():
        scenario = name.split("/")[1].split("-")[0]
        rows = found.setdefault(scenario, {})
        rows.setdefault(task["arguments"]["row"], []).append(results[name])
    return {
        scenario: {
            row: Bunch(folds=folds, report=report(folds, *cohorts[scenario]))
            for row, folds in rows.items()
        }
        for scenario, rows in found.items()
    }


def report(folds, X, y):
    """Score the test subjects of all folds, pooled and each."""
    by_subject = {s: p for fold in folds for s, p in fold["predicted"].items()}
    rows = np.concatenate([np.flatnonzero(X.subject == subject) for subject in by_subject])
    predicted = np.concatenate(list(by_subject.values()))
    return staging_report(y[rows], predicted, groups=X.subject[rows])


# ---------------------------------------------------------------- the command


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="ROOT", help="folder of Sleep-EDF; default: simulate")
    add("--source", type=Path, metavar="ROOT", help="folder of nights to pretrain on")
    add("--source-set", choices=SOURCES, default="mass", help="what --source holds")
    add("--pretrained", type=Path, metavar="FILE", help="a network that was saved before")
    add("--people", type=int, default=12, help="simulated target people, default 12")
    add("--source-people", type=int, default=20, help="to pretrain on, default 20")
    add("--epochs", type=int, default=200, help="epochs of each, default 200 (100 minutes)")
    folds = (
        "simulated people are divided into so many, default 4; of the real ones, the first"
    )
    add("--folds", type=int, help=folds)
    add("--hidden", type=int, default=64, help="width of the recurrent networks")
    add("--sequence-length", type=int, help=f"default {SIMULATED}; with --data {PAPER}")
    add("--passes", type=int, help="over the target's training sequences")
    add("--source-passes", type=int, help="over the source's")
    add("--lr", type=float, help="learning rate")
    add("--every", type=int, help="steps between evaluations (and looks at the test)")
    add("--patience", type=int, help="evaluations without improvement before the end")
    add("--min-steps", type=int, help="steps before which there is no end")
    add("--validation", type=int, metavar="N", help="training people who choose the step")
    add("--seed", type=int, default=0, help="of simulation and training, default 0")
    add_run_options(parser, FAST)
    given = parser.parse_args(argv)
    defaults = PAPER if given.data else {**SIMULATED, "folds": 4}
    # What is given on the command line still counts.
    parser.set_defaults(**{**defaults, **(FAST if given.fast else {})})
    options = parser.parse_args(argv)
    if options.data and not (options.source or options.pretrained):
        parser.error("--data needs --source or --pretrained: real nights to begin with")
    if options.folds is not None and options.folds < 2:
        parser.error("--folds: an interval over people needs two folds at least")
    if not options.data and options.people < options.folds:
        parser.error("--people: one for each fold at least")
    return options


def check_network(options, file):
    """Refuse a pretrained network of another size than the one from scratch."""
    stager = load(file)
    found = stager.sequence_length, stager.module_.sequence_rnn.hidden_size
    if found != (options.sequence_length, options.hidden):
        raise SystemExit(
            f"{file} reads {found[0]} epochs at a time with recurrent networks of width "
            f"{found[1]}: give --sequence-length and --hidden as there, so that the network "
            "from scratch is the same."
        )


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    started = time.perf_counter()

    scenarios = [name for name, (_, real) in CHANNELS.items() if real or not options.data]
    cohorts = {scenario: load_target(options, scenario) for scenario in scenarios}
    folds = make_folds(options, cohorts["eeg"][0].subject)
    first = {}
    file = options.pretrained
    if file is None:
        X, y = load_source(options)
        names = ("source_passes", "lr", "sequence_length", "hidden", "seed")
        pretraining = {name: getattr(options, name) for name in names}
        pretraining |= {"digest": digest_of(X, y), "source": source_digest()}
        place = f"phan2019-pretrained-{key_of(pretraining)}"
        file = options.cache / place / "c4-a1.safetensors"
        X = mapped(X, options.cache / place / "cohort")
        arguments = {"settings": pretraining, "X": X, "y": y, "file": file}
        first[f"{place}/fit"] = {"function": pretrain, "arguments": arguments}
        pretraining["people"] = len(np.unique(X.subject))
    else:
        check_network(options, file)
        pretraining = {"file": hashlib.sha256(file.read_bytes()).hexdigest()}
    settings = describe(options, cohorts, pretraining)
    tasks = make_tasks(settings, cohorts, folds, file, options.cache)

    # What needs no pretrained network comes first, beside the pretraining.
    alone = {n: task for n, task in tasks.items() if task["arguments"]["row"] in SCRATCH}
    rest = {name: task for name, task in tasks.items() if name not in alone}
    fits = chain.from_iterable(
        resume(run_task, part, options.cache, n_jobs=options.n_jobs, preload=PRELOAD)
        for part in (first | alone, rest)
    )
    results, n_new = {}, 0
    for name, result, is_new in progress(fits, len(first | tasks), "Fits"):
        results[name] = result
        n_new += is_new
    pretrained = next((results.pop(name) for name in first), None)
    found = gather(results, tasks, cohorts)
    run = {
        "command": shlex.join(["python", "benchmarks/phan2019.py", *argv]),
        "seconds": time.perf_counter() - started,
        "n_jobs": options.n_jobs,
        "n_new": n_new,
        "n_fits": len(first | tasks),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    output = options.output / f"{FILES[settings['data']]}.md"
    page = page_of(found, pretrained, settings, run)
    write(output, page)
    write_csv(output.with_suffix(".csv"), rows_of_csv(found, settings["data"]))
    draw_curves(found, settings["data"]).savefig(output.with_suffix(".png"), dpi=90)
    print(page)


if __name__ == "__main__":
    main()
