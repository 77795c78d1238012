"""One run of a collection in a process of its own; prints the most memory that the process has held.

`python held.py CASE COUNT FOLDER`. Elements are made while the run goes on, so that only the run can hold them.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import bowerbird as bb

PAYLOAD = 10_000
DIMENSIONS = 384
TEXTS = 1000


def peak() -> float:
    """MiB: the largest resident size so far."""
    try:
        # Of this program alone; what `getrusage` says may be the parent's, from before it was started.
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = largest // 1024 if sys.platform == "darwin" else largest
    return kilobytes / 1024


def payloads(count: int) -> Iterator[bytes]:
    """Bytes of 10 kB, no two the same."""
    for number in range(count):
        yield number.to_bytes(8, "big") * (PAYLOAD // 8)


def records(count: int) -> Iterator[bb.Record]:
    """Records that have a vector already."""
    rng = np.random.default_rng(1)
    for number in range(count):
        vector = rng.standard_normal(DIMENSIONS, np.float32)
        yield bb.Record(
            f"record {number}",
            texts=(f"the text of record {number}",),
            attributes={"price": number % 100},
            vectors={"image": vector / np.linalg.norm(vector)},
            named=True,
        )


def texts(count: int) -> Iterator[bb.Record]:
    """Records with a short text, of which there are a thousand: an index embeds each once."""
    for number in range(count):
        yield bb.Record(f"record {number}", texts=(f"number {number % TEXTS}",), named=True)


def reversed_bytes(payload: bytes) -> bytes:
    """A trivial function that gives as much as it takes."""
    return payload[::-1]


def as_they_are(payloads: list[bytes]) -> list[bytes]:
    """The same for lists."""
    return [reversed_bytes(payload) for payload in payloads]


def mapped(count: int, folder: Path) -> int:
    """A chain of functions."""
    made = bb.Collection.from_items(lambda: payloads(count))
    return made.map(reversed_bytes).filter(len).map_batches(as_they_are).count()


def in_threads(count: int, folder: Path) -> int:
    """A chain of functions in threads, and a consumer that looks at every result."""
    made = bb.Collection.from_items(lambda: payloads(count)).map(reversed_bytes, threads=2)
    return sum(len(result) == PAYLOAD for result in made)


def embedded(count: int, folder: Path) -> int:
    """Short texts through the model, no two the same, nothing from the cache."""
    made = bb.Collection.from_texts(f"number {number}" for number in range(count))
    return made.embed("mini", cache=False).count()


def written(suffix: str) -> Callable[[int, Path], int]:
    """Vectors that were made before, into a file."""

    def run(count: int, folder: Path) -> int:
        return bb.Collection.from_items(lambda: records(count)).write(folder / f"made{suffix}").done

    return run


def indexed(count: int, folder: Path) -> int:
    """Texts into an index."""
    return bb.Collection.from_items(lambda: texts(count)).write(folder / "made.bower").done


CASES: dict[str, Callable[[int, Path], int]] = {
    "map": mapped,
    "threads": in_threads,
    "embed": embedded,
    "parquet": written(".parquet"),
    "npy": written(".npy"),
    "lance": written(".lance"),
    "index": indexed,
}

if __name__ == "__main__":
    case, wanted, scratch = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    began = time.perf_counter()
    done = CASES[case](wanted, scratch)
    if done != wanted:
        raise SystemExit(f"{done} of {wanted} came through.")
    print(json.dumps({"peak": peak(), "seconds": time.perf_counter() - began}))
