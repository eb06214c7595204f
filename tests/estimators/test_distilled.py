import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import (
    AttentionTransfer,
    FeatureMSE,
    SoftmaxDistillation,
    capture_features,
)
from tests.tiny import TinyNetwork, make_pair

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}


def teacher(**kwargs):
    return SleepStager(TinyNetwork, **{"max_epochs": 2, "device": "cpu", **kwargs})


def student(given=None, **kwargs):
    return DistilledSleepStager(teacher() if given is None else given, **{**FAST, **kwargs})


def weights(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def same_weights(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- the loss


class Recorder(torch.nn.Module):
    """A loss that keeps what it was given."""

    seen = []  # noqa: RUF012

    def forward(self, student, teacher):
        Recorder.seen.append((student.detach().clone(), teacher.detach().clone()))
        return (student - teacher).square().mean()


def test_offline_loss_is_the_sum_of_its_terms(pair):
    """One full batch, no shuffling: recompute the first step's loss by hand."""
    X, y = pair
    frozen = FrozenEstimator(teacher(max_epochs=5, random_state=3).fit(X.source_epochs, y))
    net = student(
        frozen, batch_size=len(X), max_epochs=1, alpha=0.3, temperature=2.0,
        feature_weight=0.7, lr=0.0,
    ).fit(X, y)  # fmt: skip
    module = net.module_.train()
    with torch.no_grad(), capture_features(module, ["features"]) as seen:
        logits = module(torch.from_numpy(X["target"]))
        own = frozen.estimator.module_.eval()
        with capture_features(own, ["features"]) as taught:
            answer = own(torch.from_numpy(X["source"]))
    codes = torch.from_numpy(y)
    expected = {
        "train_cross_entropy": torch.nn.functional.cross_entropy(logits, codes),
        "train_softmax_loss": SoftmaxDistillation(2.0)(logits, answer),
        "train_feature_loss": FeatureMSE()(seen["features"], taught["features"]),
    }
    row = net.history_[-1]
    for name, value in expected.items():
        assert row[name] == pytest.approx(value.item(), rel=2e-3), name
    total = 0.7 * row["train_cross_entropy"] + 0.3 * row["train_softmax_loss"]
    assert row["train_loss"] == pytest.approx(
        total + 0.7 * row["train_feature_loss"], rel=1e-5
    )


def test_without_the_teachers_terms_it_is_a_plain_stager(pair):
    X, y = pair
    plain = SleepStager(TinyNetwork, **FAST).fit(X, y)
    net = student(feature_weight=0.0).fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(X), plain.predict_proba(X))


def test_features_of_the_teacher_draw_the_student(pair):
    X, y = pair
    frozen = FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, y))
    distance = {}
    for weight in (0.0, 100.0):
        net = student(frozen, feature_weight=weight, max_epochs=20, lr=0.01).fit(X, y)
        taught = frozen.extract_features(X["source"])
        distance[weight] = ((net.extract_features(X) - taught) ** 2).mean()
    assert distance[100.0] < 0.5 * distance[0.0]


def test_own_loss_gets_student_and_teacher(pair):
    X, y = pair
    Recorder.seen.clear()
    net = student(feature_loss=Recorder(), batch_size=len(X), max_epochs=1).fit(X, y)
    (own, taught), *_ = Recorder.seen
    assert own.shape == taught.shape == (len(X), 4)
    assert not torch.equal(own, taught)
    assert net.history_[-1]["train_feature_loss"] > 0


def test_logits_as_the_target(pair):
    """SPEC A7.4: the published code once matched logits."""
    X, y = pair
    Recorder.seen.clear()
    frozen = FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, y))
    student(
        frozen,
        feature_loss=Recorder(),
        layers="output",
        max_epochs=1,
        batch_size=999,
        iterator_train__shuffle=False,
    ).fit(X, y)
    taught = Recorder.seen[0][1]
    np.testing.assert_allclose(taught, frozen.estimator.forward(X["source"]), atol=2e-3)


def test_pairs_of_layers_and_their_average(pair):
    X, y = pair
    net = student(layers=[("norm", "features"), "features"]).fit(X, y)
    assert [
        (layer.student_layer, layer.teacher_layer) for layer in net.matched_layers_
    ] == [("norm", "features"), ("features", "features")]
    one = student(layers="features", batch_size=999, max_epochs=1).fit(X, y)
    two = student(layers=["features", "norm"], batch_size=999, max_epochs=1).fit(X, y)
    # norm and features answer alike here, so the average is the one.
    name = "train_feature_loss"
    assert two.history_[0][name] == pytest.approx(one.history_[0][name], rel=1e-5)


