"""Rows of an index as Arrow: the columns that every index has, and those for what users know of their records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import InputError, RowError
from bowerbird.flow.sinks.widening import MisfitError, column, fit, unify
from bowerbird.store.table import VECTOR_MARK, Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger("bowerbird")


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
    """The columns for what users know of their records: found from what they say, and added when they are needed."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._reserved = {name.lower() for name in schema(()).names}
        self._renamed: dict[str, str] = {}
        self.fields = table.attributes()

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

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, InputError]:
        """Add and widen columns, so that the rows fit; what cannot be made to fit is an error at its row's place."""
        import pyarrow as pa

        names = dict.fromkeys(
            name.removeprefix(ATTRIBUTE) for row in rows for name in row if name.startswith(ATTRIBUTE)
        )
        if not names:
            return {}
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
            if pa.types.is_integer(known[name]) and pa.types.is_floating(wanted):
                wider.append(pa.field(name, pa.float64()))
            else:
                refused.update(self._refused(rows, name, known[name]))
        if new or wider:
            self._table.extend(new, wider)
            self.fields = self._table.attributes()
        return refused

    def _refused(
        self, rows: Sequence[Mapping[str, Any]], name: str, type_: pa.DataType
    ) -> dict[int, InputError]:
        import pyarrow as pa

        refused: dict[int, InputError] = {}
        for place, row in enumerate(rows):
            value = row.get(ATTRIBUTE + name)
            try:
                fit(pa.table({name: column(name, [value], type_)}), pa.schema([(name, type_)]))
            except (MisfitError, pa.ArrowException):
                refused[place] = RowError(
                    f"{name} is {value!r}, and the index holds {type_} there.",
                    hint="Correct it, or index into a new place.",
                )
        return refused


def _stored(type_: pa.DataType) -> pa.DataType:
    """Types that stores filter by: dates and times in microseconds, everything nested as text."""
    import pyarrow as pa

    if pa.types.is_date(type_):
        return pa.timestamp("us")
    if pa.types.is_nested(type_):
        return pa.string()
    return type_
