"""Pinecone's official client: connected when it is needed, its errors as ours.

The key comes from `PINECONE_API_KEY`, and another control plane than Pinecone's own from `PINECONE_CONTROLLER_HOST`;
the client reads both itself. It also tries a request four times, with growing pauses, where the service is busy (429),
fails (5xx) or cannot be reached.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from bowerbird.errors import (
    BowerbirdError,
    IndexReadOnlyError,
    MissingExtraError,
    StorageFullError,
    StoreError,
)

_READY_SECONDS = 300


class Account:
    """A project of Pinecone's, as far as the places of one name use it. Nothing is asked of it before it is needed.

    Args:
        place: what errors name.
        cloud: where new indexes are made.
        region: of that cloud.
    """

    @classmethod
    def of(cls, place: str, cloud: str, region: str) -> Account:
        """The one that a process has for a place, so that connections are made once."""
        return _account(place, cloud, region, os.getpid())

    def __init__(self, place: str, cloud: str, region: str) -> None:
        self.place = place
        self._where = {"deployment_type": "managed", "cloud": cloud, "region": region}
        self._found: Any = None
        self._open: dict[str, Any] = {}
        self._opened: list[Any] = []
        weakref.finalize(self, _close, self._opened)

    def _client(self) -> Any:
        if self._found is None:
            try:
                from pinecone import Pinecone
                from pinecone.errors import PineconeValueError, ValidationError
            except ImportError as error:
                raise MissingExtraError("pinecone", "pinecone") from error
            try:
                self._found = Pinecone(source_tag="bowerbird")
                self._opened.append(self._found)
            except (PineconeValueError, ValidationError) as error:
                raise StoreError(
                    f"{self.place} cannot be asked for: there is no usable API key.",
                    hint="Set PINECONE_API_KEY to a key of the project that holds it.",
                ) from error
        return self._found

    def index(self, name: str) -> Any:
        """The client of an index; None when there is no such index."""
        if name not in self._open:
            client = self._client()
            from pinecone.errors import NotFoundError

            with self.translated():
                try:
                    found = client.indexes.describe(name)
                except NotFoundError:
                    return None
                deadline = time.monotonic() + _READY_SECONDS
                while not found.status.ready:
                    if time.monotonic() > deadline:
                        raise StoreError(
                            f"{self.place} is not ready: the Pinecone index {name!r} is {found.status.state}.",
                            hint="Try again when the console of Pinecone calls it ready.",
                        )
                    time.sleep(1)
                    found = client.indexes.describe(name)
                self._open[name] = client.index(host=found.host)
                self._opened.append(self._open[name])
        return self._open[name]

    def make(self, name: str, dimensions: int) -> None:
        """Make an index, unless there is one; it compares with the dot product."""
        if self.index(name) is not None:
            return
        from pinecone.errors import ConflictError

        with self.translated(writing=True):
            try:
                self._client().indexes.create(
                    name=name,
                    dimension=dimensions,
                    metric="dotproduct",
                    deployment=self._where,
                    timeout=_READY_SECONDS,
                )
            except ConflictError:
                return  # Another process has made it.

    @contextmanager
    def translated(self, *, writing: bool = False) -> Iterator[None]:
        """Turn the client's errors into ours."""
        self._client()
        from pinecone.errors import PineconeError

        try:
            yield
        except BowerbirdError:
            raise
        except PineconeError as error:
            raise self._error(error, writing=writing) from error

    def _error(self, error: Any, *, writing: bool) -> StoreError:
        said = " ".join(str(error).split())[:300].rstrip(". ")
        status = getattr(error, "status_code", None)
        if status == 401:
            # The next request may find another key.
            self._found = None
            self._open.clear()
            return StoreError(
                f"{self.place} may not be used: Pinecone refuses the API key.",
                hint="Set PINECONE_API_KEY to a key of the project that holds it.",
            )
        if status in (402, 403) and any(
            sign in said.lower() for sign in ("quota", "max ", "limit", "storage")
        ):
            return StorageFullError(
                f"{self.place} cannot take more: {said}.",
                hint="Make room in the Pinecone project, or raise its plan; then run the same command again.",
            )
        if status == 403:
            kind = IndexReadOnlyError if writing else StoreError
            return kind(
                f"{self.place} may not be {'written to' if writing else 'read'}: {said}.",
                hint="Check what the key in PINECONE_API_KEY is allowed to do.",
            )
        if status == 429:
            return StoreError(f"{self.place} is busy: {said}.", hint="Try again in a minute.")
        if status is None or status >= 500:
            return StoreError(
                f"{self.place} cannot be reached: {said}.",
                hint="Check the network, and try again in a minute.",
            )
        return StoreError(f"{self.place} refused a request: {said}.")


@lru_cache(maxsize=32)
def _account(place: str, cloud: str, region: str, process: int) -> Account:
    return Account(place, cloud, region)


def _close(clients: Sequence[Any]) -> None:
    for client in clients:
        client.close()
