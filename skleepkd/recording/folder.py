"""Many recordings staged into one folder, each of them once."""

import hashlib
import io
import json
import os
import re
import warnings
from contextlib import suppress
from glob import escape
from itertools import chain, count
from pathlib import Path

import pandas as pd
from sklearn.exceptions import NotFittedError
from tqdm import tqdm

from skleepkd import edf
from skleepkd.memory import key_of, replace_file
from skleepkd.warn import warn

#: Endings by which files in a folder are taken for recordings.
ENDINGS = (
    *(".edf", ".bdf", ".gdf", ".vhdr", ".ahdr", ".set", ".fif", ".fif.gz", ".cnt", ".mff"),
)
#: What a night that is done was made from, kept beside the outputs.
_RECORDS = ".skleepkd"


def stage_folder(self, recordings, output, *, start=None, on_missing="raise", picture=True):
    """Stage many recordings, and write what was found into a folder.

    Of each recording it holds ``NAME_events.tsv`` and ``NAME_events.json``, as
    :meth:`skleepkd.hypnogram.Hypnogram.to_events` writes them, and ``NAME_hypnogram.png``;
    ``summary.csv`` has a row for each. A night that cannot be staged is passed over, and told
    at the end. Called again it goes on: what is there, of the same file and the same stager, is
    not staged again; what was left half-written, or was made from another file or by another
    stager, is. An output that was changed since is kept beside the new one, as ``NAME.old``.

    Parameters
    ----------
    recordings : path-like or list of path-like
        Files, as :meth:`stage` takes them, or folders, which are searched with all that is in
        them, but not through links to folders, for files with the endings of recordings (EDF,
        BDF, GDF, BrainVision, EEGLAB, FIF, CNT, MFF). In folders hidden files, EDF+ files that
        hold annotations alone, and the further files of a recording are left out.
    output : path-like
        The folder, made where it does not exist.
    start, on_missing
        As for :meth:`stage`, the same for all.
    picture : bool, default=True
        Whether hypnograms are drawn, which needs matplotlib.

    Returns
    -------
    pandas.DataFrame
        What ``summary.csv`` holds: by ``name`` (the file's, with its folder's where two are
        called alike) the ``file``, in ``error`` why it was not staged, the ``model`` (the
        beginning of a digest of stager and options), the ``channels``, those that were
        ``missing``, ``n_epochs``, ``n_artefacts``, the mean ``confidence``, the
        :meth:`~skleepkd.hypnogram.Hypnogram.statistics` (of stages that belong to a scheme)
        and the ``warnings``. Nights that were staged by earlier calls stay in it.

    Raises
    ------
    FileNotFoundError
        If a file is not there, or there is no recording in a folder.
    ImportError
        If pictures are wanted and matplotlib is not installed.
    ValueError
        If the stages have no names, or something of the stager cannot be told apart.
    OSError
        If the outputs cannot be written.
    sklearn.exceptions.NotFittedError
        If the stager is not fitted.

    Warns
    -----
    UserWarning
        Of each night what :meth:`stage` warns of, with its name; of an output that was changed
        since it was written; at the end which nights were not staged, and why.

    Examples
    --------
    >>> from skleepkd import load
    >>> stager = load("ear.safetensors")  # doctest: +SKIP
    >>> summary = stager.stage_folder("nights", "staged")  # doctest: +SKIP
    >>> summary[["TST", "SE", "confidence", "n_artefacts", "error"]]  # doctest: +SKIP
    """
    self._check(start, on_missing)
    if picture:
        _check_matplotlib()
    output = Path(os.path.abspath(output))
    files = find_recordings(recordings)
    (output / _RECORDS).mkdir(parents=True, exist_ok=True)
    options = {"start": start, "on_missing": on_missing}
    model = key_of(self, options)
    names = name_files(files, _read_all(output))
    failed = {}
    try:
        for name, file in tqdm(names.items(), unit="night", disable=None):
            states = _states(file)
            key = key_of(model, states)
            outputs = [f"{name}_events.tsv", f"{name}_events.json"]
            outputs += [f"{name}_hypnogram.png"] if picture else []
            record = _read(output / _RECORDS / f"{name}.json")
            if _is_done(record, key, outputs, output):
                if record["row"]["file"] != str(file):  # moved
                    record["row"]["file"] = str(file)
                    _write(output, name, record)
                continue
            reason = _foreign(record, file, outputs, output)
            if reason is None:
                _clear(output, name, record.get("outputs", {}))
                about = {"name": name, "file": str(file), "error": None, "model": model[:8]}
                record = {"row": about, "states": states}
                _write(output, name, record)
                night, notes, reason = _stage(self, file, name, options)
                if reason is not None:  # what comes to lie there is another's
                    (output / _RECORDS / f"{name}.json").unlink()
            if reason is not None:
                failed[name] = {"name": name, "file": str(file), "error": reason}
                continue
            night.to_events(output / outputs[0])
            if picture:
                _draw(night, name, output / outputs[2])
            row = {**about, **_row(night), "warnings": notes}
            digests = {part: _digest(output / part) for part in outputs}
            record |= {"key": key, "outputs": digests, "row": row}
            _write(output, name, record)
    finally:
        summary = _summarise(failed, output)
    if failed:
        reasons = "; ".join(
            row["error"]
            if row["file"] in row["error"]
            else f"{row['file']}: {row['error']}"
            for row in failed.values()
        )
        warn(f"{len(failed)} of {len(files)} nights were not staged. {reasons}")
    return summary


