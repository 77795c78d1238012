"""How much memory there is, and how much elements hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bowerbird.record import Failure, Record

_EMPTY_RECORD = 1000
"""Bytes that a record takes beside what its parts hold, about."""


def weigh(value: Any) -> int:
    """Bytes that an element or a chunk holds, about; pictures, arrays and texts are what counts."""
    if isinstance(value, Record):
        parts = (
            value.image,
            value.origin and value.origin[0],
            *value.texts,
            *value.attributes.values(),
            *value.vectors.values(),
            *value.facts.values(),
        )
        return _EMPTY_RECORD + sum(map(weigh, parts))
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, (list, tuple)):
        return 64 + sum(map(weigh, value))
    if isinstance(value, Mapping):
        return 64 + sum(map(weigh, value.values()))
    return weigh(value.value) if isinstance(value, Failure) else sys.getsizeof(value, 64)


def available() -> int | None:
    """Bytes this process may still take: of the machine, or of its control group; None where that cannot be told."""
    found = [amount for amount in (_machine(), _control_group()) if amount is not None]
    return min(found) if found else None


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _control_group() -> int | None:
    """What is left of the limit that a container has: control groups, version 2, then 1."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((Path(folder) / limit).read_text("ascii"))
            # Pages of files count as used, and are given up when they are needed.
            files = dict(
                line.split() for line in (Path(folder) / "memory.stat").read_text("ascii").splitlines()
            )
            held = int((Path(folder) / used).read_text("ascii")) - int(files.get("inactive_file", 0))
        except (OSError, ValueError):  # no limit is written as "max"
            continue
        return max(0, most - held)
    return None
