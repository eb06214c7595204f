import numpy as np
import pytest
import torch
from braindecode import EEGClassifier
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch import NeuralNetClassifier
from torch import nn

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import (
    CorrelationDistillation,
    DecoupledDistillation,
    FeatureMSE,
    SoftmaxDistillation,
    capture_features,
)
from skleepkd.distillation.feature_losses import FeatureLoss
from skleepkd.preprocessing import EpochScaler
from tests.tiny import (
    FAST,
    FEATURES,
    NeverTiny,
    NeverTrained,
    TinyNetwork,
    TinySequenceNetwork,
    make_pair,
    same,
    weights,
)


def teacher(network=TinyNetwork, **params):
    return SleepStager(network, **{"max_epochs": 1, "device": "cpu", **params})


def student(given=None, module=None, **params):
    given = teacher() if given is None else given
    return DistilledSleepStager(given, module, **{**FAST, **FEATURES, **params})


@pytest.fixture
def frozen(pair):
    X, y = pair
    return FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, y))


# ---------------------------------------------------------------- the loss


class Recorder(nn.Module):
    """A loss that keeps what it was given."""

    seen = []  # noqa: RUF012

    def forward(self, student, teacher):
        Recorder.seen.append((student.detach().clone(), teacher.detach().clone()))
        return (student - teacher).square().mean()


@pytest.fixture
def recorded():
    Recorder.seen.clear()
    return Recorder.seen


def test_offline_loss_is_the_sum_of_its_terms(pair, frozen):
    """One full batch, no learning: recompute the first step's loss by hand."""
    X, y = pair
    options = {"alpha": 0.3, "temperature": 2.0, "feature_weight": 0.7}
    net = student(frozen, batch_size=len(X), lr=0.0, **options).fit(X, y)
    module = net.module_.train()
    with torch.no_grad(), capture_features(module, ["features"]) as seen:
        logits = module(torch.from_numpy(X["target"]))
        own = frozen.estimator.module_.eval()
        with capture_features(own, ["features"]) as taught:
            answer = own(torch.from_numpy(X["source"]))
    cross_entropy = nn.functional.cross_entropy(logits, torch.from_numpy(y))
    expected = {
        "train_cross_entropy": cross_entropy,
        "train_softmax_loss": SoftmaxDistillation(2.0)(logits, answer),
        "train_feature_loss": FeatureMSE()(seen["features"], taught["features"]),
    }
    row = net.history_[-1]
    for name, value in expected.items():
        assert row[name] == pytest.approx(value.item(), rel=2e-3), name
    total = 0.7 * row["train_cross_entropy"] + 0.3 * row["train_softmax_loss"]
    total += 0.7 * row["train_feature_loss"]
    assert row["train_loss"] == pytest.approx(total, rel=1e-5)


def test_without_the_teachers_terms_it_is_a_plain_stager(pair):
    X, y = pair
    plain = SleepStager(TinyNetwork, **FAST).fit(X, y)
    net = student(feature_weight=0.0).fit(X, y)
    np.testing.assert_array_equal(net.predict_proba(X), plain.predict_proba(X))


def test_features_of_the_teacher_draw_the_student(pair, frozen):
    X, y = pair
    taught, distance = frozen.extract_features(X["source"]), {}
    for weight in (0.0, 100.0):
        net = student(frozen, feature_weight=weight, max_epochs=20, lr=0.01).fit(X, y)
        distance[weight] = ((net.extract_features(X) - taught) ** 2).mean()
    assert distance[100.0] < 0.5 * distance[0.0]


def test_own_loss_gets_student_and_teacher(pair, frozen, recorded):
    X, y = pair
    options = {"batch_size": 999, "iterator_train__shuffle": False}
    net = student(frozen, feature_loss=Recorder(), **options).fit(X, y)
    own, taught = recorded[0]
    assert own.shape == taught.shape == (len(X), 4)
    assert not torch.equal(own, taught)
    assert net.history_[-1]["train_feature_loss"] > 0
    # SPEC A7.4: the published code once matched logits.
    student(frozen, feature_loss=Recorder(), layers="output", **options).fit(X, y)
    taught = recorded[1][1]
    np.testing.assert_allclose(taught, frozen.estimator.forward(X["source"]), atol=2e-3)


