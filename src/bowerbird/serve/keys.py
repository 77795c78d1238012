"""API keys and what their holders may do: scopes, rates, requests at once.

A file of keys has one on a line, and what it is allowed behind it:

    # key                  name          scope         requests a minute   at once
    sk-9f2c41d07a5be663    name=shop     scope=read    rate=600            concurrent=8
    sk-51be88a2c09d7f14    name=nightly  scope=write
    sha256:1f0e...c9       name=ops      scope=admin

Only the key is needed. What the line of a key leaves out is what the service allows everybody. A key may stand there
as its SHA-256 digest (`printf %s KEY | sha256sum`), so that the file gives nothing away. Keys are compared as
digests, each with every other one and in constant time, and are never kept, logged or shown.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from bowerbird.errors import BowerbirdError

__all__ = ["SCOPES", "Allowance", "Allowances", "Key", "Keys", "TooManyError", "caller_of"]

SCOPES = ("read", "write", "admin")
"""What a key may do, each including those before it: ask; change records; load and unload models, refresh."""

WORDS = ("name", "scope", "rate", "concurrent")
"""What may stand behind a key, each with = and a value."""

SHORTEST = 8
"""Characters of a key."""

MOST_CALLERS = 10_000
"""Callers whose rates are remembered; beyond that, those who have not called for a minute are forgotten."""

_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True)
class Key:
    """A key's holder.

    Attributes:
        name: for logs and measures.
        digest: SHA-256 of the key.
        scope: the widest of `SCOPES` that it has.
        per_minute: requests; None: as the service allows, 0: any number.
        concurrent: requests at once; likewise.
    """

    name: str
    digest: bytes = field(repr=False)
    scope: str = "write"
    per_minute: int | None = None
    concurrent: int | None = None

    def may(self, scope: str) -> bool:
        """Whether it has a scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Keys:
    """The keys of a service.

    Args:
        file: with a key on each line; empty: none. See the module.
        text: further ones in the same form, on lines or between commas, such as of an environment variable.

    Raises:
        BowerbirdError: the file cannot be read, holds no key, or a line says what is not understood.
    """

    def __init__(self, file: str | os.PathLike[str] = "", text: str = "") -> None:
        self._file = Path(file).expanduser() if os.fspath(file) else None
        self._text = text
        self._keys: tuple[Key, ...] = ()
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __repr__(self) -> str:
        return f"Keys({', '.join(key.name for key in self._keys)})"

    def reload(self) -> None:
        """Read the file again. Where that fails, the keys stay as they were.

        Raises:
            BowerbirdError: see the class.
        """
        found = list(_read(self._text, "BOWERBIRD_API_KEYS", "[\n,]", "env"))
        if self._text and not found:
            raise BowerbirdError("BOWERBIRD_API_KEYS holds no API key.", hint="Unset it, or put a key there.")
        if self._file is not None:
            try:
                text = self._file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is no text"
                raise BowerbirdError(
                    f"The API keys in {self._file} cannot be read: {why}.",
                    hint="Give a text file with one key on each line.",
                ) from None
            listed = list(_read(text, str(self._file), "\n", "key"))
            if not listed:
                # An empty list means open doors: a file that was cut short must not do that.
                raise BowerbirdError(
                    f"{self._file} holds no API key.", hint="Write one key on each line, or leave it out."
                )
            found += listed
        _check_unique(found)
        self._keys = tuple(found)

    def find(self, secret: bytes) -> Key | None:
        """The holder of a key; None when there is none. Takes as long for one as for another."""
        given = hashlib.sha256(secret).digest()
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, given):
                found = key
        return found


def _read(text: str, where: str, separators: str, prefix: str) -> Iterator[Key]:
    for number, line in enumerate(re.split(separators, text), 1):
        if words := _COMMENT.sub("", line).split():
            yield _key(words, f"{where}, line {number}", f"{prefix}-{number}")


