"""A quality report of an index on the user's own data: what is wrong, what could be better, and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bowerbird.errors import QueryError
from bowerbird.judge.checks.calibrated import calibration
from bowerbird.judge.checks.costs import smaller
from bowerbird.judge.checks.disk import files, left_out
from bowerbird.judge.checks.finding import Case, Finding, Level
from bowerbird.judge.checks.neighbours import copies, neighbourhood
from bowerbird.judge.checks.recall import approximate, captions, itself
from bowerbird.judge.checks.stored import broken, missing, texts

if TYPE_CHECKING:
    from bowerbird.search.index import Index

Check: TypeAlias = Callable[[Case], Iterator[Finding]]

CHECKS: Mapping[str, Check] = {
    "files": files,
    "left-out": left_out,
    "missing": missing,
    "broken": broken,
    "texts": texts,
    "self-retrieval": itself,
    "captions": captions,
    "approximate": approximate,
    "copies": copies,
    "neighbours": neighbourhood,
    "smaller": smaller,
    "calibration": calibration,
}
"""By name, in the order in which they are carried out."""

SAMPLE = 5000
"""Records that are drawn; of mini's vectors that is 40 MB."""

FRESH = 100
"""Pictures, and texts, that are embedded again: some seconds."""

NEAR = 0.95
"""Under mini, pictures saved again at quality 50 keep a cosine of 0.965 or more, made brighter 0.95, at half the size
mostly 0.96; of 1,500 photographs of clothes, nearly no two different ones reach 0.945."""


@dataclass(frozen=True)
class Checkup:
    """What was found.

    Attributes:
        index: where it lies.
        records: how many there are.
        looked_at: what share of them was drawn, for people.
        models: which were looked at.
        findings: in the order of the checks.
        seconds: wall time.
        version: of the table that was looked at.
    """

    index: str
    records: int
    looked_at: str
    models: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: float
    version: int

    @property
    def worst(self) -> Level:
        """The gravest level of all findings."""
        order = list(Level)
        return max((finding.level for finding in self.findings), key=order.index, default=Level.OK)

    def of(self, level: Level) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "index": self.index,
            "records": self.records,
            "looked_at": self.looked_at,
            "models": list(self.models),
            "version": self.version,
            "worst": str(self.worst),
            "seconds": round(self.seconds, 3),
            "findings": [finding.to_json() for finding in self.findings],
        }


def doctor(
    index: Index,
    *,
    models: Sequence[str] = (),
    only: Sequence[str] = (),
    sample: int = SAMPLE,
    fresh: int = FRESH,
    near: float = NEAR,
    seed: int = 0,
    watch: Callable[[str], None] | None = None,
) -> Checkup:
    """Look at an index from all sides. It is only read.

    Time and memory are bounded by the arguments rather than by the index, but for what is a few bytes a record: raw
    lengths and content ids are read whole.

    Args:
        index: what to look at.
        models: which of its models; none: all.
        only: names of `CHECKS`; none: all.
        sample: records that are drawn at random; vectors of all models are read of them.
        fresh: pictures, and texts, that are embedded again; 0: none, so that no model has to be loaded.
        near: cosine from which on two pictures are nearly the same.
        seed: of every choice.
        watch: told the name of each check as it begins.

    Raises:
        QueryError: there is no such check or model, or a bound that cannot be one.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise QueryError(f"There is no check {unknown[0]!r}.", hint=f"There are {', '.join(CHECKS)}.")
    if sample < 1 or fresh < 0 or not 0 < near <= 1:
        raise QueryError(
            f"sample={sample}, fresh={fresh}, near={near} cannot be used.",
            hint="Give a sample of at least 1, at least 0 pictures, and a cosine above 0 and up to 1.",
        )
    started = time.monotonic()
    entries = index.entries(tuple(models) or ("all",))
    case = Case(index, entries, sample, fresh, near, seed)
    findings = tuple(_findings(case, only, watch) if len(index) else _empty(index))
    return Checkup(
        index=str(index.path),
        records=len(index),
        looked_at=case.of if len(index) else "nothing",
        models=tuple(case.label(entry) for entry in entries),
        findings=findings,
        seconds=time.monotonic() - started,
        version=index.table.version,
    )


def _findings(case: Case, only: Sequence[str], watch: Callable[[str], None] | None) -> Iterator[Finding]:
    for name, check in CHECKS.items():
        if not only or name in only:
            if watch:
                watch(name)
            yield from check(case)


def _empty(index: Index) -> Iterator[Finding]:
    do = f"bowerbird index FOLDER --index {index.path}"
    yield Finding("records", Level.WARNING, "The index is empty.", do=do)
