"""Tables of sleep staging: means over subjects with intervals, and paired differences.

A table is a list of rows, each a dict by column. Scores of a method are a series or an array,
one of each subject.
"""

import math

import numpy as np
import pandas as pd

from skleepkd.metrics import gap_closed, paired_test, staging_report
from skleepkd.metrics.subjects import over_subjects
from skleepkd.model_selection import Comparison
from skleepkd.stages import scheme_names


def markdown_table(rows):
    """Write rows as a table in Markdown; what a row does not have is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[row.get(name, "") for name in names] for row in rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def rows_in(table):
    """Read the cells of a table in Markdown, by the first of each row."""
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def values_in(table):
    """Read a table of numbers in Markdown; a dash stands for none."""
    return {
        name: tuple(math.nan if cell == "-" else float(cell) for cell in cells)
        for name, cells in rows_in(table).items()
    }


def report_of(fits, X, y, classes="aasm", of="predicted"):
    """Score what fits have predicted by test subject, each and over all of their epochs.

    ``fits`` are dicts, in each of which ``of`` is a dict of a subject's stages. Beside what
    :func:`skleepkd.metrics.staging_report` returns the result has "fits", and
    "subjects", a frame of a row for each of them and a column for each score.
    """
    predicted = {subject: stages for fit in fits for subject, stages in fit[of].items()}
    rows = np.concatenate([np.flatnonzero(X.subject == subject) for subject in predicted])
    stages = np.concatenate(list(predicted.values()))
    report = staging_report(y[rows], stages, groups=X.subject[rows], classes=classes)
    report.fits = fits
    report.subjects = pd.DataFrame.from_dict(report.per_subject, orient="index")
    return report


def rounded(report, subject, names):
    """Pick scores of a subject for a table of numbers; nan where there is none."""
    return report.subjects.loc[subject].reindex(names).round(5).to_dict()


def subject_rows(report, scores, of_fit, **about):
    """List a row for each test subject: its scores, and what is noted of its fit."""
    return [
        {
            **about,
            "fold": fold,
            "subject": subject,
            "n_epochs": len(stages),
            **rounded(report, subject, scores),
            **{name: fit[name] for name in of_fit},
        }
        for fold, fit in enumerate(report.fits, 1)
        for subject, stages in fit["predicted"].items()
    ]


def number(value, digits=1):
    """Format a number, or a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(values, form=".3f", factor=1):
    """Format a value and the ends of its interval."""
    middle, low, high = (f"{factor * value:{form}}" for value in values)
    return f"{middle} [{low}, {high}]"


def mean(values, digits=3, factor=1):
    """Format the mean of a score over subjects with its 95 % bootstrap interval."""
    middle, interval = over_subjects(values)
    return with_interval((middle, *interval), f".{digits}f", factor)


def gain_of(scores, baseline):
    """Mean difference, paired by subject, and the ends of its 95 % bootstrap interval."""
    middle, interval = over_subjects(scores - baseline)
    return middle, *interval


def signed(gain, digits=3, factor=1):
    """Format a difference with its interval."""
    return with_interval(gain, f"+.{digits}f", factor)


def verdict(gain):
    """Return whether a gain is shown: whether its interval leaves out 0."""
    _, low, high = gain
    if low > 0:
        return "shown"
    return "a loss is shown" if high < 0 else "not shown"


def share_of_gap(top, bottom, scores):
    """Format the share of the gap between two methods that a third one closes."""
    closed = gap_closed(top, bottom, scores)
    if not closed.has_gap:
        return "no gap"
    return with_interval((closed.share, *closed.share_interval), ".0%")


def paired_cells(scores, baseline):
    """Compare two methods by subject: difference, p-value, for how many it is better."""
    test = paired_test(scores, baseline)
    gain = test.difference, *test.interval
    better = f"{(scores > baseline).sum()} of {test.n_subjects}"
    cells = {"difference": signed(gain), "p": f"{test.pvalue:.3f}", "better for": better}
    return cells | {"": verdict(gain)}


# ---------------------------------------------------------------- kappa by method


def judge(stager, X, y, **about):
    """Stage epochs; return a row with the kappa of each subject."""
    report = staging_report(y, stager.predict(X), groups=X.subject)
    return [
        {**about, "subject": subject, "kappa": scores["kappa"]}
        for subject, scores in report.per_subject.items()
    ]


