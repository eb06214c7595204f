"""Damage: bytes flipped, cut, moved; fields, numbers and lines replaced by odd ones."""

import struct

#: What a number in a text or a field may become.
ODD_NUMBERS = (
    *("", "0", "-1", "1", "2", "7.5", "-0.0", "1e-9", "1e309", "-1e309", "nan", "inf"),
    *("-inf", "NaN", "99999999", "-9999999", "2147483647", "2147483648", "-2147483649"),
    *("9223372036854775807", "9223372036854775808", "1" * 400, "0x10", "1_000", "1,5"),
    *("٣", "²", "True", "None", "1e", "+", "--3", " ", "\x00", "é", "abc"),
)
#: What four or eight bytes of a binary file may become.
ODD_INTEGERS = (0, 1, 7, 8, 127, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
ODD_TEXTS = (
    *("", " ", "\x00", "nan", "x" * 70_000, "é" * 20, "\ufeff", "\ud800", "../../x"),
    *("/etc/hostname", "a\tb", "a\nb", '"', "os.system", "builtins.eval", "%s%n", "{}"),
    *("http://127.0.0.1:9/x", "x::http://127.0.0.1:9/x"),
)


def damage(data, other, rng):
    """Damage bytes one to three times; ``other`` is a file to take pieces of."""
    for _ in range(rng.integers(1, 4)):
        data = _DAMAGES[rng.integers(len(_DAMAGES))](bytearray(data), other, rng)
    return bytes(data)


def _place(data, rng, width=1):
    """Choose a place, half the time near the beginning, where headers are."""
    last = max(1, len(data) - width + 1)
    if rng.random() < 0.5:
        last = min(last, 1024)
    return int(rng.integers(last))


def _run(data, rng):
    start = _place(data, rng)
    return slice(start, start + int(rng.choice([1, 2, 4, 8, 16, 80, 256, 4096])))


def flip_bits(data, other, rng):
    for _ in range(rng.integers(1, 9) if data else 0):
        data[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return data


def overwrite(data, other, rng):
    run = _run(data, rng)
    n_bytes = len(data[run])
    fills = (bytes(n_bytes), b"\xff" * n_bytes, b" " * n_bytes, rng.bytes(n_bytes))
    data[run] = fills[rng.integers(len(fills))]
    return data


def delete(data, other, rng):
    del data[_run(data, rng)]
    return data


def insert(data, other, rng):
    start = _place(data, rng)
    data[start:start] = rng.bytes(int(rng.choice([1, 2, 8, 80, 256])))
    return data


def repeat(data, other, rng):
    run = _run(data, rng)
    data[run] = data[run] * int(rng.choice([2, 3, 50]))
    return data


def truncate(data, other, rng):
    return data[: _place(data, rng)]


def extend(data, other, rng):
    tails = (bytes(1), bytes(5000), rng.bytes(777), bytes(data), b"\n", b"\x1a")
    return data + tails[rng.integers(len(tails))]


def splice(data, other, rng):
    """Begin as one file and go on as another."""
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def swap(data, other, rng):
    first, second = sorted((_place(data, rng), _place(data, rng)))
    width = min(second - first, 64)
    one, two = slice(first, first + width), slice(second, second + width)
    data[one], data[two] = data[two], data[one]
    return data


def odd_integer(data, other, rng):
    start = _place(data, rng, 8) // 4 * 4
    kind = ("<I", ">I", "<Q", "<H")[rng.integers(4)]
    value = ODD_INTEGERS[rng.integers(len(ODD_INTEGERS))] % 2 ** (8 * struct.calcsize(kind))
    data[start : start + struct.calcsize(kind)] = struct.pack(kind, value)
    return data


_DAMAGES = (
    *(flip_bits, overwrite, delete, insert, repeat, truncate, extend, splice, swap),
    odd_integer,
)

# ---------------------------------------------------------------- texts


def damage_text(data, other, rng):
    """Damage a table or a header as text, line by line and field by field."""
    if rng.random() < 0.25:
        return damage(data, other, rng)
    # Latin-1 keeps every byte, so that odd texts can be of any encoding.
    for _ in range(rng.integers(1, 4)):
        data = _TEXT_DAMAGES[rng.integers(len(_TEXT_DAMAGES))](data, other, rng)
    return data


def _encoded(text):
    return text.encode("utf-8", "surrogatepass")


def odd_field(data, other, rng):
    lines = data.split(b"\n")
    row = int(rng.integers(len(lines)))
    mark = b"\t" if b"\t" in data else b" "
    fields = lines[row].split(mark)
    odd = ODD_NUMBERS if rng.random() < 0.7 else ODD_TEXTS
    fields[rng.integers(len(fields))] = _encoded(odd[rng.integers(len(odd))])
    lines[row] = mark.join(fields)
    return b"\n".join(lines)


def move_fields(data, other, rng):
    lines = data.split(b"\n")
    row = int(rng.integers(len(lines)))
    fields = lines[row].split(b"\t")
    kind = rng.integers(4)
    if kind == 0:
        rng.shuffle(fields)
    elif kind == 1:
        fields.pop()
    elif kind == 2:
        fields += fields
    else:
        fields = [b"\t".join(fields).replace(b"\t", b",")]
    lines[row] = b"\t".join(fields)
    return b"\n".join(lines)


def move_lines(data, other, rng):
    lines = data.split(b"\n")
    row = int(rng.integers(len(lines)))
    kind = rng.integers(5)
    if kind == 0:
        rng.shuffle(lines)
    elif kind == 1:
        lines.pop(row)
    elif kind == 2:
        lines[row:row] = [lines[row]] * int(rng.choice([1, 2, 3000]))
    elif kind == 3:
        lines = lines[:1]
    else:
        lines[row:row] = other.split(b"\n")[:3]
    return b"\n".join(lines)


def odd_encoding(data, other, rng):
    text = data.decode("latin-1")
    variants = (
        b"\xef\xbb\xbf" + data,
        b"\xef\xbb\xbf\xef\xbb\xbf" + data,
        text.encode("utf-16"),
        data.replace(b"\n", b"\r"),
        data.replace(b"\n", b"\r\r\n"),
        data.replace(b"\r\n", b"\n\n\n"),
        data.replace(b"\t", b"  "),
        data.replace(b"\n", b"\x00\n"),
        data + b"\xff\xfe\xc3",
        data + b"x" * 300_000,
        data + b"\t" * 20_000,
        b'"' + data,
        b"",
        b"\x00" * len(data),
    )
    return variants[rng.integers(len(variants))]


_TEXT_DAMAGES = (odd_field, odd_field, odd_field, move_fields, move_lines, odd_encoding)
