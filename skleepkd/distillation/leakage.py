"""Leakage through a frozen teacher: who went into its weights, and a warning."""

import warnings

import numpy as np

from skleepkd.distillation.teacher import final_stager, is_frozen
from skleepkd.epochs import PairedEpochs


class LeakageWarning(UserWarning):
    """A stager is judged on subjects or nights that its frozen teacher was fitted on."""


def warn_of_leakage(X, stager):
    """Warn where X holds subjects or nights that only a frozen part of a stager was fitted on."""
    if not isinstance(X, PairedEpochs):
        return
    for attribute, role in (("teacher_", "teacher"), ("pretrained_", "pretrained stager")):
        frozen = getattr(stager, attribute, None)
        if frozen is not None and is_frozen(frozen) and final_stager(frozen) is not None:
            _warn(X, final_stager(frozen), stager, role)


def _warn(X, frozen, stager, role):
    for name in ("subject", "recording"):
        seen, own, here = seen_by(frozen, name), stager.fitted_on_[name], getattr(X, name)
        if seen is None or here is None:
            continue
        leaked = np.setdiff1d(np.intersect1d(here, seen), [] if own is None else own)
        if len(leaked):
            warnings.warn(
                f"The frozen {role} was fitted on the {name} "
                f"{', '.join(map(str, leaked[:5]))}, on which this stager is judged now: the "
                f"score is optimistic. Give the {role} unfitted (it is then fitted in each "
                "fold), or one that was fitted on other subjects.",
                LeakageWarning,
                stacklevel=5,
            )
            return


def seen_by(stager, name):
    """Subjects or nights that went into a stager's weights, through frozen ones too."""
    seen = stager.fitted_on_[name]
    inner = getattr(stager, "pretrained_", None) or getattr(stager, "teacher_", None)
    if inner is not None and is_frozen(inner) and final_stager(inner) is not None:
        before = seen_by(final_stager(inner), name)
        if before is not None:
            seen = before if seen is None else np.union1d(seen, before)
    return seen
