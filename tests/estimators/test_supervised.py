import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from skleepkd import PairedEpochs, SleepStager
from skleepkd.estimators.callbacks import kappa_of_confusion
from skleepkd.estimators.labels import StageCrossEntropy, class_weights
from tests.tiny import TinyNetwork, make_pair


def stager(**kwargs):
    options = {"max_epochs": 2, "random_state": 0, "device": "cpu", **kwargs}
    return SleepStager(TinyNetwork, **options)


def test_learns_what_is_there_to_learn(pair):
    X, y = pair
    fitted = stager(max_epochs=30, lr=0.02).fit(X.source_epochs, y)
    assert fitted.score(X.source_epochs, y) > 0.8
    losses = fitted.history_[:, "train_loss"]
    assert losses[-1] < 0.6 * losses[0]


# ---------------------------------------------------------------- labels and classes


def test_string_labels_come_back(pair):
    X, y = pair
    names = np.array(["W", "N1", "N2", "N3", "REM"])
    by_name = stager(classes="aasm").fit(X, names[y])
    by_code = stager(classes="aasm").fit(X, y)
    assert by_name.classes_.tolist() == names.tolist()
    np.testing.assert_array_equal(by_name.predict(X), names[by_code.predict(X)])
    np.testing.assert_array_equal(by_name.predict_proba(X), by_code.predict_proba(X))
    assert by_name.score(X, names[y]) == accuracy_score(y, by_code.predict(X))


def test_labels_seen_are_the_classes(pair):
    X, y = pair
    fitted = stager().fit(X, np.array(["N2", "W"])[y % 2])
    assert fitted.classes_.tolist() == ["N2", "W"]
    assert fitted.predict_proba(X).shape == (len(X), 2)


def test_a_fold_without_a_stage_keeps_five_columns(pair):
    X, y = pair
    rows = y != 1
    probabilities = stager(classes="aasm").fit(X[rows], y[rows]).predict_proba(X)
    assert probabilities.shape == (len(X), 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert stager().fit(X[rows], y[rows]).classes_.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("unscored", [-1, "?"])
def test_unscored_rows_are_skipped(pair, unscored):
    X, y = pair
    y = y if unscored == -1 else np.array(["W", "N1", "N2", "N3", "REM"])[y]
    marked = y.copy()
    marked[::3] = unscored
    left = np.delete(np.arange(len(y)), np.s_[::3])
    with_them, without = stager().fit(X, marked), stager().fit(X[left], y[left])
    np.testing.assert_array_equal(with_them.predict_proba(X), without.predict_proba(X))
    assert with_them.score(X, marked) == without.score(X[left], y[left])


def test_score_takes_the_labels_that_fit_takes(pair):
    X, y = pair
    fitted = stager().fit(X, y)
    expected = np.mean(fitted.predict(X) == y)
    for given in (y.astype(float), y.astype(object), y[:, None], y.tolist()):
        assert fitted.score(X, given) == expected
    with pytest.raises(ValueError, match="None of the .* epochs is scored"):
        fitted.score(X, np.full(len(y), -1))


def test_class_weight_as_scikit_learn(pair):
    _, y = pair
    y = np.repeat([0, 1, 2], [5, 20, 75])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights("balanced", y, np.arange(3)), expected)
    np.testing.assert_allclose(class_weights({1: 4}, y, np.arange(3)), [1, 4, 1])
    np.testing.assert_allclose(
        class_weights("balanced", y, np.arange(5))[:3], expected, rtol=1e-6
    )
    with pytest.raises(ValueError, match="class_weight names 7"):
        class_weights({7: 2}, y, np.arange(3))


def test_class_weight_reaches_the_loss(pair):
    X, y = pair
    fitted = stager(class_weight={0: 10.0}, max_epochs=25, lr=0.02).fit(X, y)
    plain = stager(max_epochs=25, lr=0.02).fit(X, y)
    assert (fitted.predict(X) == 0).sum() > (plain.predict(X) == 0).sum()
    assert fitted.criterion_.weight.tolist() == [10, 1, 1, 1, 1]


