"""The benchmark commands, on runs of seconds."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.utils import Bunch

from skleepkd import PairedEpochs
from skleepkd.datasets import make_cohort
from skleepkd.preprocessing import PAPER_REJECTIONS
from skleepkd.recipes import anandakumar2022 as recipe
from tests.tiny import TinyNetwork, make_pair

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _runs
import _tables
import anandakumar2022

FAST = ["--fast", "--network", "small", "--folds", "2"]


# ---------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = [*FAST, "--output", str(folder / "out"), "--cache", str(folder / "cache")]
    anandakumar2022.main(arguments)
    return arguments, folder


def read_csv(folder):
    (file,) = (folder / "out").glob("*.csv")
    with file.open() as opened:
        return list(csv.DictReader(opened))


def read_page(folder):
    (file,) = (folder / "out").glob("*.md")
    return file.read_text()


def fits_of(folder):
    return {file.stem: file for file in (folder / "cache").glob("*/*.json")}


def test_a_row_for_each_method_and_subject(finished):
    rows = read_csv(finished[1])
    assert {row["method"] for row in rows} == set(anandakumar2022.METHODS)
    assert len(rows) == 14
    assert {row["data"] for row in rows} == {"simulated, noise x1"}
    assert len(fits_of(finished[1])) == 14
    assert not list(finished[1].rglob("*.part"))


def test_scores_are_those_of_the_kept_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    fast = anandakumar2022.FAST
    cohort = make_cohort(
        fast["subjects"], n_epochs=fast["epochs"], sfreq=fast["sfreq"], random_state=0
    )
    for row in read_csv(finished[1]):
        fit = json.loads(
            fits_of(finished[1])[f"{row['method']}-{row['subject']}"].read_text()
        )
        truth = cohort.y[cohort.groups == row["subject"]]
        predicted = fit["predicted"]
        assert float(row["accuracy"]) == pytest.approx(
            accuracy_score(truth, predicted), abs=1e-5
        )
        f1 = f1_score(truth, predicted, labels=[0, 2], average=None)
        assert float(row["f1_W"]) == pytest.approx(f1[0], abs=1e-5)
        assert float(row["f1_N2"]) == pytest.approx(f1[1], abs=1e-5)
        passes = 2 if row["method"] == "ear-twice" else 1
        assert len(fit["kappa_by_pass"]) == passes
        assert float(row["optimistic_kappa"]) == pytest.approx(
            max(fit["kappa_by_pass"]), abs=1e-5
        )
        # Without validation the last weights are kept, which the last look saw.
        if len(set(predicted)) > 1:
            kappa = cohen_kappa_score(truth, predicted)
            assert fit["kappa_by_pass"][-1] == pytest.approx(kappa, abs=1e-9)


def test_one_scalp_network_a_fold_serves_three_rows(finished):
    kept = list((finished[1] / "cache").rglob("teachers/**/output.pkl"))
    assert len(kept) == 2


def test_page_says_what_it_is(finished):
    page = read_page(finished[1])
    assert page.splitlines()[0].endswith("simulated cohort")
    assert "Every number here is of simulated nights" in page
    assert "python benchmarks/anandakumar2022.py --fast --network small --folds 2" in page
    assert "did 14 of 14 fits" in page
    assert "torch " + torch.__version__.split("+")[0] in page
    assert "| passes | 1 | 100 |" in page
    assert "*Optimistic:* kappa" in page
    assert "Table 1" not in page  # electrodes are rejected on real nights alone


def test_run_goes_on_where_it_was(finished):
    arguments, folder = finished
    before = read_csv(folder)
    fits = fits_of(folder)
    lost = next(name for name in fits if name.startswith("offline-start"))
    fits[lost].unlink()
    anandakumar2022.main(arguments)
    assert "did 1 of 14 fits" in read_page(folder)
    costs = ("seconds", "cpu_seconds", "peak_mb", "import_mb")
    for row, earlier in zip(read_csv(folder), before, strict=True):
        for cost in costs:
            row.pop(cost), earlier.pop(cost)
        assert row == earlier
    # The teacher was found again, not fitted again.
    assert len(list((folder / "cache").rglob("teachers/**/output.pkl"))) == 2


def test_what_is_given_counts_more_than_fast():
    options = anandakumar2022.parse(["--fast", "--passes", "7"])
    assert options.passes == 7
    assert options.subjects == anandakumar2022.FAST["subjects"]
    assert anandakumar2022.parse([]).passes == 100


def test_too_few_subjects_are_refused(capsys):
    for wrong in (["--folds", "1"], ["--subjects", "2"]):
        with pytest.raises(SystemExit):
            anandakumar2022.parse(wrong)
    assert "two folds at least" in capsys.readouterr().err


def test_papers_tables_are_copied_right():
    """The abstract's gain of U-Sleep, and CMT's: online and offline minus the ear."""
    values = anandakumar2022.PAPER["USleep"]
    gain = np.subtract(values["online"][:2], values["ear"][:2])
    np.testing.assert_allclose(gain, [3.46, 0.038], atol=1e-9)
    values = anandakumar2022.PAPER["EpochCrossModalTransformer"]
    gain = np.subtract(values["offline"][:2], values["ear"][:2])
    np.testing.assert_allclose(gain, [2.33, 0.019], atol=1e-9)


# ---------------------------------------------------------------- EESM17


def test_real_nights_leave_the_papers_subject_5_out(monkeypatch, tmp_path):
    folders = sorted(PAPER_REJECTIONS)
    pair, y = make_pair(n_subjects=9, n_epochs=4)
    X = PairedEpochs(
        pair["target"],
        source=pair["source"],
        subject=np.repeat([f"eesm17-{folder}" for folder in folders], 4),
        sfreq=200.0,
    )
    rejected = {folder: [] for folder in folders} | {"sub-004": ["ERI", "ELA"]}
    cohort = Bunch(X=X, y=y, groups=X.subject, rejected=rejected)
    monkeypatch.setattr(anandakumar2022, "load_eesm", lambda root, cache: cohort)
    options = anandakumar2022.parse(["--data", "somewhere", "--cache", str(tmp_path)])
    X, y, rejected = anandakumar2022.load_cohort(options)
    assert len(X) == len(y) == 8 * 4
    assert "eesm17-sub-006" not in X.subject
    assert anandakumar2022.describe(options, X, y)["data"] == "EESM17"
    table = anandakumar2022.table_1(rejected)
    assert "| 4 | sub-004 | ELA ERI | ERE ERI | 2 (10) | 2 (10) |" in table
    assert "| 5 | sub-006 | none | ERA ERB ERE ERG ERK | 0 (12) | 5 (7) |" in table


def test_results_hang_on_data_and_settings_not_on_the_number_of_folds():
    X, y = make_pair(n_subjects=3, n_epochs=4)

    def describe(*arguments, X=X, y=y):
        return anandakumar2022.describe(anandakumar2022.parse(arguments), X, y)

    assert describe("--folds", "2", "--n-jobs", "2") == describe()
    assert describe("--passes", "3") != describe()
    assert describe("--validation", "1") != describe()
    assert describe(y=np.where(y == 1, 2, y)) != describe()
    louder = X.replace(target=2 * X["target"])
    assert describe(X=louder) != describe()


# ---------------------------------------------------------------- the look at the test


@pytest.mark.parametrize("method", ["ear", "transfer", "offline", "online"])
def test_looking_at_the_test_subject_changes_nothing(method):
    X, y = make_pair(n_subjects=3, n_epochs=20)
    train, test = X.subject != "s2", X.subject == "s2"

    def fitted(looks):
        options = {"max_epochs": 3, "device": "cpu", "module__dropout": 0.3}
        stager = recipe(method, TinyNetwork, random_state=0, **options)
        watches = {}
        if looks:
            watches["callbacks"] = [
                ("watch", _runs.WatchTestSubject(X[test].target_epochs, y[test]))
            ]
            if method != "ear":
                inner = "pretrained" if method == "transfer" else "teacher"
                source = _runs.WatchTestSubject(X[test].source_epochs, y[test])
                watches[f"{inner}__callbacks"] = [("watch", source)]
        return stager.set_params(**watches).fit(X[train], y[train])

    plain, watched = fitted(looks=False), fitted(looks=True)
    np.testing.assert_array_equal(watched.predict_proba(X), plain.predict_proba(X))
    watch = dict(watched.callbacks_)["watch"]
    assert len(watch.kappas_) == 3
    assert watch.kappas_[-1] == pytest.approx(
        cohen_kappa_score(y[test], watched.predict(X[test]))
    )
    best = cohen_kappa_score(y[test], watch.best_answer_)
    assert max(watch.kappas_) == pytest.approx(best)


# ---------------------------------------------------------------- fits that resume


def compute(value, folder):
    """Count the calls in a folder, and fail at three."""
    (folder / f"called-{value}").touch()
    if value == 3:
        raise ValueError("three is too many")
    return {"value": value, "block": len(bytearray(value * 10**8))}


def test_tasks_that_are_done_are_not_done_again(tmp_path):
    tasks = {f"task{k}": {"value": k, "folder": tmp_path} for k in (0, 1)}
    first = {name: rest for name, *rest in _runs.resume(compute, tasks, tmp_path / "kept")}
    assert [is_new for _, is_new in first.values()] == [True, True]
    again = {name: rest for name, *rest in _runs.resume(compute, tasks, tmp_path / "kept")}
    assert [is_new for _, is_new in again.values()] == [False, False]
    assert {name: result for name, (result, _) in again.items()} == {
        name: result for name, (result, _) in first.items()
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's counts")
def test_memory_is_that_of_the_process_of_the_fit(tmp_path):
    """A hundred million zero bytes that were touched, and no other process's."""
    tasks = {f"task{k}": {"value": k, "folder": tmp_path} for k in (1, 0)}
    results = {name: result for name, result, _ in _runs.resume(compute, tasks, tmp_path)}
    above = {name: r["peak_mb"] - r["import_mb"] for name, r in results.items()}
    assert above["task1"] - above["task0"] == pytest.approx(100, abs=15)


