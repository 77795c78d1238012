"""What a scheduler has accepted and not done: how much there is of it, and when it is due."""

from __future__ import annotations

from bowerbird.serve.lanes import Call, Lane, Work

__all__ = ["SLOT_SECONDS", "Accounts"]

SLOT_SECONDS = 0.25
"""Work that waits is added up by deadline, in slots of so many seconds."""


class Accounts:
    """See the module. Its owner sees to it that one thread at a time uses it.

    Attributes:
        lanes: those with anything open.
        calls: likewise.
        held: bytes that inputs hold.
    """

    def __init__(self) -> None:
        self.lanes: set[Lane] = set()
        self.calls: set[Call] = set()
        self.held = 0
        self._ahead: dict[int, int] = {}  # microseconds of work, by slot of its deadline

    def seconds(self, until: float | None = None) -> float:
        """Of work that one worker would take for all that is due by a time; None: for all."""
        if until is None:
            return sum(self._ahead.values()) / 1e6
        slot = int(until / SLOT_SECONDS)
        return sum(micros for due, micros in self._ahead.items() if due <= slot) / 1e6

    def waiting(self) -> dict[str, int]:
        """How many inputs wait, by the names of the lanes that have any open."""
        found: dict[str, int] = {}
        for lane in self.lanes:
            found[lane.name] = found.get(lane.name, 0) + len(lane.waiting) + lane.preparing
        return found

    def enter(self, work: Work) -> None:
        """An input is accepted."""
        work.lane.open += 1
        self.lanes.add(work.lane)
        self.held += work.size
        self.count(work)

    def count(self, work: Work) -> None:
        """How long an open input will take is known, if it is."""
        if work.micros:
            slot = int(work.due / SLOT_SECONDS)
            self._ahead[slot] = self._ahead.get(slot, 0) + work.micros

    def leave(self, work: Work) -> None:
        """It is done, or given up."""
        lane = work.lane
        lane.open -= 1
        if not lane.open:
            self.lanes.discard(lane)  # a model that is unloaded is not held by what it once did
        self.held -= work.size
        if work.micros:
            slot = int(work.due / SLOT_SECONDS)
            self._ahead[slot] -= work.micros
            if not self._ahead[slot]:
                del self._ahead[slot]
