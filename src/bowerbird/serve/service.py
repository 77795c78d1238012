"""What a service can do, whatever door it is asked through and wherever the work is done.

`Service` is the contract that the HTTP API and the page are written against. `LocalService` does everything in this
process; `bowerbird.serve.cluster` has one that asks deployments on Ray.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from bowerbird.errors import BowerbirdError
from bowerbird.hits import Hits
from bowerbird.media.policy import DecodePolicy
from bowerbird.models.crossencoder import Judgement
from bowerbird.models.vision.tower import Input
from bowerbird.record import Record
from bowerbird.serve.batching import Batch, BusyError, Scheduler
from bowerbird.serve.encoders import Answer, Prepared, SharedEncoder
from bowerbird.serve.indexed import Added, Ask, Page, ServedIndex, Stored
from bowerbird.serve.limits import Limits
from bowerbird.serve.models import Models, ModelState
from bowerbird.serve.rerankers import Rerankers
from bowerbird.serve.threads import Threads, in_thread
from bowerbird.settings import settings

__all__ = [
    "Facts",
    "LocalService",
    "NoIndexError",
    "NotServedError",
    "ReadOnlyError",
    "Readiness",
    "Service",
    "facts_of",
]

_LOG = logging.getLogger("bowerbird.serve")

SEARCHES = 8
"""Searches at once: each waits for its query's vectors most of the time."""

RERANKS = 2
"""Questions at once whose texts are judged, which takes every core."""

SEARCHES_WAITING = 1024
CHANGES_WAITING = 16
"""How many may wait at the most; who changes records holds their pictures meanwhile."""


class NotServedError(BowerbirdError):
    """The service is read-only, or does not do this."""


class ReadOnlyError(NotServedError):
    """The service takes no changes."""


class NoIndexError(NotServedError):
    """The service has no index."""


@dataclass(frozen=True)
class Facts:
    """What is told of the index.

    Attributes:
        name: what people call it.
        records: how many.
        models: names of its models, the first being asked where nobody names one.
        version: of what is searched at the moment; it grows with every commit.
        attributes: names and types of what filters may ask for.
        writable: whether records can be added and removed through the service.
        parts: of records, that can be searched.
    """

    name: str
    records: int
    models: tuple[str, ...]
    version: int
    attributes: Mapping[str, str]
    writable: bool
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Readiness:
    """Whether the service can answer, found out by doing it.

    Attributes:
        ready: all checks passed.
        checks: by name, `ok` or what went wrong.
    """

    ready: bool
    checks: Mapping[str, str] = field(default_factory=dict)


def facts_of(index: ServedIndex, *, writable: bool) -> Facts:
    """What is told of an index as it is searched at the moment."""
    now = index.now
    return Facts(
        name=index.name,
        records=len(now),
        models=tuple(index.names[entry.space] for entry in now.manifest.models),
        version=now.manifest.table_version,
        attributes={field.name: str(field.type) for field in now.table.attributes()},
        writable=writable,
        parts=tuple(dict.fromkeys(str(column.modality) for column in now.columns)),
    )