def _key(words: list[str], where: str, name: str) -> Key:
    """One line; messages never hold the key itself."""
    secret, *rest = words
    given = {word.partition("=")[0]: word.partition("=")[2] for word in rest}
    if others := [word for word in given if word not in WORDS]:
        # What it says may be a part of a key, so it is shown only where it is nearly one of ours.
        near = get_close_matches(others[0], WORDS, 1, 0.7) if "=" in " ".join(rest) else []
        raise BowerbirdError(
            f"{where}: there is no {others[0]}=. Did you mean {near[0]}=?"
            if near
            else f"{where}: what stands behind the key is not understood.",
            hint="Behind a key there can be name=, scope=, rate= (requests a minute) and concurrent=.",
        )
    if (scope := given.get("scope", "write")) not in SCOPES:
        raise BowerbirdError(
            f"{where}: there is no scope {scope!r}.", hint=f"Use one of: {', '.join(SCOPES)}."
        )
    numbers: dict[str, int | None] = {}
    for word in ("rate", "concurrent"):
        text = given.get(word)
        if text is not None and not text.isdecimal():
            raise BowerbirdError(
                f"{where}: {word}={text} is not a whole number.", hint=f"Give for example {word}=60."
            )
        numbers[word] = None if text is None else int(text)
    if hashed := _DIGEST.fullmatch(secret):
        digest = bytes.fromhex(hashed[1])
    elif len(secret) < SHORTEST:
        raise BowerbirdError(
            f"{where}: the key has fewer than {SHORTEST} characters.",
            hint="Take a long random one, such as of: openssl rand -hex 24",
        )
    else:
        digest = hashlib.sha256(secret.encode()).digest()
    return Key(given.get("name") or name, digest, scope, numbers["rate"], numbers["concurrent"])


def _check_unique(keys: list[Key]) -> None:
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    for key in keys:
        if key.digest in digests:
            raise BowerbirdError(
                f"The API keys {digests[key.digest]} and {key.name} are the same.",
                hint="Leave one of them out.",
            )
        if key.name in names:
            raise BowerbirdError(
                f"Two API keys are called {key.name}.", hint="Give each a name of its own with name=."
            )
        names.add(key.name)
        digests[key.digest] = key.name


class TooManyError(BowerbirdError):
    """A caller asks too often, or for too much at once.

    Attributes:
        seconds: after which the next request is taken.
    """

    def __init__(self, message: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(message, hint=f"Try again in {max(1, math.ceil(seconds))} s.")

    def __reduce__(self) -> tuple[object, ...]:
        return (TooManyError, (self.message, self.seconds))


@dataclass(eq=False)
class Allowance:
    """What one caller has left: a bucket that holds a minute's requests and fills up steadily.

    Attributes:
        per_minute: requests; 0: any number.
        concurrent: at once; 0: any number.
        left: requests that it may make now.
        filled: when that was reckoned, on the clock of `time.monotonic`.
        running: requests that it has under way.
    """

    per_minute: int
    concurrent: int
    left: float
    filled: float
    running: int = 0


class Allowances:
    """How often, and how many at once, each caller may ask. For one thread.

    Args:
        per_minute: requests of a caller whose key says nothing of it; 0: any number.
        concurrent: at once, likewise.
    """

    def __init__(self, per_minute: int = 0, concurrent: int = 0) -> None:
        self.per_minute = per_minute
        self.concurrent = concurrent
        self._callers: dict[str, Allowance] = {}

    def enter(self, caller: str, key: Key | None = None) -> Allowance | None:
        """A request begins; None where it needs no allowance. What is returned is given to `leave`.

        Raises:
            TooManyError: it may not.
        """
        per_minute = self.per_minute if key is None or key.per_minute is None else key.per_minute
        concurrent = self.concurrent if key is None or key.concurrent is None else key.concurrent
        if not per_minute and not concurrent:
            return None
        now = time.monotonic()
        one = self._callers.get(caller)
        if one is None:
            if len(self._callers) >= MOST_CALLERS:
                self._forget(now)
            one = self._callers[caller] = Allowance(per_minute, concurrent, per_minute, now)
        one.per_minute, one.concurrent = per_minute, concurrent
        if concurrent and one.running >= concurrent:
            raise TooManyError(f"{concurrent} requests at once are allowed, and as many are under way.", 1.0)
        if per_minute:
            one.left = min(float(per_minute), one.left + (now - one.filled) * per_minute / 60.0)
            one.filled = now
            if one.left < 1.0:
                wait = (1.0 - one.left) * 60.0 / per_minute
                raise TooManyError(f"{per_minute} requests a minute are allowed.", wait)
            one.left -= 1.0
        one.running += 1
        return one

    @staticmethod
    def leave(allowance: Allowance) -> None:
        """A request is over."""
        allowance.running -= 1

    def _forget(self, now: float) -> None:
        """Those who have nothing under way, and whose bucket is full again."""
        kept = {name: one for name, one in self._callers.items() if one.running or now - one.filled < 60.0}
        while len(kept) >= MOST_CALLERS:
            # More than that within a minute: the oldest start anew.
            kept.pop(next(iter(kept)))
        self._callers = kept


@lru_cache(maxsize=4096)
def caller_of(address: str) -> str:
    """What an address counts as: an IPv6 user has a whole /64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address or "local"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
