"""The experiment of Joshi et al. (2021): an ECG staged with an EEG teacher.

Five methods with four stages (W L D R) and with three (W N R), and stronger baselines:
Tables I and II beside the paper's values, and the features of its Fig. 2. On simulated
nights, or with ``--data`` on MASS (the paper's own data) or on the PhysioNet/CinC Challenge
2018 (open). Results of finished fits are kept, so an interrupted run resumes where it was.

    python benchmarks/joshi2021.py --fast
    python benchmarks/joshi2021.py --n-jobs 2
    python benchmarks/joshi2021.py --data ~/mass --set mass

The default settings were chosen on the seed 100.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from _joshi2021_page import (
    SCHEMES,
    SHOWN,
    choose_alphas,
    draw_features,
    page_of,
    report_rows,
    rows_of_csv,
)
from _runs import (
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
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import OneCycleLR

from skleepkd import FineTunedSleepStager
from skleepkd.datasets import MassSplit, load_cinc2018, load_mass, make_cohort
from skleepkd.metrics import staging_report
from skleepkd.preprocessing import EpochScaler
from skleepkd.recipes import joshi2021
from skleepkd.stages import to_scheme

#: What each row of the tables is: a recipe, what is set on it, and its budget in passes,
#: or in passes over the same number of epochs where it reads sequences.
ROWS = {
    "eeg": ("eeg", {}, 1),
    "ecg": ("ecg", {}, 1),
    "sd+cl": ("sd+cl", {}, 1),
    "at+cl": ("at+cl", {}, 1),
    "at+sd+cl": ("at+sd+cl", {}, 1),
    "ecg-twice": ("ecg", {}, 2),
    "ecg-unweighted": ("ecg", {"class_weight": None}, 1),
    "ecg-sequences": ("ecg", {}, 2),
    "sd+cl-sequences": ("sd+cl", {}, 2),
}

#: Rows that are fitted one after the other, since later ones use results of earlier ones:
#: the EEG stager, the attention step, and the share of the softmax term.
STAGES = (
    ("eeg",),
    ("at+cl", "ecg-twice", "ecg", "ecg-unweighted", "ecg-sequences", "sd+cl"),
    ("at+sd+cl", "sd+cl-sequences"),
)

#: Rows with a softmax term whose share is chosen.
CHOSEN = ("sd+cl", "at+sd+cl")

#: Settings of the simulation, and those of the paper.
SIMULATED = {
    "sfreq": 50.0,
    "filters": [4, 8, 16, 32, 64, 128],
    "passes": 8,
    "batch_size": 32,
    "lr": 1e-2,
    "schedule": "one-cycle",
}
PAPER = {
    "sfreq": 200.0,
    "filters": [16, 32, 64, 128, 256, 512],
    "passes": 150,
    "batch_size": 256,
    "lr": 1e-3,
    "schedule": "constant",
}

#: What ``--fast`` sets.
FAST = {
    "people": [2, 1, 2],
    "epochs": 24,
    "sfreq": 4.0,
    "filters": [2] * 6,
    "passes": 1,
    "alphas": [0.5, 0.9],
    "sequence_length": 3,
}


# ---------------------------------------------------------------- one fit


def make_stager(settings, row, n_classes, alpha, split, n_epochs, memory):
    """Make the stager of a row; ``n_epochs`` is the number of epochs to train on."""
    recipe, params, budget = ROWS[row]
    passes, batch_size = budget * settings["passes"], settings["batch_size"]
    length = settings["sequence_length"] if row.endswith("sequences") else 1
    n_rows = n_epochs - (length - 1) * len(split["train"])
    # A pass over all windows reads each epoch ``length`` times.
    passes = max(1, round(passes / length))
    batch_size = max(2, round(batch_size / length))

    def options(passes, batch_size, n_rows):
        return {
            "max_epochs": passes,
            "batch_size": batch_size,
            "lr": settings["lr"],
            "callbacks": schedule(settings, passes, -(-n_rows // batch_size)),
            "module__filters": settings["filters"],
            "validation": tuple(split["validation"]),
        }

    own = options(passes, batch_size, n_rows)
    params = {"sequence_length": length, **params}
    if recipe == "ecg":
        stager = joshi2021("ecg", n_classes, random_state=settings["seed"], **own)
        return stager.set_params(**params)
    plain = options(settings["passes"], settings["batch_size"], n_epochs)
    teacher = joshi2021("ecg", n_classes, **plain)
    if recipe == "eeg":
        # The teacher of the other rows, so that one fit serves them all.
        return FineTunedSleepStager(
            teacher,
            trainable=None,
            memory=memory,
            validation=tuple(split["validation"]),
            random_state=settings["seed"],
        )
    student = joshi2021(recipe, n_classes, random_state=settings["seed"], **own)
    student.set_params(teacher=teacher, memory=memory, **params)
    return student if alpha is None else student.set_params(alpha=alpha)


def schedule(settings, passes, n_batches):
    """Make the callbacks that change the learning rate."""
    if settings["schedule"] == "constant":
        return []
    policy = {"max_lr": settings["lr"], "total_steps": passes * n_batches + 1}
    policy["last_epoch"] = -1  # anew in each of two steps, whatever the history holds
    return [("schedule", LRScheduler(OneCycleLR, step_every="batch", **policy))]


def fit_row(settings, row, n_classes, alpha, split, X, y, folder, name):
    """Fit a row, score it on the validation subjects, and stage the test subjects.

    Returns
    -------
    dict
        "predicted" of the test subjects, "validation_kappa", and the seconds of the fit.
    """
    train, validation, test = (np.isin(X.subject, split[part]) for part in split)
    y = to_scheme(y, SCHEMES[n_classes])
    memory = joblib.Memory(Path(folder) / "shared", verbose=0)
    n_epochs = int(train.sum())
    stager = make_stager(settings, row, n_classes, alpha, split, n_epochs, memory)
    rows = np.flatnonzero(train | validation)
    started, cpu_started = time.perf_counter(), time.process_time()
    stager.fit(X[rows], y[rows])
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    signal = X
    if row == "eeg":
        stager, signal = stager.pretrained_, X.source_epochs
    predicted = stager.predict(signal[np.flatnonzero(validation)])
    kappa = staging_report(y[validation], predicted, classes=SCHEMES[n_classes])
    signal = signal[np.flatnonzero(test)]
    if n_classes == 4 and not row.endswith("sequences"):
        # (n_epochs, filters, times) -> (n_epochs, filters): the bottleneck, over time
        features = stager.extract_features(signal, "bottom").mean(axis=2)
        np.save(Path(folder) / f"{name}.npy", features)
    return {
        "predicted": stager.predict(signal).tolist(),
        "validation_kappa": kappa.pooled["kappa"],
        "parameters": sum(p.numel() for p in stager.module_.parameters()),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


# ---------------------------------------------------------------- the cohort


def load_cohort(options):
    """Load or simulate nights, and scale each channel of each epoch from 0 to 1."""
    if options.data is None:
        cohort = make_cohort(
            sum(options.people),
            source=["C4-A1"],
            target=["ECG"],
            n_epochs=options.epochs,
            sfreq=options.sfreq,
            random_state=options.seed,
        )
    else:
        load = {"mass": load_mass, "cinc2018": load_cinc2018}[options.set]
        cache = options.cache / f"{options.set}-{options.sfreq:g}"
        cohort = load(options.data, sfreq=options.sfreq, cache=cache)
    return EpochScaler().fit_transform(cohort.X), cohort.y


def split_people(options, subjects):
    """Divide subjects into those of the training, the validation and the test."""
    subjects = np.unique(subjects)
    if options.data is not None and options.set == "mass":
        split = MassSplit(subjects)
        return {part: getattr(split, part) for part in ("train", "validation", "test")}
    sizes = options.people[:2]
    if options.data is not None:  # 80, 10 and 10 %, as in the paper
        n_held = max(1, round(0.1 * len(subjects)))
        sizes = [len(subjects) - 2 * n_held, n_held]
    drawn = np.random.RandomState(options.seed).permutation(subjects)
    parts = np.split(drawn, np.cumsum(sizes))
    names = ("train", "validation", "test")
    return {n: tuple(sorted(part.tolist())) for n, part in zip(names, parts, strict=True)}


def describe(options, X, y, split):
    """Return everything that a result depends on."""
    names = ("filters", "passes", "batch_size", "lr", "schedule", "sequence_length", "seed")
    return {
        "data": options.set if options.data else "simulated",
        "digest": digest_of(X, y),
        "people": [len(part) for part in split.values()],
        "split": joblib.hash(split),
        "epochs": len(X),
        "sfreq": X.sfreq["target"],
        **{name: getattr(options, name) for name in names},
        "source": source_digest(),
    }


# ---------------------------------------------------------------- the command


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="ROOT",
        help="folder of nights, held in memory; default: simulate",
    )
    add("--set", choices=("mass", "cinc2018"), default="mass", help="what ROOT holds")
    people = "simulated people to train on, to choose on and to test on, default 28 8 22"
    add("--people", type=int, nargs=3, default=[28, 8, 22], help=people)
    add("--epochs", type=int, default=80, help="epochs of a simulated night, default 80")
    add("--sfreq", type=float, help=f"hertz. Defaults: {SIMULATED}; with --data {PAPER}")
    add("--filters", type=int, nargs=6, help="filters of U-Time's levels")
    add("--passes", type=int, help="over the training epochs, in each of two steps")
    add("--batch-size", type=int, help="epochs in a batch")
    add("--lr", type=float, help="learning rate (its highest, with one-cycle)")
    add("--schedule", choices=("constant", "one-cycle"))
    add("--alphas", type=float, nargs="+", default=[0.1, 0.5, 0.9], help="grid of alpha")
    add("--sequence-length", type=int, default=5, help="of the rows with sequences")
    add("--seed", type=int, default=0, help="of simulation and training, default 0")
    add_run_options(parser, FAST)
    given = parser.parse_args(argv)
    defaults = PAPER if given.data else SIMULATED
    # What is given on the command line still counts.
    parser.set_defaults(**{**defaults, **(FAST if given.fast else {})})
    options = parser.parse_args(argv)
    if min(options.people) < 1 or options.people[2] < 2:
        parser.error("--people: an interval over subjects needs two in the test at least")
    return options


def make_tasks(rows, shared, alphas, chosen):
    """Name the fits of some rows in both schemes, the grid of alpha included."""
    tasks = {}
    for row in rows:
        for n_classes in SCHEMES:
            grid = alphas if row in CHOSEN else [None]
            if row == "sd+cl-sequences":
                grid = [chosen[n_classes]["sd+cl"]]
            for alpha in grid:
                suffix = f"_{alpha:g}" if row in CHOSEN else ""
                name = f"{row}{suffix}-{n_classes}"
                task = {"row": row, "n_classes": n_classes, "alpha": alpha, "name": name}
                tasks[name] = task | shared
    return tasks


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse(argv)
    started = time.perf_counter()
    X, y = load_cohort(options)
    split = split_people(options, X.subject)
    settings = describe(options, X, y, split)
    folder = options.cache / f"joshi2021-{key_of(settings)}"
    X = mapped(X, folder / "cohort")

    shared = {"settings": settings, "split": split, "X": X, "y": y, "folder": str(folder)}
    results, chosen, n_new = {n: {} for n in SCHEMES}, {}, 0
    preload = ["skleepkd.datasets", "skleepkd.plotting", "skleepkd.recipes"]
    record = folder / "runs.json"
    runs = json.loads(record.read_text()) if record.exists() else []
    try:
        for rows in STAGES:
            tasks = make_tasks(rows, shared, options.alphas, chosen)
            done = resume(fit_row, tasks, folder, n_jobs=options.n_jobs, preload=preload)
            for name, result, is_new in progress(done, len(tasks), "Fits"):
                task = tasks[name]
                about = {"row": task["row"], "alpha": task["alpha"]}
                results[task["n_classes"]][name] = result | about
                n_new += is_new
            chosen = choose_alphas(results)
    finally:
        if n_new:  # a run without new fits is not recorded
            seconds = time.perf_counter() - started
            runs.append({"seconds": seconds, "n_jobs": options.n_jobs})
            write(record, json.dumps(runs))

    test = np.isin(X.subject, split["test"])
    rows = {
        n: report_rows(
            results[n], chosen[n], to_scheme(y, SCHEMES[n])[test], X.subject[test]
        )
        for n in SCHEMES
    }
    command = shlex.join(["python", "benchmarks/joshi2021.py", *argv])
    options.output.mkdir(parents=True, exist_ok=True)
    seed = f"_seed{options.seed}" if options.seed else ""
    file = options.output / f"joshi2021_{settings['data']}{seed}.md"
    page = page_of(rows, results, settings, command, runs)
    write(file, page)
    write_csv(file.with_suffix(".csv"), rows_of_csv(rows, settings["data"]))
    truth = to_scheme(y, "wldr")[test]
    features = {row: np.load(folder / f"{rows[4][row].name}.npy") for row in SHOWN}
    figure = draw_features(features, rows[4], truth, settings["data"])
    figure.savefig(file.with_suffix(".png"), dpi=90)
    print(page)


if __name__ == "__main__":
    main()
