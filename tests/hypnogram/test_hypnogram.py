"""What other programs read of a hypnogram, held against what was written by hand."""

import builtins
import json
import pickle
from datetime import UTC, datetime

import mne
import numpy as np
import pandas as pd
import pytest

from skleepkd import PairedEpochs
from skleepkd.hypnogram import Hypnogram
from skleepkd.stages import SCHEMES, stages_at

AASM = SCHEMES["aasm"]
#: Sleep begins with the third epoch and ends with the ninth.
NIGHT = ["W", "W", "N1", "N2", "N2", "N3", "W", "N2", "REM", "W"]
TEN_PM = datetime(2020, 3, 1, 22, 0, 0, tzinfo=UTC)


def night_of(stages, classes=AASM, **options):
    """A hypnogram whose likeliest stages are these, each with probability 0.7."""
    codes = np.array([list(classes).index(stage) for stage in stages])
    probabilities = np.full((len(codes), len(classes)), 0.3 / (len(classes) - 1))
    probabilities[np.arange(len(codes)), codes] = 0.7
    return Hypnogram(probabilities.astype(np.float32), classes, **options)


def silent_raw(seconds=400, first_samp=0, meas_date=TEN_PM):
    info = mne.create_info(["Cz"], 10.0, "eeg")
    raw = mne.io.RawArray(
        np.zeros((1, 10 * seconds)), info, first_samp=first_samp, verbose=False
    )
    return raw.set_meas_date(meas_date)


def test_stages_are_the_likeliest_ones():
    night = Hypnogram([[0.2, 0.8], [0.6, 0.4], [0.1, 0.9]], ["W", "N2"], onset=[5, 35, 65])
    assert night.stages.tolist() == ["N2", "W", "N2"]
    assert len(night) == 3
    assert repr(night) == "<Hypnogram: 3 epochs of 30 s from 5 s, W 1, N2 2>"
    assert night_of(NIGHT).onset.tolist() == [30.0 * k for k in range(10)]
    with pytest.raises(ValueError, match=r"shape \(1, 2\) .* the 5 classes"):
        Hypnogram([[0.5, 0.5]], AASM)
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 2 onsets"):
        Hypnogram([[0.5, 0.5]], ["W", "N2"], onset=[0, 30])


@pytest.mark.parametrize(
    ("given", "stages", "classes"),
    [
        ([0, 1, 2, 3, 4, -1], ["W", "N1", "N2", "N3", "REM", "?"], AASM),
        (["Sleep stage W", "S4", "rem", "?", "-1"], ["W", "N3", "REM", "?", "?"], AASM),
        (["W", "R"], ["W", "REM"], AASM),
        (["W", "L", "D", "R", "?"], ["W", "L", "D", "R", "?"], SCHEMES["wldr"]),
        (["WAKE", "LIGHT", "DEEP", "REM"], ["W", "L", "D", "R"], SCHEMES["wldr"]),
        (["W", "N", "Movement time"], ["W", "N", "?"], SCHEMES["wnr"]),
    ],
)
def test_a_scoring_has_stages_and_no_probabilities(given, stages, classes):
    night = pickle.loads(pickle.dumps(Hypnogram.from_stages(given, epoch=20)))
    assert night.stages.tolist() == stages
    assert night.classes.tolist() == list(classes)
    assert night.onset.tolist() == [20.0 * k for k in range(len(given))]
    assert night.probabilities is night.confidence is night.artefact is None
    texts = [f"Sleep stage {stage[-1]}" for stage in stages]
    texts = [text.replace("M", "R") for text in texts]
    assert night.to_annotations().description.tolist() == texts
    assert set(night.to_annotations().duration) == {20.0}
    assert night.to_dataframe().columns.tolist() == ["onset", "duration", "stage"]


@pytest.mark.parametrize(
    ("given", "options", "match"),
    [
        (["W", "up"], {}, r"Unknown stages \['up'\]"),
        ([0, 5], {}, r"Unknown stages \[5\]"),
        (["1", "4"], {}, r"Unknown stages \['1', '4'\]"),  # N3 of Rechtschaffen, or REM
        (["N2", "L"], {}, r"Unknown stages \['L'\]"),
        ([0.5], {}, r"Unknown stages \['0.5'\]"),
        ([[0, 1]], {}, r"shape \(1, 2\)"),
        ([0, 1], {"onset": [0]}, "for 1 onsets"),
        ([0, 1], {"epoch": 0}, "in seconds; given 0"),
    ],
)
def test_stages_that_are_not_known_are_refused(given, options, match):
    with pytest.raises(ValueError, match=match):
        Hypnogram.from_stages(given, **options)


