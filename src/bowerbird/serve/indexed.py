"""An index that is served: read by many at once, changed by one, and renewed without anybody noticing."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bowerbird.errors import UnreadableError
from bowerbird.flow.files import from_uri
from bowerbird.flow.local import Local
from bowerbird.flow.plan import Plan
from bowerbird.flow.remote import StoredFile, is_remote
from bowerbird.flow.sources.values import IterableSource
from bowerbird.hits import Hits
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import read_bytes
from bowerbird.record import Record
from bowerbird.search.entries import labels
from bowerbird.search.index import Index
from bowerbird.search.query import Query
from bowerbird.search.records import add_records
from bowerbird.search.report import Report
from bowerbird.search.rerank import reranker
from bowerbird.serve.models import Models
from bowerbird.store import manifest as manifests
from bowerbird.store.filters import among
from bowerbird.store.location import Place
from bowerbird.store.table import ATTRIBUTES
from bowerbird.store.where import parse

__all__ = ["Ask", "Page", "ServedIndex", "Stored"]


@dataclass(frozen=True)
class Ask:
    """A search, as `Index.ask` takes it; plain data that can be sent to another process.

    Attributes:
        query: what is asked.
        k: at most this many results.
        offset: so many are left out first.
        where: a filter.
        models: which are asked; none: the first.
        fusion: how several parts and models become one list.
        part_weights: with `weighted`.
        min_match: leave out what matches less.
        threshold: leave out raw scores below it.
        rerank: as `reranker` takes it; empty: none.
    """

    query: Query
    k: int = 10
    offset: int = 0
    where: str = ""
    models: tuple[str, ...] = ()
    fusion: str = "calibrated"
    part_weights: Mapping[str, float] = field(default_factory=dict)
    min_match: float | None = None
    threshold: float | None = None
    rerank: str = ""


@dataclass(frozen=True)
class Stored:
    """A record as the index holds it.

    Attributes:
        id: of the record.
        uri: where its picture lies; empty where it lies nowhere.
        text: its texts, one on a line.
        attributes: what else is known of it.
    """

    id: str
    uri: str
    text: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """Some records, in the order of their ids.

    Attributes:
        records: so many as were asked for, or fewer.
        more: whether there are further ones.
    """

    records: Sequence[Stored]
    more: bool


class ServedIndex:
    """An index, open for many readers. Its models are those of the service, so their batches are shared.

    What is searched is a snapshot: `refresh` opens the newest commit beside it, warms it up, and puts it in its place;
    searches that have begun go on with the one they began with.

    Args:
        place: of the index.
        models: of the service; those of the index are added to them, under the names that it has for them.
        precision: what models are loaded with.
    """

    def __init__(self, place: Place, models: Models, *, precision: str = "") -> None:
        self.place = place
        self.models = models
        self.precision = precision
        self._change = threading.Lock()
        self._renew = threading.Lock()
        first = Index.open(place, precision=precision)
        self.names = self._add_models(first)
        self._now = self._opened()

    def _add_models(self, index: Index) -> dict[str, str]:
        """By space, what the models of the index are called."""
        names = labels(index.manifest.models)
        for space, name in names.items():
            if name in self.models.names and self.models.get(name).card.space != space:
                names[space] = f"{name} ({space})"  # the service has another model of that name
            self.models.add(names[space], index.encoder(space), pinned=True)
        return names

    def _opened(self) -> Index:
        index = Index.open(self.place, precision=self.precision)
        names = labels(index.manifest.models)
        if any(space not in self.names for space in names):
            self.names.update(self._add_models(index))
        # Searching asks only for `card` and `outcomes` of them.
        index.encoders = {space: self.models.get(self.names[space]) for space in names}  # type: ignore[misc]
        for entry in index.manifest.models:
            index.background(entry)
        return index

    @property
    def now(self) -> Index:
        """What is searched at the moment."""
        return self._now

    def __len__(self) -> int:
        return len(self._now)

    # Reading

    def search(self, ask: Ask) -> Hits:
        """The records most like a question; waits for the model, so not for workers of the scheduler.

        Raises:
            QueryError: as of `Index.ask`.
            InputError: the query picture cannot be read.
            BusyError: too much is waiting.
        """
        return self._now.ask(
            ask.query,
            k=ask.k,
            offset=ask.offset,
            where=ask.where,
            models=ask.models,
            fusion=ask.fusion,
            part_weights=ask.part_weights or None,
            min_match=ask.min_match,
            threshold=ask.threshold,
            rerank=reranker(ask.rerank) if ask.rerank else None,
        )

    def page(self, *, after: str = "", limit: int = 100, where: str = "") -> Page:
        """Records in the order of their ids, from behind one.

        Raises:
            QueryError: the filter cannot be understood.
        """
        table = self._now.table
        ids = (
            id_
            for batch in table.scan(["id"], where=parse(where, table.fields))
            for id_ in batch.column("id").to_pylist()
            if id_ > after
        )
        found = heapq.nsmallest(limit + 1, ids)
        by_id = {record.id: record for record in self._records(found[:limit])}
        return Page([by_id[id_] for id_ in found[:limit]], len(found) > limit)

    def record(self, id_: str) -> Stored | None:
        """One record; None when there is none."""
        return next(iter(self._records([id_])), None)

    def thumbnail(self, id_: str) -> bytes | None:
        """A small JPEG of a record; None when there is none."""
        return self._now.thumbnails([id_]).get(id_)

    def original(self, id_: str, policy: DecodePolicy) -> bytes | None:
        """The picture of a record as it lies where the index has it from; None when there is no record, or no picture.

        Only what the index itself names is read.

        Raises:
            UnreadableError: it is not there any more, or is on the web, where the service does not go for it.
        """
        record = self.record(id_)
        if record is None or not record.uri:
            return None
        if is_remote(record.uri):
            if record.uri.startswith(("http://", "https://")):
                raise UnreadableError(
                    f"The picture of {id_} is on the web.",
                    hint="Ask for the thumbnail, or fetch it from there.",
                )
            return StoredFile(record.uri).read(policy)
        return read_bytes(Path(from_uri(record.uri)), policy)

    def _records(self, ids: Sequence[str]) -> list[Stored]:
        table = self._now.table
        names = [name for name in (*ATTRIBUTES, *table.attributes().names) if name in table.names]
        columns = ["id", "uri", "text", *names]
        if not ids:
            return []
        return [
            Stored(row.pop("id"), row.pop("uri") or "", row.pop("text") or "", row)
            for batch in table.scan(columns, where=among("id", list(ids)))
            for row in batch.to_pylist()
        ]

    # Changing

    def add(self, records: Sequence[Record]) -> Report:
        """Add records, or replace those of the same id; what was added is found as soon as this returns.

        Raises:
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self._change:
            index = self._writer()
            report = add_records(index, Plan(IterableSource(list(records))), Local())
        self.refresh()
        return report

    def remove(self, ids: Sequence[str]) -> int:
        """Take records out of the index; how many there were.

        Raises:
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self._change:
            removed = self._writer().remove(ids)
        self.refresh()
        return removed

    def _writer(self) -> Index:
        """The index for one who writes: with the models themselves."""
        encoders = [
            shared.encoder
            for shared in (self.models.get(self.names[e.space]) for e in self._now.manifest.models)
        ]
        return Index.open(self.place, encoders, precision=self.precision)

    def refresh(self) -> bool:
        """Search what was committed last from now on. Whether there was anything new.

        Raises:
            StoreError: the index cannot be read; what was searched until now stays.
        """
        with self._renew:
            manifest = manifests.read(self._now.location)
            if manifest == self._now.manifest:
                return False
            self._now = self._opened()
            return True
