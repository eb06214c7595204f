"""Conventions of skorch, torch and braindecode: they work, or the error says what does."""

import numpy as np
import pytest
import torch
from braindecode.augmentation import AugmentedDataLoader, Mixup, SignFlip, Transform
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler, TensorBoard
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import DataLoader, default_collate

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.networks.build import check_output
from tests.tiny import TinyNetwork, TinySequenceNetwork, raises

FAST = {"max_epochs": 2, "random_state": 0, "device": "cpu"}


# ---------------------------------------------------------------- who validates


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping(),
        Checkpoint(),
        LRScheduler("ReduceLROnPlateau", monitor="valid_loss"),
        EarlyStopping("valid_kappa", lower_is_better=False),
    ],
)
def test_nobody_is_held_out(pair, callback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stager = SleepStager(TinyNetwork, callbacks=[callback], **FAST)
    with raises(r"watches 'valid_.*validation=2.*groups=.*monitor=\"train_loss\""):
        stager.fit(*pair)
    # A teacher is not trained first.
    fits = {"callbacks": [callback], "memory": tmp_path / "memory"}
    with raises("watches 'valid_"):
        DistilledSleepStager(SleepStager(TinyNetwork, **FAST), **fits, **FAST).fit(*pair)
    assert not (tmp_path / "memory").exists()
    stager.set_params(validation=2).fit(*pair)


def test_accuracy_is_not_computed(pair):
    stop = EarlyStopping("valid_acc", lower_is_better=False)
    with raises(r"'valid_acc'.*monitor=\"valid_kappa\""):
        SleepStager(TinyNetwork, callbacks=[stop], validation=2, **FAST).fit(*pair)


@pytest.mark.parametrize(
    ("callback", "given", "line"),
    [
        (EarlyStopping("valid_kappa"), {"strategy": "two-step"}, 'monitor="valid_loss"'),
        (
            Checkpoint(monitor="valid_kappa_best"),
            {"callbacks__best_weights": None},
            "computed",
        ),
        (EarlyStopping(load_best=True), {}, "callbacks__best_weights=None"),
        (Checkpoint(monitor="train_loss_best", load_best=True), {}, "highest valid_kappa"),
    ],
)
def test_two_choices_of_the_weights_and_scores_that_a_step_lacks(
    pair, callback, given, line
):
    stager = DistilledSleepStager(
        SleepStager(TinyNetwork, **FAST),
        callbacks=[callback],
        validation=2,
        **given,
        **FAST,
    )
    with raises(line):
        stager.fit(*pair)
    online = SleepStager(TinyNetwork, callbacks=[EarlyStopping("valid_kappa")], **FAST)
    with raises("an online teacher"):
        DistilledSleepStager(online, strategy="online", validation=2, **FAST).fit(*pair)


class Writer:
    """Stand in for a SummaryWriter, with the arguments that skorch gives."""

    def __init__(self):
        self.steps = {}

    def add_scalar(self, tag, scalar_value, global_step):
        self.steps.setdefault(tag, []).append(global_step)

    def close(self):
        self.steps["closed"] = True


@pytest.mark.parametrize("strategy", [None, "offline", "online", "two-step", "fine-tuned"])
def test_tensorboard_gets_every_pass_once(pair, strategy):
    own = SleepStager(TinyNetwork, **FAST)
    given = {"callbacks": [TensorBoard(Writer())], "validation": 2, **FAST}
    if strategy == "fine-tuned":
        net = FineTunedSleepStager(FrozenEstimator(own.fit(*pair)), **given)
    elif strategy is None:
        net = SleepStager(TinyNetwork, **given)
    else:
        net = DistilledSleepStager(own, strategy=strategy, **given)
    steps = net.fit(*pair).callbacks_[-2][1].writer.steps
    passes = [1, 2, 3, 4] if strategy == "two-step" else [1, 2]
    assert steps["Loss/train_loss"] == steps["Loss/valid_loss"] == passes
    assert steps["Loss/valid_kappa"] == passes[-2:]
    assert steps["closed"]


def test_a_validation_set_of_its_own(pair):
    X, y = pair
    for own in (Dataset(X["target"], y), torch.utils.data.TensorDataset(torch.zeros(3))):
        stager = SleepStager(TinyNetwork, train_split=predefined_split(own), **FAST)
        with raises(r"Join its epochs to X.*validation=\('s8', 's9'\)"):
            stager.fit(X, y)


# ---------------------------------------------------------------- softmax


class EndsInSoftmax(TinyNetwork):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class SequencesThatEndInSoftmax(TinySequenceNetwork):
    def classify_sequence(self, features):
        return super().classify_sequence(features).softmax(dim=1)


def test_a_network_that_ends_in_softmax(pair):
    X, y = pair
    line = "Leave the softmax out, or give criterion=torch.nn.NLLLoss, predict_nonlinearity=None"
    with raises(f"EndsInSoftmax puts out probabilities.*{line}"):
        SleepStager(EndsInSoftmax, **FAST).fit(X, y)
    with raises("puts out probabilities"):
        SleepStager(SequencesThatEndInSoftmax, sequence_length=3, **FAST).fit(X, y)
    with raises("puts out probabilities"):  # of which predict_proba would take the softmax
        SleepStager(EndsInSoftmax, criterion=nn.NLLLoss, **FAST).fit(X, y)
    as_in_skorch = {"criterion": nn.NLLLoss, "predict_nonlinearity": None}
    theirs = SleepStager(EndsInSoftmax, **as_in_skorch, **FAST).fit(X, y).predict_proba(X)
    ours = SleepStager(TinyNetwork, **FAST).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_logits_are_no_probabilities(pair):
    zeros = TinyNetwork(2, 60, 5)
    nn.init.zeros_(zeros.head.weight)
    nn.init.zeros_(zeros.head.bias)
    for network in (zeros, nn.Sequential(TinyNetwork(2, 60, 5), nn.LogSoftmax(dim=1))):
        check_output(network, (2, 60), 5, of_softmax="-")
    network = nn.Sequential(nn.Flatten(), nn.Linear(120, 2))
    network[1].bias.data[:] = torch.tensor([0.3, 0.7])  # shares of stages, as some begin
    check_output(network, (2, 60), 2, of_softmax="-")


# ---------------------------------------------------------------- loaders


class Recording(Transform):
    """Changes the sign, and remembers what it was given."""

    seen = ()

    def forward(self, x, y):
        Recording.seen += ((x.clone(), y.clone()),)
        return -x, y


@pytest.fixture
def augmented():
    Recording.seen = ()
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": [Recording()],
    }