def test_pairs_of_layers_and_their_average(pair):
    X, y = pair
    layers = [("norm", "features"), "features"]
    matched = student(layers=layers).fit(X, y).matched_layers_
    pairs = [(layer.student_layer, layer.teacher_layer) for layer in matched]
    assert pairs == [("norm", "features"), ("features", "features")]
    # norm and features are alike here, so the average is the one.
    one, two = (
        student(layers=names, batch_size=999).fit(X, y).history_[0, "train_feature_loss"]
        for names in ("features", ["features", "norm"])
    )
    assert two == pytest.approx(one, rel=1e-5)


def test_each_layer_has_statistics_of_its_own(pair):
    X, y = pair
    net = student(layers=["filters", "features"], feature_loss=FeatureMSE(standardize=True))
    net.fit(X, y)
    filters, features = (layer.loss for layer in net.matched_layers_)
    assert filters.mean.shape == (1, 4, 1)
    assert features.mean.shape == (1, 4)
    taught = net.teacher_.extract_features(X.source_epochs, "filters")
    np.testing.assert_allclose(filters.std.ravel(), taught.std(axis=(0, 2)), rtol=1e-2)


def test_unscored_rows_keep_the_teachers_terms(pair, frozen, recorded):
    X, y = pair
    unscored = np.where(X.subject == "s0", -1, y)
    with_nights = student(frozen).fit(X, unscored)
    without = student(frozen).fit(X[unscored >= 0], y[unscored >= 0])
    assert not same(with_nights, without)
    student(frozen, feature_loss=Recorder(), batch_size=999).fit(X, unscored)
    assert len(recorded[0][0]) == len(X)


@pytest.mark.parametrize("strategy", ["offline", "online"])
def test_a_batch_without_scored_rows_is_no_nan(pair, strategy):
    X, y = pair
    y = np.where(X.subject == "s0", y, -1)
    net = student(strategy=strategy, batch_size=24, iterator_train__shuffle=False).fit(X, y)
    assert np.isfinite(net.history_[:, "train_loss"]).all()
    assert np.isfinite(net.predict_proba(X)).all()


def test_terms_of_the_loss_are_means_over_the_epochs_they_judge():
    X, y = make_pair(n_subjects=4, n_epochs=32)
    few = np.where(np.arange(len(y)) < 16, y, -1)
    net = student(iterator_train__shuffle=False, lr=0.0).fit(X, few)
    module = net.module_.train()
    with torch.no_grad():  # the 16 scored epochs are half of the first batch
        logits = module(torch.from_numpy(X["target"][:32]))[:16]
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(y[:16]))
    measured = net.history_[-1]["train_cross_entropy"]
    assert measured == pytest.approx(expected.item(), rel=1e-4)


def test_attention_term_is_the_mean_over_layers(pair):
    """One full batch, no learning: recompute it from the features of both networks."""
    X, y = pair
    given = teacher("UTime", module__filters=(2, 4, 8), module__pools=(3, 2))
    # Other filters than its teacher's, over as many moments.
    options = {"module__filters": (3, 5, 6), "module__pools": (3, 2), "lr": 0.0}
    net = student(given, "UTime", feature_loss="attention", batch_size=999, **options)
    net.fit(X, y)
    taught = net.teacher_.module_.eval()
    layers, loss = taught.feature_layers, net.matched_layers_[0].loss
    with torch.no_grad(), capture_features(net.module_.train(), layers) as own:
        net.module_(torch.from_numpy(X["target"]))
    with torch.no_grad(), capture_features(taught, layers) as theirs:
        taught(torch.from_numpy(X["source"]))
    terms = [loss(own[name], theirs[name]).item() for name in layers]
    assert len(terms) == 6
    assert net.history_[-1]["train_feature_loss"] == pytest.approx(np.mean(terms), rel=2e-3)


