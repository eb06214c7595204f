"""Ear electrodes: their names, and the rejection of noisy ones."""

import numpy as np

# Ear-EEG electrodes by side and place. A and B sit in the ear canal, E, I, G and K
# in the concha. EESM17 also stores ELB1 and ERB1, which were never connected.
LEFT_CANAL = ("ELA", "ELB")
LEFT_CONCHA = ("ELE", "ELI", "ELG", "ELK")
RIGHT_CANAL = ("ERA", "ERB")
RIGHT_CONCHA = ("ERE", "ERI", "ERG", "ERK")

#: The twelve ear electrodes of EESM17 that were in use.
EAR_ELECTRODES = LEFT_CANAL + LEFT_CONCHA + RIGHT_CANAL + RIGHT_CONCHA

#: What Anandakumar et al. (2022) rejected in each EESM17 recording, in the order
#: of their subjects 1 to 9. The counts are their Table 1; the electrodes are those
#: of the mask that was published with their code. Subject 5 was left out.
PAPER_REJECTIONS = {
    "sub-005": ("ELA", "ELK"),
    "sub-007": ("ELB", "ERB"),
    "sub-002": ("ERB",),
    "sub-004": ("ERE", "ERI"),
    "sub-006": ("ERA", "ERG", "ERE", "ERB", "ERK"),
    "sub-001": (),
    "sub-008": (),
    "sub-009": ("ELK",),
    "sub-003": ("ELI", "ELK"),
}

_SEGMENT_SECONDS = 4.0
_SEGMENTS_PER_BLOCK = 300  # ten minutes: some 100 MB of work space for 12 electrodes


def derivation_power(raw, electrodes, l_freq=10.0, h_freq=35.0):
    """Mean power of the derivation between each two electrodes.

    The power of ``i - j`` follows from the spectra and the real part of the cross
    spectrum, ``P_ij = S_ii + S_jj - 2 Re S_ij``, so no derivation is formed. Spectra
    are Welch's (four-second Hann segments that overlap by half) and are added up over
    blocks of ten minutes: a night that is not preloaded is never read as a whole.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, in volts, at least four seconds long.
    electrodes : sequence of str
        Names of channels of ``raw``.
    l_freq, h_freq : float, default=10.0 and 35.0
        The band in hertz.

    Returns
    -------
    ndarray of shape (n_electrodes, n_electrodes)
        Mean power spectral density in the band, in square volts per hertz. Rows and
        columns of electrodes without a signal (constant, or with a value that is not
        finite) are NaN.

    Raises
    ------
    ValueError
        If a channel is missing, the band is empty or not below half the sampling
        rate, or the recording is too short.
    """
    from scipy.signal import get_window

    electrodes = list(electrodes)
    missing = [name for name in electrodes if name not in raw.ch_names]
    if missing:
        raise ValueError(
            f"No channels {missing} in the recording, which has {raw.ch_names}."
        )
    sfreq = raw.info["sfreq"]
    n_samples = round(_SEGMENT_SECONDS * sfreq)
    step = n_samples // 2
    n_segments = (raw.n_times - n_samples) // step + 1
    if n_segments < 1:
        raise ValueError(
            f"The recording lasts {raw.n_times / sfreq:g} s; power is measured in "
            f"segments of {_SEGMENT_SECONDS:g} s, so it must be at least that long."
        )
    frequencies = np.fft.rfftfreq(n_samples, 1 / sfreq)
    band = (frequencies >= l_freq) & (frequencies <= h_freq)
    if not 0 < l_freq < h_freq < sfreq / 2 or not band.any():
        raise ValueError(
            f"The band must lie between 0 and half the sampling rate ({sfreq / 2:g} Hz); "
            f"given {l_freq:g} to {h_freq:g} Hz."
        )

    window = get_window("hann", n_samples)
    cross = np.zeros((len(electrodes), len(electrodes)))
    for first in range(0, n_segments, _SEGMENTS_PER_BLOCK):
        count = min(_SEGMENTS_PER_BLOCK, n_segments - first)
        start = first * step
        block = raw.get_data(electrodes, start, start + (count - 1) * step + n_samples)
        segments = np.lib.stride_tricks.sliding_window_view(block, n_samples, axis=1)
        segments = segments[:, ::step]  # (n_electrodes, n_segments, n_samples)
        # Missing values stay in the rows of their own electrode.
        with np.errstate(invalid="ignore"):
            centred = segments - segments.mean(axis=-1, keepdims=True)
            spectra = np.fft.rfft(centred * window)[..., band]
            spectra = spectra.reshape(len(electrodes), -1)
            cross += (spectra @ spectra.conj().T).real
    cross *= 2 / (sfreq * np.sum(window**2) * n_segments * band.sum())

    power = np.diag(cross)
    silent = ~np.isfinite(power)
    # A constant leaves only rounding error once its mean is taken off.
    silent |= power <= np.finfo(float).eps * np.max(power[~silent], initial=0.0)
    between = np.maximum(power[:, None] + power[None, :] - 2 * cross, 0.0)
    between[silent] = between[:, silent] = np.nan
    return between


