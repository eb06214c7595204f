"""Tables of sleep staging: means over subjects with intervals, and paired differences.

The scores of a method are a dict of each test subject's scores, ``per_subject`` of
:func:`skleepkd.metrics.staging_report`.
"""

import math

import numpy as np
import pandas as pd

from skleepkd.metrics import bootstrap_interval, gap_closed, staging_report
from skleepkd.model_selection import Comparison
from skleepkd.stages import scheme_names


def markdown_table(header, rows):
    """Format rows of texts as a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report_of(fits, X, y, classes="aasm", of="predicted"):
    """Score what fits have predicted by test subject, each and over all of their epochs.

    ``fits`` are dicts, in each of which ``of`` is a dict of a subject's stages.
    """
    predicted = {subject: stages for fit in fits for subject, stages in fit[of].items()}
    rows = np.concatenate([np.flatnonzero(X.subject == subject) for subject in predicted])
    stages = np.concatenate(list(predicted.values()))
    return staging_report(y[rows], stages, groups=X.subject[rows], classes=classes)


def values_of(scores, name):
    """One score of each subject for whom it is defined."""
    values = np.array([of[name] for of in scores.values()])
    return values[np.isfinite(values)]


def number(value, digits=1):
    """Format a number, or a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(values, form=".3f", factor=1):
    """Format a value and the ends of its interval."""
    middle, low, high = (f"{factor * value:{form}}" for value in values)
    return f"{middle} [{low}, {high}]"


def mean(scores, name, digits=3, factor=1):
    """Format the mean of a score over subjects with its 95 % bootstrap interval."""
    values = factor * values_of(scores, name)
    return with_interval((values.mean(), *bootstrap_interval(values)), f".{digits}f")


def gain_of(scores, baseline, name="kappa"):
    """Mean difference, paired by subject, and the ends of its 95 % bootstrap interval."""
    gains = [scores[subject][name] - of[name] for subject, of in baseline.items()]
    return float(np.mean(gains)), *bootstrap_interval(gains)


def signed(gain, digits=3, factor=1):
    """Format a difference with its interval."""
    return with_interval(gain, f"+.{digits}f", factor)


def over(scores, baseline, name="kappa", digits=3, factor=1):
    """Format the mean difference, paired by subject, with its interval."""
    return signed(gain_of(scores, baseline, name), digits, factor)


def verdict(gain):
    """Return whether a gain is shown: whether its interval leaves out 0."""
    _, low, high = gain
    if low > 0:
        return "shown"
    return "a loss is shown" if high < 0 else "not shown"


def share_of_gap(top, bottom, scores, name="kappa"):
    """Format the share of the gap between two methods that a third one closes."""
    closed = gap_closed(*(values_of(of, name) for of in (top, bottom, scores)))
    if not closed.has_gap:
        return "no gap"
    return with_interval((closed.share, *closed.share_interval), ".0%")


# ---------------------------------------------------------------- kappa by method


def comparison(rows, baseline, ceiling=None):
    """Compare methods over people.

    ``rows`` are dicts with "method", "subject" and "kappa", and may have "seed", "fold"
    and "fit_seconds".
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


def error_bars(ax, places, found, **look):
    """Draw means with their intervals, of shape (n_places, 3)."""
    middle, low, high = np.transpose(found)
    ends = [middle - low, high - middle]
    ax.errorbar(places, middle, ends, marker="o", capsize=2, **look)
    ax.spines[["top", "right"]].set_visible(False)


# ---------------------------------------------------------------- a paper's tables


def table_of_stages(reports, labels, paper, classes="aasm"):
    """F1 of each stage (%), mean over subjects and pooled, below the paper's.

    Parameters
    ----------
    reports : dict of str to Bunch
        Of :func:`report_of`, by method.
    labels : dict of str to str
        A name for each method.
    paper : dict of str to sequence of float
        The paper's F1 of each stage, where it has the method.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The stages.
    """
    stages, rows = scheme_names(classes), []
    for method, report in reports.items():
        names = [f"f1_{stage}" for stage in stages]
        means = [100 * report.mean[name] for name in names]
        pooled = [100 * report.pooled[name] for name in names]
        kinds = {"paper": paper.get(method), "mean": means, "pooled": pooled}
        rows += [
            [labels[method], kind, *map(number, values)]
            for kind, values in kinds.items()
            if values is not None
        ]
    return markdown_table(["Method", "", *stages], rows)


def table_of_costs(results, labels, before=None):
    """Mean seconds of the fits of each method.

    Parameters
    ----------
    results : dict of str to list of dict
        Of :func:`study.timed_fit`, by method.
    labels : dict of str to str
        A name for each method.
    before : dict of str to str, optional
        The method that is fitted before another, and is not in its seconds.
    """
    seconds, cpu = (
        {method: np.mean([fit[name] for fit in fits]) for method, fits in results.items()}
        for name in ("seconds", "cpu_seconds")
    )
    before, rows = before or {}, []
    for method in results:
        whole = seconds[method] + seconds.get(before.get(method), 0.0)
        row = map(number, (seconds[method], whole, cpu[method]))
        rows.append([labels[method], *row])
    header = ["Method", "Fit, s", "with what precedes it, s", "CPU time, s"]
    return markdown_table(header, rows)


def rounded(scores, names):
    """Pick scores of a subject for a table of numbers, empty where there is none."""
    return {name: round(scores[name], 5) if name in scores else "" for name in names}
