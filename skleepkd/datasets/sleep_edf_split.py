"""The twenty folds of Sleep-EDF and the subjects that validate in each."""

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut

#: Subjects that validate in each of Phan et al.'s folds, counted from 1. Fold k tests
#: subject k.
_VALIDATION = (
    (3, 10, 11, 14),
    (4, 17, 18, 19),
    (1, 13, 15, 17),
    (9, 11, 15, 20),
    (9, 11, 13, 18),
    (9, 14, 17, 20),
    (1, 3, 10, 17),
    (6, 15, 18, 20),
    (3, 11, 12, 17),
    (5, 13, 14, 19),
    (1, 3, 4, 10),
    (8, 9, 11, 19),
    (1, 8, 14, 18),
    (1, 3, 16, 20),
    (1, 8, 9, 14),
    (3, 5, 6, 14),
    (3, 10, 14, 16),
    (2, 6, 9, 15),
    (6, 13, 15, 20),
    (1, 4, 7, 18),
)

#: The first twenty persons of the Sleep Cassette study, whom the paper uses.
_PERSONS = tuple(f"sleep-edf-SC4{number:02d}" for number in range(len(_VALIDATION)))


class SleepEdfFolds(LeaveOneGroupOut):
    """Phan et al.'s (2019) twenty folds of Sleep-EDF: one tests, four validate, 15 train.

    One object serves twice. As ``cv=`` it leaves out one person after the other, in the
    paper's order. As ``validation=`` of the estimators it is called with the training
    subjects and answers with the four who validate: the fold is known by the person who
    is not there.

    The persons are those of :func:`load_sleep_edf`, "sleep-edf-SC400" to
    "sleep-edf-SC419". All twenty must be there.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd.datasets import SleepEdfFolds
    >>> folds = SleepEdfFolds()
    >>> persons = np.array([f"sleep-edf-SC4{number:02d}" for number in range(20)])
    >>> train, test = next(folds.split(persons, groups=persons))
    >>> persons[test].tolist()
    ['sleep-edf-SC400']
    >>> folds(persons[train])
    ['sleep-edf-SC402', 'sleep-edf-SC409', 'sleep-edf-SC410', 'sleep-edf-SC413']

    In a comparison::

        stager = SleepStager("SeqSleepNet", sequence_length=20, validation=folds)
        cross_validate(stager, cohort.X, cohort.y, groups=cohort.groups, cv=folds)
    """

    def split(self, X, y=None, groups=None):
        """Yield the rows of the training set and of the test set, fold by fold.

        Parameters
        ----------
        X : array-like of shape (n_epochs, ...)
            Epochs.
        y : object
            Ignored.
        groups : array-like of str, shape (n_epochs,)
            The persons.

        Yields
        ------
        train, test : ndarray of int
            Numbers of rows.

        Raises
        ------
        ValueError
            If the persons are not the twenty.
        """
        if groups is None:
            raise ValueError("The folds are made of persons: give groups=cohort.groups.")
        given = set(np.asarray(groups).tolist())
        if given != set(_PERSONS):
            raise ValueError(
                f"The folds are made of the 20 persons {_PERSONS[0]} to {_PERSONS[-1]}; "
                + _difference(given)
            )
        return super().split(X, y, groups)

    def __call__(self, subjects):
        """Return the subjects to hold out of the training subjects.

        Raises
        ------
        ValueError
            If the training subjects are not the twenty but one.
        """
        given = set(np.asarray(subjects).tolist())
        left_out = [place for place, name in enumerate(_PERSONS) if name not in given]
        if len(left_out) != 1 or not given <= set(_PERSONS):
            raise ValueError(
                "A fold is known by the one of 20 persons who is not in the training rows; "
                + _difference(given)
            )
        return [_PERSONS[number - 1] for number in _VALIDATION[left_out[0]]]


def _difference(given):
    """Say who is missing and who is a stranger."""
    missing = [name for name in _PERSONS if name not in given]
    strangers = sorted(map(str, given - set(_PERSONS)))
    return f"missing are {missing or 'none'}, strangers are {strangers or 'none'}."
