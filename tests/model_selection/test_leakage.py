import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    cross_validate,
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
from skleepkd.model_selection import check_leakage
from skleepkd.preprocessing import EpochScaler
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, make_pair

TEACHER = SleepStager(TinyNetwork, classes="aasm", **FAST)
DUMMY = DummyClassifier()


def student(teacher=TEACHER, *args, **params):
    return DistilledSleepStager(teacher, *args, **FAST, **params)


def tuned(pretrained):
    return FineTunedSleepStager(pretrained, **FAST)


def rows_of(X, *subjects):
    return np.flatnonzero(np.isin(X.subject, subjects))


def one_fold(X, *tested):
    """Split by subject, once."""
    return [(np.flatnonzero(~np.isin(X.subject, tested)), rows_of(X, *tested))]


def kinds(report):
    return [found.kind for found in report.findings]


def only(report):
    (found,) = report.findings
    return found


def mentions(report, words):
    return [blind for blind in report.cannot_see if words in blind]


# ---------------------------------------------------------------- both sides of a split


def test_a_clean_study_is_ok(pair):
    X, y = pair
    report = check_leakage(student(), X, y, groups=X.subject, cv=GroupKFold(3))
    assert report.ok
    assert report.findings == []
    assert report.n_folds == 3
    report.raise_if_found()
    assert str(report).startswith("No leakage found.\nCannot see:\n- what was done to all")
    assert mentions(report, "before X was made")
    assert mentions(report, "chosen by their test scores")


def test_subjects_and_recordings_on_both_sides(pair):
    X, y = pair
    report = check_leakage(DUMMY, X, y, cv=KFold(4))
    # Six subjects of 24 epochs in folds of 36: each fold has one whole subject and a half.
    assert kinds(report) == ["subject", "recording"] * 4
    whom = [found.what for found in report.findings if found.kind == "subject"]
    assert whom == [["s1"], ["s1"], ["s4"], ["s4"]]
    found = report.findings[0]
    assert (found.fold, found.where, found.count) == (0, "", 12)
    np.testing.assert_array_equal(found.rows, np.arange(24, 36))
    assert report.findings[1].what == ["night-s1"]
    assert "both sides of the split (folds 0, 1, 2, 3; 48 epochs; s1, s4)" in str(report)
    with pytest.raises(ValueError, match="A subject is on both sides"):
        report.raise_if_found()
    with pytest.raises(TypeError, match=r"report\.ok"):
        bool(report)


def test_two_nights_of_one_subject(pair):
    X, y = pair
    subject = np.where(np.isin(X.subject, ["s0", "s1"]), "same", X.subject)
    by_night = {"groups": X.recording, "cv": LeaveOneGroupOut()}
    report = check_leakage(DUMMY, X.with_subject(subject), y, **by_night)
    assert kinds(report) == ["subject", "subject"]
    assert [found.fold for found in report.findings] == [0, 1]
    assert report.findings[0].what == ["same"]
    # The nights' names are all that an array has.
    report = check_leakage(DUMMY, X["target"], y, **by_night)
    assert report.ok
    assert mentions(report, "recordings: not known")


def test_groups_where_x_has_no_subjects(pair):
    X, y = pair
    report = check_leakage(DUMMY, X["target"], y, cv=KFold(4))
    assert not report.ok
    assert kinds(report) == ["unknown subjects"] * 4
    assert str(report).startswith("Leakage cannot be ruled out:\n- Nothing says whose")
    assert "(folds 0, 1, 2, 3; 144 epochs)" in str(report)
    with pytest.raises(ValueError, match=r"groups=, or a PairedEpochs with subject="):
        report.raise_if_found()
    half = np.arange(144) % 2
    cv = [(half.nonzero()[0], (1 - half).nonzero()[0])]
    report = check_leakage(DUMMY, X["target"], y, groups=X.subject, cv=cv)
    assert kinds(report) == ["subject"]
    assert only(report).count == 72
    assert str(report).startswith("Leakage found:")
    # Rows on both sides are found without them.
    cv = [(np.arange(100), np.arange(90, 120)), (np.arange(90), np.arange(90, 120))]
    report = check_leakage(DUMMY, X["target"], y, cv=cv)
    assert kinds(report) == ["unknown subjects", "row", "identical", "unknown subjects"]
    found = report.findings[1]
    assert (found.fold, found.rows.tolist()) == (0, [*range(90, 100)])


