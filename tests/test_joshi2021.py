"""The command of the second paper's benchmark, on runs of seconds."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.utils import Bunch

from skleepkd import PairedEpochs
from skleepkd.datasets import make_cohort
from skleepkd.distillation.teacher import final_stager
from skleepkd.metrics import staging_report
from skleepkd.stages import to_scheme
from tests.files import write_mass_tree

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _joshi2021_page as pages
import _tables
import joshi2021

FAST = ["--fast", "--alphas", "0.5"]
N_FITS = 2 * len(joshi2021.ROWS)
SETTINGS = {**joshi2021.SIMULATED, "sequence_length": 5, "seed": 0}
SPLIT = {"train": ("a", "b"), "validation": ("c",), "test": ("d", "e")}


# ---------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = [*FAST, "--output", str(folder / "out"), "--cache", str(folder / "cache")]
    joshi2021.main(arguments)
    return arguments, folder


def read_csv(folder):
    (file,) = (folder / "out").glob("*.csv")
    with file.open() as opened:
        return list(csv.DictReader(opened))


def read_page(folder):
    return (folder / "out" / "joshi2021_simulated.md").read_text()


def fits_of(folder):
    return {file.stem: file for file in (folder / "cache").glob("*/*-[34].json")}


def test_every_method_in_both_schemes_for_each_test_subject(finished):
    rows = read_csv(finished[1])
    assert {(row["n_classes"], row["method"]) for row in rows} == {
        (n, method) for n in "43" for method in joshi2021.ROWS
    }
    assert len({row["subject"] for row in rows}) == joshi2021.FAST["people"][2]
    assert len(rows) == 2 * N_FITS
    assert len(fits_of(finished[1])) == N_FITS
    assert not list(finished[1].rglob("*.part"))


def test_scores_are_those_of_the_kept_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    fast = joshi2021.FAST
    cohort = make_cohort(
        sum(fast["people"]), n_epochs=fast["epochs"], sfreq=fast["sfreq"], random_state=0
    )
    test_subjects = sorted({row["subject"] for row in read_csv(finished[1])})
    groups = cohort.groups[np.isin(cohort.groups, test_subjects)]
    for row in read_csv(finished[1]):
        n = int(row["n_classes"])
        suffix = "_0.5" if row["method"] in joshi2021.CHOSEN else ""
        fit = json.loads(fits_of(finished[1])[f"{row['method']}{suffix}-{n}"].read_text())
        truth = to_scheme(cohort.y, pages.SCHEMES[n])[cohort.groups == row["subject"]]
        predicted = np.array(fit["predicted"])[groups == row["subject"]]
        assert float(row["accuracy"]) == pytest.approx(
            accuracy_score(truth, predicted), abs=1e-5
        )
        assert float(row["f1_weighted"]) == pytest.approx(
            f1_score(truth, predicted, average="weighted"), abs=1e-5
        )
        f1 = f1_score(truth, predicted, labels=[1], average=None)
        assert float(row["f1_L" if n == 4 else "f1_N"]) == pytest.approx(f1[0], abs=1e-5)
        if len(set(predicted)) > 1:
            assert float(row["kappa"]) == pytest.approx(
                cohen_kappa_score(truth, predicted), abs=1e-5
            )


def test_a_teacher_and_an_attention_step_for_each_scheme(finished):
    kept = [str(file) for file in (finished[1] / "cache").rglob("shared/**/output.pkl")]
    assert len([file for file in kept if "distillation/teacher" in file]) == 2
    assert len([file for file in kept if "_learn" in file]) == 2


def test_page_says_what_it_is(finished):
    page = read_page(finished[1])
    assert "Every number here is of simulated nights" in page
    assert "python benchmarks/joshi2021.py --fast --alphas 0.5" in page
    assert f"{N_FITS} fits took" in page
    assert "in 1 run(s) with 1 fit(s)" in page
    assert (
        "| people to train on, to choose on, to test on | 2, 1, 2 | 158, 20, 22 |" in page
    )
    assert "| SD + CL | paper | 54.0 | 61.0 | 31.0 | 35.0 |" in page
    assert "## 3 stages (W N R), simulated" in page
    assert (finished[1] / "out" / "joshi2021_simulated.png").stat().st_size > 1000


def test_run_goes_on_where_it_was(finished):
    arguments, folder = finished
    before = read_csv(folder)
    fits = fits_of(folder)
    fits.pop("at+sd+cl_0.5-3").unlink()
    written = {file: file.stat().st_mtime_ns for file in fits.values()}
    joshi2021.main(arguments)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert len(fits_of(folder)) == N_FITS
    assert "in 2 run(s)" in read_page(folder)
    assert read_csv(folder) == before
    # The EEG stager and the attention step were found, not fitted again.
    assert len(list((folder / "cache").rglob("shared/**/output.pkl"))) == 4


# ---------------------------------------------------------------- what is compared


def make(row, n_classes=4, alpha=None):
    return joshi2021.make_stager(SETTINGS, row, n_classes, alpha, SPLIT, 160, None)


def test_rows_differ_in_nothing_but_what_they_are_called():
    plain = make("ecg").get_params()
    own = {"random_state", "callbacks", "callbacks__schedule"}
    for row, differ in {
        "ecg-twice": {"max_epochs"},
        "ecg-unweighted": {"class_weight"},
        "ecg-sequences": {"max_epochs", "batch_size", "sequence_length"},
    }.items():
        params = make(row).get_params()
        names = {n for n in plain if n not in own and not n.startswith("callbacks__")}
        assert {n for n in names if params[n] != plain[n]} == differ
    teachers = [make("eeg").pretrained] + [
        make(row, alpha=0.5).teacher for row in pages.DISTILLED
    ]
    for teacher in teachers:
        params = teacher.get_params()
        assert {n for n in names if params[n] != plain[n]} == set()


def test_budget_of_sequences_is_that_of_twice_the_passes():
    """In epochs read: 2 * 8 passes over single epochs, 3 over windows of 5."""
    assert make("ecg-twice").max_epochs == 16
    for row in ("ecg-sequences", "sd+cl-sequences"):
        stager = make(row)
        assert stager.max_epochs == 3
        assert stager.batch_size * 5 == pytest.approx(make("ecg").batch_size, abs=3)


def test_learning_rate_ends_with_the_last_batch():
    # 160 rows in batches of 32, 8 passes; windows of 5 of two nights, batches of 6.
    total = {"ecg": 40, "ecg-twice": 80, "ecg-sequences": 3 * 26}
    for row, steps in total.items():
        ((_, scheduler),) = make(row).callbacks
        assert scheduler.kwargs["total_steps"] == steps + 1


def test_no_test_subject_is_trained_or_chosen_on():
    for row in joshi2021.ROWS:
        stager = make(row, alpha=0.5 if row in joshi2021.CHOSEN else None)
        assert stager.validation == ("c",)
        if row != "eeg":
            assert final_stager(stager).validation == ("c",)


def test_given_counts_more_than_fast_and_real_nights_have_the_papers_settings(capsys):
    options = joshi2021.parse(["--fast", "--passes", "7"])
    assert (options.passes, options.sfreq) == (7, joshi2021.FAST["sfreq"])
    options = joshi2021.parse(["--data", "somewhere", "--passes", "3"])
    assert (options.passes, options.lr, options.batch_size) == (3, 1e-3, 256)
    assert options.filters == [16, 32, 64, 128, 256, 512]
    with pytest.raises(SystemExit):
        joshi2021.parse(["--people", "4", "1", "1"])
    assert "two in the test" in capsys.readouterr().err


def test_papers_tables_are_copied_right():
    """The gains of the paper's text: 4 stages SD + CL 0.06, 3 stages AT + CL 0.08."""
    four, three = pages.PAPER[4], pages.PAPER[3]
    assert four["sd+cl"][0] - four["ecg"][0] == pytest.approx(0.06)
    assert three["at+cl"][0] - three["ecg"][0] == pytest.approx(0.08)
    assert four["sd+cl"][3] - four["ecg"][3] == pytest.approx(0.61 - 0.47)
    assert three["at+cl"][3] - three["ecg"][3] == pytest.approx(0.77 - 0.65)


