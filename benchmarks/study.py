"""One runner for the benchmarks: options, fits that are kept, looks at the test, a page.

A study fits methods by name on folds of subjects, and writes a page, a table and perhaps a
picture. Each finished fit is kept (:class:`joblib.Memory`), so an interrupted run goes on
where it was, and a second one only prints. What a page says, and what the papers have, lies
in ``pages``, with slots for the numbers. ``label_budget.py`` is a short example.
"""

import argparse
import itertools
import multiprocessing
import os
import platform
import re
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from joblib import Memory, Parallel, delayed
from skorch.callbacks import Callback, LRScheduler
from tables import markdown_table
from torch.utils.data import DataLoader

import skleepkd
from skleepkd.distillation import FeatureMSE
from skleepkd.memory import key_of, replace_file
from skleepkd.metrics import staging_report

LIBRARIES = ("skleepkd", "torch", "skorch", "scikit-learn", "braindecode", "mne", "numpy")


class Setting(NamedTuple):
    """An option that the results depend on; None stands for the default's value."""

    text: str
    default: object = None
    fast: object = None  # with --fast
    real: object = None  # with --data
    paper: object = None  # where it is not that with --data
    choices: tuple | None = None


#: How trainings weigh what a student follows, chosen on the cohorts 100 and 101.
TERMS = {
    "lr": Setting("learning rate of the first pass (Adam)", 3e-3),
    "feature-weight": Setting("weight of the feature term", 10.0),
    "alpha": Setting("share of the softmax term beside labels", 0.9),
    "temperature": Setting("temperature of the softmax term", 2.0),
}


def parse(doc, settings, argv=None, **arguments):
    """Read the command line: the settings, and how to run.

    ``doc`` describes the command. ``arguments`` are what is no setting, such as "data": the
    parameters of ``add_argument``, or the help of a switch. What is given on the command
    line counts more than ``--fast``. The result has "settings", a dict of the settings
    alone, "shown", the same in words and beside the paper's, "argv", and "error", which
    ends the command with a message.
    """
    argv = sys.argv[1:] if argv is None else argv
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=form)
    for name, (text, *values, _, choices) in settings.items():
        known = next((value for value in values if value is not None), 0)
        how = {"type": type(known), "choices": choices}
        if isinstance(known, list):
            how |= {"type": type(known[0]), "nargs": "+"}
        shown = zip(("default", "--fast", "--data"), values, strict=True)
        shown = ", ".join(f"{of} {value}" for of, value in shown if value is not None)
        text = f"{text} ({shown})" if shown else text
        parser.add_argument(f"--{name}", help=text, **how)
    here = Path(__file__).parent
    arguments |= {
        "fast": "a run of seconds",
        "n_jobs": {"type": int, "default": 1, "help": "fits at a time (default 1)"},
        "output": folder("folder of the page", default=here / "results"),
        "cache": folder("folder of finished fits", default=here / "cache"),
    }
    for name, how in arguments.items():
        how = {"action": "store_true", "help": how} if isinstance(how, str) else how
        parser.add_argument(f"--{name.replace('_', '-')}", **how)
    options = parser.parse_args(argv)
    options.error = parser.error
    options.argv, options.settings, options.shown = argv, {}, {}
    for name, setting in settings.items():
        name = name.replace("-", "_")
        of_run = setting.real if getattr(options, "data", None) else None
        given = (getattr(options, name), setting.fast if options.fast else None, of_run)
        value = next((value for value in given if value is not None), setting.default)
        options.settings[name] = value
        setattr(options, name, value)
        paper = setting.real if setting.paper is None else setting.paper
        options.shown[name] = setting.text, value, paper
    return options


def folder(text, **how):
    """Describe an argument that is a path."""
    return {"type": Path, "help": text, **how}


def in_words(value):
    """Write a setting's value as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else f"{value}"


def texts(script):
    """Return what fills the slots of the texts of a script's page, which lie in ``pages``."""
    page = Path(__file__).parent / "pages" / Path(script).with_suffix(".md").name
    parts = re.split(r"^<!-- (.+) -->\n", page.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))

    def text(name, /, when=True, **values):
        """Fill a text, or give it with its slots; empty unless it applies."""
        body = found[name].strip() if when else ""
        return body.format(**values) if values else body

    return text


