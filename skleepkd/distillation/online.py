"""Online distillation: teacher and student are trained together, batch by batch."""

import numpy as np
from torch.utils.data import DataLoader

from skleepkd.distillation.features import capture_of
from skleepkd.distillation.strategy import (
    TEACHER_FEATURE,
    TEACHER_OUTPUT,
    Strategy,
    needs_something_to_learn,
    needs_stager,
    note_term,
)
from skleepkd.distillation.teacher import final_stager, is_assistant, is_frozen, seen_of

#: The teacher's signal, as a batch carries it.
_SOURCE = "source"


class Online(Strategy):
    """The teacher takes its own step on each batch, then the student learns from it.

    Passes and batches are the student's, optimiser and class weights the teacher's own. The
    teacher learns by its own cross-entropy alone; the student's losses send it no gradient.

    Parameters
    ----------
    augment_source : bool, default=False
        Whether the augmentations of ``iterator_train`` change the source as they change the
        target: the same epochs, by the same random parameters. Both are given as one signal, the
        source's channels behind the target's, so transforms that mix, drop or swap channels
        are refused. By default the teacher sees a clean source. (A frozen or offline
        teacher always does: what it puts out is computed once.)

    References
    ----------
    Anandakumar et al. (2022), section 2.3.2.

    Examples
    --------
    >>> from braindecode.augmentation import AugmentedDataLoader, TimeReverse
    >>> from skleepkd import DistilledSleepStager, SleepStager
    >>> from skleepkd.distillation import Online
    >>> student = DistilledSleepStager(
    ...     SleepStager("UTime"), strategy=Online(augment_source=True),
    ...     iterator_train=AugmentedDataLoader, iterator_train__transforms=[TimeReverse(0.5)],
    ... )
    """

    fits_teacher_first = False
    uses_features = True
    goes_on = False

    def __init__(self, augment_source=False):
        self.augment_source = augment_source

    @property
    def augmented(self):
        """Columns of a batch that augmentations change as they change the target."""
        return (_SOURCE,) if self.augment_source else ()

    def check(self, student):
        """Refuse a teacher that is no stager or is fitted already."""
        needs_stager(student, "strategy='online'")
        needs_something_to_learn(student)
        teacher, begins = student.teacher, student.start_from_teacher is True
        refused = {
            "An online teacher begins anew, so warm_start must be False.": student.warm_start,
            "An online teacher is trained with the student: give the stager itself, not a "
            "FrozenEstimator, or strategy='offline'.": is_frozen(teacher),
            "An assistant, a student as teacher, is trained before its student and not "
            "together with it: give strategy='offline'.": is_assistant(teacher),
            "start_from_teacher needs a fitted teacher: strategy='offline'.": begins,
            "An online teacher's logits are those of its training: leave its calibrate "
            "out.": final_stager(teacher).calibrate,
        }
        for message, given in refused.items():
            if given:
                raise ValueError(message)
        if self.augment_source:
            _check_augmentations(student)

    def teacher_params(self, student, classes):
        """Give the teacher the student's classes; its kept weights are of the student's pass."""
        params = {"callbacks__best_weights": None}
        if final_stager(student.teacher).classes is None:
            params["classes"] = classes.tolist()
        return params

    def prepare(self, student, pair, y):
        """Return the source as the teacher sees it."""
        if not np.array_equal(final_stager(student.teacher_).classes_, student.classes_):
            raise ValueError(
                "An online teacher has its student's classes: leave its own out."
            )
        source = seen_of(student.teacher_, pair)
        rates = pair.sfreq["target"], source.sfreq["target"]
        if self.augment_source and (
            source.shape[2:] != pair.shape[2:] or (all(rates) and rates[0] != rates[1])
        ):
            raise ValueError(
                "augment_source changes both signals at the same times: they need as many "
                f"samples an epoch, at one rate. The target has {pair.shape[2:]} at "
                f"{rates[0]} Hz, what the teacher sees {source.shape[2:]} at {rates[1]} Hz. "
                "Resample one of them, or give strategy='online'."
            )
        return {_SOURCE: source}

    def before_step(self, student, batch, training):
        """Let the teacher take its step; what it computed before it joins the batch."""
        x, y = batch
        stager = final_stager(student.teacher_)
        layers = [layer.teacher_layer for layer in student.matched_layers]
        loss, logits, features = _step(stager, x[_SOURCE], y, layers, training)
        note_term(student, "teacher_loss", loss, training, int((y >= 0).sum()))
        x = {"target": x["target"]}
        if student.alpha:
            x[TEACHER_OUTPUT] = logits
        for number, layer in enumerate(student.matched_layers):
            name = TEACHER_FEATURE.format(number)
            x[name] = layer.loss.summarise(features[layer.teacher_layer].detach())
        return x, y

    def trained_nets(self, student):
        """Return the teacher: resumed, and kept at the best pass, with its student."""
        return [final_stager(student.teacher_)]


def _check_augmentations(student):
    """Refuse a loader that augments nothing, and transforms that mix channels."""
    given = student.get_params_for("iterator_train")
    if student.iterator_train is DataLoader and "collate_fn" not in given:
        raise ValueError(
            "augment_source=True, and nothing is augmented: give iterator_train="
            "AugmentedDataLoader and iterator_train__transforms=[...], of braindecode."
        )
    transforms = given.get("transforms") or ()
    transforms = transforms if isinstance(transforms, list | tuple) else [transforms]
    names = [type(transform).__name__ for transform in transforms]
    mixing = [name for name in names if name.startswith(("Channels", "Sensors"))]
    if mixing:
        raise ValueError(
            f"{', '.join(mixing)} would take the source's channels for the target's: leave it "
            "out, or augment the target alone, strategy='online'."
        )


def _step(stager, source, y, layers, training):
    """Take a teacher's own step; return its loss, logits and features from before it."""
    batch = ({"target": source}, y)
    stager.notify("on_batch_begin", batch=batch, training=training)
    with capture_of(stager, layers) as features:
        step = (stager.train_step if training else stager.validation_step)(batch)
    prefix = "train" if training else "valid"
    stager.history.record_batch(f"{prefix}_loss", step["loss"].item())
    stager.history.record_batch(f"{prefix}_batch_size", len(y))
    stager.notify("on_batch_end", batch=batch, training=training, **step)
    return step["loss"].detach(), step["y_pred"].detach(), features
