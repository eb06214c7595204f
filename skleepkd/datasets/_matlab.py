"""The structure of MATLAB's files, checked before SciPy reads them.

SciPy's reader believes what a file says of its sizes: a damaged one can take all memory,
or end the process. The format is described in MathWorks' "MAT-File Format" (level 5).
"""

import math
import struct
import zlib

#: How a value is written by its type in the file; 14 is an array, 15 a compressed one.
_FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d"}
_FORMATS |= {12: "q", 13: "Q", 16: "B", 17: "H", 18: "I"}
_WIDTHS = {kind: struct.calcsize(f"<{written}") for kind, written in _FORMATS.items()}
_INT8, _INT32, _UINT32, _ARRAY, _COMPRESSED = 1, 5, 6, 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _DOUBLE, _UINT64 = 1, 2, 3, 4, 5, 6, 15

#: Cells within cells; EEGLAB's files have about six levels.
_DEEPEST = 40
_BLOCK = 2**20
#: MNE makes a name for each channel that has none.
_MOST_CHANNELS = 10_000


def check_eeglab(path):
    """Refuse a damaged EEGLAB file, as :func:`check_matlab` does, or one of no sense.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If it is damaged, or speaks of more channels than anybody has.
    """
    n_channels = check_matlab(path).get("nbchan", 1)
    if not 0 < n_channels <= _MOST_CHANNELS:
        raise ValueError(f"it speaks of {n_channels:g} channels")


