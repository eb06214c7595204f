"""The documentation's pages: their code runs, and nothing public is missing."""

import doctest
import importlib
import os
import re
import warnings
from datetime import datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from skleepkd import datasets
from tests.files import write_edf

DOCS = Path(__file__).parents[1] / "docs"
#: Pages whose Python is run elsewhere (tests/model_selection/test_clusters.py).
ELSEWHERE = {"clusters.md"}
#: What some blocks import, and the package that has it, which nothing here depends on.
OPTIONAL = {"import optuna": "optuna", "from torch.utils.tensorboard": "tensorboard"}
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for folder in (DOCS, DOCS / "guide", DOCS / "papers")
    for path in folder.glob("*.md")
)
PACKAGES = (
    "skleepkd",
    *("skleepkd.distillation", "skleepkd.networks", "skleepkd.preprocessing"),
    *("skleepkd.datasets", "skleepkd.metrics", "skleepkd.model_selection"),
    *("skleepkd.plotting", "skleepkd.recipes", "skleepkd.sequences", "skleepkd.stages"),
    "skleepkd.teachers",
)


def blocks(page):
    """Kind, line and text of the blocks of Python of a page, in their order."""
    text = (DOCS / page).read_text()
    for found in re.finditer(
        r"^```(python|pycon)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    ):
        yield found[1], text[: found.start()].count("\n") + 1, found[2]


def write_remlogic(path, began, stages):
    """Write a scoring as RemLogic exports it."""
    rows = ["RemLogic Event Export", f"Recording Date:\t{began:%d/%m/%Y}"]
    rows += ["", "Time [hh:mm:ss]\tEvent\tDuration[s]"]
    for k, stage in enumerate(stages):
        text = ["S0", "S1", "S2", "S3", "REM"][stage]
        rows.append(f"{began + timedelta(seconds=30 * k):%H:%M:%S}\tSLEEP-{text}\t30")
    path.write_text("\n".join(rows))


def write_study(folder):
    """Write four nights, scored by RemLogic from 22:01 on; the last signal is cut short."""
    for number, name in enumerate(["ann", "ben", "cleo", "dora"]):
        night = datasets.simulate_night(
            20, subject=number, random_state=0, derivations=("C3-O1", "L-R")
        )
        signals = dict(zip(night.ch_names, night.signals, strict=True))
        starts = 0.25 + 30.0 * np.arange(20)
        path = write_edf(folder / "study" / f"{name}.edf", signals, 20, 30, starts=starts)
        write_remlogic(path.with_suffix(".txt"), datetime(2000, 1, 1, 22, 1), night.y[2:])
    os.truncate(path, path.stat().st_size // 2)


def write_devices(folder):
    """Write nights of two devices whose clocks disagree, scored, and of one; the last is cut."""
    offsets = {"ann": 12.4, "ben": 95.0, "cleo": -20.5, "dora": 7.3}
    offsets |= {"emil": 0, "fay": 0, "gina": 0}
    n_epochs, scalp, ear = 60, ("C3-O1", "C4-O2"), ("LE", "RE")
    for number, (name, offset) in enumerate(offsets.items()):
        # It begins two epochs before the polysomnograph, and ends after both devices.
        night = datasets.simulate_night(
            n_epochs + 6, subject=number, random_state=0, derivations=(*scalp, *ear)
        )
        signals = dict(zip(night.ch_names, night.signals, strict=True))
        seconds = np.arange(night.signals.shape[1]) / 64
        recorded = np.arange(n_epochs * 30 * 64) / 64
        worn = 60 + offset + recorded / (1 + 3e-5)
        by_device = {"wearable" if offset else "new": (ear, worn, ("01.01.85", "00.00.00"))}
        if offset:
            by_device["psg"] = scalp, 60 + recorded, ("01.03.26", "22.30.00")
        for device, (labels, times, clock) in by_device.items():
            cut = {label: np.interp(times, seconds, signals[label]) for label in labels}
            path = write_edf(
                folder / device / f"{name}.edf", cut, n_epochs, 30, clock=clock
            )
        if offset:
            began, stages = datetime(2026, 3, 1, 22, 30), night.y[2 : 2 + n_epochs]
            write_remlogic(path.with_suffix(".txt"), began, stages)
    os.truncate(path, path.stat().st_size // 2)


#: What writes the files that a page reads, into the folder where it runs.
FILES = {"guide/dataset.md": write_study, "guide/devices.md": write_devices}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ELSEWHERE and any(blocks(page))]
)
def test_a_pages_python_runs_from_the_top(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if page in FILES:
        FILES[page](tmp_path)
    here = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    for kind, line, text in blocks(page):
        wanted = {package for words, package in OPTIONAL.items() if words in text}
        missing = [package for package in wanted if not find_spec(package)]
        if missing:
            warnings.warn(f"{page}, line {line}: not run without {missing}", stacklevel=1)
        elif kind == "python":
            exec(compile("\n" * line + text, str(DOCS / page), "exec"), here)
        else:
            parse = doctest.DocTestParser().get_doctest
            test = parse(text, here, page, str(DOCS / page), line)
            runner.run(test, clear_globs=False)
            here = test.globs
    assert runner.summarize(verbose=False).failed == 0


def test_the_first_block_of_the_readme_runs_and_the_start_page_has_it(monkeypatch, capsys):
    text = (DOCS.parent / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    simulate = datasets.make_cohort
    monkeypatch.setattr(datasets, "make_cohort", partial(simulate, n_epochs=12))
    exec(block.replace("max_epochs=5", "max_epochs=1"), {})
    shown = text.split("```text\n")[1].split("```")[0]
    assert re.sub(r"-?\d", "0", capsys.readouterr().out) == re.sub(r"\d", "0", shown)
    start = (DOCS / "index.md").read_text()
    markers = re.findall(r':(?:start-after|end-before): "(.*)"', start)
    assert len(markers) == 4
    assert all(text.count(marker) == 1 for marker in markers)


def listed_names():
    """Names that the page of the API lists, by their package."""
    listed, package = {}, None
    for line in (DOCS / "api" / "index.rst").read_text().splitlines():
        if line.startswith((".. module::", ".. currentmodule::")):
            package = line.split()[-1]
        elif re.fullmatch(r"   \w+|\.\. py:data:: \w+", line):
            listed.setdefault(package, []).append(line.split()[-1])
    return listed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_page(package):
    listed = listed_names()[package]
    module = importlib.import_module(package)
    assert len(listed) == len(set(listed))
    # A module without __all__ has helpers of the library's own beside what users want.
    assert set(listed) == set(getattr(module, "__all__", listed))
    assert all(getattr(module, name).__doc__ for name in listed)


def commands(text):
    """Commands that print numbers, as ``python benchmarks/speed.py --output ...``."""
    return re.findall(r"(?:python benchmarks/\w+\.py|make (?:bench|demo))[ \w./-]*", text)


def test_pages_of_numbers_name_the_command_that_printed_them():
    root = DOCS.parent
    contributing = (root / "CONTRIBUTING.md").read_text()
    results = {path.name: path.read_text() for path in root.glob("benchmarks/results/*.md")}
    del results["README.md"]
    for name, text in results.items():
        (command, *_) = commands(text)
        assert command.split()[1] in contributing.replace(
            "make bench", "benchmarks/speed.py"
        ), name
    included = 0
    for page in PAGES:
        text = (DOCS / page).read_text()
        for name in re.findall(r"{include} .*benchmarks/results/(.*)", text):
            assert commands(results[name])[0] in commands(text), (page, name)
            assert "simulated" in text.lower()
            included += 1
    assert included >= 3
