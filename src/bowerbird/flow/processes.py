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
) -> Iterator[tuple[Chunk, Chunk, Clock]]:
    """Work on chunks in so many processes; gives each chunk, its results and the time they took, in order.

    A process that dies, as when a library crashes or memory runs out, costs the one element that it dies of: that
    becomes a `Failure`, and the others are worked on again. So does an element, or a result, that cannot be sent.

    Raises:
        BowerbirdError: a function cannot be sent to another process.
    """
    crew = _Crew(steps, processes)
    pending: deque[tuple[Chunk, Future[bytes]]] = deque()
    try:
        for chunk in chunks:
            pending.append((chunk, crew.submit(chunk)))
            if len(pending) >= AHEAD * processes:
                yield _taken(pending, crew, report)
        while pending:
            yield _taken(pending, crew, report)
    finally:
        crew.dismiss(at_once=bool(pending))


class _Crew:
    """Processes that keep the steps, and what these have made, from chunk to chunk; new ones when one has died."""

    def __init__(self, steps: tuple[Stateless, ...], processes: int) -> None:
        from loky.backend.reduction import dumps

        self.label = " > ".join(step.label for step in steps)
        self._processes = processes
        self._pool: Any = None
        try:
            self._sent = dumps(steps)
        except Exception as error:
            raise BowerbirdError(
                f"{self.label} cannot be sent to another process: {error}.",
                hint="Leave out processes=, or make what the function refers to picklable.",
            ) from error

    def submit(self, chunk: Chunk) -> Future[bytes]:
        from loky.backend.reduction import dumps

        try:
            sent = dumps(chunk)
        except Exception as error:  # noqa: BLE001  whatever pickling an element raises
            refused: Future[bytes] = Future()
            refused.set_exception(_unsendable(self.label, "An element", error))
            return refused
        try:
            return self._submitted(sent)
        except BrokenProcessPool:
            self.renew()
            return self._submitted(sent)

    def _submitted(self, sent: bytes) -> Future[bytes]:
        from loky import ProcessPoolExecutor

        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes, initializer=_begin, initargs=(self.label, self._sent)
            )
        future: Future[bytes] = self._pool.submit(_work, sent)
        return future

    def renew(self) -> None:
        """Begin again with other processes."""
        self.dismiss(at_once=True)
        self._pool = None

    def dismiss(self, *, at_once: bool) -> None:
        """End the processes, in the middle of their work if need be."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=at_once)


# What a process of a crew keeps: the steps, first as they were sent.
_kept: dict[str, Any] = {}


def _begin(label: str, sent: bytes) -> None:
    _kept.update(label=label, sent=sent)


def _work(sent: bytes) -> bytes:
    from pickle import loads

    from loky.backend.reduction import dumps

    from bowerbird.flow.local import worked

    label = _kept["label"]
    if "steps" not in _kept:
        try:
            _kept["steps"] = loads(_kept["sent"])
        except Exception as error:
            raise BowerbirdError(
                f"{label} cannot be built in another process: {type(error).__name__}: {error}.",
                hint="Define functions in a module that the process can import, or in the script itself.",
            ) from error
    try:
        chunk = loads(sent)
    except Exception as error:  # noqa: BLE001
        raise _unsendable(label, "An element", error) from error
    result = worked(_kept["steps"], chunk)
    try:
        return dumps(result)
    except Exception as error:  # noqa: BLE001
        raise _unsendable(label, "A result", error) from error


def _unsendable(label: str, what: str, error: Exception) -> InputError:
    return InputError(
        f"{label}: {what} cannot be sent between processes: {error}.",
        hint="Leave out processes=, or work with what can be pickled.",
    )


def _taken(
    pending: deque[tuple[Chunk, Future[bytes]]], crew: _Crew, report: RunReport
) -> tuple[Chunk, Chunk, Clock]:
    chunk, future = pending.popleft()
    try:
        return (chunk, *_results(future))
    except BrokenProcessPool:
        # What is not finished is lost with the process; who killed it is found out one by one.
        crew.renew()
        results = _one_by_one(crew, chunk, report)
        for place, (other, begun) in enumerate(pending):
            if not begun.done() or isinstance(begun.exception(), BrokenProcessPool):
                pending[place] = (other, crew.submit(other))
        return (chunk, *results)
    except InputError:
        return (chunk, *_one_by_one(crew, chunk, report))


def _results(future: Future[bytes]) -> tuple[Chunk, Clock]:
    from pickle import loads

    result, clock = loads(future.result())
    return result, clock


def _one_by_one(crew: _Crew, chunk: Chunk, report: RunReport) -> tuple[Chunk, Clock]:
    results: Chunk = []
    total = Clock()
    for item in chunk:
        try:
            result, clock = _results(crew.submit([item]))
        except BrokenProcessPool as error:
            crew.renew()
            died = InputError(
                f"{crew.label}: the process that worked on this element died: {_reason(error)}.",
                hint="Look for a crash in a native library, or for too little memory.",
            )
            report.notes.append(f"a process died at {name_of(item)}")
            results.append(Failure(name_of(item), crew.label, died, item))
        except InputError as error:
            results.append(Failure(name_of(item), crew.label, error, item))
        else:
            total.merge(clock)
            results.extend(result)
    return results, total


def _reason(error: BaseException) -> str:
    found = re.search(r"\{([A-Z]+\(-?\d+\))", str(error))  # as loky writes exit codes: {SIGKILL(-9)}, {EXIT(1)}
    return found.group(1) if found else "it was killed"
