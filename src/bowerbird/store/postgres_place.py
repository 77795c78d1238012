"""An index in a database of PostgreSQL: its small files as rows, its lock as one that the server keeps.

The lock is an advisory lock of a session. The server frees it when that session ends, however the process ends. Whoever
takes it leaves a mark, so that a holder whose connection was lost for a moment can tell whether another was there in
between.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bowerbird.errors import IndexBusyError, StoreError
from bowerbird.store.location import LOCK, Held, Location, busy
from bowerbird.store.postgres_address import Address
from bowerbird.store.postgres_session import PAUSES, Session, driver
from bowerbird.store.postgres_types import CATALOGUE, FILES, Names, identifier, in_text

if TYPE_CHECKING:
    from psycopg import sql

    from bowerbird.store.postgres_session import Connection

OLDEST_PGVECTOR = (0, 8)
"""It brought scans that go on until enough rows pass a filter."""

_MAKING = 0x626F776572626972
"""The advisory lock under which our own tables are made: two who make them at once would disturb each other."""

_PAUSE = 0.2
"""Seconds between two attempts to take the lock."""

# Who drops a table has deleted the index: its files count for nothing from then on.
_LIVE = " AND NOT EXISTS (SELECT FROM {catalogue} WHERE name = %(place)s AND to_regclass(%(table)s) IS NULL)"


@dataclass(frozen=True)
class PostgresPlace(Location):
    """A table of a database, such as `postgresql://me@localhost/photos?table=holidays`.

    `str()` leaves out the password: whoever reads it back has to have it in PGPASSWORD or ~/.pgpass.
    """

    address: Address
    session: Session = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "session", Session(self.address))

    @classmethod
    def at(cls, text: str) -> PostgresPlace:
        """The place of an address.

        Raises:
            StoreError: it names no table.
        """
        return cls(Address.of(text))

    def __str__(self) -> str:
        return self.address.shown

    def child(self, name: str) -> str:
        """See `Location`."""
        return f"{self}#{name}"

    def exists(self, name: str) -> bool:
        """See `Location`."""
        return self.read_bytes(name) is not None

    def read_bytes(self, name: str) -> bytes | None:
        """See `Location`."""
        statement = "SELECT data FROM {files} WHERE place = %(place)s AND name = %(name)s" + _LIVE
        found = self._asked(statement, name)
        return bytes(found[0][0]) if found else None

    def replace(self, name: str, data: bytes) -> None:
        """See `Location`."""
        self._done(
            "INSERT INTO {files} VALUES (%(place)s, %(name)s, %(data)s)"
            " ON CONFLICT (place, name) DO UPDATE SET data = EXCLUDED.data",
            name,
            data,
        )

    def remove(self, name: str) -> None:
        """See `Location`."""
        if self.names():
            self._done("DELETE FROM {files} WHERE place = %(place)s AND name = %(name)s", name)

    def names(self) -> list[str]:
        """See `Location`: the files; the table is not among them."""
        statement = "SELECT name FROM {files} WHERE place = %(place)s" + _LIVE + " ORDER BY 1"
        return [name for (name,) in self._asked(statement)]

    def size(self) -> int | None:
        """See `Location`: table, indexes and texts, as the server counts them."""
        found = self._asked("SELECT pg_total_relation_size(to_regclass(%(table)s))")
        return int(found[0][0]) if found and found[0][0] is not None else None

    def remove_table(self) -> None:
        """Remove the table with all that is in it, if it is one of ours."""
        from psycopg import errors, sql

        statement = sql.SQL("DELETE FROM {} WHERE name = %(name)s").format(self._names.catalogue)

        def remove(connection: Connection) -> None:
            with suppress(errors.UndefinedTable), connection.transaction():
                if connection.execute(statement, {"name": self.address.table}).rowcount:
                    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._names.table), {})

        self.session.write(remove)

    def prepare(self) -> None:
        """See `Location`: the extension pgvector, the schema and our own tables.

        Raises:
            StoreError: one of them cannot be made, or the table is another's.
        """
        if self.session.write(self._prepared):
            self.session.forget()  # Connections made before do not know the type of vectors yet.

    def _prepared(self, connection: Connection) -> bool:
        """Whether pgvector is new."""
        from psycopg import sql

        connection.execute("SELECT pg_advisory_xact_lock(%(key)s)", {"key": _MAKING})
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreError(
                f"The database of {self} keeps texts as {encoding}.",
                hint="Make one with: createdb --encoding UTF8 --template template0 NAME",
            )
        extended = self._extended(connection)
        if self._schema and not _is_there(connection, "to_regnamespace", self._schema):
            connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(identifier(*self._schema)), {}
            )
        made = {
            FILES: "place text, name text, data bytea NOT NULL, PRIMARY KEY (place, name)",
            CATALOGUE: "name text PRIMARY KEY, version bigint NOT NULL, columns bytea NOT NULL,"
            " texts bigint NOT NULL, words bigint NOT NULL",
        }
        for name, columns in made.items():
            if not _is_there(connection, "to_regclass", (*self._schema, name)):
                statement = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})")
                table = identifier(*self._schema, name)
                connection.execute(statement.format(table, sql.SQL(columns)), {})
        there = _is_there(connection, "to_regclass", (*self._schema, self.address.table))
        mine = {"name": self.address.table}
        known = sql.SQL("SELECT FROM {} WHERE name = %(name)s").format(self._names.catalogue)
        ours = connection.execute(known, mine).fetchone() is not None
        if ours and not there:
            for text in (
                "DELETE FROM {files} WHERE place = %(name)s",
                "DELETE FROM {catalogue} WHERE name = %(name)s",
            ):
                connection.execute(self._statement(text), mine)
        if there and not ours:
            raise StoreError(
                f"{self} is a table of something else.",
                hint="Give the index a table of its own: ?table=NAME.",
            )
        return extended

    def _extended(self, connection: Connection) -> bool:
        """Have pgvector in the database; whether it was added."""
        psycopg = driver()
        query = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        found = connection.execute(query).fetchone()
        added = found is None
        if added:
            try:
                with connection.transaction():
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except psycopg.errors.InsufficientPrivilege as error:
                raise StoreError(
                    f"The database of {self} has no pgvector, and this user may not add it.",
                    hint="Let its owner run: CREATE EXTENSION vector",
                ) from error
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
                raise StoreError(
                    f"The server of {self} does not have pgvector.",
                    hint="Install it there (https://github.com/pgvector/pgvector), then: CREATE EXTENSION vector",
                ) from error
            found = connection.execute(query).fetchone()
        assert found is not None
        version = tuple(int(part) for part in str(found[0]).split(".")[:2])
        if version < OLDEST_PGVECTOR:
            raise StoreError(
                f"The database of {self} has pgvector {found[0]}; 0.8 or newer is needed.",
                hint="Let its owner run: ALTER EXTENSION vector UPDATE",
            )
        return added

    @property
    def _names(self) -> Names:
        return Names(self.address)

    @property
    def _schema(self) -> tuple[str, ...]:
        return (self.address.schema,) if self.address.schema else ()

    def _statement(self, text: str) -> sql.Composed:
        from psycopg import sql

        return sql.SQL(text).format(files=self._names.files, catalogue=self._names.catalogue)

    def _asked(self, text: str, name: str = "") -> list[tuple[Any, ...]]:
        """Rows; none where no index has ever been made in the database."""
        from psycopg import errors

        def ask(connection: Connection) -> list[tuple[Any, ...]]:
            try:
                values = {"place": self.address.table, "name": name, "table": self._names.quoted}
                return connection.execute(self._statement(text), values).fetchall()
            except errors.UndefinedTable:
                return []

        return self.session.read(ask)

    def _done(self, text: str, name: str, data: bytes = b"") -> None:
        values = {"place": self.address.table, "name": name, "data": data}
        self.session.write(lambda connection: connection.execute(self._statement(text), values))

    @contextmanager
    def lock(self, seconds: float) -> Iterator[Held]:
        """See `Location`, and the module."""
        held = _Lock(self)
        try:
            held.take(seconds)
            self.replace(LOCK, held.mark)
            yield held
        finally:
            held.release()


class _Lock(Held):
    """The lock of an index, on a connection of its own."""

    def __init__(self, place: PostgresPlace) -> None:
        self.mark = uuid.uuid4().hex.encode()
        self._place = place
        self._connection: Connection | None = None

    def take(self, seconds: float) -> None:
        """Wait for the lock.

        Raises:
            IndexBusyError: another kept it for longer than `seconds`.
            StoreError: the server cannot be reached.
        """
        psycopg = driver()
        session, deadline, failed = self._place.session, time.monotonic() + seconds, 0
        while True:
            try:
                if self._tried():
                    return
            except psycopg.Error as error:
                self.release()
                session.again_or_raise(error, failed)
                failed += 1
                continue
            if time.monotonic() >= deadline:
                raise busy(self._place, seconds, self._holder())
            time.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))

    def _tried(self) -> bool:
        if self._connection is None:
            self._connection = self._place.session.connect()
        found = self._connection.execute(
            "SELECT pg_try_advisory_lock(%(key)s)", {"key": self._key()}
        ).fetchone()
        return found == (True,)

    def _key(self) -> int:
        """A number for the table; locks are of one database."""
        address = self._place.address
        named = address.schema
        if not named and self._connection is not None:
            found = self._connection.execute("SELECT current_schema()").fetchone()
            named = str(found[0]) if found else ""
        digest = hashlib.sha256(f"bowerbird\0{named}\0{address.table}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def _holder(self) -> str:
        """Which session has it, where the server says so."""
        assert self._connection is not None
        # A key of 64 bits is shown in two halves.
        found = self._connection.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
            " AND (classid::bigint << 32) | objid::bigint = %(key)s",
            {"key": self._key()},
        ).fetchone()
        return f" (session {found[0]} of the server)" if found else ""

    def check(self) -> None:
        """See `Held`. A connection that was lost is made again, and the lock taken again if nobody had it since."""
        psycopg = driver()
        try:
            assert self._connection is not None
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            self.release()
            self._again()

    def _again(self) -> None:
        self.take(sum(PAUSES))
        if self._place.read_bytes(LOCK) != self.mark:
            raise IndexBusyError(
                f"The connection to {self._place} was lost, and another process has written there since.",
                hint="What was committed before is kept. Run the same command again.",
            )

    def release(self) -> None:
        """Give it back; the server does so, too, when the connection ends."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _is_there(connection: Connection, function: str, names: tuple[str, ...]) -> bool:
    """Whether something of a name exists; `function` is the server's for names of its kind."""
    from psycopg import sql

    statement = sql.SQL("SELECT {}(%(name)s) IS NOT NULL").format(sql.SQL(function))
    return connection.execute(statement, {"name": in_text(*names)}).fetchone() == (True,)
