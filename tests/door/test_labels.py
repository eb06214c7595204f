"""Labels: sorted columns, words and codes that mean something else, classes of a teacher."""

import warnings

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_validate
from skorch.callbacks import BatchScoring, EpochScoring

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager, describe
from skleepkd.metrics import expected_calibration_error, sleep_scorers, staging_report
from skleepkd.plotting import HypnogramDisplay
from skleepkd.stages import is_unscored, stage_of_text
from tests.tiny import NAMES, TinyNetwork, TinySequenceNetwork, make_pair, raises


def stager(**params):
    given = {"max_epochs": 25, "lr": 0.03, "batch_size": 16, "random_state": 0}
    return SleepStager(TinyNetwork, **{**given, **params})


@pytest.fixture(scope="module")
def night():
    return make_pair(n_subjects=4, n_epochs=30)


@pytest.fixture(scope="module")
def by_name(night):
    X, y = night
    return stager(classes="aasm").fit(X.source_epochs, NAMES[y])


# ------------------------------------------------------------ columns


@pytest.mark.parametrize("classes", ["aasm", NAMES.tolist(), None])
def test_columns_are_sorted_whatever_classes_says(classes, night):
    X, y = night
    fitted = stager(classes=classes, max_epochs=1).fit(X, NAMES[y])
    assert fitted.classes_.tolist() == sorted(NAMES)
    codes = [4, 2, 0, 1, 3] if isinstance(classes, list) else classes
    fitted = stager(classes=codes, max_epochs=1).fit(X, y)
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4]


def test_names_and_codes_learn_the_same_stages(night, by_name):
    X, y = night
    assert by_name.score(X.source_epochs, NAMES[y]) > 0.8
    assert (by_name.predict(X.source_epochs) == NAMES[y]).mean() > 0.8


def test_scikit_learns_probability_scores_pair_columns_with_labels(night):
    X, y = night
    X, names = X.source_epochs, NAMES[y]
    options = {"cv": GroupKFold(2), "groups": X.subject}
    aasm = stager(classes="aasm")
    proba = cross_val_predict(aasm, X, names, method="predict_proba", **options)
    assert accuracy_score(names, np.sort(NAMES)[proba.argmax(axis=1)]) > 0.7
    assert roc_auc_score(names, proba, multi_class="ovr") > 0.9
    scores = cross_validate(
        aasm, X, names, scoring=["neg_log_loss", "roc_auc_ovr"], **options
    )
    assert scores["test_roc_auc_ovr"].min() > 0.8
    nights = [X.subject == s for s in np.unique(X.subject)]
    expected = -np.mean([log_loss(names[night], proba[night]) for night in nights])
    assert scores["test_neg_log_loss"].mean() == pytest.approx(expected, rel=0.05)


def test_calibration_error_is_the_same_for_names_and_codes(night, by_name):
    X, y = night
    X, names = X.source_epochs, NAMES[y]
    proba = by_name.predict_proba(X)
    order = [by_name.classes_.tolist().index(name) for name in NAMES]
    expected = expected_calibration_error(y, proba[:, order])
    assert expected_calibration_error(names, proba) == pytest.approx(expected)
    found = expected_calibration_error(names, proba, classes=by_name.classes_.tolist())
    assert found == pytest.approx(expected)
    scorer = make_scorer(expected_calibration_error, response_method="predict_proba")
    assert scorer(by_name, X, names) == pytest.approx(expected)
    with raises("in sorted order"):
        expected_calibration_error(names, proba, classes=NAMES.tolist())


def test_drawn_and_printed_stages_are_in_the_order_of_sleep(night, by_name):
    X, y = night
    one = X.source_epochs[X.subject == "s0"]
    display = HypnogramDisplay.from_estimator(by_name, one, NAMES[y[:30]])
    proba = by_name.predict_proba(one)
    again = HypnogramDisplay.from_predictions(
        NAMES[y[:30]], by_name.predict(one), probabilities=proba, onset=one.onset
    )
    ordered = proba[:, [4, 3, 0, 1, 2]]  # W, REM, N1, N2, N3
    for shown in (display, again):
        legend = shown.ax_[-1].get_legend().get_texts()
        assert [text.get_text() for text in legend] == ["W", "REM", "N1", "N2", "N3"]
        heights = [area.get_data().values for area in shown.ax_[-1].patches]
        for number, height in enumerate(heights):
            np.testing.assert_allclose(height, ordered[:, number:].sum(axis=1), atol=1e-6)
    assert "Predicts: W, N1, N2, N3, REM" in describe(by_name)


