"""What NumPy would make of it: each gets its right reading, or the line to write."""

import warnings
from datetime import datetime, timedelta

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score
from torch.utils.data import TensorDataset

from skleepkd import PairedEpochs, SleepStager
from skleepkd.epochs.checks import as_pair
from skleepkd.hypnogram import Hypnogram
from skleepkd.metrics import gap_closed, paired_test, staging_report
from skleepkd.stages import stages_at
from tests.tiny import TinyNetwork, raises, recording, windows_of

OPTIONS = {"max_epochs": 2, "random_state": 0, "validation": None}


def noise(*shape, spread=20.0):
    return spread * np.random.default_rng(0).standard_normal(shape)


def epochs_of(n=12, n_chans=2, **options):
    values = 1e-6 * noise(n, n_chans, 300)
    values[1::2] *= 3
    info = mne.create_info([f"E{k}" for k in range(n_chans)], 10.0, "eeg")
    events = np.column_stack([300 * np.arange(n), np.zeros((n, 2), int)])
    table = pd.DataFrame({"subject": np.repeat(list("abc"), n // 3), "night": 1})
    return mne.EpochsArray(values, info, events, metadata=table, verbose=False, **options)


# ---------------------------------------------------------------- mne.Epochs, windows


def test_epochs_of_mne_in_cross_validation():
    """scikit-learn slices them into lists of single epochs."""
    epochs, y, groups = epochs_of(), np.tile([0, 2], 6), np.repeat([0, 1, 2], 4)
    stager = SleepStager(TinyNetwork, **OPTIONS)
    pair = PairedEpochs.from_mne(epochs, target=epochs.ch_names)
    options = {"groups": groups, "cv": GroupKFold(3)}
    given = cross_val_predict(stager, epochs, y, method="predict_proba", **options)
    expected = cross_val_predict(stager, pair, y, method="predict_proba", **options)
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert len(cross_val_score(stager, epochs, y, **options)) == 3
    X = as_pair([epochs[k] for k in (7, 2, 3)])
    for name in ("subject", "onset"):
        assert getattr(X, name).tolist() == getattr(pair[[7, 2, 3]], name).tolist()
    np.testing.assert_array_equal(X["target"], pair[[7, 2, 3]]["target"])
    with raises("differ in channels, sampling rates or lengths"):
        as_pair([epochs, epochs_of(n_chans=1)])


def test_windows_of_braindecode():
    names, kinds = ["L", "R", "STI"], ["eeg", "eeg", "stim"]
    windows = windows_of(*(recording(names, kinds, seconds=180) for _ in range(2)))
    y = np.tile([0, 2, 2], 4)
    with pytest.warns(UserWarning, match="STI are left out"):
        stager = SleepStager(TinyNetwork, **OPTIONS).fit(windows, y)
    assert stager.ch_names_ == ["L", "R"]
    assert set(stager.fitted_on_["subject"]) == {"0", "1"}
    pair = PairedEpochs.from_windows(windows, target=["L", "R"])
    with pytest.warns(UserWarning, match="STI are left out"):
        given = stager.predict_proba(windows)
    np.testing.assert_array_equal(given, stager.predict_proba(pair))
    with raises(r"tuples.*PairedEpochs\.from_windows\(dataset\)"):
        stager.predict([windows[k] for k in range(3)])


# ---------------------------------------------------------------- containers


TWO = (noise(4, 1, 300), noise(4, 2, 300))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"target": TWO[0], "source": TWO[1]}, r"PairedEpochs\(\*\*X\)"),
        (TWO, r"PairedEpochs\(target, source=source\)"),
        (list(TWO), r"np\.concatenate\(X\)"),
        ([TWO[0], TWO[0]], r"np\.concatenate\(X\)"),
        ([PairedEpochs(TWO[0]), PairedEpochs(TWO[0])], r"PairedEpochs\.concatenate\(X\)"),
        ([(TWO[0][0], TWO[1][0])], "tuples"),
        (TensorDataset(*map(torch.from_numpy, TWO)), "given TensorDataset of tuples"),
        ((x for x in TWO), "array of numbers"),
        ({1, 2}, "array of numbers"),
    ],
    ids=["dict", "tuple", "list", "nights", "pairs", "rows", "torch", "generator", "set"],
)
def test_containers_are_refused_with_the_line_to_write(given, line):
    with raises(line):
        SleepStager(TinyNetwork).fit(given, [0, 1, 0, 1])


def test_lists_of_epochs_are_epochs():
    for given in (list(TWO[1]), TWO[1].tolist(), tuple(TWO[1])):
        assert as_pair(given).shape == (4, 2, 300)


def test_axes_that_are_exchanged():
    stager = SleepStager(TinyNetwork, **OPTIONS).fit(noise(4, 1, 3000), [0, 1, 0, 1])
    for n_chans in (1, 2, 8):
        swapped = noise(4, 3000, n_chans)
        for use in (stager.predict, PairedEpochs, lambda X: stager.fit(X, [0, 1, 0, 1])):
            with raises(r"axes of the target .* given \(4, 3000, \d\).*swapaxes\(1, 2\)"):
                use(swapped)
    assert as_pair(noise(4, 24, 3)).ndim == 3  # as many channels as there are caps