# ---------------------------------------------------------------- the teacher


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers every row it was fitted on, or whose stage it predicted."""

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

    rows = Spy.rows

    def forward(self, x):
        if x.any():  # not the zeros by which a network is checked when it is built
            SpyNetwork.rows.append(x[:, 0, 0].detach().numpy().copy())
        return super().forward(x)


@pytest.fixture
def rows():
    Spy.rows.clear()
    return Spy.rows


def of_plain(given, **params):
    """A student of a teacher that has probabilities alone."""
    return student(given, TinyNetwork, feature_loss=None, **{"alpha": 0.5, **params})


@pytest.mark.parametrize(
    "kind", ["offline", "online", "transfer", "softmax of a classifier"]
)
def test_a_spy_teacher_never_sees_a_test_row(pair, rows, kind):
    X, y = pair
    if kind == "transfer":
        net = FineTunedSleepStager(teacher(SpyNetwork), **FAST)
    elif kind == "softmax of a classifier":
        net = of_plain(Spy())
    else:
        net = student(teacher(SpyNetwork), TinyNetwork, strategy=kind)
    for train, test in GroupKFold(3).split(X, y, X.subject):
        rows.clear()
        net.fit(X[train], y[train])
        seen = np.concatenate(rows)
        assert not np.isin(X["source"][test][:, 0, 0], seen).any()
        assert np.isin(X["source"][train][:, 0, 0], seen).all()


def test_a_plain_teacher_is_fitted_on_scored_rows_without_the_held_out(pair, rows):
    X, y = pair
    y = np.where(X.subject == "s3", -1, y)
    net = of_plain(Spy(), validation=lambda subjects: ["s1"]).fit(X, y)
    expected = ~np.isin(X.subject, ["s1", "s3"])
    np.testing.assert_array_equal(rows[0], X["source"][expected][:, 0, 0])
    np.testing.assert_array_equal(Spy.groups, X.subject[expected])
    assert len(rows[1]) == len(X)  # predicts once, for every row
    assert len(rows) == 2
    assert net.teacher_ is not net.teacher


class Plain(TinyNetwork):
    def __init__(self, n_filters=4):
        super().__init__(2, 60, 5)


def test_classifiers_of_other_libraries_are_teachers(pair):
    X, y = pair
    power = FunctionTransformer(lambda a: np.log(np.asarray(a).var(axis=2)))
    net = of_plain(make_pipeline(power, LogisticRegression()), alpha=0.9).fit(X, y)
    assert net.teacher_.score(X.source_epochs, y) > 0.8
    # What is random in a teacher is seeded by its student.
    forest = of_plain(make_pipeline(power, RandomForestClassifier(n_estimators=3)))
    assert same(clone(forest).fit(X, y), clone(forest).fit(X, y))
    # A network of skorch knows arrays, not pairs.
    options = {"max_epochs": 1, "train_split": None, "verbose": 0}
    plain = NeuralNetClassifier(Plain, criterion=nn.CrossEntropyLoss, **options)
    plain = make_pipeline(FunctionTransformer(np.asarray), plain).fit(X.source_epochs, y)
    assert of_plain(FrozenEstimator(plain)).fit(X, y).predict(X).shape == y.shape
    of_braindecode = EEGClassifier(TinyNetwork, classes=list(range(5)), **options)
    proba = of_plain(of_braindecode).fit(X, y).predict_proba(X["target"])
    assert proba.shape == (len(X), 5)


def tenth(X):
    return np.asarray(X) / 10


@pytest.mark.parametrize("strategy", ["offline", "online"])
def test_teacher_pipeline_transforms_the_source_alone(pair, strategy):
    X, y = pair
    tenfold = X.replace(source=10 * X["source"])
    piped = make_pipeline(FunctionTransformer(tenth), teacher())
    by_pipeline = student(piped, strategy=strategy, alpha=0.5).fit(tenfold, y)
    plain = student(strategy=strategy, alpha=0.5).fit(X, y)
    np.testing.assert_allclose(
        by_pipeline.predict_proba(X), plain.predict_proba(X), atol=1e-3
    )
    assert by_pipeline.teacher_.predict(tenfold.source_epochs).shape == y.shape


def test_a_nested_teacher_is_fitted_in_the_fold(pair):
    X, y = pair
    first, second = FunctionTransformer(tenth), EpochScaler("standard")
    flat = make_pipeline(first, second, teacher())
    nested = make_pipeline(first, make_pipeline(second, teacher()))
    assert same(student(flat, alpha=0.5).fit(X, y), student(nested, alpha=0.5).fit(X, y))


def test_a_frozen_teacher_stays_as_it_is(pair, frozen):
    X, y = pair
    before, parameters = weights(frozen.estimator), frozen.estimator.module_.parameters
    gradients = [parameter.grad.clone() for parameter in parameters()]
    for net in (
        *(student(frozen, alpha=0.5, strategy=name) for name in ("offline", "two-step")),
        student(frozen, start_from_teacher=True),
        FineTunedSleepStager(frozen, **FAST),
    ):
        net.fit(X, y)
        assert same(before, frozen.estimator)
        assert all(parameter.requires_grad for parameter in parameters())
        for parameter, gradient in zip(parameters(), gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)


def test_a_teacher_is_frozen_whole_or_not(pair, frozen):
    X, y = pair
    before = weights(frozen.estimator)
    half = make_pipeline(EpochScaler(), frozen)
    for given in (half, make_pipeline(EpochScaler(), half)):
        for net in (student(given), of_plain(given), FineTunedSleepStager(given, **FAST)):
            with pytest.raises(ValueError, match=r"Freeze all of it.*FrozenEstimator\("):
                net.fit(X, y)
    assert same(before, frozen.estimator)


def test_start_from_teacher(pair):
    X, y = pair
    still = {"lr": 0.0, "teacher__lr": 0.0}
    net = student(start_from_teacher=True).set_params(**still).fit(X, y)
    parameters = dict(net.module_.named_parameters())
    for name, value in net.teacher_.module_.named_parameters():
        assert torch.equal(value, parameters[name])
    # Else they begin at different weights.
    net = student().set_params(**still).fit(X, y)
    assert not torch.equal(net.module_.filters.weight, net.teacher_.module_.filters.weight)
    with pytest.raises(ValueError, match="networks differ"):
        student(start_from_teacher=True, module__n_filters=5).fit(X, y)


def test_start_from_teacher_where_that_is_possible(pair):
    # "auto" is True where the networks are equal, and False elsewhere.
    X, y = pair
    for of, params in (
        (True, {}),
        (False, {"module__n_filters": 5, "feature_loss": None, "alpha": 0.5}),
        (False, {"strategy": "online"}),
    ):
        net = student(start_from_teacher="auto", **params).fit(X, y)
        assert same(net, student(start_from_teacher=of, **params).fit(X, y))
    forest = RandomForestClassifier(random_state=0)
    pooled = make_pipeline(FunctionTransformer(lambda X: np.asarray(X).var(axis=2)), forest)
    other = {"module": TinyNetwork, "feature_loss": None, "alpha": 0.5}
    student(pooled, start_from_teacher="auto", **other).fit(X, y)
    few = FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, np.minimum(y, 3)))
    classes = {"classes": "aasm", "feature_loss": None, "alpha": 0.5}
    net = student(few, start_from_teacher="auto", **classes).fit(X, y)
    assert same(net, student(few, **classes).fit(X, y))


def test_a_fine_tuned_teacher_lends_its_architecture(pair):
    X, y = pair
    tuned = FineTunedSleepStager(teacher(module__n_filters=6), **FAST).fit(X, y)
    assert student(FrozenEstimator(tuned)).fit(X, y).module_.filters.out_channels == 6


def test_same_subjects_are_held_out_by_both():
    X, y = make_pair(n_subjects=12, n_epochs=8)
    for net in (student(), student(strategy="online"), FineTunedSleepStager(teacher())):
        net.set_params(validation=3, **FAST).fit(X, y)
        inner = net.pretrained_ if isinstance(net, FineTunedSleepStager) else net.teacher_
        assert len(net.held_out_) == 3
        np.testing.assert_array_equal(inner.held_out_, net.held_out_)


def test_other_gpus_are_left_alone(pair, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)  # none of which can be asked
    X, y = pair
    for net in (student(), FineTunedSleepStager(teacher(), **FAST)):
        assert net.fit(X, y).predict(X).shape == y.shape


def test_memory_fits_a_teacher_once(pair, tmp_path, rows):
    X, y = pair
    given, shared = teacher(SpyNetwork), {**FAST, "memory": str(tmp_path)}
    first = DistilledSleepStager(given, TinyNetwork, **shared).fit(X, y)
    before = len(rows)
    FineTunedSleepStager(given, **{**shared, "max_epochs": 0}).fit(X, y)
    assert len(rows) == before, "transfer fitted the source stager again"
    for changed in ({"feature_weight": 3}, {"memory": None}):
        net = DistilledSleepStager(given, TinyNetwork, **{**shared, **changed})
        assert same(first.teacher_, net.fit(X[::1], y).teacher_)
    for changed, labels in ((X[::-1], y[::-1]), (X, np.roll(y, 1))):
        before = len(rows)
        DistilledSleepStager(given, TinyNetwork, **shared).fit(changed, labels)
        assert len(rows) > before + 5, "other data, and no teacher was fitted"


# ---------------------------------------------------------------- parameters


def test_grid_search_over_the_teachers_parameters(pair):
    X, y = pair
    grid = {"teacher__lr": [1e-4, 1e-2], "feature_weight": [0.5]}
    search = GridSearchCV(student(), grid, cv=GroupKFold(2)).fit(X, y, groups=X.subject)
    best = search.best_params_["teacher__lr"]
    assert search.best_estimator_.teacher_.lr == best
    assert search.best_estimator_.teacher_.optimizer_.param_groups[0]["lr"] == best


def test_parameters_of_what_has_none_cannot_be_set():
    net = student(strategy="online")
    with pytest.raises(ValueError, match=r"strategy__augment_source.*'online'.*Online\(\)"):
        net.set_params(strategy__augment_source=True)
    with pytest.raises(ValueError, match="teacher__lr cannot be set: teacher is None"):
        net.set_params(teacher=None, teacher__lr=0.1)


def test_set_params_of_a_frozen_teacher_says_why_not(frozen):
    net = student(frozen)
    with pytest.raises(ValueError, match="teacher__lr cannot be set.*FrozenEstimator"):
        net.set_params(teacher__lr=0.1)
    net.set_params(teacher=teacher(), teacher__lr=0.5, feature_loss=FeatureMSE(pool=True))
    assert net.teacher.lr == 0.5
    assert clone(net).feature_loss.pool


def test_partial_fit_goes_on_with_the_student(pair):
    X, y = pair
    net = student().fit(X, y).partial_fit(X, y)
    assert len(net.history_) == 2
    with pytest.raises(ValueError, match="needs the teacher's signal"):
        net.partial_fit(X["target"], y)
    with pytest.raises(AttributeError) as caught:
        student(strategy="online").fit(X, y).partial_fit(X, y)
    assert "begins anew" in str(caught.value.__cause__)
    assert not hasattr(student(strategy="online"), "partial_fit")


@pytest.mark.parametrize(
    "params",
    [{"output_loss": "dist"}, {"output_loss__temperature": 4.0}, {"feature_loss": None}],
)
def test_a_training_goes_on_with_the_losses_that_it_began_with(pair, params):
    X, y = pair
    net = student(alpha=0.5).fit(X, y).set_params(**params)
    with pytest.raises(ValueError, match=f"that it began with.*{min(params)}"):
        net.partial_fit(X, y)
    assert len(net.fit(X, y).partial_fit(X, y).history_) == 2


# ---------------------------------------------------------------- mistakes


class NeverOfSequences(NeverTrained, TinySequenceNetwork):
    pass


NEVER = SleepStager(NeverTiny, **FAST)
NEVER_AASM = SleepStager(NeverTiny, classes="aasm", **FAST)
NEVER_SEQUENCES = SleepStager(NeverOfSequences, sequence_length=4, **FAST)
OTHERS = {"classes": [0, 1, 2, 3, 4, 5]}
PLAIN = LogisticRegression()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "sideways"}, "Unknown strategy 'sideways'.*'offline', 'online'"),
        ({"feature_loss": "mae"}, "Unknown feature_loss 'mae'"),
        ({"alpha": 2}, "alpha"),
        ({"temperature": 0}, "temperature"),
        ({"class_weight": {9: 1}}, "class_weight"),
        ({"classes": "wnr"}, "Unknown"),
        ({"module": "Nothing"}, "Nothing"),
        ({"layers": "nope"}, "no layer 'nope'"),
        ({"layers": []}, "layers is empty"),
        ({"feature_loss": "attention"}, "without a time axis"),
        ({"module__n_filters": 3}, 'adapter="linear"'),
        (
            {"output_loss__temprature": 2.0, "alpha": 0.5},
            r"SoftmaxDistillation\(temperature=1.0\) is not made by output_loss__temprature",
        ),
        (
            {"feature_loss": FeatureMSE(), "feature_loss__reduction": "summ"},
            "reduction is 'mean' or 'sum'; given 'summ'",
        ),
        (
            {"output_loss": "dkd", "output_loss__other_weight": -1.0},
            "not below 0; given -1",
        ),
        ({"output_loss": "dist", "output_loss__within_weight": "1"}, "within_weight is a"),
        ({"feature_loss": "relational", "feature_loss__angle_weight": None}, "given None"),
        ({"start_from_teacher": "Auto"}, "True, False or 'auto'; given 'Auto'"),
        ({"start_from_teacher": 1}, "True, False or 'auto'; given 1"),
        ({"strategy": ["online"]}, "Unknown strategy"),
        ({"feature_loss": None}, "Nothing of the teacher"),
        ({"strategy": "online", "warm_start": True}, "warm_start"),
        ({"given": PLAIN}, "needs a teacher that is a SleepStager"),
        ({"given": PLAIN, "feature_loss": None}, "module=None needs"),
        ({"start_from_teacher": True, **OTHERS}, "same classes"),
        ({"layers": "output", **OTHERS}, "same classes"),
        ({"strategy": "online", "start_from_teacher": True}, "start_from_teacher"),
        ({"given": FrozenEstimator(teacher()), "strategy": "online"}, "FrozenEstimator"),
        ({"given": FrozenEstimator(teacher())}, "not fitted"),
        (
            {"module__n_filters": 5, "start_from_teacher": True},
            "cannot begin at the teacher's weights",
        ),
        ({"strategy": "two-step", "feature_loss": None}, "learns features first"),
        ({"strategy": "two-step", "feature_weight": 0}, "learns features first"),
        (
            {"given": PLAIN, "strategy": "two-step", "module": TinyNetwork},
            "needs a teacher that is a SleepStager",
        ),
        (
            {"given": NEVER_AASM, "classes": "wldr", "alpha": 0.5, "feature_loss": None},
            "'aasm', the student's 'wldr'",
        ),
        # Layers that do not fit each other, and what makes no adapters.
        ({"layers": [("features", "filters")], "adapter": "linear"}, "fewer axes"),
        ({"adapter": "quadratic"}, "adapter is None, 'linear' or a callable"),
        ({"adapter": 3}, "adapter is None, 'linear' or a callable"),
        ({"adapter": nn.Linear(3, 9)}, "adapter is None, 'linear' or a callable"),
        (
            {"feature_loss": None, "alpha": 0.5, "adapter": "linear"},
            "features for a feature_loss, which is None",
        ),
        # Sequences.
        (
            {"module": TinySequenceNetwork, "alpha": 0.5, "sequence_length": 3},
            "the teacher's sequence_length is 1, the student's 3",
        ),
        (
            {
                **{"given": NEVER_SEQUENCES, "module": TinyNetwork, "sequence_length": 4},
                **{"feature_loss": None, "alpha": 0.5},
            },
            r"TinyNetwork does not take windows .*\(1, 5, 4\)",
        ),
    ],
)
def test_mistakes_are_found_before_the_teacher_is_fitted(pair, options, message):
    with pytest.raises(ValueError, match=message):
        student(**{"given": NEVER, **options}).fit(*pair)


def test_a_layer_that_sees_the_epochs_of_a_window_apart(pair):
    given = SleepStager(TinySequenceNetwork, sequence_length=4, **FAST)
    with pytest.raises(ValueError, match="'norm' has .* outputs for .* windows"):
        student(given, layers=["norm"], sequence_length=4).fit(*pair)


def test_bad_pairs(pair):
    X, y = pair
    source, spoiled = X["source"], X["source"].copy()
    spoiled[3] = np.nan
    for given, X_source, message in (
        (X["target"], None, "needs the teacher's signal"),
        (X["target"], source[1:], "144 target epochs and 143 source epochs"),
        (X, source, "given twice"),
        (X["target"], spoiled, "source holds NaN.*epoch 3"),
        (X["target"], source * 1e-6, "source looks like volts"),
        (PairedEpochs(X["target"] * 1e-6, source=source), None, "target looks like volts"),
    ):
        with pytest.raises(ValueError, match=message):
            student(NEVER).fit(given, y, X_source=X_source)


# ---------------------------------------------------------------- losses by name


class Labelled(nn.Module):
    """A loss of outputs that keeps the codes it is given."""

    seen = []  # noqa: RUF012

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, student, teacher, y):
        Labelled.seen.append(y.clone())
        return self.scale * (student - teacher).square().mean()


@pytest.mark.parametrize(
    ("name", "loss"),
    [("dkd", DecoupledDistillation), ("dist", CorrelationDistillation)],
)
def test_output_losses_by_name_class_and_instance(pair, frozen, name, loss):
    X, y = pair
    y = np.where(X.subject == "s0", -1, y)
    options = {"alpha": 0.5, "feature_loss": None, "max_epochs": 2}
    by_name, by_class, by_instance = (
        student(frozen, output_loss=given, **options).fit(X, y)
        for given in (name, loss, loss())
    )
    assert same(by_name, by_class)
    assert same(by_name, by_instance)
    assert not same(by_name, student(frozen, **options).fit(X, y))
    assert by_name.history_[-1][f"train_{name}_loss"] > 0
    assert by_instance.history_[-1]["train_output_loss"] > 0


def test_a_loss_that_needs_labels_is_given_their_codes(pair, frozen):
    X, y = pair
    Labelled.seen.clear()
    y = np.where(X.subject == "s0", -1, y)
    options = {"batch_size": 999, "iterator_train__shuffle": False}
    student(frozen, alpha=0.5, output_loss=Labelled, **options).fit(X, y)
    np.testing.assert_array_equal(Labelled.seen[0].numpy(), y)
    student(frozen, feature_loss=Labelled(), **options).fit(X, y)
    np.testing.assert_array_equal(Labelled.seen[-1].numpy(), y)


def test_parameters_of_losses_are_set_and_searched(pair, frozen):
    X, y = pair
    net = student(frozen, alpha=0.5, output_loss="dkd", output_loss__other_weight=3.0)
    net = clone(net).set_params(output_loss__temperature=2.0)
    assert net.get_params()["output_loss__temperature"] == 2.0
    loss = net.fit(X, y).output_loss_
    assert (loss.other_weight, loss.temperature) == (3.0, 2.0)
    grid = {"output_loss__temperature": [1.0, 4.0], "feature_loss": ["mse", "relational"]}
    net.set_params(teacher=teacher())
    search = GridSearchCV(net, grid, cv=GroupKFold(2)).fit(X, y, groups=X.subject)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.output_loss_.temperature in (1.0, 4.0)
    again = net.set_params(output_loss="softmax", feature_loss__reduction="sum")
    with pytest.raises(ValueError, match=r"SoftmaxDistillation.*output_loss__other_weight"):
        again.fit(X, y)


def test_parameters_of_an_instance_are_set_on_a_copy(pair, frozen):
    X, y = pair
    given = Labelled()
    net = student(frozen, alpha=0.5, output_loss=given, output_loss__scale=2.0).fit(X, y)
    assert (net.output_loss_.scale, given.scale) == (2.0, 1.0)
    net = student(frozen, feature_loss=given, feature_loss__size=2.0)
    with pytest.raises(
        ValueError, match="Labelled has no size, as feature_loss__size asks"
    ):
        net.fit(X, y)


class Weighted(nn.Module):
    """A loss with weights of its own, which its parameters alone do not make."""

    def __init__(self, n_classes):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.rand(n_classes)), 1.0

    def forward(self, student, teacher):
        return self.scale * (self.weight * (student - teacher).square()).mean()


def test_an_instance_keeps_what_it_holds_beside_its_parameters(pair, frozen):
    given = Weighted(5)
    options = {"output_loss": given, "output_loss__scale": 2.0, "max_epochs": 0}
    net = student(frozen, alpha=0.5, **options).fit(*pair)
    assert net.output_loss_.scale == 2.0
    assert torch.equal(net.output_loss_.weight, given.weight)


class Queue(FeatureLoss):
    """Compares with the nearest of the batch's other epochs, and counts batches."""

    batches = 0

    def compare(self, student, teacher):
        self.batches += 1
        near = [torch.cdist(x, x).topk(5).values for x in (student, teacher)]
        return (near[0] - near[1]).square().mean()


