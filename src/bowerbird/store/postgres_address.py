"""The address of an index in PostgreSQL: `postgresql://user@host:port/database?table=photos`.

It is an address as libpq takes it, with two parameters of ours: `table`, and `schema` where the table does not lie in
the first schema of the search path. The others, such as `sslmode` or `host`, are libpq's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from bowerbird.errors import StoreError

SCHEMES = ("postgresql", "postgres")

OWN = "bowerbird_"
"""The names of our own tables and columns begin with this."""

LONGEST = 63
"""Bytes of a name; PostgreSQL cuts longer ones off."""

EXAMPLE = "postgresql://me@localhost/photos?table=holidays"


@dataclass(frozen=True)
class Address:
    """Where an index lies.

    Attributes:
        shown: the address without the password.
        uri: what libpq is given, with the password if there is one in it.
        table: name of the table.
        schema: in which it lies; empty: the first of the search path.
        secret: the password, so that it can be kept out of messages.
    """

    shown: str
    uri: str = field(repr=False)
    table: str
    schema: str = ""
    secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, text: str) -> Address:
        """Read an address.

        Raises:
            StoreError: it names no table, or is none.
        """
        try:
            parts = urlsplit(text)
            told = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise StoreError(
                "An address of PostgreSQL cannot be read.", hint=f"Write it like {EXAMPLE}."
            ) from None
        user, at, host = parts.netloc.rpartition("@")
        name, _, secret = user.partition(":")
        database = parts.path.rstrip("/")
        ours = {key: value for key, value in told if key in ("table", "schema")}
        others = [(key, value) for key, value in told if key not in ours]
        kept = [(key, value) for key, value in others if key != "password"]
        secret = secret or next((value for key, value in others if key == "password"), "")
        bare = f"postgresql://{name}{at}{host}{database}"
        full = f"postgresql://{user}{at}{host}{database}"
        shown = _with(bare, [*kept, *ours.items()])
        table, schema = ours.get("table", ""), ours.get("schema", "")
        if not table:
            raise StoreError(f"{shown} names no table.", hint=f"Write it like {EXAMPLE}.")
        for what, given in (("table", table), ("schema", schema)):
            if len(given.encode()) > LONGEST or "\0" in given or given.startswith(OWN):
                raise StoreError(
                    f"{given[:80]!r} cannot be the name of a {what} for an index.",
                    hint=f"Give one of at most {LONGEST} bytes that does not begin with {OWN}.",
                )
        return cls(shown, _with(full, others), table, schema, secret)

    def without_secret(self, text: str) -> str:
        """A message in which the password does not occur."""
        if not self.secret:
            return text
        bare = unquote(self.secret)
        for written in (self.secret, bare, quote(bare, safe="")):
            text = text.replace(written, "***")
        return text


def _with(base: str, query: list[tuple[str, str]]) -> str:
    return f"{base}?{urlencode(query, quote_via=quote, safe='/')}" if query else base


def is_postgres(text: object) -> bool:
    """Whether something is an address of PostgreSQL."""
    return str(text).partition("://")[0].lower() in SCHEMES and "://" in str(text)
