"""Every lesson runs by itself: on tiny nights, and for one pass of each training."""

import ast
import inspect
import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from skorch import NeuralNet

from skleepkd import datasets

FOLDER = Path(__file__).parents[1] / "examples"
PAGES = sorted(FOLDER.glob("plot_*.py"))

#: What a page has words of, where it needs more than the package and its pictures.
EXTRAS = {"gssc": r"GsscStager\(", "onnx": "onnx", "yasa": r"YasaStager\(|to_yasa"}

#: Epochs of a night. YASA's stager, a teacher of one page, wants five minutes at least;
#: two pages need more, for clocks that are estimated and for sequences.
N_EPOCHS = 12
MORE_EPOCHS = {"plot_02_own_edf": 24, "plot_06_sequences": 24}
#: What a page has many of, and fewer of it.
FEWER = {
    "plot_03_pipeline_and_search": {"range(10)": "range(8)", "KFold(3)": "KFold(2)"},
    "plot_06_sequences": {"cohort(10,": "cohort(2,", "cohort(6,": "cohort(3,"},
}


@pytest.fixture
def tiny(page, monkeypatch, tmp_path):
    """Shorten what the pages simulate and train; they know nothing of it."""
    most = MORE_EPOCHS.get(page.stem, N_EPOCHS)

    def shortened(simulate):
        signature = inspect.signature(simulate)

        def call(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            given.arguments["n_epochs"] = min(most, given.arguments["n_epochs"])
            return simulate(*given.args, **given.kwargs)

        return call

    for name in ("make_cohort", "simulate_night"):
        monkeypatch.setattr(datasets, name, shortened(getattr(datasets, name)))

    all_passes = NeuralNet.fit_loop

    def one_pass(self, X, y=None, epochs=None, **fit_params):
        return all_passes(self, X, y, epochs=1, **fit_params)

    monkeypatch.setattr(NeuralNet, "fit_loop", one_pass)
    monkeypatch.chdir(tmp_path)
    plt.close("all")
    yield tmp_path
    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_where_nothing_lies_beside_it(page, tiny, capsys):
    text = page.read_text(encoding="utf-8")
    for many, fewer in FEWER.get(page.stem, {}).items():
        assert text.count(many) == 1
        text = text.replace(many, fewer)
    copy = tiny / page.name
    copy.write_text(text, encoding="utf-8")
    runpy.run_path(str(copy), run_name="__main__")
    assert plt.get_fignums(), "a page shows at least one figure"
    assert "imulated" in capsys.readouterr().out, "printed numbers are said to be simulated"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_reads_as_one_of_the_gallery(page):
    text = page.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    title, line = docstring.splitlines()[:2]
    assert set(line) == {"="}
    assert len(line) == len(title)
    assert "**simulated**" in docstring
    needs = {"plot"} | {n for n, words in EXTRAS.items() if re.search(words, text)}
    (named,) = re.findall(r"skleepkd\[([a-z,]+)\]", docstring)
    assert set(named.split(",")) == needs, "who downloads a page is told what it needs"
    assert text.count("\n# %%\n") >= 4, "a lesson has parts"


def test_pages_are_numbered():
    numbers = [int(re.fullmatch(r"plot_(\d\d)_[a-z_]+", page.stem)[1]) for page in PAGES]
    assert numbers == list(range(1, len(PAGES) + 1))