def test_unscored_rows_keep_the_teachers_terms(pair):
    X, y = pair
    frozen = FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, y))
    unscored = np.where(X.subject == "s0", -1, y)
    with_nights = student(frozen).fit(X, unscored)
    without = student(frozen).fit(X[unscored >= 0], y[unscored >= 0])
    asked = X["target"]
    assert not np.array_equal(
        with_nights.predict_proba(asked), without.predict_proba(asked)
    )
    Recorder.seen.clear()
    student(frozen, feature_loss=Recorder(), max_epochs=1, batch_size=999).fit(X, unscored)
    assert len(Recorder.seen[0][0]) == len(X)


def test_a_batch_without_scored_rows_is_no_nan():
    X, y = make_pair(n_subjects=4, n_epochs=32)
    y = np.where(X.subject == "s0", y, -1)
    for strategy in ("offline", "online"):
        net = student(strategy=strategy, iterator_train__shuffle=False).fit(X, y)
        assert np.isfinite(net.history_[:, "train_loss"]).all()
        assert np.isfinite(net.predict_proba(X)).all()


# ---------------------------------------------------------------- the teacher


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers every row it was fitted on or asked about."""

    rows = []  # noqa: RUF012

    def fit(self, X, y, groups=None):
        self.remember(X)
        Spy.groups = groups
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        self.remember(X)
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))

    def remember(self, X):
        Spy.rows.append(np.asarray(X)[:, 0, 0].copy())


class SpyNetwork(TinyNetwork):
    """Remembers every row of a signal that passed it."""

    rows = []  # noqa: RUF012

    def forward(self, x):
        if x.any():  # not the zeros by which a network is checked when it is built
            SpyNetwork.rows.append(x[:, 0, 0].detach().numpy().copy())
        return super().forward(x)


@pytest.mark.parametrize(
    "kind", ["offline", "online", "transfer", "softmax of a classifier"]
)
def test_a_spy_teacher_never_sees_a_test_row(pair, kind):
    X, y = pair
    SpyNetwork.rows.clear()
    Spy.rows.clear()
    spy = SleepStager(SpyNetwork, max_epochs=2, device="cpu")
    if kind == "transfer":
        net = FineTunedSleepStager(spy, **FAST)
    elif kind == "softmax of a classifier":
        net = student(Spy(), module=TinyNetwork, feature_loss=None, alpha=0.5)
    else:
        net = student(spy, module=TinyNetwork, strategy=kind)
    for train, test in GroupKFold(3).split(X, y, X.subject):
        SpyNetwork.rows.clear()
        Spy.rows.clear()
        net.fit(X[train], y[train])
        seen = np.concatenate(SpyNetwork.rows + Spy.rows)
        assert not np.isin(X["source"][test][:, 0, 0], seen).any()
        assert np.isin(X["source"][train][:, 0, 0], seen).all()


def test_a_plain_teacher_is_fitted_on_scored_rows_without_the_held_out(pair):
    X, y = pair
    Spy.rows.clear()
    y = np.where(X.subject == "s3", -1, y)
    net = student(
        Spy(), module=TinyNetwork, feature_loss=None, alpha=0.5, validation=lambda s: ["s1"]
    ).fit(X, y)
    fitted = Spy.rows[0]
    expected = ~np.isin(X.subject, ["s1", "s3"])
    np.testing.assert_array_equal(fitted, X["source"][expected][:, 0, 0])
    np.testing.assert_array_equal(Spy.groups, X.subject[expected])
    assert len(Spy.rows[1]) == len(X)  # asked once, about every row
    assert len(Spy.rows) == 2
    assert net.teacher_ is not net.teacher


def test_scikit_learn_classifier_as_teacher(pair):
    X, y = pair
    power = FunctionTransformer(lambda a: np.log(np.asarray(a).var(axis=2)))
    net = student(
        make_pipeline(power, LogisticRegression()),
        module=TinyNetwork,
        feature_loss=None,
        alpha=0.9,
    ).fit(X, y)
    assert net.teacher_.score(X.source_epochs, y) > 0.8


@pytest.mark.parametrize("strategy", ["offline", "online"])
def test_teacher_pipeline_transforms_the_source_alone(pair, strategy):
    X, y = pair
    tenfold = PairedEpochs(
        X["target"], X["source"] * 10, subject=X.subject, recording=X.recording, sfreq=2.0
    )
    tenth = FunctionTransformer(divide_by_ten)
    by_pipeline = student(make_pipeline(tenth, teacher()), strategy=strategy).fit(
        tenfold, y
    )
    plain = student(strategy=strategy).fit(X, y)
    np.testing.assert_allclose(
        by_pipeline.predict_proba(X), plain.predict_proba(X), atol=1e-3
    )
    assert by_pipeline.teacher_.predict(tenfold.source_epochs).shape == y.shape


def divide_by_ten(X):
    return np.asarray(X) / 10


def test_frozen_teacher_is_bit_identical_after_use(pair):
    X, y = pair
    fitted = teacher(random_state=3).fit(X.source_epochs, y)
    before = weights(fitted)
    for options in ({}, {"alpha": 0.5}, {"start_from_teacher": True}):
        student(FrozenEstimator(fitted), **options).fit(X, y)
    FineTunedSleepStager(FrozenEstimator(fitted), **FAST).fit(X, y)
    assert same_weights(before, weights(fitted))
    assert all(
        p.requires_grad and p.grad is None for p in fitted.module_.parameters()
    ) or all(p.requires_grad for p in fitted.module_.parameters())


def test_teacher_and_student_begin_at_different_weights(pair):
    X, y = pair
    net = student(lr=0.0).set_params(teacher__lr=0.0).fit(X, y)
    assert not torch.equal(net.module_.filters.weight, net.teacher_.module_.filters.weight)


def test_other_gpus_are_left_alone(pair, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # none of which can be asked
    X, y = pair
    assert student().fit(X, y).predict(X).shape == y.shape
    tuned = FineTunedSleepStager(teacher(), max_epochs=1, device="cpu", random_state=0)
    assert tuned.fit(X, y).predict(X).shape == y.shape


def test_start_from_teacher(pair):
    X, y = pair
    net = student(start_from_teacher=True, lr=0.0).fit(X, y)
    for name, value in net.teacher_.module_.named_parameters():
        assert torch.equal(value, dict(net.module_.named_parameters())[name])
    other = student(start_from_teacher=True, module__n_filters=5)
    with pytest.raises(ValueError, match="networks differ"):
        other.fit(X, y)


def test_same_subjects_are_held_out_by_both():
    X, y = make_pair(n_subjects=12, n_epochs=8)
    for strategy in ("offline", "online"):
        net = student(strategy=strategy, validation=3).fit(X, y)
        assert len(net.held_out_) == 3
        np.testing.assert_array_equal(net.teacher_.held_out_, net.held_out_)


def test_memory_fits_a_teacher_once(pair, tmp_path):
    X, y = pair
    SpyNetwork.rows.clear()
    spy = SleepStager(SpyNetwork, max_epochs=2, device="cpu")
    shared = {**FAST, "memory": str(tmp_path), "classes": None}
    first = DistilledSleepStager(spy, TinyNetwork, **shared).fit(X, y)
    asked = len(SpyNetwork.rows)
    FineTunedSleepStager(spy, **{**shared, "max_epochs": 0}).fit(X, y)
    assert len(SpyNetwork.rows) == asked, "transfer fitted the source stager again"
    again = DistilledSleepStager(spy, TinyNetwork, **{**shared, "feature_weight": 3}).fit(
        X[::1], y
    )
    assert same_weights(weights(first.teacher_), weights(again.teacher_))
    fresh = DistilledSleepStager(spy, TinyNetwork, **{**shared, "memory": None}).fit(X, y)
    assert same_weights(weights(first.teacher_), weights(fresh.teacher_))
    for changed, labels in ((X[::-1], y[::-1]), (X, np.roll(y, 1))):
        before = len(SpyNetwork.rows)
        DistilledSleepStager(spy, TinyNetwork, **shared).fit(changed, labels)
        assert len(SpyNetwork.rows) > before + 5, "other data, and no teacher was fitted"


def test_grid_search_over_the_teachers_parameters(pair):
    X, y = pair
    search = GridSearchCV(
        student(), {"teacher__lr": [1e-4, 1e-2], "feature_weight": [0.5]}, cv=GroupKFold(2)
    )
    search.fit(X, y, groups=X.subject)
    assert search.best_params_["teacher__lr"] == search.best_estimator_.teacher_.lr
    assert search.best_estimator_.teacher_.optimizer_.param_groups[0][
        "lr"
    ] == pytest.approx(search.best_params_["teacher__lr"])


def test_set_params_of_a_frozen_teacher_says_why_not(pair):
    X, y = pair
    net = student(FrozenEstimator(teacher().fit(X.source_epochs, y)))
    with pytest.raises(ValueError, match="teacher__lr cannot be set.*FrozenEstimator"):
        net.set_params(teacher__lr=0.1)
    net.set_params(teacher=teacher(), teacher__lr=0.5, feature_loss=FeatureMSE(pool=True))
    assert net.teacher.lr == 0.5
    assert clone(net).feature_loss.pool


# ---------------------------------------------------------------- online


def test_online_teacher_learns_from_its_own_cross_entropy_alone(pair):
    X, y = pair
    alone = teacher(random_state=11, max_epochs=3, iterator_train__shuffle=False)
    together = student(
        clone(alone),
        strategy="online",
        feature_weight=100.0,
        alpha=0.5,
        max_epochs=3,
        iterator_train__shuffle=False,
    ).fit(X, y)
    alone.fit(X.source_epochs, y)
    assert same_weights(weights(alone), weights(together.teacher_))


def test_online_student_follows_the_teacher_of_the_same_step(pair):
    X, y = pair
    Recorder.seen.clear()
    net = student(strategy="online", feature_loss=Recorder(), max_epochs=1, batch_size=999)
    net.set_params(teacher__lr=0.5).fit(X, y)
    # One step was taken; the features compared are those from before it.
    untouched = student(strategy="online", max_epochs=0).fit(X, y).teacher_.module_.train()
    with torch.no_grad(), capture_features(untouched, ["features"]) as seen:
        untouched(torch.from_numpy(X["source"]))
    taught = Recorder.seen[0][1]
    np.testing.assert_allclose(
        np.sort(taught.numpy(), axis=0),
        np.sort(seen["features"].numpy(), axis=0),
        atol=1e-4,
    )


def test_online_history_and_teacher_schedule(pair):
    from skorch.callbacks import LRScheduler

    X, y = pair
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.1)
    net = student(teacher(lr=0.1, callbacks=[schedule]), strategy="online").fit(X, y)
    assert net.teacher_.optimizer_.param_groups[0]["lr"] == pytest.approx(0.001)
    assert len(net.teacher_.history_) == 2
    row = net.history_[-1]
    assert row["train_teacher_loss"] == pytest.approx(
        net.teacher_.history_[-1]["train_loss"], rel=0.05
    )
    assert net.optimizer_.param_groups[0]["lr"] == 1e-3


def test_online_returns_both_to_the_students_best_pass():
    X, y = make_pair(n_subjects=5)
    kept = {}

    from skorch.callbacks import Callback

    class Copy(Callback):
        def on_epoch_end(self, net, **kwargs):
            modules = net.trained_modules()
            kept[len(net.history)] = [
                {name: value.clone() for name, value in m.state_dict().items()}
                for m in modules
            ]

    net = student(strategy="online", validation=1, max_epochs=6, lr=0.3, callbacks=[Copy()])
    net.set_params(teacher__lr=0.3).fit(X, y)
    best = kept[net.best_epoch_]
    assert same_weights(best[0], weights(net))
    assert same_weights(best[1], weights(net.teacher_))
    assert net.best_epoch_ < 6, "the last pass is the best: this test shows nothing"


def test_online_with_standardised_features(pair):
    X, y = pair
    net = student(strategy="online", feature_loss=FeatureMSE(standardize=True)).fit(X, y)
    assert np.isfinite(net.history_[:, "train_feature_loss"]).all()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "sideways"}, "Unknown strategy 'sideways'.*'offline', 'online'"),
        ({"feature_loss": "mae"}, "Unknown feature_loss 'mae'"),
        ({"alpha": 2}, "alpha"),
        ({"layers": "nope"}, "no layer 'nope'"),
        ({"layers": []}, "layers is empty"),
        ({"feature_loss": None}, "Nothing of the teacher"),
        ({"strategy": "online", "warm_start": True}, "warm_start"),
        ({"given": LogisticRegression()}, "needs a teacher that is a SleepStager"),
        ({"given": LogisticRegression(), "feature_loss": None}, "module=None needs"),
        ({"classes": [3, 4, 2, 1, 0], "start_from_teacher": True}, "same classes"),
        ({"classes": [3, 4, 2, 1, 0], "layers": "output"}, "same classes"),
        ({"strategy": "online", "start_from_teacher": True}, "start_from_teacher"),
        ({"strategy": "online", "given": FrozenEstimator(teacher())}, "FrozenEstimator"),
    ],
)
def test_bad_parameters(pair, options, message):
    X, y = pair
    with pytest.raises(ValueError, match=message):
        student(**options).fit(X, y)


def test_bad_pairs(pair):
    X, y = pair
    with pytest.raises(ValueError, match="needs the teacher's signal"):
        student().fit(X["target"], y)
    with pytest.raises(ValueError, match="144 target epochs and 143 source epochs"):
        student().fit(X["target"], y, X_source=X["source"][1:])
    with pytest.raises(ValueError, match="given twice"):
        student().fit(X, y, X_source=X["source"])
    spoiled = X["source"].copy()
    spoiled[3] = np.nan
    with pytest.raises(ValueError, match="source holds NaN.*epoch 3"):
        student().fit(X["target"], y, X_source=spoiled)
    with pytest.raises(ValueError, match="source looks like volts"):
        student().fit(X["target"], y, X_source=X["source"] * 1e-6)


# ---------------------------------------------------------------- what once went wrong


@pytest.mark.parametrize("frozen", [False, True])
def test_a_pipeline_transforms_the_source_once_for_the_softmax_term(pair, frozen):
    X, y = pair
    pipeline = make_pipeline(FunctionTransformer(divide_by_ten), teacher(random_state=3))
    given = FrozenEstimator(pipeline.fit(X.source_epochs, y)) if frozen else pipeline
    net = student(given, alpha=1.0, feature_loss=None, batch_size=999, max_epochs=1, lr=0.0)
    net.fit(X, y)
    with torch.no_grad():
        logits = net.module_.train()(torch.from_numpy(X["target"]))
    taught = torch.from_numpy(np.log(net.teacher_.predict_proba(X.source_epochs)))
    expected = SoftmaxDistillation()(logits, taught).item()
    assert net.history_[-1]["train_softmax_loss"] == pytest.approx(expected, rel=1e-4)


def test_each_layer_has_statistics_of_its_own(pair):
    X, y = pair
    net = student(layers=["filters", "features"], feature_loss=FeatureMSE(standardize=True))
    net.fit(X, y)
    filters, features = (layer.loss for layer in net.matched_layers_)
    assert filters.mean.shape == (1, 4, 1)
    assert features.mean.shape == (1, 4)
    answers = net.teacher_.extract_features(X.source_epochs, "filters")
    np.testing.assert_allclose(filters.std.ravel(), answers.std(axis=(0, 2)), rtol=1e-2)


def test_mistakes_are_found_before_the_teacher_is_fitted(pair):
    X, y = pair
    mistakes = (
        {"temperature": 0},
        {"class_weight": {9: 1}},
        {"classes": "wnr"},
        {"module": "Nothing"},
    )
    for options in mistakes:
        SpyNetwork.rows.clear()
        with pytest.raises(ValueError, match="temperature|class_weight|Unknown|Nothing"):
            student(SleepStager(SpyNetwork, **FAST), **options).fit(X, y)
        assert not SpyNetwork.rows
    volts = PairedEpochs(X["target"] * 1e-6, X["source"])
    with pytest.raises(ValueError, match="target looks like volts"):
        student(SleepStager(SpyNetwork, **FAST)).fit(volts, y)
    assert not SpyNetwork.rows


def test_terms_of_the_loss_are_means_over_the_epochs_they_judge():
    X, y = make_pair(n_subjects=4, n_epochs=32)
    few = np.where(np.arange(len(y)) < 16, y, -1)
    order = {"iterator_train__shuffle": False, "lr": 0.0, "max_epochs": 1}
    net = student(**order).fit(X, few)
    module = net.module_.train()
    with torch.no_grad():  # the 16 scored epochs are half of the first batch
        logits = module(torch.from_numpy(X["target"][:32]))[:16]
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[:16]))
    measured = net.history_[-1]["train_cross_entropy"]
    assert measured == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_random_in_a_plain_teacher_is_seeded(pair):
    from sklearn.ensemble import RandomForestClassifier

    X, y = pair
    power = FunctionTransformer(lambda a: np.log(np.asarray(a).var(axis=2)))
    forest = make_pipeline(power, RandomForestClassifier(n_estimators=3))
    net = student(forest, module=TinyNetwork, feature_loss=None, alpha=0.5)
    first, second = (clone(net).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_network_of_skorch_is_a_plain_teacher(pair):
    from skorch import NeuralNetClassifier

    class Plain(TinyNetwork):
        def __init__(self):
            super().__init__(2, 60, 5)

    X, y = pair
    plain = NeuralNetClassifier(
        Plain,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=1,
        train_split=None,
        verbose=0,
    )
    # It knows arrays, not pairs.
    plain = make_pipeline(FunctionTransformer(np.asarray), plain).fit(X.source_epochs, y)
    net = student(FrozenEstimator(plain), module=TinyNetwork, feature_loss=None, alpha=0.5)
    assert net.fit(X, y).predict(X).shape == y.shape


def test_a_fine_tuned_teacher_lends_its_architecture(pair):
    X, y = pair
    tuned = FineTunedSleepStager(teacher(module__n_filters=6), **FAST).fit(X, y)
    net = student(FrozenEstimator(tuned)).fit(X, y)
    assert net.module_.filters.out_channels == 6


def test_an_unfitted_frozen_teacher_says_so(pair):
    X, y = pair
    with pytest.raises(ValueError, match="not fitted"):
        student(FrozenEstimator(teacher())).fit(X, y)


# ---------------------------------------------------------------- attention transfer


def attentive(**kwargs):
    """A student with other filters than its teacher's, over as many moments."""
    options = {"module__pools": (3, 2), "device": "cpu", "max_epochs": 2}
    given = SleepStager("UTime", module__filters=(2, 4, 8), **options)
    return DistilledSleepStager(
        given,
        "UTime",
        module__filters=(3, 5, 6),
        feature_loss="attention",
        random_state=0,
        **{**options, **kwargs},
    )


