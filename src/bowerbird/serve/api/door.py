"""What every request passes first: an id, a key, caps on its body and its time, and what is noted of it afterwards.

A plain ASGI application around the others, since it is passed by every request. Of the API's requests it reads the
whole body before anything else is done with them, so that a slow sender holds up nothing but its own connection, and
it watches the connection meanwhile: when the client leaves, the request is cancelled and its inputs leave the queue.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from bowerbird.serve.api.errors import ApiError, error_of, response_of
from bowerbird.serve.encoders import Answer
from bowerbird.serve.limits import Limits

__all__ = ["Door", "Noted"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LOG = logging.getLogger("bowerbird.serve")

_ID = re.compile(r"[\w.:-]{1,64}")

WATCH_AFTER = 0.05
"""Seconds after which the connection is watched: most requests are done before."""


@dataclass
class Noted:
    """What is known of a request, for the log, the measures and the trace.

    Attributes:
        id: of the request.
        method: of HTTP.
        path: of its route, without what varies.
        began: on the clock of `time.perf_counter`.
        status: of the answer; 499 where the client had left.
        caller: name of its key, or its address.
        model: that it asked for.
        answer: what the model said, where it was asked.
        stages: seconds by stage.
    """

    id: str
    method: str
    path: str
    began: float
    status: int = 0
    caller: str = ""
    model: str = ""
    answer: Answer | None = None
    stages: dict[str, float] = field(default_factory=dict)

    def note(self, *, model: str = "", answer: Answer | None = None) -> None:
        """What the route knows of it."""
        self.model = model or self.model
        self.answer = answer or self.answer


class Door:
    """See the module.

    Args:
        app: what is behind it.
        limits: of the service.
    """

    def __init__(self, app: Any, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self._app(scope, receive, send)
            return
        noted = Noted(_id_of(scope), scope["method"], scope["path"], time.perf_counter())
        scope["bowerbird"] = noted
        begun = False

        async def reply(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                noted.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", noted.id.encode())]
            await send(message)

        try:
            body = await self._body(scope, receive)
            await self._watched(scope, body, receive, reply)
        except asyncio.CancelledError:
            noted.status = 499
        except Exception as error:  # noqa: BLE001  the last place to answer anything
            told = error_of(error)
            if told.status == 500:
                _LOG.exception("Request %s failed.", noted.id)
            if not begun:
                await response_of(told)(scope, receive, reply)

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """All of it, within its caps."""
        cap = self._limits.body_bytes
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > cap:
            raise _too_large(cap)
        pieces: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self._limits.body_seconds or None):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise asyncio.CancelledError
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > cap:
                        raise _too_large(cap)
                    pieces.append(piece)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(
                408,
                f"The body did not arrive within {self._limits.body_seconds:g} s.",
                code="timeout",
                headers={"Connection": "close"},
            ) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _watched(self, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        """Let it be answered; stop when the client leaves or the time is over."""
        given = False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        task = asyncio.current_task()
        assert task is not None
        watching: list[asyncio.Task[None]] = []

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            task.cancel()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(WATCH_AFTER, lambda: watching.append(loop.create_task(watch())))
        try:
            with anyio.fail_after(self._limits.request_seconds or None):
                await self._app(scope, replay, send)
        finally:
            timer.cancel()
            for one in watching:
                one.cancel()


def _id_of(scope: Message) -> str:
    """The client's own, if it is harmless to print; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(text := value.decode("latin-1")):
            return text
    return uuid.uuid4().hex


def _too_large(cap: int) -> ApiError:
    return ApiError(
        413,
        f"The body has more than the {cap:,} bytes that are taken. Send less at once.",
        code="body_too_large",
        headers={"Connection": "close"},
    )
