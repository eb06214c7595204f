"""The benchmark of Phan et al. (2019): a run of seconds, and what it promises."""

import shutil
from pathlib import Path

import numpy as np
import phan2019
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from skleepkd.datasets import make_cohort
from tests.benchmarks import kept, line_of, run
from tests.files import codes_of, real_sleep_edf, sleep_edf_signals, write_sleep_edf_files

FAST = ["--fast", "--subjects", "4"]
SUBJECTS = [f"sleep-edf-SC4{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    return run(phan2019, folder, *FAST), folder


def rows_of(result, scenario, system):
    wanted = scenario, system
    return [row for row in result.rows if (row["scenario"], row["system"]) == wanted]


def test_a_row_for_each_scenario_system_and_subject(finished):
    rows = finished[0].rows
    assert len(rows) == (2 * len(phan2019.ROWS) + 1) * 4
    assert {row["system"] for row in rows} == set(phan2019.ROWS)
    for scenario in ("eeg", "eog"):
        for system in phan2019.ROWS:
            own = rows_of(finished[0], scenario, system)
            assert len({row["subject"] for row in own}) == 4
            assert len({row["fold"] for row in own}) == 2
            assert all(row["subject"] not in row["held_out"] for row in own)
    # Folds are alike in all systems.
    assert len({(row["fold"], row["held_out"]) for row in rows}) == 2


def test_scores_are_those_of_the_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    _, eeg, eog, _ = finished[0].fits
    for scenario, channel, fits in (("eeg", "Fpz-Cz", eeg[1]), ("eog", "EOG", eog[1])):
        how = {"source": None, "n_epochs": 24, "sfreq": 100.0, "random_state": 0}
        cohort = make_cohort(4, target=[channel], **how)
        y, groups = cohort.y, cohort.groups
        table = finished[0].page.split(phan2019.SCENARIOS[scenario])[1].split("\n\n")[1]
        for system in phan2019.ROWS:
            folds = fits[system, 0]["predicted"], fits[system, 1]["predicted"]
            predicted = folds[0] | folds[1]
            for row in rows_of(finished[0], scenario, system):
                subject = row["subject"]
                accuracy = accuracy_score(y[groups == subject], predicted[subject])
                assert float(row["accuracy"]) == pytest.approx(accuracy, abs=1e-5)
            stages = np.concatenate([predicted[p] for p in sorted(predicted)])
            macro = {"average": "macro", "zero_division": 0}
            expected = [
                f"**{100 * accuracy_score(y, stages):.1f}**",
                f"**{cohen_kappa_score(y, stages):.3f}**",
                f"**{100 * f1_score(y, stages, average='macro'):.1f}**",
                f"**{100 * recall_score(y, stages, **macro):.1f}**",
            ]
            assert line_of(table, phan2019.LABELS[system])[3:11:2] == expected


def test_gains_follow_from_the_rows(finished):
    accuracy = {
        system: {
            row["subject"]: 100 * float(row["accuracy"])
            for row in rows_of(finished[0], "eog", system)
        }
        for system in ("all", "direct")
    }
    gain = np.mean([accuracy["all"][p] - accuracy["direct"][p] for p in accuracy["all"]])
    page = finished[0].page
    gains = page.split(phan2019.SCENARIOS["eog"])[1].split("\n\n")[3]
    for text in (gains, page.split("## What is shown")[1]):
        assert f"| +29.7 | {gain:+.1f} [" in text


def test_page_says_what_it_is(finished):
    result, _ = finished
    assert result.page.startswith("# Phan et al. (2019), simulated nights")
    assert "python benchmarks/phan2019.py --fast --subjects 4" in result.page
    assert "did 39 of 39 fits" in result.page
    for line in (
        "| passes over the target's sequences | 1 | 10 |",
        "| learning rate | 0.001 | 0.0001 |",
        "| evaluations without improvement before the end | 2 | 50 steps (code: 50) |",
        "| steps before which there is no end | 0 | - (code: 1000) |",
        "| folds | 2 | 20 |",
    ):
        assert line in result.page
    assert "Without any mismatch, on C4-A1 of the target subjects" in result.page


def test_run_goes_on_where_it_was(finished):
    first, folder = finished
    shutil.rmtree(kept(folder, "_call")[5].parent)
    again = run(phan2019, folder, *FAST)
    assert "did 1 of 39 fits" in again.page
    for row, earlier in zip(again.rows, first.rows, strict=True):
        assert row == {**earlier, "cpu_seconds": row["cpu_seconds"]}


def test_figure_has_single_folds_and_their_mean(finished, tmp_path):
    (tmp_path / "cache").symlink_to(finished[1] / "cache")
    result = run(phan2019, tmp_path, *FAST, "--figure")
    assert "did 0 of 11 fits" in result.page
    picture = tmp_path / "out" / "phan2019_simulated_figure3.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({picture.name})" in result.page
    _, (_, kept_fits) = result.fits
    fits = {row: [kept_fits[row, 0], kept_fits[row, 1]] for row in phan2019.DRAWN}
    for row in result.rows:
        if row["fold"] == "Mean":
            continue
        fold = fits[row["system"]][int(row["fold"][-1]) - 1]
        (look,) = [one for one in fold["looks"] if one["step"] == int(row["step"])]
        assert float(row["test_accuracy"]) == pytest.approx(look["test_accuracy"], abs=1e-5)
    figure, _ = phan2019.draw_curves(fits, "simulated")
    assert [panel.get_title() for panel in figure.axes] == ["Fold 1", "Fold 2", "Mean"]
    assert [len(panel.lines) for panel in figure.axes] == [5, 5, 5]
    one, other, mean = (np.array(panel.lines[0].get_ydata()) for panel in figure.axes)
    shared = min(len(one), len(other))
    np.testing.assert_allclose(mean, (one[:shared] + other[:shared]) / 2)


class Requested(Exception):
    """Raised in the place of the fits."""


def test_a_network_that_was_saved_before_is_taken_again(finished, monkeypatch, tmp_path):
    (file,) = (finished[1] / "cache").rglob("c4-a1.safetensors")

    def run(self, function, tasks, /, pretrained, **shared):
        raise Requested(function, pretrained)

    monkeypatch.setattr(phan2019.Study, "run", run)
    command = ["--fast", "--pretrained", str(file), "--cache", str(tmp_path)]
    with pytest.raises(Requested) as requested:
        phan2019.main(command)
    function, stager = requested.value.args
    assert function is phan2019.fit_fold
    seen = stager.fitted_on_["subject"].tolist()
    assert seen == ["simulated-1000-s000", "simulated-1000-s001"]
    with pytest.raises(SystemExit, match="width 4: give --sequence-length and --hidden"):
        phan2019.main([*command, "--hidden", "5"])


# ---------------------------------------------------------------- one fit


@pytest.fixture(scope="module")
def fold():
    """Five simulated subjects, settings, and a network that was trained on others."""
    settings = phan2019.read_options(["--fast", "--passes", "2"]).settings
    how = {"source": None, "n_epochs": 16, "sfreq": 100.0}
    cohort = make_cohort(5, target=["EOG"], random_state=3, **how)
    source = make_cohort(5, target=["C4-A1"], random_state=4, **how)
    result = phan2019.pretrain(settings, source.X, source.y)
    # One pass over the windows of four epochs.
    assert result["steps"] == -(-5 * (16 - 3) // 32)
    return cohort, settings, np.unique(cohort.groups).tolist(), result["stager"]


@pytest.mark.parametrize("row", ["direct", "all", "scratch-neighbours"])
def test_test_subjects_touch_nothing(fold, row):
    """What is predicted for one of them does not depend on the nights of the other."""
    cohort, settings, subjects, stager = fold

    def fit(X, y):
        return phan2019.fit_fold(row, subjects[:2], subjects[2:3], settings, X, y, stager)

    other = cohort.groups == subjects[1]
    louder = cohort.X["target"].copy()
    louder[other] *= 5
    result = fit(cohort.X, cohort.y)
    again = fit(cohort.X.replace(target=louder), np.where(other, 4 - cohort.y, cohort.y))
    np.testing.assert_array_equal(*(r["predicted"][subjects[0]] for r in (result, again)))
    assert result["best_step"] == again["best_step"]
    assert result["held_out"] == subjects[2:3]
    seen, seen_again = (
        [look.get("train_loss") for look in r["looks"]] for r in (result, again)
    )
    assert seen == seen_again
    assert (result["steps"] == 0) == (row == "direct")


def test_those_who_validate_do_not_count_for_the_statistics(fold, monkeypatch):
    """As in the paper; and the statistics are learned for direct transfer too."""
    cohort, settings, subjects, stager = fold
    fitted = []

    class Watched(phan2019.LogSpectrogram):
        def fit(self, X, y=None):
            fitted.append(np.unique(X.subject).tolist())
            return super().fit(X, y)

    monkeypatch.setattr(phan2019, "LogSpectrogram", Watched)
    people = subjects[:1], subjects[3:]
    phan2019.fit_fold("direct", *people, settings, cohort.X, cohort.y, stager)
    assert fitted == [subjects[1:3]]


# ---------------------------------------------------------------- subjects and folds


def options_of(*arguments):
    return phan2019.read_options(["--data", "x", "--source", "y", *arguments])


def test_the_papers_twenty_folds():
    """SPEC: fold 1 tests subject 1 and validates on 3, 10, 11 and 14, counted from 1."""
    folds = phan2019.make_folds(options_of(), np.repeat(SUBJECTS, 2))
    assert [test for test, _ in folds] == [[subject] for subject in SUBJECTS]
    assert folds[0][1] == [SUBJECTS[k - 1] for k in (3, 10, 11, 14)]
    assert folds[19][1] == [SUBJECTS[k - 1] for k in (1, 4, 7, 18)]
    assert phan2019.make_folds(options_of("--folds", "3"), SUBJECTS) == folds[:3]


def test_folds_where_not_all_twenty_are_there():
    folds = phan2019.make_folds(options_of("--validation", "1"), SUBJECTS[:3])
    assert [test for test, _ in folds] == [[subject] for subject in SUBJECTS[:3]]
    for test, held_out in folds:
        assert len(held_out) == 1
        assert held_out != test


def test_simulated_subjects_are_tested_once_each():
    subjects = [f"p{k:02d}" for k in range(12)]
    folds = phan2019.make_folds(phan2019.read_options([]), subjects)
    assert len(folds) == 4
    assert sorted(subject for test, _ in folds for subject in test) == subjects
    for test, held_out in folds:
        assert len(held_out) == 2
        assert not set(test) & set(held_out)


def test_the_source_is_the_papers_channel(monkeypatch):
    requested = {}

    def loader(root, **kwargs):
        requested.update(kwargs, root=root)
        return make_cohort(1, source=None, target=["C4-A1"], n_epochs=2, sfreq=100.0)

    monkeypatch.setitem(phan2019.SOURCES, "mass", (loader, "C4-A1"))
    phan2019.load_source(options_of())
    assert (requested["root"], requested["channels"]) == (Path("y"), ["C4-A1"])
    assert (requested["sfreq"], requested["l_freq"], requested["h_freq"]) == (100, 0.3, 40)
    fast = phan2019.read_options(["--fast"])
    (X, _), (target, _) = phan2019.load_source(fast), phan2019.load_target(fast, "eog")
    assert X.ch_names["target"] == ["C4-A1"]
    assert target.ch_names["target"] == ["EOG"]
    assert not set(X.subject) & set(target.subject)


# ---------------------------------------------------------------- Sleep-EDF


@pytest.fixture(scope="module")
def real_nights(shared_data, tmp_path_factory):
    """Whole recordings of three subjects with the real annotations."""
    root, real = tmp_path_factory.mktemp("sleep-edf"), real_sleep_edf(shared_data)
    for number in ("SC4001", "SC4091", "SC4131"):
        rows, start, duration, _ = real[number]
        codes = codes_of(rows, duration)
        signals = sleep_edf_signals(codes)
        write_sleep_edf_files(root, number, rows, len(codes), start, signals)
    return root


def test_the_command_runs_on_the_files(real_nights, fold, tmp_path, monkeypatch):
    """Direct transfer and a fine-tuned row are fitted; the others' predictions are given."""
    root, (*_, stager) = real_nights, fold
    file, fitted = tmp_path / "pretrained.safetensors", []
    phan2019.save(stager, file)

    def some(self, function, tasks, /, X, y, **shared):
        results = {}
        for (row, k), task in tasks.items():
            test, held_out = task["test"], task["held_out"]
            results[row, k] = {
                "predicted": {subject: y[X.subject == subject] for subject in test},
                "looks": [{"step": 0, "test_accuracy": 0.5, "kappa": 0.5}],
                "held_out": held_out,
                "best_step": None,
                "cpu_seconds": 1.0,
                "steps": 1,
            }
            if (row, k, X.ch_names["target"][0][:3]) in wanted:
                fitted.append(row)
                results[row, k] = function(**task, X=X, y=y, **shared)
        return results

    wanted = [("direct", 0, "EEG"), ("softmax", 0, "EOG")]
    monkeypatch.setattr(phan2019.Study, "run", some)
    where = ["--cache", root / "cache", "--output", tmp_path / "out", "--data", root]
    how = ["--folds", 2, "--validation", 1, "--fast", "--every", 50]
    phan2019.main([*map(str, [*where, "--pretrained", file, *how])])
    assert fitted == ["direct", "softmax"]
    page = (tmp_path / "out" / "phan2019_sleep_edf.md").read_text()
    assert page.startswith("# Phan et al. (2019), Sleep-EDF nights")
    assert "imulated" not in page
    assert "| subjects of the target | 3 | 20 |" in page
    assert "| epochs of the target | 2,758 | - (code: 38,150) |" in page
    table = (tmp_path / "out" / "phan2019_sleep_edf.csv").read_text().splitlines()
    rows = [line.split(",") for line in table[1:]]
    assert {row[1] for row in rows} == {"eeg", "eog"}
    assert {row[5] for row in rows} == {"757", "1051"}


# ---------------------------------------------------------------- the paper's values


def test_papers_tables_are_copied_right():
    """The gains over direct transfer that the paper's text gives."""
    text = {
        "eeg": (0.4, 4.2, 4.0, 4.3),  # its middle two are in the other order
        "eog": (22.1, 29.0, 28.9, 29.7),
    }
    for scenario, gains in text.items():
        values = phan2019.PAPER[scenario]
        systems = ("softmax", "softmax+arnn", "softmax+seqrnn", "all")
        found = [values[system][0] - values["direct"][0] for system in systems]
        np.testing.assert_allclose(found, gains, atol=1e-9)
    eeg, eog = phan2019.PAPER.values()
    assert eeg["scratch"][0] - eeg["direct"][0] == pytest.approx(1.0)
    assert eog["all"][0] - eog["scratch"][0] == pytest.approx(2.3)
    assert phan2019.PAPER["eeg"]["Multitask 1-max CNN"][0] == 81.9


def test_curves_are_means_over_folds_up_to_the_shortest():
    looks = [[{"step": 0, "a": 1.0}, {"step": 2, "a": 2.0}], [{"step": 0, "a": 3.0}]]
    assert phan2019.mean_looks(looks) == [{"step": 0.0, "a": 2.0}]


def test_real_nights_have_the_papers_settings():
    real = options_of()
    papers = (real.lr, real.passes, real.source_passes, real.patience, real.min_steps)
    assert papers == (1e-4, 10, 10, 50, 1000)
    assert (real.sequence_length, real.hidden, real.validation) == (20, 64, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data", "x"], "needs --source or --pretrained"),
        (["--folds", "1"], "two folds at least"),
        (["--subjects", "3"], "one for each fold"),
    ],
)
def test_what_cannot_be_is_refused(capsys, wrong, message):
    with pytest.raises(SystemExit):
        phan2019.read_options(wrong)
    assert message in capsys.readouterr().err
