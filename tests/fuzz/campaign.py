"""Damage files, have them read, count what came of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from tests.fuzz.forgeries import (
    forge_edf,
    forge_json_file,
    forge_model,
    forge_npy,
)
from tests.fuzz.mutations import damage, damage_text

FORGES = {
    "edf": forge_edf,
    "json": forge_json_file,
    "model": forge_model,
    "npy": forge_npy,
    "plain": damage,
    "text": damage_text,
}
#: Parts of the files that each kind gets; of a kind its seeds get equal ones.
SHARES = {
    "EDF": 20,
    "recording": 5,
    "EDF+ annotations": 15,
    "events": 20,
    "WFDB": 5,
    "model": 15,
    "pair": 5,
}
#: The process was ended by one of these: it took too long.
_LIMITS = {signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU}


class Reader:
    """A child process that reads, and is started again when it has ended.

    Parameters
    ----------
    folder : pathlib.Path
        Where the seeds are, or will be.
    module : str
        Has ``make_seeds(folder)``.
    cpu, clock : float
        Seconds of processor time, and on the clock, that a read may take.
    """

    def __init__(self, folder, module="tests.fuzz.seeds", cpu=10, clock=120):
        self.folder, self.limits = folder.resolve(), (str(cpu), str(clock))
        self.module = module
        self.start()

    def start(self):
        command = [sys.executable, "-m", "tests.fuzz.child", self.folder]
        self.folder.mkdir(parents=True, exist_ok=True)
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [*command, self.module, *self.limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("ab"),
            # A place of its own for what a file may bring a reader to write.
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        line = self.process.stdout.readline()
        if not line:
            text = (self.folder / "stderr.txt").read_text(errors="replace")
            raise RuntimeError(f"The reading process did not start:\n{text[-3000:]}")
        self.seeds = json.loads(line)

    def read(self, number, place):
        """Have a seed's folder read, and return the result or how the process ended."""
        self.process.stdin.write(f"{number} {place}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line.endswith(b"\n"):
            return json.loads(line)
        code = self.process.wait()
        self.stop()
        self.start()
        ended = signal.Signals(-code) if code < 0 else None
        outcome = "hang" if ended in _LIMITS else "crash"
        return {"outcome": outcome, "error": ended.name if ended else f"exit {code}"}

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.stop()


def plan(seeds, n_files):
    """Return how many damaged files each seed gets."""
    shares = np.array(
        [
            SHARES.get(seed["kind"], 1)
            / sum(other["kind"] == seed["kind"] for other in seeds)
            for seed in seeds
        ]
    )
    ends = np.round(np.cumsum(shares) / shares.sum() * n_files).astype(int)
    return np.diff(ends, prepend=0)


def run(n_files, seed, folder, module="tests.fuzz.seeds", **limits):
    """Read damaged files.

    Parameters
    ----------
    n_files : int
        How many.
    seed : int
        Equal seeds make equal files.
    folder : pathlib.Path
        Gets the valid files, and in ``faults`` those that were not read or refused
        as they should be, each with a text of what happened.
    module : str
        Has ``make_seeds(folder)``.
    **limits
        Those of :class:`Reader`.

    Returns
    -------
    dict of Counter
        How many files of each kind ended how: "read", "refused", "error", "memory",
        "hang", "crash" or "code".
    """
    faults, work = folder / "faults", folder / "work"
    counts = {}
    with Reader(folder / "seeds", module, **limits) as reader:
        valid = [
            (reader.folder / each["name"] / each["file"]).read_bytes()
            for each in reader.seeds
        ]
        for number, n_own in enumerate(plan(reader.seeds, n_files)):
            listed = reader.seeds[number]
            place = work / listed["name"]
            path = place / listed["file"]
            shutil.copytree(reader.folder / listed["name"], place)
            alike = [
                data
                for data, other in zip(valid, reader.seeds, strict=True)
                if other["forge"] == listed["forge"]
            ]
            count = counts.setdefault(listed["kind"], Counter())
            for file in range(n_own):
                rng = np.random.default_rng([seed, number, file])
                other = alike[rng.integers(len(alike))]
                data = FORGES[listed["forge"]](valid[number], other, rng)
                path.write_bytes(data)
                result = reader.read(number, place.resolve())
                count[result["outcome"]] += 1
                if result["outcome"] not in ("read", "refused"):
                    faults.mkdir(parents=True, exist_ok=True)
                    name = f"{listed['name']}-{path.stem}-{file}-{result['outcome']}"
                    (faults / (name + path.suffix)).write_bytes(data)
                    (faults / f"{name}.txt").write_text(json.dumps(result, indent=1))
            shutil.rmtree(work)
    return counts
