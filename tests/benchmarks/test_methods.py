"""The study of the methods: tiny runs, and what it promises."""

import methods
import methods_runs
import numpy as np
import pandas as pd
import pytest
import real_nights_runs
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from skleepkd import DistilledSleepStager
from skleepkd.model_selection import Comparison
from skleepkd.stages import is_unscored
from tests.benchmarks import line_of, run

FEW, ALL = methods.DEVELOPMENT
SOFTMAX = "softmax, teacher's weights"
FAST = ["--fast", "--steps", "1"]
SETTINGS = methods.read_options(FAST).settings


def found_of(**gains):
    """A cell in which the stager alone has 0.2, 0.3 and 0.4, and others so much more."""
    kappas = {methods.ALONE: 0.0, methods.SCALP: 0.4} | gains
    rows = [
        (name, 0, k, f"s{k}", 0.2 + 0.1 * k + gain, 1.0)
        for name, gain in kappas.items()
        for k in range(3)
    ]
    columns = ["method", "seed", "fold", "subject", "score", "fit_seconds"]
    frame = pd.DataFrame(rows, columns=columns)
    return Comparison(frame, methods.ALONE, methods.SCALP, "kappa")


# ---------------------------------------------------------------- what is compared


def steps_of(stager):
    """Steps of each pass."""
    return [len(row["batches"]) for row in stager.history_]


def test_every_training_has_the_same_number_of_steps():
    cohort = methods_runs.cohort_of(3, 40, 1.0, 0)
    X, y = cohort.X, np.where(cohort.groups == cohort.groups[0], cohort.y, -1)
    made = methods_runs.make_methods(SETTINGS, 0)
    for name, stager in made.items():
        stager.fit(X, y)
        if isinstance(stager, Pipeline):
            stager = stager[-1]
        n_passes = SETTINGS["passes"] * (2 if name == methods_runs.TWICE else 1)
        assert steps_of(stager) == [SETTINGS["steps"]] * n_passes, name
        teacher = getattr(stager, "teacher_", getattr(stager, "pretrained_", None))
        for one in getattr(teacher, "teachers_", [teacher]):
            if one is not None:
                assert steps_of(one) == [SETTINGS["steps"]] * SETTINGS["passes"], name


def test_few_are_scored_as_many_in_each_training():
    cohort = methods_runs.cohort_of(6, 40, 1.0, 0)
    folds, y_train = methods_runs.folds_of(cohort, 3, few=True)
    for train, test in folds:
        scored = train[~is_unscored(y_train[train])]
        assert len(np.unique(cohort.groups[scored])) == 2
        assert not set(cohort.groups[train]) & set(cohort.groups[test])
    folds, y_train = methods_runs.folds_of(cohort, 3, few=False)
    np.testing.assert_array_equal(y_train, cohort.y)


def test_the_moving_average_learns_from_scored_epochs_alone():
    cohort = methods_runs.cohort_of(3, 40, 1.0, 0)
    few = cohort.groups == cohort.groups[0]
    y, made = np.where(few, cohort.y, -1), methods_runs.make_methods
    one, other = (made(SETTINGS, 0)[methods_runs.AVERAGE] for _ in range(2))
    one.fit(cohort.X, y)
    other.fit(cohort.X[few], cohort.y[few])
    found = [stager.predict_proba(cohort.X) for stager in (one, other)]
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(
        found[0], made(SETTINGS, 0)[methods.ALONE].fit(cohort.X, y).predict_proba(cohort.X)
    )


def test_real_teachers_are_of_their_own_people(shared_data):
    X, y = real_nights_runs.read_features(shared_data)
    X = X.replace(source=X["source"][:, :1])
    theirs, _ = real_nights_runs.draw_people(X.subject, "SC400", 0)
    made = methods_runs.make_methods(SETTINGS, 0, real_nights_runs.FiveEpochs)
    rows = np.isin(X.subject, theirs)

    def fit(teacher):
        return teacher.fit(X.source_epochs[rows], y[rows])

    for name in ("softmax", "transfer", "softmax, two teachers", "mean teacher"):
        stager = methods_runs.frozen(made[name], fit)
        teacher = getattr(stager, "teacher", getattr(stager, "pretrained", None))
        teachers = teacher if isinstance(teacher, list) else [teacher]
        if name == "mean teacher":
            assert teacher is None
            continue
        assert all(isinstance(one, FrozenEstimator) for one in teachers)
        for one in teachers:
            assert set(one.estimator.fitted_on_["subject"]) == set(theirs)
        assert isinstance(stager, DistilledSleepStager) == (name != "transfer")
    result = methods_runs.run_real(made["softmax"], X, y, "SC400", 0, few=True)
    assert [row["subject"] for row in result["rows"]] == ["SC400"]


