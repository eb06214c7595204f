"""What is written at the first attempt: it works, or the error says the line to write."""

import pickle
from pathlib import Path

import mne
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from skorch.callbacks import EarlyStopping
from torch import nn

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    SleepStager,
    load,
    save,
)
from skleepkd.preprocessing import EpochScaler
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, make_pair, raises, recording

PLAIN = SleepStager(TinyNetwork, **FAST)
ALL = (PLAIN, DistilledSleepStager(PLAIN, **FAST), FineTunedSleepStager(PLAIN, **FAST))


# ---------------------------------------------------------------- fit and predict


@pytest.mark.parametrize("stager", ALL, ids=lambda stager: type(stager).__name__)
def test_two_signals(pair, stager):
    X, y = pair
    source, target = X["source"], X["target"]
    for swapped in (
        target,
        X,
        mne.EpochsArray(target, mne.create_info(2, 2.0), verbose=False),
    ):
        with raises(r"signals.*X_source=source.*PairedEpochs\(target, source=source\)"):
            stager.fit(source, swapped, y)
    with raises(r"Two signals: PairedEpochs\(target, source=source\)"):
        stager.fit((source, target), y)


def test_unknown_arguments_of_fit(pair):
    X, y = pair
    with raises(
        r"SleepStager.fit takes no source=.*fit\(X, y, X_source=source\)", TypeError
    ):
        PLAIN.fit(X, y, source=X["source"])
    for stager in ALL[1:]:
        with raises(r"fit takes no source=. Did you mean X_source=\?", TypeError):
            stager.fit(X, y, source=X["source"])
        with raises(r"fit takes no subjects=. Did you mean groups=\?", TypeError):
            stager.fit(X, y, subjects=X.subject)


def test_a_file_or_a_recording(pair):
    X, y = pair
    raw = recording(["L", "R"])
    fitted = clone(PLAIN).fit(X, y)
    for given in ("night.edf", Path("night.edf"), raw, ["one.edf", "two.edf"], [raw, raw]):
        with raises(
            r"RecordingStager\(stager\).stage\(raw\) stages it, or a file.*from_raws"
        ):
            fitted.predict(given)
        for stager in ALL:
            with raises("from_raws cuts the epochs of mne.io.read_raw"):
                stager.fit(given, y)
    with raises(r"given RawArray, a recording: RecordingStager\(stager\).*from_raws"):
        PairedEpochs(raw)


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("epochs", "max_epochs"),
        ("n_epochs", "max_epochs"),
        ("learning_rate", "lr"),
        ("batchsize", "batch_size"),
        ("class_weights", "class_weight"),
        ("clases", "classes"),
        ("seed", "random_state"),
        ("loss", "criterion"),
        ("weight_decay", "optimizer__weight_decay"),
        ("module_filters", "module__filters"),
        ("iterator_train_transforms", "iterator_train__transforms"),
        ("n_filters", "module__n_filters"),  # nothing is like it: perhaps the network's
    ],
)
def test_names_that_come_close(given, meant):
    wrong = {given: 1}
    with raises(f"SleepStager takes no {given}=.*{meant}=", TypeError):
        SleepStager(TinyNetwork, **wrong)
    with raises(f"SleepStager takes no {given}=.*{meant}="):
        clone(PLAIN).set_params(**wrong)
    with raises(f"SleepStager takes no {given}=.*{meant}="):
        clone(ALL[1]).set_params(teacher__lr=0.1, **{f"teacher__{given}": 1})
    with raises(f"FineTunedSleepStager takes no {given}=.*{meant}=", TypeError):
        FineTunedSleepStager(PLAIN, **wrong)


def test_names_of_a_students_own_parameters():
    with raises(
        r"DistilledSleepStager takes no strateg=. Did you mean strategy=\?", TypeError
    ):
        DistilledSleepStager(PLAIN, strateg="online")
    # What skorch knows is taken as ever.
    SleepStager(TinyNetwork, callbacks__print_log=None, iterator_train__num_workers=0)
    SleepStager(
        TinyNetwork, dataset=None, use_caching=False, compile=False, warm_start=True
    )


class Foreign(nn.Module):
    def __init__(self, n_channels, n_classes, width=3):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(n_channels), nn.Linear(n_channels, n_classes)

    def forward(self, x):
        return self.head(self.norm(x.var(dim=2).log()))


