"""Pairs out of MNE and braindecode objects: class methods of PairedEpochs, in microvolts."""

import warnings

import numpy as np

from skleepkd.edf import seconds_left_out
from skleepkd.epochs.rows import Signal
from skleepkd.stages import EPOCH_SECONDS, check_texts, stage_of_text

#: EEG, EOG, EMG and ECG epochs spread over microvolts; a spread below this is volts.
_VOLTS_BELOW = 5e-3
#: A channel that spreads less than this (in volts) in an epoch is flat.
FLAT_VOLTS = 1e-9

#: Seconds by which an offset may differ from the headers' dates, which are whole seconds.
_DATES_AGREE = 2.0


def from_mne(
    cls, epochs, *, target, source=None, subject=None, recording=None, unit="auto"
):
    """Build a pair from one ``mne.Epochs`` that holds both modalities.

    Parameters
    ----------
    epochs : mne.Epochs
        Simultaneous channels. ``subject`` and ``recording`` columns of its metadata are
        used where they exist. Bad epochs are left out, as ``epochs.drop_bad()`` does.
    target, source : list of str
        The channels of each modality.
    subject, recording : str or array-like of shape (n_epochs,), optional
        As in the constructor.
    unit : {"auto", "V", "uV"}, default="auto"
        What the signals are in; "auto" takes for volts what looks like volts.

    Returns
    -------
    PairedEpochs
        In microvolts, float32. Its onsets are the events' sample numbers in seconds, plus
        ``epochs.tmin``.

    Raises
    ------
    ValueError
        If a channel or the unit is unknown.
    """
    if not epochs.preload:  # MNE does not know yet which epochs are bad
        epochs = epochs.copy()
        epochs.drop_bad(verbose="error")
    ch_names = _picks(epochs.ch_names, target, source)
    sfreq = epochs.info["sfreq"]
    signals = {
        modality: np.empty((len(epochs), len(names), len(epochs.times)), dtype=np.float32)
        for modality, names in ch_names.items()
    }
    for start in range(0, len(epochs), 128):  # MNE computes in double precision
        rows = slice(start, start + 128)
        for modality, names in ch_names.items():
            signals[modality][rows] = epochs.get_data(
                picks=names, item=rows, copy=False, verbose="error"
            )
    metadata = {} if epochs.metadata is None else epochs.metadata
    return cls(
        **{modality: to_microvolts(signal, unit) for modality, signal in signals.items()},
        subject=metadata.get("subject") if subject is None else subject,
        recording=metadata.get("recording") if recording is None else recording,
        onset=epochs.events[:, 0] / sfreq + epochs.tmin,
        sfreq=sfreq,
        ch_names=ch_names,
    )


def from_windows(cls, dataset, *, target, source=None, unit="auto"):
    """Build a pair from a braindecode ``BaseConcatDataset`` of windows.

    Parameters
    ----------
    dataset : braindecode.datasets.BaseConcatDataset
        What ``create_windows_from_events`` or ``create_fixed_length_windows`` returned.
        The description of each recording names its ``subject`` (where one does not,
        the pair knows none); the recording's name is made of ``subject``, ``session``,
        ``recording`` and ``run``, and of its number where that is not unique.
    target, source, unit
        As for :meth:`from_mne`.

    Returns
    -------
    PairedEpochs
        In microvolts, float32. Labels of its rows are ``dataset.get_metadata()["target"]``.

    Raises
    ------
    ValueError
        If there are no windows, their lengths or sampling rates differ, or a channel or
        the unit is unknown.
    """
    if not (len(dataset) and all(hasattr(part, "crop_inds") for part in dataset.datasets)):
        raise ValueError(
            "These are recordings, not windows, or none: cut them with braindecode's "
            "create_fixed_length_windows or create_windows_from_events first."
        )
    signals, sfreq, row = {}, None, 0
    subject, recording, onset = [], [], []
    for number, windows in enumerate(dataset.datasets):
        if not len(windows):
            continue
        mne_object = windows.raw if hasattr(windows, "raw") else windows.windows
        present = mne_object.ch_names
        if windows.targets_from == "channels":  # such windows come without them
            kinds = mne_object.get_channel_types()
            present = [
                name for name, kind in zip(present, kinds, strict=True) if kind != "misc"
            ]
        ch_names = _picks(present, target, source)
        if sfreq is None:
            sfreq, n_times = mne_object.info["sfreq"], windows[0][0].shape[-1]
            signals = {
                modality: np.empty((len(dataset), len(names), n_times), dtype=np.float32)
                for modality, names in ch_names.items()
            }
        if mne_object.info["sfreq"] != sfreq:
            raise ValueError(
                f"The recordings' sampling rates differ: {sfreq} and "
                f"{mne_object.info['sfreq']} Hz. Resample them first."
            )
        for window, _, where in (windows[i][:3] for i in range(len(windows))):
            for modality, names in ch_names.items():
                signals[modality][row] = window[[present.index(name) for name in names]]
            onset.append(where[1] / sfreq)  # where[1] is the window's first sample
            row += 1
        about = {} if windows.description is None else dict(windows.description)
        keys = ("subject", "session", "recording", "run")
        name = "-".join(str(about[key]) for key in keys if key in about)
        if not name or name in recording:
            name = f"{name}-{number}".removeprefix("-")
        subject += [about.get("subject")] * len(windows)
        recording += [name] * len(windows)
    return cls(
        **{modality: to_microvolts(signal, unit) for modality, signal in signals.items()},
        subject=None if None in subject else list(map(str, subject)),
        recording=recording,
        onset=onset,
        sfreq=sfreq,
        ch_names=ch_names,
    )


