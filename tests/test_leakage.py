import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
)
from sklearn.pipeline import make_pipeline
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    SleepStager,
    load,
    save,
)
from skleepkd.leakage import _digests
from skleepkd.model_selection import check_leakage
from skleepkd.preprocessing import EpochScaler
from tests.tiny import TinyNetwork, TinySequenceNetwork, make_pair

FAST = {"max_epochs": 1, "device": "cpu", "random_state": 0}
TEACHER = SleepStager(TinyNetwork, classes="aasm", **FAST)
DUMMY = DummyClassifier()


class ByPower(ClassifierMixin, BaseEstimator):
    """Logistic regression on an epoch's power; a basis for the ways to leak below."""

    def __init__(self, extra=None, memory=None):
        self.extra = extra
        self.memory = memory

    def power(self, X):
        return np.log(np.square(np.asarray(X)).mean(axis=2) + 1)

    def beside(self, X, **given):
        """Scale by what the fit takes besides the rows it is given; here by nothing."""
        return 1.0

    def fit(self, X, y, **given):
        self.scale_ = self.beside(X, **given)
        self.model_ = LogisticRegression(max_iter=1000)
        self.model_.fit(self.power(X) / self.scale_, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(self.power(X) / self.scale_)

    def predict(self, X):
        return self.model_.predict(self.power(X) / self.scale_)


class ByBase(ByPower):
    """Scales by the base array of the view that it is given."""

    def beside(self, X):
        return self.power(X._signals["target"].base).mean()


class ByParameter(ByPower):
    """Holds the whole cohort, or an array with a row for each of its rows."""

    def beside(self, X):
        return self.power(self.extra).mean()


class ByArgument(ByPower):
    def beside(self, X, cohort):
        return self.power(cohort["X"]).mean()


class ByChance(ByPower):
    def beside(self, X):
        return 1 + np.random.random()  # noqa: NPY002 (the global state is the point)


def one_fold(X, *tested):
    """Split by person, once, the tested ones last."""
    return [(np.flatnonzero(~np.isin(X.subject, tested)), rows_of(X, *tested))]


def rows_of(X, *people):
    return np.flatnonzero(np.isin(X.subject, people))


def kinds(report):
    return [found.kind for found in report.findings]


def only(report):
    (found,) = report.findings
    return found


def says(report, words):
    return [blind for blind in report.cannot_see if words in blind]


# ---------------------------------------------------------------- both sides of a split


def test_a_clean_study_is_ok(pair):
    X, y = pair
    student = DistilledSleepStager(TEACHER, **FAST)
    report = check_leakage(student, X, y, groups=X.subject, cv=GroupKFold(3))
    assert report.ok
    assert report.findings == []
    assert report.n_folds == 3
    report.raise_if_found()
    assert str(report).startswith("No leakage found.\nCannot see:\n- whether a fit in the ")
    assert says(report, "before X was made")
    assert says(report, "chosen by their test scores")


def test_people_and_recordings_on_both_sides(pair):
    X, y = pair
    report = check_leakage(DUMMY, X, y, cv=KFold(4), refit=0)
    # Six people of 24 epochs in folds of 36: each fold has one whole person and a half.
    assert kinds(report) == ["subject", "recording"] * 4
    whom = [found.what for found in report.findings if found.kind == "subject"]
    assert whom == [["s1"], ["s1"], ["s4"], ["s4"]]
    found = report.findings[0]
    assert (found.fold, found.where, found.count) == (0, "", 12)
    np.testing.assert_array_equal(found.rows, np.arange(24, 36))
    assert report.findings[1].what == ["night-s1"]
    assert "both sides of the split (folds 0, 1, 2, 3; 48 epochs; s1, s4)" in str(report)
    with pytest.raises(ValueError, match="A person is on both sides"):
        report.raise_if_found()
    with pytest.raises(TypeError, match=r"report\.ok"):
        bool(report)


def test_two_nights_of_one_person(pair):
    X, y = pair
    person = np.where(np.isin(X.subject, ["s0", "s1"]), "same", X.subject)
    X = X.with_subject(person)
    by_night = {"groups": X.recording, "cv": LeaveOneGroupOut(), "refit": 0}
    report = check_leakage(DUMMY, X, y, **by_night)
    assert kinds(report) == ["subject", "subject"]
    assert [found.fold for found in report.findings] == [0, 1]
    assert report.findings[0].what == ["same"]
    # The nights' names are all that an array has.
    report = check_leakage(DUMMY, X["target"], y, **by_night)
    assert report.ok
    assert says(report, "recordings: not known")


def test_groups_where_x_knows_nobody(pair):
    X, y = pair
    array = X["target"]
    report = check_leakage(DUMMY, array, y, cv=KFold(4), refit=0)
    assert not report.ok
    assert kinds(report) == ["unknown people"] * 4
    assert str(report).startswith("Leakage cannot be ruled out:\n- Nothing says whose")
    assert "(folds 0, 1, 2, 3; 144 epochs)" in str(report)
    with pytest.raises(ValueError, match=r"groups=, or a PairedEpochs with subject="):
        report.raise_if_found()
    half = np.arange(144) % 2
    cv = [(half.nonzero()[0], (1 - half).nonzero()[0])]
    report = check_leakage(DUMMY, array, y, groups=X.subject, cv=cv, refit=0)
    assert kinds(report) == ["subject"]
    assert only(report).count == 72
    assert str(report).startswith("Leakage found:")


def test_groups_that_are_missing(pair):
    X, y = pair
    given = {"cv": LeaveOneGroupOut(), "refit": 0}
    with pytest.raises(ValueError, match=r"LeaveOneGroupOut .* groups=X\.subject"):
        check_leakage(DUMMY, X, y, **given)
    with pytest.raises(ValueError, match="groups=the person of each epoch"):
        check_leakage(DUMMY, X["target"], y, **given)
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match=r"params=\{'groups': X\.subject\}"),
    ):
        check_leakage(DUMMY, X, y, **given)
    with pytest.raises(ValueError, match="n_splits=200"):
        check_leakage(DUMMY, X, y, cv=KFold(200), refit=0)


