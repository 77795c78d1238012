"""What smaller vectors would cost on this data: half precision, 8 bits, fewer dimensions. It is simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bowerbird.judge.checks.finding import NEIGHBOURS, Array, Case, Finding, Level, count
from bowerbird.store.filters import IsNull, Not
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import VectorColumn

FEWEST = 50
"""Vectors without which lists of ten are too short to lose anything."""

QUERIES = 500
"""Vectors that search the others, at most."""

FREE = 0.99
"""Overlap of the lists of ten from which on nobody notices."""


@dataclass(frozen=True)
class Cost:
    """What one way to store vectors would do.

    Attributes:
        name: of the way.
        overlap: mean share of the ten nearest that stay the same.
        mean_cosine: between a vector and what is left of it.
        least_cosine: the same, of the worst.
        bytes: of one vector.
        saved: bytes in the whole index.
    """

    name: str
    overlap: float
    mean_cosine: float
    least_cosine: float
    bytes: int
    saved: int


def bf16(vectors: Array) -> Array:
    """Rounded to bfloat16, ties to even: the upper half of a float32."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    found: Array = rounded.astype(np.uint32).view(np.float32)
    return found


def int8(vectors: Array) -> Array:
    """Rounded to 8 bits, -127 to 127, with one scale for each row."""
    scales = np.maximum(np.abs(vectors).max(1, keepdims=True), 1e-12) / 127
    found: Array = (np.rint(vectors / scales) * scales).astype(np.float32)
    return found


def unit(vectors: Array) -> Array:
    """Rows scaled to length 1; zeros stay zeros."""
    found: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found


def axes(vectors: Array, kept: int) -> Array:
    """(d, kept): the directions that keep most of these vectors, without centring, which would change their cosines."""
    _, found = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return found[:, ::-1][:, :kept].astype(np.float32)


def smaller(case: Case) -> Iterator[Finding]:
    """One finding for each model: the cost of each way to store its vectors with fewer bytes."""
    for entry in case.entries:
        column = case.similar(entry)
        if column is None:
            continue
        _, vectors = case.drawn.held(column)
        vectors = np.unique(vectors, axis=0)  # copies have the same neighbours however they are stored
        if len(vectors) < FEWEST:
            yield Finding(
                "smaller vectors",
                Level.OK,
                f"Only {count(len(vectors), 'different vector')} looked at: too few to say what smaller ones cost.",
                model=case.label(entry),
                figures={"vectors": len(vectors)},
            )
            continue
        yield _told(case, entry, column, np.random.default_rng(case.seed).permutation(vectors))


def _told(case: Case, entry: ModelEntry, column: VectorColumn, vectors: Array) -> Finding:
    rows = case.index.table.count(Not(IsNull(column.norm)))
    found = list(costs(vectors, rows))
    free = [cost for cost in found if cost.overlap >= FREE]
    best = max(free, key=lambda cost: cost.saved, default=None)
    listed = "; ".join(
        f"{cost.name} {100 * cost.overlap:.1f} % (least cosine {cost.least_cosine:.3f})" for cost in found
    )
    return Finding(
        "smaller vectors",
        Level.OK,
        f"{column.name}: of the ten nearest of {len(vectors):,} vectors stay the same with {listed}.",
        do=f"{best.name} would save {_megabytes(best.saved)} and change nearly nothing." if best else "",
        model=case.label(entry),
        figures={"column": column.name, "vectors": len(vectors), "costs": [vars(cost) for cost in found]},
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def costs(vectors: Array, rows: int) -> Iterator[Cost]:
    """The cost of each way.

    Queries are as they come; with fewer dimensions, they are cut likewise. Principal components are found from one half
    of the vectors, and tried on the other: on their own they would seem to keep all.

    Args:
        vectors: (n, d) different unit rows, in no order.
        rows: how many vectors the index has.
    """
    width = vectors.shape[1]
    queries = np.arange(min(QUERIES, len(vectors)))
    before = _lists(vectors, vectors, queries)
    for name, rounded, size in (("bf16", bf16(vectors), 2 * width), ("int8", int8(vectors), width + 4)):
        after = _lists(rounded, vectors, queries)
        cosines = (unit(rounded) * vectors).sum(1)
        yield _cost(name, before, after, cosines, size, width, rows)
    for kept in (width // 2, width // 4):
        if kept:
            name = f"the first {kept} of {width} dimensions"
            yield _cut(name, vectors, np.eye(width, kept, dtype=np.float32), rows)
    half = len(vectors) // 2
    for kept in (width // 2, width // 4):
        # Fewer vectors than directions would leave nothing to find out.
        if kept and half >= 2 * kept:
            name = f"PCA to {kept} of {width} dimensions"
            yield _cut(name, vectors[half:], axes(vectors[:half], kept), rows)


def _cut(name: str, vectors: Array, directions: Array, rows: int) -> Cost:
    """Keep what of the vectors lies along some directions (d, kept), at right angles to each other."""
    width, kept = directions.shape
    queries = np.arange(min(QUERIES, len(vectors)))
    left = vectors @ directions
    # What is left of a unit vector in a subspace has the cosine to it that is its length.
    cosines = np.linalg.norm(left, axis=1)
    small = unit(left)
    before, after = _lists(vectors, vectors, queries), _lists(small, small, queries)
    return _cost(name, before, after, cosines, 4 * kept, width, rows)


def _lists(gallery: Array, asked: Array, queries: Array) -> Array:
    """(queries, k) the nearest of some rows among the others, in no order."""
    k = min(NEIGHBOURS, len(gallery) - 1)
    scores = asked[queries] @ gallery.T
    scores[np.arange(len(queries)), queries] = -np.inf
    found: Array = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return found


def _cost(name: str, before: Array, after: Array, cosines: Array, size: int, width: int, rows: int) -> Cost:
    same = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(before, after, strict=True)])
    return Cost(
        name,
        overlap=round(float(same), 6),
        mean_cosine=round(float(cosines.mean()), 6),
        least_cosine=round(float(cosines.min()), 6),
        bytes=size,
        saved=(4 * width - size) * rows,
    )
