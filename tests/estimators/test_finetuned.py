import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from skleepkd import FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import LeakageWarning
from skleepkd.estimators.finetuned import eval_frozen_modules
from tests.tiny import TinyNetwork, make_pair

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}


def source_stager(**kwargs):
    return SleepStager(
        TinyNetwork, **{"max_epochs": 3, "lr": 0.01, "device": "cpu", **kwargs}
    )


def weights(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


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
    ],
)
def test_each_row_moves_exactly_its_parameters(pair, frozen, trainable, moved):
    X, y = pair
    net = FineTunedSleepStager(frozen, trainable=trainable, lr=0.01, max_epochs=2).fit(X, y)
    before, after = frozen.estimator.module_.state_dict(), net.module_.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # Statistics of batch normalisation are part of the state and move only with it.
    assert {name.split(".")[0] for name in changed} == moved
    if trainable == ("head.bias",):
        assert changed == {"head.bias"}


def test_direct_transfer_is_the_source_stager(pair, frozen):
    X, y = pair
    net = FineTunedSleepStager(frozen, trainable=None).fit(X, y)
    np.testing.assert_array_equal(
        net.predict_proba(X["target"]), frozen.predict_proba(X["target"])
    )
    assert len(net.history_) == 0


def test_pretrained_is_copied_not_trained(pair, frozen):
    X, y = pair
    before = weights(frozen.estimator)
    FineTunedSleepStager(frozen, **FAST).fit(X, y)
    assert all(
        torch.equal(before[name], value)
        for name, value in weights(frozen.estimator).items()
    )
    assert all(
        parameter.requires_grad for parameter in frozen.estimator.module_.parameters()
    )


def test_it_begins_where_the_source_stager_ended(pair):
    X, y = pair
    net = FineTunedSleepStager(source_stager(), lr=0.0, **FAST).fit(X, y)
    for name, value in net.pretrained_.module_.named_parameters():
        assert torch.equal(value, dict(net.module_.named_parameters())[name])
    second = clone(net).fit(X, y)
    np.testing.assert_array_equal(second.predict_proba(X), net.predict_proba(X))


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

    pretrained = SleepStager(Watching, **FAST).fit(X.source_epochs, y)
    statistics = pretrained.module_.before[0].running_mean.clone()
    modes.clear()
    head = FineTunedSleepStager(FrozenEstimator(pretrained), trainable=("head",), **FAST)
    head.fit(X, y)
    assert modes == [[False, False, False, True, True]] * len(modes)
    assert torch.equal(head.module_.before[0].running_mean, statistics)
    modes.clear()
    FineTunedSleepStager(FrozenEstimator(pretrained), **FAST).fit(X, y)
    assert modes == [[True] * 5] * len(modes)


def halve(X):
    return np.asarray(X) / 2


def test_of_a_pipeline_the_network_alone_is_carried_over(pair):
    X, y = pair
    pipeline = make_pipeline(FunctionTransformer(halve), source_stager())
    net = FineTunedSleepStager(pipeline, trainable=None, random_state=0).fit(X, y)
    direct = net.pretrained_[-1].predict_proba(X["target"])
    np.testing.assert_array_equal(net.predict_proba(X["target"]), direct)


def test_a_frozen_start_needs_no_source(pair, frozen):
    X, y = pair
    net = FineTunedSleepStager(frozen, **FAST).fit(X["target"], y)
    assert net.predict(X["target"]).shape == y.shape
    with pytest.raises(ValueError, match="needs the teacher's signal"):
        FineTunedSleepStager(source_stager()).fit(X["target"], y)


