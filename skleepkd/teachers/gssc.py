"""GSSC, the Greifswald Sleep Stage Classifier, as a teacher."""

import importlib.resources
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from skleepkd.stages import EPOCH_SECONDS
from skleepkd.teachers.nights import ReadyStager, import_extra

#: What the files of its networks may name, beside tensors: classes of its own and of torch.
_OWN = (
    *("ResBlock", "ResBottleneck", "ResDecision", "ResMixer", "ResSignal", "ResSleep"),
    "SleepGRU",
)
_OF_TORCH = (
    *("AvgPool1d", "Conv1d", "Dropout", "GRU", "GroupNorm", "Identity", "LeakyReLU"),
    *("Linear", "LogSoftmax", "ModuleDict", "Sequential"),
)
#: NumPy's constructor of scalars, under the name that it had when the files were written.
_SCALAR = (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar")

_BAND = (0.3, 30.0)  # hertz
#: Epochs that the network for signals is given at a time.
_BATCH = 64


class GsscStager(ReadyStager):
    """GSSC [1]_: a convolutional and a recurrent network on one EEG and one EOG channel.

    Trained on thousands of real nights, so it needs no ``fit``. As a teacher,
    ``FrozenEstimator(GsscStager())``, it is given the source of a pair; it has probabilities
    and features. It needs the package ``gssc``, ``pip install skleepkd[gssc]``, **whose
    license is the AGPL**: mind what that asks of a program that you give to others.

    Parameters
    ----------
    eeg, eog, labels
        As of :class:`YasaStager`.

    Attributes
    ----------
    classes_ : ndarray of shape (5,)

    See Also
    --------
    YasaStager : Boosted trees, which take a chin channel too.

    Notes
    -----
    The signals are in microvolts, at any sampling rate above 60 Hz: they are resampled to
    2,560 samples an epoch, filtered to 0.3 to 30 Hz and standardised over the night, as in
    GSSC's own program. That stages a night once with each subset of its channels and keeps
    for each epoch the surest result; here the night is staged once, from all channels that
    are used, so that the probabilities are those of one network. A GPU is used where there
    is one.

    Nights are put together as by :class:`YasaStager`. There is no shortest night, but a
    night of minutes is standardised on these minutes alone.

    The weights are read from the files of the package with ``weights_only=True`` and a list
    of the classes that they may name.

    References
    ----------
    .. [1] Hanna, J. and Flöel, A. (2023). An accessible and versatile deep learning-based
       sleep stage classifier. Frontiers in Neuroinformatics 17:1086634.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skleepkd import DistilledSleepStager
    >>> from skleepkd.teachers import GsscStager
    >>> student = DistilledSleepStager(
    ...     FrozenEstimator(GsscStager()), module="LogPowerNet", adapter="linear", alpha=0.5
    ... )
    """

    _kinds = ("eeg", "eog")
    _n_times = 2560
    _least_epochs = 1
    _least_rate = 60.0  # hertz

    def __init__(self, eeg=None, eog=None, labels="codes"):
        self.eeg = eeg
        self.eog = eog
        self.labels = labels

    def extract_features(self, X):
        """Compute the representation of each epoch before its neighbours are looked at.

        It is the output of the network for signals, which the recurrent network takes,
        float32 of shape (n_epochs, 512), of X as for :meth:`predict_proba`. Of the recurrent
        network's own a student of single epochs could not follow what it holds of the
        minutes around.
        """
        return self._by_night(X, self._represent, least=1)

    def _stage(self, night):
        """Stage a night; probabilities of W, N1, N2, N3, REM."""
        recurrent = load_network(file_of_network("gru_net_v1.pt"))
        features = torch.from_numpy(self._represent(night))
        with torch.no_grad():
            # (n_epochs, 512) -> (n_epochs, 1 night, 512), the recurrent network's order
            logarithms, _ = recurrent(features[:, None], None)
        return logarithms[:, 0].exp().numpy()

    def _represent(self, night):
        """Compute the representation of each epoch of a night of signals by kind."""
        import mne

        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = load_network(file_of_network("sig_net_v1.pt")).to(device)
        signals = np.stack(list(night.values()))
        sfreq = self._n_times / EPOCH_SECONDS
        signals = mne.filter.filter_data(signals, sfreq, *_BAND, verbose="error")
        signals -= signals.mean(axis=1, keepdims=True)
        signals /= np.maximum(signals.std(axis=1, keepdims=True), 1e-6)
        # (n_channels, n_epochs, 1, n_times)
        signals = signals.reshape(len(night), -1, 1, self._n_times).astype(np.float32)
        parts = []
        for start in range(0, signals.shape[1], _BATCH):
            batch = torch.from_numpy(signals[:, start : start + _BATCH]).to(device)
            with torch.no_grad():
                by_kind = dict(zip(night, batch, strict=True))
                parts.append(network(by_kind, rep_output="rep_only")[..., 0].cpu())
        return torch.cat(parts).numpy()


def file_of_network(name):
    """Find a file of networks that the package brings along."""
    return importlib.resources.files(import_extra("gssc.nets", "gssc")) / name


@lru_cache(2)  # the two that a night is staged by
def load_network(path):
    """Rebuild a network of GSSC's package; a file that names other code is refused."""
    networks = import_extra("gssc.networks", "gssc")
    admitted = [getattr(networks, name) for name in _OWN]
    admitted += [getattr(nn, name) for name in _OF_TORCH]
    admitted += [_SCALAR, np.dtype, type(np.dtype(np.int64))]
    with path.open("rb") as stream, torch.serialization.safe_globals(admitted):
        network = torch.load(stream, map_location="cpu", weights_only=True)
    return network.eval()
