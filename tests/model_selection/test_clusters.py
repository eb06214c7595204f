"""Cross-validation on a Dask cluster, and the Python blocks of docs/clusters.md."""

import contextlib
import multiprocessing.forkserver
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.utils import Bunch

from skleepkd import DistilledSleepStager, SleepStager, datasets
from tests.tiny import FAST, TinyNetwork, make_pair

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
dask = pytest.importorskip("dask")
psutil = pytest.importorskip("psutil")

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
STUDENT = DistilledSleepStager(SleepStager(TinyNetwork, **FAST), **FAST)


@contextlib.contextmanager
def nothing_left_running():
    """Check that the processes that are started in the block end with it."""
    me = psutil.Process()
    before = set(me.children(recursive=True))
    yield
    started = set(me.children(recursive=True)) - before
    # Python's own helper of multiprocessing, which serves until the program ends.
    started = [child for child in started if "resource_tracker" not in str(child.cmdline())]
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    """Fork the clusters' processes from one that has imported what they need."""
    server = multiprocessing.forkserver
    # What a training imports is named too.
    server.set_forkserver_preload(["distributed", "torch._dynamo", __name__])
    server.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield
    server._forkserver._stop()


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": None}
    options |= {"processes": True, "dashboard_address": None}
    with (
        nothing_left_running(),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def sent(monkeypatch):
    """Bytes that this process (client and scheduler) writes to others, by message."""
    from distributed.comm.tcp import TCP

    sizes, write = [], TCP.write

    async def counted(self, *args, **kwargs):
        sizes.append(await write(self, *args, **kwargs))
        return sizes[-1]

    monkeypatch.setattr(TCP, "write", counted)
    return sizes


def test_dask_equals_one_process_and_no_array_is_sent(client, sent, tmp_path):
    X, y = make_pair(n_times=2400)
    n_bytes = X["target"].nbytes + X["source"].nbytes
    given = {"y": y, "groups": X.subject, "cv": GroupKFold(3)}
    expected = cross_validate(STUDENT, X, **given)["test_score"]
    totals = {}
    for where, pair in (("maps", X.to_memmap(tmp_path / "pair")), ("memory", X)):
        sent.clear()
        with parallel_config(backend="dask"):
            scores = cross_validate(STUDENT, pair, **given)["test_score"]
        np.testing.assert_array_equal(scores, expected)
        totals[where] = sum(sent)
    assert 0 < totals["maps"] / 3 < 0.01 * n_bytes  # a task of three
    # What is in memory is sent, so the count sees it: to the scheduler or the workers.
    assert n_bytes < totals["memory"] < 2.1 * n_bytes


def test_files_that_are_gone_are_an_error_of_the_fold(client, tmp_path):
    X, y = make_pair()
    mapped = X.to_memmap(tmp_path / "pair")
    shutil.rmtree(tmp_path / "pair")
    with (
        parallel_config(backend="dask"),
        pytest.raises(FileNotFoundError, match=r"target.*\.npy is not here.*shared file"),
    ):
        cross_validate(STUDENT, mapped, y, groups=X.subject, cv=GroupKFold(2))


# ---------------------------------------------------------------- the page


def blocks():
    """Python blocks of the page, by what they are recognised by."""
    texts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    marks = ("load_boas", "PairedEpochs.from", "n_jobs", "LocalCluster", "FOLD")
    marks = {mark: mark for mark in marks} | {"GPU": "SpecCluster", "Slurm": "SLURMCluster"}
    found = {name: [t for t in texts if mark in t] for name, mark in marks.items()}
    assert [len(parts) for parts in found.values()] == [1] * len(texts)
    return {name: part for name, (part,) in found.items()}


def replaced(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def test_the_pages_blocks(client, monkeypatch, tmp_path):
    X, y = make_pair(n_subjects=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "study", raising=False)
    monkeypatch.setattr(datasets, "load_boas", lambda root: Bunch(X=X, y=y))
    page = blocks()
    compile(page["Slurm"], PAGE.name, "exec")
    exec(page["load_boas"], {})
    small = replaced(
        page["PairedEpochs.from"],
        (
            "from skleepkd import",
            "from tests.tiny import TinyNetwork\nfrom skleepkd import",
        ),
        ('SleepStager("USleep")', "SleepStager(TinyNetwork, device='cpu')"),
        ("random_state=0", "random_state=0, max_epochs=2, device='cpu', verbose=0"),
    )
    (tmp_path / "study.py").write_text(small)
    here = {"__name__": "__main__"}
    exec(replaced(page["n_jobs"], ("n_jobs=2", "n_jobs=1")), here)
    expected = here.pop("scores")
    assert expected["test_kappa"].shape == (3,)

    def running(**options):
        assert options == {"n_workers": 2, "threads_per_worker": 1, "memory_limit": None}
        return contextlib.nullcontext(client.cluster)

    monkeypatch.setattr(distributed, "LocalCluster", running)
    exec(page["LocalCluster"], here)
    np.testing.assert_array_equal(here["scores"]["test_kappa"], expected["test_kappa"])

    alone, together = {}, {}
    monkeypatch.setenv("FOLD", "1")
    exec(page["FOLD"], alone)
    monkeypatch.delenv("FOLD")
    exec(page["FOLD"], together)
    np.testing.assert_array_equal(together["scores"]["test_kappa"], expected["test_kappa"])
    # The time of the fold that was kept shows that it was not fitted again.
    assert alone["scores"]["fit_time"].tolist() == [together["scores"]["fit_time"][1]]


def test_each_worker_of_the_page_has_a_gpu_of_its_own():
    def devices(*args):
        return distributed.get_client().run(os.getenv, "CUDA_VISIBLE_DEVICES")

    here = {"__name__": "__main__", "cross_validate": devices}
    here |= {"student": None, "X": None, "y": None, "folds": {}}
    with nothing_left_running():
        exec(replaced(blocks()["GPU"], ("range(4)", "range(2)")), here)
    assert sorted(here["scores"].values()) == ["0", "1"]
