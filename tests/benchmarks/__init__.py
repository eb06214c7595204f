"""Tests of the benchmarks, on runs of seconds; their folder is no package."""

import csv
import sys
from pathlib import Path

from sklearn.utils import Bunch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import study


def run(benchmark, folder, *arguments, named=""):
    """Run a command in this process; return its table's rows, its page and its fits.

    ``fits`` is a list of what each call of the runner was asked for and has returned.
    """
    fits, out = [], folder / "out"

    class Noted(study.Study):
        def run(self, function, tasks, /, **shared):
            fits.append((tasks, super().run(function, tasks, **shared)))
            return fits[-1][1]

    real, benchmark.Study = benchmark.Study, Noted
    try:
        where = ["--output", str(out), "--cache", str(folder / "cache")]
        benchmark.main([*arguments, *where])
    finally:
        benchmark.Study = real
    (page,), (table,) = (list(out.glob(f"{named}*.{end}")) for end in ("md", "csv"))
    with table.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return Bunch(rows=rows, page=page.read_text(), fits=fits)


def line_of(page, *cells):
    """Return the cells of the table's line that begins with these."""
    start = "| " + " | ".join(cells) + " |"
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def kept(folder, what):
    """List the folders of what is kept of a function."""
    return sorted((folder / "cache").rglob(f"{what}/*/output.pkl"))
