"""Two-step distillation: the student first learns the teacher's features, then the stages."""

import torch

from skleepkd.distillation.offline import columns_of_teacher
from skleepkd.distillation.strategy import Step, Strategy, needs_features
from skleepkd.distillation.teacher import final_stager, network_spec, seen_of
from skleepkd.memory import key_of, source_of
from skleepkd.networks.build import uncompiled

#: Parameters that the first step does not depend on; of the teacher its weights tell.
_LATER = {"alpha", "feature_weight", "class_weight", "classes", "max_epochs", "output_loss"}
_LATER |= {"balanced_batches", "calibrate"}
_LATER |= {"teacher", "strategy", "memory", "verbose", "device", "checkpoint"}


class TwoStep(Strategy):
    """The student learns the fitted teacher's features without any label, then the stages.

    No label takes part in the first step, so students that differ in what comes after share
    it through ``memory``. The second step learns all but the features.

    References
    ----------
    Joshi et al. (2021), attention transfer.
    """

    uses_features = True
    ends_without_features = True

    def check(self, student):
        """Refuse a student without features to learn first."""
        needs_features(student, "strategy='two-step'")
        if not student.uses_features:
            raise ValueError(
                "strategy='two-step' learns features first: give a feature_loss and a "
                "feature_weight that is not 0, or strategy='offline'."
            )

    def prepare(self, student, pair, y):
        """Return what the teacher computes; of features only what the first step learns."""
        return columns_of_teacher(student, pair, y, features=not student.history)

    def steps(self, student, pair, y):
        """Yield the features' step, unless a training goes on, and the stages' step."""
        if not student.history:
            passes = student.feature_max_epochs
            key = None if student.memory is None else _key(student, pair, y)
            yield Step("features", stages=False, max_epochs=passes, key=key)
        yield Step("stages", features=False)


def _key(student, pair, y):
    """Digest of everything that the first step depends on but its passes."""
    params = student.get_params(deep=False)
    teacher = final_stager(student.teacher_)
    source = seen_of(student.teacher_, pair)
    stagers = [student] if teacher is None else [student, teacher]
    own = {n: value for n, value in params.items() if n.split("__")[0] not in _LATER}
    return key_of(
        own,
        [source_of(network_spec(stager)[0]) for stager in stagers],
        student.teacher_ if teacher is None else uncompiled(teacher.module_).state_dict(),
        uncompiled(student.module_).state_dict(),
        (pair.target_epochs, source.target_epochs, student.held_out_, y >= 0),
        torch.initial_seed(),
    )
