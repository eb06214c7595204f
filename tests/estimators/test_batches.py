"""Stagers that see sequences of epochs."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.dataset import ValidSplit

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import FeatureMSE, capture_features
from skleepkd.estimators.batches import (
    WindowBatches,
    WindowDataset,
    batches_in_order,
    training_windows,
)
from skleepkd.metrics import sleep_scorers
from skleepkd.sequences import find_runs
from tests.tiny import TinyNetwork, TinySequenceNetwork, make_pair

FAST = {"max_epochs": 2, "device": "cpu", "random_state": 0, "classes": "aasm"}
NETWORKS = {
    "tiny": (TinySequenceNetwork, {}),
    "UTime": ("UTime", {"filters": (4, 4, 8), "pools": (2, 2)}),
    "USleep": ("USleep", {"depth": 2, "time_conv_size_s": 2.5}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def stager_of(name, length=3, **params):
    module, options = NETWORKS[name]
    params = {**FAST, **{f"module__{key}": v for key, v in options.items()}, **params}
    return SleepStager(module, sequence_length=length, **params)


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
    answer = np.exp(total)
    return answer / answer.sum(axis=1, keepdims=True)


@every_network
@given(st.data())
@settings(
    max_examples=10,
    deadline=None,
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
    X = PairedEpochs(
        X["target"], recording=np.array(recording)[order], onset=np.array(onset)[order]
    )
    np.testing.assert_allclose(stager.predict_proba(X), by_hand(stager, X), atol=1e-6)


def test_each_epoch_is_encoded_once(fitted):
    X, y = make_pair(n_epochs=12)
    TinySequenceNetwork.encoded = 0
    fitted["tiny"].predict(X)
    assert TinySequenceNetwork.encoded == len(X)
    TinySequenceNetwork.encoded = 0
    stager_of("tiny", max_epochs=3, validation=2).fit(X, y)
    # Before that, one window of three epochs shows that the network takes sequences.
    assert TinySequenceNetwork.encoded == 3 + 3 * 2 * 12


@every_network
def test_a_night_can_be_a_bare_array(fitted, name):
    X, _ = make_pair(n_epochs=12)
    night = X[:12]
    np.testing.assert_allclose(
        fitted[name].predict_proba(night["target"]),
        fitted[name].predict_proba(night),
        atol=1e-6,
    )
    assert fitted[name].predict_proba(night["target"][:1]).shape == (1, 5)


def test_recordings_are_needed():
    X, y = make_pair()
    with pytest.raises(ValueError, match="needs to know which epochs follow one another"):
        stager_of("tiny").fit(X["target"], y, groups=X.subject)
    stager = stager_of("tiny").fit(X, y)
    people = PairedEpochs(X["target"], subject=X.subject)
    with pytest.raises(ValueError, match="several subjects and no recordings"):
        stager.predict(people)


def test_nights_too_short_to_train_on():
    X, y = make_pair(n_epochs=4)
    with pytest.raises(ValueError, match="No 5 consecutive epochs"):
        stager_of("tiny", length=5).fit(X, y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sequence_length": 0}, "sequence_length is a whole number, 1 at least; given 0"),
        ({"sequence_length": 2.5}, "given 2.5"),
        ({"neighbouring_windows": 0}, "neighbouring_windows is a whole number"),
        ({"fusion": "median"}, "given 'median'"),
    ],
)
def test_parameters_that_mean_nothing(pair, params, message):
    with pytest.raises(ValueError, match=message):
        stager_of("tiny").set_params(**params).fit(*pair)


def test_a_network_of_single_epochs_is_refused(pair):
    class Flat(torch.nn.Sequential):
        def __init__(self, n_outputs):
            super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(n_outputs))

    with pytest.raises(ValueError, match=r"output is \(1, 5\), and not \(1, 5, 3\)"):
        SleepStager(Flat, sequence_length=3, **FAST).fit(*pair)


# ---------------------------------------------------------------- training


def test_unscored_epochs_are_seen_and_not_judged():
    """The loss of the first batch, by hand."""
    X, y = make_pair(n_subjects=1, n_epochs=9)
    y[[2, 3, 4, 8]] = -1
    stager = stager_of("tiny", max_epochs=1, batch_size=-1, lr=0.0).fit(X, y)
    epochs = torch.from_numpy(X["target"])
    losses = []
    for start in range(7):
        rows = np.arange(start, start + 3)
        logits = stager.module_(epochs[rows][None])[0].T  # (3, 5)
        losses += [
            torch.nn.functional.cross_entropy(logit, torch.tensor(code))
            for logit, code in zip(logits, y[rows], strict=True)
            if code >= 0
        ]
    # Windows 0 to 6 but for window 2, in which nothing is scored.
    assert len(losses) == 11
    assert stager.history[-1, "train_batch_count"] == 1
    np.testing.assert_allclose(
        stager.history[-1, "train_loss"], torch.stack(losses).mean().item(), rtol=1e-5
    )


def test_windows_keep_out_of_gaps_and_other_nights():
    X, _ = make_pair(n_subjects=2, n_epochs=10)
    kept = np.r_[0:4, 6:20]
    windows = training_windows(X[kept], 3)
    assert len(windows) == 2 + 2 + 8
    assert np.all(np.diff(X.onset[kept][windows], axis=1) == 30)
    assert all(len(np.unique(X.recording[kept][row])) == 1 for row in windows)


@pytest.mark.parametrize("together", [1, 4, 7])
def test_each_window_is_in_one_batch_of_a_pass(together):
    X, _ = make_pair(n_subjects=3, n_epochs=20)
    dataset = WindowDataset(X, training_windows(X, 4))
    batches = list(WindowBatches(dataset, 8, together))
    assert len(batches) == len(WindowBatches(dataset, 8, together))
    assert sorted(np.concatenate(batches)) == list(range(len(dataset)))
    assert all(len(batch) == 8 for batch in batches[:-1])
    steps = np.mean([np.mean(np.diff(batch) == 1) for batch in batches])
    assert (steps < 0.2) if together == 1 else (steps > 0.5)


def test_neighbours_share_their_encodings(pair):
    X, y = pair
    shares, apart = (
        stager_of("tiny", max_epochs=2, neighbouring_windows=k, lr=0.0).fit(X, y)
        for k in (8, 1)
    )
    assert shares.get_dataset(X, y).share
    assert not apart.get_dataset(X, y).share
    dataset = shares.get_dataset(X, y)
    x, codes = dataset.__getitems__(np.arange(5))
    assert x["target"].epochs.shape[0] == 5 + 3 - 1
    assert codes.shape == (5, 3)
    torch.testing.assert_close(
        shares.infer(x), shares.infer({"target": x["target"].apart()})
    )


def test_batches_of_a_night_hold_all_its_windows():
    X, _ = make_pair(n_subjects=2, n_epochs=20)
    windows = training_windows(X, 4)
    shared = batches_in_order(WindowDataset(X, windows, share=True), 8)
    assert [len(batch) for batch in shared] == [17, 17]
    apart = batches_in_order(WindowDataset(X, windows), 8)
    assert [len(batch) for batch in apart] == [8, 8, 8, 8, 2]


# ---------------------------------------------------------------- features


@every_network
def test_features_are_those_of_the_window_around_an_epoch(fitted, name):
    X, _ = make_pair(n_subjects=1, n_epochs=8)
    stager, layer = fitted[name], {"tiny": "norm", "UTime": "bottom"}.get(name, "bottom")
    found = stager.extract_features(X, layer)
    assert len(found) == 8
    epochs = torch.from_numpy(X["target"])
    with torch.no_grad(), capture_features(stager.module_.eval(), [layer]) as seen:
        stager.module_(epochs[3:6][None])
    whole = seen[layer]
    if name == "tiny":  # (3, 4): batch and sequence are one axis
        expected = whole[1]
    else:  # (1, channels, 3 * steps)
        steps = whole.shape[-1] // 3
        expected = whole[0, :, steps : 2 * steps]
    np.testing.assert_allclose(found[4], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_features_of_a_sequence_encoder(fitted):
    X, _ = make_pair(n_subjects=1, n_epochs=8)
    assert fitted["tiny"].extract_features(X).shape == (8, 6)


# ---------------------------------------------------------------- distillation, transfer


@every_network
@pytest.mark.parametrize("strategy", ["offline", "online", "two-step"])
def test_sequences_are_distilled(name, strategy):
    X, y = make_pair(n_epochs=12)
    layers = {"tiny": None, "UTime": ["bottom"], "USleep": None}[name]
    net = DistilledSleepStager(
        stager_of(name), strategy=strategy, layers=layers, alpha=0.5, sequence_length=3,
        **FAST,
    )  # fmt: skip
    net.fit(X, y)
    assert np.isfinite([row["train_loss"] for row in net.history]).all()
    assert "train_softmax_loss" in net.history[-1]
    assert net.predict_proba(X).shape == (len(X), 5)


def test_offline_terms_by_hand():
    """Features window by window, probabilities of each epoch fused over its windows."""
    X, y = make_pair(n_subjects=2, n_epochs=7)
    teacher = stager_of("tiny", length=3).fit(X.source_epochs, y)
    net = DistilledSleepStager(
        FrozenEstimator(teacher), strategy="offline", alpha=0.25, sequence_length=3,
        feature_weight=2.0, batch_size=-1, lr=0.0, **{**FAST, "max_epochs": 1},
    ).fit(X, y)  # fmt: skip
    windows = np.array(
        [np.arange(s, s + 3) for night in (0, 7) for s in range(night, night + 5)]
    )
    target, source = torch.from_numpy(X["target"]), torch.from_numpy(X["source"])
    with torch.no_grad():
        logits = net.module_(target[windows])
        own, _ = net.module_.sequence_encoder(
            net.module_.encode_epochs(target[windows].flatten(0, 1)).unflatten(0, (10, 3))
        )
        taught, _ = teacher.module_.sequence_encoder(
            teacher.module_.encode_epochs(source[windows].flatten(0, 1)).unflatten(
                0, (10, 3)
            )
        )
    taught_answers = torch.from_numpy(teacher.predict_proba(X.source_epochs))[windows]
    cross_entropy = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y[windows]))
    student_answers = logits.softmax(1).movedim(1, -1)
    divergence = (taught_answers * (taught_answers / student_answers).log()).sum(-1).mean()
    expected = 0.75 * cross_entropy + 0.25 * divergence + 2 * (own - taught).square().mean()
    # The teacher's features are kept in half precision.
    np.testing.assert_allclose(net.history[-1, "train_loss"], expected.item(), rtol=1e-3)


def test_a_teacher_of_single_epochs_teaches_sequences_by_its_answers(pair):
    X, y = pair
    teacher = SleepStager(TinyNetwork, **FAST)
    params = {"alpha": 0.5, "sequence_length": 3, **FAST}
    net = DistilledSleepStager(teacher, TinySequenceNetwork, feature_loss=None, **params)
    assert net.fit(X, y).predict(X).shape == y.shape
    for strategy in ("offline", "online"):
        with pytest.raises(
            ValueError, match="the teacher's sequence_length is 1, the student's 3"
        ):
            DistilledSleepStager(
                teacher, TinySequenceNetwork, strategy=strategy, **params
            ).fit(X, y)


def test_unscored_epochs_of_a_night_leave_no_gap_for_the_teacher():
    X, y = make_pair(n_epochs=12)
    y[5::12] = -1
    net = DistilledSleepStager(stager_of("tiny", length=7), sequence_length=7, **FAST).fit(
        X, y
    )
    assert len(net.teacher_.get_dataset(X.source_epochs, y)) == 6 * 6
    nights = np.where(X.subject == "s0", -1, y)
    fewer = DistilledSleepStager(stager_of("tiny"), sequence_length=3, **FAST).fit(
        X, nights
    )
    # The student has the teacher's terms where nobody scored, the teacher has nothing.
    assert sum(fewer.history[-1, "batches", :, "train_batch_size"]) == 6 * 10
    assert len(fewer.teacher_.get_dataset(X.source_epochs, nights)) == 5 * 10


@pytest.mark.parametrize("trainable", ["all", None, ("head",), ("head", "epoch_encoder")])
def test_fine_tuning_takes_the_pretrained_s_sequences(pair, trainable):
    X, y = pair
    net = FineTunedSleepStager(
        stager_of("tiny"), trainable=trainable, max_epochs=1, device="cpu", random_state=0
    ).fit(X, y)
    assert net.sequence_length is None
    assert net.sequence_length_ == 3
    before = net.pretrained_.module_.state_dict()
    groups = TinySequenceNetwork.parameter_groups
    chosen = groups if trainable == "all" else trainable or ()
    prefixes = tuple(f"{part}." for name in chosen for part in groups[name])
    for name, value in net.module_.state_dict().items():
        moves = bool(prefixes) and name.startswith(prefixes)
        assert torch.equal(value, before[name]) != moves, name


# ---------------------------------------------------------------- scikit-learn


def test_sequences_in_cross_validation(pair):
    X, y = pair
    scores = cross_validate(
        stager_of("tiny"), X, y, groups=X.subject, cv=GroupKFold(3), scoring=sleep_scorers(),
        error_score="raise",
    )  # fmt: skip
    assert np.isfinite(scores["test_kappa"]).all()


def test_copies_answer_alike(pair):
    X, y = pair
    net = stager_of("tiny").fit(X, y)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
    np.testing.assert_array_equal(
        clone(net).fit(X, y).predict_proba(X), net.predict_proba(X)
    )


def test_context_helps_where_stages_last():
    """A stage that lasts is read better from its neighbours than from one noisy epoch."""
    rng = np.random.default_rng(0)

    def nights(n_subjects):
        y = np.repeat(rng.integers(0, 2, n_subjects * 6), 10)
        noise = rng.standard_normal((len(y), 1, 6)).astype(np.float32)
        X = noise * (1 + 0.7 * y[:, None, None]).astype(np.float32)
        night = np.repeat(np.arange(n_subjects), 60)
        return PairedEpochs(X, recording=night, subject=night), y

    (X, y), (other, truth) = nights(12), nights(12)
    params = {**FAST, "classes": [0, 1], "max_epochs": 8, "lr": 0.03, "validation": None}
    scores = [
        SleepStager(TinySequenceNetwork, sequence_length=length, **params)
        .fit(X, y)
        .score(other, truth)
        for length in (1, 10)
    ]
    assert scores[1] > scores[0] + 0.08


# ---------------------------------------------------------------- what once went wrong


def test_a_recording_belongs_to_one_person():
    X, y = make_pair(n_subjects=4, n_epochs=12)
    onset = X.onset + 400 * np.repeat(np.arange(4), 12)
    same = PairedEpochs(
        X["target"], subject=X.subject, recording=np.full(48, "night1"), onset=onset
    )
    with pytest.raises(ValueError, match="The recording night1 is of several subjects"):
        stager_of("tiny").fit(same, y)
    stager = stager_of("tiny").fit(X, y)
    with pytest.raises(ValueError, match="The recording night1 is of several subjects"):
        stager.predict(same)


@pytest.mark.parametrize("who", ["held out", "to train on"])
def test_too_short_runs_on_one_side(who):
    X, y = make_pair(n_subjects=3, n_epochs=12)
    broken = (X.subject == "s0") if who == "held out" else (X.subject != "s0")
    rows = ~broken | (np.arange(36) % 3 > 0)  # every third epoch is missing
    stager = stager_of("tiny", validation=lambda people: ["s0"])
    with pytest.raises(ValueError, match=f"No 3 consecutive epochs .* {who}"):
        stager.fit(X[rows], y[rows])


def test_windows_are_not_split_by_rows(pair):
    with pytest.raises(ValueError, match="train_split parts rows"):
        stager_of("tiny", train_split=ValidSplit(3)).fit(*pair)


def test_a_distilled_student_predicts_with_each_epoch_encoded_once(pair):
    X, y = pair
    net = DistilledSleepStager(stager_of("tiny"), sequence_length=3, **FAST).fit(X, y)
    TinySequenceNetwork.encoded = 0
    net.predict(X)
    assert TinySequenceNetwork.encoded == len(X)


@pytest.mark.parametrize("loss", ["attention", FeatureMSE(standardize=True)])
def test_losses_take_the_features_of_seqsleepnet(loss):
    """Units before time: one mean a unit, a map over the epochs of a window."""
    rng = np.random.default_rng(0)
    X, y = make_pair(n_subjects=3, n_epochs=12)
    X = X.replace(
        target=rng.standard_normal((36, 1, 4, 17)).astype(np.float32),
        source=rng.standard_normal((36, 1, 4, 17)).astype(np.float32),
    )
    options = {f"module__{k}": v for k, v in {"n_filters": 3, "hidden_size": 4}.items()}
    params = {**FAST, **options, "sequence_length": 5, "max_epochs": 1}
    teacher = SleepStager("SeqSleepNet", **params)
    net = DistilledSleepStager(
        teacher, "SeqSleepNet", feature_loss=loss, **params
    ).fit(X, y)  # fmt: skip
    if loss == "attention":
        maps = net.matched_layers_[0].loss.summarise(torch.zeros(2, 8, 5))
        assert maps.shape == (2, 5)
    else:
        assert net.matched_layers_[0].loss.mean.shape == (1, 8, 1)


def test_nights_that_are_too_short_are_named():
    X, y = make_pair(n_subjects=3, n_epochs=12)
    rows = (X.subject != "s1") | (X.onset < 60)
    with pytest.warns(UserWarning, match="1 of 3 recordings have no 3 consecutive"):
        stager_of("tiny").fit(X[rows], y[rows])


@pytest.mark.parametrize("stager", ["plain", "student"])
def test_a_network_that_takes_no_sequences_is_found_first(stager):
    X, y = make_pair()
    options = {"sequence_length": 4, "max_epochs": 1}
    net = SleepStager(TinyNetwork, **options)
    if stager == "student":
        teacher = SleepStager(NeverFitted, **options)
        net = DistilledSleepStager(
            teacher, TinyNetwork, feature_loss=None, alpha=0.5, **options
        )
    with pytest.raises(
        ValueError, match=r"TinyNetwork does not take windows .*\(1, 5, 4\)"
    ):
        net.fit(X, y)


class NeverFitted(TinySequenceNetwork):
    """A network that nobody may train."""

    def forward(self, x):
        if self.training:
            raise AssertionError("the teacher was fitted first")
        return super().forward(x)
