"""The page of ``joshi2021.py``: its tables, and the picture of the features."""

import platform
from importlib.metadata import version

import numpy as np
from _runs import markdown_table
from _tables import (
    LAST,
    gain_with_interval,
    number,
    table_of_costs,
    table_of_stages,
    values_of,
    with_interval,
)
from matplotlib.figure import Figure
from sklearn.utils import Bunch

from skleepkd.metrics import gap_closed, staging_report
from skleepkd.plotting import EmbeddingDisplay
from skleepkd.stages import scheme_names

SCHEMES = {4: "wldr", 3: "wnr"}

LABELS = {
    "eeg": "EEG baseline",
    "ecg": "ECG baseline",
    "sd+cl": "SD + CL",
    "at+cl": "AT + CL",
    "at+sd+cl": "AT + SD + CL",
    "ecg-twice": "*ours:* ECG, twice the passes",
    "ecg-unweighted": "*ours:* ECG, no class weights",
    "ecg-sequences": "*ours:* ECG, sequences of epochs",
    "sd+cl-sequences": "*ours:* SD + CL, sequences of epochs",
}
BASELINES = ("ecg", "ecg-twice", "ecg-unweighted", "ecg-sequences")
DISTILLED = ("sd+cl", "at+cl", "at+sd+cl", "sd+cl-sequences")

#: The rows whose features the picture shows.
SHOWN = ("eeg", "ecg", "at+sd+cl")

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

#: What the paper states, beside ours; the batch size is that of its code.
PAPER_SETTINGS = {
    "data": "MASS",
    "people to train on, to choose on, to test on": "158, 20, 22",
    "sampling rate, Hz": 200,
    "filters": "16, 32, 64, 128, 256, 512",
    "passes (in two steps, of each)": 150,
    "batch size": 256,
    "learning rate": "0.001, constant",
    "chosen on the validation people by": "weighted F1",
    "alpha": 0.5,
    "seed": 42,
}

LIBRARIES = ("skleepkd", "torch", "skorch", "scikit-learn", "numpy")


def choose_alphas(results):
    """Choose alpha of each row with a grid by the kappa of the validation subjects.

    Parameters
    ----------
    results : dict of int to dict of str to dict
        By number of stages and fit, with "row", "alpha" and "validation_kappa".

    Returns
    -------
    dict of int to dict of str to float
        By number of stages and row; the first of equals.
    """
    chosen = {}
    for n_classes, fits in results.items():
        best = {}
        for fit in fits.values():
            row, kappa = fit["row"], fit["validation_kappa"]
            if fit["alpha"] is not None and kappa > best.get(row, (-np.inf,))[0]:
                best[row] = kappa, fit["alpha"]
        chosen[n_classes] = {row: alpha for row, (_, alpha) in best.items()}
    return chosen


def report_rows(fits, chosen, y, groups):
    """Score the rows of one scheme on the test subjects, each with its chosen alpha.

    Parameters
    ----------
    fits : dict of str to dict
        Results by the name of the fit.
    chosen : dict of str to float
        Alpha by row.
    y, groups : ndarray of shape (n_test_epochs,)
        Codes of the scheme, and the test subjects.

    Returns
    -------
    dict of str to Bunch
        By row, in the order of the tables.
    """
    rows = {}
    for name, fit in fits.items():
        if fit["alpha"] == chosen.get(fit["row"]):
            scheme = SCHEMES[int(name.rsplit("-", 1)[1])]
            report = staging_report(y, fit["predicted"], groups=groups, classes=scheme)
            rows[fit["row"]] = Bunch(name=name, report=report, **fit)
    return {row: rows[row] for row in LABELS}


def best_baseline(rows):
    """Name the ECG baseline with the highest kappa on the validation subjects."""
    return max(BASELINES, key=lambda row: rows[row].validation_kappa)


def table_1(rows, paper):
    """Weighted F1, accuracy and kappa of each row, beside the paper's."""
    lines = []
    for row, found in rows.items():
        line = [LABELS[row], "-" if found.alpha is None else f"{found.alpha:g}"]
        for score, value in zip(
            ("f1_weighted", "accuracy"), paper.get(row, "--"), strict=False
        ):
            line += [value if value == "-" else f"{value:.2f}"]
            line += [with_interval(values_of(found.report, score), 2)]
            line += [number(found.report.pooled[score], 2)]
        line += [with_interval(values_of(found.report, "kappa"), 3)]
        lines.append([*line, number(found.validation_kappa, 3)])
    header = ["Method", "alpha", "Weighted F1, paper", "mean", "pooled"]
    header += ["Accuracy, paper", "mean", "pooled", "Kappa, mean", "validation kappa"]
    return markdown_table(header, lines)