def find_recordings(given):
    """List the files that are given, and the recordings of folders that are."""
    found = []
    for path in [given] if isinstance(given, str | os.PathLike) else given:
        path = Path(os.path.abspath(path))
        if not path.exists():
            raise FileNotFoundError(f"There is no recording {path}.")
        if path.is_dir() and path.suffix != ".mff":
            found += [p for p in sorted(path.rglob("*")) if _is_recording(p, path)]
        else:
            found.append(path)
    if not found:
        raise FileNotFoundError(
            f"There is no recording in {given}: no file there ends in {', '.join(ENDINGS)}."
        )
    return list(dict.fromkeys(found))


def _is_recording(path, folder):
    name, parts = path.name.lower(), path.relative_to(folder).parts
    if not name.endswith(ENDINGS) or any(part.startswith(".") for part in parts):
        return False
    if path.is_dir() != name.endswith(".mff") or _is_further_file(path):
        return False
    try:
        return edf.holds_signals(path)
    except OSError:  # told when it is staged
        return True


def _is_further_file(path):
    """Whether MNE reads this file, of a long recording, with the first one."""
    from mne.io import read_raw_fif

    ways = {r"-\d+(?=\.fif)": "", r"(?<=_split-)\d+(?=_.*\.fif)": "01"}
    for first in {re.sub(*way, path.name) for way in ways.items()} - {path.name}:
        with suppress(Exception):  # there is none, or it is damaged, and told so by itself
            if path in map(Path, read_raw_fif(path.with_name(first), verbose=40).filenames):
                return True
    return False


def name_files(files, records):
    """Name the outputs of each file: as before, or as those of no other file."""
    found, before = {}, {r.get("row", {}).get("file"): name for name, r in records.items()}
    for file in files:
        stem = file.name.removesuffix(".gz").rpartition(".")[0] or file.name
        parts = [*file.parts[1:-1], stem]
        choices = ["_".join(parts[-k:]) for k in range(1, len(parts) + 1)]
        choices.insert(0, before.get(str(file), choices[0]))
        for name in chain(choices, (f"{stem}_{k}" for k in count(2))):
            free = name not in records or _is_of(records[name], file)
            if free and name not in found:
                found[name] = file
                break
    return found


def _is_of(record, file):
    """Whether a record is of this file, which may have been moved."""
    before = record.get("row", {}).get("file")
    moved = before is not None and not Path(before).exists()
    return before == str(file) or (moved and record.get("states") == _states(file))


def _states(file):
    """Tell the sizes and times of a recording's files, of which some formats have several."""
    parts = (f"{escape(file.stem)}.*", f"{escape(file.stem)}-*.fif*")
    files = sorted({file, *chain.from_iterable(map(file.parent.glob, parts))})
    found = ((part.name, part.stat()) for part in files if part.exists())  # a link may not
    return [[name, about.st_size, about.st_mtime_ns] for name, about in found]