def judge_all(stagers, inputs, y, **about):
    """Stage epochs with several stagers, each its own of ``inputs``; return all rows."""
    return [
        row
        for name, X in inputs.items()
        for row in judge(stagers[name], X, y, method=name, **about)
    ]


def rows_of(results, *names):
    """List the "rows" of fits; ``names`` are those of what the fits are called by."""
    return [
        dict(zip(names, key, strict=True)) | row
        for key, result in results.items()
        for row in result["rows"]
    ]


def comparison(rows, baseline, ceiling=None):
    """Compare methods over people.

    ``rows`` have "method", "subject" and "kappa", perhaps "seed", "fold" and "fit_seconds".
    """
    about = {"seed": 0, "fold": 0, "fit_seconds": math.nan}
    frame = pd.DataFrame([about | row for row in rows]).rename(columns={"kappa": "score"})
    return Comparison(frame, baseline, ceiling, "kappa")


def mean_of(row):
    """Mean of a line of a comparison's table, and the ends of its interval."""
    return row["mean"], row["low"], row["high"]


def difference_of(row):
    """Difference to the baseline, and the ends of its interval."""
    return row["difference"], row["difference_low"], row["difference_high"]


def share_of(row):
    """Format the share of the gap with its interval; empty where there is none."""
    share = row["share"], row["share_low"], row["share_high"]
    return "" if math.isnan(share[0]) else with_interval(share, ".0%")


def cells_of(row):
    """Write a line of a comparison's table; the baseline's has no difference."""
    differs = math.isfinite(row["difference"])
    return {
        "kappa": with_interval(mean_of(row)),
        "difference": signed(difference_of(row)) if differs else "",
        "p": f"{row['pvalue']:.3f}" if differs else "",
        "gap closed": share_of(row),
    }


def error_bars(ax, places, found, **look):
    """Draw means with their intervals, of shape (n_places, 3)."""
    middle, low, high = np.transpose(found)
    ends = [middle - low, high - middle]
    ax.errorbar(places, middle, ends, marker="o", capsize=2, **look)
    ax.spines[["top", "right"]].set_visible(False)


# ---------------------------------------------------------------- a paper's tables


def beside_paper(report, paper, scores):
    """Write scores beside the paper's: the mean over subjects, and pooled over epochs.

    ``scores`` are a name, a factor, digits, and the paper's digits, by score; ``paper`` begins
    with its values of these, or is None.
    """
    cells, paper = {}, paper or [math.nan] * len(scores)
    for (score, how), value in zip(scores.items(), paper, strict=False):
        name, factor, digits, of_paper = how
        cells[f"{name}, paper"] = number(value, of_paper)
        cells[f"{name}, mean"] = mean(report.subjects[score], digits, factor)
        cells[f"{name}, pooled"] = number(factor * report.pooled[score], digits)
    return cells


def table_of_stages(reports, labels, paper, classes="aasm"):
    """F1 of each stage (%), mean over subjects and pooled, below the paper's.

    ``reports`` are those of :func:`report_of`, by method, ``paper`` the paper's F1 of each
    stage, where it has the method.
    """
    stages, rows = scheme_names(classes), []
    for method, report in reports.items():
        kinds = {"paper": paper.get(method)}
        for kind in ("mean", "pooled"):
            kinds[kind] = [100 * report[kind][f"f1_{stage}"] for stage in stages]
        for kind, values in kinds.items():
            if values is not None:
                scores = dict(zip(stages, map(number, values), strict=True))
                rows.append({"Method": labels[method], "": kind, **scores})
    return markdown_table(rows)


def table_of_costs(fits, labels, before=None):
    """Mean seconds of the fits of each method.

    ``fits`` are lists of what :func:`study.timed_fit` returns, by method; ``before`` names
    the method that is fitted before another one, and is not in its seconds.
    """
    seconds, cpu = (
        {method: np.mean([fit[name] for fit in of]) for method, of in fits.items()}
        for name in ("seconds", "cpu_seconds")
    )
    rows = []
    for method, own in seconds.items():
        whole = own + seconds.get((before or {}).get(method), 0.0)
        row = {"Method": labels[method], "Fit, s": number(own)}
        row |= {
            "with what precedes it, s": number(whole),
            "CPU time, s": number(cpu[method]),
        }
        rows.append(row)
    return markdown_table(rows)
