"""The benchmark of Joshi et al. (2021)."""

import shutil
from contextlib import contextmanager

import joshi2021
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.utils import Bunch

from skleepkd import PairedEpochs
from skleepkd.datasets import make_cohort
from skleepkd.distillation.teacher import final_stager
from skleepkd.stages import to_scheme
from tests.benchmarks import kept, line_of, run
from tests.files import write_mass_tree

FAST = ["--fast", "--alphas", "0.5"]
N_FITS = 2 * len(joshi2021.ROWS)
SETTINGS = joshi2021.read_options([]).settings
SPLIT = {"train": ("a", "b"), "validation": ("c",), "test": ("d", "e")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    with ready_made():
        return run(joshi2021, folder, *FAST), folder


@contextmanager
def ready_made(installed=True):
    """Put stages by a rule in the place of SleepECG, installed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joshi2021, "has_sleepecg", lambda: installed)
        patch.setattr(joshi2021, "stage_with_sleepecg", stage_by_turns)
        yield


def stage_by_turns(ecg, sfreq):
    assert sfreq == 100
    return np.arange(len(ecg) // 3000) % 3


def test_every_method_in_both_schemes_for_each_test_subject(finished):
    rows = finished[0].rows
    expected = {(n, method) for n in "43" for method in joshi2021.ROWS}
    expected.add(("3", joshi2021.READY))
    assert {(row["n_classes"], row["method"]) for row in rows} == expected
    assert len({row["subject"] for row in rows}) == 2
    assert len(rows) == 2 * (N_FITS + 1)


def test_scores_are_those_of_the_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    cohort = make_cohort(5, n_epochs=24, sfreq=4.0, random_state=0)
    fits = {name: fit for _, found in finished[0].fits for name, fit in found.items()}
    for row in finished[0].rows:
        n, subject = int(row["n_classes"]), row["subject"]
        suffix = "_0.5" if row["method"] in joshi2021.CHOSEN else ""
        if row["method"] == joshi2021.READY:
            predicted = np.arange(24) % 3
        else:
            predicted = fits[f"{row['method']}{suffix}-{n}"]["predicted"][subject]
        truth = to_scheme(cohort.y, joshi2021.SCHEMES[n])[cohort.groups == subject]
        f1 = f1_score(truth, predicted, labels=[1], average=None)
        expected = {
            "accuracy": accuracy_score(truth, predicted),
            "f1_weighted": f1_score(truth, predicted, average="weighted"),
            "f1_L" if n == 4 else "f1_N": f1[0],
        }
        if len(set(predicted)) > 1:
            expected["kappa"] = cohen_kappa_score(truth, predicted)
        for score, value in expected.items():
            assert float(row[score]) == pytest.approx(value, abs=1e-5)


def test_page_says_what_it_is(finished):
    result, _ = finished
    assert "python benchmarks/joshi2021.py --fast --alphas 0.5" in result.page
    assert f"did {N_FITS} of {N_FITS} fits" in result.page
    name = "subjects to train on, to choose on, to test on"
    paper = "80, 10, 10 % (code: 158, 20, 22)"
    assert line_of(result.page, name)[1:] == ["2, 1, 2", paper]
    assert "| SD + CL | paper | 54.0 | 61.0 | 31.0 | 35.0 |" in result.page
    line_of(result.page, "SleepECG, ready-made", "-")  # once: in one table of three stages
    assert "has no stager of four stages" in result.page
    assert "## 3 stages (W N R), simulated" in result.page


def test_run_goes_on_where_it_was(finished):
    first, folder = finished
    # A teacher and an attention step for each scheme serve all rows.
    shared = [len(kept(folder, what)) for what in ("fold/_fit", "distilled/_learn")]
    assert shared == [2, 2]
    shutil.rmtree(kept(folder, "_call")[5].parent)
    with ready_made(installed=False):
        again = run(joshi2021, folder, *FAST)
    assert f"did 1 of {N_FITS} fits" in again.page
    trained = [row for row in first.rows if row["method"] != joshi2021.READY]
    assert again.rows == trained
    assert "`pip install sleepecg keras` adds its row" in again.page
    found = [len(kept(folder, what)) for what in ("fold/_fit", "distilled/_learn")]
    assert found == shared


def test_figure_is_drawn_from_what_is_kept(finished, tmp_path):
    (tmp_path / "cache").symlink_to(finished[1] / "cache")
    page = run(joshi2021, tmp_path, *FAST, "--figure").page
    assert "did 0 of 3 fits" in page
    assert "**Simulated nights.**" in page
    picture = tmp_path / "out" / "joshi2021_simulated_figure2.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({picture.name})" in page


def test_figure_shows_the_first_epoch_of_each_case():
    """Columns ECG, distilled, EEG; the ECG wrong and the distilled right, and the reverse."""
    cohort = make_cohort(2, n_epochs=4, sfreq=4.0, random_state=0)
    subjects = np.unique(cohort.groups).tolist()[::-1]  # the order of the test subjects
    y = np.array([0, 1, 2, 3] * 2)
    wrong = {"ecg": [2, 3], "at+sd+cl": [0, 5], "eeg": []}  # rows, of the second last

    class Stager:
        def __init__(self, channels):
            self.channels = channels

        def extract_features(self, X, layer):
            assert (layer, len(X)) == ("bottom", 1)
            assert X.ch_names["target"] == self.channels
            # Two filters, the sample and three times it: their mean is twice the sample.
            first = X["target"][:, :1, :5]
            return np.concatenate([first, 3 * first], axis=1)

    rows = {}
    for row, where in wrong.items():
        stages = np.where(np.isin(np.arange(8), where), (y + 1) % 4, y)
        names = cohort.X.ch_names["source" if row == "eeg" else "target"]
        rows[row] = {
            "predicted": {one: stages[cohort.groups == one] for one in subjects},
            "stager": Stager(names),
        }
    figure, numbers = joshi2021.draw_traces(rows, cohort.X, y, subjects)
    first, second = figure.subfigs
    assert [panel.get_title() for panel in first.axes] == [
        "ECG baseline: R (scored D)",
        "AT + SD + CL: D (scored D)",
        "EEG baseline: D (scored D)",
    ]
    assert second.axes[1].get_title() == "AT + SD + CL: D (scored L)"
    assert "2 of 8 epochs" in first.get_suptitle()
    assert {(row["case"], row["row"]) for row in numbers} == {("Case 1", 2), ("Case 2", 5)}
    assert [row["seconds"] for row in numbers[:5]] == [3, 9, 15, 21, 27]
    for network, modality in (("ecg", "target"), ("eeg", "source")):
        means = [row["mean"] for row in numbers if row["network"] == network]
        expected = np.concatenate([2 * cohort.X[modality][k, 0, :5] for k in (2, 5)])
        np.testing.assert_allclose(means, expected, atol=1e-5)


# ---------------------------------------------------------------- what is compared


def make(row, n_classes=4, alpha=None):
    return joshi2021.make_stager(row, n_classes, alpha, SETTINGS, SPLIT, 160, None)


def test_rows_differ_in_nothing_but_what_they_are_called():
    plain = make("ecg").get_params()
    own = {"random_state", "callbacks", "callbacks__schedule"}
    names = {n for n in plain if n not in own and not n.startswith("callbacks__")}

    def differing(stager):
        params = stager.get_params()
        return {n for n in names if params[n] != plain[n]}

    assert differing(make("ecg-twice")) == {"max_epochs"}
    assert differing(make("ecg-unweighted")) == {"class_weight"}
    of_sequences = {"max_epochs", "batch_size", "sequence_length"}
    assert differing(make("ecg-sequences")) == of_sequences
    assert not differing(make("eeg").pretrained)
    for row in joshi2021.DISTILLED:
        assert not differing(make(row, alpha=0.5).teacher)


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


def test_real_nights_have_the_papers_settings(capsys):
    options = joshi2021.read_options(["--data", "somewhere"])
    assert (options.passes, options.lr, options.batch_size) == (150, 1e-3, 256)
    assert options.filters == [16, 32, 64, 128, 256, 512]
    assert (options.sfreq, options.schedule) == (200.0, "constant")
    for wrong in (["4", "1", "1"], ["4", "1"]):
        with pytest.raises(SystemExit):
            joshi2021.read_options(["--subjects", *wrong])
    assert "two in the test" in capsys.readouterr().err


def test_papers_tables_are_copied_right():
    """The gains of the paper's text: 4 stages SD + CL 0.06, 3 stages AT + CL 0.08."""
    four, three = joshi2021.PAPER[4], joshi2021.PAPER[3]
    assert four["sd+cl"][0] - four["ecg"][0] == pytest.approx(0.06)
    assert three["at+cl"][0] - three["ecg"][0] == pytest.approx(0.08)
    assert four["sd+cl"][3] - four["ecg"][3] == pytest.approx(0.61 - 0.47)
    assert three["at+cl"][3] - three["ecg"][3] == pytest.approx(0.77 - 0.65)


def test_alpha_and_baseline_are_chosen_on_the_validation_subjects():
    fits = [("sd+cl", 0.2, 0.1), ("sd+cl", 0.3, 0.5), ("sd+cl", 0.3, 0.9)]
    fits = [
        {"row": row, "validation_kappa": kappa, "alpha": alpha}
        for row, kappa, alpha in [*fits, ("ecg", 0.9, None)]
    ]
    chosen = {row: fit["alpha"] for row, fit in joshi2021.choose(fits).items()}
    assert chosen == {"sd+cl": 0.5, "ecg": None}
    kappas = {"ecg": 0.1, "ecg-twice": 0.3, "ecg-unweighted": 0.2, "ecg-sequences": 0.0}
    rows = {row: {"validation_kappa": kappa} for row, kappa in kappas.items()}
    rows["sd+cl"] = {"validation_kappa": 1}
    assert joshi2021.best_baseline(rows) == "ecg-twice"


# ---------------------------------------------------------------- real nights


def load_from(root, monkeypatch, tmp_path, *arguments):
    """Load a cohort of the loader's files, of which not all subsets are there."""
    load = joshi2021.load_mass
    monkeypatch.setattr(
        joshi2021, "load_mass", lambda root, **how: load(root, subsets=(1, 4), **how)
    )
    where = ["--data", str(root), "--cache", str(tmp_path / "cache"), *arguments]
    return joshi2021.load_cohort(joshi2021.read_options(where))


def test_mass_tree_is_read_and_scaled(tmp_path, monkeypatch):
    """Three nights of two subsets."""
    X, y = load_from(write_mass_tree(tmp_path / "mass"), monkeypatch, tmp_path)
    assert X.sfreq["target"] == 200
    assert X.shape[1:] == X["source"].shape[1:] == (1, 6000)
    assert len(np.unique(X.subject)) == 3
    assert set(np.unique(y)) <= {0, 1, 2, 3, 4}
    for modality in ("source", "target"):
        assert X[modality].min() == 0
        assert X[modality].max() == 1


def test_page_of_real_nights_does_not_call_them_simulated(tmp_path, monkeypatch):
    """Of nights in the place of MASS, with fits in the place of hours of training."""
    rng = np.random.default_rng(0)
    names = [f"cinc2018-tr03-{number:04d}" for number in range(30)]
    cohort = stand_in(names)
    monkeypatch.setattr(joshi2021, "load_cinc2018", lambda root, sfreq, cache: cohort)

    def fit_row(row, n_classes, alpha, split, **_):
        predicted = {subject: rng.integers(0, n_classes, 2) for subject in split["test"]}
        costs = {"validation_kappa": 0.1, "seconds": 1.0, "cpu_seconds": 60.0}
        features = rng.standard_normal((6, 4))
        about = {"row": row, "alpha": alpha, "features": features}
        return {**about, "predicted": predicted, **costs}

    monkeypatch.setattr(joshi2021, "fit_row", fit_row)
    monkeypatch.setattr(
        joshi2021.Study, "run", lambda self, function, tasks, **shared: {
            name: function(**task, **shared) for name, task in tasks.items()
        },
    )  # fmt: skip
    where = ["--cache", str(tmp_path), "--output", str(tmp_path), "--alphas", "0.5"]
    joshi2021.main(["--data", "somewhere", "--set", "cinc2018", *where])
    page = (tmp_path / "joshi2021_cinc2018.md").read_text()
    assert page.startswith("# Joshi et al. (2021), cinc2018 nights")
    assert "simulated" not in page
    assert "24, 3, 3" in page
    assert "overlap (MASS" in page


def stand_in(names, n_epochs=2):
    """As many subjects as a data set has, two epochs each."""
    rng = np.random.default_rng(0)
    subject = np.repeat(names, n_epochs)
    target, source = rng.standard_normal((2, len(subject), 1, 60)).astype(np.float32)
    X = PairedEpochs(target, source=source, subject=subject, recording=subject, sfreq=2.0)
    return Bunch(X=X, y=rng.integers(0, 5, len(X)), groups=subject)


def split_of(subjects, *arguments):
    options = joshi2021.read_options(["--data", "somewhere", *arguments])
    return joshi2021.split_subjects(options, np.repeat(subjects, 2))


def test_mass_is_divided_as_in_the_papers_code():
    sizes = {1: 53, 2: 19, 3: 62, 4: 40, 5: 26}
    split = split_of(
        [
            f"mass-01-0{subset}-{number:04d}"
            for subset, size in sizes.items()
            for number in range(1, size + 1)
        ]
    )
    assert [len(part) for part in split.values()] == [158, 20, 22]
    assert split["test"][:2] == ("mass-01-01-0002", "mass-01-01-0008")  # places 1 and 7


def test_cinc2018_is_divided_by_subject():
    names = [f"cinc2018-tr03-{number:04d}" for number in range(30)]
    split = split_of(names, "--set", "cinc2018")
    assert [len(part) for part in split.values()] == [24, 3, 3]
    assert sorted(sum(split.values(), ())) == names
    assert split_of(names, "--set", "cinc2018", "--seed", "1") != split
