"""How sure a figure is: bootstrap intervals, paired tests, and what several comparisons cost.

All take values by query and resample queries, with a seed, so that the same values give the same answer. Systems are
compared on the same resampled queries: what makes a query hard for one makes it hard for the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import QueryError

LEVEL = 0.95
"""How often an interval should hold the true value."""

RESAMPLES = 2000
"""Bootstrap samples of an interval: its ends move by about 0.015 of its width with the seed."""

SHUFFLES = 10_000
"""Sign patterns of a test; all of them where there are no more. The least p-value is about 1 in so many."""

SEED = 0

_BLOCK = 4_000_000
"""Numbers drawn at once, which bounds the memory that a test takes."""


@dataclass(frozen=True)
class Interval:
    """Where the true value of a figure lies, at `LEVEL`."""

    low: float
    high: float


def intervals(
    values: NDArray[np.float64],
    *,
    median: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[Interval]:
    """Percentile bootstrap intervals of the means of several rows (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: (rows, queries), one row for a system and measure; all are resampled alike. May be infinite where the
            median is asked for.
        median: of the medians instead.
        level: share of the resampled figures that lie inside.
        resamples: how many samples are drawn.
        seed: of the samples.

    Returns:
        one for each row; both ends NaN without queries.
    """
    rows, queries = values.shape
    if not queries:
        return [Interval(float("nan"), float("nan"))] * rows
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // queries)
    figures = np.empty((resamples, rows))
    for start in range(0, resamples, block):
        chosen = generator.integers(0, queries, (min(block, resamples - start), queries))
        stop = start + len(chosen)
        if median:
            for row in range(rows):
                figures[start:stop, row] = np.median(values[row][chosen], axis=1)
        else:
            # How often each query was drawn; the mean is then one matrix product for all rows.
            flat = chosen + queries * np.arange(len(chosen))[:, None]
            counts = np.bincount(flat.ravel(), minlength=chosen.size).reshape(chosen.shape)
            figures[start:stop] = counts @ values.T / queries
    # Neighbours rather than between them: half-way to infinity is no number.
    tail = (1 - level) / 2
    low = np.quantile(figures, tail, axis=0, method="nearest")
    high = np.quantile(figures, 1 - tail, axis=0, method="nearest")
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def paired_p(
    first: NDArray[np.float64], second: NDArray[np.float64], *, shuffles: int = SHUFFLES, seed: int = SEED
) -> float:
    """Two-sided p-value of a paired randomisation test on the difference of two means (Fisher 1935).

    Where the two systems are alike, swapping their values at any query changes nothing: how many random swaps give a
    difference at least as large is the answer. Up to `shuffles` patterns, all are tried and the p-value is exact.

    Args:
        first: (queries,) values of one system.
        second: (queries,) of the other, for the same queries.
        shuffles: how many random swaps are tried; the observed one counts as one more.
        seed: of the swaps.

    Raises:
        QueryError: the two have values for different numbers of queries.
    """
    if first.shape != second.shape:
        raise QueryError(
            f"{len(first)} values cannot be compared with {len(second)}.",
            hint="Compare runs of the same queries.",
        )
    differences = first - second
    differences = differences[differences != 0]  # a sign changes nothing here, so they change no share either
    if not len(differences):
        return 1.0
    observed = abs(float(differences.sum()))
    least = observed - 1e-9 * float(np.abs(differences).sum())  # sums of the same numbers, in another order
    if 2 ** len(differences) <= shuffles:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(differences))))
        return float(np.mean(np.abs(signs @ differences) >= least))
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(differences))
    as_large = 0
    for start in range(0, shuffles, block):
        swaps = generator.integers(0, 2, (min(block, shuffles - start), len(differences)), dtype=np.int8)
        as_large += int((np.abs((2.0 * swaps - 1.0) @ differences) >= least).sum())
    return (as_large + 1) / (shuffles + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm 1979): below 0.05 in 5 % of all cases, if the systems are alike.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