def test_groups_that_are_missing(pair):
    for routing in (False, True):
        with (
            config_context(enable_metadata_routing=routing),
            pytest.raises(ValueError, match="'groups' parameter should not be None"),
        ):
            check_leakage(DUMMY, *pair, cv=LeaveOneGroupOut())
    with pytest.raises(ValueError, match="n_splits=200"):
        check_leakage(DUMMY, *pair, cv=KFold(200))


def test_groups_that_are_others_than_the_subjects(pair):
    X, y = pair
    site = np.where(X.subject < "s3", "here", "there")
    found = only(check_leakage(DUMMY, X, y, groups=site, cv=one_fold(X, "s5")))
    assert (found.kind, found.what) == ("groups", ["there"])


def test_folds_by_masks_and_by_routed_groups(pair):
    X, y = pair
    mask = X.subject == "s5"
    assert check_leakage(DUMMY, X, y, cv=[(~mask, mask)]).ok
    mask[0] = True
    found = check_leakage(DUMMY, X, y, cv=[(~mask, mask)]).findings[0]
    assert (found.what, found.rows.tolist()) == (["s0"], [0])
    given = {"params": {"groups": X.subject}, "cv": GroupKFold(3)}
    with config_context(enable_metadata_routing=True):
        assert check_leakage(TEACHER, X["target"], y, **given).ok
        with pytest.raises(ValueError, match="groups go into params"):
            check_leakage(TEACHER, X, y, groups=X.subject, cv=GroupKFold(3))


# ---------------------------------------------------------------- frozen estimators


def frozen_on(X, y, *subjects):
    rows = rows_of(X, *subjects)
    return FrozenEstimator(clone(TEACHER).fit(X[rows].source_epochs, y[rows]))


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (student, "teacher"),
        (tuned, "pretrained"),
        (
            lambda frozen: make_pipeline(EpochScaler(), student(frozen)),
            "distilledsleepstager__teacher",
        ),
        (
            lambda frozen: GridSearchCV(student(frozen), {"lr": [0.1]}, cv=GroupKFold(2)),
            "estimator__teacher",
        ),
        (lambda frozen: frozen, "the estimator"),
        (lambda frozen: student(tuned(frozen)), "teacher__pretrained"),
    ],
)
def test_frozen_wherever_it_is(pair, wrap, where):
    X, y = pair
    cv = {"groups": X.subject, "cv": LeaveOneGroupOut()}
    report = check_leakage(wrap(frozen_on(X, y, "s1", "s4")), X, y, **cv)
    found = [(found.kind, found.where, found.fold, found.what) for found in report.findings]
    assert found == [("frozen", where, 1, ["s1"]), ("frozen", where, 4, ["s4"])]
    np.testing.assert_array_equal(report.findings[0].rows, rows_of(X, "s1"))
    assert f"{where} is frozen, and was fitted on what is tested" in str(report)


def test_rows_that_several_frozen_teachers_saw_are_counted_once(pair):
    X, y = pair
    teachers = [frozen_on(X, y, "s1"), frozen_on(X, y, "s1", "s4")]
    report = check_leakage(student(teachers), X, y, cv=one_fold(X, "s1"))
    assert len(report.findings) == 2
    assert f"(folds 0; {len(rows_of(X, 's1'))} epochs; s1)" in str(report)


def test_frozen_on_others_is_clean(pair):
    X, y = pair
    given = student(frozen_on(X, y, "s0", "s1"))
    report = check_leakage(given, X, y, cv=one_fold(X, "s2", "s3"))
    assert report.ok
    assert not mentions(report, "was fitted on: this")


def test_frozen_in_a_grid_in_a_chain_and_from_a_file(pair, tmp_path):
    X, y = pair
    cv, rows = one_fold(X, "s0"), rows_of(X, "s2")
    first = frozen_on(X, y, "s0")
    grid = {"teacher": [frozen_on(X, y, "s1"), first]}
    search = GridSearchCV(student(), grid, cv=GroupKFold(2))
    assert only(check_leakage(search, X, y, cv=cv)).where == "param_grid__teacher"
    second = tuned(first).fit(X[rows], y[rows])
    report = check_leakage(student(FrozenEstimator(second)), X, y, cv=cv)
    assert [(found.where, found.what) for found in report.findings] == [
        ("teacher", ["s0"]),
        ("teacher__pretrained", ["s0"]),
    ]
    save(second, tmp_path / "kept.safetensors")
    loaded = load(tmp_path / "kept.safetensors", module=TinyNetwork)
    for tested in ("s0", "s2"):
        given = tuned(FrozenEstimator(loaded))
        report = check_leakage(given, X, y, cv=one_fold(X, tested))
        assert only(report).what == [tested]


