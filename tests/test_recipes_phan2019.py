"""The recipe of Phan et al. (2019): what each row trains, and nothing else."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from skleepkd import FineTunedSleepStager, PairedEpochs, SleepStager, load, save
from skleepkd.datasets import SleepEdfFolds
from skleepkd.distillation.teacher import is_frozen
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.estimators.finetuned import trained_parameters
from skleepkd.networks import SeqSleepNet
from skleepkd.preprocessing import LogSpectrogram
from skleepkd.recipes import phan2019
from tests.tiny import make_spectra

ROWS = ("direct", "softmax", "softmax+arnn", "softmax+seqrnn", "all")
METHODS = ("scratch", *ROWS)

#: The names of parameters that belong to the parts in Fig. 1 of the paper.
ARNN = ("filterbank", "epoch_rnn", "attention")
PARTS = {
    "direct": (),
    "softmax": ("head",),
    "softmax+arnn": ("head", *ARNN),
    "softmax+seqrnn": ("head", "sequence_rnn"),
    "all": ("head", "sequence_rnn", *ARNN),
}

SMALL = {"module__n_filters": 4, "module__hidden_size": 3, "module__attention_size": 4}
FAST = {"max_epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A network that was trained on another cohort, as a file."""
    X, y = make_spectra(cohort="source", seed=1)
    path = tmp_path_factory.mktemp("pretrained") / "c4-a1.safetensors"
    stager = phan2019("scratch", validation=None, sequence_length=4, **FAST, **SMALL)
    save(stager.fit(X.source_epochs, y), path)
    return path


# ---------------------------------------------------------------- the paper's settings


@pytest.mark.parametrize("method", METHODS)
def test_every_stager_states_the_papers_training(method):
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
    assert pretrained.module == "SeqSleepNet"
    assert (pretrained.sequence_length, pretrained.classes) == (20, "aasm")
    assert pretrained.get_params()["module__drop_prob"] == 0.25
    chosen = stager.get_params(deep=False)["callbacks__best_weights"]
    assert isinstance(chosen, StepwiseValidation)
    assert (chosen.every, chosen.patience, chosen.min_steps) == (10, 50, 1000)
    assert chosen.score == "accuracy"


def test_penalty_spares_the_filters_in_every_row(file):
    X, y = make_spectra()
    for method in METHODS:
        stager = phan2019(method, load(file), **FAST)
        if method == "scratch":
            stager.set_params(sequence_length=4, **SMALL)
        groups = stager.fit(X, y).optimizer_.param_groups
        filters = stager.module_.filterbank.weight
        for group in groups:
            spared = any(parameter is filters for parameter in group["params"])
            assert group["weight_decay"] == (0 if spared else 1e-3 / 32)


@pytest.mark.parametrize(
    ("method", "variant", "size"),
    [
        ("direct", "paper", 0),
        ("softmax", "paper", 645),
        ("softmax+arnn", "paper", 645 + 4_128 + 37_632 + 8_320),
        ("softmax+seqrnn", "paper", 645 + 74_496),
        ("all", "paper", 125_221),
        # The published code forgets the last layer.
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


# ---------------------------------------------------------------- what moves


@pytest.mark.parametrize("method", ROWS)
def test_each_row_moves_exactly_the_parameters_of_its_groups(file, method):
    X, y = make_spectra()
    pretrained = load(file)
    stager = phan2019(method, pretrained, **FAST).fit(X, y)
    before = load(file).module_.state_dict()
    after = stager.module_.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(PARTS[method])}
    for name, value in pretrained.module_.state_dict().items():
        assert torch.equal(value, before[name])  # it is copied, not trained in place


def test_reference_leaves_the_last_layer_as_it_was(file):
    X, y = make_spectra()
    before = load(file).module_.state_dict()
    stager = phan2019("softmax+arnn", load(file), "reference", **FAST).fit(X, y)
    after = stager.module_.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(ARNN)}


def test_direct_transfer_predicts_as_the_pretrained_network(file):
    X, y = make_spectra()
    pretrained = load(file)
    stager = phan2019("direct", pretrained, **FAST).fit(X, y)
    # Layers that cannot be trained are computed in another order: the last digit.
    np.testing.assert_allclose(
        stager.predict_proba(X.target_epochs),
        pretrained.predict_proba(X.target_epochs),
        rtol=1e-6,
    )
    assert stager.fitted_on_["subject"].tolist() == np.unique(X.subject).tolist()


# ---------------------------------------------------------------- use


def test_rows_hold_out_the_same_subjects(file):
    X, y = make_spectra(n_subjects=6)
    chosen = [
        phan2019(method, load(file), validation=2, **FAST)
        .set_params(**({"sequence_length": 4, **SMALL} if method == "scratch" else {}))
        .fit(X, y)
        .held_out_.tolist()
        for method in METHODS
    ]
    assert chosen == [chosen[0]] * len(METHODS)
    assert len(chosen[0]) == 2


