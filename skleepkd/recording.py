"""From a recording on disk to a hypnogram."""

import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skleepkd import edf
from skleepkd.epochs import PairedEpochs, channels
from skleepkd.hypnogram import Hypnogram
from skleepkd.pipelines import class_names, split_pipeline, transform
from skleepkd.preprocessing import SourceSelector
from skleepkd.stages import EPOCH_SECONDS, sleep_order

#: Methods of a Raw that treat each EEG channel by itself, whatever other channels hold.
_CHANNELWISE = ("crop", "filter", "notch_filter", "resample", "savgol_filter")


class RecordingStager(BaseEstimator):
    """Stage recordings: a fitted stager together with the preprocessing of its signals.

    Parameters
    ----------
    stager : estimator
        A fitted :class:`SleepStager`, :class:`DistilledSleepStager` or
        :class:`FineTunedSleepStager`, or a ``Pipeline`` or a search over one, or any fitted
        classifier of epochs with ``predict_proba``.
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

    def stage(self, raw, *, start=None):
        """Stage one recording.

        Parameters
        ----------
        raw : mne.io.Raw or path-like
            The recording, or a file that ``mne.io.read_raw`` reads.
        start : float, optional
            Seconds from the recording's first sample at which the first epoch begins, such
            as "lights off"; by default the first sample (that the preprocessors leave).

        Returns
        -------
        Hypnogram
            Of epochs of 30 s; a rest at the end is left out. Its stages are the names of
            the stager's scheme, or its labels where they are names or belong to several
            schemes. ``onset`` counts from the first sample of the recording as given.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file cannot be read, was cut short, interrupted or joined, a channel is
            missing or flat, the sampling rate is not the stager's, no epoch fits in, or a
            signal holds NaN or spreads neither as volts nor as microvolts do.
        sklearn.exceptions.NotFittedError
            If the stager is not fitted.

        Warns
        -----
        UserWarning
            If some epochs of a channel are flat, a channel is marked as bad or spreads
            otherwise than in training, the file begins later than its header says, or the
            names of the channels are known to neither the stager nor ``ch_names``.
        """
        import mne

        check_is_fitted(self.stager)
        steps, network = split_pipeline(self.stager)
        known = getattr(network, "ch_names_", None)
        wanted = known if self.ch_names is None else self.ch_names
        wanted = [wanted] if isinstance(wanted, str) else wanted
        with mne.use_log_level("warning"):
            raw = _read(raw)
            began_late = raw.first_time + edf.seconds_left_out(raw) + edf.seconds_late(raw)
            prepared = self._prepare(raw, wanted)
            if wanted is None:
                names = channels.signals_of(prepared, prepared.ch_names, stacklevel=3)
            else:
                names = list(wanted)
            _check_channels(prepared, names, known)
            onset, epochs = _cut(raw, prepared, names, start)
            self._scale(prepared, epochs, names, onset)
        file = next(iter(raw.filenames), None)
        takes_source = any(isinstance(step, SourceSelector) for _, step in steps)
        # Channels that the user put in the place of those that were fitted go by their names.
        called = known if known and len(known) == len(names) else names
        X = PairedEpochs(
            epochs,
            source=epochs if takes_source else None,
            recording=Path(file).stem if file else "recording",
            onset=onset,
            sfreq=prepared.info["sfreq"],
            ch_names={"target": called, "source": called if takes_source else None},
        )
        fitted = getattr(network, "epoch_shape_", None)
        rate = getattr(network, "signal_", {}).get("sfreq")
        given = transform(self.stager, X[:1]).shape[1:]
        if rate and given != fitted:
            raise ValueError(
                f"The stager was fitted to {fitted[0]} channel(s) and {fitted[1]} samples an "
                f"epoch, at {rate:g} Hz; given {len(names)}: {', '.join(names)}, and "
                f"{given[1]} samples, at {X.sfreq['target']:g} Hz. Name the channels "
                f'in ch_names=, and end with Preprocessor("resample", sfreq={rate:g}).'
            )
        if wanted is None:
            warnings.warn(
                "The stager does not know which channels it was fitted to, and takes "
                f"{', '.join(names)}, in this order. If that is right, name them in ch_names=.",
                stacklevel=2,
            )
        began, classes = raw.info["meas_date"], class_names(network)
        order = sleep_order(classes)
        return Hypnogram(
            self.stager.predict_proba(X)[:, order],
            classes[order],
            onset=onset,
            meas_date=began and began + timedelta(seconds=began_late),
            ch_names=names,
        )

    def _prepare(self, raw, wanted):
        """Apply the preprocessors to a copy of the recording."""
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
            prepared = step.apply(prepared)
        return prepared

    def _scale(self, prepared, epochs, names, onset):
        """Take epochs to microvolts, in place; refuse those that no amplifier records."""
        channels.check_unit(self.unit, prepared.ch_names)
        strict = not self.preprocessors  # they may have scaled it, as before training
        units, spread = channels.to_microvolts(
            epochs, prepared, names, self.unit, strict=strict
        )
        if not np.isfinite(spread).all():
            row, channel = np.argwhere(~np.isfinite(spread))[0]
            raise ValueError(
                f"Channel {names[channel]} holds NaN or infinite values after preprocessing, "
                f"first in the epoch at {onset[row]:g} s. Crop or repair the recording."
            )
        limit = {"V": channels.FLAT_VOLTS, "uV": 1e6 * channels.FLAT_VOLTS, None: -1.0}
        flat = spread < [limit[unit] for unit in units]
        names, silent = np.array(names), flat.all(axis=0)
        if silent.any():
            raise ValueError(
                f"No signal in {', '.join(names[silent])}: a spread of at most "
                f"{spread[:, silent].max():.2g} in an epoch. Was the electrode connected, and "
                "is the recording in volts?"
            )
        if flat.any():
            rows = np.flatnonzero(flat.any(axis=1))
            warnings.warn(
                f"{len(rows)} of {len(epochs)} epochs are flat in a channel "
                f"({', '.join(names[flat.any(axis=0)])}), the first at {onset[rows[0]]:g} s; "
                "their stages mean little.",
                stacklevel=3,
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


def _check_channels(prepared, names, known):
    missing = [name for name in names if name not in prepared.ch_names]
    if missing:
        raise ValueError(
            f"No channel named {', '.join(missing)}; the recording has "
            f"{', '.join(prepared.ch_names)} (after preprocessing). Name them in ch_names=, in "
            "the order in which the stager was fitted."
        )
    if known and sorted(known) == sorted(names) and list(known) != names:
        fitted, given = ", ".join(known), ", ".join(names)
        raise ValueError(
            f"The stager was fitted to {fitted}, in this order; given {given}."
        )
    channels.warn_of_bads(prepared, names, "staged", 4)


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
