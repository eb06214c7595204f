"""How fast the stagers are: each row is a ratio of two timings from the same run.

A row times two functions that do the same in short alternating blocks, and prints the
median of the ratios of its pairs, with a 95 % bootstrap interval over the pairs. A bound
``<=`` is on the time in units of the reference's and is judged at the interval's upper end;
a bound ``>=`` is on how many times faster it is, judged at its lower end.

Everything runs on one thread and is timed by the processor's time for this process,
which other programs on the machine disturb little; only what runs in several processes,
or reads from the disk, is timed by the clock on the wall. The signals are noise and the
stages random, since neither changes the time.

Run it with ``python benchmarks/speed.py`` (some rows: ``--rows``; small sizes, to see
that it runs: ``--fast``). ``--output`` writes ``speed.md`` and, with the seconds of every
block, ``speed.csv``.
"""

import argparse
import os
import platform
import time
import warnings
from pathlib import Path

import torch
from _runs import markdown_table, write, write_csv
from _speed_rows import ROWS
from _timing import HEADER


def main(arguments=None):
    """Measure the rows, print a line for each, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--fast", action="store_true", help="small sizes, two pairs a row")
    parser.add_argument("--seconds", type=float, default=10.0, help="for a line (10)")
    parser.add_argument("--output", type=Path, help="folder of speed.md and speed.csv")
    parser.add_argument("--note", default="", help="what the page says of the machine")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    load, began, lines = os.getloadavg()[0], time.perf_counter(), []
    print(" | ".join(HEADER[:4]), flush=True)
    for row in options.rows:
        for line in ROWS[row](options.fast, options.seconds):
            line.row = row
            lines.append(line)
            print(line, flush=True)
    minutes = (time.perf_counter() - began) / 60
    print(f"{len(lines)} lines in {minutes:.1f} minutes")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        page = page_of(lines, command_of(options, parser), minutes, load, options.note)
        write(options.output / "speed.md", page)
        write_csv(options.output / "speed.csv", list(blocks_of(lines)))


def command_of(options, parser):
    """Return the command without the folder that it wrote to."""
    words = ["python", "benchmarks/speed.py"]
    if options.rows != parser.get_default("rows"):
        words += ["--rows", *options.rows]
    if options.seconds != parser.get_default("seconds"):
        words += ["--seconds", f"{options.seconds:g}"]
    return " ".join(words + ["--fast"] * options.fast)


def page_of(lines, command, minutes, load, note):
    """Write the page of results, in Markdown."""
    table = markdown_table(HEADER, [line.cells() for line in lines])
    note = f"\n{note}\n" if note else ""
    return f"""# Speed

`{command}`

{time.strftime("%Y-%m-%d")}, {minutes:.1f} minutes, on {os.cpu_count()} processor(s) of a
{platform.machine()} machine with a load of {load:.1f} before the run; torch
{torch.__version__} on one thread.
{note}
{__doc__[: __doc__.index("Run it")].replace("``", "`").strip()}

{table}
"""


def blocks_of(lines):
    """Seconds of every block, as rows of a table."""
    for line in lines:
        for pair, (ours, reference) in enumerate(line.times):
            yield {
                "row": line.row,
                "what": line.title,
                "beside": line.reference,
                "pair": pair,
                "seconds": f"{ours:.6f}",
                "reference_seconds": f"{reference:.6f}",
            }


if __name__ == "__main__":
    # A short last batch or a class without labels does not matter here.
    warnings.filterwarnings("ignore")
    main()
