"""The models of a service: loaded when they are asked for, unloaded when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from bowerbird.errors import BowerbirdError, ModelNotFoundError
from bowerbird.models.encoder import Encoder, load
from bowerbird.serve.batching import Scheduler
from bowerbird.serve.encoders import SharedEncoder
from bowerbird.serve.threads import Threads

__all__ = ["ModelInUseError", "ModelState", "Models"]

LOADS = 2
"""Models that are loaded at once: it takes the disk, the network and memory for what is there twice meanwhile."""

LOADS_WAITING = 64
"""How many others may wait for that."""


class ModelInUseError(BowerbirdError):
    """A model cannot be unloaded, since the index is searched with it."""


@dataclass(frozen=True)
class ModelState:
    """What is told of a model.

    Attributes:
        id: what requests call it.
        kind: `embedding` or `reranker`.
        loaded: whether it is in memory.
        since: when it was loaded, seconds since 1970; 0: it is not.
        used: when it was last asked, likewise; 0: never.
        modalities: what it takes.
        dimensions: of its vectors; 0 as long as it was not loaded.
        max_tokens: of a text; likewise.
        space: fingerprint of its vectors; empty likewise.
        prompts: names of its roles.
        outputs: of pictures.
        numerics: by tower, what it runs in.
    """

    id: str
    kind: str = "embedding"
    loaded: bool = False
    since: float = 0.0
    used: float = 0.0
    modalities: tuple[str, ...] = ()
    dimensions: int = 0
    max_tokens: int = 0
    space: str = ""
    prompts: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    numerics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class _Place:
    """One name, and the model when it is there.

    Attributes:
        loading: what all who ask meanwhile wait for; None: it is not being loaded.
        pinned: the index is searched with it.
        named: by whoever has started the service; else by a request.
        ever: whether it has been loaded at any time.
    """

    load: Callable[[], Encoder]
    shared: SharedEncoder | None = None
    loading: Future[SharedEncoder] | None = None
    since: float = 0.0
    used: float = 0.0
    pinned: bool = False
    named: bool = True
    ever: bool = False


class Models:
    """Which models a service has, by the names that requests call them. Safe to use from any thread.

    Args:
        scheduler: runs them.
        open_to_any: whether a request may name any other model that `load` takes, a download included.
        idle_seconds: after which a model that nobody asks is unloaded; 0: never.
    """

    def __init__(self, scheduler: Scheduler, *, open_to_any: bool = False, idle_seconds: float = 0.0) -> None:
        self.scheduler = scheduler
        self.open_to_any = open_to_any
        self.idle_seconds = idle_seconds
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        # Apart from all other threads: a model that takes minutes holds up nobody who does not ask for it.
        self._loads = Threads("bowerbird-load", LOADS, seconds=math.inf, most=LOADS_WAITING)

    def add(self, name: str, source: str | Encoder = "", *, pinned: bool = False) -> None:
        """Have a model under a name; it is loaded with the first request for it.

        Args:
            name: what requests call it.
            source: as `load` takes it, or an encoder; empty: the name.
            pinned: never unloaded because nobody asks.
        """

        def open_() -> Encoder:
            return source if isinstance(source, Encoder) else load(source or name)

        with self._lock:
            self._places.setdefault(name, _Place(open_, pinned=pinned))

    def pin(self, name: str) -> None:
        """Keep the model of a name in memory from now on."""
        self._place(name).pinned = True

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may ask for, the first being the default."""
        with self._lock:
            return tuple(self._places)

    def get(self, name: str = "") -> SharedEncoder:
        """The model of a name, loaded now if it was not; takes as long as that does.

        Raises:
            ModelNotFoundError: there is none of that name here.
            ModelError: it cannot be loaded.
            BusyError: too many others are being loaded.
        """
        found = self._asked(name)
        return found if isinstance(found, SharedEncoder) else found.result()

    async def got(self, name: str = "") -> SharedEncoder:
        """As `get`, without holding up the loop."""
        found = self._asked(name)
        # Others may wait for it too, so who leaves does not stop it.
        return found if isinstance(found, SharedEncoder) else await asyncio.shield(asyncio.wrap_future(found))

    def _asked(self, name: str) -> SharedEncoder | Future[SharedEncoder]:
        """The model of a name, or what it will be; however many ask, it is loaded once."""
        place = self._place(name)
        place.used = time.time()
        with self._lock:
            if place.shared is not None:
                return place.shared
            if place.loading is None:
                try:
                    place.loading = self._loads.submit(partial(self._load, name, place))
                except BaseException:
                    self._forget(name, place)
                    raise
            return place.loading

    def _load(self, name: str, place: _Place) -> SharedEncoder:
        try:
            shared = SharedEncoder(place.load(), self.scheduler).warm()
        except BaseException:
            with self._lock:
                place.loading = None
                self._forget(name, place)
            raise
        with self._lock:
            place.shared, place.since, place.ever, place.loading = shared, time.time(), True, None
        return shared

    def unload(self, name: str) -> bool:
        """Take a model out of memory; requests that have begun with it are finished. Whether it was there.

        Raises:
            ModelNotFoundError: there is none of that name here.
            ModelInUseError: the index is searched with it.
        """
        place = self._unpinned(name)
        with self._lock:
            shared, place.shared, place.since = place.shared, None, 0.0
        return shared is not None

    async def unloaded(self, name: str) -> bool:
        """As `unload`; one that is being loaded is waited for first, which may take minutes."""
        if (loading := self._unpinned(name).loading) is not None:
            with suppress(Exception):  # whoever wants it is told
                await asyncio.shield(asyncio.wrap_future(loading))
        return await asyncio.to_thread(self.unload, name)

    async def close(self, seconds: float) -> bool:
        """Load nothing more; whether what is being loaded was there in time."""
        return await self._loads.close(seconds)

    def sweep(self) -> list[str]:
        """Unload what nobody has asked for lately. Returns the names."""
        if not self.idle_seconds:
            return []
        with self._lock:
            places = list(self._places.items())
        before = time.time() - self.idle_seconds
        idle = [
            name
            for name, place in places
            if place.shared is not None and not place.pinned and max(place.used, place.since) < before
        ]
        return [name for name in idle if self.unload(name)]

    def states(self) -> list[ModelState]:
        """What is told of every model."""
        with self._lock:
            places = list(self._places.items())
        return [_state(name, place) for name, place in places]

    def state(self, name: str) -> ModelState:
        """What is told of one.

        Raises:
            ModelNotFoundError: there is none of that name here.
        """
        with self._lock:
            name = name or next(iter(self._places), "")
            place = self._places.get(name)
        if place is None:
            raise _unknown(name, self.names)
        return _state(name, place)

    def loaded(self) -> dict[str, SharedEncoder]:
        """The models that are in memory, by name. Whoever looks does not count as a user."""
        with self._lock:
            return {name: place.shared for name, place in self._places.items() if place.shared is not None}

    def loading(self) -> list[str]:
        """Names of models that are being loaded for the first time."""
        with self._lock:
            return [n for n, place in self._places.items() if not place.ever and place.loading is not None]

    def _forget(self, name: str, place: _Place) -> None:
        """A name that only a request knew, and that is no model: whoever asks for many does not fill the list. The lock
        is held.
        """
        if not place.named and self._places.get(name) is place:
            del self._places[name]

    def _unpinned(self, name: str) -> _Place:
        with self._lock:
            place = self._places.get(name)
        if place is None:
            raise _unknown(name, self.names)
        if place.pinned:
            raise ModelInUseError(
                f"The index is searched with {name}.", hint="Models of the index stay in memory."
            )
        return place

    def _place(self, name: str) -> _Place:
        with self._lock:
            if not name and self._places:
                return next(iter(self._places.values()))
            if name in self._places:
                return self._places[name]
            if self.open_to_any and name and not _may_be_path(name):
                return self._places.setdefault(name, _Place(lambda: load(name), named=False))
            raise _unknown(name, self._places)


