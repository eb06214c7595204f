"""One recording staged: what stands in a file, or a Raw, becomes a hypnogram."""

from datetime import datetime
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skleepkd import edf
from skleepkd.epochs import PairedEpochs, channels
from skleepkd.hypnogram import Hypnogram
from skleepkd.pipelines import class_names, final_estimator, split_pipeline, transform
from skleepkd.preprocessing import SourceSelector
from skleepkd.recording import artefacts
from skleepkd.recording.folder import stage_folder
from skleepkd.stages import EPOCH_SECONDS, sleep_order
from skleepkd.warn import warn

#: Methods of a Raw that treat each EEG channel by itself, whatever other channels hold.
_CHANNELWISE = ("crop", "filter", "notch_filter", "resample", "savgol_filter")


class RecordingStager(BaseEstimator):
    """Stage recordings: a fitted stager together with the preprocessing of its signals.

    Parameters
    ----------
    stager : estimator
        A fitted :class:`SleepStager`, :class:`DistilledSleepStager` or
        :class:`FineTunedSleepStager`, or a ``Pipeline`` or a search over one, or any fitted
        classifier of epochs with ``predict_proba``, such as a ready one of
        :mod:`skleepkd.teachers`, which finds its channels by their names.
    preprocessors : list of braindecode.preprocessing.Preprocessor, default=()
        What is done to the recording, in volts, before epochs are cut, in this order; the
        same as before training.
    ch_names : list of str, optional
        Channels of the preprocessed recording in the order in which the stager was
        fitted. By default those that the stager was fitted to, where it knows their names;
        else all signals, as for :meth:`PairedEpochs.from_mne`, if their number is the
        stager's.
    unit : {"auto", "V", "uV"} or dict, default="auto"
        What the preprocessed recording is in, as for :meth:`PairedEpochs.from_mne`.

    Notes
    -----
    The whole recording is loaded for preprocessors: begin with ``Preprocessor("pick",
    picks=[...])`` where memory is short. Of EEG channels that are cropped, filtered or
    resampled alone, only the wanted ones are loaded. MNE's ``filter`` leaves channels typed
    EOG, EMG, ECG or misc as they are, unless it is given ``picks``.

    Examples
    --------
    >>> import mne, numpy as np
    >>> from braindecode.preprocessing import Preprocessor
    >>> from skleepkd import PairedEpochs, RecordingStager, SleepStager
    >>> rng = np.random.default_rng(0)
    >>> X = PairedEpochs(30 * rng.standard_normal((20, 1, 3000)), ch_names=["Fpz-Cz"])
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> stager = SleepStager("UTime", classes="aasm", max_epochs=1, **small)
    >>> stager = stager.fit(X, np.tile(["W", "N2"], 10))
    >>> info = mne.create_info(["EOG", "Fpz-Cz"], 200.0, "eeg")
    >>> raw = mne.io.RawArray(3e-5 * rng.standard_normal((2, 200 * 100)), info, verbose=False)
    >>> night = RecordingStager(stager, [Preprocessor("resample", sfreq=100)]).stage(raw)
    >>> night.onset, night.probabilities.shape
    (array([ 0., 30., 60.]), (3, 5))
    """

    def __init__(self, stager, preprocessors=(), *, ch_names=None, unit="auto"):
        self.stager = stager
        self.preprocessors = preprocessors
        self.ch_names = ch_names
        self.unit = unit

    def stage(self, raw, *, start=None, on_missing="raise"):
        """Stage one recording.

        Parameters
        ----------
        raw : mne.io.Raw or path-like
            The recording, or a file that ``mne.io.read_raw`` reads.
        start : float or str, optional
            When the first epoch begins, such as "lights off": seconds from the recording's
            first sample, or a time of the recorder's clock, "23:15" or "23:15:30" (the first
            one in the recording); by default the first sample (that the preprocessors leave).
        on_missing : {"raise", "zeros"}, default="raise"
            What is done where the recording lacks some of the channels: an error, or zeros in
            their place, for a stager that was trained with braindecode's ``ChannelsDropout``.
            The zeros are what the network is given, after all scaling. Names in the ``picks``
            of the preprocessors that are not there are passed over.

        Returns
        -------
        Hypnogram
            Of epochs of 30 s; a rest at the end is left out. Its stages are the names of
            the stager's scheme, or its labels where they are names or belong to several
            schemes. ``onset`` counts from the first sample of the recording as given.
            ``ch_names`` are the channels that were there, ``missing`` those that were not.
            ``artefact`` says of an epoch, the first that holds in any of its channels:
            "nan", NaN or infinite values, with zeros in their place; "flat", no signal;
            "saturated", at the limits of the amplifier for 1.5 s or more; "spread", five times
            more or less spread than in training, as the network is given it.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file cannot be read, was cut short, interrupted or joined, a channel is
            missing, flat or NaN throughout, the sampling rate is not the stager's, no epoch
            fits in, a signal spreads neither as volts nor as microvolts do, or zeros would
            stand for a channel that the stager was always given.
        sklearn.exceptions.NotFittedError
            If the stager is not fitted.

        Warns
        -----
        UserWarning
            If some epochs of a channel are flat or hold NaN, a channel is missing, marked as
            bad or spreads otherwise than in training, the file begins later than its header
            says, or the names of the channels are known to neither the stager nor ``ch_names``.

        Notes
        -----
        Saturation is looked for before the preprocessors, which would hide it, in channels
        that have the same name there, and else after them. Whether a value is a limit is
        told by how often it is met beside its neighbours, epoch by epoch: a recorder that
        filtered after it had clipped leaves nothing to tell it by.
        """
        import mne

        self._check(start, on_missing)
        network = final_estimator(self.stager)
        known = getattr(network, "ch_names_", None)
        wanted = known if self.ch_names is None else self.ch_names
        wanted = [wanted] if isinstance(wanted, str) else wanted
        with mne.use_log_level("warning"):
            raw = _read(raw)
            began = edf.began_at(raw)
            prepared = self._prepare(raw, wanted, on_missing == "zeros")
            names = self._names(prepared, wanted, network)
            missing = _check_channels(prepared, names, known, network, on_missing)
            there = [name for name in names if name not in missing]
            onset, epochs = _cut(raw, prepared, there, _seconds_of(start, began))
            found = self._scale(raw, prepared, epochs, there, missing, onset)
        if missing:
            all_epochs = np.zeros((len(epochs), len(names), epochs.shape[2]), np.float32)
            all_epochs[:, [names.index(name) for name in there]] = epochs
            epochs = all_epochs
        file = next(iter(raw.filenames), None)
        # Channels that the user put in the place of those that were fitted go by their names.
        called = known if known and len(known) == len(names) else names
        X = self._input(
            epochs,
            [names.index(name) for name in missing],
            recording=Path(file).stem if file else "recording",
            onset=onset,
            sfreq=prepared.info["sfreq"],
            names=called,
        )
        fitted = getattr(network, "epoch_shape_", None)
        rate = getattr(network, "signal_", {}).get("sfreq")
        if rate and X.shape[1:] != fitted:
            raise ValueError(
                f"The stager was fitted to {fitted[0]} channel(s) and {fitted[1]} samples an "
                f"epoch, at {rate:g} Hz; given {len(names)}: {', '.join(names)}, and "
                f"{X.shape[2]} samples, at {prepared.info['sfreq']:g} Hz. Name the channels "
                f'in ch_names=, and end with Preprocessor("resample", sfreq={rate:g}).'
            )
        if wanted is None and not hasattr(network, "channels_among"):
            warn(
                "The stager does not know which channels it was fitted to, and takes "
                f"{', '.join(names)}, in this order. If that is right, name them in ch_names=."
            )
        found["spread"] = artefacts.unlike_training(X, getattr(network, "spread_", None))
        classes = class_names(network)
        order = sleep_order(classes)
        return Hypnogram(
            network.predict_proba(X)[:, order],
            classes[order],
            onset=onset,
            meas_date=began,
            ch_names=there,
            artefact=artefacts.first_of(found, len(onset)),
            missing=missing,
        )

    stage_folder = stage_folder

    def _check(self, start, on_missing):
        """Refuse what no recording can be staged with."""
        check_is_fitted(self.stager)
        if on_missing not in ("raise", "zeros"):
            raise ValueError(f"on_missing is 'raise' or 'zeros'; given {on_missing!r}.")
        if isinstance(start, str):
            _clock(start)
        elif start is not None and not np.isfinite(start):
            raise ValueError(f"start is a number of seconds; given {start}.")

    def _names(self, prepared, wanted, network):
        """Name the channels to stage; a ready stager finds its own by their names."""
        if wanted is not None:
            return list(wanted)
        if hasattr(network, "channels_among"):
            return network.channels_among(prepared.ch_names)
        return channels.signals_of(prepared, prepared.ch_names)

    def _input(self, epochs, gaps, names, **about):
        """Take microvolts through the pipeline; channels in ``gaps`` are zeros behind it."""
        steps, _ = split_pipeline(self.stager)
        takes_source = any(isinstance(step, SourceSelector) for _, step in steps)

        def prepared_input():
            return transform(
                self.stager,
                PairedEpochs(
                    epochs,
                    source=epochs if takes_source else None,
                    ch_names={"target": names, "source": names if takes_source else None},
                    **about,
                ),
            )

        X = prepared_input()
        if not gaps or not steps:
            return X
        values = np.array(X)
        values[:, gaps] = 0
        # What stands in the gaps before must change nothing of the channels that are there.
        epochs[:, gaps] = 50 * np.random.default_rng(0).standard_normal(epochs.shape[2])
        others = np.array(prepared_input())
        others[:, gaps] = 0
        if values.ndim != 3 or not np.allclose(values, others, rtol=1e-4, atol=1e-4):
            raise ValueError(
                "The steps of the pipeline mix channels, so what they make of a missing one "
                'is not known. Leave on_missing="raise".'
            )
        return X.replace(target=values) if isinstance(X, PairedEpochs) else values

    def _prepare(self, raw, wanted, pass_over):
        """Apply the preprocessors to a copy; they may pass over channels that are missing."""
        if not self.preprocessors:
            return raw
        prepared = raw.copy()
        kinds = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
        if (
            wanted
            and all(kinds.get(name) == "eeg" for name in wanted)
            and all(
                step.fn in _CHANNELWISE and "picks" not in step.kwargs
                for step in self.preprocessors
            )
        ):
            prepared.pick([raw.ch_names.index(name) for name in wanted])
        for step in self.preprocessors:
            if pass_over and wanted:
                gone = [name for name in wanted if name not in prepared.ch_names]
                step = _without(step, gone)
            prepared = prepared if step is None else step.apply(prepared)
        return prepared

    def _scale(self, raw, prepared, epochs, names, missing, onset):
        """Take epochs to microvolts and NaN to zeros, in place; mark them by artefact."""
        channels.check_unit(self.unit, [*prepared.ch_names, *missing])
        names, broken = np.array(names), ~np.isfinite(epochs).all(axis=2)
        spreads = (
            " after preprocessing (a filter spreads them)" if self.preprocessors else ""
        )
        lost = broken.all(axis=0)
        if lost.any():
            raise ValueError(
                f"Channel {', '.join(names[lost])} holds NaN or infinite values in every "
                f"epoch{spreads}. Crop or repair the recording."
            )
        _warn_of(broken, f"hold NaN or infinite values{spreads}", names, onset)
        epochs[broken] = 0
        strict = not self.preprocessors  # they may have scaled it, as before training
        units, spread = channels.to_microvolts(
            epochs, prepared, names.tolist(), self.unit, strict=strict
        )
        limit = {"V": channels.FLAT_VOLTS, "uV": 1e6 * channels.FLAT_VOLTS, None: -1.0}
        flat = (spread < [limit[unit] for unit in units]) & ~broken
        silent = (flat | broken).all(axis=0)
        if silent.any():
            raise ValueError(
                f"No signal in {', '.join(names[silent])}: a spread of at most "
                f"{spread[:, silent].max():.2g} in an epoch. Was the electrode connected, and "
                "is the recording in volts?"
            )
        _warn_of(flat, "are flat", names, onset)
        voltages = {k: name for k, name in enumerate(names) if units[k]}
        saturated = artefacts.saturated(raw, prepared, voltages, onset, epochs)
        return {"nan": broken.any(axis=1), "flat": flat.any(axis=1), "saturated": saturated}


