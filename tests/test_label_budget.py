"""The label budget benchmark: a tiny run, and what it promises of its trainings."""

import csv
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from joblib import Memory

from skleepkd.datasets import make_cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import label_budget

TINY = {
    "epochs": 40,
    "test_people": 3,
    "unscored": 2,
    "passes": 2,
    "steps": 3,
    "lr": 3e-3,
    "feature_weight": 10.0,
    "alpha": 0.9,
    "temperature": 2.0,
}


def run_tiny(folder, *labelled):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    where = [f"--output={folder}", f"--cache={folder / 'cache'}", "--n-jobs=1"]
    label_budget.main(["--labelled", *labelled, "--repetitions", "100", *where, *options])
    with (folder / "label_budget.csv").open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_tiny_run_resumes_and_its_table_follows_from_its_rows(
    tmp_path, capsys, monkeypatch
):
    first = run_tiny(tmp_path, "1")
    cells = sorted((tmp_path / "cache").rglob("*.json"))
    assert len(cells) == 1
    made = cells[0].stat().st_mtime_ns

    # A second number of subjects comes in; the first is not computed again.
    real, computed = label_budget.resume, []

    def watched(function, tasks, folder, **kwargs):
        for name, cell, is_new in real(function, tasks, folder, **kwargs):
            computed.append((name, is_new))
            yield name, cell, is_new

    monkeypatch.setattr(label_budget, "resume", watched)
    rows = run_tiny(tmp_path, "1", "2")
    assert sorted(computed) == [
        ("repetition_100_labelled_1", False),
        ("repetition_100_labelled_2", True),
    ]
    assert cells[0].stat().st_mtime_ns == made
    assert [row for row in rows if row["labelled"] == "1"] == first

    # A row for each subject, method and number; the subjects are the same throughout.
    assert len(rows) == 2 * len(label_budget.LINES) * TINY["test_people"]
    assert {row["person"] for row in rows} == {f"simulated-100-s00{k}" for k in range(3)}

    table = (tmp_path / "label_budget.md").read_text()
    assert table.startswith("# Label budget, simulated nights")
    assert "python benchmarks/label_budget.py --labelled 1 2 " in table
    assert table in capsys.readouterr().out
    for method in label_budget.LINES:
        own, ear = (
            np.mean([float(row["kappa"]) for row in rows if key(row) == ("2", name)])
            for name in (method, label_budget.EAR)
        )
        line = next(line for line in table.splitlines() if f"| 2 | {method} |" in line)
        assert f"| {own:.3f} [" in line
        assert method == label_budget.EAR or f"| {own - ear:+.3f} [" in line
    assert (tmp_path / "label_budget.png").read_bytes().startswith(b"\x89PNG")


def key(row):
    return row["labelled"], row["method"]


def test_every_training_has_the_same_number_of_steps(tmp_path):
    cohort = make_cohort(2, n_epochs=40, unscored=2, random_state=100)
    scored = cohort.y >= 0
    settings, memory = Namespace(**TINY), Memory(tmp_path, verbose=0)
    stagers = label_budget.make_stagers(settings, 0, memory, scored.sum(), len(scored))
    assert set(stagers) == set(label_budget.LINES) - {label_budget.SCALP}
    teachers = []
    for name, stager in stagers.items():
        rows = slice(None) if name.endswith(label_budget.UNSCORED) else scored
        stager.fit(cohort.X[rows], cohort.y[rows])
        teacher = getattr(stager, "teacher_", getattr(stager, "pretrained_", None))
        teachers += [] if teacher is None else [teacher]
    for trained in (*stagers.values(), *teachers):
        sizes = trained.history_[:, "batches", :, "train_batch_size"]
        assert np.array(sizes).tolist() == [[32] * TINY["steps"]] * TINY["passes"]

    # One teacher serves all, and it has seen the scored subjects alone.
    outputs = [teacher.predict_proba(cohort.X.source_epochs) for teacher in teachers]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])
    for teacher in teachers:
        seen = teacher.fitted_on_["subject"].tolist()
        assert seen == ["simulated-100-s000", "simulated-100-s001"]


def test_gains_are_paired_and_by_repetition():
    ear = np.array([[0.2, 0.4], [0.3, 0.7]])
    gain = np.array([[0.1, 0.1], [0.2, 0.2]])
    kappa = {label_budget.EAR: ear, label_budget.SCALP: ear + 0.4, "transfer": ear + gain}
    summary = label_budget.summarise(kappa)["transfer"]
    assert summary["gain"] == pytest.approx(0.15)
    assert summary["gains"] == pytest.approx([0.1, 0.2])
    assert summary["closed"].share == pytest.approx(0.375)
    # Subjects differ by half a unit, gains by a tenth: pairing makes the interval narrow.
    low, high = summary["gain_interval"]
    assert 0.1 <= low < 0.15 < high <= 0.2
    assert label_budget.summarise(kappa)[label_budget.SCALP]["gain_interval"] == (
        pytest.approx((0.4, 0.4))
    )
