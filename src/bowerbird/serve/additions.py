"""Records that requests add to an index: what became of each, at its own place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bowerbird.errors import InputError, RowError
from bowerbird.flow.local import Local
from bowerbird.flow.pictures import record_content, text_content
from bowerbird.flow.plan import Plan
from bowerbird.flow.sources.values import IterableSource
from bowerbird.record import Modality, Record, content_id
from bowerbird.search.index import Index
from bowerbird.search.records import add_records
from bowerbird.search.rows import Attributes
from bowerbird.store.filters import Or, among

__all__ = ["Added", "add"]


@dataclass(frozen=True)
class Added:
    """What became of some records.

    Attributes:
        ids: one for each, in order; empty for those that failed.
        added: how many are new.
        changed: how many replace one of the same id with other bytes.
        unchanged: how many were there already; what else is known of them may have changed.
        failed: why, by index.
    """

    ids: Sequence[str]
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: Mapping[int, InputError] = field(default_factory=dict)


def add(index: Index, records: Sequence[Record]) -> Added:
    """Write records into an index; those that are not `named` get an id by their content. Upkeep is left for later.

    Raises:
        IndexBusyError: another process is writing and did not finish in time.
        StoreError: the index cannot be written to.
    """
    failed: dict[int, InputError] = {}
    places: dict[str, int] = {}  # by what the run calls it: the index of the record
    given: list[Record] = []
    every = [_content(index, one) for one in records]
    contents = {place: content for place, content in enumerate(every) if not records[place].named}
    first: dict[str, int] = {}
    named = {record.id for record in records if record.named}
    attributes = Attributes(index.table.attributes(), quiet=True)
    for place, record in enumerate(records):
        if unkept := attributes.unkept(record.attributes):
            failed[place] = _misnamed(*next(iter(unkept.items())))
            contents.pop(place, None)
        elif record.named and record.id in places:
            failed[place] = RowError(
                f"{record.id} has come before in this request.", hint="Give each record an id of its own."
            )
        elif record.named:
            places[record.id] = place
            given.append(record)
        elif first.setdefault(contents[place], place) == place:
            called = f"records[{place}]"
            while called in named:
                called += "_"
            places[called] = place
            given.append(replace(record, id=called))
    # As many threads as the model has, so that it is this model that runs, and not one that is loaded for the run.
    executor = Local(threads=index.model.threads)
    there = Or((among("id", sorted({*named, *every})), among("content", sorted(set(every)))))
    report = add_records(index, Plan(IterableSource(given)), executor, only=there, upkeep=False, peek=False)
    failed.update({places[one.id]: one.error for one in executor.report.failures if one.id in places})
    for one in report.failed:  # those that are found where the rows are written
        if one.path in places:
            failed.setdefault(places[one.path], InputError(one.reason, hint=one.hint))
    for place, content in contents.items():
        if place != first[content] and first[content] in failed:
            failed[place] = failed[first[content]]
    made = _ids(index, set(contents.values()))
    ids = [
        "" if place in failed else record.id if record.named else made.get(contents[place], "")
        for place, record in enumerate(records)
    ]
    again = sum(place != first[content] and place not in failed for place, content in contents.items())
    return Added(ids, report.added, report.changed, report.unchanged + again, failed)


def _misnamed(name: str, kept: str) -> RowError:
    """Who asks for an attribute later asks for it by the name that was given, so it is not kept under another."""
    error = RowError(
        f"No attribute can be called {name!r}.",
        hint=f"Every index has a column of that name, or it cannot be one. Call it {kept!r}.",
    )
    error.param = f"attributes.{name}"
    return error


def _content(index: Index, record: Record) -> str:
    """The content id that a record will have: of the parts that the models of the index take."""
    parts = [text_content(text) for text in record.texts]
    if record.image is not None and any(entry.takes(Modality.IMAGE) for entry in index.manifest.models):
        parts.insert(0, content_id(record.image))
    return record_content(parts) if parts else ""


def _ids(index: Index, contents: set[str]) -> dict[str, str]:
    """By content, the id of a record that was made of it; rather than of a file that happens to hold the same."""
    found: dict[str, str] = {}
    wanted = among("content", sorted(contents - {""}))
    for batch in index.table.scan(["id", "content", "mtime_ns"], where=wanted) if contents - {""} else ():
        for row in batch.to_pylist():
            if row["id"].startswith(row["content"]) and row["mtime_ns"] is None:
                found[row["content"]] = min(found.get(row["content"], row["id"]), row["id"])
    return found
