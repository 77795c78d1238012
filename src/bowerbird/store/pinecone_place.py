"""An index in Pinecone: `pinecone://NAME`, small files as records, and a lock on this machine.

`NAME` is a Pinecone index of two dimensions that holds everything but vectors; those lie in indexes `NAME-384` and so
on, one for each number of dimensions. `pinecone://NAME/OTHER` keeps another index of ours in the same ones, apart by
namespaces. `?cloud=aws&region=us-east-1` says where Pinecone makes them.

A file is one record, or, above `PIECE` bytes, several and one that names them, written last: readers see the old
bytes or the new ones. Pinecone knows no compare-and-swap, so the lock is a file on this machine: all who write to one
index have to do so from one machine.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from bowerbird.errors import StoreError
from bowerbird.settings import settings
from bowerbird.store.location import Held, Location, busy, writable
from bowerbird.store.pinecone_service import Account
from bowerbird.store.pinecone_space import Item, Space, pauses

SCHEME = "pinecone"
FLAT = 2
"""Dimensions of the index that holds everything but vectors: Pinecone has no records without a vector."""

PIECE = 27_000
"""Bytes of a file in one record: 36,000 characters of base64, of 40 KB that there is room for."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,37}[a-z0-9])?")
_PART = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_DEFAULT = "bowerbird"
_CLOUD = {"cloud": "aws", "region": "us-east-1"}


@dataclass(frozen=True)
class PineconePlace(Location):
    """A place in a Pinecone project.

    Attributes:
        name: of the Pinecone index for everything but vectors, and what the names of the others begin with.
        part: what the names of all namespaces begin with.
        cloud: where Pinecone makes new indexes.
        region: of that cloud.
    """

    name: str
    part: str = _DEFAULT
    cloud: str = _CLOUD["cloud"]
    region: str = _CLOUD["region"]
    account: Account = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        account = Account.of(f"{SCHEME}://{self.name}", self.cloud, self.region)
        object.__setattr__(self, "account", account)

    def __reduce__(self) -> tuple[object, ...]:
        # Connections stay in the process that has made them.
        return (PineconePlace, (self.name, self.part, self.cloud, self.region))

    @classmethod
    def at(cls, uri: str) -> PineconePlace:
        """The place of an address.

        Raises:
            StoreError: there can be no index of that name.
        """
        parts = urlsplit(uri)
        part = parts.path.strip("/") or _DEFAULT
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(asked) - set(_CLOUD))
        if not _NAME.fullmatch(parts.netloc) or not _PART.fullmatch(part) or unknown or parts.fragment:
            raise StoreError(
                f"{uri} cannot hold an index.",
                hint="Write pinecone://NAME, pinecone://NAME/PART or pinecone://NAME?cloud=aws&region=us-east-1, where "
                "NAME has at most 39 small letters, digits and hyphens.",
            )
        return cls(parts.netloc, part, **{**_CLOUD, **asked})

    def __str__(self) -> str:
        part = "" if self.part == _DEFAULT else f"/{self.part}"
        where = {"cloud": self.cloud, "region": self.region}
        return f"{SCHEME}://{self.name}{part}{'' if where == _CLOUD else '?' + urlencode(where)}"

    def space(self, name: str, dimensions: int = 0) -> Space:
        """One of its namespaces.

        Args:
            name: which.
            dimensions: of the vectors in it; 0 for one without vectors.
        """
        return Space(self.account, self.index(dimensions), f"{self.part}.{name}", dimensions or FLAT)

    def index(self, dimensions: int) -> str:
        """The name of the Pinecone index for vectors of some length; 0: for everything else."""
        return f"{self.name}-{dimensions}" if dimensions else self.name

    def child(self, name: str) -> str:
        """See `Location`."""
        return f"{SCHEME}://{self.name}/{self.part}/{name}"

    @property
    def _files(self) -> Files:
        return Files(self, "files")

    def exists(self, name: str) -> bool:
        """See `Location`."""
        return self._files.head(name) is not None

    def read_bytes(self, name: str) -> bytes | None:
        """See `Location`."""
        return self._files.read(name)

    def replace(self, name: str, data: bytes) -> None:
        """See `Location`."""
        self._files.write(name, data)

    def remove(self, name: str) -> None:
        """See `Location`."""
        self._files.remove(name)

    def names(self) -> list[str]:
        """See `Location`."""
        return self._files.names()

    def prepare(self) -> None:
        """See `Location`. Pinecone takes some seconds to make an index."""
        self.account.make(self.name, FLAT)

    @contextmanager
    def lock(self, seconds: float) -> Iterator[Held]:
        """See `Location`, and the module: it holds for this machine."""
        from filelock import FileLock, Timeout

        folder = settings().data_path / "locks"
        digest = hashlib.sha256(self.child("").encode()).hexdigest()[:16]
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{SCHEME}-{self.name}-{digest}.lock")
            try:
                lock.acquire(timeout=seconds)
            except Timeout as error:
                raise busy(self, seconds) from error
        try:
            yield Held()
        finally:
            lock.release()


