"""The vectors of a column of a Lance dataset, in memory: a block for each fragment, kept for as long as it is right.

A commit that adds, replaces or deletes a few rows leaves the files of most fragments as they are, so of a new version
only what is new in it is read. Rows without a vector take no memory: an index of texts alone costs nothing for the
pictures that its model could have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.table import norm_of

EXACT_BYTES = 150_000_000
"""Up to this, the vectors of a column are searched exactly in memory: there one matrix product is as fast as an
index (6.7 against 7.7 ms at 100,000 x 384; benchmarks/LOG.md). It is 97,000 vectors of 384 dimensions."""

BATCH_ROWS = 8192

SAME_POINT = 1e-6
"""A vector so near to the centre has no direction from there; it scores 0."""

MOST_CENTRES = 4
"""Whose factors are kept: a few modalities at the most."""

Floats = NDArray[np.float32]
RowIds = NDArray[np.uint64]


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
class Block:
    """The vectors of a fragment: of those of its rows that have one.

    Attributes:
        files: that they were read from, and which field of them it was.
        deleted: what says which rows of the fragment are gone.
        row_ids: uint64 (rows,), ascending.
        vectors: float32 (rows, dim).
        gone: bool (rows,): deleted since they were read; None: none.
        factors: float32 (rows,) by centre: what turns a dot product with `row - centre` into a score.
    """

    files: tuple[str, ...]
    deleted: str
    row_ids: RowIds
    vectors: Floats
    gone: NDArray[np.bool_] | None = None
    factors: Mapping[bytes, Floats] = field(default_factory=dict)

    def scores(self, question: Question) -> Floats:
        """Of every row; minus infinity where it is gone."""
        scores: Floats = self.vectors @ question.vector
        if question.centre is not None:
            scores = (scores - question.centre @ question.vector) * self._factors(question.centre)
        if self.gone is not None:
            scores[self.gone] = -np.inf
        return scores

    def _factors(self, centre: Floats) -> Floats:
        key = centre.tobytes()
        found = self.factors.get(key)
        if found is None:
            found = factors(self.vectors, centre)
            # Replaced as a whole: several threads search at once, and versions share their blocks.
            self.factors = dict([*self.factors.items(), (key, found)][-MOST_CENTRES:])
        return found


@dataclass(frozen=True)
class Matrix:
    """All vectors of a column of one version, in the order of the rows.

    Attributes:
        version: of the dataset.
        blocks: by fragment, ascending.
    """

    version: int
    blocks: Mapping[int, Block]

    @classmethod
    def read(cls, dataset: Any, column: str, before: Matrix | None = None) -> Matrix | None:
        """Read it whole; None: it would not fit.

        Args:
            dataset: at the version that is read.
            column: of vectors.
            before: of an earlier version: what is the same by now is taken from there.
        """
        fragments = sorted(dataset.get_fragments(), key=lambda one: one.fragment_id)
        # A column that was dropped and made again is another field.
        name = str(dataset.lance_schema.field(column).id())
        blocks: dict[int, Block] = {}
        for one in fragments:
            had = before.blocks.get(one.fragment_id) if before else None
            if had is not None and had.files == _files(one, name):
                same = had.deleted == _deleted(one)
                blocks[one.fragment_id] = had if same else _without_deleted(dataset, one, had)
        rows = sum(len(one.row_ids) for one in blocks.values())
        width = dataset.schema.field(column).type.list_size
        if new := [one for one in fragments if one.fragment_id not in blocks]:
            # At the most: it takes longer to count a few than to read them.
            more = sum(one.metadata.num_rows for one in new)
            if more > BATCH_ROWS or not fits(rows + more, width):
                more = dataset.scanner(columns=[], filter=having(dataset, column), fragments=new).count_rows()
            if not fits(rows + more, width):
                return None
            blocks.update(_read(dataset, column, name, new, more))
        return cls(int(dataset.version), dict(sorted(blocks.items()))) if fits(rows, width) else None

    @cached_property
    def row_ids(self) -> RowIds:
        """uint64 (rows,), ascending."""
        return np.concatenate([np.empty(0, np.uint64), *(one.row_ids for one in self.blocks.values())])

    def scores(self, question: Question) -> Floats:
        """Of every row, float32 (rows,); minus infinity where it is gone."""
        return np.concatenate(
            [np.empty(0, np.float32), *(one.scores(question) for one in self.blocks.values())]
        )

    def among(self, ids: RowIds) -> NDArray[np.bool_]:
        """Which rows are among some, bool (rows,).

        Args:
            ids: ascending; some of them may have no vector.
        """
        passing = np.zeros(len(self.row_ids), bool)
        if len(passing):
            places = np.searchsorted(self.row_ids, ids).clip(max=len(passing) - 1)
            passing[places[self.row_ids[places] == ids]] = True
        return passing


def fits(rows: int, dimensions: int) -> bool:
    """Whether so many vectors are searched in memory."""
    return 4 * dimensions * rows <= EXACT_BYTES


def having(dataset: Any, column: str) -> str:
    """The filter, as Lance reads it, for rows that have a vector; what it asks for is read in no time."""
    norm = norm_of(column)
    return f"`{norm if norm in dataset.schema.names else column}` IS NOT NULL"


def factors(vectors: Floats, centre: Floats) -> Floats:
    """One over the distance of each vector from the centre; 0 where there is hardly any."""
    found = np.zeros(len(vectors), np.float32)
    for start in range(0, len(vectors), BATCH_ROWS):
        distances = np.linalg.norm(vectors[start : start + BATCH_ROWS] - centre, axis=1)
        np.divide(
            1.0,
            distances,
            out=found[start : start + BATCH_ROWS],
            where=distances > SAME_POINT,
            dtype=np.float32,
        )
    return found


def batches(
    dataset: Any, column: str, where: str = "", fragments: Sequence[Any] | None = None
) -> Iterator[tuple[RowIds, Floats]]:
    """Row ids and vectors, (rows,) and (rows, dim), of rows that have one, in the order of the rows.

    Args:
        dataset: of Lance.
        column: of vectors.
        where: a filter as Lance reads it; empty: all rows.
        fragments: of the dataset; None: all.
    """
    width = dataset.schema.field(column).type.list_size
    there = having(dataset, column)
    scanner = dataset.scanner(
        columns=[column],
        filter=f"({where}) AND {there}" if where else there,
        with_row_id=True,
        scan_in_order=True,
        batch_size=BATCH_ROWS,
        fragments=fragments,
    )
    for batch in scanner.to_batches():
        yield batch.column("_rowid").to_numpy(), batch.column(column).flatten().to_numpy().reshape(-1, width)


def _read(dataset: Any, column: str, name: str, fragments: Sequence[Any], rows: int) -> dict[int, Block]:
    """Blocks of fragments; they share one array, so that reading takes no more memory than what is kept.

    Args:
        dataset: of Lance.
        column: of vectors.
        name: of its field.
        fragments: ascending.
        rows: at the most.
    """
    vectors = np.empty((rows, dataset.schema.field(column).type.list_size), np.float32)
    ids = np.empty(rows, np.uint64)
    start = 0
    for here, some in batches(dataset, column, fragments=fragments) if rows else ():
        stop = start + len(here)
        ids[start:stop], vectors[start:stop] = here, some
        start = stop
    # What was too much of a small guess is given back.
    ids, vectors = ids[:start], vectors if start == rows else vectors[:start].copy()
    found = {}
    for one in fragments:
        begin, end = np.searchsorted(ids, _ends(one)).tolist()
        found[one.fragment_id] = Block(_files(one, name), _deleted(one), ids[begin:end], vectors[begin:end])
    return found


def _without_deleted(dataset: Any, fragment: Any, before: Block) -> Block:
    """The same block, of which other rows are gone."""
    scanner = dataset.scanner(columns=[], with_row_id=True, fragments=[fragment])
    left: RowIds = scanner.to_table()["_rowid"].to_numpy()
    return replace(before, deleted=_deleted(fragment), gone=~np.isin(before.row_ids, left))


def _ends(fragment: Any) -> RowIds:
    """Of the row ids of a fragment: the first, and the one behind the last."""
    return np.asarray([fragment.fragment_id, fragment.fragment_id + 1], np.uint64) << np.uint64(32)


def _files(fragment: Any, field: str) -> tuple[str, ...]:
    return (field, *(file.path for file in fragment.metadata.files))


def _deleted(fragment: Any) -> str:
    return repr(fragment.metadata.deletion_file)
