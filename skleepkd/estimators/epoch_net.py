"""From what users give to the data sets of a batch loader."""

import warnings

import numpy as np
from skorch.utils import is_dataset
from torch.utils.data import Subset

from skleepkd.epochs.checks import as_pair, check_signal
from skleepkd.estimators.batches import EpochDataset, WindowDataset
from skleepkd.estimators.net import Net
from skleepkd.estimators.sequential import (
    check_sequences,
    predicted_windows,
    training_windows,
)
from skleepkd.stages import EPOCH_SECONDS, left_unscored


class EpochNet(Net):
    """A net of epochs, or of windows of them, that knows who validates.

    A subclass has the parameters ``sequence_length`` and ``neighbouring_windows``, and
    sets ``held_out_``, ``epoch_shape_``, ``ch_names_`` and ``signal_`` in ``fit``.
    """

    #: Whether windows without any scored epoch are left out of the training.
    _skips_unscored = True

    @property
    def sequence_length_(self):
        """Consecutive epochs that the network sees at a time."""
        return self.sequence_length

    def _can_share(self):
        """Whether the network can encode an epoch once for all windows that hold it."""
        return hasattr(self.module_, "encode_epochs")

    def _trains_shared(self):
        """Whether it may do so while it is trained and validated."""
        return self._can_share()

    def _check_sequences(self):
        """Refuse parameters of sequences that mean nothing."""
        check_sequences(self.sequence_length_, self.fusion, self.neighbouring_windows)
        if self.sequence_length_ > 1 and self.train_split is not None:
            raise ValueError(
                "train_split parts rows, and the windows of sequences overlap: give "
                "validation= (subjects) with a sequence_length above 1."
            )

    def _check_windows(self, pair, y):
        """Refuse sequences where nothing is left to train on, or to validate with."""
        windows = training_windows(pair, self.sequence_length_)
        known = len(np.unique(pair.recording))
        left = known - len(np.unique(pair.recording[windows]))
        if left:
            warnings.warn(
                f"{left} of {known} recordings have no {self.sequence_length_} consecutive "
                "epochs (sequence_length), and are not learned from.",
                stacklevel=4,
            )
        windows = windows[(~left_unscored(y, self.classes))[windows].any(axis=1)]
        validates = self._validates(pair)[windows[:, 0]]
        sides = {"to train on": ~validates}
        if len(self.held_out_):
            sides[f"of those held out ({', '.join(map(str, self.held_out_))})"] = validates
        for who, rows in sides.items():
            if not rows.any():
                raise ValueError(
                    f"No {self.sequence_length_} consecutive epochs (sequence_length), one of "
                    f"them scored, are there in the subjects {who}. Give whole nights, a "
                    "smaller sequence_length or another validation=."
                )

    def _validates(self, pair):
        """Mark the rows of the subjects who are held out."""
        if not len(self.held_out_):
            return np.zeros(len(pair), dtype=bool)
        return np.isin(pair.subject, self.held_out_)

    def get_dataset(self, X, y=None):
        """Make the data set of a batch loader; without ``y``, X is checked first."""
        if is_dataset(X):
            return X
        if y is None:
            X = self._check_predicted(X)
        return self._dataset(X.target_epochs, y)

    def _windows(self, pair, y):
        """Return the windows to train on."""
        windows = training_windows(pair, self.sequence_length_)
        if self._skips_unscored:
            windows = windows[(y[windows] >= 0).any(axis=1)]
        return windows

    def _dataset(self, pair, y, extras=None, window_extras=None):
        """Make the data set of epochs, or of windows of them."""
        if self.sequence_length_ == 1:
            return EpochDataset(pair, y, extras)
        if y is None:
            windows = predicted_windows(pair, self.sequence_length_)
            share = self._can_share()
        else:
            windows = self._windows(pair, y)
            share = self.neighbouring_windows > 1 and self._trains_shared()
        return WindowDataset(pair, windows, y, extras, window_extras, share=share)

    def _check_predicted(self, X):
        pair = as_pair(X)
        given, fitted = pair.shape[1:], self.epoch_shape_
        if given != fitted:
            raise ValueError(
                f"This stager was fitted to epochs of {fitted[0]} channel(s) and "
                f"{', '.join(map(str, fitted[1:]))} samples; given {given[0]} channel(s) and "
                f"{', '.join(map(str, given[1:]))} samples. (A 2-D array is taken for epochs "
                "of one channel; a single epoch is X[None].)"
            )
        names = pair.ch_names["target"]
        if names and self.ch_names_ and list(names) != list(self.ch_names_):
            warnings.warn(
                f"This stager was fitted to the channels {', '.join(self.ch_names_)}; given "
                f"{', '.join(names)}. Of a pair it takes the target: a teacher is asked "
                "about X.source_epochs.",
                stacklevel=3,
            )
        sfreq = pair.sfreq["target"]
        own = self.signal_.get("sfreq")
        if sfreq and own and not np.isclose(sfreq, own):
            raise ValueError(
                f"This stager was fitted to {own:g} Hz; given epochs at "
                f"{sfreq:g} Hz. Resample them."
            )
        if not len(pair):
            raise ValueError("X holds no epochs.")
        check_signal(pair, "target")
        return pair

    def get_split_datasets(self, X, y=None, **fit_params):
        """Split by subject where subjects are held out, else as ``train_split`` says."""
        if not len(self.held_out_):
            return super().get_split_datasets(X, y, **fit_params)
        dataset = self.get_dataset(X, y)
        validates = self._validates(dataset.pair)
        scored = dataset.y >= 0
        if isinstance(dataset, WindowDataset):
            validates = validates[dataset.windows[:, 0]]
            scored = scored[dataset.windows].any(axis=1)
            return (
                dataset.select(np.flatnonzero(~validates)),
                dataset.select(np.flatnonzero(validates & scored), self._trains_shared()),
            )
        return (
            Subset(dataset, np.flatnonzero(~validates)),
            Subset(dataset, np.flatnonzero(validates & scored)),
        )


def input_spec(pair, n_outputs):
    """Tell a network what it is built for.

    Parameters
    ----------
    pair : PairedEpochs
        Its target is what the network sees.
    n_outputs : int
        Number of classes.

    Returns
    -------
    dict
        ``n_chans``, ``n_times``, ``n_outputs`` and ``sfreq`` in hertz (of a spectrogram,
        whose frames do not tell, only where it is known; and its ``n_bins``).
    """
    signal = {"n_chans": pair.shape[1], "n_times": pair.shape[2], "n_outputs": n_outputs}
    sfreq = pair.sfreq["target"]
    if len(pair.shape) > 3:
        signal["n_bins"] = pair.shape[3]
    elif sfreq is None:
        sfreq = pair.shape[2] / EPOCH_SECONDS
    if sfreq is not None:
        signal["sfreq"] = sfreq
    return signal
