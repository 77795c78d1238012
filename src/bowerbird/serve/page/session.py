"""Who has signed in to the page: a cookie that scripts cannot read stands for a key that still counts."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict, deque
from typing import Protocol

from bowerbird.serve.keys import Key

__all__ = ["FindsKeys", "Sessions", "cookie_name"]

HOURS = 12
"""That a session lasts."""

MOST = 10_000
"""Sessions at once; beyond that the oldest end."""

TRIES = 10
"""Wrong keys from one address in a minute; beyond that none is looked at."""

MOST_ADDRESSES = 10_000
"""Addresses whose wrong keys are remembered."""


class FindsKeys(Protocol):
    """What the page has to know of API keys; `bowerbird.serve.keys.Keys` is one."""

    def __len__(self) -> int:
        """How many there are; none: the doors are open."""

    def find(self, secret: bytes) -> Key | None:
        """The holder of a key; None when there is none."""


class Sessions:
    """Sessions of people who gave a key. Safe to use from any thread.

    Args:
        keys: of the service; None, or none of them: everybody may come in.
    """

    def __init__(self, keys: FindsKeys | None) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def needed(self) -> bool:
        """Whether one has to sign in."""
        return self._keys is not None and len(self._keys) > 0

    def begin(self, key: str) -> str:
        """A session's token for a key; empty when there is no such key."""
        secret = key.strip().encode("utf-8", "replace")
        if self._keys is None or self._keys.find(secret) is None:
            return ""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(token)] = (secret, time.monotonic() + HOURS * 3600)
            while len(self._sessions) > MOST:
                self._sessions.popitem(last=False)
        return token

    def counts(self, token: str) -> bool:
        """Whether somebody with this token may see the page."""
        return not self.needed or self.holder(token) is not None

    def holder(self, token: str) -> Key | None:
        """Whose key a session was begun with: it has to be among the keys to this moment. None: there is none."""
        with self._lock:
            secret, until = self._sessions.get(_digest(token), (b"", 0.0))
        if self._keys is None or not token or until < time.monotonic():
            return None
        return self._keys.find(secret)

    def end(self, token: str) -> None:
        """Forget a session."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def wrong(self, address: str) -> None:
        """Note a wrong key."""
        with self._lock:
            self._wrong.setdefault(address, deque(maxlen=TRIES)).append(time.monotonic())
            self._wrong.move_to_end(address)
            while len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def too_many(self, address: str) -> bool:
        """Whether an address has given so many wrong keys lately that it has to wait."""
        with self._lock:
            times = self._wrong.get(address)
            return times is not None and len(times) == TRIES and times[0] > time.monotonic() - 60


def cookie_name(host: str) -> str:
    """What the cookie is called, by the `Host` that was asked for.

    Browsers keep cookies of a host whatever its port: of two services on one host, each has a name of its own.
    """
    port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
    return f"bowerbird_session_{port}" if port.isdecimal() else "bowerbird_session"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
