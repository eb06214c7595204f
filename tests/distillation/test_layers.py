import copy
import functools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Callback
from torch import nn

from skleepkd import DistilledSleepStager, SleepStager, load, save
from skleepkd.distillation import FeatureMSE, Projection, capture_features
from tests.tiny import (
    FAST,
    FEATURES,
    Stop,
    TinyNetwork,
    TinySequenceNetwork,
    make_pair,
    same,
)


def teacher(**params):
    """A wide teacher: nine filters."""
    options = {"module__n_filters": 9, "max_epochs": 1, "device": "cpu", **params}
    return SleepStager(TinyNetwork, **options)


def frozen(X, y):
    return FrozenEstimator(teacher(random_state=3).fit(X.source_epochs, y))


def student(given=None, module=TinyNetwork, **params):
    """A narrow student: three filters."""
    options = {"module__n_filters": 3, "adapter": "linear", **FAST, **FEATURES, **params}
    return DistilledSleepStager(given or teacher(), module, **options)


# ---------------------------------------------------------------- the projection


def identity(shape):
    """A projection between equal shapes that changes nothing."""
    projection = Projection(shape, shape)
    with torch.no_grad():
        projection.channels.weight.copy_(torch.eye(shape[0])[..., None])
        projection.channels.bias.zero_()
    return projection


def mixed(projection, features):
    """What the map of channels makes of features (batch, channels, ...)."""
    weight, bias = projection.channels.weight[..., 0], projection.channels.bias
    return F.linear(features.movedim(1, -1), weight, bias).movedim(-1, 1)


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 3, 4)])
def test_an_identity_changes_nothing(shape):
    features = torch.randn(6, *shape)
    torch.testing.assert_close(identity(shape)(features), features)


@pytest.mark.parametrize("time", [(), (11,)])
def test_channels_are_mixed_alike_at_every_moment(time):
    projection = Projection((3, *time), (4, *time))
    features = torch.randn(2, 3, *time)
    torch.testing.assert_close(projection(features), mixed(projection, features))
    assert sum(p.numel() for p in projection.parameters()) == 3 * 4 + 4


def resampling(n_own, n_taught):
    """What a projection does to time, as a matrix, one moment after the other."""
    projection = identity((1, n_own))
    projection.lengths = (n_taught,)
    with torch.no_grad():
        return projection(torch.eye(n_own)[:, None])[:, 0].T  # (n_taught, n_own)


def test_fewer_moments_are_means_of_all_that_there_are():
    pairs = torch.repeat_interleave(torch.eye(3), 2, dim=1)
    torch.testing.assert_close(resampling(6, 3), pairs / 2)
    matrix = resampling(125, 2)  # neighbours share the moment in the middle
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(2))
    assert (matrix.sum(dim=0) > 0).all(), "a moment of the student is not taught"


def test_more_moments_lie_on_lines_between_those_that_there_are():
    line = torch.linspace(0, 1, 4)  # moments at 1/8, 3/8, 5/8 and 7/8 of an epoch
    moments = (torch.arange(16) + 0.5) / 16
    expected = ((moments - 1 / 8) / (6 / 8)).clamp(0, 1)
    torch.testing.assert_close(resampling(4, 16) @ line, expected)


@pytest.mark.parametrize("lengths", [(12, 5), (5, 12)])
def test_map_and_resampling_may_change_places(lengths):
    """The promise of the notes: it is the same map, applied where it is cheaper."""
    own, taught = lengths
    projection = Projection((3, own), (4, taught))
    features = torch.randn(2, 3, own)
    with torch.no_grad():
        mixed = projection.channels(features) @ resampling(own, taught).T
        before = projection.channels(features @ resampling(own, taught).T)
        torch.testing.assert_close(mixed, before)
        torch.testing.assert_close(projection(features), mixed)


def test_each_axis_is_resampled_by_itself():
    first, second = torch.randn(3), torch.randn(9)
    projection = identity((1, 3, 9))
    projection.lengths = (6, 2)
    expected = torch.outer(resampling(3, 6) @ first, resampling(9, 2) @ second)
    found = projection(torch.outer(first, second)[None, None])[0, 0]
    torch.testing.assert_close(found, expected)


def test_axes_that_the_teacher_lacks_are_averaged():
    projection = Projection((3, 4, 5), (2,))
    features = torch.randn(6, 3, 4, 5)
    expected = projection(features.mean(dim=(2, 3))[..., None, None].expand(-1, -1, 4, 5))
    torch.testing.assert_close(projection(features), expected)


@pytest.mark.parametrize(
    ("own", "taught", "axis"),
    [((6, 3), (6, 5), -1), ((4, 3, 9), (5, 6, 2), 0), ((8, 7, 3), (2, 5), -1)],
)
def test_shapes(own, taught, axis):
    projection = Projection(own, taught, channel_axis=axis)
    assert projection(torch.randn(2, *own)).shape == (2, *taught)
    assert projection.channels.weight.shape[:2] == (taught[axis], own[axis])


