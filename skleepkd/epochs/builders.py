"""Pairs out of MNE and braindecode objects: class methods of PairedEpochs, in microvolts."""

from functools import wraps

import numpy as np

from skleepkd.edf import DATES_AGREE, seconds_by_dates, seconds_left_out, warn_of_cut
from skleepkd.epochs.channels import check_unit, pick_channels, to_microvolts
from skleepkd.epochs.rows import Signal
from skleepkd.stages import (
    EPOCH_SECONDS,
    as_annotations,
    check_texts,
    scored_onsets,
    scored_pieces,
    stage_of_text,
)
from skleepkd.warn import warn


def by_name(n_positional, line):
    """Decorate a function whose further arguments go by name, with the line to write."""

    def decorate(function):
        @wraps(function)
        def named(*args, **options):
            if len(args) > n_positional:
                raise TypeError(f"The two signals are given by name: {line}.")
            return function(*args, **options)

        return named

    return decorate


def from_mne(
    cls, epochs, *, target=None, source=None, subject=None, recording=None, unit="auto"
):
    """Build a pair from one ``mne.Epochs`` that holds both modalities.

    Parameters
    ----------
    epochs : mne.Epochs or list of mne.Epochs
        Simultaneous channels; of a list, alike in all. ``subject`` and ``recording`` columns
        of the metadata are used where they exist. Bad epochs are left out, as
        ``epochs.drop_bad()`` does.
    target, source : list of str, optional
        The channels of each modality. Without a target all signals: all channels but
        those of MNE's type "stim" or with names such as "hypnogram", "event" or "trigger".
    subject, recording : str or array-like of shape (n_epochs,), optional
        As in the constructor.
    unit : {"auto", "V", "uV"} or dict, default="auto"
        What the signals are in. "auto" decides channel by channel, from its type, the unit
        that its file states and its spread: volts become microvolts, what is no voltage
        (SpO2, temperature, acceleration) stays. A dict says so of some channels, None
        being no voltage: ``{"C3": "V", "SpO2": None}``.

    Returns
    -------
    PairedEpochs
        In microvolts, float32. Its onsets are the events' sample numbers in seconds, plus
        ``epochs.tmin``.

    Raises
    ------
    ValueError
        If a channel or a unit is unknown, or a voltage spreads neither as volts nor as
        microvolts do.

    Warns
    -----
    UserWarning
        If channels are used that are marked as bad, or left out as no signals.
    """
    parts = epochs if isinstance(epochs, list | tuple) else [epochs]
    parts = [part if part.preload else part.copy() for part in parts]
    # MNE does not know yet which epochs are bad where they are not loaded.
    for part in parts:
        if not part.preload:
            part.drop_bad(verbose="error")  # MNE 1.11: None, the second time
    first = parts[0]
    if len({(*p.ch_names, p.info["sfreq"], len(p.times)) for p in parts}) > 1:
        raise ValueError("The mne.Epochs differ in channels, sampling rates or lengths.")
    check_unit(unit, first.ch_names)
    ch_names = pick_channels(first, target, source)
    signals = {}
    for modality, names in ch_names.items():
        shape = (sum(map(len, parts)), len(names), len(first.times))
        signals[modality] = signal = np.empty(shape, dtype=np.float32)
        numbers, row = [first.ch_names.index(name) for name in names], 0
        for part in parts:
            for start in range(0, len(part), 128):  # MNE computes in double precision
                item = slice(start, min(start + 128, len(part)))
                block = part.get_data(numbers, item=item, copy=False, verbose="error")
                signal[row : row + len(block)] = block
                row += len(block)
        to_microvolts(signal, first, names, unit)
    columns = {"subject": subject, "recording": recording}
    for name, given in columns.items():
        tables = [part.metadata for part in parts]
        if given is None and all(table is not None and name in table for table in tables):
            columns[name] = np.concatenate([table[name] for table in tables])
    sfreq = first.info["sfreq"]
    return cls(
        **signals,
        **columns,
        onset=np.concatenate([part.events[:, 0] for part in parts]) / sfreq + first.tmin,
        sfreq=sfreq,
        ch_names=ch_names,
    )


