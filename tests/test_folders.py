"""Pairs kept in folders: written, opened, replaced, damaged."""

import json

import numpy as np
import pytest

from skleepkd import PairedEpochs
from skleepkd.epochs import rows as _signals


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


def test_an_empty_pair(X, tmp_path):
    mapped = X[:0].to_memmap(tmp_path)
    assert mapped.shape == (0, 2, 60)
    assert same(PairedEpochs.concatenate([mapped, X, mapped]), X)


def test_nights_are_written_one_by_one(X, tmp_path, monkeypatch):
    monkeypatch.setattr(_signals, "BLOCK_BYTES", 5 * 2 * 60 * 4)
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

        original = _signals.Signal.blocks
        monkeypatch.setattr(_signals.Signal, "blocks", blocks)
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
    assert files(tmp_path) == [
        "notes",
        "pair.json",
        "rows",
        "source",
        "target",
        "target.npy",
    ]


# ---------------------------------------------------------------- damage


def test_no_pair_there(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=r"pair\.json is missing.*to_memmap"):
            PairedEpochs.from_memmap(folder)


@pytest.mark.parametrize("kind", ["target", "source", "rows", "pair"])
@pytest.mark.parametrize("size", ["nothing", "half", "all but the last bytes"])
def test_a_truncated_file(X, tmp_path, kind, size):
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob(f"{kind}*")
    whole = path.read_bytes()
    keep = {"nothing": 0, "half": len(whole) // 2}.get(size, len(whole) - 4)
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match="damaged"):
        PairedEpochs.from_memmap(tmp_path)


@pytest.mark.parametrize("kind", ["target", "rows"])
def test_a_file_of_another_kind(X, tmp_path, kind):
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob(f"{kind}*")
    path.write_bytes(b"\x00not an array" * 1000)
    with pytest.raises(ValueError, match="damaged"):
        PairedEpochs.from_memmap(tmp_path)


def test_a_file_that_is_missing(X, tmp_path):
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob("source*")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="source-"):
        PairedEpochs.from_memmap(tmp_path)


def test_files_that_do_not_fit_each_other(X, tmp_path):
    X.to_memmap(tmp_path)
    (path,) = tmp_path.glob("source*")
    np.save(path, X["source"][:-1])
    with pytest.raises(ValueError, match="144 target epochs and 143 source epochs"):
        PairedEpochs.from_memmap(tmp_path)


@pytest.mark.parametrize("about", [[], {}, {"files": {}}, {"files": None}])
def test_a_table_of_contents_without_contents(X, tmp_path, about):
    X.to_memmap(tmp_path)
    (tmp_path / "pair.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="damaged"):
        PairedEpochs.from_memmap(tmp_path)