def test_groups_that_are_others_than_the_subjects(pair):
    X, y = pair
    site = np.where(X.subject < "s3", "here", "there")
    report = check_leakage(DUMMY, X, y, groups=site, cv=one_fold(X, "s5"), refit=0)
    assert kinds(report) == ["groups"]
    assert only(report).what == ["there"]


def test_folds_by_masks_and_by_routed_groups(pair):
    X, y = pair
    mask = X.subject == "s5"
    assert check_leakage(DUMMY, X, y, cv=[(~mask, mask)], refit=0).ok
    mask[0] = True
    report = check_leakage(DUMMY, X, y, cv=[(~mask, mask)], refit=0)
    assert report.findings[0].what == ["s0"]
    assert report.findings[0].rows.tolist() == [0]
    with config_context(enable_metadata_routing=True):
        params = {"groups": X.subject}
        cv = GroupKFold(3)
        assert check_leakage(TEACHER, X["target"], y, params=params, cv=cv).ok
        with pytest.raises(ValueError, match="groups go into params"):
            check_leakage(TEACHER, X, y, groups=X.subject, cv=cv)


# ---------------------------------------------------------------- frozen estimators


def frozen_on(X, y, *people):
    rows = rows_of(X, *people)
    return FrozenEstimator(clone(TEACHER).fit(X[rows].source_epochs, y[rows]))


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda frozen: DistilledSleepStager(frozen, **FAST), "teacher"),
        (lambda frozen: FineTunedSleepStager(frozen, **FAST), "pretrained"),
        (
            lambda frozen: make_pipeline(
                EpochScaler(), DistilledSleepStager(frozen, **FAST)
            ),
            "distilledsleepstager__teacher",
        ),
        (
            lambda frozen: GridSearchCV(
                DistilledSleepStager(frozen, **FAST), {"lr": [0.1]}, cv=GroupKFold(2)
            ),
            "estimator__teacher",
        ),
        (lambda frozen: frozen, "the estimator"),
        (
            lambda frozen: DistilledSleepStager(
                FineTunedSleepStager(frozen, **FAST), **FAST
            ),
            "teacher__pretrained",
        ),
    ],
)
def test_frozen_wherever_it_is(pair, wrap, where):
    X, y = pair
    cv = {"groups": X.subject, "cv": LeaveOneGroupOut(), "refit": 0}
    report = check_leakage(wrap(frozen_on(X, y, "s1", "s4")), X, y, **cv)
    assert kinds(report) == ["frozen", "frozen"]
    assert [(found.fold, found.what) for found in report.findings] == [
        (1, ["s1"]),
        (4, ["s4"]),
    ]
    assert {found.where for found in report.findings} == {where}
    np.testing.assert_array_equal(report.findings[0].rows, rows_of(X, "s1"))
    assert f"{where} is frozen, and was fitted on what is tested" in str(report)


