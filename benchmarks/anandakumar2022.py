"""The experiment of Anandakumar et al. (2022): ear-EEG staged with a scalp-EEG teacher.

Five methods, and two rows of our own, leave-one-subject-out: Tables 1 to 3 beside the
paper's values, with what a fit costs; or with ``--figure`` its Fig. 3 alone. On simulated
nights, or on the paper's own data set (EESM17, OpenNeuro ds004348) with ``--data``.

    python benchmarks/anandakumar2022.py --fast
    python benchmarks/anandakumar2022.py --network small --passes 20 --n-jobs 2
    python benchmarks/anandakumar2022.py --data ~/ds004348 --rejection paper
    python benchmarks/anandakumar2022.py --data ~/ds004348 --figure
"""

import numpy as np
import tables
from matplotlib.figure import Figure
from skorch.callbacks import LRScheduler
from study import Setting, Study, Watch, folder, parse, tasks_of, texts, timed_fit

from skleepkd.datasets import load_eesm, make_cohort
from skleepkd.distillation.teacher import final_stager
from skleepkd.plotting import EmbeddingDisplay
from skleepkd.preprocessing import EAR_ELECTRODES, PAPER_REJECTIONS
from skleepkd.recipes import anandakumar2022
from skleepkd.stages import scheme_names

text = texts(__file__)
OFFLINE_START = "*ours:* offline, from the teacher's weights"
#: Rows of the tables: a name, the recipe, what is set on it and the budget's factor.
METHODS = {
    # The scalp stager is what transfer begins with, so that one fit serves three rows.
    "scalp": ("scalp, supervised", "transfer", {"trainable": None}, 1),
    "ear": ("ear, supervised", "ear", {}, 1),
    "transfer": ("transfer", "transfer", {}, 1),
    "offline": ("distillation, offline", "offline", {}, 1),
    "online": ("distillation, online", "online", {}, 1),
    "offline-start": (OFFLINE_START, "offline", {"start_from_teacher": True}, 1),
    "ear-twice": ("*ours:* ear, twice the passes", "ear", {}, 2),
}
LABELS = {method: label for method, (label, *_) in METHODS.items()}

#: Methods that need the scalp stager first, and it.
NEED_SCALP = dict.fromkeys(("transfer", "offline", "offline-start"), "scalp")

#: What each panel of Fig. 3 compares.
PANELS = {
    "(a) supervised": ("scalp", "ear"),
    "(b) transfer": ("scalp", "ear", "transfer"),
    "(c) offline distillation": ("scalp", "ear", "offline"),
    "(d) online distillation": ("online teacher", "online"),
}
#: Epochs of each network, spread over the night; at 200 Hz one has 144 kB of U-Sleep.
N_DRAWN = 300

NETWORKS = ("USleep", "EpochCrossModalTransformer", "small")
#: Tables 2 and 3 of the paper, by network; the small one, LogPowerNet, is not there.
PAPER = {name: tables.values_in(text(f"paper {name}")) for name in NETWORKS[:2]}
#: Of Table 2: name, factor, digits, and the paper's digits.
SCORES = {"accuracy": ("Accuracy", 100, 1, 2), "kappa": ("Kappa", 1, 3, 3)}

#: The paper left its subject 5 out, as both electrodes of the right ear canal were rejected.
LEFT_OUT = "sub-006"

REJECTION = "rejected ear electrodes of real nights"
RULES, SCHEDULES = ("ours", "paper"), ("constant", "cosine")
CONSTANT, VALIDATION = "- (code: constant)", "- (code: the test subject)"
SETTINGS = {
    "network": Setting("network of all rows", "USleep", choices=NETWORKS),
    "subjects": Setting("simulated subjects", 8, 3),
    "epochs": Setting("epochs of each", 300, 24),
    "sfreq": Setting("hertz of simulated nights", 64.0, 32.0),
    "noise": Setting("factor of the ear's noise", 1.0),
    "passes": Setting("passes over the training epochs", 100, 1, paper=100),
    "schedule": Setting("schedule", "constant", paper=CONSTANT, choices=SCHEDULES),
    "folds": Setting("test the first subjects only"),
    "depth": Setting("levels of U-Sleep", 12, 3, paper="12 (code)"),
    "validation": Setting("training subjects who choose the pass", paper=VALIDATION),
    "rejection": Setting(REJECTION, "ours", paper="paper", choices=RULES),
    "seed": Setting("seed", 0),
}
#: Those that a fit depends on, beside the nights.
OF_FIT = ("network", "passes", "schedule", "depth", "validation", "seed")


