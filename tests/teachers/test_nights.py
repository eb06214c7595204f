"""Channels by their names, and rows put in order as nights."""

import numpy as np
import pytest

from skleepkd import PairedEpochs
from skleepkd.teachers import GsscStager, YasaStager
from skleepkd.teachers.nights import ReadyStager, find_channel, find_nights


def epochs(onset=None, recording=None, subject=None, n_epochs=None, **about):
    """Silent epochs of one sample."""
    n_epochs = len(onset) if n_epochs is None else n_epochs
    columns = {"onset": onset, "recording": recording, "subject": subject}
    return PairedEpochs(np.zeros((n_epochs, 1, 1)), **columns, **about)


def onsets(*numbers):
    """Onsets in seconds of epochs by their numbers in the night."""
    return 30.0 * np.concatenate([np.atleast_1d(part) for part in numbers])


def nights_of(*args, **kwargs):
    return [rows.tolist() for rows in find_nights(epochs(*args, **kwargs))]


def test_rows_come_in_the_order_of_their_onsets():
    order = np.random.default_rng(0).permutation(30)
    (rows,) = nights_of(onsets(order))
    assert order[rows].tolist() == list(range(30))


def test_without_onsets_rows_follow_one_another():
    assert nights_of(n_epochs=4) == [[0, 1, 2, 3]]
    assert nights_of(n_epochs=4, recording=["b", "a", "b", "a"]) == [[1, 3], [0, 2]]


def test_nights_are_those_of_recordings_else_of_subjects():
    onset = onsets(range(3), range(3))
    nights = [[0, 1, 2], [3, 4, 5]]
    assert nights_of(onset, recording=[1] * 3 + [2] * 3, subject="s") == nights
    assert nights_of(onset, subject=["s"] * 3 + ["t"] * 3) == nights
    with pytest.raises(ValueError, match="same|begin at 0 s"):
        nights_of(onset, subject="s")


def test_short_holes_are_closed_and_long_ones_part_the_night():
    # Ten epochs, 300 s, are missing at first; then eleven.
    assert nights_of(onsets(range(20), range(30, 50))) == [list(range(40))]
    parted = [list(range(20)), list(range(20, 40))]
    assert nights_of(onsets(range(20), range(31, 51))) == parted


def test_a_part_of_less_than_five_minutes_stays_with_its_night():
    assert nights_of(onsets(range(9), range(100, 120))) == [list(range(29))]
    assert nights_of(onsets(range(20), range(100, 109))) == [list(range(29))]
    three = onsets(range(20), range(100, 109), range(200, 220))
    assert nights_of(three) == [list(range(29)), list(range(29, 49))]


def test_what_is_too_short_is_refused_by_its_name():
    pair = epochs(onsets(range(20), range(9)), ["long"] * 20 + ["nap"] * 9)
    assert len(find_nights(pair, least=9)) == 2
    with pytest.raises(ValueError, match=r"recording nap .* 9 epochs \(4.5 min\)"):
        find_nights(pair, least=10)


def test_epochs_that_overlap_are_refused():
    with pytest.raises(ValueError, match="recording r overlap"):
        nights_of(15.0 * np.arange(20), recording="r")
    with pytest.raises(ValueError, match="overlap"):
        nights_of(onsets(range(10), 9.5 + np.arange(10)))


#: Channels as data sets name them, and their EEG, EOG and chin.
MONTAGES = {
    # CinC 2018
    "F3-M2, F4-M1, C3-M2, C4-M1, O1-M2, E1-M2, Chin1-Chin2, ABD, SaO2, ECG": (
        *("C3-M2", "E1-M2", "Chin1-Chin2"),
    ),
    # Sleep-EDF
    "EEG Fpz-Cz, EEG Pz-Oz, EOG horizontal, Resp oro-nasal, EMG submental": (
        *("EEG Fpz-Cz", "EOG horizontal", "EMG submental"),
    ),
    # BOAS
    "PSG_F3, PSG_C3, PSG_EOGL, PSG_EMG, PSG_THER, PSG_SPO2": (
        *("PSG_C3", "PSG_EOGL", "PSG_EMG"),
    ),
    # MASS
    "ECG ECGI, EOG Left Horiz, EMG Chin, EEG Fp1-LER, EEG C4-LER": (
        *("EEG C4-LER", "EOG Left Horiz", "EMG Chin"),
    ),
    # The simulated nights
    "chin, E1-A2, ECG, Pz-Oz, C4-A1": ("C4-A1", "E1-A2", "chin"),
    "Leg EMG, LOC, Flow, Position, Cz": ("Cz", "LOC", None),
    "ROC-A1, EEG": ("EEG", "ROC-A1", None),
    "EMG tib, EMG, c3:a2": ("c3:a2", None, "EMG"),
    # Names that only look like a kind
    "EEG LOC-REF, EEG EKG1-REF, EEG1": ("EEG1", "EEG LOC-REF", None),
    "T1 Temp, Flow C4, EEG2": ("EEG2", None, None),
    "Machine flow, Environmental, EMG RAT, Chin1-Chin2, Cz": ("Cz", None, "Chin1-Chin2"),
    "EMG RAT, EMG1, Cz": ("Cz", None, "EMG1"),
    "Submental, Cz": ("Cz", None, "Submental"),
}


def named(names):
    return PairedEpochs(np.zeros((2, len(names), 20)), ch_names=names)


@pytest.mark.parametrize("names", MONTAGES)
def test_the_first_fitting_channel_is_taken(names):
    expected, names = MONTAGES[names], names.split(", ")
    found = [find_channel(named(names), kind, None) for kind in ("eeg", "eog", "emg")]
    assert tuple(None if k is None else names[k] for k in found) == expected


