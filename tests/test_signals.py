"""Memory maps stay maps, reading is lazy, and pickles are small."""

import copy
import os
import pickle
import sys

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

from skleepkd import PairedEpochs
from skleepkd.epochs import rows as _signals


def written(folder, n_epochs=40, n_chans=2, n_times=500, name="signal.npy", **options):
    """Write epochs into a file of their own and map it; every value shows its place."""
    shape = (n_epochs, n_chans, n_times)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(folder / name, values)
    return np.load(folder / name, **{"mmap_mode": "r", **options}), values


def pickled(pair):
    """Send a pair through a pickle; return it and the number of bytes."""
    text = pickle.dumps(pair)
    return pickle.loads(text), len(text)


def check_same(pair, target, source):
    np.testing.assert_array_equal(pair["target"], target)
    np.testing.assert_array_equal(pair["source"], source)


# ---------------------------------------------------------------- memory maps


def test_a_memory_map_stays_one(tmp_path):
    base, values = written(tmp_path)
    X = PairedEpochs(base, source=base[:, :1])
    for rows in (slice(3, 9), np.arange(20, 40), np.arange(40) < 5):
        for modality, expected in (("target", values), ("source", values[:, :1])):
            read = X[rows][modality]
            assert isinstance(read, np.memmap)
            assert np.shares_memory(read, base)
            np.testing.assert_array_equal(read, expected[rows])
    for _, block in X.blocks("target"):
        assert isinstance(block, np.memmap)
    scattered = X[[30, 2]]["target"]
    np.testing.assert_array_equal(scattered, values[[30, 2]])
    assert not np.shares_memory(scattered, base)


@pytest.mark.parametrize("rows", [slice(None), slice(5, 38), np.arange(40)[::-1]])
def test_blocks_are_small(tmp_path, monkeypatch, rows):
    base, values = written(tmp_path)
    monkeypatch.setattr(_signals, "BLOCK_BYTES", 3 * 4000 + 100)  # an epoch has 4,000
    parts = list(PairedEpochs(base)[rows].blocks("target"))
    assert max(block.nbytes for _, block in parts) == 3 * 4000
    np.testing.assert_array_equal(np.concatenate([b for _, b in parts]), values[rows])
    at = np.concatenate([np.arange(40)[where] for where, _ in parts])
    np.testing.assert_array_equal(at, np.arange(len(values[rows])))


def test_a_block_holds_at_least_one_epoch(tmp_path, monkeypatch):
    base, _ = written(tmp_path, n_epochs=3)
    monkeypatch.setattr(_signals, "BLOCK_BYTES", 10)
    assert [len(block) for _, block in PairedEpochs(base).blocks("target")] == [1, 1, 1]


def test_blocks_are_sixteen_mebibytes():
    # A base without memory of its own: 600 epochs of 240,000 bytes.
    base = np.broadcast_to(np.float32(0), (600, 10, 6000))
    largest = max(block.nbytes for _, block in PairedEpochs(base).blocks("target"))
    assert 15 * 2**20 < largest <= 16 * 2**20


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(5, 8), slice(0, 0), [9, 1, 20]],
    ids=["all", "some", "none", "scattered"],
)
def test_a_memory_map_travels_as_its_files_name(tmp_path, rows):
    base, values = written(tmp_path)
    # Both begin inside the file, the second is a plain array over a map.
    X = PairedEpochs(base[4:30], source=np.asarray(base[10:])[4:30], subject="s0")
    again, n_bytes = pickled(X[rows])
    assert n_bytes < 3000
    check_same(again, values[4:30][rows], values[14:][:26][rows])
    assert isinstance(again._signals["target"].base, np.memmap)
    assert not again._signals["target"].base.flags.writeable
    assert again.subject.tolist() == X[rows].subject.tolist()
    twice, n_bytes = pickled(again)
    assert n_bytes < 3000
    check_same(twice, again["target"], again["source"])


def test_a_raw_file_with_an_offset(tmp_path):
    values = np.arange(60, dtype=">i2")
    (tmp_path / "night.dat").write_bytes(b"head" + values.tobytes())
    base = np.memmap(
        tmp_path / "night.dat", dtype=">i2", mode="r", offset=4, shape=(10, 2, 3)
    )
    again, _ = pickled(PairedEpochs(base[3:]).replace(source=base[2:9]))
    check_same(again, values.reshape(10, 2, 3)[3:], values.reshape(10, 2, 3)[2:9])


def test_maps_that_no_file_name_can_stand_for(tmp_path):
    base, values = written(tmp_path, n_epochs=6)
    changed, _ = written(tmp_path, n_epochs=6, name="changed.npy", mmap_mode="c")
    changed[2] = -1
    values_changed = values.copy()
    values_changed[2] = -1
    for source, expected in (
        (changed, values_changed),
        (base[:, :1], values[:, :1]),
        (base[::-1], values[::-1]),
        (base[..., ::2], values[..., ::2]),
        (base + 1, values + 1),
        (base.astype(np.float64), values),
        (base[[3, 1, 1, 0, 2, 5]], values[[3, 1, 1, 0, 2, 5]]),
    ):
        again, _ = pickled(PairedEpochs(base, source=source))
        check_same(again, values, expected)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_is_gone(tmp_path, when):
    """The error is that of the task that reads, not of the one that takes it."""
    base, _ = written(tmp_path)
    X = PairedEpochs(base)[3:9]
    text = pickle.dumps(X)
    os.remove(tmp_path / "signal.npy")
    again = pickle.loads(text if when == "before" else pickle.dumps(X))
    for use in (np.asarray, repr, lambda X: X.shape, lambda X: X[:2]):
        with pytest.raises(FileNotFoundError, match=r"signal\.npy is not here.*same path"):
            use(again)
    assert X["target"].shape == (6, 2, 500)  # what was open stays so