@pytest.mark.parametrize("strategy", ["offline", "online"])
def test_attention_of_the_teacher_draws_the_student(strategy):
    X, y = make_pair(n_subjects=3)
    distance = {}
    for weight in (1e-6, 10.0):
        net = attentive(
            strategy=strategy, feature_weight=weight, max_epochs=15, lr=0.02, batch_size=16
        )
        terms = net.fit(X, y).history_[:, "train_feature_loss"]
        assert all(0 < term < np.sqrt(2) for term in terms)
        distance[weight] = terms[-1]
    assert distance[10.0] < 0.85 * distance[1e-6]


def test_attention_term_is_the_mean_over_layers(pair):
    """One full batch, no learning: recompute it from the features of both networks."""
    X, y = pair
    net = attentive(batch_size=len(X), max_epochs=1, lr=0.0).fit(X, y)
    taught = net.teacher_.module_.eval()
    layers = taught.feature_layers
    with torch.no_grad(), capture_features(net.module_.train(), layers) as own:
        net.module_(torch.from_numpy(X["target"]))
    with torch.no_grad(), capture_features(taught, layers) as theirs:
        taught(torch.from_numpy(X["source"]))
    terms = [AttentionTransfer()(own[name], theirs[name]).item() for name in layers]
    assert len(terms) == 6
    assert net.history_[-1]["train_feature_loss"] == pytest.approx(np.mean(terms), rel=2e-3)


def test_attention_without_a_time_axis_says_so(pair):
    with pytest.raises(ValueError, match="without a time axis"):
        student(feature_loss="attention").fit(*pair)


def test_partial_fit_goes_on_with_the_student(pair):
    X, y = pair
    net = student().fit(X, y).partial_fit(X, y)
    assert len(net.history_) == 4
    with pytest.raises(ValueError, match="needs the teacher's signal"):
        net.partial_fit(X["target"], y)
    with pytest.raises(AttributeError) as caught:
        student(strategy="online").fit(X, y).partial_fit(X, y)
    assert "begins anew" in str(caught.value.__cause__)
    assert not hasattr(student(strategy="online"), "partial_fit")
