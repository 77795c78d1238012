"""A plan: where elements come from, and what is done with them. Nothing runs until an executor is given one.

Elements are anything: records, numbers, rows. They travel in chunks, lists that hold an element or a `Failure` at
each place; a step passes failures on where they are.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

Chunk: TypeAlias = list[Any]
"""Elements and failures, in order."""

CAPACITY = 512
"""What a chunk may cost at the most; see `Stateless.cost`."""

ERROR_POLICIES = ("keep", "drop", "raise")


class Clock:
    """What steps note of their work: time by stage, added up over all threads and workers, and counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count some time for a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def count(self, what: str, number: int) -> None:
        """Count things that happened, such as records that were left out."""
        self.counts[what] = self.counts.get(what, 0) + number

    def merge(self, other: Clock) -> None:
        """Count everything another clock has counted."""
        for name, seconds in other.seconds.items():
            self.add(name, seconds)
        for what, number in other.counts.items():
            self.count(what, number)


class Source(ABC):
    """Where elements come from. Picklable, and iterated anew by every run."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """The elements in order; a `Failure` in the place of each that cannot be had."""

    @abstractmethod
    def describe(self) -> str:
        """A line for people: what is read, and from where."""

    def parts(self) -> Sequence[Source]:
        """Sources that give the same elements in the same order, one after the other; workers share them out."""
        return (self,)

    @property
    def once(self) -> bool:
        """Whether it can be iterated only once, as a generator."""
        return False

    def count(self) -> int | None:
        """How many elements there are, where that can be told at once."""
        return None


class Step(ABC):
    """One thing that is done with every element."""

    label: str
    """As plans and errors call it: `filter(is_prime)`."""

    def describe(self) -> str:
        """A line for people."""
        return self.label

    looks: ClassVar[bool] = True
    """Whether it may look at the pictures of records."""

    @property
    def uses_picture(self) -> bool:
        """Whether this one looks at pictures; one that is decoded and that nobody looks at is not kept."""
        return self.looks

    @property
    def hides_picture(self) -> bool:
        """Whether nothing after it can look at pictures."""
        return False

    def prepared(self, run: Callable[[Plan], Iterator[Chunk]]) -> Step:
        """The step made ready, once before a run starts; `run` carries out another plan it depends on."""
        return self


class Stateless(Step):
    """A step whose results for a chunk depend on that chunk alone: it may run anywhere, chunk by chunk.

    Attributes:
        threads: how many chunks may be worked on at once; 0: as many as the executor has threads, for work that
            releases the interpreter's lock; 1: one after the other.
        processes: likewise, in processes of their own; 0: not in others.
    """

    threads: int = 1
    processes: int = 0
    size: int = 0
    """Elements that a chunk should have; 0: no matter."""

    @property
    def actor(self) -> bool:
        """Whether workers keep something from chunk to chunk, such as a model."""
        return False

    def for_worker(self, threads: int) -> Stateless:
        """The step for a worker that may use so many threads."""
        return self

    @abstractmethod
    def run(self, items: Chunk, clock: Clock) -> Chunk:
        """The results for a chunk, in order; the failures in it pass through at their places.

        A step that consists of stages counts their time itself and sets `timed`.
        """

    timed: ClassVar[bool] = False

    def cost(self, item: Any) -> int:
        """What an element costs in a chunk, of `CAPACITY`; 0: no matter."""
        return 0


class Sequential(Step):
    """A step that has to see the elements one after the other, in order."""

    @abstractmethod
    def stream(self, chunks: Iterator[Chunk], clock: Clock) -> Iterator[Chunk]:
        """The chunks that follow from some chunks. Stops reading them when nothing more can follow."""


@dataclass(frozen=True)
class Plan:
    """A source and steps. Immutable: every change is another plan.

    Attributes:
        source: where elements come from.
        steps: what is done, in order.
        on_error: what becomes of failures at the end: `keep` leaves them at their places, `drop` leaves them out
            (they are counted and reported in both), `raise` stops the run at the first.
    """

    source: Source
    steps: tuple[Step, ...] = field(default=())
    on_error: str = "keep"

    def then(self, *steps: Step) -> Plan:
        """The plan with more steps."""
        return replace(self, steps=(*self.steps, *steps))
