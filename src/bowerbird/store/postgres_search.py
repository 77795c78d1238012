"""Statements that search: by vectors, with pgvector's HNSW or without it, and by words with BM25.

BM25 as in Robertson and Zaragoza (2009): `k1` 1.2, `b` 0.75, idf = ln(1 + (n - df + 0.5) / (df + 0.5)). `n` and the
mean length are those of all texts, kept beside the table; `df` is counted in the index of the words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bowerbird.store.filters import Filter, words_of
from bowerbird.store.postgres_filters import condition
from bowerbird.store.postgres_types import ROW, WORDS, Names, Values, column_name, identifier

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from bowerbird.store.postgres_session import Connection

EXACT_ROWS = 10_000
"""Up to this many rows, in the table or by the planner's estimate of a filter, every vector is compared."""

MOST_BY_INDEX = 1_000
"""Of more results than this every vector is compared, too: it takes no longer."""

BREADTH = 200
"""`hnsw.ef_search`: candidates that pgvector keeps in view."""

SPARE = 64
"""Candidates beyond `k`, so that rows of equal scores are cut off in their order."""

CENTRED = 8
"""So many candidates for each result where the scores are those of centred vectors, which are in no index."""

MOST_SCANNED = 200_000
"""Rows that pgvector looks at before it gives up; then every vector that passes is compared."""

INDEXED = 2_000
INDEXED_HALF = 4_000
"""Dimensions up to which pgvector can index vectors of single and of half precision; longer ones are compared all."""

K1 = 1.2
B = 0.75


class Nearest(NamedTuple):
    """A question to a column of vectors.

    Attributes:
        column: its name.
        vector: float32 (dim,).
        k: at most so many rows.
        where: the filter.
        centre: taken from every row before it is scaled to length 1 again; None: rows as they are.
    """

    column: str
    vector: NDArray[np.float32]
    k: int
    where: Filter | None
    centre: NDArray[np.float32] | None


def compared(question: Nearest, table: sql.Composable, fields: pa.Schema) -> tuple[sql.Composed, Values]:
    """The statement for row numbers and scores, of all rows."""
    from psycopg import sql

    values = Values()
    statement = sql.SQL(
        "SELECT {row}, {score} AS score FROM {table} WHERE {column} IS NOT NULL AND {passes}"
        " ORDER BY score DESC, {row} LIMIT {k}"
    ).format(
        row=identifier(ROW),
        score=_score(question, values),
        table=table,
        column=identifier(column_name(question.column)),
        passes=condition(question.where, fields, values),
        k=values.put(question.k),
    )
    return statement, values


def through_index(question: Nearest, table: sql.Composable, fields: pa.Schema) -> tuple[sql.Composed, Values]:
    """The statement for row numbers and scores, of the rows that the index proposes.

    The index is asked for a number of candidates that does not change from page to page, in steps of four, and they are
    scored again: pgvector gives them roughly in order, and those of half precision with rounded scores.
    """
    from psycopg import sql

    values = Values()
    wanted, needed = 2 * SPARE, question.k * (1 if question.centre is None else CENTRED) + SPARE
    while wanted < needed:
        wanted *= 4
    width = fields.field(question.column).type.list_size
    statement = sql.SQL(
        "WITH near AS MATERIALIZED (SELECT {row}, {column} FROM {table} WHERE {passes}"
        " ORDER BY {indexed} <#> {vector} LIMIT {wanted})"
        " SELECT {row}, {score} AS score FROM near ORDER BY score DESC, {row} LIMIT {k}"
    ).format(
        row=identifier(ROW),
        column=identifier(column_name(question.column)),
        table=table,
        passes=condition(question.where, fields, values),
        indexed=indexed_expression(question.column, width),
        vector=sql.SQL("{}::{}").format(values.put(question.vector), sql.SQL(_indexed_type(width))),
        wanted=values.put(wanted),
        score=_score(question, values),
        k=values.put(question.k),
    )
    return statement, values


def _score(question: Nearest, values: Values) -> sql.Composable:
    from psycopg import sql

    rows: sql.Composable = identifier(column_name(question.column))
    if question.centre is not None:
        rows = sql.SQL("l2_normalize({} - {}::vector)").format(rows, values.put(question.centre))
    # Not as `-(a <#> b)`, by which the planner would take an index for an exact search.
    return sql.SQL("inner_product({}, {}::vector)").format(rows, values.put(question.vector))


