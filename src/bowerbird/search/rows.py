"""Rows of an index as Arrow: the columns that every index has, and those for what users know of their records."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, RowError
from bowerbird.flow.files import printable, to_uri
from bowerbird.flow.pictures import address
from bowerbird.flow.sinks.widening import MisfitError, column, fit, unify
from bowerbird.record import Record
from bowerbird.store.table import VECTOR_MARK, Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger("bowerbird")


class Layout:
    """What the columns of an index hold of a record.

    Args:
        columns: the vector columns.
        names: by column, the vector of a record that it holds.
        attributes: the columns for what users know of their records.
    """

    def __init__(
        self, columns: Sequence[VectorColumn], names: Mapping[str, str], attributes: Attributes
    ) -> None:
        self.columns = tuple(columns)
        self.names = dict(names)
        self.attributes = attributes

    def values(self, record: Record) -> dict[str, Any]:
        """Vectors, facts and thumbnail of a record, by column: what depends on its bytes alone."""
        values: dict[str, Any] = {
            name: record.facts.get(name) for name in ("format", "width", "height", "taken_at", "thumbnail")
        }
        for entry in self.columns:
            name = self.names[entry.name]
            vector, norm = record.vectors.get(name), record.norms.get(name)
            values[entry.name] = vector if vector is None or vector.ndim == 1 else _mean(vector)
            values[entry.norm] = None if norm is None else float(np.mean(norm))
        return values

    def row(self, record: Record, values: Mapping[str, Any], id_: str) -> dict[str, Any]:
        """The row of a record, of the values that depend on its bytes and what else is known of it."""
        where = _where(record)
        row = {
            **values,
            "id": id_,
            "uri": uri_of(record),
            "content": record.content,
            "size": record.facts.get("size"),
            "mtime_ns": record.facts.get("mtime_ns"),
            "name": printable(os.path.basename(where)) or None,
            "folder": printable(os.path.dirname(where)) or None,
            "indexed_at": datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0),
            "text": "\n".join(record.texts) or None,
        }
        self.attributes.add(row, record.attributes)
        return row


def uri_of(record: Record) -> str | None:
    """Where its picture lies, as tables have it; None when it lies nowhere."""
    where = _where(record)
    return (to_uri(where) if isinstance(record.source, Path) else where) or None


def _where(record: Record) -> str:
    source = record.source
    return os.path.abspath(source) if isinstance(source, Path) else address(source)


def _mean(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """One vector for several captions: their mean, of length 1 again."""
    mean: NDArray[np.float32] = vectors.mean(0)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    return mean


def arrow_rows(
    rows: Sequence[Mapping[str, Any]], vectors: Sequence[VectorColumn], attributes: pa.Schema
) -> pa.Table:
    """Rows as a table: the columns of `schema(vectors)`, then attributes."""
    import pyarrow as pa

    widths = {entry.name: entry.dimensions for entry in vectors}
    own = schema(vectors)
    arrays = []
    for entry in own:
        values = [row.get(entry.name) for row in rows]
        if entry.name in widths:
            arrays.append(_vectors(values, widths[entry.name]))
        else:
            arrays.append(pa.array(values, entry.type))
    told = _told(rows, attributes)
    return pa.Table.from_arrays(
        [*arrays, *(told.column(name) for name in attributes.names)],
        schema=pa.schema([*own, *attributes]),
    )


def _vectors(values: Sequence[Any], width: int) -> pa.Array:
    import pyarrow as pa

    missing = np.asarray([value is None for value in values])
    flat = np.zeros((len(values), width), np.float32)
    for row, value in enumerate(values):
        if value is not None:
            flat[row] = value
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width, mask=mask)


def _told(rows: Sequence[Mapping[str, Any]], attributes: pa.Schema) -> pa.Table:
    import pyarrow as pa

    arrays = [
        column(entry.name, [row.get(ATTRIBUTE + entry.name) for row in rows], entry.type)
        for entry in attributes
    ]
    found = pa.table(arrays, names=attributes.names) if arrays else pa.table({})
    return fit(found, attributes) if arrays else found


ATTRIBUTE = "attribute:"
"""Put before the names of attributes in a row, so that they do not meet the columns every index has."""


class Attributes:
    """The columns for what users know of their records: found from what they say, and added when they are needed.

    Attributes:
        fields: the columns there are.
    """

    def __init__(self, fields: pa.Schema) -> None:
        self.fields = fields
        self._reserved = {name.lower() for name in schema(()).names}
        self._renamed: dict[str, str] = {}

    def add(self, row: dict[str, Any], attributes: Mapping[str, Any]) -> None:
        """Put attributes into a row, under the names their columns have."""
        for name, value in attributes.items():
            row[ATTRIBUTE + self._column(name)] = value

    def _column(self, name: str) -> str:
        found = self._renamed.get(name)
        if found is None:
            # Lance takes a dot for a field within a field.
            found = "".join(c if c.isprintable() and c not in ".`" else "_" for c in name) or "_"
            while VECTOR_MARK in found:
                found = found.replace(VECTOR_MARK, "_")
            if found.lower() in self._reserved:
                found = f"{found}_"
            if found != name:
                LOG.warning(
                    "The attribute %r is kept as %r: that name is taken, or cannot be one.", name, found
                )
            self._renamed[name] = found
        return found

    def fit(self, attributes: Mapping[str, Any]) -> bool:
        """Whether the columns that there are hold these attributes."""
        types = dict(zip(self.fields.names, self.fields.types, strict=True))
        return all(
            value is None or (self._column(name) in types and _fits(name, value, types[self._column(name)]))
            for name, value in attributes.items()
        )

    def settle(
        self, rows: Sequence[Mapping[str, Any]], table: Table, *, widen: bool = True
    ) -> dict[int, InputError]:
        """Add and widen columns of a table, so that the rows fit.

        Args:
            rows: with attributes put in by `add`.
            table: gets the columns.
            widen: whether a column may change its type; not while others write rows of the old one.

        Returns:
            errors by row, for what cannot be made to fit.
        """
        import pyarrow as pa

        names = dict.fromkeys(
            name.removeprefix(ATTRIBUTE) for row in rows for name in row if name.startswith(ATTRIBUTE)
        )
        arrays = {name: column(name, [row.get(ATTRIBUTE + name) for row in rows]) for name in names}
        typed = {name: array.type for name, array in arrays.items() if not pa.types.is_null(array.type)}
        known = {entry.name: entry.type for entry in self.fields}
        refused: dict[int, InputError] = {}
        new, wider = [], []
        for name, type_ in typed.items():
            if name not in known:
                new.append(pa.field(name, _stored(type_)))
                continue
            wanted = unify(pa.schema([(name, known[name])]), pa.schema([(name, type_)])).field(0).type
            if wanted.equals(known[name]):
                continue
            if widen and pa.types.is_integer(known[name]) and pa.types.is_floating(wanted):
                wider.append(pa.field(name, pa.float64()))
            else:
                refused.update(self._refused(rows, name, known[name]))
        if new or wider:
            table.extend(new, wider)
            self.fields = table.attributes()
        return refused

    def _refused(
        self, rows: Sequence[Mapping[str, Any]], name: str, type_: pa.DataType
    ) -> dict[int, InputError]:
        return {
            place: RowError(
                f"{name} is {row[ATTRIBUTE + name]!r}, and the index holds {type_} there.",
                hint="Correct it, or index into a new place.",
            )
            for place, row in enumerate(rows)
            if row.get(ATTRIBUTE + name) is not None and not _fits(name, row[ATTRIBUTE + name], type_)
        }


def _fits(name: str, value: Any, type_: pa.DataType) -> bool:
    """Whether a column of a type holds a value as it is."""
    import pyarrow as pa

    if isinstance(value, str):
        return bool(pa.types.is_string(type_))
    try:
        found = column(name, [value])
        wanted = pa.schema([(name, type_)])
        if not unify(wanted, pa.schema([(name, found.type)])).field(0).type.equals(type_):
            return False
        fit(pa.table({name: found}), wanted)
    except (MisfitError, pa.ArrowException):
        return False
    return True


def _stored(type_: pa.DataType) -> pa.DataType:
    """Types that stores filter by: dates and times in microseconds, everything nested as text."""
    import pyarrow as pa

    if pa.types.is_date(type_):
        return pa.timestamp("us")
    if pa.types.is_nested(type_):
        return pa.string()
    return type_