def test_frozen_on_others_is_clean(pair):
    X, y = pair
    student = DistilledSleepStager(frozen_on(X, y, "s0", "s1"), **FAST)
    report = check_leakage(student, X, y, cv=one_fold(X, "s2", "s3"), refit=0)
    assert report.ok
    assert not says(report, "was fitted on: this")


def test_frozen_in_a_grid_and_in_a_chain(pair):
    X, y = pair
    cv = one_fold(X, "s0")
    grid = {"teacher": [frozen_on(X, y, "s1"), frozen_on(X, y, "s0")]}
    search = GridSearchCV(DistilledSleepStager(TEACHER, **FAST), grid, cv=GroupKFold(2))
    assert only(check_leakage(search, X, y, cv=cv, refit=0)).where == "param_grid__teacher"
    rows = rows_of(X, "s2")
    second = FineTunedSleepStager(frozen_on(X, y, "s0"), **FAST).fit(X[rows], y[rows])
    student = DistilledSleepStager(FrozenEstimator(second), **FAST)
    report = check_leakage(student, X, y, cv=cv, refit=0)
    assert [(found.where, found.what) for found in report.findings] == [
        ("teacher", ["s0"]),
        ("teacher__pretrained", ["s0"]),
    ]


def test_frozen_from_a_file(pair, tmp_path):
    X, y = pair
    rows = rows_of(X, "s2")
    second = FineTunedSleepStager(frozen_on(X, y, "s0"), **FAST).fit(X[rows], y[rows])
    save(second, tmp_path / "kept.safetensors")
    loaded = load(tmp_path / "kept.safetensors", module=TinyNetwork)
    for tested in ("s0", "s2"):
        student = FineTunedSleepStager(FrozenEstimator(loaded), **FAST)
        report = check_leakage(student, X, y, cv=one_fold(X, tested), refit=0)
        assert only(report).what == [tested]


def test_frozen_known_by_its_recordings_alone(pair):
    X, y = pair
    rows = rows_of(X, "s3")
    source = PairedEpochs(X["source"], recording=X.recording)
    frozen = FrozenEstimator(clone(TEACHER).fit(source[rows], y[rows]))
    student = DistilledSleepStager(frozen, **FAST)
    report = check_leakage(student, X, y, cv=one_fold(X, "s3"), refit=0)
    assert only(report).what == ["night-s3"]
    assert says(report, "whom teacher was fitted on: this frozen SleepStager does not know")


