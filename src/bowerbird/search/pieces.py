"""Rows that the workers of a cluster write by themselves: only what they wrote is sent, and committed where the run
was started.

A worker writes the records that it has embedded, as far as they are new: their vectors never travel. What may replace
a row, or does not fit the columns that the table has, goes to the writer as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError
from bowerbird.flow.embedding import PASSED
from bowerbird.flow.plan import Chunk, Clock, Stateless
from bowerbird.record import Record
from bowerbird.search.rows import Attributes, Layout, arrow_rows, place
from bowerbird.store.table import VectorColumn

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Written:
    """A record whose row lies in a piece.

    Attributes:
        record: without its vectors and its thumbnail.
        piece: what the table is given to commit the rows of a chunk; with the first record of each chunk only.
        more: how many records follow whose rows lie in the same piece.
    """

    record: Record
    piece: bytes | None = None
    more: int = 0


@dataclass(frozen=True)
class WritePieces(Stateless):
    """Embedded records become rows on disk, which nobody sees before they are committed.

    Attributes:
        write: writes some rows, and says what has to be committed; see `Table.piece_writer`.
        columns: vector columns of the table.
        names: by column, the vector of a record that it holds.
        attributes: columns of the table for what users know of their records.
        replaced: says of which places (see `rows.place`) the table has rows; `id:ID` asks for a row by its id.
        lacking: vectors that the table may be given columns for, and has none yet.
    """

    write: Callable[[pa.Table], bytes]
    columns: tuple[VectorColumn, ...]
    names: Mapping[str, str]
    attributes: pa.Schema
    replaced: Callable[[Sequence[str]], Sequence[bool]]
    lacking: frozenset[str] = frozenset()
    label: str = "write"

    looks = False

    def for_worker(self, threads: int) -> WritePieces:
        """See `Stateless`. What writing needs is imported now, while the first records are on their way."""
        with suppress(BowerbirdError):  # said again, and to the user, when there are rows
            self.write(arrow_rows([], self.columns, self.attributes))
        return self

    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """See `Stateless`."""
        fresh = [at for at, item in enumerate(items) if isinstance(item, Record) and is_fresh(item)]
        # By the id too: a row of that id that has lost its vectors may lie at another place.
        there = self.replaced([key for at in fresh for key in (place(items[at]), f"id:{row_id(items[at])}")])
        layout = Layout(self.columns, self.names, Attributes(self.attributes, quiet=True))
        rows: list[dict[str, Any]] = []
        places: list[int] = []
        for at, *old in zip(fresh, there[::2], there[1::2], strict=True):
            record = items[at]
            fits = self.lacking.isdisjoint(record.vectors) and layout.attributes.fit(record.attributes)
            if fits and not any(old):
                places.append(at)
                rows.append(layout.row(record, layout.values(record), row_id(record)))
        if not rows:
            return items
        piece: bytes | None = self.write(arrow_rows(rows, self.columns, self.attributes))
        results = list(items)
        for number, at in enumerate(places, 1):
            results[at] = Written(light(items[at]), piece, len(places) - number)
            piece = None
        return results


def is_fresh(record: Record) -> bool:
    """Whether a record has been embedded, rather than found to be known: it brings vectors, or no model took it."""
    return bool(record.vectors) or PASSED in record.facts


def row_id(record: Record) -> str:
    """The id of the row that a worker writes for a record: the user's, or its content."""
    return record.id if record.named else record.content


def light(record: Record) -> Record:
    """A record without what is in its row."""
    facts = {name: record.facts[name] for name in ("size", "mtime_ns", PASSED) if name in record.facts}
    return replace(record, vectors={}, norms={}, facts=facts, origin=None, image=record.source)
