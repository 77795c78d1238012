"""`Service`: what a service can do, whatever door it is asked through and wherever the work is done.

The HTTP API and the page are written against it. `bowerbird.serve.service` has the one that does everything in its own
process, `bowerbird.serve.cluster` the one that asks deployments on Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bowerbird.errors import BowerbirdError
from bowerbird.hits import Hits
from bowerbird.models.crossencoder import Judgement
from bowerbird.models.vision.tower import Input
from bowerbird.record import Record
from bowerbird.serve.additions import Added
from bowerbird.serve.asking import Ask
from bowerbird.serve.encoders import Answer, Prepared
from bowerbird.serve.limits import Limits
from bowerbird.serve.listing import Page, Stored
from bowerbird.serve.models import ModelState

__all__ = ["Facts", "NoIndexError", "NotServedError", "ReadOnlyError", "Readiness", "Service"]


class NotServedError(BowerbirdError):
    """The service does not do this."""


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

    async def preview(self, id_: str, side: int) -> bytes | None:
        """A JPEG of a record's picture of at most so many pixels a side, one of `previews.SIDES`: of the original where
        that can be had, else the thumbnail; None when there is neither.
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
