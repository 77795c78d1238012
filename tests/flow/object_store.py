"""A real object store for tests: moto's S3 server on loopback, and ways to make it fail."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass
class ObjectStore:
    """A server with one bucket of its own.

    Attributes:
        url: of the server.
        bucket: its name, never used before.
        environment: what a process needs to find it.
    """

    url: str
    bucket: str
    environment: dict[str, str] = field(default_factory=dict)

    @cached_property
    def fs(self):
        """A file system of its own, that remembers nothing."""
        import s3fs

        return s3fs.S3FileSystem(
            key="testing",
            secret="testing",
            endpoint_url=self.url,
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def uri(self, name: str = "") -> str:
        return f"s3://{self.bucket}/{name}".rstrip("/")

    def put(self, name: str, data: bytes) -> str:
        self.fs.pipe_file(f"{self.bucket}/{name}", data)
        return self.uri(name)

    def fill(self, objects: dict[str, bytes]) -> None:
        """Like `put` for many, without a request for each: the server is in this process."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for name, data in objects.items():
            backend.put_object(self.bucket, name, data)

    def names(self, below: str = "") -> list[str]:
        found = self.fs.find(f"{self.bucket}/{below}" if below else self.bucket)
        return [name.removeprefix(f"{self.bucket}/") for name in found]


def forget_connections() -> None:
    """The next use of a store reads the environment anew."""
    from bowerbird.flow import remote

    remote._by_protocol.cache_clear()
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """A server in a thread of this process; the environment leads to it."""
    pytest.importorskip("moto", reason="needs moto's S3 server")
    pytest.importorskip("s3fs")
    pytest.importorskip("flask", reason="needs moto's S3 server")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        forget_connections()
        store = ObjectStore(url, f"bucket-{uuid.uuid4().hex[:12]}", environment)
        store.fs.mkdir(store.bucket)
        try:
            yield store
        finally:
            forget_connections()
            server.stop()
            server._server.server_close()


class _Gate(BaseHTTPRequestHandler):
    """Passes requests on to a store, or answers them itself."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        import http.client

        gate: Gate = self.server.gate  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        gate.seen.append(line)
        for number, (pattern, status, code, times) in enumerate(gate.faults):
            if times and re.search(pattern, line):
                gate.faults[number] = (pattern, status, code, times - 1)
                if not status:
                    self.connection.close()
                    self.close_connection = True
                    return
                text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
                self._answer(status, [("Content-Type", "application/xml")], text)
                return
        connection = http.client.HTTPConnection(gate.behind.removeprefix("http://"), timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        headers = response.getheaders()
        connection.close()
        self._answer(response.status, headers, data)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle


@dataclass
class Gate:
    """A server in front of a store.

    Attributes:
        faults: (pattern of the request line, status, code, how often); status 0 closes the connection.
        seen: the request lines so far.
    """

    url: str
    behind: str
    faults: list[tuple[str, int, str, int]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


@contextmanager
def gate(store: ObjectStore) -> Iterator[Gate]:
    """Put a gate before a store; the environment leads to the gate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gate)
    server.daemon_threads = True
    found = Gate(f"http://127.0.0.1:{server.server_port}", store.url)
    server.gate = found  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", found.url)
        forget_connections()
        try:
            yield found
        finally:
            forget_connections()
            server.shutdown()
            server.server_close()
            thread.join()
