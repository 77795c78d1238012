"""What waits for a run of the network: inputs, the calls they belong to, and the lanes in which they may share one."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

__all__ = ["Batch", "Call", "Lane", "Queue", "Work"]

LOOKED_AT = 64
"""Of the most urgent inputs, so many are looked at for those that fit into a batch best."""

SMOOTHING = 0.2
"""Weight of the last batch in what is known of a lane's speed."""

FURTHEST = 4.0
"""By what factor one batch may differ at the most from what is known, so that one hiccup is no news."""

MANY = 64
"""Inputs of one call that are put into a queue together; fewer are put there one by one."""


@dataclass(eq=False, slots=True)
class Work:
    """One input on its way.

    Attributes:
        call: that it belongs to.
        index: its place there.
        cost: what it takes of a batch's budget, at least 1: tokens, or 1 for a picture.
        payload: what the lane runs on; before `prepare`, what that takes; None as soon as it is run.
        lane: where it is run.
        prepare: makes the payload what the lane runs on, in a worker; None: it is that already.
        size: bytes that it holds while it waits.
        due: its deadline, on the clock of `time.monotonic`.
        number: the order of arrival, which decides between equal deadlines.
        began: when it came, or was prepared.
        micros: of a worker's time that it will take, as far as that was known when it came.
        queue: where it waits; None: it is being worked on, done or given up.
    """

    call: Call
    index: int
    cost: int
    payload: Any
    lane: Lane
    prepare: Callable[[Any], Any] | None = None
    size: int = 0
    due: float = 0.0
    number: int = 0
    began: float = 0.0
    micros: int = 0
    queue: Queue | None = None


@dataclass(eq=False, slots=True)
class Call:
    """What one caller asked for: as many inputs, and one result for each at its own place.

    Attributes:
        results: at each place what the lane made of the input, or the error that it raised.
        finished: called once, when nothing is open, in a worker as a rule; not after `Scheduler.cancel`.
        works: its inputs, as long as it is open.
        open: how many of them have no result.
        cancelled: nobody waits any more; what has not begun is left out.
        waited: seconds until the first of its inputs was begun; -1: none was.
        prepared: seconds that preparing its inputs took.
        ran: seconds of the runs that its inputs took part in, each in proportion to its share of the batch.
    """

    results: list[Any]
    finished: Callable[[Call], None]
    works: Sequence[Work] = ()
    open: int = 0
    cancelled: bool = False
    waited: float = -1.0
    prepared: float = 0.0
    ran: float = 0.0


