"""How many labelled nights does a wearable need, and what do unscored nights give?

A stager of simulated ear-EEG is trained on 2, 6 and 20 labelled subjects: by itself, from
the weights of a scalp stager (transfer), and distilled from that scalp stager. The
distilled ones begin at the teacher's weights and follow its features or its outputs
(softmax), with the labelled nights alone and with 24 more nights that both devices recorded
and nobody scored: those have only the teacher's terms, no cross-entropy.

Every training has the same network, optimiser, schedule and number of gradient steps,
whatever the number of nights, and keeps its last weights. The scalp stager is trained on
the labelled subjects' scalp nights alone, with as many steps, before the methods that use
it. All are scored by kappa on the same subjects, on whom nothing is trained. A repetition
is another simulated cohort; in it the fewer labelled subjects are among the more.

All nights are **simulated**: nothing here says how many real nights are needed.

Run it with ``python benchmarks/label_budget.py``. It writes ``label_budget.csv`` (a row for
each subject, method, number of labelled subjects and repetition), ``.md`` and ``.png``.
Interrupted, it goes on with the cells (repetition and number of labelled subjects) that are
not in the folder ``benchmarks/cache`` yet. The default settings were chosen on the seeds
100 and 101.
"""

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from _runs import markdown_table, progress, resume, source_digest, write, write_csv
from joblib import Memory
from matplotlib.figure import Figure
from skorch.callbacks import LRScheduler
from torch.utils.data import RandomSampler

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import FeatureMSE
from skleepkd.metrics import bootstrap_interval, gap_closed, staging_report
from skleepkd.stages import is_unscored

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

BATCH_SIZE = 32
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


def make_stagers(settings, seed, memory, n_labelled, n_paired):
    """Make an unfitted stager for each method but the scalp's, which is their teacher.

    All are seeded alike, ``memory`` keeps fitted teachers, and the numbers are those of
    epochs with stages and of epochs with and without. Methods "with unscored" are to be
    fitted to the latter.
    """

    def budget(n_epochs):
        # A pass takes the same number of epochs, however many there are: permutations of
        # all of them, one after the other, as far as they are needed.
        n_drawn = settings.steps * BATCH_SIZE
        return {
            "iterator_train__sampler": RandomSampler(range(n_epochs), num_samples=n_drawn),
            "iterator_train__shuffle": False,
            "batch_size": BATCH_SIZE,
            "max_epochs": settings.passes,
            "lr": settings.lr,
            "callbacks": [LRScheduler("CosineAnnealingLR", T_max=settings.passes)],
            "validation": None,
        }

    own = budget(n_labelled)
    # Without a random_state of its own the teacher takes the student's: one serves all.
    scalp = SleepStager(SmallNetwork, classes="aasm", **own)
    ear = SleepStager(SmallNetwork, classes="aasm", random_state=seed, **own)
    shared = {"memory": memory, "random_state": seed}
    stagers = {EAR: ear, "transfer": FineTunedSleepStager(scalp, **shared, **own)}
    mse = FeatureMSE(standardize=True)
    features = {"feature_loss": mse, "feature_weight": settings.feature_weight}
    softmax = {"alpha": settings.alpha, "temperature": settings.temperature}
    softmax["feature_loss"] = None
    shared |= {"classes": "aasm", "start_from_teacher": True}
    for name, term in (("features", features), ("softmax", softmax)):
        for suffix, n_epochs in (("", n_labelled), (UNSCORED, n_paired)):
            stagers[name + suffix] = DistilledSleepStager(
                scalp, **shared, **term, **budget(n_epochs)
            )
    return stagers


