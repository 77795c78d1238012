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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from bowerbird.serve.api.admission import Admission
from bowerbird.serve.api.arriving import Arriving, Deadline, Message, Receive, Send, too_large
from bowerbird.serve.api.errors import ApiError, told
from bowerbird.serve.api.memory import Account, Memory
from bowerbird.serve.api.noted import Noted
from bowerbird.serve.api.replies import Reply, refuse
from bowerbird.serve.keys import Allowance, Keys
from bowerbird.serve.limits import Limits

__all__ = ["Door", "Noted"]

Endpoint = Callable[[Request], Awaitable[Response]]

_LOG = logging.getLogger("bowerbird.serve")

_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,64}")

WATCH_AFTER = 0.05
"""Seconds after which the connection is watched: most requests are done before."""

PAGE = "/page"
"""What the addresses of the page for people are noted as, but for its first."""


class _Passing:
    """One request on its way through the door."""

    __slots__ = ("account", "allowance", "arriving", "extra", "noted", "receive", "reply")

    def __init__(
        self, noted: Noted, account: Account, arriving: Arriving, receive: Receive, reply: Reply
    ) -> None:
        self.noted = noted
        self.account = account
        self.arriving = arriving
        self.receive = receive
        self.reply = reply
        self.allowance: Allowance | None = None
        self.extra = reply.extra


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
        self._memory = Memory(limits.bodies_bytes)
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
        passing = self._begun(scope, headers, receive, send)
        self.open += 1
        try:
            await self._answered(scope, headers, passing)
        except asyncio.CancelledError:
            if not passing.arriving.left:
                # The server is told to stop, and this one has outlasted the time it was given.
                stopping = ApiError(503, "The service is stopping.", "server_error", "stopping")
                await self._refused(stopping, scope, passing)
        except Exception as error:  # noqa: BLE001  the last place to answer anything
            await self._refused(error, scope, passing)
        finally:
            self.open -= 1
            passing.account.close()
            if passing.allowance is not None:
                self.admission.allowances.leave(passing.allowance)
            self._note(scope, passing)

    def _begun(
        self, scope: Message, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> _Passing:
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
        account = self._memory.account(scope)
        complete = b"content-length" not in headers and b"transfer-encoding" not in headers
        arriving = Arriving(receive, self._limits, account, complete=complete)
        return _Passing(noted, account, arriving, receive, Reply(send, noted.id, account))

    async def _answered(self, scope: Message, headers: Mapping[bytes, bytes], passing: _Passing) -> None:
        self.admission.check(scope, headers, passing)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        if not scope["path"].startswith("/v1"):
            await self.app(scope, passing.arriving.capped(), passing.reply.send)
            return
        passing.account.check()
        passing.reply.counted = True
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        body = b"" if passing.arriving.complete else await passing.arriving.whole(loop, task)
        await self._watched(scope, body, passing, loop, task)

    async def _watched(
        self,
        scope: Message,
        body: bytes,
        passing: _Passing,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[Any],
    ) -> None:
        """Let it be answered; stop when the client leaves or the time is over."""
        given = False
        receive = passing.receive

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
            if not passing.reply.status:
                passing.arriving.left = True
                task.cancel()

        timer = loop.call_later(WATCH_AFTER, lambda: watching.append(loop.create_task(watch())))
        deadline = Deadline(loop, task, self._limits.request_seconds)
        try:
            await self._asked(scope, replay, passing)
        except asyncio.CancelledError:
            if passing.arriving.left or not deadline.over:
                raise
            deadline.caught()
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
            await self.app(scope, receive, passing.reply.send)
            return
        passing.noted.path = scope["path"]
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, passing.reply.send)

    async def _refused(self, error: Exception, scope: Message, passing: _Passing) -> None:
        """Answer with an error, if nothing was answered yet."""
        found = told(error, passing.noted.id)
        passing.noted.code = found.code
        if passing.reply.status:
            return  # the server closes the connection, so that half an answer is not taken for one
        await refuse(found, scope, passing.receive, passing.arriving, passing.reply)

    def _note(self, scope: Message, passing: _Passing) -> None:
        noted = passing.noted
        noted.status = passing.reply.status or (499 if passing.arriving.left else 0)
        noted.path = noted.path or getattr(scope.get("route"), "path", "") or self._route(scope)
        stages = noted.stages
        if (answer := noted.answer) is not None:
            stages["queue"], stages["model"] = answer.waited, answer.ran
        stages["total"] = time.perf_counter() - noted.began
        for observer in self._observers:
            try:
                observer(noted)
            except Exception:  # noqa: BLE001  what watches must not disturb what is watched
                _LOG.exception("What watches requests failed at %s.", noted.id)

    def _route(self, scope: Message) -> str:
        """Of a request that never came to its route: the one it was sent to; empty: there is none."""
        if self.admission.gated(scope["path"]):
            return "/" if scope["path"] == "/" else PAGE
        for route in getattr(self.app, "routes", ()):
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", ""))
        return ""