def test_frozen_that_does_not_know_its_subjects(pair):
    X, y = pair
    cv, rows = one_fold(X, "s3"), rows_of(X, "s3")
    message = "whom teacher was fitted on: this frozen {} does not know"
    source = PairedEpochs(X["source"], recording=X.recording)
    by_recording = FrozenEstimator(clone(TEACHER).fit(source[rows], y[rows]))
    report = check_leakage(student(by_recording), X, y, cv=cv)
    assert only(report).what == ["night-s3"]
    assert mentions(report, message.format("SleepStager"))
    plain = FrozenEstimator(clone(DUMMY).fit(X["source"], y))
    given = student(plain, TinyNetwork, feature_loss=None, alpha=0.5)
    report = check_leakage(given, X, y, cv=cv)
    assert report.ok
    assert mentions(report, message.format("DummyClassifier"))


def test_frozen_that_knows_subjects_by_other_names(pair):
    X, y = pair
    numbers = np.array([int(name[1:]) for name in X.subject])
    teacher = FrozenEstimator(clone(TEACHER).fit(X["target"], y, groups=X.subject))
    by_number, by_name = (
        check_leakage(teacher, X["target"], y, groups=groups, cv=LeaveOneGroupOut())
        for groups in (numbers, X.subject)
    )
    assert mentions(by_number, "there a subject is called 's0', here 0")
    assert kinds(by_name) == ["frozen"] * 6


# ---------------------------------------------------------------- equal rows


def copied_epoch(modality):
    """The tiny pair, an epoch of s5 being one of s0's, in one modality."""
    X, y = make_pair()
    values = X[modality].copy()
    values[-1] = values[3]
    return X.replace(**{modality: values}), y


@pytest.mark.parametrize("modality", ["target", "source"])
def test_an_epoch_on_both_sides(modality, tmp_path):
    X, y = copied_epoch(modality)
    for given in (X, X.to_memmap(tmp_path / "pair")):
        found = only(check_leakage(DUMMY, given, y, cv=one_fold(X, "s5")))
        assert (found.kind, found.where, found.count) == ("identical", modality, 1)
        assert found.rows.tolist() == [len(X) - 1]
    # Both in one fold's test set, or both among the training rows: nothing is wrong.
    for tested in (["s0", "s5"], ["s2"]):
        assert check_leakage(DUMMY, X, y, cv=one_fold(X, *tested)).ok
    # As source of a bare array.
    given = {"params": {"X_source": X["source"]}, "cv": one_fold(X, "s5")}
    found = only(check_leakage(DUMMY, X["target"], y, groups=X.subject, **given))
    assert found.where == modality


def test_flat_epochs_are_no_copies():
    X, y = make_pair()
    values, cv = X["target"].copy(), one_fold(X, "s5")
    values[[0, 30, 140]] = 0.0
    values[[1, 141], 1] = 7.0  # one channel is flat, the other is not
    assert check_leakage(DUMMY, X.replace(target=values), y, cv=cv).ok
    values[141, 0] = values[1, 0]
    found = only(check_leakage(DUMMY, X.replace(target=values), y, cv=cv))
    assert found.rows.tolist() == [141]


def test_counts_of_movement_are_alike_by_chance():
    """Of 30 values a second, most are 0; a night of sleep has the same few patterns."""
    X, y = make_pair()
    counts = np.random.default_rng(0).random((len(X), 1, 30)) < 0.05
    report = check_leakage(
        DUMMY, X.replace(target=counts.astype(float)), y, cv=one_fold(X, "s5")
    )
    assert report.ok
    assert len(np.unique(counts, axis=0)) < len(X)