# ---------------------------------------------------------------- in a training


def test_the_first_loss_is_that_of_the_projected_features(X, y):
    """One full batch and no step: recompute the loss by hand."""
    given = frozen(X, y)
    net = student(given, batch_size=len(X), lr=0.0).fit(X, y)
    (adapter,) = net.adapters_
    with torch.no_grad(), capture_features(net.module_.train(), ["features"]) as seen:
        net.module_(torch.from_numpy(X["target"]))
        projected = mixed(adapter, seen["features"])
    taught = torch.from_numpy(given.estimator.extract_features(X["source"]))
    expected = (projected - taught).square().mean().item()
    assert net.history_[-1]["train_feature_loss"] == pytest.approx(expected, rel=2e-3)


def make_identity(own, taught):
    assert own == taught
    return identity(own)


def test_an_identity_is_a_training_without(X, y):
    options = {"module__n_filters": 9, "lr": 0.0}
    plain, net = (
        student(frozen(X, y), adapter=adapter, **options).fit(X, y)
        for adapter in (None, make_identity)
    )
    expected = plain.history_[0, "train_loss"]
    assert net.history_[0, "train_loss"] == pytest.approx(expected, rel=1e-6)
    assert same(net, plain)


class Gradients(Callback):
    """Remembers which gradients the last step took."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        parts = {"student": net.module_, "adapters": net.adapters_}
        self.seen = {
            part: {name: p.grad is not None for name, p in module.named_parameters()}
            for part, module in parts.items()
        }


@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_gradients_reach_student_and_adapters_and_never_the_teacher(X, y, strategy):
    options = {"strategy": strategy, "callbacks": [watch := Gradients()], "alpha": 0.5}
    if strategy == "two-step":
        options |= {"feature_max_epochs": 1, "max_epochs": 0}
    net = student(**options).fit(X, y)
    assert watch.seen["adapters"] == {"0.channels.weight": True, "0.channels.bias": True}
    of_features = {name: not name.startswith("head") for name in watch.seen["student"]}
    if strategy == "two-step":
        assert watch.seen["student"] == of_features
    # The teacher is that of a student which does not look at its features.
    apart = student(strategy=strategy, feature_weight=0.0, alpha=0.5)
    if strategy != "two-step":
        assert same(apart.fit(X, y).teacher_, net.teacher_)


@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_adapters_are_trained_and_are_no_part_of_the_student(X, y, strategy, tmp_path):
    net = student(strategy=strategy, lr=0.01).fit(X, y)
    start = student(strategy=strategy, lr=0.0).fit(X, y)
    assert not same(net.adapters_, start.adapters_)
    alone = TinyNetwork(2, 60, 5, n_filters=3)
    assert net.module_.state_dict().keys() == alone.state_dict().keys()
    save(net, tmp_path / "student.safetensors")
    assert same(load(tmp_path / "student.safetensors", module=TinyNetwork), net)


def test_random_numbers_of_the_student_stay_as_they_are(X, y):
    """Adapters are drawn apart: weights, batches and dropout are those of one without."""
    given = frozen(X, y)
    options = {"module__dropout": 0.3, "feature_weight": 1e-30, "module__n_filters": 9}
    net = student(given, **options).fit(X, y)
    assert same(student(given, adapter=None, **options).fit(X, y), net)
    assert same(student(given, **options).fit(X, y).adapters_, net.adapters_)
    other = student(given, **options).set_params(random_state=1).fit(X, y)
    assert not same(other.adapters_, net.adapters_)


def test_one_adapter_a_layer(X, y):
    layers = [("filters", "features"), "filters", "features"]  # with time and without
    net = student(layers=layers).fit(X, y)
    shapes = [tuple(a.channels.weight.shape[:2]) for a in net.adapters_]
    assert shapes == [(9, 3)] * 3
    assert [a.lengths for a in net.adapters_] == [(), (60,), ()]


def with_statistics(own, taught):
    return nn.Sequential(nn.BatchNorm1d(own[0]), nn.Linear(own[0], taught[0]))


def test_features_are_tried_without_a_trace(X, y):
    """No adapter moves the numbers of the next one, or learns from what is tried."""
    given = frozen(X, y)
    apart, net = (
        student(given, feature_loss=loss, layers=["features"] * 2, lr=0.0).fit(X, y)
        for loss in (nn.MSELoss(), "mse")  # of which the second is tried
    )
    assert same(net.adapters_, apart.adapters_)
    net = student(given, adapter=with_statistics, max_epochs=0).fit(X, y)
    assert not net.adapters_[0][0].running_mean.any()


class Short(TinyNetwork):
    """A student with another time axis: every fifth moment."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.filters.stride = (5,)


