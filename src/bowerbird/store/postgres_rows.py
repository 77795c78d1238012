"""Rows of Arrow on their way into a table of PostgreSQL, and out of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from bowerbird.errors import StoreError
from bowerbird.store.filters import words_of
from bowerbird.store.postgres_types import (
    ROW,
    WORDS,
    Values,
    array_of,
    clean,
    column_name,
    copied_as,
    identifier,
    sql_type,
    values_of,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from bowerbird.store.postgres_session import Connection

STAGE = "bowerbird_stage"
"""The temporary table in which new rows wait."""


class Staged(NamedTuple):
    """Rows on their way into a table."""

    columns: list[str]  # of PostgreSQL
    types: list[str]
    rows: list[tuple[Any, ...]]
    ids: list[str]

    @classmethod
    def of(cls, rows: pa.Table, fields: pa.Schema) -> Staged:
        """Rows of Arrow as the table takes them; of several with one id the last.

        Raises:
            StoreError: the table has no such column, or it cannot hold a value.
        """
        last = {clean(id_): row for row, id_ in enumerate(rows["id"].to_pylist())}
        if len(last) < rows.num_rows:
            rows = rows.take(list(last.values()))
        columns, types, values = [], [], []
        for name in rows.column_names:
            if name not in fields.names:
                raise StoreError(f"The table has no column {name!r}.")
            type_ = fields.field(name).type
            columns.append(column_name(name))
            types.append(copied_as(type_, name))
            values.append(values_of(rows[name].cast(type_), name))
        if "text" in rows.column_names:
            columns.append(WORDS)
            types.append("text[]")
            texts = values[rows.column_names.index("text")]
            values.append([None if text is None else words_of(text) for text in texts])
        ids = values[rows.column_names.index("id")]
        return cls(columns, types, list(zip(*values, strict=True)), ids)

    def send(self, connection: Connection, table: sql.Composable) -> None:
        """Put the rows into a temporary table of this transaction, numbered in their order."""
        from psycopg import sql

        columns = sql.SQL(", ").join(map(identifier, self.columns))
        stage = identifier(STAGE)
        create = sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {}, {} FROM {} WITH NO DATA")
        connection.execute(create.format(stage, identifier(ROW), columns, table), {})
        copy = sql.SQL("COPY {} ({}, {}) FROM STDIN (FORMAT BINARY)").format(stage, identifier(ROW), columns)
        # Nothing stands for a value here, so nothing is read as one.
        whole = sql.SQL(copy.as_string(None).replace("%%", "%"))
        with connection.cursor().copy(whole) as stream:
            stream.set_types(["int8", *self.types])
            for number, row in enumerate(self.rows):
                stream.write_row((number, *row))

    def replace(self, connection: Connection, table: sql.Composable, lacking: Sequence[str] = ()) -> None:
        """Replace the columns of rows that there are by those sent before.

        Args:
            connection: in the same transaction.
            table: of the rows.
            lacking: columns that become null in these rows.
        """
        from psycopg import sql

        changes = [sql.SQL("{0} = stage.{0}").format(identifier(name)) for name in self.columns]
        changes += [sql.SQL("{} = NULL").format(identifier(column_name(name))) for name in lacking]
        if "text" in lacking:
            changes.append(sql.SQL("{} = NULL").format(identifier(WORDS)))
        statement = sql.SQL("UPDATE {} AS here SET {} FROM {} AS stage WHERE here.id = stage.id")
        connection.execute(statement.format(table, sql.SQL(", ").join(changes), identifier(STAGE)), {})

    def insert(self, connection: Connection, table: sql.Composable) -> None:
        """Insert the rows that there are not, of those sent before."""
        from psycopg import sql

        columns = [identifier(name) for name in self.columns]
        statement = sql.SQL(
            "INSERT INTO {table} ({columns}) SELECT {staged} FROM {stage} AS stage"
            " LEFT JOIN {table} AS here USING (id) WHERE here.id IS NULL ORDER BY stage.{row}"
        ).format(
            table=table,
            columns=sql.SQL(", ").join(columns),
            staged=sql.SQL(", ").join(sql.SQL("stage.{}").format(name) for name in columns),
            stage=identifier(STAGE),
            row=identifier(ROW),
        )
        connection.execute(statement, {})


def definition(field: pa.Field) -> sql.Composable:
    """A column, as CREATE TABLE and ADD COLUMN take it."""
    from psycopg import sql

    return sql.SQL("{} {}").format(
        identifier(column_name(field.name)), sql.SQL(sql_type(field.type, field.name))
    )


def fetched(connection: Connection, statement: sql.Composed, values: Values) -> list[tuple[Any, ...]]:
    """All that a question gives."""
    with closing(connection.cursor(binary=True)) as cursor:
        return cursor.execute(statement, values).fetchall()


def row_bytes(types: pa.Schema) -> int:
    """About what a row of some columns takes."""
    import pyarrow as pa

    wide = {"thumbnail": 16_000, "text": 1_000}
    return (
        sum(
            4 * field.type.list_size if pa.types.is_fixed_size_list(field.type) else wide.get(field.name, 50)
            for field in types
        )
        or 1
    )


def batch_of(rows: Sequence[tuple[Any, ...]], types: pa.Schema) -> pa.RecordBatch:
    """Rows that begin with their numbers as Arrow, without these."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True))[1:] if rows else [()] * len(types)
    arrays = [array_of(values, field.type) for values, field in zip(columns, types, strict=True)]
    if not arrays:  # only their number is asked for
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=types)
