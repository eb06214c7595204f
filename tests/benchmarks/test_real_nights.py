"""The real nights: what is read, who learns from what, and a tiny run on made-up features."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import real_nights
import real_nights_runs as runs
import real_nights_ucddb as ucddb

from skleepkd.distillation import LeakageWarning
from skleepkd.preprocessing import BandPowers
from tests.benchmarks import line_of, run
from tests.files import codes_of, lights_off, real_sleep_edf, write_sleep_edf_files

SETTINGS = {
    **{"passes": 1, "steps": 2, "sequence_steps": 2, "lr": 0.01, "scored": [1]},
    **{"alpha": 0.9, "temperature": 2.0, "feature_weight": 10.0},
}


def made_up(n_people=4, n_epochs=50):
    """Features that tell stages apart, one night of each person."""
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(np.arange(5), n_epochs // 5), n_people)
    features = rng.normal(0, 0.5, (len(y), 2, 7)) + 0.3 * y[:, None, None]
    person = np.repeat([f"SC40{k}" for k in range(n_people)], n_epochs)
    onset = np.tile(30.0 * np.arange(n_epochs), n_people)
    return features, np.char.add(person, "1"), onset, y


@pytest.fixture
def cohort():
    features, night, onset, y = made_up()
    return runs.make_pair(features, night.astype("U5"), night, onset), y


# ---------------------------------------------------------------- what is read


def test_features_are_scaled_by_night_and_have_their_neighbours():
    features, night, onset, _ = made_up(2, 10)
    onset[15:] += 30.0  # a gap within the second night
    before = features.copy()
    X = runs.make_pair(features, night, night, onset)
    source = X["source"]
    assert source.shape == (20, 2, 5, 7)
    np.testing.assert_array_equal(X["target"], source[:, 1:])
    for rows in (slice(0, 10), slice(10, 20)):
        own = before[rows]
        expected = (own - own.mean(axis=0)) / own.std(axis=0)
        np.testing.assert_allclose(source[rows, :, 2], expected, atol=1e-5)
    middle = source[:, :, 2]
    for row, near in {
        5: [3, 4, 5, 6, 7],
        0: [0, 0, 0, 1, 2],
        9: [7, 8, 9, 9, 9],
        11: [10, 10, 11, 12, 13],
        14: [12, 13, 14, 14, 14],
        16: [15, 15, 16, 17, 18],
    }.items():
        np.testing.assert_array_equal(source[row], middle[near].swapaxes(0, 1))


def test_the_shared_features_are_those_of_the_experts_epochs(shared_data):
    file = shared_data / "sleep_edf_features"
    if not file.is_dir():
        pytest.skip("the features of Sleep-EDF are not here")
    X, y = runs.read_features(shared_data)
    assert len(np.unique(X.subject)) == 10
    nights = real_sleep_edf(shared_data)
    for night in np.unique(X.recording):
        rows = X.recording == night
        notes, _, duration, _ = nights[night]
        codes = codes_of(notes, duration)
        # They count scored epochs: what nobody scored was left out before.
        expected = codes[codes >= 0][(X.onset[rows] // 30).astype(int)]
        np.testing.assert_array_equal(y[rows], expected)


def test_recordings_give_the_same_kind_of_pair(tmp_path):
    stages, times = "W" * 4 + "1234" + "R" * 4 + "W" * 8, np.arange(3000) / 100
    rng = np.random.default_rng(0)
    delta = np.concatenate(
        [(60 if s in "34" else 5) * np.sin(4 * np.pi * times) for s in stages]
    )
    for number in ("SC4001", "SC4002", "SC4011"):
        signals = {
            name: delta + rng.normal(0, 5, len(delta))
            for name in ("EEG Fpz-Cz", "EEG Pz-Oz")
        }
        texts = [f"Sleep stage {s}" for s in stages]
        notes = [(30 * k, 30, text) for k, text in enumerate(texts)]
        write_sleep_edf_files(
            tmp_path, number, notes, len(stages), lights_off(number), signals
        )
    X, y = runs.compute_features(tmp_path)
    assert y.tolist() == 3 * ([0] * 4 + [1, 2, 3, 3] + [4] * 4 + [0] * 8)
    assert np.unique(X.subject).tolist() == ["SC400", "SC401"]
    assert np.unique(X.recording).tolist() == ["SC4001", "SC4002", "SC4011"]
    assert X["source"].shape == (60, 2, 5, 7)
    # Delta, scaled by its night: high in the two epochs of deep sleep, in both derivations.
    middle = X["source"][:, :, 2, 0]
    assert middle[y == 3].min() > 1 > middle[y != 3].max()
    assert BandPowers().names[0] == "delta"


# ---------------------------------------------------------------- who learns from what


def test_people_are_drawn_anew_by_seed_and_never_tested():
    subject = np.repeat([f"SC40{k}" for k in range(10)], 3)
    draws = [runs.draw_people(subject, "SC403", seed) for seed in (0, 1)]
    for theirs, own in draws:
        assert (len(theirs), len(own)) == (5, 4)
        assert {*theirs, *own, "SC403"} == set(subject)
    assert draws[0][0].tolist() != draws[1][0].tolist()


def kappas_of(result):
    return {(row["method"], row["scored"]): row["kappa"] for row in result["rows"]}


def test_a_student_without_labels_has_seen_none(cohort):
    X, y = cohort
    _, own = runs.draw_people(X.subject, "SC401", 0)
    others = np.where(np.isin(X.subject, own), (y + 1) % 5, y)
    settings = SETTINGS | {"alpha": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        one, two = (
            kappas_of(runs.run_few(settings, X, of, person="SC401", seed=0))
            for of in (y, others)
        )
    changed = {key for key in one if one[key] != two[key]}
    unlabelled = {key for key in one if key[1] == 0 and not key[0].endswith("the others")}
    assert not changed & unlabelled
    assert {(runs.ALONE, 1), (runs.FOLLOWED, 1), (runs.OWN, 1)} <= changed


@pytest.mark.parametrize("sequences", [False, True])
def test_all_methods_of_a_fold_are_scored(cohort, sequences):
    X, y = cohort
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        scores = kappas_of(runs.run_fold(SETTINGS, X, y, "SC400", 0, sequences))
    expected = {runs.TEACHER, runs.ALONE, "transfer", "offline", "online", "softmax"}
    assert expected <= {name for name, n in scores if n == 9}
    few = kappas_of(runs.run_fold(SETTINGS, X, y, "SC400", 0, sequences, [runs.ALONE]))
    assert few == {(runs.ALONE, 9): scores[runs.ALONE, 9]}


def test_a_tiny_run_resumes_and_its_page_follows_from_its_rows(tmp_path, monkeypatch):
    features, night, onset, y = made_up()
    folder = tmp_path / "data" / "sleep_edf_features"
    folder.mkdir(parents=True)
    epoch = (onset / 30).astype(int)
    np.savez(folder / "features.npz", features=features, night=night, epoch=epoch, stage=y)
    monkeypatch.setattr(real_nights, "two_nights", lambda study, folder: ("", []))
    arguments = ["--fast", "--data", str(tmp_path / "data")]
    first = run(real_nights, tmp_path, *arguments)
    assert "did 12 of 12 fits" in first.page
    kappas = {
        name: np.array(
            [
                float(row["kappa"])
                for row in first.rows
                if (row["run"], row["method"], row["scored"]) == ("few", name, n)
            ]
        )
        for name, n in ((runs.NO_LABEL, "0"), (runs.CONTROL, "0"), (runs.ALONE, "1"))
    }
    line = line_of(first.page, runs.NO_LABEL, "0")
    gain = kappas[runs.NO_LABEL] - kappas[runs.CONTROL]
    assert line[2].startswith(f"{kappas[runs.NO_LABEL].mean():.3f} [")
    assert line[4].startswith(f"{gain.mean():+.3f} [")
    assert line[6] == f"{(gain > 0).sum()} of 4"
    asked = line_of(first.page, "no label, or 1 scored alone?")
    gain = kappas[runs.NO_LABEL] - kappas[runs.ALONE]
    assert asked[1].startswith(f"{gain.mean():+.3f} [")
    assert (tmp_path / "out" / "real_nights.png").read_bytes().startswith(b"\x89PNG")
    again = run(real_nights, tmp_path, *arguments)
    assert "did 0 of 12 fits" in again.page
    assert again.rows == first.rows


# ---------------------------------------------------------------- two nights of UCDDB


@pytest.fixture
def nights(shared_data):
    if not (shared_data / "ucddb").is_dir():
        pytest.skip("the nights of UCDDB are not here")
    return shared_data / "ucddb"


def test_the_nights_are_in_microvolts_with_aasm_codes(nights):
    signal, epoch, y, sfreq = ucddb.read_night(nights / "ucddb018.npz")
    assert signal.shape == (822, 3840)
    assert epoch.tolist() == list(range(822))
    assert sfreq == 128
    # Counted from the file's R&K codes: 0 W, 1 REM, 2 to 5 stages 1 to 4.
    assert np.bincount(y).tolist() == [328, 58, 280, 137, 19]
    assert 5 < np.median(signal.std(axis=1)) < 60
    raw, *_ = ucddb.student_signal(nights / "ucddb018.npz", scaled=False, worn=False)
    assert raw.shape == (822, 1920)
    np.testing.assert_allclose(raw.mean(axis=1), signal.mean(axis=1), atol=2)
    scaled, *_ = ucddb.student_signal(nights / "ucddb018.npz", scaled=True, worn=False)
    assert np.median(scaled.std(axis=1)) == pytest.approx(20, rel=1e-4)


def test_students_of_two_nights_learn_from_labels_or_from_a_teacher(nights, monkeypatch):
    def ask(path):
        y = ucddb.read_night(path)[2]
        probabilities = np.eye(5)[np.where(y < 0, 0, y)]
        return {"probabilities": {"YASA": probabilities[:, ::-1], "GSSC": probabilities}}

    monkeypatch.setattr(ucddb, "ask_teachers", ask)
    monkeypatch.setattr(ucddb, "_SIGNALS", {"scaled by night": (True, False)})
    settings = {"seeds": [0], "night_passes": 1}
    study = SimpleNamespace(
        options=SimpleNamespace(settings=settings),
        run=lambda function, tasks, **shared: {
            name: function(**shared, **task) for name, task in tasks.items()
        },
    )
    page, rows = ucddb.two_nights(study, nights.parent)
    assert "| GSSC | raw | 1.000 | 1.000 |" in page
    kappa = {(row["method"], row["subject"]): row["kappa"] for row in rows}
    assert len(kappa) == 2 * 5
    # What is right for certain teaches what labels teach.
    labels, teacher = (
        kappa[f"student: {way}", "018"] for way in ("labels", "GSSC, no label")
    )
    assert labels == pytest.approx(teacher, abs=0.05)
