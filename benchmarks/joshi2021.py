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

import numpy as np
import tables
from matplotlib.figure import Figure
from simulation_realism import has_sleepecg, stage_with_sleepecg
from skorch.callbacks import LRScheduler
from study import Setting, Study, folder, parse, texts, timed_fit
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

text = texts(__file__)
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

SCHEDULES, PAPERS_FILTERS = ("constant", "one-cycle"), [16, 32, 64, 128, 256, 512]
PARTS = "subjects to train on, to choose on, to test on"
SETTINGS = {
    "subjects": Setting(f"simulated {PARTS}", [28, 8, 22], [2, 1, 2]),
    "epochs": Setting("epochs of a simulated night", 80, 24),
    "sfreq": Setting("hertz", 50.0, 4.0, 200.0),
    "filters": Setting(
        *("filters of U-Time's levels", [4, 8, 16, 32, 64, 128], [2] * 6, PAPERS_FILTERS),
        paper="16, 32, 64, 128, 256, 512 (code)",
    ),
    "passes": Setting("passes over the training epochs, in each of two steps", 8, 1, 150),
    "batch-size": Setting("epochs in a batch", 32, None, 256, "256 (code)"),
    "lr": Setting("learning rate (its highest, with one-cycle)", 1e-2, None, 1e-3),
    "schedule": Setting(
        "schedule", "one-cycle", None, "constant", "- (code: constant)", SCHEDULES
    ),
    "alphas": Setting("grid of alpha", [0.1, 0.5, 0.9], [0.5, 0.9], paper=0.5),
    "sequence-length": Setting("epochs of a sequence, in rows with them", 5, 3),
    "seed": Setting("seed", 0, paper="- (code: 42)"),
}
#: Those that a fit depends on, beside the nights.
OF_FIT = ("filters", "passes", "batch_size", "lr", "schedule", "sequence_length", "seed")

#: Tables I and II of the paper, by the number of stages.
PAPER = {n: tables.values_in(text(f"paper {n}")) for n in SCHEMES}
#: Of Table I: name, factor, digits, and the paper's digits.
SCORES = {"f1_weighted": ("Weighted F1", 1, 2, 2), "accuracy": ("Accuracy", 1, 2, 2)}

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
    teacher, seed = joshi2021("ecg", n_classes, **plain), settings["seed"]
    if recipe == "eeg":
        # The teacher of the other rows, so that one fit serves them all.
        how = {"memory": memory, "validation": plain["validation"], "random_state": seed}
        return FineTunedSleepStager(teacher, trainable=None, **how)
    # A pass over all windows reads each epoch ``length`` times.
    own = options(
        max(1, round(budget * settings["passes"] / length)),
        max(2, round(settings["batch_size"] / length)),
        n_epochs - (length - 1) * len(split["train"]),
    )
    stager = joshi2021(recipe, n_classes, random_state=seed, **own)
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
        how = {"source": ["C4-A1"], "target": ["ECG"], "random_state": options.seed}
        how |= {"n_epochs": options.epochs, "sfreq": options.sfreq}
        cohort = make_cohort(sum(options.subjects), **how)
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
        earlier = best.get(fit["row"], fit)
        best[fit["row"]] = max(earlier, fit, key=lambda one: one["validation_kappa"])
    return best


def make_tasks(rows, n_classes, alphas, chosen):
    """Name the fits of some rows in a scheme, the grid of alpha included."""
    for row in rows:
        grid = {f"{row}_{alpha:g}": alpha for alpha in alphas if row in CHOSEN}
        if row == "sd+cl-sequences":
            grid = {row: chosen["sd+cl"]["alpha"]}
        for name, alpha in (grid or {row: None}).items():
            task = {"row": row, "n_classes": n_classes, "alpha": alpha}
            yield f"{name}-{n_classes}", task


# ---------------------------------------------------------------- the page


def best_baseline(rows):
    """Name the ECG baseline with the highest kappa on the validation subjects."""
    return max(BASELINES, key=lambda row: rows[row]["validation_kappa"])


def table_1(rows, reports, paper):
    """Weighted F1, accuracy and kappa of each row, beside the paper's."""
    lines = []
    for row, report in reports.items():
        alpha = rows[row]["alpha"]
        line = {"Method": LABELS[row], "alpha": "-" if alpha is None else f"{alpha:g}"}
        line |= tables.beside_paper(report, paper.get(row), SCORES)
        line["Kappa, mean"] = tables.mean(report.subjects["kappa"])
        line["validation kappa"] = tables.number(rows[row]["validation_kappa"], 3)
        lines.append(line)
    return tables.markdown_table(lines)


def table_of_gains(scores, best):
    """Compute the gain of each distilled row over the plain, the best and all baselines."""
    lines = []
    for row in DISTILLED:
        line = {"Method": LABELS[row]}
        for name, baseline in (("the ECG", "ecg"), ("the best", best)):
            for score, column in (("kappa", "Kappa"), ("f1_weighted", "Weighted F1")):
                gain = tables.gain_of(scores[row][score], scores[baseline][score])
                line[f"{column}, over {name} baseline"] = tables.signed(gain)
        gains = {
            name: tables.gain_of(scores[row]["kappa"], scores[name]["kappa"])
            for name in BASELINES
        }
        line["Kappa, least gain over any baseline"] = tables.signed(min(gains.values()))
        line["A gain over the best?"] = tables.verdict(gains[best])
        lines.append(line)
    return tables.markdown_table(lines)


