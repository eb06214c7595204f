"""The pair as a container: rows, columns, views, joining."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, train_test_split
from sklearn.utils import _safe_indexing, resample, shuffle
from sklearn.utils.validation import _num_samples

from skleepkd import PairedEpochs
from skleepkd.epochs.rows import Signal
from tests.tiny import numbered


def check_rows(pair, rows):
    """Hold a view of ``numbered()`` against the rows that it should have."""
    rows = np.asarray(rows, dtype=int)
    assert len(pair) == len(rows)
    assert pair.shape == (len(rows), 2, 5)
    for modality, first, shape in (("target", 0, (2, 5)), ("source", 1000, (3, 7))):
        expected = np.broadcast_to(first + rows[:, None, None], (len(rows), *shape))
        np.testing.assert_array_equal(pair[modality], expected)
        blocks = [block for _, block in pair.blocks(modality)]
        np.testing.assert_array_equal(np.concatenate([expected[:0], *blocks]), expected)
    assert pair.onset.tolist() == (30.0 * rows).tolist()
    assert pair.subject.tolist() == [f"s{k // 4}" for k in rows]
    assert pair.recording.tolist() == [f"night{k // 3}" for k in rows]


@pytest.fixture
def no_reading(monkeypatch):
    """Make every read of a signal an error."""

    def refuse(*_):
        raise AssertionError("the signal was read")

    monkeypatch.setattr(Signal, "read", refuse)


# ---------------------------------------------------------------- rows


def test_like_an_array():
    X = numbered()
    check_rows(X, np.arange(12))
    assert (len(X), X.ndim, X.dtype) == (12, 3, np.float32)
    assert _num_samples(X) == 12
    np.testing.assert_array_equal(np.asarray(X), X["target"])
    assert np.shares_memory(np.asarray(X), X["target"])
    assert not np.shares_memory(np.array(X), X["target"])
    assert np.asarray(X, dtype=np.float64).dtype == np.float64
    assert (
        repr(X) == "<PairedEpochs: 12 epochs of 3 subjects, target (2, 5), source (3, 7)>"
    )


KEYS = [slice(3, 7), slice(None, None, -1), slice(-5, None, 2), slice(9, 4), ...]
KEYS += [[0, 0, 11, 5], [-1, -12], [], np.array([7, 8, 9], dtype=np.uint8)]
KEYS += [np.arange(12) % 3 == 1, [True, False] * 6, np.zeros(12, dtype=bool)]
KEYS += [4, -1, np.int32(4), np.array(4)]  # one number is a pair of one row


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_keys(key):
    rows = np.atleast_1d(np.arange(12)[key])
    check_rows(numbered()[key], rows)
    if key is not Ellipsis:
        check_rows(numbered()[key, ...], rows)


def test_iteration_goes_row_by_row():
    rows = list(numbered(3))
    assert len(rows) == 3
    for k, row in enumerate(rows):
        check_rows(row, [k])


REFUSED = [12, -13, [0, 12], np.ones(11, dtype=bool), np.ones(13, dtype=bool), [0.0, 1.0]]
REFUSED += [[[0, 1], [2, 3]], None, (slice(3), slice(1)), (slice(3), ..., 0)]


@pytest.mark.parametrize("key", [*REFUSED, np.array(["target"])], ids=str)
def test_keys_that_are_refused(key):
    with pytest.raises(IndexError):
        numbered()[key]


def draw_key(data, n_epochs):
    row = st.integers(-n_epochs, n_epochs - 1)
    mask = st.lists(st.booleans(), min_size=n_epochs, max_size=n_epochs)
    keys = [st.slices(n_epochs), mask.map(lambda key: np.array(key, dtype=bool))]
    if n_epochs:
        keys += [st.lists(row, max_size=20).map(lambda key: np.array(key, dtype=int)), row]
    return data.draw(st.one_of(keys))


@settings(max_examples=80)
@given(data=st.data())
def test_any_sequence_of_keys_equals_an_array(data):
    X, rows = numbered(), np.arange(12)
    for _ in range(data.draw(st.integers(1, 5))):
        key = draw_key(data, len(rows))
        X = X[key, ...] if data.draw(st.booleans()) else X[key]
        rows = np.atleast_1d(rows[key])
    check_rows(X, rows)
    key = draw_key(data, len(rows))
    if not isinstance(key, int):
        np.testing.assert_array_equal(X.read("source", key)[:, 0, 0], 1000 + rows[key])
    if len(rows):
        copied = PairedEpochs(X["target"].copy(), source=X["source"].copy())
        for modality in ("target", "source"):
            assert X.fingerprint(modality) == copied.fingerprint(modality)


def test_a_fingerprint_tells_values_order_and_shape():
    X = numbered()
    same = {X[3:6].fingerprint("source"), X[[3, 4, 5]].fingerprint("source")}
    assert len(same) == 1
    others = {X[[4, 3, 5]], X[3:7], X[4:7], X.replace(source=X["source"] + 0.5)[3:6]}
    prints = {other.fingerprint("source") for other in others} | same
    assert len(prints) == 5
    flat = np.zeros((4, 1, 6), np.float32)
    shapes = [flat, flat.reshape(2, 2, 6), flat.reshape(4, 2, 3), flat.astype(np.int32)]
    assert len({PairedEpochs(array).fingerprint("target") for array in shapes}) == 4


# ---------------------------------------------------------------- views


def test_contiguous_rows_are_views():
    X = numbered()
    for view in (X[2:9], X[[2, 3, 4]], X[1:][1:5][np.arange(3)], X[np.arange(12) > 6]):
        for modality in ("target", "source"):
            assert np.shares_memory(view[modality], X[modality])
            assert view[modality].base is not None
    assert np.shares_memory(X.read("source", slice(4, 6)), X["source"])


def test_slicing_and_replacing_read_nothing(no_reading):
    X = numbered()
    view = X[[5, 1, 7, 7]][::-1]
    view = view.replace(target=np.zeros((4, 1, 3))).with_subject("someone")
    assert view.source_epochs.target_epochs[1:].shape == (3, 3, 7)
    assert PairedEpochs(view, source=X[:4].source_epochs).has_source


def test_each_modality_keeps_its_own_rows():
    X = numbered()
    new = -np.arange(4.0)[:, None, None] * np.ones((1, 1, 3))
    view = X[[5, 1, 7, 2]].replace(target=new)[[3, 1, 0]]
    assert view["target"][:, 0, 0].tolist() == [-3, -1, 0]
    assert view["source"][:, 0, 0].tolist() == [1002, 1001, 1005]
    assert view.onset.tolist() == [60, 30, 150]
    assert view.ch_names == {"target": None, "source": ["C3", "C4", "O1"]}
    assert X[1:4].replace(target=X["target"][:3]).ch_names["target"] == ["L", "R"]


def test_one_modality():
    X = numbered()[[4, 2]]
    source = X.source_epochs
    assert not source.has_source
    np.testing.assert_array_equal(source["target"], X["source"])
    assert source.onset.tolist() == [120, 60]
    assert source.subject.tolist() == ["s1", "s0"]
    assert source.sfreq == {"target": 7.0, "source": None}
    assert source.ch_names == {"target": ["C3", "C4", "O1"], "source": None}
    assert X.target_epochs.sfreq == {"target": 5.0, "source": None}
    with pytest.raises(ValueError, match="no source"):
        X.target_epochs["source"]
    with pytest.raises(ValueError, match="no source"):
        source.source_epochs
    with pytest.raises(KeyError, match="wearable"):
        X["wearable"]


def test_replace_with_a_pair_takes_its_target():
    X = numbered()[::-1]
    other = PairedEpochs(np.ones((12, 1, 4)), sfreq=4, ch_names=["Fpz"])
    replaced = X.target_epochs.replace(source=other)
    assert replaced.sfreq == {"target": 5.0, "source": 4.0}
    assert replaced.ch_names == {"target": ["L", "R"], "source": ["Fpz"]}
    with pytest.raises(ValueError, match="12 target epochs and 5 source epochs"):
        X.replace(source=other[:5])


def test_with_subject():
    X = numbered()
    view = X[[7, 3]].with_subject([9, 8])
    assert view.subject.tolist() == [9, 8]
    assert view[1:].subject.tolist() == [8]
    assert X.with_subject("one").subject.tolist() == ["one"] * 12
    assert X.subject[0] == "s0"
    with pytest.raises(ValueError, match="each of the 2 epochs"):
        X[[7, 3]].with_subject(np.arange(12))


# ---------------------------------------------------------------- scikit-learn


def test_scikit_learn_slices_it():
    X, y = numbered(), np.arange(12)
    for key in ([3, 1], np.array([3, 1]), (3, 1), np.arange(12) > 8, slice(2, 5)):
        taken = _safe_indexing(X, key)
        assert isinstance(taken, PairedEpochs)
        check_rows(taken, _safe_indexing(y, key))
    train, test, y_train, y_test = train_test_split(X, y, random_state=0)
    check_rows(train, y_train)
    check_rows(test, y_test)
    mixed, y_mixed = shuffle(X, y, random_state=0)
    check_rows(mixed, y_mixed)
    drawn, y_drawn = resample(X, y, random_state=0)
    check_rows(drawn, y_drawn)
    for train, test in GroupKFold(3).split(X, y, groups=X.subject):
        assert not set(X[train].subject) & set(X[test].subject)
        check_rows(X[test], test)


# ---------------------------------------------------------------- what is given


def test_columns():
    import pandas as pd

    table = pd.DataFrame({"who": ["a", "b", "a"], "night": pd.Categorical([1, 2, 1])})
    X = PairedEpochs(
        np.zeros((3, 1, 4)),
        subject=table["who"],
        recording=table["night"],
        onset=[0, 30, 60],
    )
    assert X.subject.tolist() == ["a", "b", "a"]
    assert X.subject.dtype.kind == "U"
    assert X.recording.tolist() == [1, 2, 1]
    assert X.onset.dtype == float
    listed = PairedEpochs(np.zeros((2, 1, 4)), subject=["anna", "bo"], recording="night1")
    assert listed.subject.tolist() == ["anna", "bo"]
    assert listed.recording.tolist() == ["night1"] * 2
    assert listed.onset is None
    assert PairedEpochs(np.zeros((2, 1, 4)), subject=7).subject.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": np.zeros((11, 3, 7))}, "12 target epochs and 11 source epochs"),
        ({"target": np.zeros((12, 10))}, r"n_channels, n_times\); given \(12, 10\)"),
        ({"source": [["C3"]] * 12}, "source must be an array of numbers"),
        ({"target": np.full((12, 2, 5), None)}, "target must be an array of numbers"),
        ({"subject": ["s"] * 11}, r"subject has shape \(11,\)"),
        ({"recording": np.zeros((12, 1))}, r"recording has shape \(12, 1\)"),
        ({"subject": ["s"] * 11 + [None]}, "subject has missing values"),
        ({"onset": [np.nan] * 12}, "onset has missing values"),
        ({"ch_names": ["L", "R", "Z"]}, "3 channel names for 2 target channels"),
        ({"ch_names": {"source": ["C3"]}}, "1 channel names for 3 source channels"),
        ({"sfreq": {"ear": 200}}, "'target' and 'source'; given .'ear'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        numbered(**changes)


def test_epochs_that_do_not_last_30_s(tmp_path):
    ear, scalp = np.zeros((4, 1, 1920)), np.zeros((4, 2, 3001))  # MNE has the last one too
    with warnings.catch_warnings(action="error"):
        PairedEpochs(ear, source=scalp, sfreq={"target": 64, "source": 100})
        PairedEpochs(ear)
        PairedEpochs(np.zeros((4, 1, 29, 129)), sfreq=100)  # a spectrogram
    told = r"source has epochs of 3001 samples: 46\.89 s at sfreq=64 .* 100 Hz"
    with pytest.warns(UserWarning, match=told) as said:
        X = PairedEpochs(ear, source=scalp, sfreq=64)
    assert [one.filename for one in said] == [__file__]
    with pytest.warns(UserWarning, match=r"target .* 1920 samples: 19\.2 s .* 64 Hz"):
        PairedEpochs(ear, sfreq=100)
    with warnings.catch_warnings(action="error"):  # told once, not of each slice and copy
        X.replace(target=X.target_epochs)[1:].source_epochs.with_subject("a")
        PairedEpochs.concatenate([X, X]).to_memmap(tmp_path)


def test_rates_and_names():
    alone = numbered(sfreq=100, ch_names=["L", "R"])
    assert alone.sfreq == {"target": 100.0, "source": 100.0}
    assert alone.ch_names == {"target": ["L", "R"], "source": None}
    alone.sfreq["target"] = 1
    assert alone.sfreq["target"] == 100.0
    unknown = numbered(sfreq=None, ch_names=None)
    assert unknown.sfreq == unknown.ch_names == {"target": None, "source": None}


def test_a_spectrogram_keeps_its_trailing_axis():
    X = PairedEpochs(np.arange(4 * 29 * 2.0).reshape(4, 1, 29, 2))
    assert X.shape == (4, 1, 29, 2)
    assert X[[3, 1]]["target"].shape == (2, 1, 29, 2)


# ---------------------------------------------------------------- joining


def test_concatenate():
    X = numbered()
    joined = PairedEpochs.concatenate([X[8:], X[0:0], X[[2, 1]], X[3]])
    check_rows(joined, [8, 9, 10, 11, 2, 1, 3])
    assert joined.ch_names == X.ch_names
    assert joined.sfreq == X.sfreq
    assert not np.shares_memory(joined["target"], X["target"])
    check_rows(PairedEpochs.concatenate([X[0:0]]), [])
    with pytest.raises(ValueError, match="the list of pairs is empty"):
        PairedEpochs.concatenate([])


def test_concatenate_loses_no_precision():
    whole = PairedEpochs(np.ones((1, 1, 2), dtype=np.int16))
    half = PairedEpochs(np.full((1, 1, 2), 0.5, dtype=np.float32))
    joined = PairedEpochs.concatenate([whole, half])
    assert joined["target"][:, 0, 0].tolist() == [1, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, "no source"),
        (
            {"target": np.zeros((12, 2, 6))},
            r"target epochs of shape \(2, .\) .* of shape \(2, .\)",
        ),
        ({"sfreq": {"target": 5, "source": 8}}, "source epochs .* [78].0 Hz .* [78].0 Hz"),
        (
            {"ch_names": {"target": ["R", "L"]}},
            r"\['L', 'R'\] .*\['R', 'L'\]|\['R', 'L'\] .*\['L', 'R'\]",
        ),
        ({"subject": None}, "Some of the pairs have subject, others have not"),
    ],
)
def test_pairs_that_cannot_be_joined(changes, message):
    for pairs in ([numbered(), numbered(**changes)], [numbered(**changes), numbered()]):
        with pytest.raises(ValueError, match=message):
            PairedEpochs.concatenate(pairs)


def test_a_signal_with_other_samples_has_no_known_rate():
    X = PairedEpochs(np.zeros((3, 1, 60)), source=np.zeros((3, 1, 60)), sfreq=2.0)
    assert X.replace(target=np.zeros((3, 1, 30))).sfreq == {"target": None, "source": 2.0}
    assert X.replace(target=np.zeros((3, 2, 60))).sfreq == {"target": 2.0, "source": 2.0}
    assert X.replace(source=np.zeros((3, 1, 9, 9))).sfreq == {"target": 2.0, "source": 2.0}
