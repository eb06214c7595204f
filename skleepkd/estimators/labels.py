"""Labels of the user, codes of the network, and the cross-entropy of those that are scored."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skleepkd.stages import (
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    is_unscored,
    left_unscored,
    scheme_names,
    stage_of_text,
)


def find_classes(classes, y):
    """Labels of the network's outputs: those of ``y``, of a scheme, or a list.

    Names that are slips of a scheme's raise ValueError where ``classes`` is None, names
    that stand beside a scheme's warn.
    """
    seen = np.unique(y[~left_unscored(y, classes)])
    if classes is None:
        found = seen
        if UNSCORED in found.tolist():
            warnings.warn(
                "The labels -1 and 1 are taken for two classes. Where -1 means unscored, "
                "only stage 1 is in y: name the stages, classes='aasm'.",
                stacklevel=2,
            )
        if y.dtype.kind == "U":
            _check_spelling(y, found)
    elif isinstance(classes, str):
        names = scheme_names(classes)
        found = np.array(names) if y.dtype.kind in "US" else np.arange(len(names))
    else:
        found = np.asarray(classes)
    unknown = [str(label) for label in seen if label not in found]
    if unknown:
        raise ValueError(
            f"Unknown stage {', '.join(unknown)} in y; the classes are "
            f"{', '.join(map(str, found))}. {_advice(unknown)}"
        )
    if len(np.unique(found)) < len(found) or left_unscored(found).any():
        raise ValueError(f"classes names each stage once; given {found.tolist()}.")
    if len(found) < 2:
        raise ValueError(
            f"Only the stage {', '.join(map(str, found))} is in y, one class; a stager needs "
            "at least two. Is this fold empty of the others? classes='aasm' fixes five columns."
        )
    return found


def _check_spelling(y, names):
    """Find slips where names alone tell the classes: each would be a class of its own."""
    scheme = max(SCHEMES, key=lambda scheme: np.isin(names, SCHEMES[scheme]).sum())
    known = np.isin(names, SCHEMES[scheme])
    stages = {name.casefold(): name for name in SCHEMES[scheme]} if known.any() else {}
    slips, others = [], []
    for name in names[~known].tolist():
        unscored = stage_of_text(name) == UNSCORED
        stage = UNSCORED_NAME if unscored else stages.get(name.strip().casefold())
        if stage is not None:
            slips.append(f"{name!r} instead of {stage!r}")
        others.append(f"{name!r} ({np.sum(y == name)} epochs)")
    if slips:
        raise ValueError(
            f"y holds {', '.join(slips)}. Mend the spelling; if these are classes of "
            "their own, list all labels: classes=[...]."
        )
    # One name alone may be shared by chance: "W" and "S" are wake and sleep.
    if others and known.sum() > 1:
        warnings.warn(
            f"y holds {', '.join(others)} beside stages of the scheme {scheme!r} "
            f"({', '.join(SCHEMES[scheme])}), to be learned as classes of their own. If "
            f"they are slips, mend them, and give classes={scheme!r}, which finds them; if "
            "not, list all labels: classes=[...].",
            stacklevel=3,
        )


def _advice(unknown):
    """Say what to do about labels that are no classes."""
    if all(label.lstrip("-").isdigit() for label in unknown):
        return (
            "Merge stages with skleepkd.stages.to_scheme, or name another scheme "
            f"({', '.join(SCHEMES)})."
        )
    if all(stage_of_text(label) is not None for label in unknown):
        return (
            "[skleepkd.stages.stage_of_text(text) for text in y] are the AASM codes of such "
            "texts; skleepkd.stages.to_scheme merges codes."
        )
    return (
        "Mend the spelling, write '?' where nobody scored, name another scheme "
        f"({', '.join(SCHEMES)}), or list all labels: classes=[...]."
    )


def encode(y, classes):
    """Codes of labels that are all among ``classes``, or -1 where unscored."""
    known = np.isin(y, classes)
    unknown = ~(known | is_unscored(y))
    if unknown.any():
        raise ValueError(
            f"Unknown stage {y[unknown][0]}; the classes are {classes.tolist()}."
        )
    order = np.argsort(classes)
    codes = order[np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)]
    codes[~known] = UNSCORED
    return codes


def class_weights(class_weight, codes, classes):
    """Weights of the classes in the cross-entropy, (n_classes,) float32, or None.

    "balanced" gives ``n_scored / (n_classes * count)`` as scikit-learn does (1 for a class
    that does not occur); a dict names classes, the others weigh 1.
    """
    if class_weight is None:
        return None
    weights = np.ones(len(classes), dtype=np.float32)
    if isinstance(class_weight, dict):
        labels = classes.tolist()
        for label, weight in class_weight.items():
            if label not in labels:
                raise ValueError(f"class_weight names {label!r}; the classes are {labels}.")
            weights[labels.index(label)] = weight
        return weights
    if not isinstance(class_weight, str) or class_weight != "balanced":
        raise ValueError(
            f"class_weight is None, 'balanced' or a dict; given {class_weight!r}."
        )
    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    seen = counts > 0
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights


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
        super().__init__(weight, ignore_index=UNSCORED, label_smoothing=label_smoothing)

    def forward(self, logits, y):
        """Return the loss of logits (batch, n_classes, ...) and codes (batch, ...)."""
        total = F.cross_entropy(
            logits,
            y,
            self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        scored = y != self.ignore_index
        if self.weight is None:
            return total / scored.sum().clamp(min=1)
        count = torch.where(scored, self.weight[y.clamp(min=0)], 0.0).sum()
        return total / torch.where(count > 0, count, torch.ones_like(count))