def table_of_gains(rows):
    """Compute the gain of each distilled row over the plain, the best and all baselines."""
    best = best_baseline(rows)

    def gains(row, baseline, score="kappa"):
        return gain_with_interval(rows[row].report, rows[baseline].report, score)

    lines = []
    for row in DISTILLED:
        found = [
            gains(row, baseline, score)
            for baseline in ("ecg", best)
            for score in ("kappa", "f1_weighted")
        ]
        found.append(min(gains(row, baseline) for baseline in BASELINES))
        values = ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain) for gain in found]
        lines.append([LABELS[row], *values, verdict(rows[row].report, rows[best].report)])
    header = ["Method", "Kappa, over the ECG baseline", "weighted F1"]
    header += ["Kappa, over the best baseline", "weighted F1"]
    header += ["Kappa, least gain over any baseline", "A gain over the best?"]
    return markdown_table(header, lines)


def verdict(report, baseline):
    """Return whether a gain in kappa is shown: whether its interval leaves out 0."""
    _, low, high = gain_with_interval(report, baseline, "kappa")
    if low > 0:
        return "shown"
    return "a loss is shown" if high < 0 else "not shown"


def about_gap(rows):
    """Describe the gap between EEG and ECG, which is what can be gained."""
    kappas = [values_of(rows[row].report, "kappa") for row in ("eeg", "ecg", "at+sd+cl")]
    gap = gap_closed(*kappas)
    low, high = gap.gap_interval
    note = "" if gap.has_gap else " **There is no gap that a teacher could close.**"
    return f"The EEG is {gap.gap:.3f} [{low:.3f}, {high:.3f}] above the ECG in kappa.{note}"


def page_of(rows, results, settings, command, runs):
    """Write the whole page; ``runs`` describes each run that did fits (seconds, n_jobs)."""
    fits = [fit for by_name in results.values() for fit in by_name.values()]
    cpu = sum(fit["cpu_seconds"] for fit in fits)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    simulated = settings["data"] == "simulated"
    values = [
        settings["data"],
        ", ".join(map(str, settings["people"])),
        f"{settings['sfreq']:g}",
        ", ".join(map(str, settings["filters"])),
        settings["passes"],
        settings["batch_size"],
        f"{settings['lr']:g}, {settings['schedule']}",
        "kappa",
        ", ".join(f"{a:g}" for a in sorted({f["alpha"] for f in fits} - {None}))
        + " (chosen)",
        settings["seed"],
    ]
    shown = zip(PAPER_SETTINGS, values, PAPER_SETTINGS.values(), strict=True)
    parts = [f"# Joshi et al. (2021), {settings['data']} nights"]
    if simulated:
        parts.append(
            "**Simulated cohort.** Every number here is of simulated nights; none says how a "
            "method does on people. The paper's values are of other nights, real ones."
        )
    parts += [
        f"```\n{command}\n```",
        f"{len(fits)} fits took {sum(run['seconds'] for run in runs) / 60:.1f} minutes, in "
        f"{len(runs)} run(s) with {', '.join(str(run['n_jobs']) for run in runs)} fit(s) at a "
        "time, beside whatever else the machine had to do. Their processor time is "
        f"{cpu / 60:.1f} minutes, without imports and predictions. CPU, one thread a fit; "
        f"Python {platform.python_version()}, {versions}.",
        markdown_table(["Setting", "Here", "Paper"], shown),
        f"{settings['epochs']} epochs of all people. One division into people to train on, "
        "to choose on and to test on, as in the paper; every row has the same, with the same "
        "optimiser, schedule and seed. Weights, alpha and the best baseline are chosen by "
        "kappa on the validation people alone, whom teachers do not train on either. The "
        "attention step is fitted once and serves the rows that begin with it.",
        "*Ours* are further baselines, each with as many passes as the two-step rows in "
        "all, but for the one without class weights. Rows with sequences read "
        f"{settings['sequence_length']} epochs at a time and as many epochs in all as a row "
        "of twice the passes; the last is distilled alike, from the same EEG stager.",
        "Passes, learning rate and number of people were chosen on the seed 100, on its EEG "
        "and ECG baselines alone."
        if simulated
        else "Where windows of 30 s overlap (MASS, subsets 2, 4 and 5), so do the epochs of "
        "a sequence.",
    ]
    for n_classes, found in rows.items():
        scheme = SCHEMES[n_classes]
        stages = " ".join(scheme_names(scheme))
        labels = {row: LABELS[row] for row in found}
        scores = {row: {LAST: by.report} for row, by in found.items()}
        paper = PAPER[n_classes]
        best = best_baseline(found)
        in_percent = {row: [100 * f1 for f1 in by[2:]] for row, by in paper.items()}
        note = ", simulated" * simulated
        parts += [
            f"## {n_classes} stages ({stages}){note}",
            about_gap(found),
            f"### Table I: weighted F1 and accuracy{note}",
            table_1(found, paper),
            "Mean: over test people, with a 95 % bootstrap interval over them; pooled: over "
            "all their epochs, as the paper's.",
            f"### Gains{note}",
            table_of_gains(found),
            f"The best baseline by the validation people is: {LABELS[best]}. Differences are "
            "paired by test person, with 95 % bootstrap intervals over them. *Shown*: the "
            "interval of kappa over the best baseline leaves out 0. The least gain is that "
            "over the baseline with the highest kappa on the test people, which nobody could "
            "have chosen. One training with one seed stands behind each row, which the "
            "intervals do not know.",
            f"### Table II: F1 of each stage (%){note}",
            table_of_stages(scores, labels, in_percent, scheme),
            "### Costs",
            table_of_costs(
                {name: {"": fit} for name, fit in results[n_classes].items()},
                {name: name for name in results[n_classes]},
                {},
            ),
        ]
    parts.append(
        "The costs of a fit are without those of the EEG stager, and of the attention step "
        "where another fit has done it already: at+cl has, for at+sd+cl."
    )
    return "\n\n".join(parts) + "\n"


