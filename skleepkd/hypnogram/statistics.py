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
    asleep, n = ~np.isin(stages, ["WAKE", "UNS"]), len(stages)
    first, last = (asleep.argmax(), n - asleep[::-1].argmax()) if asleep.any() else (0, 0)
    wake = stages == "WAKE"
    tst, spt = asleep.sum() * minutes, (last - first) * minutes
    statistics = {"TIB": n * minutes, "SPT": spt, "WASO": np.nan, "TST": tst}
    statistics |= {"SE": 100 * tst / (n * minutes), "SME": np.nan, "SFI": np.nan}
    statistics |= {"SOL": np.nan, "SOL_5min": np.nan}
    if spt:
        awakenings = (asleep[:-1] & wake[1:]).sum()
        statistics["WASO"] = wake[first:last].sum() * minutes
        statistics |= {"SME": 100 * tst / spt, "SFI": 60 * awakenings / tst}
        statistics["SOL"] = first * minutes
    # An epoch before which as many as make five minutes were asleep ends the first ones.
    enough = int(np.ceil(5 / minutes - 1e-9))
    if n >= enough:
        unbroken = np.convolve(asleep, np.ones(enough), mode="valid") > enough - 0.5
        if unbroken.any():
            statistics["SOL_5min"] = unbroken.argmax() * minutes
    rem = stages == "REM"
    statistics["Lat_REM"] = rem.argmax() * minutes if rem.any() else np.nan
    statistics |= {name: (stages == name).sum() * minutes for name in names}
    if "UNS" in stages:
        statistics["UNS"] = (stages == "UNS").sum() * minutes
    for name in names:
        if name != "WAKE":
            statistics[f"%{name}"] = 100 * statistics[name] / tst if tst else np.nan
    return {name: float(value) for name, value in statistics.items()}
