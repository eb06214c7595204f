"""The contract, for every estimator and every way of handing the pair over."""

import multiprocessing
import os
import pickle
import signal

import numpy as np
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    LeaveOneGroupOut,
    cross_val_predict,
    cross_validate,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.metrics import sleep_scorers
from skleepkd.preprocessing import PairedTransformer
from tests.tiny import FAST, NAMES, TinyNetwork, make_pair

FAST = {**FAST, "batch_size": 72}  # two steps
TEACHER = SleepStager(TinyNetwork, **{**FAST, "random_state": None}, classes="aasm")


def log_power(X):
    return np.log(np.asarray(X).var(axis=2))


#: Features by hand, then a classifier: a teacher that has no network.
PLAIN = make_pipeline(FunctionTransformer(log_power), GaussianNB())
STAGERS = {
    "supervised": SleepStager(TinyNetwork, classes="aasm", **FAST),
    "offline": DistilledSleepStager(TEACHER, classes="aasm", **FAST),
    "online": DistilledSleepStager(TEACHER, strategy="online", classes="aasm", **FAST),
    "two-step": DistilledSleepStager(
        TEACHER, strategy="two-step", alpha=0.5, classes="aasm", **FAST
    ),
    "plain teacher": DistilledSleepStager(
        PLAIN, TinyNetwork, feature_loss=None, alpha=0.5, classes="aasm", **FAST
    ),
    "assistant and another": DistilledSleepStager(
        [DistilledSleepStager(TEACHER, classes="aasm", **FAST), PLAIN],
        TinyNetwork,
        **{"feature_loss": None, "alpha": 0.5, "classes": "aasm", **FAST},
    ),
    "transfer": FineTunedSleepStager(TEACHER, **FAST),
}
TAKES_PAIRS = [name for name in STAGERS if name != "supervised"]

every_stager = pytest.mark.parametrize("stager", STAGERS.values(), ids=STAGERS)
every_paired = pytest.mark.parametrize(
    "stager", [STAGERS[name] for name in TAKES_PAIRS], ids=TAKES_PAIRS
)
kappa = make_scorer(cohen_kappa_score)


# ---------------------------------------------------------------- parameters, pickles


@every_stager
def test_parameters_survive_clone_pickle_and_set_params(stager):
    fresh = clone(stager)
    params = fresh.get_params(deep=False)
    assert params["device"] == "cpu"
    again = pickle.loads(pickle.dumps(fresh))
    assert again.get_params(deep=False).keys() == params.keys()
    fresh.set_params(max_epochs=7, optimizer__weight_decay=0.1)
    assert clone(fresh).get_params()["optimizer__weight_decay"] == 0.1
    assert stager.max_epochs == 1


@every_stager
def test_auto_device_is_remembered_and_resolved(pair, stager):
    X, y = pair
    net = clone(stager).set_params(device="auto").fit(X, y)
    assert net.get_params()["device"] == "auto"
    assert clone(net).get_params()["device"] == "auto"
    again = pickle.loads(pickle.dumps(net))
    assert again.get_params()["device"] == "auto"
    np.testing.assert_allclose(again.predict_proba(X), net.predict_proba(X), rtol=1e-6)


@every_stager
def test_fitted_copies_predict_alike(pair, stager):
    X, y = pair
    net = clone(stager).fit(X, y)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
    assert len(pickle.dumps(net)) < 300_000, "the training data went along"
    frozen = clone(FrozenEstimator(net)).fit(X, y)
    np.testing.assert_array_equal(frozen.predict_proba(X), net.predict_proba(X))
    with pytest.raises(AttributeError, match="not fitted"):
        _ = clone(net).classes_


@every_stager
def test_fit_leaves_its_parameters_alone(pair, stager):
    X, y = pair
    net = clone(stager)

    def params():  # the teacher's too; callbacks are made anew at each look
        params = net.get_params()
        return {
            name: repr(value) for name, value in params.items() if "callbacks" not in name
        }

    before = params()
    net.fit(X, y)
    assert params() == before
    assert net.fitted_on_["subject"].tolist() == [f"s{k}" for k in range(6)]
    assert net.fitted_on_["recording"][0] == "night-s0"


@every_stager
def test_same_random_state_gives_bit_equal_networks(pair, stager):
    X, y = pair
    first, second = (clone(stager).fit(X, y) for _ in range(2))
    other = clone(stager).set_params(random_state=1).fit(X, y)
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))
    assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))
    np.random.seed(3)  # noqa: NPY002 (what None draws from)
    third = clone(stager).set_params(random_state=None).fit(X, y)
    np.random.seed(3)  # noqa: NPY002 (what None draws from)
    fourth = clone(stager).set_params(random_state=None).fit(X, y)
    assert np.array_equal(third.predict_proba(X), fourth.predict_proba(X))


def test_repr_shows_what_was_given():
    assert repr(SleepStager("USleep", lr=0.1, module__depth=3)) == (
        "SleepStager(module='USleep', lr=0.1, module__depth=3)"
    )
    assert repr(DistilledSleepStager(SleepStager("USleep"), alpha=0.7)) == (
        "DistilledSleepStager(teacher=SleepStager(module='USleep'), alpha=0.7)"
    )


