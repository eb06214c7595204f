"""Calibrated probabilities: one temperature, fitted on the people who are held out."""

import numpy as np
from scipy.optimize import minimize_scalar

from skleepkd.estimators.outputs import logits_of
from skleepkd.sequences import Fusion
from skleepkd.warn import warn

#: Least and largest temperature that is looked for.
TEMPERATURES = (0.01, 100.0)


def softmax(logits):
    """Turn logits of shape (batch, n_classes) into probabilities."""
    return logits.softmax(dim=1)


def check_calibration(stager, pair, scored):
    """Refuse to calibrate what has no logits, or where nobody who is held out is scored."""
    if not stager.calibrate:
        return
    if stager.predict_nonlinearity is not softmax:
        raise ValueError(
            "calibrate=True divides logits, before predict_nonlinearity makes probabilities "
            "of them: leave predict_nonlinearity out."
        )
    if not (stager.validates(pair) & scored).any():
        names = ", ".join(map(str, stager.held_out_))
        why = f"no epoch of {names} is scored" if names else "nobody is held out"
        raise ValueError(
            f"calibrate=True needs scored epochs of people who are held out, and {why}: give "
            "validation=2, so many of them (from groups=, or subject= of a PairedEpochs)."
        )


def calibrate(stager, pair, codes):
    """Learn the temperature at which the stages of who is held out are likeliest, if wanted."""
    if not stager.calibrate:
        return
    held_out = stager.validates(pair)
    pair, codes = pair[held_out], codes[held_out]
    windows = list(logits_of(stager, pair))
    scored = np.flatnonzero(codes >= 0)

    def surprise(log_temperature):
        fused = Fusion(len(pair), len(stager.classes_), stager.fusion)
        for rows, logits in windows:
            fused.add(rows, softmax(logits / np.exp(log_temperature)).numpy())
        likelihood = fused.answer()[scored, codes[scored]]
        return -np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean()

    found = minimize_scalar(surprise, bounds=np.log(TEMPERATURES), method="bounded")
    stager.calibration_ = float(np.exp(found.x))
    if stager.calibration_ > 0.99 * TEMPERATURES[1]:
        warn(
            f"The temperature of the held-out people is {stager.calibration_:.3g}, the end of what "
            "is looked for: their stages are predicted no better than by chance. Hold out "
            "more people (validation=), or leave calibrate out."
        )
