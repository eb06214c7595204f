"""Leakage: people, rows and fits that cross a split, and what no check can see."""

import hashlib
import warnings

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch

from skleepkd._refits import CACHES, changed_rows
from skleepkd._splits import make_folds
from skleepkd.distillation.leakage import seen_by
from skleepkd.distillation.teacher import final_stager, is_frozen
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.checks import as_pair, same_people
from skleepkd.estimators import SleepStager
from skleepkd.estimators.held_out import draw_held_out
from skleepkd.stages import is_unscored

_FOUND = {
    "unknown people": (
        "Nothing says whose the epochs are, so that no split of them can be trusted: give "
        "groups=, or a PairedEpochs with subject="
    ),
    "subject": "A person is on both sides of the split",
    "recording": "A recording is on both sides of the split",
    "groups": "A group is on both sides of the split",
    "frozen": "{where} is frozen, and was fitted on what is tested",
    "row": "Rows of X are on both sides of the split",
    "identical": "Epochs of the {where} are equal, bit by bit, on both sides of the split",
    "refit": "The fit depends on rows that it was not given: it changes with them",
    "inner split": "{where} has the same people on both sides where it chooses",
}

_NEVER_SEEN = (
    "what was done to all nights before X was made: scaling, rejection, choice of channels",
    "methods, parameters or passes that were chosen by their test scores",
    "one person under two names, or two nights that share a person nobody named",
    "epochs that are equal but for scale, filter, sampling rate or a shift in time",
    "weights that a network or a step brings along without saying whom it was fitted on",
    "files and global variables that a fit reads by itself",
)


class LeakageReport:
    """What :func:`check_leakage` found, and what it could not see.

    ``print`` shows it. It has no truth value of its own, so that ``assert report`` cannot
    be mistaken: ask ``report.ok``.

    Attributes
    ----------
    findings : list of Bunch
        Each with ``kind`` ("unknown people", "subject", "recording", "groups", "frozen",
        "row", "identical", "refit" or "inner split"), ``fold`` (its number), ``where`` (the
        name of the parameter or modality; empty for a split), ``what`` (list of the people,
        recordings or groups), ``rows`` (of X: tested rows that are concerned, of "refit"
        the training rows whose answers changed, of "inner split" the rows that choose) and
        ``count`` (their number).
    cannot_see : list of str
        What this check had no means to see: first of this study, then of any.
    n_folds : int
        Folds of the cross-validation.
    """

    def __init__(self, n_folds):
        self.findings = []
        self.cannot_see = []
        self.n_folds = n_folds

    @property
    def ok(self):
        """Whether nothing was found (which is not: whether there is nothing).

        Where nobody knows whose the epochs are, it is False.
        """
        return not self.findings

    def raise_if_found(self):
        """Raise ValueError with the printed report, if anything was found."""
        if not self.ok:
            raise ValueError(str(self))

    def __bool__(self):
        raise TypeError("Ask report.ok, or call report.raise_if_found().")

    def __repr__(self):
        return f"<LeakageReport: {len(self.findings)} findings in {self.n_folds} folds>"

    def __str__(self):
        lines = ["No leakage found." if self.ok else "Leakage found:"]
        if {found.kind for found in self.findings} == {"unknown people"}:
            lines = ["Leakage cannot be ruled out:"]
        alike = {}
        for found in self.findings:
            alike.setdefault((found.kind, found.where), []).append(found)
        for (kind, where), group in alike.items():
            folds = _short([found.fold for found in group])
            names = _short(dict.fromkeys(name for found in group for name in found.what))
            details = [
                f"fold{'s' if len(group) > 1 else ''} {folds}",
                f"{sum(found.count for found in group)} epochs",
                *([names] if names else []),
            ]
            lines.append(f"- {_FOUND[kind].format(where=where)} ({'; '.join(details)}).")
        lines.append("Cannot see:")
        lines += [f"- {blind}" for blind in self.cannot_see]
        return "\n".join(lines)

    def _add(self, kind, fold, rows, what=(), where=""):
        if len(rows):
            found = Bunch(kind=kind, fold=fold, where=where, what=np.asarray(what).tolist())
            self.findings.append(Bunch(**found, rows=rows, count=len(rows)))


