"""Whether two signals of a pair, and a scoring, lie where they belong in time."""

import numpy as np
import pandas as pd

from skleepkd.epochs.checks import as_pair, check_labels
from skleepkd.lags import (
    choose_band,
    local_lags,
    rate_of,
    shortest_night,
    whiten,
    window_seconds,
)
from skleepkd.preprocessing.band_powers import BANDS, BandPowers
from skleepkd.sequences import find_runs
from skleepkd.stages import EPOCH_SECONDS, is_unscored
from skleepkd.warn import warn

#: Seconds of lag that are not told: half a sample at 32 Hz is 0.016.
_TOLD = 0.05
#: Two hours; never more than a third of the night.
_MOST_SHIFT = 240
#: Logarithm of the likelihood ratio by which a place must beat the present one, and those two
#: epochs away (of a short recording, so much for each epoch): another night's has no peak.
_BETTER, _SHARP, _SHARP_EACH = 20.0, 30.0, 0.1
#: Of fewer scored epochs, many a scoring fits better at a wrong place.
_FEWEST = 150
#: Greater shifts in epochs are told, and not how to mend them: a clock is wrong, or the night.
_MENDED = 10


def check_alignment(X, y=None, *, stager=None, l_freq=None, h_freq=None):
    """Look for time that is left between the two signals of a pair, and for a shifted scoring.

    Parameters
    ----------
    X : PairedEpochs
        Whole nights, or most of them, in microvolts. ``recording`` and ``onset`` are used.
    y : array-like of shape (n_epochs,), optional
        Stages, as codes or names; -1 or "?" where unscored.
    stager : classifier, optional
        One that is fitted already, such as ``YasaStager()``: the scoring is then held against
        its stages. It is given the source where there is one, else the target. Without, the
        scoring is held against the powers of frequency bands of these signals.
    l_freq, h_freq : float, optional
        The band in which the signals are compared, as of :func:`skleepkd.estimate_clock`.

    Returns
    -------
    DataFrame
        A row for each recording:

        - ``lag``: seconds by which the target is ahead of the source at its first epoch, to be
          added to the offset with which the pair was cut; ``lag_end`` at its last epoch,
          which differs by the drift that is left. NaN where the signals share nothing that
          stands out (as EEG and ECG may), or there is too little of them.
        - ``confidence``: share of the windows that agree on the lag, as of
          :class:`skleepkd.clock.Clock`.
        - ``shift``: epochs by which the scoring should move (positive: it comes too early).
          NaN where no place stands out (one stage alone, another night's scoring), or the best
          one is elsewhere and fewer than 150 epochs are scored, which is too few to tell.
        - ``agreement``, ``best_agreement``: how much of the signals the stages explain where
          they are and at their best place: 1 less Wilks' lambda [1]_, 0 to 1.

    Raises
    ------
    ValueError
        If there is neither a source nor y, or y is of another length.

    Warns
    -----
    UserWarning
        For each recording with a lag above 0.05 s, with a scoring that fits better elsewhere,
        or seems to, or fits nowhere.

    Notes
    -----
    Lags are found window by window as in :func:`skleepkd.estimate_clock`, up to a minute.
    Shifts are whole epochs, up to two hours or a third of the night: at the best one the stages'
    classes, of one covariance, are likeliest given the features of the epochs.

    References
    ----------
    .. [1] Rencher, A. C. and Christensen, W. F. (2012). Methods of Multivariate Analysis,
       3rd ed., section 6.1.3. Wiley.

    Examples
    --------
    >>> from skleepkd import check_alignment
    >>> from skleepkd.datasets import make_cohort
    >>> cohort = make_cohort(1, n_epochs=120, random_state=0)       # a simulated night
    >>> table = check_alignment(cohort.X, cohort.y)
    >>> table[["lag", "shift"]].abs().round(2).to_numpy().tolist()
    [[0.0, 0.0]]
    """
    pair = as_pair(X)
    if y is None and not pair.has_source:
        raise ValueError("There is neither a source nor a scoring (y) to compare with.")
    features = None
    if y is not None:
        y = check_labels(y, len(pair))
        y = np.full(len(pair), -1) if y is None else _codes(y)
        features = _features(pair, stager)
    recording = pair.recording if pair.recording is not None else pair.subject
    names = np.full(len(pair), "X") if recording is None else recording
    onset = EPOCH_SECONDS * np.arange(len(pair)) if pair.onset is None else pair.onset
    rows = []
    for name in pd.unique(names):
        night = np.flatnonzero(names == name)
        night = night[np.argsort(onset[night], kind="stable")]
        row = {"recording": name, "n_epochs": len(night)}
        seconds = onset[night] - onset[night[0]]
        if pair.has_source:
            row |= _lag(pair, night, seconds, l_freq, h_freq)
        if y is not None:
            row |= _shift(y[night], features[night], np.round(seconds / EPOCH_SECONDS))
        _warn(row, y is not None and np.sum(y[night] >= 0))
        rows.append(row)
    return pd.DataFrame(rows).set_index("recording")


