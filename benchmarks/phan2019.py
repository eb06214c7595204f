"""The experiment of Phan et al. (2019): SeqSleepNet, from one channel to another.

A network is pretrained on C4-A1 of a large cohort and transferred to a small one, to
another EEG channel (Fpz-Cz) and to the EOG: the six rows of Tables I and II beside the
paper's values, and some of our own; or with ``--figure`` its Fig. 3 alone, the test accuracy
over training steps. On simulated nights, or with ``--data`` on Sleep-EDF (the paper's own
data). The pretrained network lies in the folder of finished fits, and ``--pretrained`` takes
it again.

    python benchmarks/phan2019.py --fast
    python benchmarks/phan2019.py --n-jobs 2
    python benchmarks/phan2019.py --data ~/sleep-edfx --source ~/mass
    python benchmarks/phan2019.py --figure --epochs 60 --hidden 16 --every 4

The default settings were chosen on the seed 100.
"""

import numpy as np
import pandas as pd
import tables
from matplotlib.figure import Figure
from study import Setting, Study, Watch, folder, parse, texts, timed_fit

from skleepkd import datasets, load, save
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.preprocessing import LogSpectrogram
from skleepkd.recipes import phan2019
from skleepkd.stages import scheme_names

text = texts(__file__)
#: Windows that stay together in a batch, in the rows with neighbouring windows.
NEIGHBOURS = 8
NEIGHBOURING, WINDOWS = "neighbouring windows", {"neighbouring_windows": NEIGHBOURS}
#: What each row of the tables is: a name, a recipe, what is set on it, its budget in passes.
ROWS = {
    "all": ("FT entire network", "all", {}, 1),
    "softmax+arnn": ("FT softmax + ARNN", "softmax+arnn", {}, 1),
    "softmax+seqrnn": ("FT softmax + SeqRNN", "softmax+seqrnn", {}, 1),
    "softmax": ("FT softmax", "softmax", {}, 1),
    "direct": ("Direct transfer (no FT)", "direct", {}, 1),
    "scratch": ("SeqSleepNet (scratch)", "scratch", {}, 1),
    "scratch-twice": ("*ours:* scratch, twice the passes", "scratch", {}, 2),
    "all-neighbours": (f"*ours:* FT entire network, {NEIGHBOURING}", "all", WINDOWS, 1),
    "scratch-neighbours": (f"*ours:* scratch, {NEIGHBOURING}", "scratch", WINDOWS, 1),
}
LABELS = {row: label for row, (label, *_) in ROWS.items()}

#: The paper's two scenarios, by their tables.
SCENARIOS = {"eeg": "Table I: EEG to EEG", "eog": "Table II: EEG to EOG"}
#: The target's channel in each scenario, simulated and as Sleep-EDF names it. In the third
#: there is no mismatch: the channel of the pretraining, of the subjects of the target.
CHANNELS = {
    "eeg": ("Fpz-Cz", "EEG Fpz-Cz"),
    "eog": ("EOG", "EOG horizontal"),
    "same": ("C4-A1", None),
}
#: How the channel of the pretraining is loaded, by set.
SOURCES = {
    "mass": (datasets.load_mass, "C4-A1"),
    "cinc2018": (datasets.load_cinc2018, "C4-M1"),
}

SETTINGS = {
    "subjects": Setting("simulated target subjects", 12, 6),
    "source-subjects": Setting("simulated subjects to pretrain on", 20, 2),
    "epochs": Setting("epochs of each", 200, 24),
    "folds": Setting("of the simulated subjects; of the real ones, the first", 4, 2),
    "hidden": Setting("width of the recurrent networks", 64, 4, 64, "64 (code)"),
    "sequence-length": Setting("epochs of a sequence", 20, 4, 20),
    "passes": Setting("passes over the target's sequences", 4, 1, 10),
    "source-passes": Setting("passes over the source's", 3, 1, 10),
    "lr": Setting("learning rate", 1e-3, None, 1e-4),
    "every": Setting(
        "steps between evaluations (and looks at the test)", 10, 2, 10, "10 (code)"
    ),
    "patience": Setting(
        "evaluations without improvement before the end", 10, 2, 50, "50 steps (code: 50)"
    ),
    "min-steps": Setting(
        "steps before which there is no end", 100, 0, 1000, "- (code: 1000)"
    ),
    "validation": Setting("training subjects who choose the step", 2, 1, 4),
    "seed": Setting("seed", 0),
}
#: Those that the pretraining and the other fits depend on, beside the nights.
OF_PRETRAINING = ("source_passes", "lr", "sequence_length", "hidden", "seed")
OF_FIT = ("passes", "lr", "sequence_length", "hidden", "seed")
OF_FIT += ("every", "patience", "min_steps")
SHOWN = (*dict.fromkeys(OF_PRETRAINING + OF_FIT), "validation")

