"""Mean teacher: a moving average of the student teaches it on unscored epochs."""

from functools import partial

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skleepkd.distillation.offline import Offline
from skleepkd.distillation.schedules import number_of, shares, value_at
from skleepkd.networks.build import uncompiled

#: The logits of the average, as a batch carries them.
_AVERAGE = "average_output"


def _move(decay, averages, values, n_steps):
    get_ema_multi_avg_fn(decay)(averages, values, n_steps)


class MeanTeacher(Offline):
    """A moving average of the student teaches it on epochs that nobody scored.

    After each training step the average moves a little towards the student. On the unscored
    epochs of a batch the squared distance between the probabilities of the two, summed over
    classes and averaged over epochs, joins the loss, times ``weight`` (in ``history_``:
    ``train_consistency_loss``). The two see the same signal; they differ by dropout and by
    what the last steps brought.

    With ``teacher=None`` the student learns by its labels and its average alone, and ``alpha``
    has no effect. Another teacher, fitted before as in offline distillation, teaches by
    ``alpha`` and by features.

    Parameters
    ----------
    decay : float, default=0.99
        Share of the average that stays at each training step, from 0 to below 1.
    weight : float or callable, default=1.0
        Weight of the term, or a function of the share of training done, such as
        :class:`~skleepkd.distillation.WarmUp`.
    predicts : {"student", "average"}, default="student"
        Whose weights the fitted stager has. The pass is chosen by the student's kappa.

    Attributes
    ----------
    average_ : torch.optim.swa_utils.AveragedModel
        The average.

    References
    ----------
    Tarvainen, A. and Valpola, H. (2017). Mean teachers are better role models, section 2.

    Examples
    --------
    >>> from skleepkd import DistilledSleepStager
    >>> from skleepkd.distillation import MeanTeacher, WarmUp
    >>> average = MeanTeacher(decay=0.95, weight=WarmUp(10.0))
    >>> student = DistilledSleepStager(None, "LogPowerNet", strategy=average)
    """

    def __init__(self, decay=0.99, weight=1.0, predicts="student"):
        self.decay = decay
        self.weight = weight
        self.predicts = predicts

    def check(self, student):
        """Refuse parameters out of range, and a teacher of whom nothing would be learned."""
        if not 0 <= number_of(self.decay) < 1:
            raise ValueError(f"decay is a share from 0 to below 1; given {self.decay!r}.")
        if self.predicts not in ("student", "average"):
            raise ValueError(
                f"predicts is 'student' or 'average'; given {self.predicts!r}."
            )
        for share in shares(student.max_epochs):
            value_at("weight", self.weight, share)
        if student.teacher is not None:
            super().check(student)

    def prepare(self, student, pair, y):
        """Begin the average at the student; return what another teacher computes."""
        average = AveragedModel(
            uncompiled(student.module_),
            multi_avg_fn=partial(_move, self.decay),  # can be pickled
            use_buffers=True,
        )
        self.average_ = average.requires_grad_(False).eval()
        return {} if student.teacher_ is None else super().prepare(student, pair, y)

    def steps(self, student, pair, y):
        """Yield one step; after it the student may take the weights of the average."""
        yield from super().steps(student, pair, y)
        if self.predicts == "average":
            uncompiled(student.module_).load_state_dict(self.average_.module.state_dict())

    def before_step(self, student, batch, training):
        """Add the logits of the average to a training batch with unscored epochs."""
        x, y = batch
        if not (training and self.weight and (y < 0).any()):
            return batch
        with torch.no_grad(), student.autocasting():
            logits = self.average_(x["target"].to(student.device))
        return {**x, _AVERAGE: logits.float()}, y

    def further_terms(self, student, logits, x, y):
        """Return the squared distance of the probabilities on unscored epochs."""
        if _AVERAGE not in x:
            return {}
        distance = (logits.softmax(dim=1) - x[_AVERAGE].softmax(dim=1)).square().sum(dim=1)
        term = distance[y.to(distance.device) < 0].mean()
        return {"consistency_loss": (value_at("weight", self.weight, student.share_), term)}

    def after_step(self, student):
        """Move the average towards the student."""
        self.average_.update_parameters(uncompiled(student.module_))

    def kept_modules(self, student):
        """Return the average: that of the best pass is kept with the student's weights."""
        return [self.average_]