def test_epochs_without_probabilities_are_unscored():
    proba = np.array([[0.2, 0.8], [np.nan, np.nan]])
    night = Hypnogram(proba, ["W", "N2"], artefact=["", "nan"])
    assert night.stages.tolist() == ["N2", "?"]
    assert Hypnogram(proba, [0, 2]).stages.tolist() == [2, -1]
    assert night.confidence[0] == 0.8
    assert repr(night) == "<Hypnogram: 2 epochs of 30 s from 0 s, W 0, N2 1, ? 1>"
    with pytest.raises(ValueError, match="2 epochs"):
        Hypnogram(proba, [0, 2], artefact=[""])


def test_stages_at_and_a_pair_take_a_hypnogram():
    night = Hypnogram.from_stages(NIGHT, onset=7 + 30 * np.arange(10), meas_date=TEN_PM)
    codes = [AASM.index(stage) for stage in NIGHT]
    assert stages_at(night, night.onset).tolist() == codes
    raw = silent_raw()
    pair = PairedEpochs.from_raws(source_raw=raw, target_raw=raw, annotations=night)
    assert pair.onset.tolist() == night.onset.tolist()
    late = Hypnogram.from_stages(NIGHT, meas_date=TEN_PM + pd.Timedelta(minutes=1))
    with pytest.raises(ValueError, match=r"\+60 s after the first sample"):
        PairedEpochs.from_raws(source_raw=raw, target_raw=raw, annotations=late)


# ---------------------------------------------------------------- annotations


@pytest.mark.parametrize("meas_date", [TEN_PM, None])
@pytest.mark.parametrize("first_samp", [0, 125])
def test_annotations_lie_on_the_samples_of_their_epochs(meas_date, first_samp):
    raw = silent_raw(first_samp=first_samp, meas_date=meas_date)
    # What the date of a hypnogram is: that of the first sample, not of sample number 0.
    began = meas_date and meas_date + pd.Timedelta(seconds=first_samp / 10).to_pytimedelta()
    onset = 7.0 + 30 * np.arange(10)
    night = night_of(NIGHT, onset=onset, meas_date=began)
    raw.set_annotations(night.to_annotations())
    codes = {f"Sleep stage {end}": k for k, end in enumerate(["W", "1", "2", "3", "R"])}
    events, _ = mne.events_from_annotations(raw, event_id=codes, verbose=False)
    np.testing.assert_array_equal(events[:, 0] - first_samp, 70 + 300 * np.arange(10))
    assert events[:, 2].tolist() == [AASM.index(stage) for stage in NIGHT]
    assert set(raw.annotations.duration) == {30.0}


@pytest.mark.filterwarnings("ignore:Omitted|Limited")  # those before the crop
def test_annotations_find_their_place_in_a_recording_cropped_since():
    raw = silent_raw().crop(tmin=100)
    raw.set_annotations(night_of(NIGHT, meas_date=TEN_PM).to_annotations())
    events, names = mne.events_from_annotations(raw, verbose=False)
    texts = {code: text for text, code in names.items()}
    # The fourth epoch has begun; the fifth begins at 120 s, 200 samples after the crop.
    assert (events[1:, 0] - raw.first_samp).tolist() == [200, 500, 800, 1100, 1400, 1700]
    ends = [texts[code].removeprefix("Sleep stage ") for code in events[:, 2]]
    assert ends == ["2", "2", "3", "W", "2", "R", "W"]


@pytest.mark.parametrize(
    ("classes", "texts"),
    [
        (("W", "L", "D", "R"), ["W", "L", "D", "R"]),
        (("W", "N", "R"), ["W", "N", "R"]),
        (("R", "W", "N2"), ["R", "W", "2"]),
        (("wake", "n1", "S2", "N3", "rem"), ["W", "1", "2", "3", "R"]),
        (("quiet", "active"), ["quiet", "active"]),
    ],
)
def test_texts_of_other_schemes_and_names(classes, texts):
    found = night_of(classes, classes).to_annotations().description.tolist()
    assert found == [f"Sleep stage {text}" for text in texts]


# ---------------------------------------------------------------- BIDS


