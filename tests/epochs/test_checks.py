"""What users may give for epochs, and what is refused."""

import warnings

import mne
import numpy as np
import pytest

from skleepkd import PairedEpochs
from skleepkd.epochs import rows as rows_module
from skleepkd.epochs.checks import as_pair, check_signal
from tests.tiny import numbered, raises, recording


def noise(*shape, spread=20.0, dtype=np.float32):
    return (spread * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


# ---------------------------------------------------------------- as_pair


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_arrays(dtype):
    array = noise(6, 2, 50, dtype=dtype)
    X = as_pair(array)
    assert np.shares_memory(X["target"], array)
    assert X.dtype == dtype
    assert X.sfreq == {"target": None, "source": None}
    assert as_pair(array.tolist()).shape == (6, 2, 50)


def test_an_array_of_two_axes_is_one_channel(tmp_path):
    np.save(tmp_path / "night.npy", noise(6, 50))
    mapped = np.load(tmp_path / "night.npy", mmap_mode="r")
    X = as_pair(mapped, X_source=mapped)
    assert X.shape == X["source"].shape == (6, 1, 50)
    for modality in ("target", "source"):
        assert isinstance(X[modality], np.memmap)
        assert np.shares_memory(X[modality], mapped)


def test_mne_epochs_as_a_source():
    info = mne.create_info(["L-R", "LE"], 10.0, "eeg")
    epochs = mne.EpochsArray(1e-6 * noise(4, 2, 300), info, verbose=False)
    X = as_pair(noise(4, 1, 60), X_source=epochs)
    assert X.sfreq == {"target": None, "source": 10.0}
    assert X.ch_names["source"] == ["L-R", "LE"]
    np.testing.assert_allclose(X["source"], noise(4, 2, 300), rtol=1e-5)


def test_a_source_beside_the_target():
    X = numbered()
    mixed = X[[7, 2, 5]]
    joined = as_pair(mixed.target_epochs, X_source=mixed.source_epochs)
    for modality in ("target", "source"):
        assert joined.fingerprint(modality) == mixed.fingerprint(modality)
        assert joined.sfreq[modality] == mixed.sfreq[modality]
        assert joined.ch_names[modality] == mixed.ch_names[modality]
    assert joined.onset.tolist() == [210, 60, 150]
    bare = as_pair(np.asarray(X), X_source=X["source"], groups=list("aabbccddeeff"))
    assert bare.subject.tolist() == list("aabbccddeeff")
    assert bare[3:5]["source"][:, 0, 0].tolist() == [1003, 1004]


def test_a_source_is_not_read_when_it_joins(monkeypatch):
    X = numbered()[::-1]
    monkeypatch.setattr(rows_module.Signal, "read", None)
    assert as_pair(X.target_epochs, X_source=X.source_epochs).has_source


def test_a_source_that_does_not_fit():
    X = numbered()
    with raises("given twice: X is a pair"):
        as_pair(X, X_source=X["source"])
    with raises("given twice: X_source is a pair"):
        as_pair(X["target"], X_source=X)
    with raises("12 target epochs and 11 source epochs"):
        as_pair(X["target"], X_source=X["source"][:-1])
    with raises("X_source and the pair's own subjects disagree"):
        as_pair(X.target_epochs, X_source=X[::-1].source_epochs.with_subject(X.subject[1]))
    with raises("source must be an array of numbers .* given RawArray"):
        as_pair(X["target"], X_source=recording())


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(5), r"\(n_epochs, n_channels, n_times\); given \(5,\)"),
        (np.array([["W", "N1"]]), "array of numbers"),
        ([[1.0, None]], "array of numbers"),
        ([[1.0, 2.0], [3.0]], "array of numbers .* given list"),
        (None, "array of numbers .* given NoneType"),
    ],
)
def test_what_are_no_epochs(X, message):
    with raises(message):
        as_pair(X)


# ---------------------------------------------------------------- groups


