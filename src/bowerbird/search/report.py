"""What a run over an index tells: how it goes, what it did, and what could not be indexed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bowerbird.flow.files import printable
from bowerbird.media.reading import one_line
from bowerbird.record import Failure


class Progress(Protocol):
    """Told how a run goes. Calls come from one thread."""

    def start(self, total: int) -> None:
        """`total` records were found; 0: nobody knows how many there will be."""

    def advance(self, count: int) -> None:
        """`count` more records are done with, whatever became of them."""


class Fault(NamedTuple):
    """A file, folder or row that could not be indexed: one line says why, and one what to do about it."""

    path: str
    reason: str
    hint: str
    kind: str = ""


@dataclass
class Report:
    """What a run did. All counts are records; of a folder, files.

    Attributes:
        added: new in the index.
        changed: embedded again, since their bytes changed.
        moved: kept their vectors under a new path.
        unchanged: left alone.
        removed: left the index, since their files are gone.
        missing: kept although their files are gone.
        failed: one for each file, folder or row that could not be indexed.
        filled: how many times a record was given vectors of a model that it had none of.
        copies: how many of the added are exact copies of another record.
        seconds: wall time.
        interrupted: whether Ctrl-C ended the run early.
        verdict: what took most of the time.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    removed: int = 0
    missing: int = 0
    copies: int = 0
    filled: int = 0
    failed: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    verdict: str = ""


def fault(failure: Failure) -> Fault:
    """A failure as one line, which names the record."""
    shown, said = one_line(printable(failure.id)), failure.error.message
    named = shown in said or one_line(failure.id) in said
    return Fault(
        printable(failure.id), said if named else f"{shown}: {said}", failure.error.hint, failure.kind
    )
