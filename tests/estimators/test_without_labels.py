"""Students that see no label: what a fitted teacher predicts is all they learn from."""

import mne
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.pipeline import make_pipeline
from skorch.dataset import ValidSplit
from torch import nn

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    RecordingStager,
    SleepStager,
    describe,
    load,
    save,
)
from skleepkd.distillation import Strategy
from skleepkd.preprocessing import EpochScaler
from tests.tiny import FAST, FEATURES, NAMES, TinyNetwork, TinySequenceNetwork, make_pair

LEARN = {**FAST, "max_epochs": 25, "batch_size": 80, "lr": 0.03}


@pytest.fixture(scope="module")
def cohort():
    return make_pair(n_subjects=8, n_epochs=40, every=True)


@pytest.fixture(scope="module")
def taught(cohort):
    """What teachers learn from: the source of the others, and its stages."""
    X, y = cohort
    own = X.subject < "s4"
    return X[own].source_epochs, y[own]


@pytest.fixture(scope="module")
def teacher(taught):
    return FrozenEstimator(SleepStager(TinyNetwork, **LEARN).fit(*taught))


@pytest.fixture(scope="module")
def unscored(cohort):
    """Pairs of people whom the teacher does not know, and stages that nobody is shown."""
    X, y = cohort
    others = X.subject >= "s4"
    return X[others], y[others]


def student_of(teacher, **params):
    return DistilledSleepStager(teacher, **{**LEARN, **FEATURES, "alpha": 1.0, **params})


def test_a_student_without_a_label_learns_its_teachers_stages(teacher, unscored):
    X, y = unscored
    student = student_of(teacher, feature_loss=None).fit(X)
    assert cohen_kappa_score(y, student.predict(X["target"])) > 0.2
    assert student.classes_.tolist() == [0, 1, 2, 3, 4]
    assert student.n_scored_ == 0
    assert "train_cross_entropy" not in student.history_[0]
    # The loss is the divergence alone.
    losses = [row["train_loss"] for row in student.history_]
    np.testing.assert_allclose(
        losses, [row["train_softmax_loss"] for row in student.history_], rtol=1e-4
    )


@pytest.mark.parametrize("marks", [-1, "?", "-1", -1.0])
def test_all_unscored_is_as_no_labels(teacher, unscored, marks):
    X, _ = unscored
    plain = student_of(teacher, max_epochs=2).fit(X)
    marked = student_of(teacher, max_epochs=2).fit(X, [marks] * len(X))
    np.testing.assert_array_equal(plain.predict_proba(X), marked.predict_proba(X))


def test_labels_change_nothing_where_the_teacher_has_all_of_the_loss(teacher, unscored):
    X, y = unscored
    without = student_of(teacher, max_epochs=2).fit(X)
    with_labels = student_of(teacher, max_epochs=2).fit(X, y)
    np.testing.assert_allclose(
        without.predict_proba(X), with_labels.predict_proba(X), atol=1e-6
    )
    assert with_labels.n_scored_ == len(X)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"strategy": "two-step", "feature_max_epochs": 2},
        {"feature_loss": "attention", "layers": "filters", "start_from_teacher": True},
        {"alpha": 0.0, "start_from_teacher": True},
        {"alpha": 0.0, "layers": "output"},
        {"alpha": 0.0, "layers": [("output", "output"), ("features", "features")]},
    ],
    ids=["both", "two-step", "attention", "features from its weights", "output", "pairs"],
)
def test_every_way_without_a_label_learns(teacher, unscored, params):
    X, y = unscored
    student = student_of(teacher, **params).fit(X)
    assert cohen_kappa_score(y, student.predict(X["target"])) > 0.2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": 0.5}, "give alpha=1"),
        ({"alpha": 0.0}, "give alpha=1"),
        ({"alpha": 0.0, "layers": "output", "strategy": "two-step"}, "give alpha=1"),
        ({"alpha": 0.0, "feature_loss": None, "start_from_teacher": True}, "give alpha=1"),
    ],
)
def test_what_would_train_no_last_layer_is_refused(teacher, unscored, params, message):
    X, _ = unscored
    for y in (None, np.full(len(X), -1)):
        with pytest.raises(ValueError, match=message):
            student_of(teacher, **params).fit(X, y)


