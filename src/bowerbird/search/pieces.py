"""Rows that the workers of a cluster write by themselves: only what they wrote is sent, and committed where the run
was started.

A worker writes the records that it has embedded, as far as they are new: their vectors never travel. What may replace
a row, or does not fit the columns that the table has, goes to the writer as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bowerbird.flow.plan import Chunk, Clock, Stateless
from bowerbird.record import Record
from bowerbird.search.rows import Attributes, Layout, arrow_rows
from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Written:
    """A record whose row lies in a piece.

    Attributes:
        record: without its vectors and its thumbnail.
        piece: what the table is given to commit the rows of a chunk; with the first record of each chunk only.
    """

    record: Record
    piece: bytes | None = None


@dataclass(frozen=True)
class WritePieces(Stateless):
    """Embedded records become rows on disk, which nobody sees before they are committed.

    Attributes:
        write: writes some rows, and says what has to be committed; see `Table.piece_writer`.
        columns: vector columns of the table.
        names: by column, the vector of a record that it holds.
        attributes: columns of the table for what users know of their records.
        replaced: says of which ids of users the table has rows.
    """

    write: Callable[[pa.Table], bytes]
    columns: tuple[VectorColumn, ...]
    names: Mapping[str, str]
    attributes: pa.Schema
    replaced: Callable[[Sequence[str]], Sequence[bool]]
    label: str = "write"

    @property
    def uses_picture(self) -> bool:
        """See `Step`."""
        return False

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        fresh = [place for place, item in enumerate(items) if isinstance(item, Record) and item.vectors]
        named = [place for place in fresh if items[place].named]
        old = {
            place
            for place, there in zip(named, self.replaced([items[place].id for place in named]), strict=True)
            if there
        }
        layout = Layout(self.columns, self.names, Attributes(self.attributes, quiet=True))
        rows: list[dict[str, Any]] = []
        places: list[int] = []
        for place in fresh:
            record = items[place]
            if place not in old and layout.attributes.fit(record.attributes):
                places.append(place)
                id_ = record.id if record.named else record.content
                rows.append(layout.row(record, layout.values(record), id_))
        if not rows:
            return items
        piece: bytes | None = self.write(arrow_rows(rows, self.columns, self.attributes))
        results = list(items)
        for place in places:
            results[place] = Written(light(items[place]), piece)
            piece = None
        return results


def light(record: Record) -> Record:
    """A record without what is in its row."""
    facts = {name: record.facts[name] for name in ("size", "mtime_ns") if name in record.facts}
    return replace(record, vectors={}, norms={}, facts=facts, origin=None, image=record.source)
