"""The executor on this machine: threads where the work releases the interpreter's lock, processes on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.flow.memory import available, weigh
from bowerbird.flow.plan import CAPACITY, Chunk, Clock, Plan, Sequential, Stateless
from bowerbird.flow.processes import in_processes
from bowerbird.flow.report import RunReport
from bowerbird.flow.run import in_order, lane, segments
from bowerbird.lookahead import ordered_map
from bowerbird.record import Failure, name_of
from bowerbird.settings import settings

MEMORY_SHARE = 4
MEMORY_MOST = 1 << 30
"""Results that wait may hold a quarter of the memory that is free when a run starts, and this many bytes at most."""

RESERVE = 256 << 20
"""Where less than this is available, nothing new is begun until what is under way is done."""

AHEAD = 2
"""Chunks for each thread that are finished or under way at the most, ahead of those being consumed."""

LONGEST_CHUNK = 1024
LARGEST_CHUNK = 4 << 20
QUICK, SLOW = 0.005, 0.05
"""Seconds: chunks that took less are followed by longer ones, up to `LONGEST_CHUNK` elements and `LARGEST_CHUNK` bytes,
and the other way round. A run begins with one element, so that who wants only the first waits for nothing else."""


class Local:
    """Runs collections in this process.

    Args:
        threads: for reading, decoding and embedding; 0 takes `BOWERBIRD_THREADS`, and that one for each processor.
        memory: bytes that elements may hold which are finished and wait for the next step; 0: a quarter of what is
            free, at most 1 GiB.

    Attributes:
        report: what the last run did, filled in while it runs: failures, times, verdict.
    """

    def __init__(self, *, threads: int = 0, memory: int = 0) -> None:
        if threads < 0 or memory < 0:
            raise BowerbirdError("threads and memory cannot be negative.", hint="Give 0 to have them chosen.")
        self.threads = threads
        self.memory = memory
        self.report = RunReport()

    def __repr__(self) -> str:
        return f"Local(threads={self.threads}, memory={self.memory})"

    @property
    def distributed(self) -> bool:
        """See `bowerbird.flow.run.Executor`."""
        return False

    def shared(self, value: Any, *methods: str) -> tuple[Callable[..., Any], ...]:
        """See `bowerbird.flow.run.Executor`: threads share everything."""
        return tuple(getattr(value, method) for method in methods)

    def stream(self, plan: Plan, report: RunReport) -> Iterator[Chunk]:
        """See `bowerbird.flow.run.Executor`."""
        most = min(LARGEST_CHUNK, self._budget() // MEMORY_SHARE)
        paces = [Pace(most)]
        chunks: Iterator[Chunk] = _paced(plan.source, paces)
        for part in segments(plan.steps):
            if isinstance(part, Sequential):
                chunks = in_order(part, chunks, report)
            else:
                paces.append(Pace(most))
                chunks = self._stateless(part, chunks, report, paces[-1])
        return chunks

    def explain(self, plan: Plan) -> list[str]:
        """See `bowerbird.flow.run.Executor`."""
        lines = [f"{'source':<12}{plan.source.describe()}"]
        for part in segments(plan.steps):
            if isinstance(part, Sequential):
                lines.append(f"{'in order':<12}{part.describe()}")
                continue
            where = self._where(part[0])
            lines.append(f"{where:<12}{' > '.join(step.describe() for step in part)}")
        return [
            *lines,
            f"{'memory':<12}at most {self._budget() / 2**20:,.0f} MiB of finished elements waiting",
        ]

    def _where(self, step: Stateless) -> str:
        if step.processes:
            return f"{step.processes} processes" if step.processes > 1 else "1 process"
        threads = self._threads(step)
        return f"{threads} threads" if threads > 1 else "one by one"

    def _threads(self, step: Stateless) -> int:
        return step.threads or self.threads or settings().worker_threads

    def _budget(self) -> int:
        free = available()
        return self.memory or min(MEMORY_MOST, free // MEMORY_SHARE if free else MEMORY_MOST)

    def _stateless(
        self, steps: tuple[Stateless, ...], chunks: Iterator[Chunk], report: RunReport, pace: Pace
    ) -> Iterator[Chunk]:
        threads, processes = lane(steps[0])
        wanted = cut(steps, chunks, pace)
        if processes:
            return _noted(in_processes(steps, wanted, processes, report), report, pace)
        if threads == 1:
            return _noted(_one_by_one(steps, wanted), report, pace)
        return _noted(self._in_threads(steps, wanted, report), report, pace)

    def _in_threads(
        self, steps: tuple[Stateless, ...], chunks: Iterator[Chunk], report: RunReport
    ) -> Iterator[tuple[Chunk, Chunk, Clock]]:
        threads = self._threads(steps[0])
        steps = tuple(step.for_worker(threads) for step in steps)
        return ordered_map(
            lambda chunk: (chunk, *worked(steps, chunk)),
            chunks,
            threads=threads,
            ahead=AHEAD * threads,
            weigh=lambda result: weigh(result[1]),
            budget=self._budget(),
            short=partial(_short, report),
        )


class Pace:
    """How many elements make a chunk that is worked on in a reasonable time, and is not too large.

    Attributes:
        length: so many.
    """

    def __init__(self, most: int) -> None:
        self.length = 1
        self._most = most

    def took(self, elements: int, seconds: float, results: Chunk) -> None:
        """Take note of how long a chunk of so many elements took, and of what came out."""
        some = results[:: len(results) // 8 + 1]
        held = weigh(some) * len(results) // len(some) if some else 0
        if seconds > SLOW or held > self._most:
            self.length = min(self.length, max(1, elements // 2))
        elif seconds < QUICK and elements >= self.length and 2 * held <= self._most:
            self.length = min(2 * self.length, LONGEST_CHUNK)


def _paced(source: Iterable[Any], paces: list[Pace]) -> Iterator[Chunk]:
    """The elements in chunks as long as the slowest part of the run takes them."""
    chunk: Chunk = []
    length, started = 1, time.perf_counter()
    try:
        for item in source:
            chunk.append(item)
            if len(chunk) >= length:
                paces[0].took(len(chunk), time.perf_counter() - started, chunk)
                yield chunk
                chunk, length, started = [], min(pace.length for pace in paces), time.perf_counter()
    except Exception:
        if chunk:
            yield chunk  # what came before goes on
        raise
    if chunk:
        yield chunk


def _noted(results: Iterator[tuple[Chunk, Chunk, Clock]], report: RunReport, pace: Pace) -> Iterator[Chunk]:
    try:
        for chunk, result, clock in results:
            report.time(clock)
            pace.took(len(chunk), sum(clock.seconds.values()), result)
            yield result
    finally:
        results.close()  # type: ignore[attr-defined]  # a generator


def cut(steps: tuple[Stateless, ...], chunks: Iterator[Chunk], pace: Pace | None = None) -> Iterator[Chunk]:
    """The same elements in chunks as the steps want them: of a size, of what a chunk may cost, or at their pace."""
    size = steps[0].size
    costly = [step for step in steps if type(step).cost is not Stateless.cost]
    if not size and not costly:
        for chunk in chunks:
            start = 0
            while start < len(chunk):
                stop = start + (pace.length if pace else LONGEST_CHUNK)
                yield chunk[start:stop]
                start = stop
        return
    waiting: Chunk = []
    spent = 0
    for chunk in chunks:
        for item in chunk:
            cost = max((step.cost(item) for step in costly), default=0)
            if waiting and (spent + cost > CAPACITY or len(waiting) == (size or LONGEST_CHUNK)):
                yield waiting
                waiting, spent = [], 0
            waiting.append(item)
            spent += cost
    if waiting:
        yield waiting


def _one_by_one(
    steps: tuple[Stateless, ...], chunks: Iterator[Chunk]
) -> Iterator[tuple[Chunk, Chunk, Clock]]:
    for chunk in chunks:
        yield (chunk, *worked(steps, chunk))


def worked(steps: tuple[Stateless, ...], chunk: Chunk) -> tuple[Chunk, Clock]:
    """What some steps make of a chunk, and the time they took.

    Where memory does not suffice for the chunk it is worked on in halves, down to single elements.
    """
    clock = Clock()
    done = 0
    try:
        for step in steps:
            if step.timed:
                chunk = step.run(chunk, clock)
            else:
                with clock.stage(step.label):
                    chunk = step.run(chunk, clock)
            done += 1
    except MemoryError:
        return _in_halves(steps[done:], chunk, clock), clock
    return chunk, clock


def _in_halves(steps: tuple[Stateless, ...], chunk: Chunk, clock: Clock) -> Chunk:
    if len(chunk) > 1:
        middle = len(chunk) // 2
        results: Chunk = []
        for half in (chunk[:middle], chunk[middle:]):
            result, spent = worked(steps, half)
            results.extend(result)
            clock.merge(spent)
        return results
    if not chunk or chunk[0].__class__ is Failure:
        return chunk
    at = steps[0]
    error = InputError(
        f"{at.label}: there is not enough memory for this one element.",
        hint="Free some memory, or work with smaller elements.",
    )
    return [Failure(name_of(chunk[0]), at.label, error, chunk[0])]


def _short(report: RunReport) -> bool:
    """Whether memory is so short that nothing new should be begun."""
    left = available()
    if left is None or left >= RESERVE:
        return False
    note = "memory ran short: fewer chunks were worked on at once"
    if note not in report.notes:
        report.notes.append(note)
    return True
