"""Load on a server, from outside of the process that measures.

`wrk` asks as fast as it is answered, and takes hardly any of the processor (Debian: ``apt-get install wrk``; macOS:
``brew install wrk``). Where it is missing, a client in Python asks, which takes more of the processor and so makes
every server look slower. Latencies at a given rate are always measured by the client in Python, from the time at which
a request was meant to begin; see `children/asking.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers import HERE, Peer

CONNECTIONS = 32


@dataclass(frozen=True)
class Load:
    """What was counted.

    Attributes:
        requests: that were answered, or given up.
        seconds: they took together.
        refused: of them, answered with a status of 400 or more.
        broken: without an answer.
        p50: latency, seconds.
        p99: likewise.
        ended: when the last request began, on the monotonic clock; 0: that was not noted.
    """

    requests: int
    seconds: float
    refused: int
    broken: int
    p50: float
    p99: float
    ended: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.requests - self.refused - self.broken) / self.seconds

    def good(self) -> Load:
        """Itself.

        Raises:
            RuntimeError: some requests were not answered well; a rate of those would mean nothing.
        """
        if self.refused or self.broken or not self.requests:
            raise RuntimeError(f"Not all requests were answered: {self}.")
        return self


def generator() -> str:
    """What asks."""
    if not shutil.which("wrk"):
        return "a client in Python (wrk is missing: apt-get install wrk)"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return " ".join((said.stdout + said.stderr).split()[:2])


def written(folder: Path, name: str, bodies: Sequence[dict[str, Any]]) -> Path:
    """Bodies as a file of one JSON object a line."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies), "utf-8")
    return path


def closed(url: str, bodies: Path, *, connections: int = CONNECTIONS, seconds: float) -> Load:
    """Every connection asks again as soon as it is answered.

    Args:
        url: that is POSTed to.
        bodies: from `written`.
        connections: at once.
        seconds: for how long.
    """
    if not shutil.which("wrk"):
        with Peer("asking", sys.executable) as client:
            asked = client.ask(
                do="closed", **place(url), bodies=str(bodies), connections=connections, seconds=seconds
            )
            return Load(**asked)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "60s"]
    script = str(HERE / "children" / "post.lua")
    done = subprocess.run(
        [*command, "-s", script, url, "--", str(bodies)], check=True, capture_output=True, text=True
    )
    return Load(**json.loads(done.stdout.splitlines()[-1]))


def opened(url: str, bodies: Path, *, rate: float, seconds: float, arrivals: str) -> Load:
    """Requests begin at a given rate, whether or not others are answered.

    Args:
        url: that is POSTed to.
        bodies: from `written`.
        rate: requests a second.
        seconds: for how long.
        arrivals: `even`, or `random` as a Poisson process.
    """
    with Peer("asking", sys.executable) as client:
        asked = client.ask(
            do="open", **place(url), bodies=str(bodies), rate=rate, seconds=seconds, arrivals=arrivals
        )
    return Load(**asked)


def place(url: str) -> dict[str, Any]:
    """What a client in Python is told of it."""
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port, "path": parts.path}
