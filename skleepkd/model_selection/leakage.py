"""Leakage: subjects and rows that cross a split, and what no check can see."""

import hashlib
import warnings

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import get_routing_for_object

from skleepkd.distillation.leakage import seen_by
from skleepkd.distillation.teacher import each_of, final_stager, is_frozen
from skleepkd.epochs.checks import as_pair, same_people
from skleepkd.estimators import SleepStager
from skleepkd.estimators.labels import draw_held_out
from skleepkd.stages import check_present, is_unscored

_FOUND = {
    "unknown subjects": "Nothing says whose the epochs are, so that no split of them can be "
    "trusted: give groups=, or a PairedEpochs with subject=",
    "subject": "A subject is on both sides of the split",
    "recording": "A recording is on both sides of the split",
    "groups": "A group is on both sides of the split",
    "row": "Rows of X are on both sides of the split",
    "identical": "Epochs of the {where} are equal, bit by bit, on both sides of the split",
    "frozen": "{where} is frozen, and was fitted on what is tested",
    "inner split": "{where} has the same subjects on both sides where it chooses",
}

_NEVER_SEEN = (
    "what was done to all nights before X was made: scaling, rejection, choice of channels",
    "methods, parameters or passes that were chosen by their test scores",
    "a fit that looks past its fold: at files, variables or a validation set of its own",
    "one subject under two names, or two nights that share a subject nobody named",
    "epochs that are equal but for scale, filter, sampling rate or a shift in time",
    "folds that cv draws anew each time, as without random_state",
    "weights that a network or a step brings along without saying whom it was fitted on",
)


class LeakageReport:
    """What :func:`check_leakage` found, and what it could not see.

    ``print`` shows it; it has no truth value of its own, but ``ok``.

    Attributes
    ----------
    findings : list of Bunch
        Each with ``kind`` ("unknown subjects", "subject", "recording", "groups", "row",
        "identical", "frozen" or "inner split"), ``fold`` (its number), ``where`` (the parameter or
        modality), ``what`` (list of the subjects, recordings or groups), ``rows`` (of X:
        tested ones, of "inner split" those that choose) and ``count`` (of rows).
    cannot_see : list of str
        What this check had no means to see: first of this study, then of any.
    n_folds : int
    """

    def __init__(self, n_folds):
        self.findings = []
        self.cannot_see = []
        self.n_folds = n_folds

    @property
    def ok(self):
        """Whether nothing was found; False where the subjects are not known."""
        return not self.findings

    def raise_if_found(self):
        """Raise ValueError with the printed report, if anything was found."""
        if not self.ok:
            raise ValueError(str(self))

    def __bool__(self):
        raise TypeError("Use report.ok, or call report.raise_if_found().")

    def __repr__(self):
        alike = {}
        for found in self.findings:
            alike.setdefault((found.kind, found.where), []).append(found)
        lines = ["No leakage found." if self.ok else "Leakage found:"]
        if {kind for kind, _ in alike} == {"unknown subjects"}:
            lines = ["Leakage cannot be ruled out:"]
        for (kind, where), group in alike.items():
            folds = _short(dict.fromkeys(found.fold for found in group))
            rows = {(found.fold, row) for found in group for row in found.rows.tolist()}
            details = f"folds {folds}; {len(rows)} epochs"
            names = _short(dict.fromkeys(name for found in group for name in found.what))
            details += f"; {names}" if names else ""
            lines.append(f"- {_FOUND[kind].format(where=where)} ({details}).")
        return "\n".join([*lines, "Cannot see:", *(f"- {one}" for one in self.cannot_see)])

    def _look(self, kind, fold, rows, column, known, where=""):
        """Note the rows whose entry in a column is known on the other side."""
        rows = rows[np.isin(column[rows], known)]
        if len(rows):
            nameless = kind in ("unknown subjects", "row", "identical")
            what = [] if nameless else np.unique(column[rows]).tolist()
            found = Bunch(kind=kind, fold=fold, where=where, what=what, rows=rows)
            self.findings.append(Bunch(**found, count=len(rows)))
        return len(rows) > 0


