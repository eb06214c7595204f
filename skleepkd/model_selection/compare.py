"""Methods on the same folds and seeds, judged person by person, as one table."""

import numbers
import time

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import column_or_1d

from skleepkd.distillation.teacher import is_frozen
from skleepkd.memory import key_of, open_memory
from skleepkd.metrics import gap_closed, paired_test
from skleepkd.metrics.subjects import over_subjects
from skleepkd.stages import check_present, is_unscored


def compare(
    methods,
    X,
    y,
    *,
    baseline,
    ceiling=None,
    y_train=None,
    groups=None,
    cv=None,
    seeds=3,
    metric=cohen_kappa_score,
    memory=None,
    n_jobs=None,
    verbose=0,
):
    """Cross-validate methods on the same folds and seeds, and compare them over people.

    Parameters
    ----------
    methods : dict of str to estimator
        Each by its name. One that reads the polysomnography itself is a pipeline that
        begins with :class:`~skleepkd.preprocessing.SourceSelector`.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts.
    y : array-like of shape (n_epochs,)
        Stages, by which methods are judged; unscored epochs (-1 or "?") are left out.
    baseline : str
        The method that the others are held against.
    ceiling : str, optional
        The method whose lead over the baseline is the gap, such as a stager of the
        polysomnography. Each other method closes a share of it.
    y_train : array-like of shape (n_epochs,), optional
        Stages that methods are trained with, those of ``y`` by default. Where only some
        people are to be scored, the others' are unscored here and not in ``y``.
    groups : array-like of shape (n_epochs,), optional
        The person of each epoch; by default ``X.subject``.
    cv : int, splitter, iterable of splits, or None, default=None
        None leaves out one person after the other, a number is that of folds of whole
        people; else as for :func:`sklearn.model_selection.cross_validate`.
    seeds : int or sequence of int, default=3
        The seeds, or their number. Each is set as ``random_state`` of a method, of its
        pipeline's last step and of what a search searches. A teacher without one takes
        its student's.
    metric : callable, default=sklearn.metrics.cohen_kappa_score
        Called with a person's true and predicted stages; more is better.
    memory : str, path-like or joblib.Memory, optional
        The folder where the predictions of finished folds are kept: a fit is found again
        as by :func:`cross_validate`, whatever the metric and the other methods. It holds
        pickles: open only your own.
    n_jobs, verbose : int, optional
        As for :func:`sklearn.model_selection.cross_validate`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If a name or a method is none, nobody is known, or fewer than two people who are
        tested have scored epochs.

    Notes
    -----
    Unscored epochs are given to this package's stagers, which know what to do with them;
    other estimators are trained on scored ones alone. An error in a fit is raised at once,
    and what is finished stays in ``memory``. Where there is no ``random_state`` to set, a
    method is fitted once for all seeds. Folds are not checked: see :func:`check_leakage`.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.metrics import accuracy_score
    >>> from skleepkd.datasets import make_cohort
    >>> from skleepkd.model_selection import compare
    >>> cohort = make_cohort(3, n_epochs=40, random_state=0)      # simulated nights
    >>> methods = {"constant": DummyClassifier(), "drawn": DummyClassifier(strategy="uniform")}
    >>> result = compare(
    ...     methods, cohort.X, cohort.y, baseline="constant", seeds=2, metric=accuracy_score
    ... )
    >>> result.scores.shape, result.frame.shape     # three people; of two seeds each
    ((3, 2), (12, 6))
    """
    _check_methods(methods, {"baseline": baseline, "ceiling": ceiling})
    y = column_or_1d(y)
    y_train = y if y_train is None else column_or_1d(y_train)
    kinds = y.dtype.kind + y_train.dtype.kind
    if "U" in kinds and kinds.strip("iuf") == "U":
        raise ValueError(
            f"y and y_train are both codes or both names; given {y[:1]} and {y_train[:1]}."
        )
    groups = getattr(X, "subject", None) if groups is None else groups
    if groups is None:
        raise ValueError(
            "Nothing says whose the epochs are: give groups=, or a PairedEpochs."
        )
    check_consistent_length(X, y, y_train, groups)
    groups, rows = check_present(column_or_1d(groups), "groups"), np.arange(len(y))
    folds = _splitter(cv, y).split(X, y, groups)
    folds = [(rows[train], rows[test]) for train, test in folds]  # masks too
    judged = np.unique(np.concatenate([test for _, test in folds]))
    people = np.unique(groups[judged[~is_unscored(y[judged])]])
    if len(people) < 2:
        raise ValueError(
            f"Methods are compared over people, and {len(people)} of those who are tested "
            "have scored epochs; two or more are needed."
        )
    seeds = list(range(seeds) if isinstance(seeds, numbers.Integral) else seeds)
    if not seeds:
        raise ValueError("No seed is given: seeds=3, so many, or a list of them.")
    _check_metric(metric, y[judged])
    fits, runs = {}, []
    for name, method in methods.items():
        names = _seed_names(method)
        for seed in seeds:
            estimator = clone(method)
            if names:  # nothing is to be set of what is frozen
                estimator.set_params(**dict.fromkeys(names, seed))
            for number, fold in enumerate(folds):
                fit = name, seed if names else None, number
                fits[fit] = estimator, fold
                runs.append((fit, seed))
    data = None if memory is None else key_of(X, y_train)
    fit_fold = open_memory(memory).cache(_fit_fold, ignore=["estimator", "X", "y", "fold"])
    found = Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(fit_fold)(
            None if memory is None else key_of(data, estimator, *fold),
            clone(estimator),
            X,
            y_train,
            fold,
        )
        for estimator, fold in fits.values()
    )
    found, lines = dict(zip(fits, found, strict=True)), []
    for fit, seed in runs:
        (predicted, seconds), (name, _, number) = found[fit], fit
        test = folds[number][1]
        for person, score in _by_person(metric, y[test], predicted, groups[test]).items():
            lines.append((name, seed, number, person, score, seconds))
    columns = ["method", "seed", "fold", "subject", "score", "fit_seconds"]
    name = getattr(metric, "__name__", "score").replace("cohen_kappa_score", "kappa")
    return Comparison(pd.DataFrame(lines, columns=columns), baseline, ceiling, name)


