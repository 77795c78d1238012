"""Files become rows of an index: only what is new or changed is embedded.

The way of a file: walk -> compare with the index -> (threads, a batch each) read, hash, decode, thumbnail, resize,
run the network -> rows -> a commit every few seconds. What runs ahead is bounded, so memory stays flat however
many files there are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, UnreadableError
from bowerbird.flow.files import (
    FoundFile,
    Unreachable,
    expand,
    from_uri,
    is_gone,
    printable,
    scope,
    to_uri,
    walk,
)
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.media.image import Picture, decode, read_bytes
from bowerbird.media.reading import one_line
from bowerbird.models.encoder import IMAGE_BATCH, unit_outcome
from bowerbird.record import content_id
from bowerbird.search.known import Known
from bowerbird.settings import settings
from bowerbird.store.table import schema

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.search.index import Index

AHEAD = 2
"""Batches for each thread that are finished or under way at the most, ahead of the rows being written."""

COMMIT_BYTES = 64 << 20
"""Rows are committed earlier when they hold this much, whatever the clock says."""

MOST_WAITING = 500
"""So many files whose bytes are known already are held back at the most, vectors and thumbnails included."""


class Progress(Protocol):
    """Told how a run goes. Calls come from one thread."""

    def start(self, total: int) -> None:
        """`total` files were found."""

    def advance(self, count: int) -> None:
        """`count` more files are done with, whatever became of them."""


class Failure(NamedTuple):
    """A file or folder that could not be indexed: one line says why, and one what to do about it."""

    path: str
    reason: str
    hint: str


@dataclass
class Report:
    """What a run did. All counts are files.

    Attributes:
        added: new in the index.
        changed: embedded again, since their bytes changed.
        moved: kept their vectors under a new path.
        unchanged: left alone.
        removed: left the index, since their files are gone.
        missing: kept although their files are gone.
        failed: one for each file or folder that could not be indexed.
        copies: how many of the added are exact copies of another picture.
        seconds: wall time.
        interrupted: whether Ctrl-C ended the run early.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    removed: int = 0
    missing: int = 0
    copies: int = 0
    failed: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class _Prepared:
    """A file on its way through the threads.

    Attributes:
        file: as it was found.
        content: content id of its bytes, once read.
        pixels: the network's input, before its batch is run.
        values: attributes, thumbnail and then vectors, by column.
        known: whether its bytes need no run, since a record or another file of the batch has them.
        error: why there is nothing of this.
    """

    file: FoundFile
    content: str = ""
    pixels: NDArray[np.uint8] | None = None
    values: dict[str, Any] = field(default_factory=dict)
    known: bool = False
    error: InputError | None = None


