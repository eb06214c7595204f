"""What every stager does otherwise than skorch, beside skorch's own way."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.estimators import batches
from skleepkd.estimators.callbacks import TrainingStopped
from tests.tiny import TinyNetwork, TinySequenceNetwork

OPTIONS = {"max_epochs": 2, "random_state": 0, "device": "cpu", "validation": 2}


def stagers():
    teacher = SleepStager(TinyNetwork, module__dropout=0.2, **OPTIONS)
    return {
        "supervised": teacher,
        "offline": DistilledSleepStager(teacher, alpha=0.5, **OPTIONS),
        "online": DistilledSleepStager(teacher, strategy="online", **OPTIONS),
        "fine-tuned": FineTunedSleepStager(teacher, trainable=("head",), **OPTIONS),
    }


@pytest.mark.parametrize("name", stagers())
def test_pass_is_that_of_skorch(pair, monkeypatch, name):
    X, y = pair
    ours = stagers()[name].fit(X, y)
    # Without its own loop and mode, a net has skorch's.
    monkeypatch.delattr(SleepStager, "run_single_epoch")
    monkeypatch.delattr(SleepStager, "_set_training")
    theirs = stagers()[name].fit(X, y)
    expected = theirs.module_.state_dict()
    for key, value in ours.module_.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    for own, other in zip(ours.history_, theirs.history_, strict=True):
        own, other = dict(own), dict(other)
        del own["dur"], other["dur"]
        assert own == other
        assert all(
            type(batch.get(key, 0.0)) is float
            for batch in own["batches"]
            for key in ("train_loss", "valid_loss")
        )


def test_losses_are_numbers_where_a_pass_is_cut_short(pair):
    class Stop(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            # Within a pass a loss may still be on its way from the device.
            assert float(net.history[-1, "batches", -1, "train_loss"]) > 0
            raise TrainingStopped({"dataset_train": None, "dataset_valid": None})

    X, y = pair
    stager = SleepStager(TinyNetwork, callbacks=[Stop()], **OPTIONS).fit(X, y)
    (batch,) = stager.history_[-1, "batches"]
    assert type(batch["train_loss"]) is float


def test_mode_is_set_whatever_happened_in_between(pair):
    class Look(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            net.module_.train(not training)

        def on_grad_computed(self, net, **kwargs):
            self.training_ = [part.training for part in net.module_.modules()]

    X, y = pair
    look = Look()
    SleepStager(TinyNetwork, callbacks=[("look", look)], **OPTIONS).fit(X, y)
    assert all(look.training_)


def test_part_of_a_network_that_was_built_in_the_other_mode_is_trained(pair):
    X, y = pair
    module = TinyNetwork(X.shape[1], X.shape[2], 5)
    module.norm.eval()
    stager = SleepStager(copy.deepcopy(module), **OPTIONS).fit(X, y)
    assert stager.module_.norm.num_batches_tracked > 0


def test_night_in_parts_is_the_night(monkeypatch):
    epochs = np.random.default_rng(0).standard_normal((20, 1, 29, 129), np.float32)
    recording = np.repeat(["a", "b"], [12, 8])
    X = PairedEpochs(epochs, recording=recording, sfreq=100.0)
    stager = SleepStager(
        "SeqSleepNet", sequence_length=4, module__hidden_size=8, max_epochs=1, device="cpu"
    ).fit(X, np.arange(20) % 3)
    whole = stager.predict_proba(X)
    monkeypatch.setattr(batches, "TOGETHER", 5)
    np.testing.assert_allclose(stager.predict_proba(X), whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[0], whole[1], rtol=1e-5, atol=1e-6)


def test_early_stopping_ends_the_training_and_nothing_else(pair):
    """skorch's EarlyStopping ends a training by an interrupt, which is no Ctrl-C."""
    stop = EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
    fitted = SleepStager(
        TinyNetwork, callbacks=[stop], max_epochs=9, random_state=0, device="cpu"
    ).fit(*pair)
    assert len(fitted.history) == 3
    assert fitted.predict(pair[0]).shape == pair[1].shape


class StopsInThePass(Callback):
    def on_train_begin(self, net, **kwargs):
        self.steps = 0

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.datasets = {"dataset_train": dataset_train, "dataset_valid": dataset_valid}

    def on_batch_end(self, net, training=False, **kwargs):
        self.steps += training
        if training and self.steps == 4:
            raise TrainingStopped(self.datasets)


def test_a_pass_that_is_cut_short_is_validated_all_the_same(pair):
    """Callbacks that read the validation loss find it."""
    schedule = LRScheduler(ReduceLROnPlateau, monitor="valid_loss")
    fitted = SleepStager(
        TinyNetwork, callbacks=[StopsInThePass(), schedule, EarlyStopping()],
        max_epochs=9, batch_size=32, validation=2, random_state=0, device="cpu",
    ).fit(*pair)  # fmt: skip
    assert len(fitted.history) == 2  # 96 rows are 3 steps a pass
    assert np.isfinite(fitted.history[:, "valid_loss"]).all()
    assert np.isfinite(fitted.history[:, "valid_kappa"]).all()


