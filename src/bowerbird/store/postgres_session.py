"""Connections to a PostgreSQL server: kept, shared between threads, made anew when they are lost."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from bowerbird.errors import MissingExtraError
from bowerbird.store.postgres_address import Address
from bowerbird.store.postgres_errors import is_lost, is_unreachable, translated

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

PAUSES = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Seconds between two attempts at something that failed because the connection was lost: a server that is started
again is back within them."""

CONNECT_SECONDS = 10
"""After so long without an answer a connection is given up, unless the address has a `connect_timeout`."""

KEPT = 4
"""Connections that are kept open for the next who needs one."""

T = TypeVar("T")


def driver() -> Any:
    """The package psycopg, loaded when it is first needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pgvector.psycopg  # noqa: F401  needs psycopg, and says so
        import psycopg
    except ImportError as error:
        package = "pgvector" if "pgvector" in str(error) else "psycopg"
        raise MissingExtraError(package, "postgres") from error
    return psycopg


class Session:
    """What speaks to one address. Threads may use it at the same time, and so may a forked process."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pool = _Pool.of(address.uri)

    def __reduce__(self) -> tuple[object, ...]:
        # Connections do not travel; whoever gets this makes his own.
        return (Session, (self.address,))

    def connect(self) -> Connection:
        """A new connection, which the caller closes. It is in autocommit mode and in UTC.

        Raises:
            MissingExtraError: psycopg is not installed.
            psycopg.Error: the server refuses.
        """
        psycopg = driver()
        from pgvector.psycopg import register_vector

        own: dict[str, Any] = {"application_name": "bowerbird", "connect_timeout": CONNECT_SECONDS}
        told = psycopg.conninfo.conninfo_to_dict(self.address.uri)
        own = {key: value for key, value in own.items() if key not in told}
        # Prepared statements would refuse to run once a column has another type.
        made: Connection = psycopg.connect(self.address.uri, autocommit=True, prepare_threshold=None, **own)
        try:
            made.execute("SET TIME ZONE 'UTC'")
            with suppress(psycopg.ProgrammingError):  # No index has been made in this database yet.
                register_vector(made)
        except BaseException:
            made.close()
            raise
        self._pool.reached = True
        return made

    def read(self, action: Callable[[Connection], T], *, asking: bool = False) -> T:
        """Carry out an action in a transaction; again, some times, where the connection is lost.

        Args:
            action: gets a connection.
            asking: whether a user's question is part of it, which may be what is wrong.

        Raises:
            StoreError: the server is not there, or refuses.
            QueryError: the question cannot be asked.
        """
        return self._tried(action, writing=False, asking=asking)

    def write(self, action: Callable[[Connection], T]) -> T:
        """Like `read`, for something that changes the database and may be done twice.

        Raises:
            StoreError: the server is not there, or refuses; nothing has changed.
        """
        return self._tried(action, writing=True, asking=False)

    def _tried(self, action: Callable[[Connection], T], *, writing: bool, asking: bool) -> T:
        psycopg = driver()
        for attempt in range(len(PAUSES) + 1):
            try:
                with self.connection() as connection, connection.transaction():
                    return action(connection)
            except psycopg.Error as error:
                self.again_or_raise(error, attempt, writing=writing, asking=asking)
        raise AssertionError("the last attempt returns or raises")

    def again_or_raise(
        self, error: psycopg.Error, attempt: int, *, writing: bool = False, asking: bool = False
    ) -> None:
        """Wait for the next attempt after an error, or raise it as one of ours.

        Args:
            error: what psycopg raised.
            attempt: how many have failed before this one.
            writing: whether something was to be changed.
            asking: whether a user's question was part of it.
        """
        # A server that never answered is more likely misspelt than about to be started.
        passing = self._pool.reached if is_unreachable(error) else is_lost(error)
        if not passing or attempt >= len(PAUSES):
            raise translated(error, self.address, writing=writing, asking=asking) from error
        self.forget()
        time.sleep(PAUSES[attempt])

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for a while; it comes back unless it is broken or in the middle of something."""
        taken = self._pool.taken() or self.connect()
        try:
            yield taken
        finally:
            self._pool.put_back(taken)

    def forget(self) -> None:
        """Close what is kept open."""
        self._pool.close()


class _Pool:
    """Connections to one database that nobody is using."""

    def __init__(self) -> None:
        self.reached = False  # whether the server has answered once
        self._idle: list[Connection] = []
        self._owner = [os.getpid()]
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle, self._owner)

    @classmethod
    def of(cls, uri: str) -> _Pool:
        """That of a database: one for all tables in it."""
        with _ALL_LOCK:
            found = _ALL.get(uri)
            if found is None:
                found = _ALL[uri] = cls()
            return found

    def taken(self) -> Connection | None:
        """One of them, if there are any."""
        with self._lock:
            if self._owner[0] != os.getpid():
                # They belong to the process that this one was forked from: to close them would end its sessions.
                _OF_PARENT.extend(self._idle)
                self._idle.clear()
                self._owner[0] = os.getpid()
            return self._idle.pop() if self._idle else None

    def put_back(self, connection: Connection) -> None:
        """Keep a connection, or close it."""
        psycopg = driver()
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if idle and len(self._idle) < KEPT and self._owner[0] == os.getpid():
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            _close(self._idle, self._owner)


_ALL: weakref.WeakValueDictionary[str, _Pool] = weakref.WeakValueDictionary()
_ALL_LOCK = threading.Lock()
_OF_PARENT: list[Connection] = []


def _close(idle: list[Connection], owner: list[int]) -> None:
    if owner[0] == os.getpid():
        while idle:
            idle.pop().close()
