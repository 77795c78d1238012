"""An index that is served: read by many at once, changed by one, and renewed without anybody noticing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, InputError, QueryError, UnreadableError
from bowerbird.flow.files import from_uri
from bowerbird.flow.remote import StoredFile, is_remote
from bowerbird.hits import Hits
from bowerbird.media.image import decode
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import read_bytes
from bowerbird.record import Record, content_id
from bowerbird.search.calibrate import is_measured, renew
from bowerbird.search.entries import ALL, labels, split
from bowerbird.search.filling import tidy
from bowerbird.search.index import Index
from bowerbird.search.query import Query
from bowerbird.search.rerank import CrossEncode, Reranker, reranker
from bowerbird.serve.additions import Added, add
from bowerbird.serve.models import Models
from bowerbird.serve.reports import report
from bowerbird.serve.rerankers import Rerankers
from bowerbird.store import manifest as manifests
from bowerbird.store.filters import among
from bowerbird.store.location import Place
from bowerbird.store.table import ATTRIBUTES
from bowerbird.store.where import parse

__all__ = ["PLACES", "Added", "Ask", "Page", "ServedIndex", "Stored"]

MANY_CHANGES = 32
"""After so many the index is tidied up, though more are coming."""

QUIET_SECONDS = 5.0
"""Without a change, after which it is tidied up in any case."""

PLACES = ("uri", "folder")
"""Columns that say where records lie on the server's disk."""


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
        rerank: as `reranker` takes it, cross-encoders by the names that the service has for them; empty: none.
        paths: whether the filter may ask where records lie, `uri` and `folder`.
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
    paths: bool = False


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
        rerankers: cross-encoders that searches may name.
        precision: what models are loaded with.
    """

    def __init__(
        self,
        place: Place,
        models: Models,
        *,
        rerankers: Rerankers | None = None,
        precision: str = "",
    ) -> None:
        self.place = place
        self.models = models
        self.rerankers = rerankers or Rerankers()
        self.precision = precision
        self.names: dict[str, str] = {}
        self._change = threading.Lock()
        self._renew = threading.Lock()
        self._changes = 0  # since the index was tidied up
        self._changed = 0.0  # when it was changed, by the monotonic clock
        self._now = self._opened()

    def _opened(self, before: Index | None = None) -> Index:
        """The newest commit, ready to be asked: nobody waits for what its first search would read."""
        index = Index.open(self.place, precision=self.precision)
        if before is not None:
            index.take_over(before)
        self._add_models(index)
        spaces = [entry.space for entry in index.manifest.models]
        # Searching asks only for `card` and `outcomes` of them.
        index.encoders = {space: self.models.get(self.names[space]) for space in spaces}  # type: ignore[misc]
        for entry in index.manifest.models:
            index.background(entry)
            for column in entry.columns:
                index.table.nearest(column.name, _any_direction(column.dimensions), 1, columns=["id"])
        return index

    def _add_models(self, index: Index) -> None:
        """Give the service the models of the index that it does not have, and keep them all in memory."""
        for space, name in labels(index.manifest.models).items():
            if space in self.names:
                continue
            if name in self.models.names and self.models.get(name).card.space != space:
                name = f"{name} ({space})"  # noqa: PLW2901  the service has another model of that name
            if name in self.models.names:
                self.models.pin(name)
            else:
                self.models.add(name, index.encoder(space), pinned=True)
            self.names[space] = name

    @property
    def now(self) -> Index:
        """What is searched at the moment."""
        return self._now

    @property
    def name(self) -> str:
        """What people call it: the last part of where it lies."""
        return str(self._now.path).rstrip("/").rpartition("/")[2]

    def __len__(self) -> int:
        return len(self._now)

    # Reading

    def search(self, ask: Ask) -> Hits:
        """The records most like a question; waits for the model, so not for workers of the scheduler.

        Raises:
            QueryError: as of `Index.ask`.
            InputError: the query picture cannot be read.
            ModelNotFoundError: the service has no such cross-encoder.
            BusyError: too much is waiting.
        """
        index = self._now
        with self._nameless(index):
            self._check_where(index, ask.where, paths=ask.paths)
            self._check_records(index, ask.query)
            return index.ask(
                ask.query,
                k=ask.k,
                offset=ask.offset,
                where=ask.where,
                models=self._spaces(index, ask.models),
                fusion=ask.fusion,
                part_weights=ask.part_weights or None,
                min_match=ask.min_match,
                threshold=ask.threshold,
                rerank=self._reranker(ask.rerank),
            )

    def _check_records(self, index: Index, query: Query) -> None:
        """By id alone: the index itself would take a path, too.

        Raises:
            QueryError: it has no record that the query names.
        """
        named = [("like", query.like)] if query.like else []
        for param, id_ in (*named, *(("unlike", one) for one in query.unlike)):
            if self._row(index, id_, ["id"]) is None:
                raise QueryError(
                    f"No record {id_!r} is in the index.",
                    hint="Give the id of an indexed record.",
                    param=param,
                )

    def page(self, *, after: str = "", limit: int = 100, where: str = "", paths: bool = False) -> Page:
        """Records in the order of their ids, from behind one.

        Args:
            after: an id; there need not be such a record any more.
            limit: at most so many.
            where: a filter.
            paths: as of `Ask`.

        Raises:
            QueryError: the filter cannot be understood.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        index = self._now
        first = pa.array([], pa.string())
        with self._nameless(index):
            self._check_where(index, where, paths=paths)
            for batch in index.table.scan(["id"], where=parse(where, index.table.fields)):
                ids = batch.column("id")
                ids = pa.concat_arrays([first, ids.filter(pc.greater(ids, after)) if after else ids])
                first = ids.take(pc.array_sort_indices(ids)[: limit + 1])
            found = first[:limit].to_pylist()
            by_id = {record.id: record for record in self._records(index, found)}
        return Page([by_id[id_] for id_ in found], len(first) > limit)

    def record(self, id_: str) -> Stored | None:
        """One record; None when there is none."""
        return next(iter(self._records(self._now, [id_])), None)

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEGs of records, by id; those that have none are left out."""
        return {id_: data for id_, data in self._now.thumbnails(list(dict.fromkeys(ids))).items() if data}

    def original(self, id_: str, policy: DecodePolicy) -> bytes | None:
        """The picture of a record as it lies where the index has it from; None when there is no record, or no picture.

        Only what the index itself names is read, and given only if it is the picture that was indexed, or another one
        in its place: a picture that can be decoded.

        Raises:
            UnreadableError: it is not there any more, or is on the web, where the service does not go for it.
            DecodeError: what lies there is no picture.
        """
        row = self._row(self._now, id_, ["uri", "picture"])
        uri = row and row["uri"]
        if row is None or not uri:
            return None
        if is_remote(uri) and uri.startswith(("http://", "https://")):
            raise UnreadableError(
                f"The picture of {id_} is on the web.", hint="Ask for the thumbnail, or fetch it from there."
            )
        try:
            data = StoredFile(uri).read(policy) if is_remote(uri) else read_bytes(Path(from_uri(uri)), policy)
        except InputError:
            # Why may say where: that is nobody's business.
            raise UnreadableError(
                f"The picture of {id_} cannot be read where it was indexed.", hint="Ask for the thumbnail."
            ) from None
        if content_id(data) != row["picture"]:
            decode(data, replace(policy, scaled=1.0), name=f"The picture of {id_}", target=1)
        return data

    def report(self, kind: str, *, model: str = "", colour: str = "") -> str:
        """See `reports.report`."""
        # With the models themselves: health looks at more of them than searching does.
        return report(self._writer(), kind, model=model, colour=colour, name=self.name)

    def _records(self, index: Index, ids: Sequence[str]) -> list[Stored]:
        table = index.table
        known = frozenset(table.names)  # which takes as long as there are columns
        names = [name for name in (*ATTRIBUTES, *table.attributes().names) if name in known]
        columns = ["id", "uri", "text", *names]
        if not ids:
            return []
        return [
            Stored(row.pop("id"), row.pop("uri") or "", row.pop("text") or "", row)
            for batch in table.scan(columns, where=among("id", list(ids)))
            for row in batch.to_pylist()
        ]

    def _row(self, index: Index, id_: str, columns: Sequence[str]) -> dict[str, Any] | None:
        """Some of what the table has of a record; columns that it lacks are None."""
        names = index.table.names
        known = [name for name in columns if name in names]
        for batch in index.table.scan(known, where=among("id", [id_])):
            for row in batch.to_pylist():
                return {**dict.fromkeys(columns), **row}
        return None

    # What requests may say

    def _check_where(self, index: Index, where: str, *, paths: bool) -> None:
        """A filter that may not ask where records lie would tell it, letter by letter."""
        if where and not paths:
            import pyarrow as pa

            fields = index.table.fields
            try:
                parse(where, pa.schema([field for field in fields if field.name not in PLACES]))
            except QueryError as error:
                with suppress(QueryError):
                    parse(where, fields)
                    columns = error.hint.partition("The columns are")
                    hint = "".join(columns[1:])
                    error = QueryError(
                        f"Where records lie, {' and '.join(PLACES)}, is not told here.",
                        hint=f"Start the service with --show-paths to have it asked. {hint}",
                        param="where",
                    )
                raise error from None

    def _spaces(self, index: Index, models: Sequence[str]) -> tuple[str, ...]:
        """The models that a request names; unlike the index itself, nothing looks for them on the disk.

        Raises:
            QueryError: the index has no such model.
        """
        called = {self.names[entry.space]: entry.space for entry in index.manifest.models}
        found: list[str] = []
        # What a model is called here may hold a comma, or be another one's name before the comma.
        given = [models] if isinstance(models, str) else models
        for name in (piece for one in given for piece in ([one] if one in called else split(one))):
            if name in ALL or name in called:
                found.append(called.get(name, name))
                continue
            meant = [entry.space for entry in index.manifest.models if name in (entry.name, entry.space)]
            if len(meant) != 1:
                raise QueryError(
                    f"The index has {'several models' if meant else 'no model'} {name!r}.",
                    hint=f"Use one of: {', '.join(called)}.",
                    param="models",
                )
            found += meant
        return tuple(found)

    def _reranker(self, name: str) -> Reranker | None:
        """What a request names; cross-encoders only among those of the service.

        Raises:
            QueryError: there is no such reranker.
            ModelNotFoundError: the service has no such cross-encoder.
        """
        kind, _, model = name.partition(":")
        if kind.strip() == "cross":
            return CrossEncode(self.rerankers.get(model.strip()))
        return reranker(name) if name else None

    @contextmanager
    def _nameless(self, index: Index) -> Iterator[None]:
        """Errors name the index, rather than where it lies."""
        try:
            yield
        except BowerbirdError as error:
            where = str(index.path)
            error.message = error.message.replace(where, self.name)
            error.hint = error.hint.replace(where, self.name)
            raise

    # Changing

    def add(self, records: Sequence[Record]) -> Added:
        """Add records, or replace those of the same id; what was added is found as soon as this returns.

        Args:
            records: those that are not `named` are given an id by their content.

        Raises:
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self._change, self._nameless(self._now):
            added = add(self._writer(), records)
            self._note_change()
            self.refresh()
        return added

    def remove(self, ids: Sequence[str]) -> int:
        """Take records out of the index; how many there were.

        Raises:
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self._change, self._nameless(self._now):
            removed = self._writer().remove(ids)
            self._note_change()
            self.refresh()
        return removed

    def _note_change(self) -> None:
        self._changes += 1
        self._changed = time.monotonic()

    def tidy(self) -> bool:
        """Do what changes have left for later, where it is time for it: put together what they wrote one by one,
        and measure what unrelated pairs score where the index has grown by a tenth.

        Searches go on meanwhile, and so do changes while it is measured.

        Returns:
            whether it was time.

        Raises:
            BowerbirdError: something of it failed; it is tried again after the next change.
        """
        index = self._now
        if not self._changes:
            return False
        quiet = time.monotonic() - self._changed > QUIET_SECONDS
        measured = all(is_measured(index, entry) for entry in index.manifest.models)
        if measured and self._changes < MANY_CHANGES and not quiet:
            return False
        with self._nameless(index):
            with self._change:
                self._changes = 0
                writer = self._writer()
                tidy(writer)
            renew(writer)
            self.refresh()
        return True

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
        with self._renew, self._nameless(self._now):
            manifest = manifests.read(self._now.location)
            if manifest == self._now.manifest:
                return False
            self._now = self._opened(self._now)
            return True


def _any_direction(dimensions: int) -> NDArray[np.float32]:
    """A unit vector."""
    vector = np.zeros(dimensions, np.float32)
    vector[0] = 1
    return vector
