"""Sleep statistics by the names and definitions of YASA."""

import numpy as np

from skleepkd.stages import BORDER


def fill_gaps(stages, onset, epoch):
    """Put "UNS" where no epoch is."""
    steps = np.diff(onset, prepend=onset[0])
    if (steps[1:] < epoch - BORDER).any():
        raise ValueError("The epochs overlap, or are out of order.")
    # Gaps are rounded one by one, so that no two epochs get one place.
    place = np.cumsum(np.floor(steps / epoch + 0.5)).astype(int)
    filled = np.full(place[-1] + 1, "UNS", dtype="U5")
    filled[place] = stages
    return filled


def sleep_statistics(stages, names, minutes):
    """Count the epochs of a night without gaps: "WAKE", "UNS", and stages of sleep."""
    asleep, wake, n = ~np.isin(stages, ["WAKE", "UNS"]), stages == "WAKE", len(stages)
    first, last = (asleep.argmax(), n - asleep[::-1].argmax()) if asleep.any() else (0, 0)
    tib, spt, tst = (minutes * count for count in (n, last - first, asleep.sum()))
    # Five minutes of sleep begin where as many epochs as make them follow.
    enough = int(np.ceil(5 / minutes - 1e-9))
    unbroken = np.convolve(asleep, np.ones(enough), mode="valid") > enough - 0.5
    statistics = {
        "TIB": tib,
        "SPT": spt,
        "WASO": minutes * wake[first:last].sum() if spt else np.nan,
        "TST": tst,
        "SE": 100 * tst / tib,
        "SME": 100 * tst / spt if spt else np.nan,
        "SFI": 60 * (asleep[:-1] & wake[1:]).sum() / tst if spt else np.nan,
        "SOL": _latency(asleep, minutes),
        "SOL_5min": _latency(unbroken, minutes),
        "Lat_REM": _latency(stages == "REM", minutes),
    }
    counted = [*names, "UNS"] if "UNS" in stages else names
    statistics |= {name: minutes * (stages == name).sum() for name in counted}
    for name in names:
        if name != "WAKE":
            statistics[f"%{name}"] = 100 * statistics[name] / tst if tst else np.nan
    return {name: float(value) for name, value in statistics.items()}


def _latency(found, minutes):
    """Minutes to the first epoch that is marked, nan where none is."""
    return minutes * found.argmax() if found.any() else np.nan
