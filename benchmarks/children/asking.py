"""A light client: HTTP/1.1 over plain sockets, with the standard library alone.

Three ways to ask. `closed`: so many connections, each of which asks again as soon as it is answered. `open`: requests
begin at times that were drawn beforehand, however slowly answers come, and a latency counts from the time at which the
request was meant to begin: a server that stalls is charged for all whom it kept waiting (no coordinated omission).
`mixed`: good and bad requests of many kinds in a random order, and clients that hang up.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from answering import answer

LONGEST = 120.0
"""Seconds after which an answer is given up."""

AHEAD = 0.05
"""Seconds between the last preparation and the first request."""


class Connection:
    """One connection, asked one thing at a time; opened anew where the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, wanted: bytes) -> int:
        """The status of the answer; 0 where none came."""
        try:
            return await asyncio.wait_for(self._asked(wanted), LONGEST)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError):
            self.close()
            return 0

    async def _asked(self, wanted: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place, limit=1 << 24)
        reader, writer = self._streams
        writer.write(wanted)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if length:
            await reader.readexactly(int(length))
        else:  # chunked
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await reader.readexactly(size + 2)
            await reader.readuntil(b"\r\n")
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    async def leave(self, wanted: bytes) -> None:
        """Ask, and hang up before there is an answer."""
        self.close()
        try:
            _, writer = await asyncio.open_connection(*self._place)
            writer.write(wanted)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.close()
        except OSError:
            pass

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request(host: str, port: int, path: str, body: bytes, method: str = "POST") -> bytes:
    """What is sent."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    if method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def requests(host: str, port: int, path: str, bodies: str) -> list[bytes]:
    """What is sent, from a file of one body a line."""
    return [request(host, port, path, body) for body in Path(bodies).read_bytes().splitlines()]


async def _closed(asked: list[bytes], host: str, port: int, connections: int, seconds: float) -> list[Any]:
    taken: list[tuple[int, float]] = []
    turn = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal turn
        connection = Connection(host, port)
        while (began := time.perf_counter()) < end:
            turn += 1
            status = await connection.ask(asked[turn % len(asked)])
            taken.append((status, time.perf_counter() - began))
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return taken


async def _open(
    asked: list[bytes], host: str, port: int, rate: float, seconds: float, arrivals: str
) -> tuple[list[Any], float]:
    """`even`: at equal distances; `random`: as a Poisson process, as people do.

    Also when the last one began, on the monotonic clock.
    """
    rng = random.Random(3)
    taken: list[tuple[int, float]] = []
    free: list[Connection] = []

    async def one(meant: float, wanted: bytes) -> None:
        connection = free.pop() if free else Connection(host, port)
        status = await connection.ask(wanted)
        taken.append((status, time.perf_counter() - meant))
        free.append(connection)

    tasks = []
    began = meant = time.perf_counter() + AHEAD
    while meant < began + seconds:
        await asyncio.sleep(meant - time.perf_counter())
        tasks.append(asyncio.create_task(one(meant, asked[len(tasks) % len(asked)])))
        meant += rng.expovariate(rate) if arrivals == "random" else 1 / rate
    ended = time.monotonic()
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return taken, ended


def _told(taken: list[tuple[int, float]], seconds: float) -> dict[str, Any]:
    latencies = sorted(latency for _, latency in taken)

    def percentile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(share * len(latencies)))]

    return {
        "requests": len(taken),
        "seconds": seconds,
        "refused": sum(status >= 400 for status, _ in taken),
        "broken": sum(status == 0 for status, _ in taken),
        "p50": percentile(0.50),
        "p99": percentile(0.99),
    }


def closed(host: str, port: int, path: str, bodies: str, connections: int, seconds: float) -> dict[str, Any]:
    """See the module."""
    asked = requests(host, port, path, bodies)
    began = time.perf_counter()
    taken = asyncio.run(_closed(asked, host, port, connections, seconds))
    return _told(taken, time.perf_counter() - began)


def opened(
    host: str, port: int, path: str, bodies: str, rate: float, seconds: float, arrivals: str = "even"
) -> dict[str, Any]:
    """See the module."""
    asked = requests(host, port, path, bodies)
    taken, ended = asyncio.run(_open(asked, host, port, rate, seconds, arrivals))
    return {**_told(taken, seconds), "ended": ended}


async def _mixed(
    kinds: list[dict[str, Any]], host: str, port: int, connections: int, seconds: float
) -> dict[str, Any]:
    rng = random.Random(4)
    ready = [
        (kind, request(host, port, kind["path"], kind["body"].encode(), kind["method"])) for kind in kinds
    ]
    counts: dict[str, dict[int, int]] = {}
    good: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        connection = Connection(host, port)
        while (began := time.perf_counter()) < end:
            kind, asked = rng.choice(ready)
            if kind["leaves"]:
                await connection.leave(asked)
                continue
            status = await connection.ask(asked)
            by_status = counts.setdefault(kind["name"], {})
            by_status[status] = by_status.get(status, 0) + 1
            if kind["good"]:
                good.append((status, time.perf_counter() - began))
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return {"counts": counts, "good": _told(good, seconds)}


def mixed(host: str, port: int, kinds: str, connections: int, seconds: float) -> dict[str, Any]:
    """See the module. The file `kinds` has a JSON object a line: name, method, path, body, good, leaves."""
    listed = [json.loads(line) for line in Path(kinds).read_text("utf-8").splitlines()]
    return asyncio.run(_mixed(listed, host, port, connections, seconds))


if __name__ == "__main__":
    answer({"closed": closed, "open": opened, "mixed": mixed})
