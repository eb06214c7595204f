import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skleepkd import FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.estimators.finetuned import eval_frozen_modules
from tests.tiny import FAST, NeverTiny, TinyNetwork, same, weights

NEVER = SleepStager(NeverTiny, classes="aasm", **FAST)


def source_stager(network=TinyNetwork, **params):
    return SleepStager(network, **{"max_epochs": 1, "lr": 0.01, "device": "cpu", **params})


def tuned(pretrained=None, **params):
    pretrained = source_stager() if pretrained is None else pretrained
    return FineTunedSleepStager(pretrained, **{**FAST, "lr": 0.01, **params})


@pytest.fixture
def frozen(pair):
    X, y = pair
    return FrozenEstimator(source_stager(random_state=3).fit(X.source_epochs, y))


@pytest.mark.parametrize(
    ("trainable", "moved"),
    [
        ("all", {"filters", "norm", "head"}),
        (("head",), {"head"}),
        ("head", {"head"}),
        (("filters",), {"filters", "norm"}),
        (("norm.*",), {"norm"}),
        (("head.bias",), {"head"}),
        (None, set()),
        ((), set()),
    ],
)
def test_each_row_moves_exactly_its_parameters(pair, frozen, trainable, moved):
    X, y = pair
    before = weights(frozen.estimator)
    net = tuned(frozen, trainable=trainable).fit(X, y)
    after = weights(net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Statistics of batch normalisation are part of the state and move only with it.
    assert {name.split(".")[0] for name in changed} == moved
    if trainable == ("head.bias",):
        assert changed == {"head.bias"}
    if not trainable:  # direct transfer
        expected = frozen.predict_proba(X["target"])
        np.testing.assert_array_equal(net.predict_proba(X["target"]), expected)
        assert len(net.history_) == 0
    # What it begins at is copied, not trained in place.
    assert same(before, frozen.estimator)


def test_it_begins_where_the_source_stager_ended(pair):
    X, y = pair
    net = tuned(lr=0.0).fit(X, y)
    parameters = dict(net.module_.named_parameters())
    for name, value in net.pretrained_.module_.named_parameters():
        assert torch.equal(value, parameters[name])
    assert same(clone(net).fit(X, y), net)


def test_what_is_not_trained_rests(pair):
    X, y = pair
    modes = []

    class Watching(TinyNetwork):
        def __init__(self, n_chans, n_times, n_outputs):
            super().__init__(n_chans, n_times, n_outputs)
            self.before = nn.Sequential(nn.BatchNorm1d(n_chans, affine=False))
            self.block = nn.Sequential(nn.Linear(n_times, n_times), nn.Dropout(0.5))

        def forward(self, x):
            watched = (self.before[0], self.block[1], self.norm, self.head, self.dropout)
            if self.training:
                modes.append([module.training for module in watched])
            return super().forward(self.block(self.before(x)))

    pretrained = source_stager(Watching).fit(X.source_epochs, y)
    statistics = pretrained.module_.before[0].running_mean.clone()
    frozen = FrozenEstimator(pretrained)
    modes.clear()
    head = tuned(frozen, trainable=("head",)).fit(X, y)
    assert modes == [[False, False, False, True, True]] * len(modes)
    assert torch.equal(head.module_.before[0].running_mean, statistics)
    modes.clear()
    tuned(frozen).fit(X, y)
    assert modes == [[True] * 5] * len(modes)


def test_recurrent_layers_at_rest_let_gradients_pass():
    """In evaluation mode cuDNN sends none through them; without dropout modes are alike."""

    class Part(nn.Module):
        def __init__(self, dropout):
            super().__init__()
            self.rnn = nn.GRU(3, 4, num_layers=2, dropout=dropout)
            self.norm = nn.BatchNorm1d(4)

    for dropout in (0.0, 0.5):
        network = nn.ModuleDict({"part": Part(dropout), "rnn": nn.GRU(4, 4)})
        eval_frozen_modules(network.train().requires_grad_(False))
        assert network["rnn"].training
        assert network["part"].rnn.training == (dropout == 0)
        assert not network["part"].norm.training


def halve(X):
    return np.asarray(X) / 2


def test_of_a_pipeline_the_network_alone_is_carried_over(pair):
    X, y = pair
    pipeline = make_pipeline(FunctionTransformer(halve), source_stager())
    net = tuned(pipeline, trainable=None).fit(X, y)
    direct = net.pretrained_[-1].predict_proba(X["target"])
    np.testing.assert_array_equal(net.predict_proba(X["target"]), direct)


def test_a_frozen_start_needs_no_source(pair, frozen):
    X, y = pair
    assert tuned(frozen).fit(X["target"], y).predict(X["target"]).shape == y.shape
    with pytest.raises(ValueError, match="needs the teacher's signal"):
        tuned().fit(X["target"], y)


def test_training_goes_on_without_the_source(pair):
    X, y = pair
    net = tuned().fit(X, y)
    source = net.pretrained_
    net.partial_fit(X.target_epochs, y)
    assert net.pretrained_ is source
    assert len(net.history) == 2


def test_classes_are_the_pretrained_stagers(pair, frozen):
    X, y = pair
    rows = y != 1
    for net in (tuned(frozen), tuned(frozen, classes="aasm")):
        assert net.fit(X[rows], y[rows]).classes_.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="pretrained stager's.*Leave classes out"):
        tuned(frozen, classes=[0, 1, 2, 3, 4, 5]).fit(X, y)
    with pytest.raises(ValueError, match="Unknown stage 7"):
        tuned(frozen).fit(X, np.where(y == 4, 7, y))