def test_cross_entropy_closed_form():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    y = torch.tensor([0, 1, -1])
    first, second = np.log1p(np.exp(-2)), np.log1p(np.exp(-1))
    assert StageCrossEntropy()(logits, y).item() == pytest.approx((first + second) / 2)
    weighted = StageCrossEntropy(weight=torch.tensor([3.0, 1.0]))(logits, y)
    assert weighted.item() == pytest.approx((3 * first + second) / 4)
    none = StageCrossEntropy()(logits.requires_grad_(), torch.tensor([-1, -1, -1]))
    none.backward()
    assert none.item() == 0
    assert not logits.grad.any()


# ---------------------------------------------------------------- what comes in


def test_all_kinds_of_array(pair):
    X, y = pair
    target = X["target"]
    expected = stager().fit(X.target_epochs, y).predict_proba(target)
    for given in (target, target.astype(np.float64), X):
        fitted = stager(module__n_filters=4).fit(
            given, y.astype(np.int32), groups=X.subject
        )
        np.testing.assert_allclose(fitted.predict_proba(given), expected, rtol=1e-6)
    one_channel = stager().fit(target[:, 0], y)
    assert one_channel.module_.filters.in_channels == 1
    assert one_channel.predict(target[:5, 0]).shape == (5,)


def test_mne_epochs_in_volts(pair):
    mne = pytest.importorskip("mne")
    X, y = pair
    info = mne.create_info(["C3", "C4"], 2.0, "eeg")
    epochs = mne.EpochsArray(X["target"] * 1e-6, info, verbose="error")
    expected = stager().fit(X["target"], y).predict_proba(X["target"])
    np.testing.assert_allclose(
        stager().fit(epochs, y).predict_proba(epochs), expected, atol=1e-4
    )


def test_signal_parameters_come_from_the_data():
    seen = {}

    class Curious(TinyNetwork):
        def __init__(self, n_chans, n_times, n_outputs, sfreq):
            seen.update(n_chans=n_chans, n_times=n_times, n_outputs=n_outputs, sfreq=sfreq)
            super().__init__(n_chans, n_times, n_outputs)

    X, y = make_pair(n_chans=3)
    net = SleepStager(Curious, max_epochs=1, classes="aasm")
    before = net.get_params(deep=False)
    net.fit(X, y)
    assert seen == {"n_chans": 3, "n_times": 60, "n_outputs": 5, "sfreq": 2.0}
    assert net.get_params(deep=False) == before
    net.fit(X["target"], y)
    assert seen["sfreq"] == 60 / 30


