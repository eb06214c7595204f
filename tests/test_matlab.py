"""MATLAB files: what SciPy writes is let through, what does not fit together is not."""

import io
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from skleepkd.datasets._matlab import check_eeglab, check_matlab

CONTENT = {
    "EEG": {
        "setname": "night",
        "nbchan": 3,
        "pnts": 5,
        "srate": 200.5,
        "xmin": np.float32(0.25),
        "flag": True,
        "comments": "schön, µV",
        "empty": [],
        "data": np.arange(15, dtype="<f4").reshape(3, 5),
        "complex": np.array([1 + 2j, 3]),
        "integers": np.arange(9, dtype=np.int16),
        "chanlocs": np.array([("A1", 1), ("LE", 2)], [("labels", object), ("X", object)]),
        "cells": np.array(["one", 2.0, {"deep": {"er": [1, 2]}}], object),
        "nothing": np.zeros((0, 77), object),
        "cube": np.zeros((2, 3, 4)),
    },
    "trials": 1,
    "names": np.array(["a", "bcd"]),
}


def written(content=CONTENT, **options):
    file = io.BytesIO()
    savemat(file, content, **options)
    return file.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.set"


@pytest.mark.parametrize("do_compression", [False, True])
def test_what_scipy_writes_is_let_through(path, do_compression):
    path.write_bytes(written(do_compression=do_compression))
    assert check_matlab(path) == {
        "nbchan": 3,
        "pnts": 5,
        "srate": 200.5,
        "xmin": 0.25,
        "flag": 1,
        "trials": 1,
    }


def test_big_endian_by_hand(path):
    """One array "n", of one double, as the format's description writes it."""
    parts = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 1)
    parts += struct.pack(">HH4s", 1, 1, b"n") + struct.pack(">IId", 9, 8, 42.0)
    head = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI"
    path.write_bytes(head + struct.pack(">II", 14, len(parts)) + parts)
    assert loadmat(path)["n"] == 42
    assert check_matlab(path) == {"n": 42}


def test_a_file_in_hdf5_is_left_to_its_reader(path):
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF")
    assert check_matlab(path) == {}


@pytest.mark.parametrize("do_compression", [False, True])
def test_a_cut_is_found_wherever_it_is(path, do_compression):
    data = written(do_compression=do_compression)
    # Between two variables a file may end.
    ends, place = set(), 128
    while place < len(data):
        ends.add(place)
        place += 8 + struct.unpack("<I", data[place + 4 : place + 8])[0]
    assert len(ends) == 3
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        if length in ends:
            check_matlab(path)
            continue
        with pytest.raises(ValueError, match=r"\w{4}"):
            check_matlab(path)


def replaced(old, new):
    data = written()
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"EEG", "no MATLAB file"),
        (b"\x80\x02}q\x00." + bytes(200), "no MATLAB file"),
        (replaced(b"\x01IM", b"\x07IM"), "its version is 0x700"),
        # The shape of the signals, one with more values and one with fewer than none.
        (replaced(struct.pack("<2i", 3, 5), struct.pack("<2i", 3, 6)), "18 values"),
        (replaced(struct.pack("<2i", 3, 5), struct.pack("<2i", -3, 5)), "has the shape"),
        (replaced(struct.pack("<2i", 3, 5), struct.pack("<2i", *[2**30] * 2)), "the shape"),
        (replaced(struct.pack("<2i", 0, 77), struct.pack("<2i", 2**20, 77)), "do not fit"),
        (replaced(b"labels\0", b"labels!"), "a field has no name"),
        (replaced(b"labels\0", b"\0abels\0"), "a field has no name"),
        (written() + bytes(8), "a part is of type 0"),
        (written({"s": np.zeros(3)})[:-8], "longer than what holds it"),
    ],
)
def test_parts_that_do_not_fit(path, data, message):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        check_matlab(path)


def test_a_compressed_part_that_promises_too_much(path):
    data = bytearray(written({"s": np.zeros(999)}, do_compression=True))
    path.write_bytes(data[:-6] + bytes(6))
    with pytest.raises(ValueError, match="cannot be unpacked|longer or shorter"):
        check_matlab(path)


@pytest.mark.parametrize("number", [0, -3, 1e9, np.nan, np.inf])
def test_channels_that_nobody_has(path, number):
    path.write_bytes(written({"EEG": {"nbchan": number}}))
    with pytest.raises(ValueError, match="channels"):
        check_eeglab(path)
    path.write_bytes(written({"nbchan": 20}))
    check_eeglab(path)


def test_cells_within_cells(path):
    deep = 1
    for _ in range(60):
        cell = np.empty(1, object)
        cell[0] = deep
        deep = cell
    path.write_bytes(written({"deep": deep}))
    with pytest.raises(ValueError, match="does not begin as one"):
        check_matlab(path)
