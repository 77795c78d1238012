"""Columns of PostgreSQL for columns of Arrow: names, types, and values both ways."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bowerbird.errors import StoreError
from bowerbird.store.postgres_address import LONGEST, OWN, Address

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

LOG = logging.getLogger("bowerbird")

CATALOGUE = f"{OWN}tables"
"""What is known of our tables: name, version, columns as an Arrow schema, how many texts, of how many words."""

FILES = f"{OWN}files"
"""The small files of all indexes of a schema."""

ROW = f"{OWN}row"
"""Column with the number of each row, which decides their order."""

WORDS = f"{OWN}words"
"""Column with the words of `text`, as `filters.words_of` finds them; null where there is no text."""

MOST_DIMENSIONS = 16_000
"""Of a vector of pgvector."""

_TAKEN = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
"""Columns that PostgreSQL has in every table."""

NO_NUL = "\N{REPLACEMENT CHARACTER}"
"""Stands for the character NUL, which PostgreSQL keeps in no text."""


def column_name(name: str) -> str:
    """The column that holds an attribute or a vector.

    It is the same name wherever PostgreSQL allows it. Names of more than 63 bytes, and those that are taken, are cut
    and end in eight signs of their SHA-256.
    """
    if name and len(name.encode()) <= LONGEST and name not in _TAKEN and not name.startswith(OWN):
        return clean(name)
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    short = clean(name).encode()[: LONGEST - 9].decode("utf-8", "ignore")
    return f"{short.removeprefix(OWN)}_{digest}"


def identifier(*names: str) -> sql.Composable:
    """Names in quotes, joined with dots, also for statements in which `%` stands for a value."""
    from psycopg import sql

    # psycopg doubles no percent signs in names, and reads one as a placeholder.
    return sql.SQL(sql.Identifier(*names).as_string(None).replace("%", "%%"))


def clean(text: str) -> str:
    """A text as PostgreSQL can keep it: without NUL, and without halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", NO_NUL)
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def sql_type(type_: pa.DataType, name: str) -> str:
    """What PostgreSQL calls a type.

    Raises:
        StoreError: PostgreSQL has nothing that holds such values.
    """
    import pyarrow as pa

    if pa.types.is_fixed_size_list(type_) and pa.types.is_float32(type_.value_type):
        if not 0 < type_.list_size <= MOST_DIMENSIONS:
            raise StoreError(
                f"{name} has vectors of {type_.list_size:,} dimensions; pgvector takes {MOST_DIMENSIONS:,}.",
                hint="Ask the model for fewer dimensions, or keep the index in a directory.",
            )
        return f"vector({type_.list_size})"
    if pa.types.is_timestamp(type_):
        return "timestamptz" if type_.tz else "timestamp"
    if pa.types.is_decimal(type_):
        return f"numeric({type_.precision},{type_.scale})"
    for test, found in _SQL:
        if getattr(pa.types, test)(type_):
            return found
    raise StoreError(
        f"PostgreSQL has no column for {name}, of type {type_}.", hint="Keep it as text, or in another store."
    )


_SQL = (
    ("is_boolean", "bool"),
    ("is_int8", "int2"),
    ("is_int16", "int2"),
    ("is_int32", "int4"),
    ("is_int64", "int8"),
    ("is_uint8", "int2"),
    ("is_uint16", "int4"),
    ("is_uint32", "int8"),
    ("is_uint64", "numeric(20,0)"),
    ("is_float16", "float4"),
    ("is_float32", "float4"),
    ("is_float64", "float8"),
    ("is_string", 'text COLLATE "C"'),  # in the order of their code points, as every store
    ("is_large_string", 'text COLLATE "C"'),
    ("is_binary", "bytea"),
    ("is_large_binary", "bytea"),
    ("is_fixed_size_binary", "bytea"),
    ("is_date", "date"),
    ("is_time", "time"),
    ("is_null", 'text COLLATE "C"'),
)