#: Tables I and II of the paper, other systems with ours.
PAPER = {name: tables.values_in(text(f"paper {name}")) for name in SCENARIOS}

#: Columns of the tables: name, score, factor and digits.
SCORES = {
    "accuracy": ("Accuracy", 100, 1),
    "kappa": ("Kappa", 1, 3),
    "f1_macro": ("Macro F1", 100, 1),
    "sensitivity_macro": ("Sensitivity", 100, 1),
    "specificity_macro": ("Specificity", 100, 1),
}

#: The curves of Fig. 3, and how many folds it shows.
DRAWN = ("all", "softmax+arnn", "softmax+seqrnn", "softmax", "scratch")
N_FOLDS_DRAWN = 4

#: Claims about a difference: the row that is to be better, and than which.
CLAIMS = tables.rows_in(text("claims"))

# ---------------------------------------------------------------- the fits


def network_options(settings):
    """Return what the network from scratch and the pretrained one have in common."""
    return {
        "lr": settings["lr"],
        "sequence_length": settings["sequence_length"],
        "module__hidden_size": settings["hidden"],
        "random_state": settings["seed"],
    }


def pretrain(settings, X, y):
    """Train a network on the source cohort, all of it."""
    how = {"max_epochs": settings["source_passes"], **network_options(settings)}
    stager = phan2019("scratch", validation=None, callbacks__best_weights=None, **how)
    costs = timed_fit(stager, LogSpectrogram().fit_transform(X), y)
    losses = stager.history_[:, "train_loss"]
    about = {"first": losses[0], "last": losses[-1], **costs}
    steps = sum(len(row["batches"]) for row in stager.history_)
    return {"stager": stager, "steps": steps, **about}


def fit_fold(row, test, held_out, settings, X, y, pretrained):
    """Fit one row without the test subjects of a fold, and stage them."""
    _, method, params, factor = ROWS[row]
    tests = np.isin(X.subject, test)
    # As in the published code, who validates does not count for the frequencies' statistics.
    learns = ~tests & ~np.isin(X.subject, held_out)
    spectra = LogSpectrogram().fit(X[learns]).transform(X)
    options, every = network_options(settings), settings["every"]
    if method == "scratch":
        pretrained = None
    else:
        options = {name: options[name] for name in ("lr", "random_state")}
    chosen = StepwiseValidation(every, settings["patience"], settings["min_steps"])
    stager = phan2019(
        method,
        pretrained,
        max_epochs=factor * settings["passes"],
        validation=tuple(held_out),
        callbacks=[("watch", Watch(spectra[tests], y[tests], every))],
        callbacks__best_weights=chosen,
        **options,
        **params,
    )
    costs = timed_fit(stager, spectra[~tests], y[~tests])
    callbacks = dict(stager.callbacks_)
    return {
        "predicted": {
            subject: stager.predict(spectra[X.subject == subject]) for subject in test
        },
        "looks": callbacks["watch"].looks_,
        "steps": callbacks["watch"].steps_,
        "best_step": callbacks["best_weights"].best_step_,
        "held_out": list(held_out),
        **costs,
    }


def simulate(options, channel, n_subjects, seed):
    """Simulate a cohort of one channel at 100 Hz, not filtered."""
    how = {"n_epochs": options.epochs, "sfreq": 100.0, "random_state": seed}
    cohort = datasets.make_cohort(n_subjects, source=None, target=[channel], **how)
    return cohort.X, cohort.y


