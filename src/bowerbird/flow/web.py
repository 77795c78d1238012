"""Files on the web: fetched with caps on bytes, time, redirects and attempts.

Requests run on fsspec's event loop, a thread that all object stores share: there a deadline holds whatever a server
does, be it names that do not resolve, headers that drip in, or a body that never ends.
"""

from __future__ import annotations

import asyncio
import atexit
import ipaddress
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, BinaryIO

from bowerbird.errors import BowerbirdError, UnreadableError
from bowerbird.flow.remote import is_web, over_time
from bowerbird.flow.streams import buffered
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import check_bytes, empty, one_line

if TYPE_CHECKING:
    from httpx2 import URL, AsyncClient, Response

BACKOFF = 0.5
"""Seconds before the second attempt, and up to half as much again; doubled before each further one."""

LONGEST_WAIT = 30.0
"""Seconds that a server may ask us to wait (`Retry-After`); when it asks for more, that is an error."""

REDIRECTS = 5
KEPT = 32
"""Connections that stay open for a while after use, to all servers together. How many are used at once is up to the
threads that read."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given out to be reached from everywhere."""

_REDIRECT = (301, 302, 303, 307, 308)
_HTML = (b"<!doctype html", b"<html", b"<head")


@dataclass(frozen=True)
class WebLimits:
    """What fetching one file may cost.

    Attributes:
        max_bytes: of the body; 0: only the cap of the decode policy.
        connect_seconds: until a connection stands.
        read_seconds: without a byte.
        seconds: for one attempt in all, redirects included; 0: only that of the decode policy.
        retries: further attempts after 429, a server's error (5xx), or a connection that broke.
        public_only: refuse private, loopback and link-local addresses, whatever name or redirect leads there. For
            lists that come from strangers; a user's own list may name any server.
    """

    max_bytes: int = 0
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    seconds: float = 60.0
    retries: int = 2
    public_only: bool = False

    def __post_init__(self) -> None:
        for name in ("max_bytes", "connect_seconds", "read_seconds", "seconds", "retries"):
            if not getattr(self, name) >= 0:
                raise BowerbirdError(f"{name}={getattr(self, name)} is not zero or more.")


@dataclass(frozen=True)
class WebFile:
    """A file at an `http://` or `https://` address, fetched when it is needed."""

    url: str
    limits: WebLimits = field(default_factory=WebLimits)

    def __str__(self) -> str:
        return self.url

    def read(self, policy: DecodePolicy) -> bytes:
        """All bytes. Nothing more is received once the cap is reached.

        Raises:
            UnreadableError: the address is none, nothing is there, forbidden, not reached, over a cap or over time,
                a page of HTML, or cut short.
            DecodeError: the body is empty.
        """
        limits = self.limits
        seconds = min((s for s in (limits.seconds, policy.seconds) if s), default=0.0)
        caps = [cap for cap in (limits.max_bytes, policy.max_bytes) if cap]
        cap = min(caps, default=0)
        shown = _shown(self.url)

        async def fetch() -> bytes:
            async with _answer(self.url, limits) as response:
                return await _body(response, shown, cap)

        async def attempts() -> bytes:
            found: bytes = await _patiently(fetch, shown, limits.retries, seconds)
            return found

        data: bytes = _run(attempts)
        if not data:
            raise empty(shown)
        return data


def open_web(url: str, limits: WebLimits | None = None) -> BinaryIO:
    """Open a file on the web for reading, from its beginning to its end. Only `limits.seconds` does not hold.

    Raises:
        UnreadableError: it cannot be had; also while it is read, when the connection breaks.
    """
    limits = limits or WebLimits()
    shown = _shown(url)
    context = _answer(url, limits)

    async def start() -> AsyncIterator[bytes]:
        return (await context.__aenter__()).aiter_bytes(1 << 16)

    async def attempts() -> AsyncIterator[bytes]:
        found: AsyncIterator[bytes] = await _patiently(
            start, shown, 0, limits.connect_seconds + limits.read_seconds
        )
        return found

    pieces = _run(attempts)
    rest = bytearray()

    async def next_piece() -> bytes:
        return await anext(pieces, b"")

    def read(size: int) -> bytes:
        if not rest:
            rest.extend(_run(next_piece))
        data = bytes(rest[:size])
        del rest[:size]
        return data

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    return buffered(read, lambda: _run(leave), lambda error: _explained(error, shown))


