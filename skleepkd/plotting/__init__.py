"""Displays of nights, networks and trainings, in the manner of scikit-learn's.

A display is made by one of its ``from_...`` methods and drawn anew by ``plot``. After
drawing, ``ax_`` is the array of its axes and ``figure_`` their figure. Unscored epochs
are -1, or "?" among names; codes and names of stages serve alike.
"""

from skleepkd.plotting.embedding import EmbeddingDisplay
from skleepkd.plotting.hypnogram import HypnogramDisplay
from skleepkd.plotting.training import TrainingCurveDisplay

__all__ = ["EmbeddingDisplay", "HypnogramDisplay", "TrainingCurveDisplay"]