def _short(names):
    names = list(map(str, names))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def check_leakage(estimator, X, y=None, *, groups=None, cv=None, params=None):
    """Look for ways in which a test fold could reach what is tested on it.

    Nothing is fitted: call it as ``cross_validate``, before the long run.

    Parameters
    ----------
    estimator, cv, params : object
        As for :func:`sklearn.model_selection.cross_validate`.
    X : PairedEpochs or array-like of shape (n_epochs, ...)
        The epochs, in microvolts. ``subject`` and ``recording`` of a pair let more be seen.
    y : array-like of shape (n_epochs,), optional
        Stages.
    groups : array-like of shape (n_epochs,), optional
        Subjects, for ``cv`` and for this check (with metadata routing they are one of
        ``params``). Where neither they nor X name the subjects, no split is ``ok``.

    Returns
    -------
    LeakageReport

    Raises
    ------
    ValueError
        If X holds no numbers, or the folds cannot be made, as those by groups without any.

    Notes
    -----
    It finds, fold by fold:

    - subjects, recordings, groups and rows on both sides of the split;
    - epochs that are equal, bit by bit, on both sides, unless all channels are flat or nearly so;
    - frozen estimators, wherever they are (a teacher, a step of a ``Pipeline``, a value of
      a grid), that were fitted on tested subjects or recordings;
    - splits inside the fit (``train_split``, ``cv`` of a search or a calibration) that
      choose passes, parameters or probabilities by subjects who are on both sides.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from skleepkd.datasets import make_cohort
    >>> from skleepkd.model_selection import check_leakage
    >>> cohort = make_cohort(3, n_epochs=8, random_state=0)      # simulated nights
    >>> print(check_leakage(DummyClassifier(), cohort.X, cohort.y, cv=2))
    Leakage found:
    - A subject is on both sides of the split (folds 0, 1; ...).
    - A recording is on both sides of the split (folds 0, 1; ...).
    ...
    """
    params = params or {}
    _, folds = make_folds(estimator, X, y, groups, cv, params)
    pair = as_pair(X, params.get("X_source"))
    report = LeakageReport(len(folds))
    rows = np.arange(len(pair))
    folds = [(rows[train], rows[test]) for train, test in folds]  # masks too
    groups = params.get("groups") if groups is None else groups
    subject = groups if pair.subject is None else pair.subject
    named = {"subject": subject, "recording": pair.recording, "groups": groups}
    named = {n: check_present(c, n) for n, c in named.items() if c is not None}
    if groups is not None and same_people(named["subject"], named["groups"]):
        del named["groups"]
    if "recording" not in named:
        report.cannot_see += ["recordings: not known (give a PairedEpochs with recording=)"]
    columns = {"unknown subjects": np.zeros(len(pair))} if subject is None else {}
    columns |= named  # where nobody is known, all rows may be of one subject
    columns["row"] = rows
    looked = [(kind, "", column) for kind, column in columns.items()]
    for modality in ("target", "source") if pair.has_source else ("target",):
        looked.append(("identical", modality, _digests(pair, modality)))
    for number, (train, test) in enumerate(folds):
        for kind, where, column in looked:
            report._look(kind, number, test, column, column[train], where)
    _check_frozen(report, estimator, named, folds)
    if subject is not None and y is not None:
        _check_inner(report, estimator, named["subject"], np.asarray(y), folds)
    report.cannot_see += _NEVER_SEEN
    return report


def make_folds(estimator, X, y, groups, cv, params):
    """Split as ``cross_validate`` does, with metadata routing or without."""
    cv, metadata = check_cv(cv, y, classifier=is_classifier(estimator)), {"groups": groups}
    if get_config()["enable_metadata_routing"]:
        if groups is not None:
            raise ValueError("groups go into params= with metadata routing.")
        wanted = get_routing_for_object(cv).consumes("split", params or {})
        metadata = {name: params[name] for name in wanted}
    folds = cv.split(X, y, **metadata)
    return cv, [(np.asarray(train), np.asarray(test)) for train, test in folds]