def reject_ear_electrodes(
    raw, electrodes=None, *, l_freq=10.0, h_freq=35.0, threshold=3.0, min_ratio=2.0
):
    """Mark noisy ear electrodes as bad.

    For each two electrodes the mean power of their derivation between 10 and 35 Hz
    is ``P_ij``; an electrode's noise is ``m_i``, the median of ``P_ij`` over the
    others, and electrodes whose ``m_i`` is an outlier are rejected (Anandakumar et
    al. 2022, section 3.2, after Mikkelsen et al. 2017). The band lies above most of
    the sleeping brain's power, so that poor contact and muscle stand out in it.

    **The paper does not state when a value is an outlier.** The rule here is this
    project's own, and it has not been verified on the real signals:
    ``log m_i`` exceeds its median over electrodes by more than ``threshold`` scaled
    median absolute deviations (1.4826 MAD), and ``m_i`` is more than ``min_ratio``
    times the median. Logarithms, because power is positive and skewed. Only high
    values count, because low power at these frequencies is no fault. Three scaled
    MAD is the usual limit of robust outlier rules; were the log powers of twelve good
    electrodes Gaussian, it would reject about one in a hundred of them. The ratio
    keeps the rule quiet where all electrodes are nearly alike and the MAD is small:
    an electrode with less than twice the usual noise is worth more in an average than
    out of it. Up to five noisy electrodes of twelve can be told from the others.

    Electrodes without a signal (constant, or with a value that is not finite) are
    marked as well. Electrodes that are bad already stay so and have no part in the
    medians. Powers are means over the recording as it is given: crop it first where
    its ends do not count.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, in volts. Names are added to its ``info["bads"]``.
    electrodes : sequence of str, optional
        The ear electrodes, three or more. By default those of
        :data:`EAR_ELECTRODES` that the recording has.
    l_freq, h_freq : float, default=10.0 and 35.0
        The band in hertz.
    threshold : float, default=3.0
        Scaled median absolute deviations above the median.
    min_ratio : float, default=2.0
        Least ratio of ``m_i`` to its median.

    Returns
    -------
    mne.io.Raw
        The same object.

    Raises
    ------
    ValueError
        If there are fewer than three electrodes, or as in :func:`derivation_power`.
    """
    if electrodes is None:
        electrodes = [name for name in EAR_ELECTRODES if name in raw.ch_names]
    if len(electrodes) < 3:
        raise ValueError(
            f"Rejection compares at least three ear electrodes; given {list(electrodes)}. "
            f"Name them in electrodes=, or call them as EESM17 does: {EAR_ELECTRODES}."
        )
    electrodes = [name for name in electrodes if name not in raw.info["bads"]]
    power = derivation_power(raw, electrodes, l_freq, h_freq)
    has_signal = np.isfinite(np.diag(power))
    rejected = ~has_signal
    n_left = has_signal.sum()
    if n_left >= 3:
        power = power[np.ix_(has_signal, has_signal)]
        others = power[~np.eye(n_left, dtype=bool)].reshape(n_left, n_left - 1)
        noise = np.maximum(np.median(others, axis=1), np.finfo(float).tiny)
        excess = np.log(noise) - np.median(np.log(noise))
        scaled_mad = 1.4826 * np.median(np.abs(excess))
        rejected[has_signal] = excess > max(threshold * scaled_mad, np.log(min_ratio))
    raw.info["bads"] = raw.info["bads"] + [electrodes[i] for i in np.flatnonzero(rejected)]
    return raw