def test_others_need_labels_and_say_so(teacher, unscored):
    X, _ = unscored
    alone = SleepStager(TinyNetwork, **FAST)
    refitted = DistilledSleepStager(alone, alpha=1.0, **FAST)
    online = DistilledSleepStager(alone, strategy="online", alpha=1.0, **FAST)
    tuned = FineTunedSleepStager(teacher, **FAST)
    for stager, message in (
        (alone, "DistilledSleepStager with a fitted teacher"),
        (tuned, "DistilledSleepStager with a fitted teacher"),
        (refitted, r"FrozenEstimator\(teacher\), alpha=1"),
        (online, r"FrozenEstimator\(teacher\), alpha=1"),
    ):
        for y in (None, np.full(len(X), -1)):
            with pytest.raises(ValueError, match=message):
                stager.fit(X, y)


def test_classes_are_those_that_are_given_or_the_teachers(taught, unscored):
    (X, y), (others, _) = taught, unscored
    named = SleepStager(TinyNetwork, **FAST).fit(X, NAMES[y])
    student = student_of(FrozenEstimator(named), max_epochs=1)
    assert student.fit(others).classes_.tolist() == sorted(NAMES)
    assert set(student.predict(others)) <= set(NAMES)
    student.set_params(classes="aasm")
    assert student.fit(others, [-1] * len(others)).classes_.tolist() == sorted(NAMES)
    student.set_params(classes=["W", "N1", "N2", "N3", "REM", "A"])
    assert student.fit(others).classes_.tolist() == sorted([*NAMES, "A"])
    student.set_params(classes=[0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="not among the student's"):
        student.fit(others)


def test_the_pass_that_agrees_best_with_the_teacher_is_kept(teacher, unscored):
    X, _ = unscored
    student = student_of(teacher, validation=("s5",)).fit(X)
    held_out = X[X.subject == "s5"]
    by_teacher = teacher.predict(held_out.source_epochs)
    agreement = cohen_kappa_score(by_teacher, student.predict(held_out))
    kappas = [row["valid_kappa"] for row in student.history_]
    assert student.best_epoch_ == 1 + int(np.argmax(kappas))
    assert max(kappas) == pytest.approx(agreement, abs=1e-9)
    assert "no label" in describe(student)
    assert f"kappa {max(kappas):.2f} with the teacher on 1 held-out" in describe(student)


def test_scored_people_may_choose_what_unscored_people_teach(teacher, unscored):
    X, y = unscored
    y = np.where(X.subject == "s5", y, -1)
    student = student_of(teacher, validation=("s5",)).fit(X, y)
    kappas = [row["valid_kappa"] for row in student.history_]
    own = X.subject == "s5"
    assert max(kappas) == pytest.approx(cohen_kappa_score(y[own], student.predict(X[own])))
    with pytest.raises(ValueError, match="nobody would be left"):
        student_of(teacher, validation=tuple(np.unique(X.subject))).fit(X)


def test_a_checkpoint_is_found_again(teacher, unscored, tmp_path):
    X, _ = unscored
    student = student_of(teacher, max_epochs=3, validation=1, checkpoint=tmp_path)
    plain = student_of(teacher, max_epochs=3, validation=1).fit(X).predict_proba(X)
    np.testing.assert_array_equal(student.fit(X).predict_proba(X), plain)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(student.fit(X).predict_proba(X), plain)


def test_a_training_goes_on_without_a_label(teacher, unscored):
    X, _ = unscored
    student = student_of(teacher, max_epochs=2).fit(X)
    assert len(student.partial_fit(X).history_) == 4
    assert student.n_scored_ == 0


def test_in_a_pipeline_by_arrays_and_on_a_recording(taught, unscored, tmp_path):
    others, _ = unscored
    scaled = make_pipeline(EpochScaler(), SleepStager(TinyNetwork, **LEARN))
    teacher = FrozenEstimator(scaled.fit(*taught))
    pipeline = make_pipeline(EpochScaler(), student_of(teacher, max_epochs=1))
    assert pipeline.fit(others).predict_proba(others).shape == (len(others), 5)
    student = student_of(teacher, max_epochs=1)
    student.fit(others["target"], X_source=others["source"], groups=others.subject)
    path = tmp_path / "student.safetensors"
    save(student, path)
    again = load(path, module=TinyNetwork)
    assert again.n_scored_ == 0
    assert "no label" in describe(again)
    info = mne.create_info(["A", "B"], 2.0, "eeg")
    signal = 1e-6 * np.concatenate(list(others["target"][:10]), axis=1)
    stager = RecordingStager(again, ch_names=["A", "B"])
    night = stager.stage(mne.io.RawArray(signal, info, verbose="error"))
    np.testing.assert_array_equal(night.stages, NAMES[again.predict(others["target"][:10])])


def test_windows_of_epochs(taught, unscored):
    others, truth = unscored
    way = {**LEARN, "max_epochs": 2, "sequence_length": 4}
    teacher = SleepStager(TinySequenceNetwork, **way).fit(*taught)
    for params in ({"feature_loss": None}, {"strategy": "two-step"}):
        student = student_of(FrozenEstimator(teacher), **way, **params)
        without = student.fit(others).predict_proba(others)
        with_labels = student.fit(others, truth).predict_proba(others)
        np.testing.assert_allclose(without, with_labels, atol=1e-6)
    student.set_params(validation=("s5",), fusion="mean").fit(others)
    stages = [row for row in student.history_ if "valid_kappa" in row]
    assert student.best_epoch_ == 3 + int(np.argmax([row["valid_kappa"] for row in stages]))


# ---------------------------------------------------------------- features of any teacher


class Extractor(ClassifierMixin, BaseEstimator):
    """A classifier of log powers, which it also gives as features."""

    def fit(self, X, y):
        self.model_ = LogisticRegression(max_iter=500).fit(self.extract_features(X), y)
        self.classes_ = self.model_.classes_
        self.n_fits_ = getattr(self, "n_fits_", 0) + 1
        return self

    def extract_features(self, X):
        signal = X["target"] if isinstance(X, PairedEpochs) else np.asarray(X)
        return np.log(signal.var(axis=2))  # (n_epochs, n_channels)

    def predict_proba(self, X):
        return self.model_.predict_proba(self.extract_features(X))

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture(scope="module")
def extractor(taught):
    return FrozenEstimator(Extractor().fit(*taught))


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
@pytest.mark.parametrize("frozen", [True, False])
def test_any_teacher_with_features_teaches_them(extractor, unscored, frozen, strategy):
    others, truth = unscored
    teacher = extractor if frozen else Extractor()
    options = {"strategy": strategy, "adapter": "linear", "feature_weight": 5.0, **LEARN}
    student = DistilledSleepStager(teacher, TinyNetwork, **options).fit(others, truth)
    assert student.feature_shape_ == (2,)
    adapter = student.adapters_[0]
    assert (adapter.channels.in_channels, adapter.channels.out_channels) == (4, 2)
    # What the adapter makes of the student's features has come close to the teacher's.
    first, last = (student.history_[k].get("train_feature_loss") for k in (0, 24))
    assert last < 0.5 * first
    assert cohen_kappa_score(truth, student.predict(others)) > 0.2


def test_features_of_a_teacher_in_a_pipeline_and_without_an_adapter(taught, unscored):
    others, truth = unscored
    teacher = FrozenEstimator(make_pipeline(EpochScaler(), Extractor()).fit(*taught))
    options = {"module__n_filters": 2, "feature_loss": "mse", **FAST}
    student = DistilledSleepStager(teacher, TinyNetwork, **options).fit(others, truth)
    assert (student.feature_shape_, len(list(student.adapters_.parameters()))) == ((2,), 0)
    features = EpochScaler().fit_transform(others.source_epochs)
    expected = np.log(features["target"].var(axis=2))
    loss = ((student.extract_features(others) - expected) ** 2).mean()
    again = clone(student).set_params(optimizer__lr=0.0, lr=0.0).fit(others, truth)
    untrained = ((again.extract_features(others) - expected) ** 2).mean()
    assert loss < untrained


def test_features_of_windows(extractor, unscored):
    options = {"adapter": "linear", "sequence_length": 4, **LEARN}
    student = DistilledSleepStager(extractor, TinySequenceNetwork, **options)
    student.fit(*unscored)
    first, last = (student.history_[k]["train_feature_loss"] for k in (0, 24))
    assert last < 0.7 * first


class Bare(nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.head = nn.Linear(n_chans * n_times, n_outputs)

    def forward(self, x):
        return self.head(x.flatten(1))


class OddExtractor(Extractor):
    odd = False

    def extract_features(self, X):
        features = super().extract_features(X)
        return features[:, 0] if self.odd else features


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"layers": ["features", "filters"], "adapter": "linear"},
            "one layer of the student",
        ),
        ({"feature_loss": "mse"}, r'4.*2.*adapter="linear"'),
        ({"module": None}, "needs a teacher that is a SleepStager"),
        ({"start_from_teacher": True}, "needs a teacher that is a SleepStager"),
        ({"strategy": "online"}, "needs a teacher that is a SleepStager"),
        # A student that declares no layer names one.
        ({"module": Bare, "adapter": "linear"}, "layers="),
    ],
)
def test_features_that_do_not_fit_are_refused(extractor, unscored, params, message):
    student = DistilledSleepStager(extractor, **{"module": TinyNetwork, **params}, **FAST)
    with pytest.raises(ValueError, match=message):
        student.fit(*unscored)


