"""Codes of stages, held against the definitions and the real annotations of Sleep-EDF."""

from collections import Counter

import mne
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skleepkd import PairedEpochs
from skleepkd.stages import (
    SCHEMES,
    is_unscored,
    left_unscored,
    scheme_names,
    stage_codes,
    stage_of_text,
    stages_at,
    to_scheme,
)
from tests.files import real_sleep_edf
from tests.tiny import annotated, raises, recording

TEXTS = {"Sleep stage W": 0, "Sleep stage 1": 1, "Sleep stage 2": 2, "Sleep stage 3": 3}
TEXTS |= {"Sleep stage 4": 3, "Sleep stage R": 4, "Sleep stage ?": -1, "Movement time": -1}
TEXTS |= {"N1": 1, "n3": 3, " REM ": 4, "SLEEP STAGE N2": 2, np.str_("Wake"): 0}
TEXTS |= {"Lights off": None, "Sleep stage": None, "5": None, "": None}


@pytest.mark.parametrize(("text", "code"), TEXTS.items())
def test_texts(text, code):
    assert stage_of_text(text) == code


@pytest.mark.parametrize(
    ("scheme", "merged"),
    [
        ("aasm", ["W", "N1", "N2", "N3", "REM", None]),
        ("wldr", ["W", "L", "L", "D", "R", None]),
        ("wnr", ["W", "N", "N", "N", "R", None]),
    ],
)
def test_schemes(scheme, merged):
    codes = to_scheme(np.array([0, 1, 2, 3, 4, -1], dtype=np.int8), scheme)
    assert codes.dtype == np.int64
    names = scheme_names(scheme)
    assert [None if code == -1 else names[code] for code in codes] == merged
    assert to_scheme(np.empty(0, dtype=int), scheme).shape == (0,)


@pytest.mark.parametrize("y", [[0, 5], [-2], ["W", "N1"], [0.0, 1.0]])
def test_what_are_no_codes(y):
    with raises("AASM codes 0 to 4"):
        to_scheme(y, "wnr")


@pytest.mark.parametrize("scheme", ["aasm5", None, ["W"]])
def test_an_unknown_scheme(scheme):
    with raises("aasm, wldr, wnr"):
        to_scheme([0], scheme)


@pytest.mark.parametrize(
    "y",
    [
        [0, -1, 4, -1],
        np.array([0, -1, 4, -1], dtype=np.int8),
        [0.0, -1.0, 4.0, -1.0],
        ["W", "?", "REM", "?"],
        np.array(["W", "?", "REM", "?"], dtype="S3"),
        np.array(["W", "?", "REM", "?"], dtype=object),
        np.array([0, -1, 4, "?"], dtype=object),
    ],
    ids=lambda y: str(np.asarray(y).dtype),
)
def test_unscored(y):
    marked = is_unscored(y)
    assert marked.dtype == bool
    assert marked.tolist() == [False, True, False, True]
    assert is_unscored([]).shape == (0,)


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        ([-1, 1, 1], None, []),  # two classes
        ([-1.0, 1.0, 1.0], [-1, 1], []),
        ([-1, 1, 1], "aasm", [0]),  # nothing but N1 was scored
        ([-1, 1, 1], np.arange(5), [0]),
        ([-1, 1, 2], None, [0]),
        (["?", "N1"], "aasm", [0]),
        (["?", "N1"], ["N1", "N2"], [0]),
    ],
)
def test_left_unscored(y, classes, expected):
    assert np.flatnonzero(left_unscored(y, classes)).tolist() == expected


# ---------------------------------------------------------------- stages at onsets


def test_a_stage_counts_for_the_epochs_wholly_inside():
    scored = annotated(
        (0, 60, "Sleep stage W"),
        (10, 5, "arousal"),
        (60, 45, "Sleep stage 2"),
        (120, 30, "Movement time"),
        (150, 30, "Sleep stage R"),
    )
    onset = np.arange(-30, 210, 30)
    #        -30  0  30  60  90 (ends at 105)  120  150  180
    assert stages_at(scored, onset).tolist() == [-1, 0, 0, 2, -1, -1, 4, -1]
    assert stages_at(scored, [15, 45, 74.9, 75.2]).tolist() == [0, -1, 2, -1]
    assert stages_at(scored, []).shape == (0,)