def load_source(options):
    """Load or simulate the cohort that is pretrained on: one channel, 100 Hz."""
    if options.source is None:  # other subjects than the target's
        return simulate(options, "C4-A1", options.source_subjects, options.seed + 1000)
    read, channel = SOURCES[options.source_set]
    cache = options.cache / f"{options.source_set}-100"
    of_code = {"channels": [channel], "sfreq": 100.0, "l_freq": 0.3, "h_freq": 40.0}
    cohort = read(options.source, cache=cache, **of_code)
    return cohort.X, cohort.y


def load_target(options, scenario):
    """Load or simulate the cohort of a scenario: one channel, 100 Hz, not filtered."""
    simulated, channel = CHANNELS[scenario]
    if options.data is None:
        return simulate(options, simulated, options.subjects, options.seed)
    cache = options.cache / f"sleep-edf-{scenario}"
    cohort = datasets.load_sleep_edf(
        options.data, channels=[channel], crop="phan2019", cache=cache
    )
    return cohort.X, cohort.y


def make_folds(options, subjects):
    """Divide subjects into folds, each with test and validation subjects.

    Sleep-EDF has the published code's twenty folds, or, where not all twenty subjects are there, one
    for each; simulated subjects are divided into ``options.folds``.
    """
    subjects = np.unique(subjects)
    split, folds = datasets.SleepEdfFolds(), []
    for test in np.array_split(subjects, len(subjects) if options.data else options.folds):
        rest = np.setdiff1d(subjects, test)
        if options.data and len(subjects) == 20:
            held_out = split(rest)
        else:
            drawn = np.random.RandomState(options.seed).permutation(rest)
            held_out = sorted(drawn[: options.validation].tolist())
        folds.append((test.tolist(), held_out))
    return folds[: options.folds]


# ---------------------------------------------------------------- the page
#
# ``found`` holds the report of each scenario and row, with "fits", the results of its folds.


def table(scenario, reports):
    """Scores over the epochs of all test subjects, beside the paper's."""
    unknown, rows = [np.nan] * len(SCORES), []
    here = {row: report.pooled for row, report in reports.items()}
    others = dict.fromkeys(row for row in PAPER[scenario] if row not in ROWS)
    for row, pooled in (here | others).items():
        paper = PAPER[scenario].get(row, unknown)
        transfer = "no" if row.startswith("scratch") or row in others else "yes"
        line = {"System": LABELS.get(row, row), "Transfer": transfer}
        for (score, how), value in zip(SCORES.items(), paper, strict=True):
            name, factor, digits = how
            line[f"{name}, paper"] = tables.number(value, digits)
            ours = pooled and f"**{tables.number(factor * pooled[score], digits)}**"
            line[f"{name}, here"] = ours or ""
        rows.append(line)
    return tables.markdown_table(rows)


def gains_of(scenario, reports, row, baseline):
    """Gain in accuracy of a row over another one, in points: the paper's, and ours."""
    paper = PAPER[scenario]
    known = row in paper and baseline in paper
    theirs = f"{paper[row][0] - paper[baseline][0]:+.1f}" if known else "-"
    own, other = (reports[name].subjects["accuracy"] for name in (row, baseline))
    return theirs, tables.gain_of(100 * own, 100 * other)


def table_of_gains(scenario, reports):
    """Gains in accuracy (points) and kappa over direct transfer and over scratch."""
    lines = []
    for row, report in reports.items():
        accuracy = tables.mean(report.subjects["accuracy"], 1, 100)
        line = {"System": LABELS[row], "Accuracy, mean over subjects": accuracy}
        for baseline, name in (("direct", "direct transfer"), ("scratch", "scratch")):
            cells = dict.fromkeys(("accuracy, paper", "accuracy, here", "kappa, here"), "")
            if row != baseline:
                theirs, ours = gains_of(scenario, reports, row, baseline)
                kappas = (reports[one].subjects["kappa"] for one in (row, baseline))
                kappa = tables.signed(tables.gain_of(*kappas))
                cells = dict(
                    zip(cells, (theirs, tables.signed(ours, 1), kappa), strict=True)
                )
            line |= {f"Over {name}: {column}": cell for column, cell in cells.items()}
        lines.append(line)
    return tables.markdown_table(lines)