def _warn(row, n_scored):
    name, lags = row["recording"], [row.get("lag", 0), row.get("lag_end", 0)]
    if np.nanmax(np.abs([0, *lags])) > _TOLD:
        warn(
            f"Recording {name}: the target is {lags[0]:+.3f} s ahead of the source, at its end "
            f"{lags[1]:+.3f} s (minus: behind). Cut the pair anew, with clock=estimate_clock(...) "
            f"or offset=offset {lags[0]:+.3f}."
        )
    shift = row.get("shift", 0)
    elsewhere = row.get("best_agreement", 0) > row.get("agreement", 0)
    if np.isnan(shift) and n_scored < _FEWEST:
        if elsewhere:
            warn(
                f"Recording {name}: the scoring seems to fit better elsewhere, but "
                f"{n_scored} scored epochs are too few to tell ({_FEWEST} are needed)."
            )
    elif np.isnan(shift) and (elsewhere or not row["agreement"]):
        warn(
            f"Recording {name}: the scoring fits these signals no better here than elsewhere: "
            "one stage fills it, or it is of another night. A ready stager may tell: stager="
            "YasaStager()."
        )
    elif shift and not np.isnan(shift):
        seconds = EPOCH_SECONDS * shift
        cure = (
            f"Move it: Hypnogram.from_stages(h.stages, onset=h.onset {seconds:+g}) of a Hypnogram "
            f"h, mne.Annotations(a.onset {seconds:+g}, a.duration, a.description) of annotations a."
        )
        if abs(shift) > _MENDED:
            cure = (
                "By so much a clock is wrong, or the scoring is of another night: look at the "
                "recorder's clock, and give read_hypnogram(path, start=...)."
            )
        warn(
            f"Recording {name}: the scoring fits better {abs(shift):g} epoch(s) "
            f"{'later' if shift > 0 else 'earlier'}. {cure}"
        )


def _codes(y):
    scored = ~is_unscored(y)
    codes = np.full(len(y), -1)
    codes[scored] = np.unique(y[scored], return_inverse=True)[1]
    return codes


def _lag(pair, night, seconds, l_freq, h_freq):
    """Lag and confidence of a recording whose epochs begin at these seconds."""
    n_times = {m: pair.read(m, night[:1]).shape[2] for m in ("target", "source")}
    sfreq = {m: pair.sfreq[m] or n / EPOCH_SECONDS for m, n in n_times.items()}
    band = choose_band(l_freq, h_freq, min(sfreq.values()))
    rate, end = rate_of(band), seconds[-1] + EPOCH_SECONDS
    nothing = {"lag": np.nan, "lag_end": np.nan, "confidence": np.nan}
    if end < shortest_night(band):
        return nothing
    white = {}
    for modality, rates in sfreq.items():
        n_channels = pair.read(modality, night[:1]).shape[1]
        white[modality] = np.zeros((n_channels, round(end * rate) + 1), np.float32)
        for run in find_runs(None, seconds, len(night)):
            signal = np.concatenate(pair.read(modality, night[run]), axis=1)
            part = whiten(lambda i, j, s=signal: s[:, i:j], signal.shape[1], rates, band)
            at = round(seconds[run[0]] * rate)
            white[modality][:, at : at + part.shape[1]] = part
    length = window_seconds(band, end)
    found = local_lags(**white, line=(0.0, 0.0), band=band, length=length, anywhere=True)
    if not found.is_one_lag:
        return nothing
    start, slope = found.line
    return {
        "lag": start,
        "lag_end": start + slope * end,
        "confidence": found.agree.mean(),
    }


