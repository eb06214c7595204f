"""Cohorts: simulated nights, and the loaders of published data sets."""

from skleepkd.datasets.boas import load_boas
from skleepkd.datasets.eesm import load_eesm
from skleepkd.datasets.simulated import make_cohort, simulate_night

__all__ = ["load_boas", "load_eesm", "make_cohort", "simulate_night"]
