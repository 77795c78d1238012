"""Bounded look-ahead: work runs ahead in threads, results come back in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter. (`itertools.batched` came with Python 3.12.)"""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int,
    ahead: int | None = None,
    weigh: Callable[[R], int] | None = None,
    budget: int = 0,
    short: Callable[[], bool] | None = None,
) -> Iterator[R]:
    """Apply `function` in threads and yield the results in the order of `items`.

    At most `ahead` results (default: four for each thread) are finished or under way beyond the one being
    consumed, so memory stays flat however many items there are, and `items` is consumed lazily.
    Closing the iterator, or an exception in the consumer, cancels what has not started yet.

    Args:
        function: called in several threads at once.
        items: consumed in the caller's thread.
        threads: how many.
        ahead: see above.
        weigh: bytes that a result holds.
        budget: bytes that results may hold, those under way included, taken to be as large as the average so far;
            one result may always be under way.
        short: asked before more is begun: whether to wait until nothing is under way.

    Raises:
        whatever `function` raises, at its item's place.
    """
    bound = ahead or 4 * threads
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="bowerbird")
    pending: deque[Future[tuple[R, int]]] = deque()
    held: _Held[R] = _Held(weigh, budget)
    try:
        for item in items:
            while pending and (held.over(len(pending)) or (short and short())):
                yield held.release(pending.popleft())
            pending.append(pool.submit(held.weighed(function), item))
            if len(pending) >= bound:
                yield held.release(pending.popleft())
        while pending:
            yield held.release(pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Held(Generic[R]):
    """How many bytes finished results hold, until they are consumed."""

    def __init__(self, weigh: Callable[[R], int] | None, budget: int) -> None:
        self._weigh = weigh if budget else None
        self._budget = budget
        self._lock = threading.Lock()
        self._waiting = self._bytes = self._seen = self._total = 0

    def weighed(self, function: Callable[[T], R]) -> Callable[[T], tuple[R, int]]:
        """The function, which notes what its result weighs."""
        weigh = self._weigh
        if weigh is None:
            return lambda item: (function(item), 0)

        def run(item: T) -> tuple[R, int]:
            result = function(item)
            weight = weigh(result)
            with self._lock:
                self._waiting += 1
                self._seen += 1
                self._bytes += weight
                self._total += weight
            return result, weight

        return run

    def release(self, future: Future[tuple[R, int]]) -> R:
        """The result, which from now on is the consumer's."""
        result, weight = future.result()
        with self._lock:
            self._waiting -= 1
            self._bytes -= weight
        return result

    def over(self, pending: int) -> bool:
        """Whether one more result would be too much."""
        with self._lock:
            if not self._seen:
                return False
            average = self._total / self._seen
            return self._bytes + (pending - self._waiting + 1) * average > self._budget
