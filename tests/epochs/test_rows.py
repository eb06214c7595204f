"""Memory maps stay maps, pickles are small, folders are written whole or not at all."""

import copy
import errno
import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from joblib import Parallel, delayed

from skleepkd import PairedEpochs
from skleepkd.epochs import rows as rows_module
from skleepkd.stages import MISSING


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
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 4000 + 100)  # an epoch has 4,000
    parts = list(PairedEpochs(base)[rows].blocks("target"))
    assert max(block.nbytes for _, block in parts) == 3 * 4000
    np.testing.assert_array_equal(np.concatenate([b for _, b in parts]), values[rows])
    at = np.concatenate([np.arange(40)[where] for where, _ in parts])
    np.testing.assert_array_equal(at, np.arange(len(values[rows])))
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 10)  # a block holds an epoch at least
    assert {len(block) for _, block in PairedEpochs(base).blocks("target")} == {1}


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


def test_a_pickle_of_before_signals_were_scaled():
    signal = PairedEpochs(np.ones((3, 1, 4)))._signals["target"]
    state = signal.__getstate__()
    del state["scalings"]
    signal.__setstate__(state)
    assert signal[[2, 0]].read().shape == (2, 1, 4)
    assert (
        signal.scaled(np.ones((3, 1)), np.ones((3, 1))).read().tolist() == [[[0] * 4]] * 3
    )


def test_a_raw_file_with_an_offset(tmp_path):
    path, values = tmp_path / "night.dat", np.arange(60, dtype=">i2").reshape(10, 2, 3)
    path.write_bytes(b"head" + values.tobytes())
    base = np.memmap(path, dtype=">i2", mode="r", offset=4, shape=(10, 2, 3))
    again, _ = pickled(PairedEpochs(base[3:]).replace(source=base[2:9]))
    check_same(again, values[3:], values[2:9])


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
    forks = {"n_jobs": 2, "max_nbytes": 10_000, "backend": "multiprocessing"}
    results = Parallel(**forks)(delayed(look)(X) for _ in range(4))
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
    forks = {"n_jobs": 2, "max_nbytes": 10_000, "backend": "multiprocessing"}
    with Parallel(**forks) as parallel:
        results = parallel(delayed(look)(X[k:]) for k in range(2))
    for k, result in enumerate(results):
        assert result["mapped"] == [True, True]
        assert result["n_files"] == 1
        check_same(result["whole"], values[3 + k :], values[3 + k :])
        assert result["whole"]._signals["target"].base.filename == str(base.filename)


# ---------------------------------------------------------------- folders


