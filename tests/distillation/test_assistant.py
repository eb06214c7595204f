"""A student as teacher: an assistant learns from the pair, and teaches from the target."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation import LeakageWarning
from skleepkd.preprocessing import EpochScaler, PairedTransformer
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, same

PSG = SleepStager(TinyNetwork, max_epochs=1, device="cpu")
OUTPUT = {"feature_loss": None, "alpha": 0.5, **FAST}


def assistant(teacher=PSG, **params):
    # Of its own width, so that nobody else's features would fit.
    options = {"module": TinyNetwork, "module__n_filters": 6, **OUTPUT, **params}
    if isinstance(teacher, SleepStager):
        teacher = clone(teacher)
    return DistilledSleepStager(teacher, **options)


def student(teacher, **params):
    return DistilledSleepStager(teacher, **{**FAST, "alpha": 0.5, **params})


def swapped(X):
    """The pair with the target as its source, which is what a frozen teacher sees."""
    return X.replace(source=X["target"])


@pytest.mark.parametrize("strategy", ["offline", "two-step"])
def test_it_teaches_as_it_would_if_it_were_fitted_before(X, y, strategy):
    """Fitted by itself to the same pair, then frozen and shown the target."""
    alone = assistant(validation=("s1",)).fit(X, y)
    options = {"strategy": strategy, "validation": ("s1",), "max_epochs": 2}
    expected = student(FrozenEstimator(alone), **options).fit(swapped(X), y)
    found = student(assistant(), **options).fit(X, y)
    assert same(found.teacher_, alone)
    assert same(found.teacher_.teacher_, alone.teacher_)
    assert same(found, expected)
    # It differs from that of an assistant who is frozen, and sees the source.
    frozen = student(FrozenEstimator(alone), **options).fit(X, y)
    assert not same(found, frozen)


def test_sequences_and_weights_of_an_assistant(X, y):
    windows = {"sequence_length": 4, "alpha": 0.0, "feature_loss": "mse"}
    inner = assistant(module=TinySequenceNetwork, **windows, start_from_teacher=True,
                      teacher=SleepStager(TinySequenceNetwork, sequence_length=4, **FAST,
                                          module__n_filters=6))  # fmt: skip
    outer = {**windows, "start_from_teacher": True, "lr": 0.0}
    found = student(inner, **outer).fit(X, y)
    alone = clone(inner).fit(X, y)
    assert same(found.teacher_, alone)
    expected = student(FrozenEstimator(alone), **outer).fit(swapped(X), y)
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))
    features = found.history_[-1]["train_feature_loss"]
    assert features == pytest.approx(expected.history_[-1]["train_feature_loss"], rel=1e-6)


def test_the_signals_may_have_other_channels(X, y):
    """Of one source channel and two of the target each network is built as it should."""
    X = PairedEpochs(X["target"], source=X["source"][:, :1, :40], subject=X.subject)
    found = student(assistant(), module=None).fit(X, y)
    nets = (found, found.teacher_, found.teacher_.teacher_)
    channels = [net.module_.filters.in_channels for net in nets]
    assert channels == [2, 2, 1]
    assert found.module_.filters.out_channels == 6  # the assistant's architecture


def scaled(stager, both=False):
    step = EpochScaler("standard")
    return make_pipeline(PairedTransformer(step, step) if both else step, stager)


def test_an_assistant_behind_steps(X, y):
    for both in (False, True):
        alone = scaled(assistant(), both).fit(X, y)
        expected = student(FrozenEstimator(alone)).fit(swapped(X), y)
        found = student(scaled(assistant(), both)).fit(X, y)
        assert same(found.teacher_[-1], alone[-1])
        assert same(found, expected)


def test_nobody_begins_at_the_weights_of_another(X, y):
    anew = {"max_epochs": 0, "start_from_teacher": False}
    inner = assistant(random_state=None, module__n_filters=4, **anew)
    inner.set_params(teacher__max_epochs=0)
    found = student(inner, **anew).fit(X, y)
    nets = [found, found.teacher_, found.teacher_.teacher_]
    assert not any(same(nets[i], nets[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    again = clone(found).fit(X, y)
    assert all(map(same, nets, [again, again.teacher_, again.teacher_.teacher_]))


def test_a_fold_is_kept_from_all_of_them(X, y):
    train, test = next(GroupKFold(3).split(X, y, X.subject))
    found = student(assistant(), validation=1).fit(X[train], y[train])
    for net in (found, found.teacher_, found.teacher_.teacher_):
        np.testing.assert_array_equal(net.held_out_, found.held_out_)
        assert not np.isin(X.subject[test], net.fitted_on_["subject"]).any()


# ---------------------------------------------------------------- several assistants


def test_an_ensemble_of_seeds_is_distilled_back_into_one(X, y):
    """Two students by themselves, and the mean of what they predict of the target by hand."""
    members = [assistant(random_state=seed, validation=()) for seed in (1, 2)]
    options = {"module": TinyNetwork, **OUTPUT, "batch_size": 999, "lr": 0.0, "alpha": 1.0}
    found = DistilledSleepStager(members, **options).fit(X, y)
    alone = [clone(one).fit(X, y) for one in members]
    assert all(map(same, found.teacher_.teachers_, alone))
    mean = sum(one.predict_proba(X) for one in alone) / 2
    with torch.no_grad():
        logits = found.module_.train()(torch.from_numpy(X["target"]))
    own = logits.log_softmax(dim=1).numpy()
    expected = (mean * (np.log(mean) - own)).sum(axis=1).mean()
    assert found.history_[-1]["train_softmax_loss"] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(found.teacher_.predict_proba(X), mean, rtol=1e-6)


def test_an_assistant_beside_a_teacher_of_the_source(X, y):
    members = [assistant(), clone(PSG).set_params(random_state=5)]
    found = DistilledSleepStager(members, TinyNetwork, **OUTPUT).fit(X, y)
    first, second = found.teacher_.teachers_
    assert same(first, assistant().fit(X, y))
    assert same(second, clone(members[1]).fit(X.source_epochs, y))


# ---------------------------------------------------------------- chains without a label


class Counts(TransformerMixin, BaseEstimator):
    """Changes nothing, and knows how many epochs it was fitted on."""

    def fit(self, X, y=None):
        self.n_epochs_ = len(X)
        return self

    def transform(self, X):
        return X


def test_a_chain_of_fitted_teachers_needs_no_label(X, y):
    own = X.subject <= "s1"
    psg = FrozenEstimator(clone(PSG).set_params(**FAST).fit(X[own].source_epochs, y[own]))
    mine, alone = X[~own], {**OUTPUT, "alpha": 1.0}
    for given in (
        assistant(psg, alpha=1.0),
        make_pipeline(Counts(), assistant(psg, alpha=1.0)),
        [assistant(psg, alpha=1.0, random_state=seed) for seed in (0, 1)],
    ):
        learner = DistilledSleepStager(given, TinyNetwork, validation=("s3",), **alone)
        found = learner.fit(mine)
        assert found.classes_.tolist() == [0, 1, 2, 3, 4]
        assert found.n_scored_ == 0
        if hasattr(found.teacher_, "steps"):
            assert found.teacher_[0].n_epochs_ == (mine.subject != "s3").sum()
        held_out = mine[mine.subject == "s3"]
        predicted = [net.predict(held_out) for net in (found.teacher_, found)]
        kappa = found.history_[-1]["valid_kappa"]
        assert kappa == pytest.approx(cohen_kappa_score(*predicted), nan_ok=True)
        with pytest.warns(LeakageWarning, match="teacher was fitted on the subject s0"):
            found.score(X[own], y[own])
    with pytest.raises(ValueError, match="alpha=1"):
        student(assistant(psg, alpha=0.5), alpha=1.0).fit(mine)


# ---------------------------------------------------------------- what is kept, mistakes


def test_memory_and_checkpoints_go_down(X, y, tmp_path):
    params = {"memory": str(tmp_path / "memory"), "checkpoint": tmp_path / "passes"}
    plain = student(assistant()).fit(X, y)
    for alpha in (0.5, 0.9, 0.5):
        found = student(assistant(), **params).set_params(alpha=alpha).fit(X, y)
        assert len(list(tmp_path.rglob("output.pkl"))) == 2  # the assistant, its teacher
    assert same(found, plain)
    assert len(list((tmp_path / "passes").iterdir())) == 2 + 2  # students of two alphas
    # An assistant of another alpha has the same teacher.
    student(assistant(alpha=0.2), **params).fit(X, y)
    assert len(list(tmp_path.rglob("output.pkl"))) == 3


def test_parameters_of_the_chain():
    outer = student(assistant()).set_params(teacher__teacher__lr=0.2, teacher__alpha=0.3)
    assert clone(outer).get_params()["teacher__teacher__lr"] == 0.2
    assert outer.teacher.alpha == 0.3
    listed = DistilledSleepStager([assistant(), assistant()], TinyNetwork, **OUTPUT)
    listed.set_params(teacher__1__teacher__lr=0.4)
    assert [one.teacher.lr for one in listed.teacher] == [1e-3, 0.4]


def test_mistakes(X, y):
    with pytest.raises(ValueError, match="trained before its student.*strategy='offline'"):
        student(assistant(module__n_filters=4), strategy="online").fit(X, y)
    with pytest.raises(ValueError, match="teacher is an estimator.*given 'USleep'"):
        student(assistant("USleep")).fit(X, y)
    spoiled = scaled(assistant())
    spoiled.steps[0] = ("nan", FunctionTransformer(lambda a: np.asarray(a) * np.nan))
    with pytest.raises(ValueError, match="NaN"):
        student(spoiled).fit(X, y)