@pytest.mark.parametrize("feature_loss", ["mse", "attention", FeatureMSE(pool=True)])
def test_another_time_axis(pair, feature_loss):
    options = {"feature_loss": feature_loss, "layers": "filters", "max_epochs": 2}
    net = student(module=Short, **options).fit(*pair)
    assert net.adapters_[0].lengths == (60,)
    losses = net.history_[:, "train_feature_loss"]
    assert losses[1] < losses[0]


class Narrow(TinySequenceNetwork):
    """Two units in place of three, each way."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.sequence_encoder = nn.GRU(4, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4, n_outputs)


by_channels = functools.partial(Projection, channel_axis=-1)


@pytest.mark.parametrize(
    ("strategy", "adapter"), [("offline", "linear"), ("online", by_channels)]
)
def test_windows_of_epochs(strategy, adapter):
    X, y = make_pair(n_subjects=3, n_epochs=10)
    given = SleepStager(TinySequenceNetwork, sequence_length=4, max_epochs=1, device="cpu")
    options = {"strategy": strategy, "sequence_length": 4, "adapter": adapter, **FAST}
    net = DistilledSleepStager(given, Narrow, **options).fit(X, y)
    (adapter,) = net.adapters_
    assert adapter.channels.weight.shape == (6, 4, 1)
    assert adapter.lengths == (4,)
    assert net.predict(X).shape == y.shape


def test_half_precision(pair):
    net = student(autocast=True).fit(*pair)
    assert {p.dtype for p in net.adapters_.parameters()} == {torch.float32}
    assert np.isfinite(net.history_[:, "train_feature_loss"]).all()


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
def test_compiled(X, y, strategy):
    plain = student(strategy=strategy).fit(X, y)
    options = {"compile": True, "compile__backend": "eager"}
    net = student(strategy=strategy, **options).fit(X, y)
    np.testing.assert_allclose(net.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    own, other = (dict(each.adapters_.named_parameters()) for each in (net, plain))
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- kept and put back


def test_the_best_pass_has_its_adapters(X, y):
    options = {"validation": 2, "lr": 3e-3, "max_epochs": 8}
    net = student(frozen(X, y), **options).fit(X, y)
    best = net.best_epoch_
    assert 1 < best < 8, "the test needs a best pass in the middle"
    again = student(frozen(X, y), **{**options, "max_epochs": best}).fit(X, y)
    assert same(again.adapters_, net.adapters_)


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
def test_a_resumed_training_ends_at_the_same_weights(X, y, strategy, tmp_path, monkeypatch):
    options = {"max_epochs": 3, "strategy": strategy, "validation": 2, "lr": 0.01}
    whole = student(**options).fit(X, y)
    kept = student(checkpoint=tmp_path, callbacks=[Stop()], **options)
    monkeypatch.setattr(Stop, "after", 2)
    with pytest.raises(KeyboardInterrupt):
        clone(kept).fit(X, y)
    monkeypatch.setattr(Stop, "after", None)
    for _ in range(2):  # resumed, and read back when it was finished
        net = clone(kept).fit(X, y)
        assert same(net, whole)
        assert same(net.adapters_, whole.adapters_)


def test_the_first_of_two_steps_is_remembered_with_its_adapters(X, y, tmp_path):
    given = frozen(X, y)
    options = {"strategy": "two-step", "lr": 0.01}
    plain = student(given, **options).fit(X, y)
    kept = {"memory": str(tmp_path), **options}
    for _ in range(2):
        net = student(given, **kept).fit(X, y)
        assert same(net.adapters_, plain.adapters_)
        assert same(net, plain)
    assert len(list(tmp_path.rglob("distilled/_learn/*/output.pkl"))) == 1
    # The second step leaves them as they are.
    short = student(given, feature_max_epochs=1, **options).set_params(max_epochs=0)
    assert same(short.fit(X, y).adapters_, plain.adapters_)
    # Another adapter is another first step.
    student(given, **kept).set_params(adapter=by_channels).fit(X, y)
    assert len(list(tmp_path.rglob("distilled/_learn/*/output.pkl"))) == 2


def test_training_goes_on_with_the_adapters_that_are_there(X, y):
    net = student().fit(X, y)
    matched, before = net.matched_layers_, copy.deepcopy(net.adapters_)
    net.partial_fit(X, y)
    assert net.matched_layers_ is matched
    assert not same(net.adapters_, before)


def test_parameters_and_pickles(X, y):
    net = clone(student(adapter=None)).set_params(adapter="linear")
    assert net.get_params()["adapter"] == clone(net).adapter == "linear"
    net.fit(X, y)
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert same(again.adapters_, net.adapters_)
        np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
    # Without features again: no adapter is left.
    net.set_params(feature_loss=None, adapter=None, alpha=0.5).fit(X, y)
    assert not list(net.adapters_.parameters())
