"""Folders and files become rows of an index: only what is new or changed is embedded.

The way of a file: walk -> compare with the index -> a plan of one step, `embed`, run by an executor -> the writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import UnreadableError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.files import (
    FoundFile,
    Unreachable,
    expand,
    from_uri,
    is_gone,
    printable,
    scope,
    to_uri,
    walk,
)
from bowerbird.flow.local import Local
from bowerbird.flow.plan import Plan, Source
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.run import carried_out
from bowerbird.record import Failure, Record
from bowerbird.search.records import for_table, only_new
from bowerbird.search.report import Progress, Report
from bowerbird.search.writer import Writer

if TYPE_CHECKING:
    from bowerbird.flow.run import Executor
    from bowerbird.search.index import Index


class Ingest:
    """One run over some sources. The index is locked by the caller."""

    def __init__(
        self,
        index: Index,
        sources: Sequence[str | Path],
        *,
        keep_missing: bool,
        progress: Progress | None,
        executor: Executor | None = None,
    ) -> None:
        self.index = index
        self.keep_missing = keep_missing
        self.report = Report()
        self.roots = [root for source in sources for root in expand(source)]
        self.scope = [scope(source) for source in sources]
        self.executor = executor or Local()
        embed = for_table(Embed(ModelRecipe.of(index.model), "embed"), index)
        shown = tuple(sorted(printable(str(root)) for root in self.roots if root.is_dir()))
        self.writer = Writer(
            index, (embed,), self.report, executor=self.executor, progress=progress, roots=shown
        )
        self.known = self.writer.known
        self.progress = progress

    def run(self) -> Report:
        """Do everything; returns what was done."""
        started = time.monotonic()
        total = sum(isinstance(entry, FoundFile) for entry in walk(self.roots))
        if not total:
            raise no_pictures(self.roots, kept=sum(map(self._is_below, self.known.uris)))
        if self.progress:
            self.progress.start(total)
        source = _Changed(self)
        steps = only_new(self.writer.embeds, self.writer, self.executor)
        results = carried_out(Plan(source, steps), self.executor, pictures=False)
        self.writer.write(results, before_end=self._forget_missing)
        self.report.seconds = time.monotonic() - started
        self.report.verdict = self.executor.report.verdict
        return self.report

    def changed(self) -> Iterator[Record | Failure]:
        """Files that are new, or look changed by size or time. The others are dealt with here."""
        for entry in walk(self.roots):
            if isinstance(entry, Unreachable):
                yield Failure(entry.path, "read", entry.error)
                continue
            row = self.known.at(to_uri(entry.path))
            if row is not None:
                self.known.seen[row] = 1
                if self.known.stamps[row] == (entry.size, entry.mtime_ns):
                    self.report.unchanged += 1
                    if self.progress:
                        self.progress.advance(1)
                    continue
            stamp = {"size": entry.size, "mtime_ns": entry.mtime_ns}
            yield Record(entry.path, Path(entry.path), named=False, facts=stamp)

    def _forget_missing(self) -> None:
        gone = [
            row
            for row, seen in enumerate(self.known.seen)
            if not seen and self.known.is_file(row) and self._is_gone(self.known.uris[row])
        ]
        if self.keep_missing:
            self.report.missing = len(gone)
        elif gone:
            self.report.removed = self.index.table.delete([self.known.ids[row] for row in gone])

    def _is_gone(self, uri: str) -> bool:
        return self._is_below(uri) and is_gone(from_uri(uri))

    def _is_below(self, uri: str) -> bool:
        path = Path(from_uri(uri)) if uri else None
        return path is not None and any(base == path or base in path.parents for base in self.scope)


@dataclass(frozen=True)
class _Changed(Source):
    """What of some folders has to be read."""

    ingest: Ingest

    def __iter__(self) -> Iterator[Record | Failure]:
        return self.ingest.changed()

    @property
    def once(self) -> bool:
        """It counts what it leaves out."""
        return True

    def __reduce__(self) -> Any:
        raise TypeError("it is read where the index is locked")

    def describe(self) -> str:
        """See `Source`."""
        return f"new and changed files in {', '.join(printable(str(root)) for root in self.ingest.roots)}"


def no_pictures(roots: Sequence[Path], kept: int = 0) -> UnreadableError:
    """An empty folder is refused: it is more often a disk that is not connected than a wish to forget."""
    for entry in walk(roots):
        if isinstance(entry, Unreachable):
            return UnreadableError(entry.error.message, hint=entry.error.hint)
    names = ", ".join(printable(str(root)) for root in roots[:3])
    held = f" The {kept} records indexed from there before are kept." if kept else ""
    return UnreadableError(
        f"No pictures were found in {names}.{held}",
        hint="Check the folder, or whether its disk is connected.",
    )
