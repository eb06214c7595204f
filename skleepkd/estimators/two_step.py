"""The first of two steps: a student learns its teacher's features and no stage."""

import copy

import torch
from sklearn.utils.validation import check_memory

from skleepkd.distillation.teachers import final_stager, network_spec, transformed
from skleepkd.memory import key_of, source_of
from skleepkd.networks.build import uncompiled

#: Parameters that the first step knows nothing of; of the teacher its weights tell.
_LATER = {
    "teacher",
    "alpha",
    "temperature",
    "class_weight",
    "classes",
    "max_epochs",
    "memory",
    "feature_weight",
    "verbose",
    "device",
    "checkpoint",
}


def learn_features(student, X, y):
    """Let a student learn the features of its teacher alone.

    Its weights become those of the pass with the lowest loss on the subjects who are held
    out (the last pass where there are none). No label takes part, so students that differ
    in what comes after share this step through ``memory``. The optimiser is fresh
    afterwards, and the history empty, so that schedules of the learning rate begin anew.

    Parameters
    ----------
    student : TaughtStager
        Initialised; its ``feature_max_epochs`` is the number of passes.
    X : PairedEpochs
        The pair.
    y : ndarray of int64, shape (n_epochs,)
        Codes of the stages. They say which of the subjects held out are scored.

    Returns
    -------
    list of dict
        The history of this step.
    """
    passes = student.feature_max_epochs
    passes = student.max_epochs if passes is None else passes
    if student.memory is None:
        weights, history = _learn(None, passes, student, X, y)
    else:
        learn = check_memory(student.memory).cache(_learn, ignore=["student", "X", "y"])
        weights, history = learn(_key(student, X, y), passes, student=student, X=X, y=y)
    for module, own in zip(student.trained_modules(), weights, strict=True):
        uncompiled(module).load_state_dict(own)
    student.history.clear()
    student.initialize_optimizer()
    # Whether this step was run or remembered, the next one begins with the same.
    if student.alpha and not hasattr(student, "answers_"):
        student.answers_ = student.ask_for_answers(X.source_epochs)
    torch.manual_seed(torch.initial_seed() + 1)
    return history


def _key(student, X, y):
    """Digest of everything that the first step depends on but its passes."""
    params = student.get_params(deep=False)
    teacher = final_stager(student.teacher_)
    source = transformed(student.teacher_, X.source_epochs)
    own = {name: value for name, value in params.items() if name not in _LATER}
    return key_of(
        own,
        [source_of(network_spec(stager)[0]) for stager in (student, teacher)],
        uncompiled(teacher.module_).state_dict(),
        uncompiled(student.module_).state_dict(),
        (X.target_epochs, source.target_epochs, student.held_out_, y >= 0),
        torch.initial_seed(),
    )


def _learn(about, passes, student, X, y):
    """Train; ``about`` stands for everything else in the cache's key."""
    student.phase_ = "features"
    student.notify("on_train_begin", X=X, y=y)
    student.fit_loop(X, y, epochs=passes)
    student.notify("on_train_end", X=X, y=y)
    weights = [
        {name: value.cpu() for name, value in uncompiled(module).state_dict().items()}
        for module in student.trained_modules()
    ]
    return copy.deepcopy(weights), list(student.history)
