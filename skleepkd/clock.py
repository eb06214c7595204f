"""Offset and drift of two recordings of one night, from what both of them saw."""

from dataclasses import KW_ONLY, dataclass
from functools import partial

import numpy as np

from skleepkd.edf import DATES_AGREE, seconds_by_dates
from skleepkd.epochs.builders import check_kinds
from skleepkd.epochs.channels import pick_channels
from skleepkd.lags import (
    choose_band,
    local_lags,
    rate_of,
    search_line,
    shortest_night,
    whiten,
    window_seconds,
)
from skleepkd.warn import warn


@dataclass(repr=False, eq=False)
class Clock:
    """Offset and drift of one recording's clock against another's; of `estimate_clock`.

    Attributes
    ----------
    offset : float
        Seconds from the source's start to the target's; negative where that came first.
    drift : float
        Seconds that the target's clock gains in a second of the source's clock.
    times, lags, correlations : ndarray of shape (n_windows,)
        Of each window of the overlap its middle (seconds from the source's start), the lag
        at which it correlates best (seconds by the source's clock less those by the
        target's), and the correlation there, of the whitened signals (0 to 1).
    agree : ndarray of bool, shape (n_windows,)
        Whether this lag lies on the line of offset and drift.
    by_dates : float or None
        What the recordings' dates say of the offset.
    """

    offset: float
    drift: float
    _: KW_ONLY
    times: np.ndarray
    lags: np.ndarray
    correlations: np.ndarray
    agree: np.ndarray
    by_dates: float | None = None

    @property
    def confidence(self):
        """Share of the windows that agree, 0.1 to 1; by chance, one in a thousand would.

        It says in how much of the overlap the devices saw the same, not how exact the
        offset is.
        """
        return float(np.mean(self.agree))

    def lag_at(self, times):
        """Seconds by the source's clock less those by the target's, at times of the source."""
        times = np.asarray(times, dtype=float)
        return times - (times - self.offset) * (1 + self.drift)

    def __repr__(self):
        scatter = np.std((self.lags - self.lag_at(self.times))[self.agree])
        return (
            f"<Clock: offset {self.offset:.3f} s, drift {1e6 * self.drift:+.1f} ppm; "
            f"{self.agree.sum()} of {len(self.agree)} windows agree, within {scatter:.3f} s>"
        )

    def plot(self, ax=None):
        """Draw the windows' lags over the night, and the line; return the matplotlib Axes."""
        from matplotlib import pyplot as plt

        ax = plt.subplots(figsize=(7, 3), layout="constrained")[1] if ax is None else ax
        hours, line = self.times / 3600, self.lag_at(self.times)
        ax.plot(hours[self.agree], self.lags[self.agree], "C0.", label="windows that agree")
        ax.plot(
            hours[~self.agree], self.lags[~self.agree], "x", color="0.6", label="others"
        )
        ax.plot(hours, line, "C1", label="offset and drift")
        # The others lie anywhere within a minute.
        margin = 0.2 + np.ptp(line)
        ax.set_ylim(line.min() - margin, line.max() + margin)
        ax.set(xlabel="Hours from the source's start", ylabel="Lag in seconds")
        ax.legend()
        return ax