def _features(pair, stager):
    """Numbers that tell stages apart, (n_epochs, n_features)."""
    pair = pair.source_epochs if pair.has_source else pair.target_epochs
    if stager is None:
        sfreq = pair.sfreq["target"] or pair.shape[2] / EPOCH_SECONDS
        bands = [band for band in BANDS if band[1] < 0.4 * sfreq]
        features = BandPowers(bands).transform(pair)["target"].reshape(len(pair), -1)
    elif hasattr(stager, "predict_proba"):
        # The last column follows from the others.
        features = np.log(np.maximum(stager.predict_proba(pair), 1e-3))[:, :-1]
    else:
        features = np.equal.outer(stager.predict(pair), stager.classes_[:-1]).astype(float)
    return features


def _shift(y, features, places):
    """By how many epochs the stages of a recording should move, and how well they fit."""
    places = places.astype(int)
    # Epochs that are missing are holes: unscored, and without features.
    codes = np.full(places[-1] + 1, -1)
    numbers = np.zeros((len(codes), features.shape[1]))
    seen = np.zeros(len(codes), dtype=bool)
    low, middle, high = np.percentile(features, [25, 50, 75], axis=0)
    scaled = np.clip((features - middle) / np.where(high > low, high - low, 1), -3, 3)
    codes[places], numbers[places], seen[places] = y, scaled, True
    n_scored = np.sum(y >= 0)
    most = min(_MOST_SHIFT, n_scored // 3)
    shifts = np.arange(-most, most + 1)
    # Minus the logarithm of Wilks' lambda at each shift.
    gain = np.array([_separation(codes, numbers, seen, shift) for shift in shifts])
    best = gain.argmax()
    if n_scored / 2 * (gain[best] - gain[most]) <= _BETTER:
        best = most  # no other place is better than where it is
    told = best == most or n_scored >= _FEWEST
    n_left = n_scored - abs(shifts[best])
    beside = gain[np.abs(shifts - shifts[best]) == 2].max(initial=0)
    sharp = n_left / 2 * (gain[best] - beside) > min(_SHARP, _SHARP_EACH * n_left)
    return {
        "shift": float(shifts[best]) if told and sharp else np.nan,
        "agreement": 1 - np.exp(-gain[most]),
        "best_agreement": 1 - np.exp(-gain[best]),
    }


def _separation(codes, numbers, seen, shift):
    """Minus the logarithm of Wilks' lambda of stages that are moved by some epochs."""
    n = len(codes)
    moved = codes[max(0, -shift) : n - max(0, shift)]
    there = slice(max(0, shift), n - max(0, -shift))
    both = (moved >= 0) & seen[there]
    stage, x = moved[both], numbers[there][both]
    counts = np.bincount(stage, minlength=1)
    if len(x) <= 2 * x.shape[1] or np.sum(counts > 0) < 2:
        return 0.0
    x = x - x.mean(axis=0)
    total = x.T @ x / len(x) + 1e-3 * np.eye(x.shape[1])
    sums = np.array([x[stage == one].sum(axis=0) for one in np.flatnonzero(counts)])
    between = (sums.T / counts[counts > 0]) @ sums / len(x)
    return np.linalg.slogdet(total)[1] - np.linalg.slogdet(total - between)[1]
