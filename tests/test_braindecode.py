"""braindecode's preprocessing in both directions: inside a pipeline, and before the pair."""

import mne
import numpy as np
from braindecode import preprocessing
from braindecode.datasets import BaseConcatDataset, RawDataset
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.preprocessing import (
    EAR_ELECTRODES,
    EpochwiseTransformer,
    PairedTransformer,
    ear_derivations,
    scalp_derivations,
)
from tests.tiny import FAST, TinyNetwork, recording

TEACHER = SleepStager(TinyNetwork, classes="aasm", **FAST)
STUDENT = DistilledSleepStager(TEACHER, classes="aasm", **FAST)


def test_array_functions_inside_a_pipeline(pair):
    X, y = pair
    standardize = preprocessing.exponential_moving_standardize
    step = EpochwiseTransformer(standardize, kw_args={"factor_new": 0.05})
    pipeline = make_pipeline(PairedTransformer(source=step, target=step), STUDENT)
    # By hand: each epoch by itself.
    arrays = {
        name: np.stack([standardize(epoch, factor_new=0.05) for epoch in X[name]])
        for name in ("target", "source")
    }
    by_hand = X.replace(**{name: x.astype("f4") for name, x in arrays.items()})
    given = {"groups": X.subject, "cv": GroupKFold(3)}
    scores = cross_validate(pipeline, X, y, **given)["test_score"]
    expected = cross_validate(STUDENT, by_hand, y, **given)["test_score"]
    np.testing.assert_array_equal(scores, expected)


def scored_recording(seed, n_epochs=8):
    """A raw of all electrodes in volts, its epochs annotated with alternating stages."""
    names = ["A1", "A2", "C3", "C4", "O1", "O2", *EAR_ELECTRODES]
    raw = recording(names, seconds=30 * n_epochs, sfreq=100.0, seed=seed)
    stages = [f"Sleep stage {'WN'[k % 2]}{'2' * (k % 2)}" for k in range(n_epochs)]
    raw.set_annotations(mne.Annotations(30.0 * np.arange(n_epochs), 30.0, stages))
    return raw


def derive_both(raw):
    scalp_derivations(raw, keep_channels=True)
    return ear_derivations(raw, keep_channels=True)


def test_preprocess_windows_pair_cross_validate():
    dataset = BaseConcatDataset(
        [RawDataset(scored_recording(seed), {"subject": f"p{seed}"}) for seed in range(4)]
    )
    steps = [
        preprocessing.Preprocessor("filter", apply_on_array=False, l_freq=0.2, h_freq=42.0),
        preprocessing.Preprocessor(derive_both, apply_on_array=False),
    ]
    preprocessing.preprocess(dataset, steps)
    windows = preprocessing.create_windows_from_events(
        dataset,
        trial_start_offset_samples=0,
        trial_stop_offset_samples=0,
        window_size_samples=3000,
        window_stride_samples=3000,
        mapping={"Sleep stage W": 0, "Sleep stage N2": 2},
    )
    X = PairedEpochs.from_windows(
        windows, source=["A1-A2", "C3-O1", "C4-O2"], target=["LR", "LE", "RE"]
    )
    y = windows.get_metadata()["target"].to_numpy()
    assert X.shape == (32, 3, 3000)
    assert 5 < X["source"].std() < 100, "not microvolts"
    assert y[:4].tolist() == [0, 2, 0, 2]
    np.testing.assert_allclose(X.onset[:3], [0, 30, 60])
    given = {"groups": X.subject, "cv": GroupKFold(2), "error_score": "raise"}
    scores = cross_validate(STUDENT, X, y, **given)
    assert np.isfinite(scores["test_score"]).all()
