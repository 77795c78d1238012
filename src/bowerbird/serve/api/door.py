"""What every request passes first: an id, a key, caps on its body and its time, and what is noted of it afterwards.

A plain ASGI application around the others, since it is passed by every request. Of the API's requests it reads the
whole body before anything else is done with them, so that a slow sender holds up nothing but its own connection, and
it watches the connection meanwhile: when the client leaves, the request is cancelled and its inputs leave the queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bowerbird.serve.api.admission import Admission
from bowerbird.serve.api.errors import ApiError, error_of, response_of
from bowerbird.serve.encoders import Answer
from bowerbird.serve.keys import Allowance, Keys
from bowerbird.serve.limits import Limits

__all__ = ["Door", "Noted"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Endpoint = Callable[[Request], Awaitable[Response]]

_LOG = logging.getLogger("bowerbird.serve")

_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,64}")

WATCH_AFTER = 0.05
"""Seconds after which the connection is watched: most requests are done before."""

LINGER = 2.0
"""Seconds that the rest of a refused body is read and thrown away: most clients read no answer before they have sent
all, and a connection that is closed while they send would lose them the answer."""

SMALL = 1 << 16
"""Bytes of a body that is read before its request is refused, so that the connection can be used again."""

_SAFE = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
_HTML = ((b"content-security-policy", b"frame-ancestors 'self'"),)


@dataclass
class Noted:
    """What is known of a request, for the log, the measures and the trace.

    Attributes:
        id: of the request.
        method: of HTTP.
        path: of its route, without what varies; empty: there is no such route, or it was refused before.
        began: on the clock of `time.perf_counter`.
        status: of the answer; 499 where the client had left.
        caller: name of its key, or its address.
        model: that it asked for.
        answer: what the model said, where it was asked.
        stages: seconds by stage.
        code: of the error that it was answered with, such as `overloaded`; empty: none.
        traceparent: of W3C, as the client gave it; empty: none.
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
    code: str = ""
    traceparent: str = ""

    def note(self, *, model: str = "", answer: Answer | None = None) -> None:
        """What the route knows of it."""
        self.model = model or self.model
        self.answer = answer or self.answer


