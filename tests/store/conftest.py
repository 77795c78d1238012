"""Servers that the tests of stores share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.store.postgres_server import Server, serving
from tests.store.stores import STORES, Store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A running PostgreSQL with pgvector; each test takes a database of its own."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module", params=STORES, ids=lambda factory: factory.__name__)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of store in turn."""
    with request.param(request) as made:
        yield made