def rows_of_csv(rows, data):
    """One row for each scheme, method and test subject, for a CSV file."""
    stages = ("W", "L", "D", "N", "R")
    names = ["accuracy", "kappa", "f1_macro", "f1_weighted", *(f"f1_{s}" for s in stages)]
    lines = []
    for n_classes, found in rows.items():
        for row, by in found.items():
            about = {"data": data, "n_classes": n_classes, "method": row, "alpha": by.alpha}
            about["validation_kappa"] = round(by.validation_kappa, 5)
            for subject, scores in by.report.per_subject.items():
                values = {n: round(scores[n], 5) if n in scores else "" for n in names}
                lines.append({**about, "subject": subject, **values})
    return lines


def draw_features(features, rows, y, data):
    """Draw the bottleneck's features in the two cases of the paper's Fig. 2.

    Parameters
    ----------
    features : dict of str to ndarray of shape (n_test_epochs, n_filters)
        Averaged over time, for each row of ``SHOWN``.
    rows : dict of str to Bunch
        Of :func:`report_rows`, four stages.
    y : ndarray of shape (n_test_epochs,)
        Codes of the four stages.
    data : str
        "simulated" or the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    ecg, distilled = (np.array(rows[row].predicted) == y for row in ("ecg", "at+sd+cl"))
    cases = {
        "Case 1, the distilled network is right and the ECG baseline wrong": distilled
        & ~ecg,
        "Case 2, the ECG baseline is right and the distilled network wrong": ecg
        & ~distilled,
    }
    # Each network's features have a scale of their own.
    scaled = {
        LABELS[row]: (of - of.mean(axis=0))
        / np.where(of.std(axis=0) > 0, of.std(axis=0), 1)
        for row, of in features.items()
    }
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    halves = figure.subfigures(2, 1)
    for half, (title, case) in zip(halves, cases.items(), strict=True):
        half.suptitle(f"{title}: {case.sum()} epochs of {data} nights")
        if case.sum() < 3:  # too few for an embedding
            continue
        EmbeddingDisplay.from_features(
            {name: of[case] for name, of in scaled.items()},
            y[case],
            classes="wldr",
            color_by="stage",
            ax=half.subplots(),
        )
    return figure
