"""Several teachers: what they predict together, and that each is treated as it would be alone."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import DistilledSleepStager, SleepStager, describe
from skleepkd.distillation import LeakageWarning, Strategy, TeacherEnsemble
from skleepkd.model_selection import check_leakage
from tests.tiny import FAST, NAMES, NeverTiny, TinyNetwork, same

BY_OUTPUT = {"module": TinyNetwork, "feature_loss": None, "alpha": 0.5, **FAST}
BY_OUTPUT["start_from_teacher"] = False


class Sure(ClassifierMixin, BaseEstimator):
    """Predicts the same probabilities of each epoch, and keeps what it was fitted on."""

    def __init__(self, probabilities, classes=(0, 1, 2, 3, 4)):
        self.probabilities = probabilities
        self.classes = classes

    def fit(self, X, y):
        self.classes_, self.seen_ = np.array(self.classes), np.asarray(X)[:, 0, 0]
        return self

    def predict_proba(self, X):
        return np.tile(self.probabilities, (len(X), 1))


def frozen(*probabilities, classes=(0, 1, 2, 3, 4)):
    return FrozenEstimator(Sure(probabilities, classes).fit(np.zeros((1, 1, 1)), None))


class Follow(Strategy):
    """Keeps what the teacher predicts for the student's rows."""

    def prepare(self, student, pair, y):
        from skleepkd.distillation.offline import columns_of_teacher

        columns = columns_of_teacher(student, pair, y, features=False)
        self.output_ = np.exp(columns["teacher_output"])
        return columns


def taught(teacher, X, y, **params):
    """What a student is given of a teacher, and the fitted student."""
    params = {**BY_OUTPUT, "strategy": Follow(), **params}
    student = DistilledSleepStager(teacher, **params).fit(X, y)
    return student.strategy_.output_, student


def stager(**params):
    return SleepStager(TinyNetwork, **{"max_epochs": 1, "device": "cpu", **params})


def log_power(X):
    return np.log(np.asarray(X).var(axis=2))


PLAIN = make_pipeline(FunctionTransformer(log_power), LogisticRegression(max_iter=500))


# ---------------------------------------------------------------- what they predict


def test_probabilities_are_averaged(pair):
    one, two = frozen(0.7, 0.1, 0.1, 0.1, 0), frozen(0.1, 0.5, 0.2, 0.1, 0.1)
    expected = [0.4, 0.3, 0.15, 0.1, 0.05]
    for teacher in ([one, two], (one, two), TeacherEnsemble([one, two])):
        output, _ = taught(teacher, *pair)
        np.testing.assert_allclose(output, np.tile(expected, (144, 1)), rtol=1e-6)
    nested = TeacherEnsemble([TeacherEnsemble([one, two]), one])
    output, _ = taught(nested, *pair)
    np.testing.assert_allclose(output[0, :2], [(0.4 + 0.7) / 2, (0.3 + 0.1) / 2], rtol=1e-6)


def test_the_more_confident_teacher_counts_more(pair):
    """By hand: entropy log 2 of two equal stages, 0 of a certain one, log 5 of all five."""
    certain, torn = frozen(0, 0, 1, 0, 0), frozen(0.5, 0.5, 0, 0, 0)
    blank = frozen(*[0.2] * 5)
    weight = 1 - np.log(2) / np.log(5)
    expected = np.array([weight / 2, weight / 2, 1, 0, 0]) / (1 + weight)
    ensemble = TeacherEnsemble([certain, torn, blank], weighting="confidence")
    output, _ = taught(ensemble, *pair)
    np.testing.assert_allclose(output[7], expected, atol=1e-6)
    # Where nobody knows, nobody counts more.
    output, _ = taught(TeacherEnsemble([blank, blank], weighting="confidence"), *pair)
    np.testing.assert_allclose(output, 0.2, rtol=1e-6)