def estimate_clock(
    *, source_raw, target_raw, source=None, target=None, l_freq=None, h_freq=None
):
    """Find offset and drift of two recordings of one night from what both of them saw.

    Parameters
    ----------
    source_raw, target_raw : mne.io.Raw
        The polysomnography and the wearable, at any sampling rates.
    source, target : list of str, optional
        Channels that see something in common, such as EEG and ear-EEG, ECG and ECG, or two
        accelerometers; all signals by default. Their numbers, sizes and polarities
        may differ. Each pair of them costs time: name a few.
    l_freq, h_freq : float, optional
        The band in hertz in which they are compared. By default up to 12 Hz, or 0.4 times
        the lower sampling rate, and from 1 Hz, or a tenth of the upper limit.

    Returns
    -------
    Clock
        For ``PairedEpochs.from_raws(clock=clock)``, or by its ``offset`` and ``drift``.

    Raises
    ------
    ValueError
        If the recordings do not show the same night (too few stretches of it agree on an
        offset and a drift of at most 300 ppm), or it is periodic throughout, so that other
        lags fit as well; if one is shorter than about six minutes, was
        interrupted, paused or joined; or if channels or the band do not exist.
    TypeError
        If a recording is none.

    Warns
    -----
    UserWarning
        If the recordings' dates say an offset that differs by more than two seconds.

    Notes
    -----
    Both recordings are filtered and whitened: in overlapping stretches of 18 s every
    frequency gets the same amplitude and keeps its phase (the phase transform [1]_), by
    which neither mains nor large artefacts weigh more than the rest. Windows of about 4.5 min
    of the target are searched in the whole source; the commonest line through the places at
    which they correlate best, with either polarity, is the coarse clock. All windows then
    look for their lag within a minute of it, to a part of a sample by a parabola through
    the peak, and a line of Theil and Sen [2]_ goes through those that agree. In
    other bands the times scale with the period.

    An offset between what the devices see, as the pulse comes after the R wave, is
    part of the result.

    References
    ----------
    .. [1] Knapp, C. H. and Carter, G. C. (1976). The generalized correlation method for
       estimation of time delay. IEEE Transactions on Acoustics, Speech, and Signal
       Processing 24(4):320-327.
    .. [2] Sen, P. K. (1968). Estimates of the regression coefficient based on Kendall's
       tau. Journal of the American Statistical Association 63(324):1379-1389.

    Examples
    --------
    >>> import mne
    >>> from skleepkd import estimate_clock
    >>> from skleepkd.datasets import simulate_night
    >>> night = simulate_night(40, derivations=["C3-O1", "C4-O2"], random_state=0)
    >>> info = mne.create_info(night.ch_names, night.sfreq, "eeg")
    >>> psg = mne.io.RawArray(1e-6 * night.signals, info, verbose=False)
    >>> headband = psg.copy().crop(tmin=90)
    >>> clock = estimate_clock(
    ...     source_raw=psg, target_raw=headband, source=["C3-O1"], target=["C4-O2"]
    ... )
    >>> round(clock.offset, 2), abs(round(clock.drift, 4))
    (90.0, 0.0)
    """
    raws = {"source": source_raw, "target": target_raw}
    check_kinds(raws)
    by_dates = seconds_by_dates(raws)
    band = choose_band(l_freq, h_freq, min(raw.info["sfreq"] for raw in raws.values()))
    white = {}
    for (name, raw), wanted in zip(raws.items(), (source, target), strict=True):
        picks = pick_channels(raw, wanted)["target"]
        read = partial(raw.get_data, [raw.ch_names.index(pick) for pick in picks])
        white[name] = whiten(read, raw.n_times, raw.info["sfreq"], band)
        white[name] = white[name][white[name].any(axis=1)]  # flat ones see nothing
        if not white[name].size:
            raise ValueError(f"Nothing from {band[0]:g} to {band[1]:g} Hz in the {name}.")
    shorter = min(signal.shape[1] for signal in white.values()) / rate_of(band)
    if shorter < shortest_night(band):
        raise ValueError(
            f"The shorter recording lasts {shorter:.0f} s: too little to tell two nights "
            f"apart, which takes {shortest_night(band):.0f} s from {band[0]:g} to {band[1]:g} Hz."
        )
    length = window_seconds(band, shorter)
    line, repeated = search_line(**white, band=band, length=length)
    found = local_lags(**white, line=line, band=band, length=length)
    found = found._replace(elsewhere=max(found.elsewhere, repeated))
    agree = found.agree
    if not found.is_one_lag:
        raise ValueError(
            f"The recordings do not show the same night: {agree.sum()} of {len(agree)} "
            f"windows of {length:.0f} s agree on a lag, and another one fits "
            f"{found.elsewhere:.0%} as well. Name channels that see the same, such as source=["
            "'C3-M2'], target=['ear'], or another band (l_freq=, h_freq=)."
        )
    start, slope = found.line
    offset, drift = float(start), float(1 / (1 + slope) - 1)
    if by_dates is not None and abs(by_dates - offset) > DATES_AGREE:
        warn(
            f"By the recordings' dates the target began {by_dates:+.10g} s after the source, "
            f"by their signals {offset:+.3f} s. Where both are of one night, a device's date "
            "is wrong: raw.set_meas_date(None) takes it out."
        )
    return Clock(
        offset,
        drift,
        times=found.middles + found.lags,
        lags=found.lags,
        correlations=found.correlations,
        agree=agree,
        by_dates=by_dates,
    )
