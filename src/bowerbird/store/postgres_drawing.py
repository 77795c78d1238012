"""Rows drawn at random at the cost of about as many rows, whatever the size of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bowerbird.store.filters import Filter
from bowerbird.store.postgres_filters import condition
from bowerbird.store.postgres_types import ROW, Values, identifier

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from bowerbird.store.postgres_session import Connection

MOST_DRAWN = 32
"""Numbers drawn for each row wanted, before the numbers of all rows that pass are read instead: some are drawn in vain
where rows were deleted, or do not pass the filter."""


def draw(
    connection: Connection, table: sql.Composable, fields: pa.Schema, k: int, seed: int, where: Filter | None
) -> list[int]:
    """The numbers of at most `k` rows that pass a filter, at random, without replacement; the same for a seed.

    Numbers between the first and the last are drawn, and those that are a row's which passes are kept in the order in
    which they were drawn: every such row is as likely as any other.
    """
    from psycopg import sql

    row = identifier(ROW)
    ends = connection.execute(sql.SQL("SELECT min({0}), max({0}) FROM {1}").format(row, table), {}).fetchone()
    assert ends is not None
    first, last = ends
    if first is None or k < 1:
        return []
    span = last - first + 1
    drawn = np.random.default_rng(seed)
    if span <= MOST_DRAWN * k:
        return _of_all(connection, table, fields, where, k, drawn)
    values = Values()
    statement = sql.SQL("SELECT {} FROM {} WHERE {} = ANY({}) AND {}").format(
        row, table, row, sql.Placeholder("numbers"), condition(where, fields, values)
    )
    seen: dict[int, None] = {}
    found: list[int] = []
    size = 2 * k + 16
    while len(seen) < MOST_DRAWN * k:
        numbers = [n for n in (first + drawn.integers(0, span, size)).tolist() if n not in seen]
        numbers = list(dict.fromkeys(numbers))
        seen.update(dict.fromkeys(numbers))
        there = {n for (n,) in connection.execute(statement, {**values, "numbers": numbers}).fetchall()}
        found += [n for n in numbers if n in there]
        if len(found) >= k:
            return found[:k]
        size *= 2
    return _of_all(connection, table, fields, where, k, np.random.default_rng(seed))


def _of_all(
    connection: Connection,
    table: sql.Composable,
    fields: pa.Schema,
    where: Filter | None,
    k: int,
    drawn: np.random.Generator,
) -> list[int]:
    from psycopg import sql

    values = Values()
    statement = sql.SQL("SELECT {row} FROM {table} WHERE {passes} ORDER BY {row}").format(
        row=identifier(ROW), table=table, passes=condition(where, fields, values)
    )
    every = [n for (n,) in connection.execute(statement, values).fetchall()]
    return [every[place] for place in drawn.permutation(len(every))[:k]]
