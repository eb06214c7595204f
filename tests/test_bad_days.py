"""Full disks, folders that cannot be written or vanish, trainings that break."""

import errno
import functools
import os
import shutil
import subprocess
import warnings
from contextlib import suppress

import joblib
import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import GroupKFold
from sklearn.model_selection import cross_validate as plain_cross_validate

from skleepkd import (
    DistilledSleepStager,
    FineTunedSleepStager,
    PairedEpochs,
    SleepStager,
    load,
    save,
)
from skleepkd.datasets.loading import Night, load_nights
from skleepkd.distillation import teacher as teachers
from skleepkd.hypnogram import Hypnogram
from skleepkd.model_selection import cross_validate
from tests.files import in_a_fork
from tests.tiny import TinyNetwork, make_pair, raw_of

OPTIONS = {"device": "cpu", "random_state": 0}
KAPPA = make_scorer(cohen_kappa_score)


def tiny(**params):
    return SleepStager(TinyNetwork, **{"max_epochs": 1, **OPTIONS, **params})


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---------------------------------------------------------------- a full disk

#: What writes, and what it writes; each keeps what was there before.
WRITERS = ("save", "pair", "checkpoint", "events", "cache")


def write(what, folder, seed):
    """Write something into a folder; another seed makes another content."""
    X, y = make_pair(seed=seed)
    if what == "save":
        save(tiny(lr=0.1 + seed).fit(X, y), folder / "stager.safetensors")
    elif what == "pair":
        X.to_memmap(folder)
    elif what == "checkpoint":
        tiny(checkpoint=folder, max_epochs=2).fit(X, y)
    elif what == "events":
        Hypnogram.from_stages(y).to_events(folder / "night_events.tsv")
    else:
        cohort(folder, seed)


def cohort(cache, seed):
    """Load a cohort of one night through a loader's cache."""
    night = Night(30.0 * np.arange(40), np.arange(40) % 5, files=[])
    signal = np.full((1, 40 * 3000), seed)

    def read(night):
        return raw_of(signal, ["A"], 100.0)

    return load_nights(
        ["n"],
        lambda number: night,
        read,
        name=f"cohort{seed}",
        sfreq=100.0,
        ch_names={"target": ["A"]},
        classes="aasm",
        unscored=True,
        cache=cache,
    )


def errors_of(folders):
    """Write each thing into its folder, and collect the errors."""
    errors = {}
    for what, folder in folders.items():
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write(what, folder, seed=1)
        errors[what] = [caught.value.errno, str(caught.value)]
    return errors


def test_files_that_cannot_grow_leave_what_was_there(tmp_path):
    folders = {what: tmp_path / what for what in WRITERS}
    for what, folder in folders.items():
        folder.mkdir()
        write(what, folder, seed=0)
    before = content(tmp_path)
    assert len(before) >= 1 + 4 + 1 + 2 + 2
    errors = in_a_fork(functools.partial(errors_of, folders), most=1500)
    assert list(errors) == list(WRITERS)
    for number, message in errors.values():
        assert number == errno.EFBIG
        assert "File too large" in message
    assert content(tmp_path) == before
    assert load(tmp_path / "save" / "stager.safetensors", TinyNetwork).lr == 0.1
    np.testing.assert_array_equal(
        PairedEpochs.from_memmap(tmp_path / "pair")["target"], make_pair()[0]["target"]
    )


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk of its own can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk):
    with (small_disk / "large").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            pass
    before = content(small_disk)
    errors = in_a_fork(functools.partial(errors_of, dict.fromkeys(WRITERS, small_disk)))
    assert content(small_disk) == before
    for number, message in errors.values():
        assert number == errno.ENOSPC
        assert "No space left" in message


def test_a_disk_with_room_for_the_beginning_of_a_map(small_disk):
    """Without room for all of it, the process that writes would be ended by a signal."""
    (small_disk / "large").write_bytes(bytes(60_000))
    errors = in_a_fork(functools.partial(errors_of, {"pair": small_disk}))
    assert errors["pair"][0] == errno.ENOSPC
    assert list(content(small_disk)) == ["large"]