def from_raws(
    cls,
    source_raw,
    target_raw,
    annotations,
    *,
    offset=0.0,
    drift=0.0,
    source=None,
    target=None,
    subject=None,
    recording=None,
    unit="auto",
    epoch=EPOCH_SECONDS,
):
    """Cut a pair out of two recordings of one night by two devices.

    Parameters
    ----------
    source_raw, target_raw : mne.io.Raw
        The polysomnography and the wearable.
    annotations : mne.Annotations
        Scored stages, in seconds from the start of ``source_raw``. Each makes as many
        rows as whole epochs fit into it, labelled by ``skleepkd.stages.stages_at``.
    offset : float, default=0.0
        Seconds from the source's start to the target's; negative where that came first.
    drift : float, default=0.0
        Seconds that the target's clock gains in a second of the source's clock.
    source, target : list of str, optional
        Channels; all of them by default.
    subject, recording, unit
        As for :meth:`from_mne`.
    epoch : float, default=30.0
        Length of an epoch in seconds.

    Returns
    -------
    PairedEpochs
        In microvolts, float32: the epochs that both recordings cover whole, in order;
        ``onset`` counts from the start of ``source_raw``. Each target epoch begins at the
        sample nearest to its source epoch's beginning.

    Raises
    ------
    ValueError
        If the annotations hold no stage or count from another moment than the start of
        ``source_raw``, a recording was interrupted (EDF+D), no epoch is covered by both, or
        a channel or the unit is unknown.
    TypeError
        If the recordings or the annotations are of another kind.

    Warns
    -----
    UserWarning
        If the offset is not what the recordings' dates say, or long annotations are no
        known stage.
    """
    raws = {"target": target_raw, "source": source_raw}
    _check_kinds(raws, annotations)
    # Seconds from its measurement date to its first sample.
    lead = {
        modality: raw.first_time + seconds_left_out(raw) for modality, raw in raws.items()
    }
    dates = [raw.info["meas_date"] for raw in raws.values()]
    if None not in dates:
        began = (dates[0] - dates[1]).total_seconds() + lead["target"] - lead["source"]
        if abs(began - offset) > _DATES_AGREE:
            warnings.warn(
                f"By the recordings' dates the target began {began:+.10g} s after the source; "
                f"given offset={offset:g}. Give offset={began:.10g}, or take out a date that "
                "is wrong: raw.set_meas_date(None).",
                stacklevel=2,
            )
    check_texts(annotations, epoch=epoch)
    onset = _scored_onsets(annotations, source_raw, lead["source"], epoch)
    seconds = {"target": (onset - offset) * (1 + drift), "source": onset}
    first, length, covered = {}, {}, np.ones(len(onset), dtype=bool)
    for modality, raw in raws.items():
        first[modality] = np.round(seconds[modality] * raw.info["sfreq"]).astype(int)
        length[modality] = round(epoch * raw.info["sfreq"])
        covered &= first[modality] >= 0
        covered &= first[modality] + length[modality] <= raw.n_times
    if not covered.any():
        last = {
            name: f"{raw.n_times / raw.info['sfreq']:.0f} s" for name, raw in raws.items()
        }
        raise ValueError(
            f"None of the {len(onset)} scored epochs (from {onset[0]:.0f} to "
            f"{onset[-1] + epoch:.0f} s) is covered by both recordings ({last}, offset "
            f"{offset:g} s). Check the offset's sign and the annotations' clock."
        )
    signals, ch_names = {}, {}
    for (modality, raw), wanted in zip(raws.items(), (target, source), strict=True):
        wanted = raw.ch_names if wanted is None else wanted
        names = ch_names[modality] = _picks(raw.ch_names, wanted)["target"]
        signal = np.empty((covered.sum(), len(names), length[modality]), dtype=np.float32)
        for row, start in enumerate(first[modality][covered]):
            stop = start + length[modality]
            signal[row] = raw.get_data(picks=names, start=start, stop=stop)
        # As a signal: its length is what the user has chosen, and is not checked.
        signals[modality] = Signal(to_microvolts(signal, unit))
    return cls(
        **signals,
        subject=subject,
        recording=recording,
        onset=onset[covered],
        sfreq={modality: raw.info["sfreq"] for modality, raw in raws.items()},
        ch_names=ch_names,
    )


