"""How many labelled nights does a wearable need, and what may its stager cost?

A stager of simulated ear-EEG over the number of labelled subjects, alone and with a scalp
stager to learn from; or with ``--student`` a small U-Time beside a large one. The pages say
what is compared (``pages/label_budget.md``).

    python benchmarks/label_budget.py --n-jobs 2
    python benchmarks/label_budget.py --student
"""

import sys
import tempfile
import warnings
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import tables
from joblib import Memory
from matplotlib.figure import Figure
from sklearn.model_selection import GroupKFold
from study import TERMS, Setting, Study, parse, tasks_of, terms, texts, training
from torch.utils.data import RandomSampler

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager, save
from skleepkd.datasets import make_cohort
from skleepkd.stages import is_unscored

text, BATCH_SIZE = texts(__file__), 32
SCALP, EAR, UNSCORED = "scalp (the teacher)", "ear alone", ", with unscored"
#: The colour and the line of each method; dashed where unscored nights are used.
LINES = {
    SCALP: ("0.6", "-"),
    EAR: ("black", "-"),
    "transfer": ("tab:orange", "-"),
    "features": ("tab:blue", "-"),
    f"features{UNSCORED}": ("tab:blue", "--"),
    "softmax": ("tab:green", "-"),
    f"softmax{UNSCORED}": ("tab:green", "--"),
}

#: Filters of the U-Times; both pool as the original does.
LARGE, SMALL = (16, 32, 64, 128, 256), (8, 12, 16, 24, 32)
POOLS = (10, 8, 6, 4)
TEACHER, AS_LARGE, ALONE = "scalp, large (the teacher)", "ear, large", "ear, small"
SOFTMAX, FEATURES = "ear, small, softmax", "ear, small, features by an adapter"
BOTH = "ear, small, both"
#: In the order of the table.
STUDENTS = (TEACHER, AS_LARGE, ALONE, SOFTMAX, FEATURES, BOTH)

LABELS_SETTINGS = {
    "labelled": Setting("numbers of labelled subjects", [2, 6, 20], [1, 2]),
    "repetitions": Setting("seeds of the repetitions", [0, 1, 2, 3], [100]),
    "epochs": Setting("epochs of each night", 300, 40),
    "test-subjects": Setting("subjects on whom all methods are judged", 12, 3),
    "unscored": Setting("paired nights without stages", 24, 2),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 10, 2),
    "steps": Setting("gradient steps of a pass", 80, 3),
    **TERMS,
}
STUDENT_SETTINGS = {
    "subjects": Setting("subjects, one night each", 12, 4),
    "epochs": Setting("epochs of each night", 200, 40),
    "folds": Setting("folds of subjects", 3, 2),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 8, 1),
    **TERMS,
    "seed": Setting("seed", 0),
}


# ---------------------------------------------------------------- label budget


def make_stagers(settings, seed, memory, n_labelled, n_paired):
    """Make an unfitted stager for each method but the scalp's, which is their teacher.

    All are seeded alike, ``memory`` keeps fitted teachers, and the numbers are those of
    epochs with stages and of epochs with and without. Methods "with unscored" are to be
    fitted to the latter.
    """

    def budget(n_epochs):
        # A pass takes the same number of epochs, however many there are: permutations of
        # all of them, one after the other, as far as they are needed.
        n_drawn = settings["steps"] * BATCH_SIZE
        sampler = RandomSampler(range(n_epochs), num_samples=n_drawn)
        of_pass = {"iterator_train__sampler": sampler, "iterator_train__shuffle": False}
        return training(settings["passes"], settings["lr"], BATCH_SIZE) | of_pass

    own = budget(n_labelled)
    # Without a random_state of its own the teacher takes the student's: one serves all.
    scalp = SleepStager("LogPowerNet", **own)
    shared = {"memory": memory, "random_state": seed}
    stagers = {
        EAR: SleepStager("LogPowerNet", random_state=seed, **own),
        "transfer": FineTunedSleepStager(scalp, **shared, **own),
    }
    features, softmax = terms(settings)
    features["alpha"] = 0.0
    shared |= {"start_from_teacher": True}
    for name, term in (("features", features), ("softmax", softmax)):
        for suffix, n_epochs in (("", n_labelled), (UNSCORED, n_paired)):
            stagers[name + suffix] = DistilledSleepStager(
                scalp, **shared, **term, **budget(n_epochs)
            )
    return stagers