class Files:
    """Small files in a namespace, replaced whole.

    The record that stands for a file holds its name, a `stamp` of its own for each time it was written, and the bytes
    as base64, or the number of `pieces` that lie beside it, with ids made of its own and the stamp. The pieces of the
    version before are kept for readers that have just begun with it.

    Args:
        place: that has them.
        name: of the namespace.
    """

    def __init__(self, place: PineconePlace, name: str) -> None:
        self._place = place
        self._space = place.space(name)

    def head(self, name: str) -> dict[str, Any] | None:
        """What the record of a file says; None where there is none."""
        if not self._space.there():
            return None
        found = self._space.fetch([_id(name)])
        return dict(found[_id(name)].metadata or {}) if found else None

    def read(self, name: str) -> bytes | None:
        """What a file holds; None when there is none."""
        for _ in range(5):
            head = self.head(name)
            if head is None or not head["pieces"]:
                return None if head is None else base64.b64decode(head["data"])
            ids = _pieces(name, head)
            found = self._space.fetch(ids)
            if len(found) == len(ids):  # else somebody has replaced it twice meanwhile
                return base64.b64decode("".join(found[id_].metadata["data"] for id_ in ids))
        raise StoreError(f"{self._place.child(name)} is being replaced all the time.", hint="Try again.")

    def write(self, name: str, data: bytes) -> None:
        """Replace a file; when this returns, everybody reads the new bytes."""
        before = self.head(name)
        stamp = uuid.uuid4().hex[:16]
        head: dict[str, Any] = {
            "file": name,
            "stamp": stamp,
            "pieces": 0,
            "data": "",
            "before": "",
            "several": 0,
        }
        if len(data) <= PIECE:
            head["data"] = base64.b64encode(data).decode()
        else:
            # Whole threes of bytes, so that the parts of the base64 can be put together.
            parts = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
            head["pieces"] = len(parts)
            items = zip(_pieces(name, head), parts, strict=True)
            self._space.upsert([Item(id_, {"data": base64.b64encode(part).decode()}) for id_, part in items])
            self._space.settle()
        if before:
            head |= {"before": before["stamp"], "several": before["pieces"]}
        self._space.upsert([Item(_id(name), head)])
        self._await(name, stamp)
        if before and before["several"]:
            self._space.delete(ids=_pieces(name, {"stamp": before["before"], "pieces": before["several"]}))

    def remove(self, name: str) -> None:
        """Remove a file, whether it is there or not."""
        head = self.head(name)
        if head is not None:
            old = {"stamp": head["before"], "pieces": head["several"]}
            self._space.delete(ids=[_id(name), *_pieces(name, head), *_pieces(name, old)])
            self._await(name, "")

    def names(self) -> list[str]:
        """The files there are, sorted."""
        if not self._space.there():
            return []
        return sorted(str(head["file"]) for _, head in self._space.matching({"file": {"$exists": True}}))

    def _await(self, name: str, stamp: str) -> None:
        """Wait until readers see what was written under a stamp; empty: that there is no file."""
        for _ in pauses(f"{self._place.child(name)} does not show what was written"):
            head = self.head(name)
            if (head["stamp"] if head else "") == stamp:
                return


def _id(name: str) -> str:
    return "f-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _pieces(name: str, head: dict[str, Any]) -> list[str]:
    return [f"{_id(name)}-{head['stamp']}-{number}" for number in range(int(head["pieces"]))]
