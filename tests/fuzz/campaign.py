"""Damage files, read them, and count what came of it."""

import faulthandler
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np

from tests.fuzz.damage import CANARY, FORGES

#: A valid file: what it is, its folder's name, its path in there, how it is damaged, the
#: reader of the folder, and words of which one is in every clear error.
Seed = namedtuple("Seed", "kind name file forge read words")

#: Audit events that a reader has no reason to cause.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile"),
    *("subprocess.", "pty.", "socket.", "urllib.", "http.client", "ftplib.", "webbrowser."),
    *("pickle.", "exec", "import", "marshal.", "code.__new__", "ctypes.dlopen"),
    *("function.__new__", "shutil.", "tempfile.", "os.remove", "os.rename", "os.mkdir"),
    *("os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.kill"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook that notes what a read does besides reading."""

    def __init__(self):
        self.noted = None
        sys.addaudithook(self)

    def __call__(self, event, args):
        if self.noted is None:
            return
        writes = event == "open" and bool(args[2] & _WRITING)
        if not (writes or event.startswith(_FORBIDDEN)) or _imports_torch(event, args):
            return
        self.noted.append(f"{event} {str(args)[:200]}")
        if event.startswith(("os.", "subprocess.", "socket.", "shutil.")) or writes:
            raise PermissionError(f"a reader must not {event}")

    def __enter__(self):
        self.noted = []

    def __exit__(self, *_):
        self.last, self.noted = self.noted, None


def _imports_torch(event, args):
    """Whether torch imports parts of itself, as it does to compile a network."""
    names = [args[0]] if event == "import" else []
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load":
            names.append(frame.f_locals.get("name"))
        frame = frame.f_back
    return any(str(name).partition(".")[0] == "torch" for name in names)


def read(seed, folder, watch, seconds):
    """Read a folder: how it ended, and what was wrong; a hang ends the process."""
    outcome, about = "read", ""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        with watch:
            seed.read(folder)
    except BaseException as error:
        outcome, about = judge(error, seed), traceback.format_exc()
    faulthandler.cancel_dump_traceback_later()
    if watch.last or Path(CANARY).exists():
        outcome, about = "code", "; ".join(watch.last) or CANARY
    return outcome, about


def judge(error, seed):
    """Separate a clear refusal from a fault."""
    above = error
    while above is not None:
        if isinstance(above, MemoryError) or "can't allocate memory" in str(above):
            return "memory"
        above = above.__cause__ or above.__context__
    clear = isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError)
    named = any(word in str(error) for word in seed.words)
    return "refused" if clear and named else "error"


def limit_memory(n_bytes=2**30):
    """Let the address space grow by so much and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def run(n_files, random_state, folder, seeds, seconds=60):
    """Read so many damaged files, shared alike among the seeds of ``folder / "seeds"``.

    Those that were not read or refused as they should be are kept in ``folder / "faults"``,
    each with a text of what happened. Returns a Counter for each kind of file of how its
    files ended: "read", "refused", "error", "memory" or "code".
    """
    warnings.simplefilter("ignore")
    faults, work, counts = folder / "faults", folder / "work", {}
    for seed in seeds:  # imports what a reader imports late
        seed.read(folder / "seeds" / seed.name)
    limit_memory()
    watch = Watch()
    valid = [(folder / "seeds" / seed.name / seed.file).read_bytes() for seed in seeds]
    ends = np.linspace(0, n_files, len(seeds) + 1).astype(int)
    for number, seed in enumerate(seeds):
        place = work / seed.name
        shutil.copytree(folder / "seeds" / seed.name, place)
        pairs = zip(valid, seeds, strict=True)
        alike = [data for data, other in pairs if other.forge == seed.forge]
        count = counts.setdefault(seed.kind, Counter())
        for file in range(ends[number + 1] - ends[number]):
            rng = np.random.default_rng([random_state, number, file])
            other = alike[rng.integers(len(alike))]
            data = FORGES[seed.forge](valid[number], other, rng)
            # Where the process ends, this is the file at fault.
            (place / seed.file).write_bytes(data)
            outcome, about = read(seed, place, watch, seconds)
            count[outcome] += 1
            if outcome not in ("read", "refused"):
                faults.mkdir(exist_ok=True)
                path = faults / f"{seed.name}-{file}-{outcome}-{seed.file}"
                path.write_bytes(data)
                path.with_name(f"{path.name}.txt").write_text(about)
        shutil.rmtree(work)
    return counts