def from_windows(cls, dataset, *, target=None, source=None, unit="auto"):
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
        If there are no windows, their lengths or sampling rates differ, a recording was
        interrupted, paused or joined, or as :meth:`from_mne` does.
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
        if hasattr(windows, "raw"):
            seconds_left_out(mne_object)  # windows are not to reach over a gap
            warn_of_cut(mne_object)
        check_unit(unit, mne_object.ch_names)
        ch_names = pick_channels(mne_object, target, source, present=present)
        if sfreq is None:
            sfreq, n_times = mne_object.info["sfreq"], windows[0][0].shape[-1]
            target, source = ch_names["target"], ch_names.get("source")  # of all, in order
            signals = {
                modality: np.empty((len(dataset), len(names), n_times), dtype=np.float32)
                for modality, names in ch_names.items()
            }
        if mne_object.info["sfreq"] != sfreq:
            raise ValueError(
                f"The recordings' sampling rates differ: {sfreq} and "
                f"{mne_object.info['sfreq']} Hz. Resample them first."
            )
        begin = row
        for window, _, where in (windows[i][:3] for i in range(len(windows))):
            for modality, names in ch_names.items():
                signals[modality][row] = window[[present.index(name) for name in names]]
            onset.append(where[1] / sfreq)  # where[1] is the window's first sample
            row += 1
        for modality, names in ch_names.items():
            to_microvolts(signals[modality][begin:row], mne_object, names, unit)
        about = {} if windows.description is None else dict(windows.description)
        keys = ("subject", "session", "recording", "run")
        name = "-".join(str(about[key]) for key in keys if key in about)
        if not name or name in recording:
            name = f"{name}-{number}".removeprefix("-")
        subject += [about.get("subject")] * len(windows)
        recording += [name] * len(windows)
    return cls(
        **signals,
        subject=None if None in subject else list(map(str, subject)),
        recording=recording,
        onset=onset,
        sfreq=sfreq,
        ch_names=ch_names,
    )


@by_name(1, "from_raws(target_raw=wearable, source_raw=psg, annotations=annotations)")
def from_raws(
    cls,
    *,
    target_raw,
    source_raw,
    annotations=None,
    clock=None,
    offset=0.0,
    drift=0.0,
    target=None,
    source=None,
    subject=None,
    recording=None,
    unit="auto",
    epoch=EPOCH_SECONDS,
):
    """Cut a pair out of two recordings of one night by two devices.

    Parameters
    ----------
    target_raw, source_raw : mne.io.Raw
        The wearable and the polysomnography.
    annotations : mne.Annotations or Hypnogram, optional
        Scored stages, in seconds from the start of ``source_raw``. Each makes as many
        rows as whole epochs fit into it, labelled by ``skleepkd.stages.stages_at``;
        where stages are scored every 5 or 20 s, each stretch of them does. Without, every
        whole epoch from the start of ``source_raw`` is a row, of a night that nobody scored.
    clock : Clock, optional
        Offset and drift as :func:`skleepkd.estimate_clock` finds them in these recordings;
        or, where they are known, they are given by their numbers:
    offset : float, default=0.0
        Seconds from the source's start to the target's; negative where that came first.
    drift : float, default=0.0
        Seconds that the target's clock gains in a second of the source's clock.
    target, source : list of str, optional
        Channels; all signals by default, as for :meth:`from_mne`.
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
        If the annotations hold no stage, different ones that overlap, or count from another
        moment than the start of ``source_raw``; a recording was interrupted (EDF+D), paused
        or joined; no epoch is covered by both; a clock is given beside an offset or a drift,
        or is of other recordings (by their dates); or as :meth:`from_mne` does.
    TypeError
        If the recordings or the annotations are of another kind, or not given by name.

    Warns
    -----
    UserWarning
        If the offset is not what the recordings' dates say, a file begins later than its
        header says or was cut short, stages lie outside ``source_raw``, long annotations are
        no known stage, or as :meth:`from_mne` does.
    """
    raws = {"target": target_raw, "source": source_raw}
    annotations = as_annotations(annotations)
    check_kinds(raws, annotations)
    by_dates = seconds_by_dates(raws)
    if clock is not None:
        offset, drift = _of_clock(clock, offset, drift, by_dates)
    elif by_dates is not None and abs(by_dates - offset) > DATES_AGREE:
        by_them = f"offset={by_dates:.10g}, or " if abs(by_dates) < 86400 else ""
        warn(
            f"By the recordings' dates the target began {by_dates:+.10g} s after the source; "
            f"given offset={offset:g}. Give {by_them}what both recordings saw, "
            "clock=skleepkd.estimate_clock(source_raw=..., target_raw=...), or take out a "
            "date that is wrong: raw.set_meas_date(None)."
        )
    for raw in raws.values():
        warn_of_cut(raw)
    if annotations is None:
        most = source_raw.n_times // round(epoch * source_raw.info["sfreq"])
        onset = epoch * np.arange(most + 1)  # what is not covered is left out below
    else:
        check_texts(annotations, epoch=epoch)
        _check_clock(annotations, source_raw)
        pieces = scored_pieces(annotations)
        _warn_of_outside(pieces, source_raw, epoch)
        onset = scored_onsets(pieces, epoch)
    if not len(onset):
        columns = zip(annotations.duration, annotations.description, strict=True)
        lasts = [duration for duration, text in columns if stage_of_text(text) is not None]
        found = ", ".join(f"{duration:g}" for duration in sorted(set(lasts))[-5:])
        raise ValueError(
            f"The annotations hold no sleep stage of at least one epoch ({epoch:g} s): "
            f"{len(lasts)} of {len(annotations)} are stages, which last {found or 'no'} s. "
            "Give mne.Annotations the durations of stages, or epoch= another length."
        )
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
            f"None of the {len(onset)} epochs (from {onset[0]:.0f} to "
            f"{onset[-1] + epoch:.0f} s) is covered by both recordings ({last}, offset "
            f"{offset:g} s). Check the offset's sign and the annotations' clock; "
            "skleepkd.estimate_clock finds the offset in the signals."
        )
    check_unit(unit, [name for raw in raws.values() for name in raw.ch_names])
    signals, ch_names = {}, {}
    for (modality, raw), wanted in zip(raws.items(), (target, source), strict=True):
        names = pick_channels(raw, wanted)["target"]
        numbers = [raw.ch_names.index(name) for name in names]
        signal = np.empty((covered.sum(), len(names), length[modality]), dtype=np.float32)
        for row, start in enumerate(first[modality][covered]):
            signal[row] = raw.get_data(numbers, start, start + length[modality])
        to_microvolts(signal, raw, names, unit)
        # As a signal: its length is what the user has chosen, and is not checked.
        signals[modality], ch_names[modality] = Signal(signal), names
    return cls(
        **signals,
        subject=subject,
        recording=recording,
        onset=onset[covered],
        sfreq={modality: raw.info["sfreq"] for modality, raw in raws.items()},
        ch_names=ch_names,
    )