def test_room_for_outputs_is_taken_before_they_are_computed(monkeypatch, pair):
    """A teacher's outputs that are too many for the memory."""
    X, y = pair

    def refuse(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(teachers, "OUTPUT_IN_MEMORY", 100)
    features = {"feature_loss": "mse", "max_epochs": 1, **OPTIONS}
    student = DistilledSleepStager(tiny().fit(X.source_epochs, y), **features)
    with pytest.raises(OSError, match=r"No space left.* MB are needed"):
        student.fit(X, y)


def test_folds_that_cannot_be_kept_are_scored_all_the_same(tmp_path, pair):
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(2), "scoring": KAPPA}
    given["return_estimator"] = True  # more than a file may hold
    expected = plain_cross_validate(tiny(), X, y, **given)["test_score"]

    def validate():
        with pytest.warns(Warning, match=r"Unable to cache to disk.*File too large"):
            scores = cross_validate(tiny(), X, y, memory=tmp_path, **given)
        return scores["test_score"].tolist()

    assert in_a_fork(validate, most=3000) == expected.tolist()
    assert not list(tmp_path.rglob("output.pkl"))
    # What was half-written then is no fold now.
    scores = cross_validate(tiny(), X, y, memory=tmp_path, **given)
    np.testing.assert_array_equal(scores["test_score"], expected)
    assert len(list(tmp_path.rglob("output.pkl"))) == 2


# ---------------------------------------------------------------- a read-only folder


@pytest.mark.parametrize(
    "is_file",
    [
        True,  # which root cannot write into either
        pytest.param(
            False,
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="permissions bind no root"),
        ),
    ],
)
def test_what_writes_names_a_folder_that_cannot_be_written(tmp_path, pair, is_file):
    X, y = pair
    folder, stager = tmp_path / "no-folder", tiny().fit(X, y)
    if is_file:
        folder.write_text("a file")
    else:
        folder.mkdir(mode=0o555)
    before = content(tmp_path)
    for write in (
        lambda: save(stager, folder / "stager.safetensors"),
        lambda: X.to_memmap(folder / "pair"),
        lambda: tiny(checkpoint=folder / "kept").fit(X, y),
        lambda: cohort(folder / "cache", 0),
        lambda: cross_validate(stager, X, y, memory=folder, groups=X.subject, cv=2),
    ):
        with pytest.raises(OSError, match=folder.name):
            write()
    assert content(tmp_path) == before


# ---------------------------------------------------------------- a folder that vanishes


class Vanishing(SleepStager):
    """Deletes a folder when its first fit ends."""

    folder, left = None, 1

    def fit(self, X, y, groups=None):
        super().fit(X, y, groups)
        if Vanishing.left:
            Vanishing.left -= 1
            shutil.rmtree(Vanishing.folder)
        return self


def test_the_memory_of_folds_vanishes(tmp_path, pair):
    X, y = pair
    given = {"groups": X.subject, "cv": GroupKFold(3), "scoring": KAPPA}
    expected = plain_cross_validate(tiny(), X, y, **given)["test_score"]
    Vanishing.folder, Vanishing.left = tmp_path / "memory", 1
    stager = Vanishing(TinyNetwork, max_epochs=1, **OPTIONS)
    scores = cross_validate(stager, X, y, memory=tmp_path / "memory", **given)
    np.testing.assert_array_equal(scores["test_score"], expected)
    again = cross_validate(stager, X, y, memory=tmp_path / "memory", **given)
    np.testing.assert_array_equal(again["test_score"], expected)


def test_the_memory_of_teachers_vanishes(tmp_path, pair):
    X, y = pair
    memory = joblib.Memory(tmp_path / "memory", verbose=0)
    student = DistilledSleepStager(tiny(), memory=memory, max_epochs=1, **OPTIONS)
    expected = student.fit(X, y).predict_proba(X)
    shutil.rmtree(tmp_path / "memory")
    np.testing.assert_array_equal(student.fit(X, y).predict_proba(X), expected)


