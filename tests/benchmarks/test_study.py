"""The runner of the benchmarks, its looks at the test subjects, and its tables."""

import os
from pathlib import Path

import numpy as np
import pytest
import study
import tables
import torch
from joblib import Memory
from sklearn.metrics import accuracy_score, cohen_kappa_score
from sklearn.utils import Bunch
from study import Setting, Study, Watch
from torch.utils.data import TensorDataset, default_collate

from skleepkd import SleepStager
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.recipes import anandakumar2022, phan2019
from tests.tiny import TinyNetwork, make_pair, make_spectra

SETTINGS = {
    "passes": Setting("passes", 8, 1, 150),
    "alphas": Setting("grid of alpha", [0.1, 0.5], paper=0.5),
    "batch-size": Setting("epochs in a batch", 32),
}


def options(*arguments, data=False):
    flags = {"data": study.folder("real nights")} if data else {}
    return study.parse("A study.", SETTINGS, list(arguments), **flags)


def test_a_new_process_is_another():
    assert study.in_new_process(os.getpid) != os.getpid()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (8, [0.1, 0.5], 32)),
        (["--fast"], (1, [0.1, 0.5], 32)),
        (["--data", "x"], (150, [0.1, 0.5], 32)),
        (["--fast", "--data", "x", "--passes", "7"], (7, [0.1, 0.5], 32)),
        (["--alphas", "0.9", "--batch-size", "4"], (8, [0.9], 4)),
    ],
)
def test_given_counts_more_than_fast_and_fast_more_than_real(arguments, expected):
    found = options(*arguments, data=True)
    assert tuple(found.settings.values()) == expected
    assert (found.passes, found.alphas, found.batch_size) == expected


def test_head_says_what_was_run(tmp_path):
    fast = options("--fast", "--cache", str(tmp_path))
    about = {"data": ("simulated", "MASS")}
    page = "\n".join(Study("label_budget", fast).head("It, simulated nights", about))
    assert page.startswith("# It, simulated nights\n**Simulated nights.**")
    assert f"python benchmarks/label_budget.py --fast --cache {tmp_path}" in page
    assert "This run took 0.0 minutes. " in page  # there is no fit
    assert "torch " + torch.__version__.split("+")[0] in page
    for line in (
        "| data | simulated | MASS |",
        "| passes | 1 | 150 |",
        "| grid of alpha | 0.1, 0.5 | 0.5 |",
        "| epochs in a batch | 32 | - |",
    ):
        assert line in page
    assert "imulated" not in "".join(Study("speed", fast).head("It"))


