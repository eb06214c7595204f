"""Cohorts: simulated nights, and the loaders of published data sets."""

from skleepkd.datasets.boas import load_boas
from skleepkd.datasets.eesm import load_eesm
from skleepkd.datasets.mass import load_mass
from skleepkd.datasets.mass_split import MassSplit
from skleepkd.datasets.simulated import make_cohort, simulate_night

__all__ = [
    "MassSplit",
    "load_boas",
    "load_eesm",
    "load_mass",
    "make_cohort",
    "simulate_night",
]
