"""Workers of a Ray cluster: what they are given, what they do with it, and how they are replaced when they die."""

from __future__ import annotations

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.flow import local
from bowerbird.flow.plan import Chunk, Clock, Stateless
from bowerbird.flow.report import RunReport
from bowerbird.flow.run import segments
from bowerbird.lookahead import chunks, ordered_map
from bowerbird.record import Failure, name_of

IN_FLIGHT = 2
"""Parcels that a worker has been sent: one to work on, and the next, so that it waits for nothing."""

AHEAD = 4
"""Parcels for each worker that are under way or finished, ahead of the one being consumed."""

HELD = 256 << 20
"""Bytes that finished parcels may hold in the memory of the process that started the run."""

TRIES = 3
"""Workers may die so often of one parcel before its elements are tried one by one, in the last two of the tries."""

STARTS = 5
"""Workers may die so often, one after the other, before a single one has started."""

PATIENCE = 300.0
"""Seconds without any worker, after which a run gives up; a cluster that grows on demand takes minutes to do so."""

FRAMES = 6


@dataclass
class Parcel:
    """What travels between machines: elements, and what has been noted on the way.

    It travels as bytes, so that elements of any type arrive as they were: equal to the last bit, and writable.

    Attributes:
        items: elements and failures, in order.
        clock: time and counts since the last parcel.
        notes: lines for the report.
        error: why the run cannot go on after these items.
    """

    items: Chunk = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    notes: list[str] = field(default_factory=list)
    error: BowerbirdError | None = None

    def packed(self, label: str) -> bytes:
        """The parcel as bytes; elements that cannot be sent become failures of a step."""
        from ray import cloudpickle

        try:
            return bytes(cloudpickle.dumps(self))
        except Exception:  # noqa: BLE001  pickling runs code of the elements
            self.items = [_sendable(item, label) for item in self.items]
            return bytes(cloudpickle.dumps(self))

    @classmethod
    def unpacked(cls, data: bytes) -> Parcel:
        """The parcel that was packed."""
        from ray import cloudpickle

        parcel: Parcel = cloudpickle.loads(data)
        return parcel


def _sendable(item: Any, label: str) -> Any:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(item)
    except Exception as error:  # noqa: BLE001
        if isinstance(item, Failure):
            return Failure(item.id, item.step, item.error)
        reason = InputError(
            f"{label}: this element cannot be sent to another machine: {_said(error)}.",
            hint="Keep to values that can be pickled where steps run on a cluster.",
        )
        return Failure(name_of(item), label, reason)
    return item


