"""Bodies of requests as they arrive: within their caps in bytes and time, whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bowerbird.serve.api.errors import ApiError
from bowerbird.serve.api.memory import Account
from bowerbird.serve.limits import Limits

__all__ = ["Arriving", "Deadline", "Message", "Receive", "Send", "thrown_away", "too_large"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Deadline:
    """Ends a task after some time, as `anyio.fail_after` does, at a tenth of its cost; 0 seconds: never.

    Attributes:
        over: whether it did.
    """

    __slots__ = ("_handle", "_task", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], seconds: float) -> None:
        self.over = False
        self._task = task
        self._handle = loop.call_later(seconds, self._end) if seconds else None

    def _end(self) -> None:
        self.over = True
        self._task.cancel()

    def lift(self) -> None:
        """It is not wanted any more."""
        if self._handle is not None:
            self._handle.cancel()

    def caught(self) -> None:
        """The cancelling was its own, and is over; Python 3.10 does not count them."""
        if hasattr(self._task, "uncancel"):
            self._task.uncancel()


class Arriving:
    """The body of one request.

    Args:
        receive: as the server gives it.
        limits: of the service.
        account: of the request.

    Attributes:
        complete: whether all of it is here.
        left: whether its client is gone.
    """

    __slots__ = ("_account", "_limits", "_receive", "complete", "left")

    def __init__(self, receive: Receive, limits: Limits, account: Account, *, complete: bool) -> None:
        self._receive = receive
        self._limits = limits
        self._account = account
        self.complete = complete
        self.left = False

    async def whole(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> bytes:
        """All of it.

        Raises:
            ApiError: 408, 413 or 503: it takes too long, is too large, or there is no room for it.
            CancelledError: its client is gone.
        """
        deadline = Deadline(loop, task, self._limits.body_seconds)
        pieces: list[bytes] = []
        try:
            while not self.complete:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.left = True
                    raise asyncio.CancelledError
                piece = message.get("body", b"")
                self._account.hold(len(piece))
                if self._account.held > self._limits.body_bytes:
                    raise too_large(self._limits.body_bytes)
                self._account.check()
                pieces.append(piece)
                self.complete = not message.get("more_body")
        except asyncio.CancelledError:
            if not deadline.over:
                raise
            deadline.caught()
            raise _too_late(self._limits.body_seconds) from None
        finally:
            deadline.lift()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def capped(self) -> Receive:
        """For what reads bodies by itself: the caps of one body hold there too."""
        size = 0
        ends = asyncio.get_running_loop().time() + self._limits.body_seconds

        async def counted() -> Message:
            nonlocal size
            if self.complete or not self._limits.body_seconds:
                message = await self._receive()
            else:
                left = ends - asyncio.get_running_loop().time()
                try:
                    message = await asyncio.wait_for(self._receive(), max(left, 0.0))
                except asyncio.TimeoutError:
                    raise _too_late(self._limits.body_seconds) from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                self.complete = not message.get("more_body")
                if size > self._limits.body_bytes:
                    raise too_large(self._limits.body_bytes)
            return message

        return counted


async def thrown_away(receive: Receive) -> None:
    """The rest of a body."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


def too_large(cap: int) -> ApiError:
    """The error of a body beyond its cap."""
    return ApiError(
        413,
        f"The body has more than the {cap:,} bytes that are taken. Send less at once.",
        code="body_too_large",
    )


def _too_late(seconds: float) -> ApiError:
    return ApiError(408, f"The body did not arrive within {seconds:g} s.", code="timeout")