def check_kinds(raws, annotations=None):
    """Refuse what is no recording or no annotations."""
    for modality, raw in raws.items():
        if not hasattr(raw, "first_time"):
            raise TypeError(
                f"{modality}_raw is an mne.io.Raw; given {type(raw).__name__}. "
                "mne.io.read_raw(path) opens a file."
            )
    if annotations is not None and not hasattr(annotations, "orig_time"):
        raise TypeError(
            f"annotations are mne.Annotations; given {type(annotations).__name__}. Of a file: "
            "skleepkd.read_hypnogram(path); of names such as 'N2' of all epochs: "
            "mne.Annotations(30.0 * np.arange(len(names)), 30.0, names)."
        )


def _of_clock(clock, offset, drift, by_dates):
    """Take offset and drift from a Clock of these recordings."""
    if not (hasattr(clock, "offset") and hasattr(clock, "drift")):
        raise TypeError(
            f"clock is what skleepkd.estimate_clock returns; given {type(clock).__name__}. "
            "Numbers are given as offset= and drift=."
        )
    if offset or drift:
        raise ValueError("Give clock=, or offset= and drift=; not both.")
    then = getattr(clock, "by_dates", None)
    if None not in (then, by_dates) and abs(then - by_dates) > 0.5:
        raise ValueError(
            f"The clock is of other recordings, or of these before a crop: by the dates of "
            f"those the target began {then:+.10g} s after the source, here {by_dates:+.10g} s. "
            "Estimate it of these."
        )
    return clock.offset, clock.drift


def _warn_of_outside(pieces, raw, epoch):
    """Warn of stages before or after the recording that was scored, which make no rows."""
    ends = raw.n_times / raw.info["sfreq"]
    scored = np.array([piece[:2] for piece in pieces if piece[2] >= 0]).reshape(-1, 2)
    inside = np.diff(scored.clip(0, ends)).sum()
    outside = np.diff(scored).sum() - inside
    if outside > epoch:
        warn(
            f"Stages of {outside:.0f} s lie outside source_raw, which lasts {ends:.0f} s, and make "
            "no rows. Is it the recording that was scored, and are the scoring's epochs as long "
            "as it says?"
        )


def _check_clock(annotations, raw):
    """Refuse annotations that count from another moment than a recording's first sample."""
    lead = raw.first_time + seconds_left_out(raw)  # from the beginning of the file
    if None not in (annotations.orig_time, raw.info["meas_date"]):
        # MNE's annotations of a cropped recording count from before the crop.
        ahead = (annotations.orig_time - raw.info["meas_date"]).total_seconds() - lead
    else:  # as the recording's own annotations tell, which count from before a crop too
        own, given = (
            {
                (round(float(at), 3), text)
                for at, text in zip(a.onset, a.description, strict=True)
            }
            for a in (raw.annotations, annotations)
        )
        shifted = {(round(at + lead, 3), text) for at, text in given}
        ahead = -lead if len(own & given) > len(own & shifted) else 0.0
        if lead and not own & (given | shifted):
            warn(
                f"source_raw begins {lead:g} s into its recording; annotations without a date "
                "are taken to count from there. If they do not: mne.Annotations("
                f"a.onset - {lead:.10g}, a.duration, a.description), a being the annotations."
            )
    if abs(ahead) > 0.5 / raw.info["sfreq"]:
        raise ValueError(
            f"The annotations count from {annotations.orig_time or 'before the crop'}, "
            f"{ahead:+g} s after the first sample of source_raw. Count them from that sample: "
            f"mne.Annotations(a.onset {ahead:+.10g}, a.duration, a.description), a being the "
            "annotations."
        )
