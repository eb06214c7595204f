"""Ear electrodes: rejection of noisy ones, and derivations such as left minus right ear."""

import numpy as np
from scipy.signal import get_window

from skleepkd.warn import warn

_LEFT = ("ELA", "ELB", "ELE", "ELI", "ELG", "ELK")
_RIGHT = ("ERA", "ERB", "ERE", "ERI", "ERG", "ERK")

#: The twelve ear electrodes of EESM17 that were in use; it also stores ELB1 and ERB1.
EAR_ELECTRODES = _LEFT + _RIGHT

#: The two sides of each derivation. A and B sit in the ear canal, the others in the concha.
_EAR_DERIVATIONS = {
    "LR": (_LEFT, _RIGHT),
    "LE": (_LEFT[:2], _LEFT[2:]),
    "RE": (_RIGHT[:2], _RIGHT[2:]),
}

#: What Anandakumar et al. (2022) rejected in each EESM17 recording, in the order of their
#: subjects 1 to 9: counts as in their Table 1, electrodes by the mask published with their
#: code. Subject 5 was left out.
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

#: The scalp derivations of Anandakumar et al. (2022), in the order of LR, LE and RE in their code.
SCALP_DERIVATIONS = ("A1-A2", "C3-O1", "C4-O2")

# Ten minutes at a time: some 100 MB of work space for the spectra of 12 electrodes.
_SEGMENTS_PER_BLOCK = 300
_BLOCK_SECONDS = 600


