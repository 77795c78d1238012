"""Namespaces of Pinecone's: within the limits of one request, and writes that reads will see.

The limits are those of its documentation, "Database limits": 1,000 records or 2 MB for an upsert, 40 KB of metadata for
a record, 10,000 results for a query, 512 characters of ASCII for an id. Every call here may be made twice without harm.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bowerbird.errors import StoreError
from bowerbird.store.pinecone_service import Account

MOST_RESULTS = 10_000
MOST_METADATA = 40_000
"""Bytes of metadata for one record: below 40 KB, however that is counted."""

MOST_LISTED = 10_000
"""Values of one `$in` or `$nin`."""

_UPSERT_RECORDS = 1_000
_UPSERT_BYTES = 1_800_000
_FETCHED = 100
"""Ids of one fetch: they travel in the address of the request, and records of 40 KB have to fit into its answer."""

_PAGE = 100
_THREADS = 8
VISIBLE_SECONDS = 120.0
"""How long a commit waits until reads see what it has written."""

_UPDATED = 100_000
"""Records that one update by filter reaches."""

BARRIER = "barrier"
"""Id of a record that stands for nothing: its write comes after all earlier ones."""


@dataclass(frozen=True)
class Item:
    """A Pinecone record.

    Attributes:
        id: ASCII.
        metadata: strings, numbers, booleans, lists of strings.
        values: the vector; empty: one that means nothing.
    """

    id: str
    metadata: Mapping[str, Any]
    values: Sequence[float] = ()


class Space:
    """A namespace of an index.

    Args:
        account: that has it.
        index: its name.
        name: of the namespace.
        dimensions: of the index.
    """

    def __init__(self, account: Account, index: str, name: str, dimensions: int) -> None:
        self._account = account
        self._index = index
        self.name = name
        self._idle = [1.0, *[0.0] * (dimensions - 1)]
        self._written = False  # since `settle`

    def _client(self) -> Any:
        client = self._account.index(self._index)
        if client is None:
            raise StoreError(
                f"{self._account.place} is not there: there is no Pinecone index {self._index!r}.",
                hint="Check its name, and which project the key in PINECONE_API_KEY belongs to.",
            )
        return client

    def there(self) -> bool:
        """Whether its index exists."""
        return self._account.index(self._index) is not None

    def upsert(self, items: Iterable[Item]) -> None:
        """Write records; one of the same id is replaced."""
        client = self._client()
        with self._account.translated(writing=True):
            for batch in _batches(items, self._idle):
                client.upsert(vectors=batch, namespace=self.name)
                self._written = True

    def fetch(self, ids: Sequence[str]) -> dict[str, Any]:
        """Records by id, with `values` and `metadata`; those that there are."""
        client = self._client()
        blocks = [ids[start : start + _FETCHED] for start in range(0, len(ids), _FETCHED)]

        def one(block: Sequence[str]) -> dict[str, Any]:
            return dict(client.fetch(ids=list(block), namespace=self.name).vectors)

        with self._account.translated():
            if len(blocks) < 2:
                return one(blocks[0]) if blocks else {}
            with ThreadPoolExecutor(min(_THREADS, len(blocks))) as pool:
                return {id_: found for part in pool.map(one, blocks) for id_, found in part.items()}

    def matching(self, where: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Ids and metadata of all records that pass a filter, in the order of the ids."""
        client = self._client()
        from pinecone.errors import NotFoundError

        found: list[tuple[str, Mapping[str, Any]]] = []
        token = None
        with self._account.translated():
            while True:
                try:
                    page = client.fetch_by_metadata(
                        filter=where, namespace=self.name, limit=_PAGE, pagination_token=token
                    )
                except NotFoundError:
                    return []
                found += [(id_, record.metadata or {}) for id_, record in page.vectors.items()]
                token = page.pagination.next if page.pagination else None
                if not token:
                    return sorted(found)

    def nearest(self, vector: Sequence[float], k: int, where: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Ids and scores of the records with the largest dot products, as the service finds them."""
        client = self._client()
        with self._account.translated():
            found = client.query(vector=vector, top_k=k, namespace=self.name, filter=where)
            return [(match.id, match.score) for match in found.matches]

    def matches(self, where: Mapping[str, Any]) -> int:
        """How many records pass a filter; at most 100,000 are counted."""
        return self._update(where, {"to": 0}, dry_run=True)

    def mark(self, where: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Set some metadata of all records that pass a filter, which they must not do afterwards."""
        while self._update(where, metadata, dry_run=False) >= _UPDATED:
            self.settle()

    def _update(self, where: Mapping[str, Any], metadata: Mapping[str, Any], *, dry_run: bool) -> int:
        client = self._client()
        from pinecone.errors import NotFoundError

        with self._account.translated(writing=True):
            try:
                answer = client.update(
                    filter=where, set_metadata=metadata, namespace=self.name, dry_run=dry_run
                )
            except NotFoundError:
                return 0
            self._written |= not dry_run
            return answer.matched_records or 0

    def delete(self, *, ids: Sequence[str] = (), where: Mapping[str, Any] | None = None) -> None:
        """Delete records, by id or by a filter, whether there are any or not."""
        client = self._client()
        from pinecone.errors import NotFoundError

        with self._account.translated(writing=True):
            try:
                if where is not None:
                    client.delete(filter=where, namespace=self.name)
                for start in range(0, len(ids), _UPSERT_RECORDS):
                    client.delete(ids=list(ids[start : start + _UPSERT_RECORDS]), namespace=self.name)
            except NotFoundError:
                return

    def drop(self) -> None:
        """Remove the namespace with all that is in it, whether it is there or not."""
        client = self._account.index(self._index)
        if client is None:
            return
        from pinecone.errors import NotFoundError

        with self._account.translated(writing=True):
            try:
                client.delete_namespace(name=self.name)
            except NotFoundError:
                return

    def settle(self) -> None:
        """Wait until reads see what was written: Pinecone shows it later than it takes it.

        Raises:
            StoreError: that takes too long.
        """
        if self._written:
            self.barrier()

    def barrier(self) -> None:
        """Wait until reads see everything that was ever written here, also by processes that are gone.

        A record is written that stands for nothing, and comes after all that was before it. A query says how far it
        has come; a fetch does not, and may be behind queries, so it is asked for the record itself.

        Raises:
            StoreError: that takes too long.
        """
        client = self._client()
        stamp = uuid.uuid4().hex
        with self._account.translated(writing=True):
            one = {"id": BARRIER, "values": self._idle, "metadata": {"stamp": stamp}}
            told = client.upsert(vectors=[one], namespace=self.name).response_info
        target = told.lsn_committed
        searched = fetched = False
        for _ in pauses(f"{self._account.place} does not show what was written"):
            with self._account.translated():
                if not searched:
                    told = client.query(vector=self._idle, top_k=1, namespace=self.name).response_info
                    searched = target is None or told.lsn_reconciled is None or told.is_reconciled(target)
                if not fetched:
                    found = client.fetch(ids=[BARRIER], namespace=self.name).vectors.get(BARRIER)
                    fetched = found is not None and found.metadata["stamp"] == stamp
            if searched and fetched:
                break
        self._written = False


def pauses(message: str) -> Iterator[None]:
    """Growing pauses, to look again after each.

    Args:
        message: of the error, up to how long it took.

    Raises:
        StoreError: when it takes too long.
    """
    deadline, pause = time.monotonic() + VISIBLE_SECONDS, 0.02
    while True:
        yield
        if time.monotonic() > deadline:
            raise StoreError(
                f"{message} for {VISIBLE_SECONDS:g} seconds.",
                hint="What was committed before is kept. Run the same command again later.",
            )
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def size_of(metadata: Mapping[str, Any]) -> int:
    """Bytes that metadata takes as JSON."""
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def _batches(items: Iterable[Item], idle: Sequence[float]) -> Iterator[list[dict[str, Any]]]:
    """What the client is given at once, within the limits of one request."""
    batch: list[dict[str, Any]] = []
    taken = 0
    for item in items:
        one: dict[str, Any] = {"id": item.id, "values": list(item.values) or list(idle)}
        if item.metadata:
            one["metadata"] = dict(item.metadata)
        size = 100 + size_of(item.metadata) + 16 * len(one["values"])
        if batch and (len(batch) == _UPSERT_RECORDS or taken + size > _UPSERT_BYTES):
            yield batch
            batch, taken = [], 0
        batch.append(one)
        taken += size
    if batch:
        yield batch