def test_features_of_an_odd_shape_are_refused(taught, unscored):
    teacher = OddExtractor().fit(*taught)
    teacher.odd = True
    student = DistilledSleepStager(
        FrozenEstimator(teacher), TinyNetwork, feature_loss="mse", **FAST
    )
    with pytest.raises(ValueError, match=r"shape \(20,\) for 20 epochs"):
        student.fit(*unscored)


def test_a_student_that_declares_no_layer_names_one(extractor, unscored):
    options = {"layers": "head", "adapter": "linear", **FAST}
    DistilledSleepStager(extractor, Bare, **options).fit(*unscored)


# ---------------------------------------------------------------- what must not pass unseen


def test_another_source_is_another_training(teacher, unscored, tmp_path):
    X, _ = unscored
    params = {"max_epochs": 1, "feature_loss": None}
    student = student_of(teacher, checkpoint=tmp_path, **params)
    student.fit(X)
    turned = X.replace(source=X["source"][::-1].copy())
    again, fresh = student.fit(turned), student_of(teacher, **params).fit(turned)
    np.testing.assert_array_equal(again.predict_proba(X), fresh.predict_proba(X))


@pytest.mark.parametrize(
    "layers", ["output", [("output", "features")], [["features", "output"]]]
)
def test_an_adapter_does_not_stand_for_the_last_layer(teacher, unscored, layers):
    X, _ = unscored
    with pytest.raises(ValueError, match="give alpha=1"):
        student_of(teacher, alpha=0.0, layers=layers, adapter="linear").fit(X)


