"""The benchmark of Phan et al. (2019): a run of seconds, and what it promises."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from skleepkd import SleepStager, load
from skleepkd.datasets import make_cohort
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.recipes import phan2019 as recipe
from tests.files import (
    codes_of,
    real_sleep_edf,
    sleep_edf_signals,
    write_sleep_edf_files,
)
from tests.tiny import TinyNetwork, make_pair, make_spectra

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import _phan2019_page
import phan2019
from _runs import WatchSteps

SUBJECTS = [f"sleep-edf-SC4{number:02d}" for number in range(20)]


def in_process(function, tasks, folder, **kwargs):
    """What ``resume`` does, without a process for each fit."""
    for name, arguments in tasks.items():
        file = folder / f"{name}.json"
        is_new = not file.exists()
        if is_new:
            file.write_text(json.dumps(function(**arguments)))
        yield name, json.loads(file.read_text()), is_new


# ---------------------------------------------------------------- the whole command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the command once, for all tests that look at what it leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    arguments = ["--fast", "--output", f"{folder}/out", "--cache", f"{folder}/cache"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phan2019, "resume", in_process)
        phan2019.main(arguments)
    return arguments, folder


def read_csv(folder):
    with (folder / "out" / "phan2019_simulated.csv").open() as opened:
        return list(csv.DictReader(opened))


def read_page(folder):
    return (folder / "out" / "phan2019_simulated.md").read_text()


def test_a_row_for_each_scenario_system_and_subject(finished):
    rows = read_csv(finished[1])
    n_subjects = phan2019.FAST["people"]
    assert len(rows) == (2 * len(phan2019.ROWS) + 1) * n_subjects
    assert {row["system"] for row in rows} == set(phan2019.ROWS)
    for scenario in ("eeg", "eog"):
        for system in phan2019.ROWS:
            own = [r for r in rows if (r["scenario"], r["system"]) == (scenario, system)]
            assert len({row["person"] for row in own}) == n_subjects
            assert len({row["fold"] for row in own}) == 2
            for row in own:  # alike in all systems
                assert row["person"] not in row["held_out"]
    folds = {(row["fold"], row["held_out"]) for row in rows}
    assert len(folds) == 2


def test_scores_are_those_of_the_kept_predictions(finished):
    """Scikit-learn's scores of what the fits predicted, on a cohort made anew."""
    folder, fast = finished[1], phan2019.FAST
    rows, page = read_csv(folder), read_page(folder)
    (place,) = (folder / "cache").glob("phan2019-????????????")
    for scenario, channel in (("eeg", "Fpz-Cz"), ("eog", "EOG")):
        cohort = make_cohort(
            fast["people"],
            source=None,
            target=[channel],
            n_epochs=fast["epochs"],
            sfreq=100.0,
            random_state=0,
        )
        for system in phan2019.ROWS:
            predicted = {}
            for file in place.glob(f"{scenario}-{system}-?.json"):
                predicted |= json.loads(file.read_text())["predicted"]
            own = [r for r in rows if (r["scenario"], r["system"]) == (scenario, system)]
            for row in own:
                truth = cohort.y[cohort.groups == row["person"]]
                accuracy = accuracy_score(truth, predicted[row["person"]])
                assert float(row["accuracy"]) == pytest.approx(accuracy, abs=1e-5)
            stages = np.concatenate([predicted[p] for p in sorted(predicted)])
            expected = (
                f"**{100 * accuracy_score(cohort.y, stages):.1f}**",
                f"**{cohen_kappa_score(cohort.y, stages):.3f}**",
                f"**{100 * f1_score(cohort.y, stages, average='macro'):.1f}**",
                f"**{100 * recall_score(cohort.y, stages, average='macro', zero_division=0):.1f}**",
            )
            title = _phan2019_page.SCENARIOS[scenario]
            table = page.split(title)[1].split("\n\n")[1]
            label = f"| {_phan2019_page.LABELS[system]} |"
            line = next(line for line in table.splitlines() if line.startswith(label))
            assert [cell.strip() for cell in line.split("|")[4:12:2]] == list(expected)


