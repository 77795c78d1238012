"""Rows of an index as Arrow: the columns that every index has, and those for what users know of their records."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import InputError, RowError
from bowerbird.flow.files import printable, to_uri
from bowerbird.flow.pictures import address
from bowerbird.flow.sinks.widening import MisfitError, column, fit, text_of, unify
from bowerbird.record import Record
from bowerbird.store.filters import Compare, Or
from bowerbird.store.table import SCORE, VECTOR_MARK, Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa

LOG = logging.getLogger("bowerbird")


class Layout:
    """What the columns of an index hold of a record.

    Args:
        columns: the vector columns.
        names: by column, the vector of a record that it holds; columns that are not named stay empty.
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
        values: dict[str, Any] = {name: record.facts.get(name) for name in ("picture", *FACTS)}
        for entry in self.columns:
            name = self.names.get(entry.name, "")
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
            "picture": values.get("picture") or record.facts.get("picture"),
            "size": record.facts.get("size"),
            "mtime_ns": stamp_of(record)[1],
            "name": printable(os.path.basename(where)) or None,
            "folder": printable(os.path.dirname(where)) or None,
            "indexed_at": datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0),
            "text": "\n".join(record.texts) or None,
        }
        self.attributes.add(row, record.attributes)
        return row


FACTS = ("format", "width", "height", "taken_at", "thumbnail")
"""Columns for what is found as a picture is decoded."""

UNSEEN = 0
"""The time of change of a file, or of what lies at an address, that was not looked at: read again by every run."""

TOLD = -1
"""In its stead, of a file that came with texts: it is found again by its path, beside a record of the file alone."""


def place(record: Record) -> str:
    """What a record is found again by: its id, if it is the user's; the path of a file; empty for a row of a table.

    A row of a table without an id is found again by its content alone: its line may be another one tomorrow.
    """
    if record.named:
        return f"id:{record.id}"
    source = record.source
    if isinstance(source, Path):
        found = to_uri(os.path.abspath(source)) if record.id in (str(source), to_uri(str(source))) else ""
    else:
        found = address(source)
        found = found if found == record.id else ""
    return f"told:{found}" if found and record.texts else found


def stamp_of(record: Record) -> tuple[int | None, int | None]:
    """Size in bytes and time of change in ns of its file; for one that was not looked at, (None, a sign of that)."""
    if record.named or not place(record):
        return None, None
    return record.facts.get("size"), TOLD if record.texts else record.facts.get("mtime_ns", UNSEEN)


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

    own = schema(vectors)
    told = _told(rows, attributes)
    return pa.Table.from_arrays(
        [*_arrays(rows, own, vectors), *(told.column(name) for name in attributes.names)],
        schema=pa.schema([*own, *attributes]),
    )


def arrow_changes(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], vectors: Sequence[VectorColumn]
) -> pa.Table:
    """What `Table.update` takes: `id` and some of the columns of `schema(vectors)`."""
    import pyarrow as pa

    own = schema(vectors)
    fields = pa.schema([own.field(name) for name in ("id", *names)])
    return pa.Table.from_arrays(_arrays(rows, fields, vectors), schema=fields)


def _arrays(
    rows: Sequence[Mapping[str, Any]], fields: pa.Schema, vectors: Sequence[VectorColumn]
) -> list[pa.Array]:
    import pyarrow as pa

    widths = {entry.name: entry.dimensions for entry in vectors}
    columns = ([row.get(entry.name) for row in rows] for entry in fields)
    return [
        _vectors(values, widths[entry.name]) if entry.name in widths else pa.array(values, entry.type)
        for entry, values in zip(fields, columns, strict=True)
    ]


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

    arrays = [_column_of([row.get(ATTRIBUTE + entry.name) for row in rows], entry) for entry in attributes]
    found = pa.table(arrays, names=attributes.names) if arrays else pa.table({})
    return fit(found, attributes) if arrays else found


def _column_of(values: list[Any], entry: pa.Field) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_string(entry.type):
        # One by one: beside a fraction a whole number would be written as one.
        return pa.array([None if value is None else text_of(value) for value in values], entry.type)
    return column(entry.name, values, entry.type)


ATTRIBUTE = "attribute:"
"""Put before the names of attributes in a row, so that they do not meet the columns every index has."""


