"""The process that reads damaged files: ``python -m tests.fuzz.child FOLDER MODULE CPU CLOCK``.

It writes the seeds of a module and reads each once. ``CPU`` and ``CLOCK`` limit a read, in
seconds of processor time and of the clock. Then it takes lines of standard input,
``NUMBER FOLDER`` (of a seed, and where to read), and writes a line of JSON for each. A
read that takes too long ends the process, as does one that ends it by itself.
"""

import importlib
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path

from tests.fuzz.forgeries import CANARY

#: Address space that a read may take beyond what the process has before, in bytes.
MEMORY = 2**30

#: Audit events that a reader has no reason to cause.
_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile"),
    *("subprocess.", "pty.", "socket.", "urllib.", "http.client", "ftplib.", "webbrowser."),
    *("pickle.", "exec", "import", "marshal.", "code.__new__", "ctypes.dlopen"),
    *("function.__new__", "shutil.", "tempfile.", "os.remove", "os.rename", "os.mkdir"),
    *("os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "os.kill"),
)
#: Modules that readers look for each time, as they are not there.
_LATE = {"pymatreader"}
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
        if not (writes or event.startswith(_FORBIDDEN)):
            return
        if (event == "import" and args[0] in _LATE) or _imports_torch(event, args):
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


def read(seed, folder, watch, cpu, clock):
    """Read a folder and return the outcome."""
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, clock)
    result = {"outcome": "read"}
    try:
        with watch:
            seed.read(folder)
    except BaseException as error:
        result = judge(error, seed)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if watch.last or Path(CANARY).exists():
        result = {"outcome": "code", "error": "; ".join(watch.last) or CANARY}
    return result


def judge(error, seed):
    """Separate a clear refusal from a fault."""
    chain, above = [], error
    while above is not None:
        chain.append(above)
        above = above.__cause__ or above.__context__
    frames = traceback.extract_tb(error.__traceback__)
    result = {
        "error": f"{type(error).__name__}: {str(error)[:300]}",
        "where": [f"{frame.filename[-50:]}:{frame.lineno}" for frame in frames[-4:]],
    }
    if any(_is_memory(each) for each in chain):
        return {"outcome": "memory", **result}
    clear = isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError)
    if clear and any(word in str(error) for word in seed.words):
        return {"outcome": "refused", **result}
    return {"outcome": "error", **result}


def _is_memory(error):
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def limit():
    """Let the address space grow by so much and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(folder, module, cpu, clock):
    warnings.simplefilter("ignore")
    output, folder, limits = sys.stdout, Path(folder), (float(cpu), float(clock))
    with redirect_stdout(sys.stderr):
        seeds = importlib.import_module(module).make_seeds(folder)
        for seed in seeds:  # imports what a reader imports late
            seed.read(folder / seed.name)
        listed = [
            {"kind": s.kind, "name": s.name, "file": s.file, "forge": s.forge}
            for s in seeds
        ]
        print(json.dumps(listed), file=output, flush=True)
        watch = Watch()
        limit()
        for line in sys.stdin:
            number, place = line.rstrip("\n").split(" ", 1)
            result = read(seeds[int(number)], Path(place), watch, *limits)
            print(json.dumps(result), file=output, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