def test_gains_follow_from_the_rows(finished):
    rows, page = read_csv(finished[1]), read_page(finished[1])
    accuracy = {
        system: {
            row["person"]: 100 * float(row["accuracy"])
            for row in rows
            if (row["scenario"], row["system"]) == ("eog", system)
        }
        for system in ("all", "direct")
    }
    gain = np.mean([accuracy["all"][p] - accuracy["direct"][p] for p in accuracy["all"]])
    table = page.split(_phan2019_page.SCENARIOS["eog"])[1]
    lines = [
        line for line in table.splitlines() if line.startswith("| FT entire network |")
    ]
    assert f"| +29.7 | {gain:+.1f} [" in lines[1]
    claims = page.split("## What is shown")[1]
    assert f"| +29.7 | {gain:+.1f} [" in claims


def test_page_says_what_it_is(finished):
    page = read_page(finished[1])
    assert page.startswith("# Phan et al. (2019), simulated nights")
    assert "Every number here is of simulated nights" in page
    assert "python benchmarks/phan2019.py --fast" in page
    n_fits = 2 * (2 * len(phan2019.ROWS) + 1) + 1
    assert f"did {n_fits} of {n_fits} fits" in page
    for line in (
        "| passes, target | 1 | 10 |",
        "| learning rate | 0.001 | 0.0001 |",
        "| evaluations without improvement before the end | 2 | 50 |",
        "| steps before which there is no end | 0 | 1000 |",
        "| folds | 2 | 20 |",
    ):
        assert line in page
    assert "Without any mismatch, on C4-A1 of the target people" in page
    picture = finished[1] / "out" / "phan2019_simulated.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({picture.name})" in page
    assert not list(finished[1].rglob("*.part"))


def test_run_goes_on_where_it_was(finished, monkeypatch):
    arguments, folder = finished
    before = read_csv(folder)
    (lost,) = (folder / "cache").rglob("eog-softmax-2.json")
    lost.unlink()
    monkeypatch.setattr(phan2019, "resume", in_process)
    phan2019.main(arguments)
    assert "did 1 of 39 fits" in read_page(folder)
    for row, earlier in zip(read_csv(folder), before, strict=True):
        row.pop("cpu_seconds"), earlier.pop("cpu_seconds")
        assert row == earlier


def test_a_network_that_was_saved_before_is_taken_again(finished, monkeypatch, tmp_path):
    (file,) = (finished[1] / "cache").rglob("c4-a1.safetensors")
    requested = {}

    class Requested(Exception):
        pass

    def watched(function, tasks, folder, **kwargs):
        requested.update(tasks)
        if len(requested) > 20:
            raise Requested
        yield from in_process(function, {}, folder)

    monkeypatch.setattr(phan2019, "resume", watched)
    with pytest.raises(Requested):
        phan2019.main(["--fast", "--pretrained", str(file), "--cache", str(tmp_path)])
    assert len(requested) == 2 * (2 * len(phan2019.ROWS) + 1)
    assert {task["function"] for task in requested.values()} == {phan2019.fit_fold}
    assert {task["arguments"]["pretrained"] for task in requested.values()} == {file}
    with pytest.raises(SystemExit, match="width 4: give --sequence-length and --hidden"):
        phan2019.main(["--fast", "--pretrained", str(file), "--hidden", "5"])
    seen = load(file).fitted_on_["subject"].tolist()
    assert seen == ["simulated-1000-s000", "simulated-1000-s001"]


# ---------------------------------------------------------------- one fit


@pytest.mark.parametrize("method", ["scratch", "softmax", "all"])
def test_looking_at_the_test_subjects_changes_nothing(method):
    """Bit-equal weights with and without looks, dropout and chosen steps included."""
    X, y = make_spectra(n_subjects=5, n_epochs=20)
    test = X.subject == "target-4"
    small = {
        "module__n_filters": 4,
        "module__hidden_size": 3,
        "sequence_length": 4,
        "validation": 1,
        "max_epochs": 3,
        "batch_size": 8,
        "lr": 0.01,
        "device": "cpu",
        "random_state": 0,
    }
    pretrained = None
    if method != "scratch":
        pretrained = recipe("scratch", **small | {"random_state": 1}).fit(
            X[~test], y[~test]
        )
        small = {n: v for n, v in small.items() if not n.startswith(("module", "seq"))}

    def fitted(**looks):
        chosen = StepwiseValidation(every=3, patience=4, min_steps=5)
        stager = recipe(method, pretrained, callbacks__best_weights=chosen, **small)
        return stager.set_params(**looks).fit(X[~test], y[~test])

    watch = WatchSteps(X[test], y[test], every=2)
    plain, watched = fitted(), fitted(callbacks=[("watch", watch)])
    state = watched.module_.state_dict()
    for name, value in plain.module_.state_dict().items():
        assert torch.equal(value, state[name])
    watch = dict(watched.callbacks_)["watch"]
    steps = [look["step"] for look in watch.looks_]
    assert steps == list(range(0, watch.steps_ + 1, 2))
    losses = watched.history_[:, "batches", :, "train_loss"]
    losses = [loss for one_pass in losses for loss in one_pass]
    assert watch.looks_[1]["train_loss"] == pytest.approx(np.mean(losses[:2]))
    assert 0 <= watch.looks_[-1]["test_accuracy"] <= 1