def fit_fold(method, subject, settings, X, y, memory, drawn):
    """Fit one method without one subject, and stage that subject.

    Of the subject ``drawn`` the features of some epochs are kept, for Fig. 3.
    """
    _, recipe, params, factor = METHODS[method]
    passes, network = factor * settings["passes"], settings["network"]
    stager = anandakumar2022(
        recipe,
        "LogPowerNet" if network == "small" else network,
        max_epochs=passes,
        validation=settings["validation"],
        random_state=settings["seed"],
        **{"module__depth": settings["depth"]} if network == "USleep" else {},
    )
    test = np.flatnonzero(X.subject == subject)
    train = np.flatnonzero(X.subject != subject)
    night, truth = X[test], y[test]

    def callbacks(epochs):
        called = [("watch", Watch(epochs, truth))]
        if settings["schedule"] == "cosine":
            called.append(("schedule", LRScheduler("CosineAnnealingLR", T_max=passes)))
        return called

    params = {"callbacks": callbacks(night.target_epochs), **params}
    if recipe != "ear":
        inner = "pretrained" if recipe == "transfer" else "teacher"
        params[f"{inner}__callbacks"] = callbacks(night.source_epochs)
        params["memory"] = memory
    costs = timed_fit(stager.set_params(**params), X[train], y[train])
    teacher = final_stager(stager.teacher_) if method == "online" else None
    seen_by = {}
    if method == "scalp":
        stager, night = stager.pretrained_, night.source_epochs
    if subject == drawn:
        some = drawn_rows(test)
        signals = X[some].source_epochs if method == "scalp" else X[some]
        seen_by[method] = stager.extract_features(signals)
        if teacher:
            seen_by["online teacher"] = teacher.extract_features(signals.source_epochs)
    watch = dict(stager.callbacks_)["watch"]
    kappas = [look["kappa"] for look in watch.looks_]
    return {
        "predicted": {subject: stager.predict(night)},
        "best_predicted": {subject: watch.best_predicted_},
        "kappa_by_pass": kappas,
        "optimistic_pass": int(np.argmax(kappas)) + 1,
        "teacher_kappa_by_pass": teacher
        and [look["kappa"] for look in dict(teacher.callbacks_)["watch"].looks_],
        "held_out": " ".join(map(str, stager.held_out_)),
        "features": seen_by,
        **costs,
    }


