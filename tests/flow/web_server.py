"""A real web server on loopback that does everything a server should not."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@dataclass
class WebServer:
    """Attributes:
    url: without a slash at the end.
    hits: by path, how often it was asked for.
    agents: the `User-Agent` of each request.
    cookies: the `Cookie` of each request.
    sent: bytes of endless bodies.
    """

    url: str
    hits: Counter[str] = field(default_factory=Counter)
    agents: list[str] = field(default_factory=list)
    cookies: list[str | None] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        state: WebServer = self.server.state  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        state.hits[self.path] += 1
        state.agents.append(self.headers["User-Agent"])
        state.cookies.append(self.headers["Cookie"])
        name = path.strip("/").replace("-", "_").partition(".")[0]
        if name.isdigit():
            self._send(b"no", status=int(name))
        else:
            try:
                getattr(self, f"_{name}")(state, query)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    def _send(self, data: bytes, status: int = 200, kind: str = "image/png", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _picture(self, *_) -> None:
        self._send(PICTURE, Set_Cookie="a=b")

    def _lines(self, *_) -> None:
        self._send(b"".join(b"line %d\n" % number for number in range(50_000)), kind="text/csv")

    def _empty(self, *_) -> None:
        self._send(b"")

    def _html(self, *_) -> None:
        self._send(b"<p>Please log in", kind="text/html; charset=utf-8")

    def _html_as_picture(self, *_) -> None:
        self._send(b"\n <!DOCTYPE HTML><html>", kind="image/jpeg")

    def _text(self, *_) -> None:
        self._send(b"just text", kind="text/plain")

    def _secret(self, *_) -> None:
        if self.headers["Authorization"] == "Basic bWU6c2VjcmV0":
            self._send(PICTURE)
        else:
            self._send(b"", status=401)

    def _busy(self, state: WebServer, query: str) -> None:
        """?TIMES,STATUS,RETRY-AFTER"""
        times, status, after = query.split(",")
        if state.hits[self.path] <= int(times):
            self._send(b"", status=int(status), **({"Retry_After": after} if after else {}))
        else:
            self._send(PICTURE)

    def _to(self, _: WebServer, query: str) -> None:
        self._send(b"", status=302, Location=query)

    def _loop(self, *_) -> None:
        self._send(b"", status=301, Location="/loop")

    def _count(self, _: WebServer, query: str) -> None:
        left = int(query)
        self._send(b"", status=307, Location=f"/count?{left - 1}" if left > 1 else "/picture.png")

    def _drip(self, *_) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _number in range(300):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def _drip_headers(self, *_) -> None:
        for _number in range(300):
            self.wfile.write(b"H" if _number else b"HTTP/1.1 200 OK\r\nX: ")
            time.sleep(0.05)

    def _silent(self, *_) -> None:
        time.sleep(5)

    def _endless(self, state: WebServer, _: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        block = b"x" * 65536
        for _number in range(2000):  # 131 MB
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
            state.sent += len(block)

    def _cut(self, *_) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE[:1000])
        self.close_connection = True

    def _cut_once(self, state: WebServer, _: str) -> None:
        if state.hits[self.path] == 1:
            self._cut()
        else:
            self._picture()

    def _reset(self, *_) -> None:
        # Linger of zero: the peer sees a reset rather than an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        self.close_connection = True

    def _reset_once(self, state: WebServer, _: str) -> None:
        if state.hits[self.path] == 1:
            self._reset()
        else:
            self._picture()

    def _short_length(self, *_) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(PICTURE)
        self.close_connection = True

    def _huge_length(self, *_) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "99999999999")
        self.end_headers()
        self.close_connection = True

    def _nonsense(self, *_) -> None:
        self.wfile.write(b"220 smtp.example ESMTP\r\n")
        self.close_connection = True


@contextmanager
def serving() -> Iterator[WebServer]:
    """Start it, and stop it at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    state = WebServer(f"http://127.0.0.1:{server.server_port}")
    server.state = state  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
