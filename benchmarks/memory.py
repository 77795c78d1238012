"""Memory while indexing: resident size of `bowerbird index` over 20,000 pictures, sampled every 50 ms."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil

from benchmarks import photographs
from benchmarks.side_by_side import DATA, report

INTERVAL = 0.05
PARTS = 10


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=20_000)
    given = arguments.parse_args()
    folder = photographs.many(given.count)[0].parents[1]
    index = DATA / "memory.bower"
    shutil.rmtree(index, ignore_errors=True)
    command = [sys.executable, "-c", "from bowerbird.cli import main; main()"]
    started = time.perf_counter()
    child = subprocess.Popen([*command, "index", str(folder), "--index", str(index)])
    process = psutil.Process(child.pid)
    samples = []
    while child.poll() is None:
        try:
            samples.append(process.memory_info().rss / 2**20)
        except psutil.Error:
            break
        time.sleep(INTERVAL)
    if child.wait():
        raise SystemExit(f"bowerbird index ended with code {child.returncode}.")
    seconds = time.perf_counter() - started
    # Parts of the run by time; within a run files are taken at a steady rate.
    peaks = [float(part.max()) for part in np.array_split(np.array(samples), PARTS)]
    body = [
        f"| indexing {given.count:,} pictures | |",
        "|---|---|",
        f"| peak resident size | {max(samples):,.0f} MiB |",
        f"| peak in each tenth of the run, MiB | {', '.join(f'{peak:.0f}' for peak in peaks)} |",
        f"| last tenth against the middle | {peaks[-1] / peaks[PARTS // 2]:.2f}x |",
        f"| rate | {given.count / seconds:.0f} pictures a second |",
    ]
    report("\n".join(body))


if __name__ == "__main__":
    main()
