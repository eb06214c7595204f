"""Several teachers as one: what they predict is averaged, or weighted by confidence."""

import numpy as np
from scipy.stats import entropy
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from skleepkd.pipelines import final_estimator


class TeacherEnsemble(ClassifierMixin, BaseEstimator):
    """Several teachers as one classifier: their probabilities are averaged.

    ``DistilledSleepStager(teacher=[a, b])`` means ``TeacherEnsemble([a, b])``. The student
    fits each of them as it would fit it alone: to the source of its training rows, or, of an
    assistant (a student), to the pair; what is frozen is used as it is. By itself the
    ensemble gives all of them the same X.

    Parameters
    ----------
    teachers : list of estimators
        Each of them what a student takes for its teacher. In ``set_params`` and grids they
        have their numbers as names: ``1__lr``, or ``teacher__1__lr`` of a student.
    weighting : {"mean", "confidence"}, default="mean"
        "mean": all count alike (soft voting). "confidence": on each epoch a teacher counts
        in proportion to ``1 - H(p) / log(n_classes)``, H being the entropy of its
        probabilities p: 1 where it is certain, 0 where it takes all stages for equally
        probable. No label is asked, so that it serves unscored nights. That the less
        uncertain teacher counts more is the idea of [1]_.

    Attributes
    ----------
    teachers_ : list of estimators
        The fitted ones, in the order of ``teachers``.
    classes_ : ndarray of shape (n_classes,)
        All labels that one of them knows, sorted. What a teacher does not know has
        probability 0 from it.

    References
    ----------
    .. [1] Kwon, K., Na, H., Lee, H. and Kim, N. S. (2020). Adaptive knowledge distillation
       based on entropy. ICASSP, 7409-7413.

    Examples
    --------
    >>> from skleepkd import DistilledSleepStager, SleepStager
    >>> from skleepkd.distillation import TeacherEnsemble
    >>> teachers = [SleepStager("UTime"), SleepStager("LogPowerNet")]
    >>> student = DistilledSleepStager(
    ...     TeacherEnsemble(teachers, weighting="confidence"),
    ...     module="LogPowerNet", feature_loss=None, alpha=0.5,
    ... )
    >>> student.set_params(teacher__1__max_epochs=5).teacher.teachers[1].max_epochs
    5
    """

    def __init__(self, teachers, *, weighting="mean"):
        self.teachers = teachers
        self.weighting = weighting

    def fit(self, X, y):
        """Fit a clone of each teacher that is not frozen.

        Parameters
        ----------
        X : PairedEpochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts, as all teachers take them: ``X.source_epochs`` of a pair.
        y : array-like of shape (n_epochs,)
            Stages.

        Returns
        -------
        TeacherEnsemble

        Raises
        ------
        ValueError
            If there is no teacher or no such weighting, or teachers are of several schemes.
        """
        check_ensemble(self)
        self.teachers_ = [clone(teacher).fit(X, y) for teacher in self.teachers]
        return self

    def predict_proba(self, X):
        """Predict the probability of each stage.

        From X, as for :meth:`fit`, an ndarray of shape (n_epochs, n_classes) in the order of
        ``classes_``.
        """
        check_is_fitted(self)
        return combine(self, [teacher.predict_proba(X) for teacher in members(self)])

    def predict(self, X):
        """Predict the most probable stage of each epoch, (n_epochs,), of X as for :meth:`fit`."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        check_is_fitted(self)
        return all_labels([teacher.classes_ for teacher in members(self)])

    def __sklearn_is_fitted__(self):
        frozen = (isinstance(teacher, FrozenEstimator) for teacher in self.teachers)
        return hasattr(self, "teachers_") or all(frozen)

    def get_params(self, deep=True):
        """Return the parameters; with ``deep`` those of each teacher by its number."""
        params = super().get_params(deep=deep)
        for number, teacher in enumerate(self.teachers if deep else ()):
            params[str(number)] = teacher
            if hasattr(teacher, "get_params"):
                inner = teacher.get_params().items()
                params |= {f"{number}__{name}": value for name, value in inner}
        return params

    def set_params(self, **params):
        """Set parameters; ``1`` is the second teacher and ``1__lr`` its learning rate."""
        self.teachers = params.pop("teachers", self.teachers)
        numbered = [(str(n), teacher) for n, teacher in enumerate(self.teachers)]
        if any(name in params for name, _ in numbered):
            self.teachers = [params.pop(name, teacher) for name, teacher in numbered]
        return super().set_params(**params)


def check_ensemble(ensemble):
    """Refuse an ensemble of nobody, or with a weighting that is not known."""
    if not isinstance(ensemble.teachers, list | tuple) or not len(ensemble.teachers):
        raise ValueError(
            "Several teachers are a list of at least one, [SleepStager(...), ...]; given "
            f"{ensemble.teachers!r}."
        )
    if ensemble.weighting not in _WEIGHTS:
        raise ValueError(
            f"Unknown weighting {ensemble.weighting!r}; the weightings are "
            f"{', '.join(map(repr, _WEIGHTS))}."
        )
    given = [getattr(final_estimator(one), "classes", None) for one in ensemble.teachers]
    schemes = {classes for classes in given if isinstance(classes, str)}
    if len(schemes) > 1:
        raise ValueError(
            f"The teachers' classes are of the schemes {', '.join(sorted(schemes))}, whose codes "
            "mean other stages. Give all of them the same classes=."
        )


def all_labels(found):
    """Labels that one of several classifiers knows, sorted; all are codes, or all names."""
    found = [np.asarray(classes) for classes in found]
    if len({classes.dtype.kind in "iuf" for classes in found}) > 1:
        raise ValueError(
            "Of several teachers some predict codes and others names, which are never matched: "
            f"{[classes.tolist() for classes in found]}. Fit all of them to one kind of labels."
        )
    return np.unique(np.concatenate(found))


def members(ensemble):
    """Return the fitted teachers of an ensemble; those that it was given where none is."""
    return getattr(ensemble, "teachers_", ensemble.teachers)


def combine(ensemble, probabilities):
    """Combine what each teacher predicts, (n_epochs, its classes), to (n_epochs, classes)."""
    classes, dtype = ensemble.classes_, np.result_type(np.float32, *probabilities)
    # (n_teachers, n_epochs, n_classes)
    joined = np.zeros((len(probabilities), len(probabilities[0]), len(classes)), dtype)
    for own, teacher, given in zip(joined, members(ensemble), probabilities, strict=True):
        own[:, np.searchsorted(classes, teacher.classes_)] = given
    weight = _WEIGHTS[ensemble.weighting](joined)  # (n_teachers, n_epochs)
    weight = (weight / weight.sum(axis=0)).astype(dtype)
    return (weight[..., None] * joined).sum(axis=0)


def _alike(joined):
    return np.ones(joined.shape[:2])


def _confidence(joined):
    certain = 1 - entropy(joined, axis=2) / np.log(max(2, joined.shape[2]))
    # Where nobody prefers a stage the teachers count alike.
    return certain.clip(min=0) + 1e-12


_WEIGHTS = {"mean": _alike, "confidence": _confidence}