class Queue:
    """Inputs in the order of their deadlines. Its owner sees to it that one thread at a time uses it."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Work]] = []
        self._gone = 0

    def __len__(self) -> int:
        return len(self._entries) - self._gone

    def put(self, works: Sequence[Work]) -> None:
        """Let inputs wait here."""
        entries = [(work.due, work.number, work) for work in works]
        for work in works:
            work.queue = self
        if len(entries) > MANY:
            self._entries += entries
            self._entries.sort()
        else:
            for entry in entries:
                insort(self._entries, entry)

    def first(self) -> Work | None:
        """The most urgent one; it stays."""
        self._drop()
        return self._entries[0][2] if self._entries else None

    def take(self, most: int, chosen: Callable[[Sequence[Work]], Sequence[int]] | None = None) -> list[Work]:
        """Some inputs, which wait no longer.

        Args:
            most: how many of the most urgent are looked at.
            chosen: given these, the places of those to take, the most urgent first; None: all.
        """
        looked: list[tuple[float, int, Work]] = []
        end = 0
        for entry in self._entries:
            if len(looked) == most:
                break
            end += 1
            if entry[2].queue is self:
                looked.append(entry)
        self._gone -= end - len(looked)
        places = range(len(looked)) if chosen is None else chosen([entry[2] for entry in looked])
        taken = [looked[place][2] for place in places]
        for work in taken:
            work.queue = None
        self._entries[:end] = [entry for entry in looked if entry[2].queue is self]
        return taken

    def withdraw(self, work: Work) -> None:
        """Take out one that is not wanted any more."""
        work.queue = None
        self._gone += 1
        # What is left of those in the middle is dropped when it comes to the front, or when there is much of it.
        if self._gone > LOOKED_AT and 2 * self._gone > len(self._entries):
            self._entries = [entry for entry in self._entries if entry[2].queue is self]
            self._gone = 0

    def works(self) -> list[Work]:
        """All that wait."""
        return [entry[2] for entry in self._entries if entry[2].queue is self]

    def _drop(self) -> None:
        """Forget what was withdrawn and has come to the front."""
        gone = 0
        for entry in self._entries:
            if entry[2].queue is self:
                break
            gone += 1
        if gone:
            del self._entries[:gone]
            self._gone -= gone


@dataclass(eq=False)
class Lane:
    """Inputs that may share a run: of one tower of one model, under one prompt or output.

    Attributes:
        name: for measures.
        run: payloads -> one result for each.
        budget: of a batch: the number of inputs times the largest cost among them is not above it; one input may be.
        most: inputs in a batch.
        alone: what a run costs beside its inputs, in units of cost: how much padding is worth one run less.
        speed: cost per second of one worker, as it was lately; 0: nothing is known yet.
        preparation: seconds that preparing one input took lately; 0: likewise.
        waiting: inputs that are ready to be run.
        preparing: how many are being prepared, or wait for it.
        open: how many are waiting, being prepared or being run.
    """

    name: str
    run: Callable[[Sequence[Any]], Sequence[Any]]
    budget: int
    most: int
    alone: int = 0
    speed: float = 0.0
    preparation: float = 0.0
    waiting: Queue = field(default_factory=Queue)
    preparing: int = 0
    open: int = 0

    def seconds(self, cost: int) -> float:
        """How long one worker takes to run so much, as far as that is known."""
        return cost / self.speed if self.speed else 0.0

    def seconds_of(self, work: Work) -> float:
        """How long one worker takes for an input, preparing included, as far as that is known."""
        return self.seconds(work.cost) + (self.preparation if work.prepare is not None else 0.0)

    def learn(self, cost: int, seconds: float) -> None:
        """What a batch has taken."""
        self.speed = _smoothed(self.speed, max(1, cost) / max(seconds, 1e-6))

    def learn_preparation(self, seconds: float) -> None:
        """What preparing one input has taken."""
        self.preparation = _smoothed(self.preparation, max(seconds, 1e-6))

    def full(self) -> bool:
        """Whether what waits is enough for a batch."""
        first = self.waiting.first()
        if first is None:
            return False
        count = len(self.waiting)
        return count >= self.most or count * first.cost >= self.budget

    def take(self, others: int = 0) -> list[Work]:
        """The most urgent input, and of the next ones those that fit to it best.

        Args:
            others: workers that are free as well: each can have its share of what waits.
        """
        count = len(self.waiting)
        if count == 1:
            return self.waiting.take(1)
        most = min(self.most, ceil(count / (1 + others)))
        return self.waiting.take(LOOKED_AT, lambda works: self._chosen(works, most))

    def _chosen(self, works: Sequence[Work], most: int) -> list[int]:
        """The places of the batch that the most urgent input, the first one, is to be run in.

        Of all batches that hold it, the one whose inputs make up the largest share of what it costs: padding, and what
        a run costs beside its inputs, are the rest. There are at most so many in it.
        """
        costs = [work.cost for work in works]
        first = costs[0]
        if min(costs) == max(costs):
            return list(range(max(1, min(len(costs), most, self.budget // first))))
        # Under one largest cost, the next costly input pads least. A stable sort: of equal ones the more urgent first.
        order = sorted(range(1, len(costs)), key=lambda place: -costs[place])
        best, best_share = [0], first / (first + self.alone)
        for start, place in enumerate(order):
            largest = max(first, costs[place])
            taken, own, share = [0], first, first / (largest + self.alone)
            for other in order[start:]:
                count = len(taken) + 1
                more = (own + costs[other]) / (largest * count + self.alone)
                # As soon as one does not raise the share, those after it, which are shorter still, would not either.
                if count > most or largest * count > self.budget or more < share:
                    break
                taken.append(other)
                own, share = own + costs[other], more
            if share > best_share:
                best, best_share = taken, share
            if costs[place] <= first:
                break  # all that follow have the same largest cost, and fewer inputs
        return best


@dataclass(frozen=True)
class Batch:
    """What was run, for measures.

    Attributes:
        lane: name of it.
        inputs: how many.
        cost: what they took of the budget, padding included.
        own: what they would have taken without padding.
        budget: what they could have taken.
        seconds: of the run.
        waited: of the input that waited longest, seconds since it was ready.
        failed: how many have no result.
        processor: seconds of a processor that the worker's own thread has spent in the run; less than `seconds` where
            others wanted the processor too.
    """

    lane: str
    inputs: int
    cost: int
    own: int
    budget: int
    seconds: float
    waited: float
    failed: int = 0
    processor: float = 0.0


def _smoothed(known: float, now: float) -> float:
    """In proportions, so that a value a hundred times too large weighs no more than one a hundred times too small."""
    if not known:
        return now
    ratio = min(FURTHEST, max(1 / FURTHEST, now / known))
    return float(known * ratio**SMOOTHING)
