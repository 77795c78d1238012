"""Every number, one after the other: `python -m benchmarks`."""

from __future__ import annotations

import subprocess
import sys

ALL = ("text", "pictures", "search", "cold", "memory", "flow", "parity", "mixed", "fit", "serve")

failed = [
    name
    for name in ALL
    if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
]
if failed:
    raise SystemExit(f"Failed: {', '.join(failed)}.")