def test_an_instance_is_never_trained_in_place(pair):
    X, y = pair
    module = TinyNetwork(2, 60, 5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    SleepStager(module, max_epochs=1).fit(X, y)
    assert all(
        torch.equal(before[name], value) for name, value in module.state_dict().items()
    )


def test_u_sleep_of_the_paper():
    pytest.importorskip("braindecode")
    X = PairedEpochs(
        30 * np.random.default_rng(0).standard_normal((2, 3, 6000), np.float32)
    )
    net = SleepStager("USleep", classes="aasm", max_epochs=0).fit(X, [0, 1])
    # SPEC: three channels at 200 Hz, 9 samples a kernel.
    assert sum(p.numel() for p in net.module_.parameters()) == 3_114_391
    assert net.module_.encoder_blocks[0].block_prepool[0].kernel_size == (9,)
    assert net.extract_features(X).shape == (2, 6, 6000)


@pytest.mark.parametrize("sfreq", [64, 128, 256])
def test_u_sleep_works_at_every_rate(sfreq):
    pytest.importorskip("braindecode")
    X = 30 * np.random.default_rng(0).standard_normal((2, 1, 30 * sfreq), np.float32)
    net = SleepStager("USleep", module__depth=2, max_epochs=0).fit(X, [0, 1])
    assert net.module_.encoder_blocks[0].block_prepool[0].kernel_size == (9,)
    assert net.predict(X).shape == (2,)


# ---------------------------------------------------------------- validation by subject


def test_auto_validation_holds_out_a_tenth_of_many_subjects():
    X, y = make_pair(n_subjects=20, n_epochs=6)
    fitted = stager().fit(X, y)
    assert len(fitted.held_out_) == 2
    assert len(stager().fit(X["target"], y).held_out_) == 0
    few, labels = make_pair(n_subjects=9, n_epochs=6)
    assert len(stager().fit(few, labels).held_out_) == 0


def test_held_out_subjects_train_nothing():
    X, y = make_pair(n_subjects=5)
    held = X.subject == "s2"
    spoiled = X["target"].copy()
    spoiled[held] = 1000
    fits = [
        stager(validation=lambda subjects: ["s2"], callbacks__best_weights=None).fit(
            given, labels, groups=X.subject
        )
        for given, labels in ((X["target"], y), (spoiled, np.where(held, 4, y)))
    ]
    first, second = (net.module_.state_dict() for net in fits)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_best_weights_are_those_of_the_best_kappa():
    X, y = make_pair(n_subjects=5)
    net = stager(validation=1, max_epochs=8, lr=0.3).fit(X, y)
    kappas = net.history_[:, "valid_kappa"]
    assert net.best_epoch_ == int(np.argmax(kappas)) + 1
    from sklearn.metrics import cohen_kappa_score

    held = np.isin(X.subject, net.held_out_)
    measured = cohen_kappa_score(y[held], net.predict(X[held]))
    assert measured == pytest.approx(max(kappas))
    assert kappas[-1] != max(kappas), "the last pass is the best: this test shows nothing"


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (6, "hold out all"),
        (1.5, "fraction"),
        (0, "at least one"),
        ("some", "validation is"),
        (lambda s: ["nobody"], "nobody"),
    ],
)
def test_validation_that_cannot_be(pair, validation, message):
    X, y = pair
    with pytest.raises(ValueError, match=message):
        stager(validation=validation).fit(X, y)


def test_validation_needs_subjects(pair):
    X, y = pair
    with pytest.raises(ValueError, match="none are known"):
        stager(validation=1).fit(X["target"], y)


def test_kappa_of_confusion():
    table = np.array([[20, 5], [10, 15]])  # Cohen (1960): po 0.7, pe 0.5
    assert kappa_of_confusion(torch.from_numpy(table.ravel())) == pytest.approx(0.4)
    assert kappa_of_confusion(torch.tensor([4, 0, 0, 0])) == 0


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (X["target"] * 1e-6, y), "looks like volts"),
        (lambda X, y: (X["target"], y[:-1]), "one label each"),
        (
            lambda X, y: (
                np.where(X["target"] == X["target"][7, 0, 3], np.nan, X["target"]),
                y,
            ),
            "NaN",
        ),
        (lambda X, y: (X["target"], np.where(y == 4, 9, y)), "Unknown stage 9"),
        (lambda X, y: (X["target"], np.where(y == 4, -2, y)), "Unknown stage -2"),
        (lambda X, y: (X["target"], np.full(len(y), -1)), "scored"),
        (lambda X, y: (X["target"], np.zeros(len(y), int)), "scored|stage"),
        (lambda X, y: (X["target"][:, 0, 0], y), "shape"),
        (lambda X, y: (X["target"].astype(str), y), "numbers"),
        (lambda X, y: (X["target"][:0], y[:0]), "scored"),
        (lambda X, y: (X["target"], np.where(y == 4, np.nan, y)), "NaN"),
    ],
)
def test_bad_input_to_fit(pair, spoil, message):
    X, y = pair
    given, labels = spoil(X, y)
    with pytest.raises(ValueError, match=message):
        stager(
            classes="aasm" if labels.dtype.kind == "i" and len(set(labels)) > 1 else None
        ).fit(given, labels)