def test_head_names_the_device(tmp_path, monkeypatch):
    how = options("--cache", str(tmp_path))

    def head():
        return "\n".join(Study("speed", how).head("It"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    about = Path("/proc/cpuinfo")
    if about.exists() and "model name" in about.read_text():
        model = about.read_text().split("model name")[1].splitlines()[0].split(": ")[1]
        assert f"CPU ({model}), one thread a fit" in head()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    assert "A GPU, one thread a fit" in head()


# ---------------------------------------------------------------- fits that are kept


def compute(value, X, memory):
    """Leave a trace of the call, and fail at three."""
    with (Path(memory.location) / f"called-{value}").open("a") as file:
        file.write("x")
    if value == 3:
        raise ValueError("three is too many")
    return {"value": value, "cpu_seconds": 60.0}


def run(folder, *values, X=None, **given):
    one = Study("it", options("--cache", str(folder), **given))
    tasks = {f"task{k}": {"value": k} for k in values}
    return one, one.run(compute, tasks, X=X, memory=Memory(folder, verbose=0))


def calls(folder):
    return {file.name[-1]: file.read_text() for file in folder.glob("called-*")}


def test_what_is_done_is_not_done_again(tmp_path):
    one, results = run(tmp_path, 0, 1)
    assert {name: result["value"] for name, result in results.items()} == {
        "task0": 0,
        "task1": 1,
    }
    assert (one.n_new, one.n_fits, one.cpu_seconds) == (2, 2, 120.0)
    one, again = run(tmp_path, 0, 1, 2)
    assert (one.n_new, one.n_fits) == (1, 3)
    assert again.items() > results.items()
    assert calls(tmp_path) == {"0": "x", "1": "x", "2": "x"}


def test_results_hang_on_the_signals_and_the_package(tmp_path, monkeypatch):
    X, _ = make_pair(n_subjects=2, n_epochs=4)
    for pair, expected in ((X, "x"), (X, "x"), (X.replace(target=2 * X["target"]), "xx")):
        run(tmp_path, 0, X=pair)
        assert calls(tmp_path)["0"] == expected
    monkeypatch.setattr(study, "source_digest", lambda: "another version")
    run(tmp_path, 0, X=X)
    assert calls(tmp_path)["0"] == "xxx"


def test_a_failure_ends_the_run_and_keeps_what_is_done(tmp_path):
    with pytest.raises(ValueError, match="three is too many"):
        run(tmp_path, 1, 3, 0)
    assert calls(tmp_path) == {"1": "x", "3": "x"}
    run(tmp_path, 1, 0)
    assert calls(tmp_path) == {"1": "x", "3": "x", "0": "x"}


# ---------------------------------------------------------------- trainings


def test_a_pass_has_so_many_batches_of_as_many_shuffles():
    data = TensorDataset(torch.arange(10))
    options = {"batch_size": 4, "shuffle": True, "collate_fn": default_collate}
    seen = [batch[0].tolist() for batch in study.SomeBatches(data, steps=7, **options)]
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2, 4]
    for start in (0, 3):
        assert sorted(np.concatenate(seen[start : start + 3])) == list(range(10))


# ---------------------------------------------------------------- the look at the test


def assert_same_weights(one, other):
    state = other.module_.state_dict()
    for name, value in one.module_.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("method", ["ear", "transfer", "offline", "online"])
def test_looking_after_each_pass_changes_nothing(method):
    X, y = make_pair(n_subjects=3, n_epochs=20)
    train, test = X.subject != "s2", X.subject == "s2"

    def fitted(looks):
        how = {"max_epochs": 3, "device": "cpu", "module__dropout": 0.3}
        stager, watches = anandakumar2022(method, TinyNetwork, random_state=0, **how), {}
        if looks:
            watches["callbacks"] = [("watch", Watch(X[test].target_epochs, y[test]))]
            if method != "ear":
                inner = "pretrained" if method == "transfer" else "teacher"
                source = Watch(X[test].source_epochs, y[test])
                watches[f"{inner}__callbacks"] = [("watch", source)]
        return stager.set_params(**watches).fit(X[train], y[train])

    plain, watched = fitted(looks=False), fitted(looks=True)
    assert_same_weights(plain, watched)
    watch = dict(watched.callbacks_)["watch"]
    kappas = [look["kappa"] for look in watch.looks_]
    assert len(kappas) == 3
    expected = cohen_kappa_score(y[test], watched.predict(X[test]))
    assert kappas[-1] == pytest.approx(expected)
    best = cohen_kappa_score(y[test], watch.best_predicted_)
    assert max(kappas) == pytest.approx(best)


@pytest.mark.parametrize("method", ["scratch", "softmax", "all"])
def test_looking_between_steps_changes_nothing(method):
    """Bit-equal weights with and without looks, dropout and chosen steps included."""
    X, y = make_spectra(n_subjects=5, n_epochs=20)
    test = X.subject == "target-4"
    small = {"module__n_filters": 4, "module__hidden_size": 3, "sequence_length": 4}
    small |= {"validation": 1, "max_epochs": 3, "batch_size": 8, "lr": 0.01}
    small |= {"device": "cpu", "random_state": 0}
    pretrained = None
    if method != "scratch":
        pretrained = phan2019("scratch", **small | {"random_state": 1, "max_epochs": 1})
        pretrained.fit(X[~test], y[~test])
        small = {n: v for n, v in small.items() if not n.startswith(("module", "seq"))}

    def fitted(**looks):
        chosen = StepwiseValidation(every=3, patience=4, min_steps=5)
        stager = phan2019(method, pretrained, callbacks__best_weights=chosen, **small)
        return stager.set_params(**looks).fit(X[~test], y[~test])

    watch = Watch(X[test], y[test], every=2)
    plain, watched = fitted(), fitted(callbacks=[("watch", watch)])
    assert_same_weights(plain, watched)
    watch = dict(watched.callbacks_)["watch"]
    steps = [look["step"] for look in watch.looks_]
    assert steps == list(range(0, watch.steps_ + 1, 2))
    losses = np.concatenate(watched.history_[:, "batches", :, "train_loss"])
    assert "train_loss" not in watch.looks_[0]
    assert watch.looks_[1]["train_loss"] == pytest.approx(np.mean(losses[:2]))


def test_looks_are_the_accuracy_of_what_is_predicted_then():
    X, y = make_pair(n_subjects=3, n_epochs=16)
    test = X.subject == "s2"
    how = {"max_epochs": 2, "batch_size": 8, "lr": 0.05, "random_state": 0}
    watch = ("watch", Watch(X[test].target_epochs, y[test], every=4))
    stager = SleepStager(TinyNetwork, device="cpu", callbacks=[watch], **how)
    before = Watch.spent.copy()
    costs = study.timed_fit(stager, X[~test], y[~test])
    assert costs["seconds"] > 0
    assert (Watch.spent > before).all()
    looks = dict(stager.callbacks_)["watch"].looks_
    assert [look["step"] for look in looks] == [0, 4, 8]
    expected = accuracy_score(y[test], stager.predict(X[test]))
    assert looks[-1]["test_accuracy"] == pytest.approx(expected)


# ---------------------------------------------------------------- tables


def report_of(stages, X, y, classes="aasm"):
    predicted = {one: stages[X.subject == one] for one in np.unique(X.subject)}
    return tables.report_of([{"predicted": predicted}], X, y, classes)


def test_tables_hold_means_pooled_scores_and_the_gap():
    X = Bunch(subject=np.repeat(["a", "b"], [4, 6]))
    y = np.array([0, 0, 2, 2, 0, 0, 0, 2, 2, 2])
    half = y.copy()
    half[[0, 2, 4, 7]] = [2, 0, 2, 0]  # accuracy 2/4 and 4/6, kappa 0 and 1/3
    report, top, low = (report_of(stages, X, y) for stages in (half, y, 0 * y))
    assert tables.mean(report.subjects["accuracy"], 1, 100) == "58.3 [50.0, 66.7]"
    assert tables.mean(report.subjects["kappa"]) == "0.167 [0.000, 0.333]"
    top, low, own = (of.subjects["kappa"] for of in (top, low, report))
    assert tables.share_of_gap(top, low, own).startswith("17% [")
    assert tables.share_of_gap(low, top, own) == "no gap"
    table = tables.table_of_stages({"half": report}, {"half": "H"}, {"half": range(1, 6)})
    assert "| H | paper | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 |" in table
    assert "| H | pooled | 60.0 | - | 60.0 | - | - |" in table


def test_gain_is_paired_and_judged_by_its_interval():
    X, y = Bunch(subject=np.repeat(["a", "b", "c"], 8)), np.tile([0, 1, 2, 3], 6)
    wrong = y.copy()
    wrong[::8] = 1  # one of eight epochs of each subject
    right, worse = (report_of(of, X, y, "wldr").subjects["accuracy"] for of in (y, wrong))
    gain = tables.gain_of(right, worse)
    np.testing.assert_allclose(gain, [1 / 8] * 3)
    assert tables.signed(gain, 1, 100) == "+12.5 [+12.5, +12.5]"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.1, "not shown"),
        (0.0, 0.2, "not shown"),
        (0.01, 0.2, "shown"),
        (-0.2, -0.01, "a loss is shown"),
    ],
)
def test_verdicts(low, high, expected):
    assert tables.verdict(((low + high) / 2, low, high)) == expected


def test_what_precedes_a_fit_is_added_to_its_seconds():
    seconds = {"scalp": (10.0, 20.0), "transfer": (4.0, 4.0)}
    results = {
        name: [{"seconds": s, "cpu_seconds": 1.0} for s in of]
        for name, of in seconds.items()
    }
    labels = {name: name for name in results}
    table = tables.table_of_costs(results, labels, {"transfer": "scalp"})
    assert "| scalp | 15.0 | 15.0 | 1.0 |" in table
    assert "| transfer | 4.0 | 19.0 | 1.0 |" in table
