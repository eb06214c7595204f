"""The experiment of Joshi et al. (2021): an ECG staged with an EEG teacher.

Five methods with four stages (W L D R) and with three (W N R), and stronger baselines:
Tables I and II beside the paper's values; or with ``--figure`` its Fig. 2 alone. On
simulated nights, or with ``--data`` on MASS (the paper's own data) or on the PhysioNet/CinC
Challenge 2018 (open).

    python benchmarks/joshi2021.py --fast
    python benchmarks/joshi2021.py --n-jobs 2
    python benchmarks/joshi2021.py --data ~/mass --set mass
    python benchmarks/joshi2021.py --figure --alphas 0.5

The default settings were chosen on the seed 100.
"""

from pathlib import Path

import numpy as np
import tables
from matplotlib.figure import Figure
from simulation_realism import has_sleepecg, stage_with_sleepecg
from skorch.callbacks import LRScheduler
from study import Setting, Study, parse, parser_of, timed_fit
from torch.optim.lr_scheduler import OneCycleLR

from skleepkd import FineTunedSleepStager
from skleepkd.datasets import (
    MassSplit,
    load_cinc2018,
    load_mass,
    make_cohort,
    simulate_night,
)
from skleepkd.metrics import gap_closed, staging_report
from skleepkd.preprocessing import EpochScaler
from skleepkd.recipes import joshi2021
from skleepkd.stages import EPOCH_SECONDS, scheme_names, to_scheme

SCHEMES = {4: "wldr", 3: "wnr"}

#: What each row of the tables is: a name, a recipe, what is set on it, and its budget in
#: passes, or in passes over the same number of epochs where it reads sequences.
ROWS = {
    "eeg": ("EEG baseline", "eeg", {}, 1),
    "ecg": ("ECG baseline", "ecg", {}, 1),
    "sd+cl": ("SD + CL", "sd+cl", {}, 1),
    "at+cl": ("AT + CL", "at+cl", {}, 1),
    "at+sd+cl": ("AT + SD + CL", "at+sd+cl", {}, 1),
    "ecg-twice": ("*ours:* ECG, twice the passes", "ecg", {}, 2),
    "ecg-unweighted": ("*ours:* ECG, no class weights", "ecg", {"class_weight": None}, 1),
    "ecg-sequences": ("*ours:* ECG, sequences of epochs", "ecg", {}, 2),
    "sd+cl-sequences": ("*ours:* SD + CL, sequences of epochs", "sd+cl", {}, 2),
}
#: What a user would take instead: it has three stages and is not trained here.
READY = "sleepecg"
LABELS = {row: label for row, (label, *_) in ROWS.items()} | {READY: "SleepECG, ready-made"}
BASELINES = ("ecg", "ecg-twice", "ecg-unweighted", "ecg-sequences")
DISTILLED = ("sd+cl", "at+cl", "at+sd+cl", "sd+cl-sequences")

#: Rows that are fitted one after the other, since later ones use results of earlier ones:
#: the EEG stager, the attention step, and the share of the softmax term.
STAGES = (
    ("eeg",),
    ("at+cl", "ecg-twice", "ecg", "ecg-unweighted", "ecg-sequences", "sd+cl"),
    ("at+sd+cl", "sd+cl-sequences"),
)
#: Rows with a softmax term whose share is chosen.
CHOSEN = ("sd+cl", "at+sd+cl")
#: The columns of Fig. 2.
DRAWN = ("ecg", "at+sd+cl", "eeg")