def test_frozen_that_does_not_know_its_people(pair):
    X, y = pair
    frozen = FrozenEstimator(ByPower().fit(X["source"], y))
    student = DistilledSleepStager(
        frozen, TinyNetwork, feature_loss=None, alpha=0.5, **FAST
    )
    report = check_leakage(student, X, y, cv=one_fold(X, "s3"), refit=0)
    assert report.ok
    assert says(report, "whom teacher was fitted on: this frozen ByPower does not know")


# ---------------------------------------------------------------- equal rows


def copied_epoch(modality, **changes):
    """The tiny pair, an epoch of s5 being one of s0's, in one modality."""
    X, y = make_pair(**changes)
    values = X[modality].copy()
    values[-1] = values[3]
    return X.replace(**{modality: values}), y


@pytest.mark.parametrize("modality", ["target", "source"])
def test_an_epoch_on_both_sides(modality, tmp_path):
    X, y = copied_epoch(modality)
    for given in (X, X.to_memmap(tmp_path / "pair")):
        report = check_leakage(DUMMY, given, y, cv=one_fold(X, "s5"), refit=0)
        found = only(report)
        assert (found.kind, found.where, found.count) == ("identical", modality, 1)
        assert found.rows.tolist() == [len(X) - 1]
    # Both in one fold's test set, or both among the training rows: nothing is wrong.
    for tested in (["s0", "s5"], ["s2"]):
        assert check_leakage(DUMMY, X, y, cv=one_fold(X, *tested), refit=0).ok
    # As source of a bare array.
    given = {"params": {"X_source": X["source"]}, "cv": one_fold(X, "s5"), "refit": 0}
    found = only(check_leakage(DUMMY, X["target"], y, groups=X.subject, **given))
    assert found.where == modality


def test_flat_epochs_are_no_copies():
    X, y = make_pair()
    values = X["target"].copy()
    values[[0, 30, 140]] = 0.0
    values[[1, 141], 1] = 7.0  # one channel is flat, the other is not
    X = X.replace(target=values)
    assert check_leakage(DUMMY, X, y, cv=one_fold(X, "s5"), refit=0).ok
    values[141, 0] = values[1, 0]
    X = X.replace(target=values)
    found = only(check_leakage(DUMMY, X, y, cv=one_fold(X, "s5"), refit=0))
    assert found.rows.tolist() == [141]


def test_rows_are_read_in_blocks(monkeypatch):
    X, _ = make_pair(n_subjects=2)
    whole = _digests(X, "source")
    row_bytes = X["source"][:1].nbytes
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", 5 * row_bytes)
    assert len(list(X.blocks("source"))) == 10
    order = np.random.default_rng(0).permutation(len(X))
    for one, other in zip(whole, _digests(X[order], "source"), strict=True):
        np.testing.assert_array_equal(one[order], other)


# ---------------------------------------------------------------- fits


def changed(estimator, X, y, **given):
    people = make_pair()[0]
    given = {"cv": one_fold(people, "s5"), "groups": people.subject, **given}
    return kinds(check_leakage(estimator, X, y, **given)) == ["refit"]


def test_fits_that_look_beyond_their_rows(pair):
    X, y = pair
    report = check_leakage(ByBase(), X, y, groups=X.subject, cv=GroupKFold(3), refit=2)
    assert kinds(report) == ["refit", "refit"]
    train, _ = next(GroupKFold(3).split(X, y, X.subject))
    found = report.findings[0]
    assert set(found.rows) <= set(train)
    assert found.count > len(train) / 2
    assert "depends on rows that it was not given" in str(report)
    assert says(report, "the other 1 of 3 folds")
    assert not changed(ByPower(), X, y)
    assert not changed(ByPower(), X["target"], y)


def test_fits_that_hold_the_cohort(pair):
    X, y = pair
    assert changed(ByParameter(extra=X), X, y)
    assert changed(ByParameter(extra=X["source"]), X, y)  # as precomputed answers are
    assert changed(make_pipeline(EpochScaler(), ByParameter(extra=X)), X, y)
    assert not changed(ByParameter(extra=X["target"][:50]), X, y)  # of no row of X
    assert changed(ByArgument(), X, y, params={"cohort": {"X": X["target"]}})