class Study:
    """Fits that are kept, and the page of what they gave.

    ``name`` is that of the benchmark's file, ``options`` those of :func:`parse`. In
    ``memory`` fits are kept, and stagers may keep their teachers. What another version of
    the package has kept is not read.
    """

    def __init__(self, name, options):
        self.name, self.options = name, options
        self.folder = options.cache / f"{name}-{source_digest()}"
        self.memory = Memory(self.folder, verbose=0)
        self.n_fits = self.n_new = 0
        self.cpu_seconds = 0.0
        self.began = time.perf_counter()

    def run(self, function, tasks, /, **shared):
        """Call a function for each task, unless its result is kept; return dicts by task.

        ``tasks`` are arguments by the task's name, ``shared`` those of all tasks. Where
        things lie, "memory" and "folder", is no part of what a result depends on. A task's
        error is raised; what is finished stays. A result without "cpu_seconds" gets those
        of its task.
        """
        places = ("memory", "folder")
        depends = {name: value for name, value in shared.items() if name not in places}
        key = key_of(function, depends)
        call = self.memory.cache(_call, ignore=["name", "function", "arguments"])
        calls = [
            (key_of(key, task), name, function, shared | task)
            for name, task in tasks.items()
        ]
        self.n_fits += len(calls)
        self.n_new += sum(not call.check_call_in_cache(*one) for one in calls)
        fits = Parallel(self.options.n_jobs)(delayed(call)(*one) for one in calls)
        self.cpu_seconds += sum(fit["cpu_seconds"] for fit in fits)
        return dict(zip(tasks, fits, strict=True))

    def head(self, title, about=None, names=None):
        """Begin a page: title, command, this run, and settings beside the paper's.

        ``about`` is a dict of further lines, each "here" and "paper"; ``names`` those of
        the settings that are shown, all by default.
        """
        command = shlex.join(["python", f"benchmarks/{self.name}.py", *self.options.argv])
        minutes = (time.perf_counter() - self.began) / 60
        versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        has_gpu, shown = torch.cuda.is_available(), self.options.shown
        device = torch.cuda.get_device_name() if has_gpu else processor_name()
        lines = [(name, *values) for name, values in (about or {}).items()]
        rows = [
            dict(zip(("Setting", "Here", "Paper"), map(in_words, line), strict=True))
            for line in [*lines, *(shown[name] for name in names or shown)]
        ]
        has_paper, warning = any(row["Paper"] != "-" for row in rows), ""
        if not has_paper:
            rows = [{name: row[name] for name in ("Setting", "Here")} for row in rows]
        if "simulated" in title:
            warning = (
                "**Simulated nights.** Every number here is of simulated nights; none says "
                "how a method does on people."
            )
            warning += " The paper's values are of other nights, real ones." * has_paper
        fits = "."
        if self.n_fits:
            fits = (
                f" with {self.options.n_jobs} fit(s) at a time and did {self.n_new} of "
                f"{self.n_fits} fits; any others were there from an earlier run. All fits "
                f"together take {self.cpu_seconds / 60:.1f} minutes of processor time."
            )
        return [
            f"# {title}",
            warning,
            f"```\n{command}\n```",
            f"This run took {minutes:.1f} minutes{fits} {device}, one thread a fit; Python "
            f"{platform.python_version()}, {versions}.",
            markdown_table(rows),
        ]

    def write(self, name, parts, rows, figure=None):
        """Write a page of paragraphs, a table of rows and a picture; print the page."""
        page, folder = "\n\n".join(parts) + "\n", self.options.output
        page = re.sub(r"\n{3,}", "\n\n", page)  # where a text does not apply
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{name}.md", page.encode())
        pd.DataFrame(rows, dtype=object).to_csv(folder / f"{name}.csv", index=False)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=100)
        print(page)

    def write_figure(self, name, head, caption, rows, figure):
        """Write the page of a picture alone: head, picture and caption; and its numbers."""
        picture = f"![{caption.split(':')[0]}]({name}.png)"
        self.write(name, [*head, picture, caption], rows, figure)


def tasks_of(**values):
    """Make a task of each combination of arguments; its name is a tuple of them."""
    return {
        one: dict(zip(values, one, strict=True))
        for one in itertools.product(*values.values())
    }


def _call(key, name, function, arguments):
    """Do a task; ``key`` stands for all that its result depends on."""
    print(name, file=sys.stderr, flush=True)  # how far it is
    torch.set_num_threads(1)
    began = time.process_time()
    result = function(**arguments)
    return {"cpu_seconds": time.process_time() - began, **result}