def test_networks_with_other_arguments(pair):
    X, y = pair
    line = "module__n_channels=2, module__n_classes=5"
    with raises(f"Foreign waits for n_channels, n_classes.*n_chans, n_times.*{line}"):
        SleepStager(Foreign, **FAST).fit(X, y)
    options = {"module__n_channels": 2, "module__n_classes": 5}
    SleepStager(Foreign, **options, **FAST).fit(X, y)
    with raises(r"Foreign has no argument widht .*did you mean module__width=\?"):
        SleepStager(Foreign, module__widht=3, **options, **FAST).fit(X, y)
    with raises("Linear waits for in_features.*module__in_features=..."):
        SleepStager(nn.Linear, **FAST).fit(X, y)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("utime", "UTime"),
        ("U-Sleep", "USleep"),
        ("SleepStagerChambon", "SleepStagerChambon2018"),
        ("SeqSleepNet2", "SeqSleepNet"),
    ],
)
def test_names_of_networks(pair, name, meant):
    with raises(f"No network is called '{name}'. Did you mean '{meant}'?"):
        SleepStager(name, **FAST).fit(*pair)


# ---------------------------------------------------------------- teachers


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            TinyNetwork(2, 60, 5),
            r"FrozenEstimator\(SleepStager.from_module\(network, classes=",
        ),
        (TinyNetwork, r"SleepStager\(TinyNetwork\)"),
        (SleepStager, r"SleepStager\(\.\.\.\)"),
        ("USleep", r'given \'USleep\'. Write .*SleepStager\("USleep"\)'),
        (None, r'SleepStager\("USleep"\)'),
        ({"one": PLAIN}, r"given dict. Write .*SleepStager"),
        (np.full((144, 5), 0.2), "what computed it"),
        (torch.full((144, 5), 0.2), "what computed it"),
        (np.array([PLAIN, PLAIN]), "several teachers are a list"),
    ],
)
def test_what_is_no_teacher(pair, given, line):
    with raises(f"teacher is an estimator.*{line}"):
        DistilledSleepStager(given, TinyNetwork, **FAST).fit(*pair)
    with raises(f"pretrained is an estimator.*{line}"):
        FineTunedSleepStager(given, **FAST).fit(*pair)


def test_several_teachers(pair):
    by_output = {"module": TinyNetwork, "feature_loss": None, "alpha": 0.5, **FAST}
    mean = VotingClassifier([("one", PLAIN), ("two", PLAIN)], voting="soft")
    for given in ([PLAIN, PLAIN], mean):
        student = DistilledSleepStager(given, **by_output).fit(*pair)
        assert student.predict_proba(pair[0]).shape == (144, 5)
    with raises("pretrained must be .*; given list"):
        FineTunedSleepStager([PLAIN, PLAIN], **FAST).fit(*pair)


def test_a_teacher_without_probabilities(pair):
    by_output = {"module": TinyNetwork, "feature_loss": None, "alpha": 0.5, **FAST}
    with raises(
        r"CalibratedClassifierCV\(RidgeClassifier\(\.\.\.\)\), which has predict_proba"
    ):
        DistilledSleepStager(RidgeClassifier(), **by_output).fit(*pair)


# ---------------------------------------------------------------- from_module


def trained(classes=5, seed=0):
    torch.manual_seed(seed)
    return TinyNetwork(2, 60, classes).eval()


NAMES = ["W", "N1", "N2", "N3", "REM"]  # as the network puts them out
ABOUT = {"sfreq": 2.0, "ch_names": ["C3", "C4"]}


def outputs_of(network, X):
    with torch.no_grad():
        return network(torch.from_numpy(X["target"])).softmax(dim=1).numpy()


def test_columns_of_a_foreign_network_are_sorted(pair):
    X, _ = pair
    network = trained()
    expected = outputs_of(network, X)
    stager = SleepStager.from_module(network, classes=NAMES, **ABOUT)
    assert stager.classes_.tolist() == ["N1", "N2", "N3", "REM", "W"]
    found = stager.predict_proba(X)
    np.testing.assert_allclose(found, expected[:, [1, 2, 3, 4, 0]], rtol=1e-5)
    np.testing.assert_array_equal(stager.predict(X), np.array(NAMES)[expected.argmax(1)])
    # The user's own network is not touched.
    np.testing.assert_array_equal(outputs_of(network, X), expected)
    for classes in ("aasm", [0, 1, 2, 3, 4]):
        stager = SleepStager.from_module(network, classes=classes, **ABOUT)
        np.testing.assert_allclose(stager.predict_proba(X), expected, rtol=1e-5)
        np.testing.assert_array_equal(stager.predict(X), expected.argmax(1))
    backwards = SleepStager.from_module(network, classes=[4, 3, 2, 1, 0], **ABOUT)
    np.testing.assert_allclose(backwards.predict_proba(X), expected[:, ::-1], rtol=1e-5)