# ---------------------------------------------------------------- choice and gains


def fit(row, kappa, alpha=None, predicted=()):
    return {"row": row, "alpha": alpha, "validation_kappa": kappa, "predicted": predicted}


def test_alpha_and_baseline_are_chosen_on_the_validation_subjects():
    fits = {
        "sd+cl_0.1-4": fit("sd+cl", 0.2, 0.1),
        "sd+cl_0.5-4": fit("sd+cl", 0.3, 0.5),
        "sd+cl_0.9-4": fit("sd+cl", 0.3, 0.9),
        "ecg-4": fit("ecg", 0.9),
    }
    assert pages.choose_alphas({4: fits, 3: {}}) == {4: {"sd+cl": 0.5}, 3: {}}
    kappas = {"ecg": 0.1, "ecg-twice": 0.3, "ecg-unweighted": 0.2, "ecg-sequences": 0.0}
    rows = {row: Bunch(validation_kappa=kappa) for row, kappa in kappas.items()}
    assert pages.best_baseline(rows | {"sd+cl": Bunch(validation_kappa=1)}) == "ecg-twice"


def test_gain_is_paired_and_judged_by_its_interval():
    y = np.tile([0, 1, 2, 3], 6)
    groups = np.repeat(["a", "b", "c"], 8)
    wrong = y.copy()
    wrong[::8] = 1  # one of eight epochs of each subject

    def report(predicted):
        return staging_report(y, predicted, groups=groups, classes="wldr")

    right, worse = report(y), report(wrong)
    gain = _tables.gain_with_interval(right, worse, "accuracy")
    np.testing.assert_allclose(gain, [1 / 8] * 3)
    assert pages.verdict(right, worse) == "shown"
    assert pages.verdict(worse, right) == "a loss is shown"
    assert pages.verdict(worse, worse) == "not shown"


