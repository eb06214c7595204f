"""Values as JSON, and safetensors files that hold the digest of themselves."""

import hashlib
import json
import math
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from skleepkd.memory import replace_file

#: Where the digest of a file stands: first in our entry of the safetensors metadata.
_DIGEST = re.compile(rb'"skleepkd":"\{\\"sha256\\":\\"([0-9a-f]{64})\\"')

#: What stands there while the file is digested.
_NO_DIGEST = "0" * 64

#: Types of the arrays that a file may hold: numbers, text and lists of JSON values.
_DTYPES = re.compile(r"[<>|](b1|[iu][1248]|f[248]|U[0-9]{1,4}|O)")


# ---------------------------------------------------------------- values as JSON


def to_json(value):
    """Write a value as JSON; what JSON has no word for becomes an object of one entry.

    Parameters
    ----------
    value : object
        None, a bool, number, text, device or array, or a list, tuple or dict of them.

    Returns
    -------
    object
        For :func:`json.dumps`.

    Raises
    ------
    TypeError
        If it is, or holds, anything else.
    """
    if isinstance(value, np.ndarray):
        if not _DTYPES.fullmatch(value.dtype.str):
            raise TypeError(f"JSON cannot hold an array of {value.dtype}.")
        return {"array": [value.dtype.str, to_json(value.tolist())]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [to_json(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    raise TypeError(f"JSON cannot hold {value!r}.")


def from_json(value):
    """Read what :func:`to_json` wrote.

    Parameters
    ----------
    value : object
        Of :func:`json.loads`.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is not as :func:`to_json` writes it.
    TypeError
        If a key of a dict is a list or a dict.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if not isinstance(content, list):
        raise ValueError(f"{kind!r} holds {content!r}, not a list.")
    if kind == "array":
        return _array(*content)
    if kind == "tuple":
        return tuple(from_json(item) for item in content)
    if kind == "dict":
        return {from_json(key): from_json(item) for key, item in content}
    raise ValueError(f"There is no kind of value called {kind!r}.")


def _array(dtype, items):
    if not _DTYPES.fullmatch(dtype):
        raise ValueError(f"Arrays of {dtype!r} are not read.")
    return np.array(from_json(items), dtype=dtype)


def fits_json(value):
    """Whether :func:`to_json` can write a value."""
    try:
        to_json(value)
    except TypeError:
        return False
    return True


# ---------------------------------------------------------------- files


@contextmanager
def refusing(path):
    """Turn what reading a malformed file raises in the block into a ValueError.

    Parameters
    ----------
    path : path-like
        The file, for the message.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        NotImplementedError,
        RecursionError,
        RuntimeError,
        TypeError,
        UnicodeError,
        ValueError,
    ) as error:
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is not as skleepkd.save writes it. {said}") from error


def write_checked(path, about, tensors):
    """Write a safetensors file that holds its own digest.

    Parameters
    ----------
    path : path-like
        The file; what was there before is replaced at once, or stays.
    about : dict
        What it says, for JSON; its digest comes first.
    tensors : dict of str to torch.Tensor
        Weights.
    """
    about = {"sha256": _NO_DIGEST, **about}
    tensors = {
        # A copy, since safetensors refuses tensors that share their memory.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    about = json.dumps(about, separators=(",", ":"), allow_nan=False)
    data = safetensors.torch.save(tensors, {"skleepkd": about})
    start, stop = _DIGEST.search(data).span(1)
    digest = hashlib.sha256(data).hexdigest().encode()
    replace_file(path, data[:start] + digest + data[stop:])


def read_checked(path, latest):
    """Read a file that :func:`write_checked` wrote, and check its digest and format.

    Parameters
    ----------
    path : path-like
        The file.
    latest : int
        The latest format that is read.

    Returns
    -------
    about : dict
    tensors : dict of str to torch.Tensor

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, is none of ours or is of a later format.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        error.strerror = "skleepkd.load found no file"
        error.filename = str(Path(path).absolute())
        raise
    found = _DIGEST.search(data)
    if not found:
        raise ValueError(f"{path} is no file that skleepkd.save wrote, or is damaged.")
    start, stop = found.span(1)
    digest = hashlib.sha256(data[:start])
    digest.update(_NO_DIGEST.encode())
    digest.update(data[stop:])
    if digest.hexdigest().encode() != found[1]:
        raise ValueError(f"{path} is damaged: its digest is not the one that it holds.")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["skleepkd"], parse_constant=_no_json)
        tensors = safetensors.torch.load(data)
        written_as = about["format"], about["version"]
    except (
        safetensors.SafetensorError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{path} cannot be read as safetensors. {error}") from error
    if type(written_as[0]) is not int or written_as[0] < 1:
        raise ValueError(f"{path} is of no known format: {written_as[0]!r}.")
    if written_as[0] > latest:
        raise ValueError(
            f"{path} is of format {written_as[0]}, written by skleepkd {written_as[1]}; "
            f"this version reads formats up to {latest}. Install a newer one."
        )
    return about, tensors


def _no_json(constant):
    raise ValueError(f"{constant} is no JSON.")
