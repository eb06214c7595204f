"""The fuzzer finds each kind of fault; 200 of its files find none in the library."""

import itertools
import os
import pickle
import subprocess
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest

from tests.files import in_a_fork
from tests.fuzz import __main__ as program
from tests.fuzz.campaign import Seed, run
from tests.fuzz.damage import CANARIES, FORGES
from tests.fuzz.seeds import make_seeds

VALID = b"a valid file"


def test_every_file_is_read_or_refused(tmp_path):
    def campaign():
        return run(200, 0, tmp_path, make_seeds(tmp_path / "seeds"))

    counts = in_a_fork(campaign)
    assert {path.name: path.read_text() for path in tmp_path.glob("faults/*.txt")} == {}
    total = sum(map(Counter, counts.values()), Counter())
    assert total.total() == 200
    kinds = {"EDF", "EDF+", "recording", "EDF+ annotations", "scoring", "model", "pair"}
    assert set(counts) == kinds
    # Some damage is harmless, most is not.
    assert total["read"] > 20
    assert total["refused"] > 80


def refuses(path):
    raise ValueError(f"{path} is damaged.")


def hides_that_it_takes_memory(path):
    try:
        bytearray(2**33)
    except MemoryError as error:
        raise ValueError(f"{path} is damaged.") from error


def unpickles(path):
    try:
        pickle.loads(CANARIES[1])
    except PermissionError:
        raise ValueError(f"{path} is damaged.") from None


def imports(path):
    sys.modules.pop("colorsys", None)
    __import__("colorsys")


#: What each of some readers comes to.
READERS = {
    lambda path: None: "read",
    refuses: "refused",
    lambda path: {}["damaged"]: "error",
    lambda path: int("names no file"): "error",
    lambda path: sys.exit(0): "error",
    lambda path: bytearray(2**33): "memory",
    hides_that_it_takes_memory: "memory",
    unpickles: "code",
    lambda path: eval(compile("1 + 1", "text", "eval")): "code",
    lambda path: path.with_suffix(".new").write_text(""): "code",
    lambda path: subprocess.run(["true"], check=True): "code",
    imports: "code",
}


def campaign(folder, faults, n_files, **options):
    """Have damaged files read by readers that each have a fault."""
    (folder / "seeds" / "one").mkdir(parents=True)
    (folder / "seeds" / "one" / "file.bin").write_bytes(VALID)

    def seed(number, fault):
        def read(root):
            if (root / "file.bin").read_bytes() != VALID:
                fault(root / "file.bin")

        return Seed(str(number), "one", "file.bin", "plain", read, ["file.bin"])

    os.chdir(folder)
    seeds = [seed(number, fault) for number, fault in enumerate(faults)]
    return run(n_files, 3, folder, seeds, **options)


def test_every_fault_is_found_and_kept(tmp_path):
    counts = in_a_fork(partial(campaign, tmp_path, READERS, 5 * len(READERS)))
    for count, outcome in zip(counts.values(), READERS.values(), strict=True):
        assert count[outcome] >= 4  # some damage leaves the file as it was
        assert set(count) <= {outcome, "read"}
    faults = sum(map(Counter, counts.values()), Counter())
    n_faults = faults.total() - faults["read"] - faults["refused"]
    kept = [path.read_bytes() for path in tmp_path.glob("faults/*.bin")]
    assert 1 < len(kept) <= n_faults
    assert VALID not in kept
    assert not list(tmp_path.rglob("canary*"))


def loops(path):
    sum(itertools.repeat(0))  # in C, where no exception ends it


def test_the_file_of_a_read_that_hangs_is_kept(tmp_path):
    with pytest.raises(AssertionError):  # the process ended otherwise than by itself
        in_a_fork(partial(campaign, tmp_path, [loops], 3, seconds=0.2))
    assert (tmp_path / "work" / "one" / "file.bin").read_bytes() != VALID


def test_the_table_and_the_exit_status(tmp_path, monkeypatch, capsys):
    counts = {"EDF": Counter(read=3, refused=4), "model": Counter(memory=1, code=2)}
    monkeypatch.setattr(program, "run", lambda *_: counts)
    monkeypatch.setattr(program, "make_seeds", lambda folder: [])
    monkeypatch.chdir(tmp_path)
    assert program.main([str(tmp_path), "--files", "10"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "files", "read", "refused", "faults"]
    assert lines[1].split() == ["EDF", "7", "3", "4", "0"]
    assert lines[2].split()[:5] == ["model", "3", "0", "0", "3"]
    assert lines[2].endswith("code 2, error 0, memory 1")
    assert lines[3].split()[:5] == ["all", "10", "3", "4", "3"]
    counts.pop("model")
    assert program.main([str(tmp_path)]) == 0


def test_equal_seeds_make_equal_files():
    annotations = b"0".ljust(256) + bytes(256) + b"+0\x14\x14\0+30\x14Sleep stage 2\x14\0"
    for name, data in (("edf", annotations), ("plain", b"onset\tstage\n0\t1\n30\t2\n")):
        made = [
            [FORGES[name](data, data, np.random.default_rng([1, k])) for k in range(60)]
            for _ in range(2)
        ]
        assert made[0] == made[1]
        assert len(set(made[0])) > 30