def test_a_foreign_network_in_every_place(pair, tmp_path):
    X, y = pair
    labels = np.array(NAMES)[y]
    stager = SleepStager.from_module(trained(), classes=NAMES, **ABOUT, **FAST)
    expected = stager.predict_proba(X)
    assert (stager.ch_names_, stager.fitted_on_["subject"]) == (["C3", "C4"], None)
    save(stager, tmp_path / "kept.safetensors")
    kept = load(tmp_path / "kept.safetensors", module=stager.module)
    for again in (pickle.loads(pickle.dumps(stager)), kept):
        np.testing.assert_array_equal(again.predict_proba(X), expected)
    with raises("order_of_outputs"):  # the columns would be others
        load(tmp_path / "kept.safetensors", module=TinyNetwork)
    frozen = FrozenEstimator(stager)
    for options in ({"feature_loss": None, "alpha": 0.5}, {"layers": ["features"]}, {}):
        student = DistilledSleepStager(frozen, TinyNetwork, **options, **FAST)
        assert student.fit(X, labels).predict_proba(X).shape == (144, 5)
    start = FineTunedSleepStager(frozen, trainable=None, **FAST).fit(X, labels)
    np.testing.assert_allclose(start.predict_proba(X["target"]), expected, rtol=1e-5)
    # A copy goes on from the weights.
    again = clone(stager).set_params(lr=0.0, max_epochs=1)
    with pytest.raises(AttributeError):
        again.classes_
    again.module.eval()
    assert again.fit(X, labels).classes_.tolist() == sorted(NAMES)
    piped = make_pipeline(EpochScaler(), stager)
    assert piped.predict(X).shape == (144,)


def test_a_student_does_not_begin_at_a_foreign_networks_weights(pair):
    X, y = pair
    frozen = FrozenEstimator(SleepStager.from_module(trained(), classes="aasm", **ABOUT))
    with raises("module="):
        DistilledSleepStager(frozen, start_from_teacher=False, **FAST).fit(X, y)
    for start in (True, "auto"):
        DistilledSleepStager(frozen, start_from_teacher=start, **FAST).fit(X, y)


def test_a_foreign_network_of_sequences():
    X, y = make_pair()
    network = TinySequenceNetwork(2, 60, 5)
    stager = SleepStager.from_module(network, classes=NAMES, sequence_length=4, **ABOUT)
    assert stager.predict(X).shape == y.shape


def test_what_from_module_refuses():
    about = {"classes": "aasm", "sfreq": 2.0}
    with raises(r"ch_names=\[\.\.\.\] or n_chans="):
        SleepStager.from_module(trained(), **about)
    with raises("given type"):
        SleepStager.from_module(TinyNetwork, n_chans=2, **about)
    with raises(r"\(2, 3\), and not \(2, 5\)"):
        SleepStager.from_module(trained(3), n_chans=2, **about)
    with raises("once"):
        SleepStager.from_module(trained(), n_chans=2, sfreq=2.0, classes=["W"] * 5)
    ends = nn.Sequential(trained(), nn.Softmax(dim=1)).eval()
    with raises("puts out probabilities.*predict_nonlinearity=None"):
        SleepStager.from_module(ends, n_chans=2, **about)
    X, _ = make_pair()
    stager = SleepStager.from_module(ends, n_chans=2, predict_nonlinearity=None, **about)
    np.testing.assert_allclose(stager.predict_proba(X), outputs_of(ends[0], X), rtol=1e-5)
    with raises("fitted to 2 Hz; given epochs at 4 Hz"):
        stager.predict(PairedEpochs(X["target"][:, :, :60], sfreq=4.0))


# ---------------------------------------------------------------- kinds of values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adam"}, r"optimizer=torch.optim.AdamW, or the like; given 'adam'"),
        ({"criterion": "nll"}, "criterion=torch.nn.CrossEntropyLoss"),
        ({"callbacks": EarlyStopping()}, r"callbacks=\[EarlyStopping\(...\)\]"),
        ({"callbacks": EarlyStopping}, r"callbacks=\[EarlyStopping\(...\)\]"),
        ({"module": None}, "module is a network's name, a class or a factory; given None"),
        ({"module": PLAIN}, "module is a network's name.*given SleepStager"),
        ({"validation": (np.zeros((3, 2, 60)), np.zeros(3))}, "a tuple of subjects"),
    ],
)
def test_values_of_another_kind(pair, wrong, message):
    with raises(message):
        clone(PLAIN).set_params(**wrong).fit(*pair)


def test_subjects_in_the_place_of_a_source(pair):
    X, y = pair
    for subjects in (X.subject, np.arange(len(y))):
        with raises(r"Subjects go by name: fit\(X, y, groups=subjects\)"):
            ALL[1].fit(X, y, subjects)


def test_networks_that_are_frozen_or_scripts(pair):
    with raises(
        r"given TinyNetwork. Write teacher=FrozenEstimator\(SleepStager.from_module"
    ):
        DistilledSleepStager(FrozenEstimator(trained()), TinyNetwork, **FAST).fit(*pair)
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(120, 5)))
    with raises("no TorchScript"):
        SleepStager.from_module(script, classes="aasm", **ABOUT)
