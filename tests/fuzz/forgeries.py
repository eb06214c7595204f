"""Forgeries: files of the right format with odd content."""

import copy
import hashlib
import json
import os
import pickle
import re
import struct

import numpy as np

from tests.fuzz.mutations import ODD_NUMBERS, ODD_TEXTS, damage

#: Written by code that no reader should run.
CANARY = "canary-of-the-fuzzer"


class Canary:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


CANARIES = [pickle.dumps(Canary(), protocol) for protocol in (0, 2, 4)]

# ---------------------------------------------------------------- EDF

_FIXED = (8, 80, 80, 8, 8, 8, 44, 8, 8, 4)
_PER_CHANNEL = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


def forge_edf(data, other, rng):
    """Write odd values into the fields of an EDF's header, or into its annotations."""
    if rng.random() < 0.3:
        return damage(data, other, rng)
    data, n_channels = bytearray(data), int(data[252:256])
    for _ in range(rng.integers(1, 4)):
        if b"\x14" in data[256 * (n_channels + 1) :] and rng.random() < 0.6:
            data = _odd_annotation(data, rng)
            continue
        widths = [*_FIXED, *(w for w in _PER_CHANNEL for _ in range(n_channels))]
        ends = np.cumsum(widths)
        # Numbers of records, channels and samples are what a reader trusts most.
        first_samples = len(_FIXED) + 8 * n_channels
        trusted = [5, 7, 8, 9, *range(first_samples, first_samples + n_channels)]
        favoured = rng.random() < 0.5
        field = int(rng.choice(trusted if favoured else np.arange(len(widths))))
        odd = ODD_NUMBERS if favoured or rng.random() < 0.7 else ODD_TEXTS
        value = odd[rng.integers(len(odd))].encode("latin-1", "replace")
        stop = int(ends[field])
        data[stop - widths[field] : stop] = value[: widths[field]].ljust(widths[field])
    return bytes(data)


def _odd_annotation(data, rng):
    """Replace a number, a mark or a text of the annotations; the length stays."""
    start = 256 * (int(rng.integers(2)) + 1)
    found = list(re.finditer(rb"[+-][\d.]+|[\x14\x15\x00]|[A-Za-z?]{2,}", data[start:]))
    if not found:
        return data
    span = found[rng.integers(len(found))].span()
    values = [
        "+1e309",
        "+",
        "-5",
        "+nan",
        "+99999999999",
        "\x14",
        "\x15",
        "\x00",
        "+0",
        "é",
    ]
    value = values[rng.integers(len(values))].encode("latin-1")
    first, stop = start + span[0], start + span[1]
    tail = data[stop:]
    data[first:] = (value + tail).ljust(len(data) - first, b"\0")[: len(data) - first]
    return data


# ---------------------------------------------------------------- EEGLAB


# ---------------------------------------------------------------- JSON

_ODD_VALUES = (
    *(None, True, 0, -1, 1, 2, 3, 7, 1000, 10**6, 10**9, 2**63, -(2**63), 10**30, 0.5),
    *(-0.0, 1e308, float("nan"), float("inf"), "", "x", "1", [], [[]], [0], {}, [None]),
    *({"float": "nan"}, {"float": "x"}, {"tuple": [1]}, {"tuple": 3}, {"dict": [[1]]}),
    *({"array": ["<f8", [1, 2]]}, {"array": ["|O", [1]]}, {"array": ["<U9", ["a"]]}),
    *({"array": ["<f8", "abc"]}, {"array": 3}, {"other": 1}, {"dict": [[[], 1]]}),
    *({"array": ["<i8,<f8", [[1, 2]]]}, {"array": [["a", "b"], 2]}, {"a": 1, "b": 2}),
    *("os.system", "builtins.eval", "subprocess.Popen", "torch.load", "__class__"),
    *("SGD", "Sequential", "Module", "EEGNet", "UTime", "USleep", "cuda:7", "meta", "own"),
    *("tests.fuzz.forgeries.Canary", "../../x", "/etc/hostname", "auto", "product"),
)


def places(value, here=()):
    """List the paths of all values in a JSON document."""
    found = [here]
    if isinstance(value, dict):
        pairs = value.items()
    else:
        pairs = enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += places(inner, (*here, key))
    return found


