"""Nights that lack a channel, and stagers that may do without one."""

import numpy as np
import pytest
from braindecode.augmentation import (
    AugmentedDataLoader,
    ChannelsDropout,
    Compose,
    SignFlip,
)
from braindecode.preprocessing import Preprocessor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import PairedEpochs, RecordingStager, SleepStager, describe, load, save
from skleepkd.preprocessing import EpochScaler, PairedTransformer, RecordingScaler
from tests.recording.test_stager import OPTIONS, cut, noise, raw_of
from tests.tiny import TinyNetwork

NAMES = ["C3", "EOG", "C4"]
DROPOUT = {
    "iterator_train": AugmentedDataLoader,
    "iterator_train__transforms": [ChannelsDropout(0.5)],
}


def fitted(*steps, **options):
    """A stager of three channels behind steps."""
    about = {"sfreq": 40.0, "recording": "another", "ch_names": NAMES}
    stager = SleepStager(TinyNetwork, **OPTIONS, **options)
    pipeline = make_pipeline(*steps, stager) if steps else stager
    return pipeline.fit(PairedEpochs(noise(10, 3, 1200), **about), np.tile([0, 2], 5))


@pytest.fixture(scope="module")
def dropping():
    return fitted(**DROPOUT)


def without(*names):
    return raw_of().drop_channels(names)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [EpochScaler("standard")],
        [RecordingScaler()],
        [PairedTransformer(target=RecordingScaler())],
    ],
)
def test_zeros_are_what_the_network_is_given(steps):
    """As in training, where ChannelsDropout comes after all scaling."""
    stager = fitted(*steps, **DROPOUT)
    recorder = RecordingStager(stager)
    with pytest.warns(UserWarning, match="No channel named EOG: zeros stand in its place"):
        night = recorder.stage(without("EOG"), on_missing="zeros")
    whole = recorder.stage(raw_of(), on_missing="zeros")
    scaled = PairedEpochs(cut(raw_of(), NAMES), recording="night")
    network = stager
    if steps:
        scaled, network = stager[:-1].transform(scaled), stager[-1]
    signals = np.array(scaled)
    np.testing.assert_allclose(
        whole.probabilities, network.predict_proba(signals), rtol=1e-4
    )
    signals[:, 1] = 0
    np.testing.assert_allclose(
        night.probabilities, network.predict_proba(signals), rtol=1e-4
    )
    assert np.abs(night.probabilities - whole.probabilities).max() > 1e-3
    assert (night.ch_names, night.missing) == (["C3", "C4"], ["EOG"])
    assert (whole.ch_names, whole.missing) == (NAMES, [])
    assert not (night.artefact == "flat").any()


def test_names_in_picks_are_passed_over(dropping):
    filters = {"apply_on_array": False, "l_freq": 1, "h_freq": 15}
    steps = [
        Preprocessor("pick", apply_on_array=False, picks=NAMES),
        Preprocessor("filter", picks=["EOG"], **filters),
        Preprocessor("filter", picks=["C3", "C4"], **filters),
    ]
    night = RecordingStager(dropping, steps).stage(without("EOG"), on_missing="zeros")
    by_hand = without("EOG").filter(1, 15, verbose=False)
    signals = np.insert(cut(by_hand, ["C3", "C4"]), 1, 0, axis=1)
    np.testing.assert_allclose(
        night.probabilities, dropping.predict_proba(signals), rtol=1e-4
    )
    assert steps[0].kwargs["picks"] == NAMES


def test_what_is_refused(dropping):
    recorder = RecordingStager(dropping)
    message = r"named EOG; the recording has C3, C4 .*on_missing=\"zeros\""
    with pytest.raises(ValueError, match=message):
        recorder.stage(without("EOG"))
    with pytest.raises(
        ValueError, match="on_missing is 'raise' or 'zeros'; given 'ignore'"
    ):
        recorder.stage(raw_of(), on_missing="ignore")
    others = raw_of(names=("A", "B", "C"))
    with pytest.raises(ValueError, match="None of the channels is there"):
        recorder.stage(others, on_missing="zeros")
    plain = fitted()
    with pytest.raises(
        ValueError, match=r"never trained without.*\[ChannelsDropout\(0.5\)\]"
    ):
        RecordingStager(plain).stage(without("EOG"), on_missing="zeros")
    with pytest.raises(ValueError, match="named EOG") as caught:
        RecordingStager(plain).stage(without("EOG"))
    assert "zeros" not in str(caught.value)


def average_reference(X):
    return X - X.mean(axis=1, keepdims=True)


def test_steps_that_mix_channels_are_refused():
    step = PairedTransformer(target=FunctionTransformer(average_reference))
    stager = RecordingStager(fitted(step, **DROPOUT))
    assert stager.stage(raw_of(), on_missing="zeros").missing == []
    with pytest.raises(ValueError, match="mix channels"):
        stager.stage(without("EOG"), on_missing="zeros")


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        (ChannelsDropout(0.5), True),
        ([SignFlip(0.5), Compose([ChannelsDropout(0.5)])], True),
        ([ChannelsDropout(0.0)], False),
        ([ChannelsDropout(0.5, p_drop=0)], False),
        ([SignFlip(0.5)], False),
        (None, False),
    ],
)
def test_stagers_know_whether_channels_were_dropped(transforms, expected):
    loader = {**DROPOUT, "iterator_train__transforms": transforms}
    assert fitted(**loader).drops_channels_ is expected


@pytest.mark.filterwarnings("ignore:Not kept in the file")
def test_a_saved_stager_still_knows(dropping, tmp_path):
    save(RecordingStager(FrozenEstimator(dropping)), tmp_path / "stager.safetensors")
    again = load(tmp_path / "stager.safetensors", TinyNetwork)
    assert "3 channels (C3, EOG, C4; some may be missing)" in describe(again)
    night = again.stage(without("C4"), on_missing="zeros")
    assert night.missing == ["C4"]
    # Trained on without dropout it does no longer.
    stager = load(tmp_path / "stager.safetensors", TinyNetwork).stager.estimator
    about = {"sfreq": 40.0, "recording": "third", "ch_names": NAMES}
    stager.partial_fit(PairedEpochs(noise(10, 3, 1200), **about), np.tile([0, 2], 5))
    assert not stager.drops_channels_
