"""From a recording on disk to a hypnogram."""

import os
import warnings
from datetime import timedelta
from numbers import Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skleepkd import edf
from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.builders import FLAT_VOLTS, in_volts
from skleepkd.hypnogram import Hypnogram
from skleepkd.pipelines import class_names, split_pipeline
from skleepkd.preprocessing import (
    EpochScaler,
    LogSpectrogram,
    PairedTransformer,
    SourceSelector,
)
from skleepkd.stages import EPOCH_SECONDS

#: Methods of a Raw that treat each EEG channel by itself, whatever other channels hold.
_CHANNELWISE = ("crop", "filter", "notch_filter", "resample", "savgol_filter")


class RecordingStager(BaseEstimator):
    """Stage recordings: a fitted stager together with the preprocessing of its signals.

    Parameters
    ----------
    stager : estimator
        A fitted :class:`SleepStager`, :class:`DistilledSleepStager` or
        :class:`FineTunedSleepStager`, or a ``Pipeline`` or a search over one. (Any other
        fitted classifier of epochs with ``predict_proba`` will do; of that neither the
        channels nor the sampling rate can be checked.)
    preprocessors : list of braindecode.preprocessing.Preprocessor, default=()
        What is done to the recording before epochs are cut, in this order; the same as
        before training. They see the recording in volts.
    ch_names : list of str, optional
        Channels of the preprocessed recording in the order in which the stager was
        fitted. By default those that the stager was fitted to, where it knows their names;
        else all channels, if their number is the stager's.

    Notes
    -----
    ``clone`` leaves out what was fitted, as of any estimator: give
    ``FrozenEstimator(stager)`` to keep it.

    Preprocessors see all channels, as one may need another (a reference), and the whole
    recording is loaded once for them: begin with ``Preprocessor("pick", picks=[...])``
    where memory is short. If there are but ``crop``, ``filter``, ``notch_filter``,
    ``resample`` and ``savgol_filter``, and the wanted channels are EEG, the others are
    left out before anything is loaded. Without preprocessors nothing but the epochs is.
    MNE's ``filter`` leaves channels typed EOG, EMG, ECG or misc as they are, unless it is
    given ``picks``.

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

    def __init__(self, stager, preprocessors=(), *, ch_names=None):
        self.stager = stager
        self.preprocessors = preprocessors
        self.ch_names = ch_names

    def stage(self, raw, *, start=None):
        """Stage one recording.

        Parameters
        ----------
        raw : mne.io.Raw or path-like
            The recording, in volts as MNE has it, or its file: whatever
            ``mne.io.read_raw`` reads. A Raw is not changed.
        start : float, optional
            Seconds from the recording's first sample at which the first epoch begins,
            such as "lights off", from which scorers count; by default the first sample
            (that the preprocessors leave).

        Returns
        -------
        Hypnogram
            Of epochs of 30 s; what remains at the end and is shorter is left out. Its
            stages are the names of the stager's scheme, or its labels where they are names.
            (Codes that may belong to several schemes stay codes.) ``onset`` counts
            from the first sample of the recording as it was given.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file cannot be read, was cut short or interrupted, a channel is missing,
            the sampling rate is not the stager's, the recording is shorter than 30 s, is
            not in volts, or holds NaN or a channel without a signal.
        sklearn.exceptions.NotFittedError
            If the stager is not fitted.

        Warns
        -----
        UserWarning
            If some epochs of a channel are flat, a channel is marked as bad, or the names
            of the channels are known to neither the stager nor ``ch_names``.
        """
        import mne

        steps, network = split_pipeline(self.stager)
        steps = [step for _, step in steps]
        check_is_fitted(self.stager)
        if hasattr(network, "check_is_fitted"):
            network.check_is_fitted()
        with mne.use_log_level("warning"):
            raw = _read(raw)
            began_late = raw.first_time + edf.seconds_left_out(raw)
            wanted = self._wanted(network)
            prepared = self._prepare(raw, wanted)
            names = list(prepared.ch_names) if wanted is None else wanted
            sfreq = prepared.info["sfreq"]
            self._check(prepared, names, network, steps)
            if wanted is None:
                warnings.warn(
                    "The stager does not know which channels it was fitted to, and takes "
                    f"{', '.join(names)}, in this order. If that is right, name them in "
                    "ch_names=, or name a pair's channels before fit.",
                    stacklevel=2,
                )
            onset, first = _cut(raw, prepared, start)
            epochs = _epochs(prepared, names, first)
            epochs *= _scale(epochs, names, onset, raw)
        file = next(iter(raw.filenames), None)
        takes_source = any(isinstance(step, SourceSelector) for step in steps)
        # Channels that the user put in the place of those that were fitted go by their names.
        known = getattr(network, "ch_names_", None)
        called = known if known and len(known) == len(names) else names
        X = PairedEpochs(
            epochs,
            source=epochs if takes_source else None,
            recording=Path(file).stem if file else "recording",
            onset=onset,
            sfreq=sfreq,
            ch_names={"target": called, "source": called if takes_source else None},
        )
        began = raw.info["meas_date"]
        return Hypnogram(
            self.stager.predict_proba(X),
            class_names(network),
            onset=onset,
            meas_date=began and began + timedelta(seconds=began_late),
            ch_names=names,
        )

    def _wanted(self, network):
        """Names of the channels to stage, in order, or None where they are not known."""
        wanted = self.ch_names
        if wanted is None:
            wanted = getattr(network, "ch_names_", None)
        if wanted is None:
            return None
        return [wanted] if isinstance(wanted, str) else list(wanted)

    def _prepare(self, raw, wanted):
        """Apply the preprocessors to a copy of the recording."""
        preprocessors = self.preprocessors
        check_preprocessors(preprocessors)
        prepared = raw.copy() if preprocessors else raw
        channelwise = all(
            step.fn in _CHANNELWISE and "picks" not in step.kwargs for step in preprocessors
        )
        if preprocessors and channelwise and wanted and _are_eeg(raw, wanted):
            prepared.pick(wanted)
        for step in preprocessors:
            prepared = step.apply(prepared)
            if not hasattr(prepared, "first_time"):
                raise TypeError(
                    f"{step!r} made a {type(prepared).__name__} of the recording; a "
                    "preprocessor changes an mne.io.Raw or returns another one."
                )
        return prepared

    def _check(self, prepared, names, network, steps):
        """Refuse channels and sampling rates that are not what the stager was fitted to."""
        present = prepared.ch_names
        missing = [name for name in names if name not in present]
        if missing:
            raise ValueError(
                f"No channel named {', '.join(missing)}; the recording has "
                f"{', '.join(present)} (after preprocessing). Name them in ch_names=, in "
                "the order in which the stager was fitted, or rename the recording's: "
                "Preprocessor('rename_channels', mapping={...})."
            )
        bad = [name for name in names if name in prepared.info["bads"]]
        if bad:
            warnings.warn(
                f"The channels {', '.join(bad)} are marked as bad (raw.info['bads']), and "
                "are staged all the same.",
                stacklevel=3,
            )
        known = getattr(network, "ch_names_", None)
        if known and sorted(known) == sorted(names) and list(known) != names:
            raise ValueError(
                f"The stager was fitted to {', '.join(known)}, in this order; given "
                f"{', '.join(names)}."
            )
        if not hasattr(network, "signal_") or not _keep_signal(steps):
            return  # what was fitted is not what comes in
        shape = network.epoch_shape_
        if len(names) != shape[0]:
            raise ValueError(
                f"The stager was fitted to {shape[0]} channel(s); given {len(names)}: "
                f"{', '.join(names)}. Name them in ch_names=, in the order in which it was "
                f"fitted; the recording has {', '.join(present)}."
            )
        sfreq, fitted = prepared.info["sfreq"], network.signal_.get("sfreq")
        if fitted is not None and not np.isclose(sfreq, fitted):
            raise ValueError(
                f"The stager was fitted to {fitted:g} Hz; the recording is at {sfreq:g} Hz "
                "after preprocessing. End the preprocessors with "
                f'Preprocessor("resample", sfreq={fitted:g}).'
            )
        if len(shape) == 2 and shape[1] != round(EPOCH_SECONDS * sfreq):
            raise ValueError(
                f"The stager was fitted to epochs of {shape[1]} samples, "
                f"{shape[1] / sfreq:g} s at {sfreq:g} Hz; a recording is cut into epochs "
                f"of {EPOCH_SECONDS:g} s."
            )


def check_preprocessors(preprocessors):
    """Refuse what is no list of preprocessors."""
    if not isinstance(preprocessors, (list, tuple)) or not all(
        hasattr(step, "apply") for step in preprocessors
    ):
        raise TypeError(
            "preprocessors is a list of braindecode's Preprocessor; given "
            f"{preprocessors!r}."
        )


def _keep_signal(steps):
    """Whether steps hand on the channels and the sampling rate of what they are given."""
    modality = "source" if any(isinstance(s, SourceSelector) for s in steps) else "target"
    for step in steps:
        if isinstance(step, SourceSelector):
            modality = "target"  # the source is the target of what follows
            continue
        if isinstance(step, PairedTransformer):
            step = getattr(step, modality)
        if not isinstance(step, (EpochScaler, LogSpectrogram)):
            return False
    return True


def _read(raw):
    """Open a recording without loading it."""
    import mne

    if isinstance(raw, mne.io.BaseRaw):
        return raw
    if not isinstance(raw, (str, os.PathLike)):
        raise TypeError(
            f"stage takes an mne.io.Raw or the path of a recording; given "
            f"{type(raw).__name__}. The stager itself takes arrays of epochs."
        )
    path = Path(raw)
    if not path.exists():
        raise FileNotFoundError(f"There is no recording {path}.")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
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
                f"{path} cannot be read as a recording ({type(error).__name__}: {error}). "
                "It is damaged, or of a kind that mne.io.read_raw does not know by its name: "
                "then read it with MNE and give the Raw."
            ) from error
    if not edf.is_whole(path):  # MNE 1.11 does not say so
        raise ValueError(
            f"{path} does not hold as many records as its header says: it was cut "
            "short, or the recorder did not close it. To stage what is there, give "
            f"mne.io.read_raw({str(path)!r})."
        )
    for warning in said:
        warnings.warn_explicit(
            warning.message, warning.category, warning.filename, warning.lineno
        )
    return raw


def _are_eeg(raw, names):
    """Whether a recording has these channels, all of them EEG."""
    return set(names) <= set(raw.ch_names) and set(raw.get_channel_types(names)) == {"eeg"}


def _cut(raw, prepared, start):
    """Onsets of the whole epochs in seconds, and their first samples."""
    sfreq = prepared.info["sfreq"]
    # Cropping moves the first sample; resampling does by less than one, which is nothing.
    begins = prepared.first_time - raw.first_time
    begins = begins if begins >= 1 / sfreq else 0.0
    ends = begins + prepared.n_times / sfreq
    if not isinstance(start, (Real, type(None))):
        raise TypeError(
            f"start is in seconds from the recording's first sample; given {start!r}. Of a "
            "clock time it is (time - raw.info['meas_date']).total_seconds() - raw.first_time."
        )
    start = begins if start is None else float(start)
    if not begins <= start < ends:
        raise ValueError(
            f"start={start:g} lies outside the recording, which lasts from {begins:g} to "
            f"{ends:g} s (after preprocessing)."
        )
    n_times = round(EPOCH_SECONDS * sfreq)
    n_epochs = int((ends - start) / EPOCH_SECONDS) + 1
    onset = start + EPOCH_SECONDS * np.arange(n_epochs)
    first = np.round((onset - begins) * sfreq).astype(int)
    whole = first + n_times <= prepared.n_times
    if not whole.any():
        raise ValueError(
            f"The recording lasts {ends - start:.4g} s from {start:g} s on; an epoch takes "
            f"{EPOCH_SECONDS:g} s."
        )
    return onset[whole], first[whole]


def _epochs(prepared, names, first):
    """Cut the epochs, in volts: (n_epochs, n_channels, n_times), float32."""
    n_times = round(EPOCH_SECONDS * prepared.info["sfreq"])
    # Numbers, as a channel may be called "ecg" and another one be of that type.
    picks = [prepared.ch_names.index(name) for name in names]
    epochs = np.empty((len(first), len(names), n_times), dtype=np.float32)
    for row, start in enumerate(first):
        epochs[row] = prepared.get_data(picks, start, start + n_times)
    return epochs


def _scale(epochs, names, onset, raw):
    """Find what takes epochs to microvolts; refuse those that no amplifier records."""
    spread = np.array([epoch.std(axis=1, dtype=float) for epoch in epochs])
    if not np.isfinite(spread).all():
        row, channel = np.argwhere(~np.isfinite(spread))[0]
        raise ValueError(
            f"Channel {names[channel]} holds NaN or infinite values after preprocessing, "
            f"first in the epoch at {onset[row]:g} s (a filter spreads them). Crop or repair "
            "the recording."
        )
    flat = spread < FLAT_VOLTS
    silent = flat.all(axis=0)
    if silent.any():
        raise ValueError(
            f"No signal in {', '.join(np.array(names)[silent])}: a spread of at most "
            f"{spread[:, silent].max():.2g} V in an epoch, where microvolts (1e-6) are "
            "expected. Was the electrode connected, and is the recording in volts?"
        )
    if flat.any():
        rows = np.flatnonzero(flat.any(axis=1))
        warnings.warn(
            f"{len(rows)} of {len(epochs)} epochs are flat in a channel "
            f"({', '.join(np.array(names)[flat.any(axis=0)])}), the first at "
            f"{onset[rows[0]]:g} s; their stages mean little.",
            stacklevel=3,
        )
    if in_volts(spread):
        return np.float32(1e6)
    picks = [raw.ch_names.index(name) for name in names if name in raw.ch_names] or None
    step = max(1, raw.n_times // 20)
    seconds = round(EPOCH_SECONDS * raw.info["sfreq"])
    before = [
        raw.get_data(picks, start, start + seconds).std(axis=1)
        for start in range(0, raw.n_times, step)
    ]
    if in_volts(before):  # the preprocessors have scaled it, as before training
        return np.float32(1.0)
    raise ValueError(
        "The recording is not in volts, as MNE has it: its epochs spread over "
        f"{np.median(before):.2g} V. Were microvolts taken for volts, read an EDF file with "
        "mne.io.read_raw(path, units='uV'), else begin with "
        "raw.apply_function(lambda signal: 1e-6 * signal). If it is a slow drift, filter it."
    )