def test_events_are_a_table_with_its_description(tmp_path):
    path = tmp_path / "sub-01_task-sleep_events.tsv"
    night = night_of(NIGHT, onset=12.125 + 30 * np.arange(10))
    night.to_events(path)
    table = pd.read_csv(path, sep="\t")
    probabilities = ["probability_" + name for name in ("w", "n1", "n2", "n3", "rem")]
    columns = ["onset", "duration", "trial_type", *probabilities, "confidence"]
    assert table.columns.tolist() == columns
    assert table["onset"].tolist() == [12.125 + 30 * k for k in range(10)]
    assert set(table["duration"]) == {30}
    assert table["trial_type"].tolist() == NIGHT
    np.testing.assert_allclose(table[probabilities], night.probabilities, atol=1e-6)
    about = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert list(about) == table.columns.tolist()
    assert about["onset"]["Units"] == "s"
    assert list(about["trial_type"]["Levels"]) == list(AASM)
    assert about["trial_type"]["Levels"]["N2"] == "stage N2"
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"sub-01_task-sleep_events.{end}" for end in ("json", "tsv")]
    # Others take their place.
    night_of(["W", "R"], ("W", "N", "R")).to_events(path)
    assert pd.read_csv(path, sep="\t")["trial_type"].tolist() == ["W", "R"]
    levels = json.loads(path.with_suffix(".json").read_text())["trial_type"]["Levels"]
    assert levels["N"] == "non-REM sleep (N1, N2, N3)"
    # A scoring has no probabilities, a doubtful prediction has a word for it.
    Hypnogram.from_stages(["W", "?"]).to_events(path)
    assert pd.read_csv(path, sep="\t").columns.tolist() == [
        "onset",
        "duration",
        "trial_type",
    ]
    about = json.loads(path.with_suffix(".json").read_text())["trial_type"]
    assert about["Description"] == "Sleep stage of the epoch"
    assert about["Levels"]["?"] == "unscored"
    proba = np.array([[0.2, 0.8], [np.nan, np.nan]])
    Hypnogram(proba, ["W", "N2"], artefact=["", "nan"]).to_events(path)
    rows = path.read_text().splitlines()[1:]
    assert rows == [
        "0.0\t30.0\tN2\t0.2\t0.8\t0.8\tn/a",
        "30.0\t30.0\t?\tn/a\tn/a\tn/a\tnan",
    ]
    about = json.loads(path.with_suffix(".json").read_text())
    assert list(about) == path.read_text().splitlines()[0].split("\t")


def test_files_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"_events\.tsv; given .*night\.csv"):
        night_of(NIGHT).to_events(tmp_path / "night.csv")
    with pytest.raises(FileNotFoundError, match=r"absent'$"):
        night_of(NIGHT).to_events(tmp_path / "absent" / "night_events.tsv")

    def read_only(file, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(builtins, "open", read_only)
    with pytest.raises(PermissionError, match=r"night_events\.json'$"):
        night_of(NIGHT).to_events(tmp_path / "night_events.tsv")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- YASA


def test_yasa_counts_what_was_counted_by_hand():
    night = night_of(NIGHT, onset=60 + 30 * np.arange(10), meas_date=TEN_PM)
    hypnogram = night.to_yasa()
    statistics = hypnogram.sleep_statistics()
    # In minutes: ten epochs, sleep from the third to the ninth, REM eight after the start.
    by_hand = {"TIB": 5.0, "SPT": 3.5, "WASO": 0.5, "TST": 3.0, "SE": 60.0, "SOL": 1.0}
    by_hand |= {"Lat_REM": 4.0, "N1": 0.5, "N2": 1.5, "N3": 0.5, "REM": 0.5, "%N2": 50.0}
    assert {name: float(statistics[name]) for name in by_hand} == by_hand
    assert pd.Timestamp(hypnogram.start) == pd.Timestamp("2020-03-01 22:01:00")
    assert hypnogram.proba.columns.tolist() == ["WAKE", "N1", "N2", "N3", "REM"]
    np.testing.assert_array_equal(hypnogram.proba, night.probabilities)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (("W", "L", "D", "R"), ["WAKE", "LIGHT", "DEEP", "REM"]),
        (("W", "N", "R"), ["WAKE", "NREM", "REM"]),
        (("N2", "W"), ["N2", "WAKE"]),
    ],
)
def test_yasa_gets_the_stages_of_other_schemes(classes, names):
    night = night_of(classes, classes)
    hypnogram = night.to_yasa()
    n_stages = 5 if "N2" in classes else len(classes)
    assert (hypnogram.n_stages, hypnogram.start) == (n_stages, None)
    assert hypnogram.hypno.tolist() == names
    np.testing.assert_array_equal(hypnogram.proba[names], night.probabilities)


def test_yasa_gets_a_scoring_of_20_s_and_unscored_epochs():
    night = Hypnogram.from_stages(["W", "N2", "?"], epoch=20, meas_date=TEN_PM).to_yasa()
    assert night.hypno.tolist() == ["WAKE", "N2", "UNS"]
    assert (night.freq, night.scorer, night.proba) == ("20s", None, None)
    night = Hypnogram([[0.2, 0.8], [np.nan, np.nan]], ["W", "N2"]).to_yasa()
    assert night.hypno.tolist() == ["N2", "UNS"]


def test_yasa_is_refused_what_it_has_no_words_for(monkeypatch):
    with pytest.raises(ValueError, match=r"the classes \['quiet', 'active'\]"):
        night_of(["quiet"], ("quiet", "active")).to_yasa()
    with pytest.raises(ValueError, match="has no gaps"):
        night_of(["W", "N2"], onset=[0, 90]).to_yasa()
    monkeypatch.setitem(__import__("sys").modules, "yasa", None)
    with pytest.raises(ImportError, match="yasa"):
        night_of(NIGHT).to_yasa()


