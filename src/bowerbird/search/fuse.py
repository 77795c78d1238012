"""Several rankings become one: by calibrated match, by rank, by weights, or by raw score as others do it.

All functions take one row for each ranking (a part of the records under a model) and one column for each candidate,
NaN where a candidate has no such part, and give for each candidate a number to rank by and the row that it comes
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Places = NDArray[np.int64]

FUSIONS = ("calibrated", "rank", "weighted", "raw")

RANK_CONSTANT = 60
"""The k of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""


def calibrated(evidence: Floats, parts: Sequence[str]) -> tuple[Floats, Places]:
    """The best part of each candidate counts; of one part under several models, the mean of what they say.

    A mean, as models agree on what is there and differ in their errors. A maximum over parts, as a record matches
    when one of its parts does.

    Args:
        evidence: (rankings, n), comparable between them.
        parts: of the record that each ranking is of.
    """
    names = list(dict.fromkeys(parts))
    by_part = np.stack([_mean(evidence[[part == name for part in parts]]) for name in names])
    best = _best(by_part)
    chosen = np.take_along_axis(by_part, best[None], 0)[0]
    # Of the models of that part, the one that is surest.
    rows = np.empty(evidence.shape[1], np.int64)
    for number, name in enumerate(names):
        of_part = np.flatnonzero([part == name for part in parts])
        here = best == number
        rows[here] = of_part[_best(evidence[of_part][:, here])]
    return chosen, rows


def by_rank(ranks: Floats) -> tuple[Floats, Places]:
    """Reciprocal rank fusion: the sum of `1 / (60 + rank)`.

    Args:
        ranks: (rankings, n), from 1; NaN where a ranking did not find the candidate.
    """
    shares = 1 / (RANK_CONSTANT + ranks)
    return np.nansum(shares, 0), _best(shares)


def weighted(matches: Floats, weights: Floats) -> tuple[Floats, Places]:
    """The weighted mean of what the parts say; a part that a candidate does not have says 0.

    Args:
        matches: (rankings, n), 0 to 1.
        weights: (rankings,), of any sum.
    """
    shares = matches * (weights / weights.sum())[:, None]
    return np.nansum(shares, 0), _best(shares)


def by_raw_score(scores: Floats, found: NDArray[np.bool_]) -> tuple[Floats, Places]:
    """The largest raw score, whatever it means: what published systems do, kept to compare with.

    Args:
        scores: (rankings, n).
        found: (rankings, n): whether the ranking found the candidate; others do not ask again.
    """
    seen = np.where(found, scores, np.nan)
    rows = _best(seen)
    return np.take_along_axis(seen, rows[None], 0)[0], rows


def _mean(values: Floats) -> Floats:
    """Mean over the rows, NaN only where all are."""
    there = ~np.isnan(values)
    count = there.sum(0)
    total = np.where(there, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _best(values: Floats) -> Places:
    """The row of the largest value of each column, the first of equals; 0 where all are NaN."""
    places: Places = np.where(np.isnan(values), -np.inf, values).argmax(0)
    return places
