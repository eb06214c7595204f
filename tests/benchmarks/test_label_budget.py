"""The label budget and the small student: tiny runs, and what they promise."""

import label_budget
import numpy as np
import pytest
import speed
import tables
from joblib import Memory

from skleepkd.datasets import make_cohort
from skleepkd.networks.build import build_network
from tests.benchmarks import line_of, run

LIMIT = 50_000
BUDGET = ["--fast", "--epochs", "16", "--test-subjects", "2", "--unscored", "1"]
STUDENT = ["--student", "--fast", "--epochs", "16", "--subjects", "2"]


def batches_of(stager):
    return stager.history_[:, "batches", :, "train_batch_size"]


def assert_equal_teachers(teachers, X):
    outputs = [teacher.predict_proba(X.source_epochs) for teacher in teachers]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


# ---------------------------------------------------------------- label budget


def test_tiny_run_resumes_and_its_table_follows_from_its_rows(tmp_path):
    first = run(label_budget, tmp_path, *BUDGET, "--labelled", "1")
    assert "did 1 of 1 fits" in first.page
    # A second number of subjects comes in; the first is not computed again.
    result = run(label_budget, tmp_path, *BUDGET)
    assert "did 1 of 2 fits" in result.page
    rows, page = result.rows, result.page
    assert [row for row in rows if row["labelled"] == "1"] == first.rows

    # A row for each subject, method and number; the subjects are the same throughout.
    assert len(rows) == 2 * len(label_budget.LINES) * 2
    assert {row["subject"] for row in rows} == {f"simulated-100-s00{k}" for k in range(2)}
    assert page.startswith("# Label budget, simulated nights")
    kappa = {
        name: np.mean([float(r["kappa"]) for r in rows if key(r) == ("2", name)])
        for name in label_budget.LINES
    }
    for method, own in kappa.items():
        cells = line_of(page, "2", method)
        assert cells[2].startswith(f"{own:.3f} [")
        gain = f"{own - kappa[label_budget.EAR]:+.3f}"
        assert method == label_budget.EAR or cells[3].startswith(f"{gain} [")
    picture = tmp_path / "out" / "label_budget.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def key(row):
    return row["labelled"], row["method"]


def test_every_training_has_the_same_number_of_steps(tmp_path):
    cohort = make_cohort(2, n_epochs=16, unscored=1, random_state=100)
    settings, memory = label_budget.read_options(["--fast"]).settings, Memory(tmp_path)
    scored = cohort.y >= 0
    stagers = label_budget.make_stagers(settings, 0, memory, scored.sum(), len(scored))
    assert set(stagers) == set(label_budget.LINES) - {label_budget.SCALP}
    teachers = []
    for name, stager in stagers.items():
        rows = slice(None) if name.endswith(label_budget.UNSCORED) else scored
        stager.fit(cohort.X[rows], cohort.y[rows])
        teacher = getattr(stager, "teacher_", getattr(stager, "pretrained_", None))
        teachers += [] if teacher is None else [teacher]
    for trained in (*stagers.values(), *teachers):
        assert batches_of(trained) == [[32] * 3] * 2
    # One teacher serves all, and it has seen the scored subjects alone.
    assert_equal_teachers(teachers, cohort.X)
    for teacher in teachers:
        seen = teacher.fitted_on_["subject"].tolist()
        assert seen == ["simulated-100-s000", "simulated-100-s001"]