def drawn_rows(test):
    """Pick the rows whose features are drawn from those of a test subject."""
    return test[:: -(-len(test) // N_DRAWN)]


def load_cohort(options):
    """Load EESM17 or simulate nights; rejected electrodes are None in a simulation."""
    if options.data is None:
        names = "subjects", "epochs", "sfreq", "noise", "seed"
        n_subjects, n_epochs, sfreq, noise, seed = (getattr(options, n) for n in names)
        how = {"n_epochs": n_epochs, "sfreq": sfreq, "noise": noise, "random_state": seed}
        cohort = make_cohort(n_subjects, **how)
        return cohort.X, cohort.y, None
    rejection = PAPER_REJECTIONS if options.rejection == "paper" else True
    where = {"cache": options.cache / "eesm17"}
    cohort = load_eesm(options.data, rejection=rejection, **where)
    kept = ~np.char.endswith(np.asarray(cohort.groups, dtype=str), LEFT_OUT)
    return cohort.X[kept], cohort.y[kept], cohort.rejected


# ---------------------------------------------------------------- the page


def table_1(rejected):
    """Rejected electrodes of the nights that are there, beside the published ones."""
    rows = []
    for number, (name, paper) in enumerate(PAPER_REJECTIONS.items(), 1):
        if name in rejected:
            row = {"Subject": number, "Folder": name}
            both = {"here": rejected[name], "paper": paper}
            for whose, found in both.items():
                row[f"Rejected, {whose}"] = " ".join(sorted(found)) or "none"
            for whose, found in both.items():
                left = len(EAR_ELECTRODES) - len(found)
                row[f"Number, {whose}"] = f"{len(found)} ({left})"
            rows.append(row)
    return tables.markdown_table(rows)


def table_2(last, best, paper):
    """Accuracy (%) and kappa beside the paper's, and the share of the gap that is closed.

    ``last`` and ``best`` are reports by method, of the last weights and of those of the
    best pass on the test subject.
    """
    rows, kappas = [], {method: report.subjects["kappa"] for method, report in last.items()}
    for method, report in last.items():
        row = {"Method": LABELS[method]}
        row |= tables.beside_paper(report, paper.get(method), SCORES)
        shares = kappas["scalp"], kappas["ear"], kappas[method]
        of_gap = method not in ("scalp", "ear")
        row["Gap closed"] = tables.share_of_gap(*shares) if of_gap else "-"
        for score, (_, factor, digits, _) in SCORES.items():
            optimistic = factor * best[method].mean[score]
            row[f"*Optimistic:* {score}"] = tables.number(optimistic, digits)
        rows.append(row)
    return tables.markdown_table(rows)


def page_of(results, last, best, paper, rejected, rejection):
    """Write the page below its head."""
    online = [  # kappas of student and teacher after each pass
        (fit["kappa_by_pass"], fit["teacher_kappa_by_pass"])
        for fit in results["online"].values()
    ]
    f1 = {method: values[2:] for method, values in paper.items()}
    costs = {method: list(folds.values()) for method, folds in results.items()}
    real = rejected is not None
    n, whose = len(EAR_ELECTRODES), text(f"rejected {rejection}")
    return text(
        "page",
        table_1=text("table 1", real, table=real and table_1(rejected), n=n, whose=whose),
        note="" if real else ", simulated",
        table_2=table_2(last, best, paper),
        last=np.mean([teacher[-1] for _, teacher in online]),
        best=np.mean([teacher[np.argmax(student)] for student, teacher in online]),
        table_3=tables.table_of_stages(last, LABELS, f1),
        costs=tables.table_of_costs(costs, LABELS, NEED_SCALP),
    )


def draw_features(features, y):
    """Map the features of each panel's networks; return the figure and its numbers."""
    figure, rows = Figure(figsize=(9, 8.4), layout="constrained"), []
    stages = np.array(scheme_names("aasm"))[y].tolist()
    panels = zip(figure.subfigures(2, 2).flat, PANELS.items(), strict=True)
    for panel, (title, methods) in panels:
        shown = {LABELS.get(method, method): features[method] for method in methods}
        how = {"max_epochs": None, "ax": panel.subplots()}
        display = EmbeddingDisplay.from_features(shown, **how)
        panel.suptitle(title, fontsize="medium")
        rows += [
            {"panel": title[1], "network": network, "stage": stage, "x": x, "y": above}
            for network, places in display.embedding.items()
            for stage, (x, above) in zip(
                stages, places.astype(float).round(2).tolist(), strict=True
            )
        ]
    return figure, rows


def rows_of_csv(last, best, about):
    """One row for each method and subject."""
    wanted = ["accuracy", "kappa", "f1_macro", *(f"f1_{s}" for s in scheme_names("aasm"))]
    of_fit = "held_out", "optimistic_pass", "seconds", "cpu_seconds"
    rows = []
    for method, report in last.items():
        for row in tables.subject_rows(report, wanted, of_fit, **about, method=method):
            optimistic = tables.rounded(best[method], row["subject"], wanted[:2])
            rows.append(row | {f"optimistic_{name}": of for name, of in optimistic.items()})
    return rows


def read_options(argv=None):
    """Read the command line."""
    data, figure = folder("folder of EESM17"), "Fig. 3 of the paper alone"
    options = parse(__doc__, SETTINGS, argv, data=data, figure=figure)
    if options.folds is not None and options.folds < 2:
        options.error("--folds: an interval over subjects needs two folds at least")
    if options.subjects < 3:
        options.error("--subjects: three at least, one for the test and two to train on")
    return options


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    options = read_options(argv)
    study = Study("anandakumar2022", options)
    X, y, rejected = load_cohort(options)
    simulated = rejected is None
    subjects = np.unique(X.subject).tolist()[: 1 if options.figure else options.folds]
    settings = {name: options.settings[name] for name in OF_FIT}
    shared = {"settings": settings, "X": X, "y": y, "memory": study.memory}
    drawn = {method for methods in PANELS.values() for method in methods}
    wanted = [m for m in METHODS if m in drawn or not options.figure]
    fits = {}
    # Scalp networks come first: three other methods find theirs ready.
    for methods in (["scalp"], wanted[1:]):
        tasks = tasks_of(method=methods, subject=subjects)
        fits |= study.run(fit_fold, tasks, drawn=subjects[0], **shared)

    data = f"simulated, noise x{options.noise:g}" if simulated else "EESM17"
    about = {
        "data": (data, "EESM17"),
        "subjects": (len(np.unique(X.subject)), 8),
        "test subjects (folds)": (len(subjects), 8),
        "epochs of all subjects": (len(X), "- (code: 6919)"),
        "sampling rate, Hz": (X.sfreq["target"], 200),
    }
    cohort = "simulated cohort" if simulated else "EESM17"
    title = f"Anandakumar et al. (2022), {options.network}, {cohort}"
    shown = [n for n in OF_FIT if n != "depth" or options.network == "USleep"]
    head = study.head(title, about, shown + ["rejection"] * (not simulated))
    name = f"anandakumar2022_{options.network}_{'simulated' if simulated else 'eesm17'}"
    if options.figure:
        features = {n: of for fit in fits.values() for n, of in fit["features"].items()}
        rows = drawn_rows(np.flatnonzero(X.subject == subjects[0]))
        figure, places = draw_features(features, y[rows])
        caption = text("figure", n_epochs=len(rows), subject=subjects[0])
        study.write_figure(f"{name}_figure3", head, caption, places, figure)
        return
    results = {m: {s: fits[m, s] for s in subjects} for m in METHODS}
    last, best = (
        {m: tables.report_of(fs.values(), X, y, of=of) for m, fs in results.items()}
        for of in ("predicted", "best_predicted")
    )
    paper = PAPER.get(options.network, {})
    page = page_of(results, last, best, paper, rejected, options.rejection)
    about = {"network": options.network, "data": data}
    study.write(name, [*head, page], rows_of_csv(last, best, about))


if __name__ == "__main__":
    main()
