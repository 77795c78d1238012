"""HTTP on one connection: uvicorn's, with what a server that strangers can reach needs besides.

Connections whose headers drip in, or never end, are closed; so are those that do not take their answer. Beyond a number
of connections, new ones are told to come back, and so are those of an address that has half of them already. Where the
server stops, what was sent to it by then is answered.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bowerbird.serve.limits import Limits

__all__ = ["Connection", "connection"]

HEADER_BYTES = 64 << 10
"""Of one request; a header is rarely longer than 8 KiB."""

FAREWELL = 0.25
"""Seconds that an idle connection is kept when the server stops: a request may be on its way already."""

REFUSED_SECONDS = 2.0
"""Until the headers of a connection that is one too many are there."""


SHARE = 2
"""An address may have one of so many connections."""

IPV6_BITS = 64
"""Of an address that say whose it is: whoever has one has all those that begin with the same."""


def connection(limits: Limits, proxies: Sequence[str] = ()) -> type[Connection]:
    """The class of connections of one server, as uvicorn takes it.

    Args:
        limits: of the service.
        proxies: addresses or networks that bring the connections of many, and may have all there are; `*`: every one.
    """
    places = Places(limits.connections, proxies)
    return type("Connection", (Connection,), {"limits": limits, "places": places})


class Places:
    """How many connections there are, and whose.

    Args:
        most: at once; 0: any number.
        proxies: as of `connection`.
    """

    def __init__(self, most: int, proxies: Sequence[str] = ()) -> None:
        self.most = most
        self.refused = 0
        self._all = 0
        self._taken: Counter[str] = Counter()
        self._shared = "*" in proxies
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies if proxy != "*"]

    def take(self, host: str) -> str | None:
        """Take a place for who comes from an address; empty: it has none, such as that of a socket file.

        Returns:
            what to give back; None: there is no place.
        """
        owner = self._owner(host)
        own = max(1, self.most // SHARE) if owner else self.most
        if self.most and (self._all >= self.most or self._taken[owner] >= own):
            return None
        self._all += 1
        self._taken[owner] += 1
        return owner

    def give_back(self, owner: str) -> None:
        """A connection is gone."""
        self._all -= 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    def _owner(self, host: str) -> str:
        """Who answers for an address; empty: nobody alone."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return ""
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is None:
                network = ipaddress.IPv6Network((address, IPV6_BITS), strict=False)
                return "" if self._is_shared(address) else str(network)
            address = address.ipv4_mapped
        return "" if self._is_shared(address) else str(address)

    def _is_shared(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return self._shared or any(address in network for network in self._proxies)


class Connection(HttpToolsProtocol):
    """One connection. uvicorn parses it and runs the application; see the module for what is added.

    Attributes:
        limits: of the service.
        places: that connections of this server take.
    """

    limits: Limits = Limits()
    places: Places = Places(0)
    _owner: str | None = None
    _late: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    _in_headers = False
    _header_bytes = 0
    _trailer_bytes = 0
    _stopping = False
    _refused = False

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._owner = self.places.take(self.client[0] if self.client else "")
        if self._owner is None:
            self._refused = True
            self.places.refused += 1
            if self.places.refused > self.limits.connections + 16:
                transport.abort()  # not even to tell them is possible any more
                return
            self.app = _busy
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._owner is not None:
            self.places.give_back(self._owner)
        elif self._refused:
            self.places.refused -= 1
        self._headers_came()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self._refuse(431, "The headers have too many bytes.", "headers_too_large")
                return
        if self._late is None and (self._in_headers or self._is_idle()):
            self._expect_headers()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # What a client takes

    def pause_writing(self) -> None:
        """It takes less than it is sent."""
        super().pause_writing()
        self._expect_taking()

    def resume_writing(self) -> None:
        """It has taken nearly all of it."""
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _expect_taking(self) -> None:
        left = self.transport.get_write_buffer_size()
        if self._taking is None:
            self._taking = self.loop.call_later(self.limits.idle_seconds or 30.0, self._look_at_taking, left)

    def _look_at_taking(self, before: int) -> None:
        """Who takes nothing for so long must not hold its answer in memory."""
        self._taking = None
        if self.transport.is_closing() or self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._expect_taking()

    # Headers

    def on_message_begin(self) -> None:
        """The first byte of a request was read."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = self._trailer_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read; or a field behind a body in pieces, which nobody here asks for and nobody may believe."""
        if self._in_headers:
            super().on_header(name, value)
            return
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > HEADER_BYTES:
            self._refuse(431, "The fields behind the body have too many bytes.", "headers_too_large")

    def on_headers_complete(self) -> None:
        """The request can be answered, though its body may be still on its way."""
        self._in_headers = False
        self._headers_came()
        super().on_headers_complete()
        if self._stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def _expect_headers(self) -> None:
        seconds = self.limits.header_seconds
        if self._refused:
            seconds = min(seconds or REFUSED_SECONDS, REFUSED_SECONDS)
        if seconds and not self.transport.is_closing():
            self._late = self.loop.call_later(seconds, self._headers_late)

    def _headers_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _headers_late(self) -> None:
        self._late = None
        if not self._is_idle():
            self._expect_headers()  # those of the next request, sent while this one is being answered
        elif self._in_headers:
            self._refuse(408, "The headers did not arrive in time.", "timeout")
        else:
            self._close()

    # Answers that no application gives

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, msg, "invalid_http")

    def _refuse(self, status: int, message: str, code: str) -> None:
        if self.transport.is_closing():
            return
        # Of what is no HTTP any more in the middle of a body, too; but never in the place of an earlier answer.
        waits = not self.pipeline and self.cycle is not None and self.cycle.more_body
        if self._is_idle() or (waits and not self.cycle.response_started):
            if self.cycle is not None:
                self.cycle.disconnected = True
            body = _error(message, code)
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
                % len(body)
                + body
            )
        self._close()

    # The end

    def on_response_complete(self) -> None:
        """An answer was given out, though it may not be taken yet."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._give_up_later()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long."""
        self._close()

    def shutdown(self) -> None:
        """The server stops: answer what is here."""
        self._stopping = True
        if not self._is_idle():
            # Of requests sent one behind the other, the last.
            (self.pipeline[0][0] if self.pipeline else self.cycle).keep_alive = False
        elif not self._in_headers:
            # Timers that are late come before what was received meanwhile, so this one is not the last word.
            self.loop.call_later(FAREWELL, self.loop.call_later, FAREWELL / 5, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self._in_headers:
            self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._give_up_later()

    def _give_up_later(self) -> None:
        """A client that does not take its answer must not hold it in memory for ever."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.idle_seconds or 30.0, self.transport.abort)


def _error(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


async def _busy(scope: Any, receive: Any, send: Any) -> None:
    """To a client that is one too many."""
    body = _error(
        "More connections are open than can be served, or than one address may have. Try again in 1 s.",
        "overloaded",
        "server_error",
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