class Ingest:
    """One run over some sources. The index is locked by the caller."""

    def __init__(
        self, index: Index, sources: Sequence[str | Path], *, keep_missing: bool, progress: Progress | None
    ) -> None:
        self.index = index
        self.keep_missing = keep_missing
        self.progress = progress
        self.report = Report()
        self.roots = [root for source in sources for root in expand(source)]
        self.scope = [scope(source) for source in sources]
        self.side = index.model.image
        self.columns = index.columns
        self.known = Known(index.table)
        self.rows: list[dict[str, Any]] = []
        self.row_bytes = 0
        self.stale: set[int] = set()  # rows of `known` whose files now hold other bytes
        self.pending: set[str] = set()  # contents on their way through the network to the table
        self.waiting: list[_Prepared] = []
        self.committed = time.monotonic()
        self.commit_seconds = settings().commit_seconds  # once, not for every file: it parses the environment

    def run(self) -> Report:
        """Do everything; returns what was done."""
        started = time.monotonic()
        total = sum(isinstance(entry, FoundFile) for entry in walk(self.roots))
        if not total:
            raise no_pictures(self.roots, kept=sum(map(self._is_below, self.known.uris)))
        if self.progress:
            self.progress.start(total)
        threads = self.index.model.threads
        batches = chunks(self._to_read(), IMAGE_BATCH)
        prepared = ordered_map(self._prepare, batches, threads=threads, ahead=AHEAD * threads)
        try:
            for batch in prepared:
                for item in batch:
                    self._take(item)
            self._finish()
        except KeyboardInterrupt:
            self.report.interrupted = True
            prepared.close()  # type: ignore[attr-defined]
            self._commit()
        self.report.seconds = time.monotonic() - started
        return self.report

    def _to_read(self) -> Iterator[FoundFile]:
        """Files that are new, or look changed by size or time. The others are dealt with here."""
        for entry in walk(self.roots):
            if isinstance(entry, Unreachable):
                self._fail(entry.path, entry.error)
                continue
            row = self.known.by_uri.get(to_uri(entry.path))
            if row is not None:
                self.known.seen[row] = 1
                if self.known.stamps[row] == (entry.size, entry.mtime_ns):
                    self.report.unchanged += 1
                    self._advance()
                    continue
            yield entry

    def _prepare(self, files: Sequence[FoundFile]) -> list[_Prepared]:
        """Runs in threads, a batch at a time: everything from reading to the vectors."""
        items: list[_Prepared] = []
        for file in files:
            item = self._read(file)
            twin = any(item.content == other.content for other in items if other.pixels is not None)
            items.append(replace(item, pixels=None, known=True) if item.content and twin else item)
        fresh = [item.pixels for item in items if item.pixels is not None]
        if not fresh:
            return items
        arrays = self.side.run(fresh, [column.output for column in self.columns])
        rows = zip(*arrays, strict=True)
        return [self._embedded(item, next(rows)) if item.pixels is not None else item for item in items]

    def _read(self, file: FoundFile) -> _Prepared:
        try:
            data = read_bytes(Path(file.path), self.side.decode)
            content = content_id(data)
            if content in self.known.by_content:
                return _Prepared(file, content, known=True)
            target = self.side.tower.steps.target
            picture = decode(data, self.side.decode, name=printable(file.path), target=target)
            return _Prepared(file, content, self.side.pixels(picture), _attributes(picture))
        except InputError as error:
            return _Prepared(file, error=error)

    def _embedded(self, item: _Prepared, raw: Sequence[NDArray[np.float32]]) -> _Prepared:
        """The item with its vectors in place of its pixels."""
        values = dict(item.values)
        for column, vector in zip(self.columns, raw, strict=True):
            outcome = unit_outcome(0, vector)
            if outcome.error:
                return _Prepared(item.file, item.content, error=outcome.error)
            values[column.name], values[column.norm] = outcome.vector, outcome.norm
        return replace(item, pixels=None, values=values)

    def _take(self, item: _Prepared) -> None:
        if item.known and not self._is_held(item.content):
            # The record that held these bytes has left the table since, or its twin failed.
            (item,) = self._prepare([item.file])
        if item.error:
            self._fail(item.file.path, item.error)
            self._advance()
        elif item.known or self._is_held(item.content):
            self.waiting.append(item)  # The bytes are known: at the next commit it is given their vectors.
        else:
            self.pending.add(item.content)
            self._give_up(item)
            self._row(item, item.values, self._place(item))
            self._advance()
        late = time.monotonic() - self.committed > self.commit_seconds
        if late or self.row_bytes > COMMIT_BYTES or len(self.waiting) >= MOST_WAITING:
            self._commit()

    def _is_held(self, content: str) -> bool:
        return content in self.known.by_content or content in self.pending

    def _place(self, item: _Prepared) -> str:
        """The id of the row for a file whose bytes are new at its path, and the counting of it."""
        if to_uri(item.file.path) in self.known.by_uri:
            self.report.changed += 1
        else:
            self.report.added += 1
        return self.known.new_id(item.content)

    def _give_up(self, item: _Prepared) -> None:
        """What the file held before leaves the index, unless another file turns out to hold it now."""
        here = self.known.by_uri.get(to_uri(item.file.path))
        if here is not None and self.known.contents[here] != item.content:
            self.stale.add(here)

    def _row(self, item: _Prepared, values: dict[str, Any], id_: str) -> None:
        path = item.file.path
        row = {
            **values,
            "id": id_,
            "uri": to_uri(path),
            "content": item.content,
            "size": item.file.size,
            "mtime_ns": item.file.mtime_ns,
            "name": printable(os.path.basename(path)),
            "folder": printable(os.path.dirname(path)),
            "indexed_at": datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0),
        }
        self.rows.append(row)
        self.row_bytes += len(values["thumbnail"] or b"") + sum(4 * c.dimensions for c in self.columns)

    def _commit(self) -> None:
        """Write everything taken so far, and publish it to readers."""
        self.committed = time.monotonic()
        self._reuse()  # While the records that are about to leave are still in the table.
        if self.rows or self.stale:
            remove = [self.known.ids[row] for row in sorted(self.stale)]
            self.index.table.upsert(self._arrow(), remove=remove)
            for old in self.stale:
                self.known.drop(old)
            for row in self.rows:
                self.known.add(row["id"], row["uri"], row["content"], (row["size"], row["mtime_ns"]))
            self.known.seen.extend(b"\1" * len(self.rows))
            self.rows, self.stale, self.row_bytes = [], set(), 0
            self.pending.clear()
            self._publish()

    def _reuse(self) -> None:
        """Files whose bytes are in the table, or about to be: moved, touched, or copies. They take the vectors."""
        waiting, self.waiting = self.waiting, []
        found = self._values({item.content for item in waiting})
        for item in waiting:
            if item.content in found:
                self._give_up(item)
        for item in waiting:
            if item.content in found:
                self._reuse_one(item, found[item.content])
            elif item.content not in self.pending:
                copied = InputError("An exact copy of this picture failed.", hint="See there.")
                self._fail(item.file.path, copied)
            self._advance()

    def _values(self, contents: set[str]) -> dict[str, dict[str, Any]]:
        """Vectors, attributes and thumbnail by content, for what the table holds or is about to."""
        found = {row["content"]: row for row in self.rows if row["content"] in contents}
        ids = [self.known.ids[self.known.by_content[c]] for c in contents if c in self.known.by_content]
        if ids:
            names = [name for name in schema(self.columns).names if name not in _OWN]
            quoted = ", ".join(f"'{id_}'" for id_ in sorted(ids))
            for batch in self.index.table.scan(["content", *names], where=f"id IN ({quoted})"):
                found.update({row.pop("content"): row for row in batch.to_pylist()})
        return found

    def _reuse_one(self, item: _Prepared, values: dict[str, Any]) -> None:
        here = self.known.by_uri.get(to_uri(item.file.path))
        if here is not None and self.known.contents[here] == item.content:
            self.report.unchanged += 1  # Only its time changed: remember the new one.
            self._row(item, values, self.known.ids[here])
            return
        free = self._free(item.content)
        if free is None:
            self.report.copies += here is None
            self._row(item, values, self._place(item))
            return
        self.report.moved += 1
        self.known.seen[free] = 1
        self.stale.discard(free)
        self._row(item, values, self.known.ids[free])

    def _free(self, content: str) -> int | None:
        """A row of this content that no file holds any more, and that no file has taken over yet."""
        for row in self.known.rows_of(content):
            if row in self.stale or (not self.known.seen[row] and is_gone(from_uri(self.known.uris[row]))):
                return row
        return None

    def _finish(self) -> None:
        self._commit()
        self._forget_missing()
        # Before the tidying too: it may delete the version that the last manifest, if old, sends readers to.
        self._publish()
        self.index.table.optimize(self.columns)
        self._publish()

    def _forget_missing(self) -> None:
        gone = [
            row
            for row, seen in enumerate(self.known.seen)
            if not seen and self._is_below(self.known.uris[row]) and is_gone(from_uri(self.known.uris[row]))
        ]
        if self.keep_missing:
            self.report.missing = len(gone)
        elif gone:
            self.report.removed = self.index.table.delete([self.known.ids[row] for row in gone])

    def _is_below(self, uri: str) -> bool:
        path = Path(from_uri(uri))
        return any(base == path or base in path.parents for base in self.scope)

    def _publish(self) -> None:
        roots = {*self.index.manifest.roots, *(str(root) for root in self.roots if root.is_dir())}
        shown = tuple(sorted(map(printable, roots)))
        embedded = self.report.added + self.report.changed > self.report.copies
        self.index.publish(failed=len(self.report.failed), roots=shown, embedded=embedded)

    def _fail(self, path: str, error: InputError) -> None:
        shown, said = one_line(printable(path)), error.message
        named = shown in said or one_line(path) in said
        self.report.failed.append(Failure(printable(path), said if named else f"{shown}: {said}", error.hint))

    def _advance(self) -> None:
        if self.progress:
            self.progress.advance(1)

    def _arrow(self) -> pa.Table:
        import pyarrow as pa

        fields = schema(self.columns)
        vectors = {column.name: column.dimensions for column in self.columns}
        arrays = []
        for entry in fields:
            values = [row.get(entry.name) for row in self.rows]
            if entry.name in vectors:
                flat = np.asarray(values, np.float32).reshape(-1)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors[entry.name]))
            else:
                arrays.append(pa.array(values, entry.type))
        return pa.Table.from_arrays(arrays, schema=fields)


def no_pictures(roots: Sequence[Path], kept: int = 0) -> UnreadableError:
    """An empty folder is refused: it is more often a disk that is not connected than a wish to forget."""
    for entry in walk(roots):
        if isinstance(entry, Unreachable):
            return UnreadableError(entry.error.message, hint=entry.error.hint)
    names = ", ".join(printable(str(root)) for root in roots[:3])
    held = f" The {kept} records indexed from there before are kept." if kept else ""
    return UnreadableError(
        f"No pictures were found in {names}.{held}",
        hint="Check the folder, or whether its disk is connected.",
    )


# Columns that belong to the file rather than to the picture: a moved file has its own.
_OWN = frozenset({"id", "uri", "content", "size", "mtime_ns", "name", "folder", "indexed_at"})


def _attributes(picture: Picture) -> dict[str, Any]:
    return {
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "taken_at": picture.taken_at,
        "thumbnail": picture.thumbnail(),
    }
