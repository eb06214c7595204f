"""Damage to files: bytes flipped, cut and moved; code named in the place of good values."""

import hashlib
import json
import os
import pickle
import re
import struct

#: What four or eight bytes of a binary file may become.
ODD_INTEGERS = (0, 1, 7, 8, 127, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def damage(data, other, rng):
    """Damage bytes one to three times; ``other`` is a file to take pieces of."""
    for _ in range(rng.integers(1, 4)):
        data = _DAMAGES[rng.integers(len(_DAMAGES))](bytearray(data), other, rng)
    return bytes(data)


def _place(data, rng, width=1):
    """Choose a place, half the time near the beginning, where headers are."""
    last = max(1, len(data) - width + 1)
    if rng.random() < 0.5:
        last = min(last, 1024)
    return int(rng.integers(last))


def _run(data, rng):
    start = _place(data, rng)
    return slice(start, start + int(rng.choice([1, 2, 4, 8, 16, 80, 256, 4096])))


def flip_bits(data, other, rng):
    for _ in range(rng.integers(1, 9) if data else 0):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def overwrite(data, other, rng):
    run = _run(data, rng)
    n_bytes = len(data[run])
    fills = (bytes(n_bytes), b"\xff" * n_bytes, b" " * n_bytes, rng.bytes(n_bytes))
    data[run] = fills[rng.integers(len(fills))]
    return data


def delete(data, other, rng):
    del data[_run(data, rng)]
    return data


def insert(data, other, rng):
    start = _place(data, rng)
    data[start:start] = rng.bytes(int(rng.choice([1, 2, 8, 80, 256])))
    return data


def repeat(data, other, rng):
    run = _run(data, rng)
    data[run] = data[run] * int(rng.choice([2, 3, 50]))
    return data


def truncate(data, other, rng):
    return data[: _place(data, rng)]


def extend(data, other, rng):
    tails = (bytes(1), bytes(5000), rng.bytes(777), bytes(data), b"\n", b"\x1a")
    return data + tails[rng.integers(len(tails))]


def splice(data, other, rng):
    """Begin as one file and go on as another."""
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def swap(data, other, rng):
    first, second = sorted((_place(data, rng), _place(data, rng)))
    width = min(second - first, 64)
    one, two = slice(first, first + width), slice(second, second + width)
    data[one], data[two] = data[two], data[one]
    return data


def odd_integer(data, other, rng):
    start = _place(data, rng, 8) // 4 * 4
    kind = ("<I", ">I", "<Q", "<H")[rng.integers(4)]
    value = ODD_INTEGERS[rng.integers(len(ODD_INTEGERS))] % 2 ** (8 * struct.calcsize(kind))
    data[start : start + struct.calcsize(kind)] = struct.pack(kind, value)
    return data


_DAMAGES = (
    *(flip_bits, overwrite, delete, insert, repeat, truncate, extend, splice, swap),
    odd_integer,
)


# ---------------------------------------------------------------- code

#: Written by code that no reader should run.
CANARY = "canary-of-the-fuzzer"


class Canary:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


CANARIES = [pickle.dumps(Canary(), protocol) for protocol in (0, 2, 4)]

# ---------------------------------------------------------------- EDF


def forge_edf(data, other, rng):
    """Damage a file's bytes, or its annotations, which lie behind the header."""
    if b"\x14" not in data or rng.random() < 0.4:
        return damage(data, other, rng)
    for _ in range(rng.integers(1, 4)):
        data = _odd_annotation(bytearray(data), rng)
    return bytes(data)


def _odd_annotation(data, rng):
    """Replace a number, a mark or a text of the annotations; the length stays."""
    start = 256 * (int(rng.integers(2)) + 1)
    found = list(re.finditer(rb"[+-][\d.]+|[\x14\x15\x00]|[A-Za-z?]{2,}", data[start:]))
    if not found:
        return data
    span = found[rng.integers(len(found))].span()
    values = ["+1e309", "+", "-5", "+nan", "+99999999999", "+0"]
    values += ["\x14", "\x15", "\x00", "é"]
    value = values[rng.integers(len(values))].encode("latin-1")
    first, stop = start + span[0], start + span[1]
    tail = data[stop:]
    data[first:] = (value + tail).ljust(len(data) - first, b"\0")[: len(data) - first]
    return data


# ---------------------------------------------------------------- models

_DIGEST = re.compile(rb'\\"sha256\\":\\"[0-9a-f]{64}\\"')

_CODE = (
    *("os.system", "builtins.eval", "eval", "subprocess.Popen", "torch.load", "__class__"),
    *("SGD", "Sequential", "Module", "nn", "StandardScaler", "REVE", "apply_function"),
    *("tests.fuzz.damage.Canary", "save", "../../x", "/etc/hostname", "checkpoint"),
)


def holders(value):
    """List what holds each value in a JSON document, and the value's key there."""
    if isinstance(value, dict):
        pairs = value.items()
    else:
        pairs = enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in pairs:
        found += [(value, key), *holders(inner)]
    return found


def name_code(document, rng):
    """Put names of code and of files in the place of some texts and entries, in place."""
    for _ in range(rng.integers(1, 4)):
        named = [
            (h, key) for h, key in holders(document) if isinstance(h[key], (str, dict))
        ]
        holder, key = named[rng.integers(len(named))]
        code = _CODE[rng.integers(len(_CODE))]
        holder[key] = code if rng.random() < 0.6 else {"named": code}
    return document


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


FORGES = {"edf": forge_edf, "model": forge_model, "plain": damage}
