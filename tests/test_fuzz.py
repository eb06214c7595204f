"""The fuzzer finds each kind of fault; 200 of its files find none in the library."""

from collections import Counter

import numpy as np

from tests.fuzz import __main__ as program
from tests.fuzz import faulty
from tests.fuzz.campaign import FORGES, Reader, run

EXPECTED = {
    fault.__name__: outcome
    for outcome, faults in faulty.OUTCOMES.items()
    for fault in faults
}


def test_every_file_is_read_or_refused(tmp_path):
    counts = run(200, 0, tmp_path)
    assert sum(sum(count.values()) for count in counts.values()) == 200
    assert {"EDF", "EDF+ annotations", "events", "model"} <= set(counts)
    faults = {path.name: path.read_text() for path in tmp_path.glob("faults/*.txt")}
    assert not faults
    # Some damage is harmless, most is not.
    total = sum(counts.values(), Counter())
    assert total["read"] > 20
    assert total["refused"] > 80


def test_every_fault_is_found(tmp_path):
    with Reader(tmp_path / "seeds", "tests.fuzz.faulty", cpu=0.5, clock=2) as reader:
        assert [seed["name"] for seed in reader.seeds] == list(EXPECTED)
        outcomes = {}
        for number, seed in enumerate(reader.seeds):
            place = tmp_path / seed["name"]
            place.mkdir()
            (place / seed["file"]).write_bytes(b"damaged")
            outcomes[seed["name"]] = reader.read(number, place)["outcome"]
        # The process, begun anew by then, reads on.
        assert reader.read(0, place)["outcome"] == "read"
    assert outcomes == EXPECTED
    assert not list(tmp_path.rglob("canary*"))


def test_files_at_fault_are_kept(tmp_path):
    (counts,) = run(
        len(EXPECTED), 3, tmp_path, "tests.fuzz.faulty", cpu=0.3, clock=1
    ).values()
    kept = {path.stem: path.read_bytes() for path in tmp_path.glob("faults/*.bin")}
    n_faults = counts.total() - counts["read"] - counts["refused"]
    assert len(kept) == n_faults >= 10
    assert faulty.VALID not in kept.values()
    assert {path.stem for path in tmp_path.glob("faults/*.txt")} == set(kept)


def test_the_table_and_the_exit_status(tmp_path, monkeypatch, capsys):
    counts = {"EDF": Counter(read=3, refused=4), "model": Counter(hang=1, code=2)}
    monkeypatch.setattr(program, "run", lambda *_: counts)
    assert program.main([str(tmp_path), "--files", "10"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["kind", "files", "read", "refused", "faults"]
    assert lines[1].split() == ["EDF", "7", "3", "4", "0"]
    assert lines[2].split()[:5] == ["model", "3", "0", "0", "3"]
    assert lines[2].endswith("code 2, hang 1")
    assert lines[3].split()[:5] == ["all", "10", "3", "4", "3"]
    counts.pop("model")
    assert program.main([str(tmp_path)]) == 0


def test_equal_seeds_make_equal_files():
    signals = b"0".ljust(256) + bytes(999)
    valid = {"edf": signals[:252] + b"2   " + signals[256:], "json": b'{"a": [1, "b"]}'}
    for name in ("edf", "json", "plain", "text"):
        data = valid.get(name, b"onset\tstage\n0\t1\n30\t2\n")
        made = [
            [FORGES[name](data, data, np.random.default_rng([1, k])) for k in range(60)]
            for _ in range(2)
        ]
        assert made[0] == made[1]
        assert len(set(made[0])) > 30