SETTINGS = {
    "subjects": Setting(
        "simulated subjects to train on, to choose on, to test on", [28, 8, 22], [2, 1, 2]
    ),
    "epochs": Setting("epochs of a simulated night", 80, 24),
    "sfreq": Setting("hertz", 50.0, 4.0, 200.0),
    "filters": Setting(
        "filters of U-Time's levels",
        [4, 8, 16, 32, 64, 128],
        [2] * 6,
        [16, 32, 64, 128, 256, 512],
        "16, 32, 64, 128, 256, 512 (code)",
    ),
    "passes": Setting("passes over the training epochs, in each of two steps", 8, 1, 150),
    "batch-size": Setting("epochs in a batch", 32, None, 256, "256 (code)"),
    "lr": Setting("learning rate (its highest, with one-cycle)", 1e-2, None, 1e-3),
    "schedule": Setting(
        *("schedule", "one-cycle", None, "constant", "- (code: constant)"),
        choices=("constant", "one-cycle"),
    ),
    "alphas": Setting("grid of alpha", [0.1, 0.5, 0.9], [0.5, 0.9], paper=0.5),
    "sequence-length": Setting("epochs of a sequence, in rows with them", 5, 3),
    "seed": Setting("seed", 0, paper="- (code: 42)"),
}
#: Those that a fit depends on, beside the nights.
OF_FIT = ("filters", "passes", "batch_size", "lr", "schedule", "sequence_length", "seed")

#: Tables I and II of the paper: weighted F1 and accuracy, then F1 of each stage, by the
#: number of stages (W L D R, W N R).
PAPER = {
    4: {
        "eeg": (0.85, 0.85, 0.89, 0.86, 0.81, 0.82),
        "ecg": (0.45, 0.44, 0.57, 0.47, 0.30, 0.40),
        "sd+cl": (0.51, 0.51, 0.54, 0.61, 0.31, 0.35),
        "at+cl": (0.50, 0.50, 0.54, 0.57, 0.34, 0.40),
        "at+sd+cl": (0.50, 0.49, 0.57, 0.56, 0.29, 0.41),
    },
    3: {
        "eeg": (0.90, 0.90, 0.89, 0.93, 0.80),
        "ecg": (0.58, 0.56, 0.51, 0.65, 0.40),
        "sd+cl": (0.61, 0.60, 0.53, 0.70, 0.34),
        "at+cl": (0.66, 0.66, 0.52, 0.77, 0.37),
        "at+sd+cl": (0.64, 0.63, 0.52, 0.73, 0.39),
    },
}

# ---------------------------------------------------------------- the fits