def derivation_power(raw, electrodes):
    """Mean density in the band of each two electrodes' difference, V^2 / Hz; NaN if silent."""
    # P_ij = S_ii + S_jj - 2 Re S_ij, of Welch's spectra and cross spectra: Hann segments of
    # four seconds that overlap by half.
    electrodes, sfreq = list(electrodes), raw.info["sfreq"]
    n_samples = round(4 * sfreq)
    step = n_samples // 2
    n_segments = (raw.n_times - n_samples) // step + 1
    frequencies = np.fft.rfftfreq(n_samples, 1 / sfreq)
    band = (frequencies >= 10) & (frequencies <= 35)
    if n_segments < 1 or sfreq <= 70:
        raise ValueError(
            "Noise is power from 10 to 35 Hz in segments of 4 s: it needs as much, at more "
            f"than 70 Hz; given {raw.n_times / sfreq:g} s at {sfreq:g} Hz."
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
            # (electrodes, segments, bins) -> (electrodes, segments * bins)
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


def reject_ear_electrodes(raw, electrodes=None, *, threshold=3.0, min_ratio=2.0):
    """Mark noisy ear electrodes as bad.

    For each two electrodes the mean power spectral density of their derivation between 10
    and 35 Hz (Welch's, of four-second segments) is ``P_ij``; an electrode's noise is
    ``m_i``, the median of ``P_ij`` over the others, and electrodes whose ``m_i`` is an
    outlier are rejected (Anandakumar et al. 2022, section 3.2, after Mikkelsen et al. 2017).

    **The paper does not state when a value is an outlier.** The rule here is this
    project's own, and it has not been verified on the real signals:
    ``log m_i`` exceeds its median over electrodes by more than ``threshold`` scaled
    median absolute deviations (1.4826 MAD), and ``m_i`` is more than ``min_ratio``
    times the median, which keeps the rule quiet where all electrodes are nearly alike.
    Up to five noisy electrodes of twelve can be recognised.

    Electrodes without a signal are marked as well; bad ones stay so and have no part in the
    medians. Powers are means over the whole recording: crop it first where its ends do not
    count. Unless it is preloaded, it is read ten minutes at a time.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, in volts. Names are added to its ``info["bads"]``.
    electrodes : sequence of str, optional
        Three or more; by default those of :data:`EAR_ELECTRODES` that the recording has.
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
        If there are fewer than three electrodes, a channel is missing, or the recording is
        shorter than four seconds or sampled at 70 Hz or less.
    """
    if electrodes is None:
        electrodes = [name for name in EAR_ELECTRODES if name in raw.ch_names]
    if len(electrodes) < 3:
        raise ValueError(
            f"Rejection compares at least three ear electrodes; given {list(electrodes)}. "
            "Name them in electrodes=, or call them as EAR_ELECTRODES does."
        )
    electrodes = [name for name in electrodes if name not in raw.info["bads"]]
    power = derivation_power(raw, electrodes)
    has_signal = np.isfinite(np.diag(power))
    rejected = ~has_signal
    if has_signal.sum() >= 3:
        np.fill_diagonal(power, np.nan)  # as is, already, what has no signal
        noise = np.nanmedian(power[has_signal], axis=1)
        noise = np.maximum(noise, np.finfo(float).tiny)
        excess = np.log(noise) - np.median(np.log(noise))
        scaled_mad = 1.4826 * np.median(np.abs(excess))
        rejected[has_signal] = excess > max(threshold * scaled_mad, np.log(min_ratio))
    raw.info["bads"] = raw.info["bads"] + [electrodes[i] for i in np.flatnonzero(rejected)]
    return raw


def derive(raw, weights, *, keep_channels=False):
    """Form weighted sums of channels.

    A derivation that uses a bad channel, or none at all, is itself marked as bad.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording; if not preloaded it is read ten minutes at a time.
    weights : dict of str to dict of str to float
        For each derivation the channels that it sums and their weights, as in
        ``{"C3-O1": {"C3": 1, "O1": -1}}``. One without channels is zero.
    keep_channels : bool, default=False
        Whether the derivations are added to the recording, which is then loaded and
        changed in place, or take the place of its channels in a new one.

    Returns
    -------
    mne.io.Raw
        EEG channels named as in ``weights``, in volts, after those that are kept, with the
        recording's clock and annotations, save those of single channels that are gone.

    Raises
    ------
    ValueError
        If a channel is missing, or a derivation has the name of a channel that is kept.
    """
    import mne

    names = list(weights)
    channels = sorted({channel for parts in weights.values() for channel in parts})
    matrix = np.array([[weights[name].get(c, 0.0) for c in channels] for name in names])
    data = np.zeros((len(names), raw.n_times))
    block = max(1, round(_BLOCK_SECONDS * raw.info["sfreq"]))
    for start in range(0, raw.n_times if channels else 0, block):
        stop = min(start + block, raw.n_times)
        data[:, start:stop] = matrix @ raw.get_data(channels, start, stop)

    info = mne.create_info(names, raw.info["sfreq"], "eeg")
    derived = mne.io.RawArray(data, info, first_samp=raw.first_samp, verbose=False)
    bads = set(raw.info["bads"])
    derived.info["bads"] = [n for n in names if not weights[n] or bads & set(weights[n])]
    if keep_channels:
        return raw.load_data().add_channels([derived], force_update_info=True)
    derived.info["line_freq"] = raw.info["line_freq"]
    derived.info["subject_info"] = raw.info["subject_info"]
    derived.set_meas_date(raw.info["meas_date"])
    annotations = raw.annotations.copy()
    if raw.info["meas_date"] is None:
        # Without a date MNE takes onsets from the first sample, and gives them from 0.
        annotations.onset -= raw.first_time
    return derived.set_annotations(annotations, on_missing="ignore")


def scalp_derivations(raw, pairs=SCALP_DERIVATIONS, *, keep_channels=False):
    """Form differences of two electrodes.

    Parameters
    ----------
    raw, keep_channels
        As for :func:`derive`.
    pairs : sequence of str, default=("A1-A2", "C3-O1", "C4-O2")
        Derivations as ``"anode-cathode"``. In the default order, which is that of the code
        of Anandakumar et al. (2022), channel k faces the student's of LR, LE, RE.

    Returns
    -------
    mne.io.Raw
        EEG channels named as in ``pairs``, in volts.

    Raises
    ------
    ValueError
        If a pair is no ``"anode-cathode"``, or as for :func:`derive`.
    """
    weights = {}
    for pair in pairs:
        anode, _, cathode = pair.partition("-")
        if not (anode and cathode) or anode == cathode:
            raise ValueError(f"A pair reads 'anode-cathode', as 'C3-O1'; given {pair!r}.")
        weights[pair] = {anode: 1.0, cathode: -1.0}
    return derive(raw, weights, keep_channels=keep_channels)


def ear_derivations(raw, *, keep_channels=False):
    """Form LR, LE and RE from the ear electrodes that were kept.

    Means go over the electrodes that the recording has and that are not in its
    ``info["bads"]`` (Anandakumar et al. 2022, equations 3 to 7)::

        LR = mean(ELA, ELB, ELE, ELI, ELG, ELK) - mean(ERA, ERB, ERE, ERI, ERG, ERK)
        LE = mean(ELA, ELB) - mean(ELE, ELI, ELG, ELK)
        RE = mean(ERA, ERB) - mean(ERE, ERI, ERG, ERK)

    Where one of a derivation's two means has no electrode left, as of the paper's subject
    5, the derivation is zero, is marked as bad, and a warning says so.

    Parameters
    ----------
    raw, keep_channels
        As for :func:`derive`; the recording after :func:`reject_ear_electrodes`.

    Returns
    -------
    mne.io.Raw
        EEG channels LR, LE and RE, in volts.

    Raises
    ------
    ValueError
        If the recording has none of the twelve ear electrodes.
    """
    if not set(EAR_ELECTRODES) & set(raw.ch_names):
        raise ValueError(f"No ear electrode of {EAR_ELECTRODES} in {raw.ch_names}.")
    kept = set(raw.ch_names) - set(raw.info["bads"])
    weights = {name: {} for name in _EAR_DERIVATIONS}
    for name, sides in _EAR_DERIVATIONS.items():
        plus, minus = ([e for e in side if e in kept] for side in sides)
        if plus and minus:
            weights[name] = dict.fromkeys(plus, 1 / len(plus))
            weights[name] |= dict.fromkeys(minus, -1 / len(minus))
    empty = [name for name, parts in weights.items() if not parts]
    if empty:
        warn(
            f"{', '.join(empty)}: no electrode is left on one side of the derivation, "
            f"so it is zero (bad channels: {raw.info['bads']})."
        )
    return derive(raw, weights, keep_channels=keep_channels)
