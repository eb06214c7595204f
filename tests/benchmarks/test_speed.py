"""The speed benchmark: its statistics, its verdicts, and that every row runs.

Nothing here looks at how long anything takes.
"""

import math
import os
import re
import subprocess
import time
from pathlib import Path

import measure
import numpy as np
import pytest
import speed
from measure import Line, interleave, median_interval
from scipy.stats import binom

from tests.benchmarks import run

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's counts")


def ticking():
    """A clock that each block moves on by what it costs, and the blocks themselves."""
    now, calls = [0.0], []

    def block(name, cost):
        def run():
            calls.append(name)
            now[0] += cost

        return run

    return (lambda: now[0]), calls, block


def test_blocks_take_turns_and_each_is_charged_its_own_time():
    clock, calls, block = ticking()
    ours, reference = block("ours", 3.0), block("reference", 2.0)
    times = interleave(ours, reference, seconds=0.0, least=3, clock=clock)
    np.testing.assert_array_equal(times, [[3.0, 2.0]] * 4)  # an even number
    warm_up, pairs = calls[:2], calls[2:]
    assert warm_up == ["ours", "reference"]
    assert pairs == ["ours", "reference", "reference", "ours"] * 2


def test_interval_of_a_median_follows_the_binomial():
    # A resampled median of an odd number n is at most the k-th value exactly if (n + 1) / 2
    # of the draws are, each with the probability k / n.
    n = 17
    ranks = np.arange(1, n + 1)
    at_most = binom.sf((n - 1) / 2, n, ranks / n)
    expected = tuple(ranks[np.searchsorted(at_most, tail)] for tail in (0.025, 0.975))
    values = np.random.default_rng(0).permutation(ranks).astype(float)
    assert median_interval(values) == expected
    # The median does not care how far away the ends are.
    values[values == n] = 1e6
    assert median_interval(values) == expected
    assert median_interval([1.5, 1.5]) == (1.5, 1.5)


def line(ours, reference, **bounds):
    return Line("new", "old", times=np.column_stack([ours, reference]), **bounds)


def test_ratios_are_of_pairs():
    # Pairs of a machine that slows down eightfold: each pair gives 1.5.
    slow = np.array([1.0, 2.0, 4.0, 8.0])
    costs = line(1.5 * slow, slow, at_most=1.6)
    np.testing.assert_array_equal(costs.ratios, 1.5)
    assert [*costs.cells().values()][2:4] == ["1.50", "[1.50, 1.50]"]
    # A bound from below is on the speed, the reference's time over ours.
    np.testing.assert_array_equal(line(slow, 12 * slow, at_least=10).ratios, 12)


@pytest.mark.parametrize(
    ("bounds", "ratios", "bound", "verdict"),
    [
        ({"at_most": 1.1}, [1.0, 1.1], "<= 1.10", "holds"),
        # The median keeps the bound, the upper end does not.
        ({"at_most": 1.1}, [1.0, 1.15], "<= 1.10", "does not hold"),
        (
            {"at_most": 1.1, "median_at_most": 1.03},
            [1.0, 1.05],
            "<= 1.10, median <= 1.03",
            "holds",
        ),
        (
            {"at_most": 1.1, "median_at_most": 1.03},
            [1.04, 1.05],
            "<= 1.10, median <= 1.03",
            "does not hold",
        ),
        ({"at_least": 2.5}, [1 / 2.5, 1 / 3], ">= 2.5", "holds"),
        ({"at_least": 2.5}, [1 / 2.4, 1 / 3], ">= 2.5", "does not hold"),
        ({}, [7.0, 8.0], "reported", ""),
    ],
)
def test_worse_end_of_the_interval_decides(bounds, ratios, bound, verdict):
    found = line(ratios, [1.0, 1.0], **bounds)
    assert found.judge() == (bound, verdict)
    assert [*found.cells().values()][4:6] == [bound, verdict]


@linux
def test_the_peak_is_the_most_private_memory_inside():
    with measure.Peak() as peak:
        before, held = peak.bytes, np.ones(10**8, np.uint8)
        for _ in range(500):  # a busy machine samples late
            if peak.bytes - before < 0.8 * held.nbytes:
                time.sleep(0.02)
        del held
    assert (peak.bytes - before) / 1e6 >= 80


@pytest.fixture
def smaller(monkeypatch):
    """A U-Sleep of three levels, and no further processes, whose imports take seconds."""

    def stager_of(module, **parameters):
        depth = {"module__depth": 3} if module == "USleep" else {}
        return whole(module, **depth, **parameters)

    whole = speed.stager_of
    monkeypatch.setattr(speed, "stager_of", stager_of)
    monkeypatch.setattr(speed, "LAST_MAPS", [("decoder.4", "decoder_blocks.2")])
    monkeypatch.setattr(speed, "in_new_process", lambda function, **of: function(**of))


def test_every_row_runs_at_a_small_size(smaller, tmp_path, capsys):
    # But for that of two processes.
    rows = [row for row in speed.ROWS if row != "folds"]
    result = run(speed, tmp_path, "--fast", "--rows", *rows)
    page, blocks, printed = result.page, result.rows, capsys.readouterr().out
    assert {block["row"] for block in blocks} == set(rows)
    assert "neighbouring_windows=8" in page
    assert re.search(r"differ by 0\.\d+ of a standard deviation", page)
    assert re.search(r"private memory \(RssAnon\) of a fit above the imports \d+ MB", page)
    lines = [cells for text in page.splitlines() if (cells := text.split(" | "))[8:]][2:]
    assert len(lines) == len({block["what"] for block in blocks})
    for cells in lines:
        what = cells[0].removeprefix("| ")
        assert printed.count(" | ".join([what, *cells[1:4]])) == 2  # at once, and the page
        assert cells[4].startswith(("<= ", ">= ", "reported"))
        own = [block for block in blocks if block["what"] == what]
        ratios = [float(b["seconds"]) / float(b["reference_seconds"]) for b in own]
        if cells[4].startswith(">="):
            ratios = [1 / ratio for ratio in ratios]
        # Seconds are written to the microsecond, ratios to three digits.
        assert math.isclose(np.median(ratios), float(cells[2]), rel_tol=0.01)


def test_what_is_dropped_from_the_cache_is_read_from_the_disk_again(tmp_path):
    system = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True)
    if system.returncode or system.stdout.strip() == b"tmpfs":
        pytest.skip("needs Linux, and temporary files on a disk")
    n_bytes = 2**20
    np.save(tmp_path / "file.npy", np.zeros(n_bytes, np.uint8))
    with (tmp_path / "file.npy").open("r+b") as file:
        os.fsync(file.fileno())

    def read():
        before = speed.bytes_read()
        np.load(tmp_path / "file.npy", mmap_mode="r").sum()
        return speed.bytes_read() - before

    read()
    assert read() == 0
    speed.drop_from_cache(tmp_path)
    assert read() >= n_bytes


def test_a_row_that_there_is_not_is_refused():
    with pytest.raises(SystemExit):
        speed.main(["--rows", "nothing"])