def make_stager(row, n_classes, alpha, settings, split, n_epochs, memory):
    """Make the stager of a row; ``n_epochs`` is the number of epochs to train on."""
    _, recipe, params, budget = ROWS[row]
    length = settings["sequence_length"] if row.endswith("sequences") else 1

    def options(passes, batch_size, n_rows):
        return {
            "max_epochs": passes,
            "batch_size": batch_size,
            "lr": settings["lr"],
            "callbacks": schedule(settings, passes, -(-n_rows // batch_size)),
            "module__filters": settings["filters"],
            "validation": tuple(split["validation"]),
        }

    plain = options(settings["passes"], settings["batch_size"], n_epochs)
    teacher = joshi2021("ecg", n_classes, **plain)
    if recipe == "eeg":
        # The teacher of the other rows, so that one fit serves them all.
        return FineTunedSleepStager(
            teacher,
            trainable=None,
            memory=memory,
            validation=plain["validation"],
            random_state=settings["seed"],
        )
    # A pass over all windows reads each epoch ``length`` times.
    own = options(
        max(1, round(budget * settings["passes"] / length)),
        max(2, round(settings["batch_size"] / length)),
        n_epochs - (length - 1) * len(split["train"]),
    )
    stager = joshi2021(recipe, n_classes, random_state=settings["seed"], **own)
    stager.set_params(sequence_length=length, **params)
    if recipe != "ecg":
        stager.set_params(teacher=teacher, memory=memory)
    return stager if alpha is None else stager.set_params(alpha=alpha)


def schedule(settings, passes, n_batches):
    """Make the callbacks that change the learning rate."""
    if settings["schedule"] == "constant":
        return []
    policy = {"max_lr": settings["lr"], "total_steps": passes * n_batches + 1}
    policy["last_epoch"] = -1  # anew in each of two steps, whatever the history holds
    return [("schedule", LRScheduler(OneCycleLR, step_every="batch", **policy))]


def fit_row(row, n_classes, alpha, settings, split, X, y, memory):
    """Fit a row, score it on the validation subjects, and stage the test subjects."""
    train, validation = (np.isin(X.subject, split[p]) for p in ("train", "validation"))
    y = to_scheme(y, SCHEMES[n_classes])
    stager = make_stager(row, n_classes, alpha, settings, split, int(train.sum()), memory)
    rows = np.flatnonzero(train | validation)
    costs = timed_fit(stager, X[rows], y[rows])
    signal = X
    if row == "eeg":
        stager, signal = stager.pretrained_, X.source_epochs
    predicted = stager.predict(signal[np.flatnonzero(validation)])
    report = staging_report(y[validation], predicted, classes=SCHEMES[n_classes])
    return {
        "row": row,
        "alpha": alpha,
        "predicted": {
            subject: stager.predict(signal[X.subject == subject])
            for subject in split["test"]
        },
        "validation_kappa": report.pooled["kappa"],
        "stager": stager if n_classes == 4 and row in DRAWN else None,
        **costs,
    }


def stage_ready(options, split, X, y):
    """Stage whole simulated nights with SleepECG, as a row of three stages.

    It wants 100 Hz: the same nights, recorded at that rate.
    """
    predicted, night = {}, {"sfreq": 100.0, "derivations": ["ECG"]}
    night |= {"n_epochs": options.epochs, "random_state": options.seed}
    for subject in (*split["validation"], *split["test"]):
        number = int(subject.rsplit("s", 1)[1])
        ecg = simulate_night(subject=number, **night).signals[0]
        predicted[subject] = stage_with_sleepecg(ecg, night["sfreq"])
    chosen_on = {subject: predicted.pop(subject) for subject in split["validation"]}
    report = tables.report_of([{"predicted": chosen_on}], X, to_scheme(y, "wnr"), "wnr")
    kappa = report.pooled["kappa"]
    return {"alpha": None, "predicted": predicted, "validation_kappa": kappa}


def load_cohort(options):
    """Load or simulate nights, and scale each channel of each epoch from 0 to 1."""
    if options.data is None:
        cohort = make_cohort(
            sum(options.subjects),
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


def split_subjects(options, subjects):
    """Divide subjects into those of the training, the validation and the test."""
    subjects, names = np.unique(subjects), ("train", "validation", "test")
    if options.data is not None and options.set == "mass":
        split = MassSplit(subjects)
        return {part: getattr(split, part) for part in names}
    sizes = options.subjects[:2]
    if options.data is not None:  # 80, 10 and 10 %, as in the paper
        n_held = max(1, round(0.1 * len(subjects)))
        sizes = [len(subjects) - 2 * n_held, n_held]
    drawn = np.random.RandomState(options.seed).permutation(subjects)
    parts = np.split(drawn, np.cumsum(sizes))
    return {n: tuple(sorted(part.tolist())) for n, part in zip(names, parts, strict=True)}


def choose(fits):
    """Choose a fit of each row, and so its alpha, by the kappa of the validation subjects.

    ``fits`` are those of one scheme. The first of equals is chosen.
    """
    best = {}
    for fit in fits:
        other = best.setdefault(fit["row"], fit)
        if fit["validation_kappa"] > other["validation_kappa"]:
            best[fit["row"]] = fit
    return best


def make_tasks(rows, n_classes, alphas, chosen):
    """Name the fits of some rows in a scheme, the grid of alpha included."""
    for row in rows:
        grid = alphas if row in CHOSEN else [None]
        if row == "sd+cl-sequences":
            grid = [chosen["sd+cl"]["alpha"]]
        for alpha in grid:
            suffix = f"_{alpha:g}" if row in CHOSEN else ""
            task = {"row": row, "n_classes": n_classes, "alpha": alpha}
            yield f"{row}{suffix}-{n_classes}", task


# ---------------------------------------------------------------- the page


def best_baseline(rows):
    """Name the ECG baseline with the highest kappa on the validation subjects."""
    return max(BASELINES, key=lambda row: rows[row]["validation_kappa"])


def table_1(rows, reports, paper):
    """Weighted F1, accuracy and kappa of each row, beside the paper's."""
    lines = []
    for row, report in reports.items():
        alpha, line = rows[row]["alpha"], [LABELS[row]]
        line.append("-" if alpha is None else f"{alpha:g}")
        values = paper.get(row, (np.nan, np.nan))[:2]
        for score, value in zip(("f1_weighted", "accuracy"), values, strict=True):
            line += [tables.number(value, 2), tables.mean(report.per_subject, score, 2)]
            line.append(tables.number(report.pooled[score], 2))
        line += [
            tables.mean(report.per_subject, "kappa"),
            tables.number(rows[row]["validation_kappa"], 3),
        ]
        lines.append(line)
    header = ["Method", "alpha", "Weighted F1, paper", "mean", "pooled"]
    header += ["Accuracy, paper", "mean", "pooled", "Kappa, mean", "validation kappa"]
    return tables.markdown_table(header, lines)


def table_of_gains(scores, best):
    """Compute the gain of each distilled row over the plain, the best and all baselines."""
    lines = []
    for row in DISTILLED:
        found = [
            tables.gain_of(scores[row], scores[baseline], score)
            for baseline in ("ecg", best)
            for score in ("kappa", "f1_weighted")
        ]
        found.append(min(tables.gain_of(scores[row], scores[name]) for name in BASELINES))
        judged = tables.verdict(tables.gain_of(scores[row], scores[best]))
        lines.append([LABELS[row], *map(tables.signed, found), judged])
    header = ["Method", "Kappa, over the ECG baseline", "weighted F1"]
    header += ["Kappa, over the best baseline", "weighted F1"]
    header += ["Kappa, least gain over any baseline", "A gain over the best?"]
    return tables.markdown_table(header, lines)


def about_gap(scores):
    """Describe the gap between EEG and ECG, which is what can be gained."""
    gap = gap_closed(
        *(tables.values_of(scores[row], "kappa") for row in ("eeg", "ecg", "at+sd+cl"))
    )
    note = "" if gap.has_gap else " **There is no gap that a teacher could close.**"
    shown = tables.with_interval((gap.gap, *gap.gap_interval))
    return f"The EEG is {shown} above the ECG in kappa.{note}"


def about_ready(n_classes, rows):
    """Say what the row of SleepECG is, or why there is none."""
    if n_classes == 4:
        return "SleepECG, which a user might take instead, has no stager of four stages."
    if READY not in rows:
        return "SleepECG is not installed: `pip install sleepecg keras` adds its row."
    return (
        "SleepECG's `wrn-gru-mesa` comes trained, on 1971 real nights, and stages the same "
        "nights at 100 Hz, whole and in their order. It was made for nights of seven hours "
        "and more and for windows of 4.5 min: a night here is a tenth of that, with a whole "
        "night's course, so the row is less than it can do (the page `simulation_realism` "
        "has nights of seven hours). It reads neighbouring epochs, as only the rows with "
        "sequences do here."
    )


def parts_of(n_classes, fits, rows, reports, note):
    """Write the paragraphs of a scheme: all fits, those of the rows, and their reports."""
    scheme, paper = SCHEMES[n_classes], PAPER[n_classes]
    scores = {row: report.per_subject for row, report in reports.items()}
    best = best_baseline(rows)
    in_percent = {row: [100 * f1 for f1 in by[2:]] for row, by in paper.items()}
    yield f"## {n_classes} stages ({' '.join(scheme_names(scheme))}){note}"
    yield about_gap(scores)
    yield f"### Table I: weighted F1 and accuracy{note}"
    yield table_1(rows, reports, paper)
    if note:
        yield about_ready(n_classes, rows)
    yield (
        "Mean: over test subjects, with a 95 % bootstrap interval over them; pooled: over "
        "all their epochs, as in the published code."
    )
    yield f"### Gains{note}"
    yield table_of_gains(scores, best)
    yield (
        f"The best baseline by the validation subjects is: {LABELS[best]}. Differences are "
        "paired by test subject, with 95 % bootstrap intervals over them. *Shown*: the "
        "interval of kappa over the best baseline leaves out 0. The least gain is that "
        "over the baseline with the highest kappa on the test subjects, which nobody could "
        "have chosen. One training with one seed stands behind each row, which the "
        "intervals do not know."
    )
    yield f"### Table II: F1 of each stage (%){note}"
    yield tables.table_of_stages(reports, LABELS, in_percent, scheme)
    yield "### Costs"
    costs = {name: [fit] for name, fit in fits.items()}
    yield tables.table_of_costs(costs, {name: name for name in fits})


def page_of(head, options, results, rows, reports):
    """Write the page; results, their chosen ones and reports are by number of stages."""
    simulated, length = options.data is None, options.sequence_length
    return [
        *head,
        "One division into subjects to train on, to choose on and to test on, as in the "
        "paper; every row has the same, with the same optimiser, schedule and seed. Weights, "
        "alpha and the best baseline are chosen by kappa on the "
        "validation subjects alone, whom teachers do not train on either; the paper's alpha is 0.5, and the "
        "published code chooses weights by weighted F1. The attention step is fitted once and serves "
        "the rows that begin with it.",
        "*Ours* are further baselines, each with as many passes as the two-step rows in all, "
        f"but for the one without class weights. Rows with sequences read {length} epochs at "
        "a time and as many epochs in all as a row of twice the passes; the last is "
        "distilled alike, from the same EEG stager.",
        "Passes, learning rate and number of subjects were chosen on the seed 100, on its "
        "EEG and ECG baselines alone."
        if simulated
        else "Where windows of 30 s overlap (MASS, subsets 2, 4 and 5), so do the epochs of "
        "a sequence.",
        *(
            part
            for n in SCHEMES
            for part in parts_of(
                n, results[n], rows[n], reports[n], ", simulated" * simulated
            )
        ),
        "The costs of a fit are without those of the EEG stager, and of the attention step "
        "where another fit has done it already: at+cl has, for at+sd+cl.",
    ]


def rows_of_csv(rows, reports, data):
    """One row for each scheme, method and test subject."""
    stages = ("W", "L", "D", "N", "R")
    names = ["accuracy", "kappa", "f1_macro", "f1_weighted", *(f"f1_{s}" for s in stages)]
    for n_classes, found in reports.items():
        for row, report in found.items():
            fit = rows[n_classes][row]
            about = {"data": data, "n_classes": n_classes, "method": row}
            about["alpha"] = fit["alpha"]
            about["validation_kappa"] = round(fit["validation_kappa"], 5)
            for subject, scores in report.per_subject.items():
                yield {**about, "subject": subject, **tables.rounded(scores, names)}


def draw_traces(rows, X, y, subjects):
    """Draw the bottleneck over time in the two cases of Fig. 2; return figure and numbers.

    ``rows`` are the fits of four stages. Of each case the first epoch of the test subjects
    is drawn, in the order of their names and nights.
    """
    tested = np.concatenate([np.flatnonzero(X.subject == one) for one in subjects])
    found = {row: np.concatenate(list(rows[row]["predicted"].values())) for row in DRAWN}
    ecg, distilled = (found[row] == y[tested] for row in ("ecg", "at+sd+cl"))
    cases = {
        "Case 1, distilled right and ECG baseline wrong": distilled & ~ecg,
        "Case 2, ECG baseline right and distilled wrong": ecg & ~distilled,
    }
    figure, numbers, stages = Figure((10, 5.6), layout="constrained"), [], "WLDR"
    for half, (case, where) in zip(figure.subfigures(2, 1), cases.items(), strict=True):
        half.suptitle(f"{case}: {where.sum()} of {len(tested)} epochs", fontsize="medium")
        for k in np.flatnonzero(where)[:1]:
            epoch, truth = X[[tested[k]]], stages[y[tested[k]]]
            for panel, row in zip(half.subplots(1, len(DRAWN)), DRAWN, strict=True):
                signal = epoch.source_epochs if row == "eeg" else epoch
                maps = rows[row]["stager"].extract_features(signal, "bottom")[0]
                _, n_times = maps.shape  # filters, times
                seconds = EPOCH_SECONDS * (np.arange(n_times) + 0.5) / n_times
                panel.plot(seconds, maps.T, color="#bbbbbb", linewidth=0.3)
                panel.plot(seconds, maps.mean(axis=0), color="#c8364a")
                title = f"{LABELS[row]}: {stages[found[row][k]]} (scored {truth})"
                panel.set_title(title, fontsize="medium")
                panel.set_xlabel("Time in the epoch (s)")
                about = {"case": case[:6], "row": tested[k], "network": row}
                numbers += [
                    {**about, "seconds": round(second, 3), "mean": round(float(mean), 5)}
                    for second, mean in zip(seconds, maps.mean(axis=0), strict=True)
                ]
    return figure, numbers


def about_traces(data):
    """Describe Fig. 2."""
    return (
        "Fig. 2 of the paper: what the bottleneck of three networks holds over the time of "
        f"single epochs of {data} nights, four stages. Grey is each filter, red their mean. "
        "An epoch of each case is the first one of the test subjects, in the order of their "
        "names and nights; the networks have scales of their own. The paper does not say "
        "which epochs it shows, nor what it draws of the filters."
    )


def read_options(argv=None):
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--data", type=Path, metavar="ROOT", help="folder of nights, held in memory")
    add("--figure", action="store_true", help="Fig. 2 of the paper alone")
    add("--set", choices=("mass", "cinc2018"), default="mass", help="what ROOT holds")
    options = parse(parser, SETTINGS, argv)
    people = options.subjects
    if len(people) != 3 or min(people) < 1 or people[2] < 2:
        parser.error("--subjects: three numbers, and two in the test at least")
    return options


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    options = read_options(argv)
    study = Study("joshi2021", options)
    X, y = load_cohort(options)
    split = split_subjects(options, X.subject)
    settings = {name: options.settings[name] for name in OF_FIT}
    shared = {"settings": settings, "split": split, "X": X, "y": y, "memory": study.memory}
    results, chosen = {n: {} for n in SCHEMES}, {n: {} for n in SCHEMES}
    schemes, wanted = ([4], DRAWN) if options.figure else (SCHEMES, ROWS)
    for of_stage in STAGES:
        of_stage = [row for row in of_stage if row in wanted]
        tasks = {
            name: task
            for n in schemes
            for name, task in make_tasks(of_stage, n, options.alphas, chosen[n])
        }
        for name, fit in study.run(fit_row, tasks, **shared).items():
            results[tasks[name]["n_classes"]][name] = fit
        chosen = {n: choose(results[n].values()) for n in schemes}
    rows = {n: {row: chosen[n][row] for row in ROWS if row in wanted} for n in schemes}
    data = options.set if options.data else "simulated"
    about = {
        "data": (data, "MASS"),
        "subjects to train on, to choose on, to test on": (
            ", ".join(str(len(part)) for part in split.values()),
            "80, 10, 10 % (code: 158, 20, 22)",
        ),
        "epochs of all subjects": (len(X), "-"),
        "sampling rate, Hz": (X.sfreq["target"], 200),
    }
    seed = f"_seed{options.seed}" if options.seed else ""
    name, title = f"joshi2021_{data}{seed}", f"Joshi et al. (2021), {data} nights"
    head = study.head(title, about, (*OF_FIT, "alphas"))
    if options.figure:
        truth = to_scheme(y, SCHEMES[4])
        figure, numbers = draw_traces(rows[4], X, truth, split["test"])
        study.write_figure(f"{name}_figure2", head, about_traces(data), numbers, figure)
        return
    reports = {}
    for n, scheme in SCHEMES.items():
        if n == 3 and options.data is None and has_sleepecg():
            rows[n][READY] = stage_ready(options, split, X, y)
        reports[n] = {
            row: tables.report_of([fit], X, to_scheme(y, scheme), scheme)
            for row, fit in rows[n].items()
        }
    parts = page_of(head, options, results, rows, reports)
    study.write(name, parts, list(rows_of_csv(rows, reports, data)))


if __name__ == "__main__":
    main()
