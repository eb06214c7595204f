"""Warnings that show the user's own line."""

import sys
import warnings

#: Libraries that may stand between the user's line and this package.
_BETWEEN = {"skleepkd", "skorch", "sklearn", "joblib"}


def warn(message, category=UserWarning):
    """Warn where the user called, however deep in the package."""
    frame, level = sys._getframe(1), 2
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