# ---------------------------------------------------------------- real annotations


def test_every_text_of_sleep_edf_is_known(shared_data):
    texts = Counter()
    for rows, *_ in real_sleep_edf(shared_data).values():
        for _, duration, text in rows:
            texts[text] += duration // 30
    assert len(texts) == 8
    codes = Counter()
    for text, n_epochs in texts.items():
        codes[stage_of_text(text)] += n_epochs
    deep = texts["Sleep stage 3"] + texts["Sleep stage 4"]
    assert codes == {
        0: texts["Sleep stage W"],
        1: texts["Sleep stage 1"],
        2: texts["Sleep stage 2"],
        3: deep,
        4: texts["Sleep stage R"],
        -1: texts["Movement time"] + texts["Sleep stage ?"],
    }
    # Sleep in the whole recordings, as it is published of these 39 nights (DeepSleepNet,
    # Supratak et al. 2017, Table I).
    assert [codes[code] for code in (1, 2, 3, 4)] == [2804, 17799, 5703, 7717]


def test_texts_that_are_not_read_are_named():
    raw = recording(seconds=150)
    texts = ["Wake", "Stage two", "NREM2", "arousal", "Apnoea", "5"]
    scored = mne.Annotations([0, 30, 60, 90, 0, 95], [30, 30, 30, 5, 130, 65], texts)
    texts = (r"'Apnoea' \(epochs: 4\)", r"'5' \(epochs: 2\)", r"'Stage two' \(epochs: 1\)")
    listed = f"longer: {', '.join(texts)}\\."
    with pytest.warns(UserWarning, match=listed) as caught:
        X = PairedEpochs.from_raws(source_raw=raw, target_raw=raw, annotations=scored)
    assert X.onset.tolist() == [0, 60]
    with pytest.warns(UserWarning, match=listed) as again:
        assert stages_at(scored, X.onset).tolist() == [0, 2]
    assert caught[0].filename == again[0].filename == __file__


@pytest.mark.parametrize("text", ["{}", "Sleep stage {}"])
def test_codes_are_no_texts(text):
    codes = np.array([0, 1, 2, 3, 4])
    scored = annotated(*((30 * k, 30, text.format(k)) for k in codes))
    with raises(r"4 is deep sleep.*\[codes\]"):
        stages_at(scored, [0])
    names = np.array(["W", "N1", "N2", "N3", "REM"])[codes]  # what the error proposes
    named = annotated(*((30 * k, 30, names[k]) for k in codes))
    assert stages_at(named, 30 * codes).tolist() == codes.tolist()
    # Rechtschaffen and Kales' have no 0; a trigger is shorter than an epoch.
    scored = annotated((0, 0.1, "0"), *((30 * k, 30, text.format(k)) for k in codes[1:]))
    assert stages_at(scored, 30 * codes).tolist() == [-1, 1, 2, 3, 3]


# ---------------------------------------------------------------- any stages

SCHEME = st.sampled_from(sorted(SCHEMES))


@given(SCHEME, st.data())
def test_names_and_codes_of_a_scheme_are_one(scheme, data):
    names = SCHEMES[scheme]
    codes = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1))
    given_names = np.array([names[code] for code in codes])
    for y in (given_names, np.array(codes)):
        np.testing.assert_array_equal(stage_codes(y, list(names), "y"), codes)


@given(
    st.integers(0, 4), st.sampled_from(["{}", " {} ", "Sleep stage {}", "SLEEP STAGE {}"])
)
def test_texts_of_stages_are_read_however_they_are_written(code, written):
    assert stage_of_text(written.format(SCHEMES["aasm"][code])) == code
    assert stage_of_text(written.format(SCHEMES["aasm"][code]).lower()) == code
