"""Replicas that hold the index: many that search it, and one that changes it. Which one, `user_config` says."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from bowerbird.errors import BowerbirdError
from bowerbird.flow.recipe import ModelRecipe
from bowerbird.record import Record
from bowerbird.serve.cluster.remote import RemoteModels, RemoteRerankers, Towers
from bowerbird.serve.indexed import ServedIndex
from bowerbird.serve.limits import Limits
from bowerbird.serve.models import Models
from bowerbird.serve.rerankers import Rerankers
from bowerbird.serve.service import LocalService, facts_of

__all__ = ["SearchReplica", "WriterReplica"]

_LOG = logging.getLogger("bowerbird.serve")

T = TypeVar("T")

SEARCHES = 32
"""Searches of one replica at once; each waits for its query's vectors most of the time."""

APART = {"preview": 2, "report": 1}
"""What takes a processor for longer, and how much of it at once: searches do not wait for it."""

READS = ("facts", "original", "page", "preview", "record", "report", "search", "thumbnails")
"""What may be asked of an index by name."""


class SearchReplica:
    """The index, for many readers. Vectors of queries come from the deployments of the encoders.

    A new commit, or another index after `user_config` has changed, is opened beside the searches that go on, and what
    has begun ends with what it began with. A commit is looked for every few seconds, and when a caller has seen a newer
    one elsewhere.

    Args:
        towers: by name of each model of the index.
        recipes: likewise.
        rerankers: by name, the handles of the cross-encoders.
        limits: of the service.
        poll: seconds between two looks.
        writable: whether a writer is deployed; it is told, not used.
        threads: that it may use.
    """

    def __init__(
        self,
        towers: Mapping[str, Towers],
        recipes: Mapping[str, ModelRecipe],
        rerankers: Mapping[str, Any],
        limits: Limits,
        poll: float,
        *,
        writable: bool = False,
        threads: int = 1,
    ) -> None:
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.writable = writable
        self.poll = poll
        self.pool = ThreadPoolExecutor(SEARCHES, thread_name_prefix="bowerbird-search")
        self.apart = {
            method: ThreadPoolExecutor(count, thread_name_prefix=f"bowerbird-{method}")
            for method, count in APART.items()
        }
        self.models = RemoteModels(towers, recipes, limits)
        self.rerankers = RemoteRerankers(rerankers, limits)
        self.place = ""
        self.index: ServedIndex | None = None
        self.renewing = threading.Lock()
        self.look = threading.Event()
        self.ended = False

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve calls it before the first request, and when `user_config` has changed, without a restart.

        Nobody waits for another index to be opened, and if it cannot be, the one before goes on being searched.

        Raises:
            BowerbirdError: no index is named, or the first one cannot be opened.
        """
        self.place = _named(config)
        if self.index is None:
            # In a thread: what it may ask of the encoders is waited for.
            self.index = await asyncio.to_thread(self._opened, self.place)
            threading.Thread(target=self._look, name="bowerbird-look", daemon=True).start()
        self.look.set()

    async def read(
        self, method: str, arguments: Sequence[Any], keywords: Mapping[str, Any], seen: int
    ) -> tuple[Any, int]:
        """What one of `READS` of the index gives, and the version that was asked.

        Args:
            method: its name.
            arguments: for it.
            keywords: likewise.
            seen: a version that the caller knows of; an older one is not asked, unless that one is not there any more.
        """
        assert method in READS

        def read() -> tuple[Any, int]:
            if _version(self._indexed()) < seen:
                self._renew()
            index = self._indexed()
            version = _version(index)
            if method == "facts":
                return facts_of(index, writable=self.writable), version
            return getattr(index, method)(*arguments, **keywords), version

        return await _in(self.apart.get(method, self.pool), read)

    async def refresh(self) -> tuple[bool, int]:
        """Search what was committed last from now on: whether there was anything new, and its version."""
        fresh = await _in(self.pool, self._renew)
        return fresh, _version(self._indexed())

    async def check_health(self) -> None:
        """Ask the store."""
        if self.index is not None:
            await _in(self.pool, partial(self.index.page, limit=1))

    def __del__(self) -> None:
        if hasattr(self, "look"):
            self.ended = True
            self.look.set()
            for pool in (self.pool, *self.apart.values()):
                pool.shutdown(wait=False, cancel_futures=True)

    def _opened(self, place: str) -> ServedIndex:
        return ServedIndex(place, cast("Models", self.models), rerankers=cast("Rerankers", self.rerankers))

    def _indexed(self) -> ServedIndex:
        assert self.index is not None  # Serve has waited for `reconfigure`
        return self.index

    def _renew(self) -> bool:
        """Search the newest commit of the index that `user_config` names. Whether there was anything new.

        Raises:
            StoreError: it cannot be read; what was searched until now stays.
            ModelNotFoundError: a model of it is not deployed; likewise.
        """
        with self.renewing:
            index = self._indexed()
            if index.place == self.place:
                return index.refresh()
            self.index = self._opened(self.place)
            _LOG.info("%s is searched in the place of %s.", self.place, index.place)
            return True

    def _look(self) -> None:
        said = ""
        while not self.ended:
            self.look.wait(self.poll)
            self.look.clear()
            try:
                self._renew()
                said = ""
            except Exception as error:  # noqa: BLE001  it is tried again
                # What was searched until now goes on being searched; and it is said once.
                if str(error) != said:
                    said = str(error)
                    _LOG.warning("The newest commit of the index cannot be opened: %s", said)


class WriterReplica:
    """The one who changes the index. It embeds what it adds by itself, so it holds the models of the index.

    Args:
        limits: of the service.
        threads: that it may use.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        os.environ["BOWERBIRD_THREADS"] = str(threads)
        self.limits = limits
        self.place = ""
        self.service: LocalService | None = None
        self.tending: asyncio.Task[None] | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve calls it before the first request, and when `user_config` has changed: what has begun is finished.

        Raises:
            BowerbirdError: no index is named, or it cannot be opened.
        """
        place = _named(config)
        if place == self.place:
            return
        if self.service is not None and self.tending is not None:
            self.tending.cancel()
            await self.service.close()  # who comes meanwhile is told so, and comes again
        self.service = await asyncio.to_thread(LocalService, place, limits=self.limits, writable=True)
        self.place = place
        self.tending = asyncio.create_task(self.service.tend())

    async def add(self, records: Sequence[Record]) -> tuple[Any, int]:
        """See `Service.add`; and the version that has them."""
        service = self._opened()
        return await service.add(records), _version(service.index)

    async def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """See `Service.remove`; and the version without them."""
        service = self._opened()
        return await service.remove(ids), _version(service.index)

    def _opened(self) -> LocalService:
        assert self.service is not None  # Serve has waited for `reconfigure`
        return self.service


def _named(config: Mapping[str, Any]) -> str:
    """The index that `user_config` names.

    Raises:
        BowerbirdError: none.
    """
    place = config.get("index")
    if not place or not isinstance(place, str):
        raise BowerbirdError("user_config names no index.", hint="Give it as index: photos.bower")
    return place


def _version(index: ServedIndex | None) -> int:
    """Of what is searched at the moment."""
    assert index is not None
    return index.now.manifest.table_version


async def _in(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, function)
