import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import Pipeline

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.distillation import AttentionTransfer
from skleepkd.distillation.teacher import final_stager
from skleepkd.preprocessing import SourceSelector
from skleepkd.recipes import anandakumar2022, joshi2021
from tests.tiny import TinyNetwork, make_pair

METHODS = ("scalp", "ear", "transfer", "offline", "online")


def tiny(method, **params):
    params = {"max_epochs": 1, "device": "cpu", "random_state": 0, **params}
    return anandakumar2022(method, TinyNetwork, **params)


def inner(estimator):
    """Return the scalp network's stager of a distilled or fine-tuned method, or None."""
    return getattr(estimator, "teacher", getattr(estimator, "pretrained", None))


def same_weights(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.module_.parameters(), b.module_.parameters(), strict=True)
    )


# ---------------------------------------------------------------- Anandakumar et al.


@pytest.mark.parametrize("method", METHODS)
def test_every_stager_states_the_papers_training(method):
    """Section 3.3: Adam, 1e-3, 0.9 and 0.999, batches of 32, 100 passes."""
    estimator = anandakumar2022(method)
    for stager in filter(None, (final_stager(estimator), inner(estimator))):
        params = stager.get_params()
        assert stager.optimizer is torch.optim.Adam
        assert params["lr"] == 1e-3
        assert params["optimizer__betas"] == (0.9, 0.999)
        assert (params["batch_size"], params["max_epochs"]) == (32, 100)
        assert params["optimizer__weight_decay"] == 0
        assert params["validation"] is None
        assert params["class_weight"] is None


def test_methods_are_what_they_are_called():
    made = {method: anandakumar2022(method) for method in METHODS}
    assert isinstance(made["scalp"], Pipeline)
    assert type(made["scalp"][-1]) is type(made["ear"]) is SleepStager
    assert type(made["transfer"]) is FineTunedSleepStager
    assert made["transfer"].trainable == "all"
    for strategy in ("offline", "online"):
        student = made[strategy]
        assert type(student) is DistilledSleepStager
        assert student.strategy == strategy
        assert (student.feature_loss, student.feature_weight, student.alpha) == (
            "mse",
            1,
            0,
        )
        assert student.module is None  # the teacher's own
        assert student.teacher.module == "USleep"
    other = "EpochCrossModalTransformer"
    assert anandakumar2022("ear", other).module == other


def decays(variant):
    """Weight decay of a method and of its scalp network, as the optimisers have it."""
    X, y = make_pair(n_subjects=2, n_epochs=12)
    found = {}
    for method in METHODS:
        fitted = tiny(method, variant=variant).fit(X, y)
        fitted_inner = getattr(fitted, "teacher_", getattr(fitted, "pretrained_", None))
        groups = [
            stager.optimizer_.param_groups[0]
            for stager in filter(None, (final_stager(fitted), fitted_inner))
        ]
        found[method] = [group["weight_decay"] for group in groups]
        assert {group["eps"] for group in groups} == {
            1e-9 if variant == "reference" else 1e-8
        }
        assert {group["lr"] for group in groups} == {1e-3}
    return found


def test_reference_variant_is_the_published_codes_confounded_weight_decay():
    assert decays("paper") == {
        "scalp": [0],
        "ear": [0],
        "transfer": [0, 0],
        "offline": [0, 0],
        "online": [0, 0],
    }
    assert decays("reference") == {
        "scalp": [1e-4],
        "ear": [1e-4],
        "transfer": [1e-4, 1e-4],
        "offline": [0, 1e-4],  # the frozen teacher comes out of the supervised training
        "online": [0, 0],
    }


# ---------------------------------------------------------------- use


@pytest.mark.parametrize("method", METHODS)
def test_one_call_for_every_method(method):
    X, y = make_pair(n_subjects=3, n_epochs=16)
    y[(y == 1) & (X.subject != "s0")] = 2  # one fold has no N1, and five columns stay
    proba = cross_val_predict(
        tiny(method), X, y, groups=X.subject, cv=LeaveOneGroupOut(), method="predict_proba"
    )
    assert proba.shape == (len(X), 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)