def scheme_of(n_classes, fits, rows, reports, note):
    """Write the part of a scheme: of all fits, those of the rows, and their reports."""
    scheme, paper = SCHEMES[n_classes], PAPER[n_classes]
    scores = {row: report.subjects for row, report in reports.items()}
    best = best_baseline(rows)
    f1 = {row: [100 * value for value in values[2:]] for row, values in paper.items()}
    gap = gap_closed(*(scores[row]["kappa"] for row in ("eeg", "ecg", "at+sd+cl")))
    ready = "ready" if READY in rows else f"no ready {n_classes}"
    return text(
        "scheme",
        n_classes=n_classes,
        stages=" ".join(scheme_names(scheme)),
        note=note,
        gap=tables.with_interval((gap.gap, *gap.gap_interval)),
        no_gap=text("no gap", not gap.has_gap),
        table_1=table_1(rows, reports, paper),
        about_ready=text(ready, note),
        gains=table_of_gains(scores, best),
        best=LABELS[best],
        table_2=tables.table_of_stages(reports, LABELS, f1, scheme),
        costs=tables.table_of_costs(
            {name: [fit] for name, fit in fits.items()}, {name: name for name in fits}
        ),
    )


def rows_of_csv(reports, data):
    """One row for each scheme, method and test subject."""
    names = ["accuracy", "kappa", "f1_macro", "f1_weighted", *(f"f1_{s}" for s in "WLDNR")]
    return [
        line
        for n_classes, found in reports.items()
        for row, report in found.items()
        for line in tables.subject_rows(
            *(report, names, ("alpha", "validation_kappa")),
            **{"data": data, "n_classes": n_classes, "method": row},
        )
    ]


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


def read_options(argv=None):
    """Read the command line."""
    options = parse(
        *(__doc__, SETTINGS, argv),
        data=folder("folder of nights, held in memory"),
        figure="Fig. 2 of the paper alone",
        set={
            "choices": ("mass", "cinc2018"),
            "default": "mass",
            "help": "what --data holds",
        },
    )
    people = options.subjects
    if len(people) != 3 or min(people) < 1 or people[2] < 2:
        options.error("--subjects: three numbers, and two in the test at least")
    return options


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    options = read_options(argv)
    study = Study("joshi2021", options)
    X, y = load_cohort(options)
    split = split_subjects(options, X.subject)
    settings = {name: options.settings[name] for name in OF_FIT}
    shared = {"settings": settings, "split": split, "X": X, "y": y, "memory": study.memory}
    schemes, wanted = ([4], DRAWN) if options.figure else (SCHEMES, ROWS)
    results, chosen = {n: {} for n in schemes}, {n: {} for n in schemes}
    for of_stage in STAGES:
        of_stage = [row for row in of_stage if row in wanted]
        for n in schemes:
            tasks = dict(make_tasks(of_stage, n, options.alphas, chosen[n]))
            results[n] |= study.run(fit_row, tasks, **shared)
            chosen[n] = choose(results[n].values())
    rows = {n: {row: chosen[n][row] for row in ROWS if row in wanted} for n in schemes}
    data = options.set if options.data else "simulated"
    sizes = ", ".join(str(len(part)) for part in split.values())
    about = {
        "data": (data, "MASS"),
        PARTS: (sizes, "80, 10, 10 % (code: 158, 20, 22)"),
        "epochs of all subjects": (len(X), "-"),
        "sampling rate, Hz": (X.sfreq["target"], 200),
    }
    seed = f"_seed{options.seed}" if options.seed else ""
    name, title = f"joshi2021_{data}{seed}", f"Joshi et al. (2021), {data} nights"
    head = study.head(title, about, (*OF_FIT, "alphas"))
    if options.figure:
        truth = to_scheme(y, SCHEMES[4])
        figure, numbers = draw_traces(rows[4], X, truth, split["test"])
        caption = text("figure", data=data)
        study.write_figure(f"{name}_figure2", head, caption, numbers, figure)
        return
    if options.data is None and has_sleepecg():
        rows[3][READY] = stage_ready(options, split, X, y)
    note, reports = ", simulated" * (options.data is None), {}
    for n, scheme in SCHEMES.items():
        truth = to_scheme(y, scheme)
        reports[n] = {
            row: tables.report_of([fit], X, truth, scheme) for row, fit in rows[n].items()
        }
    parts = [scheme_of(n, results[n], rows[n], reports[n], note) for n in SCHEMES]
    page = text(
        "page",
        length=options.sequence_length,
        about_nights=text("simulated" if note else "real"),
        schemes="\n\n".join(parts),
    )
    study.write(name, [*head, page], rows_of_csv(reports, data))


if __name__ == "__main__":
    main()