def _run(action: Callable[[], Any], timeout: float | None = None) -> Any:
    """Run a coroutine function on the loop that fsspec keeps in a thread of its own."""
    from fsspec.asyn import get_loop, sync

    return sync(get_loop(), action, timeout=timeout)


@lru_cache(maxsize=4)
def _client(process: int, public_only: bool) -> AsyncClient:
    from httpx2 import AsyncClient, Limits

    # A connection to a checked address must not be used again for another name there: its certificate was not checked.
    kept = 0 if public_only else KEPT
    client = AsyncClient(
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        # A proxy would look up and reach what this machine must not.
        trust_env=not public_only,
        limits=Limits(max_connections=None, max_keepalive_connections=kept, keepalive_expiry=5.0),
        headers={
            "User-Agent": f"bowerbird/{version('bowerbird')}",
            "Accept": "image/*, */*;q=0.5",
            "Accept-Encoding": "identity",
        },
    )
    atexit.register(_close, client, process)
    return client


def _close(client: AsyncClient, process: int) -> None:
    if os.getpid() == process:
        with suppress(Exception):  # The loop may be gone already; so are the connections then.
            _run(client.aclose, timeout=1.0)


class _StatusError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, wait: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.wait = wait


@asynccontextmanager
async def _answer(url: str, limits: WebLimits) -> AsyncIterator[Response]:
    """The answer to a GET, after redirects, before its body."""
    from httpx2 import URL, Timeout

    client = _client(os.getpid(), limits.public_only)
    read = limits.read_seconds or None
    timeout = Timeout(connect=limits.connect_seconds or None, read=read, write=read, pool=None)
    target = URL(url)
    for _ in range(REDIRECTS + 1):
        _check_scheme(target, url)
        request = client.build_request("GET", target, timeout=timeout)
        if limits.public_only:
            request.url = target.copy_with(host=await _public_address(target, url))
            request.extensions = {**request.extensions, "sni_hostname": target.host}
        response = await client.send(request, stream=True)
        try:
            if response.status_code in _REDIRECT and "Location" in response.headers:
                target = target.join(response.headers["Location"])
                continue
            if limits.public_only and response.headers.get("Content-Encoding", "identity") != "identity":
                # It was not asked for, and a little of it can unfold to more than there is memory.
                raise UnreadableError(
                    f"{_shown(url)} is compressed.", hint="Give the address of a plain file."
                )
            if response.status_code != 200:
                raise _StatusError(response.status_code, _asked_wait(response.headers.get("Retry-After", "")))
            yield response
            return
        finally:
            await response.aclose()
    raise UnreadableError(
        f"{_shown(url)} leads from one address to the next, more than {REDIRECTS} times.",
        hint="Give the address where the file is.",
    )


def _led(url: str, target: URL) -> str:
    """The beginning of a sentence about where an address leads."""
    return _shown(url) if str(target) == url else f"{_shown(url)} leads to {_shown(str(target))}, which"


def _check_scheme(target: URL, url: str) -> None:
    if not (is_web(target) and target.host):
        raise UnreadableError(
            f"{_led(url, target)} is no http:// or https:// address.", hint="Check the address."
        )


