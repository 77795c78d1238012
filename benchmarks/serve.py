"""The service under load: against the same model in this process, against other servers, its own share of the
processor, latencies at half of its greatest load, and its cold start. With `--soak SECONDS`: mixed load, then a storm.

What asks runs on the same processors: `wrk`, which takes little of them. Everything takes turns: the model in this
process, ours with 8 sentences a request, ours with one, each of the others with 8 and with one, and again.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import struct
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import bowerbird as bb
from benchmarks import soak
from benchmarks.load import CONNECTIONS, closed, generator, opened, written
from benchmarks.peers import HERE
from benchmarks.servers import BOWERBIRD, MODEL, PEERS, Server, bowerbird, ours
from benchmarks.side_by_side import Contestant, Timed, alternate, report, table, timed, versions
from benchmarks.text import least_cosine, sentences

SIZES = (8, 1)
"""Sentences in a request."""

WANTED = {8: 0.85, 1: 0.6}
"""Of the rate of the model alone."""

OWN = 0.6
"""Milliseconds of a processor that a request may take outside of the model."""

SLOWER = 5.0
"""The 99th percentile at half load, in latencies of a single request."""

COLD = 3.0
"""Seconds until the first answer of a new process."""


@dataclass
class Shares:
    """Seconds of a processor that requests of one size took, by round.

    Attributes:
        requests: of each round.
        all: what the process took.
        model: what the runs of the model took of that.
    """

    requests: list[int] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)

    def outside(self) -> list[float]:
        """Milliseconds a request, by round; the first, which warms up, is left out."""
        rows = list(zip(self.requests, self.all, self.model, strict=True))[1:]
        return [1e3 * (whole - inside) / count for count, whole, inside in rows]


class Counted(Server):
    """Ours, with what its models take of the processors."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "model-seconds"
        command = [sys.executable, str(HERE / "children" / "serving.py"), str(self._file), *ours()[3:]]
        made_of = versions("uvicorn", "starlette", "orjson", "tokenizers")
        super().__init__("bowerbird serve", command, versions=made_of)

    def model(self) -> float:
        """Seconds so far."""
        (seconds,) = struct.unpack("<d", self._file.read_bytes()[:8])
        return float(seconds)


def bodies(folder: Path, texts: Sequence[str]) -> dict[int, Path]:
    """Files of requests by how many sentences are in each; one sentence is asked as a string."""
    return {
        size: written(
            folder,
            f"{size}-sentences",
            [
                {"model": MODEL, "input": texts[start] if size == 1 else list(texts[start : start + size])}
                for start in range(0, len(texts) - size + 1, size)
            ],
        )
        for size in SIZES
    }


def asked(server: Server, file: Path, size: int, *, connections: int, seconds: float, items: int) -> Timed:
    """Load for some seconds; what `items` sentences take at the rate that was reached."""

    def run() -> float:
        load = closed(server.url, file, connections=connections, seconds=seconds).good()
        return items / (load.rate * size)

    return run


def counted(
    server: Counted, file: Path, size: int, shares: Shares, *, connections: int, seconds: float, items: int
) -> Timed:
    """As `asked`, and what it took of the processors."""

    def run() -> float:
        whole, inside = server.cpu(), server.model()
        load = closed(server.url, file, connections=connections, seconds=seconds).good()
        shares.requests.append(load.requests)
        shares.all.append(server.cpu() - whole)
        shares.model.append(server.model() - inside)
        return items / (load.rate * size)

    return run


def within(ours_: Contestant, base: Contestant) -> list[float]:
    """How fast one is compared with another, by round."""
    return [theirs / own for theirs, own in zip(base.seconds, ours_.seconds, strict=True)]


def rates(given: argparse.Namespace, texts: Sequence[str], folder: Path) -> tuple[str, dict[int, float]]:
    """Tables of rates and of what requests take of the processor; and requests a second of ours by size."""
    model = bb.load(MODEL)
    items = len(texts)
    exact = bb.load(MODEL, precision="exact").embed(texts)
    vectors = model.embed(texts)
    engine = model.numerics()["text"]
    alone = Contestant(
        "the model alone",
        timed(lambda: model.embed(texts)),
        f"{engine['engine']}, {engine['precision']}",
        least_cosine(exact, vectors),
    )
    files = bodies(folder, texts)
    shares = {size: Shares() for size in SIZES}
    by_size: dict[int, list[Contestant]] = {size: [] for size in SIZES}
    contestants = [alone]
    with ExitStack() as stack:
        own = stack.enter_context(Counted(folder))
        servers: list[Server] = [own]
        for peer in given.peers:
            try:
                servers.append(stack.enter_context(PEERS[peer]()))
            except Exception as error:  # noqa: BLE001  whatever keeps it from running is told, and the others go on
                print(f"{peer} does not run here: {error}", file=sys.stderr)
        for server in servers:
            server.settle()
            cosine = least_cosine(exact[:64], _unit(server.embed(list(texts[:64]))))
            for size in SIZES:
                how = {"connections": given.connections, "seconds": given.seconds, "items": items}
                run = (
                    counted(own, files[size], size, shares[size], **how)
                    if server is own
                    else asked(server, files[size], size, **how)
                )
                name = f"{server.name}, {size} a request"
                by_size[size].append(Contestant(name, run, server.versions, cosine))
                contestants.append(by_size[size][-1])
        alternate(contestants, given.rounds)
    parts = [
        table(
            f"sentences, {size} a request, {given.connections} connections",
            [by_size[size][0], alone, *by_size[size][1:]],
            items=items,
            base=by_size[size][0].name,
        )
        for size in SIZES
    ]
    parts.append(_shares(by_size, shares, alone))
    return "\n\n".join(parts), {size: items / by_size[size][0].median / size for size in SIZES}


