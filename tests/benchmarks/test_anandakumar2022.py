"""The benchmark of Anandakumar et al. (2022)."""

import shutil
from itertools import groupby

import anandakumar2022
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from sklearn.utils import Bunch

from skleepkd import PairedEpochs
from skleepkd.datasets import make_cohort
from skleepkd.preprocessing import PAPER_REJECTIONS
from tests.benchmarks import kept, run
from tests.tiny import make_pair

FAST = ["--fast", "--network", "small", "--folds", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    return run(anandakumar2022, folder, *FAST), folder


def test_a_row_for_each_method_and_subject(finished):
    rows = finished[0].rows
    assert {row["method"] for row in rows} == set(anandakumar2022.METHODS)
    assert len(rows) == len({(row["method"], row["subject"]) for row in rows}) == 14
    assert {row["data"] for row in rows} == {"simulated, noise x1"}


def test_scores_are_those_of_the_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    cohort = make_cohort(3, n_epochs=24, sfreq=32.0, random_state=0)
    fits = {name: fit for _, found in finished[0].fits for name, fit in found.items()}
    for row in finished[0].rows:
        fit = fits[row["method"], row["subject"]]
        truth = cohort.y[cohort.groups == row["subject"]]
        predicted = fit["predicted"][row["subject"]]
        accuracy = accuracy_score(truth, predicted)
        assert float(row["accuracy"]) == pytest.approx(accuracy, abs=1e-5)
        f1 = f1_score(truth, predicted, labels=[0, 2], average=None)
        assert float(row["f1_W"]) == pytest.approx(f1[0], abs=1e-5)
        assert float(row["f1_N2"]) == pytest.approx(f1[1], abs=1e-5)
        kappas = fit["kappa_by_pass"]
        assert len(kappas) == (2 if row["method"] == "ear-twice" else 1)
        assert float(row["optimistic_kappa"]) == pytest.approx(max(kappas), abs=1e-5)
        # Without validation the last weights are kept, which the last look saw.
        if len(set(predicted)) > 1:
            kappa = cohen_kappa_score(truth, predicted)
            assert kappas[-1] == pytest.approx(kappa, abs=1e-9)


def test_page_says_what_it_is(finished):
    page = finished[0].page
    assert page.splitlines()[0].endswith("simulated cohort")
    assert "python benchmarks/anandakumar2022.py --fast --network small --folds 2" in page
    assert "did 14 of 14 fits" in page
    assert "| passes over the training epochs | 1 | 100 |" in page
    assert "*Optimistic:* kappa" in page
    assert "Table 1" not in page  # electrodes are rejected on real nights alone


def test_run_goes_on_where_it_was(finished):
    first, folder = finished
    # One scalp network a fold serves three rows, and is found again.
    assert len(kept(folder, "fold/_fit")) == 2
    shutil.rmtree(kept(folder, "_call")[5].parent)
    again = run(anandakumar2022, folder, *FAST)
    assert "did 1 of 14 fits" in again.page
    for row, earlier in zip(again.rows, first.rows, strict=True):
        costs = {"seconds": row["seconds"], "cpu_seconds": row["cpu_seconds"]}
        assert row == {**earlier, **costs}
    assert len(kept(folder, "fold/_fit")) == 2


#: The legends of the paper's Fig. 3.
FIGURE_3 = [
    ["scalp, supervised", "ear, supervised"],
    ["scalp, supervised", "ear, supervised", "transfer"],
    ["scalp, supervised", "ear, supervised", "distillation, offline"],
    ["online teacher", "distillation, online"],
]


def check_figure(result, stages):
    """Four panels, each network with all epochs of the night."""
    names = np.array(["W", "N1", "N2", "N3", "REM"])[stages].tolist()
    for shown, (_, rows) in zip(
        FIGURE_3, groupby(result.rows, lambda row: row["panel"]), strict=True
    ):
        rows = list(rows)
        assert [row["network"] for row in rows[:: len(stages)]] == shown
        assert [row["stage"] for row in rows] == names * len(shown)
        places = np.array([[float(row["x"]), float(row["y"])] for row in rows])
        assert len(np.unique(places, axis=0)) > len(stages)


def test_figure_is_drawn_from_what_is_kept(finished, tmp_path):
    (tmp_path / "cache").symlink_to(finished[1] / "cache")
    result = run(anandakumar2022, tmp_path, *FAST, "--figure")
    assert "did 0 of 5 fits" in result.page
    assert "**Simulated nights.**" in result.page
    cohort = make_cohort(3, n_epochs=24, sfreq=32.0, random_state=0)
    first = cohort.groups == cohort.groups[0]
    check_figure(result, cohort.y[first])
    fits = {name: fit for _, found in result.fits for name, fit in found.items()}
    features = {m: fit["features"][m] for (m, _), fit in fits.items()}
    # None is a network twice: as a student, the scalp's, or another method's.
    features["online teacher"] = fits["online", cohort.groups[0]]["features"][
        "online teacher"
    ]
    assert len({of.tobytes() for of in features.values()}) == 6
    picture = tmp_path / "out" / "anandakumar2022_small_simulated_figure3.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({picture.name})" in result.page


def test_figure_of_real_nights(monkeypatch, tmp_path):
    """A cohort in the place of EESM17's, with the rejections that were asked for."""
    cohort, asked = make_cohort(3, n_epochs=24, sfreq=32.0, random_state=0), {}
    names = np.repeat([f"eesm17-sub-00{k}" for k in (1, 2, 6)], 24)
    signals = {"source": cohort.X["source"], "subject": names, "sfreq": 32.0}
    X = PairedEpochs(cohort.X["target"], **signals)

    def load(root, **options):
        asked.update(options)
        return Bunch(X=X, y=cohort.y, groups=names, rejected={})

    monkeypatch.setattr(anandakumar2022, "load_eesm", load)
    how = ["--data", "x", "--passes", "1", "--network", "small", "--rejection", "paper"]
    result = run(anandakumar2022, tmp_path, *how, "--figure")
    assert asked["rejection"] is PAPER_REJECTIONS
    check_figure(result, cohort.y[:24])
    assert "| rejected ear electrodes of real nights | paper | paper |" in result.page
    assert "| subjects | 2 | 8 |" in result.page  # without the paper's subject 5
    assert "imulated" not in result.page


def test_too_few_subjects_are_refused(capsys):
    for wrong in (["--folds", "1"], ["--subjects", "2"]):
        with pytest.raises(SystemExit):
            anandakumar2022.read_options(wrong)
    assert "two folds at least" in capsys.readouterr().err


def test_papers_tables_are_copied_right():
    """The abstract's gain of U-Sleep, and CMT's: online and offline minus the ear."""
    values = anandakumar2022.PAPER["USleep"]
    gain = np.subtract(values["online"][:2], values["ear"][:2])
    np.testing.assert_allclose(gain, [3.46, 0.038], atol=1e-9)
    values = anandakumar2022.PAPER["EpochCrossModalTransformer"]
    gain = np.subtract(values["offline"][:2], values["ear"][:2])
    np.testing.assert_allclose(gain, [2.33, 0.019], atol=1e-9)


def test_the_optimistic_columns_are_of_the_best_pass():
    X, y = make_pair(n_subjects=2, n_epochs=10)
    right = {subject: y[X.subject == subject] for subject in ("s0", "s1")}
    fits = [{"best": right, "last": {who: 0 * stages for who, stages in right.items()}}]
    last, best = (
        {m: anandakumar2022.tables.report_of(fits, X, y, of=of) for m in ("scalp", "ear")}
        for of in ("last", "best")
    )
    table = anandakumar2022.table_2(last, best, {"ear": (61.0, 0.2)})
    ear = [cell.strip() for cell in table.splitlines()[3].split("|")]
    assert ear[2] == "61.00"
    assert ear[5:9] == ["0.200", "0.000 [0.000, 0.000]", "0.000", "-"]
    assert ear[9:11] == ["100.0", "1.000"]


def test_real_nights_leave_the_papers_subject_5_out(monkeypatch, tmp_path):
    folders = sorted(PAPER_REJECTIONS)
    pair, y = make_pair(n_subjects=9, n_epochs=4)
    names = np.repeat([f"eesm17-{folder}" for folder in folders], 4)
    X = PairedEpochs(pair["target"], source=pair["source"], subject=names, sfreq=2.0)
    rejected = {folder: [] for folder in folders} | {"sub-004": ["ERI", "ELA"]}
    cohort = Bunch(X=X, y=y, groups=X.subject, rejected=rejected)
    asked = []
    monkeypatch.setattr(
        anandakumar2022, "load_eesm", lambda root, **of: asked.append(of) or cohort
    )
    where = ["--data", "somewhere", "--cache", str(tmp_path)]
    options = anandakumar2022.read_options(where)
    X, y, rejected = anandakumar2022.load_cohort(options)
    assert asked[0]["rejection"] is True
    assert len(X) == len(y) == 8 * 4
    assert "eesm17-sub-006" not in X.subject
    table = anandakumar2022.table_1(rejected)
    assert "| 4 | sub-004 | ELA ERI | ERE ERI | 2 (10) | 2 (10) |" in table
    assert "| 5 | sub-006 | none | ERA ERB ERE ERG ERK | 0 (12) | 5 (7) |" in table
