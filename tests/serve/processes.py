"""`bowerbird serve` as a process, and what is said to it over bare sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECONDS = 120
"""How long anything may take here before it counts as never."""

_SERVING = re.compile(r"Serving .* at (\S+)/v1")


@dataclass
class Process:
    """A server at work.

    Attributes:
        address: where it listens.
        lines: that it has written to stderr so far.
    """

    process: subprocess.Popen[str]
    address: str = ""
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line)
                if found := _SERVING.search(line):
                    self.address = found[1]
                self._said.notify_all()

    def until(self, pattern: str) -> str:
        """The first line that it writes, or has written, with something in it."""

        def found() -> str | bool:
            lines = [line for line in self.lines if re.search(pattern, line)]
            return lines[0] if lines else self.process.poll() is not None

        with self._said:
            line = self._said.wait_for(found, SECONDS)
        assert isinstance(line, str), f"no line with {pattern!r} in:\n{''.join(self.lines)}"
        return line

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def launched(
    *options: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, first: str = ""
) -> Process:
    """A process that has just begun, with some code that it runs first."""
    command = [sys.executable, "-c", f"{first}\nfrom bowerbird.cli import main; main()", "serve", *options]
    return Process(
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, cwd=cwd
        )
    )


def running(
    *options: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> AbstractContextManager[Process]:
    """A process that listens; it is stopped in the end. Without the page, on a port that the system chooses."""
    return started(*options, "--no-page", "--port", "0", env=env, cwd=cwd)


@contextmanager
def started(
    *options: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Process]:
    """The same with nothing but what is given, which has to leave it a port."""
    found = launched(*options, env=env, cwd=cwd)
    try:
        found.until(_SERVING.pattern)
        yield found
    finally:
        if found.process.poll() is None:
            found.signal(signal.SIGTERM)
        found.ended()


def until_ok(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a check again and again, as a supervisor does, until it passes."""
    end = threading.Event()
    timer = threading.Timer(SECONDS, end.set)
    timer.start()
    try:
        while True:
            done = subprocess.run(
                command, env=dict(env), capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode == 0:
                return
            assert not end.wait(0.2), done.stderr
    finally:
        timer.cancel()


@dataclass(frozen=True)
class Reply:
    """What came back over a bare socket."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def opened(address: str) -> socket.socket:
    """A connection to a server."""
    parts = urlsplit(address)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), SECONDS)


def received(connection: socket.socket) -> Reply:
    """The next answer on a connection; status 0: it was closed without one."""
    stream = connection.makefile("rb")
    try:
        first = stream.readline()
        headers: dict[str, str] = {}
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
    except ConnectionResetError:
        return Reply(0, {}, b"")
    return Reply(int(first.split()[1]) if first else 0, headers, body)


def exchanged(address: str, pieces: bytes | Iterable[bytes]) -> Reply:
    """Send bytes as they are, until they end or the server will have no more; then read the answer."""
    with opened(address) as connection:
        try:
            for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received(connection)


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """The bytes of a request."""
    count = len(body) if length is None else length
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {count}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def check_refused(reply: Any, status: int | Iterable[int]) -> dict[str, Any]:
    """The inner object of an error as OpenAI's clients know it."""
    code = reply.status if isinstance(reply, Reply) else reply.status_code
    assert code in ((status,) if isinstance(status, int) else tuple(status)), (code, reply)
    ((name, error),) = reply.json().items()
    assert name == "error"
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    assert error["type"]
    return dict(error)