class Even(TinyNetwork):
    """Keeps the batches that it is trained on."""

    batches = ()

    def forward(self, x):
        if self.training:
            Even.batches += (x.clone(),)
        return super().forward(x)


def test_augmentation_of_the_target_alone(pair, augmented):
    X, y = pair
    y = np.where(np.arange(len(y)) % 5, y, -1)
    Even.batches = ()
    plain = SleepStager(Even, iterator_train__shuffle=False, **FAST).fit(X, y)
    unchanged, Even.batches = Even.batches, ()
    stager = SleepStager(Even, iterator_train__shuffle=False, **augmented, **FAST).fit(X, y)
    assert len(unchanged) == len(Even.batches) == len(Recording.seen) == 8
    for before, after, (x, labels) in zip(
        unchanged, Even.batches, Recording.seen, strict=True
    ):
        torch.testing.assert_close(after, -before)
        torch.testing.assert_close(x, before)
        assert x.shape[1:] == (2, 60)
        assert labels.shape == (len(x),)
    # Power does not know signs.
    np.testing.assert_allclose(
        stager.history[:, "train_loss"], plain.history[:, "train_loss"], rtol=0.1
    )
    assert len(Recording.seen) == 8  # what is predicted is left as it is
    stager.predict(X)
    assert len(Recording.seen) == 8


@pytest.mark.parametrize("copies", [0, 2])
@pytest.mark.parametrize("length", [1, 3])
def test_augmented_students_keep_what_their_teacher_says(pair, augmented, copies, length):
    X, y = pair
    network = TinyNetwork if length == 1 else TinySequenceNetwork
    common = {"sequence_length": length, **FAST}
    student = DistilledSleepStager(
        SleepStager(network, **common), alpha=0.5, feature_loss="mse",
        **augmented, **common,
        iterator_train__n_augmentation=copies, validation=2,
    ).fit(X, y)  # fmt: skip
    assert student.predict(X).shape == y.shape
    assert np.isfinite(
        student.history[:, ("train_softmax_loss", "train_feature_loss")]
    ).all()
    x, labels = Recording.seen[0]
    assert x.ndim == 3
    assert len(x) == len(labels)


def test_copies_keep_their_labels(pair):
    X, y = pair
    seen = []

    class Loss(nn.CrossEntropyLoss):
        def forward(self, logits, codes):
            seen.append(codes.clone())
            return super().forward(logits, codes)

    SleepStager(
        TinyNetwork, criterion=Loss, iterator_train=AugmentedDataLoader, batch_size=48,
        iterator_train__transforms=SignFlip(1.0), iterator_train__n_augmentation=2,
        iterator_train__shuffle=False, **FAST,
    ).fit(X, y)  # fmt: skip
    np.testing.assert_array_equal(seen[0], np.tile(y[:48], 3))


@pytest.mark.parametrize("network", [TinyNetwork, TinySequenceNetwork])
def test_labels_are_not_mixed(pair, network):
    mixes = {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": Mixup(0.5),
    }
    length = 1 if network is TinyNetwork else 3
    with raises("mixes or changes labels"):
        SleepStager(network, sequence_length=length, **mixes, **FAST).fit(*pair)


class OwnLoader(DataLoader):
    """Takes no collate_fn; halves the signals."""

    def __init__(self, dataset, batch_size=1, shuffle=False, **options):
        assert "collate_fn" not in options
        super().__init__(dataset, batch_size, shuffle, collate_fn=self.halved, **options)

    @staticmethod
    def halved(rows):
        x, y = default_collate(rows)
        return x / 2, y


def test_other_loaders(pair):
    X, y = pair
    Even.batches = ()
    order = {"iterator_train__shuffle": False, "batch_size": 144, **FAST}
    SleepStager(Even, iterator_train=OwnLoader, **order).fit(X, y)
    np.testing.assert_allclose(Even.batches[0], X["target"] / 2)
    # In evaluation too, and where a last batch would be of one epoch.
    halved = SleepStager(TinyNetwork, iterator_valid=OwnLoader, **order).fit(X, y)
    plain = SleepStager(TinyNetwork, **order).fit(X, y)
    np.testing.assert_allclose(
        halved.predict_proba(X), plain.predict_proba(X["target"] / 2), rtol=1e-5
    )
    ones = {"iterator_train": AugmentedDataLoader, "batch_size": 143}
    SleepStager(TinyNetwork, **ones, **FAST).fit(X, y)


def test_a_collate_of_the_users_own_is_given_whole_batches(pair):
    def doubled(batch):
        x, y = batch
        return {"target": 2 * x["target"]}, y

    Even.batches = ()
    options = {"iterator_train__collate_fn": doubled, "iterator_train__shuffle": False}
    SleepStager(Even, **options, **FAST).fit(*pair)
    np.testing.assert_allclose(Even.batches[0], 2 * pair[0]["target"][:32])
