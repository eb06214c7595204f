"""Simulated nights: the signals of one sleeping body, with stages."""

from skleepkd.datasets.simulated.cohort import make_cohort, simulate_night

__all__ = ["make_cohort", "simulate_night"]
