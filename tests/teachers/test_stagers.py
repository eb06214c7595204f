"""The ready stagers: what both do, on simulated nights and on two real ones."""

import functools
import importlib
import pickle
import sys

import mne
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import cohen_kappa_score, f1_score
from sklearn.utils.validation import check_is_fitted

from skleepkd import DistilledSleepStager, PairedEpochs, RecordingStager
from skleepkd.datasets import make_cohort, simulate_night
from skleepkd.teachers import GsscStager, YasaStager
from tests.tiny import FAST

PACKAGES = {YasaStager: "yasa", GsscStager: "gssc"}
MONTAGE = ["chin", "C4-A1", "E1-A2"]


@pytest.fixture(params=PACKAGES, ids=PACKAGES.values())
def stager(request):
    pytest.importorskip(PACKAGES[request.param])
    return request.param()


def simulated(n_epochs=24, sfreq=100.0, **about):
    """A simulated night as epochs, with its onsets."""
    night = simulate_night(n_epochs, sfreq=sfreq, derivations=MONTAGE, **about)
    epochs = night.signals.reshape(len(MONTAGE), n_epochs, -1).swapaxes(0, 1)
    onset = 30.0 * np.arange(n_epochs)
    return PairedEpochs(epochs, onset=onset, sfreq=sfreq, ch_names=MONTAGE)


@pytest.fixture(scope="module")
def pair():
    """Two short simulated nights of two recordings."""
    nights = [simulated(random_state=0, subject=k) for k in range(2)]
    onset = np.concatenate([night.onset for night in nights])
    signal = np.concatenate([night["target"] for night in nights])
    about = {"onset": onset, "recording": np.repeat(["one", "two"], 24)}
    return PairedEpochs(signal, **about, sfreq=100.0, ch_names=MONTAGE)


@pytest.fixture(scope="module")
def proba_of(pair):
    """What a stager gives for the pair, computed once."""
    return functools.cache(lambda kind: kind().predict_proba(pair))


def raw_of(pair):
    """A continuous recording of the rows, in volts."""
    volts = 1e-6 * pair["target"].swapaxes(0, 1).reshape(len(MONTAGE), -1)
    info = mne.create_info(MONTAGE, 100.0, ["emg", "eeg", "eog"])
    return mne.io.RawArray(volts, info, verbose="error")


def test_yasa_stager_gives_what_yasa_does(pair):
    yasa = pytest.importorskip("yasa")
    night = pair[pair.recording == "two"]
    names = {"eeg_name": "C4-A1", "eog_name": "E1-A2", "emg_name": "chin"}
    expected = yasa.SleepStaging(raw_of(night), **names).predict().proba
    expected = expected[["WAKE", "N1", "N2", "N3", "REM"]]
    np.testing.assert_allclose(YasaStager().predict_proba(night), expected, atol=1e-6)
    del names["eog_name"], names["emg_name"]
    expected = yasa.SleepStaging(raw_of(night), **names).predict().hypno
    expected = ["W" if stage == "WAKE" else stage for stage in expected]
    alone = YasaStager(eog=False, emg=False, labels="names")
    assert alone.predict(night).tolist() == expected


def test_probabilities_of_five_stages(pair, stager, proba_of):
    proba = proba_of(type(stager))
    assert proba.shape == (48, 5)
    assert proba.min() >= 0
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(proba.argmax(axis=1))) > 1
    assert stager.predict(pair).tolist() == proba.argmax(axis=1).tolist()


def test_rows_are_answered_in_the_order_that_they_are_given(pair, stager, proba_of):
    order = np.random.default_rng(0).permutation(len(pair))
    expected = proba_of(type(stager))[order]
    np.testing.assert_array_equal(stager.predict_proba(pair[order]), expected)


def test_recordings_and_parts_behind_a_long_hole_are_staged_apart(pair, stager, proba_of):
    def staged(hole):
        onset = 30.0 * np.arange(48)
        onset[24:] += hole
        night = {"sfreq": 100.0, "ch_names": MONTAGE, "recording": "r", "onset": onset}
        return stager.predict_proba(PairedEpochs(pair["target"], **night))

    whole, parted = staged(hole=0), staged(hole=600)
    np.testing.assert_array_equal(parted, proba_of(type(stager)))
    np.testing.assert_array_equal(staged(hole=120), whole)
    assert np.abs(parted - whole).max() > 0.01


def test_other_sampling_rates_give_the_same_stages(stager):
    nights = [simulated(30, sfreq, random_state=3) for sfreq in (100.0, 128.0, 250.0)]
    stages = [stager.predict(night) for night in nights]
    for other in stages[1:]:
        assert np.mean(stages[0] == other) > 0.9