def test_large_copies_go_to_a_temporary_map(pair, monkeypatch):
    X, y = pair
    monkeypatch.setattr("skleepkd._refits.ANSWERS_IN_MEMORY", 1000)
    assert changed(ByBase(), X, y)
    assert not changed(TEACHER, X, y)


@pytest.mark.parametrize(
    "stager",
    [
        TEACHER,
        DistilledSleepStager(TEACHER, **FAST),
        DistilledSleepStager(TEACHER, max_epochs=1, device="cpu", strategy="online"),
        FineTunedSleepStager(SleepStager(TinyNetwork, max_epochs=1), max_epochs=1),
        SleepStager(TinySequenceNetwork, sequence_length=4, **FAST),
        make_pipeline(EpochScaler(), TEACHER),
    ],
    ids=["supervised", "offline", "online", "finetuned", "sequences", "pipeline"],
)
def test_stagers_do_not_look_beyond_their_rows(pair, stager):
    """A random_state of None is given one, so that fits compare."""
    X, y = pair
    report = check_leakage(stager, X, y, cv=one_fold(X, "s5"))
    assert report.ok
    assert not says(report, "differ already")


def test_plain_arrays_with_routing_and_without(pair):
    X, y = pair
    student = DistilledSleepStager(TEACHER, **FAST)
    params = {"X_source": X["source"], "groups": X.subject}
    given = {"cv": GroupKFold(3), "params": params}
    reports = [check_leakage(student, X["target"], y, groups=X.subject, **given)]
    with config_context(enable_metadata_routing=True):
        reports.append(check_leakage(student, X["target"], y, **given))
    for report in reports:
        assert report.ok
        assert len(says(report, "depends on their test rows")) == 1


def test_the_given_estimator_and_data_stay_as_they_are(pair):
    X, y = pair
    before, labels = X["target"].copy(), y.copy()
    estimator = ByParameter(extra=X)
    assert changed(estimator, X, y)
    assert estimator.extra is X
    assert not hasattr(estimator, "model_")
    np.testing.assert_array_equal(X["target"], before)
    np.testing.assert_array_equal(y, labels)


def test_fits_that_differ_by_themselves(pair):
    X, y = pair
    report = check_leakage(ByChance(), X, y, cv=one_fold(X, "s5"))
    assert report.ok
    assert says(report, "two fits to the same rows differ already")


def test_caches_are_left_out(pair, tmp_path):
    X, y = pair
    student = DistilledSleepStager(
        TEACHER, memory=str(tmp_path / "teachers"), checkpoint=tmp_path / "passes", **FAST
    )
    report = check_leakage(student, X, y, cv=one_fold(X, "s5"))
    assert report.ok
    assert says(report, "memory= and checkpoint=")
    assert not list(tmp_path.iterdir())


def test_without_stages_nothing_is_fitted(pair):
    X, _ = pair
    report = check_leakage(ByBase(), X, cv=one_fold(X, "s5"))
    assert report.ok
    assert says(report, "y is needed")


# ---------------------------------------------------------------- inner splits


def test_inner_splits_that_part_people_from_themselves(pair):
    X, y = pair
    cv = {"cv": one_fold(X, "s5"), "refit": 0}
    stager = SleepStager(TinyNetwork, train_split=ValidSplit(4), **FAST)
    found = only(check_leakage(make_pipeline(stager), X, y, **cv))
    assert (found.kind, found.where) == ("inner split", "sleepstager__train_split")
    # A quarter of 120 rows, the first: all of s0, and a part of s1.
    assert (found.what, found.count) == (["s1"], 6)
    found = only(check_leakage(GridSearchCV(DUMMY, {}, cv=KFold(3)), X, y, **cv))
    # Folds of 40 rows: s1 is parted as 16 and 8, s3 as 8 and 16.
    assert (found.where, found.what, found.count) == ("cv", ["s1", "s3"], 48)
    assert only(check_leakage(GridSearchCV(DUMMY, {}), X, y, **cv)).where == "cv"
    assert only(check_leakage(CalibratedClassifierCV(DUMMY), X, y, **cv)).where == "cv"


