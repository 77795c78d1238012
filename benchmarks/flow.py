"""Collections: what the executors cost over a loop written by hand, against other chains, and in memory.

Four parts, each with a table of its own:

* `embedding`: the local executor against loops over the same model, without the cache.
* `mapping`: a trivial function over many numbers, against the plain loop, streamable, Ray Data and towhee.
* `ray`: Ray workers against as many threads, and against Ray Data written by hand.
* `memory`: the most memory that a run over 1,000 elements takes, and one over 100,000.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

import bowerbird as bb
from benchmarks import photographs
from benchmarks.peers import HERE, Peer, python_of
from benchmarks.side_by_side import DATA, ROUNDS, Contestant, alternate, report, table, timed, versions
from benchmarks.text import sentences
from bowerbird.flow.plan import CAPACITY
from bowerbird.lookahead import chunks
from bowerbird.models.encoder import IMAGE_BATCH
from bowerbird.settings import settings

PARTS = ("embedding", "mapping", "ray", "memory")

LIBRARIES = {
    "streamable": ("streamable", "streamable"),
    "streamable, groups of 1,024": ("streamable_groups", "streamable"),
    "Ray Data by hand": ("ray", ""),
    "towhee 1.1, pipe and DataCollection": ("towhee", "towhee"),
    "towhee 0.9, DataCollection": ("towhee_chain", "towhee_chain"),
}
"""Name -> what `children/mapping.py` calls it, and its environment; empty: that of the benchmark."""

CASES = {
    "map": "`map`, `filter` and `map_batches` of 10 kB",
    "threads": "`map(threads=2)` of 10 kB",
    "embed": "short texts through mini",
    "parquet": "records with a vector of 384 to Parquet",
    "npy": "the same to npy",
    "lance": "the same to Lance",
    "index": "texts, of which 1,000 differ, into an index",
}

BEGINNING = 8
"""The clock of the part `ray` starts when one in so many results is there: by then every worker has its model."""

AT_ONCE = 0.01
"""Seconds within which results count as having come together."""


def folder(count: int) -> Path:
    """A folder with links to `count` photographs of 500 px."""
    made = DATA / f"500px-links-{count}"
    made.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(photographs.medium(count)):
        link = made / f"{number:06d}.jpg"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return made


def pictures(count: int, rounds: int, threads: int) -> str:
    """The table of 500 px pictures."""
    photos = folder(count)
    paths = sorted(photos.glob("*.jpg"))
    model = bb.load("mini", threads=threads)
    side = model.image

    def one_batch(batch: Sequence[Path]) -> np.ndarray:
        vectors = side.run([side.ready(path) for path in batch], side.outputs)[0]
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def by_hand() -> np.ndarray:
        with ThreadPoolExecutor(threads) as pool:
            files = sorted(photos.glob("*.jpg"))
            return np.concatenate(list(pool.map(one_batch, chunks(files, IMAGE_BATCH))))

    def collected() -> np.ndarray:
        made = bb.Collection.from_glob(photos).embed(model, cache=False).on(bb.Local(threads=threads))
        return np.stack([record.vectors["image"] for record in made])

    loop = Contestant("loop by hand: a pool of threads, batches of 8", timed(by_hand))
    outcomes = Contestant("`Encoder.outcomes`", timed(lambda: model.outcomes(paths)))
    ours = Contestant("`Collection.embed`", timed(collected), _numerics(model, "image"))
    ours.cosine = _least_cosine(by_hand(), collected())
    alternate([loop, outcomes, ours], rounds)
    return overhead(f"embedding {len(paths):,} pictures of 500 px", [loop, outcomes, ours], len(paths))


def texts(count: int, rounds: int, threads: int) -> str:
    """The table of sentences."""
    given = sentences(count)
    model = bb.load("mini", threads=threads)

    def collected() -> np.ndarray:
        made = bb.Collection.from_texts(given).embed(model, cache=False).on(bb.Local(threads=threads))
        return np.stack([record.vectors["text"] for record in made])

    def by_hand() -> list[np.ndarray]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(model.embed, chunks(given, CAPACITY)))

    loop = Contestant("`Encoder.embed`, all at once", timed(lambda: model.embed(given)))
    lists = Contestant(f"loop by hand: a pool of threads, lists of {CAPACITY}", timed(by_hand))
    ours = Contestant("`Collection.embed`", timed(collected), _numerics(model, "text"))
    ours.cosine = _least_cosine(model.embed(given), collected())
    alternate([loop, lists, ours], rounds)
    return overhead(f"embedding {count:,} sentences", [loop, lists, ours], count)


def overhead(what: str, contestants: Sequence[Contestant], items: int) -> str:
    """Markdown: the rate of each, and how much longer it takes than the first; least and most within a round."""
    loop = contestants[0]
    lines = [
        f"| {what} | per second | longer than the first | least cos | made of |",
        "|---|---|---|---|---|",
    ]
    for other in contestants:
        more = sorted(100 * (a / b - 1) for a, b in zip(other.seconds, loop.seconds, strict=True))
        shown = f"{statistics.median(more):+.1f} % ({more[0]:+.1f} to {more[-1]:+.1f})"
        cosine = "" if other.cosine is None else f"{other.cosine:.6f}"
        rate = items / other.median
        lines.append(
            f"| {other.name} | {rate:,.1f} | {'' if other is loop else shown} | {cosine} | {other.versions} |"
        )
    return "\n".join(lines)


def one(number: int) -> int:
    """The trivial function."""
    return number + 1


def mapping(count: int, rounds: int) -> str:
    """The table of a trivial function, with every library that could be had."""
    numbers = bb.Collection.range(count)
    ours = {
        "the plain loop": lambda: [one(number) for number in range(count)],
        "`Collection.map`": lambda: numbers.map(one).count(),
        "`Collection.map_batches`": lambda: numbers.map_batches(_all).count(),
        "`Collection.map(threads=2)`": lambda: numbers.map(one, threads=2).count(),
    }
    contestants = [Contestant(name, timed(work)) for name, work in ours.items()]
    missing = []
    with ExitStack() as stack:
        for name, (library, environment) in LIBRARIES.items():
            try:
                python = python_of(environment) if environment else sys.executable
                peer = stack.enter_context(Peer("mapping", python))
                made_of = peer.ask(do="load", library=library)["versions"]
            except (subprocess.CalledProcessError, RuntimeError) as error:
                missing.append(f"{name} does not install, or does not start, on this Python: {error}")
                continue
            contestants.append(
                Contestant(name, lambda peer=peer: float(peer.ask(do="run", count=count)["seconds"]), made_of)
            )
        alternate(contestants, rounds)
    lines = [
        f"| a trivial function, {count:,} numbers | µs each | over the loop, µs each | made of |",
        "|---|---|---|---|",
    ]
    loop = contestants[0]
    for other in contestants:
        more = sorted((a - b) / count * 1e6 for a, b in zip(other.seconds, loop.seconds, strict=True))
        shown = f"{statistics.median(more):.2f} ({more[0]:.2f} to {more[-1]:.2f})"
        each = other.median / count * 1e6
        lines.append(f"| {other.name} | {each:.2f} | {'' if other is loop else shown} | {other.versions} |")
    return "\n".join([*lines, *(f"\n{line}" for line in missing)])


def _all(numbers: list[int]) -> list[int]:
    return [one(number) for number in numbers]


def on_ray(count: int, rounds: int, workers: int) -> str:
    """The table of Ray: all on one cluster with as many processors as workers, which is started first."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    files = folder(count)
    paths = sorted(files.glob("*.jpg"))
    model = bb.load("mini", threads=workers)
    exact = bb.load("mini", precision="exact", threads=workers).embed(paths)
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    photos = bb.Collection.from_glob(files).embed(model, cache=False)
    entries = []
    for name, executor in (("Ray workers", bb.Ray(workers=workers)), ("threads", bb.Local(threads=workers))):
        work = partial(_arrivals, photos.on(executor))
        vectors = np.stack([record.vector for record in photos.on(executor)])
        made_of = f"{_numerics(model, 'image')}; {versions('ray') if 'Ray' in name else versions('pillow')}"
        entry = Contestant(
            f"bowerbird, {workers} {name}", Steady(work), made_of, _least_cosine(exact, vectors)
        )
        entries.append(entry)
    with Peer("ray_data", sys.executable) as peer, tempfile.TemporaryDirectory() as scratch:
        tower = model.card.image
        assert tower
        address = ray.get_runtime_context().gcs_address
        loaded = peer.ask(do="load", graph=str(tower.graph.path), output_name=tower.output, address=address)
        for actor, name in (("session", "ONNX Runtime"), ("model", "`bowerbird.load`")):
            saved = Path(scratch, f"{actor}.npy")
            names = [str(path) for path in paths]
            ask = partial(peer.ask, do="embed", paths=names, workers=workers, actor=actor)
            ask(save=str(saved))
            entries.append(
                Contestant(
                    f"Ray Data by hand, {name} in {workers} actors",
                    Steady(lambda ask=ask: ask()["arrived"]),
                    loaded["versions"],
                    _least_cosine(exact, np.load(saved)),
                )
            )
        alternate(entries, rounds)
    ray.shutdown()
    what = f"{len(paths):,} pictures of 500 px, from the first {len(paths) // BEGINNING:,} on"
    body = table(what, entries, items=len(paths), base=entries[0].name)
    whole = "; ".join(f"{entry.name} {entry.run.whole:.1f} s" for entry in entries)  # type: ignore[attr-defined]
    return f"{body}\n\nWhole runs, workers started and models loaded: {whole}."


