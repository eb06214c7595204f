"""Labels and their codes, their cross-entropy, and the subjects who are held out."""

import math

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from skleepkd.stages import (
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    left_unscored,
    scheme_names,
    stage_of_text,
    warn_of_shift,
)
from skleepkd.warn import warn

#: Below this many subjects, "auto" holds nobody out: to choose a pass on one or two
#: subjects is mostly noise.
SUBJECTS_FOR_AUTO = 10

#: The line that converts words for stages.
_CONVERT = "np.array([skleepkd.stages.stage_of_text(text) for text in y])"


def find_classes(classes, y):
    """Labels of the network's outputs, sorted: those of ``y``, of a scheme, or a list."""
    seen = np.unique(y[~left_unscored(y, classes)])
    names = y.dtype.kind == "U"
    if classes is None:
        found = seen
        if names:
            _check_names(y, found)
        else:
            _check_codes(found)
    elif isinstance(classes, str):
        stages = scheme_names(classes)
        found = np.sort(stages) if names else np.arange(len(stages))
        warn_of_shift(seen, len(stages))
    else:
        found = np.sort(np.atleast_1d(classes))
    unknown = [str(label) for label in seen if label not in found]
    if unknown:
        raise ValueError(
            f"Unknown stage {', '.join(unknown)} in y; the classes are "
            f"{', '.join(map(str, found))}. Mend the spelling, write '?' where nobody scored, "
            f"convert other texts ({_CONVERT}) or codes "
            "(skleepkd.stages.to_scheme), name another scheme, or list all: classes=[...]."
        )
    if len(np.unique(found)) < len(found) or left_unscored(found).any():
        raise ValueError(f"classes names each stage once; given {found.tolist()}.")
    if len(found) < 2:
        raise ValueError(
            f"Only the stage {', '.join(map(str, found))} is in y, one class; a stager needs "
            "at least two. classes='aasm' fixes five columns, whatever a fold holds."
        )
    return found


def _check_codes(found):
    """Warn of codes that are those of no scheme: nothing says which stages they are."""
    if UNSCORED in found:
        warn(
            "The labels -1 and 1 are taken for two classes. Where -1 means unscored, "
            "only stage 1 is in y: name the stages, classes='aasm'."
        )
    elif len(found) > 5 or not np.array_equal(found, range(len(found))):
        warn(
            f"y holds the codes {', '.join(map(str, found))}, learned as they come. If they are "
            "AASM stages (0 W, 1 N1, 2 N2, 3 N3, 4 REM; -1 unscored), convert the others and "
            "give classes='aasm'; if not, list them: classes=[...]."
        )


def _check_names(y, names):
    """Refuse words for stages that are not their scheme's names; warn of strangers beside."""
    scheme = max(SCHEMES, key=lambda scheme: np.isin(names, SCHEMES[scheme]).sum())
    known = np.isin(names, SCHEMES[scheme])
    spelt = {name.casefold(): name for name in SCHEMES[scheme]} if known.any() else {}
    others = names[~known].tolist()
    meant = {name: spelt.get(name.strip().casefold(), _name_of(name)) for name in others}
    slips = [f"{name!r} instead of {stage!r}" for name, stage in meant.items() if stage]
    if "0" in others and slips:
        slips = ["codes as text"]
    if slips:
        raise ValueError(
            f"y holds {', '.join(slips)}. Mend the spelling, or convert all to codes: "
            f"y.astype(int) of digits, {_CONVERT} of words. If these are classes of their own, "
            "list all labels: classes=[...]."
        )
    # One name alone may be shared by chance: "W" and "S" are wake and sleep.
    if others and known.sum() > 1:
        counts = ", ".join(f"{name!r} ({np.sum(y == name)} epochs)" for name in others)
        warn(
            f"y holds {counts} beside stages of the scheme {scheme!r}, to be learned as "
            f"classes of their own. If they are slips, give classes={scheme!r}, which finds "
            "them; if not, list all labels: classes=[...]."
        )


def _name_of(text):
    """Name the stage, or "?", that a text of annotations means; None where it means none."""
    code = stage_of_text(text)
    if code is None:
        return None
    return UNSCORED_NAME if code == UNSCORED else SCHEMES["aasm"][code]


