"""The recipes: the papers' settings, what each method trains, and nothing else."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    SleepStager,
    load,
    save,
)
from skleepkd.datasets import SleepEdfFolds
from skleepkd.distillation import AttentionTransfer
from skleepkd.distillation.teacher import final_stager, is_frozen
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.estimators.finetuned import trained_parameters
from skleepkd.networks import SeqSleepNet
from skleepkd.recipes import anandakumar2022, joshi2021, phan2019
from tests.tiny import (
    FAST,
    SMALL_SEQSLEEPNET,
    TinyNetwork,
    make_pair,
    make_spectra,
    same,
    weights,
)

EAR = ("scalp", "ear", "transfer", "offline", "online")
ECG = ("eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl")
ROWS = ("direct", "softmax", "softmax+arnn", "softmax+seqrnn", "all")
TRANSFER = ("scratch", *ROWS)
RECIPES = {
    **{f"ear, {method}": (anandakumar2022, method) for method in EAR},
    **{f"ecg, {method}": (joshi2021, method) for method in ECG},
    **{f"transfer, {method}": (phan2019, method) for method in TRANSFER},
}
STILL = {"lr": 1e-12, "batch_size": 999}  # one batch, and weights stay where they begin


def ear(method, **params):
    return anandakumar2022(method, TinyNetwork, **{**FAST, **params})


def ecg(method, n_classes=4, **params):
    """A U-Time of the paper's depth, two filters a level."""
    params = {"module__filters": [2] * 6, "batch_size": 16, **FAST, **params}
    return joshi2021(method, n_classes, **params)


def ecg_pair(n_classes=4):
    return make_pair(3, 16, n_chans=1, classes=n_classes)


def stagers_of(estimator):
    """The stager that predicts, and the teacher or pretrained stager before it."""
    names = ("teacher_", "pretrained_", "teacher", "pretrained")  # as fitted, if it is
    inner = [getattr(estimator, name) for name in names if hasattr(estimator, name)]
    return [final_stager(estimator), *inner[:1]]


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_is_cloned_and_pickled(name):
    recipe, method = RECIPES[name]
    for variant in ("paper", "reference"):
        estimator = recipe(method, variant=variant)
        again = pickle.loads(pickle.dumps(clone(estimator)))
        assert type(again) is type(estimator)
        assert words(again) == words(estimator)


def words(estimator):
    """What an estimator says of itself and of the stager inside, without addresses."""
    return re.sub(" at 0x[0-9a-f]+", "", repr([estimator, *stagers_of(estimator)]))


