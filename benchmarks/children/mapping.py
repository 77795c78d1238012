"""Peer: `n + 1` for each of many numbers, as each library's own documentation writes it, and the numbers counted.

One library for a process: `load` says which.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from answering import answer

BATCH = 1024

work: Callable[[int], int]


def one(number: int) -> int:
    """What is done with every number."""
    return number + 1


def streamable(count: int) -> int:
    """A chain of `streamable`, with no threads."""
    from streamable import stream

    return sum(1 for _ in stream(range(count)).map(one))


def streamable_groups(count: int) -> int:
    """The same in groups."""
    from streamable import stream

    groups = stream(range(count)).group(BATCH).map(lambda numbers: [one(number) for number in numbers])
    return sum(1 for _ in groups.flatten())


def ray(count: int) -> int:
    """Ray Data by hand. What comes back is counted here, batch by batch."""
    import ray.data

    mapped = ray.data.range(count).map_batches(lambda batch: {"id": [one(number) for number in batch["id"]]})
    return sum(len(batch["id"]) for batch in mapped.iter_batches(batch_size=None))


def towhee(count: int) -> int:
    """Towhee 1.x: `DataCollection` has no `map` any more, it holds what a pipeline has made."""
    from towhee import DataCollection, pipe

    steps = pipe.input("count").flat_map("count", "number", range).map("number", "result", one)
    return sum(1 for _ in DataCollection(steps.output("result")(count)))


def towhee_chain(count: int) -> int:
    """Towhee 0.9: `DataCollection` is the chain itself; a streaming one, which holds no list."""
    from towhee import DataCollection

    return sum(1 for _ in DataCollection.range(count).stream().map(one))


LIBRARIES = {
    "streamable": (streamable, ("streamable",)),
    "streamable_groups": (streamable_groups, ("streamable",)),
    "ray": (ray, ("ray",)),
    "towhee": (towhee, ("towhee",)),
    "towhee_chain": (towhee_chain, ("towhee", "pyarrow")),
}


def load(library: str) -> dict[str, Any]:
    """Import a library, and do the work once on a few numbers."""
    global work
    work, packages = LIBRARIES[library]
    if library == "ray":
        _start_ray()
    if work(10) != 10:
        raise SystemExit(f"{library} loses numbers.")
    return {"versions": ", ".join(f"{package} {version(package)}" for package in packages)}


def _start_ray() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    warnings.simplefilter("ignore")
    import ray
    import ray.data

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def run(count: int) -> dict[str, Any]:
    """Do it, and count."""
    started = time.perf_counter()
    counted = work(count)
    seconds = time.perf_counter() - started
    if counted != count:
        print(f"{counted} of {count} came through", file=sys.stderr)
    return {"seconds": seconds}


answer({"load": load, "run": run})
