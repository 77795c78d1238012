"""What an ingress serves: the API, and the page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bowerbird.serve.api.app import build
from bowerbird.serve.cluster.plan import Deployed
from bowerbird.serve.keys import Keys
from bowerbird.serve.metrics import Metrics
from bowerbird.serve.service import Service

if TYPE_CHECKING:
    from bowerbird.serve.page.site import Page

__all__ = ["Front"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LOG = logging.getLogger("bowerbird.serve")


class Front:
    """The ASGI application of an ingress.

    Ids of requests are given by Serve's proxy, which also adds them to the answers, so here they are left out.

    Args:
        service: that answers.
        deployed: what was asked for.
    """

    def __init__(self, service: Service, deployed: Deployed) -> None:
        keys = Keys(text="\n".join(deployed.keys))
        self._door = build(
            service,
            fetch_urls=deployed.fetch_urls,
            show_paths=deployed.show_paths,
            keys=keys,
            cors=deployed.cors,
            hosts=deployed.hosts,
            metrics=Metrics(public=deployed.public_metrics),
        )
        self._page: Page | None = None
        self._starting: asyncio.Task[None] | None = None
        if deployed.page:
            from bowerbird.serve.page import mount

            self._page = mount(self._door.app, service, keys=keys, admission=self._door.admission)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"
                ]
            elif message["type"] == "lifespan.startup.complete":
                self._starting = asyncio.get_running_loop().create_task(self._show())
            elif message["type"] == "lifespan.shutdown.complete":
                await self._close()
            await send(message)

        await self._door(scope, receive, reply)

    async def _show(self) -> None:
        """Import what the page is made with, beside answering; it asks what the index is, and waits for that."""
        if self._page is None:
            return
        try:
            await self._page.start()
        except Exception as error:  # noqa: BLE001  the API goes on without it
            _LOG.warning("There is no page: %s", error)

    async def _close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._page is not None:
            with suppress(Exception):  # nobody looks at it any more
                await self._page.close()
