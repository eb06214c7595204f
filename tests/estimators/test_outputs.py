"""Probabilities in finer and coarser steps than epochs."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.networks.build import segment
from tests.tiny import FAST, TinyNetwork, noise

SFREQ = 2.0  # hertz, so that 30 s are 60 samples
NETWORKS = {
    "UTime": {"module__filters": (2, 4, 8), "module__pools": (3, 2)},
    "USleep": {"module__depth": 2, "module__n_time_filters": 2},
}


def fitted(name="UTime", **params):
    """Fit a network of two levels for one pass on two channels."""
    return SleepStager(name, **NETWORKS[name], **FAST, **params).fit(*noise(2, 60, sfreq=2))


@pytest.fixture(scope="module")
def utime():
    return fitted()


@pytest.fixture(scope="module", params=NETWORKS)
def stager(request, utime):
    return utime if request.param == "UTime" else fitted(request.param)


def night(n_epochs, seed=1, onset=None, recording="n1"):
    rng = np.random.default_rng(seed)
    signal = 20 * rng.standard_normal((n_epochs, 2, 60)).astype(np.float32)
    onset = 30.0 * np.arange(n_epochs) if onset is None else onset
    return PairedEpochs(signal, recording=recording, onset=onset, sfreq=SFREQ)


def written_out(stager, signal, step):
    """Probabilities of one long signal (channels, times), by the network itself."""
    with torch.no_grad():
        logits = segment(stager.module_, torch.from_numpy(signal)[None], step)[0]
    return logits.softmax(dim=0).T.numpy()


def joined(X, rows=slice(None)):
    return np.concatenate(list(X["target"][rows]), axis=1)


def check(stager, X, resolution, expected, expected_onset):
    """Compare probabilities and their onsets, and return the probabilities."""
    proba, onset = stager.hypnodensity(X, resolution, return_onset=True)
    assert proba.shape == (len(expected_onset), 5)
    np.testing.assert_allclose(proba, expected[: len(proba)], atol=1e-6)
    np.testing.assert_allclose(onset, expected_onset)
    return proba


# ---------------------------------------------------------------- each epoch by itself


def test_30_s_is_predict_proba(stager):
    X = night(40)
    proba = check(stager, X, 30.0, stager.predict_proba(X), X.onset)
    # and the network's own output, in steps of an epoch
    with torch.no_grad():
        logits = segment(stager.module_, torch.from_numpy(X["target"]), 60)
    np.testing.assert_allclose(logits[..., 0].softmax(dim=1), proba, atol=1e-6)


@pytest.mark.parametrize("resolution", [0.5, 1, 2, 5, 10, 15])
def test_divisors_of_30_s_predict_each_row_in_order(stager, resolution):
    X = night(5)[[3, 0, 4]]
    step, at = int(resolution * SFREQ), resolution * np.arange(30 / resolution)
    rows = [written_out(stager, epoch, step) for epoch in X["target"]]
    onset = np.concatenate([start + at for start in (90, 0, 120)])
    proba = check(stager, X, resolution, np.concatenate(rows), onset)
    # arrays need no recording; their rate is that of 30 s epochs
    np.testing.assert_array_equal(stager.hypnodensity(X["target"], resolution), proba)


def test_u_time_seconds_average_to_its_epochs_before_the_softmax(utime):
    X = night(6)
    every_second = utime.hypnodensity(X, 1.0).reshape(6, 30, 5).astype(np.float64)
    assert every_second.std(axis=1).max() > 1e-3
    # A softmax of mean logarithms is the softmax of mean logits: what each second's
    # logarithms lack, their normalisation, is the same for all classes.
    means = np.exp(np.log(every_second).mean(axis=1))
    expected = means / means.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(expected, utime.predict_proba(X), atol=1e-6)


def test_batches_do_not_matter():
    X, one = night(11), fitted(batch_size=64)
    for resolution in (1, 20):
        expected = one.set_params(batch_size=64).hypnodensity(X, resolution)
        proba = one.set_params(batch_size=4).hypnodensity(X, resolution)
        np.testing.assert_allclose(proba, expected, atol=1e-6)


def test_own_nonlinearity_is_applied_to_each_output():
    stager = fitted(predict_nonlinearity=lambda logits: logits.sigmoid().softmax(dim=-1))
    proba = stager.hypnodensity(night(3), 10)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert proba.max() / proba.min() < np.e


# ---------------------------------------------------------------- joined epochs


@pytest.mark.parametrize("resolution", [20, 60, 7, 45])
def test_other_resolutions_join_a_recording(stager, resolution):
    X = night(9)[[5, 2, 7, 0, 1, 8, 3, 6, 4]]
    expected = written_out(stager, joined(night(9)), int(resolution * SFREQ))
    check(stager, X, resolution, expected, resolution * np.arange(270 // resolution))


def test_gaps_and_recordings_end_a_joined_signal(utime):
    # two nights, predicted in the order of their names; n1 lacks the epoch at 660 s
    onset = np.array([0, 30, 60, 600, 630, 690, 720, 750])
    X = night(8, onset=onset, recording=np.array(["n2"] * 3 + ["n1"] * 5))
    runs = {600: (slice(3, 5), 3), 690: (slice(5, 8), 4), 0: (slice(0, 3), 4)}
    expected = [written_out(utime, joined(X, rows), 40) for rows, _ in runs.values()]
    at = np.concatenate([start + 20 * np.arange(n) for start, (_, n) in runs.items()])
    check(utime, X, 20.0, np.concatenate(expected), at)
    # the rest of a run that is shorter than a step has no prediction
    assert utime.hypnodensity(X, 60.0).shape == (3, 5)
    assert utime.hypnodensity(X, 300.0).shape == (0, 5)


def test_epochs_that_are_always_apart_are_not_joined(utime):
    X = night(4, onset=90.0 * np.arange(4))
    alone = [written_out(utime, epoch, 40)[:1] for epoch in X["target"]]
    check(utime, X, 20.0, np.concatenate(alone), X.onset)


def test_long_runs_are_read_in_pieces(utime):
    # 2400 s are 120 predictions; three pieces of 40 last 800 s, under 35 epochs
    X = night(80)
    signal, ends = joined(X), ((0, 1620), (1600, 3240), (3200, None))  # whole epochs' ends
    expected = [written_out(utime, signal[:, a:b], 40)[:40] for a, b in ends]
    check(utime, X, 20.0, np.concatenate(expected), 20.0 * np.arange(120))


def test_long_steps_and_long_runs(stager):
    for resolution, n_predictions in ((1100.0, 2), (1800.0, 1), (29.5, 81), (100.0, 24)):
        proba, onset = stager.hypnodensity(night(80), resolution, return_onset=True)
        assert proba.shape == (n_predictions, 5)
        np.testing.assert_allclose(onset, resolution * np.arange(n_predictions))


def test_joining_needs_to_know_what_follows_what(utime):
    X, windows = night(6), night(6, onset=20.0 * np.arange(6))
    unknown = r"joined, and X does not.*recording= and onset="
    for given, message in (
        (X["target"], unknown),
        (PairedEpochs(X["target"], recording="n1"), unknown),
        (windows, r"overlap in the recording n1 .*is 20 s"),
        (night(4, onset=30.0 * np.array([0, 1, 1, 2])), "Two epochs of recording n1 begin"),
    ):
        with pytest.raises(ValueError, match=message):
            utime.hypnodensity(given, 20.0)
    assert utime.hypnodensity(windows, 1.0).shape == (180, 5)


def test_stagers_of_sequences_join_epochs():
    stager, X = fitted(sequence_length=4), night(9)
    np.testing.assert_array_equal(stager.hypnodensity(X), stager.predict_proba(X))
    for resolution in (1, 10, 20):
        expected = written_out(stager, joined(X), resolution * 2)
        onset = resolution * np.arange(270 // resolution)
        check(stager, X[::-1], resolution, expected, onset)
    with pytest.raises(ValueError, match="joined, and X does not"):
        stager.hypnodensity(X["target"], 1)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("resolution", [0, -1, 0.3, 30.1, np.nan, np.inf, "1s", None])
def test_unusable_resolutions(utime, resolution):
    with pytest.raises(ValueError, match="whole number of samples; given .* at 2 Hz"):
        utime.hypnodensity(night(2), resolution)


def test_X_is_checked_as_in_predict_proba(utime):
    with pytest.raises(ValueError, match=r"given 2 channel\(s\) and 50 samples"):
        utime.hypnodensity(np.ones((3, 2, 50)), 1.0)
    with pytest.raises(ValueError, match="looks like volts"):
        utime.hypnodensity(1e-6 * night(3)["target"], 1.0)


def test_networks_that_know_whole_epochs_alone():
    X, y = noise(2, 60, sfreq=2.0)
    spectra, z = noise(1, 5, 33, sfreq=64.0)
    of_spectra = SleepStager("SeqSleepNet", module__n_filters=4, **FAST)
    for stager, given, labels, message in (
        (SleepStager(TinyNetwork, **FAST), X, y, "TinyNetwork predicts whole epochs alone"),
        (of_spectra, spectra, z, "spectrograms predicts whole epochs"),
        (of_spectra, spectra["target"], z, "spectrograms predicts whole epochs"),
    ):
        stager.fit(given, labels)
        np.testing.assert_array_equal(
            stager.hypnodensity(given), stager.predict_proba(given)
        )
        with pytest.raises(ValueError, match=message):
            stager.hypnodensity(given, 1.0)


def test_students_and_fine_tuned_stagers(utime):
    X, y = noise(2, 60, source=(2, 60), sfreq=2.0)
    teacher = SleepStager("UTime", **NETWORKS["UTime"], **FAST)
    student = DistilledSleepStager(teacher, layers="bottom", **FAST)
    tuned = FineTunedSleepStager(FrozenEstimator(utime), trainable=None, device="cpu")
    for stager in (student.fit(X, y), tuned.fit(X, y)):
        stager.module_.train()
        proba = stager.hypnodensity(night(4), 1.0)
        assert proba.shape == (120, 5)
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
        assert not stager.module_.training
    np.testing.assert_allclose(proba, utime.hypnodensity(night(4), 1.0), atol=1e-6)