def _shares(by_size: dict[int, list[Contestant]], shares: dict[int, Shares], alone: Contestant) -> str:
    lines = [
        "| bowerbird serve | of the rate of the model alone | wanted | a request takes outside of the model | wanted |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        ratios = within(by_size[size][0], alone)
        outside = shares[size].outside()
        wanted = f"<= {OWN} ms" if size == 1 else ""
        lines.append(
            f"| {size} a request | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| >= {WANTED[size]} | {statistics.median(outside):.2f} ms of a processor "
            f"({min(outside):.2f}-{max(outside):.2f}) | {wanted} |"
        )
    return "\n".join(lines)


def _unit(vectors: Sequence[Sequence[float]]) -> np.ndarray:
    array = np.array(vectors, np.float32)
    unit: np.ndarray = array / np.linalg.norm(array, axis=1, keepdims=True)
    return unit


def latencies(given: argparse.Namespace, texts: Sequence[str], folder: Path, most: dict[int, float]) -> str:
    """Latencies at half of the greatest load, in latencies of a single request."""
    files = bodies(folder, texts)
    lines = [
        "| at half load | requests a second | alone, p50 | p50 | p99 | p99 in latencies alone | wanted |",
        "|---|---|---|---|---|---|---|",
    ]
    with bowerbird() as server:
        server.settle()
        for size in SIZES:
            closed(server.url, files[size], connections=given.connections, seconds=2).good()
            for arrivals in ("even", "random"):
                rows: list[tuple[float, float, float]] = []
                for _ in range(given.rounds):
                    single = closed(server.url, files[size], connections=1, seconds=given.seconds).good()
                    half = opened(
                        server.url,
                        files[size],
                        rate=most[size] / 2,
                        seconds=given.seconds,
                        arrivals=arrivals,
                    ).good()
                    rows.append((single.p50, half.p50, half.p99))
                single_, middle, late = (
                    statistics.median(column) * 1e3 for column in zip(*rows, strict=True)
                )
                times = sorted(row[2] / row[0] for row in rows)
                lines.append(
                    f"| {size} a request, {arrivals} arrivals | {most[size] / 2:.0f} | {single_:.1f} ms "
                    f"| {middle:.1f} ms | {late:.1f} ms | {statistics.median(times):.1f} "
                    f"({times[0]:.1f}-{times[-1]:.1f}) | <= {SLOWER:g} |"
                )
    return "\n".join(lines)


def cold(rounds: int) -> str:
    """Seconds from the start of a new process to its first answer."""
    taken = []
    for _ in range(rounds + 1):
        with bowerbird() as server:
            taken.append(server.cold)
    counted_ = taken[1:]
    return (
        "| cold start | median | least | most | wanted |\n|---|---|---|---|---|\n"
        f"| `{' '.join(('bowerbird', *ours()[len(BOWERBIRD) - 1 :]))}`, first answer "
        f"| {statistics.median(counted_):.2f} s | {min(counted_):.2f} s | {max(counted_):.2f} s | <= {COLD:g} s |"
    )


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=8, help="of load, each time")
    arguments.add_argument("--connections", type=int, default=CONNECTIONS)
    arguments.add_argument("--count", type=int, default=2000, help="sentences")
    arguments.add_argument("--peers", nargs="*", default=["infinity"], choices=list(PEERS))
    arguments.add_argument(
        "--only", nargs="+", default=["rates", "latencies", "cold"], choices=["rates", "latencies", "cold"]
    )
    arguments.add_argument(
        "--soak", type=float, nargs="?", const=600.0, default=0.0, metavar="SECONDS", help="of mixed load"
    )
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives this process
    if given.soak:
        report(soak.soaked(given.soak))
        return
    texts = sentences(given.count)
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        most: dict[int, float] = {}
        if "rates" in given.only:
            body, most = rates(given, texts, folder)
            parts.append(body)
        if "latencies" in given.only:
            if not most:
                with bowerbird() as server:
                    files = bodies(folder, texts)
                    most = {
                        size: closed(
                            server.url, files[size], connections=given.connections, seconds=given.seconds
                        )
                        .good()
                        .rate
                        for size in SIZES
                    }
            parts.append(latencies(given, texts, folder, most))
    if "cold" in given.only:
        parts.append(cold(given.rounds))
    report("\n\n".join([*parts, f"Load by {generator()}."]), rounds=given.rounds)


if __name__ == "__main__":
    main()
