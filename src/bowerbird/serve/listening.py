"""Where a service listens: a port or a socket file, taken before anything slow is done."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass

from bowerbird.errors import BowerbirdError

__all__ = ["PORT", "Listening", "listen"]

PORT = 8080
"""Where nobody says otherwise, on one machine and on a cluster."""

BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """A place that clients can connect to from now on; they wait until somebody accepts.

    Attributes:
        socket: that listens.
        host: that was asked for; empty for a socket file.
        path: of the socket file; empty for a port.
    """

    socket: socket.socket
    host: str = ""
    path: str = ""

    @property
    def port(self) -> int:
        """The port; 0 for a socket file."""
        return 0 if self.path else int(self.socket.getsockname()[1])

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return bool(self.path) or ipaddress.ip_address(self.socket.getsockname()[0].split("%")[0]).is_loopback

    def address(self, scheme: str = "http") -> str:
        """For people and clients."""
        if self.path:
            return f"unix:{self.path}"
        # What is bound to all addresses is reached by a person on this machine as:
        host = "localhost" if self.host in ("", "0.0.0.0", "::") else self.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        """Stop listening, and take the socket file away."""
        self.socket.close()
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)


def listen(host: str, port: int, path: str = "") -> Listening:
    """Listen on a port, or on a socket file where a path is given.

    Raises:
        BowerbirdError: the port is taken, may not be used, or the host is none of this machine.
    """
    try:
        if path:
            return Listening(_file(os.path.abspath(os.path.expanduser(path))), path=path)
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP
        )
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        return Listening(socket.create_server(address[:2], family=family, backlog=BACKLOG), host)
    except (OSError, OverflowError) as error:
        raise _refused(error, host, port, path) from None


def _file(path: str) -> socket.socket:
    """A socket file; one that a dead process has left behind is replaced."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) == errno.ECONNREFUSED:
                    os.unlink(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(path)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _refused(error: Exception, host: str, port: int, path: str) -> BowerbirdError:
    where = path or f"port {port} of {host or 'this machine'}"
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, socket.gaierror) or code == errno.EADDRNOTAVAIL:
        return BowerbirdError(
            f"{host} is no address of this machine.",
            hint="Use 127.0.0.1 for this machine alone, 0.0.0.0 for all.",
        )
    if code == errno.EADDRINUSE:
        return BowerbirdError(
            f"{where[0].upper()}{where[1:]} is in use already.",
            hint="Another service may be running. Give another place with --uds."
            if path
            else "Another service may be running. Give another port with --port; 0 takes any that is free.",
        )
    why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return BowerbirdError(
        f"{where[0].upper()}{where[1:]} cannot be listened on: {why}.", hint="Give another one."
    )
