"""What PostgreSQL and libpq say, as errors of ours that never show a password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bowerbird.errors import (
    BowerbirdError,
    IndexBusyError,
    IndexDamagedError,
    IndexReadOnlyError,
    QueryError,
    StorageFullError,
    StoreError,
)
from bowerbird.media.reading import one_line
from bowerbird.store.postgres_address import EXAMPLE, Address

if TYPE_CHECKING:
    import psycopg

_LOST = re.compile(
    r"server closed the connection|connection (?:is|was) (?:closed|lost|bad)|terminating connection"
    r"|consuming input failed|sending (?:query|data)|SSL (?:SYSCALL|connection)|EOF detected|Connection reset"
    r"|broken pipe|could not (?:send|receive)|no connection to the server",
    re.IGNORECASE,
)
_STARTING = re.compile(
    r"the database system is (?:starting up|shutting down|in recovery|not (?:yet )?accepting)"
)
_UNREACHABLE = re.compile(
    r"Connection refused|No such file or directory|could not translate host|timeout expired|timed out"
    r"|No route to host|Network is unreachable|Name or service not known|failed to resolve",
    re.IGNORECASE,
)

# Messages of a refused connection: libpq hands on no code there.
_REFUSED: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"password authentication failed|no password supplied|authentication failed"),
        "refused the user or the password.",
        "Set PGPASSWORD, or write a line into ~/.pgpass; check the name of the user in the address.",
    ),
    (
        re.compile(r'database ".*" does not exist'),
        "lies in a database that does not exist.",
        "Create it, for example with createdb, or correct the address.",
    ),
    (
        re.compile(r'role ".*" does not exist'),
        "names a user that the server does not know.",
        "Correct the user in the address.",
    ),
    (
        re.compile(r"no pg_hba\.conf entry|permission denied for database"),
        "may not be used: the server refused access.",
        "Ask whoever runs the server to allow it (pg_hba.conf, GRANT CONNECT).",
    ),
    (
        re.compile(r"too many (?:clients|connections)|remaining connection slots"),
        "has no connection to spare.",
        "Try again later, or raise max_connections.",
    ),
)

_PASSING = ("08", "57P01", "57P02", "57P03", "57P05", "40001", "40P01")
"""Codes of what is over when one tries again: connections, shutdowns, conflicts of two transactions."""

_WRONG_VALUE = ("22", "54", "42883", "42804", "42846", "2201B")
"""Codes of questions that cannot be asked."""


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection has gone, or the server is about to come back: worth another try."""
    code = error.sqlstate or ""
    text = str(error)
    return code.startswith(_PASSING) or bool(_LOST.search(text) or _STARTING.search(text))


def is_unreachable(error: psycopg.Error) -> bool:
    """Whether nobody answers at the address."""
    return bool(_UNREACHABLE.search(str(error)))


def translated(  # noqa: PLR0911  one for each kind of trouble
    error: psycopg.Error, address: Address, *, writing: bool, asking: bool
) -> BowerbirdError:
    """The error of ours.

    Args:
        error: what psycopg raised.
        address: of the index.
        writing: whether something was to be changed.
        asking: whether a user's question was part of the statement.
    """
    code = error.sqlstate or ""
    said = address.without_secret(
        one_line(" ".join(str(error.diag.message_primary or error).split()), 300)
    ).rstrip(".")
    place = address.shown
    if code == "53100":
        return StorageFullError(
            f"No space is left on the server that holds {place}.",
            hint="Free some space and run the same command again; it continues where it stopped.",
        )
    if code == "25006" or (code == "42501" and writing):
        return IndexReadOnlyError(
            f"{place} cannot be written to: {said}.", hint="Connect as a user who may write there."
        )
    if code == "42501":
        return StoreError(f"{place} may not be read: {said}.", hint="Connect as a user who may read it.")
    if code == "55P03":
        return IndexBusyError(f"{place} is in use: {said}.", hint="Try again when the other has finished.")
    if code in ("42P01", "XX001", "XX002"):
        return IndexDamagedError(
            f"The index at {place} cannot be read: {said}.",
            hint="If it happens again, drop the table and index the folder anew.",
        )
    if asking and code.startswith(_WRONG_VALUE):
        return QueryError(f"PostgreSQL cannot answer that: {said}.", hint="Check the filter and the query.")
    for pattern, told, hint in _REFUSED:
        if pattern.search(str(error)):
            return StoreError(f"{place} {told}", hint=hint)
    if is_lost(error) or is_unreachable(error):
        return StoreError(
            f"{place} cannot be reached: {said}.",
            hint="Check that the server runs, the host and the port; then run the same command again.",
        )
    if not code:  # libpq has not come as far as to ask
        return StoreError(f"{place} cannot be used: {said}.", hint=f"Check the address; one is {EXAMPLE}.")
    return StoreError(f"{place} did not do what it was asked: {said}.", hint=f"It said {code}.")
