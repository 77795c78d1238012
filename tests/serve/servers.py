"""Real servers for tests: uvicorn on a port that the system chooses, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn

from bowerbird.serve.api.app import build
from bowerbird.serve.limits import Limits
from bowerbird.serve.protocol import connection
from bowerbird.serve.service import Service

SECONDS = 30
"""How long anything may take here before it counts as never."""


@contextmanager
def serving(app: Any, limits: Limits | None = None) -> Iterator[str]:
    """An ASGI application at an address, behind the connections of `bowerbird serve`."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=connection(limits or Limits()),
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_graceful_shutdown=SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        # The socket listens already: who comes before the server does waits for it.
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server does not stop"


@contextmanager
def served(service: Service, **options: Any) -> Iterator[httpx2.Client]:
    """A client of a service behind a real server; the service is closed in the end."""
    try:
        with (
            serving(build(service, **options), service.limits) as address,
            httpx2.Client(base_url=address, timeout=SECONDS) as client,
        ):
            yield client
    finally:
        asyncio.run(service.close())