def test_scalp_learns_from_the_source_alone():
    X, y = make_pair(n_subjects=3, n_epochs=16)
    silent = X.replace(target=np.zeros_like(X["target"]))
    expected = tiny("ear").fit(X.source_epochs, y).predict_proba(X.source_epochs)
    np.testing.assert_array_equal(
        tiny("scalp").fit(silent, y).predict_proba(silent), expected
    )


@pytest.mark.parametrize("method", METHODS)
def test_clone_and_pickle(method):
    X, y = make_pair(n_subjects=2, n_epochs=12)
    estimator = clone(tiny(method))
    proba = estimator.fit(X, y).predict_proba(X)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(X), proba)
    np.testing.assert_array_equal(tiny(method).fit(X, y).predict_proba(X), proba)


def test_transfer_and_offline_share_a_scalp_network_of_its_own_seed():
    X, y = make_pair(n_subjects=2, n_epochs=12)
    still = {"lr": 1e-12}  # weights stay where they begin
    transfer, offline = (
        tiny("transfer", **still).fit(X, y),
        tiny("offline", **still).fit(X, y),
    )
    assert same_weights(transfer.pretrained_, offline.teacher_)
    begins_at = [parameter.detach().numpy() for parameter in offline.module_.parameters()]
    teacher = [
        parameter.detach().numpy() for parameter in offline.teacher_.module_.parameters()
    ]
    assert not np.allclose(begins_at[0], teacher[0], atol=1e-6)


def test_parameters_reach_every_stager():
    for method in METHODS:
        estimator = tiny(method, module__n_filters=3, max_epochs=2, validation=1)
        assert final_stager(estimator).max_epochs == 2
        if method != "scalp" and inner(estimator) is not None:
            assert inner(estimator).max_epochs == 2
        X, y = make_pair(n_subjects=3, n_epochs=12)
        fitted = final_stager(estimator.fit(X, y))
        assert len(fitted.history_) == 2
        assert fitted.module_.filters.out_channels == 3
        assert len(fitted.held_out_) == 1


def test_feature_term_is_a_mean_over_elements():
    X, y = make_pair(n_subjects=4, n_epochs=32)
    # One batch, and weights that stay where they begin.
    student = tiny("offline", lr=1e-12, batch_size=len(X)).fit(X, y)
    teacher = student.teacher_.extract_features(X.source_epochs)
    network, seen = student.module_.train(), []
    network.features.register_forward_hook(lambda *call: seen.append(call[2]))
    network(torch.from_numpy(X["target"]))
    expected = np.mean((seen[0].detach().numpy() - teacher) ** 2)
    assert student.history_[0, "train_feature_loss"] == pytest.approx(expected, rel=1e-2)
    assert student.history_[0, "train_loss"] == pytest.approx(
        expected + student.history_[0, "train_cross_entropy"], rel=1e-2
    )


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'feet'.*'scalp', 'ear'"):
        anandakumar2022("feet")
    with pytest.raises(ValueError, match="'paper' or 'reference'; given 'ours'"):
        anandakumar2022("ear", variant="ours")


# ---------------------------------------------------------------- Joshi et al.

ECG_METHODS = ("eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl")
DISTILLED = ECG_METHODS[2:]


def small(method, n_classes=4, **params):
    """A U-Time of the paper's depth, two filters a level."""
    params = {"module__filters": [2] * 6, "max_epochs": 1, "batch_size": 16, **params}
    return joshi2021(method, n_classes, device="cpu", random_state=0, **params)


def ecg_pair(n_classes=4, n_subjects=3, n_epochs=16):
    return make_pair(n_subjects, n_epochs, n_times=60, n_chans=1, classes=n_classes)


