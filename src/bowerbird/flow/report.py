"""What a run did: counts, failures, and where the time went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from bowerbird.errors import InputError
from bowerbird.flow.plan import Clock
from bowerbird.record import Failure

KEPT_FAILURES = 10_000
"""So many failures are kept with their reasons; all are counted, and the errors file of a sink has all."""


LOADING = "load"
"""The stage of loading models: done once, so it says nothing about how fast records go."""

NETWORK = "network"
"""The stage in which the neural network of a model runs."""


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        done: elements that came out at the end.
        failed: failures, by kind.
        failures: the first `KEPT_FAILURES` of them, without the elements they stand for.
        seconds: wall time.
        stages: seconds spent in each stage, added up over all threads and workers.
        counts: things that happened, such as records that were left out.
        notes: what the executor chose or changed under way, one line each.
    """

    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def take(self, failure: Failure) -> None:
        """Count a failure."""
        self.failed[failure.kind] += 1
        _forget_frames(failure.error)
        if len(self.failures) < KEPT_FAILURES:
            self.failures.append(replace(failure, value=None))

    def absorb(self, other: RunReport) -> None:
        """Take over the failures, times and notes of a run that this one depended on."""
        for failure in other.failures[: KEPT_FAILURES - len(self.failures)]:
            self.failures.append(failure)
        self.failed.update(other.failed)
        self.counts.update(other.counts)
        self.notes.extend(other.notes)
        for name, seconds in other.stages.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds

    def time(self, clock: Clock) -> None:
        """Add the time and the counts of some work."""
        for name, seconds in clock.seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        self.counts.update(clock.counts)

    @property
    def verdict(self) -> str:
        """One line: what the run spent most of its time on, loading models aside; empty when nothing was measured."""
        stages = {stage: seconds for stage, seconds in self.stages.items() if stage != LOADING}
        total = sum(stages.values())
        if not total:
            return ""
        stage, seconds = max(stages.items(), key=lambda entry: entry[1])
        # To people a network is what carries data: of a model, it is the model that takes the time.
        return f"{'model' if stage == NETWORK else stage}-bound: {seconds / total:.0%} of the time"

    def summary(self) -> str:
        """One line: how many were done, how many failed and of what."""
        line = f"{self.done:,} done"
        if self.failed:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.failed.most_common())
            line += f", {sum(self.failed.values()):,} failed ({kinds})"
        return line


def _forget_frames(error: InputError) -> None:
    """Tracebacks hold what was being worked on: with thousands of broken pictures, their bytes."""
    link: BaseException | None = error
    while link is not None and link.__traceback__ is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