class _Deadline:
    """Ends a task after some time, as `anyio.fail_after` does, at a tenth of its cost; 0 seconds: never."""

    __slots__ = ("_handle", "_task", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], seconds: float) -> None:
        self.over = False
        self._task = task
        self._handle = loop.call_later(seconds, self.end) if seconds else None

    def end(self) -> None:
        self.over = True
        self._task.cancel()

    def lift(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class _Passing:
    """One request on its way through the door."""

    __slots__ = ("allowance", "begun", "complete", "extra", "held", "hold", "left", "noted", "send")

    def __init__(self, noted: Noted, send: Send) -> None:
        self.noted = noted
        self.send = send
        self.allowance: Allowance | None = None
        self.extra: list[tuple[bytes, bytes]] = []
        self.begun = False  # its answer
        self.complete = False  # its body
        self.held = 0
        self.hold: Callable[[int], None] | None = None  # counts what its answer holds, too
        self.left = False  # its client

    async def reply(self, message: Message) -> None:
        """Send on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.begun = True
            self.noted.status = message["status"]
            headers = [
                *message["headers"],
                *_SAFE,
                (b"x-request-id", self.noted.id.encode()),
                *self.extra,
            ]
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                headers += _HTML
            message["headers"] = headers
        size = len(message.get("body", b""))
        if self.hold is None or size <= SMALL or message.get("more_body"):
            await self.send(message)
            return
        # Only before a further piece does the server wait for the client to take what there is; so long it is counted.
        self.hold(size)
        await self.send({**message, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class Door:
    """See the module.

    Args:
        app: what is behind it.
        limits: of the service.
        keys: that requests must show; none: everybody may ask.
        observers: told about every request when it is over.
        cors: origins whose pages may ask; `*`: any.
        hosts: names that requests may know this machine by; none: any. Where no key is wanted, this is what keeps
            pages of others, whose name was made to point here, from asking.
        direct: endpoints by method and path that are asked without the application around them, whose layers would
            take longer than they do; forms are left to it.
        free: paths that need no key, beside those of health.

    Attributes:
        app: what is behind it.
        admission: decides who may come in.
        open: requests that are being answered.
    """

    def __init__(
        self,
        app: Any,
        limits: Limits,
        *,
        keys: Keys | None = None,
        observers: Sequence[Callable[[Noted], None]] = (),
        cors: Sequence[str] = (),
        hosts: Sequence[str] = (),
        direct: Mapping[tuple[str, str], Endpoint] | None = None,
        free: Sequence[str] = (),
    ) -> None:
        self.app = app
        self._direct = dict(direct or {})
        self._limits = limits
        self._observers = tuple(observers)
        self.admission = Admission(limits, keys, cors=cors, hosts=hosts, free=free)
        self._held = 0
        self.open = 0
        self._entry: Any = self._through
        if cors:
            from starlette.middleware.cors import CORSMiddleware

            self._entry = CORSMiddleware(
                self._through,
                allow_origins=list(cors),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                expose_headers=["x-request-id", "retry-after"],
            )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._entry(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here speaks it
        else:
            await self.app(scope, receive, send)

    async def _through(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        id_ = headers.get(b"x-request-id", b"")
        noted = Noted(
            id_.decode() if _ID.fullmatch(id_) else f"{random.getrandbits(128):032x}",
            scope["method"],
            "",
            time.perf_counter(),
        )
        if traceparent := headers.get(b"traceparent"):
            noted.traceparent = traceparent.decode("latin-1")
        scope["bowerbird"] = noted
        self.open += 1
        passing = _Passing(noted, send)
        try:
            await self._answered(scope, headers, receive, passing)
        except asyncio.CancelledError:
            if not passing.left:
                # The server is told to stop, and this one has outlasted the time it was given.
                stopping = ApiError(503, "The service is stopping.", "server_error", "stopping")
                await self._told(stopping, scope, receive, passing)
        except Exception as error:  # noqa: BLE001  the last place to answer anything
            await self._told(error, scope, receive, passing)
        finally:
            self.open -= 1
            self._held -= passing.held
            if passing.allowance is not None:
                self.admission.allowances.leave(passing.allowance)
            self._note(scope, passing)

    async def _answered(
        self, scope: Message, headers: Mapping[bytes, bytes], receive: Receive, passing: _Passing
    ) -> None:
        passing.complete = b"content-length" not in headers and b"transfer-encoding" not in headers
        self.admission.check(scope, headers, passing)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        if not scope["path"].startswith("/v1"):
            await self.app(scope, self._capped(receive, passing), passing.reply)
            return
        if self._held > self._limits.bodies_bytes:
            raise _full()
        passing.hold = partial(self._hold, passing)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        body = b"" if passing.complete else await self._body(receive, passing, loop, task)
        await self._watched(scope, body, receive, passing, loop, task)

    # The body

    async def _body(
        self,
        receive: Receive,
        passing: _Passing,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[Any],
    ) -> bytes:
        """All of it, within its caps."""
        deadline = _Deadline(loop, task, self._limits.body_seconds)
        pieces: list[bytes] = []
        try:
            while not passing.complete:
                pieces.append(await self._piece(receive, passing))
        except asyncio.CancelledError:
            if not deadline.over:
                raise
            _uncancel(task)
            raise ApiError(
                408,
                f"The body did not arrive within {self._limits.body_seconds:g} s.",
                code="timeout",
            ) from None
        finally:
            deadline.lift()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _piece(self, receive: Receive, passing: _Passing) -> bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            passing.left = True
            raise asyncio.CancelledError
        piece: bytes = message.get("body", b"")
        self._hold(passing, len(piece))
        if passing.held > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        if self._held > self._limits.bodies_bytes and self._held > passing.held:
            raise _full()
        passing.complete = not message.get("more_body")
        return piece

    def _hold(self, passing: _Passing, size: int) -> None:
        passing.held += size
        self._held += size

    def _capped(self, receive: Receive, passing: _Passing) -> Receive:
        """For what reads bodies by itself: the cap holds there too."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                passing.complete = not message.get("more_body")
                if size > self._limits.body_bytes:
                    raise _too_large(self._limits.body_bytes)
            return message

        return counted

    # The answer

    async def _watched(
        self,
        scope: Message,
        body: bytes,
        receive: Receive,
        passing: _Passing,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[Any],
    ) -> None:
        """Let it be answered; stop when the client leaves or the time is over."""
        given = False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        watching: list[asyncio.Task[None]] = []

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not passing.begun:
                passing.left = True
                task.cancel()

        timer = loop.call_later(WATCH_AFTER, lambda: watching.append(loop.create_task(watch())))
        deadline = _Deadline(loop, task, self._limits.request_seconds)
        try:
            await self._asked(scope, replay, passing)
        except asyncio.CancelledError:
            if passing.left or not deadline.over:
                raise
            _uncancel(task)
            raise TimeoutError from None
        finally:
            timer.cancel()
            deadline.lift()
            for one in watching:
                one.cancel()

    async def _asked(self, scope: Message, receive: Receive, passing: _Passing) -> None:
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if (
            endpoint is None
            or scope["query_string"]
            or any(
                name == b"content-type" and kind[:10].lower() == b"multipart/"
                for name, kind in scope["headers"]
            )
        ):
            await self.app(scope, receive, passing.reply)
            return
        passing.noted.path = scope["path"]
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, passing.reply)

    async def _told(self, error: Exception, scope: Message, receive: Receive, passing: _Passing) -> None:
        """Answer with an error, if nothing was answered yet."""
        told = error_of(error)
        passing.noted.code = told.code
        if told.status == 500:
            _LOG.error("Request %s failed.", passing.noted.id, exc_info=error)
        if passing.begun:
            return  # the server closes the connection, so that half an answer is not taken for one
        if passing.complete:
            await response_of(told)(scope, receive, passing.reply)
            return
        length = dict(scope["headers"]).get(b"content-length", b"")
        if told.status != 408 and length.isdigit() and int(length) <= SMALL:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_thrown_away(receive), LINGER)
                await response_of(told)(scope, receive, passing.reply)
                return
        passing.extra.append((b"connection", b"close"))

        async def lingering(message: Message) -> None:
            """The whole answer, but its end, until the client has sent all or the time is over."""
            if message["type"] == "http.response.body":
                await passing.reply({**message, "more_body": True})
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_thrown_away(receive), LINGER)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await passing.reply(message)

        await response_of(told)(scope, receive, lingering)

    def _note(self, scope: Message, passing: _Passing) -> None:
        noted = passing.noted
        if passing.left and not passing.begun:
            noted.status = 499
        noted.path = noted.path or getattr(scope.get("route"), "path", "")
        stages = noted.stages
        if (answer := noted.answer) is not None:
            stages["queue"], stages["model"] = answer.waited, answer.ran
        stages["total"] = time.perf_counter() - noted.began
        for observer in self._observers:
            try:
                observer(noted)
            except Exception:  # noqa: BLE001  what watches must not disturb what is watched
                _LOG.exception("What watches requests failed at %s.", noted.id)


async def _thrown_away(receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass


def _uncancel(task: asyncio.Task[Any]) -> None:
    """The cancelling was ours, and is over; Python 3.10 does not count them."""
    if hasattr(task, "uncancel"):
        task.uncancel()


def _full() -> ApiError:
    return ApiError(
        503,
        "More is being sent than can be kept in memory. Try again in 1 s.",
        "server_error",
        "overloaded",
        headers={"Retry-After": "1"},
    )


def _too_large(cap: int) -> ApiError:
    return ApiError(
        413,
        f"The body has more than the {cap:,} bytes that are taken. Send less at once.",
        code="body_too_large",
    )
