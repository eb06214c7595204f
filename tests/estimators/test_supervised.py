import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from skorch.dataset import ValidSplit
from torch import nn

from skleepkd import PairedEpochs, SleepStager
from tests.tiny import FAST, TinyNetwork, make_pair, same, weights


def stager(module=TinyNetwork, **params):
    return SleepStager(module, **{**FAST, **params})


# ---------------------------------------------------------------- what comes in


def test_all_kinds_of_array(pair):
    X, y = pair
    target = X["target"]
    expected = stager().fit(X.target_epochs, y).predict_proba(target)
    for given in (target, target.astype(np.float64), X):
        fitted = stager().fit(given, y.astype(np.int32), groups=X.subject)
        np.testing.assert_allclose(fitted.predict_proba(given), expected, rtol=1e-6)
    one_channel = stager().fit(target[:, 0], y)
    assert one_channel.module_.filters.in_channels == 1
    assert one_channel.predict(target[:5, 0]).shape == (5,)


def test_signal_parameters_come_from_the_data():
    seen = {}

    class Curious(TinyNetwork):
        def __init__(self, n_chans, n_times, n_outputs, sfreq):
            seen.update(n_chans=n_chans, n_times=n_times, n_outputs=n_outputs, sfreq=sfreq)
            super().__init__(n_chans, n_times, n_outputs)

    X, y = make_pair(n_chans=3)
    net = stager(Curious, classes="aasm")
    before = net.get_params(deep=False)
    net.fit(X, y)
    assert seen == {"n_chans": 3, "n_times": 60, "n_outputs": 5, "sfreq": 2.0}
    assert net.get_params(deep=False) == before
    net.fit(X["target"], y)
    assert seen["sfreq"] == 60 / 30


def test_a_partial_keeps_what_it_fixes(pair):
    fitted = stager(partial(TinyNetwork, n_filters=3, sfreq=7)).fit(*pair)
    assert fitted.module_.filters.out_channels == 3


def test_an_instance_is_never_trained_in_place(pair):
    module = TinyNetwork(2, 60, 5)
    before = weights(module)
    stager(module).fit(*pair)
    assert same(module, before)


def test_groups_that_contradict_the_pair(pair):
    X, y = pair
    with pytest.raises(ValueError, match="disagree"):
        stager().fit(X, y, groups=np.arange(len(y)) % 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (X * 1e-6, y), "looks like volts"),
        (lambda X, y: (X, y[:-1]), "one label each"),
        (lambda X, y: (np.where(X[7, 0, 3] == X, np.nan, X), y), "NaN"),
        (lambda X, y: (X, np.where(y == 4, 9, y)), "Unknown stage 9"),
        (lambda X, y: (X, np.where(y == 4, -2, y)), "Unknown stage -2"),
        (lambda X, y: (X, np.full(len(y), -1)), "scored"),
        (lambda X, y: (X, np.zeros(len(y), int)), "scored|stage"),
        (lambda X, y: (X[:, 0, 0], y), "shape"),
        (lambda X, y: (X.astype(str), y), "numbers"),
        (lambda X, y: (X[:0], y[:0]), "scored"),
        (lambda X, y: (X, np.where(y == 4, np.nan, y)), "NaN"),
    ],
)
def test_bad_input_to_fit(pair, spoil, message):
    given, labels = spoil(pair[0]["target"], pair[1])
    names = labels.dtype.kind == "i" and len(set(labels)) > 1
    with pytest.raises(ValueError, match=message):
        stager(classes="aasm" if names else None).fit(given, labels)