def _may_be_path(name: str) -> bool:
    """Whether a name could be read as a place on this machine, of which requests are told nothing."""
    parts = name.replace("\\", "/").split("/")
    return len(parts) > 2 or any(part[:1] in ("", ".", "~") for part in parts) or os.path.exists(name)


def _unknown(name: str, known: Iterable[str]) -> ModelNotFoundError:
    names = list(known)
    near = get_close_matches(name, names, 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return ModelNotFoundError(
        f"There is no model {name[:200]!r} here.",
        hint=f"{meant}Use one of: {', '.join(names) or 'none is served'}.",
    )


def _state(name: str, place: _Place) -> ModelState:
    shared = place.shared
    if shared is None:
        return ModelState(name, used=place.used)
    card, encoder = shared.card, shared.encoder
    return ModelState(
        name,
        loaded=True,
        since=place.since,
        used=place.used,
        modalities=tuple(
            kind for kind, tower in (("text", card.text), ("image", card.image)) if tower is not None
        ),
        dimensions=encoder.text.dimensions
        if card.text
        else encoder.image.dimensions(encoder.image.tower.output),
        max_tokens=card.text.rules.max_tokens if card.text else 0,
        space=card.space,
        prompts=tuple(name for name, _ in card.text.rules.prompts) if card.text else (),
        outputs=encoder.image.outputs if card.image else (),
        numerics=encoder.numerics(),
    )