# ---------------------------------------------------------------- handing the pair over


@every_paired
def test_all_ways_of_handing_the_pair_over_give_equal_scores(pair, stager, tmp_path):
    X, y = pair
    target, source, groups = X["target"], X["source"], X.subject
    cv = GroupKFold(2)

    def scores(routing=False, **given):
        given = {"y": y, "cv": cv, "scoring": kappa, **given}
        with config_context(enable_metadata_routing=routing):
            return cross_validate(stager, **given)["test_score"].tolist()

    expected = scores(X=X, groups=groups)
    by_hand = []
    for train, test in cv.split(target, y, groups):
        net = clone(stager)
        net.fit(target[train], y[train], X_source=source[train], groups=groups[train])
        by_hand.append(cohen_kappa_score(y[test], net.predict(target[test])))
    assert by_hand == expected
    params = {"X_source": source, "groups": groups}
    assert scores(X=target, groups=groups, params=params) == expected
    assert scores(X=target, params=params, routing=True) == expected
    assert scores(X=X, params={"groups": groups}, routing=True) == expected
    doubles = {"target": target.astype(float), "source": source.astype(float)}
    doubles = PairedEpochs(**doubles, subject=groups, sfreq=2.0)
    assert scores(X=doubles, groups=groups) == expected
    # A memory map, in this process and in forks of it.
    for n_jobs in (None, 2):
        mapped = X.to_memmap(tmp_path / f"pair-{n_jobs}")
        with parallel_config("multiprocessing"):
            assert scores(X=mapped, groups=groups, n_jobs=n_jobs) == expected


@every_stager
def test_folds_and_searches(pair, stager):
    X, y = pair
    y = np.where((y == 1) & (X.subject != "s0"), 2, y)  # a fold without one stage
    given = {"groups": X.subject, "cv": GroupKFold(3)}
    folds = LeaveOneGroupOut().split(X, y, X.subject)
    scores = cross_validate(
        stager, X, y, cv=folds, scoring=sleep_scorers(), error_score="raise"
    )
    assert len(scores["test_kappa"]) == 6
    assert np.isfinite([scores["test_kappa"], scores["test_f1_macro"]]).all()
    assert set(cross_val_predict(stager, X, NAMES[y], **given)) <= set(NAMES)
    probabilities = cross_val_predict(stager, X, y, method="predict_proba", **given)
    assert probabilities.shape == (len(X), 5)
    grid = {"lr": [1e-4, 1e-2], "optimizer__weight_decay": [0.1]}
    search = GridSearchCV(stager, grid, cv=GroupKFold(2), scoring=kappa)
    search.fit(X, y, groups=X.subject)
    assert search.best_estimator_.lr == search.best_params_["lr"]
    assert search.predict(X["target"]).shape == y.shape


def halved(X):
    return X / 2


def doubled(X):
    return X * 2


@every_stager
@pytest.mark.parametrize("routing", [False, True])
def test_in_a_pipeline(pair, stager, routing):
    X, y = pair
    each = {"source": FunctionTransformer(halved), "target": FunctionTransformer(doubled)}
    steps = make_pipeline(PairedTransformer(**each), stager)
    by_hand = X.replace(target=X["target"] * 2, source=X["source"] / 2)
    given = {"cv": GroupKFold(3), "scoring": kappa}
    with config_context(enable_metadata_routing=routing):
        groups = {"params": {"groups": X.subject}} if routing else {"groups": X.subject}
        scores = cross_validate(steps, X, y, **groups, **given)["test_score"]
        expected = cross_validate(stager, by_hand, y, **groups, **given)["test_score"]
    np.testing.assert_array_equal(scores, expected)
    fitted = clone(steps).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X["target"]), fitted.predict(X))


# ---------------------------------------------------------------- interruption


def test_interrupt_ends_cross_validation_at_once(pair):
    """skorch alone would score the half-trained fold and go on."""
    X, y = pair
    fits = []

    class Interrupt(Callback):
        def on_train_begin(self, net, **kwargs):
            fits.append(net)

        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    for stager in STAGERS.values():
        fits.clear()
        stager = clone(stager).set_params(callbacks=[Interrupt()])
        with pytest.raises(KeyboardInterrupt):
            cross_validate(stager, X, y, groups=X.subject, cv=LeaveOneGroupOut())
        assert len(fits) == 1


def train_for_hours(begun):
    # A shell's background job ignores interrupts, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class Report(Callback):
        def on_epoch_end(self, net, **kwargs):
            begun.set()

    X, y = make_pair()
    stager = SleepStager(TinyNetwork, max_epochs=100_000, callbacks=[Report()], verbose=0)
    try:
        cross_validate(stager, X, y, groups=X.subject, cv=GroupKFold(2))
    except KeyboardInterrupt:
        os._exit(130)


def test_ctrl_c_ends_the_program():
    processes = multiprocessing.get_context("fork")
    begun = processes.Event()
    child = processes.Process(target=train_for_hours, args=[begun], daemon=True)
    child.start()
    try:
        assert begun.wait(60)
        os.kill(child.pid, signal.SIGINT)
        child.join(60)
        assert child.exitcode == 130
    finally:
        child.kill()