def processor_name():
    """Name the model of the processor."""
    about = Path("/proc/cpuinfo")  # Linux, where platform.processor() is often empty
    found = re.search(r"model name\s*: (.+)", about.read_text()) if about.exists() else None
    return f"CPU ({found[1] if found else platform.processor() or platform.machine()})"


def load_of_machine():
    """Return the load of the machine as a line of a page's head."""
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processor(s)"
    return {"load of the machine": (load, "-")}


def source_digest():
    """Digest of the package's source, so that kept results are those of this code."""
    files = sorted(Path(skleepkd.__file__).parent.rglob("*.py"))
    return joblib.hash([file.read_bytes() for file in files])[:12]


def in_new_process(function, **arguments):
    """Call a function in a process of its own, whose memory holds nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, **arguments).result()


def clock():
    """Seconds by the clock on the wall, and of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def timed_fit(stager, X, y):
    """Fit a stager; return its seconds, those of looks at the test left out."""
    began = clock() - Watch.spent
    stager.fit(X, y)
    seconds = (clock() - Watch.spent - began).tolist()
    return dict(zip(("seconds", "cpu_seconds"), seconds, strict=True))


def training(passes, lr, batch_size=32, steps=None):
    """Make what trainings have in common: the learning rate falls as a cosine.

    With ``steps`` each pass is so many batches, however many rows there are.
    """
    common = {
        "classes": "aasm",
        "batch_size": batch_size,
        "max_epochs": passes,
        "lr": lr,
        "callbacks": [LRScheduler("CosineAnnealingLR", T_max=passes)],
        "validation": None,
        "device": "cpu",
    }
    of_pass = {"iterator_train": SomeBatches, "iterator_train__steps": steps}
    return common | of_pass if steps else common


def terms(settings):
    """Return what a student's loss has beside labels: features that it follows, or outputs."""
    mse, weight = FeatureMSE(standardize=True), settings["feature_weight"]
    softmax = {name: settings[name] for name in ("alpha", "temperature")}
    return {"feature_loss": mse, "feature_weight": weight}, softmax | {"feature_loss": None}


class SomeBatches(DataLoader):
    """A pass of a fixed number of batches, from as many shuffles as they need."""

    def __init__(self, dataset, *, steps, **options):
        super().__init__(dataset, **options)
        self.steps = steps

    def __iter__(self):
        shuffles = (DataLoader.__iter__(self) for _ in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(shuffles), self.steps)


class Watch(Callback):
    """Score the test subjects while a network is trained, without effect on the training.

    Studies that choose their weights on the test subject report such scores, and curves of
    a training show them. The network predicts in evaluation mode, the state of the random
    numbers is restored, and no weights are kept.

    ``X`` and ``y`` are the test subjects' epochs, as the stager takes them, and their
    stages. With ``every`` there is a look after so many steps, the first before any step;
    else one after each pass.

    ``looks_`` is a list of dicts: "step", "test_accuracy", "kappa" and, but for the first,
    "train_loss", the mean over the steps since the look before. ``best_predicted_`` are the
    stages predicted at the (first) look with the highest kappa, ``steps_`` is the number of
    steps.
    """

    #: Time of all looks in this process (:func:`clock`); no part of a fit.
    spent = np.zeros(2)

    def __init__(self, X, y, every=None):
        self.X = X
        self.y = y
        self.every = every

    def on_train_begin(self, net, **kwargs):
        """Forget an earlier training, and look at the start of this one."""
        self.looks_, self.losses_, self.steps_ = [], [], 0
        if self.every:
            self.look(net)

    def on_batch_end(self, net, training=False, loss=None, **kwargs):
        """Note the loss, and look after every few steps."""
        if not training:
            return
        self.steps_ += 1
        self.losses_.append(loss.item())
        if self.every and self.steps_ % self.every == 0:
            self.look(net)

    def on_epoch_end(self, net, **kwargs):
        """Look after a pass."""
        if not self.every:
            self.look(net)

    def look(self, net):
        """Predict and score the test subjects' epochs."""
        began = clock()
        with torch.random.fork_rng():
            predicted = net.predict(self.X)
        scores = staging_report(self.y, predicted).pooled
        look = {"step": self.steps_, "test_accuracy": scores["accuracy"]}
        look["kappa"] = scores["kappa"]
        if self.losses_:
            look["train_loss"] = sum(self.losses_) / len(self.losses_)
            self.losses_ = []
        if all(look["kappa"] > earlier["kappa"] for earlier in self.looks_):
            self.best_predicted_ = predicted.tolist()
        self.looks_.append(look)
        Watch.spent = Watch.spent + clock() - began