def _digests(pair, modality):
    """Equal numbers for equal epochs; the row's own where these may be equal by chance."""
    digests = np.arange(len(pair), dtype=np.uint64)
    for rows, block in pair.blocks(modality):
        # (n_rows, n_channels, ...) -> (n_rows, n_channels, n_values)
        block = np.ascontiguousarray(block).reshape(*block.shape[:2], -1)
        # A few counts of movement, or a flat signal, are alike in many epochs.
        changes = (block[..., 1:] != block[..., :-1]).sum(axis=2).max(axis=1)
        for row in np.flatnonzero(changes >= np.clip(block.shape[2] // 2, 1, 16)):
            digest = hashlib.blake2b(block[row], digest_size=8).digest()
            digests[rows.start + row] = int.from_bytes(digest, "little")
    return digests


def _check_frozen(report, estimator, named, folds, outer=()):
    parts = [
        (path, single)
        for path, part in _parts(estimator, outer)
        if isinstance(part, FrozenEstimator)
        for single in each_of(part)
    ]
    for path, frozen in parts:
        where, stager = "__".join(path) or "the estimator", final_stager(frozen)
        seen = {name: seen_by(stager, name) for name in getattr(stager, "fitted_on_", ())}
        if seen.get("subject") is None:
            kind = type(frozen.estimator).__name__
            report.cannot_see.append(
                f"whom {where} was fitted on: this frozen {kind} does not know its subjects"
            )
        seen = {name: seen[name] for name in named if seen.get(name) is not None}
        for name, names in list(seen.items()):
            if (names.dtype.kind in "US") != (named[name].dtype.kind in "US"):
                report.cannot_see.append(
                    f"whether {where} was fitted on the same: there a {name} is called "
                    f"{names.item(0)!r}, here {named[name].item(0)!r}"
                )
                del seen[name]
        for number, (_, test) in enumerate(folds):
            for name, names in seen.items():
                if report._look("frozen", number, test, named[name], names, where):
                    break  # the recordings of these subjects would say the same again
        _check_frozen(report, frozen.estimator, named, folds, path)


def _parts(thing, path=()):
    """Yield an estimator and its parameters, and what lists and dicts among them hold."""
    yield path, thing
    if isinstance(thing, BaseEstimator) and not isinstance(thing, FrozenEstimator):
        thing = thing.get_params(deep=False)
    if isinstance(thing, dict):
        for name, value in thing.items():
            yield from _parts(value, (*path, str(name)))
    elif isinstance(thing, (list, tuple)):
        if thing and isinstance(thing[0], str):  # a step of a Pipeline, ("name", estimator)
            path, thing = (*path[:-1], thing[0]), thing[1:]
        for value in thing:
            yield from _parts(value, path)


def _check_inner(report, estimator, subject, y, folds):
    for path, part in _parts(estimator):
        if isinstance(part, SleepStager) and part.train_split is not None:
            split, name = _train_split, "train_split"
        elif isinstance(part, BaseEstimator) and "cv" in part.get_params(deep=False):
            split, name = _inner_cv, "cv"
        else:
            continue
        where = "__".join((*path, name))
        for number, (train, _) in enumerate(folds):
            splits = split(part, train, y[train], subject[train])
            rows = [b[np.isin(subject[b], subject[a])] for a, b in splits]
            rows = np.unique(np.concatenate([train[:0], *rows]))
            report._look("inner split", number, rows, subject, subject[rows], where)


def _train_split(stager, rows, y, subject):
    """Split as skorch does, where no subjects are held out."""
    scored = ~is_unscored(y)
    rows, y, subject = rows[scored], y[scored], subject[scored]
    all_rows = np.ones(len(rows), dtype=bool)
    if len(draw_held_out(stager.validation, subject, all_rows, all_rows, 0)):
        return []
    sides = stager.train_split(rows, y)
    own = all(hasattr(side, "indices") for side in sides)
    return [[rows[np.asarray(side.indices)] for side in sides]] if own else []


def _inner_cv(search, rows, y, subject):
    """Split as a search or a calibration does."""
    if isinstance(search.cv, str) or is_frozen(getattr(search, "estimator", None)):
        return []  # "prefit": a stack or a calibration of what is fitted already
    cv = check_cv(search.cv, y, classifier=is_classifier(search))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # subjects are offered whether it takes them or not
        return [(rows[a], rows[b]) for a, b in cv.split(rows[:, None], y, subject)]
