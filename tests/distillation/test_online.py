import numpy as np
import pytest
import torch
from braindecode.augmentation import (
    AugmentedDataLoader,
    ChannelsShuffle,
    SignFlip,
    SmoothTimeMask,
    TimeReverse,
)
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.distillation import FeatureMSE, Online, capture_features
from tests.tiny import (
    FAST,
    TinyNetwork,
    TinySequenceNetwork,
    make_pair,
    numbered,
    same,
    weights,
)


def teacher(**params):
    return SleepStager(TinyNetwork, **{"max_epochs": 1, "device": "cpu", **params})


def student(given=None, **params):
    given = teacher() if given is None else given
    return DistilledSleepStager(given, **{"strategy": "online", **FAST, **params})


def test_the_teacher_learns_from_its_own_cross_entropy_alone(X, y):
    options = {"max_epochs": 3, "iterator_train__shuffle": False}
    alone = teacher(random_state=11, **options)
    together = student(clone(alone), feature_weight=100.0, alpha=0.5, **options).fit(X, y)
    assert same(alone.fit(X.source_epochs, y), together.teacher_)


class Recorder(torch.nn.Module):
    """A loss that keeps the teacher's features."""

    seen = []  # noqa: RUF012

    def forward(self, student, teacher):
        Recorder.seen.append(teacher.detach().clone())
        return (student - teacher).square().mean()


def test_the_student_follows_the_teacher_of_the_same_step(X, y):
    net = student(feature_loss=Recorder(), batch_size=999)
    net.set_params(teacher__lr=0.5).fit(X, y)
    # One step was taken; the features compared are those from before it.
    untouched = student(max_epochs=0).fit(X, y).teacher_.module_.train()
    with torch.no_grad(), capture_features(untouched, ["features"]) as seen:
        untouched(torch.from_numpy(X["source"]))
    taught, expected = (np.sort(x, axis=0) for x in (Recorder.seen[0], seen["features"]))
    np.testing.assert_allclose(taught, expected, atol=1e-4)


def test_history_and_the_teachers_schedule(pair):
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.1)
    net = student(teacher(lr=0.1, callbacks=[schedule]), max_epochs=2).fit(*pair)
    assert net.teacher_.optimizer_.param_groups[0]["lr"] == pytest.approx(0.001)
    assert len(net.teacher_.history_) == 2
    expected = net.teacher_.history_[-1]["train_loss"]
    assert net.history_[-1]["train_teacher_loss"] == pytest.approx(expected, rel=0.05)
    assert net.optimizer_.param_groups[0]["lr"] == 1e-3


def test_both_return_to_the_students_best_pass():
    X, y = make_pair(n_subjects=5)
    kept = {}

    class Copy(Callback):
        def on_epoch_end(self, net, **kwargs):
            kept[len(net.history)] = [weights(m) for m in net.trained_modules()]

    net = student(validation=1, max_epochs=6, lr=0.3, callbacks=[Copy()])
    net.set_params(teacher__lr=0.3).fit(X, y)
    own, taught = kept[net.best_epoch_][:2]
    assert same(own, net)
    assert same(taught, net.teacher_)
    assert net.best_epoch_ < 6, "the last pass is the best: this test shows nothing"


def test_standardised_features(pair):
    net = student(feature_loss=FeatureMSE(standardize=True)).fit(*pair)
    assert np.isfinite(net.history_[:, "train_feature_loss"]).all()


# ---------------------------------------------------------------- augmentations of both


class Seen(Callback):
    """Keeps the batches that student and teacher are given."""

    def on_train_begin(self, net, **kwargs):
        self.batches_ = []

    def on_batch_begin(self, net, batch, training, **kwargs):
        if training:
            x, y = batch
            self.batches_.append({**x, "y": y})


def seen_by(transforms, X, y, length=1, strategy=None, **options):
    """Target, source and codes as the networks see them, with all batches joined."""
    network = TinyNetwork if length == 1 else TinySequenceNetwork
    stager = SleepStager(network, sequence_length=length, device="cpu")
    net = student(
        stager, strategy=strategy or Online(augment_source=True), sequence_length=length,
        iterator_train=AugmentedDataLoader, iterator_train__transforms=transforms,
        callbacks=[Seen()], iterator_train__shuffle=False, **options,
    )  # fmt: skip
    batches = clone(net).fit(X, y).callbacks[0].batches_
    names = ("target", "source", "y")
    return [torch.cat([x[name] for x in batches]).numpy() for name in names]


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("change", ["flip", "reverse"])
def test_both_signals_are_changed_in_the_same_epochs(length, change):
    X, y = make_pair(n_subjects=2, n_epochs=20, n_chans=2)
    X = X.replace(source=np.concatenate([X["source"], X["target"][:, :1]], axis=1))
    turned = SignFlip if change == "flip" else TimeReverse
    target, source, codes = seen_by([turned(0.5, random_state=3)], X, y, length)
    rows = np.arange(40)
    if length > 1:  # windows, each of whose epochs is changed by itself
        night = np.arange(18)[:, None] + np.arange(3)
        rows = np.concatenate([night, 20 + night])
    np.testing.assert_array_equal(codes, y[rows])
    clean = {"target": X["target"][rows], "source": X["source"][rows]}
    other = {n: -x if change == "flip" else x[..., ::-1] for n, x in clean.items()}
    changed = (target == other["target"]).all(axis=(-1, -2))
    assert 0.3 < changed.mean() < 0.7
    for found, name in ((target, "target"), (source, "source")):
        expected = np.where(changed[..., None, None], other[name], clean[name])
        np.testing.assert_array_equal(found, expected)


def test_a_mask_lies_at_the_same_time_and_copies_go_together():
    X, y = make_pair(n_subjects=2, n_epochs=20)
    X = X.replace(target=np.ones((40, 2, 60)), source=np.full((40, 3, 60), 2))
    mask = SmoothTimeMask(1.0, mask_len_samples=15, random_state=0)
    options = {"iterator_train__n_augmentation": 1, "batch_size": 40}
    target, source, codes = seen_by(mask, X, y, **options)
    np.testing.assert_array_equal(codes, np.tile(y, 2))
    assert (target[:40] == 1).all()
    assert (source[:40] == 2).all()
    hidden = target[40:, 0] < 0.5
    assert hidden.sum(axis=1).min() > 10
    assert len(np.unique(hidden, axis=0)) > 10  # not at one place in all epochs
    for channel in range(3):
        np.testing.assert_allclose(source[40:, channel], 2 * target[40:, 0], atol=1e-6)


def test_by_default_the_teacher_sees_a_clean_source(pair):
    target, source, _ = seen_by([SignFlip(1.0)], *pair, strategy="online")
    np.testing.assert_array_equal(target, -pair[0]["target"])
    np.testing.assert_array_equal(source, pair[0]["source"])


def test_what_cannot_be_changed_alike(X, y):
    with pytest.raises(ValueError, match="as many samples an epoch, at one rate"):
        seen_by([SignFlip(1.0)], numbered(), np.tile([0, 1, 2], 4))
    with pytest.raises(ValueError, match="ChannelsShuffle would take the source's"):
        seen_by([SignFlip(1.0), ChannelsShuffle(1.0)], X, y)
    with pytest.raises(ValueError, match="nothing is augmented: give iterator_train=Aug"):
        student(strategy=Online(augment_source=True)).fit(X, y)