class Steady:
    """A run without its beginning: the seconds that all results would take at the pace of the later ones.

    Starting processes and loading models is left out so, of all alike, however long it takes.

    Attributes:
        seconds: of each whole run, the first one too.
    """

    def __init__(self, arrivals: Callable[[], list[float]]) -> None:
        self._arrivals = arrivals
        self.seconds: list[float] = []

    def __call__(self) -> float:
        """See `benchmarks.side_by_side.Timed`."""
        arrived = self._arrivals()
        self.seconds.append(arrived[-1])
        begin = arrived[len(arrived) // BEGINNING]
        later = sum(time > begin + AT_ONCE for time in arrived)
        if not later:
            raise SystemExit("All results came at once: give more of --photos.")
        return (arrived[-1] - begin) * len(arrived) / later

    @property
    def whole(self) -> float:
        """Median of the whole runs, in seconds, but for the first one."""
        return statistics.median(self.seconds[1:])


def _arrivals(results: Iterable[object]) -> list[float]:
    """When each result was there, in seconds."""
    started = perf_counter()
    return [perf_counter() - started for _ in results]


def memory(few: int, many: int, cases: Sequence[str]) -> str:
    """The table of memory: each run in a process of its own."""
    lines = [
        f"| peak resident size | {few:,} elements | {many:,} elements | times | seconds |",
        "|---|---|---|---|---|",
    ]
    for case in cases:
        small, large = (_held(case, count) for count in (few, many))
        lines.append(
            f"| {CASES[case]} | {small['peak']:,.0f} MiB | {large['peak']:,.0f} MiB "
            f"| {large['peak'] / small['peak']:.2f} | {large['seconds']:.0f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def _held(case: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        # Nobody else's cache: with one, the number of runs before would decide what is computed.
        environment = {**os.environ, "BOWERBIRD_CACHE_DIR": scratch}
        command = [sys.executable, str(HERE / "children" / "held.py"), case, str(count), scratch]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return found


def _numerics(model: bb.Encoder, tower: str) -> str:
    chosen = model.warm().numerics()[tower]
    return f"{chosen['engine']}, {chosen['precision']}"


def _least_cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first.astype(np.float64) * second).sum(1).min())


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; none: all")
    arguments.add_argument("--pictures", type=int, default=400, help="of 500 px, for the part embedding")
    arguments.add_argument("--texts", type=int, default=2000, help="sentences, for the part embedding")
    arguments.add_argument("--numbers", type=int, default=100_000, help="for the part mapping")
    arguments.add_argument("--photos", type=int, default=1500, help="of 500 px, for the part ray")
    arguments.add_argument("--few", type=int, default=1000, help="elements, for the part memory")
    arguments.add_argument("--many", type=int, default=100_000, help="elements, for the part memory")
    arguments.add_argument("--cases", default=",".join(CASES), help="of the part memory")
    arguments.add_argument(
        "--workers", type=int, default=0, help="threads, or workers; 0: the processors here"
    )
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    given = arguments.parse_args()
    parts = given.parts or PARTS
    if unknown := sorted({*parts} - {*PARTS}):
        arguments.error(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    workers = given.workers or settings().worker_threads
    tables = []
    if "embedding" in parts:
        tables += [
            pictures(given.pictures, given.rounds, workers),
            texts(given.texts, given.rounds, workers),
        ]
    if "mapping" in parts:
        tables.append(mapping(given.numbers, given.rounds))
    if "ray" in parts:
        tables.append(on_ray(given.photos, given.rounds, workers))
    if "memory" in parts:
        tables.append(memory(given.few, given.many, given.cases.split(",")))
    report("\n\n".join(tables), rounds=None if tuple(parts) == ("memory",) else given.rounds)


if __name__ == "__main__":
    main()
