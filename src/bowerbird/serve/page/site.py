"""The page as an application: who may come in, what is sent along, and which addresses are the page's.

Gradio answers for what it is needed for and nothing else: of its routes only those in `_GRADIO` are reached, so none
that serves files, takes files, or fetches addresses. All that the page shows comes from this server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match

from bowerbird.errors import BowerbirdError, InputError
from bowerbird.search.page import resource
from bowerbird.serve.api.errors import error_of
from bowerbird.serve.batching import BusyError
from bowerbird.serve.keys import Allowances, TooManyError, caller_of
from bowerbird.serve.page.drawing import Drawings
from bowerbird.serve.page.pages import rewritten, sign_in, waiting
from bowerbird.serve.page.pictures import Pictures
from bowerbird.serve.page.questions import ASKED, Message, Receive, refusal, replayed, until
from bowerbird.serve.page.session import HOURS, FindsKeys, Sessions, cookie_name
from bowerbird.serve.previews import SIDES
from bowerbird.serve.service import NotServedError, Service
from bowerbird.serve.threads import in_thread

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bowerbird.serve.api.admission import Admission

__all__ = ["Page", "mount"]

Send = Callable[[Message], Awaitable[None]]

_LOG = logging.getLogger("bowerbird.serve")

_GRADIO = (
    "/assets/",
    "/static/",
    "/theme.css",
    "/gradio_api/startup-events",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/heartbeat/",
    "/gradio_api/cancel",
    "/gradio_api/reset",
)
"""Routes of Gradio that the page needs: an exact one, or the beginning of several where it ends in a slash."""

_OPEN = ("/page/sign-in", "/page/page.css", "/favicon.ico")
"""What is shown to those who have not signed in."""

KEY = 4096
"""Bytes that the form with the key may have."""


def mount(
    app: FastAPI, service: Service, *, keys: FindsKeys | None = None, admission: Admission | None = None
) -> Page:
    """Put the page on an application, at `/`. Nothing slow happens before `Page.start`.

    Args:
        app: of the API, whose routes go first, also where only their method does not fit.
        service: that is asked.
        keys: who has one may come in; None, or none of them: everybody.
        admission: of the door in front: it leaves the page's addresses to the page, and what visitors ask counts
            among what their key is allowed; None: there is no door.
    """
    page = Page(service, keys, admission.allowances if admission else None)
    if admission is not None:
        admission.gated, admission.signed_in = page.mine, page.signed_in
    app.router.routes.append(_Route(page))
    return page


class Page:
    """The page. An ASGI application.

    Args:
        service: that is asked.
        keys: of those who may come in; None, or none of them: everybody.
        allowances: of all callers; None: they may ask as often as they like.
    """

    def __init__(
        self, service: Service, keys: FindsKeys | None = None, allowances: Allowances | None = None
    ) -> None:
        self.service = service
        self._allowances = allowances or Allowances()
        self.sessions = Sessions(keys)
        self.pictures = Pictures(service.limits)
        self.drawings = Drawings(service)
        self._gradio: Any = None
        self._running = contextlib.AsyncExitStack()
        self._over = asyncio.Event()

    async def start(self) -> None:
        """Import Gradio, which takes seconds and happens beside the loop, and show the page from now on.

        Raises:
            MissingExtraError: Gradio is not installed.
        """
        from bowerbird.serve.page.blocks import application

        facts = await self.service.facts()
        # The end of the process does not wait for it.
        made = in_thread("bowerbird-page", partial(application, self, facts))
        gradio, lifespan = await asyncio.wrap_future(made)
        await self._running.enter_async_context(lifespan())
        self._gradio = gradio

    def leave(self) -> None:
        """Let go of visitors, so that a server which stops has nobody to wait for."""
        self._over.set()

    async def close(self) -> None:
        """Show it no more."""
        self.leave()
        self._gradio = None
        self.drawings.stop()
        await self._running.aclose()

    def mine(self, path: str) -> bool:
        """Whether an address is the page's."""
        return path in ("/", "/favicon.ico") or path.startswith("/page/") or _of_gradio(path)

    def signed_in(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the headers of a request have the cookie of somebody who may come in."""
        cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
        return self.sessions.counts(cookies.get(cookie_name(headers.get(b"host", b"").decode("latin-1")), ""))

    @contextlib.contextmanager
    def charged(self, request: Request) -> Iterator[None]:
        """What a visitor asks is a request like those to the API: of their key, or of their address.

        Raises:
            TooManyError: they ask too often, or for too much at once.
        """
        key = self.sessions.holder(_token(request))
        caller = key.name if key else caller_of(request.client.host) if request.client else "local"
        allowance = self._allowances.enter(caller, key)
        try:
            yield
        finally:
            if allowance is not None:
                self._allowances.leave(allowance)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        request = Request(scope, receive)
        nonce = secrets.token_urlsafe(16)

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = _headers(nonce, _secure(request)).items()
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in given)]
            await send(message)

        answer = self._refused(request) or await self._answered(request, nonce)
        if answer is not None:
            await answer(scope, receive, reply)
        else:
            await self._asked(request, reply)

    async def _asked(self, request: Request, send: Send) -> None:
        """What Gradio answers, once it is known to be a question that Gradio may see."""
        receive = request.receive
        if request.method not in ("GET", "HEAD"):
            body = await _body(request, ASKED)
            if refused := refusal(body):
                await refused(request.scope, request.receive, send)
                return
            receive = replayed(body or b"", receive)
        await self._gradio(request.scope, until(self._over, receive), send)

    def _refused(self, request: Request) -> Response | None:
        """What is said to those who may not come in, or come from another site."""
        if request.method not in ("GET", "HEAD") and _foreign(request):
            return Response("This came from another site.", 403)
        path = request.scope["path"]
        if path in _OPEN or self.sessions.counts(_token(request)):
            return None
        if path == "/":
            return RedirectResponse("page/sign-in", 303)
        return Response("Sign in first.", 401)

    async def _answered(self, request: Request, nonce: str) -> Response | None:
        """The answer; None: Gradio's."""
        path = request.scope["path"]
        if path in _ROUTES:
            return await self._own(request)
        if path.startswith("/page/"):
            return Response("There is nothing here.", 404)
        if self._gradio is None:
            return Response(waiting(), 200, {"Retry-After": "1", "Cache-Control": "no-store"}, "text/html")
        return await self._first(request, nonce) if path == "/" else None

    async def _own(self, request: Request) -> Response:
        path = request.scope["path"]
        methods, answer = _ROUTES[path]
        if request.method not in methods:
            return Response("", 405, {"Allow": ", ".join(methods)})
        try:
            return await answer(self, request)
        except TooManyError as error:
            wait = {"Retry-After": str(max(1, math.ceil(error.seconds)))}
            return Response(str(error), 429, wait, "text/plain")
        except BowerbirdError as error:
            status = (
                404 if isinstance(error, NotServedError) else 422 if isinstance(error, InputError) else 503
            )
            if status == 503:
                _LOG.warning("The page could not show %s: %s", path, error)
            return Response(error_of(error).message, status, media_type="text/plain")

    async def _first(self, request: Request, nonce: str) -> Response:
        """Gradio's document without what it would ask other sites for."""
        pieces: list[bytes] = []
        status = 500

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            pieces.append(message.get("body", b""))

        await self._gradio(request.scope, request.receive, keep)
        text = b"".join(pieces).decode("utf-8")
        return Response(
            rewritten(text, nonce) if status == 200 else "",
            status,
            {"Cache-Control": "no-store"},
            "text/html; charset=utf-8",
        )

    # Routes

    async def _sign_in(self, request: Request) -> Response:
        if not self.sessions.needed:
            return RedirectResponse("..", 303)
        # Back to where somebody came from, of which there are only two places.
        then = "docs" if request.query_params.get("then") == "docs" else ""
        if request.method == "GET":
            return Response(sign_in("", then), 200, {"Cache-Control": "no-store"}, "text/html")
        address = request.client.host if request.client else ""
        if self.sessions.too_many(address):
            said = "There were too many wrong keys. Wait a minute."
            return Response(sign_in(said, then), 429, {"Retry-After": "60"}, "text/html")
        form = parse_qs((await _body(request, KEY) or b"").decode("utf-8", "replace"))
        token = self.sessions.begin(form.get("key", [""])[0])
        if not token:
            self.sessions.wrong(address)
            page = sign_in("There is no such key.", then)
            return Response(page, 403, {"Cache-Control": "no-store"}, "text/html")
        answer = RedirectResponse(f"../{then}", 303)
        answer.set_cookie(
            _cookie(request),
            token,
            max_age=HOURS * 3600,
            httponly=True,
            samesite="strict",
            secure=_secure(request),
        )
        return answer

    async def _sign_out(self, request: Request) -> Response:
        self.sessions.end(_token(request))
        answer = RedirectResponse("sign-in", 303)
        answer.delete_cookie(_cookie(request), httponly=True, samesite="strict")
        return answer

    async def _style(self, _: Request) -> Response:
        style = resource("bowerbird.serve.page", "page.css")
        return Response(style, 200, {"Cache-Control": "no-cache"}, "text/css; charset=utf-8")

    async def _script(self, _: Request) -> Response:
        script = resource("bowerbird.serve.page", "page.js")
        return Response(script, 200, {"Cache-Control": "no-cache"}, "text/javascript; charset=utf-8")

    async def _icon(self, _: Request) -> Response:
        drawn = resource("bowerbird.serve.page", "bowerbird.svg")
        return Response(drawn, 200, {"Cache-Control": "max-age=86400"}, "image/svg+xml")

    async def _image(self, request: Request) -> Response:
        """A record's picture: a thumbnail, a preview of some size, or the original where browsers show its format."""
        asked = parse_qs(request.scope["query_string"].decode("latin-1"), errors="surrogatepass")
        id_ = asked.get("id", [""])[0]
        data: bytes | None = None
        size = asked.get("size", [""])[0]
        if size == "original":
            with contextlib.suppress(InputError):
                data = await self.service.original(id_)
        elif size in map(str, SIDES):
            with contextlib.suppress(BusyError):
                data = await self.service.preview(id_, int(size))
        kind = _shown_by_browsers(data or b"")
        if not kind:
            data, kind = await self.service.thumbnail(id_), "image/jpeg"
        if not data:
            return Response("There is no such picture.", 404)
        # Pictures change when records do, and what a person who signed out may not see shall not be kept for long.
        return Response(data, 200, {"Cache-Control": "private, max-age=300"}, kind)

    async def _given(self, request: Request) -> Response:
        """A picture that somebody gave to search with: take it, or show it."""
        if request.method == "POST":
            data = await _body(request, self.pictures.most)
            if data is None:
                return Response(f"Pictures have at most {self.pictures.most >> 20} MB here.", 413)
            with self.charged(request):
                return Response(
                    await asyncio.to_thread(self.pictures.add, data), 200, media_type="text/plain"
                )
        given = self.pictures.get(request.query_params.get("name", ""))
        if given is None:
            return Response("There is no such picture.", 404)
        return Response(given.shown, 200, {"Cache-Control": "private, max-age=300"}, "image/jpeg")

    async def _drawing(self, request: Request) -> Response:
        asked = request.query_params
        text = await self.drawings.page(
            asked.get("kind", ""), asked.get("model", ""), asked.get("colour", "")
        )
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": "sandbox allow-scripts"}
        return Response(text, 200, headers, "text/html; charset=utf-8")


class _Route(BaseRoute):
    """Leads to the page from exactly its addresses, so that all others are answered as if there were none."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def matches(self, scope: Any) -> tuple[Match, Any]:
        """See starlette."""
        mine = scope["type"] == "http" and self.page.mine(scope["path"])
        return (Match.FULL if mine else Match.NONE), {}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """See starlette."""
        await self.page(scope, receive, send)


_ROUTES: dict[str, tuple[tuple[str, ...], Callable[[Page, Request], Awaitable[Response]]]] = {
    "/page/sign-in": (("GET", "POST"), Page._sign_in),
    "/page/sign-out": (("POST",), Page._sign_out),
    "/page/page.css": (("GET", "HEAD"), Page._style),
    "/page/page.js": (("GET", "HEAD"), Page._script),
    "/favicon.ico": (("GET", "HEAD"), Page._icon),
    "/page/image": (("GET", "HEAD"), Page._image),
    "/page/given": (("GET", "HEAD", "POST"), Page._given),
    "/page/drawing": (("GET",), Page._drawing),
}


def _of_gradio(path: str) -> bool:
    return any(path.startswith(one) if one.endswith("/") else path == one for one in _GRADIO)


def _headers(nonce: str, secure: bool) -> dict[bytes, bytes]:
    # Gradio compiles templates of its own at run time, hence unsafe-eval; scripts in the document need the nonce,
    # so nothing that strangers wrote would run even if it came to stand there as HTML.
    policy = (
        f"default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; media-src blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    )
    found = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "x-frame-options": "SAMEORIGIN",
        "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    }
    if secure:
        found["strict-transport-security"] = "max-age=31536000"
    return {name.encode(): value.encode() for name, value in found.items()}


def _secure(request: Request) -> bool:
    return request.scope.get("scheme") == "https"


def _foreign(request: Request) -> bool:
    """Whether a browser says that it asks on behalf of a page of another site."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


def _token(request: Request) -> str:
    return request.cookies.get(_cookie(request), "")


def _cookie(request: Request) -> str:
    return cookie_name(request.headers.get("host", ""))


async def _body(request: Request, most: int) -> bytes | None:
    """All of a body; None where it has more bytes than that."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _shown_by_browsers(data: bytes) -> str:
    """The media type of a picture that every browser shows; empty for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/gif" if data[:6] in (b"GIF87a", b"GIF89a") else ""
