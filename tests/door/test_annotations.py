"""Stages in annotations: overlaps, pieces, borders and clocks, wherever they are read."""

import warnings
from datetime import UTC, datetime

import mne
import numpy as np
import pytest

from skleepkd import PairedEpochs
from skleepkd.stages import stages_at
from tests.tiny import annotated, pair_of, raises, recording


def test_overlapping_stages_that_differ_are_refused_on_every_path():
    twice = annotated((0, 60, "N2"), (30, 30, "N3"), (60, 30, "W"))
    for read in (lambda: stages_at(twice, [0, 30]), lambda: pair_of(recording(), twice)):
        with raises(r"overlap at 30 s, 'N2' and 'N3'.*annotations\["):
            read()
    # Whether the earlier one ends before or after, and where a third lies between.
    for rows in [
        [(0, 90, "N2"), (30, 15, "arousal"), (60, 10, "W")],
        [(0, 300, "Sleep stage ?"), (0, 30, "N1")],
    ]:
        with raises("overlap"):
            stages_at(annotated(*rows), [0])


def test_stages_that_agree_make_a_row_for_each_epoch():
    """Written twice, by two scorers who agree, or in two languages of one stage."""
    twice = annotated(*((30 * k, 30, text) for k in range(10) for text in ("S4", "N3")))
    X = pair_of(recording(seconds=300), twice)
    assert X.onset.tolist() == [30.0 * k for k in range(10)]
    assert stages_at(twice, X.onset).tolist() == [3] * 10
    shifted = annotated((0, 90, "N2"), (15, 90, "N2"), (105, 60, "W"))
    assert pair_of(recording(), shifted).onset.tolist() == [0, 30, 60, 105, 135]
    assert stages_at(shifted, [0, 30, 60, 75, 90]).tolist() == [2, 2, 2, 2, -1]


def test_pieces_of_one_stage_that_touch_cover_an_epoch():
    pieces = annotated(
        (0, 15, "N2"), (15, 15, "N2"), (30, 30, "W"), (60, 30, "W"), (90, 30, "R")
    )
    assert stages_at(pieces, [0, 30, 60, 90]).tolist() == [2, 0, 0, 4]
    X = pair_of(recording(), pieces)
    assert X.onset.tolist() == [0, 30, 60, 90]
    apart = annotated((0, 15, "N2"), (16, 15, "N2"), (31, 30, "W"), (61, 30, "W"))
    assert stages_at(apart, [0, 1, 31]).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("merged", [False, True])
def test_stages_of_twenty_seconds(merged):
    """Of each epoch the stage of more than half of it, as the AASM has it."""
    texts = ["N1", "N2", "N2", "N3", "N3", "N3", "W", "R", "W"]
    rows = [(20.0 * k, 20.0, text) for k, text in enumerate(texts)]
    if merged:
        rows = [(0, 20, "N1"), (20, 40, "N2"), (60, 60, "N3")]
        rows += [(120, 20, "W"), (140, 20, "R"), (160, 20, "W")]
    scored = annotated(*rows)
    X = pair_of(recording(), scored)
    assert X.onset.tolist() == [0, 30, 60, 90, 120, 150]
    # 0-30: 20 N1; 30-60: 30 N2; 60-120: N3; 120-150: 20 W; 150-180: 20 W.
    assert stages_at(scored, X.onset).tolist() == [1, 2, 3, 3, 0, 0]
    assert stages_at(scored, [20.0 * k for k in range(9)], epoch=20.0).tolist() == [
        *(1, 2, 2, 3, 3, 3, 0, 4, 0)
    ]


def test_stages_of_five_seconds():
    texts = ["W"] * 4 + ["N1"] * 2 + ["N1"] * 3 + ["N2"] * 3 + ["N2"] * 5 + ["?"]
    scored = annotated(*((5.0 * k, 5.0, text) for k, text in enumerate(texts)))
    with warnings.catch_warnings(action="error"):
        # The second and the last are half one stage and half another.
        assert stages_at(scored, [0, 30, 60, 90]).tolist() == [0, -1, 2, -1]
    # An epoch of which a part is not scored has no stage.
    assert stages_at(scored[:-1], [0, 60]).tolist() == [0, -1]