def run_cell(settings, seed, labelled):
    """Train every method on some labelled subjects of the cohort of this seed.

    Returns
    -------
    dict
        "kappa", by method and test subject, and "cpu_seconds" of processor time.
    """
    began = time.process_time()
    cohort = make_cohort(
        settings.test_people + labelled,
        unscored=settings.unscored,
        n_epochs=settings.epochs,
        random_state=seed,
    )
    X, y, groups = cohort.X, cohort.y, cohort.groups
    unscored = is_unscored(y)
    test = np.isin(groups, np.unique(groups[~unscored])[: settings.test_people])
    training = ~test & ~unscored
    predicted = {}
    with tempfile.TemporaryDirectory() as teachers:
        memory = Memory(teachers, verbose=0)
        stagers = make_stagers(settings, seed, memory, training.sum(), (~test).sum())
        for name, stager in stagers.items():
            rows = ~test if name.endswith(UNSCORED) else training
            predicted[name] = stager.fit(X[rows], y[rows]).predict(X[test])
    teacher = stagers["transfer"].pretrained_
    predicted[SCALP] = teacher.predict(X[test].source_epochs)
    kappa = {}
    for name in LINES:
        scores = staging_report(y[test], predicted[name], groups=groups[test]).per_subject
        kappa[name] = {subject: score["kappa"] for subject, score in scores.items()}
    return {"kappa": kappa, "cpu_seconds": time.process_time() - began}


def summarise(kappa):
    """Compare methods, each with kappas of shape (n_repetitions, n_people), with the ear.

    Means and bootstrap intervals are over the subjects of all repetitions, "gains" are the
    mean gains over the ear alone in each repetition.
    """
    summary = {}
    for name, scores in kappa.items():
        gain = scores - kappa[EAR]
        summary[name] = {
            "kappa": scores.mean(),
            "kappa_interval": bootstrap_interval(scores.ravel()),
            "gain": gain.mean(),
            "gain_interval": bootstrap_interval(gain.ravel()),
            "gains": gain.mean(axis=1),
            "closed": gap_closed(kappa[SCALP].ravel(), kappa[EAR].ravel(), scores.ravel()),
        }
    return summary


def as_rows(labelled, summary):
    """Write a summary as rows of the table."""
    rows = []
    for name, of in summary.items():
        low, high = of["kappa_interval"]
        row = [labelled, name, f"{of['kappa']:.3f} [{low:.3f}, {high:.3f}]", "", "", ""]
        if name != EAR:
            low, high = of["gain_interval"]
            row[3] = f"{of['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"
            row[4] = ", ".join(f"{gain:+.3f}" for gain in of["gains"])
        if name not in (EAR, SCALP):
            low, high = of["closed"].share_interval
            share = f"{of['closed'].share:.0%} [{low:.0%}, {high:.0%}]"
            row[5] = share if of["closed"].has_gap else "no gap"
        rows.append(row)
    return rows


def draw(summaries):
    """Draw kappa, and the gain over the ear alone, over the number of labelled subjects."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    numbers = np.array(list(summaries))
    for ax, score in zip(axes, ("kappa", "gain"), strict=True):
        for k, (name, (color, style)) in enumerate(LINES.items()):
            if score == "gain" and name in (SCALP, EAR):
                continue
            mean = np.array([summary[name][score] for summary in summaries.values()])
            ends = [summary[name][f"{score}_interval"] for summary in summaries.values()]
            beside = numbers * 1.03 ** (k - 3)
            look = {"color": color, "linestyle": style, "marker": "o", "capsize": 2}
            ax.errorbar(beside, mean, abs(np.transpose(ends) - mean), label=name, **look)
        ax.set(xscale="log", xlabel="Labelled people")
        ax.set_xticks(numbers, map(str, numbers))
        ax.set_xticks([], minor=True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Kappa")
    axes[0].legend(frameon=False, fontsize="small")
    axes[1].set_ylabel("Gain in kappa over the ear alone")
    axes[1].axhline(0, color="black", linewidth=0.8)
    figure.suptitle("Simulated nights: kappa on new people, 95 % intervals over people")
    return figure


def parse(arguments):
    """Read the command line: all options, and those that the scores depend on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    for name, default, text in (
        ("labelled", [2, 6, 20], "numbers of labelled people"),
        ("repetitions", [0, 1, 2, 3], "seeds of the repetitions"),
        ("n-jobs", 2, "cells that are computed at the same time"),
        ("output", here / "results", "folder of tables and picture"),
        ("cache", here / "cache", "folder of the cells that are computed"),
        ("epochs", 300, "30 s epochs of each night"),
        ("test-people", 12, "people on whom all methods are judged"),
        ("unscored", 24, "paired nights without stages"),
        ("passes", 10, "passes, over which the learning rate falls as a cosine"),
        ("steps", 80, "gradient steps of a pass"),
        ("lr", 3e-3, "learning rate of the first pass"),
        ("feature-weight", 10.0, "weight of the feature term"),
        ("alpha", 0.9, "share of the softmax term"),
        ("temperature", 2.0, "temperature of the softmax term"),
    ):
        several = {"type": int, "nargs": "+"} if isinstance(default, list) else {}
        options = {"default": default, "type": type(default), **several}
        parser.add_argument(f"--{name}", help=f"{text} (%(default)s)", **options)
    options = vars(parser.parse_args(arguments))
    run = ("labelled", "repetitions", "n_jobs", "output", "cache")
    settings = {name: value for name, value in options.items() if name not in run}
    return argparse.Namespace(**options), argparse.Namespace(**settings)


