"""Cross-validation that resumes, and a check that nothing leaks through its folds."""

from skleepkd.model_selection.cross_validation import cross_validate
from skleepkd.model_selection.leakage import LeakageReport, check_leakage

__all__ = ["LeakageReport", "check_leakage", "cross_validate"]
