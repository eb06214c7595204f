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
    extracted_features,
    final_stager,
    log_probabilities,
    seen_of,
    teacher_features,
    teacher_output,
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
    teacher, stager = student.teacher_, final_stager(student.teacher_)
    source = seen_of(teacher, pair)
    # Features belong to windows, the output of all of them to an epoch; else both are
    # computed at once.
    windows = student.windows_of(pair, y) if student.sequence_length_ > 1 else None
    at_once = features and student.alpha and windows is None and stager is not None
    columns = {}
    if student.alpha and not at_once:
        columns[TEACHER_OUTPUT] = teacher_output(teacher, source, student.classes_)
    if not features:
        return columns
    layers = [layer.teacher_layer for layer in student.matched_layers]
    summaries = [layer.loss.summarise for layer in student.matched_layers]
    if at_once:
        layers.append(OUTPUT)
        summaries.append(stager._get_predict_nonlinearity())
    if stager is None:
        array = extracted_features(teacher, source)
        # (n_epochs, ...), or (n_windows, length, ...)
        array = torch.from_numpy(array if windows is None else array[windows])
        arrays = [summarise(array).numpy() for summarise in summaries]
    else:
        dataset = stager.make_dataset(source, windows=windows)
        arrays = teacher_features(stager, dataset, layers, summaries)
    if at_once:
        output = log_probabilities(arrays.pop(), teacher.classes_, student.classes_)
        columns[TEACHER_OUTPUT] = output
    _learn_statistics(student, pair, windows, arrays)
    for number, array in enumerate(arrays):
        column = array if windows is None else PerWindow(array)
        columns[TEACHER_FEATURE.format(number)] = column
    return columns


def _learn_statistics(student, pair, windows, features):
    """Show each loss the teacher's features of (some of) the training rows."""
    validates = student.validates(pair)
    if windows is not None:
        validates = validates[windows[:, 0]]
    rows = np.flatnonzero(~validates)
    some = rows[:: max(1, len(rows) // ROWS_FOR_STATISTICS)]
    for layer, array in zip(student.matched_layers, features, strict=True):
        values = torch.from_numpy(array[some].astype(np.float32))
        layer.loss.learn_statistics(values.to(student.device))
