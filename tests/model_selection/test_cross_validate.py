from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import context
from sklearn import config_context, model_selection
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import GroupKFold, KFold

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.metrics import sleep_scorers
from skleepkd.model_selection import cross_validate
from tests.files import in_a_fork
from tests.interrupted import killed_folds
from tests.model_selection.reader import Reader, fits
from tests.tiny import FAST, TinyNetwork

TEACHER = SleepStager(TinyNetwork, classes="aasm", **FAST)
STUDENT = DistilledSleepStager(TEACHER, classes="aasm", **FAST)


class Breaking(Reader):
    """Fails without the first row, as long as there is a file."""

    def fit(self, X, y):
        super().fit(X, y)
        if (Path(self.log).parent / "broken").exists() and 0 not in X:
            raise RuntimeError("broken")
        return self


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


# ---------------------------------------------------------------- as in scikit-learn


@pytest.mark.parametrize(
    "stager",
    [TEACHER, DistilledSleepStager(TEACHER, strategy="online", **FAST)],
    ids=["supervised", "online"],
)
def test_scores_are_those_of_scikit_learn(pair, stager, tmp_path):
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(3), "scoring": sleep_scorers()}
    given["return_train_score"] = True
    expected = model_selection.cross_validate(stager, X, y, **given)
    for _ in range(2):
        scores = cross_validate(stager, X, y, memory=tmp_path, **given)
        assert scores.keys() == expected.keys()
        for name in expected.keys() - {"fit_time", "score_time"}:
            values = expected[name]
            assert scores[name].dtype == values.dtype
            np.testing.assert_array_equal(scores[name], values)
        assert (scores["fit_time"] > 0).all()


def test_estimators_and_rows_are_returned_on_request(tmp_path):
    X, y = np.arange(12), np.arange(12) // 4
    given = {"cv": KFold(3), "return_estimator": True, "return_indices": True}
    expected = model_selection.cross_validate(Reader(), X, y, **given)
    scores = cross_validate(Reader(), X, y, memory=tmp_path, **given)
    assert scores.keys() == expected.keys()
    kept, plain = (
        [net.classes_.tolist() for net in found["estimator"]]
        for found in (scores, expected)
    )
    assert kept == plain == [[1, 2], [0, 2], [0, 1]]
    for part in ("train", "test"):
        np.testing.assert_array_equal(scores["indices"][part], expected["indices"][part])


@pytest.mark.filterwarnings("ignore:`fork` start method:UserWarning")
def test_two_processes_over_memory_maps(pair, tmp_path, monkeypatch):
    # loky's own processes, but begun as forks, which import nothing.
    monkeypatch.setattr(context, "_DEFAULT_START_METHOD", "fork")
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(3), "memory": tmp_path / "kept"}
    mapped = X.to_memmap(tmp_path / "pair")
    scores = cross_validate(STUDENT, mapped, y, n_jobs=2, **given)
    get_reusable_executor().shutdown()
    again = cross_validate(STUDENT, X, y, **given)  # by value: nothing is fitted again
    for name in scores:
        np.testing.assert_array_equal(again[name], scores[name])


def test_metadata_with_and_without_routing(pair, tmp_path):
    X, y = pair
    given = {"cv": GroupKFold(2), "scoring": make_scorer(cohen_kappa_score)}
    plain = model_selection.cross_validate(STUDENT, X, y, groups=X.subject, **given)
    given |= {"params": {"X_source": X["source"], "groups": X.subject}}
    by_groups = cross_validate(
        STUDENT, X["target"], y, groups=X.subject, memory=tmp_path, **given
    )
    with config_context(enable_metadata_routing=True):
        routed = cross_validate(
            STUDENT, X["target"], y, memory=tmp_path / "routed", **given
        )
        with pytest.raises(ValueError, match="params="):
            cross_validate(STUDENT, X, y, groups=X.subject, memory=tmp_path)
    for scores in (by_groups, routed):
        np.testing.assert_array_equal(scores["test_score"], plain["test_score"])


# ---------------------------------------------------------------- what is kept


