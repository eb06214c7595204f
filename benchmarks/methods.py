"""Which method of distillation helps a sleep stager, and what to use when?

The page says what is compared (``pages/methods.md``); ``--data`` adds the real pairs of
``real_nights.py``. Terms are weighted as in ``label_budget.py``, whose weights were chosen on
other simulated people.

    python benchmarks/methods.py --data ../shared/data --n-jobs 2
"""

import numpy as np
import pandas as pd
import tables
from matplotlib.figure import Figure
from methods_runs import (
    ALONE,
    CONTROLS,
    DEFAULTS,
    SCALED_SCALP,
    SCALP,
    SIGNALS_ONLY,
    UNSCORED_ONLY,
    make_methods,
    run_calibration,
    run_real,
    run_simulated,
    run_ucddb,
)
from real_nights_runs import FiveEpochs, read_features
from real_nights_ucddb import WHOLE
from study import TERMS, Setting, Study, folder, parse, tasks_of, texts

from skleepkd.metrics import expected_calibration_error

text = texts(__file__)
SETTINGS = {
    "people": Setting("simulated people of the development, seed 100", 24, 4),
    "others": Setting("simulated people of the confirmation, seed 500", 48, 4),
    "epochs": Setting("epochs of each simulated night", 300, 40),
    "folds": Setting("folds by person", 4, 2),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 8, 2),
    "steps": Setting("gradient steps of a pass, of 32 epochs", 60, 3),
    **TERMS,
    "seeds": Setting("seeds of each training of the confirmation", [0]),
    "real-seeds": Setting("seeds on the real pairs", [0, 1, 2], [0]),
}
#: Stagers of the PSG; the first is what gaps are measured to.
CEILINGS = [SCALP, SCALED_SCALP]
#: Noise, and whether few are scored.
CELLS = {
    "few scored, noise 1": (1.0, True),
    "all scored, noise 0.5": (0.5, False),
    "few scored, noise 0.5": (0.5, True),
    "all scored, noise 1": (1.0, False),
}
DEVELOPMENT = list(CELLS)[:2]
CALIBRATION = "all scored, noise 0.5"
N_CHOSEN, HELD_OUT = 4, 3
#: Confirmed beside the best four: what the defaults are made of.
ALSO = "softmax, half of the loss, teacher's weights"
#: Trainings on the real pairs, as in real_nights.py; of few steps an average forgets sooner.
FEATURES = {"passes": 10, "steps": 12, "lr": 0.006, "decay": 0.92}
NIGHTS = {"passes": 15, "steps": 25}
REAL = {"one scored, Sleep-EDF": True, "all others scored, Sleep-EDF": False}
UCDDB = "one night scored, UCDDB"
#: On whom settings of real_nights.py were chosen.
FIRST_HALF = [f"SC40{k}" for k in range(5)]
HALVES = "SC400 to SC404", "SC405 to SC409"


def run_cells(study, cells, names, people, cohort_seed, seeds):
    """Compare methods in cells of a simulated cohort."""
    settings, found = study.options.settings, {}
    shared = {"people": people, "cohort_seed": cohort_seed}
    shared |= {"epochs": settings["epochs"], "n_folds": settings["folds"]}
    for cell in cells:
        noise, few = CELLS[cell]
        known = [name for name in names if few or name not in UNSCORED_ONLY]
        tasks = make_tasks(study, settings, known, seeds, fold=range(settings["folds"]))
        shared |= {"noise": noise, "few": few}
        found[cell] = compare(study, run_simulated, tasks, **shared)
    return found


def compare(study, function, tasks, **shared):
    """Run the fits of a cell, which are called by method, seed and place."""
    rows = tables.rows_of(study.run(function, tasks, **shared), "method", "seed", "fold")
    return tables.comparison(rows, ALONE, SCALP)


def make_tasks(study, settings, names, seeds, network="LogPowerNet", **places):
    """Name the fits of methods by seed and place; ``places`` are a task's values by name."""
    methods = {s: make_methods(settings, s, network, study.memory) for s in seeds}
    ((what, values),) = places.items()
    return {
        (name, seed, value): {"stager": methods[seed][name], what: value}
        for name in names
        for seed in seeds
        for value in values
    }


def mean_shares(found):
    """Mean over cells of the share of the gap, by method, the best first."""
    gains = pd.DataFrame({cell: of.table["difference"] for cell, of in found.items()})
    # Where there is no gap, or a method does not differ from the stager alone, it closes none.
    shares = (gains / gains.loc[SCALP].where(gains.loc[SCALP] > 0)).fillna(0)
    return shares.mean(axis=1).sort_values(ascending=False, kind="stable")