def encode(y, classes):
    """Codes of labels, their places among ``classes``, or -1 where they are no class."""
    codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    codes[~np.isin(y, classes)] = UNSCORED
    return codes


def class_weights(class_weight, codes, classes):
    """Weights of the classes in the cross-entropy, (n_classes,) float32, or None."""
    if class_weight is None:
        return None
    weights = np.ones(len(classes), dtype=np.float32)
    if isinstance(class_weight, dict):
        labels = classes.tolist()
        for label, weight in class_weight.items():
            if label not in labels:
                raise ValueError(f"class_weight names {label!r}; the classes are {labels}.")
            weights[labels.index(label)] = weight
    elif class_weight == "balanced":
        # As in scikit-learn; 1 for a class that does not occur.
        counts = np.bincount(codes[codes >= 0], minlength=len(classes))
        seen = counts > 0
        weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    else:
        raise ValueError(f"class_weight is 'balanced' or a dict; given {class_weight!r}.")
    return weights


def unscored_like(classes, n_epochs):
    """Labels that say of each epoch that nobody scored it, of the kind of ``classes``."""
    names = np.asarray(classes).dtype.kind in "OSU"
    return np.full(n_epochs, UNSCORED_NAME if names else UNSCORED)


def draw_held_out(validation, subjects, scored, learned, random_state):
    """Draw who validates, of those with scored rows, if any; some are left to learn from."""
    known = None
    if subjects is not None:
        known = np.unique(subjects[scored if scored.any() else learned])
    if isinstance(validation, str) and validation == "auto":
        enough = known is not None and len(known) >= SUBJECTS_FOR_AUTO
        validation = 0.1 if enough else None
    if validation is None or (isinstance(validation, tuple) and not validation):
        return np.array([])
    if known is None:
        raise ValueError(
            f"validation={validation!r} holds out subjects, but none are known. Give "
            "groups= to fit, or a PairedEpochs with subject=."
        )
    given = validation(known) if callable(validation) else validation
    if isinstance(given, float) and 0 < given < 1:
        given = max(1, math.floor(given * len(known) + 0.5))
    if isinstance(given, int | np.integer) and given > 0:
        given = check_random_state(random_state).permutation(known)[:given]
    elif isinstance(given, str | int | float | np.integer) or any(map(np.ndim, given)):
        raise ValueError(
            "validation is 'auto', None, a number of subjects (at least one), a fraction of "
            f"them (below 1), a tuple of subjects or a callable; given {validation!r}."
        )
    chosen = np.asarray(list(given))
    strangers = set(chosen.tolist()) - set(known.tolist())
    if strangers:
        raise ValueError(
            f"validation names {sorted(map(str, strangers))}, who are not among the "
            f"training subjects {[str(name) for name in known]}, or have no scored epoch."
        )
    if np.isin(subjects[learned], chosen).all():
        raise ValueError(
            f"validation={validation!r} would hold out all of the {len(known)} training "
            "subjects; nobody would be left to train on."
        )
    return np.sort(chosen)


class StageCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy, averaged over the scored epochs of a batch.

    As ``torch.nn.CrossEntropyLoss``, but a batch without a scored epoch costs 0
    instead of NaN, and the device is never waited for.

    Parameters
    ----------
    weight : torch.Tensor of shape (n_classes,), optional
        Weight of each class; the average is weighted.
    label_smoothing : float, default=0.0
        As in ``torch.nn.CrossEntropyLoss``.
    """

    def __init__(self, weight=None, label_smoothing=0.0):
        super().__init__(
            weight, ignore_index=UNSCORED, reduction="sum", label_smoothing=label_smoothing
        )

    def forward(self, logits, y):
        """Return the loss of logits (batch, n_classes, ...) and codes (batch, ...)."""
        total = super().forward(logits, y)
        scored = y != self.ignore_index
        if self.weight is None:
            return total / scored.sum().clamp(min=1)
        count = torch.where(scored, self.weight[y.clamp(min=0)], 0.0).sum()
        return total / torch.where(count > 0, count, torch.ones_like(count))