def test_codes_of_no_known_scheme_are_not_guessed(tmp_path):
    night = Hypnogram(np.eye(4), [0, 1, 2, 3])
    assert night.stages.tolist() == [0, 1, 2, 3]
    for convert in (
        night.to_annotations,
        night.to_yasa,
        lambda: night.to_events(tmp_path / "night_events.tsv"),
    ):
        with pytest.raises(ValueError, match=r"set_params\(classes='wldr'\)"):
            convert()


def test_plot_of_a_scoring_and_beside_the_truth():
    import matplotlib.pyplot as plt

    scored = Hypnogram.from_stages(NIGHT)
    display = scored.plot()
    assert [panel.get_title(loc="left") for panel in display.ax_] == ["Truth"]
    assert len(Hypnogram.from_stages(NIGHT, epoch=20).plot().ax_) == 1
    assert len(night_of(NIGHT).plot().ax_) == 2
    display = Hypnogram.from_stages(["W", "N2", "?"]).plot(truth=scored)
    assert display.ax_[1].get_title(loc="left") == "Prediction (kappa 0.00)"
    display = night_of(["W", "W", "N", "W"], ("W", "N", "R")).plot(truth=scored)
    titles = [panel.get_title(loc="left") for panel in display.ax_]
    # Of W, W, N, N against W, W, N, W: agreement 3/4, by chance 1/2.
    assert titles[:2] == ["Truth", "Prediction (kappa 0.50)"]
    assert len(titles) == 3
    display = night_of(NIGHT).plot(truth=Hypnogram.from_stages(["W", "N", "R"]))
    np.testing.assert_allclose(display.probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(display.probabilities[3], [0.85, 0.075, 0.075], rtol=1e-6)
    plt.close("all")


# ---------------------------------------------------------------- agreement


def test_two_scorers_are_matched_by_onset_and_clock():
    first = Hypnogram.from_stages(["W", "N1", "N2", "N2", "REM", "?"])
    second = Hypnogram.from_stages(
        ["N1", "N2", "N3", "REM", "W"], onset=30.05 + 30 * np.arange(5)
    )
    report = first.compare(second)
    assert (report.n_epochs, report.n_unscored) == (4, 1)
    assert (report.n_only_self, report.n_only_other) == (1, 0)
    assert report.pooled["accuracy"] == 0.75
    assert report.pooled["sensitivity_N3"] == 0  # the other one is the truth
    # The same by their clocks: the second one's recording began half a minute later.
    first.meas_date, second.meas_date = TEN_PM, TEN_PM + pd.Timedelta(seconds=30)
    second.onset = second.onset - 30
    assert first.compare(second).pooled == pytest.approx(report.pooled, nan_ok=True)


def test_the_finer_of_two_schemes_is_merged():
    fine = Hypnogram.from_stages(["W", "N1", "N2", "N3", "REM"])
    coarse = Hypnogram.from_stages(["W", "L", "D", "D", "R"])
    coarsest = Hypnogram.from_stages(["W", "N", "N", "N", "R"])
    assert fine.compare(coarse).pooled["accuracy"] == 0.8
    assert coarse.compare(fine).pooled["sensitivity_L"] == 0.5
    for night in (fine, coarse):
        assert night.compare(coarsest).pooled["accuracy"] == 1
        assert coarsest.compare(night).pooled["kappa"] == 1
    other_words = night_of(["wake", "S2"], ("wake", "S2", "N3"))
    assert other_words.compare(fine).pooled["accuracy"] == 0.5
    quiet = night_of(["quiet"], ("quiet", "active"))
    assert quiet.compare(quiet).pooled["accuracy"] == 1


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (
            Hypnogram.from_stages(NIGHT, onset=7 + 30 * np.arange(10)),
            r"nearest are 7 s apart",
        ),
        (Hypnogram.from_stages(NIGHT, epoch=20), "of [23]0 s and of [23]0 s"),
        (Hypnogram.from_stages(["?"] * 4), "none of the 4 common epochs"),
        (Hypnogram.from_stages([]), "No epoch of .* begins where one of .* does"),
        (night_of(["quiet"], ("quiet", "active")), r"belong to no schemes: .*'active'\]"),
    ],
)
def test_what_does_not_compare_is_refused(other, match):
    for one, another in ((night_of(NIGHT), other), (other, night_of(NIGHT))):
        with pytest.raises(ValueError, match=match):
            one.compare(another)


def test_what_is_no_hypnogram_is_refused():
    with pytest.raises(TypeError, match=r"Hypnogram\.from_stages"):
        night_of(NIGHT).compare(["W"])