def table_of_claims(found):
    """Check each claim: whether the interval of the difference in accuracy leaves out 0."""
    lines = []
    for claim, rows in CLAIMS.items():
        line = {"Claim": claim}
        for scenario, title in SCENARIOS.items():
            theirs, ours = gains_of(scenario, found[scenario], *rows)
            shown = f"{tables.signed(ours, 1)}, {tables.verdict(ours)}"
            name = title.split(": ")[1]
            line |= {f"{name}, paper": theirs, f"{name}, here": shown}
        lines.append(line)
    return tables.markdown_table(lines)


def fits_of(found, row):
    """List the fits of a row in both scenarios, as a frame."""
    return pd.DataFrame([fit for name in SCENARIOS for fit in found[name][row].fits])


def cost_of_step(fits):
    """Processor milliseconds of a step."""
    return 1000 * fits["cpu_seconds"].sum() / fits["steps"].sum()


def table_of_costs(found):
    """List the steps and the processor time of each row, over both scenarios."""
    lines = []
    for row, label in LABELS.items():
        if row == "direct":
            continue
        fits = fits_of(found, row)
        kept, means = "Step whose weights were kept", fits.mean(numeric_only=True)
        chosen = fits["best_step"].dropna()
        line = {"System": label, "Steps": f"{means['steps']:.0f}"}
        line[kept] = f"{chosen.mean():.0f}" if len(chosen) else "the last"
        line["CPU time of a fit, s"] = tables.number(means["cpu_seconds"])
        line["CPU time of a step, ms"] = tables.number(cost_of_step(fits), 0)
        lines.append(line)
    return tables.markdown_table(lines)


def page_of(simulated, found, pretrained):
    """Write the page."""
    note, parts = ", simulated" * simulated, []
    for scenario, title in SCENARIOS.items():
        reports = found[scenario]
        parts.append(
            text(
                "scenario",
                title=f"{title}{note}",
                table=table(scenario, reports),
                others=text("others", scenario == "eeg"),
                gains=table_of_gains(scenario, reports),
                n_subjects=len(reports["all"].subjects),
            )
        )
    same = found["same"]["direct"].pooled if "same" in found else {}
    cheaper = {
        row: cost_of_step(fits_of(found, row))
        / cost_of_step(fits_of(found, f"{row}-neighbours"))
        for row in ("all", "scratch")
    }
    return text(
        "page",
        chosen=text("chosen", simulated),
        pretraining=text("pretraining", pretrained, **pretrained or {}),
        same=text("same", "same" in found, **same),
        scenarios="\n\n".join(parts),
        note=note,
        claims=table_of_claims(found),
        differs=text("differs", simulated),
        costs=table_of_costs(found),
        n_neighbours=NEIGHBOURS,
        cheaper=" and ".join(f"{x:.1f} times ({LABELS[r]})" for r, x in cheaper.items()),
    )


def rows_of_csv(found, data):
    """One row for each scenario, system and test subject."""
    scores = [*SCORES, *(f"f1_{stage}" for stage in scheme_names("aasm"))]
    of_fit = "held_out", "steps", "best_step", "cpu_seconds"
    return [
        line | {"held_out": " ".join(line["held_out"])}
        for scenario, reports in found.items()
        for row, report in reports.items()
        for line in tables.subject_rows(
            report, scores, of_fit, data=data, scenario=scenario, system=row
        )
    ]


def draw_curves(fits, data):
    """Draw test accuracy over steps, of single folds and their mean; return also numbers.

    ``fits`` are the results of the folds, by row.
    """
    looks, columns = {}, ("step", "test_accuracy", "train_loss")
    for row, folds in fits.items():
        looks[row] = {f"Fold {k}": fold["looks"] for k, fold in enumerate(folds, 1)}
        looks[row]["Mean"] = mean_looks(list(looks[row].values()))
    names, numbers = list(looks["all"]), []
    figure = Figure((2.6 * len(names), 3.2), layout="constrained")
    figure.suptitle(
        f"Accuracy of the test subjects, EEG to EEG, {data} nights", fontsize=10
    )
    panels = figure.subplots(1, len(names), sharex=True, sharey=True)
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("Training step")
        panel.grid(alpha=0.25)
        for row, curves in looks.items():
            steps, accuracy = ([look[of] for look in curves[name]] for of in columns[:2])
            panel.plot(steps, accuracy, label=LABELS[row], linewidth=1)
            about = {"data": data, "scenario": "eeg", "system": row, "fold": name}
            numbers += [
                about | {of: round(look[of], 5) for of in columns if of in look}
                for look in curves[name]
            ]
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure, numbers


