"""Lag that is left in a pair, and scorings that lie beside their signals."""

import functools
import re
import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from skleepkd import PairedEpochs, check_alignment
from skleepkd.alignment import _shift
from skleepkd.datasets import make_cohort


@functools.cache
def cohort():
    """Simulated nights of two hours: two subjects."""
    return make_cohort(2, n_epochs=240, target=["C4-O2"], source=["C3-O1"], random_state=0)


def silently(*args, **options):
    with warnings.catch_warnings(action="error"):
        return check_alignment(*args, **options)


def moved(y, epochs, recording=None):
    """Move a scoring by some epochs within each recording."""
    recording = cohort().X.recording if recording is None else recording
    out = np.full(len(y), -1)
    for name in np.unique(recording):
        rows = np.flatnonzero(recording == name)
        shifted = np.full(len(rows), -1)
        first, last = max(0, epochs), len(rows) + min(0, epochs)
        shifted[first:last] = y[rows][first - epochs : last - epochs]
        out[rows] = shifted
    return out


def late_target(seconds):
    """Give a pair whose target shows everything so much later than its source."""
    sfreq = cohort().X.sfreq["target"]
    night = cohort().X["target"].reshape(2, -1)
    target = np.roll(night, round(seconds * sfreq), axis=1).reshape(cohort().X.shape)
    return cohort().X.replace(target=target)


def test_nothing_is_off():
    table = silently(cohort().X, cohort().y)
    assert table.index.tolist() == np.unique(cohort().X.recording).tolist()
    assert table["n_epochs"].tolist() == [240, 240]
    np.testing.assert_allclose(table[["lag", "lag_end"]], 0, atol=0.01)
    assert (table["confidence"] > 0.9).all()
    assert table["shift"].tolist() == [0, 0]
    np.testing.assert_array_equal(table["agreement"], table["best_agreement"])


@pytest.mark.parametrize("seconds", [-20.0, 0.5])
def test_lag_is_found(seconds):
    """What comes late in the target belongs to an earlier time: the offset was too late."""
    X = late_target(seconds)
    with pytest.warns(UserWarning, match=re.escape(f"offset=offset {-seconds:+.1f}")):
        table = check_alignment(X)
    np.testing.assert_allclose(table["lag"], -seconds, atol=0.01)
    # With holes, whole epochs of which nobody scored.
    kept = np.delete(np.arange(len(X)), [*range(30, 40), 100, 300])
    with pytest.warns(UserWarning, match="ahead of the source"):
        table = check_alignment(X[kept])
    np.testing.assert_allclose(table["lag"], -seconds, atol=0.01)


@pytest.mark.parametrize("level", [0, 25])
@pytest.mark.parametrize("modality", ["target", "source"])
def test_a_flat_signal_has_no_lag(modality, level):
    X = cohort().X[:240]
    flat = np.full_like(X[modality], level)
    assert silently(X.replace(**{modality: flat}))["lag"].isna().all()


def test_signals_that_share_nothing():
    noise = np.random.default_rng(0).normal(0, 20, cohort().X.shape).astype(np.float32)
    table = silently(cohort().X.replace(target=noise))
    assert table[["lag", "lag_end", "confidence"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="neither a source nor a scoring"):
        check_alignment(cohort().X.target_epochs)


@pytest.mark.parametrize("by", [1, -2, 60])
def test_scoring_is_moved(by):
    y = moved(cohort().y, -by)
    where = "later" if by > 0 else "earlier"
    line = f"{abs(by)} epoch(s) {where}. Move it: Hypnogram.from_stages(h.stages, "
    line += f"onset=h.onset {30 * by:+d})"
    if abs(by) > 10:  # a line that is to be copied would do harm
        line = f"{where}. By so much a clock is wrong, or the scoring is of another night"
    with pytest.warns(UserWarning, match=re.escape(line)):
        table = check_alignment(cohort().X.source_epochs, y)
    assert table["shift"].tolist() == [by, by]
    assert (table["best_agreement"] > table["agreement"]).all()


class Ready(ClassifierMixin, BaseEstimator):
    """A teacher that knows the stages, and errs in a fifth of the epochs."""

    classes_ = np.arange(5)

    def predict(self, X):
        rng = np.random.default_rng(0)
        wrong = rng.integers(0, 5, len(X))
        return np.where(rng.random(len(X)) < 0.2, wrong, cohort().y)


class Sure(Ready):
    def predict_proba(self, X):
        return 0.9 * np.eye(5)[self.predict(X)] + 0.02


@pytest.mark.parametrize("stager", [Ready(), Sure()])
@pytest.mark.parametrize("by", [0, 1, -45])
def test_scoring_by_a_ready_teacher(stager, by):
    """The signals are noise: the teacher alone knows. Names serve as codes do."""
    noise = np.random.default_rng(0).normal(0, 20, (480, 1, 960)).astype(np.float32)
    X = PairedEpochs(noise, recording=cohort().X.recording, onset=cohort().X.onset)
    names = np.array(["W", "N1", "N2", "N3", "REM", "?"])[moved(cohort().y, -by)]
    with warnings.catch_warnings(action="ignore"):
        table = check_alignment(X, names, stager=stager)
    assert table["shift"].tolist() == [by, by]


def test_scoring_of_another_night():
    y = np.roll(cohort().y, 240)
    with pytest.warns(UserWarning, match="scoring"):
        table = check_alignment(cohort().X.source_epochs, y)
    assert (table["shift"] != 0).all()
    with pytest.warns(UserWarning, match="one stage fills it"):
        table = check_alignment(cohort().X.source_epochs, np.zeros(480, dtype=int))
    assert table["shift"].isna().all()


def test_few_scored_epochs():
    """A real place of them is not known, so no line that moves them is given."""
    night, y = cohort().X[:240], cohort().y[:240]
    for n_scored in (2, 5):
        few = np.where(np.arange(240) < n_scored, y, -1)
        assert silently(night.target_epochs, few)["shift"].isna().all()
    some = np.where(np.arange(240) < 120, y, -1)
    assert silently(night.target_epochs, some)["shift"].tolist() == [0]
    with pytest.warns(UserWarning, match="seems to fit better .* 120 .* too few to tell"):
        table = check_alignment(night.target_epochs, moved(some, 3, night.recording))
    assert table["shift"].isna().all()


@pytest.mark.parametrize("by", [0, 1, 120])
def test_real_nights(shared_data, by):
    """Nights of five real people, one EEG derivation, by features of their epochs."""
    path = shared_data / "sleep_edf_features" / "features.npz"
    if not path.is_file():
        pytest.skip("the real nights are not here")
    data = np.load(path)
    night, features = data["night"], data["features"][:, 1]
    for name in ("SC4001", "SC4012", "SC4021", "SC4032", "SC4041"):
        rows = night == name
        y = moved(data["stage"][rows], -by, night[rows])
        places = data["epoch"][rows] - data["epoch"][rows][0]
        assert _shift(y, features[rows], places)["shift"] == by
