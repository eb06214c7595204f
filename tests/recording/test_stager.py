"""Recordings of known loudness, staged by a network that predicts in closed form."""

import os
import pickle
import shutil
import warnings

import mne
import numpy as np
import pytest
import torch
from braindecode.preprocessing import Preprocessor
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skleepkd import PairedEpochs, RecordingStager, SleepStager
from skleepkd.preprocessing import (
    EpochScaler,
    LogSpectrogram,
    PairedTransformer,
    RecordingScaler,
    SourceSelector,
    derive,
)
from skleepkd.stages import SCHEMES
from skleepkd.teachers.nights import ReadyStager
from tests.files import write_edf
from tests.tiny import TinyNetwork, TinySequenceNetwork

SFREQ = 40.0
NAMES = np.array(SCHEMES["aasm"])
#: 5, 10, 20, 40 and 80 microvolts are W, N1, N2, N3 and REM.
CODES = np.array([0, 1, 2, 3, 4, 2, 0, 3])
ALL = NAMES[CODES].tolist()


class Loudness(nn.Module):
    """The stage is the nearest loudness of the first channel; the others are not used."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("octave", torch.arange(n_outputs, dtype=torch.float))

    def forward(self, x):
        octave = torch.log2(self.gain * x[:, 0].std(dim=1).clamp(min=1e-3) / 5)
        return -10 * (octave[:, None] - self.octave) ** 2


def noise(*shape):
    return 20 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def stager_of(n_chans=1, ch_names=None, sfreq=SFREQ, network=Loudness, y=None, **options):
    """A stager whose weights are what they were: the learning rate is 0."""
    about = {"sfreq": sfreq, "ch_names": ch_names, "recording": "another"}
    X = PairedEpochs(noise(10, n_chans, round(30 * sfreq)), **about)
    options = {"classes": "aasm", "max_epochs": 1, "lr": 0.0, "random_state": 0} | options
    return SleepStager(network, **options).fit(X, np.tile([0, 2], 5) if y is None else y)


def signals(sfreq=SFREQ, codes=CODES, rest=0.0):
    """Volts: a tone of 4 Hz as loud as each stage, noise, and the same tone the other way."""
    times = np.arange(round((30 * len(codes) + rest) * sfreq)) / sfreq
    loudness = 5e-6 * 2.0**codes
    epoch = np.minimum(times // 30, len(codes) - 1).astype(int)
    tone = np.sqrt(2) * np.sin(2 * np.pi * 4 * times)
    noise = 1e-5 * np.random.default_rng(1).standard_normal(len(times))
    return np.array([tone * loudness[epoch], noise, tone * loudness[::-1][epoch]])


def raw_of(data=None, sfreq=SFREQ, names=("C3", "EOG", "C4"), kinds="eeg", **options):
    info = mne.create_info(list(names), sfreq, kinds)
    data = signals(sfreq) if data is None else data
    return mne.io.RawArray(data, info, verbose=False, **options)


def cut(raw, names):
    """Epochs in microvolts, by reshaping: what the stager should have been given."""
    data = 1e6 * raw.get_data(names)
    n_times = round(30 * raw.info["sfreq"])
    n_epochs = data.shape[1] // n_times
    epochs = data[:, : n_epochs * n_times].reshape(len(names), n_epochs, n_times)
    return epochs.swapaxes(0, 1).astype(np.float32)


# ---------------------------------------------------------------- what is predicted


def test_stages_times_and_probabilities_of_a_recording():
    stager = stager_of(ch_names=["C3"])
    raw = raw_of(signals(rest=17.0))  # what is no whole epoch is left out
    raw.set_meas_date(1e9)
    before = raw.get_data()
    night = RecordingStager(stager).stage(raw)
    assert night.stages.tolist() == ALL
    assert night.onset.tolist() == [30.0 * k for k in range(8)]
    assert night.classes.tolist() == NAMES.tolist()
    assert (night.ch_names, night.meas_date) == (["C3"], raw.info["meas_date"])
    # By the definition of the network: squared distances in octaves, a softmax.
    logits = -10.0 * (CODES[:, None] - np.arange(5)) ** 2
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(night.probabilities, expected, atol=1e-3)
    np.testing.assert_array_equal(
        night.probabilities, stager.predict_proba(cut(raw, ["C3"]))
    )
    np.testing.assert_array_equal(raw.get_data(), before)


def test_preprocessing_is_mnes_and_leaves_the_recording_as_it_was():
    stager = stager_of(2, ["C4", "C3"], network=TinyNetwork)
    raw = raw_of(signals(100.0) + 1e-4, sfreq=100.0)
    before = raw.get_data()
    steps = [
        Preprocessor("set_eeg_reference", ref_channels=["EOG"], verbose=False),
        Preprocessor("filter", l_freq=0.3, h_freq=15),
        Preprocessor("resample", sfreq=SFREQ),
    ]
    night = RecordingStager(stager, steps).stage(raw)
    by_hand, _ = mne.set_eeg_reference(raw.copy(), ["EOG"], verbose=False)
    by_hand.filter(0.3, 15, verbose=False).resample(SFREQ)
    expected = stager.predict_proba(cut(by_hand, ["C4", "C3"]))
    np.testing.assert_allclose(night.probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(raw.get_data(), before)
    assert raw.info["sfreq"] == 100.0


@pytest.mark.parametrize(
    ("kinds", "names"),
    # MNE filters no EOG unless EOG is picked, and refuses a recording that has nothing else.
    [("eeg", ["C3", "C4"]), (["eeg", "eog", "eog"], ["C4"])],
)
def test_leaving_channels_out_before_loading_changes_nothing(kinds, names, tmp_path):
    raw = raw_of(signals(100.0), sfreq=100.0, kinds=kinds)
    raw.save(tmp_path / "night_raw.fif", verbose=False)
    steps = [
        Preprocessor("filter", l_freq=1, h_freq=15),
        Preprocessor("resample", sfreq=SFREQ),
    ]
    stager = stager_of(len(names), names, network=TinyNetwork)
    night = RecordingStager(stager, steps).stage(tmp_path / "night_raw.fif")
    by_hand = mne.io.read_raw(tmp_path / "night_raw.fif", preload=True, verbose=False)
    by_hand.filter(1, 15, verbose=False).resample(SFREQ)
    expected = stager.predict_proba(cut(by_hand, names))
    np.testing.assert_allclose(night.probabilities, expected, rtol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("n_chans", "known", "given", "used"),
    [
        (2, ["C4", "C3"], None, "C4"),
        (2, None, ["C3", "C4"], "C3"),
        (1, None, "C4", "C4"),
        (1, ["left"], ["C3"], "C3"),  # the user names the channel that takes its place
    ],
)
def test_channels_are_those_of_the_stager_in_its_order(n_chans, known, given, used):
    night = RecordingStager(stager_of(n_chans, known), ch_names=given).stage(raw_of())
    codes = {"C3": CODES, "C4": CODES[::-1]}[used]
    assert night.stages.tolist() == NAMES[codes].tolist()
    assert (night.ch_names[0], len(night.ch_names)) == (used, n_chans)


def test_channels_in_another_order_are_refused():
    stager = RecordingStager(stager_of(2, ["C3", "C4"]), ch_names=["C4", "C3"])
    with pytest.raises(ValueError, match="fitted to C3, C4, in this order; given C4, C3"):
        stager.stage(raw_of())


def test_a_derivation_is_staged():
    weights = {"C3-C4": {"C3": 1.0, "C4": -1.0}}
    step = Preprocessor(derive, apply_on_array=False, weights=weights)
    silent = signals()
    silent[2] = 0
    night = RecordingStager(stager_of(ch_names=["C3-C4"]), [step]).stage(raw_of(silent))
    assert night.stages.tolist() == ALL


class Flat(nn.Sequential):
    """Takes spectrograms."""

    def __init__(self, n_chans, n_times, n_bins, n_outputs):
        super().__init__(nn.Flatten(), nn.Linear(n_chans * n_times * n_bins, n_outputs))


def every_second_sample(X):
    return X[..., ::2]


OPTIONS = {"classes": "aasm", "max_epochs": 1, "random_state": 0}


class Ready(ReadyStager):
    """Stages by the loudness of its EEG, as a stager of nights that needs no fit."""

    _kinds = ("eeg", "eog")
    _n_times = 1200
    _least_epochs = 4

    def __init__(self, eeg=None, eog=None, labels="codes"):
        self.eeg, self.eog, self.labels = eeg, eog, labels

    def _stage(self, night):
        assert list(night) == ["eeg", "eog"]
        loudness = night["eeg"].reshape(-1, self._n_times).std(axis=1)
        codes = np.round(np.log2(loudness / 5)).astype(int).clip(0, 4)
        return np.eye(5)[codes]


@pytest.mark.filterwarnings("error")
def test_a_ready_stager_finds_its_channels():
    """What it does not look at, here a silent channel and a trigger, may be anything."""
    data = np.vstack([0 * signals()[:2], signals()[[1, 0]]])
    names = ["F3", "Status", "E1-M2", "C4"]
    raw = raw_of(data, names=names, kinds=["eeg", "stim", "eeg", "eeg"])
    night = RecordingStager(FrozenEstimator(Ready())).stage(raw)
    assert night.stages.tolist() == ALL
    assert (night.ch_names, set(night.artefact)) == (["C4", "E1-M2"], {""})
    with pytest.raises(ValueError, match="No signal in F3"):
        RecordingStager(Ready(eeg="F3")).stage(raw)
    with pytest.raises(ValueError, match="No channel named Cz; there are F3"):
        RecordingStager(Ready(eeg="Cz")).stage(raw)
    with pytest.raises(ValueError, match="none of the channels E1-M2 is an EEG"):
        RecordingStager(Ready()).stage(raw.copy().pick(["E1-M2"]))
    with pytest.raises(ValueError, match="3 epochs .*at least 2 min are needed"):
        RecordingStager(Ready()).stage(raw.copy().crop(tmax=100))
    both = RecordingStager(Ready(), ch_names=["C4", "E2"])
    with pytest.raises(ValueError, match="never trained without a channel.$"):
        both.stage(raw, on_missing="zeros")


@pytest.mark.parametrize("sfreq", [SFREQ, None])
@pytest.mark.parametrize(
    "steps",
    [
        [EpochScaler("standard"), SleepStager(TinyNetwork, **OPTIONS)],
        [RecordingScaler(), SleepStager(TinyNetwork, **OPTIONS)],
        [PairedTransformer(target=RecordingScaler()), SleepStager(TinyNetwork, **OPTIONS)],
        [PairedTransformer(target=EpochScaler()), SleepStager(TinyNetwork, **OPTIONS)],
        [LogSpectrogram(), SleepStager(Flat, **OPTIONS)],
    ],
)
def test_pipelines_of_our_transformers(steps, sfreq):
    X = PairedEpochs(noise(10, 2, 1200), sfreq=sfreq, recording="another")
    pipeline = make_pipeline(*steps).fit(X, np.tile([0, 2], 5))
    stager, raw = RecordingStager(pipeline, ch_names=["C3", "EOG"]), raw_of()
    expected = pipeline.predict_proba(cut(raw, ["C3", "EOG"]))
    np.testing.assert_allclose(stager.stage(raw).probabilities, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"resample\", sfreq=40|40 Hz"):
        stager.stage(raw_of(signals(80.0), sfreq=80.0))


@pytest.mark.parametrize("function", [None, every_second_sample])
def test_a_source_that_is_picked(function):
    """As it was recorded, or changed before."""
    target, signal = noise(2, 10, 1, 1200)
    X = PairedEpochs(target, source=signal, sfreq=SFREQ, recording="another")
    source = PairedTransformer(source=FunctionTransformer(function))
    pipeline = make_pipeline(source, SourceSelector(), SleepStager(TinyNetwork, **OPTIONS))
    pipeline.fit(X, np.tile([0, 2], 5))
    night = RecordingStager(pipeline, ch_names=["C3"]).stage(raw_of())
    epochs = cut(raw_of(), ["C3"])
    expected = pipeline[-1].predict_proba(function(epochs) if function else epochs)
    np.testing.assert_allclose(night.probabilities, expected, rtol=1e-5)


def test_a_stager_of_sequences_sees_one_recording():
    recording = np.repeat(["a", "b", "c"], 10)
    X = PairedEpochs(noise(30, 1, 1200), recording=recording, sfreq=SFREQ)
    stager = SleepStager(TinySequenceNetwork, sequence_length=4, **OPTIONS)
    stager.fit(X, np.tile([0, 1, 2], 10))
    raw = raw_of()
    recorder = RecordingStager(stager, ch_names=["C3"])
    expected = stager.predict_proba(PairedEpochs(cut(raw, ["C3"]), recording="n"))
    np.testing.assert_allclose(recorder.stage(raw).probabilities, expected, rtol=1e-5)
    assert len(recorder.stage(raw.crop(tmax=61))) == 2  # shorter than a sequence


def test_calibrated_and_frozen_stagers():
    stager = stager_of(ch_names=["C3"])
    frozen = RecordingStager(FrozenEstimator(stager))
    assert frozen.stage(raw_of()).stages.tolist() == ALL
    X, y = cut(raw_of(signals(codes=np.tile(CODES, 4))), ["C3"]), np.tile(CODES, 4)
    calibrated = CalibratedClassifierCV(FrozenEstimator(stager)).fit(X, y)
    night = RecordingStager(calibrated, ch_names="C3").stage(raw_of())
    assert night.stages.tolist() == ALL


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        ([0, 1, 2, 3] * 2 + [0, 1], "wldr", ["W", "L", "D", "R"]),
        ([0, 1, 2, 3] * 2 + [0, 1], None, [0, 1, 2, 3]),
        ([0, 1, 2, 3, 4] * 2, None, ["W", "N1", "N2", "N3", "REM"]),
        (["W", "REM"] * 5, None, ["W", "REM"]),
        (["W", "N2"] * 5, "aasm", ["W", "N1", "N2", "N3", "REM"]),
    ],
)
def test_classes_have_the_names_of_their_scheme(y, classes, expected):
    stager = stager_of(ch_names=["C3"], y=y, classes=classes)
    assert RecordingStager(stager).stage(raw_of()).classes.tolist() == expected


def test_codes_get_their_names_from_the_scheme_that_is_named_later():
    stager = stager_of(ch_names=["C3"], y=[0, 1, 2, 3, 0] * 2, classes=None)
    codes = RecordingStager(stager).stage(raw_of()).stages
    assert codes.tolist() == np.minimum(CODES, 3).tolist()
    stager.set_params(classes="wldr")  # as the error of Hypnogram.to_annotations proposes
    stages = RecordingStager(stager).stage(raw_of()).stages
    assert stages.tolist() == np.array(["W", "L", "D", "R"])[codes].tolist()


# ---------------------------------------------------------------- time


def test_epochs_begin_where_the_scorer_began():
    codes = np.repeat(CODES, 2)
    data = signals(codes=codes)[:, round(21 * SFREQ) :]  # 9 s of the first epoch are left
    raw = raw_of(data, first_samp=400)
    raw.set_meas_date(1e9)
    stager = RecordingStager(stager_of(ch_names=["C3"]))
    night = stager.stage(raw, start=9)
    assert night.stages.tolist() == NAMES[codes[1:]].tolist()
    assert night.onset.tolist() == [9.0 + 30 * k for k in range(15)]
    raw.set_annotations(night.to_annotations())
    # Sample number 400 is the first one; MNE counts annotations from number 0.
    np.testing.assert_allclose(raw.annotations.onset, 10 + night.onset)
    cropped = RecordingStager(stager.stager, [Preprocessor("crop", tmin=39)]).stage(raw)
    assert cropped.onset.tolist() == night.onset.tolist()[1:]
    assert cropped.stages.tolist() == night.stages.tolist()[1:]
    cropped = RecordingStager(stager.stager, [Preprocessor("crop", tmin=9)])
    assert cropped.stage(raw, start=39).onset.tolist() == night.onset.tolist()[1:]
    for start in (-1, 459, 3):
        with pytest.raises(ValueError, match=f"start={start}: .* from 9 to 459 s"):
            cropped.stage(raw, start=start)


def test_resampling_leaves_onsets_whole():
    raw = raw_of(signals(128.0), sfreq=128.0, first_samp=1001)  # 312.8 samples at 40 Hz
    steps = [Preprocessor("resample", sfreq=SFREQ)]
    night = RecordingStager(stager_of(ch_names=["C3"]), steps).stage(raw)
    assert night.onset.tolist() == [30.0 * k for k in range(8)]


# ---------------------------------------------------------------- what is refused


def test_a_missing_channel_is_named_with_those_that_are_there():
    with pytest.raises(ValueError, match=r"named Fpz; the recording has C3, EOG, C4"):
        RecordingStager(stager_of(ch_names=["Fpz"])).stage(raw_of())
    with pytest.raises(ValueError, match="fitted to 1 channel.*given 3: C3, EOG, C4"):
        RecordingStager(stager_of()).stage(raw_of())


def test_another_sampling_rate_is_refused_with_the_step_that_changes_it(of_c3):
    raw = raw_of(signals(100.0), sfreq=100.0)
    with pytest.raises(ValueError, match=r'100 Hz\..*Preprocessor\("resample", sfreq=40\)'):
        of_c3.stage(raw)
    steps = [Preprocessor("resample", sfreq=40)]
    assert RecordingStager(of_c3.stager, steps).stage(raw).stages.tolist() == ALL


def test_a_stager_of_other_epochs_is_refused():
    stager = SleepStager(Loudness, classes="aasm", max_epochs=1, device="cpu")
    stager.fit(noise(10, 1, 800), [0, 1] * 5)
    with pytest.raises(
        ValueError, match=r"1 channel\(s\) and 800 samples .* given .* 1200"
    ):
        RecordingStager(stager, ch_names="C3").stage(raw_of())


def test_a_stager_that_does_not_know_its_channels_says_so():
    stager = stager_of(3)
    message = r"takes C3, EOG, C4, in this order.*ch_names="
    with pytest.warns(UserWarning, match=message) as caught:
        night = RecordingStager(stager).stage(raw_of())
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings(action="error"):
        named = RecordingStager(stager, ch_names=["C3", "EOG", "C4"]).stage(raw_of())
        RecordingStager(stager_of(1, ["C3"])).stage(raw_of())
    assert named.stages.tolist() == night.stages.tolist() == ALL


def microvolts(signal):
    return 1e6 * signal


def test_units(of_c3):
    night = of_c3.stage(raw_of(1e6 * signals()))  # as from_raws takes it
    assert night.stages.tolist() == ALL
    with pytest.raises(ValueError, match=r"No signal in C3: .*in volts\?"):
        of_c3.stage(raw_of(1e-6 * signals()))
    # braindecode's tutorials scale to microvolts on the way: then nothing is left to scale.
    to_microvolts = Preprocessor(microvolts, channel_wise=True)
    night = RecordingStager(of_c3.stager, [to_microvolts]).stage(raw_of())
    assert night.stages.tolist() == ALL


def test_flat_signals_are_named():
    stager = RecordingStager(stager_of(2, ["C3", "C4"]))
    data = signals()
    data[2] = 0.1  # an offset is no signal
    with pytest.raises(ValueError, match="No signal in C4"):
        stager.stage(raw_of(data))
    data = signals()
    data[2, -2400:] = 0
    with pytest.warns(UserWarning, match=r"2 of 8 epochs are flat .*C4.* first at 180 s"):
        stager.stage(raw_of(data))


def test_a_recording_shorter_than_an_epoch(of_c3):
    with pytest.raises(ValueError, match=r"No epoch of 30 s .* 0 to 29\.9\d* s"):
        of_c3.stage(raw_of(signals()[:, :1199]))
    assert len(of_c3.stage(raw_of(signals()[:, :1200]))) == 1


def test_an_unfitted_stager():
    with pytest.raises(NotFittedError):
        RecordingStager(SleepStager(Loudness)).stage(raw_of())
    with pytest.raises(NotFittedError):
        RecordingStager(make_pipeline(EpochScaler(), SleepStager(Loudness))).stage(raw_of())


# ---------------------------------------------------------------- files


def write(path, **options):
    """Write three channels in records of a second, in steps of 0.1 microvolts."""
    channels = dict(zip(["C3", "EOG", "C4"], 1e6 * signals(), strict=True))
    return write_edf(path, channels, 240, **options)


def test_an_edf_file(tmp_path, of_c3):
    night = of_c3.stage(str(write(tmp_path / "night.edf")))
    assert night.stages.tolist() == ALL
    assert night.meas_date.isoformat() == "2000-01-01T22:00:00+00:00"
    assert night.to_yasa().hypno.index[1].isoformat() == "2000-01-01T22:00:30"


def test_an_edf_file_that_does_not_say_its_unit(tmp_path, of_c3):
    path = write(tmp_path / "night.edf", unit="")
    raw = mne.io.read_raw(path, units="uV", verbose=False)
    for given in (path, raw):
        assert of_c3.stage(given).stages.tolist() == ALL


def test_an_edf_file_that_was_cut_short(tmp_path, of_c3, monkeypatch):
    path = write(tmp_path / "night.edf")
    path.write_bytes(path.read_bytes()[: -80 * 3 * 65])  # 65 of 240 s are lost
    with pytest.raises(ValueError, match="night.edf.*cut short"):
        of_c3.stage(path)
    with pytest.warns(RuntimeWarning, match="Number of records"):
        raw = mne.io.read_raw(path)
    assert of_c3.stage(raw).stages.tolist() == ALL[:5]
    # As MNE 1.11 reads it: the records that are there, without a warning.
    monkeypatch.setattr(mne.io, "read_raw", lambda path: raw)
    with pytest.raises(ValueError, match="night.edf.*cut short"):
        of_c3.stage(path)


@pytest.mark.filterwarnings("ignore")  # whatever MNE thinks of them
def test_files_that_are_not_there_or_no_recordings(tmp_path, of_c3):
    with pytest.raises(FileNotFoundError, match="no recording .*night.edf"):
        of_c3.stage(tmp_path / "night.edf")
    write(tmp_path / "endless.edf", record="inf")
    write(tmp_path / "backwards.edf", record="-inf")
    write(tmp_path / "header.edf")
    os.truncate(tmp_path / "header.edf", 700)
    raw_of().save(tmp_path / "cut_raw.fif", verbose=False)
    os.truncate(tmp_path / "cut_raw.fif", (tmp_path / "cut_raw.fif").stat().st_size - 3001)
    for name in ("text.edf", "text.docx", "text.set"):
        shutil.copy(__file__, tmp_path / name)
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as a recording"):
            of_c3.stage(path)


def test_a_recording_that_was_interrupted(tmp_path, of_c3):
    """After two minutes, for one and a half, as its EDF+D says."""
    starts = np.arange(240) + 90 * (np.arange(240) >= 120)
    path = write(tmp_path / "night.edf", starts=starts, reserved="EDF+D")
    raw = mne.io.read_raw(path, verbose=False)
    for given in (path, raw):
        with pytest.raises(ValueError, match=r"night.edf .*after 120 s .*, for 90 s"):
            of_c3.stage(given)
    part = of_c3.stage(raw.copy().crop(tmax=120, include_tmax=False))
    assert part.stages.tolist() == ALL[:4]
    rest = of_c3.stage(raw.copy().crop(tmin=120))
    assert rest.stages.tolist() == ALL[4:]
    assert rest.meas_date.isoformat() == "2000-01-01T22:03:30+00:00"


# ---------------------------------------------------------------- a good estimator


def test_parameters_clone_and_pickle():
    steps = [Preprocessor("filter", l_freq=1, h_freq=15)]
    stager = RecordingStager(stager_of(ch_names=["C3"]), steps, ch_names=["C3"])
    assert stager.get_params(deep=False) == {
        "stager": stager.stager,
        "preprocessors": steps,
        "ch_names": ["C3"],
        "unit": "auto",
    }
    assert stager.get_params()["stager__lr"] == 0.0
    assert repr(stager).startswith("RecordingStager(")
    night = stager.stage(raw_of())
    again = pickle.loads(pickle.dumps(stager)).stage(raw_of())
    np.testing.assert_array_equal(again.probabilities, night.probabilities)
    copy = clone(stager)
    assert copy.preprocessors == steps
    assert copy.ch_names == ["C3"]
    with pytest.raises(NotFittedError):
        copy.stage(raw_of())
    frozen = clone(stager.set_params(stager=FrozenEstimator(stager.stager)))
    assert frozen.stage(raw_of()).stages.tolist() == night.stages.tolist()
