"""Cross-request batching: texts and pictures of many callers share runs of the network.

A few worker threads, one for each core, do all the work there is: they decode pictures and run networks. A worker that
is free takes the most urgent batch at once, and no more than its share with other workers that are free, so nobody
waits while a core is idle; while all are busy, what arrives gathers, and the next batch is larger. Nothing waits to be
joined by others, but decoded pictures, and those for `GATHER_SECONDS` at most.

What is most urgent is decided by deadlines. An input's deadline is its arrival plus the seconds of work that its own
call has asked for up to it: the one sentence of a short call comes before the thousandth of a long one, and no call
can push back another for ever. By the same deadlines calls are refused: what counts is the work that would come before
the last input of the call, so a long call that was accepted does not shut out the short ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.serve.accounts import SLOT_SECONDS, Accounts
from bowerbird.serve.lanes import Batch, Call, Lane, Queue, Work
from bowerbird.serve.leaving import told_of_leaving
from bowerbird.serve.runs import run, unexpected

__all__ = ["Batch", "BusyError", "Call", "Lane", "Scheduler", "Work"]

_LOG = logging.getLogger("bowerbird")

GATHER_SECONDS = 0.004
"""How long prepared inputs may wait for others that are being prepared."""


class BusyError(BowerbirdError):
    """More is waiting than will be done in time, or the service is about to stop.

    Attributes:
        seconds: after which it is worth trying again.
        stopping: nothing is taken any more.
    """

    def __init__(self, seconds: float, *, stopping: bool = False) -> None:
        self.seconds = seconds
        self.stopping = stopping
        super().__init__(
            "The service is stopping."
            if stopping
            else "More requests are waiting than can be answered in time.",
            hint=f"Try again in {max(1, round(seconds))} s.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_busy, (self.seconds, self.stopping))


class Scheduler:
    """Worker threads, and what waits for them. Safe to use from any thread.

    Args:
        threads: how many workers.
        queue_seconds: of work that may come before a call; where more would, it is refused.
        queue_bytes: that waiting inputs may hold; what comes beyond is refused, unless nothing waits.
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
        self._changed = threading.Condition(threading.Lock())
        self._open = Accounts()
        self._preparing = Queue()
        self._numbers = itertools.count()
        self._stopping = False
        self._free = max(1, threads)  # workers that have nothing to do
        self._workers = [
            threading.Thread(target=self._work, name=f"bowerbird-worker-{number}", daemon=True)
            for number in range(self._free)
        ]
        for worker in self._workers:
            worker.start()

    # Asking

    def submit(self, call: Call, works: Sequence[Work]) -> None:
        """Begin a call. Each work belongs to it.

        Raises:
            BusyError: too much is waiting, or the scheduler was stopped; nothing of the call was begun.
        """
        now = time.monotonic()
        size = 0
        total = 0.0
        for work in works:
            seconds = work.lane.seconds_of(work)
            total += seconds
            size += work.size
            work.began, work.due, work.micros = now, now + total, round(seconds * 1e6)
        with self._changed:
            self._check(now + total, size)
            call.open, call.works = len(works), works
            self._open.calls.add(call)
            ready: dict[Lane, list[Work]] = {}
            raw: list[Work] = []
            for work in works:
                work.number = next(self._numbers)
                self._open.enter(work)
                if work.prepare is None:
                    ready.setdefault(work.lane, []).append(work)
                else:
                    work.lane.preparing += 1
                    raw.append(work)
            for lane, listed in ready.items():
                lane.waiting.put(listed)
            if raw:
                self._preparing.put(raw)
            self._changed.notify(len(works))

    def cancel(self, call: Call) -> None:
        """Nobody waits for a call any more: what has not begun of it is given up, and holds nothing from now on."""
        with self._changed:
            self._give_up(call)

    def check(self) -> None:
        """Find out before any work is done for a call whether even a short one would be refused.

        Raises:
            BusyError: it would.
        """
        with self._changed:
            self._check(time.monotonic() + SLOT_SECONDS, 0)

    def wait(self, works: Callable[[Call], Sequence[Work]], count: int) -> Call:
        """Ask, and wait for all results, in a thread that is no worker. The call is cancelled when the one leaves for
        whom the thread works, as `leaving` says.

        Args:
            works: what is to be done for a call.
            count: of results.

        Raises:
            BusyError: see `submit`.
            LeftError: nobody waits any more.
        """
        done = threading.Event()
        call = Call([None] * count, lambda _: done.set())
        if listed := works(call):
            self.submit(call, listed)

            def left() -> None:
                self.cancel(call)
                done.set()

            with told_of_leaving(left):
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
                self.cancel(call)
                raise
        return call

    # What is known

    def waiting_seconds(self) -> float:
        """How long all that was accepted and is not done will take."""
        with self._changed:
            return self._open.seconds() / len(self._workers)

    def waiting_inputs(self) -> dict[str, int]:
        """How many inputs wait, by the names of the lanes that have any open."""
        with self._changed:
            return self._open.waiting()

    def held_bytes(self) -> int:
        """What the inputs hold that were accepted and are not done."""
        with self._changed:
            return self._open.held

    def stop(self, seconds: float = 30.0) -> bool:
        """Take nothing more, finish what was accepted. Returns whether all of it was done in time.

        What was not has a `BusyError` for its result, so that nobody waits for ever.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, end - time.monotonic()))
        if not any(worker.is_alive() for worker in self._workers):
            return True
        with self._changed:
            left = list(self._open.calls)
            for call in left:
                for work in call.works:
                    if call.results[work.index] is None:
                        call.results[work.index] = BusyError(1.0, stopping=True)
                self._give_up(call)
            self._changed.notify_all()
        for call in left:
            self._tell(call)
        return False

    def _check(self, until: float, size: int) -> None:
        """Whether a call may come whose last deadline this is; the lock is held."""
        if self._stopping:
            raise BusyError(1.0, stopping=True)
        ahead = self._open.seconds(until) / len(self._workers)
        if ahead > self.queue_seconds:
            raise BusyError(ahead)
        if self._open.held and self._open.held + size > self.queue_bytes:
            raise BusyError(max(1.0, ahead))

    def _weigh(self, lane: Lane) -> None:
        """Now that a lane's speed is known, count what came before that; the lock is held."""
        for queue in (lane.waiting, self._preparing):
            for work in queue.works():
                if work.lane is lane and not work.micros:
                    work.micros = round(lane.seconds_of(work) * 1e6)
                    self._open.count(work)

    def _give_up(self, call: Call) -> None:
        """See `cancel`; the lock is held."""
        call.cancelled = True
        self._open.calls.discard(call)
        for work in call.works:
            if work.queue is not None:
                work.lane.preparing -= work.queue is self._preparing
                work.queue.withdraw(work)
                work.payload = None
                self._open.leave(work)
        call.works = ()
        if self._stopping:
            self._changed.notify_all()

    # Working

    def _work(self) -> None:
        worked = False
        while True:
            with self._changed:
                self._free += worked
                worked = True
                task = self._next()
                while task is None:
                    if self._stopping and not self._open.lanes:
                        self._changed.notify_all()
                        return
                    gathering = any(len(lane.waiting) for lane in self._open.lanes)
                    self._changed.wait(GATHER_SECONDS if gathering else None)
                    task = self._next()
                self._free -= 1
            try:
                task()
            except Exception:  # noqa: BLE001  of who asked and of the accounts; others are waiting for the worker
                _LOG.exception("A worker failed beside its work; it goes on.")

    def _next(self) -> Callable[[], None] | None:
        """What is to be done now, taken out of the queues; the lock is held."""
        now = time.monotonic()
        best: Lane | None = None
        soonest: tuple[float, int] | None = None
        for lane in self._open.lanes:
            first = lane.waiting.first()
            if first is None or (lane.preparing and now - first.began < GATHER_SECONDS and not lane.full()):
                continue
            if soonest is None or (first.due, first.number) < soonest:
                best, soonest = lane, (first.due, first.number)
        raw = self._preparing.first()
        if raw is not None and (soonest is None or (raw.due, raw.number) < soonest):
            (work,) = self._preparing.take(1)
            return lambda: self._prepare(work)
        if best is None:
            return None
        others = self._free - 1
        works = best.take(others)
        if others and len(best.waiting):
            self._changed.notify()  # what is left is for them, and they may not know of it
        return lambda: self._run(best, works)

    def _prepare(self, work: Work) -> None:
        """Make one input ready; one that fails keeps its place."""
        failed: BaseException | None = None
        began = time.monotonic()
        call, lane = work.call, work.lane
        if call.waited < 0:
            call.waited = began - work.began
        try:
            assert work.prepare is not None
            work.payload = work.prepare(work.payload)
        except InputError as error:
            failed = error
        except BaseException as error:  # noqa: BLE001  one input's trouble is told at its own place
            failed = unexpected(error)
        now = time.monotonic()
        with self._changed:
            lane.preparing -= 1
            call.prepared += now - began
            lane.learn_preparation(now - began)
            if failed is None and not call.cancelled:
                work.began = now
                lane.waiting.put([work])
                self._changed.notify()
                return
        self._finish([work], [failed])

    def _run(self, lane: Lane, works: list[Work]) -> None:
        began = time.monotonic()
        payloads = [work.payload for work in works]
        for work in works:
            work.payload = None
            if work.call.waited < 0:
                work.call.waited = began - work.began
        worked = time.thread_time()
        results, whole = run(lane, payloads)
        processor = time.thread_time() - worked
        seconds = time.monotonic() - began
        cost = max(work.cost for work in works) * len(works)
        own = sum(work.cost for work in works)
        with self._changed:
            if whole:  # how long it takes to fail says nothing
                unknown = not lane.speed
                lane.learn(cost, seconds)
                if unknown:
                    self._weigh(lane)
            for work in works:
                work.call.ran += seconds * work.cost / own
        self._finish(works, results)
        if self.watch:
            failed = sum(isinstance(result, BaseException) for result in results)
            waited = began - min(work.began for work in works)
            batch = Batch(lane.name, len(works), cost, own, lane.budget, seconds, waited, failed, processor)
            try:
                self.watch(batch)
            except Exception:  # noqa: BLE001  it is no part of the work
                _LOG.exception("A watcher of batches failed.")

    def _finish(self, works: Sequence[Work], results: Sequence[Any]) -> None:
        done: list[Call] = []
        with self._changed:
            for work, result in zip(works, results, strict=True):
                self._open.leave(work)
                call = work.call
                if call.cancelled:
                    continue
                call.results[work.index] = result
                call.open -= 1
                if not call.open:
                    call.works = ()  # what is done refers to nothing that refers to it
                    self._open.calls.discard(call)
                    done.append(call)
            if self._stopping:
                self._changed.notify_all()
        for call in done:
            self._tell(call)

    @staticmethod
    def _tell(call: Call) -> None:
        try:
            call.finished(call)
        except Exception:  # noqa: BLE001  the worker has others to serve
            _LOG.exception("One who waited for a call failed.")


def _busy(seconds: float, stopping: bool) -> BusyError:
    return BusyError(seconds, stopping=stopping)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