def to_microvolts(array, unit):
    """Scale epochs of floats in place to microvolts; "auto" takes for volts what looks so."""
    if unit not in ("auto", "V", "uV"):
        raise ValueError(f"unit is 'auto', 'V' or 'uV'; given {unit!r}.")
    # Epoch by epoch: the deviation of a whole cohort would need its memory once more.
    if unit == "V" or (unit == "auto" and in_volts([epoch.std(axis=1) for epoch in array])):
        array *= 1e6
    return array


def in_volts(spread):
    """Tell volts from microvolts by the spreads of epochs and channels that are not flat."""
    spread = np.asarray(spread)
    spread = spread[spread > 0]
    return bool(len(spread)) and bool(np.median(spread) < _VOLTS_BELOW)


def _check_kinds(raws, annotations):
    """Refuse what is no recording or no annotations."""
    for modality, raw in raws.items():
        if not hasattr(raw, "first_time"):
            raise TypeError(
                f"{modality}_raw is an mne.io.Raw; given {type(raw).__name__}. "
                "mne.io.read_raw(path) opens a file."
            )
    if not hasattr(annotations, "orig_time"):
        raise TypeError(
            f"annotations are mne.Annotations; given {type(annotations).__name__}. Of a file: "
            "mne.read_annotations(path); of names such as 'N2' of all epochs: "
            "mne.Annotations(30.0 * np.arange(len(names)), 30.0, names)."
        )


def _scored_onsets(annotations, raw, lead, epoch):
    """Onsets of the whole epochs inside the annotated stages, in seconds and in order."""
    if annotations.orig_time is not None and raw.info["meas_date"] is not None:
        # MNE's annotations of a cropped recording count from before the crop.
        ahead = (annotations.orig_time - raw.info["meas_date"]).total_seconds() - lead
        if abs(ahead) > 0.5 / raw.info["sfreq"]:
            raise ValueError(
                f"The annotations count from {annotations.orig_time}, {ahead:+g} s after the "
                "first sample of source_raw. Count them from that sample: mne.Annotations("
                f"a.onset {ahead:+.10g}, a.duration, a.description), a being the annotations."
            )
    columns = (annotations.onset, annotations.duration, annotations.description)
    stages = [
        (start, duration)
        for start, duration, text in zip(*columns, strict=True)
        if stage_of_text(text) is not None
    ]
    onset = [
        start + k * epoch
        for start, duration in stages
        for k in range(int((duration + 1e-3) // epoch))
    ]
    if not onset:
        found = ", ".join(
            f"{duration:g}" for duration in sorted({d for _, d in stages})[-5:]
        )
        raise ValueError(
            f"The annotations hold no sleep stage of at least one epoch ({epoch:g} s): "
            f"{len(stages)} of {len(annotations)} are stages, which last {found or 'no'} s. "
            "Give mne.Annotations the durations of stages, or epoch= another length."
        )
    return np.unique(onset)


def _picks(ch_names, target, source=None):
    """Names of the wanted channels by modality, each of them present."""
    wanted = {"target": target, "source": source}
    picks = {
        modality: [names] if isinstance(names, str) else list(names)
        for modality, names in wanted.items()
        if names is not None
    }
    missing = sorted({name for names in picks.values() for name in names} - set(ch_names))
    if missing:
        raise ValueError(
            f"No channel named {', '.join(missing)}; the recording has {', '.join(ch_names)}."
        )
    return picks
