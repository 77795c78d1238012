"""Plain Lance datasets: what a collection writes to one, and the records of any.

An index is a Lance dataset too, with a manifest beside it; see `bowerbird.store.lance`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, QueryError, UnreadableError
from bowerbird.flow.plan import Chunk, Plan, Source
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.arrow import to_arrow
from bowerbird.flow.sinks.errors import ErrorsFile
from bowerbird.flow.sinks.parquet import beside, is_decoded, note_decoded
from bowerbird.flow.sinks.parts import GROUP_BYTES, TableParts, Writer
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sinks.unfinished import Unfinished, writing
from bowerbird.flow.sources.columnar import BATCH_ROWS, Layout, first_places, records
from bowerbird.flow.sources.rows import Columns
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record
from bowerbird.store.lance import lance_library, storage_options
from bowerbird.store.lance_errors import PLACE_IN_LANCE

if TYPE_CHECKING:
    import pyarrow as pa

_DATASET = ("data", "_versions", "_transactions", "_indices", "_deletions", "_refs")
"""What the folder of a Lance dataset may hold."""

_ASKED_WRONGLY = ("Invalid user input", "Schema error", "syntax", "Syntax")
"""Signs of a filter that cannot be used: Lance has no type of error for that."""


class LanceSink(Sink):
    """Writes rows into a Lance dataset of one version; the columns are those of `bowerbird.flow.sinks.arrow`.

    Lance takes no dots in names: they are written as `%2E`, in filters too, and read back as they were.

    Rows stand in the order of the elements; failures go to the errors file.

    Args:
        path: a folder, such as `photos.lance`; it must not exist, or be empty.
        errors: the errors file; None: beside the dataset, `NAME.errors.jsonl`.
        overwrite: whether a dataset that is there already may be replaced.
        group_bytes: about so much is in memory at a time, and written as one fragment.

    Raises:
        BowerbirdError: something is there already.
    """

    def __init__(
        self,
        path: Path,
        *,
        errors: Path | None = None,
        overwrite: bool = False,
        group_bytes: int = GROUP_BYTES,
    ) -> None:
        self._place = Unfinished(Path(path), overwrite=overwrite, holds=_DATASET)
        self._errors = ErrorsFile(errors or beside(Path(path)))
        self._group_bytes = group_bytes
        self._parts: TableParts | None = None
        self._pictures = 0

    def adapt(self, plan: Plan) -> Plan:
        """See `Sink`."""
        self._errors.follow(plan)
        return plan

    def write(self, chunk: Chunk) -> None:
        """See `Sink`."""
        parts = self._begun()
        items = self._errors.take_from(chunk)
        self._pictures += sum(map(is_decoded, items))
        with writing(self._place.target):
            parts.add(to_arrow(items))

    def finish(self, report: RunReport) -> None:
        """See `Sink`."""
        parts = self._begun()
        with writing(self._place.target):
            parts.finish(lambda *_: self._place.output)
        self._errors.finish(report)
        self._place.complete()
        note_decoded(report, self._pictures)

    def abort(self) -> None:
        """See `Sink`."""
        if self._parts is not None:
            self._parts.abort()
        self._errors.close()
        self._place.discard()

    def _begun(self) -> TableParts:
        if self._parts is None:
            self._place.begin()
            self._parts = TableParts(self._place.folder, LanceFormat(), self._group_bytes)
        return self._parts


@dataclass(frozen=True)
class LanceFormat:
    """Lance datasets as files of tables."""

    def create(self, path: Path, schema: pa.Schema) -> Writer:
        """See `TableFormat`."""
        return _LanceWriter(path, schema)

    def read(self, path: Path) -> Iterator[pa.Table]:
        """See `TableFormat`."""
        import pyarrow as pa

        for batch in lance_library().dataset(str(path)).scanner(scan_in_order=True).to_batches():
            yield pa.Table.from_batches([_as_named(batch)])


def _column(name: str) -> str:
    """A name as Lance takes it, which reads a dot as a field within a field: `image%2Efeatures`."""
    return name.replace("%", "%25").replace(".", "%2E")


def _as_named(batch: Any) -> Any:
    """A batch or a table with its columns named as they were before `_column`."""
    return batch.rename_columns([name.replace("%2E", ".").replace("%25", "%") for name in batch.schema.names])


class _LanceWriter:
    """Writes fragments, and makes them a dataset at the end: before that, there is nothing that can be opened."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._path = path
        # A dataset needs a column.
        columns = schema if len(schema) else to_arrow([{"value": None}]).schema
        self._schema = pa.schema([field.with_name(_column(field.name)) for field in columns])
        self._fragments: list[Any] = []

    def write(self, table: pa.Table) -> None:
        lance_library()
        from lance.fragment import write_fragments

        table = table.rename_columns(self._schema.names) if table.num_columns else table
        self._fragments += write_fragments(table, str(self._path), schema=self._schema, mode="create")

    def close(self) -> None:
        lance = lance_library()
        if self._fragments:
            made = lance.LanceOperation.Overwrite(self._schema, self._fragments)
            lance.LanceDataset.commit(str(self._path), made)
        else:
            lance.write_dataset(self._schema.empty_table(), str(self._path))


