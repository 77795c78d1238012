"""Several sources, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bowerbird.flow.plan import Source


@dataclass(frozen=True)
class Several(Source):
    """All elements of the first source, then all of the second, and so on."""

    sources: tuple[Source, ...]

    def __iter__(self) -> Iterator[Any]:
        for source in self.sources:
            yield from source

    def describe(self) -> str:
        """See `Source`."""
        return "; ".join(source.describe() for source in self.sources)

    def parts(self) -> Sequence[Source]:
        """See `Source`."""
        return [part for source in self.sources for part in source.parts()]

    def count(self) -> int | None:
        """See `Source`."""
        counts = [source.count() for source in self.sources]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
