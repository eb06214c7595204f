"""What holds for any input: of labels, of files."""

import numpy as np
import pytest
from braindecode.preprocessing import exponential_moving_standardize
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.pipeline import make_pipeline

from skleepkd import SleepStager, load, save
from skleepkd.estimators.labels import encode, find_classes
from skleepkd.preprocessing import EpochwiseTransformer
from skleepkd.stages import UNSCORED
from tests.tiny import TinyNetwork, make_pair

# ---------------------------------------------------------------- labels


@given(
    st.one_of(
        st.lists(st.integers(0, 9), min_size=2, max_size=30).map(np.array),
        st.lists(st.sampled_from(["W", "N1", "N2", "N3", "REM"]), min_size=2).map(np.array),
    ),
    st.data(),
)
def test_labels_come_back_from_their_codes(y, data):
    assume(len(np.unique(y)) > 1)
    unscored = data.draw(npst.arrays(bool, len(y)))
    assume(len(np.unique(y[~unscored])) > 1)
    given_y = y.astype("U3") if y.dtype.kind == "U" else y.copy()
    given_y[unscored] = "?" if y.dtype.kind == "U" else UNSCORED
    classes = find_classes(None, given_y)
    codes = encode(given_y, classes)
    np.testing.assert_array_equal(codes < 0, unscored)
    np.testing.assert_array_equal(np.asarray(classes)[codes[~unscored]], y[~unscored])
    assert set(np.asarray(classes).tolist()) == set(y[~unscored].tolist())


# ---------------------------------------------------------------- files

ARRAYS = npst.arrays(
    st.sampled_from(["<i8", "<f4", "<f8", "|b1", "<U4"]),
    npst.array_shapes(min_dims=1, max_dims=2, max_side=4),
).filter(
    lambda array: (
        np.isfinite(array).all()
        if array.dtype.kind == "f"
        else array.dtype.kind != "U" or not any("\0" in text for text in array.ravel())
    )
)
NUMBERS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats()
KEYS = st.text(max_size=5) | st.integers() | st.booleans()
VALUES = st.recursive(
    NUMBERS | st.text(max_size=8) | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one, two):
    """Equal in value and type, all the way down, NaN being NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, np.ndarray):
        alike = one.dtype == two.dtype and one.shape == two.shape
        return alike and one.tolist() == two.tolist()
    return one == two or (one != one and two != two)


@pytest.fixture(scope="module")
def stager():
    X, y = make_pair()
    return SleepStager(TinyNetwork, max_epochs=1, device="cpu").fit(X, y)


@given(VALUES)
@settings(max_examples=60)
def test_parameters_come_back_from_a_file(tmp_path_factory, stager, value):
    step = EpochwiseTransformer(exponential_moving_standardize, {"value": value})
    path = tmp_path_factory.getbasetemp() / "stager.safetensors"
    save(make_pipeline(step, stager), path)
    assert same(load(path, TinyNetwork)[0].kw_args["value"], value)
