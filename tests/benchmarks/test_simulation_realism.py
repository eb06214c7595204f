"""The benchmark of the simulated nights' realism."""

import numpy as np
import pytest
import simulation_realism
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from tests.benchmarks import line_of, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command with stages by a rule in the place of the ready-made stagers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation_realism, "has_sleepecg", lambda: True)
        patch.setattr(simulation_realism, "stage_with_sleepecg", stage_by_turns)
        for name in simulation_realism.EEG_STAGERS:
            patch.setitem(simulation_realism.EEG_STAGERS, name, lambda night, *of: night.y)
        return run(simulation_realism, tmp_path_factory.mktemp("benchmark"), "--fast")


def stage_by_turns(ecg, sfreq, stager):
    return np.arange(len(ecg) // 3000) % (3 if stager == "wrn-gru-mesa" else 2)


def test_page_has_each_stager_beside_its_real_nights(finished):
    assert line_of(finished.page, "YASA, ear LE")[1] == "1.000"
    assert "kappa 0.54 and accuracy 0.75" in finished.page
    assert "kappa 0.60 and accuracy 0.83" in finished.page
    assert "Every number here is of simulated nights" in finished.page


def test_heart_is_scored_by_seed_and_over_those_not_looked_at(finished):
    ((_, judged),) = (fits for fits in finished.fits if 2026 in fits[0])
    for stager, n_stages in {"wrn-gru-mesa": 3, "ws-gru-mesa": 2}.items():
        y = np.array([0, 1, 1, 1, 2])[judged[2026]["y"]].clip(max=n_stages - 1)
        codes = np.arange(60) % n_stages
        expected = {
            "kappa": cohen_kappa_score(y, codes),
            "accuracy": accuracy_score(y, codes),
            "F1 W": f1_score(y == 0, codes == 0),
        }
        for row in ("seed 2026", "all seeds not looked at"):
            found = {
                line["measure"]: float(line["value"])
                for line in finished.rows
                if (line["part"], line["row"]) == (stager, row)
            }
            for measure, value in expected.items():
                assert found[measure] == pytest.approx(value, abs=1e-4)


def test_without_sleepecg_the_page_says_what_to_install():
    assert "pip install sleepecg keras" in simulation_realism.heart_part({})


def test_sleepecg_hears_the_beats():
    """An even heart is asleep; its stages are our codes, one for each epoch."""
    pytest.importorskip("keras")
    pytest.importorskip("sleepecg")
    times = np.arange(100 * 30 * 20) / 100
    ecg = 1000 * np.exp(-0.5 * (((times % 1.0) - 0.5) / 0.01) ** 2)
    for stager, n_stages in {"wrn-gru-mesa": 3, "ws-gru-mesa": 2}.items():
        codes = simulation_realism.stage_with_sleepecg(ecg, 100.0, stager)
        assert codes.shape == (20,)
        assert set(codes) <= set(range(n_stages))
