"""`LocalService`: everything that a `Service` can do, in this process; see `bowerbird.serve.contract`."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from bowerbird.hits import Hits
from bowerbird.media.policy import DecodePolicy
from bowerbird.models.crossencoder import Judgement
from bowerbird.models.vision.tower import Input
from bowerbird.record import Record
from bowerbird.serve.batching import Batch, BusyError, Scheduler
from bowerbird.serve.contract import Facts, NoIndexError, NotServedError, Readiness, ReadOnlyError, Service
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

PREVIEWS = 2
"""Previews made at once, beside searches: they take a processor each."""

PREVIEWS_WAITING = 256
"""How many may wait: pictures of several pages of results."""

RERANKS = 2
"""Questions at once whose texts are judged, which takes every core."""

SEARCHES_WAITING = 1024
CHANGES_WAITING = 16
"""How many may wait at the most; who changes records holds their pictures meanwhile."""


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
        wait = self._limits.queue_seconds
        self.index: ServedIndex | None = None
        if place:
            self.index = ServedIndex(place, self.registry, rerankers=self.rerankers, lock_seconds=wait)
        if not self.registry.names:
            self.registry.add(settings().model)
        self.tend_seconds = tend_seconds
        self._searches = Threads("bowerbird-search", SEARCHES, seconds=wait, most=SEARCHES_WAITING)
        self._reranks = Threads("bowerbird-rerank", RERANKS, seconds=wait, most=SEARCHES_WAITING)
        self._previews = Threads("bowerbird-preview", PREVIEWS, seconds=wait, most=PREVIEWS_WAITING)
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

    async def preview(self, id_: str, side: int) -> bytes | None:
        """See `Service`."""
        policy = DecodePolicy(max_bytes=self._limits.body_bytes)
        return await self._previews.run(partial(self._indexed().preview, id_, side, policy))

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
            checks["index"] = await self._checked(self._searches.run(self.index.check))
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
        for reading in (
            self._searches,
            self._previews,
            self._reranks,
            self._reports,
            self._refreshes,
            self.registry,
        ):
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
