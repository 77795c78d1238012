"""What an ingress serves: the API, and the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bowerbird.serve.api.app import build
from bowerbird.serve.cluster.plan import Deployed
from bowerbird.serve.keys import Keys
from bowerbird.serve.service import Service

__all__ = ["front"]

Message = MutableMapping[str, Any]


def front(service: Service, deployed: Deployed) -> Any:
    """The ASGI application of an ingress.

    Args:
        service: that answers.
        deployed: what was asked for.
    """
    app = build(
        service,
        fetch_urls=deployed.fetch_urls,
        show_paths=deployed.show_paths,
        keys=Keys(text="\n".join(deployed.keys)),
        hosts=deployed.hosts,
    )
    return _Numbered(app)


class _Numbered:
    """Leaves out the header with the id of the request: Serve's proxy has given it, and adds it itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    pair for pair in message.get("headers", ()) if pair[0] != b"x-request-id"
                ]
            await send(message)

        await self._app(scope, receive, reply)
