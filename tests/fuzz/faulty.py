"""Readers with a fault each, which a campaign has to find."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.fuzz import Seed
from tests.fuzz.forgeries import CANARIES

VALID = b"a valid file"


def reads(path):
    pass


def refuses(path):
    raise ValueError(f"{path} is damaged.")


def lacks_a_key(path):
    return {}["damaged"]


def names_no_file(path):
    raise ValueError("invalid literal for int()")


def exits(path):
    sys.exit(0)


def loops(path):
    while True:
        pass


def loops_in_c(path):
    sum(itertools.repeat(0))


def waits(path):
    time.sleep(600)


def takes_memory(path):
    return bytearray(2**33)


def hides_that_it_takes_memory(path):
    try:
        bytearray(2**33)
    except MemoryError as error:
        raise ValueError(f"{path} is damaged.") from error


def crashes(path):
    signal.raise_signal(signal.SIGSEGV)


def ends(path):
    os._exit(0)


def unpickles(path):
    try:
        pickle.loads(CANARIES[1])
    except PermissionError:
        raise ValueError(f"{path} is damaged.") from None


def evaluates(path):
    eval(compile("1 + 1", str(path), "eval"))


def writes(path):
    path.with_suffix(".new").write_text("")


def starts_a_program(path):
    subprocess.run(["true"], check=True)


def imports(path):
    sys.modules.pop("colorsys", None)
    __import__("colorsys")


#: What each comes to.
OUTCOMES = {
    "read": [reads],
    "refused": [refuses],
    "error": [lacks_a_key, names_no_file, exits],
    "hang": [loops, loops_in_c, waits],
    "memory": [takes_memory, hides_that_it_takes_memory],
    "crash": [crashes, ends],
    "code": [unpickles, evaluates, writes, starts_a_program, imports],
}


def make_seeds(folder):
    seeds = []
    for fault in itertools.chain(*OUTCOMES.values()):
        name = fault.__name__
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "file.bin").write_bytes(VALID)
        read = partial(_unless_valid, fault)
        seeds.append(Seed("faulty", name, "file.bin", "plain", read, ["file.bin"]))
    return seeds


def _unless_valid(fault, root):
    path = Path(root) / "file.bin"
    if path.read_bytes() != VALID:
        fault(path)
