"""Embedded records become rows of an index: nothing twice, and a commit every few seconds.

A record whose bytes are known, in the table or from this run, comes without vectors and is given those of its twin at
the next commit. What waits for a commit is bounded in bytes, so memory stays flat however many records there are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bowerbird.errors import InputError, RowError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.files import from_uri, is_gone, printable, to_uri
from bowerbird.flow.local import worked
from bowerbird.flow.pictures import address
from bowerbird.flow.plan import Chunk
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Modality, Record
from bowerbird.search.known import Known
from bowerbird.search.pieces import Written
from bowerbird.search.rows import Attributes, Layout, arrow_rows, uri_of
from bowerbird.settings import settings
from bowerbird.store.table import schema

if TYPE_CHECKING:
    from bowerbird.search.index import Index

COMMIT_BYTES = 64 << 20
"""Rows are committed earlier when they hold this much, whatever the clock says."""

MOST_WAITING = 500
"""So many records whose bytes are known already are held back at the most, vectors and thumbnails included."""


class Progress(Protocol):
    """Told how a run goes. Calls come from one thread."""

    def start(self, total: int) -> None:
        """`total` records were found; 0: nobody knows how many there will be."""

    def advance(self, count: int) -> None:
        """`count` more records are done with, whatever became of them."""


class Fault(NamedTuple):
    """A file, folder or row that could not be indexed: one line says why, and one what to do about it."""

    path: str
    reason: str
    hint: str
    kind: str = ""


@dataclass
class Report:
    """What a run did. All counts are records; of a folder, files.

    Attributes:
        added: new in the index.
        changed: embedded again, since their bytes changed.
        moved: kept their vectors under a new path.
        unchanged: left alone.
        removed: left the index, since their files are gone.
        missing: kept although their files are gone.
        failed: one for each file, folder or row that could not be indexed.
        copies: how many of the added are exact copies of another record.
        seconds: wall time.
        interrupted: whether Ctrl-C ended the run early.
        verdict: what took most of the time.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    removed: int = 0
    missing: int = 0
    copies: int = 0
    failed: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    verdict: str = ""