def forge_json(document, rng):
    """Change, drop, copy or rename some values of a JSON document, in place."""
    for _ in range(rng.integers(1, 4)):
        paths = places(document)[1:]
        if not paths:
            return document
        path = paths[rng.integers(len(paths))]
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        kind, key = rng.random(), path[-1]
        odd = copy.deepcopy(_ODD_VALUES[rng.integers(len(_ODD_VALUES))])
        if kind < 0.12:
            del holder[key]
        elif kind < 0.2 and isinstance(holder, dict):
            name = ODD_TEXTS[rng.integers(len(ODD_TEXTS))]
            holder[name] = holder.pop(key)
        elif kind < 0.24 and isinstance(holder, dict):
            name = ("callbacks", "optimizer", "module", "module__x", "checkpoint", "lr")
            holder[name[rng.integers(len(name))]] = odd
        elif kind < 0.27:
            holder[key] = json.loads("[" * 400 + "]" * 400)
        elif isinstance(holder[key], int) and kind < 0.6:
            holder[key] = int(rng.choice([0, -1, 1, 2, 3, 1000, 10**6, 2**31, 2**62]))
        else:
            holder[key] = odd
    return document


def forge_json_file(data, other, rng):
    kind = rng.random()
    if kind < 0.3:
        return damage(data, other, rng)
    if kind < 0.34:
        return b"[" * 200_000
    if kind < 0.37:
        return data.replace(b":", b":" + b"9" * 5000, 1)
    return json.dumps(forge_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- models

_DIGEST = re.compile(rb'\\"sha256\\":\\"[0-9a-f]{64}\\"')

_CODE = (
    *("os.system", "builtins.eval", "eval", "subprocess.Popen", "torch.load", "__class__"),
    *("SGD", "Sequential", "Module", "nn", "StandardScaler", "REVE", "apply_function"),
    *("tests.fuzz.forgeries.Canary", "save", "../../x", "/etc/hostname", "checkpoint"),
)


def name_code(document, rng):
    """Put names of code and of files in the place of some texts and entries, in place."""
    for _ in range(rng.integers(1, 4)):
        texts = [path for path in places(document)[1:] if _is_name(document, path)]
        path = texts[rng.integers(len(texts))]
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        code = _CODE[rng.integers(len(_CODE))]
        holder[path[-1]] = code if rng.random() < 0.6 else {"named": code}
    return document


def _is_name(document, path):
    """Whether a text, or an object of one entry, stands at a path."""
    for key in path:
        document = document[key]
    return isinstance(document, (str, dict))


def forge_model(data, other, rng):
    """Name code in a model file, with a digest that fits, or damage its bytes."""
    kind = rng.random()
    if kind < 0.3:
        return damage(data, other, rng)
    if kind < 0.35:
        return CANARIES[rng.integers(len(CANARIES))] + data[: rng.integers(100)]
    length = struct.unpack("<Q", data[:8])[0]
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__")
    if kind < 0.45:
        tensors = damage(tensors, other, rng)
    else:
        about = json.loads(metadata["skleepkd"])
        digest = about.pop("sha256")
        about = {"sha256": digest, **name_code(about, rng)}
        metadata["skleepkd"] = json.dumps(about, separators=(",", ":"))
    if rng.random() < 0.05:
        metadata["pickle"] = CANARIES[0].decode("latin-1")
    # The entry of the digest stands first, as the reader wants it.
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"))
    text = text.encode("utf-8", "replace")
    return sign(struct.pack("<Q", len(text)) + text + tensors)


def sign(data):
    """Put the digest into a model file that a reader will compute of it."""
    found = _DIGEST.search(data)
    if not found:
        return data
    start, stop = found.end() - 66, found.end() - 2
    digest = hashlib.sha256(data[:start] + b"0" * 64 + data[stop:]).hexdigest()
    return data[:start] + digest.encode() + data[stop:]


# ---------------------------------------------------------------- arrays


def forge_npy(data, other, rng):
    """Write an odd header before an array's values."""
    if rng.random() < 0.5:
        return damage(data, other, rng)
    values = (
        ("'descr': '|O'", "'fortran_order': True", "'shape': (-1, 2)", "'shape': ()")
        + ("'shape': (9999999999, 2, 60)", "'descr': '<f9'", "'descr': [('a', '<f4')]")
        + ("'shape': (1e3,)", "'shape': __import__('os')", "'descr': '<f4', 'x': 1")
    )
    value = values[rng.integers(len(values))]
    name = value.partition(":")[0]
    stop = 10 + struct.unpack("<H", data[8:10])[0]
    header = data[10:stop].decode("latin-1")
    header = re.sub(name + r": (\(.*?\)|'.*?'|\w+)", lambda _: value, header)
    return data[:8] + struct.pack("<H", len(header)) + header.encode() + data[stop:]
