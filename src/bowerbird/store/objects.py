"""An index in an object store: small files with one PUT each, and a lock made of objects.

The lock asks of a store only what all have: objects that are seen as soon as they are written, and the time of their
last change by the store's own clock. Whoever wants it writes an object of his own below `.lock/` and then lists that
folder: of two who do so at once, at least one sees the other. He who is alone holds the lock; everybody else removes
his object again and waits. An object that was not written again for `LEASE` seconds belongs to a process that died.
(A conditional PUT would be one request less. Not all stores know it, and to take a lock over needs another kind of
condition, which fewer do.)
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from bowerbird.errors import BowerbirdError, IndexBusyError, IndexReadOnlyError, StoreError
from bowerbird.flow.remote import EXTRAS, filesystem_of, scheme
from bowerbird.flow.trouble import trouble
from bowerbird.media.reading import one_line
from bowerbird.store.location import LOCK, Held, Location, busy

LEASE = 30.0
"""Seconds after which a lock that was not renewed is taken over: less than `lock_seconds`, so that whoever starts a
killed run again waits and then goes on."""

RENEWALS = 6
"""How often a lock is renewed in that time."""

_GRAIN = 1.0
"""Stores give times in whole seconds: without this, a lock could be taken over up to a second too early."""

_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}

_PAUSE = (0.1, 0.6)
"""Seconds between two attempts, drawn anew each time, so that two who wait do not meet for ever."""

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectPlace(Location):
    """A prefix in an object store, such as `s3://bucket/photos.bower`."""

    uri: str

    @classmethod
    def at(cls, uri: str) -> ObjectPlace:
        """The place of an address.

        Raises:
            StoreError: there can be no index at such an address.
        """
        name = scheme(uri)
        if name not in EXTRAS:
            raise StoreError(
                f"{one_line(uri)} cannot hold an index.",
                hint="Give a folder, or an address such as s3://bucket/a.bower.",
            )
        # The other names of a protocol are not known to Lance.
        same = _SAME.get(name, name)
        return cls(f"{same}{uri[len(name) :]}".rstrip("/"))

    def __str__(self) -> str:
        return self.uri

    def child(self, name: str) -> str:
        """See `Location`."""
        return f"{self.uri}/{name}"

    def exists(self, name: str) -> bool:
        """See `Location`."""
        return self._ask(lambda system, path: bool(system.info(path)), name, missing=False)

    def read_bytes(self, name: str) -> bytes | None:
        """See `Location`."""
        return self._ask(lambda system, path: bytes(system.cat_file(path)), name, missing=None)

    def replace(self, name: str, data: bytes) -> None:
        """See `Location`: one PUT, which stores carry out whole or not at all."""
        self._ask(lambda system, path: system.pipe_file(path, data), name, writing=True)

    def remove(self, name: str) -> None:
        """See `Location`."""
        self._ask(lambda system, path: system.rm(path, recursive=True), name, missing=None, writing=True)

    def names(self) -> list[str]:
        """See `Location`."""
        return sorted(self._listed(""))

    def size(self) -> int | None:
        """See `Location`."""
        return self._ask(lambda system, path: int(system.du(path)), "", missing=0)

    def prepare(self) -> None:
        """See `Location`: there is nothing to make, but the bucket has to be there."""
        self.names()

    def _listed(self, name: str) -> dict[str, dict[str, Any]]:
        """What is directly below a folder, by name."""

        def list_one(system: Any, path: str) -> dict[str, dict[str, Any]]:
            entries = system.ls(path, detail=True)
            named = {str(e["name"]).rstrip("/").rpartition("/")[2]: e for e in entries}
            own = path.rstrip("/").rpartition("/")[2]  # an empty object that stands for the folder itself
            return {key: e for key, e in named.items() if str(e["name"]).rstrip("/") != path or key != own}

        return self._ask(list_one, name, missing={})

    def _ask(
        self, action: Callable[[Any, str], T], name: str, *, missing: Any = ..., writing: bool = False
    ) -> T:
        """Do something with an object; `missing` is the answer when there is none."""
        system, path = filesystem_of(self.child(name) if name else self.uri)
        try:
            return action(system, path.rstrip("/"))
        except BowerbirdError:
            raise
        except Exception as error:  # Every client library raises classes of its own.
            found = trouble(error)
            if found.kind == "missing" and missing is not ...:
                return missing  # type: ignore[no-any-return]
            kind = IndexReadOnlyError if found.kind == "forbidden" and writing else StoreError
            raise kind(f"{one_line(self.child(name))} {found.said}.", hint=found.hint) from error

    @contextmanager
    def lock(self, seconds: float) -> Iterator[Held]:
        """See `Location`, and the module."""
        self._listed(LOCK)  # Connects, which may take seconds that would count against the lease.
        lease = _Lease(self)
        deadline = time.monotonic() + seconds
        while not lease.take():
            if time.monotonic() >= deadline:
                raise busy(self, seconds, lease.holder)
            time.sleep(min(random.uniform(*_PAUSE), max(0.0, deadline - time.monotonic())))
        lease.keep()
        try:
            yield lease
        finally:
            lease.release()


class _Lease(Held):
    """One attempt to hold the lock, and the lock once held."""

    def __init__(self, place: ObjectPlace) -> None:
        self.holder = ""
        self._place = place
        self._lease = LEASE
        self._own = uuid.uuid4().hex
        self._name = f"{LOCK}/{self._own}"
        self._about = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "since": datetime.now().astimezone().isoformat(),
            }
        ).encode()
        self._renewed = _clocks()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Try once; whether the lock is ours now."""
        alone = False
        self._renewed = _clocks()
        self._place.replace(self._name, self._about)
        try:
            others = self._place._listed(LOCK)
            own = others.pop(self._own, None)
            if own is None:
                return False  # Taken for dead by somebody whose answers come faster than ours.
            now = _modified(own)
            age = {name: (now - _modified(entry)).total_seconds() for name, entry in others.items()}
            living = [name for name, seconds in age.items() if seconds < self._lease + _GRAIN]
            alone = not living
            if alone:
                for name in others:
                    self._place.remove(f"{LOCK}/{name}")
            else:
                self.holder = self._described(living[0])
            return alone
        finally:
            if not alone:
                self._place.remove(self._name)

    def _described(self, name: str) -> str:
        with suppress(ValueError, KeyError, TypeError):
            about = json.loads(self._place.read_bytes(f"{LOCK}/{name}") or b"")
            return f" (process {about['process']} on {one_line(about['host'], 80)})"
        return ""

    def keep(self) -> None:
        """Renew it from now on."""
        self._thread = threading.Thread(target=self._renew, name="bowerbird-lock", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._done.wait(self._lease / RENEWALS):
            # Later than this, a renewal might bring back what another has just removed.
            if _since(self._renewed) > self._lease / 2:
                return
            started = _clocks()
            with suppress(BowerbirdError):  # Tried again until the lock is lost; `check` says so then.
                self._place.replace(self._name, self._about)
                self._renewed = started

    def check(self) -> None:
        """See `Held`."""
        if _since(self._renewed) > self._lease:
            raise IndexBusyError(
                f"The lock of {self._place} could not be renewed for {self._lease:g} seconds: "
                "it may be another's by now.",
                hint="What was committed before is kept. Check the network, and run the same command again.",
            )

    def release(self) -> None:
        """Give it back; should that fail, it runs out by itself."""
        self._done.set()
        if self._thread:
            self._thread.join()
        with suppress(BowerbirdError):
            self._place.remove(self._name)


def _modified(entry: dict[str, Any]) -> datetime:
    """When an object was written, by the store's clock. Every client library has a name of its own for it."""
    for key in ("LastModified", "updated", "last_modified", "mtime", "created"):
        value = entry.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value if value.tzinfo else value.astimezone()
    raise StoreError(
        "The store does not say when its objects were written.", hint="Keep the index on another one."
    )


def _clocks() -> tuple[float, float]:
    # One of them may be set back, the other stands still while a computer sleeps.
    return time.monotonic(), time.time()


def _since(then: tuple[float, float]) -> float:
    return max(now - before for now, before in zip(_clocks(), then, strict=True))
