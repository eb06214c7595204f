"""Stagers that see sequences of epochs, and the batches of all stagers."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import FeatureMSE, capture_features
from skleepkd.estimators import batches
from skleepkd.estimators.batches import (
    WindowBatches,
    WindowDataset,
    balancing_weights,
    training_windows,
)
from skleepkd.sequences import find_runs
from tests.tiny import (
    FAST,
    FEATURES,
    TinyNetwork,
    TinySequenceNetwork,
    make_pair,
    noise,
    same,
)

OPTIONS = {**FAST, "classes": "aasm"}
NETWORKS = {
    "tiny": (TinySequenceNetwork, {}),
    "UTime": ("UTime", {"module__filters": (4, 4, 8), "module__pools": (2, 2)}),
    "USleep": ("USleep", {"module__depth": 2, "module__time_conv_size_s": 2.5}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def stager_of(name="tiny", length=3, **params):
    module, options = NETWORKS[name]
    return SleepStager(module, sequence_length=length, **{**OPTIONS, **options, **params})


def student_of(teacher, *args, length=3, **params):
    options = {**OPTIONS, **FEATURES, "sequence_length": length, **params}
    return DistilledSleepStager(teacher, *args, **options)


@pytest.fixture(scope="module")
def fitted():
    X, y = make_pair(n_epochs=12)
    return {name: stager_of(name).fit(X, y) for name in NETWORKS}


def by_hand(stager, X):
    """Probabilities by re-encoding each window, one by one, and multiplying."""
    epochs, total = torch.from_numpy(X["target"]), np.zeros((len(X), 5))
    stager.module_.eval()
    for run in find_runs(X.recording, X.onset, len(X)):
        length = min(stager.sequence_length, len(run))
        votes = np.zeros(len(run))
        for start in range(len(run) - length + 1):
            rows = run[start : start + length]
            with torch.no_grad():
                logits = stager.module_(epochs[rows][None])  # (1, 5, length)
            logits = logits.reshape(5, length).T.double()
            total[rows] += logits.log_softmax(dim=1).numpy()
            votes[start : start + length] += 1
        total[run] /= votes[:, None]
    proba = np.exp(total)
    return proba / proba.sum(axis=1, keepdims=True)


@every_network
@given(st.data())
@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_prediction_equals_re_encoding_each_window(fitted, name, data):
    """Over random recordings, gaps, lengths and orders of rows."""
    stager = pickle.loads(pickle.dumps(fitted[name]))
    stager.sequence_length = data.draw(st.integers(2, 5))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    onset = [30.0 * k + 1000 * run for run, n in enumerate(lengths) for k in range(n)]
    recording = [f"night-{run % 2}" for run, n in enumerate(lengths) for _ in range(n)]
    order = data.draw(st.permutations(range(len(onset))))
    X, _ = make_pair(n_subjects=1, n_epochs=len(onset), seed=data.draw(st.integers(0, 9)))
    columns = {"recording": np.array(recording)[order], "onset": np.array(onset)[order]}
    X = PairedEpochs(X["target"], **columns)
    np.testing.assert_allclose(stager.predict_proba(X), by_hand(stager, X), atol=1e-6)


def test_each_epoch_is_encoded_once(fitted):
    X, y = make_pair(n_epochs=12)
    student = student_of(FrozenEstimator(fitted["tiny"]), validation=None).fit(X, y)
    for net in (fitted["tiny"], student):
        TinySequenceNetwork.encoded = 0
        net.predict(X)
        assert TinySequenceNetwork.encoded == len(X)
    TinySequenceNetwork.encoded = 0
    stager_of(max_epochs=3, validation=2).fit(X, y)
    # Before that, one window of three epochs shows that the network takes sequences.
    assert TinySequenceNetwork.encoded == 3 + 3 * 2 * 12


def test_a_night_in_parts_is_the_night(monkeypatch):
    X, y = noise(1, 29, 129, sfreq=100.0)
    stager = SleepStager("SeqSleepNet", module__hidden_size=8, sequence_length=4, **FAST)
    whole = stager.fit(X, y).predict_proba(X)
    monkeypatch.setattr(batches, "TOGETHER", 5)
    np.testing.assert_allclose(stager.predict_proba(X), whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[0], whole[1], rtol=1e-5, atol=1e-6)


@every_network
def test_a_night_can_be_a_bare_array(fitted, name):
    night, stager = make_pair(n_epochs=12)[0][:12], fitted[name]
    alone = stager.predict_proba(night["target"])
    np.testing.assert_allclose(alone, stager.predict_proba(night), atol=1e-6)
    assert stager.predict_proba(night["target"][:1]).shape == (1, 5)


def test_context_helps_where_stages_last():
    """A stage that lasts is read better from its neighbours than from one noisy epoch."""
    rng = np.random.default_rng(0)

    def nights(n_subjects, first=0):
        y = np.repeat(rng.integers(0, 2, n_subjects * 6), 10)
        X = rng.standard_normal((len(y), 1, 6)).astype(np.float32)
        X *= (1 + 0.7 * y[:, None, None]).astype(np.float32)
        night = first + np.repeat(np.arange(n_subjects), 60)
        return PairedEpochs(X, recording=night, subject=night), y

    train, test = nights(12), nights(12, first=12)
    params = {"classes": [0, 1], "max_epochs": 8, "lr": 0.05, "validation": None}
    params["batch_size"] = 64
    alone, together = (
        stager_of(length=n, **params).fit(*train).score(*test) for n in (1, 10)
    )
    assert together > alone + 0.08


# ---------------------------------------------------------------- what is refused


def test_recordings_are_needed(fitted):
    X, y = make_pair(n_epochs=12)
    with pytest.raises(ValueError, match="needs to know which epochs follow one another"):
        stager_of().fit(X["target"], y, groups=X.subject)
    people = PairedEpochs(X["target"], subject=X.subject)
    with pytest.raises(ValueError, match="several subjects and no recordings"):
        fitted["tiny"].predict(people)
    onset = X.onset + 400 * np.repeat(np.arange(6), 12)
    columns = {"subject": X.subject, "recording": np.full(72, "night1"), "onset": onset}
    one_night = PairedEpochs(X["target"], **columns)
    message = "The recording night1 is of several subjects"
    with pytest.raises(ValueError, match=message):
        stager_of().fit(one_night, y)
    with pytest.raises(ValueError, match=message):
        fitted["tiny"].predict(one_night)


def test_nights_too_short_to_train_on():
    X, y = make_pair(n_subjects=3, n_epochs=12)
    with pytest.raises(ValueError, match="No 15 consecutive epochs"):
        stager_of(length=15).fit(X, y)
    rows = (X.subject != "s1") | (X.onset < 60)
    with pytest.warns(UserWarning, match="1 of 3 recordings have no 3 consecutive"):
        stager_of().fit(X[rows], y[rows])


@pytest.mark.parametrize("who", ["held out", "to train on"])
def test_too_short_runs_on_one_side(who):
    X, y = make_pair(n_subjects=3, n_epochs=12)
    broken = (X.subject == "s0") if who == "held out" else (X.subject != "s0")
    rows = ~broken | (np.arange(36) % 3 > 0)  # every third epoch is missing
    stager = stager_of(validation=lambda people: ["s0"])
    with pytest.raises(ValueError, match=f"No 3 consecutive epochs .* {who}"):
        stager.fit(X[rows], y[rows])


class Flat(torch.nn.Sequential):
    """Takes whatever comes for a single epoch."""

    def __init__(self, n_outputs):
        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(n_outputs))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sequence_length": 0}, "sequence_length is a whole number, 1 at least; given 0"),
        ({"sequence_length": 2.5}, "given 2.5"),
        ({"neighbouring_windows": 0}, "neighbouring_windows is a whole number"),
        ({"fusion": "median"}, "given 'median'"),
        ({"train_split": ValidSplit(3)}, "train_split parts rows"),
        ({"module": TinyNetwork}, r"TinyNetwork does not take windows .*\(1, 5, 3\)"),
        ({"module": Flat}, r"output is \(1, 5\), and not \(1, 5, 3\)"),
    ],
)
def test_parameters_that_mean_nothing(pair, params, message):
    with pytest.raises(ValueError, match=message):
        stager_of().set_params(**params).fit(*pair)


# ---------------------------------------------------------------- training


def test_unscored_epochs_are_seen_and_not_judged():
    """The loss of the first batch, by hand."""
    X, y = make_pair(n_subjects=1, n_epochs=9)
    y[[2, 3, 4, 8]] = -1
    stager = stager_of(batch_size=-1, lr=0.0).fit(X, y)
    epochs, losses = torch.from_numpy(X["target"]), []
    for start in range(7):
        rows = np.arange(start, start + 3)
        logits = stager.module_(epochs[rows][None])[0].T  # (3, 5)
        losses += [
            torch.nn.functional.cross_entropy(logit, torch.tensor(code)).item()
            for logit, code in zip(logits, y[rows], strict=True)
            if code >= 0
        ]
    # Windows 0 to 6 but for window 2, in which nothing is scored.
    assert len(losses) == 11
    assert stager.history[-1, "train_batch_count"] == 1
    np.testing.assert_allclose(stager.history[-1, "train_loss"], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("together", [1, 4, 7])
def test_each_window_is_in_one_batch_of_a_pass(together):
    X, _ = make_pair(n_subjects=3, n_epochs=20)
    dataset = WindowDataset(X, training_windows(X, 4))
    found = list(WindowBatches(dataset, 8, together))
    assert len(found) == len(WindowBatches(dataset, 8, together))
    assert sorted(np.concatenate(found)) == list(range(len(dataset)))
    assert all(len(batch) == 8 for batch in found[:-1])
    steps = np.mean([np.mean(np.diff(batch) == 1) for batch in found])
    assert (steps < 0.2) if together == 1 else (steps > 0.5)


def test_neighbours_share_their_encodings(pair):
    X, y = pair
    shares, apart = (stager_of(neighbouring_windows=k).fit(X, y) for k in (8, 1))
    dataset = shares.get_dataset(X, y)
    assert dataset.share
    assert not apart.get_dataset(X, y).share
    x, codes = dataset.__getitems__(np.arange(5))
    assert x["target"].epochs.shape[0] == 5 + 3 - 1
    assert codes.shape == (5, 3)
    by_window = shares.infer({"target": x["target"].apart()})
    torch.testing.assert_close(shares.infer(x), by_window)
    # Networks that read a window as one signal share nothing.
    of_utime = stager_of("UTime", neighbouring_windows=8).fit(X, y)
    for stager, together in ((shares, 8), (of_utime, 1)):
        loader = stager.get_iterator(stager.get_dataset(X, y), training=True)
        assert loader.batch_sampler.together == together


def test_batches_of_a_night_hold_all_its_windows():
    X, _ = make_pair(n_subjects=2, n_epochs=20)
    windows = training_windows(X, 4)
    for share, expected in ((True, [17, 17]), (False, [8, 8, 8, 8, 2])):
        found = batches.batches_in_order(WindowDataset(X, windows, share=share), 8)
        assert [len(batch) for batch in found] == expected


# ---------------------------------------------------------------- features


@every_network
def test_features_are_those_of_the_window_around_an_epoch(fitted, name):
    X, _ = make_pair(n_subjects=1, n_epochs=8)
    stager, layer = fitted[name], "norm" if name == "tiny" else "bottom"
    found = stager.extract_features(X, layer)
    assert len(found) == 8
    epochs = torch.from_numpy(X["target"])
    with torch.no_grad(), capture_features(stager.module_.eval(), [layer]) as seen:
        stager.module_(epochs[3:6][None])
    whole = seen[layer]
    if name == "tiny":  # (3, 4): batch and sequence are one axis
        assert stager.extract_features(X).shape == (8, 6)  # of the sequence encoder
        expected = whole[1]
    else:  # (1, channels, 3 * steps)
        steps = whole.shape[-1] // 3
        expected = whole[0, :, steps : 2 * steps]
    np.testing.assert_allclose(found[4], expected.numpy(), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- distillation


@every_network
@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_sequences_are_distilled(name, strategy):
    X, y = make_pair(n_epochs=12)
    layers = ["bottom"] if name == "UTime" else None
    net = student_of(stager_of(name), strategy=strategy, layers=layers, alpha=0.5)
    net.fit(X, y)
    assert np.isfinite([row["train_loss"] for row in net.history]).all()
    assert "train_softmax_loss" in net.history[-1]
    assert net.predict_proba(X).shape == (len(X), 5)


def test_a_teacher_of_single_epochs_teaches_sequences_by_its_output(pair):
    X, y = pair
    teacher = SleepStager(TinyNetwork, **OPTIONS)
    net = student_of(teacher, TinySequenceNetwork, alpha=0.5, feature_loss=None).fit(X, y)
    assert np.isfinite(net.history_[-1]["train_softmax_loss"])


def test_offline_terms_by_hand():
    """Features window by window, probabilities of each epoch fused over its windows."""
    X, y = make_pair(n_subjects=2, n_epochs=7)
    teacher = stager_of().fit(X.source_epochs, y)
    options = {"alpha": 0.25, "feature_weight": 2.0, "batch_size": -1, "lr": 0.0}
    net = student_of(FrozenEstimator(teacher), **options).fit(X, y)
    windows = np.array([np.arange(s, s + 3) for n in (0, 7) for s in range(n, n + 5)])

    def encoded(network, epochs):
        features = network.encode_epochs(epochs[windows].flatten(0, 1))
        return network.sequence_encoder(features.unflatten(0, (10, 3)))[0]

    target, source = torch.from_numpy(X["target"]), torch.from_numpy(X["source"])
    with torch.no_grad():
        logits = net.module_(target[windows])
        own, taught = encoded(net.module_, target), encoded(teacher.module_, source)
    proba = torch.from_numpy(teacher.predict_proba(X.source_epochs))[windows]
    cross_entropy = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[windows]))
    own_proba = logits.softmax(1).movedim(1, -1)
    divergence = (proba * (proba / own_proba).log()).sum(-1).mean()
    expected = 0.75 * cross_entropy + 0.25 * divergence + 2 * (own - taught).square().mean()
    # The teacher's features are kept in half precision.
    np.testing.assert_allclose(net.history[-1, "train_loss"], expected.item(), rtol=1e-3)


def test_unscored_epochs_of_a_night_leave_no_gap_for_the_teacher():
    X, y = make_pair(n_epochs=12)
    y[5::12] = -1
    net = student_of(stager_of(length=7), length=7).fit(X, y)
    assert len(net.teacher_.get_dataset(X.source_epochs, y)) == 6 * 6
    nights = np.where(X.subject == "s0", -1, y)
    fewer = student_of(stager_of()).fit(X, nights)
    # The student has the teacher's terms where nobody scored, the teacher has nothing.
    assert sum(fewer.history[-1, "batches", :, "train_batch_size"]) == 6 * 10
    assert len(fewer.teacher_.get_dataset(X.source_epochs, nights)) == 5 * 10


@pytest.mark.parametrize("loss", ["attention", FeatureMSE(standardize=True)])
def test_losses_take_the_features_of_seqsleepnet(loss):
    """Units before time: one mean a unit, a map over the epochs of a window."""
    X, y = noise(1, 4, 17, source=(1, 4, 17), sfreq=100.0)
    options = {"module__n_filters": 3, "module__hidden_size": 4}
    teacher = SleepStager("SeqSleepNet", sequence_length=5, **OPTIONS, **options)
    net = student_of(teacher, "SeqSleepNet", length=5, feature_loss=loss, **options)
    loss = net.fit(X, y).matched_layers_[0].loss
    if hasattr(loss, "mean"):
        assert loss.mean.shape == (1, 8, 1)
    else:
        assert loss.summarise(torch.zeros(2, 8, 5)).shape == (2, 5)


# ---------------------------------------------------------------- on the device

TEACHER = SleepStager(TinyNetwork, module__dropout=0.2, validation=2, **FAST)
SEQUENCES = stager_of(neighbouring_windows=4, validation=2)
STAGERS = {
    "supervised": TEACHER,
    "offline": DistilledSleepStager(TEACHER, alpha=0.5, validation=2, **FAST),
    "online": DistilledSleepStager(TEACHER, strategy="online", validation=2, **FAST),
    "fine-tuned": FineTunedSleepStager(TEACHER, trainable=("head",), validation=2, **FAST),
    "sequences": SEQUENCES,
    "distilled sequences": student_of(SEQUENCES, alpha=0.5, validation=2),
}


@pytest.mark.parametrize("name", STAGERS)
def test_training_sets_held_on_the_device_give_the_same_weights(pair, monkeypatch, name):
    """On a GPU with room for them they are; here the processor stands for it."""
    expected, held = clone(STAGERS[name]).fit(*pair), []
    kind = batches.WindowDataset if "sequences" in name else batches.EpochDataset
    hold = kind.hold
    monkeypatch.setattr(batches, "room_on", lambda device: 2**40)
    monkeypatch.setattr(kind, "hold", lambda self, d: (held.append(d), hold(self, d)))
    assert same(clone(STAGERS[name]).fit(*pair), expected)
    assert held


def test_bytes_of_a_training_set(pair):
    X, _ = pair
    features = np.zeros((len(X), 7), np.float16)
    dataset = batches.EpochDataset(X, extras={"features": features, "source": X})
    assert dataset.n_bytes() == 2 * X["target"].nbytes + features.nbytes
    dataset.hold("cpu")
    assert dataset.extras["features"].dtype == torch.float16
    assert batches.room_on("cpu") == 0


# ---------------------------------------------------------------- balanced batches


def test_weights_of_rows_in_closed_form():
    codes = np.repeat([0, 1, 3, -1], [60, 30, 10, 25])
    weights = balancing_weights(codes[:, None])
    drawn = np.bincount(codes + 1, weights) / weights.sum()
    # A fifth is unscored, as ever; the three classes share the rest.
    np.testing.assert_allclose(drawn, [0.2, 0.8 / 3, 0.8 / 3, 0, 0.8 / 3])
    # Windows by hand: six scored epochs of class 0, two of class 1.
    windows = np.array([[0, 0, 0], [0, 0, 1], [-1, 0, 1], [-1, -1, -1]])
    found = balancing_weights(windows)
    by_hand = np.array([1 / 6, (2 / 6 + 1 / 2) / 3, (1 / 6 + 1 / 2) / 2])
    np.testing.assert_allclose(found, [*(3 * by_hand / by_hand.sum()), 1])
    np.testing.assert_array_equal(balancing_weights(np.full((4, 2), -1)), 1)


class Noting(Callback):
    """Keeps the codes that a stager is trained on, by the name of the step."""

    codes_ = None

    def on_train_begin(self, net, **kwargs):
        self.codes_ = {**(self.codes_ or {}), net.step_.name: []}

    def on_batch_end(self, net, batch, training, **kwargs):
        if training:
            self.codes_[net.step_.name] += batch[1].tolist()


def drawn_by(stager, X, y, step=""):
    """Codes of the rows, or windows, of all passes of a step."""
    return np.array(stager.fit(X, y).callbacks[0].codes_[step])


def imbalanced(n_epochs=100):
    """Two people; 70 % of class 0, 20 % of class 1, 10 % of class 2."""
    X, _ = make_pair(n_subjects=2, n_epochs=n_epochs)
    return X, np.tile(np.repeat([0, 1, 2], [7, 2, 1]), len(X) // 10)


@pytest.mark.parametrize("validation", [None, 1])
def test_classes_are_drawn_equally_often(validation):
    X, y = imbalanced()
    y[::4] = -1
    common = {**FAST, "classes": [0, 1, 2], "max_epochs": 10, "validation": validation}
    teacher = SleepStager(TinyNetwork, **FAST, classes=[0, 1, 2])
    options = {"balanced_batches": True, "callbacks": [Noting()], **common}
    student = DistilledSleepStager(teacher, **options)
    codes = drawn_by(student, X, y)
    n_rows = 100 if validation else 200
    assert len(codes) == 10 * n_rows
    shares = np.bincount(codes + 1, minlength=4) / len(codes)
    # Of a share p of n draws the standard deviation is sqrt(p (1 - p) / n): four of them.
    tolerance = 4 * np.sqrt(0.25 * 0.75 / len(codes))
    np.testing.assert_allclose(shares, 0.25, atol=tolerance)
    np.testing.assert_array_equal(drawn_by(clone(student), X, y), codes)  # by its seed
    others = drawn_by(clone(student).set_params(random_state=1), X, y)
    assert (others != codes).any()
    plain = drawn_by(clone(student).set_params(balanced_batches=False), X, y)
    held_out = np.isin(X.subject, student.held_out_)
    assert np.bincount(plain + 1).tolist() == (10 * np.bincount(y[~held_out] + 1)).tolist()


def test_windows_are_drawn_by_their_epochs():
    X, _ = make_pair(n_subjects=2, n_epochs=100)
    y = np.tile(np.repeat([0, 1], [90, 10]), 2)
    options = {"length": 2, "classes": [0, 1], "max_epochs": 10, "callbacks": [Noting()]}
    stager = stager_of(balanced_batches=True, **options)
    codes = drawn_by(stager, X, y)
    windows = y[training_windows(X, 2)]
    assert len(codes) == 10 * len(windows)
    weights = balancing_weights(windows)
    expected = (weights * windows.mean(axis=1)).sum() / weights.sum()
    assert expected == pytest.approx(0.5, abs=0.03)  # a window on the border has both
    # Of the mean of n windows the deviation is at most 0.5 / sqrt(n): four of them.
    assert codes.mean() == pytest.approx(expected, abs=2 / np.sqrt(len(codes)))
    # The features' step has no label, and draws as ever.
    two = student_of(
        SleepStager(TinySequenceNetwork, sequence_length=2, classes=[0, 1], **FAST),
        length=2, strategy="two-step", balanced_batches=True, classes=[0, 1],
        feature_max_epochs=1, callbacks=[Noting()],
    )  # fmt: skip
    assert np.mean(drawn_by(two, X, y, "features")) == windows.mean()


@pytest.mark.parametrize(
    "other",
    [
        {"iterator_train__sampler": [0, 1]},
        {"iterator_train__shuffle": False},
        {"neighbouring_windows": 4},
    ],
)
def test_rows_are_drawn_in_one_way(other):
    stager = stager_of(balanced_batches=True, **other)
    with pytest.raises(ValueError, match=f"{next(iter(other))} would draw them otherwise"):
        stager.fit(*imbalanced())
    stager = stager_of(balanced_batches=True, class_weight="balanced")
    with pytest.raises(ValueError, match="make up for rare classes, and so twice"):
        stager.fit(*imbalanced())
