"""Keys under which results are kept, equal in every process, and files that stay whole."""

import inspect
import os
import pickle
import uuid
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from joblib.hashing import NumpyHasher
from sklearn.utils.validation import check_memory
from skorch import NeuralNet
from skorch.callbacks import Callback

from skleepkd.epochs import PairedEpochs

#: Parameters of stagers that change nothing of what a training results in.
_WITHOUT_EFFECT = {"checkpoint", "memory", "verbose"}

_LIBRARIES = ("skleepkd", "torch", "scikit-learn", "skorch", "numpy")


def key_of(*things):
    """Digest what a result depends on, the versions of the libraries included."""
    try:
        return _Hasher("sha1", coerce_mmap=True).hash((_versions(), things))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "Results are kept by what they depend on, and a part of that cannot be pickled: "
            f"define it in a module, not as a lambda or inside a function. {error.args[0]}"
        ) from error


@cache
def _versions():
    return [version(name) for name in _LIBRARIES]


def open_memory(memory):
    """Return the joblib.Memory of a folder, or of None, or itself."""
    return check_memory(os.fspath(memory) if isinstance(memory, os.PathLike) else memory)


class _Hasher(NumpyHasher):
    """joblib's hasher, by what a pair, a stager or a function does and not by its pickle."""

    def save(self, obj):
        if isinstance(obj, torch.Tensor):
            values = obj.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            obj = (torch.Tensor, str(obj.dtype), tuple(obj.shape), values.numpy())
        elif isinstance(obj, PairedEpochs):
            names = ("target", "source") if obj.has_source else ("target",)
            signals = [obj.fingerprint(name) for name in names]
            columns = (obj.subject, obj.recording, obj.onset)
            obj = (PairedEpochs, signals, columns, obj.sfreq, obj.ch_names)
        elif isinstance(obj, NeuralNet):
            weights = obj.module_.state_dict() if obj.initialized_ else None
            # Private parameters are notes of scikit-learn on who is fitting.
            params = {
                name: value
                for name, value in obj.get_params(deep=False).items()
                if name not in _WITHOUT_EFFECT and not name.startswith("_")
            }
            learned = [getattr(obj, name, None) for name in ("classes_", "calibration_")]
            obj = (type(obj), params, weights, learned)
        elif isinstance(obj, Callback):
            obj = (type(obj), obj.get_params(deep=False))
        elif inspect.isclass(obj) or inspect.isfunction(obj):
            super().save(source_of(obj))
        super().save(obj)


@lru_cache
def source_of(thing):
    """Return the source of a class or a function; None where there is none."""
    try:
        return inspect.getsource(thing)
    except (TypeError, OSError):  # built in, or typed at a prompt
        return None


def replace_file(path, *parts):
    """Write bytes to a file so that what has its name is always whole; errors name it."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        # A full disk does not say what it was full for, others name the part.
        error.filename = str(path if path.parent.is_dir() else path.parent)
        del error.filename2
        raise
    finally:
        part.unlink(missing_ok=True)
