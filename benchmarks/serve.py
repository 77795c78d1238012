"""The service under load: against the same model in this process, against other servers, its own share of the
processor, latencies at half of its greatest load, and its cold start. With `--soak SECONDS`: mixed load, then a storm.

What asks runs on the same processors: `wrk`, which takes little of them. Everything takes turns: the model in this
process, ours with 8 sentences a request, ours with one, each of the others with 8 and with one, and again.
"""

from __future__ import annotations

import argparse
import math
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
from benchmarks.servers import BOWERBIRD, MODEL, PEERS, SETTLING, Server, bowerbird, ours
from benchmarks.side_by_side import Contestant, Meanwhile, Timed, alternate, report, table, timed, versions
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

ALONE = 1.0
"""Seconds for which single requests are asked, before load at a given rate."""

PARTS = ("rates", "latencies", "cold")


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
    """Load for some seconds; what `items` sentences take at the rate that was reached.

    Only good answers count. One that has none takes forever, and the others go on.
    """

    def run() -> float:
        with server.turn():
            load = closed(server.url, file, connections=connections, seconds=seconds)
        if load.refused or load.broken:
            print(f"{server.name} did not answer all well: {load}", file=sys.stderr)
        return items / (load.rate * size) if load.rate else math.inf

    return run


def counted(
    server: Counted, file: Path, size: int, shares: Shares, *, connections: int, seconds: float, items: int
) -> Timed:
    """As `asked`, and what it took of the processors; every answer has to be good."""

    def run() -> float:
        with server.turn():
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
    """Tables of rates and of what requests take of the processor; and requests a second of ours by size.

    A server is held while others have their turn.
    """
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
        servers = [stack.enter_context(Counted(folder))]
        for peer in given.peers:
            try:
                print(f"Starting {peer} ...", file=sys.stderr, flush=True)
                servers.append(stack.enter_context(PEERS[peer]()))
            except Exception as error:  # noqa: BLE001  whatever keeps it from running is told, and the others go on
                print(f"{peer} does not run here: {error}", file=sys.stderr)
        for server in servers:
            server.settle(seconds=SETTLING if isinstance(server, Counted) else 5.0)
            cosine = least_cosine(exact[:64], _unit(server.embed(list(texts[:64]))))
            server.pause()
            for size in SIZES:
                how = {"connections": given.connections, "seconds": given.seconds, "items": items}
                run = (
                    counted(server, files[size], size, shares[size], **how)
                    if isinstance(server, Counted)
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
                    single = closed(server.url, files[size], connections=1, seconds=ALONE).good()
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


def greatest(given: argparse.Namespace, texts: Sequence[str], folder: Path) -> dict[int, float]:
    """Requests a second that are answered at most, by size."""
    files = bodies(folder, texts)
    how = {"connections": given.connections, "seconds": given.seconds}
    with bowerbird() as server:
        server.settle()
        return {size: closed(server.url, files[size], **how).good().rate for size in SIZES}


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


def _asked() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    arguments.add_argument("--rounds", type=int, default=5, help="that count; one before them does not")
    arguments.add_argument(
        "--seconds", type=float, default=5, help="of load, for each server and size of request in each round"
    )
    arguments.add_argument("--connections", type=int, default=CONNECTIONS, help="that ask at once for rates")
    arguments.add_argument("--count", type=int, default=2000, help="sentences, asked again and again")
    arguments.add_argument(
        "--peers",
        nargs="*",
        default=list(PEERS),
        choices=list(PEERS),
        metavar="NAME",
        help=f"servers to compare with, of {', '.join(PEERS)}; none after the option: only ours",
    )
    arguments.add_argument(
        "--only",
        nargs="+",
        default=list(PARTS),
        choices=PARTS,
        metavar="PART",
        help="rates: against the model alone and the peers, and what a request takes outside of the model; "
        "latencies: at half of the greatest load; cold: from the start of a process to its first answer",
    )
    arguments.add_argument(
        "--soak",
        type=float,
        nargs="?",
        const=600.0,
        default=0.0,
        metavar="SECONDS",
        help="instead of all that: so much mixed load with bad requests (600 where no number is given), the memory "
        "meanwhile, a storm, and the time until it is over",
    )
    return arguments.parse_args()


def _leave(*_: object) -> None:
    """End as after Ctrl-C, so that no server outlives this process."""
    raise KeyboardInterrupt


def main() -> None:
    """Run it."""
    given = _asked()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    meanwhile = Meanwhile()
    if given.soak:
        body = soak.soaked(given.soak)
        report(f"{body}\n\n{meanwhile.told()}.")
        return
    parts = measured(given, sentences(given.count))
    report("\n\n".join([*parts, f"Load by {generator()}. {meanwhile.told()}."]), rounds=given.rounds)


def measured(given: argparse.Namespace, texts: Sequence[str]) -> list[str]:
    """The tables of the parts that are asked for; each is shown on stderr as soon as it is there."""
    tables: list[str] = []

    def add(part: str) -> None:
        tables.append(part)
        print(f"{part}\n", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        most: dict[int, float] = {}
        if "rates" in given.only:
            body, most = rates(given, texts, folder)
            add(body)
        if "latencies" in given.only:
            add(latencies(given, texts, folder, most or greatest(given, texts, folder)))
        if "cold" in given.only:
            add(cold(given.rounds))
    return tables


if __name__ == "__main__":
    main()
