"""Tables of sleep staging that several benchmarks print."""

import math

import numpy as np
from _runs import markdown_table

from skleepkd.metrics import bootstrap_interval, gap_closed, staging_report
from skleepkd.stages import scheme_names

STAGES = scheme_names("aasm")

#: Keys of a result: predictions of the last weights, and after the pass that was best on
#: the test subject.
LAST, BEST = "predicted", "best_predicted"


def score(results, groups, y):
    """Score each method, by subject and pooled, with the last and with the best weights.

    Parameters
    ----------
    results : dict of str to dict of str to dict
        By method and test subject, each with "predicted" and "best_predicted".
    groups, y : ndarray of shape (n_epochs,)
        The subject and the stage of each epoch.

    Returns
    -------
    dict of str to dict of str to Bunch
        By method, for "predicted" and "best_predicted", a report of
        :func:`skleepkd.metrics.staging_report`.
    """
    scores = {}
    for method, folds in results.items():
        rows = np.concatenate([np.flatnonzero(groups == subject) for subject in folds])
        scores[method] = {}
        for which in (LAST, BEST):
            predicted = np.concatenate([fold[which] for fold in folds.values()])
            scores[method][which] = staging_report(y[rows], predicted, groups=groups[rows])
    return scores


def values_of(report, name):
    """One score of each subject for whom it is defined."""
    values = np.array([scores[name] for scores in report.per_subject.values()])
    return values[np.isfinite(values)]


def number(value, digits=1):
    """Format a number, or a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(values, digits):
    """Format a mean over subjects with its 95 % bootstrap interval."""
    low, high = bootstrap_interval(values)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table_of_scores(scores, labels, paper, gap):
    """Accuracy (%) and kappa beside the paper's, and the share of a gap that is closed.

    Parameters
    ----------
    scores : dict
        Of :func:`score`.
    labels : dict of str to str
        A name for each method.
    paper : dict of str to sequence
        The paper's accuracy and kappa, where it has the method.
    gap : tuple of str
        The methods above and below the gap.

    Returns
    -------
    str
        In Markdown.
    """
    kappas = {method: values_of(by[LAST], "kappa") for method, by in scores.items()}
    rows = []
    for method, by in scores.items():
        accuracy, kappa = paper.get(method, (math.nan, math.nan))[:2]
        share = "-"
        if method not in gap:
            closed = gap_closed(kappas[gap[0]], kappas[gap[1]], kappas[method])
            low, high = closed.share_interval
            share = (
                f"{closed.share:.0%} [{low:.0%}, {high:.0%}]"
                if closed.has_gap
                else "no gap"
            )
        rows.append(
            [
                labels[method],
                number(accuracy, 2),
                with_interval(100 * values_of(by[LAST], "accuracy"), 1),
                number(100 * by[LAST].pooled["accuracy"]),
                number(kappa, 3),
                with_interval(kappas[method], 3),
                number(by[LAST].pooled["kappa"], 3),
                share,
                number(100 * values_of(by[BEST], "accuracy").mean()),
                number(values_of(by[BEST], "kappa").mean(), 3),
            ]
        )
    header = [
        "Method",
        "Accuracy, paper",
        "mean",
        "pooled",
        "Kappa, paper",
        "mean",
        "pooled",
    ]
    header += ["Gap closed", "*Optimistic:* accuracy", "*Optimistic:* kappa"]
    return markdown_table(header, rows)


def gain_with_interval(report, baseline, name):
    """Mean difference of a score from a baseline's, paired by subject, with its interval.

    Parameters
    ----------
    report, baseline : Bunch
        Of :func:`skleepkd.metrics.staging_report`, over the same subjects.
    name : str
        A score that is defined for every subject.

    Returns
    -------
    gain, low, high : float
        The mean and the ends of its 95 % bootstrap interval over subjects.
    """
    gains = [
        report.per_subject[subject][name] - scores[name]
        for subject, scores in baseline.per_subject.items()
    ]
    return float(np.mean(gains)), *bootstrap_interval(gains)


def table_of_stages(scores, labels, paper, classes="aasm"):
    """F1 of each stage (%), mean over subjects and pooled, below the paper's.

    Parameters
    ----------
    scores : dict
        Of :func:`score`.
    labels : dict of str to str
        A name for each method.
    paper : dict of str to sequence of float
        The paper's F1 of each stage, where it has the method.
    classes : {"aasm", "wldr", "wnr"}, default="aasm"
        The stages.

    Returns
    -------
    str
        In Markdown.
    """
    stages = scheme_names(classes)
    names = [f"f1_{stage}" for stage in stages]
    rows = []
    for method, by in scores.items():
        if method in paper:
            rows.append([labels[method], "paper", *map(number, paper[method])])
        means = [values_of(by[LAST], name) for name in names]
        means = [
            number(100 * values.mean() if len(values) else math.nan) for values in means
        ]
        rows.append([labels[method], "mean", *means])
        pooled = [number(100 * by[LAST].pooled[name]) for name in names]
        rows.append([labels[method], "pooled", *pooled])
    return markdown_table(["Method", "", *stages], rows)


def table_of_costs(results, labels, needs):
    """Seconds and memory of a fit.

    Parameters
    ----------
    results : dict of str to dict of str to dict
        By method and test subject, with "seconds", "cpu_seconds", "peak_mb" and
        "import_mb".
    labels : dict of str to str
        A name for each method.
    needs : dict of str to str
        The method whose fit precedes that of another, and is not in its seconds.

    Returns
    -------
    str
        In Markdown.
    """
    mean = {
        method: [
            np.mean([fold[name] for fold in folds.values()])
            for name in ("seconds", "cpu_seconds")
        ]
        for method, folds in results.items()
    }
    rows = []
    for method, folds in results.items():
        own, cpu = mean[method]
        whole = own + (mean[needs[method]][0] if method in needs else 0.0)
        peak = max(fold["peak_mb"] for fold in folds.values())
        above = max(fold["peak_mb"] - fold["import_mb"] for fold in folds.values())
        seconds = [number(value) for value in (own, whole, cpu)]
        rows.append([labels[method], *seconds, number(peak, 0), number(above, 0)])
    header = ["Method", "Fit, s", "with what precedes it, s", "CPU time, s"]
    return markdown_table([*header, "Peak memory, MB", "above its beginning, MB"], rows)


def rows_of_subjects(results, scores, about):
    """One row for each method and subject, for a CSV file.

    Parameters
    ----------
    results, scores : dict
        As above.
    about : dict
        Columns that every row begins with.

    Returns
    -------
    list of dict
    """
    wanted = ["accuracy", "kappa", "f1_macro", *(f"f1_{stage}" for stage in STAGES)]
    costs = ("seconds", "cpu_seconds", "peak_mb", "import_mb")
    rows = []
    for method, folds in results.items():
        for subject, fold in folds.items():
            last, best = (
                scores[method][which].per_subject[subject] for which in (LAST, BEST)
            )
            rows.append(
                {
                    **about,
                    "method": method,
                    "subject": subject,
                    "n_epochs": len(fold[LAST]),
                    "held_out": " ".join(fold["held_out"]),
                    **{name: round(last[name], 5) for name in wanted},
                    **{f"optimistic_{name}": round(best[name], 5) for name in wanted[:2]},
                    "optimistic_pass": int(np.argmax(fold["kappa_by_pass"])) + 1,
                    **{name: round(fold[name], 1) for name in costs},
                }
            )
    return rows
