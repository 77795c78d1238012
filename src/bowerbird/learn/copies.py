"""Pictures that are the same, or nearly: by their bytes, and by the cosine of their vectors.

All pairs are looked at, without an array of all pairs. On the first principal axes two vectors are no farther apart
than they are in truth, so what is far apart there need not be compared: no pair is missed. Which cosine makes a copy is
a guess from how alike the pictures are; where a model tells hardly any of them apart, only the bytes count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Places, Vectors

NEAR = 0.99
"""Cosine of the vectors of two pictures from which on they are taken to be copies, whatever the model."""

FARTHEST, CLOSER, RANK = 0.9, 5, 4
"""Models differ: under mini's features a photograph that was cropped by 2 % is at .97 and other photographs are at .61;
under its shared output these are at .99 and .92. So copies are also those that are `CLOSER` times closer than the
neighbour of this rank usually is, down to the cosine `FARTHEST`. Not the nearest: that may be a copy itself, of most
pictures even, as where their thumbnails lie beside them."""

STRICTER = (0.999, 0.99999)
"""Where a model hardly tells pictures apart, chains of like ones would tie most of them together. Then `NEAR` is taken,
and then these; beyond the last, vectors say nothing."""

LARGEST_SHARE, LARGEST = 0.1, 10
"""A group that holds more than this share of the pictures, and more than so many, is such a chain."""

BLOCK = 2048
"""Rows that are compared at a time: 16 MiB of cosines."""

AXES = 48
"""Principal axes on which pairs are looked at first."""

SAMPLE = 1024
"""Rows that the axes are found from."""

ASKED = 512
"""Rows whose nearest others are looked for, to know what is usual."""

_SLACK = 1e-4


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures that belong together; most are alone.

    Attributes:
        places: ascending.
        cosine: of each to the one most like it, the least of these; 1 for one alone, and for the same bytes.
    """

    places: Places
    cosine: float = 1.0


def groups(examples: Examples, by: str = "") -> tuple[list[Group], list[str]]:
    """All pictures in groups of copies, in the order of their first, and what a person should know.

    Vectors are looked at where there are any.

    Args:
        examples: the pictures.
        by: name of the tensor whose vectors these are; empty: the longest, which tells most. Which that is depends on
            what was embedded: name one for the same groups whatever else is there.

    Raises:
        LearnError: there are vectors, and not of that tensor.
    """
    count = len(examples)
    contents: dict[str, int] = {}
    same = np.asarray(
        [contents.setdefault(picture.content, place) for place, picture in enumerate(examples.pictures)],
        np.int64,
    )
    rows = _looked_at(examples.images, by) if examples.images else None
    if rows is None or count < 2:
        return list(_groups(same, None)), []
    most = max(LARGEST, int(LARGEST_SHARE * count))
    by_content = np.argsort([picture.content for picture in examples.pictures], kind="stable")
    for cosine in (near(rows, by_content), NEAR, *STRICTER):
        roots = tied(rows, cosine, same)
        if np.bincount(roots, minlength=count).max() <= most:
            problem = (
                f"The model hardly tells these pictures apart: only from a cosine of {cosine:g} on, and not from "
                f"{NEAR:g}, are two of them taken to be copies."
            )
            return list(_groups(roots, rows)), [problem] if cosine > NEAR else []
    return list(_groups(same, None)), [
        "The model does not tell these pictures apart, so copies are known by their bytes alone."
    ]


def _looked_at(images: Mapping[str, Vectors], by: str) -> Vectors:
    if not by:
        return max(images.values(), key=lambda array: array.shape[1])
    if by not in images:
        raise LearnError(
            f"Copies cannot be found by {by!r}: the pictures have vectors of {', '.join(images)}.",
            hint="Name one of these, or embed it too.",
        )
    return images[by]


