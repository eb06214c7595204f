"""GSSC's networks: read without running what a file names, and used as GSSC uses them."""

import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from skleepkd import PairedEpochs
from skleepkd.teachers import GsscStager
from skleepkd.teachers.gssc import file_of_network, load_network
from tests.teachers.test_stagers import MONTAGE, raw_of, simulated

pytest.importorskip("gssc")


class Forged:
    """Calls a function where it is unpickled."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, subprocess.getoutput, eval])
def test_a_file_that_names_code_is_refused(function, tmp_path):
    forged, trace = tmp_path / "sig_net_v1.pt", tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').close()" if function is eval else f"touch {trace}"
    torch.save({"weights": torch.zeros(2), "more": Forged(function, code)}, forged)
    with pytest.raises(pickle.UnpicklingError, match=r"[Uu]nsupported"):
        load_network(forged)
    assert not trace.exists()
    torch.load(forged, weights_only=False)
    assert trace.exists(), "elsewhere the file does what it says"


def test_its_classes_are_not_admitted_elsewhere():
    before = set(torch.serialization.get_safe_globals())
    load_network(file_of_network("gru_net_v1.pt"))
    assert set(torch.serialization.get_safe_globals()) == before


def test_stages_are_those_of_gsscs_own_program():
    pytest.importorskip("importlib_resources")
    from gssc.infer import EEGInfer

    night = simulated(60, random_state=4)
    networks = [
        load_network(file_of_network(f"{name}_v1.pt")) for name in ("sig_net", "gru_net")
    ]
    program = EEGInfer(*networks, use_cuda=False)
    for eog in (["E1-A2"], []):
        channels = {"eeg": ["C4-A1"], "eog": eog, "eeg_drop": False, "eog_drop": not eog}
        expected, _ = program.mne_infer(raw_of(night).copy(), **channels)
        stager = GsscStager() if eog else GsscStager(eog=False)
        predicted = stager.predict(night)[: len(expected)]
        assert np.mean(predicted == expected) > 0.95


def test_features_are_of_the_epoch_alone():
    """Among other neighbours they are the same but for the filter, probabilities are not."""
    night = simulated(40, random_state=5)
    order = np.random.default_rng(0).permutation(40)
    mixed = PairedEpochs(night["target"][order], sfreq=100.0, ch_names=MONTAGE)
    stager = GsscStager()
    features = stager.extract_features(night)
    assert features.shape == (40, 512)
    assert features.dtype == np.float32
    among_others = stager.extract_features(mixed)
    pairs = zip(features[order], among_others, strict=True)
    assert min(np.corrcoef(*both)[0, 1] for both in pairs) > 0.9
    np.testing.assert_array_equal(stager.extract_features(night[order]), features[order])
    change = stager.predict_proba(mixed) - stager.predict_proba(night)[order]
    assert np.abs(change).max() > 0.3


def test_features_of_a_few_epochs_have_the_same_width():
    night = simulated(2, random_state=5)
    assert GsscStager().extract_features(night).shape == (2, 512)


def test_sure_stages_can_be_told_from_features():
    """Epochs of one stage are nearer to one another than to those of other stages."""
    night = simulated(80, random_state=6)
    stages = GsscStager().predict(night)
    features = GsscStager().extract_features(night)
    centres = {stage: features[stages == stage].mean(axis=0) for stage in set(stages)}
    nearest = [
        min(centres, key=lambda stage: np.linalg.norm(row - centres[stage]))
        for row in features
    ]
    assert np.mean(nearest == stages) > 0.6
