"""Search by vector in a Lance dataset: exactly in memory, exactly in a stream, or through Lance's index."""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.lance_indexes import built, has_index, partitions_of
from bowerbird.store.lance_memory import (
    BATCH_ROWS,
    Floats,
    Matrix,
    Question,
    RowIds,
    batches,
    factors,
)

if TYPE_CHECKING:
    import pyarrow as pa

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

KEPT_FILTERS = 8
"""The rows that pass a filter are remembered: it is asked again for the next page, or with other words."""

KEPT_INDEXES = 16
"""Of so many it is remembered how many partitions they have, which takes longer to find out than to search them."""

Found = tuple[RowIds, Floats]
"""Row ids of Lance and scores, best first."""

NOTHING: Found = (np.empty(0, np.uint64), np.empty(0, np.float32))


def scored(vectors: Floats, question: Question) -> Floats:
    """Scores of vectors, float32 (rows,)."""
    scores: Floats = vectors @ question.vector
    if question.centre is None:
        return scores
    return (scores - question.centre @ question.vector) * factors(vectors, question.centre)


class VectorSearch:
    """Search in whichever version of a dataset it is given, by many threads; keeps what it has read of the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._matrices: dict[str, Matrix] = {}
        self._passing: dict[tuple[int, str], Passing] = {}
        self._partitions: dict[str, int] = {}  # by what an index is called
        self._too_large: dict[str, int] = {}  # columns that do not fit into memory, at a version

    def take_over(self, before: VectorSearch) -> None:
        """Keep what was read of an earlier version of the same dataset: most of it is the same."""
        with before._lock:
            matrices, partitions = dict(before._matrices), dict(before._partitions)
        with self._lock:
            self._matrices = {**matrices, **self._matrices}
            self._partitions = {**partitions, **self._partitions}

    def nearest(self, dataset: Any, question: Question, *, exact: bool) -> Found:
        """The rows that score highest, ties in the order of the rows."""
        if question.k < 1:
            return NOTHING
        rows = dataset.count_rows()
        wanted = _rung(question.k) * OVER * (1 if question.centre is None else WIDER)
        if not exact and 4 * wanted < rows and has_index(dataset, question.column):
            return self._through_index(dataset, question, wanted, rows)
        matrix = self._matrix(dataset, question.column)
        return _streamed(dataset, question) if matrix is None else self._in_memory(dataset, question, matrix)

    def _in_memory(self, dataset: Any, question: Question, matrix: Matrix) -> Found:
        scores = matrix.scores(question)
        if question.where:
            scores[~matrix.among(self.passing(dataset, question.where).ids)] = -np.inf
        best = top(scores, question.k)
        return matrix.row_ids[best], scores[best]

    def _matrix(self, dataset: Any, column: str) -> Matrix | None:
        """All vectors of a column; None: they do not fit into memory."""
        version = int(dataset.version)
        found = self._matrices.get(column)
        if found is not None and found.version == version:
            return found
        if self._too_large.get(column) == version:
            return None
        with self._lock:  # others wait, rather than read the same
            found = self._matrices.get(column)
            if found is None or found.version != version:
                found = Matrix.read(dataset, column, found)
                if found is None:
                    self._matrices.pop(column, None)
                    self._too_large[column] = version
                else:
                    self._matrices[column] = found
        return found

    def _partitions_of(self, dataset: Any, column: str) -> int:
        key = built(dataset, column)
        found = self._partitions.get(key)
        if found is None:
            found = partitions_of(dataset, column)
            with self._lock:
                self._partitions = dict([*self._partitions.items(), (key, found)][-KEPT_INDEXES:])
        return found

    def passing(self, dataset: Any, where: str) -> Passing:
        """The rows that pass a filter."""
        key = (int(dataset.version), where)
        found = self._passing.get(key) or Passing(_ids(dataset, where))
        with self._lock:
            self._passing.pop(key, None)
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

    def __init__(self, ids: RowIds) -> None:
        self.ids = ids

    @cached_property
    def for_lance(self) -> bytes:
        """The same as Lance takes them."""
        from lance.dataset import serialize_row_addrs

        packed: bytes = serialize_row_addrs(self.ids.tolist())
        return packed


def _ids(dataset: Any, where: str) -> RowIds:
    found = dataset.scanner(columns=[], filter=where, with_row_id=True, scan_in_order=True).to_table()
    ids: RowIds = found["_rowid"].to_numpy()
    return ids


def _rung(k: int) -> int:
    rung = FEWEST
    while rung < k:
        rung *= 4
    return rung


def _ranked(question: Question, ids: RowIds, rows: pa.Table) -> Found:
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
    for some, vectors in batches(dataset, question.column, question.where):
        ids = np.concatenate([ids, some])
        scores = np.concatenate([scores, scored(vectors, question)])
        if len(ids) > 4 * question.k + BATCH_ROWS:
            best = top(scores, question.k)
            best.sort()  # Positions go on saying what came first.
            ids, scores = ids[best], scores[best]
    best = top(scores, question.k)
    return ids[best], scores[best]


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