def _warn_of(marked, what, names, onset):
    """Warn of epochs with something in a channel, ``marked`` by epoch and channel."""
    rows = np.flatnonzero(marked.any(axis=1))
    if len(rows):
        warn(
            f"{len(rows)} of {len(marked)} epochs {what} in "
            f"{', '.join(names[marked.any(axis=0)])}, the first at {onset[rows[0]]:g} s: their "
            "stages mean little."
        )


def _read(raw):
    """Open a recording without loading it."""
    import mne

    if isinstance(raw, mne.io.BaseRaw):
        return raw
    path = Path(raw)
    if not path.exists():
        raise FileNotFoundError(f"There is no recording {path}.")
    try:
        raw = mne.io.read_raw(path)
        if not raw.info["sfreq"] > 0:
            raise ValueError(f"its sampling rate is {raw.info['sfreq']:g} Hz")
        # A file that was cut short may open, and fail only where it ends.
        raw.get_data(start=raw.n_times - 1)
    except Exception as error:  # readers of damaged files raise anything
        if isinstance(error, OSError) and error.errno:
            raise  # not the file's fault
        raise ValueError(
            f"{path} cannot be read as a recording ({type(error).__name__}: {error}). If it is "
            "not damaged, but of a kind that mne.io.read_raw does not know, give a Raw."
        ) from error
    if not edf.is_whole(path):
        raise ValueError(
            f"{path} does not hold as many records as its header says: it was cut short. To "
            f"stage what is there, give mne.io.read_raw({str(path)!r})."
        )
    return raw


