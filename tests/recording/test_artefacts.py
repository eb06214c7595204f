"""Epochs that are clipped, flat, NaN or unlike the training, made on purpose."""

import numpy as np
import pytest
from braindecode.preprocessing import Preprocessor
from scipy.signal import lfilter

from skleepkd import RecordingStager
from skleepkd.datasets import simulate_night
from skleepkd.recording.artefacts import is_saturated
from tests.recording.test_stager import ALL, SFREQ, noise, raw_of, signals, stager_of

N_TIMES = 3000
TIMES = np.arange(N_TIMES) / 100  # 30 s at 100 Hz


def pink():
    white = np.random.default_rng(3).standard_normal(N_TIMES + 500)
    return lfilter([0.05], [1, -0.98], white)[500:]


#: Shapes of sleep, in units of their own spread.
SHAPES = {
    "noise": np.random.default_rng(0).standard_normal(N_TIMES),
    "pink": pink(),
    "slow waves": np.sin(2 * np.pi * 0.8 * TIMES) + 0.2 * pink(),
    "spindles": np.sin(2 * np.pi * 13 * TIMES) * np.exp(-(((TIMES % 10) - 5) ** 2)),
    "sine": np.sin(2 * np.pi * 1.01 * TIMES),
    "tone": np.sin(2 * np.pi * 10 * TIMES + 0.1),  # the same ten values in each cycle
    "alternation": np.sin(2 * np.pi * 25 * TIMES + np.pi / 4),
    "heart": 0.02 * pink()
    + sum(
        height * np.exp(-(((TIMES % 0.9) - at) ** 2) / 1e-3)
        for at, height in ((0.2, 0.1), (0.4, 1.0), (0.45, -0.3), (0.7, 0.2))
    ),
}


def quantised(signal, steps, offset=0.0):
    """As an int16 converter stores a signal that spreads over so many of its steps."""
    return np.round(steps * signal / signal.std() + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 0.27, 0.49])