def run_cell(settings, seed, labelled):
    """Train every method on some labelled subjects of the cohort of this seed."""
    n_test, n_epochs = settings["test_subjects"], settings["epochs"]
    how = {"unscored": settings["unscored"], "n_epochs": n_epochs, "random_state": seed}
    cohort = make_cohort(n_test + labelled, **how)
    X, y, groups = cohort.X, cohort.y, cohort.groups
    unscored = is_unscored(y)
    test = np.isin(groups, np.unique(groups[~unscored])[:n_test])
    labels = ~test & ~unscored
    with tempfile.TemporaryDirectory() as teachers:
        memory = Memory(teachers, verbose=0)
        stagers = make_stagers(settings, seed, memory, labels.sum(), (~test).sum())
        for name, stager in stagers.items():
            rows = ~test if name.endswith(UNSCORED) else labels
            stager.fit(X[rows], y[rows])
    stagers[SCALP] = stagers["transfer"].pretrained_
    inputs = dict.fromkeys(LINES, X[test]) | {SCALP: X[test].source_epochs}
    return {"rows": tables.judge_all(stagers, inputs, y[test])}


def lines_of(labelled, found):
    """Compare methods with the ear alone, as lines of the table.

    Means and intervals are over the subjects of all repetitions, whose subjects are others.
    """
    by_seed = found.frame.pivot_table("score", "seed", "method")
    for name, row in found.table.iterrows():
        gains = ", ".join(f"{gain:+.3f}" for gain in by_seed[name] - by_seed[EAR])
        line = {"labelled subjects": labelled, "method": name, **tables.cells_of(row)}
        yield line | {"difference by repetition": gains if name != EAR else ""}


def draw(found):
    """Draw kappa, and the gain over the ear alone, over the number of labelled subjects."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes, numbers = figure.subplots(1, 2), np.array(list(found))
    for k, (name, (color, style)) in enumerate(LINES.items()):
        rows = [one.table.loc[name] for one in found.values()]
        look = {"color": color, "linestyle": style, "label": name}
        places = numbers * 1.03 ** (k - 3)
        tables.error_bars(axes[0], places, [*map(tables.mean_of, rows)], **look)
        if name not in (SCALP, EAR):
            tables.error_bars(axes[1], places, [*map(tables.difference_of, rows)], **look)
    for ax in axes:
        ax.set(xscale="log", xlabel="Labelled subjects")
        ax.set_xticks(numbers, map(str, numbers))
        ax.set_xticks([], minor=True)
    axes[0].set_ylabel("Kappa")
    axes[0].legend(frameon=False, fontsize="small")
    axes[1].set_ylabel("Gain in kappa over the ear alone")
    axes[1].axhline(0, color="black", linewidth=0.8)
    figure.suptitle("Simulated nights: kappa on new subjects, 95 % intervals over subjects")
    return figure


def label_budget(study):
    """Train all cells, and write table and picture."""
    options, run, lines = study.options, ("labelled", "repetitions"), []
    settings = {n: value for n, value in options.settings.items() if n not in run}
    tasks = tasks_of(labelled=sorted(options.labelled), seed=options.repetitions)
    results = study.run(run_cell, tasks, settings=settings)
    rows, found = tables.rows_of(results, "labelled", "seed"), {}
    for n in sorted(options.labelled):
        own = [row for row in rows if row["labelled"] == n]
        found[n] = tables.comparison(own, EAR, SCALP)
        lines += lines_of(n, found[n])
    n_steps, table = options.passes * options.steps, tables.markdown_table(lines)
    page = text("budget", batch_size=BATCH_SIZE, n_steps=n_steps, table=table)
    head = study.head("Label budget, simulated nights")
    study.write("label_budget", [*head, page], rows, draw(found))


# ---------------------------------------------------------------- small student


def make_students(settings, memory):
    """Make an unfitted stager for each method but the scalp's, which is their teacher."""
    own = training(settings["passes"], settings["lr"], BATCH_SIZE)

    def supervised(filters, **parameters):
        network = {"module__filters": filters, "module__pools": POOLS}
        return SleepStager("UTime", **network, **own, **parameters)

    features, softmax = terms(settings)
    adapted = features | {"layers": "bottom", "adapter": "linear"}
    ways = {SOFTMAX: softmax, FEATURES: adapted | {"alpha": 0.0}, BOTH: softmax | adapted}
    # Without a random_state of its own the teacher takes the student's: one serves all.
    seed, teacher = settings["seed"], supervised(LARGE)
    shared = {"memory": memory, "random_state": seed, "start_from_teacher": False, **own}
    return {
        AS_LARGE: supervised(LARGE, random_state=seed),
        ALONE: supervised(SMALL, random_state=seed),
        **{
            name: DistilledSleepStager(teacher, module__filters=SMALL, **way, **shared)
            for name, way in ways.items()
        },
    }