# ------------------------------------------------------------ skorch's scores


@pytest.mark.parametrize(
    "labels", [np.arange(1, 6), 10 * np.arange(5), NAMES, np.arange(5)], ids=str
)
@pytest.mark.parametrize("use_caching", [True, False])
def test_skorchs_scores_compare_labels(labels, use_caching, night):
    X, y = night
    X, y = X.source_epochs, labels[y]
    callbacks = [
        EpochScoring("accuracy", name="acc", use_caching=use_caching),
        EpochScoring("neg_log_loss", name="nll"),
        EpochScoring(lambda net, X, y: (net.predict(X) == y).mean(), name="own"),
        BatchScoring("accuracy", name="batch"),
        EpochScoring("accuracy", name="seen", on_train=True),
    ]
    held_out = {"validation": ("s3",), "callbacks__best_weights": None}
    fitted = stager(
        classes=labels.tolist(), callbacks=callbacks, max_epochs=3, **held_out
    ).fit(X, y)
    held = X.subject == "s3"
    expected = (fitted.predict(X[held]) == y[held]).mean()
    last = fitted.history_[-1]
    assert last["acc"] == last["own"] == pytest.approx(expected)
    assert last["batch"] == pytest.approx(expected)
    assert last["nll"] == pytest.approx(
        -log_loss(y[held], fitted.predict_proba(X[held])), rel=1e-3
    )
    assert last["seen"] > 0.3


@pytest.mark.parametrize("sequence_length", [1, 3])
def test_skorchs_scores_leave_unscored_epochs_out(sequence_length, night):
    X, y = night
    y = np.where(np.arange(len(y)) % 3 == 0, "?", NAMES[y])
    network = TinyNetwork if sequence_length == 1 else TinySequenceNetwork
    student = DistilledSleepStager(
        SleepStager(network, max_epochs=1, sequence_length=sequence_length),
        sequence_length=sequence_length,
        classes="aasm",
        max_epochs=2,
        validation=("s3",),
        callbacks__best_weights=None,
        callbacks=[EpochScoring("accuracy", name="acc"), EpochScoring(None, name="own")],
    ).fit(X, y)
    last = student.history_[-1]
    assert last["acc"] == last["own"]
    if sequence_length == 1:
        scored = (X.subject == "s3") & (y != "?")
        right = student.predict(X[scored]) == y[scored]
        assert last["acc"] == pytest.approx(right.mean())


# ------------------------------------------------------------ words and codes


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["Wake", "S2"], "'S2' instead of 'N2', 'Wake' instead of 'W'"),
        (["W", "S1", "S2", "S3", "S4", "R"], "'S1'"),
        (["W", "N1", "N2", "N3", "R"], "'R'"),
        (["Sleep stage W", "Sleep stage 2"], "'Sleep stage 2'"),
        (["0", "1", "2", "3", "4"], r"codes as text.*y.astype\(int\)"),
        (["w", "n2"], "'n2' instead of 'N2', 'w' instead of 'W'"),
        (["W", "N2", "rem"], "'rem'"),
        (["W", "N2", " REM"], "' REM' instead of 'REM'"),
        (["W", "N2", "Movement time"], r"'Movement time' instead of '\?'"),
        (["W", "N2", "Sleep stage ?"], r"'Sleep stage \?' instead of '\?'"),
        (["W", "Light", "light ", "L", "l"], "'l'"),
    ],
    ids=str,
)
def test_words_other_than_the_schemes_are_refused_with_the_line(words, named, night):
    X, _ = night
    y = np.resize(words, len(X))
    with raises(named) as error:
        stager().fit(X, y)
    assert "stage_of_text(text) for text in y" in str(error.value)
    assert stager(classes=words, max_epochs=1).fit(X, y).classes_.tolist() == sorted(words)


