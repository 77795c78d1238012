"""Answers on their way out: with the headers that every one has, counted as long as nobody takes them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from bowerbird.serve.api.arriving import Arriving, Message, Receive, Send, thrown_away
from bowerbird.serve.api.errors import ApiError, response_of
from bowerbird.serve.api.memory import Account

__all__ = ["Reply", "refuse"]

LINGER = 2.0
"""Seconds that the rest of a refused body is read and thrown away: most clients read no answer before they have sent
all, and a connection that is closed while they send would lose them the answer."""

SMALL = 1 << 16
"""Bytes of a body that is read before its request is refused, so that the connection can be used again; and of an
answer that is not worth counting."""

_SAFE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
_HTML = ((b"content-security-policy", b"frame-ancestors 'self'"),)


class Reply:
    """The answer to one request.

    Args:
        send: as the server gives it.
        id_: of the request.
        account: of the request.

    Attributes:
        status: of HTTP; 0: it has not begun.
        extra: further headers.
        counted: whether what the server holds of it is counted.
    """

    __slots__ = ("_account", "_id", "_send", "counted", "extra", "status")

    def __init__(self, send: Send, id_: str, account: Account) -> None:
        self._send = send
        self._id = id_.encode()
        self._account = account
        self.status = 0
        self.extra: list[tuple[bytes, bytes]] = []
        self.counted = False

    async def send(self, message: Message) -> None:
        """Send a piece of it on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = dict(message["headers"])
            own = _SAFE + _HTML if given.get(b"content-type", b"").startswith(b"text/html") else _SAFE
            message["headers"] = [
                *message["headers"],
                *(pair for pair in own if pair[0] not in given),
                (b"x-request-id", self._id),
                *self.extra,
            ]
        size = len(message.get("body", b""))
        if not self.counted or size <= SMALL or message.get("more_body"):
            await self._send(message)
            return
        # Only before a further piece does the server wait for the client to take what there is; so long it is counted.
        self._account.hold(size)
        await self._send({**message, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def refuse(error: ApiError, scope: Message, receive: Receive, arriving: Arriving, reply: Reply) -> None:
    """Answer with an error, whatever of the body is still to come."""
    if arriving.complete:
        await response_of(error)(scope, receive, reply.send)
        return
    length = dict(scope["headers"]).get(b"content-length", b"")
    if error.status != 408 and length.isdigit() and int(length) <= SMALL:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(thrown_away(receive), LINGER)
            await response_of(error)(scope, receive, reply.send)
            return
    reply.extra.append((b"connection", b"close"))

    async def lingering(message: Message) -> None:
        """The whole answer, but its end, until the client has sent all or the time is over."""
        if message["type"] == "http.response.body":
            await reply.send({**message, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(thrown_away(receive), LINGER)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await reply.send(message)

    await response_of(error)(scope, receive, lingering)