def test_unknown_names_are_refused():
    for recipe, method, message in (
        (anandakumar2022, "feet", r"'feet'.*'scalp', 'ear'"),
        (joshi2021, "kd", r"'kd'.*'eeg', 'ecg'"),
        (phan2019, "softmax+rnn", r"'softmax\+rnn'.*'scratch', 'direct', 'softmax'"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(method)
    for recipe, method in ((anandakumar2022, "ear"), (joshi2021, "ecg"), (phan2019, "all")):
        with pytest.raises(ValueError, match="'paper' or 'reference'; given 'ours'"):
            recipe(method, variant="ours")
    with pytest.raises(ValueError, match=r"4 \(W, L, D, R\) or 3.*given 5"):
        joshi2021("ecg", 5)


# ---------------------------------------------------------------- Anandakumar et al.


@pytest.mark.parametrize("method", EAR)
def test_every_ear_stager_states_the_papers_training(method):
    """Section 3.3: Adam, 1e-3, 0.9 and 0.999, batches of 32, 100 passes."""
    for stager in stagers_of(anandakumar2022(method)):
        params = stager.get_params()
        assert stager.optimizer is torch.optim.Adam
        assert params["lr"] == 1e-3
        assert params["optimizer__betas"] == (0.9, 0.999)
        assert (params["batch_size"], params["max_epochs"]) == (32, 100)
        assert params["optimizer__weight_decay"] == 0
        assert params["validation"] is None
        assert params["class_weight"] is None


def test_ear_methods_are_what_they_are_called():
    made = {method: anandakumar2022(method) for method in EAR}
    assert isinstance(made["scalp"], Pipeline)
    assert type(made["scalp"][-1]) is type(made["ear"]) is SleepStager
    assert type(made["transfer"]) is FineTunedSleepStager
    assert made["transfer"].trainable == "all"
    for strategy in ("offline", "online"):
        student = made[strategy]
        assert type(student) is DistilledSleepStager
        assert student.strategy == strategy
        terms = (student.feature_loss, student.feature_weight, student.alpha)
        assert terms == ("mse", 1, 0)
        assert (student.module, student.teacher.module) == (None, "USleep")
    other = "EpochCrossModalTransformer"
    assert anandakumar2022("ear", other).module == other


@pytest.mark.parametrize("method", EAR)
def test_ear_methods_train_as_they_say(method):
    X, y = make_pair(n_subjects=3, n_epochs=12)
    y[y == 1] = 2  # there is no N1, and five columns stay
    decays = {"transfer": [1e-4, 1e-4], "online": [0, 0]}
    # The frozen teacher comes out of the supervised training.
    decays["offline"] = [0, 1e-4]
    for variant, decay, eps in (
        ("paper", None, 1e-8),
        ("reference", decays.get(method, [1e-4]), 1e-9),
    ):
        estimator = ear(method, variant=variant, module__n_filters=3, validation=1)
        fitted = stagers_of(estimator.fit(X, y))
        assert estimator.predict_proba(X).shape == (len(X), 5)
        groups = [stager.optimizer_.param_groups[0] for stager in fitted]
        found = [group["weight_decay"] for group in groups]
        assert found == ([0] * len(fitted) if decay is None else decay)
        assert {(group["eps"], group["lr"]) for group in groups} == {(eps, 1e-3)}
        # Parameters reach every stager.
        assert {stager.module_.filters.out_channels for stager in fitted} == {3}
        assert {len(stager.held_out_) for stager in fitted} == {1}


def test_scalp_learns_from_the_source_alone():
    X, y = make_pair(n_subjects=3, n_epochs=16)
    silent = X.replace(target=np.zeros_like(X["target"]))
    expected = ear("ear").fit(X.source_epochs, y).predict_proba(X.source_epochs)
    found = ear("scalp").fit(silent, y).predict_proba(silent)
    np.testing.assert_array_equal(found, expected)


def test_transfer_and_offline_share_a_scalp_network_of_its_own_seed():
    X, y = make_pair(n_subjects=2, n_epochs=12)
    transfer, offline = (ear(m, **STILL).fit(X, y) for m in ("transfer", "offline"))
    assert same(transfer.pretrained_, offline.teacher_)
    begins_at, teacher = (net.module_.filters.weight for net in stagers_of(offline))
    assert not torch.allclose(begins_at, teacher, atol=1e-6)


# ---------------------------------------------------------------- Joshi et al.


@pytest.mark.parametrize("n_classes", [4, 3])
@pytest.mark.parametrize("method", ECG)
def test_every_ecg_stager_states_the_papers_training(method, n_classes):
    """Section II.D, and the batch size of the published code."""
    estimator = joshi2021(method, n_classes)
    for stager in stagers_of(estimator):
        assert stager.optimizer is torch.optim.Adam
        assert (stager.lr, stager.batch_size, stager.max_epochs) == (1e-3, 256, 150)
        assert stager.class_weight == "balanced"
        assert stager.classes == {4: "wldr", 3: "wnr"}[n_classes]
    if isinstance(estimator, DistilledSleepStager):
        assert estimator.temperature == 1
        assert estimator.feature_max_epochs is None  # as many as the second step


def test_ecg_methods_are_what_they_are_called():
    made = {method: joshi2021(method) for method in ECG}
    assert isinstance(made["eeg"], Pipeline)
    assert type(made["eeg"][-1]) is type(made["ecg"]) is SleepStager
    for method, *expected in (
        ("sd+cl", "offline", None, 0.5),
        ("at+cl", "two-step", "attention", 0.0),
        ("at+sd+cl", "two-step", "attention", 0.5),
    ):
        student = made[method]
        assert [student.strategy, student.feature_loss, student.alpha] == expected
        assert student.layers is None  # all that the network declares
        assert (student.module, student.teacher.module) == (None, "UTime")


@pytest.mark.parametrize(("n_classes", "n_parameters"), [(4, 4_813_240), (3, 4_813_215)])
def test_ecg_network_is_the_papers(n_classes, n_parameters):
    """The numbers of parameters of the published code's networks."""
    stager = joshi2021("ecg", n_classes, max_epochs=0, device="cpu")
    X = np.random.default_rng(0).random((4, 1, 96))
    stager.fit(X, np.arange(4) % n_classes)
    assert sum(p.numel() for p in stager.module_.parameters()) == n_parameters


def test_ecg_students_share_a_teacher_of_its_own_seed():
    X, y = ecg_pair()
    first, second = (ecg(method).fit(X, y) for method in ("sd+cl", "at+cl"))
    assert same(first.teacher_, second.teacher_)
    assert not same(first.teacher_, ecg("ecg").fit(X.source_epochs, y))
    # Class weights reach the teacher and the student: total over classes, by N / (K n).
    expected = len(y) / (4 * np.bincount(y))
    for stager in (first, first.teacher_):
        np.testing.assert_allclose(stager.criterion_.weight.numpy(), expected, rtol=1e-6)


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
    student = ecg("at+cl", variant="reference", **STILL).fit(X, y)
    proba = student.predict_proba(X)
    again = pickle.loads(pickle.dumps(student))
    np.testing.assert_array_equal(again.predict_proba(X), proba)
    seen = []
    for stager, epochs in ((student, X), (student.teacher_, X.source_epochs)):
        network, maps = stager.module_, {}
        network.train(stager is student)
        for name in network.feature_layers:
            network.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name, maps=maps: maps.update({name: output})
            )
        network(torch.from_numpy(epochs["target"]))
        seen.append({name: x.detach().double().numpy() for name, x in maps.items()})
    expected = published_attention_loss(*seen)
    assert student.history_[0, "train_feature_loss"] == pytest.approx(expected, rel=5e-3)


def test_reference_attention_hangs_on_the_batch_and_the_papers_does_not():
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.random((4, 3, 20))) for _ in range(2)]

    def of_halves(loss):
        halves = [loss(*(m[rows] for m in maps)) for rows in (slice(2), slice(2, 4))]
        return loss(*maps).item(), np.mean(halves).item()

    whole, halves = of_halves(AttentionTransfer())
    assert whole == pytest.approx(halves)
    whole, halves = of_halves(joshi2021("at+cl", variant="reference").feature_loss)
    assert abs(whole / halves - 1) > 0.1


