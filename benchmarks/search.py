"""Search: 100,000 or more vectors of 384 dimensions through `LanceTable.nearest`, against flat NumPy.

The vectors are made from mini's embeddings of 6,000 generated sentences: each lies between a sentence and one of its
twenty nearest, plus noise with the covariance of the whole set. So they are clustered and of low intrinsic dimension
as real ones are (uniformly random vectors would have no neighbours to find). Queries are made the same way and are
not in the table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bowerbird as bb
from benchmarks.side_by_side import DATA, report, versions
from benchmarks.text import sentences
from bowerbird.search.query import SPARE
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import ATTRIBUTES, VectorColumn, schema

Vectors = NDArray[np.float32]

COLUMN = VectorColumn("mini__image_embeds", "image_embeds", "image", 384)
SHOWN = ["id", "uri", "content", *ATTRIBUTES]
"""The columns that a search brings back."""

K = 10
CHUNK = 50_000
SOURCES = 6000


def bases() -> Vectors:
    """(n, 384): mini's embeddings of generated sentences, computed once."""
    path = DATA / f"sentences-{SOURCES}.npy"
    if not path.exists():
        DATA.mkdir(exist_ok=True)
        np.save(path, bb.load("mini").embed(sentences(SOURCES, seed=1)))
    vectors: Vectors = np.load(path)
    return vectors


class Source:
    """Unit vectors of the shape that real ones have, without end."""

    def __init__(self, seed: int = 0) -> None:
        self.base = bases()
        near = self.base @ self.base.T
        self.near = np.argpartition(-near, 21, axis=1)[:, :21]
        values, directions = np.linalg.eigh(np.cov(self.base.T))
        self.root = (directions * np.sqrt(values.clip(0))).astype(np.float32)  # (384, 384)
        self.rng = np.random.default_rng(seed)

    def take(self, count: int) -> Vectors:
        """The next `count`."""
        first = self.rng.integers(len(self.base), size=count)
        second = self.near[first, self.rng.integers(self.near.shape[1], size=count)]
        share = self.rng.random((count, 1), np.float32)
        noise = self.rng.standard_normal((count, self.base.shape[1]), np.float32) @ self.root.T
        vectors = share * self.base[first] + (1 - share) * self.base[second] + 0.35 * noise
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def chunks(rows: int) -> Iterator[Vectors]:
    """The vectors of the table."""
    source = Source()
    for start in range(0, rows, CHUNK):
        yield source.take(min(CHUNK, rows - start))


def fill(path: Path, rows: int) -> None:
    """Write the table, without an index."""
    import lance
    import pyarrow as pa

    shutil.rmtree(path, ignore_errors=True)
    LanceTable.create(path, schema([COLUMN]))
    start = 0
    for vectors in chunks(rows):
        ids = [f"{start + row:032x}" for row in range(len(vectors))]
        values = {
            "id": ids,
            "uri": [f"/home/someone/Pictures/2024/holiday/{id_}.jpg" for id_ in ids],
            "content": ids,
            "size": [3_000_000] * len(ids),
            "mtime_ns": [0] * len(ids),
            "name": [f"{id_}.jpg" for id_ in ids],
            "folder": ["/home/someone/Pictures/2024/holiday"] * len(ids),
            "format": ["JPEG"] * len(ids),
            "width": [4000] * len(ids),
            "height": [3000] * len(ids),
            COLUMN.norm: [1.0] * len(ids),
        }
        arrays = []
        for field in schema([COLUMN]):
            if field.name == COLUMN.name:
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), COLUMN.dimensions))
            else:
                arrays.append(pa.array(values.get(field.name, [None] * len(ids)), field.type))
        lance.write_dataset(pa.Table.from_arrays(arrays, schema=schema([COLUMN])), str(path), mode="append")
        start += len(ids)


def exact(rows: int, queries: Vectors) -> tuple[NDArray[np.int64], list[float]]:
    """Row numbers of the true `K` nearest, and the seconds of each search of one matrix in memory."""
    matrix = np.concatenate(list(chunks(rows)))
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        scores = matrix @ query
        best = np.argpartition(-scores, K)[:K]
        best = best[np.argsort(-scores[best])]
        seconds.append(time.perf_counter() - started)
        found.append(best)
    return np.array(found), seconds


def through(table: LanceTable, queries: Vectors) -> tuple[NDArray[np.int64], list[float]]:
    """The same through a table, as `Index.search` asks it: with spare rows and the columns that are shown."""
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        rows = table.nearest(COLUMN.name, query, K + SPARE, columns=SHOWN)
        seconds.append(time.perf_counter() - started)
        found.append([int(id_, 16) for id_ in rows["id"].to_pylist()[:K]])
    return np.array(found), seconds


def recall(truth: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Recall@K, mean over queries."""
    return float(
        np.mean([len(set(t) & set(f)) / K for t, f in zip(truth.tolist(), found.tolist(), strict=True)])
    )


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--rebuild", action="store_true", help="write the table and build its index again")
    given = arguments.parse_args()
    path = DATA / f"search-{given.rows}.lance"
    built = ""
    if given.rebuild or not path.exists():
        print("Writing the table ...", file=sys.stderr, flush=True)
        fill(path, given.rows)
        started = time.perf_counter()
        LanceTable.open(path).optimize([COLUMN])
        built = f"{time.perf_counter() - started:.0f} s"
    queries = Source(seed=99).take(given.queries)
    truth, flat = exact(given.rows, queries)
    table = LanceTable.open(path)
    through(table, queries[:20])  # warm
    found, seconds = through(table, queries)
    lines = [
        f"| search, {given.rows:,} x {COLUMN.dimensions} | p50 | p95 | recall@{K} | optimised in |",
        "|---|---|---|---|---|",
        f"| bowerbird, {K + SPARE} rows with attributes | {_ms(seconds)} | {recall(truth, found):.3f} | {built} |",
        f"| flat NumPy, row numbers only | {_ms(flat)} | 1.000 | |",
    ]
    report("\n".join(lines) + f"\n\n{given.queries} queries; {versions('pylance', 'numpy')}.")


def _ms(seconds: list[float]) -> str:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"{p50:.1f} ms | {p95:.1f} ms"


if __name__ == "__main__":
    main()