def test_inner_splits_by_people_are_clean(pair):
    X, y = pair
    cv = {"cv": one_fold(X, "s5"), "refit": 0}
    assert check_leakage(GridSearchCV(DUMMY, {}, cv=GroupKFold(2)), X, y, **cv).ok
    # Where people are held out, skorch's own split is not asked.
    stager = SleepStager(TinyNetwork, train_split=ValidSplit(4), validation=2, **FAST)
    assert check_leakage(stager, X, y, **cv).ok
    calibrated = CalibratedClassifierCV(frozen_on(X, y, "s0"))
    assert check_leakage(calibrated, X, y, **cv).ok
    stack = StackingClassifier([("dummy", DUMMY)], cv="prefit")
    assert check_leakage(stack, X, y, **cv).ok


def test_a_validation_set_that_does_not_tell_its_rows(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, train_split=predefined_split(object()), **FAST)
    report = check_leakage(stager, X, y, cv=one_fold(X, "s5"), refit=0)
    assert report.ok
    assert says(report, "whom train_split parts from whom")


def test_rows_on_both_sides_where_nobody_is_known(pair):
    X, y = pair
    folds = [(np.arange(100), np.arange(90, 120)), (np.arange(90), np.arange(90, 120))]
    report = check_leakage(DUMMY, X["target"], y, cv=folds, refit=0)
    assert kinds(report) == ["unknown people", "row", "unknown people"]
    found = report.findings[1]
    assert (found.fold, found.count) == (0, 10)
    assert found.rows.tolist() == [*range(90, 100)]


def test_frozen_that_knows_people_by_other_names(pair):
    X, y = pair
    numbers = np.array([int(name[1:]) for name in X.subject])
    teacher = FrozenEstimator(clone(TEACHER).fit(X["target"], y, groups=X.subject))
    cv = {"cv": LeaveOneGroupOut(), "refit": 0}
    report = check_leakage(teacher, X["target"], y, groups=numbers, **cv)
    assert says(report, "there a subject is called 's0', here 0")
    assert kinds(check_leakage(teacher, X["target"], y, groups=X.subject, **cv)) == [
        "frozen"
    ] * len(np.unique(numbers))


def test_folds_that_are_drawn_anew(pair):
    X, y = pair
    for seed, told in ((None, 1), (np.random.RandomState(0), 1), (0, 0)):
        cv = GroupShuffleSplit(3, random_state=seed)
        report = check_leakage(DUMMY, X, y, groups=X.subject, cv=cv, refit=0)
        assert report.ok
        assert len(says(report, "cv draws others each time")) == told


def test_unscored_rows_are_no_obstacle(pair):
    X, y = pair
    y = y.copy()
    y[::7] = -1
    search = GridSearchCV(TEACHER, {"lr": [0.01]}, cv=GroupKFold(2))
    assert check_leakage(search, X, y, cv=one_fold(X, "s5"), refit=0).ok
    # A search is given them too, and splits them: s4 chooses, whom it has not learned from.
    rows = np.arange(len(rows_of(X, "s0", "s1", "s2", "s3", "s4")))
    split = [(rows[X.subject[rows] != "s4"], rows[X.subject[rows] == "s4"])]
    search = GridSearchCV(TEACHER, {"lr": [0.01]}, cv=split)
    assert check_leakage(search, X, y, cv=one_fold(X, "s5"), refit=0).ok
    assert check_leakage(TEACHER, X, y, cv=one_fold(X, "s5")).ok
