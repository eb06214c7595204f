"""The page of ``phan2019.py``: its tables, and the curves of its Fig. 3."""

import math
import platform
from importlib.metadata import version

import numpy as np
from _runs import markdown_table
from _tables import STAGES, gain_with_interval, number, values_of, with_interval
from matplotlib.figure import Figure

from skleepkd.plotting import TrainingCurveDisplay

#: The paper's two scenarios, by their tables.
SCENARIOS = {"eeg": "Table I: EEG to EEG", "eog": "Table II: EEG to EOG"}

LABELS = {
    "all": "FT entire network",
    "softmax+arnn": "FT softmax + ARNN",
    "softmax+seqrnn": "FT softmax + SeqRNN",
    "softmax": "FT softmax",
    "direct": "Direct transfer (no FT)",
    "scratch": "SeqSleepNet (scratch)",
    "scratch-twice": "*ours:* scratch, twice the passes",
    "all-neighbours": "*ours:* FT entire network, neighbouring windows",
    "scratch-neighbours": "*ours:* scratch, neighbouring windows",
}

#: Names of the files that are written, by the data.
FILES = {"simulated": "phan2019_simulated", "Sleep-EDF": "phan2019_sleep_edf"}

#: Windows that stay together in a batch, in the rows with neighbouring windows.
NEIGHBOURS = 8

#: Tables I and II of the paper: accuracy (%), kappa, macro F1, sensitivity, specificity (%).
PAPER = {
    "eeg": {
        "all": (85.5, 0.794, 80.0, 79.6, 95.9),
        "softmax+arnn": (85.4, 0.792, 79.9, 79.6, 95.9),
        "softmax+seqrnn": (85.2, 0.789, 79.6, 78.7, 95.8),
        "softmax": (81.6, 0.735, 74.9, 74.4, 94.8),
        "direct": (81.2, 0.733, 74.6, 74.1, 94.8),
        "scratch": (82.2, 0.746, 74.1, 73.9, 95.0),
    },
    "eog": {
        "all": (80.8, 0.725, 74.2, 73.1, 94.5),
        "softmax+arnn": (80.1, 0.716, 73.5, 72.5, 94.3),
        "softmax+seqrnn": (80.0, 0.709, 72.3, 70.4, 94.0),
        "softmax": (73.2, 0.605, 62.5, 60.7, 91.9),
        "direct": (51.1, 0.300, 42.5, 42.9, 85.9),
        "scratch": (78.5, 0.688, 68.3, 67.4, 93.6),
    },
}

#: Other systems in Table I, as the paper gives them.
OTHERS = {
    "Multitask 1-max CNN": (81.9, 0.740, 73.8, 73.9, 95.0),
    "1-max CNN": (79.8, 0.720, 72.0, math.nan, math.nan),
    "Attentional RNN": (79.1, 0.700, 69.8, math.nan, math.nan),
    "Deep auto-encoder": (78.9, math.nan, 73.3, math.nan, math.nan),
    "Deep CNN": (74.8, math.nan, 69.8, math.nan, math.nan),
}

#: Columns of the tables: name, score, factor and digits.
SCORES = (
    ("Accuracy", "accuracy", 100, 1),
    ("Kappa", "kappa", 1, 3),
    ("Macro F1", "f1_macro", 100, 1),
    ("Sensitivity", "sensitivity_macro", 100, 1),
    ("Specificity", "specificity_macro", 100, 1),
)

#: Claims about a difference: the row that is to be better, and than which.
CLAIMS = (
    ("Fine-tuning all of it is better than direct transfer", "all", "direct"),
    ("Fine-tuning all of it is better than training from scratch", "all", "scratch"),
    ("... also with twice the passes from scratch", "all", "scratch-twice"),
    ("Training from scratch is better than direct transfer", "scratch", "direct"),
    ("Fine-tuning the softmax layer is better than direct transfer", "softmax", "direct"),
    ("Fine-tuning all of it is better than the softmax layer alone", "all", "softmax"),
    ("The epoch encoder with it is better than that alone", "softmax+arnn", "softmax"),
    ("The sequence encoder with it is, too", "softmax+seqrnn", "softmax"),
    ("Neighbouring windows are better, fine-tuning all", "all-neighbours", "all"),
    ("Neighbouring windows are better, from scratch", "scratch-neighbours", "scratch"),
)

