"""Derivations: weighted sums of electrodes, such as A1-A2 or left minus right ear."""

import warnings

import numpy as np

from skleepkd.preprocessing.channels import (
    LEFT_CANAL,
    LEFT_CONCHA,
    RIGHT_CANAL,
    RIGHT_CONCHA,
)

#: The scalp derivations that Anandakumar et al. (2022) pair with LR, LE and RE.
SCALP_DERIVATIONS = ("A1-A2", "C3-O1", "C4-O2")

_BLOCK_SECONDS = 600


def derive(raw, weights, *, keep_channels=False):
    """Form weighted sums of channels.

    A derivation that uses a bad channel, or none at all, is itself marked as bad.

    Parameters
    ----------
    raw : mne.io.Raw
        The recording. Unless it is preloaded it is read ten minutes at a time.
    weights : dict of str to dict of str to float
        For each derivation the channels that it sums and their weights, as in
        ``{"C3-O1": {"C3": 1, "O1": -1}}``. One without channels is zero.
    keep_channels : bool, default=False
        Whether the derivations are added to the recording, which is then loaded and
        changed in place, or take the place of its channels in a new one.

    Returns
    -------
    mne.io.Raw
        EEG channels named as in ``weights``, in volts, with the recording's clock and
        annotations, save those of single channels that are gone. With
        ``keep_channels`` they follow the recording's own channels.

    Raises
    ------
    ValueError
        If a channel is missing, or a derivation has the name of a channel that is
        kept.
    """
    import mne

    names = list(weights)
    channels = sorted({channel for parts in weights.values() for channel in parts})
    missing = [channel for channel in channels if channel not in raw.ch_names]
    if missing:
        raise ValueError(
            f"The derivations {names} need the channels {missing}; the recording has "
            f"{raw.ch_names}."
        )
    taken = [name for name in names if name in raw.ch_names]
    if keep_channels and taken:
        raise ValueError(f"The recording already has channels named {taken}.")

    matrix = np.array([[weights[name].get(c, 0.0) for c in channels] for name in names])
    data = np.zeros((len(names), raw.n_times))
    block = max(1, round(_BLOCK_SECONDS * raw.info["sfreq"]))
    for start in range(0, raw.n_times if channels else 0, block):
        stop = min(start + block, raw.n_times)
        data[:, start:stop] = matrix @ raw.get_data(channels, start, stop)

    derived = mne.io.RawArray(
        data,
        mne.create_info(names, raw.info["sfreq"], "eeg"),
        first_samp=raw.first_samp,
        verbose=False,
    )
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
    raw : mne.io.Raw
        The recording.
    pairs : sequence of str, default=("A1-A2", "C3-O1", "C4-O2")
        Derivations as ``"anode-cathode"``. In the default order, Anandakumar et al.'s
        (2022) teacher channel k faces the student's channel k of LR, LE, RE.
    keep_channels : bool, default=False
        Whether to add the derivations to the recording's channels, in place, instead
        of answering with a new recording.

    Returns
    -------
    mne.io.Raw
        EEG channels named as in ``pairs``, in volts.

    Raises
    ------
    ValueError
        If a pair is no ``"anode-cathode"`` or an electrode is missing.
    """
    weights = {}
    for pair in pairs:
        anode, hyphen, cathode = pair.partition("-")
        if not (anode and hyphen and cathode) or anode == cathode:
            raise ValueError(
                f"A derivation reads 'anode-cathode', as in 'C3-O1'; got {pair!r}."
            )
        weights[pair] = {anode: 1.0, cathode: -1.0}
    return derive(raw, weights, keep_channels=keep_channels)


def ear_derivations(raw, *, keep_channels=False):
    """Form LR, LE and RE from the ear electrodes that were kept.

    Means go over the electrodes that the recording has and that are not in its
    ``info["bads"]`` (Anandakumar et al. 2022, equations 3 to 7)::

        LR = mean(ELA, ELB, ELE, ELI, ELG, ELK) - mean(ERA, ERB, ERE, ERI, ERG, ERK)
        LE = mean(ELA, ELB) - mean(ELE, ELI, ELG, ELK)
        RE = mean(ERA, ERB) - mean(ERE, ERI, ERG, ERK)

    Where one of a derivation's two means has no electrode left, the derivation is
    zero, is marked as bad, and a warning says so; such a night stays usable with its
    other derivations. (The paper had to leave its subject 5 out.)

    Parameters
    ----------
    raw : mne.io.Raw
        The recording, after :func:`~skleepkd.preprocessing.reject_ear_electrodes`.
    keep_channels : bool, default=False
        Whether to add the derivations to the recording's channels, in place, instead
        of answering with a new recording.

    Returns
    -------
    mne.io.Raw
        EEG channels LR, LE and RE, in volts.

    Raises
    ------
    ValueError
        If the recording has none of the twelve ear electrodes.
    """
    sides = {
        "LR": (LEFT_CANAL + LEFT_CONCHA, RIGHT_CANAL + RIGHT_CONCHA),
        "LE": (LEFT_CANAL, LEFT_CONCHA),
        "RE": (RIGHT_CANAL, RIGHT_CONCHA),
    }
    electrodes = sides["LR"][0] + sides["LR"][1]
    if not any(name in raw.ch_names for name in electrodes):
        raise ValueError(
            f"No ear electrode ({', '.join(electrodes)}) among the recording's channels "
            f"{raw.ch_names}."
        )
    weights = {}
    for name, (plus, minus) in sides.items():
        plus, minus = (
            [e for e in side if e in raw.ch_names and e not in raw.info["bads"]]
            for side in (plus, minus)
        )
        weights[name] = {}
        if plus and minus:
            weights[name].update(dict.fromkeys(plus, 1 / len(plus)))
            weights[name].update(dict.fromkeys(minus, -1 / len(minus)))
    empty = [name for name, parts in weights.items() if not parts]
    if empty:
        warnings.warn(
            f"{', '.join(empty)}: no electrode is left on one side of the derivation, "
            f"so it is zero (bad channels: {raw.info['bads']}).",
            stacklevel=2,
        )
    return derive(raw, weights, keep_channels=keep_channels)
