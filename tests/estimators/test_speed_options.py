"""autocast and compile: plain parameters that leave the predictions what they are."""

import pickle

import numpy as np
import pytest
import torch

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, make_pair

COMPILED = {"compile": True, "compile__backend": "eager"}


def stagers(**options):
    plain = SleepStager(TinyNetwork, **FAST, **options)

    def student(**terms):
        return DistilledSleepStager(plain, **terms, **FAST, **options)

    sequences = {"sequence_length": 3, "neighbouring_windows": 4, **FAST, **options}
    return {
        "supervised": plain,
        "offline": student(alpha=0.5),
        "online": student(strategy="online", alpha=0.5),
        "two-step": student(strategy="two-step", alpha=0.5),
        "from the teacher's weights": student(feature_loss=None, start_from_teacher=True),
        "transfer": FineTunedSleepStager(plain, trainable=("head",), **FAST, **options),
        "sequences": SleepStager(TinySequenceNetwork, **sequences),
    }


every_stager = pytest.mark.parametrize("name", stagers())


@every_stager
def test_compiled_networks_predict_as_plain_ones(pair, name):
    X, y = pair
    plain = stagers()[name].fit(X, y)
    compiled = stagers(**COMPILED)[name].fit(X, y)
    assert type(compiled.module_).__name__ == "OptimizedModule"
    np.testing.assert_allclose(
        compiled.predict_proba(X), plain.predict_proba(X), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        compiled.extract_features(X), plain.extract_features(X), rtol=1e-4, atol=1e-5
    )


@every_stager
def test_autocast_trains_in_bfloat16_and_keeps_single_precision(pair, name):
    X, y = pair
    plain = stagers()[name].fit(X, y)
    fast = stagers(autocast=True)[name].fit(X, y)
    assert all(p.dtype == torch.float32 for p in fast.module_.parameters())
    proba, expected = fast.predict_proba(X), plain.predict_proba(X)
    assert proba.dtype == np.float32
    # bfloat16 has eight bits: near, and not equal.
    np.testing.assert_allclose(proba, expected, atol=0.05)
    assert np.abs(proba - expected).max() > 1e-6
    assert fast.extract_features(X).dtype == np.float32
    assert pickle.loads(pickle.dumps(fast)).autocast


def test_losses_under_autocast_are_computed_in_single_precision():
    """A loss of 16 bit would be one of few values."""
    X, y = make_pair()
    net = stagers(autocast=True)["offline"]
    seen = []

    class Watch(torch.nn.L1Loss):
        def forward(self, student, teacher):
            seen.append((student.dtype, teacher.dtype))
            return super().forward(student, teacher)

    net.set_params(feature_loss=Watch()).fit(X, y)
    assert set(seen) == {(torch.float32, torch.float32)}
