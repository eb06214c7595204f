import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from skleepkd.metrics import bootstrap_interval, gap_closed, paired_test


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(3).normal(0.6, 0.1, 12)
    low, high = bootstrap_interval(values)
    options = {"method": "percentile", "n_resamples": 10_000, "random_state": 0}
    expected = stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert (low, high) == pytest.approx(expected, abs=0.003)
    assert bootstrap_interval(values) == (low, high)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_bootstrap_of_two_subjects_in_closed_form():
    # Means of two draws from {0, 1}: 0, 0.5 and 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_interval([0, 1], confidence=0.6) == (0, 1)
    assert bootstrap_interval([0, 1], confidence=0.4) == (0.5, 0.5)


def test_gap_closed():
    rng = np.random.default_rng(4)
    ear = rng.uniform(0.3, 0.6, 10)
    # Whatever the subjects drawn, a quarter of each one's own gap is a quarter of all.
    gap = rng.uniform(0.1, 0.3, 10)
    closed = gap_closed(scalp=ear + gap, ear=ear, method=ear + gap / 4)
    assert closed.has_gap is True
    assert closed.gap == pytest.approx(gap.mean())
    assert closed.gap_interval == pytest.approx(bootstrap_interval(gap))
    assert closed.share == pytest.approx(0.25)
    assert closed.share_interval == pytest.approx((0.25, 0.25))
    # Equal gains on unequal gaps: a ratio of means, no mean of ratios.
    closed = gap_closed(scalp=[0.6, 0.8], ear=[0.5, 0.5], method=[0.6, 0.6])
    assert closed.share == pytest.approx(0.1 / 0.2)
    # Two subjects: both gaps 0.1, both 0.3, or one of each.
    assert closed.share_interval == pytest.approx((1 / 3, 1))


def test_no_gap_to_close():
    for scalp in ([0.6, 0.4, 0.5], [0.3, 0.2, 0.1]):
        closed = gap_closed(scalp=scalp, ear=[0.5, 0.5, 0.5], method=[0.6, 0.6, 0.6])
        assert closed.has_gap is False
        assert np.isnan([closed.share, *closed.share_interval]).all()
    assert closed.gap == pytest.approx(-0.3)
    # One subject has no gap: a draw of that subject alone would divide 0.01 by 0.
    ear = np.array([0.4, 0.4, 0.5, 0.5])
    with warnings.catch_warnings(action="error"):
        closed = gap_closed([0.5, 0.5, 0.5, 0.8], ear, ear + 0.01)
    assert closed.has_gap
    assert np.isfinite(closed.share_interval).all()


def test_paired_test_counts_all_flips():
    difference = np.random.default_rng(6).normal(0.03, 0.05, 8)
    baseline = np.linspace(0.4, 0.7, 8)
    test = paired_test(baseline + difference, baseline)
    assert test.difference == pytest.approx(difference.mean())
    assert test.interval == pytest.approx(bootstrap_interval(difference))
    assert test.n_subjects == 8
    # The share of all sign flips whose sum is as far from 0.
    flips = np.array(list(itertools.product([-1, 1], repeat=8)))
    sums = np.abs(flips @ difference)
    assert 0.01 < test.pvalue < 1
    assert test.pvalue == pytest.approx(np.mean(sums >= abs(difference.sum()) - 1e-12))
    other = paired_test(baseline, baseline + difference)
    assert other.difference == pytest.approx(-test.difference)
    assert other.pvalue == pytest.approx(test.pvalue)


def test_paired_test_in_closed_form():
    # All of n subjects gain: of 2**n flips two are as far from 0.
    for n in (2, 5, 6):
        gain = np.linspace(0.1, 0.2, n)
        assert paired_test(gain, np.zeros(n)).pvalue == pytest.approx(2 / 2**n)
    # Equal gains and one loss: sums of +-1 over four are as large as 2 in 10 of 16 ways.
    assert paired_test([1, 1, 1, 0], [0, 0, 0, 1]).pvalue == pytest.approx(10 / 16)
    assert paired_test([0.5, 0.6, 0.7], [0.5, 0.6, 0.7]).pvalue == 1


def test_paired_test_of_many_subjects_draws():
    difference = np.random.default_rng(7).normal(0.02, 0.05, 30)
    test, again = (paired_test(difference, np.zeros(30), random_state=1) for _ in "12")
    assert test == again
    # So many subjects: close to Student's test.
    assert test.pvalue == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, abs=0.02)
    certain = paired_test(np.ones(30), np.zeros(30), n_resamples=99)
    assert certain.pvalue == pytest.approx(2 / 100)  # drawn ones are never 0


@pytest.mark.parametrize(
    ("function", "scores", "message"),
    [
        (gap_closed, ([0.5, 0.6], [0.4, 0.5], [0.5]), "same two or more subjects"),
        (paired_test, ([0.5, 0.6], [0.4, 0.5, 0.6]), "same two or more subjects"),
        (bootstrap_interval, ([0.5],), "same two or more subjects"),
        (bootstrap_interval, ([0.5, np.nan],), "missing"),
        (paired_test, ([0.5, np.nan], [0.4, 0.5]), "missing"),
    ],
)
def test_scores_that_do_not_match(function, scores, message):
    with pytest.raises(ValueError, match=message):
        function(*scores)