class Comparison:
    """What :func:`compare` found; ``print`` and notebooks show its table.

    Attributes
    ----------
    frame : pandas.DataFrame
        A row for each ``method``, ``seed``, ``fold`` and ``subject``, with the ``score``
        (nan where the person has no scored epochs, or the metric none for them) and ``fit_seconds``, those of the fit.
    scores : pandas.DataFrame
        The mean over seeds: a row for each person who has one, a column for each method.
    table : pandas.DataFrame
        A row for each method: ``mean`` over people with its 95 % bootstrap interval
        (``low``, ``high``), ``difference`` to the baseline, paired by person, with its
        interval and ``pvalue`` (:func:`~skleepkd.metrics.paired_test`), ``share`` of the
        gap with its interval (:func:`~skleepkd.metrics.gap_closed`), ``fit_seconds``, the
        mean over fits. What is undefined, as the share of no gap, is nan.
    baseline, ceiling : str or None
        Names of methods.
    metric : str
        The metric's name.
    """

    def __init__(self, frame, baseline, ceiling=None, metric="score"):
        self.frame, self.baseline, self.ceiling = frame, baseline, ceiling
        self.metric = metric
        means = frame.groupby(["subject", "method"])["score"].mean().unstack("method")
        self.scores = means[frame["method"].unique()].dropna(how="all")
        fits = frame.drop_duplicates(["method", "seed", "fold"])
        seconds = fits.groupby("method")["fit_seconds"].mean()
        rows = {name: self._row(name) for name in self.scores}
        self.table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
        self.table["fit_seconds"] = seconds

    def _row(self, name):
        """Compute a line of the table but for its seconds."""
        mean, (low, high) = over_subjects(self.scores[name])
        row = {"mean": mean, "low": low, "high": high}
        row |= dict.fromkeys(_DIFFERENCE + _SHARE, np.nan)
        own, base = self._paired(name, self.baseline)
        if name != self.baseline and len(own) > 1:
            test = paired_test(own, base)
            found = (test.difference, *test.interval, test.pvalue)
            row |= dict(zip(_DIFFERENCE, found, strict=True))
        if self.ceiling is not None and name not in (self.baseline, self.ceiling):
            scores = self._paired(self.ceiling, self.baseline, name)
            if len(scores[0]) > 1:
                closed = gap_closed(*scores)
                found = (closed.share, *closed.share_interval)
                row |= dict(zip(_SHARE, found, strict=True))
        return row

    def _paired(self, *names):
        """Scores of the people whom all of these methods have."""
        return self.scores[list(names)].dropna().to_numpy().T

    def _shown(self):
        """Write the table as texts."""
        shown, against = {}, f"difference to {self.baseline}"
        for name, row in self.table.iterrows():
            share = _interval(row, *_SHARE, ".0%") if np.isfinite(row["share"]) else ""
            shown[name] = {
                f"{self.metric} [95 %]": _interval(row, "mean", "low", "high", ".3f"),
                against: "",
                "p": "",
                "gap closed": share,
                "fit, s": f"{row['fit_seconds']:.1f}",
            }
            if np.isfinite(row["difference"]):
                shown[name][against] = _interval(row, *_DIFFERENCE[:3], "+.3f")
                small = row["pvalue"] < 0.001
                shown[name]["p"] = "<0.001" if small else f"{row['pvalue']:.3f}"
        shown = pd.DataFrame.from_dict(shown, orient="index")
        return shown.drop(columns=[] if self.ceiling else "gap closed")

    def __repr__(self):
        people, seeds = len(self.scores), self.frame["seed"].nunique()
        head = f"{people} people, mean of {seeds} seed(s) each"
        return f"{head}\n{self._shown().to_string()}"

    def _repr_html_(self):
        return self._shown().to_html()

    def plot(self, ax=None):
        """Draw the differences to the baseline with their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        matplotlib Axes
        """
        from matplotlib import pyplot as plt

        table = self.table.drop(index=self.baseline)[::-1]
        if ax is None:
            size = (6.4, 1.2 + 0.3 * len(table))
            _, ax = plt.subplots(figsize=size, layout="constrained")
        low, high = table["difference_low"], table["difference_high"]
        ends = [table["difference"] - low, high - table["difference"]]
        ax.errorbar(table["difference"], table.index, xerr=ends, fmt="o", capsize=2)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel(f"Difference in {self.metric} to {self.baseline}, 95 % interval")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.25)
        return ax