def files(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def same(one, two):
    """Whether two pairs hold the same, values and all."""
    return (
        all(one.fingerprint(m) == two.fingerprint(m) for m in ("target", "source"))
        and all(
            getattr(one, name).tolist() == getattr(two, name).tolist()
            for name in ("subject", "recording", "onset")
        )
        and (one.sfreq, one.ch_names) == (two.sfreq, two.ch_names)
    )


@pytest.fixture
def X(pair):
    return pair[0]


def test_to_memmap(X, tmp_path):
    X = PairedEpochs(
        X["target"],
        source=X["source"],
        subject=X.subject,
        recording=X.recording,
        onset=X.onset,
        sfreq={"target": np.float32(2), "source": 4},
        ch_names={"target": np.array(["L", "R"]), "source": ("C3", "C4")},
    )
    view = X[np.arange(len(X))[::-2]]
    mapped = view.to_memmap(tmp_path / "made" / "here")
    assert same(mapped, view)
    for opened in (mapped, PairedEpochs.from_memmap(str(tmp_path / "made" / "here"))):
        assert same(opened, view)
        for modality in ("target", "source"):
            assert isinstance(opened[modality], np.memmap)
            assert not opened[modality].flags.writeable
    assert files(tmp_path / "made" / "here") == ["pair.json", "rows", "source", "target"]


def test_a_pair_that_knows_nothing(tmp_path):
    X = PairedEpochs(np.ones((3, 1, 4)))
    mapped = X.to_memmap(tmp_path)
    assert (mapped.subject, mapped.recording, mapped.onset) == (None, None, None)
    assert not mapped.has_source
    assert mapped.fingerprint("target") == X.fingerprint("target")
    assert files(tmp_path) == ["pair.json", "rows", "target"]


def test_nights_are_written_one_by_one(X, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 5 * 2 * 60 * 4)
    nights = [X[X.recording == name] for name in np.unique(X.recording)[::-1]]
    mapped = PairedEpochs.concatenate(nights, folder=tmp_path)
    assert same(mapped, PairedEpochs.concatenate(nights))
    assert mapped.onset.tolist() == [30.0 * k for k in range(24)] * 6
    assert mapped.subject.tolist() == np.repeat(np.unique(X.subject)[::-1], 24).tolist()
    np.testing.assert_array_equal(mapped["source"][:24], X["source"][-24:])


def test_a_pair_is_written_over_the_one_that_it_views(X, tmp_path):
    first = X.to_memmap(tmp_path)
    rows = [7, 3, 100]
    second = PairedEpochs.concatenate([first[rows], X[:5], first], folder=tmp_path)
    assert same(second[:3], X[rows])
    assert same(second[8:], X)
    assert same(first, X)  # its files are mapped still
    assert files(tmp_path) == ["pair.json", "rows", "source", "target"]
    assert same(PairedEpochs.from_memmap(tmp_path), second)
    # Without a source: none of the old one is left.
    second.target_epochs.to_memmap(tmp_path)
    assert files(tmp_path) == ["pair.json", "rows", "target"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_the_folder_as_it_was(X, tmp_path, monkeypatch, error):
    def broken(pair, n_good):
        reads = []

        def blocks(signal):
            for rows, block in original(signal):
                reads.append(rows)
                if len(reads) > n_good:
                    raise error
                yield rows, block

        original = rows_module.Signal.blocks
        monkeypatch.setattr(rows_module.Signal, "blocks", blocks)
        with pytest.raises(type(error)):
            pair.to_memmap(tmp_path)
        monkeypatch.undo()

    broken(X, 1)
    assert files(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="no complete pair"):
        PairedEpochs.from_memmap(tmp_path)
    X[:9].to_memmap(tmp_path)
    broken(X, 1)
    assert files(tmp_path) == ["pair.json", "rows", "source", "target"]
    assert same(PairedEpochs.from_memmap(tmp_path), X[:9])


def test_leftovers_of_a_killed_process_are_swept_away(X, tmp_path):
    for name in ("target-0123abcd.npy", "rows-0123abcd.npz", "notes-0123abcd.npy"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "target.npy").write_bytes(b"someone's own")
    assert same(X.to_memmap(tmp_path), X)
    written = ["pair.json", "rows", "source", "target"]
    assert files(tmp_path) == ["notes", *written, "target.npy"]


# ---------------------------------------------------------------- damage


def test_no_pair_there(X, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=r"pair\.json is missing.*to_memmap"):
            PairedEpochs.from_memmap(folder)
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob("source*")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="source-"):
        PairedEpochs.from_memmap(tmp_path)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, n) for kind in ("target", "source", "rows", "pair") for n in (0, 50, -4)),
        *((kind, b"\x00not an array" * 1000) for kind in ("target", "rows")),
        *(("pair", json.dumps(about).encode()) for about in ([], {}, {"files": None})),
        ("pair", b'{"files": {}}'),
    ],
)
def test_a_damaged_file(X, tmp_path, kind, damage):
    """Cut after some bytes, or replaced."""
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob(f"{kind}*")
    path.write_bytes(path.read_bytes()[:damage] if isinstance(damage, int) else damage)
    with pytest.raises(ValueError, match="damaged"):
        PairedEpochs.from_memmap(tmp_path)


def test_files_that_do_not_fit_each_other(X, tmp_path):
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob("source*")
    np.save(path, X["source"][:-1])
    with pytest.raises(ValueError, match="144 target epochs and 143 source epochs"):
        PairedEpochs.from_memmap(tmp_path)


# ---------------------------------------------------------------- room on the disk


def refuse_room(monkeypatch, number):
    def refuse(descriptor, offset, length):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)


def test_room_is_taken_before_a_map_is_written(X, tmp_path, monkeypatch):
    X[:9].to_memmap(tmp_path)
    before = files(tmp_path)
    refuse_room(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match=r"No space left.* MB are needed.*target-.*npy"):
        X.to_memmap(tmp_path)
    assert files(tmp_path) == before
    assert same(PairedEpochs.from_memmap(tmp_path), X[:9])


def test_file_systems_that_take_no_room_ahead(X, tmp_path, monkeypatch):
    refuse_room(monkeypatch, errno.EOPNOTSUPP)
    assert same(X.to_memmap(tmp_path), X)


# ---------------------------------------------------------------- any pair


@given(st.data(), st.integers(0, 9), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=40)
def test_any_pair_comes_back_from_its_folder(data, n_epochs, n_channels, n_times):
    shape, values = (n_epochs, n_channels, n_times), st.floats(-1e6, 1e6, width=32)
    target = data.draw(npst.arrays(np.float32, shape, elements=values))
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    text = text.filter(lambda name: name not in MISSING)  # which are refused
    recording = np.array([data.draw(text) for _ in range(n_epochs)], dtype=str)
    onset = data.draw(npst.arrays(float, n_epochs, elements=st.floats(0, 1e6)))
    keep = data.draw(npst.arrays(bool, n_epochs))
    X = PairedEpochs(target, recording=recording, onset=onset)[keep]
    # A disk would have each file written before the next.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        again = X.to_memmap(Path(folder))
        for pair in (again, PairedEpochs.from_memmap(folder)):
            np.testing.assert_array_equal(pair["target"], target[keep])
            np.testing.assert_array_equal(pair.recording, recording[keep])
            np.testing.assert_array_equal(pair.onset, onset[keep])
