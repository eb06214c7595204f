"""What does distillation do on real nights? Ten people of Sleep-EDF, two nights of UCDDB.

The page says what is compared (``pages/real_nights.md``); its part on UCDDB is made by
``real_nights_ucddb.py``.

``--data`` is the folder of ``sleep_edf_features/features.npz`` and ``ucddb/ucddb018.npz`` and
the like. The first holds what the public repository matteo-omizzolo/sleep-EDF (MIT) computed
from Sleep-EDF Expanded (https://physionet.org/content/sleep-edfx), the second signals of the
repository kakao-bits/SleepEEgClassification, from UCDDB (https://physionet.org/content/ucddb).
Without them ``--sleep-edf FOLDER`` computes the same numbers from the recordings of Sleep-EDF
themselves (``skleepkd.datasets.fetch_sleep_edf`` downloads them), and UCDDB is left out.

    python benchmarks/real_nights.py --data ../shared/data --n-jobs 2
    python benchmarks/real_nights.py --data ../shared/data --development
"""

import numpy as np
import pandas as pd
import tables
from matplotlib.figure import Figure
from real_nights_runs import (
    ALONE,
    CONTROL,
    FOLLOWED,
    NO_LABEL,
    TEACHER,
    UNSCORED,
    compute_features,
    read_features,
    run_few,
    run_fold,
)
from real_nights_ucddb import two_nights
from study import TERMS, Setting, Study, folder, parse, tasks_of, texts

from skleepkd.metrics.subjects import over_subjects

text = texts(__file__)
SETTINGS = {
    "seeds": Setting("seeds, each with its own draw of people", [0, 1, 2], [0]),
    "people": Setting("people, the first of SC400 to SC409", 10, 4),
    "scored": Setting("numbers of scored people", [1, 2, 4], [1]),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 10, 1),
    "steps": Setting("steps of a pass, of 256 epochs", 12, 2),
    "sequence-steps": Setting("steps of a pass, of 32 sequences", 10, 2),
    "night-passes": Setting("passes of 25 steps of 32 epochs on UCDDB", 15, 1),
    **TERMS,
    "lr": Setting("learning rate of the first pass (Adam)", 0.006),
}
#: What ``--development`` tries, one setting at a time, and on which runs.
SEARCH = {
    "lr": ("few", [0.002, 0.02], [ALONE, UNSCORED, NO_LABEL, CONTROL]),
    "steps": ("few", [6, 24], [ALONE, UNSCORED, NO_LABEL, CONTROL]),
    "alpha": ("few", [0.5, 1.0], [UNSCORED]),
    "temperature": ("few", [1.0, 4.0], [UNSCORED, NO_LABEL]),
    "feature_weight": ("fold", [1.0, 100.0], [ALONE, "offline"]),
    "sequence_steps": ("sequences", [20], [ALONE, "softmax"]),
}
#: What ``--quick`` prints.
QUICK = [TEACHER, ALONE, UNSCORED, NO_LABEL, CONTROL]
#: On whom nothing was chosen.
UNSEEN = [f"SC40{k}" for k in range(5, 10)]

# ---------------------------------------------------------------- tables
#
# ``kappas`` is a frame of a row for each person, and a column for each method and number of
# scored people.


def table(kappas, keys, baseline, gap=False):
    """Make a table of methods; ``baseline`` gives what each one is held against, or None."""
    rows = []
    for name, n in keys:
        own, other = kappas[name, n], baseline(name, n)
        apart = own[own.index.isin(UNSEEN)].mean()
        row = {"method": name, "scored people": n, "kappa": tables.mean(own)}
        row["SC405 to SC409 alone"] = tables.number(apart, 3)
        nothing = dict.fromkeys(("difference", "p", "better for", ""), "")
        row |= nothing if other is None else tables.paired_cells(own, kappas[other])
        if gap:
            shares = kappas[TEACHER, n], kappas[ALONE, n], own
            of_gap = name not in (TEACHER, ALONE)
            row["gap closed"] = tables.share_of_gap(*shares) if of_gap else ""
        rows.append(row)
    return tables.markdown_table(rows)


def questions(numbers):
    """List what a reader asks of few labels: a text, and the two that are compared."""
    asked = tables.rows_in(text("questions"))
    for n in numbers:
        asked |= tables.rows_in(text("questions of n", n=n))
    return [
        (question, (one, int(n_one)), (other, int(n_other)))
        for question, (one, n_one, other, n_other) in asked.items()
    ]


