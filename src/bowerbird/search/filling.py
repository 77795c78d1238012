"""Vectors of further models: what a model lacks is found in the table, read again from its source, and filled in.

The way of a record: its vectors are null, and it has a part that the model takes -> the cache is asked by the content
of its parts -> what is not there is read from its path or address, and embedded -> a commit every `commit_seconds`.
What is left to do is what is null: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, InputError, StoreError, UnreadableError
from bowerbird.flow.embedding import Embed
from bowerbird.flow.files import from_uri, printable
from bowerbird.flow.local import Local
from bowerbird.flow.pictures import record_content, text_content
from bowerbird.flow.plan import Plan
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.flow.report import RunReport
from bowerbird.flow.run import carried_out, closed
from bowerbird.flow.sources.addresses import picture_at
from bowerbird.flow.sources.tars import member_at
from bowerbird.flow.sources.values import IterableSource
from bowerbird.media.policy import DecodePolicy
from bowerbird.record import Failure, Modality, Record
from bowerbird.search.calibrate import refresh
from bowerbird.search.changing import HAVING, make_room_for_texts
from bowerbird.search.report import Progress, Report, fault
from bowerbird.search.rows import FACTS, Attributes, Layout, arrow_changes
from bowerbird.settings import settings
from bowerbird.store.filters import And, Filter, IsNull, Or
from bowerbird.store.manifest import ModelEntry

if TYPE_CHECKING:
    from bowerbird.flow.run import Executor
    from bowerbird.search.index import Index

ROUND = 1 << 16
"""So many records are looked for at once: what is known of them is held in memory, their pictures are not."""

COMMIT_BYTES = 64 << 20
"""Vectors are committed earlier when they hold this much, whatever the clock says."""

MOST_LINES = 10
"""Of a text with more lines it is not tried which of them belong together."""

_ROW = "row"


def fill(
    index: Index,
    *,
    spaces: Iterable[str] = (),
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Report:
    """Give the records of an index vectors that they lack, as a run of its own. The index is locked by the caller.

    Ctrl-C ends the run early, and keeps what was done; see `Report.interrupted`.

    Args:
        index: whose models they are of.
        spaces: of the models; none: of all.
        progress: told about every record that lacks vectors.
        executor: where they are embedded; None: on this machine.

    Raises:
        StoreError: the table cannot be written to; what was committed before stays.
        BowerbirdError: whatever else ended the run.
    """
    report = Report()
    started = time.monotonic()
    executor = executor or Local()
    filling = Filling(index, report, executor, progress=progress)
    try:
        filling.run(spaces)
        finish(index, report)
    except KeyboardInterrupt:
        report.interrupted = True
    report.seconds = time.monotonic() - started
    report.verdict = executor.report.verdict
    return report


def finish(
    index: Index,
    report: Report,
    roots: Iterable[str] = (),
    embedded: Iterable[str] = (),
    *,
    upkeep: bool = True,
) -> None:
    """The end of every run that writes vectors: tidy up, show it to readers, list what failed, calibrate scores.

    Args:
        index: locked by the caller; everything has been committed.
        report: of the run.
        roots: the folders it indexed.
        embedded: spaces of the models whose vectors were written since the last commit was published.
        upkeep: False: whoever runs this tidies up and calibrates later; see `tidy` and `calibrate.renew`.
    """
    failed, all_roots = len(report.failed), tuple(sorted({*index.manifest.roots, *roots}))
    # Before the tidying too: it may delete the version that the last manifest, if old, sends readers to.
    shown = index.manifest
    said = (shown.failed, shown.roots, shown.table_version)
    if upkeep or said != (failed, all_roots, index.table.version):
        index.publish(failed=failed, roots=all_roots, embedded=embedded)
    if upkeep:
        index.table.optimize(index.columns)
        index.publish(failed=failed, roots=all_roots)
    index.list_errors([entry._asdict() for entry in report.failed])
    if upkeep:
        refresh(index)


def tidy(index: Index) -> None:
    """Put together what many small runs without upkeep have written, and index it; the index is locked for it.

    Raises:
        IndexBusyError: another process is writing and did not finish in time.
        StoreError: the index cannot be written to.
    """
    with index.writing():
        # Before, too: see `finish`.
        index.write_manifest()
        before = index.table.version
        index.table.optimize(index.columns)
        if index.table.version != before:
            index.write_manifest()


class Filling:
    """Fills in what models lack. The index is locked by the caller.

    Args:
        index: whose records they are.
        report: of the run; gets counts and failures.
        executor: embeds; its own report goes on with what is done here.
        progress: told about every record.
        on_error: `raise` ends the run at the first failure; see `bowerbird.flow.plan.Plan`.
        roots: folders that the run indexes, for the manifest.

    Attributes:
        left: ids of the rows that could not be filled.
    """

    def __init__(
        self,
        index: Index,
        report: Report,
        executor: Executor,
        *,
        progress: Progress | None = None,
        on_error: str = "keep",
        roots: Iterable[str] = (),
    ) -> None:
        self.index = index
        self.report = report
        self.executor = executor
        self.progress = progress
        self.on_error = on_error
        self.roots = tuple(roots)
        self.left: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._committed = time.monotonic()
        self._commit_seconds = settings().commit_seconds

    def run(self, spaces: Iterable[str] = ()) -> None:
        """Fill in what the models of some spaces lack; none: all models."""
        wanted = set(spaces)
        for space in [entry.space for entry in self.index.manifest.models]:
            if not wanted or space in wanted:
                self._fill(space)

    def _fill(self, space: str) -> None:
        entry = self._entry(space)
        left: set[str] = set()
        total = self.index.table.count(_lacking(entry))
        if total and self.progress:
            self.progress.start(total)
        while total and (rows := self._next(entry, left)):
            if any(row["text"] for row in rows) and entry.takes(Modality.TEXT):
                make_room_for_texts(self.index, space)
                entry = self._entry(space)
            asked = {row["id"] for row in rows}
            left |= asked - self._embedded(entry, rows)
        self.left |= left

    def _entry(self, space: str) -> ModelEntry:
        return next(entry for entry in self.index.manifest.models if entry.space == space)

    def _next(self, entry: ModelEntry, left: set[str]) -> list[dict[str, Any]]:
        """Rows that lack vectors of a model, and that have not been tried in vain in this run."""
        names = ["id", "uri", "content", "picture", "width", "text"]
        found: list[dict[str, Any]] = []
        for batch in self.index.table.scan(names, where=_lacking(entry)):
            found += [row for row in batch.to_pylist() if row["id"] not in left]
            if len(found) >= ROUND:
                break
        return found

    def _embedded(self, entry: ModelEntry, rows: Sequence[dict[str, Any]]) -> set[str]:
        """Embed some rows and write what comes of them; returns the ids of those that were written."""
        encoder = self.index.encoder(entry.space)
        # Nobody has decoded the pictures of an index whose own model takes none.
        facts = entry.takes(Modality.IMAGE) and not self.index.manifest.models[0].takes(Modality.IMAGE)
        embed = Embed(ModelRecipe.of(encoder), f"embed({entry.name})", told=True, thumbnails=facts)
        names = (*(("picture", *FACTS) if facts else ("picture",)), *_own(entry))
        records = [_record(row, entry) for row in rows]
        contents = {row["id"]: row for row in rows}
        layout = Layout(entry.columns, entry.parts(), Attributes(self.index.table.attributes(), quiet=True))
        plan = Plan(IterableSource(records, "records without vectors"), (embed,), self.on_error)
        report, done = RunReport(), set[str]()
        whole = self.executor.report
        results = carried_out(plan, self.executor, pictures=False, keep_failures=True, report=report)
        try:
            with closed(results):
                for item in (item for chunk in results for item in chunk):
                    failure = item if isinstance(item, Failure) else _changed(item, contents)
                    if failure is None:
                        self._take(item, contents[item.attributes[_ROW]], layout, names, entry)
                        done.add(item.attributes[_ROW])
                    else:
                        self.report.failed.append(fault(failure))
                    if self.progress:
                        self.progress.advance(1)
            self._commit(entry, names)
        except StoreError:
            raise
        except (BowerbirdError, KeyboardInterrupt):
            self._commit(entry, names)  # what was done is kept
            raise
        finally:
            whole.absorb(report)
            self.executor.report = whole
        return done

    def _take(
        self, record: Record, row: Mapping[str, Any], layout: Layout, names: Sequence[str], entry: ModelEntry
    ) -> None:
        values = layout.values(record)
        values["picture"] = values["picture"] or row["picture"]
        self._rows.append({"id": row["id"], **{name: values[name] for name in names}})
        self._bytes += len(values.get("thumbnail") or b"") + sum(4 * c.dimensions for c in entry.columns)
        late = time.monotonic() - self._committed > self._commit_seconds
        if late or self._bytes > COMMIT_BYTES:
            self._commit(entry, names)

    def _commit(self, entry: ModelEntry, names: Sequence[str]) -> None:
        self._committed = time.monotonic()
        if not self._rows:
            return
        self.index.table.update(arrow_changes(self._rows, names, entry.columns))
        self.report.filled += len(self._rows)
        self._rows, self._bytes = [], 0
        roots = tuple(sorted({*self.index.manifest.roots, *self.roots}))
        self.index.publish(failed=len(self.report.failed), roots=roots, embedded=(entry.space,))


@dataclass(frozen=True)
class Nowhere:
    """The picture of a record that was indexed from memory: only its content is known.

    Attributes:
        id: of the record.
    """

    id: str

    def __str__(self) -> str:
        return self.id

    def read(self, policy: DecodePolicy) -> bytes:
        """See `bowerbird.media.reading.Readable`.

        Raises:
            UnreadableError: always.
        """
        raise UnreadableError(
            f"The picture of {self.id} lies nowhere: it was indexed from memory, or from within another file.",
            hint="Index the same records again with all models at once.",
        )


def _own(entry: ModelEntry) -> list[str]:
    return [name for column in entry.columns for name in (column.name, column.norm)]


def _lacking(entry: ModelEntry) -> Filter:
    """Which records have a part that a model takes, and no vector of it."""
    found: list[Filter] = []
    for part, having in HAVING.items():
        norm = next((column.norm for column in entry.columns if column.modality == part), "")
        if entry.takes(part):
            found.append(And((having, IsNull(norm))) if norm else having)
    return Or(tuple(found))


def _record(row: Mapping[str, Any], entry: ModelEntry) -> Record:
    """A record as it was indexed, as far as it can be had again."""
    uri, text, picture = row["uri"], row["text"], row["picture"]
    seen = bool(picture or uri or row["width"])
    if seen and not text:
        picture = row["content"]  # It has no other part.
    named = not row["id"].startswith(row["content"])
    shown = row["id"] if named or not uri else printable(from_uri(uri))
    image: Any = None
    if seen and entry.takes(Modality.IMAGE):
        image = (member_at(uri) or picture_at(uri, "")) if uri else Nowhere(shown)
    facts = {"picture": picture} if picture else {}
    texts = _texts(text, row["content"], picture) if text else ()
    return Record(shown, image, texts, {_ROW: row["id"]}, named=False, facts=facts)


def _texts(text: str, content: str, picture: str | None) -> tuple[str, ...]:
    """The texts of a record, which the table has in one, each on a line of its own; their content tells them apart."""
    lines = text.split("\n")
    for texts in _partitions(lines):
        ids = list(map(text_content, texts))
        if content in (record_content(ids), record_content([picture or "", *ids])):
            return texts
    return tuple(lines)


def _partitions(lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The ways in which lines may be texts of one or several lines: each by itself first, then all as one."""
    yield tuple(lines)
    yield ("\n".join(lines),)
    if len(lines) <= MOST_LINES:
        for cuts in range(1, (1 << (len(lines) - 1)) - 1):
            found = [lines[0]]
            for place, line in enumerate(lines[1:]):
                if cuts >> place & 1:
                    found.append(line)
                else:
                    found[-1] += f"\n{line}"
            yield tuple(found)


def _changed(record: Record, rows: Mapping[str, Mapping[str, Any]]) -> Failure | None:
    """The failure for a record that is no longer what was indexed, where its picture had to be read to tell."""
    row = rows[record.attributes[_ROW]]
    picture = record.facts.get("picture")
    if row["picture"] or not row["text"] or not picture:
        return None
    texts = list(map(text_content, record.texts))
    # An index of models for texts alone keeps contents of texts alone.
    if row["content"] in (record_content([picture, *texts]), record_content(texts)):
        return None
    error = InputError(f"{record.id} has changed since it was indexed.", hint="Index it again.")
    return Failure(record.id, "embed", error, record)