def _without(step, names):
    """Return a preprocessor that picks none of these channels, None if it picked no others."""
    changed = {}
    for key in ("picks", "ch_names"):
        picks = step.kwargs.get(key)
        if isinstance(picks, list | tuple) and set(picks) & set(names):
            changed[key] = [pick for pick in picks if pick not in names]
            if not changed[key]:
                return None
    if not changed:
        return step
    from braindecode.preprocessing import Preprocessor

    kwargs = {**step.kwargs, **changed}
    return Preprocessor(step.fn, apply_on_array=step.apply_on_array, **kwargs)


def _clock(start):
    """Read a time of the clock."""
    try:
        clock = datetime.strptime(start, "%H:%M:%S" if start.count(":") > 1 else "%H:%M")
    except ValueError as error:
        raise ValueError(
            f'start is in seconds, or a time of the clock as in "23:15"; given {start!r}.'
        ) from error
    return clock.time()


def _seconds_of(start, began):
    """Take a start, in seconds or as a time of the recorder's clock, to seconds."""
    if not isinstance(start, str):
        return start
    if began is None:
        raise ValueError(
            f"start={start!r}: the recording does not tell its date. Give seconds from its "
            "first sample, or raw.set_meas_date(...)."
        )
    began = began.replace(tzinfo=None)
    return (datetime.combine(began, _clock(start)) - began).total_seconds() % 86400


