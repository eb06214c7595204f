"""The division of MASS into training, validation and test subjects."""

import re

import numpy as np

#: Recordings in each subset of the complete cohort.
SUBSET_SIZES = {1: 53, 2: 19, 3: 62, 4: 40, 5: 26}

#: Places in the sorted list of a complete subset, counted from 0, of the recordings
#: that Joshi et al.'s code holds out. The rest is for training.
_VALIDATION = {
    1: (6, 8, 14, 34, 43),
    2: (7, 8),
    3: (4, 12, 23, 36, 39, 45),
    4: (0, 14, 17, 28),
    5: (7, 9, 21),
}
_TEST = {
    1: (1, 7, 15, 17, 40, 47),
    2: (0, 3),
    3: (5, 18, 24, 35, 40, 53, 59),
    4: (12, 26, 34, 35),
    5: (1, 2, 22),
}


class MassSplit:
    """Joshi et al.'s (2021) division of MASS: 158 for training, 20, and 22 for the test.

    The paper says 80, 10 and 10 %; these are the recordings that its code draws in each
    subset. Called with the training subjects, as ``validation=`` of the estimators
    does, it answers with those that validate.

    Parameters
    ----------
    subjects : array-like of str
        Persons as :func:`load_mass` names them, each once or more. Of each subset that
        occurs all must be there, as a person's place in the sorted list counts.

    Attributes
    ----------
    train, validation, test : tuple of str
        The persons, sorted.

    Raises
    ------
    ValueError
        If a name is no person of MASS or a subset is incomplete.

    Examples
    --------
    >>> from skleepkd.datasets import MassSplit
    >>> split = MassSplit([f"mass-01-02-{number:04d}" for number in range(1, 20)])
    >>> split.validation, split.test
    (('mass-01-02-0008', 'mass-01-02-0009'), ('mass-01-02-0001', 'mass-01-02-0004'))
    """

    def __init__(self, subjects):
        names = np.unique(np.asarray(subjects, dtype=str)).tolist()
        by_subset = {}
        for name in names:
            match = re.fullmatch(r"mass-01-0([1-5])-\d{4}", name)
            if match is None:
                raise ValueError(
                    f"{name!r} is no person of MASS; 'mass-01-01-0001' is one."
                )
            by_subset.setdefault(int(match[1]), []).append(name)
        train, validation, test = [], [], []
        for subset, members in by_subset.items():
            if len(members) != SUBSET_SIZES[subset]:
                raise ValueError(
                    f"The split counts places in the complete subset {subset}, which has "
                    f"{SUBSET_SIZES[subset]} recordings; given {len(members)}."
                )
            for place, name in enumerate(members):
                if place in _VALIDATION[subset]:
                    validation.append(name)
                else:
                    (test if place in _TEST[subset] else train).append(name)
        self.train, self.validation, self.test = map(tuple, (train, validation, test))

    def __call__(self, subjects):
        """Return the subjects to hold out of the training subjects.

        Raises
        ------
        ValueError
            If test subjects are among the training subjects.
        """
        given = set(np.asarray(subjects).tolist())
        leaked = sorted(given & set(self.test))
        if leaked:
            raise ValueError(
                f"The training rows hold {len(leaked)} test subjects, such as {leaked[0]}; "
                "leave them out: test = np.isin(groups, split.test); X[~test]."
            )
        return [name for name in self.validation if name in given]

    def __eq__(self, other):
        return isinstance(other, MassSplit) and vars(self) == vars(other)

    def __hash__(self):
        return hash((self.train, self.validation, self.test))

    def __repr__(self):
        sizes = len(self.train), len(self.validation), len(self.test)
        return "<MassSplit: {} train, {} validation, {} test>".format(*sizes)