@dataclass(frozen=True)
class LanceSource(Source):
    """A Lance dataset: a record for each row.

    Columns `vector:NAME` (lists of floats) and `norm:NAME` become vectors and their lengths. In datasets that
    Bowerbird wrote, `id`, `image`, `texts` and `content` become these parts again. Ids of rows without one are
    `photos.lance:17`, counting the rows that pass the filter from 1. A part reads the version that was the newest
    when the parts were made. A fragment that is damaged gives its first rows, then one `Failure`.

    Attributes:
        path: the dataset; a folder, or an address that Lance opens.
        where: a filter in SQL; empty: all rows.
        columns: to read; empty: all. Those that are named below are read in any case.
        image: column of the picture; relative paths are below the folder the dataset is in.
        text: column of the text, or several.
        id: column of the id.
    """

    path: str | Path
    where: str = ""
    columns: Sequence[str] = ()
    image: str = ""
    text: str | Sequence[str] = ""
    id: str = ""

    label = "from_lance"

    def __post_init__(self) -> None:
        text = os.fspath(self.path)
        remote = "://" in text
        object.__setattr__(self, "path", text if remote else os.path.abspath(os.path.expanduser(text)))

    def describe(self) -> str:
        """See `Source`."""
        return f"rows of {self.path}" + (f" where {self.where}" if self.where else "")

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: nothing is there, or a column that was named is not.
            QueryError: the filter cannot be understood.
        """
        for part in self.parts():
            yield from part

    def parts(self) -> Sequence[Source]:
        """One for each fragment."""
        with self._opened() as dataset:
            names = self._names(dataset.schema.names)
            columns = Columns.of(self.image, self.text, self.id, os.path.dirname(str(self.path)))
            # Checks the named columns before anything is read.
            Layout.of(_as_named(dataset.schema.empty_table()).schema, columns, str(self.path))
            repeats = first_places(_Ids(self, dataset), columns) if self.id else {}
            whole = _Fragment(self, columns, names, int(dataset.version), repeats=repeats)
            parts, before = [], 0
            for fragment in dataset.get_fragments():
                parts.append(replace(whole, fragment=fragment.fragment_id, before=before))
                before += fragment.count_rows(self.where or None)
            return parts

    def count(self) -> int | None:
        """See `Source`."""
        with self._opened() as dataset:
            return int(dataset.count_rows(filter=self.where or None))

    def _names(self, have: Sequence[str]) -> tuple[str, ...]:
        if not self.columns:
            return tuple(have)
        wanted = [_column(name) for name in self.columns]
        missing = [name for name in wanted if name not in have]
        if missing:
            raise BowerbirdError(
                f"{self.path} has no column {missing[0]!r}; its columns: {', '.join(have)}.",
                hint="Name the columns as the dataset does.",
            )
        named = Columns.of(self.image, self.text, self.id, "").used
        # Of our own datasets, what makes them records is always read.
        parts = named or {"id", "image", "image_bytes", "texts", "content"}
        return tuple(name for name in have if name in {*wanted, *map(_column, parts)})

    @contextmanager
    def _opened(self, version: int | None = None) -> Iterator[Any]:
        lance = lance_library()
        try:
            place = str(self.path)
            yield lance.dataset(place, version=version, storage_options=storage_options(place))
        except BowerbirdError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            if "was not found" in str(error):
                raise UnreadableError(
                    f"There is no Lance dataset at {self.path}.", hint="Check the spelling."
                ) from error
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> QueryError | UnreadableError:
        reason = one_line(PLACE_IN_LANCE.sub("", str(error)), 300).rstrip(". ")
        if self.where and any(sign in reason for sign in _ASKED_WRONGLY):
            return QueryError(
                f"The filter {self.where!r} cannot be used: {reason}.",
                hint="Write it like \"width > 1000 and format = 'JPEG'\"; names with other signs stand in backticks.",
            )
        return UnreadableError(
            f"{self.path} cannot be read: {reason}.", hint="Copy or write the dataset again."
        )


@dataclass(frozen=True)
class _Ids:
    """The column of ids, batch by batch."""

    source: LanceSource
    dataset: Any

    def __iter__(self) -> Iterator[tuple[str, int, pa.Array]]:
        first = 1
        where = self.source.where or None
        for batch in self.dataset.scanner(
            columns=[_column(self.source.id)], filter=where, scan_in_order=True
        ).to_batches():
            yield os.path.basename(str(self.source.path)), first, batch.column(0)
            first += batch.num_rows


@dataclass(frozen=True)
class _Fragment(Source):
    """The rows of one fragment.

    Attributes:
        columns: what becomes which part of a record.
        names: the columns to read.
        version: of the dataset.
        fragment: its id.
        before: rows before it.
        repeats: where each id that stands more than once stands first.
    """

    source: LanceSource
    columns: Columns
    names: tuple[str, ...]
    version: int
    fragment: int = 0
    before: int = 0
    repeats: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        return f"fragment {self.fragment} of {self.source.path}"

    def __iter__(self) -> Iterator[Record | Failure]:
        name = os.path.basename(str(self.source.path))
        first = self.before + 1
        try:
            with self.source._opened(self.version) as dataset:
                scanner = dataset.scanner(
                    columns=list(self.names),
                    filter=self.source.where or None,
                    fragments=[dataset.get_fragment(self.fragment)],
                    batch_size=BATCH_ROWS,
                    scan_in_order=True,
                )
                for batch in map(_as_named, scanner.to_batches()):
                    layout = Layout.of(batch.schema, self.columns, name)
                    yield from records(batch, layout, name, first, self.repeats, LanceSource.label)
                    first += batch.num_rows
        except UnreadableError as error:
            yield Failure(f"{name}:{first}", LanceSource.label, error)

    def count(self) -> int | None:
        """See `Source`."""
        with self.source._opened(self.version) as dataset:
            return int(dataset.get_fragment(self.fragment).count_rows(self.source.where or None))
