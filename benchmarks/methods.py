"""Which method of distillation helps a sleep stager, and what to use when?

Four parts, each of which can be run and resumed by itself (``--part``):

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
    python benchmarks/methods.py --part development --n-jobs 2
"""

from pathlib import Path

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
from study import Setting, Study, parse, parser_of

from skleepkd.metrics import bootstrap_interval, expected_calibration_error

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
#: Trainings on the real pairs, as in real_nights.py; of few steps an average forgets sooner.
FEATURES = {"passes": 10, "steps": 12, "lr": 0.006, "decay": 0.92}
NIGHTS = {"passes": 15, "steps": 25}
REAL = {"one scored, Sleep-EDF": True, "all others scored, Sleep-EDF": False}
UCDDB = "one night scored, UCDDB"
#: On whom settings of real_nights.py were chosen.
FIRST_HALF = [f"SC40{k}" for k in range(5)]
TEXT = """\
Kappa is the mean over people of each person's mean over seeds, in brackets its 95 % bootstrap
interval over people; differences to the stager alone are paired by person, p is that of a
sign-flip test, not corrected for the number of methods. The gap is what the stager of the PSG
itself is better by, whose recordings are not scaled: methods that scale them may close more than
all of it, and stand beside a PSG that is scaled as well. People of one fold are judged by the same networks, which intervals do not
know. "Teacher's weights": the student begins at them."""
CHOSEN = """\
In the first cell one person of each fold is scored, so that {n} are in a training; the nights
of the others teach by the teacher alone. The four best are those with the largest mean share
of the gap over both cells; controls and the defaults do not take part. One seed. "Features, not
standardised", at weight 1 and from scratch, were the defaults before this study; those of now
(the teacher's probabilities by half of the loss at a temperature of 1, and its weights where the
networks are equal) were chosen by this table and by SC400 to SC404 of the real pairs: features
that begin at the teacher's weights do as well on simulated people, and less well on these five.
No default was chosen on the people of the confirmation or on SC405 to SC409."""
SUMMARY = """\
**What to use when.** Begin at the teacher's weights (`start_from_teacher`) wherever the networks
are equal: every method that is among the best does. Scale each recording (`RecordingScaler`) where
signals are raw: that gains as much again, for the teacher too. By what the student then follows,
features or probabilities, the methods hardly differ; probabilities do well in every cell. Where few
people are scored, unscored nights and a teacher gain most; where all are scored and noise is
small, little more than twice the passes. From scratch, features, online distillation, mean
teacher, balanced batches and augmentation were never shown to help here, and some do harm."""
ON_REAL = """\
Sleep-EDF: seven numbers of each epoch and its neighbours, Pz-Oz as the wearable, Fpz-Cz as the
source (both of one channel, so that a student may begin at its teacher's weights; see
[real nights](real_nights.md)). "One scored": the teacher learned on Fpz-Cz of five others, the
student on four more people who wore both, of whom one is scored. UCDDB: `LogPowerNet`; the one
night and the teacher's are scored, nine other people's epochs are not; two people prove nothing,
and have no interval. Methods that need a raw signal are left out of the former."""


def comparison(results):
    """Gather results by (method, seed, fold) of a cell."""
    names = "method", "seed", "fold"
    rows = [
        dict(zip(names, key, strict=True))
        | {"subject": person, "kappa": kappa, "fit_seconds": result["seconds"]}
        for key, result in results.items()
        for person, kappa in result["kappas"].items()
    ]
    return tables.comparison(rows, ALONE, SCALP)


def run_cells(study, cells, names, people, cohort_seed, seeds):
    """Compare methods in cells of a simulated cohort."""
    settings, found = study.options.settings, {}
    shared = {"people": people, "cohort_seed": cohort_seed}
    shared |= {"epochs": settings["epochs"], "n_folds": settings["folds"]}
    for cell in cells:
        noise, few = CELLS[cell]
        known = [name for name in names if few or name not in UNSCORED_ONLY]
        places = {"fold": range(settings["folds"])}
        tasks = make_tasks(study, settings, known, seeds, places)
        results = study.run(run_simulated, tasks, noise=noise, few=few, **shared)
        found[cell] = comparison(results)
    return found


def make_tasks(study, settings, names, seeds, places, network="LogPowerNet"):
    """Name the fits of methods by seed and place; ``places`` are a task's values by name."""
    methods = {s: make_methods(settings, s, network, study.memory) for s in seeds}
    ((what, values),) = places.items()
    return {
        (name, seed, value): {"stager": methods[seed][name], what: value}
        for name in names
        for seed in seeds
        for value in values
    }


