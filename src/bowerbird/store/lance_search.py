"""Search by vector in a Lance dataset: exactly in memory, exactly in a stream, or through Lance's index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    import pyarrow as pa

EXACT_BYTES = 150_000_000
"""Up to this, the vectors of a column are searched exactly in memory: there one matrix product is as fast as an
index (6.7 against 7.7 ms at 100,000 x 384; benchmarks/LOG.md). It is 97,000 rows of 384 dimensions."""

PROBES = 20
"""Partitions read of an index, of as many as the root of the rows. Filters widen it: of the rows that pass, the nearest
lie farther apart. Recall@10 and how it was measured: benchmarks/LOG.md."""

SEEN = 6
"""And so many partitions more that each candidate is about the best of so many rows that pass."""

FEWEST = 32
"""The index is asked for so many, or four times as many and so on: a page and the next come from one ranking."""

OVER = 2
WIDER = 4
"""So many times as many candidates are scored exactly; and so many times more where there is a centre, of which the
index knows nothing."""

FEW = 256
"""When no more rows than this pass a filter, they are compared one by one."""

UNINDEXED = 256
MOST_BESIDE = 8
"""So many rows are compared one by one until an index is extended; and so many small indexes lie beside the first
until they are merged."""

KEPT_FILTERS = 8
"""The rows that pass a filter are remembered: it is asked again for the next page, or with other words."""

BATCH_ROWS = 8192
SAME_POINT = 1e-6
"""A vector so near to the centre has no direction from there; it scores 0."""

Floats = NDArray[np.float32]
Found = tuple[NDArray[np.uint64], Floats]
"""Row ids of Lance and scores, best first."""

NOTHING: Found = (np.empty(0, np.uint64), np.empty(0, np.float32))


@dataclass(frozen=True)
class Question:
    """What is asked of a column of unit vectors.

    Attributes:
        column: its name.
        vector: float32 (dim,).
        k: at most so many rows.
        where: a filter as Lance reads it; empty: all rows.
        centre: float32 (dim,) or None: rows are scored by the unit vector of `row - centre`.
    """

    column: str
    vector: Floats
    k: int
    where: str = ""
    centre: Floats | None = None


@dataclass
class Matrix:
    """All vectors of a column of one version, in memory, in the order of the rows.

    Attributes:
        version: of the dataset.
        vectors: float32 (rows, dim); zeros where a record has no such vector.
        present: bool (rows,).
        row_ids: uint64 (rows,), ascending.
        factors: float32 (rows,) by centre: what turns a dot product with `row - centre` into a score.
        files: by fragment of the dataset, the files that its rows were read from.
    """

    version: int
    vectors: Floats
    present: NDArray[np.bool_]
    row_ids: NDArray[np.uint64]
    factors: dict[bytes, Floats] = field(default_factory=dict)
    files: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, dataset: Any, column: str, before: Matrix | None = None) -> Matrix:
        """Read it whole.

        Args:
            dataset: at the version that is read.
            column: of vectors.
            before: of an earlier version: fragments that are the same by now are taken from there.
        """
        fragments = dataset.get_fragments()
        files = {one.fragment_id: _files(one.metadata) for one in fragments}
        rows = dataset.count_rows()
        width = dataset.schema.field(column).type.list_size
        vectors = np.zeros((rows, width), np.float32)
        present = np.zeros(rows, bool)
        ids = np.zeros(rows, np.uint64)
        start = 0
        for same, group in groupby(fragments, lambda one: _is_same(one.fragment_id, files, before)):
            some = list(group)
            for here, there, vector in (
                before.rows_of(some) if before and same else _batches(dataset, column, fragments=some)
            ):
                stop = start + len(here)
                ids[start:stop], present[start:stop], vectors[start:stop] = here, there, vector
                start = stop
        return cls(int(dataset.version), vectors, present, ids, files=files)

    def rows_of(
        self, fragments: Sequence[Any]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_], Floats]]:
        """As `_batches` gives them."""
        for one in fragments:
            ends = np.asarray([one.fragment_id, one.fragment_id + 1], np.uint64) << np.uint64(32)
            start, stop = np.searchsorted(self.row_ids, ends).tolist()
            yield self.row_ids[start:stop], self.present[start:stop], self.vectors[start:stop]

    def scores(self, question: Question) -> Floats:
        """Of every row; minus infinity where there is no vector."""
        scores: Floats = self.vectors @ question.vector
        if question.centre is not None:
            key = question.centre.tobytes()
            if key not in self.factors:
                while len(self.factors) > 3:  # a few modalities at the most
                    self.factors.pop(next(iter(self.factors)))
                self.factors[key] = _factors(self.vectors, question.centre)
            scores = (scores - question.centre @ question.vector) * self.factors[key]
        scores[~self.present] = -np.inf
        return scores


def _files(fragment: Any) -> tuple[str, ...]:
    """What says which rows a fragment has, and what is in them."""
    return (*(file.path for file in fragment.files), repr(fragment.deletion_file))


def _is_same(fragment: int, files: Mapping[int, tuple[str, ...]], before: Matrix | None) -> bool:
    return before is not None and before.files.get(fragment) == files[fragment]


def _factors(vectors: Floats, centre: Floats) -> Floats:
    """One over the distance of each vector from the centre; 0 where there is hardly any."""
    factors = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), BATCH_ROWS):
        distances = np.linalg.norm(vectors[start : start + BATCH_ROWS] - centre, axis=1)
        np.divide(
            1.0,
            distances,
            out=factors[start : start + BATCH_ROWS],
            where=distances > SAME_POINT,
            dtype=np.float32,
        )
    return factors


def scored(vectors: Floats, question: Question) -> Floats:
    """Scores of vectors, float32 (rows,)."""
    scores: Floats = vectors @ question.vector
    if question.centre is None:
        return scores
    return (scores - question.centre @ question.vector) * _factors(vectors, question.centre)


class VectorSearch:
    """Search in whichever version of a dataset it is given; keeps what it has read of the last one."""

    def __init__(self) -> None:
        self._matrices: dict[str, Matrix] = {}
        self._passing: dict[tuple[int, str], Passing] = {}
        self._partitions: dict[tuple[int, str], int] = {}

    def take_over(self, before: VectorSearch) -> None:
        """Keep what was read of an earlier version of the same dataset: most of it is the same."""
        self._matrices = {**before._matrices, **self._matrices}

    def nearest(self, dataset: Any, question: Question, *, exact: bool) -> Found:
        """The rows that score highest, ties in the order of the rows."""
        if question.k < 1:
            return NOTHING
        width = dataset.schema.field(question.column).type.list_size
        rows = dataset.count_rows()
        wanted = _rung(question.k) * OVER * (1 if question.centre is None else WIDER)
        if not exact and 4 * wanted < rows and has_index(dataset, question.column):
            return self._through_index(dataset, question, wanted, rows)
        if 4 * width * rows <= EXACT_BYTES:
            return self._in_memory(dataset, question)
        return _streamed(dataset, question)

    def _in_memory(self, dataset: Any, question: Question) -> Found:
        matrix = self._matrices.get(question.column)
        if matrix is None or matrix.version != dataset.version:
            matrix = self._matrices[question.column] = Matrix.read(dataset, question.column, matrix)
        scores = matrix.scores(question)
        if question.where:
            passing = np.zeros(len(scores), bool)
            passing[np.searchsorted(matrix.row_ids, self.passing(dataset, question.where).ids)] = True
            scores[~passing] = -np.inf
        best = top(scores, question.k)
        return matrix.row_ids[best], scores[best]

    def _partitions_of(self, dataset: Any, column: str) -> int:
        key = (int(dataset.version), column)
        if key not in self._partitions:
            self._partitions = {key: _partitions_of(dataset, column)}
        return self._partitions[key]

    def passing(self, dataset: Any, where: str) -> Passing:
        """The rows that pass a filter."""
        key = (int(dataset.version), where)
        found = self._passing.pop(key, None) or Passing(_ids(dataset, where))
        self._passing[key] = found  # the last asked for is the last to go
        while len(self._passing) > KEPT_FILTERS:
            self._passing.pop(next(iter(self._passing)))
        return found

    def _through_index(self, dataset: Any, question: Question, wanted: int, rows: int) -> Found:
        some = self.passing(dataset, question.where) if question.where else None
        count = rows if some is None else len(some.ids)
        if some is not None and (count <= max(FEW, wanted)):
            ids = some.ids.tolist()
            return _ranked(question, some.ids, dataset._take_rows(ids, columns=[question.column]))
        partitions = self._partitions_of(dataset, question.column)
        probes = math.ceil(PROBES * (rows / count) ** 0.25 + SEEN * wanted * partitions / count)
        while True:
            asked = {
                "column": question.column,
                "q": question.vector,
                "k": wanted,
                "metric": "dot",
                "minimum_nprobes": min(probes, partitions),
                "maximum_nprobes": min(probes, partitions),
            }
            found = dataset.scanner(
                columns=[question.column, "_distance"],
                nearest=asked,
                prefilter=True,
                with_row_id=True,
                row_addr_allowlist=None if some is None else some.for_lance,
            ).to_table()
            if found.num_rows >= min(question.k, count) or probes >= partitions:
                return _ranked(question, found["_rowid"].to_numpy(), found)
            probes *= 4


class Passing:
    """The rows that pass a filter.

    Attributes:
        ids: uint64 (rows,), ascending.
    """

    def __init__(self, ids: NDArray[np.uint64]) -> None:
        self.ids = ids

    @cached_property
    def for_lance(self) -> bytes:
        """The same as Lance takes them."""
        from lance.dataset import serialize_row_addrs

        packed: bytes = serialize_row_addrs(self.ids.tolist())
        return packed


def _ids(dataset: Any, where: str) -> NDArray[np.uint64]:
    found = dataset.scanner(columns=[], filter=where, with_row_id=True, scan_in_order=True).to_table()
    ids: NDArray[np.uint64] = found["_rowid"].to_numpy()
    return ids


def _rung(k: int) -> int:
    rung = FEWEST
    while rung < k:
        rung *= 4
    return rung


def _ranked(question: Question, ids: NDArray[np.uint64], rows: pa.Table) -> Found:
    """The best of some rows, scored exactly, ties in the order of the rows.

    Args:
        question: with the column of vectors.
        ids: of the rows.
        rows: in the same order, with that column.
    """
    lists = rows[question.column].combine_chunks()
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    ids = ids[there]
    if not len(ids):
        return NOTHING
    scores = scored(lists.flatten().to_numpy().reshape(len(ids), -1), question)
    best = np.lexsort((ids, -scores))[: question.k]
    return ids[best], scores[best]


def _streamed(dataset: Any, question: Question) -> Found:
    """Compare with every row, a batch after the other: for what does not fit into memory."""
    ids, scores = NOTHING
    for some, there, vectors in _batches(dataset, question.column, question.where):
        ids = np.concatenate([ids, some[there]])
        scores = np.concatenate([scores, scored(vectors[there], question)])
        if len(ids) > 4 * question.k + BATCH_ROWS:
            best = top(scores, question.k)
            best.sort()  # Positions go on saying what came first.
            ids, scores = ids[best], scores[best]
    best = top(scores, question.k)
    return ids[best], scores[best]


def _batches(
    dataset: Any, column: str, where: str = "", fragments: Sequence[Any] | None = None
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_], Floats]]:
    """Row ids, which rows have a vector, and the vectors: (rows,), (rows,), (rows, dim)."""
    width = dataset.schema.field(column).type.list_size
    scanner = dataset.scanner(
        columns=[column],
        filter=where or None,
        with_row_id=True,
        scan_in_order=True,
        batch_size=BATCH_ROWS,
        fragments=fragments,
    )
    for batch in scanner.to_batches():
        lists = batch.column(column)
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        vectors = np.zeros((batch.num_rows, width), np.float32)
        vectors[there] = lists.flatten().to_numpy().reshape(-1, width)
        yield batch.column("_rowid").to_numpy(), there, vectors


def top(scores: Floats, k: int) -> NDArray[np.int64]:
    """Positions of the `k` largest scores, largest first, ties by position; minus infinity never counts."""
    k = min(k, int(np.count_nonzero(scores > -np.inf)))
    if k <= 0:
        return np.empty(0, np.int64)
    # Everything at least as large as the k-th, so that ties at the cut are broken by position too.
    threshold = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= threshold)
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:k]]


def has_index(dataset: Any, column: str) -> bool:
    """Whether there is a vector index on a column."""
    return any(column in index.field_names for index in dataset.describe_indices())


def outgrown(dataset: Any, column: VectorColumn, rows: int) -> bool:
    """Whether a column is too large for search in memory, and its index missing or made for a quarter of the rows."""
    if 4 * column.dimensions * rows <= EXACT_BYTES:
        return False
    return not has_index(dataset, column.name) or 2 * _partitions_of(dataset, column.name) < _partitions(rows)


def build_index(dataset: Any, column: VectorColumn, rows: int) -> Any:
    """Give a column a new index; returns the dataset that has it."""
    # RaBitQ is built ten times faster than product quantisation and ranks as well, given enough dimensions; it needs
    # whole bytes. With one bit a dimension recall depended on the build (.970 to .999), with three it does not.
    kind: dict[str, Any] = {"index_type": "IVF_RQ", "num_bits": 3}
    if column.dimensions < 256 or column.dimensions % 8:
        kind = {"index_type": "IVF_SQ"}
    return dataset.create_index(
        column.name, metric="dot", num_partitions=_partitions(rows), replace=True, **kind
    )


def extend_indexes(dataset: Any) -> None:
    """Add the rows that came since to all indexes of a dataset, of vectors and of words.

    They become small indexes beside the first. Lance would rather merge all into one, and joins partitions until few
    are left (316 became 7): slower, and worse.
    """
    for index in dataset.describe_indices():
        stats = dataset.stats.index_stats(index.name)
        if stats["num_unindexed_rows"] > UNINDEXED:
            beside = stats["num_indices"] - 1
            merged = beside if beside >= MOST_BESIDE else 0
            dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[index.name])


def _partitions_of(dataset: Any, column: str) -> int:
    for index in dataset.describe_indices():
        if column in index.field_names:
            return int(dataset.stats.index_stats(index.name)["indices"][0]["num_partitions"])
    return 1


def _partitions(rows: int) -> int:
    return max(1, min(round(math.sqrt(rows)), rows // 256))  # each is trained on 256 rows
