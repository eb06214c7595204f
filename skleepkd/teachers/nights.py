"""What ready stagers share: channels by name, and rows put in order as whole nights."""

import importlib
import re

import numpy as np
from scipy.signal import resample_poly
from sklearn.base import BaseEstimator, ClassifierMixin

from skleepkd.epochs import PairedEpochs
from skleepkd.epochs.checks import as_pair, check_signal, scored_accuracy
from skleepkd.sequences import ONSET_TOLERANCE, find_runs
from skleepkd.stages import EPOCH_SECONDS, SCHEMES

#: A hole of at most so many seconds does not end a night: what is before and after it is
#: joined, since both stagers compare an epoch with the rest of its night.
HOLE_SECONDS = 300.0
#: What has fewer epochs is not a night by itself: it stays with the rest of its recording.
LEAST_EPOCHS = 10

#: What may stand before an electrode's name, as in "EEG C3-CLE" and "PSG_C3".
_NO_EEG = r"^(?!.*(?:EOG|ECG|EKG|EMG|LOC|ROC|temp|flow|resp|pulse|spo2|sao2|snor))"
_BEFORE = _NO_EEG + r"(?:.*[ _:(])?"
#: Names of channels by kind, those that are tried first first.
_KINDS = {
    "eeg": (
        _BEFORE + r"C[34z](?!\d)",
        _BEFORE + r"(?:Fp|AF|FC|FT|CP|TP|PO|[FCTPO])(?:z|\d{1,2})(?!\d)",
        _NO_EEG + r".*EEG",
    ),
    "eog": (r"EOG|(?<![A-Z])(?:E[12]|LOC|ROC)(?![A-Z\d])",),
    "emg": (
        r"(?<![A-Z])(?:chin|(?:sub)?mental)",
        r"^(?!.*(?:leg|tib|(?<![A-Z])[LR]AT(?![A-Z]))).*EMG",
    ),
}