def test_confidence_is_that_on_the_epoch():
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(5), (2, 30))
    both = np.stack([first, second])
    weights = 1 + (both * np.log(both)).sum(axis=2, keepdims=True) / np.log(5)
    expected = (weights * both).sum(axis=0) / weights.sum(axis=0)
    ensemble = TeacherEnsemble([Rows(first), Rows(second)], weighting="confidence")
    found = ensemble.fit(np.zeros((30, 1, 1)), [0, 1, 2, 3, 4] * 6).predict_proba(range(30))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_array_equal(ensemble.predict(range(30)), expected.argmax(axis=1))


class Rows(Sure):
    """Predicts a row of its own for each epoch, given by its number."""

    def predict_proba(self, X):
        return np.asarray(self.probabilities)[np.asarray(X)]


def test_classes_are_joined_by_label(X, y):
    one = frozen(0.25, 0.75, classes=("REM", "W"))
    two = frozen(0.5, 0.1, 0.4, classes=("N1", "N3", "W"))
    ensemble = TeacherEnsemble([one, two])
    assert ensemble.classes_.tolist() == ["N1", "N3", "REM", "W"]
    expected = [0.25, 0, 0.05, 0.125, (0.75 + 0.4) / 2]  # N1, N2, N3, REM, W
    output, student = taught(ensemble, X, NAMES[y])
    assert student.classes_.tolist() == ["N1", "N2", "N3", "REM", "W"]
    np.testing.assert_allclose(output[3], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\['N1', 'N3'\] are not among the student's"):
        taught(ensemble, X, NAMES[[0, 2, 4]][y % 3], classes=["W", "REM", "N2"])
    # One of several may be fitted in the fold; the frozen one is checked before it.
    with pytest.raises(ValueError, match=r"not among the student's, \[0, 1, 2, 3, 4\]"):
        taught([SleepStager(NeverTiny, **FAST), one], X, y)


def test_codes_and_names_are_never_joined(pair):
    teachers = [frozen(0.25, 0.75, classes=("REM", "W")), frozen(0.5, 0.5, classes=(0, 1))]
    with pytest.raises(ValueError, match="some predict codes and others names"):
        TeacherEnsemble(teachers).predict(pair[0])
    with pytest.raises(ValueError, match="some predict codes and others names"):
        DistilledSleepStager(teachers, **{**BY_OUTPUT, "alpha": 1}).fit(pair[0])


# ---------------------------------------------------------------- in the fold


@pytest.mark.parametrize("given", [stager(), PLAIN], ids=["stager", "classifier"])
@pytest.mark.parametrize("weighting", ["mean", "confidence"])
def test_one_of_a_list_teaches_as_it_does_alone(X, y, given, weighting):
    alone = DistilledSleepStager(given, validation=("s1",), **BY_OUTPUT).fit(X, y)
    several = TeacherEnsemble([given], weighting=weighting)
    several = DistilledSleepStager(several, validation=("s1",), **BY_OUTPUT).fit(X, y)
    np.testing.assert_array_equal(alone.predict_proba(X), several.predict_proba(X))
    (inner,) = several.teacher_.teachers_
    expected = alone.teacher_.predict_proba(X.source_epochs)
    np.testing.assert_array_equal(inner.predict_proba(X.source_epochs), expected)


def test_members_are_fitted_on_the_source_without_the_held_out(X, y):
    y = np.where(X.subject == "s3", -1, y)
    given = [Sure([0.2] * 5), stager(), frozen(*[0.2] * 5)]
    output, student = taught(given, X, y, validation=("s1",))
    plain, network, unmoved = student.teacher_.teachers_
    expected = X["source"][~np.isin(X.subject, ["s1", "s3"])]
    np.testing.assert_array_equal(plain.seen_, expected[:, 0, 0])
    assert network.held_out_.tolist() == ["s1"]
    assert unmoved is given[2]
    assert not hasattr(given[0], "seen_")
    # All together they are a classifier of the source.
    found = student.teacher_.predict_proba(X.source_epochs)
    np.testing.assert_allclose(output, found, atol=1e-6)


def test_each_member_has_a_seed_of_its_own(X, y):
    params = {**BY_OUTPUT, "max_epochs": 0}
    student = DistilledSleepStager([stager(), stager(), stager(random_state=3)], **params)
    one, two, three = student.fit(X, y).teacher_.teachers_
    assert not same(one, two)
    assert same(three, stager(random_state=3, validation=()).fit(X.source_epochs, y))
    again = clone(student).fit(X, y).teacher_.teachers_
    assert all(map(same, (one, two, three), again))


def test_memory_fits_each_member_once(X, y, tmp_path):
    params = {**BY_OUTPUT, "memory": str(tmp_path / "memory")}
    first = DistilledSleepStager([stager(), PLAIN], **params).fit(X, y)
    kept = sorted(tmp_path.rglob("output.pkl"))
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    weighted = TeacherEnsemble([stager(), PLAIN], weighting="confidence")
    second = DistilledSleepStager(weighted, **{**params, "alpha": 0.9}).fit(X, y)
    again = sorted(tmp_path.rglob("output.pkl"))
    assert [path.stat().st_mtime_ns for path in again] == times
    assert same(first.teacher_.teachers_[0], second.teacher_.teachers_[0])
    # A single teacher is the first of a list.
    DistilledSleepStager(stager(), **params).fit(X, y)
    assert len(list(tmp_path.rglob("output.pkl"))) == 2


def test_checkpoints_of_members_are_found_again(X, y, tmp_path):
    student = DistilledSleepStager([stager(), stager()], checkpoint=tmp_path, **BY_OUTPUT)
    plain = clone(student).set_params(checkpoint=None).fit(X, y).predict_proba(X)
    for _ in range(2):
        np.testing.assert_array_equal(clone(student).fit(X, y).predict_proba(X), plain)
        assert len(list(tmp_path.iterdir())) == 3  # two teachers, one student


# ---------------------------------------------------------------- all are frozen


@pytest.fixture
def elsewhere(X, y):
    """Stagers that were fitted on s0 and on s1."""
    own = [X.subject == name for name in ("s0", "s1")]
    return [stager(random_state=0).fit(X[rows].source_epochs, y[rows]) for rows in own]


def test_frozen_teachers_teach_without_a_label(X, elsewhere):
    mine = X[X.subject >= "s2"]
    together = TeacherEnsemble(elsewhere)
    together.teachers_ = elsewhere
    each = [FrozenEstimator(one) for one in elsewhere]
    params = {**BY_OUTPUT, "alpha": 1.0, "validation": ("s4",)}
    students = [
        DistilledSleepStager(given, **params).fit(mine)
        for given in (each, TeacherEnsemble(each), FrozenEstimator(together))
    ]
    assert students[0].classes_.tolist() == [0, 1, 2, 3, 4]
    assert same(students[0], students[1])
    assert same(students[0], students[2])
    assert "Fitted on: 6 subjects" in describe(students[0])
    for given in ([*each, stager()], [*each, PLAIN]):
        with pytest.raises(ValueError, match=r"FrozenEstimator\(teacher\), alpha=1"):
            DistilledSleepStager(given, **params).fit(mine)


def test_people_of_every_frozen_member_are_leaks(X, y, elsewhere):
    fits = X.subject >= "s3"
    one, two = (FrozenEstimator(each) for each in elsewhere)
    together = TeacherEnsemble([one, two])
    for given in ([one, two], together, FrozenEstimator(together), [one, stager(), two]):
        student = DistilledSleepStager(given, **BY_OUTPUT)
        for name in ("s0", "s1"):
            test = X.subject == name
            fitted = clone(student).fit(X[fits], y[fits])
            message = f"teacher was fitted on the subject {name}"
            with pytest.warns(LeakageWarning, match=message):
                fitted.score(X[test], y[test])
        student.fit(X[fits], y[fits]).predict(X[X.subject == "s2"])  # warnings are errors
        report = check_leakage(student, X, y, groups=X.subject, cv=GroupKFold(6))
        leaks = [name for f in report.findings if f.kind == "frozen" for name in f.what]
        assert sorted(leaks) == ["s0", "s1"]


# ---------------------------------------------------------------- parameters, mistakes


@pytest.mark.parametrize("kind", [list, TeacherEnsemble])
def test_parameters_of_members_have_their_numbers(kind):
    student = DistilledSleepStager(kind([stager(lr=0.1), stager()]), **BY_OUTPUT)
    assert student.get_params()["teacher__0__lr"] == 0.1
    assert "teacher__0__lr" not in student.get_params(deep=False)
    copy = clone(student).set_params(teacher__1__lr=0.5, teacher__0=PLAIN)
    assert copy.get_params()["teacher__1__lr"] == 0.5
    assert copy.get_params()["teacher__0__logisticregression__C"] == 1.0
    assert copy.get_params()["teacher__weighting"] == "mean"
    assert student.get_params()["teacher__1__lr"] == 1e-3
    again = pickle.loads(pickle.dumps(copy))
    assert again.get_params()["teacher__1__lr"] == 0.5
    assert "lr=0.1" in repr(student)
    copy.set_params(teacher__weighting="confidence")
    assert copy.teacher.weighting == "confidence"
    assert copy.teacher.teachers[1].lr == 0.5
    with pytest.raises(ValueError, match="Invalid parameter '2'"):
        student.set_params(teacher__2__lr=0.1)
    with pytest.raises(ValueError, match="cannot set parameters of the inner estimator"):
        student.set_params(teacher__0=frozen(1), teacher__0__classes=None)


def test_grids_over_members_and_weightings(X, y):
    grid = {"teacher__0__lr": [1e-4, 1e-2], "teacher__weighting": ["mean", "confidence"]}
    student = DistilledSleepStager([stager(), PLAIN], **BY_OUTPUT)
    search = GridSearchCV(student, grid, cv=GroupKFold(2), scoring="neg_log_loss")
    best = search.fit(X, y, groups=X.subject).best_estimator_
    assert best.teacher_.teachers_[0].lr == search.best_params_["teacher__0__lr"]
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert pickle.loads(pickle.dumps(best)).teacher_.classes_.tolist() == [0, 1, 2, 3, 4]


def test_a_list_in_the_place_of_a_teacher_and_back():
    student = DistilledSleepStager(stager(), **BY_OUTPUT)
    student.set_params(teacher=[stager(), stager()], teacher__1__lr=0.5)
    assert [one.lr for one in student.teacher] == [1e-3, 0.5]
    assert student.set_params(teacher=stager()).get_params()["teacher__lr"] == 1e-3


NEVER = SleepStager(NeverTiny, **FAST)
FIVE, FOUR = stager(classes="aasm"), stager(classes="wldr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_loss": "mse"}, "probabilities alone.*feature_loss=None, alpha=0.5"),
        ({"strategy": "two-step"}, "probabilities alone.*feature_loss=None, alpha=0.5"),
        ({"strategy": "online"}, "strategy='online' needs a teacher that is a SleepStager"),
        ({"start_from_teacher": True}, "start_from_teacher.* needs a teacher"),
        ({"module": None}, "module=None needs"),
        ({"teacher": []}, "list of at least one"),
        ({"teacher": TeacherEnsemble([NEVER], weighting="best")}, "weighting 'best'"),
        ({"teacher": [NEVER, "USleep"]}, r"given 'USleep'. Write teacher\[1\]=SleepStager"),
        ({"teacher": [NEVER, TeacherEnsemble(3)]}, "list of at least one.*given 3"),
        ({"classes": "aasm", "teacher": [NEVER, FOUR]}, "'wldr', the student's 'aasm'"),
        ({"teacher": [FIVE, FOUR]}, "schemes aasm, wldr, whose codes mean other stages"),
        ({"teacher": [NEVER, FrozenEstimator(stager())]}, "not fitted"),
    ],
)
def test_mistakes_are_found_before_a_teacher_is_fitted(pair, options, message):
    given = {"teacher": [NEVER, NEVER], **BY_OUTPUT, **options}
    with pytest.raises(ValueError, match=message):
        DistilledSleepStager(**given).fit(*pair)


def test_a_fitted_member_that_is_not_frozen(pair, elsewhere):
    with pytest.warns(UserWarning, match=r"teacher\[1\]=FrozenEstimator") as caught:
        DistilledSleepStager([stager(), elsewhere[0]], **BY_OUTPUT).fit(*pair)
    assert [warning.filename for warning in caught] == [__file__]
