"""A classifier that notes its fits in a file, for worker processes too."""

from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Reader(ClassifierMixin, BaseEstimator):
    """Reads the stage from the first value of an epoch; ``wrong`` of each ten are 0.

    Fits are noted in a file: the seed and the training labels.
    """

    def __init__(self, log=None, wrong=0, random_state=None):
        self.log = log
        self.wrong = wrong
        self.random_state = random_state

    def fit(self, X, y, groups=None):
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{self.random_state} {','.join(map(str, y))}\n")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        value = np.asarray(X).reshape(len(X), -1)[:, 0]
        return np.where(np.arange(len(X)) % 10 < self.wrong, 0, value).astype(int)


def fits(log):
    """Lines of the fits so far; they are forgotten."""
    lines = Path(log).read_text().splitlines() if Path(log).exists() else []
    Path(log).unlink(missing_ok=True)
    return lines
