"""How MNE and braindecode objects become the arrays of a pair."""

import numpy as np

from skleepkd.inputs import to_microvolts


def from_mne(epochs, target, source, subject, recording, unit):
    """Arguments of PairedEpochs from one ``mne.Epochs``."""
    picks = _picks(epochs.ch_names, target, source)
    arrays = {
        modality: np.empty((len(epochs), len(names), len(epochs.times)), dtype=np.float32)
        for modality, names in picks.items()
    }
    n_a_time = 128  # epochs that were not loaded are read from their file in float64
    for start in range(0, len(epochs), n_a_time):
        rows = slice(start, start + n_a_time)
        for modality, names in picks.items():
            arrays[modality][rows] = epochs[rows].get_data(picks=names)
    metadata = epochs.metadata if epochs.metadata is not None else {}
    return {
        **{modality: to_microvolts(array, unit) for modality, array in arrays.items()},
        "subject": metadata.get("subject") if subject is None else subject,
        "recording": metadata.get("recording") if recording is None else recording,
        "onset": epochs.events[:, 0] / epochs.info["sfreq"],
        "sfreq": epochs.info["sfreq"],
        "ch_names": picks,
    }


def from_windows(dataset, target, source, unit):
    """Arguments of PairedEpochs from a braindecode data set of windows."""
    parts, columns, picks, sfreq = (
        {},
        {"subject": [], "recording": [], "onset": []},
        None,
        None,
    )
    for number, windows in enumerate(dataset.datasets):
        inst = windows.raw if hasattr(windows, "raw") else windows.windows
        if picks is None:
            sfreq, picks = inst.info["sfreq"], _picks(inst.ch_names, target, source)
            parts = {modality: [] for modality in picks}
        elif inst.info["sfreq"] != sfreq:
            raise ValueError(
                f"The recordings' sampling rates differ: {sfreq} and {inst.info['sfreq']} Hz. "
                "Resample them first."
            )
        index = {
            modality: [inst.ch_names.index(name) for name in names]
            for modality, names in _picks(inst.ch_names, target, source).items()
        }
        rows = [windows[i] for i in range(len(windows))]
        for modality, channels in index.items():
            parts[modality].append(
                np.stack([signal[channels] for signal, *_ in rows]).astype(np.float32)
            )
        description = windows.description if windows.description is not None else {}
        names = [
            str(description[key])
            for key in ("subject", "session", "run")
            if key in description
        ]
        columns["subject"] += [str(description.get("subject", number))] * len(rows)
        columns["recording"] += ["-".join(names) or str(number)] * len(rows)
        # The third item says where in the recording the window lies, in samples.
        columns["onset"] += [where[1] / sfreq for _, _, where in rows]
    if picks is None:
        raise ValueError("The data set holds no windows.")
    arrays = {
        modality: to_microvolts(np.concatenate(nights), unit)
        for modality, nights in parts.items()
    }
    return {**arrays, **columns, "sfreq": sfreq, "ch_names": picks}


def from_raws(source_raw, target_raw, onset, offset, drift, source, target, unit, epoch):
    """Arguments of PairedEpochs from two recordings of one night."""
    if not len(onset):
        raise ValueError(
            "The annotations hold no sleep stage of at least one epoch "
            f"({epoch:g} s): nothing to cut."
        )
    raws = {"target": target_raw, "source": source_raw}
    wanted = {"target": target, "source": source}
    first, length = {}, {}
    for modality, raw in raws.items():
        clock = onset if modality == "source" else (onset - offset) * (1 + drift)
        length[modality] = round(epoch * raw.info["sfreq"])
        first[modality] = np.round(clock * raw.info["sfreq"]).astype(int)
    covered = np.logical_and.reduce(
        [
            (first[modality] >= 0) & (first[modality] + length[modality] <= raw.n_times)
            for modality, raw in raws.items()
        ]
    )
    if not covered.any():
        spans = ", ".join(
            f"{name} {raw.n_times / raw.info['sfreq']:.0f} s" for name, raw in raws.items()
        )
        raise ValueError(
            f"None of the {len(onset)} scored epochs (from {onset[0]:.0f} to "
            f"{onset[-1] + epoch:.0f} s) is covered by both recordings ({spans}, offset "
            f"{offset:g} s). Check the offset's sign and the annotations' clock."
        )
    built = {"onset": onset[covered], "sfreq": {}, "ch_names": {}}
    for modality, raw in raws.items():
        names = list(raw.ch_names) if wanted[modality] is None else list(wanted[modality])
        names = _picks(raw.ch_names, names, None)["target"]
        signal = np.empty((covered.sum(), len(names), length[modality]), dtype=np.float32)
        for row, start in enumerate(first[modality][covered]):
            signal[row] = raw.get_data(
                picks=names, start=start, stop=start + length[modality]
            )
        built[modality] = to_microvolts(signal, unit)
        built["sfreq"][modality] = raw.info["sfreq"]
        built["ch_names"][modality] = names
    return built


def _picks(ch_names, target, source):
    picks = {"target": list(target)}
    if source is not None:
        picks["source"] = list(source)
    missing = sorted({name for names in picks.values() for name in names} - set(ch_names))
    if missing:
        raise ValueError(
            f"No channel named {', '.join(missing)}; the recording has {', '.join(ch_names)}."
        )
    return picks