def check_leakage(estimator, X, y=None, *, groups=None, cv=None, params=None, refit=1):
    """Look for ways in which a test fold could reach what is tested on it.

    Call it with what ``cross_validate`` is called with, before the long run.

    Parameters
    ----------
    estimator : estimator
        What would be cross-validated; it is cloned, never fitted itself.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts. A pair that knows ``subject`` and ``recording`` lets
        more be seen.
    y : array-like of shape (n_epochs,), optional
        Stages.
    groups : array-like of shape (n_epochs,), optional
        Persons, for ``cv`` and for this check (with metadata routing they are one of
        ``params``). Needed where X does not know them: without people no split is ``ok``.
    cv, params : object
        As for :func:`sklearn.model_selection.cross_validate`.
    refit : int, default=1
        In how many folds the estimator is fitted, three times each (see Notes); 0 fits
        nothing.

    Returns
    -------
    LeakageReport
        ``ok``, ``findings``, ``cannot_see`` and ``raise_if_found()``.

    Raises
    ------
    ValueError
        If X holds no numbers, or the folds cannot be made, as those by groups without any.

    Notes
    -----
    It finds, fold by fold:

    - people, recordings, groups and rows on both sides of the split, or that no people
      are known;
    - frozen estimators, wherever in the estimator they are (a teacher, a pretrained
      stager, a step of a ``Pipeline``, a value of a grid), that were fitted on tested
      people or recordings, through ``fitted_on_``, which stagers keep when they are saved;
    - epochs of target or source that are equal, bit by bit, on both sides. Epochs whose
      channels are constant do not count. X is read once, in blocks of at most 16 MiB;
    - a fit that depends on rows that it was not given: the estimator is fitted twice to
      the training rows and a third time after all other rows of X, y, ``params`` and
      the estimator's own parameters (arrays and pairs with a row for each of X's) have
      been overwritten by noise. Where its answers to the training rows change, it has
      looked past its fold, at the base array of a view, or at an argument of full
      length. Caches (``memory``, ``checkpoint``) are switched off meanwhile, and a
      ``random_state`` of None is 0;
    - splits inside the fit by which parameters, passes or probabilities are chosen
      (``train_split``, and ``cv`` of a search or a calibration) that have one person on
      both sides. They do not touch the test fold, but choose what suits known people.

    A refit costs three fits of a fold and a copy of X (above 1 GiB in a temporary memory
    map). Few passes tell as much as many:
    ``check_leakage(clone(stager).set_params(max_epochs=1), ...)``.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import KFold, LeaveOneGroupOut
    >>> from skleepkd.datasets import make_cohort
    >>> from skleepkd.model_selection import check_leakage
    >>> cohort = make_cohort(3, n_epochs=8, random_state=0)      # simulated nights
    >>> X, y, stager = cohort.X, cohort.y, DummyClassifier()
    >>> shuffled = KFold(2, shuffle=True, random_state=0)
    >>> report = check_leakage(stager, X, y, cv=shuffled)
    >>> report.ok
    False
    >>> [(found.kind, found.fold, found.count) for found in report.findings]
    [('subject', 0, 12), ('recording', 0, 12), ('subject', 1, 12), ('recording', 1, 12)]
    >>> by_person = {"groups": cohort.groups, "cv": LeaveOneGroupOut()}
    >>> report = check_leakage(stager, X, y, **by_person)
    >>> report.ok
    True
    >>> print(report)
    No leakage found.
    Cannot see:
    - whether a fit in the other 2 of 3 folds depends on their test rows (refit=1)
    - what was done to all nights before X was made: scaling, rejection, choice of channels
    - ...
    """
    params = params or {}
    X = np.asarray(X) if isinstance(X, list) else X
    y = None if y is None else np.asarray(y)
    cv, folds = make_folds(estimator, X, y, groups, cv, params)
    _, again = make_folds(estimator, X, y, groups, cv, params)
    pair = as_pair(X, params.get("X_source"))
    numbers = np.arange(len(pair))
    folds = [(numbers[train], numbers[test]) for train, test in folds]  # masks too
    report = LeakageReport(len(folds))
    pairs = zip(folds, again, strict=True)
    if not all(np.array_equal(test, numbers[other]) for (_, test), (_, other) in pairs):
        report.cannot_see.append(
            "the folds of the run itself: cv draws others each time (give it a random_state)"
        )
    columns = _columns(pair, params.get("groups") if groups is None else groups)
    _check_split(report, columns, folds)
    _check_frozen(report, estimator, columns, folds)
    _check_rows(report, pair, folds)
    _check_inner(report, estimator, columns["subject"], y, folds)
    _check_refits(report, estimator, X, y, cv, folds, params, refit)
    report.cannot_see += _NEVER_SEEN
    return report