_DIFFERENCE = ["difference", "difference_low", "difference_high", "pvalue"]
_SHARE = ["share", "share_low", "share_high"]


def _interval(row, middle, low, high, form):
    return f"{row[middle]:{form}} [{row[low]:{form}}, {row[high]:{form}}]"


def _check_methods(methods, named):
    for name, method in methods.items():
        usable = all(hasattr(method, of) for of in ("fit", "predict", "get_params"))
        if not usable or isinstance(method, type):
            raise ValueError(
                f"Methods are estimators, which fit and predict; {name!r} is {method!r}."
            )
    for what, name in named.items():
        if name not in methods and (name is not None or what == "baseline"):
            raise ValueError(f"{what} is one of {list(methods)}; given {name!r}.")


def _check_metric(metric, y):
    """Refuse what is no score of stages before hours of fits."""
    scored = y[~is_unscored(y)]
    try:
        float(metric(scored, scored))
    except Exception as error:  # metrics raise anything
        raise ValueError(
            "metric is called with a person's true and predicted stages and returns a number, "
            f"as sklearn.metrics.cohen_kappa_score; {metric!r} does not ({error})."
        ) from error


def _splitter(cv, y):
    """Return what splits; by people, unless another way is given."""
    if cv is None:
        return LeaveOneGroupOut()
    if isinstance(cv, numbers.Integral):
        return GroupKFold(cv)
    return check_cv(cv, y, classifier=True)


def _levels(estimator):
    """Yield what is trained at the end of pipelines and in searches, and its prefix."""
    prefix = ""
    while estimator is not None and not is_frozen(estimator):
        yield prefix, estimator
        name, inner = "estimator", getattr(estimator, "estimator", None)
        if isinstance(estimator, Pipeline):
            name, inner = estimator.steps[-1]
        prefix, estimator = f"{prefix}{name}__", inner


def _seed_names(estimator):
    """Name each random_state of an estimator but those of its teacher and first steps."""
    return [
        f"{prefix}random_state"
        for prefix, level in _levels(estimator)
        if "random_state" in level.get_params(deep=False)
    ]


def _fit_fold(key, estimator, X, y, fold):
    """Return predictions and the fit's seconds; ``key`` stands for all else in the cache."""
    train, test = fold
    if not any(hasattr(type(level), "predict_pair") for _, level in _levels(estimator)):
        train = train[~is_unscored(y[train])]
    began = time.perf_counter()
    estimator.fit(_safe_indexing(X, train), y[train])
    seconds = time.perf_counter() - began
    return np.asarray(estimator.predict(_safe_indexing(X, test))), seconds


def _by_person(metric, y, predicted, groups):
    """Score each person; nan where nothing of theirs is scored."""
    scores, scored = {}, ~is_unscored(y)
    for person in np.unique(groups).tolist():
        rows = scored & (groups == person)
        scores[person] = float(metric(y[rows], predicted[rows])) if rows.any() else np.nan
    return scores
