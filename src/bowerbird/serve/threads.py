"""Threads for what cannot be awaited: so many at once, and no more waiting for them than will be done in time.

They are daemons, unlike those of `concurrent.futures`: a process that ends does not wait for one that hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from bowerbird.serve.batching import BusyError
from bowerbird.serve.leaving import Asker

__all__ = ["Threads", "at_work", "in_thread"]

T = TypeVar("T")

SMOOTHING = 0.2
"""Weight of the last run in what is known of how long one takes."""


_AT_WORK: set[threading.Thread] = set()


class Threads:
    """See the module. Safe to use from any thread.

    Args:
        name: of the threads.
        count: how many; each is started when it is first needed.
        seconds: of work that may wait; what comes beyond is refused.
        most: that may wait, whatever time they take; likewise.
    """

    def __init__(self, name: str, count: int, *, seconds: float, most: int) -> None:
        self.name = name
        self.count = count
        self.seconds = seconds
        self.most = most
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._inside = 0
        self._each = 0.0
        self._closed = False

    def waiting_seconds(self) -> float:
        """How long what waits will have to wait, as far as that is known."""
        return max(0, self._inside - self.count) * self._each / self.count

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """What a function will give, in one of the threads. Cancelling it stops what has not begun.

        Raises:
            BusyError: too much is waiting.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise BusyError(1.0, stopping=True)
            waiting = self.waiting_seconds()
            if waiting > self.seconds or self._inside - self.count >= self.most:
                raise BusyError(max(1.0, waiting))
            self._inside += 1
            self._waiting.append((future, function))
            if self._idle < len(self._waiting) and len(self._threads) < self.count:
                number = len(self._threads)
                self._threads.append(
                    threading.Thread(target=self._work, name=f"{self.name}-{number}", daemon=True)
                )
                self._threads[-1].start()
            self._changed.notify()
        # Of who leaves, what has begun goes on, and takes its thread until it is done.
        future.add_done_callback(self._left)
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """As `submit`, awaited. Cancelling it stops what has not begun; what has goes on to its end."""
        return await asyncio.wrap_future(self.submit(function))

    async def read(self, function: Callable[[], T]) -> T:
        """As `run`, for what changes nothing: cancelling it also ends what has begun, where that waits for a model.

        Raises:
            BusyError: too much is waiting.
        """
        asker = Asker()
        try:
            return await self.run(partial(asker.run, function))
        except asyncio.CancelledError:
            asker.leave()
            raise

    async def close(self, seconds: float) -> bool:
        """Take nothing more, leave out what has not begun, and wait for what has. Whether that was done in time."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for future, _ in left:
            future.cancel()
        if not any(thread.is_alive() for thread in self._threads):
            return True
        return await asyncio.wrap_future(in_thread(f"{self.name}-end", partial(self._ended, seconds)))

    def _ended(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _left(self, _: Future[Any]) -> None:
        with self._changed:
            self._inside -= 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if not self._waiting:
                    return
                future, function = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                began = time.monotonic()
                _fulfil(future, function)
                took = time.monotonic() - began
                self._each = took if not self._each else (1 - SMOOTHING) * self._each + SMOOTHING * took
            del future, function  # what it gave is not kept until the next comes


def in_thread(name: str, function: Callable[[], T]) -> Future[T]:
    """What a function will give, in a thread of its own that nobody waits for when the process ends."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_fulfil, args=(future, function), name=name, daemon=True).start()
    return future


def at_work() -> list[str]:
    """Names of the threads of this module that have something to do, whoever has asked for it."""
    return sorted(thread.name for thread in list(_AT_WORK))


def _fulfil(future: Future[T], function: Callable[[], T]) -> None:
    thread = threading.current_thread()
    _AT_WORK.add(thread)
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001  whoever looks at the future is told
        _AT_WORK.discard(thread)
        future.set_exception(error)
    else:
        _AT_WORK.discard(thread)
        future.set_result(result)