def test_parameters(frozen):
    assert "module" not in tuned().get_params()
    assert tuned().set_params(pretrained__lr=0.5).pretrained.lr == 0.5
    with pytest.raises(ValueError, match="pretrained__lr cannot be set"):
        tuned(frozen).set_params(pretrained__lr=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": ("tail",)}, "'tail'.*filters, head.*head.weight"),
        ({"trainable": ("head", "haed")}, "trainable names 'haed'"),
        ({"class_weight": "blanced"}, "given 'blanced'"),
        ({"classes": [0, 1]}, "Unknown stage 2, 3, 4"),
        ({"module__n_filters": 9}, "give n_filters there"),
        ({"pretrained": FunctionTransformer()}, "must be a SleepStager"),
    ],
)
def test_mistakes_are_found_before_the_source_is_learned(pair, options, message):
    with pytest.raises(ValueError, match=message):
        tuned(**{"pretrained": NEVER, **options}).fit(*pair)


def test_other_channels_are_found_before_the_source_is_learned(pair):
    X, y = pair
    fewer = X.replace(target=X["target"][:, :1])
    with pytest.raises(ValueError, match=r"takes 2 channel\(s\); the target has 1"):
        tuned(NEVER).fit(fewer, y)


def test_spectrograms_keep_the_rate_of_their_signal():
    """A spectrogram's frames say nothing of the sampling rate."""
    X = np.random.default_rng(0).standard_normal((24, 1, 5, 33)).astype(np.float32)
    y = np.repeat([0, 1], 12)
    stager = SleepStager("SeqSleepNet", module__n_filters=4, **FAST)
    plain = clone(stager).fit(X, y)
    assert plain.signal_ == {"n_chans": 1, "n_times": 5, "n_outputs": 2, "n_bins": 33}
    assert plain.predict(PairedEpochs(X, sfreq=64.0)).shape == (24,)
    known = stager.fit(PairedEpochs(X, sfreq=64.0), y)
    assert known.signal_["sfreq"] == 64.0
    other = PairedEpochs(X, sfreq=100.0)
    with pytest.raises(ValueError, match="fitted to 64 Hz; given epochs at 100 Hz"):
        known.predict(other)
    with pytest.raises(ValueError, match="takes 64 Hz; the target has 100"):
        tuned(FrozenEstimator(known)).fit(other, y)