@pytest.mark.parametrize("steps", [0.15, 0.3, 0.7, 1.4, 2.5, 5, 9, 20, 60, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_ordinary_signals_are_not_saturated(shape, steps, offset):
    signal = SHAPES[shape]
    assert not is_saturated(quantised(signal, steps, offset))
    assert not is_saturated(-0.0488 * quantised(signal, steps, offset))
    assert not is_saturated(signal.astype(np.float32))


@pytest.mark.parametrize("steps", [0, 30, 300])
@pytest.mark.parametrize("sides", ["both", "top", "bottom"])
@pytest.mark.parametrize("shape", ["noise", "pink", "slow waves", "sine"])
def test_clipped_signals_are(shape, sides, steps):
    """At the outer 15 % of their values on each side."""
    signal = SHAPES[shape] if not steps else quantised(SHAPES[shape], steps)
    low, high = np.quantile(signal, [0.15, 0.85])
    low = signal.min() if sides == "top" else low
    high = signal.max() if sides == "bottom" else high
    assert is_saturated(signal.clip(low, high))


def test_what_is_clipped_now_and_then_or_not_moving():
    signal = SHAPES["noise"]
    assert not is_saturated(signal.clip(-2.5, 2.5))  # 1.2 %, less than 1.5 s
    assert not is_saturated(np.zeros(N_TIMES))  # that is flat


def test_simulated_nights_are_not_saturated():
    night = simulate_night(40, sfreq=100.0, derivations=("C4-O2", "EOG"), random_state=0)
    epochs = night.signals.reshape(2, -1, N_TIMES)
    assert not any(is_saturated(epoch) for channel in epochs for epoch in channel)


@pytest.mark.parametrize("name", ["018", "022"])
def test_real_nights_are_not_saturated(shared_data, name):
    """Integers, as the converter of a sleep clinic gave them; clipped they are."""
    with np.load(shared_data / "ucddb" / f"ucddb{name}.npz") as night:
        epochs = night["signal"][::4]
    assert not any(map(is_saturated, epochs))
    moving = [epoch for epoch in epochs if epoch.std() > 10]
    assert len(moving) > 100
    assert all(is_saturated(epoch.clip(*np.quantile(epoch, [0, 0.8]))) for epoch in moving)


def test_the_artefact_of_each_epoch():
    """The outweighing one is told, whichever channel has it."""
    stager = RecordingStager(stager_of(2, ["C3", "EOG"]))
    data = signals()
    data[1] *= 2  # as the 20 microvolts of the training
    clean = stager.stage(raw_of(data))
    assert clean.artefact.tolist() == [""] * 8
    assert clean.stages.tolist() == ALL
    at = [slice(round(30 * k * SFREQ), round(30 * (k + 1) * SFREQ)) for k in range(8)]
    data[1, at[1]] *= 6  # 120 microvolts
    data[1, at[2]] /= 6
    data[0, at[3]] = (4e-6 * noise(1200)).clip(-6e-5, 6e-5)  # 80 microvolts
    data[1, at[4]] = 0.001
    data[0, at[5]] = 0
    data[1, at[5]][50] = np.nan
    message = "1 of 8 epochs hold NaN or infinite values in EOG, the first at 150 s"
    with pytest.warns(UserWarning, match=message):
        night = stager.stage(raw_of(data))
    expected = ["", "spread", "spread", "saturated", "flat", "nan", "", ""]
    assert night.artefact.tolist() == expected
    # The network looks at the first channel alone, whose epoch 5 has no loudness.
    kept = [0, 1, 2, 4, 6, 7]
    np.testing.assert_array_equal(night.stages[kept], clean.stages[kept])
    table = night.to_dataframe()
    assert table["artefact"].tolist() == expected
    assert table["confidence"].tolist() == night.probabilities.max(axis=1).tolist()


def test_saturation_is_seen_in_what_was_recorded(of_c3):
    """Behind a filter and another rate it has no limit; an epoch's onset is the recording's."""
    data = signals(100.0, rest=7.0)
    data[0, 9700:12700] = lfilter([0.2], [1, -0.9], 4e-6 * noise(3000)).clip(-3e-5, 3e-5)
    steps = [
        Preprocessor("filter", apply_on_array=False, l_freq=1, h_freq=15),
        Preprocessor("resample", apply_on_array=False, sfreq=SFREQ),
        Preprocessor("crop", apply_on_array=False, tmin=7),
    ]
    night = RecordingStager(of_c3.stager, steps).stage(raw_of(data, 100.0))
    assert night.onset[3] == 97.0
    assert night.artefact.tolist() == ["", "", "", "saturated", "", "", "", ""]


def test_channels_that_are_no_voltages_are_not_saturated():
    """A thermometer, or an oxygen saturation of 100 %."""
    data = signals()
    data[1] = np.where(
        np.arange(data.shape[1]) % 400 < 300,
        100,
        99.5 - 0.1 * np.arange(data.shape[1]) % 20,
    )
    raw = raw_of(data, kinds=["eeg", "misc", "eeg"])
    stager = RecordingStager(stager_of(2, ["C3", "EOG"]))
    assert "saturated" not in stager.stage(raw).artefact


def test_an_accelerometer_may_lie_still():
    data = signals()
    data[1] *= 1e6  # as where the stager was fitted, and in no voltage
    data[1, : round(30 * SFREQ)] = 0
    raw = raw_of(data, kinds=["eeg", "misc", "eeg"])
    night = RecordingStager(stager_of(2, ["C3", "EOG"]), unit={"EOG": None}).stage(raw)
    assert night.artefact[0] == ""
    raw = raw_of(np.r_[data[:1], 1e-6 * data[1:2], data[2:]], kinds=["eeg"] * 3)
    with pytest.warns(UserWarning, match="flat"):
        night = RecordingStager(stager_of(2, ["C3", "EOG"])).stage(raw)
    assert night.artefact[0] == "flat"


def test_a_channel_that_is_nan_throughout_is_refused(of_c3):
    data = signals()
    data[0, ::1200] = np.nan
    with pytest.raises(ValueError, match="C3 holds NaN .*in every epoch. Crop or repair"):
        of_c3.stage(raw_of(data))
    data = signals()
    data[0, 2500] = np.nan
    steps = [Preprocessor("resample", apply_on_array=False, sfreq=SFREQ / 2)]
    steps += [Preprocessor("resample", apply_on_array=False, sfreq=SFREQ)]
    with pytest.raises(ValueError, match="every epoch .*a filter spreads them"):
        RecordingStager(of_c3.stager, steps).stage(raw_of(data))


def test_infinite_values_and_a_recording_in_microvolts(of_c3):
    data = 1e6 * signals()
    data[0, 2500] = np.inf
    with pytest.warns(UserWarning, match="1 of 8 epochs .* first at 60 s"):
        night = of_c3.stage(raw_of(data))
    assert night.artefact.tolist() == ["", "", "nan", "", "", "", "", ""]
    assert np.isfinite(night.probabilities).all()
    assert night.stages[[0, 1, 3, 4, 5, 6, 7]].tolist() == [*ALL[:2], *ALL[3:]]