# ---------------------------------------------------------------- people


def _columns(pair, groups):
    """Whom and what rows belong to; groups apart only where they differ from subjects."""
    columns = {"subject": pair.subject, "recording": pair.recording}
    if groups is None:
        return columns
    groups = np.asarray(groups)
    if pair.subject is None:
        return {**columns, "subject": groups}
    return columns if same_people(pair.subject, groups) else {**columns, "groups": groups}


def _check_split(report, columns, folds):
    if columns["recording"] is None:
        report.cannot_see.append(
            "recordings: not known (give a PairedEpochs with recording=)"
        )
    for number, (train, test) in enumerate(folds):
        if columns["subject"] is None:
            report._add("unknown people", number, test)
        report._add("row", number, np.intersect1d(train, test))
        for name, column in columns.items():
            if column is not None:
                shared = np.intersect1d(column[train], column[test])
                rows = test[np.isin(column[test], shared)]
                report._add(name, number, rows, shared)


def _check_frozen(report, estimator, columns, folds):
    for where, frozen in _frozen(estimator):
        stager = final_stager(frozen)
        known = hasattr(stager, "fitted_on_")
        seen = {
            name: seen_by(stager, name) if known else None
            for name in ("subject", "recording")
        }
        if seen["subject"] is None:
            report.cannot_see.append(
                f"whom {where} was fitted on: this frozen {type(frozen.estimator).__name__} "
                "does not know its people"
            )
        for name, names in seen.items():
            column = columns[name]
            if names is None or column is None:
                continue
            if _is_text(names) != _is_text(column):
                seen[name] = None
                report.cannot_see.append(
                    f"whether {where} was fitted on the same: there a {name} is called "
                    f"{names.item(0)!r}, here {column.item(0)!r}"
                )
        for number, (_, test) in enumerate(folds):
            for name, names in seen.items():
                if names is None or columns[name] is None:
                    continue
                here = columns[name][test]
                rows = test[np.isin(here, names)]
                if len(rows):
                    shared = np.intersect1d(here, names)
                    report._add("frozen", number, rows, shared, where)
                    break  # its recordings would say the same again


def _is_text(names):
    return names.dtype.kind in "US"


def _frozen(estimator, path=()):
    """Yield frozen estimators, those inside them too, with their names."""
    for inner, part in _parts(estimator, path):
        if is_frozen(part):
            yield "__".join(inner) or "the estimator", part
            yield from _frozen(part.estimator, inner)


def _parts(thing, path=()):
    """Yield an estimator and its parameters, and what lists and dicts among them hold."""
    yield path, thing
    if hasattr(thing, "get_params") and not isinstance(thing, type):
        if not is_frozen(thing):
            for name, value in thing.get_params(deep=False).items():
                yield from _parts(value, (*path, name))
    elif isinstance(thing, dict):
        for name, value in thing.items():
            yield from _parts(value, (*path, str(name)))
    elif isinstance(thing, tuple) and thing and isinstance(thing[0], str):
        for value in thing[1:]:  # a step of a Pipeline, ("name", estimator)
            yield from _parts(value, (*path[:-1], thing[0]))
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from _parts(value, path)


# ---------------------------------------------------------------- rows