#: What the paper (or its published code, for the evaluations) states, beside ours.
PAPER_SETTINGS = {
    "data": "MASS to Sleep-EDF",
    "people pretrained on": 200,
    "people of the target": 20,
    "folds": 20,
    "people who validate in a fold": 4,
    "epochs of the target": "38,150",
    "epochs of a sequence": 20,
    "width of the recurrent networks": 64,
    "passes, pretraining": 10,
    "passes, target": 10,
    "learning rate": 0.0001,
    "steps between evaluations": 10,
    "evaluations without improvement before the end": 50,
    "steps before which there is no end": 1000,
    "seed": "-",
}

LIBRARIES = ("skleepkd", "torch", "skorch", "scikit-learn", "numpy")


def table(scenario, rows):
    """Scores over the epochs of all test subjects, beside the paper's."""
    lines = []
    for row, found in rows.items():
        line = [LABELS[row], "no" if row.startswith("scratch") else "yes"]
        paper = PAPER[scenario].get(row, [math.nan] * len(SCORES))
        for (_, score, factor, digits), value in zip(SCORES, paper, strict=True):
            ours = number(factor * found.report.pooled[score], digits)
            line += [number(value, digits), f"**{ours}**"]
        lines.append(line)
    for system, values in OTHERS.items() if scenario == "eeg" else ():
        line = [system, "no"]
        for (*_, digits), value in zip(SCORES, values, strict=True):
            line += [number(value, digits), ""]
        lines.append(line)
    header = ["System", "Transfer"]
    for name, *_ in SCORES:
        header += [f"{name}, paper", "here"]
    return markdown_table(header, lines)


def table_of_gains(scenario, rows):
    """Gains in accuracy (points) and kappa over direct transfer and over scratch."""
    lines = []
    for row, found in rows.items():
        line = [LABELS[row], with_interval(100 * values_of(found.report, "accuracy"), 1)]
        for baseline in ("direct", "scratch"):
            if row == baseline:
                line += ["", "", ""]
                continue
            own, others = (PAPER[scenario].get(name) for name in (row, baseline))
            line.append(f"{own[0] - others[0]:+.1f}" if own else "-")
            for score, factor, digits in (("accuracy", 100, 1), ("kappa", 1, 3)):
                gain = gain_with_interval(found.report, rows[baseline].report, score)
                line.append(interval(gain, factor, digits))
        lines.append(line)
    header = ["System", "Accuracy, mean over people"]
    for baseline in ("direct transfer", "scratch"):
        header += [f"Over {baseline}: accuracy, paper", "accuracy, here", "kappa, here"]
    return markdown_table(header, lines)


def interval(gain, factor, digits):
    """Format a difference with its interval."""
    mean, low, high = (factor * value for value in gain)
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def table_of_claims(found):
    """Check each claim: whether the interval of the difference in accuracy leaves out 0."""
    lines = []
    for claim, better, worse in CLAIMS:
        line = [claim]
        for scenario in SCENARIOS:
            rows, paper = found[scenario], PAPER[scenario]
            known = better in paper and worse in paper
            gain = gain_with_interval(rows[better].report, rows[worse].report, "accuracy")
            line.append(f"{paper[better][0] - paper[worse][0]:+.1f}" if known else "-")
            line.append(f"{interval(gain, 100, 1)}, {verdict(gain)}")
        lines.append(line)
    header = ["Claim"]
    for name in SCENARIOS.values():
        name = name.split(": ")[1]
        header += [f"{name}, paper", "here"]
    return markdown_table(header, lines)


def verdict(gain):
    """Return what an interval shows."""
    _, low, high = gain
    if low > 0:
        return "**shown**"
    return "**the contrary is shown**" if high < 0 else "not shown"