def test_the_line_that_is_advised_converts(night):
    X, _ = night
    words = np.resize(["Wake", "S1", "S2", "S4", "REM", "?"], len(X))
    y = np.array([stage_of_text(text) for text in words])
    assert stager(max_epochs=1).fit(X, y).classes_.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("unscored", ["?", "-1", b"-1"])
def test_unscored_as_text(unscored, night):
    X, y = night
    labels = NAMES[y].astype("S3") if isinstance(unscored, bytes) else NAMES[y]
    labels = np.where(np.arange(len(y)) % 4 == 0, unscored, labels)
    assert is_unscored(labels).sum() == 30
    assert stager(max_epochs=1).fit(X, labels).classes_.tolist() == sorted(NAMES)
    text = np.where(is_unscored(labels), "-1", NAMES[y])
    report = staging_report(text, NAMES[y])
    assert report.pooled["accuracy"] == 1.0


@pytest.mark.parametrize(
    "codes",
    [[1, 2, 3, 4, 5], [10, 20, 30, 40, 50], [0, 2, 4], [0, 1, 2, 3, 4, 255], [0, 5]],
    ids=str,
)
def test_codes_of_no_scheme_warn_and_are_learned(codes, night):
    X, _ = night
    y = np.resize(codes, len(X))
    told = rf"the codes {codes[0]}, {codes[1]}.*learned as they come"
    with pytest.warns(UserWarning, match=told):
        fitted = stager(max_epochs=1).fit(X, y)
    assert fitted.classes_.tolist() == codes
    assert set(fitted.predict(X[:5])) <= set(codes)
    with warnings.catch_warnings(action="error"):
        stager(classes=codes, max_epochs=1).fit(X, y)


def test_codes_from_one_on_warn_where_a_scheme_is_named(night):
    X, _ = night
    y = np.resize([1, 2, 3, 4], len(X))
    with pytest.warns(UserWarning, match="If 1 is wake there, give y - 1"):
        stager(classes="aasm", max_epochs=1).fit(X, y)
    with pytest.warns(UserWarning, match="give y_true - 1"):
        staging_report(y, y)
    with raises("Unknown stage 5"):
        stager(classes="aasm").fit(X, y + 1)
    with raises(r"holds \[5\]"):
        staging_report(y + 1, y + 1)


def test_codes_are_no_names_in_a_score_of_other_lists():
    codes = [0, 1, 2, 3, 4]
    assert staging_report(NAMES, codes, classes=NAMES.tolist()).pooled["accuracy"] == 1
    with raises("not among the classes"):
        staging_report(codes, codes, classes=sorted(NAMES))


def test_scorers_take_names_in_sorted_columns(night, by_name):
    X, y = night
    scores = sleep_scorers()
    own = by_name.score(X.source_epochs, NAMES[y])
    assert scores["accuracy"](by_name, X.source_epochs, NAMES[y]) == pytest.approx(own)


# ------------------------------------------------------------ a frozen teacher


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
@pytest.mark.parametrize("other", ["shifted codes", "names", "more stages"])
def test_a_frozen_teacher_of_other_classes_is_refused(strategy, other, night):
    X, y = night
    taught = {"shifted codes": y + 1, "names": NAMES[y], "more stages": y}[other]
    listed = sorted(set(taught.tolist()))
    teacher = stager(classes=listed, max_epochs=1).fit(X.source_epochs, taught)
    own = np.minimum(y, 3) if other == "more stages" else y
    student = DistilledSleepStager(
        FrozenEstimator(teacher), strategy=strategy, alpha=0.5, max_epochs=1
    )
    with raises("Give both the same classes="):
        student.fit(X, own)
    assert not student.initialized_
    with raises("Unknown stage|same classes"):
        FineTunedSleepStager(FrozenEstimator(teacher), max_epochs=1).fit(
            X, own if other != "more stages" else own + 4
        )


def test_a_frozen_teacher_of_fewer_stages_teaches_those(night):
    X, y = night
    teacher = stager(max_epochs=1).fit(X.source_epochs[y < 4], y[y < 4])
    student = DistilledSleepStager(FrozenEstimator(teacher), alpha=1.0, max_epochs=1)
    probabilities = student.set_params(module=TinyNetwork, feature_loss=None).fit(X, y)
    assert probabilities.predict_proba(X).shape == (len(X), 5)
