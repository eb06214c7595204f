"""Cohorts: simulated nights, and the loaders of published data sets."""

from skleepkd.datasets.boas import load_boas
from skleepkd.datasets.checks import check_start
from skleepkd.datasets.cinc2018 import fetch_cinc2018, load_cinc2018
from skleepkd.datasets.eesm import load_eesm
from skleepkd.datasets.loading import Night, load_nights
from skleepkd.datasets.mass import MassSplit, load_mass
from skleepkd.datasets.simulated import make_cohort, simulate_night, wear_electrode
from skleepkd.datasets.sleep_edf import SleepEdfFolds, fetch_sleep_edf, load_sleep_edf

__all__ = [
    "MassSplit",
    "Night",
    "SleepEdfFolds",
    "check_start",
    "fetch_cinc2018",
    "fetch_sleep_edf",
    "load_boas",
    "load_cinc2018",
    "load_eesm",
    "load_mass",
    "load_nights",
    "load_sleep_edf",
    "make_cohort",
    "simulate_night",
    "wear_electrode",
]