def develop(study):
    """Compare all methods on the development people."""
    options = study.options
    names = options.methods or list(make_methods(options.settings, 0))
    names = [ALONE, SCALP, *(name for name in names if name not in (ALONE, SCALP))]
    return run_cells(study, DEVELOPMENT, names, options.people, 100, [0])


def mean_shares(found):
    """Mean over cells of the share of the gap, by method, the best first."""
    gains = pd.DataFrame({cell: of.table["difference"] for cell, of in found.items()})
    # Where there is no gap, or a method does not differ from the stager alone, it closes none.
    shares = (gains / gains.loc[SCALP].where(gains.loc[SCALP] > 0)).fillna(0)
    return shares.mean(axis=1).sort_values(ascending=False, kind="stable")


def chosen(study, found):
    """Name what the other parts run: the best four, and what they are held against."""
    left_out = (ALONE, *CEILINGS, DEFAULTS, *CONTROLS)
    best = [name for name in mean_shares(found).index if name not in left_out]
    names = [ALONE, *CEILINGS, DEFAULTS, *CONTROLS, *best[:N_CHOSEN], *study.options.also]
    return list(dict.fromkeys(names))


def confirm(study, names):
    """Compare methods on other people."""
    options = study.options
    return run_cells(study, CELLS, names, options.others, 500, options.seeds)


def calibrate(study):
    """Return lines of the table of calibration, and its rows."""
    options, settings = study.options, study.options.settings
    stager = make_methods(settings, 0, memory=study.memory)["softmax"]
    tasks = {fold: {"fold": fold} for fold in range(settings["folds"])}
    shared = {"people": options.others, "epochs": options.epochs, "cohort_seed": 500}
    shared |= {"n_folds": options.folds, "noise": CELLS[CALIBRATION][0], "stager": stager}
    held_out = 1 if options.fast else HELD_OUT
    folds = study.run(run_calibration, tasks, held_out=held_out, **shared).values()
    lines, rows = [], []
    for name, kept in (("as trained", "as_trained"), ("calibrated", "proba")):
        y, proba = (np.concatenate([f["rows"][k] for f in folds]) for k in ("y", kept))
        pooled = expected_calibration_error(y, proba)
        each = {who: v for fold in folds for who, v in fold["errors"][name].items()}
        values = list(each.values())
        shown = tables.with_interval((np.mean(values), *bootstrap_interval(values)))
        lines.append([name, f"{pooled:.3f}", shown])
        about = {"part": "calibration", "cell": CALIBRATION, "method": name, "seed": 0}
        rows += [about | {"subject": who, "error": error} for who, error in each.items()]
    return lines, rows


def run_real_pairs(study, names):
    """Compare methods on the real pairs."""
    options, found = study.options, {}
    X, y = read_features(options.data)
    X = X.replace(source=X["source"][:, :1])
    settings = options.settings | ({} if options.fast else FEATURES) | {"batch_size": 256}
    seeds, people = options.real_seeds, {"person": np.unique(X.subject).tolist()}
    for cell, few in REAL.items():
        left_out = SIGNALS_ONLY if few else SIGNALS_ONLY + UNSCORED_ONLY
        known = [name for name in names if name not in left_out]
        tasks = make_tasks(study, settings, known, seeds, people, FiveEpochs)
        tasks = {key: task | {"seed": key[1]} for key, task in tasks.items()}
        results = study.run(run_real, tasks, X=X, y=y, few=few)
        found[cell] = comparison(results)
    settings = options.settings | ({} if options.fast else NIGHTS)
    tasks = make_tasks(study, settings, names, seeds, {"person": WHOLE})
    results = study.run(run_ucddb, tasks, folder=options.data / "ucddb")
    found[UCDDB] = comparison(results)
    return found


# ---------------------------------------------------------------- the page


def without_interval(text):
    """Leave a value alone."""
    return text.partition(" ")[0]


