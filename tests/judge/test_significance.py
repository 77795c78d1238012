"""Intervals and tests against scipy, against their definitions, and on data whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import QueryError
from bowerbird.judge.significance import holm, intervals, paired_p

VALUES = st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]), min_size=1, max_size=9).map(np.array)


def test_intervals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(7).beta(0.5, 0.5, (3, 80))
    for row, found in zip(values, intervals(values, resamples=40_000), strict=True):
        theirs = stats.bootstrap(
            (row,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_intervals_of_medians_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).integers(1, 50, (1, 61)).astype(float)
    theirs = stats.bootstrap(
        (values[0],), np.median, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    (found,) = intervals(values, median=True, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1)


@pytest.mark.parametrize("sort", ["shares", "hits"])
def test_intervals_hold_the_true_mean_as_often_as_they_say(sort):
    generator = np.random.default_rng(11)
    trials, queries = 400, 100
    drawn = (
        generator.beta(2, 2, (trials, queries))
        if sort == "shares"
        else generator.integers(0, 2, (trials, queries))
    )
    held = sum(
        found.low <= 0.5 <= found.high
        for number, row in enumerate(drawn.astype(float))
        for found in intervals(row[None], resamples=400, seed=number)
    )
    # 380 expected; four standard deviations of 400 draws are 17, and percentile intervals are a little narrow.
    assert 358 <= held <= 397


def test_rows_are_resampled_alike():
    """So that the interval of a difference is that of the differences."""
    values = np.random.default_rng(0).random((1, 50))
    low, same = intervals(np.concatenate([values, values + 0.25]))
    assert (low.low + 0.25, low.high + 0.25) == pytest.approx((same.low, same.high))


@given(VALUES, st.integers(0, 3))
def test_intervals_hold_the_mean_and_repeat(values, seed):
    once = intervals(values[None], resamples=300, seed=seed)
    assert once == intervals(values[None], resamples=300, seed=seed)
    assert once[0].low <= values.mean() + 1e-12 and values.mean() <= once[0].high + 1e-12
    assert values.min() - 1e-12 <= once[0].low <= once[0].high <= values.max() + 1e-12


def test_infinite_ranks_have_intervals_of_their_median():
    (found,) = intervals(np.array([[1.0, 2.0, 3.0, math.inf, math.inf]]), median=True)
    assert 1 <= found.low <= 3
    assert found.high == math.inf


def test_no_queries_have_no_interval():
    (found,) = intervals(np.empty((1, 0)))
    assert math.isnan(found.low) and math.isnan(found.high)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=9
    )
)
@settings(max_examples=50)
def test_few_queries_have_the_exact_p_value_of_scipy(pairs):
    stats = pytest.importorskip("scipy.stats")
    first, second = np.array(pairs).T
    theirs = stats.permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True
    )
    assert paired_p(first, second) == pytest.approx(theirs.pvalue)


def test_many_queries_have_the_p_value_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(5)
    first = generator.random(200)
    for shift in (0.0, 0.02, 0.04):
        second = np.clip(first + generator.normal(shift, 0.2, 200), 0, 1)
        theirs = stats.permutation_test(
            (first, second),
            lambda a, b, axis: (a - b).mean(axis),
            permutation_type="samples",
            vectorized=True,
            rng=np.random.default_rng(1),
        )
        assert paired_p(first, second) == pytest.approx(theirs.pvalue, abs=0.02)


def test_systems_that_are_alike_are_seldom_told_apart():
    generator = np.random.default_rng(2)
    pairs = generator.beta(1, 2, (400, 2, 40))
    wrong = sum(
        paired_p(first, second, shuffles=500, seed=n) < 0.05 for n, (first, second) in enumerate(pairs)
    )
    assert 5 <= wrong <= 38  # 20 expected


@given(VALUES)
def test_a_system_is_like_itself(values):
    assert paired_p(values, values) == 1.0


def test_a_certain_difference_is_found():
    assert paired_p(np.ones(50), np.zeros(50)) == pytest.approx(1 / 10_001)


def test_runs_of_different_queries_are_not_compared():
    with pytest.raises(QueryError, match="3 values cannot be compared with 2"):
        paired_p(np.zeros(3), np.zeros(2))


@given(st.lists(st.floats(0, 1), max_size=5))
def test_holm_is_the_closed_test(p_values):
    """Holm's is what closed testing with Bonferroni's correction gives (Marcus, Peritz and Gabriel 1976)."""
    places = range(len(p_values))
    sets = [chosen for size in places for chosen in itertools.combinations(places, size + 1)]
    closed = [
        max(
            min(1.0, len(chosen) * min(p_values[other] for other in chosen))
            for chosen in sets
            if place in chosen
        )
        for place in places
    ]
    assert holm(p_values) == pytest.approx(closed)
