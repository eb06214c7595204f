"""The benchmark of a small student: a tiny run, and what its table shows."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from joblib import Memory

from skleepkd.datasets import make_cohort
from skleepkd.networks.build import build_network

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _speed_rows
import small_student

LIMIT = 50_000


def n_weights(module, **options):
    """Count at the shape of ear-EEG: three channels, 30 s at 200 Hz, five stages."""
    signal = {"n_chans": 3, "n_times": 6000, "n_outputs": 5, "sfreq": 200.0}
    network = build_network(module, signal, options)
    return sum(weights.numel() for weights in network.parameters())


def test_the_small_students_are_small():
    of_benchmark = {"filters": small_student.SMALL, "pools": small_student.POOLS}
    assert n_weights("UTime", **of_benchmark) <= LIMIT
    assert n_weights("UTime", filters=_speed_rows.SMALL["module__filters"]) <= LIMIT
    assert n_weights("UTime", filters=small_student.LARGE, pools=small_student.POOLS) > (
        20 * LIMIT
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small_student")
    arguments = ["--fast", f"--output={folder}", f"--cache={folder / 'cache'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_student, "source_digest", lambda: "as it is now")
        small_student.main(arguments)
        with (folder / "small_student.csv").open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        yield arguments, folder, rows


def test_everyone_is_judged_once_by_every_method(finished):
    _, _, rows = finished
    subjects = [f"simulated-0-s00{k}" for k in range(4)]
    judged = sorted((row["method"], row["person"]) for row in rows)
    assert judged == sorted(
        (name, who) for name in small_student.METHODS for who in subjects
    )


def test_the_table_follows_from_the_rows(finished):
    _, folder, rows = finished
    table = (folder / "small_student.md").read_text()
    assert table.startswith("# A small student, simulated nights")
    assert "`python benchmarks/small_student.py --fast " in table
    kappa = {
        name: np.array([float(row["kappa"]) for row in rows if row["method"] == name])
        for name in small_student.METHODS
    }
    for name in small_student.METHODS:
        line = next(line for line in table.splitlines() if f"| {name} |" in line)
        large = name in (small_student.SCALP, small_student.EAR)
        cells = line.split("|")
        assert (int(cells[2].replace(",", "")) > LIMIT) == large
        assert cells[5].startswith(f" {kappa[name].mean():.3f} [")
        if name != small_student.ALONE:
            gain = (kappa[name] - kappa[small_student.ALONE]).mean()
            assert cells[6].startswith(f" {gain:+.3f} [")


def test_finished_folds_are_read_back(finished, monkeypatch):
    arguments, folder, rows = finished
    monkeypatch.setattr(small_student, "run_fold", None)  # nothing is left to compute
    small_student.main(arguments)
    with (folder / "small_student.csv").open(newline="") as opened:
        assert list(csv.DictReader(opened)) == rows


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.1, "not shown to help"),
        (0.0, 0.2, "not shown to help"),
        (0.01, 0.2, "helps here"),
        (-0.2, -0.01, "harms here"),
    ],
)
def test_verdicts(low, high, expected):
    assert small_student.verdict(low, high) == expected


def test_every_training_is_alike_but_for_its_terms(tmp_path):
    _, settings = small_student.parse(["--fast"])
    cohort = make_cohort(1, n_epochs=40, random_state=0)
    stagers = small_student.make_stagers(settings, Memory(tmp_path, verbose=0))
    batches, firsts = [], []
    for stager in stagers.values():
        stager.fit(cohort.X, cohort.y)
        nets = [stager, *([stager.teacher_] if hasattr(stager, "teacher_") else [])]
        for net in nets:
            batches.append(net.history_[:, "batches", :, "train_batch_size"])
            firsts.append(type(net.optimizer_).__name__)
    assert all(own == batches[0] for own in batches)
    assert set(firsts) == {"Adam"}
    # One teacher serves all three, and only two methods have an adapter.
    distilled = [stagers[name] for name in small_student.METHODS[3:]]
    outputs = [
        stager.teacher_.predict_proba(cohort.X.source_epochs) for stager in distilled
    ]
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])
    n_adapters = [len(list(stager.adapters_.parameters())) for stager in distilled]
    assert n_adapters == [0, 2, 2]