# ---------------------------------------------------------------- Phan et al.

#: The names of parameters that belong to the parts in Fig. 1 of the paper.
ARNN = ("filterbank", "epoch_rnn", "attention")
PARTS = {
    ("direct", "paper"): (),
    ("softmax", "paper"): ("head",),
    ("softmax+arnn", "paper"): ("head", *ARNN),
    ("softmax+arnn", "reference"): ARNN,  # the published code forgets the last layer
    ("softmax+seqrnn", "paper"): ("head", "sequence_rnn"),
    ("all", "paper"): ("head", "sequence_rnn", *ARNN),
}
TUNED = {**FAST, "batch_size": 8, "lr": 0.01}
UNFITTED = {**TUNED, **SMALL_SEQSLEEPNET, "sequence_length": 4}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network that was trained on another cohort, as a file."""
    X, y = make_spectra(name="source-{}", seed=1)
    path = tmp_path_factory.mktemp("pretrained") / "c4-a1.safetensors"
    stager = phan2019("scratch", validation=None, **UNFITTED)
    save(stager.fit(X.source_epochs, y), path)
    return path


@pytest.mark.parametrize("method", TRANSFER)
def test_every_transfer_stager_states_the_papers_training(method):
    """Section V.C, and the published code's penalty and evaluations."""
    stager = phan2019(method)
    pretrained = getattr(stager, "pretrained", stager)
    for one in (stager, pretrained):
        params = one.get_params()
        assert one.optimizer is torch.optim.Adam
        assert (one.lr, one.batch_size, one.max_epochs) == (1e-4, 32, 10)
        assert params["optimizer__weight_decay"] * 32 == pytest.approx(1e-3)
        assert params["optimizer__param_groups"] == [("filterbank*", {"weight_decay": 0.0})]
        assert (one.fusion, one.class_weight) == ("product", None)
    assert type(stager) is (SleepStager if method == "scratch" else FineTunedSleepStager)
    assert pretrained.module == "SeqSleepNet"
    assert (pretrained.sequence_length, pretrained.classes) == (20, "aasm")
    assert pretrained.get_params()["module__drop_prob"] == 0.25
    chosen = stager.get_params(deep=False)["callbacks__best_weights"]
    assert isinstance(chosen, StepwiseValidation)
    assert (chosen.every, chosen.patience, chosen.min_steps) == (10, 50, 1000)
    assert chosen.score == "accuracy"