def test_masked_arrays():
    X, y = np.ma.masked_array(noise(4, 1, 300)), np.ma.masked_array([0, 1, 0, 1])
    whole = as_pair(X)["target"]
    assert type(whole) is np.ndarray
    SleepStager(TinyNetwork, **OPTIONS).fit(X, y)
    X[2, 0, 5] = np.ma.masked
    for given in (X, list(X)):
        with raises(r"target has masked values.*getmaskarray"):
            as_pair(given)
    with raises("source has masked values"):
        PairedEpochs(TWO[0], source=X)
    y[1] = np.ma.masked
    with raises(r"y has masked values.*y\.filled\(-1\)"):
        SleepStager(TinyNetwork).fit(TWO[0], y)
    with raises("subject has missing values"):
        PairedEpochs(TWO[0], subject=y)


# ---------------------------------------------------------------- columns


SECONDS = [0, 30, 60.5, 90]


@pytest.mark.parametrize(
    "onset",
    [
        np.array(SECONDS),
        pd.to_timedelta(SECONDS, unit="s"),
        pd.Series(pd.to_timedelta(SECONDS, unit="s")),
        [timedelta(seconds=s) for s in SECONDS],
        [pd.Timedelta(seconds=s) for s in SECONDS],
        np.array([1000 * s for s in SECONDS]).astype("timedelta64[ms]"),
        pd.Series(SECONDS, dtype=object),
        pd.Series(SECONDS, dtype="Float64"),
    ],
    ids=["numbers", "index", "series", "timedelta", "Timedelta", "ms", "object", "Float64"],
)
def test_durations_are_seconds(onset):
    assert PairedEpochs(TWO[0], onset=onset).onset.tolist() == SECONDS


DATES = pd.to_datetime("2020-01-01 22:00") + pd.to_timedelta(SECONDS, unit="s")


@pytest.mark.parametrize(
    "onset",
    [
        *(DATES, DATES.tz_localize("UTC"), DATES.to_numpy(), list(DATES)),
        *(DATES.astype(str), DATES.time),
        [datetime(2020, 1, 1, 22, 0, k) for k in range(4)],
    ],
)
def test_dates_are_refused_with_the_line(onset):
    with raises(r"onset counts seconds .*pandas\.to_datetime\(dates\) - start"):
        PairedEpochs(TWO[0], onset=onset)
    cured = (pd.to_datetime(DATES) - pd.Timestamp("2020-01-01 22:00")).total_seconds()
    assert PairedEpochs(TWO[0], onset=cured).onset.tolist() == SECONDS


MISSING = [None, np.nan, float("nan"), "nan", pd.NA, pd.NaT, "n/a"]


@pytest.mark.parametrize("nobody", MISSING, ids=str)
def test_missing_people_are_missing_everywhere(nobody):
    people = ["a", "a", nobody, "b"]
    columns = [people, np.array(people, dtype=object), pd.Series(people)]
    for groups in columns:
        with raises("groups has missing"):
            staging_report([0, 1, 0, 1], [0, 1, 1, 1], groups=groups)
        with raises("groups has missing"):
            SleepStager(TinyNetwork).fit(TWO[0], [0, 1, 0, 1], groups=groups)
        for name in ("subject", "recording"):
            with raises(f"{name} has missing"):
                PairedEpochs(TWO[0], **{name: groups})
    with raises("onset has missing"):
        PairedEpochs(TWO[0], onset=[0, 30, nobody, 90])


@pytest.mark.parametrize("score", [None, np.nan, "nan", pd.NA], ids=str)
def test_missing_scores_are_missing(score):
    scores, others = [0.5, score, 0.7], [0.4, 0.5, 0.6]
    for judge in (
        lambda: paired_test(scores, others),
        lambda: paired_test(others, pd.Series(scores)),
        lambda: gap_closed(others, scores, others),
    ):
        with raises("has missing values"):
            judge()


def test_the_second_signal_goes_by_name():
    line = r"PairedEpochs\(target, source=source\)"
    with raises(line, TypeError):
        PairedEpochs(TWO[0], TWO[1])
    raw = recording()
    line = r"from_raws\(target_raw=wearable, source_raw=psg, annotations=annotations\)"
    with raises(line, TypeError):
        PairedEpochs.from_raws(raw, raw, mne.Annotations(0, 30, "N2"))
    with pytest.warns(UserWarning, match="20 Hz|30 s") as seen:
        PairedEpochs(TWO[0], sfreq=20.0)
    assert seen[0].filename == __file__


def test_what_was_right_stays_silent():
    with warnings.catch_warnings(action="error"):
        PairedEpochs(TWO[0], source=TWO[1], subject=[1, 1, 2, 2], onset=SECONDS)
        staging_report([0, 1, 0, 1], [0, 1, 1, 1], groups=["a", "a", "b", "b"])


def test_onsets_are_read_alike_wherever_they_are_given():
    night = mne.Annotations([0, 30, 60.5], 30.0, ["W", "N2", "R"])
    durations = pd.to_timedelta(SECONDS, unit="s")
    assert stages_at(night, durations).tolist() == [0, 2, 4, -1]
    assert Hypnogram(np.eye(4), list("abcd"), onset=durations).onset.tolist() == SECONDS
    for use in (
        lambda: stages_at(night, DATES),
        lambda: Hypnogram(np.eye(4), SECONDS, onset=DATES),
    ):
        with raises("onset counts seconds"):
            use()