def test_a_failure_ends_the_run_and_keeps_what_is_done(tmp_path):
    tasks = {f"task{k}": {"value": k, "folder": tmp_path} for k in (1, 3, 0)}
    with pytest.raises(RuntimeError, match=r"task3 failed \(exit code 1\)"):
        list(_runs.resume(compute, tasks, tmp_path / "kept"))
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["task1.json"]
    assert not (tmp_path / "called-0").exists()


# ---------------------------------------------------------------- tables


def scores_of(predictions, groups, y):
    results = {
        method: {
            subject: {
                "predicted": a[groups == subject],
                "best_predicted": y[groups == subject],
            }
            for subject in np.unique(groups).tolist()
        }
        for method, a in predictions.items()
    }
    return _tables.score(results, groups, y)


def test_tables_hold_means_pooled_scores_and_the_gap():
    groups = np.repeat(["a", "b"], [4, 6])
    y = np.array([0, 0, 2, 2, 0, 0, 0, 2, 2, 2])
    half = y.copy()
    half[[0, 2, 4, 7]] = [2, 0, 2, 0]  # accuracy 2/4 and 4/6, kappa 0 and 1/3
    none = np.zeros_like(y)  # accuracy 1/2 and 1/2, kappa 0
    scores = scores_of({"top": y, "low": none, "half": half}, groups, y)
    labels = {"top": "Top", "low": "Low", "half": "Half"}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in _tables.table_of_scores(
            scores, labels, {"half": (61.0, 0.2)}, ("top", "low")
        ).splitlines()[2:]
    ]
    top, _, half = rows
    assert top[1:4] == ["-", "100.0 [100.0, 100.0]", "100.0"]
    assert half[0] == "Half"
    assert half[1] == "61.00"
    assert half[2].startswith("58.3 [50.0, 66.7]")
    assert half[3] == "60.0"
    assert half[4:7] == ["0.200", "0.167 [0.000, 0.333]", "0.200"]
    assert half[7].startswith("17% [")
    assert half[8:] == ["100.0", "1.000"]  # the best pass was perfect, and is optimistic
    table = _tables.table_of_stages(scores, labels, {"half": (1, 2, 3, 4, 5)})
    assert "| Half | paper | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 |" in table
    assert "| Half | pooled | 60.0 | - | 60.0 | - | - |" in table


def test_what_precedes_a_fit_is_added_to_its_seconds():
    fold = {"cpu_seconds": 1.0, "peak_mb": 700.0, "import_mb": 450.0}
    results = {
        "scalp": {"a": {"seconds": 10.0, **fold}, "b": {"seconds": 20.0, **fold}},
        "transfer": {"a": {"seconds": 4.0, **fold}, "b": {"seconds": 4.0, **fold}},
    }
    table = _tables.table_of_costs(
        results, {name: name for name in results}, {"transfer": "scalp"}
    )
    assert "| scalp | 15.0 | 15.0 | 1.0 | 700 | 250 |" in table
    assert "| transfer | 4.0 | 19.0 | 1.0 | 700 | 250 |" in table