async def _public_address(target: URL, url: str) -> str:
    """The address to connect to: what the name stands for now, and nothing that is not public.

    It is looked up once and connected to as it is, so that a name cannot mean one thing when it is checked and another
    when it is used.
    """
    port = target.port or (443 if target.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not _is_public(address):
            raise UnreadableError(
                f"{_led(url, target)} is not a public address.",  # what it is instead is nobody's business
                hint="Leave it out, or allow such addresses with public_only=False.",
            )
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        # An IPv4 address in the clothes of an IPv6 one is what it is underneath.
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is None and parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is None:
            return parsed in _UNICAST and parsed.is_global
        parsed = inner
    return parsed.is_global and not parsed.is_multicast


def _asked_wait(text: str) -> float | None:
    """Seconds that `Retry-After` asks for, given as such or as a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
    return max(0.0, (aware - datetime.now(timezone.utc)).total_seconds())


async def _body(response: Response, shown: str, cap: int) -> bytes:
    policy = DecodePolicy(max_bytes=cap)
    length = response.headers.get("Content-Length", "")
    if length.isdigit():
        check_bytes(int(length), shown, policy)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if cap and len(data) > cap:
            raise UnreadableError(
                f"{shown} has more bytes than the cap of {cap:,}.",
                hint="Raise BOWERBIRD_MAX_BYTES or max_bytes if you trust it.",
            )
    if kind in ("text/html", "application/xhtml+xml") or bytes(data[:64]).lstrip().lower().startswith(_HTML):
        raise UnreadableError(
            f"{shown} answered with a page of HTML instead of a picture.",
            hint="Give the address of the picture itself; the site may want a login, or the picture may be gone.",
        )
    return bytes(data)


async def _patiently(action: Callable[[], Any], shown: str, retries: int, seconds: float) -> Any:
    """Do something again where that may help, each time within some seconds."""
    for attempt in range(retries + 1):
        try:
            return await asyncio.wait_for(action(), seconds or None)
        except BowerbirdError:
            raise
        except Exception as error:  # The libraries below raise classes of their own.
            wait = _wait(error, attempt)
            if wait is None or attempt == retries:
                raise _explained(error, shown, attempt + 1, seconds) from error
            await asyncio.sleep(wait)
    raise AssertionError("unreachable")


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds after which to try again; None when that would not help."""
    import httpx2

    backoff = BACKOFF * 2**attempt * random.uniform(1, 1.5)
    if isinstance(error, _StatusError):
        if error.status not in (408, 425, 429) and error.status < 500:
            return None
        wait = max(backoff, error.wait or 0.0)
        return wait if wait <= LONGEST_WAIT else None
    broken = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)
    return backoff if isinstance(error, broken) and not _is_unknown_name(error) else None


def _is_unknown_name(error: BaseException) -> bool:
    """Whether a name has no address; a busy name server (EAI_AGAIN) is not that."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return cause.errno != socket.EAI_AGAIN
        cause = cause.__cause__ or cause.__context__
    return False


_STATUS = {
    401: ("wants a login (401)", "Give an address that needs none."),
    403: ("may not be read: the server refused it (403)", "Give an address that needs no login."),
    404: ("is not there (404)", "Check the address; the file may have moved."),
    410: ("is not there any more (410)", "Leave it out."),
    429: ("was asked for too often (429)", "Try again later, or with fewer workers."),
}


def _explained(error: Exception, shown: str, attempts: int = 1, seconds: float = 0.0) -> UnreadableError:
    """The error that a user sees."""
    import httpx2

    if isinstance(error, UnreadableError):
        return error
    if isinstance(error, TimeoutError | asyncio.TimeoutError) and seconds:
        return over_time(shown, seconds)
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    why = "its name has no address" if _is_unknown_name(error) else one_line(error, 200) or "no answer"
    said, hint = f"could not be fetched: {why}", "Check the address."
    if isinstance(error, _StatusError):
        default = (f"was answered with HTTP {error.status}", "Try again later, or leave it out.")
        said, hint = _STATUS.get(error.status, default)
        said += f"; it asks to wait {error.wait:.0f} s" if error.wait else ""
    elif isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError | socket.gaierror):
        said, hint = f"cannot be reached: {why}", "Check the address and the network."
    elif isinstance(error, httpx2.TimeoutException):
        said, hint = "stopped answering", "Try again later."
    elif isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        said, hint = "broke off before its end", "Try again later."
    return UnreadableError(f"{shown} {said}{tried}.", hint=hint)


def _shown(url: str) -> str:
    """An address for messages: one line, and without a password."""
    head, mark, rest = one_line(url, 500).partition("://")
    host, slash, path = rest.partition("/")
    return f"{head}{mark}{host.rpartition('@')[2]}{slash}{path}"
