"""Steps in processes of their own: for Python functions that hold the interpreter's lock."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.flow.plan import Chunk, Clock, Stateless
from bowerbird.flow.report import RunReport
from bowerbird.record import Failure, name_of

AHEAD = 3
"""Chunks for each process that are finished or under way at the most."""


def in_processes(
    steps: tuple[Stateless, ...], chunks: Iterator[Chunk], processes: int, report: RunReport
) -> Iterator[Chunk]:
    """Work on chunks in so many processes, and give the results in order.

    A process that dies, as when a library crashes or memory runs out, costs the one element that it dies of: that
    becomes a `Failure`, and the others are worked on again.

    Raises:
        BowerbirdError: a function, or an element, cannot be sent to another process.
    """
    pending: deque[tuple[Chunk, Future[Any]]] = deque()
    try:
        for chunk in chunks:
            pending.append((chunk, _submit(steps, chunk, processes)))
            if len(pending) >= AHEAD * processes:
                yield _taken(pending, steps, processes, report)
        while pending:
            yield _taken(pending, steps, processes, report)
    finally:
        for _, future in pending:
            future.cancel()


def _submit(steps: tuple[Stateless, ...], chunk: Chunk, processes: int) -> Future[Any]:
    from loky import get_reusable_executor

    for attempt in range(2):
        pool = get_reusable_executor(max_workers=processes, timeout=30)
        try:
            future: Future[Any] = pool.submit(_work, steps, chunk)
        except (BrokenProcessPool, RuntimeError):  # a process died since the last call; loky makes a new pool
            if attempt:
                raise
        else:
            return future
    raise AssertionError("unreachable")


def _work(steps: tuple[Stateless, ...], chunk: Chunk) -> tuple[Chunk, Clock]:
    from bowerbird.flow.local import worked

    return worked(steps, chunk)


def _taken(
    pending: deque[tuple[Chunk, Future[Any]]], steps: tuple[Stateless, ...], processes: int, report: RunReport
) -> Chunk:
    chunk, future = pending.popleft()
    try:
        result, clock = future.result()
    except BrokenProcessPool:
        # Everything under way is lost with it; who killed the process is found out one by one.
        lost = [other for other, _ in pending]
        pending.clear()
        alone = _alone(steps, chunk, processes, report)
        pending.extend((other, _submit(steps, other, processes)) for other in lost)
        return alone
    except (TypeError, AttributeError, OSError, ValueError) as error:
        raise _unsendable(steps, error) from error
    except Exception as error:
        if "pickle" in type(error).__name__.lower():
            raise _unsendable(steps, error) from error
        raise
    report.time(clock)
    return list(result)


def _alone(steps: tuple[Stateless, ...], chunk: Chunk, processes: int, report: RunReport) -> Chunk:
    results: Chunk = []
    for item in chunk:
        try:
            result, clock = _submit(steps, [item], processes).result()
        except BrokenProcessPool as error:
            label = steps[0].label
            died = InputError(
                f"{label}: the process that worked on this element died: {_reason(error)}.",
                hint="Look for a crash in a native library, or for too little memory.",
            )
            report.notes.append(f"a process died at {name_of(item)}")
            results.append(Failure(name_of(item), label, died, item))
        else:
            report.time(clock)
            results.extend(result)
    return results


def _reason(error: BaseException) -> str:
    found = re.search(r"\{([A-Z]+\(-?\d+\))", str(error))  # as loky writes exit codes: {SIGKILL(-9)}, {EXIT(1)}
    return found.group(1) if found else "it was killed"


def _unsendable(steps: tuple[Stateless, ...], error: Exception) -> BowerbirdError:
    labels = " > ".join(step.label for step in steps)
    return BowerbirdError(
        f"{labels} cannot be sent to another process: {error}.",
        hint="Leave out processes=, or make what the function refers to picklable.",
    )