def test_a_strategy_that_gives_nothing_is_refused(teacher, unscored):
    X, _ = unscored
    with pytest.raises(
        ValueError, match="Nothing would be learned: alpha is 1, and Strategy"
    ):
        student_of(teacher, strategy=Strategy(), feature_loss=None).fit(X)


class Odd(ClassifierMixin, BaseEstimator):
    classes_ = np.arange(5)

    def __init__(self, how):
        self.how = how

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        even = np.full((len(X), 5), 0.2)
        return {
            "NaN": np.where(np.arange(5) == 4, np.nan, even),
            "one column": even[:, :1],
            "logarithms": np.log(even),
            "zeros": 0 * even,
            "fewer rows": even[1:],
        }[self.how]


@pytest.mark.parametrize("how", ["NaN", "one column", "logarithms", "zeros", "fewer rows"])
def test_odd_probabilities_are_refused(unscored, how):
    X, _ = unscored
    student = student_of(FrozenEstimator(Odd(how)), feature_loss=None, module=TinyNetwork)
    with pytest.raises(ValueError, match=r"Odd\.predict_proba gave .*expected.*\(160, 5\)"):
        student.fit(X)


def test_classes_that_mean_unscored_and_a_split_by_rows_are_refused(teacher, unscored):
    X, _ = unscored
    odd = Odd("zeros")
    odd.classes_ = np.array([-1, 1])
    with pytest.raises(ValueError, match="one means unscored"):
        student_of(FrozenEstimator(odd), feature_loss=None, module=TinyNetwork).fit(X)
    with pytest.raises(ValueError, match="give validation="):
        student_of(teacher, train_split=ValidSplit(4)).fit(X)