def near(rows: Vectors, order: Places | None = None) -> float:
    """The cosine from which on two pictures are taken to be copies, from `FARTHEST` to `NEAR`.

    Args:
        rows: float32 (n, dim), of length 1.
        order: that does not depend on how the rows happen to be ordered; None: as they are.
    """
    asked = (np.arange(len(rows)) if order is None else order)[:: max(1, len(rows) // ASKED)][:ASKED]
    cosines = rows[asked] @ rows.T
    cosines[cosines >= NEAR] = -1  # the row itself, and what is a copy of it in any case
    rank = min(RANK, len(rows) - 1)
    usual = float(np.median(1 - np.partition(cosines, -rank, axis=1)[:, -rank]))
    return min(max(1 - usual / CLOSER, FARTHEST), NEAR)


def tied(rows: Vectors, cosine: float, roots: Places | None = None) -> Places:
    """By row, the first row that it is tied to by a chain of rows with at least this cosine.

    Args:
        rows: float32 (n, dim), of length 1.
        cosine: from which on two rows are tied; above 0.
        roots: ties that there are already, in the form of the result.

    Returns:
        int64 (n,).
    """
    count = len(rows)
    parents = np.arange(count) if roots is None else roots.copy()
    low, order = _on_axes(rows)
    # Of unit vectors the squared distance is 2 - 2 cos.
    limit = 2 - 2 * cosine + _SLACK
    squares = np.einsum("ij,ij->i", low, low)[:, None]
    ones = np.ones_like(squares)
    # One product gives |a|^2 - 2 ab + |b|^2.
    left, right = np.hstack([-2 * low, squares, ones]), np.hstack([low, ones, squares])
    for start in range(0, count, BLOCK):
        mine = slice(start, start + BLOCK)
        last = low[mine][-1, 0] + np.sqrt(limit)
        for other in range(start, count, BLOCK):
            # Rows are in the order of the first axis: from here on all are too far along it.
            if low[other, 0] > last:
                break
            theirs = slice(other, other + BLOCK)
            close = left[mine] @ right[theirs].T <= limit
            here, there = np.divmod(
                np.flatnonzero(close), close.shape[1]
            )  # 50 times as fast as `nonzero` here
            _tie(parents, rows, cosine, order[here + start], order[there + other])
    return parents


def _on_axes(rows: Vectors) -> tuple[Vectors, Places]:
    """The rows on their principal axes, float32 (n, at most `AXES`), in the order of the first; and that order."""
    some = rows[:: max(1, len(rows) // SAMPLE)].astype(np.float64)
    _, _, axes = np.linalg.svd(some - some.mean(0), full_matrices=False)
    low = rows @ axes[:AXES].T.astype(np.float32)
    order = np.argsort(low[:, 0], kind="stable")
    return low[order], order


def _tie(parents: Places, rows: Vectors, cosine: float, one: Places, two: Places) -> None:
    """Tie those of some pairs that are near enough; the parent of a row is the first of those it is tied to."""
    open_ = parents[one] != parents[two]
    one, two = one[open_], two[open_]
    near = np.empty(len(one), bool)
    for start in range(0, len(one), BLOCK * 8):
        some = slice(start, start + BLOCK * 8)
        near[some] = np.einsum("ij,ij->i", rows[one[some]], rows[two[some]]) >= cosine
    one, two = one[near], two[near]
    while len(one):
        first, second = parents[one], parents[two]
        np.minimum.at(parents, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(parents, nearer := parents[parents]):
            parents[:] = nearer
        different = parents[one] != parents[two]
        one, two = one[different], two[different]


def _groups(roots: Places, rows: Vectors | None) -> Iterator[Group]:
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    for places in np.split(order, starts[1:]):
        several = rows is not None and len(places) > 1
        yield Group(places, _cosine(rows[places]) if rows is not None and several else 1.0)


def _cosine(rows: NDArray[np.float32]) -> float:
    """Of each row to the one most like it, the least."""
    least = 1.0
    for start in range(0, len(rows), BLOCK):
        cosines = rows[start : start + BLOCK] @ rows.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -1
        least = min(least, float(cosines.max(1).min()))
    return least
