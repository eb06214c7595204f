"""What a teacher does for its student: the hooks that every strategy overrides."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from torch import nn

from skleepkd.distillation.objective import feature_loss_of
from skleepkd.distillation.teacher import as_ensemble, final_stager
from skleepkd.networks.build import uncompiled
from skleepkd.pipelines import final_estimator

#: What a batch carries of the teacher: logarithms of its probabilities, shape (batch,
#: n_classes), and the summary of each matched layer's features.
TEACHER_OUTPUT = "teacher_output"
TEACHER_FEATURE = "teacher_feature_{}"


@dataclass(frozen=True)
class Step:
    """A part of a training: what is learned, and for how many passes.

    Parameters
    ----------
    name : str, default=""
        Tells the step from the others of its training.
    stages : bool, default=True
        Whether the student learns the stages: cross-entropy and the teacher's output.
        The best pass is then the one with the highest kappa, else with the lowest loss.
    features : bool, default=True
        Whether it learns the teacher's features.
    max_epochs : int or None, default=None
        Passes; None for the student's ``max_epochs``.
    key : str or None, default=None
        Under which the student's ``memory`` keeps what is learned, if anything.
    """

    name: str = ""
    stages: bool = True
    features: bool = True
    max_epochs: int | None = None
    key: str | None = None


class Strategy(BaseEstimator):
    """What a teacher does for its student: nothing. Override what you need.

    ``DistilledSleepStager(teacher, strategy=MyStrategy())`` fits a copy of the strategy,
    ``student.strategy_``: ``__init__`` stores parameters alone, and what a fit learns goes
    into attributes that end in an underscore. Of the student the hooks may use its
    parameters, ``module_``, ``teacher_``, ``matched_layers_`` (one for each pair of layers
    whose features are compared), ``classes_``, ``device`` and, while it is trained,
    ``share_``, how much of the step is done, from 0 to 1.
    """

    #: Whether the teacher is fitted before its student is trained.
    fits_teacher_first = True
    #: Whether the student compares features where ``feature_loss`` is "auto".
    uses_features = False
    #: Whether its last step leaves the features out, and so needs labels or probabilities.
    ends_without_features = False
    #: Whether ``partial_fit`` can train on.
    goes_on = True
    #: Columns of a batch that augmentations change as they change the target (same times).
    augmented = ()

    def check(self, student):
        """Raise ValueError for parameters of the student that do not go together."""

    def teacher_params(self, student, classes):
        """Return parameters that the clone of a teaching stager takes, as a dict."""
        return {}

    def prepare(self, student, pair, y):
        """Return what joins each row, as a dict of names and arrays.

        Parameters
        ----------
        student : DistilledSleepStager
            Initialised, not trained yet; its ``teacher_`` is fitted, where that comes first.
        pair : PairedEpochs
            The training rows.
        y : ndarray of int64, shape (n_epochs,)
            Codes of their stages, -1 where unscored.

        Returns
        -------
        dict of str to array of shape (n_epochs, ...), PerWindow or PairedEpochs
            Batches carry their rows under these names. ``TEACHER_OUTPUT`` (logarithms of
            probabilities, or logits) takes part in the loss by the student's ``alpha``.
        """
        return {}

    def steps(self, student, pair, y):
        """Yield what is learned, one :class:`Step` after the other.

        Each but the first begins with the best weights of the one before, a fresh optimiser
        and an empty history.
        """
        yield Step()

    def before_step(self, student, batch, training):
        """Return the batch that a training or validation step is given: (dict, codes)."""
        return batch

    def further_terms(self, student, logits, x, y):
        """Return what joins the loss, as a dict of names and pairs (weight, term).

        Parameters
        ----------
        student : DistilledSleepStager
            Its ``share_`` says how much of the training is done, from 0 to 1.
        logits : torch.Tensor of shape (batch, n_classes, ...)
            The student's.
        x : dict of str to torch.Tensor
            The batch, as :meth:`before_step` left it.
        y : torch.Tensor of shape (batch, ...)
            Codes of the stages, -1 where unscored.

        Returns
        -------
        dict of str to (float, torch.Tensor)
            Terms are means over epochs; the history has each under its name.
        """
        return {}

    def after_step(self, student):
        """Do something after each training step, as a moving average would."""

    def after_pass(self, student):
        """Do something after each pass, as a schedule would."""

    def trained_nets(self, student):
        """Return further nets that are trained together with the student."""
        return []

    def kept_modules(self, student):
        """Return further modules whose weights at the best pass are kept with the student's."""
        return []


