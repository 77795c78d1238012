"""The stores that the contract test runs on: how a table of each kind is made. A new store adds itself to `STORES`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.flow.object_store import ObjectStore, serving

from bowerbird.store.filters import Column, Compare, Filter, Like
from bowerbird.store.lance import LanceTable
from bowerbird.store.location import Location
from bowerbird.store.opening import create_table, open_table
from bowerbird.store.postgres import PostgresTable
from bowerbird.store.table import Table


@dataclass(frozen=True)
class Store:
    """How a kind of table is made and opened.

    Attributes:
        kind: the class; says whether it has `snapshots` and `pieces`.
        create: makes an empty table at a place, with columns.
        open: opens a table at a place; second, a version, or None for the newest.
        place: a new place, where there is nothing.
        nowhere: a place where nothing can be made.
        files: whether tables are files below their place, which is used like a `Path`: those can be damaged.
        refuses: whether it cannot be asked for a condition, a filter without parts: it is a `QueryError`.
    """

    kind: type[Table]
    create: Callable[[Any, pa.Schema], Table]
    open: Callable[..., Table]
    place: Callable[[], Any]
    nowhere: Callable[[], Any]
    files: bool = False
    refuses: Callable[[Filter], bool] = lambda condition: False


@dataclass(frozen=True)
class Key:
    """As much of a `Path` as these tests use, in an object store."""

    store: ObjectStore
    name: str

    def __truediv__(self, name: str) -> Key:
        return Key(self.store, f"{self.name}/{name}")

    def __str__(self) -> str:
        return self.store.uri(self.name)

    def iterdir(self) -> list[Key]:
        return [Key(self.store, name) for name in self.store.names(self.name)]

    def read_bytes(self) -> bytes:
        return self.store.fs.cat_file(f"{self.store.bucket}/{self.name}")

    def write_bytes(self, data: bytes) -> None:
        self.store.put(self.name, data)

    def unlink(self) -> None:
        self.store.fs.rm_file(f"{self.store.bucket}/{self.name}")


@contextmanager
def local(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Lance in a directory."""
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")

    def nowhere() -> Path:
        (file := folders.mktemp("nowhere") / "file").write_text("x")
        return file / "t"

    yield Store(
        LanceTable,
        LanceTable.create,
        LanceTable.open,
        lambda: folders.mktemp("table") / "records.lance",
        nowhere,
        files=True,
    )


@contextmanager
def s3(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Lance in an object store."""
    with serving() as found:
        number = itertools.count()
        yield Store(
            LanceTable,
            lambda place, columns: LanceTable.create(str(place), columns),
            lambda place, version=None: LanceTable.open(str(place), version),
            lambda: Key(found, f"table{next(number)}/records.lance"),
            lambda: "s3://there-is-no-such-bucket/t",
            files=True,
        )


def _beyond_pinecone(condition: Filter) -> bool:
    if not isinstance(condition, Compare):
        return isinstance(condition, Like)
    ordered = isinstance(condition.value, str) and condition.operator not in ("=", "!=")
    return ordered or isinstance(condition.value, Column)


@contextmanager
def pinecone(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Pinecone, as a local server speaks for it."""
    pytest.importorskip("pinecone")
    from tests.store.pinecone_server import serving as serving_pinecone

    from bowerbird.store.pinecone import PineconeTable
    from bowerbird.store.pinecone_place import PineconePlace

    with serving_pinecone() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        number = itertools.count()
        yield Store(
            PineconeTable,
            PineconeTable.create,
            PineconeTable.open,
            lambda: PineconePlace.at(f"pinecone://{found.name}/t{next(number)}"),
            lambda: PineconePlace.at("pinecone://forbidden"),
            refuses=_beyond_pinecone,
        )


@contextmanager
def postgres(request: pytest.FixtureRequest) -> Iterator[Store]:
    """PostgreSQL with pgvector."""
    server = request.getfixturevalue("postgres_server")
    database, number = server.database(), itertools.count()

    def create(place: str, columns: pa.Schema) -> Table:
        location = Location.of(place)
        location.prepare()
        return create_table(location, columns)

    yield Store(
        PostgresTable,
        create,
        lambda place, version=None: open_table(Location.of(place), version),
        lambda: server.uri(database, table=f"records{next(number)}"),
        lambda: server.uri("there_is_no_such_database", table="t"),
    )


STORES = [local, pytest.param(s3, marks=pytest.mark.slow), pinecone, postgres]
"""Each is given the request of a fixture (for fixtures of its own: `request.getfixturevalue`)."""
