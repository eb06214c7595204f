"""Statistics against YASA's own, and against nights counted by hand."""

import numpy as np
import pytest

from skleepkd.hypnogram import Hypnogram
from skleepkd.stages import SCHEMES


def drawn(seed):
    """Nights of some minutes: of any scheme, with short stages and long ones, unscored too."""
    rng = np.random.default_rng(seed)
    scheme = [*SCHEMES][seed % 3]
    stages = rng.choice([*SCHEMES[scheme]] + ["?"] * (seed % 2), size=rng.integers(1, 40))
    lengths = rng.integers(1, [2, 30][seed % 4 > 1], size=len(stages))
    return scheme, np.repeat(stages, lengths), [30, 20, 60][seed % 5 % 3]


@pytest.mark.parametrize("seed", range(30))
def test_they_are_yasas(seed):
    scheme, stages, epoch = drawn(seed)
    night = Hypnogram.from_stages(stages, epoch=epoch)
    night.classes = np.array(SCHEMES[scheme])  # which W and R alone do not tell
    night.stages = stages
    expected = night.to_yasa().sleep_statistics()
    assert night.statistics().keys() == expected.keys()
    np.testing.assert_allclose(
        [night.statistics()[name] for name in expected], list(expected.values()), atol=6e-5
    )


@pytest.mark.parametrize(
    "stages", [["W"] * 5, ["?"] * 3, ["N2"], ["W", "N1"] * 9 + ["W"], ["N2"] * 20, ["REM"]]
)
def test_they_are_yasas_where_something_is_missing(stages):
    night = Hypnogram.from_stages(stages)
    expected = night.to_yasa().sleep_statistics()
    assert night.statistics() == pytest.approx(expected, abs=6e-5, nan_ok=True)


def test_gaps_are_unscored():
    night = Hypnogram.from_stages(["W", "N2", "REM", "W"], onset=[60, 90, 240, 270])
    found = night.statistics()
    # From 60 to 300 s: eight epochs, of which four are not there.
    by_hand = {"TIB": 4.0, "SPT": 3.0, "TST": 1.0, "WASO": 0.0, "UNS": 2.0, "SE": 25.0}
    by_hand |= {"Lat_REM": 3.0, "SOL": 0.5, "SFI": 60.0, "%REM": 50.0}
    assert {name: found[name] for name in by_hand} == by_hand
    assert np.isnan(found["SOL_5min"])


def test_no_epoch_is_lost_where_gaps_are_half_an_epoch():
    night = Hypnogram.from_stages(["W", "N1", "N2", "REM"], onset=[0, 45, 75, 105])
    assert night.statistics()["TST"] == 1.5
    windows = Hypnogram.from_stages(["W", "N1", "N2"], onset=[0, 20, 40])
    with pytest.raises(ValueError, match="overlap"):
        windows.statistics()


@pytest.mark.parametrize("stages", [[], ["quiet", "active"]])
def test_without_stages_of_sleep_there_are_none(stages):
    proba = np.full((len(stages), 2), 0.5)
    with pytest.raises(ValueError, match=r"\d epochs of the classes \['quiet', 'active'\]"):
        Hypnogram(proba, ["quiet", "active"]).statistics()