def test_gains_are_paired_and_by_repetition():
    # Subjects differ by half a unit, gains by a tenth: pairing makes the interval narrow.
    ear, gain = np.array([[0.2, 0.4], [0.3, 0.7]]), np.array([[0.1, 0.1], [0.2, 0.2]])
    kappa = dict.fromkeys(label_budget.LINES, ear) | {"transfer": ear + gain}
    kappa[label_budget.SCALP] = ear + 0.5
    rows = [
        {"method": name, "seed": k, "subject": f"{k}{s}", "kappa": of[k, s]}
        for name, of in kappa.items()
        for k, s in np.ndindex(2, 2)
    ]
    found = tables.comparison(rows, label_budget.EAR, label_budget.SCALP)
    scalp, ear, transfer = list(label_budget.lines_of(6, found))[:3]
    assert scalp["difference"] == "+0.500 [+0.500, +0.500]"
    assert {ear[of] for of in ("difference", "p", "gap closed")} == {""}
    assert ear["difference by repetition"] == ""
    assert transfer["difference"].startswith("+0.150 [+0.1")
    assert transfer["difference by repetition"] == "+0.100, +0.200"
    assert transfer["gap closed"].startswith("30% [")
    _, low, high = tables.difference_of(found.table.loc["transfer"])
    assert 0.1 <= low < 0.15 < high <= 0.2


# ---------------------------------------------------------------- small student


def n_weights(module, **options):
    """Count at the shape of ear-EEG: three channels, 30 s at 200 Hz, five stages."""
    signal = {"n_chans": 3, "n_times": 6000, "n_outputs": 5, "sfreq": 200.0}
    network = build_network(module, signal, options)
    return sum(weights.numel() for weights in network.parameters())


def test_the_small_students_are_small():
    pools = {"pools": label_budget.POOLS}
    assert n_weights("UTime", filters=label_budget.SMALL, **pools) <= LIMIT
    assert n_weights("UTime", filters=speed.SMALL["module__filters"]) <= LIMIT
    assert n_weights("UTime", filters=label_budget.LARGE, **pools) > 20 * LIMIT


@pytest.fixture
def smaller(monkeypatch):
    """A teacher that is trained in no time."""
    monkeypatch.setattr(label_budget, "LARGE", (10, 16, 24, 32, 48))


def test_the_students_table_follows_from_the_rows(smaller, tmp_path):
    result = run(label_budget, tmp_path, *STUDENT, named="small_student")
    rows, page = result.rows, result.page
    subjects = [f"simulated-0-s00{k}" for k in range(2)]
    judged = sorted((row["method"], row["subject"]) for row in rows)
    assert judged == sorted((m, who) for m in label_budget.STUDENTS for who in subjects)
    assert page.startswith("# A small student, simulated nights")
    kappa = {
        name: np.array([float(row["kappa"]) for row in rows if row["method"] == name])
        for name in label_budget.STUDENTS
    }
    for name in label_budget.STUDENTS:
        cells = line_of(page, name)
        large = name in (label_budget.TEACHER, label_budget.AS_LARGE)
        assert (cells[1] != line_of(page, label_budget.ALONE)[1]) == large
        assert cells[4].startswith(f"{kappa[name].mean():.3f} [")
        if name != label_budget.ALONE:
            gain = (kappa[name] - kappa[label_budget.ALONE]).mean()
            assert cells[5].startswith(f"{gain:+.3f} [")
    again = run(label_budget, tmp_path, *STUDENT, named="small_student")
    assert "did 0 of 2 fits" in again.page
    assert again.rows == rows


def test_every_student_is_trained_alike_but_for_its_terms(smaller, tmp_path):
    settings = label_budget.read_options(["--student", "--fast"]).settings
    cohort = make_cohort(1, n_epochs=16, random_state=0)
    stagers = label_budget.make_students(settings, Memory(tmp_path))
    trained = []
    for stager in stagers.values():
        stager.fit(cohort.X, cohort.y)
        trained += [stager, *([stager.teacher_] if hasattr(stager, "teacher_") else [])]
    assert all(batches_of(net) == batches_of(trained[0]) for net in trained)
    assert {type(net.optimizer_).__name__ for net in trained} == {"Adam"}
    # One teacher serves all three, and only two methods have an adapter.
    distilled = [stagers[name] for name in label_budget.STUDENTS[3:]]
    assert_equal_teachers([stager.teacher_ for stager in distilled], cohort.X)
    n_adapters = [len(list(stager.adapters_.parameters())) for stager in distilled]
    assert n_adapters == [0, 2, 2]