def test_groups_may_use_other_names_for_the_same_subjects():
    X = numbered()
    renamed = np.array([10, 20, 30])[np.repeat([2, 0, 1], 4)]
    assert as_pair(X, groups=renamed).subject.tolist() == X.subject.tolist()
    assert as_pair(X[[11, 0]], groups=["z", "y"]).subject.tolist() == ["s2", "s0"]
    assert as_pair(X) is as_pair(X, groups=X.subject) is X
    view = numbered(subject=None)[[11, 0]]
    assert as_pair(view, groups=[5, 6]).subject.tolist() == [5, 6]
    assert view.subject is None


@pytest.mark.parametrize(
    "groups",
    [np.arange(12), np.zeros(12), np.repeat([0, 1, 0], 4), np.repeat([0, 1, 2], [5, 3, 4])],
    ids=["finer", "coarser", "two merged", "one moved"],
)
def test_groups_that_contradict_the_pair(groups):
    with raises("groups and the pair's own subjects disagree"):
        as_pair(numbered(), groups=groups)


@pytest.mark.parametrize("groups", ["s0", np.arange(11), np.zeros((12, 1))])
def test_groups_of_another_shape(groups):
    with raises(r"expected shape \(12,\)"):
        as_pair(numbered(subject=None), groups=groups)


# ---------------------------------------------------------------- check_signal


def check(array, modality="target", **options):
    check_signal(PairedEpochs(array, source=array), modality, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 2 * 50 * 4)
    signal = noise(10, 2, 50)
    check(signal)
    signal[[7, 8], 1, 49] = bad
    with raises("The target holds NaN or infinite values, first in epoch 7"):
        check(signal)
    with raises("The X_source holds NaN"):
        check(signal, "source", name="X_source")
    check(signal[:7])
    # Rows are counted in what was given, not in its base.
    with raises("first in epoch 1"):
        check_signal(PairedEpochs(signal)[[3, 8]], "target")


# As quiet as EEG may be, EEG, slow waves, and an ECG.
@pytest.mark.parametrize("microvolts", [1.0, 20.0, 100.0, 1000.0])
def test_volts_are_refused(microvolts):
    signal = noise(10, 2, 50, spread=microvolts, dtype=np.float64)
    check(signal)
    drifting = np.arange(10.0)[:, None, None]  # an offset of each epoch is no signal
    for volts in (1e-6 * signal, drifting + 1e-6 * signal, np.float32(1e-6 * signal)):
        with raises("looks like volts.*microvolts are expected.*RecordingScaler"):
            check(volts)


def test_flat_channels_do_not_look_like_volts():
    signal = noise(10, 4, 50)
    signal[:, 1:] = 0
    check(signal)
    check(np.zeros((3, 1, 20)))
    check(signal.astype(np.int16))
    check(signal[:0])
    with raises("volts"):
        check(1e-6 * signal)


def test_other_units_pass():
    check(noise(5, 1, 50, spread=1.0))  # standardised
    check(20 * np.log10(np.abs(noise(5, 1, 29, 129))))  # decibels
    check(1e-4 * noise(5, 1, 29, 129))  # power


def test_a_channel_without_a_signal_is_named():
    rng = np.random.default_rng(0)
    signal = 30 * rng.standard_normal((4, 3, 60))
    signal[:, 1] = 7.0
    X = PairedEpochs(signal, ch_names=["E1", "E2", "E3"])
    with pytest.warns(UserWarning, match="no signal in channel E2: .* all of 4 epochs"):
        check_signal(X, "target")
    with pytest.warns(UserWarning, match="no signal in channel 1:"):
        check_signal(PairedEpochs(signal), "target")
    counts = signal[:, :, :1]  # one value an epoch, such as counts of movement
    with pytest.warns(UserWarning, match="no signal in channel 1:"):
        check_signal(PairedEpochs(counts), "target")
    with warnings.catch_warnings(action="error"):
        check_signal(PairedEpochs(counts[:, [0, 2]]), "target")
    signal[3, 1, 5] = 8.0  # flat in some epochs alone
    with warnings.catch_warnings(action="error"):
        check_signal(PairedEpochs(signal), "target")