def test_what_differs_is_fitted_and_nothing_else(log, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 2)), np.arange(12) % 3
    groups = np.arange(12) // 4
    given = {"groups": groups, "cv": GroupKFold(3), "scoring": "accuracy"}
    given["memory"] = tmp_path

    def count(wrong=0, X=X, y=y, **changed):
        cross_validate(Reader(log, wrong), X, y, **{**given, **changed})
        return len(fits(log))

    assert count() == 3
    assert count() == count(memory=joblib.Memory(str(tmp_path), verbose=0)) == 0
    touched = X.copy()
    touched[3, 1] += 1e-12
    assert count(X=touched) == 3
    assert count(y=np.roll(y, 1)) == 3
    assert count(wrong=1) == 3
    assert count(scoring="f1_macro") == 3
    assert count(cv=KFold(3, shuffle=True, random_state=0), groups=None) == 3
    assert count(params={"groups": groups}) == 3
    assert count(return_train_score=True) == 3
    # Of five folds, those are fitted whose rows are new.
    splits = list(GroupKFold(3).split(X, y, groups))
    assert count(cv=[*splits, (np.arange(6), np.arange(6, 12))]) == 1
    assert count() == 0


@pytest.mark.filterwarnings("ignore::skleepkd.distillation.LeakageWarning")
def test_a_frozen_teacher_counts_by_its_weights(pair, tmp_path):
    """Two equal trainings differ in their clocks alone."""
    X, y = pair
    kept = {"memory": tmp_path, "groups": X.subject, "cv": GroupKFold(2)}
    times = []
    for seed in (0, 0, 1):
        teacher = SleepStager(TinyNetwork, **{**FAST, "random_state": seed})
        frozen = FrozenEstimator(teacher.fit(X.source_epochs, y))
        # A student without a seed is kept all the same.
        stager = FineTunedSleepStager(frozen, max_epochs=1, device="cpu")
        times.append(cross_validate(stager, X, y, **kept)["fit_time"].tolist())
    assert times[0] == times[1] != times[2]


def test_an_error_keeps_the_finished_folds(log, tmp_path):
    X, y, breaking = np.arange(12), np.arange(12) % 3, Breaking(log)
    broken = tmp_path / "broken"
    broken.touch()
    folds = [(np.r_[0, 4:12], [1, 2, 3]), (np.arange(4, 12), np.arange(4))]
    with pytest.raises(RuntimeError, match="broken"):
        cross_validate(breaking, X, y, cv=folds, memory=tmp_path)
    assert len(fits(log)) == 2
    broken.unlink()
    cross_validate(breaking, X, y, cv=folds, memory=tmp_path)
    assert len(fits(log)) == 1


def test_a_damaged_fold_is_fitted_again(log, tmp_path):
    X, y = np.arange(12), np.arange(12) % 3
    expected = cross_validate(Reader(log), X, y, cv=3, memory=tmp_path)
    file = sorted(tmp_path.rglob("output.pkl"))[0]
    file.write_bytes(file.read_bytes()[:-20])
    fits(log)
    scores = cross_validate(Reader(log), X, y, cv=3, memory=tmp_path)  # joblib warns
    assert len(fits(log)) == 1
    np.testing.assert_array_equal(scores["test_score"], expected["test_score"])


def test_errors_say_what_to_do(pair, tmp_path):
    X, y = pair
    with pytest.raises(ValueError, match="in a module"):
        cross_validate(SleepStager(lambda **kw: TinyNetwork(**kw)), X, y, memory=tmp_path)


# ---------------------------------------------------------------- five kills


def test_five_kills_lose_no_fold_and_fit_none_twice(tmp_path):
    found = in_a_fork(partial(killed_folds, tmp_path))
    runs = found["runs"]
    assert [run["killed"] for run in runs] == 5 * [True] + 2 * [False]
    assert runs[3]["parts"] == 1, "this one was killed while it wrote"
    subjects = {f"s{k}" for k in range(6)}
    folds = ["+".join(sorted(subjects - {f"s{k}"})) for k in range(6)]  # in their order
    kept = 0
    for run in runs:
        # Folds follow one another, so those that are kept are the first.
        assert run["fits"] == folds[kept : kept + len(run["fits"])]
        unfinished = 1 if run["killed"] else 0
        kept += len(run["fits"]) - unfinished
        assert run["kept"] == kept
    assert kept == 6
    assert not runs[-1]["fits"]
    assert runs[-2]["result"] == runs[-1]["result"] == found["expected"]