@pytest.mark.parametrize("n_classes", [4, 3])
@pytest.mark.parametrize("method", ECG_METHODS)
def test_every_ecg_stager_states_the_papers_training(method, n_classes):
    """Section II.D, and the batch size of the published code."""
    estimator = joshi2021(method, n_classes)
    for stager in filter(None, (final_stager(estimator), inner(estimator))):
        assert stager.optimizer is torch.optim.Adam
        assert (stager.lr, stager.batch_size, stager.max_epochs) == (1e-3, 256, 150)
        assert stager.class_weight == "balanced"
        assert stager.classes == {4: "wldr", 3: "wnr"}[n_classes]
    if method in DISTILLED:
        assert estimator.temperature == 1
        assert estimator.feature_max_epochs is None  # as many as the second step


def test_ecg_methods_are_what_they_are_called():
    made = {method: joshi2021(method) for method in ECG_METHODS}
    assert isinstance(made["eeg"], Pipeline)
    assert type(made["eeg"][-1]) is type(made["ecg"]) is SleepStager
    expected = {
        "sd+cl": ("offline", None, 0.5),
        "at+cl": ("two-step", "attention", 0.0),
        "at+sd+cl": ("two-step", "attention", 0.5),
    }
    for method, (strategy, feature_loss, alpha) in expected.items():
        student = made[method]
        assert (student.strategy, student.feature_loss) == (strategy, feature_loss)
        assert student.alpha == alpha
        assert student.layers is None  # all that the network declares
        assert (student.module, student.teacher.module) == (None, "UTime")


@pytest.mark.parametrize(("n_classes", "n_parameters"), [(4, 4_813_240), (3, 4_813_215)])
def test_ecg_network_is_the_papers(n_classes, n_parameters):
    """The numbers of parameters of the published code's networks."""
    stager = joshi2021("ecg", n_classes, max_epochs=1, batch_size=4, device="cpu")
    y = np.arange(4) % n_classes
    stager.fit(np.random.default_rng(0).random((4, 1, 96)), y)
    assert sum(p.numel() for p in stager.module_.parameters()) == n_parameters


@pytest.mark.parametrize("n_classes", [4, 3])
@pytest.mark.parametrize("method", ECG_METHODS)
def test_one_call_for_every_ecg_method(method, n_classes):
    X, y = ecg_pair(n_classes)
    y[(y == 2) & (X.subject != "s0")] = 1  # one fold has no D (or R), the columns stay
    proba = cross_val_predict(
        small(method, n_classes),
        *(X, y),
        groups=X.subject,
        cv=LeaveOneGroupOut(),
        method="predict_proba",
    )
    assert proba.shape == (len(X), n_classes)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)


def test_ecg_students_share_a_teacher_of_its_own_seed():
    X, y = ecg_pair()
    first, second = (small(method).fit(X, y) for method in ("sd+cl", "at+cl"))
    assert same_weights(first.teacher_, second.teacher_)
    assert not same_weights(first.teacher_, small("ecg").fit(X.source_epochs, y))
    # Class weights reach the teacher and the student: total over classes, by N / (K n).
    weights = len(y) / (4 * np.bincount(y))
    for stager in (first, first.teacher_):
        np.testing.assert_allclose(stager.criterion_.weight.numpy(), weights, rtol=1e-6)


@pytest.mark.parametrize("method", DISTILLED)
def test_clone_and_pickle_of_ecg_students(method):
    X, y = ecg_pair()
    for variant in ("paper", "reference"):
        student = clone(small(method, variant=variant)).fit(X, y)
        again = pickle.loads(pickle.dumps(student))
        np.testing.assert_array_equal(again.predict_proba(X), student.predict_proba(X))