def cell_table(found, halves=False):
    """Write a cell's table, the best first; of real people each half apart."""
    lines = []
    for name, row in found.table.sort_values("mean", ascending=False).iterrows():
        line = [tables.with_interval(tables.mean_of(row)), *[""] * (5 if halves else 3)]
        if name != ALONE:
            gain, p = tables.difference_of(row), f"{row['pvalue']:.3f}"
            line[1:4] = tables.signed(gain), p, tables.share_of(row)
        if len(found.scores) < 3:  # who have no interval
            line = [*map(without_interval, line[:2]), "", without_interval(line[3])]
        if halves and name != ALONE:
            gains = (found.scores[name] - found.scores[ALONE]).dropna()
            first = gains.index.isin(FIRST_HALF)
            line[4:] = (f"{gains[of].mean():+.3f}" for of in (first, ~first))
        lines.append([name, *line, f"{row['fit_seconds']:.1f}"])
    header = ["method", "kappa", "difference to alone", "p", "gap closed"]
    header += ["SC400 to SC404", "SC405 to SC409"] * halves
    return tables.markdown_table([*header, "fit, s"], lines)


def development_table(found):
    """Write all methods' differences and shares in both cells, the best first."""
    lines = []
    for name, share in mean_shares(found).items():
        if name == ALONE:
            continue
        line, seconds = [name], []
        for cell in found.values():
            known = name in cell.table.index
            row = cell.table.loc[name] if known else None
            gain = tables.signed(tables.difference_of(row)) if known else ""
            line += [gain, tables.share_of(row) if known else ""]
            seconds += [row["fit_seconds"]] if known else []
        lines.append([*line, f"{share:.0%}", f"{np.mean(seconds):.1f}"])
    cells = [text for cell in found for text in (cell, "gap closed")]
    header = ["method", *cells, "mean share of the gaps", "fit, s"]
    return tables.markdown_table(header, lines)


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


def page(study, names, developed, confirmed, real, calibrated):
    """Put the page together."""
    head, *rest = study.head("Methods of distillation")
    n_scored = study.options.folds - 1
    parts = [
        head,
        SUMMARY,
        "The best of each cell:",
        "\n".join(advice(confirmed, real)),
        *rest,
    ]
    parts += [TEXT, "## Confirmation: other simulated people"]
    parts.append("![Differences in kappa to the stager alone](methods.png)")
    for cell, found in confirmed.items():
        parts += [f"### {cell.capitalize()}", cell_table(found)]
    for cell, found in real.items():
        parts += ["## Real pairs", ON_REAL] if cell == next(iter(real)) else []
        parts += [f"### {cell[0].upper()}{cell[1:]}", cell_table(found, cell in REAL)]
    header = ["softmax student", "expected calibration error", "mean over people"]
    held_out = 1 if study.options.fast else HELD_OUT
    return [
        *parts,
        "## Calibration",
        f"{CALIBRATION.capitalize()}; {held_out} training people are held out, and one "
        "temperature is fitted to them (`calibrate=True`).",
        tables.markdown_table(header, calibrated),
        "## Development: all methods",
        CHOSEN.format(n=n_scored),
        development_table(developed),
        f"Chosen: {', '.join(names[2 + len(CEILINGS) + len(CONTROLS) :])}.",
    ]


def read_options(argv=None):
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder of Sleep-EDF's features and UCDDB")
    parts = ["development", "confirmation", "calibration", "real", "all"]
    what = "run one part and print its tables; only all of them make the page"
    add("--part", choices=parts, default="all", help=what)
    add("--methods", nargs="+", help="methods of the development (all)")
    also = ["softmax, half of the loss, teacher's weights"]
    add("--also", nargs="+", default=also, help="methods beside the best four")
    options = parse(parser, SETTINGS, argv)
    if options.part == "real" and options.data is None:
        parser.error("the real pairs need --data")
    known = list(make_methods(options.settings, 0))
    for name in [*(options.methods or []), *options.also]:
        if name not in known:
            parser.error(f"no method {name!r}; there are: {', '.join(known)}")
    return options


def main(argv=None):
    """Run the parts, and write page, table and picture."""
    options = read_options(argv)
    study, part = Study("methods", options), options.part
    if part == "calibration":
        print(calibrate(study)[0])
        return
    developed = develop(study)
    names = chosen(study, developed)
    if part == "development":
        print(development_table(developed))
        return
    confirmed = confirm(study, names) if part != "real" else {}
    real = run_real_pairs(study, names) if options.data and part != "confirmation" else {}
    if part != "all":
        for cell, found in (confirmed | real).items():
            print(f"{cell}\n\n{cell_table(found, cell in REAL)}\n")
        return
    calibrated, errors = calibrate(study)
    rows = rows_of("development", developed) + rows_of("confirmation", confirmed)
    rows += rows_of("real", real) + errors
    parts = page(study, names, developed, confirmed, real, calibrated)
    study.write("methods", parts, rows, draw(confirmed))


if __name__ == "__main__":
    main()