def test_bad_input_to_predict(pair):
    X, y = pair
    fitted = stager().fit(X, y)
    with pytest.raises(ValueError, match="2 channel.*given 1 channel"):
        fitted.predict(X["target"][:, :1])
    with pytest.raises(ValueError, match="60 samples; given 2 channel.* 50 samples"):
        fitted.predict(X["target"][:, :, :50])
    with pytest.raises(ValueError, match="volts"):
        fitted.predict(X["target"] / 1e6)
    with pytest.raises(ValueError, match="no epochs"):
        fitted.predict(X["target"][:0])
    with pytest.raises(ValueError, match="no layer 'nothing'.*filters"):
        fitted.extract_features(X, layer="nothing")
    with pytest.raises(Exception, match="fitted|initialized"):
        stager().predict(X)


def test_unknown_network(pair):
    X, y = pair
    with pytest.raises(ValueError, match="No network is called 'Nothing'"):
        SleepStager("Nothing").fit(X, y)


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
    X, y = pair
    own = SleepStager(Shaped, module__change=change, max_epochs=1, device="cpu")
    with pytest.raises(
        ValueError, match=rf"output of Shaped .* is {shape}.*\(2, 5\), \(batch"
    ):
        own.fit(X, y)


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

    options = {"criterion": OfTwo, "predict_nonlinearity": two_columns, "max_epochs": 1}
    own = SleepStager(Shaped, module__change=lambda logits: logits[:, :1], **options)
    assert own.fit(X, y > 2).predict_proba(X).shape == (len(y), 2)


def test_groups_that_contradict_the_pair(pair):
    X, y = pair
    with pytest.raises(ValueError, match="disagree"):
        stager().fit(X, y, groups=np.arange(len(y)) % 3)


# ---------------------------------------------------------------- training


def test_a_last_batch_of_one_epoch_does_not_break_batch_normalisation():
    class Strict(nn.Sequential):
        def __init__(self, n_chans, n_times, n_outputs):
            super().__init__(
                nn.Flatten(),
                nn.Linear(n_chans * n_times, 3),
                nn.BatchNorm1d(3),
                nn.Linear(3, n_outputs),
            )

    X, y = make_pair(n_subjects=1, n_epochs=33)
    SleepStager(Strict, max_epochs=1, batch_size=32).fit(X, y)


def test_schedule_and_callbacks_of_skorch(pair):
    from skorch.callbacks import LRScheduler

    X, y = pair
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.1)
    net = stager(callbacks=[schedule], lr=0.1).fit(X, y)
    assert net.optimizer_.param_groups[0]["lr"] == pytest.approx(0.001)


def test_own_train_split_of_skorch(pair):
    from skorch.dataset import ValidSplit

    X, y = pair
    net = stager(train_split=ValidSplit(3)).fit(X, y)
    assert "valid_loss" in net.history_[-1]


def test_partial_fit_goes_on(pair):
    X, y = pair
    net = stager().fit(X[X.subject != "s5"], y[X.subject != "s5"])
    before = net.predict_proba(X)
    net.partial_fit(X, y)
    assert len(net.history_) == 4
    assert not np.array_equal(before, net.predict_proba(X))
    assert "s5" in net.fitted_on_["subject"]
    with pytest.raises(ValueError, match="volts"):
        net.partial_fit(X["target"] * 1e-6, y)
    rows = y != 1
    with pytest.raises(ValueError, match="goes on with the classes.*Fix the classes"):
        net.partial_fit(X[rows], y[rows])
    with pytest.raises(ValueError, match="goes on with"):
        net.partial_fit(X["target"][:, :1], y)


def test_warm_start_keeps_the_labels_of_the_outputs(pair):
    X, y = pair
    net = stager(warm_start=True).fit(X, y % 3)
    net.fit(X, y % 3)
    assert len(net.history_) == 4
    with pytest.raises(ValueError, match="goes on with the classes"):
        net.fit(X, y % 3 + 1)


@pytest.mark.parametrize(
    "labels",
    [["W", -1, "N2"], ["W", None, "N2"], [0, float("nan"), 1], ["W", np.nan, "N2"]],
)
def test_labels_of_mixed_kinds_are_refused(pair, labels):
    X, _ = pair
    with pytest.raises(ValueError, match="y mixes"):
        stager().fit(X, np.array(labels * 48, dtype=object))


