"""Tables in columns, as Parquet and Arrow hold them: how rows become records; our own files come back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, InputError, RowError
from bowerbird.flow.sources.rows import Columns, Repeats, taken
from bowerbird.media.reading import one_line
from bowerbird.record import Failure, Record

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
"""So many rows of a table are turned into records at a time, or fewer where they are large."""

VECTOR = "vector:"
NORM = "norm:"
FACTS = {"width": int, "height": int, "format": str}
ATTRIBUTE = "attribute:"
_OURS = frozenset(("id", "image", "texts", "content"))


@dataclass(frozen=True)
class Layout:
    """How the columns of one table become records.

    Attributes:
        columns: the parts that the user named, or those of our own files.
        vectors: columns `vector:NAME`, float lists that become `Record.vectors[NAME]`.
        norms: columns `norm:NAME`.
        ours: whether the table was written by Bowerbird; see `bowerbird.flow.sinks.arrow`.
        attributes: all others.
    """

    columns: Columns
    vectors: tuple[str, ...]
    norms: tuple[str, ...]
    ours: bool
    attributes: tuple[str, ...]

    @staticmethod
    def of(schema: pa.Schema, columns: Columns, table: str) -> Layout:
        """The layout of a table.

        Raises:
            BowerbirdError: a column that was named is not there.
        """
        names = list(schema.names)
        if len(set(names)) < len(names):
            raise BowerbirdError(f"{table} has columns of the same name.", hint="Rename them.")
        columns.check(names, table)
        ours = set(names) >= _OURS and not columns.used
        if ours:
            columns = replace(columns, image="image", text=("texts",), id="id")
        vectors = tuple(name for name in names if name.startswith(VECTOR))
        norms = tuple(name for name in names if name.startswith(NORM))
        special = {*columns.used, *vectors, *norms, *(_OURS | {"image_bytes"} if ours else ())}
        return Layout(columns, vectors, norms, ours, tuple(name for name in names if name not in special))


def records(
    batch: pa.RecordBatch, layout: Layout, name: str, first: int, repeats: Mapping[str, str], label: str
) -> Iterator[Record | Failure]:
    """A record for each row of a batch, or a `Failure` in its place.

    Args:
        batch: some rows of the table.
        layout: what its columns are.
        name: of the table, as ids have it.
        first: number of the first row, counting from 1.
        repeats: where each id that stands more than once stands first.
        label: of the source.
    """
    vectors = {column.removeprefix(VECTOR): _vectors(batch.column(column)) for column in layout.vectors}
    others = [column for column in batch.schema.names if column not in layout.vectors]
    values = {column: _values(batch.column(column)) for column in others}
    for number in range(batch.num_rows):
        place = f"{name}:{first + number}"
        row = {column: cells[number] for column, cells in values.items()}
        try:
            found = {key: vector for key, cells in vectors.items() if (vector := cells[number]) is not None}
            record = _record(row, layout, place, found)
            earlier = repeats.get(record.id, place) if layout.columns.id and not layout.ours else place
            if earlier != place:
                raise taken(record.id, place, earlier)
            yield record
        except InputError as error:
            yield Failure(place, label, error)


def _record(row: dict[str, Any], layout: Layout, place: str, vectors: Mapping[str, Any]) -> Record:
    for column, cell in row.items():
        if isinstance(cell, _Damaged):
            raise RowError(f"{place}: column {column!r} is damaged: {cell}.", hint="Write the file again.")
    norms = {name.removeprefix(NORM): row[name] for name in layout.norms if row[name] is not None}
    if not layout.ours:
        attributes = {column: row[column] for column in layout.attributes}
        return layout.columns.record(row, place, attributes, vectors=vectors, norms=norms)
    row["image"] = row.get("image_bytes") or row["image"]
    attributes = {column.removeprefix(ATTRIBUTE): row[column] for column in layout.attributes}
    content = row["content"] or ""
    return layout.columns.record(
        row, place, attributes, vectors=vectors, norms=norms, content=content, facts=_facts_of(attributes)
    )


def _facts_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Take what decoding had told of a picture out of the attributes of a row of our own files."""
    facts = {name: attributes.get(name) for name in FACTS}
    if any(type(value) is not FACTS[name] for name, value in facts.items()):
        # There was no picture, or the user has attributes of these names.
        if attributes.keys() >= FACTS.keys() and all(value is None for value in facts.values()):
            for name in (*FACTS, "taken_at"):
                if attributes.get(name, "") is None:
                    del attributes[name]
        return {}
    for name in FACTS:
        del attributes[name]
    taken_at = attributes.get("taken_at")
    if taken_at is None or isinstance(taken_at, datetime):
        facts["taken_at"] = attributes.pop("taken_at", None)
    return facts


class _Damaged(str):
    """What is wrong with a cell."""


def _values(column: pa.Array) -> list[Any]:
    """The cells as Python values, times to the microsecond."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif pa.types.is_duration(column.type) and column.type.unit == "ns":
        column = column.cast(pa.duration("us"), safe=False)
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, pa.ArrowException):
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    import pyarrow as pa

    try:
        return cell.as_py()
    except (ValueError, pa.ArrowException) as error:
        return _Damaged(one_line(error, 200))


def _vectors(column: pa.Array) -> list[NDArray[np.float32] | None]:
    """Float lists as arrays (dim,), lists of them as (n, dim); None where there is none."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type) and not column.null_count:
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return list(flat.reshape(len(column), column.type.list_size).astype(np.float32, copy=False))
    return [_vector(cell.values) if cell.is_valid else None for cell in column]


def _vector(values: pa.Array) -> NDArray[np.float32]:
    import pyarrow as pa

    rows = len(values)
    nested = pa.types.is_nested(values.type)
    flat = (values.flatten() if nested else values).to_numpy(zero_copy_only=False)
    array: NDArray[np.float32] = flat.astype(np.float32, copy=False)
    return array.reshape(rows, -1) if nested and rows else array


def first_places(batches: Iterable[tuple[str, int, pa.Array]], columns: Columns) -> dict[str, str]:
    """Where each id that stands more than once stands first.

    Args:
        batches: the column of ids, piece by piece: name of the table, number of the first row, and the piece. A list
            or anything else that can be gone through twice.
        columns: what the columns are.
    """
    repeats = Repeats()
    for _, _, ids in batches:
        for value in _values(ids):
            repeats.note(str(value))
    if not repeats.settle():
        return {}
    for name, first, ids in batches:
        for number, value in enumerate(_values(ids), start=first):
            repeats.earlier(str(value), f"{name}:{number}")
    return repeats.repeated()
