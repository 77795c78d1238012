"""Bounded look-ahead: work runs ahead in threads, results come back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter. (`itertools.batched` came with Python 3.12.)"""
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int | None = None
) -> Iterator[R]:
    """Apply `function` in threads and yield the results in the order of `items`.

    At most `ahead` results (default: four for each thread) are finished or under way beyond the one being
    consumed, so memory stays flat however many items there are, and `items` is consumed lazily.
    Closing the iterator, or an exception in the consumer, cancels what has not started yet.

    Raises:
        whatever `function` raises, at its item's place.
    """
    bound = ahead or 4 * threads
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="bowerbird")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= bound:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
