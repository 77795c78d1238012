"""`Table` on PostgreSQL with pgvector: one table, readable by whatever else speaks SQL.

Every column has the name that it has everywhere, unless PostgreSQL does not allow it: `postgres_types.column_name`. Two
columns are ours alone: the number of the row, which decides the order, and the words of its text. What Arrow knows of
the columns, the number of the version and the counts that BM25 needs lie in the table `bowerbird_tables`; it is changed
in the transaction that changes the rows.

Readers see what was committed last. A connection that is lost is made again and the statement repeated: every change
here may be made twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import IndexDamagedError, SpaceMismatchError, StoreError
from bowerbird.store.filters import Filter
from bowerbird.store.postgres_address import Address
from bowerbird.store.postgres_catalogue import change, exists, known, schema_of
from bowerbird.store.postgres_drawing import draw
from bowerbird.store.postgres_filters import condition
from bowerbird.store.postgres_rows import Staged, batch_of, definition, fetched, row_bytes
from bowerbird.store.postgres_search import (
    EXACT_ROWS,
    MOST_BY_INDEX,
    Nearest,
    build_index,
    by_words,
    can_be_indexed,
    compared,
    estimated,
    index_name,
    prepare_index_scan,
    through_index,
)
from bowerbird.store.postgres_session import Session, driver
from bowerbird.store.postgres_types import (
    ROW,
    WORDS,
    Names,
    Values,
    column_name,
    copied_as,
    identifier,
    sql_type,
)
from bowerbird.store.table import SCORE, Table, VectorColumn, schema

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from bowerbird.store.postgres_session import Connection

FETCHED_BYTES = 8 << 20
"""About so much is read from the server at a time."""


class PostgresTable(Table):
    """A table of PostgreSQL. Threads may use it at the same time; it may be pickled."""

    snapshots = False
    pieces = False

    def __init__(self, session: Session, fields: pa.Schema) -> None:
        self._session = session
        self._fields = fields
        self._indexed: dict[str, bool] = {}

    @classmethod
    def create(cls, address: Address, columns: pa.Schema) -> PostgresTable:
        """Make an empty table.

        Raises:
            StoreError: there is one of that name, it cannot be made, or PostgreSQL has no type for a column.
        """
        from psycopg import sql

        names = Names(address)
        made = [definition(field) for field in columns]
        statement = sql.SQL("CREATE TABLE {} ({} bigint GENERATED ALWAYS AS IDENTITY UNIQUE, {}, {} text[])")

        def create(connection: Connection) -> None:
            if connection.execute("SELECT to_regclass(%(name)s)", {"name": names.quoted}).fetchone() != (
                None,
            ):
                raise StoreError(
                    f"There is a table {address.table} already in {address.shown}.",
                    hint="Give another table=NAME.",
                )
            connection.execute(
                statement.format(names.table, identifier(ROW), sql.SQL(", ").join(made), identifier(WORDS)),
                {},
            )
            connection.execute(
                sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(names.table, identifier("id")), {}
            )
            connection.execute(
                sql.SQL("CREATE INDEX ON {} USING gin ({})").format(names.table, identifier(WORDS)), {}
            )
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (%(name)s, 1, %(fields)s, 0, 0)").format(names.catalogue),
                {"name": address.table, "fields": columns.serialize().to_pybytes()},
            )

        session = Session(address)
        session.write(create)
        return cls(session, columns)

    @classmethod
    def open(cls, address: Address, version: int | None = None) -> PostgresTable:
        """Open a table.

        Raises:
            IndexDamagedError: it is not there.
            StoreError: the server cannot be reached, or refuses.
        """
        session = Session(address)
        return cls(session, known(session, "columns", schema_of))

    @classmethod
    def leftover(cls, address: Address) -> int | None:
        """How many records lie in a table of which no manifest speaks; None: some, but they cannot be read.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        if not exists(address):
            return 0
        try:
            return cls.open(address).count()
        except IndexDamagedError:
            return None

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._session, self._fields))

    @property
    def _names(self) -> Names:
        return Names(self._session.address)

    @property
    def version(self) -> int:
        """See `Table`: that of the last commit, by whomever."""
        return known(self._session, "version", int)

    def refresh(self) -> None:
        """See `Table`: rows are always the newest; this asks which columns there are."""
        self._fields = known(self._session, "columns", schema_of)
        self._indexed = {}

    @property
    def fields(self) -> pa.Schema:
        """See `Table`."""
        return self._fields

    def extend(self, fields: Sequence[pa.Field], wider: Sequence[pa.Field] = ()) -> None:
        """See `Table`."""
        from psycopg import sql

        lacking = [field for field in schema(()) if field.name not in self.names]
        new = [field for field in (*lacking, *fields) if field.name not in self.names]
        if not (new or wider):
            return
        changes = [sql.SQL("ADD COLUMN IF NOT EXISTS {}").format(definition(field)) for field in new]
        for field in wider:
            name, type_ = identifier(column_name(field.name)), sql.SQL(sql_type(field.type, field.name))
            changes.append(
                sql.SQL("ALTER COLUMN {name} TYPE {type} USING {name}::{bare}").format(
                    name=name, type=type_, bare=sql.SQL(sql_type(field.type, field.name).partition(" ")[0])
                )
            )
        types = {field.name: field for field in wider}
        self._alter(changes, [*(types.get(field.name, field) for field in self._fields), *new])

    def drop(self, names: Sequence[str]) -> None:
        """See `Table`."""
        from psycopg import sql

        gone = [name for name in self.names if name in set(names)]
        if gone:
            changes = [
                sql.SQL("DROP COLUMN IF EXISTS {}").format(identifier(column_name(name))) for name in gone
            ]
            self._alter(changes, [field for field in self._fields if field.name not in gone])

    def _alter(self, changes: Sequence[sql.Composable], fields: Sequence[pa.Field]) -> None:
        import pyarrow as pa
        from psycopg import sql

        after = pa.schema(fields)
        taken = [column_name(name) for name in after.names]
        if len(set(taken)) < len(taken):
            raise StoreError("Two columns would have the same name.", hint="Rename one of the attributes.")

        def alter(connection: Connection) -> None:
            statement = sql.SQL("ALTER TABLE {} {}").format(self._names.table, sql.SQL(", ").join(changes))
            connection.execute(statement, {})
            connection.execute(
                sql.SQL(
                    "UPDATE {} SET version = version + 1, columns = %(fields)s WHERE name = %(name)s"
                ).format(self._names.catalogue),
                {"fields": after.serialize().to_pybytes(), "name": self._session.address.table},
            )

        self._session.write(alter)
        self._fields = after
        self._indexed = {}

    def count(self, where: Filter | None = None) -> int:
        """See `Table`."""
        from psycopg import sql

        values = Values()
        statement = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(
            self._names.table, condition(where, self._fields, values)
        )
        return int(self._rows_of(statement, values)[0][0])

    def _rows_of(self, statement: sql.Composed, values: Values) -> list[tuple[Any, ...]]:
        return self._session.read(lambda c: fetched(c, statement, values), asking=True)

    def upsert(self, rows: pa.Table, *, remove: Sequence[str] = ()) -> None:
        """See `Table`. Columns that are not given become null in rows that are replaced."""
        from psycopg import sql

        staged = Staged.of(rows, self._fields)
        lacking = [name for name in self.names if name not in rows.column_names]

        def upsert(connection: Connection) -> None:
            gone = Values()
            if remove:
                statement = sql.SQL("DELETE FROM {} WHERE id = ANY({})")
                connection.execute(statement.format(self._names.table, gone.put(list(remove))), gone)
            if staged.rows:
                staged.send(connection, self._names.table)
                staged.replace(connection, self._names.table, lacking)
                staged.insert(connection, self._names.table)

        change(self._session, [*staged.ids, *remove], upsert)

    def update(self, rows: pa.Table) -> None:
        """See `Table`."""
        staged = Staged.of(rows, self._fields)

        def update(connection: Connection) -> None:
            staged.send(connection, self._names.table)
            staged.replace(connection, self._names.table)

        if staged.rows and rows.num_columns > 1:
            change(self._session, staged.ids, update)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Table`."""
        from psycopg import sql

        found = [0]

        def delete(connection: Connection) -> None:
            values = Values()
            statement = sql.SQL("DELETE FROM {} WHERE id = ANY({})").format(
                self._names.table, values.put(list(ids))
            )
            # Where the answer to a commit is lost, the second attempt finds nothing.
            found[0] = max(found[0], connection.execute(statement, values).rowcount)

        if ids:
            change(self._session, ids, delete)
        return found[0]

    def piece_writer(self) -> Callable[[pa.Table], bytes]:
        """See `Table`: nothing that `pieces` promises here."""
        raise StoreError("Workers do not write into PostgreSQL by themselves.")

    def append(self, pieces: Sequence[bytes]) -> None:
        """See `Table`: nothing that `pieces` promises here."""
        raise StoreError("Workers do not write into PostgreSQL by themselves.")

    # Questions.

    def scan(self, columns: Sequence[str], where: Filter | None = None) -> Iterator[pa.RecordBatch]:
        """See `Table`. After a lost connection it goes on behind the last row that was read."""
        last, attempt = 0, 0
        while True:
            try:
                for number, batch in self._scanned(columns, where, last):
                    last, attempt = number, 0
                    yield batch
            except driver().Error as error:
                self._session.again_or_raise(error, attempt, asking=True)
                attempt += 1
            else:
                return

    def _scanned(
        self, columns: Sequence[str], where: Filter | None, last: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches from behind a row, each with the number of its last."""
        from psycopg import sql

        selected, types = self._selected(columns)
        values = Values()
        statement = sql.SQL("SELECT {} FROM {} WHERE {} > {} AND {} ORDER BY {}").format(
            sql.SQL(", ").join([identifier(ROW), *selected]),
            self._names.table,
            identifier(ROW),
            values.put(last),
            condition(where, self._fields, values),
            identifier(ROW),
        )
        size = max(64, min(8192, FETCHED_BYTES // row_bytes(types)))
        with (
            self._session.connection() as connection,
            connection.transaction(),
            connection.cursor("bowerbird_scan", binary=True) as cursor,
        ):
            cursor.execute(statement, values)
            while rows := cursor.fetchmany(size):
                yield rows[-1][0], batch_of(rows, types)

    def _selected(self, columns: Sequence[str]) -> tuple[list[sql.Composable], pa.Schema]:
        """Columns as they are asked for, and what they hold.

        Raises:
            StoreError: there is no such column.
        """
        import pyarrow as pa

        for name in columns:
            if name not in self._fields.names:
                raise StoreError(f"The index at {self._session.address.shown} has no column {name!r}.")
        wanted = pa.schema([self._fields.field(name) for name in columns])
        return [identifier(column_name(name)) for name in columns], wanted

    def sample(
        self, columns: Sequence[str], k: int, *, seed: int = 0, where: Filter | None = None
    ) -> pa.Table:
        """See `Table`. With a filter that few rows pass, the numbers of all that pass are read."""
        self._selected(columns)
        rows = self._session.read(
            lambda connection: draw(connection, self._names.table, self._fields, k, seed, where), asking=True
        )
        return self._taken(rows, columns)

    def nearest(
        self,
        column: str,
        vector: NDArray[np.float32],
        k: int,
        *,
        columns: Sequence[str],
        where: Filter | None = None,
        centre: NDArray[np.float32] | None = None,
        exact: bool = False,
    ) -> pa.Table:
        """See `Table`. Through an HNSW index where `optimize` has built one, unless a filter leaves few rows."""
        self._selected([column, *columns])
        if copied_as(self._fields.field(column).type, column) != "vector":
            raise StoreError(f"The column {column!r} of {self._session.address.shown} holds no vectors.")
        width = self._fields.field(column).type.list_size
        for what, given in (("query", vector), ("centre", centre)):
            if given is not None and len(given) != width:
                raise SpaceMismatchError(f"The {what} has {len(given)} dimensions and {column} has {width}.")
        question = Nearest(column, np.asarray(vector, np.float32), max(k, 0), where, centre)

        def ask(connection: Connection, how: Callable[..., Any]) -> list[tuple[Any, ...]]:
            statement, values = how(question, self._names.table, self._fields)
            return fetched(connection, self._with_columns(statement, columns), values)

        def find(connection: Connection) -> list[tuple[Any, ...]]:
            if not exact and k <= MOST_BY_INDEX and self._has_index(connection, column):
                many = where is None or (
                    estimated(connection, where, self._names.table, self._fields) > EXACT_ROWS
                )
                if many:
                    prepare_index_scan(connection)
                    found = ask(connection, through_index)
                    if len(found) == k:
                        return found
                    connection.execute("SELECT set_config('enable_seqscan', 'on', true)")
            return ask(connection, compared)

        return self._scored(self._session.read(find, asking=True), columns)

    def words(self, text: str, k: int, *, columns: Sequence[str], where: Filter | None = None) -> pa.Table:
        """See `Table`."""
        self._selected(columns)
        statement, values = by_words(text, max(k, 0), where, self._names, self._fields)
        return self._scored(self._rows_of(self._with_columns(statement, columns), values), columns)

    def _with_columns(self, statement: sql.Composed, columns: Sequence[str]) -> sql.Composed:
        """A statement for row numbers and scores as one for these and columns, best first."""
        from psycopg import sql

        selected, _ = self._selected(columns)
        return sql.SQL(
            "WITH found AS MATERIALIZED ({statement}) SELECT {columns}, found.score FROM found"
            " JOIN {table} AS here USING ({row}) ORDER BY found.score DESC, found.{row}"
        ).format(
            statement=statement,
            columns=sql.SQL(", ").join(
                sql.SQL("here.{}").format(name) for name in (identifier(ROW), *selected)
            ),
            table=self._names.table,
            row=identifier(ROW),
        )

    def _scored(self, found: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> pa.Table:
        """What `_with_columns` gives as Arrow."""
        import pyarrow as pa

        _, types = self._selected(columns)
        rows = pa.Table.from_batches([batch_of([row[:-1] for row in found], types)])
        return rows.append_column(SCORE, pa.array([row[-1] for row in found], pa.float32()))

    def _taken(self, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Rows by number, in that order; those that have gone in the meantime are left out."""
        import pyarrow as pa
        from psycopg import sql

        selected, types = self._selected(columns)
        values = Values()
        statement = sql.SQL("SELECT {} FROM {} WHERE {} = ANY({})").format(
            sql.SQL(", ").join([identifier(ROW), *selected]),
            self._names.table,
            identifier(ROW),
            values.put(list(rows)),
        )
        found = {row[0]: row for row in self._rows_of(statement, values)}
        return pa.Table.from_batches([batch_of([found[row] for row in rows if row in found], types)])

    # Indexes.

    def optimize(self, vectors: Sequence[VectorColumn]) -> None:
        """See `Table`. Builds HNSW indexes; PostgreSQL keeps them up to date from then on, and tidies up itself."""
        from psycopg import sql

        rows = self.count()
        for column in vectors:
            if rows > EXACT_ROWS and can_be_indexed(column.dimensions):
                name = index_name(self._session.address.table, column.name)
                self._session.write(
                    lambda c, name=name, column=column: build_index(  # type: ignore[misc]
                        c, self._names.table, name, column.name, column.dimensions
                    )
                )
        analyse = sql.SQL("ANALYZE {}").format(self._names.table)
        self._session.write(lambda connection: connection.execute(analyse, {}))
        self._indexed = {}

    def _has_index(self, connection: Connection, column: str) -> bool:
        if column not in self._indexed:
            found = connection.execute(
                "SELECT EXISTS (SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
                " WHERE indrelid = to_regclass(%(table)s) AND relname = %(name)s AND indisvalid)",
                {"table": self._names.quoted, "name": index_name(self._session.address.table, column)},
            ).fetchone()
            self._indexed[column] = found == (True,)
        return self._indexed[column]
