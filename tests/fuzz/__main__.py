"""Read damaged files of every kind, and print what came of it."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.campaign import run


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="gets the files at fault")
    parser.add_argument("--files", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds, equal files (0)")
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    began = time.monotonic()
    counts = run(options.files, options.seed, folder)
    n_faults = print_table(counts)
    print(f"\n{time.monotonic() - began:.0f} s.", end=" ")
    print(f"The files at fault are in {folder / 'faults'}." if n_faults else "No fault.")
    return int(n_faults > 0)


def print_table(counts):
    """Print the kinds and what became of their files; return how many are at fault."""
    print(f"{'kind':18}{'files':>8}{'read':>8}{'refused':>9}{'faults':>8}")
    rows = {**counts, "all": sum(counts.values(), Counter())}
    for kind, count in rows.items():
        faults = {name: n for name, n in count.items() if name not in ("read", "refused")}
        n_faults = sum(faults.values())
        kinds = ", ".join(f"{name} {n}" for name, n in sorted(faults.items()))
        print(
            f"{kind:18}{sum(count.values()):8}{count['read']:8}{count['refused']:9}"
            f"{n_faults:8}  {kinds}".rstrip()
        )
    return n_faults


if __name__ == "__main__":
    sys.exit(main())
