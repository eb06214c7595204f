"""Scores of sleep staging, over subjects first, and what is said of them.

Scores skip unscored epochs (-1, or "?" among names) and take codes or names.
"""

from skleepkd.metrics.staging import (
    expected_calibration_error,
    sleep_scorers,
    staging_report,
)
from skleepkd.metrics.subjects import bootstrap_interval, gap_closed, paired_test

__all__ = [
    "bootstrap_interval",
    "expected_calibration_error",
    "gap_closed",
    "paired_test",
    "sleep_scorers",
    "staging_report",
]
