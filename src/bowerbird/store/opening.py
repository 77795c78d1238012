"""The table that belongs to a location: each kind of place has its own store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bowerbird.store.lance import LanceTable
from bowerbird.store.location import Location
from bowerbird.store.pinecone import PineconeTable
from bowerbird.store.pinecone_place import PineconePlace
from bowerbird.store.postgres import PostgresTable
from bowerbird.store.postgres_place import PostgresPlace
from bowerbird.store.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "records.lance"
"""Name of the Lance dataset in a directory or an object store."""


def create_table(location: Location, fields: pa.Schema) -> Table:
    """Make an empty table.

    Raises:
        StoreError: the place cannot be written to, or is full.
    """
    if isinstance(location, PostgresPlace):
        return PostgresTable.create(location.address, fields)
    if isinstance(location, PineconePlace):
        return PineconeTable.create(location, fields)
    return LanceTable.create(location.child(TABLE), fields)


def open_table(location: Location, version: int | None = None) -> Table:
    """Open a table at a version; None, or a store that keeps no versions: the newest.

    Raises:
        IndexDamagedError: it is not there, or cannot be read.
        StoreError: the store cannot be reached, or refuses.
    """
    if isinstance(location, PostgresPlace):
        return PostgresTable.open(location.address, version)
    if isinstance(location, PineconePlace):
        return PineconeTable.open(location, version)
    return LanceTable.open(location.child(TABLE), version)


def leftover(location: Location) -> int | None:
    """How many records lie at a place where no manifest says so; None: some, but they cannot be read.

    Raises:
        StoreError: the place may not be looked into, or cannot be reached.
    """
    if isinstance(location, PostgresPlace):
        return PostgresTable.leftover(location.address)
    if isinstance(location, PineconePlace):
        return PineconeTable.leftover(location)
    return LanceTable.leftover(location.child(TABLE))


def remove_table(location: Location) -> None:
    """Remove the table with all that is in it, whether it is there or not."""
    if isinstance(location, PostgresPlace):
        location.remove_table()
    elif isinstance(location, PineconePlace):
        PineconeTable.remove(location)
    else:
        location.remove(TABLE)
