"""Steps in processes of their own: for Python functions that hold the interpreter's lock."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pickle import loads
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
    """Processes that keep the steps, and what these have made, from chunk to chunk; others when one has died."""

    def __init__(self, steps: tuple[Stateless, ...], processes: int) -> None:
        self.label = " > ".join(step.label for step in steps)
        self._processes = processes
        self._pool: Any = None
        self._token = next(_tokens)
        try:
            self._steps = _pickled(steps)
        except Exception as error:
            raise BowerbirdError(
                f"{self.label} cannot be sent to another process: {error}.",
                hint="Leave out processes=, or make what the function refers to picklable.",
            ) from error

    def submit(self, chunk: Chunk) -> Future[bytes]:
        """Have a chunk worked on; what cannot be pickled is an `InputError` of the future."""
        try:
            sent = _pickled(chunk)
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
        if self._pool is None:
            self._pool = _idle_pool(self._processes)
        future: Future[bytes] = self._pool.submit(_work, self._token, self.label, self._steps, sent)
        return future

    def renew(self) -> None:
        """Go on with other processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None

    def dismiss(self, *, at_once: bool) -> None:
        """Leave the processes to the next run; in the middle of their work, end them."""
        if at_once:
            self.renew()
        elif self._pool is not None:
            _IDLE.setdefault(self._processes, []).append(self._pool)


# Pools that no run uses, by the number of their processes, which end by themselves after a while. A run has its pool
# for itself: what dies there can only have died of its own elements.
_IDLE: dict[int, list[Any]] = {}
_IDLE_SECONDS = 30

_tokens = count()


def _idle_pool(processes: int) -> Any:
    from loky import ProcessPoolExecutor

    try:
        return _IDLE.setdefault(processes, []).pop()
    except IndexError:
        return ProcessPoolExecutor(processes, timeout=_IDLE_SECONDS)


def _pickled(value: Any) -> bytes:
    from loky.backend.reduction import dumps

    return bytes(dumps(value))


# What a process keeps of the run that it works for: its steps, by the run's token.
_kept: dict[int, Any] = {}


def _work(token: int, label: str, steps: bytes, sent: bytes) -> bytes:
    from bowerbird.flow.local import worked

    if token not in _kept:
        _kept.clear()
        try:
            _kept[token] = loads(steps)
        except Exception as error:
            raise BowerbirdError(
                f"{label} cannot be built in another process: {type(error).__name__}: {error}.",
                hint="Define functions in a module that the process can import, or in the script itself.",
            ) from error
    try:
        chunk = loads(sent)
    except Exception as error:
        raise _unsendable(label, "An element", error) from error
    result = worked(_kept[token], chunk)
    try:
        return _pickled(result)
    except Exception as error:
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
    found = re.search(
        r"\{([A-Z]+\(-?\d+\))", str(error)
    )  # as loky writes exit codes: {SIGKILL(-9)}, {EXIT(1)}
    return found.group(1) if found else "it was killed"
