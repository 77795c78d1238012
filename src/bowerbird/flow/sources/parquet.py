"""Parquet files: a record for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, InputError, RowError, UnreadableError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import files_of, folder_of, located, opened, shown
from bowerbird.flow.sources.columnar import BATCH_ROWS, Layout, first_places, records
from bowerbird.flow.sources.rows import Columns
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SUFFIXES = (".parquet", ".parq", ".pq")

BATCH_BYTES = 1 << 24
"""About so many bytes of a file are turned into records at a time."""


@dataclass(frozen=True)
class ParquetSource(Source):
    """Parquet: one file, a folder of files, or a glob; a record for each row.

    Files are read in the order of their names, a row group at a time, and of that about 16 MB at a time as far as its
    pages allow. Ids of rows are `photos.parquet:17`, rows counting from 1; in a folder, the path below it. A damaged
    file or row group is one `Failure`.

    Columns `vector:NAME` (lists of floats) and `norm:NAME` become vectors and their lengths. In files that Bowerbird
    wrote, `id`, `image`, `texts`, `content` and `attribute:NAME` become these again, and ids may stand twice.

    Attributes:
        path: a file, a folder or a glob; local, or an address.
        image: column of the picture: a path or address, the bytes of a picture file, or the struct of `bytes` and
            `path` that Hugging Face's datasets write.
        text: column of the text, or several; strings or lists of strings. Empty ones are left out.
        id: column of the id: strings or whole numbers.
        root: folder or address that relative pictures are below; empty: the one the file is in.
    """

    path: str | Path
    image: str = ""
    text: str | Sequence[str] = ""
    id: str = ""
    root: str | Path = ""

    label = "from_parquet"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))
        object.__setattr__(self, "root", located(self.root) if self.root else "")

    def describe(self) -> str:
        """See `Source`."""
        return f"rows of {shown(str(self.path))}"

    def __iter__(self) -> Iterator[Record | Failure]:
        """See `Source`.

        Raises:
            BowerbirdError: nothing is there; or the first file cannot be read, or lacks a column that was named.
        """
        for part in self._files():
            yield from part

    def parts(self) -> Sequence[Source]:
        """One for each row group."""
        return [part for file in self._files() for part in file.parts()]

    def count(self) -> int | None:
        """See `Source`; damaged files count as one."""
        return sum(file.count() for file in self._files(check=False))

    def names(self) -> list[str]:
        """The columns of the first file."""
        with self._files(check=False)[0].open() as file:
            return list(file.schema_arrow.names)

    def _files(self, check: bool = True) -> list[_ParquetFile]:
        files = []
        for number, (place, name) in enumerate(files_of(str(self.path), _SUFFIXES)):
            columns = Columns.of(self.image, self.text, self.id, str(self.root) or folder_of(place))
            file = _ParquetFile(place, name, columns)
            if number == 0:
                with file.open() as opened_file:
                    Layout.of(opened_file.schema_arrow, columns, shown(place))
            files.append(file)
        if not self.id or not check:
            return files
        places = first_places(_Ids(files), files[0].columns)
        return [replace(file, repeats=places) for file in files]


@dataclass(frozen=True)
class _ParquetFile(Source):
    """One Parquet file, or one row group of it.

    Attributes:
        group: number of the row group; None: all.
        before: rows of the file before that group.
    """

    place: str
    name: str
    columns: Columns
    repeats: Mapping[str, str] = field(default_factory=dict)
    group: int | None = None
    before: int = 0

    def describe(self) -> str:
        return f"rows of {shown(self.place)}"

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with opened(self.place) as stream:
            try:
                file = pq.ParquetFile(stream)
            except (pa.ArrowException, OSError) as error:
                raise UnreadableError(
                    f"{shown(self.place)} is not a Parquet file, or damaged: {one_line(error, 200)}.",
                    hint="Copy or write it again.",
                ) from None
            with file:
                yield file

    def __iter__(self) -> Iterator[Record | Failure]:
        try:
            with self.open() as file:
                layout = Layout.of(file.schema_arrow, self.columns, shown(self.place))
                before = self.before
                for group in range(file.num_row_groups) if self.group is None else (self.group,):
                    yield from self._group(file, group, before, layout)
                    before += file.metadata.row_group(group).num_rows
        except InputError as error:
            yield Failure(self.name, ParquetSource.label, error)
        except BowerbirdError as error:
            yield Failure(self.name, ParquetSource.label, RowError(error.message, hint=error.hint))

    def _group(
        self, file: pq.ParquetFile, group: int, before: int, layout: Layout
    ) -> Iterator[Record | Failure]:
        import pyarrow as pa

        told = file.metadata.row_group(group)
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * told.num_rows // max(1, told.total_byte_size)))
        try:
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                yield from records(batch, layout, self.name, before + 1, self.repeats, ParquetSource.label)
                before += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            yield Failure(
                f"{self.name}:{before + 1}",
                ParquetSource.label,
                UnreadableError(
                    f"{shown(self.place)} is damaged: rows {before + 1:,} to the end of row group {group + 1} cannot "
                    f"be read: {one_line(error, 200)}.",
                    hint="Copy or write it again; the other row groups were read.",
                ),
            )

    def parts(self) -> Sequence[Source]:
        try:
            with self.open() as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        except InputError:
            return [self]
        return [replace(self, group=group, before=sum(counts[:group])) for group in range(len(counts))]

    def count(self) -> int:
        try:
            with self.open() as file:
                return int(file.metadata.num_rows)
        except InputError:
            return 1


@dataclass(frozen=True)
class _Ids:
    """The column of ids of some files, piece by piece; what cannot be read is left out."""

    files: Sequence[_ParquetFile]

    def __iter__(self) -> Iterator[tuple[str, int, pa.Array]]:
        import pyarrow as pa

        for part in self.files:
            number = 1
            try:
                with part.open() as file:
                    for batch in file.iter_batches(
                        BATCH_ROWS * 16, columns=[part.columns.id], use_threads=False
                    ):
                        yield part.name, number, batch.column(0)
                        number += batch.num_rows
            except (InputError, pa.ArrowException, OSError, KeyError):
                continue
