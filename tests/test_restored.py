"""Files that name code, or what no release wrote, are refused."""

import numpy as np
import pytest
import safetensors.torch
import torch

from skleepkd import SleepStager, load, save
from tests.test_persistence import about, forge, rewrite

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


@pytest.fixture
def path(tmp_path, pair):
    """A file of U-Time."""
    path = tmp_path / "stager.safetensors"
    save(SleepStager("UTime", **SMALL_UTIME, **FAST).fit(*pair), path)
    load(path)
    return path


def refused(path):
    with pytest.raises(ValueError, match=path.name):
        load(path)


NETWORKS = [
    *("os.system", "Module", "Sequential", "EEGModuleMixin", "__builtins__", "nn", ""),
    *("tests.tiny.TinyNetwork", "skleepkd.networks.UTime", 3, None, ["UTime"], "REVE"),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_found_among_ours_and_braindecodes(path, name):
    for module in (name, {"named": name}):
        rewrite(path, {"module": module})
        refused(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", "/tmp/elsewhere"),
        ("unheard", 1),
        ("unheard__of", 1),
        ("optimizer", "SGD"),
        ("optimizer", {"named": "os.system"}),
        ("criterion", "os.system"),
        ("iterator_train", {"named": "os.system"}),
        ("train_split", {"named": "eval"}),
        ("torch_load_kwargs", {"dict": [["weights_only", False]]}),
        ("compile__backend", "os.system"),
        ("compile__options", {"dict": [["cpp.cxx", {"tuple": ["touch"]}]]}),
        ("callbacks", "x"),
    ],
)
def test_parameters_that_name_code_or_other_files(path, name, value):
    rewrite(path, {name: value})
    refused(path)


def test_attributes_are_no_way_around_the_parameters(path):
    metadata = about(path)
    metadata["estimator"]["estimator"][2]["dict"].append(["checkpoint", "/tmp/elsewhere"])
    forge(path, metadata)
    refused(path)


def test_values_are_of_known_kinds(path):
    for odd in ({"other": []}, {"array": ["os.system", []]}, {"estimator": []}):
        rewrite(path, {"lr": odd})
        refused(path)


@pytest.mark.parametrize("part", ["format", "estimator", "left_out"])
def test_parts_that_are_missing(path, part):
    without = {name: value for name, value in about(path).items() if name != part}
    forge(path, without, safetensors.torch.load(path.read_bytes()))
    refused(path)


def test_weights_of_other_names_and_shapes(path):
    metadata, tensors = about(path), safetensors.torch.load(path.read_bytes())
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    for odd in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "other.weight": torch.zeros(2)},
        {**tensors, name: torch.zeros(1)},
        {},
    ):
        forge(path, metadata, odd)
        refused(path)


def test_names_of_subjects_may_be_taken_out(path, pair):
    X, y = pair
    stager = SleepStager("UTime", validation=1, **SMALL_UTIME, **FAST).fit(X, y)
    save(stager, path)
    assert b"night-s3" in path.read_bytes()
    # As save's docstring says.
    stager.fitted_on_ = {"subject": None, "recording": None}
    stager.held_out_ = stager.held_out_[:0]
    save(stager, path)
    for name in np.unique(X.subject):
        assert f'\\"{name}\\"'.encode() not in path.read_bytes()
    assert b"night-" not in path.read_bytes()
    np.testing.assert_array_equal(load(path).predict_proba(X), stager.predict_proba(X))