def copied_as(type_: pa.DataType, name: str) -> str:
    """The bare name of a type, as psycopg's COPY is told it."""
    return sql_type(type_, name).partition("(")[0].partition(" ")[0]


def values_of(array: pa.ChunkedArray, name: str) -> list[Any]:
    """A column of Arrow as values that psycopg takes for a column of `sql_type`.

    Raises:
        StoreError: a time is finer than PostgreSQL keeps it.
    """
    import pyarrow as pa

    type_ = array.type
    if pa.types.is_fixed_size_list(type_):
        whole = array.combine_chunks()
        whole = whole if isinstance(whole, pa.Array) else pa.concat_arrays(array.chunks)
        flat = whole.fill_null([0.0] * type_.list_size).flatten() if whole.null_count else whole.flatten()
        rows = flat.to_numpy(zero_copy_only=False).reshape(-1, type_.list_size)
        present = whole.is_valid().to_numpy(zero_copy_only=False)
        return [row if there else None for row, there in zip(rows, present, strict=True)]
    try:
        if pa.types.is_timestamp(type_):
            return list(array.cast(pa.timestamp("us", type_.tz)).to_pylist())
        if pa.types.is_time(type_):
            return list(array.cast(pa.time64("us")).to_pylist())
    except pa.ArrowInvalid as error:
        raise StoreError(
            f"{name} holds times finer than a microsecond, which PostgreSQL does not keep."
        ) from error
    values = array.to_pylist()
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _cleaned(values, name)
    return list(values)


def _cleaned(values: list[str | None], name: str) -> list[str | None]:
    if any(value is not None and "\0" in value for value in values):
        LOG.warning("PostgreSQL keeps no NUL characters: in %r they become %r.", name, NO_NUL)
    return [
        value if value is None or (value.isascii() and "\0" not in value) else clean(value)
        for value in values
    ]


def array_of(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Values that psycopg read from a column of `sql_type` as Arrow."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(type_):
        flat = np.zeros((len(values), type_.list_size), np.float32)
        missing = np.zeros(len(values), bool)
        for row, value in enumerate(values):
            if value is None:
                missing[row] = True
            else:
                flat[row] = value.to_numpy()
        mask = pa.array(missing) if missing.any() else None
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), type_.list_size, mask=mask)
    if pa.types.is_null(type_):
        return pa.nulls(len(values))
    if pa.types.is_unsigned_integer(type_):
        values = [None if value is None else int(value) for value in values]
    if pa.types.is_float16(type_):
        return pa.array(values, pa.float32()).cast(type_)
    if pa.types.is_timestamp(type_):
        return pa.array(values, pa.timestamp("us", type_.tz)).cast(type_)
    if pa.types.is_time(type_):
        return pa.array(values, pa.time64("us")).cast(type_)
    return pa.array(values, type_)


class Names:
    """Names in statements.

    Attributes:
        bare: the name of the table.
        table: it, with its schema.
        catalogue: of the table in the same schema that knows ours.
        files: of the table in the same schema with small files.
        quoted: the table, for functions that read a name from a text.
    """

    def __init__(self, address: Address) -> None:
        schema = (address.schema,) if address.schema else ()
        self.bare = address.table
        self.table = identifier(*schema, address.table)
        self.catalogue = identifier(*schema, CATALOGUE)
        self.files = identifier(*schema, FILES)
        self.quoted = in_text(*schema, address.table)


def in_text(*names: str) -> str:
    """Names in quotes, joined with dots, as functions such as `to_regclass` read them."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


class Values(dict[str, Any]):
    """The values of a statement, by the names that it has for them."""

    def put(self, value: Any) -> sql.Composable:
        """What stands for a value in the statement."""
        from psycopg import sql

        name = f"v{len(self)}"
        self[name] = _sent(value)
        return sql.Placeholder(name)


def _sent(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    return [_sent(one) for one in value] if isinstance(value, (list, tuple)) else value