def can_be_indexed(dimensions: int) -> bool:
    """Whether pgvector has an index for vectors of so many dimensions."""
    return dimensions <= INDEXED_HALF


def _indexed_type(dimensions: int) -> str:
    return f"{'vector' if dimensions <= INDEXED else 'halfvec'}({dimensions})"


def indexed_expression(column: str, dimensions: int) -> sql.Composable:
    """What the index of a column is made of."""
    from psycopg import sql

    name = identifier(column_name(column))
    return (
        name
        if dimensions <= INDEXED
        else sql.SQL("({}::{})").format(name, sql.SQL(_indexed_type(dimensions)))
    )


def index_name(table: str, column: str) -> str:
    """The name of the index of a column."""
    return column_name(f"{table}_{column}_hnsw")


def build_index(
    connection: Connection, table: sql.Composable, name: str, column: str, dimensions: int
) -> None:
    """Make the index of a column; nothing is changed where there is one."""
    from psycopg import sql

    kind = "vector_ip_ops" if dimensions <= INDEXED else "halfvec_ip_ops"
    connection.execute(
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw ({} {})").format(
            identifier(name), table, indexed_expression(column, dimensions), sql.SQL(kind)
        ),
        {},
    )


def prepare_index_scan(connection: Connection) -> None:
    """Settings of this transaction: how far an index is searched, and that it is."""
    connection.execute(
        "SELECT set_config('hnsw.ef_search', %(breadth)s, true),"
        " set_config('hnsw.iterative_scan', 'relaxed_order', true),"
        " set_config('hnsw.max_scan_tuples', %(most)s, true), set_config('enable_seqscan', 'off', true)",
        {"breadth": str(BREADTH), "most": str(MOST_SCANNED)},
    )


def estimated(connection: Connection, where: Filter, table: sql.Composable, fields: pa.Schema) -> int:
    """How many rows pass a filter, as the planner sees it."""
    from psycopg import sql

    values = Values()
    statement = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {}").format(
        table, condition(where, fields, values)
    )
    found = connection.execute(statement, values).fetchone()
    assert found is not None
    return int(found[0][0]["Plan"]["Plan Rows"])


def by_words(
    text: str, k: int, where: Filter | None, names: Names, fields: pa.Schema
) -> tuple[sql.Composed, Values]:
    """The statement for row numbers and scores of the rows that have words of a text.

    Args:
        text: words.
        k: at most so many rows.
        where: the filter.
        names: of the table, and of the catalogue, which knows the number of texts and of the words in them.
        fields: of the table.
    """
    from psycopg import sql

    values = Values()
    statement = sql.SQL(
        "WITH counted AS (SELECT texts, words FROM {catalogue} WHERE name = {name}),"
        " asked AS MATERIALIZED (SELECT word,"
        " ln(1 + (counted.texts - held.df + 0.5::float8) / (held.df + 0.5::float8)) AS idf"
        " FROM counted, unnest({asked}::text[]) AS word,"
        " LATERAL (SELECT count(*) AS df FROM {table} WHERE {words} @> ARRAY[word]) AS held)"
        " SELECT {row}, (SELECT sum(idf * n * {k1more} / (n + {k1} * ({rest} + {b} * cardinality({words})"
        " * counted.texts / greatest(counted.words, 1)))) FROM counted, asked,"
        " LATERAL (SELECT cardinality(array_positions({words}, word))::float8 AS n) AS times WHERE n > 0) AS score"
        " FROM {table} WHERE {words} && {asked}::text[] AND {passes} ORDER BY score DESC, {row} LIMIT {k}"
    ).format(
        catalogue=names.catalogue,
        name=values.put(names.bare),
        asked=values.put(sorted(set(words_of(text)))),
        table=names.table,
        words=identifier(WORDS),
        row=identifier(ROW),
        k1more=sql.SQL(repr(K1 + 1)),
        k1=sql.SQL(repr(K1)),
        rest=sql.SQL(repr(1 - B)),
        b=sql.SQL(f"{B!r}::float8"),
        passes=condition(where, fields, values),
        k=values.put(k),
    )
    return statement, values