def test_reference_softmax_term_is_divided_by_the_number_of_classes():
    """In the ratio that alpha = 0.5 gives: 0.5 CE + 0.5 KL / K."""
    for n_classes in (4, 3):
        for method in ("sd+cl", "at+sd+cl"):
            student = joshi2021(method, n_classes, "reference")
            assert student.alpha / (1 - student.alpha) == pytest.approx(1 / n_classes)
            assert student.class_weight is None
            assert student.teacher.class_weight is None
    assert joshi2021("at+cl", variant="reference").alpha == 0


def published_attention_loss(student, teacher):
    """Maps by layer, (batch, channels, times): what the published code computes.

    Normalised along the batch, mean absolute difference; means over the pooled encoder
    and over the decoder; the mean of five groups, one of which is the last decoder map.
    """

    def difference(name):
        maps = [(net[name] ** 2).sum(axis=1) for net in (student, teacher)]
        maps = [m / np.linalg.norm(m, axis=0).clip(1e-12) for m in maps]
        return np.abs(maps[0] - maps[1]).mean()

    encoder = np.mean([difference(f"pools.{k}") for k in range(5)])
    decoder = np.mean([difference(f"decoder.{k}") for k in range(5)])
    groups = encoder, difference("bottom"), decoder, difference("decoder.4")
    return np.mean([*groups, difference("dense")])


def test_reference_attention_is_the_published_codes():
    X, y = ecg_pair()
    # One batch, and weights that stay where they begin.
    student = small(
        "at+cl", variant="reference", lr=1e-12, batch_size=len(X), validation=None
    ).fit(X, y)
    seen = []
    for stager, epochs in ((student, X), (student.teacher_, X.source_epochs)):
        network, maps = stager.module_, {}
        network.train(stager is student)
        for name in network.feature_layers:
            network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name, maps=maps: maps.update({name: output})
            )
        network(torch.from_numpy(epochs["target"]))
        seen.append(
            {name: output.detach().double().numpy() for name, output in maps.items()}
        )
    assert student.history_[0, "train_feature_loss"] == pytest.approx(
        published_attention_loss(*seen), rel=5e-3
    )


def test_reference_attention_hangs_on_the_batch_and_the_papers_does_not():
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.random((4, 3, 20))) for _ in range(2)]

    def of_halves(student):
        loss = student.feature_loss
        loss = AttentionTransfer() if loss == "attention" else loss
        halves = [loss(*(m[rows] for m in maps)) for rows in (slice(2), slice(2, 4))]
        return loss(*maps).item(), np.mean(halves).item()

    whole, halves = of_halves(joshi2021("at+cl"))
    assert whole == pytest.approx(halves)
    whole, halves = of_halves(joshi2021("at+cl", variant="reference"))
    assert abs(whole / halves - 1) > 0.1


def test_unknown_ecg_recipes_are_refused():
    with pytest.raises(ValueError, match=r"'kd'.*'eeg', 'ecg'"):
        joshi2021("kd")
    with pytest.raises(ValueError, match=r"4 \(W, L, D, R\) or 3.*given 5"):
        joshi2021("ecg", 5)
    with pytest.raises(ValueError, match="'paper' or 'reference'; given 'ours'"):
        joshi2021("ecg", variant="ours")


# ---------------------------------------------------------------- the source selector


def test_source_selector_keeps_what_the_rows_carry():
    X, _ = make_pair(n_subjects=2, n_epochs=12)
    rows = np.array([3, 5, 20])
    picked = clone(SourceSelector()).fit_transform(X[rows])
    np.testing.assert_array_equal(picked["target"], X["source"][rows])
    np.testing.assert_array_equal(picked.subject, X.subject[rows])
    np.testing.assert_array_equal(picked.onset, X.onset[rows])
    assert np.shares_memory(SourceSelector().transform(X)["target"], X["source"])


def test_source_selector_needs_a_source():
    X, _ = make_pair(n_subjects=2, n_epochs=12)
    for alone in (X.target_epochs, X["target"]):
        with pytest.raises(ValueError, match="no source"):
            SourceSelector().transform(alone)
