"""braindecode's preprocessing in both directions: inside a pipeline, and before the pair."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.preprocessing import (
    EAR_ELECTRODES,
    EpochwiseTransformer,
    PairedTransformer,
    ear_derivations,
    scalp_derivations,
)
from tests.tiny import TinyNetwork

preprocessing = pytest.importorskip("braindecode.preprocessing")
mne = pytest.importorskip("mne")

FAST = {"max_epochs": 1, "device": "cpu"}
TEACHER = SleepStager(TinyNetwork, classes="aasm", **FAST)
STAGERS = {
    "offline": DistilledSleepStager(TEACHER, classes="aasm", random_state=0, **FAST),
    "online": DistilledSleepStager(
        TEACHER, strategy="online", classes="aasm", random_state=0, **FAST
    ),
    "transfer": FineTunedSleepStager(TEACHER, random_state=0, **FAST),
}
every_stager = pytest.mark.parametrize("stager", STAGERS.values(), ids=STAGERS)


@every_stager
def test_array_functions_inside_a_pipeline(pair, stager):
    X, y = pair
    standardize = preprocessing.exponential_moving_standardize
    step = EpochwiseTransformer(standardize, kw_args={"factor_new": 0.05})
    pipeline = make_pipeline(PairedTransformer(source=step, target=step), stager)
    scores = cross_validate(pipeline, X, y, groups=X.subject, cv=GroupKFold(3))
    # By hand: each epoch by itself.
    arrays = {
        name: np.stack([standardize(epoch, factor_new=0.05) for epoch in X[name]]).astype(
            "f4"
        )
        for name in ("target", "source")
    }
    by_hand = PairedEpochs(**arrays, subject=X.subject, recording=X.recording, sfreq=2.0)
    expected = cross_validate(stager, by_hand, y, groups=X.subject, cv=GroupKFold(3))
    np.testing.assert_array_equal(scores["test_score"], expected["test_score"])


def recording(seed, sfreq=100.0, n_epochs=12):
    """A raw of all electrodes in volts, its epochs annotated with alternating stages."""
    names = ["A1", "A2", "C3", "C4", "O1", "O2", *EAR_ELECTRODES]
    rng = np.random.default_rng(seed)
    signal = 30e-6 * rng.standard_normal((len(names), int(n_epochs * 30 * sfreq)))
    raw = mne.io.RawArray(signal, mne.create_info(names, sfreq, "eeg"), verbose="error")
    stages = [f"Sleep stage {'WN'[k % 2]}{'2' * (k % 2)}" for k in range(n_epochs)]
    raw.set_annotations(mne.Annotations(30.0 * np.arange(n_epochs), 30.0, stages))
    return raw


def derive_both(raw):
    scalp_derivations(raw, keep_channels=True)
    return ear_derivations(raw, keep_channels=True)


@every_stager
def test_preprocess_windows_pair_cross_validate(stager):
    from braindecode.datasets import BaseConcatDataset, RawDataset

    dataset = BaseConcatDataset(
        [RawDataset(recording(seed), {"subject": f"p{seed}"}) for seed in range(4)]
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
    assert X.shape == (48, 3, 3000)
    assert 5 < X["source"].std() < 100, "not microvolts"
    assert y[:4].tolist() == [0, 2, 0, 2]
    np.testing.assert_allclose(X.onset[:3], [0, 30, 60])
    scores = cross_validate(
        stager, X, y, groups=X.subject, cv=GroupKFold(2), error_score="raise"
    )
    assert np.isfinite(scores["test_score"]).all()