class Attributes:
    """The columns for what users know of their records: found from what they say, and added when they are needed.

    Args:
        quiet: say nothing of names that are changed: another one does, for the whole run.

    Attributes:
        fields: the columns there are.
    """

    def __init__(self, fields: pa.Schema, *, quiet: bool = False) -> None:
        self.fields = fields
        self._quiet = quiet
        self._reserved = {name.lower() for name in schema(()).names} | _TAKEN
        self._renamed: dict[str, str] = {}

    def unkept(self, attributes: Mapping[str, Any]) -> dict[str, str]:
        """Attributes that cannot have the names that they have, and what they would be called instead."""
        pairs = zip(attributes, self._columns(attributes), strict=True)
        return {name: kept for name, kept in pairs if name != kept}

    def add(self, row: dict[str, Any], attributes: Mapping[str, Any]) -> None:
        """Put attributes into a row, under the names their columns have."""
        for name, value in zip(self._columns(attributes), attributes.values(), strict=True):
            row[ATTRIBUTE + name] = self._as_held(name, _plain(value))

    def _as_held(self, name: str, value: Any) -> Any:
        """A number that came as text, for a column of numbers: one bad cell makes text of a whole column of a CSV."""
        import pyarrow as pa

        place = self.fields.get_field_index(name) if isinstance(value, str) else -1
        if place < 0:
            return value
        type_ = self.fields.field(place).type
        try:
            if pa.types.is_integer(type_):
                return int(value)
            return float(value) if pa.types.is_floating(type_) else value
        except ValueError:
            return value

    def _columns(self, attributes: Mapping[str, Any]) -> list[str]:
        """The column of each attribute; two attributes of one record never share one."""
        found = [self._column(name) for name in attributes]
        if len(set(found)) == len(found):
            return found
        # Whose name needs no change keeps it; the others follow in the order of their names.
        order = sorted(zip(attributes, found, strict=True), key=lambda pair: (pair[0] != pair[1], pair[0]))
        given: dict[str, str] = {}
        for name, wanted in order:
            free, count = wanted, 1
            while free in given.values():
                count += 1
                free = f"{wanted.rstrip('_')}_{count}"
            given[name] = free
        return [given[name] for name in attributes]

    def _column(self, name: str) -> str:
        found = self._renamed.get(name)
        if found is None:
            # Lance takes a dot for a field within a field.
            found = "".join(c if c.isprintable() and c not in ".`" else "_" for c in name) or "_"
            while VECTOR_MARK in found:
                found = found.replace(VECTOR_MARK, "_")
            if found.lower() in self._reserved:
                found = f"{found}_"
            if found != name and not self._quiet:
                LOG.warning(
                    "The attribute %r is kept as %r: that name is taken, or cannot be one.", name, found
                )
            self._renamed[name] = found
        return found

    def fit(self, attributes: Mapping[str, Any]) -> bool:
        """Whether the columns that there are hold these attributes."""
        types = dict(zip(self.fields.names, self.fields.types, strict=True))
        values = map(_plain, attributes.values())
        return all(
            value is None or (name in types and _fits(name, value, types[name]))
            for name, value in zip(self._columns(attributes), values, strict=True)
        )

    def settle(
        self,
        rows: Sequence[Mapping[str, Any]],
        table: Table,
        *,
        first: bool = True,
        fixed: frozenset[str] = frozenset(),
    ) -> dict[int, InputError]:
        """Add and widen columns of a table, so that the rows fit.

        Args:
            rows: with attributes put in by `add`.
            table: gets the columns.
            first: whether these are the first rows of a run: new columns then take a type that holds all of them.
                Later it is that of their first value, so that nothing depends on which rows come together.
            fixed: columns that may not change their type: others write rows of it.

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
            have = known.get(name)
            if have is None:
                have = _stored(type_ if first else _first_type(rows, name))
            wanted = unify(pa.schema([(name, have)]), pa.schema([(name, _stored(type_))])).field(0).type
            misfits = {} if wanted.equals(have) else self._refused(rows, name, have)
            if misfits and name not in fixed and pa.types.is_integer(have):
                left = self._refused(rows, name, pa.float64())
                large = Or((Compare(name, ">", _EXACT), Compare(name, "<", -_EXACT)))
                exact = name not in known or not table.count(large)
                if len(left) < len(misfits) and exact:
                    have, misfits = pa.float64(), left
            if name not in known:
                new.append(pa.field(name, have))
            elif not have.equals(known[name]):
                wider.append(pa.field(name, have))
            refused.update(misfits)
        lacking = set(schema(()).names) - set(table.names)
        if new or wider or lacking:
            table.extend(new, wider)
            self.fields = table.attributes()
        return refused

    def _refused(
        self, rows: Sequence[Mapping[str, Any]], name: str, type_: pa.DataType
    ) -> dict[int, InputError]:
        return {
            place: _misfit(name, row[ATTRIBUTE + name], type_)
            for place, row in enumerate(rows)
            if row.get(ATTRIBUTE + name) is not None and not _fits(name, row[ATTRIBUTE + name], type_)
        }


def _misfit(name: str, value: Any, type_: pa.DataType) -> RowError:
    error = RowError(
        f"{name} is {value!r}, and the index holds {_held(type_)} there.",
        hint="Correct it, leave it out (null), or index into a new place.",
    )
    error.param = f"attributes.{name}"
    return error


def _held(type_: pa.DataType) -> str:
    """What a column holds, in words."""
    import pyarrow as pa

    types = pa.types
    tests = {
        "whole numbers": types.is_integer,
        "numbers": types.is_floating,
        "texts": types.is_string,
        "true or false": types.is_boolean,
        "times": types.is_timestamp,
    }
    return next((words for words, test in tests.items() if test(type_)), str(type_))


_EXACT = 1 << 53
"""Whole numbers up to this are the same as floats."""

# Lance has columns of these names beside ours, and hits have `copies`.
_TAKEN = frozenset({"copies", SCORE, "_distance", "_rowid", "_rowaddr", "_rowoffset"}) | {
    "_row_created_at_version",
    "_row_last_updated_at_version",
}


def _plain(value: Any) -> Any:
    """A value as columns take it: numbers of NumPy and `Decimal` as Python's own, what stores do not know as text."""
    if value is None or isinstance(value, _KEPT):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Decimal):
        return math.nan if value.is_nan() else float(value)  # float() refuses a signalling one
    return text_of(value)


_KEPT = (str, int, float, datetime, date, bytes, list, tuple, Mapping, np.ndarray)


def _first_type(rows: Sequence[Mapping[str, Any]], name: str) -> pa.DataType:
    """The type of the first value that says something of it."""
    import pyarrow as pa

    found = (column(name, [value]).type for row in rows if (value := row.get(ATTRIBUTE + name)) is not None)
    return next((type_ for type_ in found if not pa.types.is_null(type_)), pa.string())


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