def test_page_of_real_nights_does_not_call_them_simulated():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 20)
    costs = {"seconds": 1.0, "cpu_seconds": 60.0, "peak_mb": 700.0, "import_mb": 500.0}
    rows, results = {}, {}
    for n in (4, 3):
        y = rng.integers(0, n, 60)
        predictions = rng.integers(0, n, (len(joshi2021.ROWS), 60))
        results[n] = {
            f"{row}-{n}": fit(row, 0.1, 0.5 if "sd" in row else None, predicted) | costs
            for row, predicted in zip(joshi2021.ROWS, predictions, strict=True)
        }
        rows[n] = pages.report_rows(results[n], pages.choose_alphas(results)[n], y, groups)
    settings = {**SETTINGS, "data": "mass", "people": [158, 20, 22], "epochs": 60}
    run = {"seconds": 90.0, "n_jobs": 4}
    page = pages.page_of(rows, results, settings, "python it", [run, run])
    assert page.startswith("# Joshi et al. (2021), mass nights")
    assert "simulated" not in page
    assert "18 fits took 3.0 minutes, in 2 run(s)" in page
    assert "processor time is 18.0 minutes" in page
    assert "overlap (MASS" in page


# ---------------------------------------------------------------- real nights


def test_mass_tree_is_read_and_scaled(tmp_path, monkeypatch):
    """The tree that the loader's tests write: three nights of two subsets."""
    mass_tree = write_mass_tree(tmp_path / "mass")
    monkeypatch.setattr(joshi2021, "load_mass", _of_subsets(joshi2021.load_mass))
    options = joshi2021.parse(["--data", str(mass_tree), "--cache", str(tmp_path)])
    X, y = joshi2021.load_cohort(options)
    assert X.sfreq["target"] == 200
    assert X.shape[1:] == X["source"].shape[1:] == (1, 6000)
    assert len(np.unique(X.subject)) == 3
    assert set(np.unique(y)) <= {0, 1, 2, 3, 4}
    for modality in ("source", "target"):
        assert X[modality].min() == 0
        assert X[modality].max() == 1


def _of_subsets(load):
    return lambda root, **options: load(root, subsets=(1, 4), **options)


def stand_in(names, n_epochs=2):
    """As many subjects as a data set has, two epochs each."""
    rng = np.random.default_rng(0)
    subject = np.repeat(names, n_epochs)
    signals = rng.standard_normal((2, len(subject), 1, 60)).astype(np.float32)
    X = PairedEpochs(
        signals[0], source=signals[1], subject=subject, recording=subject, sfreq=2.0
    )
    return Bunch(X=X, y=rng.integers(0, 5, len(X)), groups=subject)


def split_of(arguments, cohort, monkeypatch):
    options = joshi2021.parse(["--data", "somewhere", *arguments])
    for name in ("load_mass", "load_cinc2018"):
        monkeypatch.setattr(joshi2021, name, lambda root, sfreq, cache: cohort)
    X, _ = joshi2021.load_cohort(options)
    return joshi2021.split_people(options, X.subject)


def test_mass_is_divided_as_in_the_papers_code(monkeypatch):
    names = [
        f"mass-01-0{subset}-{number:04d}"
        for subset, size in {1: 53, 2: 19, 3: 62, 4: 40, 5: 26}.items()
        for number in range(1, size + 1)
    ]
    split = split_of([], stand_in(names), monkeypatch)
    assert [len(part) for part in split.values()] == [158, 20, 22]
    assert split["test"][:2] == ("mass-01-01-0002", "mass-01-01-0008")  # places 1 and 7


def test_cinc2018_is_divided_by_subject(monkeypatch):
    names = [f"cinc2018-tr03-{number:04d}" for number in range(30)]
    split = split_of(["--set", "cinc2018"], stand_in(names), monkeypatch)
    assert [len(part) for part in split.values()] == [24, 3, 3]
    assert sorted(sum(split.values(), ())) == names
    other = split_of(["--set", "cinc2018", "--seed", "1"], stand_in(names), monkeypatch)
    assert other != split


def test_results_hang_on_data_division_and_settings():
    def describe(*arguments, seed=0):
        options = joshi2021.parse([*FAST, *arguments])
        cohort = stand_in([f"s{k}" for k in range(5)])
        y = np.random.default_rng(seed).integers(0, 5, len(cohort.X))
        split = joshi2021.split_people(options, cohort.X.subject)
        return joshi2021.describe(options, cohort.X, y, split)

    assert describe("--n-jobs", "2") == describe()
    assert describe("--passes", "3") != describe()
    assert describe("--people", "1", "2", "2") != describe()
    assert describe(seed=1) != describe()
