"""The cross-encoders of a service: loaded when they are asked for, like its models."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bowerbird.errors import ModelNotFoundError
from bowerbird.models.crossencoder import CrossEncoder, Judgement
from bowerbird.serve.models import ModelState

__all__ = ["Rerankers"]

TOGETHER = 128
"""Texts that are judged at once: after so many it is seen whether anybody still waits."""


@dataclass(eq=False)
class _Place:
    """One name, and the cross-encoder when it is there."""

    source: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    model: CrossEncoder | None = None
    since: float = 0.0
    used: float = 0.0


class Rerankers:
    """Which cross-encoders a service has, by the names that requests call them. Safe to use from any thread.

    Args:
        models: names as `CrossEncoder.load` takes them, or (name, source) pairs.
        idle_seconds: after which one that nobody asks is unloaded; 0: never.
    """

    def __init__(self, models: Sequence[str | tuple[str, str]] = (), *, idle_seconds: float = 0.0) -> None:
        pairs = [(one, one) if isinstance(one, str) else one for one in models]
        self.idle_seconds = idle_seconds
        self._places = {name: _Place(source or name) for name, source in pairs}

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may ask for, the first being the default."""
        return tuple(self._places)

    def get(self, name: str = "") -> CrossEncoder:
        """The cross-encoder of a name, loaded now if it was not.

        Raises:
            ModelNotFoundError: there is none of that name here.
            ModelError: it cannot be loaded.
        """
        place = self._place(name)
        with place.lock:
            place.used = time.time()
            if place.model is None:
                place.model = CrossEncoder.load(place.source)
                place.since = time.time()
            return place.model

    def judged(
        self, name: str, query: str, documents: Sequence[str], left: threading.Event
    ) -> list[Judgement]:
        """How well each document answers a question, in order; of who has left, only those judged until then.

        Raises:
            ModelNotFoundError: there is none of that name here.
            ModelError: it cannot be loaded, or fails.
        """
        model = self.get(name)
        found: list[Judgement] = []
        for start in range(0, len(documents), TOGETHER):
            if left.is_set():
                break
            few = model.outcomes((query, document) for document in documents[start : start + TOGETHER])
            found += (replace(one, index=start + one.index) for one in few)
        return found

    def unload(self, name: str) -> bool:
        """Take one out of memory; requests that have begun with it are finished. Whether it was there.

        Raises:
            ModelNotFoundError: there is none of that name here.
        """
        place = self._place(name)
        with place.lock:
            was, place.model, place.since = place.model, None, 0.0
        return was is not None

    def sweep(self) -> list[str]:
        """Unload what nobody has asked for lately. Returns the names."""
        before = time.time() - self.idle_seconds
        idle = [
            name
            for name, place in self._places.items()
            if self.idle_seconds and place.model is not None and place.used < before
        ]
        return [name for name in idle if self.unload(name)]

    def states(self) -> list[ModelState]:
        """What is told of every one."""
        return [self.state(name) for name in self._places]

    def state(self, name: str) -> ModelState:
        """What is told of one.

        Raises:
            ModelNotFoundError: there is none of that name here.
        """
        place = self._place(name)
        model = place.model
        return ModelState(
            name or self.names[0],
            kind="reranker",
            loaded=model is not None,
            since=place.since,
            used=place.used,
            modalities=("text",),
            max_tokens=model.card.rules.max_tokens if model else 0,
            space=model.space if model else "",
        )

    def _place(self, name: str) -> _Place:
        name = name or next(iter(self._places), "")
        if name in self._places:
            return self._places[name]
        raise ModelNotFoundError(
            f"There is no cross-encoder {name!r} here." if name else "No cross-encoder is served.",
            hint=f"Use one of: {', '.join(self._places)}."
            if self._places
            else "Start the service with --reranker MODEL.",
        )
