import json

import numpy as np
import pytest
import safetensors.torch
import torch

from skleepkd import SleepStager, load, save
from tests.test_persistence import about, forge, rewrite
from tests.tiny import TinyNetwork

FAST = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
SMALL_UTIME = {"module__filters": (4, 4, 8), "module__pools": (3, 2)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stager.safetensors"


@pytest.fixture
def said(path, pair):
    """What a file of U-Time says."""
    stager = SleepStager("UTime", **SMALL_UTIME, **FAST).fit(*pair)
    save(stager, path)
    load(path)
    return about(path)


def refused(path, said, **changes):
    """Load a forged file, which is refused, and return the words."""
    rewrite(path, **{**said, **changes})
    with pytest.raises(ValueError, match=path.name) as caught:
        load(path)
    return str(caught.value)


NETWORKS = [
    *("os.system", "Module", "Sequential", "EEGModuleMixin", "__builtins__", "nn", ""),
    *("tests.tiny.TinyNetwork", "skleepkd.networks.UTime", 3, None, ["UTime"], "REVE"),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_found_among_ours_and_braindecodes(path, said, name):
    for given in ("name", "class", "own", "other"):
        refused(path, said, network={**said["network"], "name": name, "given": given})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("module", "USleep"),
        ("checkpoint", "/tmp/elsewhere"),
        ("_params_to_validate", []),
        ("unheard", 1),
        ("unheard__of", 1),
        ("optimizer", "SGD"),
        ("criterion", "os.system"),
        ("iterator_train", "os.system"),
        ("dataset", "os.system"),
        ("train_split", "os.system"),
        ("predict_nonlinearity", "os.system"),
        ("torch_load_kwargs", {"dict": [["weights_only", False]]}),
        ("compile__backend", "os.system"),
        ("compile__options", {"dict": [["cpp.cxx", {"tuple": ["touch"]}]]}),
        ("iterator_valid__num_workers", 10**6),
        ("compile", [1]),
        ("autocast", "x"),
        ("batch_size", None),
        ("device", 3),
        ("device", None),
        ("sequence_length", 0),
        ("sequence_length", 10**9),
        ("sequence_length", "3"),
        ("fusion", "x"),
        ("optimizer__betas", "x"),
        ("callbacks", "x"),
    ],
)
def test_parameters_that_name_code_or_make_no_sense(path, said, name, value):
    refused(path, said, parameters={**said["parameters"], name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"filters": {"tuple": [10**9, 4, 8]}},
        {"filters": {"tuple": [9999, 9999, 9999]}},
        {"pools": {"tuple": [3, 10**12]}},
        {"kernel_size": 10**9},
        {"dilation": -1},
        {"filters": 3},
        {"filters": {"tuple": ["a", "b", "c"]}},
        {"unheard": 1},
        {"n_chans": 10**5},
        {"n_outputs": 10**5},
    ],
)
def test_networks_that_the_weights_do_not_fill(path, said, options):
    network = said["network"]
    network = {**network, "options": {**network["options"], **options}}
    refused(path, said, network=network)


def test_many_parts_are_not_built(path, said):
    # A transformer has some 50,000 weights a channel.
    network = {**said["network"], "name": "EpochCrossModalTransformer"}
    network["options"] = {"n_chans": 10**4, "n_times": 60}
    message = refused(path, said, network=network)
    assert "The network has more than" in message
    # Nothing stays of the count.
    assert TinyNetwork(2, 60, 5)


CLASSES = {"array": ["<i8", [0, 1, 2, 3, 4]]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes_inferred_", {"array": ["<i8", [0, 1, 2, 3]]}),
        ("classes_inferred_", {"array": ["<i8", [0, 1, 2, 3, 3]]}),
        ("classes_inferred_", {"array": ["<i8", [CLASSES["array"][1]]]}),
        ("classes_inferred_", [0, 1, 2, 3, 4]),
        ("classes_inferred_", {"array": ["O", [0, 1, 2, 3, 4]]}),
        ("classes_inferred_", {"array": ["<U99999999", ["a", "b", "c", "d", "e"]]}),
        ("classes_inferred_", {"array": ["V10000000000", []]}),
        ("class_weight_", {"array": ["<f4", [1.0]]}),
        ("class_weight_", "balanced"),
        ("signal_", {"dict": [["n_chans", 2]]}),
        ("signal_", {"dict": []}),
        ("signal_", 3),
        ("epoch_shape_", {"tuple": [2]}),
        ("epoch_shape_", {"tuple": [2, 60, 10**12]}),
        ("epoch_shape_", {"tuple": [3, 60]}),
        ("epoch_shape_", {"tuple": [2, 60.0]}),
        ("ch_names_", ["a"]),
        ("ch_names_", [1, 2]),
        ("ch_names_", "ab"),
        ("held_out_", 3),
        ("best_epoch_", "x"),
    ],
)
def test_what_was_learned_fits_together(path, said, name, value):
    refused(path, said, fitted={**said["fitted"], name: value})


def test_values_are_of_known_kinds(path, said):
    for odd in (
        *({}, {"a": 1, "b": 2}, {"other": []}, {"tuple": 3}, {"array": 3}, {"array": []}),
        *({"float": "1e9"}, {"float": []}, {"dict": [[[], 1]]}, {"dict": [[1]]}),
        *({"dict": {"a": 1}}, {"tuple": "ab"}, {"array": ["<f8", "abc"]}),
        {"array": ["<i8,<f8", [[1, 2]]]},
    ):
        refused(path, said, fitted_on={**said["fitted_on"], "subject": odd})
        refused(path, said, parameters={**said["parameters"], "lr": odd})


@pytest.mark.parametrize(
    "part",
    [
        *("fitted", "fitted_on", "history", "network", "parameters", "stager", "versions"),
        *("format", "version"),
    ],
)
def test_parts_that_are_missing_or_something_else(path, said, part):
    without = {name: value for name, value in said.items() if name != part}
    forge(path, without, safetensors.torch.load(path.read_bytes()))
    with pytest.raises(ValueError, match=path.name):
        load(path)
    for value in (None, 3, "x", [], [[]], {}, {"x": None}, True):
        if part == "version" or (part == "stager" and value == "x"):
            continue  # text that is shown
        if part in ("history", "versions") and value in ([], {}):
            continue  # of nothing there is nothing to tell
        refused(path, said, **{part: value})


def test_json_that_is_deep_or_none(path, said):
    tensors = safetensors.torch.load(path.read_bytes())
    deep = json.loads("[" * 400 + "]" * 400)
    refused(path, said, history=deep)
    refused(path, said, parameters={**said["parameters"], "classes": deep})
    forge(path, {**said, "history": [{"train_loss": float("nan")}]}, tensors)
    with pytest.raises(ValueError, match=path.name):  # NaN is no JSON
        load(path)
    forge(path, {**said, "format": "2"}, tensors)
    with pytest.raises(ValueError, match="no known format"):
        load(path)


def test_weights_of_other_names_shapes_and_kinds(path, said):
    tensors = safetensors.torch.load(path.read_bytes())
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    for odd in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, "other.weight": torch.zeros(2)},
        {**tensors, name: torch.zeros(1)},
        {**tensors, name: tensors[name].to(torch.int8)},
        {**tensors, name: tensors[name].to(torch.float8_e4m3fn)},
        {},
    ):
        forge(path, said, odd)
        with pytest.raises(ValueError, match=path.name):
            load(path)


def test_names_of_people_may_be_taken_out(path, pair):
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