def test_labels_as_objects_are_what_they_are(pair):
    X, y = pair
    fitted = stager().fit(X, np.where(y == 4, -1, y).astype(object))
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    names = np.array(["W", "N1", "N2", "N3", "?"], dtype=object)[y]
    assert stager(classes="aasm").fit(X, names).predict(X).dtype.kind == "U"


NAMES = np.array(["W", "N1", "N2", "N3", "REM"])


def misspelt(y, label):
    """Stages by name, the third and fourth epoch under another one."""
    names = NAMES[y].astype("U16")
    names[2:4] = label
    return names


def test_a_stranger_among_stages_warns(pair):
    X, y = pair
    with pytest.warns(UserWarning, match=r"'RME' \(2 epochs\) .*classes='aasm'"):
        fitted = stager().fit(X, misspelt(y, "RME"))
    assert len(fitted.classes_) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stager(classes=[*NAMES, "RME"]).fit(X, misspelt(y, "RME"))
        stager().fit(X, NAMES[y])
        stager().fit(X, np.array(["W", "S"])[np.minimum(y, 1)])
        stager().fit(X, np.array(["W", "L", "D", "R", "?"])[y])
        stager().fit(X, np.char.lower(NAMES)[y])
        stager().fit(X, np.array(["one", "two"])[y % 2])


@pytest.mark.parametrize(
    ("label", "meant"),
    [("n2", "N2"), (" REM", "REM"), ("Sleep stage ?", r"\?"), ("Movement time", r"\?")],
)
def test_slips_of_case_and_blanks_are_refused(pair, label, meant):
    X, y = pair
    with pytest.raises(ValueError, match=f"instead of '{meant}'.*classes="):
        stager().fit(X, misspelt(y, label))
    fitted = stager(classes=[*NAMES, label]).fit(X, misspelt(y, label))
    assert fitted.classes_[-1] == label


@pytest.mark.parametrize(
    ("label", "hint"),
    [
        ("Sleep stage 2", "stage_of_text"),
        ("RME", "Mend the spelling"),
        ("L", "another scheme"),
    ],
)
def test_what_to_do_about_unknown_names(pair, label, hint):
    X, y = pair
    with pytest.raises(ValueError, match=f"Unknown stage {label} .*{hint}"):
        stager(classes="aasm").fit(X, misspelt(y, label))


def test_classes_that_cannot_be(pair):
    X, y = pair
    for classes in ([0, 0, 1, 2, 3, 4], [-1, 0, 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="each stage once"):
            stager(classes=classes).fit(X, y)


def test_another_rate_or_trailing_shape_in_predict(pair):
    X, y = pair
    fitted = stager().fit(X, y)
    with pytest.raises(ValueError, match="fitted to 2 Hz; given epochs at 1 Hz"):
        fitted.predict(PairedEpochs(X["target"], sfreq=1.0))


def test_a_teacher_given_the_wearable_warns(pair):
    X, y = pair
    named = PairedEpochs(
        X["target"], X["source"], ch_names={"target": ["L", "R"], "source": ["C3", "C4"]}
    )
    fitted = stager().fit(named.source_epochs, y)
    fitted.predict(named.source_epochs)
    with pytest.warns(UserWarning, match="channels C3, C4; given L, R.*source_epochs"):
        fitted.predict(named)


def test_a_partial_keeps_what_it_fixes(pair):
    from functools import partial

    X, y = pair
    fitted = SleepStager(partial(TinyNetwork, n_filters=3, sfreq=7), max_epochs=1).fit(X, y)
    assert fitted.module_.filters.out_channels == 3


def test_global_random_state_is_left_alone(pair):
    X, y = pair
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stager().fit(X, y)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(pair, tmp_path):
    import pickle

    X, y = pair
    net = stager(device="auto", max_epochs=20, lr=0.02).fit(X.source_epochs, y)
    assert next(net.module_.parameters()).is_cuda
    assert net.score(X.source_epochs, y) > 0.7
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_allclose(
        again.predict_proba(X.source_epochs), net.predict_proba(X.source_epochs), atol=1e-6
    )
