"""What the tests share: a tiny pair, and the real annotations' folder."""

import gc
import os
from pathlib import Path

import pytest

collect_ignore = ["installed.py"]  # what `make wheel` runs


def pytest_configure(config):
    """Set up a process that runs tests; one that hands them out imports nothing."""
    if config.getoption("numprocesses", default=None):
        return
    import torch
    from hypothesis import HealthCheck, settings

    for warning in (
        "skleepkd.distillation.LeakageWarning",
        "sklearn.exceptions.FitFailedWarning",
    ):
        config.addinivalue_line("filterwarnings", f"error::{warning}")
    # A busy machine is no fault of the code.
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("patient", **patient)
    settings.load_profile("patient")
    torch.set_num_threads(1)


def pytest_collection():
    """What is imported stays: there is nothing to collect, now or after."""
    gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture
def pair():
    """A pair of six subjects and its labels."""
    from tests.tiny import make_pair

    return make_pair()


@pytest.fixture
def X(pair):
    """The pair without its labels."""
    return pair[0]


@pytest.fixture
def y(pair):
    """The labels of the pair."""
    return pair[1]


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real annotations, or a skip that says so."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SKLEEPKD_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip("the real annotations are not here (set SKLEEPKD_SHARED_DATA)")
    return folder
