"""Rows of a Lance dataset by their ids. Columns that are asked for again and again are kept in memory.

Lance takes about a millisecond a column for 26 rows that lie far apart, Arrow some microseconds (benchmarks/LOG.md). A
table that answers one question reads just what it shows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

KEPT_BYTES = 400_000_000
"""So much is kept of one table; a million pictures with short texts take 320 MB."""

KEPT_FROM = 3
"""The question of an opened table from which on columns are kept."""

MOST_TAKEN = 1000
"""Of more rows at once each is cheap in Lance, too."""

RowIds = NDArray[np.uint64]


@dataclass(frozen=True)
class _Kept:
    """Some columns of a fragment.

    Attributes:
        row_ids: uint64 (rows,), ascending.
        batch: the columns, (rows,) each.
        bytes: that it takes.
    """

    row_ids: RowIds
    batch: pa.RecordBatch
    bytes: int

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.batch.schema.names)

    def has(self, columns: Sequence[str]) -> bool:
        return self.names.issuperset(columns)

    def take(self, ids: RowIds) -> pa.RecordBatch:
        import pyarrow as pa

        return self.batch.take(pa.array(np.searchsorted(self.row_ids, ids)))


class KeptRows:
    """Takes rows of whichever version of a dataset it is given.

    What is kept stays right in later versions: a fragment of Lance loses rows, but never changes one, unless it gets
    other files.
    """

    def __init__(self) -> None:
        self._questions = 0
        self._kept: dict[int, _Kept] = {}  # by fragment
        self._files: dict[int, tuple[str, ...]] = {}  # of the fragments
        self._version = -1
        self._lock = threading.Lock()

    def take_over(self, before: KeptRows) -> None:
        """Keep what was read of an earlier version of the same dataset."""
        with before._lock:
            self._questions, self._kept = before._questions, dict(before._kept)
            self._files, self._version = before._files, before._version

    def take(self, dataset: Any, ids: RowIds, columns: Sequence[str]) -> pa.Table:
        """The rows with some ids, in that order."""
        self._questions += 1
        schema = dataset.schema
        wanted = [name for name in dict.fromkeys(columns) if _is_small(schema, name)]
        if self._questions < KEPT_FROM or not 0 < len(ids) <= MOST_TAKEN or not wanted:
            return dataset._take_rows(ids.tolist(), columns=list(columns))
        fragments = (ids >> np.uint64(32)).astype(np.int64)
        kept = self._held(dataset, np.unique(fragments).tolist(), wanted)
        if kept is None:
            return dataset._take_rows(ids.tolist(), columns=list(columns))
        found = _joined(ids, fragments, kept, wanted)
        if rest := [name for name in columns if name not in wanted]:
            taken = dataset._take_rows(ids.tolist(), columns=rest)
            for name in rest:
                found = found.append_column(taken.schema.field(name), taken[name])
        return found.select(list(columns))

    def _held(self, dataset: Any, fragments: Sequence[int], columns: list[str]) -> dict[int, _Kept] | None:
        """Fragments of which some columns are kept from now on; None: there is no room for one of them."""
        with self._lock:  # others wait, rather than read the same
            self._forget_changed(dataset)
            for fragment in fragments:
                self._keep(dataset, fragment, columns)
            found = {one: self._kept[one] for one in fragments if one in self._kept}
        whole = len(found) == len(fragments) and all(one.has(columns) for one in found.values())
        return found if whole else None

    def _keep(self, dataset: Any, fragment: int, columns: list[str]) -> None:
        """Read what is missing of a fragment, as long as there is room."""
        kept = self._kept.get(fragment)
        if kept and kept.has(columns):
            return
        if sum(one.bytes for one in self._kept.values()) > KEPT_BYTES:
            return
        found = dataset.get_fragment(fragment)
        if found is None:
            return
        have = kept.batch.schema.names if kept else []
        table = dataset.scanner(
            columns=list(dict.fromkeys([*have, *columns])),
            fragments=[found],
            with_row_id=True,
            scan_in_order=True,
        ).to_table()
        (batch,) = table.drop_columns(["_rowid"]).combine_chunks().to_batches() or [None]
        if batch is not None:
            row_ids = table["_rowid"].to_numpy()
            self._kept[fragment] = _Kept(row_ids, batch, row_ids.nbytes + batch.nbytes)

    def _forget_changed(self, dataset: Any) -> None:
        """Fragments that are gone, or have other files: columns came or went."""
        if dataset.version == self._version:
            return
        files = {
            one.fragment_id: tuple(file.path for file in one.data_files()) for one in dataset.get_fragments()
        }
        stale = {one for one, before in self._files.items() if files.get(one) != before}
        for fragment in stale & self._kept.keys():
            del self._kept[fragment]
        self._version, self._files = dataset.version, files


def _joined(
    ids: RowIds, fragments: NDArray[np.int64], kept: Mapping[int, _Kept], columns: list[str]
) -> pa.Table:
    """Columns of rows, in their order, from the fragments that hold them."""
    import pyarrow as pa

    parts, order = [], []
    for fragment, held in kept.items():
        here = np.flatnonzero(fragments == fragment)
        order.append(here)
        parts.append(held.take(ids[here]).select(columns))
    back = np.empty(len(ids), np.int64)
    back[np.concatenate(order)] = np.arange(len(ids))
    return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


def _is_small(schema: pa.Schema, name: str) -> bool:
    """Whether a column holds numbers, times or texts, and is no part of Lance's own."""
    import pyarrow as pa

    if name not in schema.names:
        return False
    type_ = schema.field(name).type
    return not (pa.types.is_nested(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_))