def chosen(found):
    """Name what the other parts run: the best four, and what they are held against."""
    others = [ALONE, *CEILINGS, DEFAULTS, *CONTROLS]
    best = [name for name in mean_shares(found).index if name not in others]
    return list(dict.fromkeys([*others, *best[:N_CHOSEN], ALSO]))


def calibrate(study):
    """Return lines of the table of calibration, and its rows."""
    options, settings = study.options, study.options.settings
    stager = make_methods(settings, 0, memory=study.memory)["softmax"]
    tasks = tasks_of(fold=range(options.folds))
    shared = {"people": options.others, "epochs": options.epochs, "cohort_seed": 500}
    shared |= {"n_folds": options.folds, "noise": CELLS[CALIBRATION][0], "stager": stager}
    held_out = 1 if options.fast else HELD_OUT
    folds = study.run(run_calibration, tasks, held_out=held_out, **shared).values()
    lines, rows, columns = [], [], ("y", "subject", "as trained", "calibrated")
    y, groups, *probas = (np.concatenate([fold[of] for fold in folds]) for of in columns)
    for name, proba in zip(columns[2:], probas, strict=True):
        found = expected_calibration_error(y, proba, groups=groups)
        line = {
            "softmax student": name,
            "expected calibration error": f"{found.pooled:.3f}",
        }
        shown = tables.with_interval((found.mean, *found.interval))
        lines.append(line | {"mean over people": shown})
        about = {"part": "calibration", "cell": CALIBRATION, "method": name, "seed": 0}
        errors = found.per_subject.items()
        rows += [{**about, "subject": who, "error": error} for who, error in errors]
    return lines, rows


def run_real_pairs(study, names):
    """Compare methods on the real pairs."""
    options, found = study.options, {}
    X, y = read_features(options.data)
    X = X.replace(source=X["source"][:, :1])
    settings = options.settings | ({} if options.fast else FEATURES) | {"batch_size": 256}
    seeds, people = options.real_seeds, np.unique(X.subject).tolist()
    for cell, few in REAL.items():
        left_out = SIGNALS_ONLY if few else SIGNALS_ONLY + UNSCORED_ONLY
        known = [name for name in names if name not in left_out]
        tasks = make_tasks(study, settings, known, seeds, FiveEpochs, person=people)
        tasks = {key: task | {"seed": key[1]} for key, task in tasks.items()}
        found[cell] = compare(study, run_real, tasks, X=X, y=y, few=few)
    settings = options.settings | ({} if options.fast else NIGHTS)
    tasks = make_tasks(study, settings, names, seeds, person=WHOLE)
    found[UCDDB] = compare(study, run_ucddb, tasks, folder=options.data / "ucddb")
    return found


# ---------------------------------------------------------------- the page


def without_interval(text):
    """Leave a value alone."""
    return text.partition(" ")[0]


def cell_table(found, halves=False):
    """Write a cell's table, the best first; of real people each half apart."""
    rows = []
    for name, row in found.table.sort_values("mean", ascending=False).iterrows():
        line = tables.cells_of(row)
        if len(found.scores) < 3:  # who have no interval
            line = {column: without_interval(cell) for column, cell in line.items()}
            line["p"] = ""
        gains = (found.scores[name] - found.scores[ALONE]).dropna()
        first = gains.index.isin(FIRST_HALF)
        for half, of in zip(HALVES if halves else (), (first, ~first), strict=False):
            line[half] = f"{gains[of].mean():+.3f}" if name != ALONE else ""
        rows.append({"method": name, **line, "fit, s": f"{row['fit_seconds']:.1f}"})
    return tables.markdown_table(rows)


def development_table(found):
    """Write all methods' differences and shares in both cells, the best first."""
    rows, columns = [], ("difference", "gap closed")
    for name, share in mean_shares(found).drop(ALONE).items():
        known = {c: of.table.loc[name] for c, of in found.items() if name in of.table.index}
        line = {"method": name} | {f"{c}: {of}": "" for c in found for of in columns}
        for cell, row in known.items():
            cells = tables.cells_of(row)
            line |= {f"{cell}: {of}": cells[of] for of in columns}
        seconds = np.mean([row["fit_seconds"] for row in known.values()])
        line["mean share of the gaps"] = f"{share:.0%}"
        rows.append(line | {"fit, s": f"{seconds:.1f}"})
    return tables.markdown_table(rows)