def test_a_channel_that_is_named_is_taken():
    pair = named(["C4-A1", "E1-A2", "LE"])
    assert find_channel(pair, "eeg", "LE") == 2
    assert find_channel(pair, "eog", False) is None
    with pytest.raises(ValueError, match="No channel named C3; there are C4-A1, E1-A2, LE"):
        find_channel(pair, "eeg", "C3")


def test_where_no_name_fits_the_error_says_what_to_write():
    with pytest.raises(ValueError, match="L-R, ECG is an EEG.*eeg='L-R'"):
        find_channel(named(["L-R", "ECG"]), "eeg", None)
    assert find_channel(named(["L-R", "ECG"]), "eog", None) is None


def test_channels_without_names():
    one, two = (PairedEpochs(np.zeros((2, n, 20))) for n in (1, 2))
    assert find_channel(one, "eeg", None) == 0
    assert find_channel(two, "eog", None) is None
    for pair, kind, wanted in ((two, "eeg", None), (one, "eeg", "C4"), (two, "eog", "E1")):
        with pytest.raises(ValueError, match=f"(?s)ch_names=.*{kind}="):
            find_channel(pair, kind, wanted)


class Echo(ReadyStager):
    """Gives back the first samples of its channels, at 10 Hz."""

    _kinds, _n_times, _least_epochs = ("eeg", "eog"), 300, 1

    def __init__(self, eeg=None, eog=None, labels="codes"):
        self.eeg, self.eog, self.labels = eeg, eog, labels

    def _stage(self, night):
        self.kinds_ = list(night)
        return np.hstack([signal.reshape(-1, 300)[:, :5] for signal in night.values()])


def sines(n_epochs, sfreq, frequency):
    """One continuous sine of 30 microvolts, cut into epochs."""
    times = np.arange(round(30 * n_epochs * sfreq)) / sfreq
    return 30 * np.sin(2 * np.pi * frequency * times).reshape(n_epochs, 1, -1)


@pytest.mark.parametrize("sfreq", [10.0, 12.8, 25.6, 64.0, 250.0])
def test_a_night_is_resampled_as_one_signal(sfreq):
    onset = onsets(np.random.default_rng(0).permutation(20))
    eeg, eog = (sines(20, sfreq, frequency) for frequency in (0.21, 0.37))
    signal = np.concatenate([eeg, eog], axis=1)[(onset / 30).astype(int)]
    X = PairedEpochs(signal, onset=onset, sfreq=sfreq, ch_names=["C4-A1", "E1-A2"])
    predicted = Echo()._by_night(X, Echo()._stage, least=1)
    expected = [sines(20, 10.0, frequency)[:, 0, :5] for frequency in (0.21, 0.37)]
    expected = np.hstack(expected)[(onset / 30).astype(int)]
    inner = onset > 0  # the night begins with its first sample
    np.testing.assert_allclose(predicted[inner], expected[inner], atol=0.15)


def test_only_channels_that_are_used_are_given():
    X = PairedEpochs(sines(2, 10.0, 0.2).repeat(3, 1), ch_names=["E1", "C4", "chin"])
    stager = Echo()
    stager.predict_proba(X)
    assert stager.kinds_ == ["eeg", "eog"]
    stager = Echo(eog=False)
    stager.predict_proba(X)
    assert stager.kinds_ == ["eeg"]


def test_columns_follow_the_sorted_classes():
    X = sines(2, 10.0, 0.2)
    first = X[:, 0, :5]
    assert Echo().classes_.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(Echo().predict_proba(X), first)
    named = Echo(labels="names")
    assert named.classes_.tolist() == ["N1", "N2", "N3", "REM", "W"]
    np.testing.assert_array_equal(named.predict_proba(X), first[:, [1, 2, 3, 4, 0]])
    names = np.array(["W", "N1", "N2", "N3", "REM"])
    assert named.predict(X).tolist() == names[Echo().predict(X)].tolist()
    with pytest.raises(ValueError, match="'codes' or 'names'; given 'stages'"):
        Echo(labels="stages").classes_


@pytest.mark.filterwarnings("ignore:The target has epochs of")
def test_what_is_no_epoch_of_a_signal_is_refused():
    X = sines(2, 10.0, 0.2)
    with pytest.raises(ValueError, match="of 30 s; given 300 samples at 100 Hz, 3 s"):
        Echo().predict(PairedEpochs(X, sfreq=100.0))
    with pytest.raises(ValueError, match="given shape"):
        Echo().predict(X[..., None])
    with pytest.raises(ValueError, match="given shape"):
        Echo().predict(X[:0])
    with pytest.raises(ValueError, match="looks like volts"):
        Echo().predict(1e-6 * X)
    X[1, 0, 5] = np.nan
    with pytest.raises(ValueError, match="holds NaN.*epoch 1"):
        Echo().predict(X)


def test_too_slow_signals_are_refused():
    X = 20 * np.random.default_rng(0).standard_normal((20, 1, 750)).astype(np.float32)
    with pytest.raises(ValueError, match="more than 60 Hz; given 25 Hz"):
        GsscStager().predict_proba(X)


def test_unscored_epochs_are_no_errors(monkeypatch):
    def stage(self, X):
        return np.eye(5)[np.arange(len(X)) % 5]

    monkeypatch.setattr(YasaStager, "predict_proba", stage)
    y = np.where(np.arange(20) % 2, np.arange(20) % 5, -1)
    X = np.zeros((20, 1, 3000))
    assert YasaStager().score(X, y) == 1.0
    assert YasaStager().score(X, np.where(y == 1, 0, y)) == pytest.approx(0.8)