def draw(kappas, numbers):
    """Draw kappa over the number of scored people."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    ax, theirs = figure.subplots(), "the teacher's people's own Pz-Oz and labels"
    lines = {
        ALONE: ("Pz-Oz alone", "black", "-"),
        UNSCORED: ("with a teacher of five others and the unscored ones", "tab:blue", "-"),
        f"{CONTROL} too": (f"with {theirs}", "tab:red", "-"),
        NO_LABEL: ("no label at all: a teacher and four unscored", "tab:blue", "--"),
        CONTROL: (f"{theirs} alone", "tab:red", "--"),
    }
    for k, (name, (label, color, style)) in enumerate(lines.items()):
        at = [0] if (name, 0) in kappas else numbers
        found = [over_subjects(kappas[name, n]) for n in at]
        look = {"linestyle": style, "color": color}
        if at == [0]:
            ax.axhline(found[0][0], linewidth=1, **look)
        found = [(mean, *ends) for mean, ends in found]
        tables.error_bars(ax, np.array(at) + 0.04 * (k - 2), found, label=label, **look)
    ax.set(xlabel="Scored people", ylabel="Kappa", xticks=[0, *numbers])
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.set_title("Ten people of Sleep-EDF, 95 % intervals over people", fontsize="medium")
    return figure


# ---------------------------------------------------------------- the runs


def run_kind(study, kind, settings, X, y, only=None):
    """Run the folds of one kind ("few", "fold", "sequences"); return means over seeds."""
    function, more = run_few, {"only": only}
    if kind != "few":
        function, more["sequences"] = run_fold, kind == "sequences"
    settings = {n: v for n, v in settings.items() if n not in ("seeds", "people")}
    tasks = tasks_of(person=np.unique(X.subject).tolist(), seed=study.options.seeds)
    results = study.run(function, tasks, settings=settings, X=X, y=y, **more)
    rows = pd.DataFrame(tables.rows_of(results, "person", "seed"))
    return rows.pivot_table("kappa", "subject", ["method", "scored"], sort=False)


def search(study, X, y):
    """Print what each setting gives on the development people, the others at their default."""
    settings, lines = study.options.settings | {"scored": [1]}, []
    for name, (kind, values, only) in SEARCH.items():
        for value in [settings[name], *values]:
            means = run_kind(study, kind, settings | {name: value}, X, y, only).mean()
            found = ", ".join(f"{of} {n} {kappa:.3f}" for (of, n), kappa in means.items())
            lines.append({"setting": name, "value": value, "kappa": found})
    print(tables.markdown_table(lines))


def read_options(argv=None):
    """Read the command line."""
    options = parse(
        *(__doc__, SETTINGS, argv),
        data=folder("folder of features and UCDDB (see above)"),
        sleep_edf=folder("folder of Sleep-EDF's recordings"),
        quick="print one draw of few labels, and no page",
        development="print the search for settings",
    )
    if options.data is None and options.sleep_edf is None:
        options.error("give --data or --sleep-edf; --help names the public files")
    if options.development:
        options.people, options.seeds = 5, options.seeds[:1]
    if options.quick:
        options.seeds, options.settings["scored"] = options.seeds[:1], [1]
    return options


def main(argv=None):
    """Run everything, and write page, table and picture."""
    options = read_options(argv)
    study, files = Study("real_nights", options), options.sleep_edf
    X, y = compute_features(files) if files else read_features(options.data)
    rows = np.isin(X.subject, np.unique(X.subject)[: options.people])
    X, y = X[rows], y[rows]
    if options.development:
        search(study, X, y)
        return
    if options.quick:
        few = run_kind(study, "few", options.settings, X, y, QUICK)
        print(table(few, sorted(few, key=lambda key: key[1]), in_few))
        return
    # Sequences are slow: without twice the passes.
    only = {"sequences": [ALONE, "transfer", "offline", "online", "softmax"]}
    kappas = {
        kind: run_kind(study, kind, options.settings, X, y, only.get(kind))
        for kind in ("few", "fold", "sequences")
    }
    for n in options.scored:  # with all own people scored nobody is left over
        if (UNSCORED, n) not in kappas["few"]:
            kappas["few"][UNSCORED, n] = kappas["few"][FOLLOWED, n]
    of_nights, lines = ("", []) if files else two_nights(study, options.data)
    lines += [
        {"run": kind, "method": name, "scored": n, "subject": who, "kappa": kappa}
        for kind, frame in kappas.items()
        for (name, n), column in frame.items()
        for who, kappa in column.items()
    ]
    figure = draw(kappas["few"], options.scored)
    page = page_of(kappas, options.scored, of_nights)
    study.write("real_nights", [*study.head("Real nights"), page], lines, figure)


def over_alone(name, n):
    """Name what a method is held against where all others are scored."""
    return None if name in (TEACHER, ALONE) else (ALONE, n)


def in_few(name, n):
    """Name what a method is held against where few are scored, or nobody."""
    if name in (ALONE, CONTROL, TEACHER):
        return None
    return (ALONE, n) if n else (CONTROL, 0)


def page_of(kappas, numbers, two_nights):
    """Write the page below its head."""
    few = kappas["few"]
    asked = [
        {"question": question, **tables.paired_cells(few[one], few[other])}
        for question, one, other in questions(numbers)
    ]
    tuned = [key for key in few if key[0] == "direct" or key[0].startswith("fine-tuned")]
    of_few = sorted((key for key in few if key not in tuned), key=lambda key: key[1])
    tuned += [(ALONE, n) for n in numbers]
    return text(
        "page",
        n_people=len(few),
        fold=table(kappas["fold"], sorted(kappas["fold"]), over_alone, gap=True),
        sequences=table(
            kappas["sequences"], sorted(kappas["sequences"]), over_alone, gap=True
        ),
        questions=tables.markdown_table(asked),
        few=table(few, of_few, in_few),
        tuned=table(
            few, tuned, lambda name, n: (ALONE, n) if n and name != ALONE else None
        ),
        two_nights=text("two nights", two_nights, table=two_nights),
    )


if __name__ == "__main__":
    main()
