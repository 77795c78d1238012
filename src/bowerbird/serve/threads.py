"""Threads for what cannot be awaited: so many at once, and no more waiting for them than will be done in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from bowerbird.serve.batching import BusyError

__all__ = ["Threads"]

T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the last run in what is known of how long one takes."""


class Threads:
    """See the module. Used from one event loop.

    Args:
        name: of the threads.
        count: how many.
        seconds: of work that may wait; what comes beyond is refused.
        most: that may wait, whatever time they take; likewise.
    """

    def __init__(self, name: str, count: int, *, seconds: float, most: int) -> None:
        self.count = count
        self.seconds = seconds
        self.most = most
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._inside = 0
        self._each = 0.0

    def waiting_seconds(self) -> float:
        """How long what waits will have to wait, as far as that is known."""
        return max(0, self._inside - self.count) * self._each / self.count

    async def run(self, function: Callable[[], T]) -> T:
        """What a function gives, in one of the threads. Cancelling it stops what has not begun.

        Raises:
            BusyError: too much is waiting.
        """
        waiting = self.waiting_seconds()
        if waiting > self.seconds or self._inside - self.count >= self.most:
            raise BusyError(max(1.0, waiting))
        try:
            future = self._pool.submit(self._timed, function)
        except RuntimeError:  # it was closed
            raise BusyError(1.0, stopping=True) from None
        with self._lock:
            self._inside += 1
        # Of who leaves, what has begun goes on, and takes its thread until it is done.
        future.add_done_callback(self._left)
        return await asyncio.wrap_future(future)

    def close(self, *, wait: bool) -> None:
        """Take nothing more, and leave out what has not begun."""
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _left(self, future: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1

    def _timed(self, function: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return function()
        finally:
            took = time.monotonic() - began
            self._each = took if not self._each else (1 - SMOOTHING) * self._each + SMOOTHING * took