def test_it_is_fitted_and_travels(pair, stager):
    night = pair[:24]
    stager.set_params(eeg="C4-A1", eog=False)
    check_is_fitted(stager)
    check_is_fitted(FrozenEstimator(stager))
    assert stager.fit(None) is stager
    expected = stager.predict_proba(night)
    for other in (clone(stager), pickle.loads(pickle.dumps(stager))):
        assert other.get_params() == stager.get_params()
        np.testing.assert_array_equal(other.predict_proba(night), expected)


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    pair, stager, monkeypatch
):
    name = PACKAGES[type(stager)]
    for module in [name, *(key for key in sys.modules if key.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'skleepkd\[{name}\]'"):
        stager.predict(pair)
    importlib.import_module("skleepkd.teachers")


def test_a_night_that_is_too_short_for_yasa_is_named(pair):
    with pytest.raises(ValueError, match="recording two there are 9 epochs"):
        YasaStager().predict(pair[:33])


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_it_teaches_a_student(stager, alpha):
    cohort = make_cohort(2, source=["C4-A1"], sfreq=64.0, n_epochs=20, random_state=0)
    teacher = FrozenEstimator(stager)
    options = {"module": "LogPowerNet", "feature_loss": None, "classes": "aasm", **FAST}
    student = DistilledSleepStager(teacher, alpha=alpha, **options)
    student.fit(cohort.X, cohort.y)
    assert np.isfinite(student.history_[-1, "train_loss"])
    assert student.predict_proba(cohort.X["target"]).shape == (40, 5)
    stager.set_params(labels="names")
    student.fit(cohort.X, np.array(["W", "N1", "N2", "N3", "REM"])[cohort.y])
    assert student.classes_.tolist() == stager.classes_.tolist()


def test_it_stages_a_recording(pair, stager):
    night = pair[:24]
    staged = RecordingStager(stager, ch_names=MONTAGE).stage(raw_of(night))
    expected = np.array(["W", "N1", "N2", "N3", "REM"])[stager.predict(night)]
    assert np.mean(staged.stages == expected) > 0.95


# ---------------------------------------------------------------- two real nights


def real_night(folder, person):
    """A real night as epochs in microvolts, and its stages (-1 where there is none)."""
    file = np.load(folder / "ucddb" / f"ucddb{person}.npz")
    signal = (file["signal"] * (100 * file["step"])).astype(np.float32)
    stages = np.array([0, 4, 1, 2, 3, 3] + [-1] * 250)[file["scores"][file["epoch"]]]
    onset = 30.0 * file["epoch"]
    pair = PairedEpochs(
        signal[:, None], onset=onset, recording=person, sfreq=128.0, ch_names=["C3-A2"]
    )
    return pair, stages


@pytest.mark.parametrize("person", ["018", "022"])
def test_real_nights(stager, person, shared_data):
    """One central channel of a sleep clinic's patients; of 022 some epochs are missing."""
    X, stages = real_night(shared_data, person)
    if isinstance(stager, GsscStager):  # of hours, which cost it seconds of a processor
        X, stages = X[300:600], stages[300:600]
    scored = stages >= 0
    predicted = stager.predict(X)
    assert cohen_kappa_score(stages[scored], predicted[scored]) >= 0.78


# ---------------------------------------------------------------- simulated nights, judged


def test_yasa_recognises_the_stages():
    """Trained on real nights, it has seen none of ours: more on the scalp than in the ear."""
    yasa = pytest.importorskip("yasa", reason="YASA judges the simulated nights")
    y, predicted = [], {"C4-A1": [], "L-R": []}
    for subject in range(2):
        about = {"sfreq": 100.0, "derivations": list(predicted), "random_state": 31}
        night = simulate_night(300, subject=subject, **about)
        y += night.y.tolist()
        info = mne.create_info(night.ch_names, 100.0, "eeg")
        raw = mne.io.RawArray(1e-6 * night.signals, info, verbose="error")
        for name, stages in predicted.items():
            stages += yasa.SleepStaging(raw, eeg_name=name).predict().hypno.tolist()
    names = ["WAKE", "N1", "N2", "N3", "REM"]
    y = [names[code] for code in y]
    scalp, ear = (cohen_kappa_score(y, predicted[name]) for name in ("C4-A1", "L-R"))
    assert scalp > 0.5
    assert scalp > ear + 0.1
    but_n1 = ["WAKE", "N2", "N3", "REM"]
    scores = f1_score(y, predicted["C4-A1"], labels=but_n1, average=None)
    assert scores.min() > 0.4
