"""A service that goes on: mixed load with bad requests among good ones, its memory meanwhile, and a storm."""

from __future__ import annotations

import base64
import io
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bowerbird as bb
from benchmarks import photographs
from benchmarks.load import Load, closed, opened, place, written
from benchmarks.peers import Peer
from benchmarks.servers import MODEL, Server, ours
from benchmarks.text import sentences

RECORDS = 300
CONNECTIONS = 8
"""Of the mixed load: it keeps the service busy and lets nothing pile up."""

WARM = 0.2
"""Share of the time in which memory may grow."""

DRIFT = 0.05
STORM_SECONDS = 10.0
STORM_TIMES = 10
"""A storm has so many times the requests that can be answered."""

RECOVERED = 5.0
"""Seconds after a storm within which a request is to be answered as before it."""

NORMAL = 2.0
"""An answer is as before when it takes no longer than so many latencies of a single request."""

STREAK = 5
"""So many answers in a row are to be as before: a single one may be luck."""

PATIENCE = 60.0
"""Seconds after a storm until recovery is given up."""

PROBE_SECONDS = 0.05


def soaked(seconds: float) -> str:
    """A table of what was found.

    Args:
        seconds: of mixed load.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        index, names = _index(folder)
        with Server("bowerbird serve", ours(str(index))) as server:
            mixture = folder / "mixture.jsonl"
            mixture.write_text("".join(json.dumps(kind) + "\n" for kind in _mixture(names)), "utf-8")
            server.settle()
            told, sizes = _mixed(server, mixture, seconds)
            mixed = _of_mixture(told, sizes, seconds)
            print(mixed, "\n\nThe storm ...", file=sys.stderr, flush=True)
            files = written(
                folder,
                "storm",
                [
                    {"model": MODEL, "input": texts}
                    for texts in (sentences(2000)[start : start + 8] for start in range(0, 2000, 8))
                ],
            )
            storm = _storm(server, files)
    return f"{mixed}\n\n{storm}"


# What is asked


def _index(folder: Path) -> tuple[Path, list[str]]:
    """An index of photographs with captions, and the ids in it."""
    pictures = photographs.medium(RECORDS)
    captions = sentences(RECORDS)
    index = folder / "soak.bower"
    records = [
        bb.Record(f"record {number}", image=path, texts=(text,))
        for number, (path, text) in enumerate(zip(pictures, captions, strict=True))
    ]
    bb.Collection.from_items(records).embed(bb.load(MODEL)).write(index)
    return index, [f"record {number}" for number in range(RECORDS)]


def _picture(path: Path, side: int) -> str:
    from PIL import Image

    with Image.open(path) as opened_:
        small = opened_.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _mixture(names: list[str]) -> Iterator[dict[str, Any]]:
    rng = random.Random(6)
    texts = sentences(500)
    pictures = [
        _picture(path, side) for path, side in zip(photographs.medium(24), [224, 400, 640] * 8, strict=True)
    ]

    def kind(
        name: str, path: str, body: Any = None, *, good: bool = True, leaves: bool = False
    ) -> dict[str, Any]:
        given = body if isinstance(body, str) else json.dumps(body)
        return {
            "name": name,
            "method": "GET" if body is None else "POST",
            "path": path,
            "body": "" if body is None else given,
            "good": good,
            "leaves": leaves,
        }

    embed, search = "/v1/embeddings", "/v1/search"
    for _ in range(60):
        several = rng.sample(texts, 8)
        picture = rng.choice(pictures)
        record = rng.choice(names).replace(" ", "%20")
        yield kind("a text", embed, {"model": MODEL, "input": rng.choice(texts)})
        yield kind("8 texts", embed, {"model": MODEL, "input": several, "encoding_format": "base64"})
        yield kind("a picture", embed, {"model": MODEL, "input": [{"image": picture}]})
        yield kind("search by words", search, {"text": rng.choice(texts), "k": 10})
        yield kind("search by a picture", search, {"image": picture, "k": 10})
        yield kind("a record", f"/v1/records/{record}")
        yield kind("a thumbnail", f"/v1/records/{record}/image")
        yield kind("who leaves", embed, {"model": MODEL, "input": several}, leaves=True)
    for _ in range(12):
        yield kind("ready", "/health/ready")
        yield kind("models", "/v1/models")
        yield kind("no JSON", embed, '{"model": "mini", "input": [', good=False)
        yield kind("of a wrong type", embed, {"model": MODEL, "input": {"text": 3}}, good=False)
        yield kind("nothing", embed, {"model": MODEL, "input": []}, good=False)
        yield kind("an unknown model", embed, {"model": "none", "input": "a dress"}, good=False)
        yield kind(
            "no picture", embed, {"model": MODEL, "input": [{"image": "data:;base64,AAAA"}]}, good=False
        )
        yield kind("too many", embed, {"model": MODEL, "input": ["a"] * 3000}, good=False)
        yield kind(
            "a private address",
            embed,
            {"model": MODEL, "input": [{"image": "http://169.254.169.254/latest/meta-data"}]},
            good=False,
        )
        yield kind("an id of dots", "/v1/records/..%2F..%2Fetc%2Fpasswd", good=False)
        yield kind("nowhere", "/v1/nowhere", good=False)
        yield kind("a broken filter", search, {"text": "a dress", "where": "price <"}, good=False)


# Mixed load


def _mixed(server: Server, mixture: Path, seconds: float) -> tuple[dict[str, Any], list[float]]:
    """What the client has counted, and MiB each second."""
    sizes: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            sizes.append(server.resident())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with Peer("asking", sys.executable) as client:
            where = place(server.url)
            told = client.ask(
                do="mixed",
                host=where["host"],
                port=where["port"],
                kinds=str(mixture),
                connections=CONNECTIONS,
                seconds=seconds,
            )
    finally:
        over.set()
        watching.join()
    return told, sizes


def _of_mixture(told: dict[str, Any], sizes: list[float], seconds: float) -> str:
    good = Load(**told["good"])
    begin = sizes[int(WARM * len(sizes)) :]
    tenth = max(1, len(begin) // 8)
    first, last = statistics.median(begin[:tenth]), statistics.median(begin[-tenth:])
    lines = [
        f"| mixed load, {seconds:.0f} s, {CONNECTIONS} connections | | wanted |",
        "|---|---|---|",
        f"| good requests | {good.requests:,} ({good.requests / seconds:.0f}/s), p50 {good.p50 * 1e3:.0f} ms, "
        f"p99 {good.p99 * 1e3:.0f} ms | |",
        f"| of them not answered well | {good.refused + good.broken} | 0 |",
        f"| resident size after warm-up, at the end | {first:.0f}, {last:.0f} MiB | |",
        f"| drift | {100 * (last / first - 1):+.1f} % | <= {100 * DRIFT:g} % |",
    ]
    statuses = [
        f"{name} {', '.join(f'{status}: {count}' for status, count in sorted(by_status.items()))}"
        for name, by_status in sorted(told["counts"].items())
    ]
    return "\n".join(lines) + "\n\nAnswers by status: " + "; ".join(statuses) + "."


# A storm


@dataclass(frozen=True)
class Probe:
    """One sentence, asked by itself.

    Attributes:
        sent: on the monotonic clock.
        taken: seconds.
        good: answered well.
    """

    sent: float
    taken: float
    good: bool

    def normal(self, single: float) -> bool:
        """Answered as before, where one took `single` seconds."""
        return self.good and self.taken <= NORMAL * single


def _storm(server: Server, bodies: Path) -> str:
    """Many more requests than can be answered, and how long a single one waits afterwards."""
    server.settle()
    capacity = closed(server.url, bodies, connections=CONNECTIONS, seconds=5).rate
    server.settle()
    single = statistics.median(_probe(server).taken for _ in range(20))
    probes: list[Probe] = []
    recovered: float | None = None
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        raging = pool.submit(
            opened, server.url, bodies, rate=STORM_TIMES * capacity, seconds=STORM_SECONDS, arrivals="random"
        )
        while recovered is None:
            probes.append(_probe(server))
            time.sleep(PROBE_SECONDS)
            if raging.done():
                recovered = recovery(probes, raging.result().ended, single)
                if time.monotonic() > raging.result().ended + PATIENCE:
                    break
    storm = raging.result()
    told = (
        f"{recovered:.2f} s after the last request" if recovered is not None else f"not within {PATIENCE:g} s"
    )
    during = [probe for probe in probes if probe.sent < storm.ended]
    sent_in = storm.ended - began
    return "\n".join(
        [
            f"| a storm of {STORM_TIMES} times what can be answered, {STORM_SECONDS:g} s | | wanted |",
            "|---|---|---|",
            f"| before: requests of 8 sentences a second; one sentence | {capacity:.0f}, {single * 1e3:.1f} ms | |",
            f"| sent | {storm.requests:,} in {sent_in:.1f} s ({storm.requests / sent_in / capacity:.1f} times) | |",
            f"| answered, told to come back, without an answer | {storm.requests - storm.refused - storm.broken:,}, "
            f"{storm.refused:,}, {storm.broken:,} | |",
            f"| single sentences answered meanwhile | {sum(probe.good for probe in during)} of {len(during)} | |",
            f"| {STREAK} single sentences in a row take at most {NORMAL:g} times what one took before "
            f"| {told} | <= {RECOVERED:g} s |",
            f"| resident size afterwards | {server.resident():.0f} MiB | |",
        ]
    )


def recovery(probes: Sequence[Probe], ended: float, single: float) -> float | None:
    """Seconds from `ended` until the first answer of a row that are all as before; None: there is no such row."""
    after = [probe for probe in probes if probe.sent >= ended]
    for start in range(len(after) - STREAK + 1):
        if all(probe.normal(single) for probe in after[start : start + STREAK]):
            return after[start].sent + after[start].taken - ended
    return None


def _probe(server: Server) -> Probe:
    began = time.monotonic()
    try:
        server.embed("a red dress")
    except OSError:
        return Probe(began, time.monotonic() - began, good=False)
    return Probe(began, time.monotonic() - began, good=True)
