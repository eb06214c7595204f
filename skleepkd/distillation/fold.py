"""Teachers on their way to be fitted, inside the fold, on the rows that their student has."""

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, check_memory, has_fit_parameter

from skleepkd.distillation.teacher import (
    as_ensemble,
    final_stager,
    is_assistant,
    is_frozen,
    teacher_input,
    transformed,
)
from skleepkd.epochs.checks import check_signal
from skleepkd.memory import key_of
from skleepkd.pipelines import split_pipeline
from skleepkd.stages import left_unscored


def begin_teacher(teacher, pair, y, held_out, seed, **options):
    """Bring a teacher, or several, on the way to be fitted to a student's training rows."""
    ensemble = as_ensemble(teacher)
    if ensemble is not None:
        return TeachersInFold(ensemble, pair, y, held_out, seed, **options)
    seen = pair if is_assistant(teacher) else pair.source_epochs
    return TeacherInFold(teacher, seen, y, held_out, seed, **options)


class TeachersInFold:
    """Several teachers on their way to be fitted."""

    def __init__(self, ensemble, pair, y, held_out, seed, **options):
        self.estimator = clone(ensemble)
        # Each has a seed of its own, the first the one that it would have alone.
        self.teachers = [
            begin_teacher(one, pair, y, held_out, seed + number, **options)
            for number, one in enumerate(ensemble.teachers)
        ]

    def fit(self, memory=None):
        """Return the ensemble with its teachers fitted, each as it would be alone."""
        self.estimator.teachers_ = [one.fit(memory) for one in self.teachers]
        return self.estimator


class TeacherInFold:
    """A teacher on its way to be fitted: cloned, and its network built, so that faults show."""

    def __init__(
        self, teacher, source, y, held_out, seed, checkpoint=None, memory=None, **params
    ):
        self.source, self.y, self.held_out = source, y, held_out
        self.training = None
        self.estimator = teacher
        if is_frozen(teacher):
            check_is_fitted(teacher)
            return
        self.estimator = clone_for_student(teacher, held_out, seed, checkpoint, memory)
        stager = final_stager(self.estimator)
        if stager is None:
            return
        stager.set_params(**params)
        if stager._check_parameters(go_on=False) is not None and not source.has_source:
            raise ValueError(
                f"A {type(stager).__name__} as teacher would need a source of its own, beside its "
                "target, which is the source here. Fit it first, and give FrozenEstimator(it)."
            )
        steps, _ = split_pipeline(self.estimator)
        if steps:
            # By number: a Pipeline refuses the names of inner pipelines' steps.
            steps = [(str(number), step) for number, (_, step) in enumerate(steps)]
            Pipeline(steps).fit(*self._rows_to_fit(stager.classes))
        seen = transformed(self.estimator, source)
        if steps:
            check_signal(seen, "target", "source, as the teacher's steps transform it,")
        self.training = stager.begin_fit(seen, y)

    def _rows_to_fit(self, classes=None):
        """Return what is scored, of subjects who are not held out, and its labels."""
        rows = ~left_unscored(self.y, classes)
        if not rows.any():  # an assistant may learn without a label
            rows = ~rows
        if len(self.held_out):
            rows &= ~np.isin(self.source.subject, self.held_out)
        return self.source[rows], self.y[rows]

    def fit(self, memory=None):
        """Return the fitted teacher; ``memory`` keeps it for equal parameters and data."""
        if is_frozen(self.estimator):
            return self.estimator
        if memory is None:
            return _fit(None, self)
        key = key_of(self.estimator, self.source, self.y, self.held_out)
        return check_memory(memory).cache(_fit, ignore=["teacher"])(key, self)


def _fit(key, teacher):
    """Fit; ``key`` stands for the teacher in the cache."""
    if teacher.training is not None:
        final_stager(teacher.estimator).end_fit(teacher.training)
        return teacher.estimator
    source, y = teacher._rows_to_fit()
    options = {}
    if source.subject is not None and has_fit_parameter(teacher.estimator, "groups"):
        options = {"groups": source.subject}
    return teacher.estimator.fit(teacher_input(teacher.estimator, source), y, **options)


def clone_for_student(teacher, held_out, seed, checkpoint, memory):
    """Clone a teacher, and set what the student chooses for it."""
    teacher = clone(teacher)
    stager = final_stager(teacher)
    if stager is not None:
        stager.set_params(validation=tuple(held_out.tolist()))
        for name, value in {"checkpoint": checkpoint, "memory": memory}.items():
            if value is not None and getattr(stager, name, value) is None:
                stager.set_params(**{name: value})
    unset = []
    for name, value in teacher.get_params().items():
        path = name.split("__")
        # An assistant draws the seed of its own teacher.
        is_own = stager is None or "teacher" not in path
        if value is None and path[-1] == "random_state" and is_own:
            unset.append(name)
    return teacher.set_params(**dict.fromkeys(unset, seed))
