"""What every sink is: it is given chunks in order, and says at the end what it has written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from bowerbird.flow.plan import Chunk, Plan

if TYPE_CHECKING:
    from bowerbird.flow.report import RunReport


class Sink(ABC):
    """Takes what a plan gives. One is made for each run."""

    def adapt(self, plan: Plan) -> Plan:
        """The plan as it should run for this sink; most take it as it is."""
        return plan

    @abstractmethod
    def write(self, chunk: Chunk) -> None:
        """Take a chunk; failures stand at their places in it."""

    @abstractmethod
    def finish(self, report: RunReport) -> None:
        """Everything has been written: complete the output, so that its existence means completion."""

    def abort(self) -> None:  # noqa: B027  most leave nothing behind
        """The run ended in the middle: leave what can be continued, and nothing that looks complete."""