def test_rows_are_read_in_blocks(monkeypatch):
    X, y = copied_epoch("source")
    monkeypatch.setattr("skleepkd.epochs.rows.BLOCK_BYTES", 5 * X["source"][:1].nbytes)
    assert len(list(X.blocks("source"))) == 29
    order = np.random.default_rng(0).permutation(len(X))
    for rows in (np.arange(len(X)), order):
        found = only(check_leakage(DUMMY, X[rows], y[rows], cv=one_fold(X[rows], "s5")))
        assert rows[found.rows].tolist() == [len(X) - 1]


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize(
    ("stager", "arrays"),
    [
        (TEACHER, False),
        (student(), False),
        (student(), True),
        (student(strategy="online"), False),
        (student(strategy="two-step"), False),
        (tuned(TEACHER), False),
        (SleepStager(TinySequenceNetwork, sequence_length=4, **FAST), False),
        (make_pipeline(EpochScaler(), TEACHER), False),
    ],
)
def test_stagers_do_not_look_past_their_fold(pair, stager, arrays):
    """A fold is fitted twice, once with noise in all rows that are not its own."""
    X, y = pair
    cv = one_fold(X, "s4", "s5")
    (train, others), rng = cv[0], np.random.default_rng(0)

    def predicted(X, y):
        # A view of the pair, whose base holds the other rows too.
        given = {"X": X, "y": y, "cv": cv, "return_estimator": True}
        if arrays:  # the source is of full length where it is given in params
            params = {"X_source": X["source"], "groups": X.subject}
            given |= {"X": X["target"], "params": params}
        return cross_validate(stager, **given)["estimator"][0].predict_proba(X[train])

    expected = predicted(X, y)
    noisy = {name: X[name].copy() for name in ("target", "source")}
    for values in noisy.values():
        values[others] = 100 + 50 * rng.standard_normal(values[others].shape)
    y = y.copy()
    y[others] = rng.permutation(y[others])
    np.testing.assert_array_equal(predicted(X.replace(**noisy), y), expected)


# ---------------------------------------------------------------- inner splits


@pytest.mark.parametrize(
    ("estimator", "where", "what", "count"),
    [
        # A quarter of 120 rows, the first: all of s0, and a part of s1.
        (
            make_pipeline(SleepStager(TinyNetwork, train_split=ValidSplit(4), **FAST)),
            *("sleepstager__train_split", ["s1"], 6),
        ),
        # Folds of 40 rows: s1 is parted as 16 and 8, s3 as 8 and 16.
        (GridSearchCV(DUMMY, {}, cv=KFold(3)), "cv", ["s1", "s3"], 48),
        (GridSearchCV(DUMMY, {}), "cv", None, None),
        (CalibratedClassifierCV(DUMMY), "cv", None, None),
    ],
)
def test_inner_splits_that_part_subjects(pair, estimator, where, what, count):
    found = only(check_leakage(estimator, *pair, cv=one_fold(pair[0], "s5")))
    assert (found.kind, found.where) == ("inner split", where)
    assert what is None or (found.what, found.count) == (what, count)


def test_inner_splits_by_subject_are_clean(pair):
    X, y = pair
    y = np.where(np.arange(len(y)) % 7, y, -1)  # unscored rows are no obstacle
    # A search splits them too: s4 chooses, whom it has not learned from.
    rows = rows_of(X, "s0", "s1", "s2", "s3", "s4")
    split = [(rows[X.subject[rows] != "s4"], rows[X.subject[rows] == "s4"])]
    grid = {"lr": [0.01]}
    for estimator in (
        TEACHER,
        GridSearchCV(DUMMY, {}, cv=GroupKFold(2)),
        GridSearchCV(TEACHER, grid, cv=GroupKFold(2)),
        GridSearchCV(TEACHER, grid, cv=split),
        # Where subjects are held out, skorch's own split is not used.
        SleepStager(TinyNetwork, train_split=ValidSplit(4), validation=2, **FAST),
        CalibratedClassifierCV(frozen_on(X, y, "s0")),
        StackingClassifier([("dummy", DUMMY)], cv="prefit"),
    ):
        assert check_leakage(estimator, X, y, cv=one_fold(X, "s5")).ok


def test_a_validation_set_of_unknown_rows(pair):
    X, y = pair
    stager = SleepStager(TinyNetwork, train_split=predefined_split(object()), **FAST)
    report = check_leakage(stager, X, y, cv=one_fold(X, "s5"))
    assert report.ok
    assert mentions(report, "or a validation set of its own")
