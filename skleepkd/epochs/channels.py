"""Channels of MNE's objects: which are signals, which are marked as bad, the unit of each."""

import re
import warnings

import numpy as np

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
    r"|((edf|bdf)\+?[ _])?annotations?|(event|marker|trigger)s?([ _-]?(marker|channel)s?)?",
    re.IGNORECASE,
)


def pick_channels(mne_object, target, source=None, *, present=None, stacklevel=3):
    """Names of the wanted channels by modality; a target of None is all signals."""
    ch_names = mne_object.ch_names if present is None else present
    if target is None:
        target = signals_of(mne_object, ch_names, stacklevel + 1)
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
    warn_of_bads(mne_object, chosen, "used", stacklevel + 1)
    return picks


def signals_of(mne_object, ch_names, stacklevel):
    """Names of the channels that are signals, with a word on those that are not."""
    kinds = dict(zip(mne_object.ch_names, mne_object.get_channel_types(), strict=True))
    others = [
        name
        for name in ch_names
        if kinds[name] == "stim" or _NO_SIGNAL.fullmatch(name.strip())
    ]
    if others:
        warnings.warn(
            f"The channels {', '.join(others)} are left out, as stages or triggers by type or "
            "name. If they are signals, name all channels that are wanted.",
            stacklevel=stacklevel,
        )
    return [name for name in ch_names if name not in others]


def warn_of_bads(mne_object, names, used, stacklevel):
    """Warn of channels that are marked as bad and used."""
    bad = [name for name in mne_object.info["bads"] if name in names]
    if bad:
        warnings.warn(
            f"The channels {', '.join(bad)} are marked as bad, and {used} all the same.",
            stacklevel=stacklevel,
        )


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


def find_units(mne_object, names, spread, unit, *, strict=True):
    """Tell "V", "uV" or None by type, stated unit and spread (n_epochs, n_channels)."""
    kinds = dict(zip(mne_object.ch_names, mne_object.get_channel_types(), strict=True))
    stated = getattr(mne_object, "_orig_units", {})
    given = unit if isinstance(unit, dict) else dict.fromkeys(names, unit)
    units = []
    for name, values in zip(names, np.asarray(spread).T, strict=True):
        if given.get(name, "auto") != "auto":
            units.append(given.get(name))
            continue
        # MNE has "n/a" where a file states none, or one that it does not know, such as %.
        is_voltage, known = kinds[name] in _VOLTAGES, stated.get(name, "V").endswith("V")
        values = values[values > FLAT_VOLTS]
        typical = np.median(values) if len(values) else 0.0
        if not is_voltage and not (known and name in stated):
            units.append(None)
        elif not known or kinds[name] == "bio":
            units.append("V" if typical < _SURELY_VOLTS_BELOW else None)
        elif typical < VOLTS_BELOW:
            units.append("V")
        elif typical >= _MICROVOLTS_FROM or not strict:
            units.append("uV")
        else:
            raise ValueError(
                f"{name} spreads over {typical:.2g} in an epoch, neither volts nor microvolts: "
                f"filter a drift, or say unit={{{name!r}: 'V'}}, 'uV' or None (no voltage) to "
                "PairedEpochs.from_mne and the like."
            )
    return units


def to_microvolts(epochs, units):
    """Scale the channels of epochs that are in volts, in place."""
    for k, unit in enumerate(units):
        if unit == "V":
            epochs[:, k] *= 1e6
    return epochs


def spread_of(epochs):
    """Deviations in each epoch, (n_epochs, n_channels), one by one to need no memory."""
    return np.array([epoch.std(axis=1) for epoch in epochs]).reshape(len(epochs), -1)
