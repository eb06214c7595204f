"""Which method of distillation helps a sleep stager, and what to use when?

Four parts:

- **development**: all methods on 24 simulated people, four folds by person, in two cells: few
  people scored and much noise, all scored and half the noise. By it the four best are chosen.
- **confirmation**: these, the stager alone, the library's defaults, controls and the ceiling
  on 48 other simulated people, in all four cells.
- **calibration**: the expected calibration error of a student with ``calibrate=True``.
- **real**: the same methods on the real pairs of ``real_nights.py`` (``--data``), ten people of
  Sleep-EDF and two nights of UCDDB with a simulated electrode.

Every training of a part has the same optimiser, schedule and number of steps, however many
rows it has, but for the control that has twice as many; a step of two has half of them. The
teacher is fitted inside the fold. Terms are weighted as in ``label_budget.py``, whose weights
were chosen on other simulated people; nothing is chosen on the people of the confirmation.

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
from study import Setting, Study, folder, parse, tasks_of, texts

from skleepkd.metrics import expected_calibration_error

text = texts(__file__)
SETTINGS = {
    "people": Setting("simulated people of the development, seed 100", 24, 4),
    "others": Setting("simulated people of the confirmation, seed 500", 48, 4),
    "epochs": Setting("epochs of each simulated night", 300, 40),
    "folds": Setting("folds by person", 4, 2),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 8, 2),
    "steps": Setting("gradient steps of a pass, of 32 epochs", 60, 3),
    "lr": Setting("learning rate of the first pass (Adam)", 3e-3),
    "alpha": Setting("share of the teacher's output", 0.9),
    "temperature": Setting("temperature of the teacher's output", 2.0),
    "feature-weight": Setting("weight of the feature term", 10.0),
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
    lines, rows = [], []
    for name, kept in (("as trained", "as_trained"), ("calibrated", "proba")):
        y, proba = (np.concatenate([fold[k] for fold in folds]) for k in ("y", kept))
        pooled = expected_calibration_error(y, proba)
        each = {who: v for fold in folds for who, v in fold["errors"][name].items()}
        line = {"softmax student": name, "expected calibration error": f"{pooled:.3f}"}
        lines.append(line | {"mean over people": tables.mean([*each.values()])})
        about = {"part": "calibration", "cell": CALIBRATION, "method": name, "seed": 0}
        rows += [about | {"subject": who, "error": error} for who, error in each.items()]
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
        line = {"method": name, "kappa": tables.with_interval(tables.mean_of(row))}
        of_gain = dict.fromkeys(("difference to alone", "p", "gap closed"), "")
        of_halves = dict.fromkeys(HALVES if halves else (), "")
        if name != ALONE:
            gain, p = tables.difference_of(row), f"{row['pvalue']:.3f}"
            cells = tables.signed(gain), p, tables.share_of(row)
            of_gain = dict(zip(of_gain, cells, strict=True))
            gains = (found.scores[name] - found.scores[ALONE]).dropna()
            for half in of_halves:
                of_half = gains.index.isin(FIRST_HALF) == (half == HALVES[0])
                of_halves[half] = f"{gains[of_half].mean():+.3f}"
        line |= of_gain
        if len(found.scores) < 3:  # who have no interval
            line = {column: without_interval(cell) for column, cell in line.items()}
            line |= {"method": name, "p": ""}
        rows.append(line | of_halves | {"fit, s": f"{row['fit_seconds']:.1f}"})
    return tables.markdown_table(rows)


def development_table(found):
    """Write all methods' differences and shares in both cells, the best first."""
    rows = []
    for name, share in mean_shares(found).drop(ALONE).items():
        line, seconds = {"method": name}, []
        for cell, of in found.items():
            line |= {cell: "", f"gap closed, {cell}": ""}
            if name in of.table.index:
                row = of.table.loc[name]
                line[cell] = tables.signed(tables.difference_of(row))
                line[f"gap closed, {cell}"] = tables.share_of(row)
                seconds.append(row["fit_seconds"])
        line["mean share of the gaps"] = f"{share:.0%}"
        rows.append(line | {"fit, s": f"{np.mean(seconds):.1f}"})
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
        kind = "simulated" if cell in confirmed else "real"
        name, control = best_of(found), best_of(found, CONTROLS)
        gain = tables.difference_of(found.table.loc[name])
        shown = f"{tables.signed(gain)} ({tables.verdict(gain)})"
        share = tables.share_of(found.table.loc[name])
        if cell == UCDDB:
            shown, share = without_interval(shown), without_interval(share)
        share = f", {share} of the gap" if share else ""
        other = found.table.loc[control, "difference"]
        lines.append(
            f"- {cell} ({kind}): **{name}**, {shown}{share}; the best "
            f"control, {control}, {other:+.3f}."
        )
    gains = pd.DataFrame({cell: of.table["difference"] for cell, of in confirmed.items()})
    least = gains.min(axis=1).drop([ALONE, *CEILINGS, *CONTROLS], errors="ignore")
    lines.append(
        f"- Where you do not know: **{least.idxmax()}**, whose smallest gain over the "
        f"simulated cells is {least.max():+.3f}."
    )
    high = {cell: of.table.loc[DEFAULTS, "difference_high"] for cell, of in cells.items()}
    harmed = [cell for cell, end in high.items() if end < 0]
    harm = f"a loss in {', '.join(harmed)}" if harmed else "a loss in no cell"
    return [*lines, f"- The defaults of `DistilledSleepStager` show {harm}."]


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