def test_pretrained_in_the_fold_by_all_of_its_passes():
    X, y = make_spectra(n_subjects=6)
    small = {**SMALL, **FAST, "sequence_length": 4, "validation": 2, "max_epochs": 3}
    small["callbacks__best_weights__patience"] = 1
    stager = phan2019("softmax", **small).fit(X, y)
    pretrained = stager.pretrained_
    assert type(pretrained) is SleepStager
    assert not is_frozen(pretrained)
    assert len(pretrained.history) == 3
    assert pretrained.held_out_.tolist() == stager.held_out_.tolist()
    assert stager.sequence_length_ == pretrained.sequence_length == 4
    # It learned from the source, and its last weights are where the row begins.
    seen = pretrained.score(X.source_epochs, y)
    assert seen > pretrained.score(X.target_epochs, y)
    body = stager.module_.sequence_rnn.state_dict()
    for name, value in pretrained.module_.sequence_rnn.state_dict().items():
        assert torch.equal(value, body[name])


def test_a_fitted_stager_is_frozen_and_an_unfitted_one_is_not(file):
    fitted = load(file)
    assert is_frozen(phan2019("all", fitted).pretrained)
    assert phan2019("all", fitted).pretrained.estimator is fitted
    frozen = FrozenEstimator(fitted)
    assert phan2019("all", frozen).pretrained is frozen
    unfitted = phan2019("scratch", **SMALL)
    assert phan2019("all", unfitted).pretrained is unfitted


@pytest.mark.parametrize("method", METHODS)
def test_clone_and_pickle(method):
    X, y = make_spectra()
    stager = phan2019(method, sequence_length=4, **SMALL, **FAST)
    proba = clone(stager).fit(X, y).predict_proba(X)
    fitted = stager.fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), proba)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), proba)


def test_parameters_in_a_grid(file):
    X, y = make_spectra(n_subjects=4)
    stager = phan2019("all", load(file), **FAST)
    grid = {"lr": [1e-3, 1e-2], "callbacks__best_weights__every": [1]}
    grid["trainable"] = ["all", ("head",)]
    search = GridSearchCV(stager, grid, cv=GroupKFold(2), scoring="accuracy", refit=False)
    search.fit(X, y, groups=X.subject)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert stager.get_params(deep=False)["callbacks__best_weights"].every == 10
    with pytest.raises(ValueError, match="pretrained__lr cannot be set"):
        stager.set_params(pretrained__lr=1e-3)
    unfitted = phan2019("softmax", max_epochs=2, module__n_filters=5)
    assert (unfitted.max_epochs, unfitted.pretrained.max_epochs) == (2, 2)
    assert unfitted.pretrained.get_params()["module__n_filters"] == 5
    assert unfitted.set_params(pretrained__lr=0.5).pretrained.lr == 0.5
    folds = SleepEdfFolds()
    assert phan2019("all", validation=folds).validation is folds


def test_options_of_the_network_belong_to_the_pretrained(file):
    X, y = make_spectra()
    with pytest.raises(ValueError, match="give hidden_size there"):
        phan2019("all", load(file), module__hidden_size=9, **FAST).fit(X, y)


@pytest.mark.parametrize("method", ["scratch", "direct", "all"])
def test_signals_become_spectra_in_a_pipeline(method):
    """The pipeline of the docstring, pair in and stages out, with five columns."""
    rng = np.random.default_rng(0)
    n_subjects, n_epochs = 3, 8
    y = rng.integers(0, 5, n_subjects * n_epochs)
    y[8:][y[8:] == 1] = 2  # one fold has no N1
    signals = rng.normal(0, 20, (2, len(y), 1, 640)).astype(np.float32)
    subject = np.repeat(["a", "b", "c"], n_epochs)
    X = PairedEpochs(
        signals[0],
        source=signals[1],
        subject=subject,
        recording=subject,
        onset=np.tile(30.0 * np.arange(n_epochs), n_subjects),
        sfreq=100.0,
    )
    stager = phan2019(method, sequence_length=4, **SMALL, **FAST)
    pipeline = make_pipeline(LogSpectrogram(), stager)
    proba = cross_val_predict(
        pipeline, X, y, groups=subject, cv=GroupKFold(3), method="predict_proba"
    )
    assert proba.shape == (len(y), 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'softmax\+rnn'.*'scratch', 'direct', 'softmax'"):
        phan2019("softmax+rnn")
    with pytest.raises(ValueError, match="'paper' or 'reference'; given 'ours'"):
        phan2019("all", variant="ours")
    assert type(phan2019("direct")) is FineTunedSleepStager
