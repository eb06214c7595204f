"""What holds for every transformer of both modalities alike."""

import pickle

import numpy as np
import pytest
from braindecode.preprocessing import exponential_moving_demean
from sklearn.base import clone

from skleepkd.preprocessing import (
    BandPowers,
    EpochScaler,
    EpochwiseTransformer,
    LogSpectrogram,
    RecordingScaler,
)
from tests.preprocessing.test_spectrogram import pair

#: Transformers, and the shape of what each makes of one channel of 30 s at 100 Hz.
every_transformer = pytest.mark.parametrize(
    ("step", "shape"),
    [
        (BandPowers(), (1, 1, 7)),
        (EpochScaler(), (1, 3000)),
        (EpochScaler("standard"), (1, 3000)),
        (RecordingScaler(), (1, 3000)),
        (EpochwiseTransformer(exponential_moving_demean), (1, 3000)),
        (LogSpectrogram(), (1, 29, 129)),
    ],
    ids=lambda given: given.__class__.__name__,
)


@every_transformer
def test_a_pair_keeps_what_it_carries_and_an_array_stays_one(step, shape):
    X = pair()[[1, 3, 2, 7, 9]]
    Z = clone(step).fit_transform(X)
    assert Z.shape == (5, *shape)
    for name in ("subject", "recording", "onset"):
        np.testing.assert_array_equal(getattr(Z, name), getattr(X, name))
    assert (Z.sfreq, Z.ch_names) == (X.sfreq, X.ch_names)
    for modality, one in (("target", X.target_epochs), ("source", X.source_epochs)):
        alone = clone(step).fit_transform(one)
        assert not alone.has_source
        np.testing.assert_array_equal(alone["target"], Z[modality])
        assert Z[modality].dtype == np.float32
    night = X["target"][:3].copy()
    found = clone(step).fit_transform(night)
    assert type(found) is np.ndarray
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, clone(step).fit_transform(X[:3])["target"])
    np.testing.assert_array_equal(night, X["target"][:3])  # left as it is


@every_transformer
def test_neither_a_pickle_nor_blocks_of_a_memory_map_change_a_thing(
    step, shape, tmp_path, monkeypatch
):
    X, step = pair(), clone(step).fit(pair())
    expected, mapped = step.transform(X), X.to_memmap(tmp_path)
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", 50_000)  # two epochs
    for copy in (pickle.loads(pickle.dumps(step)), clone(step).fit(mapped)):
        found = copy.transform(mapped)
        for modality in ("target", "source"):
            np.testing.assert_array_equal(found[modality], expected[modality])
    with pytest.raises(ValueError, match="no epochs"):
        step.transform(X[:0])