def mean_looks(looks):
    """Average the looks of several folds, up to the shortest."""
    return [
        {name: float(np.mean([look[name] for look in same])) for name in same[0]}
        for same in zip(*looks, strict=False)
    ]


# ---------------------------------------------------------------- the command


def read_options(argv=None):
    """Read the command line."""
    options = parse(
        *(__doc__, SETTINGS, argv),
        data=folder("folder of Sleep-EDF; default: simulate"),
        source=folder("folder of nights to pretrain on"),
        figure="Fig. 3 of the paper alone",
        source_set={"choices": SOURCES, "default": "mass", "help": "what --source holds"},
        pretrained=folder("a network that was saved before"),
    )
    if options.data and "--folds" not in options.argv:
        options.folds = None  # all of the paper's
    if options.data and not (options.source or options.pretrained):
        options.error("--data needs --source or --pretrained: real nights to begin with")
    if options.folds is not None and options.folds < 2:
        options.error("--folds: an interval over subjects needs two folds at least")
    if not options.data and options.subjects < options.folds:
        options.error("--subjects: one for each fold at least")
    return options


def load_pretrained(options):
    """Load a pretrained network of the size of the one from scratch."""
    stager = load(options.pretrained)
    found = stager.sequence_length, stager.module_.sequence_rnn.hidden_size
    if found != (options.sequence_length, options.hidden):
        raise SystemExit(
            f"{options.pretrained} reads {found[0]} epochs at a time with recurrent networks "
            f"of width {found[1]}: give --sequence-length and --hidden as there, so that the "
            "network from scratch is the same."
        )
    return stager


def main(argv=None):
    """Run the experiment, print the tables and write them."""
    options = read_options(argv)
    study = Study("phan2019", options)
    pretrained, n_source = None, "-"
    if options.pretrained:
        stager = load_pretrained(options)
    else:
        X, y = load_source(options)
        settings = {name: options.settings[name] for name in OF_PRETRAINING}
        pretrained = study.run(pretrain, {"fit": {}}, settings=settings, X=X, y=y)["fit"]
        stager, n_source = pretrained["stager"], len(np.unique(X.subject))
        save(stager, study.folder / "c4-a1.safetensors")
    settings, fits = {name: options.settings[name] for name in OF_FIT}, {}
    scenarios = SCENARIOS if options.data else CHANNELS
    for scenario in ["eeg"] if options.figure else scenarios:
        X, y = load_target(options, scenario)
        folds = make_folds(options, X.subject)
        rows = ROWS if scenario in SCENARIOS else ("direct",)
        if options.figure:
            rows, folds = DRAWN, folds[:N_FOLDS_DRAWN]
        tasks = {
            (row, k): {"row": row, "test": test, "held_out": held_out}
            for row in rows
            for k, (test, held_out) in enumerate(folds)
        }
        shared = {"settings": settings, "X": X, "y": y, "pretrained": stager}
        results = study.run(fit_fold, tasks, **shared)
        numbers = range(len(folds))
        fits[scenario] = {row: [results[row, k] for k in numbers] for row in rows}

    data = "Sleep-EDF" if options.data else "simulated"
    about = {
        "data": (data, "MASS to Sleep-EDF"),
        "subjects pretrained on": (n_source, 200),
        "subjects of the target": (len(np.unique(X.subject)), 20),
        "folds": (len(folds), 20),
        "epochs of the target": (f"{len(X):,}", "- (code: 38,150)"),
    }
    head = study.head(f"Phan et al. (2019), {data} nights", about, SHOWN)
    name = "phan2019_" + data.lower().replace("-", "_")
    if options.figure:
        figure, numbers = draw_curves(fits["eeg"], data)
        caption = text("figure", n_folds=len(folds))
        study.write_figure(f"{name}_figure3", head, caption, numbers, figure)
        return
    found = {
        scenario: {row: tables.report_of(of, X, y) for row, of in rows.items()}
        for scenario, rows in fits.items()
    }
    page = page_of(not options.data, found, pretrained)
    study.write(name, [*head, page], rows_of_csv(found, data))


if __name__ == "__main__":
    main()