def _is_done(record, key, outputs, output):
    """Whether a night's outputs are whole, and made from this file by this stager."""
    digests = record.get("outputs", {})
    return record.get("key") == key and all(
        part in digests and _digest(output / part) == digests[part] for part in outputs
    )


def _foreign(record, file, outputs, output):
    """Say which file of another origin, a scoring perhaps, stands where one would be written."""
    if record and not _is_of(record, file):
        return "Another run has just taken its name. Call this one again."
    there = [part for part in outputs if not record and (output / part).exists()]
    if there:
        return (
            f"{output / there[0]} is there already, and was not written by stage_folder. Move "
            "it away, or choose another output."
        )
    return None


def _clear(output, name, digests):
    """Remove what was made of a night before, so that no old result stands for it."""
    for end in ("events.tsv", "events.json", "hypnogram.png"):
        path = output / f"{name}_{end}"
        if _digest(path) not in (None, digests.get(path.name, _digest(path))):
            old = f"{path.name}.old"
            warn(f"{path} was changed since it was written; it is kept as {old}.")
            path.replace(path.with_name(old))
        path.unlink(missing_ok=True)


def _stage(stager, file, name, options):
    """Stage a night; return it, what was warned of, and the reason where it failed."""
    night, reason = None, None
    with warnings.catch_warnings(record=True) as caught:
        heed_warnings_of_nights()
        try:
            night = stager.stage(file, **options)
        except (ImportError, NotFittedError):
            raise  # no night would do better
        except Exception as error:  # readers and preprocessors raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
    for one in caught:
        warn(f"{name}: {one.message}", one.category)
    return night, " ".join(str(one.message) for one in caught) or None, reason


def heed_warnings_of_nights():
    """Show every warning about a night, and none of those about libraries."""
    warnings.simplefilter("ignore")
    for category in (UserWarning, RuntimeWarning):
        warnings.simplefilter("always", category)


def _row(night):
    """Sum up a night."""
    try:
        statistics = night.statistics()
    except ValueError:  # of stages that belong to no scheme
        statistics = {}
    return {
        "channels": ", ".join(night.ch_names),
        "missing": ", ".join(night.missing) or None,
        "n_epochs": len(night),
        "n_artefacts": int((night.artefact != "").sum()),
        "confidence": round(float(night.confidence.mean()), 4),
        **{name: round(float(value), 4) for name, value in statistics.items()},
    }


def _check_matplotlib():
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Hypnograms are drawn by matplotlib, which is not installed: pip install "
            "'skleepkd[plot]', or leave the pictures out, picture=False (--no-picture)."
        ) from error


def _draw(night, name, path):
    from matplotlib.figure import Figure  # no window, whatever the backend

    figure, picture = Figure(figsize=(10, 5), layout="constrained"), io.BytesIO()
    figure.suptitle(name)
    night.plot(ax=figure.subplots())
    figure.savefig(picture, format="png", dpi=100)
    replace_file(path, picture.getvalue())


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _read(path):
    with suppress(FileNotFoundError, TypeError, ValueError):  # none, or damaged
        return dict(json.loads(path.read_bytes()))
    return {}


def _read_all(output):
    return {path.stem: _read(path) for path in (output / _RECORDS).glob("*.json")}


def _write(output, name, record):
    replace_file(output / _RECORDS / f"{name}.json", json.dumps(record).encode())


def _summarise(failed, output):
    """Write the table of all nights that are in the folder, and of those that failed now."""
    records = _read_all(output)
    rows = {name: r["row"] for name, r in records.items() if "key" in r} | failed
    columns = None if rows else ["name", "file", "error"]
    summary = pd.DataFrame([rows[name] for name in sorted(rows)], columns=columns)
    whole = {"n_epochs", "n_artefacts"} & {*summary}  # of failed nights there is none
    summary = summary.astype(dict.fromkeys(whole, "Int64"))
    text = summary.to_csv(index=False, lineterminator="\n")
    replace_file(output / "summary.csv", text.encode())
    return summary.set_index("name")