def _check_rows(report, pair, folds):
    for modality in ("target", "source") if pair.has_source else ("target",):
        digests, flat = _digests(pair, modality)
        _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
        repeated = (counts[inverse] > 1) & ~flat
        for number, (train, test) in enumerate(folds):
            known = digests[train[repeated[train]]]
            rows = test[repeated[test]]
            rows = rows[np.isin(digests[rows], known)]
            report._add("identical", number, rows, where=modality)


def _digests(pair, modality):
    """Digest each epoch, and mark those whose channels are constant."""
    digests = np.empty(len(pair), dtype=np.uint64)
    flat = np.empty(len(pair), dtype=bool)
    for rows, block in pair.blocks(modality):
        # (n_rows, n_channels, ...) -> (n_rows, n_channels, n_values)
        block = np.ascontiguousarray(block).reshape(*block.shape[:2], -1)
        flat[rows] = (block == block[..., :1]).all(axis=(1, 2))
        digests[rows] = [
            int.from_bytes(hashlib.blake2b(epoch, digest_size=8).digest(), "little")
            for epoch in block
        ]
    return digests, flat


# ---------------------------------------------------------------- fits


def _check_inner(report, estimator, people, y, folds):
    if people is None or y is None:
        return
    for path, part in _parts(estimator):
        if isinstance(part, SleepStager) and part.train_split is not None:
            split, where = _train_split, (*path, "train_split")
        elif hasattr(part, "fit") and hasattr(part, "cv") and not is_frozen(part):
            split, where = _inner_cv, (*path, "cv")
        else:
            continue
        where = "__".join(where)
        for number, (train, _) in enumerate(folds):
            splits = split(part, train, y[train], people[train])
            if splits is None:
                report.cannot_see.append(f"whom {where} parts from whom")
                break
            shared, validating = set(), set()
            for learns, chooses in splits:
                both = np.intersect1d(people[learns], people[chooses])
                shared.update(both.tolist())
                validating.update(chooses[np.isin(people[chooses], both)].tolist())
            validating = np.array(sorted(validating), dtype=int)
            report._add("inner split", number, validating, sorted(shared), where)


def _train_split(stager, rows, y, people):
    """Split as skorch does, unless people are held out; None where rows do not show."""
    scored = ~is_unscored(y)
    rows, y, people = rows[scored], y[scored], people[scored]
    if len(draw_held_out(stager.validation, people, np.random.RandomState(0))):
        return []
    sides = stager.train_split(rows, y)
    if not all(hasattr(side, "indices") for side in sides):
        return None
    return [tuple(rows[np.asarray(side.indices)] for side in sides)]


def _inner_cv(search, rows, y, people):
    """Split as a search or a calibration does."""
    if isinstance(search.cv, str) or is_frozen(getattr(search, "estimator", None)):
        return []  # "prefit": a stack or a calibration of what is fitted already
    cv = check_cv(search.cv, y, classifier=is_classifier(search))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # people are offered whether it asks or not
        return [(rows[a], rows[b]) for a, b in cv.split(rows[:, None], y, people)]


def _check_refits(report, estimator, X, y, cv, folds, params, refit):
    n_refits = min(refit, len(folds))
    if y is None or not isinstance(X, (PairedEpochs, np.ndarray)):
        n_refits = 0
        report.cannot_see.append(
            "whether a fit depends on test rows: y is needed, and X as a PairedEpochs or array"
        )
    elif n_refits < len(folds):
        others = f"in the other {len(folds) - n_refits} of" if n_refits else "in any of"
        report.cannot_see.append(
            f"whether a fit {others} {len(folds)} folds depends on their test rows "
            f"(refit={refit})"
        )
    if n_refits and any(
        path and path[-1] in CACHES and part is not None for path, part in _parts(estimator)
    ):
        report.cannot_see.append(
            "what memory= and checkpoint= would hand over: the refits were made without"
        )
    for number, (train, test) in enumerate(folds[:n_refits]):
        rows = changed_rows(estimator, X, y, cv, train, test, params)
        if rows is None:
            report.cannot_see.append(
                "whether a fit depends on test rows: two fits to the same rows differ "
                "already (give every part a random_state)"
            )
            break
        report._add("refit", number, rows)


def _short(names):
    """Join the first five of some names."""
    names = list(map(str, names))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
