"""Offline distillation: the teacher is fitted, then frozen, and its output computed once."""

import numpy as np
import torch

from skleepkd.distillation.features import OUTPUT
from skleepkd.distillation.strategy import (
    TEACHER_FEATURE,
    TEACHER_OUTPUT,
    PerWindow,
    Strategy,
    needs_something_to_learn,
)
from skleepkd.distillation.teacher import (
    final_stager,
    log_probabilities,
    teacher_features,
    teacher_output,
    transformed,
)

#: The statistics of standardised features are learned on about so many training rows.
ROWS_FOR_STATISTICS = 4096


class Offline(Strategy):
    """The teacher is fitted, then frozen; its features and output are computed once.

    References
    ----------
    Anandakumar et al. (2022), section 2.3.1; Joshi et al. (2021).
    """

    def check(self, student):
        """Refuse a student that would learn nothing of its teacher."""
        needs_something_to_learn(student)

    def prepare(self, student, pair, y):
        """Return what the teacher computes for the training rows."""
        return columns_of_teacher(student, pair, y, features=student.uses_features)


def columns_of_teacher(student, pair, y, *, features):
    """Compute a fitted teacher's output, where it has a weight, and features, if wanted."""
    source, teacher = pair.source_epochs, student.teacher_
    # Features belong to windows, the output of all of them to an epoch; else both are
    # computed at once.
    at_once = features and student.alpha and student.sequence_length_ == 1
    columns, arrays = {}, []
    if at_once:
        stager = final_stager(teacher)
        nonlinearity = stager._get_predict_nonlinearity()
        *arrays, probabilities = _features(student, source, y, [OUTPUT], [nonlinearity])
        output = log_probabilities(probabilities, teacher.classes_, student.classes_)
        columns[TEACHER_OUTPUT] = output
    elif student.alpha:
        columns[TEACHER_OUTPUT] = teacher_output(teacher, source, student.classes_)
    if features and not at_once:
        arrays = _features(student, source, y)
    if features:
        _learn_statistics(student, pair, y, arrays)
    for number, array in enumerate(arrays):
        column = PerWindow(array) if student.sequence_length_ > 1 else array
        columns[TEACHER_FEATURE.format(number)] = column
    return columns


def _features(student, source, y, more_layers=(), more_summaries=()):
    """Features of the matched layers (and of more), summarised by their losses."""
    stager = final_stager(student.teacher_)
    matched = student.matched_layers
    dataset = stager.make_dataset(transformed(student.teacher_, source))
    if student.sequence_length_ > 1:
        dataset = stager.make_dataset(dataset.pair, windows=student.windows_of(source, y))
    return teacher_features(
        stager,
        dataset,
        [*(layer.teacher_layer for layer in matched), *more_layers],
        [*(layer.loss.summarise for layer in matched), *more_summaries],
    )


def _learn_statistics(student, pair, y, features):
    """Show each loss the teacher's features of (some of) the training rows."""
    validates = student.validates(pair)
    if student.sequence_length_ > 1:
        validates = validates[student.windows_of(pair, y)[:, 0]]
    rows = np.flatnonzero(~validates)
    some = rows[:: max(1, len(rows) // ROWS_FOR_STATISTICS)]
    for layer, array in zip(student.matched_layers, features, strict=True):
        values = torch.from_numpy(array[some].astype(np.float32))
        layer.loss.learn_statistics(values.to(student.device))