@dataclass(frozen=True)
class PerWindow:
    """A column of a batch with an entry for each training window of epochs, not for each epoch."""

    values: object


def note_term(net, name, value, training, weight):
    """Add a batch's term of the loss, a mean over ``weight`` epochs, to that of the pass."""
    name = f"{'train' if training else 'valid'}_{name}"
    total, count = net.terms_.get(name, (0.0, 0))
    net.terms_[name] = (total + weight * value.detach(), count + weight)


def needs_stager(student, what):
    """Refuse a teacher that is no stager, where ``what`` needs one."""
    if final_stager(student.teacher) is None:
        raise ValueError(
            f"{what} needs a teacher that is a SleepStager or a Pipeline that ends in one; "
            f"given {type(student.teacher).__name__}. Give strategy='offline' and a module."
        )


def needs_features(student, what):
    """Refuse a teacher without features, where ``what`` compares them."""
    if as_ensemble(student.teacher) is not None:
        raise ValueError(
            f"{what} compares features, and of several teachers the probabilities alone are "
            "combined. Give feature_loss=None, alpha=0.5 and strategy='offline'."
        )
    kind = type(final_estimator(student.teacher))
    if not hasattr(kind, "extract_features"):
        raise ValueError(
            f"{what} needs a teacher that is a SleepStager or has extract_features(X); given "
            f"{kind.__name__}, which has probabilities alone: feature_loss=None, alpha > 0 and "
            "a module."
        )


def needs_something_to_learn(student):
    """Refuse a student that nothing of its teacher would reach."""
    begins = student.start_from_teacher is True
    if feature_loss_of(student) is None and not (student.alpha or begins):
        raise ValueError(
            "Nothing of the teacher would reach the student: no features are compared and "
            "alpha is 0. Give feature_loss= or alpha=, or start_from_teacher=True."
        )


def check_stager(student, stager):
    """Refuse a teaching stager whose classes, network or windows the student cannot follow."""
    by_name = isinstance(stager.classes, str) and isinstance(student.classes, str)
    if by_name and stager.classes != student.classes:
        raise ValueError(
            f"The teacher's classes are {stager.classes!r}, the student's "
            f"{student.classes!r}: their codes mean other stages. Give both the same scheme."
        )
    if isinstance(stager.module, nn.Module) and not (
        student.module or student.start_from_teacher
    ):
        raise ValueError(
            "The teacher's network is an instance, and the student would begin at its weights: "
            "give module=, the network's class, or start_from_teacher=True."
        )
    window_by_window = student.uses_features or not student.strategy_.fits_teacher_first
    if window_by_window and stager.sequence_length_ != student.sequence_length_:
        raise ValueError(
            "Features, and an online teacher, see the student's windows: the teacher's "
            f"sequence_length is {stager.sequence_length_}, the student's "
            f"{student.sequence_length_}. Give both the same, or feature_loss=None, alpha > 0."
        )


def begins_at_teacher(student):
    """Whether a student, whose network is built, begins at its teacher's weights."""
    if student.start_from_teacher != "auto":
        return student.start_from_teacher
    stager = final_stager(student.teacher_)
    if stager is None or not student.strategy_.fits_teacher_first:
        return False
    shapes = [
        {name: value.shape for name, value in uncompiled(net.module_).state_dict().items()}
        for net in (student, stager)
    ]
    return shapes[0] == shapes[1] and np.array_equal(stager.classes_, student.classes_)