class Worker:
    """Steps in a process of their own; what they keep, such as a model, stays from parcel to parcel.

    Args:
        stages: for each stage of a plan its stateless steps, pickled.
        threads: that it may use.
    """

    def __init__(self, stages: Sequence[bytes], threads: int) -> None:
        from ray import cloudpickle

        # Whatever counts processors in here shall count those of this worker, not of the machine.
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self._threads = threads
        given: list[tuple[Stateless, ...]] = [cloudpickle.loads(steps) for steps in stages]
        self._labels = [" > ".join(step.label for step in steps) for steps in given]
        self._stages = [
            [tuple(step.for_worker(threads) for step in run) for run in _runs(steps)] for steps in given
        ]

    def ready(self) -> None:
        """Return once it has started."""

    def work(self, stage: int, given: Any) -> bytes:
        """The packed parcel that a stage makes of one; that is given as bytes, or in a table of one row."""
        label = self._labels[stage]
        parcel = Parcel.unpacked(given if isinstance(given, bytes) else data_of(given))
        result = Parcel(clock=parcel.clock, notes=parcel.notes, error=parcel.error)
        length = -(-len(parcel.items) // self._threads) or 1
        working = chunks(parcel.items, length)
        try:
            for run in self._stages[stage]:
                working = self._working(run, working, result.clock)
            for chunk in working:
                result.items.extend(chunk)
        except BowerbirdError as error:
            result.error = error
        except Exception as error:  # noqa: BLE001  whatever it is, it has to reach the user readably
            result.error = defect(label, error)
        return result.packed(label)

    def _working(self, run: tuple[Stateless, ...], given: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        wanted = local.cut(run, given)
        threads = min(run[0].threads or self._threads, self._threads) if not run[0].processes else 1
        results = (
            map(partial(local.worked, run), wanted)
            if threads == 1
            else ordered_map(partial(local.worked, run), wanted, threads=threads)
        )
        for chunk, spent in results:
            clock.merge(spent)
            yield chunk


def _runs(steps: tuple[Stateless, ...]) -> list[tuple[Stateless, ...]]:
    return [run for run in segments(steps) if isinstance(run, tuple)]


def data_of(table: Any) -> bytes:
    """The packed parcel in a table of one row."""
    data: bytes = table.column("parcel")[0].as_py()
    return data


def defect(label: str, error: BaseException) -> BowerbirdError:
    """What is raised for an exception that nobody expected: the user's own frames, not Ray's."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "/bowerbird/" not in frame.filename
    ]
    where = "".join(traceback.format_list(frames[-FRAMES:])).rstrip()
    return BowerbirdError(
        f"{label} failed on a worker of the cluster: {_said(error)}." + (f"\n{where}" if where else "")
    )


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(eq=False)
class _Job:
    """A parcel on its way: for which stage, what was given, and what came of it."""

    stage: int
    given: Any
    tries: int = 0
    reference: Any = None
    result: bytes | None = None


@dataclass(eq=False)
class _Member:
    """A worker: its handle, its jobs in the order they were sent, and whether it has started."""

    handle: Any
    starting: Any
    jobs: list[_Job] = field(default_factory=list)


class Crew:
    """Workers that share the parcels of one run, of all its stages.

    Ray Data's own pool of actors waits for ever when a node is lost and the others have no room for its actors (Ray
    2.60), takes up to 20 ms for each block, and two pools of one plan may wait for each other's processors. This one
    sends the work of a lost worker to those that are left; a parcel costs 1 to 2 ms.

    Args:
        stages: reference of what a `Worker` is given.
        labels: of the stages, for errors.
        count: how many workers.
        threads: each may use.
        options: of their actors, as Ray names them: `num_cpus`, `num_gpus`, `runtime_env`.
        report: gets notes.
    """

    def __init__(
        self,
        stages: Any,
        labels: Sequence[str],
        count: int,
        threads: int,
        options: Mapping[str, Any],
        report: RunReport,
    ) -> None:
        import ray

        self._labels = labels
        self._count = count
        self._report = report
        # Ray restarts nothing: see `_lost`.
        actor = ray.remote(Worker).options(
            max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD", **options
        )
        self._start: Callable[[], Any] = lambda: actor.remote(stages, threads)
        self._members: list[_Member] = []
        self._waiting: deque[_Job] = deque()  # for a worker that is free
        self._lines: list[deque[_Job]] = [
            deque() for _ in labels
        ]  # of each stage what has been begun, in order
        self._failed_starts = 0
        self._sizes = [0, 0]  # bytes of all results so far, and their number
        for _ in range(count):
            self._hire()
        self._last_seen = time.monotonic()

    def results(self, stage: int, given: Iterator[Any]) -> Iterator[Parcel]:
        """What a stage makes of parcels, in order; they are bytes, or references of tables with one.

        Raises:
            BowerbirdError: no worker can be started; a step gave up.
        """
        line = self._lines[stage]
        more = True
        while more or line:
            while more and self._room(line):
                parcel = next(given, None)
                if parcel is None:
                    more = False
                else:
                    line.append(_Job(stage, parcel))
                    self._waiting.append(line[-1])
                    self._submit()
            if line and line[0].result is not None:
                yield Parcel.unpacked(line.popleft().result or b"")
            elif line or more:
                self._wait()

    def dismiss(self) -> None:
        """End all workers."""
        while self._members:
            self._end(self._members.pop())

    def _hire(self) -> None:
        handle = self._start()
        self._members.append(_Member(handle, handle.ready.remote()))

    def _free(self) -> list[_Member]:
        return [member for member in self._members if not member.starting and len(member.jobs) < IN_FLIGHT]

    def _room(self, line: deque[_Job]) -> bool:
        """Whether one more parcel may be begun."""
        if self._waiting or not self._free():
            return False
        if not line:
            return True
        jobs = [job for each in self._lines for job in each]
        held = sum(len(job.result) for job in jobs if job.result is not None)
        working = 1 + sum(job.result is None for job in jobs)
        average = self._sizes[0] / max(1, self._sizes[1])
        return len(line) < AHEAD * self._count and held + working * average <= HELD

    def _submit(self) -> None:
        while self._waiting and (free := self._free()):
            member = min(free, key=lambda member: len(member.jobs))
            job = self._waiting.popleft()
            job.reference = member.handle.work.remote(job.stage, job.given)
            member.jobs.append(job)

    def _wait(self) -> None:
        """Wait until something has happened, and take note of it."""
        import ray

        waiting: dict[Any, tuple[_Member, _Job | None]] = {}
        for member in self._members:
            if member.starting:
                waiting[member.starting] = (member, None)
            waiting.update((job.reference, (member, job)) for job in member.jobs)
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
        for reference in done:
            member, job = waiting[reference]
            if member not in self._members:
                continue  # lost by an earlier one of these
            if job is None:
                self._started(member)
            else:
                self._finished(member, job)
        self._submit()
        if any(not member.starting for member in self._members):
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > PATIENCE:
            raise BowerbirdError(
                f"For {PATIENCE:.0f} seconds no machine of the cluster has had room for a worker.",
                hint="Ask for fewer cpus_per_worker or gpus_per_worker; `ray status` shows what is there.",
            )

    def _started(self, member: _Member) -> None:
        import ray
        from ray.exceptions import RayActorError, RuntimeEnvSetupError

        try:
            ray.get(member.starting)
        except RuntimeEnvSetupError as error:
            raise BowerbirdError(
                f"The runtime_env of the workers cannot be set up: {_said(error)}."
            ) from None
        except RayActorError as error:
            self._failed_starts += 1
            broken = "creation task" in str(error)
            if broken or self._failed_starts >= STARTS:
                last = str(error).strip().splitlines()[-1]
                raise BowerbirdError(
                    f"No worker can be started on the cluster: {last.strip().rstrip('.')}.",
                    hint="Every machine needs bowerbird, and the modules that functions come from: install "
                    "them there, or name them in runtime_env={'py_modules': [...]}.",
                ) from None
            self._replace(member)
        else:
            member.starting = None
            self._failed_starts = 0

    def _finished(self, member: _Member, job: _Job) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            result: bytes = ray.get(job.reference)
        except RayTaskError as error:
            raise defect(
                self._labels[job.stage], error.cause if isinstance(error.cause, Exception) else error
            ) from None
        except RayError as error:
            self._lost(member, error)
            return
        member.jobs.remove(job)
        job.result = result
        self._sizes[0] += len(result)
        self._sizes[1] += 1

    def _lost(self, member: _Member, error: Exception) -> None:
        """A worker, or the way to it, has gone: another gets its work."""
        note = "a worker was lost; others took over its work"
        if note not in self._report.notes:
            self._report.notes.append(note)
        suspect, jobs = member.jobs[0], list(member.jobs)
        suspect.tries += 1
        for job in jobs:
            job.reference = None
        if suspect.tries >= TRIES:
            jobs[:1] = self._alone(suspect, error)
        self._waiting.extendleft(reversed(jobs))
        self._replace(member)

    def _alone(self, job: _Job, error: Exception) -> list[_Job]:
        """A parcel of which workers die, in its place as parcels of one element; of one element: its failure."""
        import ray

        label = self._labels[job.stage]
        parcel = Parcel.unpacked(job.given if isinstance(job.given, bytes) else data_of(ray.get(job.given)))
        if len(parcel.items) <= 1:
            died = InputError(
                f"{label}: every worker that got this element died: {_first_line(error)}.",
                hint="Look for a crash in a native library, or for too little memory.",
            )
            parcel.items = [Failure(name_of(item), label, died, item) for item in parcel.items]
            job.result = parcel.packed(label)
            return []
        singles = [Parcel([item]) for item in parcel.items]
        singles[0].clock, singles[0].notes = parcel.clock, parcel.notes
        singles[-1].error = parcel.error
        made = [_Job(job.stage, single.packed(label), tries=TRIES - 2) for single in singles]
        line = self._lines[job.stage]
        place = line.index(job)
        line.remove(job)
        for offset, single in enumerate(made):
            line.insert(place + offset, single)
        return made

    def _replace(self, member: _Member) -> None:
        self._members.remove(member)
        self._end(member)
        self._hire()

    def _end(self, member: _Member) -> None:
        import ray

        ray.kill(member.handle, no_restart=True)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
