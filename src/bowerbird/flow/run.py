"""Carrying out a plan: what both executors have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from bowerbird.errors import RecordError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.pictures import Decode, default_policy
from bowerbird.flow.plan import Chunk, Clock, Plan, Sequential, Stateless, Step
from bowerbird.flow.report import RunReport
from bowerbird.record import Failure


class Executor(Protocol):
    """Interprets a plan: on this machine, or on a cluster."""

    @property
    def report(self) -> RunReport:
        """Of the last run."""

    @report.setter
    def report(self, report: RunReport) -> None: ...

    @property
    def distributed(self) -> bool:
        """Whether steps run on other machines, so that what they need and give has to travel."""

    def shared(self, value: Any, *methods: str) -> tuple[Callable[..., Any], ...]:
        """Some methods of an object of which there is one for all workers, in a form that steps may hold."""

    def stream(self, plan: Plan, report: RunReport) -> Iterator[Chunk]:
        """The chunks that come out, in order, failures at their places.

        Times, counts and notes go to the report; counting the elements is the caller's.
        """

    def explain(self, plan: Plan) -> list[str]:
        """What would run where, a line for each stage."""


def carried_out(
    plan: Plan,
    executor: Executor,
    *,
    pictures: bool = True,
    keep_failures: bool = False,
    report: RunReport | None = None,
) -> Iterator[Chunk]:
    """Run a plan; what becomes of failures is as its `on_error` says.

    Args:
        plan: what to run.
        executor: what runs it.
        pictures: whether the caller looks at the pictures of records.
        keep_failures: whether the caller gets failures even where the plan drops them: to list them.
        report: filled in; it is the executor's `report` from the start.

    Raises:
        RecordError: the plan stops at the first failure, and this is it.
        BowerbirdError: what concerns the run as a whole: no such model, no such file.
    """
    report = report or RunReport()
    executor.report = report
    started = time.monotonic()
    policy = "keep" if keep_failures and plan.on_error == "drop" else plan.on_error
    try:
        ready = _prepared(simplified(plan, pictures=pictures), executor, report)
        for chunk in executor.stream(ready, report):
            settled, fatal = _settled(chunk, policy, report)
            if settled:
                yield settled
            if fatal is not None:
                raise RecordError(fatal.id, fatal.step, fatal.error)
    finally:
        report.seconds += time.monotonic() - started


@contextmanager
def closed(chunks: Iterator[Chunk]) -> Iterator[Iterator[Chunk]]:
    """Close what gives chunks when the block ends, however it ends."""
    try:
        yield chunks
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()


def _settled(chunk: Chunk, on_error: str, report: RunReport) -> tuple[Chunk, Failure | None]:
    """What the caller gets of a chunk, and the failure that stops the run after it."""
    places = [place for place, item in enumerate(chunk) if item.__class__ is Failure]
    if places and on_error == "raise":
        report.take(chunk[places[0]])
        report.done += places[0]
        return chunk[: places[0]], chunk[places[0]]
    report.done += len(chunk) - len(places)
    for place in places:
        report.take(chunk[place])
    if places and on_error == "drop":
        return [item for item in chunk if item.__class__ is not Failure], None
    return chunk, None


def _prepared(plan: Plan, executor: Executor, report: RunReport) -> Plan:
    """The plan with every step ready; other collections that steps depend on are run for it."""

    def run(other: Plan) -> Iterator[Chunk]:
        inner = RunReport()
        try:
            with closed(carried_out(other, executor, pictures=False, report=inner)) as chunks:
                yield from chunks
        finally:
            executor.report = report
            report.absorb(inner)

    return replace(plan, steps=tuple(step.prepared(run) for step in plan.steps))


def simplified(plan: Plan, *, pictures: bool) -> Plan:
    """The plan without decoding of pictures that nobody looks at: `embed` decodes at the scale its model needs."""
    steps: list[Step] = []
    seen = pictures
    embeds = False
    plain = default_policy()
    for step in reversed(plan.steps):
        if isinstance(step, Decode) and not seen and embeds and step.policy == plain:
            continue
        seen = (seen and not step.hides_picture) or step.uses_picture
        embeds = embeds or isinstance(step, Embed)
        steps.append(step)
    return replace(plan, steps=tuple(reversed(steps)))


def segments(steps: tuple[Step, ...]) -> list[tuple[Stateless, ...] | Sequential]:
    """Runs of stateless steps that can be done together, chunk by chunk, and the sequential steps between them.

    A step that wants chunks of a certain size, or another number of threads or processes, begins a run of its own.
    """
    found: list[tuple[Stateless, ...] | Sequential] = []
    for step in steps:
        if isinstance(step, Sequential):
            found.append(step)
            continue
        assert isinstance(step, Stateless)
        last = found[-1] if found else None
        if isinstance(last, tuple) and not step.size and lane(last[-1]) == lane(step):
            found[-1] = (*last, step)
        else:
            found.append((step,))
    return found


def in_order(step: Sequential, chunks: Iterator[Chunk], report: RunReport) -> Iterator[Chunk]:
    """What a sequential step makes of some chunks; its time goes to the report when it ends."""
    clock = Clock()
    try:
        yield from step.stream(chunks, clock)
    finally:
        report.time(clock)


def lane(step: Stateless) -> tuple[int, int]:
    """Steps of one lane run in the same threads or processes."""
    return (step.threads if not step.processes else 1, step.processes)
