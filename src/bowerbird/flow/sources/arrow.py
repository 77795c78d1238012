"""Arrow tables, in memory and in files: a record for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import base_name, folder_of, located, shown
from bowerbird.flow.sources.columnar import BATCH_ROWS, Layout, first_places, records
from bowerbird.flow.sources.rows import Columns
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 4096
"""Rows in a part of a table in memory."""


@dataclass(frozen=True)
class ArrowSource(Source):
    """An Arrow table, a reader of record batches, or an `.arrow` or `.feather` file; a record for each row.

    Columns become parts of records as with `ParquetSource`. Ids of rows are `table:17`, of files `photos.arrow:17`,
    rows counting from 1. A file that is damaged in the middle gives its first rows, then one `Failure`.

    Attributes:
        data: a `pyarrow.Table`; a `pyarrow.RecordBatchReader`, which can be gone through once; a local path to a
            file in Arrow's IPC format, of either kind (Feather version 2 is one of them); or anything that gives its
            rows by Arrow's C stream interface, as data frames of pandas and polars do. The index of a pandas frame
            is left out, unless it has a name.
        image: column of the picture.
        text: column of the text, or several.
        id: column of the id; those of a reader are all kept in memory, to find the ones that stand twice.
        root: folder or address that relative pictures are below; empty: the one the file is in, or the working one.

    Raises:
        BowerbirdError: `data` is something else.
    """

    data: Any
    image: str = ""
    text: str | Sequence[str] = ""
    id: str = ""
    root: str | Path = ""
    _used: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    label = "from_arrow"

    def __post_init__(self) -> None:
        root = located(self.root) if self.root else ""
        if isinstance(self.data, (str, Path)):
            place = located(self.data)
            object.__setattr__(self, "data", place)
            root = root or folder_of(place)
        elif not self._is_table() and not hasattr(self.data, "read_next_batch"):
            object.__setattr__(self, "data", _table(self.data))
        object.__setattr__(self, "root", root or located("."))

    def _is_table(self) -> bool:
        return hasattr(self.data, "to_batches") and hasattr(self.data, "num_rows")

    @property
    def _name(self) -> str:
        return base_name(self.data) if isinstance(self.data, str) else "table"

    def describe(self) -> str:
        """See `Source`."""
        return f"rows of {shown(self.data)}" if isinstance(self.data, str) else "rows of an Arrow table"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: the file cannot be read, a column that was named is not there, or a reader is gone
                through for the second time.
        """
        columns = Columns.of(self.image, self.text, self.id, str(self.root))
        with ExitStack() as stack:
            schema, batches = self._open(stack)
            part = _Rows(Layout.of(schema, columns, self._name), self._name, repeats=self._repeats(columns))
            yield from part.of(batches)

    def parts(self) -> Sequence[Source]:
        """Slices of a table; a file or a reader is one part."""
        if not self._is_table():
            return (self,)
        columns = Columns.of(self.image, self.text, self.id, str(self.root))
        rows = _Rows(
            Layout.of(self.data.schema, columns, self._name), self._name, repeats=self._repeats(columns)
        )
        starts = range(0, self.data.num_rows, PART_ROWS)
        return [_Slice(self.data.slice(start, PART_ROWS), replace(rows, before=start)) for start in starts]

    def count(self) -> int | None:
        """See `Source`."""
        return int(self.data.num_rows) if self._is_table() else None

    def _open(self, stack: ExitStack) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        if isinstance(self.data, str):
            reader = _reader(self.data, stack)
            return reader.schema, _from_file(reader, self.data)
        if self._is_table():
            return self.data.schema, iter(self.data.to_batches())
        if self._used:
            raise BowerbirdError(
                "This RecordBatchReader has been gone through already, and cannot be a second time.",
                hint="Give the table itself (reader.read_all()), or a file.",
            )
        self._used.append(True)
        return self.data.schema, iter(self.data)

    def _repeats(self, columns: Columns) -> Mapping[str, str] | None:
        """Where repeated ids stand first; None: to be found on the way."""
        if not columns.id:
            return {}
        if not isinstance(self.data, str) and not self._is_table():
            return None
        with ExitStack() as stack:
            schema, _ = self._open(stack)
            columns.check(schema.names, self._name)
        return first_places(_Ids(self), columns)


@dataclass(frozen=True)
class _Ids:
    """The column of ids, piece by piece."""

    source: ArrowSource

    def __iter__(self) -> Iterator[tuple[str, int, pa.Array]]:
        first = 1
        with ExitStack() as stack:
            for batch in self.source._open(stack)[1]:
                if isinstance(batch, UnreadableError):
                    return
                yield self.source._name, first, batch.column(self.source.id)
                first += batch.num_rows