class Writer:
    """Takes embedded records and writes them. The index is locked by the caller."""

    def __init__(
        self,
        index: Index,
        embed: Embed,
        report: Report,
        *,
        progress: Progress | None = None,
        refused: Callable[[Failure], None] | None = None,
        roots: tuple[str, ...] = (),
    ) -> None:
        self.index = index
        self.embed = embed
        self.report = report
        self.progress = progress
        self.refused = refused
        self.roots = roots
        self.known = Known(index.table)
        self.layout = self._layout()
        self.rows: list[dict[str, Any]] = []
        self.row_bytes = 0
        self.pieces: list[bytes] = []  # rows that workers have written by themselves
        self.written: list[tuple[str, Record]] = []  # which rows lie in them: id and record
        self.doubles: set[str] = set()  # ids of which they hold several rows
        self.alone = True  # whether nobody else writes rows of the same run
        self.stale: set[int] = set()  # rows of `known` whose places now hold other bytes
        self.pending: set[str] = set()  # contents on their way to the table
        self.waiting: list[Record] = []
        self.taken: set[str] = set()  # ids of users that this run has met
        self.committed = time.monotonic()
        # Once, not for every record: it parses the environment.
        self.commit_seconds = settings().commit_seconds

    def write(self, chunks: Iterator[Chunk], *, before_end: Callable[[], None] | None = None) -> None:
        """Take all that a plan gives, and finish. Ctrl-C ends the run early, and keeps what was done.

        Args:
            chunks: embedded records, and failures.
            before_end: called when everything has been taken and committed.
        """
        try:
            for chunk in chunks:
                for item in chunk:
                    self.take(item)
            self.commit()
            if before_end:
                before_end()
            self._finish()
        except KeyboardInterrupt:
            self.report.interrupted = True
            chunks.close()  # type: ignore[attr-defined]  # a generator
            self.commit()

    def take(self, item: Record | Written | Failure) -> None:
        """Take what came of a record."""
        if isinstance(item, Written):
            self._take_written(item)
        else:
            self._take_one(item)
        late = time.monotonic() - self.committed > self.commit_seconds
        if late or self.row_bytes > COMMIT_BYTES or len(self.waiting) >= MOST_WAITING:
            self.commit()

    def _take_one(self, item: Record | Failure) -> None:
        if isinstance(item, Record) and not item.vectors and not self._is_held(item.content):
            # The record that held these bytes has left the table since, or its twin failed.
            ((item,), _) = worked((self.embed,), [item])
        if isinstance(item, Failure):
            self.report.failed.append(fault(item))
            self._advance()
        elif not self._is_taken(item):
            self._take(item)

    def _is_taken(self, record: Record) -> bool:
        """Whether the user's id has come before in this run; such a record is refused."""
        if not record.named:
            return False
        if record.id not in self.taken:
            self.taken.add(record.id)
            return False
        hint = "Give each record an id of its own."
        error = RowError(f"{record.id} has come before in this run.", hint=hint)
        self._refuse(Failure(record.id, "index", error, record))
        self._advance()
        return True

    def _take_written(self, item: Written) -> None:
        """Take a record of which the row lies in a piece."""
        record = item.record
        if item.piece is not None:
            self.pieces.append(item.piece)
        if self._is_taken(record):
            self.doubles.add(record.id)
            return
        self.pending.add(record.content)
        self._give_up(record)
        self.written.append((self._place(record), record))
        self._advance()

    def _take(self, record: Record) -> None:
        if not record.vectors or self._is_held(record.content):
            self.waiting.append(record)  # The bytes are known: at the next commit it is given their vectors.
            return
        if self.embed.vector_name("text") in record.vectors:
            self.make_room_for_texts()
        self.pending.add(record.content)
        self._give_up(record)
        self._row(record, self.layout.values(record), self._place(record))
        self._advance()

    def _layout(self) -> Layout:
        names = {column: self.embed.vector_name(part) for column, part in self.index.parts().items()}
        return Layout(self.index.columns, names, Attributes(self.index.table.attributes()))

    def make_room_for_texts(self) -> None:
        """Add the column for vectors of texts, if there is none."""
        if not any(column.modality == Modality.TEXT for column in self.layout.columns):
            self.index.make_room_for_texts()
            self.layout = self._layout()

    def _is_held(self, content: str) -> bool:
        return content in self.known.by_content or content in self.pending

    def _place(self, record: Record) -> str:
        """The id of the row for a record whose bytes are new at its place, and the counting of it."""
        here = self.known.at(place(record))
        if here is not None:
            self.report.changed += 1
        else:
            self.report.added += 1
        return record.id if record.named else self.known.new_id(record.content)

    def _give_up(self, record: Record) -> None:
        """What its place held before leaves the index, unless another record turns out to hold it now."""
        here = self.known.at(place(record))
        if here is not None and self.known.contents[here] != record.content:
            self.stale.add(here)

    def _row(self, record: Record, values: Mapping[str, Any], id_: str) -> None:
        self.rows.append(self.layout.row(record, values, id_))
        self.row_bytes += len(values.get("thumbnail") or b"") + sum(
            4 * c.dimensions for c in self.layout.columns
        )

    def commit(self) -> None:
        """Write everything taken so far, and publish it to readers."""
        self.committed = time.monotonic()
        self._commit_pieces()
        self._reuse()  # While the records that are about to leave are still in the table.
        if self.rows or self.stale:
            self._check_attributes()
            kept = {row["id"] for row in self.rows}
            remove = [id_ for row in sorted(self.stale) if (id_ := self.known.ids[row]) not in kept]
            table = arrow_rows(self.rows, self.layout.columns, self.layout.attributes.fields)
            self.index.table.upsert(table, remove=remove)
            for old in self.stale:
                self.known.drop(old)
            for row in self.rows:
                self.known.add(row["id"], row["uri"], row["content"], (row["size"], row["mtime_ns"]))
            self.known.seen.extend(b"\1" * len(self.rows))
            self.rows, self.stale, self.row_bytes = [], set(), 0
            self.pending.clear()
            self.publish()

    def _commit_pieces(self) -> None:
        """Make the rows that workers have written part of the table, where `_reuse` may look for vectors."""
        if not self.pieces:
            return
        import pyarrow as pa

        table = self.index.table
        table.append(self.pieces)
        for id_ in sorted(self.doubles):
            quoted = id_.replace("'", "''")
            # The rows are the same but for what is said of the record: the first one counts.
            first = next(
                batch for batch in table.scan(table.names, where=f"id = '{quoted}'") if batch.num_rows
            )
            table.delete([id_])
            table.upsert(pa.Table.from_batches([first.slice(0, 1)]))
        for id_, record in self.written:
            stamp = (record.facts.get("size"), record.facts.get("mtime_ns"))
            self.known.add(id_, uri_of(record) or "", record.content, stamp)
        self.known.seen.extend(b"\1" * len(self.written))
        self.pending.difference_update(record.content for _, record in self.written)
        self.pieces, self.written, self.doubles = [], [], set()
        if not self.stale:
            self.publish()  # Else when those have left: a reader would see a file twice.

    def _check_attributes(self) -> None:
        """Make room for what the rows say of their records; a row that says what cannot be kept fails."""
        refused = self.layout.attributes.settle(self.rows, self.index.table, widen=self.alone)
        for place_, error in sorted(refused.items(), reverse=True):
            row = self.rows.pop(place_)
            self.report.added -= 1
            self._refuse(Failure(row["id"], "index", error, row["uri"]))

    def _reuse(self) -> None:
        """Records whose bytes are in the table, or about to be: moved, touched, or copies. They take the vectors."""
        waiting, self.waiting = self.waiting, []
        found = self._held_values({record.content for record in waiting})
        for record in waiting:
            if record.content in found:
                self._give_up(record)
        for record in waiting:
            if record.content in found:
                self._reuse_one(record, found[record.content])
            elif record.content not in self.pending:
                copied = InputError("An exact copy of this record failed.", hint="See there.")
                self._refuse(Failure(record.id, "index", copied, record))
            self._advance()

    def _held_values(self, contents: set[str]) -> dict[str, dict[str, Any]]:
        """Vectors, facts and thumbnail by content, for what the table holds or is about to."""
        names = [name for name in schema(self.layout.columns).names if name not in _OWN]
        found = {
            row["content"]: {name: row.get(name) for name in names}
            for row in self.rows
            if row["content"] in contents
        }
        ids = [self.known.ids[self.known.by_content[c]] for c in contents if c in self.known.by_content]
        if ids:
            quoted = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in sorted(ids))
            for batch in self.index.table.scan(["content", *names], where=f"id IN ({quoted})"):
                found.update({row.pop("content"): row for row in batch.to_pylist()})
        return found

    def _reuse_one(self, record: Record, values: Mapping[str, Any]) -> None:
        here = self.known.at(place(record))
        if here is not None and self.known.contents[here] == record.content:
            self.report.unchanged += 1  # Only its time, or what else is known of it, changed.
            self.known.seen[here] = 1
            self._row(record, values, self.known.ids[here])
            return
        free = None if record.named else self._free(record.content)
        if free is None:
            self.report.copies += here is None
            self._row(record, values, self._place(record))
            return
        if place(record):
            self.report.moved += 1
        else:
            self.report.unchanged += 1  # A row of a table, which has no place but its content.
        self.known.seen[free] = 1
        self.stale.discard(free)
        self._row(record, values, self.known.ids[free])

    def _free(self, content: str) -> int | None:
        """A row of this content that nothing holds any more, and that nothing has taken over yet."""
        for row in self.known.rows_of(content):
            if row in self.stale or (not self.known.seen[row] and self._is_free(row)):
                return row
        return None

    def _is_free(self, row: int) -> bool:
        if self.known.is_named(row):
            return False
        return not self.known.is_file(row) or is_gone(from_uri(self.known.uris[row]))

    def _finish(self) -> None:
        """Everything has been committed: tidy up the table, and list what failed."""
        # Before the tidying too: it may delete the version that the last manifest, if old, sends readers to.
        self.publish()
        self.index.table.optimize(self.layout.columns)
        self.publish()
        self.index.list_errors([entry._asdict() for entry in self.report.failed])

    def publish(self) -> None:
        """Show readers what has been committed."""
        roots = {*self.index.manifest.roots, *self.roots}
        embedded = self.report.added + self.report.changed > self.report.copies
        self.index.publish(failed=len(self.report.failed), roots=tuple(sorted(roots)), embedded=embedded)

    def _refuse(self, failure: Failure) -> None:
        """A record that was embedded, and cannot be kept."""
        if self.refused:
            self.refused(failure)
        self.report.failed.append(fault(failure))

    def _advance(self) -> None:
        if self.progress:
            self.progress.advance(1)


def fault(failure: Failure) -> Fault:
    """A failure as one line, which names the record."""
    shown, said = one_line(printable(failure.id)), failure.error.message
    named = shown in said or one_line(failure.id) in said
    return Fault(
        printable(failure.id), said if named else f"{shown}: {said}", failure.error.hint, failure.kind
    )


def place(record: Record) -> str:
    """What a record is found again by: its id, if it is the user's; the path of a file; empty for a row of a table.

    A row of a table without an id is found again by its content alone: its line may be another one tomorrow.
    """
    if record.named:
        return f"id:{record.id}"
    source = record.source
    if isinstance(source, Path):
        return to_uri(os.path.abspath(source)) if record.id in (str(source), to_uri(str(source))) else ""
    shown = address(source)
    return shown if shown and shown == record.id else ""


# Columns that belong to the record rather than to its bytes: a moved file has its own.
_OWN = frozenset({"id", "uri", "content", "size", "mtime_ns", "name", "folder", "indexed_at", "text"})
