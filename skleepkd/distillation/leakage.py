"""Leakage: who went into a stager's weights, and a warning where they are predicted."""

import weakref

import numpy as np

from skleepkd.distillation.teacher import each_of, final_stagers, is_frozen
from skleepkd.warn import warn

_warned = weakref.WeakSet()  # networks of the stagers that have warned


class LeakageWarning(UserWarning):
    """A stager is judged on people whom it, or a frozen part of it, was fitted on."""


def warn_of_leakage(pair, stager):
    """Warn, once a fit, of people whom a stager has seen, but for the very same epochs."""
    if stager.module_ in _warned:
        return
    known = False
    for name in ("subject", "recording"):
        here, own = getattr(pair, name), stager.fitted_on_[name]
        seen = seen_by(stager, name)
        if here is None or seen is None:
            continue
        if known:  # nights of several people may have one name
            seen = np.setdiff1d(seen, [] if own is None else own)
        known = own is not None
        rows = np.flatnonzero(np.isin(here, seen))
        if len(rows) and stager.seen_epochs_ is not None:
            same = np.isin(pair[rows].row_digests(), stager.seen_epochs_).any(axis=1)
            rows = rows[~same]
        if len(rows):
            leaked = np.unique(here[rows])
            _warn(stager, name, leaked, np.setdiff1d(leaked, own) if known else leaked)
            return


def _warn(stager, name, leaked, of_others):
    if len(of_others):
        (role, _), leaked = next(_frozen_parts(stager)), of_others
        message = f"The frozen {role} was fitted on"
        cure = f"Give the {role} unfitted (each fold fits it), or fitted on others"
    else:
        message = "This stager was fitted on other epochs of"
        cure = "Split by subject: GroupKFold"
    warn(
        f"{message} the {name} {', '.join(map(str, leaked[:5]))}, on which this stager is judged "
        f"now: the score is optimistic. {cure}. Where it is meant: warnings.filterwarnings("
        '"ignore", category=skleepkd.distillation.LeakageWarning).',
        LeakageWarning,
    )
    _warned.add(stager.module_)


def seen_epochs(pair, before=None):
    """Numbers of the epochs of a fit, and of those before, where their people are known."""
    if pair.subject is None and pair.recording is None:
        return before
    seen = pair.row_digests().ravel()
    return seen if before is None else np.union1d(seen, before)


def seen_names(pair, before=None):
    """Subjects and recordings of a fit, and of those before; None of what is not known."""
    seen = {}
    for name in ("subject", "recording"):
        columns = [getattr(pair, name), *([] if before is None else [before[name]])]
        known = all(column is not None for column in columns)
        seen[name] = np.unique(np.concatenate(columns)) if known else None
    return seen


def seen_by(stager, name):
    """Subjects or nights that went into a stager's weights, through frozen ones too."""
    seen = [seen_by(frozen, name) for _, frozen in _frozen_parts(stager)]
    seen = [names for names in (stager.fitted_on_[name], *seen) if names is not None]
    return np.unique(np.concatenate(seen)) if seen else None


def _frozen_parts(stager):
    """Yield the frozen stagers that a stager learned from, each after its role."""
    for attribute, role in (("pretrained_", "pretrained stager"), ("teacher_", "teacher")):
        for part in each_of(getattr(stager, attribute, None)):
            for last in final_stagers(part):
                if is_frozen(part):
                    yield role, last
                else:
                    yield from _frozen_parts(last)
