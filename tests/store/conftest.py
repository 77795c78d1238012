"""The stores that tests of all of them run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.store.stores import STORES, Store


@pytest.fixture(scope="module", params=STORES, ids=lambda factory: factory.__name__)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each kind of store in turn."""
    with request.param(request) as made:
        yield made
