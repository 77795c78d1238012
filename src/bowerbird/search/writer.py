"""Embedded records become rows of an index: nothing twice, and a commit every few seconds.

A record whose bytes are known, in the table or from this run, comes without vectors and is given those of its twin at
the next commit. What waits for a commit is bounded in bytes, so memory stays flat however many records there are.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from bowerbird.errors import BowerbirdError, InputError, RowError, StoreError
from bowerbird.flow.embedding import PASSED, Embed
from bowerbird.flow.files import from_uri, is_gone
from bowerbird.flow.local import worked
from bowerbird.flow.plan import Chunk
from bowerbird.flow.run import closed
from bowerbird.record import Failure, Record
from bowerbird.search.changing import make_room_for_texts
from bowerbird.search.filling import Filling, finish
from bowerbird.search.known import Known
from bowerbird.search.pieces import Written, is_fresh, row_id
from bowerbird.search.report import Progress, Report, fault
from bowerbird.search.rows import ATTRIBUTE, Attributes, Layout, arrow_rows, place, stamp_of, uri_of
from bowerbird.settings import settings
from bowerbird.store.filters import And, Filter, IsNull, among
from bowerbird.store.table import schema

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.flow.run import Executor
    from bowerbird.search.index import Index

COMMIT_BYTES = 64 << 20
"""Rows are committed earlier when they hold this much, whatever the clock says."""

MOST_WAITING = 500
"""So many records whose bytes are known already are held back at the most, vectors and thumbnails included."""


class Writer:
    """Takes embedded records and writes them. The index is locked by the caller.

    Args:
        index: written to.
        embeds: the steps whose vectors come, each of a model of the index; the other models' are filled in at the end.
        report: of the run.
        executor: of the run; it embeds what is filled in, too.
        progress: told about every record.
        refused: told about records that were embedded, and cannot be kept.
        roots: folders that are indexed.
        on_error: what becomes of failures; see `bowerbird.flow.plan.Plan`.
        only: rows that the records of the run can have anything to do with; None: any.
        upkeep: tidy up and calibrate in the end; else somebody calls `upkeep.tidy` and `calibrate.renew` later.
    """

    def __init__(  # noqa: PLR0913  what a run is told
        self,
        index: Index,
        embeds: Sequence[Embed],
        report: Report,
        *,
        executor: Executor,
        progress: Progress | None = None,
        refused: Callable[[Failure], None] | None = None,
        roots: tuple[str, ...] = (),
        on_error: str = "keep",
        only: Filter | None = None,
        upkeep: bool = True,
    ) -> None:
        self.index = index
        self.embeds = tuple(embeds)
        self.report = report
        self.executor = executor
        self.on_error = on_error
        self.progress = progress
        self.refused = refused
        self.roots = roots
        self.only = only
        self.upkeep = upkeep
        self.single: pa.Table | None = None  # rows that have left the table to come back alone
        self.known = self._known()
        self.layout = self._layout()
        self.rows: list[dict[str, Any]] = []
        self.row_bytes = 0
        self.pieces: list[bytes] = []  # rows that workers have written by themselves
        self.written: list[tuple[str, Record]] = []  # which rows lie in them: id and record
        self.opened = 0  # how many rows of the last of them have not been taken note of yet
        self.written_ids: set[str] = set()  # ids of all rows that workers have written in this run
        self.doubles: set[str] = set()  # ids of which there are several rows
        self.surplus: set[str] = set()  # ids of rows in pieces whose records were refused
        self.early: list[Record] = []  # copies of records that are still on their way
        self.alone = True  # whether nobody else writes rows of the same run
        self.stale: set[int] = set()  # rows of `known` whose places now hold other bytes
        self.pending: set[str] = set()  # contents on their way to the table
        self.waiting: list[Record] = []
        self.passed: set[str] = set()  # ids of rows that only other models have vectors for
        self.taken: dict[str, int] = {}  # places that this run has met, and a hash of what was said there
        self.refusals: list[Failure] = []  # reported when what waits for a commit is in the table
        self.settled = False  # whether the first records have settled what attributes are
        self.fixed: frozenset[str] = frozenset()  # attributes that others write, too
        self.committed = time.monotonic()
        # Once, not for every record: it parses the environment.
        self.commit_seconds = settings().commit_seconds

    def write(self, chunks: Iterator[Chunk], *, before_end: Callable[[], None] | None = None) -> None:
        """Take all that a plan gives, and finish. Ctrl-C, or an error that ends the run, keeps what was done.

        Args:
            chunks: embedded records, and failures.
            before_end: called when everything has been taken and committed.

        Raises:
            StoreError: the table cannot be written to; what was committed before stays.
            BowerbirdError: whatever else ended the run.
        """
        try:
            with closed(chunks):
                for chunk in chunks:
                    for item in chunk:
                        self.take(item)
            self._take_early()
            self.commit()
            if before_end:
                before_end()
            self._finish()
        except KeyboardInterrupt:
            self.report.interrupted = True
            self.commit()
        except StoreError:
            raise
        except BowerbirdError:
            self.commit()
            raise

    def take(self, item: Record | Written | Failure) -> None:
        """Take what came of a record."""
        if isinstance(item, Written):
            self._take_written(item)
        else:
            self._take_one(item)
        if self.opened:
            return  # A piece is committed whole: what it holds has to be known by then.
        late = time.monotonic() - self.committed > self.commit_seconds
        if late or self.row_bytes > COMMIT_BYTES or len(self.waiting) >= MOST_WAITING:
            self.commit()

    def _take_one(self, item: Record | Failure) -> None:
        if isinstance(item, Failure):
            self.report.failed.append(fault(item))
            self._advance()
        elif not self._is_taken(item):
            if is_fresh(item) or self._is_held(item.content):
                self._take(item)
            elif self.alone:
                self._embed(item)
            else:
                # Another worker was asked to embed the same bytes, and what it gives comes later.
                self.early.append(item)

    def _embed(self, record: Record) -> None:
        """Embed a copy: the record that held its bytes has left the table since, or failed."""
        ((item,), _) = worked(self.embeds, [record])
        if isinstance(item, Failure):
            self.taken.pop(place(record), None)
            self._refuse(item)
            self._advance()
        else:
            self._take(item)

    def _is_taken(self, record: Record) -> bool:
        """Whether the user's id, or its file, has come before in this run.

        Such a record is refused; a file that is the same as before is left alone.
        """
        where = place(record)
        if not where:
            return False
        says = hash((record.content, repr(sorted(record.attributes.items()))))
        if where not in self.taken:
            self.taken[where] = says
            return False
        self._advance()
        if not record.named and self.taken[where] == says:
            self._count("unchanged")
            return True
        hint = "Give each record an id of its own."
        error = RowError(f"{record.id} has come before in this run.", hint=hint)
        self._refuse(Failure(record.id, "index", error, record))
        return True

    def _take_written(self, item: Written) -> None:
        """Take a record of which the row lies in a piece."""
        record = item.record
        if item.piece is not None:
            self.pieces.append(item.piece)
        self.opened = item.more
        written, held = row_id(record), self._is_held(record.content)
        # Before it is known whether the record is refused: that may raise.
        there = record.named and self.known.at(place(record)) is not None
        if there or written in self.written_ids or written in self.surplus:
            self.doubles.add(written)
        elif place(record) in self.taken:
            self.surplus.add(written)
        else:
            self.written_ids.add(written)
        if self._is_taken(record):
            return
        if held and not record.named:
            self.waiting.append(record)  # Another record is that row.
        else:
            self.pending.add(record.content)
            id_, what = self._place(record)
            self._note(record, id_)
            self._count(what)
            self.written.append((id_, record))
            self._advance()

    def _take_early(self) -> None:
        """All has come: of copies that are left over, the records that were to be embedded have failed."""
        self.alone = True
        early, self.early = self.early, []
        for record in early:
            if self._is_held(record.content):
                self._take(record)
            else:
                self._embed(record)

    def _take(self, record: Record) -> None:
        if not is_fresh(record) or self._is_held(record.content):
            self.waiting.append(record)  # The bytes are known: at the next commit it is given their vectors.
            return
        self.make_room_for_texts(record.vectors)
        self.pending.add(record.content)
        id_, what = self._place(record)
        self._note(record, id_)
        self._row(record, self.layout.values(record), id_, what)
        self._give_up(record)  # After: if Ctrl-C comes between, nothing leaves without what takes its place.
        self._advance()

    def _note(self, record: Record, id_: str) -> None:
        """Remember a row that has no vectors yet, since the models of this run take no part of its record."""
        if PASSED in record.facts and not record.vectors:
            self.passed.add(id_)

    def _layout(self) -> Layout:
        """The columns of all models, and the names of the vectors that this run has for some of them."""
        entries = {entry.space: entry for entry in self.index.manifest.models}
        names = {
            column: embed.vector_name(part)
            for embed in self.embeds
            for column, part in entries[embed.recipe.space].parts().items()
        }
        return Layout(self.index.columns, names, Attributes(self.index.table.attributes()))

    def lacking(self) -> dict[str, str]:
        """Vectors of texts that the table has no column for yet -> the space of their model."""
        names = {embed.vector_name("text"): embed.recipe.space for embed in self.embeds}
        have = set(self.layout.names.values())
        return {name: space for name, space in names.items() if name not in have}

    def make_room_for_texts(self, vectors: Iterable[str]) -> None:
        """Add the columns for vectors of texts that there are none for, as far as they are named."""
        lacking = self.lacking()
        if not lacking or lacking.keys().isdisjoint(vectors):
            return
        for name in lacking.keys() & set(vectors):
            make_room_for_texts(self.index, lacking[name])
        attributes, self.layout = self.layout.attributes, self._layout()
        self.layout.attributes = attributes  # It knows which names it has warned of.

    def _is_held(self, content: str) -> bool:
        return content in self.known.by_content or content in self.pending

    def _place(self, record: Record) -> tuple[str, str]:
        """The id of the row for a record whose bytes are new at its place, and what it is counted as."""
        here = self.known.at(place(record))
        again = None if record.named else self._empty(record, here)
        if again is not None:
            return self.known.ids[again], "changed"
        id_ = record.id if record.named else self.known.new_id(record.content)
        return id_, "changed" if here is not None else "added"

    def _empty(self, record: Record, here: int | None) -> int | None:
        """The row of a record that has lost its vectors; it is filled again, and keeps its id."""
        empty = self.known.empty.get(record.content)
        if not empty:
            return None
        if here is None and not place(record):
            here = next((row for row in empty if not self.known.is_placed(row)), None)
        if here not in empty:
            return None
        empty.remove(here)
        return here

    def _count(self, what: str, by: int = 1) -> None:
        setattr(self.report, what, getattr(self.report, what) + by)

    def _give_up(self, record: Record) -> None:
        """What its place held before leaves the index, unless another record turns out to hold it now."""
        here = self.known.at(place(record))
        if here is not None and self.known.contents[here] != record.content:
            self.stale.add(here)

    def _row(self, record: Record, values: Mapping[str, Any], id_: str, *counts: str) -> None:
        row = self.layout.row(record, values, id_)
        row["asked"] = _Asked(record.id, place(record), not record.attributes, counts)
        self.rows.append(row)
        for what in counts:
            self._count(what)
        self.row_bytes += len(values.get("thumbnail") or b"") + sum(
            4 * c.dimensions for c in self.layout.columns
        )

    def commit(self) -> None:
        """Write everything taken so far, and publish it to readers.

        Where it is interrupted it may be called again: each of its parts has then happened, or can be repeated.
        """
        self.committed = time.monotonic()
        self._put_back()
        self._commit_pieces()
        with self._whole():
            self.waiting += [record for record in self.early if self._is_held(record.content)]
            self.early = [record for record in self.early if not self._is_held(record.content)]
            self._reuse()  # While the records that are about to leave are still in the table.
            self._unfit()
        if self.rows or self.stale or self.surplus:
            kept = {row["id"] for row in self.rows}
            leaving = {*(self.known.ids[row] for row in self.stale), *self.surplus}
            remove = sorted(leaving - kept)
            table = arrow_rows(self.rows, self.layout.columns, self.layout.attributes.fields)
            if remove or len(kept) < len(self.rows) or not kept.isdisjoint(self.known.ids):
                self.index.table.upsert(table, remove=remove)
            else:
                self.index.table.insert(table)
            for old in self.stale:
                self.known.drop(old)
            for row in self.rows:
                self.known.add(row["id"], row["uri"], row["content"], (row["size"], row["mtime_ns"]))
            self.known.seen.extend(b"\1" * len(self.rows))
            self.rows, self.stale, self.surplus, self.row_bytes = [], set(), set(), 0
            self.publish()
        self.pending.clear()
        refusals, self.refusals = self.refusals, []
        for failure in refusals:
            self._refuse(failure)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """A block that was interrupted has not happened: no row may leave without the one that takes its place."""
        names = ("rows", "row_bytes", "stale", "waiting", "early", "refusals")
        before = {name: copy(getattr(self, name)) for name in names}
        seen, report = bytes(self.known.seen), dict(vars(self.report))
        try:
            yield
        except BaseException:
            vars(self).update(before)
            self.known.seen[:] = seen
            vars(self.report).update(report)
            raise

    def _commit_pieces(self) -> None:
        """Make the rows that workers have written part of the table, where `_reuse` may look for vectors."""
        if not self.pieces:
            return
        self.index.table.append(self.pieces)
        self._single(self.doubles)
        for id_, record in self.written:
            self.known.add(id_, uri_of(record) or "", record.content, stamp_of(record))
        self.known.seen.extend(b"\1" * len(self.written))
        self.pending.difference_update(record.content for _, record in self.written)
        self.pieces, self.written, self.doubles = [], [], set()
        if not (self.stale or self.surplus):
            self.publish()  # Else when those have left: a reader would see a file twice.

    def _single(self, ids: Iterable[str]) -> None:
        """Of several rows of one id keep the first."""
        import pyarrow as pa

        table = self.index.table
        for id_ in sorted(ids):
            found = table.scan(table.names, where=among("id", [id_]))
            first = next(batch for batch in found if batch.num_rows)
            # Two commits, since to `upsert` they are one row. Nobody has seen any of them, as nothing is published
            # before: a process that is killed between loses a record that its next run adds.
            self.single = pa.Table.from_batches([first.slice(0, 1)])
            table.delete([id_])
            self._put_back()

    def _put_back(self) -> None:
        if self.single is not None:
            self.index.table.upsert(self.single)
            self.single = None

    def _known(self) -> Known:
        """What the index holds; of an id with several rows, which a killed run may leave behind, the first row."""
        known = Known(self.index.table, self.only)
        if len(known.used) == len(known.ids):
            return known
        self._single(id_ for id_, number in Counter(known.ids).items() if number > 1)
        return Known(self.index.table, self.only)

    def _unfit(self) -> None:
        """Make room for what the rows say of their records; those that say what cannot be kept are taken out.

        What the index held of such a record before, it still holds.
        """
        refused = self.layout.attributes.settle(
            self.rows, self.index.table, first=not self.settled, fixed=self.fixed
        )
        self.settled = self.settled or bool(self.rows)
        failures = []
        for at, error in sorted(refused.items(), reverse=True):
            asked: _Asked = self.rows.pop(at)["asked"]
            for what in asked.counts:
                self._count(what, -1)
            here = self.known.at(asked.place)
            if here is not None:
                self.stale.discard(here)
            failures.append(Failure(asked.id, "index", error))
        self.refusals += failures[::-1]

    def _reuse(self) -> None:
        """Records whose bytes are in the table, or about to be: moved, touched, or copies. They take the vectors."""
        waiting, self.waiting = self.waiting, []
        start = len(self.rows)
        found = self._held_values({record.content for record in waiting})
        for record in waiting:
            if record.content in found:
                self._give_up(record)
        for record in waiting:
            if record.content in found:
                self._reuse_one(record, found[record.content])
            elif record.content not in self.pending:
                copied = InputError("An exact copy of this record failed.", hint="See there.")
                self.refusals.append(Failure(record.id, "index", copied, record))
        self._keep_attributes(self.rows[start:])
        for _ in waiting:
            self._advance()

    def _keep_attributes(self, rows: Sequence[dict[str, Any]]) -> None:
        """A file says nothing of itself: what a plan said of it before stays, under a new path too."""
        names = self.layout.attributes.fields.names
        bare = {row["id"]: row for row in rows if row["asked"].bare and row["mtime_ns"] is not None}
        if not (names and bare):
            return
        for batch in self.index.table.scan(["id", *names], where=among("id", sorted(bare))):
            for told in batch.to_pylist():
                row = bare[told.pop("id")]
                row.update({ATTRIBUTE + name: value for name, value in told.items()})

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
            for batch in self.index.table.scan(["content", *names], where=among("id", sorted(ids))):
                found.update({row.pop("content"): row for row in batch.to_pylist()})
        return found

    def _reuse_one(self, record: Record, values: Mapping[str, Any]) -> None:
        here = self.known.at(place(record))
        if here is not None and self.known.contents[here] == record.content:
            self.known.seen[here] = 1
            # Only its time, or what else is known of it, changed.
            self._row(record, values, self.known.ids[here], "unchanged")
            return
        free = None if record.named else self._free(record)
        if free is None:
            copies = ("copies",) if here is None else ()
            self._row(record, values, *self._place(record), *copies)
            return
        self.known.seen[free] = 1
        self.stale.discard(free)
        # A row of a table has no place but its content.
        self._row(record, values, self.known.ids[free], "moved" if place(record) else "unchanged")

    def _free(self, record: Record) -> int | None:
        """A row of the same content that nothing holds any more, and that nothing has taken over yet.

        A file takes over the row of a file, a row of a table that of a row of a table: each leaves the other's alone.
        """
        placed = bool(place(record))
        for row in self.known.rows_of(record.content):
            if self.known.is_named(row) or self.known.is_placed(row) != placed:
                continue
            if row in self.stale or (not self.known.seen[row] and (not placed or self._is_gone(row))):
                return row
        return None

    def _is_gone(self, row: int) -> bool:
        """Whether the file of a row is certainly gone; of what lies at an address or in a tar nobody has looked."""
        path = from_uri(self.known.uris[row])
        if self.known.stamps[row][0] is None and not os.path.isdir(os.path.dirname(path)):
            return False
        return is_gone(path)

    def _finish(self) -> None:
        """Everything has been committed: fill in what other models lack, tidy up, and list what failed."""
        if len(self.index.manifest.models) > 1:
            self.publish()
            filling = Filling(
                self.index,
                self.report,
                self.executor,
                progress=self.progress,
                on_error=self.on_error,
                roots=self.roots,
            )
            filling.run()
            self._forget(self.passed & filling.left)
        finish(self.index, self.report, self.roots, embedded=self._embedded(), upkeep=self.upkeep)

    def _forget(self, ids: Iterable[str]) -> None:
        """Records of this run that no model could embed leave the index again."""
        norms = tuple(IsNull(column.norm) for column in self.index.columns)
        wanted = sorted(ids)
        for start in range(0, len(wanted), MOST_WAITING):
            bare = And((among("id", wanted[start : start + MOST_WAITING]), *norms))
            found = [
                id_ for batch in self.index.table.scan(["id"], where=bare) for id_ in batch["id"].to_pylist()
            ]
            if found:
                self.index.table.delete(found)
                self._count("added", -min(self.report.added, len(found)))

    def publish(self) -> None:
        """Show readers what has been committed."""
        roots = {*self.index.manifest.roots, *self.roots}
        self.index.publish(
            failed=len(self.report.failed), roots=tuple(sorted(roots)), embedded=self._embedded()
        )

    def _embedded(self) -> list[str]:
        """Spaces of the models whose vectors this run has written."""
        wrote = self.report.added + self.report.changed > self.report.copies
        return [embed.recipe.space for embed in self.embeds] if wrote else []

    def _refuse(self, failure: Failure) -> None:
        """A record that was embedded, and cannot be kept."""
        if self.refused:
            self.refused(failure)
        self.report.failed.append(fault(failure))

    def _advance(self) -> None:
        if self.progress:
            self.progress.advance(1)


class _Asked(NamedTuple):
    """What a row was made for: the record's id, its place, whether it says nothing of itself, how it was counted."""

    id: str
    place: str
    bare: bool
    counts: tuple[str, ...]


# Columns that belong to the record rather than to its bytes: a moved file has its own.
_OWN = frozenset({"id", "uri", "content", "size", "mtime_ns", "name", "folder", "indexed_at", "text"})