def test_codes_are_found_in_short_stages_too():
    def every_20_s(*texts):
        return mne.Annotations(20.0 * np.arange(len(texts)), 20.0, texts)

    with raises("4 is deep sleep"):
        stages_at(every_20_s("0", "1", "2", "4", "4"), [0])
    with pytest.warns(UserWarning, match="'Stage two'"):
        stages_at(every_20_s("W", "Stage two", "W"), [0])


@pytest.mark.parametrize("sfreq", [10.0, 64.0, 100.0])
def test_borders_that_lie_a_sample_early(sfreq):
    early = 1 / sfreq
    rows = [(0, 30, "W"), (30, 60, "N2"), (90, 30, "N3"), (120, 30, "W")]
    shorter = annotated(*((at, length - early, text) for at, length, text in rows))
    sooner = annotated(*((max(at - early, 0), length, text) for at, length, text in rows))
    for scored in (shorter, sooner):
        assert stages_at(scored, 30.0 * np.arange(6)).tolist() == [0, 2, 2, 3, 0, -1]
        X = pair_of(recording(sfreq=sfreq), scored)
        assert len(X) == 5
        np.testing.assert_allclose(X.onset, 30.0 * np.arange(5), atol=early + 1e-9)
        assert stages_at(scored, X.onset).tolist() == [0, 2, 2, 3, 0]


def test_epochs_keep_their_own_onsets():
    """A clock of which an epoch lasts 30.02 s: the hundredth begins 2 s late."""
    onset = 30.02 * np.arange(100)
    scored = mne.Annotations(onset, 30.02, ["N2"] * 100)
    X = pair_of(recording(seconds=3100), scored)
    np.testing.assert_allclose(X.onset, onset)


def test_stages_without_a_duration():
    scored = annotated((0, 0, "Sleep stage W"), (30, 0, "Sleep stage 2"))
    for read in (lambda: stages_at(scored, [0]), lambda: pair_of(recording(), scored)):
        with raises(r"stages last 0 s.*mne\.Annotations\(a\.onset, 30"):
            read()
    assert stages_at(annotated((0, 30, "arousal")), [0]).tolist() == [-1]


# ---------------------------------------------------------------- another clock


@pytest.mark.parametrize("date", [None, datetime(2020, 1, 1, 22, tzinfo=UTC)])
def test_annotations_of_a_cropped_recording(date):
    """MNE's count on from before the crop; those that were set after it do not."""
    raw = recording(seconds=400).set_meas_date(date)
    stages = [
        (30.0 * k, 30.0, text) for k, text in enumerate(["W", "N1", "N2", "N3", "R"] * 2)
    ]
    raw.set_annotations(annotated(*stages))
    cropped = raw.copy().crop(60)
    a = cropped.annotations
    # Chosen from it, copied, read before the crop: the clock is the same.
    for given in (a, a[1:4], raw.annotations, annotated(*stages)):
        with raises(r"-60 s after the first.*a\.onset -60,"):
            pair_of(cropped, given)
    cured = mne.Annotations(a.onset - 60, a.duration, a.description)
    with warnings.catch_warnings(action="error"):
        X = pair_of(cropped, cured)
        # As one who scored the cropped recording has them.
        assert len(pair_of(raw, annotated(*stages[2:3]))) == 1
    assert stages_at(cured, X.onset).tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    # Of one stage alone, scored from the crop on, all but the last fit both clocks.
    alike = mne.Annotations(30.0 * np.arange(10), 30.0, "N2")
    same = raw.copy().set_annotations(alike).crop(60)
    assert len(pair_of(same, alike[:8])) == 8
    first = 1e6 * raw.get_data(start=600, stop=900)
    np.testing.assert_allclose(X["target"][0], first, rtol=1e-5)


def test_annotations_of_another_file_beside_a_cropped_recording():
    cropped = recording(seconds=400).crop(60)
    stages = annotated((0, 90, "N2"), (90, 30, "N3"))
    with pytest.warns(UserWarning, match=r"begins 60 s into.*a\.onset - 60") as seen:
        X = PairedEpochs.from_raws(
            target_raw=cropped, source_raw=cropped, annotations=stages
        )
    assert seen[0].filename == __file__
    assert X.onset.tolist() == [0, 30, 60, 90]
    cropped.set_annotations(stages)  # so they count from there
    with warnings.catch_warnings(action="error"):
        assert len(pair_of(cropped, stages)) == 4