def _check_channels(prepared, names, known, network, on_missing):
    """Refuse channels that are not as in training; return those that are missing."""
    missing = [name for name in names if name not in prepared.ch_names]
    drops = getattr(network, "drops_channels_", False)
    refused = (
        f"No channel named {', '.join(missing)}; the recording has "
        f"{', '.join(prepared.ch_names)} (after preprocessing)."
    )
    if missing and (on_missing == "raise" or len(missing) == len(names)):
        line = ' Or let zeros stand for it, on_missing="zeros".' if drops else ""
        raise ValueError(
            f"{refused} Name them in ch_names=, in the order in which the stager was fitted."
            f"{line if on_missing == 'raise' else ' None of the channels is there.'}"
        )
    if missing and not drops:
        line = (
            " Fit it with iterator_train=AugmentedDataLoader, iterator_train__transforms="
            "[ChannelsDropout(0.5)], both of braindecode.augmentation."
        )
        raise ValueError(
            f"{refused} Zeros mean nothing to this stager, as it was never trained without a "
            f"channel.{line if hasattr(network, 'signal_') else ''}"
        )
    if missing:
        warn(f"No channel named {', '.join(missing)}: zeros stand in its place.")
    if known and sorted(known) == sorted(names) and list(known) != names:
        fitted, given = ", ".join(known), ", ".join(names)
        raise ValueError(
            f"The stager was fitted to {fitted}, in this order; given {given}."
        )
    channels.warn_of_bads(prepared, names, "staged")
    return missing


def _cut(raw, prepared, names, start):
    """Cut the whole epochs: onsets in seconds; volts, (n_epochs, n_channels, n_times)."""
    sfreq = prepared.info["sfreq"]
    # Cropping moves the first sample; resampling does by less than one, which is nothing.
    begins = prepared.first_time - raw.first_time
    begins = begins if begins >= 1 / sfreq else 0.0
    ends = begins + prepared.n_times / sfreq
    start = begins if start is None else float(start)
    n_times = round(EPOCH_SECONDS * sfreq)
    onset = start + EPOCH_SECONDS * np.arange((ends - start) // EPOCH_SECONDS + 1)
    first = np.round((onset - begins) * sfreq).astype(int)
    first = first[first + n_times <= prepared.n_times]
    if start < begins or not len(first):
        raise ValueError(
            f"No epoch of {EPOCH_SECONDS:g} s fits into the recording from start={start:g}: it "
            f"lasts from {begins:g} to {ends:g} s (after preprocessing)."
        )
    # Numbers, as a channel may be called "ecg" and another one be of that type.
    picks = [prepared.ch_names.index(name) for name in names]
    epochs = np.empty((len(first), len(names), n_times), dtype=np.float32)
    for row, sample in enumerate(first):
        epochs[row] = prepared.get_data(picks, sample, sample + n_times)
    return onset[: len(first)], epochs