class Service(Protocol):
    """What a service can do. Every method may be awaited by many at once; cancelling one stops what has not begun."""

    @property
    def limits(self) -> Limits:
        """What it takes on at the most."""

    async def embed(
        self,
        model: str,
        inputs: Sequence[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> Answer:
        """An outcome for each input, in order; see `SharedEncoder.embed`.

        Raises:
            ModelNotFoundError: the service has no such model.
            BusyError: too much is waiting.
        """

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> list[Judgement]:
        """How well each document answers a question, in order.

        Raises:
            ModelNotFoundError: the service has no such cross-encoder.
        """

    async def search(self, ask: Ask) -> Hits:
        """The records most like a question.

        Raises:
            NotServedError: there is no index.
            QueryError: it cannot be asked.
        """

    async def facts(self) -> Facts | None:
        """What is told of the index; None: there is none."""

    async def page(self, *, after: str = "", limit: int = 100, where: str = "", paths: bool = False) -> Page:
        """Records in the order of their ids, from behind one; see `ServedIndex.page`."""

    async def record(self, id_: str) -> Stored | None:
        """One record; None when there is none."""

    async def thumbnail(self, id_: str) -> bytes | None:
        """A small JPEG of a record; None when there is none."""

    async def thumbnails(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Small JPEGs of records, by id; those that have none are left out."""

    async def original(self, id_: str) -> bytes | None:
        """The picture of a record as it lies; None when there is none.

        Raises:
            InputError: it cannot be read, or is no picture any more.
        """

    async def add(self, records: Sequence[Record]) -> Added:
        """Add records, or replace those of the same id; what was added is found as soon as this returns.

        Args:
            records: pictures are bytes; those that are not `named` are given an id by their content.

        Raises:
            ReadOnlyError: the service is.
        """

    async def remove(self, ids: Sequence[str]) -> int:
        """Take records out of the index; how many there were.

        Raises:
            ReadOnlyError: the service is.
        """

    async def report(self, kind: str, *, model: str = "", colour: str = "") -> str:
        """A page (HTML) about the index, which tells no paths: `map`, `gap` or `health`. Takes seconds.

        Raises:
            NotServedError: there is no index.
            QueryError: there is no such report, model or attribute, or nothing to draw.
        """

    async def refresh(self) -> bool:
        """Search what was committed last from now on; whether there was anything new."""

    async def models(self) -> list[ModelState]:
        """What is told of every model."""

    async def load(self, model: str) -> ModelState:
        """Have a model in memory.

        Raises:
            ModelNotFoundError: the service has no such model.
        """

    async def unload(self, model: str) -> bool:
        """Take a model out of memory; whether it was there.

        Raises:
            ModelNotFoundError: the service has no such model.
            ModelInUseError: the index is searched with it.
        """

    async def ready(self) -> Readiness:
        """Run every loaded model and ask the store."""

    async def tend(self) -> None:
        """Do what has to be done from time to time, until cancelled: unload models that nobody asks, search what
        others have committed, and tidy up after those who have changed the index.
        """

    async def close(self) -> None:
        """Finish what was accepted, and take nothing more."""


class LocalService:
    """Everything in this process.

    Args:
        place: of the index; empty: only models are served.
        models: names of further models, or (name, source) pairs.
        rerankers: names of cross-encoders.
        limits: what it takes on.
        writable: whether records can be added and removed.
        any_model: whether requests may name any model, a download included.
        idle_seconds: after which a model that nobody asks is unloaded; 0: never.
        tend_seconds: after which it is looked again for commits of others, and for models that nobody asks.
        watch: told about every batch.

    Raises:
        StoreError: the index cannot be opened.
        ModelError: a model of the index cannot be loaded.
    """

    def __init__(  # noqa: PLR0913  what a service is made of
        self,
        place: str = "",
        models: Sequence[str | tuple[str, str]] = (),
        *,
        rerankers: Sequence[str] = (),
        limits: Limits | None = None,
        writable: bool = False,
        any_model: bool = False,
        idle_seconds: float = 0.0,
        tend_seconds: float = 1.0,
        watch: Callable[[Batch], None] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self.writable = writable
        self.scheduler = Scheduler(
            settings().worker_threads,
            queue_seconds=self._limits.queue_seconds,
            queue_bytes=self._limits.queue_bytes,
            watch=watch,
        )
        self.registry = Models(self.scheduler, open_to_any=any_model, idle_seconds=idle_seconds)
        for one in models:
            name, source = (one, "") if isinstance(one, str) else one
            self.registry.add(name, source)
        self.rerankers = Rerankers(rerankers, idle_seconds=idle_seconds)
        self.index = ServedIndex(place, self.registry, rerankers=self.rerankers) if place else None
        if not self.registry.names:
            self.registry.add(settings().model)
        self.tend_seconds = tend_seconds
        wait = self._limits.queue_seconds
        self._searches = Threads("bowerbird-search", SEARCHES, seconds=wait, most=SEARCHES_WAITING)
        self._reranks = Threads("bowerbird-rerank", RERANKS, seconds=wait, most=SEARCHES_WAITING)
        # Who adds records waits for the disk in any case.
        self._changes = Threads("bowerbird-change", 1, seconds=10 * wait, most=CHANGES_WAITING)
        self._upkeep = Threads("bowerbird-upkeep", 1, seconds=wait, most=1)
        self._reports = Threads("bowerbird-report", 1, seconds=20 * wait, most=CHANGES_WAITING)
        # Not behind those who change it: that may take a while.
        self._refreshes = Threads("bowerbird-refresh", 1, seconds=10 * wait, most=CHANGES_WAITING)

    @property
    def limits(self) -> Limits:
        """See `Service`."""
        return self._limits

    async def embed(
        self,
        model: str,
        inputs: Sequence[Input | Prepared],
        *,
        output: str = "",
        role: str = "",
        normalize: bool = True,
    ) -> Answer:
        """See `Service`."""
        shared = await self.registry.got(model)
        return await shared.embed(
            inputs, output=output, role=role, normalize=normalize, tokens=self._limits.tokens
        )

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> list[Judgement]:
        """See `Service`."""
        left = threading.Event()
        try:
            return await self._reranks.run(partial(self.rerankers.judged, model, query, documents, left))
        finally:
            left.set()

    async def search(self, ask: Ask) -> Hits:
        """See `Service`."""
        return await self._searches.read(partial(self._indexed().search, ask))

    async def facts(self) -> Facts | None:
        """See `Service`."""
        if self.index is None:
            return None
        return facts_of(self.index, writable=self.writable)

    async def page(self, *, after: str = "", limit: int = 100, where: str = "", paths: bool = False) -> Page:
        """See `Service`."""
        index = self._indexed()
        return await self._searches.run(
            partial(index.page, after=after, limit=limit, where=where, paths=paths)
        )

    async def record(self, id_: str) -> Stored | None:
        """See `Service`."""
        return await self._searches.run(partial(self._indexed().record, id_))

    async def thumbnail(self, id_: str) -> bytes | None:
        """See `Service`."""
        return (await self.thumbnails([id_])).get(id_)

    async def thumbnails(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """See `Service`."""
        return await self._searches.run(partial(self._indexed().thumbnails, ids))

    async def original(self, id_: str) -> bytes | None:
        """See `Service`."""
        policy = DecodePolicy(max_bytes=self._limits.body_bytes)
        return await self._searches.run(partial(self._indexed().original, id_, policy))

    async def add(self, records: Sequence[Record]) -> Added:
        """See `Service`."""
        return await self._changes.run(partial(self._changed().add, records))

    async def remove(self, ids: Sequence[str]) -> int:
        """See `Service`."""
        return await self._changes.run(partial(self._changed().remove, ids))

    async def report(self, kind: str, *, model: str = "", colour: str = "") -> str:
        """See `Service`."""
        index = self._indexed()
        return await self._reports.run(partial(index.report, kind, model=model, colour=colour))

    async def refresh(self) -> bool:
        """See `Service`."""
        if self.index is None:
            return False
        return await self._refreshes.run(self.index.refresh)

    async def models(self) -> list[ModelState]:
        """See `Service`."""
        return [*self.registry.states(), *self.rerankers.states()]

    async def load(self, model: str) -> ModelState:
        """See `Service`."""
        if model in self.rerankers.names:
            await self._reranks.run(partial(self.rerankers.get, model))
            return self.rerankers.state(model)
        await self.registry.got(model)
        return self.registry.state(model)

    async def unload(self, model: str) -> bool:
        """See `Service`."""
        if model in self.rerankers.names:
            return await self._reranks.run(partial(self.rerankers.unload, model))
        return await self.registry.unloaded(model)

    async def ready(self) -> Readiness:
        """See `Service`."""
        checks = {f"model {name}": "is being loaded" for name in self.registry.loading()}
        for name, shared in self.registry.loaded().items():
            checks[f"model {name}"] = await self._checked(_probe(shared))
        if self.index is not None:
            checks["index"] = await self._checked(self.page(limit=1))
        return Readiness(all(said == "ok" for said in checks.values()), checks)

    async def tend(self) -> None:
        """See `Service`."""
        await asyncio.gather(self._watch(), self._tidy())

    async def _watch(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(self.tend_seconds)
            try:
                await asyncio.to_thread(self.registry.sweep)
                await asyncio.to_thread(self.rerankers.sweep)
                await self.refresh()
            except Exception as error:  # noqa: BLE001  it is tried again
                # What was searched until now goes on being searched; and it is said once.
                if str(error) != said:
                    said = str(error)
                    _LOG.warning("The newest commit of the index cannot be opened: %s", said)

    async def _tidy(self) -> None:
        """Beside the other: it may take a while."""
        while self.index is not None and self.writable:
            await asyncio.sleep(self.tend_seconds)
            try:
                await self._upkeep.run(self.index.tidy)
            except Exception as error:  # noqa: BLE001  it is tried again, after the next change
                _LOG.warning("The index was not tidied up: %s", error)

    async def close(self) -> None:
        """See `Service`."""
        end = time.monotonic() + self._limits.drain_seconds
        stop = partial(self.scheduler.stop, self._limits.drain_seconds)
        await asyncio.wrap_future(in_thread("bowerbird-stop", stop))
        for reading in (self._searches, self._reranks, self._reports, self._refreshes, self.registry):
            await reading.close(0.0)  # whoever has asked is not here any more
        for changing in (self._changes, self._upkeep):
            await changing.close(max(0.0, end - time.monotonic()))

    @staticmethod
    async def _checked(check: Awaitable[object]) -> str:
        try:
            await check
        except BusyError:
            return "ok"  # it is at work
        except Exception as error:  # noqa: BLE001  whatever it is, it is what was asked
            _LOG.warning("Not ready: %s", error)
            return f"{type(error).__name__}; the log has the details"
        return "ok"

    def _indexed(self) -> ServedIndex:
        if self.index is None:
            raise NoIndexError(
                "No index is served here.", hint="Start the service with one: bowerbird serve photos.bower"
            )
        return self.index

    def _changed(self) -> ServedIndex:
        index = self._indexed()
        if not self.writable:
            raise ReadOnlyError(
                "The index is served read-only.", hint="Start the service with --writable to allow changes."
            )
        return index


async def _probe(shared: SharedEncoder) -> None:
    """Run a model.

    Raises:
        BowerbirdError: it does not do what it should.
    """
    from PIL import Image

    probe: Input = "ready?" if shared.card.text else Image.new("RGB", (32, 32), "white")
    if error := (await shared.embed([probe])).outcomes[0].error:
        raise error
