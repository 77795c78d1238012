"""Who waits elsewhere for what a thread does, and may leave meanwhile.

A thread cannot be cancelled, but where it waits itself it can be told that nobody wants what it waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from bowerbird.errors import BowerbirdError

__all__ = ["Asker", "LeftError", "told_of_leaving"]

T = TypeVar("T")

_ASKER: ContextVar[Asker | None] = ContextVar("bowerbird_asker", default=None)


class LeftError(BowerbirdError):
    """Nobody waits any more for what is being done; it ends the doing, and nobody sees it."""

    def __init__(self) -> None:
        super().__init__("Whoever asked has left.")


class Asker:
    """One who has a function run in a thread. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = False
        self._told: list[Callable[[], None]] = []

    @property
    def has_left(self) -> bool:
        """Whether nobody waits any more."""
        with self._lock:
            return self._left

    def run(self, function: Callable[[], T]) -> T:
        """What a function gives; what waits in it is told when the asker leaves."""
        token = _ASKER.set(self)
        try:
            return function()
        finally:
            _ASKER.reset(token)

    def leave(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._left = True
            told, self._told = self._told, []
        for action in told:
            action()

    @contextmanager
    def telling(self, action: Callable[[], None]) -> Iterator[None]:
        """Have something done if the asker leaves meanwhile, in whichever thread that is; at once if it has left."""
        with self._lock:
            left = self._left
            if not left:
                self._told.append(action)
        if left:
            action()
        try:
            yield
        finally:
            with self._lock:
                if action in self._told:
                    self._told.remove(action)


@contextmanager
def told_of_leaving(action: Callable[[], None]) -> Iterator[None]:
    """Have something done if the one for whom this thread works leaves meanwhile; see `Asker.run`.

    Raises:
        LeftError: it has left.
    """
    asker = _ASKER.get()
    if asker is None:
        yield
        return
    with asker.telling(action):
        yield
    if asker.has_left:
        raise LeftError