def table_of_costs(found):
    """List the steps and the processor time of each row, over both scenarios."""
    lines = []
    for row, label in LABELS.items():
        if row == "direct":
            continue
        folds = [fold for scenario in SCENARIOS for fold in found[scenario][row].folds]
        steps = np.array([fold["steps"] for fold in folds])
        cpu = np.array([fold["cpu_seconds"] for fold in folds])
        chosen = [fold["best_step"] for fold in folds if fold["best_step"] is not None]
        lines.append(
            [
                label,
                f"{steps.mean():.0f}",
                f"{np.mean(chosen):.0f}" if chosen else "the last",
                number(cpu.mean()),
                number(1000 * cpu.sum() / steps.sum(), 0),
            ]
        )
    header = ["System", "Steps", "Step whose weights were kept", "CPU time of a fit, s"]
    return markdown_table([*header, "CPU time of a step, ms"], lines)


def page_of(found, pretrained, settings, run):
    """Write the whole page; ``run`` describes this run (command, seconds, new fits)."""
    fits = [fold for rows in found.values() for row in rows.values() for fold in row.folds]
    cpu = sum(fit["cpu_seconds"] for fit in [*fits, *([pretrained] if pretrained else [])])
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    simulated = settings["data"] == "simulated"
    own = {
        "people pretrained on": settings["pretraining"].get("people", "-"),
        "people of the target": settings["people"],
        "folds": len(found["eeg"]["all"].folds),
        "people who validate in a fold": settings["validation"],
        "epochs of the target": f"{settings['epochs']:,}",
        "epochs of a sequence": settings["sequence_length"],
        "width of the recurrent networks": settings["hidden"],
        "passes, pretraining": settings["source_passes"] if pretrained else "-",
        "passes, target": settings["passes"],
        "learning rate": f"{settings['lr']:g}",
        "steps between evaluations": settings["every"],
        "evaluations without improvement before the end": settings["patience"],
        "steps before which there is no end": settings["min_steps"],
    }
    shown = [
        [name, own.get(name, settings.get(name)), value]
        for name, value in PAPER_SETTINGS.items()
    ]
    note = ", simulated" * simulated
    parts = [f"# Phan et al. (2019), {settings['data']} nights"]
    if simulated:
        parts.append(
            "**Simulated cohorts.** Every number here is of simulated nights; none says how "
            "a method does on people. The paper's values are of other nights, real ones."
        )
    parts += [
        f"```\n{run['command']}\n```",
        f"This run took {run['seconds'] / 60:.1f} minutes with {run['n_jobs']} fit(s) at a "
        f"time and did {run['n_new']} of {run['n_fits']} fits; any others were there from "
        f"an earlier run. All fits together took {cpu / 60:.1f} minutes of processor time. "
        f"CPU, one thread a fit; Python {platform.python_version()}, {versions}.",
        markdown_table(["Setting", "Here", "Paper"], shown),
        "Every row of a fold has the same test people, the same people who choose the step, "
        "optimiser, budget and seed. Spectra are standardised by the fold's training people "
        "(without those who choose), for direct transfer too."
        + " The command's default settings were chosen on the seed 100."
        * simulated,
        about_pretraining(found, pretrained),
    ]
    for scenario, title in SCENARIOS.items():
        rows = found[scenario]
        parts += [
            f"## {title}{note}",
            table(scenario, rows),
            "Accuracy, macro F1, and sensitivity and specificity averaged over the stages, "
            "in percent, over the epochs of all test people. FT: fine-tuned."
            + " The systems below ours are the paper's citations."
            * (scenario == "eeg"),
            table_of_gains(scenario, rows),
            f"Means over the {len(rows['all'].report.per_subject)} test people, and "
            "differences paired by person, with 95 % bootstrap intervals over people. Twice "
            "the passes are the same steps and more: where no later step does better on the "
            "people who choose, the network is the same.",
        ]
    parts += [
        f"## What is shown, and what is not{note}",
        table_of_claims(found),
        "Differences in accuracy, in points; *shown* where the 95 % interval over people "
        "leaves out 0. One pretraining and one training a fold, with one seed, stand behind "
        "each row, which the intervals do not know; and they are not corrected for there "
        "being many."
        + " The simulated source is not filtered, while the paper's is (0.3 to 40 Hz), a "
        "part of its mismatch; and the simulated EEG derivations differ in less than real "
        "ones from two laboratories do." * simulated,
        "## Fig. 3: accuracy of the test people over training steps",
        f"![Training loss and test accuracy over steps]({FILES[settings['data']]}.png)",
        "Means over the folds, up to the step that all of them reached; at step 0, the "
        "pretrained network or a random one. The training knows nothing of these looks.",
        "## Costs",
        table_of_costs(found),
        "Means over folds of both scenarios, without the looks at the test people. "
        f"Neighbouring windows: {NEIGHBOURS} of them stay together in a batch, and the "
        "epochs they share are encoded once. " + about_neighbours(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def about_pretraining(found, pretrained):
    """Describe the pretraining, and how its network does without a mismatch."""
    text = ""
    if pretrained:
        text = (
            f"Pretraining: {pretrained['steps']} steps, {pretrained['cpu_seconds']:.0f} s of "
            f"processor time; training loss {pretrained['losses'][0]:.2f} in the first pass, "
            f"{pretrained['losses'][-1]:.2f} in the last."
        )
    if "same" in found:
        pooled = found["same"]["direct"].report.pooled
        text += (
            " Without any mismatch, on C4-A1 of the target people, the pretrained network "
            f"has an accuracy of {100 * pooled['accuracy']:.1f} % and a kappa of "
            f"{pooled['kappa']:.3f}."
        )
    return text.strip()


def about_neighbours(found):
    """Describe how much cheaper neighbouring windows make a step."""
    times = []
    for row in ("all", "scratch"):
        rates = []
        for name in (row, f"{row}-neighbours"):
            folds = [fold for scenario in SCENARIOS for fold in found[scenario][name].folds]
            seconds = sum(fold["cpu_seconds"] for fold in folds)
            rates.append(seconds / sum(fold["steps"] for fold in folds))
        times.append(f"{rates[0] / rates[1]:.1f} times ({LABELS[row]})")
    return f"That makes a step {' and '.join(times)} cheaper."


def rows_of_csv(found, data):
    """One row for each scenario, system and test subject, for a CSV file."""
    scores = [score for _, score, *_ in SCORES] + [f"f1_{stage}" for stage in STAGES]
    lines = []
    for scenario, rows in found.items():
        for row, by in rows.items():
            for k, fold in enumerate(by.folds, 1):
                for subject in fold["predicted"]:
                    values = by.report.per_subject[subject]
                    lines.append(
                        {
                            "data": data,
                            "scenario": scenario,
                            "system": row,
                            "fold": k,
                            "person": subject,
                            "n_epochs": len(fold["predicted"][subject]),
                            **{score: round(values[score], 5) for score in scores},
                            "held_out": " ".join(fold["held_out"]),
                            "steps": fold["steps"],
                            "best_step": fold["best_step"],
                            "cpu_seconds": round(fold["cpu_seconds"], 1),
                        }
                    )
    return lines


def draw_curves(found, data):
    """Draw training loss and test accuracy over the steps, averaged over folds.

    Parameters
    ----------
    found : dict of str to dict of str to Bunch
        By scenario and row, with "folds".
    data : str
        "simulated" or the name of the data set.

    Returns
    -------
    matplotlib Figure
    """
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    for half, scenario in zip(figure.subfigures(2, 1), SCENARIOS, strict=True):
        half.suptitle(f"{SCENARIOS[scenario].split(': ')[1]}, {data} nights", fontsize=10)
        histories = {
            LABELS[row]: mean_looks(found[scenario][row].folds)
            for row in PAPER[scenario]
            if row != "direct"
        }
        TrainingCurveDisplay(histories=histories, score="test_accuracy").plot(
            ax=half.subplots()
        )
    return figure


def mean_looks(folds):
    """Average the looks of several folds, up to the shortest."""
    looks = zip(*(fold["looks"] for fold in folds), strict=False)
    return [
        {name: float(np.mean([look[name] for look in same])) for name in same[0]}
        for same in looks
    ]
