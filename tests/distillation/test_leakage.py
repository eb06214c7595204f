"""The warning where a stager is judged on what its frozen teacher was fitted on."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.distillation import LeakageWarning
from tests.tiny import FAST, TinyNetwork


def of(pair, *subjects):
    """The rows of these subjects, and their stages."""
    X, y = pair
    rows = np.isin(X.subject, subjects)
    return X[rows], y[rows]


def test_no_warning_where_nothing_leaks(pair):
    X, y = train = of(pair, "s0", "s1", "s2")
    stager = SleepStager(TinyNetwork, **FAST)
    frozen = FrozenEstimator(SleepStager(TinyNetwork, **FAST).fit(X.source_epochs, y))
    for teacher in (frozen, stager):
        student = DistilledSleepStager(teacher, **FAST).fit(*train)
        student.predict(of(pair, "s5")[0])  # this warning is an error in all tests
        student.predict(X)


def test_leakage_through_a_chain_of_frozen_stagers(pair):
    first = SleepStager(TinyNetwork, **FAST).fit(*of(pair, "s0"))
    second = FineTunedSleepStager(FrozenEstimator(first), **FAST).fit(*of(pair, "s1"))
    third = DistilledSleepStager(FrozenEstimator(second), **FAST).fit(*of(pair, "s2"))
    for seen in ("s0", "s1"):
        with pytest.warns(LeakageWarning, match=seen):
            third.fit(*of(pair, "s2")).predict(of(pair, seen)[0])
