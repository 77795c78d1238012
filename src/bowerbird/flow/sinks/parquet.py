"""Parquet: one file, or a folder of them. The columns are those of `bowerbird.flow.sinks.arrow`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.flow.plan import Chunk, Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.arrow import to_arrow
from bowerbird.flow.sinks.errors import ErrorsFile
from bowerbird.flow.sinks.parts import GROUP_BYTES, TableParts, Writer
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sinks.unfinished import Unfinished, writing
from bowerbird.record import Record

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 1 << 30
"""A file of a folder is closed when it holds this much, as Arrow has it."""


class ParquetSink(Sink):
    """Writes rows into `FILE.parquet`, or into `part-00000.parquet`, `part-00001.parquet`, ... of a folder.

    Rows stand in the order of the elements. Vectors are neither compressed away nor rounded: they come back bit
    for bit. Failures go to the errors file.

    Args:
        path: a file, when it ends in `.parquet`, `.parq` or `.pq`; otherwise a folder.
        errors: the errors file; None: beside the output, `NAME.errors.jsonl`.
        overwrite: whether output that is there already may be replaced.
        group_bytes: about the size of a row group, in memory.
        part_bytes: about the size of a file of a folder, in memory.

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
        part_bytes: int = PART_BYTES,
    ) -> None:
        path = Path(path)
        is_file = path.suffix.lower() in (".parquet", ".parq", ".pq")
        self._place = Unfinished(path, overwrite=overwrite, holds=() if is_file else ("part-*.parquet",))
        self._is_file = is_file
        self._errors = ErrorsFile(errors or beside(path))
        self._group_bytes = group_bytes
        self._part_bytes = part_bytes
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
            if not self._is_file and parts.written >= self._part_bytes:
                parts.roll()

    def finish(self, report: RunReport) -> None:
        """See `Sink`."""
        parts = self._begun()
        output = self._place.output
        with writing(self._place.target):
            parts.finish(lambda number, _: output if self._is_file else output / f"part-{number:05}.parquet")
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
            self._parts = TableParts(self._place.folder, ParquetFormat(), self._group_bytes)
        return self._parts


def beside(path: Path) -> Path:
    """Where the errors file of an output goes that cannot hold it: `a.parquet` -> `a.parquet.errors.jsonl`."""
    return path.parent / f"{path.name}.errors.jsonl"


def is_decoded(item: Any) -> bool:
    """Whether an element has a picture of which only the pixels are there: these are not written."""
    return isinstance(item, Record) and hasattr(item.image, "__array_interface__")


def note_decoded(report: RunReport, pictures: int) -> None:
    """Say that decoded pictures were left out."""
    if pictures:
        report.notes.append(f"The pixels of {pictures:,} decoded pictures are not in the output.")


@dataclass(frozen=True)
class ParquetFormat:
    """Parquet files, compressed with Zstandard."""

    def create(self, path: Path, schema: pa.Schema) -> Writer:
        """See `TableFormat`."""
        return _ParquetWriter(path, schema)

    def read(self, path: Path) -> Iterator[pa.Table]:
        """See `TableFormat`."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)


class _ParquetWriter:
    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Random bits do not compress, and a dictionary of them is as long as they are.
        dictionary = [field.name for field in schema if not _has_numbers(field.type)]
        # A file that Arrow opens by itself stays open when the process runs into an error.
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(self._file, schema, compression="zstd", use_dictionary=dictionary)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._file.close()


def _has_numbers(type_: pa.DataType) -> bool:
    import pyarrow as pa

    while pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return bool(pa.types.is_floating(type_))