def best_of(found, names=None):
    """Name the best method of a cell, of distilled ones unless ``names`` says otherwise."""
    table = found.table.drop(index=[ALONE, *CEILINGS], errors="ignore")
    own = [name for name in table.index if name not in CONTROLS] if names is None else names
    return table.loc[own, "mean"].idxmax()


def advice(confirmed, real):
    """Say what to use when, as the tables have it: lines of a list."""
    lines, cells = [], confirmed | real
    for cell, found in cells.items():
        name, control = best_of(found), best_of(found, CONTROLS)
        row = found.table.loc[name]
        gain, share = tables.difference_of(row), tables.share_of(row)
        shown = f"{tables.signed(gain)} ({tables.verdict(gain)})"
        if cell == UCDDB:
            shown, share = without_interval(shown), without_interval(share)
        about = {"kind": "simulated" if cell in confirmed else "real", "name": name}
        about |= {"shown": shown, "share": f", {share} of the gap" if share else ""}
        other = found.table.loc[control, "difference"]
        lines.append(text("cell", cell=cell, control=control, other=other, **about))
    gains = pd.DataFrame({cell: of.table["difference"] for cell, of in confirmed.items()})
    least = gains.min(axis=1).drop([ALONE, *CEILINGS, *CONTROLS], errors="ignore")
    high = {cell: of.table.loc[DEFAULTS, "difference_high"] for cell, of in cells.items()}
    harmed = ", ".join(cell for cell, end in high.items() if end < 0) or "no cell"
    return [
        *lines,
        text("unknown", name=least.idxmax(), least=least.max()),
        text("defaults", harmed=harmed),
    ]


def draw(confirmed):
    """Draw differences in all cells."""
    n_rows = len(confirmed) // 2
    figure = Figure(figsize=(12, 4 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, 2, sharex=True).flat
    for ax, (cell, found) in zip(panels, confirmed.items(), strict=True):
        found.plot(ax)
        ax.set_xlabel("difference in kappa, 95 % interval")
        ax.set_title(f"Simulated: {cell}", loc="left", fontsize="medium")
    return figure


def rows_of(part, found):
    """List the scores of a part, for the table of numbers."""
    return [
        {"part": part, "cell": cell, **row}
        for cell, of in found.items()
        for row in of.frame.drop(columns="fold").to_dict("records")
    ]


def page_of(study, names, developed, confirmed, real, calibrated):
    """Write the page."""
    title, *head = study.head("Methods of distillation")
    cells = {
        cell: f"### {cell[0].upper()}{cell[1:]}\n\n{cell_table(of, cell in REAL)}"
        for cell, of in (confirmed | real).items()
    }
    simulated, measured = (
        "\n\n".join(cells[cell] for cell in of) for of in (confirmed, real)
    )
    return title, text(
        "page",
        advice="\n".join(advice(confirmed, real)),
        head="\n\n".join(filter(None, head)),
        simulated=simulated,
        real=text("real", real, cells=measured),
        calibration=CALIBRATION.capitalize(),
        held_out=1 if study.options.fast else HELD_OUT,
        calibrated=tables.markdown_table(calibrated),
        n=study.options.folds - 1,
        developed=development_table(developed),
        chosen=", ".join(names[2 + len(CEILINGS) + len(CONTROLS) :]),
    )


def read_options(argv=None):
    """Read the command line."""
    settings = {name.replace("-", "_"): of.default for name, of in SETTINGS.items()}
    about = "methods of the development (all)"
    named = {"nargs": "+", "choices": list(make_methods(settings, 0)), "help": about}
    named["metavar"] = "METHOD"
    data = folder("folder of Sleep-EDF's features and UCDDB")
    return parse(__doc__, SETTINGS, argv, data=data, methods=named)


def main(argv=None):
    """Run the parts, and write page, table and picture."""
    options = read_options(argv)
    study = Study("methods", options)
    names = options.methods or make_methods(options.settings, 0)
    names = list(dict.fromkeys([ALONE, SCALP, *names]))
    developed = run_cells(study, DEVELOPMENT, names, options.people, 100, [0])
    names = chosen(developed)
    confirmed = run_cells(study, CELLS, names, options.others, 500, options.seeds)
    real = run_real_pairs(study, names) if options.data else {}
    calibrated, errors = calibrate(study)
    rows = rows_of("development", developed) + rows_of("confirmation", confirmed)
    rows += rows_of("real", real) + errors
    parts = page_of(study, names, developed, confirmed, real, calibrated)
    study.write("methods", parts, rows, draw(confirmed))


if __name__ == "__main__":
    main()
