"""Stages as labels: what is a class, what is unscored, what is refused, who is held out."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight

from skleepkd import FineTunedSleepStager, SleepStager
from skleepkd.estimators.labels import StageCrossEntropy, class_weights
from tests.tiny import FAST, NAMES, TinyNetwork, make_pair, same


def stager(**params):
    return SleepStager(TinyNetwork, **{**FAST, **params})


def test_string_labels_come_back(pair):
    X, y = pair
    by_name = stager(classes="aasm").fit(X, NAMES[y])
    codes = np.argsort(np.argsort(NAMES))  # in the order of the names
    by_code = stager(classes="aasm").fit(X, codes[y])
    assert by_name.classes_.tolist() == sorted(NAMES)
    np.testing.assert_array_equal(by_name.predict(X), np.sort(NAMES)[by_code.predict(X)])
    np.testing.assert_array_equal(by_name.predict_proba(X), by_code.predict_proba(X))
    assert by_name.score(X, NAMES[y]) == accuracy_score(NAMES[y], by_name.predict(X))


@pytest.mark.filterwarnings("ignore::skleepkd.distillation.LeakageWarning")
@pytest.mark.parametrize("unscored", [-1, "?"])
def test_unscored_rows_are_skipped(pair, unscored):
    X, y = pair
    y = y if unscored == -1 else NAMES[y]
    marked = y.copy()
    marked[::3] = unscored
    left = np.delete(np.arange(len(y)), np.s_[::3])
    with_them, without = stager().fit(X, marked), stager().fit(X[left], y[left])
    np.testing.assert_array_equal(with_them.predict_proba(X), without.predict_proba(X))
    assert with_them.score(X, marked) == without.score(X[left], y[left])


def test_score_takes_the_labels_that_fit_takes(pair):
    X, y = pair
    fitted = stager().fit(X, y)
    expected = np.mean(fitted.predict(X) == y)
    for given in (y.astype(float), y.astype(object), y[:, None], y.tolist()):
        assert fitted.score(X, given) == expected
    with pytest.raises(ValueError, match="None of the .* epochs is scored"):
        fitted.score(X, np.full(len(y), -1))


@pytest.mark.filterwarnings("ignore::skleepkd.distillation.LeakageWarning")
def test_minus_one_means_unscored_unless_it_is_a_class():
    X, y = make_pair(classes=2)
    with pytest.warns(UserWarning, match="-1 and 1 are taken for two classes"):
        both = stager().fit(X, 2 * y - 1)
    assert both.classes_.tolist() == [-1, 1]
    truth = 2 * y - 1
    assert both.score(X, truth) == np.mean(both.predict(X) == truth)
    with pytest.raises(ValueError, match="Only the stage 2 is in y"):
        stager().fit(X, 3 * y - 1)
    # Of stages that are named, -1 is none. A subject of whom nothing but N1 was scored is
    # what a pretrained stager is tuned to.
    named = stager(classes="aasm")
    frozen = FrozenEstimator(stager(classes="aasm").fit(X, y))
    for one in (named, FineTunedSleepStager(frozen, **FAST)):
        probabilities = one.fit(X, truth).predict_proba(X)
        assert one.classes_.tolist() == [0, 1, 2, 3, 4]
        assert one.score(X, truth) == np.mean(one.predict(X[y == 1]) == 1)
        again = one.fit(X[y == 1], y[y == 1]).predict_proba(X)
        np.testing.assert_array_equal(again, probabilities)
    three = np.where(np.arange(len(y)) % 3, y, -1)
    assert stager().fit(X, three).classes_.tolist() == [0, 1]


# ---------------------------------------------------------------- weights and the loss


def test_class_weight_as_scikit_learn(pair):
    y = np.repeat([0, 1, 2], [5, 20, 75])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    for n_classes in (3, 5):
        found = class_weights("balanced", y, np.arange(n_classes))
        np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(class_weights({1: 4}, y, np.arange(3)), [1, 4, 1])
    with pytest.raises(ValueError, match="class_weight names 7"):
        class_weights({7: 2}, y, np.arange(3))
    fitted = stager(class_weight={0: 10.0}).fit(*pair)
    assert fitted.criterion_.weight.tolist() == [10, 1, 1, 1, 1]


def test_cross_entropy_closed_form():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    y = torch.tensor([0, 1, -1])
    first, second = np.log1p(np.exp(-2)), np.log1p(np.exp(-1))
    assert StageCrossEntropy()(logits, y).item() == pytest.approx((first + second) / 2)
    weighted = StageCrossEntropy(weight=torch.tensor([3.0, 1.0]))(logits, y)
    assert weighted.item() == pytest.approx((3 * first + second) / 4)
    none = StageCrossEntropy()(logits.requires_grad_(), torch.tensor([-1, -1, -1]))
    none.backward()
    assert none.item() == 0
    assert not logits.grad.any()


def test_cross_entropy_of_sequences():
    """Logits (batch, classes, epochs) cost what they cost epoch by epoch."""
    logits = torch.randn((3, 5, 4), generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, 4, -1, 2], [1, 1, 3, -1], [-1, -1, -1, -1]])
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    one_by_one = logits.movedim(1, 2).reshape(12, 5), y.flatten()
    for loss in (StageCrossEntropy(), StageCrossEntropy(weight)):
        torch.testing.assert_close(loss(logits, y), loss(*one_by_one))
    assert StageCrossEntropy()(logits[2:], y[2:]).item() == 0


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "labels",
    [["W", -1, "N2"], ["W", None, "N2"], [0, float("nan"), 1], ["W", np.nan, "N2"]],
)
def test_labels_of_mixed_kinds_are_refused(pair, labels):
    with pytest.raises(ValueError, match="y mixes"):
        stager().fit(pair[0], np.array(labels * 48, dtype=object))


def test_labels_as_objects_are_what_they_are(pair):
    X, y = pair
    fitted = stager().fit(X, np.where(y == 4, -1, y).astype(object))
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    names = np.array(["W", "N1", "N2", "N3", "?"], dtype=object)[y]
    assert stager(classes="aasm").fit(X, names).predict(X).dtype.kind == "U"


def misspelt(y, label):
    """Stages by name, the third and fourth epoch under another one."""
    names = NAMES[y].astype("U16")
    names[2:4] = label
    return names


def test_a_stranger_among_stages_warns(pair):
    X, y = pair
    with pytest.warns(UserWarning, match=r"'RME' \(2 epochs\) .*classes='aasm'"):
        fitted = stager().fit(X, misspelt(y, "RME"))
    assert len(fitted.classes_) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stager(classes=[*NAMES, "RME"]).fit(X, misspelt(y, "RME"))
        for names in (NAMES, np.array(["W", "L", "D", "R", "?"])):
            stager().fit(X, names[y])
        for two in (["W", "S"], ["one", "two"]):
            stager().fit(X, np.array(two)[y % 2])


def test_what_to_do_about_unknown_names(pair):
    X, y = pair
    hints = "Mend the spelling.*stage_of_text.*another scheme"
    with pytest.raises(ValueError, match=f"Unknown stage RME .*{hints}"):
        stager(classes="aasm").fit(X, misspelt(y, "RME"))


def test_missing_labels_as_text_are_no_stage(pair):
    X, y = pair
    names = NAMES[y].astype(object)
    for missing in (np.nan, "<NA>", "n/a"):
        names[3] = missing
        with pytest.raises(ValueError, match="missing values as text"):
            stager().fit(X, names.astype(str))


def test_classes_that_cannot_be(pair):
    for classes in ([0, 0, 1, 2, 3, 4], [-1, 0, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="each stage once"):
            stager(classes=classes).fit(*pair)


# ---------------------------------------------------------------- validation by subject


def test_auto_validation_holds_out_a_tenth_of_many_subjects():
    for n_subjects, n_held_out in ((9, 0), (20, 2)):
        X, y = make_pair(n_subjects=n_subjects, n_epochs=6)
        assert len(stager().fit(X, y).held_out_) == n_held_out
    assert len(stager().fit(X["target"], y).held_out_) == 0


def test_held_out_subjects_train_nothing():
    X, y = make_pair(n_subjects=5)
    held = X.subject == "s2"
    spoiled = X["target"].copy()
    spoiled[held] = 1000
    options = {"validation": lambda subjects: ["s2"], "callbacks__best_weights": None}
    first, second = (
        stager(**options).fit(given, labels, groups=X.subject)
        for given, labels in ((X["target"], y), (spoiled, np.where(held, 4, y)))
    )
    assert same(first, second)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (6, "hold out all"),
        (1.5, "fraction"),
        (0, "at least one"),
        ("some", "validation is"),
        (lambda s: ["nobody"], "nobody"),
    ],
)
def test_validation_that_cannot_be(pair, validation, message):
    X, y = pair
    with pytest.raises(ValueError, match=message):
        stager(validation=validation).fit(X, y)
    with pytest.raises(ValueError, match="none are known"):
        stager(validation=1).fit(X["target"], y)
