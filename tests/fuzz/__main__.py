"""Read damaged files of our own formats and of EDF, and print what came of it.

Each is read, or refused with a ValueError or OSError that names the file; all else is a
fault. A read that hangs or crashes ends the program with a traceback; its file is the one
in the folder's ``work``.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.campaign import run
from tests.fuzz.seeds import make_seeds


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="gets the files at fault")
    parser.add_argument("--files", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds, equal files (0)")
    options = parser.parse_args(arguments)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    seeds = make_seeds(folder / "seeds")
    os.chdir(folder)  # for what a file may bring a reader to write
    counts = run(options.files, options.seed, folder, seeds)
    print(f"{'kind':18}{'files':>8}{'read':>8}{'refused':>9}{'faults':>8}")
    for kind, count in {**counts, "all": sum(counts.values(), Counter())}.items():
        n_faults = count.total() - count["read"] - count["refused"]
        cells = f"{count.total():8}{count['read']:8}{count['refused']:9}{n_faults:8}"
        faults = [f"{name} {count[name]}" for name in ("code", "error", "memory")]
        print(f"{kind:18}{cells}  {', '.join(faults) if n_faults else ''}".rstrip())
    print(f"The files at fault are in {folder / 'faults'}." if n_faults else "No fault.")
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
