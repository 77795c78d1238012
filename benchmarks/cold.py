"""Cold start: the wall clock of `bowerbird search "a dress"` as a new process, and of `import bowerbird`."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import photographs
from benchmarks.side_by_side import DATA, report, versions

PICTURES = 2000


def folder() -> Path:
    """The clothing photographs, or varied crops in their place."""
    files = photographs.clothing()
    return files[0].parents[2] if files else photographs.many(PICTURES)[0].parents[1]


def seconds(command: Sequence[str], rounds: int) -> list[float]:
    """Wall clock of each run, after one that is not counted."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return taken[1:]


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=10)
    given = arguments.parse_args()
    index = DATA / "cold.bower"
    bowerbird = [sys.executable, "-c", "from bowerbird.cli import main; main()"]
    if not index.exists():
        subprocess.run([*bowerbird, "index", str(folder()), "--index", str(index)], check=True)
    commands = {
        'bowerbird search "a dress"': [*bowerbird, "search", "a dress", "--index", str(index)],
        "import bowerbird": [sys.executable, "-c", "import bowerbird"],
        "python alone": [sys.executable, "-c", "pass"],
    }
    lines = ["| cold, wall clock of the process | median | least | most |", "|---|---|---|---|"]
    for name, command in commands.items():
        taken = seconds(command, given.rounds)
        lines.append(
            f"| {name} | {statistics.median(taken):.3f} s | {min(taken):.3f} s | {max(taken):.3f} s |"
        )
    made_of = versions("onnxruntime", "openvino", "pylance", "numpy")
    report("\n".join(lines) + f"\n\nFiles in the page cache; {made_of}; {os.cpu_count()} processors.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        # A cache of its own, filled by the run that is not counted.
        os.environ["BOWERBIRD_CACHE_DIR"] = cache
        main()