def test_a_loss_of_ones_own_sees_batches_alone(pair, frozen):
    net = student(frozen, feature_loss=Queue(), batch_size=999, max_epochs=2).fit(*pair)
    assert net.matched_layers_[0].loss.batches == 2


def test_the_temperature_reaches_every_loss_that_was_given_no_other(pair, frozen):
    X, y = pair
    options = {"alpha": 0.5, "feature_loss": "contrastive"}

    def temperatures(**params):
        net = student(frozen, **options, **params).fit(X, y)
        return net.output_loss_.temperature, net.matched_layers_[0].loss.temperature

    assert temperatures() == (1.0, 0.1)
    assert temperatures(temperature=2.0) == (2.0, 2.0)
    assert temperatures(temperature=2.0, feature_loss__temperature=0.2) == (2.0, 0.2)
    assert temperatures(output_loss=SoftmaxDistillation(3.0)) == (3.0, 0.1)
    net = student(frozen, temperature=2.0, alpha=0.5, output_loss=SoftmaxDistillation(3.0))
    net.fit(X, y).set_params(temperature=None).partial_fit(X, y)
    assert net.output_loss_.temperature == 3.0, "the loss's own comes back"


@pytest.mark.parametrize("name", ["output_loss", "feature_loss"])
@pytest.mark.parametrize("given", ["mean", len, 3.0, dict])
def test_what_is_no_loss_is_refused(pair, frozen, name, given):
    with pytest.raises(ValueError, match=name):
        student(frozen, alpha=0.5, **{name: given}).fit(*pair)
