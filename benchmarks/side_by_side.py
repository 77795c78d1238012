"""Ours and the others, timed in turns: A B C, A B C, ... so that whatever else the machine does hits all alike."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROUNDS = 5

HERE = Path(__file__).parent
DATA = HERE / ".data"
SHARED = HERE.parents[1] / "shared" / "data"

Timed = Callable[[], float]
"""Does the work once and returns the seconds it took."""


@dataclass
class Contestant:
    """One way of doing the work.

    Attributes:
        name: as the table shows it.
        run: see `Timed`.
        versions: what it is made of.
        cosine: least cosine of its vectors to those it is compared with; None where there are none.
        seconds: of each round.
    """

    name: str
    run: Timed
    versions: str = ""
    cosine: float | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)


def timed(work: Callable[[], object]) -> Timed:
    """Work of this process, with the clock around it."""

    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def alternate(contestants: Sequence[Contestant], rounds: int = ROUNDS) -> None:
    """One round of each that is not counted, then `rounds` rounds in turns."""
    for contestant in contestants:
        contestant.run()
    for number in range(rounds):
        for contestant in contestants:
            contestant.seconds.append(contestant.run())
        shown = ", ".join(f"{c.name} {c.seconds[-1]:.2f} s" for c in contestants)
        print(f"round {number + 1}/{rounds}: {shown}", file=sys.stderr, flush=True)


def table(what: str, contestants: Sequence[Contestant], *, items: int, base: str) -> str:
    """Markdown: the rate of each, and how many times faster `base` is.

    The ratio is the median over rounds of the ratio within a round, which noise from outside disturbs least;
    behind it the least and the largest.
    """
    ours = next(contestant for contestant in contestants if contestant.name == base)
    lines = [
        f"| {what} | per second | {base} is | least cos | made of |",
        "|---|---|---|---|---|",
    ]
    for other in contestants:
        ratios = sorted(theirs / own for theirs, own in zip(other.seconds, ours.seconds, strict=True))
        faster = f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        cosine = "" if other.cosine is None else f"{other.cosine:.6f}"
        rate = items / other.median
        lines.append(
            f"| {other.name} | {rate:,.1f} | {'' if other is ours else faster} | {cosine} | {other.versions} |"
        )
    return "\n".join(lines)


def versions(*packages: str) -> str:
    """Names and versions of what is installed here."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def machine() -> str:
    """Processor, cores, whether it multiplies bf16, Python, and how busy it is at the moment."""
    from bowerbird.models.network.engine import has_native_bf16

    info = _cpuinfo()
    flags = info.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "no wide vectors seen")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    bf16 = "bf16" if has_native_bf16() else "no bf16"
    model = info.get("model name", platform.processor() or platform.machine())
    busy = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{model}, {cores} cores, {vectors}, {bf16}; Python {platform.python_version()}; {busy}"


class Meanwhile:
    """What a machine did beside this process and its children, from when this was made.

    Children count once they have ended: ask when they all have.
    """

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._began, self._all, self._own = time.perf_counter(), _busy(), _own()

    def told(self) -> str:
        """The load before and now, and what others took of the processors; the host's share is with them."""
        seconds = time.perf_counter() - self._began
        others = max(0.0, (_busy() - self._all) - (_own() - self._own)) / seconds
        return (
            f"Load {self._load:.1f} before and {os.getloadavg()[0]:.1f} after {seconds:.0f} s, its own included; "
            f"other work took {others:.2f} of {os.cpu_count()} processors meanwhile"
        )


def _busy() -> float:
    """Seconds in which processors were not idle, all of the machine, or were the host's."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "steal")))


def _own() -> float:
    """Seconds of processors that this process and its ended children took."""
    return sum(os.times()[:4])


def _cpuinfo() -> Mapping[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def report(body: str, *, rounds: int | None = None) -> None:
    """Print what was found, where, and how to find it again."""
    arguments = " ".join(sys.argv[1:])
    module = Path(sys.argv[0]).stem
    print(body)
    print(f"\nMachine: {machine()}.")
    if rounds:
        print(f"Medians of {rounds} rounds in turns, after one that is not counted.")
    print(f"Again: python -m benchmarks.{module} {arguments}".rstrip())