def test_the_folder_of_checkpoints_vanishes(tmp_path, pair):
    X, y = pair
    Vanishing.folder, Vanishing.left = tmp_path / "kept", 1
    stager = Vanishing(TinyNetwork, max_epochs=1, checkpoint=tmp_path / "kept", **OPTIONS)
    expected = stager.fit(X, y).predict_proba(X)
    assert not (tmp_path / "kept").exists()
    np.testing.assert_array_equal(stager.fit(X, y).predict_proba(X), expected)
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_the_folder_of_temporary_files_vanishes(tmp_path, monkeypatch, pair):
    """A teacher's outputs lie in a file without a name, which no cleaning takes away."""
    X, y = pair
    monkeypatch.setattr(teachers.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(teachers, "OUTPUT_IN_MEMORY", 100)
    (tmp_path / "tmp").mkdir()
    names = []
    room = teachers._allocate

    def then_vanish(*args):
        array = room(*args)
        names.append(type(array).__name__)
        shutil.rmtree(tmp_path / "tmp", ignore_errors=True)
        (tmp_path / "tmp").mkdir()
        return array

    monkeypatch.setattr(teachers, "_allocate", then_vanish)
    features = {"feature_loss": "mse", "max_epochs": 1, **OPTIONS}
    student = DistilledSleepStager(tiny(), **features).fit(X, y)
    assert "memmap" in names
    monkeypatch.undo()
    expected = DistilledSleepStager(tiny(), **features).fit(X, y)
    np.testing.assert_array_equal(student.predict_proba(X), expected.predict_proba(X))


# ---------------------------------------------------------------- a training of NaN

STEEP = {"optimizer": torch.optim.SGD, "lr": 1e30, **OPTIONS}


DIVERGING = {
    "supervised": tiny(max_epochs=9, **STEEP),
    "teacher": DistilledSleepStager(tiny(max_epochs=9, **STEEP), **OPTIONS),
    "fine-tuned": FineTunedSleepStager(tiny(), max_epochs=9, **STEEP),
} | {
    strategy: DistilledSleepStager(tiny(), strategy=strategy, max_epochs=9, **STEEP)
    for strategy in ("offline", "online", "two-step")
}


@pytest.mark.parametrize("name", DIVERGING)
def test_a_training_that_becomes_nan_stops_and_says_so(pair, name):
    pattern = r"diverged.* in pass \d.*Lower the learning rate \(lr is 1e\+30\).*extreme"
    with pytest.raises(FloatingPointError, match=pattern + " values"):
        DIVERGING[name].fit(*pair)


def test_a_training_whose_last_step_diverged_predicts_nothing(pair):
    """The loss was finite before that step, so that only predictions show it."""
    X, y = pair
    stager = tiny(batch_size=len(X), **STEEP).fit(X, y)
    for predict in (stager.predict, stager.predict_proba):
        with pytest.raises(
            FloatingPointError, match=r"NaN, as its training diverged.*lr is 1e\+30"
        ):
            predict(X)


@pytest.mark.parametrize("n_batches", [1, 4])
def test_a_fold_that_diverged_has_no_score(pair, tmp_path, n_batches):
    X, y = pair
    stager = tiny(max_epochs=n_batches, batch_size=len(X) // n_batches, **STEEP)
    given = {"groups": X.subject, "cv": GroupKFold(2), "scoring": KAPPA}
    with pytest.raises(FloatingPointError, match="diverged"):
        cross_validate(stager, X, y, memory=tmp_path, **given)
    assert not list(tmp_path.rglob("output.pkl"))
    # As scikit-learn has it, a fold's error is a warning and NaN, or all folds' an error.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            scores = plain_cross_validate(stager, X, y, **given)["test_score"]
        except ValueError as error:
            assert "FloatingPointError" in str(error)  # noqa: PT017
        else:
            assert np.isnan(scores).all()
            assert any("FloatingPointError" in str(w.message) for w in caught)
