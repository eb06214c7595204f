"""YASA's stager as a teacher."""

import warnings

import numpy as np
from sklearn.exceptions import InconsistentVersionWarning

from skleepkd.stages import EPOCH_SECONDS
from skleepkd.teachers.nights import LEAST_EPOCHS, ReadyStager, import_extra

_SFREQ = 100.0
_COLUMNS = ["WAKE", "N1", "N2", "N3", "REM"]


class YasaStager(ReadyStager):
    """YASA's sleep stager [1]_: boosted trees on features of one EEG, EOG and EMG channel.

    Trained on about 3,000 real nights of the National Sleep Research Resource, so it needs
    no ``fit``. As a teacher, ``FrozenEstimator(YasaStager())``, it is given the source of a
    pair; it has probabilities and no features. It needs the package ``yasa`` (BSD):
    ``pip install skleepkd[yasa]``.

    Parameters
    ----------
    eeg : str, optional
        Name of the EEG channel, best a central one. By default the first that is central by
        its name (C4-A1, C3-M2, Cz, ...), else the first other EEG; or the only channel of a
        pair without names.
    eog, emg : str or False, optional
        Names of an eye and of a chin channel. By default the first that is one by its name
        (E1-M2, LOC, EOG, ...; Chin, EMG, ...), or none where there is none; False is none.
    labels : {"codes", "names"}, default="codes"
        What ``classes_`` are: 0 to 4 (W, N1, N2, N3, REM), or these names in alphabetical
        order.

    Attributes
    ----------
    classes_ : ndarray of shape (5,)

    See Also
    --------
    GsscStager : A network, which has features too.

    Notes
    -----
    The signals are in microvolts, neither filtered nor scaled, at any sampling rate above
    60 Hz (they are resampled to YASA's 100 Hz). An EMG that was stored as its envelope, as
    that of Sleep-EDF, is none: ``emg=False``.

    Features are smoothed over minutes and compared with the night's own, so all epochs of a
    recording (of a subject, where recordings are not known) are staged together, in the
    order of their onsets. Where epochs are missing, those before and after a hole of at
    most five minutes are joined; a longer hole parts the recording into nights that are
    staged apart, unless one of them would be shorter than five minutes. A recording shorter
    than that is refused by its name.

    Nobody but you can know whether your nights were among those that it was trained on.

    References
    ----------
    .. [1] Vallat, R. and Walker, M. P. (2021). An open-source, high-performance tool for
       automated sleep staging. eLife 10:e70092.

    Examples
    --------
    >>> from sklearn.frozen import FrozenEstimator
    >>> from skleepkd import DistilledSleepStager
    >>> from skleepkd.teachers import YasaStager
    >>> student = DistilledSleepStager(
    ...     FrozenEstimator(YasaStager()), module="LogPowerNet", feature_loss=None, alpha=0.5
    ... )
    """

    _kinds = ("eeg", "eog", "emg")
    _n_times = round(EPOCH_SECONDS * _SFREQ)
    _least_epochs = LEAST_EPOCHS
    _least_rate = 60.0  # hertz

    def __init__(self, eeg=None, eog=None, emg=None, labels="codes"):
        self.eeg = eeg
        self.eog = eog
        self.emg = emg
        self.labels = labels

    def _stage(self, night):
        """Stage a night of signals at 100 Hz by kind; probabilities of W, N1, N2, N3, REM."""
        import mne

        yasa = import_extra("yasa", "yasa")
        kinds = list(night)
        info = mne.create_info(kinds, _SFREQ, kinds)
        volts = 1e-6 * np.stack(list(night.values()))
        raw = mne.io.RawArray(volts, info, verbose="error")
        with warnings.catch_warnings():
            # Its trees were stored by an older scikit-learn; flat epochs divide by zero.
            warnings.simplefilter("ignore", InconsistentVersionWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            stager = yasa.SleepStaging(raw, **{f"{kind}_name": kind for kind in kinds})
            return stager.predict().proba[_COLUMNS].to_numpy()
