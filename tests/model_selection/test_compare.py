import numpy as np
import pandas as pd
import pytest
from joblib import Memory, parallel_config
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.metrics import staging_report
from skleepkd.model_selection import Comparison, compare
from skleepkd.preprocessing import SourceSelector
from tests.model_selection.reader import Reader, fits
from tests.tiny import FAST, TinyNetwork


class Noisy(Reader):
    """One that its seed makes worse."""

    def predict(self, X):
        self.wrong = 2 * self.random_state
        return super().predict(X)


class Broken(Reader):
    def fit(self, X, y):
        raise RuntimeError("broken")


class Unseeded(Reader):
    """One without a seed."""

    random_state = None

    def __init__(self, log=None):
        super().__init__(log)
        del self.random_state


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def make_data(n_people=4, n_epochs=10):
    """Epochs whose source is their stage (1 or 2); the target is always 1."""
    y = np.tile(np.arange(n_epochs) // (n_epochs // 2) + 1, n_people)
    source = np.broadcast_to(y[:, None, None], (len(y), 1, 4)).astype(np.float32)
    subject = np.repeat([f"s{k}" for k in range(n_people)], n_epochs)
    return PairedEpochs(np.ones_like(source), source=source, subject=subject), y


SEES = make_pipeline(SourceSelector(), Reader())


# ---------------------------------------------------------------- the numbers


def test_differences_p_and_share_are_those_of_a_hand():
    # The ear's kappa is 0 for all; the ceiling's is 1; the halfway method takes four of a
    # person's ten epochs, all of stage 1, for 0: its accuracy is 0.6.
    X, y = make_data()
    half = make_pipeline(SourceSelector(), Reader(wrong=4))
    methods = {"ear": Reader(), "half": half, "scalp": SEES}
    result = compare(methods, X, y, baseline="ear", ceiling="scalp", seeds=2)
    expected = {"ear": 0.0, "scalp": 1.0}
    # Truth 5 and 5, predicted 4, 1 and 5: agreement 0.6, by chance 0.05 + 0.25.
    expected["half"] = (0.6 - 0.3) / (1 - 0.3)
    assert list(result.scores) == ["ear", "half", "scalp"]
    for name, kappa in expected.items():
        np.testing.assert_allclose(result.scores[name], kappa)
        row = result.table.loc[name]
        np.testing.assert_allclose(row[["mean", "low", "high"]].astype(float), kappa)
        if name != "ear":
            difference = row[["difference", "difference_low", "difference_high"]]
            np.testing.assert_allclose(difference.astype(float), kappa)
            assert row["pvalue"] == 2 / 2**4  # all four are better
    assert result.table.loc["half", "share"] == pytest.approx(3 / 7)
    unset = result.table.loc[["ear", "scalp"], "share"]
    assert unset.isna().all()
    assert (result.table["fit_seconds"] >= 0).all()
    assert len(result.frame) == 3 * 2 * 4
    columns = ["method", "seed", "fold", "subject", "score", "fit_seconds"]
    assert list(result.frame) == columns


def test_people_count_alike_however_many_their_epochs():
    subject = np.repeat(["a", "b"], [30, 10])
    y = np.r_[np.repeat([1, 2], 15), np.repeat([1, 2], 5)]
    right = np.r_[y[:30], np.ones(10)][:, None]  # all of a, half of b
    methods = {"one": Reader(), "zero": Reader(wrong=10)}
    given = {"groups": subject, "baseline": "zero", "metric": accuracy_score}
    result = compare(methods, right, y, seeds=1, **given)
    assert result.scores["one"].to_dict() == {"a": 1.0, "b": 0.5}
    assert result.table.loc["one", "mean"] == 0.75
    assert result.table.loc["one", "difference"] == 0.75
    assert result.metric == "accuracy_score"


def test_the_score_is_the_mean_over_seeds():
    X, y = make_data()
    methods = {"ear": DummyClassifier(), "noisy": make_pipeline(SourceSelector(), Noisy())}
    given = {"baseline": "ear", "metric": accuracy_score}
    result = compare(methods, X, y, seeds=[0, 1, 2], **given)
    by_seed = result.frame[result.frame["method"] == "noisy"].groupby("seed")["score"]
    np.testing.assert_allclose(by_seed.mean(), [1.0, 0.8, 0.6])
    np.testing.assert_allclose(result.scores["noisy"], 0.8)


def test_no_gap_is_no_share():
    X, y = make_data()
    methods = {"ear": Reader(), "same": Reader(), "top": Reader()}
    result = compare(methods, X, y, baseline="ear", ceiling="top", seeds=1)
    assert result.table["share"].isna().all()
    assert result.table.loc["same", "pvalue"] == 1


# ---------------------------------------------------------------- folds, seeds, labels


def test_folds_are_of_whole_people_or_the_given_ones(log):
    X, y = make_data(n_people=6)
    methods = {"one": Reader(), "other": Reader(log)}
    for cv, n_train in ((None, [50] * 6), (3, [40] * 3), (GroupKFold(2), [30] * 2)):
        compare(methods, X, y, baseline="one", cv=cv, seeds=1)
        assert [len(line.split(",")) for line in fits(log)] == n_train
    splits = list(LeaveOneGroupOut().split(X, y, X.subject))[:2]
    masks = [tuple(np.isin(np.arange(60), rows) for rows in split) for split in splits]
    for cv in (splits, masks):
        result = compare(methods, X, y, baseline="one", cv=cv, seeds=1)
        assert result.scores.index.tolist() == ["s0", "s1"]
    # By rows, a person is tested in more than one fold.
    rows = KFold(5, shuffle=True, random_state=0)
    given = {"baseline": "one", "metric": accuracy_score, "seeds": 1}
    with pytest.warns(UserWarning, match="ignored"):
        result = compare(methods, X, y, cv=rows, **given)
    assert len(result.scores) == 6
    assert result.frame["fold"].nunique() == 5


def test_seeds_reach_the_last_step_and_what_is_searched(log):
    X, y = make_data()
    teacher = SleepStager(TinyNetwork)
    seen = []

    class Student(DistilledSleepStager):
        def fit(self, X, y):
            seen.append((self.random_state, self.teacher.random_state))
            return self

        def predict(self, X):
            return np.ones(len(X), dtype=int)

    methods = {
        "plain": Reader(log),
        "last step": make_pipeline(Reader(random_state=7), Reader(log)),
        "search": GridSearchCV(Reader(log), {"wrong": [0]}, cv=2, refit=True),
        "student": Student(teacher),
        "frozen": FrozenEstimator(Reader().fit(X, y)),
    }
    methods["last step"].steps[0] = ("first", SourceSelector())
    for name in ("plain", "last step", "search"):
        pair = {name: methods[name], "frozen": methods["frozen"]}
        compare(pair, X, y, baseline="frozen", cv=2, seeds=[3, 5])
        assert {line.split()[0] for line in fits(log)} == {"3", "5"}
    compare(methods, X, y, baseline="frozen", cv=2, seeds=[3, 5])
    assert seen == [(3, None)] * 2 + [(5, None)] * 2


def test_a_method_without_a_seed_is_fitted_once_for_all(log):
    X, y = make_data()
    methods = {"one": Unseeded(log), "other": Reader()}
    result = compare(methods, X, y, baseline="other", seeds=3)
    assert len(fits(log)) == 4
    assert len(result.frame) == 2 * 3 * 4


def test_labels_for_training_and_labels_for_judging(log):
    X, y = make_data()
    few = np.where(X.subject == "s0", y, -1)
    methods = {"one": Reader(log), "other": Reader()}
    given = {"baseline": "other", "seeds": 1, "cv": 2}
    result = compare(methods, X, y, y_train=few, **given)
    # One fold of two has s0 in training; others' epochs are left out for this estimator.
    assert sorted(line.split(" ")[1] for line in fits(log)) == sorted(
        ["", ",".join(map(str, y[:10]))]
    )
    assert len(result.scores) == 4


def test_stagers_are_given_unscored_epochs_too(pair):
    X, y = pair
    few = np.where(np.isin(X.subject, ["s0", "s1"]), y, -1)
    rows = []

    class Noted(SleepStager):
        def fit(self, X, y):
            rows.append((len(y), int((np.asarray(y) >= 0).sum())))
            return super().fit(X, y)

    methods = {"a": Noted(TinyNetwork, classes="aasm", **FAST), "b": DummyClassifier()}
    methods["in a pipeline"] = make_pipeline(SourceSelector(), methods["a"])
    result = compare(methods, X, y, y_train=few, baseline="b", cv=3, seeds=1)
    whole = len(y) - len(y) // 3
    assert {n for n, _ in rows} == {whole}
    assert len(rows) == 2 * 3
    assert result.scores.notna().all(axis=None)


def test_unscored_epochs_are_not_judged_and_people_without_any_are_nan():
    X, y = make_data(n_people=5)
    y[:10] = -1  # s0
    y[12:15] = -1
    result = compare({"ear": Reader(), "scalp": SEES}, X, y, baseline="ear", seeds=1)
    assert result.frame.set_index(["method", "subject"])["score"]["scalp", "s0"] != 1
    assert result.frame["score"].isna().sum() == 2
    assert result.scores.index.tolist() == ["s1", "s2", "s3", "s4"]
    assert (result.scores["scalp"] == 1).all()


def test_stagers_predictions_are_those_of_their_own_folds(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, classes="aasm", **FAST)
    methods = {"ear": stager, "scalp": make_pipeline(SourceSelector(), stager)}
    result = compare(methods, X, y, baseline="ear", cv=GroupKFold(3), seeds=[0])
    for train, test in GroupKFold(3).split(X, y, X.subject):
        stager.fit(X[train].source_epochs, y[train])
        predicted = stager.predict(X[test].source_epochs)
        report = staging_report(y[test], predicted, groups=X.subject[test])
        for person, scores in report.per_subject.items():
            assert result.scores.loc[person, "scalp"] == pytest.approx(scores["kappa"])


# ---------------------------------------------------------------- what is kept


def test_a_finished_fold_is_not_fitted_again(log, tmp_path):
    X, y = make_data()
    methods = {"ear": Reader(log), "other": Reader(log, wrong=1)}
    given = {"baseline": "ear", "memory": tmp_path / "kept", "seeds": 2}
    first = compare(methods, X, y, **given)
    assert len(fits(log)) == 2 * 2 * 4
    given["memory"] = Memory(str(tmp_path / "kept"), verbose=0)
    again = compare(methods, X, y, **given)
    assert first.frame.equals(again.frame)
    # Another metric, name, order or person's labels in the test need no fit.
    compare(
        {"new": methods["other"], "old": methods["ear"]},
        X,
        y,
        **given | {"baseline": "old"},
    )
    compare(methods, X, y, metric=accuracy_score, **given)
    assert fits(log) == []
    compare(methods, X, y, **given | {"seeds": 3})
    assert len(fits(log)) == 2 * 4
    compare(methods | {"more": Reader(log, wrong=2)}, X, y, **given)
    assert len(fits(log)) == 2 * 4
    touched = np.where(np.arange(len(y)) == 0, 2, y)
    compare(methods, X, touched, **given)
    assert len(fits(log)) == 2 * 2 * 4
    compare(methods, X, touched, y_train=y, **given)
    compare(methods, X.replace(target=X["target"]), y, **given)
    assert fits(log) == []


def test_an_error_keeps_the_finished_folds(log, tmp_path):
    X, y = make_data()
    methods = {"good": Reader(log), "bad": Broken()}
    given = {"baseline": "good", "memory": tmp_path / "kept", "seeds": 1}
    with pytest.raises(RuntimeError, match="broken"):
        compare(methods, X, y, **given)
    assert len(fits(log)) == 4
    compare(methods | {"bad": Reader(wrong=1)}, X, y, **given)
    assert fits(log) == []


# ---------------------------------------------------------------- what is shown


def frame_of(scores):
    """Scores by method and person, as compare's frame."""
    frame = pd.DataFrame(scores).rename_axis("subject").reset_index()
    frame = frame.melt("subject", var_name="method", value_name="score")
    return frame.assign(seed=0, fold=frame["subject"], fit_seconds=2.0)


def test_table_page_and_picture_say_the_same():
    scores = {"ear": [0.2, 0.4, 0.6], "taught": [0.3, 0.5, 0.7], "scalp": [0.4, 0.6, 0.8]}
    result = Comparison(frame_of(scores), "ear", "scalp", "kappa")
    text, page = str(result), result._repr_html_()
    for shown in (text, page):
        assert "0.500 [0." in shown
        assert "+0.100 [+0.100, +0.100]" in shown
        assert "0.250" in shown  # three people, all better: 2 / 2**3
        assert "50% [50%, 50%]" in shown
        assert "2.0" in shown
    assert text.startswith("3 people, mean of 1 seed(s) each")
    assert "gap" not in str(Comparison(frame_of(scores), "ear"))
    ax = result.plot(Figure().subplots())
    points = next(line for line in ax.lines if line.get_marker() == "o")
    # From below.
    np.testing.assert_allclose(np.array(points.get_xdata(), float), [0.2, 0.1])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["scalp", "taught"]
    assert result.plot().figure is not ax.figure


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "eer"}, "baseline is one of .*'ear', 'scalp'.*given 'eer'"),
        ({"baseline": None}, "baseline is one of"),
        ({"ceiling": "top"}, "ceiling is one of .*given 'top'"),
        ({"methods": {"ear": Reader(), "scalp": "USleep"}}, "'scalp' is 'USleep'"),
        ({"methods": {"ear": Reader, "scalp": SEES}}, "'ear' is <class"),
        ({"X": np.ones((40, 1))}, "give groups="),
        ({"groups": np.zeros(40, dtype=int), "cv": KFold(2)}, "and 1 of those"),
        ({"y": np.full(40, -1)}, "and 0 of those"),
        ({"groups": [None] * 40}, "missing values"),
        ({"y_train": np.ones(39)}, "inconsistent numbers"),
        ({"y_train": np.full(40, "W")}, "both codes or both names"),
        ({"metric": "accuracy"}, "metric is called with.*'accuracy' does not"),
        ({"metric": make_scorer(accuracy_score)}, "metric is called with.*does not"),
        ({"seeds": 0}, "No seed is given"),
        ({"methods": {"ear": Broken(), "scalp": SEES}, "metric": len}, "metric is called"),
    ],
)
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
def test_errors_say_what_to_do(changes, message):
    X, y = make_data()
    given = {"methods": {"ear": Reader(), "scalp": SEES}, "X": X, "y": y}
    given |= {"baseline": "ear"} | changes
    with pytest.raises(ValueError, match=message):
        compare(**given)


def test_numbers_of_numpy_and_columns_of_tables_are_as_good():
    X, y = make_data()
    methods, own = {"ear": Noisy(), "scalp": SEES}, np.repeat([3, 1, 2, 0], 10)
    plain = compare(methods, X, y, groups=own, baseline="ear", cv=2, seeds=2)
    given = {"groups": pd.DataFrame({"who": own}), "cv": np.int64(2)}
    for seeds in (np.int64(2), iter((0, 1))):
        # Readers draw nothing; torch's random numbers are shared by threads.
        with parallel_config(backend="threading"):
            other = compare(methods, X, y, baseline="ear", **given, seeds=seeds, n_jobs=2)
        columns = ["method", "seed", "fold", "subject", "score"]
        pd.testing.assert_frame_equal(plain.frame[columns], other.frame[columns])


def test_without_memory_methods_need_not_be_pickled():
    X, y = make_data()
    own = type("Own", (Reader,), {"extra": staticmethod(lambda: None)})
    result = compare({"own": own(), "ear": Reader()}, X, y, baseline="ear", seeds=1)
    assert len(result.table) == 2
