"""Windows and fusion against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skleepkd.sequences import FUSIONS, Fusion, find_runs, make_windows


@st.composite
def nights(draw):
    """Rows of a few recordings with gaps, in any order; and the runs that were drawn."""
    rows, truth, n_rows = [], [], 0
    for night in range(draw(st.integers(1, 3))):
        step = draw(st.sampled_from([20.0, 30.0]))
        onset, runs = draw(st.floats(0, 100)), draw(st.lists(st.integers(1, 9), max_size=4))
        # So many epochs that the usual step is seen, whatever the gaps.
        for length in [8 + 2 * len(runs), *runs]:
            truth.append(range(n_rows, n_rows + length))
            rows += [(f"night-{night}", onset + k * step) for k in range(length)]
            n_rows += length
            onset += length * step + draw(st.floats(0.5, 500))
    order = draw(st.permutations(range(n_rows)))
    recording = np.array([rows[k][0] for k in order])
    onset = np.array([rows[k][1] for k in order])
    where = np.argsort(order)
    return recording, onset, [where[list(run)] for run in truth]


@given(nights())
@settings(max_examples=60)
def test_runs_end_at_gaps_and_nights(drawn):
    recording, onset, truth = drawn
    found = find_runs(recording, onset, len(recording))
    assert sorted(map(tuple, found)) == sorted(map(tuple, truth))


@given(
    nights(), st.integers(1, 6), st.sampled_from(FUSIONS), st.integers(1, 5), st.randoms()
)
@settings(max_examples=80)
def test_fusion_equals_brute_force(drawn, length, fusion, batch, random):
    recording, onset, truth = drawn
    n_epochs, n_classes = len(recording), 3
    rng = np.random.default_rng(random.randrange(2**32))
    runs = find_runs(recording, onset, n_epochs)
    windows = make_windows(runs, length, short=True)
    votes = rng.dirichlet(np.ones(n_classes), size=(len(windows), length))
    fused = Fusion(n_epochs, n_classes, fusion)
    sizes = (windows >= 0).sum(axis=1)
    for size in np.unique(sizes):
        some = np.flatnonzero(sizes == size)
        for start in range(0, len(some), batch):
            ids = some[start : start + batch]
            fused.add(windows[ids, :size], np.moveaxis(votes[ids, :size], 1, 2))
    proba = fused.answer()

    expected = np.empty((n_epochs, n_classes))
    for epoch in range(n_epochs):
        held = [(w, p) for w, p in np.argwhere(windows == epoch)]
        # SPEC C5: fewer windows hold the epochs at the edges of a run.
        run = next(r for r in truth if epoch in r)
        at, n = list(run).index(epoch), len(run)
        fewest = min(at + 1, n - at, length, max(1, n - length + 1))
        assert len(held) == fewest
        own = np.array([votes[w, p] for w, p in held])
        if fusion == "product":
            means = np.prod(own, axis=0) ** (1 / len(held))
            expected[epoch] = means / means.sum()
        elif fusion == "mean":
            expected[epoch] = own.mean(axis=0)
        else:
            middle = (min(length, n) - 1) / 2
            away = [(abs(p - middle), -p) for _, p in held]
            expected[epoch] = own[away.index(min(away))]
    np.testing.assert_allclose(proba, expected, rtol=1e-9)


def test_the_papers_windows_score_and_stage():
    """SPEC C1: N - 19 windows of 20 epochs a night; C5: argmax of the sum of log p."""
    windows = make_windows([np.arange(757), np.arange(757, 757 + 1053)], 20)
    assert len(windows) == 757 - 19 + 1053 - 19
    assert np.all(np.diff(windows, axis=1) == 1)
    np.testing.assert_array_equal(windows[:3, 0], [0, 1, 2])
    assert 757 not in windows[: 757 - 19]
    windows = windows[:31]  # of 50 epochs
    votes = np.random.default_rng(0).dirichlet(np.ones(5), size=(31, 20))
    fused = Fusion(50, 5)
    fused.add(windows, np.moveaxis(votes, 1, 2))
    score = np.zeros((50, 5))
    for window, vote in zip(windows, votes, strict=True):
        score[window] += np.log(vote)
    np.testing.assert_array_equal(fused.answer().argmax(axis=1), score.argmax(axis=1))


def test_short_runs():
    runs = [np.arange(3), np.arange(3, 8)]
    assert make_windows(runs, 4).tolist() == [[3, 4, 5, 6], [4, 5, 6, 7]]
    assert make_windows(runs, 4, short=True)[0].tolist() == [0, 1, 2, -1]
    assert make_windows([], 4).shape == (0, 4)


def test_what_follows_what():
    def runs(recording, onset, n_epochs):
        return [run.tolist() for run in find_runs(recording, onset, n_epochs)]

    # Without onsets rows follow one another; what is far apart is no sequence.
    assert runs(np.array(["b", "a", "b", "a"]), None, 4) == [[1, 3], [0, 2]]
    assert runs(None, None, 4) == [[0, 1, 2, 3]]
    assert runs(None, np.array([0.0, 3000.0, 6000.0]), 3) == [[0], [1], [2]]
    with pytest.raises(ValueError, match="Two epochs of recording night begin at 30 s"):
        runs(np.array(["night"] * 3), np.array([0.0, 30.0, 30.0]), 3)


def test_unknown_fusion():
    with pytest.raises(ValueError, match="'product', 'mean', 'centre'; given 'median'"):
        Fusion(1, 2, "median")