def test_bad_input_to_predict(pair):
    X, y = pair
    fitted, target = stager().fit(X, y), X["target"]
    for given, message in (
        (target[:, :1], "2 channel.*given 1 channel"),
        (target[:, :, :50], "60 samples; given 2 channel.* 50 samples"),
        (target / 1e6, "volts"),
        (target[:0], "no epochs"),
        (PairedEpochs(target, sfreq=1.0), "fitted to 2 Hz; given epochs at 1 Hz"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.predict(given)
    with pytest.raises(ValueError, match="no layer 'nothing'.*filters"):
        fitted.extract_features(X, layer="nothing")
    with pytest.raises(Exception, match="fitted|initialized"):
        stager().predict(X)


def test_a_teacher_given_the_wearable_warns(pair):
    X, y = pair
    names = {"target": ["L", "R"], "source": ["C3", "C4"]}
    named = PairedEpochs(X["target"], source=X["source"], ch_names=names)
    fitted = stager().fit(named.source_epochs, y)
    fitted.predict(named.source_epochs)
    with pytest.warns(UserWarning, match="channels C3, C4; given L, R.*source_epochs"):
        fitted.predict(named)


# ---------------------------------------------------------------- networks of one's own


class Shaped(TinyNetwork):
    """The tiny network with another output."""

    def __init__(self, n_chans, n_times, n_outputs, change):
        super().__init__(n_chans, n_times, n_outputs)
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda logits: logits[..., None], r"\(2, 5, 1\)"),
        (lambda logits: logits[:, :3], r"\(2, 3\)"),
        (lambda logits: logits.argmax(dim=1), r"\(2,\)"),
        (lambda logits: (logits, logits), "tuple"),
    ],
)
def test_a_network_of_ones_own_with_another_output(pair, change, shape):
    message = rf"output of Shaped .* is {shape}.*\(2, 5\), \(batch"
    with pytest.raises(ValueError, match=message):
        stager(Shaped, module__change=change).fit(*pair)


class OfTwo(nn.Module):
    """A loss of one's own, with a logit for the second of two classes."""

    def __init__(self, weight=None):
        super().__init__()

    def forward(self, logits, y):
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())


def test_a_loss_of_ones_own_takes_its_networks_output(pair):
    X, y = pair

    def two_columns(logits):
        return torch.cat([-logits, logits], dim=1).sigmoid()

    options = {"criterion": OfTwo, "predict_nonlinearity": two_columns}
    own = stager(Shaped, module__change=lambda logits: logits[:, :1], **options)
    assert own.fit(X, y > 2).predict_proba(X).shape == (len(y), 2)


# ---------------------------------------------------------------- training


def test_best_weights_are_those_of_the_best_kappa():
    X, y = make_pair(n_subjects=5)
    net = stager(validation=1, max_epochs=8, lr=0.3).fit(X, y)
    kappas = net.history_[:, "valid_kappa"]
    assert net.best_epoch_ == int(np.argmax(kappas)) + 1
    held = np.isin(X.subject, net.held_out_)
    measured = cohen_kappa_score(y[held], net.predict(X[held]))
    assert measured == pytest.approx(max(kappas))
    assert kappas[-1] != max(kappas), "the last pass is the best: this test shows nothing"


def test_a_last_batch_of_one_epoch_does_not_break_batch_normalisation():
    X, y = make_pair(n_subjects=1, n_epochs=33)

    class Strict(nn.Sequential):
        def __init__(self, n_chans, n_times, n_outputs):
            hidden = nn.Linear(n_chans * n_times, 3)
            head = nn.BatchNorm1d(3), nn.Linear(3, n_outputs)
            super().__init__(nn.Flatten(), hidden, *head)

    stager(Strict, batch_size=32).fit(X, y)


def test_own_train_split_of_skorch(pair):
    assert "valid_loss" in stager(train_split=ValidSplit(3)).fit(*pair).history_[-1]


def test_partial_fit_goes_on(pair):
    X, y = pair
    first, rows = X.subject != "s5", y != 1
    net = stager(max_epochs=2).fit(X[first], y[first])
    before = net.predict_proba(X)
    net.partial_fit(X, y)
    assert len(net.history_) == 4
    assert not np.array_equal(before, net.predict_proba(X))
    assert "s5" in net.fitted_on_["subject"]
    for given, labels, message in (
        (X["target"] * 1e-6, y, "volts"),
        (X[rows], y[rows], "goes on with the classes.*Fix the classes"),
        (X["target"][:, :1], y, "goes on with"),
    ):
        with pytest.raises(ValueError, match=message):
            net.partial_fit(given, labels)


def test_warm_start_keeps_the_labels_of_the_outputs(pair):
    X, y = pair
    net = stager(warm_start=True).fit(X, y % 3).fit(X, y % 3)
    assert len(net.history_) == 2
    with pytest.raises(ValueError, match="goes on with the classes"):
        net.fit(X, y % 3 + 1)


def test_global_random_state_is_left_alone(pair):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stager().fit(*pair)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(pair):
    X, y = pair
    net = stager(device="auto", max_epochs=20, lr=0.02).fit(X.source_epochs, y)
    assert next(net.module_.parameters()).is_cuda
    assert net.score(X.source_epochs, y) > 0.7
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_allclose(
        again.predict_proba(X.source_epochs), net.predict_proba(X.source_epochs), atol=1e-6
    )
