"""Pairs in folders: a memory map for each modality, and a table of their rows.

``pair.json`` names the other files and is put in place last. A folder that was left
half-written has none, or still the one of the pair that lay there before.
"""

import json
import os
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from skleepkd.epochs.rows import join, map_new

_ABOUT = "pair.json"
_PREFIXES = ("target-", "source-", "rows-")


def write_folder(folder, signals, columns, about):
    """Write a pair into a folder; one that lies there, perhaps mapped now, is replaced."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tag = uuid.uuid4().hex[:8]
    files = {modality: f"{modality}-{tag}.npy" for modality in signals}
    files["rows"] = f"rows-{tag}.npz"
    new = folder / f"{_ABOUT}-{tag}"
    try:
        for modality, parts in signals.items():
            path = folder / files[modality]
            join(parts, partial(map_new, path)).flush()
        known = {name: column for name, column in columns.items() if column is not None}
        np.savez(folder / files["rows"], **known)
        new.write_text(json.dumps({"files": files, **about}))
        os.replace(new, folder / _ABOUT)
    except BaseException:
        for name in (*files.values(), new.name):
            (folder / name).unlink(missing_ok=True)
        raise
    # What lay there before, or was left half-written; open maps keep what they map.
    for path in folder.glob("*-????????.np?"):
        if path.stem.startswith(_PREFIXES) and path.name not in files.values():
            with suppress(OSError):
                path.unlink()


def open_folder(folder):
    """Return the arguments of PairedEpochs for the pair in a folder; signals are mapped, not read."""
    folder = Path(folder)
    if not (folder / _ABOUT).is_file():
        raise FileNotFoundError(
            f"{folder} holds no complete pair ({_ABOUT} is missing). Write it with "
            "PairedEpochs.to_memmap."
        )
    try:
        about = json.loads((folder / _ABOUT).read_text())
        files = about.pop("files")
        with np.load(folder / files.pop("rows"), allow_pickle=False) as rows:
            columns = {name: rows[name] for name in rows.files}
        arrays = {
            modality: np.load(folder / file, mmap_mode="r")
            for modality, file in files.items()
        }
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # JSON, zipfile and NumPy raise many kinds on damaged files
        raise ValueError(
            f"The pair in {folder} is damaged ({error}). Write it anew."
        ) from error
    return {**arrays, **columns, **about}
