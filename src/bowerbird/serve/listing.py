"""Records of an index as they are listed: in the order of their ids, page by page."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bowerbird.search.index import Index
from bowerbird.store.filters import among
from bowerbird.store.table import ATTRIBUTES
from bowerbird.store.where import parse

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Listing", "Page", "Stored", "stored"]

KEPT_LISTS = 4
"""The ids that pass so many filters are kept: who lists records asks for one page after the other."""


@dataclass(frozen=True)
class Stored:
    """A record as the index holds it.

    Attributes:
        id: of the record.
        uri: where its picture lies; empty where it lies nowhere.
        text: its texts, one on a line.
        attributes: what else is known of it.
    """

    id: str
    uri: str
    text: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """Some records, in the order of their ids.

    Attributes:
        records: so many as were asked for, or fewer.
        more: whether there are further ones.
    """

    records: Sequence[Stored]
    more: bool


class Listing:
    """The records of a version of an index. Its ids are read and sorted when the first page is asked for, once."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._lock = threading.Lock()
        self._ids: dict[tuple[int, str], pa.Array] = {}

    def page(self, *, after: str = "", limit: int = 100, where: str = "") -> Page:
        """Records from behind an id; see `ServedIndex.page`.

        Raises:
            QueryError: the filter cannot be understood.
        """
        ids = self._sorted(where)
        start = bisect_right(range(len(ids)), after, key=lambda place: ids[place].as_py()) if after else 0
        found = ids[start : start + limit].to_pylist()
        by_id = {record.id: record for record in stored(self.index, found)}
        # A store without versions may have lost some since.
        return Page([by_id[id_] for id_ in found if id_ in by_id], start + limit < len(ids))

    def _sorted(self, where: str) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.index.table
        key = (table.version, where)
        with self._lock:  # others wait, rather than read the same
            ids = self._ids.pop(key, None)
            if ids is None:
                batches = table.scan(["id"], where=parse(where, table.fields))
                ids = pa.concat_arrays(
                    [pa.array([], pa.string()), *(batch.column("id") for batch in batches)]
                )
                ids = ids.take(pc.array_sort_indices(ids))
            self._ids[key] = ids  # the last asked for is the last to go
            while len(self._ids) > KEPT_LISTS:
                self._ids.pop(next(iter(self._ids)))
        return ids


def stored(index: Index, ids: Sequence[str]) -> list[Stored]:
    """Records by their ids, in any order; those that there are none of are left out."""
    if not ids:
        return []
    table = index.table
    known = frozenset(table.names)  # which takes as long as there are columns
    names = [name for name in (*ATTRIBUTES, *table.attributes().names) if name in known]
    columns = ["id", "uri", "text", *names]
    return [
        Stored(row.pop("id"), row.pop("uri") or "", row.pop("text") or "", row)
        for batch in table.scan(columns, where=among("id", list(ids)))
        for row in batch.to_pylist()
    ]
