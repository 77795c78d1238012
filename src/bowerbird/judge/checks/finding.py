"""What a check is given, and what it gives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.flow.files import from_uri, printable
from bowerbird.flow.sources.addresses import is_remote
from bowerbird.judge.sampled import Sampled, sampled, similar_columns
from bowerbird.media.reading import one_line
from bowerbird.search.entries import labels

if TYPE_CHECKING:
    from bowerbird.search.index import Index
    from bowerbird.store.manifest import ModelEntry
    from bowerbird.store.table import VectorColumn

Array: TypeAlias = NDArray[Any]

NEIGHBOURS = 10
"""Neighbours that are looked at, and results that lists are compared by."""

SHOWN = 20
"""Examples that a finding lists at most."""


class Level(str, Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Example:
    """Records that a finding is about: one, or several that belong together.

    Attributes:
        ids: of the records.
        names: as people call them: paths, or ids.
        note: what is to be said of these.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        level: how much it matters.
        what: one sentence, for people.
        do: what to do about it; empty where there is nothing to do.
        model: which model it is about; empty for the index as a whole.
        figures: what was measured; plain data.
        examples: records that it is about, the worst first, at most `SHOWN`.
    """

    check: str
    level: Level
    what: str
    do: str = ""
    model: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "level": str(self.level)}


@dataclass(frozen=True)
class Case:
    """An index to look at; it is only read.

    Attributes:
        index: the index.
        entries: its models that are looked at.
        sample: at most so many records are drawn.
        fresh: at most so many pictures, and as many texts, are embedded again.
        near: cosine from which on two pictures count as nearly the same.
        seed: of every choice.
    """

    index: Index
    entries: tuple[ModelEntry, ...]
    sample: int
    fresh: int
    near: float
    seed: int

    @cached_property
    def drawn(self) -> Sampled:
        """Records drawn at random, with the vectors of all models that are looked at."""
        columns = [column for entry in self.entries for column in entry.columns]
        facts = ("uri", "content", "picture", "size", "mtime_ns", "name", "text", "format")
        return sampled(self.index, columns, facts, self.sample, seed=self.seed)

    @cached_property
    def _labels(self) -> Mapping[str, str]:
        return labels(self.index.manifest.models)

    def label(self, entry: ModelEntry) -> str:
        """What a model is called; no two models of the index are called alike."""
        return self._labels[entry.space]

    def similar(self, entry: ModelEntry) -> VectorColumn | None:
        """The column that compares like with like: of pictures where the sample has any, else of texts, else None."""
        return next(
            (column for column in similar_columns(entry) if self.drawn.present[column.name].any()), None
        )

    @property
    def of(self) -> str:
        """What share of the index was drawn, for people: `all 1,200 records`."""
        drawn, total = len(self.drawn), len(self.index)
        return f"all {total:,} records" if self.drawn.whole else f"{drawn:,} of {total:,} records"

    @property
    def update(self) -> str:
        """What brings the index up to date, for people."""
        roots = [shlex.quote(root) for root in self.index.manifest.roots if os.path.isdir(root)]
        return (
            f"bowerbird index {' '.join(roots[:3]) or 'SOURCES'} --index {shlex.quote(str(self.index.path))}"
        )

    def chosen(self, rows: Array, k: int) -> Array:
        """At most `k` of some numbers, at random, in their order."""
        if len(rows) <= k:
            return rows
        return np.sort(np.random.default_rng(self.seed).choice(rows, k, replace=False))

    def example(self, *rows: int, note: str = "") -> Example:
        """Rows of the sample as an example."""
        facts = self.drawn.facts
        ids = tuple(facts["id"][row] for row in rows)
        names = tuple(shown(facts["uri"][row], facts["id"][row], facts["text"][row]) for row in rows)
        return Example(ids, names, note)

    def path(self, row: int) -> str:
        """Where the file of a row of the sample lies on this machine; empty for one that does not."""
        return local(self.drawn.facts["uri"][row])

    def picture(self, row: int) -> str:
        """What exact copies of the picture of a row share; empty where the row has no picture."""
        facts = self.drawn.facts
        return "" if facts["format"][row] is None else facts["picture"][row] or facts["content"][row] or ""


def local(uri: str | None) -> str:
    """The path that a record's `uri` stands for; empty where it is not on this machine."""
    if not uri or is_remote(uri):
        return ""
    path = from_uri(uri)
    return path if os.path.isabs(path) else ""


def shown(uri: str | None, id_: str, text: str | None = None) -> str:
    """A record as people call it: its path or address, else its text between quotation marks, else its id."""
    if not uri and text and text.strip():
        return f"\N{LEFT DOUBLE QUOTATION MARK}{one_line(text, 80)}\N{RIGHT DOUBLE QUOTATION MARK}"
    return printable(from_uri(uri)) if uri else printable(id_)


def are(number: int) -> str:
    """`is` of one, `are` of several."""
    return "is" if number == 1 else "are"


def count(number: int, what: str) -> str:
    """`1 record`, `1,200 records`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