def test_looks_are_the_accuracy_of_what_is_predicted_then():
    X, y = make_pair(n_subjects=3, n_epochs=16)
    test = X.subject == "s2"
    watch = WatchSteps(X[test].target_epochs, y[test], every=4)
    stager = SleepStager(
        TinyNetwork, max_epochs=2, batch_size=8, lr=0.05, random_state=0, device="cpu",
        callbacks=[("watch", watch)],
    ).fit(X[~test], y[~test])  # fmt: skip
    looks = dict(stager.callbacks_)["watch"].looks_
    assert [look["step"] for look in looks] == [0, 4, 8]
    expected = accuracy_score(y[test], stager.predict(X[test]))
    assert looks[-1]["test_accuracy"] == pytest.approx(expected)


def small_cohort(channel, seed, n_subjects=5):
    return make_cohort(
        n_subjects,
        source=None,
        target=[channel],
        n_epochs=16,
        sfreq=100.0,
        random_state=seed,
    )


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    """Five simulated subjects, settings, and a network that was trained on others."""
    cohort, source = small_cohort("EOG", 3), small_cohort("C4-A1", 4)
    settings = vars(phan2019.parse(["--fast", "--passes", "2"]))
    file = tmp_path_factory.mktemp("pretrained") / "c4-a1.safetensors"
    result = phan2019.pretrain(settings, source.X, source.y, file)
    # One pass over the windows of four epochs.
    assert result["steps"] == -(-5 * (16 - 3) // 32)
    return cohort, settings, np.unique(cohort.groups).tolist(), file


@pytest.mark.parametrize("row", ["direct", "all", "scratch-neighbours"])
def test_test_subjects_touch_nothing(fold, row):
    """What is predicted for one of them does not depend on the nights of the other."""
    cohort, settings, subjects, file = fold

    def fit(X, y):
        return phan2019.fit_fold(settings, row, subjects[:2], subjects[2:3], X, y, file)

    other = cohort.groups == subjects[1]
    louder = cohort.X["target"].copy()
    louder[other] *= 5
    changed = np.where(other, 4 - cohort.y, cohort.y)
    result = fit(cohort.X, cohort.y)
    again = fit(cohort.X.replace(target=louder), changed)
    assert result["predicted"][subjects[0]] == again["predicted"][subjects[0]]
    assert result["best_step"] == again["best_step"]
    assert result["held_out"] == subjects[2:3]
    seen = [look.get("train_loss") for look in result["looks"]]
    assert seen == [look.get("train_loss") for look in again["looks"]]
    assert (result["steps"] == 0) == (row == "direct")


def test_those_who_validate_do_not_count_for_the_statistics(fold, monkeypatch):
    """As in the paper; and the statistics are learned for direct transfer too."""
    cohort, settings, subjects, file = fold
    fitted = []

    class Watched(phan2019.LogSpectrogram):
        def fit(self, X, y=None):
            fitted.append(np.unique(X.subject).tolist())
            return super().fit(X, y)

    monkeypatch.setattr(phan2019, "LogSpectrogram", Watched)
    phan2019.fit_fold(
        settings, "direct", subjects[:1], subjects[3:], cohort.X, cohort.y, file
    )
    assert fitted == [subjects[1:3]]


# ---------------------------------------------------------------- subjects and folds


def test_the_papers_twenty_folds():
    """SPEC: fold 1 tests subject 1 and validates on 3, 10, 11 and 14, counted from 1."""
    options = phan2019.parse(["--data", "x", "--source", "y"])
    folds = phan2019.make_folds(options, np.repeat(SUBJECTS, 2))
    assert [test for test, _ in folds] == [[subject] for subject in SUBJECTS]
    assert folds[0][1] == [SUBJECTS[k - 1] for k in (3, 10, 11, 14)]
    assert folds[19][1] == [SUBJECTS[k - 1] for k in (1, 4, 7, 18)]
    options = phan2019.parse(["--data", "x", "--source", "y", "--folds", "3"])
    assert phan2019.make_folds(options, SUBJECTS) == folds[:3]


def test_folds_where_not_all_twenty_are_there():
    options = phan2019.parse(["--data", "x", "--source", "y", "--validation", "1"])
    folds = phan2019.make_folds(options, SUBJECTS[:3])
    assert [test for test, _ in folds] == [[subject] for subject in SUBJECTS[:3]]
    for test, held_out in folds:
        assert len(held_out) == 1
        assert held_out != test


def test_simulated_subjects_are_tested_once_each():
    options = phan2019.parse([])
    subjects = [f"p{k:02d}" for k in range(12)]
    folds = phan2019.make_folds(options, subjects)
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
    options = phan2019.parse(["--data", "x", "--source", "nights"])
    phan2019.load_source(options)
    assert (requested["root"], requested["channels"]) == (Path("nights"), ["C4-A1"])
    assert (requested["sfreq"], requested["l_freq"], requested["h_freq"]) == (100, 0.3, 40)
    X, _ = phan2019.load_source(phan2019.parse(["--fast"]))
    target, _ = phan2019.load_target(phan2019.parse(["--fast"]), "eog")
    assert X.ch_names["target"] == ["C4-A1"]
    assert target.ch_names["target"] == ["EOG"]
    assert not set(X.subject) & set(target.subject)


# ---------------------------------------------------------------- Sleep-EDF


@pytest.fixture(scope="module")
def real_nights(shared_data, tmp_path_factory):
    """Whole recordings of three subjects with the real annotations."""
    root = tmp_path_factory.mktemp("sleep-edf")
    real, nights = real_sleep_edf(shared_data), {}
    for number in ("SC4001", "SC4091", "SC4131"):
        rows, start, duration, _ = real[number]
        codes = nights[number] = codes_of(rows, duration)
        signals = sleep_edf_signals(codes)
        write_sleep_edf_files(root, number, rows, len(codes), start, signals)
    return root, nights


#: In bed in the paper: first epoch, epochs, of these removed.
IN_BED = {"SC4001": (1010, 757, 0), "SC4091": (796, 1062, 11), "SC4131": (950, 950, 0)}


def test_every_label_is_on_its_epoch(real_nights, tmp_path):
    root, nights = real_nights
    options = phan2019.parse(
        ["--data", str(root), "--source", "x", "--cache", str(tmp_path)]
    )
    (eeg, y), (eog, same) = (phan2019.load_target(options, s) for s in ("eeg", "eog"))
    np.testing.assert_array_equal(y, same)
    assert eeg.ch_names["target"] == ["EEG Fpz-Cz"]
    for number, (first, length, removed) in IN_BED.items():
        mine = eeg.recording == f"sleep-edf-{number}"
        assert mine.sum() == length - removed
        # Fpz-Cz is twice the number of the epoch, but for the recording's mean.
        counted = eeg["target"][mine][:, 0, 0]
        epochs = first + np.rint((counted - counted[0]) / 2).astype(int)
        np.testing.assert_array_equal(eeg.onset[mine], 30 * epochs)
        np.testing.assert_array_equal(y[mine], nights[number][epochs])
        # The EOG shows the stage, and how far into the epoch a sample is.
        levels = eog["target"][mine][:, 0, 0] / 400
        np.testing.assert_allclose(levels - levels[0], y[mine] - y[mine][0], atol=1e-3)
        # Epochs that the paper removed are gaps.
        assert (np.diff(eeg.onset[mine]) / 30 - 1).sum() == removed


def test_the_command_runs_on_the_files(real_nights, tmp_path, monkeypatch):
    """Direct transfer and one fine-tuned row are fitted; the others' predictions are given."""
    root, _ = real_nights
    source = small_cohort("C4-A1", 9, n_subjects=1)
    settings = vars(phan2019.parse(["--fast"]))
    file = tmp_path / "pretrained.safetensors"
    phan2019.pretrain(settings, source.X, source.y, file)
    fitted = []

    def some(function, tasks, folder, **kwargs):
        for name, task in tasks.items():
            arguments = task["arguments"]
            if arguments["row"] in ("direct", "softmax") and name.endswith("-1"):
                fitted.append(name.split("/")[1])
                yield name, function(**task), True
                continue
            X, y = arguments["X"], arguments["y"]
            predicted = {p: y[X.subject == p].tolist() for p in arguments["test"]}
            looks = [{"step": 0, "test_accuracy": 0.5}]
            costs = {"steps": 1, "best_step": None, "seconds": 1.0, "cpu_seconds": 1.0}
            held_out = arguments["held_out"]
            result = {"predicted": predicted, "looks": looks, "held_out": held_out}
            yield name, result | costs, True

    monkeypatch.setattr(phan2019, "resume", some)
    options = ["--data", root, "--pretrained", file, "--folds", 2, "--validation", 1]
    options += [
        "--fast",
        "--every",
        50,
        "--cache",
        tmp_path / "cache",
        "--output",
        tmp_path / "out",
    ]
    phan2019.main([str(option) for option in options])
    assert sorted(fitted) == [
        "eeg-direct-1",
        "eeg-softmax-1",
        "eog-direct-1",
        "eog-softmax-1",
    ]
    page = (tmp_path / "out" / "phan2019_sleep_edf.md").read_text()
    assert page.startswith("# Phan et al. (2019), Sleep-EDF nights")
    assert "imulated" not in page
    assert "| people of the target | 3 | 20 |" in page
    assert "| epochs of the target | 2,758 | 38,150 |" in page
    with (tmp_path / "out" / "phan2019_sleep_edf.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert {row["scenario"] for row in rows} == {"eeg", "eog"}
    assert {row["n_epochs"] for row in rows} == {"757", "1051"}


# ---------------------------------------------------------------- the paper's values


def test_papers_tables_are_copied_right():
    """The gains over direct transfer that the paper's text gives."""
    text = {
        "eeg": (0.4, 4.2, 4.0, 4.3),  # its middle two are in the other order
        "eog": (22.1, 29.0, 28.9, 29.7),
    }
    for scenario, gains in text.items():
        values = _phan2019_page.PAPER[scenario]
        systems = ("softmax", "softmax+arnn", "softmax+seqrnn", "all")
        found = [values[system][0] - values["direct"][0] for system in systems]
        np.testing.assert_allclose(found, gains, atol=1e-9)
    eeg, eog = _phan2019_page.PAPER.values()
    assert eeg["scratch"][0] - eeg["direct"][0] == pytest.approx(1.0)
    assert eog["all"][0] - eog["scratch"][0] == pytest.approx(2.3)
    assert _phan2019_page.OTHERS["Multitask 1-max CNN"][0] == 81.9


def test_verdicts():
    assert _phan2019_page.verdict((2.0, 1.0, 3.0)) == "**shown**"
    assert _phan2019_page.verdict((2.0, -1.0, 5.0)) == "not shown"
    assert _phan2019_page.verdict((-2.0, -3.0, -1.0)) == "**the contrary is shown**"


def test_curves_are_means_over_folds_up_to_the_shortest(finished):
    looks = [[{"step": 0, "a": 1.0}, {"step": 2, "a": 2.0}], [{"step": 0, "a": 3.0}]]
    found = _phan2019_page.mean_looks([{"looks": one} for one in looks])
    assert found == [{"step": 0.0, "a": 2.0}]


# ---------------------------------------------------------------- the command line


def test_options():
    options = phan2019.parse(["--fast", "--passes", "7"])
    assert (options.passes, options.folds) == (7, 2)
    real = phan2019.parse(["--data", "x", "--source", "y"])
    papers = (real.lr, real.passes, real.source_passes, real.patience, real.min_steps)
    assert papers == (1e-4, 10, 10, 50, 1000)
    assert (real.sequence_length, real.hidden, real.validation) == (20, 64, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--data", "x"], "needs --source or --pretrained"),
        (["--folds", "1"], "two folds at least"),
        (["--people", "3"], "one for each fold"),
    ],
)
def test_what_cannot_be_is_refused(capsys, wrong, message):
    with pytest.raises(SystemExit):
        phan2019.parse(wrong)
    assert message in capsys.readouterr().err


def test_results_hang_on_data_and_settings_not_on_how_they_are_run():
    cohort = make_cohort(2, source=None, target=["EOG"], n_epochs=4, sfreq=100.0)

    def describe(*arguments, y=cohort.y, pretraining=None):
        options = phan2019.parse(["--data", "x", "--source", "y", *arguments])
        return phan2019.describe(options, {"eeg": (cohort.X, y)}, pretraining)

    assert describe("--folds", "2", "--n-jobs", "2") == describe()
    assert describe("--passes", "3") != describe()
    assert describe("--patience", "3") != describe()
    assert describe(y=cohort.y[::-1]) != describe()
    assert describe(pretraining={"file": "another"}) != describe()