def main(arguments=None):
    """Compute what is missing, and write tables and picture."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, settings = parse(arguments)
    began = time.perf_counter()
    tasks = {
        f"repetition_{seed}_labelled_{n}": dict(settings=settings, seed=seed, labelled=n)
        for seed in options.repetitions
        for n in options.labelled
    }
    # The cells of other settings, and of other code, lie in another folder.
    key = joblib.hash((vars(settings), source_digest()))[:8]
    cache = options.cache / f"label_budget_{key}"
    done = resume(run_cell, tasks, cache, n_jobs=options.n_jobs, preload=["skleepkd"])
    cells, n_new = {}, 0
    for name, cell, is_new in progress(done, len(tasks), "Cells, simulated nights"):
        cells[name], n_new = cell, n_new + is_new
    minutes = (time.perf_counter() - began) / 60
    processor = sum(cell["cpu_seconds"] for cell in cells.values()) / 60

    lines, rows, summaries = [], [], {}
    for n in sorted(options.labelled):
        kappa = {name: [] for name in LINES}
        for seed in options.repetitions:
            of_seed = cells[f"repetition_{seed}_labelled_{n}"]["kappa"]
            for name, scores in of_seed.items():
                about = {"repetition": seed, "labelled": n, "method": name}
                lines += [about | {"person": who, "kappa": k} for who, k in scores.items()]
                kappa[name].append(list(scores.values()))
        summaries[n] = summarise({name: np.array(of) for name, of in kappa.items()})
        rows += as_rows(n, summaries[n])

    values = [f"{name.replace('_', ' ')} {value}" for name, value in vars(settings).items()]
    header = ["labelled people", "method", "simulated kappa", "gain over the ear alone"]
    text = f"""\
# Label budget, simulated nights

`{shlex.join(["python", "benchmarks/label_budget.py", *arguments])}`

{n_new} of {len(tasks)} cells (repetition and number of labelled people) were computed in
this run, which took {minutes:.1f} minutes with {options.n_jobs} process(es); all of them
took {processor:.1f} minutes of processor time.

Settings: {", ".join(values)}; repetitions {options.repetitions}. SmallNetwork of
`examples/small_network.py`, Adam, batches of {BATCH_SIZE}; each training is
{settings.passes * settings.steps} gradient steps. Transfer, features
and softmax begin at the weights of the teacher, which has had as many.

In brackets: 95 % bootstrap intervals over the people of all repetitions, the scores of a
person kept together. People of one repetition are judged by the same trained networks,
which the intervals do not know; so the gain of each repetition stands beside them.

{markdown_table([*header, "gain by repetition", "gap closed"], rows)}
"""
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(options.output / "label_budget.csv", lines)
    write(options.output / "label_budget.md", text)
    draw(summaries).savefig(options.output / "label_budget.png", dpi=150)
    print(text)


if __name__ == "__main__":
    main()