def run_fold(settings, n_folds, fold):
    """Train every student on a fold's training subjects, and test it on the others."""
    how = {"n_epochs": settings["epochs"], "random_state": settings["seed"]}
    cohort = make_cohort(settings["subjects"], **how)
    X, y = cohort.X, cohort.y
    train, test = list(GroupKFold(n_folds).split(X, y, X.subject))[fold]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stagers = make_students(settings, Memory(folder, verbose=0))
        for stager in stagers.values():
            stager.fit(X[train], y[train])
        stagers[TEACHER] = stagers[FEATURES].teacher_
        inputs = dict.fromkeys(STUDENTS, X[test].target_epochs)
        inputs[TEACHER] = X[test].source_epochs
        for name, of in inputs.items():
            about = {"method": name, **cost_of(stagers[name], of, folder)}
            rows += tables.judge(stagers[name], of, y[test], **about)
    return {"rows": rows, "adapter": n_parameters(stagers[FEATURES].adapters_)}


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
        started = process_time()
        stager.predict(X)
        seconds.append(process_time() - started)
    return {
        "parameters": n_parameters(stager.module_),
        "bytes": file.stat().st_size,
        "ms": 1000 * min(seconds) / len(X),
    }


def small_student(study):
    """Train all folds, and write the table."""
    options = study.options
    settings = {name: v for name, v in options.settings.items() if name != "folds"}
    tasks = tasks_of(fold=range(options.folds))
    folds = study.run(run_fold, tasks, settings=settings, n_folds=options.folds)
    rows = tables.rows_of(folds, "fold")
    frame = pd.DataFrame(rows)
    costs = frame.drop_duplicates(["fold", "method"]).groupby("method", sort=False)
    costs = costs[["parameters", "bytes", "ms"]].median()
    kappas, lines = frame.pivot_table("kappa", "subject", "method", sort=False), []
    for name, cost in costs.iterrows():
        line = {"method": name, "parameters": f"{cost['parameters']:,.0f}"}
        line["file, bytes"] = f"{cost['bytes']:,.0f}"
        line["ms an epoch"] = f"{cost['ms']:.2f}"
        line["simulated kappa"] = tables.mean(kappas[name])
        gain = tables.gain_of(kappas[name], kappas[ALONE])
        is_other = name != ALONE
        line["gain over the small one by itself"] = tables.signed(gain) if is_other else ""
        judged = name in (SOFTMAX, FEATURES, BOTH)
        lines.append(line | {"": tables.verdict(gain) if judged else ""})
    smaller, quicker = (costs.loc[TEACHER] / costs.loc[ALONE])[["parameters", "ms"]]
    (adapter,) = {fold["adapter"] for fold in folds.values()}
    about = {"large": LARGE, "small": SMALL, "batch_size": BATCH_SIZE, "adapter": adapter}
    about |= {"smaller": smaller, "quicker": quicker, "n_subjects": len(kappas)}
    page = text("student", table=tables.markdown_table(lines), **about)
    head = study.head("A small student, simulated nights")
    study.write("small_student", [*head, page], rows)


def read_options(argv=None):
    """Read the command line."""
    argv = sys.argv[1:] if argv is None else argv
    settings = STUDENT_SETTINGS if "--student" in argv else LABELS_SETTINGS
    return parse(__doc__, settings, argv, student="the small student")


def main(argv=None):
    """Run one of the two."""
    options = read_options(argv)
    study = Study("label_budget", options)
    small_student(study) if options.student else label_budget(study)


if __name__ == "__main__":
    main()
