"""What is known of the tables of a schema beside their rows, in the table `bowerbird_tables`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bowerbird.errors import IndexDamagedError
from bowerbird.store.postgres_address import Address
from bowerbird.store.postgres_rows import fetched
from bowerbird.store.postgres_session import Session
from bowerbird.store.postgres_types import WORDS, Names, Values, identifier

if TYPE_CHECKING:
    import pyarrow as pa

    from bowerbird.store.postgres_session import Connection

T = TypeVar("T")


def exists(address: Address) -> bool:
    """Whether there is a table of ours.

    Raises:
        StoreError: the server cannot be reached, or refuses.
    """
    try:
        known(Session(address), "version", int)
    except IndexDamagedError:
        return False
    return True


def known(session: Session, what: str, read: Callable[[Any], T]) -> T:
    """Something of what the catalogue says of a table.

    Raises:
        IndexDamagedError: it knows no such table.
    """
    from psycopg import errors, sql

    address = session.address
    names = Names(address)
    statement = sql.SQL(
        "SELECT {} FROM {} WHERE name = %(name)s AND to_regclass(%(table)s) IS NOT NULL"
    ).format(sql.SQL(what), names.catalogue)

    def ask(connection: Connection) -> Any:
        try:
            return connection.execute(statement, {"name": address.table, "table": names.quoted}).fetchone()
        except errors.UndefinedTable:
            return None

    found = session.read(ask)
    if found is None:
        raise is_gone(address)
    return read(found[0])


def schema_of(data: bytes) -> pa.Schema:
    """The columns of a table, as the catalogue keeps them."""
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(data))


def is_gone(address: Address) -> IndexDamagedError:
    """The error for a table that is not there."""
    return IndexDamagedError(
        f"The index at {address.shown} cannot be read: its table is not there.",
        hint="Check the name of the table, or index the folder anew.",
    )


def change(session: Session, ids: Sequence[str], action: Callable[[Connection], None]) -> None:
    """Change rows of some ids, count their texts before and after, and number the version; in one transaction.

    The row of the table is locked first, so that of two changes one waits for the other.

    Args:
        session: of the table.
        ids: of all rows that may change.
        action: changes them, and may be called again after a lost connection.

    Raises:
        IndexDamagedError: there is no such table.
        StoreError: the server cannot be reached, or refuses.
    """
    from psycopg import sql

    values, names = Values(), Names(session.address)
    counts = sql.SQL(
        "SELECT count({words}), coalesce(sum(cardinality({words})), 0)::bigint FROM {table} WHERE id = ANY({ids})"
    ).format(words=identifier(WORDS), table=names.table, ids=values.put(list(ids)))
    mine = {"name": session.address.table}

    def carry_out(connection: Connection) -> None:
        lock = sql.SQL("SELECT version FROM {} WHERE name = %(name)s FOR UPDATE").format(names.catalogue)
        if connection.execute(lock, mine).fetchone() is None:
            raise is_gone(session.address)
        ((texts, words),) = fetched(connection, counts, values)
        action(connection)
        ((texts_now, words_now),) = fetched(connection, counts, values)
        connection.execute(
            sql.SQL(
                "UPDATE {} SET version = version + 1, texts = texts + %(texts)s, words = words + %(words)s"
                " WHERE name = %(name)s"
            ).format(names.catalogue),
            {**mine, "texts": texts_now - texts, "words": words_now - words},
        )

    session.write(carry_out)
