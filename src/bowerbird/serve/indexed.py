"""An index that is served: read by many at once, changed by one, and renewed without anybody noticing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, InputError, QueryError, UnreadableError
from bowerbird.flow.files import from_uri
from bowerbird.flow.remote import StoredFile, is_remote
from bowerbird.hits import Hits
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import read_bytes
from bowerbird.record import Record, content_id
from bowerbird.search.calibrate import FEW, is_measured, is_stale, renew
from bowerbird.search.entries import labels
from bowerbird.search.filling import tidy
from bowerbird.search.index import Index
from bowerbird.search.query import Query
from bowerbird.search.rerank import CrossEncode, Reranker, reranker
from bowerbird.serve.additions import Added, add
from bowerbird.serve.asking import PLACES, Ask, check_where, spaces
from bowerbird.serve.listing import Listing, Page, Stored, stored
from bowerbird.serve.models import Models
from bowerbird.serve.previews import Previews, preview
from bowerbird.serve.reports import report
from bowerbird.serve.rerankers import Rerankers
from bowerbird.store import manifest as manifests
from bowerbird.store.filters import among
from bowerbird.store.location import Place

__all__ = ["PLACES", "Added", "Ask", "Page", "ServedIndex", "Stored"]

MANY_CHANGES = 32
"""After so many the index is tidied up, though more are coming."""

QUIET_SECONDS = 5.0
"""Without a change, after which it is tidied up in any case."""


class ServedIndex:
    """An index, open for many readers. Its models are those of the service, so their batches are shared.

    What is searched is a snapshot: `refresh` opens the newest commit beside it, warms it up, and puts it in its place;
    searches that have begun go on with the one they began with.

    Args:
        place: of the index.
        models: of the service; those of the index are added to them, under the names that it has for them.
        rerankers: cross-encoders that searches may name.
        precision: what models are loaded with.
        lock_seconds: who changes it waits no longer for another process that is writing; None: as the settings say.
    """

    def __init__(
        self,
        place: Place,
        models: Models,
        *,
        rerankers: Rerankers | None = None,
        precision: str = "",
        lock_seconds: float | None = None,
    ) -> None:
        self.place = place
        self.models = models
        self.rerankers = rerankers or Rerankers()
        self.precision = precision
        self.lock_seconds = lock_seconds
        self.names: dict[str, str] = {}
        self._change = threading.Lock()
        self._renew = threading.Lock()
        self._changes = 0  # since the index was tidied up
        self._changed = 0.0  # when it was changed, by the monotonic clock
        self._looked = False  # for what was left undone before
        self._previews = Previews()
        self._now = self._opened()
        self._listing = Listing(self._now)

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
            check_where(index, ask.where, paths=ask.paths)
            self._check_records(index, ask.query)
            return index.ask(
                ask.query,
                k=ask.k,
                offset=ask.offset,
                where=ask.where,
                models=spaces(index, ask.models, self.names),
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
        listing = self._listing
        with self._nameless(listing.index):
            check_where(listing.index, where, paths=paths)
            return listing.page(after=after, limit=limit, where=where)

    def check(self) -> None:
        """Read something of it, whatever its size.

        Raises:
            StoreError: it cannot be read.
        """
        with self._nameless(self._now):
            self._now.table.sample(["id"], 1)

    def record(self, id_: str) -> Stored | None:
        """One record; None when there is none."""
        return next(iter(stored(self._now, [id_])), None)

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEGs of records, by id; those that have none are left out."""
        return {id_: data for id_, data in self._now.thumbnails(list(dict.fromkeys(ids))).items() if data}

    def original(self, id_: str, policy: DecodePolicy) -> bytes | None:
        """The picture of a record as it lies where the index has it from; None when there is no record, or no picture.

        Only what the index itself names is read, and given only if it is what was indexed, byte for byte: whoever can
        put a link into an indexed folder cannot have the service send what it leads to.

        Raises:
            UnreadableError: it is not there any more, or has changed, or is on the web, where the service does not go
                for it.
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
            raise UnreadableError(
                f"The picture of {id_} has changed since it was indexed.",
                hint="Ask for the thumbnail, or index it again.",
            )
        return data

    def preview(self, id_: str, side: int, policy: DecodePolicy) -> bytes | None:
        """A JPEG of a record of at most so many pixels a side: of the original where that can be had, else the
        thumbnail; None when there is neither.
        """
        row = self._row(self._now, id_, ["picture"])
        if row is None or not row["picture"]:
            return None

        def make() -> bytes | None:
            with suppress(InputError):
                data = self.original(id_, policy)
                return preview(data, side, policy) if data else None
            return None

        found = self._previews.get(row["picture"], side, make)
        return found or self.thumbnails([id_]).get(id_)

    def report(self, kind: str, *, model: str = "", colour: str = "") -> str:
        """See `reports.report`."""
        # With the models themselves: health looks at more of them than searching does.
        return report(self._writer(), kind, model=model, colour=colour, name=self.name)

    def _row(self, index: Index, id_: str, columns: Sequence[str]) -> dict[str, Any] | None:
        """Some of what the table has of a record; columns that it lacks are None."""
        names = index.table.names
        known = [name for name in columns if name in names]
        for batch in index.table.scan(known, where=among("id", [id_])):
            for row in batch.to_pylist():
                return {**dict.fromkeys(columns), **row}
        return None

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
        if not (self._is_time(index) if self._changes else self._is_left(index)):
            return False
        with self._nameless(index):
            with self._change:
                self._changes = 0
                writer = self._writer()
                tidy(writer)
            renew(writer)
            self.refresh()
        return True

    def _is_time(self, index: Index) -> bool:
        """Whether those who change it are quiet, or have changed much, or something that nothing was measured of."""
        if self._changes >= MANY_CHANGES or time.monotonic() - self._changed > QUIET_SECONDS:
            return True
        return not all(is_measured(index, entry) for entry in index.manifest.models)

    def _is_left(self, index: Index) -> bool:
        """Whether something was left undone when another service was stopped: looked for once."""
        if self._looked:
            return False
        self._looked = True
        stale = (is_stale(index, entry, few=FEW) for entry in index.manifest.models)
        return index.table.scattered or (len(index) > 0 and any(stale))

    def _writer(self) -> Index:
        """The index for one who writes: with the models themselves."""
        encoders = [
            shared.encoder
            for shared in (self.models.get(self.names[e.space]) for e in self._now.manifest.models)
        ]
        index = Index.open(self.place, encoders, precision=self.precision)
        index.lock_seconds = self.lock_seconds
        return index

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
            self._listing = Listing(self._now)
            return True


def _any_direction(dimensions: int) -> NDArray[np.float32]:
    """A unit vector."""
    vector = np.zeros(dimensions, np.float32)
    vector[0] = 1
    return vector