def test_neighbours_stay_together_only_where_they_share(pair):
    X, y = pair
    options = {"sequence_length": 3, "neighbouring_windows": 8, **OPTIONS}
    shares = SleepStager(TinySequenceNetwork, **options).fit(X, y)
    apart = SleepStager("UTime", module__filters=(2, 2), module__pools=(2,), **options)
    apart.fit(X, y)
    for stager, together in ((shares, 8), (apart, 1)):
        loader = stager.get_iterator(stager.get_dataset(X, y), training=True)
        assert loader.batch_sampler.together == together


class NeverTrained(TinyNetwork):
    """Stands for a teacher whose training takes hours."""

    def forward(self, x):
        if self.training:
            raise AssertionError("The teacher was trained before the mistake was found.")
        return super().forward(x)


NEVER = SleepStager(NeverTrained, classes="aasm", device="cpu")


@pytest.mark.parametrize(
    ("stager", "message"),
    [
        (DistilledSleepStager(NEVER, layers=["featurse"]), "no layer 'featurse'"),
        (
            DistilledSleepStager(NEVER, module__n_filters=5, start_from_teacher=True),
            "cannot begin at the teacher's weights",
        ),
        (FineTunedSleepStager(NEVER, trainable=("haed",)), "trainable names 'haed'"),
        (FineTunedSleepStager(NEVER, class_weight="blanced"), "given 'blanced'"),
        (FineTunedSleepStager(NEVER, classes=[0, 1]), "Unknown stage 2, 3, 4"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(pair, stager, message):
    with pytest.raises(ValueError, match=message):
        stager.set_params(device="cpu", random_state=0).fit(*pair)


def test_other_channels_are_found_before_the_source_is_learned(pair):
    X, y = pair
    fewer = X.replace(target=X["target"][:, :1])
    with pytest.raises(ValueError, match=r"takes 2 channel\(s\); the target has 1"):
        FineTunedSleepStager(NEVER, device="cpu").fit(fewer, y)


def test_fine_tuning_goes_on_without_its_source(pair):
    X, y = pair
    tuned = FineTunedSleepStager(
        SleepStager(TinyNetwork, **OPTIONS), **{**OPTIONS, "validation": None}
    ).fit(X, y)
    source = tuned.pretrained_
    tuned.partial_fit(X.target_epochs, y)
    assert tuned.pretrained_ is source
    assert len(tuned.history) == 4


@pytest.mark.parametrize("name", [*stagers(), "sequences", "taught sequences"])
def test_training_sets_held_on_the_device_give_the_same_weights(pair, monkeypatch, name):
    """On a GPU with room for them they are; here the processor stands for it."""
    X, y = pair
    sequences = SleepStager(
        TinySequenceNetwork, sequence_length=3, neighbouring_windows=4, **OPTIONS
    )
    more = {
        "sequences": sequences,
        "taught sequences": DistilledSleepStager(
            sequences, sequence_length=3, alpha=0.5, **OPTIONS
        ),
    }
    stager = {**stagers(), **more}[name]
    expected = clone(stager).fit(X, y).module_.state_dict()
    held = []
    monkeypatch.setattr(batches, "room_on", lambda device: 2**40)
    hold = batches.WindowDataset.hold if "seq" in name else batches.EpochDataset.hold
    kind = batches.WindowDataset if "seq" in name else batches.EpochDataset
    monkeypatch.setattr(kind, "hold", lambda self, d: (held.append(d), hold(self, d)))
    fitted = clone(stager).fit(X, y)
    assert held
    for key, value in fitted.module_.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_bytes_of_a_training_set(pair):
    X, _ = pair
    features = np.zeros((len(X), 7), np.float16)
    dataset = batches.EpochDataset(X, extras={"features": features, "source": X})
    assert dataset.n_bytes() == 2 * X["target"].nbytes + features.nbytes
    dataset.hold("cpu")
    assert dataset.extras["features"].dtype == torch.float16
    assert batches.room_on("cpu") == 0


def test_a_training_that_diverges_stops_and_says_so(pair):
    stager = SleepStager(
        TinyNetwork, optimizer=torch.optim.SGD, lr=1e30, max_epochs=9, device="cpu"
    )
    with pytest.raises(FloatingPointError, match="diverged.*lr is 1e\\+30"):
        stager.fit(*pair)
    assert len(stager.history) < 9


def test_codes_of_other_schemes_are_not_mixed(pair):
    X, y = pair
    teacher = SleepStager(TinyNetwork, classes="aasm", device="cpu")
    student = DistilledSleepStager(
        teacher, alpha=0.5, feature_loss=None, classes="wldr", device="cpu"
    )
    with pytest.raises(ValueError, match="'aasm', the student's 'wldr'"):
        student.fit(X, np.minimum(y, 3))


def test_nothing_trainable_is_direct_transfer(pair):
    tuned = FineTunedSleepStager(
        SleepStager(TinyNetwork, **OPTIONS), trainable=(), device="cpu", random_state=0
    ).fit(*pair)
    assert len(tuned.history) == 0


def test_missing_labels_as_text_are_no_stage(pair):
    X, y = pair
    names = np.array(["W", "N1", "N2", "N3", "REM"])[y].astype(object)
    names[3] = np.nan
    with pytest.raises(ValueError, match="missing values as text"):
        SleepStager(TinyNetwork, device="cpu").fit(X, names.astype(str))
