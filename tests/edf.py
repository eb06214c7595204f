"""A writer of EDF files, byte for byte as their headers promise."""


def write_edf(
    path,
    names,
    payload,
    record_seconds,
    samples,
    units,
    reserved="",
    start=("01.01.00", "22.00.00"),
):
    """Write an EDF; ``payload`` has the records' bytes, ``samples`` those of a record.

    A step of the digital values is 0.1 of the unit.
    """

    def field(values, width):
        return b"".join(str(value).ljust(width).encode("latin-1") for value in values)

    n = len(names)
    n_records = len(payload) // (2 * sum(samples))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        field(["0"], 8)
        + field(["X", "X"], 80)
        + field([*start, 256 * (n + 1)], 8)
        + field([reserved], 44)
        + field([n_records, record_seconds], 8)
        + field([n], 4)
        + field(names, 16)
        + field([""] * n, 80)
        + field(units, 8)
        + field([-3276.8] * n + [3276.7] * n + [-32768] * n + [32767] * n, 8)
        + field([""] * n, 80)
        + field(samples, 8)
        + field([""] * n, 32)
        + payload
    )