@dataclass(frozen=True)
class _Rows:
    """Turns batches into records.

    Attributes:
        before: rows of the table before the first batch.
        repeats: where each id that stands more than once stands first; None: to be found on the way.
    """

    layout: Layout
    name: str
    before: int = 0
    repeats: Mapping[str, str] | None = None

    def of(self, batches: Iterator[pa.RecordBatch | UnreadableError]) -> Iterator[Record | Failure]:
        first, seen = self.before + 1, dict[str, str]()
        for batch in batches:
            if isinstance(batch, UnreadableError):
                yield Failure(f"{self.name}:{first}", ArrowSource.label, batch)
                return
            for start in range(0, batch.num_rows, BATCH_ROWS):
                rows = batch.slice(start, BATCH_ROWS)
                repeats = self.repeats
                if repeats is None:
                    repeats = self._met(rows, first, seen)
                yield from records(rows, self.layout, self.name, first, repeats, ArrowSource.label)
                first += rows.num_rows

    def _met(self, rows: pa.RecordBatch, first: int, seen: dict[str, str]) -> Mapping[str, str]:
        ids = rows.column(self.layout.columns.id).to_pylist()
        for number, value in enumerate(ids, start=first):
            seen.setdefault(str(value), f"{self.name}:{number}")
        return seen


@dataclass(frozen=True)
class _Slice(Source):
    """Some rows of a table."""

    table: pa.Table
    rows: _Rows

    def describe(self) -> str:
        return f"{self.table.num_rows:,} rows of an Arrow table"

    def __iter__(self) -> Iterator[Record | Failure]:
        yield from self.rows.of(iter(self.table.to_batches()))

    def count(self) -> int | None:
        return int(self.table.num_rows)

    def __reduce__(self) -> tuple[object, ...]:
        # A slice pickles with all rows of its table; written as a stream, it has its own.
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return (_slice, (sink.getvalue().to_pybytes(), self.rows))


def _table(data: Any) -> pa.Table:
    """The rows of a data frame, or of whatever else speaks Arrow's C interface.

    Raises:
        BowerbirdError: it does not.
    """
    import pyarrow as pa

    if not any(hasattr(data, f"__arrow_c_{kind}__") for kind in ("stream", "array")):
        raise BowerbirdError(
            f"{type(data).__name__} is not an Arrow table.",
            hint="Give a pyarrow.Table, a RecordBatchReader, a data frame, or the path of an .arrow or .feather file.",
        )
    try:
        table = pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BowerbirdError(
            f"This {type(data).__name__} cannot become an Arrow table: {one_line(error, 200)}.",
            hint="Give each column values of one type.",
        ) from error
    return table.drop_columns([name for name in table.column_names if name.startswith("__index_level_")])


def _slice(stream: bytes, rows: _Rows) -> _Slice:
    import pyarrow as pa

    return _Slice(pa.ipc.open_stream(stream).read_all(), rows)


def _reader(path: str, stack: ExitStack) -> Any:
    """A reader of a file in either kind of Arrow's IPC format: the one with an index at its end, or a stream.

    Raises:
        UnreadableError: it is missing, or of another format.
    """
    import pyarrow as pa

    try:
        mapped = stack.enter_context(pa.memory_map(path))
        magic = mapped.read(6)
        mapped.seek(0)
        opener = pa.ipc.open_file if magic == b"ARROW1" else pa.ipc.open_stream
        return stack.enter_context(opener(mapped))
    except FileNotFoundError:
        raise UnreadableError(f"{shown(path)} does not exist.", hint="Check the spelling.") from None
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(
            f"{shown(path)} is not an Arrow file, or damaged: {one_line(error, 200)}.",
            hint="Arrow's IPC format is read, files and streams; Feather version 1 is not.",
        ) from None


def _from_file(reader: Any, path: str) -> Iterator[pa.RecordBatch | UnreadableError]:
    """The batches of a file; when one cannot be read, its error in the place of all that is left."""
    import pyarrow as pa

    try:
        if hasattr(reader, "num_record_batches"):
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
        else:
            yield from reader
    except (pa.ArrowException, OSError) as error:
        yield UnreadableError(
            f"{shown(path)} is damaged from here on: {one_line(error, 200)}.",
            hint="What came before it was read. Copy or write the file again.",
        )
