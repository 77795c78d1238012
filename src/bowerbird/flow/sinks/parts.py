"""Rows into files, a bounded part of them in memory, whatever types turn up late.

Rows are buffered and written in groups. When a group does not fit the columns that a file was begun with, that
file is closed and another begun with wider ones; at the end, files whose columns became too narrow are written
anew, group by group. So nothing depends on what the first rows happen to look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bowerbird.flow.sinks.widening import MisfitError, as_text, fit, unify

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 32 << 20
"""So much is held in memory, as Arrow has it, and written as one row group."""


class Writer(Protocol):
    """A file that is being written."""

    def write(self, table: pa.Table) -> None:
        """Add rows, as one group."""

    def close(self) -> None:
        """Complete the file."""


class TableFormat(Protocol):
    """A kind of file that holds tables."""

    def create(self, path: Path, schema: pa.Schema) -> Writer:
        """Begin a file."""

    def read(self, path: Path) -> Iterator[pa.Table]:
        """The rows of a complete file, some at a time."""


@dataclass
class _Part:
    """One file of the output; more than one while its columns differ.

    Attributes:
        pieces: files with their columns, in order.
        schema: what all of them fit into.
    """

    schema: pa.Schema
    pieces: list[tuple[Path, pa.Schema]] = field(default_factory=list)


class TableParts:
    """Writes tables into the files of a folder, all with the same columns in the end.

    Args:
        folder: for files under way; it exists.
        format: of the files.
        group_bytes: so many bytes are buffered and written at a time.
    """

    def __init__(self, folder: Path, format: TableFormat, group_bytes: int = GROUP_BYTES) -> None:
        self._folder = folder
        self._format = format
        self._group_bytes = group_bytes
        self._buffer: list[pa.Table] = []
        self._buffered = 0
        self._parts: list[_Part] = []
        self._writer: Writer | None = None
        self._files = 0
        self._schema: pa.Schema | None = None
        self.written = 0
        """Bytes of the part under way, as Arrow has them."""

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        if table.num_rows:
            self._buffer.append(table)
            self._buffered += table.nbytes
            if self._buffered >= self._group_bytes:
                self._flush()

    def roll(self) -> None:
        """What comes next goes into another part."""
        self._flush()
        self._close()
        self.written = 0
        self._parts.append(_Part(self._known()))

    def finish(self, place: Callable[[int, int], Path]) -> None:
        """Complete all parts and move them.

        Args:
            place: number of a part, and how many there are -> where it goes.
        """
        self._flush()
        self._close()
        # A part without rows is kept only when it is the only one: it has the columns at least.
        parts = [part for part in self._parts if part.pieces] or [_Part(self._known())]
        schema = self._known()
        while True:
            try:
                for part in parts:
                    self._bring(part, schema)
                break
            except MisfitError as misfit:
                schema = as_text(schema, misfit.column)
        for number, part in enumerate(parts):
            part.pieces[0][0].replace(place(number, len(parts)))

    def abort(self) -> None:
        """Close the file under way, as it is."""
        self._buffer.clear()
        # What is still to be written may be what there was no room for.
        with suppress(OSError):
            self._close()

    def _known(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([]) if self._schema is None else self._schema

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._buffer:
            return
        schema = self._known()
        for table in self._buffer:
            schema = unify(schema, table.schema)
        while True:
            try:
                group = pa.concat_tables([fit(table, schema) for table in self._buffer]).combine_chunks()
                break
            except MisfitError as misfit:
                schema = as_text(schema, misfit.column)
        self._schema = schema
        self._buffer.clear()
        self._buffered = 0
        if not self._parts:
            self._parts.append(_Part(schema))
        part = self._parts[-1]
        if self._writer is None or not part.pieces[-1][1].equals(schema):
            self._close()
            self._begin(part, schema)
        assert self._writer is not None
        self._writer.write(group)
        self.written += group.nbytes

    def _begin(self, part: _Part, schema: pa.Schema) -> None:
        path = self._folder / f"piece-{self._files}"
        self._files += 1
        self._writer = self._format.create(path, schema)
        part.pieces.append((path, schema))

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _bring(self, part: _Part, schema: pa.Schema) -> None:
        """Make a part one file with the columns of `schema`.

        Raises:
            MisfitError: a column of it does not fit.
        """
        if len(part.pieces) == 1 and part.pieces[0][1].equals(schema):
            return
        old, part.pieces = part.pieces, []
        self._begin(part, schema)
        try:
            for path, _ in old:
                for table in self._format.read(path):
                    assert self._writer is not None
                    self._writer.write(fit(table, schema))
        except MisfitError:
            part.pieces = old
            raise
        finally:
            self._close()