def test_classes_are_the_pretrained_stagers(pair, frozen):
    X, y = pair
    rows = y != 1
    net = FineTunedSleepStager(frozen, **FAST).fit(X[rows], y[rows])
    assert net.classes_.tolist() == [0, 1, 2, 3, 4]
    same = FineTunedSleepStager(frozen, classes="aasm", **FAST).fit(X, y)
    assert same.classes_.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="pretrained stager's.*Leave classes out"):
        FineTunedSleepStager(frozen, classes=[4, 3, 2, 1, 0]).fit(X, y)
    with pytest.raises(ValueError, match="give n_filters there"):
        FineTunedSleepStager(frozen, module__n_filters=9).fit(X, y)
    with pytest.raises(ValueError, match="Unknown stage 7"):
        FineTunedSleepStager(frozen).fit(X, np.where(y == 4, 7, y))


def test_same_subjects_are_held_out():
    X, y = make_pair(n_subjects=12, n_epochs=8)
    net = FineTunedSleepStager(source_stager(), validation=3, **FAST).fit(X, y)
    np.testing.assert_array_equal(net.pretrained_.held_out_, net.held_out_)


def test_leakage_of_a_frozen_start(pair):
    X, y = pair
    pretrained = source_stager(random_state=0).fit(X.source_epochs, y)
    train = X.subject != "s5"
    net = FineTunedSleepStager(FrozenEstimator(pretrained), **FAST).fit(X[train], y[train])
    with pytest.warns(
        LeakageWarning, match="pretrained stager was fitted on the subject s5"
    ):
        net.predict(X[~train])


def test_parameters(pair, frozen):
    X, y = pair
    net = FineTunedSleepStager(source_stager(), **FAST)
    assert "module" not in net.get_params()
    assert net.set_params(pretrained__lr=0.5).pretrained.lr == 0.5
    with pytest.raises(ValueError, match="pretrained__lr cannot be set"):
        FineTunedSleepStager(frozen).set_params(pretrained__lr=0.5)
    with pytest.raises(ValueError, match="'tail'.*filters, head.*head.weight"):
        FineTunedSleepStager(frozen, trainable=("tail",)).fit(X, y)
    with pytest.raises(ValueError, match="takes 2 channel.*has 1"):
        FineTunedSleepStager(frozen).fit(X["target"][:, :1], y)
    with pytest.raises(ValueError, match="must be a SleepStager"):
        FineTunedSleepStager(FunctionTransformer()).fit(X, y)


def test_recurrent_layers_at_rest_let_gradients_pass():
    """In evaluation mode cuDNN sends none through them; without dropout modes are alike."""

    class Part(torch.nn.Module):
        def __init__(self, dropout):
            super().__init__()
            self.rnn = torch.nn.GRU(3, 4, num_layers=2, dropout=dropout)
            self.norm = torch.nn.BatchNorm1d(4)

    for dropout in (0.0, 0.5):
        network = torch.nn.ModuleDict({"part": Part(dropout), "rnn": torch.nn.GRU(4, 4)})
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        eval_frozen_modules(network.train())
        assert network["rnn"].training
        assert network["part"].rnn.training == (dropout == 0)
        assert not network["part"].norm.training


def test_spectrograms_keep_the_rate_of_their_signal():
    """A spectrogram's frames say nothing of the sampling rate."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((24, 1, 5, 33)).astype(np.float32)
    y = np.repeat([0, 1], 12)
    plain = SleepStager(
        "SeqSleepNet", max_epochs=1, module__n_filters=4, random_state=0, device="cpu"
    ).fit(X, y)
    assert plain.signal_ == {"n_chans": 1, "n_times": 5, "n_outputs": 2, "n_bins": 33}
    pair = PairedEpochs(X, sfreq=64.0)
    assert plain.predict(pair).shape == (24,)
    known = SleepStager(
        "SeqSleepNet", max_epochs=1, module__n_filters=4, random_state=0, device="cpu"
    ).fit(pair, y)
    assert known.signal_["sfreq"] == 64.0
    other = PairedEpochs(X, sfreq=100.0)
    with pytest.raises(ValueError, match="fitted to 64 Hz; given epochs at 100 Hz"):
        known.predict(other)
    tuned = FineTunedSleepStager(FrozenEstimator(known), max_epochs=1, device="cpu")
    with pytest.raises(ValueError, match="takes 64 Hz; the target has 100"):
        tuned.fit(other, y)