def test_a_folder_that_was_written_anew(tmp_path):
    values = np.ones((20, 2, 500), dtype=np.float32)
    X = PairedEpochs(values, source=values).to_memmap(tmp_path)
    text = pickle.dumps(X[2:5])
    other = PairedEpochs(-values, source=-values).to_memmap(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"from_memmap"):
        pickle.loads(text).read("source")
    assert pickled(other[2:5])[0]["source"].max() == -1


@pytest.mark.parametrize("n_epochs", [2, 50])
def test_a_file_of_another_size(tmp_path, n_epochs):
    base, values = written(tmp_path)
    text = pickle.dumps(PairedEpochs(base)[30:])
    again = pickle.loads(pickle.dumps(pickle.loads(text)))  # sent on, unopened
    np.testing.assert_array_equal(again["target"], values[30:])
    os.remove(tmp_path / "signal.npy")
    written(tmp_path, n_epochs=n_epochs)
    with pytest.raises(ValueError, match=f"{128 + n_epochs * 4000} bytes, not 160128"):
        np.asarray(pickle.loads(text))


def test_masks_and_rows_travel_as_numbers(tmp_path):
    base, values = written(tmp_path, n_epochs=400)
    mask = np.arange(400) % 3 > 0
    again, n_bytes = pickled(PairedEpochs(base, source=base)[mask][::2])
    assert n_bytes < 8 * 2 * 200 + 2000 < values.nbytes / 200
    check_same(again, values[mask][::2], values[mask][::2])


def test_size_tells_what_is_in_memory(tmp_path):
    base, values = written(tmp_path)  # 160,000 bytes
    assert sys.getsizeof(PairedEpochs(values, source=values)) > 320_000
    assert 40_000 < sys.getsizeof(PairedEpochs(values)[10:20]) < 41_000
    assert (
        sys.getsizeof(PairedEpochs(base[:, :1], source=values)) > 240_000
    )  # no piece of a file
    mapped = PairedEpochs(base, source=base)
    for pair in (mapped, mapped[5:], pickle.loads(pickle.dumps(mapped))):
        assert sys.getsizeof(pair) < 1000


def test_a_view_of_few_rows_leaves_its_base_behind():
    values = np.random.default_rng(0).normal(size=(200, 2, 500)).astype(np.float32)
    X = PairedEpochs(
        values, source=values[:, :1], subject=np.arange(200), onset=np.arange(200)
    )
    assert pickled(X)[1] > 200 * 6000
    for rows in (slice(20, 30), np.arange(0, 200, 20), slice(0, 0)):
        again, n_bytes = pickled(X[rows])
        assert n_bytes < 10 * 6000 + 3000
        check_same(again, values[rows], values[rows][:, :1])
        assert again.subject.tolist() == np.arange(200)[rows].tolist()
    for copied in (copy.copy(X[3:9]), copy.deepcopy(X[3:9])):
        check_same(copied[1:], values[4:9], values[4:9, :1])


def test_joblib_hashes_rows_and_files(tmp_path):
    base, values = written(tmp_path)
    X = PairedEpochs(values)
    assert joblib.hash(X[3:6]) == joblib.hash(PairedEpochs(values.copy())[3:6])
    assert joblib.hash(X[3:6]) != joblib.hash(X[4:7])
    mapped = PairedEpochs(base)
    before = joblib.hash(mapped)
    assert before == joblib.hash(PairedEpochs(base)) != joblib.hash(mapped[1:])
    at = os.stat(tmp_path / "signal.npy").st_mtime_ns
    os.utime(tmp_path / "signal.npy", ns=(at, at + 10**9))  # as if written anew
    assert joblib.hash(mapped) != before


# ---------------------------------------------------------------- workers


def look(X):
    """Return what a worker was given, and send some of it back."""
    bases = [X._signals[name].base for name in ("target", "source")]
    folders = {os.path.dirname(base.filename) for base in bases}
    return {
        "mapped": [isinstance(base, np.memmap) for base in bases],
        "n_files": sum(len(os.listdir(folder)) for folder in folders),
        "whole": X,
        "some": X[[7, 2, 5]],
    }


def test_workers_share_one_map_of_what_is_in_memory():
    values = np.random.default_rng(0).normal(size=(50, 2, 500)).astype(np.float32)
    # Most of the rows of a base, as a cohort without its unscored epochs is.
    X = PairedEpochs(values, source=values + 1, subject=np.arange(50))[
        np.arange(50) % 9 > 0
    ]
    kept = values[np.arange(50) % 9 > 0]
    results = Parallel(n_jobs=2, max_nbytes=10_000)(delayed(look)(X) for _ in range(4))
    for result in results:
        assert result["mapped"] == [True, True]
        assert result["n_files"] == 2  # not two for each task
        check_same(result["whole"], kept, kept + 1)
        check_same(result["some"], kept[[7, 2, 5]], kept[[7, 2, 5]] + 1)
        # joblib deletes its files: what comes back must not hang on them.
        again, _ = pickled(result["whole"])
        check_same(again[3:5], kept[3:5], kept[3:5] + 1)
        assert not isinstance(again._signals["source"].base, np.memmap)


def test_workers_open_the_files_of_maps(tmp_path):
    base, values = written(tmp_path)
    X = PairedEpochs(base, source=base[:])[3:]
    with Parallel(n_jobs=2, max_nbytes=10_000) as parallel:
        results = parallel(delayed(look)(X[k:]) for k in range(2))
    for k, result in enumerate(results):
        assert result["mapped"] == [True, True]
        assert result["n_files"] == 1
        check_same(result["whole"], values[3 + k :], values[3 + k :])
        assert result["whole"]._signals["target"].base.filename == str(base.filename)
