"""Search: 100,000 or a million vectors of 384 dimensions through `LanceTable.nearest`, against flat NumPy and faiss.

The vectors are made from mini's embeddings of 6,000 generated sentences: each lies between a sentence and one of its
twenty nearest, plus noise with the covariance of the whole set. So they are clustered and of low intrinsic dimension
as real ones are (uniformly random vectors would have no neighbours to find). Queries are made the same way and are
not in the table. `width` is drawn between 0 and 9,999, so that `width < 100` is passed by 1 % of the rows.

The peers give row numbers only and keep everything in memory; ours brings back the columns that a search shows. They
answer each query in turns.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bowerbird as bb
from benchmarks.side_by_side import DATA, report, versions
from benchmarks.text import sentences
from bowerbird.store.filters import Compare, Filter
from bowerbird.store.lance import LanceTable
from bowerbird.store.table import ATTRIBUTES, VectorColumn, schema

Vectors = NDArray[np.float32]
Places = NDArray[np.int64]

COLUMN = VectorColumn("mini__image_embeds", "image_embeds", "image", 384)
SHOWN = ["id", "uri", "content", *ATTRIBUTES, "text"]
"""The columns that a search brings back."""

K = 10
SPARE = 16
"""Rows that a search asks for beside, in case of copies."""

CHUNK = 50_000
SOURCES = 6000
WIDTHS = 10_000
WORDS = ("black cat", "the president", "kitchen", "wooden fence on the beach", "a guitar")


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


def widths(rows: int) -> NDArray[np.int32]:
    """What `width` holds."""
    return np.random.default_rng(5).integers(0, WIDTHS, rows, dtype=np.int32)


def fill(path: Path, rows: int) -> None:
    """Write the table, without an index."""
    import lance
    import pyarrow as pa

    shutil.rmtree(path, ignore_errors=True)
    LanceTable.create(path, schema([COLUMN]))
    start = 0
    wide, said = widths(rows), sentences(SOURCES, seed=1)
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
            "width": wide[start : start + len(ids)],
            "height": [3000] * len(ids),
            "text": [said[(start + row) * 31 % SOURCES] for row in range(len(ids))],
            COLUMN.norm: [1.0] * len(ids),
        }
        arrays = []
        for column in schema([COLUMN]):
            if column.name == COLUMN.name:
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), COLUMN.dimensions))
            else:
                arrays.append(pa.array(values.get(column.name, [None] * len(ids)), column.type))
        lance.write_dataset(pa.Table.from_arrays(arrays, schema=schema([COLUMN])), str(path), mode="append")
        start += len(ids)


@dataclass
class Case:
    """One kind of question.

    Attributes:
        name: as the report shows it.
        share: of the rows that pass the filter.
        centred: whether vectors are compared as seen from their mean.
    """

    name: str
    share: float = 1.0
    centred: bool = False

    @property
    def where(self) -> Filter | None:
        """The filter."""
        return None if self.share == 1 else Compare("width", "<", round(self.share * WIDTHS))


CASES = (
    Case("all rows"),
    Case("10 % of the rows", 0.1),
    Case("1 % of the rows", 0.01),
    Case("0.1 % of the rows", 0.001),
    Case("all rows, centred", centred=True),
    Case("1 % of the rows, centred", 0.01, centred=True),
)


@dataclass
class Searcher:
    """One way to search.

    Attributes:
        name: as the report shows it.
        search: row numbers, best first, for a vector.
        seconds: of each query.
        found: of each query.
    """

    name: str
    search: Callable[[Vectors], Places]
    seconds: list[float] = field(default_factory=list)
    found: list[Places] = field(default_factory=list)

    def run(self, query: Vectors) -> None:
        """Answer a query, with the clock around it."""
        started = time.perf_counter()
        found = self.search(query)
        self.seconds.append(time.perf_counter() - started)
        self.found.append(found)


class Flat:
    """Every vector in memory, in one matrix: the truth."""

    def __init__(self, rows: int) -> None:
        self.vectors = np.concatenate(list(chunks(rows)))
        self.mean: Vectors = self.vectors[:CHUNK].mean(0)
        self.factors = np.concatenate(
            [
                1 / np.linalg.norm(self.vectors[start : start + CHUNK] - self.mean, axis=1)
                for start in range(0, rows, CHUNK)
            ]
        )
        self.widths = widths(rows)

    def searcher(self, case: Case) -> Callable[[Vectors], Places]:
        """How it answers one kind of question; what passes the filter is known before."""
        passing = np.flatnonzero(self.widths < case.share * WIDTHS) if case.share < 1 else None
        vectors = self.vectors if passing is None or len(passing) > 200_000 else self.vectors[passing]
        factors = self.factors if passing is None or len(passing) > 200_000 else self.factors[passing]

        def search(query: Vectors) -> Places:
            scores = vectors @ query
            if case.centred:
                scores = (scores - self.mean @ query) * factors
            best = np.argpartition(-scores, K)[:K]
            best = best[np.argsort(-scores[best])]
            return best if passing is None else passing[best]

        return search

    def asked(self, case: Case, query: Vectors) -> Vectors:
        """The query as this kind of question has it."""
        if not case.centred:
            return query
        centred: Vectors = query - self.mean
        return centred / np.linalg.norm(centred)


def ours(table: LanceTable, flat: Flat, case: Case) -> Callable[[Vectors], Places]:
    """Through a table, as `Index.search` asks it: with spare rows and the columns that are shown."""
    where, centre = case.where, flat.mean if case.centred else None

    def search(query: Vectors) -> Places:
        rows = table.nearest(COLUMN.name, query, K + SPARE, columns=SHOWN, where=where, centre=centre)
        return np.array([int(id_, 16) for id_ in rows["id"].to_pylist()[:K]], np.int64)

    return search


def hnsw(flat: Flat, path: Path) -> Any:
    """The graph of faiss over all rows; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    if path.exists():
        return faiss.read_index(str(path))
    print("Building faiss's graph ...", file=sys.stderr, flush=True)
    index = faiss.IndexHNSWFlat(COLUMN.dimensions, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(flat.vectors)
    faiss.write_index(index, str(path))
    return index


def through_faiss(index: Any, flat: Flat, case: Case) -> Callable[[Vectors], Places]:
    """How faiss answers one kind of question."""
    import faiss

    selector = None
    if case.share < 1:
        mask = np.packbits(flat.widths < case.share * WIDTHS, bitorder="little")
        selector = faiss.IDSelectorBitmap(mask)
    parameters = faiss.SearchParametersHNSW(efSearch=128, sel=selector)

    def search(query: Vectors) -> Places:
        return np.asarray(index.search(query[None], K, params=parameters)[1][0])

    return search


def recall(truth: list[Places], found: list[Places]) -> float:
    """Recall@K, mean over queries."""
    return float(
        np.mean([len(set(t.tolist()) & set(f.tolist())) / len(t) for t, f in zip(truth, found, strict=True)])
    )


def compared(case: Case, searchers: list[Searcher], flat: Flat, queries: Vectors) -> list[str]:
    """Rows of the report: each query by all in turns; the last searcher's answers are the truth."""
    for query in queries[:10]:  # warm
        for searcher in searchers:
            searcher.search(flat.asked(case, query))
    for query in queries:
        for searcher in searchers:
            searcher.run(flat.asked(case, query))
    truth = searchers[-1].found
    return [
        f"| {case.name} | {one.name} | {_ms(one.seconds)} | {recall(truth, one.found):.3f} |"
        for one in searchers
    ]


def words(table: LanceTable, rounds: int) -> list[str]:
    """Rows of the report: search for words, filtered and not."""
    lines = []
    for case in (CASES[0], CASES[2]):
        seconds = []
        for text in WORDS * rounds:
            started = time.perf_counter()
            table.words(text, K + SPARE, columns=SHOWN, where=case.where)
            seconds.append(time.perf_counter() - started)
        lines.append(f"| words, {case.name} | bowerbird | {_ms(seconds)} | |")
    return lines


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--faiss", action="store_true", help="compare with faiss, if it is installed")
    arguments.add_argument("--rebuild", action="store_true", help="write the table and build its index again")
    given = arguments.parse_args()
    path = DATA / f"search-{given.rows}.lance"
    built = ""
    if given.rebuild or not path.exists():
        print("Writing the table ...", file=sys.stderr, flush=True)
        fill(path, given.rows)
        started = time.perf_counter()
        LanceTable.open(path).optimize([COLUMN])
        built = f"; the table was optimised in {time.perf_counter() - started:.0f} s"
    queries = Source(seed=99).take(given.queries)
    flat = Flat(given.rows)
    graph = hnsw(flat, DATA / f"search-{given.rows}.faiss") if given.faiss else None
    table = LanceTable.open(path)
    lines = [
        f"| search, {given.rows:,} x {COLUMN.dimensions} | by | p50 | p95 | recall@{K} |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        searchers = [Searcher(f"bowerbird, {K + SPARE} rows with attributes", ours(table, flat, case))]
        if graph is not None and not case.centred:
            searchers.append(Searcher("faiss HNSW 32, efSearch 128", through_faiss(graph, flat, case)))
        searchers.append(Searcher("flat NumPy", flat.searcher(case)))
        lines += compared(case, searchers, flat, queries)
        print("\n".join(lines[-len(searchers) :]), file=sys.stderr, flush=True)
    lines += words(table, 5)
    made = versions("pylance", "numpy", "faiss-cpu")
    report("\n".join(lines) + f"\n\n{given.queries} queries, in turns{built}; {made}.")


def _ms(seconds: list[float]) -> str:
    p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
    return f"{p50:.1f} ms | {p95:.1f} ms"


if __name__ == "__main__":
    main()