@pytest.mark.parametrize(
    ("method", "variant", "size"),
    [
        ("direct", "paper", 0),
        ("softmax", "paper", 645),
        ("softmax+arnn", "paper", 645 + 4_128 + 37_632 + 8_320),
        ("softmax+seqrnn", "paper", 645 + 74_496),
        ("all", "paper", 125_221),
        ("softmax+arnn", "reference", 4_128 + 37_632 + 8_320),
        ("softmax+seqrnn", "reference", 645 + 74_496),
    ],
)
def test_sizes_of_what_is_trained(method, variant, size):
    """129 x 32 filters; GRUs of 2 x 3 x 64 x (inputs + 64 + 2); attention 128 x 64 + 2 x 64."""
    network = SeqSleepNet(n_chans=1, n_times=29)
    names = trained_parameters(network, phan2019(method, variant=variant).trainable)
    parameters = dict(network.named_parameters())
    assert sum(parameters[name].numel() for name in names) == size


@pytest.mark.parametrize(("method", "variant"), PARTS)
def test_each_row_moves_exactly_the_parameters_of_its_groups(file, method, variant):
    X, y = make_spectra()
    pretrained, before = load(file), weights(load(file))
    stager = phan2019(method, pretrained, variant, **TUNED).fit(X, y)
    after = weights(stager)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(PARTS[method, variant])}
    assert same(pretrained, before)  # it is copied, not trained in place
    # The penalty spares the filters.
    filters = stager.module_.filterbank.weight
    for group in stager.optimizer_.param_groups:
        spared = any(parameter is filters for parameter in group["params"])
        assert group["weight_decay"] == (0 if spared else 1e-3 / 32)
    assert stager.fitted_on_["subject"].tolist() == np.unique(X.subject).tolist()
    if method == "direct":
        # Layers that cannot be trained are computed in another order: the last digit.
        found, expected = (s.predict_proba(X.target_epochs) for s in (stager, pretrained))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rows_hold_out_the_same_subjects(file):
    X, y = make_spectra(n_subjects=6)
    chosen = [phan2019("scratch", validation=2, **UNFITTED)]
    chosen += [phan2019(method, load(file), validation=2, **TUNED) for method in ROWS]
    held_out = [stager.fit(X, y).held_out_.tolist() for stager in chosen]
    assert held_out == [held_out[0]] * len(TRANSFER)
    assert len(held_out[0]) == 2


def test_pretrained_in_the_fold_by_all_of_its_passes():
    X, y = make_spectra(n_subjects=6)
    small = {**UNFITTED, "validation": 2, "max_epochs": 3}
    small["callbacks__best_weights__patience"] = 1
    stager = phan2019("softmax", **small).fit(X, y)
    pretrained = stager.pretrained_
    assert type(pretrained) is SleepStager
    assert not is_frozen(pretrained)
    assert len(pretrained.history) == 3
    assert pretrained.held_out_.tolist() == stager.held_out_.tolist()
    assert stager.sequence_length_ == pretrained.sequence_length == 4
    # It learned from the source, and its last weights are where the row begins.
    assert pretrained.score(X.source_epochs, y) > pretrained.score(X.target_epochs, y)
    assert same(stager.module_.sequence_rnn, pretrained.module_.sequence_rnn)


def test_a_fitted_stager_is_frozen_and_an_unfitted_one_is_not(file):
    fitted = load(file)
    assert is_frozen(phan2019("all", fitted).pretrained)
    assert phan2019("all", fitted).pretrained.estimator is fitted
    for given in (FrozenEstimator(fitted), phan2019("scratch")):
        assert phan2019("all", given).pretrained is given
    with pytest.raises(ValueError, match="pretrained__lr cannot be set"):
        phan2019("all", fitted).set_params(pretrained__lr=1e-3)
    X, y = make_spectra()
    with pytest.raises(ValueError, match="give hidden_size there"):
        phan2019("all", fitted, module__hidden_size=9, **TUNED).fit(X, y)


def test_parameters_of_the_row_and_of_the_pretrained(file):
    unfitted = phan2019("softmax", max_epochs=2, module__n_filters=5)
    assert (unfitted.max_epochs, unfitted.pretrained.max_epochs) == (2, 2)
    assert unfitted.pretrained.get_params()["module__n_filters"] == 5
    assert unfitted.set_params(pretrained__lr=0.5).pretrained.lr == 0.5
    folds = SleepEdfFolds()
    assert phan2019("all", validation=folds).validation is folds
    # In a grid.
    X, y = make_spectra(n_subjects=4)
    stager = phan2019("all", load(file), **TUNED)
    grid = {"lr": [1e-2], "callbacks__best_weights__every": [1]}
    grid["trainable"] = ["all", ("head",)]
    search = GridSearchCV(stager, grid, cv=GroupKFold(2), refit=False)
    scores = search.fit(X, y, groups=X.subject).cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 1
    assert stager.get_params(deep=False)["callbacks__best_weights"].every == 10
