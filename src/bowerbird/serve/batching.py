"""Cross-request batching: texts and pictures of many callers share runs of the network.

A few worker threads, one for each core, do all the work there is: they decode pictures and run networks. A worker that
is free takes the most urgent batch at once, so nobody waits while a core is idle; while all are busy, what arrives
gathers, and the next batch is larger. Nothing waits to be joined by others, but decoded pictures, and those for
`GATHER_SECONDS` at most.

What is most urgent is decided by deadlines. An input's deadline is its arrival plus the seconds of work that its own
call has asked for up to it: the one sentence of a short call comes before the thousandth of a long one, and no call
can push back another for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bowerbird.errors import BowerbirdError, EngineError, InputError

__all__ = ["Batch", "BusyError", "Call", "Lane", "Scheduler", "Work"]

_LOG = logging.getLogger("bowerbird")

GATHER_SECONDS = 0.004
"""How long prepared inputs may wait for others that are being prepared."""

LOOKED_AT = 64
"""Of the most urgent inputs, so many are looked at for those that fit into a batch best."""

SMOOTHING = 0.2
"""Weight of the last batch in what is known of a lane's speed."""


class BusyError(BowerbirdError):
    """More is waiting than will be done in time.

    Attributes:
        seconds: after which it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            "More requests are waiting than can be answered in time.",
            hint=f"Try again in {max(1, round(seconds))} s.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (BusyError, (self.seconds,))


@dataclass(eq=False)
class Work:
    """One input on its way.

    Attributes:
        call: that it belongs to.
        index: its place there.
        cost: what it takes of a batch's budget: tokens, or 1 for a picture.
        payload: what the lane runs on; before `prepare`, what that takes.
        prepare: makes the payload what the lane runs on, in a worker; None: it is that already.
        lane: where it is run.
        due: its deadline, on the clock of `time.monotonic`.
        began: when it came.
        size: bytes that it holds while it waits.
    """

    call: Call
    index: int
    cost: int
    payload: Any
    lane: Lane
    prepare: Callable[[Any], Any] | None = None
    due: float = 0.0
    began: float = 0.0
    size: int = 0


@dataclass(eq=False)
class Call:
    """What one caller asked for: as many inputs, and one result for each at its own place.

    Attributes:
        results: at each place what the lane made of the input, or the error that it raised.
        finished: called once, in a worker, when nothing is open; not after `cancel`.
        cancelled: nobody waits any more; what has not begun is left out.
        waited: seconds until the first of its inputs was begun.
        ran: seconds of the runs that its inputs took part in, each in proportion to its share of the batch.
    """

    results: list[Any]
    finished: Callable[[Call], None]
    open: int = 0
    cancelled: bool = False
    waited: float = -1.0
    ran: float = 0.0

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True


@dataclass(eq=False)
class Lane:
    """Inputs that may share a run: of one tower of one model, under one prompt or output.

    Attributes:
        name: for measures.
        run: payloads -> one result for each.
        budget: of a batch: the number of inputs times the largest cost among them stays below it.
        most: inputs in a batch.
        speed: cost per second of one worker, as it was lately; 0: nothing is known yet.
    """

    name: str
    run: Callable[[Sequence[Any]], Sequence[Any]]
    budget: int
    most: int
    speed: float = 0.0
    waiting: list[tuple[float, int, Work]] = field(default_factory=list)
    preparing: int = 0
    load: int = 0

    def seconds(self, cost: int) -> float:
        """How long one worker takes for so much, as far as that is known."""
        return cost / self.speed if self.speed else 0.0

    def learn(self, cost: int, seconds: float) -> None:
        """What a batch has taken."""
        now = cost / max(seconds, 1e-6)
        self.speed = now if not self.speed else (1 - SMOOTHING) * self.speed + SMOOTHING * now


@dataclass(frozen=True)
class Batch:
    """What was run, for measures.

    Attributes:
        lane: name of it.
        inputs: how many.
        cost: what they took of the budget, padding included.
        seconds: of the run.
        waited: of the input that waited longest, seconds.
    """

    lane: str
    inputs: int
    cost: int
    seconds: float
    waited: float


class Scheduler:
    """Worker threads, and what waits for them. Safe to use from any thread.

    Args:
        threads: how many workers.
        queue_seconds: of work that may wait; what comes beyond is refused, unless nothing waits.
        queue_bytes: that waiting inputs may hold; likewise.
        watch: told about every batch, in the worker.
    """

    def __init__(
        self,
        threads: int,
        *,
        queue_seconds: float = 4.0,
        queue_bytes: int = 1 << 30,
        watch: Callable[[Batch], None] | None = None,
    ) -> None:
        self.queue_seconds = queue_seconds
        self.queue_bytes = queue_bytes
        self.watch = watch
        self._changed = threading.Condition()
        self._lanes: set[Lane] = set()
        self._preparing: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()
        self._held = 0
        self._stopping = False
        self._workers = [
            threading.Thread(target=self._work, name=f"bowerbird-worker-{number}", daemon=True)
            for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    # Asking

    def submit(self, call: Call, works: Sequence[Work]) -> None:
        """Begin a call. Each work belongs to it.

        Raises:
            BusyError: too much is waiting; nothing of the call was begun.
        """
        now = time.monotonic()
        size = sum(work.size for work in works)
        total = 0.0
        for work in works:
            total += work.lane.seconds(work.cost)
            work.began, work.due = now, now + total
        with self._changed:
            waiting = self._seconds()
            if self._stopping or (waiting and (waiting > self.queue_seconds)):
                raise BusyError(waiting)
            if self._held and self._held + size > self.queue_bytes:
                raise BusyError(max(1.0, waiting))
            self._held += size
            call.open = len(works)
            for work in works:
                lane = work.lane
                lane.load += work.cost
                self._lanes.add(lane)
                entry = (work.due, next(self._numbers), work)
                if work.prepare is None:
                    heapq.heappush(lane.waiting, entry)
                else:
                    lane.preparing += 1
                    heapq.heappush(self._preparing, entry)
            self._changed.notify(len(works))

    def wait(self, works: Callable[[Call], Sequence[Work]], count: int) -> Call:
        """Ask, and wait for all results, in a thread that is no worker.

        Args:
            works: what is to be done for a call.
            count: of results.

        Raises:
            BusyError: see `submit`.
        """
        done = threading.Event()
        call = Call([None] * count, lambda _: done.set())
        if listed := works(call):
            self.submit(call, listed)
            done.wait()
        return call

    async def result(self, works: Callable[[Call], Sequence[Work]], count: int) -> Call:
        """Ask, and await all results. Cancelling it cancels the call.

        Raises:
            BusyError: see `submit`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def finished(_: Call) -> None:
            # The loop may be closed by now: then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, future)

        call = Call([None] * count, finished)
        if listed := works(call):
            self.submit(call, listed)
            try:
                await future
            except asyncio.CancelledError:
                call.cancel()
                raise
        return call

    # What is known

    def waiting_seconds(self) -> float:
        """How long all that waits will take."""
        with self._changed:
            return self._seconds()

    def waiting_inputs(self) -> dict[str, int]:
        """How many inputs wait, by lane."""
        with self._changed:
            return {lane.name: len(lane.waiting) + lane.preparing for lane in self._lanes}

    def forget(self, lanes: Iterable[Lane]) -> None:
        """Nothing will come on these lanes any more."""
        with self._changed:
            self._lanes.difference_update(lane for lane in lanes if not lane.load)

    def stop(self, seconds: float = 30.0) -> bool:
        """Take nothing more, finish what was accepted. Returns whether all of it was done in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def _seconds(self) -> float:
        return sum(lane.seconds(lane.load) for lane in self._lanes) / max(1, len(self._workers))

    # Working

    def _work(self) -> None:
        while True:
            with self._changed:
                task = self._next()
                while task is None:
                    if self._stopping and not self._is_anything_open():
                        return
                    self._changed.wait(GATHER_SECONDS if self._any_ready() else None)
                    task = self._next()
            task()

    def _is_anything_open(self) -> bool:
        return bool(self._preparing) or any(lane.waiting or lane.preparing for lane in self._lanes)

    def _any_ready(self) -> bool:
        return any(lane.waiting for lane in self._lanes)

    def _next(self) -> Callable[[], None] | None:
        """What is to be done now, taken out of the queues; the lock is held."""
        now = time.monotonic()
        best: Lane | None = None
        for lane in self._lanes:
            self._drop_cancelled(lane)
            if (
                lane.waiting
                and self._may_run(lane, now)
                and (best is None or lane.waiting[0] < best.waiting[0])
            ):
                best = lane
        while self._preparing and self._preparing[0][2].call.cancelled:
            self._leave(heapq.heappop(self._preparing)[2], prepared=False)
        if self._preparing and (best is None or self._preparing[0] < best.waiting[0]):
            work = heapq.heappop(self._preparing)[2]
            return lambda: self._prepare(work)
        if best is None:
            return None
        works = self._taken(best)
        return lambda: self._run(best, works)

    @staticmethod
    def _may_run(lane: Lane, now: float) -> bool:
        return not lane.preparing or _is_full(lane) or now - lane.waiting[0][2].began > GATHER_SECONDS

    def _drop_cancelled(self, lane: Lane) -> None:
        while lane.waiting and lane.waiting[0][2].call.cancelled:
            self._leave(heapq.heappop(lane.waiting)[2])

    def _leave(self, work: Work, *, prepared: bool = True) -> None:
        work.lane.load -= work.cost
        work.lane.preparing -= not prepared
        self._held -= work.size

    def _taken(self, lane: Lane) -> list[Work]:
        """The most urgent input, and of the next ones those that fit to it best."""
        if len(lane.waiting) == 1:
            return [heapq.heappop(lane.waiting)[2]]
        looked: list[tuple[float, int, Work]] = []
        while lane.waiting and len(looked) < LOOKED_AT:
            entry = heapq.heappop(lane.waiting)
            if entry[2].call.cancelled:
                self._leave(entry[2])
            else:
                looked.append(entry)
        if not looked:
            return []
        first = looked[0][2].cost
        order = sorted(range(len(looked)), key=lambda place: (abs(looked[place][2].cost - first), place))
        taken: list[Work] = []
        left = set(range(len(looked)))
        largest = 0
        for place in order:
            work = looked[place][2]
            largest = max(largest, work.cost)
            if taken and (len(taken) == lane.most or largest * (len(taken) + 1) > lane.budget):
                break
            taken.append(work)
            left.discard(place)
        for place in sorted(left):
            heapq.heappush(lane.waiting, looked[place])
        return taken

    def _prepare(self, work: Work) -> None:
        """Make one input ready; one that fails keeps its place."""
        failed: BaseException | None = None
        began = time.monotonic()
        if work.call.waited < 0:
            work.call.waited = began - work.began
        try:
            assert work.prepare is not None
            work.payload = work.prepare(work.payload)
        except InputError as error:
            failed = error
        except Exception as error:  # noqa: BLE001  one input's trouble is told at its own place
            failed = _unexpected(error)
        with self._changed:
            work.lane.preparing -= 1
            if failed is None:
                work.began = time.monotonic()
                heapq.heappush(work.lane.waiting, (work.due, next(self._numbers), work))
                self._changed.notify()
        if failed is not None:
            self._finish([work], [failed])

    def _run(self, lane: Lane, works: list[Work]) -> None:
        if not works:
            return
        began = time.monotonic()
        for work in works:
            if work.call.waited < 0:
                work.call.waited = began - work.began
        try:
            results = list(lane.run([work.payload for work in works]))
        except Exception as error:  # noqa: BLE001  engines raise what they like
            results = self._one_by_one(lane, works, error)
        seconds = time.monotonic() - began
        cost = max(work.cost for work in works) * len(works)
        with self._changed:
            lane.learn(cost, seconds)
        for work in works:
            work.call.ran += seconds / len(works)
        self._finish(works, results)
        if self.watch:
            self.watch(Batch(lane.name, len(works), cost, seconds, began - min(w.began for w in works)))

    def _one_by_one(self, lane: Lane, works: Sequence[Work], error: Exception) -> list[Any]:
        """After a run failed: each input alone, so that only those fail that cannot be run."""
        if len(works) == 1:
            return [error if isinstance(error, BowerbirdError) else _unexpected(error)]
        results: list[Any] = []
        for work in works:
            try:
                results += lane.run([work.payload])
            except Exception as alone:  # noqa: BLE001  see `_run`
                results.append(alone if isinstance(alone, BowerbirdError) else _unexpected(alone))
        return results

    def _finish(self, works: Sequence[Work], results: Sequence[Any]) -> None:
        done: list[Call] = []
        with self._changed:
            for work, result in zip(works, results, strict=True):
                self._leave(work)
                call = work.call
                call.results[work.index] = result
                call.open -= 1
                if not call.open:
                    done.append(call)
            if self._stopping:
                self._changed.notify_all()
        for call in done:
            if not call.cancelled:
                call.finished(call)


def _is_full(lane: Lane) -> bool:
    waiting = len(lane.waiting)
    return waiting >= lane.most or waiting * lane.waiting[0][2].cost >= lane.budget


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _unexpected(error: Exception) -> EngineError:
    _LOG.error("A batch failed: %s", error, exc_info=error)
    return EngineError(
        f"Unexpected {type(error).__name__}: {error}.", hint="This is a defect; please report it."
    )