# ---------------------------------------------------------------- choice and advice


def test_the_best_four_are_chosen_by_their_shares():
    gains = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.05, "e": 0.0, methods.DEFAULTS: 0.4}
    gains |= dict.fromkeys(methods.CONTROLS, 0.4)
    other = {name: 0.0 for name in gains} | {"e": 0.24, "d": 0.1}
    found = {FEW: found_of(**gains), ALL: found_of(**other)}
    shares = methods.mean_shares(found)
    assert shares["a"] == pytest.approx(0.3 / 0.4 / 2)
    assert shares["d"] == pytest.approx(0.15 / 0.4 / 2)
    assert shares["e"] == pytest.approx(0.24 / 0.4 / 2)

    names = methods.chosen(found)
    assert names[-5:] == ["a", "e", "b", "d", methods.ALSO]
    assert names[:4] == [methods.ALONE, *methods.CEILINGS, methods.DEFAULTS]
    flat = {FEW: found_of(**{methods.SCALP: 0.0, "a": 0.1})}
    assert methods.mean_shares(flat)["a"] == 0  # no gap, no share


def test_advice_says_what_the_tables_have():
    controls = dict.fromkeys(methods.CONTROLS, 0.05) | {methods_runs.TWICE: 0.06}
    cells = [found_of(a=0.2, b=0.1, **controls | {methods.DEFAULTS: -0.1})]
    cells.append(found_of(a=-0.1, b=0.1, **controls | {methods.DEFAULTS: 0.1}))
    lines = methods.advice(dict(zip(methods.DEVELOPMENT, cells, strict=True)), {})
    assert lines[0].startswith(
        f"- {FEW} (simulated): **a**, +0.200 [+0.200, +0.200] (shown)"
    )
    assert "50% [50%, 50%] of the gap" in lines[0]
    assert f"{methods_runs.TWICE}, +0.060" in lines[0]
    assert f"**{methods.DEFAULTS}**" in lines[1] or "**b**" in lines[1]
    assert "**b**, whose smallest gain over the simulated cells is +0.100" in lines[2]
    assert f"a loss in {FEW}" in lines[3]


# ---------------------------------------------------------------- tiny runs


def test_a_tiny_run_resumes_and_its_page_follows_from_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "N_CHOSEN", 2)
    monkeypatch.setattr(methods, "CELLS", {c: methods.CELLS[c] for c in (FEW, ALL)})
    asked = [*FAST, "--passes", "1", "--methods", SOFTMAX, "mean teacher"]
    result = run(methods, tmp_path, *asked)
    rows, page = pd.DataFrame(result.rows), result.page
    assert page.startswith("# Methods of distillation")
    assert "\n\nThe best of each cell:\n\n- few scored, noise 1 (simulated): **" in page
    kappas = rows[rows["error"] == ""].assign(score=lambda of: of["score"].astype(float))
    means = kappas.groupby(["part", "cell", "method"])["score"].mean()
    # Four people; the mean teacher is left out where all are scored.
    counts = kappas.groupby("part")["method"].count().to_dict()
    assert counts == {"development": 4 * (4 + 3), "confirmation": 4 * (10 + 9)}
    for cell in methods.CELLS:
        section = page[page.index(f"### {cell.capitalize()}") :]
        section = section[: section.index("\n##", 4)]
        for name in (methods.ALONE, methods.SCALP, *methods.CONTROLS):
            mean = means["confirmation", cell, name]
            assert line_of(section, name)[1].startswith(f"{mean:.3f} [")
    errors = rows[rows["part"] == "calibration"]
    assert set(errors["method"]) == {"as trained", "calibrated"}
    assert errors["subject"].nunique() == 4
    # Two folds.
    assert [len(tasks) for tasks, _ in result.fits] == [8, 6, 20, 18, 2]
    picture = tmp_path / "out" / "methods.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = run(methods, tmp_path, *asked)
    assert "did 0 of" in again.page
    assert again.rows == result.rows


def test_a_method_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        methods.read_options(["--methods", "sofmax"])
    assert "invalid choice: 'sofmax' (choose from" in capsys.readouterr().err
