"""The growth benchmark: what it counts, and what it concludes from what it counted."""

import tracemalloc
from pathlib import Path

import growth
import pytest

from skleepkd import PairedEpochs

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's counts")


@linux
def test_signals_are_counted_by_their_bytes(tmp_path):
    n = 40
    epochs = growth.noise(n, 3, 1920)
    PairedEpochs(epochs, source=epochs, **growth.about(n)).to_memmap(tmp_path)
    found = growth.with_signals(tmp_path, 20, "small")
    # Half of the epochs: two sides of three channels, and 96 features in 16 bit.
    assert found["map_mb"] == pytest.approx(20 * 2 * 3 * 1920 * 4 / 1e6)
    assert found["features_mb"] == pytest.approx(20 * 96 * 2 / 1e6)
    assert set(found["seconds"]) == set(growth.COLORS)
    assert min(found["seconds"].values()) > 0


@linux
def test_rows_hold_names_onsets_and_stages():
    found = growth.rows_alone(60 * growth.NIGHT)
    assert found["name_bytes"] == 4 * len("subject-00000")
    # Two names, an onset, a stage; what numpy has freed before may be used again.
    assert found["pair_mb"] < 60 * growth.NIGHT * (52 + 52 + 8 + 8) / 1e6 + 30
    # Two entries (at least 100 bytes) for each batch of 32.
    assert found["history_mb"] > 60 * growth.NIGHT / 32 * 100 / 1e6
    assert not tracemalloc.is_tracing()


def measured(size, share, begin=0.0):
    """Seconds that grow by a share an epoch, from where they begin."""
    seconds = {name: begin + share * size for name in growth.COLORS}
    sizes = {"map_mb": 0.05 * size, "features_mb": 0.001 * size, "memory_mb": 200.0}
    return {"seconds": seconds, **sizes}


def cells_of(page, title):
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {title} |")]
    return [float(cell.replace(",", "")) for cell in line.split("|")[2:-1]]


def test_estimate_follows_straight_lines():
    small = {n: measured(n, 0.001, begin=2.0) for n in (300, 1000, 9000)}
    rows = {
        nights * 960: {
            "pair_mb": 0.1 * nights,
            "memory_mb": 0.5 * nights,
            "history_mb": 0.01 * nights,
            "seconds": 0.01 * nights,
            "name_bytes": 48,
        }
        for nights in (100, 10_000)
    }
    page = growth.page_of(small, {300: measured(300, 0.01)}, rows)
    assert "## 30 times the epochs" in page
    n = 10_000 * 960
    # The slope of a line does not know where it begins.
    hours = [n * 0.001 / 3600, n * 0.01 / 3600]
    found = cells_of(page, "a pass over all epochs, hours on one core")
    assert found == pytest.approx(hours, rel=5e-3)
    assert cells_of(page, "100 passes of the teacher, days") == pytest.approx(
        [100 / 24 * of_pass for of_pass in hours], rel=5e-3
    )
    assert cells_of(page, "disk: the map of both sides, GB") == [480, 480]
    features = cells_of(page, "disk: the features' temporary map, GB")
    assert features == pytest.approx([9.6, 9.6])
    # 5 GB of rows, 0.2 of a network, and 0.1 of history for each of 2 x 100 passes.
    title = "private memory, the history of 100 passes of both with it, GB"
    assert cells_of(page, title) == pytest.approx([25.2, 25.2])
    # (16 - 0.2) GB of 0.5 MB a night and 2 x 100 times 0.01 MB of history.
    assert "about 6,320 nights fit into 16 GB" in " ".join(page.split())


def test_exponents_are_those_of_powers():
    powers = {n: measured(n, 0.001) for n in (300, 1000, 9000)}
    for found in powers.values():
        found["seconds"]["checks"] = found["seconds"]["checks"] ** 1.5
    assert growth.exponent(powers, "checks") == pytest.approx(1.5)
    assert growth.exponent(powers, "prediction") == pytest.approx(1.0)


def test_picture_has_logarithmic_axes():
    small = {n: measured(n, 0.001) for n in (300, 9000)}
    rows = {n: {"pair_mb": 1.0, "memory_mb": 2.0} for n in (96_000, 960_000)}
    for ax in growth.draw(small, rows).axes:
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert "MB" in ax.get_ylabel() or "Seconds" in ax.get_ylabel()


@pytest.mark.parametrize("wrong", [["--sizes", "300"], ["--nights", "4"]])
def test_what_is_too_little_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        growth.read_options(wrong)
    assert "A line needs two sizes" in capsys.readouterr().err
