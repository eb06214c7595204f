"""Channels of MNE's objects: which are signals, which are marked as bad, the unit of each."""

import re

import numpy as np

from skleepkd.warn import warn

#: Signals of a body spread over microvolts; below this many volts an epoch is in volts.
VOLTS_BELOW = 5e-3
#: Where no unit is stated: accelerometers in g spread over more than this, volts over less.
_SURELY_VOLTS_BELOW = 5e-4
#: In microvolts an epoch spreads over more than this.
_MICROVOLTS_FROM = 0.5
#: A channel that spreads less than this (in volts) in an epoch is flat.
FLAT_VOLTS = 1e-9

_VOLTAGES = ("eeg", "eog", "emg", "ecg", "ecog", "seeg", "dbs", "bio")

#: Names of channels that say what was scored or triggered.
_NO_SIGNAL = re.compile(
    r"hypno(gram|density)?|(sleep[ _-]?)?(stag(e|es|ing)|scor(e|es|ing))|status|sti[ _]?\d*|stim"
    r"|((edf|bdf)\+?[ _])?annotations?|(event|marker|trigger)s?([ _-]?(marker|channel|\d+)s?)?",
    re.IGNORECASE,
)


def pick_channels(mne_object, target, source=None, *, present=None):
    """Names of the wanted channels by modality; a target of None is all signals."""
    ch_names = mne_object.ch_names if present is None else present
    if target is None:
        target = signals_of(mne_object, ch_names)
    picks = {
        modality: [names] if isinstance(names, str) else list(names)
        for modality, names in {"target": target, "source": source}.items()
        if names is not None
    }
    chosen = {name for names in picks.values() for name in names}
    missing = sorted(chosen - set(ch_names))
    if missing:
        raise ValueError(
            f"No channel named {', '.join(missing)}; the recording has {', '.join(ch_names)}."
        )
    warn_of_bads(mne_object, chosen, "used")
    return picks


def signals_of(mne_object, ch_names):
    """Names of the channels that are signals, with a word on those that are not."""
    kinds = dict(zip(mne_object.ch_names, mne_object.get_channel_types(), strict=True))
    others = [
        name
        for name in ch_names
        if kinds[name] == "stim" or _NO_SIGNAL.fullmatch(name.strip())
    ]
    if others:
        warn(
            f"The channels {', '.join(others)} are left out, as stages or triggers by type or "
            "name. If they are signals, name all channels that are wanted."
        )
    return [name for name in ch_names if name not in others]


def warn_of_bads(mne_object, names, used):
    """Warn of channels that are marked as bad and used."""
    bad = [name for name in mne_object.info["bads"] if name in names]
    if bad:
        warn(f"The channels {', '.join(bad)} are marked as bad, and {used} all the same.")


def check_unit(unit, ch_names):
    """Refuse units that are not known, or of channels that are not there."""
    given = unit.values() if isinstance(unit, dict) else [unit]
    if any(one not in ("auto", "V", "uV", None) for one in given) or unit is None:
        raise ValueError(
            "unit is 'auto', 'V' or 'uV', or says so by channel, None being no voltage, as in "
            f"{{'C3': 'V', 'SpO2': None}}; given {unit!r}."
        )
    strangers = set(unit) - set(ch_names) if isinstance(unit, dict) else ()
    if strangers:
        raise ValueError(
            f"unit names {', '.join(map(str, strangers))}; the channels are "
            f"{', '.join(ch_names)}."
        )


def to_microvolts(epochs, mne_object, names, unit, *, strict=True):
    """Scale what is in volts, in place; return units ("V", "uV", None) and spreads before."""
    # Epoch by epoch: the deviation of a whole cohort would need its memory once more.
    spread = np.array([epoch.std(axis=1, dtype=float) for epoch in epochs])
    spread = spread.reshape(len(epochs), len(names))
    kinds = dict(zip(mne_object.ch_names, mne_object.get_channel_types(), strict=True))
    stated = getattr(mne_object, "_orig_units", {})
    given = unit if isinstance(unit, dict) else dict.fromkeys(names, unit)
    units = [
        _unit_of(name, kinds[name], stated.get(name), values[values > FLAT_VOLTS], strict)
        if given.get(name, "auto") == "auto"
        else given[name]
        for name, values in zip(names, spread.T, strict=True)
    ]
    for k, found in enumerate(units):
        if found == "V":
            epochs[:, k] *= 1e6
    return units, spread


def _unit_of(name, kind, stated, spread, strict):
    """Tell the unit of a channel by its type, what its file states, and its spread."""
    typical = np.median(spread) if len(spread) else 0.0
    # MNE has "n/a" where a file states none, or one that it does not know, such as %.
    states_volts = stated is not None and stated.endswith("V")
    if kind not in _VOLTAGES and not states_volts:
        return None
    if stated == "n/a" or (kind == "bio" and not states_volts):
        return "V" if typical < _SURELY_VOLTS_BELOW else None
    if typical < VOLTS_BELOW:
        return "V"
    if _MICROVOLTS_FROM <= typical < 1e6 * VOLTS_BELOW or not strict:
        return "uV"
    raise ValueError(
        f"{name} spreads over {typical:.2g} in an epoch, neither volts nor microvolts: filter "
        f"a drift, or say unit={{{name!r}: 'V'}}, 'uV' or None (no voltage) to "
        "PairedEpochs.from_mne and the like."
    )