def check_matlab(path):
    """Refuse a MATLAB file whose parts do not fit into each other.

    Files of version 7.3, which are HDF5, are left to their reader. Values are passed over:
    it takes little memory, and of a compressed file the time to unpack it.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    dict of str to float
        The single numbers that are variables, or fields of one.

    Raises
    ------
    ValueError
        If a part is cut short, longer than what holds it, or of a kind that recordings
        have no use for (objects, functions).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(128)
        marks = {b"IM": "<", b"MI": ">"}
        if len(header) < 128 or header[126:] not in marks or 0 in header[:4]:
            raise ValueError("it is no MATLAB file of version 5 or later")
        order = marks[header[126:]]
        version = struct.unpack(order + "H", header[124:126])[0]
        found = {}
        if version == 0x0200:
            return found
        if version != 0x0100:
            raise ValueError(f"its version is {version:#x}")
        left = size - 128
        while left > 0:
            parts = _Parts(file.read, order, left, found)
            kind, n_bytes, _ = parts.tag()
            if kind == _ARRAY:
                parts.array(n_bytes, 0)
            elif kind == _COMPRESSED:
                unpacked = _Unpacked(file.read, parts.take(n_bytes))
                inner = _Parts(unpacked.read, order, math.inf, found)
                kind, n_inner, _ = inner.tag()
                if kind != _ARRAY:
                    raise ValueError(f"a compressed part is of type {kind}")
                inner.array(n_inner, 0)
                unpacked.finish()
            else:
                raise ValueError(f"a part is of type {kind}")
            left = parts.left
        return found


class _Parts:
    """Parts that follow each other in so many bytes."""

    def __init__(self, read, order, left, found):
        self.read, self.order, self.left, self.found = read, order, left, found

    def take(self, n_bytes):
        """Count bytes off."""
        if n_bytes > self.left:
            raise ValueError(f"a part of {n_bytes} bytes is longer than what holds it")
        self.left -= n_bytes
        return n_bytes

    def bytes(self, n_bytes):
        data = self.read(self.take(n_bytes))
        if len(data) < n_bytes:
            raise ValueError("it ends too early")
        return data

    def skip(self, n_bytes):
        while n_bytes > 0:
            n_bytes -= len(self.bytes(min(n_bytes, _BLOCK)))

    def tag(self):
        """Type and length of the next part, and its value where the tag holds it."""
        head = self.bytes(8)
        kind, n_bytes = struct.unpack(self.order + "II", head)
        if kind >> 16:  # a small one
            kind, n_bytes = kind & 0xFFFF, kind >> 16
            if n_bytes > 4:
                raise ValueError(f"a small part has {n_bytes} bytes")
            return kind, n_bytes, head[4 : 4 + n_bytes]
        return kind, n_bytes, None

    def values(self, kinds, most):
        """Read a part of some type and at most so many bytes."""
        kind, n_bytes, value = self.tag()
        if kind not in kinds or n_bytes > most:
            raise ValueError(f"a part of type {kind} and {n_bytes} bytes is out of place")
        if value is None:
            value = self.bytes(n_bytes)
            self.skip(-n_bytes % 8)
        return value

    def numbers(self, n_values):
        """Pass over so many values; return a single one."""
        kind, n_bytes, value = self.tag()
        if kind not in _WIDTHS or n_bytes != n_values * _WIDTHS[kind]:
            raise ValueError(
                f"{n_values} values are expected; there are {n_bytes} bytes of type {kind}"
            )
        if value is None and n_values == 1:
            value = self.bytes(n_bytes)
            self.skip(-n_bytes % 8)
        elif value is None:
            self.skip(n_bytes + -n_bytes % 8)
        if n_values == 1:
            return struct.unpack(self.order + _FORMATS[kind], value)[0]

    def array(self, n_bytes, depth, name=None):
        """Check an array of so many bytes, and all that it holds."""
        self.take(n_bytes)
        if not n_bytes:
            return
        inner = _Parts(self.read, self.order, n_bytes, self.found)
        flags = inner.values({_UINT32}, 8)
        if depth > _DEEPEST or len(flags) != 8:
            raise ValueError("an array does not begin as one")
        flags = struct.unpack(self.order + "II", flags)[0]
        kind, is_complex = flags & 0xFF, flags & 0x0800
        sizes = inner.values({_INT32}, 4 * 32)
        if len(sizes) < 8 or len(sizes) % 4:
            raise ValueError(f"the sizes of an array are {len(sizes)} bytes")
        shape = struct.unpack(f"{self.order}{len(sizes) // 4}i", sizes)
        n_values = math.prod(shape)
        if min(shape) < 0 or math.prod(n for n in shape if n) > 2**48:
            raise ValueError(f"an array has the shape {shape}")
        own_name = inner.values({_INT8}, 255).decode("latin-1")
        if kind == _CELL:
            inner.arrays(n_values, depth)
        elif kind == _STRUCT:
            names = inner.field_names()
            inner.arrays(n_values * len(names), depth, names)
        elif kind == _CHAR:
            inner.characters(n_values)
        elif _DOUBLE <= kind <= _UINT64:
            value = inner.numbers(n_values)
            if is_complex:
                inner.numbers(n_values)
            if value is not None and depth <= 1:
                self.found[name or own_name] = value
        else:
            raise ValueError(f"an array is of class {kind}")
        if inner.left:
            raise ValueError(f"an array ends with {inner.left} bytes too many")

    def field_names(self):
        """Read the names of a struct's fields."""
        length = self.values({_INT32}, 4)
        length = struct.unpack(self.order + "i", length)[0] if len(length) == 4 else 0
        names = self.values({_INT8}, 2**20)
        if not 0 < length <= 64 or len(names) % length:
            raise ValueError(f"{len(names)} bytes name fields, {length} each")
        names = [names[k : k + length] for k in range(0, len(names), length)]
        if any(0 not in name or not name[0] for name in names):
            raise ValueError("a field has no name, or one without an end")
        return [name.partition(b"\0")[0].decode("latin-1") for name in names]

    def arrays(self, number, depth, names=(None,)):
        """Check so many arrays that follow each other, named in turns."""
        if 8 * number > self.left:
            raise ValueError(f"{number} arrays do not fit into {self.left} bytes")
        for k in range(number):
            kind, n_bytes, _ = self.tag()
            if kind != _ARRAY:
                raise ValueError(f"a part of type {kind} is not an array")
            self.array(n_bytes, depth + 1, names[k % len(names)])

    def characters(self, number):
        """Check a text: UTF-8 may take several bytes for a character, others do not."""
        kind, n_bytes, value = self.tag()
        most = 4 * number if kind == 16 else number * _WIDTHS.get(kind, 0)
        if kind not in (1, 2, 4, 16, 17, 18) or not number <= max(n_bytes, 0) <= most:
            raise ValueError(f"a text of {number} has {n_bytes} bytes of type {kind}")
        if value is None:
            self.skip(n_bytes + -n_bytes % 8)


class _Unpacked:
    """A compressed part, unpacked block by block."""

    def __init__(self, read, left):
        self.source, self.left, self.unpack = read, left, zlib.decompressobj()

    def read(self, n_bytes):
        parts = []
        while n_bytes > 0:
            packed = self.unpack.unconsumed_tail
            if not packed and self.left and not self.unpack.eof:
                packed = self.source(min(self.left, _BLOCK))
                self.left -= len(packed)
            try:
                part = self.unpack.decompress(packed, n_bytes)
            except zlib.error as error:
                raise ValueError(f"it cannot be unpacked: {error}") from error
            if not (part or packed):
                break
            parts.append(part)
            n_bytes -= len(part)
        return b"".join(parts)

    def finish(self):
        """Read on to the end of the part, where its check sum is."""
        if self.read(1) or not self.unpack.eof:
            raise ValueError("a compressed part is longer or shorter than it says")
        self.source(self.left)