class ReadyStager(ClassifierMixin, BaseEstimator):
    """A stager of whole nights that was trained elsewhere: a classifier that needs no fit."""

    _least_rate = 0.0  # hertz

    def fit(self, X=None, y=None):
        """Return the stager, which is trained: X and y are not looked at."""
        return self

    def __sklearn_is_fitted__(self):
        return True

    @property
    def classes_(self):
        """Codes 0 to 4 (W, N1, N2, N3, REM), or names in alphabetical order."""
        return self._sorted_classes()[0]

    def _sorted_classes(self):
        """Return the sorted classes, and of each its place among W, N1, N2, N3, REM."""
        if self.labels not in ("codes", "names"):
            raise ValueError(f"labels is 'codes' or 'names'; given {self.labels!r}.")
        names = np.array(SCHEMES["aasm"])
        labels = names if self.labels == "names" else np.arange(len(names))
        return np.sort(labels), np.argsort(labels)

    def predict_proba(self, X):
        """Predict the probability of each stage.

        Parameters
        ----------
        X : PairedEpochs or array of shape (n_epochs, n_channels, n_times)
            Its target: epochs of 30 s in microvolts, in any order. The rows of a recording
            are one night, in the order of their onsets; rows of which these are not known
            follow one another.

        Returns
        -------
        ndarray of shape (n_epochs, 5)
            For each row, in the order of ``classes_``.

        Raises
        ------
        ValueError
            If a channel is not there or no EEG channel is found, epochs do not last 30 s,
            overlap or hold NaN, or a night is too short.
        ImportError
            If the package that has the stager is not installed.
        """
        probabilities = self._by_night(X, self._stage, self._least_epochs)
        return probabilities[:, self._sorted_classes()[1]]

    def predict(self, X):
        """Predict the most probable stage, (n_epochs,), of X as for :meth:`predict_proba`."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def score(self, X, y, sample_weight=None):
        """Accuracy over the scored epochs, a float; see :meth:`skleepkd.SleepStager.score`."""
        return scored_accuracy(self.predict(X), y, self.classes_, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.input_tags.three_d_array = False, True
        return tags

    def channels_among(self, ch_names):
        """Names of the channels that are used of a recording that has these."""
        night = PairedEpochs(np.zeros((1, len(ch_names), 2)), ch_names=ch_names)
        return [ch_names[number] for number in self._channels(night).values()]

    def _channels(self, pair):
        """Find the channels that are used: of each kind that there is its number."""
        found = {
            kind: find_channel(pair, kind, getattr(self, kind)) for kind in self._kinds
        }
        return {kind: number for kind, number in found.items() if number is not None}

    def _by_night(self, X, compute, least):
        """Compute an array with a row for each epoch from the signals of each night."""
        pair, output = as_pair(X), None
        n_times, channels = self._check(pair), self._channels(pair)
        for rows in find_nights(pair, least):
            night = pair.read("target", rows)[:, list(channels.values())]
            # (n_epochs, n_channels, n_times) -> (n_channels, n_epochs * n_times)
            night = night.swapaxes(0, 1).reshape(len(channels), -1).astype(float)
            night = resample_poly(night, self._n_times, n_times, axis=1)
            part = compute(dict(zip(channels, night, strict=True)))
            if output is None:
                output = np.empty((len(pair), part.shape[1]), dtype=part.dtype)
            output[rows] = part
        return output

    def _check(self, pair):
        """Refuse what are no epochs of 30 s; return their number of samples."""
        rate, name = pair.sfreq["target"], type(self).__name__
        if pair.ndim != 3 or not len(pair):
            raise ValueError(
                f"{name} stages epochs of shape (n_epochs, n_channels, n_times), signals in "
                f"microvolts; given shape {pair.shape}."
            )
        n_times = pair.shape[2]
        if rate and abs(n_times - EPOCH_SECONDS * rate) > 1:
            raise ValueError(
                f"{name} stages epochs of 30 s; given {n_times} samples at {rate:g} Hz, "
                f"{n_times / rate:.4g} s. Cut epochs of 30 s, or correct sfreq=."
            )
        if n_times <= self._least_rate * EPOCH_SECONDS:
            raise ValueError(
                f"{name} looks at frequencies up to 30 Hz, so it needs more than {self._least_rate:g} "
                f"Hz; given {n_times / EPOCH_SECONDS:g} Hz. Give the signal as it was recorded."
            )
        check_signal(pair, "target", f"signal that {name} is given")
        return n_times


def find_channel(pair, kind, wanted):
    """Find the channel that is named, or the first that fits; None where there is none."""
    names = pair.ch_names["target"]
    if kind != "eeg" and (wanted is False or (wanted is None and names is None)):
        return None
    if names is None:
        if wanted is None and pair.shape[1] == 1:
            return 0
        raise ValueError(
            f"Which of the {pair.shape[1]} channels is the {kind.upper()} is not known. Name "
            "all of them in the pair, PairedEpochs(..., ch_names=['C4-A1', ...]) (of a source, "
            f"ch_names={{'source': [...]}}), and where the name does not say it, {kind}=."
        )
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f"No channel named {wanted}; there are {', '.join(names)}.")
        return names.index(wanted)
    for pattern in _KINDS[kind]:
        for number, name in enumerate(names):
            if re.search(pattern, name, re.IGNORECASE):
                return number
    if kind != "eeg":
        return None
    raise ValueError(
        f"By their names none of the channels {', '.join(names)} is an EEG. If one is, name "
        f"it, eeg={names[0]!r}."
    )


def find_nights(pair, least=1):
    """Find the rows of each stretch that is staged by itself, in time order."""
    recording, onset = pair.recording, pair.onset
    if recording is None:
        recording = pair.subject
    nights = []
    for run in find_runs(recording, onset, len(pair)):
        last = nights[-1] if nights else run[:0]
        if len(last) and (recording is None or recording[last[0]] == recording[run[0]]):
            hole = onset[run[0]] - onset[last[-1]] - EPOCH_SECONDS
            if hole <= HOLE_SECONDS or min(len(last), len(run)) < LEAST_EPOCHS:
                nights[-1] = np.concatenate([last, run])
                continue
        nights.append(run)
    for rows in nights:
        night = "X" if recording is None else f"recording {recording[rows[0]]!s}"
        if len(rows) < least:
            raise ValueError(
                f"Of {night} there are {len(rows)} epochs ({0.5 * len(rows):g} min); at least "
                f"{0.5 * least:g} min are needed. Leave it out, or give the whole night."
            )
        if (
            onset is not None
            and (np.diff(onset[rows]) < EPOCH_SECONDS - ONSET_TOLERANCE).any()
        ):
            raise ValueError(
                f"Epochs of {night} overlap: their onsets are less than 30 s apart. Give "
                "every epoch once, or each night a recording= of its own."
            )
    return nights


def import_extra(module, extra):
    """Import a package of an extra, or say how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is not installed: pip install 'skleepkd[{extra}]'."
        ) from error
