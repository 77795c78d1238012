"""Drawings of the index (map, gap, health): made when somebody looks at them, and again when the index has changed."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from bowerbird.errors import BowerbirdError
from bowerbird.serve.page.pages import note, working
from bowerbird.serve.service import Service

__all__ = ["Drawings"]

_LOG = logging.getLogger("bowerbird.serve")

KEPT = 12
"""Drawings that are kept; a map of 1,000 pictures has some 4 MB."""

SOON = 1.0
"""Seconds that a drawing may take before a page says that it is being made."""

RESTS = 10.0
"""Seconds that a drawing is shown, also where the index has changed meanwhile: of one that changes all the time, none
would ever be ready.
"""


@dataclass
class _Drawing:
    """One of them: the version of the index that it is of, and when (monotonic) it was ready."""

    version: int
    task: asyncio.Task[str]
    ready: float = math.inf

    def __post_init__(self) -> None:
        self.task.add_done_callback(self._done)

    def _done(self, _: asyncio.Task[str]) -> None:
        self.ready = time.monotonic()


class Drawings:
    """Pages about the index, made anew when it has changed.

    Args:
        service: that draws them.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: OrderedDict[tuple[str, str, str], _Drawing] = OrderedDict()

    async def page(self, kind: str, model: str = "", colour: str = "") -> str:
        """A drawing (HTML); or a page that says that it is being made, and asks again.

        Raises:
            NotServedError: there is no index.
        """
        facts = await self._service.facts()
        version = facts.version if facts else 0
        key = (kind, model, colour)
        made = self._made.get(key)
        if made is None or (made.version != version and made.ready + RESTS < time.monotonic()):
            drawing = asyncio.create_task(self._draw(kind, model, colour))
            made = self._made[key] = _Drawing(version, drawing)
        self._made.move_to_end(key)
        while len(self._made) > KEPT:
            _, oldest = self._made.popitem(last=False)
            oldest.task.cancel()
        task = made.task
        done, _ = await asyncio.wait([task], timeout=SOON)
        if not done:
            return working(kind)
        if task.cancelled() or task.exception() is not None:
            self._made.pop(key, None)
            return _why(task)
        return task.result()

    async def _draw(self, kind: str, model: str, colour: str) -> str:
        return await self._service.report(kind, model=model, colour=colour)

    def stop(self) -> None:
        """Draw no more."""
        for made in self._made.values():
            made.task.cancel()
        self._made.clear()


def _why(task: asyncio.Task[str]) -> str:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, BowerbirdError):
        return note("Nothing to draw", error.message, error.hint or "")
    if error is not None:
        _LOG.error("A drawing failed.", exc_info=error)
    return note("Nothing to draw", "Something went wrong here; the log has the details.", "")
